//! A history that is opened while the node already serves.
//!
//! Opening reads and checks all that the store holds, which takes as long as loading the machine, and
//! nothing that a node answers first needs it. So a thread opens it, brings it in line with the snapshot
//! that the machine was loaded from, and writes what was recorded meanwhile.
//!
//! What must hold: whoever reads, drains or refills waits until that is done, so that nobody sees less
//! than everything recorded before; the order of entries stays; a store that cannot be opened is told
//! to whoever opened it and kept as the failure of this history.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::files::closed;
use super::{Extent, History, HistoryRecord, Keep, Refill, entry_bytes};

/// Most bytes that wait for the store, as in the store's own queue.
const QUEUE_BYTES_MAX: usize = 64 << 20;

type Open = Box<dyn FnOnce() -> Result<Arc<dyn History>, String> + Send>;

/// A history that a thread opens.
pub struct LateHistory {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Set when everything that waited is in the store.
    open: OnceLock<Arc<dyn History>>,
    waiting: Mutex<Waiting>,
    moved: Condvar,
}

#[derive(Default)]
struct Waiting {
    opener: Option<Open>,
    from: Option<(u64, Refill)>,
    entries: VecDeque<(u64, Option<Keep>, Vec<HistoryRecord>)>,
    /// What the next entry says is kept.
    keep: Option<Keep>,
    bytes: usize,
    failed: Option<String>,
    closed: bool,
}

impl LateHistory {
    /// Describes a history that `open` opens. It is called on a thread of its own, as soon as it is known
    /// what the history must be in line with ([`History::begin`]).
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(
        open: impl FnOnce() -> Result<Arc<dyn History>, String> + Send + 'static,
    ) -> io::Result<Self> {
        let waiting = Waiting {
            opener: Some(Box::new(open)),
            ..Waiting::default()
        };
        let shared = Arc::new(Shared {
            open: OnceLock::new(),
            waiting: Mutex::new(waiting),
            moved: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("history-late".to_owned())
            .spawn(move || theirs.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The store, once everything recorded before the call is handed to it.
    fn opened(&self) -> io::Result<&Arc<dyn History>> {
        let mut waiting = self.shared.lock();
        loop {
            if let Some(history) = self.shared.open.get() {
                return Ok(history);
            }
            if let Some(why) = &waiting.failed {
                return Err(io::Error::other(format!("the history has failed: {why}")));
            }
            if waiting.closed {
                return Err(closed());
            }
            waiting = self.shared.wait(waiting);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        self.moved
            .wait(waiting)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens, brings in line, hands over what waited.
    fn run(&self) {
        let mut waiting = self.lock();
        while waiting.from.is_none() && !waiting.closed {
            waiting = self.wait(waiting);
        }
        let (Some(open), Some((applied, refill))) = (waiting.opener.take(), waiting.from.take())
        else {
            return;
        };
        drop(waiting);
        let opened = open().and_then(|history| {
            let in_line = match history.applied() < applied {
                true => refill(history.as_ref()),
                false => Ok(()),
            };
            in_line.map(|()| history).map_err(|why| why.to_string())
        });
        let history = match opened {
            Ok(history) => history,
            Err(why) => {
                tracing::error!(why, "history: it cannot be opened");
                let mut waiting = self.lock();
                waiting.failed = Some(why);
                waiting.entries = VecDeque::new();
                drop(waiting);
                self.moved.notify_all();
                return;
            }
        };
        loop {
            let mut waiting = self.lock();
            let Some((applied, keep, records)) = waiting.entries.pop_front() else {
                waiting.keep.into_iter().for_each(|keep| history.keep(keep));
                // Under the lock: what is recorded from now on comes after all that waited.
                let _first = self.open.set(history);
                drop(waiting);
                self.moved.notify_all();
                return;
            };
            waiting.bytes -= entry_bytes(&records);
            drop(waiting);
            self.moved.notify_all();
            keep.into_iter().for_each(|keep| history.keep(keep));
            history.record(applied, records);
        }
    }
}

impl History for LateHistory {
    fn begin(&self, applied: u64, refill: Refill) -> io::Result<()> {
        self.shared.lock().from = Some((applied, refill));
        self.shared.moved.notify_all();
        Ok(())
    }

    fn is_full(&self) -> bool {
        match self.shared.open.get() {
            Some(history) => history.is_full(),
            None => self.shared.lock().is_full(),
        }
    }

    fn wait_for_room(&self) {
        let mut waiting = self.shared.lock();
        while self.shared.open.get().is_none() && waiting.is_full() {
            waiting = self.shared.wait(waiting);
        }
        drop(waiting);
        if let Some(history) = self.shared.open.get() {
            history.wait_for_room();
        }
    }

    fn record(&self, applied: u64, records: Vec<HistoryRecord>) {
        let mut waiting = self.shared.lock();
        while self.shared.open.get().is_none() && waiting.is_full() {
            waiting = self.shared.wait(waiting);
        }
        if let Some(history) = self.shared.open.get() {
            drop(waiting);
            return history.record(applied, records);
        }
        if waiting.failed.is_none() && !waiting.closed {
            waiting.bytes += entry_bytes(&records);
            let keep = waiting.keep;
            waiting.entries.push_back((applied, keep, records));
        }
    }

    fn keep(&self, keep: Keep) {
        let mut waiting = self.shared.lock();
        match self.shared.open.get() {
            Some(history) => history.keep(keep),
            None => waiting.keep = Some(keep),
        }
    }

    fn applied(&self) -> u64 {
        // Before it is open everything is recorded; the store knows what it has already.
        self.shared
            .open
            .get()
            .map_or(0, |history| history.applied())
    }

    fn drain(&self) -> io::Result<u64> {
        self.opened()?.drain()
    }

    fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        self.opened()?.of_object(object, before, limit)
    }

    fn latest(&self, before: Option<u64>, limit: usize) -> io::Result<Vec<HistoryRecord>> {
        self.opened()?.latest(before, limit)
    }

    fn extent(&self, object: &[u8]) -> io::Result<Extent> {
        self.opened()?.extent(object)
    }

    fn for_each_up_to(
        &self,
        version_max: u64,
        f: &mut dyn FnMut(HistoryRecord) -> io::Result<()>,
    ) -> io::Result<()> {
        self.opened()?.for_each_up_to(version_max, f)
    }

    fn replace_all(
        &self,
        applied: u64,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<()> {
        self.opened()?.replace_all(applied, records)
    }

    fn failed(&self) -> Option<String> {
        match self.shared.open.get() {
            Some(history) => history.failed(),
            None => self.shared.lock().failed.clone(),
        }
    }

    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.moved.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("history: the thread that opens it panicked");
        }
        if let Some(history) = self.shared.open.get() {
            history.close();
        }
    }
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.bytes > QUEUE_BYTES_MAX && self.failed.is_none() && !self.closed
    }
}

impl std::fmt::Debug for LateHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LateHistory").finish_non_exhaustive()
    }
}

impl Drop for LateHistory {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::{HistoryOptions, MemoryHistory};
    use super::*;

