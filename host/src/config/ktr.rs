//! The settings of kube-token-refresher ("KTR"): flags, `KTR_*` variables and YAML keys, in this order of precedence. Settings that work
//! with KTR work here. Settings that KTR accepts although they cannot work (a mistyped flag, an interval of zero, no client) are
//! mistakes; settings that it silently ignores are warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use secrecy::SecretString;
use serde_json::json;
use zeroize::Zeroizing;

use super::document::text_of;
use super::mistake::{Mistake, Mistakes, Note, Notes, SourceFiles, Span};
use super::read::{Complaint, Diagnostics, Word};
use super::unit::{Namespace, ObjectName, SecretKey};
use super::yaml::{self, Budget, Content, Node, ScalarKind};
use crate::model::Policy;
use crate::model::defaults;
use crate::model::{
    Config, Destination, Job, JobId, Limits, OnRemove, Output, Provider, RetryUnanswered, Secret,
    SecretDestination, SecretOrigin, SecretWrite, Source, StateLocation, Tls,
};
use crate::names::nearest;
use crate::text::has_userinfo;

/// The prefix of KTR's variables.
pub const VARIABLE_PREFIX: &str = "KTR_";
/// The label by which KTR marks the Secrets that it writes.
pub const MANAGED_LABEL: &str = "ktr.appuio.ch/managed";
/// KTR's default interval, in seconds.
const DEFAULT_INTERVAL_SECONDS: i64 = 500;
/// Ten years, the limit of all times in the configuration.
const MAX_INTERVAL_SECONDS: i64 = 10 * 365 * 24 * 3600;
/// The name of the one job.
const JOB_NAME: &str = "ktr";
/// The secret's name, as the oauth2 plugin asks for it.
const CLIENT_SECRET: &str = "client_secret";

/// KTR's flags, for `--help`.
pub const USAGE: &str = "\
Settings as kube-token-refresher has them; each is a flag, a variable (KTR_SECRET_NAME), or a key of the YAML file.

  -f, --config PATH         a YAML file with these settings
      --secret.name         the Secret to write
      --secret.namespace    its namespace
      --secret.key          the key in it [default: token]
      --interval            seconds between two tokens at most [default: 500]
      --oidc.tokenurl       the token endpoint
      --oidc.clientid       the client's identifier
      --oidc.clientsecret   the client's secret; better KTR_OIDC_CLIENTSECRET, because every process sees flags
      --log.level           debug, info or warn [default: info]
      --log.format          text or json [default: text]
";

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Setting {
    SecretName,
    SecretNamespace,
    SecretKey,
    Interval,
    LogLevel,
    LogFormat,
    TokenUrl,
    ClientId,
    ClientSecret,
    DummyProvider,
}

impl Setting {
    const ALL: [Self; 10] = [
        Self::SecretName,
        Self::SecretNamespace,
        Self::SecretKey,
        Self::Interval,
        Self::LogLevel,
        Self::LogFormat,
        Self::TokenUrl,
        Self::ClientId,
        Self::ClientSecret,
        Self::DummyProvider,
    ];

    /// The key in the file, with dots between levels; also the name of the flag.
    const fn name(self) -> &'static str {
        match self {
            Self::SecretName => "secret.name",
            Self::SecretNamespace => "secret.namespace",
            Self::SecretKey => "secret.key",
            Self::Interval => "interval",
            Self::LogLevel => "log.level",
            Self::LogFormat => "log.format",
            Self::TokenUrl => "oidc.tokenurl",
            Self::ClientId => "oidc.clientid",
            Self::ClientSecret => "oidc.clientsecret",
            Self::DummyProvider => "dummyprovider",
        }
    }

    fn variable(self) -> String {
        VARIABLE_PREFIX.to_owned() + &self.name().to_uppercase().replace('.', "_")
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    fn of_flag(name: &str) -> Option<Self> {
        // KTR has no flag for the dummy provider.
        Self::named(name).filter(|key| *key != Self::DummyProvider)
    }
}

