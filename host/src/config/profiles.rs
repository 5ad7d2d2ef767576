//! The profiles of the configuration: what tenants may use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::check::{Checker, empty_object, format_of, on, retry_of};
use super::mistake::Span;
use super::read::{At, Named};
use super::spec::{ParameterSpec, ProfileLimitsSpec, ProfileSpec, TenantSecretSpec};
use super::unit::ParameterName;
use super::{PluginUse, unit};
use crate::model::AnnotatedSecrets;
use crate::model::defaults;
use crate::model::profile::{Parameter, Profile, ProfileLimits, TenantSecret};
use crate::names::nearest;
use crate::tenants::request::refusal;
use crate::tenants::template::Template;

/// What a parameter must be if nothing else is said: enough for client ids and names, and nothing that means something in a URL.
const USUAL_PATTERN: &str = "[A-Za-z0-9](?:[A-Za-z0-9_.~-]{0,126}[A-Za-z0-9])?";

impl<'d> Checker<'d> {
    /// The profiles without mistakes.
    pub(super) fn profiles(&mut self) -> BTreeMap<String, Arc<Profile>> {
        let document = self.document;
        let mut profiles = BTreeMap::new();
        for (name, spec) in document.file.profiles.iter().flat_map(|named| &named.0) {
            if let Some(spec) = spec {
                let profile = self.profile(&name.0, spec, name.span);
                profiles.insert(name.0.clone(), Arc::new(profile));
            }
        }
        profiles
    }

    pub(super) fn annotated_secrets(&mut self) -> Option<AnnotatedSecrets> {
        let spec = self.document.file.annotated_secrets.as_ref()?;
        let profiles = self
            .document
            .file
            .profiles
            .iter()
            .flat_map(|named| &named.0);
        let known: Vec<&str> = profiles.map(|(name, _)| name.0.as_str()).collect();
        if let Some(name) = &spec.default_profile
            && !known.contains(&name.0.as_str())
        {
            let help = match nearest(&name.0, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("describe it: `profiles: {{{}: {{plugin: …}}}}`", name.0),
            };
            let message = format!("there is no profile `{}`", name.0);
            self.diagnostics.note(name.span, message, help);
        }
        Some(AnnotatedSecrets {
            default_profile: spec.default_profile.as_ref().map(|name| name.0.clone()),
            namespaces: spec
                .namespaces
                .iter()
                .flatten()
                .map(|name| name.0.clone())
                .collect(),
            selector: spec.selector.as_ref().map(|text| text.0.clone()),
        })
    }

    fn profile(&mut self, name: &str, spec: &'d ProfileSpec, span: Span) -> Profile {
        self.plugin(&spec.plugin, PluginUse::Source);
        let parameters = self.parameters(spec.parameters.as_ref());
        let config = spec.config.as_ref();
        let config_span = config.map_or(span, |config| config.span);
        let config = config.map_or_else(empty_object, |config| config.0.clone());
        self.templates(&config, config_span, spec);
        let secrets = spec.secrets.as_ref();
        let tenant_secrets = self.tenant_secrets(spec);
        let source = self.source_defaults();
        let tls = spec.tls.as_ref().or(source.and_then(|it| it.tls.as_ref()));
        let proxy = spec.proxy.as_ref();
        let proxy = proxy.or(source.and_then(|it| it.proxy.as_ref()));
        let timeout = spec.timeout.as_ref();
        let timeout = timeout.or(source.and_then(|it| it.timeout.as_ref()));
        Profile {
            name: name.to_owned(),
            plugin: spec.plugin.0.clone(),
            config,
            parameters,
            reveal: self.reveal_of_profile(spec),
            secrets: secrets
                .map(|secrets| self.secrets(secrets))
                .unwrap_or_default(),
            tenant_secrets,
            allow: spec.allow.clone().unwrap_or_default(),
            allow_addresses: spec
                .allow_addresses
                .iter()
                .flatten()
                .map(|network| network.0)
                .collect(),
            tls: tls.map(|tls| self.tls(tls)).unwrap_or_default(),
            proxy: proxy.map(|proxy| Box::new(proxy.0.clone())),
            timeout: self.period(timeout, defaults::TIMEOUT),
            refresh: self.policy(spec.refresh.as_ref()),
            verify: self.period(spec.verify.as_ref(), defaults::VERIFY),
            formats: self.formats(spec),
            limits: limits(spec.limits.as_ref()),
            namespaces: spec
                .namespaces
                .iter()
                .flatten()
                .map(|pattern| pattern.0.clone())
                .collect(),
        }
    }

    fn parameters(
        &mut self,
        named: Option<&'d Named<ParameterName, ParameterSpec>>,
    ) -> BTreeMap<String, Parameter> {
        let mut parameters = BTreeMap::new();
        for (name, spec) in named.into_iter().flat_map(|named| &named.0) {
            let Some(spec) = spec else { continue };
            let pattern = match &spec.pattern {
                Some(pattern) => pattern.0.clone(),
                None => match unit::whole(USUAL_PATTERN) {
                    Ok(pattern) => pattern,
                    Err(_) => continue,
                },
            };
            let text = |text: &Option<At<unit::Text>>| text.as_ref().map(|text| text.0.clone());
            let parameter = Parameter {
                pattern,
                default: text(&spec.default),
                example: text(&spec.example),
                description: spec.description.as_ref().map(|text| text.0.clone()),
            };
            for given in [&spec.default, &spec.example].into_iter().flatten() {
                if let Some(why) = refusal(&parameter, &given.0) {
                    let message = format!("no value of the parameter `{}`: {why}", name.0);
                    self.diagnostics.note(
                        given.span,
                        message,
                        "write one that a tenant may give, or change `pattern`",
                    );
                }
            }
            parameters.insert(name.0.clone(), parameter);
        }
        parameters
    }

