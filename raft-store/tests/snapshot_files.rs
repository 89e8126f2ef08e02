//! Snapshot files against what can happen to them: any damage, a crash at any step, any failure of
//! the disk, hostile bytes from a peer, any way of cutting the bytes into pieces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail the test"
)]

use std::io;
use std::sync::Arc;

use pennon_raft_store::disk::{Disk, Fault, FaultAt, Kept, MemoryDisk, Open, RealDisk};
use pennon_raft_store::snapshot_file::{
    HEADER_LEN_MAX, SnapshotError, SnapshotInfo, SnapshotReader, SnapshotStore,
};
use proptest::prelude::*;

fn store(disk: &MemoryDisk) -> SnapshotStore {
    SnapshotStore::open(Arc::new(disk.clone())).unwrap()
}

fn path(version: u64) -> String {
    format!("snapshots/{version:020}.snap")
}

fn header(version: u64) -> Vec<u8> {
    format!("header of {version}").into_bytes()
}

/// What the snapshot at a version holds, in these tests.
fn contents(version: u64) -> Vec<Vec<u8>> {
    (0..5 + version % 7)
        .map(|i| format!("record {i} at {version}").into_bytes())
        .collect()
}

fn try_write(store: &SnapshotStore, version: u64) -> io::Result<SnapshotInfo> {
    let mut writer = store.create(version, &header(version))?;
    for record in contents(version) {
        writer.push(&record)?;
    }
    writer.finish()
}

fn write(store: &SnapshotStore, version: u64) -> SnapshotInfo {
    try_write(store, version).unwrap()
}

fn records(reader: &SnapshotReader) -> Vec<Vec<u8>> {
    reader
        .records()
        .map(|record| record.unwrap().to_vec())
        .collect()
}

fn assert_whole(reader: &SnapshotReader) {
    let version = reader.version();
    assert_eq!(reader.header(), header(version));
    assert_eq!(records(reader), contents(version));
}

/// All bytes of a file, read in pieces as for a peer.
fn raw(reader: &SnapshotReader, piece: usize) -> Vec<u8> {
    let (mut bytes, mut buf) = (Vec::new(), vec![0; piece]);
    loop {
        match reader.read_raw(bytes.len() as u64, &mut buf).unwrap() {
            0 => return bytes,
            n => bytes.extend_from_slice(&buf[..n]),
        }
    }
}

fn receive(store: &SnapshotStore, bytes: &[u8], piece: usize) -> io::Result<SnapshotInfo> {
    let mut receiver = store.receive()?;
    for piece in bytes.chunks(piece.max(1)) {
        receiver.push(piece)?;
    }
    receiver.finish()
}

/// Makes these the durable bytes of a file, which need not be there.
fn place(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
    disk.open(path, Open::CreateOrOpen).unwrap();
    disk.overwrite(path, bytes);
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    disk.list("snapshots").unwrap()
}

/// The one complaint has to say which file, and where in it.
fn assert_names_the_place(error: &SnapshotError, version: u64, len: usize) {
    let SnapshotError::Damaged { file, offset, .. } = error else {
        panic!("not damage: {error}")
    };
    assert_eq!(*file, path(version));
    assert!(*offset <= len as u64, "{error}");
    assert!(
        error.to_string().contains("is damaged at offset"),
        "{error}"
    );
}

/// Puts `bytes` in the place of the newer of two files: it is refused, the older one is used.
fn assert_refused(version: u64, bytes: &[u8], what: &str) {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    write(&store, 3);
    place(&disk, &path(version), bytes);
    let error = store
        .open_version(version)
        .err()
        .unwrap_or_else(|| panic!("accepted: {what}"));
    assert_names_the_place(&error, version, bytes.len());
    let reader = store.newest().unwrap().unwrap();
    assert_eq!(reader.version(), 3, "{what}");
    assert_whole(&reader);
    assert_names_the_place(&reader.complaints()[0], version, bytes.len());

    let error = receive(&store, bytes, 50)
        .err()
        .unwrap_or_else(|| panic!("received: {what}"));
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    assert!(error.to_string().contains("offset"), "{error}");
    assert!(
        !names(&disk).iter().any(|name| name.ends_with(".aside")),
        "{what}: something is left"
    );
}

