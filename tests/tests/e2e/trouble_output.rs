//! Outputs that cannot be written: the old content stays, the issuer is not asked again, status says why, the others go on, and
//! the job recovers by itself when the cause is gone.

use std::os::unix::fs::symlink;
use std::path::Path;

use evertoken_tests::client::Client;
use evertoken_tests::disk::SmallDisk;
use evertoken_tests::evertoken::Evertoken;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::ApiServer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::free_port;
use serde_json::json;

use crate::scene::{Failure, PATIENCE, RECOVERY, Scene};

fn metrics(port: u16) -> String {
    let answer = Client::plain()
        .send("GET", &format!("http://127.0.0.1:{port}/metrics"), &[], &[])
        .unwrap();
    String::from_utf8(answer.body).unwrap()
}

/// A job without trouble, which gets a new token every few seconds.
fn healthy(output: &str) -> String {
    format!(
        "- {{name: healthy, source: {{plugin: dummy, config: {{lifetime: 4s}}}}, outputs: [{output}]}}\n"
    )
}

/// Waits until the healthy job's output, which `held` reads, is renewed once more.
fn goes_on(process: &Evertoken, held: impl Fn() -> Option<Vec<u8>>) {
    let renewed = wait_until("the healthy job", PATIENCE, &held).and_then(|before| {
        wait_until("the healthy job to go on", PATIENCE, || {
            (held()? != before).then_some(())
        })
    });
    renewed.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

#[test]
fn a_file_that_cannot_be_written_is_that_jobs_trouble_only() {
    let scene = Scene::new("files").unwrap();
    std::fs::create_dir(scene.out("directory")).unwrap();
    std::fs::write(scene.path("elsewhere"), "not mine").unwrap();
    symlink(scene.path("elsewhere"), scene.out("symlink")).unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::token("once", 3600));
    let mut yaml = String::from("state: {dir: \"{here}/state\"}\njobs:\n");
    let table = [
        ("directory", scene.out("directory"), "file.is-directory"),
        ("symlink", scene.out("symlink"), "file.is-symlink"),
        (
            "missing-folder",
            scene.out("missing/token"),
            "file.no-directory",
        ),
    ];
    for (name, path, _) in &table {
        yaml.push_str(&format!(
            "- {{name: {name}, source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: \"{}\", client_id: {name}}}, secrets: {{client_secret: {{value: s}}}}}}, outputs: [{{file: {{path: \"{}\"}}}}]}}\n",
            issuer.url("/token"),
            path.display()
        ));
    }
    yaml.push_str(&healthy("{file: {path: \"{out}/healthy\"}}"));
    let config = scene.config(&yaml).unwrap();
    let process = scene.run(&config).unwrap();
    for (name, path, expected) in &table {
        let Failure { code, message, .. } = scene.failure(&config, &process, name, PATIENCE);
        assert_eq!(code, *expected, "{name}: {message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    goes_on(&process, || std::fs::read(scene.out("healthy")).ok());
    assert_eq!(
        std::fs::read_to_string(scene.path("elsewhere")).unwrap(),
        "not mine"
    );

    std::fs::create_dir(scene.out("missing")).unwrap();
    std::fs::remove_dir(scene.out("directory")).unwrap();
    for path in [scene.out("missing/token"), scene.out("directory")] {
        wait_until("the write to succeed", RECOVERY, || {
            (std::fs::read_to_string(&path).ok()? == "once").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
    assert_eq!(
        issuer.requests().len(),
        table.len(),
        "the issuer was asked again for a failed write"
    );
}

#[test]
fn a_full_disk_leaves_the_old_token_whole_and_the_newest_follows_once_there_is_room() {
    let scene = Scene::new("full").unwrap();
    std::fs::create_dir(scene.path("disk")).unwrap();
    let Some(disk) = SmallDisk::mount(&scene.path("disk"), "64k") else {
        return;
    };
    let port = free_port().unwrap();
    let config = scene
        .config(&format!(
            "state: {{dir: \"{{here}}/state\"}}\nserve: {{address: 127.0.0.1:{port}}}\njobs:\n{}{}",
            healthy("{file: {path: \"{here}/disk/token\"}}").replace("healthy", "full"),
            healthy("{file: {path: \"{out}/healthy\"}}")
        ))
        .unwrap();
    let process = scene.run(&config).unwrap();
    let token = scene.path("disk/token");
    wait_until("the first token", PATIENCE, || token.exists().then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));

    let filler = disk.fill().unwrap();
    let number = |path: &Path| -> Option<u32> {
        let text = std::fs::read_to_string(path).ok()?;
        text.strip_prefix("token ")?.parse().ok()
    };
    let Failure { kind, code, .. } = scene.failure(&config, &process, "full", PATIENCE);
    assert_eq!(
        (kind.as_str(), code.as_str()),
        ("unavailable", "file.disk-full")
    );
    let kept = number(&token).expect("the old token is whole");
    let names: Vec<_> = std::fs::read_dir(scene.path("disk"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "something half-written stays: {names:?}");
    let metrics = metrics(port);
    let counted = "evertoken_output_failures_total{kind=\"file\",code=\"file.disk-full\"}";
    assert!(metrics.contains(counted), "{metrics}");
    goes_on(&process, || std::fs::read(scene.out("healthy")).ok());

    std::fs::remove_file(filler).unwrap();
    wait_until("a newer token", PATIENCE, || {
        number(&token).filter(|number| *number > kept)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
}

#[test]
fn a_secret_that_cannot_be_written_says_which_verb_or_state_stands_in_the_way() {
    let Some(cluster) = ApiServer::shared().unwrap() else {
        println!("skipped: needs Kubernetes");
        return;
    };
    let namespace = cluster.namespace("trouble").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["immutable", "absent", "late", "healthy"], "verbs": ["patch"]}]);
    let account = cluster
        .service_account(&namespace, "evertoken", &rules)
        .unwrap();
    cluster
        .admin()
        .create_secret(
            &namespace,
            "immutable",
            json!({"immutable": true, "stringData": {"token": "old"}}),
        )
        .unwrap();
    cluster
        .admin()
        .create_secret(&namespace, "healthy", json!({}))
        .unwrap();
    let scene = Scene::new("secrets").unwrap();
    let port = free_port().unwrap();
    let mut yaml = format!(
        "state: {{dir: \"{{here}}/state\"}}\nserve: {{address: 127.0.0.1:{port}}}\njobs:\n"
    );
    let table = [
        ("immutable", false, "kubernetes.immutable", "immutable"),
        ("forbidden", false, "kubernetes.forbidden", "verb `patch`"),
        ("late", true, "kubernetes.forbidden", "verb `create`"),
        ("absent", false, "kubernetes.not-found", "create: true"),
    ];
    yaml.push_str(&healthy(&format!(
        "{{secret: {{namespace: {namespace}, name: healthy, create: false}}}}"
    )));
    for (name, create, ..) in &table {
        yaml.push_str(&format!(
            "- {{name: {name}, source: {{plugin: dummy, config: {{lifetime: 1h}}}}, outputs: [{{secret: {{namespace: {namespace}, name: {name}, create: {create}}}}}]}}\n"
        ));
    }
    let config = scene.config(&yaml).unwrap();
    let process = scene
        .launch()
        .unwrap()
        .env("KUBECONFIG", &account.kubeconfig)
        .args(["run", "--config"])
        .args([&config])
        .spawn()
        .unwrap();
    for (name, _, expected, mend) in &table {
        let Failure { code, message, .. } = scene.failure(&config, &process, name, PATIENCE);
        assert_eq!(code, *expected, "{name}: {message}");
        assert!(
            message.contains(mend) && message.contains(name),
            "{message}"
        );
    }
    let kept = cluster
        .admin()
        .secret_value(&namespace, "immutable", "token")
        .unwrap();
    assert_eq!(kept.as_deref(), Some(b"old".as_slice()));
    let metrics = metrics(port);
    for (_, _, code, _) in &table {
        let counted = format!("evertoken_output_failures_total{{kind=\"secret\",code=\"{code}\"}}");
        assert!(metrics.contains(&counted), "no {counted} in\n{metrics}");
    }
    goes_on(&process, || {
        cluster
            .admin()
            .secret_value(&namespace, "healthy", "token")
            .ok()?
    });

    // What stood in the way is gone: the jobs recover by themselves.
    for name in ["absent", "late"] {
        cluster
            .admin()
            .create_secret(&namespace, name, json!({}))
            .unwrap();
    }
    for name in ["absent", "late"] {
        wait_until("the token in the Secret", RECOVERY, || {
            cluster
                .admin()
                .secret_value(&namespace, name, "token")
                .ok()?
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    }
}

#[test]
fn an_api_server_that_is_away_delays_its_secrets_only_and_the_issuer_is_asked_once() {
    if ApiServer::shared().unwrap().is_none() {
        println!("skipped: needs Kubernetes");
        return;
    }
    let cluster = ApiServer::start().unwrap();
    let namespace = cluster.namespace("away").unwrap();
    let kubeconfig = cluster.admin_kubeconfig(&namespace).unwrap();
    let issuer = Issuer::start().unwrap();
    issuer.always("/token", Behaviour::token("once", 3600));
    let scene = Scene::new("away").unwrap();
    let config = scene
        .config(&format!(
            "state: {{dir: \"{{here}}/state\"}}\njobs:\n- name: both\n  source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: \"{}\", client_id: c}}, secrets: {{client_secret: {{value: s}}}}}}\n  outputs:\n  - secret: {{namespace: {namespace}, name: both, create: true}}\n  - file: {{path: \"{{out}}/both\"}}\n{}",
            issuer.url("/token"),
            healthy("{file: {path: \"{out}/healthy\"}}")
        ))
        .unwrap();
    cluster.down();
    let process = scene
        .launch()
        .unwrap()
        .env("KUBECONFIG", &kubeconfig)
        .args(["run", "--config"])
        .args([&config])
        .spawn()
        .unwrap();
    let Failure { code, message, .. } = scene.failure(&config, &process, "both", PATIENCE);
    assert_eq!(code, "kubernetes.unreachable", "{message}");
    assert_eq!(
        std::fs::read_to_string(scene.out("both")).unwrap(),
        "once",
        "the file does not wait for the Secret"
    );
    goes_on(&process, || std::fs::read(scene.out("healthy")).ok());

    cluster.up().unwrap();
    wait_until("the Secret", PATIENCE, || {
        cluster
            .admin()
            .secret_value(&namespace, "both", "token")
            .ok()?
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()));
    assert_eq!(issuer.requests().len(), 1);
}
