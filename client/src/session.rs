//! What the client does about everything that happens to its streams. Pure: no clock, no IO.
//!
//! What must hold, whatever is told in whatever order:
//! - the held state never goes back (I6): an older snapshot, a delta with another base or a
//!   digest that does not add up changes nothing and makes the session ask again;
//! - what is held always comes from one cluster; another cluster's state is taken only whole and
//!   only when its versions are higher, which is how a cluster rebuilt from a backup looks (D1);
//! - a proof of freshness is kept only if the held state includes the state it is about (I5);
//! - an event of a connection that was given up changes nothing;
//! - something always comes next: in every phase but the first there is a time to wake up at.
//!
//! ```text
//!  Idle ──start──► Dialing ──requested──► Streaming ──hello──► snapshot, delta, heartbeat …
//!                     ▲ │                     │
//!              tick   │ └─ failed, too late ──┤ failed, silent, wrong, foreign, goodbye
//!                  Waiting ◄──────────────────┘ (next endpoint, jittered pause)
//! ```
//!
//! Its parts: what messages do (`messages.rs`), deadlines and proofs of one stream (`stream.rs`), which
//! endpoint comes next (`endpoints.rs`), when to poll instead (`polls.rs`), when a receipt (`receipts.rs`) or a write to the disk cache
//! (`saves.rs`) is due. Left out: connections (`transport.rs`), who reads the state (`flags.rs`).

mod endpoints;
mod messages;
mod polls;
mod receipts;
mod saves;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::wire::{Ages, Intent, StreamMessage};
use pennon_evaluator::{EnvironmentKey, Freshness, Version};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::endpoints::Endpoints;
use self::messages::Trouble;
pub(crate) use self::polls::Meta;
pub use self::polls::Polling;
use self::polls::Polls;
pub(crate) use self::receipts::ReceiptId;
use self::receipts::Receipts;
use self::saves::Saves;
use self::stream::{Hello, Late, Stream};
use crate::broken::Broken;
use crate::cache::Restored;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::held::Held;
use crate::status::Counters;

/// The longest time to open a connection.
const DIAL_TIME_MAX: Duration = Duration::from_secs(3);
/// The longest pause that a node can ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest pause before another endpoint is tried that may be tried at once.
const MOVE_TIME_MAX: Duration = Duration::from_millis(100);

/// Names one connection, so that late news of an earlier one are known for what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt(u64);

/// What the session is told. Instants are those of the client's clock.
#[derive(Debug)]
pub(crate) enum Event {
    /// A state was found elsewhere than at a node. Only before the start.
    Restored(Restored),
    /// The disk cache may be written.
    Caching,
    /// Begin.
    Start,
    /// Time has passed.
    Tick,
    /// A connection is open and the request is about to be written, not a moment later.
    Requested { attempt: Attempt },
    /// Bytes of an unfinished message came in.
    Bytes { attempt: Attempt },
    /// A message is complete.
    Message {
        attempt: Attempt,
        ages: Ages,
        message: StreamMessage,
    },
    /// A poll was answered.
    Polled { attempt: Attempt, polled: Polled },
    /// The connection could not be opened, was refused, ended or brought nonsense.
    Failed {
        attempt: Attempt,
        error: Error,
        retry_after: Option<Duration>,
    },
    /// A receipt arrived, or did not.
    Receipt {
        receipt: ReceiptId,
        outcome: Result<(), Error>,
    },
    /// A receipt was sent by the stream; whether it arrives is not told.
    ReceiptSent { receipt: ReceiptId },
    /// Writing the state down ended.
    Saved { done: bool },
}

/// The answer to a poll.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) meta: Meta,
    /// How old the node's own proof was when it answered, at most.
    pub(crate) fresh_age_ms: u64,
    /// A snapshot, a delta or a heartbeat.
    pub(crate) message: StreamMessage,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Close the connection.
    Disconnect,
    /// Open one.
    Connect {
        attempt: Attempt,
        endpoint: usize,
        since: Option<Version>,
        cluster_id: Option<Arc<str>>,
    },
    /// Open a connection and ask once.
    Poll {
        attempt: Attempt,
        endpoint: usize,
        since: Option<Version>,
        cluster_id: Option<Arc<str>>,
    },
    /// Let evaluations read what [`Session::held`] returns now.
    Publish,
    /// Tell the node of the stream that this version is applied. One at a time: an earlier one that
    /// is still on its way is given up.
    Acknowledge {
        receipt: ReceiptId,
        endpoint: usize,
        version: Version,
    },
    /// Write what is held to the disk cache. One at a time.
    Save,
}

