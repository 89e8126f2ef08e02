//! Valid histories are accepted; corrupted ones are rejected, each for its reason. Each corruption
//! is the least that can be done to a history that was just accepted.

use super::*;

/// `[begin, end]` of an operation, in any unit.
type Span = [u64; 2];

fn operation(span: Span, action: Action, outcome: Outcome) -> Operation {
    Operation {
        client: 0,
        register: "r".into(),
        invoked: span[0],
        completed: span[1],
        action,
        outcome,
    }
}

fn seen(found: Option<(u64, &str)>) -> Option<Seen> {
    found.map(|(version, value)| Seen {
        version,
        value: value.into(),
    })
}

fn read(span: Span, decided: u64, found: Option<(u64, &str)>) -> Operation {
    operation(
        span,
        Action::Read,
        Outcome::Read {
            decided,
            seen: seen(found),
        },
    )
}

fn write(span: Span, value: &str, expected: Option<u64>, outcome: Outcome) -> Operation {
    operation(
        span,
        Action::Write {
            value: Some(value.into()),
            expected,
        },
        outcome,
    )
}

fn delete(span: Span, expected: u64, outcome: Outcome) -> Operation {
    operation(
        span,
        Action::Write {
            value: None,
            expected: Some(expected),
        },
        outcome,
    )
}

fn written(version: u64) -> Outcome {
    Outcome::Written { version }
}

fn conflict(decided: u64, found: Option<(u64, &str)>) -> Outcome {
    Outcome::Conflict {
        decided,
        seen: seen(found),
    }
}

/// Created at 3, written at 5, a lost write, deleted at 8, created again at 9.
fn story() -> Vec<Operation> {
    vec![
        read([0, 1], 2, None),
        write([2, 3], "a", None, written(3)),
        read([4, 5], 4, Some((3, "a"))),
        write([6, 7], "b", Some(3), written(5)),
        write([6, 8], "lost", Some(3), conflict(6, Some((5, "b")))),
        read([9, 10], 6, Some((5, "b"))),
        delete([11, 12], 5, written(8)),
        read([13, 14], 8, None),
        write([15, 16], "c", None, written(9)),
        read([17, 18], 11, Some((9, "c"))),
    ]
}

fn judged(operations: &[Operation]) -> Verdict<Rule> {
    check(operations, Demand::default())
}

fn assert_valid(operations: &[Operation]) {
    let verdict = judged(operations);
    assert!(verdict.is_valid(), "{verdict}");
}

fn assert_broken(operations: &[Operation], rule: Rule) {
    match judged(operations) {
        Verdict::Invalid(complaints) if complaints.name(rule) => {}
        other => panic!("{rule:?} was expected, not {other}"),
    }
}

/// The story with one operation replaced.
fn with(at: usize, operation: Operation) -> Vec<Operation> {
    let mut operations = story();
    operations[at] = operation;
    operations
}

#[test]
fn a_valid_history_is_accepted_in_any_order_of_recording() {
    let mut operations = story();
    assert_valid(&operations);
    operations.reverse();
    assert_valid(&operations);
    assert_valid(&[]);
}

#[test]
fn too_little_is_unknown_and_so_are_values_that_are_not_unique() {
    let demand = Demand {
        writes_min: 5,
        ..Demand::default()
    };
    assert!(check(&story(), demand).is_unknown());
    assert!(
        check(
            &story(),
            Demand {
                conflicts_min: 2,
                ..Demand::default()
            }
        )
        .is_unknown()
    );
    assert!(
        check(
            &story(),
            Demand {
                writes_min: 4,
                reads_min: 5,
                conflicts_min: 1
            }
        )
        .is_valid()
    );
    assert!(judged(&with(8, write([15, 16], "a", None, written(9)))).is_unknown());
}

