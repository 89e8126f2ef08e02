//! The next segment, filled with zeros before it is needed.
//!
//! Writing into blocks that exist and whose length is known costs one disk write per sync; growing a
//! file costs a journal commit each time, and filling 16 MiB when the segment is needed stalls every
//! writer. So a helper thread fills the next segment in steps, syncing each, while the current one is in use.
//!
//! `take` never waits for more than the step in progress: what is not filled by then is space that was
//! taken and not written, which is correct, only slower. The file always has its full length before
//! its header is written, so that a file cut short is seen at open. A failed step fails the `take`:
//! nothing is tried twice.
//!
//! But for space. It is taken as a whole before the first step, so a disk that is full is met here, long
//! before a batch needs the segment, and nothing is hurt: the file is given up, the log is *starved*
//! (it says so, and takes what fits into the segment in use), and it is tried again each second.
//! When the segment is needed all the same, the reserve file is given up for a short one; with space,
//! the reserve is made anew.
//!
//! Without a thread ([`super::Flushing::Inline`]) a segment is made when it is taken.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::files::{LOG_DIR, RESERVE, segment_path};
use crate::disk::{Disk, DiskFile, Open, is_full};

/// One step: long enough to be cheap, short enough not to be felt by the log's own syncs.
const STEP: usize = 1 << 20;

/// Between two tries to get space for the next segment.
const SPACE_PAUSE: Duration = Duration::from_secs(1);

enum Work {
    Idle,
    Wanted(u64),
    /// There was no space for it.
    Starved(u64),
    /// The flag asks the thread to hand over what it has.
    Filling {
        number: u64,
        hand_over: bool,
        has_space: bool,
    },
    Ready {
        number: u64,
        made: io::Result<Box<dyn DiskFile>>,
    },
    Stopped,
}

/// What the log, its thread and the helper share.
pub(crate) struct Desk {
    disk: Arc<dyn Disk>,
    length: u64,
    reserve: u64,
    work: Mutex<Work>,
    changed: Condvar,
}

pub(crate) struct Preparer {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        length: u64,
        reserve: u64,
        threaded: bool,
    ) -> io::Result<Preparer> {
        let desk = Arc::new(Desk {
            disk,
            length,
            reserve,
            work: Mutex::new(Work::Idle),
            changed: Condvar::new(),
        });
        let thread = if threaded {
            let desk = desk.clone();
            let builder = std::thread::Builder::new().name("pennon-log-fill".to_owned());
            Some(builder.spawn(move || desk.run())?)
        } else {
            None
        };
        Ok(Preparer { desk, thread })
    }

    /// Starts to prepare a segment, if there is a thread to do it.
    pub(crate) fn want(&self, number: u64) {
        if self.thread.is_some() {
            *self.desk.lock() = Work::Wanted(number);
            self.desk.changed.notify_all();
        }
    }

    /// Returns what the log can ask about the next segment.
    pub(crate) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// Returns the segment file, `length` bytes of zeros, without a header. Its name and length are not
    /// durable yet.
    ///
    /// # Errors
    /// Whatever the disk says. When it is full, nothing is left of the file and it may be tried again.
    pub(crate) fn take(&self, number: u64, length: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = match self.prepared(number) {
            Some(made) => made?,
            // Not begun, or of a size of its own.
            None => {
                let zeros = self.thread.is_none() && length == self.desk.length;
                return self.desk.make(number, length, zeros);
            }
        };
        if file.len()? != length
            && let Err(error) = file.allocate(length)
        {
            return Err(self.desk.given_up(&segment_path(number), error));
        }
        Ok(file)
    }

    fn prepared(&self, number: u64) -> Option<io::Result<Box<dyn DiskFile>>> {
        let mut work = self.desk.lock();
        loop {
            match &mut *work {
                Work::Filling {
                    number: filling,
                    hand_over,
                    ..
                } if *filling == number => *hand_over = true,
                Work::Ready { number: ready, .. } if *ready == number => {
                    let Work::Ready { made, .. } = std::mem::replace(&mut *work, Work::Idle) else {
                        return None;
                    };
                    return Some(made);
                }
                Work::Stopped => return None,
                _ => {
                    *work = Work::Idle;
                    return None;
                }
            }
            work = self
                .desk
                .changed
                .wait(work)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        *self.desk.lock() = Work::Stopped;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the thread itself and concerns only a spare file.
            let _ = thread.join();
        }
    }
}

