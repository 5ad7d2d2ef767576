//! A real Kubernetes API server: etcd and kube-apiserver with RBAC, TokenRequest and an audit log; no nodes, no controllers.
//! Without controllers a deleted namespace stays `Terminating` and nothing creates default ServiceAccounts.

pub mod audit;
mod binaries;
pub mod client;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::pki::{Authority, key_pair_pem};
use crate::process::{Process, tied};
use crate::switch::Part;
use crate::toolchain::{remembered, to_remember};
use crate::workdir::{RunDir, free_port};
use crate::{lock, wait_until};
use audit::AuditEvent;
use binaries::Binaries;
use client::KubeClient;

/// Three times what it takes on two busy cores.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long RBAC's caches may lag behind a new RoleBinding.
const RBAC_TIMEOUT: Duration = Duration::from_secs(20);
/// A day: no test runs longer.
const TOKEN_SECONDS: u32 = 86_400;
/// The user name and token of the administrator, group `system:masters`.
const ADMIN: (&str, &str) = ("admin", "admin-token");
/// Metadata has user, request and result; bodies would contain tokens.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";

static SHARED: LazyLock<Result<ApiServer, String>> =
    LazyLock::new(|| to_remember(ApiServer::start()));

/// A running API server with its etcd; both end on drop, and with the test process at the latest.
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order: a server that loses its etcd first only logs.
    api: Mutex<Option<Process>>,
    _etcd: Process,
    run: RunDir,
    binaries: Binaries,
    etcd_port: u16,
    port: u16,
    ca_pem: String,
    authority: Authority,
    admin: KubeClient,
}

/// A ServiceAccount that can be used: a kubeconfig with a token of its own.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The kubeconfig file; its current context names the account's namespace.
    pub kubeconfig: PathBuf,
    /// The name in audit events: `system:serviceaccount:<namespace>:<name>`.
    pub username: String,
    /// The bearer token.
    pub token: String,
    /// Requests as this account.
    pub client: KubeClient,
}

