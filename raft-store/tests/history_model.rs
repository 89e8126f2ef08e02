//! Both histories against a plain model of what must be kept, and against each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail the test"
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use pennon_raft_store::disk::{MemoryDisk, Space};
use pennon_raft_store::history::{
    Extent, History, HistoryOptions, HistoryRecord, Keep, MemoryHistory, Opened, SledHistory,
};
use proptest::prelude::*;

const KEEP: Keep = Keep {
    per_object_max: 4,
    total_max: 17,
    since_ms: 0,
};

/// Bytes that could be mistaken for the end of a key, for an escape, or for a version.
const OBJECTS: [&[u8]; 10] = [
    b"",
    b"a",
    b"a\0",
    b"a\0\0",
    b"a\0\xFF",
    b"a\0\0\0\0\0\0\0\0\0\x05",
    b"ab",
    b"b",
    b"\xFF",
    b"\xFF\xFF",
];

fn options() -> HistoryOptions {
    HistoryOptions {
        cache_bytes: 1 << 20,
        keep: KEEP,
        time_of,
        queue_len_max: 3,
        queue_bytes_max: 40,
        ..HistoryOptions::default()
    }
}

/// A record is as old as its version.
fn time_of(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let version = text
        .split('@')
        .nth(1)
        .and_then(|rest| rest.split(':').next());
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}

/// What must be kept, in the slowest and plainest way.
#[derive(Clone)]
struct Model {
    applied: u64,
    keep: Keep,
    records: BTreeMap<(u64, Vec<u8>), Bytes>,
}

impl Model {
    fn new(keep: Keep) -> Self {
        let (applied, records) = (0, BTreeMap::new());
        Self {
            applied,
            keep,
            records,
        }
    }

    fn record(&mut self, applied: u64, records: &[HistoryRecord]) {
        if applied > self.applied {
            self.add(records);
            self.applied = applied;
        }
    }

    fn add(&mut self, records: &[HistoryRecord]) {
        for record in records {
            self.records
                .insert((record.version, record.object.clone()), record.body.clone());
        }
        for object in OBJECTS {
            let keys: Vec<_> = self
                .records
                .keys()
                .filter(|key| key.1 == object)
                .cloned()
                .collect();
            for key in keys.iter().rev().skip(self.keep.per_object_max) {
                self.records.remove(key);
            }
        }
        while self.records.len() as u64 > self.keep.total_max {
            self.records.pop_first();
        }
        let since_ms = self.keep.since_ms;
        self.records.retain(|_, body| time_of(body) >= since_ms);
    }

    fn newest_first(&self, before: Option<u64>) -> Vec<HistoryRecord> {
        let below = self
            .records
            .iter()
            .rev()
            .filter(|(key, _)| before.is_none_or(|before| key.0 < before));
        below
            .map(|((version, object), body)| line(object, *version, body.clone()))
            .collect()
    }

    fn of_object(&self, object: &[u8], before: Option<u64>, limit: usize) -> Vec<HistoryRecord> {
        let all = self.newest_first(before).into_iter();
        all.filter(|record| record.object == object)
            .take(limit)
            .collect()
    }

    fn latest(&self, before: Option<u64>, limit: usize) -> Vec<HistoryRecord> {
        let all = self.newest_first(before);
        let Some(last) = all
            .iter()
            .take(limit)
            .next_back()
            .map(|record| record.version)
        else {
            return Vec::new();
        };
        all.into_iter()
            .filter(|record| record.version >= last)
            .collect()
    }
}

fn line(object: &[u8], version: u64, body: impl Into<Bytes>) -> HistoryRecord {
    HistoryRecord {
        object: object.to_vec(),
        version,
        body: body.into(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// An entry this much after the newest one, with these objects (and a body's length each).
    Record {
        after: u64,
        objects: Vec<(usize, usize)>,
    },
    /// An entry that is there already, with other records.
    Replay {
        objects: Vec<(usize, usize)>,
    },
    /// More or less is kept from the next entry on.
    Keep(Keep),
    Drain,
    Reopen,
    /// A refill with these: (object, version). It may go back.
    Replace {
        applied: u64,
        records: Vec<(usize, u64)>,
    },
    /// A refill whose records end in an error.
    FailingReplace,
    /// What a snapshot at this share of the versions holds, put into another history, then the
    /// entries since.
    Catch {
        share: f64,
    },
}

fn any_objects() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0..OBJECTS.len(), 0usize..30), 0..6)
}

