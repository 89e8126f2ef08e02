//! The history in sled against what can happen to its files: kill -9, every kind of garbage,
//! leftovers, a second process. It comes up with exactly the entries it says it has, or empty and
//! saying why; never a panic, never a hang.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail the test"
)]

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pennon_raft_store::command::ClusterId;
use pennon_raft_store::history::{
    History, HistoryOptions, HistoryRecord, Keep, MemoryHistory, Opened, SledHistory,
};

const CHILD_DIR: &str = "PENNON_TEST_HISTORY_CHILD";

fn options() -> HistoryOptions {
    HistoryOptions {
        cache_bytes: 1 << 20,
        keep: Keep {
            per_object_max: 20,
            total_max: 1_500,
            since_ms: 0,
        },
        ..HistoryOptions::default()
    }
}

/// The records of the entry at an index: the same in the child, the parent and the model.
fn entry(applied: u64) -> Vec<HistoryRecord> {
    let body = format!("{applied}:").repeat(40 + (applied % 13) as usize);
    let objects = [
        format!("flag{}", applied % 5),
        format!("flag{}", applied * 7919 % 301),
        format!("s{applied}"),
    ];
    let count = (applied % 4) as usize;
    let lines = objects.into_iter().take(count).map(|object| HistoryRecord {
        object: object.into_bytes(),
        version: applied,
        body: body.clone().into(),
    });
    lines.collect()
}

fn expected_at(applied: u64) -> Vec<HistoryRecord> {
    let model = MemoryHistory::new(options());
    (1..=applied).for_each(|applied| model.record(applied, entry(applied)));
    model.latest(None, usize::MAX).unwrap()
}

/// The store holds the entries up to what it says, no more and no less.
fn assert_exact(history: &dyn History) -> u64 {
    // Reading waits for what is queued.
    let records = history.latest(None, usize::MAX).unwrap();
    let applied = history.applied();
    assert!(
        records == expected_at(applied),
        "not the entries up to {applied}"
    );
    applied
}

fn open(dir: &Path) -> Opened {
    SledHistory::open(dir, options()).unwrap()
}

fn ready(dir: &Path) -> SledHistory {
    match open(dir) {
        Opened::Ready(history) => history,
        Opened::Rebuilt { why, .. } => panic!("rebuilt: {why}"),
    }
}

/// A closed store with these entries.
fn store_with(dir: &Path, entries: u64) {
    let history = ready(dir);
    (1..=entries).for_each(|applied| history.record(applied, entry(applied)));
    assert_eq!(history.drain().unwrap(), entries);
}

fn generation(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("g{number:016}"))
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_dir(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

/// Not a test of its own: the process that is killed. Without the variable it does nothing.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let history = SledHistory::open(Path::new(&dir), options())
        .unwrap()
        .into_history();
    let mut out = io::stdout();
    for applied in history.applied() + 1.. {
        history.record(applied, entry(applied));
        if applied % 400 == 0 {
            let drained = history.drain().unwrap();
            writeln!(out, "drained {drained}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn kill_minus_nine_keeps_the_entries_up_to_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let drained = lines.map_while(Result::ok).filter_map(|line| {
            line.split_once("drained ")
                .and_then(|(_, number)| number.parse::<u64>().ok())
        });
        // Killed at a moment of its own each round, while it is writing.
        let told = drained
            .take(1 + round % 3)
            .last()
            .expect("the child drained");
        child.kill().unwrap();
        child.wait().unwrap();
        let history = ready(dir.path());
        held = assert_exact(&history);
        assert!(
            held >= told,
            "round {round}: {told} were drained, {held} are there"
        );
        // Entries come again after a restart and change nothing.
        (held.saturating_sub(50)..=held)
            .for_each(|applied| history.record(applied, entry(applied + 1)));
        history.record(held + 1, entry(held + 1));
        assert_eq!(assert_exact(&history), held + 1);
    }
    assert!(held > 2_000, "too little was written: {held}");
}

