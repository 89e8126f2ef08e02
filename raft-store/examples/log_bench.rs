//! How many appends a second the log makes durable, next to what the disk can do at all.
//!
//! `cargo run --release -p pennon-raft-store --example log_bench [directory [seconds [payload bytes]]]`
//!
//! First a raw probe: one thread, write + fdatasync of one small block in a file that already has its
//! length. Then for each number of writers: each appends one entry and waits until it is durable. The
//! directory must be on the disk that is meant; it is removed afterwards.

#![allow(
    clippy::print_stdout,
    reason = "a report on the terminal is what this program is for"
)]

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pennon_raft_store::disk::RealDisk;
use pennon_raft_store::log::{LogEntry, LogId, LogIdentity, LogOptions, LogStore, SegmentLog};

const WRITERS: [usize; 4] = [1, 16, 64, 256];
const PROBE_BYTES: usize = 512;
const PROBE_FILE: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let root = PathBuf::from(args.next().unwrap_or_else(|| "log-bench".to_owned()));
    let time = Duration::from_secs_f64(args.next().map_or(Ok(3.0), |text| text.parse())?);
    let payload = args.next().map_or(Ok(256), |text| text.parse())?;
    std::fs::create_dir_all(&root)?;
    println!(
        "{} s each, {payload} byte payloads, in {}",
        time.as_secs_f64(),
        root.display()
    );
    println!("raw write + fdatasync: {:>9.0} /s", probe(&root, time)?);
    for writers in WRITERS {
        let dir = root.join(format!("writers-{writers}"));
        let mut times = appends(&dir, writers, time, payload)?;
        times.sort_unstable();
        let at = |share: f64| {
            times
                .get((times.len() as f64 * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        let rate = times.len() as f64 / time.as_secs_f64();
        println!(
            "{writers:>3} writers: {rate:>9.0} appends/s   p50 {:?}  p99 {:?}  p99.9 {:?}  max {:?}",
            at(0.5),
            at(0.99),
            at(0.999),
            times.last().copied().unwrap_or_default()
        );
    }
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

fn probe(root: &Path, time: Duration) -> Result<f64, Box<dyn Error>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(root.join("probe"))?;
    file.write_all_at(&vec![0; PROBE_FILE as usize], 0)?;
    file.sync_all()?;
    let begin = Instant::now();
    let (mut count, mut offset) = (0u64, 0);
    while begin.elapsed() < time {
        file.write_all_at(&[1; PROBE_BYTES], offset)?;
        file.sync_data()?;
        offset = (offset + PROBE_BYTES as u64) % PROBE_FILE;
        count += 1;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Returns how long each append took.
fn appends(
    dir: &Path,
    writers: usize,
    time: Duration,
    payload: usize,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let disk = Arc::new(RealDisk::new(dir)?);
    let log = SegmentLog::open(
        disk,
        LogOptions::default(),
        LogIdentity {
            cluster: 1,
            node: 1,
        },
    )?;
    let next = Mutex::new(0);
    let payload = Bytes::from(vec![7; payload]);
    let end = Instant::now() + time;
    let times = std::thread::scope(|scope| {
        let write = || {
            let (tell, told) = channel();
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                let tell = tell.clone();
                let done = Box::new(move |result| {
                    let _ = tell.send(result);
                });
                {
                    // The index and its place in the queue are taken together.
                    let mut next = next.lock().map_err(|_| "a writer panicked")?;
                    let id = LogId {
                        term: 1,
                        index: *next,
                    };
                    *next += 1;
                    log.append(
                        vec![LogEntry {
                            id,
                            payload: payload.clone(),
                        }],
                        done,
                    );
                }
                told.recv()??;
                times.push(begin.elapsed());
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(times)
        };
        let threads: Vec<_> = (0..writers).map(|_| scope.spawn(write)).collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a writer panicked".into()))
        });
        joined.collect::<Result<Vec<_>, _>>()
    });
    log.close();
    Ok(times.map_err(|e| e.to_string())?.concat())
}
