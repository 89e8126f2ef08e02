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
//! Left out: deadlines and proofs of one stream (`stream.rs`), when a receipt is due (`receipts.rs`),
//! connections (`transport.rs`), who reads the held state (`flags.rs`).

mod receipts;
mod saves;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::wire::{Ages, Intent, StreamMessage};
use pennon_evaluator::{
    AgeBound, DeltaRefused, EnvironmentKey, Freshness, Snapshot, Version, judge,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use self::receipts::ReceiptId;
use self::receipts::Receipts;
use self::saves::Saves;
use self::stream::{Hello, Late, Stream};
use crate::cache::Restored;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::held::{Held, Source};
use crate::status::Counters;

/// The longest time to open a connection.
const DIAL_TIME_MAX: Duration = Duration::from_secs(3);
/// The longest pause that a node can ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The pause after a failure is random, up to this at first, doubled with each round of failures.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

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
    /// Writing the state down ended.
    Saved { done: bool },
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
    pub(crate) seed: u64,
}

/// Where a session is.
#[derive(Debug)]
enum Phase {
    Idle,
    Waiting {
        until: Duration,
    },
    Dialing {
        attempt: Attempt,
        until: Duration,
        since: Option<Version>,
    },
    Streaming(Stream),
}

/// Why a connection is given up.
enum Trouble {
    /// Go to another endpoint.
    Leave(Error),
    /// The same, and ask for everything: what is held or what came does not add up.
    Full(Error),
}

/// The state machine of one client.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    rng: StdRng,
    phase: Phase,
    held: Option<Arc<Held>>,
    /// The endpoint that is, or will be, talked to.
    endpoint: usize,
    attempts: u64,
    /// Failures since a message last proved a state within the bound.
    failures: u32,
    /// Whether to ask for a snapshot although a state is held.
    full_wanted: bool,
    receipts: Receipts,
    saves: Saves,
    connected_since: Option<Duration>,
    /// The newest version that a node was told.
    acknowledged: Option<Version>,
    last_error: Option<Error>,
    counters: Counters,
}

