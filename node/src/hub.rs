//! Streams (D5, I8): what each connection is told, in order, without gaps, whatever its speed.
//!
//! A stream has a [`Cursor`]: the version its client has. Each time the connection can take more,
//! the cursor is compared with the newest view: nothing new, one merged delta, or a full snapshot.
//! So a slow reader never grows a queue: it is skipped ahead. Whole versions only (I3). A message
//! is encoded once per node and encoding and shared by all streams that need the same one; only
//! the two ages in front differ. Deciding what comes next is pure; the rest is waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use pennon_evaluator::wire::{Ages, Intent, SharedEvent, SharedFrame, StreamMessage};
use pennon_evaluator::{ConfigSnapshot, EnvironmentKey, Snapshot, Version};
use pennon_raft_store::machine::{Machine, Since, View};
use tokio::time::Instant;

use crate::core::Core;

/// Encoded messages kept per environment, and their bytes; the newest is kept whatever its size.
/// Of full snapshots only the newest of each encoding is kept: nobody asks for an older one.
const ENCODED_MAX: usize = 32;
const ENCODED_BYTES_MAX: usize = 16 << 20;

/// Heartbeats come at least this often.
const HEARTBEAT_MAX: Duration = Duration::from_secs(2);

/// What a draining node asks of its clients: how long to wait, at most, before connecting again.
const GOODBYE_RETRY: Duration = Duration::from_secs(1);

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// Length, crc and bincode: the Rust client.
    Frames,
    /// Server-Sent Events with JSON.
    Events,
}

/// The streams of one node.
#[derive(Default)]
pub struct Hub {
    encoded: Mutex<BTreeMap<EnvironmentKey, VecDeque<(EncodedKey, Encoded)>>>,
    open: Arc<AtomicU64>,
}

/// From which version (`None`: a full snapshot) to which, in which encoding.
type EncodedKey = (Option<Version>, Version, Encoding);

#[derive(Clone)]
enum Encoded {
    Frame(Arc<SharedFrame>),
    Event(Arc<SharedEvent>),
}

/// Where one stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    environment: EnvironmentKey,
    /// The version the client has; `None` before its first snapshot.
    version: Option<Version>,
    greeted: bool,
    next_heartbeat: Duration,
    heartbeat: Duration,
}

/// What a stream does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say hello: this will follow.
    Hello(Intent),
    /// Send the whole environment.
    Snapshot,
    /// Send what changed since this version.
    Delta(Version),
    /// Say that nothing changed up to the view's version.
    Heartbeat,
    /// The environment is gone, or the client is ahead of anything this node can prove.
    Reset(&'static str),
    /// Wait for a change, at most until this moment of the cursor's clock.
    Wait(Duration),
}

impl Cursor {
    /// Starts a stream for a client that has `since`; `now` is a reading of any monotonic clock.
    pub fn new(
        environment: EnvironmentKey,
        since: Option<Version>,
        heartbeat: Duration,
        now: Duration,
    ) -> Self {
        Self {
            environment,
            version: since,
            greeted: false,
            next_heartbeat: now + heartbeat,
            heartbeat,
        }
    }

    /// Decides what comes next and assumes that it is sent.
    pub fn next(&mut self, machine: &Machine, now: Duration) -> Step {
        if machine.compiled(&self.environment).is_none() {
            return Step::Reset("the environment does not exist");
        }
        let since = self
            .version
            .map_or(Since::Full, |have| machine.since(&self.environment, have));
        if !self.greeted {
            self.greeted = true;
            return match since {
                Since::Nothing => Step::Hello(Intent::None),
                Since::Changes(_) => Step::Hello(Intent::Changes),
                Since::Full => Step::Hello(Intent::Full),
                Since::Ahead => Step::Reset("this node is behind the version you have"),
            };
        }
        let step = match (since, self.version) {
            (Since::Full, _) => Step::Snapshot,
            (Since::Changes(delta), _) => Step::Delta(delta.from),
            (Since::Ahead, _) => return Step::Reset("this node is behind the version you have"), // I6
            (Since::Nothing, _) if now >= self.next_heartbeat => Step::Heartbeat,
            (Since::Nothing, _) => return Step::Wait(self.next_heartbeat),
        };
        // Whatever is sent carries the ages and brings the client to the view's version.
        self.version = Some(machine.version());
        self.next_heartbeat = now + self.heartbeat;
        step
    }
}

