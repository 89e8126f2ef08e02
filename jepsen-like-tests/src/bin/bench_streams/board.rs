//! Who has seen the change: the moment at which the last of many readers has.
//!
//! What must hold: each reader counts once per change, whatever it reports and how often; the moment
//! is taken by the reader itself, before it waits for anything here. One change is under way at a
//! time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jepsen_like_tests::{Failure, Result};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Which change is under way; none before the first.
    change: u64,
    wanted: usize,
    seen: Vec<Seen>,
}

/// What one reader has seen, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Where the reader is: a number of whoever gave out the seats.
    pub(crate) place: usize,
    pub(crate) version: u64,
    pub(crate) at: Instant,
}

/// The place of one reader.
#[derive(Debug)]
pub(crate) struct Seat {
    board: Arc<Board>,
    place: usize,
    change: u64,
}

impl Board {
    pub(crate) fn seat(self: &Arc<Self>, place: usize) -> Seat {
        Seat {
            board: self.clone(),
            place,
            change: 0,
        }
    }

    /// Begins a change that this many readers will see. What is left of an earlier one is forgotten.
    pub(crate) fn begin(&self, wanted: usize) {
        let mut state = self.state();
        state.change += 1;
        state.wanted = wanted;
        state.seen.clear();
        state.seen.reserve(wanted);
    }

    /// Waits until all have seen the change, and returns who saw what when, the first first.
    pub(crate) async fn complete(&self, within: Duration) -> Result<Vec<Seen>> {
        let waiting = async {
            loop {
                let complete = self.complete.notified();
                {
                    let state = self.state();
                    if state.seen.len() >= state.wanted {
                        return state.seen.clone();
                    }
                }
                complete.await;
            }
        };
        let waited = tokio::time::timeout(within, waiting).await;
        let mut seen = waited.map_err(|_| {
            let state = self.state();
            let (seen, wanted) = (state.seen.len(), state.wanted);
            Failure::new(format!(
                "{seen} of {wanted} saw the change within {within:?}"
            ))
        })?;
        seen.sort_by_key(|seen| seen.at);
        Ok(seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Reports a version; counts if it is the first since the change began.
    pub(crate) fn saw(&mut self, version: u64) {
        let at = Instant::now();
        let mut state = self.board.state();
        if self.change == state.change {
            return;
        }
        self.change = state.change;
        let place = self.place;
        state.seen.push(Seen { place, version, at });
        // Every reader waking the one who waits would cost those who have not seen it yet.
        let complete = state.seen.len() >= state.wanted;
        drop(state);
        if complete {
            self.board.complete.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_reader_counts_once_per_change() {
        let board = Arc::new(Board::default());
        let (mut one, mut other) = (board.seat(1), board.seat(2));
        one.saw(1); // Before any change.
        let moment = Duration::from_millis(20);
        for version in [7, 8] {
            board.begin(2);
            one.saw(version);
            one.saw(version + 10);
            assert!(board.complete(moment).await.is_err());
            other.saw(version);
            let seen = board.complete(moment).await.unwrap();
            let versions: Vec<u64> = seen.iter().map(|seen| seen.version).collect();
            assert_eq!(versions, [version, version]);
            assert_eq!((seen[0].place, seen[1].place), (1, 2));
            assert!(seen[0].at <= seen[1].at);
        }
    }
}
