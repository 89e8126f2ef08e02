//! Errors: the one file that chooses a status.
//!
//! What must hold: every error of the surface is one of [`Slug`], answered as
//! `application/problem+json` with `type` = `/problems/{slug}`, a detail that says what to do
//! next, and the fields that the slug promises. A write whose outcome is not known is never
//! answered as a plain failure (I9). A refusal says at which version it was decided (I2).
//!
//! Statuses chosen here where CONTRACT is silent: what the sender has to mend is 400 when the
//! request is wrong in itself, 409 when it is wrong because of others, 412 and 428 for
//! preconditions, 422 when it is well formed and can never be accepted (a used-up quota too, and
//! not 507: nothing is known to be broken, and a 5xx makes clients doubt the outcome of a write).

use http::StatusCode;
use http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use pennon_evaluator::{Fault, Version};
use pennon_raft_store::command::{Expected, ObjectId, Refusal};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Decided};
use crate::core::ReadError;
use crate::writer::WriteError;

/// Seconds after which something that was refused for the moment is worth another try.
const RETRY_AFTER_S: u32 = 1;

/// What went wrong, as a word that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slug {
    VersionConflict,
    PreconditionRequired,
    Validation,
    ReferenceInUse,
    NotFound,
    NotLeader,
    NoQuorum,
    NotFreshEnough,
    OutcomeUnknown,
    IdempotencyMismatch,
    TooLarge,
    RateLimited,
    Unauthenticated,
    Forbidden,
    QuotaExceeded,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestTimeout,
    NotReady,
    MembershipRefused,
    StateMoved,
    NotRetained,
    FeatureNotEnabled,
    Internal,
}

/// What is said about one slug.
struct Meaning {
    slug: Slug,
    word: &'static str,
    status: StatusCode,
    title: &'static str,
    explanation: &'static str,
    /// The component schema that describes its fields.
    schema: &'static str,
}

