//! Scripts over the session: one connection after another, told event by event. What holds for
//! any order of events is in `world.rs`.

use super::*;
use pennon_evaluator::wire::Intent;
use pennon_evaluator::{Digest, Snapshot};

mod endpoints;
mod polls;
mod receipts;
mod restored;
mod world;

use crate::states::{self, delta_message, environment, snapshot, snapshot_message, version};

const BOUND: u64 = 10_000;
const HEARTBEAT: u64 = 1_000;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn hello_of(cluster: &str, intent: Intent, at: u64) -> StreamMessage {
    StreamMessage::Hello {
        cluster_id: cluster.to_owned(),
        environment: environment(),
        intent,
        version: version(at),
        staleness_bound_ms: BOUND,
        heartbeat_ms: HEARTBEAT,
    }
}

fn heartbeat(at: u64) -> StreamMessage {
    StreamMessage::Heartbeat {
        version: version(at),
    }
}

/// The same message with a digest that its states do not give.
fn tampered(mut message: StreamMessage) -> StreamMessage {
    if let StreamMessage::Delta { digest, .. } | StreamMessage::Snapshot { digest, .. } =
        &mut message
    {
        *digest = Digest::new(digest.get() ^ 1);
    }
    message
}

fn failed_connection() -> Error {
    Error::unreachable("refused")
}

/// A session with a clock, and the connection it asked for last.
struct Script {
    session: Session,
    now: u64,
    /// When the request of the current stream was written.
    opened: u64,
    connect: Option<(Attempt, usize, Option<u64>)>,
    published: usize,
    /// The receipts wanted so far: when, which, for which version.
    receipts: Vec<(u64, ReceiptId, u64)>,
    /// When polls were wanted.
    polls: Vec<u64>,
    /// When writing to the disk cache was wanted.
    saves: Vec<u64>,
}

impl Script {
    fn new(endpoints: usize) -> Script {
        let mut script = Script::idle(endpoints);
        script.tell(Event::Start);
        script
    }

    /// Not started yet.
    fn idle(endpoints: usize) -> Script {
        let urls = (0..endpoints).map(|n| format!("http://n{n}"));
        let settings = Settings {
            environment: environment(),
            endpoints: Endpoint::parse_all(urls).unwrap(),
            staleness_max: None,
            polling: Polling::Auto,
            broken: None,
            seed: 7,
        };
        let session = Session::new(settings);
        Script {
            session,
            now: 5_000,
            opened: 0,
            connect: None,
            published: 0,
            receipts: Vec::new(),
            polls: Vec::new(),
            saves: Vec::new(),
        }
    }

    /// With a stream open that has brought the content of cluster 0 at a version.
    fn holding(endpoints: usize, at: u64) -> Script {
        let mut script = Script::new(endpoints);
        script.open();
        script.message(hello_of("A", Intent::Full, at));
        script.message(snapshot_message(0, at));
        assert_eq!(script.held(), Some(at));
        script
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.session.on_event(event, ms(self.now));
        for effect in &effects {
            match effect {
                Effect::Disconnect => self.connect = None,
                Effect::Poll {
                    attempt,
                    endpoint,
                    since,
                    ..
                } => {
                    self.connect = Some((*attempt, *endpoint, since.map(Version::get)));
                    self.polls.push(self.now);
                }
                Effect::Connect {
                    attempt,
                    endpoint,
                    since,
                    ..
                } => {
                    self.connect = Some((*attempt, *endpoint, since.map(Version::get)));
                }
                Effect::Publish => self.published += 1,
                Effect::Acknowledge {
                    receipt, version, ..
                } => {
                    let sent = (self.now, *receipt, version.get());
                    self.receipts.push(sent);
                }
                Effect::Save => self.saves.push(self.now),
            }
        }
        effects
    }

    fn attempt(&self) -> Attempt {
        self.connect.expect("a connection is wanted").0
    }

    fn open(&mut self) {
        self.opened = self.now;
        let attempt = self.attempt();
        self.tell(Event::Requested { attempt });
    }

    /// Says how the receipt that was wanted last went.
    fn landed(&mut self, arrived: bool) {
        let (_, receipt, _) = *self.receipts.last().unwrap();
        let outcome = match arrived {
            true => Ok(()),
            false => Err(failed_connection()),
        };
        self.tell(Event::Receipt { receipt, outcome });
    }

