//! Polls in the place of streams that do not get through.

use proptest::prelude::*;

use super::*;

impl Script {
    fn with_polling(polling: Polling, at: Option<u64>) -> Script {
        let mut s = Script::idle(2);
        let settings = Settings {
            polling,
            ..s.session.settings.clone()
        };
        s.session = Session::new(settings);
        s.tell(Event::Start);
        if let Some(at) = at {
            s.open();
            s.message(hello_of("A", Intent::Full, at));
            s.message(snapshot_message(0, at));
        }
        s
    }

    fn is_poll(&self) -> bool {
        match &self.session.phase {
            Phase::Dialing { poll, .. } => *poll,
            Phase::Streaming(stream) => stream.poll,
            _ => false,
        }
    }

    /// Answers the poll that is wanted, as a node of a cluster.
    fn polled(&mut self, cluster: &str, message: StreamMessage, fresh_age_ms: u64) {
        assert!(self.is_poll(), "{:?}", self.session.phase);
        if matches!(self.session.phase, Phase::Dialing { .. }) {
            self.open();
        }
        let attempt = self.attempt();
        let polled = Polled {
            meta: Meta {
                cluster_id: cluster.into(),
                bound_ms: BOUND,
            },
            fresh_age_ms,
            message,
        };
        self.tell(Event::Polled { attempt, polled });
        // The connection of a poll is gone with its answer.
        self.connect = None;
    }

    /// Lets a stream be asked for, and nothing come.
    fn block(&mut self) {
        self.next_connect();
        assert!(!self.is_poll());
        self.open();
        let (attempt, _, _) = self.connect.unwrap();
        while self.connect.is_some_and(|(now, ..)| now == attempt) {
            self.pass(100);
        }
    }

    /// Holding a version, in a network that lets no stream through.
    fn blocked(at: u64) -> Script {
        let mut s = Script::with_polling(Polling::Auto, Some(at));
        s.fail();
        for n in 1..=3 {
            assert!(!s.session.is_polling(), "{n}");
            s.block();
        }
        s
    }
}

#[test]
fn when_streams_bring_nothing_again_and_again_the_same_endpoint_is_polled() {
    let mut s = Script::blocked(5);
    let (pause, _, since) = s.next_connect();
    assert!((pause, since) == (0, Some(5)) && s.is_poll());
    s.polled("A", heartbeat(7), 40);
    assert_eq!((s.held(), s.age(), s.is_fresh()), (Some(7), 40, true));
    assert!(s.session.is_polling() && s.session.connected_since().is_none());
    for at in [8, 10, 11] {
        let (pause, _, since) = s.next_connect();
        assert!(
            (2_499..=3_334).contains(&pause),
            "a third of the bound: {pause}"
        );
        assert_eq!(since, s.held());
        s.polled("A", delta_message(0, s.held().unwrap(), at), 0);
        assert_eq!((s.held(), s.is_fresh()), (Some(at), true));
        assert_eq!(s.digest(), snapshot(0, at).digest());
    }
    assert_eq!(s.session.counters().polls, 4);
}

// I5
#[test]
fn the_age_of_a_poll_counts_from_its_request() {
    let mut s = Script::blocked(5);
    s.next_connect();
    s.open();
    s.now += 2_000;
    s.polled("A", heartbeat(5), 300);
    assert_eq!(s.age(), 2_300);
    s.next_connect();
    s.polled("A", heartbeat(5), u64::MAX);
    assert!(
        s.age() >= 2_300,
        "an answer that knows no age proves nothing"
    );
}

