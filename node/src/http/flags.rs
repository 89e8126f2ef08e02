//! FlagConfigs: what flags are, shared by all environments.
//!
//! What must hold: the salt never changes after creation, and nothing that an environment's policies
//! refer to goes away; both are decided by the leader, not here.

use pennon_raft_store::command::{ObjectId, ObjectKind};

use super::answer::Answer;
use super::call::Call;
use super::history;
use super::objects;
use super::problem::Problem;

fn named(call: &Call) -> Result<ObjectId, Problem> {
    Ok(ObjectId::flag(call.flag()?.shared()))
}

/// One page of them, by key.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    objects::list(&call, ObjectKind::Flag).await
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