fn whole_bytes(version: u64) -> Vec<u8> {
    let disk = MemoryDisk::new();
    write(&store(&disk), version);
    disk.contents(&path(version)).unwrap()
}

#[test]
fn a_flip_of_any_byte_is_refused() {
    let whole = whole_bytes(9);
    for at in 0..whole.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            assert_refused(9, &bytes, &format!("byte {at} flipped by {mask:#x}"));
        }
    }
}

#[test]
fn a_file_of_any_other_length_is_refused() {
    let whole = whole_bytes(9);
    for length in 0..whole.len() {
        assert_refused(9, &whole[..length], &format!("cut to {length}"));
        let mut zeroed = whole.clone();
        zeroed[length..].fill(0);
        if zeroed != whole {
            assert_refused(9, &zeroed, &format!("zeroes from {length}"));
        }
    }
    assert_refused(9, &[&whole[..], &[0]].concat(), "a byte too many");
    assert_refused(9, &[&whole[..], &whole[..]].concat(), "twice");
}

#[test]
fn a_whole_file_under_the_name_of_another_version_is_refused() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    write(&store, 3);
    place(&disk, &path(9), &whole_bytes(8));
    assert_names_the_place(&store.open_version(9).unwrap_err(), 9, 9);
    assert_eq!(store.newest().unwrap().unwrap().version(), 3);
}

#[test]
fn files_that_are_all_damaged_are_not_no_files() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    assert!(store.newest().unwrap().is_none());
    write(&store, 1);
    write(&store, 2);
    place(&disk, &path(1), b"PNNSNAPS");
    place(&disk, &path(2), b"");
    let error = store.newest().unwrap_err();
    let SnapshotError::NoneWhole { complaints } = &error else {
        panic!("{error}")
    };
    assert_eq!(complaints.len(), 2);
    assert!(
        error.to_string().contains(&path(1)) && error.to_string().contains(&path(2)),
        "{error}"
    );
}

/// Blocks that are intact but not where they were written, and one that is there twice.
#[test]
fn moved_blocks_are_refused() {
    let disk = MemoryDisk::new();
    let mut writer = store(&disk).create(9, b"").unwrap();
    for filler in [1u8, 2, 3] {
        writer.push(&vec![filler; 300_000]).unwrap();
    }
    writer.finish().unwrap();
    let whole = disk.contents(&path(9)).unwrap();
    let block = 25 + 4 + 300_000;
    let (head, rest) = whole.split_at(29);
    let (one, rest) = rest.split_at(block);
    let (two, rest) = rest.split_at(block);
    assert_eq!(rest.len(), block + 41);
    assert_refused(9, &[head, two, one, rest].concat(), "swapped");
    assert_refused(9, &[head, one, one, rest].concat(), "repeated");
    assert_refused(9, &[head, one, rest].concat(), "missing");
    assert_refused(
        9,
        &[head, one, two, &rest[block..]].concat(),
        "the last one missing",
    );
}

