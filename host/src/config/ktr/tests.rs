//! Every setting of kube-token-refresher by every way it can be given, and what becomes of mistakes.

use proptest::prelude::*;

use super::*;

/// What a set-up needs at least, as variables.
const MINIMUM: [(&str, &str); 5] = [
    ("KTR_SECRET_NAME", "bearer-creds"),
    ("KTR_SECRET_NAMESPACE", "broker"),
    ("KTR_OIDC_TOKENURL", "https://idp.example.org/token"),
    ("KTR_OIDC_CLIENTID", "me"),
    ("KTR_OIDC_CLIENTSECRET", "hunter2"),
];

fn read(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<KtrSettings, Mistakes> {
    let mut arguments: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    if !file.is_empty() {
        arguments.extend(["--config".to_owned(), "ktr.yaml".to_owned()]);
    }
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings(&arguments, variables, |path| {
        assert_eq!(path, Path::new("ktr.yaml"));
        Ok(file.as_bytes().to_vec())
    })
}

/// The minimum without some variables and with others.
fn with<'a>(without: &[&str], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = MINIMUM
        .into_iter()
        .filter(|(name, _)| !without.contains(name));
    kept.chain(more.iter().copied()).collect()
}

fn mistakes(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Vec<String> {
    let refused = read(flags, variables, file).expect_err("a mistake");
    assert!(
        !format!("{refused} {}", refused.drawn(false)).contains("hunter2"),
        "{refused}"
    );
    refused.iter().map(ToString::to_string).collect()
}

/// What a setting came to, as text.
fn shown(settings: &KtrSettings, key: Setting) -> String {
    let oidc = |of: fn(&url::Url, &str, &SecretOrigin) -> String| match &settings.provider {
        TokenProvider::Oidc {
            token_url,
            client_id,
            client_secret,
        } => of(token_url, client_id, client_secret),
        TokenProvider::Dummy => "dummy".to_owned(),
    };
    match key {
        Setting::SecretName => settings.name.clone(),
        Setting::SecretNamespace => settings.namespace.clone(),
        Setting::SecretKey => settings.key.clone(),
        Setting::Interval => settings.interval.as_secs().to_string(),
        Setting::LogLevel => format!("{:?}", settings.log_level).to_lowercase(),
        Setting::LogFormat => format!("{:?}", settings.log_format).to_lowercase(),
        Setting::TokenUrl => oidc(|url, _, _| url.to_string()),
        Setting::ClientId => oidc(|_, id, _| id.to_owned()),
        Setting::ClientSecret => oidc(|_, _, secret| match secret {
            SecretOrigin::Value(value) => value.expose().to_owned(),
            SecretOrigin::Env(name) => format!("${name}"),
            other => format!("{other:?}"),
        }),
        Setting::DummyProvider => matches!(settings.provider, TokenProvider::Dummy).to_string(),
    }
}

/// Name, default, and three values: for the file, the variable and the flag. All of KTR's table but `--config`.
const TABLE: [(Setting, Option<&str>, [&str; 3]); 9] = [
    (
        Setting::SecretName,
        None,
        ["from-file", "from-env", "from-flag"],
    ),
    (
        Setting::SecretNamespace,
        None,
        ["from-file", "from-env", "from-flag"],
    ),
    (
        Setting::SecretKey,
        Some("token"),
        ["from_file", "from_env", "from_flag"],
    ),
    (Setting::Interval, Some("500"), ["1", "2", "3"]),
    (Setting::LogLevel, Some("info"), ["debug", "warn", "error"]),
    (Setting::LogFormat, Some("text"), ["json", "text", "json"]),
    (
        Setting::TokenUrl,
        None,
        ["https://file/t", "https://env/t", "https://flag/t"],
    ),
    (
        Setting::ClientId,
        None,
        ["from-file", "from-env", "from-flag"],
    ),
    (
        Setting::ClientSecret,
        None,
        ["from-file", "$KTR_OIDC_CLIENTSECRET", "from-flag"],
    ),
];

fn yaml(key: Setting, value: &str) -> String {
    match key.name().split_once('.') {
        Some((section, name)) => format!("{section}:\n  {name}: {value}\n"),
        None => format!("{}: {value}\n", key.name()),
    }
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    for (key, default, [in_file, in_variable, in_flag]) in TABLE {
        let variable = key.variable();
        let others = with(&[&variable], &[]);
        let both = with(&[&variable], &[(&variable, in_variable)]);
        let file = yaml(key, in_file);
        let flag = format!("--{}={in_flag}", key.name());
        for (flags, variables, file, expected) in [
            (&[][..], &others, "", default),
            (&[], &others, file.as_str(), Some(in_file)),
            (&[], &both, "", Some(in_variable)),
            (&[], &both, file.as_str(), Some(in_variable)),
            (&[flag.as_str()], &others, "", Some(in_flag)),
            (&[flag.as_str()], &both, file.as_str(), Some(in_flag)),
            (
                &[&format!("--{}", key.name()), in_flag],
                &both,
                file.as_str(),
                Some(in_flag),
            ),
        ] {
            let got = read(flags, variables, file)
                .ok()
                .map(|settings| shown(&settings, key));
            assert_eq!(
                got.as_deref(),
                expected,
                "{key:?} {flags:?} {variables:?} {file}"
            );
        }
    }
}

#[test]
fn the_dummy_provider_is_taken_from_variable_or_file_but_a_token_url_goes_first() {
    let no_url = with(
        &[
            "KTR_OIDC_TOKENURL",
            "KTR_OIDC_CLIENTID",
            "KTR_OIDC_CLIENTSECRET",
        ],
        &[],
    );
    let and_dummy: Vec<_> = no_url
        .iter()
        .copied()
        .chain([("KTR_DUMMYPROVIDER", "1")])
        .collect();
    for (variables, file, expected) in [
        (&and_dummy, "", "true"),
        (&no_url, "dummyprovider: true\n", "true"),
        (&no_url, "dummyprovider: \"T\"\n", "true"),
        (&with(&[], &[("KTR_DUMMYPROVIDER", "true")]), "", "false"),
    ] {
        let settings = read(&[], variables, file).unwrap();
        assert_eq!(shown(&settings, Setting::DummyProvider), expected, "{file}");
    }
    assert_eq!(
        mistakes(&[], &no_url, "dummyprovider: false\n"),
        [
            "KTR_OIDC_TOKENURL: `oidc.tokenurl` is missing (set KTR_OIDC_TOKENURL, `--oidc.tokenurl` or `oidc.tokenurl` in the file)"
        ]
    );
    assert_eq!(
        mistakes(&["--dummyprovider=true"], &no_url, ""),
        [
            "--dummyprovider: there is no such flag (`--help` lists the flags)",
            "KTR_OIDC_TOKENURL: `oidc.tokenurl` is missing (set KTR_OIDC_TOKENURL, `--oidc.tokenurl` or `oidc.tokenurl` in the file)",
        ]
    );
}

#[test]
fn the_file_is_named_by_either_spelling_of_the_flag() {
    for flags in [
        &["--config", "ktr.yaml"][..],
        &["--config=ktr.yaml"],
        &["-f", "ktr.yaml"],
        &["-fktr.yaml"],
        &["-f=ktr.yaml"],
    ] {
        let arguments: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let variables = MINIMUM.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = settings(&arguments, variables, |_| Ok(b"interval: 7\n".to_vec())).unwrap();
        assert_eq!(settings.interval, Duration::from_secs(7), "{flags:?}");
    }
}

#[test]
fn the_readme_s_file_is_understood_with_every_comment() {
    let file = "\
---
## kube-token-refresher configuration
secret:
  # Name of the secret to write to
  name: 'bearer'
  namespace: 'ns'
  key: 'token'
interval: 500
log:
  level: 'info'
  format: 'text'
oidc:
  tokenurl: 'https://auth.example.org/token'
  clientid: 'id'
  clientsecret: 'hunter2'
";
    let settings = read(&[], &[], file).unwrap();
    assert_eq!(
        (settings.namespace.as_str(), settings.name.as_str()),
        ("ns", "bearer")
    );
    assert_eq!(shown(&settings, Setting::ClientSecret), "hunter2");
    assert!(settings.warnings.is_empty());
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn what_weak_typing_took_is_taken() {
    for (file, key, expected) in [
        ("interval: '500'\n", Setting::Interval, "500"),
        ("interval: 500.0\n", Setting::Interval, "500"),
        ("interval: 0x10\n", Setting::Interval, "16"),
        ("Interval: 9\n", Setting::Interval, "9"),
        ("secret: {key: 12}\n", Setting::SecretKey, "12"),
        ("secret:\n", Setting::SecretKey, "token"),
        ("log: {level: WARNING}\n", Setting::LogLevel, "warn"),
        ("log: {level: trace}\n", Setting::LogLevel, "trace"),
        ("log: {level: panic}\n", Setting::LogLevel, "error"),
    ] {
        assert_eq!(
            shown(&read(&[], &MINIMUM, file).unwrap(), key),
            expected,
            "{file}"
        );
    }
}

#[test]
fn what_ktr_ignored_is_warned_about() {
    for (variables, file, expected) in [
        (
            &[("KTR_CONFIG", "x")][..],
            "",
            "the variable `KTR_CONFIG` is ignored; name the file with `--config`",
        ),
        (
            &[("KTR_INTERVALL", "x")],
            "",
            "the unknown variable `KTR_INTERVALL` is ignored (did you mean `KTR_INTERVAL`?)",
        ),
        (
            &[],
            "secret: {nmae: x}\n",
            "ktr.yaml:1:10: the unknown key `secret.nmae` is ignored (did you mean `secret.name`?)",
        ),
        (
            &[],
            "scope: x\n",
            "ktr.yaml:1:1: the unknown key `scope` is ignored",
        ),
        (
            &[("KTR_LOG_LEVEL", "loud")],
            "",
            "`log.level` is `loud`, which is no level: `debug` is used; write `debug`, `info` or `warn`",
        ),
        (
            &[("KTR_LOG_FORMAT", "xml")],
            "",
            "`log.format` is `xml`, which is no format: `text` is used; write `text` or `json`",
        ),
    ] {
        let settings = read(&[], &with(&[], variables), file).unwrap();
        assert_eq!(settings.warnings, [expected]);
    }
    // A Service called `ktr` in the namespace, and foreign variables.
    let links = [
        ("KTR_SERVICE_HOST", "10.0.0.1"),
        ("KTR_PORT_80_TCP", "tcp://10.0.0.1"),
        ("PATH", "/bin"),
    ];
    assert!(
        read(&[], &with(&[], &links), "")
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn what_ktr_let_pass_is_a_mistake_with_its_mend() {
    for (flags, variables, file, expected) in [
        (
            &["--secret.nmae=x"][..],
            &[][..],
            "",
            "--secret.nmae: there is no such flag (did you mean `--secret.name`?)",
        ),
        (
            &["--oidc.clientsecrt", "hunter2"],
            &[],
            "",
            "--oidc.clientsecrt: there is no such flag (did you mean `--oidc.clientsecret`?)",
        ),
        (
            &["-xhunter2"],
            &[],
            "",
            "-x: there is no such flag (`--help` lists the flags)",
        ),
        (
            &["hunter2"],
            &[],
            "",
            "command line: an argument that is no flag (kube-token-refresher has flags only, like `--secret.name=value`)",
        ),
        (
            &["--interval"],
            &[],
            "",
            "--interval: the flag has no value (write `--interval=…`)",
        ),
        (
            &["--interval=0"],
            &[],
            "",
            "--interval: an interval of `0` seconds (write a number of seconds from 1 to 315360000)",
        ),
        (
            &[],
            &[("KTR_INTERVAL", "-5")],
            "",
            "KTR_INTERVAL: an interval of `-5` seconds (write a number of seconds from 1 to 315360000)",
        ),
        (
            &[],
            &[("KTR_INTERVAL", "")],
            "",
            "KTR_INTERVAL: the interval `` is not a whole number (write seconds without a unit, like `500`)",
        ),
        (
            &[],
            &[],
            "interval: 500s\n",
            "ktr.yaml:1:11: the interval `500s` is not a whole number (write seconds without a unit, like `500`)",
        ),
        (
            &[],
            &[],
            "interval: 1.5\n",
            "ktr.yaml:1:11: the interval `1.5` is not a whole number (write seconds without a unit, like `500`)",
        ),
        (
            &["--secret.name="],
            &[],
            "",
            "--secret.name: `secret.name` is empty (set KTR_SECRET_NAME, `--secret.name` or `secret.name` in the file)",
        ),
        (
            &["--secret.key="],
            &[],
            "",
            "--secret.key: `secret.key` is empty (set KTR_SECRET_KEY, `--secret.key` or `secret.key` in the file)",
        ),
        (
            &["--secret.name=A_B"],
            &[],
            "",
            "--secret.name: `A_B` is not a Kubernetes object's name (use at most 253 small letters, digits, `-` and `.`, a letter or digit first and last in each part)",
        ),
        (
            &["--oidc.tokenurl=idp"],
            &[],
            "",
            "--oidc.tokenurl: `idp` is not the URL of a token endpoint (write it like `https://idp.example.org/token`)",
        ),
        (
            &["--oidc.tokenurl=https://u:hunter2@idp"],
            &[],
            "",
            "--oidc.tokenurl: the token URL has a user or password (use `oidc.clientid` and `oidc.clientsecret`)",
        ),
        (
            &["--oidc.clientid="],
            &[],
            "",
            "--oidc.clientid: `oidc.clientid` is empty (set KTR_OIDC_CLIENTID, `--oidc.clientid` or `oidc.clientid` in the file)",
        ),
        (
            &["--oidc.clientsecret="],
            &[],
            "",
            "--oidc.clientsecret: `oidc.clientsecret` is empty (set KTR_OIDC_CLIENTSECRET, `--oidc.clientsecret` or `oidc.clientsecret` in the file)",
        ),
        (
            &[],
            &[("KTR_DUMMYPROVIDER", "maybe")],
            "",
            "KTR_DUMMYPROVIDER: `maybe` is neither `true` nor `false` (write `true`)",
        ),
        (
            &[],
            &[],
            "- a\n",
            "ktr.yaml:1:1: expected a mapping (write settings like `secret: {name: …}`)",
        ),
        (
            &[],
            &[],
            "oidc: {clientsecret: [hunter2]}\n",
            "ktr.yaml:1:22: `oidc.clientsecret` is one value, not a list or mapping (write it as text)",
        ),
        (
            &[],
            &[],
            "oidc: {clientsecret: 'hunter2\n",
            "ktr.yaml:1:22: not valid YAML: unclosed quote (close the quote)",
        ),
    ] {
        assert_eq!(mistakes(flags, &with(&[], variables), file), [expected]);
    }
}

#[test]
fn all_that_is_missing_is_said_at_once() {
    assert_eq!(
        mistakes(&[], &[], ""),
        [
            "KTR_SECRET_NAMESPACE: `secret.namespace` is missing (set KTR_SECRET_NAMESPACE, `--secret.namespace` or `secret.namespace` in the file)",
            "KTR_SECRET_NAME: `secret.name` is missing (set KTR_SECRET_NAME, `--secret.name` or `secret.name` in the file)",
            "KTR_OIDC_TOKENURL: `oidc.tokenurl` is missing (set KTR_OIDC_TOKENURL, `--oidc.tokenurl` or `oidc.tokenurl` in the file)",
        ]
    );
    let unreadable = settings(&["-f".to_owned(), "no.yaml".to_owned()], [], |_| {
        Err(std::io::ErrorKind::NotFound.into())
    });
    assert!(
        unreadable
            .unwrap_err()
            .to_string()
            .starts_with("no.yaml: cannot be read: ")
    );
}

#[test]
fn help_is_asked_for_before_the_end_of_flags() {
    for (arguments, expected) in [
        (&["-h"][..], true),
        (&["--x", "--help"], true),
        (&["--", "-h"], false),
        (&[], false),
    ] {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        assert_eq!(asks_for_help(&arguments), expected, "{arguments:?}");
    }
    for key in Setting::ALL
        .into_iter()
        .filter(|key| Setting::of_flag(key.name()).is_some())
    {
        assert!(USAGE.contains(&format!("--{} ", key.name())), "{key:?}");
    }
}

#[test]
fn the_settings_become_one_job_that_does_what_ktr_did() {
    let variables = with(&[], &[("KTR_INTERVAL", "300")]);
    let config = read(&[], &variables, "").unwrap().into_config();
    let [job] = &config.jobs[..] else {
        panic!("{config:?}");
    };
    assert_eq!(
        (job.id.provider, job.id.name.as_str()),
        (Provider::Ktr, "ktr")
    );
    assert_eq!(job.source.plugin, "oauth2");
    assert_eq!(
        job.source.config,
        json!({
            "grant": "client_credentials",
            "token_url": "https://idp.example.org/token",
            "client_id": "me",
            "client_auth": "client_secret_post",
        })
    );
    let SecretOrigin::Env(variable) = &job.source.secrets.get("client_secret").unwrap().origin
    else {
        panic!("{job:?}");
    };
    assert_eq!(variable, "KTR_OIDC_CLIENTSECRET");
    assert_eq!(job.refresh.every, Duration::from_secs(300));
    assert_eq!(job.refresh.at, defaults::AT);
    let Destination::Secret(secret) = &job.outputs[0].destination else {
        panic!("{job:?}");
    };
    assert_eq!(
        (
            secret.namespace.as_str(),
            secret.name.as_str(),
            secret.key.as_str()
        ),
        ("broker", "bearer-creds", "token")
    );
    assert_eq!(
        (secret.write, secret.create),
        (SecretWrite::GetAndPut, true)
    );
    assert_eq!(secret.secret_type, None);
    assert_eq!(
        secret.labels,
        BTreeMap::from([("ktr.appuio.ch/managed".to_owned(), "true".to_owned())])
    );
    assert!(matches!(config.state, StateLocation::Memory));
}

#[test]
fn without_an_expiry_the_interval_alone_decides() {
    for seconds in [1_u64, 60, 500, 86_400, 1_000_000] {
        let variables = with(&[], &[]);
        let flag = format!("--interval={seconds}");
        let policy = read(&[&flag], &variables, "").unwrap().into_config().jobs[0]
            .refresh
            .clone();
        let life = policy.default_lifetime;
        let before = policy.before_expiry.min(life / 2);
        assert!(
            life.mul_f64(policy.at) >= policy.every && life - before >= policy.every,
            "{seconds}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_arguments_and_no_file_make_it_panic(
        arguments in proptest::collection::vec("-{0,3}(f|config|interval|secret.name|é)?=?[a-z0-9é=-]{0,5}", 0..6),
        file in "[a-z0-9 :\\-\\[\\]{},\"'|>&*!%#@\t\n~.é]{0,100}",
    ) {
        let variables = MINIMUM.map(|(name, value)| (name.to_owned(), value.to_owned()));
        if let Err(mistakes) = settings(&arguments, variables, |_| Ok(file.into_bytes())) {
            prop_assert!(!mistakes.drawn(false).is_empty());
        }
    }

    #[test]
    fn the_client_s_secret_is_not_shown_wherever_the_file_breaks(at in 0_usize..150, junk in "[:\\[\\]{}'\"\n\t,]{1,3}") {
        let mut text = "secret: {name: a, namespace: b}\noidc:\n  tokenurl: https://idp\n  clientid: me\n  clientsecret: hunter2hunter2\n".to_owned();
        text.insert_str(at.min(text.len()), &junk);
        let shown = match read(&[], &[], &text) {
            Ok(settings) => format!("{settings:?}"),
            Err(mistakes) => format!("{mistakes}{}", mistakes.drawn(false)),
        };
        prop_assert!(!shown.contains("hunter2"), "{}\n{}", text, shown);
    }
}
