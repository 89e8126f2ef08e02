//! Power cuts after every operation of a recorded run, during recovery too, and operations that fail.
//!
//! After each: the log opens, and holds what it held after the last acknowledged call or after the one
//! in progress, nothing in between.

use pennon_raft_store::disk::{Disk, Fault, FaultAt, Kept, MemoryDisk, Operation};
use pennon_raft_store::log::{LogOptions, LogStore};

use super::common::{Call, Model, Told, entries, id, open, small, told, vote, wait};

/// Rolls, purges (also past the end), truncates, votes; each call fits into one batch.
fn script() -> Vec<Call> {
    let mut calls = vec![Call::Vote, Call::Append(vec![10])];
    for round in 0..4 {
        calls.push(Call::Append(vec![300, 20, 700]));
        calls.push(Call::Committed(1));
        calls.push(Call::Append(vec![1500, 0, 900]));
        calls.push(Call::Truncate(2));
        calls.push(Call::Vote);
        calls.push(Call::Append(vec![600, 600]));
        calls.push(Call::Purge(if round == 2 { 50 } else { 2 }));
        calls.push(Call::Append(vec![5]));
    }
    calls.push(Call::Append(vec![20_000]));
    calls.push(Call::Append(vec![1; 40]));
    calls
}

/// Runs the script from an empty disk. Returns the disk, what the log says after each number of
/// acknowledged calls, and at which operation each number was reached.
fn run(calls: &[Call], seal_at: &[usize]) -> (MemoryDisk, Vec<Told>, Vec<usize>) {
    let disk = MemoryDisk::new();
    disk.record();
    let log = open(&disk, &small()).unwrap();
    let mut model = Model::default();
    let (mut after, mut reached) = (vec![model.told()], vec![disk.journal_len()]);
    for (n, call) in calls.iter().enumerate() {
        let call = model.call(call);
        wait(|done| call(&log, done)).unwrap();
        log.save_committed(model.told().state.committed);
        after.push(model.told());
        reached.push(disk.journal_len());
        if seal_at.contains(&n) {
            log.seal();
        }
    }
    (disk, after, reached)
}

fn without_committed(mut told: Told) -> Told {
    told.state.committed = None;
    told
}

type Keep = Box<dyn FnMut(&Operation) -> Kept>;

/// What of the unsynced operations survives, in several ways.
fn survivals() -> Vec<(&'static str, Keep)> {
    let mut count = 0;
    let mut alternating = move |_: &Operation| {
        count += 1;
        if count % 2 == 0 {
            Kept::All
        } else {
            Kept::Nothing
        }
    };
    vec![
        ("nothing", Box::new(|_: &Operation| Kept::Nothing)),
        ("everything", Box::new(|_: &Operation| Kept::All)),
        ("one byte", Box::new(|_: &Operation| Kept::Prefix(1))),
        ("a header", Box::new(|_: &Operation| Kept::Prefix(48))),
        ("a page", Box::new(|_: &Operation| Kept::Prefix(4096))),
        ("some sectors", Box::new(|_: &Operation| Kept::Sectors(0))),
        ("other sectors", Box::new(|_: &Operation| Kept::Sectors(1))),
        ("every second", Box::new(move |op| alternating(op))),
    ]
}

/// Opens an image, demands one of the two states, and that the log goes on from there. Returns whether
/// it had the later one.
#[track_caller]
fn demand(image: &MemoryDisk, acknowledged: &Told, in_progress: &Told, what: &str) {
    let log = open(image, &small()).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
    let found = without_committed(told(&log));
    let allowed = [
        without_committed(acknowledged.clone()),
        without_committed(in_progress.clone()),
    ];
    assert!(
        allowed.contains(&found),
        "{what}: found {:?}, acknowledged {:?}",
        found.state,
        acknowledged.state
    );
    let next = found.state.last.map_or(0, |last| last.index + 1);
    wait(|done| log.append(entries(99, next..next + 2, 70), done)).unwrap();
    drop(log);
    let again = open(&image.crash_synced(), &small())
        .unwrap_or_else(|refusal| panic!("{what}, going on: {refusal}"));
    assert_eq!(
        again.state().last,
        Some(id(99, next + 1)),
        "{what}, going on"
    );
}

#[test]
fn a_power_cut_after_any_operation_loses_nothing_acknowledged() {
    let calls = script();
    let (disk, after, reached) = run(&calls, &[5, 20]);
    let journal = disk.journal();
    let replayed = MemoryDisk::new();
    let mut images = 0;
    for n in 0..=journal.len() {
        if n > 0 {
            replayed.replay(&journal[n - 1..n]);
        }
        // Before the first open has returned, nothing is acknowledged.
        let acknowledged = reached.partition_point(|at| *at <= n).saturating_sub(1);
        let in_progress = (acknowledged + 1).min(after.len() - 1);
        for (name, keep) in survivals() {
            let image = replayed.crash(keep);
            demand(
                &image,
                &after[acknowledged],
                &after[in_progress],
                &format!("operation {n}, kept {name}"),
            );
            images += 1;
        }
    }
    assert!(images > 1000, "{images} images");
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    let calls = script();
    let (disk, after, reached) = run(&calls, &[]);
    let journal = disk.journal();
    let replayed = MemoryDisk::new();
    for n in 0..=journal.len() {
        if n > 0 {
            replayed.replay(&journal[n - 1..n]);
        }
        if n % 5 != 0 {
            continue;
        }
        let acknowledged = reached.partition_point(|at| *at <= n).saturating_sub(1);
        let in_progress = (acknowledged + 1).min(after.len() - 1);
        for (name, keep) in survivals().into_iter().skip(4).take(3) {
            let first = replayed.crash(keep);
            let recovering = first.copy();
            recovering.record();
            drop(open(&recovering, &small()).unwrap());
            let again = first.copy();
            for (m, operation) in recovering.journal().iter().enumerate() {
                again.replay(std::slice::from_ref(operation));
                let what = format!("operation {n}, kept {name}, operation {m} of recovery");
                demand(
                    &again.crash_synced(),
                    &after[acknowledged],
                    &after[in_progress],
                    &what,
                );
                if m % 3 == 0 {
                    let image = again.crash(|_| Kept::Sectors(m as u64));
                    demand(&image, &after[acknowledged], &after[in_progress], &what);
                }
            }
        }
    }
}