/// A peer that knows the format: every crc is right, only the content lies.
#[test]
fn lies_under_good_crcs_are_refused_and_allocate_nothing() {
    fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
        let at = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
    let head = |format: u8, header_len: u32| {
        let fields = [
            &b"PNNSNAPS"[..],
            &[format],
            &9u64.to_le_bytes(),
            &header_len.to_le_bytes(),
            &[0; 4],
        ];
        seal(fields.concat())
    };
    let empty_header = [head(1, 0), 0u32.to_le_bytes().to_vec()].concat();
    let block = |number: u64, length: u32, count: u32, body: &[u8]| {
        let crc = crc32fast::hash(body).to_le_bytes();
        let fields = [
            &b"B"[..],
            &number.to_le_bytes(),
            &length.to_le_bytes(),
            &count.to_le_bytes(),
            &crc,
            &[0; 4],
        ];
        [&seal(fields.concat()), body].concat()
    };
    let footer = |before: &[u8], blocks: u64, records: u64, grown: u64| {
        let length = (before.len() as u64 + 41 + grown).to_le_bytes();
        let crc = crc32fast::hash(before).to_le_bytes();
        let fields = [
            &b"E"[..],
            b"PNNSEND.",
            &blocks.to_le_bytes(),
            &records.to_le_bytes(),
            &length,
            &crc,
            &[0; 4],
        ];
        seal(fields.concat())
    };
    let file = |blocks: &[u8], count: u64, records: u64, grown: u64| {
        let before = [&empty_header, blocks].concat();
        [&before[..], &footer(&before, count, records, grown)].concat()
    };
    let one = [&3u32.to_le_bytes()[..], b"one"].concat();

    let disk = MemoryDisk::new();
    receive(&store(&disk), &file(&block(0, 7, 1, &one), 1, 1, 0), 9)
        .expect("the honest one is taken");

    for (what, bytes) in [
        ("another format", [head(2, 0), vec![0; 200]].concat()),
        (
            "a header of 4 GiB",
            [head(1, u32::MAX), vec![0; 200]].concat(),
        ),
        (
            "a header longer than the file",
            [head(1, HEADER_LEN_MAX as u32), vec![0; 200]].concat(),
        ),
        (
            "a block of 4 GiB",
            file(&block(0, u32::MAX, 1, &one), 1, 1, 0),
        ),
        (
            "a block longer than the file",
            file(&block(0, 200 << 20, 1, &one), 1, 1, 0),
        ),
        (
            "a record longer than its block",
            file(&block(0, 7, 1, b"\xFF\xFF\xFF\xFFone"), 1, 1, 0),
        ),
        (
            "more records than there are",
            file(&block(0, 7, 2, &one), 1, 2, 0),
        ),
        (
            "fewer records than there are",
            file(&block(0, 7, 0, &one), 1, 0, 0),
        ),
        ("an empty block", file(&block(0, 0, 0, b""), 1, 0, 0)),
        (
            "a tail in a block",
            file(&block(0, 9, 1, &[&one[..], b"xx"].concat()), 1, 1, 0),
        ),
        (
            "a block out of its place",
            file(&block(1, 7, 1, &one), 1, 1, 0),
        ),
        (
            "too few records in all",
            file(&block(0, 7, 1, &one), 1, 5, 0),
        ),
        ("too few blocks", file(&block(0, 7, 1, &one), 2, 1, 0)),
        (
            "a file that should be longer",
            file(&block(0, 7, 1, &one), 1, 1, 1),
        ),
    ] {
        assert_refused(9, &bytes, what);
    }
    let rotten_header = [head(1, 0), 1u32.to_le_bytes().to_vec()].concat();
    let rotten_header = [&rotten_header[..], &footer(&rotten_header, 0, 0, 0)].concat();
    assert_refused(9, &rotten_header, "the crc of the header");
    let crc_of_another = [&empty_header[..], &footer(&head(1, 0), 0, 0, 4)].concat();
    assert_refused(9, &crc_of_another, "the crc of another file");
}

#[test]
fn what_was_not_finished_leaves_nothing() {
    let disk = MemoryDisk::new();
    let first = store(&disk);
    write(&first, 1);
    let bytes = whole_bytes(5);
    let mut writer = first.create(2, b"h").unwrap();
    writer.push(b"r").unwrap();
    let mut receiver = first.receive().unwrap();
    receiver.push(&bytes[..40]).unwrap();
    assert_eq!((names(&disk).len(), receiver.received()), (3, 40));
    drop((writer, receiver));
    assert_eq!(names(&disk), ["00000000000000000001.snap"]);

    // The process dies: nothing is dropped, and the next one cleans up.
    let mut writer = first.create(2, b"h").unwrap();
    writer.push(&vec![1; 400_000]).unwrap();
    let mut receiver = first.receive().unwrap();
    receiver.push(&bytes).unwrap();
    let after = disk.copy();
    assert_eq!(names(&after).len(), 3);
    let second = store(&after);
    assert_eq!(names(&after), ["00000000000000000001.snap"]);
    assert_eq!(second.newest().unwrap().unwrap().version(), 1);
    drop((writer, receiver));
}