fn any_step() -> impl Strategy<Value = Step> {
    let any_version = prop_oneof![3 => 1u64..60, 1 => Just(u64::MAX), 1 => Just(0u64)];
    prop_oneof![
        20 => (1u64..3, any_objects()).prop_map(|(after, objects)| Step::Record { after, objects }),
        2 => any_objects().prop_map(|objects| Step::Replay { objects }),
        1 => Just(Step::Drain),
        3 => (1usize..6, 3u64..25, 0u64..40).prop_map(|(per_object_max, total_max, since_ms)| {
            Step::Keep(Keep { per_object_max, total_max, since_ms })
        }),
        2 => Just(Step::Reopen),
        1 => (1u64..60, proptest::collection::vec((0..OBJECTS.len(), any_version), 0..40))
            .prop_map(|(applied, records)| Step::Replace { applied, records }),
        1 => Just(Step::FailingReplace),
        2 => (0.0..=1.0).prop_map(|share| Step::Catch { share }),
    ]
}

/// The body says whose it is, so that a mix-up shows.
fn body(object: usize, version: u64, length: usize) -> Bytes {
    let mut body = format!("{object}@{version}:").into_bytes();
    body.resize(body.len() + length, b'.');
    body.into()
}

fn lines(objects: &[(usize, usize)], version: u64) -> Vec<HistoryRecord> {
    objects
        .iter()
        .map(|(object, length)| line(OBJECTS[*object], version, body(*object, version, *length)))
        .collect()
}

