//! From records to durable bytes: batches, segments, MANIFEST, vote.
//!
//! What must hold, in this order:
//! - a batch is written only after the one before is durable (`write` returns after its sync);
//! - a segment's length, header, name and place in the MANIFEST are durable before its first batch;
//! - a purge is in the stream, then in the MANIFEST, then files are unlinked, oldest first.
//!
//! Any error is final: the caller poisons the log and never calls the writer again, so no method leaves
//! anything to be repaired. Left out: who waits for what (`flusher.rs`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::{Files, LOG_DIR, RESERVE, segment_path};
use super::format::{
    BATCH_HEADER_LEN, BATCHES_START, BatchHeader, Place, RECORD_HEADER_LEN, Record, SegmentHeader,
    batch_len, next_index,
};
use super::index::{Placed, Stored};
use super::prepare::Preparer;
use super::slots::{Manifest, TwoSlots, vote_to_words};
use super::stream::Stream;
use super::{LogId, LogIdentity, Vote};
use crate::disk::{Disk, DiskFile, is_full};

/// A buffer that an unusual batch made larger than this is given back.
const BUFFER_KEPT: usize = 16 << 20;

/// What a disk loses as one: a seal that stands in the block of what it seals goes with it.
const BLOCK: u64 = 4096;

/// The least length of a segment made from the space of the reserve file.
const SHORT_SEGMENT: u64 = 1 << 20;

/// What a written record does to the stream.
enum Effect {
    Entry {
        id: LogId,
        ticket: u64,
        at: usize,
        len: u32,
        crc: u32,
    },
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(Option<LogId>),
}

pub(crate) struct Active {
    pub(crate) number: u64,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) length: u64,
    /// Where the next batch goes.
    pub(crate) end: u64,
}

/// Everything that `open` found or made, and the writer goes on with.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Arc<Files>,
    pub(crate) identity: LogIdentity,
    pub(crate) segment_bytes: u64,
    pub(crate) manifest: TwoSlots,
    pub(crate) votes: TwoSlots,
    pub(crate) stream: Stream,
    pub(crate) active: Active,
    pub(crate) preparer: Preparer,
    /// Bytes left in the active segment, for whoever asks.
    pub(crate) room: Arc<AtomicU64>,
    pub(crate) sealed: bool,
    /// Whether the stream's commit index is on disk, and will stay.
    pub(crate) committed_stored: bool,
}

pub(crate) struct Writer {
    parts: Parts,
    /// Room for the header, then the records of the batch being built.
    buffer: Vec<u8>,
    effects: Vec<Effect>,
}

impl Writer {
    pub(crate) fn new(parts: Parts) -> Writer {
        parts.preparer.want(parts.active.number + 1);
        let writer = Writer {
            parts,
            buffer: vec![0; BATCH_HEADER_LEN],
            effects: Vec::new(),
        };
        writer.tell_room();
        writer
    }

    fn tell_room(&self) {
        let Active { length, end, .. } = self.parts.active;
        self.parts.room.store(length - end, Ordering::Relaxed);
    }

    /// Says whether damage to the last batch that matters would be seen.
    pub(crate) fn sealed(&self) -> bool {
        self.parts.sealed
    }

    /// Says whether this commit index is the one on disk.
    pub(crate) fn has_committed(&self, committed: Option<LogId>) -> bool {
        self.parts.committed_stored && self.parts.stream.committed == committed
    }

    /// Returns the size of the body being built.
    pub(crate) fn body_len(&self) -> usize {
        self.buffer.len() - BATCH_HEADER_LEN
    }

    /// Returns the size that the body would have with another entry.
    pub(crate) fn body_len_with(&self, payload_len: usize) -> usize {
        self.body_len() + RECORD_HEADER_LEN + payload_len
    }

    pub(crate) fn entry(&mut self, ticket: u64, id: LogId, payload: &[u8]) {
        let at = Record::Entry { id, payload }.encode(&mut self.buffer);
        let crc = crc32fast::hash(payload);
        self.effects.push(Effect::Entry {
            id,
            ticket,
            at,
            len: payload.len() as u32,
            crc,
        });
    }

    pub(crate) fn truncate(&mut self, kept: Option<LogId>) {
        Record::TruncateAfter(kept).encode(&mut self.buffer);
        self.effects.push(Effect::Truncate(kept));
    }

    /// Records a purge, and the commit index again: its last record may stand in a segment that goes.
    pub(crate) fn purge(&mut self, upto: LogId, committed: Option<LogId>) {
        Record::PurgeUpto(upto).encode(&mut self.buffer);
        self.effects.push(Effect::Purge(upto));
        self.record_committed(committed);
    }

    pub(crate) fn record_committed(&mut self, committed: Option<LogId>) {
        Record::Committed(committed).encode(&mut self.buffer);
        self.effects.push(Effect::Committed(committed));
    }

