//! Streams (D5, I8): what each connection is told, in order, without gaps, whatever its speed.
//!
//! ```text
//!  Raft applies ──► pump ──► channel of a scope ──► every stream of it: cursor ──► bytes
//!                   (what   (what is shown, with     (what next?)
//!                   changed?) shared messages)
//! ```
//! A stream has a [`Cursor`]: the version its client has. Each time the connection can take more,
//! the cursor is compared with what is shown: nothing new, one merged delta, or a full snapshot.
//! So a slow reader never grows a queue: it is skipped ahead. Whole versions only (I3). A message
//! is encoded once per node and encoding and shared by all streams that need the same one; only
//! the two ages in front differ.

mod channel;
mod cursor;
pub mod receipts;
mod shown;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use pennon_evaluator::wire::{Ages, StreamMessage};
use pennon_evaluator::{ConfigSnapshot, EnvironmentKey, Snapshot, Version};
use pennon_raft_store::machine::{Since, View};
use pennon_raft_store::raft::{Blocking, Raft};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::channel::Encoding;
use self::channel::{Channel, Encoded, encode};
pub use self::cursor::{Cursor, Step};
use self::receipts::{Receipts, Seat, Start};
use self::shown::heartbeat_of;
pub use self::shown::{Scope, Shown};
use crate::clock::Clock;
use crate::confirm::Confirm;
use crate::core::Core;

/// What a draining node asks of its clients: within how long to connect again, each at a moment of
/// its own. A millisecond for each stream, so that no other node gets more than it can take.
fn goodbye_retry(streams: u64) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);
    Duration::from_millis(streams).clamp(SHORTEST, LONGEST)
}

/// The longest frame that is copied behind its header, in bytes.
const COPIED_MAX: usize = 16 << 10;

/// The longest time between two rounds of the pump.
const PUMP_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The streams of one node.
pub struct Hub {
    source: Source,
    channels: Mutex<BTreeMap<Scope, Weak<Channel>>>,
    /// A channel is new: the pump may have looked before it was there.
    added: Notify,
    open: AtomicU64,
    /// What every client is told at the end: by how many there were, not how many are left.
    goodbye: OnceLock<Duration>,
    receipts: Arc<Receipts>,
    reached: Mutex<Reached>,
}

/// When this node had which version: the newest ones.
#[derive(Default)]
struct Reached(VecDeque<(Version, Duration)>);

/// Where the hub learns what is committed, and how fresh that is.
struct Source {
    raft: Raft,
    confirm: Confirm,
    clock: Arc<dyn Clock>,
}

impl Source {
    /// The proof, and the view that it covers: read in this order. (I5)
    fn newest(&self) -> (Option<Duration>, View) {
        let fresh_at = self.confirm.fresh_at();
        (fresh_at, self.raft.view())
    }
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// What it is about; it must exist.
    pub scope: Scope,
    /// The version the client has.
    pub since: Option<Version>,
    /// What the evaluator calls itself.
    pub client: Option<String>,
    /// How to write.
    pub encoding: Encoding,
}

