//! Receipts and status (D6): evaluators say what they have applied, writers wait for it, people ask
//! who has what.
//!
//! What must hold: waiting never undoes a write, and an answer that is not complete says so and
//! names who is missing; a list of names is bounded, with their number beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use pennon_evaluator::{EnvironmentKey, Subject, Version, json_kind};
use pennon_raft_store::command::{Change, ObjectId};
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::json;
use super::objects::time;
use super::problem::Problem;
use super::read::{self, Consistency};
use super::route::WAIT_MAX;
use super::stream::CLIENT_LEN_MAX;
use crate::core::Core;
use crate::delivery::{Delivery, Laggard, NodePart};
use crate::hub::receipts::Known;
use pennon_evaluator::Fault;

/// Laggards named in one answer at most.
const NAMED_MAX: usize = 1_000;

/// Versions told apart in a status at most.
const VERSIONS_MAX: usize = 20;

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// It is durable on a majority: what every write waits for.
    Committed,
    /// Every node that answers has applied it.
    Applied,
    /// Every evaluator that is connected has acknowledged it.
    Delivered,
}

/// The words for it.
pub(crate) const ACKS: [&str; 3] = ["committed", "applied", "delivered"];

/// What the caller wants to wait for.
pub(crate) fn ack(call: &Call) -> Ack {
    match call.param("ack") {
        Some("applied") => Ack::Applied,
        Some("delivered") => Ack::Delivered,
        _ => Ack::Committed,
    }
}

/// Waits for what the caller asked to wait for; nothing when that is only the commit.
pub(crate) async fn waited(
    core: &Core,
    ack: Ack,
    written: &[ObjectId],
    version: Version,
    within: Duration,
) -> Option<Value> {
    match ack {
        Ack::Committed => None,
        Ack::Applied => {
            let nodes = core.applied_everywhere(version, within).await;
            let complete = nodes.iter().all(|node| node.applied);
            Some(json!({ "for": "applied", "complete": complete, "nodes": shown_nodes(&nodes) }))
        }
        Ack::Delivered => {
            let environments = environments_of(core, written);
            let delivery = core.delivery(&environments, version, within).await;
            let mut shown = shown(&delivery);
            shown["for"] = json!("delivered");
            shown["complete"] = json!(delivery.is_delivered() && delivery.is_applied());
            Some(shown)
        }
    }
}

