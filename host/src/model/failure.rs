//! Failures, in the classes on which the scheduler decides. Every error that can occur while a job runs (plugin, capability,
//! output) is converted into one of these, so that the refresh rules need to know no others.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to do about a failure; the plugin interface has the same four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The job's configuration or a secret is wrong and must be changed.
    InvalidConfig,
    /// The other side understood the request and refused it.
    Denied,
    /// Network, 5xx, rate limit: try again.
    Unavailable,
    /// A bug, or an answer that cannot be understood.
    Internal,
}

impl FailureKind {
    /// The name in logs, metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid-config",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed attempt. The message is for people and contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The class for the scheduler.
    pub kind: FailureKind,
    /// Its code; none: a plugin did not state one.
    pub code: Option<Code>,
    /// For people: what failed and with which name, and the correction if there is one.
    pub message: String,
    /// The `Retry-After` of the other side.
    pub retry_after: Option<Duration>,
}

/// The code of a failure: stable, for machines. It is text outside the host: in logs, metrics, status, and for plugins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Code {
    /// One of the host's own, on which decisions depend.
    Host(HostCode),
    /// A plugin's code, or its issuer's (RFC 6749 §5.2).
    Said(String),
}

macro_rules! host_codes {
    ($($(#[$doc:meta])* $area:ident $prefix:literal { $($variant:ident $text:literal,)* })*) => {
        /// The area of a host's failure: the part before the dot.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Area {
            $($(#[$doc])* $area,)*
        }

        /// A code of the host's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum HostCode {
            $($(#[doc = concat!("`", $prefix, ".", $text, "`")] $variant,)*)*
        }

        impl HostCode {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            /// As text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$variant => concat!($prefix, ".", $text),)*)*
                }
            }

            /// Where the failure comes from.
            #[must_use]
            pub const fn area(self) -> Area {
                match self {
                    $($(Self::$variant => Area::$area,)*)*
                }
            }
        }

        /// The names of the areas.
        const AREAS: &[&str] = &[$($prefix,)*];
    };
}

host_codes! {
    /// A rotating secret's chain that must not be used.
    Chain "chain" {
        ChainBusy "busy",
        ChainChanged "changed",
        ChainDead "dead",
        ChainInDoubt "in-doubt",
        ChainInUse "in-use",
        ChainNeedsAttention "needs-attention",
        ChainNotHeld "not-held",
        ChainRestored "restored",
        ChainSpent "spent",
    }
    /// A cryptographic operation.
    Crypto "crypto" {
        CryptoAlgorithm "algorithm",
        CryptoKey "key",
        CryptoRandom "random",
        CryptoSign "sign",
    }
    /// An output's file.
    File "file" {
        FileAttribute "attribute",
        FileBusy "busy",
        FileDiskFull "disk-full",
        FileHardLinks "hard-links",
        FileInternal "internal",
        FileIo "io",
        FileIsDirectory "is-directory",
        FileIsSymlink "is-symlink",
        FileMode "mode",
        FileMountPoint "mount-point",
        FileNoDirectory "no-directory",
        FileNotADirectory "not-a-directory",
        FileNotRegular "not-regular",
        FileOwner "owner",
        FilePath "path",
        FilePermission "permission",
        FileReadOnly "read-only",
        FileSymlinkInPath "symlink-in-path",
        FileTooLarge "too-large",
        FileTooManyNames "too-many-names",
    }
    /// The host itself.
    Host "host" {
        HostPanic "panic",
        HostTimeout "timeout",
    }
    /// A plugin's request that got no answer.
    Http "http" {
        HttpAddressDenied "address-denied",
        HttpClient "client",
        HttpConnect "connect",
        HttpDns "dns",
        HttpOriginDenied "origin-denied",
        HttpProtocol "protocol",
        HttpProxy "proxy",
        HttpRequest "request",
        HttpTimeout "timeout",
        HttpTls "tls",
        HttpTooLarge "too-large",
        HttpTooManyRequests "too-many-requests",
    }
    /// The API server, for outputs, secrets or the state store.
    Kubernetes "kubernetes" {
        KubernetesConfig "config",
        KubernetesConflict "conflict",
        KubernetesForbidden "forbidden",
        KubernetesImmutable "immutable",
        KubernetesInvalid "invalid",
        KubernetesMalformedAnswer "malformed-answer",
        KubernetesNamespaceNotFound "namespace-not-found",
        KubernetesNoDryRun "no-dry-run",
        KubernetesNotFound "not-found",
        KubernetesQuota "quota",
        KubernetesRefused "refused",
        KubernetesRequest "request",
        KubernetesTerminating "terminating",
        KubernetesThrottled "throttled",
        KubernetesTimeout "timeout",
        KubernetesTooLarge "too-large",
        KubernetesType "type",
        KubernetesUnauthorized "unauthorized",
        KubernetesUnavailable "unavailable",
        KubernetesUnreachable "unreachable",
    }
    /// The content of an output.
    Output "output" {
        OutputArtifactName "artifact-name",
        OutputEmpty "empty",
        OutputTaken "taken",
    }
    /// A plugin that cannot be loaded, or crashed.
    Plugin "plugin" {
        PluginCompile "compile",
        PluginCompileTimeout "compile-timeout",
        PluginDigestMismatch "digest-mismatch",
        PluginExit "exit",
        PluginHost "host",
        PluginIdle "idle",
        PluginInvalidArtifact "invalid-artifact",
        PluginInvalidConfig "invalid-config",
        PluginInvalidSchema "invalid-schema",
        PluginInvalidSection "invalid-section",
        PluginMissingImport "missing-import",
        PluginNotAComponent "not-a-component",
        PluginNotFound "not-found",
        PluginOutOfMemory "out-of-memory",
        PluginRefusedImport "refused-import",
        PluginStopped "stopped",
        PluginTimeout "timeout",
        PluginTooLarge "too-large",
        PluginTooManyHandles "too-many-handles",
        PluginTooMuchData "too-much-data",
        PluginTrap "trap",
        PluginUnknownVersion "unknown-version",
        PluginUnreadable "unreadable",
        PluginWrongWorld "wrong-world",
    }
    /// A secret, or a forbidden use of it.
    Secret "secret" {
        SecretEmpty "empty",
        SecretEncoding "encoding",
        SecretInvalidSuccessor "invalid-successor",
        SecretJobPending "job-pending",
        SecretLifetime "lifetime",
        SecretMalformed "malformed",
        SecretMixed "mixed",
        SecretNoCluster "no-cluster",
        SecretNoWriteBack "no-write-back",
        SecretNoSuchPart "no-such-part",
        SecretNotFound "not-found",
        SecretNotListed "not-listed",
        SecretNotRevealed "not-revealed",
        SecretNotRotating "not-rotating",
        SecretNotWhole "not-whole",
        SecretOriginDenied "origin-denied",
        SecretRotatingKey "rotating-key",
        SecretTimeout "timeout",
        SecretTooLarge "too-large",
        SecretTooMany "too-many",
        SecretUnreadable "unreadable",
    }
    /// The state store.
    State "state" {
        StateChanged "changed",
        StateClosed "closed",
        StateCrypto "crypto",
        StateDamaged "damaged",
        StateDiskFull "disk-full",
        StateExposed "exposed",
        StateInUse "in-use",
        StateIo "io",
        StateKey "key",
        StateKeyMissing "key-missing",
        StateLocked "locked",
        StateNewerSchema "newer-schema",
        StateNoRoom "no-room",
        StateNoSuchChain "no-such-chain",
        StateNoSuchJob "no-such-job",
        StateOlderForm "older-form",
        StateOpen "open",
        StatePlaintext "plaintext",
        StateSlow "slow",
        StateSpent "spent",
        StateTooLarge "too-large",
        StateTooMany "too-many",
        StateUndecryptable "undecryptable",
        StateUnreadable "unreadable",
    }
    /// Certificate files of a job.
    Tls "tls" {
        TlsCaFile "ca-file",
        TlsCertFile "cert-file",
        TlsKeyFile "key-file",
    }
    /// A token that cannot be used.
    Token "token" {
        TokenEmpty "empty",
        TokenExpired "expired",
        TokenNotYetValid "not-yet-valid",
    }
}

impl fmt::Display for HostCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl HostCode {
    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// The prefix of a code that a plugin reports although it is one of the host's.
const PLUGIN_SAID: &str = "plugin-said.";

/// Codes are short; a longer one is text, and codes become labels.
const MAX_CODE_BYTES: usize = 64;

impl Code {
    /// The code that a plugin reports; none: it is not a valid code. One of the host's codes gets a prefix, because decisions
    /// depend on them (a rejected chain, an open circuit breaker): a plugin may only pass on those that it `was_told`.
    #[must_use]
    pub fn said(text: String, was_told: impl Fn(HostCode) -> bool) -> Option<Self> {
        if !is_code(&text) {
            return None;
        }
        Some(match HostCode::parse(&text) {
            Some(code) if was_told(code) => Self::Host(code),
            _ if is_in_hosts_words(&text) => Self::Said(format!("{PLUGIN_SAID}{text}")),
            _ => Self::Said(text),
        })
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Host(code) => code.as_str(),
            Self::Said(text) => text,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<HostCode> for Code {
    fn from(code: HostCode) -> Self {
        Self::Host(code)
    }
}

/// Parses a code written by another evertoken process.
impl From<String> for Code {
    fn from(text: String) -> Self {
        HostCode::parse(&text).map_or(Self::Said(text), Self::Host)
    }
}

impl From<&str> for Code {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        match code {
            Code::Host(code) => code.as_str().to_owned(),
            Code::Said(text) => text,
        }
    }
}

impl Failure {
    /// A failure with its code.
    #[must_use]
    pub fn new(kind: FailureKind, code: impl Into<Code>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: Some(code.into()),
            message: message.into(),
            retry_after: None,
        }
    }

    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, code: HostCode) -> bool {
        self.code == Some(Code::Host(code))
    }

    /// The host's code, if it is one of the host's.
    #[must_use]
    pub const fn host_code(&self) -> Option<HostCode> {
        match self.code {
            Some(Code::Host(code)) => Some(code),
            _ => None,
        }
    }

    /// The code as text.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_ref().map(Code::as_str)
    }
}

/// The message of an error with those of its causes, which many errors repeat in their own.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
    }
    text
}

