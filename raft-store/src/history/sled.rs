//! The shell around sled: opening, the queue, the writer thread, and failures kept.
//!
//! The writer thread takes entries in the order in which they came, those of a tenth of a second in one
//! batch: the next one is a while away or there are many, and sled's cost is by the batch. Whoever reads,
//! drains or refills first waits until what was queued before is dealt with. The first failure is
//! kept: from then on entries are dropped, since a gap would be taken for the truth later, and
//! every call fails until a refill succeeds. Waiting here is real waiting, with real time in two
//! deadlines: the simulation has [`super::MemoryHistory`] in its place.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::disk::is_out_of_files;

use super::files::{
    DirLock, closed, discard, disk_bytes, generations, guarded, is_environment, lock_dir,
};
use super::store::{Store, VERSIONS, version_key};
use super::writer::{Entry, Writer};
use super::{
    Extent, History, HistoryOptions, HistoryRecord, Keep, Opened, READ_LIMIT_MAX, Refill,
    entry_bytes,
};

/// How long an entry waits for others, and how many of them, and bytes, make a batch.
const GATHER_MAX: Duration = Duration::from_millis(100);
const BATCH_LEN: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Between two looks whether there is space again.
const SPACE_PAUSE: Duration = Duration::from_millis(200);

/// History in sled. One directory, one process, one writer thread.
#[derive(Debug)]
pub struct SledHistory {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<DirLock>>,
}

impl SledHistory {
    /// Opens the history in `dir` (made if missing) and checks all it holds: every crc, both
    /// indexes, the counts and the sum. Whatever is wrong with the content ends in
    /// [`Opened::Rebuilt`].
    ///
    /// # Errors
    /// Only what deleting the store would not mend: another process has it open, no permission, no
    /// space, no file handles, no thread.
    pub fn open(dir: &Path, options: HistoryOptions) -> io::Result<Opened> {
        fs::create_dir_all(dir)?;
        let lock = lock_dir(dir)?;
        let mut found = generations(dir)?;
        let next = found.last().map_or(1, |newest| newest + 1);
        let mut complaints = Vec::new();
        let mut writer = None;
        while let (None, Some(generation)) = (&writer, found.pop()) {
            match Writer::open(dir, generation, &options) {
                // An unfinished refill is no loss while the generation before it is there.
                Ok(opened) if opened.totals.complete || (opened.is_new() && found.is_empty()) => {
                    writer = Some(opened);
                }
                Ok(_) => {
                    complaints.push(format!("generation {generation}: a refill was interrupted"))
                }
                Err(error) if is_environment(&error) => return Err(error),
                Err(error) => complaints.push(format!("generation {generation}: {error}")),
            }
            if writer.is_none() {
                discard(dir, generation)?;
            }
        }
        found
            .into_iter()
            .try_for_each(|older| discard(dir, older))?;
        let rebuilt = writer.is_none() && !complaints.is_empty();
        let writer = match writer {
            Some(writer) => writer,
            None => Writer::open(dir, next, &options)?,
        };
        let history = Self::start(writer, lock)?;
        let why = complaints.join("; ");
        if !why.is_empty() {
            tracing::warn!(dir = %dir.display(), why, rebuilt, "history: a store was unusable");
        }
        Ok(if rebuilt {
            Opened::Rebuilt { history, why }
        } else {
            Opened::Ready(history)
        })
    }

