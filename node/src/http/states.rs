//! EvaluationStates as people read them: what a flag or segment was compiled to, and from which
//! versions. Derived, shown for understanding; applications take snapshots and streams.

use http::StatusCode;
use pennon_evaluator::{EvaluationState, StateKey, StateKind};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::CompiledState;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::problem::Problem;
use super::read::{self, Consistency};

/// The states of an environment, flags before segments, by key.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    let (limit, after) = (call.limit()?, call.param("after").map(after).transpose()?);
    let read = read::environment(&call, Consistency::Linearizable, None).await?;
    let decided = read.decided;
    let page = move || {
        let compiled = read.view.compiled(&read.key);
        let states = compiled.into_iter().flat_map(|compiled| compiled.states());
        let mut rest =
            states.skip_while(|(key, _)| after.as_ref().is_some_and(|after| *key <= after));
        let mut items = Vec::new();
        let mut last = None;
        for (key, state) in rest.by_ref().take(limit) {
            items.push(state.encoded.to_json().map_err(|why| why.to_string())?);
            last = Some(key);
        }
        let digest = compiled
            .map(|compiled| compiled.digest())
            .unwrap_or_default();
        let mut body = json!({ "items": items, "version": read.decided.version, "digest": digest });
        if let Some(last) = last.filter(|_| rest.next().is_some()) {
            body["next"] = json!(last.to_string());
        }
        Ok::<_, String>(body.to_string())
    };
    let text = call.core()?.compute(page).await.flatten();
    Ok(Answer::json(
        decided,
        text.map_err(|why| Problem::internal(&why))?,
    ))
}

/// Reads `flag/x` or `segment/y`.
fn after(text: &str) -> Result<StateKey, Problem> {
    let key = text.split_once('/').and_then(|(kind, key)| {
        let kind = [StateKind::Flag, StateKind::Segment]
            .into_iter()
            .find(|have| have.as_str() == kind)?;
        StateKey::new(kind, key).ok()
    });
    key.ok_or_else(|| {
        Problem::parameter(
            "after",
            format!("{text:?} is not of the form flag/<key> or segment/<key>"),
        )
    })
}

/// The state of one flag.
pub(crate) async fn get(call: Call) -> Result<Answer, Problem> {
    let flag = call.flag()?;
    let read = read::environment(&call, Consistency::Linearizable, None).await?;
    let compiled = read.view.compiled(&read.key);
    let Some(state) = compiled.and_then(|compiled| compiled.state(&StateKey::flag(&flag))) else {
        let policy = ObjectId::policy(read.key, flag.shared());
        return Err(Problem::missing(&policy).decided(read.decided));
    };
    let (changed_at, shown) = shown(state).map_err(|why| Problem::internal(&why))?;
    if call.tags()?.include(changed_at) {
        return Ok(Answer::empty(StatusCode::NOT_MODIFIED)
            .decided(read.decided)
            .etag(changed_at));
    }
    Ok(Answer::json(read.decided, shown.to_string()).etag(changed_at))
}

fn shown(state: &CompiledState) -> Result<(pennon_evaluator::Version, Value), String> {
    let read: EvaluationState = state.encoded.decode().map_err(|why| why.to_string())?;
    let json = state.encoded.to_json().map_err(|why| why.to_string())?;
    Ok((read.changed_at(), json))
}