fn collect_up_to(history: &dyn History, version_max: u64) -> Vec<HistoryRecord> {
    let mut records = Vec::new();
    history
        .for_each_up_to(version_max, &mut |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
    records
}

fn assert_same(history: &dyn History, model: &Model, probe: u64) {
    assert_eq!(
        history.latest(None, 1000).unwrap(),
        model.newest_first(None)
    );
    assert_eq!(history.applied(), model.applied);
    for before in [
        None,
        Some(0),
        Some(probe),
        Some(model.applied),
        Some(u64::MAX),
    ] {
        for limit in [0, 1, 2, 5, usize::MAX] {
            assert_eq!(
                history.latest(before, limit).unwrap(),
                model.latest(before, limit)
            );
            for object in OBJECTS {
                let found = history.of_object(object, before, limit).unwrap();
                assert_eq!(
                    found,
                    model.of_object(object, before, limit),
                    "{object:?} {before:?} {limit}"
                );
            }
        }
    }
    for object in OBJECTS {
        let (of_it, all) = (
            model.of_object(object, None, usize::MAX),
            model.newest_first(None),
        );
        let oldest = |records: &[HistoryRecord]| records.last().map(|record| record.version);
        let expected = Extent {
            of_object: of_it.len() as u64,
            of_all: all.len() as u64,
            oldest_of_object: oldest(&of_it),
            oldest: oldest(&all),
        };
        assert_eq!(history.extent(object).unwrap(), expected, "{object:?}");
    }
    for version_max in [0, probe, model.applied, u64::MAX] {
        let expected = model.newest_first(version_max.checked_add(1));
        assert_eq!(collect_up_to(history, version_max), expected);
    }
}

fn ready(dir: &std::path::Path) -> SledHistory {
    match SledHistory::open(dir, options()).unwrap() {
        Opened::Ready(history) => history,
        Opened::Rebuilt { why, .. } => panic!("an undamaged store was rebuilt: {why}"),
    }
}

/// The entries since `version_max` again, on top of a refill from what `history` held at it.
fn catch_up(
    history: &dyn History,
    entries: &[(u64, Keep, Vec<HistoryRecord>)],
    version_max: u64,
) -> Vec<HistoryRecord> {
    let snapshot = collect_up_to(history, version_max);
    let other = MemoryHistory::new(options());
    let before = entries
        .iter()
        .rfind(|(applied, ..)| *applied <= version_max);
    if let Some((_, keep, _)) = before.or(entries.first()) {
        other.keep(*keep);
    }
    other
        .replace_all(version_max, &mut snapshot.into_iter().map(Ok))
        .unwrap();
    for (applied, keep, records) in entries {
        other.keep(*keep);
        other.record(*applied, records.clone());
    }
    other.latest(None, 1000).unwrap()
}

fn replace(histories: [&dyn History; 2], applied: u64, records: &[HistoryRecord]) {
    for history in histories {
        history
            .replace_all(applied, &mut records.iter().cloned().map(Ok))
            .unwrap();
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut sled = ready(dir.path());
    let memory = MemoryHistory::new(options());
    let mut model = Model::new(KEEP);
    let mut keep = KEEP;
    // Everything since the last refill, and since more was kept, for replays.
    let mut entries: Vec<(u64, Keep, Vec<HistoryRecord>)> = Vec::new();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Record { after, objects } => {
                let applied = model.applied + after;
                let records = lines(&objects, applied);
                // Nobody asks for what is not written yet.
                let now = Keep {
                    since_ms: keep.since_ms.min(applied),
                    ..keep
                };
                for history in [&sled as &dyn History, &memory] {
                    history.keep(now);
                    history.record(applied, records.clone());
                }
                let before = model.keep;
                if now.per_object_max > before.per_object_max
                    || now.total_max > before.total_max
                    || now.since_ms < before.since_ms
                {
                    entries.clear();
                }
                model.keep = now;
                model.record(applied, &records);
                entries.push((applied, now, records));
            }
            Step::Replay { objects } => {
                let records = lines(&objects, model.applied + 1);
                sled.record(model.applied, records.clone());
                memory.record(model.applied, records);
            }
            Step::Keep(next) => keep = next,
            Step::Drain => assert_eq!(sled.drain().unwrap(), model.applied),
            Step::Reopen => {
                if at % 2 == 0 {
                    sled.close();
                }
                drop(sled);
                sled = ready(dir.path());
                sled.keep(model.keep);
            }
            Step::Replace { applied, records } => {
                let records: Vec<_> = records
                    .iter()
                    .map(|(object, version)| {
                        line(OBJECTS[*object], *version, body(*object, *version, 1))
                    })
                    .collect();
                replace([&sled, &memory], applied, &records);
                model = Model {
                    applied,
                    ..Model::new(model.keep)
                };
                model.add(&records);
                // Versions beyond the entries to come would not be what a machine writes.
                model.applied = records
                    .iter()
                    .map(|record| record.version)
                    .filter(|v| *v < 100)
                    .max()
                    .unwrap_or(0)
                    .max(applied);
                replace([&sled, &memory], model.applied, &model.newest_first(None));
                entries.clear();
            }
            Step::FailingReplace => {
                let records = || {
                    let good = (0..700).map(|version| Ok(line(b"a", version, "lost")));
                    good.chain([Err(io::Error::other("no more"))])
                };
                for history in [&sled as &dyn History, &memory] {
                    assert_eq!(
                        history
                            .replace_all(9, &mut records())
                            .unwrap_err()
                            .to_string(),
                        "no more"
                    );
                }
            }
            // A refill may have brought a version that no entry has reached; a machine has none.
            Step::Catch { .. } if model.records.keys().any(|key| key.0 > model.applied) => {}
            Step::Catch { share } => {
                let since = entries
                    .first()
                    .map_or(model.applied, |(applied, ..)| applied - 1);
                let at = since + ((model.applied - since) as f64 * share) as u64;
                assert_eq!(catch_up(&sled, &entries, at), model.newest_first(None));
            }
        }
        if at % 7 == 0 {
            assert_same(&sled, &model, at as u64);
        }
    }
    assert_same(&sled, &model, 20);
    assert_same(&memory, &model, 20);
    assert_eq!(sled.failed(), None);
    drop(sled);
    assert_same(&ready(dir.path()), &model, 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_keep_what_the_model_keeps(steps in proptest::collection::vec(any_step(), 1..60)) {
        run(steps);
    }
}

/// A refill may hold a version beyond the entries that follow. What comes below it is older than
/// what was the oldest, and goes when its time has come.
#[test]
fn what_is_older_than_the_oldest_so_far_goes_in_time() {
    let keep = |since_ms| Step::Keep(Keep { since_ms, ..KEEP });
    let record = || Step::Record {
        after: 1,
        objects: vec![(1, 0)],
    };
    let ahead = Step::Replace {
        applied: 1,
        records: vec![(0, u64::MAX)],
    };
    run(vec![ahead, keep(6), record(), record(), record(), record()]);
}

/// An entry that comes again changes nothing, also where it travels in one batch with the first.
#[test]
fn an_entry_that_comes_again_with_the_next_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions {
        queue_len_max: 10,
        ..options()
    };
    let history = match SledHistory::open(dir.path(), options).unwrap() {
        Opened::Ready(history) => history,
        Opened::Rebuilt { why, .. } => panic!("an undamaged store was rebuilt: {why}"),
    };
    history.record(1, lines(&[(1, 0)], 1));
    history.record(1, lines(&[(2, 0)], 2));
    history.record(2, Vec::new());
    assert_eq!(history.drain().unwrap(), 2);
    assert_eq!(history.latest(None, 10).unwrap(), lines(&[(1, 0)], 1));
}