/// The log level. KTR has the levels of logrus; ours have no `fatal` and no `panic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KtrLogLevel {
    /// Also `fatal` and `panic`.
    Error,
    /// Warnings.
    Warn,
    /// The default.
    Info,
    /// For debugging.
    Debug,
    /// Everything.
    Trace,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KtrLogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The source of the token.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum TokenProvider {
    /// A token endpoint.
    Oidc {
        /// Its URL.
        token_url: url::Url,
        /// The client's identifier.
        client_id: String,
        /// The client's secret; where a variable has it, only the variable's name, so that no copy is made.
        client_secret: SecretOrigin,
    },
    /// Counts: `token 1`, `token 2`, …
    Dummy,
}

/// The settings, valid.
#[derive(Debug, Clone)]
pub struct KtrSettings {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// The longest time between two tokens.
    pub interval: Duration,
    /// The source of the token.
    pub provider: TokenProvider,
    /// The log level.
    pub log_level: KtrLogLevel,
    /// The format of log lines.
    pub log_format: KtrLogFormat,
    /// Settings that KTR would silently ignore, for the log. Contains no secret.
    pub warnings: Vec<String>,
}

/// Whether `--help` or `-h` is among the arguments.
#[must_use]
pub fn asks_for_help(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--help" || argument == "-h")
}