/// Opens what was damaged: exact and usable, or rebuilt, empty and usable. Says which.
fn assert_survives(dir: &Path, what: &str) -> bool {
    let (history, rebuilt) = match open(dir) {
        Opened::Ready(history) => (history, false),
        Opened::Rebuilt { history, why } => {
            assert!(why.contains("generation"), "{what}: {why}");
            assert_eq!(
                (history.applied(), history.latest(None, 9).unwrap().len()),
                (0, 0),
                "{what}"
            );
            (history, true)
        }
    };
    let applied = assert_exact(&history);
    (applied + 1..applied + 20).for_each(|applied| history.record(applied, entry(applied)));
    assert_eq!(history.drain().unwrap(), applied + 19, "{what}");
    drop(history);
    assert_eq!(assert_exact(&ready(dir)), applied + 19, "{what}");
    rebuilt
}

/// Runs `damage` on a copy of the store at `from`.
fn damaged(from: &Path, what: &str, damage: impl FnOnce(&Path)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(from, dir.path());
    damage(&generation(dir.path(), 1));
    assert_survives(dir.path(), what)
}

/// A store that was opened several times, so that sled has files of every kind.
fn seasoned() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), 900);
    let history = ready(dir.path());
    (901..=1_200).for_each(|applied| history.record(applied, entry(applied)));
    drop(history);
    assert_eq!(assert_exact(&ready(dir.path())), 1_200);
    dir
}

fn snapshot_of_sled(generation: &Path) -> PathBuf {
    let files = fs::read_dir(generation)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut snaps = files.filter(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("snap.")
    });
    snaps.next().expect("sled wrote a snapshot")
}

#[test]
fn a_data_file_cut_anywhere_is_a_prefix_or_rebuilt() {
    let store = seasoned();
    let len = fs::metadata(generation(store.path(), 1).join("db"))
        .unwrap()
        .len();
    let mut rebuilt = 0;
    for part in 0..16 {
        let cut = len * part / 16 + part % 5;
        rebuilt += u32::from(damaged(
            store.path(),
            &format!("db cut to {cut}"),
            |generation| {
                let file = fs::File::options()
                    .write(true)
                    .open(generation.join("db"))
                    .unwrap();
                file.set_len(cut).unwrap();
            },
        ));
    }
    assert!(rebuilt > 0, "no cut was noticed");
}

#[test]
fn flipped_and_zeroed_bytes_are_never_believed() {
    let store = seasoned();
    let bytes = fs::read(generation(store.path(), 1).join("db")).unwrap();
    let mut seed = 7u64;
    let mut rebuilt = 0;
    for round in 0..16 {
        seed = seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let at = (seed >> 20) as usize % bytes.len();
        rebuilt += u32::from(damaged(
            store.path(),
            &format!("round {round}, at {at}"),
            |generation| {
                let mut bytes = bytes.clone();
                let end = bytes.len().min(at + 1 + (round % 3) * 700);
                bytes[at..end]
                    .iter_mut()
                    .for_each(|byte| *byte = if round % 2 == 0 { !*byte } else { 0 });
                fs::write(generation.join("db"), bytes).unwrap();
            },
        ));
    }
    assert!(rebuilt > 0, "no flip was noticed");
}

