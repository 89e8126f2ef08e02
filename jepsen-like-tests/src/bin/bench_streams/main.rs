//! Measures streams against three real processes on loopback: how long a change takes to the last
//! of many clients, what ten thousand idle streams cost a node, and how a fleet of clients takes
//! the death of one. `scripts/bench propagation` and `scripts/bench streams` build everything and
//! run this.
//!
//! Everything that reads and writes is in this process, so it has a share of the cores in every
//! figure; each figure says how much, and how much other programs on the machine had.

mod board;
mod idle;
mod propagation;
mod settings;
mod sniffer;
mod store;
mod storm;
mod watchers;

use std::io::Write as _;
use std::process::ExitCode;

use jepsen_like_tests::bench::machine;
use jepsen_like_tests::{Failure, Result, say};
use serde_json::json;

use crate::settings::{Bench, Settings, USAGE};

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            say(format!("error: {why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let run = runtime
        .map_err(Failure::new)
        .and_then(|runtime| runtime.block_on(run(&settings)));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<()> {
    machine::raise_open_files();
    let text = match settings.bench {
        Bench::Propagation => propagation::run(settings).await?,
        Bench::Streams => streams(settings).await?,
    };
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
}

async fn streams(settings: &Settings) -> Result<String> {
    let idle = match settings.idle {
        Some(streams) => Some(idle::run(settings, streams).await?),
        None => None,
    };
    let storm = match settings.storm {
        Some(clients) => Some(storm::run(settings, clients).await?),
        None => None,
    };
    if let Some(failed) = storm.as_ref().map(storm::Storm::failed).filter(|n| *n > 0) {
        return Err(Failure::new(format!("{failed} evaluations failed")));
    }
    if settings.json {
        let idle = idle.map(|idle| idle.json());
        let storm = storm.map(|storm| storm.json());
        return Ok(json!({"bench": "streams", "idle": idle, "storm": storm}).to_string());
    }
    let tables = [
        idle.map(|idle| idle.table()),
        storm.map(|storm| storm.table()),
    ];
    let tables: Vec<String> = tables.into_iter().flatten().collect();
    Ok(tables.join("\n\n"))
}
