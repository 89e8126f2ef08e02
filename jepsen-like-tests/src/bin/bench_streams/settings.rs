//! The command line.

use std::path::PathBuf;

use jepsen_like_tests::{Failure, Result};

/// Readers that one run opens at most: sockets on one machine end there.
const READERS_MAX: usize = 20_000;

pub(crate) const USAGE: &str = "\
Usage: scripts/bench propagation [--json] [--streams N,N,…] [--flips N] [--rounds N] [--flags N] [--data DIR]
       scripts/bench streams [--json] [--idle N] [--storm N] [--rounds N] [--flags N] [--data DIR]

propagation: from just before a flag is flipped until the last client has the new version.
  --streams N,…  numbers of clients [default: 1,100,1000]
  --flips N      flips that count, for each number of clients in each round [default: 100]
  --rounds N     rounds; medians are shown [default: 3]
  --flags N      flags in the environment [default: 100]
streams: without --idle and --storm both.
  --idle N       idle streams on one node: its memory and time for each, and one change to all
                 [10000 unless one of the two is given]
  --storm N      clients over three nodes, one of which is killed [5000 likewise]
  --rounds N     storms after the death of a follower, and as many after that of a leader [default: 3]
  --flags N      flags in the environment [default: 1000 with --idle, 100 with --storm]
both:
  --without-etcd do not compare
  --data DIR     where the nodes keep their data [default: a directory for temporary files]
  --json         one JSON object instead of tables";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bench {
    Propagation,
    Streams,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) bench: Bench,
    pub(crate) json: bool,
    pub(crate) streams: Vec<usize>,
    pub(crate) flips: usize,
    pub(crate) rounds: usize,
    pub(crate) idle: Option<usize>,
    pub(crate) storm: Option<usize>,
    pub(crate) flags: Option<usize>,
    pub(crate) etcd: bool,
    pub(crate) data: Option<PathBuf>,
}

impl Settings {
    /// Reads the command line; `None` when help is asked for.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
        let bench = match arguments.next().as_deref() {
            Some("propagation") => Bench::Propagation,
            Some("streams") => Bench::Streams,
            Some("--help" | "-h") => return Ok(None),
            other => return Err(Failure::new(format!("there is no bench {other:?}"))),
        };
        let mut settings = Settings {
            bench,
            json: false,
            streams: vec![1, 100, 1_000],
            flips: 100,
            rounds: 3,
            idle: None,
            storm: None,
            flags: None,
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
                ("--data", _) => settings.data = Some(value()?.into()),
                ("--rounds", _) => settings.rounds = number(&value()?)?,
                ("--flags", _) => settings.flags = Some(number(&value()?)?),
                ("--streams", Bench::Propagation) => {
                    let numbers = value()?;
                    settings.streams = numbers.split(',').map(number).collect::<Result<_>>()?;
                }
                ("--flips", Bench::Propagation) => settings.flips = number(&value()?)?,
                ("--idle", Bench::Streams) => settings.idle = Some(number(&value()?)?),
                ("--storm", Bench::Streams) => settings.storm = Some(number(&value()?)?),
                _ => return Err(Failure::new(format!("there is no option {argument:?}"))),
            }
        }
        if settings.idle.is_none() && settings.storm.is_none() {
            (settings.idle, settings.storm) = (Some(10_000), Some(5_000));
        }
        Ok(Some(settings))
    }
}

fn number(text: &str) -> Result<usize> {
    let number = text.parse().ok();
    let number = number.filter(|number| (1..=READERS_MAX).contains(number));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from 1 to {READERS_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Settings>> {
        Settings::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line_is_read() {
        let given = read("propagation --json --streams 1,7 --flips 9 --without-etcd");
        let given = given.unwrap().unwrap();
        assert_eq!((given.streams, given.flips), (vec![1, 7], 9));
        assert!(given.json && !given.etcd && given.bench == Bench::Propagation);
        let both = read("streams").unwrap().unwrap();
        assert_eq!((both.idle, both.storm), (Some(10_000), Some(5_000)));
        let one = read("streams --storm 10").unwrap().unwrap();
        assert_eq!((one.idle, one.storm), (None, Some(10)));
        assert!(read("streams --help").unwrap().is_none());
        for wrong in [
            "",
            "fanout",
            "streams --flips 3",
            "propagation --idle 3",
            "propagation --streams 1,,2",
            "propagation --streams 0",
            "streams --idle",
            "streams --idle 20001",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
