//! Every node checks itself (I4): what the leader compiled and this node serves must be, byte for
//! byte, what this node gets when it compiles the ground state itself; and so must the list of what
//! a state uses, which the leader sends beside the bytes and by which overlaps of experiments are
//! found. What changed is checked shortly after it changed, everything once after the start, when the node
//! serves: it takes as long as loading all of it. A
//! difference is said loudly: in the log, in the cluster's verdict, and by a readiness that stays
//! red.

use std::collections::BTreeMap;
use std::time::Duration;

use pennon_evaluator::{EnvironmentKey, StateKey, Version};
use pennon_raft_store::machine::{CompiledState, Machine, Since, View};
use pennon_raft_store::plan::compile_one;
use pennon_raft_store::raft::{Blocking, Raft};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::confirm::Confirm;

/// Pause between two checks, so that a burst of writes is checked once.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the checks; the receiver holds the first difference found, for good.
pub(crate) fn start(
    raft: Raft,
    confirm: Confirm,
    blocking: Blocking,
    stop: CancellationToken,
) -> watch::Receiver<Option<String>> {
    let (found, complaint) = watch::channel(None);
    let mut views = raft.views();
    tokio::spawn(async move {
        let mut checked = BTreeMap::new();
        let work = async {
            confirm.first_proof().await;
            tokio::time::sleep(PAUSE).await;
            loop {
                let view = views.borrow_and_update().clone();
                match blocking.run(move || check(&view, checked)).await {
                    Ok((now, None)) => checked = now,
                    Ok((_, Some(difference))) => return difference,
                    Err(why) => return format!("the self-check ended: {why}"),
                }
                if views.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            difference = work => {
                tracing::error!(%difference, "this node's compiled state is not what its ground state compiles to");
                found.send_replace(Some(difference));
                stop.cancelled().await;
            }
            () = stop.cancelled() => {}
        }
    });
    complaint
}

/// Compiles everything in a view and returns the first difference.
pub(crate) fn difference(view: &View) -> Option<String> {
    check(view, BTreeMap::new()).1
}

/// Checks what changed since the versions given; returns the versions checked now and the first
/// difference.
fn check(
    view: &View,
    checked: BTreeMap<EnvironmentKey, Version>,
) -> (BTreeMap<EnvironmentKey, Version>, Option<String>) {
    let mut now = BTreeMap::new();
    for environment in view.environments() {
        let since = checked
            .get(environment)
            .map_or(Since::Full, |version| view.since(environment, *version));
        let here = view.compiled(environment);
        let difference = match since {
            Since::Nothing | Since::Ahead => None,
            Since::Changes(delta) => here.and_then(|here| {
                let changed = delta.upserts.iter();
                let mut states = changed.filter_map(|state| here.state(state.state_key()));
                states.find_map(|state| differs(view, environment, state))
            }),
            Since::Full => here.and_then(|here| {
                here.states()
                    .find_map(|(_, state)| differs(view, environment, state))
            }),
        };
        if difference.is_some() {
            return (now, difference);
        }
        now.insert(environment.clone(), view.version());
    }
    (now, None)
}

fn differs(
    machine: &Machine,
    environment: &EnvironmentKey,
    served: &CompiledState,
) -> Option<String> {
    let key: &StateKey = served.encoded.state_key();
    let name = format!("{key} in {environment}");
    let changed_at = match served.encoded.decode() {
        Ok(state) => state.changed_at(),
        Err(why) => return Some(format!("{name} cannot be decoded: {why}")),
    };
    match compile_one(machine, environment, key, changed_at) {
        Ok(Some(state)) if state.encode() != served.encoded.bytes() => {
            Some(format!("{name} compiles to other bytes here"))
        }
        Ok(Some(state)) if *state.uses() != *served.uses => Some(format!(
            "{name} is said to use {}, and uses {}",
            list(&served.uses),
            list(&state.uses())
        )),
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("{name} has no ground state here")),
        Err(why) => Some(format!("{name} does not compile here: {why}")),
    }
}

fn list(keys: &[StateKey]) -> String {
    if keys.is_empty() {
        return "nothing".to_owned();
    }
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_raft_store::codec;
    use pennon_raft_store::command::{
        Batch, ClusterId, Command, CompiledChange, Expected, ObjectId, Origin, Verdict,
    };
    use pennon_raft_store::log::LogId;
    use pennon_raft_store::machine::{COMMAND_FORMAT, Entry};
    use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};
    use std::sync::Arc;

    fn machine(tamper: impl Fn(&mut Vec<CompiledChange>)) -> View {
        let e: EnvironmentKey = "e".parse().unwrap();
        let put = |object, json: &str| AskedWrite {
            object,
            ask: Ask::Put(json.into()),
            expected: Expected::Any,
        };
        let writes = vec![
            put(ObjectId::environment_object("e"), "{}"),
            put(ObjectId::segment(e.clone(), "s"), r#"{"included":["a"]}"#),
            put(ObjectId::segment(e, "t"), r#"{"included":["b"]}"#),
        ];
        let origin = Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        };
        let mut machine = Machine::new(ClusterId::new(1));
        let mut draft = Draft::on(&machine);
        let Planned::Batched(mut item, _) = draft.plan(&ChangeRequest {
            writes,
            onto: None,
            origin,
        }) else {
            panic!()
        };
        if let Verdict::Commit { compiled, .. } = &mut item.verdict {
            tamper(compiled);
        }
        let batch = Command::Batch(Batch {
            base: machine.version(),
            time_ms: 0,
            items: vec![item],
        });
        let bytes = codec::encode(COMMAND_FORMAT, &batch).unwrap();
        machine.apply(LogId { term: 1, index: 1 }, Entry::Command(&bytes));
        Arc::new(machine)
    }

    #[test]
    fn what_the_leader_compiled_is_what_this_node_compiles() {
        let (checked, difference) = check(&machine(|_| {}), BTreeMap::new());
        assert_eq!(difference, None);
        assert_eq!(checked.len(), 1);
    }

    #[test]
    fn bytes_that_do_not_follow_from_the_ground_state_are_found() {
        let swapped = machine(|compiled| {
            let (a, b) = (compiled[0].state.clone(), compiled[1].state.clone());
            let foreign = a.map(|bytes| {
                // The same segment with another member.
                let mut bytes = bytes.to_vec();
                let at = bytes.iter().rposition(|byte| *byte == b'a').unwrap();
                bytes[at] = b'z';
                bytes.into()
            });
            (compiled[0].state, compiled[1].state) = (foreign, b);
        });
        let (_, difference) = check(&swapped, BTreeMap::new());
        assert!(
            difference
                .unwrap()
                .contains("segment/s in e compiles to other bytes")
        );
    }

    /// The overlap check of experiments goes by these lists.
    #[test]
    fn a_list_of_what_is_used_that_is_not_that_of_the_state_is_found() {
        let ghost = StateKey::layer(&"ghost".parse().unwrap());
        let other = machine(|compiled| compiled[1].uses.push(ghost.clone()));
        let since = BTreeMap::from([("e".parse().unwrap(), Version::ZERO)]);
        for checked in [BTreeMap::new(), since] {
            let (_, difference) = check(&other, checked);
            let difference = difference.unwrap();
            let wanted = "segment/t in e is said to use layer/ghost, and uses nothing";
            assert_eq!(difference, wanted);
        }
    }
}
