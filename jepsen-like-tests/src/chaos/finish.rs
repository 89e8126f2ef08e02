//! The end of a run: everything is mended, the nodes come back, agree, and are read.
//!
//! What must hold: whatever does not come back although everything was mended is a broken promise,
//! said with the node and what it wrote last.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fleet::{Fleet, State};
use crate::failure::{Failure, Result};
use crate::history::{Event, NodeDigest, Phase, PhaseEvent};
use crate::http1::Call;

/// Longest wait until all nodes are ready, members and caught up. The judge has a bound of its own;
/// this one only ends a run that never gets there.
const BACK_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a node must not say.
const FATAL: [&str; 4] = [
    "panicked at",
    "this node stops",
    "the storage ended",
    "is not what its ground state compiles to",
];

/// What a node says once it serves.
const READY: &str = " is ready: ";

/// What a node says of a damaged directory before it ends; that it ends is looked at by the fault that
/// damaged it, and remembered of any other node.
const REFUSED: &str = "this node must rejoin as a new member";

/// Writes down that the run entered a phase.
pub fn phase(fleet: &Fleet, phase: Phase) {
    let recorder = fleet.recorder();
    let at = recorder.now();
    recorder.add_event(Event::Phase(PhaseEvent { at, phase }));
}

/// Mends everything: links, nodes that stand still, nodes that do not run.
///
/// # Errors
/// When a node cannot be started.
pub fn mend(fleet: &Fleet) -> Result<()> {
    fleet.net().heal();
    for at in 0..fleet.members().len() {
        match fleet.state(at) {
            State::Paused => fleet.resume(at)?,
            State::Down => fleet.start(at)?,
            State::Up | State::Spare => {}
        }
    }
    phase(fleet, Phase::Healed);
    Ok(())
}

