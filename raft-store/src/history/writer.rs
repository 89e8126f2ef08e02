//! What entries change in the store: additions, trimming, counts and sum, in one batch.
//!
//! Must hold: a batch leaves the store as [`Store::check`] demands it, and what is
//! trimmed depends on the records alone, never on when it is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;

use crate::disk::is_out_of_files;

use super::files::{
    damaged, dir_bytes, discard, disk_bytes, generation_path, generations, guarded,
    remove_generating, trouble, wait_unlocked,
};
use super::groups::Touched;
use super::store::{Checked, Id, META_KEY, OWNER_KEY, Store, Totals, VERSIONS, frame, version_key};
use super::{HistoryOptions, HistoryRecord, Keep, entry_bytes, record_bytes};

/// Records refilled at a time.
const CHUNK_LEN_MAX: usize = 512;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Written since the last flush; bounds what sled keeps in memory.
const FLUSH_BYTES: usize = 4 << 20;
/// What the keys of a record and its object's count take, about.
const RECORD_OVERHEAD: usize = 200;
/// Opening may take this long, and a second more for each [`OPEN_BYTES_PER_SECOND`] on disk.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(60);
const OPEN_BYTES_PER_SECOND: u64 = 1 << 20;

/// An entry: its index, what is kept from it on, and its records.
pub(super) type Entry = (u64, Keep, Vec<HistoryRecord>);

/// The one hand that writes: the store and what is known about its content.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) generation: u64,
    pub(super) options: HistoryOptions,
    /// What is kept from the next write on.
    pub(super) keep: Keep,
    /// No object has more records than this.
    longest_max: usize,
    /// No record is of an earlier time: times rise with versions, so what comes after all others
    /// leaves it true.
    oldest_ms: u64,
    pub(super) store: Arc<Store>,
    pub(super) totals: Totals,
    /// Whether the store says whose it is.
    is_owned: bool,
    /// Versions ever held lie within; one outside is new for certain, which saves a lookup.
    span: Option<(u64, u64)>,
    /// Files of large values that were synced before.
    synced_blobs: BTreeSet<PathBuf>,
    /// Bytes written since sled was last flushed.
    unflushed: usize,
    /// What it takes of the disk is only looked at beyond this. Doubled with each look, which reads
    /// everything.
    disk_min: u64,
    /// Whether it took much more than it holds.
    pub(super) outgrown: bool,
}

impl Writer {
    /// Opens and checks one generation on a thread of its own, because sled may panic or hang on
    /// damaged files. A thread that hangs is left behind; its files are never used again.
    pub(super) fn open(dir: &Path, generation: u64, options: &HistoryOptions) -> io::Result<Self> {
        let path = generation_path(dir, generation);
        fs::create_dir_all(&path)?;
        remove_generating(&path)?;
        wait_unlocked(&path.join("db"))?;
        let wait = OPEN_WAIT_MAX + Duration::from_secs(dir_bytes(&path) / OPEN_BYTES_PER_SECOND);
        let (answer, opened) = mpsc::sync_channel(1);
        let (theirs, cache_bytes, cluster) = (path.clone(), options.cache_bytes, options.cluster);
        std::thread::Builder::new()
            .name("history-open".to_owned())
            .spawn(move || {
                let result = guarded(|| {
                    let store = Store::open(&theirs, cache_bytes)?;
                    let owner = store.owner()?;
                    match (owner, cluster) {
                        (Some(owner), Some(cluster)) if owner != cluster => {
                            let why = format!("it is of cluster {owner}, not of {cluster}");
                            return Err(damaged(why));
                        }
                        _ => {}
                    }
                    let checked = store.check()?;
                    Ok((store, checked, owner.is_some()))
                });
                // Nobody listens after the deadline; then the store is dropped here.
                drop(answer.send(result));
            })?;
        let (store, checked, is_owned) = opened
            .recv_timeout(wait)
            .map_err(|_| damaged(format!("sled did not open within {} s", wait.as_secs())))??;
        let Checked { totals, span, live } = checked;
        let mut writer = Self {
            dir: dir.to_owned(),
            generation,
            options: options.clone(),
            keep: options.keep,
            longest_max: usize::MAX,
            oldest_ms: 0,
            store: Arc::new(store),
            totals,
            is_owned,
            span,
            synced_blobs: BTreeSet::new(),
            unflushed: 0,
            disk_min: options.rebuild_min_bytes,
            outgrown: false,
        };
        writer.compare(disk_bytes(&writer.store.path), live);
        Ok(writer)
    }

