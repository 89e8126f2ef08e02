//! The command line.

use std::path::PathBuf;

use jepsen_like_tests::{Failure, Result};

/// Workers that one run starts at most: sockets on one machine end there.
const WORKERS_MAX: usize = 4_096;

pub(crate) const USAGE: &str = "\
Usage: scripts/bench writes|reads [--json] [--seconds N] [--rounds N] [--workers N,…] [--to any|leader] [--data DIR]
       scripts/bench failover [--json] [--rounds N] [--data DIR]

writes: conditional writes, each on the version that the one before made; reads: linearizable ones.
  --seconds N    how long each number of workers works in each round [default: 3]
  --rounds N     rounds; medians are shown [default: 3]
  --workers N,…  numbers of workers [default: 1,16,64,256]
  --to WHERE     any: workers spread over the nodes [default]; leader: all ask the leader
failover: the leader is killed; from then until a write that began after it is answered.
  --rounds N     leaders that are killed [default: 10]
all:
  --without-etcd do not compare
  --data DIR     where the nodes keep their data: the disk that is measured [default: a new
                 directory for temporary files, removed at the end]
  --json         one JSON object instead of a table";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bench {
    Writes,
    Reads,
    Failover,
}

impl Bench {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Bench::Writes => "writes",
            Bench::Reads => "reads",
            Bench::Failover => "failover",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) bench: Bench,
    pub(crate) json: bool,
    pub(crate) seconds: u64,
    pub(crate) rounds: usize,
    pub(crate) workers: Vec<usize>,
    pub(crate) to_leader: bool,
    pub(crate) etcd: bool,
    pub(crate) data: Option<PathBuf>,
}

impl Settings {
    /// Reads the command line; `None` when help is asked for.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
        let bench = match arguments.next().as_deref() {
            Some("writes") => Bench::Writes,
            Some("reads") => Bench::Reads,
            Some("failover") => Bench::Failover,
            Some("--help" | "-h") => return Ok(None),
            other => return Err(Failure::new(format!("there is no bench {other:?}"))),
        };
        let mut settings = Settings {
            bench,
            json: false,
            seconds: 3,
            rounds: if bench == Bench::Failover { 10 } else { 3 },
            workers: vec![1, 16, 64, 256],
            to_leader: false,
            etcd: true,
            data: None,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| Failure::new(format!("{argument} needs a value")))
            };
            match (argument.as_str(), bench) {
                ("--help" | "-h", _) => return Ok(None),
                ("--json", _) => settings.json = true,
                ("--without-etcd", _) => settings.etcd = false,
                ("--rounds", _) => settings.rounds = number(&value()?, 1_000)?,
                ("--data", _) => settings.data = Some(value()?.into()),
                ("--seconds", Bench::Writes | Bench::Reads) => {
                    settings.seconds = number(&value()?, 3_600)? as u64;
                }
                ("--workers", Bench::Writes | Bench::Reads) => {
                    let numbers = value()?;
                    let numbers = numbers.split(',').map(|text| number(text, WORKERS_MAX));
                    settings.workers = numbers.collect::<Result<_>>()?;
                }
                ("--to", Bench::Writes | Bench::Reads) => {
                    settings.to_leader = match value()?.as_str() {
                        "any" => false,
                        "leader" => true,
                        other => {
                            let text = format!("--to {other:?} is neither any nor leader");
                            return Err(Failure::new(text));
                        }
                    }
                }
                (other, _) => {
                    let text = format!("there is no option {other:?} of {}", bench.word());
                    return Err(Failure::new(text));
                }
            }
        }
        Ok(Some(settings))
    }
}

fn number(text: &str, max: usize) -> Result<usize> {
    let number = text.parse().ok().filter(|n| (1..=max).contains(n));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from 1 to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_the_rest_refused() {
        let read = |line: &str| Settings::read(line.split_whitespace().map(str::to_owned));
        let given = read("writes --json --seconds 7 --workers 1,64 --to leader")
            .unwrap()
            .unwrap();
        assert!(given.json && given.to_leader && given.seconds == 7 && given.etcd);
        assert_eq!(given.workers, [1, 64]);
        assert_eq!(read("failover").unwrap().unwrap().rounds, 10);
        assert!(read("--help").unwrap().is_none() && read("reads -h").unwrap().is_none());
        for wrong in [
            "writes --seconds",
            "writes --seconds 0",
            "reads --to follower",
            "writes --workers 1,,2",
            "failover --seconds 3",
            "deletes",
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