/// What does not change while a session lives.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) environment: EnvironmentKey,
    /// At least one.
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) staleness_max: Option<Duration>,
    pub(crate) polling: Polling,
    /// What it breaks on purpose.
    pub(crate) broken: Option<Broken>,
    pub(crate) seed: u64,
}

/// Where a session is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a client has one of them")]
enum Phase {
    Idle,
    Waiting {
        until: Duration,
    },
    Dialing {
        attempt: Attempt,
        until: Duration,
        since: Option<Version>,
        poll: bool,
    },
    Streaming(Stream),
}

/// The state machine of one client.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    rng: StdRng,
    phase: Phase,
    held: Option<Arc<Held>>,
    endpoints: Endpoints,
    attempts: u64,
    /// Whether to ask for a snapshot although a state is held.
    full_wanted: bool,
    receipts: Receipts,
    saves: Saves,
    polls: Polls,
    connected_since: Option<Duration>,
    /// The newest version that a node was told.
    acknowledged: Option<Version>,
    last_error: Option<Error>,
    counters: Counters,
}

impl Session {
    pub(crate) fn new(settings: Settings) -> Session {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let endpoints = Endpoints::new(settings.endpoints.len(), &mut rng);
        Session {
            polls: Polls::new(settings.polling),
            settings,
            rng,
            phase: Phase::Idle,
            held: None,
            endpoints,
            attempts: 0,
            full_wanted: false,
            receipts: Receipts::default(),
            saves: Saves::default(),
            connected_since: None,
            acknowledged: None,
            last_error: None,
            counters: Counters::default(),
        }
    }

    /// Returns what evaluations may read.
    pub(crate) fn held(&self) -> Option<&Arc<Held>> {
        self.held.as_ref()
    }