    fn line(version: u64) -> HistoryRecord {
        HistoryRecord {
            object: b"o".to_vec(),
            version,
            body: version.to_string().into(),
        }
    }

    fn versions(history: &dyn History) -> Vec<u64> {
        let found = history.latest(None, 100).unwrap();
        found.iter().map(|record| record.version).collect()
    }

    /// A history over a memory that holds up to 5, and the key that lets it open.
    fn late() -> (LateHistory, mpsc::Sender<Result<(), String>>) {
        let (key, lock) = mpsc::channel::<Result<(), String>>();
        let late = LateHistory::new(move || {
            let memory = MemoryHistory::new(HistoryOptions::default());
            memory.record(5, vec![line(5)]);
            lock.recv().unwrap().map(|()| Arc::new(memory) as _)
        });
        (late.unwrap(), key)
    }

    fn keep(per_object_max: usize) -> Keep {
        Keep {
            per_object_max,
            ..HistoryOptions::default().keep
        }
    }

    #[test]
    fn what_is_kept_goes_with_the_entries() {
        let (late, key) = late();
        late.begin(4, no_refill()).unwrap();
        late.keep(keep(1));
        late.record(6, vec![line(6)]);
        late.keep(keep(3));
        late.record(7, vec![line(7)]);
        late.keep(keep(2));
        key.send(Ok(())).unwrap();
        assert_eq!(versions(&late), [7, 6]);
        for version in 8..11 {
            late.record(version, vec![line(version)]);
        }
        assert_eq!(versions(&late), [10, 9]);
    }

    fn no_refill() -> Refill {
        Box::new(|_| Err(io::Error::other("not wanted")))
    }

    #[test]
    fn what_is_recorded_before_it_is_open_is_there_in_its_order() {
        let (late, key) = late();
        late.begin(4, no_refill()).unwrap();
        for version in 4..8 {
            late.record(version, vec![line(version)]);
        }
        assert_eq!(late.applied(), 0);
        let late = Arc::new(late);
        let reader = std::thread::spawn({
            let late = late.clone();
            move || versions(&*late)
        });
        key.send(Ok(())).unwrap();
        // 4 is older than what the store has: it changes nothing.
        assert_eq!(reader.join().unwrap(), [7, 6, 5]);
        late.record(8, vec![line(8)]);
        assert_eq!((versions(&*late), late.applied()), (vec![8, 7, 6, 5], 8));
        late.keep(keep(2));
        late.record(9, vec![line(9)]);
        assert_eq!(versions(&*late), [9, 8]);
        late.close();
        assert!(late.latest(None, 1).is_err());
    }

    #[test]
    fn a_store_that_is_behind_the_snapshot_is_refilled_first() {
        let (late, key) = late();
        let refill: Refill =
            Box::new(|history| history.replace_all(9, &mut [Ok(line(8)), Ok(line(9))].into_iter()));
        late.begin(9, refill).unwrap();
        late.record(10, vec![line(10)]);
        key.send(Ok(())).unwrap();
        assert_eq!(versions(&late), [10, 9, 8]);
    }

    #[test]
    fn one_that_cannot_be_opened_says_so_and_takes_no_memory() {
        let (late, key) = late();
        late.begin(0, no_refill()).unwrap();
        late.record(6, vec![line(6)]);
        key.send(Err("planted".into())).unwrap();
        let why = late.latest(None, 1).unwrap_err().to_string();
        assert!(why.contains("planted"), "{why}");
        assert_eq!(late.failed().as_deref(), Some("planted"));
        late.record(7, vec![line(7)]);
        assert!(late.shared.lock().entries.is_empty());
    }

    #[test]
    fn one_that_was_never_begun_closes_at_once() {
        let (late, _key) = late();
        late.close();
        assert!(late.drain().is_err());
    }
}
