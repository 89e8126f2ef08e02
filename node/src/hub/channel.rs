//! One scope's streams on one node: what they are shown, and the messages that they share.
//!
//! A change wakes the streams at once, unless they were woken so lately that most cannot have been
//! served yet: then it waits that long, and what comes meanwhile is folded into it. So a burst
//! of writes is a few deltas, and all streams go from one shown version to the next together,
//! which is why one encoded message serves them all. What changed elsewhere wakes nobody; the view is
//! replaced quietly now and then, for heartbeats.
//!
//! What must hold: what is shown never goes back (I6); view and proof are replaced together, and
//! the proof was read before the view (I5); a message is encoded once, without holding up those
//! who need another one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use pennon_evaluator::wire::{SharedEvent, SharedFrame, StreamMessage};
use pennon_evaluator::{EnvironmentKey, Version};
use pennon_raft_store::machine::View;
use tokio::sync::watch;

use super::shown::{Scope, Shown, heartbeat_of};

/// Encoded messages kept per scope, and their bytes; the newest is kept whatever its size. Of full
/// snapshots only the newest of each encoding is kept: nobody asks for an older one.
const ENCODED_MAX: usize = 32;
const ENCODED_BYTES_MAX: usize = 16 << 20;

/// What it takes to serve one stream, for the pace.
const SERVING: Duration = Duration::from_micros(10);

/// The longest that a change waits for others.
const FOLD_MAX: Duration = Duration::from_millis(100);

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// Length, crc and bincode: the Rust client.
    Frames,
    /// Server-Sent Events with JSON.
    Events,
}

/// From which version (`None`: a full snapshot) to which, in which encoding.
type EncodedKey = (Option<Version>, Version, Encoding);

/// A message, encoded.
#[derive(Clone)]
pub(crate) enum Encoded {
    Frame(Arc<SharedFrame>),
    Event(Arc<SharedEvent>),
}

/// A message that somebody encodes when it is needed first; `None` when it cannot be.
type Slot = Arc<OnceLock<Option<Encoded>>>;

pub(crate) struct Channel {
    scope: Arc<Scope>,
    shown: watch::Sender<Shown>,
    pace: Mutex<Pace>,
    encoded: Mutex<VecDeque<(EncodedKey, Slot)>>,
    streams: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Streams are not woken before this.
    wake: Duration,
    /// The view is not replaced quietly before this.
    refresh: Duration,
}

impl Channel {
    pub(crate) fn new(scope: Scope, view: View, fresh_at: Option<Duration>) -> Self {
        let shown = Shown::new(scope, view, fresh_at);
        Self {
            scope: shown.scope.clone(),
            shown: watch::Sender::new(shown),
            pace: Mutex::default(),
            encoded: Mutex::default(),
            streams: AtomicUsize::new(0),
        }
    }

    /// Follows what is shown; woken by changes and when receipts are wanted.
    pub(crate) fn follow(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Open streams.
    pub(crate) fn streams(&self) -> &AtomicUsize {
        &self.streams
    }

    /// Offers a view and the proof that was read before it. Returns when to offer again at the
    /// latest: a change that waits, or the next quiet replacement.
    pub(crate) fn offer(&self, view: &View, fresh_at: Option<Duration>, now: Duration) -> Duration {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = self.shown.borrow().is_touched(view);
        if touched && now < pace.wake {
            return pace.wake;
        }
        let mut woken = false;
        if touched || now >= pace.refresh {
            woken = self.show(view, fresh_at);
            pace.refresh = now + heartbeat_of(self.shown.borrow().bound()) / 4;
        }
        if woken {
            let streams = self.streams.load(Ordering::Relaxed);
            let serving = SERVING.saturating_mul(u32::try_from(streams).unwrap_or(u32::MAX));
            pace.wake = now + serving.min(FOLD_MAX);
        }
        pace.refresh
    }

    /// Shows a view at once, unless a later one is shown. Who follows is woken by news only; says
    /// whether there was any.
    pub(crate) fn show(&self, view: &View, fresh_at: Option<Duration>) -> bool {
        // Made before the others are kept from reading.
        let (mut later, differs) = self.shown.borrow().later(view, fresh_at); // I5
        self.shown.send_if_modified(|shown| {
            let older = view.version() < shown.view.version();
            if older || (view.version() == shown.view.version() && fresh_at < shown.fresh_at) {
                return false; // I6
            }
            later.wanted = shown.wanted;
            std::mem::swap(shown, &mut later);
            differs
        })
    }

    /// Has every stream ask for receipts of a version.
    pub(crate) fn want(&self, version: Version) {
        self.shown.send_if_modified(|shown| {
            let more = version > shown.wanted;
            shown.wanted = shown.wanted.max(version);
            more
        });
    }

    /// The message that takes a client from a version (`None`: from nothing) to what is shown.
    pub(crate) fn message(
        &self,
        shown: &Shown,
        from: Option<Version>,
        encoding: Encoding,
    ) -> Option<Encoded> {
        let make = || match from {
            None => shown
                .snapshot()
                .map(|whole| StreamMessage::snapshot(&whole)),
            Some(since) => shown.delta(since).map(|delta| StreamMessage::delta(&delta)),
        };
        let key = (from, shown.view.version(), encoding);
        let slot = self.slot(key);
        let encoded = slot.get_or_init(|| encode(encoding, &self.scope.environment, &make()?));
        encoded.clone()
    }

    fn slot(&self, key: EncodedKey) -> Slot {
        let mut all = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = all.iter().find(|(have, _)| *have == key) {
            return slot.clone();
        }
        let slot = Slot::default();
        keep(&mut all, key, slot.clone());
        slot
    }
}

fn keep(here: &mut VecDeque<(EncodedKey, Slot)>, key: EncodedKey, slot: Slot) {
    if key.0.is_none() {
        here.retain(|((from, _, encoding), _)| from.is_some() || *encoding != key.2);
    }
    let len = |slot: &Slot| slot.get().and_then(Option::as_ref).map_or(0, Encoded::len);
    let mut bytes: usize = here.iter().map(|(_, slot)| len(slot)).sum();
    // What is new has no length yet; it counts when the next one comes.
    while here.len() >= ENCODED_MAX || (bytes > ENCODED_BYTES_MAX && !here.is_empty()) {
        let Some((_, gone)) = here.pop_front() else {
            break;
        };
        bytes -= len(&gone).min(bytes);
    }
    here.push_back((key, slot));
}

impl Encoded {
    fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.body().len(),
            Self::Event(event) => event.tail().len(),
        }
    }
}