    fn start(writer: Writer, lock: DirLock) -> io::Result<Self> {
        let outgrown = writer.outgrown;
        let shared = Arc::new(Shared {
            applied: AtomicU64::new(writer.totals.applied),
            store: RwLock::new(Some(Arc::clone(&writer.store))),
            options: writer.options.clone(),
            queue: Mutex::new(Queue {
                keep: writer.keep,
                ..Queue::default()
            }),
            writer: Mutex::new(Some(writer)),
            work: Condvar::new(),
            moved: Condvar::new(),
            scans: RwLock::default(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write_until_closed(&theirs, outgrown))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Runs a read against the current store. A store that was replaced meanwhile may fail because
    /// its files are gone: then the new one is asked.
    fn read<T>(&self, op: impl Fn(&Store) -> io::Result<T>) -> io::Result<T> {
        loop {
            let store = self.shared.readable_store()?;
            let result = guarded(|| op(&store));
            match &result {
                Err(_) if !self.shared.is_current(&store) => {}
                Err(error) => {
                    self.shared.fail(format!("reading failed: {error}"));
                    return result;
                }
                Ok(_) => return result,
            }
        }
    }
}

impl History for SledHistory {
    fn begin(&self, applied: u64, refill: Refill) -> io::Result<()> {
        match self.applied() < applied {
            true => refill(self),
            false => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        lock(&self.shared.queue).is_full(&self.shared.options, 0)
    }

    fn wait_for_room(&self) {
        drop(self.shared.with_room(0));
    }

    fn record(&self, applied: u64, records: Vec<HistoryRecord>) {
        self.shared.put(applied, records);
    }

    fn keep(&self, keep: Keep) {
        lock(&self.shared.queue).keep = keep;
    }

    fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::Acquire)
    }

    fn drain(&self) -> io::Result<u64> {
        self.shared.settled_store()?;
        let mut slot = lock(&self.shared.writer);
        let writer = slot.as_mut().ok_or_else(closed)?;
        let result = guarded(|| writer.sync());
        if let Err(error) = &result
            && !is_out_of_files(error)
        {
            self.shared.fail(format!("flushing failed: {error}"));
        }
        result.map(|()| writer.totals.applied)
    }

    fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        let limit = limit.min(READ_LIMIT_MAX);
        let mut lines = self.shared.unwritten(|line| line.object == object, before);
        let written = self.read(|store| store.of_object(object, before, limit))?;
        add_older(&mut lines, written);
        lines.truncate(limit);
        Ok(lines)
    }

    fn latest(&self, before: Option<u64>, limit: usize) -> io::Result<Vec<HistoryRecord>> {
        let limit = limit.min(READ_LIMIT_MAX);
        let mut lines = self.shared.unwritten(|_| true, before);
        let written = self.read(|store| store.latest(before, limit))?;
        add_older(&mut lines, written);
        // A version is never cut in two.
        if let Some(last) = lines.get(limit.saturating_sub(1)).map(|line| line.version) {
            lines.retain(|line| line.version >= last);
        }
        Ok(lines)
    }

    fn extent(&self, object: &[u8]) -> io::Result<Extent> {
        self.read(|store| store.extent(object))
    }

    fn for_each_up_to(
        &self,
        version_max: u64,
        f: &mut dyn FnMut(HistoryRecord) -> io::Result<()>,
    ) -> io::Result<()> {
        let _scan = self
            .shared
            .scans
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let store = self.shared.settled_store()?;
        let mut end = version_key(version_max, &[]);
        if version_max == u64::MAX {
            end = vec![VERSIONS + 1];
        } else {
            end[1..].copy_from_slice(&(version_max + 1).to_be_bytes());
        }
        loop {
            let chunk = guarded(|| store.chunk_below(&end)).inspect_err(|error| {
                if self.shared.is_current(&store) {
                    self.shared.fail(format!("reading failed: {error}"));
                }
            })?;
            let Some(last) = chunk.last() else {
                return Ok(());
            };
            end = version_key(last.version, &last.object);
            chunk.into_iter().try_for_each(&mut *f)?;
        }
    }

    fn replace_all(
        &self,
        applied: u64,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<()> {
        // What waits for space is older than the records, or comes again.
        if let Err(error) = self.shared.settle() {
            tracing::debug!(%error, "history: refilled before all of it was written");
        }
        let mut slot = lock(&self.shared.writer);
        let old = slot.as_mut().ok_or_else(closed)?;
        let keep = lock(&self.shared.queue).keep;
        let fresh = old.refilled(applied, keep, records)?;
        let (dir, generation) = (old.dir.clone(), old.generation);
        *write(&self.shared.store) = Some(Arc::clone(&fresh.store));
        *old = fresh;
        self.shared.applied.store(applied, Ordering::Release);
        lock(&self.shared.queue).failed = None;
        discard(&dir, generation)
    }

    fn failed(&self) -> Option<String> {
        lock(&self.shared.queue).failed.clone()
    }

    fn close(&self) {
        lock(&self.shared.queue).closed = true;
        self.shared.work.notify_all();
        self.shared.moved.notify_all();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("history: the writer thread panicked");
        }
        let writer = lock(&self.shared.writer).take();
        *write(&self.shared.store) = None;
        if let Some(mut writer) = writer
            && self.failed().is_none()
            && let Err(error) = guarded(|| writer.sync())
        {
            // Nothing is lost: what is missing here is in the log and comes again.
            tracing::warn!(%error, "history: not made durable at close");
        }
        *lock(&self.lock) = None;
    }
}

impl Drop for SledHistory {
    fn drop(&mut self) {
        self.close();
    }
}

/// What callers and the writer thread share. Locks are taken in the order writer, store, queue.
#[derive(Debug)]
struct Shared {
    options: HistoryOptions,
    applied: AtomicU64,
    store: RwLock<Option<Arc<Store>>>,
    writer: Mutex<Option<Writer>>,
    queue: Mutex<Queue>,
    /// Wakes the writer thread: an entry, or the end.
    work: Condvar,
    /// Wakes callers: room, progress, a failure, the end.
    moved: Condvar,
    /// Held for reading by whoever goes through all records, which takes long and must not lose the files
    /// it reads.
    scans: RwLock<()>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// What the next entry says is kept.
    keep: Keep,
    bytes: usize,
    /// Entries ever queued, and ever dealt with. Their difference includes the one being written.
    put: u64,
    done: u64,
    /// Somebody waits until so many are dealt with.
    wanted: u64,
    failed: Option<String>,
    /// The writer thread waits for space; the next entry is still queued.
    waits_for_space: bool,
    closed: bool,
}

impl Queue {
    /// Whether so many bytes more have to wait.
    fn is_full(&self, options: &HistoryOptions, bytes: usize) -> bool {
        // While all wait for space the only bound is that of the log: a node that is started on a full
        // disk applies what its log holds and then serves.
        self.failed.is_none()
            && !self.closed
            && !self.waits_for_space
            && (self.put - self.done >= options.queue_len_max.max(1) as u64
                || (!self.entries.is_empty() && self.bytes + bytes > options.queue_bytes_max))
    }