#[test]
fn garbage_in_place_of_any_file_is_survived() {
    let store = seasoned();
    let garbage: Vec<u8> = (0..100_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let snapshot = snapshot_of_sled(&generation(store.path(), 1));
    let snapshot = snapshot.file_name().unwrap();
    for name in [Path::new("db"), Path::new("conf"), Path::new(snapshot)] {
        for length in [0, 3, 13, 5_000, garbage.len()] {
            damaged(
                store.path(),
                &format!("{} is garbage of {length}", name.display()),
                |generation| {
                    fs::write(generation.join(name), &garbage[..length]).unwrap();
                },
            );
        }
        damaged(
            store.path(),
            &format!("{} is gone", name.display()),
            |generation| {
                fs::remove_file(generation.join(name)).unwrap();
            },
        );
        let rebuilt = damaged(
            store.path(),
            &format!("{} is a directory", name.display()),
            |generation| {
                fs::remove_file(generation.join(name)).unwrap();
                fs::create_dir(generation.join(name)).unwrap();
            },
        );
        assert!(rebuilt, "{}", name.display());
    }
    damaged(store.path(), "the blobs are a file", |generation| {
        fs::remove_dir_all(generation.join("blobs")).unwrap();
        fs::write(generation.join("blobs"), b"x").unwrap();
    });
    damaged(store.path(), "a strange blob", |generation| {
        fs::write(generation.join("blobs/x"), b"x").unwrap()
    });
    let rebuilt = damaged(store.path(), "a generation that is a file", |generation| {
        fs::remove_dir_all(generation).unwrap();
        fs::write(generation, b"x").unwrap();
    });
    assert!(rebuilt);
}

/// What a crash inside sled's own snapshot leaves makes sled refuse to open.
#[test]
fn a_leftover_of_sleds_snapshot_costs_nothing() {
    let store = seasoned();
    for content in [&b""[..], b"half a snapshot"] {
        let rebuilt = damaged(store.path(), "generating", |generation| {
            let name = format!("{}.generating", snapshot_of_sled(generation).display());
            fs::write(name, content).unwrap();
            fs::write(generation.join("snap.FFFFFFFFFFFFFFFF.generating"), content).unwrap();
        });
        assert!(!rebuilt, "the leftover was not removed");
    }
}

/// The store of another format is not read: it is filled anew, and says why.
#[test]
fn a_store_of_another_format_is_filled_anew() {
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), 200);
    let db = sled::Config::new()
        .path(generation(dir.path(), 1))
        .open()
        .unwrap();
    let mut totals = db.get("m").unwrap().unwrap().to_vec();
    totals[0] = 1;
    db.insert("m", totals).unwrap();
    drop(db);
    match open(dir.path()) {
        Opened::Ready(_) => panic!("format 1 was taken for this one"),
        Opened::Rebuilt { history, why } => {
            assert!(why.contains("format 1"), "{why}");
            assert_eq!(history.applied(), 0);
        }
    }
}

#[test]
fn the_store_of_another_cluster_is_filled_anew() {
    let dir = tempfile::tempdir().unwrap();
    // As older releases left it: it does not say whose it is.
    store_with(dir.path(), 200);
    let open_as = |cluster| {
        let options = HistoryOptions {
            cluster: Some(ClusterId::new(cluster)),
            ..options()
        };
        SledHistory::open(dir.path(), options).unwrap()
    };
    for applied in 201..203 {
        let Opened::Ready(history) = open_as(1) else {
            panic!("its own cluster's store was begun anew");
        };
        history.record(applied, entry(applied));
        assert_eq!(assert_exact(&history), applied);
    }
    let Opened::Rebuilt { history, why } = open_as(2) else {
        panic!("another cluster's store was taken");
    };
    let (one, two) = (ClusterId::new(1), ClusterId::new(2));
    let told = format!("it is of cluster {one}, not of {two}");
    assert!(why.contains(&told), "{why}");
    history.replace_all(30, &mut fill(30)).unwrap();
    drop(history);
    assert!(matches!(open_as(2), Opened::Ready(_)));
    let Opened::Rebuilt { history, .. } = open_as(1) else {
        panic!("a refill does not say whose it is");
    };
    history.record(1, entry(1));
    drop(history);
    let newest = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let newest = newest.filter(|path| path.is_dir()).max().unwrap();
    let db = sled::Config::new().path(newest).open().unwrap();
    let mut owner = db.get("o").unwrap().unwrap().to_vec();
    owner[7] ^= 1;
    db.insert("o", owner).unwrap();
    drop(db);
    let Opened::Rebuilt { why, .. } = open_as(1) else {
        panic!("a damaged owner was believed");
    };
    assert!(why.contains("whose it is"), "{why}");
}

