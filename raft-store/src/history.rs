//! The history of every object: who changed what, when, why, before and after.
//!
//! Derived state. It never decides anything in `apply`, and whoever deletes it loses only the time
//! to fill it again from the newest snapshot file and the log. Nothing outside this module names
//! sled; [`MemoryHistory`] is the same thing for the simulation and for tests.
//!
//! What must hold:
//! - An entry's records and its applied index go in together: after a crash the store holds
//!   exactly the entries up to [`History::applied`], and an entry that comes again is ignored.
//! - What is kept is a function of the records and of what was to be kept at each entry ([`Keep`]),
//!   so every node keeps the same: the newest of each object, then the newest of all, then those
//!   that are not too old, by the time in the records. No clock is read here.
//! - Nothing sled does gets out as a panic or a hang: it is opened on its own thread with a
//!   deadline, every call into it is guarded, and all it holds is checked at open. A store that
//!   fails any of this is deleted and begun anew ([`Opened::Rebuilt`]).
//!
//! `state.rs` opens `state/` as a node does, in the background (`late.rs`); `history/sled.rs` is the shell
//! (queue, writer thread, opening), `writer.rs` decides what an entry changes, `store.rs` has the layout,
//! `files.rs` the directories.
//!
//! Left out: what a body means (the machine's business), and durability between two drains: a
//! killed process loses the newest entries here, and the log has them.

use std::io;

use bytes::Bytes;
use pennon_evaluator::Retention;

use crate::command::ClusterId;
use crate::disk::Space;
use crate::machine::Machine;
use crate::state_machine::parse_change;

mod files;
mod groups;
mod late;
mod memory;
mod sled;
mod state;
mod store;
mod writer;

pub use late::LateHistory;
pub use memory::MemoryHistory;
pub use sled::SledHistory;

/// Most records one read returns, whatever limit it asks for (whole versions may exceed it).
pub const READ_LIMIT_MAX: usize = 10_000;

/// One line of an object's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The object, in bytes whose order is the order of objects. Any bytes will do.
    pub object: Vec<u8>,
    /// The version this line is about. An object has at most one record per version.
    pub version: u64,
    /// What the machine wrote; opaque here.
    pub body: Bytes,
}

/// What is kept, from an entry on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Newest records kept per object.
    pub per_object_max: usize,
    /// Newest records kept over all objects.
    pub total_max: u64,
    /// Records of an earlier time go: milliseconds since 1970, of the same clock as in the records.
    pub since_ms: u64,
}

impl Keep {
    /// What a machine says after an entry.
    pub(crate) fn by(machine: &Machine) -> Self {
        let retention = machine.retention();
        let age_ms = (retention.days as u64).saturating_mul(DAY_MS);
        Self {
            per_object_max: retention.per_object,
            total_max: retention.total as u64,
            since_ms: machine.time_ms().saturating_sub(age_ms),
        }
    }
}

const DAY_MS: u64 = 86_400_000;

/// Bounds of a history.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// Whose history it is. A store that says it is another's is begun anew; none: whoever's it is.
    pub cluster: Option<ClusterId>,
    /// sled's page cache, in bytes. A record too long for a page (half a megabyte) is in a file of
    /// its own and does not count here once it was read.
    pub cache_bytes: u64,
    /// What is kept until [`History::keep`] says something else.
    pub keep: Keep,
    /// The time of a record, milliseconds since 1970, read from its body; asked of the oldest ones.
    /// `u64::MAX` when it has none.
    pub time_of: fn(&[u8]) -> u64,
    /// Most entries that are not written yet.
    pub queue_len_max: usize,
    /// Most bytes of their bodies and object keys. A longer entry waits alone.
    pub queue_bytes_max: usize,
    /// A store that takes more of the disk than this many times what its records need is written anew,
    /// at open and while it runs; at least twice.
    pub rebuild_multiple: u64,
    /// One that takes at most so many bytes is left as it is.
    pub rebuild_min_bytes: u64,
    /// While this is at its floor, nothing is written: sled does not survive a full disk. What was
    /// recorded waits, and reads fail as long as something does.
    pub space: Space,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            cluster: None,
            cache_bytes: 64 << 20,
            keep: Keep {
                per_object_max: Retention::DEFAULT.per_object,
                total_max: Retention::DEFAULT.total as u64,
                since_ms: 0,
            },
            time_of: time_of_change,
            queue_len_max: 1024,
            queue_bytes_max: 64 << 20,
            rebuild_multiple: 4,
            rebuild_min_bytes: 64 << 20,
            space: Space::unbounded(),
        }
    }
}

/// How much a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Records of the object that was asked about.
    pub of_object: u64,
    /// Records of all objects.
    pub of_all: u64,
    /// The version of the object's oldest record.
    pub oldest_of_object: Option<u64>,
    /// The version of the oldest record of all; none when there are no records.
    pub oldest: Option<u64>,
}

/// Fills a history that is behind from a snapshot.
pub type Refill = Box<dyn FnOnce(&dyn History) -> io::Result<()> + Send>;

