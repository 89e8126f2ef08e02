//! I7: one flag, subject and version give one variant, in every process; and it is the one that the
//! evaluator gives on the state compiled from what people wrote.
//!
//! Compared are all evaluations that were decided on a snapshot: by the version of the snapshot, and
//! by the version at which the flag or anything it uses last changed, since nothing that could make
//! a difference happened between two snapshots that agree in it. Answers that fell back to the
//! caller's default are left out; they are judged for freshness elsewhere.
//!
//! Where the ground state at the version of a snapshot is in the history, the answer is computed
//! anew from it. The evaluator itself is compared with a slow one that shares no code with it, in
//! its own tests (`evaluator/tests/reference.rs`); here the question is whether a client that came
//! to a version over streams, caches and reconnects decides as that version says.

use std::collections::HashMap;
use std::sync::Arc;

use pennon_evaluator::{Snapshot, Subject};

use super::{Complaints, Place, Verdict, faithful};
use crate::history::{Evaluation, Event};

/// How I7 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Two answers at one version of the snapshot.
    TwoVariants,
    /// Two answers although the flag and all it uses had not changed.
    ChangedWithoutChange,
    /// Another answer than that of the ground state at that version.
    OtherThanReference,
}

/// What a history must show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// (flag, subject, version) that more than one client evaluated.
    pub shared_min: usize,
    /// Evaluations that were computed anew.
    pub recomputed_min: usize,
}

impl From<&Evaluation> for Place {
    fn from(evaluation: &Evaluation) -> Place {
        Place::at(evaluation.client, evaluation.began)
    }
}

/// Whether the answer is the flag's, and not the caller's default.
pub(super) fn is_decided(evaluation: &Evaluation) -> bool {
    evaluation.snapshot_version > 0 && !matches!(&*evaluation.reason, "NOT_READY" | "STALE")
}

/// The environment, the flag, the subject, and a version.
type Question<'a> = (&'a str, &'a str, &'a str, u64);

/// The first answer to a question, and how many clients gave it.
struct First<'a> {
    by: &'a Evaluation,
    shared: bool,
}

/// Judges the evaluations of a history.
pub fn check(events: &[Event], demand: Demand) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let evaluations = events.iter().filter_map(|event| match event {
        Event::Evaluation(evaluation) if is_decided(evaluation) => Some(evaluation),
        _ => None,
    });
    let evaluations: Vec<&Evaluation> = evaluations.collect();
    let mut by_snapshot: HashMap<Question<'_>, First<'_>> = HashMap::new();
    let mut by_config: HashMap<Question<'_>, First<'_>> = HashMap::new();
    for one in evaluations.iter().copied() {
        let (environment, flag) = (&*one.environment, &*one.flag);
        let question = |version| (environment, flag, &*one.subject, version);
        let at_snapshot = question(one.snapshot_version);
        compare(
            &mut by_snapshot,
            at_snapshot,
            one,
            Rule::TwoVariants,
            &mut complaints,
        );
        if one.config_version > 0 {
            let at_config = question(one.config_version);
            let rule = Rule::ChangedWithoutChange;
            compare(&mut by_config, at_config, one, rule, &mut complaints);
        }
    }
    let recomputed = check_reference(events, &evaluations, &mut complaints);
    let shared = by_snapshot.values().filter(|first| first.shared).count();
    let shows = format!(
        "{} evaluations, {} questions, {shared} asked of more than one client, {recomputed} computed anew",
        evaluations.len(),
        by_snapshot.len()
    );
    let enough = shared >= demand.shared_min && recomputed >= demand.recomputed_min;
    complaints.verdict(|| match enough && !evaluations.is_empty() {
        true => Verdict::Valid(shows),
        false => Verdict::Unknown(format!("{shows}; {demand:?}")),
    })
}

fn compare<'a>(
    answers: &mut HashMap<Question<'a>, First<'a>>,
    question: Question<'a>,
    one: &'a Evaluation,
    rule: Rule,
    complaints: &mut Complaints<Rule>,
) {
    let first = answers.entry(question).or_insert(First {
        by: one,
        shared: false,
    });
    first.shared |= first.by.client != one.client;
    // I7
    if answer(first.by) != answer(one) {
        let (environment, flag, subject, version) = question;
        let what = format!(
            "{flag} in {environment} for {subject} at {version}: client {} {:?}, client {} {:?}",
            first.by.client,
            answer(first.by),
            one.client,
            answer(one)
        );
        complaints.add_at(one, rule, what);
    }
}

/// What is the same for everybody.
fn answer(one: &Evaluation) -> (Option<&str>, Option<&str>, &str, u64) {
    let (variant, value) = (one.variant.as_deref(), one.value.as_deref());
    (variant, value, &one.reason, one.config_version)
}

