//! Settings: what is set once for the whole cluster. Its limits, and how much
//! of the history is kept.
//!
//! What must hold: only settings that this release knows can be written; one that is not stored is
//! not found, like any other object, and what is in force then is said by `effective`, for every
//! field. What a value means is decided by the leader, not here.

use pennon_evaluator::{Limit, Limits, Retention, Setting};
use pennon_raft_store::command::{ObjectId, ObjectKind};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::history;
use super::objects;
use super::problem::{Problem, Slug};
use super::read::{self, Consistency};

fn setting(call: &Call) -> Result<Setting, Problem> {
    let name = call.segment("setting").unwrap_or_default();
    name.parse::<Setting>()
        .map_err(|why| Problem::new(Slug::NotFound, why.to_string()))
}

fn named(call: &Call) -> Result<ObjectId, Problem> {
    Ok(ObjectId::setting(setting(call)?.as_str()))
}

/// One page of those that are stored, by key.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    objects::list(&call, ObjectKind::Setting).await
}

/// One of them.
pub(crate) async fn get(call: Call) -> Result<Answer, Problem> {
    objects::get(&call, named(&call)?).await
}

/// Creates or replaces one.
pub(crate) async fn put(call: Call) -> Result<Answer, Problem> {
    objects::put(&call, named(&call)?).await
}

/// Deletes one: its defaults hold again.
pub(crate) async fn delete(call: Call) -> Result<Answer, Problem> {
    objects::delete(&call, named(&call)?).await
}

/// Who changed it, when and why, from newest.
pub(crate) async fn history(call: Call) -> Result<Answer, Problem> {
    history::of(&call, named(&call)?).await
}

/// What is in force, what would be without the setting, and how far it can go.
pub(crate) async fn effective(call: Call) -> Result<Answer, Problem> {
    let (setting, object) = (setting(&call)?, named(&call)?);
    let read = read::global(&call, Consistency::Linearizable).await?;
    let mut body = json!({ "key": setting.as_str(), "version": read.decided.version });
    match setting {
        Setting::Limits => {
            body["effective"] = fields(read.view.limits().list());
            body["default"] = fields(Limits::DEFAULT.list());
            body["greatest"] = fields(Limits::GREATEST.list());
        }
        Setting::History => {
            body["effective"] = fields(read.view.retention().list());
            body["default"] = fields(Retention::DEFAULT.list());
            body["greatest"] = fields(Retention::GREATEST.list());
        }
    }
    if let Some(found) = read.view.object(&object) {
        body["stored"] = objects::shown(object.key(), found);
    }
    Ok(Answer::json(read.decided, body.to_string()))
}

fn fields(fields: impl Iterator<Item = Limit>) -> Value {
    let fields = fields.map(|limit| (limit.name.to_owned(), json!(limit.value)));
    Value::Object(fields.collect::<Map<_, _>>())
}