/// In the order of [`Slug`].
static MEANINGS: [Meaning; 25] = [
    Meaning {
        slug: Slug::VersionConflict,
        word: "version-conflict",
        status: StatusCode::PRECONDITION_FAILED,
        title: "the object is not at the expected version",
        explanation: "A conditional write lost: somebody else wrote the object first. Nothing was changed. `current_version` is \
         the version it had when this was decided (0: it did not exist), `current` the object at that version. \
         Apply your change to that and write again with If-Match: \"<current_version>\".",
        schema: "VersionConflictProblem",
    },
    Meaning {
        slug: Slug::PreconditionRequired,
        word: "precondition-required",
        status: StatusCode::PRECONDITION_REQUIRED,
        title: "a precondition is required",
        explanation: "A PUT or DELETE says which object it means to replace: If-Match: \"<version>\" (exactly this version), \
         If-None-Match: * (it must not exist) or If-Match: * (it must exist, whatever its version). So nobody \
         overwrites a change they have not seen.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::Validation,
        word: "validation",
        status: StatusCode::BAD_REQUEST,
        title: "the request is not valid",
        explanation: "Something in the request cannot be accepted. `faults` lists each with a JSON pointer into the request body \
         (empty for the whole of it), or with the `parameter` or `header` it is in. Nothing was changed.",
        schema: "ValidationProblem",
    },
    Meaning {
        slug: Slug::ReferenceInUse,
        word: "reference-in-use",
        status: StatusCode::CONFLICT,
        title: "others still refer to it",
        explanation: "The write would leave something dangling. `users` names who refers to it. Change those first, or together \
         with it in one change set (POST /v1/changes).",
        schema: "ReferenceInUseProblem",
    },
    Meaning {
        slug: Slug::NotFound,
        word: "not-found",
        status: StatusCode::NOT_FOUND,
        title: "there is no such thing",
        explanation: "What the request names does not exist: an object, an object that it needs, or a path. The detail says which.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NotLeader,
        word: "not-leader",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "this node does not lead",
        explanation: "Nodes forward writes and linearizable reads to the leader by themselves, so an API caller meets this only \
         where something must be done on the leader itself. Nothing was changed.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NoQuorum,
        word: "no-quorum",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "no leader with a quorum could be reached",
        explanation: "This node could not reach a leader that a majority follows. Nothing was changed. Try again, here or on \
         another node; GET /v1/cluster says who is missing. Reads with ?consistency=bounded or =stale may still work.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NotFreshEnough,
        word: "not-fresh-enough",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "this node is not fresh enough",
        explanation: "This node has not reached the version asked for, or cannot prove that it lags behind by no more than the \
         staleness bound. Ask another node, wait longer (?wait=), or accept a stale answer (?consistency=stale).",
        schema: "NotFreshEnoughProblem",
    },
    Meaning {
        slug: Slug::OutcomeUnknown,
        word: "outcome-unknown",
        status: StatusCode::GATEWAY_TIMEOUT,
        title: "the outcome of the write is not known",
        explanation: "The write was handed over and no answer came in time: it may have happened, or may still happen. Send the \
         same request with the same Idempotency-Key again to learn the outcome; it is applied once. Without a key, \
         read the object before you write again.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::IdempotencyMismatch,
        word: "idempotency-mismatch",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        title: "the Idempotency-Key was used for another request",
        explanation: "An Idempotency-Key names one request: method, path, preconditions and body. Use a new key for a new request. \
         Nothing was changed.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::TooLarge,
        word: "too-large",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        title: "the request is too large",
        explanation: "The request body is longer than this path takes. `limit_bytes` is the bound.",
        schema: "TooLargeProblem",
    },
    Meaning {
        slug: Slug::RateLimited,
        word: "rate-limited",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "too much is waiting",
        explanation: "The leader has as many writes waiting as it takes. Nothing was changed. Try again after Retry-After seconds.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::Unauthenticated,
        word: "unauthenticated",
        status: StatusCode::UNAUTHORIZED,
        title: "a token is required",
        explanation: "Send Authorization: Bearer <token>.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::Forbidden,
        word: "forbidden",
        status: StatusCode::FORBIDDEN,
        title: "this is not allowed",
        explanation: "The caller may not do this. A page of another site may never write through the browser of somebody who \
         happens to reach this node.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::QuotaExceeded,
        word: "quota-exceeded",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        title: "a bound of the cluster would be passed",
        explanation: "The cluster holds a bounded number of things. `quota` names the bound and `max` its size. Nothing was \
         changed. Delete what is no longer used. With the quota `disk`, the disks of `nodes` are nearly full: the one with \
         least has `free_bytes` left of the `min_free_bytes` (--min-free) that it keeps. Reads, evaluations and streams go on, \
         and writes do as soon as there is space.",
        schema: "QuotaExceededProblem",
    },
    Meaning {
        slug: Slug::MethodNotAllowed,
        word: "method-not-allowed",
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "the path does not take this method",
        explanation: "The Allow header lists the methods that the path takes. GET /openapi.json describes them.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NotAcceptable,
        word: "not-acceptable",
        status: StatusCode::NOT_ACCEPTABLE,
        title: "no acceptable form of the answer",
        explanation: "A stream is written as text/event-stream or application/vnd.pennon.frames. Name one of them in Accept.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::UnsupportedMediaType,
        word: "unsupported-media-type",
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        title: "the body is not declared to be JSON",
        explanation: "Bodies are JSON. Send Content-Type: application/json.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::RequestTimeout,
        word: "request-timeout",
        status: StatusCode::REQUEST_TIMEOUT,
        title: "the request body did not arrive in time",
        explanation: "The body came too slowly. Nothing was changed. Send the request again.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NotReady,
        word: "not-ready",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "this node is not ready",
        explanation: "This node should get no traffic of the asked kind at the moment. `reasons` says why.",
        schema: "NotReadyProblem",
    },
    Meaning {
        slug: Slug::MembershipRefused,
        word: "membership-refused",
        status: StatusCode::CONFLICT,
        title: "the membership cannot be changed so",
        explanation: "Nothing was changed. The detail says why: the voters that would be left could decide nothing, the node \
         has not caught up, or it is already as asked.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::StateMoved,
        word: "state-moved",
        status: StatusCode::PRECONDITION_FAILED,
        title: "something was written meanwhile",
        explanation: "A restore is applied only onto the ground state that it was compared with. Nothing was changed. \
         Look at what differs again, and restore onto the digest that is named there.",
        schema: "Problem",
    },
    Meaning {
        slug: Slug::NotRetained,
        word: "not-retained",
        status: StatusCode::GONE,
        title: "the history does not go back that far",
        explanation: "The history keeps the newest changes of each object, and the newest of all. What the object was at the \
         version asked for is not kept any more, and whether it existed then is not known. `oldest_version`, if there is \
         one, is the oldest change of it that is kept. A backup of that time has it.",
        schema: "NotRetainedProblem",
    },
    Meaning {
        slug: Slug::FeatureNotEnabled,
        word: "feature-not-enabled",
        status: StatusCode::CONFLICT,
        title: "a member of the cluster runs an older release",
        explanation: "The write uses something that a member's release cannot read yet. Nothing was changed. `needs_level` is the \
         feature level that it needs and `feature_level` that of the cluster: the lowest of its members. GET /v1/cluster says \
         who is behind. Upgrade or remove those; the level follows by itself, and the same request then succeeds.",
        schema: "FeatureNotEnabledProblem",
    },
    Meaning {
        slug: Slug::Internal,
        word: "internal",
        status: StatusCode::INTERNAL_SERVER_ERROR,
        title: "the node failed to answer",
        explanation: "A mistake of the node; its log has the reason. If this was a write, it may have happened: send it again \
         with the same Idempotency-Key, or read the object first.",
        schema: "Problem",
    },
];