impl ApiServer {
    /// The one server of this test process, started on first use; none if Kubernetes is switched off by name. Each test makes a namespace of
    /// its own in it. A test that pauses or stops the server needs its own, by [`ApiServer::start`].
    ///
    /// # Errors
    ///
    /// As [`ApiServer::start`]; a failure is remembered for the whole process.
    pub fn shared() -> Result<Option<&'static Self>> {
        if Part::Kubernetes.is_skipped() {
            return Ok(None);
        }
        remembered(&SHARED).map(Some)
    }

    /// Builds the programs if need be and starts a server on free ports with its data in a temporary folder; returns when `/readyz` says ok.
    ///
    /// # Errors
    ///
    /// When Go is missing, the build fails, or a program ends or is not ready in time; the message has the end of its log.
    pub fn start() -> Result<Self> {
        let binaries = binaries::provide()?;
        let run = RunDir::new("kubernetes")?;
        let authority = Authority::new("kubernetes")?;
        let identity = authority.server(&["127.0.0.1", "localhost", "kubernetes.default.svc"])?;
        let (private, public) = key_pair_pem()?;
        for (name, content) in [
            ("tls.crt", identity.certificate_pem.as_str()),
            ("tls.key", &identity.key_pem),
            ("ca.crt", &authority.pem()),
            ("sa.key", &private),
            ("sa.pub", &public),
            (
                "tokens.csv",
                &format!("{1},{0},{0},\"system:masters\"\n", ADMIN.0, ADMIN.1),
            ),
            ("audit.yaml", AUDIT_POLICY),
        ] {
            run.write(name, content)?;
        }
        let (etcd_port, port, ca_pem) = (free_port()?, free_port()?, authority.pem());
        let etcd = spawn_etcd(&binaries, &run, etcd_port)?;
        let admin = KubeClient::new(&format!("https://127.0.0.1:{port}"), &ca_pem, ADMIN.1)?;
        let server = Self {
            api: Mutex::new(None),
            _etcd: etcd,
            run,
            binaries,
            etcd_port,
            port,
            ca_pem,
            authority,
            admin,
        };
        server.up()?;
        Ok(server)
    }

    /// `https://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that signed the server's, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority that signed the server's certificate; it takes clients' certificates that this one signed, too: the user is their
    /// common name.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Requests as the administrator.
    #[must_use]
    pub fn admin(&self) -> &KubeClient {
        &self.admin
    }

    /// Writes a kubeconfig for the administrator whose current context names `namespace`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn admin_kubeconfig(&self, namespace: &str) -> Result<PathBuf> {
        self.kubeconfig(&format!("admin-{namespace}"), namespace, ADMIN.1)
    }

    /// Creates a namespace whose name begins with `prefix`, and returns its name.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": format!("{prefix}-")}});
        let created = self.admin.create("/api/v1/namespaces", &body)?;
        created
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("a namespace without a name")
    }

    /// Creates a ServiceAccount that may do what `rules` say (a list of RBAC PolicyRules) inside its namespace, and returns when it may.
    ///
    /// # Errors
    ///
    /// When the server refuses an object, or the rules do not come into force in time.
    pub fn service_account(
        &self,
        namespace: &str,
        name: &str,
        rules: &Value,
    ) -> Result<ServiceAccount> {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.admin.create(&accounts, &account)?;
        let username = format!("system:serviceaccount:{namespace}:{name}");
        self.grant(namespace, name, &username, rules)?;
        self.login(namespace, name)
    }

    /// A kubeconfig and a client for a ServiceAccount that exists.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or the kubeconfig cannot be written.
    pub fn login(&self, namespace: &str, name: &str) -> Result<ServiceAccount> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        });
        let answer = self.admin.create(
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"),
            &request,
        )?;
        let token = answer
            .pointer("/status/token")
            .and_then(Value::as_str)
            .context("a TokenRequest without a token")?;
        Ok(ServiceAccount {
            kubeconfig: self.kubeconfig(&format!("{namespace}-{name}"), namespace, token)?,
            username: format!("system:serviceaccount:{namespace}:{name}"),
            token: token.to_owned(),
            client: KubeClient::new(&self.url(), &self.ca_pem, token)?,
        })
    }

    /// Creates a Role named `role` in `namespace` with `rules`, binds it to the user, and returns when it is in force. The user may be a
    /// ServiceAccount of another namespace, by its user name.
    ///
    /// # Errors
    ///
    /// When the server refuses an object, or the rules do not come into force in time.
    pub fn grant(&self, namespace: &str, role: &str, username: &str, rules: &Value) -> Result<()> {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let (version, collection) = (
            format!("{GROUP}/v1"),
            format!("/apis/{GROUP}/v1/namespaces/{namespace}"),
        );
        let metadata = json!({"name": role});
        self.admin.create(
            &format!("{collection}/roles"),
            &json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}),
        )?;
        self.admin.create(
            &format!("{collection}/rolebindings"),
            &json!({
                "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
                "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role},
                "subjects": [{"apiGroup": GROUP, "kind": "User", "name": username}],
            }),
        )?;
        self.wait_for_rules(namespace, username, rules)
    }

    /// The requests that were answered so far, oldest first. A marked request of the harness is sent and awaited in the log, so
    /// that all earlier ones are in it.
    ///
    /// # Errors
    ///
    /// When the server is down or the log cannot be read.
    pub fn audit_events(&self) -> Result<Vec<AuditEvent>> {
        audit::read_settled(&self.run.path().join("audit.log"), &self.admin)
    }

    /// The answered requests of one user: see [`ServiceAccount::username`].
    ///
    /// # Errors
    ///
    /// As [`ApiServer::audit_events`].
    pub fn audit_events_of_user(&self, username: &str) -> Result<Vec<AuditEvent>> {
        let mut events = self.audit_events()?;
        events.retain(|event| event.username == username);
        Ok(events)
    }

    /// The answered requests of one program: those whose `User-Agent` begins with `prefix`.
    ///
    /// # Errors
    ///
    /// As [`ApiServer::audit_events`].
    pub fn audit_events_of_agent(&self, prefix: &str) -> Result<Vec<AuditEvent>> {
        let mut events = self.audit_events()?;
        events.retain(|event| event.user_agent.starts_with(prefix));
        Ok(events)
    }

    /// Suspends the server's process (SIGSTOP): connections stay open without answers.
    ///
    /// # Errors
    ///
    /// When the server is down.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a [`ApiServer::pause`].
    ///
    /// # Errors
    ///
    /// When the server is down.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills the API server (not its etcd): connecting is refused.
    pub fn down(&self) {
        lock(&self.api).take();
    }

    /// Starts it again on the same port with the same data, and waits for `/readyz`.
    ///
    /// # Errors
    ///
    /// When it is not ready in time.
    pub fn up(&self) -> Result<()> {
        let mut api = lock(&self.api);
        if api.is_some() {
            return Ok(());
        }
        let process = spawn_api_server(&self.binaries, &self.run, self.etcd_port, self.port)?;
        process.wait_for("a ready API server", START_TIMEOUT, || {
            self.admin.is_ready().then_some(())
        })?;
        *api = Some(process);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        lock(&self.api)
            .as_ref()
            .context("the API server is down")?
            .signal(signal)
    }

    /// RBAC answers from caches: a rule is effective once a review of its first verb allows it.
    fn wait_for_rules(&self, namespace: &str, username: &str, rules: &Value) -> Result<()> {
        let Some(rule) = rules.get(0).filter(|rule| rule.get("resources").is_some()) else {
            return Ok(());
        };
        let first = |field: &str| {
            rule.pointer(&format!("/{field}/0"))
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (resource, subresource) = first("resources")
            .split_once('/')
            .unwrap_or((first("resources"), ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": username, "resourceAttributes": {
                "namespace": namespace, "verb": first("verbs"), "group": first("apiGroups"),
                "resource": resource, "subresource": subresource, "name": first("resourceNames"),
            }},
        });
        wait_until(
            &format!("the rules of {username} to come into force"),
            RBAC_TIMEOUT,
            || {
                let answer = self
                    .admin
                    .create(
                        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                        &review,
                    )
                    .ok()?;
                (answer.pointer("/status/allowed") == Some(&Value::Bool(true))).then_some(())
            },
        )
    }

    fn kubeconfig(&self, name: &str, namespace: &str, token: &str) -> Result<PathBuf> {
        let ca = data_encoding::BASE64.encode(self.ca_pem.as_bytes());
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority-data": ca}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name, "namespace": namespace}}],
        });
        self.run
            .write(&format!("{name}.kubeconfig"), config.to_string())
    }
}

