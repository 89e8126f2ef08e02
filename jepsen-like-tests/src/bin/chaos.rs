//! Runs real nodes under faults and judges what clients were told: `scripts/chaos --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use jepsen_like_tests::chaos::run::{Ran, run};
use jepsen_like_tests::chaos::settings::Settings;
use jepsen_like_tests::checkers::judge::{Judgement, judge};
use jepsen_like_tests::history::History;
use jepsen_like_tests::{Failure, Result, report, say, tool};

fn main() -> ExitCode {
    tool::judge(whole)
}

async fn whole(settings: Settings) -> Result<Judgement> {
    let directory = directory(&settings)?;
    say(format!("everything goes to {}", directory.display()));
    let ran = run(&settings, &directory).await?;
    let file = directory.join("history.jsonl");
    let history = History::read(&file).map_err(Failure::new)?;
    let report = judge(&history);
    say_faults(&ran);
    say(&report);
    for line in &ran.broken {
        say(format!("BROKEN: {line}"));
    }
    if let Some(html) = &settings.html {
        std::fs::write(html, report::html(&history, &report))?;
    }
    let verdict = match ran.broken.is_empty() {
        true => report.overall,
        false => Judgement::Invalid,
    };
    let operations = history.operations().len();
    say(format!(
        "verdict: {verdict}; seed {}, {} s, {} nodes, {operations} operations, {} events, {} of {} faults acted",
        settings.seed,
        settings.seconds.as_secs(),
        ran.nodes,
        history.events.len(),
        ran.tally
            .kinds
            .values()
            .map(|(_, acted)| acted)
            .sum::<u64>(),
        ran.tally
            .kinds
            .values()
            .map(|(began, _)| began)
            .sum::<u64>(),
    ));
    if verdict == Judgement::Valid && settings.out.is_none() {
        std::fs::remove_dir_all(&directory)?;
    } else {
        say(format!(
            "judge it again: cargo run -p jepsen-like-tests --bin check -- {} --html report.html",
            file.display()
        ));
    }
    Ok(verdict)
}

/// Which faults there were, and what else is worth a line.
fn say_faults(ran: &Ran) {
    let kinds = ran.tally.kinds.iter();
    let shown: Vec<String> = kinds
        .map(|(kind, (began, acted))| format!("{kind} {acted}/{began}"))
        .collect();
    say(format!("faults that acted: {}", shown.join(", ")));
    for line in ran.tally.failures.iter().chain(&ran.notes) {
        say(format!("  {line}"));
    }
    if let Some(back) = ran.back {
        say(format!(
            "  all nodes were back {} ms after everything was mended",
            back.as_millis()
        ));
    }
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
