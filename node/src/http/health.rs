//! Whether the process lives, and whether it should get traffic.
//!
//! Live means that the process answers. Ready means that a load balancer may send what it asks
//! about: writes need a leader, and disk space; evaluations and streams need a proof of freshness, and go on
//! without either until that proof is older than the staleness bound and a grace (I5).

use std::time::Duration;

use pennon_evaluator::{Environment, Freshness, judge};
use pennon_raft_store::machine::View;
use serde_json::json;

use super::answer::{Answer, Decided, millis_up};
use super::call::Call;
use super::problem::Problem;
use crate::core::Core;

/// How far past the staleness bound a node still calls itself ready: readiness that flickers with
/// every election moves clients about for nothing.
const GRACE: Duration = Duration::from_secs(5);

/// What readiness can be asked about.
pub(crate) const PURPOSES: [&str; 3] = ["write", "evaluate", "stream"];

/// Says that the process lives.
pub(crate) async fn live(call: Call) -> Result<Answer, Problem> {
    let body =
        json!({ "status": "alive", "node": call.app.name(), "release": env!("CARGO_PKG_VERSION") });
    Ok(Answer::text(
        http::StatusCode::OK,
        "application/json",
        body.to_string(),
    ))
}

/// Says whether the node should get traffic, and why not.
pub(crate) async fn ready(call: Call) -> Result<Answer, Problem> {
    let purpose = call.param("for").unwrap_or("everything");
    let mut reasons = Vec::new();
    if call.app.draining().is_cancelled() {
        reasons.push("the node is draining".to_owned());
    }
    let Ok(core) = call.core() else {
        reasons.push(call.app.waits_for());
        return Err(Problem::not_ready(purpose, reasons));
    };
    let fresh_at = core.fresh_at();
    let view = core.view();
    if core.status().leader.is_none() && !matches!(purpose, "evaluate" | "stream") {
        reasons.push("no leader is known".to_owned());
    }
    let shortage = core.shortage().map(|shortage| shortage.to_string());
    if purpose == "write" {
        reasons.extend(shortage.clone());
    }
    reasons.extend(stale(core, &view, fresh_at));
    let decided = Decided {
        version: view.version(),
        fresh_at,
    };
    if !reasons.is_empty() {
        return Err(Problem::not_ready(purpose, reasons).decided(decided));
    }
    let mut body = json!({ "status": "ready", "for": purpose, "node": call.app.name(), "version": view.version() });
    if let Some(warning) = shortage.or_else(|| core.complaint()) {
        body["warning"] = warning.into();
    }
    Ok(Answer::json(decided, body.to_string()))
}

fn stale(core: &Core, view: &View, fresh_at: Option<Duration>) -> Option<String> {
    let Some(age) = fresh_at.map(|at| core.now().saturating_sub(at)) else {
        return Some("this node was not proved fresh since it started".into());
    };
    let bounds = view
        .environments()
        .filter_map(|key| Core::environment(view, key))
        .map(|found| found.staleness_bound());
    let bound = bounds
        .min()
        .unwrap_or_else(|| Environment::default().staleness_bound());
    let stale = judge(age, bound + GRACE) == Freshness::Stale; // I5
    stale.then(|| {
        format!(
            "this node may lag behind by {} ms; the staleness bound is {} ms",
            millis_up(Some(age)),
            bound.as_millis()
        )
    })
}