impl Slug {
    /// Every slug.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        MEANINGS.iter().map(|meaning| meaning.slug)
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.meaning().word
    }

    pub(crate) fn status(self) -> StatusCode {
        self.meaning().status
    }

    pub(crate) fn title(self) -> &'static str {
        self.meaning().title
    }

    /// What it means and what to do, for people.
    pub(crate) fn explanation(self) -> &'static str {
        self.meaning().explanation
    }

    /// The name of the component schema that describes its fields.
    pub(crate) fn schema(self) -> &'static str {
        self.meaning().schema
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::all().find(|slug| slug.as_str() == word)
    }

    fn meaning(self) -> &'static Meaning {
        // The table has a row per slug, in their order; a test holds it to that.
        &MEANINGS[self as usize]
    }
}

/// One error on its way out. Boxed, because most results that could hold one do not.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    slug: Slug,
    detail: String,
    fields: Map<String, Value>,
    decided: Option<Decided>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(slug: Slug, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            slug,
            detail: detail.into(),
            fields: Map::new(),
            decided: None,
            headers: Vec::new(),
        }))
    }

    /// Adds a field that the slug promises.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Says at which version this was decided, if not at the newest one the node has.
    pub(crate) fn decided(mut self, decided: Decided) -> Self {
        self.0.decided = Some(decided);
        self
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    fn retry(self) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S))
    }

    pub(crate) fn slug(&self) -> Slug {
        self.0.slug
    }

    #[cfg(test)]
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.0.fields
    }

    /// The body and its status.
    pub(crate) fn into_answer(self) -> Answer {
        let parts = *self.0;
        let slug = parts.slug;
        let mut body = Map::new();
        body.insert("type".into(), format!("/problems/{}", slug.as_str()).into());
        body.insert("title".into(), slug.title().into());
        body.insert("status".into(), slug.status().as_u16().into());
        body.insert("detail".into(), parts.detail.into());
        body.extend(parts.fields);
        let text = Value::Object(body).to_string();
        let mut answer = Answer::text(slug.status(), "application/problem+json", text);
        for (name, value) in parts.headers {
            answer = answer.header(name, value);
        }
        match parts.decided {
            Some(decided) => answer.decided(decided),
            None => answer,
        }
    }
}

/// Requests that are wrong in themselves.
impl Problem {
    pub(crate) fn unknown_path(path: &str) -> Self {
        Self::new(
            Slug::NotFound,
            format!("there is nothing at {path}; GET /openapi.json lists every path"),
        )
    }

    pub(crate) fn method_not_allowed(method: &str, allow: &str) -> Self {
        let detail = format!("this path takes {allow}, not {method}");
        let problem = Self::new(Slug::MethodNotAllowed, detail);
        match HeaderValue::from_str(allow) {
            Ok(allow) => problem.header(ALLOW, allow),
            Err(_) => problem,
        }
    }

    pub(crate) fn faults(faults: &[Fault]) -> Self {
        let detail = match faults {
            [fault] => fault.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more; see faults)", rest.len()),
            [] => "the request cannot be accepted".into(),
        };
        let faults: Vec<Value> = faults
            .iter()
            .map(|fault| json!({ "pointer": fault.pointer, "message": fault.message }))
            .collect();
        Self::new(Slug::Validation, detail).with("faults", faults)
    }

    pub(crate) fn malformed(why: &str, line: usize, column: usize) -> Self {
        let message = format!("the body is not valid JSON: {why}");
        Self::faults(&[Fault::new("", message)])
            .with("line", line)
            .with("column", column)
    }

    /// A fault in the path or the query.
    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self::elsewhere("parameter", name, message.into())
    }

    /// A fault in a header.
    pub(crate) fn in_header(name: &str, message: impl Into<String>) -> Self {
        Self::elsewhere("header", name, message.into())
    }

    fn elsewhere(place: &str, name: &str, message: String) -> Self {
        let fault = json!({ "pointer": "", place: name, "message": message });
        Self::new(Slug::Validation, format!("{name}: {message}")).with("faults", vec![fault])
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!(
            "the body is longer than the {limit} bytes that this path takes; send less, or split it"
        );
        Self::new(Slug::TooLarge, detail).with("limit_bytes", limit)
    }

    pub(crate) fn precondition_required() -> Self {
        Self::new(
            Slug::PreconditionRequired,
            "say which object you mean to write: If-Match: \"<version>\" for exactly this version, If-None-Match: * if \
             it must not exist yet, If-Match: * if any version will do",
        )
    }
}

