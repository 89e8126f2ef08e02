//! Names in the data directory, and the open segment files that readers share.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::{Disk, DiskFile, Open};

pub(crate) const LOG_DIR: &str = "log";
pub(crate) const HARD_DIR: &str = "hard";
pub(crate) const MANIFEST: &str = "log/MANIFEST";
pub(crate) const MANIFEST_ASIDE: &str = "log/MANIFEST.new";
pub(crate) const RESERVE: &str = "log/RESERVE";
pub(crate) const VOTES: [&str; 2] = ["hard/a", "hard/b"];

/// Readers of old entries are few: a handful of followers, each walking through one segment.
const OPEN_MAX: usize = 16;

/// Returns the path of a segment. Numbers sort as names do.
pub(crate) fn segment_path(number: u64) -> String {
    format!("{LOG_DIR}/{number:016x}.seg")
}

/// Returns the number of a segment, when the name (without directory) is one of a segment.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_path(number).ends_with(name) && digits.len() == 16).then_some(number)
}

/// Open segments, at most [`OPEN_MAX`]; the oldest goes first.
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    open: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Files {
        Files {
            disk,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    /// See [`Disk::sync_time`].
    pub(crate) fn sync_time(&self) -> Duration {
        self.disk.sync_time()
    }

    /// Returns the segment, opening it when it is not.
    pub(crate) fn segment(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        let file: Arc<dyn DiskFile> =
            Arc::from(self.disk.open(&segment_path(number), Open::Existing)?);
        open.insert(number, file.clone());
        if open.len() > OPEN_MAX {
            open.pop_first();
        }
        Ok(file)
    }

    /// Closes a segment that is about to be unlinked, so that its space comes back.
    pub(crate) fn forget(&self, number: u64) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
    }
}
