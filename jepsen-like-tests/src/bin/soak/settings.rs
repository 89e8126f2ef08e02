//! The command line of the soak.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use jepsen_like_tests::tool::{number, seconds};

const MANY: u64 = 1_000_000;

/// Writes to three real nodes for a long time and looks whether anything grows
#[derive(Clone, Debug, Parser)]
#[command(name = "scripts/soak", bin_name = "scripts/soak")]
pub(crate) struct Settings {
    /// How long
    #[arg(long, value_name = "N", default_value = "600", value_parser = seconds(1..=MANY))]
    pub(crate) seconds: Duration,
    /// Entries between two snapshots, and kept behind one
    #[arg(long, value_name = "N", default_value = "100", value_parser = number::<u64>(1..=MANY))]
    pub(crate) snapshot_every: u64,
    /// Connections that write
    #[arg(long, value_name = "N", default_value = "8", value_parser = number::<usize>(1..=MANY))]
    pub(crate) writers: usize,
    /// Flags that they write
    #[arg(long, value_name = "N", default_value = "64", value_parser = number::<usize>(1..=MANY))]
    pub(crate) flags: usize,
    /// Threads that keep a core busy each
    #[arg(long, value_name = "N", default_value = "2", value_parser = number::<usize>(0..=MANY))]
    pub(crate) burners: usize,
    /// Seconds between two ends of a node
    #[arg(long, value_name = "N", default_value = "45", value_parser = seconds(1..=MANY))]
    pub(crate) restart_every: Duration,
    /// Where the nodes keep their data [default: a new directory for temporary files, removed at the
    /// end of a run without faults]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let read = |line: &str| {
            Settings::try_parse_from(["soak"].into_iter().chain(line.split_whitespace()))
        };
        let given = read("--seconds 7 --burners 0 --writers 3").unwrap();
        assert_eq!(given.seconds, Duration::from_secs(7));
        assert_eq!((given.burners, given.writers, given.flags), (0, 3, 64));
        for wrong in ["--seconds", "--seconds 0", "--writers x", "-x 1"] {
            assert_eq!(read(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
