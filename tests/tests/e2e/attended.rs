//! Whoever looks after a running process: reads its log or does not, sends signals, asks where jobs stand and for new tokens, deletes its
//! socket, breaks its configuration meanwhile, and reads what commands print on whatever terminal.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evertoken_tests::evertoken::{Evertoken, Launch, binary};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Signal;

use crate::scene::{PATIENCE, Scene};
use crate::trouble_machine::can_be_somebody;

/// A job whose token is another every two seconds.
const QUICK: &str = r#"
- name: quick
  source: {plugin: dummy, config: {lifetime: 4s}}
  refresh: {at: 50%, jitter: 0s}
  outputs: [{file: {path: "{out}/quick"}}]
"#;

/// Waits for two more tokens.
fn goes_on(scene: &Scene, process: &Evertoken) {
    for _ in 0..2 {
        let now = || std::fs::read(scene.out("quick")).ok();
        let before = now();
        process
            .wait_for("the next token", PATIENCE, |_| now() != before)
            .unwrap();
    }
}

/// A pipe that somebody holds open and does not read.
struct Unread(File);

impl Unread {
    fn new(path: &Path) -> Self {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let both_ends = open(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
        Self(both_ends.into())
    }

    fn fill(&mut self) {
        for chunk in [&[b'.'; 4096][..], b"."] {
            loop {
                match self.0.write(chunk) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// All that is in it now.
    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = self.0.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_tokens_nor_status_nor_the_end() {
    let scene = Scene::new("unread").unwrap();
    let config = scene.config(&format!("jobs:{QUICK}")).unwrap();
    let pipe = scene.path("stderr");
    let mut unread = Unread::new(&pipe);
    unread.fill();
    let process = scene
        .shell("exec \"$0\" run -vv --config \"$1\" 2>\"$2\"")
        .unwrap()
        .args([&config, &pipe])
        .spawn()
        .unwrap();
    goes_on(&scene, &process);
    assert_eq!(scene.status(&config).unwrap().len(), 1);

    // Who reads again misses nothing that there was room for.
    let mut log = String::new();
    process
        .wait_for("the log's first and newest lines", PATIENCE, |_| {
            log += &unread.read();
            log.contains("started") && log.contains("refreshed token")
        })
        .unwrap();

    unread.fill();
    goes_on(&scene, &process);
    let status = process.terminate(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_a_user_may_not_use_up_is_an_error_and_not_the_end() {
    let scene = Scene::new("limits").unwrap();
    let run = "exec \"$0\" run -vv --config \"$1\" 2>>\"$2\"";
    let log = scene.path("log");
    let without_state = scene.config(&format!("jobs:{QUICK}")).unwrap();
    // A log that may grow no more, and hardly a file descriptor.
    for limit in ["ulimit -f 4", "ulimit -n 32"] {
        std::fs::write(&log, vec![b'.'; 2000]).unwrap();
        let process = scene
            .shell(&format!("{limit}; {run}"))
            .unwrap()
            .args([&without_state, &log])
            .spawn()
            .unwrap();
        goes_on(&scene, &process);
        goes_on(&scene, &process);
        let status = process.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(0), "{limit}");
    }

    // Nor by those who connect and say nothing.
    let port = free_port().unwrap();
    let served = scene
        .config(&format!(
            "serve: {{address: \"127.0.0.1:{port}\"}}\njobs:{QUICK}"
        ))
        .unwrap();
    let process = scene
        .shell(&format!("ulimit -n 64; {run}"))
        .unwrap()
        .args([&served, &log])
        .spawn()
        .unwrap();
    goes_on(&scene, &process);
    let silent: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let age = || {
        let written = std::fs::metadata(scene.out("quick")).unwrap().modified();
        written.unwrap().elapsed().unwrap_or_default()
    };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        assert!(age() < Duration::from_secs(6), "{:?}", age());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop((silent, process));

    // No room for the store's reserve.
    std::fs::remove_file(&log).unwrap();
    let config = scene
        .config(&format!("state: {{dir: \"{{here}}/state\"}}\njobs:{QUICK}"))
        .unwrap();
    let refused = scene
        .shell(&format!("ulimit -f 100; {run}"))
        .unwrap()
        .args([&config, &log])
        .finish(PATIENCE)
        .unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(refused.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
}

#[test]
fn a_hostile_umask_takes_nothing_from_what_evertoken_makes_for_itself() {
    let scene = Scene::new("umask").unwrap();
    let (state, control) = (scene.path("state"), scene.path("control"));
    let config = scene
        .config(&format!(
            "state: {{dir: {}}}\ncontrol: {{socket: {}}}\njobs:{QUICK}",
            state.display(),
            control.join("socket").display()
        ))
        .unwrap();
    let process = scene
        .shell("umask 0777; exec \"$0\" run --config \"$1\"")
        .unwrap()
        .args([&config])
        .spawn()
        .unwrap();
    goes_on(&scene, &process);
    for made in [&state, &control] {
        let mode = made.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", made.display());
    }
    let status = process.terminate(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn signals_that_ask_for_what_there_is_not_do_no_harm_and_are_a_line_each() {
    let scene = Scene::new("signals").unwrap();
    let config = scene.config(&format!("jobs:{QUICK}")).unwrap();
    let process = scene.run(&config).unwrap();
    process
        .wait_for("the start", PATIENCE, |process| {
            process.stderr().contains("started")
        })
        .unwrap();
    for (signal, name) in [
        (Signal::HUP, "why=\"SIGHUP\""),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::IO, "SIGIO"),
        (Signal::STKFLT, "SIGSTKFLT"),
    ] {
        process.signal(signal).unwrap();
        process
            .wait_for(name, PATIENCE, |process| process.stderr().contains(name))
            .unwrap();
    }
    goes_on(&scene, &process);
    let said = process.stderr();
    let said: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("ignored"))
        .collect();
    assert_eq!(said.len(), 7, "{said:?}");
    let status = process.terminate(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_start_that_hangs_at_the_api_server_ends_when_it_is_told_to() {
    let scene = Scene::new("start").unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let kubeconfig = scene
        .write(
            "kubeconfig",
            &format!(
                r#"{{apiVersion: v1, kind: Config, current-context: c,
contexts: [{{name: c, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{token: t}}}}],
clusters: [{{name: c, cluster: {{server: "http://{}"}}}}]}}"#,
                silent.local_addr().unwrap()
            ),
        )
        .unwrap();
    let config = scene
        .config(&format!(
            "state: {{secret: {{namespace: n}}}}\njobs:{QUICK}"
        ))
        .unwrap();
    for (command, code) in [("run", 0), ("once", 1)] {
        let process = scene
            .launch()
            .unwrap()
            .env("KUBECONFIG", &kubeconfig)
            .args([command, "--config"])
            .args([&config])
            .spawn()
            .unwrap();
        let mut asked = None;
        process
            .wait_for("a request that hangs", PATIENCE, |_| {
                asked = silent.accept().ok();
                asked.is_some()
            })
            .unwrap();
        let status = process.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(code), "{command}");
    }
}

/// A process with this configuration, whose socket is where nothing but the environment says.
fn serving(scene: &Scene, name: &str, yaml: &str) -> (PathBuf, Evertoken) {
    let text = scene.config(yaml).unwrap();
    let config = scene.path(name);
    std::fs::rename(text, &config).unwrap();
    let process = scene.run(&config).unwrap();
    process
        .wait_for("an answer", PATIENCE, |_| scene.status(&config).is_ok())
        .unwrap();
    (config, process)
}

fn job(name: &str) -> String {
    QUICK.replace("quick", name)
}

#[test]
fn each_process_is_found_by_its_configuration_whatever_that_says_meanwhile() {
    let scene = Scene::new("found").unwrap();
    let names = |config: &Path| -> Vec<String> {
        let rows = scene.status(config).unwrap();
        let names = rows.iter().map(|row| row["id"]["name"].as_str());
        names.map(|name| name.unwrap().to_owned()).collect()
    };
    // Without a state directory, and two of one user beside each other.
    let (one, _one) = serving(&scene, "one.yaml", &format!("jobs:{}", job("one")));
    let (two, _two) = serving(&scene, "two.yaml", &format!("jobs:{}", job("two")));
    let socket = scene.path("here.sock");
    let named = format!(
        "control: {{socket: \"{}\"}}\njobs:{}",
        socket.display(),
        job("named")
    );
    let (named, named_process) = serving(&scene, "named.yaml", &named);
    assert!(socket.exists());
    for broken in [false, true] {
        if broken {
            for config in [&one, &two, &named] {
                let text = std::fs::read_to_string(config).unwrap();
                std::fs::write(config, format!("serv: [\n{text}")).unwrap();
            }
        }
        assert_eq!(names(&one), ["one"]);
        assert_eq!(names(&two), ["two"]);
        assert_eq!(names(&named), ["named"]);
    }

    // A socket that somebody deletes comes back.
    std::fs::remove_file(&socket).unwrap();
    wait_until("the socket", PATIENCE, || scene.status(&named).ok()).unwrap();
    named_process.terminate(Duration::from_secs(10)).unwrap();
    assert!(!socket.exists());

    // A second process of one configuration does its work without a socket, and says so.
    std::fs::write(
        &one,
        std::fs::read_to_string(&one)
            .unwrap()
            .replace("serv: [\n", ""),
    )
    .unwrap();
    let second = scene.run(&one).unwrap();
    second
        .wait_for("that it has no socket", PATIENCE, |process| {
            let said = process.stderr();
            said.contains("no control socket") && said.contains("refreshed token")
        })
        .unwrap();
    assert_eq!(names(&one), ["one"]);

    // Who names a configuration of nobody's learns where was looked, and who is there.
    let nobody = scene
        .command(&["status"], &scene.path("nobody.yaml"))
        .unwrap();
    assert_eq!(nobody.code(), Some(1));
    assert!(nobody.stderr.contains("is it running"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("--socket"), "{}", nobody.stderr);
}

#[test]
fn what_is_in_the_sockets_place_or_on_the_way_there_is_named_and_left_alone() {
    let scene = Scene::new("place").unwrap();
    let folder = scene.path("control");
    let socket = folder.join("evertoken.sock");
    let config = scene
        .config(&format!(
            "control: {{socket: \"{}\"}}\njobs:{QUICK}",
            socket.display()
        ))
        .unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let in_the_way = format!(
        "{} is in the control socket's place and is no socket; remove it",
        socket.display()
    );
    for command in [&["run"][..], &["status"], &["refresh", "quick"]] {
        let refused = scene.command(command, &config).unwrap();
        assert_eq!(refused.code(), Some(1), "{command:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(&in_the_way),
            "{command:?}: {}",
            refused.stderr
        );
    }
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    std::fs::remove_file(&socket).unwrap();

    let process = scene.run(&config).unwrap();
    process
        .wait_for("an answer", PATIENCE, |_| scene.status(&config).is_ok())
        .unwrap();
    // Variables that are there and empty are as if they were not.
    let status = || scene.launch().unwrap().args(["status", "--config"]);
    let unset = status().args([&config]).env("EVERTOKEN_SOCKET", "");
    let unset = unset.env("EVERTOKEN_CONFIG", "").finish(PATIENCE).unwrap();
    assert_eq!(unset.code(), Some(0), "{}", unset.stderr);

    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    process
        .wait_for("a line about it", PATIENCE, |process| {
            process.stderr().contains(&in_the_way)
        })
        .unwrap();
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    std::fs::remove_file(&socket).unwrap();
    wait_until("the socket", PATIENCE, || scene.status(&config).ok()).unwrap();

    if !rustix::process::geteuid().is_root() || !can_be_somebody() {
        return;
    }
    let other = status().args([&config]).args(["--socket"]).args([&socket]);
    let other = other.user(65534, 65534).finish(PATIENCE).unwrap();
    assert_eq!(other.code(), Some(1));
    let expected = format!(
        "user 65534 may not reach the control socket {}",
        socket.display()
    );
    assert!(other.stderr.contains(&expected), "{}", other.stderr);
}

#[test]
fn refresh_waits_prints_what_came_of_it_and_ends_by_it() {
    let scene = Scene::new("refresh").unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/slow", Behaviour::answer(503, ""));
    let yaml = r#"
jobs:
- name: good
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs: [{file: {path: "{out}/good"}}]
- name: bad
  source: {plugin: mirror, secrets: {token: {file: "{here}/missing"}}, reveal: [token]}
  outputs: [{file: {path: "{out}/bad"}}]
- name: unwritten
  source: {plugin: dummy, config: {lifetime: 1h}}
  outputs: [{file: {path: "{here}/nowhere/unwritten"}}]
- name: slow
  source: {plugin: oauth2, config: {grant: client_credentials, token_url: "{slow}", client_id: a, client_auth: none}}
  outputs: [{file: {path: "{out}/slow"}}]
"#;
    let config = scene
        .config(&yaml.replace("{slow}", &issuer.url("/slow")))
        .unwrap();
    let process = scene.run(&config).unwrap();
    process
        .wait_for("the first token, and a failure", PATIENCE, |_| {
            let failing = scene
                .row(&config, "slow")
                .is_some_and(|row| row["state"] == "failing");
            failing && scene.out("good").exists()
        })
        .unwrap();
    let refresh = |jobs: &[&str]| {
        scene
            .command(&[&["refresh"], jobs].concat(), &config)
            .unwrap()
    };

    let before = std::fs::read(scene.out("good")).unwrap();
    let good = refresh(&["good"]);
    assert_eq!(good.code(), Some(0), "{}", good.stderr);
    assert_ne!(std::fs::read(scene.out("good")).unwrap(), before);
    let written = format!("written to {}\n", scene.out("good").display());
    assert!(
        good.stdout.starts_with("good: refreshed, expires 2"),
        "{}",
        good.stdout
    );
    assert!(good.stdout.ends_with(&written), "{}", good.stdout);

    for (job, what, code) in [
        ("bad", "not refreshed", "secret.not-found"),
        ("unwritten", "refreshed, but not in every output", "nowhere"),
    ] {
        let failed = refresh(&[job]);
        assert_eq!(failed.code(), Some(1), "{}", failed.stderr);
        let said = format!("error: {job}: {what}: ");
        assert!(failed.stderr.starts_with(&said), "{}", failed.stderr);
        assert!(failed.stderr.contains(code), "{}", failed.stderr);
    }
    let both = refresh(&["good", "bad"]);
    assert_eq!(both.code(), Some(1));
    assert!(both.stdout.contains("good: refreshed"), "{}", both.stdout);

    // What failed before is no answer to a wish that nobody has answered yet.
    issuer.always("/slow", Behaviour::hang());
    let pending = refresh(&["slow", "--timeout", "1s"]);
    assert_eq!(pending.code(), Some(1), "{}", pending.stderr);
    let expected = "error: slow: not refreshed: nothing came of it within 1 s; it goes on, see `evertoken status`\n";
    assert_eq!(pending.stderr, expected);

    // A name that is no job's has one exit code with every command, and nothing is done then.
    let before = std::fs::read(scene.out("good")).unwrap();
    for command in [
        &["refresh", "good", "nobody"][..],
        &["status", "nobody"],
        &["state", "show", "nobody"],
        &["state", "forget", "nobody", "--yes"],
        &["once", "good", "nobody"],
    ] {
        let unknown = scene.command(command, &config).unwrap();
        assert_eq!(unknown.code(), Some(64), "{command:?}: {}", unknown.stderr);
        assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    }
    assert_eq!(std::fs::read(scene.out("good")).unwrap(), before);
}

#[test]
fn a_reader_that_has_enough_is_no_failure_and_a_full_disk_is_one() {
    let scene = Scene::new("stdout").unwrap();
    let enough = scene
        .shell("{ sleep 1; \"$0\" schema; echo \"code $?\" >&2; } | true")
        .unwrap()
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(enough.stderr, "code 0\n");
    let full = scene
        .shell("\"$0\" schema > /dev/full")
        .unwrap()
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(full.code(), Some(1));
    assert!(
        full.stderr.starts_with("error: No space"),
        "{}",
        full.stderr
    );
}

#[test]
fn plugins_that_are_compiled_ahead_and_cannot_be_kept_are_a_failure() {
    let scene = Scene::new("precompile").unwrap();
    let file = scene.write("file", "").unwrap();
    let precompile = |output: PathBuf| {
        let launch = scene.launch().unwrap();
        let launch = launch.args(["plugin", "precompile", "--output"]);
        launch.args([output]).finish(PATIENCE).unwrap()
    };
    for output in [PathBuf::from("/proc/cache"), file] {
        let refused = precompile(output.clone());
        assert_eq!(refused.code(), Some(1), "{output:?}: {}", refused.stdout);
        let said = format!("error: dummy is not kept in {}\n", output.display());
        assert!(refused.stderr.ends_with(&said), "{}", refused.stderr);
        let why = "compiled plugins cannot be kept";
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    for _ in 0..2 {
        let kept = precompile(scene.path("cache"));
        assert_eq!(kept.code(), Some(0), "{}", kept.stderr);
    }
}

#[test]
fn all_text_ends_in_a_newline_and_what_goes_into_a_pipe_is_plain() {
    let scene = Scene::new("plain").unwrap();
    let good = scene.config(&format!("jobs:{QUICK}")).unwrap();
    let bad = scene.write("bad.yaml", "jbos: 1\n").unwrap();
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["nonsense"],
        &["ktr", "--help"],
        &["ktr", "--nonsense"],
        &["schema"],
        &["plugin", "list"],
        &["plugin", "list", "--config", &bad],
        &["plugin", "inspect", "oauth2"],
        &["plugin", "inspect", "/nonexistent"],
        &["check", "--config", &good],
        &["check", "--config", &bad],
        &["run", "--config", &bad],
        &["once", "--config", &good],
        &["once", "nobody", "--config", &good],
        &["status", "--config", &good],
        &["state", "show", "--config", &good],
        &["state", "show", "--config", &bad],
        &["state", "forget", "quick", "--yes", "--config", &bad],
    ] {
        let launch = scene.launch().unwrap().env("TERM", "xterm");
        let launch = launch.env("CLICOLOR_FORCE", "1");
        let finished = launch.args(arguments).finish(PATIENCE).unwrap();
        assert!(!(finished.stdout.is_empty() && finished.stderr.is_empty()));
        for text in [finished.stdout, finished.stderr] {
            assert!(
                text.is_empty() || text.ends_with('\n'),
                "{arguments:?}: {text:?}"
            );
            assert!(
                !text.contains(['\u{1b}', '╭', '│', '×']),
                "{arguments:?}: {text}"
            );
            assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn a_terminal_gets_colours_and_boxes_if_it_can_show_them_and_the_user_wants_them() {
    let scene = Scene::new("terminal").unwrap();
    let bad = scene.write("bad.yaml", "jbos: 1\n").unwrap();
    let (program, bad) = (binary().unwrap().display(), bad.display());
    // What is wrong with a file is drawn in a box, and what is wrong with a command line is not. Both follow the same rules.
    let of_file = format!("{program} check --config {bad}");
    let of_command_line = format!("{program} check --jbos");
    for (variables, colours, boxes) in [
        (vec![("TERM", "xterm"), ("LANG", "en_US.UTF-8")], true, true),
        (vec![("TERM", "xterm"), ("LANG", "C")], true, false),
        (
            vec![
                ("TERM", "xterm"),
                ("LANG", "en_US.UTF-8"),
                ("NO_COLOR", "1"),
            ],
            false,
            false,
        ),
        (vec![("TERM", "xterm"), ("CLICOLOR", "0")], false, false),
        (vec![("TERM", "")], false, false),
        (
            vec![("TERM", "dumb"), ("LANG", "en_US.UTF-8")],
            false,
            false,
        ),
    ] {
        for (line, boxes) in [(&of_file, boxes), (&of_command_line, false)] {
            // `script` gives a command a terminal.
            let mut launch = Launch::of(Path::new("script")).args(["-qec", line, "/dev/null"]);
            for (name, value) in &variables {
                launch = launch.env(name, value);
            }
            let shown = launch.folder(&scene.path("")).finish(PATIENCE).unwrap();
            if shown.code() == Some(127) {
                println!("skipped: needs script (util-linux)");
                return;
            }
            let (what, text) = (format!("{variables:?} {line}"), &shown.stdout);
            assert!(text.contains("jbos"), "{what}: {text}");
            assert_eq!(text.contains('\u{1b}'), colours, "{what}: {text}");
            let has_boxes = text.contains(['╭', '│', '─']);
            assert_eq!(has_boxes, boxes, "{what}: {text}");
        }
    }
}
