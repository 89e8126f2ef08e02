//! Bounds how many clusters run on one machine at a time, whatever runs them: threads of one test
//! binary, test processes of nextest, two people on one machine.
//!
//! A place is a lock of the system on a file, so it is free again when its holder ends, however it
//! ends. `PENNON_TEST_CLUSTERS` sets how many places there are; two unless set.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use crate::failure::{Result, until};

const PLACES_DEFAULT: usize = 2;
/// Longest wait for a place: others may hold theirs for a whole test.
const WAIT_MAX: Duration = Duration::from_secs(170);

/// The right to run one cluster; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _file: File,
}

impl Place {
    /// Waits for a free place.
    ///
    /// # Errors
    /// When none gets free in time, or the lock files cannot be made.
    pub async fn take() -> Result<Place> {
        let asked = std::env::var("PENNON_TEST_CLUSTERS").ok();
        let places = asked
            .and_then(|text| text.parse().ok())
            .unwrap_or(PLACES_DEFAULT)
            .max(1);
        let look = || async move {
            for n in 0..places {
                if let Some(place) = Place::try_take(n).map_err(|why| why.to_string())? {
                    return Ok(place);
                }
            }
            Err(format!("all {places} places are taken"))
        };
        until("a place to run a cluster", WAIT_MAX, look).await
    }

    fn try_take(n: usize) -> std::io::Result<Option<Place>> {
        let user = rustix::process::getuid().as_raw();
        let path = std::env::temp_dir().join(format!("pennon-test-place-{user}-{n}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Place { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(why)) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_holder_s_until_it_is_dropped() {
        // A number that no cluster uses.
        let n = 1_000 + std::process::id() as usize;
        let held = Place::try_take(n).unwrap();
        assert!(held.is_some());
        assert!(Place::try_take(n).unwrap().is_none());
        drop(held);
        assert!(Place::try_take(n).unwrap().is_some());
    }
}
