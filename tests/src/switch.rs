//! Switching parts off by name, for machines without Go or a JDK. A part that is not switched off and is missing fails its tests.

use std::io::Write as _;

/// The variable with the names of the parts to switch off, separated by commas.
pub const VARIABLE: &str = "EVERTOKEN_SKIP";

/// A part that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// etcd and kube-apiserver; need Go.
    Kubernetes,
    /// Keycloak; needs a JDK and Maven.
    Keycloak,
}

impl Part {
    /// The name by which [`VARIABLE`] switches the part off.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Keycloak => "keycloak",
        }
    }

    /// Whether the part is switched off; reports it on stderr, where the test runner does not capture it, so that an incomplete
    /// run does not look complete.
    #[must_use]
    pub fn is_skipped(self) -> bool {
        let skipped = listed(&std::env::var(VARIABLE).unwrap_or_default(), self);
        if skipped {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {test} needs {}, which {VARIABLE} switches off",
                self.name()
            );
        }
        skipped
    }
}

fn listed(list: &str, part: Part) -> bool {
    list.split(',').any(|name| name.trim() == part.name())
}

#[cfg(test)]
mod tests {
    use super::{Part, listed};

    #[test]
    fn parts_are_switched_off_by_their_whole_name() {
        for (list, kubernetes, keycloak) in [
            ("", false, false),
            ("kubernetes", true, false),
            ("keycloak, kubernetes", true, true),
            ("kube", false, false),
            ("keycloak-admin", false, false),
        ] {
            assert_eq!(listed(list, Part::Kubernetes), kubernetes, "{list:?}");
            assert_eq!(listed(list, Part::Keycloak), keycloak, "{list:?}");
        }
    }
}
