//! Names of an output inside a Secret: the field manager and the annotation of the expiry. Both are derived from the job's
//! identity alone and stable between versions: under another name the output would lose the ownership of its keys.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::model::JobId;

/// The API server's limit for a field manager.
const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// The API server's limit for the part of an annotation's key after the slash.
const ANNOTATION_NAME_MAX_BYTES: usize = 63;

/// Hexadecimal digits of the hash that replaces what was cut: 64 bits distinguish a few thousand jobs.
const HASH_DIGITS: usize = 16;

/// The field manager of a job's n-th output; the first has no number.
pub(super) fn field_manager(job: &JobId, output_index: usize) -> String {
    let suffix = match output_index {
        0 => String::new(),
        n => format!("/{n}"),
    };
    let room = FIELD_MANAGER_MAX_BYTES - "evertoken/".len() - suffix.len();
    let job = job.to_string();
    let printable = |c: char| !c.is_control();
    let name = if job.len() <= room && job.chars().all(printable) {
        job
    } else {
        shortened(&job, room, printable)
    };
    format!("evertoken/{name}{suffix}")
}

/// The annotation with the expiry of a job's token.
pub(super) fn expiry_annotation(job: &JobId) -> String {
    let job = job.to_string();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_well = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let fits =
        job.len() <= ANNOTATION_NAME_MAX_BYTES && job.chars().all(allowed) && ends_well(&job);
    let name = if fits {
        job
    } else {
        let short = shortened(&job, ANNOTATION_NAME_MAX_BYTES, allowed);
        short
            .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
            .to_owned()
    };
    format!("expires-at.evertoken.dev/{name}")
}

/// The allowed characters of `text` as far as they fit, and a hash of all of it.
fn shortened(text: &str, room: usize, allowed: impl Fn(char) -> bool) -> String {
    let digest = HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
    let hash: String = digest.chars().take(HASH_DIGITS).collect();
    let mut short = String::new();
    for c in text.chars() {
        let c = if allowed(c) { c } else { '-' };
        if short.len() + c.len_utf8() > room - HASH_DIGITS - 1 {
            break;
        }
        short.push(c);
    }
    format!("{short}-{hash}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_the_jobs_where_they_fit() {
        for (job, index, manager, annotation) in [
            (
                JobId::file("warehouse"),
                0,
                "evertoken/warehouse",
                "warehouse",
            ),
            (
                JobId::file("warehouse"),
                2,
                "evertoken/warehouse/2",
                "warehouse",
            ),
            (
                JobId {
                    namespace: Some("apps".into()),
                    ..JobId::file("db")
                },
                0,
                "evertoken/apps/db",
                "apps-db-55a3067cf915a03b",
            ),
            (
                JobId::file("a b"),
                0,
                "evertoken/a b",
                "a-b-c8687a08aa5d6ed2",
            ),
        ] {
            assert_eq!(field_manager(&job, index), manager);
            assert_eq!(
                expiry_annotation(&job),
                format!("expires-at.evertoken.dev/{annotation}")
            );
        }
    }

    proptest! {
        #[test]
        fn the_api_server_takes_every_name_and_different_jobs_have_different_ones(one in ".{1,200}", other in ".{1,200}", index in 0usize..100) {
            for name in [&one, &other] {
                let manager = field_manager(&JobId::file(name), index);
                prop_assert!(manager.len() <= FIELD_MANAGER_MAX_BYTES && !manager.chars().any(char::is_control));
                let annotation = expiry_annotation(&JobId::file(name));
                let part = annotation.strip_prefix("expires-at.evertoken.dev/").unwrap();
                prop_assert!((1..=ANNOTATION_NAME_MAX_BYTES).contains(&part.len()));
                prop_assert!(part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
                prop_assert!(part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.ends_with(|c: char| c.is_ascii_alphanumeric()));
            }
            if one != other {
                prop_assert_ne!(field_manager(&JobId::file(&one), index), field_manager(&JobId::file(&other), index));
                prop_assert_ne!(expiry_annotation(&JobId::file(&one)), expiry_annotation(&JobId::file(&other)));
            }
        }
    }
}
