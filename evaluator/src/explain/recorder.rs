//! Writes down what an evaluation passes.
//!
//! What must hold: every `begin` has its `done`, also when there is no more room: then empty frames
//! are pushed, so that what ends is always what began last.

use serde_json::{Value, json};

use super::{
    BucketStep, ClauseStep, ExperimentStep, HoldoutStep, LayerStep, Outcome, RuleStep, STEPS_MAX,
    SegmentBy, SegmentStep, ShareStep, Step, VALUES_SHOWN_MAX,
};
use crate::bucket::Decimal;
use crate::decide::{Membership, Trace};
use crate::evaluate::{Decision, Reason, VariantRef};
use crate::ids::SegmentKey;
use crate::instant::Instant;
use crate::network::Networks;
use crate::policy::{Algorithm, LAYER_SLOTS, SUBJECT_KEY};
use crate::readable::clause_json;
use crate::semver::SemVer;
use crate::state::{
    ClauseState, EvaluationState, ExperimentState, FlagState, RolloutState, SegmentState,
    ServeState, ShareState, TestState,
};
use crate::subject::{Attribute, Scalar, Subject};
use crate::table::{Slot, Table};

/// Builds the steps of the flag that was asked for.
pub(super) struct Recorder<'a> {
    table: &'a Table,
    subject: &'a Subject,
    /// What has begun and is not done; the innermost last.
    open: Vec<Frame>,
    /// The steps of the flag that was done last.
    done: Vec<Step>,
    noted: usize,
}

/// A flag or segment that is being decided.
struct Frame {
    state: Option<EvaluationState>,
    /// Of a flag.
    steps: Vec<Step>,
    /// Of a segment.
    rules: Vec<RuleStep>,
    /// The rule that is being tried.
    rule: Option<RuleStep>,
    /// The split of the default.
    default: Option<BucketStep>,
    /// Segments that were decided since the last clause.
    segments: Vec<SegmentStep>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(table: &'a Table, subject: &'a Subject) -> Recorder<'a> {
        Recorder {
            table,
            subject,
            open: Vec::new(),
            done: Vec::new(),
            noted: 0,
        }
    }

    /// Returns the steps, and whether there were too many.
    pub(super) fn finish(self) -> (Vec<Step>, bool) {
        (self.done, self.noted > STEPS_MAX)
    }

    /// Counts one more thing to write down; false when there is no room for it.
    fn room(&mut self) -> bool {
        self.noted += 1;
        self.noted <= STEPS_MAX
    }

    fn push(&mut self, slot: u32) {
        let state = match self.room() {
            true => self.table.at(slot).and_then(|slot| {
                let encoded = slot.loaded.encoded()?;
                encoded.decode().ok()
            }),
            false => None,
        };
        self.open.push(Frame {
            state,
            steps: Vec::new(),
            rules: Vec::new(),
            rule: None,
            default: None,
            segments: Vec::new(),
        });
    }

    fn key(&self, slot: u32) -> String {
        self.table.at(slot).map_or("", Slot::key).to_owned()
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let shown = |value: &Scalar| match value {
            Scalar::String(text) => json!(text),
            Scalar::Number(number) => json!(number),
            Scalar::Boolean(value) => json!(value),
        };
        match (name, self.subject.attribute(name)) {
            (SUBJECT_KEY, _) => Some(json!(self.subject.key())),
            (_, Some(Attribute::One(value))) => Some(shown(value)),
            (_, Some(Attribute::Many(values))) => Some(values.iter().map(shown).collect()),
            (_, None) => None,
        }
    }

    /// The text that is hashed.
    fn input(&self, by: &str, salt: &str) -> Option<String> {
        let value = match (by, self.subject.attribute(by)) {
            (SUBJECT_KEY, _) => self.subject.key().to_owned(),
            (_, Some(Attribute::One(Scalar::String(text)))) => text.clone(),
            (_, Some(Attribute::One(Scalar::Number(number)))) => {
                Decimal::of(*number)?.as_str().to_owned()
            }
            _ => return None,
        };
        (!value.is_empty()).then(|| format!("{salt}{value}"))
    }

    fn split(&self, flag: &FlagState, rollout: &RolloutState, bucket: Option<u32>) -> BucketStep {
        let mut from = 0_u32;
        let shares = rollout.weights.iter().map(|share| {
            let (start, end) = (from, from.saturating_add(share.weight));
            from = end;
            ShareStep {
                variant: variant(flag, share.variant),
                from: start,
                to: end,
            }
        });
        BucketStep {
            shares: shares.collect(),
            algorithm: rollout.algorithm.as_str(),
            input: self.input(&rollout.bucket_by, &rollout.salt),
            bucket_by: rollout.bucket_by.clone(),
            total: rollout.total,
            bucket,
        }
    }

    fn share(&self, share: &ShareState, bucket: Option<u32>) -> BucketStep {
        BucketStep {
            algorithm: share.algorithm.as_str(),
            input: self.input(&share.bucket_by, &share.salt),
            bucket_by: share.bucket_by.clone(),
            total: share.of,
            bucket,
            shares: vec![ShareStep {
                variant: None,
                from: 0,
                to: share.share,
            }],
        }
    }

    fn clause_step(&self, clause: &ClauseState, keys: &[SegmentKey]) -> ClauseStep {
        let mut shown = clause_json(clause, keys);
        let mut values_more = 0;
        if let Some(Value::Array(values)) = shown.get_mut("values") {
            values_more = values.len().saturating_sub(VALUES_SHOWN_MAX);
            values.truncate(VALUES_SHOWN_MAX);
        }
        let found = match clause {
            ClauseState::Attribute { name, .. } | ClauseState::Exists { name, .. } => {
                self.attribute(name)
            }
            ClauseState::Segments { .. } => None,
        };
        ClauseStep {
            clause: shown,
            values_more,
            found,
            outcome: Outcome::NoMatch,
            holds: false,
            segments: Vec::new(),
        }
    }

    /// Gives the innermost frame away and takes it back, so that `self` can be read meanwhile.
    fn with_top(&mut self, f: impl FnOnce(&mut Self, &mut Frame)) {
        if let Some(mut top) = self.open.pop() {
            f(self, &mut top);
            self.open.push(top);
        }
    }
}