/// The power is cut after every operation, and of what was not synced survives nothing, all, or
/// some: whoever was told of a snapshot finds it, or a newer one, whole.
#[test]
fn a_crash_at_any_step_keeps_the_newest_finished_one() {
    let disk = MemoryDisk::new();
    disk.record();
    let live = store(&disk);
    let mut finished = vec![(disk.journal_len(), 0)];
    for version in [10, 20, 30] {
        write(&live, version);
        finished.push((disk.journal_len(), version));
    }
    receive(&live, &whole_bytes(40), 100).unwrap();
    finished.push((disk.journal_len(), 40));
    drop(live.create(50, b"given up").unwrap());
    let journal = disk.journal();
    let mut checked = 0;
    for cut in 0..=journal.len() {
        let told = finished
            .iter()
            .rev()
            .find(|(at, _)| *at <= cut)
            .map_or(0, |(_, version)| *version);
        for way in 0..24u64 {
            let before = MemoryDisk::new();
            before.replay(&journal[..cut]);
            let mut seed = way;
            let after = before.crash(|_| {
                seed = seed
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                match way {
                    0 => Kept::Nothing,
                    1 => Kept::All,
                    _ if seed >> 62 == 0 => Kept::Prefix((seed >> 20) as usize % 90),
                    _ => Kept::Sectors(seed),
                }
            });
            let store = store(&after);
            let newest = store
                .newest()
                .unwrap_or_else(|error| panic!("cut {cut}, way {way}: {error}"));
            let version = newest.as_ref().map_or(0, SnapshotReader::version);
            assert!(
                version >= told,
                "cut {cut}, way {way}: {version} is newest, {told} was finished"
            );
            if let Some(newest) = newest {
                assert!(
                    newest.complaints().is_empty(),
                    "cut {cut}, way {way}: {:?}",
                    newest.complaints()
                );
                assert_whole(&newest);
            }
            write(&store, 60);
            assert!(!names(&after).iter().any(|name| name.ends_with(".aside")));
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} states");
}

/// Every operation fails once, with a full disk and with a broken one.
#[test]
fn a_failing_disk_never_costs_an_older_snapshot() {
    for (at, errno) in [(FaultAt::Any, 28), (FaultAt::Any, 5), (FaultAt::Sync, 5)] {
        for nth in 1..40 {
            for peer in [false, true] {
                let disk = MemoryDisk::new();
                let store = store(&disk);
                write(&store, 1);
                write(&store, 2);
                disk.fail(Fault {
                    at,
                    nth,
                    errno,
                    sticky: false,
                });
                let result = if peer {
                    receive(&store, &whole_bytes(3), 30)
                } else {
                    try_write(&store, 3)
                };
                disk.heal();
                let newest = store.newest().unwrap().unwrap();
                assert_whole(&newest);
                match result {
                    Ok(_) => assert_eq!(newest.version(), 3, "operation {nth}"),
                    Err(_) => assert!(newest.version() >= 2, "operation {nth}"),
                }
                if result.is_ok() {
                    let synced = SnapshotStore::open(Arc::new(disk.crash_synced())).unwrap();
                    assert_eq!(
                        synced.newest().unwrap().unwrap().version(),
                        3,
                        "operation {nth}"
                    );
                }
                write(&store, 4);
                assert_whole(&store.newest().unwrap().unwrap());
            }
        }
    }
}

#[test]
fn the_newest_two_stay_and_damaged_ones_do_not_count() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    for version in [5, 10, 100] {
        write(&store, version);
    }
    assert_eq!(store.list().unwrap(), [10, 100]);
    // An older one, as a peer may send it, is not removed by its own arrival.
    receive(&store, &whole_bytes(7), 1).unwrap();
    assert_eq!(store.list().unwrap(), [7, 100]);

    place(&disk, &path(100), b"rot");
    assert_eq!(store.newest().unwrap().unwrap().version(), 7);
    write(&store, 110);
    assert_eq!(
        store.list().unwrap(),
        [7, 110],
        "the damaged one went, the whole one stayed"
    );
    // Names that are not ours stay.
    disk.open("snapshots/notes.txt", Open::CreateNew).unwrap();
    write(&store, 120);
    assert_eq!(names(&disk).len(), 3);
}

