//! One open sled database: its layout, reading it, and checking all of it.
//!
//! `g<16 digits>/` is one database (a *generation*); a refill fills the next one aside and then
//! drops the old. Every value is `format u8, crc32 u32 LE over (format, key, body), body`.
//! ```text
//! "m"                                  complete u8, applied u64, count u64, sum u64 (little-endian)
//! "v" version u64 BE, object           the record's body
//! "o" object escaped, version u64 BE   nothing: the way from an object to its versions
//! "c" object                           how many records the object has, u64 LE
//! ```
//! The body stands under the version because that is the order in which it is written, dropped and
//! copied into snapshots.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::files::{damaged, trouble};
use super::{Extent, HistoryRecord};

const FORMAT: u8 = 1;
const FRAME_LEN: usize = 5;
pub(super) const META_KEY: &[u8] = b"m";
pub(super) const VERSIONS: u8 = b'v';
const OBJECTS: u8 = b'o';
const COUNTS: u8 = b'c';
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
    /// Wrapping sum of [`weight`] over the records held: finds records that went missing whole.
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

/// One open sled database. Reading only; the [`Writer`](super::writer::Writer) writes.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) db: sled::Db,
    /// The data file, opened beside sled to sync it; kept open so that no write error is missed.
    pub(super) file: File,
    pub(super) path: PathBuf,
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
            db,
            file,
            path: path.to_owned(),
        })
    }

    /// Reads everything once and compares all the ways in which it is said how much there is.
    pub(super) fn check(&self) -> io::Result<Checked> {
        let totals = match self.db.get(META_KEY).map_err(trouble)? {
            None if self.db.is_empty() => return Ok(Checked::default()),
            None => return Err(damaged("records, but no totals".to_owned())),
            Some(value) => unframe(META_KEY, &value).and_then(Totals::decode),
        };
        let totals = totals.ok_or_else(|| damaged("the totals are damaged".to_owned()))?;
        let (mut found, mut keys, mut span, mut live) = (
            Totals {
                sum: 0,
                count: 0,
                ..totals
            },
            0u64,
            None,
            0,
        );
        for pair in self.db.scan_prefix([VERSIONS]) {
            let (key, value) = pair.map_err(trouble)?;
            let record = decode_record(&key, &value)?;
            found.count += 1;
            found.sum = found.sum.wrapping_add(weight(&key, &value));
            live += live_bytes(&key, &value);
            keys = keys.wrapping_add(xxh3_64_with_seed(&key, 0));
            let (low, _) = span.unwrap_or((record.version, 0));
            span = Some((low, record.version));
        }
        if found != totals {
            return Err(damaged(format!(
                "the totals say {totals:?}, the records {found:?}"
            )));
        }
        if self.check_objects()? != keys {
            return Err(damaged(
                "the index by object is not that of the records".to_owned(),
            ));
        }
        Ok(Checked { totals, span, live })
    }

    /// What the records need on disk, about.
    pub(super) fn live(&self) -> io::Result<u64> {
        self.db.scan_prefix([VERSIONS]).try_fold(0, |live, pair| {
            let (key, value) = pair.map_err(trouble)?;
            Ok(live + live_bytes(&key, &value))
        })
    }

    /// Checks the index by object against the counts; returns the sum over the records' keys as the
    /// index knows them.
    pub(super) fn check_objects(&self) -> io::Result<u64> {
        let (mut keys, mut objects) = (0u64, 0usize);
        let mut current: Option<(Vec<u8>, u64)> = None;
        let verify = |object: &[u8], count: u64| match self.count_of(object)? {
            found if found == count => Ok(()),
            found => Err(damaged(format!(
                "an object has {count} records, its count says {found}"
            ))),
        };
        for pair in self.db.scan_prefix([OBJECTS]) {
            let (key, value) = pair.map_err(trouble)?;
            let (object, version) = decode_object_key(&key)?;
            unframe(&key, &value).ok_or_else(|| damaged("an index value is damaged".to_owned()))?;
            keys = keys.wrapping_add(xxh3_64_with_seed(&version_key(version, &object), 0));
            current = match current {
                Some((same, count)) if same == object => Some((same, count + 1)),
                before => {
                    before.map_or(Ok(()), |(object, count)| verify(&object, count))?;
                    objects += 1;
                    Some((object, 1))
                }
            };
        }
        current.map_or(Ok(()), |(object, count)| verify(&object, count))?;
        if self.db.scan_prefix([COUNTS]).count() != objects {
            return Err(damaged(
                "there are counts of objects without records".to_owned(),
            ));
        }
        Ok(keys)
    }

    pub(super) fn count_of(&self, object: &[u8]) -> io::Result<u64> {
        let key = count_key(object);
        let Some(value) = self.db.get(&key).map_err(trouble)? else {
            return Ok(0);
        };
        let body = unframe(&key, &value).and_then(|body| body.try_into().ok());
        body.map(u64::from_le_bytes)
            .ok_or_else(|| damaged("a count is damaged".to_owned()))
    }

    /// The ids of one object, oldest first.
    pub(super) fn versions_of(&self, object: &[u8]) -> impl Iterator<Item = io::Result<Id>> {
        self.db
            .scan_prefix(object_prefix(object))
            .keys()
            .map(|key| {
                let (object, version) = decode_object_key(&key.map_err(trouble)?)?;
                Ok((version, object))
            })
    }

    /// Every object, and how many records it has.
    pub(super) fn counts(&self) -> io::Result<Vec<(Vec<u8>, u64)>> {
        let keys = self.db.scan_prefix([COUNTS]).keys();
        let objects = keys.map(|key| {
            let object = key.map_err(trouble)?[1..].to_vec();
            let count = self.count_of(&object)?;
            Ok((object, count))
        });
        objects.collect()
    }

    /// All records, oldest first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = io::Result<(Id, Bytes)>> {
        self.db.scan_prefix([VERSIONS]).map(|pair| {
            let (key, value) = pair.map_err(trouble)?;
            let record = decode_record(&key, &value)?;
            Ok(((record.version, record.object), record.body))
        })
    }

    /// All ids, oldest first.
    pub(super) fn ids(&self) -> impl Iterator<Item = io::Result<Id>> {
        self.db
            .scan_prefix([VERSIONS])
            .keys()
            .map(|key| decode_version_key(&key.map_err(trouble)?))
    }

    pub(super) fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        let prefix = object_prefix(object);
        let mut end = prefix.clone();
        // Past every version: no version continues with two 0xFF bytes and more.
        end.extend_from_slice(
            &before.map_or([0xFF; 9].to_vec(), |before| before.to_be_bytes().to_vec()),
        );
        let mut records = Vec::new();
        for pair in self.db.range(prefix..end).rev().take(limit) {
            let (index, _) = pair.map_err(trouble)?;
            let (object, version) = decode_object_key(&index)?;
            let key = version_key(version, &object);
            // Missing means trimmed since the line above: the check at open ruled out the rest.
            if let Some(value) = self.db.get(&key).map_err(trouble)? {
                records.push(decode_record(&key, &value)?);
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
            .db
            .range(vec![VERSIONS]..end)
            .rev()
            .take(if limit == 0 { 0 } else { usize::MAX })
        {
            let (key, value) = pair.map_err(trouble)?;
            let record = decode_record(&key, &value)?;
            if records.len() >= limit
                && records
                    .last()
                    .is_some_and(|last| last.version != record.version)
            {
                break;
            }
            records.push(record);
        }
        Ok(records)
    }

    pub(super) fn extent(&self, object: &[u8]) -> io::Result<Extent> {
        let totals = match self.db.get(META_KEY).map_err(trouble)? {
            None => Totals::default(),
            Some(value) => unframe(META_KEY, &value)
                .and_then(Totals::decode)
                .ok_or_else(|| damaged("the totals are damaged".to_owned()))?,
        };
        let oldest = self.ids().next().transpose()?;
        let oldest_of_object = self.versions_of(object).next().transpose()?;
        Ok(Extent {
            oldest_of_object: oldest_of_object.map(|(version, _)| version),
            of_object: self.count_of(object)?,
            of_all: totals.count,
            oldest: oldest.map(|(version, _)| version),
        })
    }

    /// Some records below the key `end`, newest first; none means there are no more.
    pub(super) fn chunk_below(&self, end: &[u8]) -> io::Result<Vec<HistoryRecord>> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for pair in self
            .db
            .range(vec![VERSIONS]..end.to_vec())
            .rev()
            .take(CHUNK_LEN_MAX)
        {
            let (key, value) = pair.map_err(trouble)?;
            bytes += value.len();
            records.push(decode_record(&key, &value)?);
            if bytes >= CHUNK_BYTES_MAX {
                break;
            }
        }
        Ok(records)
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

pub(super) fn count_key(object: &[u8]) -> Vec<u8> {
    [&[COUNTS], object].concat()
}

/// Zero bytes become `00 FF` and the end is `00 00`: no object's prefix is the start of another's,
/// and the order stays that of the objects.
pub(super) fn object_prefix(object: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(object.len() + 11);
    key.push(OBJECTS);
    for byte in object {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend_from_slice(&[0, 0]);
    key
}

pub(super) fn object_key(object: &[u8], version: u64) -> Vec<u8> {
    let mut key = object_prefix(object);
    key.extend_from_slice(&version.to_be_bytes());
    key
}

pub(super) fn decode_object_key(key: &[u8]) -> io::Result<(Vec<u8>, u64)> {
    let bad = || damaged("a key of the index by object is damaged".to_owned());
    let (head, version) = key.split_last_chunk::<8>().ok_or_else(bad)?;
    let body = head
        .strip_prefix(&[OBJECTS])
        .and_then(|rest| rest.strip_suffix(&[0, 0]))
        .ok_or_else(bad)?;
    let mut object = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        if *byte == 0 && bytes.next() != Some(&0xFF) {
            return Err(bad());
        }
        object.push(*byte);
    }
    Ok((object, u64::from_be_bytes(*version)))
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

/// What a record needs on disk, about: itself, its place in the index, its part of the count.
fn live_bytes(key: &[u8], value: &[u8]) -> u64 {
    const OVERHEAD: usize = 64;
    (2 * key.len() + value.len() + OVERHEAD) as u64
}

/// What a record adds to the sum: its key and, through the crc in its frame, its body.
pub(super) fn weight(key: &[u8], value: &[u8]) -> u64 {
    let crc = value
        .get(1..FRAME_LEN)
        .and_then(|crc| crc.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    xxh3_64_with_seed(key, u64::from(crc))
}

pub(super) fn decode_record(key: &[u8], value: &[u8]) -> io::Result<HistoryRecord> {
    let (version, object) = decode_version_key(key)?;
    let body = unframe(key, value).ok_or_else(|| {
        damaged(format!(
            "the record at version {version} is damaged (format or crc)"
        ))
    })?;
    Ok(HistoryRecord {
        object,
        version,
        body: Bytes::copy_from_slice(body),
    })
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
    fn the_index_keeps_the_order_of_objects_and_versions() {
        let objects: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\xFF", b"a", b"a\0", b"a\0b", b"ab"];
        let ids = objects
            .iter()
            .flat_map(|object| [0, 7, 255, u64::MAX].map(|version| (*object, version)));
        let keys: Vec<_> = ids
            .clone()
            .map(|(object, version)| object_key(object, version))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        for ((object, version), key) in ids.zip(&keys) {
            assert_eq!(decode_object_key(key).unwrap(), (object.to_vec(), version));
        }
        for bad in [
            &b"o"[..],
            b"v\0\0\0\0\0\0\0\0\0\0",
            b"oa\0b\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(decode_object_key(bad).is_err());
        }
    }

    /// A change here is a new format number.
    #[test]
    fn the_bytes_of_format_1_are_frozen() {
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
        assert_eq!(version_key(258, b"x"), b"v\0\0\0\0\0\0\x01\x02x");
        assert_eq!(
            object_key(b"x\0y", 258),
            b"ox\0\xFFy\0\0\0\0\0\0\0\0\x01\x02"
        );
        assert_eq!(count_key(b"x"), b"cx");
        // crc32 of 01 6b 62 6f 64 79.
        assert_eq!(frame(b"k", b"body")[..1], [1]);
        assert_eq!(
            frame(b"k", b"body")[1..5],
            crc32fast::hash(b"\x01kbody").to_le_bytes()
        );
        assert_eq!(&frame(b"k", b"body")[5..], b"body");
        assert_eq!(weight(b"k", &frame(b"k", b"body")), WEIGHT);
    }

    const WEIGHT: u64 = 12_077_357_310_723_521_547;
}
