//! A store whose reads are whole is valid; one that shows a set while it is half applied (the planted
//! bug) is not.

use super::*;
use crate::checkers::sample::Dice;
use crate::history::{ObjectSeen, Write};
use proptest::prelude::*;

const OBJECTS: [&str; 3] = ["flag/f", "policy/e/f", "segment/e/s"];

fn set(n: u64, values: [Option<&str>; 3], outcome: SetOutcome) -> ChangeSet {
    let writes = OBJECTS.iter().zip(values).map(|(object, value)| Write {
        object: (*object).into(),
        value: value.map(Into::into),
    });
    ChangeSet {
        client: 0,
        request: None,
        invoked: n * 10,
        completed: n * 10 + 5,
        writes: writes.collect(),
        outcome,
    }
}

fn read(at: u64, version: u64, seen: [Option<(u64, &str)>; 3]) -> ReadSet {
    let objects = OBJECTS.iter().zip(seen).map(|(object, seen)| ObjectSeen {
        object: (*object).into(),
        seen: seen.map(|(version, value)| Seen {
            version,
            value: value.into(),
        }),
    });
    ReadSet {
        client: 1,
        invoked: at * 10 + 6,
        completed: at * 10 + 8,
        source: "list".into(),
        linearizable: false,
        version,
        objects: objects.collect(),
    }
}

fn story() -> (Vec<ChangeSet>, Vec<ReadSet>) {
    let committed = |version| SetOutcome::Committed { version };
    let sets = vec![
        set(1, [Some("a"); 3], committed(5)),
        set(2, [Some("b"); 3], SetOutcome::Unknown),
        set(3, [Some("c"), None, Some("c")], committed(9)),
        set(4, [Some("d"); 3], SetOutcome::Refused),
    ];
    let reads = vec![
        read(0, 2, [None; 3]),
        read(1, 6, [Some((5, "a")); 3]),
        read(2, 7, [Some((7, "b")); 3]),
        read(3, 9, [Some((9, "c")), None, Some((9, "c"))]),
    ];
    (sets, reads)
}

fn judge(sets: &[ChangeSet], reads: &[ReadSet]) -> Verdict<Rule> {
    let (sets, reads): (Vec<&ChangeSet>, Vec<&ReadSet>) =
        (sets.iter().collect(), reads.iter().collect());
    check(&sets, &reads, Demand::default())
}

fn assert_broken(read: ReadSet, rule: Rule) {
    let (sets, mut reads) = story();
    reads.push(read);
    match judge(&sets, &reads) {
        Verdict::Invalid(complaints) if complaints.name(rule) => {}
        other => panic!("{rule:?} was expected, not {other}"),
    }
}

#[test]
fn whole_sets_are_valid_and_too_few_are_unknown() {
    let (sets, reads) = story();
    let verdict = judge(&sets, &reads);
    assert!(verdict.is_valid(), "{verdict}");
    let all: Vec<&ChangeSet> = sets.iter().collect();
    let much = Demand {
        sets_min: 3,
        reads_min: 0,
    };
    assert!(check(&all, &[], much).is_unknown());
    let twice = [sets[0].clone(), sets[0].clone()];
    assert!(judge(&twice, &[]).is_unknown());
}

#[test]
fn each_corruption_is_rejected_for_its_reason() {
    let (a, b, c) = (Some((5, "a")), Some((7, "b")), Some((9, "c")));
    assert_broken(read(2, 7, [b, a, b]), Rule::Torn);
    assert_broken(read(2, 7, [b, None, b]), Rule::Torn);
    assert_broken(read(3, 9, [c, b, c]), Rule::Torn);
    assert_broken(read(3, 9, [c, None, b]), Rule::Torn);
    assert_broken(read(2, 7, [a, a, a]), Rule::Stale);
    assert_broken(read(2, 7, [None; 3]), Rule::Stale);
    assert_broken(read(1, 6, [Some((5, "x")), a, a]), Rule::Invented);
    assert_broken(read(4, 9, [Some((8, "d")); 3]), Rule::RefusedButSeen);
    assert_broken(read(4, 9, [Some((8, "b")); 3]), Rule::OtherVersion);
    assert_broken(read(2, 6, [b, b, b]), Rule::FromTheFuture);
    assert_broken(read(0, 7, [b, b, b]), Rule::SeenBeforeWritten);
    let late = ReadSet {
        linearizable: true,
        ..read(4, 7, [b, b, b])
    };
    assert_broken(late, Rule::WentBack);
}

/// Sets and reads of a store; one that is torn applies a set in two steps, with a read between.
fn world(seed: u64, torn: bool) -> (Vec<ChangeSet>, Vec<ReadSet>) {
    let mut dice = Dice::new(seed);
    let (mut sets, mut reads) = (Vec::new(), Vec::new());
    let mut state: [Option<(u64, String)>; 3] = [None, None, None];
    let mut version = 1;
    let show = |n, version, state: &[Option<(u64, String)>; 3]| {
        let seen = [0, 1, 2].map(|at| state[at].as_ref().map(|(v, text)| (*v, text.as_str())));
        read(n, version, seen)
    };
    for n in 1..120 {
        let name = format!("v{n}");
        let values = [0, 1, 2].map(|_| (!dice.one_in(6)).then_some(name.as_str()));
        match dice.roll(4) {
            0 => sets.push(set(n, values, SetOutcome::Refused)),
            1 => sets.push(set(n, values, SetOutcome::Unknown)),
            more => {
                version += 1 + dice.roll(2);
                for (at, value) in values.iter().enumerate() {
                    if torn && at == 1 {
                        reads.push(show(n, version, &state));
                    }
                    state[at] = value.map(|value| (version, value.to_owned()));
                }
                let outcome = match more {
                    2 => SetOutcome::Unknown,
                    _ => SetOutcome::Committed { version },
                };
                sets.push(set(n, values, outcome));
            }
        }
        reads.push(show(n, version, &state));
    }
    (sets, reads)
}

proptest! {
    #[test]
    fn a_store_that_is_atomic_is_valid_and_a_torn_one_is_caught(seed in any::<u64>()) {
        let (sets, reads) = world(seed, false);
        let verdict = judge(&sets, &reads);
        prop_assert!(verdict.is_valid(), "{}", verdict);
        let (sets, reads) = world(seed, true);
        prop_assert!(matches!(judge(&sets, &reads), Verdict::Invalid(_)));
    }
}