/// A snapshot is copied out while entries go on being written and old records trimmed. A node that
/// is refilled from it and replays the entries since keeps exactly what this one keeps.
#[test]
fn a_copy_made_under_load_leads_to_the_same_records() {
    const ENTRIES: u64 = 6_000;
    let limits = HistoryOptions {
        keep: Keep {
            per_object_max: 5,
            total_max: 3_000,
            since_ms: 0,
        },
        ..HistoryOptions::default()
    };
    // Busy objects push out their own records; the many quiet ones are what the total limit drops.
    let entry = |applied: u64| {
        vec![
            line(
                format!("busy{}", applied % 7).as_bytes(),
                applied,
                format!("at {applied}"),
            ),
            line(
                format!("quiet{}", applied * 7919 % 4001).as_bytes(),
                applied,
                "q",
            ),
        ]
    };
    let dir = tempfile::tempdir().unwrap();
    let sled = Arc::new(
        SledHistory::open(dir.path(), limits.clone())
            .unwrap()
            .into_history(),
    );
    for applied in 1..=ENTRIES / 2 {
        sled.record(applied, entry(applied));
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (sled, done) = (Arc::clone(&sled), Arc::clone(&done));
        move || {
            for applied in ENTRIES / 2 + 1..=ENTRIES {
                sled.record(applied, entry(applied));
            }
            done.store(true, Ordering::Release);
        }
    });
    let mut copies = Vec::new();
    while !done.load(Ordering::Acquire) || copies.is_empty() {
        let version = sled.applied();
        copies.push((version, collect_up_to(sled.as_ref(), version)));
    }
    writer.join().unwrap();
    let expected = sled.latest(None, 10_000).unwrap();
    assert_eq!(expected.len(), 3_000, "the total limit was not reached");
    for (version, records) in &copies {
        let other = MemoryHistory::new(limits.clone());
        other
            .replace_all(*version, &mut records.iter().cloned().map(Ok))
            .unwrap();
        for applied in version + 1..=ENTRIES {
            other.record(applied, entry(applied));
        }
        assert!(
            other.latest(None, 10_000).unwrap() == expected,
            "from the copy at {version}"
        );
    }
}

