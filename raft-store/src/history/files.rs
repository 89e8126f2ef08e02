//! The directories of a history, and what may go wrong in and around them.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// sled's threads let go of a database a moment after it was closed.
const UNLOCK_WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) fn generation_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("g{generation:016}"))
}

/// The generations present, oldest first; what a crash left of dropped ones is removed. Anything
/// else in the directory is not ours and stays.
pub(super) fn generations(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(digits) = name.strip_prefix('g') else {
            continue;
        };
        if digits.ends_with(".dead") {
            remove_any(&entry.path())?;
        } else if digits.len() == 16
            && let Ok(generation) = digits.parse()
        {
            found.push(generation);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Renames first, so that a half deleted generation is never taken for a whole one.
pub(super) fn discard(dir: &Path, generation: u64) -> io::Result<()> {
    let path = generation_path(dir, generation);
    let dead = path.with_extension("dead");
    remove_any(&dead)?;
    match fs::rename(&path, &dead) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    remove_any(&dead)
}

pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A crash while sled writes its own snapshot leaves one of these, and sled then refuses to open.
pub(super) fn remove_generating(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "generating")
        {
            remove_any(&path)?;
        }
    }
    Ok(())
}

/// The lock on a history's directory, until dropped.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process between fork and exec still holds a copy, and with
        // it the lock. Nothing can be done about an error, and the lock goes with the process.
        let _ = self.0.unlock();
    }
}

pub(super) fn lock_dir(dir: &Path) -> io::Result<DirLock> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => {
                io::Error::new(error.kind(), format!("{} is a directory", path.display()))
            }
            _ => error,
        })?;
    file.try_lock().map_err(|error| {
        io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is in use: {error}", path.display()),
        )
    })?;
    Ok(DirLock(file))
}

/// Waits until no thread of an earlier, closed database holds its file: sled would refuse it, and
/// that must not be taken for damage.
pub(super) fn wait_unlocked(db: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let file = match File::options().write(true).open(db) {
            Ok(file) => file,
            // Missing is a new database; a directory in its place is for sled to complain about.
            Err(error) if is_environment(&error) => return Err(error),
            Err(_) => return Ok(()),
        };
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(_) if start.elapsed() < UNLOCK_WAIT_MAX => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => {
                let text = format!("{} is in use: {error}", db.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
        }
    }
}

pub(super) fn dir_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// What a directory takes of the disk; what vanishes meanwhile counts as nothing.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Trouble that a new, empty store would have as well.
pub(super) fn is_environment(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    pub(super) const TOO_MANY_FILES: [i32; 2] = [23, 24]; // ENFILE, EMFILE: the standard library has no kind for them
    matches!(
        error.kind(),
        Kind::PermissionDenied
            | Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::ReadOnlyFilesystem
            | Kind::ResourceBusy
            | Kind::OutOfMemory
    ) || error
        .raw_os_error()
        .is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// Calls into sled; a panic in there becomes an error.
pub(super) fn guarded<T>(op: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(op)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(damaged(format!("sled panicked: {text}")))
    })
}

pub(super) fn trouble(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => damaged(format!("sled: {other}")),
    }
}

pub(super) fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the history is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_child_inherited_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock_dir(dir.path()).unwrap();
        let inherited = lock.0.try_clone().unwrap();
        assert!(lock_dir(dir.path()).is_err(), "it is in use");
        drop(lock);
        assert!(lock_dir(dir.path()).is_ok());
        drop(inherited);
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded::<()>(|| panic!("at the {}", "disco")).unwrap_err();
        assert_eq!(error.to_string(), "sled panicked: at the disco");
        assert_eq!(
            guarded::<()>(|| panic!("plain")).unwrap_err().to_string(),
            "sled panicked: plain"
        );
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn what_a_new_store_would_suffer_too_is_no_damage() {
        for (code, environment) in [(13, true), (28, true), (24, true), (5, false), (2, false)] {
            assert_eq!(
                is_environment(&io::Error::from_raw_os_error(code)),
                environment,
                "errno {code}"
            );
        }
        assert!(!is_environment(&damaged("crc".to_owned())));
    }
}