/// What the cluster or the node cannot do at the moment.
impl Problem {
    pub(crate) fn not_formed(waits_for: &str) -> Self {
        let detail =
            format!("this node does not serve yet: {waits_for}; try again, or ask another node");
        Self::new(Slug::NoQuorum, detail).retry()
    }

    pub(crate) fn not_ready(purpose: &str, reasons: Vec<String>) -> Self {
        let detail = format!("not ready for {purpose}: {}", reasons.join("; "));
        Self::new(Slug::NotReady, detail)
            .with("for", purpose)
            .with("reasons", reasons)
            .retry()
    }

    pub(crate) fn past_bound(staleness_ms: u64, bound_ms: u64) -> Self {
        let detail = format!(
            "this node may lag behind the cluster by {staleness_ms} ms and the staleness bound is {bound_ms} ms; ask \
             another node, or accept a stale answer with ?consistency=stale"
        );
        let problem = Self::new(Slug::NotFreshEnough, detail);
        problem
            .with("staleness_ms", staleness_ms)
            .with("bound_ms", bound_ms)
            .retry()
    }

    pub(crate) fn unproved() -> Self {
        let detail = "this node has not been proved fresh since it started; ask another node, or wait with ?wait=";
        Self::new(Slug::NotFreshEnough, detail).retry()
    }

    pub(crate) fn read(why: &ReadError) -> Self {
        match why {
            ReadError::NoQuorum => Self::new(
                Slug::NoQuorum,
                "no leader with a quorum could be reached in time; try again, ask another node, or read with \
                 ?consistency=bounded or =stale",
            )
            .retry(),
            ReadError::NotFreshEnough { wanted, have } => {
                let detail = format!(
                    "this node is at version {have} and version {wanted} was asked for; wait longer with ?wait=, or ask \
                     another node"
                );
                let problem = Self::new(Slug::NotFreshEnough, detail);
                problem.with("wanted_version", wanted.get()).with("have_version", have.get()).retry()
            }
            ReadError::NotFormed => Self::not_formed("a cluster"),
        }
    }

    pub(crate) fn write(why: &WriteError, repeatable: bool) -> Self {
        match why {
            WriteError::NoQuorum => Self::new(
                Slug::NoQuorum,
                format!("{why}; try again, here or on another node"),
            )
            .retry(),
            WriteError::Busy => {
                Self::new(Slug::RateLimited, format!("{why}; try again in a moment")).retry()
            }
            WriteError::Full(shortage) => Self::new(
                Slug::QuotaExceeded,
                format!("{why}; free space there, and write again: nothing has to be restarted"),
            )
            .with("quota", "disk")
            .with("max", 0)
            .with("nodes", shortage.nodes.clone())
            .with("free_bytes", shortage.free_bytes)
            .with("min_free_bytes", shortage.min_free_bytes)
            .retry(),
            WriteError::Unknown => {
                let next = match repeatable {
                    true => {
                        "send the same request with the same Idempotency-Key again to learn the outcome"
                    }
                    false => {
                        "read the object before you write again, and send an Idempotency-Key next time"
                    }
                };
                Self::new(Slug::OutcomeUnknown, format!("{why}; {next}")) // I9
            }
        }
    }

    pub(crate) fn internal(why: &str) -> Self {
        tracing::error!(%why, "a request could not be answered");
        Self::new(
            Slug::Internal,
            "the node failed to answer; its log has the reason",
        )
    }
}

