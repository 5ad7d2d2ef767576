//! The client without an API server: where it looks for one, and its messages when there is none or a wrong one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn at(address: SocketAddr) -> Kubernetes {
    let mut kubernetes = Kubernetes::with_config(kube::Config::new(
        format!("http://{address}").parse().unwrap(),
    ));
    kubernetes.request_timeout = Duration::from_secs(1);
    kubernetes
}

async fn failure(kubernetes: &Kubernetes) -> Failure {
    kubernetes.secret_key("ns", "s", "k").await.unwrap_err()
}

/// A server that answers every connection's first request with `answer`.
async fn answering(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let failure = failure(&at(address)).await;
    assert_eq!(failure.code(), Some("kubernetes.timeout"));
    assert_eq!(
        failure.message,
        format!(
            "cannot get secret ns/s at http://{address}: no answer from the API server within 1 s"
        )
    );
}

#[tokio::test]
async fn a_port_without_a_server_is_unreachable() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let failure = failure(&at(address)).await;
    assert_eq!(failure.code(), Some("kubernetes.unreachable"));
    assert!(failure.message.contains("onnection refused"), "{failure}");
}

#[tokio::test]
async fn strange_answers_are_told_without_being_quoted() {
    for (answer, code, retry_after) in [
        (
            http("200 OK", "", "<p>c2VjcmV0</p>"),
            "kubernetes.malformed-answer",
            None,
        ),
        (
            http("200 OK", "", r#"{"data": {"k": "c2VjcmV0!"}}"#),
            "kubernetes.malformed-answer",
            None,
        ),
        (
            http("200 OK", "", r#"{"data": {"k": ["c2VjcmV0"]}}"#),
            "kubernetes.malformed-answer",
            None,
        ),
        (
            http("502 Bad Gateway", "", "<p>c2VjcmV0</p>"),
            "kubernetes.unavailable",
            None,
        ),
        (
            http("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
            "kubernetes.refused",
            None,
        ),
        (
            http("429 Too Many Requests", "retry-after: 9\r\n", ""),
            "kubernetes.throttled",
            Some(9),
        ),
        ("c2VjcmV0".to_owned(), "kubernetes.unreachable", None),
    ] {
        let failure = failure(&at(answering(answer.clone()).await)).await;
        assert_eq!(failure.code(), Some(code), "{answer} {failure}");
        assert_eq!(failure.retry_after, retry_after.map(Duration::from_secs));
        assert!(!failure.message.contains("c2VjcmV0"), "{failure}");
    }
}

#[tokio::test]
async fn the_api_servers_clock_is_known_by_its_answers() {
    let dated = |seconds: i64| {
        let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
        http("401 Unauthorized", &format!("date: {date}\r\n"), "{}")
    };
    for seconds in [0, 300, -300] {
        let kubernetes = at(answering(dated(seconds)).await);
        assert_eq!(kubernetes.ahead_ms(), None);
        failure(&kubernetes).await;
        let off = kubernetes.ahead_ms().unwrap() - seconds * 1000;
        assert!(off.abs() < 5000, "{off}");
    }
}

#[tokio::test]
async fn a_secret_without_data_has_no_keys() {
    let kubernetes = at(answering(http("200 OK", "", "{}")).await);
    assert_eq!(
        failure(&kubernetes).await.code(),
        Some("kubernetes.not-found")
    );
}

/// The environment belongs to the whole process, so each case runs in a process of its own.
const PROBE: &str = "EVERTOKEN_TEST_PROBE";

#[tokio::test]
async fn probe() {
    let Some(report) = std::env::var_os(PROBE) else {
        return;
    };
    let failure = failure(&Kubernetes::new()).await;
    std::fs::write(report, serde_json::to_string(&failure).unwrap()).unwrap();
}

fn probed(home: &Path, variables: &[(&str, &str)]) -> Failure {
    let report = home.join("report");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "kubernetes::tests::probe"])
        .env_remove("KUBECONFIG")
        .env_remove(pod::HOST_VARIABLE)
        .env("HOME", home)
        .env(PROBE, &report);
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let logged = String::from_utf8_lossy(&output.stdout);
    assert!(!logged.contains("hidden"), "{logged}");
    serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
}

/// A server without useful answers that records its clients.
async fn telling() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let line = head
                .lines()
                .find(|line| line.starts_with("authorization: "));
            let _ = tell.send(line.unwrap_or_default().to_owned());
            let answer = http("404 Not Found", "", "{}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, told)
}

/// In a process of its own, whose `KUBECONFIG` names a file that is made here.
#[tokio::test]
async fn renewing() {
    let Some(report) = std::env::var_os(PROBE).map(std::path::PathBuf::from) else {
        return;
    };
    let folder = report.parent().unwrap();
    let (address, mut told) = telling().await;
    let kubeconfig = format!(
        r#"{{"clusters": [{{"name": "c", "cluster": {{"server": "http://{address}"}}}}],
            "users": [{{"name": "u", "user": {{"tokenFile": "token"}}}}], "current-context": "x",
            "contexts": [{{"name": "x", "context": {{"cluster": "c", "user": "u"}}}}]}}"#
    );
    std::fs::write(folder.join("kubeconfig"), kubeconfig).unwrap();
    let token = folder.join("token");
    let mut kubernetes = Kubernetes::new();
    kubernetes.look_again = Duration::ZERO;
    let mut seen = Vec::new();
    for content in ["one\n", "two", "", "pipe", "\u{feff}three\r\n"] {
        let _ = std::fs::remove_file(&token);
        match content {
            "pipe" => crate::test_support::make_fifo(&token),
            "" => {}
            content => std::fs::write(&token, content).unwrap(),
        }
        let asking = tokio::time::timeout(Duration::from_secs(10), failure(&kubernetes));
        asking.await.expect("it waits for the file");
        seen.push(told.recv().await.unwrap());
    }
    std::fs::write(report, serde_json::to_string(&seen).unwrap()).unwrap();
}

