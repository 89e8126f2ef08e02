//! Liveness: writes go on within two seconds of a leader's death, and everything is the same again
//! within ten seconds of healing.
//!
//! A death counts when nothing else was the matter: no other fault under way from its moment until
//! the bound has passed, and a majority of nodes alive. Deaths under other faults say nothing, since
//! several bounds add up. "Go on" is the first acknowledgement of a write that was sent after the
//! death; where nobody tried, nothing is said. The harness decides when it has healed and when it
//! saw all nodes converged; both are in the history as phases.

use std::collections::BTreeSet;

use super::{Complaints, Place, Verdict};
use crate::history::{Action, Event, FaultStage, NodeStage, Outcome, Phase, SetOutcome};

/// Within what time writes go on after a leader's death, in nanoseconds.
pub const RESUME_MAX: u64 = 2_000_000_000;
/// Within what time the cluster is the same everywhere after healing.
pub const CONVERGE_MAX: u64 = 10_000_000_000;

/// How the promise can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No write was acknowledged in time after a leader's death.
    WritesStopped,
    /// The cluster did not converge in time after it was healed.
    NotConverged,
    /// No write was acknowledged in time after it was healed.
    WritesStayedAway,
}

/// Judges a history of so many nodes.
pub fn check(events: &[Event], nodes: usize) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let writes = writes(events);
    let (mut judged, mut longest) = (0, 0);
    for (node, at) in deaths(events, nodes) {
        match first_after(&writes, at) {
            Resumed::Tried(None) => {
                let what = format!(
                    "node {node} led and died at {} ms, and no write that was sent after that was acknowledged",
                    ms(at)
                );
                complaints.add_at(Place::at(node, at), Rule::WritesStopped, what);
            }
            Resumed::Tried(Some(took)) if took > RESUME_MAX => {
                let what = format!(
                    "node {node} led and died at {} ms, a write was acknowledged {} ms later",
                    ms(at),
                    ms(took)
                );
                complaints.add_at(Place::at(node, at), Rule::WritesStopped, what);
            }
            Resumed::Tried(Some(took)) => {
                judged += 1;
                longest = longest.max(took);
            }
            Resumed::NobodyTried => {}
        }
    }
    let healed = check_healed(events, &writes, &mut complaints);
    complaints.verdict(|| match healed {
        Some(took) => Verdict::Valid(format!(
            "writes went on after {judged} deaths of a leader that came alone, the longest pause {} ms; converged {} ms after healing",
            ms(longest),
            ms(took)
        )),
        None => Verdict::Unknown("the history does not say when everything was healed".to_owned()),
    })
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// When a write was sent, and when it was acknowledged, if it was.
struct Sent {
    invoked: u64,
    acknowledged: Option<u64>,
}

/// All writes, by when they were sent.
fn writes(events: &[Event]) -> Vec<Sent> {
    let sent = events.iter().filter_map(|event| match event {
        Event::Operation(request) => {
            let operation = &request.operation;
            let written = matches!(operation.outcome, Outcome::Written { .. });
            (operation.action != Action::Read).then_some(Sent {
                invoked: operation.invoked,
                acknowledged: written.then_some(operation.completed),
            })
        }
        Event::ChangeSet(set) => {
            let written = matches!(set.outcome, SetOutcome::Committed { .. });
            Some(Sent {
                invoked: set.invoked,
                acknowledged: written.then_some(set.completed),
            })
        }
        _ => None,
    });
    let mut sent: Vec<Sent> = sent.collect();
    sent.sort_by_key(|one| one.invoked);
    sent
}

/// Whether writes went on.
enum Resumed {
    /// Nobody sent one.
    NobodyTried,
    /// How long it took until one was acknowledged, if ever.
    Tried(Option<u64>),
}

fn first_after(writes: &[Sent], moment: u64) -> Resumed {
    let after = &writes[writes.partition_point(|one| one.invoked < moment)..];
    // A run that ended before the bound had passed shows nothing.
    let tried_until = after.last().map_or(0, |one| one.invoked);
    let first = after.iter().filter_map(|one| one.acknowledged).min();
    match first {
        None if tried_until < moment.saturating_add(RESUME_MAX) => Resumed::NobodyTried,
        first => Resumed::Tried(first.map(|at| at.saturating_sub(moment))),
    }
}

/// The leaders that died while nothing else was the matter.
fn deaths(events: &[Event], nodes: usize) -> Vec<(u32, u64)> {
    let spans = fault_spans(events);
    let mut deaths = Vec::new();
    // Who went down or came back, in order of time.
    let mut moves: Vec<(u64, u32, bool)> = Vec::new();
    for event in events {
        let Event::Node(event) = event else { continue };
        match event.stage {
            NodeStage::Ended { led, .. } => {
                moves.push((event.at, event.node, false));
                if led {
                    deaths.push((event.node, event.at));
                }
            }
            NodeStage::Ready => moves.push((event.at, event.node, true)),
            NodeStage::Started | NodeStage::Leads { .. } => {}
        }
    }
    moves.sort_unstable();
    deaths.retain(|(_, at)| {
        let until = at.saturating_add(RESUME_MAX);
        // The kill itself is a fault, which began just before; one more is one too many.
        let others = spans
            .iter()
            .filter(|(from, to)| *from <= until && *to >= *at);
        others.count() <= 1 && has_majority(&moves, *at, until, nodes)
    });
    deaths
}