impl Trace for Recorder<'_> {
    fn flag(&mut self, slot: u32) {
        self.push(slot);
    }

    fn flag_done(&mut self, decision: &Decision) {
        let Some(mut frame) = self.open.pop() else {
            return;
        };
        let by_default = match decision.reason() {
            Reason::Default | Reason::Static => true,
            Reason::Split => decision.rule().is_none(),
            _ => false,
        };
        if by_default && frame.state.is_some() {
            frame.steps.push(Step::Default {
                rollout: frame.default,
            });
        }
        self.done = frame.steps;
    }

    fn prerequisite(&mut self, place: usize, found: Option<VariantRef>, holds: bool) {
        let steps = std::mem::take(&mut self.done);
        if !self.room() {
            return;
        }
        self.with_top(|recorder, top| {
            let Some(EvaluationState::Flag(state)) = &top.state else {
                return;
            };
            let Some(wanted) = state.prerequisites.get(place) else {
                return;
            };
            let other = recorder.table.find_flag(wanted.flag.as_str());
            let name = |variant: VariantRef| {
                other.and_then(|other| other.flag.variant_name(variant.index()))
            };
            top.steps.push(Step::Prerequisite {
                flag: wanted.flag.to_string(),
                accepts: wanted.variants.clone(),
                found: found.and_then(name).map(str::to_owned),
                holds,
                steps,
            });
        });
    }

    fn target(&mut self, found: Option<VariantRef>) {
        if !self.room() {
            return;
        }
        if let Some(top) = self.open.last_mut()
            && let Some(EvaluationState::Flag(state)) = &top.state
        {
            let variant = found.and_then(|one| variant(state, u32::from(one.index())));
            top.steps.push(Step::Target { variant });
        }
    }

    fn rule(&mut self, place: usize) {
        let room = self.room();
        let Some(top) = self.open.last_mut() else {
            return;
        };
        let rule_id = match &top.state {
            Some(EvaluationState::Flag(flag)) => flag.rules.get(place).map(|rule| rule.id.clone()),
            _ => None,
        };
        top.rule = (room && top.state.is_some()).then(|| RuleStep {
            rule_id,
            place,
            clauses: Vec::new(),
            experiment: None,
            rollout: None,
            holds: false,
        });
    }

    fn rule_done(&mut self, holds: bool) {
        let Some(top) = self.open.last_mut() else {
            return;
        };
        if let Some(rule) = top.rule.take() {
            let rule = RuleStep { holds, ..rule };
            match &top.state {
                Some(EvaluationState::Segment(_)) => top.rules.push(rule),
                _ => top.steps.push(Step::Rule(Box::new(rule))),
            }
        }
    }

    fn clause(&mut self, place: usize, outcome: Option<bool>, holds: bool) {
        let room = self.room();
        self.with_top(|recorder, top| {
            let segments = std::mem::take(&mut top.segments);
            let (Some(rule), true) = (&mut top.rule, room) else {
                return;
            };
            let Some((clause, keys)) = clause_of(top.state.as_ref(), rule.place, place) else {
                return;
            };
            let step = recorder.clause_step(clause, keys);
            let outcome = match (outcome, clause) {
                (Some(true), _) => Outcome::Match,
                (None, ClauseState::Segments { .. }) => Outcome::Undecided,
                (None, _) => Outcome::Missing,
                (Some(false), ClauseState::Attribute { name, test, .. })
                    if !recorder.subject_has_usable(name, test) =>
                {
                    Outcome::WrongType
                }
                (Some(false), _) => Outcome::NoMatch,
            };
            rule.clauses.push(ClauseStep {
                outcome,
                holds,
                segments,
                ..step
            });
        });
    }

    fn segment(&mut self, slot: u32) {
        self.push(slot);
    }

    fn segment_done(&mut self, slot: u32, by: Membership) {
        let Some(frame) = self.open.pop() else {
            return;
        };
        let segment = self.key(slot);
        if let (Some(_), Some(top)) = (frame.state, self.open.last_mut()) {
            let by = match by {
                Membership::Excluded => SegmentBy::Excluded,
                Membership::Included => SegmentBy::Included,
                Membership::Rule(_) => SegmentBy::Rule,
                Membership::Nothing => SegmentBy::Nothing,
            };
            top.segments.push(SegmentStep {
                segment,
                within: Some(matches!(by, SegmentBy::Included | SegmentBy::Rule)),
                by,
                rules: frame.rules,
            });
        }
    }

    fn segment_known(&mut self, slot: u32, within: Option<bool>) {
        if !self.room() {
            return;
        }
        let segment = self.key(slot);
        if let Some(top) = self.open.last_mut() {
            let by = match within {
                Some(_) => SegmentBy::SeenBefore,
                None => SegmentBy::Undecidable,
            };
            top.segments.push(SegmentStep {
                segment,
                within,
                by,
                rules: Vec::new(),
            });
        }
    }

    fn holdout(&mut self, held_out: bool) {
        if let Some(top) = self.open.last_mut() {
            let segment = top.segments.pop();
            if let Some(experiment) = experiment_step(top) {
                experiment.takes_part = !held_out;
                experiment.holdout = Some(HoldoutStep { held_out, segment });
            }
        }
    }

    fn layer(&mut self, slot: Option<u32>, within: bool) {
        self.with_top(|recorder, top| {
            let Some((state, layer)) =
                experiment_of(top).and_then(|state| Some((state.clone(), state.layer.clone()?)))
            else {
                return;
            };
            let step = LayerStep {
                slot: BucketStep {
                    algorithm: Algorithm::Murmur3V1.as_str(),
                    input: recorder.input(&state.rollout.bucket_by, &layer.salt),
                    bucket_by: state.rollout.bucket_by,
                    total: LAYER_SLOTS,
                    bucket: slot,
                    shares: Vec::new(),
                },
                layer: layer.key.to_string(),
                range: [layer.start, layer.end],
                within,
            };
            if let Some(experiment) = experiment_step(top) {
                experiment.takes_part = within;
                experiment.layer = Some(step);
            }
        });
    }

    fn bucket(&mut self, bucket: Option<u32>) {
        self.with_top(|recorder, top| {
            // An experiment without holdout and layer is only met here.
            experiment_step(top);
            let place = top.rule.as_ref().map(|rule| rule.place);
            let step = match &top.state {
                Some(EvaluationState::Flag(flag)) => match serve_of(flag, place) {
                    Some(ServeState::Rollout(rollout)) => {
                        Some(recorder.split(flag, rollout, bucket))
                    }
                    Some(ServeState::Experiment(experiment)) => {
                        Some(recorder.split(flag, &experiment.rollout, bucket))
                    }
                    _ => None,
                },
                Some(EvaluationState::Segment(segment)) => {
                    share_of(segment, place).map(|share| recorder.share(share, bucket))
                }
                None => None,
            };
            match &mut top.rule {
                Some(rule) => rule.rollout = step,
                None => top.default = step,
            }
        });
    }
}

