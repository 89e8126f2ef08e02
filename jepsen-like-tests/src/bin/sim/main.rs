//! Runs seeds of the simulation: `scripts/sim --seeds 0..100`.
//!
//! Each seed runs in a process of its own, so that no run leaves anything to the next, and a seed
//! that hangs or crashes is one seed. A line a seed, then what all of them covered; for each that
//! failed, the command that repeats it. Exit 0: all valid; 1: one was not; 2: wrong usage.

mod many;
mod settings;
mod shrink;

use std::process::ExitCode;
use std::time::Instant;

use jepsen_like_tests::say;
use jepsen_like_tests::simulation::{Judgement, Options, Report, log_to, planned, run};

use crate::settings::{Settings, USAGE};

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
    if settings.many {
        return many::run(&settings);
    }
    if settings.shrink {
        return shrink::run(&settings);
    }
    one(&settings)
}

fn one(settings: &Settings) -> ExitCode {
    let parameters = settings.parameters(settings.seeds.start);
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
        return ExitCode::SUCCESS;
    }
    if let Some(filter) = &settings.log {
        log_to(filter);
    }
    let began = Instant::now();
    let options = Options {
        trace: settings.trace.clone(),
        without: settings.without.clone(),
    };
    match run(&parameters, &options) {
        Ok(report) => {
            let took = began.elapsed().as_secs_f64();
            match settings.machine {
                true => many::hand_over(&report, took),
                false => tell(parameters.seed, &report, took),
            }
            match report.judgement {
                Judgement::Valid => ExitCode::SUCCESS,
                Judgement::Invalid | Judgement::Unknown => ExitCode::FAILURE,
            }
        }
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::from(2)
        }
    }
}

fn tell(seed: u64, report: &Report, took: f64) {
    say(many::line(seed, report, took));
    for (what, count) in &report.counts {
        say(format!("  {what}: {count}"));
    }
    report.complaints.iter().for_each(say);
}
