//! The one error type of the crate, with questions instead of variants to match on.
//!
//! What must hold: an error says what may be done about it. `outcome_unknown()` is true whenever a
//! write may have happened; then `is_retryable()` is false, because it promises that nothing was
//! done. A refusal keeps every field of the problem document that the node sent.
//!
//! Left out: which status belongs to which refusal. Nodes decide that; this file only reads it.

use std::fmt;

use http::StatusCode;
use pennon_evaluator::Version;
use serde_json::{Map, Value};

/// What went wrong, where, and what that means for the caller.
///
/// ```
/// # use pennon_client::Client;
/// let refusal = Client::builder(["ftp://127.0.0.1"]).start().err().map(|e| e.to_string());
/// assert_eq!(refusal.as_deref(), Some("\"ftp://127.0.0.1\" does not start with http://"));
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    message: String,
    endpoint: Option<String>,
    status: Option<StatusCode>,
    version: Option<Version>,
    problem: Option<Problem>,
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Settings,
    Unreachable,
    TimedOut,
    Protocol,
    Refused,
    OutcomeUnknown,
    Stopped,
}

/// A problem document (`application/problem+json`) as a node sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    slug: String,
    title: String,
    detail: String,
    fields: Map<String, Value>,
}

impl Problem {
    /// Reads a problem document; anything that is not a JSON object is none.
    pub(crate) fn parse(body: &[u8]) -> Option<Problem> {
        let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let text = |name: &str| {
            fields
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let slug = text("type").rsplit('/').next().unwrap_or("").to_owned();
        Some(Problem {
            slug,
            title: text("title"),
            detail: text("detail"),
            fields,
        })
    }

    /// Returns the end of its `type`, for example `version-conflict`; empty when it has none.
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// Returns its `title`, empty when it has none.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns its `detail`, empty when it has none.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns any other field that the slug promises, for example `current_version`.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// Returns all fields, in the order they were sent.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

impl Error {
    /// Whether a conditional write lost: the object is not at the expected version. The fields
    /// `current_version` and `current` of [`Error::problem`] say what is.
    pub fn is_conflict(&self) -> bool {
        self.slug() == "version-conflict"
            || self.inner.status == Some(StatusCode::PRECONDITION_FAILED)
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.inner.status == Some(StatusCode::NOT_FOUND)
    }

    /// Whether an object was asked for as of a version that the history does not go back to, so that
    /// nobody knows what it was. [`Error::oldest_version`] says what can be asked instead.
    pub fn is_not_retained(&self) -> bool {
        self.slug() == "not-retained"
    }

    /// Whether a change of members cannot be made: the member is that already, lacks too much, or those that
    /// would be left could decide nothing. [`Error::problem`] says which.
    pub fn is_membership_refused(&self) -> bool {
        self.slug() == "membership-refused"
    }

    /// Whether the token is missing, unknown or not allowed to do this.
    pub fn is_denied(&self) -> bool {
        matches!(
            self.inner.status,
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        )
    }

    /// Whether the request itself was wrong: its shape, its length, its values, or what refers to what.
    pub fn is_invalid(&self) -> bool {
        matches!(
            self.slug(),
            "validation" | "reference-in-use" | "precondition-required" | "idempotency-mismatch"
        ) || matches!(
            self.inner.status,
            Some(
                StatusCode::BAD_REQUEST
                    | StatusCode::UNPROCESSABLE_ENTITY
                    | StatusCode::PAYLOAD_TOO_LARGE
            )
        )
    }

    /// Whether a deadline passed: the caller's or one of this crate.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == Kind::TimedOut || self.slug() == "outcome-unknown"
    }

    /// Whether no node could be reached, or none of them has a leader.
    pub fn is_unreachable(&self) -> bool {
        self.inner.kind == Kind::Unreachable || matches!(self.slug(), "not-leader" | "no-quorum")
    }

    /// Whether an answer was refused because the node was staler than asked for.
    pub fn is_not_fresh_enough(&self) -> bool {
        self.slug() == "not-fresh-enough"
    }

    /// Whether nothing was done and the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self.inner.kind {
            Kind::Unreachable | Kind::TimedOut => true,
            Kind::Refused => matches!(
                self.inner.status,
                Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            ),
            Kind::Settings | Kind::Protocol | Kind::OutcomeUnknown | Kind::Stopped => false,
        }
    }

    /// Whether the write may have happened. Read the object, or send the same request once more
    /// with [`Error::idempotency_key`], to find out.
    pub fn outcome_unknown(&self) -> bool {
        self.inner.kind == Kind::OutcomeUnknown // I9
    }

    /// Whether the client was configured wrongly; no request was made.
    pub fn is_settings(&self) -> bool {
        self.inner.kind == Kind::Settings
    }

    /// Returns the status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.inner.status.map(|status| status.as_u16())
    }

    /// Returns the version at which a refusal was decided, if it says so.
    pub fn version(&self) -> Option<Version> {
        self.inner.version
    }

    /// Returns the problem document of a refusal.
    pub fn problem(&self) -> Option<&Problem> {
        self.inner.problem.as_ref()
    }

    /// Returns the slug of the problem document, empty without one.
    pub fn slug(&self) -> &str {
        self.problem().map_or("", Problem::slug)
    }

    /// Returns the oldest version as of which the object can be read, when what was asked for is not
    /// kept any more: see [`Error::is_not_retained`]. `None` when nothing of it is kept.
    pub fn oldest_version(&self) -> Option<Version> {
        self.version_in("oldest_version")
    }

    /// Returns the version that deleted the object, when it was asked for as of a version at which it
    /// was deleted. At the version before, it was there.
    pub fn deleted_version(&self) -> Option<Version> {
        self.version_in("deleted_version")
    }

    /// Returns the endpoint that was talked to, if it was one.
    pub fn endpoint(&self) -> Option<&str> {
        self.inner.endpoint.as_deref()
    }

    /// Returns the key under which the write was sent, if it was one.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.inner.idempotency_key.as_deref()
    }
}