/// The queue is bounded: a producer far ahead of the writer waits, and nothing gets lost or moved.
#[test]
fn a_full_queue_blocks_and_keeps_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let tight = HistoryOptions {
        queue_len_max: 1,
        queue_bytes_max: 1,
        ..HistoryOptions::default()
    };
    let sled = SledHistory::open(dir.path(), tight).unwrap().into_history();
    for applied in 1..=500 {
        sled.record(applied, vec![line(b"flag", applied, vec![b'x'; 2_000])]);
    }
    let versions: Vec<_> = sled
        .latest(None, 1000)
        .unwrap()
        .iter()
        .map(|record| record.version)
        .collect();
    assert_eq!(versions, (401..=500).rev().collect::<Vec<_>>());
    assert_eq!((sled.applied(), sled.drain().unwrap()), (500, 500));
}

/// While nothing can be written, no more is taken than the queue holds: the caller waits.
#[test]
fn a_producer_waits_while_the_writer_is_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let tight = HistoryOptions {
        queue_len_max: 4,
        ..HistoryOptions::default()
    };
    let sled = SledHistory::open(dir.path(), tight).unwrap().into_history();
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // A refill holds the writer up for as long as its records take to come.
        let mut records = std::iter::once_with(|| {
            scope.spawn(|| {
                for applied in 2..=100 {
                    sled.record(applied, vec![line(b"flag", applied, "x")]);
                    taken.fetch_add(1, Ordering::Release);
                }
            });
            // In the queue and in the hand of the writer thread.
            while taken.load(Ordering::Acquire) < 4 {
                std::thread::yield_now();
            }
            for _ in 0..2_000 {
                std::thread::yield_now();
                assert_eq!(taken.load(Ordering::Acquire), 4);
            }
            Ok(line(b"flag", 1, "x"))
        });
        sled.replace_all(1, &mut records).unwrap();
    });
    assert_eq!(sled.latest(None, 1000).unwrap().len(), 100);
    assert_eq!(sled.applied(), 100);
}

/// One change set over very many objects: longer than what is read at a time, and never cut.
#[test]
fn an_entry_longer_than_a_chunk_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sled = SledHistory::open(dir.path(), HistoryOptions::default())
        .unwrap()
        .into_history();
    let objects: Vec<_> = (0..1_700)
        .map(|i| format!("flag{i:04}").into_bytes())
        .collect();
    for applied in 1..=2 {
        sled.record(
            applied,
            objects
                .iter()
                .map(|object| line(object, applied, "x"))
                .collect(),
        );
    }
    let all = collect_up_to(&sled, 2);
    let newest_first = |version| {
        objects
            .iter()
            .rev()
            .map(move |object| line(object, version, "x"))
    };
    assert!(
        all.iter()
            .cloned()
            .eq(newest_first(2).chain(newest_first(1)))
    );
    assert_eq!(sled.latest(None, 10).unwrap(), all[..1_700]);
    assert_eq!(sled.latest(Some(2), 1).unwrap(), all[1_700..]);
}

/// Values far longer than a page go into files of their own in sled.
#[test]
fn large_bodies_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let bodies: Vec<_> = (1..6u64)
        .map(|i| vec![i as u8; (i * 500_000) as usize])
        .collect();
    let sled = ready(dir.path());
    for (i, body) in bodies.iter().enumerate() {
        sled.record(i as u64 + 1, vec![line(b"big", i as u64 + 1, body.clone())]);
    }
    sled.drain().unwrap();
    drop(sled);
    let found = ready(dir.path()).of_object(b"big", None, 10).unwrap();
    assert_eq!(found.len(), KEEP.per_object_max);
    assert!(
        found
            .iter()
            .zip(bodies.iter().rev())
            .all(|(found, body)| found.body == body[..])
    );
}

/// The generations in a directory, by their names.
fn generations(dir: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('g')).collect()
}

