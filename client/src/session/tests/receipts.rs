//! Receipts: when one is sent, and for which version.

use proptest::prelude::*;

use super::*;

/// Versions of the receipts wanted so far.
fn versions(s: &Script) -> Vec<u64> {
    s.receipts.iter().map(|(.., version)| *version).collect()
}

fn acknowledge(at: u64) -> StreamMessage {
    StreamMessage::Acknowledge {
        version: version(at),
    }
}

#[test]
fn a_change_is_acknowledged_at_once_and_after_it_has_been_published() {
    let mut s = Script::new(2);
    s.open();
    s.message(hello_of("A", Intent::Full, 4));
    assert_eq!(versions(&s), [0; 0], "nothing is held yet");
    let (attempt, ages) = (s.attempt(), Ages::default());
    let effects = s.tell(Event::Message {
        attempt,
        ages,
        message: snapshot_message(0, 4),
    });
    let endpoint = s.connect.unwrap().1;
    assert!(
        matches!(&effects[..], [Effect::Publish, Effect::Acknowledge { endpoint: at, version, .. }]
            if *at == endpoint && version.get() == 4),
        "{effects:?}"
    );
    s.landed(true);
    assert_eq!(s.session.counters().receipts, 1);
    assert_eq!(s.session.acknowledged(), Some(version(4)));
}

#[test]
fn changes_within_a_heartbeat_share_one_receipt_for_the_newest() {
    let mut s = Script::holding(1, 4);
    s.landed(true);
    s.message(delta_message(0, 4, 5));
    s.pass(400);
    s.message(delta_message(0, 5, 7));
    s.message(heartbeat(8));
    assert_eq!(versions(&s), [4], "not within the heartbeat interval");
    s.pass(599);
    assert_eq!(versions(&s), [4]);
    s.pass(1);
    assert_eq!(versions(&s), [4, 8]);
    s.landed(true);
    s.pass(900);
    s.message(heartbeat(9));
    s.pass(1_500);
    assert_eq!(versions(&s), [4, 8], "a heartbeat alone needs none");
}

#[test]
fn one_is_on_its_way_at_a_time_and_the_newest_version_wins() {
    let mut s = Script::holding(1, 4);
    for at in [5, 7, 8] {
        s.pass(990);
        s.message(delta_message(0, s.held().unwrap(), at));
    }
    assert_eq!(versions(&s), [4]);
    s.landed(true);
    assert_eq!(versions(&s), [4, 8]);
    s.pass(990);
    s.message(heartbeat(8));
    s.landed(true);
    assert_eq!(s.session.acknowledged(), Some(version(8)));
}

#[test]
fn who_asks_is_answered_at_once_or_as_soon_as_the_version_is_there() {
    let mut s = Script::holding(1, 4);
    s.landed(true);
    s.message(acknowledge(4));
    assert_eq!(versions(&s), [4, 4], "within the heartbeat interval");
    s.landed(true);
    s.message(acknowledge(5));
    s.pass(2_000);
    s.message(heartbeat(4));
    assert_eq!(versions(&s), [4, 4], "5 is not there");
    s.message(delta_message(0, 4, 5));
    assert_eq!(versions(&s), [4, 4, 5]);
    s.message(acknowledge(6));
    s.message(heartbeat(6));
    assert_eq!(versions(&s), [4, 4, 5], "one at a time");
    s.landed(true);
    assert_eq!(versions(&s), [4, 4, 5, 6], "a heartbeat brought it");
    s.landed(true);
    s.pass(2_000);
    assert_eq!(versions(&s), [4, 4, 5, 6], "and that is all");
}

#[test]
fn a_receipt_that_fails_disturbs_nothing_and_is_sent_again_less_and_less_often() {
    let mut s = Script::holding(1, 4);
    let (attempt, published) = (s.attempt(), s.published);
    let mut gaps = Vec::new();
    for n in 1..=9 {
        let (sent, ..) = *s.receipts.last().unwrap();
        s.landed(false);
        assert_eq!(s.session.counters().receipt_failures, n);
        while s.receipts.len() == usize::try_from(n).unwrap() {
            s.pass(500);
            s.message(heartbeat(4));
        }
        gaps.push((s.now - sent) / 1_000);
    }
    assert_eq!(gaps, [2, 4, 8, 16, 32, 64, 64, 64, 64]);
    assert_eq!((s.attempt(), s.error()), (attempt, String::new()));
    assert!(s.published > published && s.is_fresh());
    s.landed(true);
    s.message(delta_message(0, 4, 5));
    s.pass(1_000);
    assert_eq!(versions(&s).last(), Some(&5), "one success ends that");
}

