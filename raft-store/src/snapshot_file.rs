//! Snapshot files: a header blob and records, opaque here, written once and checked whole.
//!
//! What must hold:
//! - `<version, 20 digits>.snap` is only ever a complete file: it is written aside, synced, renamed,
//!   and its directory synced, before anybody is told. The log is purged only up to such a file (I9).
//! - A [`SnapshotReader`] exists only for a file of which every byte was checked. Damage is an error
//!   that names file and offset; with an older whole file there, it is a complaint beside that one.
//! - No length is used before the crc over it has passed, and none allocates more than the file has
//!   bytes. Memory is one block in either direction, however long the file.
//! - The newest two stay. A file known to be damaged does not count among them.
//!
//! Numbers are little-endian; every crc is a crc32. `crc` at the end of a line covers that line.
//! ```text
//! head    magic "PNNSNAPS", format u8, version u64, header length u32, crc
//!         header, crc
//! blocks  'B', number u64 from 0, body length u32, record count u32, body crc, crc
//!         body: (record length u32, record)*        at most 256 KiB, or one record
//! footer  'E', magic "PNNSEND.", blocks u64, records u64, file length u64, crc of all before, crc
//! ```
//! Left out: what header and records mean, compression, and any limit on the age of a file.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, DiskFile, Open, Space};

mod read;

pub use read::{SnapshotReader, SnapshotRecords};

/// Longest record, in bytes.
pub const RECORD_LEN_MAX: usize = 256 << 20;
/// Longest header, in bytes.
pub const HEADER_LEN_MAX: usize = 16 << 20;
/// Longest file accepted from a peer, in bytes.
pub const FILE_LEN_MAX: u64 = 64 << 30;

const DIR: &str = "snapshots";
/// How a file begins.
pub const MAGIC: &[u8; 8] = b"PNNSNAPS";
const END_MAGIC: &[u8; 8] = b"PNNSEND.";
const FORMAT: u8 = 1;
const HEAD_LEN: usize = 25;
const BLOCK_HEAD_LEN: usize = 25;
const FOOTER_LEN: usize = 41;
const BLOCK_TAG: u8 = b'B';
const END_TAG: u8 = b'E';
/// A block is closed before it grows beyond this. Long enough that a write costs little per record,
/// short enough that a node can hold several at a time.
const BLOCK_LEN: usize = 256 << 10;
const KEPT: usize = 2;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are not those of a whole snapshot.
    #[error("snapshot {file} is damaged at offset {offset}: {what}")]
    Damaged {
        /// Path on the disk.
        file: String,
        /// Where, in bytes from the start.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk did not answer.
    #[error("snapshot {file}: {source}")]
    Io {
        /// Path on the disk.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// There are files, and not one is whole. Never to be taken for "no snapshot".
    #[error("no snapshot is whole: {}", list(.complaints))]
    NoneWhole {
        /// What is wrong with each, newest first.
        complaints: Vec<SnapshotError>,
    },
}

impl SnapshotError {
    /// Whether the content is wrong, rather than the disk silent.
    pub fn is_damage(&self) -> bool {
        match self {
            SnapshotError::Damaged { .. } | SnapshotError::NoneWhole { .. } => true,
            // EIO is how a disk reports a sector that it cannot read any more.
            SnapshotError::Io { source, .. } => source.raw_os_error() == Some(5),
        }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            // With what the system said: some of it is waited for.
            SnapshotError::Io { ref source, .. } => io::Error::new(source.kind(), error),
            damage => io::Error::new(io::ErrorKind::InvalidData, damage),
        }
    }
}

fn list(complaints: &[SnapshotError]) -> String {
    complaints
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What a finished file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The version it was made at.
    pub version: u64,
    /// Its length.
    pub bytes: u64,
    /// The crc over all before its footer. Equal for equal content.
    pub crc: u32,
}

/// The snapshot files of one node. Clones share it.
///
/// ```
/// use pennon_raft_store::disk::{Disk, MemoryDisk, Open};
/// use pennon_raft_store::snapshot_file::SnapshotStore;
/// use std::sync::Arc;
///
/// let disk = MemoryDisk::new();
/// let store = SnapshotStore::open(Arc::new(disk.clone()))?;
/// let mut writer = store.create(42, b"made by cluster c1")?;
/// writer.push(b"flag checkout")?;
/// writer.push(b"flag search")?;
/// writer.finish()?;
///
/// let reader = store.newest()?.expect("one was written");
/// assert_eq!((reader.version(), reader.header()), (42, &b"made by cluster c1"[..]));
/// let records = reader.records().collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(records, ["flag checkout", "flag search"]);
///
/// // Refused: one byte is not what was written.
/// disk.open("snapshots/00000000000000000042.snap", Open::Existing)?.write_at(b"F", 76)?;
/// let refused = store.newest().unwrap_err().to_string();
/// assert!(refused.contains("00000000000000000042.snap is damaged at offset 47"), "{refused}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    space: Space,
    /// Numbers the files written aside.
    next_aside: AtomicU64,
    /// Held while names change. The versions whose files were found damaged: first to be removed.
    damaged: Mutex<BTreeSet<u64>>,
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").finish_non_exhaustive()
    }
}