    /// Every text of the options is a template of parameters that there are, and each of these is used.
    fn templates(&mut self, config: &Value, span: Span, spec: &'d ProfileSpec) {
        let declared = spec.parameters.iter().flat_map(|named| &named.0);
        let declared: BTreeMap<&str, Span> = declared
            .map(|(name, _)| (name.0.as_str(), name.span))
            .collect();
        let mut used = BTreeSet::new();
        let mut mistakes = Vec::new();
        each_text(config, "", &mut |path, text| match Template::parse(text) {
            Ok(template) => {
                for name in template.parameters() {
                    used.insert(name.to_owned());
                    if !declared.contains_key(name) {
                        let message =
                            format!("`config{path}` has a parameter `{name}` that is not declared");
                        mistakes.push((
                            message,
                            format!("declare it: `parameters: {{{name}: {{}}}}`"),
                        ));
                    }
                }
            }
            Err(error) => mistakes.push((
                format!("`config{path}`: {error}"),
                "see Profiles in config/README.md".to_owned(),
            )),
        });
        for (message, help) in mistakes {
            self.diagnostics.note(span, message, help);
        }
        for (name, span) in declared {
            if !used.contains(name) {
                let message = format!("no text in `config` has the parameter `{name}`");
                self.diagnostics.note(
                    span,
                    message,
                    format!("write `{{{name}}}` where its value belongs, or remove it"),
                );
            }
        }
    }

    fn tenant_secrets(&mut self, spec: &'d ProfileSpec) -> BTreeMap<String, TenantSecret> {
        let own = spec.secrets.iter().flat_map(|named| &named.0);
        let own: BTreeMap<&str, Span> = own.map(|(name, _)| (name.0.as_str(), name.span)).collect();
        let mut secrets = BTreeMap::new();
        for (name, secret) in spec.tenant_secrets.iter().flat_map(|named| &named.0) {
            if let Some(first) = own.get(name.0.as_str()) {
                let message = format!(
                    "the secret `{}` is both the administrator's and the tenant's",
                    name.0
                );
                self.diagnostics
                    .clash(name.span, *first, message, "name it once");
            }
            if let Some(secret) = secret {
                secrets.insert(name.0.clone(), self.tenant_secret(&name.0, secret));
            }
        }
        secrets
    }

    fn tenant_secret(&mut self, name: &str, secret: &TenantSecretSpec) -> TenantSecret {
        let rotating = on(&secret.rotating);
        let write_back = on(&secret.write_back);
        if let (Some(write_back), None) = (write_back, rotating) {
            self.diagnostics.note(
                write_back.span,
                "`write_back` is about rotating secrets, and this one is none",
                "remove it, or add `rotating: true`",
            );
        }
        if let (Some(rotating), None, None) = (rotating, write_back, &self.document.file.state) {
            self.diagnostics.note(
                rotating.span,
                format!("the rotating secret `{name}` would be lost with this process, because there is no `state`"),
                "add `state`, or `write_back: true` to have each new value put back into the tenant's Secret",
            );
        }
        TenantSecret {
            is_optional: on(&secret.optional).is_some(),
            rotating: rotating.is_some(),
            retry_unanswered: retry_of(secret.retry_unanswered.as_ref()),
            write_back: write_back.is_some(),
            to: secret.to.clone(),
        }
    }

    fn reveal_of_profile(&mut self, spec: &'d ProfileSpec) -> BTreeSet<String> {
        let own = spec
            .secrets
            .iter()
            .flat_map(|named| &named.0)
            .map(|(name, _)| name);
        let theirs = spec
            .tenant_secrets
            .iter()
            .flat_map(|named| &named.0)
            .map(|(name, _)| name);
        let known: Vec<&str> = own.chain(theirs).map(|name| name.0.as_str()).collect();
        self.revealed(spec.reveal.as_ref(), &known)
    }

    fn formats(&mut self, spec: &'d ProfileSpec) -> BTreeMap<String, crate::model::Format> {
        let mut formats = BTreeMap::new();
        for (name, format) in spec.formats.iter().flat_map(|named| &named.0) {
            if let Some(format) = format {
                self.plugin(&format.plugin, PluginUse::Formatter);
                formats.insert(name.0.clone(), format_of(format));
            }
        }
        formats
    }
}

fn limits(spec: Option<&ProfileLimitsSpec>) -> ProfileLimits {
    let usual = defaults::PROFILE_LIMITS;
    let Some(spec) = spec else {
        return usual;
    };
    ProfileLimits {
        jobs: spec.jobs.map_or(usual.jobs, |count| count.0),
        jobs_per_namespace: spec
            .jobs_per_namespace
            .map_or(usual.jobs_per_namespace, |count| count.0),
        calls_per_minute: spec
            .calls_per_minute
            .map_or(usual.calls_per_minute, |count| count.0),
        calls_per_minute_per_namespace: spec
            .calls_per_minute_per_namespace
            .map_or(usual.calls_per_minute_per_namespace, |count| count.0),
    }
}

/// Calls `see` with each text, and its path in the options.
fn each_text(value: &Value, path: &str, see: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => see(path, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                each_text(item, &format!("{path}[{index}]"), see);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                each_text(member, &format!("{path}.{name}"), see);
            }
        }
        _ => {}
    }
}
