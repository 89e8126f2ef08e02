//! One open sled database: its layout, reading it, and checking all of it.
//!
//! `g<16 digits>/` is one database (a *generation*); a refill fills the next one aside and then
//! drops the old. Every value is `format u8, crc32 u32 LE over (format, key, body), body`.
//! ```text
//! "m"                          complete u8, applied u64, count u64, sum u64 (little-endian)
//! "o"                          cluster id u128 (little-endian); older releases wrote none
//! "v" version u64 BE, object   a group of records (see `groups.rs`)
//! ```
//! Records stand under their version because that is the order in which they are written, dropped and
//! copied into snapshots. Which versions an object has is kept in memory ([`Index`]), made when all
//! is checked at open: each key more in sled cost a quarter of a write, and a line here 8 bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::command::ClusterId;

use super::files::{closed, damaged, guarded, trouble};
use super::groups::decode_group;
use super::{Extent, HistoryRecord};

/// In format 1 each record had a key of its own.
const FORMAT: u8 = 2;
const FRAME_LEN: usize = 5;
pub(super) const META_KEY: &[u8] = b"m";
pub(super) const OWNER_KEY: &[u8] = b"o";
pub(super) const VERSIONS: u8 = b'v';
/// Records read at a time; bounds memory.
const CHUNK_LEN_MAX: usize = 512;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What the store holds, written with every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// False while a refill is under way.
    pub(super) complete: bool,
    pub(super) applied: u64,
    pub(super) count: u64,
    /// Wrapping sum of [`weight`] over the groups held: finds groups that went missing whole.
    pub(super) sum: u64,
}

impl Totals {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut body = vec![u8::from(self.complete)];
        for number in [self.applied, self.count, self.sum] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (complete, numbers) = body.split_first()?;
        let mut numbers = numbers
            .chunks_exact(8)
            .filter_map(|eight| eight.try_into().ok());
        let totals = Self {
            complete: *complete == 1,
            applied: u64::from_le_bytes(numbers.next()?),
            count: u64::from_le_bytes(numbers.next()?),
            sum: u64::from_le_bytes(numbers.next()?),
        };
        (*complete <= 1 && body.len() == 25).then_some(totals)
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) totals: Totals,
    /// The oldest and the newest version.
    pub(super) span: Option<(u64, u64)>,
    /// Sum of [`live_bytes`].
    pub(super) live: u64,
}

/// A record's place in the order of age.
pub(super) type Id = (u64, Vec<u8>);

/// The versions of each object, oldest first. No object without one.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<Vec<u8>, VecDeque<u64>>);

impl Index {
    pub(super) fn versions(&self, object: &[u8]) -> impl DoubleEndedIterator<Item = u64> {
        self.0.get(object).into_iter().flatten().copied()
    }

    pub(super) fn has(&self, object: &[u8], version: u64) -> bool {
        let versions = self.0.get(object);
        versions.is_some_and(|versions| versions.binary_search(&version).is_ok())
    }

    pub(super) fn count(&self, object: &[u8]) -> u64 {
        self.0.get(object).map_or(0, VecDeque::len) as u64
    }

    /// The objects with more than `max` versions.
    pub(super) fn longer_than(&self, max: usize) -> Vec<Vec<u8>> {
        let long = self.0.iter().filter(|(_, versions)| versions.len() > max);
        long.map(|(object, _)| object.clone()).collect()
    }

    pub(super) fn add(&mut self, object: &[u8], version: u64) {
        let versions = match self.0.get_mut(object) {
            Some(versions) => versions,
            None => self.0.entry(object.to_vec()).or_default(),
        };
        // Nearly always the newest.
        if versions.back().is_none_or(|newest| *newest < version) {
            versions.push_back(version);
        } else if let Err(at) = versions.binary_search(&version) {
            versions.insert(at, version);
        }
    }