    /// Writes the batch built so far and makes it durable (I9). Returns where its entries stand.
    pub(crate) fn write(&mut self, seal: bool) -> io::Result<Vec<Placed>> {
        let body_len = self.body_len();
        let len = batch_len(body_len);
        if self.parts.active.end + len > self.parts.active.length {
            self.roll(len)?;
        }
        let Parts {
            active,
            stream,
            identity,
            ..
        } = &mut self.parts;
        let header = BatchHeader {
            seal,
            count: self.effects.len() as u32,
            body_len: body_len as u32,
            sequence: stream.sequence + 1,
            first_index: next_index(stream.last),
            previous_crc: stream.chain,
            body_crc: crc32fast::hash(&self.buffer[BATCH_HEADER_LEN..]),
        };
        let place = Place {
            identity: *identity,
            segment: active.number,
            offset: active.end,
        };
        let (bytes, crc) = header.encode(place);
        self.buffer[..BATCH_HEADER_LEN].copy_from_slice(&bytes);
        self.buffer.resize(len as usize, 0);
        active.file.write_at(&self.buffer, active.end)?;
        active.file.sync_data()?; // I9
        stream.sequence += 1;
        stream.chain = crc;
        let placed = apply(stream, &self.effects, active)?;
        active.end += len;
        self.tell_room();
        self.parts.sealed = seal;
        self.parts.committed_stored |= self
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Committed(_)));
        self.effects.clear();
        self.buffer.truncate(BATCH_HEADER_LEN);
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer.shrink_to(BATCH_HEADER_LEN);
        }
        Ok(placed)
    }

    /// Writes an empty batch behind the last one, so that later damage to that is seen: one that reaches into
    /// the next block, and then another one there, which stays when the whole block of the last batch is
    /// lost. When that is sealed already and only the commit index is new, one is enough.
    pub(crate) fn seal(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Active { number, end, .. } = self.parts.active;
        let sealed = self.parts.sealed;
        if !self.has_committed(committed) {
            self.record_committed(committed);
        }
        // The last byte that matters is before the end.
        let next_block = end.next_multiple_of(BLOCK);
        while !sealed && end < next_block && end + batch_len(self.body_len()) < next_block {
            self.record_committed(committed);
        }
        self.write(true)?;
        if !sealed && end < next_block && self.parts.active.number == number {
            self.write(true)?;
        }
        Ok(())
    }

    /// Begins the next segment, large enough for a batch of `len`.
    fn roll(&mut self, len: u64) -> io::Result<()> {
        let parts = &mut self.parts;
        let number = parts.active.number + 1;
        let needed = (BATCHES_START + len).next_multiple_of(BATCHES_START);
        let mut length = parts.segment_bytes.max(needed);
        let file = match parts.preparer.take(number, length) {
            Err(error) if is_full(&error) && give_up_reserve(&*parts.disk, &error)? => {
                length = parts.segment_bytes.min(SHORT_SEGMENT).max(needed);
                parts.preparer.take(number, length)?
            }
            taken => taken?,
        };
        begin_segment(
            &*parts.disk,
            &*file,
            parts.identity,
            number,
            length,
            &parts.stream,
        )?;
        parts.stream.segment(number);
        parts.manifest.save(manifest_of(&parts.stream).to_words())?;
        parts.active = Active {
            number,
            file,
            length,
            end: BATCHES_START,
        };
        parts.preparer.want(number + 1);
        Ok(())
    }

    /// Lets the MANIFEST know the floor, then removes the segments that hold nothing above it.
    pub(crate) fn drop_purged(&mut self) -> io::Result<()> {
        let Parts {
            disk,
            files,
            manifest,
            stream,
            ..
        } = &mut self.parts;
        drop_purged(&**disk, files, manifest, stream)
    }

    /// Makes a vote durable.
    pub(crate) fn save_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.parts.votes.save(vote_to_words(Some(vote))) // I9
    }
}

/// Frees the space that was kept for a full disk; false when there is none. With space the log makes it anew.
///
/// # Errors
/// Whatever the disk says.
pub fn give_up_reserve(disk: &dyn Disk, why: &io::Error) -> io::Result<bool> {
    if !disk.exists(RESERVE)? {
        return Ok(false);
    }
    tracing::warn!(%why, "the disk is full: giving up the reserve file");
    disk.remove(RESERVE)?;
    disk.sync_dir(LOG_DIR)?;
    Ok(true)
}

fn apply(stream: &mut Stream, effects: &[Effect], active: &Active) -> io::Result<Vec<Placed>> {
    let mut placed = Vec::with_capacity(effects.len());
    for effect in effects {
        match *effect {
            Effect::Entry {
                id,
                ticket,
                at,
                len,
                crc,
            } => {
                stream.entry(id).map_err(io::Error::other)?;
                let stored = Stored {
                    segment: active.number,
                    offset: active.end + at as u64,
                    len,
                    crc,
                };
                placed.push(Placed {
                    index: id.index,
                    ticket,
                    stored,
                });
            }
            Effect::Truncate(kept) => stream.truncate(kept),
            Effect::Purge(upto) => stream.purge(upto),
            Effect::Committed(id) => stream.committed = id,
        }
    }
    Ok(placed)
}

/// Makes a segment ready for its first batch, except for its place in the MANIFEST.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    identity: LogIdentity,
    number: u64,
    length: u64,
    stream: &Stream,
) -> io::Result<()> {
    let header = SegmentHeader {
        identity,
        number,
        length,
        first_sequence: stream.sequence + 1,
        previous: stream.last,
        previous_crc: stream.chain,
    };
    file.write_at(&header.encode(), 0)?;
    file.sync_all()?;
    disk.sync_dir(LOG_DIR)
}

/// Says what the MANIFEST should.
pub(crate) fn manifest_of(stream: &Stream) -> Manifest {
    let number = |lives: Option<&super::stream::Lives>| lives.map_or(0, |lives| lives.number);
    Manifest {
        floor: stream.floor,
        first: number(stream.segments.front()),
        last: number(stream.segments.back()),
    }
}

pub(crate) fn drop_purged(
    disk: &dyn Disk,
    files: &Files,
    manifest: &mut TwoSlots,
    stream: &mut Stream,
) -> io::Result<()> {
    let gone: Vec<_> = stream.segments.drain(..stream.droppable()).collect();
    manifest.save(manifest_of(stream).to_words())?;
    for lives in &gone {
        files.forget(lives.number);
        disk.remove(&segment_path(lives.number))?;
    }
    if gone.is_empty() {
        Ok(())
    } else {
        disk.sync_dir(LOG_DIR)
    }
}
