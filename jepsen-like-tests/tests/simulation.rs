//! The simulation: a seed is the same in every process, and a few seeds in which everything holds.
//!
//! Seeds that failed once are kept in `KEPT`, each with what was wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::path::Path;
use std::process::Command;

/// Seeds that failed once, and with how many simulated seconds.
const KEPT: [(u64, u64); 1] = [
    // After a failed fsync a task of the node never waited again (`node/src/succession.rs`).
    (1, 15),
];

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
    let (valid, said) = sim(&["--seed", seed, "--seconds", "12", "--trace", trace]);
    assert!(valid, "{said}");
    std::fs::read_to_string(to).unwrap()
}

#[test]
fn the_same_seed_is_the_same_run_in_two_processes() {
    let directory = tempfile::tempdir().unwrap();
    for seed in ["2", "5"] {
        let one = traced(seed, &directory.path().join("one"));
        let other = traced(seed, &directory.path().join("other"));
        assert!(one.lines().count() > 1_000, "something happens");
        let differs = one.lines().zip(other.lines()).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let around = |text: &str| {
                let lines = text.lines().skip(at.saturating_sub(3)).take(6);
                lines.collect::<Vec<_>>().join("\n")
            };
            panic!(
                "seed {seed} differs in line {at}:\n{}\n\n{}",
                around(&one),
                around(&other)
            );
        }
        assert_eq!(one.len(), other.len(), "seed {seed}: one goes on");
    }
}

#[test]
fn seeds_that_failed_once_are_valid() {
    for (seed, seconds) in KEPT {
        let (seed, seconds) = (seed.to_string(), seconds.to_string());
        let (valid, said) = sim(&["--seed", &seed, "--seconds", &seconds]);
        assert!(valid, "{said}");
    }
}
