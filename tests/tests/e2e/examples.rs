//! The examples that users start from.

use crate::scene::Scene;

#[test]
fn every_example_passes_check() {
    let scene = Scene::new("examples").unwrap();
    let folder = evertoken_tests::workdir::workspace()
        .unwrap()
        .join("config");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let finished = scene.command(&["check"], &path).unwrap();
        assert_eq!(
            finished.code(),
            Some(0),
            "{}: {}",
            path.display(),
            finished.stderr
        );
    }
    assert!(seen >= 5, "the examples have moved");
}
