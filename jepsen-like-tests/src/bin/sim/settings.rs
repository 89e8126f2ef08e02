//! The command line of the simulation.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use clap::Parser;
use jepsen_like_tests::simulation::{Control, Kind, Parameters};
use jepsen_like_tests::tool::number;

/// Runs simulated clusters, in each of which one number decides everything
#[derive(Clone, Debug, Parser)]
#[command(
    name = "scripts/sim",
    bin_name = "scripts/sim",
    after_help = "Exits with 0 when every seed is valid, 1 when one is not, 2 when it cannot be run."
)]
pub(crate) struct Settings {
    /// One seed, in this process
    #[arg(long, value_name = "N", conflicts_with = "seeds", required_unless_present_any = ["seeds", "control"])]
    seed: Option<u64>,
    /// Many seeds, each in a process of its own
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// How many of them at a time [default: as many as there are cores]
    #[arg(long, value_name = "N", default_value_t = cores(), hide_default_value = true, value_parser = number::<usize>(1..=1_000))]
    pub(crate) jobs: usize,
    /// Simulated seconds with faults
    #[arg(long, value_name = "N", default_value = "100", value_parser = number::<u64>(10..=3_600))]
    seconds: u64,
    /// Kinds of faults that may occur, all or none
    #[arg(long = "faults", value_name = "LIST", default_value = "all", value_parser = kinds)]
    kinds: BTreeSet<Kind>,
    /// Leaves planned faults out, by number
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) without: Vec<usize>,
    /// Breaks a promise on purpose, in a debug build: fsync, local-reads, request-window, newer-only or
    /// fresh-on-receipt; without a seed, in the case that shows it
    #[arg(long, value_name = "NAME", value_parser = Control::named)]
    pub(crate) control: Option<Control>,
    /// The case of a control, with nothing broken
    #[arg(long, requires = "control", conflicts_with_all = ["seed", "seeds"])]
    pub(crate) kept: bool,
    /// Prints what the seed decides and its faults, and runs nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Writes everything that happens as text
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Prints what the nodes log, for example `info` or `pennon_node=debug`
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Of a seed that fails: leaves out faults as long as it fails
    #[arg(long)]
    pub(crate) shrink: bool,
    /// For the parent: one line that a program reads
    #[arg(long, hide = true)]
    pub(crate) machine: bool,
}

impl Settings {
    /// Seeds that are run each in a process of its own.
    pub(crate) fn many(&self) -> Option<Range<u64>> {
        self.seeds.clone()
    }

    /// The seed of a single run; a written case has none, and is called 0.
    pub(crate) fn one(&self) -> u64 {
        let first = self.seeds.as_ref().map(|seeds| seeds.start);
        self.seed.or(first).unwrap_or_default()
    }

    /// What is run as this seed.
    pub(crate) fn parameters(&self, seed: u64) -> Parameters {
        let parameters = match self.control.filter(|_| self.is_case()) {
            Some(control) => control.case(),
            None => Parameters::new(seed, self.seconds, &self.kinds),
        };
        parameters.with_control(self.control.filter(|_| !self.kept))
    }

    /// What repeats the run of one seed.
    pub(crate) fn arguments(&self, seed: u64, without: &[usize]) -> Vec<String> {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        let mut arguments = Vec::new();
        if !self.is_case() {
            arguments.extend(["--seed".to_owned(), seed.to_string()]);
            arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        }
        if kinds.is_empty() {
            arguments.extend(["--faults".to_owned(), "none".to_owned()]);
        } else if kinds.len() < Kind::ALL.len() {
            arguments.extend(["--faults".to_owned(), kinds.join(",")]);
        }
        if let Some(control) = self.control {
            arguments.extend(["--control".to_owned(), control.as_str().to_owned()]);
        }
        if self.kept {
            arguments.push("--kept".to_owned());
        }
        if !without.is_empty() {
            let numbers: Vec<String> = without.iter().map(ToString::to_string).collect();
            arguments.extend(["--without".to_owned(), numbers.join(",")]);
        }
        arguments
    }

    /// Whether it is the written case of a control, which no seed decides.
    fn is_case(&self) -> bool {
        self.seed.is_none() && self.seeds.is_none()
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| {
        let read = text.parse::<u64>();
        read.map_err(|_| format!("{text:?} is no number"))
    };
    let (from, to) = text.split_once("..").ok_or("seeds are A..B")?;
    let seeds = number(from)?..number(to)?;
    match seeds.is_empty() {
        true => Err("there is no seed in it".to_owned()),
        false => Ok(seeds),
    }
}

fn kinds(list: &str) -> Result<BTreeSet<Kind>, String> {
    match list {
        "all" => Ok(Kind::ALL.into_iter().collect()),
        "none" => Ok(BTreeSet::new()),
        _ => list
            .split(',')
            .map(|name| Kind::named(name).ok_or(format!("no kind of fault is called {name}")))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Settings, clap::Error> {
        Settings::try_parse_from(["sim"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_read() {
        let given = read("--seeds 3..9 --jobs 2 --seconds 60 --faults kill,power").unwrap();
        assert_eq!((given.many(), given.one(), given.jobs), (Some(3..9), 3, 2));
        assert_eq!((given.seconds, given.kinds.len()), (60, 2));
        let given = read("--seed 7 --without 1,4 --plan --shrink").unwrap();
        assert_eq!((given.many(), given.one()), (None, 7));
        assert_eq!(
            (given.seconds, given.without.as_slice()),
            (100, &[1, 4][..])
        );
        assert!(given.plan && given.shrink && !given.machine);
        for wrong in [
            "",
            "--jobs 2",
            "--seed x",
            "--seed 1 --seeds 1..2",
            "--seeds 5",
            "--seeds 5..5",
            "--seed 1 --seconds 5",
            "--seed 1 --faults kil",
            "--seed 1 --without x",
            "--seed 1 --control x",
            "--seed 1 --kept",
            "--kept",
        ] {
            assert_eq!(read(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn what_repeats_a_run_is_read_as_that_run() {
        for line in [
            "--seed 3 --seconds 60",
            "--seed 3 --seconds 100 --faults kill,power --without 2,5",
            "--seed 3 --seconds 100 --faults none",
        ] {
            let given = read(line).unwrap();
            let again = given.arguments(given.one(), &given.without).join(" ");
            assert_eq!(again, line);
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_control_needs_no_seed() {
        for line in ["--control fsync", "--control fsync --kept"] {
            let given = read(line).unwrap();
            assert_eq!(given.arguments(0, &[]).join(" "), line);
        }
        assert!(read("--control fsync --seed 1").is_ok());
        assert!(read("--control fsync --seed 1 --kept").is_err());
    }
}
