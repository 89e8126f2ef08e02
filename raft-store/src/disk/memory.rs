//! A disk in memory that loses what a real one may lose, and fails when it is told to.
//!
//! Each file has what readers see now, what is durable, and the writes in between; each directory the
//! same for its names. A sync moves the writes of *that* file (or the names of that directory) to
//! durable. [`MemoryDisk::crash`] builds the disk after a power cut: for every write and name that was
//! not synced, the caller says what of it survived. Operations can be recorded and replayed, so that a
//! test can cut the power after each of them. Everything is deterministic.
//!
//! Harsher than some file systems on purpose: syncing a file does not make its name durable, and after a
//! failed sync the unsynced writes are gone for good, however many later syncs succeed.
//! Left out: renames between directories, removal of directories.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile, Open};

const SECTOR: u64 = 512;
const ENOSPC: i32 = 28;

/// A file, whatever its name is at the moment. Numbered in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u64);

/// A change to the disk, as recorded and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the calls on Disk and DiskFile"
)]
pub enum Operation {
    /// A name for a new, empty file.
    Create { path: String, file: FileId },
    /// Bytes at a place.
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// A new length.
    SetLen { file: FileId, len: u64 },
    /// Contents made durable.
    SyncFile { file: FileId },
    /// Another name.
    Rename { from: String, to: String },
    /// A name taken away.
    Remove { path: String },
    /// A new directory.
    CreateDir { path: String },
    /// Names made durable.
    SyncDir { path: String },
}

/// What a power cut leaves of one operation that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing of it.
    Nothing,
    /// All of it.
    All,
    /// The first so many bytes of a write; nothing of any other operation when 0, else all of it.
    Prefix(usize),
    /// Some of the 512-byte sectors of a write, chosen by this seed; any other operation by its parity.
    Sectors(u64),
}

/// Which operations a fault counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAt {
    /// Writes, new lengths, new files and directories.
    Write,
    /// Syncs of files and directories.
    Sync,
    /// All that change anything.
    Any,
}

/// An error to be given instead of doing what was asked. A failing write still writes its first half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which operations count.
    pub at: FaultAt,
    /// The how-manieth of them from now fails; 1 is the next.
    pub nth: u64,
    /// The system's error number: 5 for EIO, 28 for ENOSPC.
    pub errno: i32,
    /// Whether all later ones fail too.
    pub sticky: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(FileId),
    Dir,
}

#[derive(Debug, Clone, Default)]
struct Directory {
    current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<Operation>,
}

#[derive(Debug, Clone, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Operation>,
}

#[derive(Debug, Clone)]
struct State {
    files: BTreeMap<FileId, Contents>,
    dirs: BTreeMap<String, Directory>,
    next_file: u64,
    operations: u64,
    journal: Option<Vec<Operation>>,
    fault: Option<Fault>,
    capacity: Option<u64>,
    sync_time: Duration,
}