/// A value as it is stored, with the crc it should have.
fn framed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(&[&[2], key, body].concat());
    [&[2], &crc.to_le_bytes()[..], body].concat()
}

/// A valid sled database whose content is not what the totals say.
#[test]
fn records_that_went_missing_whole_are_noticed() {
    let store = seasoned();
    let lost = |generation: &Path| {
        let db = sled::Config::new()
            .path(generation)
            .flush_every_ms(None)
            .open()
            .unwrap();
        let (key, _) = db.scan_prefix("v").nth(5).unwrap().unwrap();
        db.remove(key).unwrap();
        db.flush().unwrap();
    };
    assert!(damaged(store.path(), "a record is lost", lost));
    assert!(damaged(store.path(), "other totals", |generation| {
        let db = sled::Config::new().path(generation).open().unwrap();
        let mut body = db.get("m").unwrap().unwrap()[5..].to_vec();
        body[24] ^= 1;
        db.insert("m", framed(b"m", &body)).unwrap();
        db.flush().unwrap();
    }));
    assert!(damaged(store.path(), "a body changed", |generation| {
        let db = sled::Config::new().path(generation).open().unwrap();
        let (key, mut value) = db.scan_prefix("v").nth(5).unwrap().unwrap();
        value[7] ^= 1;
        db.insert(key, value).unwrap();
        db.flush().unwrap();
    }));
    assert!(damaged(store.path(), "the totals are lost", |generation| {
        let db = sled::Config::new().path(generation).open().unwrap();
        db.remove("m").unwrap();
        db.flush().unwrap();
    }));
    assert!(damaged(
        store.path(),
        "a value under another's key",
        |generation| {
            let db = sled::Config::new().path(generation).open().unwrap();
            let two: Vec<_> = db.scan_prefix("v").take(2).map(Result::unwrap).collect();
            db.insert(&two[0].0, &two[1].1).unwrap();
            db.flush().unwrap();
        }
    ));
}

fn fill(applied: u64) -> impl Iterator<Item = io::Result<HistoryRecord>> {
    expected_at(applied).into_iter().map(Ok)
}

#[test]
fn a_refill_that_was_interrupted_leaves_the_records_of_before() {
    let store = seasoned();
    // As it is on disk when the process dies in the middle of a refill.
    let next = generation(store.path(), 2);
    let half = || {
        let dir = tempfile::tempdir().unwrap();
        let history = ready(dir.path());
        let ending = (0..2_000).map(|version| {
            if version == 1_900 {
                copy_dir(&generation(dir.path(), 1), &dir.path().join("kept"));
                copy_dir(&generation(dir.path(), 2), &dir.path().join("half"));
            }
            Ok(HistoryRecord {
                object: b"x".to_vec(),
                version,
                body: vec![1; 2_000].into(),
            })
        });
        history.replace_all(3_000, &mut ending.into_iter()).unwrap();
        dir
    };
    copy_dir(&half().path().join("half"), &next);
    assert_eq!(assert_exact(&ready(store.path())), 1_200);
    assert!(!next.exists());
    // Only just begun: a database without anything.
    fs::create_dir(&next).unwrap();
    assert_eq!(assert_exact(&ready(store.path())), 1_200);
    // Without the one before, it is no history at all.
    let alone = tempfile::tempdir().unwrap();
    copy_dir(&half().path().join("half"), &generation(alone.path(), 2));
    assert!(assert_survives(alone.path(), "half a refill, alone"));
    // Dropped in the middle of being dropped.
    fs::rename(
        generation(store.path(), 1),
        generation(store.path(), 1).with_extension("dead"),
    )
    .unwrap();
    assert_eq!(ready(store.path()).applied(), 0);
    assert_eq!(
        fs::read_dir(store.path()).unwrap().count(),
        2,
        "the lock and one generation"
    );
}

