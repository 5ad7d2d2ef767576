//! The keys of the configuration file, all of them: the parser and the JSON Schema are generated from these specs, and their comments
//! are the schema's descriptions. Rules between keys are in [`super::check`].

use std::net::SocketAddr;

use super::read::{At, Count, Named, NumericId, OneOrMany, PluginConfig, SecretText, spec};
use super::unit::{
    AbsolutePath, AnyPath, FreeText, IpNetwork, JobName, LabelKey, LabelValue, Mode, Namespace,
    NamespacePattern, ObjectName, OutputPath, ParameterName, Pattern, Percent, Pointer, ProxyUrl,
    Removal, Repetition, Replacement, SecretKey, SecretName, Sha256, Size, StatePrefix, Text, Time,
    VariableName,
};
use crate::model::Origin;

spec! {
    /// evertoken's configuration: jobs that keep short-lived tokens fresh.
    #[example("jobs: […]")]
    struct FileSpec {
        /// Where rotating secrets, journals and tokens survive a crash. Without it they are kept in memory, which is not allowed for
        /// rotating secrets unless they have `write_back`.
        state: Option<StateSpec>,
        /// Probes and metrics over HTTP: `/livez`, `/readyz`, `/metrics`, nothing else. Without it nothing is served.
        serve: Option<ServeSpec>,
        /// The control socket, over which `evertoken status`, `refresh` and `state` talk to the process.
        control: Option<ControlSpec>,
        /// Bounds on what is done at once.
        limits: Option<LimitsSpec>,
        /// Plugins that are not built in, by the name that jobs use.
        plugins: Option<Named<JobName, PluginSpec>>,
        /// What tenants may use, by the name that annotated Secrets and `Token` resources give.
        profiles: Option<Named<JobName, ProfileSpec>>,
        /// Annotated Secrets whose token is kept fresh. Without it none are.
        annotated_secrets: Option<AnnotatedSecretsSpec>,
        /// What jobs use unless they say otherwise.
        defaults: Option<DefaultsSpec>,
        /// Further files with `jobs` and `outputs`: paths or patterns such as `jobs.d/*.yaml`, from this file's directory.
        include: Option<Vec<At<AnyPath>>>,
        /// The jobs: one token kept fresh each.
        jobs: Option<Vec<JobSpec>>,
        /// Outputs that several jobs' tokens share.
        outputs: Option<Vec<SharedOutputSpec>>,
    }
}

spec! {
    /// A file named in `include`.
    #[example("jobs: […]")]
    struct IncludedSpec {
        /// The jobs: one token kept fresh each.
        jobs: Option<Vec<JobSpec>>,
        /// Outputs that several jobs' tokens share.
        outputs: Option<Vec<SharedOutputSpec>>,
    }
}

spec! {
    /// The state store.
    #[one_of(dir, secret)]
    #[example("{dir: /var/lib/evertoken}")]
    struct StateSpec {
        /// A directory of our own, locked to one process.
        dir: Option<AbsolutePath>,
        /// Kubernetes Secrets, which several processes may share: one for each job and one for each rotating secret.
        secret: Option<StateSecretsSpec>,
        /// The key that encrypts what is stored, or a list of them: the first encrypts, all decrypt. Without it files have mode 0600
        /// and are not encrypted.
        key: Option<At<OneOrMany<StateKeySpec>>>,
    }
}

spec! {
    /// Where the state store's Secrets are.
    #[example("{namespace: evertoken}")]
    struct StateSecretsSpec {
        /// Their namespace.
        namespace: Namespace,
        /// What their names begin with: another store, another prefix. Default `evertoken-state`.
        prefix: Option<StatePrefix>,
    }
}

spec! {
    /// Where an encryption key is.
    #[one_of(file, env, secret)]
    #[example("{file: /run/secrets/state-key}")]
    struct StateKeySpec {
        /// A file whose content is the key.
        file: Option<At<AnyPath>>,
        /// The environment variable that holds the key.
        env: Option<VariableName>,
        /// A key of a Kubernetes Secret.
        secret: Option<SecretReferenceSpec>,
    }
}