#[test]
fn a_token_file_that_is_renewed_is_read_again_and_one_that_cannot_be_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kubernetes::tests::renewing"])
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .env(PROBE, &report)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let seen: Vec<String> = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let expected = ["one", "two", "two", "two", "three"];
    assert_eq!(
        seen,
        expected.map(|token| format!("authorization: Bearer {token}"))
    );
}

#[test]
fn the_cluster_is_looked_for_in_kubeconfig_the_pod_and_the_home_and_nothing_leaks() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kubeconfig = |user: &str| {
        format!(
            r#"{{"clusters": [{{"name": "c", "cluster": {{"server": "http://127.0.0.1:1"}}}}],
                "users": [{{"name": "u", "user": {user}}}], "current-context": "x",
                "contexts": [{{"name": "x", "context": {{"cluster": "c", "user": "u"}}}}]}}"#
        )
    };
    let broken = write("broken", "users: [{name: u, user: {token: hidden}}");
    let failing = write(
        "failing",
        &kubeconfig(
            r#"{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", "echo hidden; exit 3"]}}"#,
        ),
    );
    let babbling = write(
        "babbling",
        &kubeconfig(
            r#"{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": ["hidden"]}}"#,
        ),
    );
    let good = write("good", &kubeconfig(r#"{"token": "hidden"}"#));
    let pod = (pod::HOST_VARIABLE, "127.0.0.1");
    for (variables, code, words) in [
        (
            vec![],
            "kubernetes.config",
            "no Kubernetes API server is configured",
        ),
        (
            vec![("KUBECONFIG", "/no/where")],
            "kubernetes.config",
            "KUBECONFIG is set, but",
        ),
        (
            vec![("KUBECONFIG", &*broken), pod],
            "kubernetes.config",
            "malformed YAML",
        ),
        (
            vec![("KUBECONFIG", &*failing)],
            "kubernetes.config",
            "credential command `sh` failed with exit status: 3",
        ),
        (
            vec![("KUBECONFIG", &*babbling)],
            "kubernetes.config",
            "something else than a credential",
        ),
        (
            vec![("KUBECONFIG", &*good), pod],
            "kubernetes.unreachable",
            "onnection refused",
        ),
        (vec![pod], "kubernetes.config", "this is a Pod"),
    ] {
        let failure = probed(home.path(), &variables);
        assert_eq!(failure.code(), Some(code), "{variables:?} {failure}");
        assert!(failure.message.contains(words), "{variables:?} {failure}");
        assert!(!failure.message.contains("hidden"), "{failure}");
    }
    // A client is made even if nothing listens at the proxy.
    let proxied = |cluster: &str| {
        kubeconfig(r#"{"token": "hidden"}"#).replace("\"server\": \"http://127.0.0.1:1\"", cluster)
    };
    let own = write(
        "own",
        &proxied(r#""server": "http://k8s.test", "proxy-url": "http://127.0.0.1:1""#),
    );
    let remote = write("remote", &proxied(r#""server": "http://k8s.test""#));
    let wrong = write(
        "wrong",
        &proxied(r#""server": "http://k8s.test", "proxy-url": "hidden:1""#),
    );
    for (variables, code, words) in [
        (
            vec![("KUBECONFIG", &*own), ("NO_PROXY", "*")],
            "kubernetes.unreachable",
            "onnection refused",
        ),
        (
            vec![
                ("KUBECONFIG", &*remote),
                ("HTTP_PROXY", "http://u:hidden@127.0.0.1:1"),
            ],
            "kubernetes.unreachable",
            "onnection refused",
        ),
        (
            vec![("KUBECONFIG", &*remote), ("http_proxy", "127.0.0.1:1")],
            "kubernetes.unreachable",
            "onnection refused",
        ),
        (
            vec![("KUBECONFIG", &*wrong)],
            "kubernetes.config",
            "`proxy-url` is not the URL of one",
        ),
    ] {
        let failure = probed(home.path(), &variables);
        assert_eq!(failure.code(), Some(code), "{variables:?} {failure}");
        assert!(failure.message.contains(words), "{variables:?} {failure}");
        assert!(!failure.message.contains("hidden"), "{failure}");
    }
    write(".kube/config", &kubeconfig(r#"{"token": "hidden"}"#));
    let failure = probed(home.path(), &[]);
    assert_eq!(failure.code(), Some("kubernetes.unreachable"));
}

#[tokio::test]
async fn nothing_is_looked_for_before_the_first_request_and_again_after_a_failure() {
    let kubernetes = Kubernetes::new();
    assert!(kubernetes.client.lock().await.is_none());
    let kubernetes = at(answering(http("401 Unauthorized", "", "{}")).await);
    let failure = failure(&kubernetes).await;
    assert_eq!(failure.code(), Some("kubernetes.unauthorized"));
    assert!(kubernetes.client.lock().await.is_none());
}
