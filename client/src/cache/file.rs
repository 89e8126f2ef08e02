//! The file of the disk cache: reading it once, replacing it whole.
//!
//! Order of a write: a temporary file beside it, written and fsynced; renamed over it; the directory
//! fsynced. A process killed anywhere in between leaves the old file or the new one.
//!
//! What must hold: never a write for a client that does not hold the lock, or over a file that is not
//! this client's to replace: otherwise two clients could put each other's versions back (I6). The
//! runtime is never blocked: files are touched on its threads for blocking work only.
//!
//! Left out: what is in the file (`cache.rs`), when it is written (`session/saves.rs`).

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use pennon_evaluator::Version;
use tokio::task::JoinHandle;

use super::{CACHE_LEN_MAX, CacheFault, CacheWarning, Identity, Restored, decode, encode};
use crate::held::Held;
use crate::session::Event;

/// How long reading the file may hold up the first connection.
const READ_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the last write may take after the client was dropped.
const LAST_WRITE_TIME_MAX: Duration = Duration::from_secs(5);

/// The disk cache at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// Where it is.
    pub path: PathBuf,
    /// The version that was read when the client started.
    pub read: Option<Version>,
    /// When that had been written, by the clock on the wall. It says nothing about freshness.
    pub read_written_at: Option<SystemTime>,
    /// The version that was written last.
    pub saved: Option<Version>,
    /// How often it was written.
    pub saves: u64,
    /// What went wrong last; none when all is well.
    pub warning: Option<CacheWarning>,
}

/// The file. Blocking: for the threads that may block.
#[derive(Debug)]
pub(crate) struct CacheFile {
    path: PathBuf,
    identity: Identity,
    /// Held for as long as this client may write; the file has to be read first.
    lock: OnceLock<File>,
}

impl CacheFile {
    pub(crate) fn new(path: PathBuf, identity: Identity) -> CacheFile {
        CacheFile {
            path,
            identity,
            lock: OnceLock::new(),
        }
    }

    /// Takes the lock and reads the file.
    pub(crate) fn load(&self) -> (Option<Restored>, Option<CacheWarning>) {
        let lock = self.try_lock();
        let (restored, fault) = match self.read() {
            Ok(restored) => (restored, None),
            Err(fault) => (None, Some(fault)),
        };
        let replaced = fault.as_ref().is_none_or(|fault| fault.fault.is_replaced());
        let (lock, refused) = match lock {
            Ok(lock) => (Some(lock), None),
            Err(refused) => (None, Some(refused)),
        };
        if let Some(lock) = lock.filter(|_| replaced) {
            // Set once: a file is loaded once.
            let _ = self.lock.set(lock);
        }
        (restored, fault.or(refused))
    }

    fn try_lock(&self) -> Result<File, CacheWarning> {
        let path = self.beside(".lock");
        let not_written = |why: &dyn std::fmt::Display| {
            CacheWarning::new(
                CacheFault::NotWritten,
                format!("{} cannot be locked: {why}", path.display()),
            )
        };
        let lock = private(&path, false).map_err(|e| not_written(&e))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(CacheWarning::new(
                CacheFault::InUse,
                format!("{} is locked by another client", path.display()),
            )),
            Err(TryLockError::Error(error)) => Err(not_written(&error)),
        }
    }

    fn read(&self) -> Result<Option<Restored>, CacheWarning> {
        let unreadable = |why: &dyn std::fmt::Display| {
            CacheWarning::new(
                CacheFault::Unreadable,
                format!("{}: {why}", self.path.display()),
            )
        };
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file
                .take(CACHE_LEN_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| unreadable(&e))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        };
        if bytes.len() as u64 > CACHE_LEN_MAX {
            return Err(unreadable(&"it is longer than any cache"));
        }
        let named = |warning: CacheWarning| CacheWarning {
            message: format!("{}: {}", self.path.display(), warning.message),
            ..warning
        };
        decode(&bytes, &self.identity).map(Some).map_err(named)
    }

    /// Whether this client may replace the file.
    pub(crate) fn is_ours(&self) -> bool {
        self.lock.get().is_some()
    }

    /// Replaces the file.
    pub(crate) fn save(&self, held: &Held) -> Result<(), CacheWarning> {
        let failed = |why: &dyn std::fmt::Display| {
            CacheWarning::new(
                CacheFault::NotWritten,
                format!("{}: {why}", self.path.display()),
            )
        };
        if !self.is_ours() {
            return Err(failed(&"it is not this client's to write")); // I6
        }
        let bytes = encode(held, &self.identity, SystemTime::now());
        let bytes = bytes.ok_or_else(|| failed(&"the state cannot be cached"))?;
        self.replace(&bytes).map_err(|e| failed(&e))
    }

    fn replace(&self, bytes: &[u8]) -> std::io::Result<()> {
        let aside = self.beside(".new");
        let mut file = private(&aside, true)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(end);
        PathBuf::from(path)
    }
}

