//! TargetingPolicies of flags: what a flag does in one environment; and the kill switch.
//!
//! What must hold: switching works without a precondition and is idempotent, because it is used in
//! a hurry; it makes a policy that serves the off variant where there is none.

use pennon_raft_store::command::{Expected, ObjectId, ObjectKind};
use pennon_raft_store::plan::Ask;

use super::answer::Answer;
use super::call::Call;
use super::history;
use super::objects;
use super::problem::Problem;
use super::write;

fn named(call: &Call) -> Result<ObjectId, Problem> {
    Ok(ObjectId::policy(call.environment()?, call.flag()?.shared()))
}

/// One page of them, by key.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    objects::list(&call, ObjectKind::Policy).await
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

/// Switches the flag on.
pub(crate) async fn enable(call: Call) -> Result<Answer, Problem> {
    switch(&call, true).await
}

/// Switches the flag off: it serves its off variant.
pub(crate) async fn disable(call: Call) -> Result<Answer, Problem> {
    switch(&call, false).await
}

async fn switch(call: &Call, on: bool) -> Result<Answer, Problem> {
    let expected = call.expected()?.unwrap_or(Expected::Any);
    write::one(call, named(call)?, Ask::Enable(on), expected).await
}
