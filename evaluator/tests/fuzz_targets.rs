//! The fuzz targets, in the small: each over thousands of inputs, the same ones in every run.
//!
//! What must hold is said by the targets (`fuzz/src/targets`); here, that each input is answered
//! before a deadline, and that a run has seen every kind of answer that a target can give, so that
//! it is not the first check alone that refuses everything. `scripts/fuzz` runs the same functions
//! guided by coverage and for longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use targets::mutate::{self, Rng};
use targets::{Seen, TARGETS, Target};

/// The longest time for one input. Most take microseconds; building a regular expression that is
/// almost too large takes a second or two without optimisation.
const DEADLINE: Duration = Duration::from_secs(60);

/// Names a file with an input that is to be run alone.
const ONE_INPUT: &str = "PENNON_FUZZ_INPUT";

fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Runs a target over all seeds and then over what is made of them.
fn run(name: &'static str) {
    let target = target(name);
    let seeds = (target.seeds)();
    if let Some(file) = std::env::var_os(ONE_INPUT) {
        (target.run)(&std::fs::read(file).unwrap(), &mut Seen::default());
        return;
    }
    let (done, waiting) = channel();
    let current = Arc::new(Mutex::new(Vec::new()));
    let at_work = Arc::clone(&current);
    let worker = std::thread::spawn(move || {
        let (mut seen, mut rng) = (Seen::default(), Rng::new(1));
        for n in 0..target.cases + seeds.len() {
            let made = || mutate::input(target.form, &seeds, &mut rng);
            let input = seeds.get(n).cloned().unwrap_or_else(made);
            at_work.lock().unwrap().clone_from(&input);
            (target.run)(&input, &mut seen);
            done.send(()).unwrap();
        }
        seen
    });
    let ended = loop {
        match waiting.recv_timeout(DEADLINE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break worker.join().map_err(|_| "fails"),
            Err(RecvTimeoutError::Timeout) => break Err("is not answered in time"),
        }
    };
    let seen =
        ended.unwrap_or_else(|what| panic!("{}", replay(name, what, &current.lock().unwrap())));
    let missing = target
        .answers
        .iter()
        .filter(|answer| !seen.0.contains_key(*answer));
    let missing: Vec<_> = missing.collect();
    assert!(
        missing.is_empty(),
        "{name} never gave {missing:?} but {seen:?}"
    );
}

/// Keeps an input, and says how it is run alone.
fn replay(name: &str, what: &str, input: &[u8]) -> String {
    let crc = crc32fast::hash(input);
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{crc:08x}"));
    std::fs::write(&file, input).unwrap();
    let file = file.display();
    format!(
        "an input of {} bytes {what}; run it alone:\n\
         {ONE_INPUT}={file} cargo test -p pennon-evaluator --test fuzz_targets -- --exact {name}",
        input.len()
    )
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! { state encoded snapshot delta frames flag policy segment environment subject json keys }
