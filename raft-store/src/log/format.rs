//! Each byte of the log. All integers are little-endian; unnamed bytes are zero.
//!
//! ```text
//! segment  0 header (128 bytes) | zeros to 4096 | batch | batch | ... | zeros to `length`
//! header   0 "PennSeg1" | 8 format u8 | 9 flags u8 (1: previous exists) | 16 cluster u128 | 32 node u64 | 40 number u64
//!          48 length u64 | 56 first index u64 | 64 first sequence u64 | 72 previous term u64 | 80 previous index u64
//!          88 crc of the previous batch u32 | 124 crc32 of bytes 0..124
//! batch    header (48 bytes) | body | zeros to a multiple of 8
//! header   0 "PnBt" | 4 format u8 | 5 flags u8 (1: seal) | 8 count u32 | 12 body length u32 | 16 sequence u64
//!          24 first index u64 | 32 crc of the previous batch u32 | 36 body crc u32 | 44 header crc u32
//! body     record | record | ...                       (`count` of them, covered by the body crc)
//! record   0 kind u8 | 1 format u8 | 2 flags u8 (1: none) | 4 length u32 | 8 term u64 | 16 index u64 | 24 payload
//! ```
//!
//! The "crc of the previous batch" is its header crc, which covers its body crc: so batches form a chain.
//! A header crc also covers where the header stands (cluster, node, segment number, offset): a batch that
//! was copied to another place, or a payload that looks like a batch, is never taken for one.
//!
//! Decoding is total and bounded: no length is used before the crc over it has passed, and then it must
//! still fit. Left out: what the records mean (`stream.rs`, `recovery.rs`), and payloads.

use super::{LogId, LogIdentity, PAYLOAD_LEN_MAX};

/// The format of segments, batches and records that this release writes; it reads no other.
pub const LOG_FORMAT: u8 = 1;

pub(crate) const SEGMENT_HEADER_LEN: usize = 128;
/// Batches begin on a page of their own: tearing the first one cannot touch the header.
pub(crate) const BATCHES_START: u64 = 4096;
pub(crate) const BATCH_HEADER_LEN: usize = 48;
pub(crate) const RECORD_HEADER_LEN: usize = 24;
/// Batches begin at multiples of this, so a search for a batch need not look anywhere else.
pub(crate) const ALIGN: u64 = 8;
/// A batch is closed at this size of its body at the latest.
pub(crate) const BATCH_BYTES_MAX: usize = 32 << 20;
/// No body is longer: one entry of the largest payload, and room for small records.
pub(crate) const BODY_LEN_MAX: usize = PAYLOAD_LEN_MAX + (1 << 20);
/// No segment file is longer: one largest batch, or the largest segment one may ask for.
pub(crate) const SEGMENT_LEN_MAX: u64 = 128 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"PennSeg1";
const BATCH_MAGIC: [u8; 4] = *b"PnBt";
const HAS_PREVIOUS: u8 = 1;
const SEAL: u8 = 1;
const NONE: u8 = 1;

const KIND_ENTRY: u8 = 1;
const KIND_TRUNCATE: u8 = 2;
const KIND_PURGE: u8 = 3;
const KIND_COMMITTED: u8 = 4;