    /// Brings a message that was sent this moment by a node that is fresh this moment.
    fn message(&mut self, message: StreamMessage) {
        self.message_aged(message, self.now - self.opened, 0);
    }

    fn message_aged(&mut self, message: StreamMessage, open_ms: u64, fresh_age_ms: u64) {
        let ages = Ages {
            open_ms,
            fresh_age_ms,
        };
        let attempt = self.attempt();
        self.tell(Event::Message {
            attempt,
            ages,
            message,
        });
    }

    fn fail(&mut self) {
        let (attempt, error) = (self.attempt(), failed_connection());
        self.tell(Event::Failed {
            attempt,
            error,
            retry_after: None,
        });
    }

    /// Opens the stream, if a connection is being opened; the node has nothing newer than is held, and
    /// what it can prove has this age.
    fn reopen(&mut self, fresh_age: u64) {
        if matches!(self.session.phase, Phase::Waiting { .. }) {
            self.next_connect();
        }
        if matches!(self.session.phase, Phase::Dialing { .. }) {
            self.open();
            let at = self.held().unwrap();
            self.message_aged(hello_of("A", Intent::None, at), 0, fresh_age);
        }
    }

    /// Lets time pass, ticking whenever the session wants it.
    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(wake) = self.session.wake_at(ms(self.now)) {
            let wake = u64::try_from(wake.as_nanos().div_ceil(1_000_000)).unwrap();
            if wake > end {
                break;
            }
            self.now = wake.max(self.now);
            let before = format!("{:?}", self.session.phase);
            self.tell(Event::Tick);
            if self.session.wake_at(ms(self.now)) == Some(ms(self.now)) {
                assert_ne!(
                    before,
                    format!("{:?}", self.session.phase),
                    "a tick for nothing"
                );
            }
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    /// Lets time pass until the session asks for a connection; returns how long and which.
    fn next_connect(&mut self) -> (u64, usize, Option<u64>) {
        let start = self.now;
        while self.connect.is_none() {
            let wake = self
                .session
                .wake_at(ms(self.now))
                .expect("something comes next");
            self.now = u64::try_from(wake.as_nanos().div_ceil(1_000_000))
                .unwrap()
                .max(self.now);
            self.tell(Event::Tick);
        }
        let (_, endpoint, since) = self.connect.unwrap();
        (self.now - start, endpoint, since)
    }

    fn held(&self) -> Option<u64> {
        self.session
            .held()
            .map(|held| held.snapshot.version().get())
    }

    fn digest(&self) -> Digest {
        self.session.held().unwrap().snapshot.digest()
    }

    fn age(&self) -> u64 {
        let age = self.session.held().unwrap().freshness(ms(self.now)).0;
        u64::try_from(age.as_millis()).unwrap()
    }

    fn is_fresh(&self) -> bool {
        self.session.held().unwrap().freshness(ms(self.now)).1 == Freshness::Fresh
    }

    fn error(&self) -> String {
        self.session
            .last_error()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

#[test]
fn a_stream_brings_a_snapshot_then_moves_it_on() {
    let mut s = Script::new(1);
    assert_eq!(s.connect.unwrap().2, None);
    s.open();
    s.message(hello_of("A", Intent::Full, 4));
    assert_eq!(s.held(), None);
    s.message(snapshot_message(0, 4));
    assert_eq!((s.held(), s.digest()), (Some(4), snapshot(0, 4).digest()));
    s.message(delta_message(0, 4, 5));
    assert_eq!((s.held(), s.digest()), (Some(5), snapshot(0, 5).digest()));
    s.message(heartbeat(6));
    assert_eq!((s.held(), s.digest()), (Some(6), snapshot(0, 6).digest()));
    assert_eq!(s.published, 3);
    s.pass(10);
    s.message(heartbeat(6));
    assert_eq!(
        (s.published, s.age()),
        (4, 0),
        "a newer proof is published too"
    );
}

#[test]
fn a_hello_in_between_changes_the_bound_and_nothing_else() {
    let mut s = Script::holding(1, 5);
    let stricter = |mut hello: StreamMessage| {
        if let StreamMessage::Hello {
            staleness_bound_ms,
            heartbeat_ms,
            ..
        } = &mut hello
        {
            (*staleness_bound_ms, *heartbeat_ms) = (BOUND / 10, HEARTBEAT / 10);
        }
        hello
    };
    s.pass(BOUND / 5);
    assert!(s.is_fresh());
    // Changes follow it: it proves nothing about what is held, which is too old now. (I5)
    s.message(stricter(hello_of("A", Intent::Changes, 6)));
    assert!(!s.is_fresh());
    s.message(delta_message(0, 5, 6));
    assert!(s.is_fresh() && s.held() == Some(6));
    s.message(stricter(hello_of("A", Intent::None, 7)));
    s.message(heartbeat(7));
    assert_eq!((s.held(), s.session.counters().connects), (Some(7), 1));
    // And the node is given up after three of the new heartbeats.
    s.pass(HEARTBEAT);
    assert!(s.error().contains("silent"), "{}", s.error());
    // It cannot become another cluster, nor take back that everything follows.
    let mut s = Script::holding(1, 5);
    s.message(hello_of("B", Intent::Full, 9));
    assert!(s.error().contains("another cluster"), "{}", s.error());
    let mut s = Script::holding(1, 5);
    s.message(hello_of("A", Intent::Full, 6));
    s.message(hello_of("A", Intent::Changes, 6));
    assert!(s.error().contains("no state to go on"), "{}", s.error());
}

#[test]
fn it_resumes_elsewhere_from_what_it_holds() {
    let mut s = Script::holding(3, 5);
    let first = s.connect.unwrap().1;
    s.fail();
    let (pause, endpoint, since) = s.next_connect();
    assert!(endpoint != first && since == Some(5), "{endpoint}");
    assert!(pause <= 100, "{pause}");
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert_eq!(s.held(), Some(5));
    s.message(delta_message(0, 5, 7));
    assert_eq!(s.held(), Some(7));
}

#[test]
fn an_older_snapshot_is_refused_and_asked_for_elsewhere() {
    let mut s = Script::holding(2, 9);
    let first = s.connect.unwrap().1;
    s.message(snapshot_message(0, 8));
    assert_eq!((s.held(), s.connect), (Some(9), None));
    assert_eq!(s.session.counters().refused_older, 1);
    assert!(s.error().contains("older than 9"), "{}", s.error());
    let (_, endpoint, since) = s.next_connect();
    assert_eq!((endpoint, since), (1 - first, Some(9)));
}

#[test]
fn a_gap_is_never_bridged() {
    for (from, to) in [(4, 8), (6, 8), (4, 5), (6, 7)] {
        let mut s = Script::holding(2, 5);
        s.message(delta_message(0, from, to));
        assert_eq!((s.held(), s.connect), (Some(5), None), "{from} to {to}");
        assert_eq!(s.session.counters().gaps, 1);
        assert_eq!(s.next_connect().2, Some(5));
    }
}

#[test]
fn a_wrong_digest_changes_nothing_and_asks_for_everything() {
    for message in [delta_message(0, 5, 7), snapshot_message(0, 7)] {
        let mut s = Script::holding(2, 5);
        s.message(tampered(message));
        assert_eq!((s.held(), s.digest()), (Some(5), snapshot(0, 5).digest()));
        assert_eq!(s.session.counters().digest_failures, 1);
        assert_eq!(s.next_connect().2, None, "everything is asked for");
        s.open();
        s.message(hello_of("A", Intent::Full, 7));
        s.message(snapshot_message(0, 7));
        assert_eq!(s.held(), Some(7));
        s.fail();
        assert_eq!(s.next_connect().2, Some(7), "and only once");
    }
}

#[test]
fn even_when_everything_is_asked_for_nothing_older_is_taken() {
    let mut s = Script::holding(1, 5);
    s.message(StreamMessage::Delta {
        from: version(5),
        to: version(7),
        upserts: Vec::new(),
        removals: Vec::new(),
        digest: Digest::new(1),
    });
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::Full, 4));
    s.message(snapshot_message(0, 4));
    assert_eq!(s.held(), Some(5));
}

#[test]
fn after_a_reset_only_a_snapshot_counts() {
    let mut s = Script::holding(1, 5);
    s.pass(500);
    s.message(StreamMessage::Reset {
        reason: "purged".to_owned(),
    });
    s.message(heartbeat(8));
    assert_eq!(
        (s.held(), s.age()),
        (Some(5), 500),
        "a heartbeat proves nothing now"
    );
    s.message(snapshot_message(0, 8));
    assert_eq!(s.held(), Some(8));
    s.message(heartbeat(9));
    assert_eq!(s.held(), Some(9));
    s.message(StreamMessage::Reset {
        reason: "purged".to_owned(),
    });
    s.message(delta_message(0, 9, 10));
    assert_eq!((s.held(), s.connect), (Some(9), None));
}

#[test]
fn another_cluster_is_foreign_while_its_versions_are_not_higher() {
    let mut s = Script::holding(2, 5);
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("B", Intent::Full, 5));
    assert_eq!((s.held(), s.connect), (Some(5), None));
    assert_eq!(s.session.counters().foreign, 1);
    assert!(
        s.error().contains("cluster B") && s.error().contains("cluster A"),
        "{}",
        s.error()
    );
    assert_eq!(s.digest(), snapshot(0, 5).digest());
}

