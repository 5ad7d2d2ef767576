//! Test vectors of the RFCs, and keys in every format in which they are issued.

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, ED25519,
    EcdsaKeyPair, Ed25519KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use data_encoding::HEXLOWER;
use data_encoding::{BASE64, BASE64URL_NOPAD};

use super::*;
use crate::capability::Value;
use crate::capability::encoding::Encoding;
use crate::capability::testing::Fixture;

/// RFC 7515 A.2.
const RSA_JWK: &str = r#"{"kty":"RSA",
 "n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
 "e":"AQAB",
 "d":"Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ",
 "p":"4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
 "q":"uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
 "dp":"BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0",
 "dq":"h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU",
 "qi":"IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U"}"#;

/// RFC 7515 A.3.
const EC_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;

/// RFC 8037 A.1.
const ED_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// The payload of RFC 7515 A.1 to A.3.
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn base64url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

fn code(failure: &Failure) -> &str {
    failure.code().unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[test]
fn macs_and_deterministic_signatures_are_those_of_the_rfcs() {
    let hs_key = BASE64URL_NOPAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow".as_bytes())
        .unwrap();
    for (key, algorithm, message, expected) in [
        (
            hs_key.as_slice(),
            "HS256",
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}"),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            RSA_JWK.as_bytes(),
            "RS256",
            format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            ED_JWK.as_bytes(),
            "EdDSA",
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ] {
        let signed = sign(key, algorithm, message.as_bytes()).unwrap();
        assert_eq!(base64url(&signed), expected, "{algorithm}");
    }
    // RFC 4231 §4.3 and RFC 2202 §3, case 2.
    for (algorithm, expected) in [
        (
            "HS256",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "HS384",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            "HS512",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        ("HMAC-SHA1", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ] {
        let message = b"what do ya want for nothing?";
        assert_eq!(
            HEXLOWER.encode(&sign(b"Jefe", algorithm, message).unwrap()),
            expected
        );
    }
}

#[test]
fn every_signature_verifies_under_the_public_key_and_has_joses_form() {
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = p384.private_key().as_der().unwrap();
    let p384 = pem("EC PRIVATE KEY", der.as_ref());
    let verifiers: [(&str, &str, &'static dyn VerificationAlgorithm, usize); 9] = [
        (RSA_JWK, "RS256", &RSA_PKCS1_2048_8192_SHA256, 256),
        (RSA_JWK, "RS384", &RSA_PKCS1_2048_8192_SHA384, 256),
        (RSA_JWK, "RS512", &RSA_PKCS1_2048_8192_SHA512, 256),
        (RSA_JWK, "PS256", &RSA_PSS_2048_8192_SHA256, 256),
        (RSA_JWK, "PS384", &RSA_PSS_2048_8192_SHA384, 256),
        (RSA_JWK, "PS512", &RSA_PSS_2048_8192_SHA512, 256),
        (EC_JWK, "ES256", &ECDSA_P256_SHA256_FIXED, 64),
        (&p384, "ES384", &ECDSA_P384_SHA384_FIXED, 96),
        (ED_JWK, "EdDSA", &ED25519, 64),
    ];
    for (key, algorithm, verifier, len) in verifiers {
        let signed = sign(key.as_bytes(), algorithm, b"message").unwrap();
        assert_eq!(signed.len(), len, "{algorithm}");
        let spki = public_key(key.as_bytes()).unwrap().spki;
        let public = ParsedPublicKey::new(verifier, &spki).unwrap();
        public.verify_sig(b"message", &signed).unwrap();
        assert!(public.verify_sig(b"massage", &signed).is_err());
    }
    // RFC 7515 A.3's own signature verifies with the parsed key.
    let signed = BASE64URL_NOPAD
        .decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q".as_bytes())
        .unwrap();
    let spki = public_key(EC_JWK.as_bytes()).unwrap().spki;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &spki)
        .unwrap()
        .verify_sig(
            format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}").as_bytes(),
            &signed,
        )
        .unwrap();
}

#[test]
fn a_public_keys_jwk_hashes_to_the_thumbprint() {
    // RFC 7638 §3.1 and RFC 8037 A.3.
    let rfc7638 = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
    for (key, thumbprint) in [
        (rfc7638, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        (ED_JWK, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
    ] {
        let jwk = public_key(key.as_bytes()).unwrap().jwk;
        assert_eq!(base64url(&sha256(jwk.as_bytes())), thumbprint, "{jwk}");
    }
    assert_eq!(
        public_key(EC_JWK.as_bytes()).unwrap().jwk,
        r#"{"crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#
    );
}

#[test]
fn one_key_is_the_same_in_every_form() {
    let PrivateKey::Rsa(rsa) = PrivateKey::parse(RSA_JWK.as_bytes()).unwrap() else {
        panic!("no RSA key");
    };
    let pkcs8: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    // The PKCS #1 key is preceded by 26 bytes of its PKCS #8 header.
    let pkcs1 = &pkcs8.as_ref()[26..];
    let PrivateKey::Ec(Curve::P256, ec) = PrivateKey::parse(EC_JWK.as_bytes()).unwrap() else {
        panic!("no P-256 key");
    };
    let sec1: EcPrivateKeyRfc5915Der<'_> = ec.private_key().as_der().unwrap();
    let ed = Ed25519KeyPair::from_seed_unchecked(
        &BASE64URL_NOPAD
            .decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A".as_bytes())
            .unwrap(),
    )
    .unwrap();
    let spki = |key: &str| public_key(key.as_bytes()).unwrap().spki;
    for (jwk, forms) in [
        (
            RSA_JWK,
            vec![
                pem("PRIVATE KEY", pkcs8.as_ref()),
                pem("RSA PRIVATE KEY", pkcs1),
                pem("PUBLIC KEY", &spki(RSA_JWK)),
            ],
        ),
        (
            EC_JWK,
            vec![
                pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref()),
                pem("EC PRIVATE KEY", sec1.as_ref()),
                pem("PUBLIC KEY", &spki(EC_JWK)),
                public_key(EC_JWK.as_bytes()).unwrap().jwk,
            ],
        ),
        (
            ED_JWK,
            vec![
                pem("PRIVATE KEY", ed.to_pkcs8v1().unwrap().as_ref()),
                pem("PUBLIC KEY", &spki(ED_JWK)),
            ],
        ),
    ] {
        let expected = public_key(jwk.as_bytes()).unwrap();
        for form in forms {
            assert_eq!(public_key(form.as_bytes()).unwrap(), expected, "{form}");
            let signs = ["RS256", "ES256", "EdDSA"]
                .iter()
                .any(|algorithm| sign(form.as_bytes(), algorithm, b"m").is_ok());
            assert_eq!(signs, form.contains("PRIVATE"), "{form}");
        }
    }
}

#[test]
fn a_certificate_in_the_same_pem_is_given_out_if_it_is_the_keys() {
    let issue = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["client.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap(), key)
    };
    let (certificate, key) = issue();
    let (other, _) = issue();
    let both = format!("{}{}", key.serialize_pem(), certificate.pem());
    let public = public_key(both.as_bytes()).unwrap();
    assert_eq!(public.certificates, [certificate.der().to_vec()]);
    let chain = format!("{both}{}", other.pem());
    assert_eq!(
        public_key(chain.as_bytes()).unwrap().certificates,
        [certificate.der().to_vec(), other.der().to_vec()]
    );
    let no_certificate = format!("{both}{}", pem("CERTIFICATE", b"hunter22"));
    let failure = public_key(no_certificate.as_bytes()).unwrap_err();
    assert!(
        failure.message.contains("certificate is damaged"),
        "{failure}"
    );
    let joined = format!(
        "{}{}{}",
        key.serialize_pem().trim_end(),
        certificate.pem().trim_end(),
        other.pem()
    );
    assert_eq!(
        public_key(joined.as_bytes()).unwrap().certificates,
        [certificate.der().to_vec(), other.der().to_vec()],
        "files joined without a line end between them"
    );
    let alone = public_key(certificate.pem().as_bytes()).unwrap();
    assert_eq!((alone.jwk, alone.spki), (public.jwk, public.spki));

    let mixed = format!("{}{}", key.serialize_pem(), other.pem());
    let failure = public_key(mixed.as_bytes()).unwrap_err();
    assert!(
        failure
            .message
            .contains("first certificate in the PEM is not the key's"),
        "{failure}"
    );
}

#[test]
fn what_is_no_usable_key_says_what_is_wrong_and_never_shows_it() {
    let p256_public = public_key(EC_JWK.as_bytes()).unwrap().jwk;
    let without_primes = RSA_JWK.replace("\"p\"", "\"unknown\"");
    let inconsistent = EC_JWK.replace("jpsQ", "jpsR");
    let damaged = pem("PRIVATE KEY", b"not der at all");
    let second_damaged =
        format!("{damaged}-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----");
    let public_only = pem("PUBLIC KEY", b"not der at all");
    for (key, algorithm, part) in [
        ("hunter22", "RS256", "neither PEM nor JWK"),
        ("{\"hunter22\": 1}", "RS256", "neither PEM nor JWK"),
        (
            "-----BEGIN PRIVATE KEY-----\nhunter22",
            "RS256",
            "block 1 (PRIVATE KEY, line 1) is damaged: its END line is missing",
        ),
        (
            &damaged,
            "RS256",
            "block 1 (PRIVATE KEY, line 1): it is damaged or of a kind that is not supported",
        ),
        (
            &second_damaged,
            "RS256",
            "block 2 (CERTIFICATE, line 4) is damaged: what stands in it is not base64",
        ),
        (
            &public_only,
            "ES256",
            "the PEM holds no private key (PKCS #8, PKCS #1 or SEC 1, not encrypted); it holds block 1 (PUBLIC KEY, line 1)",
        ),
        (
            EC_JWK,
            "RS256",
            "RS256 needs an RSA key, and the key is an EC P-256 key",
        ),
        (EC_JWK, "ES384", "ES384 needs an EC P-384 key"),
        (
            RSA_JWK,
            "EdDSA",
            "EdDSA needs an Ed25519 key, and the key is an RSA key",
        ),
        (&p256_public, "ES256", "no usable member `d`"),
        (&without_primes, "RS256", "no usable member `p`"),
        (&inconsistent, "ES256", "members are no valid key"),
        (
            r#"{"kty":"EC","crv":"P-521","d":"AA"}"#,
            "ES256",
            "no usable member `crv`",
        ),
        (
            r#"{"kty":"oct","k":"AA"}"#,
            "ES256",
            "no usable member `kty`",
        ),
    ] {
        let failure = sign(key.as_bytes(), algorithm, b"m").unwrap_err();
        assert_eq!(
            (code(&failure), failure.kind),
            ("crypto.key", FailureKind::InvalidConfig)
        );
        assert!(failure.message.contains(part), "{part}: {failure}");
        assert!(!failure.message.contains("hunter22"), "{failure}");
    }
    let p256_pem = pem("PUBLIC KEY", &public_key(EC_JWK.as_bytes()).unwrap().spki);
    let failure = sign(p256_pem.as_bytes(), "ES256", b"m").unwrap_err();
    assert!(
        failure.message.contains("holds no private key"),
        "{failure}"
    );
    for outcome in [
        sign(b"k", "RS255", b"m"),
        sign(RSA_JWK.as_bytes(), "RSA-SHA1", b"m"),
        sign(b"k", "none", b"m"),
        digest("SHA-3", b"m"),
    ] {
        let failure = outcome.unwrap_err();
        assert_eq!(code(&failure), "crypto.algorithm");
        assert!(failure.message.contains("; there are "), "{failure}");
    }
}

#[test]
fn digests_of_abc_are_the_published_ones() {
    for (algorithm, expected) in [
        ("MD5", "900150983cd24fb0d6963f7d28e17f72"),
        ("SHA-1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            "SHA-256",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            "SHA-384",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            "SHA-512",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ] {
        assert_eq!(
            HEXLOWER.encode(&digest(algorithm, b"abc").unwrap()),
            expected
        );
    }
}

#[test]
fn random_bytes_are_bounded_and_differ() {
    assert!(random_bytes(0).unwrap().is_empty());
    assert_eq!(random_bytes(u32::MAX).unwrap().len(), 1024);
    assert_ne!(random_bytes(32).unwrap(), random_bytes(32).unwrap());
}

/// The worked example of AWS's documentation of Signature Version 4.
#[tokio::test]
async fn a_chain_of_macs_derives_a_key_that_stays_a_secret() {
    let mut fixture = Fixture::new();
    fixture.secret("key", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let call = fixture.call();
    let secret = call.open("key").await.unwrap();
    let mut key = call
        .join(&[
            crate::capability::Piece::Text("AWS4".to_owned()),
            crate::capability::Piece::Secret(secret, Encoding::Raw),
        ])
        .unwrap();
    for part in ["20150830", "us-east-1", "iam", "aws4_request"] {
        key = call
            .sign(&key, "HS256", Value::Text(part.to_owned()))
            .unwrap();
    }
    assert_eq!(
        HEXLOWER.encode(key.expose()),
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    );
    assert_eq!(code(&call.reveal(&key).unwrap_err()), "secret.not-revealed");
    let message = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\nf536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
    let signed = call
        .sign(&key, "HS256", Value::Text(message.to_owned()))
        .unwrap();
    assert_eq!(
        HEXLOWER.encode(signed.expose()),
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    );
}

#[tokio::test]
async fn a_rotating_secret_is_no_key() {
    let mut fixture = Fixture::new();
    fixture.secret("rt", "refresh-token").rotating = true;
    let call = fixture.call();
    let secret = call.open("rt").await.unwrap();
    let message = Value::Text("m".to_owned());
    let digest = call
        .digest("SHA-256", Value::Secret(secret.clone()))
        .unwrap();
    for key in [&secret, &digest] {
        let failure = call.sign(key, "HS256", message.clone()).unwrap_err();
        assert_eq!(code(&failure), "secret.rotating-key");
    }
    // As a message it is allowed: PKCE and DPoP hash what they send.
    call.digest("SHA-256", Value::Secret(secret)).unwrap();
}