/// The `nth` write or sync fails: that call and all later ones get errors, the log says why it stopped,
/// and a new process finds everything acknowledged, after a power cut too.
#[test]
fn a_failed_operation_poisons_the_log_and_loses_nothing_acknowledged() {
    let calls = script();
    for (at, errno) in [(FaultAt::Write, 28), (FaultAt::Sync, 5), (FaultAt::Any, 5)] {
        let mut nth = 0;
        loop {
            nth += 1;
            let disk = MemoryDisk::new();
            let log = open(&disk, &small()).unwrap();
            disk.fail(Fault {
                at,
                nth,
                errno,
                sticky: errno == 28,
            });
            let mut model = Model::default();
            let mut failed = None;
            for call in &calls {
                let before = model.told();
                let call = model.call(call);
                let saves_nothing = model.told().entries == before.entries
                    && model.told().state.vote == before.state.vote;
                let result = wait(|done| call(&log, done));
                if let Some((_, _, kind)) = &failed {
                    let error = result.err().filter(|e| Some(e.kind()) == *kind);
                    assert!(
                        error.is_some() || saves_nothing,
                        "{at:?} {nth}: a call after the failure"
                    );
                } else if let Err(error) = result {
                    failed = Some((before, model.told(), Some(error.kind())));
                }
            }
            let Some((acknowledged, in_progress, _)) = failed else {
                break;
            };
            assert!(log.poisoned().is_some(), "{at:?} {nth}");
            assert!(log.read(0, 1, 1).is_err());
            wait(|done| log.save_vote(vote(77), done)).unwrap_err();
            log.close();
            disk.heal();
            for (name, image) in [("killed", disk.copy()), ("power cut", disk.crash_synced())] {
                demand(
                    &image,
                    &acknowledged,
                    &in_progress,
                    &format!("{at:?} {nth} {errno}, {name}"),
                );
            }
        }
        assert!(nth > 50, "the fault was met {nth} times");
    }
}

#[test]
fn a_failing_open_can_be_repeated() {
    let calls = script();
    let (disk, after, _) = run(&calls, &[]);
    let last = after.last().unwrap();
    let torn = disk.crash(|_| Kept::Sectors(3));
    for at in [FaultAt::Write, FaultAt::Sync] {
        for nth in 1.. {
            let image = torn.copy();
            image.fail(Fault {
                at,
                nth,
                errno: 5,
                sticky: false,
            });
            match open(&image, &small()) {
                Ok(_) => break,
                Err(refusal) => assert!(refusal.is_io(), "{refusal}"),
            }
            image.heal();
            demand(
                &image.crash_synced(),
                last,
                last,
                &format!("open failed at {at:?} {nth}"),
            );
        }
    }
    // The very first open as well.
    for nth in 1.. {
        let image = MemoryDisk::new();
        image.fail(Fault {
            at: FaultAt::Any,
            nth,
            errno: 5,
            sticky: false,
        });
        if open(&image, &small()).is_ok() {
            break;
        }
        for image in [image.copy(), image.crash_synced()] {
            demand(
                &image,
                &after[0],
                &after[0],
                &format!("first open failed at {nth}"),
            );
        }
    }
}

#[test]
fn a_full_disk_does_not_block_recovery() {
    let options = LogOptions {
        reserve_bytes: 64 << 10,
        segment_bytes: 16 << 10,
        ..small()
    };
    let disk = MemoryDisk::new();
    let log = open(&disk, &options).unwrap();
    wait(|done| log.append(entries(1, 0..3, 100), done)).unwrap();
    drop(log);
    assert!(disk.exists("log/RESERVE").unwrap());
    // A tail to be zeroed, so that recovery has to write; the first write finds the disk full.
    let path = "log/0000000000000001.seg";
    let mut bytes = disk.contents(path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[end + 64] = 1;
    disk.overwrite(path, &bytes);
    disk.fail(Fault {
        at: FaultAt::Write,
        nth: 1,
        errno: 28,
        sticky: false,
    });
    let log = open(&disk, &options).unwrap();
    assert_eq!(told(&log).entries, entries(1, 0..3, 100));
    // With no reserve left, the refusal says that it is space that is missing.
    log.close();
    disk.overwrite(path, &bytes);
    disk.fail(Fault {
        at: FaultAt::Write,
        nth: 1,
        errno: 28,
        sticky: true,
    });
    let refusal = open(&disk, &options).unwrap_err();
    assert!(refusal.is_io() && refusal.is_disk_full(), "{refusal}");
}