    pub(super) fn remove(&mut self, object: &[u8], version: u64) {
        let Some(versions) = self.0.get_mut(object) else {
            return;
        };
        // Nearly always the oldest, which is found at once.
        if let Some(at) = versions.iter().position(|held| *held >= version)
            && versions.get(at) == Some(&version)
        {
            versions.remove(at);
        }
        if versions.is_empty() {
            self.0.remove(object);
        }
    }
}

/// One open sled database. Reading only; the [`Writer`](super::writer::Writer) writes.
#[derive(Debug)]
pub(super) struct Store {
    /// There until this is dropped.
    db: Option<sled::Db>,
    /// The data file, opened beside sled to sync it; kept open so that no write error is missed.
    pub(super) file: File,
    pub(super) path: PathBuf,
    index: RwLock<Index>,
}

impl Store {
    pub(super) fn open(path: &Path, cache_bytes: u64) -> io::Result<Self> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let db = config.open().map_err(trouble)?;
        let file = File::open(path.join("db"))?;
        Ok(Self {
            db: Some(db),
            file,
            path: path.to_owned(),
            index: RwLock::default(),
        })
    }

    pub(super) fn db(&self) -> io::Result<&sled::Db> {
        self.db.as_ref().ok_or_else(closed)
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose it is, where it says so.
    pub(super) fn owner(&self) -> io::Result<Option<ClusterId>> {
        let found = self.db()?.get(OWNER_KEY).map_err(trouble)?;
        let read = |value: sled::IVec| {
            let id = unframe(OWNER_KEY, &value)?.try_into().ok()?;
            Some(ClusterId::new(u128::from_le_bytes(id)))
        };
        let bad = || damaged("whose it is, is damaged".to_owned());
        found.map(|value| read(value).ok_or_else(bad)).transpose()
    }

    /// Reads everything once, makes the index of it, and compares it with what the totals say.
    pub(super) fn check(&self) -> io::Result<Checked> {
        let db = self.db()?;
        let totals = match db.get(META_KEY).map_err(trouble)? {
            None if db.is_empty() => return Ok(Checked::default()),
            None => return Err(damaged("records, but no totals".to_owned())),
            Some(value) if value.first().is_some_and(|format| *format < FORMAT) => {
                let why = format!("it is of format {}, this release writes {FORMAT}", value[0]);
                return Err(damaged(why));
            }
            Some(value) => unframe(META_KEY, &value).and_then(Totals::decode),
        };
        let totals = totals.ok_or_else(|| damaged("the totals are damaged".to_owned()))?;
        let mut found = Totals {
            sum: 0,
            count: 0,
            ..totals
        };
        let (mut index, mut span, mut live) = (Index::default(), None, 0);
        for pair in db.scan_prefix([VERSIONS]) {
            let (key, value) = pair.map_err(trouble)?;
            found.sum = found.sum.wrapping_add(weight(&key, &value));
            live += live_bytes(&key, &value);
            for record in decode_group(&key, &value)? {
                found.count += 1;
                index.add(&record.object, record.version);
                let (low, _) = span.unwrap_or((record.version, 0));
                span = Some((low, record.version));
            }
        }
        if found != totals {
            return Err(damaged(format!(
                "the totals say {totals:?}, the records {found:?}"
            )));
        }
        *self.index_mut() = index;
        Ok(Checked { totals, span, live })
    }

    /// What the records need on disk, about.
    pub(super) fn live(&self) -> io::Result<u64> {
        let mut pairs = self.db()?.scan_prefix([VERSIONS]);
        pairs.try_fold(0, |live, pair| {
            let (key, value) = pair.map_err(trouble)?;
            Ok(live + live_bytes(&key, &value))
        })
    }

    /// All records, oldest first.
    pub(super) fn oldest_first(
        &self,
    ) -> io::Result<impl Iterator<Item = io::Result<(Id, Bytes)>> + use<>> {
        let pairs = self.db()?.scan_prefix([VERSIONS]);
        Ok(pairs.flat_map(|pair| {
            let group = pair
                .map_err(trouble)
                .and_then(|(key, value)| decode_group(&key, &value));
            let (records, error) = match group {
                Ok(records) => (records, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let records = records.into_iter();
            let records = records.map(|record| Ok(((record.version, record.object), record.body)));
            records.chain(error)
        }))
    }

    /// All ids, oldest first.
    pub(super) fn ids(&self) -> io::Result<impl Iterator<Item = io::Result<Id>> + use<>> {
        let records = self.oldest_first()?;
        Ok(records.map(|record| record.map(|(id, _)| id)))
    }

    pub(super) fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        let below = |version: &u64| before.is_none_or(|before| *version < before);
        let versions = self
            .index()
            .versions(object)
            .rev()
            .filter(below)
            .take(limit)
            .collect::<Vec<_>>();
        let mut records = Vec::with_capacity(versions.len());
        for version in versions {
            let (low, high) = (version_key(version, &[]), version_key(version, object));
            // Missing means trimmed since the line above.
            if let Some(pair) = self.db()?.range(low..=high).next_back() {
                let (key, value) = pair.map_err(trouble)?;
                let group = decode_group(&key, &value)?.into_iter();
                records.extend(group.filter(|record| record.object == object));
            }
        }
        Ok(records)
    }

    pub(super) fn latest(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        let end = before.map_or(vec![VERSIONS + 1], |before| version_key(before, &[]));
        let mut records: Vec<HistoryRecord> = Vec::new();
        for pair in self
            .db()?
            .range(vec![VERSIONS]..end)
            .rev()
            .take(if limit == 0 { 0 } else { usize::MAX })
        {
            let (key, value) = pair.map_err(trouble)?;
            let (version, _) = decode_version_key(&key)?;
            if records.len() >= limit && records.last().is_some_and(|last| last.version != version)
            {
                break;
            }
            records.extend(decode_group(&key, &value)?.into_iter().rev());
        }
        Ok(records)
    }

    pub(super) fn extent(&self, object: &[u8]) -> io::Result<Extent> {
        let totals = match self.db()?.get(META_KEY).map_err(trouble)? {
            None => Totals::default(),
            Some(value) => unframe(META_KEY, &value)
                .and_then(Totals::decode)
                .ok_or_else(|| damaged("the totals are damaged".to_owned()))?,
        };
        let oldest = self.ids()?.next().transpose()?;
        let index = self.index();
        let oldest_of_object = index.versions(object).next();
        Ok(Extent {
            oldest_of_object,
            of_object: index.count(object),
            of_all: totals.count,
            oldest: oldest.map(|(version, _)| version),
        })
    }

    /// Some records below the key `end`, newest first; none means there are no more.
    pub(super) fn chunk_below(&self, end: &[u8]) -> io::Result<Vec<HistoryRecord>> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for pair in self.db()?.range(vec![VERSIONS]..end.to_vec()).rev() {
            let (key, value) = pair.map_err(trouble)?;
            bytes += value.len();
            // A version that was written anew meanwhile may have its groups cut elsewhere.
            let below =
                |record: &HistoryRecord| *version_key(record.version, &record.object) < *end;
            let group = decode_group(&key, &value)?.into_iter().rev();
            records.extend(group.filter(below));
            if bytes >= CHUNK_BYTES_MAX || records.len() >= CHUNK_LEN_MAX {
                break;
            }
        }
        Ok(records)
    }
}

