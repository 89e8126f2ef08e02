//! Why a flag evaluates to what it does: every step of one evaluation, in its order.
//!
//! What must hold: explaining *is* deciding, by the functions of `decide.rs`, with somebody who
//! writes down what they pass; so the explained decision cannot be another one (I7). What is
//! written down is in the words of the ground state, read back from the compiled states. The steps
//! are bounded by [`STEPS_MAX`]; an evaluation that passes more is still decided to its end.
//!
//! Only what was looked at is there: the first clause that does not hold ends a rule, the first rule
//! that serves ends the list.
//!
//! Left out: showing it to people (the command line does).

use serde::Serialize;
use serde_json::{Value, json};

use crate::decide::decide;
use crate::evaluate::{Decision, Evaluation};
use crate::loaded::Snapshot;
use crate::subject::Subject;

mod recorder;

use recorder::Recorder;

/// So many steps, clauses and states of one evaluation are written down.
pub const STEPS_MAX: usize = 10_000;

/// So many values of a clause are shown.
pub const VALUES_SHOWN_MAX: usize = 20;

/// An evaluation and the way to it.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    /// What [`Snapshot::evaluate`] gives.
    pub evaluation: Evaluation<'a>,
    /// What was looked at, in this order. Nothing when the flag is unknown, archived or disabled.
    pub steps: Vec<Step>,
    /// Whether there were more than [`STEPS_MAX`] steps.
    pub truncated: bool,
}

/// One step of deciding a flag.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A flag that has to be at one of some variants.
    Prerequisite {
        /// Its key.
        flag: String,
        /// The variants that will do.
        accepts: Vec<String>,
        /// The variant it is at; none when it is unknown, archived, disabled or cannot be decided.
        found: Option<String>,
        /// Whether that will do.
        holds: bool,
        /// How that flag was decided; empty when it was decided further up.
        steps: Vec<Step>,
    },
    /// Whether the subject has a variant of its own.
    Target {
        /// That variant.
        variant: Option<String>,
    },
    /// A rule.
    Rule(Box<RuleStep>),
    /// What is served when nothing else decided.
    Default {
        /// The split, if it is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        rollout: Option<BucketStep>,
    },
}

/// A rule of a flag or of a segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleStep {
    /// Its id; a segment's rules have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_id: Option<String>,
    /// Its place, from 0.
    pub place: usize,
    /// The clauses as far as they were looked at.
    pub clauses: Vec<ClauseStep>,
    /// The experiment, if it has one and all clauses hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Box<ExperimentStep>>,
    /// The split or share, if it has one and it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<BucketStep>,
    /// Whether it decided.
    pub holds: bool,
}

/// A clause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClauseStep {
    /// The attribute, operator, values and `negate`, with at most [`VALUES_SHOWN_MAX`] values.
    pub clause: Value,
    /// How many values there are beyond those shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub values_more: usize,
    /// What the subject has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Value>,
    /// What the comparison came to, before `negate`.
    pub outcome: Outcome,
    /// Whether the clause holds.
    pub holds: bool,
    /// The segments that were looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentStep>,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Match,
    /// It does not.
    NoMatch,
    /// It does not, because no value is of a type that the operator compares.
    WrongType,
    /// The subject lacks the attribute: neither the clause nor its negation holds.
    Missing,
    /// A segment cannot be decided: neither the clause nor its negation holds.
    Undecided,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SegmentStep {
    /// Its key.
    pub segment: String,
    /// Whether the subject is in it; none when it cannot be decided.
    pub within: Option<bool>,
    /// Why.
    pub by: SegmentBy,
    /// The rules as far as they were looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleStep>,
}

/// Why a subject is in a segment, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentBy {
    /// It is listed as excluded.
    Excluded,
    /// It is listed as included.
    Included,
    /// A rule takes it in.
    Rule,
    /// It is not listed and no rule takes it in.
    Nothing,
    /// It was found out further up.
    SeenBefore,
    /// The segment is missing, or what it uses is not sound.
    Undecidable,
}