/// Printable ASCII without blanks, as the interface says.
fn is_code(text: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a code could be one of the host's, of this version or another. An issuer's status is not: plugins report it where an
/// issuer gave no code.
fn is_in_hosts_words(code: &str) -> bool {
    match code.split_once('.') {
        Some(("http", rest)) if rest.bytes().all(|byte| byte.is_ascii_digit()) => false,
        Some((word, _)) => AREAS.contains(&word),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_speaks_in_the_hosts_words_only_what_it_was_told() {
        let long = "x".repeat(MAX_CODE_BYTES + 1);
        let said = |text: &str| Some(Code::Said(text.to_owned()));
        for (text, expected) in [
            ("invalid_grant", said("invalid_grant")),
            ("answer.no-token", said("answer.no-token")),
            ("http.503", said("http.503")),
            ("http.timeout", Some(Code::Host(HostCode::HttpTimeout))),
            ("http.tls", said("plugin-said.http.tls")),
            ("chain.dead", said("plugin-said.chain.dead")),
            ("plugin.timeout", said("plugin-said.plugin.timeout")),
            (
                "chain.of-a-later-version",
                said("plugin-said.chain.of-a-later-version"),
            ),
            ("state.", said("plugin-said.state.")),
            ("CHAIN.dead", said("CHAIN.dead")),
            ("", None),
            ("two words", None),
            ("\u{1b}[31m", None),
            (long.as_str(), None),
        ] {
            let code = Code::said(text.to_owned(), |code| code == HostCode::HttpTimeout);
            assert_eq!(code, expected, "{text}");
            // Another evertoken process parses the same code.
            if let Some(code) = code {
                assert_eq!(Code::from(String::from(code.clone())), code, "{text}");
            }
        }
    }

    #[test]
    fn no_two_codes_have_one_text_and_each_is_read_as_it_is_written() {
        for code in HostCode::ALL {
            assert_eq!(Code::from(code.as_str()), Code::Host(*code));
            assert!(is_in_hosts_words(code.as_str()), "{code}");
        }
    }
}
