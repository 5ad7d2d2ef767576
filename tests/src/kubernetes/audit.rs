//! The API server's audit log: user, request and result. Tests count requests by it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::client::KubeClient;
use crate::wait_until;

/// The log is written right after an answer; busy cores may need a moment.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// RBAC's verb: get, list, watch, create, update, patch, delete; for URLs that are no resource the method in small letters.
    pub verb: String,
    /// The plural name of the resource; empty for other URLs.
    pub resource: String,
    /// For instance `token` of a ServiceAccount; mostly empty.
    pub subresource: String,
    /// Empty outside namespaces.
    pub namespace: String,
    /// The object's name; empty for collections.
    pub name: String,
    /// The status code of the answer.
    pub code: u16,
    /// The whole `User-Agent` field.
    pub user_agent: String,
    /// The authenticated user.
    pub username: String,
    /// Path and query.
    pub uri: String,
}

impl AuditEvent {
    fn parse(line: &str) -> Result<Self> {
        let event: Value =
            serde_json::from_str(line).with_context(|| format!("not an audit event: {line}"))?;
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let code = event
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        Ok(Self {
            verb: text("/verb"),
            resource: text("/objectRef/resource"),
            subresource: text("/objectRef/subresource"),
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            code: u16::try_from(code).context("a status code above 65535")?,
            user_agent: text("/userAgent"),
            username: text("/user/username"),
            uri: text("/requestURI"),
        })
    }
}

/// Sends a marked request and reads the log once the mark is in it.
pub(super) fn read_settled(log: &Path, admin: &KubeClient) -> Result<Vec<AuditEvent>> {
    let mark = format!("/version?mark={:016x}", fastrand::u64(..));
    admin.request("GET", &mark, "application/json", None)?;
    wait_until("the audit log to have the mark", SETTLE_TIMEOUT, || {
        let text = std::fs::read_to_string(log).ok()?;
        text.contains(&mark).then_some(text)
    })?
    // A line without a newline is still being written.
    .split_inclusive('\n')
    .filter(|line| line.ends_with('\n'))
    .map(AuditEvent::parse)
    .collect()
}