/// How often a stream hears something, for a staleness bound: at most a third of it apart.
pub fn heartbeat_of(staleness_bound: Duration) -> Duration {
    (staleness_bound / 4).min(HEARTBEAT_MAX)
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The environment; it must exist.
    pub environment: EnvironmentKey,
    /// The version the client has.
    pub since: Option<Version>,
    /// How to write.
    pub encoding: Encoding,
    /// The environment's staleness bound.
    pub staleness_bound: Duration,
}

impl Hub {
    /// Open streams.
    pub fn streams(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Opens a stream; the request began at `started` of the node's monotonic clock. The caller
    /// has made sure that this node is proved fresh and has reached `since`.
    pub fn open(
        core: &Arc<Core>,
        subscription: Subscription,
        started: Duration,
    ) -> impl Stream<Item = Bytes> + Send + use<> {
        core.hub.open.fetch_add(1, Ordering::Relaxed);
        let heartbeat = heartbeat_of(subscription.staleness_bound);
        let cursor = Cursor::new(
            subscription.environment.clone(),
            subscription.since,
            heartbeat,
            started,
        );
        let streaming = Streaming {
            core: core.clone(),
            open: Open(core.hub.open.clone()),
            views: core.raft.views(),
            cursor,
            subscription,
            started,
            fresh_at: None,
            queued: VecDeque::new(),
            ended: false,
        };
        futures_util::stream::unfold(streaming, |mut streaming| async move {
            let bytes = streaming.next().await?;
            Some((bytes, streaming))
        })
    }

    fn encoded(
        &self,
        environment: &EnvironmentKey,
        key: EncodedKey,
        make: impl FnOnce() -> Option<StreamMessage>,
    ) -> Option<Encoded> {
        let mut all = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        let here = all.entry(environment.clone()).or_default();
        if let Some((_, encoded)) = here.iter().find(|(have, _)| *have == key) {
            return Some(encoded.clone());
        }
        let encoded = encode(key.2, environment, &make()?)?;
        keep(here, key, encoded.clone());
        Some(encoded)
    }
}

fn keep(here: &mut VecDeque<(EncodedKey, Encoded)>, key: EncodedKey, encoded: Encoded) {
    if key.0.is_none() {
        here.retain(|((from, _, encoding), _)| from.is_some() || *encoding != key.2);
    }
    here.push_back((key, encoded));
    let mut bytes: usize = here.iter().map(|(_, encoded)| encoded.len()).sum();
    while here.len() > ENCODED_MAX || (bytes > ENCODED_BYTES_MAX && here.len() > 1) {
        let Some((_, gone)) = here.pop_front() else {
            return;
        };
        bytes -= gone.len();
    }
}

impl Encoded {
    fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.body().len(),
            Self::Event(event) => event.tail().len(),
        }
    }
}

fn encode(
    encoding: Encoding,
    environment: &EnvironmentKey,
    message: &StreamMessage,
) -> Option<Encoded> {
    let encoded = match encoding {
        Encoding::Frames => SharedFrame::encode(message)
            .map(|frame| Encoded::Frame(Arc::new(frame)))
            .ok(),
        Encoding::Events => SharedEvent::encode(environment, message)
            .map(|event| Encoded::Event(Arc::new(event)))
            .ok(),
    };
    if encoded.is_none() {
        tracing::error!(%environment, kind = message.name(), "a message could not be encoded");
    }
    encoded
}

/// Counts the stream as open until it is dropped.
struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Streaming {
    core: Arc<Core>,
    #[expect(dead_code, reason = "held for its Drop")]
    open: Open,
    views: tokio::sync::watch::Receiver<View>,
    cursor: Cursor,
    subscription: Subscription,
    started: Duration,
    /// The proof that covers what is sent next.
    fresh_at: Option<Duration>,
    queued: VecDeque<Bytes>,
    ended: bool,
}

