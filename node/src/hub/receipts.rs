//! Receipts (D6): which evaluator has applied which version, as far as this node knows.
//!
//! An evaluator is a client that named itself on its stream. It acknowledges what it has applied; the
//! newest acknowledgement is kept while it is connected, and for a while afterwards, so that one
//! that was cut off is still known by name. Streams without a name are counted, nothing more.
//!
//! There are others who may act on what they had from this node and are known by no name: who left
//! without one, who was forgotten, who was there before the node started, and who had a stream from a
//! node that is no member any more. Of those the latest moment is kept at which any of them was given
//! something: a doubt, until the staleness bound has gone by since.
//!
//! What must hold: what is kept is bounded, whoever connects; an evaluator that never acknowledged
//! is not taken for one that has; whoever is given less than was said of is counted or leaves a doubt
//! (I5); who waits is woken by the last receipt that it waits for, not by each of them.
//!
//! Left out: asking the other nodes and putting the answers together (`delivery.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pennon_evaluator::{EnvironmentKey, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// How long an evaluator is remembered after it left, at least as long as it could act on what it
/// had as if that were fresh.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Evaluators that left and are remembered, per environment at most; the oldest go first.
const GONE_MAX: usize = 10_000;

/// The receipts of one node.
pub struct Receipts {
    inner: Mutex<Inner>,
}

struct Inner {
    environments: BTreeMap<EnvironmentKey, Evaluators>,
    /// Raised when somebody comes or goes.
    generation: u64,
    /// The members when they were looked at last.
    members: BTreeSet<u64>,
    /// When somebody of whom nothing is known was given something last, in any environment.
    doubt: Option<Duration>,
}

#[derive(Default)]
struct Evaluators {
    by_id: BTreeMap<Arc<str>, Evaluator>,
    /// Those without a stream, by when they were last heard of.
    gone: BTreeSet<(Duration, Arc<str>)>,
    unnamed: usize,
    /// When somebody who is not known by name was given something last, unless it still has a stream.
    doubt: Option<Duration>,
    /// The newest version that was said of. Who comes is given no less.
    floor: Version,
    /// The staleness bounds that streams go by or went by.
    told: BTreeMap<Duration, Told>,
    waiting: Vec<Arc<Waiting>>,
}

#[derive(Clone, Debug, Default)]
struct Evaluator {
    streams: usize,
    acknowledged: Version,
    /// When something was heard of it last.
    seen: Duration,
}

/// The streams that were told a staleness bound.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    streams: usize,
    /// When the last of those that ended did.
    ended: Duration,
}

/// Somebody who waits for receipts of a version.
struct Waiting {
    version: Version,
    missing: Mutex<BTreeSet<Arc<str>>>,
    done: Notify,
}

/// What a node knows of an evaluator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it calls itself.
    pub id: String,
    /// The version that it acknowledged last; 0 when it never did.
    pub version: Version,
    /// Whether it has a stream from this node.
    pub connected: bool,
    /// How long ago it was last heard of, in milliseconds.
    pub seen_ms: u64,
}

/// Who has a version, as far as one node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Every evaluator by name, by its name.
    pub evaluators: Vec<Known>,
    /// Streams without a name.
    pub unnamed: u64,
    /// How long ago somebody was given something last who is neither of these, in milliseconds;
    /// `None` when nobody ever was.
    pub doubt_ms: Option<u64>,
    /// The greatest staleness bound that anybody may still go by who has or had a stream from this
    /// node, in milliseconds.
    pub bound_ms: u64,
}

/// Who is connected to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// Rises when somebody comes or goes.
    pub generation: u64,
    /// Who is there, by environment.
    pub environments: Vec<(EnvironmentKey, Present)>,
}

/// Who is connected to a node in an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// The evaluators, by name.
    pub evaluators: Vec<String>,
    /// As in [`Count`].
    pub bound_ms: u64,
}

/// Which start of a node it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start(u64);