#[test]
fn going_back_in_real_time_is_rejected() {
    assert_broken(&with(5, read([9, 10], 4, Some((3, "a")))), Rule::WentBack);
    // The same answer is fine while the write is still under way.
    assert_valid(&with(5, read([6, 10], 4, Some((3, "a")))));
    // Also between registers, because versions are global.
    let mut operations = story();
    operations.push(Operation {
        register: "other".into(),
        ..read([19, 20], 10, None)
    });
    assert_broken(&operations, Rule::WentBack);
    // A write at a version that had been finished at already.
    let two = [read([0, 1], 5, None), write([2, 3], "a", None, written(5))];
    assert_broken(&two, Rule::WentBack);
}

#[test]
fn two_writes_of_one_version_and_two_versions_of_one_write_are_rejected() {
    let twice = [
        write([0, 9], "a", None, written(3)),
        write([0, 9], "b", None, written(3)),
    ];
    assert_broken(&twice, Rule::VersionTwice);
    let unknown = write([0, 1], "a", None, Outcome::Unknown);
    let reads = [
        read([0, 9], 3, Some((3, "a"))),
        read([0, 9], 7, Some((7, "a"))),
    ];
    assert_broken(&[&[unknown], &reads[..]].concat(), Rule::AppliedTwice);
}

#[test]
fn values_that_nobody_wrote_there_are_rejected() {
    assert_broken(&with(2, read([4, 5], 4, Some((3, "x")))), Rule::Invented);
    assert_broken(
        &with(9, read([17, 18], 11, Some((9, "b")))),
        Rule::OtherVersion,
    );
    assert_broken(
        &with(9, read([17, 18], 11, Some((9, "lost")))),
        Rule::RefusedButSeen,
    );
    let not_done = [
        write([0, 1], "a", None, Outcome::NotDone),
        read([2, 3], 4, Some((3, "a"))),
    ];
    assert_broken(&not_done, Rule::RefusedButSeen);
    let early = [
        read([0, 1], 3, Some((3, "a"))),
        write([2, 3], "a", None, Outcome::Unknown),
    ];
    assert_broken(&early, Rule::SeenBeforeWritten);
}

#[test]
fn states_that_were_not_there_at_that_version_are_rejected() {
    assert_broken(&with(9, read([17, 18], 11, None)), Rule::Vanished);
    assert_broken(&with(7, read([13, 14], 8, Some((5, "b")))), Rule::NotThere);
    assert_broken(
        &with(0, read([0, 5], 2, Some((3, "a")))),
        Rule::FromTheFuture,
    );
    // Concurrent with the write, so real time says nothing; the version it claims does.
    assert_broken(&with(5, read([6, 10], 6, Some((3, "a")))), Rule::Stale);
}

#[test]
fn conditional_writes_follow_exactly_what_they_expected() {
    assert_broken(
        &with(3, write([6, 7], "b", Some(2), written(5))),
        Rule::WrongPredecessor,
    );
    assert_broken(
        &with(3, write([6, 7], "b", None, written(5))),
        Rule::WrongPredecessor,
    );
    assert_broken(
        &with(8, write([15, 16], "c", Some(5), written(9))),
        Rule::WrongPredecessor,
    );
    assert_broken(
        &with(
            4,
            write([6, 8], "lost", Some(5), conflict(6, Some((5, "b")))),
        ),
        Rule::RefusedWithoutConflict,
    );
    // Two writes that both followed 3: an update was lost.
    let mut lost = story();
    lost.insert(4, write([6, 8], "d", Some(3), written(6)));
    assert_broken(&lost, Rule::WrongPredecessor);
}

#[test]
fn a_refusal_may_share_the_entry_of_the_write_it_lost_to() {
    let base = [
        write([0, 1], "a", None, written(3)),
        write([2, 5], "b", Some(3), written(6)),
    ];
    let refused = |decided, found| write([2, 5], "x", None, conflict(decided, found));
    for (decided, found) in [
        (6, Some((3, "a"))),
        (6, Some((6, "b"))),
        (5, Some((3, "a"))),
    ] {
        assert_valid(&[&base[..], &[refused(decided, found)]].concat());
    }
    assert_broken(
        &[&base[..], &[refused(7, Some((3, "a")))]].concat(),
        Rule::Stale,
    );
    // Asked for after somebody was told of the write.
    let late = write([6, 7], "x", None, conflict(6, Some((3, "a"))));
    assert_broken(&[&base[..], &[late]].concat(), Rule::Stale);
    // Only refusals: a read at 6 sees 6.
    assert_broken(
        &[&base[..], &[read([2, 5], 6, Some((3, "a")))]].concat(),
        Rule::Stale,
    );
}

