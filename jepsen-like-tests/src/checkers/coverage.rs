//! Whether the faults that a run was to be judged under took effect.
//!
//! A fault counts when something showed that it acted: a counter of dropped bytes, a process seen
//! stopped, a write that was lost. That the harness asked for it is no proof. What was demanded and
//! has none makes the verdict unknown: the run may be fine, and shows nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{Complaints, Place, Verdict};
use crate::history::{Event, FaultStage};

/// What can be wrong with the record of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It acted before it was asked for.
    NeverAsked,
}

/// Judges the faults of a history by the kinds that were demanded.
pub fn check(events: &[Event], demanded: &BTreeSet<String>) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let mut asked: BTreeSet<u64> = BTreeSet::new();
    // By kind: asked for, and of those proven.
    let mut kinds: BTreeMap<&str, (usize, BTreeSet<u64>)> = BTreeMap::new();
    for event in events {
        let Event::Fault(fault) = event else { continue };
        if fault.stage == FaultStage::Ended {
            continue; // Whoever mends everything may end what never began.
        }
        let (count, proven) = kinds.entry(&fault.kind).or_default();
        if fault.stage == FaultStage::Asked {
            asked.insert(fault.fault);
            *count += 1;
            continue;
        }
        if !asked.contains(&fault.fault) {
            let what = format!("{fault:?}");
            complaints.add_at(Place::at(0, fault.at), Rule::NeverAsked, what);
        }
        if matches!(fault.stage, FaultStage::Acted { count: 1.., .. }) {
            proven.insert(fault.fault);
        }
    }
    let missing = demanded
        .iter()
        .filter(|kind| kinds.get(kind.as_str()).is_none_or(|(_, of)| of.is_empty()));
    let missing: Vec<&str> = missing.map(String::as_str).collect();
    let shown = kinds
        .iter()
        .map(|(kind, (count, proven))| format!("{kind} {}/{count}", proven.len()));
    let shown: Vec<String> = shown.collect();
    let shows = format!("faults proven/asked: {}", shown.join(", "));
    complaints.verdict(|| match missing.is_empty() && !kinds.is_empty() {
        true => Verdict::Valid(shows),
        false => Verdict::Unknown(format!("{shows}; no proof of {missing:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Fault;

    fn fault(fault: u64, kind: &str, stage: FaultStage) -> Event {
        Event::Fault(Fault {
            at: fault,
            fault,
            kind: kind.into(),
            targets: vec!["n1".into()],
            stage,
        })
    }

    fn acted(count: u64) -> FaultStage {
        let proof = "bytes dropped".into();
        FaultStage::Acted { proof, count }
    }

    fn judge(events: &[Event]) -> Verdict<Rule> {
        check(
            events,
            &BTreeSet::from(["cut".to_owned(), "kill".to_owned()]),
        )
    }

    #[test]
    fn every_demanded_kind_needs_a_proof() {
        let mut events = vec![
            fault(1, "cut", FaultStage::Asked),
            fault(1, "cut", acted(7)),
            fault(2, "kill", FaultStage::Asked),
        ];
        // Asked for, and nothing says that it happened; or a counter that counted nothing.
        assert!(judge(&events).is_unknown());
        events.push(fault(2, "kill", acted(0)));
        assert!(judge(&events).is_unknown());
        events.push(fault(2, "kill", acted(1)));
        let verdict = judge(&events);
        assert!(verdict.is_valid(), "{verdict}");
        assert!(judge(&[]).is_unknown());
        assert!(check(&[], &BTreeSet::new()).is_unknown());
    }

    #[test]
    fn a_fault_out_of_nowhere_is_a_broken_record() {
        let ended = judge(&[fault(3, "cut", FaultStage::Ended)]);
        assert!(ended.is_unknown());
        let verdict = judge(&[fault(3, "cut", acted(1))]);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::NeverAsked)));
    }
}
