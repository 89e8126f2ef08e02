//! The command line of `sim`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use jepsen_like_tests::simulation::{Control, Kind, Parameters};

pub(crate) const USAGE: &str = "usage: sim --seed N | --seeds A..B [--jobs N] | --control NAME [--kept]
  --seconds N        simulated seconds with faults (default 100)
  --faults LIST      kinds of faults that may occur, `all` or `none` (default all)
  --without N,N,...  leave planned faults out, by number
  --control NAME     break a promise on purpose, in a debug build: fsync, local-reads, request-window,
                     newer-only or fresh-on-receipt; without a seed, in the case that shows it
  --kept             the case of a control, with nothing broken
  --plan             print what the seed decides and its faults, and run nothing
  --trace FILE       write everything that happens as text
  --log FILTER       print what the nodes log, for example `info` or `pennon_node=debug`
  --shrink           of a seed that fails: leave out faults as long as it fails";

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seeds: Range<u64>,
    /// Many seeds, each in a process of its own.
    pub(crate) many: bool,
    pub(crate) jobs: usize,
    pub(crate) seconds: u64,
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) without: Vec<usize>,
    pub(crate) control: Option<Control>,
    /// The case of the control, with nothing broken.
    pub(crate) kept: bool,
    pub(crate) plan: bool,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) log: Option<String>,
    pub(crate) shrink: bool,
    /// For the parent: one line that a program reads.
    pub(crate) machine: bool,
}

impl Settings {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut settings = Settings {
            seeds: 0..0,
            many: false,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            seconds: 100,
            kinds: Kind::ALL.into_iter().collect(),
            without: Vec::new(),
            control: None,
            kept: false,
            plan: false,
            trace: None,
            log: None,
            shrink: false,
            machine: false,
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--kept" => settings.kept = true,
                "--plan" => settings.plan = true,
                "--shrink" => settings.shrink = true,
                "--machine" => settings.machine = true,
                _ => {
                    let value = arguments.next();
                    settings.set(&name, &value.ok_or(format!("{name} needs a value"))?)?;
                }
            }
        }
        match (settings.seeds.is_empty(), settings.control) {
            (true, None) => Err("which seed?".to_owned()),
            (_, None) | (false, _) if settings.kept => Err("--kept is for a case".to_owned()),
            _ => Ok(Some(settings)),
        }
    }

    /// What is run as this seed.
    pub(crate) fn parameters(&self, seed: u64) -> Parameters {
        let parameters = match self.control.filter(|_| self.seeds.is_empty()) {
            Some(control) => control.case(),
            None => Parameters::new(seed, self.seconds, &self.kinds),
        };
        parameters.with_control(self.control.filter(|_| !self.kept))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "--seed" => {
                let seed: u64 = number(value)?;
                self.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or("seeds are A..B")?;
                self.seeds = number(from)?..number(to)?;
                self.many = true;
            }
            "--jobs" => self.jobs = number::<usize>(value)?.max(1),
            "--seconds" => self.seconds = number::<u64>(value)?.clamp(10, 3600),
            "--faults" => self.kinds = kinds(value)?,
            "--without" => {
                let numbers = value.split(',').filter(|number| !number.is_empty());
                self.without = numbers.map(number).collect::<Result<_, _>>()?;
            }
            "--control" => self.control = Some(Control::named(value)?),
            "--trace" => self.trace = Some(value.into()),
            "--log" => self.log = Some(value.to_owned()),
            _ => return Err(format!("{name} is not known")),
        }
        Ok(())
    }

    /// What repeats the run of one seed.
    pub(crate) fn arguments(&self, seed: u64, without: &[usize]) -> Vec<String> {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        let mut arguments = Vec::new();
        if !self.seeds.is_empty() {
            arguments.extend(["--seed".to_owned(), seed.to_string()]);
            arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        }
        if self.kinds.len() < Kind::ALL.len() {
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
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
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
