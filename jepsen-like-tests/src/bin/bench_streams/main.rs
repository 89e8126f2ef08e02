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

use std::process::ExitCode;

use jepsen_like_tests::bench::machine;
use jepsen_like_tests::{Failure, Result, tool};
use serde_json::json;

use crate::settings::{Settings, Streams};

fn main() -> ExitCode {
    tool::run(run)
}

async fn run(settings: Settings) -> Result<()> {
    machine::raise_open_files();
    tool::print(match &settings {
        Settings::Propagation(asked) => propagation::run(asked).await?,
        Settings::Streams(asked) => streams(asked).await?,
    })
}

async fn streams(settings: &Streams) -> Result<String> {
    let (idle, storm) = settings.parts();
    let idle = match idle {
        Some(streams) => Some(idle::run(settings, streams).await?),
        None => None,
    };
    let storm = match storm {
        Some(clients) => Some(storm::run(settings, clients).await?),
        None => None,
    };
    if let Some(failed) = storm.as_ref().map(storm::Storm::failed).filter(|n| *n > 0) {
        return Err(Failure::new(format!("{failed} evaluations failed")));
    }
    if settings.asked.json {
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
