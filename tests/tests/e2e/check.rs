//! What `check` finds before anything runs: by itself what is wrong in templates, with `--online` what the world lacks, with `--mint` what
//! only a request for a token tells; and that none of it spends or leaves anything.

use std::time::{Duration, Instant, SystemTime};

use data_encoding::BASE64;
use evertoken_tests::disk::SmallDisk;
use evertoken_tests::evertoken::Finished;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::ApiServer;
use evertoken_tests::server::Behaviour;
use serde_json::json;

use crate::scene::Scene;

/// A job of an OAuth 2.0 client at a path of an issuer.
fn job(name: &str, issuer: &Issuer) -> String {
    let url = issuer.url(&format!("/{name}"));
    format!(
        "- {{name: {name}, source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: \"{url}\", client_id: c}}, secrets: {{client_secret: {{value: s3cr3t-value}}}}}}, outputs: [{{file: {{path: \"{{out}}/{name}\"}}}}]}}\n"
    )
}

/// Refuses whoever does not authenticate, as RFC 6749 §5.2 says.
fn refusal() -> Behaviour {
    Behaviour::oauth_error(400, "invalid_request")
}

fn date(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap();
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn shown(finished: &Finished) -> String {
    let shown = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!shown.contains("s3cr3t"), "{shown}");
    shown
}

