//! The log as its callers hold it: [`SegmentLog`].
//!
//! Each call checks its argument against the index, changes the index, queues its work, and returns;
//! `flusher.rs` does the rest. Both happen under one lock, so the order on disk is the order readers saw.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::files::segment_path;
use super::flusher::{Core, Shared, Work};
use super::format::BATCH_BYTES_MAX;
use super::index::{Index, Piece, Source, Stored};
use super::open::open;
use super::prepare::Desk;
use super::writer::Writer;
use super::{
    Done, Flushing, LogEntry, LogId, LogIdentity, LogOptions, LogState, LogStore, OpenError, Vote,
};
use crate::disk::{Disk, read_fully};

/// Neighbouring entries are read from disk together, up to this many bytes.
const READ_BYTES: u64 = 1 << 20;
/// How often a read is tried again because a purge removed its file meanwhile.
const READ_TRIES: usize = 8;

/// A log in segment files. Dropping it closes it.
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use pennon_raft_store::disk::MemoryDisk;
/// use pennon_raft_store::log::*;
/// let disk = Arc::new(MemoryDisk::new());
/// let identity = LogIdentity { cluster: 7, node: 1 };
/// let log = SegmentLog::open(disk.clone(), LogOptions::default(), identity)?;
/// let entry = |index| LogEntry { id: LogId { term: 1, index }, payload: "hello".into() };
/// let (tell, told) = mpsc::channel();
/// let done = |tell: &mpsc::Sender<_>| -> Done { let tell = tell.clone(); Box::new(move |r| { let _ = tell.send(r); }) };
/// log.append(vec![entry(0), entry(1)], done(&tell));
/// assert_eq!(log.read(0, 2, 1024)?.len(), 2, "readable at once");
/// told.recv()??;
/// log.append(vec![entry(5)], done(&tell));
/// assert!(told.recv()?.is_err(), "there is no entry 4 to follow");
/// log.close();
/// let stranger = LogIdentity { cluster: 8, node: 1 };
/// assert!(SegmentLog::open(disk, LogOptions::default(), stranger).is_err_and(|e| e.is_foreign()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SegmentLog {
    shared: Arc<Shared>,
    /// Without a thread of the log, the callers write.
    writer: Arc<Mutex<Option<Writer>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Bytes left in the active segment, and what is known of the next one.
    room: Arc<AtomicU64>,
    desk: Arc<Desk>,
}

