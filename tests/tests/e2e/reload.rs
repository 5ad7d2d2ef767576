//! Another configuration while the process runs: what of it changes takes effect and nothing else is touched, a wrong one changes
//! nothing, and whoever asks is told.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use rustix::process::Signal;
use serde_json::Value;

use crate::scene::{PATIENCE, Scene};

/// A reload by the watch comes within this time on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Long enough for a watch to have noticed a change.
const A_WHILE: Duration = Duration::from_secs(4);

/// An issuer that gives out numbered tokens of an hour.
fn issuer() -> Issuer {
    let issuer = Issuer::start().unwrap();
    for job in ["a", "b", "c"] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        issuer.respond_with(&format!("/{job}"), move |_| {
            let nth = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Behaviour::token(&format!("{job}-{nth}"), 3600)
        });
    }
    issuer
}

/// A job that asks the path of its name, with more options and more keys.
fn job(issuer: &Issuer, name: &str, options: &str, keys: &str) -> String {
    format!(
        r#"- name: {name}
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "{}", client_id: svc, client_auth: none{options}}}
{keys}"#,
        issuer.url(&format!("/{name}"))
    )
}

fn outputs(paths: &[&str]) -> String {
    let mut outputs = "  outputs:\n".to_owned();
    for path in paths {
        outputs.push_str(&format!("  - file: {{path: \"{{out}}/{path}\"}}\n"));
    }
    outputs
}

fn held(scene: &Scene, path: &str) -> Option<String> {
    std::fs::read_to_string(scene.out(path)).ok()
}

