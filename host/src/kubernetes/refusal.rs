//! Classification of the API server's refusals: from status and body to a failure with a stable code and a correction. Pure.

use std::time::Duration;

use http::StatusCode;
use kube::core::Status;

use super::call::{ApiCall, Verb};
use crate::model::failure::{Failure, FailureKind, HostCode};

/// The longest message of the server that is quoted: its longest refusals are about 300 characters, a proxy's error page is
/// longer.
const SERVER_WORDS_MAX: usize = 400;

/// Why a request failed, with the failures that its sender can handle as variants.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The object does not exist.
    NotFound(Failure),
    /// The object was changed between our read and our write, or created at the same moment.
    Conflict(Failure),
    /// A dry run was requested, and an admission webhook does not support dry runs.
    NoDryRun(Failure),
    /// Anything else.
    Other(Failure),
}

impl ApiError {
    fn of(failure: Failure) -> Self {
        match failure.host_code() {
            Some(HostCode::KubernetesNotFound) => Self::NotFound(failure),
            Some(HostCode::KubernetesConflict) => Self::Conflict(failure),
            Some(HostCode::KubernetesNoDryRun) => Self::NoDryRun(failure),
            _ => Self::Other(failure),
        }
    }

    /// The same with its failure rewritten.
    pub(crate) fn map(self, words: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::NotFound(failure) => Self::NotFound(words(failure)),
            Self::Conflict(failure) => Self::Conflict(words(failure)),
            Self::NoDryRun(failure) => Self::NoDryRun(words(failure)),
            Self::Other(failure) => Self::Other(words(failure)),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<ApiError> for Failure {
    fn from(refusal: ApiError) -> Self {
        match refusal {
            ApiError::NotFound(failure)
            | ApiError::Conflict(failure)
            | ApiError::NoDryRun(failure)
            | ApiError::Other(failure) => failure,
        }
    }
}

/// The failure of an unsuccessful answer.
pub(super) fn refusal(
    call: &ApiCall<'_>,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> ApiError {
    ApiError::of(failure(call, status, retry_after, body))
}

fn failure(
    call: &ApiCall<'_>,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Failure {
    let answer: Status = serde_json::from_slice(body).unwrap_or_default();
    let (kind, code, why) = judge(call, status, &answer);
    let mut failure = Failure::new(kind, code, format!("cannot {call}: {why}"));
    failure.retry_after = retry_after.or_else(|| {
        let seconds = answer.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    });
    failure
}

/// The failure of a request that the API server would not allow.
pub(super) fn denied(call: &ApiCall<'_>, reason: &str) -> Failure {
    let words = match reason {
        "" => "so says its SelfSubjectAccessReview",
        reason => reason,
    };
    let why = forbidden(call, &call.verb.to_string(), words);
    Failure::new(
        FailureKind::Denied,
        HostCode::KubernetesForbidden,
        format!("cannot {call}: {why}"),
    )
}

fn judge(
    call: &ApiCall<'_>,
    status: StatusCode,
    answer: &Status,
) -> (FailureKind, HostCode, String) {
    use FailureKind::{Denied, InvalidConfig, Unavailable};
    let words = server_words(answer);
    match status.as_u16() {
        401 => (
            Denied,
            HostCode::KubernetesUnauthorized,
            "the API server does not accept our credentials: they are wrong or have expired; renew those of the kubeconfig's user, or look at the Pod's service account".to_owned(),
        ),
        400..=428 if is_denied_by_rule(&answer.message) => (
            Denied,
            HostCode::KubernetesRefused,
            format!("an admission rule refuses it: {words}"),
        ),
        403 if has_cause(answer, "NamespaceTerminating") || answer.message.contains("is being terminated") => (
            Denied,
            HostCode::KubernetesTerminating,
            format!(
                "namespace {} is being deleted; remove the output or let the namespace be created anew",
                call.namespace
            ),
        ),
        403 if answer.message.contains("exceeded quota") => (
            Denied,
            HostCode::KubernetesQuota,
            format!("the namespace's ResourceQuota does not allow it: {words}"),
        ),
        // A permission for this user would be one for everyone.
        403 if answer.message.contains("User \"system:anonymous\"") => (
            Denied,
            HostCode::KubernetesUnauthorized,
            format!("we have no credentials there; give the kubeconfig's user a token, a client certificate or a credential command (`exec`): {words}"),
        ),
        403 => match denied_verb(&answer.message) {
            Some(verb) => (Denied, HostCode::KubernetesForbidden, forbidden(call, verb, &words)),
            None => (Denied, HostCode::KubernetesRefused, format!("an admission rule refuses it: {words}")),
        },
        404 if is_about(answer, "namespaces") => (
            InvalidConfig,
            HostCode::KubernetesNamespaceNotFound,
            format!("namespace {} does not exist; create it", call.namespace),
        ),
        404 => (InvalidConfig, HostCode::KubernetesNotFound, not_found(call)),
        409 => (
            Unavailable,
            HostCode::KubernetesConflict,
            "somebody else changed it at the same moment; it is tried again".to_owned(),
        ),
        413 => (InvalidConfig, HostCode::KubernetesTooLarge, too_large()),
        400 if answer.message.contains("does not support dry run") => (
            InvalidConfig,
            HostCode::KubernetesNoDryRun,
            format!("it cannot be tried without doing it: {words}"),
        ),
        400 | 422 => judge_invalid(answer, &words),
        429 => (
            Unavailable,
            HostCode::KubernetesThrottled,
            "the API server asks to come back later".to_owned(),
        ),
        500.. => (
            Unavailable,
            HostCode::KubernetesUnavailable,
            format!("the API server answers {status}: {words}"),
        ),
        _ => (
            Denied,
            HostCode::KubernetesRefused,
            format!("the API server answers {status}: {words}"),
        ),
    }
}

/// Whether a webhook or a policy refuses: each may choose its own status.
fn is_denied_by_rule(message: &str) -> bool {
    message.contains(" denied the request") || message.contains(" denied request: ")
}

/// The object that we sent is invalid.
fn judge_invalid(answer: &Status, words: &str) -> (FailureKind, HostCode, String) {
    let (code, why) = if answer.message.contains("when `immutable` is set") {
        (
            HostCode::KubernetesImmutable,
            "it is immutable, so it can never hold a fresh token; delete it and create it without `immutable: true`".to_owned(),
        )
    } else if answer.message.contains("Too long: may not be more than") {
        (HostCode::KubernetesTooLarge, too_large())
    } else if answer.message.contains(" type: Invalid value") {
        (
            HostCode::KubernetesType,
            format!(
                "a Secret's type cannot be changed; drop `type` from the output or delete the Secret: {words}"
            ),
        )
    } else {
        (
            HostCode::KubernetesInvalid,
            format!("the API server finds it invalid: {words}"),
        )
    };
    (FailureKind::InvalidConfig, code, why)
}

/// The verb that RBAC does not allow, from `User "x" cannot create resource "secrets" …`. It may differ from the request's: an
/// apply to a missing object needs `create` as well.
fn denied_verb(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(' ')?;
    rest.starts_with("resource ").then_some(verb)
}

fn forbidden(call: &ApiCall<'_>, verb: &str, words: &str) -> String {
    let ApiCall {
        resource,
        namespace,
        name,
        ..
    } = call;
    // The authorizer is not given the name of an object that is to be created, so a rule with resourceNames never allows it.
    let of_whom = if verb == "create" && *resource == "secrets" {
        format!(
            "(a rule of its own, without resourceNames; or create {namespace}/{name} yourself and set `create: false`)"
        )
    } else {
        format!("(resourceNames: [{name}] is enough)")
    };
    format!(
        "RBAC does not allow it; grant verb `{verb}` on resource `{resource}` in namespace `{namespace}` {of_whom}: {words}"
    )
}

fn not_found(call: &ApiCall<'_>) -> String {
    match (call.resource, call.verb) {
        ("secrets", Verb::Patch) => {
            "it does not exist; create it, or set `create: true` on the output".to_owned()
        }
        _ => "it does not exist; create it".to_owned(),
    }
}

fn too_large() -> String {
    "a Secret holds at most 1 MiB; let the format write less, or put the outputs into different Secrets".to_owned()
}

fn has_cause(answer: &Status, reason: &str) -> bool {
    answer
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == reason)
}

fn is_about(answer: &Status, kind: &str) -> bool {
    answer
        .details
        .as_ref()
        .is_some_and(|details| details.kind == kind)
}

/// The server's message on one line, or a note that the body is not from an API server.
fn server_words(answer: &Status) -> String {
    if answer.message.is_empty() {
        return "(no explanation; is it the API server that answers?)".to_owned();
    }
    let line: String = answer
        .message
        .chars()
        .take(SERVER_WORDS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(verb: Verb, status: u16, body: &str) -> Failure {
        let call = ApiCall::secret(verb, "apps", "warehouse");
        failure(
            &call,
            StatusCode::from_u16(status).unwrap(),
            None,
            body.as_bytes(),
        )
    }

    /// Bodies as kube-apiserver 1.36 sends them, shortened to the members that matter.
    #[test]
    fn every_refusal_has_its_code_and_names_the_mend() {
        let rbac = |verb: &str| json!({"message": format!("secrets \"warehouse\" is forbidden: User \"u\" cannot {verb} resource \"secrets\" in API group \"\" in the namespace \"apps\"")});
        for (verb, status, body, code, kind, words) in [
            (
                Verb::Get,
                401,
                json!({"message": "Unauthorized"}),
                "kubernetes.unauthorized",
                FailureKind::Denied,
                "credentials",
            ),
            (
                Verb::Get,
                403,
                json!({"message": "secrets \"warehouse\" is forbidden: User \"system:anonymous\" cannot get resource \"secrets\" in API group \"\" in the namespace \"apps\""}),
                "kubernetes.unauthorized",
                FailureKind::Denied,
                "give the kubeconfig's user a token",
            ),
            (
                Verb::Patch,
                403,
                rbac("patch"),
                "kubernetes.forbidden",
                FailureKind::Denied,
                "grant verb `patch` on resource `secrets` in namespace `apps` (resourceNames: [warehouse] is enough)",
            ),
            (
                Verb::Patch,
                403,
                rbac("create"),
                "kubernetes.forbidden",
                FailureKind::Denied,
                "grant verb `create` on resource `secrets` in namespace `apps` (a rule of its own, without resourceNames",
            ),
            (
                Verb::Patch,
                403,
                json!({"message": "secrets \"warehouse\" is forbidden: unable to create new content in namespace apps because it is being terminated",
              "details": {"causes": [{"reason": "NamespaceTerminating"}]}}),
                "kubernetes.terminating",
                FailureKind::Denied,
                "namespace apps is being deleted",
            ),
            (
                Verb::Patch,
                403,
                json!({"message": "secrets \"warehouse\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1"}),
                "kubernetes.quota",
                FailureKind::Denied,
                "ResourceQuota",
            ),
            (
                Verb::Patch,
                403,
                json!({"message": "admission webhook \"w\" denied the request: no"}),
                "kubernetes.refused",
                FailureKind::Denied,
                "denied the request",
            ),
            (
                Verb::Patch,
                422,
                json!({"message": "secrets \"warehouse\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not here"}),
                "kubernetes.refused",
                FailureKind::Denied,
                "an admission rule refuses it: secrets \"warehouse\" is forbidden: ValidatingAdmissionPolicy 'p'",
            ),
            (
                Verb::Patch,
                409,
                json!({"message": "admission webhook \"w\" denied the request: twice"}),
                "kubernetes.refused",
                FailureKind::Denied,
                "denied the request",
            ),
            (
                Verb::Patch,
                404,
                json!({"message": "secrets \"warehouse\" not found", "details": {"kind": "secrets"}}),
                "kubernetes.not-found",
                FailureKind::InvalidConfig,
                "`create: true`",
            ),
            (
                Verb::Get,
                404,
                json!({"message": "secrets \"warehouse\" not found", "details": {"kind": "secrets"}}),
                "kubernetes.not-found",
                FailureKind::InvalidConfig,
                "create it",
            ),
            (
                Verb::Patch,
                404,
                json!({"message": "namespaces \"apps\" not found", "details": {"kind": "namespaces"}}),
                "kubernetes.namespace-not-found",
                FailureKind::InvalidConfig,
                "namespace apps does not exist",
            ),
            (
                Verb::Update,
                409,
                json!({"message": "the object has been modified"}),
                "kubernetes.conflict",
                FailureKind::Unavailable,
                "somebody else",
            ),
            (
                Verb::Patch,
                413,
                json!({}),
                "kubernetes.too-large",
                FailureKind::InvalidConfig,
                "1 MiB",
            ),
            (
                Verb::Patch,
                422,
                json!({"message": "Secret \"warehouse\" is invalid: data: Too long: may not be more than 1048576 bytes"}),
                "kubernetes.too-large",
                FailureKind::InvalidConfig,
                "1 MiB",
            ),
            (
                Verb::Patch,
                422,
                json!({"message": "Secret \"warehouse\" is invalid: data: Forbidden: field is immutable when `immutable` is set"}),
                "kubernetes.immutable",
                FailureKind::InvalidConfig,
                "immutable: true",
            ),
            (
                Verb::Patch,
                422,
                json!({"message": "Secret \"warehouse\" is invalid: type: Invalid value: \"Opaque\": field is immutable"}),
                "kubernetes.type",
                FailureKind::InvalidConfig,
                "drop `type`",
            ),
            (
                Verb::Patch,
                400,
                json!({"message": "admission webhook \"policy.example.org\" does not support dry run"}),
                "kubernetes.no-dry-run",
                FailureKind::InvalidConfig,
                "policy.example.org",
            ),
            (
                Verb::Patch,
                422,
                json!({"message": "Secret \"warehouse\" is invalid: metadata.labels: Invalid value"}),
                "kubernetes.invalid",
                FailureKind::InvalidConfig,
                "metadata.labels",
            ),
            (
                Verb::Patch,
                503,
                json!({"message": "etcd is down"}),
                "kubernetes.unavailable",
                FailureKind::Unavailable,
                "etcd is down",
            ),
            (
                Verb::Patch,
                418,
                json!({}),
                "kubernetes.refused",
                FailureKind::Denied,
                "418",
            ),
        ] {
            let failure = judged(verb, status, &body.to_string());
            assert_eq!(failure.code(), Some(code), "{body}");
            assert_eq!(failure.kind, kind, "{body}");
            assert!(failure.message.contains(words), "{}", failure.message);
            assert!(
                failure
                    .message
                    .starts_with(&format!("cannot {verb} secret apps/warehouse: ")),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_request_to_come_back_later_is_passed_on() {
        let body = json!({"details": {"retryAfterSeconds": 7}}).to_string();
        assert_eq!(
            judged(Verb::Patch, 429, &body).retry_after,
            Some(Duration::from_secs(7))
        );
    }

    #[test]
    fn an_answer_that_is_no_status_is_not_repeated() {
        let failure = judged(Verb::Patch, 502, "<html>c2VjcmV0</html>");
        assert_eq!(failure.code(), Some("kubernetes.unavailable"));
        assert!(!failure.message.contains("c2VjcmV0"), "{}", failure.message);
    }
}
