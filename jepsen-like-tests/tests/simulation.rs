//! The simulation: a seed is the same in every process, and one in which everything holds.
//! `scripts/sim` runs as many as one likes, faster: this is a debug build.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::path::Path;
use std::process::Command;

fn sim(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

fn traced(seed: &str, to: &Path) -> String {
    let trace = to.to_str().unwrap();
    let (valid, said) = sim(&["--seed", seed, "--seconds", "10", "--trace", trace]);
    assert!(valid, "{said}");
    std::fs::read_to_string(to).unwrap()
}

#[test]
fn the_same_seed_is_the_same_run_in_two_processes() {
    let directory = tempfile::tempdir().unwrap();
    let one = traced("2", &directory.path().join("one"));
    let other = traced("2", &directory.path().join("other"));
    assert!(one.lines().count() > 1_000, "something happens");
    let differs = one.lines().zip(other.lines()).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let around = |text: &str| {
            let lines = text.lines().skip(at.saturating_sub(3)).take(6);
            lines.collect::<Vec<_>>().join("\n")
        };
        panic!(
            "the runs differ in line {at}:\n{}\n\n{}",
            around(&one),
            around(&other)
        );
    }
    assert_eq!(one.len(), other.len(), "one goes on");
}

#[test]
fn whatever_a_seed_does_every_promise_is_kept() {
    let (valid, said) = sim(&["--seeds", "0..1", "--jobs", "1", "--seconds", "10"]);
    assert!(valid, "{said}");
    assert!(said.contains("1 seeds: 1 valid"), "{said}");
}
