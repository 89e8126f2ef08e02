//! What stands between a node's process and the system: a small library (`jepsen-like-tests/between`) that
//! every node of a run is started with, and the file that tells it what to do.
//!
//! Files then fail to be written, synced or named with an error of our choice, a process kills itself at
//! a call of our choice, the time of day is another one, and what was not synced can be taken back after
//! a kill ([`undo`]).
//!
//! What must hold: the binary is the one people run; what was done is counted by the library, which is
//! where it happens, and a fault is proven by that count and nothing else.
//!
//! Left out: anything but Linux with its C library; [`Library::find`] says so, and the run reports what it
//! could not do.

pub mod undo;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;

use self::undo::Lost;
use crate::binary;
use crate::failure::{Failure, Result};

/// Bytes of a control file, and where the texts in it are.
const CONTROL_LEN: u64 = 4_096;
const PATTERN_AT: u64 = 1_024;
const LAST_AT: u64 = 2_048;
const TEXT_LEN: usize = 1_024;
/// Words before the counters.
const ORDERS: usize = 16;

/// The library, built.
#[derive(Clone, Debug)]
pub struct Library {
    path: PathBuf,
}

impl Library {
    /// Builds it if need be, and keeps it in a directory, so that a build beside a run changes nothing for
    /// it. An `Err` says why it cannot be had here.
    ///
    /// # Errors
    /// When it cannot be built: not Linux.
    pub fn find(directory: &Path) -> Result<Library> {
        if !cfg!(target_os = "linux") {
            return Err(Failure::new("this is not Linux"));
        }
        let built = binary::between()?;
        let path = directory.join("between.so");
        if std::fs::hard_link(&built, &path).is_err() {
            std::fs::copy(built, &path)?;
        }
        Ok(Library { path })
    }
}

/// A word of a control file: the library's orders, then its counters, which only it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Armed,
    SyncErrno,
    WriteErrno,
    NameErrno,
    Failures,
    KillAt,
    KillWhat,
    KillWhen,
    ClockOffset,
    ClockRate,
    ClockBase,
    SyncsFailed = ORDERS as isize,
    WritesFailed,
    NamesFailed,
    ClocksMoved,
    Killed,
    // One in between is the library's own.
    Unkept = ORDERS as isize + 6,
}

/// What calls to the system do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Change what files hold.
    Write,
    /// Make it durable.
    Sync,
    /// Make, rename and remove files.
    Name,
}

/// Where in a call a process ends. Only a write has a middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is not made.
    Before,
    /// It is made and not answered.
    After,
    /// Half of the bytes are written.
    Half,
}

/// What the library has done to one node, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Syncs that failed.
    pub syncs: u64,
    /// Writes that failed.
    pub writes: u64,
    /// Files that could not be made, renamed, removed or opened for writing.
    pub names: u64,
    /// Readings of the time of day that were changed.
    pub clocks: u64,
    /// Ends of the process.
    pub kills: u64,
}

impl Counts {
    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.syncs + self.writes + self.names
    }
}

/// The orders to the library in the process of one node.
#[derive(Debug)]
pub struct Control {
    library: PathBuf,
    path: PathBuf,
    file: File,
    data: PathBuf,
    undo: Option<PathBuf>,
}