fn spawn_etcd(binaries: &Binaries, run: &RunDir, port: u16) -> Result<Process> {
    let (clients, peers) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", free_port()?),
    );
    let mut command = tied(&binaries.etcd);
    command.arg("--data-dir").arg(run.path().join("etcd"));
    command.args([
        "--listen-client-urls",
        &clients,
        "--advertise-client-urls",
        &clients,
    ]);
    command.args([
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
    ]);
    command.arg(format!("--initial-cluster=default={peers}"));
    // The data need not survive this machine's power cut.
    command.arg("--unsafe-no-fsync");
    let etcd = Process::spawn("etcd", command, run.path())?;
    let health = format!("{clients}/health");
    let client = Client::plain();
    etcd.wait_for("a healthy etcd", START_TIMEOUT, || {
        client
            .send("GET", &health, &[], &[])
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    })?;
    Ok(etcd)
}

fn spawn_api_server(
    binaries: &Binaries,
    run: &RunDir,
    etcd_port: u16,
    port: u16,
) -> Result<Process> {
    let mut command = tied(&binaries.kube_apiserver);
    command.args([
        &format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1",
        &format!("--secure-port={port}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
    ]);
    with_file(&mut command, "--cert-dir", &run.path().join("certs"));
    for (flag, file) in [
        ("--tls-cert-file", "tls.crt"),
        ("--tls-private-key-file", "tls.key"),
        ("--client-ca-file", "ca.crt"),
        ("--service-account-signing-key-file", "sa.key"),
        ("--service-account-key-file", "sa.pub"),
        ("--token-auth-file", "tokens.csv"),
        ("--audit-policy-file", "audit.yaml"),
        ("--audit-log-path", "audit.log"),
    ] {
        with_file(&mut command, flag, &run.path().join(file));
    }
    Process::spawn("kube-apiserver", command, run.path())
}

fn with_file(command: &mut Command, flag: &str, path: &Path) {
    command.arg(format!("{flag}={}", path.display()));
}
