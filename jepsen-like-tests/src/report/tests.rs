//! The page says what the verdicts say, is bounded, and takes what is in names as text.

use super::*;
use crate::checkers::judge::judge;
use crate::checkers::sample;
use crate::history::{Event, Operation, Outcome, StreamItem};

/// A run in which somebody reads what is gone, and a stream breaks.
fn wrong() -> History {
    let mut history = sample::run(5);
    let mut bent = 0;
    for event in history.events.iter_mut().skip(700) {
        match event {
            Event::Operation(request) if bent == 0 => {
                if let Operation {
                    outcome: Outcome::Read { seen, .. },
                    ..
                } = &mut request.operation
                    && seen.is_some()
                {
                    *seen = None;
                    bent = 1;
                }
            }
            Event::Stream(event) if bent == 1 => {
                if let StreamItem::Delta { digest, .. } = &mut event.item {
                    digest.add(1);
                    bent = 2;
                }
            }
            _ => {}
        }
    }
    assert_eq!(bent, 2);
    history
}

/// Set PENNON_REPORTS to a directory to look at the pages.
fn keep(name: &str, page: &str) {
    if let Some(directory) = std::env::var_os("PENNON_REPORTS") {
        let file = std::path::Path::new(&directory).join(name);
        std::fs::write(file, page).unwrap();
    }
}

#[test]
fn a_valid_run_has_all_plots_and_no_complaint() {
    let history = sample::run(5);
    let page = html(&history, &judge(&history));
    keep("valid.html", &page);
    for title in [
        "Verdicts",
        "Faults",
        "Throughput",
        "Latency",
        "Version of",
        "Staleness",
    ] {
        assert!(page.contains(&format!("<h2>{title}")), "{title}");
    }
    assert!(!page.contains("What is wrong"));
    // Nothing is fetched from anywhere, and nothing runs.
    for foreign in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn an_invalid_run_shows_the_offending_operations() {
    let history = wrong();
    let page = html(&history, &judge(&history));
    keep("invalid.html", &page);
    assert!(page.contains("What is wrong: registers"), "{page}");
    assert!(page.contains("What is wrong: streams"));
    assert!(page.contains("class=\"hit\"") && page.contains("bar fb"));
}

#[test]
fn a_long_run_makes_no_longer_a_page() {
    let mut history = sample::run(5);
    let events = history.events.clone();
    let faults: Vec<Event> = events
        .iter()
        .filter(|event| matches!(event, Event::Fault(_)))
        .cloned()
        .collect();
    for n in 0..400_u64 {
        for mut event in faults.clone() {
            if let Event::Fault(fault) = &mut event {
                fault.fault += n * 10;
                fault.at += n * 20_000_000_000;
            }
            history.events.push(event);
        }
    }
    for _ in 0..20 {
        history.events.extend(events.iter().cloned());
    }
    let page = html(&history, &judge(&history));
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn names_are_text_and_not_markup() {
    let mut history = sample::run(5);
    history.header.release = "<b onload=\"x\">&".to_owned();
    let page = html(&history, &judge(&history));
    assert!(page.contains("&lt;b onload=&quot;x&quot;&gt;&amp;"));
    assert_eq!(cut("äöü", 2), "äö …");
    let empty = History::default();
    assert!(html(&empty, &judge(&empty)).contains("unknown"));
}
