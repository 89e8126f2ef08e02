//! What the bytes of the segments say: the log they hold, where it ends, or why they cannot be trusted.
//!
//! PURE: bytes in, verdict out; `open.rs` reads the files and acts. The verdict on each place:
//!
//! | found | verdict |
//! |---|---|
//! | header, body, sequence, chain and index order hold | part of the log |
//! | zeros to the end of the segment | the end of the log |
//! | anything else, and a whole batch header with a higher sequence behind it | corruption |
//! | anything else in a segment that is not the last | corruption |
//! | anything else | torn tail: the last batch was never acknowledged, cut it |
//!
//! The third row is sound because batch k+1 is written only after batch k is durable: whatever stands
//! before a later batch was once whole. A whole header that does not continue the chain was written, so
//! it is corruption too, and so is a file that is not as long as its header says.
//!
//! What cannot be seen: damage to the very last batch while no later one exists. The idle seal keeps
//! that window short.

use std::collections::VecDeque;

use super::format::{
    ALIGN, BATCH_HEADER_LEN, BATCHES_START, BODY_LEN_MAX, BatchHeader, Flaw, Place, Record,
    SegmentHeader, batch_len, looks_like_batch, next_index, records,
};
use super::stream::Stream;
use super::{LogId, LogIdentity};

/// An entry found on disk: `offset` is where its payload begins in the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: LogId,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// Why the log cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) why: Why,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Corrupt(String),
    Foreign(String),
    Newer(String),
}

/// Where a segment's batches end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) offset: u64,
    /// Where the last batch begins; `offset` when the segment holds none.
    pub(crate) last_batch: u64,
    /// What stands behind the end, if not zeros: a batch that was never acknowledged.
    pub(crate) torn: Option<&'static str>,
}

/// The log as read so far, segment by segment.
#[derive(Debug)]
pub(crate) struct Replay {
    identity: LogIdentity,
    stream: Stream,
    entries: VecDeque<Found>,
    /// The segment before, and where it ended.
    before: Option<(u64, u64)>,
    last_was_seal: bool,
}

/// A whole log.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) stream: Stream,
    pub(crate) entries: VecDeque<Found>,
    /// Whether the last batch is empty, so that damage to the one before it would be seen.
    pub(crate) sealed: bool,
}

impl Replay {
    /// Begins to read a log that is purged at least up to `floor`, as the MANIFEST remembers: the purge
    /// itself may be recorded in a segment that is gone.
    pub(crate) fn new(identity: LogIdentity, floor: Option<LogId>) -> Replay {
        let stream = Stream {
            floor,
            ..Stream::default()
        };
        Replay {
            identity,
            stream,
            entries: VecDeque::new(),
            before: None,
            last_was_seal: true,
        }
    }

    /// Reads the next segment. `active`: it is the last one of the list.
    pub(crate) fn segment(
        &mut self,
        number: u64,
        bytes: &[u8],
        active: bool,
    ) -> Result<End, Refusal> {
        self.header(number, bytes)?;
        self.stream.segment(number);
        let (mut offset, mut last_batch) = (BATCHES_START, BATCHES_START);
        let flaw = loop {
            match self.batch(number, offset, bytes)? {
                Ok(next) => (last_batch, offset) = (offset, next),
                Err(flaw) => break flaw,
            }
        };
        self.before = Some((number, offset));
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        if rest.iter().all(|b| *b == 0) {
            return Ok(End {
                offset,
                last_batch,
                torn: None,
            });
        }
        let corrupt = |found: String| Refusal {
            segment: number,
            offset,
            why: Why::Corrupt(found),
        };
        if !active {
            return Err(corrupt(format!("{flaw}, in a segment that was complete")));
        }
        if let Some((later, sequence)) = self.later_batch(number, offset, bytes) {
            let found = format!(
                "{flaw}, and batch {sequence} follows at offset {later}: what stood here was durable"
            );
            return Err(corrupt(found));
        }
        Ok(End {
            offset,
            last_batch,
            torn: Some(flaw),
        })
    }

