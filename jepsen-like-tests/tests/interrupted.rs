//! A run of real nodes that is told to end in the middle leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jepsen_like_tests::binary;
use rustix::process::{Pid, Signal, kill_process};

const WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// The processes that have a data directory below this one, as its lock names them.
fn nodes(below: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(nodes(&path));
        } else if path.ends_with("LOCK") {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            found.extend(holder.trim().parse::<u32>());
        }
    }
    found
}

/// Whether there is such a process, of the binary under test.
fn runs(id: u32) -> bool {
    let binary = fs::read_link(format!("/proc/{id}/exe"));
    binary.is_ok_and(|path| path.ends_with("pennon"))
}

/// Whether a process was stopped and is to go on later.
fn stands_still(id: u32) -> bool {
    let said = fs::read_to_string(format!("/proc/{id}/status"));
    said.is_ok_and(|said| said.contains("State:\tT"))
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Kills it when a test gives up.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_that_is_told_to_end_takes_its_nodes_and_mounts_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let out = fs::canonicalize(directory.path()).unwrap().join("out");
    for signal in [Signal::TERM, Signal::INT] {
        let _ = fs::remove_dir_all(&out);
        let mut run = Command::new(env!("CARGO_BIN_EXE_chaos"));
        run.args(["--seconds", "60", "--nodes", "3", "--nemesis", "pause,disk"]);
        run.arg("--out").arg(&out);
        run.env("PENNON_BIN", binary::pennon().unwrap());
        let mut run = Run(run
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap());
        let mut started = BTreeSet::new();
        wait_for("three nodes", || {
            started = nodes(&out).into_iter().filter(|id| runs(*id)).collect();
            // Once in the middle of a fault, once before any.
            let still = signal == Signal::INT || started.iter().any(|id| stands_still(*id));
            started.len() >= 3 && still
        });
        let chaos = i32::try_from(run.0.id()).ok().and_then(Pid::from_raw);
        kill_process(chaos.unwrap(), signal).unwrap();
        let mut code = None;
        wait_for("its end", || {
            code = run.0.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(code.unwrap().code(), Some(2), "nothing can be said");
        started.extend(nodes(&out));
        let left: Vec<u32> = started.into_iter().filter(|id| runs(*id)).collect();
        assert!(left.is_empty(), "{left:?} still run");
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let left = mounts
            .lines()
            .find(|line| line.contains(out.to_str().unwrap()));
        assert_eq!(left, None);
    }
}
