//! Many seeds, a process each, so many at a time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jepsen_like_tests::say;
use jepsen_like_tests::simulation::{Judgement, Report};
use serde_json::{Value, json};

use crate::settings::Settings;

/// What begins the line that a child hands over.
const MARK: &str = "#report ";

/// The line for people.
pub(crate) fn line(seed: u64, report: &Report, took: f64) -> String {
    let judgement = match report.judgement {
        Judgement::Valid => "valid",
        Judgement::Invalid => "INVALID",
        Judgement::Unknown => "unknown",
    };
    let count = |what: &str| report.counts.get(what).copied().unwrap_or(0);
    let faults: u64 = report
        .counts
        .iter()
        .filter(|(what, _)| what.starts_with("fault "))
        .map(|(_, count)| count)
        .sum();
    let (digest, events) = report.trace;
    format!(
        "seed {seed} {judgement}: {} s in {took:.1} s; {} writes, {} reads, {} conflicts, {} unknown; {faults} faults, {} leaders, \
         {} snapshots installed; trace {digest:016x} of {events}",
        report.simulated_ms / 1000,
        count("writes"),
        count("reads"),
        count("conflicts"),
        count("unknown outcomes"),
        count("leaders"),
        count("snapshots installed"),
    )
}

/// Hands a report to the parent.
pub(crate) fn hand_over(report: &Report, took: f64) {
    let judgement = match report.judgement {
        Judgement::Valid => "valid",
        Judgement::Invalid => "invalid",
        Judgement::Unknown => "unknown",
    };
    let told = json!({
        "judgement": judgement,
        "complaints": report.complaints,
        "counts": report.counts,
        "trace": [format!("{:016x}", report.trace.0), report.trace.1],
        "simulated_ms": report.simulated_ms,
        "took": took,
    });
    // Nobody reads it: then nobody asked.
    let _ = writeln!(std::io::stdout(), "{MARK}{told}");
}

/// What came of a child.
pub(crate) struct Outcome {
    /// None when it crashed.
    pub(crate) report: Option<(Report, f64)>,
    /// What it printed.
    pub(crate) printed: String,
}

impl Outcome {
    pub(crate) fn is_invalid(&self) -> bool {
        let invalid = |(report, _): &(Report, f64)| report.judgement == Judgement::Invalid;
        self.report.as_ref().is_none_or(invalid)
    }
}

/// Runs one seed in a process of its own.
pub(crate) fn child(settings: &Settings, seed: u64, without: &[usize]) -> std::io::Result<Outcome> {
    let output = Command::new(std::env::current_exe()?)
        .args(settings.arguments(seed, without))
        .arg("--machine")
        .stdin(Stdio::null())
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let report = told.lines().find_map(|line| read(line.strip_prefix(MARK)?));
    Ok(Outcome {
        report,
        printed: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn read(text: &str) -> Option<(Report, f64)> {
    let told: Value = serde_json::from_str(text).ok()?;
    let judgement = match told["judgement"].as_str()? {
        "valid" => Judgement::Valid,
        "invalid" => Judgement::Invalid,
        _ => Judgement::Unknown,
    };
    let complaints = told["complaints"].as_array()?.iter();
    let complaints = complaints.filter_map(|one| Some(one.as_str()?.to_owned()));
    let counts = told["counts"].as_object()?.iter();
    let counts = counts.filter_map(|(what, count)| Some((what.clone(), count.as_u64()?)));
    let digest = u64::from_str_radix(told["trace"][0].as_str()?, 16).ok()?;
    let report = Report {
        judgement,
        complaints: complaints.collect(),
        counts: counts.collect(),
        trace: (digest, told["trace"][1].as_u64()?),
        simulated_ms: told["simulated_ms"].as_u64()?,
    };
    Some((report, told["took"].as_f64()?))
}

#[derive(Default)]
struct Sum {
    valid: u64,
    invalid: Vec<u64>,
    unknown: Vec<u64>,
    simulated_ms: u64,
    /// How often what happened, and in how many seeds.
    counts: BTreeMap<String, (u64, u64)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        let Some((report, _)) = &outcome.report else {
            self.invalid.push(seed);
            return;
        };
        match report.judgement {
            Judgement::Valid => self.valid += 1,
            Judgement::Invalid => self.invalid.push(seed),
            Judgement::Unknown => self.unknown.push(seed),
        }
        self.simulated_ms += report.simulated_ms;
        for (what, count) in report.counts.iter().filter(|(_, count)| **count > 0) {
            let (sum, seeds) = self.counts.entry(what.clone()).or_default();
            (*sum, *seeds) = (*sum + count, *seeds + 1);
        }
    }
}

/// Runs all these seeds and sums them up.
pub(crate) fn run(settings: &Settings, seeds: Range<u64>) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..settings.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = child(settings, seed, &settings.without);
                    let outcome = outcome.unwrap_or_else(|why| Outcome {
                        report: None,
                        printed: why.to_string(),
                    });
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(seed, &outcome);
                    show(settings, seed, &outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    conclude(seeds.end - seeds.start, &sum, began.elapsed().as_secs_f64())
}

fn show(settings: &Settings, seed: u64, outcome: &Outcome) {
    match &outcome.report {
        Some((report, took)) => {
            say(line(seed, report, *took));
            for complaint in &report.complaints {
                say(format!("    {}", complaint.replace('\n', "\n    ")));
            }
        }
        None => say(format!(
            "seed {seed} INVALID: it crashed\n{}",
            outcome.printed
        )),
    }
    if outcome.is_invalid() {
        let again = settings.arguments(seed, &settings.without).join(" ");
        say(format!("    again: scripts/sim {again}"));
    }
}

fn conclude(seeds: u64, sum: &Sum, took: f64) -> ExitCode {
    say(format!(
        "\n{seeds} seeds: {} valid, {} invalid, {} unknown; {} simulated hours in {took:.0} s",
        sum.valid,
        sum.invalid.len(),
        sum.unknown.len(),
        sum.simulated_ms / 3_600_000,
    ));
    for (what, (count, seeds)) in &sum.counts {
        say(format!("  {what}: {count} in {seeds} seeds"));
    }
    if !sum.unknown.is_empty() {
        say(format!("unknown: {:?}", sum.unknown));
    }
    if !sum.invalid.is_empty() {
        say(format!("INVALID: {:?}", sum.invalid));
    }
    match sum.invalid.is_empty() && sum.unknown.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