impl Streaming {
    /// The next bytes; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.queued.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            if self.core.draining.is_cancelled() {
                self.ended = true;
                self.say(&StreamMessage::Goodbye {
                    retry_ms: GOODBYE_RETRY.as_millis() as u64,
                });
                continue;
            }
            // The proof is read before the view: what it covers is then surely in the view. (I5)
            self.fresh_at = self.core.confirm.fresh_at();
            let view = self.views.borrow_and_update().clone();
            let now = self.core.clock.monotonic();
            match self.cursor.next(&view, now) {
                Step::Wait(until) => self.wait(until.saturating_sub(now)).await?,
                step => self.send(&view, step)?,
            }
        }
    }

    async fn wait(&mut self, within: Duration) -> Option<()> {
        let draining = self.core.draining.clone();
        tokio::select! {
            changed = self.views.changed() => changed.ok(),
            () = tokio::time::sleep_until(Instant::now() + within) => Some(()),
            () = draining.cancelled() => Some(()),
        }
    }

    fn send(&mut self, view: &View, step: Step) -> Option<()> {
        let environment = self.subscription.environment.clone();
        let version = view.version();
        match step {
            Step::Hello(intent) => self.say(&StreamMessage::Hello {
                cluster_id: self.core.cluster().to_string(),
                environment,
                intent,
                version,
                staleness_bound_ms: self.subscription.staleness_bound.as_millis() as u64,
                heartbeat_ms: heartbeat_of(self.subscription.staleness_bound).as_millis() as u64,
            }),
            Step::Heartbeat => self.say(&StreamMessage::Heartbeat { version }),
            Step::Reset(reason) => {
                self.ended = true;
                self.say(&StreamMessage::Reset {
                    reason: reason.into(),
                });
            }
            Step::Snapshot => {
                let make = || {
                    view.config_snapshot(&environment)
                        .map(|whole| StreamMessage::snapshot(&whole))
                };
                self.share(&environment, (None, version), make)?;
            }
            Step::Delta(from) => {
                let make = || match view.since(&environment, from) {
                    Since::Changes(delta) => Some(StreamMessage::delta(&delta)),
                    _ => None,
                };
                self.share(&environment, (Some(from), version), make)?;
            }
            Step::Wait(_) => {}
        }
        Some(())
    }

    fn share(
        &mut self,
        environment: &EnvironmentKey,
        (from, to): (Option<Version>, Version),
        make: impl FnOnce() -> Option<StreamMessage>,
    ) -> Option<()> {
        let key = (from, to, self.subscription.encoding);
        let encoded = self.core.hub.encoded(environment, key, make)?;
        self.queue(&encoded);
        Some(())
    }

    /// Sends a small message of this stream alone.
    fn say(&mut self, message: &StreamMessage) {
        if let Some(encoded) = encode(
            self.subscription.encoding,
            &self.subscription.environment,
            message,
        ) {
            self.queue(&encoded);
        }
    }

    fn queue(&mut self, encoded: &Encoded) {
        let now = self.core.clock.monotonic();
        // A node that was never proved fresh serves no stream; were it so, the age is unbounded. (I5)
        let fresh_age = self
            .fresh_at
            .map_or(Duration::MAX, |at| now.saturating_sub(at));
        let ages = Ages::new(now.saturating_sub(self.started), fresh_age);
        match encoded {
            Encoded::Frame(frame) => {
                self.queued
                    .push_back(Bytes::copy_from_slice(&frame.header(ages)));
                self.queued.push_back(frame.body().clone());
            }
            Encoded::Event(event) => {
                self.queued.push_back(Bytes::from(event.head(ages)));
                self.queued.push_back(event.tail().clone());
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
    use pennon_raft_store::command::{ClusterId, Expected, ObjectId, Origin};
    use pennon_raft_store::log::LogId;
    use pennon_raft_store::machine::{COMMAND_FORMAT, Entry};
    use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};
    use pennon_raft_store::{codec, command};

    const BEAT: Duration = Duration::from_secs(1);

    fn e() -> EnvironmentKey {
        "e".parse().unwrap()
    }

    fn write(machine: &mut Machine, object: ObjectId, json: &str) {
        let writes = vec![AskedWrite {
            object,
            ask: Ask::Put(json.into()),
            expected: Expected::Any,
        }];
        let origin = Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        };
        let mut draft = Draft::new(machine, pennon_evaluator::Limits::default());
        let Planned::Batched(item, _) = draft.plan(&ChangeRequest { writes, origin }) else {
            panic!()
        };
        let batch = command::Batch {
            base: machine.version(),
            time_ms: 0,
            items: vec![item],
        };
        let bytes = codec::encode(COMMAND_FORMAT, &command::Command::Batch(batch)).unwrap();
        let index = machine.version().get() + 1;
        machine.apply(LogId { term: 1, index }, Entry::Command(&bytes));
    }

    /// A machine with two environments and one segment in `e`, at version 3.
    fn machine() -> Machine {
        let mut machine = Machine::new(ClusterId::new(1));
        write(&mut machine, ObjectId::environment_object("e"), "{}");
        write(&mut machine, ObjectId::environment_object("other"), "{}");
        write(&mut machine, ObjectId::segment(e(), "s"), "{}");
        machine
    }

    fn cursor(since: Option<u64>) -> Cursor {
        Cursor::new(
            e(),
            since.map(|v| Version::new(v).unwrap()),
            BEAT,
            Duration::ZERO,
        )
    }

    #[test]
    fn a_new_stream_gets_hello_a_snapshot_and_then_what_happens() {
        let mut machine = machine();
        let mut cursor = cursor(None);
        let now = Duration::ZERO;
        assert_eq!(cursor.next(&machine, now), Step::Hello(Intent::Full));
        assert_eq!(cursor.next(&machine, now), Step::Snapshot);
        assert_eq!(cursor.next(&machine, now), Step::Wait(BEAT));
        write(
            &mut machine,
            ObjectId::segment(e(), "s"),
            r#"{"included":["a"]}"#,
        );
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        // A slow reader: both changes in one delta, from exactly what it has. (I8)
        assert_eq!(
            cursor.next(&machine, now),
            Step::Delta(Version::new(3).unwrap())
        );
        assert_eq!(cursor.next(&machine, now), Step::Wait(BEAT));
    }

    #[test]
    fn a_change_elsewhere_is_told_by_the_next_heartbeat() {
        let mut machine = machine();
        let mut cursor = cursor(Some(3));
        assert_eq!(
            cursor.next(&machine, Duration::ZERO),
            Step::Hello(Intent::None)
        );
        write(
            &mut machine,
            ObjectId::segment("other".parse().unwrap(), "s"),
            "{}",
        );
        assert_eq!(cursor.next(&machine, Duration::ZERO), Step::Wait(BEAT));
        assert_eq!(cursor.next(&machine, BEAT), Step::Heartbeat);
        assert_eq!(cursor.next(&machine, BEAT), Step::Wait(2 * BEAT));
        // The heartbeat carried version 4: the next delta starts there.
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        assert_eq!(
            cursor.next(&machine, BEAT),
            Step::Delta(Version::new(4).unwrap())
        );
    }

    #[test]
    fn a_resumer_gets_what_it_missed_or_a_snapshot_and_never_something_older() {
        let mut machine = machine();
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        let mut behind = cursor(Some(3));
        assert_eq!(
            behind.next(&machine, Duration::ZERO),
            Step::Hello(Intent::Changes)
        );
        assert_eq!(
            behind.next(&machine, Duration::ZERO),
            Step::Delta(Version::new(3).unwrap())
        );
        let mut ancient = cursor(Some(0));
        assert_eq!(
            ancient.next(&machine, Duration::ZERO),
            Step::Hello(Intent::Full)
        );
        assert_eq!(ancient.next(&machine, Duration::ZERO), Step::Snapshot);
        let mut ahead = cursor(Some(9));
        assert!(matches!(
            ahead.next(&machine, Duration::ZERO),
            Step::Reset(_)
        )); // I6
    }

    #[test]
    fn a_deleted_environment_ends_the_stream() {
        let mut machine = Machine::new(ClusterId::new(1));
        write(&mut machine, ObjectId::environment_object("e"), "{}");
        let mut cursor = cursor(None);
        assert_eq!(
            cursor.next(&machine, Duration::ZERO),
            Step::Hello(Intent::Full)
        );
        assert_eq!(cursor.next(&machine, Duration::ZERO), Step::Snapshot);
        let gone = Machine::new(ClusterId::new(1));
        assert!(matches!(cursor.next(&gone, Duration::ZERO), Step::Reset(_)));
    }

    #[test]
    fn what_is_kept_encoded_is_bounded() {
        let v = |n| Version::new(n).unwrap();
        let of = |bytes: usize| {
            let message = StreamMessage::Reset {
                reason: "x".repeat(bytes),
            };
            encode(Encoding::Frames, &e(), &message).unwrap()
        };
        let mut here = VecDeque::new();
        for n in 1..100 {
            keep(&mut here, (Some(v(n)), v(n + 1), Encoding::Frames), of(10));
        }
        assert_eq!(here.len(), ENCODED_MAX);
        for n in 1..10 {
            keep(&mut here, (None, v(n), Encoding::Frames), of(10));
        }
        let full = here.iter().filter(|((from, _, _), _)| from.is_none());
        assert_eq!(full.count(), 1, "older snapshots go");
        keep(
            &mut here,
            (None, v(10), Encoding::Frames),
            of(ENCODED_BYTES_MAX),
        );
        assert_eq!(here.len(), 1, "a message larger than the bound stays alone");
        keep(&mut here, (Some(v(10)), v(11), Encoding::Frames), of(10));
        assert_eq!(here.len(), 1, "and goes with the next");
    }

    #[test]
    fn heartbeats_are_at_most_a_third_of_the_bound_apart() {
        for bound_ms in [1_000, 10_000, 600_000] {
            let bound = Duration::from_millis(bound_ms);
            assert!(heartbeat_of(bound) * 3 <= bound);
        }
    }
}
