//! The request-id window: a retry gets the first answer instead of a second effect (I9).
//!
//! Ground state, replicated, decided by `apply` alone: what is remembered, for how long, and in
//! which order it is forgotten depends only on the number of committed requests. Not on time: the
//! time of day of a leader may jump by a month, and a request of a second ago must be known then. It
//! is kept in memory because `apply` must not wait for a disk, and in every snapshot because it must
//! survive.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::command::{Outcome, RequestId};
use crate::level::Features;

/// Requests remembered, the newest ones.
pub const REQUESTS_MAX: usize = 100_000;

/// One remembered request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Position in the order of arrival.
    pub sequence: u64,
    /// The caller's name and the hash of what was asked.
    pub request: RequestId,
    /// Leader time of the first decision.
    pub time_ms: u64,
    /// The first answer.
    pub outcome: Outcome,
}

/// What the window knows about a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never seen, or forgotten.
    New,
    /// Seen with the same content: this was the answer.
    Repeat(Arc<Remembered>),
    /// Seen with other content.
    Mismatch,
}

/// The window. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// It knows nothing: see [`crate::level::Features`].
    off: bool,
    by_key: OrdMap<Arc<str>, Arc<Remembered>>,
    by_arrival: OrdMap<u64, Arc<str>>,
    next: u64,
}

impl Window {
    /// The same of a release that has a window, or has none.
    pub(crate) fn of(self, features: Features) -> Window {
        let off = !features.remembers();
        Window { off, ..self }
    }

    /// Looks a request up.
    pub fn look_up(&self, request: &RequestId) -> Known {
        if cfg!(debug_assertions) && self.off {
            return Known::New;
        }
        match self.by_key.get(&request.key) {
            None => Known::New,
            Some(seen) if seen.request.fingerprint == request.fingerprint => {
                Known::Repeat(seen.clone())
            }
            Some(_) => Known::Mismatch,
        }
    }

    /// Remembers the first answer to a request and forgets the oldest of too many.
    pub(crate) fn remember(&mut self, request: RequestId, time_ms: u64, outcome: Outcome) {
        let sequence = self.next;
        self.restore(Remembered {
            sequence,
            request,
            time_ms,
            outcome,
        });
        self.forget();
    }

    /// Puts back one remembered request from a snapshot.
    pub(crate) fn restore(&mut self, remembered: Remembered) {
        let key = remembered.request.key.clone();
        self.next = self.next.max(remembered.sequence.saturating_add(1));
        self.by_arrival.insert(remembered.sequence, key.clone());
        self.by_key.insert(key, Arc::new(remembered));
    }

    fn forget(&mut self) {
        while self.by_key.len() > REQUESTS_MAX
            && let Some((sequence, key)) = self.by_arrival.get_min().cloned()
        {
            self.by_arrival.remove(&sequence);
            self.by_key.remove(&key);
        }
    }

    /// Everything remembered, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Remembered>> {
        self.by_arrival
            .values()
            .filter_map(|key| self.by_key.get(key))
    }

    /// How many requests are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_evaluator::Version;

    fn request(key: &str, fingerprint: u128) -> RequestId {
        RequestId {
            key: key.into(),
            fingerprint,
        }
    }

    fn written(version: u64) -> Outcome {
        Outcome::Written {
            version: Version::new(version).unwrap(),
            results: Vec::new(),
        }
    }

    #[test]
    fn a_repeat_gets_the_first_answer_and_other_content_is_a_mismatch() {
        let mut window = Window::default();
        assert_eq!(window.look_up(&request("a", 1)), Known::New);
        window.remember(request("a", 1), 10, written(7));
        match window.look_up(&request("a", 1)) {
            Known::Repeat(seen) => assert_eq!(seen.outcome, written(7)),
            other => panic!("{other:?}"),
        }
        assert_eq!(window.look_up(&request("a", 2)), Known::Mismatch);
    }

    #[test]
    fn the_oldest_goes_first_when_there_are_too_many_whatever_the_time() {
        let mut window = Window::default();
        for n in 0..=REQUESTS_MAX as u64 {
            let any_time = n * 7_919 % 1_000 * 86_400_000;
            window.remember(request(&n.to_string(), 0), any_time, written(n));
        }
        assert_eq!(window.len(), REQUESTS_MAX);
        assert_eq!(window.look_up(&request("0", 0)), Known::New);
        assert!(matches!(window.look_up(&request("1", 0)), Known::Repeat(_)));
        window.remember(request("late", 0), u64::MAX, written(1));
        assert_eq!(window.len(), REQUESTS_MAX);
        assert!(matches!(window.look_up(&request("2", 0)), Known::Repeat(_)));
    }

    #[test]
    fn restoring_in_any_order_keeps_the_order_of_arrival() {
        let mut first = Window::default();
        for n in 0..10u64 {
            first.remember(request(&n.to_string(), 0), n, written(n));
        }
        let mut second = Window::default();
        for seen in first.iter().cloned().collect::<Vec<_>>().into_iter().rev() {
            second.restore((*seen).clone());
        }
        assert!(first.iter().eq(second.iter()));
        assert_eq!(first.next, second.next);
    }
}
