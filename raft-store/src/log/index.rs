//! What readers see: every entry's place, and the payloads that are in memory.
//!
//! PURE state behind one lock. An entry is *pinned* (its payload in memory, whatever the cache bound
//! says) from `append` until the batch that carries it is durable. That batch is recognised by the
//! ticket that the entry got at `append`, not by its index: after a truncate the same index may be
//! pinned again for another entry, which is not durable yet. Then the payload stays in a cache that
//! drops what became durable first; a miss is read from disk and compared with the crc kept here.

use std::collections::VecDeque;

use bytes::Bytes;

use super::recovery::Found;
use super::{LogEntry, LogId, PAYLOAD_LEN_MAX};

/// What a cached entry weighs beside its payload.
const ENTRY_WEIGHT: usize = 96;

/// Where a durable payload stands on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// An entry that has become durable, as the writer reports it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) index: u64,
    pub(crate) ticket: u64,
    pub(crate) stored: Stored,
}

/// An entry to read.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) id: LogId,
    pub(crate) source: Source,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Memory(Bytes),
    Disk(Stored),
}

#[derive(Debug)]
struct Slot {
    term: u64,
    ticket: u64,
    /// None while pinned.
    stored: Option<Stored>,
    bytes: Option<Bytes>,
}

#[derive(Debug)]
struct Cached {
    index: u64,
    ticket: u64,
    weight: usize,
}

#[derive(Debug)]
pub(crate) struct Index {
    floor: Option<LogId>,
    /// The index of the first slot; meaningless when there is none.
    first: u64,
    slots: VecDeque<Slot>,
    next_ticket: u64,
    cached: VecDeque<Cached>,
    cached_bytes: usize,
    cache_bytes_max: usize,
}

impl Index {
    pub(crate) fn new(
        floor: Option<LogId>,
        entries: VecDeque<Found>,
        cache_bytes_max: usize,
    ) -> Index {
        let first = entries.front().map_or(0, |entry| entry.id.index);
        let slot = |entry: Found| Slot {
            term: entry.id.term,
            ticket: 0,
            stored: Some(Stored {
                segment: entry.segment,
                offset: entry.offset,
                len: entry.len,
                crc: entry.crc,
            }),
            bytes: None,
        };
        let slots = entries.into_iter().map(slot).collect();
        Index {
            floor,
            first,
            slots,
            next_ticket: 1,
            cached: VecDeque::new(),
            cached_bytes: 0,
            cache_bytes_max,
        }
    }

    pub(crate) fn floor(&self) -> Option<LogId> {
        self.floor
    }

    /// Returns the last entry, or the floor when there is none.
    pub(crate) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(LogId {
                term: slot.term,
                index: self.first + self.slots.len() as u64 - 1,
            }),
            None => self.floor,
        }
    }

    /// Adds entries, pinned; returns the ticket of the first one, or what is wrong with them.
    pub(crate) fn append(&mut self, entries: &[LogEntry]) -> Result<u64, String> {
        let mut last = self.last();
        for LogEntry { id, payload } in entries {
            if last.is_some_and(|last| last.index.checked_add(1) != Some(id.index))
                || id.index == u64::MAX
            {
                return Err(format!("entry {id} does not follow the last one, {last:?}"));
            }
            if payload.len() > PAYLOAD_LEN_MAX {
                return Err(format!(
                    "entry {id} has {} bytes, more than {PAYLOAD_LEN_MAX}",
                    payload.len()
                ));
            }
            last = Some(*id);
        }
        let ticket = self.next_ticket;
        if let (Some(entry), true) = (entries.first(), self.slots.is_empty()) {
            self.first = entry.id.index;
        }
        for entry in entries {
            let bytes = Some(entry.payload.clone());
            self.slots.push_back(Slot {
                term: entry.id.term,
                ticket: self.next_ticket,
                stored: None,
                bytes,
            });
            self.next_ticket += 1;
        }
        Ok(ticket)
    }

    /// Removes what follows `kept`. Returns the id to record (`None` inside: the whole log), nothing when
    /// there was nothing to remove, or what is wrong with the request.
    #[allow(
        clippy::option_option,
        reason = "the inner one is the argument of the record"
    )]
    pub(crate) fn truncate(
        &mut self,
        kept: Option<LogId>,
    ) -> Result<Option<Option<LogId>>, String> {
        let end = kept.map_or(0, |id| id.index.saturating_add(1));
        let floor_end = self.floor.map_or(0, |floor| floor.index + 1);
        if end < floor_end {
            return Err(format!(
                "cannot cut the log back to {kept:?}: it is purged up to {:?}",
                self.floor
            ));
        }
        if self.slots.is_empty() || end >= self.first + self.slots.len() as u64 {
            return Ok(None);
        }
        if end < self.first && kept.is_some() {
            return Err(format!(
                "cannot cut the log back to {kept:?}: it begins at index {}",
                self.first
            ));
        }
        self.slots.truncate(end.saturating_sub(self.first) as usize);
        Ok(Some(self.last()))
    }

    /// Removes what is up to `upto`; false when there was nothing to remove.
    pub(crate) fn purge(&mut self, upto: LogId) -> bool {
        let below_floor = self.floor.is_some_and(|floor| upto.index <= floor.index);
        // A log that begins above its start has nothing there to remove, unless `upto` touches it.
        let below_first = !self.slots.is_empty() && upto.index.saturating_add(1) < self.first;
        if below_floor || below_first {
            return false;
        }
        let gone = upto
            .index
            .saturating_add(1)
            .saturating_sub(self.first)
            .min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first = upto.index.saturating_add(1);
        self.floor = Some(upto);
        while self
            .cached
            .front()
            .is_some_and(|cached| cached.index <= upto.index)
        {
            self.evict_first();
        }
        true
    }

    /// Notes that entries are durable; those that were truncated meanwhile are passed over.
    pub(crate) fn settle(&mut self, placed: &[Placed]) {
        for Placed {
            index,
            ticket,
            stored,
        } in placed
        {
            if let Some(slot) = slot_mut(&mut self.slots, self.first, *index)
                && slot.ticket == *ticket
            {
                slot.stored = Some(*stored);
                let weight = stored.len as usize + ENTRY_WEIGHT;
                self.cached.push_back(Cached {
                    index: *index,
                    ticket: *ticket,
                    weight,
                });
                self.cached_bytes += weight;
            }
        }
        while self.cached_bytes > self.cache_bytes_max && !self.cached.is_empty() {
            self.evict_first();
        }
    }

    fn evict_first(&mut self) {
        let Some(cached) = self.cached.pop_front() else {
            return;
        };
        self.cached_bytes = self.cached_bytes.saturating_sub(cached.weight);
        if let Some(slot) = slot_mut(&mut self.slots, self.first, cached.index)
            && slot.ticket == cached.ticket
        {
            slot.bytes = None;
        }
    }

    /// Returns where to find the entries of a range that exist, up to `bytes_max` and at least one.
    pub(crate) fn pieces(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut bytes_sum = 0usize;
        let from = from.max(self.first);
        let skip = usize::try_from(from - self.first)
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        for (index, slot) in (from..to).zip(self.slots.range(skip..)) {
            let (len, source) = match (&slot.bytes, slot.stored) {
                (Some(bytes), _) => (bytes.len(), Source::Memory(bytes.clone())),
                (None, Some(stored)) => (stored.len as usize, Source::Disk(stored)),
                // Neither in memory nor on disk: cannot be, as only durable payloads are dropped.
                (None, None) => break,
            };
            bytes_sum = bytes_sum.saturating_add(len);
            if bytes_sum > bytes_max && !pieces.is_empty() {
                break;
            }
            pieces.push(Piece {
                id: LogId {
                    term: slot.term,
                    index,
                },
                source,
            });
        }
        pieces
    }

    /// Returns the first index that a read can find.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }
}