    /// Returns the endpoint that is, or will be, talked to.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoints.current()
    }

    /// Returns since when the stream brings messages, if it does.
    pub(crate) fn connected_since(&self) -> Option<Duration> {
        self.connected_since
    }

    /// Returns the newest version that a node was told.
    pub(crate) fn acknowledged(&self) -> Option<Version> {
        self.acknowledged
    }

    /// Whether polls stand in for a stream.
    pub(crate) fn is_polling(&self) -> bool {
        self.polls.are_on()
    }

    /// Returns what went wrong last.
    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Returns what has happened so far.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns when to tick at the latest.
    pub(crate) fn wake_at(&self, now: Duration) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Idle => None,
            Phase::Waiting { until } | Phase::Dialing { until, .. } => Some(*until),
            Phase::Streaming(stream) => Some(stream.deadline(self.endpoints.other_at()).0),
        };
        // Turning stale is news for those who watch the status.
        let stale = self.held.as_ref().and_then(|held| {
            let (age, freshness) = held.freshness(now);
            let left = held.bound().saturating_sub(age) + Duration::from_nanos(1);
            (freshness == Freshness::Fresh).then(|| now.saturating_add(left))
        });
        let receipt = self.applied().and_then(|have| self.receipts.wake_at(have));
        let save = self.saves.wake_at();
        let times = phase.into_iter().chain(stale).chain(receipt).chain(save);
        times.min()
    }

    /// Takes an event at an instant and answers with what is to be done.
    pub(crate) fn on_event(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = self.on_stream_event(event, now);
        effects.extend(self.acknowledge(now)); // Behind `Publish`.
        if self.held.is_some() && self.saves.next(now) {
            effects.push(Effect::Save);
        }
        effects
    }

    fn on_stream_event(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        match event {
            Event::Restored(restored) => self.on_restored(restored),
            Event::Caching => {
                self.saves.on = true;
                Vec::new()
            }
            Event::Start => match self.phase {
                Phase::Idle => vec![self.connect(now)],
                _ => Vec::new(),
            },
            Event::Tick => self.on_tick(now),
            Event::Requested { attempt } => {
                self.on_requested(attempt, now);
                Vec::new()
            }
            Event::Bytes { attempt } => {
                if let Some(stream) = self.stream(attempt) {
                    stream.heard = now;
                }
                Vec::new()
            }
            Event::Message {
                attempt,
                ages,
                message,
            } => self.on_message(attempt, ages, message, now),
            Event::Polled { attempt, polled } => self.on_polled(attempt, polled, now),
            Event::Failed {
                attempt,
                error,
                retry_after,
            } => self.on_failed(attempt, error, retry_after, now),
            Event::Receipt { receipt, outcome } => {
                self.on_receipt(receipt, outcome);
                Vec::new()
            }
            Event::ReceiptSent { receipt } => {
                self.receipts.sent_by_stream();
                self.on_receipt(receipt, Ok(()));
                Vec::new()
            }
            Event::Saved { done } => {
                self.saves.saved(done);
                Vec::new()
            }
        }
    }

    /// Holds what was found, if it is newer than what is held; whatever comes later has to be newer
    /// still (I6).
    fn on_restored(&mut self, restored: Restored) -> Vec<Effect> {
        let have = self.held.as_ref().map(|held| held.snapshot.version());
        let newer = have.is_none_or(|have| restored.snapshot.version() > have);
        if !newer || !matches!(self.phase, Phase::Idle) {
            return Vec::new();
        }
        let held = Held::restored(restored, self.settings.staleness_max);
        self.held = Some(Arc::new(held));
        vec![Effect::Publish]
    }

    fn on_receipt(&mut self, receipt: ReceiptId, outcome: Result<(), Error>) {
        let arrived = outcome.is_ok();
        let Some(version) = self.receipts.landed(receipt, arrived) else {
            return;
        };
        self.counters.receipts += u64::from(arrived);
        self.counters.receipt_failures += u64::from(!arrived);
        if arrived {
            self.acknowledged = self.acknowledged.max(Some(version));
        }
    }

    /// The version that the node of the stream, or the one that answered the last poll, may be told.
    fn applied(&self) -> Option<Version> {
        let held = self.held.as_ref()?;
        let ours = match &self.phase {
            Phase::Streaming(Stream {
                hello: Some(hello), ..
            }) => held.cluster_id.as_ref() == Some(&hello.cluster_id),
            Phase::Waiting { .. } => self.receipts.are_open(),
            _ => false,
        };
        ours.then(|| held.snapshot.version())
    }

    fn acknowledge(&mut self, now: Duration) -> Option<Effect> {
        let have = self.applied()?;
        if self.receipts.expire(now) {
            self.counters.receipt_failures += 1;
        }
        let (receipt, version) = self.receipts.next(have, now)?;
        Some(Effect::Acknowledge {
            receipt,
            endpoint: self.endpoint(),
            version,
        })
    }

    fn on_tick(&mut self, now: Duration) -> Vec<Effect> {
        match &self.phase {
            Phase::Waiting { until } if now >= *until => vec![self.connect(now)],
            Phase::Dialing { until, .. } if now >= *until => {
                let error = Error::timed_out("connecting took too long");
                self.leave(error, None, now)
            }
            Phase::Streaming(stream) => match stream.deadline(self.endpoints.other_at()) {
                (until, _) if now < until => Vec::new(),
                (_, Late::Renew) => {
                    self.counters.renewals += 1;
                    vec![Effect::Disconnect, self.connect(now)]
                }
                (_, late) => {
                    self.counters.silences += u64::from(late == Late::Silent);
                    self.leave(late.error(), None, now)
                }
            },
            _ => Vec::new(),
        }
    }

    fn on_requested(&mut self, requested: Attempt, now: Duration) {
        let (since, poll) = match &self.phase {
            Phase::Dialing {
                attempt,
                since,
                poll,
                ..
            } if *attempt == requested => (*since, *poll),
            _ => return,
        };
        if poll {
            let mut stream = Stream::poll(requested, since, now);
            if self.held.is_none() && self.settings.polling == Polling::Auto {
                stream.hurry(Duration::ZERO);
            }
            self.phase = Phase::Streaming(stream);
            return;
        }
        let part = self.rng.random_range(0.75..1.0);
        let mut stream = Stream::new(requested, since, now, part);
        if self.held.is_none() || self.polls.are_on() {
            let bound = self.held.as_ref().map(|held| held.bound());
            stream.hurry(bound.unwrap_or_default());
        }
        self.phase = Phase::Streaming(stream);
    }

    fn on_failed(
        &mut self,
        failed: Attempt,
        error: Error,
        retry_after: Option<Duration>,
        now: Duration,
    ) -> Vec<Effect> {
        let current = match &self.phase {
            Phase::Dialing { attempt, .. } => Some(*attempt),
            Phase::Streaming(stream) => Some(stream.attempt),
            Phase::Idle | Phase::Waiting { .. } => None,
        };
        match current == Some(failed) {
            true => self.leave(error, retry_after, now),
            false => Vec::new(),
        }
    }

    fn on_message(
        &mut self,
        attempt: Attempt,
        ages: Ages,
        message: StreamMessage,
        now: Duration,
    ) -> Vec<Effect> {
        let Some(stream) = self.stream(attempt) else {
            return Vec::new();
        };
        stream.note(ages, now);
        let proof = stream.proof(ages, now);
        self.counters.messages += 1;
        self.polls.stream_came();
        if let StreamMessage::Goodbye { retry_ms } = message {
            self.counters.goodbyes += 1;
            return self.part(Duration::from_millis(retry_ms), now);
        }
        match self.take(message, proof, now) {
            Ok(true) => vec![Effect::Publish],
            Ok(false) => Vec::new(),
            Err(trouble) => self.give_up(trouble, now),
        }
    }

    fn give_up(&mut self, trouble: Trouble, now: Duration) -> Vec<Effect> {
        let (error, full) = match trouble {
            Trouble::Leave(error) => (error, false),
            Trouble::Full(error) => (error, true),
        };
        self.full_wanted |= full;
        self.leave(error, None, now)
    }

    /// Takes the answer to a poll as a stream that says hello, sends one message and ends.
    fn on_polled(&mut self, attempt: Attempt, polled: Polled, now: Duration) -> Vec<Effect> {
        let Some(stream) = self.stream(attempt).filter(|stream| stream.poll) else {
            return Vec::new();
        };
        // I5: the node answered after the request was written, and its proof was that old then.
        let ages = Ages {
            open_ms: 0,
            fresh_age_ms: polled.fresh_age_ms,
        };
        let proof = stream.proof(ages, now);
        let Polled { meta, message, .. } = polled;
        let (intent, version) = match &message {
            StreamMessage::Snapshot { version, .. } => (Intent::Full, *version),
            StreamMessage::Delta { to, .. } => (Intent::Changes, *to),
            StreamMessage::Heartbeat { version } => (Intent::None, *version),
            _ => return Vec::new(),
        };
        let heartbeat_ms = polls::heartbeat_ms(meta.bound_ms);
        let hello = StreamMessage::Hello {
            cluster_id: meta.cluster_id.to_string(),
            environment: self.settings.environment.clone(),
            intent,
            version,
            staleness_bound_ms: meta.bound_ms,
            heartbeat_ms,
        };
        let mut changed = false;
        for message in [hello, message] {
            match self.take(message, proof, now) {
                Ok(news) => changed |= news,
                Err(trouble) => return self.give_up(trouble, now),
            }
        }
        self.counters.polls += 1;
        let bound = self.held.as_ref().map(|held| held.bound());
        self.polls.poll_came(&mut self.rng, now);
        let pause = Polls::interval(bound.unwrap_or_default(), &mut self.rng);
        let cluster_id = self.held.as_ref().and_then(|held| held.cluster_id.as_ref());
        let is_of_it = cluster_id == Some(&meta.cluster_id);
        if !is_of_it {
            self.receipts.close();
        }
        // The connection is gone with the answer. A receipt on its way goes on, and until the next
        // failure the node that answered may be told.
        self.connected_since = None;
        let until = now.saturating_add(pause);
        self.phase = Phase::Waiting { until };
        match changed {
            true => vec![Effect::Publish],
            false => Vec::new(),
        }
    }

    /// Notes that a request failed, if that says something about streams; says whether the same
    /// endpoint is to be polled.
    fn is_blocked(&mut self, error: &Error, now: Duration) -> bool {
        let waiting = self.held.is_none() && error.is_timeout();
        let polling = self.polls.are_on();
        match &self.phase {
            Phase::Streaming(stream) if stream.poll => {
                self.polls.poll_failed();
                false
            }
            // Whoever refused it got it through.
            Phase::Streaming(Stream { hello: None, .. }) if error.status().is_none() => {
                self.polls.stream_blocked(waiting, now)
            }
            // What kept the state fresh was polls, whatever it is that keeps streams away.
            Phase::Dialing { poll: false, .. } | Phase::Streaming(Stream { hello: None, .. })
                if polling =>
            {
                self.polls.stream_blocked(false, now)
            }
            _ => false,
        }
    }

    fn stream(&mut self, attempt: Attempt) -> Option<&mut Stream> {
        match &mut self.phase {
            Phase::Streaming(stream) if stream.attempt == attempt => Some(stream),
            _ => None,
        }
    }

    fn hello(&mut self) -> Option<&mut Hello> {
        stream_hello(&mut self.phase)
    }

    /// Opens a connection to the endpoint whose turn it is.
    fn connect(&mut self, now: Duration) -> Effect {
        self.attempts += 1;
        self.counters.connects += 1;
        self.connected_since = None;
        let attempt = Attempt(self.attempts);
        let until = now.saturating_add(DIAL_TIME_MAX);
        let held = self.held.as_ref();
        let since = held.map(|held| held.snapshot.version());
        let since = since.filter(|_| !self.full_wanted && self.is_known()); // I6
        let since = since.filter(|_| !Broken::NewerOnly.is(self.settings.broken));
        let cluster_id = held.and_then(|held| held.cluster_id.clone());
        let (poll, endpoint) = (self.polls.is_next(now), self.endpoint());
        if !poll {
            self.receipts.close();
        }
        self.phase = Phase::Dialing {
            attempt,
            until,
            since,
            poll,
        };
        match poll {
            true => Effect::Poll {
                attempt,
                endpoint,
                since,
                cluster_id,
            },
            false => Effect::Connect {
                attempt,
                endpoint,
                since,
                cluster_id,
            },
        }
    }

    /// Gives a connection up after a failure.
    fn leave(&mut self, error: Error, retry_after: Option<Duration>, now: Duration) -> Vec<Effect> {
        self.counters.failures += 1;
        let poll = self.is_blocked(&error, now);
        self.last_error = Some(match self.settings.endpoints.get(self.endpoint()) {
            Some(endpoint) => error.at(endpoint),
            None => error,
        });
        if poll {
            // The same endpoint, at once: whether it answers a plain request tells what is wrong.
            return self.close(now);
        }
        let asked = retry_after.unwrap_or_default().min(RETRY_MAX);
        self.endpoints.failed(asked, &mut self.rng, now);
        self.turn(MOVE_TIME_MAX, now)
    }

    /// Goes because the node is going, as all of its clients do now: spread over the time it names, as
    /// far as the state stays fresh meanwhile.
    fn part(&mut self, retry: Duration, now: Duration) -> Vec<Effect> {
        let retry = retry.min(RETRY_MAX);
        self.endpoints.away(retry, &mut self.rng, now);
        let bound = self.held.as_ref().map(|held| held.bound() / 4);
        self.turn(bound.map_or(retry, |bound| bound.min(retry)), now)
    }

    /// Closes the connection and turns to the next endpoint, after a pause of up to this time.
    fn turn(&mut self, spread: Duration, now: Duration) -> Vec<Effect> {
        let earliest = self.endpoints.turn(&mut self.rng, now);
        let pause = spread.mul_f64(self.rng.random());
        self.close(earliest.max(now.saturating_add(pause)))
    }

    /// Closes the connection until it is time for the next one.
    fn close(&mut self, until: Duration) -> Vec<Effect> {
        self.connected_since = None;
        self.receipts.close();
        self.phase = Phase::Waiting { until };
        vec![Effect::Disconnect]
    }
}

fn stream_hello(phase: &mut Phase) -> Option<&mut Hello> {
    match phase {
        Phase::Streaming(stream) => stream.hello.as_mut(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