#[test]
fn a_write_of_unknown_outcome_is_decided_by_its_readers() {
    let unknown = write([2, 4], "u", Some(3), Outcome::Unknown);
    let first = write([0, 1], "a", None, written(3));
    // Nobody saw it: both are possible.
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        read([9, 10], 7, Some((3, "a"))),
    ]);
    // Somebody saw it, much later.
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        read([9, 10], 7, Some((6, "u"))),
    ]);
    // Nobody saw it, but somebody followed it.
    let followed = write([5, 6], "b", Some(6), written(8));
    assert_valid(&[first.clone(), unknown.clone(), followed.clone()]);
    assert_broken(&[first.clone(), followed.clone()], Rule::WrongPredecessor);
    let other = write([2, 4], "u", Some(4), Outcome::Unknown);
    assert!(judged(&[first.clone(), other, followed]).is_unknown());
    // Somebody saw it, so a write that expected what it replaced cannot have come after it.
    let follows = write([5, 6], "b", Some(3), written(8));
    assert_broken(
        &[
            first.clone(),
            unknown.clone(),
            read([9, 10], 7, Some((6, "u"))),
            follows.clone(),
        ],
        Rule::WrongPredecessor,
    );
    // It may have waited in some queue, but it cannot be put between a write and what that expected.
    let late = read([9, 10], 9, Some((9, "u")));
    assert_broken(
        &[first.clone(), unknown.clone(), follows, late],
        Rule::WrongPredecessor,
    );
    // It cannot have happened before it began.
    let other = Operation {
        register: "other".into(),
        ..read([1, 2], 7, None)
    };
    let begun_later = write([3, 4], "u", Some(3), Outcome::Unknown);
    assert_broken(
        &[first, other, begun_later, read([9, 10], 8, Some((6, "u")))],
        Rule::SeenBeforeWritten,
    );
}

#[test]
fn a_deletion_of_unknown_outcome_is_decided_by_who_misses_the_register() {
    let first = write([0, 1], "a", None, written(3));
    let unknown = delete([2, 4], 3, Outcome::Unknown);
    let missing = read([5, 6], 7, None);
    assert_broken(&[first.clone(), missing.clone()], Rule::Vanished);
    assert_valid(&[first.clone(), unknown.clone(), missing.clone()]);
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        read([5, 6], 6, Some((3, "a"))),
        missing.clone(),
    ]);
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        missing.clone(),
        write([7, 8], "b", None, written(9)),
    ]);
    // A creation needs the deletion as well.
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        write([7, 8], "b", None, written(9)),
    ]);
    assert_broken(
        &[first.clone(), write([7, 8], "b", None, written(9))],
        Rule::WrongPredecessor,
    );
    // A refusal in the entry of the deletion saw what was there before it.
    let refused = write([3, 5], "x", None, conflict(7, Some((3, "a"))));
    assert_valid(&[
        first.clone(),
        unknown.clone(),
        refused.clone(),
        missing.clone(),
    ]);
    let later = write([7, 8], "x", None, conflict(7, Some((3, "a"))));
    assert_broken(
        &[first.clone(), unknown.clone(), missing.clone(), later],
        Rule::Vanished,
    );
    // Once missing, what was deleted does not come back.
    assert_broken(
        &[
            first.clone(),
            unknown,
            missing.clone(),
            read([5, 9], 8, Some((3, "a"))),
        ],
        Rule::NotThere,
    );
    // One that expected something else explains nothing, nor does one that began later.
    assert_broken(
        &[
            first.clone(),
            delete([2, 4], 4, Outcome::Unknown),
            missing.clone(),
        ],
        Rule::Vanished,
    );
    assert_broken(
        &[first, delete([8, 9], 3, Outcome::Unknown), missing],
        Rule::Vanished,
    );
}

