//! Runs seeds of the simulation: `scripts/sim --seeds 0..100`.
//!
//! Each seed runs in a process of its own, so that no run leaves anything to the next, and a seed
//! that hangs or crashes is one seed. A line a seed, then what all of them covered; for each that
//! failed, the command that repeats it. Exit 0: all valid; 1: one was not; 2: wrong usage, or it cannot be
//! run.

mod many;
mod settings;
mod shrink;

use std::process::ExitCode;
use std::time::Instant;

use jepsen_like_tests::simulation::{Judgement, Options, Report, log_to, planned, run};
use jepsen_like_tests::{Failure, Result, say, tool};

use crate::settings::Settings;

fn main() -> ExitCode {
    tool::run_here(|settings: Settings| match settings.many() {
        Some(seeds) => Ok(many::run(&settings, seeds)),
        None if settings.shrink => Ok(shrink::run(&settings)),
        None => one(&settings),
    })
}

fn one(settings: &Settings) -> Result<ExitCode> {
    let parameters = settings.parameters(settings.one());
    if let Some(control) = settings.control
        && !settings.machine
        && !settings.kept
    {
        say(format!(
            "a control: {} is broken on purpose",
            control.as_str()
        ));
    }
    if !settings.machine {
        say(&parameters);
    }
    if settings.plan {
        planned(&parameters).iter().for_each(say);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(filter) = &settings.log {
        log_to(filter);
    }
    let began = Instant::now();
    let options = Options {
        trace: settings.trace.clone(),
        without: settings.without.clone(),
    };
    let report = run(&parameters, &options).map_err(Failure::new)?;
    let took = began.elapsed().as_secs_f64();
    match settings.machine {
        true => many::hand_over(&report, took),
        false => tell(parameters.seed, &report, took),
    }
    Ok(match report.judgement {
        Judgement::Valid => ExitCode::SUCCESS,
        Judgement::Invalid | Judgement::Unknown => ExitCode::FAILURE,
    })
}

fn tell(seed: u64, report: &Report, took: f64) {
    say(many::line(seed, report, took));
    for (what, count) in &report.counts {
        say(format!("  {what}: {count}"));
    }
    report.complaints.iter().for_each(say);
}