/// Reads arguments (without the program's name), variables and the file that `--config` names.
///
/// # Errors
/// Every mistake in all of them.
pub fn settings(
    arguments: &[String],
    variables: impl IntoIterator<Item = (String, String)>,
    read_file: impl FnOnce(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<KtrSettings, Mistakes> {
    let mut reader = Reader::default();
    let flags = reader.flags(arguments);
    if let Some(path) = &flags.config {
        reader.file(path, read_file);
    }
    reader.variables(variables);
    reader.given.extend(flags.given);
    reader.settings()
}

/// The place of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenBy {
    File(Span),
    Variable,
    Flag,
}

/// The value of a setting.
struct GivenValue {
    text: Zeroizing<String>,
    from: GivenBy,
}

#[derive(Default)]
struct Flags {
    config: Option<PathBuf>,
    given: BTreeMap<Setting, GivenValue>,
}

#[derive(Default)]
struct Reader {
    given: BTreeMap<Setting, GivenValue>,
    sources: SourceFiles,
    notes: Notes,
    bare: Vec<Mistake>,
    warnings: Vec<String>,
}

impl Reader {
    /// The flags by pflag's rules: `--name value`, `--name=value`, `-f value`, `-fvalue`, up to `--`.
    fn flags(&mut self, arguments: &[String]) -> Flags {
        let mut flags = Flags::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                break;
            }
            let Some((name, value)) = split_flag(argument) else {
                // It is not shown: it may be the value of a mistyped flag, and so a secret.
                self.bare(
                    "command line",
                    "an argument that is no flag",
                    "kube-token-refresher has flags only, like `--secret.name=value`",
                );
                continue;
            };
            let key = Setting::of_flag(name);
            if key.is_none() && !matches!(name, "config" | "f") {
                self.unknown_flag(name);
                // The next argument is probably its value.
                if value.is_none()
                    && arguments
                        .as_slice()
                        .first()
                        .is_some_and(|next| !next.starts_with('-'))
                {
                    arguments.next();
                }
                continue;
            }
            let Some(value) = value.or_else(|| arguments.next().map(String::as_str)) else {
                self.bare(
                    &flag(name),
                    "the flag has no value",
                    &format!("write `{}=…`", flag(name)),
                );
                continue;
            };
            match key {
                None => flags.config = (!value.is_empty()).then(|| PathBuf::from(value)),
                Some(key) => {
                    let text = Zeroizing::new(value.to_owned());
                    flags.given.insert(
                        key,
                        GivenValue {
                            text,
                            from: GivenBy::Flag,
                        },
                    );
                }
            }
        }
        flags
    }

    fn unknown_flag(&mut self, name: &str) {
        let known = Setting::ALL
            .iter()
            .map(|key| key.name())
            .filter(|name| Setting::of_flag(name).is_some());
        let help = match nearest(name, known.chain(["config"])) {
            Some(meant) => format!("did you mean `--{meant}`?"),
            None => "`--help` lists the flags".to_owned(),
        };
        self.bare(&flag(name), "there is no such flag", &help);
    }

    fn variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        // Sorted by name, so that warnings have the same order at each start.
        let variables: BTreeMap<_, _> = variables.into_iter().collect();
        for (name, value) in variables {
            if !name.starts_with(VARIABLE_PREFIX) {
                continue;
            }
            match Setting::ALL.into_iter().find(|key| key.variable() == name) {
                Some(key) => {
                    self.given.insert(
                        key,
                        GivenValue {
                            text: Zeroizing::new(value),
                            from: GivenBy::Variable,
                        },
                    );
                }
                None if is_service_link(&name) => {}
                None => self.warnings.push(unknown_variable(&name)),
            }
        }
    }

    fn file(&mut self, path: &Path, read_file: impl FnOnce(&Path) -> std::io::Result<Vec<u8>>) {
        let name = path.display().to_string();
        let text = match read_file(path) {
            Err(error) => {
                return self.bare(
                    &name,
                    &format!("cannot be read: {error}"),
                    "name a readable YAML file",
                );
            }
            Ok(bytes) if bytes.len() > yaml::MAX_BYTES => {
                return self.bare(&name, "too long for a configuration", "name a YAML file");
            }
            Ok(bytes) => text_of(&Zeroizing::new(bytes), &name),
        };
        let text = match text {
            Ok(text) => text,
            Err(mistakes) => return self.bare.extend(mistakes.iter().cloned()),
        };
        let parsed = yaml::parse(&text, self.sources.next_id(), &mut Budget::default());
        let mut diagnostics = Diagnostics::default();
        parsed
            .orphans
            .iter()
            .for_each(|orphan| diagnostics.hide(orphan));
        // A text that is not valid YAML is not shown at all: the client's secret may be anywhere in it.
        let everything = 0..text.len();
        let hidden = match &parsed.tree {
            None => vec![everything],
            Some(tree) => {
                hide(tree, "", &mut diagnostics);
                diagnostics.hidden_in(self.sources.next_id())
            }
        };
        self.sources.add(&name, &text, &hidden);
        self.notes.extend(parsed.notes);
        if let Some(tree) = parsed.tree {
            self.section(&tree, "");
        }
    }

    /// Reads the keys below `prefix` (`secret.`). As with KTR, case does not matter.
    fn section(&mut self, node: &Node, prefix: &str) {
        let entries = match &node.content {
            Content::Map(entries) => entries,
            Content::Scalar(scalar) if scalar.kind() == ScalarKind::Null => return,
            _ => {
                return self.note(
                    node.span,
                    "expected a mapping",
                    "write settings like `secret: {name: …}`",
                );
            }
        };
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.text.to_lowercase());
            let section = format!("{name}.");
            if let Some(known) = Setting::named(&name) {
                self.file_value(known, value);
            } else if Setting::ALL
                .iter()
                .any(|key| key.name().starts_with(&section))
            {
                self.section(value, &section);
            } else {
                self.unknown_key(key.span, &name, value);
            }
        }
    }

    fn unknown_key(&mut self, span: Span, name: &str, value: &Node) {
        let (file, line, column) = self.sources.place(span);
        let is_bare =
            matches!(&value.content, Content::Scalar(scalar) if scalar.kind() == ScalarKind::Null);
        // `{clientsecret, hunter2}`: with a comma instead of a colon, the value is read as a key.
        let what = match is_bare {
            true => "an unknown key without a value is ignored".to_owned(),
            false => format!("the unknown key `{name}` is ignored"),
        };
        let meant = nearest(name, Setting::ALL.iter().map(|key| key.name()));
        let hint = meant
            .map(|meant| format!(" (did you mean `{meant}`?)"))
            .unwrap_or_default();
        self.warnings
            .push(format!("{file}:{line}:{column}: {what}{hint}"));
    }

    /// Takes a value by KTR's weak typing: numbers and truth values are text where text is expected.
    fn file_value(&mut self, key: Setting, value: &Node) {
        let Content::Scalar(scalar) = &value.content else {
            return self.note(
                value.span,
                &format!("`{}` is one value, not a list or mapping", key.name()),
                "write it as text",
            );
        };
        let text = match scalar.kind() {
            ScalarKind::Null => Zeroizing::new(String::new()),
            _ => scalar.text.clone(),
        };
        self.given.insert(
            key,
            GivenValue {
                text,
                from: GivenBy::File(value.span),
            },
        );
    }

    fn note(&mut self, span: Span, message: &str, help: &str) {
        self.notes.push(Note {
            span,
            message: message.to_owned(),
            help: Some(help.to_owned()),
            other: None,
        });
    }

    fn bare(&mut self, name: &str, message: &str, help: &str) {
        self.bare
            .push(Mistake::without_text(name, message, Some(help.to_owned())));
    }

    /// Notes a mistake at the setting's place; at its variable if it is missing.
    fn wrong(&mut self, key: Setting, complaint: &Complaint) {
        match self.given.get(&key).map(|given| given.from) {
            Some(GivenBy::File(span)) => self.note(span, &complaint.message, &complaint.help),
            Some(GivenBy::Flag) => {
                self.bare(&flag(key.name()), &complaint.message, &complaint.help)
            }
            Some(GivenBy::Variable) | None => {
                self.bare(&key.variable(), &complaint.message, &complaint.help)
            }
        }
    }

    /// The value of a setting; none if it is missing or empty.
    fn text(&self, key: Setting) -> Option<&str> {
        self.given
            .get(&key)
            .map(|given| given.text.as_str())
            .filter(|text| !text.is_empty())
    }

    fn required(&mut self, key: Setting) -> Option<String> {
        let text = self.text(key).map(str::to_owned);
        if text.is_none() {
            let name = key.name();
            let message = match self.given.contains_key(&key) {
                true => format!("`{name}` is empty"),
                false => format!("`{name}` is missing"),
            };
            let help = format!("set {}, `--{name}` or `{name}` in the file", key.variable());
            self.wrong(key, &Complaint::new(message, help));
        }
        text
    }

    fn word<W: Word>(&mut self, key: Setting) -> Option<W> {
        let text = self.required(key)?;
        W::parse(&text)
            .map_err(|complaint| self.wrong(key, &complaint))
            .ok()
    }

    fn settings(mut self) -> Result<KtrSettings, Mistakes> {
        let namespace = self.word::<Namespace>(Setting::SecretNamespace);
        let name = self.word::<ObjectName>(Setting::SecretName);
        let key = match self.given.contains_key(&Setting::SecretKey) {
            true => self.word::<SecretKey>(Setting::SecretKey).map(|key| key.0),
            false => Some(defaults::SECRET_KEY.to_owned()),
        };
        let interval = self.interval();
        let provider = self.provider();
        let (log_level, log_format) = (self.log_level(), self.log_format());
        match (namespace, name, key, interval, provider) {
            (Some(namespace), Some(name), Some(key), Some(interval), Some(provider))
                if self.notes.is_empty() && self.bare.is_empty() =>
            {
                Ok(KtrSettings {
                    namespace: namespace.0,
                    name: name.0,
                    key,
                    interval,
                    provider,
                    log_level,
                    log_format,
                    warnings: self.warnings,
                })
            }
            _ => Err(self.into_mistakes()),
        }
    }

    fn into_mistakes(self) -> Mistakes {
        Mistakes::of_notes(self.bare, self.notes, &self.sources).unwrap_or_else(|| {
            // Unreachable: where a setting is missing, a mistake was noted.
            Mistakes::one(Mistake::without_text("settings", "incomplete", None))
        })
    }

    fn interval(&mut self) -> Option<Duration> {
        let seconds = match self.given.get(&Setting::Interval) {
            None => Some(DEFAULT_INTERVAL_SECONDS),
            Some(given) => whole_seconds(&given.text),
        };
        if let Some(seconds @ 1..=MAX_INTERVAL_SECONDS) = seconds {
            return u64::try_from(seconds).ok().map(Duration::from_secs);
        }
        let text = self.text(Setting::Interval).unwrap_or_default().to_owned();
        let complaint = match seconds {
            Some(_) => Complaint::new(
                format!("an interval of `{text}` seconds"),
                format!("write a number of seconds from 1 to {MAX_INTERVAL_SECONDS}"),
            ),
            None => Complaint::new(
                format!("the interval `{text}` is not a whole number"),
                "write seconds without a unit, like `500`",
            ),
        };
        self.wrong(Setting::Interval, &complaint);
        None
    }

    fn provider(&mut self) -> Option<TokenProvider> {
        let dummy = self.dummy();
        if self.text(Setting::TokenUrl).is_none() {
            if !dummy {
                self.required(Setting::TokenUrl);
            }
            return dummy.then_some(TokenProvider::Dummy);
        }
        let token_url = self.token_url();
        let client_id = self.required(Setting::ClientId);
        let client_secret = self.client_secret();
        Some(TokenProvider::Oidc {
            token_url: token_url?,
            client_id: client_id?,
            client_secret: client_secret?,
        })
    }

    fn token_url(&mut self) -> Option<url::Url> {
        let text = self.text(Setting::TokenUrl)?.to_owned();
        let complaint = match url::Url::parse(&text) {
            Ok(_) if has_userinfo(&text) => Complaint::new(
                "the token URL has a user or password",
                "use `oidc.clientid` and `oidc.clientsecret`",
            ),
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                return Some(url);
            }
            _ => Complaint::new(
                format!("`{text}` is not the URL of a token endpoint"),
                "write it like `https://idp.example.org/token`",
            ),
        };
        self.wrong(Setting::TokenUrl, &complaint);
        None
    }

    fn client_secret(&mut self) -> Option<SecretOrigin> {
        let text = SecretString::from(self.required(Setting::ClientSecret)?);
        Some(match self.given.get(&Setting::ClientSecret)?.from {
            GivenBy::Variable => SecretOrigin::Env(Setting::ClientSecret.variable()),
            GivenBy::File(_) | GivenBy::Flag => SecretOrigin::Value(text.into()),
        })
    }

    fn dummy(&mut self) -> bool {
        match self.text(Setting::DummyProvider).unwrap_or("false") {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => {
                let complaint = Complaint::new(
                    format!("`{other}` is neither `true` nor `false`"),
                    "write `true`",
                );
                self.wrong(Setting::DummyProvider, &complaint);
                false
            }
        }
    }

    fn log_level(&mut self) -> KtrLogLevel {
        let Some(given) = self.given.get(&Setting::LogLevel) else {
            return KtrLogLevel::Info;
        };
        match given.text.to_lowercase().as_str() {
            "panic" | "fatal" | "error" => KtrLogLevel::Error,
            "warn" | "warning" => KtrLogLevel::Warn,
            "info" => KtrLogLevel::Info,
            "debug" => KtrLogLevel::Debug,
            "trace" => KtrLogLevel::Trace,
            other => {
                self.warnings.push(format!(
                    "`log.level` is `{other}`, which is no level: `debug` is used; write `debug`, `info` or `warn`"
                ));
                KtrLogLevel::Debug
            }
        }
    }

    fn log_format(&mut self) -> KtrLogFormat {
        match self
            .given
            .get(&Setting::LogFormat)
            .map_or("text", |given| given.text.as_str())
        {
            "text" => KtrLogFormat::Text,
            "json" => KtrLogFormat::Json,
            other => {
                self.warnings.push(format!(
                    "`log.format` is `{other}`, which is no format: `text` is used; write `text` or `json`"
                ));
                KtrLogFormat::Text
            }
        }
    }
}

