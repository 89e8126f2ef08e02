//! The history of one object: its changes from the newest, and the object as of a version.
//!
//! What must hold: a change shows what it replaced where that is still kept, and never something
//! else; an object is said not to have existed at a version only when that is certain. What may
//! have been trimmed is `not-retained` and no guess.
//!
//! Left out: changes of all objects (`audit.rs`).

use std::io;

use pennon_evaluator::{Setting, Version};
use pennon_raft_store::changes::Changes;
use pennon_raft_store::command::{Change, ObjectId};
use pennon_raft_store::history::Extent;
use pennon_raft_store::machine::{Object, View};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Decided};
use super::call::Call;
use super::objects::{as_of, shown, time};
use super::problem::{Problem, Slug, named};
use super::read::{self, Consistency};

/// The history of one object, from newest; `?at=V` reads it as of version V instead.
pub(crate) async fn of(call: &Call, object: ObjectId) -> Result<Answer, Problem> {
    let (at, before, limit) = (call.version("at")?, call.version("before")?, call.limit()?);
    let read = read::global_at(call, Consistency::Linearizable, at).await?;
    let core = call.core()?;
    let (view, decided) = (read.view, read.decided);
    let internal = |why: String| Problem::internal(&why);
    if let Some(at) = at {
        let (of, then) = (object.clone(), view);
        let found = core.consult(move |changes| AsOf::find(changes, &then, &of, at));
        return found
            .await
            .map_err(internal)?
            .answer(&object, at)
            .map(|(version, shown)| Answer::json(decided, shown.to_string()).etag(version))
            .map_err(|problem| problem.decided(decided));
    }
    // What is newer than the view is left to a later request.
    let below = before.min(upper(decided)).or(upper(decided));
    let changes = core.history(&object, below, limit + 1).await;
    let changes = changes.map_err(internal)?;
    if changes.is_empty() && before.is_none() && view.object(&object).is_none() {
        return Err(Problem::missing(&object).decided(decided));
    }
    let lines = (0..changes.len().min(limit)).map(|n| line(&changes[n], changes.get(n + 1)));
    let lines: Vec<Value> = lines.collect();
    let mut body = json!({ "items": lines, "version": decided.version });
    if changes.len() > limit {
        body["next"] = json!(changes[limit - 1].version.to_string());
    }
    Ok(Answer::json(decided, body.to_string()))
}

/// The version after the newest that an answer may show.
pub(crate) fn upper(decided: Decided) -> Option<Version> {
    decided.version.checked_add(1)
}

/// A change as it is shown; `older` is the change of the same object that is kept before it.
fn line(change: &Change, older: Option<&Change>) -> Value {
    let mut line = Map::new();
    line.insert("version".into(), json!(change.version));
    if let Some(previous) = change.previous {
        line.insert("previous_version".into(), json!(previous));
    }
    let op = match change.value {
        Some(_) => "put",
        None => "delete",
    };
    line.insert("op".into(), op.into());
    describe(&mut line, change);
    if let Some(before) = before(change, older) {
        line.insert("before".into(), before);
    }
    line.insert("value".into(), value(change));
    Value::Object(line)
}

/// When, who, why, and under which request id.
pub(crate) fn describe(line: &mut Map<String, Value>, change: &Change) {
    line.insert("updated_at".into(), time(change.time_ms).into());
    line.insert("updated_by".into(), (*change.origin.actor).into());
    if let Some(reason) = &change.origin.reason {
        line.insert("reason".into(), (**reason).into());
    }
    if let Some(request) = &change.origin.request {
        line.insert("request_id".into(), (*request.key).into());
    }
}

/// What a change replaced: `null` when there was nothing, `None` when that is not kept any more.
pub(crate) fn before(change: &Change, older: Option<&Change>) -> Option<Value> {
    match change.previous {
        None => Some(Value::Null),
        previous => older
            .filter(|older| Some(older.version) == previous)
            .map(value),
    }
}

/// What a change made; `null` when it deleted.
pub(crate) fn value(change: &Change) -> Value {
    let parsed = change.value.as_ref().map(|text| serde_json::from_str(text));
    // Every value was parsed before it was stored.
    parsed.and_then(Result::ok).unwrap_or(Value::Null)
}

