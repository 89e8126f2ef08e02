//! A store that streams to clients which stay, roam and resume; each corruption is the least that
//! can be done to what they saw.

use super::*;
use crate::checkers::sample::{Dice, streamed};
use proptest::prelude::*;

fn judge(events: &[Event]) -> Verdict<Rule> {
    check(events, Demand::default())
}

fn item(event: &mut Event) -> Option<&mut StreamItem> {
    match event {
        Event::Stream(event) => Some(&mut event.item),
        _ => None,
    }
}

/// Changes the first item for which something holds, from the middle on.
fn broken(holds: impl Fn(&mut StreamItem) -> bool) -> Vec<Rule> {
    let mut events = streamed(11, 60);
    let half = events.len() / 2;
    let mut found = events[half..].iter_mut().filter_map(item);
    assert!(found.any(holds), "nothing to corrupt");
    match judge(&events) {
        Verdict::Invalid(complaints) => complaints.first.iter().map(|one| one.0).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn clean_streams_are_valid_and_too_few_are_unknown() {
    let events = streamed(11, 60);
    let demand = Demand {
        items_min: 100,
        resumes_min: 5,
    };
    let verdict = check(&events, demand);
    assert!(verdict.is_valid(), "{verdict}");
    let more = Demand {
        resumes_min: 100_000,
        ..demand
    };
    assert!(check(&events, more).is_unknown());
    assert!(judge(&[]).is_unknown());
}

#[test]
fn each_corruption_is_rejected_for_its_reason() {
    let gap = broken(|item| match item {
        StreamItem::Delta { from, .. } => {
            *from -= 1;
            true
        }
        _ => false,
    });
    assert!(gap.contains(&Rule::Gap), "{gap:?}");
    let lost = broken(|item| match item {
        StreamItem::Delta { upserts, .. } if upserts.len() > 1 => upserts.pop().is_some(),
        _ => false,
    });
    assert!(lost.contains(&Rule::DigestMismatch), "{lost:?}");
    assert!(lost.contains(&Rule::NotWhole), "{lost:?}");
    let back = broken(|item| match item {
        StreamItem::Heartbeat { version, .. } => {
            *version = 1;
            true
        }
        _ => false,
    });
    assert!(back.contains(&Rule::WentBack), "{back:?}");
    let content = broken(|item| match item {
        StreamItem::Delta { upserts, .. } if !upserts.is_empty() => {
            upserts[0].hash = Digest::new(77);
            true
        }
        _ => false,
    });
    assert!(content.contains(&Rule::TwoContents), "{content:?}");
    let early = broken(|item| match item {
        StreamItem::Delta { upserts, .. } if !upserts.is_empty() => {
            upserts[0].changed_at = 1;
            true
        }
        _ => false,
    });
    assert!(early.contains(&Rule::OutOfRange), "{early:?}");
    let cluster = broken(|item| match item {
        StreamItem::Hello { cluster, .. } => {
            *cluster = "another".into();
            true
        }
        _ => false,
    });
    assert!(cluster.contains(&Rule::OtherCluster), "{cluster:?}");
    let form = broken(|item| {
        let hello = matches!(item, StreamItem::Hello { .. });
        if hello {
            *item = StreamItem::Heartbeat {
                version: 1_000_000,
                open_ms: 0,
                fresh_age_ms: 0,
            };
        }
        hello
    });
    assert!(form.contains(&Rule::Form), "{form:?}");
}

/// Every item that carries something is left out, told twice, or told to somebody else's version:
/// hardly anything of it may pass.
#[test]
fn hardly_any_mutation_survives() {
    let (mut all, mut caught, mut survivors) = (0, 0, Vec::new());
    for seed in 0..12 {
        let events = streamed(seed, 50);
        let mut dice = Dice::new(seed + 1);
        for at in 0..events.len() {
            if !dice.one_in(6) {
                continue;
            }
            let mut bad = events.clone();
            let Some(found) = item(&mut bad[at]) else {
                continue;
            };
            match found {
                StreamItem::Delta { .. } if dice.one_in(2) => drop(bad.remove(at)),
                StreamItem::Delta { digest, .. } | StreamItem::Snapshot { digest, .. } => {
                    digest.add(1);
                }
                StreamItem::Heartbeat { version, .. } => *version += 9,
                _ => continue,
            }
            all += 1;
            match judge(&bad) {
                Verdict::Invalid(_) => caught += 1,
                _ => survivors.push((seed, at)),
            }
        }
    }
    // What nobody saw afterwards cannot be missed: the last message of a client.
    assert!(
        all > 200 && caught * 10 >= all * 9,
        "{caught} of {all}: {survivors:?}"
    );
}

/// The planted bug: a heartbeat takes the newest version instead of the one shown.
#[test]
fn a_heartbeat_ahead_of_its_data_is_caught() {
    let ahead = broken(|item| match item {
        StreamItem::Heartbeat { version, .. } => {
            *version += 30;
            true
        }
        _ => false,
    });
    assert!(ahead.contains(&Rule::HeartbeatAhead), "{ahead:?}");
}

/// Half a change set in one delta, the rest in the next, with digests that fit: only those who
/// compare with what was written, or with another client, can tell.
#[test]
fn a_change_set_in_two_deltas_is_caught() {
    let state = |key: &str, changed_at, hash| StateSeen {
        key: key.into(),
        changed_at,
        hash: Digest::new(hash),
    };
    let event = |at, client, item| {
        Event::Stream(StreamEvent {
            at,
            client,
            connection: 1,
            scope: "e".into(),
            item,
        })
    };
    let hello = || StreamItem::Hello {
        cluster: "c".into(),
        intent: "full".into(),
        version: 1,
        bound_ms: 1_000,
    };
    let asked = || StreamItem::Asked {
        node: 0,
        since: None,
    };
    let snapshot = |version, digest| StreamItem::Snapshot {
        version,
        states: Vec::new(),
        digest: Digest::new(digest),
        fresh_age_ms: 0,
    };
    let delta = |from, to, upserts: Vec<StateSeen>, digest| StreamItem::Delta {
        from,
        to,
        upserts,
        removals: Vec::new(),
        digest: Digest::new(digest),
        fresh_age_ms: 0,
    };
    let torn = [
        event(1, 0, asked()),
        event(2, 0, hello()),
        event(3, 0, snapshot(1, 0)),
        event(4, 0, delta(1, 5, vec![state("flag/f", 5, 3)], 3)),
        event(5, 0, delta(5, 6, vec![state("segment/s", 5, 4)], 7)),
    ];
    let verdict = judge(&torn);
    assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::NotWhole)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_a_right_store_streams_is_valid(seed in any::<u64>()) {
        let verdict = judge(&streamed(seed, 40));
        prop_assert!(verdict.is_valid(), "{}", verdict);
    }
}