impl Drop for Store {
    /// sled syncs when its last handle goes, and panics when the disk refuses. So the disk is asked before;
    /// when it refuses, the handles are left open. Nothing is lost: what is missing here comes again.
    fn drop(&mut self) {
        let Some(db) = self.db.take() else {
            return;
        };
        let closed = self
            .file
            .sync_all()
            .inspect_err(|_| std::mem::forget(db.clone()));
        let closed = closed.and(guarded(|| {
            drop(db);
            Ok(())
        }));
        if let Err(error) = closed {
            tracing::warn!(%error, path = %self.path.display(), "history: a store was not closed");
        }
    }
}

pub(super) fn version_key(version: u64, object: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + object.len());
    key.push(VERSIONS);
    key.extend_from_slice(&version.to_be_bytes());
    key.extend_from_slice(object);
    key
}

pub(super) fn decode_version_key(key: &[u8]) -> io::Result<Id> {
    let (head, object) = key
        .split_at_checked(9)
        .ok_or_else(|| damaged("a key is too short".to_owned()))?;
    let version = head[1..]
        .try_into()
        .map_err(|_| damaged("a key is too short".to_owned()))?;
    Ok((u64::from_be_bytes(version), object.to_vec()))
}

/// The key is under the crc too, so that a value in another's place is found.
pub(super) fn frame_crc(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[FORMAT]);
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