    /// Compares what the store takes of the disk with what it holds. sled uses the place of what was
    /// replaced again, but not always, and gives nothing back.
    fn measure(&mut self) -> io::Result<()> {
        let disk = disk_bytes(&self.store.path);
        if disk > self.disk_min {
            let live = self.store.live()?;
            self.compare(disk, live);
        }
        Ok(())
    }

    fn compare(&mut self, disk: u64, live: u64) {
        if disk > self.disk_min {
            self.outgrown = disk > live * self.options.rebuild_multiple.max(2);
            self.disk_min = 2 * disk;
        }
    }

    /// The next generation with the same records, durable, in as little space as they need.
    pub(super) fn rebuilt(&self) -> io::Result<Self> {
        let (mut end, mut chunk) = (vec![VERSIONS + 1], Vec::new().into_iter());
        let mut records = std::iter::from_fn(|| {
            if chunk.len() == 0 {
                match guarded(|| self.store.chunk_below(&end)) {
                    Ok(next) => chunk = next.into_iter(),
                    Err(error) => return Some(Err(error)),
                }
                let last: &HistoryRecord = chunk.as_slice().last()?;
                end = version_key(last.version, &last.object);
            }
            chunk.next().map(Ok)
        });
        let mut fresh = self.refilled(self.totals.applied, self.keep, &mut records)?;
        if fresh.totals != self.totals {
            let (old, new, generation) = (self.totals, fresh.totals, fresh.generation);
            drop(fresh);
            drop(discard(&self.dir, generation));
            return Err(damaged(format!("{old:?} became {new:?} when rebuilt")));
        }
        let disk = disk_bytes(&fresh.store.path);
        fresh.disk_min = fresh.options.rebuild_min_bytes.max(2 * disk);
        fresh.outgrown = false;
        Ok(fresh)
    }

    /// Nothing was ever written to it.
    pub(super) fn is_new(&self) -> bool {
        self.totals == Totals::default()
    }

    /// Some entries in as few batches as can be. Returns the applied index held afterwards. What is
    /// trimmed is what one batch for each would have trimmed: what goes has enough newer ones, and
    /// goes on having them.
    pub(super) fn entries(&mut self, entries: Vec<Entry>) -> io::Result<u64> {
        let mut new = entries.into_iter().peekable();
        while let Some((mut applied, keep, mut records)) = new.next() {
            if applied <= self.totals.applied {
                continue; // It is here already.
            }
            self.keep = keep;
            let mut oldest_ms = None;
            while let Some((at, keep, more)) = new.next_if(|(at, next, _)| {
                *at > applied && self.goes_with(*next, &records, &mut oldest_ms)
            }) {
                (applied, self.keep) = (at, keep);
                records.extend(more);
            }
            self.make_room()?;
            self.write(applied, true, records)?;
        }
        Ok(self.totals.applied)
    }

    /// Whether an entry may be in one batch with those before it: nothing is trimmed between them that
    /// would not be trimmed before or with them all.
    fn goes_with(&self, next: Keep, staged: &[HistoryRecord], oldest_ms: &mut Option<u64>) -> bool {
        let same = Keep {
            since_ms: self.keep.since_ms,
            ..next
        } == self.keep;
        let mut oldest_ms = || {
            // Times rise with versions.
            let time = |record: &HistoryRecord| (self.options.time_of)(&record.body);
            let first = oldest_ms.or_else(|| staged.first().map(time));
            *oldest_ms = first;
            first.unwrap_or(u64::MAX)
        };
        same && (next.since_ms == self.keep.since_ms
            || (next.since_ms > self.keep.since_ms && oldest_ms() >= next.since_ms))
    }