/// Why bytes are not what they should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The bytes are not a whole header: never written, torn, or damaged.
    Unreadable(&'static str),
    /// Whole, and of a format that this release does not know.
    Newer(u8),
    /// Whole, and contradicting itself.
    Inconsistent(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: LogIdentity,
    pub(crate) number: u64,
    pub(crate) length: u64,
    pub(crate) first_sequence: u64,
    pub(crate) previous: Option<LogId>,
    pub(crate) previous_crc: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8] = LOG_FORMAT;
        out[9] = if self.previous.is_some() {
            HAS_PREVIOUS
        } else {
            0
        };
        put(&mut out, 16, &self.identity.cluster.to_le_bytes());
        put(&mut out, 32, &self.identity.node.to_le_bytes());
        put(&mut out, 40, &self.number.to_le_bytes());
        put(&mut out, 48, &self.length.to_le_bytes());
        put(&mut out, 56, &next_index(self.previous).to_le_bytes());
        put(&mut out, 64, &self.first_sequence.to_le_bytes());
        let previous = self.previous.unwrap_or_default();
        put(&mut out, 72, &previous.term.to_le_bytes());
        put(&mut out, 80, &previous.index.to_le_bytes());
        put(&mut out, 88, &self.previous_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..124]);
        put(&mut out, 124, &crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, Flaw> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() else {
            return Err(Flaw::Unreadable("the file ends inside the segment header"));
        };
        if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return Err(Flaw::Unreadable(
                "the segment header does not fit its checksum",
            ));
        }
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(Flaw::Unreadable("this is not a segment header"));
        }
        if bytes[8] != LOG_FORMAT {
            return Err(Flaw::Newer(bytes[8]));
        }
        let previous = LogId {
            term: u64_at(bytes, 72),
            index: u64_at(bytes, 80),
        };
        Ok(SegmentHeader {
            identity: LogIdentity {
                cluster: u128_at(bytes, 16),
                node: u64_at(bytes, 32),
            },
            number: u64_at(bytes, 40),
            length: u64_at(bytes, 48),
            first_sequence: u64_at(bytes, 64),
            previous: (bytes[9] & HAS_PREVIOUS != 0).then_some(previous),
            previous_crc: u32_at(bytes, 88),
        })
    }
}

/// Where a batch stands; part of its header crc.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) identity: LogIdentity,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) seal: bool,
    pub(crate) count: u32,
    pub(crate) body_len: u32,
    pub(crate) sequence: u64,
    pub(crate) first_index: u64,
    pub(crate) previous_crc: u32,
    pub(crate) body_crc: u32,
}

impl BatchHeader {
    /// Returns the bytes and the header crc, which the next batch carries.
    pub(crate) fn encode(&self, place: Place) -> ([u8; BATCH_HEADER_LEN], u32) {
        let mut out = [0; BATCH_HEADER_LEN];
        out[..4].copy_from_slice(&BATCH_MAGIC);
        out[4] = LOG_FORMAT;
        out[5] = if self.seal { SEAL } else { 0 };
        put(&mut out, 8, &self.count.to_le_bytes());
        put(&mut out, 12, &self.body_len.to_le_bytes());
        put(&mut out, 16, &self.sequence.to_le_bytes());
        put(&mut out, 24, &self.first_index.to_le_bytes());
        put(&mut out, 32, &self.previous_crc.to_le_bytes());
        put(&mut out, 36, &self.body_crc.to_le_bytes());
        let crc = header_crc(&out, place);
        put(&mut out, 44, &crc.to_le_bytes());
        (out, crc)
    }

    /// Reads the header that begins `bytes`, and its crc.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> Result<(BatchHeader, u32), Flaw> {
        let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_LEN>() else {
            return Err(Flaw::Unreadable("the segment ends inside a batch header"));
        };
        if bytes[..4] != BATCH_MAGIC {
            return Err(Flaw::Unreadable("there is no batch header"));
        }
        let crc = header_crc(bytes, place);
        if crc != u32_at(bytes, 44) {
            return Err(Flaw::Unreadable(
                "the batch header does not fit its checksum",
            ));
        }
        if bytes[4] != LOG_FORMAT {
            return Err(Flaw::Newer(bytes[4]));
        }
        let header = BatchHeader {
            seal: bytes[5] & SEAL != 0,
            count: u32_at(bytes, 8),
            body_len: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            first_index: u64_at(bytes, 24),
            previous_crc: u32_at(bytes, 32),
            body_crc: u32_at(bytes, 36),
        };
        Ok((header, crc))
    }
}

/// One thing that happened to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Entry { id: LogId, payload: &'a [u8] },
    TruncateAfter(Option<LogId>),
    PurgeUpto(LogId),
    Committed(Option<LogId>),
}