/// A flag's name, and the value in the same argument.
fn split_flag(argument: &str) -> Option<(&str, Option<&str>)> {
    if let Some(long) = argument.strip_prefix("--") {
        return Some(match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        });
    }
    let short = argument.strip_prefix('-')?;
    match short.strip_prefix('f') {
        Some("") => Some(("f", None)),
        Some(value) => Some(("f", Some(value.strip_prefix('=').unwrap_or(value)))),
        // The text after the first letter is not kept: it may be a value, and so a secret.
        None => short
            .char_indices()
            .nth(1)
            .map_or(Some((short, None)), |(end, _)| {
                Some((short.get(..end).unwrap_or(short), Some("")))
            }),
    }
}

fn flag(name: &str) -> String {
    match name.len() {
        1 => format!("-{name}"),
        _ => format!("--{name}"),
    }
}

/// Whether Kubernetes sets such a variable for a Service with the name `ktr`.
fn is_service_link(name: &str) -> bool {
    name.starts_with("KTR_SERVICE_") || name.starts_with("KTR_PORT")
}

fn unknown_variable(name: &str) -> String {
    if name == "KTR_CONFIG" {
        return "the variable `KTR_CONFIG` is ignored; name the file with `--config`".to_owned();
    }
    let known: Vec<String> = Setting::ALL.into_iter().map(Setting::variable).collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => {
            format!("the unknown variable `{name}` is ignored (did you mean `{meant}`?)")
        }
        None => format!("the unknown variable `{name}` is ignored"),
    }
}

