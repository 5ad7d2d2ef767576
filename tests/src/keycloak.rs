//! Keycloak, a real issuer with every standard grant, rotating refresh tokens and reuse detection.
//! Fetched by Maven and prepared once in the target folder. One server per test process; each test makes realms of its own, and
//! each realm has a proxy of its own before the server, so that a test can count requests, lose answers and take the issuer down
//! without affecting others.

mod install;
pub mod realm;

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::client::Client;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::switch::Part;
use crate::toolchain::{remembered, to_remember};
use crate::workdir::{RunDir, free_port};
use realm::{Realm, RealmSpec};

/// Half a minute on two idle cores; it has taken two on busy ones.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Name and password of the administrator.
const ADMIN: &str = "admin";

static SHARED: LazyLock<Result<Keycloak, String>> =
    LazyLock::new(|| to_remember(Keycloak::start()));

/// A running Keycloak with its data in memory; ends on drop, and with the test process at the latest.
#[derive(Debug)]
pub struct Keycloak {
    process: Process,
    _run: RunDir,
    origin: String,
    http: Client,
}

impl Keycloak {
    /// The one Keycloak of this test process, started on first use; none if it is switched off by name.
    ///
    /// # Errors
    ///
    /// As [`Keycloak::start`]; a failure is remembered for the whole process.
    pub fn shared() -> Result<Option<&'static Self>> {
        if Part::Keycloak.is_skipped() {
            return Ok(None);
        }
        remembered(&SHARED).map(Some)
    }

    /// Installs Keycloak if need be and starts it on a free port; returns when it answers.
    ///
    /// # Errors
    ///
    /// When Java or Maven is missing, the download fails, or the server ends or does not answer in time.
    pub fn start() -> Result<Self> {
        let home = install::provide()?;
        let (run, port) = (RunDir::new("keycloak")?, free_port()?);
        let mut command = install::server(&home, run.path());
        command.args([
            "start",
            "--optimized",
            "--http-enabled=true",
            "--http-host=127.0.0.1",
            "--hostname-strict=false",
        ]);
        command.args([&format!("--http-port={port}"), "--cache=local"]);
        command.envs([
            ("KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN),
            ("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN),
        ]);
        let keycloak = Self {
            process: Process::spawn("keycloak", command, run.path())?,
            _run: run,
            origin: format!("http://127.0.0.1:{port}"),
            http: Client::plain(),
        };
        let probe = format!("{}/realms/master", keycloak.origin);
        keycloak
            .process
            .wait_for("Keycloak to answer", START_TIMEOUT, || {
                keycloak
                    .http
                    .send("GET", &probe, &[], &[])
                    .is_ok_and(|answer| answer.status == 200)
                    .then_some(())
            })
            .with_context(|| format!("Keycloak's log:\n{}", keycloak.process.stdout()))?;
        Ok(keycloak)
    }

    /// Creates a realm with a random suffix to its name, and a proxy before it.
    ///
    /// # Errors
    ///
    /// When Keycloak refuses the realm.
    pub fn realm(&self, spec: &RealmSpec) -> Result<Realm> {
        let name = format!("{}-{:08x}", spec.name(), fastrand::u32(..));
        let authorization = format!("Bearer {}", self.admin_token()?);
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        let body = spec.to_json(&name).to_string();
        self.http
            .send(
                "POST",
                &format!("{}/admin/realms", self.origin),
                &headers,
                body.as_bytes(),
            )?
            .success()
            .with_context(|| format!("Keycloak refuses the realm {name}"))?;
        Ok(Realm::new(
            name,
            self.origin.clone(),
            Proxy::start(&self.origin)?,
        ))
    }

    /// Lives for a minute: fetched anew for each use.
    fn admin_token(&self) -> Result<String> {
        let url = format!(
            "{}/realms/master/protocol/openid-connect/token",
            self.origin
        );
        let fields = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", ADMIN),
            ("password", ADMIN),
        ];
        let answer = self
            .http
            .post_form(&url, &fields)?
            .success()
            .context("Keycloak refuses its administrator")?;
        answer
            .get("access_token")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no access token for the administrator")
    }
}
