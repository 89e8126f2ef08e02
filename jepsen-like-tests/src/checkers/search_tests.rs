//! The search is compared with the check by versions on random small histories, right and wrong ones:
//! where they disagree, one of them has a bug.

use super::*;
use crate::checkers::registers;
use crate::checkers::sample::Dice;
use proptest::prelude::*;

/// What a world of one register does wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// A read shows what was there before.
    StaleRead,
    /// A conditional write is applied although something else is there.
    LostUpdate,
    /// A refusal shows what was there before.
    StaleRefusal,
    /// A version is given twice.
    SameVersion,
}

/// A register that operations reach in one true order, each somewhere within its span. Clients expect
/// what somebody was told, as real ones do: `registers.rs` counts on it.
fn world(seed: u64, count: u64, fault: Fault) -> Vec<Operation> {
    let mut dice = Dice::new(seed);
    let mut state: Option<(u64, Arc<str>)> = None;
    let mut before: Option<(u64, Arc<str>)> = None;
    let (mut version, mut told) = (1, HashSet::new());
    let mut history = Vec::new();
    for n in 0..count {
        let moment = 1_000 + n * 10;
        version += dice.roll(2);
        let wrong = fault != Fault::None && dice.one_in(12);
        let have = state.as_ref().map(|(version, _)| *version);
        let value: Option<Arc<str>> =
            (have.is_none() || !dice.one_in(5)).then(|| format!("v{n}").into());
        let knows = have.is_none_or(|have| told.contains(&have));
        let (mut outcome, action) = match dice.roll(5) {
            roll if roll < 2 || !knows => {
                let shown = if wrong && fault == Fault::StaleRead {
                    &before
                } else {
                    &state
                };
                let seen = show(shown);
                let decided = version;
                (Outcome::Read { decided, seen }, Action::Read)
            }
            2 => {
                let expected = [None, Some(1), have.map(|have| have + 1)][dice.roll(3) as usize];
                let expected = if expected == have {
                    Some(999_999)
                } else {
                    expected
                };
                let shown = if wrong && fault == Fault::StaleRefusal {
                    &before
                } else {
                    &state
                };
                let (decided, seen) = (version, show(shown));
                let action = Action::Write { value, expected };
                (Outcome::Conflict { decided, seen }, action)
            }
            _ => {
                let mut expected = have;
                if wrong && fault == Fault::LostUpdate {
                    expected = before.as_ref().map(|(version, _)| *version);
                }
                if !(wrong && fault == Fault::SameVersion) {
                    version += 1;
                }
                before = state.take();
                state = value.clone().map(|value| (version, value));
                (
                    Outcome::Written { version },
                    Action::Write { value, expected },
                )
            }
        };
        if dice.one_in(9) {
            outcome = match action {
                Action::Read => Outcome::NotDone,
                Action::Write { .. } => Outcome::Unknown,
            };
        }
        told.extend(tells(&outcome));
        let (early, late) = (dice.roll(35), dice.roll(35));
        history.push(Operation {
            client: (n % 4) as u32,
            register: "r".into(),
            invoked: moment - early,
            completed: moment + late,
            action,
            outcome,
        });
    }
    history
}

fn show(state: &Option<(u64, Arc<str>)>) -> Option<Seen> {
    let (version, value) = state.clone()?;
    Some(Seen { version, value })
}

/// The version of the register that an outcome tells of.
fn tells(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Written { version } => Some(*version),
        Outcome::Read { seen, .. } | Outcome::Conflict { seen, .. } => {
            seen.as_ref().map(|seen| seen.version)
        }
        Outcome::NotDone | Outcome::Unknown => None,
    }
}

/// What the two say, unless one of them cannot say.
fn verdicts(history: &[Operation]) -> Option<(bool, bool)> {
    let by_version = registers::check(history, registers::Demand::default());
    let by_search = check(history, 0);
    let said = !by_version.is_unknown() && !by_search.is_unknown();
    said.then(|| (by_version.is_valid(), by_search.is_valid()))
}

fn assert_agree(history: &[Operation]) -> Option<bool> {
    let (by_version, by_search) = verdicts(history)?;
    assert_eq!(
        by_version,
        by_search,
        "by version: {}\nby search: {}\n{}",
        registers::check(history, registers::Demand::default()),
        check(history, 0),
        history
            .iter()
            .map(|one| format!("{one:?}\n"))
            .collect::<String>()
    );
    Some(by_version)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn right_histories_are_valid_to_both(seed in any::<u64>(), count in 2_u64..60) {
        let history = world(seed, count, Fault::None);
        if let Some(valid) = assert_agree(&history) {
            prop_assert!(valid);
        }
    }

    #[test]
    fn both_say_the_same_of_wrong_histories(seed in any::<u64>(), count in 2_u64..30) {
        for fault in [
            Fault::StaleRead,
            Fault::LostUpdate,
            Fault::StaleRefusal,
            Fault::SameVersion,
        ] {
            assert_agree(&world(seed, count, fault));
        }
    }

    /// Not what any bug would do: one field of one outcome is another number.
    #[test]
    fn both_say_the_same_of_corrupted_histories(seed in any::<u64>(), count in 2_u64..25) {
        let mut history = world(seed, count, Fault::None);
        let mut dice = Dice::new(seed ^ 77);
        let at = dice.roll(count) as usize;
        let step = dice.roll(3) + 1;
        match &mut history[at].outcome {
            Outcome::Read { decided, .. } | Outcome::Conflict { decided, .. } => *decided += step,
            Outcome::Written { version } => *version += step,
            Outcome::NotDone | Outcome::Unknown => return Ok(()),
        }
        assert_agree(&history);
    }
}

/// The planted bugs are caught, and hardly any history is beyond the search.
#[test]
fn wrong_worlds_are_caught() {
    for (fault, caught_min) in [
        (Fault::StaleRead, 45),
        (Fault::LostUpdate, 45),
        (Fault::SameVersion, 30),
    ] {
        let caught = (0..60).filter(|seed| {
            let verdict = check(&world(*seed, 60, fault), 0);
            assert!(!verdict.is_unknown(), "{verdict}");
            matches!(verdict, Verdict::Invalid(_))
        });
        let caught = caught.count();
        assert!(caught >= caught_min, "{fault:?}: {caught} of 60");
    }
}

#[test]
fn a_long_history_is_judged_whole_and_too_little_is_unknown() {
    let history = world(5, 20_000, Fault::None);
    let verdict = check(&history, 15_000);
    assert!(verdict.is_valid(), "{verdict}");
    assert!(check(&history, 1_000_000).is_unknown());
    assert!(check(&[], 0).is_unknown());
}

/// Set PENNON_CASES for more.
fn cases() -> u32 {
    let cases = std::env::var("PENNON_CASES").ok();
    cases.and_then(|cases| cases.parse().ok()).unwrap_or(400)
}