/// A disk in memory. Clones share it.
///
/// ```
/// use pennon_raft_store::disk::{Disk, DiskFile, MemoryDisk, Open};
/// let disk = MemoryDisk::new();
/// let file = disk.open("a", Open::CreateNew)?;
/// file.write_at(b"kept", 0)?;
/// file.sync_data()?;
/// assert!(!disk.crash_synced().exists("a")?, "the name was not synced");
/// disk.sync_dir("")?;
/// file.write_at(b"lost", 0)?;
/// assert_eq!(disk.crash_synced().contents("a").as_deref(), Some(&b"kept"[..]));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryDisk {
    fn default() -> MemoryDisk {
        MemoryDisk::new()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        let mut dirs = BTreeMap::new();
        dirs.insert(String::new(), Directory::default());
        let state = State {
            files: BTreeMap::new(),
            dirs,
            next_file: 0,
            operations: 0,
            journal: None,
            fault: None,
            capacity: None,
            sync_time: Duration::ZERO,
        };
        MemoryDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records every operation from now on; what was recorded before is dropped.
    pub fn record(&self) {
        self.lock().journal = Some(Vec::new());
    }

    /// Returns what was recorded.
    pub fn journal(&self) -> Vec<Operation> {
        self.lock().journal.clone().unwrap_or_default()
    }

    /// Returns how many operations were recorded.
    pub fn journal_len(&self) -> usize {
        self.lock().journal.as_ref().map_or(0, Vec::len)
    }

    /// Returns how many operations changed this disk since it was made.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Does recorded operations again. The disk must be as it was when recording began.
    pub fn replay(&self, journal: &[Operation]) {
        let mut state = self.lock();
        for operation in journal {
            state.perform(operation.clone());
        }
    }

    /// Makes operations fail; replaces what was set before.
    pub fn fail(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Bounds what all files that have a name may hold together; beyond it writes fail with ENOSPC
    /// after what fits. `None` for no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Says how long syncing takes; see [`Disk::sync_time`].
    pub fn set_sync_time(&self, time: Duration) {
        self.lock().sync_time = time;
    }

    /// Returns what all files that have a name hold together, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used()
    }

    /// Lets operations succeed again.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// Returns the disk after a power cut that kept only what was synced.
    pub fn crash_synced(&self) -> MemoryDisk {
        self.crash(|_| Kept::Nothing)
    }

    /// Returns the disk as another process finds it: everything written, synced or not. What was not
    /// synced can still be lost by a later [`MemoryDisk::crash`].
    pub fn copy(&self) -> MemoryDisk {
        let mut state = self.lock().clone();
        state.journal = None;
        state.fault = None;
        MemoryDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Returns the disk after a power cut. `keep` is asked about each operation that was not synced, per
    /// directory and per file, in the order in which they were made.
    pub fn crash(&self, mut keep: impl FnMut(&Operation) -> Kept) -> MemoryDisk {
        let state = self.lock();
        let image = MemoryDisk::new();
        let mut new = image.lock();
        new.next_file = state.next_file;
        let mut reachable = vec![String::new()];
        while let Some(path) = reachable.pop() {
            let Some(dir) = state.dirs.get(&path) else {
                continue;
            };
            let mut names = dir.durable.clone();
            for operation in &dir.unsynced {
                if keep(operation).keeps_names() {
                    apply_to_names(&mut names, operation);
                }
            }
            for (name, node) in &names {
                match node {
                    Node::Dir => reachable.push(join(&path, name)),
                    Node::File(id) => {
                        let contents = state
                            .files
                            .get(id)
                            .map(|file| file.surviving(&mut keep))
                            .unwrap_or_default();
                        new.files.insert(*id, Contents::durable(contents));
                    }
                }
            }
            let dir = Directory {
                current: names.clone(),
                durable: names,
                unsynced: Vec::new(),
            };
            new.dirs.insert(path, dir);
        }
        drop(new);
        image
    }

    /// Returns what readers see of a file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state
            .file(path)
            .and_then(|id| state.files.get(&id))
            .map(|file| file.current.clone())
    }

    /// Replaces the contents of a file, durably and behind everybody's back: bit rot, swapped files.
    pub fn overwrite(&self, path: &str, bytes: &[u8]) {
        let mut state = self.lock();
        if let Some(id) = state.file(path) {
            state.files.insert(id, Contents::durable(bytes.to_vec()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, at: FaultAt, operation: Operation) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(error) = state.fault_now(at) {
            state.perform_failing(operation);
            return Err(error);
        }
        let (fits, full) = state.fitted(operation);
        if let Some(operation) = fits {
            state.perform(operation);
        }
        match full {
            true => Err(io::Error::from_raw_os_error(ENOSPC)),
            false => Ok(()),
        }
    }
}

impl Kept {
    fn keeps_names(self) -> bool {
        match self {
            Kept::Nothing | Kept::Prefix(0) => false,
            Kept::All | Kept::Prefix(_) => true,
            Kept::Sectors(seed) => seed.is_multiple_of(2),
        }
    }
}

impl Contents {
    fn durable(bytes: Vec<u8>) -> Contents {
        Contents {
            current: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
        }
    }

    /// Makes every write durable, without a copy of what was durable already.
    fn settle(&mut self) {
        for operation in std::mem::take(&mut self.unsynced) {
            survive(&mut self.durable, &operation, Kept::All);
        }
    }

    fn surviving(&self, keep: &mut impl FnMut(&Operation) -> Kept) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for operation in &self.unsynced {
            survive(&mut bytes, operation, keep(operation));
        }
        bytes
    }
}

/// Does what a power cut leaves of one operation on a file.
fn survive(bytes: &mut Vec<u8>, operation: &Operation, kept: Kept) {
    match operation {
        Operation::Write {
            offset,
            bytes: written,
            ..
        } => write_kept(bytes, *offset, written, kept),
        Operation::SetLen { len, .. } if kept.keeps_names() => bytes.resize(to_usize(*len), 0),
        _ => {}
    }
}

impl State {
    fn file(&self, path: &str) -> Option<FileId> {
        let (dir, name) = split(path);
        match self.dirs.get(dir)?.current.get(name)? {
            Node::File(id) => Some(*id),
            Node::Dir => None,
        }
    }

    /// Counts the operation against the fault, and says how it fails if it does.
    fn fault_now(&mut self, at: FaultAt) -> Option<io::Error> {
        let fault = self.fault.as_mut()?;
        if fault.at != at && fault.at != FaultAt::Any {
            return None;
        }
        fault.nth = fault.nth.saturating_sub(1);
        if fault.nth > 0 {
            return None;
        }
        let error = io::Error::from_raw_os_error(fault.errno);
        if !fault.sticky {
            self.fault = None;
        }
        Some(error)
    }

    fn used(&self) -> u64 {
        let names = self.dirs.values().flat_map(|dir| dir.current.values());
        let files = names.filter_map(|node| match node {
            Node::File(id) => self.files.get(id),
            Node::Dir => None,
        });
        files.map(|file| file.current.len() as u64).sum()
    }

    /// What of an operation there is space for, and whether that is not all of it.
    fn fitted(&self, mut operation: Operation) -> (Option<Operation>, bool) {
        let Some(capacity) = self.capacity else {
            return (Some(operation), false);
        };
        let (file, end) = match &operation {
            Operation::Write {
                file,
                offset,
                bytes,
            } => (file, offset + bytes.len() as u64),
            Operation::SetLen { file, len } => (file, *len),
            _ => return (Some(operation), false),
        };
        let len = self.files.get(file).map_or(0, |file| file.current.len()) as u64;
        let end_max = len + capacity.saturating_sub(self.used());
        if end <= len || end <= end_max {
            return (Some(operation), false);
        }
        match &mut operation {
            Operation::Write { offset, bytes, .. } if *offset < end_max => {
                bytes.truncate(to_usize(end_max - *offset));
                (Some(operation), true)
            }
            _ => (None, true),
        }
    }

    fn perform_failing(&mut self, operation: Operation) {
        match operation {
            Operation::Write {
                file,
                offset,
                mut bytes,
            } => {
                bytes.truncate(bytes.len() / 2);
                self.perform(Operation::Write {
                    file,
                    offset,
                    bytes,
                });
            }
            Operation::SyncFile { file } => {
                if let Some(contents) = self.files.get_mut(&file) {
                    contents.unsynced.clear();
                }
            }
            _ => {}
        }
    }

    fn perform(&mut self, operation: Operation) {
        match &operation {
            Operation::Create { path, file } => {
                self.next_file = self.next_file.max(file.0 + 1);
                self.files.insert(*file, Contents::default());
                self.change_names(path, &operation);
            }
            Operation::Rename { from: path, .. } | Operation::Remove { path } => {
                self.change_names(path, &operation)
            }
            Operation::CreateDir { path } => {
                self.dirs.entry(path.clone()).or_default();
                self.change_names(path, &operation);
            }
            Operation::SyncDir { path } => {
                if let Some(dir) = self.dirs.get_mut(path) {
                    dir.durable = dir.current.clone();
                    dir.unsynced.clear();
                }
            }
            Operation::Write {
                file,
                offset,
                bytes,
            } => {
                if let Some(contents) = self.files.get_mut(file) {
                    write_kept(&mut contents.current, *offset, bytes, Kept::All);
                    contents.unsynced.push(operation.clone());
                }
            }
            Operation::SetLen { file, len } => {
                if let Some(contents) = self.files.get_mut(file) {
                    contents.current.resize(to_usize(*len), 0);
                    contents.unsynced.push(operation.clone());
                }
            }
            Operation::SyncFile { file } => {
                if let Some(contents) = self.files.get_mut(file) {
                    contents.settle();
                }
            }
        }
        self.operations += 1;
        if let Some(journal) = &mut self.journal {
            journal.push(operation);
        }
    }

    fn change_names(&mut self, path: &str, operation: &Operation) {
        if let Some(dir) = self.dirs.get_mut(split(path).0) {
            apply_to_names(&mut dir.current, operation);
            dir.unsynced.push(operation.clone());
        }
    }
}

fn apply_to_names(names: &mut BTreeMap<String, Node>, operation: &Operation) {
    match operation {
        Operation::Create { path, file } => {
            names.insert(split(path).1.to_owned(), Node::File(*file));
        }
        Operation::CreateDir { path } => {
            names.insert(split(path).1.to_owned(), Node::Dir);
        }
        Operation::Remove { path } => {
            names.remove(split(path).1);
        }
        Operation::Rename { from, to } => {
            if let Some(node) = names.remove(split(from).1) {
                names.insert(split(to).1.to_owned(), node);
            }
        }
        _ => {}
    }
}

fn write_kept(bytes: &mut Vec<u8>, offset: u64, written: &[u8], kept: Kept) {
    let mut put = |from: usize, piece: &[u8]| {
        let start = to_usize(offset) + from;
        if bytes.len() < start + piece.len() {
            bytes.resize(start + piece.len(), 0);
        }
        bytes[start..start + piece.len()].copy_from_slice(piece);
    };
    match kept {
        Kept::Nothing | Kept::Prefix(0) => {}
        Kept::All => put(0, written),
        Kept::Prefix(len) => put(0, &written[..len.min(written.len())]),
        Kept::Sectors(seed) => {
            let mut at = 0;
            while at < written.len() {
                let sector = (offset + at as u64) / SECTOR;
                let end = written.len().min(to_usize((sector + 1) * SECTOR - offset));
                // A fixed mixing of seed and sector; any would do.
                if (seed ^ sector.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .count_ones()
                    .is_multiple_of(2)
                {
                    put(at, &written[at..end]);
                }
                at = end;
            }
        }
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{path}: no such file or directory"),
    )
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let (found, file) = {
            let state = self.lock();
            if !state.dirs.contains_key(split(path).0) {
                return Err(not_found(path));
            }
            (state.file(path), FileId(state.next_file))
        };
        let id = match (found, how) {
            (Some(_), Open::CreateNew) => {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            (Some(id), _) => id,
            (None, Open::Existing) => return Err(not_found(path)),
            (None, _) => {
                self.change(
                    FaultAt::Write,
                    Operation::Create {
                        path: path.to_owned(),
                        file,
                    },
                )?;
                file
            }
        };
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            file: id,
        }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let state = self.lock();
        Ok(state.dirs.contains_key(path) || state.file(path).is_some())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.lock();
        let found = state.dirs.get(dir).ok_or_else(|| not_found(dir))?;
        Ok(found.current.keys().cloned().collect())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        if self.lock().file(path).is_none() {
            return Err(not_found(path));
        }
        self.change(
            FaultAt::Write,
            Operation::Remove {
                path: path.to_owned(),
            },
        )
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.lock().file(from).is_none() {
            return Err(not_found(from));
        }
        if split(from).0 != split(to).0 {
            return Err(io::Error::from(io::ErrorKind::CrossesDevices));
        }
        self.change(
            FaultAt::Write,
            Operation::Rename {
                from: from.to_owned(),
                to: to.to_owned(),
            },
        )
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for end in ends {
            let path = &dir[..end];
            if !self.lock().dirs.contains_key(path) {
                self.change(
                    FaultAt::Write,
                    Operation::CreateDir {
                        path: path.to_owned(),
                    },
                )?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        if !self.lock().dirs.contains_key(dir) {
            return Err(not_found(dir));
        }
        self.change(
            FaultAt::Sync,
            Operation::SyncDir {
                path: dir.to_owned(),
            },
        )
    }

    fn sync_time(&self) -> Duration {
        self.lock().sync_time
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let state = self.lock();
        let free = state
            .capacity
            .map(|capacity| capacity.saturating_sub(state.used()));
        Ok(free)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    file: FileId,
}

impl MemoryFile {
    fn with<T>(&self, look: impl FnOnce(&Contents) -> T) -> io::Result<T> {
        let state = self.disk.lock();
        let found = state
            .files
            .get(&self.file)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(look(found))
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|contents| {
            let rest = contents.current.get(to_usize(offset)..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            n
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let operation = Operation::Write {
            file: self.file,
            offset,
            bytes: bytes.to_vec(),
        };
        self.disk.change(FaultAt::Write, operation)
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|contents| contents.current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(
            FaultAt::Write,
            Operation::SetLen {
                file: self.file,
                len,
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk
            .change(FaultAt::Sync, Operation::SyncFile { file: self.file })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &MemoryDisk) -> Box<dyn DiskFile> {
        disk.create_dir_all("d").unwrap();
        disk.sync_dir("").unwrap();
        let file = disk.open("d/f", Open::CreateNew).unwrap();
        file.write_at(b"aaaa", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("d").unwrap();
        file
    }

    #[test]
    fn unsynced_writes_and_names_are_lost() {
        let disk = MemoryDisk::new();
        let file = written(&disk);
        file.write_at(b"bb", 1).unwrap();
        disk.rename("d/f", "d/g").unwrap();
        let image = disk.crash_synced();
        assert_eq!(image.list("d").unwrap(), ["f"]);
        assert_eq!(image.contents("d/f").unwrap(), b"aaaa");
        assert_eq!(disk.copy().contents("d/g").unwrap(), b"abba");
        let torn = disk.crash(|_| Kept::Prefix(1));
        assert_eq!(torn.contents("d/g").unwrap(), b"abaa");
    }

    #[test]
    fn a_failed_sync_loses_the_writes_for_good() {
        let disk = MemoryDisk::new();
        let file = written(&disk);
        file.write_at(b"bb", 0).unwrap();
        disk.fail(Fault {
            at: FaultAt::Sync,
            nth: 1,
            errno: 5,
            sticky: false,
        });
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        file.sync_data().unwrap();
        assert_eq!(disk.crash_synced().contents("d/f").unwrap(), b"aaaa");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_what_is_there_already() {
        let disk = MemoryDisk::new();
        let file = written(&disk);
        disk.set_capacity(Some(6));
        assert_eq!(disk.free_bytes().unwrap(), Some(2));
        let refused = file.write_at(b"bbbb", 4).unwrap_err();
        assert!(crate::disk::is_full(&refused), "{refused}");
        assert_eq!(disk.contents("d/f").unwrap(), b"aaaabb");
        file.write_at(b"cccc", 0).unwrap();
        assert!(file.set_len(7).is_err() && disk.open("d/g", Open::CreateNew).is_ok());
        disk.remove("d/f").unwrap();
        assert_eq!(disk.free_bytes().unwrap(), Some(6), "space comes back");
    }

    #[test]
    fn a_replayed_journal_gives_the_same_disk() {
        let disk = MemoryDisk::new();
        disk.record();
        let file = written(&disk);
        file.write_at(b"cc", 6).unwrap();
        let again = MemoryDisk::new();
        again.replay(&disk.journal());
        assert_eq!(again.contents("d/f").unwrap(), b"aaaa\0\0cc");
        assert_eq!(again.crash_synced().contents("d/f").unwrap(), b"aaaa");
        assert_eq!(again.operations(), disk.operations());
    }
}
