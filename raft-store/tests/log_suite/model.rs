//! Random histories against a plain map: in memory without a thread, on real files with one.

use pennon_raft_store::disk::{MemoryDisk, RealDisk};
use pennon_raft_store::log::{Flushing, LogOptions, LogStore, SegmentLog};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::common::{Call, Model, Told, answer, entries, id, open, small, told, wait};

#[derive(Debug, Clone)]
enum Step {
    Call(Call),
    /// Close and open again.
    Reopen,
    /// Go on with what a power cut leaves (in memory only; otherwise as Reopen).
    PowerCut,
    Seal,
    /// A range and a bound.
    Read(u64, u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lens = prop::collection::vec(
        prop_oneof![8 => 0..300usize, 1 => 1000..3000usize, 1 => Just(20_000)],
        0..6,
    );
    prop_oneof![
        8 => lens.prop_map(|lens| Step::Call(Call::Append(lens))),
        3 => (0..8u64).prop_map(|n| Step::Call(Call::Truncate(n))),
        2 => (0..12u64).prop_map(|n| Step::Call(Call::Purge(n))),
        1 => Just(Step::Call(Call::Vote)),
        2 => (0..4u64).prop_map(|n| Step::Call(Call::Committed(n))),
        1 => Just(Step::Reopen),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Seal),
        2 => (0..80u64, 0..20u64, 0..4000usize).prop_map(|(from, len, max)| Step::Read(from, from + len, max)),
    ]
}

fn check(log: &SegmentLog, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(told(log), model.told());
    Ok(())
}

fn check_read(
    log: &SegmentLog,
    model: &Model,
    from: u64,
    to: u64,
    max: usize,
) -> Result<(), TestCaseError> {
    let read = log.read(from, to, max).unwrap();
    let all: Vec<_> = model
        .told()
        .entries
        .into_iter()
        .filter(|e| (from..to).contains(&e.id.index))
        .collect();
    prop_assert_eq!(&all[..read.len()], &read[..]);
    let sum = |n: usize| all[..n].iter().map(|e| e.payload.len()).sum::<usize>();
    prop_assert!(read.len() <= 1 || sum(read.len()) <= max, "too much");
    prop_assert!(
        read.len() == all.len() || (!read.is_empty() && sum(read.len() + 1) > max),
        "too little"
    );
    Ok(())
}

fn in_memory(steps: &[Step], options: &LogOptions) -> Result<(), TestCaseError> {
    let mut disk = MemoryDisk::new();
    let mut log = open(&disk, options).unwrap();
    let mut model = Model::default();
    // `committed` is best effort: what an earlier batch carried may come back.
    let mut committed_before = vec![None];
    for step in steps {
        match step {
            Step::Call(call) => {
                let call = model.call(call);
                wait(|done| call(&log, done)).unwrap();
                if log.state().committed != model.told().state.committed {
                    log.save_committed(model.told().state.committed);
                }
                committed_before.push(model.told().state.committed);
            }
            Step::Reopen => {
                log.close();
                log = open(&disk, options).unwrap();
            }
            Step::PowerCut => {
                disk = disk.crash_synced();
                log = open(&disk, options).unwrap();
                let committed = log.state().committed;
                prop_assert!(committed_before.contains(&committed));
                log.save_committed(model.told().state.committed);
            }
            Step::Seal => log.seal(),
            Step::Read(from, to, max) => check_read(&log, &model, *from, *to, *max)?,
        }
        check(&log, &model)?;
    }
    Ok(())
}