/// Keeps the newest records of every object. All calls may block; none panics.
///
/// ```
/// use pennon_raft_store::history::{History, HistoryOptions, HistoryRecord, MemoryHistory};
///
/// let history = MemoryHistory::new(HistoryOptions::default());
/// let line = |version, body: &'static str| HistoryRecord {
///     object: b"flag/checkout".to_vec(),
///     version,
///     body: body.into(),
/// };
/// history.record(7, vec![line(7, "created")]);
/// history.record(8, vec![line(8, "turned on")]);
/// history.record(8, vec![line(8, "replayed after a restart: ignored")]);
///
/// let newest = history.of_object(b"flag/checkout", None, 1)?;
/// assert_eq!(newest, [line(8, "turned on")]);
///
/// // Refused: a closed history answers nothing any more.
/// history.close();
/// assert!(history.latest(None, 10).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait History: Send + Sync + 'static {
    /// Brings the history in line with a machine that was loaded at the entry `applied`; `refill`
    /// fills it when it is behind. Called once, before anything is recorded; may return before it is
    /// done.
    ///
    /// # Errors
    /// Those of `refill`.
    fn begin(&self, applied: u64, refill: Refill) -> io::Result<()>;

    /// Whether [`History::record`] would wait now.
    fn is_full(&self) -> bool {
        false
    }

    /// Waits until it would not, or until nothing is taken any more.
    fn wait_for_room(&self) {}

    /// Adds the records of the entry at `applied`, which must rise from call to call. An entry at
    /// or below [`History::applied`] changes nothing. Queued for the writer thread; **blocks while
    /// the queue is full**. After a failure or a close the records are dropped: see
    /// [`History::failed`].
    fn record(&self, applied: u64, records: Vec<HistoryRecord>);

    /// Says what is kept from the next entry on; the same at every node, whatever is queued.
    fn keep(&self, keep: Keep);

    /// The newest entry the store holds, durable or not. Zero in a new store.
    fn applied(&self) -> u64;

    /// Waits until everything queued before the call is in the store, makes the store durable, and
    /// returns the applied index that is now durable at least.
    ///
    /// # Errors
    /// A failure kept from earlier, or a failed write or sync, which is then kept.
    fn drain(&self) -> io::Result<u64>;

    /// The newest records of one object with a version below `before`, newest first, at most
    /// `limit` and at most [`READ_LIMIT_MAX`]. Sees everything recorded before the call.
    ///
    /// # Errors
    /// A failure kept from earlier, or damage, which is then kept.
    fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>>;

    /// The newest records of all objects with a version below `before`: newest version first,
    /// within a version the greatest object first. A version is never cut in two, so that paging by
    /// `before` skips nothing: the answer ends with the first version that fills `limit` (at most
    /// [`READ_LIMIT_MAX`]) and may be longer by the rest of that one entry.
    ///
    /// # Errors
    /// As [`History::of_object`].
    fn latest(&self, before: Option<u64>, limit: usize) -> io::Result<Vec<HistoryRecord>>;

    /// How much is held, of one object and of all. Sees everything recorded before the call.
    ///
    /// # Errors
    /// As [`History::of_object`].
    fn extent(&self, object: &[u8]) -> io::Result<Extent>;

    /// Hands every record with a version up to `version_max` to `f`, in the order of
    /// [`History::latest`], in bounded memory, while other entries may be recorded.
    ///
    /// A record that is trimmed meanwhile may be handed over or not; a snapshot is exact either way:
    /// whoever refills from it and then replays the entries after `version_max` up to where this node
    /// was keeps what this node keeps, as long as less is never kept and then more again meanwhile.
    /// (What this node kept is all there; what it trimmed is trimmed
    /// again; and the number kept never falls, so at the limit nothing else has room.)
    ///
    /// # Errors
    /// Those of `f`, unchanged; else as [`History::of_object`].
    fn for_each_up_to(
        &self,
        version_max: u64,
        f: &mut dyn FnMut(HistoryRecord) -> io::Result<()>,
    ) -> io::Result<()>;

    /// Replaces everything by `records` (any order, trimmed to the limits) as of `applied`. Until it
    /// returns, and if it fails, the old records stay. A failure kept from earlier is cleared by
    /// success: this is how a damaged history is healed. Entries after `applied` must then be
    /// recorded again.
    ///
    /// # Errors
    /// Those of `records`, or of the disk.
    fn replace_all(
        &self,
        applied: u64,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<()>;

    /// Why the history no longer takes or gives anything, if so. It needs [`History::replace_all`]
    /// or a reopen.
    fn failed(&self) -> Option<String>;

    /// Writes what is queued, makes it durable and lets go of the files. Later calls fail.
    fn close(&self);
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// A store whose every record was checked, or a new one.
    Ready(SledHistory),
    /// The store was unusable and has been deleted; this one is empty and wants
    /// [`History::replace_all`].
    Rebuilt {
        /// The empty history.
        history: SledHistory,
        /// What was wrong with the old one.
        why: String,
    },
}

impl Opened {
    /// The history, whatever was found.
    pub fn into_history(self) -> SledHistory {
        match self {
            Opened::Ready(history) | Opened::Rebuilt { history, .. } => history,
        }
    }
}

fn time_of_change(body: &[u8]) -> u64 {
    parse_change(body).map_or(u64::MAX, |change| change.time_ms)
}

/// What a record counts for in the bounds in bytes.
fn record_bytes(record: &HistoryRecord) -> usize {
    record.object.len() + record.body.len()
}

fn entry_bytes(records: &[HistoryRecord]) -> usize {
    records.iter().map(record_bytes).sum()
}