impl SnapshotStore {
    /// Opens `snapshots/`, made if missing, and removes what interrupted writers and receivers left.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn open(disk: Arc<dyn Disk>) -> io::Result<SnapshotStore> {
        SnapshotStore::open_with(disk, Space::unbounded())
    }

    /// The same; new files are given up, with `StorageFull`, rather than taking the space of the log.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn open_with(disk: Arc<dyn Disk>, space: Space) -> io::Result<SnapshotStore> {
        disk.create_dir_all(DIR)?;
        disk.sync_dir("")?;
        for name in disk.list(DIR)? {
            if name.ends_with(".aside") {
                disk.remove(&format!("{DIR}/{name}"))?;
            }
        }
        let shared = Shared {
            disk,
            space,
            next_aside: AtomicU64::new(0),
            damaged: Mutex::default(),
        };
        Ok(SnapshotStore {
            shared: Arc::new(shared),
        })
    }

    /// Begins a file, aside. It counts for nothing until [`SnapshotWriter::finish`].
    ///
    /// # Errors
    /// `InvalidInput` for a header above [`HEADER_LEN_MAX`]; whatever the disk says.
    pub fn create(&self, version: u64, header: &[u8]) -> io::Result<SnapshotWriter> {
        let encoder = SnapshotEncoder::new(self.aside()?, version, header)?;
        Ok(SnapshotWriter { encoder })
    }

    /// The newest file that is whole, and what is wrong with newer ones
    /// ([`SnapshotReader::complaints`]). `None` only when there is no file at all.
    ///
    /// # Errors
    /// [`SnapshotError::NoneWhole`], or `Io` when the disk does not answer: a node must not begin with
    /// something older for want of, say, a file handle.
    pub fn newest(&self) -> Result<Option<SnapshotReader>, SnapshotError> {
        let versions = self.list().map_err(|source| SnapshotError::Io {
            file: DIR.to_owned(),
            source,
        })?;
        let mut complaints = Vec::new();
        for version in versions.into_iter().rev() {
            match self.open_version(version) {
                Ok(mut reader) => {
                    reader.complaints = complaints.into();
                    return Ok(Some(reader));
                }
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "a snapshot file cannot be used");
                    complaints.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        if complaints.is_empty() {
            Ok(None)
        } else {
            Err(SnapshotError::NoneWhole { complaints })
        }
    }

    /// One file, checked whole: this reads all of it.
    ///
    /// # Errors
    /// `Damaged`, or `Io` (`NotFound` among them).
    pub fn open_version(&self, version: u64) -> Result<SnapshotReader, SnapshotError> {
        let opened =
            SnapshotReader::open(self.shared.disk.as_ref(), path_of(version)).and_then(|reader| {
                let wrong = reader.version != version;
                if wrong {
                    Err(reader.damaged(9, "the version is not that of the file's name"))
                } else {
                    Ok(reader)
                }
            });
        if opened.as_ref().is_err_and(SnapshotError::is_damage) {
            self.shared.lock_damaged().insert(version);
        }
        opened
    }

    /// Begins a file whose bytes come from a peer, aside. It counts for nothing until
    /// [`SnapshotReceiver::finish`].
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn receive(&self) -> io::Result<SnapshotReceiver> {
        Ok(SnapshotReceiver {
            aside: self.aside()?,
            buffer: Vec::new(),
        })
    }

    /// The versions of the files there, oldest first, whole or not.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn list(&self) -> io::Result<Vec<u64>> {
        self.shared.list()
    }

    fn aside(&self) -> io::Result<Aside> {
        let number = self.shared.next_aside.fetch_add(1, Ordering::Relaxed);
        let path = format!("{DIR}/{number}.aside");
        let file = self.shared.disk.open(&path, Open::CreateNew)?;
        Ok(Aside {
            shared: Arc::clone(&self.shared),
            path,
            file,
            len: 0,
            named: false,
        })
    }
}

impl Shared {
    fn lock_damaged(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let names = self.disk.list(DIR)?;
        let digits = names.iter().filter_map(|name| name.strip_suffix(".snap"));
        Ok(digits
            .filter(|digits| digits.len() == 20)
            .filter_map(|digits| digits.parse().ok())
            .collect())
    }

