//! An API server that is reached through a proxy, or not, as kubectl and curl would, and an issuer in the same way. Their name and address
//! lead nowhere from here: only the proxy knows the way, so whoever got an answer went through it.

use std::net::SocketAddr;
use std::path::PathBuf;

use evertoken_tests::evertoken::Finished;
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::ApiServer;
use evertoken_tests::server::Behaviour;
use evertoken_tests::tunnel::{Protocol, Tunnel};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene};

/// In the API server's certificate, and in no name server.
const NAME: &str = "kubernetes.default.svc";
/// Kept for documentation (RFC 5737): nobody has it.
const ADDRESS: &str = "192.0.2.7";
const PASSWORD: &str = "pass%40word-hidden";

/// Spellings of `NO_PROXY`, and whether the host is reached through the proxy all the same. `PORT` is the server's.
const NO_PROXY: [(&str, &str, bool); 14] = [
    (NAME, "*", false),
    (NAME, ".svc", false),
    (NAME, "*.svc", false),
    (NAME, "default.svc,", false),
    (NAME, "KUBERNETES.default.SVC", false),
    (NAME, "localhost 127.0.0.0/8 .svc", false),
    (NAME, "kubernetes.default.svc:PORT", false),
    (NAME, "kubernetes.default.svc:1", true),
    (NAME, "127.0.0.0/8,,,[::1]:6443,*.local", true),
    (NAME, "127.0.0.1", true),
    (ADDRESS, "192.0.2.0/24", false),
    (ADDRESS, "192.0.2.7:PORT", false),
    (ADDRESS, "192.0.3.0/24", true),
    (ADDRESS, ".2.7", true),
];

struct Stage {
    scene: Scene,
    cluster: &'static ApiServer,
    namespace: String,
    server: SocketAddr,
}

impl Stage {
    fn new(name: &str) -> Option<Self> {
        let Some(cluster) = ApiServer::shared().unwrap() else {
            println!("skipped: needs Kubernetes");
            return None;
        };
        let server = cluster.url().strip_prefix("https://").unwrap().to_owned();
        Some(Self {
            scene: Scene::new(name).unwrap(),
            cluster,
            namespace: cluster.namespace(name).unwrap(),
            server: server.parse().unwrap(),
        })
    }

    /// The administrator's kubeconfig with its cluster at `host`, and with `more` about it.
    fn kubeconfig(&self, host: &str, more: &Value) -> PathBuf {
        let path = self.cluster.admin_kubeconfig(&self.namespace).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
        let cluster = kubeconfig["clusters"][0]["cluster"]
            .as_object_mut()
            .unwrap();
        let url = format!("https://{host}:{}", self.server.port());
        cluster.insert("server".to_owned(), url.into());
        cluster.insert("tls-server-name".to_owned(), NAME.into());
        cluster.extend(more.as_object().unwrap().clone());
        self.scene
            .write("kubeconfig", &kubeconfig.to_string())
            .unwrap()
    }

    /// Asks the API server whether a Secret could be written.
    fn check(&self, kubeconfig: &PathBuf, variables: &[(&str, &str)]) -> Finished {
        let config = self.config();
        let launch = self.scene.launch().unwrap().env("KUBECONFIG", kubeconfig);
        let launch = variables
            .iter()
            .fold(launch, |launch, (name, value)| launch.env(name, value));
        launch
            .args(["check", "--online", "--config"])
            .args([config])
            .finish(PATIENCE)
            .unwrap()
    }

    fn config(&self) -> PathBuf {
        let config = self.scene.config(&format!(
            "jobs:\n- {{name: a, source: {{plugin: dummy}}, outputs: [{{secret: {{namespace: {}, name: a, create: true}}}}]}}\n",
            self.namespace
        ));
        config.unwrap()
    }
}

