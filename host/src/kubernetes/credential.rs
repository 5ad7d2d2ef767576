//! Credential commands: the command in `exec` of a kubeconfig's user prints an ExecCredential (client.authentication.k8s.io). It
//! is run here and not by the client library, which waits for it without a limit and does not end it.

use std::io::{ErrorKind, IsTerminal as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use data_encoding::BASE64;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::call::WipedText;

/// A command's timeout: less than a request's, so that it is not reported as the API server's.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Its timeout at a terminal, where the user may have to log in in a browser.
const TIME_LIMIT_AT_TERMINAL: Duration = Duration::from_secs(300);

/// Bytes that it may print: a token, or a chain of certificates and a key.
const OUTPUT_MAX: u64 = 1 << 20;

/// A credential that expires sooner than this is renewed.
const MARGIN: Duration = Duration::from_secs(60);

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("the kubeconfig's user has a credential command (`exec`) without a `command`")]
    NoCommand,
    #[error(
        "the kubeconfig's credential command `{0}` asks somebody (`interactiveMode: Always`), and there is no terminal"
    )]
    NoTerminal(String),
    #[error("the kubeconfig's credential command `{command}` cannot be run: {why}{hint}")]
    NotRun {
        command: String,
        why: String,
        hint: String,
    },
    #[error(
        "the kubeconfig's credential command `{0}` did not end within {seconds} s, and was ended; run it by hand to see what it waits for",
        seconds = .1.as_secs()
    )]
    TimeLimit(String, Duration),
    #[error(
        "the kubeconfig's credential command `{0}` failed with {1}; run it by hand to see what it says"
    )]
    Failed(String, ExitStatus),
    #[error(
        "the kubeconfig's credential command `{0}` printed something else than a credential (an ExecCredential with a `status`)"
    )]
    NoCredential(String),
}

/// The output of the command, without the fields that are not needed.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<CredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialStatus {
    expiration_timestamp: Option<String>,
    token: Option<WipedText>,
    client_certificate_data: Option<String>,
    client_key_data: Option<WipedText>,
}

/// The timeout of a command.
pub(super) fn patience() -> Duration {
    if std::io::stdin().is_terminal() {
        TIME_LIMIT_AT_TERMINAL
    } else {
        TIME_LIMIT
    }
}

/// Whether a credential with this expiry is still valid.
pub(super) fn is_valid(expires: Option<jiff::Timestamp>) -> bool {
    expires.is_none_or(|expires| jiff::Timestamp::now() + MARGIN < expires)
}

/// Runs the user's credential command, if the user has no other credential, and fills in the printed one. Returns its expiry.
pub(super) async fn fill_in(
    user: &mut AuthInfo,
) -> Result<Option<jiff::Timestamp>, CredentialError> {
    let is_known = user.token.is_some() || (user.username.is_some() && user.password.is_some());
    let Some(exec) = user.exec.take().filter(|_| !is_known) else {
        return Ok(None);
    };
    let printed = run(&exec, patience()).await?;
    let shown = || exec.command.clone().unwrap_or_default();
    let credential: ExecCredential =
        serde_saphyr::from_slice(&printed).map_err(|_| CredentialError::NoCredential(shown()))?;
    take(user, credential).ok_or_else(|| CredentialError::NoCredential(shown()))
}

fn take(user: &mut AuthInfo, credential: ExecCredential) -> Option<Option<jiff::Timestamp>> {
    let status = credential.status?;
    let expires = match status.expiration_timestamp {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    match (
        status.client_certificate_data,
        status.client_key_data,
        status.token,
    ) {
        (Some(certificate), Some(key), token) => {
            user.client_certificate_data = Some(BASE64.encode(certificate.as_bytes()));
            user.client_key_data = Some(BASE64.encode(key.0.expose_secret().as_bytes()).into());
            user.token = token.map(|token| token.0);
        }
        (_, _, Some(token)) => user.token = Some(token.0),
        _ => return None,
    }
    Some(expires)
}

async fn run(exec: &ExecConfig, limit: Duration) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let name = exec.command.clone().ok_or(CredentialError::NoCommand)?;
    let is_at_terminal = std::io::stdin().is_terminal();
    let is_interactive = match exec.interactive_mode {
        Some(ExecInteractiveMode::Never) => false,
        Some(ExecInteractiveMode::Always) if !is_at_terminal => {
            return Err(CredentialError::NoTerminal(name));
        }
        _ => is_at_terminal,
    };
    let mut child = command(exec, &name, is_interactive)
        .spawn()
        .map_err(|error| not_run(exec, &name, &error))?;
    // If the command is killed, its children are, too.
    let mut group = Group((!is_interactive).then(|| child.id()).flatten());
    let mut printed = Zeroizing::new(Vec::new());
    let stdout = child.stdout.take();
    let heard = async {
        if let Some(stdout) = stdout {
            let _ = stdout.take(OUTPUT_MAX).read_to_end(&mut printed).await;
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(limit, heard).await;
    let ended = ended.map_err(|_| CredentialError::TimeLimit(name.clone(), limit))?;
    // Its id may be reused by now.
    group.0 = None;
    match ended {
        Ok(status) if status.success() => Ok(printed),
        Ok(status) => Err(CredentialError::Failed(name, status)),
        Err(error) => Err(not_run(exec, &name, &error)),
    }
}

fn command(exec: &ExecConfig, name: &str, is_interactive: bool) -> Command {
    let cluster = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info);
    let spec = match cluster {
        Some(cluster) => json!({"interactive": is_interactive, "cluster": cluster}),
        None => json!({"interactive": is_interactive}),
    };
    let asked = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec});
    let given = exec.env.iter().flatten();
    let given = given.filter_map(|env| Some((env.get("name")?, env.get("value")?)));
    let mut command = Command::new(name);
    command
        .args(exec.args.iter().flatten())
        .envs(given)
        .env("KUBERNETES_EXEC_INFO", asked.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if !is_interactive {
        // Its error output may contain a credential, and our standard error is a log.
        command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
    }
    command
}

