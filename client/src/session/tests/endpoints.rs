//! Going from one endpoint to another: when, to which, and that many clients do not go as one.

use proptest::prelude::*;

use super::*;

impl Script {
    /// The same client with another seed, hence other dice.
    fn seeded(endpoints: usize, seed: u64) -> Script {
        let mut s = Script::idle(endpoints);
        let settings = Settings {
            seed,
            ..s.session.settings.clone()
        };
        s.session = Session::new(settings);
        s.tell(Event::Start);
        s.open();
        s.message(hello_of("A", Intent::Full, 5));
        s.message(snapshot_message(0, 5));
        s
    }
}

#[test]
fn goodbye_is_no_failure_and_sends_to_another_endpoint_soon() {
    let mut s = Script::holding(2, 5);
    let first = s.connect.unwrap().1;
    s.message(StreamMessage::Goodbye { retry_ms: 1_000 });
    assert_eq!(s.session.counters().failures, 0);
    let (pause, endpoint, since) = s.next_connect();
    assert_eq!((endpoint, since), (1 - first, Some(5)));
    assert!(pause <= 1_000, "{pause}");
    // The first one is gone for a while, even if the second fails.
    s.fail();
    let (again, endpoint, _) = s.next_connect();
    assert!(endpoint == 1 - first || pause + again >= 1_000);
}

#[test]
fn goodbye_of_the_only_node_is_waited_out_and_not_for_ever() {
    let mut s = Script::holding(1, 5);
    s.message(StreamMessage::Goodbye { retry_ms: 1_234 });
    let pause = s.next_connect().0;
    assert!((1_234..=2_468).contains(&pause), "{pause}");
    s.open();
    s.message(StreamMessage::Goodbye { retry_ms: u64::MAX });
    let pause = s.next_connect().0;
    assert!((60_000..=120_000).contains(&pause), "{pause}");
}

#[test]
fn with_another_node_a_goodbye_never_makes_a_state_stale() {
    let mut s = Script::holding(3, 5);
    s.message(StreamMessage::Goodbye { retry_ms: 60_000 });
    assert!(s.next_connect().0 <= 2_500, "a quarter of the bound");
    assert!(s.is_fresh());
}

/// When each of many clients comes back, and where, in milliseconds.
fn moves(endpoints: usize, leave: impl Fn(&mut Script)) -> Vec<(u64, usize)> {
    let clients = (0..3_000_u64).map(|seed| Script::seeded(endpoints, seed));
    let clients = clients.filter(|s| s.connect.unwrap().1 == 0).take(1_000);
    let moves = clients.map(|mut s| {
        leave(&mut s);
        let (pause, endpoint, _) = s.next_connect();
        (pause, endpoint)
    });
    moves.collect()
}

#[test]
fn a_thousand_clients_of_a_node_that_goes_come_back_spread_in_time_and_over_the_others() {
    for (endpoints, first, last) in [(3, 0, 1_000), (1, 1_000, 2_000)] {
        let moves = moves(endpoints, |s| {
            s.message(StreamMessage::Goodbye { retry_ms: 1_000 });
        });
        assert!(moves.len() > 800, "{}", moves.len());
        let mut windows = [0; 10];
        for (pause, endpoint) in &moves {
            assert!((first..=last).contains(pause), "{pause}");
            assert_eq!(*endpoint == 0, endpoints == 1);
            windows[usize::try_from((pause - first).min(999) / 100).unwrap()] += 1;
        }
        let fair = moves.len() / 10;
        assert!(
            windows.iter().all(|n| (fair / 2..fair * 2).contains(n)),
            "{windows:?}"
        );
        let second = moves.iter().filter(|(_, endpoint)| *endpoint == 1).count();
        let half = moves.len() / 2;
        assert!(
            endpoints == 1 || (half * 4 / 5..half * 6 / 5).contains(&second),
            "{second}"
        );
    }
}

#[test]
fn a_thousand_clients_of_a_node_that_broke_do_not_come_back_at_one_instant() {
    let moves = moves(3, Script::fail);
    let mut windows = [0; 10];
    for (pause, _) in &moves {
        windows[usize::try_from((*pause).min(99) / 10).unwrap()] += 1;
    }
    let fair = moves.len() / 10;
    assert!(
        windows.iter().all(|n| (fair / 2..fair * 2).contains(n)),
        "{windows:?}"
    );
}