#[test]
fn a_rebuilt_cluster_is_taken_over_whole_and_never_given_back() {
    let mut s = Script::holding(2, 5);
    s.pass(2_900);
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("B", Intent::Full, 1_007));
    s.message(heartbeat(1_007));
    assert_eq!(
        s.held(),
        Some(5),
        "a heartbeat of another cluster means nothing"
    );
    assert!(s.age() >= 2_900, "and proves nothing");
    s.message_aged(snapshot_message(1, 1_007), 0, 9_000);
    assert_eq!(
        (s.held(), s.digest()),
        (Some(1_007), snapshot(1, 1_007).digest())
    );
    assert!(
        s.age() >= 9_000,
        "the proof about the old cluster is dropped: {}",
        s.age()
    );
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::Full, 900));
    assert_eq!((s.held(), s.connect), (Some(1_007), None));
}

#[test]
fn a_foreign_hello_that_promises_more_than_its_snapshot_holds_is_not_believed() {
    for at in [4, 5] {
        let mut s = Script::holding(1, 5);
        s.fail();
        s.next_connect();
        s.open();
        s.message(hello_of("B", Intent::Full, 9));
        s.message(snapshot_message(1, at));
        assert_eq!((s.held(), s.connect), (Some(5), None));
        assert_eq!(s.digest(), snapshot(0, 5).digest());
        assert_eq!(s.session.counters().foreign, 1);
    }
}