/// Whether the subject takes part in an experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExperimentStep {
    /// The key of the experiment.
    pub key: String,
    /// The segment that is kept out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<HoldoutStep>,
    /// The slot in the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerStep>,
    /// Whether it takes part.
    pub takes_part: bool,
}

/// Whether the subject is held out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HoldoutStep {
    /// Whether it is.
    pub held_out: bool,
    /// How that was found out.
    pub segment: Option<SegmentStep>,
}

/// Where the subject is in a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerStep {
    /// The key of the layer.
    pub layer: String,
    /// How the slot came about.
    pub slot: BucketStep,
    /// The slots that the experiment has: the first, and the one after the last.
    pub range: [u32; 2],
    /// Whether the slot is one of these.
    pub within: bool,
}

/// How a bucket came about: that of `input`, hashed and scaled to `total`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BucketStep {
    /// The algorithm.
    pub algorithm: &'static str,
    /// The attribute that is bucketed.
    pub bucket_by: String,
    /// The text that is hashed: the salt and what the subject has there. None when it has nothing
    /// that can be bucketed.
    pub input: Option<String>,
    /// The number of buckets.
    pub total: u32,
    /// The bucket.
    pub bucket: Option<u32>,
    /// The shares, in their order; empty for a slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareStep>,
}

/// A range of buckets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShareStep {
    /// The variant it gets; none in a segment, where it means being taken in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The first bucket.
    pub from: u32,
    /// The bucket after the last.
    pub to: u32,
}

impl Snapshot {
    /// Decides a flag for a subject and says how.
    ///
    /// ```
    /// # use pennon_evaluator::*;
    /// # let (key, at) = ("ui".parse::<FlagKey>()?, Version::new(7).unwrap());
    /// # let config = r#"{"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"}"#;
    /// # let config = FlagConfig::parse(&key, config).unwrap();
    /// # let policy = TargetingPolicy::parse(r#"{"enabled": true, "rules": [{"id": "eu", "when": [{"attribute":
    /// #   "country", "op": "in", "values": ["DE"]}], "serve": {"variant": "on"}}], "default": {"variant": "off"}}"#);
    /// # let state = compile_flag(&config, at, &policy.unwrap(), at, at, &NoReferences, &Limits::default()).unwrap();
    /// # let environment: EnvironmentKey = "production".parse()?;
    /// # let states = vec![EncodedState::new(&environment, &state)];
    /// # let snapshot = Snapshot::load(&ConfigSnapshot::new(environment, at, states)?)?;
    /// // The flag "ui" has a rule "eu": country in ["DE"].
    /// let why = snapshot.explain("ui", &Subject::new("user-42").with("country", 49));
    /// let Step::Rule(rule) = &why.steps[0] else { panic!("{why:?}") };
    /// assert_eq!((rule.holds, rule.clauses[0].outcome), (false, Outcome::WrongType));
    ///
    /// // An unknown flag has nothing to explain.
    /// let why = snapshot.explain("uii", &Subject::new("user-42"));
    /// assert_eq!((why.evaluation.reason, why.steps.len()), (Reason::FlagNotFound, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, flag: &str, subject: &Subject) -> Explanation<'_> {
        let mut recorder = Recorder::new(&self.table, subject);
        let found = self.table.find_flag(flag);
        let decision = found.map(|found| decide(&self.table, &found, subject, &mut recorder)); // I7
        let (steps, truncated) = recorder.finish();
        Explanation {
            evaluation: self.answer(decision.unwrap_or(Decision::NOT_FOUND)),
            steps,
            truncated,
        }
    }
}

impl Explanation<'_> {
    /// Shows it as the evaluation with `trace`: `{steps, truncated}`. `flag` is the key that was
    /// asked for.
    pub fn to_json(&self, flag: &str) -> Value {
        let mut shown = self.evaluation.to_json(flag);
        // Nothing in the steps has a form that JSON lacks.
        let steps = serde_json::to_value(&self.steps).unwrap_or_default();
        shown["trace"] = json!({ "steps": steps, "truncated": self.truncated });
        shown
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
