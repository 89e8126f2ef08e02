//! Runs real nodes under faults and judges what clients were told: `scripts/chaos --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use jepsen_like_tests::chaos::run::{Ran, run};
use jepsen_like_tests::chaos::settings::{Settings, USAGE};
use jepsen_like_tests::checkers::registers::{self, Demand};
use jepsen_like_tests::history::History;
use jepsen_like_tests::{Failure, Result, say};

const UNKNOWN: u8 = 2;

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            say(format!("error: {why}\n\n{USAGE}"));
            return ExitCode::from(UNKNOWN);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ran = runtime
        .map_err(Failure::new)
        .and_then(|runtime| runtime.block_on(whole(&settings)));
    match ran {
        Ok(code) => code,
        Err(why) => {
            say(format!(
                "error: {why}\nverdict: unknown, the harness could not do its part"
            ));
            ExitCode::from(UNKNOWN)
        }
    }
}

async fn whole(settings: &Settings) -> Result<ExitCode> {
    let directory = directory(settings)?;
    say(format!("everything goes to {}", directory.display()));
    let ran = run(settings, &directory).await?;
    let history = History::read(&directory.join("history.jsonl")).map_err(Failure::new)?;
    let code = judge(&history, &ran);
    if code == 0 && settings.out.is_none() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(ExitCode::from(code))
}

fn judge(history: &History, ran: &Ran) -> u8 {
    let verdict = registers::check(&history.operations(), Demand::default());
    say(format!("registers: {verdict}"));
    for (kind, (began, acted)) in &ran.tally.kinds {
        say(format!("  {kind}: {acted} of {began} acted"));
    }
    for line in ran.tally.failures.iter().chain(&ran.notes) {
        say(format!("  {line}"));
    }
    say(format!("back after {:?}", ran.back));
    for line in &ran.broken {
        say(format!("BROKEN: {line}"));
    }
    u8::from(!verdict.is_valid() || !ran.broken.is_empty())
}

/// A directory of the run's own.
fn directory(settings: &Settings) -> Result<PathBuf> {
    if let Some(out) = &settings.out {
        std::fs::create_dir_all(out)?;
        if std::fs::read_dir(out)?.next().is_some() {
            return Err(Failure::new(format!("{} is not empty", out.display())));
        }
        return Ok(std::path::absolute(out)?);
    }
    let prefix = format!("pennon-chaos-{}-", settings.seed);
    let made = tempfile::Builder::new().prefix(&prefix).tempdir()?;
    Ok(made.keep())
}
