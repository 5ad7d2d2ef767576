//! The identity of a source as a digest that is stable across processes and decides whether a stored token belongs to this job.
//! It is computed from the configuration as the user wrote it, so that another release of evertoken or of a library does not
//! invalidate stored tokens.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::model::defaults::SERVICE_ACCOUNT_LIFETIME;
use crate::model::{Job, SecretOrigin, Source};

/// The prefix of the hashed text. Changing it invalidates every stored token.
const VERSION: &str = "evertoken source 1\n";

/// Digest of the plugin's name, its options, and the places of the source's secrets, as canonical JSON. Without the plugin's own
/// digest, since a new version of a plugin must not cause ten thousand requests at once, and without any secret's value.
#[must_use]
pub(crate) fn source_hash(job: &Job) -> [u8; 32] {
    let mut written = as_written(&job.source);
    written.sort_all_objects();
    let hash = Sha256::new_with_prefix(VERSION);
    hash.chain_update(written.to_string()).finalize().into()
}

/// The keys of a source as in the configuration, without those that have their default. Named each, so that a new one cannot be
/// forgotten: it belongs to the identity of the token if another value of it means another token.
fn as_written(source: &Source) -> Value {
    let Source {
        plugin,
        config,
        secrets,
        // How the token is obtained, not which.
        allow: _,
        allow_addresses: _,
        reveal: _,
        tls: _,
        proxy: _,
        timeout: _,
    } = source;
    let secrets: Map<_, _> = secrets
        .iter()
        .map(|(name, secret)| (name.clone(), place(&secret.origin)))
        .collect();
    without_absent(json!({
        "plugin": plugin,
        "config": Some(config).filter(|config| **config != json!({})),
        "secrets": Some(secrets).filter(|secrets| !secrets.is_empty()),
    }))
}

/// The place of a secret as in the configuration.
pub(super) fn place(origin: &SecretOrigin) -> Value {
    match origin {
        SecretOrigin::File(path) => json!({"file": path.to_string_lossy()}),
        SecretOrigin::FileMember { path, pointer } => {
            json!({"file": path.to_string_lossy(), "pointer": pointer})
        }
        SecretOrigin::Env(name) => json!({"env": name}),
        // The value is left out: a short one could be guessed from a digest.
        SecretOrigin::Value(_) => json!("value"),
        SecretOrigin::KubernetesSecret {
            namespace,
            name,
            key,
            pointer,
        } => json!({"secret": without_absent(json!({
            "namespace": namespace,
            "name": name,
            "key": key,
            "pointer": pointer,
        }))}),
        SecretOrigin::ServiceAccount {
            namespace,
            name,
            audiences,
            lifetime,
        } => json!({"service_account": without_absent(json!({
            "namespace": namespace,
            "name": name,
            "audiences": Some(audiences).filter(|audiences| !audiences.is_empty()),
            "lifetime": Some(lifetime)
                .filter(|lifetime| **lifetime != SERVICE_ACCOUNT_LIFETIME)
                .map(|lifetime| format!("{}ms", lifetime.as_millis())),
        }))}),
        SecretOrigin::Job(name) => json!({"job": name}),
    }
}

fn without_absent(mut object: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    object
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn hash_of(source: &str) -> String {
        let yaml = format!(
            "state: {{dir: /state}}
plugins: {{x: {{path: /x, sha256: \"{digest}\"}}, y: {{path: /y, sha256: \"{digest}\"}}}}
jobs:
- {{name: other, source: {{plugin: dummy}}, outputs: [{{file: {{path: /other}}}}]}}
- {{name: a, source: {source}, outputs: [{{file: {{path: /out}}}}]}}
",
            digest = "0".repeat(64)
        );
        let loaded = crate::config::parse(&yaml, "a.yaml", Path::new("/etc"))
            .unwrap_or_else(|refused| panic!("{source}: {refused:?}"));
        let job = loaded.config.jobs.iter().find(|job| job.id.name == "a");
        data_encoding::HEXLOWER.encode(&source_hash(job.unwrap()))
    }

    #[test]
    fn the_digest_of_a_source_is_the_same_in_every_release() {
        let every_kind = "{plugin: x, config: {url: 'https://ü', deep: {b: [1, -2, 0.1, 1.0e300, true, null], a: \"\\u0001\\\"\"}}, secrets: {
            a: {file: /a}, b: {file: b.json, pointer: /x}, c: {env: C}, d: {value: hidden},
            e: {secret: {namespace: n, name: e, key: k}}, f: {secret: {namespace: n, name: e, key: k, pointer: /x}},
            g: {service_account: {namespace: n, name: g, audiences: [x, y], lifetime: 20m}}, h: {job: other}}}";
        for (source, digest) in [
            (
                "{plugin: dummy}",
                "b99a80ec0f7f417548869f2488938223e06e725d213a233be5ad9926d00eb58a",
            ),
            (
                every_kind,
                "cd47a04ee7de9b869a85580ba2f9a50fa70a21c8073a04f0ad8bbeda8bf3af73",
            ),
        ] {
            assert_eq!(hash_of(source), digest, "{source}");
        }
    }

    #[test]
    fn what_means_the_same_is_the_same_source_and_what_means_another_is_another() {
        let account = |more: &str| {
            format!(
                "{{plugin: dummy, secrets: {{s: {{service_account: {{namespace: n, name: a{more}}}}}}}}}"
            )
        };
        let secret = |place: &str| format!("{{plugin: dummy, secrets: {{s: {{{place}}}}}}}");
        for (a, b, is_same) in [
            (
                "{plugin: x, config: {a: 1, b: {c: 2, d: 3}}}",
                "{config: {b: {d: 3, c: 2}, a: 1}, plugin: x}",
                true,
            ),
            ("{plugin: x}", "{plugin: x, config: {}}", true),
            ("{plugin: x}", "{plugin: x, config: {a: null}}", false),
            ("{plugin: x}", "{plugin: x, secrets: {}}", true),
            ("{plugin: x}", "{plugin: x, timeout: 5s}", true),
            ("{plugin: x}", "{plugin: y}", false),
            (
                "{plugin: x, config: {a: '1'}}",
                "{plugin: x, config: {a: 1}}",
                false,
            ),
            (
                &account(""),
                &account(", lifetime: 60m, audiences: []"),
                true,
            ),
            (
                &account(", lifetime: 90m"),
                &account(", lifetime: 1h30m"),
                true,
            ),
            (&account(""), &account(", lifetime: 2h"), false),
            (&account(""), &account(", audiences: [x]"), false),
            (&secret("file: s"), &secret("file: /etc/s"), true),
            (&secret("file: s"), &secret("file: s, pointer: /x"), false),
            (&secret("file: s"), &secret("env: s"), false),
            (&secret("value: s"), &secret("value: t"), true),
            (&secret("env: s"), &secret("env: s, rotating: true"), true),
            (
                &secret("env: s"),
                "{plugin: dummy, secrets: {t: {env: s}}}",
                false,
            ),
        ] {
            assert_eq!(hash_of(a) == hash_of(b), is_same, "{a} and {b}");
        }
    }
}