/// Opens a file for writing that nobody else may read: rules name people.
fn private(path: &Path, truncate: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(truncate);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The cache of a running client.
pub(crate) struct Cache {
    file: Arc<CacheFile>,
    /// Whether this client may write: what was in the file before is known.
    ours: bool,
    saving: Option<(Version, JoinHandle<Result<(), CacheWarning>>)>,
    status: CacheStatus,
}

impl Cache {
    pub(crate) fn new(path: PathBuf, identity: Identity) -> Cache {
        let status = CacheStatus {
            path: path.clone(),
            read: None,
            read_written_at: None,
            saved: None,
            saves: 0,
            warning: None,
        };
        Cache {
            file: Arc::new(CacheFile::new(path, identity)),
            ours: false,
            saving: None,
            status,
        }
    }

    pub(crate) fn status(&self) -> &CacheStatus {
        &self.status
    }

    /// Reads the file.
    pub(crate) async fn load(&mut self) -> Option<Restored> {
        let file = Arc::clone(&self.file);
        let loading = aside(move || file.load());
        let (restored, warning) = match tokio::time::timeout(READ_TIME_MAX, loading).await {
            Ok(Ok(loaded)) => {
                self.ours = self.file.is_ours();
                loaded
            }
            // Whatever is read later is not used, so it is not replaced either. (I6)
            _ => {
                let why = format!("{} was not read in time", self.status.path.display());
                (None, Some(CacheWarning::new(CacheFault::Unreadable, why)))
            }
        };
        self.warn(warning);
        self.status.read = restored.as_ref().map(|r| r.snapshot.version());
        self.status.read_written_at = restored.as_ref().and_then(|r| r.written);
        restored
    }

    /// Whether this client may write; known once it was read.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Begins to write a state.
    pub(crate) fn save(&mut self, held: Arc<Held>) {
        let (file, version) = (Arc::clone(&self.file), held.snapshot.version());
        self.saving = Some((version, aside(move || file.save(&held))));
    }

    /// Waits for the outcome of a write. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        let Some((version, saving)) = &mut self.saving else {
            return std::future::pending().await;
        };
        let (version, saved) = (*version, saving.await);
        self.saving = None;
        let saved = saved.unwrap_or_else(|_| {
            let why = "the runtime is shutting down";
            Err(CacheWarning::new(CacheFault::NotWritten, why))
        });
        let done = saved.is_ok();
        if done {
            self.status.saved = Some(version);
            self.status.saves += 1;
        }
        self.warn(saved.err());
        Event::Saved { done }
    }

    /// Ends: waits for the write that is on its way and writes the last state, if it is a later one.
    pub(crate) async fn close(mut self, held: Option<Arc<Held>>) {
        let closing = async {
            if self.saving.is_some() {
                self.next().await;
            }
            let kept = self.status.saved.max(self.status.read);
            if let Some(held) = held.filter(|held| Some(held.snapshot.version()) > kept)
                && self.is_ours()
            {
                self.save(held);
                self.next().await;
            }
        };
        // Nobody is left to be told.
        let _ = tokio::time::timeout(LAST_WRITE_TIME_MAX, closing).await;
    }

    fn warn(&mut self, warning: Option<CacheWarning>) {
        if let Some(warning) = &warning
            && self.status.warning.as_ref() != Some(warning)
        {
            tracing::warn!("the cache of flags is not used: {warning}");
        }
        self.status.warning = warning;
    }
}

/// The seam to blocking work.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::FileTypeExt;
    use std::process::Command;

    use super::super::tests::{bytes, held, identity};
    use super::*;

    // I6
    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_read_too_late_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flags.cache");
        // A disk that does not answer: who reads a pipe waits for somebody who writes.
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let mut cache = Cache::new(path.clone(), identity(None));
        let (read, ()) = tokio::join!(cache.load(), tokio::time::advance(READ_TIME_MAX * 2));
        let warning = cache.status().warning.clone().unwrap();
        assert_eq!(
            (read.is_none(), warning.fault()),
            (true, CacheFault::Unreadable)
        );
        assert!(!cache.is_ours());

        // It answers after all, with a later state than what came from a node meanwhile.
        std::fs::write(&path, bytes(9, None)).unwrap();
        while !cache.file.is_ours() {
            std::thread::yield_now();
        }
        cache.close(Some(Arc::new(held(5)))).await;
        let kind = path.metadata().unwrap().file_type();
        assert!(kind.is_fifo(), "version 9 was replaced by version 5");
    }
}
