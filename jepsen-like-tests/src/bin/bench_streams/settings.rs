//! The command line.

use clap::{Args, Parser};
use jepsen_like_tests::bench::Asked;
use jepsen_like_tests::tool::number;

/// Readers that one run opens at most: sockets on one machine end there.
const READERS_MAX: u64 = 20_000;
/// Flags, flips and rounds of one run at most.
const MANY: u64 = 20_000;

/// Measures streams against three real processes on loopback, and etcd beside them where that is
/// installed
#[derive(Clone, Debug, Parser)]
#[command(
    name = "scripts/bench",
    bin_name = "scripts/bench",
    disable_help_subcommand = true
)]
pub(crate) enum Settings {
    /// From just before a flag is flipped until the last client has the new version
    Propagation(Propagation),
    /// What idle streams cost a node, and how clients take the death of one; without --idle and --storm
    /// both
    Streams(Streams),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Propagation {
    /// Numbers of clients
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,100,1000",
        value_parser = number::<usize>(1..=READERS_MAX))]
    pub(crate) streams: Vec<usize>,
    /// Flips that count, for each number of clients in each round
    #[arg(long, value_name = "N", default_value = "100", value_parser = number::<usize>(1..=MANY))]
    pub(crate) flips: usize,
    /// Rounds; medians are shown
    #[arg(long, value_name = "N", default_value = "3", value_parser = number::<usize>(1..=MANY))]
    pub(crate) rounds: usize,
    /// Flags in the environment
    #[arg(long, value_name = "N", default_value = "100", value_parser = number::<usize>(1..=MANY))]
    pub(crate) flags: usize,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Streams {
    /// Idle streams on one node: its memory and time for each, and one change to all [default: 10000
    /// unless there is --storm]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=READERS_MAX))]
    idle: Option<usize>,
    /// Clients over three nodes, one of which is killed [default: 5000 unless there is --idle]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=READERS_MAX))]
    storm: Option<usize>,
    /// Storms after the death of a follower, and as many after that of a leader
    #[arg(long, value_name = "N", default_value = "3", value_parser = number::<usize>(1..=MANY))]
    pub(crate) rounds: usize,
    /// Flags in the environment [default: 1000 for idle streams, 100 for storms]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=MANY))]
    pub(crate) flags: Option<usize>,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

impl Streams {
    /// How many idle streams, and how many clients in a storm.
    pub(crate) fn parts(&self) -> (Option<usize>, Option<usize>) {
        match (self.idle, self.storm) {
            (None, None) => (Some(10_000), Some(5_000)),
            parts => parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Settings, clap::Error> {
        Settings::try_parse_from(["bench"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_read() {
        let given = read("propagation --json --streams 1,7 --flips 9 --without-etcd");
        let Ok(Settings::Propagation(given)) = given else {
            panic!("{given:?}");
        };
        assert_eq!((given.streams, given.flips), (vec![1, 7], 9));
        assert!(given.asked.json && given.asked.without_etcd);
        for (line, parts) in [
            ("streams", (Some(10_000), Some(5_000))),
            ("streams --storm 10", (None, Some(10))),
        ] {
            let Ok(Settings::Streams(given)) = read(line) else {
                panic!("{line} is not known");
            };
            assert_eq!(given.parts(), parts, "{line}");
        }
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
            assert_eq!(read(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