impl Hub {
    /// Starts without streams; `first` says that this node never served any before.
    pub fn start(
        raft: Raft,
        confirm: Confirm,
        clock: Arc<dyn Clock>,
        first: bool,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let again = (!first).then(|| clock.monotonic());
        let receipts = Arc::new(Receipts::new(Start::at(clock.unix_ms()), again));
        let source = Source {
            raft,
            confirm,
            clock,
        };
        let hub = Arc::new(Self {
            source,
            channels: Mutex::default(),
            added: Notify::new(),
            open: AtomicU64::new(0),
            goodbye: OnceLock::new(),
            receipts,
            reached: Mutex::default(),
        });
        let pump = pump(hub.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = pump => {}
                () = stop.cancelled() => {}
            }
        });
        hub
    }

    /// Open streams.
    pub fn streams(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Who has acknowledged what.
    pub fn receipts(&self) -> &Arc<Receipts> {
        &self.receipts
    }

    /// Asks every evaluator of an environment for a receipt of a version.
    pub(crate) fn want(&self, environment: &EnvironmentKey, version: Version) {
        let channels = self.open_channels().into_iter();
        for (_, channel) in channels.filter(|(here, _)| here == environment) {
            channel.want(version);
        }
    }

    /// A moment, on the node's monotonic clock, at which this node had a version: not long after it
    /// got it for the newest ones, later for older ones.
    pub(crate) fn reached(&self, version: Version) -> Duration {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.source.clock.monotonic();
        reached.when(version).unwrap_or(now)
    }

    /// Opens a stream; the request began at `started` of the node's monotonic clock. The caller
    /// has made sure that this node is proved fresh and has reached `since`.
    pub fn open(core: &Arc<Core>, subscription: Subscription, started: Duration) -> Streaming {
        let hub = core.hub.clone();
        let number = hub.open.fetch_add(1, Ordering::Relaxed);
        let channel = hub.channel(&subscription.scope);
        channel.streams().fetch_add(1, Ordering::Relaxed);
        let clock = hub.source.clock.clone();
        let environment = &subscription.scope.environment;
        let client = subscription.client.as_deref();
        let now = Box::new(move || clock.monotonic());
        let (seat, floor) = hub.receipts.sit(environment, client, now);
        let least = floor.max(subscription.since.unwrap_or(Version::ZERO));
        if least > channel.follow().borrow().view.version() {
            // This node has it, but did not need to show it yet. (I5, I6)
            let (fresh_at, view) = hub.source.newest();
            channel.show(&view, fresh_at);
        }
        Streaming {
            shown: channel.follow(),
            open: Open { hub, channel, seat },
            draining: core.draining.clone(),
            cluster: core.cluster().to_string(),
            blocking: core.blocking,
            cursor: Cursor::new(subscription.since, (number % 16) as f64 / 64.0),
            subscription,
            started,
            queued: VecDeque::new(),
            ended: false,
        }
    }

    /// The channel of a scope, a new one if it has no streams.
    fn channel(&self, scope: &Scope) -> Arc<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(scope).and_then(Weak::upgrade) {
            return channel;
        }
        let (fresh_at, view) = self.source.newest();
        let channel = Arc::new(Channel::new(scope.clone(), view, fresh_at));
        channels.retain(|_, channel| channel.strong_count() > 0);
        channels.insert(scope.clone(), Arc::downgrade(&channel));
        self.added.notify_one();
        channel
    }

    fn open_channels(&self) -> Vec<(EnvironmentKey, Arc<Channel>)> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let open = channels
            .iter()
            .filter_map(|(scope, channel)| Some((scope.environment.clone(), channel.upgrade()?)));
        open.collect()
    }

    /// Offers the newest view to every channel; returns when to do so again at the latest.
    fn offer_all(&self) -> Duration {
        let (fresh_at, view) = self.source.newest();
        let now = self.source.clock.monotonic();
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.note(view.version(), now);
        drop(reached);
        let offers = self
            .open_channels()
            .into_iter()
            .map(|(_, channel)| channel.offer(&view, fresh_at, now));
        let due = offers.min().unwrap_or(now + PUMP_PAUSE_MAX);
        due.saturating_sub(now).min(PUMP_PAUSE_MAX)
    }
}

impl Reached {
    /// Far more than there are versions within any staleness bound that matters to a receipt.
    const LEN: usize = 4_096;

    fn note(&mut self, version: Version, now: Duration) {
        if self.0.back().is_none_or(|(have, _)| *have < version) {
            self.0.push_back((version, now));
        }
        if self.0.len() > Self::LEN {
            self.0.pop_front();
        }
    }

    fn when(&self, version: Version) -> Option<Duration> {
        let at = self.0.partition_point(|(have, _)| *have < version);
        self.0.get(at).map(|(_, when)| *when)
    }
}

