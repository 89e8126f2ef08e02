//! Controls: whole systems that break a promise on purpose, and the checker that has to see it, by the
//! rule that speaks of it. The same case with nothing broken is valid, so it is the control that is seen.
//! Cases are written down in `simulation/cases.rs`; `scripts/sim --control NAME [--kept]` shows one.

#![cfg(debug_assertions)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::process::{Command, Output, Stdio};

/// Starts the case of a control.
fn sim(control: &str, more: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--control", control])
        .args(more)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether this checker complains by this rule.
fn complains(said: &str, checker: &str, rule: &str) -> bool {
    let checker = format!("{checker}: ");
    let mut lines = said.lines().skip_while(|line| !line.starts_with(&checker));
    lines.next().is_some_and(|line| line.contains(" complaint"))
        && lines
            .take_while(|line| line.starts_with("  "))
            .any(|line| line.trim_start().starts_with(rule))
}

/// The checker complains of the broken system, and nobody of the same system with nothing broken.
fn sees(checker: &str, rule: &str, control: &str) {
    let broken = sim(control, &[]);
    let kept = sim(control, &["--kept"]).wait_with_output().unwrap();
    let broken = broken.wait_with_output().unwrap();
    assert!(kept.status.success(), "without {control}: {}", said(&kept));
    let of_broken = said(&broken);
    assert_eq!(broken.status.code(), Some(1), "{control}: {of_broken}");
    assert!(
        of_broken.contains(" INVALID: ") && complains(&of_broken, checker, rule),
        "{checker} does not see {control} by {rule}: {of_broken}"
    );
}

#[test]
fn what_no_disk_has_is_missed_after_a_power_cut() {
    sees("durable", "NotInHistory", "fsync"); // I9
}

#[test]
fn local_reads_are_not_linearizable() {
    sees("registers", "WentBack", "local-reads"); // I1
}

#[test]
fn without_the_window_a_retry_is_a_second_request() {
    sees("exactly-once", "RefusedButDone", "request-window"); // I9
}

#[test]
fn whoever_takes_any_version_goes_back() {
    sees("never-back", "SnapshotFell", "newer-only"); // I6
}

#[test]
fn what_came_just_now_can_be_old() {
    sees("freshness", "StaleCalledFresh", "fresh-on-receipt"); // I5
}
