//! Whose data directory this is: `identity`, and the lock that keeps two processes out of it.
//!
//! A node that starts on another node's directory would vote in its name; a node that starts on another
//! cluster's directory would bring foreign entries. Both are refused before anything else is opened,
//! with the way out in the message. The file is replaced as a whole (written aside, synced, renamed,
//! directory synced), so it is always either the old one or the new one.
//!
//! Layout, little-endian: magic `PNid` | format u8 | flags u8 (1: has a cluster, 2: its log was begun, 4: asks to be
//! taken in) | name length u16 |
//! cluster u128 | node u64 | log format u8 | 7 zero bytes | name (UTF-8) | crc32 of all before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::disk::{Disk, Open, read_whole};
use crate::log::{LOG_FORMAT, OpenError};

const FILE: &str = "identity";
const ASIDE: &str = "identity.new";
/// The file that is locked while the directory is in use.
pub(crate) const LOCK: &str = "LOCK";
const MAGIC: [u8; 4] = *b"PNid";
const FORMAT: u8 = 1;
const HAS_CLUSTER: u8 = 1;
const LOG_BEGUN: u8 = 2;
const ASKING: u8 = 4;
const FIXED_LEN: usize = 40;
const CRC_LEN: usize = 4;
/// Longest node name, in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// The owner of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; none until the node has created or joined one.
    pub cluster: Option<u128>,
    /// The node's id in the cluster.
    pub node: u64,
    /// The node's name as its settings give it; 1 to [`NAME_LEN_MAX`] bytes.
    pub name: String,
    /// The format of the Raft log that the directory holds.
    pub log_format: u8,
    /// Whether there has been a log: one that is missing then is lost, and not a new one.
    pub log_begun: bool,
    /// Whether the node asks the cluster to take it in, and does not know yet that this was committed.
    pub asking: bool,
}

impl Identity {
    /// Describes a directory of this release.
    pub fn new(cluster: Option<u128>, node: u64, name: impl Into<String>) -> Identity {
        Identity {
            cluster,
            node,
            name: name.into(),
            log_format: LOG_FORMAT,
            log_begun: false,
            asking: false,
        }
    }

    /// Reads the identity of a data directory; `None` when it has none yet.
    ///
    /// # Errors
    /// The file is damaged, was written by a newer release, or cannot be read.
    pub fn load(disk: &dyn Disk) -> Result<Option<Identity>, OpenError> {
        let file = match disk.open(FILE, Open::Existing) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(OpenError::io(FILE, "cannot open", e)),
        };
        let len_max = (FIXED_LEN + NAME_LEN_MAX + CRC_LEN) as u64;
        match read_whole(&*file, len_max) {
            Ok(bytes) => decode(&bytes).map(Some),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(OpenError::corrupt(FILE, len_max, e.to_string()))
            }
            Err(e) => Err(OpenError::io(FILE, "cannot read", e)),
        }
    }

    /// Stores the identity; durable when this returns Ok, unchanged or replaced as a whole otherwise.
    ///
    /// # Errors
    /// The name is empty or too long, or the disk failed.
    ///
    /// ```
    /// use pennon_raft_store::{disk::MemoryDisk, identity::Identity};
    /// let disk = MemoryDisk::new();
    /// let mine = Identity::new(Some(7), 1, "a");
    /// mine.save(&disk)?;
    /// let found = Identity::load(&disk)?.ok_or("saved")?;
    /// assert!(found.check("a", Some(7)).is_ok());
    /// let refusal = found.check("b", Some(7)).err().ok_or("refused")?;
    /// assert!(refusal.is_foreign());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        let io_error = |e| OpenError::io(FILE, "cannot store", e);
        let bytes = encode(self).map_err(io_error)?;
        let write = || -> io::Result<()> {
            let file = disk.open(ASIDE, Open::CreateOrOpen)?;
            file.set_len(0)?;
            file.write_at(&bytes, 0)?;
            file.sync_all()?;
            disk.rename(ASIDE, FILE)?;
            disk.sync_dir("")
        };
        write().map_err(io_error)
    }

    /// Checks that the directory is this node's and this cluster's. A cluster is compared only when both
    /// sides know theirs.
    ///
    /// # Errors
    /// It is not; the message names both sides and says what to do.
    pub fn check(&self, name: &str, cluster: Option<u128>) -> Result<(), OpenError> {
        if self.name != name {
            let found = format!(
                "the directory belongs to node '{}', and this node is '{name}'",
                self.name
            );
            return Err(OpenError::foreign(FILE, found));
        }
        match (self.cluster, cluster) {
            (Some(stored), Some(ours)) if stored != ours => {
                let found = format!(
                    "the directory belongs to cluster {stored:032x}, and this node is of {ours:032x}"
                );
                Err(OpenError::foreign(FILE, found))
            }
            _ => Ok(()),
        }
    }
}

