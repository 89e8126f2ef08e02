//! Records of one version stand together: sled's cost is by the key, and an entry often changes much.
//!
//! A *group* is some records of one version, in the order of their objects, under the key of the first:
//! ```text
//! "v" version u64 BE, object of the first   (object length u32 LE, object, body length u32 LE, body) ...
//! ```
//! What must hold: the groups of a version do not overlap. So a record is in the last group that begins
//! at or before it, or nowhere; and a version that changes is written anew as a whole ([`Touched`]).

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, Bytes};

use super::HistoryRecord;
use super::files::{damaged, trouble};
use super::store::{Store, decode_version_key, frame, unframe, version_key, weight};

/// A group is full at so many records or bytes: who reads one record reads its group.
const LEN_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 10;

/// The records of one version, by object.
type Content = BTreeMap<Vec<u8>, Bytes>;

/// The records of a group, in the order of their objects.
pub(super) fn decode_group(key: &[u8], value: &[u8]) -> io::Result<Vec<HistoryRecord>> {
    let (version, first) = decode_version_key(key)?;
    let bad = || {
        damaged(format!(
            "the records at version {version} are damaged (format, crc or length)"
        ))
    };
    let mut rest = Bytes::copy_from_slice(unframe(key, value).ok_or_else(bad)?);
    let mut records = Vec::new();
    while !rest.is_empty() {
        let mut part = || {
            let length = rest.try_get_u32_le().ok()? as usize;
            (length <= rest.len()).then(|| rest.split_to(length))
        };
        let (object, body) = (part().ok_or_else(bad)?, part().ok_or_else(bad)?);
        records.push(HistoryRecord {
            object: object.to_vec(),
            version,
            body,
        });
    }
    let begins = records.first().is_some_and(|record| record.object == first);
    match begins {
        true => Ok(records),
        false => Err(bad()),
    }
}

fn encode_groups(version: u64, content: &Content) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut groups: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let (mut key, mut len, mut body) = (Vec::new(), 0, Vec::new());
    for (object, line) in content {
        if len == 0 {
            key = version_key(version, object);
        }
        for part in [object.as_slice(), line] {
            // Bounded by the size of an entry.
            body.extend_from_slice(&(part.len() as u32).to_le_bytes());
            body.extend_from_slice(part);
        }
        len += 1;
        if len >= LEN_MAX || body.len() >= BYTES_MAX {
            let value = frame(&key, &body);
            groups.push((std::mem::take(&mut key), value));
            (len, body) = (0, Vec::new());
        }
    }
    if len > 0 {
        let value = frame(&key, &body);
        groups.push((key, value));
    }
    groups
}

/// The versions that a batch changes, with what they will hold.
pub(super) struct Touched<'a> {
    store: &'a Store,
    versions: BTreeMap<u64, Content>,
    batch: sled::Batch,
    /// The sum over all groups, as it changes.
    sum: u64,
}

impl<'a> Touched<'a> {
    pub(super) fn new(store: &'a Store, sum: u64) -> Self {
        Self {
            store,
            versions: BTreeMap::new(),
            batch: sled::Batch::default(),
            sum,
        }
    }

    /// What a version holds, to be changed. A version that is new holds nothing in the store.
    pub(super) fn version(&mut self, version: u64, is_new: bool) -> io::Result<&mut Content> {
        if !self.versions.contains_key(&version) {
            let mut content = Content::new();
            if !is_new {
                for pair in self.store.db()?.scan_prefix(version_key(version, &[])) {
                    let (key, value) = pair.map_err(trouble)?;
                    self.sum = self.sum.wrapping_sub(weight(&key, &value));
                    let records = decode_group(&key, &value)?.into_iter();
                    content.extend(records.map(|record| (record.object, record.body)));
                    self.batch.remove(key);
                }
            }
            self.versions.insert(version, content);
        }
        Ok(self.versions.entry(version).or_default())
    }

    /// The batch that makes it so, and the sum afterwards.
    pub(super) fn finish(mut self) -> (sled::Batch, u64) {
        for (version, content) in &self.versions {
            for (key, value) in encode_groups(*version, content) {
                self.sum = self.sum.wrapping_add(weight(&key, &value));
                self.batch.insert(key, value);
            }
        }
        (self.batch, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(objects: u32, length: usize) -> Content {
        let lines =
            (0..objects).map(|at| (at.to_be_bytes().to_vec(), vec![at as u8; length].into()));
        lines.collect()
    }

    #[test]
    fn groups_come_back_in_order_and_are_bounded() {
        for (objects, length, groups) in [
            (0, 1, 0),
            (1, 0, 1),
            (64, 5, 1),
            (65, 5, 2),
            (3, BYTES_MAX, 3),
        ] {
            let content = content(objects, length);
            let encoded = encode_groups(7, &content);
            assert_eq!(encoded.len(), groups, "{objects} of {length}");
            assert!(encoded.is_sorted_by(|a, b| a.0 < b.0));
            let decoded = encoded
                .iter()
                .flat_map(|(key, value)| decode_group(key, value).unwrap());
            let decoded: Content = decoded.map(|record| (record.object, record.body)).collect();
            assert_eq!(decoded, content);
        }
    }

    #[test]
    fn what_is_not_a_group_is_damage() {
        let (key, value) = encode_groups(7, &content(2, 3)).remove(0);
        let body = unframe(&key, &value).unwrap();
        for end in 0..body.len() {
            if end != body.len() / 2 {
                let cut = frame(&key, &body[..end]);
                assert!(decode_group(&key, &cut).is_err(), "cut at {end}");
            }
        }
        let other = version_key(7, &1u32.to_be_bytes());
        assert!(
            decode_group(&other, &frame(&other, body)).is_err(),
            "another first object"
        );
    }

    /// A change here is a new format number.
    #[test]
    fn the_bytes_of_a_group_are_frozen() {
        let (key, value) = encode_groups(258, &content(1, 2)).remove(0);
        assert_eq!(key, b"v\0\0\0\0\0\0\x01\x02\0\0\0\0");
        assert_eq!(
            unframe(&key, &value).unwrap(),
            b"\x04\0\0\0\0\0\0\0\x02\0\0\0\0\0"
        );
    }
}