spec! {
    /// Where probes and metrics are served.
    #[example("{address: 0.0.0.0:8080}")]
    struct ServeSpec {
        /// IP address and port.
        address: SocketAddr,
    }
}

spec! {
    /// The socket over which the program's own commands talk to the process.
    #[example("{socket: /run/evertoken/warehouse.sock}")]
    struct ControlSpec {
        /// The socket's path. Its directory is made with mode 0700 if only that is missing; group and others may not write to it. Default:
        /// a name of this configuration's own in `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/evertoken`, `/run/evertoken`, or else the state
        /// directory, whichever is there to write to.
        socket: At<AbsolutePath>,
    }
}

spec! {
    /// Bounds on what is done at once.
    #[example("{concurrency: 64}")]
    struct LimitsSpec {
        /// Attempts in flight in the whole process. Default 64.
        concurrency: Option<Count<1, 10_000>>,
        /// Bounds per origin (scheme, host and port).
        per_origin: Option<OriginLimitsSpec>,
        /// What one plugin call may use.
        plugin: Option<PluginLimitsSpec>,
    }
}

spec! {
    /// Bounds per origin.
    #[example("{in_flight: 16}")]
    struct OriginLimitsSpec {
        /// Attempts of one plugin in flight to one origin. Default 16.
        in_flight: Option<Count<1, 10_000>>,
    }
}

spec! {
    /// What one plugin call may use.
    #[example("{memory: 64MiB}")]
    struct PluginLimitsSpec {
        /// Linear memory, all memories together. Default 64MiB.
        memory: Option<Size>,
        /// HTTP requests. Default 16.
        requests: Option<Count<0, 10_000>>,
        /// One HTTP answer, headers and body. Default 1MiB.
        response: Option<At<Size>>,
        /// All artifacts of one format call. Default 1MiB.
        artifact: Option<Size>,
        /// Log lines. Default 100.
        log_lines: Option<Count<0, 1_000_000>>,
        /// How long compiling a plugin may take, which is done once and is no part of a call. Default 10m.
        compile: Option<At<Time>>,
    }
}

spec! {
    /// A plugin that is not built in.
    #[example("{path: ./plugin.wasm, sha256: 9f2c…}")]
    struct PluginSpec {
        /// The component; a relative path counts from this file's directory.
        path: At<AnyPath>,
        /// SHA-256 of its bytes, in hexadecimal.
        sha256: Sha256,
    }
}

spec! {
    /// A source that tenants may use: they fill in parameters and give secrets of their own namespace, and decide nothing else.
    #[example("{plugin: oauth2, config: {client_id: '{client_id}', …}, parameters: {client_id: {}}}")]
    struct ProfileSpec {
        /// The plugin: `oauth2`, `mirror`, `dummy`, or a name from `plugins`.
        plugin: At<JobName>,
        /// The plugin's own configuration. In its texts `{NAME}` stands for a parameter, and `{{` and `}}` for braces.
        config: Option<At<PluginConfig>>,
        /// What tenants fill in.
        parameters: Option<Named<ParameterName, ParameterSpec>>,
        /// The administrator's secrets, which every job of this profile uses.
        secrets: Option<Named<SecretName, SecretSpec>>,
        /// The secrets that tenants give, each a key of a Secret of their own namespace.
        tenant_secrets: Option<Named<SecretName, TenantSecretSpec>>,
        /// Origins that the plugin may reach beyond the endpoints in its configuration.
        allow: Option<Vec<Origin>>,
        /// Addresses, or networks like `10.0.0.0/8`, that may be reached although they are loopback, link-local or otherwise refused.
        allow_addresses: Option<Vec<IpNetwork>>,
        /// Names of secrets whose value the plugin may read; all others it can only have sent.
        reveal: Option<Vec<At<SecretName>>>,
        /// TLS material.
        tls: Option<At<TlsSpec>>,
        /// The proxy for all requests. Default: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
        proxy: Option<ProxyUrl>,
        /// How long one call of the plugin may take, everything included. Default 30s.
        timeout: Option<At<Time>>,
        /// When tokens are obtained anew unless a tenant says otherwise.
        refresh: Option<RefreshSpec>,
        /// How often outputs are compared with the kept token and put right. Default 10m.
        verify: Option<At<Time>>,
        /// Formats that tenants may use, by name.
        formats: Option<Named<JobName, FormatSpec>>,
        /// How much tenants may use it.
        limits: Option<ProfileLimitsSpec>,
        /// The namespaces whose tenants may use it, e.g. `[shop, team-*]`. Default: all.
        namespaces: Option<Vec<NamespacePattern>>,
    }
}

