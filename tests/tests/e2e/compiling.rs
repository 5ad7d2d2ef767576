//! A plugin that takes long to compile: nobody's attempt, nobody's failure, and nobody's process once nobody waits for it.

use std::path::PathBuf;
use std::time::Duration;

use evertoken_tests::guests::guest;
use evertoken_tests::process::descendants;
use evertoken_tests::wait_until;
use rustix::process::Signal;

use crate::guests::entry;
use crate::scene::{PATIENCE, Scene};

/// Steps of each function that makes a plugin large.
const STEPS: usize = 70;

/// An unsigned number as components have it (LEB128).
fn number(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).unwrap();
        n >>= 7;
        if n == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &number(content.len()), content].concat()
}

/// A guest with another core module in it, of so many functions, which is compiled and never instantiated. 10,000 take some seconds.
fn large(scene: &Scene, guest_name: &str, functions: usize) -> PathBuf {
    // One type: of a number, a number.
    let types = section(1, b"\x01\x60\x01\x7e\x01\x7e");
    let of_types = section(3, &[number(functions), vec![0; functions]].concat());
    // Multiplied by the argument, xor the argument, and the number of its bits, again and again.
    let step = b"\x20\x00\x7e\x20\x00\x85\x7b";
    let body = [b"\x00\x20\x00", &step.repeat(STEPS)[..], b"\x0b"].concat();
    let body = [number(body.len()), body].concat();
    let code = section(10, &[number(functions), body.repeat(functions)].concat());
    let module = [b"\0asm\x01\0\0\0", &types[..], &of_types, &code].concat();
    let component = [guest(guest_name).unwrap(), section(1, &module)].concat();
    let path = scene.path(&format!("{guest_name}-{functions}.wasm"));
    std::fs::write(&path, component).unwrap();
    path
}

/// A scene in which nothing is compiled yet.
fn cold(name: &str) -> Scene {
    let scene = Scene::new(name).unwrap();
    let cache = scene.path("cache");
    scene.env("CACHE_DIRECTORY", cache)
}

/// What a process is called with; nothing: it has ended.
fn arguments(pid: u32) -> String {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).replace('\0', " ")
}

/// The processor time that a process has used, in hundredths of a second.
fn used(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may be anything: the state, and of the other numbers the eleventh.
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(11)?.parse().ok()
}

fn compilers(pid: u32) -> Vec<u32> {
    let mut pids = descendants(pid);
    pids.retain(|pid| arguments(*pid).contains("compile-plugin"));
    pids
}

#[test]
fn a_compiler_ends_with_the_process_that_waits_for_it_however_that_ends() {
    let scene = cold("compilers-end");
    let config = scene
        .config(&format!(
            "plugins:\n{}jobs:\n- {{name: a, source: {{plugin: large, config: {{mode: good}}}}, outputs: [{{file: {{path: \"{{out}}/a\"}}}}]}}\n",
            entry("large", &large(&scene, "guest-source", 40_000))
        ))
        .unwrap();
    for signal in [Signal::TERM, Signal::KILL] {
        let process = scene.run(&config).unwrap();
        let compiler = wait_until("a compiler at work", PATIENCE, || {
            let compiler = compilers(process.pid()).pop()?;
            (used(compiler)? > 100).then_some(compiler)
        });
        let compiler = compiler.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
        process.signal(signal).unwrap();
        process.wait(PATIENCE).unwrap();
        let is_gone = || arguments(compiler).is_empty().then_some(());
        wait_until("the compiler's end", Duration::from_secs(3), is_gone)
            .unwrap_or_else(|error| panic!("{signal:?}: {error:#}"));
    }
}

/// Jobs whose source and whose format are large plugins; a call of either is bounded by a second.
fn large_configuration(scene: &Scene) -> PathBuf {
    let plugins = entry("source", &large(scene, "guest-source", 12_000))
        + &entry("format", &large(scene, "guest-formatter", 12_000));
    let job = |name: &str, format: &str| {
        format!(
            "- {{name: {name}, source: {{plugin: source, timeout: 1s, config: {{mode: good}}}}, outputs: [{{file: {{path: \"{{out}}/{name}\"}}{format}}}]}}\n"
        )
    };
    let jobs = job("plain", "")
        + &job(
            "formatted",
            ", format: {plugin: format, config: {mode: good}}",
        );
    scene
        .config(&format!("plugins:\n{plugins}jobs:\n{jobs}"))
        .unwrap()
}

const COMPILING: &str = "is being compiled since";

#[test]
fn a_plugin_that_compiles_longer_than_a_call_may_take_ends_in_a_token_and_no_failure() {
    let scene = cold("compiled-in-run");
    let config = large_configuration(&scene);
    let process = scene.run(&config).unwrap();
    let compiling = |job: &str| {
        scene.row(&config, job)?["compiling"]["plugin"]
            .as_str()
            .map(str::to_owned)
    };
    let waits = wait_until("a job that waits", PATIENCE, || compiling("plain"));
    assert_eq!(waits.unwrap(), "source", "{}", process.stderr());
    let refresh = ["refresh", "plain", "--timeout", "1s"];
    let refreshed = scene.command(&refresh, &config).unwrap();
    assert!(refreshed.stderr.contains(COMPILING), "{}", refreshed.stderr);
    let formats = wait_until("a token that waits for its format", PATIENCE, || {
        scene
            .out("plain")
            .exists()
            .then(|| compiling("formatted"))?
    });
    assert_eq!(formats.unwrap(), "format", "{}", process.stderr());
    wait_until("all tokens", PATIENCE, || {
        scene.out("formatted").exists().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    process.terminate(PATIENCE).unwrap();
    let log = process.stderr();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    assert_eq!(log.matches("compiling the plugin").count(), 2, "{log}");
}

#[test]
fn commands_that_wait_for_a_compiler_say_so() {
    let scene = cold("compiled-in-commands");
    let config = large_configuration(&scene);
    let once = scene
        .command(&["once", "--timeout", "2s"], &config)
        .unwrap();
    assert_eq!(once.code(), Some(1), "{}", once.stderr);
    let said = once.stderr.lines().find(|line| line.contains(COMPILING));
    let said = said.unwrap_or_else(|| panic!("{}", once.stderr));
    assert!(
        said.contains("not written") && said.contains("`--timeout`"),
        "{said}"
    );

    let checked = scene.command(&["check", "--online"], &config).unwrap();
    assert!(
        checked.stderr.contains("plugin source is being compiled"),
        "{}",
        checked.stderr
    );
    assert_eq!(checked.code(), Some(0), "{}", checked.stderr);

    let once = scene
        .command(&["once", "--timeout", "30s"], &config)
        .unwrap();
    assert_eq!(once.code(), Some(0), "{}", once.stderr);
}