impl std::fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentLog")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl SegmentLog {
    /// Opens the log of a data directory, creating it when there is none. Everything reported is durable.
    ///
    /// # Errors
    /// The files are damaged (never a torn tail, which is cut), belong to somebody else, or the disk failed.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
    ) -> Result<SegmentLog, OpenError> {
        let batch_bytes_max = options.batch_bytes_max.clamp(1, BATCH_BYTES_MAX);
        let options = LogOptions {
            batch_bytes_max,
            ..options
        };
        let opened = open(&disk, &options, identity)?;
        let stream = &opened.parts.stream;
        let index = Index::new(stream.floor, opened.entries, options.cache_bytes_max);
        let threaded = options.flushing == Flushing::Thread;
        let files = opened.parts.files.clone();
        let shared = Arc::new(Shared::new(
            options,
            files,
            index,
            opened.committed,
            opened.vote,
        ));
        let (room, desk) = (opened.parts.room.clone(), opened.parts.preparer.desk());
        let writer = Writer::new(opened.parts);
        let (writer, thread) = if threaded {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("pennon-log".to_owned());
            let thread = builder.spawn(move || shared.run(writer));
            (
                None,
                Some(thread.map_err(|e| OpenError::io("log", "cannot start a thread", e))?),
            )
        } else {
            (Some(writer), None)
        };
        Ok(SegmentLog {
            shared,
            writer: Arc::new(Mutex::new(writer)),
            thread: Mutex::new(thread),
            room,
            desk,
        })
    }

    /// Makes everything queued durable and writes an empty batch behind it, so that later damage to the
    /// last acknowledged one is seen. Nothing to do is fine. Without a thread this is done on return, unless
    /// the disk takes its time.
    pub fn seal(&self) {
        self.call(self.shared.lock(), Box::new(|_| {}), |_| Ok(Work::Seal));
    }

    /// Applies a call to what readers see, and queues its work; or answers it with an error.
    fn call(
        &self,
        mut core: MutexGuard<'_, Core>,
        done: Done,
        apply: impl FnOnce(&mut Core) -> Result<Work, String>,
    ) {
        let error = match core.refusal() {
            Some(error) => error,
            None => match apply(&mut core) {
                Ok(work) => {
                    core.queue(work, done);
                    drop(core);
                    self.go_on();
                    return;
                }
                Err(why) => io::Error::new(io::ErrorKind::InvalidInput, why),
            },
        };
        drop(core);
        done(Err(error));
    }

    fn go_on(&self) {
        match self.shared.options.flushing {
            Flushing::Thread => self.shared.wake(),
            Flushing::Inline => self.shared.drive_later(&self.writer),
        }
    }

    fn fetch(&self, pieces: &[Piece]) -> io::Result<Vec<LogEntry>> {
        let mut entries = Vec::with_capacity(pieces.len());
        let mut rest = pieces;
        while let Some(piece) = rest.first() {
            match &piece.source {
                Source::Memory(payload) => {
                    entries.push(LogEntry {
                        id: piece.id,
                        payload: payload.clone(),
                    });
                    rest = &rest[1..];
                }
                Source::Disk(first) => {
                    let near = rest.iter().map_while(|piece| match piece.source {
                        Source::Disk(stored) if is_near(first, &stored) => Some((piece.id, stored)),
                        _ => None,
                    });
                    let run: Vec<_> = near.collect();
                    self.fetch_run(&run, &mut entries)?;
                    rest = &rest[run.len()..];
                }
            }
        }
        Ok(entries)
    }

    /// Reads entries that stand close together in one segment. Never empty.
    fn fetch_run(&self, run: &[(LogId, Stored)], entries: &mut Vec<LogEntry>) -> io::Result<()> {
        let [(_, first), ..] = run else { return Ok(()) };
        let start = first.offset;
        let end = run
            .last()
            .map_or(start, |(_, last)| last.offset + u64::from(last.len));
        let file = self.shared.files.segment(first.segment)?;
        let mut bytes = vec![0; (end - start) as usize];
        let filled = read_fully(&*file, &mut bytes, start)?;
        let bytes = Bytes::from(bytes);
        for (id, stored) in run {
            let from = (stored.offset - start) as usize;
            let to = from + stored.len as usize;
            if to > filled || crc32fast::hash(&bytes[from..to]) != stored.crc {
                let path = segment_path(stored.segment);
                let text = format!(
                    "{path} at offset {}: entry {id} is not what was written there",
                    stored.offset
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            entries.push(LogEntry {
                id: *id,
                payload: bytes.slice(from..to),
            });
        }
        Ok(())
    }
}

fn is_near(first: &Stored, stored: &Stored) -> bool {
    let in_reach = stored.offset + u64::from(stored.len) <= first.offset + READ_BYTES
        || stored.offset == first.offset;
    stored.segment == first.segment && stored.offset >= first.offset && in_reach
}

impl LogStore for SegmentLog {
    fn state(&self) -> LogState {
        let core = self.shared.lock();
        let (purged, last) = (core.index.floor(), core.index.last());
        LogState {
            purged,
            last,
            committed: core.committed,
            vote: core.vote,
        }
    }

    fn save_vote(&self, vote: Vote, done: Done) {
        self.call(self.shared.lock(), done, |core| {
            core.vote = Some(vote);
            Ok(Work::Vote(vote))
        });
    }

    fn append(&self, entries: Vec<LogEntry>, done: Done) {
        self.call(self.shared.lock_with_room(), done, |core| {
            let ticket = core.index.append(&entries)?;
            Ok(Work::Append { entries, ticket })
        });
    }

    fn truncate_after(&self, last_kept: Option<LogId>, done: Done) {
        self.call(self.shared.lock(), done, |core| {
            Ok(core
                .index
                .truncate(last_kept)?
                .map_or(Work::Nothing, Work::Truncate))
        });
    }

    fn purge(&self, upto: LogId, done: Done) {
        self.call(self.shared.lock(), done, |core| {
            Ok(if core.index.purge(upto) {
                Work::Purge(upto)
            } else {
                Work::Nothing
            })
        });
    }

    fn save_committed(&self, committed: Option<LogId>) {
        let mut core = self.shared.lock();
        if core.committed != committed && core.refusal().is_none() {
            core.committed = committed;
            // So that the thread begins to wait for its idle moment; mostly it does already.
            let wake = core.asleep;
            drop(core);
            if wake {
                self.shared.wake();
            }
        }
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        for _ in 0..READ_TRIES {
            let core = self.shared.lock();
            if let Some(error) = core.refusal() {
                return Err(error);
            }
            let first = core.index.first();
            let pieces = core.index.pieces(from, to, bytes_max);
            drop(core);
            match self.fetch(&pieces) {
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound
                        && self.shared.lock().index.first() != first => {}
                read => return read,
            }
        }
        Err(io::Error::other("purges kept removing what was being read"))
    }

    fn room_bytes(&self) -> u64 {
        let waiting = self.shared.lock().waiting_bytes() as u64;
        let active = self.room.load(Ordering::Relaxed);
        // A batch stands in one segment: what is left of this one may stay unused.
        let most = active.max(self.desk.ready_bytes());
        most.saturating_sub(waiting)
    }

    fn is_starved(&self) -> bool {
        self.desk.is_starved()
    }

    fn poisoned(&self) -> Option<String> {
        self.shared.lock().poisoned()
    }

    fn close(&self) {
        if self.shared.options.flushing == Flushing::Inline {
            self.seal();
            self.shared.drive(&self.writer);
        }
        self.shared.begin_close();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) =
            thread.filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            // A panic there has poisoned the log, which its callers were told.
            let _ = thread.join();
        }
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.close();
    }
}