spec! {
    /// Annotated Secrets whose token is kept fresh.
    #[example("{default_profile: idp}")]
    struct AnnotatedSecretsSpec {
        /// The profile of Secrets with `oauth2-refresh-controller.cern.ch/is-token: "true"` that name none.
        default_profile: Option<At<JobName>>,
        /// The namespaces to watch. Default: all.
        namespaces: Option<Vec<Namespace>>,
        /// A label selector, e.g. `team=shop`, for clusters with many Secrets. Default: all Secrets are watched.
        selector: Option<Text>,
    }
}

spec! {
    /// What a tenant fills in.
    #[example("{pattern: '[a-z]+'}")]
    struct ParameterSpec {
        /// What its value must be, as a whole: a regular expression. Default: at most 128 letters, digits and `-_.~`, a letter or digit first
        /// and last. A value is printable ASCII, whatever this says; within a URL it is one label of the host or a part of one segment.
        pattern: Option<At<Pattern>>,
        /// The value if a tenant gives none. Without it a tenant must give one.
        default: Option<At<Text>>,
        /// A value to check the configuration with.
        example: Option<At<Text>>,
        /// For people.
        description: Option<FreeText>,
    }
}

spec! {
    /// A secret that a tenant gives.
    #[example("{rotating: true, write_back: true}")]
    struct TenantSecretSpec {
        /// Whether a tenant may leave it out. Default false.
        optional: Option<At<bool>>,
        /// Whether its use may replace it, as with refresh tokens. Default false.
        rotating: Option<At<bool>>,
        /// Whether a request that carried a rotating secret and was not answered is sent again: after this time, or `never`. Default 0s.
        retry_unanswered: Option<At<Repetition>>,
        /// Whether each new value of a rotating secret is also put into the tenant's Secret. Default false: it is kept in `state`.
        write_back: Option<At<bool>>,
        /// Origins that it may be sent to, instead of the endpoints in the plugin's configuration.
        to: Option<Vec<Origin>>,
    }
}

spec! {
    /// How much tenants may use a profile.
    #[example("{jobs: 1000}")]
    struct ProfileLimitsSpec {
        /// Jobs of all namespaces. Default 10000.
        jobs: Option<Count<0, 1_000_000>>,
        /// Jobs of one namespace. Default 100.
        jobs_per_namespace: Option<Count<0, 1_000_000>>,
        /// Calls of the source within a minute, for all namespaces. Default 6000.
        calls_per_minute: Option<Count<1, 1_000_000>>,
        /// Calls of the source within a minute, for one namespace. Default 600.
        calls_per_minute_per_namespace: Option<Count<1, 1_000_000>>,
    }
}

spec! {
    /// What jobs use unless they say otherwise.
    #[example("{refresh: {at: 80%}}")]
    struct DefaultsSpec {
        /// When tokens are obtained anew.
        refresh: Option<RefreshSpec>,
        /// How tokens are obtained.
        source: Option<SourceDefaultsSpec>,
    }
}

spec! {
    /// How tokens are obtained unless a job says otherwise.
    #[example("{timeout: 30s}")]
    struct SourceDefaultsSpec {
        /// How long one call of the plugin may take, everything included.
        timeout: Option<At<Time>>,
        /// TLS material.
        tls: Option<At<TlsSpec>>,
        /// The proxy for all requests.
        proxy: Option<ProxyUrl>,
    }
}

