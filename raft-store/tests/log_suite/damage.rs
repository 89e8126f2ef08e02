//! Rot: every byte flipped, every length, files zeroed, swapped, missing, from elsewhere.
//!
//! The one rule: open refuses, naming a file and an offset, or the log is complete. Only the last batch,
//! and only while no seal stands behind it, may be taken for torn.

use std::sync::Arc;

use pennon_raft_store::disk::{Disk, MemoryDisk};
use pennon_raft_store::log::{LogIdentity, LogOptions, LogStore, OpenError, SegmentLog};

use super::common::{IDENTITY, Told, entries, id, open, small, told, vote, wait};

const FLIPS: [u8; 2] = [0x01, 0xff];

/// Three segments with every kind of record; closed, so sealed, or not.
fn written(sealed: bool) -> (MemoryDisk, Told) {
    let disk = MemoryDisk::new();
    let log = open(&disk, &small()).unwrap();
    wait(|done| log.save_vote(vote(1), done)).unwrap();
    wait(|done| log.save_vote(vote(3), done)).unwrap();
    wait(|done| log.append(entries(1, 0..3, 900), done)).unwrap();
    wait(|done| log.truncate_after(Some(id(1, 1)), done)).unwrap();
    log.save_committed(Some(id(1, 1)));
    for index in 2..11 {
        wait(|done| log.append(entries(2, index..index + 1, 900), done)).unwrap();
    }
    wait(|done| log.purge(id(1, 0), done)).unwrap();
    wait(|done| log.append(entries(3, 11..13, 300), done)).unwrap();
    let all = told(&log);
    if sealed {
        log.close();
    }
    // Its names are what matters: the copy knows nothing of the log that may still be open.
    (disk.copy(), all)
}

fn paths(disk: &MemoryDisk) -> Vec<String> {
    let of = |dir: &'static str| {
        disk.list(dir)
            .unwrap()
            .into_iter()
            .map(move |name| format!("{dir}/{name}"))
    };
    of("log").chain(of("hard")).collect()
}

fn segments(disk: &MemoryDisk) -> Vec<String> {
    paths(disk)
        .into_iter()
        .filter(|path| path.ends_with(".seg"))
        .collect()
}

/// Opens a damaged directory: complete, or a proper refusal. Returns the refusal.
#[track_caller]
fn complete_or_refused(image: &MemoryDisk, all: &Told, what: &str) -> Option<OpenError> {
    match open(image, &small()) {
        Ok(log) => {
            assert_eq!(&told(&log), all, "{what}: silently lost");
            None
        }
        Err(refusal) => {
            assert!(
                refusal.is_corruption() && refusal.offset().is_some(),
                "{what}: {refusal}"
            );
            let text = refusal.to_string();
            assert!(
                text.contains(refusal.file()) && text.contains("rejoin as a new member"),
                "{what}: {text}"
            );
            Some(refusal)
        }
    }
}

/// Every place worth damaging: all that is not zero, its neighbours, and some of the zeros.
fn places(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| {
        bytes[at.saturating_sub(8)..bytes.len().min(at + 8)]
            .iter()
            .any(|b| *b != 0)
    };
    (0..bytes.len())
        .filter(|at| near(*at) && (at % 3 == 0 || bytes[at & !63..].len() < 64) || at % 97 == 0)
        .collect()
}