impl Recorder<'_> {
    /// Says whether the subject has a value there of a type that the test compares.
    fn subject_has_usable(&self, name: &str, test: &TestState) -> bool {
        match (name, self.subject.attribute(name)) {
            (SUBJECT_KEY, _) => is_usable(test, &Scalar::String(self.subject.key().to_owned())),
            (_, Some(Attribute::One(value))) => is_usable(test, value),
            (_, Some(Attribute::Many(values))) => {
                values.is_empty() || values.iter().any(|value| is_usable(test, value))
            }
            (_, None) => false,
        }
    }
}

fn is_usable(test: &TestState, value: &Scalar) -> bool {
    match (test, value) {
        (TestState::In { strings, .. }, Scalar::String(_)) => !strings.is_empty(),
        (TestState::In { numbers, .. }, Scalar::Number(_)) => !numbers.is_empty(),
        (TestState::In { booleans, .. }, Scalar::Boolean(_)) => *booleans != [false; 2],
        (TestState::SemVer(..), Scalar::String(text)) => SemVer::parse(text).is_some(),
        (TestState::Time(..), Scalar::String(text)) => Instant::parse(text).is_some(),
        (TestState::Time(..), Scalar::Number(number)) => Instant::from_millis(*number).is_some(),
        (TestState::Networks(_), Scalar::String(text)) => {
            Networks::new(&[]).contains(text).is_some()
        }
        (TestState::Number(..), Scalar::Number(_)) => true,
        (
            TestState::Contains(_)
            | TestState::StartsWith(_)
            | TestState::EndsWith(_)
            | TestState::Matches(_),
            Scalar::String(_),
        ) => true,
        _ => false,
    }
}

