//! The seam between storage code and a disk: a tree of files, with every way it can lose data.
//!
//! The log, the vote and the identity are written against [`Disk`] and [`DiskFile`] only, so the very
//! same code runs on a file system ([`RealDisk`]) and in memory ([`MemoryDisk`]), where power can be cut
//! after any operation and any write or sync can be made to fail.
//!
//! What callers may rely on, and must not go beyond:
//! - a write is readable at once by everybody, and durable only after `sync_data` or `sync_all` of that
//!   file returned Ok; a failed sync says nothing about what is on the disk, then or later;
//! - a new, renamed or removed name is durable only after `sync_dir` of its directory returned Ok;
//! - a write may be torn at any 512-byte boundary by a power cut, and unsynced writes may reach the disk
//!   in any order.
//!
//! Left out: permissions, links, memory maps, asynchronous IO. Paths are relative, '/'-separated, and
//! chosen by our own code, never by people or peers.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod memory;
mod space;

pub use memory::{Fault, FaultAt, FileId, Kept, MemoryDisk, Operation};
pub use space::Space;

/// Says what [`Disk::open`] does when the file exists, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Open a file that is there; `NotFound` otherwise.
    Existing,
    /// Create a file that is not there yet; `AlreadyExists` otherwise.
    CreateNew,
    /// Open the file, or create it empty.
    CreateOrOpen,
}

/// A directory tree. `""` is its root; `sync_dir("")` makes names in the root durable.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or whatever the system says.
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>>;

    /// Says whether a file or directory of that name exists.
    ///
    /// # Errors
    /// The system could not tell.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// Lists the names in a directory (last path component only), sorted.
    ///
    /// # Errors
    /// `NotFound` when there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Removes a file's name. Durable after `sync_dir`.
    ///
    /// # Errors
    /// `NotFound`, or whatever the system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had that name. Durable after `sync_dir`.
    ///
    /// # Errors
    /// `NotFound`, or whatever the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Creates a directory and its parents; existing ones are fine.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create_dir_all(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The names may or may not be durable; do not retry.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// How long the log lets its next round wait, [`Flushing::Inline`](crate::log::Flushing): a disk on which
    /// everything is done at once, because time stands still meanwhile, can say what syncing would have
    /// taken. Nothing on a disk that takes its time itself.
    fn sync_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns how many bytes this process can still write; `None` where the disk has no bound that
    /// it knows of.
    ///
    /// # Errors
    /// The system could not tell.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// Says whether an error means that there is no space left, or no more of it for this user.
pub fn is_full(error: &io::Error) -> bool {
    comes_from(error, &|error| {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    })
}

/// Says whether an error means that no more files can be opened, by this process or by any.
pub fn is_out_of_files(error: &io::Error) -> bool {
    let files = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    comes_from(error, &|error| {
        let found = error.raw_os_error();
        found.is_some_and(|found| files.iter().any(|errno| errno.raw_os_error() == found))
    })
}

/// Says whether it holds of an error, or of one that it was made from: who adds the name of a file wraps
/// what the system said.
fn comes_from(error: &io::Error, holds: &dyn Fn(&io::Error) -> bool) -> bool {
    if holds(error) {
        return true;
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<io::Error>() {
            return comes_from(found, holds);
        }
        cause = found.source();
    }
    false
}

/// An open file. All methods take `&self`: positions are explicit.
pub trait DiskFile: Send + Sync {
    /// Reads at most `buf.len()` bytes from `offset`; 0 means the end of the file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file when needed.
    ///
    /// # Errors
    /// Some, all or none of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len(&self) -> io::Result<u64>;

    /// Says whether the file holds no byte.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// Whatever the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Grows the file to `len` and takes the space for it, where the file system can: later writes
    /// below `len` then find the disk never full. New bytes are zeros.
    ///
    /// # Errors
    /// There is no space for it; then the file may have any length between.
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    /// Makes contents durable, with as much metadata as reading them back takes (the length included).
    ///
    /// # Errors
    /// Nothing is known about what is on the disk; a later Ok does not repair that.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes contents and all metadata durable.
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// Reads a whole file, at most `len_max` bytes.
///
/// # Errors
/// `InvalidData` when the file is longer than `len_max`; otherwise whatever the disk says.
pub fn read_whole(file: &dyn DiskFile, len_max: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > len_max {
        let text = format!("the file is {len} bytes long, more than the {len_max} it can have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let filled = read_fully(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads until `buf` is full or the file ends; returns how many bytes were read.
///
/// # Errors
/// Whatever the disk says.
pub fn read_fully(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Uses `root`, creating it when it is not there.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        Ok(RealDisk { root })
    }

    /// Returns the directory that paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match how {
            Open::Existing => &mut options,
            Open::CreateNew => options.create_new(true),
            Open::CreateOrOpen => options.create(true).truncate(false),
        };
        Ok(Box::new(RealFile {
            file: options.open(self.at(path))?,
        }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.at(path).try_exists()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.at(dir))? {
            // Our own names are ASCII; a name that is not even text belongs to somebody else.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.at(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.at(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.root)?;
        // Not f_bfree: the last blocks are root's, and a node need not be root.
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&self.file, flags, 0, len) {
            Ok(()) => Ok(()),
            // A file system without it; what is not taken now is taken by the writes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.file.set_len(len),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
