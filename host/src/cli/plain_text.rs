//! Warnings about secrets that are sent over the network unencrypted: `http://` to another machine. For a trusted network (a
//! service mesh, a cable), the configuration says so by naming that origin in the secret's `to`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::Job;
use crate::model::Origin;
use crate::names;
use crate::plugin::Plugins;

/// The most names in one warning.
const NAMES: usize = 5;

/// A warning for each such origin. A plugin that cannot be loaded is reported elsewhere.
pub(super) async fn warnings(jobs: &[Arc<Job>], plugins: &Plugins) -> Vec<String> {
    let mut readable: BTreeMap<Origin, BTreeSet<String>> = BTreeMap::new();
    for job in jobs {
        let source = &job.source;
        let endpoints = plugins.endpoints(&source.plugin, &source.config).await;
        for (origin, secret) in sent_readably(job, &endpoints.unwrap_or_default()) {
            let who = format!("`{secret}` of job `{}`", job.id);
            readable.entry(origin).or_default().insert(who);
        }
    }
    readable
        .iter()
        .map(|(origin, secrets)| warning(origin, secrets))
        .collect()
}

/// The job's secrets that a request to one of its endpoints may carry unencrypted, except those whose `to` names it.
fn sent_readably<'j>(
    job: &'j Job,
    endpoints: &'j [Origin],
) -> impl Iterator<Item = (Origin, &'j str)> {
    let to_others = |origin: &&Origin| origin.scheme() == "http" && !origin.is_this_machine();
    endpoints.iter().filter(to_others).flat_map(|origin| {
        let secrets = job.source.secrets.iter();
        secrets
            .filter(|(_, secret)| secret.to.is_none())
            .map(move |(name, _)| (origin.clone(), name.as_str()))
    })
}

fn warning(origin: &Origin, secrets: &BTreeSet<String>) -> String {
    format!(
        "{origin} is asked without TLS, so anybody on the way can read what is sent: {}; write https://, or, where the network itself is trusted, say so with `to: [\"{origin}\"]` in the secret",
        names::first(secrets, NAMES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RetryUnanswered, Secret, SecretOrigin};
    use crate::runner::tests::world::job;

    #[test]
    fn a_secret_that_goes_to_another_machine_in_plain_text_is_told_unless_that_is_meant() {
        let origin = |text: &str| Origin::parse(text).unwrap();
        for (endpoint, to, expected) in [
            ("http://idp.example.org", None, true),
            ("http://keycloak.keycloak.svc:8080", None, true),
            ("http://10.0.0.1", None, true),
            ("http://localhost.example.org", None, true),
            ("https://idp.example.org", None, false),
            ("http://localhost:8080", None, false),
            ("http://idp.localhost", None, false),
            ("http://127.1.2.3", None, false),
            ("http://[::1]:80", None, false),
            ("http://[::ffff:7f00:1]", None, true),
            (
                "http://idp.example.org",
                Some("http://idp.example.org"),
                false,
            ),
            (
                "http://idp.example.org",
                Some("https://api.example.org"),
                false,
            ),
        ] {
            let mut job = job("a");
            let secret = Secret {
                origin: SecretOrigin::Env("S".to_owned()),
                rotating: false,
                retry_unanswered: RetryUnanswered::default(),
                write_back: false,
                to: to.map(|to| vec![origin(to)].into_iter().collect()),
            };
            let endpoints = [origin(endpoint)];
            assert_eq!(sent_readably(&job, &endpoints).count(), 0, "no secret");
            job.source
                .secrets
                .insert("client_secret".to_owned(), secret);
            let found = sent_readably(&job, &endpoints).count();
            assert_eq!(found, usize::from(expected), "{endpoint} {to:?}");
        }
    }

    #[test]
    fn one_warning_an_origin_names_some_of_its_secrets() {
        let secrets: BTreeSet<String> = (0..7).map(|n| format!("`s` of job `j{n}`")).collect();
        let said = warning(&Origin::parse("http://idp:8080").unwrap(), &secrets);
        assert!(
            said.starts_with("http://idp:8080 is asked without TLS"),
            "{said}"
        );
        assert!(said.contains("`s` of job `j4`, 2 more;"), "{said}");
        assert!(said.contains(r#"`to: ["http://idp:8080"]`"#), "{said}");
    }
}