    /// Removes all but the newest two, and never the one just finished. What was found damaged goes
    /// first, so that it cannot push out a whole one.
    fn trim(&self, finished: u64, damaged: &mut BTreeSet<u64>) -> io::Result<()> {
        damaged.remove(&finished);
        let versions = self.list()?;
        damaged.retain(|version| versions.contains(version));
        let mut others = versions;
        others.retain(|version| *version != finished && !damaged.contains(version));
        let newer = others.len().saturating_sub(KEPT - 1);
        others.truncate(newer);
        for version in others.into_iter().chain(std::mem::take(damaged)) {
            self.disk.remove(&path_of(version))?;
        }
        Ok(())
    }
}

fn path_of(version: u64) -> String {
    format!("{DIR}/{version:020}.snap")
}

/// A file without its name yet. Dropped before it got one, it is removed.
struct Aside {
    shared: Arc<Shared>,
    path: String,
    file: Box<dyn DiskFile>,
    len: u64,
    named: bool,
}

impl io::Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.space.check_floor()?;
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// What makes it durable is its name.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Aside {
    /// The order that makes a name mean a complete, durable file. (I9)
    fn give_name(mut self, version: u64) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut damaged = shared.lock_damaged();
        self.file.sync_data()?;
        shared.disk.rename(&self.path, &path_of(version))?;
        self.named = true;
        shared.disk.sync_dir(DIR)?;
        if let Err(error) = shared.trim(version, &mut damaged) {
            // The new file is safe; the next one tries again.
            tracing::warn!(%error, "old snapshot files could not be removed");
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.named
            && let Err(error) = self.shared.disk.remove(&self.path)
        {
            tracing::warn!(path = self.path, %error, "an unfinished snapshot file could not be removed");
        }
    }
}

/// Writes one file of a store, a block at a time. After an error, drop it.
pub struct SnapshotWriter {
    encoder: SnapshotEncoder<Aside>,
}

/// Writes the bytes of a snapshot to wherever they go, a block at a time: in memory is one block.
pub struct SnapshotEncoder<W> {
    version: u64,
    out: W,
    len: u64,
    crc: crc32fast::Hasher,
    block: Block,
    blocks: u64,
    records: u64,
}

#[derive(Default)]
struct Block {
    /// Room for the block head, then the body.
    bytes: Vec<u8>,
    count: u32,
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("version", &self.encoder.version)
            .finish_non_exhaustive()
    }
}

impl SnapshotWriter {
    /// Adds a record.
    ///
    /// # Errors
    /// `InvalidInput` for one above [`RECORD_LEN_MAX`]; whatever the disk says.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        self.encoder.push(record)
    }

    /// Where records go.
    pub(crate) fn encoder(&mut self) -> &mut SnapshotEncoder<impl io::Write + use<>> {
        &mut self.encoder
    }

    /// Ends the file, makes it durable, gives it its name, and removes all but the newest two.
    ///
    /// # Errors
    /// Whatever the disk says. Then there is no new file, or one that is complete but may not survive
    /// a power cut.
    pub fn finish(self) -> io::Result<SnapshotInfo> {
        let (aside, info) = self.encoder.finish()?;
        aside.give_name(info.version)?;
        Ok(info)
    }
}

impl<W> fmt::Debug for SnapshotEncoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotEncoder")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl<W: io::Write> SnapshotEncoder<W> {
    /// Begins with the head.
    ///
    /// # Errors
    /// `InvalidInput` for a header above [`HEADER_LEN_MAX`]; whatever `out` says.
    pub fn new(out: W, version: u64, header: &[u8]) -> io::Result<Self> {
        let mut encoder = Self {
            version,
            out,
            len: 0,
            crc: crc32fast::Hasher::new(),
            block: Block::default(),
            blocks: 0,
            records: 0,
        };
        encoder.append(&encode_head(version, header)?)?;
        Ok(encoder)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `InvalidInput` for one above [`RECORD_LEN_MAX`]; whatever `out` says.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let length = length_u32(record.len(), RECORD_LEN_MAX, "record")?;
        let filled = self.block.bytes.len();
        if filled > 0 && filled - BLOCK_HEAD_LEN + 4 + record.len() > BLOCK_LEN {
            self.write_block()?;
        }
        let block = &mut self.block;
        if block.bytes.is_empty() {
            block.bytes.resize(BLOCK_HEAD_LEN, 0);
        }
        block.bytes.extend_from_slice(&length.to_le_bytes());
        block.bytes.extend_from_slice(record);
        block.count += 1;
        self.records += 1;
        Ok(())
    }

    /// Ends with the footer, and gives back where everything went.
    ///
    /// # Errors
    /// Whatever `out` says.
    pub fn finish(mut self) -> io::Result<(W, SnapshotInfo)> {
        if self.block.count > 0 {
            self.write_block()?;
        }
        let crc = self.crc.clone().finalize();
        let bytes = self.len + FOOTER_LEN as u64;
        self.append(&encode_footer(self.blocks, self.records, bytes, crc))?;
        self.out.flush()?;
        let info = SnapshotInfo {
            version: self.version,
            bytes,
            crc,
        };
        Ok((self.out, info))
    }

    fn write_block(&mut self) -> io::Result<()> {
        let (head, body) = self.block.bytes.split_at_mut(BLOCK_HEAD_LEN);
        head[0] = BLOCK_TAG;
        head[1..9].copy_from_slice(&self.blocks.to_le_bytes());
        head[9..13]
            .copy_from_slice(&length_u32(body.len(), RECORD_LEN_MAX + 4, "block")?.to_le_bytes());
        head[13..17].copy_from_slice(&self.block.count.to_le_bytes());
        head[17..21].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        seal(head);
        let mut block = std::mem::take(&mut self.block.bytes);
        self.append(&block)?;
        self.blocks += 1;
        self.block.count = 0;
        block.clear();
        // After one long record, do not keep its memory.
        block.shrink_to(2 * BLOCK_LEN);
        self.block.bytes = block;
        Ok(())
    }
}