impl Record<'_> {
    /// Appends the record to a body; returns where in the body its payload begins.
    pub(crate) fn encode(&self, body: &mut Vec<u8>) -> usize {
        let (kind, id, payload): (u8, Option<LogId>, &[u8]) = match self {
            Record::Entry { id, payload } => (KIND_ENTRY, Some(*id), payload),
            Record::TruncateAfter(kept) => (KIND_TRUNCATE, *kept, &[]),
            Record::PurgeUpto(upto) => (KIND_PURGE, Some(*upto), &[]),
            Record::Committed(id) => (KIND_COMMITTED, *id, &[]),
        };
        let flags = if id.is_none() { NONE } else { 0 };
        let id = id.unwrap_or_default();
        body.extend_from_slice(&[kind, LOG_FORMAT, flags, 0]);
        body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        body.extend_from_slice(&id.term.to_le_bytes());
        body.extend_from_slice(&id.index.to_le_bytes());
        body.extend_from_slice(payload);
        body.len() - payload.len()
    }
}

/// Splits a body whose crc has passed into its records, each with where its payload begins.
pub(crate) fn records(body: &[u8], count: u32) -> Result<Vec<(Record<'_>, usize)>, Flaw> {
    let mut records = Vec::with_capacity((count as usize).min(body.len() / RECORD_HEADER_LEN));
    let mut at = 0;
    while at < body.len() {
        let (record, len) = record(&body[at..])?;
        records.push((record, at + RECORD_HEADER_LEN));
        at += len;
    }
    if records.len() != count as usize {
        let text = format!(
            "a batch holds {} records and its header says {count}",
            records.len()
        );
        return Err(Flaw::Inconsistent(text));
    }
    Ok(records)
}

fn record(bytes: &[u8]) -> Result<(Record<'_>, usize), Flaw> {
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return Err(Flaw::Inconsistent(
            "a batch ends inside a record header".to_owned(),
        ));
    };
    if header[1] != LOG_FORMAT {
        return Err(Flaw::Newer(header[1]));
    }
    let len = u32_at(header, 4) as usize;
    let Some(payload) = rest.get(..len) else {
        let text = format!(
            "a record of {len} bytes is longer than the {} left of its batch",
            rest.len()
        );
        return Err(Flaw::Inconsistent(text));
    };
    let id = LogId {
        term: u64_at(header, 8),
        index: u64_at(header, 16),
    };
    let optional = (header[2] & NONE == 0).then_some(id);
    let record = match header[0] {
        KIND_ENTRY => Record::Entry { id, payload },
        KIND_TRUNCATE => Record::TruncateAfter(optional),
        KIND_PURGE => Record::PurgeUpto(id),
        KIND_COMMITTED => Record::Committed(optional),
        kind => {
            return Err(Flaw::Inconsistent(format!(
                "a record of kind {kind}, which does not exist"
            )));
        }
    };
    Ok((record, RECORD_HEADER_LEN + len))
}

/// Returns the length of a batch on disk, padding included.
pub(crate) fn batch_len(body_len: usize) -> u64 {
    ((BATCH_HEADER_LEN + body_len) as u64).next_multiple_of(ALIGN)
}

/// Says whether a batch header may begin here; only a crc can tell that one does.
pub(crate) fn looks_like_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(&BATCH_MAGIC)
}

/// Returns the index that follows `last`. Only for reading by people when there is no last.
pub(crate) fn next_index(last: Option<LogId>) -> u64 {
    last.map_or(0, |id| id.index.saturating_add(1))
}

fn header_crc(header: &[u8; BATCH_HEADER_LEN], place: Place) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.identity.cluster.to_le_bytes());
    hasher.update(&place.identity.node.to_le_bytes());
    hasher.update(&place.segment.to_le_bytes());
    hasher.update(&place.offset.to_le_bytes());
    hasher.update(&header[..44]);
    hasher.finalize()
}

pub(crate) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

// The callers below own fixed-size arrays, so the ranges exist.
pub(crate) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

pub(crate) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

