//! Snapshot files, as a peer sends them or a disk gives them back, and the identity of a directory.
//!
//! The first byte of a snapshot file says whether crcs (1) and counts (2) are made right first and
//! whether it lies on the disk (4) or comes from a peer; the second, how long the pieces are.
//!
//! What must hold: a file is refused whole, or all its records can be read; what is refused leaves
//! nothing behind. An identity that can be read is stored as it was read.

use std::sync::Arc;

use pennon_raft_store::disk::{Disk, MemoryDisk, Open};
use pennon_raft_store::identity::Identity;
use pennon_raft_store::snapshot_file::{SnapshotReader, SnapshotStore};

use super::commands::{all_records, head};
use crate::targets::{Memory, Seen};

/// The disk is memory, so the file itself counts, as do buffers of 256 KiB.
const READING: Memory = Memory {
    fixed: 1 << 20,
    refused: 0,
    held_per_byte: 16,
    sum_per_byte: 64,
};

const VERSION: u64 = 9;

pub(crate) fn snapshot_file(input: &[u8], seen: &mut Seen) {
    let Some(([steer, piece], bytes)) = input.split_first_chunk() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if steer & 1 == 1 {
        sealed(&mut bytes, steer & 2 == 2);
    }
    let disk = MemoryDisk::new();
    let store = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
    let reader = READING.bounds(bytes.len(), || match steer & 4 {
        4 => lying(&disk, &store, &bytes),
        _ => received(&disk, &store, &bytes, usize::from(*piece) + 1),
    });
    let Some(reader) = reader else {
        return seen.note("refused");
    };
    seen.note("read");
    READING.bounds(bytes.len(), || {
        assert_eq!(reader.len_bytes(), bytes.len() as u64);
        let records = reader.records().map(|record| record.unwrap().len());
        assert!(records.sum::<usize>() <= bytes.len());
        let mut raw = vec![0; bytes.len()];
        assert_eq!(reader.read_raw(0, &mut raw).unwrap(), bytes.len());
        assert_eq!(raw, bytes);
    });
}

fn lying(disk: &MemoryDisk, store: &SnapshotStore, bytes: &[u8]) -> Option<SnapshotReader> {
    let path = format!("snapshots/{VERSION:020}.snap");
    let file = disk.open(&path, Open::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    match store.newest() {
        Ok(reader) => reader,
        Err(error) => {
            assert!(error.is_damage() && !error.to_string().is_empty());
            None
        }
    }
}

fn received(
    disk: &MemoryDisk,
    store: &SnapshotStore,
    bytes: &[u8],
    piece: usize,
) -> Option<SnapshotReader> {
    let mut receiver = store.receive().unwrap();
    for piece in bytes.chunks(piece) {
        receiver.push(piece).unwrap();
    }
    match receiver.finish() {
        Ok(info) => {
            let reader = store.open_version(info.version).unwrap();
            assert_eq!(reader.info(), info);
            Some(reader)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(disk.list("snapshots").unwrap(), Vec::<String>::new());
            None
        }
    }
}

pub(crate) fn snapshot_files() -> Vec<Vec<u8>> {
    let disk = MemoryDisk::new();
    let store = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
    let mut files = Vec::new();
    for (n, records) in [all_records(), Vec::new(), vec![vec![7; 3]; 5]]
        .iter()
        .enumerate()
    {
        let version = VERSION + n as u64;
        let mut writer = store.create(version, &head()).unwrap();
        records
            .iter()
            .for_each(|record| writer.push(record).unwrap());
        writer.finish().unwrap();
        let path = format!("snapshots/{version:020}.snap");
        files.push(disk.contents(&path).unwrap());
    }
    let mut inputs = Vec::new();
    for steer in [[0, 255], [1, 20], [3, 255], [7, 0]] {
        inputs.extend(files.iter().map(|file| [&steer[..], file].concat()));
    }
    inputs
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field) as usize
}

/// Writes the crc of what is before it in a line.
fn seal(line: &mut [u8]) {
    let (rest, crc) = line.split_last_chunk_mut::<4>().unwrap();
    *crc = crc32fast::hash(rest).to_le_bytes();
}

/// Makes the crcs of a snapshot file right, as far as its lengths lead, and if asked its counts.
fn sealed(bytes: &mut [u8], counts: bool) {
    const LINE: usize = 25;
    const FOOTER: usize = 41;
    if bytes.len() < LINE {
        return;
    }
    seal(&mut bytes[..LINE]);
    let header = u32_at(bytes, 17);
    let mut at = LINE.saturating_add(header).saturating_add(4);
    if at > bytes.len() {
        return;
    }
    seal(&mut bytes[LINE..at]);
    let (mut blocks, mut records) = (0_u64, 0_u64);
    while bytes.get(at) == Some(&b'B') && at + LINE <= bytes.len() {
        let end = at + LINE + u32_at(bytes, at + 9);
        if end > bytes.len() {
            return;
        }
        let (head, body) = bytes[at..end].split_at_mut(LINE);
        if counts {
            let count = count(body);
            head[1..9].copy_from_slice(&blocks.to_le_bytes());
            head[13..17].copy_from_slice(&count.to_le_bytes());
            records += u64::from(count);
        }
        head[17..21].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        seal(head);
        blocks += 1;
        at = end;
    }
    if bytes.len() == at + FOOTER {
        let (before, footer) = bytes.split_at_mut(at);
        if counts {
            footer[9..17].copy_from_slice(&blocks.to_le_bytes());
            footer[17..25].copy_from_slice(&records.to_le_bytes());
            footer[25..33].copy_from_slice(&((at + FOOTER) as u64).to_le_bytes());
        }
        footer[33..37].copy_from_slice(&crc32fast::hash(before).to_le_bytes());
        seal(footer);
    }
}

fn count(mut body: &[u8]) -> u32 {
    let mut count = 0;
    while body.len() >= 4 {
        let len = u32_at(body, 0);
        body = body.get(4 + len..).unwrap_or_default();
        count += 1;
    }
    count
}

pub(crate) fn identity(input: &[u8], seen: &mut Seen) {
    let Some((mend, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mend & 1 == 1 && bytes.len() >= 4 {
        seal(&mut bytes);
    }
    let disk = MemoryDisk::new();
    let file = disk.open("identity", Open::CreateNew).unwrap();
    file.write_at(&bytes, 0).unwrap();
    let load = || Identity::load(&disk);
    match READING.bounds_reading(bytes.len(), load) {
        Ok(found) => {
            seen.note("identity");
            let found = found.expect("there is a file");
            match found.save(&disk) {
                Ok(()) => assert_eq!(Identity::load(&disk).unwrap(), Some(found)),
                Err(_) => assert!(found.name.is_empty(), "{found:?} was read"),
            }
        }
        Err(error) => {
            seen.note("refused");
            assert!(!error.to_string().is_empty());
        }
    }
}

pub(crate) fn identities() -> Vec<Vec<u8>> {
    let identities = [
        Identity::new(Some(7), 1, "a"),
        Identity::new(None, u64::MAX, "n".repeat(255)),
    ];
    let bytes = identities.map(|identity| {
        let disk = MemoryDisk::new();
        identity.save(&disk).unwrap();
        [&[1][..], &disk.contents("identity").unwrap()].concat()
    });
    bytes.to_vec()
}