/// How the crate makes errors.
impl Error {
    fn version_in(&self, field: &str) -> Option<Version> {
        Version::new(self.problem()?.field(field)?.as_u64()?)
    }

    fn new(kind: Kind, message: String) -> Error {
        let inner = Inner {
            kind,
            message,
            endpoint: None,
            status: None,
            version: None,
            problem: None,
            idempotency_key: None,
        };
        Error {
            inner: Box::new(inner),
        }
    }

    pub(crate) fn settings(message: impl Into<String>) -> Error {
        Error::new(Kind::Settings, message.into())
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unreachable, message.into())
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Error {
        Error::new(Kind::TimedOut, message.into())
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Error {
        Error::new(Kind::Protocol, message.into())
    }

    pub(crate) fn stopped() -> Error {
        Error::new(Kind::Stopped, "the client is stopped".to_owned())
    }

    /// Makes the error for an answer that is no success.
    pub(crate) fn refused(status: StatusCode, version: Option<Version>, body: &[u8]) -> Error {
        let problem = Problem::parse(body);
        let said = match &problem {
            Some(problem) if !problem.detail.is_empty() => problem.detail.as_str(),
            Some(problem) if !problem.title.is_empty() => problem.title.as_str(),
            _ => status.canonical_reason().unwrap_or("refused"),
        };
        let mut error = Error::new(Kind::Refused, format!("{said} ({})", status.as_u16()));
        error.inner.status = Some(status);
        error.inner.version = version;
        error.inner.problem = problem;
        error
    }

    /// Turns the last failure of a write that may have happened into one that says so.
    pub(crate) fn into_outcome_unknown(mut self) -> Error {
        self.inner.kind = Kind::OutcomeUnknown; // I9
        self
    }

    pub(crate) fn at(mut self, endpoint: impl fmt::Display) -> Error {
        self.inner.endpoint = Some(endpoint.to_string());
        self
    }

    pub(crate) fn for_write(mut self, idempotency_key: &str) -> Error {
        self.inner.idempotency_key = Some(idempotency_key.to_owned());
        self
    }

    /// Says before what happened what it was that failed.
    pub(crate) fn during(mut self, what: &str) -> Error {
        self.inner.message = format!("{what}: {}", self.inner.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.outcome_unknown() {
            f.write_str("the outcome is unknown, the write may have happened: ")?;
        }
        f.write_str(&self.inner.message)?;
        match &self.inner.endpoint {
            Some(endpoint) => write!(f, " [{endpoint}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFLICT: &[u8] = br#"{"type":"/problems/version-conflict","title":"conflict",
        "detail":"it is at 9","status":412,"current_version":9}"#;

    #[test]
    fn a_refusal_keeps_what_the_problem_document_says() {
        let error = Error::refused(StatusCode::PRECONDITION_FAILED, Version::new(11), CONFLICT);
        assert!(error.is_conflict() && !error.is_retryable() && !error.outcome_unknown());
        assert_eq!(error.to_string(), "it is at 9 (412)");
        assert_eq!(error.slug(), "version-conflict");
        assert_eq!(error.version(), Version::new(11));
        let current = error.problem().and_then(|p| p.field("current_version"));
        assert_eq!(current.and_then(Value::as_u64), Some(9));
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_still_an_error_with_a_status() {
        let error = Error::refused(StatusCode::BAD_GATEWAY, None, b"<html>");
        assert_eq!(error.to_string(), "Bad Gateway (502)");
        assert_eq!((error.status(), error.slug()), (Some(502), ""));
        assert!(error.problem().is_none());
    }

    #[test]
    fn an_unknown_outcome_is_never_called_retryable() {
        let error = Error::timed_out("no answer")
            .at("http://n1:7400")
            .for_write("k1");
        assert!(error.is_retryable());
        let error = error.into_outcome_unknown();
        assert!(error.outcome_unknown() && !error.is_retryable());
        assert_eq!(error.idempotency_key(), Some("k1"));
        let text = error.to_string();
        assert!(
            text.contains("may have happened") && text.ends_with("[http://n1:7400]"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_says_what_can_be_asked_instead() {
        let body = br#"{"type":"/problems/not-retained","at":3,"oldest_version":7}"#;
        let error = Error::refused(StatusCode::GONE, None, body);
        assert_eq!(error.oldest_version(), Version::new(7));
        assert_eq!(error.deleted_version(), None);
        let body = br#"{"type":"/problems/not-found","deleted_version":9}"#;
        let error = Error::refused(StatusCode::NOT_FOUND, None, body);
        assert_eq!(error.deleted_version(), Version::new(9));
        let body = br#"{"type":"/problems/not-retained","oldest_version":"7"}"#;
        let error = Error::refused(StatusCode::GONE, None, body);
        assert_eq!(error.oldest_version(), None, "no whole number");
    }

    #[test]
    fn questions_follow_status_and_slug() {
        let refused = |status: u16, slug: &str| {
            let body = format!(r#"{{"type":"/problems/{slug}"}}"#);
            Error::refused(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
        };
        assert!(refused(404, "not-found").is_not_found());
        assert!(refused(410, "not-retained").is_not_retained());
        assert!(!refused(410, "not-retained").is_not_found());
        assert!(refused(403, "forbidden").is_denied());
        assert!(refused(503, "no-quorum").is_unreachable());
        assert!(refused(503, "no-quorum").is_retryable());
        assert!(refused(503, "not-fresh-enough").is_not_fresh_enough());
        assert!(refused(409, "reference-in-use").is_invalid());
        assert!(refused(422, "idempotency-mismatch").is_invalid());
        assert!(refused(413, "too-large").is_invalid());
        assert!(!refused(500, "").is_retryable());
    }
}