// I4 I6
#[test]
fn what_no_stream_could_bring_no_poll_brings() {
    for (cluster, message) in [
        ("A", snapshot_message(0, 4)),
        ("B", snapshot_message(1, 5)),
        ("B", heartbeat(9)),
        ("B", delta_message(1, 5, 7)),
        ("A", delta_message(0, 4, 7)),
        ("A", tampered(delta_message(0, 5, 7))),
        ("A", tampered(snapshot_message(0, 7))),
    ] {
        let mut s = Script::blocked(5);
        s.next_connect();
        let age = s.age();
        // That an older version is the newest would be a proof about what is held, too.
        let older =
            matches!(&message, StreamMessage::Snapshot { version, .. } if version.get() < 5);
        let claimed = if older { u64::MAX } else { 0 };
        s.polled(cluster, message.clone(), claimed);
        assert_eq!(
            (s.held(), s.digest()),
            (Some(5), snapshot(0, 5).digest()),
            "{message:?}"
        );
        assert!(s.age() >= age, "{message:?} proved something");
    }
    let mut s = Script::blocked(5);
    s.next_connect();
    s.polled("B", snapshot_message(1, 1_007), 0);
    assert_eq!(s.digest(), snapshot(1, 1_007).digest(), "a rebuilt cluster");
}

#[test]
fn streams_are_tried_again_less_and_less_often_and_the_state_stays_fresh() {
    let mut s = Script::blocked(5);
    let mut tries = Vec::new();
    let began = s.now;
    while s.now - began < 3_600_000 {
        s.next_connect();
        match s.is_poll() {
            true => s.polled("A", heartbeat(5), 20),
            false => {
                tries.push(s.now);
                s.open();
                let (attempt, ..) = s.connect.unwrap();
                while s.connect.is_some_and(|(now, ..)| now == attempt) {
                    s.pass(50);
                    assert!(s.is_fresh());
                }
            }
        }
        assert!(s.is_fresh());
    }
    assert!((5..=9).contains(&tries.len()), "{tries:?}");
    // One gets through: that is the end of polling.
    while s.is_poll() || s.connect.is_none() {
        s.next_connect();
        if s.is_poll() {
            s.polled("A", heartbeat(5), 20);
        }
    }
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert!(!s.session.is_polling());
    s.fail();
    s.next_connect();
    assert!(!s.is_poll());
}

#[test]
fn a_client_without_a_state_polls_once_as_soon_as_a_stream_brings_nothing() {
    let mut s = Script::with_polling(Polling::Auto, None);
    s.block();
    assert!(s.now <= 5_000 + 4_100);
    s.next_connect();
    assert!(s.is_poll());
    s.polled("A", snapshot_message(0, 5), 20);
    assert_eq!((s.held(), s.is_fresh()), (Some(5), true));
    assert!(!s.session.is_polling(), "it may have been chance");
    s.next_connect();
    assert!(!s.is_poll());
}

#[test]
fn what_polls_bring_is_acknowledged_between_them() {
    let mut s = Script::with_polling(Polling::Only, None);
    let versions = |s: &Script| -> Vec<u64> { s.receipts.iter().map(|one| one.2).collect() };
    s.polled("A", snapshot_message(0, 4), 0);
    assert_eq!(versions(&s), [4]);
    s.landed(true);
    s.next_connect();
    s.polled("A", heartbeat(4), 0);
    s.pass(1_000);
    assert_eq!(versions(&s), [4], "nothing is new");
    s.next_connect();
    s.polled("A", delta_message(0, 4, 5), 0);
    assert_eq!(versions(&s), [4, 5]);
    // It takes longer than until the next poll, which does not take it back.
    s.next_connect();
    s.polled("A", delta_message(0, 5, 7), 0);
    assert_eq!(versions(&s), [4, 5], "one at a time");
    s.landed(true);
    assert_eq!(s.session.acknowledged(), Some(version(5)));
    s.pass(10);
    assert_eq!(versions(&s), [4, 5, 7]);
    s.landed(false);
    assert_eq!(s.session.counters().receipt_failures, 1);
    s.next_connect();
    s.polled("A", heartbeat(7), 0);
    s.pass(2_000);
    assert_eq!(versions(&s), [4, 5, 7, 7], "sent again");
    s.landed(true);
    assert_eq!(s.session.acknowledged(), Some(version(7)));

    // A node of another cluster hears nothing of this one's versions, nor does anybody after a failure.
    s.next_connect();
    s.polled("A", delta_message(0, 7, 8), 0);
    s.next_connect();
    s.polled("B", heartbeat(9), 0);
    assert_eq!(versions(&s), [4, 5, 7, 7, 8]);
    s.pass(1_000);
    assert_eq!(versions(&s), [4, 5, 7, 7, 8]);
    s.next_connect();
    s.open();
    s.fail();
    s.pass(500);
    assert_eq!(versions(&s), [4, 5, 7, 7, 8]);
    s.next_connect();
    s.polled("A", heartbeat(8), 0);
    s.pass(2_000);
    assert_eq!(
        versions(&s),
        [4, 5, 7, 7, 8, 8],
        "it was lost with the connection"
    );
}

