//! A disk that runs full under an open log: everything whose space was taken is taken, the reserve comes
//! after it, nothing acknowledged is lost, and space that returns is enough to go on.

use std::time::{Duration, Instant};

use pennon_raft_store::disk::{Disk, MemoryDisk};
use pennon_raft_store::log::{Flushing, LogOptions, LogStore, SegmentLog};

use crate::common::{entries, open, told, wait};

const SEGMENT: u64 = 64 << 10;
const RESERVE: u64 = 80 << 10;

fn threaded() -> LogOptions {
    LogOptions {
        flushing: Flushing::Thread,
        segment_bytes: SEGMENT,
        reserve_bytes: RESERVE,
        ..LogOptions::default()
    }
}

/// Waits for a condition that the threads of the log bring about.
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A log on a disk that has no space for a second segment.
fn starved() -> (MemoryDisk, SegmentLog) {
    let disk = MemoryDisk::new();
    drop(open(&disk, &threaded()).unwrap());
    disk.set_capacity(Some(disk.used_bytes()));
    let names = disk.list("log").unwrap();
    if names
        .iter()
        .any(|name| name.starts_with("0000000000000002"))
    {
        disk.remove("log/0000000000000002.seg").unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
    }
    let log = open(&disk, &threaded()).unwrap();
    until("starved", || log.is_starved());
    (disk, log)
}

fn append(log: &SegmentLog, index: u64, len: usize) -> std::io::Result<()> {
    wait(|done| log.append(entries(1, index..index + 1, len), done))
}

#[test]
fn what_the_log_has_room_for_it_takes_and_then_the_reserve() {
    let (disk, log) = starved();
    let mut index = 0;
    while log.room_bytes() > 4096 {
        append(&log, index, 1000).unwrap();
        index += 1;
    }
    assert!(index > 10 && disk.exists("log/RESERVE").unwrap());
    // Without asking, as elections would.
    let before = index;
    while disk.exists("log/RESERVE").unwrap() {
        append(&log, index, 1000).unwrap();
        index += 1;
        assert!(index < before + 10, "the segment was full long ago");
    }
    append(&log, index, 1000).unwrap();
    index += 1;
    // Beyond the reserve there is nothing: the log ends, and has everything that it acknowledged.
    let mut last = Ok(());
    while last.is_ok() && index < 1000 {
        last = append(&log, index, 1000);
        index += u64::from(last.is_ok());
    }
    assert!(last.is_err() && log.poisoned().is_some());
    drop(log);
    for image in [disk.copy(), disk.crash_synced()] {
        image.set_capacity(None);
        let log = open(&image, &threaded()).unwrap();
        assert_eq!(told(&log).entries, entries(1, 0..index, 1000));
    }
}

#[test]
fn space_that_returns_is_enough() {
    let (disk, log) = starved();
    append(&log, 0, 1000).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 2 * SEGMENT));
    until("a next segment", || {
        !log.is_starved() && log.room_bytes() == SEGMENT
    });
    disk.set_capacity(None);
    for index in 1..500 {
        append(&log, index, 1000).unwrap();
    }
    assert!(log.poisoned().is_none());
    until("the reserve", || disk.exists("log/RESERVE").unwrap());
    drop(log);
    let log = open(&disk.crash_synced(), &threaded()).unwrap();
    assert_eq!(told(&log).entries, entries(1, 0..500, 1000));
}

#[test]
fn a_reserve_that_was_given_up_is_made_again() {
    let (disk, log) = starved();
    let mut index = 0;
    while disk.exists("log/RESERVE").unwrap() {
        append(&log, index, 1000).unwrap();
        index += 1;
    }
    disk.set_capacity(None);
    until("the reserve", || disk.exists("log/RESERVE").unwrap());
    append(&log, index, 1000).unwrap();
    assert!(log.poisoned().is_none());
}
