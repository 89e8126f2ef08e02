//! The command line of the soak.

use std::path::PathBuf;
use std::time::Duration;

use jepsen_like_tests::{Failure, Result};

pub(crate) const USAGE: &str = "\
Usage: scripts/soak [--seconds N] [--snapshot-every N] [--writers N] [--flags N] [--burners N]
                    [--restart-every N] [--data DIR]

  --seconds N         how long [default: 600]
  --snapshot-every N  entries between two snapshots, and kept behind one [default: 100]
  --writers N         connections that write [default: 8]
  --flags N           flags that they write [default: 64]
  --burners N         threads that keep a core busy each [default: 2]
  --restart-every N   seconds between two ends of a node [default: 45]
  --data DIR          where the nodes keep their data [default: a new directory for temporary files,
                      removed at the end of a run without faults]";

/// What the soak does.
pub(crate) struct Settings {
    pub(crate) seconds: Duration,
    pub(crate) snapshot_every: u64,
    pub(crate) writers: usize,
    pub(crate) flags: usize,
    pub(crate) burners: usize,
    pub(crate) restart_every: Duration,
    pub(crate) data: Option<PathBuf>,
}

impl Settings {
    /// Reads the command line; `None` when help is asked for.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
        let mut settings = Settings {
            seconds: Duration::from_secs(600),
            snapshot_every: 100,
            writers: 8,
            flags: 64,
            burners: 2,
            restart_every: Duration::from_secs(45),
            data: None,
        };
        while let Some(argument) = arguments.next() {
            if matches!(argument.as_str(), "--help" | "-h") {
                return Ok(None);
            }
            let value = arguments
                .next()
                .ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
            let seconds = |text: &str| number(text).map(Duration::from_secs);
            match argument.as_str() {
                "--seconds" => settings.seconds = seconds(&value)?,
                "--restart-every" => settings.restart_every = seconds(&value)?,
                "--snapshot-every" => settings.snapshot_every = number(&value)?,
                "--writers" => settings.writers = count(&value)?,
                "--flags" => settings.flags = count(&value)?,
                "--burners" if value == "0" => settings.burners = 0,
                "--burners" => settings.burners = count(&value)?,
                "--data" => settings.data = Some(value.into()),
                other => return Err(Failure::new(format!("there is no option {other:?}"))),
            }
        }
        Ok(Some(settings))
    }
}

fn number(text: &str) -> Result<u64> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from 1 to 1000000")))
}

fn count(text: &str) -> Result<usize> {
    usize::try_from(number(text)?).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let read = |line: &str| Settings::read(line.split_whitespace().map(str::to_owned));
        let given = read("--seconds 7 --burners 0 --writers 3")
            .unwrap()
            .unwrap();
        assert_eq!(given.seconds, Duration::from_secs(7));
        assert_eq!((given.burners, given.writers, given.flags), (0, 3, 64));
        assert!(read("--help").unwrap().is_none());
        for wrong in ["--seconds", "--seconds 0", "--writers x", "-x 1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