#[test]
fn a_delta_of_another_cluster_is_never_applied() {
    let mut s = Script::holding(1, 5);
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("B", Intent::Changes, 8));
    s.message(delta_message(1, 5, 8));
    assert_eq!((s.held(), s.digest()), (Some(5), snapshot(0, 5).digest()));
    assert_eq!(s.connect, None);
}

#[test]
fn what_comes_out_of_turn_ends_the_stream() {
    let hello = || hello_of("A", Intent::Full, 5);
    let elsewhere = |mut message| {
        if let StreamMessage::Hello { environment, .. } = &mut message {
            *environment = EnvironmentKey::try_from("staging").unwrap();
        }
        message
    };
    for messages in [
        vec![snapshot_message(0, 5)],
        vec![heartbeat(5)],
        vec![hello(), hello_of("B", Intent::Full, 5)],
        vec![elsewhere(hello())],
        vec![hello_of("A", Intent::None, 5)],
        vec![hello(), delta_message(0, 4, 5)],
    ] {
        let mut s = Script::new(1);
        s.open();
        messages.into_iter().for_each(|message| s.message(message));
        assert_eq!((s.held(), s.connect), (None, None));
        assert_eq!(s.session.counters().failures, 1);
    }
}

#[test]
fn a_silent_stream_is_left_after_three_heartbeats() {
    let mut s = Script::holding(2, 5);
    let first = s.connect.unwrap().1;
    s.pass(2_999);
    assert!(s.connect.is_some());
    s.pass(1);
    assert_eq!((s.connect, s.session.counters().silences), (None, 1));
    assert_eq!(s.next_connect().1, 1 - first);
    assert_eq!(s.held(), Some(5));
}