fn variant(flag: &FlagState, index: u32) -> Option<String> {
    let variant = flag.variants.get(index as usize)?;
    Some(variant.name.clone())
}

fn clause_of(
    state: Option<&EvaluationState>,
    rule: usize,
    clause: usize,
) -> Option<(&ClauseState, &[SegmentKey])> {
    match state? {
        EvaluationState::Flag(flag) => {
            let clause = flag.rules.get(rule)?.when.get(clause)?;
            Some((clause, &flag.segments))
        }
        EvaluationState::Segment(segment) => {
            let clause = segment.rules.get(rule)?.when.get(clause)?;
            Some((clause, &segment.segments))
        }
    }
}

fn serve_of(flag: &FlagState, rule: Option<usize>) -> Option<&ServeState> {
    match rule {
        Some(place) => flag.rules.get(place).map(|rule| &rule.serve),
        None => Some(&flag.default),
    }
}

fn share_of(segment: &SegmentState, rule: Option<usize>) -> Option<&ShareState> {
    segment.rules.get(rule?)?.rollout.as_ref()
}

fn experiment_of(top: &Frame) -> Option<&ExperimentState> {
    let place = top.rule.as_ref()?.place;
    match (&top.state, serve_of_state(top.state.as_ref(), place)?) {
        (Some(_), ServeState::Experiment(experiment)) => Some(experiment),
        _ => None,
    }
}

fn serve_of_state(state: Option<&EvaluationState>, rule: usize) -> Option<&ServeState> {
    match state? {
        EvaluationState::Flag(flag) => serve_of(flag, Some(rule)),
        EvaluationState::Segment(_) => None,
    }
}

/// The step of the experiment of the rule that is being tried, begun if need be.
fn experiment_step(top: &mut Frame) -> Option<&mut ExperimentStep> {
    let key = experiment_of(top)?.key.to_string();
    let rule = top.rule.as_mut()?;
    let begun = || {
        Box::new(ExperimentStep {
            key,
            holdout: None,
            layer: None,
            takes_part: true,
        })
    };
    Some(rule.experiment.get_or_insert_with(begun))
}
