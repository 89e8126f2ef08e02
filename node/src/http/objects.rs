//! What all resources of ground state have in common: how an object and a list look, and how one
//! is read, written and deleted.
//!
//! What must hold: `value` is shown as it was written; a page is a range of keys at one version,
//! and `next` is there exactly when there is more.

use std::fmt::Write as _;

use http::StatusCode;
use pennon_evaluator::{ApplicationKey, EnvironmentKey, FlagKey, SegmentKey, Setting};
use pennon_raft_store::command::{Change, ObjectId, ObjectKind};
use pennon_raft_store::machine::{Object, View};
use pennon_raft_store::plan::Ask;
use serde_json::Value;

use super::answer::Answer;
use super::call::Call;
use super::json;
use super::problem::Problem;
use super::read::{self, Consistency};
use super::write;

/// Names an object by what somebody wrote, or says what is wrong with the key. `None` when the
/// kind needs an environment and there is none.
pub(crate) fn id_of(
    kind: ObjectKind,
    environment: Option<EnvironmentKey>,
    key: String,
) -> Option<Result<ObjectId, String>> {
    let flag = |key| FlagKey::try_from(key).map(|key| key.shared());
    let object = match kind {
        ObjectKind::Flag => flag(key).map(ObjectId::flag),
        ObjectKind::Environment => {
            EnvironmentKey::try_from(key).map(|key| ObjectId::environment_object(key.shared()))
        }
        ObjectKind::Policy => {
            let environment = environment?;
            flag(key).map(|key| ObjectId::policy(environment, key))
        }
        ObjectKind::Segment => {
            let environment = environment?;
            SegmentKey::try_from(key).map(|key| ObjectId::segment(environment, key.shared()))
        }
        ObjectKind::Application => {
            ApplicationKey::try_from(key).map(|key| ObjectId::application(key.shared()))
        }
        ObjectKind::Setting => {
            let setting = key.parse::<Setting>().map_err(|why| why.to_string());
            return Some(setting.map(|setting| ObjectId::setting(setting.as_str())));
        }
    };
    Some(object.map_err(|why| why.to_string()))
}

/// Lists the objects of a kind.
pub(crate) async fn list(call: &Call, kind: ObjectKind) -> Result<Answer, Problem> {
    let limit = call.limit()?;
    let (view, decided, environment) = match kind.is_scoped() {
        true => {
            let read = read::environment(call, Consistency::Linearizable, None).await?;
            (read.view, read.decided, Some(read.key))
        }
        false => {
            let read = read::global(call, Consistency::Linearizable).await?;
            (read.view, read.decided, None)
        }
    };
    let after = call.param("after").map(str::to_owned);
    let core = call.core()?;
    let text = core
        .compute(move || page(&view, kind, environment.as_ref(), after.as_deref(), limit))
        .await;
    Ok(Answer::json(
        decided,
        text.map_err(|why| Problem::internal(&why))?,
    ))
}

fn page(
    view: &View,
    kind: ObjectKind,
    environment: Option<&EnvironmentKey>,
    after: Option<&str>,
    limit: usize,
) -> String {
    let mut objects = view.objects(kind, environment, after);
    let mut text = String::from("{\"items\":[");
    let mut last = None;
    for (id, object) in objects.by_ref().take(limit) {
        if last.is_some() {
            text.push(',');
        }
        write_object(&mut text, id.key(), object);
        last = Some(id.key());
    }
    let _ = write!(text, "],\"version\":{}", view.version());
    if let Some(last) = last.filter(|_| objects.next().is_some()) {
        let _ = write!(text, ",\"next\":{}", Value::from(last));
    }
    text.push('}');
    text
}

/// Reads one object. For scoped kinds the environment is in the path.
pub(crate) async fn get(call: &Call, object: ObjectId) -> Result<Answer, Problem> {
    let (view, decided) = match object.kind().is_scoped() {
        true => {
            let read = read::environment(call, Consistency::Linearizable, None).await?;
            (read.view, read.decided)
        }
        false => {
            let read = read::global(call, Consistency::Linearizable).await?;
            (read.view, read.decided)
        }
    };
    let Some(found) = view.object(&object) else {
        return Err(Problem::missing(&object).decided(decided));
    };
    if call.tags()?.include(found.version) {
        return Ok(Answer::empty(StatusCode::NOT_MODIFIED)
            .decided(decided)
            .etag(found.version));
    }
    let mut text = String::with_capacity(found.value.len() + 128);
    write_object(&mut text, object.key(), found);
    Ok(Answer::json(decided, text).etag(found.version))
}

/// Creates or replaces one object.
pub(crate) async fn put(call: &Call, object: ObjectId) -> Result<Answer, Problem> {
    let expected = write::required(call)?;
    let value = json::parse(&call.body)?;
    write::one(call, object, Ask::Put(value.to_string().into()), expected).await
}

/// Deletes one object.
pub(crate) async fn delete(call: &Call, object: ObjectId) -> Result<Answer, Problem> {
    let expected = write::required(call)?;
    write::one(call, object, Ask::Delete, expected).await
}

/// An object as it is shown: `{key, version, value, updated_at, updated_by}`.
pub(crate) fn shown(key: &str, object: &Object) -> Value {
    let mut text = String::new();
    write_object(&mut text, key, object);
    // Every value was parsed before it was stored.
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// The object that a change made; `None` when it deleted it.
pub(crate) fn as_of(change: &Change) -> Option<Value> {
    let object = Object {
        version: change.version,
        updated_ms: change.time_ms,
        updated_by: change.origin.actor.clone(),
        value: change.value.clone()?,
    };
    Some(shown(change.object.key(), &object))
}

/// Writes an object with its value as it is stored.
fn write_object(text: &mut String, key: &str, object: &Object) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{{\"key\":{},\"version\":{},\"value\":{},\"updated_at\":\"{}\",\"updated_by\":{}}}",
        Value::from(key),
        object.version,
        object.value,
        time(object.updated_ms),
        Value::from(&*object.updated_by),
    );
}

/// Milliseconds since 1970 as RFC 3339.
pub(crate) fn time(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_evaluator::Version;

    #[test]
    fn an_object_shows_its_value_as_it_was_written() {
        let object = Object {
            version: Version::new(7).unwrap(),
            updated_ms: 1_767_225_600_123,
            updated_by: "a \"b\"".into(),
            value: r#"{"z":1,"a":[2]}"#.into(),
        };
        let mut text = String::new();
        write_object(&mut text, "k/1", &object);
        let expected = r#"{"key":"k/1","version":7,"value":{"z":1,"a":[2]},"updated_at":"2026-01-01T00:00:00.123Z","updated_by":"a \"b\""}"#;
        assert_eq!(text, expected);
        assert_eq!(shown("k/1", &object).to_string(), expected);
    }
}