/// A whole number by Go's rules: decimal, or with `0x`, `0o`, `0b`, or octal after a `0`; also a float whose fraction is zero, which
/// KTR's weak typing accepts.
fn whole_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let lower = digits.to_lowercase();
    let number = match lower.get(..2) {
        Some("0x") => i64::from_str_radix(lower.get(2..)?, 16).ok(),
        Some("0o") => i64::from_str_radix(lower.get(2..)?, 8).ok(),
        Some("0b") => i64::from_str_radix(lower.get(2..)?, 2).ok(),
        Some(two) if two.starts_with('0') && two.ends_with(|c: char| c.is_ascii_digit()) => {
            i64::from_str_radix(&lower, 8).ok()
        }
        _ => lower
            .parse()
            .ok()
            .or_else(|| lower.strip_suffix(".0")?.parse().ok()),
    };
    number.map(|number| sign * number)
}

/// Hides every value that is not known to be harmless.
fn hide(node: &Node, prefix: &str, diagnostics: &mut Diagnostics) {
    let Content::Map(entries) = &node.content else {
        return diagnostics.hide(node);
    };
    for (key, value) in entries {
        let name = format!("{prefix}{}", key.text.to_lowercase());
        match (Setting::named(&name), &value.content) {
            (Some(Setting::ClientSecret), _) => diagnostics.hide(value),
            (Some(_), Content::Scalar(scalar)) if !has_userinfo(&scalar.text) => {}
            (_, Content::Map(_)) => hide(value, &format!("{name}."), diagnostics),
            _ => diagnostics.hide(value),
        }
    }
}