#[test]
fn a_reader_outlives_the_name_of_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(Arc::new(RealDisk::new(dir.path()).unwrap())).unwrap();
    let info = write(&store, 1);
    let reader = store.open_version(1).unwrap();
    assert_eq!(reader.info(), info);
    assert_eq!(
        info.bytes,
        std::fs::metadata(dir.path().join(path(1))).unwrap().len()
    );
    for version in 2..5 {
        write(&store, version);
    }
    assert!(store.open_version(1).is_err_and(|error| !error.is_damage()));
    assert_eq!(raw(&reader, 17).len() as u64, info.bytes);
    assert_whole(&reader);
}

/// Damage after the file was opened: the records before it come, then the error, then nothing.
#[test]
fn records_are_checked_again_when_they_are_read() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let mut writer = store.create(9, b"").unwrap();
    for filler in [1u8, 2, 3] {
        writer.push(&vec![filler; 300_000]).unwrap();
    }
    writer.finish().unwrap();
    let mut records = store.open_version(9).unwrap().records();
    assert!(records.next().unwrap().is_ok());
    disk.open(&path(9), Open::Existing)
        .unwrap()
        .write_at(b"!", 500_000)
        .unwrap();
    assert_names_the_place(&records.next().unwrap().unwrap_err(), 9, 1_000_000);
    assert!(records.next().is_none());
}

#[test]
fn what_is_too_long_is_refused_when_it_is_written() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let error = store.create(1, &vec![0; HEADER_LEN_MAX + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(names(&disk).is_empty());
}

fn any_records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length =
        prop_oneof![8 => 0usize..200, 2 => 30_000usize..90_000, 1 => 250_000usize..600_000];
    proptest::collection::vec(
        (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        0..30,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_here_and_at_a_peer(
        version in any::<u64>(),
        header in proptest::collection::vec(any::<u8>(), 0..300),
        pushed in any_records(),
        piece in prop_oneof![100usize..5_000, 200_000usize..400_000],
    ) {
        let (here, there) = (MemoryDisk::new(), MemoryDisk::new());
        let (ours, theirs) = (store(&here), store(&there));
        let mut writer = ours.create(version, &header).unwrap();
        for record in &pushed {
            writer.push(record).unwrap();
        }
        let info = writer.finish().unwrap();
        let reader = ours.newest().unwrap().unwrap();
        prop_assert_eq!(reader.info(), info);
        prop_assert_eq!(reader.header(), &header[..]);
        prop_assert!(records(&reader) == pushed);
        let bytes = raw(&reader, piece);
        prop_assert_eq!(bytes.len() as u64, info.bytes);
        prop_assert_eq!(receive(&theirs, &bytes, piece / 2).unwrap(), info);
        let received = theirs.newest().unwrap().unwrap();
        prop_assert_eq!((received.version(), received.crc()), (version, info.crc));
        prop_assert!(records(&received) == pushed);
    }

    #[test]
    fn hostile_bytes_are_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        keep in 0usize..150,
    ) {
        let mut whole = whole_bytes(9);
        whole.truncate(keep);
        whole.extend_from_slice(&bytes);
        assert_refused(9, &whole, "hostile bytes");
    }
}
