//! Small file systems of their own, so that a disk can really run full. They need root; where that is
//! missing the test says that it was skipped.
//!
//! What must hold: what was mounted is unmounted when it is dropped, also while a test panics.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::say;

/// A file system in memory, mounted on a directory.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this size on a new directory; `None` where that is not allowed.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn mount(path: PathBuf, mebibytes: u64) -> Result<Option<SmallDisk>> {
        fs::create_dir_all(&path)?;
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(SmallDisk { path })),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                say(format!("SKIPPED: a small disk cannot be mounted: {why}"));
                Ok(None)
            }
            Err(why) => {
                say(format!("SKIPPED: a small disk cannot be mounted: {why}"));
                Ok(None)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it, after its files were copied to where it was.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn replace_by_copy(self) -> Result<()> {
        let aside = self.path.with_extension("copy");
        copy(&self.path, &aside)?;
        let path = self.path.clone();
        drop(self);
        fs::remove_dir(&path)?;
        Ok(fs::rename(aside, path)?)
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn free_bytes(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.path)
            .map_err(|why| Failure::during("statvfs", io::Error::from(why)))?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Fills it, until `left` bytes are free at most, with a file beside what is there; returns what to
    /// delete so that the space comes back.
    ///
    /// # Errors
    /// When the file cannot be written for another reason than space.
    pub fn fill(&self, name: &str, left: u64) -> Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = File::create(&path)?;
        loop {
            let more = self.free_bytes()?.saturating_sub(left).min(1 << 20);
            if more == 0 {
                return Ok(path);
            }
            match file.write_all(&vec![1; more as usize]) {
                Err(why) if why.kind() == io::ErrorKind::StorageFull => return Ok(path),
                written => written?,
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let there = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy(&path, &there)?,
            false => fs::copy(&path, there).map(drop)?,
        }
    }
    Ok(())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may hold it for another moment.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).output();
        if !unmounted.is_ok_and(|output| output.status.success()) {
            say(format!("{} is still mounted", self.path.display()));
        }
    }
}
