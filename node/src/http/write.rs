//! Writes: from a request to a change set, and from its outcome to an answer (I2, I9).
//!
//! What must hold: nothing is written without the precondition that the path asks for; the
//! fingerprint of an Idempotency-Key covers everything that decides the outcome (method, path,
//! preconditions, body), so that the same key with another request is noticed; an outcome that is
//! not known is said to be unknown.

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{Digest, Version};
use pennon_raft_store::command::{
    Expected, ObjectId, Origin, Outcome, Refusal, RequestId, WriteResult,
};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest};
use serde_json::{Value, json};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use super::answer::{Answer, Decided};
use super::call::Call;
use super::objects;
use super::problem::Problem;
use super::receipts;
use super::route::{TIMEOUT_DEFAULT, TIMEOUT_MAX};
use crate::core::Core;

/// The longest Idempotency-Key, in bytes.
pub(crate) const KEY_LEN_MAX: usize = 255;
/// The longest reason, in bytes.
pub(crate) const REASON_LEN_MAX: usize = 1_000;
/// The longest name of who writes, in bytes.
pub(crate) const ACTOR_LEN_MAX: usize = 255;

/// Who writes when nobody says so.
const ANONYMOUS: &str = "anonymous";

/// How long a refusal waits for this node to have what was refused, to show it.
const CURRENT_WAIT_MAX: Duration = Duration::from_secs(2);

/// A change set that happened.
pub(crate) struct Done {
    pub(crate) decided: Decided,
    pub(crate) results: Vec<WriteResult>,
    /// What came of waiting for more than the commit, if that was asked for.
    pub(crate) delivery: Option<Value>,
}

/// Writes one object and answers `{key, version, previous_version?}`.
pub(crate) async fn one(
    call: &Call,
    object: ObjectId,
    ask: Ask,
    expected: Expected,
) -> Result<Answer, Problem> {
    let gone = ask == Ask::Delete;
    let asked = AskedWrite {
        object: object.clone(),
        ask,
        expected,
    };
    let done = submit(call, vec![asked], None, false).await?;
    let Some(result) = done.results.first() else {
        return Err(Problem::internal("a write of one object has no result"));
    };
    let mut body = json!({ "key": object.key(), "version": result.version });
    if let Some(previous) = result.previous {
        body["previous_version"] = json!(previous);
    }
    if let Some(delivery) = done.delivery {
        body["delivery"] = delivery;
    }
    let answer = Answer::json(done.decided, body.to_string());
    Ok(if gone {
        answer
    } else {
        answer.etag(result.version)
    })
}

/// The precondition of a path that asks for one.
pub(crate) fn required(call: &Call) -> Result<Expected, Problem> {
    call.expected()?.ok_or_else(Problem::precondition_required)
}

/// Writes a change set. `onto`: a restore, see [`ChangeRequest::onto`]. `in_list`: the body is a list
/// of writes with their values.
pub(crate) async fn submit(
    call: &Call,
    writes: Vec<AskedWrite>,
    onto: Option<Digest>,
    in_list: bool,
) -> Result<Done, Problem> {
    let timeout = call.duration("timeout", TIMEOUT_DEFAULT, TIMEOUT_MAX)?;
    if timeout.is_zero() {
        return Err(Problem::parameter("timeout", "must be longer than 0"));
    }
    let ack = receipts::ack(call);
    let deadline = Instant::now() + timeout;
    let written: Vec<ObjectId> = writes.iter().map(|write| write.object.clone()).collect();
    let request = ChangeRequest {
        onto,
        writes,
        origin: origin(call)?,
    };
    let repeatable = request.origin.request.is_some();
    let core = call.core()?;
    let outcome = core
        .write(request, timeout)
        .await
        .map_err(|why| Problem::write(&why, repeatable))?;
    let decided = Decided {
        version: outcome.version(),
        fresh_at: core.fresh_at(),
    };
    match outcome {
        Outcome::Written { results, version } => {
            let left = deadline.saturating_duration_since(Instant::now());
            Ok(Done {
                decided,
                results,
                delivery: receipts::waited(core, ack, &written, version, left).await,
            })
        }
        Outcome::Refused {
            refusal:
                Refusal::Conflict {
                    object,
                    expected,
                    found,
                },
            version,
        } => {
            let current = current(core, &object, found, version).await;
            Err(Problem::conflict(&object, expected, found, current).decided(decided))
        }
        Outcome::Refused { refusal, .. } => {
            Err(Problem::refusal(&refusal, in_list).decided(decided))
        } // I2
    }
}

/// The object as the refusal found it: from the view, or from the history when it has moved on.
/// `null` when it did not exist, or is no longer known.
async fn current(
    core: &Core,
    object: &ObjectId,
    found: Option<Version>,
    decided: Version,
) -> Value {
    let Some(found) = found else {
        return Value::Null;
    };
    let Ok(view) = core.at_least(decided, CURRENT_WAIT_MAX).await else {
        return Value::Null;
    };
    if let Some(have) = view.object(object).filter(|have| have.version == found) {
        return objects::shown(object.key(), have);
    }
    let before = found.checked_add(1);
    let history = core.history(object, before, 1).await.unwrap_or_default();
    let change = history
        .into_iter()
        .next()
        .filter(|change| change.version == found);
    change.map_or(Value::Null, |change| {
        objects::as_of(&change).unwrap_or(Value::Null)
    })
}

/// Who writes, under which request id, and why.
fn origin(call: &Call) -> Result<Origin, Problem> {
    let actor = call.header("Pennon-Actor")?;
    if let Some(actor) = actor {
        check_text("Pennon-Actor", actor, ACTOR_LEN_MAX)?;
    }
    let header = call.header("Pennon-Reason")?;
    let reason = call.param("reason").or(header);
    if let Some(reason) = reason {
        check_text("reason", reason, REASON_LEN_MAX)?;
    }
    Ok(Origin {
        actor: actor.unwrap_or(ANONYMOUS).into(),
        request: request_id(call)?,
        reason: reason.map(Arc::from),
    })
}

fn check_text(name: &str, text: &str, max: usize) -> Result<(), Problem> {
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        let message = format!("must have 1 to {max} bytes and no control characters");
        return Err(Problem::in_header(name, message));
    }
    Ok(())
}

fn request_id(call: &Call) -> Result<Option<RequestId>, Problem> {
    let Some(key) = call.header("Idempotency-Key")? else {
        return Ok(None);
    };
    if !(1..=KEY_LEN_MAX).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("must be 1 to {KEY_LEN_MAX} visible ASCII characters without spaces");
        return Err(Problem::in_header("Idempotency-Key", message));
    }
    Ok(Some(RequestId {
        key: key.into(),
        fingerprint: fingerprint(call)?,
    }))
}

/// Hash of everything that decides the outcome. Each part with its length, so that no two
/// requests run together.
fn fingerprint(call: &Call) -> Result<u128, Problem> {
    // Written out, because this hash is stored and compared by other releases.
    let expected = match call.expected()? {
        None => String::new(),
        Some(Expected::Any) => "any".into(),
        Some(Expected::Absent) => "absent".into(),
        Some(Expected::Present) => "present".into(),
        Some(Expected::At(version)) => version.to_string(),
    };
    let mut hasher = Xxh3::new();
    let head = [call.route.method.as_str(), call.route.path, &expected];
    let parts = head
        .into_iter()
        .chain(call.path_values())
        .map(str::as_bytes);
    for part in parts.chain([&*call.body]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(hasher.digest128()) // I9
}
