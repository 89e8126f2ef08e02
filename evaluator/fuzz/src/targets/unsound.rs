//! States that no compiler makes.
//!
//! What must hold: each breaks one rule of decoding, and together they break every one.

use pennon_evaluator::EvaluationState;
use pennon_evaluator::state::{
    ClauseState, Comparison, ExperimentState, FlagState, RolloutState, SegmentState, ServeState,
    ShareState, TestState,
};

use super::documents::{whole_policy, whole_segment};
use super::seeds::{flag, segment};

type Change<T> = (&'static str, fn(&mut T));

const FLAG_CHANGES: [Change<FlagState>; 21] = [
    ("a flag without a variant", |flag| flag.variants.clear()),
    ("variants are not sorted", |flag| flag.variants.reverse()),
    ("a value is not of the flag's type", |flag| {
        flag.variants[0].value = "1".into()
    }),
    ("the off variant is out of range", |flag| {
        flag.off_variant = 2
    }),
    ("a prerequisite without a variant", |flag| {
        flag.prerequisites[0].variants.clear()
    }),
    ("a list is not sorted", |flag| {
        flag.prerequisites[0].variants.reverse()
    }),
    ("targets are not sorted", |flag| flag.targets.reverse()),
    ("a target is out of range", |flag| {
        flag.targets[0].variant = 2
    }),
    ("a variant is out of range", |flag| {
        flag.default = ServeState::Variant(2)
    }),
    ("a share is out of range", |flag| {
        split(flag).weights[0].variant = 2
    }),
    ("a rollout without a share", |flag| {
        (split(flag).weights, split(flag).total) = (Vec::new(), 0)
    }),
    ("the total is not the sum of the weights", |flag| {
        split(flag).total += 1
    }),
    ("the total is out of bounds", |flag| {
        split(flag).weights[0].weight = u32::MAX;
        split(flag).weights[1].weight = 0;
        split(flag).total = u32::MAX;
    }),
    ("a clause without a value", |flag| {
        let test = TestState::Contains(Vec::new());
        let (name, negate) = ("a".to_owned(), false);
        flag.rules[0].when = vec![ClauseState::Attribute { name, test, negate }];
    }),
    (
        "a comparison of times is neither before nor after",
        |flag| {
            let test = TestState::Time(Comparison::Eq, Vec::new());
            let (name, negate) = ("a".to_owned(), false);
            flag.rules[0].when = vec![ClauseState::Attribute { name, test, negate }];
        },
    ),
    ("too many regular expressions", |flag| {
        let sources = (1_000..=2_000).map(|n| n.to_string());
        matches(flag, sources.collect());
    }),
    ("a regular expression is too long", |flag| {
        matches(flag, vec!["(?i)".repeat(1_025)]);
    }),
    ("regular expressions take too long to build", |flag| {
        let broken = (10..99).map(|n| format!("({n}"));
        matches(flag, broken.collect());
    }),
    ("a holdout is out of range", |flag| {
        experiment(flag).holdout = Some(1)
    }),
    ("a range of slots is out of bounds", |flag| {
        experiment(flag).layer.as_mut().unwrap().end = 0
    }),
    ("an experiment outside a rule", |flag| {
        flag.default = flag.rules[1].serve.clone()
    }),
];

const SEGMENT_CHANGES: [Change<SegmentState>; 5] = [
    ("a list is not sorted", |segment| segment.excluded.reverse()),
    ("a segment is out of range", |segment| {
        segment.segments.truncate(1)
    }),
    ("the number of buckets is out of bounds", |segment| {
        share(segment).of = 0
    }),
    ("a share is greater than the whole", |segment| {
        share(segment).share = 3
    }),
    ("a clause without a value", |segment| {
        let (any_of, negate) = (Vec::new(), false);
        segment.rules[0].when = vec![ClauseState::Segments { any_of, negate }];
    }),
];

fn matches(flag: &mut FlagState, sources: Vec<String>) {
    let (name, negate) = ("a".to_owned(), false);
    let test = TestState::Matches(sources);
    flag.rules[0].when = vec![ClauseState::Attribute { name, test, negate }];
}

fn split(flag: &mut FlagState) -> &mut RolloutState {
    match &mut flag.default {
        ServeState::Rollout(rollout) => rollout,
        other => panic!("{other:?}"),
    }
}

fn experiment(flag: &mut FlagState) -> &mut ExperimentState {
    match &mut flag.rules[1].serve {
        ServeState::Experiment(experiment) => experiment,
        other => panic!("{other:?}"),
    }
}

fn share(segment: &mut SegmentState) -> &mut ShareState {
    segment.rules[0].rollout.as_mut().unwrap()
}

/// States that no compiler makes, each with the rule that it breaks.
pub(crate) fn unsound() -> Vec<(&'static str, EvaluationState)> {
    let Ok(EvaluationState::Flag(flag)) = flag("f", &whole_policy()) else {
        panic!("a seed compiles");
    };
    let Ok(EvaluationState::Segment(segment)) = segment("u", &whole_segment()) else {
        panic!("a seed compiles");
    };
    let flags = FLAG_CHANGES.iter().map(|(what, change)| {
        let mut flag = flag.clone();
        change(&mut flag);
        (*what, EvaluationState::Flag(flag))
    });
    let segments = SEGMENT_CHANGES.iter().map(|(what, change)| {
        let mut segment = segment.clone();
        change(&mut segment);
        (*what, EvaluationState::Segment(segment))
    });
    flags.chain(segments).collect()
}