impl KtrSettings {
    /// The configuration with one job. Its token is refreshed after the interval at the latest, and earlier if it expires before.
    #[must_use]
    pub fn into_config(self) -> Config {
        let job = Job {
            id: JobId {
                provider: Provider::Ktr,
                namespace: None,
                name: JOB_NAME.to_owned(),
                uid: None,
            },
            source: self.source(),
            refresh: Policy {
                every: self.interval,
                // If the issuer states no lifetime, only the interval counts: the assumed lifetime is so long that it has no
                // effect.
                default_lifetime: self.interval.saturating_mul(2),
                ..defaults::policy()
            },
            verify: defaults::VERIFY,
            outputs: vec![self.output()],
            on_remove: OnRemove::Keep,
            profile: None,
        };
        Config {
            state: StateLocation::Memory,
            serve: None,
            control: None,
            limits: Limits {
                concurrency: defaults::CONCURRENCY as usize,
                in_flight_per_origin: defaults::IN_FLIGHT_PER_ORIGIN as usize,
                plugin: defaults::plugin_limits(),
            },
            plugins: BTreeMap::new(),
            profiles: BTreeMap::new(),
            annotated_secrets: None,
            jobs: vec![Arc::new(job)],
            shared_outputs: Vec::new(),
            named: Arc::default(),
        }
    }

    fn source(&self) -> Source {
        let (plugin, config, secrets) = match &self.provider {
            TokenProvider::Dummy => ("dummy", json!({}), LiteMap::new()),
            TokenProvider::Oidc {
                token_url,
                client_id,
                client_secret,
            } => {
                let config = json!({
                    "grant": "client_credentials",
                    "token_url": token_url.as_str(),
                    "client_id": client_id,
                    "client_auth": "client_secret_post",
                });
                let secret = Secret {
                    origin: client_secret.clone(),
                    rotating: false,
                    retry_unanswered: RetryUnanswered::default(),
                    write_back: false,
                    to: None,
                };
                (
                    "oauth2",
                    config,
                    LiteMap::from_iter([(CLIENT_SECRET.to_owned(), secret)]),
                )
            }
        };
        Source {
            plugin: plugin.to_owned(),
            config,
            secrets,
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            reveal: BTreeSet::new(),
            tls: Tls::default(),
            proxy: None,
            timeout: defaults::TIMEOUT,
        }
    }

    fn output(&self) -> Output {
        Output {
            destination: Destination::Secret(SecretDestination {
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                key: self.key.clone(),
                create: true,
                secret_type: None,
                labels: BTreeMap::from([(MANAGED_LABEL.to_owned(), "true".to_owned())]),
                annotations: BTreeMap::new(),
                write: SecretWrite::GetAndPut,
                member: None,
            }),
            format: None,
        }
    }
}

#[cfg(test)]
mod tests;
