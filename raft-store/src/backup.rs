//! Backups, and clusters made anew from one or from what one node has left.
//!
//! A backup is a snapshot file with the history: one version, whole, every byte under a crc and the
//! state under a digest. Restoring it into a running cluster is an ordinary write of what differs
//! ([`differences`]), so versions keep rising (D1).
//!
//! [`recover`] makes the data directory of a *new* cluster of one node when the old one has lost its
//! quorum for good. What must hold: versions of the new cluster are past anything that the old one
//! can have issued, so evaluators move forward and never back (I2, I6); it has an id of its own, so a
//! node of the old one that turns up again is not taken for a member; whoever resumes with a version
//! of the old cluster gets everything; nothing is written where something was before.
//!
//! What cannot be promised: a node that had not received the newest writes does not have them, and
//! one that had received writes that were never committed has those, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use openraft::Membership;
use pennon_evaluator::Version;

use crate::command::{ClusterId, Expected, ObjectId};
use crate::directory;
use crate::disk::{Disk, Space};
use crate::history::{History, HistoryOptions, Keep, MemoryHistory};
use crate::identity::Identity;
use crate::level::Features;
use crate::log::{Flushing, LogOptions, LogStore};
use crate::machine::Machine;
use crate::plan::{Ask, AskedWrite};
use crate::raft::Member;
use crate::snapshot_file::{SnapshotError, SnapshotReader, SnapshotStore};
use crate::state_machine::{apply_to, head_of, header_of, load_machine, refill, write_records};
use crate::types::{StoredMembership, from_log, raft_log_id};

pub use crate::snapshot_file::MAGIC;

/// How far the first version of a recovered cluster is beyond the last one that is known of the old
/// one: more writes than a lost majority can have been ahead.
pub const VERSIONS_SKIPPED: u64 = 1_000_000_000;

/// Payload bytes of the log read at once.
const LOG_READ_BYTES: usize = 8 << 20;

/// A backup, every byte of which was checked.
#[derive(Debug)]
pub struct Backup {
    reader: SnapshotReader,
    machine: Machine,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is damaged, or cannot be read.
    #[error("{}", of_file(.0))]
    File(#[from] SnapshotError),
    /// The bytes are those that were written, but not of a state that this release can load.
    #[error("{0}")]
    Content(String),
}

/// The file by its name alone: here it is no snapshot of a node.
fn of_file(why: &SnapshotError) -> String {
    let text = why.to_string();
    text.strip_prefix("snapshot ").unwrap_or(&text).to_owned()
}

impl Backup {
    /// Opens a file and checks all of it: every crc, and the digest over the state.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn open(disk: &dyn Disk, path: &str) -> Result<Self, BackupError> {
        let reader = SnapshotReader::open(disk, path)?;
        let content = |why: io::Error| BackupError::Content(why.to_string());
        let head = head_of(&reader).map_err(content)?;
        let machine = load_machine(&head, &reader, Features::THIS).map_err(content)?;
        Ok(Self { reader, machine })
    }

    /// The state.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Counts the lines of history in it.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn history_len(&self) -> io::Result<usize> {
        let history = MemoryHistory::new(HistoryOptions::default());
        let applied = self.machine.applied().map_or(0, |id| id.index);
        history.keep(Keep::by(&self.machine));
        refill(&history, applied, &self.reader)?;
        let mut count = 0;
        history.for_each_up_to(u64::MAX, &mut |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// The length of the file, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.reader.len_bytes()
    }
}

/// What differs between two states, seen from the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The object.
    pub object: ObjectId,
    /// The version and the value it has now, if it exists.
    pub now: Option<(Version, Arc<str>)>,
    /// The value it would have, if it would exist.
    pub then: Option<Arc<str>>,
}

impl Difference {
    /// The write that takes it away.
    pub fn write(&self) -> AskedWrite {
        AskedWrite {
            object: self.object.clone(),
            ask: match &self.then {
                Some(value) => Ask::Put(value.clone()),
                None => Ask::Delete,
            },
            expected: match &self.now {
                Some((version, _)) => Expected::At(*version),
                None => Expected::Absent,
            },
        }
    }
}

/// What has to be written to make `now` hold exactly these objects, in the order of objects. Values
/// are compared as text without spaces.
pub fn differences(now: &Machine, then: &BTreeMap<ObjectId, Arc<str>>) -> Vec<Difference> {
    let ids = now.all_objects().map(|(id, _)| id);
    let ids: BTreeSet<&ObjectId> = ids.chain(then.keys()).collect();
    let both = ids.into_iter().map(|id| Difference {
        object: id.clone(),
        now: (now.object(id)).map(|object| (object.version, object.value.clone())),
        then: then.get(id).cloned(),
    });
    both.filter(|one| one.now.as_ref().map(|(_, value)| value) != one.then.as_ref())
        .collect()
}