/// A register written by many clients through one true order, with the times of each operation
/// spread around the moment at which it really happened.
fn simulated(operations: usize, clients: u64, mut seed: u64) -> Vec<Operation> {
    let mut next = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut state, mut version): (Option<(u64, Arc<str>)>, u64) = (None, 1);
    // A client expects what it was told of.
    let mut told = None;
    let mut history = Vec::new();
    for n in 0..operations as u64 {
        let moment = 1_000 + n * 10;
        version += next(3);
        let seen = state
            .clone()
            .map(|(version, value)| Seen { version, value });
        let have = state.as_ref().map(|(version, _)| *version);
        let value: Option<Arc<str>> =
            (next(10) > 0 || have.is_none()).then(|| format!("v{n}").into());
        let lucky = next(3) > 0 && (have.is_none() || have == told);
        let expected = if lucky {
            have
        } else {
            Some(version + 1_000_000)
        };
        let decided = version;
        let (action, mut outcome) = match next(2) {
            0 => (Action::Read, Outcome::Read { decided, seen }),
            _ if lucky => {
                version += 1;
                state = value.clone().map(|value| (version, value));
                let written = Outcome::Written { version };
                (Action::Write { value, expected }, written)
            }
            _ => {
                let conflict = Outcome::Conflict { decided, seen };
                (Action::Write { value, expected }, conflict)
            }
        };
        if next(30) > 0 {
            told = state.as_ref().map(|(version, _)| *version);
        } else {
            outcome = match action {
                Action::Read => Outcome::NotDone,
                Action::Write { .. } => Outcome::Unknown,
            };
        }
        let (invoked, completed) = (moment - next(500), moment + next(500));
        let client = next(clients) as u32;
        history.push(Operation {
            client,
            register: "r".into(),
            invoked,
            completed,
            action,
            outcome,
        });
    }
    history
}

#[test]
fn simulated_histories_are_valid_and_hardly_any_corruption_survives() {
    let (mut corrupted, mut caught) = (0, 0);
    for seed in 1..40 {
        let history = simulated(300, 20, seed * 7_919);
        assert_valid(&history);
        for at in (0..history.len()).step_by(29) {
            let mut bad = history.clone();
            match &mut bad[at].outcome {
                // The answer of somebody a little while ago.
                Outcome::Read {
                    seen: Some(seen), ..
                } => {
                    let Some(other) = older(&history[..at], seen.version) else {
                        continue;
                    };
                    *seen = other;
                }
                Outcome::Written { version } => *version += 1,
                _ => continue,
            }
            corrupted += 1;
            caught += usize::from(matches!(judged(&bad), Verdict::Invalid(_)));
        }
    }
    // A write moved to a version that nobody was told of, with nobody after it, is as good.
    assert!(
        corrupted > 100 && caught * 100 >= corrupted * 90,
        "{caught} of {corrupted}"
    );
}

fn older(history: &[Operation], than: u64) -> Option<Seen> {
    history
        .iter()
        .rev()
        .find_map(|operation| match &operation.outcome {
            Outcome::Read {
                seen: Some(seen), ..
            } if seen.version < than => Some(seen.clone()),
            _ => None,
        })
}

/// 100 clients and 3 % of unknown outcome. For the figure in RUNS.md:
/// PENNON_OPERATIONS=5000000 cargo test --release -p jepsen-like-tests --lib a_long_history -- --nocapture
#[test]
fn a_long_history_takes_seconds() {
    let count = std::env::var("PENNON_OPERATIONS").ok();
    let count = count.and_then(|count| count.parse().ok());
    let history = simulated(count.unwrap_or(200_000), 100, 42);
    let unknown = history.iter().filter(|one| one.decided().is_none());
    let unknown = unknown.count() * 100 / history.len();
    assert_eq!(unknown, 3);
    // The time of the processor: others may be at work on it.
    let cpu = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let begin = cpu();
    let verdict = judged(&history);
    let took = cpu() - begin;
    assert!(verdict.is_valid(), "{verdict}");
    crate::say(format!(
        "{} operations in {took:?}: {verdict}",
        history.len()
    ));
    assert!(took.as_secs() < 20, "{took:?}");
}
