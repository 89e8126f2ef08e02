//! A process that evaluates a flag again and again and writes down what it was told: tests stop it
//! and let it go on, which nobody can do to himself.
//!
//! One line for each evaluation: nanoseconds of the clock
//! that runs during suspend, the version, FRESH or STALE.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jepsen_like_tests::{Failure, Result, tool};
use pennon_client::{BootClock, Client, Clock, Subject};

/// Between two evaluations.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Parser)]
#[command(name = "evaluator")]
struct Settings {
    /// A node
    url: String,
    environment: String,
    flag: String,
    /// What the nodes know this process by
    name: String,
}

fn main() -> ExitCode {
    tool::run(run)
}

async fn run(settings: Settings) -> Result<()> {
    let connecting = Client::builder([settings.url])
        .environment(settings.environment)
        .client_id(settings.name)
        .connect();
    let client = connecting.await.map_err(Failure::new)?;
    let subject = Subject::new("user-42");
    let mut out = std::io::stdout().lock();
    // Evaluates on this thread alone, so that it is stopped anywhere, also within an evaluation.
    loop {
        let began = BootClock.now().as_nanos();
        let answer = client.evaluate(&settings.flag, &subject);
        let version = answer.snapshot_version().map_or(0, |version| version.get());
        writeln!(out, "{began} {version} {}", answer.freshness()).map_err(Failure::from)?;
        std::thread::sleep(PAUSE);
    }
}
