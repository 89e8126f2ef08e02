//! The next segment, filled with zeros before it is needed.
//!
//! Writing into blocks that exist and whose length is known costs one disk write per sync; growing a
//! file costs a journal commit each time, and filling 16 MiB when the segment is needed stalls every
//! writer. So a helper thread fills the next segment in steps, syncing each, while the current one is in use.
//!
//! `take` never waits for more than the step in progress: what is not filled by then is a hole, which is
//! correct, only slower. The file always has its full length before its header is written, so that a
//! file cut short is seen at open. A failed step fails the `take`: nothing is tried twice.
//!
//! Without a thread ([`super::Flushing::Inline`]) a segment is made when it is taken.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::files::segment_path;
use crate::disk::{Disk, DiskFile, Open};

/// One step: long enough to be cheap, short enough not to be felt by the log's own syncs.
const STEP: usize = 1 << 20;

enum Work {
    Idle,
    Wanted(u64),
    /// The flag asks the thread to hand over what it has.
    Filling {
        number: u64,
        hand_over: bool,
    },
    Ready {
        number: u64,
        made: io::Result<Box<dyn DiskFile>>,
    },
    Stopped,
}

struct Desk {
    disk: Arc<dyn Disk>,
    length: u64,
    work: Mutex<Work>,
    changed: Condvar,
}

pub(crate) struct Preparer {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub(crate) fn new(disk: Arc<dyn Disk>, length: u64, threaded: bool) -> io::Result<Preparer> {
        let desk = Arc::new(Desk {
            disk,
            length,
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

    /// Returns the segment file, `length` bytes of zeros or holes, without a header. Its name and length
    /// are not durable yet.
    pub(crate) fn take(&self, number: u64, length: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = match self.prepared(number) {
            Some(made) => made?,
            None if self.thread.is_none() && length == self.desk.length => {
                let file = self
                    .desk
                    .disk
                    .open(&segment_path(number), Open::CreateNew)?;
                file.write_at(&vec![0; length as usize], 0)?;
                file
            }
            // Not begun, or of a size of its own: a hole.
            None => self
                .desk
                .disk
                .open(&segment_path(number), Open::CreateNew)?,
        };
        if file.len()? != length {
            file.set_len(length)?;
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
                    };
                    drop(work);
                    let made = self.fill();
                    work = self.lock();
                    match *work {
                        Work::Filling { number, .. } => *work = Work::Ready { number, made },
                        _ => return,
                    }
                    self.changed.notify_all();
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

    fn fill(&self) -> io::Result<Box<dyn DiskFile>> {
        let number = match *self.lock() {
            Work::Filling { number, .. } => number,
            _ => return Err(io::Error::from(io::ErrorKind::Interrupted)),
        };
        let file = self.disk.open(&segment_path(number), Open::CreateNew)?;
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
        Ok(file)
    }
}