/// Encodes a message; `None`, and a line in the log, when that cannot be done.
pub(crate) fn encode(
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

#[cfg(test)]
mod tests {
    use super::super::cursor::tests::{e, machine, whole, write};
    use super::*;
    use pennon_raft_store::command::ObjectId;
    use pennon_raft_store::machine::Machine;

    fn channel(machine: &Machine) -> Channel {
        Channel::new(whole(), Arc::new(machine.clone()), None)
    }

    fn version(channel: &Channel) -> u64 {
        channel.follow().borrow().view.version().get()
    }

    #[test]
    fn the_first_of_a_burst_is_shown_at_once_and_the_others_together() {
        let mut machine = machine();
        let channel = channel(&machine);
        channel.streams.store(1_000, Ordering::Relaxed);
        let mut follower = channel.follow();
        let at = Duration::from_millis;
        let mut offer = |ms: u64, machine: &Machine| {
            let due = channel.offer(&Arc::new(machine.clone()), None, at(ms));
            let woken = follower.has_changed().unwrap();
            (
                due,
                woken,
                follower.borrow_and_update().view.version().get(),
            )
        };
        write(&mut machine, ObjectId::segment(e(), "a"), "{}");
        assert_eq!(offer(1_000, &machine), (at(1_250), true, 4));
        // A thousand streams take ten milliseconds.
        for (ms, key) in [(1_001, "b"), (1_005, "c")] {
            write(&mut machine, ObjectId::segment(e(), key), "{}");
            assert_eq!(offer(ms, &machine), (at(1_010), false, 4));
        }
        assert_eq!(offer(1_010, &machine), (at(1_260), true, 6));
        assert_eq!(offer(1_011, &machine), (at(1_260), false, 6));
    }

    #[test]
    fn what_happens_elsewhere_wakes_nobody_and_is_shown_now_and_then() {
        let mut machine = machine();
        let channel = channel(&machine);
        let follower = channel.follow();
        let elsewhere = ObjectId::segment("other".parse().unwrap(), "s");
        for (ms, shown) in [(1_000, 4), (1_200, 4), (1_250, 6)] {
            write(&mut machine, elsewhere.clone(), "{}");
            let now = Duration::from_millis(ms);
            channel.offer(&Arc::new(machine.clone()), Some(now), now);
            assert_eq!(version(&channel), shown, "{ms}");
        }
        assert!(!follower.has_changed().unwrap());
        let fresh_at = channel.follow().borrow().fresh_at;
        assert_eq!(fresh_at, Some(Duration::from_millis(1_250)), "I5");
    }

    #[test]
    fn what_is_shown_never_goes_back() {
        let mut machine = machine();
        let older: View = Arc::new(machine.clone());
        write(&mut machine, ObjectId::segment(e(), "a"), "{}");
        let channel = channel(&machine);
        let second = Some(Duration::from_secs(1));
        channel.show(&older, second);
        assert_eq!(version(&channel), 4, "I6");
        let newer: View = Arc::new(machine);
        channel.show(&newer, second);
        channel.show(&newer, None);
        assert_eq!(channel.follow().borrow().fresh_at, second);
    }

    #[test]
    fn a_message_is_encoded_once_for_all() {
        let mut machine = machine();
        let from = machine.version();
        write(&mut machine, ObjectId::segment(e(), "a"), "{}");
        let channel = channel(&machine);
        let shown = channel.follow().borrow().clone();
        let body = |from| match channel.message(&shown, from, Encoding::Frames) {
            Some(Encoded::Frame(frame)) => frame.body().as_ptr(),
            _ => panic!("no frame"),
        };
        assert_eq!(body(Some(from)), body(Some(from)));
        assert_eq!(body(None), body(None));
        assert_ne!(body(None), body(Some(from)));
        let events = channel.message(&shown, Some(from), Encoding::Events);
        assert!(matches!(events, Some(Encoded::Event(_))));
        let ahead = shown.view.version();
        assert!(
            channel
                .message(&shown, Some(ahead), Encoding::Frames)
                .is_none()
        );
    }

    #[test]
    fn what_is_kept_encoded_is_bounded() {
        let v = |n| Version::new(n).unwrap();
        let of = |bytes: usize| {
            let message = StreamMessage::Reset {
                reason: "x".repeat(bytes),
            };
            let encoded = encode(Encoding::Frames, &e(), &message);
            Arc::new(OnceLock::from(encoded))
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
        let huge = ENCODED_BYTES_MAX + 1;
        keep(&mut here, (None, v(10), Encoding::Frames), of(huge));
        keep(&mut here, (Some(v(10)), v(11), Encoding::Frames), of(10));
        assert_eq!(
            here.len(),
            1,
            "a message larger than the bound goes with the next"
        );
    }
}