/// Waits until every node is ready and has what the leader had when this began.
///
/// # Errors
/// When they are not in time; with what each of them said last.
pub async fn converge(fleet: &Fleet) -> Result<Duration> {
    let begin = Instant::now();
    let end = begin + BACK_MAX;
    let mut said = BTreeMap::new();
    let mut target = None;
    loop {
        for at in fleet.alive() {
            let ready = fleet.ask(at, &Call::get("/readyz"), ANSWER_MAX).await;
            said.insert(at, ready.map_err(|why| why.to_string()));
        }
        let versions = said
            .values()
            .map(|one| one.as_ref().ok()?["version"].as_u64());
        let versions: Option<Vec<u64>> = versions.collect();
        if let Some(versions) = versions.filter(|found| found.len() == fleet.alive().len()) {
            let newest = versions.iter().copied().max().unwrap_or_default();
            let target = *target.get_or_insert(newest);
            if versions.iter().all(|version| *version >= target) {
                phase(fleet, Phase::Converged);
                return Ok(begin.elapsed());
            }
        }
        if Instant::now() >= end {
            let said: Vec<String> = said
                .iter()
                .map(|(at, said)| format!("{}: {said:?}", fleet.name(*at)))
                .collect();
            return Err(Failure::new(format!(
                "not all nodes were back {BACK_MAX:?} after everything was mended: {}",
                said.join("; ")
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until all nodes have one digest at one version, now that nobody writes, and writes down
/// what each says (I4).
///
/// # Errors
/// When they do not get there, or differ at one version.
pub async fn agree(fleet: &Fleet) -> Result<(u64, String)> {
    let end = Instant::now() + BACK_MAX;
    loop {
        let mut found = Vec::new();
        for at in fleet.alive() {
            found.push((at, own_digest(fleet, at).await));
        }
        let known: Vec<(usize, u64, &String)> = found
            .iter()
            .filter_map(|(at, said)| {
                said.as_ref()
                    .ok()
                    .map(|(version, text)| (*at, *version, text))
            })
            .collect();
        let first = known.first().copied();
        let same = first.is_some_and(|(_, version, _)| {
            known.len() == found.len() && known.iter().all(|one| one.1 == version)
        });
        if let (true, Some((_, version, digest))) = (same, first) {
            note_digests(fleet, &known);
            return match known.iter().all(|one| one.2 == digest) {
                true => Ok((version, digest.clone())),
                false => Err(Failure::new(format!("digests differ: {known:?}"))), // I4
            };
        }
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "nodes are not at one version {BACK_MAX:?} after the last write: {found:?}"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn own_digest(fleet: &Fleet, at: usize) -> Result<(u64, String)> {
    let cluster = fleet.ask(at, &Call::get("/v1/cluster"), ANSWER_MAX).await?;
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let me = members.iter().find(|one| one["name"] == *fleet.name(at));
    let said = me.and_then(|me| Some((me["applied"].as_u64()?, me["digest"].as_str()?.to_owned())));
    said.ok_or_else(|| {
        Failure::new(format!(
            "{} says nothing of itself: {cluster}",
            fleet.name(at)
        ))
    })
}

fn note_digests(fleet: &Fleet, known: &[(usize, u64, &String)]) {
    let recorder = fleet.recorder();
    for (at, version, digest) in known {
        recorder.add_event(Event::Digest(NodeDigest {
            at: recorder.now(),
            node: u32::try_from(*at).unwrap_or(u32::MAX),
            version: *version,
            digest: digest.as_str().into(),
        }));
    }
}

/// Lines of the nodes that must not be there, and nodes that ended by themselves.
pub fn said_by_nodes(fleet: &Fleet) -> Vec<String> {
    let mut found = fleet.casualties();
    for at in 0..fleet.members().len() {
        let text = fleet.log(at);
        let bad = fatal(&text, fleet.expected(at));
        let bad = bad.filter(|line| !fleet.is_excused(line));
        let name = fleet.name(at);
        found.extend(bad.take(5).map(|line| format!("{name} said: {line}")));
    }
    found
}

/// Lines that must not be there, but for one of each kind that is expected from some byte on. Who is ended
/// before it is ready meets the same again, so until then it is expected again.
fn fatal<'a>(
    text: &'a str,
    mut expected: Vec<(usize, &'static str)>,
) -> impl Iterator<Item = &'a str> {
    let begins = text.split_inclusive('\n').scan(0, |end, line| {
        let begin = *end;
        *end += line.len();
        Some((begin, line.trim_end()))
    });
    // What was expected and came, since the node was ready last.
    let mut met = Vec::new();
    begins
        .filter(move |(begin, line)| {
            if line.contains(READY) {
                met.clear();
            }
            if !FATAL.iter().any(|fatal| line.contains(fatal)) || line.contains(REFUSED) {
                return false;
            }
            if met.iter().any(|what| line.contains(what)) {
                return false;
            }
            let is = |(from, what): &(usize, &str)| from <= begin && line.contains(what);
            let found = expected.iter().position(is);
            let found = found.map(|at| expected.swap_remove(at).1);
            met.extend(found);
            found.is_none()
        })
        .map(|(_, line)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_fatal_but_for_one_that_is_expected_until_the_node_is_ready() {
        let line = "thread 'history-open' (7) panicked at sled/segment.rs:556:25:\n";
        let other = "thread 'main' (1) panicked at node/src/hub.rs:1:1:\nindex out of bounds\n";
        let ready = "INFO n1 is ready: voter of cluster 7, version 9; http://127.0.0.1:1\n";
        let text = format!("{line}{line}{other}{line}{ready}{line}");
        let expected = vec![(line.len(), "thread 'history-open'")];
        let found: Vec<&str> = fatal(&text, expected).collect();
        let line = line.trim_end();
        let other = other.lines().next().unwrap();
        assert_eq!(found, [line, other, line]);
        assert_eq!(fatal(&text, Vec::new()).count(), 5);
        let refused = "this node stops why=damaged: this node must rejoin as a new member";
        assert_eq!(fatal(refused, Vec::new()).count(), 0);
    }
}