    fn header(&mut self, number: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let refuse = |why| Refusal {
            segment: number,
            offset: 0,
            why,
        };
        let header = SegmentHeader::decode(bytes).map_err(|flaw| refuse(why(flaw)))?;
        if header.identity != self.identity {
            let LogIdentity { cluster, node } = header.identity;
            let ours = self.identity;
            let found = format!(
                "the segment belongs to node {node} of cluster {cluster:032x}, and this is node {} of {:032x}",
                ours.node, ours.cluster
            );
            return Err(refuse(Why::Foreign(found)));
        }
        if header.number != number {
            return Err(refuse(Why::Corrupt(format!(
                "this is segment {}",
                header.number
            ))));
        }
        if header.length != bytes.len() as u64 {
            let found = format!(
                "the segment is {} bytes long and was made with {}",
                bytes.len(),
                header.length
            );
            let offset = header.length.min(bytes.len() as u64);
            return Err(Refusal {
                segment: number,
                offset,
                why: Why::Corrupt(found),
            });
        }
        match self.before {
            None => {
                self.stream.sequence = header.first_sequence.saturating_sub(1);
                self.stream.chain = header.previous_crc;
                self.stream.last = header.previous;
            }
            Some((segment, offset)) => {
                let stream = &self.stream;
                let continues = header.previous_crc == stream.chain
                    && header.first_sequence == stream.sequence + 1
                    && header.previous == stream.last;
                if !continues {
                    let found = format!(
                        "the segment ends with batch {}, and the next segment begins with batch {}",
                        stream.sequence, header.first_sequence
                    );
                    return Err(Refusal {
                        segment,
                        offset,
                        why: Why::Corrupt(found),
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads one batch: where the next one begins, or why none was read. A refusal only for what was
    /// certainly written and still does not fit.
    fn batch(
        &mut self,
        segment: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Result<u64, &'static str>, Refusal> {
        let refuse = |why| Refusal {
            segment,
            offset,
            why,
        };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let (header, crc) = match BatchHeader::decode(rest, self.place(segment, offset)) {
            Ok(read) => read,
            Err(Flaw::Unreadable(flaw)) => return Ok(Err(flaw)),
            Err(flaw) => return Err(refuse(why(flaw))),
        };
        let stream = &self.stream;
        if header.sequence != stream.sequence + 1 || header.previous_crc != stream.chain {
            let found = format!(
                "batch {} stands where batch {} should",
                header.sequence,
                stream.sequence + 1
            );
            return Err(refuse(Why::Corrupt(found)));
        }
        if header.first_index != next_index(stream.last) {
            let found = format!(
                "a batch at index {} where {} comes next",
                header.first_index,
                next_index(stream.last)
            );
            return Err(refuse(Why::Corrupt(found)));
        }
        let body_len = header.body_len as usize;
        let body = rest
            .get(BATCH_HEADER_LEN..)
            .and_then(|rest| rest.get(..body_len));
        let Some(body) = body.filter(|_| body_len <= BODY_LEN_MAX) else {
            return Err(refuse(Why::Corrupt(format!(
                "a batch of {body_len} bytes does not fit into the segment"
            ))));
        };
        if crc32fast::hash(body) != header.body_crc {
            return Ok(Err("the batch does not fit its checksum"));
        }
        let body_at = offset + BATCH_HEADER_LEN as u64;
        for (record, at) in records(body, header.count).map_err(|flaw| refuse(why(flaw)))? {
            self.record(segment, body_at + at as u64, record)
                .map_err(|found| refuse(Why::Corrupt(found)))?;
        }
        self.stream.sequence = header.sequence;
        self.stream.chain = crc;
        self.last_was_seal = header.seal;
        Ok(Ok(offset + batch_len(body_len)))
    }

    fn record(&mut self, segment: u64, offset: u64, record: Record<'_>) -> Result<(), String> {
        match record {
            Record::Entry { id, payload } => {
                self.stream.entry(id)?;
                let crc = crc32fast::hash(payload);
                self.entries.push_back(Found {
                    id,
                    segment,
                    offset,
                    len: payload.len() as u32,
                    crc,
                });
            }
            Record::TruncateAfter(kept) => {
                let end = kept.map_or(0, |id| id.index.saturating_add(1));
                while self
                    .entries
                    .back()
                    .is_some_and(|entry| entry.id.index >= end)
                {
                    self.entries.pop_back();
                }
                self.stream.truncate(kept);
            }
            Record::PurgeUpto(upto) => {
                while self
                    .entries
                    .front()
                    .is_some_and(|entry| entry.id.index <= upto.index)
                {
                    self.entries.pop_front();
                }
                self.stream.purge(upto);
            }
            Record::Committed(id) => self.stream.committed = id,
        }
        Ok(())
    }

    /// Looks for a whole batch header with a higher sequence behind a flaw: where, and which.
    fn later_batch(&self, segment: u64, flaw: u64, bytes: &[u8]) -> Option<(u64, u64)> {
        let mut offset = flaw + ALIGN;
        while let Some(rest) = bytes.get(offset as usize..).filter(|rest| !rest.is_empty()) {
            if looks_like_batch(rest)
                && let Ok((header, _)) = BatchHeader::decode(rest, self.place(segment, offset))
                && header.sequence > self.stream.sequence
            {
                return Some((offset, header.sequence));
            }
            offset += ALIGN;
        }
        None
    }

    fn place(&self, segment: u64, offset: u64) -> Place {
        Place {
            identity: self.identity,
            segment,
            offset,
        }
    }

    /// Demands that nothing is missing above the floor.
    pub(crate) fn finish(self) -> Result<Recovered, Refusal> {
        let Replay {
            stream,
            mut entries,
            before,
            last_was_seal,
            ..
        } = self;
        let (segment, offset) = before.unwrap_or_default();
        let first_segment = stream.segments.front().map_or(0, |lives| lives.number);
        let refuse = |found| {
            Err(Refusal {
                segment,
                offset,
                why: Why::Corrupt(found),
            })
        };
        let index = |id: Option<LogId>| id.map(|id| id.index);
        if stream.floor.is_none() && first_segment != 1 {
            return refuse(format!(
                "the log begins with segment {first_segment}, and nothing was purged"
            ));
        }
        while entries
            .front()
            .is_some_and(|entry| Some(entry.id.index) <= index(stream.floor))
        {
            entries.pop_front();
        }
        let gap = match (stream.floor, entries.front()) {
            (Some(floor), Some(first)) => first.id.index != floor.index.saturating_add(1),
            (_, None) => index(stream.last) != index(stream.floor),
            (None, Some(_)) => false,
        };
        if gap {
            let first = entries.front().map(|entry| entry.id);
            return refuse(format!(
                "entries are missing between {:?} and {first:?}",
                stream.floor
            ));
        }
        Ok(Recovered {
            stream,
            entries,
            sealed: last_was_seal,
        })
    }
}

fn why(flaw: Flaw) -> Why {
    match flaw {
        Flaw::Unreadable(found) => Why::Corrupt(found.to_owned()),
        Flaw::Inconsistent(found) => Why::Corrupt(found),
        Flaw::Newer(format) => Why::Newer(format!(
            "log format {format}, and this release does not know it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: LogIdentity = LogIdentity {
        cluster: 9,
        node: 1,
    };
    const LEN: usize = 8192;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    /// A first segment without batches.
    fn empty() -> Vec<u8> {
        let header = SegmentHeader {
            identity: IDENTITY,
            number: 1,
            length: LEN as u64,
            first_sequence: 1,
            previous: None,
            previous_crc: 0,
        };
        let mut bytes = vec![0; LEN];
        bytes[..128].copy_from_slice(&header.encode());
        bytes
    }

    /// Puts a batch of these records at `offset`, with whatever `change` does to its header. Returns its
    /// end and its header crc.
    fn batch(
        bytes: &mut [u8],
        offset: u64,
        all: &[Record<'_>],
        change: impl FnOnce(&mut BatchHeader),
    ) -> (u64, u32) {
        let mut body = Vec::new();
        for record in all {
            record.encode(&mut body);
        }
        let mut header = BatchHeader {
            seal: false,
            count: all.len() as u32,
            body_len: body.len() as u32,
            sequence: 1,
            first_index: 0,
            previous_crc: 0,
            body_crc: crc32fast::hash(&body),
        };
        change(&mut header);
        let (head, crc) = header.encode(Place {
            identity: IDENTITY,
            segment: 1,
            offset,
        });
        let at = offset as usize;
        bytes[at..at + BATCH_HEADER_LEN].copy_from_slice(&head);
        bytes[at + BATCH_HEADER_LEN..][..body.len()].copy_from_slice(&body);
        (offset + batch_len(body.len()), crc)
    }

    fn read(bytes: &[u8]) -> Result<(End, Recovered), Refusal> {
        let mut replay = Replay::new(IDENTITY, None);
        let end = replay.segment(1, bytes, true)?;
        Ok((end, replay.finish()?))
    }

    #[test]
    fn what_was_written_whole_and_does_not_fit_is_refused_not_cut() {
        let entry = |index| Record::Entry {
            id: id(1, index),
            payload: b"x",
        };
        type Change = fn(&mut BatchHeader);
        let cases: [(&str, &[Record<'_>], Change); 7] = [
            ("sequence", &[entry(0)], |header| header.sequence = 2),
            ("chain", &[entry(0)], |header| header.previous_crc = 1),
            ("first index", &[entry(0)], |header| header.first_index = 1),
            ("count", &[entry(0)], |header| header.count = 2),
            ("length", &[entry(0)], |header| header.body_len = LEN as u32),
            ("longest length", &[entry(0)], |header| {
                header.body_len = u32::MAX
            }),
            ("index order", &[entry(0), entry(2)], |_| {}),
        ];
        for (what, all, change) in cases {
            let mut bytes = empty();
            batch(&mut bytes, BATCHES_START, all, change);
            let refusal = read(&bytes).unwrap_err();
            assert_eq!(
                (refusal.segment, refusal.offset),
                (1, BATCHES_START),
                "{what}"
            );
        }
    }

    #[test]
    fn a_payload_that_holds_a_batch_of_another_place_does_not_make_a_torn_tail_corrupt() {
        let mut other = vec![0; 512];
        batch(&mut other, 0, &[], |header| header.sequence = 7);
        let mut bytes = empty();
        let first = Record::Entry {
            id: id(1, 0),
            payload: b"kept",
        };
        let (end, crc) = batch(&mut bytes, BATCHES_START, &[first], |_| {});
        let torn = Record::Entry {
            id: id(1, 1),
            payload: &other,
        };
        batch(&mut bytes, end, &[torn], |header| {
            (header.sequence, header.first_index, header.previous_crc) = (2, 1, crc);
        });
        assert_eq!(read(&bytes).unwrap().1.stream.last, Some(id(1, 1)));
        bytes[end as usize + BATCH_HEADER_LEN] ^= 1;
        let (found, log) = read(&bytes).unwrap();
        assert_eq!((found.offset, found.torn.is_some()), (end, true));
        assert_eq!(log.stream.last, Some(id(1, 0)));
    }

    #[test]
    fn entries_missing_above_the_floor_are_refused() {
        let mut bytes = empty();
        let all = [Record::Entry {
            id: id(1, 5),
            payload: b"",
        }];
        batch(&mut bytes, BATCHES_START, &all, |_| {});
        for (floor, whole) in [
            (None, true),
            (Some(3), false),
            (Some(4), true),
            (Some(5), true),
            (Some(6), false),
        ] {
            let mut replay = Replay::new(IDENTITY, floor.map(|index| id(1, index)));
            replay.segment(1, &bytes, true).unwrap();
            assert_eq!(replay.finish().is_ok(), whole, "floor {floor:?}");
        }
    }

    proptest! {
        /// Bytes with correct checksums and senseless contents: a verdict, never a panic.
        #[test]
        fn any_bytes_get_a_verdict(
            body in prop::collection::vec(any::<u8>(), 0..300),
            kinds in prop::collection::vec((0..6u8, any::<u8>(), prop_oneof![0..40u32, any::<u32>()], 0..9u64), 0..9),
            count in any::<u32>(),
            first_index in 0..3u64,
        ) {
            let mut body = body;
            for (kind, flags, len, index) in kinds {
                let mut record = vec![kind, 1, flags, 0];
                record.extend_from_slice(&len.to_le_bytes());
                record.extend_from_slice(&1u64.to_le_bytes());
                record.extend_from_slice(&index.to_le_bytes());
                record.resize(record.len() + (len as usize).min(40), 0);
                body.splice(0..0, record);
            }
            let mut bytes = empty();
            bytes[BATCHES_START as usize + BATCH_HEADER_LEN..][..body.len()].copy_from_slice(&body);
            batch(&mut bytes, BATCHES_START, &[], |header| {
                header.count = count % 12;
                header.first_index = first_index;
                header.body_len = body.len() as u32;
                header.body_crc = crc32fast::hash(&body);
            });
            let _ = read(&bytes);
            let _ = Replay::new(IDENTITY, Some(id(1, 3))).segment(1, &body, false);
        }
    }
}
