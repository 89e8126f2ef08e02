//! The command line.

use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use jepsen_like_tests::bench::Asked;
use jepsen_like_tests::tool::{number, seconds};

/// Workers that one run starts at most: sockets on one machine end there.
const WORKERS_MAX: u64 = 4_096;

/// Measures the store with three real processes on loopback, and etcd beside it where that is installed
#[derive(Clone, Debug, Parser)]
#[command(
    name = "scripts/bench",
    bin_name = "scripts/bench",
    disable_help_subcommand = true
)]
pub(crate) enum Settings {
    /// Conditional writes, each on the version that the one before made
    Writes(Load),
    /// Linearizable reads
    Reads(Load),
    /// The leader is killed; from then until a write that began after it is answered
    Failover(Failover),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// How long each number of workers works in each round
    #[arg(long, value_name = "N", default_value = "3", value_parser = seconds(1..=3_600))]
    pub(crate) seconds: Duration,
    /// Rounds; medians are shown
    #[arg(long, value_name = "N", default_value = "3", value_parser = number::<usize>(1..=1_000))]
    pub(crate) rounds: usize,
    /// Numbers of workers
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,64,256",
        value_parser = number::<usize>(1..=WORKERS_MAX))]
    pub(crate) workers: Vec<usize>,
    /// Whom workers ask: the nodes in turn, or all of them the leader
    #[arg(long, value_name = "WHERE", default_value = "any")]
    pub(crate) to: To,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Failover {
    /// Leaders that are killed
    #[arg(long, value_name = "N", default_value = "10", value_parser = number::<usize>(1..=1_000))]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// Where a load goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    Any,
    Leader,
}

impl Settings {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Settings::Writes(_) => "writes",
            Settings::Reads(_) => "reads",
            Settings::Failover(_) => "failover",
        }
    }

    pub(crate) fn asked(&self) -> &Asked {
        match self {
            Settings::Writes(load) | Settings::Reads(load) => &load.asked,
            Settings::Failover(failover) => &failover.asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_the_rest_refused() {
        let read = |line: &str| {
            Settings::try_parse_from(["bench"].into_iter().chain(line.split_whitespace()))
        };
        let given = read("writes --json --seconds 7 --workers 1,64 --to leader");
        let Ok(Settings::Writes(given)) = given else {
            panic!("{given:?}");
        };
        assert!(given.asked.json && !given.asked.without_etcd && given.to == To::Leader);
        assert_eq!(given.seconds, Duration::from_secs(7));
        assert_eq!(given.workers, [1, 64]);
        let Ok(Settings::Failover(given)) = read("failover") else {
            panic!("failover is not known");
        };
        assert_eq!(given.rounds, 10);
        for wrong in [
            "writes --seconds",
            "writes --seconds 0",
            "reads --to follower",
            "writes --workers 1,,2",
            "writes --workers 4097",
            "failover --seconds 3",
            "deletes",
            "",
        ] {
            assert_eq!(read(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
