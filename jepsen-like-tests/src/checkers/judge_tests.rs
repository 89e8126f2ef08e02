//! A whole run is valid; each thing that is taken away or bent shows in its line and in the whole.

use super::*;
use crate::checkers::sample;
use crate::history::{FaultStage, ReceiptSeen, StreamItem};

fn line(report: &Report, checker: &str) -> Judgement {
    let found = report.lines.iter().find(|line| line.checker == checker);
    found.unwrap().judgement
}

#[test]
fn a_whole_run_is_valid_in_every_line() {
    let report = judge(&sample::run(3));
    for line in &report.lines {
        assert_eq!(line.judgement, Judgement::Valid, "{report}");
    }
    assert_eq!(report.overall, Judgement::Valid);
    assert_eq!(report.lines.len(), 13);
}

#[test]
fn what_did_not_get_to_its_end_is_unknown() {
    let mut history = sample::run(3);
    history.complaint = Some("cut off".to_owned());
    assert_eq!(judge(&history).overall, Judgement::Unknown);
    assert_eq!(judge(&History::default()).overall, Judgement::Unknown);
}

#[test]
fn a_fault_without_proof_makes_the_whole_unknown() {
    let mut history = sample::run(3);
    history.events.retain(
        |event| !matches!(event, Event::Fault(fault) if matches!(fault.stage, FaultStage::Acted { .. })),
    );
    let report = judge(&history);
    assert_eq!(line(&report, "coverage"), Judgement::Unknown);
    assert_eq!(report.overall, Judgement::Unknown);
}

#[test]
fn one_broken_promise_makes_the_whole_invalid_also_when_nobody_asked() {
    let mut history = sample::run(3);
    history.header.demand = Demand::default();
    let bent = history
        .events
        .iter_mut()
        .rev()
        .find_map(|event| match event {
            Event::Stream(event) => match &mut event.item {
                StreamItem::Delta { digest, .. } => {
                    digest.add(1);
                    Some(())
                }
                _ => None,
            },
            _ => None,
        });
    assert!(bent.is_some());
    let report = judge(&history);
    assert_eq!(line(&report, "streams"), Judgement::Invalid, "{report}");
    assert_eq!(report.overall, Judgement::Invalid);
    let place = report.lines.iter().find_map(|line| line.complaints.first());
    assert!(place.is_some_and(|(.., place)| place.is_some()));
}

/// The planted bug: freshness counted from receipt, so that a client behind a stopped node goes on
/// calling its answers FRESH.
#[test]
fn an_old_answer_called_fresh_is_invalid() {
    let mut history = sample::run(3);
    let evaluations = history.events.iter_mut().filter_map(|event| match event {
        Event::Evaluation(one) => Some(one),
        _ => None,
    });
    let old = evaluations.filter(|one| !one.fresh).last().unwrap();
    old.fresh = true;
    let report = judge(&history);
    assert_eq!(line(&report, "freshness"), Judgement::Invalid, "{report}");
}

/// Has the last receipt that names laggards say that there are none.
fn forget_laggards(history: &mut History) -> &mut ReceiptSeen {
    let receipts = history.events.iter_mut().filter_map(|event| match event {
        Event::Receipt(one) => Some(one),
        _ => None,
    });
    let partial = receipts.filter(|one| !one.complete).last().unwrap();
    (partial.complete, partial.settled_in_ms) = (true, 0);
    partial
}

/// The planted bug: whoever acknowledged anything counts as current for ever.
#[test]
fn a_receipt_that_forgets_who_lags_is_invalid() {
    let mut history = sample::run(3);
    forget_laggards(&mut history);
    let report = judge(&history);
    assert_eq!(line(&report, "receipts"), Judgement::Invalid, "{report}");
    assert_eq!(line(&report, "freshness"), Judgement::Valid, "{report}");
}

/// An environment of whose receipts nothing can be said hides no other one.
#[test]
fn a_receipt_that_nobody_outlived_hides_none_of_another_environment() {
    let mut history = sample::run(3);
    let mut elsewhere = forget_laggards(&mut history).clone();
    elsewhere.environment = "a-quiet-one".into();
    history.events.push(Event::Receipt(elsewhere));
    let report = judge(&history);
    assert_eq!(line(&report, "receipts"), Judgement::Invalid, "{report}");
}

/// Where nothing was asked for, receipts that nobody outlived are no fault of the run.
#[test]
fn receipts_that_nobody_outlived_are_missed_only_when_they_are_asked_for() {
    let mut history = sample::run(3);
    for event in &mut history.events {
        if let Event::Receipt(one) = event {
            one.settled_in_ms = u64::MAX;
        }
    }
    assert_eq!(line(&judge(&history), "receipts"), Judgement::Unknown);
    history.header.demand.receipts_min = 0;
    assert_eq!(line(&judge(&history), "receipts"), Judgement::NotAsked);
}

#[test]
fn without_a_bound_freshness_is_unknown() {
    let mut history = sample::run(3);
    history.header.demand.bound_ms = 0;
    assert_eq!(line(&judge(&history), "freshness"), Judgement::Unknown);
}