/// Whether no change of an object after `at` can have been trimmed; so had the object been there at
/// `at`, and gone since, a change would say so.
fn is_whole(changes: &Changes, view: &View, extent: &Extent, at: Version) -> io::Result<bool> {
    let keep = view.retention();
    // Before the last change of what is kept, other figures held.
    let setting = ObjectId::setting(Setting::History.as_str());
    let changed = match view.object(&setting) {
        Some(found) => Some(found.version),
        None => changes.of(&setting, None, 1)?.pop().map(|c| c.version),
    };
    let untrimmed = changed.is_none() && extent.of_all < keep.total as u64;
    Ok(changed.is_none_or(|changed| at >= changed)
        && extent.of_object < keep.per_object as u64
        && (untrimmed || extent.oldest.is_some_and(|oldest| at.get() >= oldest)))
}

/// Where what is not kept can be found.
const ELSEWHERE: &str = "A backup of that time has it; how much is kept is the setting `history` (/v1/settings/history)";

/// What is known of an object at a version.
enum AsOf {
    /// It was there.
    There(Version, Value),
    /// This change had deleted it.
    Deleted(Change),
    /// It was not there, and had not been.
    Never,
    /// The history does not go back that far; its oldest change of the object, if any is kept.
    NotRetained(Option<Version>),
}

impl AsOf {
    fn find(changes: &Changes, view: &View, object: &ObjectId, at: Version) -> io::Result<Self> {
        // An object loses its oldest changes first: the newest kept one is the newest there was.
        if let Some(change) = changes.of(object, at.checked_add(1), 1)?.pop() {
            return Ok(match as_of(&change) {
                Some(shown) => Self::There(change.version, shown),
                None => Self::Deleted(change),
            });
        }
        let now = view.object(object);
        if let Some(unchanged) = now.filter(|now| now.version <= at) {
            return Ok(Self::unchanged(object, unchanged));
        }
        let extent = changes.extent(object)?;
        let oldest = extent.oldest_of_object.and_then(Version::new);
        let created = match oldest.and_then(|oldest| oldest.checked_add(1)) {
            Some(above) => {
                let first = changes.of(object, Some(above), 1)?.pop();
                first.is_some_and(|first| first.previous.is_none())
            }
            None => now.is_none(),
        };
        Ok(match created && is_whole(changes, view, &extent, at)? {
            true => Self::Never,
            false => Self::NotRetained(oldest),
        })
    }

    fn unchanged(object: &ObjectId, now: &Object) -> Self {
        Self::There(now.version, shown(object.key(), now))
    }

    fn answer(self, object: &ObjectId, at: Version) -> Result<(Version, Value), Problem> {
        let (slug, detail) = match &self {
            Self::There(version, value) => return Ok((*version, value.clone())),
            Self::Deleted(change) => (
                Slug::NotFound,
                format!(
                    "{object} did not exist at version {at}: {} deleted it at version {}",
                    change.origin.actor, change.version
                ),
            ),
            Self::Never => (
                Slug::NotFound,
                format!("{object} did not exist at version {at}"),
            ),
            Self::NotRetained(Some(oldest)) => (
                Slug::NotRetained,
                format!(
                    "what {object} was at version {at} is not kept any more: its history begins at version {oldest}; \
                     ask for that one or a later one. {ELSEWHERE}"
                ),
            ),
            Self::NotRetained(None) => (
                Slug::NotRetained,
                format!("what {object} was at version {at} is not kept any more. {ELSEWHERE}"),
            ),
        };
        let mut problem = Problem::new(slug, detail).with("at", at.get());
        problem = match slug {
            Slug::NotFound => problem.with("missing", named(object)),
            _ => problem.with("object", named(object)),
        };
        Err(match self {
            Self::Deleted(change) => problem
                .with("deleted_version", change.version.get())
                .with("deleted_by", &*change.origin.actor),
            Self::NotRetained(Some(oldest)) => problem.with("oldest_version", oldest.get()),
            _ => problem,
        })
    }
}