    /// Drops what is no longer kept, ahead of the entry that says so, in batches of a bounded size.
    /// A crash between two of them leaves a sound store, and the entry comes again.
    fn make_room(&mut self) -> io::Result<()> {
        let per_object_max = self.keep.per_object_max.max(1);
        if per_object_max < self.longest_max {
            let long = self.store.index().longer_than(per_object_max);
            for object in long {
                let excess = self.store.index().count(&object) as usize - per_object_max;
                let versions = self
                    .store
                    .index()
                    .versions(&object)
                    .take(excess)
                    .collect::<Vec<_>>();
                for some in versions.chunks(CHUNK_LEN_MAX) {
                    let ids: Vec<Id> = some
                        .iter()
                        .map(|version| (*version, object.clone()))
                        .collect();
                    self.remove(&ids)?;
                }
            }
        }
        self.longest_max = per_object_max;
        loop {
            let excess = self
                .totals
                .count
                .saturating_sub(self.keep.total_max.max(1))
                .min(CHUNK_LEN_MAX as u64) as usize;
            if excess == 0 && self.keep.since_ms <= self.oldest_ms {
                return Ok(());
            }
            let mut ids = Vec::new();
            for record in self.store.oldest_first()? {
                let (id, body) = record?;
                if ids.len() >= excess {
                    let time_ms = (self.options.time_of)(&body);
                    if time_ms >= self.keep.since_ms {
                        self.oldest_ms = time_ms;
                        break;
                    }
                }
                ids.push(id);
                if ids.len() == CHUNK_LEN_MAX {
                    break;
                }
            }
            if ids.is_empty() {
                return Ok(());
            }
            self.remove(&ids)?;
        }
    }

    fn remove(&mut self, ids: &[Id]) -> io::Result<()> {
        let mut totals = self.totals;
        totals.count -= ids.len() as u64;
        let store = Arc::clone(&self.store);
        let mut touched = Touched::new(&store, totals.sum);
        for (version, object) in ids {
            touched.version(*version, false)?.remove(object);
        }
        self.commit(touched, (&[], ids), totals, RECORD_OVERHEAD * ids.len())
    }