#[test]
fn the_variables_lead_to_the_api_server_as_they_lead_kubectl_there() {
    let Some(stage) = Stage::new("proxy") else {
        return;
    };
    let start = |protocol, credentials| Tunnel::start(protocol, stage.server, credentials).unwrap();
    let http = start(Protocol::Connect, None);
    let asks = start(Protocol::Connect, Some("user:pass@word-hidden"));
    let socks = start(Protocol::Socks5, None);
    let (plain, bare) = (format!("http://{}", http.authority()), http.authority());
    let with_user = format!("http://user:{PASSWORD}@{}", asks.authority());
    let (socks5, socks5h) = (
        format!("socks5://{}", socks.authority()),
        format!("socks5h://{}", socks.authority()),
    );
    let port = stage.server.port();
    let way = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let (through, direct) = (true, false);
    let mut cases = vec![
        (NAME, way("HTTPS_PROXY", &plain), through),
        (NAME, way("https_proxy", &plain), through),
        (NAME, way("HTTPS_PROXY", &format!(" {plain}\n")), through),
        (NAME, way("HTTPS_PROXY", &bare), through),
        (NAME, way("HTTPS_PROXY", &with_user), through),
        (NAME, way("HTTPS_PROXY", &socks5), through),
        (NAME, way("HTTPS_PROXY", &socks5h), through),
        (ADDRESS, way("HTTPS_PROXY", &plain), through),
        (NAME, way("HTTP_PROXY", &plain), direct),
    ];
    for (nth, (host, list, expected)) in NO_PROXY.into_iter().enumerate() {
        // In lower case, too.
        let (proxy, but_for) = match nth % 2 {
            0 => ("HTTPS_PROXY", "NO_PROXY"),
            _ => ("https_proxy", "no_proxy"),
        };
        let list = list.replace("PORT", &port.to_string());
        cases.push((
            host,
            vec![(proxy, plain.clone()), (but_for, list)],
            expected,
        ));
    }
    for (host, variables, expected) in cases {
        let proxies = [&http, &asks, &socks];
        let before: Vec<_> = proxies.map(|proxy| proxy.targets().len()).into();
        let kubeconfig = stage.kubeconfig(host, &json!({}));
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let finished = stage.check(&kubeconfig, &variables);
        let told = format!("{host} {variables:?}: {}", finished.stderr);
        let targets: Vec<_> = std::iter::zip(proxies, before)
            .flat_map(|(proxy, before)| proxy.targets().split_off(before))
            .collect();
        if expected == through {
            assert_eq!(finished.code(), Some(0), "{told}");
            let place = format!("{host}:{port}");
            assert!(
                !targets.is_empty() && targets.iter().all(|to| *to == place),
                "{told}"
            );
        } else {
            assert_ne!(finished.code(), Some(0), "{told}");
            assert!(targets.is_empty(), "{targets:?} {told}");
            assert!(finished.stderr.contains("cannot patch secret"), "{told}");
            assert!(!finished.stderr.contains("through the proxy"), "{told}");
        }
        assert!(!finished.stderr.contains("hidden"), "{told}");
    }
    // This machine is never reached through one.
    let kubeconfig = stage.kubeconfig("127.0.0.1", &json!({}));
    let finished = stage.check(&kubeconfig, &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
}

#[test]
fn a_kubeconfigs_own_proxy_goes_before_all_variables() {
    let Some(stage) = Stage::new("own-proxy") else {
        return;
    };
    let own = Tunnel::start(
        Protocol::Connect,
        stage.server,
        Some("user:pass@word-hidden"),
    )
    .unwrap();
    let url = format!("http://user:{PASSWORD}@{}", own.authority());
    let kubeconfig = stage.kubeconfig(NAME, &json!({"proxy-url": url}));
    for variables in [
        &[][..],
        &[("NO_PROXY", "*")],
        &[
            ("HTTPS_PROXY", "http://127.0.0.1:1"),
            ("NO_PROXY", "127.0.0.1"),
        ],
        // What is wrong in them does not matter to whoever has no need of them.
        &[("HTTPS_PROXY", "foo bar"), ("NO_PROXY", "a b,,:x")],
    ] {
        let before = own.targets().len();
        let finished = stage.check(&kubeconfig, variables);
        assert_eq!(
            finished.code(),
            Some(0),
            "{variables:?} {}",
            finished.stderr
        );
        assert!(own.targets().len() > before, "{variables:?}");
    }
}

#[test]
fn a_proxy_that_is_away_or_refuses_is_named_without_its_password() {
    let Some(stage) = Stage::new("dead-proxy") else {
        return;
    };
    let asks = Tunnel::start(Protocol::Connect, stage.server, Some("user:right")).unwrap();
    let refusing = format!("http://user:{PASSWORD}@{}", asks.authority());
    let nowhere = format!("http://user:{PASSWORD}@127.0.0.1:1");
    let anonymous = "socks5://127.0.0.1:1";
    let with_user = format!("socks5://user:{PASSWORD}@127.0.0.1:1");
    let (named, at_1) = (
        format!("through the proxy http://{}: ", asks.authority()),
        "through the proxy http://127.0.0.1:1: ",
    );
    for (proxy, said) in [
        (&*nowhere, &[at_1, "onnection refused"][..]),
        (&refusing, &[&named, "proxy authorization required"]),
        (anonymous, &["through the proxy socks5://127.0.0.1:1: "]),
        (&with_user, &["SOCKS proxy with a user"]),
        ("socks4://127.0.0.1:1", &["socks5://host:port"]),
    ] {
        let by_variable = stage.kubeconfig(NAME, &json!({}));
        let finished = stage.check(&by_variable, &[("HTTPS_PROXY", proxy)]);
        let own = stage.kubeconfig(NAME, &json!({"proxy-url": proxy}));
        for finished in [finished, stage.check(&own, &[])] {
            assert_ne!(finished.code(), Some(0), "{proxy}");
            for said in said {
                assert!(
                    finished.stderr.contains(said),
                    "{proxy}: {said}: {}",
                    finished.stderr
                );
            }
            assert!(!finished.stderr.contains("hidden"), "{}", finished.stderr);
        }
    }
}

/// Runs the program as in a Pod: with the variables and the identity that the kubelet puts there, in a file system view of its own.
const IN_A_POD: &str = r#"exec unshare --mount sh -c '
    set -e; mount -t tmpfs pod /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount
    cp "$TOKEN" /run/secrets/kubernetes.io/serviceaccount/token
    cp "$AUTHORITY" /run/secrets/kubernetes.io/serviceaccount/ca.crt
    exec "$0" check --online --config "$CONFIG"' "$0""#;

#[test]
fn a_pod_finds_its_api_server_and_goes_through_a_proxy_by_the_same_rules() {
    let Some(stage) = Stage::new("in-a-pod") else {
        return;
    };
    let may_mount = std::process::Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "trial", "/run"])
        .status();
    if !may_mount.is_ok_and(|status| status.success()) {
        println!("skipped: a mount namespace needs root with CAP_SYS_ADMIN");
        return;
    }
    let rules =
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["patch", "create"]}]);
    let account = stage
        .cluster
        .service_account(&stage.namespace, "evertoken", &rules)
        .unwrap();
    // With a line end, which a kubelet does not write and people do.
    let token = stage.scene.write("token", &format!("{}\n", account.token));
    let token = token.unwrap();
    let authority = stage.scene.write("ca.crt", stage.cluster.ca_pem()).unwrap();
    let proxy = Tunnel::start(Protocol::Connect, stage.server, None).unwrap();
    let url = format!("http://{}", proxy.authority());
    for (host, no_proxy, through, good) in [
        ("127.0.0.1", "", false, true),
        (NAME, "", true, true),
        (NAME, "10.0.0.0/8,.svc", false, false),
    ] {
        let (before, config) = (proxy.targets().len(), stage.config());
        let finished = stage
            .scene
            .shell(IN_A_POD)
            .unwrap()
            .env("TOKEN", &token)
            .env("AUTHORITY", &authority)
            .env("CONFIG", config)
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", stage.server.port().to_string())
            .env("HTTPS_PROXY", &url)
            .env("NO_PROXY", no_proxy)
            .finish(PATIENCE)
            .unwrap();
        let told = format!("{host} {no_proxy}: {}", finished.stderr);
        assert_eq!(finished.code() == Some(0), good, "{told}");
        assert_eq!(proxy.targets().len() > before, through, "{told}");
    }
}