#[test]
fn bytes_break_the_silence_but_not_forever() {
    let mut s = Script::holding(1, 5);
    for second in 1..=60 {
        assert!(s.connect.is_some(), "{second}");
        let attempt = s.attempt();
        s.pass(999);
        s.tell(Event::Bytes { attempt });
        s.pass(1);
    }
    assert_eq!(s.connect, None);
    assert!(
        s.error().contains("a message took too long"),
        "{}",
        s.error()
    );
}

#[test]
fn a_node_that_promises_a_snapshot_and_sends_only_heartbeats_is_left() {
    let mut s = Script::new(1);
    s.open();
    s.message(hello_of("A", Intent::Full, 5));
    for second in 1..=60 {
        assert!(s.connect.is_some(), "{second}");
        s.pass(999);
        s.message(heartbeat(5));
        s.pass(1);
    }
    assert_eq!((s.connect, s.held()), (None, None));
    assert!(
        s.error().ends_with("too long to arrive [http://n0:7400]"),
        "{}",
        s.error()
    );
}

#[test]
fn every_step_of_connecting_has_a_deadline() {
    let mut s = Script::new(2);
    s.pass(3_000);
    assert!(
        s.error().contains("connecting took too long"),
        "{}",
        s.error()
    );
    s.next_connect();
    s.open();
    let attempt = s.attempt();
    s.pass(3_000);
    s.tell(Event::Bytes { attempt });
    s.pass(1_000);
    assert!(s.error().contains("too long to answer"), "{}", s.error());
    let mut s = Script::holding(2, 5);
    s.fail();
    s.next_connect();
    s.open();
    s.pass(9_999);
    assert!(s.error().starts_with("refused"), "{}", s.error());
    s.pass(1);
    assert!(s.error().contains("too long to answer"), "{}", s.error());
}

#[test]
fn pauses_grow_with_each_round_are_random_and_end_with_a_fresh_proof() {
    let mut s = Script::holding(2, 5);
    let mut pauses = Vec::new();
    for n in 0..40_u32 {
        s.fail();
        let (pause, ..) = s.next_connect();
        assert!(
            pause <= (100 << (n / 2).min(16)).min(10_000) + 1,
            "{n}: {pause}"
        );
        pauses.push(pause);
    }
    assert!(pauses[20..].iter().any(|p| *p > 5_000), "{pauses:?}");
    assert!(pauses[20..].iter().any(|p| *p < 5_000), "{pauses:?}");
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    s.fail();
    assert!(s.next_connect().0 <= 101);

    let (attempt, error) = (s.attempt(), failed_connection());
    s.tell(Event::Failed {
        attempt,
        error,
        retry_after: Some(ms(7_000)),
    });
    let pause = s.next_connect().0;
    assert!((7_000..=8_750).contains(&pause), "{pause}");
}

#[test]
fn a_late_burst_of_heartbeats_does_not_make_a_state_look_fresh() {
    let mut s = Script::holding(1, 5);
    // The process is stopped for 30 s; the heartbeats of that time come all at once.
    s.now += 30_000;
    for n in 1..=5 {
        s.message_aged(heartbeat(5), n * 1_000, 0);
        assert!(!s.is_fresh(), "heartbeat {n}");
    }
    assert_eq!(s.age(), 25_000);
    s.message_aged(heartbeat(5), 29_000, 500);
    assert!(s.is_fresh());
    assert_eq!(s.age(), 1_500);
    s.message_aged(heartbeat(5), 3_000, 0);
    assert_eq!(
        s.age(),
        1_500,
        "an older proof does not replace a newer one"
    );
}

#[test]
fn a_node_whose_clock_runs_ahead_cannot_make_a_state_fresh_in_the_future() {
    let mut s = Script::holding(1, 5);
    s.message_aged(heartbeat(5), 1 << 50, 0);
    assert_eq!(s.age(), 0);
    s.now += 700;
    assert_eq!(s.age(), 700);
}

#[test]
fn a_proof_about_a_later_version_than_is_held_is_not_kept() {
    let mut s = Script::holding(1, 5);
    s.pass(1_000);
    s.fail();
    s.next_connect();
    s.open();
    let age = s.age();
    // The node knows version 8; the delta to it is still on its way.
    s.message(hello_of("A", Intent::Changes, 8));
    assert_eq!(s.age(), age);
    s.message(delta_message(0, 5, 8));
    assert_eq!(s.age(), 0);
}

