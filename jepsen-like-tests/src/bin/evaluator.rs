//! A process that evaluates a flag again and again and writes down what it was told: tests stop it
//! and let it go on, which nobody can do to himself.
//!
//! Usage: evaluator URL ENVIRONMENT FLAG NAME. One line for each evaluation: nanoseconds of the clock
//! that runs during suspend, the version, FRESH or STALE.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use jepsen_like_tests::{Failure, Result, say};
use pennon_client::{BootClock, Client, Clock, Subject};

/// Between two evaluations.
const PAUSE: Duration = Duration::from_millis(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, environment, flag, name] = arguments.as_slice() else {
        say("usage: evaluator URL ENVIRONMENT FLAG NAME");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let run = runtime
        .map_err(Failure::new)
        .and_then(|runtime| runtime.block_on(run(url, environment, flag, name)));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str, environment: &str, flag: &str, name: &str) -> Result<()> {
    let connecting = Client::builder([url])
        .environment(environment)
        .client_id(name)
        .connect();
    let client = connecting.await.map_err(Failure::new)?;
    let subject = Subject::new("user-42");
    let mut out = std::io::stdout().lock();
    // Evaluates on this thread alone, so that it is stopped anywhere, also within an evaluation.
    loop {
        let began = BootClock.now().as_nanos();
        let answer = client.evaluate(flag, &subject);
        let version = answer.snapshot_version().map_or(0, |version| version.get());
        writeln!(out, "{began} {version} {}", answer.freshness()).map_err(Failure::from)?;
        std::thread::sleep(PAUSE);
    }
}
