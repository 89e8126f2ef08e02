//! The files of the Raft log: segments, MANIFEST and votes.
//!
//! The first byte of an input says which file of a written log is replaced, the second whether crcs
//! (1) and the chain of batches (2) are made right first, and whether the file keeps its length (4).
//!
//! What must hold: opening refuses with an error that says something, or gives a log whose entries
//! follow each other, can all be read and go on; opened once more it holds the same.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use pennon_raft_store::disk::{Disk, MemoryDisk};
use pennon_raft_store::log::{
    Done, Flushing, LogEntry, LogId, LogIdentity, LogOptions, LogState, LogStore, OpenError,
    SegmentLog, Vote,
};

use crate::targets::{Memory, Seen};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: 0xc1,
    node: 1,
};

/// The disk is memory and the log is opened twice; segments are 8 KiB, and zeros are written by the
/// mebibyte.
const OPENING: Memory = Memory {
    fixed: 4 << 20,
    refused: 0,
    held_per_byte: 16,
    sum_per_byte: 256,
};

const BATCHES_START: usize = 4096;

fn open(disk: &MemoryDisk) -> Result<SegmentLog, OpenError> {
    let options = LogOptions {
        flushing: Flushing::Inline,
        segment_bytes: 8 << 10,
        cache_bytes_max: 2 << 10,
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    SegmentLog::open(Arc::new(disk.clone()), options, IDENTITY)
}

fn wait(call: impl FnOnce(Done)) -> io::Result<()> {
    let (tell, told) = channel();
    call(Box::new(move |result| {
        let _ = tell.send(result);
    }));
    told.recv().expect("every call is answered")
}

fn entry(term: u64, index: u64) -> LogEntry {
    LogEntry {
        id: LogId { term, index },
        payload: Bytes::from(vec![index as u8; 700]),
    }
}

/// A log of three segments with every kind of record, and the paths of its files.
fn written() -> &'static (MemoryDisk, Vec<String>) {
    static WRITTEN: LazyLock<(MemoryDisk, Vec<String>)> = LazyLock::new(|| {
        let disk = MemoryDisk::new();
        let log = open(&disk).unwrap();
        for term in [1, 3] {
            let vote = Vote {
                term,
                voted_for: Some(1),
                committed: term == 3,
            };
            wait(|done| log.save_vote(vote, done)).unwrap();
        }
        let id = |term, index| LogId { term, index };
        wait(|done| log.append((0..3).map(|n| entry(1, n)).collect(), done)).unwrap();
        wait(|done| log.truncate_after(Some(id(1, 1)), done)).unwrap();
        log.save_committed(Some(id(1, 1)));
        for index in 2..11 {
            wait(|done| log.append(vec![entry(2, index)], done)).unwrap();
        }
        wait(|done| log.purge(id(1, 0), done)).unwrap();
        log.close();
        let of = |dir: &str| {
            let names = disk.list(dir).unwrap().into_iter();
            names
                .map(|name| format!("{dir}/{name}"))
                .collect::<Vec<_>>()
        };
        let paths = [of("hard"), of("log")].concat();
        (disk.copy(), paths)
    });
    &WRITTEN
}

/// Everything a log says, unless it cannot be read.
fn told(log: &SegmentLog) -> (LogState, Vec<LogEntry>) {
    let entries = log.read(0, u64::MAX, usize::MAX).unwrap();
    let state = log.state();
    let follow = |pair: &[LogEntry]| pair[0].id.index + 1 == pair[1].id.index;
    assert!(entries.windows(2).all(follow), "a gap");
    let last = entries.last().map(|entry| entry.id).or(state.purged);
    assert_eq!(state.last, last);
    (state, entries)
}

pub(crate) fn log(input: &[u8], seen: &mut Seen) {
    let Some(([which, mend], bytes)) = input.split_first_chunk() else {
        return;
    };
    let (disk, paths) = written();
    let path = &paths[usize::from(*which) % paths.len()];
    let mut bytes = bytes.to_vec();
    if mend & 4 == 4 {
        bytes.resize(disk.contents(path).unwrap().len(), 0);
    }
    if mend & 1 == 1 {
        sealed(path, &mut bytes, mend & 2 == 2);
    }
    OPENING.bounds(bytes.len(), || opened(disk, path, &bytes, seen));
}

fn opened(disk: &MemoryDisk, path: &str, bytes: &[u8], seen: &mut Seen) {
    let disk = disk.copy();
    disk.overwrite(path, bytes);
    let log = match open(&disk) {
        Ok(log) => log,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return seen.note("refused");
        }
    };
    seen.note("opened");
    let before = told(&log);
    log.close();
    let log = open(&disk).expect("what was opened can be opened");
    assert_eq!(told(&log), before);
    let term = before.0.last.map_or(0, |id| id.term);
    let Some(index) = before.0.last.map_or(Some(0), |id| id.index.checked_add(1)) else {
        return;
    };
    if index == u64::MAX || wait(|done| log.append(vec![entry(term, index)], done)).is_err() {
        return seen.note("full");
    }
    let more = told(&log);
    assert_eq!(more.1.len(), before.1.len() + 1);
    drop(log);
    assert_eq!(told(&open(&disk).expect("it went on")), more);
}

pub(crate) fn logs() -> Vec<Vec<u8>> {
    let (disk, paths) = written();
    let mut inputs = Vec::new();
    for (which, path) in paths.iter().enumerate() {
        let mut bytes = disk.contents(path).unwrap();
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |n| n + 1);
        bytes.truncate(end);
        for mend in [4, 5, 7] {
            inputs.push([&[which as u8, mend][..], &bytes].concat());
        }
    }
    inputs
}

fn sealed(path: &str, bytes: &mut [u8], chain: bool) {
    match path
        .strip_prefix("log/")
        .and_then(|name| name.strip_suffix(".seg"))
    {
        Some(number) => {
            let number = u64::from_str_radix(number, 16).unwrap();
            sealed_segment(number, bytes, chain);
        }
        None => {
            for at in [0, BATCHES_START] {
                if let Some(slot) = bytes.get_mut(at..at + 128) {
                    let crc = crc32fast::hash(&slot[..124]);
                    slot[124..].copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
    }
}

fn sealed_segment(number: u64, bytes: &mut [u8], chain: bool) {
    if bytes.len() < BATCHES_START {
        return;
    }
    let crc = crc32fast::hash(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&crc);
    let mut previous = [bytes[88], bytes[89], bytes[90], bytes[91]];
    let mut at = BATCHES_START;
    while bytes.get(at..at + 4) == Some(b"PnBt") && at + 48 <= bytes.len() {
        let (header, rest) = bytes[at..].split_at_mut(48);
        let mut len = [0; 4];
        len.copy_from_slice(&header[12..16]);
        let Some(body) = rest.get(..u32::from_le_bytes(len) as usize) else {
            return;
        };
        header[36..40].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        if chain {
            header[32..36].copy_from_slice(&previous);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&IDENTITY.cluster.to_le_bytes());
        crc.update(&IDENTITY.node.to_le_bytes());
        crc.update(&number.to_le_bytes());
        crc.update(&(at as u64).to_le_bytes());
        crc.update(&header[..44]);
        previous = crc.finalize().to_le_bytes();
        header[44..].copy_from_slice(&previous);
        at += (48 + body.len()).next_multiple_of(8);
    }
}