impl Session {
    pub(crate) fn new(settings: Settings) -> Session {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let endpoint = match settings.endpoints.len() {
            0 | 1 => 0,
            n => rng.random_range(0..n),
        };
        Session {
            settings,
            rng,
            phase: Phase::Idle,
            held: None,
            endpoint,
            attempts: 0,
            failures: 0,
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
        self.endpoint
    }

    /// Returns since when the stream brings messages, if it does.
    pub(crate) fn connected_since(&self) -> Option<Duration> {
        self.connected_since
    }

    /// Returns the newest version that a node was told.
    pub(crate) fn acknowledged(&self) -> Option<Version> {
        self.acknowledged
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
            Phase::Streaming(stream) => Some(stream.deadline(self.settings.endpoints.len()).0),
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
            Event::Failed {
                attempt,
                error,
                retry_after,
            } => self.on_failed(attempt, error, retry_after, now),
            Event::Receipt { receipt, outcome } => {
                self.on_receipt(receipt, outcome);
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

    /// The version that the node of the stream may be told, if there is a stream.
    fn applied(&self) -> Option<Version> {
        let Phase::Streaming(Stream {
            hello: Some(hello), ..
        }) = &self.phase
        else {
            return None;
        };
        let held = self.held.as_ref()?;
        (held.cluster_id.as_ref() == Some(&hello.cluster_id)).then(|| held.snapshot.version())
    }

    fn acknowledge(&mut self, now: Duration) -> Option<Effect> {
        let have = self.applied()?;
        if self.receipts.expire(now) {
            self.counters.receipt_failures += 1;
        }
        let (receipt, version) = self.receipts.next(have, now)?;
        Some(Effect::Acknowledge {
            receipt,
            endpoint: self.endpoint,
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
            Phase::Streaming(stream) => match stream.deadline(self.settings.endpoints.len()) {
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
        let since = match &self.phase {
            Phase::Dialing { attempt, since, .. } if *attempt == requested => *since,
            _ => return,
        };
        let part = self.rng.random_range(0.75..1.0);
        self.phase = Phase::Streaming(Stream::new(requested, since, now, part));
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
        (stream.heard, stream.message) = (now, now);
        let proof = stream.proof(ages, now);
        self.counters.messages += 1;
        if let StreamMessage::Goodbye { retry_ms } = message {
            self.counters.goodbyes += 1;
            let retry = Duration::from_millis(retry_ms).min(RETRY_MAX);
            return self.pause(retry, now);
        }
        match self.take(message, proof, now) {
            Ok(true) => vec![Effect::Publish],
            Ok(false) => Vec::new(),
            Err(Trouble::Leave(error)) => self.leave(error, None, now),
            Err(Trouble::Full(error)) => {
                self.full_wanted = true;
                self.leave(error, None, now)
            }
        }
    }

    /// Takes a message of the current stream and says whether what is held has changed.
    fn take(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let greeted = matches!(&self.phase, Phase::Streaming(Stream { hello: Some(_), .. }));
        match (message, greeted) {
            (message @ StreamMessage::Hello { .. }, false) => self.on_hello(message, proof, now),
            (message @ StreamMessage::Snapshot { .. }, true) => {
                self.on_snapshot(message, proof, now)
            }
            (message @ StreamMessage::Delta { .. }, true) => self.on_delta(message, proof, now),
            (StreamMessage::Heartbeat { version }, true) => self.on_heartbeat(version, proof, now),
            (StreamMessage::Reset { .. }, true) => {
                self.counters.resets += 1;
                if let Some(hello) = self.hello() {
                    hello.full = hello.full.or(Some(now));
                }
                Ok(false)
            }
            (StreamMessage::Acknowledge { version }, true) => {
                self.receipts.ask(version);
                Ok(false)
            }
            (message, _) => Err(Trouble::Leave(Error::protocol(format!(
                "the node sent a {} out of turn",
                message.name()
            )))),
        }
    }

    fn on_hello(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let StreamMessage::Hello {
            cluster_id,
            environment,
            intent,
            version,
            staleness_bound_ms,
            heartbeat_ms,
        } = message
        else {
            return Ok(false);
        };
        if environment != self.settings.environment {
            return Err(Trouble::Leave(Error::protocol(format!(
                "the node streams environment {environment}, not {}",
                self.settings.environment
            ))));
        }
        let foreign = self.is_foreign(&cluster_id);
        let have = self.held.as_ref().map(|held| held.snapshot.version());
        if foreign && have.is_some_and(|have| version <= have) {
            return Err(self.foreign(&cluster_id, version)); // I6
        }
        let asked = matches!(&self.phase, Phase::Streaming(Stream { since: Some(_), .. }) if have.is_some());
        if !asked && intent != Intent::Full {
            let why = "the node says that nothing is missing, but there is no state to go on from";
            return Err(Trouble::Leave(Error::protocol(why)));
        }
        // What is held may be of another cluster: a proof about this one says nothing of it (I5).
        let foreign = foreign || !self.is_known();
        let full = foreign || intent == Intent::Full;
        let times = (staleness_bound_ms, heartbeat_ms);
        let hello = Hello::new(&cluster_id, times, full, now);
        let bound = hello.bound;
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.hello = Some(hello);
        }
        self.connected_since = Some(now);
        self.receipts.open(heartbeat_ms);
        if foreign {
            return Ok(false);
        }
        let changed = match &mut self.held {
            Some(held) => {
                let before = held.bound();
                Arc::make_mut(held).set_bound(bound, self.settings.staleness_max);
                held.bound() != before
            }
            None => false,
        };
        Ok(self.prove(version, proof, now) || changed)
    }

    fn on_snapshot(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let Some((cluster_id, bound)) = self.hello().map(|h| (h.cluster_id.clone(), h.bound))
        else {
            return Ok(false);
        };
        self.counters.snapshots += 1;
        let version = match &message {
            StreamMessage::Snapshot { version, .. } => *version,
            _ => Version::ZERO,
        };
        let foreign = self.is_foreign(&cluster_id);
        if let Some(held) = &self.held {
            let have = held.snapshot.version();
            if foreign && version <= have {
                return Err(self.foreign(&cluster_id, version)); // I6
            }
            if version < have {
                self.counters.refused_older += 1;
                let why = format!("the node offers version {version}, older than {have}");
                return Err(Trouble::Leave(Error::protocol(why))); // I6
            }
        }
        let snapshot = match load(message, &self.settings.environment) {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.counters.digest_failures += 1;
                return Err(Trouble::Full(error)); // I4
            }
        };
        self.counters.clusters += u64::from(foreign);
        let proof = match &self.held {
            // I5: a proof about another cluster says nothing about this state.
            Some(held) if !foreign => held.proof().fresher(proof),
            _ => proof,
        };
        let max = self.settings.staleness_max;
        self.held = Some(Arc::new(Held::new(snapshot, cluster_id, proof, bound, max)));
        self.full_wanted = false;
        self.saves.changed();
        if let Some(hello) = self.hello() {
            hello.full = None;
        }
        self.receipts.changed();
        self.note_fresh(proof, now);
        Ok(true)
    }

    fn on_delta(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let full = self.hello().is_none_or(|hello| hello.full.is_some());
        let (Some(held), false) = (&mut self.held, full) else {
            let why = "the node sent a delta where only a snapshot can follow";
            return Err(Trouble::Leave(Error::protocol(why)));
        };
        self.counters.deltas += 1;
        let wrong =
            |error: &dyn std::fmt::Display| Error::protocol(format!("a delta is wrong: {error}"));
        let delta = message.into_delta(&self.settings.environment);
        let delta = match delta {
            Ok(Some(delta)) => delta,
            Ok(None) => return Ok(false),
            Err(error) => return Err(Trouble::Full(wrong(&error))),
        };
        match held.snapshot.apply(&delta) {
            Ok(snapshot) => {
                let held = Arc::make_mut(held);
                (held.snapshot, held.source) = (snapshot, Source::Node);
            }
            // I8: there is a gap. What is held is good; ask again from there.
            Err(error @ (DeltaRefused::WrongBase { .. } | DeltaRefused::NotNewer { .. })) => {
                self.counters.gaps += 1;
                return Err(Trouble::Leave(wrong(&error)));
            }
            Err(error) => {
                self.counters.digest_failures += 1;
                return Err(Trouble::Full(wrong(&error))); // I4
            }
        }
        self.receipts.changed();
        self.saves.changed();
        self.prove(delta.to, proof, now);
        Ok(true)
    }

    fn on_heartbeat(
        &mut self,
        version: Version,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        self.counters.heartbeats += 1;
        let full = self.hello().is_none_or(|hello| hello.full.is_some());
        let (Some(held), false) = (&mut self.held, full) else {
            return Ok(false);
        };
        // I8: the stream is gapless, so nothing changed here up to this version.
        let mut changed = false;
        if version > held.snapshot.version() {
            let held = Arc::make_mut(held);
            held.snapshot = held.snapshot.with_version(version).map_err(|error| {
                Trouble::Leave(Error::protocol(format!("a heartbeat is wrong: {error}")))
            })?;
            changed = true;
        }
        Ok(self.prove(version, proof, now) || changed)
    }

    /// Keeps a proof about a version of the held cluster, if what is held includes that version.
    fn prove(&mut self, version: Version, proof: AgeBound, now: Duration) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        if version > held.snapshot.version() {
            return false; // I5
        }
        let fresher = held.proof().fresher(proof);
        let changed = fresher != held.proof();
        if changed {
            Arc::make_mut(held).set_proof(fresher);
        }
        self.note_fresh(proof, now);
        changed
    }

    /// Remembers that this stream is worth having, if the proof it just brought says so.
    fn note_fresh(&mut self, proof: AgeBound, now: Duration) {
        let Some(hello) = stream_hello(&mut self.phase) else {
            return;
        };
        if judge(proof.age_max(now), hello.bound) == Freshness::Fresh {
            hello.fresh = now;
            self.failures = 0;
        }
    }

    fn foreign(&mut self, cluster_id: &str, version: Version) -> Trouble {
        self.counters.foreign += 1;
        let (ours, have) = match &self.held {
            Some(held) => (
                held.cluster_id.as_deref().unwrap_or("unknown"),
                held.snapshot.version(),
            ),
            None => ("none", Version::ZERO),
        };
        Trouble::Leave(Error::protocol(format!(
            "the node belongs to cluster {cluster_id} at version {version}; the state held is of \
             cluster {ours} at version {have}, and versions never go back"
        )))
    }

    fn is_foreign(&self, cluster_id: &str) -> bool {
        let held = self.held.as_ref().and_then(|held| held.cluster_id.as_ref());
        held.is_some_and(|held| **held != *cluster_id)
    }

    /// Whether it is known which cluster the state held is of; so it is while nothing is held.
    fn is_known(&self) -> bool {
        let held = self.held.as_ref();
        held.is_none_or(|held| held.cluster_id.is_some())
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
        self.receipts.close();
        let attempt = Attempt(self.attempts);
        let until = now.saturating_add(DIAL_TIME_MAX);
        let held = self.held.as_ref();
        let since = held.map(|held| held.snapshot.version());
        let since = since.filter(|_| !self.full_wanted && self.is_known());
        self.phase = Phase::Dialing {
            attempt,
            until,
            since,
        };
        Effect::Connect {
            attempt,
            endpoint: self.endpoint,
            since,
            cluster_id: held.and_then(|held| held.cluster_id.clone()),
        }
    }

    /// Gives a connection up after a failure.
    fn leave(&mut self, error: Error, retry_after: Option<Duration>, now: Duration) -> Vec<Effect> {
        self.counters.failures += 1;
        self.last_error = Some(match self.settings.endpoints.get(self.endpoint) {
            Some(endpoint) => error.at(endpoint),
            None => error,
        });
        let rounds =
            self.failures / u32::try_from(self.settings.endpoints.len().max(1)).unwrap_or(1);
        self.failures = self.failures.saturating_add(1);
        let longest = BACKOFF_FIRST
            .saturating_mul(1 << rounds.min(16))
            .min(BACKOFF_MAX);
        let part: f64 = self.rng.random();
        let asked = retry_after.unwrap_or_default().min(RETRY_MAX);
        self.pause(longest.mul_f64(part).max(asked), now)
    }

    /// Gives a connection up and turns to the next endpoint after a pause.
    fn pause(&mut self, pause: Duration, now: Duration) -> Vec<Effect> {
        self.endpoint = (self.endpoint + 1) % self.settings.endpoints.len().max(1);
        self.connected_since = None;
        self.receipts.close();
        self.phase = Phase::Waiting {
            until: now.saturating_add(pause),
        };
        vec![Effect::Disconnect]
    }
}

fn load(message: StreamMessage, environment: &EnvironmentKey) -> Result<Option<Snapshot>, Error> {
    let wrong =
        |error: &dyn std::fmt::Display| Error::protocol(format!("a snapshot is wrong: {error}"));
    let snapshot = message.into_snapshot(environment).map_err(|e| wrong(&e))?;
    let loaded = snapshot.map(|snapshot| Snapshot::load(&snapshot));
    loaded.transpose().map_err(|e| wrong(&e))
}

fn stream_hello(phase: &mut Phase) -> Option<&mut Hello> {
    match phase {
        Phase::Streaming(stream) => stream.hello.as_mut(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
