//! A node's data directory as a whole: what each part must be for the others to mean anything.
//!
//! Each part finds damage in itself (`identity.rs`, `log/`, `snapshot_file.rs`); this file finds what is
//! missing between them:
//! - an identity that is gone while there is data: a new one would be a stranger to that data;
//! - a log that is gone although it was begun: this node would vote again where it has voted;
//! - snapshots that do not reach the place from which the log goes on: the machine would begin empty.
//!   (When the log reaches back to its beginning, no snapshot is needed, and damaged ones are passed
//!   over.)
//!
//! All three are refused with the file and what to do; never repaired by guessing. `state/` is not looked
//! at here: it is rebuilt from the rest (`history.rs`).

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, Space};
use crate::identity::Identity;
use crate::log::{LogId, LogIdentity, LogOptions, OpenError, SegmentLog};
use crate::snapshot_file::{SnapshotError, SnapshotReader, SnapshotStore};

const IDENTITY: &str = "identity";
const MANIFEST: &str = "log/MANIFEST";
/// What holds data of a node, once there is any.
const WITH_DATA: [&str; 3] = ["log", "hard", "snapshots"];

/// Reads whose directory this is; an empty one becomes that of the node `name`, with the id `fresh`.
///
/// # Errors
/// It is somebody else's, damaged, or has data and no identity.
///
/// ```
/// use pennon_raft_store::{directory, disk::{Disk, MemoryDisk}};
/// let disk = MemoryDisk::new();
/// assert_eq!(directory::identify(&disk, "a", 7)?.node, 7);
/// assert_eq!(directory::identify(&disk, "a", 8)?.node, 7, "it has one already");
/// assert!(directory::identify(&disk, "b", 8).is_err_and(|e| e.is_foreign()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn identify(disk: &dyn Disk, name: &str, fresh: u64) -> Result<Identity, OpenError> {
    if let Some(identity) = Identity::load(disk)? {
        identity.check(name, identity.cluster)?;
        return Ok(identity);
    }
    for dir in WITH_DATA {
        let io_error = |e| OpenError::io(dir, "cannot list", e);
        if disk.exists(dir).map_err(io_error)? && !disk.list(dir).map_err(io_error)?.is_empty() {
            let found = format!("it is missing, and {dir}/ has files");
            return Err(OpenError::corrupt(IDENTITY, 0, found));
        }
    }
    let identity = Identity::new(None, fresh, name);
    identity.save(disk)?;
    Ok(identity)
}

/// Opens the log and the snapshots of a node that belongs to a cluster, creating them the first time; that
/// they were begun is then stored in its identity.
///
/// # Errors
/// Damaged, foreign, missing though begun, or the disk failed.
pub fn open(
    disk: &Arc<dyn Disk>,
    identity: &mut Identity,
    options: LogOptions,
    space: Space,
) -> Result<(SegmentLog, SnapshotStore), OpenError> {
    let Some(cluster) = identity.cluster else {
        let found = "the node belongs to no cluster yet";
        return Err(OpenError::foreign(IDENTITY, found));
    };
    let unsure = |e| OpenError::io(MANIFEST, "cannot look for it", e);
    if identity.log_begun && !disk.exists(MANIFEST).map_err(unsure)? {
        let found = "it is missing, and this node has had a log";
        return Err(OpenError::corrupt(MANIFEST, 0, found)); // I9
    }
    let owner = LogIdentity {
        cluster,
        node: identity.node,
    };
    let log = SegmentLog::open(disk.clone(), options, owner)?;
    if !identity.log_begun {
        let begun = Identity {
            log_begun: true,
            ..identity.clone()
        };
        begun.save(&**disk)?;
        *identity = begun;
    }
    let snapshots = SnapshotStore::open_with(disk.clone(), space)
        .map_err(|e| OpenError::io("snapshots", "cannot open", e))?;
    Ok((log, snapshots))
}

/// Finds the newest whole snapshot; `None` when the machine can begin empty, because the log reaches back to
/// its beginning.
///
/// # Errors
/// There is none, and the log was purged up to `purged`; or the disk failed.
pub(crate) fn newest_snapshot(
    snapshots: &SnapshotStore,
    purged: Option<LogId>,
) -> Result<Option<SnapshotReader>, OpenError> {
    match (snapshots.newest(), purged) {
        (Ok(None), Some(purged)) => Err(missing(purged, "there is none")),
        (Ok(found), _) => Ok(found),
        (Err(SnapshotError::NoneWhole { complaints }), None) => {
            for complaint in &complaints {
                tracing::warn!(%complaint, "a damaged snapshot is passed over: the log has everything");
            }
            Ok(None)
        }
        (Err(error @ SnapshotError::NoneWhole { .. }), Some(purged)) => {
            Err(missing(purged, &error.to_string()))
        }
        (Err(error), _) => {
            let file = match &error {
                SnapshotError::Io { file, .. } => file.clone(),
                _ => "snapshots".to_owned(),
            };
            Err(OpenError::io(file, "cannot read", error.into()))
        }
    }
}

/// Checks that what a snapshot brought back reaches the place from which the log goes on.
///
/// # Errors
/// It does not: what lies between is lost here.
pub(crate) fn check_reach(applied: Option<LogId>, purged: Option<LogId>) -> Result<(), OpenError> {
    match purged {
        Some(purged) if applied.is_none_or(|applied| applied.index < purged.index) => {
            let reaches = applied.map_or("nothing".to_owned(), |applied| applied.to_string());
            Err(missing(
                purged,
                &format!("the newest whole one reaches {reaches}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Says why a whole snapshot file cannot be used here.
pub(crate) fn not_loaded(reader: &SnapshotReader, why: &io::Error) -> OpenError {
    let file = format!("snapshots/{:020}.snap", reader.version());
    match why.kind() {
        io::ErrorKind::InvalidInput => OpenError::foreign(file, why.to_string()),
        io::ErrorKind::Unsupported => OpenError::newer(file, why.to_string()),
        _ => OpenError::corrupt(file, 0, why.to_string()),
    }
}

fn missing(purged: LogId, found: &str) -> OpenError {
    let found = format!("{found}, and the log goes on only after {purged}");
    OpenError::corrupt("snapshots", 0, found) // I9
}
