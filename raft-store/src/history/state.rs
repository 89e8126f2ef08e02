//! `state/` as a node opens it: in the background, since all of it is read and checked; what cannot be used
//! is begun anew and filled from snapshot and log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, is_full};
use crate::log::give_up_reserve;

use super::files::is_environment;
use super::{History, HistoryOptions, LateHistory, Opened, SledHistory};

impl LateHistory {
    /// Opens the history in `directory`, on the disk that `disk` is on, on a thread of its own; `unusable`
    /// hears why it cannot be opened, when no new one would be any better.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn of_directory(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        options: HistoryOptions,
        unusable: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        LateHistory::new(move || {
            let opened = open(&*disk, &directory, options);
            if let Err(why) = &opened {
                unusable(why.clone());
            }
            opened
        })
    }
}

fn open(
    disk: &dyn Disk,
    directory: &Path,
    options: HistoryOptions,
) -> Result<Arc<dyn History>, String> {
    let opened = match SledHistory::open(directory, options.clone()) {
        // A node on a full disk starts, votes and serves: sled needs little to open.
        Err(why) if is_full(&why) && give_up_reserve(disk, &why).unwrap_or(false) => {
            SledHistory::open(directory, options)
        }
        opened => opened,
    };
    let opened = opened.map_err(|why| match is_environment(&why) {
        true => format!("{}: {why}", directory.display()),
        false => format!(
            "{}: {why}; move this one away: it is filled again from snapshot and log",
            directory.display()
        ),
    });
    match opened? {
        Opened::Ready(history) => Ok(Arc::new(history)),
        Opened::Rebuilt { history, why } => {
            tracing::warn!(%why, "the history in state/ could not be used and is rebuilt from snapshot and log");
            Ok(Arc::new(history))
        }
    }
}