#[test]
fn if_the_poll_fails_as_well_it_was_not_the_streams() {
    let mut s = Script::blocked(5);
    let first = s.next_connect().1;
    assert!(s.is_poll());
    s.open();
    s.fail();
    let next = s.next_connect().1;
    assert!(!s.is_poll() && next != first && !s.session.is_polling());
}

#[test]
fn refusals_and_dead_nodes_are_no_reason_to_poll() {
    let mut s = Script::with_polling(Polling::Auto, Some(5));
    for n in 0..20 {
        let attempt = s.attempt();
        if n % 2 == 0 {
            s.open();
        }
        let error = match n % 2 {
            0 => Error::refused(http::StatusCode::SERVICE_UNAVAILABLE, None, b"{}"),
            _ => failed_connection(),
        };
        s.tell(Event::Failed {
            attempt,
            error,
            retry_after: None,
        });
        s.next_connect();
        assert!(!s.is_poll());
    }
}

#[test]
fn polling_can_be_all_there_is_or_nothing() {
    let mut s = Script::with_polling(Polling::Only, None);
    assert!(s.is_poll());
    s.polled("A", snapshot_message(0, 5), 0);
    for at in [7, 8] {
        s.pass(4_000);
        s.polled("A", delta_message(0, s.held().unwrap(), at), 0);
    }
    assert_eq!(s.held(), Some(8));
    s.pass(4_000);
    s.fail();
    s.next_connect();
    assert!(s.is_poll() && s.session.is_polling());
    let mut s = Script::with_polling(Polling::Never, Some(5));
    s.fail();
    for _ in 0..6 {
        s.block();
    }
    assert_eq!(s.polls, [0; 0]);
}

proptest! {
    /// Whatever answers come: never back, and something always comes next.
    #[test]
    fn polls_never_take_a_state_back(
        steps in prop::collection::vec((0_u8..7, 0_u64..12, 0_u64..2), 1..60),
    ) {
        let mut s = Script::with_polling(Polling::Only, None);
        for (kind, at, cluster) in steps {
            if s.connect.is_none() {
                s.next_connect();
            }
            let (before, id) = (s.held().unwrap_or(0), ["A", "B"][cluster as usize]);
            match kind {
                0 => s.fail(),
                1 | 2 => s.polled(id, snapshot_message(cluster, at), at * 1_000),
                3 => s.polled(id, heartbeat(at), 0),
                4 => s.polled(id, delta_message(cluster, at, at + 2), 0),
                5 => s.polled(id, delta_message(cluster, before, before + at + 1), 0),
                _ => s.pass(at * 1_000),
            }
            prop_assert!(s.held().unwrap_or(0) >= before);
            if let Some(held) = s.session.held() {
                let cluster = u64::from(held.cluster_id.as_deref() == Some("B"));
                let at = held.snapshot.version().get();
                // A heartbeat of these nodes may say that nothing changed when something did.
                let same = (0..=at).any(|at| snapshot(cluster, at).digest() == s.digest());
                prop_assert!(same, "not a state of cluster {cluster}");
            }
            prop_assert!(s.session.wake_at(ms(s.now)).is_some());
        }
    }
}