pub(super) fn frame(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(FRAME_LEN + body.len());
    value.push(FORMAT);
    value.extend_from_slice(&frame_crc(key, body).to_le_bytes());
    value.extend_from_slice(body);
    value
}

pub(super) fn unframe<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (head, body) = value.split_at_checked(FRAME_LEN)?;
    (head[0] == FORMAT && head[1..] == frame_crc(key, body).to_le_bytes()).then_some(body)
}

/// What a group needs on disk, about.
fn live_bytes(key: &[u8], value: &[u8]) -> u64 {
    const OVERHEAD: usize = 32;
    (key.len() + value.len() + OVERHEAD) as u64
}

/// What a group adds to the sum: its key and, through the crc in its frame, its body.
pub(super) fn weight(key: &[u8], value: &[u8]) -> u64 {
    let crc = value
        .get(1..FRAME_LEN)
        .and_then(|crc| crc.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    xxh3_64_with_seed(key, u64::from(crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_its_key() {
        let value = frame(b"a", b"body");
        assert_eq!(unframe(b"a", &value), Some(&b"body"[..]));
        assert_eq!(unframe(b"b", &value), None);
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 0x20;
            assert_eq!(unframe(b"a", &bad), None, "flip at {at}");
            assert_eq!(unframe(b"a", &value[..at]), None);
        }
    }

    #[test]
    fn the_index_keeps_versions_in_order() {
        let mut index = Index::default();
        for version in [5, 9, 7, 9, 1] {
            index.add(b"a", version);
        }
        index.add(b"b", 3);
        assert_eq!(index.versions(b"a").collect::<Vec<_>>(), [1, 5, 7, 9]);
        assert_eq!(index.longer_than(1), [b"a"]);
        for version in [7, 8, 1, 0, 10] {
            index.remove(b"a", version);
        }
        assert_eq!(index.versions(b"a").collect::<Vec<_>>(), [5, 9]);
        index.remove(b"b", 3);
        assert_eq!((index.count(b"a"), index.count(b"b")), (2, 0));
        assert_eq!(index.0.len(), 1);
    }

    /// A change here is a new format number.
    #[test]
    fn the_bytes_of_format_2_are_frozen() {
        let totals = Totals {
            complete: true,
            applied: 1,
            count: 2,
            sum: 3,
        };
        assert_eq!(Totals::decode(&totals.encode()), Some(totals));
        assert_eq!(
            totals.encode(),
            b"\x01\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"
        );
        assert_eq!(OWNER_KEY, b"o");
        assert_eq!(version_key(258, b"x"), b"v\0\0\0\0\0\0\x01\x02x");
        // crc32 of 02 6b 62 6f 64 79.
        assert_eq!(frame(b"k", b"body")[..1], [2]);
        assert_eq!(
            frame(b"k", b"body")[1..5],
            crc32fast::hash(b"\x02kbody").to_le_bytes()
        );
        assert_eq!(&frame(b"k", b"body")[5..], b"body");
        assert_eq!(weight(b"k", &frame(b"k", b"body")), WEIGHT);
    }

    const WEIGHT: u64 = 17_761_038_164_197_573_143;
}