/// Whether a majority of nodes was alive all the time from one moment to another.
fn has_majority(moves: &[(u64, u32, bool)], from: u64, until: u64, nodes: usize) -> bool {
    let mut down: BTreeSet<u32> = BTreeSet::new();
    for (at, node, up) in moves.iter().take_while(|(at, ..)| *at <= until) {
        match up {
            true => drop(down.remove(node)),
            false => drop(down.insert(*node)),
        }
        if *at >= from && nodes.saturating_sub(down.len()) * 2 <= nodes {
            return false;
        }
    }
    true
}

/// From when to when each fault was under way.
pub(crate) fn fault_spans(events: &[Event]) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64, u64)> = Vec::new();
    for event in events {
        let Event::Fault(fault) = event else { continue };
        match fault.stage {
            FaultStage::Asked => spans.push((fault.fault, fault.at, u64::MAX)),
            FaultStage::Acted { .. } => {}
            FaultStage::Ended => {
                let open = spans.iter_mut().rev().find(|one| one.0 == fault.fault);
                if let Some(open) = open {
                    open.2 = fault.at;
                }
            }
        }
    }
    spans.into_iter().map(|(_, from, to)| (from, to)).collect()
}

/// After the last healing. Returns how long convergence took, if there was a healing.
fn check_healed(
    events: &[Event],
    writes: &[Sent],
    complaints: &mut Complaints<Rule>,
) -> Option<u64> {
    let phase = |wanted| {
        let mut found = events.iter().rev().filter_map(move |event| match event {
            Event::Phase(event) if event.phase == wanted => Some(event.at),
            _ => None,
        });
        found.next()
    };
    let healed = phase(Phase::Healed)?;
    let converged = phase(Phase::Converged).filter(|at| *at >= healed);
    let place = Place::at(0, healed);
    let took = converged.map(|at| at - healed);
    if took.is_none_or(|took| took > CONVERGE_MAX) {
        let when = took.map_or("never".to_owned(), |took| format!("after {} ms", ms(took)));
        let what = format!("healed at {} ms, converged {when}", ms(healed));
        complaints.add_at(place, Rule::NotConverged, what);
    }
    let after = &writes[writes.partition_point(|one| one.invoked < healed)..];
    let first = after.iter().filter_map(|one| one.acknowledged).min();
    if !after.is_empty() && first.is_none_or(|at| at > healed.saturating_add(CONVERGE_MAX)) {
        let what = format!("healed at {} ms, first write {first:?}", ms(healed));
        complaints.add_at(place, Rule::WritesStayedAway, what);
    }
    Some(took.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{ChangeSet, Fault, NodeEvent, PhaseEvent};

    const S: u64 = 1_000_000_000;

    fn write(invoked: u64, took: Option<u64>) -> Event {
        Event::ChangeSet(ChangeSet {
            client: 0,
            request: None,
            invoked,
            completed: invoked + took.unwrap_or(S),
            writes: Vec::new(),
            outcome: match took {
                Some(_) => SetOutcome::Committed { version: invoked },
                None => SetOutcome::Unknown,
            },
        })
    }

    fn died(node: u32, at: u64) -> Event {
        ended(node, at, true)
    }

    fn ended(node: u32, at: u64, led: bool) -> Event {
        let how = "killed".into();
        let stage = NodeStage::Ended { how, led };
        Event::Node(NodeEvent { at, node, stage })
    }

    fn phase(at: u64, phase: Phase) -> Event {
        Event::Phase(PhaseEvent { at, phase })
    }

    fn fault(fault: u64, at: u64, stage: FaultStage) -> Event {
        Event::Fault(Fault {
            at,
            fault,
            kind: "kill".into(),
            targets: Vec::new(),
            stage,
        })
    }

    fn story(pause: u64) -> Vec<Event> {
        vec![
            write(S, Some(S / 100)),
            fault(1, 2 * S - 1, FaultStage::Asked),
            died(0, 2 * S),
            write(2 * S + S / 2, None),
            write(2 * S + pause, Some(S / 100)),
            fault(1, 9 * S, FaultStage::Ended),
            phase(20 * S, Phase::Healed),
            phase(23 * S, Phase::Converged),
            write(24 * S, Some(S / 100)),
        ]
    }

    fn broken(events: &[Event]) -> Rule {
        match check(events, 3) {
            Verdict::Invalid(complaints) => complaints.first[0].0,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn writes_that_go_on_and_a_cluster_that_converges_are_valid() {
        let verdict = check(&story(S), 3);
        assert!(verdict.is_valid(), "{verdict}");
        assert!(verdict.to_string().contains("1 deaths"), "{verdict}");
        assert!(check(&story(S)[..6], 3).is_unknown());
    }

    #[test]
    fn pauses_beyond_the_bound_are_rejected_each_for_its_reason() {
        assert_eq!(broken(&story(3 * S)), Rule::WritesStopped);
        let mut late = story(S);
        late[7] = phase(31 * S, Phase::Converged);
        assert_eq!(broken(&late), Rule::NotConverged);
        late.remove(7);
        assert_eq!(broken(&late), Rule::NotConverged);
        let mut silent = story(S);
        silent[8] = write(24 * S, None);
        assert_eq!(broken(&silent), Rule::WritesStayedAway);
    }

    #[test]
    fn a_death_beside_other_faults_or_without_a_majority_says_nothing() {
        let mut beside = story(3 * S);
        beside.insert(2, fault(2, 2 * S, FaultStage::Asked));
        beside.insert(3, fault(2, 2 * S + 1, FaultStage::Ended));
        assert!(check(&beside, 3).is_valid());
        let mut minority = story(3 * S);
        minority.insert(3, ended(1, 2 * S + 1, false));
        assert!(check(&minority, 3).is_valid());
        let verdict = check(&minority, 5);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::WritesStopped)));
    }
}