    /// Writes what changes with the totals, and brings the index in line: what was added, what was
    /// removed.
    fn commit(
        &mut self,
        touched: Touched<'_>,
        (added, removed): (&[Id], &[Id]),
        mut totals: Totals,
        bytes: usize,
    ) -> io::Result<()> {
        let (mut batch, sum) = touched.finish();
        totals.sum = sum;
        batch.insert(META_KEY, frame(META_KEY, &totals.encode()));
        if let (false, Some(cluster)) = (self.is_owned, self.options.cluster) {
            let id = cluster.get().to_le_bytes();
            batch.insert(OWNER_KEY, frame(OWNER_KEY, &id));
        }
        self.store.db()?.apply_batch(batch).map_err(trouble)?;
        self.is_owned = true;
        self.totals = totals;
        let mut index = self.store.index_mut();
        added.iter().for_each(|id| index.add(&id.1, id.0));
        removed.iter().for_each(|id| index.remove(&id.1, id.0));
        drop(index);
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES {
            // sled takes batches faster than it writes them, and keeps the rest in memory without
            // bound. Waiting here is what fills the queue and slows the caller.
            self.store.db()?.flush().map_err(trouble)?;
            self.unflushed = 0;
            self.measure()?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        applied: u64,
        complete: bool,
        records: Vec<HistoryRecord>,
    ) -> io::Result<()> {
        let bytes = entry_bytes(&records) + RECORD_OVERHEAD * records.len();
        let staged: BTreeMap<Id, Bytes> = records
            .into_iter()
            .map(|record| ((record.version, record.object), record.body))
            .collect();
        let mut totals = Totals {
            complete,
            applied,
            ..self.totals
        };
        let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
        for id in staged.keys() {
            let index = self.store.index();
            if !index.has(&id.1, id.0) {
                totals.count += 1;
                *counts.entry(&id.1).or_insert_with(|| index.count(&id.1)) += 1;
            }
        }
        let removed = self.trim(&staged, counts, &mut totals)?;
        let store = Arc::clone(&self.store);
        let mut touched = Touched::new(&store, totals.sum);
        for (version, object) in &removed {
            let is_new = self.is_new_version(*version);
            touched.version(*version, is_new)?.remove(object);
        }
        let mut added = Vec::with_capacity(staged.len());
        for (id, body) in staged.into_iter().filter(|(id, _)| !removed.contains(id)) {
            let is_new = self.is_new_version(id.0);
            touched.version(id.0, is_new)?.insert(id.1.clone(), body);
            added.push(id);
        }
        for (version, _) in &added {
            let (low, high) = self.span.unwrap_or((*version, *version));
            if *version < high {
                self.oldest_ms = 0; // Not known any more.
            }
            self.span = Some((low.min(*version), high.max(*version)));
        }
        let removed: Vec<Id> = removed.into_iter().collect();
        self.commit(touched, (&added, &removed), totals, bytes)
    }

    /// Whether nothing of it can be in the store.
    fn is_new_version(&self, version: u64) -> bool {
        let within = |(low, high)| (low..=high).contains(&version);
        !self.span.is_some_and(within)
    }

    /// Which records have to go: the oldest of each object that has too many, then the oldest of
    /// all. `counts` says how many the objects have that get some.
    fn trim(
        &self,
        staged: &BTreeMap<Id, Bytes>,
        counts: BTreeMap<&[u8], u64>,
        totals: &mut Totals,
    ) -> io::Result<BTreeSet<Id>> {
        let mut removed = BTreeSet::new();
        let per_object_max = self.keep.per_object_max.max(1) as u64;
        for (object, count) in counts {
            let excess = count.saturating_sub(per_object_max);
            if excess > 0 {
                let index = self.store.index();
                let stored = index
                    .versions(object)
                    .map(|version| Ok((version, object.to_vec())));
                let ours = staged.keys().filter(|id| id.1 == object).cloned();
                removed.extend(oldest(stored, ours, &BTreeSet::new(), excess)?);
                totals.count -= excess;
            }
        }
        let excess = totals.count.saturating_sub(self.keep.total_max.max(1));
        for id in oldest(self.store.ids()?, staged.keys().cloned(), &removed, excess)? {
            totals.count -= 1;
            removed.insert(id);
        }
        Ok(removed)
    }

    /// The next generation, filled and durable.
    pub(super) fn refilled(
        &self,
        applied: u64,
        keep: Keep,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<Self> {
        let generation = generations(&self.dir)?
            .last()
            .map_or(1, |newest| newest + 1);
        let filled = Self::open(&self.dir, generation, &self.options).and_then(|mut fresh| {
            fresh.keep = keep;
            fresh.fill(applied, records)?;
            Ok(fresh)
        });
        if filled.is_err() {
            // The first error is the one worth reporting; a leftover is removed at the next open.
            drop(discard(&self.dir, generation));
        }
        filled
    }

    fn fill(
        &mut self,
        applied: u64,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<()> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for record in records {
            let record = record?;
            bytes += record_bytes(&record);
            chunk.push(record);
            if chunk.len() >= CHUNK_LEN_MAX || bytes >= CHUNK_BYTES_MAX {
                guarded(|| self.write(0, false, std::mem::take(&mut chunk)))?;
                bytes = 0;
            }
        }
        guarded(|| {
            self.write(0, false, chunk)?;
            self.make_room()?;
            self.write(applied, true, Vec::new())?;
            self.sync()
        })
    }

    /// Makes what was written durable. sled's own flush ends in `sync_file_range`, which neither
    /// empties the disk's cache nor makes a longer file known; values it puts into files of their
    /// own are not synced at all.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        // What sled could not do it never will; what is opened below can be tried again.
        let flushed = self.store.db()?.flush().map_err(trouble);
        flushed.map_err(|why| match is_out_of_files(&why) {
            true => io::Error::other(why),
            false => why,
        })?;
        self.store.file.sync_data()?;
        let blobs = self.store.path.join("blobs");
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&blobs)? {
            present.insert(entry?.path());
        }
        for path in present.difference(&self.synced_blobs) {
            match File::open(path) {
                Ok(file) => file.sync_data()?,
                // sled removes what a newer value replaced.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.synced_blobs = present;
        for dir in [&blobs, &self.store.path, &self.dir] {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// The `excess` oldest ids of two ordered sequences together, without those in `skip`.
fn oldest(
    stored: impl Iterator<Item = io::Result<Id>>,
    staged: impl Iterator<Item = Id>,
    skip: &BTreeSet<Id>,
    excess: u64,
) -> io::Result<Vec<Id>> {
    let (mut stored, mut staged) = (stored.peekable(), staged.peekable());
    let mut ids: Vec<Id> = Vec::new();
    while (ids.len() as u64) < excess {
        let take_stored = match (stored.peek(), staged.peek()) {
            (Some(Ok(a)), Some(b)) => a <= b,
            (Some(_), _) => true,
            (None, Some(_)) => false,
            (None, None) => return Err(damaged("fewer records than their count says".to_owned())),
        };
        let id = if take_stored {
            stored.next().transpose()?
        } else {
            staged.next()
        };
        ids.extend(id.filter(|id| !skip.contains(id) && ids.last() != Some(id)));
    }
    Ok(ids)
}