#[test]
fn an_endpoint_that_fails_again_and_again_is_passed_over_and_a_good_one_is_not() {
    let mut s = Script::holding(3, 5);
    let dead = s.connect.unwrap().1;
    let mut tried = [0; 3];
    // The dead one refuses; the others last for two seconds each.
    for _ in 0..200 {
        let (_, endpoint, _) = s.next_connect();
        tried[endpoint] += 1;
        if endpoint != dead {
            s.open();
            s.message(hello_of("A", Intent::None, 5));
            s.pass(2_000);
        }
        s.fail();
    }
    assert!(tried[dead] >= 5 && tried[dead] < 60, "{tried:?}");
}

#[test]
fn while_all_fail_each_is_tried_again_and_something_always_comes_next() {
    let mut s = Script::holding(3, 5);
    let (mut tried, began) = ([0; 3], s.now);
    for _ in 0..60 {
        s.fail();
        let (pause, endpoint, _) = s.next_connect();
        assert!(pause <= 10_100, "{pause}");
        tried[endpoint] += 1;
    }
    assert!(tried.iter().all(|n| *n >= 10), "{tried:?}");
    assert!(s.now - began > 30_000, "no storm: {}", s.now - began);
}

#[test]
fn a_node_whose_proof_gets_old_is_left_in_good_time_for_one_that_may_be_fresher() {
    let mut s = Script::holding(2, 5);
    let first = s.connect.unwrap().1;
    // The node goes on sending, and can prove nothing any more.
    let began = s.now;
    while s.connect.is_some_and(|(_, endpoint, _)| endpoint == first) {
        s.pass(999);
        if s.connect.is_some() {
            s.message_aged(heartbeat(5), s.now - s.opened, s.now - began);
        }
        assert!(s.now - began < 6_500);
    }
    assert!(s.now - began >= 5_000, "half the bound: {}", s.now - began);
    assert!(s.error().contains("cannot prove"), "{}", s.error());
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert!(s.is_fresh(), "it never was stale");
}

#[test]
fn while_no_node_can_prove_anything_clients_do_not_rush_about() {
    let mut s = Script::holding(3, 5);
    let began = s.now;
    let before = s.session.counters().connects;
    while s.now - began < 60_000 {
        s.pass(900);
        s.reopen(s.now - began);
        s.message_aged(heartbeat(5), s.now - s.opened, s.now - began);
    }
    let moves = s.session.counters().connects - before;
    assert!((6..=13).contains(&moves), "one in five seconds: {moves}");
}

#[test]
fn an_old_proof_is_no_reason_to_leave_for_an_endpoint_that_has_just_failed() {
    let mut s = Script::holding(2, 5);
    let first = s.connect.unwrap().1;
    // The other one fails so often that it is passed over for long.
    let mut other_at = Duration::ZERO;
    while other_at <= ms(s.now + 5_500) {
        s.fail();
        s.next_connect();
        if s.connect.unwrap().1 == first {
            s.open();
            s.message(hello_of("A", Intent::None, 5));
            other_at = s.session.endpoints.other_at().unwrap();
        }
    }
    let opened = s.now;
    while s.connect.is_some() {
        s.pass(500);
        if s.connect.is_some() {
            s.message_aged(heartbeat(5), 0, s.now - opened);
        }
    }
    assert!(ms(s.now) >= other_at);
}

proptest! {
    /// Whatever fails in whatever order: there is a next time, not too far away, and an endpoint that
    /// did not fail is never passed over for one that did.
    #[test]
    fn a_good_endpoint_is_found_at_once(
        endpoints in 2_usize..6,
        steps in prop::collection::vec((0_u8..4, 0_u64..4_000), 1..60),
    ) {
        let mut s = Script::holding(endpoints, 5);
        let mut failed: Vec<u64> = vec![0; endpoints];
        for (kind, time) in steps {
            let (_, endpoint, _) = s.connect.unwrap();
            match kind {
                0 => s.message(StreamMessage::Goodbye { retry_ms: time }),
                _ => s.fail(),
            }
            // A node that said goodbye did not fail: it may be tried after the time it named.
            failed[endpoint] = if kind == 0 { u64::MAX } else { s.now };
            let (pause, next, _) = s.next_connect();
            let clean = failed.contains(&0);
            prop_assert!(pause <= 2 * 4_000 + 10_100, "{pause}");
            prop_assert!(!clean || [0, u64::MAX].contains(&failed[next]));
            prop_assert!(!clean || pause <= 2_500, "{pause}");
            s.open();
            s.message(hello_of("A", Intent::None, 5));
            failed[next] = 0;
            s.pass(time / 2);
            if s.connect.is_none() {
                s.next_connect();
                s.open();
                s.message(hello_of("A", Intent::None, 5));
            }
        }
    }
}