spec! {
    /// One token kept fresh.
    #[example("{name: …, source: …, outputs: […]}")]
    struct JobSpec {
        /// Its name, unique in the configuration.
        name: At<JobName>,
        /// How the token is obtained.
        source: SourceSpec,
        /// When it is obtained anew.
        refresh: Option<RefreshSpec>,
        /// How often outputs are compared with the kept token and put right. Default 10m.
        verify: Option<At<Time>>,
        /// Where it goes.
        outputs: Option<Vec<OutputSpec>>,
        /// What becomes of an output that is taken out of the configuration, alone or with its job, while the process runs: `keep` or
        /// `delete`. Default keep.
        on_remove: Option<Removal>,
    }
}

spec! {
    /// How a token is obtained.
    #[example("{plugin: oauth2, config: …}")]
    struct SourceSpec {
        /// The plugin: `oauth2`, `mirror`, `dummy`, or a name from `plugins`.
        plugin: At<JobName>,
        /// The plugin's own configuration; `evertoken plugin inspect` shows its schema.
        config: Option<PluginConfig>,
        /// The secrets that the plugin may open, by the name it asks for.
        secrets: Option<Named<SecretName, SecretSpec>>,
        /// Origins that the plugin may reach beyond the endpoints in its configuration.
        allow: Option<Vec<Origin>>,
        /// Addresses, or networks like `10.0.0.0/8`, that may be reached although they are loopback, link-local or otherwise refused.
        allow_addresses: Option<Vec<IpNetwork>>,
        /// Names of secrets whose value the plugin may read; all others it can only have sent.
        reveal: Option<Vec<At<SecretName>>>,
        /// TLS material.
        tls: Option<At<TlsSpec>>,
        /// The proxy for all requests of this job. Default: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
        proxy: Option<ProxyUrl>,
        /// How long one call of the plugin may take, everything included. Default 30s.
        timeout: Option<At<Time>>,
    }
}

spec! {
    /// A named value that a job may use.
    #[one_of(file, env, value, secret, service_account, job)]
    #[example("{file: /run/secrets/name}")]
    struct SecretSpec {
        /// A file whose content is the value. A byte order mark at the start and one line end at the end are not part of any value.
        file: Option<At<AnyPath>>,
        /// With `file`: a JSON pointer (RFC 6901) into its content, to the string that is the value.
        pointer: Option<At<Pointer>>,
        /// The environment variable that holds the value.
        env: Option<VariableName>,
        /// The value itself. Better: a file, a variable or a Secret.
        value: Option<At<SecretText>>,
        /// A key of a Kubernetes Secret.
        secret: Option<At<SecretReferenceSpec>>,
        /// A token of a Kubernetes ServiceAccount, requested for each call.
        service_account: Option<ServiceAccountSpec>,
        /// The token of another job.
        job: Option<At<JobName>>,
        /// Whether its use may replace it, as with refresh tokens. Default false.
        rotating: Option<At<bool>>,
        /// Whether a request that carried a rotating secret and was not answered is sent again: after this time, or `never`.
        /// Default 0s: many issuers allow it for some seconds.
        retry_unanswered: Option<At<Repetition>>,
        /// Whether each new value of a rotating secret is also put into the `file` or `secret` that it came from, as long as the spent
        /// one is there. Default false: it is kept in `state`.
        write_back: Option<At<bool>>,
        /// Origins that it may be sent to, instead of the endpoints in the plugin's configuration.
        to: Option<Vec<Origin>>,
    }
}

spec! {
    /// A key of a Kubernetes Secret.
    #[example("{namespace: default, name: idp, key: client_secret}")]
    struct SecretReferenceSpec {
        /// The Secret's namespace.
        namespace: Namespace,
        /// The Secret's name.
        name: ObjectName,
        /// The key in `data`.
        key: SecretKey,
        /// A JSON pointer (RFC 6901) into the key's value.
        pointer: Option<At<Pointer>>,
    }
}

spec! {
    /// A token of a Kubernetes ServiceAccount, by TokenRequest.
    #[example("{namespace: default, name: builder}")]
    struct ServiceAccountSpec {
        /// The ServiceAccount's namespace.
        namespace: Namespace,
        /// The ServiceAccount's name.
        name: ObjectName,
        /// The token's audiences. Default: the API server's own.
        audiences: Option<Vec<Text>>,
        /// The lifetime to ask for, at least 10m. Default 1h.
        lifetime: Option<At<Time>>,
    }
}

