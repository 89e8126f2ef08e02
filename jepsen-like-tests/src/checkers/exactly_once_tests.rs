//! Each corruption is the least that can be done to a history that was just accepted; the planted
//! bug is a server that forgets which requests it has seen.

use super::*;
use crate::checkers::sample::{Server, requests_of};
use crate::history::Attempt;
use proptest::prelude::*;

fn judge(requests: &[Request], end: &FinalRead) -> Verdict<Rule> {
    let requests: Vec<&Request> = requests.iter().collect();
    check(&requests, &[end], Demand::default())
}

fn broken(requests: &[Request], end: &FinalRead) -> Rule {
    match judge(requests, end) {
        Verdict::Invalid(complaints) => complaints.first[0].0,
        other => panic!("{other}"),
    }
}

/// The requests of a server that remembers, and what it kept.
fn story() -> (Vec<Request>, FinalRead) {
    requests_of(&mut Server::new(true), 60, 7)
}

fn find(requests: &[Request], holds: impl Fn(&Outcome) -> bool) -> usize {
    let found = requests
        .iter()
        .position(|one| holds(&one.operation.outcome) && one.operation.action != Action::Read);
    found.unwrap()
}

#[test]
fn retries_that_are_answered_alike_are_valid() {
    let (requests, end) = story();
    let verdict = judge(&requests, &end);
    assert!(verdict.is_valid(), "{verdict}");
    let requests: Vec<&Request> = requests.iter().collect();
    let much = Demand {
        retries_min: 1_000,
        registers_min: 1,
    };
    assert!(check(&requests, &[&end], much).is_unknown());
    let twice = [requests[0], requests[0]];
    assert!(check(&twice, &[&end], Demand::default()).is_unknown());
}

#[test]
fn each_corruption_is_rejected_for_its_reason() {
    let (requests, end) = story();
    let written = find(&requests, |one| matches!(one, Outcome::Written { .. }));
    let refused = find(&requests, |one| matches!(one, Outcome::Conflict { .. }));
    let version = requests[written].operation.decided().unwrap();
    let at = end.history.iter().position(|line| line.version == version);
    let at = at.unwrap();

    let mut bad = requests.clone();
    bad[written].attempts.push(Attempt {
        node: None,
        sent: 0,
        outcome: Outcome::Written { version: 999_999 },
    });
    assert_eq!(broken(&bad, &end), Rule::AnswersDiffer);

    let mut more = end.clone();
    more.history.push(HistoryLine {
        version: 999_999,
        ..end.history[at].clone()
    });
    assert_eq!(broken(&requests, &more), Rule::AppliedTwice);

    let mut less = end.clone();
    less.history.remove(at);
    assert_eq!(broken(&requests, &less), Rule::AcknowledgedMissing);

    // The oldest lines may be gone, where that is said; no other.
    let mut trimmed = end.clone();
    trimmed.whole = false;
    trimmed.history.drain(..trimmed.history.len() / 2);
    assert!(judge(&requests, &trimmed).is_valid());
    trimmed.history.remove(1);
    assert_eq!(broken(&requests, &trimmed), Rule::AcknowledgedMissing);

    let mut other = end.clone();
    other.history[at].value = Some("something else".into());
    assert_eq!(broken(&requests, &other), Rule::OtherWrite);

    let mut invented = end.clone();
    invented.history[at].request = Some("nobody's".into());
    assert_eq!(broken(&requests, &invented), Rule::Invented);

    let (mut bad, mut end) = (requests.clone(), end);
    let operation = &mut bad[refused].operation;
    let (value, previous) = match &operation.action {
        Action::Write { value, expected } => (value.clone(), *expected),
        Action::Read => unreachable!(),
    };
    end.history.push(HistoryLine {
        version: 999_999,
        previous,
        value,
        request: bad[refused].request.clone(),
    });
    assert_eq!(broken(&bad, &end), Rule::RefusedButDone);
}

proptest! {
    #[test]
    fn a_server_that_remembers_is_valid(seed in any::<u64>()) {
        let (requests, end) = requests_of(&mut Server::new(true), 80, seed);
        let verdict = judge(&requests, &end);
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }
}

/// The planted bug: retries are decided anew.
#[test]
fn a_server_that_forgets_is_caught() {
    let caught = (0..20).filter(|seed| {
        let (requests, end) = requests_of(&mut Server::new(false), 80, *seed);
        matches!(judge(&requests, &end), Verdict::Invalid(_))
    });
    assert_eq!(caught.count(), 20);
}