impl Control {
    /// Makes the file beside the data directory of a node, which need not be there yet. With `keeps`, what
    /// is not synced is kept there too.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(library: &Library, data: &Path, keeps: bool) -> Result<Control> {
        let name = data.file_name().unwrap_or_default();
        // As the system says the paths of open files.
        let data = match data.parent() {
            Some(parent) => parent.canonicalize()?.join(name),
            None => data.to_owned(),
        };
        let path = data.with_extension("control");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)?;
        file.set_len(CONTROL_LEN)?;
        let undo = keeps.then(|| data.with_extension("undo"));
        if let Some(undo) = &undo {
            std::fs::create_dir_all(undo)?;
        }
        Ok(Control {
            library: library.path.clone(),
            path,
            file,
            data,
            undo,
        })
    }

    /// What the process is started with.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut all = vec![
            ("LD_PRELOAD", self.library.clone()),
            ("FAULT_CONTROL", self.path.clone()),
            ("FAULT_DATA", self.data.clone()),
        ];
        all.extend(self.undo.clone().map(|undo| ("FAULT_UNDO", undo)));
        all
    }

    /// Where what is not synced is kept.
    pub fn undo(&self) -> Option<&Path> {
        self.undo.as_deref()
    }

    /// Takes what a process that is gone had not synced, as a power cut does; nothing when the library could
    /// not keep all of it.
    ///
    /// # Errors
    /// When it cannot be taken, or nothing was to be kept.
    pub fn cut_power(&self, random: &mut StdRng) -> Result<Lost> {
        let undo = self.undo.as_ref();
        let undo = undo.ok_or_else(|| Failure::new("what is not synced was not kept"))?;
        if self.get(Word::Unkept)? != 0 {
            self.forget()?;
            return Ok(Lost::default());
        }
        undo::cut_power(&self.data, undo, random)
    }

    /// Takes everything as synced.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn forget(&self) -> Result<()> {
        self.set(Word::Unkept, 0)?;
        self.undo.as_deref().map_or(Ok(()), undo::forget)
    }

    /// Has calls fail, those on files whose path below the data directory contains `pattern`, so many times.
    ///
    /// # Errors
    /// When the orders cannot be written.
    pub fn fail(&self, calls: &[Calls], errno: i32, times: u64, pattern: &str) -> Result<()> {
        self.disarm()?;
        for calls in calls {
            let word = match calls {
                Calls::Sync => Word::SyncErrno,
                Calls::Write => Word::WriteErrno,
                Calls::Name => Word::NameErrno,
            };
            self.set(word, i64::from(errno))?;
        }
        self.set(Word::Failures, i64::try_from(times).unwrap_or(i64::MAX))?;
        self.arm(pattern)
    }

    /// Has the process end at the n-th call of this kind, on files as in [`Control::fail`].
    ///
    /// # Errors
    /// When the orders cannot be written.
    pub fn kill_at(&self, calls: Calls, nth: u64, moment: Moment, pattern: &str) -> Result<()> {
        self.disarm()?;
        let what = match calls {
            Calls::Write => 1,
            Calls::Sync => 2,
            Calls::Name => 4,
        };
        let when = match moment {
            Moment::Before => 0,
            Moment::After => 1,
            Moment::Half => 2,
        };
        self.set(Word::KillAt, i64::try_from(nth).unwrap_or(i64::MAX))?;
        self.set(Word::KillWhen, when)?;
        self.set(Word::KillWhat, what)?;
        self.arm(pattern)
    }

    fn arm(&self, pattern: &str) -> Result<()> {
        let mut text = [0; TEXT_LEN];
        let len = pattern.len().min(TEXT_LEN - 1);
        text[..len].copy_from_slice(&pattern.as_bytes()[..len]);
        self.file.write_all_at(&text, PATTERN_AT)?;
        self.set(Word::Armed, 1)
    }

    /// No call fails and none is the last.
    ///
    /// # Errors
    /// When the orders cannot be written.
    pub fn disarm(&self) -> Result<()> {
        for word in [
            Word::Armed,
            Word::KillWhat,
            Word::SyncErrno,
            Word::WriteErrno,
            Word::NameErrno,
        ] {
            self.set(word, 0)?;
        }
        Ok(())
    }

    /// Moves the time of day by so many seconds, and has it run at a rate from now on: 1.0 is as usual.
    ///
    /// # Errors
    /// When the orders cannot be written.
    pub fn move_clock(&self, seconds: i64, rate: f64) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or(Duration::ZERO).as_nanos();
        self.set(Word::ClockRate, 0)?;
        self.set(Word::ClockBase, i64::try_from(now).unwrap_or(i64::MAX))?;
        self.set(Word::ClockOffset, seconds.saturating_mul(1_000_000_000))?;
        self.set(Word::ClockRate, ((rate - 1.0) * 1e6) as i64)
    }

    /// What the library has done so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn counts(&self) -> Result<Counts> {
        Ok(Counts {
            syncs: self.get(Word::SyncsFailed)?,
            writes: self.get(Word::WritesFailed)?,
            names: self.get(Word::NamesFailed)?,
            clocks: self.get(Word::ClocksMoved)?,
            kills: self.get(Word::Killed)?,
        })
    }

    /// The file that a call was about that failed last, or was the last, below the data directory.
    pub fn last(&self) -> String {
        let mut text = [0; TEXT_LEN];
        // Only for people.
        let _ = self.file.read_exact_at(&mut text, LAST_AT);
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    fn set(&self, word: Word, value: i64) -> Result<()> {
        // The library has the same page of memory, and sees whole words.
        let bytes = value.to_ne_bytes();
        Ok(self.file.write_all_at(&bytes, 8 * word as u64)?)
    }

    fn get(&self, word: Word) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 8 * word as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

#[cfg(test)]
mod tests;