spec! {
    /// TLS material: PEM files, read anew when they change.
    #[example("{ca_file: /etc/ssl/ca.pem}")]
    struct TlsSpec {
        /// Certificates to trust instead of the system's.
        ca_file: Option<At<AnyPath>>,
        /// The client certificate; with `key_file`.
        cert_file: Option<At<AnyPath>>,
        /// The client certificate's key; with `cert_file`.
        key_file: Option<At<AnyPath>>,
    }
}

spec! {
    /// When a token is obtained anew: at the earliest of these.
    #[example("{at: 80%}")]
    struct RefreshSpec {
        /// At this part of the token's life. Default 80%.
        at: Option<Percent>,
        /// This long before expiry, but not before half the token's life. Default 90s.
        before_expiry: Option<Time>,
        /// This long after it was obtained. Default 24h.
        every: Option<At<Time>>,
        /// Up to this much earlier, at random. Default 10s.
        jitter: Option<Time>,
        /// The life to assume when neither issuer nor token says one. Default 1h.
        default_lifetime: Option<At<Time>>,
    }
}

spec! {
    /// A destination and how the token is spelled there.
    #[one_of(file, secret)]
    #[example("{file: {path: /run/tokens/name}}")]
    struct OutputSpec {
        /// A file.
        file: Option<FileOutputSpec>,
        /// A Kubernetes Secret.
        secret: Option<At<SecretOutputSpec>>,
        /// How the token is spelled. Default: the bare token, no newline.
        format: Option<FormatSpec>,
    }
}

spec! {
    /// An output that several jobs' tokens share. It is written once all have one.
    #[one_of(file, secret)]
    #[example("{from: […], file: {path: /run/tokens/name}, format: …}")]
    struct SharedOutputSpec {
        /// The jobs, in the order in which the formatter gets their tokens.
        from: At<Vec<At<JobName>>>,
        /// A file.
        file: Option<FileOutputSpec>,
        /// A Kubernetes Secret.
        secret: Option<At<SecretOutputSpec>>,
        /// How the tokens are spelled.
        format: FormatSpec,
        /// What becomes of it when it is taken out of the configuration while the process runs: `keep` or `delete`. Default keep.
        on_remove: Option<Removal>,
    }
}

spec! {
    /// A file that consumers read.
    #[example("{path: /run/tokens/name}")]
    struct FileOutputSpec {
        /// Absolute. The directory must exist.
        path: At<OutputPath>,
        /// Permission bits in octal, quoted. Default "0600".
        mode: Option<Mode>,
        /// The owner's uid. Default: the process's own.
        owner: Option<NumericId>,
        /// The group's gid. Default: the process's own.
        group: Option<NumericId>,
        /// How it gets its new content. Default `rename`: another file takes its place, and readers see the old content or the new.
        /// `in_place` writes over the file that is there, for a single file that is bind-mounted; a reader may see a mixture.
        replace: Option<Replacement>,
    }
}

spec! {
    /// A Kubernetes Secret that consumers read. Other keys in it stay as they are.
    #[example("{namespace: default, name: my-token}")]
    struct SecretOutputSpec {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
        /// The key in `data`. Default `token`.
        key: Option<SecretKey>,
        /// Whether it is created when missing. Default true.
        create: Option<bool>,
        /// Its type, e.g. `kubernetes.io/dockerconfigjson`. Never sent unless given; it cannot change later.
        r#type: Option<Text>,
        /// Labels to set.
        labels: Option<Named<LabelKey, LabelValue>>,
        /// Annotations to set.
        annotations: Option<Named<LabelKey, FreeText>>,
    }
}

spec! {
    /// A formatter plugin and its configuration.
    #[example("{plugin: template, config: {template: …}}")]
    struct FormatSpec {
        /// The plugin: `template`, or a name from `plugins`.
        plugin: At<JobName>,
        /// The plugin's own configuration.
        config: Option<PluginConfig>,
    }
}