#[test]
fn a_receipt_without_an_outcome_is_given_up_and_its_late_outcome_is_nothing() {
    let mut s = Script::holding(1, 4);
    let (_, first, _) = s.receipts[0];
    for _ in 0..7 {
        s.pass(999);
        s.message(heartbeat(4));
    }
    assert_eq!(s.session.counters().receipt_failures, 1);
    assert_eq!(versions(&s), [4, 4]);
    let late = Event::Receipt {
        receipt: first,
        outcome: Ok(()),
    };
    assert_eq!(s.tell(late), Vec::new());
    assert_eq!(s.session.counters().receipts, 0);
}

#[test]
fn what_was_on_its_way_when_the_stream_broke_is_told_to_the_next_node() {
    let mut s = Script::holding(2, 4);
    let (_, first, _) = s.receipts[0];
    s.fail();
    s.next_connect();
    s.open();
    assert_eq!(versions(&s), [4], "not before hello");
    s.message(hello_of("A", Intent::None, 4));
    s.pass(1_000);
    assert_eq!(versions(&s), [4, 4]);
    assert_ne!(s.receipts[1].1, first);
    s.landed(true);
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::None, 4));
    s.pass(2_000);
    assert_eq!(versions(&s), [4, 4], "the next one knows it from `since`");
}

#[test]
fn a_node_of_another_cluster_is_told_nothing_of_this_ones_versions() {
    let mut s = Script::holding(2, 5);
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("B", Intent::Full, 1_007));
    s.message(acknowledge(5));
    s.pass(1_500);
    assert_eq!(versions(&s), [5]);
    s.message(snapshot_message(1, 1_007));
    assert_eq!(versions(&s), [5, 1_007]);
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Delta(u64),
    Heartbeat,
    Ask(u64),
    Land(bool),
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..1_500).prop_map(Step::Pass),
        4 => (1_u64..4).prop_map(Step::Delta),
        2 => Just(Step::Heartbeat),
        2 => (0_u64..4).prop_map(Step::Ask),
        4 => any::<bool>().prop_map(Step::Land),
        1 => Just(Step::Break),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Versions rise, one is on its way at a time, nobody who asks is forgotten, and nothing that
    /// was not asked for comes before its time.
    #[test]
    fn receipts_are_paced_and_none_is_forgotten(steps in prop::collection::vec(step(), 1..80)) {
        let mut s = Script::holding(2, 4);
        let mut flying = true;
        let (mut asked, mut changed) = (0, 4);
        for step in steps {
            let (had, held) = (s.receipts.len(), s.held().unwrap());
            match step {
                Step::Pass(time) => {
                    s.pass(time);
                    if s.connect.is_none() {
                        s.next_connect();
                        s.open();
                        s.message(hello_of("A", Intent::None, s.held().unwrap()));
                        (flying, asked) = (false, 0);
                    } else {
                        s.message(heartbeat(held));
                    }
                }
                Step::Delta(by) => {
                    s.message(delta_message(0, held, held + by));
                    changed = held + by;
                }
                Step::Heartbeat => {
                    // At every third version nothing changes.
                    let same = states::changed_at(held + 1) == states::changed_at(held);
                    s.message(heartbeat(held + u64::from(same)));
                }
                Step::Ask(ahead) => {
                    s.message(acknowledge(held + ahead));
                    asked = asked.max(held + ahead);
                }
                Step::Land(arrived) if flying => {
                    s.landed(arrived);
                    if arrived && s.receipts[had - 1].2 >= asked {
                        asked = 0;
                    }
                    flying = false;
                }
                Step::Land(_) => {}
                Step::Break => {
                    s.fail();
                    s.next_connect();
                    s.open();
                    s.message(hello_of("A", Intent::None, held));
                    (flying, asked) = (false, 0);
                }
            }
            for pair in s.receipts[had - 1..].windows(2) {
                let [(before, .., old), (sent, .., new)] = pair else { unreachable!() };
                prop_assert!(new >= old, "{old} after {new}");
                prop_assert!(*new <= s.held().unwrap());
                prop_assert!(sent - before >= 1_000 || asked > 0, "{before} {sent}");
                flying = true;
            }
        }
        // In the end, everything is told.
        for _ in 0..200 {
            if s.connect.is_none() {
                s.next_connect();
                s.open();
                s.message(hello_of("A", Intent::None, s.held().unwrap()));
            }
            s.landed(true);
            s.pass(900);
            s.message(heartbeat(s.held().unwrap()));
        }
        prop_assert!(s.session.acknowledged() >= Some(version(changed)));
        prop_assert_eq!(s.session.receipts.wake_at(version(s.held().unwrap())), None);
    }
}
