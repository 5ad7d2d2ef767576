//! README's first command.

use std::time::Duration;

use evertoken_tests::wait_until;

use crate::scene::{PATIENCE, Scene};

#[test]
fn the_demo_keeps_two_files_fresh_without_network_or_root() {
    let scene = Scene::new("demo").unwrap();
    let demo = evertoken_tests::workdir::workspace()
        .unwrap()
        .join("config/demo.yaml");
    // The demo's own paths, moved into the scene so that tests do not meet a demo that somebody runs.
    let text = std::fs::read_to_string(demo)
        .unwrap()
        .replace("/tmp/evertoken-demo", scene.path("demo").to_str().unwrap());
    let config = scene.write("demo.yaml", &text).unwrap();
    let (token, eos) = (scene.path("demo.token"), scene.path("demo.eos"));

    let process = scene.run(&config).unwrap();
    let first = wait_until("the first token", PATIENCE, || {
        std::fs::read_to_string(&token).ok()
    })
    .unwrap();
    let second = wait_until("the next token", Duration::from_secs(20), || {
        std::fs::read_to_string(&token)
            .ok()
            .filter(|now| *now != first)
    })
    .unwrap();
    wait_until(
        "both files to hold the same token",
        Duration::from_secs(20),
        || {
            let bare = std::fs::read_to_string(&token).ok()?;
            let line = std::fs::read_to_string(&eos).ok()?;
            (line == format!("oauth2:{bare}:auth.example.org/userinfo")).then_some(())
        },
    )
    .unwrap();
    assert!(
        !first.ends_with('\n') && !second.ends_with('\n'),
        "no newline that nobody asked for"
    );
    let rows = scene.status(&config).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["id"]["name"], "demo");
    assert_eq!(
        process.terminate(Duration::from_secs(5)).unwrap().code(),
        Some(0)
    );
}