/// Takes the bytes of a peer's file, in pieces of any length.
pub struct SnapshotReceiver {
    aside: Aside,
    buffer: Vec<u8>,
}

impl fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("received", &self.received())
            .finish_non_exhaustive()
    }
}

impl SnapshotReceiver {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `FileTooLarge` above [`FILE_LEN_MAX`]; whatever the disk says.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.received() + bytes.len() as u64 > FILE_LEN_MAX {
            let text = format!("the peer sends a snapshot of more than {FILE_LEN_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if bytes.len() >= BLOCK_LEN {
            self.flush()?;
            return self.aside.write_all(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BLOCK_LEN {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// How many bytes were taken.
    pub fn received(&self) -> u64 {
        self.aside.len + self.buffer.len() as u64
    }

    /// Checks the file whole, makes it durable, gives it its name, and removes all but the newest two.
    ///
    /// # Errors
    /// What [`SnapshotError`] says about the bytes, as `InvalidData`; whatever the disk says. The
    /// bytes are then gone.
    pub fn finish(mut self) -> io::Result<SnapshotInfo> {
        self.flush()?;
        let aside = self.aside;
        let reader = SnapshotReader::open(aside.shared.disk.as_ref(), aside.path.clone())?;
        aside.give_name(reader.version)?;
        Ok(reader.info())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.aside.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn encode_head(version: u64, header: &[u8]) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_LEN + header.len() + 4);
    head.extend_from_slice(MAGIC);
    head.push(FORMAT);
    head.extend_from_slice(&version.to_le_bytes());
    head.extend_from_slice(&length_u32(header.len(), HEADER_LEN_MAX, "header")?.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    seal(&mut head);
    head.extend_from_slice(header);
    head.extend_from_slice(&crc32fast::hash(header).to_le_bytes());
    Ok(head)
}

fn encode_footer(blocks: u64, records: u64, bytes: u64, crc: u32) -> Vec<u8> {
    let mut footer = Vec::with_capacity(FOOTER_LEN);
    footer.push(END_TAG);
    footer.extend_from_slice(END_MAGIC);
    for number in [blocks, records, bytes] {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(&crc.to_le_bytes());
    footer.extend_from_slice(&[0; 4]);
    seal(&mut footer);
    footer
}

/// Puts the crc of all before into the last four bytes.
fn seal(bytes: &mut [u8]) {
    if let Some((rest, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(rest).to_le_bytes();
    }
}

fn length_u32(length: usize, length_max: usize, what: &str) -> io::Result<u32> {
    match u32::try_from(length) {
        Ok(fits) if length <= length_max => Ok(fits),
        _ => {
            let text =
                format!("a snapshot {what} of {length} bytes, where {length_max} is the most");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn the_bytes_of_format_1_are_frozen() {
        let disk = MemoryDisk::new();
        let store = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
        let mut writer = store.create(7, b"head").unwrap();
        for record in [&b"one"[..], b"", b"three"] {
            writer.push(record).unwrap();
        }
        let info = writer.finish().unwrap();
        let bytes = disk.contents(&path_of(7)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, FROZEN);
        assert_eq!(info.bytes, bytes.len() as u64);
        let records: Vec<_> = store
            .newest()
            .unwrap()
            .unwrap()
            .records()
            .map(Result::unwrap)
            .collect();
        assert_eq!(records, ["one", "", "three"]);
    }

    /// A change here is a new format number, and this one is still read.
    const FROZEN: &str = concat!(
        "504e4e534e41505301070000000000000004000000632d371a686561649cf6f3a742000000000000",
        "000014000000030000008fea947a407c0264030000006f6e65000000000500000074687265654550",
        "4e4e53454e442e0100000000000000030000000000000077000000000000006185eb86e2985cc0",
    );
}