#[test]
fn the_stricter_bound_counts_and_turning_stale_is_noticed_in_time() {
    let mut s = Script::holding(1, 5);
    s.session.settings.staleness_max = Some(ms(400));
    s.fail();
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert_eq!(s.session.held().unwrap().bound(), ms(400));
    let stale = s.session.wake_at(ms(s.now)).unwrap();
    assert_eq!(stale, ms(s.now + 400) + Duration::from_nanos(1));
    s.now += 400;
    assert!(s.is_fresh());
    s.now += 1;
    assert!(!s.is_fresh());
    s.session.settings.staleness_max = Some(ms(20_000));
    s.message_aged(hello_of("A", Intent::None, 5), 0, 0);
    s.next_connect();
    s.open();
    s.message(hello_of("A", Intent::None, 5));
    assert_eq!(
        s.session.held().unwrap().bound(),
        ms(BOUND),
        "a looser bound has no effect"
    );
}

#[test]
fn a_node_that_stays_stale_is_left_only_when_there_is_another() {
    for endpoints in [1, 2] {
        let mut s = Script::holding(endpoints, 5);
        let mut left = false;
        for n in 1..=15 {
            s.pass(999);
            s.reopen(n * 1_000);
            s.message_aged(heartbeat(5), s.now - s.opened, n * 1_000);
            left |= s.error().contains("cannot prove");
        }
        assert_eq!(left, endpoints == 2, "{}", s.error());
        assert_eq!(s.session.counters().failures > 0, endpoints == 2);
    }
}

#[test]
fn a_stream_that_the_node_took_up_late_is_opened_anew() {
    for endpoints in [1, 2] {
        let mut s = Script::holding(endpoints, 5);
        s.fail();
        s.next_connect();
        s.open();
        // The node stood still before it read the request, so its stream began later than it could
        // for all that the client knows; every age of this stream is too great by that.
        s.now += 8_000;
        let (late, first) = (s.now, s.attempt());
        s.message_aged(hello_of("A", Intent::None, 5), 0, 0);
        while s.connect.is_some_and(|(attempt, ..)| attempt == first) {
            assert!(s.now < late + 10_000, "it is given up in time");
            s.message_aged(heartbeat(5), s.now - late, 0);
            s.pass(500);
        }
        s.reopen(0);
        assert!(s.age() < 1_000, "{}", s.age());
        let counters = s.session.counters();
        assert_eq!((counters.renewals, counters.failures), (1, 1));
    }
}

#[test]
fn a_stream_is_opened_anew_before_two_clocks_can_drift_apart() {
    let mut s = Script::holding(2, 5);
    let (first, endpoint, _) = s.connect.unwrap();
    let start = s.now;
    while s.connect.is_some_and(|(attempt, ..)| attempt == first) {
        s.pass(1_000);
        if s.connect.is_some_and(|(attempt, ..)| attempt == first) {
            s.message(heartbeat(5));
        }
        assert!(s.now - start <= 15 * 60_000);
    }
    assert_eq!(
        s.connect.map(|(_, e, since)| (e, since)),
        Some((endpoint, Some(5)))
    );
    assert_eq!(
        (s.session.counters().renewals, s.session.counters().failures),
        (1, 0)
    );
}

#[test]
fn news_of_a_connection_that_was_given_up_change_nothing() {
    let mut s = Script::holding(2, 5);
    let old = s.attempt();
    s.fail();
    s.next_connect();
    let late = |message| Event::Message {
        attempt: old,
        ages: Ages::default(),
        message,
    };
    for event in [
        late(delta_message(0, 5, 7)),
        late(StreamMessage::Goodbye { retry_ms: 9 }),
        Event::Requested { attempt: old },
        Event::Bytes { attempt: old },
        Event::Failed {
            attempt: old,
            error: failed_connection(),
            retry_after: None,
        },
    ] {
        assert_eq!(s.tell(event), Vec::new());
        assert_eq!(s.held(), Some(5));
    }
    s.open();
    assert_eq!(s.tell(late(delta_message(0, 5, 7))), Vec::new());
    assert_eq!(s.held(), Some(5));
}