/// What a new cluster is made from.
pub enum Source<'a> {
    /// A backup.
    Backup(&'a Backup),
    /// The data directory of a node of the old cluster, stopped and locked by the caller.
    Node(&'a Arc<dyn Disk>),
}

/// The first node of a new cluster.
#[derive(Clone, Debug)]
pub struct FirstNode {
    /// The id of the new cluster.
    pub cluster: ClusterId,
    /// The id of the node in it.
    pub node: u64,
    /// Its name and addresses.
    pub member: Member,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The old cluster.
    pub old_cluster: ClusterId,
    /// The last version that is known of it.
    pub old_version: Version,
    /// The first version of the new one.
    pub version: Version,
}

/// Makes the data directory of a new cluster of one node. The identity comes last: a directory
/// without one was not finished.
///
/// # Errors
/// The source cannot be read, the directory is not empty, or the versions are used up.
pub fn recover(
    source: &Source<'_>,
    to: &Arc<dyn Disk>,
    first: &FirstNode,
) -> io::Result<Recovered> {
    let left: Vec<String> = to.list("")?;
    // Whoever asks has locked it.
    if let Some(name) = left.iter().find(|name| *name != crate::identity::LOCK) {
        let text = format!("the new data directory is not empty: there is {name} in it");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let history = MemoryHistory::new(HistoryOptions::default());
    let old = match source {
        Source::Backup(backup) => {
            let applied = backup.machine.applied().map_or(0, |id| id.index);
            history.keep(Keep::by(&backup.machine));
            refill(&history, applied, &backup.reader)?;
            backup.machine.clone()
        }
        Source::Node(disk) => survivor(disk, &history)?,
    };
    let (old_cluster, old_version) = (old.cluster(), old.version());
    let machine = old
        .into_new_cluster(first.cluster, VERSIONS_SKIPPED)
        .ok_or_else(|| {
            io::Error::other(format!("there are no versions left after {old_version}"))
        })?;
    let members = BTreeMap::from([(first.node, first.member.clone())]);
    let membership =
        Membership::new(vec![BTreeSet::from([first.node])], members).map_err(io::Error::other)?;
    let membership = StoredMembership::new(machine.applied().map(raft_log_id), membership);
    let version = machine.version();
    let snapshots = SnapshotStore::open(to.clone())?;
    let mut file = snapshots.create(version.get(), &header_of(&machine, &membership)?)?;
    write_records(&machine, &history, file.encoder())?;
    file.finish()?;
    let identity = Identity::new(
        Some(first.cluster.get()),
        first.node,
        first.member.name.as_str(),
    );
    identity.save(to.as_ref()).map_err(io::Error::other)?;
    Ok(Recovered {
        old_cluster,
        old_version,
        version,
    })
}

/// The state of a stopped node: its newest snapshot and everything in its log after it.
fn survivor(disk: &Arc<dyn Disk>, history: &dyn History) -> io::Result<Machine> {
    let identity = Identity::load(disk.as_ref()).map_err(io::Error::other)?;
    let mut identity =
        identity.ok_or_else(|| io::Error::other("there is no node's data in that directory"))?;
    let cluster = identity
        .cluster
        .ok_or_else(|| io::Error::other("the node there never belonged to a cluster"))?;
    let options = LogOptions {
        flushing: Flushing::Inline,
        ..LogOptions::default()
    };
    let opened = directory::open(disk, &mut identity, options, Space::unbounded());
    let (log, snapshots) = opened.map_err(io::Error::other)?;
    let mut machine = match snapshots.newest()? {
        None => Machine::new(ClusterId::new(cluster)),
        Some(reader) => {
            let machine = load_machine(&head_of(&reader)?, &reader, Features::THIS)?;
            history.keep(Keep::by(&machine));
            refill(history, machine.applied().map_or(0, |id| id.index), &reader)?;
            machine
        }
    };
    let last = log.state().last.map_or(0, |id| id.index);
    loop {
        let next = machine.applied().map_or(0, |id| id.index + 1);
        let entries = log.read(next, last + 1, LOG_READ_BYTES)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if entry.id.index != machine.applied().map_or(0, |id| id.index + 1) {
                let text = format!("the log has {} where {next} should be", entry.id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            apply_to(
                &mut machine,
                history,
                &from_log(entry).map_err(io::Error::other)?,
            )?;
        }
    }
    log.close();
    match machine.applied() {
        Some(id) if id.index >= last => Ok(machine),
        _ if last == 0 => Err(io::Error::other("the node there has no state yet")),
        _ => Err(io::Error::other(
            "the snapshot and the log there leave a gap",
        )),
    }
}