/// Shows the channels what is committed, as it comes.
async fn pump(hub: Arc<Hub>) {
    let mut views = hub.source.raft.views();
    loop {
        views.mark_unchanged();
        let pause = hub.offer_all();
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = hub.added.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Counts the stream as open until it is dropped.
struct Open {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    seat: Seat,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.open.fetch_sub(1, Ordering::Relaxed);
        self.channel.streams().fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open stream.
pub struct Streaming {
    open: Open,
    shown: watch::Receiver<Shown>,
    draining: CancellationToken,
    cluster: String,
    blocking: Blocking,
    cursor: Cursor,
    subscription: Subscription,
    started: Duration,
    queued: VecDeque<Bytes>,
    ended: bool,
}

/// What a stream's client may say.
pub(crate) struct Receiving {
    hub: Arc<Hub>,
    environment: EnvironmentKey,
    client: Option<Arc<str>>,
}

impl Receiving {
    /// Takes a receipt; one without a name is nobody's.
    pub(crate) fn acknowledge(&self, version: Version) {
        let Some(client) = &self.client else {
            return;
        };
        // Nobody has what this node, from which it would have it, does not have.
        let version = version.min(self.hub.source.raft.view().version());
        let (receipts, now) = (&self.hub.receipts, self.hub.source.clock.monotonic());
        receipts.acknowledge(&self.environment, client, version, now);
    }
}

impl Streaming {
    /// The bytes to send, as soon as there are any, until its end.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send {
        futures_util::stream::unfold(self, |mut streaming| async move {
            let bytes = streaming.next().await?;
            Some((bytes, streaming))
        })
    }

    /// Where receipts go that come by the stream itself.
    pub(crate) fn receiving(&self) -> Receiving {
        Receiving {
            hub: self.open.hub.clone(),
            environment: self.subscription.scope.environment.clone(),
            client: self.open.seat.client(),
        }
    }

    /// The next bytes; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.queued.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            let shown = self.shown.borrow_and_update().clone();
            if self.draining.is_cancelled() {
                self.ended = true;
                let hub = &self.open.hub;
                let retry = hub.goodbye.get_or_init(|| goodbye_retry(hub.streams()));
                let retry_ms = retry.as_millis() as u64;
                self.say(&shown, &StreamMessage::Goodbye { retry_ms });
                continue;
            }
            let now = self.now();
            match self.cursor.next(&shown, now) {
                Step::Wait(until) => self.wait(until.saturating_sub(now)).await?,
                step => self.send(&shown, step).await?,
            }
        }
    }

    fn now(&self) -> Duration {
        self.open.hub.source.clock.monotonic()
    }

    async fn wait(&mut self, within: Duration) -> Option<()> {
        tokio::select! {
            changed = self.shown.changed() => changed.ok(),
            () = tokio::time::sleep_until(Instant::now() + within) => Some(()),
            () = self.draining.cancelled() => Some(()),
        }
    }

    async fn send(&mut self, shown: &Shown, step: Step) -> Option<()> {
        let version = shown.view.version();
        match step {
            Step::Hello(intent) => {
                let bound = shown.bound();
                self.open.seat.told(bound);
                let hello = StreamMessage::Hello {
                    cluster_id: self.cluster.clone(),
                    environment: shown.scope.environment.clone(),
                    intent,
                    version,
                    staleness_bound_ms: bound.as_millis() as u64,
                    heartbeat_ms: heartbeat_of(bound).as_millis() as u64,
                };
                self.say(shown, &hello);
            }
            Step::Heartbeat => self.say(shown, &StreamMessage::Heartbeat { version }),
            Step::Acknowledge(version) => {
                self.say(shown, &StreamMessage::Acknowledge { version });
            }
            Step::Reset(reason) => {
                self.ended = true;
                let reason = reason.into();
                self.say(shown, &StreamMessage::Reset { reason });
            }
            Step::Snapshot => {
                // Encoding a whole environment takes long enough to hold up others.
                let (channel, of) = (self.open.channel.clone(), shown.clone());
                let encoding = self.subscription.encoding;
                let work = move || channel.message(&of, None, encoding);
                let encoded = self.blocking.run(work).await.ok().flatten()?;
                self.queue(shown, &encoded);
            }
            Step::Delta(from) => {
                let channel = &self.open.channel;
                let encoded = channel.message(shown, Some(from), self.subscription.encoding)?;
                self.queue(shown, &encoded);
            }
            Step::Wait(_) => {}
        }
        Some(())
    }

    /// Sends a small message of this stream alone.
    fn say(&mut self, shown: &Shown, message: &StreamMessage) {
        let encoding = self.subscription.encoding;
        if let Some(encoded) = encode(encoding, &shown.scope.environment, message) {
            self.queue(shown, &encoded);
        }
    }

    fn queue(&mut self, shown: &Shown, encoded: &Encoded) {
        let now = self.now();
        // A node that was never proved fresh serves no stream; were it so, the age is unbounded. (I5)
        let fresh_age = shown
            .fresh_at
            .map_or(Duration::MAX, |at| now.saturating_sub(at));
        let ages = Ages::new(now.saturating_sub(self.started), fresh_age);
        match encoded {
            // In one piece it is one chunk, and whoever reads it is woken once.
            Encoded::Frame(frame) if frame.len() <= COPIED_MAX => {
                let mut whole = BytesMut::with_capacity(frame.len());
                whole.extend_from_slice(&frame.header(ages));
                whole.extend_from_slice(frame.body());
                self.queued.push_back(whole.freeze());
            }
            Encoded::Frame(frame) => {
                let header = Bytes::copy_from_slice(&frame.header(ages));
                self.queued.extend([header, frame.body().clone()]);
            }
            Encoded::Event(event) => {
                let head = Bytes::from(event.head(ages));
                self.queued.extend([head, event.tail().clone()]);
            }
        }
    }
}

/// The environment at a view's version, ready for evaluation, from what was loaded before.
pub(crate) fn load(
    view: &View,
    environment: &EnvironmentKey,
    have: Option<&Arc<Snapshot>>,
) -> Option<Arc<Snapshot>> {
    let since = have.map_or(Since::Full, |have| view.since(environment, have.version()));
    let loaded = match (since, have) {
        (Since::Ahead, Some(have)) => return Some(have.clone()),
        (Since::Nothing, Some(have)) if have.version() == view.version() => {
            return Some(have.clone());
        }
        (Since::Nothing, Some(have)) => (**have).clone().with_version(view.version()).ok(),
        (Since::Changes(delta), Some(have)) => have.apply(&delta).ok(),
        _ => None,
    };
    let whole = || {
        let whole: ConfigSnapshot = view.config_snapshot(environment)?;
        Snapshot::load(&whole).ok()
    };
    // A delta that does not fit what was loaded is mended by loading the whole.
    loaded.or_else(whole).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clients_are_given_longer_to_go() {
        let seconds = [0, 1_000, 10_000, 1 << 40].map(|streams| goodbye_retry(streams).as_secs());
        assert_eq!(seconds, [1, 1, 10, 30]);
    }

    #[test]
    fn heartbeats_are_at_most_a_third_of_the_bound_apart() {
        for bound_ms in [1_000, 10_000, 600_000] {
            let bound = Duration::from_millis(bound_ms);
            assert!(heartbeat_of(bound) * 3 <= bound);
        }
    }
}