fn not_run(exec: &ExecConfig, name: &str, error: &std::io::Error) -> CredentialError {
    let is_missing = error.kind() == ErrorKind::NotFound;
    let hint = exec.install_hint.as_deref().map(str::trim);
    CredentialError::NotRun {
        command: name.to_owned(),
        why: if is_missing {
            "there is no such program in PATH".to_owned()
        } else {
            error.to_string()
        },
        hint: hint
            .filter(|hint| is_missing && !hint.is_empty())
            .map(|hint| format!("; the kubeconfig says: {hint}"))
            .unwrap_or_default(),
    }
}

/// The process group of a running command: when this is dropped, all its processes are killed.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // The group may be empty by now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(script: &str) -> AuthInfo {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", script],
            "env": [{"name": "GIVEN", "value": "given"}],
            "interactiveMode": "IfAvailable",
            "installHint": "install it",
        });
        AuthInfo {
            exec: Some(serde_json::from_value(exec).unwrap()),
            ..AuthInfo::default()
        }
    }

    async fn filled(mut user: AuthInfo) -> Result<(AuthInfo, Option<jiff::Timestamp>), String> {
        let expires = fill_in(&mut user)
            .await
            .map_err(|error| error.to_string())?;
        assert!(user.exec.is_none());
        Ok((user, expires))
    }

    #[tokio::test]
    async fn what_a_command_prints_takes_its_place() {
        let token = r#"{"kind": "ExecCredential", "status": {"token": "'"$GIVEN"'"}}"#;
        let yaml = "status: {token: given, expirationTimestamp: 2999-01-01T00:00:00Z}";
        let asked = r#"case $KUBERNETES_EXEC_INFO in
            *'"interactive":false'*) echo '{"status": {"token": "given"}}';; esac"#;
        for (script, expires) in [
            (format!("echo '{token}'"), None),
            (format!("echo '{yaml}'"), Some("2999-01-01T00:00:00Z")),
            (asked.to_owned(), None),
        ] {
            let (user, at) = filled(exec(&script)).await.unwrap();
            assert_eq!(user.token.unwrap().expose_secret(), "given");
            assert_eq!(at, expires.map(|at| at.parse().unwrap()));
        }
        let pair =
            r#"echo '{"status": {"clientCertificateData": "cert", "clientKeyData": "key"}}'"#;
        let (user, _) = filled(exec(pair)).await.unwrap();
        assert_eq!(user.client_certificate_data.as_deref(), Some("Y2VydA=="));
        assert!(user.token.is_none());
        // A credential that is present is not asked for.
        let mut known = exec("exit 1");
        known.token = Some("known".to_owned().into());
        assert!(filled(known).await.is_ok());
    }

    #[tokio::test]
    async fn a_command_that_does_not_give_a_credential_is_named_and_not_quoted() {
        for (script, words) in [
            ("echo hidden; exit 3", "`sh` failed with exit status: 3"),
            ("echo hidden", "something else than a credential"),
            (
                "echo '{\"status\": {}}'",
                "something else than a credential",
            ),
            ("echo '{}'", "something else than a credential"),
            (
                "echo '{\"status\": {\"token\": \"hidden\", \"expirationTimestamp\": \"soon\"}}'",
                "something else than a credential",
            ),
        ] {
            let error = filled(exec(script)).await.err().unwrap();
            assert!(error.contains(words), "{script}: {error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        let mut missing = exec("");
        missing.exec.as_mut().unwrap().command = Some("no-such-program".to_owned());
        assert_eq!(
            filled(missing).await.err().unwrap(),
            "the kubeconfig's credential command `no-such-program` cannot be run: there is no such program in PATH; the kubeconfig says: install it"
        );
        let mut nothing = exec("");
        nothing.exec.as_mut().unwrap().command = None;
        assert!(
            filled(nothing)
                .await
                .err()
                .unwrap()
                .contains("without a `command`")
        );
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
        let user = exec(&script);
        let error = run(user.exec.as_ref().unwrap(), Duration::from_millis(300)).await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains("`sh` did not end within 0 s"), "{error}");
        let text = std::fs::read_to_string(pids).unwrap();
        for pid in text.split_whitespace() {
            let is_over = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                stat.map_or(true, |stat| stat.contains(") Z "))
            };
            let mut tries = 0;
            while !is_over() && tries < 100 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                tries += 1;
            }
            assert!(is_over(), "{pid}");
        }
    }
}
