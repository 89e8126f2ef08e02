//! What the programs have in common: which target is run, its seeds, and how inputs are changed.
//!
//! libFuzzer owns `main` and the command line, so the environment says what to do:
//! `PENNON_FUZZ_TARGET` names the target; with `PENNON_FUZZ_SEEDS`, a directory, its seeds are
//! written there, one file each, and nothing is run; with `PENNON_FUZZ_LIST` the names are printed;
//! with `PENNON_FUZZ_SHOW` the answers to each input are.

use std::path::Path;

use crate::targets::mutate::{self, Rng};
use crate::targets::{Form, Seen, Target};

/// The target of this process.
pub(crate) struct Running {
    target: &'static Target,
    seeds: Vec<Vec<u8>>,
    shows: bool,
}

impl Running {
    /// Does what the environment says, and returns when that is to run a target.
    pub(crate) fn begin(targets: &'static [Target]) -> Running {
        if std::env::var_os("PENNON_FUZZ_LIST").is_some() {
            targets
                .iter()
                .for_each(|target| println!("{}", target.name));
            std::process::exit(0);
        }
        let name = std::env::var("PENNON_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = targets.iter().find(|target| target.name == name) else {
            eprintln!("there is no target {name:?}; PENNON_FUZZ_LIST=1 lists them");
            std::process::exit(2);
        };
        let seeds = (target.seeds)();
        if let Some(directory) = std::env::var_os("PENNON_FUZZ_SEEDS") {
            write(Path::new(&directory), &seeds);
            std::process::exit(0);
        }
        let shows = std::env::var_os("PENNON_FUZZ_SHOW").is_some();
        Running {
            target,
            seeds,
            shows,
        }
    }

    /// Runs the target over one input.
    pub(crate) fn run(&self, input: &[u8]) {
        let mut seen = Seen::default();
        (self.target.run)(input, &mut seen);
        if self.shows {
            eprintln!("{} bytes: {:?}", input.len(), seen.0);
        }
    }

    /// Changes an input as its form suggests, or leaves it to libFuzzer: then there is nothing.
    pub(crate) fn change(&self, input: &[u8], seed: u32) -> Option<Vec<u8>> {
        let mut rng = Rng::new(u64::from(seed));
        let ours = match self.target.form {
            Form::Json => !rng.one_in(3),
            Form::Bytes(_) => rng.one_in(4),
        };
        let other = &self.seeds[rng.below(self.seeds.len())];
        ours.then(|| mutate::changed(self.target.form, input, other, &mut rng))
    }
}

fn write(directory: &Path, seeds: &[Vec<u8>]) {
    for seed in seeds {
        let name = format!("seed-{:08x}", crc32fast::hash(seed));
        if let Err(error) = std::fs::write(directory.join(name), seed) {
            eprintln!("{}: {error}", directory.display());
            std::process::exit(1);
        }
    }
}

/// Makes the functions that libFuzzer calls.
macro_rules! fuzz {
    ($targets:expr) => {
        static RUNNING: std::sync::OnceLock<crate::main_loop::Running> =
            std::sync::OnceLock::new();

        fn running() -> &'static crate::main_loop::Running {
            RUNNING.get_or_init(|| crate::main_loop::Running::begin($targets))
        }

        libfuzzer_sys::fuzz_target!(
            init: { running(); },
            |input: &[u8]| running().run(input)
        );

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            match running().change(&data[..size], seed) {
                Some(changed) => {
                    let size = changed.len().min(max_size);
                    data[..size].copy_from_slice(&changed[..size]);
                    size
                }
                None => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
            }
        });
    };
}