fn on_files(steps: &[Step], options: &LogOptions) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path()).unwrap();
    let mut log = open(&disk, options).unwrap();
    let mut model = Model::default();
    let mut answers = Vec::new();
    for step in steps {
        match step {
            Step::Call(call) => {
                let call = model.call(call);
                let (done, told) = answer();
                call(&log, done);
                answers.push(told);
                log.save_committed(model.told().state.committed);
            }
            Step::Reopen | Step::PowerCut => {
                log.close();
                for told in answers.drain(..) {
                    told.try_recv().unwrap().unwrap();
                }
                log = open(&disk, options).unwrap();
            }
            Step::Seal => log.seal(),
            Step::Read(from, to, max) => check_read(&log, &model, *from, *to, *max)?,
        }
        check(&log, &model)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_in_memory(steps in prop::collection::vec(step(), 0..60)) {
        in_memory(&steps, &small())?;
    }

    #[test]
    fn any_history_in_memory_in_many_batches(steps in prop::collection::vec(step(), 0..40)) {
        in_memory(&steps, &LogOptions { batch_bytes_max: 400, cache_bytes_max: 0, ..small() })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_on_files(steps in prop::collection::vec(step(), 0..60)) {
        on_files(&steps, &LogOptions { flushing: Flushing::Thread, segment_bytes: 16 << 10, ..small() })?;
    }
}

/// The first of the two legal histories that published logs fail on.
#[test]
fn a_purge_past_the_end_drops_the_whole_log_and_it_goes_on_behind() {
    let disk = MemoryDisk::new();
    for reopen in [false, true] {
        let disk = disk.copy();
        let mut log = open(&disk, &small()).unwrap();
        wait(|done| log.append(entries(1, 0..10, 2000), done)).unwrap();
        wait(|done| log.purge(id(3, 50), done)).unwrap();
        if reopen {
            log.close();
            log = open(&disk, &small()).unwrap();
        }
        let state = log.state();
        assert_eq!(
            (state.purged, state.last),
            (Some(id(3, 50)), Some(id(3, 50)))
        );
        assert_eq!(told(&log).entries, []);
        wait(|done| log.append(entries(3, 50..51, 10), done)).unwrap_err();
        wait(|done| log.append(entries(3, 51..54, 10), done)).unwrap();
        let disk = disk.crash_synced();
        let log = open(&disk, &small()).unwrap();
        assert_eq!(told(&log).entries, entries(3, 51..54, 10));
        assert_eq!(log.state().purged, Some(id(3, 50)));
    }
}

/// The second: entries that replace others have a higher term and a lower index, so eviction by id order
/// drops what is not durable yet.
#[test]
fn entries_after_a_truncate_replace_what_was_there() {
    let disk = MemoryDisk::new();
    let options = LogOptions {
        cache_bytes_max: 0,
        ..small()
    };
    let log = open(&disk, &options).unwrap();
    wait(|done| log.append(entries(1, 0..20, 500), done)).unwrap();
    wait(|done| log.truncate_after(Some(id(1, 4)), done)).unwrap();
    wait(|done| log.append(entries(2, 5..8, 300), done)).unwrap();
    let expected = [entries(1, 0..5, 500), entries(2, 5..8, 300)].concat();
    assert_eq!(told(&log).entries, expected);
    let log = open(&disk.crash_synced(), &options).unwrap();
    assert_eq!(
        told(&log),
        Told {
            entries: expected,
            ..told(&log)
        }
    );
}

#[test]
fn a_purge_unlinks_the_segments_below_it_and_keeps_the_rest() {
    let disk = MemoryDisk::new();
    let log = open(&disk, &small()).unwrap();
    for index in 0..40 {
        wait(|done| log.append(entries(1, index..index + 1, 1000), done)).unwrap();
    }
    let segments = || -> Vec<String> {
        use pennon_raft_store::disk::Disk;
        disk.list("log")
            .unwrap()
            .into_iter()
            .filter(|name| name.ends_with(".seg"))
            .collect()
    };
    let before = segments();
    wait(|done| log.purge(id(1, 20), done)).unwrap();
    let after = segments();
    assert!(
        after.len() < before.len() && before.ends_with(&after),
        "{before:?} to {after:?}"
    );
    assert_eq!(told(&log).entries, entries(1, 21..40, 1000));
    // A truncate and new entries in later segments keep the older ones alive, however the purge looks.
    wait(|done| log.truncate_after(Some(id(1, 25)), done)).unwrap();
    wait(|done| log.append(entries(2, 26..60, 1000), done)).unwrap();
    wait(|done| log.purge(id(1, 24), done)).unwrap();
    let expected = [entries(1, 25..26, 1000), entries(2, 26..60, 1000)].concat();
    assert_eq!(
        told(&open(&disk.crash_synced(), &small()).unwrap()).entries,
        expected
    );
}