#[test]
fn a_store_that_outgrew_what_it_holds_is_written_anew_while_it_runs_and_at_open() {
    const ENTRIES: u64 = 400;
    let usual = HistoryOptions {
        keep: Keep {
            per_object_max: 2,
            ..HistoryOptions::default().keep
        },
        ..HistoryOptions::default()
    };
    let tight = HistoryOptions {
        rebuild_multiple: 2,
        rebuild_min_bytes: 1 << 20,
        ..usual.clone()
    };
    // Twenty objects with two records each are live, of 12 MiB that were written.
    let entry = |applied: u64| {
        let body = format!("{applied:>7}").repeat(32 << 10 >> 3);
        vec![HistoryRecord {
            object: format!("o{}", applied % 20).into_bytes(),
            version: applied,
            body: body.into(),
        }]
    };
    let dir = tempfile::tempdir().unwrap();
    for (options, first) in [(usual, 1), (tight, ENTRIES + 1)] {
        let model = MemoryHistory::new(options.clone());
        (1..first).for_each(|applied| model.record(applied, entry(applied)));
        let sled = SledHistory::open(dir.path(), options.clone())
            .unwrap()
            .into_history();
        if options.rebuild_min_bytes < 64 << 20 {
            // Reading waits for the entry, which waits until the store is written anew.
            sled.record(first, entry(first));
            model.record(first, entry(first));
            assert_eq!(
                sled.latest(None, 100).unwrap(),
                model.latest(None, 100).unwrap()
            );
            assert_eq!(generations(dir.path()), ["g0000000000000002"]);
        }
        for applied in first..first + ENTRIES {
            sled.record(applied, entry(applied));
            model.record(applied, entry(applied));
        }
        assert_eq!(
            sled.latest(None, 100).unwrap(),
            model.latest(None, 100).unwrap()
        );
        assert_eq!(sled.drain().unwrap(), first + ENTRIES - 1);
        let expected = if first == 1 {
            "g0000000000000001"
        } else {
            "g0000000000000003"
        };
        let found = generations(dir.path());
        assert!(
            found.len() == 1 && found[0].as_str() >= expected,
            "{found:?}"
        );
        sled.close();
        // All of it is checked at open.
        let again = SledHistory::open(
            dir.path(),
            HistoryOptions {
                rebuild_min_bytes: u64::MAX,
                ..options
            },
        );
        let Opened::Ready(again) = again.unwrap() else {
            panic!("not as it was left")
        };
        assert_eq!(
            again.latest(None, 100).unwrap(),
            model.latest(None, 100).unwrap()
        );
    }
}

/// What cannot be written for want of space can still be read; a snapshot is not made without it.
#[test]
fn what_waits_for_space_is_read_like_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new();
    let options = HistoryOptions {
        space: Space::new(Arc::new(disk.clone()), 1 << 20),
        ..HistoryOptions::default()
    };
    let sled = SledHistory::open(dir.path(), options)
        .unwrap()
        .into_history();
    let lines = |versions: &[u64]| -> Vec<_> {
        let lines = versions.iter();
        lines.map(|version| line(b"flag", *version, "x")).collect()
    };
    sled.record(1, lines(&[1]));
    sled.drain().unwrap();
    disk.set_capacity(Some(0));
    sled.record(2, vec![line(b"flag", 2, "x"), line(b"other", 2, "x")]);
    sled.record(3, lines(&[3]));
    for waits in [true, false] {
        assert_eq!(
            sled.of_object(b"flag", None, 10).unwrap(),
            lines(&[3, 2, 1])
        );
        assert_eq!(sled.of_object(b"flag", Some(3), 1).unwrap(), lines(&[2]));
        let versions = |before, limit| -> Vec<u64> {
            let all = sled.latest(before, limit).unwrap();
            all.iter().map(|line| line.version).collect()
        };
        assert_eq!(versions(None, 10), [3, 2, 2, 1]);
        assert_eq!(
            versions(None, 2),
            [3, 2, 2],
            "a version is never cut in two"
        );
        assert_eq!(versions(Some(2), 10), [1]);
        if waits {
            assert_eq!(
                sled.drain().unwrap_err().kind(),
                std::io::ErrorKind::StorageFull
            );
            disk.set_capacity(None);
            while sled.drain().is_err() {
                std::thread::yield_now();
            }
        }
    }
    assert_eq!(sled.applied(), 3);
}