/// What was decided by the cluster.
impl Problem {
    /// `current` is the object at the version `found`, if it is still known.
    pub(crate) fn conflict(
        object: &ObjectId,
        expected: Expected,
        found: Option<Version>,
        current: Value,
    ) -> Self {
        let is = match found {
            Some(version) => format!("it is at version {version}"),
            None => "it does not exist".into(),
        };
        let wanted = match expected {
            Expected::At(version) => format!("was expected at version {version}"),
            Expected::Absent => "must not exist yet".into(),
            Expected::Present | Expected::Any => "must exist".into(),
        };
        let detail = format!(
            "{object} {wanted} and {is}; look at `current`, and write again against `current_version`"
        );
        Self::new(Slug::VersionConflict, detail)
            .with("current_version", found.unwrap_or(Version::ZERO).get()) // I2
            .with("current", current)
            .with("object", named(object))
    }

    pub(crate) fn missing(object: &ObjectId) -> Self {
        Self::new(Slug::NotFound, format!("there is no {object}")).with("missing", named(object))
    }

    /// Everything but a conflict, which needs the object as it was. `in_list`: the body is a list
    /// of writes with their values.
    pub(crate) fn refusal(refusal: &Refusal, in_list: bool) -> Self {
        match refusal {
            Refusal::Conflict { object, expected, found } => Self::conflict(object, *expected, *found, Value::Null),
            Refusal::NotFound { object } => Self::missing(object),
            Refusal::Invalid { write, faults } if in_list => {
                let located = faults.iter().map(|fault| {
                    Fault::new(format!("/{write}/value{}", fault.pointer), fault.message.clone())
                });
                Self::faults(&located.collect::<Vec<_>>())
            }
            Refusal::Invalid { faults, .. } => Self::faults(faults),
            Refusal::InUse { object, users } => {
                let some = users.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
                let more = if users.len() > 3 { format!(" and {} more", users.len() - 3) } else { String::new() };
                let detail = format!(
                    "{object} is still used by {some}{more}; change those first, or in the same change set (POST /v1/changes)"
                );
                Self::new(Slug::ReferenceInUse, detail).with("users", users.clone()).with("object", named(object))
            }
            Refusal::IdempotencyMismatch { key } => Self::new(
                Slug::IdempotencyMismatch,
                format!("the Idempotency-Key {key:?} was used for another request; use a new key for a new request"),
            ),
            Refusal::Quota { what, max } => Self::new(
                Slug::QuotaExceeded,
                format!("there can be at most {max} {what}; delete what is no longer used, or send less at once"),
            )
            .with("quota", what.clone())
            .with("max", *max),
            Refusal::Moved => super::backup::moved(),
            Refusal::NotEnabled { needs, level } => Self::new(
                Slug::FeatureNotEnabled,
                format!(
                    "this needs feature level {needs} and the cluster is at {level}, because a member runs an older release; \
                     GET /v1/cluster says which. It is allowed when every member is upgraded"
                ),
            )
            .with("needs_level", *needs)
            .with("feature_level", *level),
        }
    }
}

/// An object's name as JSON: `{kind, environment?, key}`.
pub(crate) fn named(object: &ObjectId) -> Value {
    let mut name = Map::new();
    name.insert("kind".into(), object.kind().as_str().into());
    if let Some(environment) = object.environment() {
        name.insert("environment".into(), environment.as_str().into());
    }
    name.insert("key".into(), object.key().into());
    Value::Object(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slug_has_a_word_of_its_own() {
        for (at, slug) in Slug::all().enumerate() {
            assert_eq!(slug as usize, at, "{slug:?} is not at its place");
            assert_eq!(Slug::from_word(slug.as_str()), Some(slug));
            assert!(slug.status().is_client_error() || slug.status().is_server_error());
        }
    }

    #[test]
    fn faults_of_a_change_set_point_into_the_list() {
        let faults = vec![Fault::new("/variants/off", "no"), Fault::new("", "whole")];
        let refusal = Refusal::Invalid { write: 3, faults };
        let pointers = |problem: Problem| {
            let faults = problem.fields()["faults"].as_array().unwrap().clone();
            faults
                .iter()
                .map(|fault| fault["pointer"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pointers(Problem::refusal(&refusal, true)),
            ["/3/value/variants/off", "/3/value"]
        );
        assert_eq!(
            pointers(Problem::refusal(&refusal, false)),
            ["/variants/off", ""]
        );
    }

    #[test]
    fn an_unknown_outcome_is_no_plain_failure() {
        for repeatable in [true, false] {
            let problem = Problem::write(&WriteError::Unknown, repeatable);
            assert_eq!(problem.slug().status(), StatusCode::GATEWAY_TIMEOUT);
        }
        assert_eq!(
            Problem::write(&WriteError::Busy, false).slug().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