fn encode(identity: &Identity) -> io::Result<Vec<u8>> {
    let name = identity.name.as_bytes();
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        let text = format!(
            "a node name has 1 to {NAME_LEN_MAX} bytes, this one has {}",
            name.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut out = Vec::with_capacity(FIXED_LEN + name.len() + CRC_LEN);
    out.extend_from_slice(&MAGIC);
    out.push(FORMAT);
    let flags = [
        (identity.cluster.is_some(), HAS_CLUSTER),
        (identity.log_begun, LOG_BEGUN),
        (identity.asking, ASKING),
    ];
    out.push(flags.iter().map(|(set, flag)| u8::from(*set) * flag).sum());
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&identity.cluster.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&identity.node.to_le_bytes());
    out.push(identity.log_format);
    out.extend_from_slice(&[0; 7]);
    out.extend_from_slice(name);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

fn decode(bytes: &[u8]) -> Result<Identity, OpenError> {
    let damaged = |offset: usize, found: &str| OpenError::corrupt(FILE, offset as u64, found);
    let Some((body, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
        return Err(damaged(bytes.len(), "the file ends too early"));
    };
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(damaged(
            body.len(),
            "the checksum does not fit the contents",
        ));
    }
    let Some((fixed, name)) = body.split_first_chunk::<FIXED_LEN>() else {
        return Err(damaged(bytes.len(), "the file ends too early"));
    };
    if fixed[..4] != MAGIC {
        return Err(damaged(0, "the file is not an identity"));
    }
    if fixed[4] != FORMAT {
        return Err(OpenError::newer(
            FILE,
            format!("format {}, and this release knows {FORMAT}", fixed[4]),
        ));
    }
    if fixed[32] > LOG_FORMAT {
        let found = format!(
            "a Raft log of format {}, and this release knows {LOG_FORMAT}",
            fixed[32]
        );
        return Err(OpenError::newer(FILE, found));
    }
    let mut cluster = [0; 16];
    cluster.copy_from_slice(&fixed[8..24]);
    let mut node = [0; 8];
    node.copy_from_slice(&fixed[24..32]);
    let name_len = usize::from(u16::from_le_bytes([fixed[6], fixed[7]]));
    match std::str::from_utf8(name) {
        Ok(name) if name.len() == name_len && fixed[5] <= (HAS_CLUSTER | LOG_BEGUN | ASKING) => {
            Ok(Identity {
                cluster: (fixed[5] & HAS_CLUSTER != 0).then(|| u128::from_le_bytes(cluster)),
                node: u64::from_le_bytes(node),
                name: name.to_owned(),
                log_format: fixed[32],
                log_begun: fixed[5] & LOG_BEGUN != 0,
                asking: fixed[5] & ASKING != 0,
            })
        }
        _ => Err(damaged(
            FIXED_LEN,
            "the name does not have the stated length, or is not text",
        )),
    }
}

/// Keeps every other process out of a data directory for as long as it lives.
///
/// The lock is the system's (`flock` on `LOCK`), so it ends with the process however that ends; the file
/// stays and means nothing by itself.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock on `data_dir`, creating the directory when it is not there.
    ///
    /// # Errors
    /// Another process has it (the message gives its process id when known), or the system failed.
    pub fn acquire(data_dir: &Path) -> Result<DirectoryLock, OpenError> {
        let io_error = |e| OpenError::io(LOCK, "cannot lock the data directory", e);
        std::fs::create_dir_all(data_dir).map_err(io_error)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(data_dir.join(LOCK)).map_err(io_error)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let found = format!(
                    "the data directory {} is in use by {}",
                    data_dir.display(),
                    holder(&mut file)
                );
                return Err(OpenError::busy(LOCK, found));
            }
            Err(e) => return Err(io_error(e.into())),
        }
        // Who holds it, for the message of the next one who tries. Not durable on purpose.
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(io_error)?;
        Ok(DirectoryLock { file })
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process between fork and exec still holds a copy, and with
        // it the lock. Nothing can be done about an error, and the lock goes with the process.
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(32).read_to_string(&mut text));
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("the process with id {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    const FROZEN: &str =
        "504e69640101010030390000000000000000000000000000070000000000000001000000000000006e";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn layout_is_frozen() {
        let identity = Identity::new(Some(0x3930), 7, "n");
        let bytes = encode(&identity).unwrap();
        assert_eq!(hex(&bytes[..bytes.len() - 4]), FROZEN);
        assert_eq!(decode(&bytes).unwrap(), identity);
        let begun = Identity {
            log_begun: true,
            ..identity
        };
        let bytes = encode(&begun).unwrap();
        assert_eq!(bytes[5], 3);
        assert_eq!(decode(&bytes).unwrap(), begun);
    }

    #[test]
    fn every_damaged_byte_and_length_is_refused() {
        let bytes = encode(&Identity::new(None, 7, "node-a")).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    decode(&bad).unwrap_err().is_corruption(),
                    "byte {at} bit {bit}"
                );
            }
            assert!(
                decode(&bytes[..at]).unwrap_err().is_corruption(),
                "length {at}"
            );
        }
    }

    #[test]
    fn saved_is_durable_and_replaced_as_a_whole() {
        let disk = MemoryDisk::new();
        assert_eq!(Identity::load(&disk).unwrap(), None);
        let first = Identity::new(None, 1, "a");
        first.save(&disk).unwrap();
        let second = Identity::new(Some(9), 1, "a");
        disk.record();
        second.save(&disk).unwrap();
        for n in 0..=disk.journal().len() {
            let image = MemoryDisk::new();
            first.save(&image).unwrap();
            image.replay(&disk.journal()[..n]);
            let found = Identity::load(&image.crash_synced()).unwrap().unwrap();
            let expected = if n == disk.journal().len() {
                vec![&second]
            } else {
                vec![&first, &second]
            };
            assert!(expected.contains(&&found), "after {n} operations");
        }
    }

    #[test]
    fn another_node_or_cluster_is_refused_with_the_way_out() {
        let identity = Identity::new(Some(7), 1, "a");
        assert!(identity.check("a", None).is_ok());
        assert!(Identity::new(None, 1, "a").check("a", Some(8)).is_ok());
        for refusal in [identity.check("b", None), identity.check("a", Some(8))] {
            let refusal = refusal.unwrap_err();
            assert!(
                refusal.is_foreign() && refusal.to_string().contains("move this one away"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_copy_that_a_child_inherited_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let inherited = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(DirectoryLock::acquire(dir.path()).is_ok());
        drop(inherited);
    }

    #[test]
    fn the_second_process_is_kept_out_and_told_who_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirectoryLock::acquire(dir.path()).unwrap();
        let refusal = DirectoryLock::acquire(dir.path()).unwrap_err();
        assert!(refusal.is_busy());
        assert!(
            refusal
                .to_string()
                .contains(&std::process::id().to_string()),
            "{refusal}"
        );
        drop(held);
        DirectoryLock::acquire(dir.path()).unwrap();
    }
}