/// Computes answers anew where there is a ground state. Returns how many.
fn check_reference(
    events: &[Event],
    evaluations: &[&Evaluation],
    complaints: &mut Complaints<Rule>,
) -> usize {
    let mut snapshots: HashMap<(&str, u64), Snapshot> = HashMap::new();
    let mut subjects: HashMap<&str, Subject> = HashMap::new();
    for event in events {
        match event {
            Event::Ground(ground) => {
                let compiled = faithful::compile(ground).ok();
                // What does not compile is a complaint of another checker.
                if let Some(snapshot) = compiled.and_then(|one| Snapshot::load(&one).ok()) {
                    snapshots.insert((&ground.environment, ground.version), snapshot);
                }
            }
            Event::Subject(subject) => {
                if let Ok(read) = Subject::from_json(&*subject.key, &subject.attributes) {
                    subjects.insert(&subject.key, read);
                }
            }
            _ => {}
        }
    }
    let mut recomputed = 0;
    for one in evaluations {
        let snapshot = snapshots.get(&(&*one.environment, one.snapshot_version));
        let (Some(snapshot), Some(subject)) = (snapshot, subjects.get(&*one.subject)) else {
            continue;
        };
        recomputed += 1;
        let here = snapshot.evaluate(&one.flag, subject);
        let value = here.value.map(|value| Arc::<str>::from(value.as_json()));
        let expected = (
            here.variant,
            value.as_deref(),
            here.reason.as_str(),
            here.config_version.get(),
        );
        // I7, I6
        if answer(one) != expected {
            let what = format!(
                "client {}, {} for {} at {}: {:?} instead of {expected:?}",
                one.client,
                one.flag,
                one.subject,
                one.snapshot_version,
                answer(one)
            );
            complaints.add_at(*one, Rule::OtherThanReference, what);
        }
    }
    recomputed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample;

    /// Three clients evaluate for some subjects at two versions, with the ground state of both.
    fn story() -> Vec<Event> {
        let mut events = vec![
            Event::Ground(sample::ground(9, "on")),
            Event::Ground(sample::ground(12, "off")),
        ];
        for subject in ["ada", "bob", "cyd"] {
            events.push(Event::Subject(sample::subject(subject)));
            for ground in [sample::ground(9, "on"), sample::ground(12, "off")] {
                for client in 0..3 {
                    let one = sample::evaluation(&ground, client, subject);
                    events.push(Event::Evaluation(one));
                }
            }
        }
        events
    }

    fn broken(change: impl FnOnce(&mut Evaluation)) -> Vec<Rule> {
        let mut events = story();
        let Some(Event::Evaluation(last)) = events.last_mut() else {
            panic!()
        };
        change(last);
        match check(&events, Demand::default()) {
            Verdict::Invalid(complaints) => complaints.first.iter().map(|one| one.0).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_same_answers_everywhere_are_valid() {
        let demand = Demand {
            shared_min: 6,
            recomputed_min: 18,
        };
        let verdict = check(&story(), demand);
        assert!(verdict.is_valid(), "{verdict}");
        let more = Demand {
            shared_min: 7,
            ..demand
        };
        assert!(check(&story(), more).is_unknown());
        assert!(check(&[], Demand::default()).is_unknown());
    }

    #[test]
    fn another_answer_is_rejected_for_its_reason() {
        let variant = broken(|one| one.variant = Some("other".into()));
        assert_eq!(
            variant,
            [
                Rule::TwoVariants,
                Rule::ChangedWithoutChange,
                Rule::OtherThanReference
            ]
        );
        // A snapshot that nobody else had: only the version of the change tells.
        let change = broken(|one| {
            one.snapshot_version = 13;
            one.variant = Some("other".into());
        });
        assert_eq!(change, [Rule::ChangedWithoutChange]);
        // Nobody else was asked: only the ground state tells.
        let mut events = story();
        events.retain(|event| !matches!(event, Event::Evaluation(one) if one.client > 0));
        let Some(Event::Evaluation(one)) = events.last_mut() else {
            panic!()
        };
        one.reason = "DEFAULT".into();
        one.variant = Some("on".into());
        let verdict = check(&events, Demand::default());
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::OtherThanReference)));
    }

    /// The planted bug: a client takes the states of one version for those of another.
    #[test]
    fn a_client_that_mixes_versions_is_caught() {
        let mut events = story();
        let mixed = sample::evaluation(&sample::ground(9, "on"), 7, "ada");
        events.push(Event::Evaluation(Evaluation {
            snapshot_version: 12,
            ..mixed
        }));
        let verdict = check(&events, Demand::default());
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::TwoVariants)));
    }

    #[test]
    fn the_callers_default_is_not_compared() {
        let mut events = story();
        let Some(Event::Evaluation(last)) = events.last_mut() else {
            panic!()
        };
        (last.reason, last.variant, last.fresh) = ("STALE".into(), None, false);
        assert!(check(&events, Demand::default()).is_valid());
    }
}