/// What can be meant, and hardly is.
#[test]
fn what_seldom_ends_well_is_a_warning() {
    let scene = Scene::new("check-warns").unwrap();
    let oauth2 = |config: &str, secrets: &str| {
        format!(
            "{{plugin: oauth2, config: {{token_url: \"https://issuer.test/token\", client_id: a, {config}}}, secrets: {{{secrets}}}}}"
        )
    };
    let login = "grant: refresh_token, client_auth: none";
    let mirror = |rest: &str| format!("{{plugin: mirror, secrets: {{token: {{value: x}}}}{rest}}}");
    let dummy = || "{plugin: dummy}".to_owned();
    for (source, template, warning) in [
        (
            oauth2("grant: client_credentials", ""),
            None,
            Some("nothing authenticates its client"),
        ),
        (
            oauth2("grant: client_credentials, client_auth: none", ""),
            None,
            None,
        ),
        (
            oauth2(login, "refresh_token: {value: x}"),
            None,
            Some("its `refresh_token` is not `rotating: true`"),
        ),
        (
            oauth2(login, "refresh_token: {value: x, rotating: true}"),
            None,
            None,
        ),
        (mirror(""), None, Some("add `reveal: [token]`")),
        (mirror(", reveal: [token]"), None, None),
        (
            dummy(),
            Some("$TOKEN"),
            Some("the same whatever the token is"),
        ),
        (dummy(), Some("x{{ token }}"), None),
        (dummy(), Some("{{ expires_at }}"), None),
    ] {
        let format = template
            .map(|text| format!(", format: {{plugin: template, config: {{template: {text:?}}}}}"));
        let yaml = format!(
            "state: {{dir: \"{{here}}/state\"}}\njobs: [{{name: a, source: {source}, outputs: [{{file: {{path: \"{{out}}/a\"}}{}}}]}}]\n",
            format.unwrap_or_default()
        );
        let path = scene.config(&yaml).unwrap();
        let finished = scene.command(&["check"], &path).unwrap();
        assert_eq!(finished.code(), Some(0), "{source}: {}", finished.stderr);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        match warning {
            Some(warning) => assert!(said.contains(warning), "{source}: {said}"),
            None => assert!(!said.contains("warning"), "{source}: {said}"),
        }
    }
    let nothing = scene.config("jobs: []\n").unwrap();
    let finished = scene.command(&["check"], &nothing).unwrap();
    assert!(
        finished.stderr.contains("warning: there are no jobs"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_template_that_cannot_work_is_a_mistake_of_the_file_and_one_that_needs_a_field_is_not() {
    let scene = Scene::new("templates").unwrap();
    let output = |name: &str, config: &str| {
        format!(
            "  - file: {{path: \"{{out}}/{name}\"}}\n    format:\n      plugin: template\n      config: {config}\n"
        )
    };
    let good = [
        r#"{template: "{{ fields.id_token }} {{ claims.groups | join(',') }}"}"#,
        r#"{template: "{{ (fields.blob | b64decode | json).key }}"}"#,
        r#"{template: "{{ tokens.a.value }} {{ claims.sub }}"}"#,
    ];
    let bad = [
        (r#"{template: "{{ token"}"#, "syntax error"),
        (r#"{template: "{{ tokn }}"}"#, "tokn is not known"),
        (r#"{template: "{{ token | b64 }}"}"#, "unknown filter"),
        (
            r#"{template: "{{ tokens.b.value }}"}"#,
            "tokens.b.value is not known",
        ),
        (r#"{files: {"a.json": "{% if %}"}}"#, "config.files.a.json"),
    ];
    let head = "jobs:\n- name: a\n  source: {plugin: dummy}\n  outputs:\n";
    let outputs = |configs: &[&str]| -> String {
        let numbered = configs.iter().enumerate();
        numbered
            .map(|(number, config)| output(&number.to_string(), config))
            .collect()
    };
    let config = scene.config(&format!("{head}{}", outputs(&good))).unwrap();
    let finished = scene.command(&["check"], &config).unwrap();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);

    let configs: Vec<&str> = bad.iter().map(|(config, _)| *config).collect();
    let config = scene
        .config(&format!("{head}{}", outputs(&configs)))
        .unwrap();
    let finished = scene.command(&["check"], &config).unwrap();
    assert_eq!(finished.code(), Some(64), "{}", finished.stderr);
    for (number, (config, said)) in bad.iter().enumerate() {
        // Four lines before the first output, four for each.
        let place = format!("evertoken.yaml:{}:", 4 + 4 * (number + 1));
        let told = |line: &str| line.contains(&place) && line.contains(said);
        assert!(
            finished.stderr.lines().any(told),
            "{config}: nothing at {place}\n{}",
            finished.stderr
        );
    }
}

#[test]
fn issuers_are_probed_once_without_credentials_and_what_is_no_token_endpoint_is_said() {
    let scene = Scene::new("probes").unwrap();
    let issuer = Issuer::start().unwrap();
    let page = || Behaviour::answer(200, "<html><body>Maintenance</body></html>");
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    let now = SystemTime::now();
    let table = [
        ("good", refusal(), None),
        ("page", page(), Some("HTML")),
        (
            "login",
            Behaviour::redirect("https://login.invalid/?s=s3cr3t"),
            Some("https://login.invalid/"),
        ),
        ("lost", Behaviour::answer(404, "no"), Some("path")),
        (
            "empty-is-lost",
            Behaviour::oauth_error(404, "invalid_request"),
            None,
        ),
        ("down", Behaviour::answer(503, "no"), Some("in trouble")),
        (
            "ahead",
            refusal().header("date", &date(now + hours(1))),
            Some("ahead of"),
        ),
        (
            "behind",
            refusal().header("date", &date(now - hours(1))),
            Some("behind"),
        ),
        ("exact", refusal().header("date", &date(now)), None),
    ];
    let mut yaml = "limits: {plugin: {requests: 0}}\njobs:\n".to_owned();
    for (name, behaviour, _) in &table {
        issuer.always(&format!("/{name}"), behaviour.clone());
        yaml.push_str(&job(name, &issuer));
    }
    yaml.push_str(
        &job("good", &issuer)
            .replace("name: good", "name: again")
            .replace("out}/good", "out}/again"),
    );
    let config = scene.config(&yaml).unwrap();

    let finished = scene.command(&["check", "--online"], &config).unwrap();
    let all = shown(&finished);
    assert_eq!(finished.code(), Some(1), "{all}");
    for (name, _, wrong) in &table {
        let of_job = |text: &str| -> String {
            let lines = text
                .lines()
                .filter(|line| line.contains(&format!("job {name}:")));
            lines.collect::<Vec<_>>().join("\n")
        };
        match wrong {
            Some(said) => assert!(of_job(&finished.stderr).contains(said), "{name}: {all}"),
            None => {
                assert_eq!(of_job(&finished.stderr), "", "{all}");
                assert!(
                    of_job(&finished.stdout).contains("invalid_request"),
                    "{all}"
                );
            }
        }
    }
    let requests = issuer.requests();
    assert_eq!(requests.len(), table.len(), "each issuer once");
    for request in requests {
        assert!(request.body.is_empty(), "{request:?}");
        assert!(request.header("authorization").is_none(), "{request:?}");
    }
    // A start waits for nobody, whatever an issuer answers.
    let strict = scene
        .command(&["once", "--timeout", "1ms"], &config)
        .unwrap();
    assert_eq!(strict.code(), Some(1));
}

#[test]
fn issuers_that_hang_are_waited_for_together_and_told_in_the_order_of_the_file() {
    let scene = Scene::new("hung").unwrap();
    let issuer = Issuer::start().unwrap();
    let mut yaml = "defaults: {source: {timeout: 3s}}\njobs:\n".to_owned();
    let names: Vec<String> = (0..10).map(|number| format!("j{number}")).collect();
    for name in &names {
        issuer.always(&format!("/{name}"), Behaviour::hang());
        yaml.push_str(&job(name, &issuer));
    }
    let config = scene.config(&yaml).unwrap();
    let began = Instant::now();
    let finished = scene.command(&["check", "--online"], &config).unwrap();
    let took = began.elapsed();
    assert_eq!(finished.code(), Some(1), "{}", finished.stdout);
    assert!(took < Duration::from_secs(15), "{took:?}");
    let failed = finished.stderr.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("error: job ")?.split_once(':')?;
        Some(name.to_owned())
    });
    assert_eq!(failed.collect::<Vec<_>>(), names, "{}", finished.stderr);
}

#[test]
fn an_issuer_that_hangs_takes_no_time_from_the_next_one_of_its_job() {
    let scene = Scene::new("next-issuer").unwrap();
    let (hung, well) = (Issuer::start().unwrap(), Issuer::start().unwrap());
    hung.always("/a", Behaviour::hang());
    let allow = format!("timeout: 2s, allow: [\"{}\"], plugin:", well.url(""));
    let job = job("a", &hung).replace("plugin:", &allow);
    let config = scene.config(&format!("jobs:\n{job}")).unwrap();
    let finished = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(finished.code(), Some(1), "{}", shown(&finished));
    let answers = format!("{} answers", well.url(""));
    assert!(finished.stdout.contains(&answers), "{}", shown(&finished));
}

#[test]
fn an_empty_seed_is_a_warning_where_its_use_may_fill_it() {
    let scene = Scene::new("empty-seed").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/a", refusal());
    scene.write("empty", "").unwrap();
    for (secret, code, said) in [
        (
            "{file: \"{here}/empty\", rotating: true}",
            0,
            "unless the plugin brings the first one itself",
        ),
        ("{file: \"{here}/empty\"}", 1, "it is empty"),
        ("{file: \"{here}/missing\", rotating: true}", 1, "/missing"),
    ] {
        let job = job("a", &issuer).replace("{value: s3cr3t-value}", secret);
        let yaml = format!("state: {{dir: \"{{here}}/state\"}}\njobs:\n{job}");
        let config = scene.config(&yaml).unwrap();
        let finished = scene.command(&["check", "--online"], &config).unwrap();
        let all = shown(&finished);
        assert_eq!(finished.code(), Some(code), "{secret}: {all}");
        assert!(finished.stderr.contains(said), "{secret}: {all}");
    }
}

#[test]
fn what_is_well_formed_and_hardly_meant_is_a_warning_with_its_place_and_never_its_value() {
    let scene = Scene::new("warnings").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/a", refusal());
    std::fs::write(scene.path("quoted"), "'s3cr3t'\n").unwrap();
    let a = job("a", &issuer)
        .replace("{value: s3cr3t-value}", "{file: \"{here}/quoted\"}")
        .replace("client_id: c", "client_id: \"c \"");
    let b = job("b", &issuer).replace("127.0.0.1", "idp.example.org");
    let config = scene.config(&format!("jobs:\n{a}{b}")).unwrap();
    let plain = scene.command(&["check"], &config).unwrap();
    assert_eq!(plain.code(), Some(0), "{}", shown(&plain));
    for said in [
        "evertoken.yaml:2:",
        "begins or ends with a blank",
        "http://idp.example.org",
        "is asked without TLS",
        "but for the 2 warnings above",
    ] {
        assert!(plain.stderr.contains(said), "{said}: {}", shown(&plain));
    }
    let config = scene.config(&format!("jobs:\n{a}")).unwrap();
    let online = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(online.code(), Some(0), "{}", shown(&online));
    let quotes = "warning: job a: secret client_secret: it stands in quotes";
    assert!(online.stderr.contains(quotes), "{}", shown(&online));
    // Whoever gets a token has meant it so.
    issuer.respond_with("/a", |request| match request.header("authorization") {
        None => Behaviour::answer(404, ""),
        Some(_) => Behaviour::token("s3cr3t-token", 3600),
    });
    for (arguments, warnings) in [(["check", "--online"], 2), (["check", "--mint"], 0)] {
        let finished = scene.command(&arguments, &config).unwrap();
        assert_eq!(finished.code(), Some(0), "{}", shown(&finished));
        let told = finished.stderr.matches("warning: job a:").count();
        assert_eq!(told, warnings, "{arguments:?}: {}", shown(&finished));
    }
}

#[test]
fn options_that_could_not_be_judged_are_not_all_right() {
    let scene = Scene::new("unjudged").unwrap();
    let digest = "0".repeat(64);
    let there = scene.write("other.wasm", "\0asm").unwrap();
    for path in [
        "{here}/nowhere.wasm".to_owned(),
        there.display().to_string(),
    ] {
        let config = scene.config(&format!(
            "plugins: {{acme: {{path: \"{path}\", sha256: \"{digest}\"}}}}\njobs: [{{name: a, source: {{plugin: acme, config: {{usrname: x}}}}, outputs: [{{file: {{path: \"{{out}}/a\"}}}}]}}]\n"
        ));
        let checked = scene.command(&["check"], &config.unwrap()).unwrap();
        let all = shown(&checked);
        assert_eq!(checked.code(), Some(0), "{all}");
        for said in [
            "plugin `acme`",
            "the options and secrets of its jobs were not checked",
            "1 job, 0 shared outputs: all right, but for the warning above",
        ] {
            assert!(all.contains(said), "{said}: {all}");
        }
    }
}

#[test]
fn what_is_told_of_a_token_is_what_a_run_would_take_and_holds_no_secret() {
    let scene = Scene::new("told").unwrap();
    let issuer = Issuer::start().unwrap();
    let dead =
        evertoken_tests::jwt::unchecked(&json!({"iat": 1_500_000_000, "exp": 1_400_000_000}));
    for (path, token) in [
        (
            "/typed",
            json!({"access_token": "s3cr3t-token", "token_type": "s3cr3t-token"}),
        ),
        (
            "/over",
            json!({"access_token": "s3cr3t-token", "expires_in": -1, "scope": ""}),
        ),
        (
            "/dead",
            json!({"access_token": dead, "token_type": "Bearer"}),
        ),
    ] {
        issuer.respond_with(path, move |request| match request.header("authorization") {
            None => refusal(),
            Some(_) => Behaviour::json(200, &token),
        });
    }
    let jobs = ["typed", "over", "dead"].map(|name| job(name, &issuer));
    let config = format!("jobs:\n{}", jobs.concat());
    let mint = scene.command(&["check", "--mint"], &scene.config(&config).unwrap());
    let all = shown(&mint.unwrap());
    for said in [
        "ok: job typed: gets a token: [redacted], says no lifetime, 1h0m is assumed",
        "ok: job over: gets a token: Bearer, says no lifetime, 1h0m is assumed\n",
        "error: job dead: the token that the source returned expired at 2014-",
    ] {
        assert!(all.contains(said), "{said}: {all}");
    }
}

#[test]
fn tokens_that_do_not_come_are_waited_for_together() {
    const JOBS: usize = 8;
    let scene = Scene::new("mint-hangs").unwrap();
    let issuer = Issuer::start().unwrap();
    let jobs: String = (0..JOBS)
        .map(|number| {
            let name = format!("job{number}");
            issuer.respond_with(&format!("/{name}"), |request| {
                match request.header("authorization") {
                    None => refusal(),
                    Some(_) => Behaviour::hang(),
                }
            });
            job(&name, &issuer).replace("source: {", "source: {timeout: 5s, ")
        })
        .collect();
    let config = scene.config(&format!("jobs:\n{jobs}")).unwrap();
    let began = Instant::now();
    let mint = scene.command(&["check", "--mint"], &config).unwrap();
    let took = began.elapsed();
    let all = shown(&mint);
    assert_eq!(mint.code(), Some(1), "{all}");
    assert!(took < Duration::from_secs(30), "{took:?}: {all}");
    for number in 0..JOBS {
        assert!(all.contains(&format!("job{number}")), "{number}: {all}");
    }
}

#[test]
fn a_token_is_asked_for_only_when_wanted_and_where_that_spends_nothing() {
    let scene = Scene::new("mint").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.respond_with("/right", |request| {
        if request.header("authorization").is_none() {
            return refusal();
        }
        Behaviour::json(
            200,
            &json!({"access_token": "s3cr3t-token", "token_type": "Bearer", "expires_in": 4210, "scope": "read write", "id_token": "s3cr3t-id"}),
        )
    });
    issuer.respond_with("/wrong", |request| match request.header("authorization") {
        None => refusal(),
        Some(_) => Behaviour::oauth_error(401, "invalid_client"),
    });
    issuer.always("/rotating", refusal());
    issuer.always("/unmarked", refusal());
    let rotating = format!(
        "- {{name: rotating, source: {{plugin: oauth2, config: {{grant: refresh_token, token_url: \"{}\", client_id: c}}, secrets: {{refresh_token: {{value: s3cr3t-seed, rotating: true}}}}}}, outputs: [{{file: {{path: \"{{out}}/rotating\"}}}}]}}\n",
        issuer.url("/rotating")
    );
    let unmarked = rotating
        .replace("rotating\"", "unmarked\"")
        .replace("name: rotating", "name: unmarked")
        .replace("/rotating", "/unmarked")
        .replace(", rotating: true", "");
    let with_format = job("right", &issuer).replace(
        "right\"}}]}",
        "right\"}, format: {plugin: template, config: {template: \"{{ fields.id_token }}\"}}}]}",
    );
    let yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\njobs:\n{with_format}{}{rotating}{unmarked}",
        job("wrong", &issuer)
    );
    let config = scene.config(&yaml).unwrap();

    let online = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(online.code(), Some(0), "{}", shown(&online));
    let mint = scene.command(&["check", "--mint"], &config).unwrap();
    let all = shown(&mint);
    assert_eq!(mint.code(), Some(1), "{all}");
    for said in [
        "ok: job right: gets a token: Bearer, lives 1h10m, scope read write, with id_token",
        "ok: job right: template takes the token",
        "not tried: job rotating: asking for a token would spend its rotating secret refresh_token",
        "not tried: job unmarked: its issuer may replace the secret refresh_token at any use",
    ] {
        assert!(mint.stdout.contains(said), "{all}");
    }
    let errors: Vec<&str> = mint
        .stderr
        .lines()
        .filter(|line| line.starts_with("error:"))
        .collect();
    assert!(
        matches!(errors[..], [only] if only.starts_with("error: job wrong:") && only.contains("invalid_client")),
        "{all}"
    );
    for path in ["/rotating", "/unmarked"] {
        for request in issuer.requests_to(path) {
            assert!(request.body.is_empty(), "{request:?}");
        }
    }
    assert!(!scene.out("right").exists() && !scene.path("state/state.redb").exists());
}

#[test]
fn the_state_is_proved_beside_a_process_that_has_it_and_a_full_disk_is_said() {
    let scene = Scene::new("check-state").unwrap();
    let yaml = "state: {dir: \"{here}/disk/state\"}\njobs: [{name: a, source: {plugin: dummy, config: {lifetime: 1h}}, outputs: [{file: {path: \"{here}/disk/a\"}}]}]\n";
    let config = scene.config(yaml).unwrap();
    std::fs::create_dir(scene.path("disk")).unwrap();
    let Some(disk) = SmallDisk::mount(&scene.path("disk"), "16m") else {
        return;
    };
    let process = scene.run(&config).unwrap();
    evertoken_tests::wait_until("the first token", crate::scene::PATIENCE, || {
        scene.path("disk/a").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    let beside = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(beside.code(), Some(0), "{}", beside.stderr);
    let holder = format!("process {}", process.pid());
    assert!(beside.stdout.contains(&holder), "{}", beside.stdout);
    process.terminate(crate::scene::PATIENCE).unwrap();
    drop(process);

    let filler = disk.fill().unwrap();
    let full = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(full.code(), Some(1), "{}", full.stdout);
    for who in ["error: state:", "error: job a:"] {
        let said = |line: &str| {
            line.starts_with(who) && line.contains("No space left") && line.ends_with("; make room")
        };
        assert!(full.stderr.lines().any(said), "{who} {}", full.stderr);
    }
    std::fs::remove_file(filler).unwrap();
    let mended = scene.command(&["check", "--online"], &config).unwrap();
    assert_eq!(mended.code(), Some(0), "{}", mended.stderr);
}

#[test]
fn a_control_socket_that_cannot_be_made_is_said_before_and_a_proof_leaves_nothing() {
    let scene = Scene::new("check-control").unwrap();
    let proved = |socket: &str| {
        let yaml = format!(
            "control: {{socket: \"{{here}}/{socket}\"}}\njobs: [{{name: a, source: {{plugin: dummy, config: {{lifetime: 1h}}}}, outputs: [{{file: {{path: \"{{out}}/a\"}}}}]}}]\n"
        );
        let config = scene.config(&yaml).unwrap();
        (
            scene.command(&["check", "--online"], &config).unwrap(),
            config,
        )
    };
    std::fs::create_dir(scene.path("taken")).unwrap();
    for (socket, expected) in [
        ("taken", "is in the control socket's place and is no socket"),
        ("no/where/s.sock", "No such file or directory"),
    ] {
        let (refused, _) = proved(socket);
        assert_eq!(refused.code(), Some(1), "{socket}: {}", refused.stderr);
        let said = |line: &str| line.starts_with("error: control:") && line.contains(expected);
        assert!(
            refused.stderr.lines().any(said),
            "{socket}: {}",
            refused.stderr
        );
    }
    let (free, config) = proved("new/s.sock");
    assert_eq!(free.code(), Some(0), "{}", free.stderr);
    assert!(free.stdout.contains("ok: control: socket"));
    assert!(!scene.path("new").exists());

    let process = scene.run(&config).unwrap();
    process
        .wait_for("the socket", crate::scene::PATIENCE, |_| {
            scene.path("new/s.sock").exists()
        })
        .unwrap();
    let (beside, config) = proved("new/s.sock");
    assert_eq!(beside.code(), Some(0), "{}", beside.stderr);
    assert!(beside.stdout.contains("ok: control: a process listens on"));
    assert!(scene.row(&config, "a").is_some(), "it is still there");
}

#[test]
fn an_address_that_is_not_this_machines_is_said_before_a_start_fails() {
    let scene = Scene::new("check-serve").unwrap();
    let free = evertoken_tests::workdir::free_port().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    for (address, code, expected) in [
        (format!("127.0.0.1:{free}"), 0, "ok: serve: "),
        (taken.to_string(), 0, "not tried: serve: a process listens"),
        (
            "203.0.113.1:8080".to_owned(),
            1,
            "error: serve: cannot listen on 203.0.113.1:8080: ",
        ),
    ] {
        let yaml = format!(
            "serve: {{address: \"{address}\"}}\njobs: [{{name: a, source: {{plugin: dummy, config: {{lifetime: 1h}}}}, outputs: [{{file: {{path: \"{{out}}/a\"}}}}]}}]\n"
        );
        let config = scene.config(&yaml).unwrap();
        let proved = scene.command(&["check", "--online"], &config).unwrap();
        let text = shown(&proved);
        assert_eq!(proved.code(), Some(code), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with(expected)),
            "{text}"
        );
    }
}

#[test]
fn what_the_cluster_would_refuse_is_said_before_and_nothing_is_written_there() {
    let Some(cluster) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = cluster.namespace("check").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["named"], "verbs": ["patch"]}]);
    let account = cluster
        .service_account(&namespace, "evertoken", &rules)
        .unwrap();
    cluster
        .admin()
        .create_secret(&namespace, "named", json!({"data": {}}))
        .unwrap();
    let scene = Scene::new("check-cluster").unwrap();
    let output = |name: &str| {
        format!(
            "- {{name: {name}, source: {{plugin: dummy}}, outputs: [{{secret: {{namespace: {namespace}, name: {name}}}}}]}}\n"
        )
    };
    let check = |yaml: &str| {
        let config = scene.config(yaml).unwrap();
        scene
            .launch()
            .unwrap()
            .env("KUBECONFIG", &account.kubeconfig)
            .args(["check", "--online", "--config"])
            .args([&config])
            .finish(crate::scene::PATIENCE)
            .unwrap()
    };
    let good = check(&format!("jobs:\n{}", output("named")));
    assert_eq!(good.code(), Some(0), "{}", good.stderr);
    let bad = check(&format!(
        "state: {{secret: {{namespace: {namespace}}}}}\njobs:\n{}{}",
        output("named"),
        output("other")
    ));
    assert_eq!(bad.code(), Some(1), "{}", bad.stdout);
    for said in ["error: state:", "error: job other:", "grant verb `patch`"] {
        assert!(bad.stderr.contains(said), "{}", bad.stderr);
    }
    assert!(!bad.stderr.contains("job named:"), "{}", bad.stderr);
    let found = cluster
        .admin()
        .secret(&namespace, "named")
        .unwrap()
        .unwrap();
    assert!(found["data"].is_null(), "{found}");
}

#[test]
fn what_is_wrong_on_the_way_to_the_cluster_is_said_before_and_its_clock_is_looked_at() {
    let Some(cluster) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = cluster.namespace("check-way").unwrap();
    let scene = Scene::new("check-way").unwrap();
    let kubeconfig = std::fs::read_to_string(cluster.admin_kubeconfig(&namespace).unwrap());
    let kubeconfig: serde_json::Value = serde_json::from_str(&kubeconfig.unwrap()).unwrap();
    let other = BASE64.encode(
        evertoken_tests::pki::Authority::new("other")
            .unwrap()
            .pem()
            .as_bytes(),
    );
    let (in_cluster, in_user) = ("/clusters/0/cluster", "/users/0/user");
    let token_file = {
        let mut kubeconfig = kubeconfig.clone();
        *kubeconfig.pointer_mut(in_user).unwrap() = json!({"tokenFile": "missing"});
        kubeconfig
    };
    let with = |pointer: &str, key: &str, value: &str| {
        let mut kubeconfig = kubeconfig.clone();
        kubeconfig.pointer_mut(pointer).unwrap()[key] = value.into();
        kubeconfig
    };
    let check = |kubeconfig: &serde_json::Value, output: &str| {
        let path = scene.write("kubeconfig", &kubeconfig.to_string()).unwrap();
        let config = scene.config(&format!(
            "jobs: [{{name: a, source: {{plugin: dummy}}, outputs: [{{secret: {{{output}}}}}]}}]\n"
        ));
        let launch = scene.launch().unwrap().env("KUBECONFIG", path);
        let launch = launch.args(["check", "--online", "--config"]);
        launch
            .args([config.unwrap()])
            .finish(crate::scene::PATIENCE)
            .unwrap()
    };
    let here = format!("namespace: {namespace}, name: a");
    for (kubeconfig, words) in [
        (
            with("", "current-context", "prod"),
            "its current context is `prod`, and there is no such context",
        ),
        (
            with(in_cluster, "server", "https://127.0.0.1:1"),
            "onnection refused",
        ),
        (
            with(in_cluster, "server", "kubernetes"),
            "`server` is not the URL",
        ),
        (
            with(in_cluster, "certificate-authority-data", &other),
            "is not signed by the cluster's authority",
        ),
        (
            with(in_cluster, "tls-server-name", "other.test"),
            "is for another name",
        ),
        (
            with(in_user, "token", "expired"),
            "they are wrong or have expired",
        ),
        (token_file, "missing cannot be read: it does not exist"),
    ] {
        let finished = check(&kubeconfig, &here);
        assert_eq!(finished.code(), Some(1), "{words}: {}", finished.stdout);
        assert!(
            finished.stderr.contains("error: job a: "),
            "{}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains(words),
            "{words}: {}",
            finished.stderr
        );
    }
    let missing = format!("namespace: {namespace}-no, name: a");
    for more in ["create: true", "create: false"] {
        let finished = check(&kubeconfig, &format!("{missing}, {more}"));
        assert_eq!(finished.code(), Some(1), "{more}: {}", finished.stdout);
        let said = format!("namespace {namespace}-no does not exist; create it");
        let secret = "it does not exist; create it";
        let stderr = &finished.stderr;
        assert!(
            stderr.contains(&said) || stderr.contains(secret),
            "{more}: {stderr}"
        );
    }
    for (more, code) in [("create: true", 0), ("create: false", 1)] {
        let finished = check(&kubeconfig, &format!("{here}, {more}"));
        assert_eq!(finished.code(), Some(code), "{more}: {}", finished.stderr);
        let clock = "ok: cluster: the clock of the API server is within ";
        assert!(finished.stdout.contains(clock), "{}", finished.stdout);
    }
    assert!(cluster.admin().secret(&namespace, "a").unwrap().is_none());
}

#[test]
fn a_client_certificate_is_read_from_files_or_data_and_one_that_expired_is_told() {
    let Some(cluster) = ApiServer::shared().unwrap() else {
        return;
    };
    let namespace = cluster.namespace("certificate").unwrap();
    let scene = Scene::new("certificate").unwrap();
    let rules =
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["patch", "create"]}]);
    let user = format!("{namespace}.user.test");
    cluster.grant(&namespace, "user", &user, &rules).unwrap();
    let authority = cluster.authority();
    let good = authority.client(&user).unwrap();
    let expired = authority.expired_client(&user, 2020).unwrap();
    for (name, content) in [
        ("ca.crt", cluster.ca_pem().to_owned()),
        // A byte order mark and no line end, as some editors leave it.
        (
            "tls.crt",
            format!("\u{feff}{}", good.certificate_pem.trim_end()),
        ),
        ("tls.key", good.key_pem.trim_end().to_owned()),
    ] {
        scene.write(name, &content).unwrap();
    }
    let data = |identity: &evertoken_tests::pki::Identity| {
        json!({
            "client-certificate-data": BASE64.encode(identity.certificate_pem.as_bytes()),
            "client-key-data": BASE64.encode(identity.key_pem.as_bytes()),
        })
    };
    let config = scene
        .config(&format!(
            "jobs: [{{name: a, source: {{plugin: dummy}}, outputs: [{{secret: {{namespace: {namespace}, name: a, create: true}}}}]}}]\n"
        ))
        .unwrap();
    let files = json!({"client-certificate": "tls.crt", "client-key": "tls.key"});
    let only_half = json!({"client-certificate": "tls.crt"});
    for (user, refused) in [
        (files, None),
        (data(&good), None),
        (data(&expired), Some("they are wrong or have expired")),
        (only_half, Some("client key")),
    ] {
        let kubeconfig = json!({
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": cluster.url(), "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": user}],
        });
        let kubeconfig = scene.write("kubeconfig", &kubeconfig.to_string());
        let launch = scene.launch().unwrap();
        let finished = launch
            .env("KUBECONFIG", kubeconfig.unwrap())
            .args(["check", "--online", "--config"])
            .args([&config])
            .finish(crate::scene::PATIENCE)
            .unwrap();
        let said = &finished.stderr;
        assert_eq!(finished.code() == Some(0), refused.is_none(), "{said}");
        assert!(refused.is_none_or(|words| said.contains(words)), "{said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
}
