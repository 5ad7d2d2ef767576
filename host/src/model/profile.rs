//! Profiles: what an administrator allows tenants to ask for.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use litemap::LiteMap;
use serde_json::Value;

use super::{Format, Origin, Policy, RetryUnanswered, Secret, Tls};

/// What tenants may use by its name: a source of which they fill in parameters and give secrets of their own namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The source's plugin.
    pub plugin: String,
    /// The plugin's own configuration; `{NAME}` in a text stands for a parameter.
    pub config: Value,
    /// What a tenant may fill in.
    pub parameters: BTreeMap<String, Parameter>,
    /// The administrator's secrets, which every job of this profile uses.
    pub secrets: LiteMap<String, Secret>,
    /// The secrets that a tenant gives.
    pub tenant_secrets: BTreeMap<String, TenantSecret>,
    /// Origins beyond the endpoints in the configuration.
    pub allow: Vec<Origin>,
    /// Addresses and networks that may be reached although the egress rules refuse them.
    pub allow_addresses: Vec<IpNet>,
    /// Names of secrets whose value the plugin may read.
    pub reveal: BTreeSet<String>,
    /// TLS material.
    pub tls: Tls,
    /// The proxy for all requests.
    pub proxy: Option<Box<url::Url>>,
    /// The timeout of one call of the plugin.
    pub timeout: std::time::Duration,
    /// When tokens are refreshed unless a tenant says otherwise.
    pub refresh: Policy,
    /// How often outputs are verified.
    pub verify: std::time::Duration,
    /// The formats that tenants may use, by name.
    pub formats: BTreeMap<String, Format>,
    /// How much tenants may use it.
    pub limits: ProfileLimits,
    /// The namespaces whose tenants may use it; a `*` stands for any characters. Empty: all.
    pub namespaces: Vec<String>,
}

/// What a tenant may fill in.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// What its value must be, as a whole.
    pub pattern: regex::Regex,
    /// The value if a tenant gives none; none: a tenant must give one.
    pub default: Option<String>,
    /// A value to check the configuration with.
    pub example: Option<String>,
    /// For people.
    pub description: Option<String>,
}

impl Parameter {
    /// The pattern as it was written: that it is about the whole value goes without saying.
    #[must_use]
    pub fn pattern_text(&self) -> &str {
        let pattern = self.pattern.as_str();
        let inside = pattern
            .strip_prefix("^(?:")
            .and_then(|rest| rest.strip_suffix(")$"));
        inside.unwrap_or(pattern)
    }
}

impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            pattern,
            default,
            example,
            description,
        } = self;
        pattern.as_str() == other.pattern.as_str()
            && *default == other.default
            && *example == other.example
            && *description == other.description
    }
}

/// A secret that a tenant gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSecret {
    /// Whether a tenant may leave it out.
    pub is_optional: bool,
    /// Whether it is replaced when it is used.
    pub rotating: bool,
    /// When a request that carried it and got no answer is repeated.
    pub retry_unanswered: RetryUnanswered,
    /// Whether each new value is also written back to the place of the first one.
    pub write_back: bool,
    /// Where it may be sent; none: the endpoints in the plugin's configuration.
    pub to: Option<Vec<Origin>>,
}

/// How much tenants may use a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileLimits {
    /// Jobs of all namespaces.
    pub jobs: u32,
    /// Jobs of one namespace.
    pub jobs_per_namespace: u32,
    /// Calls of the source within a minute, for all namespaces.
    pub calls_per_minute: u32,
    /// Calls of the source within a minute, for one namespace.
    pub calls_per_minute_per_namespace: u32,
}

impl Profile {
    /// Whether tenants of a namespace may use it.
    #[must_use]
    pub fn is_for(&self, namespace: &str) -> bool {
        let mut patterns = self.namespaces.iter();
        self.namespaces.is_empty() || patterns.any(|pattern| matches(pattern, namespace))
    }
}

/// Whether a text matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else {
            return false;
        };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("team-a", "team-a", true),
            ("team-a", "team-ab", false),
            ("team-*", "team-", true),
            ("team-*", "team-a", true),
            ("team-*", "ateam-a", false),
            ("*-prod", "shop-prod", true),
            ("*-prod", "shop-prod-2", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*a", "aa", true),
            ("a*a", "a", false),
            ("*", "x", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