/// The place of a stream among the evaluators; given up when it is dropped.
pub(crate) struct Seat {
    receipts: Arc<Receipts>,
    environment: EnvironmentKey,
    id: Option<Arc<str>>,
    bound: Option<Duration>,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl Receipts {
    /// Starts empty. `start` differs from one start of a node to the next, so that those who know
    /// the list of an earlier one notice ([`Roll::follows`]); `again` is when it started, if it is not
    /// its first time.
    pub(crate) fn new(start: Start, again: Option<Duration>) -> Self {
        let inner = Inner {
            environments: BTreeMap::new(),
            generation: start.0,
            members: BTreeSet::new(),
            doubt: again, // I5
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who is a member, and whether that is committed. Until it is, who is to be one no more may
    /// be proved fresh; of those whom it served nothing is known. (I5)
    pub(crate) fn members(&self, members: BTreeSet<u64>, settled: bool, now: Duration) {
        let mut inner = self.lock();
        if !inner.members.is_subset(&members) {
            inner.doubt = Some(now);
        }
        match settled {
            true => inner.members = members,
            false => inner.members.extend(members),
        }
    }

    /// Notes that something is about to be said of a version, which this node has: whoever comes from
    /// now on is given no less. (I5)
    pub(crate) fn say(&self, environment: &EnvironmentKey, version: Version) {
        let mut inner = self.lock();
        let here = inner.environments.entry(environment.clone()).or_default();
        here.floor = here.floor.max(version);
    }

    /// Notes that a stream was opened; `now` reads the node's monotonic clock. Returns its place, and
    /// the version below which it must not be served.
    pub(crate) fn sit(
        self: &Arc<Self>,
        environment: &EnvironmentKey,
        id: Option<&str>,
        now: Box<dyn Fn() -> Duration + Send + Sync>,
    ) -> (Seat, Version) {
        let id: Option<Arc<str>> = id.map(Arc::from);
        let mut inner = self.lock();
        inner.generation += 1;
        let here = inner.environments.entry(environment.clone()).or_default();
        match &id {
            None => here.unnamed += 1,
            Some(id) => {
                let evaluator = here.by_id.entry(id.clone()).or_default();
                here.gone.remove(&(evaluator.seen, id.clone()));
                evaluator.streams += 1;
                evaluator.seen = now();
            }
        }
        let floor = here.floor;
        drop(inner);
        let seat = Seat {
            receipts: self.clone(),
            environment: environment.clone(),
            id,
            bound: None,
            now,
        };
        (seat, floor)
    }

    /// Notes that an evaluator has applied a version.
    pub fn acknowledge(
        &self,
        environment: &EnvironmentKey,
        id: &str,
        version: Version,
        now: Duration,
    ) {
        let mut inner = self.lock();
        let here = inner.environments.entry(environment.clone()).or_default();
        here.acknowledge(id, version, now);
    }

    /// Notes a poll: what an evaluator asks to go on from, it has applied. What it is given now it may
    /// act on for as long as if it had had a stream until now. (I5) Returns the version below which it
    /// must not be served.
    pub(crate) fn polled(
        &self,
        environment: &EnvironmentKey,
        id: Option<&str>,
        have: Option<Version>,
        bound: Duration,
        now: Duration,
    ) -> Version {
        let mut inner = self.lock();
        let here = inner.environments.entry(environment.clone()).or_default();
        here.told.retain(|bound, told| told.counts(*bound, now));
        here.told.entry(bound).or_default().ended = now;
        match id {
            None => here.doubt = Some(now),
            Some(id) => here.acknowledge(id, have.unwrap_or(Version::ZERO), now),
        }
        here.floor
    }

    /// Waits until every evaluator that is connected has acknowledged a version. Cancelling is how
    /// to give up.
    pub async fn delivered(&self, environment: &EnvironmentKey, version: Version) {
        loop {
            let waiting = {
                let mut inner = self.lock();
                let here = inner.environments.entry(environment.clone()).or_default();
                let missing = here.missing(version);
                if missing.is_empty() {
                    return;
                }
                here.waiting.retain(|one| Arc::strong_count(one) > 1);
                let waiting = Arc::new(Waiting {
                    version,
                    missing: Mutex::new(missing),
                    done: Notify::new(),
                });
                here.waiting.push(waiting.clone());
                waiting
            };
            waiting.done.notified().await;
        }
    }

    /// Says who has what in an environment.
    pub fn count(&self, environment: &EnvironmentKey, now: Duration) -> Count {
        let inner = self.lock();
        let since = |then: Duration| {
            let passed = now.saturating_sub(then).as_millis();
            u64::try_from(passed).unwrap_or(u64::MAX)
        };
        let Some(here) = inner.environments.get(environment) else {
            return Count {
                doubt_ms: inner.doubt.map(since),
                ..Count::default()
            };
        };
        let known = here.by_id.iter().map(|(id, evaluator)| Known {
            id: id.to_string(),
            version: evaluator.acknowledged,
            connected: evaluator.streams > 0,
            seen_ms: since(evaluator.seen),
        });
        Count {
            evaluators: known.collect(),
            unnamed: here.unnamed as u64,
            doubt_ms: inner.doubt.max(here.doubt).map(since),
            bound_ms: here.bound_ms(now),
        }
    }

    /// Says who is connected; nothing when that is what it was in the generation `known`.
    pub fn roll(&self, known: Option<u64>, now: Duration) -> Option<Roll> {
        let inner = self.lock();
        if known == Some(inner.generation) {
            return None;
        }
        let here = inner.environments.iter().map(|(environment, here)| {
            let ids = here.by_id.iter().filter(|(_, one)| one.streams > 0);
            let present = Present {
                evaluators: ids.map(|(id, _)| id.to_string()).collect(),
                bound_ms: here.bound_ms(now),
            };
            (environment.clone(), present)
        });
        Some(Roll {
            generation: inner.generation,
            environments: here.collect(),
        })
    }
}

impl Start {
    /// Makes one of the time of day: milliseconds, with room for a million changes in each.
    pub(crate) fn at(unix_ms: u64) -> Self {
        Self(unix_ms << Self::CHANGES)
    }

    const CHANGES: u32 = 20;
}

impl Roll {
    /// Whether it is by the same start of the node as an earlier one. Of more than a million changes
    /// between the two it is not known, and denied.
    pub(crate) fn follows(&self, earlier: &Roll) -> bool {
        let changes = self.generation.checked_sub(earlier.generation);
        changes.is_some_and(|changes| changes >> Start::CHANGES == 0)
    }
}

impl Told {
    /// Whether somebody may still go by the bound.
    fn counts(&self, bound: Duration, now: Duration) -> bool {
        self.streams > 0 || now <= self.ended + bound
    }
}

impl Evaluators {
    fn bound_ms(&self, now: Duration) -> u64 {
        let told = self.told.iter().rev();
        let mut counting = told.filter(|(bound, told)| told.counts(**bound, now));
        counting
            .next()
            .map_or(0, |(bound, _)| bound.as_millis() as u64)
    }

    /// Notes that a stream goes by a staleness bound no longer.
    fn outgrew(&mut self, bound: Duration, now: Duration) {
        if let Some(told) = self.told.get_mut(&bound) {
            *told = Told {
                streams: told.streams.saturating_sub(1),
                ended: now,
            };
        }
        self.told.retain(|bound, told| told.counts(*bound, now));
    }

    fn missing(&self, version: Version) -> BTreeSet<Arc<str>> {
        let missing = self.by_id.iter();
        let missing = missing.filter(|(_, one)| one.streams > 0 && one.acknowledged < version);
        missing.map(|(id, _)| id.clone()).collect()
    }

    fn acknowledge(&mut self, id: &str, version: Version, now: Duration) {
        let known = self.by_id.get_key_value(id);
        let id = known.map_or_else(|| Arc::from(id), |(id, _)| id.clone());
        let evaluator = self.by_id.entry(id.clone()).or_default();
        evaluator.acknowledged = evaluator.acknowledged.max(version);
        match evaluator.streams {
            0 => self.gone(&id, now),
            _ => evaluator.seen = now,
        }
        self.waiting.retain(|waiting| !waiting.hears(&id, version));
    }

    /// Notes that an evaluator without a stream was heard of, and forgets who left long ago, and of
    /// too many the oldest.
    fn gone(&mut self, id: &Arc<str>, now: Duration) {
        if let Some(evaluator) = self.by_id.get_mut(id) {
            self.gone.remove(&(evaluator.seen, id.clone()));
            evaluator.seen = now;
            self.gone.insert((now, id.clone()));
        }
        while let Some((seen, id)) = self.gone.first().cloned() {
            let long_ago = now.saturating_sub(seen) > REMEMBERED;
            if !long_ago && self.gone.len() <= GONE_MAX {
                return;
            }
            self.gone.pop_first();
            self.by_id.remove(&id);
            self.doubt = self.doubt.max(Some(seen)); // I5
        }
    }
}

impl Waiting {
    /// Takes a receipt; true when it was the last one.
    fn hears(&self, id: &str, version: Version) -> bool {
        version >= self.version && self.lacks(id)
    }

    /// Waits for one less; true when there is none left.
    fn lacks(&self, id: &str) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.remove(id);
        if missing.is_empty() {
            self.done.notify_one();
        }
        missing.is_empty()
    }
}

impl Seat {
    /// What the evaluator calls itself.
    pub(crate) fn client(&self) -> Option<Arc<str>> {
        self.id.clone()
    }

    /// Notes the staleness bound that the stream is told.
    pub(crate) fn told(&mut self, bound: Duration) {
        let before = self.bound.replace(bound);
        let mut inner = self.receipts.lock();
        inner.generation += 1;
        let here = inner
            .environments
            .entry(self.environment.clone())
            .or_default();
        here.told.entry(bound).or_default().streams += 1;
        if let Some(before) = before {
            here.outgrew(before, (self.now)());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.receipts.lock();
        inner.generation += 1;
        let Some(here) = inner.environments.get_mut(&self.environment) else {
            return;
        };
        if let Some(bound) = self.bound {
            here.outgrew(bound, (self.now)());
        }
        let Some(id) = &self.id else {
            here.unnamed = here.unnamed.saturating_sub(1);
            here.doubt = Some((self.now)()); // I5
            return;
        };
        let Some(evaluator) = here.by_id.get_mut(id) else {
            return;
        };
        evaluator.streams = evaluator.streams.saturating_sub(1);
        if evaluator.streams == 0 {
            here.gone(id, (self.now)());
            here.waiting.retain(|waiting| !waiting.lacks(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const NOW: Duration = Duration::from_secs(1);

    fn e() -> EnvironmentKey {
        "e".parse().unwrap()
    }

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn sit(receipts: &Arc<Receipts>, id: Option<&str>) -> Seat {
        receipts.sit(&e(), id, Box::new(|| NOW)).0
    }

    fn named(receipts: &Receipts) -> Vec<(String, u64, bool)> {
        let known = receipts.count(&e(), NOW).evaluators.into_iter();
        known
            .map(|one| (one.id, one.version.get(), one.connected))
            .collect()
    }

    #[test]
    fn an_evaluator_is_known_from_its_stream_on_and_after_it_left() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let (a, _unnamed) = (sit(&receipts, Some("a")), sit(&receipts, None));
        assert_eq!(named(&receipts), [("a".to_owned(), 0, true)]);
        receipts.acknowledge(&e(), "a", v(7), NOW);
        receipts.acknowledge(&e(), "a", v(5), NOW);
        assert_eq!(named(&receipts), [("a".to_owned(), 7, true)], "never back");
        let again = sit(&receipts, Some("a"));
        drop(a);
        assert_eq!(named(&receipts), [("a".to_owned(), 7, true)]);
        drop(again);
        assert_eq!(named(&receipts), [("a".to_owned(), 7, false)]);
        assert_eq!(receipts.count(&e(), NOW).unnamed, 1);
    }

    #[test]
    fn who_polls_is_known_by_what_it_asks_to_go_on_from() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let bound = Duration::from_secs(10);
        receipts.polled(&e(), Some("p"), None, bound, NOW);
        let later = NOW + Duration::from_secs(3);
        let of = |now| receipts.count(&e(), now);
        let known = |version, seen_ms| Known {
            id: "p".into(),
            version: Version::new(version).unwrap(),
            connected: false,
            seen_ms,
        };
        assert_eq!(of(later).evaluators, [known(0, 3_000)]);
        receipts.polled(&e(), Some("p"), Version::new(7), bound, later);
        assert_eq!(of(later).evaluators, [known(7, 0)]);
        assert_eq!((of(later).doubt_ms, of(later).bound_ms), (None, 10_000));
        receipts.polled(&e(), None, Version::new(7), bound, later);
        let end = later + Duration::from_secs(11);
        let count = of(end);
        assert_eq!(count.evaluators, [known(7, 11_000)]);
        assert_eq!((count.doubt_ms, count.bound_ms), (Some(11_000), 0));
    }

    #[test]
    fn whoever_is_known_by_no_name_leaves_a_doubt() {
        let s = Duration::from_secs;
        let doubt_ms = |receipts: &Receipts| receipts.count(&e(), s(20)).doubt_ms;
        let first = Arc::new(Receipts::new(Start::default(), None));
        let (named, unnamed) = (sit(&first, Some("a")), sit(&first, None));
        drop(named);
        assert_eq!(doubt_ms(&first), None, "who left is remembered");
        drop(unnamed);
        assert_eq!(doubt_ms(&first), Some(19_000));
        // Who had a stream before the node started, and from one that is no member any more.
        let again = Receipts::new(Start::default(), Some(s(5)));
        assert_eq!(doubt_ms(&again), Some(15_000));
        again.acknowledge(&e(), "a", v(7), s(6));
        assert_eq!(doubt_ms(&again), Some(15_000), "in any environment");
        again.members([1, 2].into(), true, s(7));
        again.members([1, 2, 3].into(), true, s(8));
        assert_eq!(doubt_ms(&again), Some(15_000), "who came took nobody along");
        again.members([1, 3].into(), false, s(9));
        assert_eq!(doubt_ms(&again), Some(11_000));
        again.members([1, 3].into(), true, s(10));
        again.members([1, 3].into(), true, s(11));
        assert_eq!(doubt_ms(&again), Some(10_000), "until it was committed");
    }

    #[test]
    fn who_comes_after_something_was_said_of_a_version_is_given_no_less() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let floor = |receipts: &Arc<Receipts>| receipts.sit(&e(), None, Box::new(|| NOW)).1;
        assert_eq!(floor(&receipts), Version::ZERO);
        receipts.say(&e(), v(7));
        receipts.say(&e(), v(5));
        assert_eq!(floor(&receipts), v(7));
        let polled = receipts.polled(&e(), Some("p"), None, NOW, NOW);
        assert_eq!(polled, v(7));
    }

    #[test]
    fn a_list_follows_one_of_the_same_start_only() {
        let roll = |at: u64, changes: u64| Roll {
            generation: Start::at(at).0 + changes,
            environments: Vec::new(),
        };
        assert!(roll(5, 9).follows(&roll(5, 9)) && roll(5, 1 << 19).follows(&roll(5, 0)));
        assert!(!roll(6, 0).follows(&roll(5, 0)) && !roll(6, 9).follows(&roll(4, 12)));
        assert!(!roll(5, 9).follows(&roll(5, 10)), "a clock was set back");
    }

    #[test]
    fn who_waits_is_woken_by_the_last_receipt() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let seats = ["a", "b", "c"].map(|id| sit(&receipts, Some(id)));
        let mut waiting = Box::pin(async { receipts.delivered(&e(), v(7)).await });
        let mut is_done = || waiting.as_mut().now_or_never().is_some();
        assert!(!is_done());
        receipts.acknowledge(&e(), "a", v(7), NOW);
        receipts.acknowledge(&e(), "b", v(6), NOW);
        assert!(!is_done());
        receipts.acknowledge(&e(), "b", v(8), NOW);
        assert!(!is_done());
        let [_a, _b, c] = seats;
        // Who left is no connected evaluator any more.
        drop(c);
        assert!(is_done());
        assert!(receipts.delivered(&e(), v(8)).now_or_never().is_none());
    }

    #[test]
    fn who_comes_while_somebody_waits_is_waited_for() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let _a = sit(&receipts, Some("a"));
        let mut waiting = Box::pin(async { receipts.delivered(&e(), v(7)).await });
        let mut is_done = || waiting.as_mut().now_or_never().is_some();
        assert!(!is_done());
        let _b = sit(&receipts, Some("b"));
        receipts.acknowledge(&e(), "a", v(7), NOW);
        assert!(!is_done());
        receipts.acknowledge(&e(), "b", v(7), NOW);
        assert!(is_done());
    }

    #[test]
    fn those_who_left_are_forgotten_when_they_are_many_or_long_gone() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let stays = sit(&receipts, Some("stays"));
        for n in 0..GONE_MAX + 10 {
            let at = NOW + Duration::from_millis(n as u64);
            receipts.acknowledge(&e(), &format!("{n:06}"), v(1), at);
        }
        let names = named(&receipts);
        assert_eq!(names.len(), GONE_MAX + 1);
        assert_eq!(names[0].0, "000010");
        receipts.acknowledge(&e(), "new", v(1), NOW + 2 * REMEMBERED);
        assert_eq!(named(&receipts).len(), 2, "and who is connected stays");
        drop(stays);
        // The last that went because there were too many.
        let doubt = NOW + Duration::from_millis(GONE_MAX as u64 + 9);
        let count = receipts.count(&e(), doubt + NOW);
        assert_eq!(count.doubt_ms, Some(1_000));
    }

    #[test]
    fn a_list_is_given_only_when_somebody_came_or_went() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let a = sit(&receipts, Some("a"));
        let Roll {
            generation,
            environments,
        } = receipts.roll(None, NOW).unwrap();
        assert_eq!(environments[0].1.evaluators, ["a"]);
        receipts.acknowledge(&e(), "a", v(1), NOW);
        assert_eq!(receipts.roll(Some(generation), NOW), None);
        drop(a);
        let left = receipts.roll(Some(generation), NOW).unwrap();
        assert_eq!(left.environments, [(e(), Present::default())]);
    }

    #[test]
    fn a_greater_bound_counts_as_long_as_somebody_may_go_by_it() {
        let receipts = Arc::new(Receipts::new(Start::default(), None));
        let s = Duration::from_secs;
        let bound_ms = |at| {
            let all = receipts.roll(None, at).unwrap().environments;
            assert_eq!(all[0].1.bound_ms, receipts.count(&e(), at).bound_ms);
            all[0].1.bound_ms
        };
        let (mut cut, mut stays) = (sit(&receipts, None), sit(&receipts, Some("a")));
        assert_eq!(bound_ms(NOW), 0);
        cut.told(s(60));
        stays.told(s(60));
        stays.told(s(10));
        assert_eq!(bound_ms(s(1_000)), 60_000, "the other one goes by it");
        drop(cut);
        assert_eq!(bound_ms(NOW + s(60)), 60_000, "and may go by it still");
        assert_eq!(bound_ms(NOW + s(61)), 10_000);
        drop(stays);
        assert_eq!(bound_ms(NOW + s(11)), 60_000);
        assert_eq!(bound_ms(NOW + s(61)), 0);
    }
}