pub(crate) fn u128_at<const N: usize>(bytes: &[u8; N], at: usize) -> u128 {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: LogIdentity = LogIdentity {
        cluster: 0x0102_0304,
        node: 5,
    };
    const PLACE: Place = Place {
        identity: IDENTITY,
        segment: 2,
        offset: 4096,
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    #[test]
    fn segment_header_is_frozen() {
        let header = SegmentHeader {
            identity: IDENTITY,
            number: 2,
            length: 0x10000,
            first_sequence: 9,
            previous: Some(id(3, 7)),
            previous_crc: 0xaabb_ccdd,
        };
        let bytes = header.encode();
        let frozen = "50656e6e5365673101010000000000000403020100000000000000000000000005000000000000000200000000000000\
                      0000010000000000080000000000000009000000000000000300000000000000070000000000000\
                      0ddccbbaa0000000000000000000000000000000000000000000000000000000000000000";
        assert_eq!(hex(&bytes[..124]), frozen);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn batch_is_frozen() {
        let mut body = Vec::new();
        let all = [
            Record::Entry {
                id: id(1, 2),
                payload: b"hi",
            },
            Record::TruncateAfter(None),
            Record::PurgeUpto(id(1, 0)),
            Record::Committed(Some(id(1, 1))),
        ];
        for record in &all {
            record.encode(&mut body);
        }
        let frozen = "010100000200000001000000000000000200000000000000686902010100000000000000000000000000000000000000\
                      0000030100000000000001000000000000000000000000000000040100000000000001000000000000000100000000000000";
        assert_eq!(hex(&body), frozen);
        let read = records(&body, 4).unwrap();
        assert_eq!(
            read.iter().map(|(record, _)| *record).collect::<Vec<_>>(),
            all
        );
        assert_eq!(read[0].1, RECORD_HEADER_LEN);

        let header = BatchHeader {
            seal: false,
            count: 4,
            body_len: body.len() as u32,
            sequence: 9,
            first_index: 2,
            previous_crc: 0x1122_3344,
            body_crc: crc32fast::hash(&body),
        };
        let (bytes, crc) = header.encode(PLACE);
        assert_eq!(hex(&bytes), FROZEN_BATCH_HEADER);
        assert_eq!(BatchHeader::decode(&bytes, PLACE), Ok((header, crc)));
    }

    const FROZEN_BATCH_HEADER: &str = "506e42740100000004000000620000000900000000000000020000000000000044332211d6faa8d0\
        000000001e85e33f";

    #[test]
    fn a_batch_is_only_valid_where_it_was_written() {
        let header = BatchHeader {
            seal: true,
            count: 0,
            body_len: 0,
            sequence: 1,
            first_index: 0,
            previous_crc: 0,
            body_crc: 0,
        };
        let (bytes, _) = header.encode(PLACE);
        let other_node = LogIdentity {
            node: 6,
            ..IDENTITY
        };
        let moved = [
            Place {
                offset: 4104,
                ..PLACE
            },
            Place {
                segment: 3,
                ..PLACE
            },
            Place {
                identity: other_node,
                ..PLACE
            },
        ];
        for place in moved {
            assert!(
                matches!(BatchHeader::decode(&bytes, place), Err(Flaw::Unreadable(_))),
                "{place:?}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let header = BatchHeader {
            seal: false,
            count: 1,
            body_len: 8,
            sequence: 1,
            first_index: 0,
            previous_crc: 7,
            body_crc: 9,
        };
        let (bytes, _) = header.encode(PLACE);
        for bit in 0..8 * BATCH_HEADER_LEN {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bad, PLACE).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        let mut body = Vec::new();
        Record::Entry {
            id: id(1, 0),
            payload: b"payload",
        }
        .encode(&mut body);
        for at in 0..body.len() {
            assert!(records(&body[..at], 1).is_err(), "cut at {at}");
        }
        for len in [6u32, 8, u32::MAX] {
            put(&mut body, 4, &len.to_le_bytes());
            assert!(records(&body, 1).is_err(), "length {len}");
        }
        assert!(
            records(&[], u32::MAX).is_err(),
            "a count alone reserves nothing"
        );
    }

    #[test]
    fn a_newer_format_is_told_apart_from_damage() {
        let mut body = Vec::new();
        Record::PurgeUpto(id(1, 0)).encode(&mut body);
        body[1] = LOG_FORMAT + 1;
        assert_eq!(records(&body, 1).unwrap_err(), Flaw::Newer(LOG_FORMAT + 1));
    }
}
