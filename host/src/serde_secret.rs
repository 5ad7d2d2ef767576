//! Serialization of secrets in records, for serde's `with`.

/// Secret bytes.
pub(crate) mod bytes {
    use secrecy::{ExposeSecret, SecretSlice};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        secret: &SecretSlice<u8>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(secret.expose_secret())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SecretSlice<u8>, D::Error> {
        Vec::deserialize(from).map(SecretSlice::from)
    }
}

/// Secret text.
pub(crate) mod text {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        secret: &SecretString,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose_secret())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SecretString, D::Error> {
        String::deserialize(from).map(SecretString::from)
    }
}

/// JSON, as text: the record format has no values of arbitrary type.
pub(crate) mod json {
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use serde_json::Value;

    pub(crate) fn serialize<S: Serializer>(value: &Value, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        let text = String::deserialize(from)?;
        // The message of a JSON error can quote the text.
        serde_json::from_str(&text).map_err(|_| de::Error::custom("malformed JSON"))
    }
}