/// The environments that these objects can be seen in.
fn environments_of(core: &Core, written: &[ObjectId]) -> Vec<EnvironmentKey> {
    let view = core.view();
    if written.iter().any(|object| object.environment().is_none()) {
        return view.environments().cloned().collect();
    }
    let mut found: Vec<_> = written
        .iter()
        .filter_map(|object| object.environment().cloned())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Takes a receipt.
pub(crate) async fn post(call: Call) -> Result<Answer, Problem> {
    let environment = call.environment()?;
    let (client, version) =
        receipt(&json::parse(&call.body)?).map_err(|faults| Problem::faults(&faults))?;
    let core = call.core()?;
    let view = core.view();
    if Core::environment(&view, &environment).is_none() {
        let object = ObjectId::environment_object(environment.shared());
        return Err(Problem::missing(&object));
    }
    // Nobody has what this node, from which it would have it, does not have.
    let version = version.min(view.version());
    core.hub()
        .receipts()
        .acknowledge(&environment, &client, version, core.now());
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// Reads `{client, version}`.
fn receipt(body: &Value) -> Result<(String, Version), Vec<Fault>> {
    let Some(fields) = body.as_object() else {
        let message = format!(
            "must be an object {{client, version}}, not {}",
            json_kind(body)
        );
        return Err(vec![Fault::new("", message)]);
    };
    let mut faults = Vec::new();
    let unknown = fields
        .keys()
        .filter(|name| !["client", "version"].contains(&name.as_str()));
    faults.extend(unknown.map(|name| {
        Fault::new(
            format!("/{name}"),
            "there is no such field; known are client, version",
        )
    }));
    let client = fields.get("client").and_then(Value::as_str);
    let client = client.filter(|client| (1..=CLIENT_LEN_MAX).contains(&client.len()));
    if client.is_none() {
        let message = format!("must be a text of 1 to {CLIENT_LEN_MAX} bytes");
        faults.push(Fault::new("/client", message));
    }
    let version = fields.get("version").and_then(Value::as_u64);
    let version = version.and_then(Version::new);
    if version.is_none() {
        faults.push(Fault::new(
            "/version",
            "must be a version: a whole number below 2^53",
        ));
    }
    match (client, version) {
        (Some(client), Some(version)) if faults.is_empty() => Ok((client.to_owned(), version)),
        _ => Err(faults),
    }
}

/// Says who has a version.
pub(crate) async fn get(call: Call) -> Result<Answer, Problem> {
    let wait = call.duration("wait", Duration::ZERO, WAIT_MAX)?;
    let asked = call.version("version")?;
    let read = read::environment(&call, Consistency::Stale, None).await?;
    let compiled = read.view.compiled(&read.key);
    let newest = compiled.map_or(Version::ZERO, |compiled| compiled.changed_at());
    let version = asked.unwrap_or(newest);
    let delivery = call
        .core()?
        .delivery(std::slice::from_ref(&read.key), version, wait);
    let delivery = delivery.await;
    let mut body = shown(&delivery);
    body["environment"] = json!(read.key);
    body["version"] = json!(version);
    body["complete"] = json!(delivery.is_delivered() && delivery.is_applied());
    Ok(Answer::json(read.decided, body.to_string()))
}

/// Says how an environment is: what is served, and to whom.
pub(crate) async fn status(call: Call) -> Result<Answer, Problem> {
    let read = read::environment(&call, Consistency::Stale, None).await?;
    let compiled = read.view.compiled(&read.key);
    let changed_at = compiled.map_or(Version::ZERO, |compiled| compiled.changed_at());
    let core = call.core()?;
    let delivery = core.delivery(std::slice::from_ref(&read.key), changed_at, Duration::ZERO);
    let mut body = shown(&delivery.await);
    body["environment"] = json!(read.key);
    body["version"] = json!(read.decided.version);
    body["changed_at"] = json!(changed_at);
    body["digest"] = json!(
        compiled
            .map(|compiled| compiled.digest())
            .unwrap_or_default()
    );
    body["staleness_bound_ms"] = json!(read.environment.staleness_bound_ms);
    let here = core.hub().receipts().count(&read.key, core.now());
    body["here"] = json!({ "node": core.name(), "versions": by_version(&here.evaluators) });
    Ok(Answer::json(read.decided, body.to_string()))
}

/// Says how a flag is: when it last changed, and who has that.
pub(crate) async fn flag_status(call: Call) -> Result<Answer, Problem> {
    let flag = call.flag()?;
    let read = read::environment(&call, Consistency::Stale, None).await?;
    let core = call.core()?;
    let snapshot = core.snapshot(&read.view, &read.key);
    let found = snapshot
        .as_ref()
        .map(|snapshot| snapshot.evaluate(flag.as_str(), &Subject::default()))
        .filter(|found| found.flag_known());
    let policy = ObjectId::policy(read.key.clone(), flag.shared());
    let Some(found) = found else {
        return Err(Problem::missing(&policy).decided(read.decided));
    };
    let (enabled, version) = (found.enabled, found.config_version);
    let delivery = core.delivery(std::slice::from_ref(&read.key), version, Duration::ZERO);
    let mut body = shown(&delivery.await);
    body["flag"] = json!(flag);
    body["environment"] = json!(read.key);
    body["enabled"] = json!(enabled);
    body["config_version"] = json!(version);
    body["last_change"] = last_change(core, [policy, ObjectId::flag(flag.shared())]).await?;
    Ok(Answer::json(read.decided, body.to_string()))
}

/// The newest change of any of these objects; `null` when the history has none of them any more.
async fn last_change(core: &Core, objects: [ObjectId; 2]) -> Result<Value, Problem> {
    let mut newest: Option<Change> = None;
    for object in objects {
        let found = core.history(&object, None, 1).await;
        let found = found.map_err(|why| Problem::internal(&why))?;
        let found = found.into_iter().next();
        newest = newest
            .into_iter()
            .chain(found)
            .max_by_key(|change| change.version);
    }
    let Some(change) = newest else {
        return Ok(Value::Null);
    };
    let mut shown = json!({
        "kind": change.object.kind().as_str(),
        "version": change.version,
        "updated_at": time(change.time_ms),
        "updated_by": &*change.origin.actor,
    });
    if let Some(reason) = &change.origin.reason {
        shown["reason"] = json!(&**reason);
    }
    Ok(shown)
}

/// How many evaluators that are connected have which version, from newest.
fn by_version(evaluators: &[Known]) -> Vec<Value> {
    let mut counts: BTreeMap<Version, usize> = BTreeMap::new();
    for known in evaluators.iter().filter(|known| known.connected) {
        *counts.entry(known.version).or_default() += 1;
    }
    let newest = counts.into_iter().rev().take(VERSIONS_MAX);
    newest
        .map(|(version, evaluators)| json!({ "version": version, "evaluators": evaluators }))
        .collect()
}

/// A delivery as it is shown.
fn shown(delivery: &Delivery) -> Value {
    let named = delivery.laggards.iter().take(NAMED_MAX);
    let mut nodes = shown_nodes(&delivery.nodes);
    for (shown, node) in nodes.iter_mut().zip(&delivery.nodes) {
        shown["doubt_ms"] = json!(node.doubt_ms);
    }
    json!({
        "connected": delivery.connected,
        "acknowledged": delivery.acknowledged,
        "unnamed": delivery.unnamed,
        "laggards": named.map(shown_laggard).collect::<Vec<_>>(),
        "laggards_total": delivery.laggards.len(),
        "nodes": nodes,
        "settled_in_ms": delivery.settled_ms,
    })
}

fn shown_laggard(laggard: &Laggard) -> Value {
    json!({
        "id": laggard.id,
        "environment": laggard.environment,
        "node": laggard.node,
        "version": laggard.version,
        "last_seen_ms": laggard.seen_ms,
        "state": laggard.lag.as_str(),
        "fresh_for_ms": laggard.fresh_ms,
    })
}

fn shown_nodes(nodes: &[NodePart]) -> Vec<Value> {
    let shown = |node: &NodePart| {
        json!({
            "name": node.name,
            "answers": node.answers,
            "applied": node.applied,
            "connected": node.connected,
        })
    };
    nodes.iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_and_every_fault_in_it_named() {
        let read = receipt(&json!({"client": "a", "version": 7})).unwrap();
        assert_eq!((read.0.as_str(), read.1.get()), ("a", 7));
        let pointers = |body: Value| -> Vec<String> {
            let faults = receipt(&body).unwrap_err();
            faults
                .into_iter()
                .map(|fault| fault.pointer.to_string())
                .collect()
        };
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(pointers(json!({})), ["/client", "/version"]);
        let long = "x".repeat(CLIENT_LEN_MAX + 1);
        assert_eq!(pointers(json!({"client": long, "version": 1})), ["/client"]);
        let wrong = json!({"client": "", "version": -1, "v": 2});
        assert_eq!(pointers(wrong), ["/v", "/client", "/version"]);
    }

    #[test]
    fn versions_are_counted_from_the_newest() {
        let known = |version, connected| Known {
            id: String::new(),
            version: Version::new(version).unwrap(),
            connected,
            seen_ms: 0,
        };
        let all = [
            known(7, true),
            known(9, true),
            known(7, true),
            known(8, false),
        ];
        let expected = [
            json!({"version": 9, "evaluators": 1}),
            json!({"version": 7, "evaluators": 2}),
        ];
        assert_eq!(by_version(&all), expected);
    }
}
