//! I9: an acknowledged write survives. At the end each register holds the newest acknowledged
//! write, or something that came after it; and the register's history holds every one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Complaints, Verdict};
use crate::history::{Action, Operation, Outcome, Seen};

/// A register after everything is healed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Final {
    /// What a linearizable read gives.
    pub seen: Option<Seen>,
    /// The versions in its history, deletions included; empty when the history was not read.
    pub versions: BTreeSet<u64>,
}

/// How I9 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The register is at an older version than one that was acknowledged.
    Older,
    /// The register is at an acknowledged version with another value.
    OtherValue,
    /// The register is gone and nobody may have deleted it.
    Gone,
    /// An acknowledged version is not in the register's history.
    NotInHistory,
    /// The history holds more versions than there were writes that may have happened.
    AppliedTwice,
}

/// Judges acknowledged writes against what is there at the end. Fewer than `acknowledged_min`
/// show too little, and so does a register that was written and not read at the end.
pub fn check(
    operations: &[Operation],
    end: &BTreeMap<Arc<str>, Final>,
    acknowledged_min: usize,
) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let mut registers: BTreeMap<&Arc<str>, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers
            .entry(&operation.register)
            .or_default()
            .push(operation);
    }
    let mut acknowledged = 0;
    for (register, operations) in registers {
        let acks = operations
            .iter()
            .filter(|operation| operation.is_acknowledged())
            .count();
        acknowledged += acks;
        match end.get(register) {
            Some(end) => check_register(register, &operations, end, &mut complaints),
            None if acks == 0 => {}
            None => {
                return Verdict::Unknown(format!("{register} was written and not read at the end"));
            }
        }
    }
    complaints.verdict(|| match acknowledged >= acknowledged_min {
        true => Verdict::Valid(format!("{acknowledged} acknowledged writes are there")),
        false => Verdict::Unknown(format!(
            "{acknowledged} acknowledged writes, {acknowledged_min} are needed"
        )),
    })
}

fn check_register(
    register: &str,
    operations: &[&Operation],
    end: &Final,
    complaints: &mut Complaints<Rule>,
) {
    let mut acknowledged: Acknowledged<'_> = BTreeMap::new();
    for operation in operations {
        if let (Action::Write { value, .. }, Outcome::Written { version }) =
            (&operation.action, &operation.outcome)
        {
            acknowledged.insert(*version, value.as_deref());
        }
    }
    let Some((newest, newest_value)) = acknowledged.last_key_value() else {
        return;
    };
    match &end.seen {
        Some(seen) => check_seen(register, seen, &acknowledged, *newest, complaints),
        // Whoever wrote last deleted it, or somebody of unknown outcome did after that.
        None => {
            let maybe_deleted = operations.iter().any(|operation| {
                let deletes = matches!(operation.action, Action::Write { value: None, .. });
                deletes && operation.outcome == Outcome::Unknown
            });
            if newest_value.is_some() && !maybe_deleted {
                let what = format!("{register} does not exist, {newest} was acknowledged");
                complaints.add(Rule::Gone, what);
            }
        }
    }
    if !end.versions.is_empty() {
        check_history(register, operations, end, &acknowledged, complaints);
    }
}

/// The acknowledged writes of one register; `None` is a deletion.
type Acknowledged<'a> = BTreeMap<u64, Option<&'a str>>;

/// What is there is the newest acknowledged write, or came after it. // I9
fn check_seen(
    register: &str,
    seen: &Seen,
    acknowledged: &Acknowledged<'_>,
    newest: u64,
    complaints: &mut Complaints<Rule>,
) {
    let at = seen.version;
    if at < newest {
        let what = format!("{register} is at {at}, {newest} was acknowledged");
        complaints.add(Rule::Older, what);
        return;
    }
    let other = |value: &&Option<&str>| **value != Some(&*seen.value);
    if let Some(value) = acknowledged.get(&at).filter(other) {
        let is = &seen.value;
        let what = format!("{register} at {at} is {is:?}, {value:?} was acknowledged");
        complaints.add(Rule::OtherValue, what);
    }
}

/// The history has every acknowledged write, and no more than may have happened. // I9
fn check_history(
    register: &str,
    operations: &[&Operation],
    end: &Final,
    acknowledged: &Acknowledged<'_>,
    complaints: &mut Complaints<Rule>,
) {
    let there = |version: &&u64| end.versions.contains(version);
    for version in acknowledged.keys().filter(|version| !there(version)) {
        let what = format!("{register}: {version} was acknowledged");
        complaints.add(Rule::NotInHistory, what);
    }
    let possible = operations.iter().filter(|operation| {
        let writes = matches!(operation.action, Action::Write { .. });
        writes && (operation.is_acknowledged() || operation.outcome == Outcome::Unknown)
    });
    let (versions, possible) = (end.versions.len(), possible.count());
    if versions > possible {
        let what =
            format!("{register}: {versions} versions, {possible} writes that may have happened");
        complaints.add(Rule::AppliedTwice, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: Option<&str>, outcome: Outcome) -> Operation {
        let action = Action::Write {
            value: value.map(Arc::from),
            expected: None,
        };
        Operation {
            client: 1,
            register: "r".into(),
            invoked: 0,
            completed: 1,
            action,
            outcome,
        }
    }

    fn end(seen: Option<(u64, &str)>, versions: &[u64]) -> BTreeMap<Arc<str>, Final> {
        let seen = seen.map(|(version, value)| Seen {
            version,
            value: value.into(),
        });
        let versions = versions.iter().copied().collect();
        BTreeMap::from([(Arc::from("r"), Final { seen, versions })])
    }

    fn two_writes() -> Vec<Operation> {
        vec![
            write(Some("a"), Outcome::Written { version: 3 }),
            write(Some("b"), Outcome::Written { version: 5 }),
        ]
    }

    fn complaint(operations: &[Operation], end: &BTreeMap<Arc<str>, Final>) -> Rule {
        match check(operations, end, 0) {
            Verdict::Invalid(complaints) => complaints.first[0].0,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn present_superseded_and_deleted_are_valid() {
        let mut operations = two_writes();
        assert!(check(&operations, &end(Some((5, "b")), &[3, 5]), 2).is_valid());
        operations.push(write(Some("c"), Outcome::Unknown));
        assert!(check(&operations, &end(Some((7, "c")), &[3, 5, 7]), 2).is_valid());
        operations.push(write(None, Outcome::Unknown));
        assert!(check(&operations, &end(None, &[]), 2).is_valid());
    }

    #[test]
    fn losses_are_invalid_each_for_its_reason() {
        let operations = two_writes();
        assert_eq!(
            complaint(&operations, &end(Some((3, "a")), &[])),
            Rule::Older
        );
        assert_eq!(
            complaint(&operations, &end(Some((5, "x")), &[])),
            Rule::OtherValue
        );
        assert_eq!(complaint(&operations, &end(None, &[])), Rule::Gone);
        assert_eq!(
            complaint(&operations, &end(Some((5, "b")), &[5])),
            Rule::NotInHistory
        );
        assert_eq!(
            complaint(&operations, &end(Some((7, "b")), &[3, 5, 7])),
            Rule::AppliedTwice
        );
    }

    #[test]
    fn too_little_is_unknown() {
        assert!(check(&two_writes(), &end(Some((5, "b")), &[]), 3).is_unknown());
        assert!(check(&two_writes(), &BTreeMap::new(), 0).is_unknown());
    }
}
