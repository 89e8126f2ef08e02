//! Judges a history again: `check FILE [--html OUT]`. Prints a line for each checker and the whole
//! verdict.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jepsen_like_tests::checkers::judge::{Judgement, judge};
use jepsen_like_tests::history::History;
use jepsen_like_tests::{Failure, Result, report, tool};

/// Judges a history that a run wrote, by what the run was to show
#[derive(Clone, Debug, Parser)]
#[command(
    name = "check",
    after_help = "Exits with 0 when it is valid, 1 when a promise was broken, 2 when that cannot be said."
)]
struct Settings {
    /// The history, usually history.jsonl
    file: PathBuf,
    /// Writes a report with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    tool::judge(|settings: Settings| async move { run(&settings) })
}

fn run(settings: &Settings) -> Result<Judgement> {
    let file = &settings.file;
    let history = History::read(file).map_err(|why| Failure::during(file.display(), why))?;
    let found = judge(&history);
    let header = &history.header;
    let (seed, nodes, events) = (header.seed, header.nodes.len(), history.events.len());
    tool::print(format!(
        "seed {seed}, {nodes} nodes, {events} events\n{found}"
    ))?;
    if let Some(html) = &settings.html {
        let page = report::html(&history, &found);
        std::fs::write(html, page).map_err(|why| Failure::during(html.display(), why))?;
    }
    Ok(found.overall)
}