impl Desk {
    /// Returns the bytes of the next segment, when its space is taken.
    pub(crate) fn ready_bytes(&self) -> u64 {
        match &*self.lock() {
            Work::Ready { made: Ok(_), .. } => self.length,
            Work::Filling {
                has_space: true, ..
            } => self.length,
            _ => 0,
        }
    }

    /// Says whether there was no space for the next segment when last tried.
    pub(crate) fn is_starved(&self) -> bool {
        matches!(&*self.lock(), Work::Starved(_))
    }

    /// Makes a segment at once.
    fn make(&self, number: u64, length: u64, zeros: bool) -> io::Result<Box<dyn DiskFile>> {
        let path = segment_path(number);
        let file = self.disk.open(&path, Open::CreateNew)?;
        let taken = match zeros {
            true => file.write_at(&vec![0; length as usize], 0),
            false => file.allocate(length),
        };
        match taken {
            Ok(()) => Ok(file),
            Err(error) => Err(self.given_up(&path, error)),
        }
    }

    /// Leaves nothing of a file for which there is no space.
    fn given_up(&self, path: &str, error: io::Error) -> io::Error {
        if is_full(&error)
            && let Err(error) = self.disk.remove(path)
        {
            return error;
        }
        error
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        loop {
            match *work {
                Work::Stopped => return,
                Work::Wanted(number) => {
                    *work = Work::Filling {
                        number,
                        hand_over: false,
                        has_space: false,
                    };
                    drop(work);
                    let made = self.fill(number);
                    work = self.lock();
                    match *work {
                        Work::Filling { .. } => *work = self.outcome(number, made),
                        _ => return,
                    }
                    self.changed.notify_all();
                    if matches!(*work, Work::Ready { .. }) {
                        drop(work);
                        keep_reserve(&*self.disk, self.reserve);
                        work = self.lock();
                    }
                }
                Work::Starved(number) => {
                    let waited = self.changed.wait_timeout(work, SPACE_PAUSE);
                    work = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if matches!(*work, Work::Starved(still) if still == number) {
                        *work = Work::Wanted(number);
                    }
                }
                _ => {
                    work = self
                        .changed
                        .wait(work)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    fn outcome(&self, number: u64, made: io::Result<Box<dyn DiskFile>>) -> Work {
        match made {
            Err(error) if is_full(&error) => {
                tracing::debug!(%error, "no space for the next segment of the log");
                Work::Starved(number)
            }
            made => Work::Ready { number, made },
        }
    }

    fn fill(&self, number: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = segment_path(number);
        let file = self.disk.open(&path, Open::CreateNew)?;
        match self.fill_with_zeros(&*file) {
            Ok(()) => Ok(file),
            Err(error) => Err(self.given_up(&path, error)),
        }
    }

    fn fill_with_zeros(&self, file: &dyn DiskFile) -> io::Result<()> {
        file.allocate(self.length)?;
        if let Work::Filling { has_space, .. } = &mut *self.lock() {
            *has_space = true;
        }
        let zeros = vec![0; STEP];
        let mut filled = 0;
        while filled < self.length
            && matches!(
                *self.lock(),
                Work::Filling {
                    hand_over: false,
                    ..
                }
            )
        {
            let step = (self.length - filled).min(STEP as u64);
            file.write_at(&zeros[..step as usize], filled)?;
            file.sync_data()?;
            filled += step;
        }
        Ok(())
    }
}

/// Keeps a file whose space can be given up. Not having it is no reason not to run.
pub(crate) fn keep_reserve(disk: &dyn Disk, len: u64) {
    if len == 0 || disk.exists(RESERVE).unwrap_or(true) {
        return;
    }
    let make = || -> io::Result<()> {
        let file = disk.open(RESERVE, Open::CreateOrOpen)?;
        let zeros = vec![0; STEP.min(len as usize)];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(zeros.len() as u64);
            file.write_at(&zeros[..step as usize], at)?;
            at += step;
        }
        file.sync_all()?;
        disk.sync_dir(LOG_DIR)
    };
    if let Err(error) = make() {
        tracing::warn!(%error, "no space for the reserve file");
        // A part of it would be taken for the whole at the next open.
        let _ = disk.remove(RESERVE);
    }
}
