//! The Raft log on disk: what an acknowledged write rests on (I9).
//!
//! Bytes and rules, file by file: `format.rs` gives each byte; `recovery.rs` decides, from bytes alone,
//! what a segment holds; `slots.rs` keeps the two-slot files (MANIFEST, vote); `open.rs` brings a directory
//! back; `index.rs` is what readers see; `writer.rs` turns queued calls into batches on disk; `flusher.rs`
//! is the thread around it; `prepare.rs` fills the next segment with zeros beforehand.
//!
//! What must hold:
//! - a `done` gets Ok only after its bytes, and everything queued before it, are durable (I9);
//! - batch k+1 is written only after batch k is durable, so at most the last batch can be torn;
//! - a torn tail is cut, corruption is never cut: [`SegmentLog::open`] refuses and says what to do;
//! - the first failure ends the log: every waiting and later call is answered with an error.
//!
//! Left out: payloads are opaque; terms and votes are stored, not judged; the caller holds the lock on
//! the directory ([`crate::identity::DirectoryLock`]).

use std::io;
use std::time::Duration;

use bytes::Bytes;

mod error;
mod files;
mod flusher;
mod format;
mod index;
mod open;
mod prepare;
mod recovery;
mod segment_log;
mod slots;
mod stream;
mod writer;

pub use crate::vote::Vote;
pub use error::OpenError;
pub use format::LOG_FORMAT;
pub use segment_log::SegmentLog;
pub use writer::give_up_reserve;

/// The place of an entry: the term it was proposed in and its position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The position in the log.
    pub index: u64,
}

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "T{}-{}", self.term, self.index)
    }
}

/// One entry. The payload is opaque here; at most [`PAYLOAD_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where the entry stands.
    pub id: LogId,
    /// What it says.
    pub payload: Bytes,
}

/// The longest payload of one entry, in bytes.
pub const PAYLOAD_LEN_MAX: usize = 64 << 20;

/// What the log holds, as callers see it at once (the last calls may not be durable yet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// Everything up to here is gone.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none. Never below `purged` by index.
    pub last: Option<LogId>,
    /// What was last saved with [`LogStore::save_committed`]; after a crash, some earlier such value.
    pub committed: Option<LogId>,
    /// The last saved vote.
    pub vote: Option<Vote>,
}

/// Called exactly once, when the call it belongs to is durable or never will be known to be.
///
/// Runs on the thread of the log (or on the caller's, with [`Flushing::Inline`]), never under a lock of
/// the log. It may call the log. A panic in it ends the log, as any failure does.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log of one node, as consensus needs it.
///
/// Calls take effect for readers in the order they are made, and are made durable and answered in that
/// order. A call that breaks a rule of its own (see each method) is answered `InvalidInput` and changes
/// nothing; after any other failure the log is poisoned: see [`LogStore::poisoned`].
pub trait LogStore: Send + Sync + 'static {
    /// Returns what the log holds.
    fn state(&self) -> LogState;

    /// Stores the vote; durable before `done(Ok)`.
    fn save_vote(&self, vote: Vote, done: Done);

    /// Adds entries at the end: readable when this returns, durable when `done(Ok)` is called.
    ///
    /// The indexes must continue the log without a gap; an empty log that was never purged may begin
    /// anywhere. Otherwise, or when a payload is too long, `done` gets `InvalidInput`. Blocks while more
    /// than [`LogOptions::queue_bytes_max`] wait to be written.
    fn append(&self, entries: Vec<LogEntry>, done: Done);

    /// Removes every entry after `last_kept` (by index); all of them for `None`.
    ///
    /// Nothing to remove is Ok. Cutting into what is purged is `InvalidInput`.
    fn truncate_after(&self, last_kept: Option<LogId>, done: Done);

    /// Removes every entry up to and including `upto` (by index), past the end if need be: then the log
    /// is empty and continues behind `upto`. Nothing to remove is Ok.
    ///
    /// The caller has a durable snapshot that covers `upto`.
    fn purge(&self, upto: LogId, done: Done);

    /// Remembers how far the log is committed. Goes to disk with the next batch; best effort.
    fn save_committed(&self, committed: Option<LogId>);

    /// Returns the entries with `from <= index < to` that exist, as many as fit into `bytes_max` of
    /// payload, and at least the first.
    ///
    /// # Errors
    /// The log is poisoned, or the disk failed, or gave back other bytes than were written.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>>;

    /// Returns how many bytes the log takes for certain, also when the disk is full: their space was
    /// taken beforehand.
    fn room_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Says whether there was no space for what comes after [`LogStore::room_bytes`] when last tried. It is
    /// tried again by itself.
    fn is_starved(&self) -> bool {
        false
    }

    /// Returns why the log stopped, if it did. Nothing is retried: the process opens the log anew.
    fn poisoned(&self) -> Option<String>;

    /// Makes everything queued durable, seals, and stops the log's threads; later calls are answered
    /// with an error. Idempotent; dropping the log does the same.
    fn close(&self);
}

/// Who makes batches durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flushing {
    /// A thread of the log: what is queued while a batch is being made durable forms the next one.
    #[default]
    Thread,
    /// The caller: every call writes, syncs and calls `done` before it returns. No thread, no timer; the
    /// idle seal is written only by `seal` and `close`. For simulations. On a disk that says how long
    /// syncing takes ([`Disk::sync_time`](crate::disk::Disk::sync_time)) a task of the caller's runtime does
    /// that so much later, with all that was queued meanwhile; until then nothing of it is on the disk.
    Inline,
}

/// Sizes and times of a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Who makes batches durable.
    pub flushing: Flushing,
    /// The length of a segment file, in bytes; a single larger batch gets a segment of its own size.
    /// Clamped to 8 KiB ..= 128 MiB.
    pub segment_bytes: u64,
    /// The body of a batch is closed when it has reached this many bytes.
    pub batch_bytes_max: usize,
    /// After this long without a write, an empty batch is written so that later damage to the last
    /// acknowledged batch cannot pass for a torn tail.
    pub idle_seal: Duration,
    /// Payload bytes of durable entries kept in memory, newest first to stay.
    pub cache_bytes_max: usize,
    /// Payload bytes waiting to be written, beyond which `append` blocks.
    pub queue_bytes_max: usize,
    /// Size of a file kept aside and given up when the disk is full at open or when a segment is needed;
    /// 0 for none.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            flushing: Flushing::Thread,
            segment_bytes: 16 << 20,
            batch_bytes_max: 8 << 20,
            idle_seal: Duration::from_millis(50),
            cache_bytes_max: 64 << 20,
            queue_bytes_max: 256 << 20,
            reserve_bytes: 4 << 20,
        }
    }
}

/// Whose log it is. Stored in every file; a file of somebody else is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster's id.
    pub cluster: u128,
    /// The node's id.
    pub node: u64,
}
