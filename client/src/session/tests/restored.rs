//! States that come from elsewhere than a node, and writing states down.

use super::*;
use crate::cache::Restored;
use crate::held::Source;

/// Cluster 0, unless it is not known which cluster it is.
fn restored(at: u64, known: bool) -> Event {
    Event::Restored(Restored {
        snapshot: Snapshot::load(&snapshot(0, at)).unwrap(),
        cluster_id: known.then(|| "A".into()),
        bound: ms(BOUND),
        source: if known {
            Source::Cache
        } else {
            Source::Bootstrap
        },
        written: None,
    })
}

fn with(endpoints: usize, at: u64, known: bool) -> Script {
    let mut s = Script::idle(endpoints);
    assert_eq!(s.tell(restored(at, known)), [Effect::Publish]);
    s.tell(Event::Start);
    s
}

// I5
#[test]
fn what_was_restored_is_stale_until_a_node_confirms_it() {
    let mut s = with(2, 5, true);
    assert_eq!((s.held(), s.connect.unwrap().2), (Some(5), Some(5)));
    assert!(!s.is_fresh());
    s.pass(1_000);
    assert!(!s.is_fresh());
    s.open();
    s.message(hello_of("A", Intent::Changes, 8));
    assert!(!s.is_fresh(), "8 is on its way");
    s.message(delta_message(0, 5, 8));
    assert!(s.is_fresh());
    let mut s = with(2, 5, true);
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert!(s.is_fresh());
}

// I6
#[test]
fn what_was_restored_counts_as_applied() {
    for known in [true, false] {
        let mut s = with(1, 5, known);
        s.open();
        s.message(hello_of("A", Intent::Full, 4));
        s.message(snapshot_message(0, 4));
        assert_eq!((s.held(), s.connect), (Some(5), None));
        assert_eq!(s.session.counters().refused_older, 1);
    }
}

#[test]
fn the_newer_one_counts_and_only_before_the_start() {
    let mut s = Script::idle(1);
    s.tell(restored(5, true));
    assert_eq!(s.tell(restored(4, false)), []);
    assert_eq!(s.tell(restored(5, false)), []);
    assert_eq!(s.tell(restored(7, false)), [Effect::Publish]);
    s.tell(Event::Start);
    assert_eq!(s.tell(restored(8, true)), []);
    assert_eq!(s.held(), Some(7));
}

/// It may be a state of another cluster, whose versions mean other things.
#[test]
fn a_state_of_an_unknown_cluster_is_replaced_whole_and_confirmed_by_nobody() {
    for at in [5, 7] {
        let mut s = with(1, 5, false);
        assert_eq!(s.connect.unwrap().2, None, "everything is asked for");
        s.open();
        s.message(hello_of("B", Intent::Full, at));
        s.message(heartbeat(at));
        assert!(s.held() == Some(5) && !s.is_fresh(), "I5");
        s.message(snapshot_message(1, at));
        assert_eq!((s.held(), s.is_fresh()), (Some(at), true));
        assert_eq!(s.digest(), snapshot(1, at).digest());
        s.fail();
        assert_eq!(s.next_connect().2, Some(at));
    }
    for intent in [Intent::None, Intent::Changes] {
        let mut s = with(1, 5, false);
        s.open();
        s.message(hello_of("B", intent, 5));
        assert_eq!((s.held(), s.is_fresh(), s.connect), (Some(5), false, None));
    }
}

#[test]
fn changes_are_written_down_one_at_a_time_and_a_second_apart() {
    let mut s = Script::idle(1);
    s.tell(Event::Caching);
    s.tell(Event::Start);
    s.open();
    s.message(hello_of("A", Intent::Full, 4));
    s.message(snapshot_message(0, 4));
    let began = s.now;
    assert_eq!(s.saves, [began]);
    s.pass(1_500);
    s.message(delta_message(0, 4, 5));
    assert_eq!(s.saves.len(), 1, "one at a time");
    s.tell(Event::Saved { done: true });
    assert_eq!(s.saves, [began, began + 1_500]);
    s.tell(Event::Saved { done: true });
    s.message(heartbeat(6));
    s.pass(500);
    s.message(delta_message(0, 6, 7));
    s.pass(499);
    assert_eq!(s.saves.len(), 2);
    s.pass(1);
    assert_eq!(s.saves[2], began + 2_500);
    s.tell(Event::Saved { done: true });
    s.pass(900);
    s.message(heartbeat(9));
    s.pass(1_500);
    assert_eq!(s.saves.len(), 3, "a heartbeat changes nothing");
}

#[test]
fn a_disk_that_fails_is_tried_less_and_less_often() {
    let mut s = Script::idle(1);
    s.tell(Event::Caching);
    s.tell(Event::Start);
    s.open();
    s.message(hello_of("A", Intent::Full, 4));
    s.message(snapshot_message(0, 4));
    for n in 1..=8 {
        s.tell(Event::Saved { done: false });
        while s.saves.len() == n {
            s.pass(500);
            s.message(heartbeat(4));
        }
    }
    let gaps: Vec<u64> = s.saves.windows(2).map(|p| (p[1] - p[0]) / 1_000).collect();
    assert_eq!(gaps, [2, 4, 8, 16, 32, 64, 64, 64]);
    assert_eq!(s.session.counters().failures, 0);
}

#[test]
fn without_a_cache_nothing_is_written() {
    let mut s = Script::holding(1, 4);
    s.pass(2_000);
    assert_eq!(s.saves, [0; 0]);
}