#[test]
fn the_variables_lead_to_an_issuer_in_the_same_way() {
    let scene = Scene::new("issuer-proxy").unwrap();
    let authority = evertoken_tests::pki::Authority::new("issuers").unwrap();
    let identity = authority.server(&[NAME, ADDRESS]).unwrap();
    let tls = evertoken_tests::pki::server_config(&identity, None).unwrap();
    let issuer = Issuer::start_tls(NAME, tls).unwrap();
    issuer.always("/token", Behaviour::oauth_error(400, "invalid_request"));
    scene.write("ca.crt", &authority.pem()).unwrap();
    let port = issuer.server().port();
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = Tunnel::start(Protocol::Connect, server, Some("user:pass@word-hidden")).unwrap();
    let url = format!("http://user:{PASSWORD}@{}", proxy.authority());
    for (nth, (host, list, through)) in NO_PROXY.into_iter().enumerate() {
        let config = scene.config(&format!(
            r#"
jobs:
- name: a
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: "https://{host}:{port}/token", client_id: c}}
    secrets: {{client_secret: {{value: s3cr3t-value}}}}
    tls: {{ca_file: "{{here}}/ca.crt"}}
  outputs: [{{file: {{path: "{{out}}/a"}}}}]
"#
        ));
        let (variable, but_for) = match nth % 2 {
            0 => ("https_proxy", "no_proxy"),
            _ => ("HTTPS_PROXY", "NO_PROXY"),
        };
        let (before, launch) = (proxy.targets().len(), scene.launch().unwrap());
        let finished = launch
            .env(variable, &url)
            .env(but_for, list.replace("PORT", &port.to_string()))
            .args(["check", "--online", "--config"])
            .args([config.unwrap()])
            .finish(PATIENCE)
            .unwrap();
        let told = format!("{host} {list}: {}", finished.stderr);
        assert_eq!(finished.code() == Some(0), through, "{told}");
        let targets = proxy.targets().split_off(before);
        let expected: &[_] = if through {
            &[format!("{host}:{port}")]
        } else {
            &[]
        };
        assert_eq!(targets, expected, "{told}");
        assert!(!finished.stderr.contains("hidden"), "{told}");
    }
}