fn wait_for(process: &Evertoken, what: &str, holds: impl Fn() -> bool) {
    wait_until(what, SOON, || holds().then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

/// Tells the process to reload, and returns what it says.
fn reload(scene: &Scene, config: &Path) -> String {
    let finished = scene.command(&["reload"], config).unwrap();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    finished.stdout
}

fn run(scene: &Scene, config: &Path, more: &[&str]) -> Evertoken {
    let launch = scene.launch().unwrap().args(["run", "-v", "--config"]);
    launch.args([config]).args(more).spawn().unwrap()
}

#[test]
fn each_part_of_a_job_changes_apart_and_another_job_is_not_touched() {
    let (scene, issuer) = (Scene::new("reload-parts").unwrap(), issuer());
    let state = "state: {dir: \"{here}/state\"}\njobs:\n";
    let write = |a: &str| {
        let b = job(&issuer, "b", "", &outputs(&["b"]));
        scene.config(&format!("{state}{a}{b}")).unwrap()
    };
    let config = write(&job(&issuer, "a", "", &outputs(&["a"])));
    let process = run(&scene, &config, &["--no-watch"]);
    wait_for(&process, "both tokens", || {
        held(&scene, "a").is_some() && held(&scene, "b").is_some()
    });
    let before = std::fs::metadata(scene.out("b")).unwrap();
    let asked = |job: &str| issuer.requests_to(&format!("/{job}")).len();

    write(&job(&issuer, "a", "", &outputs(&["a", "a2"])));
    let said = reload(&scene, &config);
    assert!(
        said.contains("~ job a: outputs; writes its outputs"),
        "{said}"
    );
    assert!(said.contains("1 job does not change"), "{said}");
    wait_for(&process, "the kept token in the new output", || {
        held(&scene, "a2").as_deref() == Some("a-0")
    });
    assert_eq!(asked("a"), 1);

    let next = || scene.row(&config, "a").unwrap()["next_refresh"].clone();
    let (first, retimed) = (next(), "  refresh: {at: 20%, jitter: 0s}\n");
    let keys = format!("{retimed}{}", outputs(&["a", "a2"]));
    write(&job(&issuer, "a", "", &keys));
    let said = reload(&scene, &config);
    assert!(said.contains("refresh.at"), "{said}");
    assert!(next().as_str() < first.as_str());
    assert_eq!(asked("a"), 1);

    write(&job(&issuer, "a", ", scope: [read]", &keys));
    let said = reload(&scene, &config);
    assert!(said.contains("source.config.scope; asks"), "{said}");
    wait_for(&process, "another token", || {
        held(&scene, "a").as_deref() == Some("a-1")
    });
    assert_eq!((asked("a"), asked("b")), (2, 1));
    let after = std::fs::metadata(scene.out("b")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());

    assert_eq!(reload(&scene, &config), "nothing changes (2 jobs)\n");
}

#[test]
fn jobs_come_and_go_with_their_files_and_a_volumes_link_and_outputs_stay_or_go_as_they_say() {
    let (scene, issuer) = (Scene::new("reload-volume").unwrap(), issuer());
    let volume = |version: &str, jobs: &[(&str, &str)]| {
        let folder = scene.path("volume").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, on_remove) in jobs {
            let output = format!(
                "  outputs: [{{file: {{path: \"{}\"}}}}]\n  on_remove: {on_remove}\n",
                scene.out(name).display()
            );
            let text = format!("jobs:\n{}", job(&issuer, name, "", &output));
            std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
        }
    };
    volume("..1", &[("a", "keep"), ("b", "delete")]);
    volume("..2", &[("c", "keep")]);
    symlink("..1", scene.path("volume/..data")).unwrap();
    for name in ["a", "b", "c"] {
        // As the kubelet has it: the names of a version that lacks them lead nowhere, and the pattern does not match what is no file.
        let link = scene.path("volume").join(format!("{name}.yaml"));
        symlink(format!("..data/{name}.yaml"), link).unwrap();
    }
    let config = scene
        .config("state: {dir: \"{here}/state\"}\ninclude: [volume/*.yaml]\n")
        .unwrap();
    let process = run(&scene, &config, &[]);
    wait_for(&process, "both tokens", || {
        held(&scene, "a").is_some() && held(&scene, "b").is_some()
    });
    symlink("..2", scene.path("volume/..data_tmp")).unwrap();
    std::fs::rename(scene.path("volume/..data_tmp"), scene.path("volume/..data")).unwrap();
    wait_for(&process, "the jobs of the second version", || {
        held(&scene, "c").is_some() && held(&scene, "b").is_none()
    });
    assert_eq!(held(&scene, "a").as_deref(), Some("a-0"));
    let names: Vec<Value> = scene.status(&config).unwrap();
    let names: Vec<&str> = names
        .iter()
        .filter_map(|row| row["id"]["name"].as_str())
        .collect();
    assert_eq!(names, ["c"]);
}

#[test]
fn a_broken_file_changes_nothing_under_load_and_is_told_everywhere_until_it_is_mended() {
    let scene = Scene::new("reload-broken").unwrap();
    let port = free_port().unwrap();
    let jobs: String = (0..50)
        .map(|number| {
            format!(
                "- {{name: j{number}, source: {{plugin: dummy, config: {{lifetime: 20s}}}}, outputs: [{{file: {{path: \"{{out}}/j{number}\"}}}}]}}\n"
            )
        })
        .collect();
    let good = format!("serve: {{address: 127.0.0.1:{port}}}\njobs:\n{jobs}");
    let config = scene.config(&good).unwrap();
    let process = run(&scene, &config, &[]);
    let all_ready = || {
        let rows = scene.status(&config).unwrap_or_default();
        rows.len() == 50 && rows.iter().all(|row| row["state"] == "ready")
    };
    wait_for(&process, "all tokens", all_ready);
    let metric = |name: &str| {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let answer = evertoken_tests::client::Client::plain().send("GET", &url, &[], &[]);
        let text = String::from_utf8(answer.unwrap().body).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let successful = || metric("evertoken_config_last_reload_successful");
    assert!(successful().ends_with(" 1"), "{}", successful());

    // One mistake of the file and one of a plugin's options.
    let broken = good.replacen("name: j7,", "nmae: j7,", 1);
    let broken = broken.replacen("lifetime: 20s", "lifetime: soon", 1);
    scene.config(&broken).unwrap();
    wait_for(&process, "the refusal in the log", || {
        process.stderr().contains("the former one stays in use")
    });
    let asked = scene.command(&["reload"], &config).unwrap();
    let checked = scene.command(&["check"], &config).unwrap();
    assert_eq!((asked.code(), checked.code()), (Some(64), Some(64)));
    let reasons: Vec<&str> = checked
        .stderr
        .lines()
        .filter(|line| line.contains("evertoken.yaml:"))
        .collect();
    assert!(reasons.len() >= 2, "{}", checked.stderr);
    for reason in reasons {
        assert!(asked.stderr.contains(reason), "{reason}: {}", asked.stderr);
        assert!(
            process.stderr().contains(reason),
            "{reason}: {}",
            process.stderr()
        );
    }
    assert!(successful().ends_with(" 0"), "{}", successful());
    let status = scene.command(&["status"], &config).unwrap();
    assert!(status.stdout.contains("is refused:"), "{}", status.stdout);
    std::thread::sleep(A_WHILE);
    wait_for(&process, "the former configuration to go on", all_ready);

    scene.config(&good.replacen("j7,", "j77,", 1)).unwrap();
    wait_for(&process, "the mended configuration", || {
        scene.row(&config, "j77").is_some() && successful().ends_with(" 1")
    });
    let status = scene.command(&["status"], &config).unwrap();
    assert!(!status.stdout.contains("refused"), "{}", status.stdout);
}

#[test]
fn diff_tells_what_a_file_would_change_and_changes_nothing() {
    let (scene, issuer) = (Scene::new("reload-diff").unwrap(), issuer());
    let write = |scope: &str| {
        let a = job(&issuer, "a", scope, &outputs(&["a"]));
        scene.config(&format!("jobs:\n{a}")).unwrap()
    };
    let config = write("");
    let process = run(&scene, &config, &["--no-watch"]);
    wait_for(&process, "the token", || held(&scene, "a").is_some());
    let other = scene.path("other.yaml");
    write(", scope: [x]");
    std::fs::rename(&config, &other).unwrap();
    write("");
    let diff = |file: Option<&Path>| {
        let mut arguments = vec!["diff"];
        arguments.extend(file.and_then(Path::to_str));
        scene.command(&arguments, &config).unwrap()
    };
    assert_eq!(diff(None).stdout, "nothing changes (1 jobs)\n");
    let said = diff(Some(&other));
    assert_eq!(said.code(), Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains("~ job a: source.config.scope"),
        "{}",
        said.stdout
    );
    assert_eq!(issuer.requests_to("/a").len(), 1);
    std::fs::write(&other, "jobs: [{}]").unwrap();
    let wrong = diff(Some(&other));
    assert_eq!(wrong.code(), Some(64));
    assert!(wrong.stderr.contains("other.yaml:1:8"), "{}", wrong.stderr);
}

#[test]
fn without_the_watch_a_change_waits_for_sighup_and_what_cannot_reload_says_so() {
    let (scene, issuer) = (Scene::new("reload-hup").unwrap(), issuer());
    let write = |top: &str, scope: &str| {
        let a = job(&issuer, "a", scope, &outputs(&["a"]));
        scene.config(&format!("{top}\njobs:\n{a}")).unwrap()
    };
    let config = write("", "");
    let process = run(&scene, &config, &["--no-watch"]);
    wait_for(&process, "the token", || held(&scene, "a").is_some());
    write(
        "serve: {address: 127.0.0.1:1}\nstate: {dir: \"{here}/state\"}",
        ", scope: [x]",
    );
    std::thread::sleep(A_WHILE);
    assert_eq!(held(&scene, "a").as_deref(), Some("a-0"));
    process.signal(Signal::HUP).unwrap();
    wait_for(&process, "the other token", || {
        held(&scene, "a").as_deref() == Some("a-1")
    });
    let status = scene.command(&["status"], &config).unwrap();
    let restart = "in use after a restart: serve.address, state";
    assert!(status.stdout.contains(restart), "{}", status.stdout);
    let ended = process.terminate(PATIENCE).unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_configuration_from_standard_input_says_that_it_cannot_be_read_again() {
    let scene = Scene::new("reload-stdin").unwrap();
    let text = "control: {socket: {here}/c.sock}\njobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: \"{out}/a\"}}]}]\n";
    let config = scene.config(text).unwrap();
    let script = format!("exec \"$0\" run --config - < {}", config.display());
    let process = scene.shell(&script).unwrap().spawn().unwrap();
    wait_for(&process, "the token", || held(&scene, "a").is_some());
    let asked = scene.command(&["reload"], &config).unwrap();
    assert_eq!(asked.code(), Some(1));
    assert!(asked.stderr.contains("standard input"), "{}", asked.stderr);
}

#[test]
fn a_plugin_that_is_mended_in_the_configuration_is_used_at_once() {
    let scene = Scene::new("reload-plugin").unwrap();
    let config = |digest: &str| -> PathBuf {
        let path = scene.path("acme.wasm");
        scene
            .config(&format!(
                "plugins: {{acme: {{path: \"{}\", sha256: {digest}}}}}\njobs: [{{name: a, source: {{plugin: acme, config: {{mode: good}}}}, outputs: [{{file: {{path: \"{{out}}/a\"}}}}]}}]\n",
                path.display()
            ))
            .unwrap()
    };
    let bytes = evertoken_tests::guests::guest("guest-source").unwrap();
    std::fs::write(scene.path("acme.wasm"), &bytes).unwrap();
    let file = config(&"0".repeat(64));
    let process = run(&scene, &file, &[]);
    let failure = scene.failure(&file, &process, "a", PATIENCE);
    assert_eq!(failure.code, "plugin.digest-mismatch");
    config(&crate::guests::sha256(&bytes));
    wait_for(&process, "the token", || held(&scene, "a").is_some());
}

/// Ten thousand in an optimised build, and within a second; a tenth in a build for debugging, which is slower by more than that.
const JOBS: usize = if cfg!(debug_assertions) {
    1_000
} else {
    10_000
};

/// The one that changes.
const CHANGED: usize = JOBS / 2;

#[test]
fn of_ten_thousand_jobs_one_changes_and_no_other_is_touched() {
    let scene = Scene::new("reload-many").unwrap();
    let write = |changed: &str| {
        let mut text = "jobs:\n".to_owned();
        for number in 0..JOBS {
            let lifetime = if number == CHANGED { changed } else { "1h" };
            text.push_str(&format!(
                "- {{name: j{number}, source: {{plugin: dummy, config: {{lifetime: {lifetime}}}}}, outputs: [{{file: {{path: \"{{out}}/j{number}\"}}}}]}}\n"
            ));
        }
        scene.config(&text).unwrap()
    };
    let config = write("1h");
    let process = run(&scene, &config, &["--no-watch"]);
    let written = || std::fs::read_dir(scene.out("")).unwrap().count();
    wait_until("all tokens", 3 * PATIENCE, || {
        (written() == JOBS).then_some(())
    })
    .unwrap();
    let read = |number: usize| std::fs::read(scene.out(&format!("j{number}"))).unwrap();
    let before: Vec<Vec<u8>> = (0..JOBS).map(read).collect();
    write("2h");
    let begun = Instant::now();
    let said = reload(&scene, &config);
    let took = begun.elapsed();
    println!("reloaded {JOBS} jobs in {took:?}");
    assert!(
        said.contains(&format!("~ job j{CHANGED}: source.config.lifetime")),
        "{said}"
    );
    let unchanged = format!("{} jobs do not change", JOBS - 1);
    assert!(said.contains(&unchanged), "{said}");
    wait_for(&process, "the other token", || {
        read(CHANGED) != before[CHANGED]
    });
    let touched: Vec<usize> = (0..JOBS)
        .filter(|number| read(*number) != before[*number])
        .collect();
    assert_eq!(touched, [CHANGED]);
    if !cfg!(debug_assertions) {
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn keys_of_the_state_limits_and_shared_outputs_change_while_it_runs() {
    let (scene, issuer) = (Scene::new("reload-rest").unwrap(), issuer());
    for name in ["old", "new", "other"] {
        let bytes: Vec<u8> = name
            .bytes()
            .cycle()
            .take(32)
            .map(|byte| byte ^ 0x80)
            .collect();
        scene
            .write(name, &data_encoding::BASE64.encode(&bytes))
            .unwrap();
    }
    let write = |keys: &str, top: &str, shared: &str| {
        let keys: Vec<String> = keys
            .split(' ')
            .map(|name| format!("{{file: \"{{here}}/{name}\"}}"))
            .collect();
        let jobs: String = ["a", "b"]
            .map(|name| job(&issuer, name, "", &outputs(&[name])))
            .concat();
        let text = format!(
            "state: {{dir: \"{{here}}/state\", key: [{}]}}\n{top}\njobs:\n{jobs}outputs:\n{shared}",
            keys.join(", ")
        );
        scene.config(&text).unwrap()
    };
    let shared = |path: &str, template: &str| {
        format!(
            "- {{from: [a, b], file: {{path: \"{{out}}/{path}\"}}, format: {{plugin: template, config: {{template: \"{template}\"}}}}, on_remove: delete}}\n"
        )
    };
    let both = shared("both", "{{ tokens.a.value }} {{ tokens.b.value }}");
    let config = write("old", "", &both);
    let process = run(&scene, &config, &["--no-watch"]);
    wait_for(&process, "the shared output", || {
        held(&scene, "both").as_deref() == Some("a-0 b-0")
    });

    write(
        "new old",
        "limits: {concurrency: 3}",
        &shared("swapped", "{{ tokens.b.value }} {{ tokens.a.value }}"),
    );
    let said = reload(&scene, &config);
    for line in [
        "~ state.key",
        "~ limits.concurrency",
        "deletes it",
        "+ shared output",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    wait_for(&process, "another shared output instead", || {
        held(&scene, "swapped").as_deref() == Some("b-0 a-0") && held(&scene, "both").is_none()
    });
    // A list that lacks a key which records need changes nothing, neither there nor elsewhere.
    write("other", "limits: {concurrency: 4}", &both);
    let refused = scene.command(&["reload"], &config).unwrap();
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("are encrypted with key"),
        "{}",
        refused.stderr
    );
    std::fs::remove_file(scene.path("new")).unwrap();
    write("new old", "limits: {concurrency: 4}", &both);
    let refused = scene.command(&["reload"], &config).unwrap();
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    assert_eq!(held(&scene, "swapped").as_deref(), Some("b-0 a-0"));
    assert_eq!(
        (
            issuer.requests_to("/a").len(),
            issuer.requests_to("/b").len()
        ),
        (1, 1)
    );
}
