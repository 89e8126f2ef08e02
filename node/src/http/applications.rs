//! Applications: which flags one program needs, by their tags.
//!
//! What must hold: nothing refers to an application, so one can always be deleted; whether somebody
//! still asks for it is not known here.

use pennon_evaluator::ApplicationKey;
use pennon_raft_store::command::{ObjectId, ObjectKind};

use super::answer::Answer;
use super::call::Call;
use super::history;
use super::objects;
use super::problem::Problem;

fn named(call: &Call) -> Result<ObjectId, Problem> {
    let key = ApplicationKey::try_from(call.segment("application").unwrap_or_default())
        .map_err(|why| Problem::parameter("application", why.to_string()))?;
    Ok(ObjectId::application(key.shared()))
}

/// One page of them, by key.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    objects::list(&call, ObjectKind::Application).await
}

/// One of them.
pub(crate) async fn get(call: Call) -> Result<Answer, Problem> {
    objects::get(&call, named(&call)?).await
}

/// Creates or replaces one.
pub(crate) async fn put(call: Call) -> Result<Answer, Problem> {
    objects::put(&call, named(&call)?).await
}

/// Deletes one.
pub(crate) async fn delete(call: Call) -> Result<Answer, Problem> {
    objects::delete(&call, named(&call)?).await
}

/// Who changed it, when and why, from newest.
pub(crate) async fn history(call: Call) -> Result<Answer, Problem> {
    history::of(&call, named(&call)?).await
}