#[test]
fn a_refill_replaces_everything_and_takes_the_next_entries() {
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), 500);
    let history = ready(dir.path());
    for applied in [700, 300] {
        // Still queued when the refill begins: not to be written on top of it.
        (501..=800).for_each(|applied| history.record(applied, entry(applied)));
        history.replace_all(applied, &mut fill(applied)).unwrap();
        assert_eq!(assert_exact(&history), applied);
        history.record(applied, entry(1));
        (applied + 1..applied + 100).for_each(|applied| history.record(applied, entry(applied)));
        assert_eq!(assert_exact(&history), applied + 99);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "the lock and one generation");
    }
    drop(history);
    assert_eq!(assert_exact(&ready(dir.path())), 399);
}

#[test]
fn damage_under_an_open_store_is_kept_and_a_refill_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let more = HistoryOptions {
        keep: Keep {
            total_max: 5_001,
            ..options().keep
        },
        ..options()
    };
    let open = || match SledHistory::open(dir.path(), more.clone()).unwrap() {
        Opened::Ready(history) => history,
        Opened::Rebuilt { why, .. } => panic!("an undamaged store was rebuilt: {why}"),
    };
    let history = open();
    let long = |version: u64| HistoryRecord {
        object: format!("o{version}").into_bytes(),
        version,
        body: vec![version as u8; 4_000].into(),
    };
    (1..=5_000).for_each(|version| history.record(version, vec![long(version)]));
    drop(history);
    let history = open();
    let file = fs::File::options()
        .write(true)
        .open(generation(dir.path(), 1).join("db"))
        .unwrap();
    let garbage = vec![0xA5; 1000];
    for at in (0..file.metadata().unwrap().len()).step_by(15_000) {
        file.write_all_at(&garbage, at).unwrap();
    }
    // Twenty times what the cache may hold, but sled lets go of pages only after many accesses, and
    // never of the last one of 256 parts.
    let read = || history.for_each_up_to(u64::MAX, &mut |_| Ok(()));
    let noticed = (0..300).any(|_| read().is_err());
    assert!(noticed, "damage was read as truth");
    let why = history.failed().expect("the failure was not kept");
    assert!(why.contains("reading failed"), "{why}");
    assert!(history.drain().is_err() && history.of_object(b"o1", None, 1).is_err());
    history.record(5_001, vec![long(5_001)]);
    assert_eq!(history.applied(), 5_000);

    history.replace_all(30, &mut fill(30)).unwrap();
    assert_eq!(history.failed(), None);
    (31..60).for_each(|applied| history.record(applied, entry(applied)));
    assert_eq!(assert_exact(&history), 59);
    assert_eq!(history.drain().unwrap(), 59);
}

#[test]
fn a_directory_in_use_is_refused_and_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), 50);
    let first = ready(dir.path());
    let error = SledHistory::open(dir.path(), options()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    assert!(error.to_string().contains("lock is in use"), "{error}");
    assert_eq!(assert_exact(&first), 50);
    first.close();
    assert!(first.drain().is_err() && first.latest(None, 1).is_err());
    first.record(51, entry(51));
    first.close();
    assert_eq!(assert_exact(&ready(dir.path())), 50);
}

/// Readers while entries are written, the store is refilled under them, and it is closed.
#[test]
fn readers_never_see_a_store_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let history = ready(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    match history.latest(None, 50) {
                        Ok(records) => assert!(records.is_sorted_by(|a, b| a.version >= b.version)),
                        Err(error) => {
                            break assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
                        }
                    }
                }
            });
        }
        for round in 1..6u64 {
            (round * 100..round * 100 + 60)
                .for_each(|applied| history.record(applied, entry(applied)));
            history
                .replace_all(round * 100 + 60, &mut fill(round * 100 + 60))
                .unwrap();
        }
        assert_eq!(history.failed(), None);
        history.close();
    });
}