#[test]
fn any_flipped_byte_of_a_sealed_log_is_seen_or_harmless() {
    let (disk, all) = written(true);
    assert!(segments(&disk).len() >= 3);
    for path in paths(&disk) {
        let good = disk.contents(&path).unwrap();
        for at in places(&good) {
            for flip in FLIPS {
                let image = disk.copy();
                let mut bad = good.clone();
                bad[at] ^= flip;
                image.overwrite(&path, &bad);
                let what = format!("{path} byte {at} flipped by {flip:#x}");
                if let Some(refusal) = complete_or_refused(&image, &all, &what) {
                    assert_eq!(refusal.file(), path, "{what}");
                    assert!(refusal.offset().unwrap() <= at as u64, "{what}: {refusal}");
                }
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_the_last_unsealed_batch_costs_only_that_batch() {
    let (disk, all) = written(false);
    let mut without_last = all.clone();
    without_last.entries.truncate(all.entries.len() - 2);
    without_last.state.last = without_last.entries.last().map(|entry| entry.id);
    let path = segments(&disk).pop().unwrap();
    let good = disk.contents(&path).unwrap();
    let (mut cut, mut refused, mut whole) = (0, 0, 0);
    for at in places(&good) {
        let image = disk.copy();
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        image.overwrite(&path, &bad);
        match open(&image, &small()) {
            Ok(log) if told(&log) == all => whole += 1,
            Ok(log) => {
                assert_eq!(told(&log), without_last, "byte {at}");
                cut += 1;
                // What was cut is gone for good, and the log goes on.
                wait(|done| log.append(entries(9, 11..12, 50), done)).unwrap();
                let again = open(&image.crash_synced(), &small()).unwrap();
                assert_eq!(again.state().last, Some(id(9, 11)));
            }
            Err(refusal) => {
                assert!(
                    refusal.is_corruption() && refusal.file() == path,
                    "byte {at}: {refusal}"
                );
                refused += 1;
            }
        }
    }
    assert!(
        cut > 100 && refused > 10 && whole > 10,
        "{cut} cut, {refused} refused, {whole} whole"
    );
}

#[test]
fn a_file_of_any_other_length_is_refused_or_harmless() {
    let (disk, all) = written(true);
    for path in paths(&disk) {
        let good = disk.contents(&path).unwrap();
        for len in (0..good.len()).filter(|len| len % 61 == 0 || len + 9 > good.len()) {
            let image = disk.copy();
            image.overwrite(&path, &good[..len]);
            let refusal = complete_or_refused(&image, &all, &format!("{path} cut to {len}"));
            assert!(
                refusal.is_some() || !path.ends_with(".seg"),
                "{path} cut to {len} passed"
            );
        }
        let image = disk.copy();
        image.overwrite(&path, &[good, vec![0; 8]].concat());
        complete_or_refused(&image, &all, &format!("{path} longer"));
    }
}

#[test]
fn zeroed_swapped_and_missing_segments_are_refused() {
    let (disk, all) = written(true);
    let segments = segments(&disk);
    for path in &segments {
        let len = disk.contents(path).unwrap().len();
        let image = disk.copy();
        image.overwrite(path, &vec![0; len]);
        assert!(complete_or_refused(&image, &all, &format!("{path} zeroed")).is_some());
        let image = disk.copy();
        image.remove(path).unwrap();
        assert!(complete_or_refused(&image, &all, &format!("{path} missing")).is_some());
        for other in segments.iter().filter(|other| *other != path) {
            let image = disk.copy();
            image.overwrite(path, &disk.contents(other).unwrap());
            assert!(complete_or_refused(&image, &all, &format!("{path} is {other}")).is_some());
        }
    }
}

/// Zeroes in place of one batch, of a sector, of a page: as if that write had never reached the disk.
#[test]
fn a_lost_write_before_a_durable_one_is_refused() {
    let (disk, all) = written(true);
    let (mut refused, mut harmless) = (0, 0);
    for path in segments(&disk) {
        let good = disk.contents(&path).unwrap();
        for (step, len) in [(512, 512), (512, 1024), (4096, 4096)] {
            for from in (0..good.len()).step_by(step) {
                let image = disk.copy();
                let mut bad = good.clone();
                let to = good.len().min(from + len);
                bad[from..to].fill(0);
                let changed = bad != good;
                image.overwrite(&path, &bad);
                let refusal =
                    complete_or_refused(&image, &all, &format!("{path} zeroed {from}..{to}"));
                assert!(changed || refusal.is_none(), "{path} {from}..{to}");
                refused += usize::from(refusal.is_some());
                harmless += usize::from(changed && refusal.is_none());
            }
        }
    }
    // Only in the seals themselves.
    assert!(refused > 60 && harmless < 20, "{refused} {harmless}");
}

/// One that is written alone is sealed in another block of the disk.
#[test]
fn a_lost_block_that_holds_the_last_batch_and_its_seal_is_seen() {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        ..small()
    };
    for len in [0, 1, 700, 3000, 3900, 3950, 4000, 4100, 9000] {
        let disk = MemoryDisk::new();
        let log = open(&disk, &options).unwrap();
        for index in 0..3 {
            wait(|done| log.append(entries(1, index..index + 1, len), done)).unwrap();
            log.save_committed(Some(id(1, index)));
            log.seal();
            let all = told(&log);
            let path = "log/0000000000000001.seg";
            let good = disk.contents(path).unwrap();
            for from in (4096..good.len()).step_by(4096) {
                let image = disk.copy();
                let mut bad = good.clone();
                bad[from..from + 4096].fill(0);
                image.overwrite(path, &bad);
                if let Ok(log) = open(&image, &options) {
                    assert_eq!(told(&log).entries, all.entries, "{len} {index} {from}");
                }
            }
        }
    }
}

#[test]
fn an_older_copy_of_a_sealed_segment_is_refused() {
    let disk = MemoryDisk::new();
    let log = open(&disk, &small()).unwrap();
    wait(|done| log.append(entries(1, 0..2, 500), done)).unwrap();
    let older = disk.contents("log/0000000000000001.seg").unwrap();
    wait(|done| log.append(entries(1, 2..4, 500), done)).unwrap();
    wait(|done| log.append(entries(1, 4..10, 900), done)).unwrap();
    let all = told(&log);
    log.close();
    disk.overwrite("log/0000000000000001.seg", &older);
    let refusal = complete_or_refused(&disk, &all, "older copy").unwrap();
    assert_eq!(refusal.file(), "log/0000000000000001.seg");
}

#[test]
fn a_manifest_from_before_the_last_segment_is_refused() {
    let disk = MemoryDisk::new();
    let log = open(&disk, &small()).unwrap();
    let older = disk.contents("log/MANIFEST").unwrap();
    wait(|done| log.append(entries(1, 0..3, 1000), done)).unwrap();
    wait(|done| log.append(entries(1, 3..6, 1000), done)).unwrap();
    let all = told(&log);
    log.close();
    assert!(segments(&disk).len() > 1);
    disk.overwrite("log/MANIFEST", &older);
    assert!(complete_or_refused(&disk, &all, "older MANIFEST").is_some());
}

#[test]
fn a_lost_manifest_does_not_make_a_new_log() {
    let (disk, all) = written(true);
    disk.remove("log/MANIFEST").unwrap();
    let refusal = complete_or_refused(&disk, &all, "no MANIFEST").unwrap();
    assert_eq!(refusal.file(), "log/MANIFEST");
    // Not even when only the vote is left of the log.
    for path in segments(&disk) {
        disk.remove(&path).unwrap();
    }
    assert!(complete_or_refused(&disk, &all, "only the vote").is_some());
}

#[test]
fn both_votes_lost_or_one_lost_below_the_term_of_the_log_is_refused() {
    let (disk, all) = written(true);
    for damage in [&[][..], &[7; 128]] {
        let image = disk.copy();
        for path in ["hard/a", "hard/b"] {
            image.overwrite(path, damage);
        }
        let refusal = complete_or_refused(&image, &all, "both votes").unwrap();
        assert!(refusal.file().starts_with("hard/"));
    }
    // Entries of term 9, and a vote of term 3 with its twin unreadable: a later vote is lost.
    let log = open(&disk, &small()).unwrap();
    wait(|done| log.append(entries(9, 13..14, 10), done)).unwrap();
    log.close();
    open(&disk, &small()).unwrap();
    disk.overwrite("hard/b", &[]);
    let refusal = open(&disk, &small()).unwrap_err();
    assert!(
        refusal.is_corruption() && refusal.file() == "hard/b",
        "{refusal}"
    );
}

#[test]
fn a_log_of_another_node_or_cluster_is_foreign_not_corrupt() {
    let (disk, _) = written(true);
    for identity in [
        LogIdentity {
            node: 2,
            ..IDENTITY
        },
        LogIdentity {
            cluster: 1,
            ..IDENTITY
        },
    ] {
        let refusal = SegmentLog::open(Arc::new(disk.clone()), small(), identity).unwrap_err();
        assert!(
            refusal.is_foreign() && !refusal.is_corruption(),
            "{refusal}"
        );
        // One segment copied over from another node is found as well.
        let strange = MemoryDisk::new();
        let log = SegmentLog::open(Arc::new(strange.clone()), small(), identity).unwrap();
        log.close();
        strange.overwrite(
            "log/0000000000000001.seg",
            &disk.contents("log/0000000000000001.seg").unwrap(),
        );
        let refusal = SegmentLog::open(Arc::new(strange), small(), identity).unwrap_err();
        assert!(
            refusal.is_foreign() && refusal.file().ends_with(".seg"),
            "{refusal}"
        );
    }
}

#[test]
fn a_cached_out_entry_that_rotted_is_not_returned() {
    let disk = MemoryDisk::new();
    let options = pennon_raft_store::log::LogOptions {
        cache_bytes_max: 0,
        ..small()
    };
    let log = open(&disk, &options).unwrap();
    wait(|done| log.append(entries(1, 0..3, 100), done)).unwrap();
    let path = "log/0000000000000001.seg";
    let mut bytes = disk.contents(path).unwrap();
    let at = bytes
        .windows(100)
        .position(|window| window == &entries(1, 1..2, 100)[0].payload[..])
        .unwrap();
    bytes[at + 50] ^= 4;
    disk.overwrite(path, &bytes);
    assert_eq!(log.read(0, 1, 1000).unwrap(), entries(1, 0..1, 100));
    let error = log.read(0, 3, 1000).unwrap_err();
    assert!(
        error.to_string().contains(path) && error.to_string().contains(&at.to_string()),
        "{error}"
    );
}
