//! A real process writes to a real directory and is killed while it does.
//!
//! The child is this test binary, started again for one test with the directory in the environment. It
//! prints each index when it is acknowledged; the parent kills it after so many lines, and opens.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use pennon_raft_store::disk::RealDisk;
use pennon_raft_store::log::{Flushing, LogOptions, LogStore};

use super::common::{entry, id, open, small, vote};

const DIRECTORY: &str = "PENNON_TEST_LOG_CHILD";
const ROUNDS: u64 = 10;
const IN_FLIGHT_MAX: u64 = 40;

fn options() -> LogOptions {
    LogOptions {
        flushing: Flushing::Thread,
        segment_bytes: 32 << 10,
        ..small()
    }
}

fn len(index: u64) -> usize {
    (index * 37 % 900) as usize
}

fn term(index: u64) -> u64 {
    1 + index / 100
}

/// Not a test of its own: what the child does. Without the variable there is nothing to do.
#[test]
fn writing_child() {
    let Ok(dir) = std::env::var(DIRECTORY) else {
        return;
    };
    let disk = RealDisk::new(dir).unwrap();
    let log = open(&disk, &options()).unwrap();
    let acknowledged = Arc::new((Mutex::new(0), Condvar::new()));
    let first = log.state().last.map_or(0, |last| last.index + 1);
    for index in first.. {
        if index % 100 == 0 {
            log.save_vote(vote(term(index)), Box::new(|result| result.unwrap()));
        }
        if index % 50 == 49 {
            // Two that will not stay.
            log.append(
                vec![entry(0, index, 5), entry(0, index + 1, 5)],
                Box::new(|result| result.unwrap()),
            );
            let kept = log
                .read(index - 1, index, 0)
                .unwrap()
                .first()
                .map(|entry| entry.id);
            log.truncate_after(kept, Box::new(|result| result.unwrap()));
        }
        if index % 120 == 119 {
            let upto = index - 80;
            log.purge(id(term(upto), upto), Box::new(|result| result.unwrap()));
        }
        let tell = acknowledged.clone();
        let done = move |result: std::io::Result<()>| {
            // Not `println`, which the harness may hold back.
            let mut out = std::io::stdout().lock();
            let told = result
                .and_then(|()| writeln!(out, "acknowledged {index}"))
                .and_then(|()| out.flush());
            if told.is_err() {
                // The parent is gone, or sees that nothing more comes.
                std::process::exit(1);
            }
            *tell.0.lock().unwrap() = index + 1;
            tell.1.notify_one();
        };
        log.append(vec![entry(term(index), index, len(index))], Box::new(done));
        let mut count = acknowledged.0.lock().unwrap();
        while (*count).max(first) + IN_FLIGHT_MAX < index {
            count = acknowledged.1.wait(count).unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::writing_child", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut indexes = lines.map_while(Result::ok).filter_map(|line| {
            let (_, index) = line.split_once("acknowledged ")?;
            index.parse::<u64>().ok()
        });
        let mut last = None;
        for _ in 0..40 + round * 61 {
            last = Some(
                indexes
                    .next()
                    .expect("the child goes on until it is killed"),
            );
        }
        child.kill().unwrap();
        last = indexes.last().or(last);
        child.wait().unwrap();
        let last = last.unwrap();

        let disk = RealDisk::new(dir.path()).unwrap();
        let log = open(&disk, &options()).unwrap();
        let state = log.state();
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        assert!(
            state.last.unwrap().index >= last,
            "round {round}: {last} was acknowledged, {state:?}"
        );
        assert!(
            state.vote.unwrap().term >= term(last),
            "round {round}: {state:?}"
        );
        assert!(
            first <= last.saturating_sub(30),
            "round {round}: {last} was acknowledged, {state:?}"
        );
        let found = log.read(first, last + 1, usize::MAX).unwrap();
        let expected: Vec<_> = (first..=last)
            .map(|index| entry(term(index), index, len(index)))
            .collect();
        assert_eq!(found, expected, "round {round}");
        // Whatever came after the last acknowledged one may be one of the two that did not stay.
        let (done, told) = super::common::answer();
        log.truncate_after(Some(id(term(last), last)), done);
        told.recv().unwrap().unwrap();
    }
}
