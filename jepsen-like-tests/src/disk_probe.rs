//! What the disk itself can do: the least a durable write can cost, measured beside every bench.
//!
//! As the Raft log does, it writes into a file whose blocks exist already, so that a sync costs one
//! disk write and no journal commit.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::failure::{Failure, Result};

/// Bytes per write.
pub const WRITE_LEN: usize = 512;
/// Bytes of the file.
const FILE_LEN: u64 = 4 << 20;

/// The longest time that is told apart: a minute.
const NANOS_MAX: u64 = 60_000_000_000;

/// How fast small durable writes are, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpeed {
    /// Writes a second.
    pub per_second: f64,
    /// The median time of one.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// Writes 512 bytes and syncs them (fdatasync), again and again, in a file of this directory.
///
/// # Errors
/// When the file cannot be made, written or synced.
pub fn measure(directory: &Path, how_long: Duration) -> Result<DiskSpeed> {
    let path = directory.join("disk-probe");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_LEN).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let mut times: Histogram<u64> =
        Histogram::new_with_bounds(1, NANOS_MAX, 3).map_err(Failure::new)?;
    let bytes = [0x5a; WRITE_LEN];
    let (begin, mut at) = (Instant::now(), 0);
    while begin.elapsed() < how_long {
        let one = Instant::now();
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        times.saturating_record(u64::try_from(one.elapsed().as_nanos()).unwrap_or(u64::MAX));
        at = (at + WRITE_LEN as u64) % FILE_LEN;
    }
    let per_second = times.len() as f64 / begin.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    Ok(DiskSpeed {
        per_second,
        p50: at(0.5),
        p99: at(0.99),
    })
}