    fn is_wanted(&self) -> bool {
        self.done < self.wanted
    }

    /// Whether there is enough for a batch, or callers may soon have to wait.
    fn is_much(&self, options: &HistoryOptions) -> bool {
        let len = BATCH_LEN.min(options.queue_len_max / 2).max(1);
        let bytes = BATCH_BYTES.min(options.queue_bytes_max / 2);
        self.entries.len() >= len || (!self.entries.is_empty() && self.bytes >= bytes)
    }
}

/// Entries on their way into the store.
struct Taken {
    entries: Vec<Entry>,
    bytes: usize,
    /// The newest of them.
    last: u64,
    failed: bool,
}

impl Shared {
    /// The queue, once so many bytes more have room in it.
    fn with_room(&self, bytes: usize) -> MutexGuard<'_, Queue> {
        let mut queue = lock(&self.queue);
        while queue.is_full(&self.options, bytes) {
            queue = self
                .moved
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue
    }

    fn put(&self, applied: u64, records: Vec<HistoryRecord>) {
        let bytes = entry_bytes(&records);
        let mut queue = self.with_room(bytes);
        if queue.failed.is_some() || queue.closed {
            return;
        }
        let keep = queue.keep;
        queue.entries.push_back((applied, keep, records));
        queue.bytes += bytes;
        queue.put += 1;
        // While it gathers, only enough of it ends that.
        let wake = queue.entries.len() == 1 || queue.is_much(&self.options);
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }

    /// Waits until everything queued before the call has been dealt with.
    ///
    /// # Errors
    /// `StorageFull` when that waits for space: nobody knows how long.
    fn settle(&self) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        let target = queue.put;
        queue.wanted = target;
        self.work.notify_one();
        while queue.done < target {
            if queue.waits_for_space {
                let text =
                    "the disk is nearly full: the newest lines of the history are not written yet";
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            queue = self
                .moved
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Waits for an entry, and then a little for more: what a batch costs is mostly the same for one
    /// entry as for many. Not while somebody waits for what is queued, nor while it is much.
    fn gather(&self) {
        let mut queue = lock(&self.queue);
        let mut until = None;
        while !queue.closed && !queue.is_wanted() && !queue.is_much(&self.options) {
            let now = Instant::now();
            queue = match until {
                None if queue.entries.is_empty() => self
                    .work
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                None => {
                    until = Some(now + GATHER_MAX);
                    queue
                }
                Some(until) if now >= until => return,
                Some(until) => {
                    let waited = self.work.wait_timeout(queue, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes as many entries as one batch is to hold; `None` when it is over.
    fn take(&self) -> Option<Taken> {
        let mut queue = lock(&self.queue);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some((_, _, records)) = queue.entries.front() {
            let more = entry_bytes(records);
            if !entries.is_empty() && (bytes + more > BATCH_BYTES || entries.len() >= BATCH_LEN) {
                break;
            }
            bytes += more;
            entries.extend(queue.entries.pop_front());
        }
        let last = entries.last().map(|(applied, ..)| *applied)?;
        Some(Taken {
            entries,
            bytes,
            last,
            failed: queue.failed.is_some(),
        })
    }

    /// Waits until there is space, or the end, or a failure, after which nothing is written.
    fn wait_for_space(&self) {
        let mut queue = lock(&self.queue);
        while !queue.closed && queue.failed.is_none() && self.options.space.is_at_floor() {
            if !std::mem::replace(&mut queue.waits_for_space, true) {
                tracing::warn!("history: waiting until the disk has space");
                self.moved.notify_all();
            }
            let waited = self.work.wait_timeout(queue, SPACE_PAUSE);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waits_for_space = false;
    }

    /// The lines that are queued before the call and cannot be written for want of space, as far as they
    /// are asked for, in the order of [`History::latest`]. Take them before what is written: a line may
    /// be in both, and none is in neither.
    fn unwritten(
        &self,
        wanted: impl Fn(&HistoryRecord) -> bool,
        before: Option<u64>,
    ) -> Vec<HistoryRecord> {
        if self.settle().is_ok() {
            return Vec::new();
        }
        let queue = lock(&self.queue);
        let lines = queue.entries.iter().flat_map(|(_, _, records)| records);
        let lines = lines.filter(|line| before.is_none_or(|before| line.version < before));
        let mut lines: Vec<_> = lines.filter(|line| wanted(line)).cloned().collect();
        lines.sort_by(|a, b| (b.version, &b.object).cmp(&(a.version, &a.object)));
        lines
    }

    /// The store, once everything queued before the call is in it, or waits for space.
    fn readable_store(&self) -> io::Result<Arc<Store>> {
        match self.settle() {
            Err(why) if why.kind() == io::ErrorKind::StorageFull => {}
            settled => settled?,
        }
        self.open_store()
    }

    /// The store, once everything queued before the call is in it.
    fn settled_store(&self) -> io::Result<Arc<Store>> {
        self.settle()?;
        self.open_store()
    }

    fn open_store(&self) -> io::Result<Arc<Store>> {
        {
            let queue = lock(&self.queue);
            if queue.closed {
                return Err(closed());
            }
            if let Some(why) = &queue.failed {
                return Err(io::Error::other(format!("the history has failed: {why}")));
            }
        }
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store.clone().ok_or_else(closed)
    }

    /// Writes a store anew that takes much more of the disk than it needs. A failure leaves it as it is.
    fn rebuild(&self, writer: &mut Writer) {
        writer.outgrown = false;
        // Whoever reads all of it comes to an end, and the store is measured again.
        let Ok(_alone) = self.scans.try_write() else {
            return;
        };
        if self.options.space.is_at_floor() {
            return;
        }
        let (dir, generation) = (writer.dir.clone(), writer.generation);
        let before = disk_bytes(&writer.store.path);
        match guarded(|| writer.rebuilt()) {
            Ok(fresh) => {
                *write(&self.store) = Some(Arc::clone(&fresh.store));
                *writer = fresh;
                let after = disk_bytes(&writer.store.path);
                tracing::info!(
                    before,
                    after,
                    "history: written anew, it had outgrown what it holds"
                );
                if let Err(error) = discard(&dir, generation) {
                    tracing::warn!(%error, "history: the old store stays until the next start");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "history: could not be written anew, it stays as it is")
            }
        }
    }

    fn is_current(&self, store: &Arc<Store>) -> bool {
        let current = self.store.read().unwrap_or_else(PoisonError::into_inner);
        current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, store))
    }

    /// Keeps the first failure; logged here, once.
    fn fail(&self, why: String) {
        let mut queue = lock(&self.queue);
        if queue.failed.is_none() {
            tracing::error!(why, "history: stopped until it is refilled");
            queue.failed = Some(why);
        }
        drop(queue);
        self.moved.notify_all();
    }
}

/// The writer thread: entries in the order they came, some at a time. After a failure they are dropped,
/// because a gap would be taken for the truth later.
fn write_until_closed(shared: &Shared, outgrown: bool) {
    if outgrown && let Some(writer) = lock(&shared.writer).as_mut() {
        shared.rebuild(writer);
    }
    loop {
        shared.gather();
        shared.wait_for_space();
        let Some(taken) = shared.take() else {
            return;
        };
        shared.moved.notify_all(); // Room for more, while these are written.
        let (entries, bytes, last) = (taken.entries.len(), taken.bytes, taken.last);
        if !taken.failed {
            let mut slot = lock(&shared.writer);
            let result = match slot.as_mut() {
                Some(writer) => guarded(|| writer.entries(taken.entries)),
                None => Err(closed()),
            };
            match result {
                Ok(held) => {
                    if let Some(writer) = slot.as_mut().filter(|writer| writer.outgrown) {
                        shared.rebuild(writer);
                    }
                    shared.applied.store(held, Ordering::Release);
                }
                Err(error) => shared.fail(format!("writing up to entry {last} failed: {error}")),
            }
        }
        let mut queue = lock(&shared.queue);
        queue.bytes -= bytes;
        queue.done += entries as u64;
        drop(queue);
        shared.moved.notify_all();
    }
}

/// Adds lines that are older, or the same that are there.
fn add_older(lines: &mut Vec<HistoryRecord>, older: Vec<HistoryRecord>) {
    let known = lines.len();
    for line in older {
        let same =
            |have: &HistoryRecord| (have.version, &have.object) == (line.version, &line.object);
        if !lines[..known].iter().any(same) {
            lines.push(line);
        }
    }
}

/// A poisoned lock means a panic that was already turned into a failure.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
