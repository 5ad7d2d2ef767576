//! Names in messages: the known name that a mistyped one was meant for, whether a name's value may be a secret, and the first of many.

use std::collections::BTreeSet;

use crate::text::has_userinfo;

/// The first names of a set in order, at most so many, and the number of the others.
pub(crate) fn first(names: &BTreeSet<String>, most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let more = (more > 0).then(|| format!("{more} more"));
    let shown = names.iter().take(most).map(String::as_str);
    let shown: Vec<&str> = shown.chain(more.as_deref()).collect();
    shown.join(", ")
}

/// How similar a typo must be to the known word: one edit in three letters.
const LETTERS_PER_EDIT: usize = 3;

/// Longer words are not compared, since that takes time and memory.
const MAX_LETTERS: usize = 100;

/// Words in the names of secrets: `access_token`, `SecretAccessKey`, `client-assertion`.
const TELLING: [&str; 11] = [
    "accesskey",
    "assertion",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private",
    "secret",
    "token",
];

/// A word that only counts at the end of a name; elsewhere it is harmless (`key_id`).
const TELLING_END: &str = "key";

/// Words in the names of a secret's metadata: its place, lifetime or kind.
const HARMLESS: [&str; 8] = [
    "endpoint",
    "expiration",
    "expire",
    "field",
    "file",
    "type",
    "uri",
    "url",
];

/// The begin of a key in PEM (RFC 7468).
const PEM: &str = "-----BEGIN ";

/// The known word that was probably meant.
pub(crate) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > MAX_LETTERS {
        return None;
    }
    let word = word.to_lowercase();
    let letters = word.chars().count();
    let most_edits = letters.max(LETTERS_PER_EDIT) / LETTERS_PER_EDIT;
    known
        .map(|known| {
            let edits = strsim::damerau_levenshtein(&word, &known.to_lowercase());
            (edits, known)
        })
        // Where every letter differs, nothing was mistyped.
        .filter(|(edits, known)| {
            *edits <= most_edits && *edits < letters.max(known.chars().count())
        })
        .min()
        .map(|(_, known)| known)
}

/// Whether the value of a field of this name may be a secret.
pub(crate) fn is_telling(name: &str) -> bool {
    let words = words(name);
    let whole = words.concat();
    let is_harmless = |word: &String| HARMLESS.contains(&word.trim_end_matches('s'));
    (whole.ends_with(TELLING_END) || TELLING.iter().any(|word| whole.contains(word)))
        && !words.iter().any(is_harmless)
}

/// Whether a text tells by itself that it holds a secret: `client_secret=…`, `password: …`, a URL with a password, a private key,
/// a JWT.
pub(crate) fn holds_secret(text: &str) -> bool {
    let is_telling_before = |(at, _): (usize, &str)| {
        let (before, rest) = text.split_at(at);
        let before = before.trim_end().trim_end_matches(['"', '\'']);
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let name = before.rsplit(|c| !is_of_name(c)).next();
        !rest.get(1..).unwrap_or_default().trim_start().is_empty() && name.is_some_and(is_telling)
    };
    has_userinfo(text)
        || text.contains(PEM)
        || text.split_whitespace().any(looks_like_jwt)
        || text.match_indices(['=', ':']).any(is_telling_before)
}

/// A JSON object in base64url starts with `eyJ`, and a JWS has three parts (RFC 7515 §7.1), a JWE five.
pub(crate) fn looks_like_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() >= 3
}

/// The words of `token_url`, `token-url`, `tokenUrl` and `TokenURL`, in lower case. Words that are not separated count as one: in
/// `securitytoken`, `uri` means nothing.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut follows_small = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || (follows_small && letter.is_uppercase()) {
            words.push(String::new());
        }
        follows_small = letter.is_lowercase();
        if let Some(word) = words.last_mut()
            && letter.is_alphanumeric()
        {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_shown() {
        for (names, expected) in [
            (&["a"][..], "a"),
            (&["b", "a"], "a, b"),
            (&["c", "b", "a", "d"], "a, b, 2 more"),
        ] {
            let names = names.iter().map(ToString::to_string).collect();
            assert_eq!(first(&names, 2), expected);
        }
    }

    #[test]
    fn the_word_that_was_meant_is_a_slip_away() {
        let known = ["jobs", "outputs", "token_url", "KTR_LOG_LEVEL", "a"];
        for (word, meant) in [
            ("jobs", Some("jobs")),
            ("job", Some("jobs")),
            ("JOBS", Some("jobs")),
            ("ojbs", Some("jobs")),
            ("jo", None),
            ("ouptuts", Some("outputs")),
            ("token_ulr", Some("token_url")),
            ("tokenurl", Some("token_url")),
            ("KTR_LOGLEVEL", Some("KTR_LOG_LEVEL")),
            ("else", None),
            ("", None),
            ("1", None),
            (&"x".repeat(101), None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), meant, "{word}");
        }
    }

    #[test]
    fn a_name_tells_of_a_secret_but_not_where_it_only_belongs_to_one() {
        for name in [
            "token",
            "access_token",
            "accessToken",
            "tokens",
            "token_value",
            "x-subject-token",
            "security_token",
            "SecurityToken",
            "securitytoken",
            "profile_token",
            "SecretAccessKey",
            "AccessKeyId",
            "client_secret",
            "api-key",
            "apikey",
            "passphrase",
            "Authorization",
            "private_key_jwt",
            "client_assertion",
            "Set-Cookie",
        ] {
            assert!(is_telling(name), "{name}");
        }
        for name in [
            "token_url",
            "tokenURLs",
            "tokenUrl",
            "token_endpoint_auth_methods_supported",
            "authorization_endpoint",
            "token_type",
            "client_assertion_type",
            "access_token_expires_in",
            "key_file",
            "private_key_file",
            "token_field",
            "key_id",
            "scope",
            "",
        ] {
            assert!(!is_telling(name), "{name}");
        }
    }

    #[test]
    fn a_text_tells_of_a_secret_by_a_name_before_a_sign() {
        for text in [
            "client_secret=hunter2",
            "a=b&client_secret=hunter2",
            "https://idp.test/token?client_secret=hunter2",
            "https://user:hunter2@idp.test",
            "password: hunter2",
            "password : hunter2",
            "{\"password\":\"hunter2\"}",
            "Authorization: Bearer hunter2",
            "export CLIENT_SECRET=hunter2",
            "-----BEGIN PRIVATE KEY----- hunter2",
            "Bearer eyJhbGciOiJub25lIn0.e30.hunter2",
        ] {
            assert!(holds_secret(text), "{text}");
        }
        for text in [
            "client_secret",
            "client_secret=",
            "a=b",
            "https://idp.test/token?a=b",
            "token.idp.test:8080",
            "token_url=https://idp.test",
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "",
        ] {
            assert!(!holds_secret(text), "{text}");
        }
    }
}