fn slot_mut(slots: &mut VecDeque<Slot>, first: u64, index: u64) -> Option<&mut Slot> {
    slots.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<LogEntry> {
        let entry = |index| LogEntry {
            id: LogId { term, index },
            payload: Bytes::from(vec![term as u8; 100]),
        };
        range.map(entry).collect()
    }

    fn placed(ticket: u64, range: std::ops::Range<u64>) -> Vec<Placed> {
        let stored = |index| Stored {
            segment: 1,
            offset: index * 200,
            len: 100,
            crc: 0,
        };
        let one = |(n, index): (usize, u64)| Placed {
            index,
            ticket: ticket + n as u64,
            stored: stored(index),
        };
        range
            .enumerate()
            .map(|(n, index)| one((n, index)))
            .collect()
    }

    fn in_memory(index: &Index) -> Vec<bool> {
        let pieces = index.pieces(0, u64::MAX, usize::MAX);
        pieces
            .iter()
            .map(|piece| matches!(piece.source, Source::Memory(_)))
            .collect()
    }

    #[test]
    fn a_durable_batch_does_not_unpin_the_entry_that_replaced_its_own() {
        let mut index = Index::new(None, VecDeque::new(), 0);
        let first = index.append(&entries(1, 0..3)).unwrap();
        index.truncate(Some(LogId { term: 1, index: 0 })).unwrap();
        let second = index.append(&entries(2, 1..3)).unwrap();
        index.settle(&placed(first, 0..3));
        assert_eq!(
            in_memory(&index),
            [false, true, true],
            "entries 1 and 2 of term 2 are not durable"
        );
        index.settle(&placed(second, 1..3));
        assert_eq!(in_memory(&index), [false, false, false]);
    }

    #[test]
    fn the_cache_keeps_its_bound_and_the_newest() {
        let mut index = Index::new(None, VecDeque::new(), 2 * (100 + ENTRY_WEIGHT));
        let ticket = index.append(&entries(1, 0..5)).unwrap();
        assert_eq!(in_memory(&index), [true; 5], "pinned beyond any bound");
        index.settle(&placed(ticket, 0..5));
        assert_eq!(in_memory(&index), [false, false, false, true, true]);
        index.purge(LogId { term: 1, index: 4 });
        assert_eq!((index.cached_bytes, index.cached.len()), (0, 0));
    }

    #[test]
    fn a_read_gives_at_least_one_entry_and_no_more_than_fits() {
        let mut index = Index::new(None, VecDeque::new(), 0);
        index.append(&entries(1, 5..9)).unwrap();
        let found = |from, to, max| {
            index
                .pieces(from, to, max)
                .iter()
                .map(|p| p.id.index)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(0, 100, 250), [5, 6]);
        assert_eq!(found(7, 100, 0), [7]);
        assert_eq!(found(6, 7, 1000), [6]);
        assert_eq!(found(9, 100, 1000), [] as [u64; 0]);
        assert_eq!(found(8, 3, 1000), [] as [u64; 0]);
    }
}
