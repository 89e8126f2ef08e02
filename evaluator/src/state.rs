//! EvaluationState: the compiled form of one flag or one segment in one environment. Derived.
//!
//! What must hold: it is a pure function of ground state (`compile.rs`) and stands for itself:
//! evaluation needs no source, and of other states only those that `uses` names. Names of variants
//! and segments are resolved to indexes, lists that are searched are sorted, numbers and semantic
//! versions are parsed. Two equal states have equal bytes (I4).
//!
//! The layout of these types *is* the stored encoding, which is positional: a field is never
//! added, removed or moved without a new format number (`encoding.rs`), and enums only grow at
//! their end.
//!
//! Left out: bytes (`encoding.rs`), a form for reading (`readable.rs`), decisions (`evaluate.rs`).

use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{OnStale, ValueType};
use crate::ids::{ExperimentKey, FlagKey, LayerKey, SegmentKey, StateKey, Version};
use crate::instant::Instant;
use crate::network::Network;
use crate::policy::Algorithm;
use crate::semver::SemVer;

/// The compiled form of one flag or one segment in one environment. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvaluationState {
    /// A flag.
    Flag(FlagState),
    /// A segment.
    Segment(SegmentState),
}

impl EvaluationState {
    /// Returns the kind and key of what this is the state of.
    pub fn state_key(&self) -> StateKey {
        match self {
            EvaluationState::Flag(flag) => StateKey::flag(&flag.key),
            EvaluationState::Segment(segment) => StateKey::segment(&segment.key),
        }
    }

    /// Returns the version at which this state last changed. States that it uses may have changed
    /// later.
    pub fn changed_at(&self) -> Version {
        match self {
            EvaluationState::Flag(flag) => flag.changed_at,
            EvaluationState::Segment(segment) => segment.changed_at,
        }
    }

    /// Returns what this one names, sorted, each once: prerequisite flags, segments, and for its
    /// experiments their keys and layers.
    pub fn uses(&self) -> Vec<StateKey> {
        let (flag, segments) = match self {
            EvaluationState::Flag(flag) => (Some(flag), &flag.segments),
            EvaluationState::Segment(segment) => (None, &segment.segments),
        };
        let mut uses: Vec<StateKey> = segments.iter().map(StateKey::segment).collect();
        if let Some(flag) = flag {
            let flags = flag.prerequisites.iter();
            uses.extend(flags.map(|prerequisite| StateKey::flag(&prerequisite.flag)));
            for (_, experiment) in flag.experiments() {
                uses.push(StateKey::experiment(&experiment.key));
                let layer = experiment.layer.as_ref();
                uses.extend(layer.map(|layer| StateKey::layer(&layer.key)));
            }
        }
        uses.sort();
        uses.dedup();
        uses
    }
}

/// The compiled form of a flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagState {
    /// Its key. First, because `EncodedState` reads it without decoding the rest.
    pub key: FlagKey,
    /// The version of the FlagConfig it was compiled from.
    pub config_at: Version,
    /// The version of the TargetingPolicy it was compiled from.
    pub policy_at: Version,
    /// The version at which this state last changed.
    pub changed_at: Version,
    /// The type of all variants.
    pub value_type: ValueType,
    /// The variants, sorted by name.
    pub variants: Vec<VariantState>,
    /// Index of the off variant.
    pub off_variant: u32,
    /// The salt of the flag.
    pub salt: String,
    /// What a stale client answers.
    pub on_stale: OnStale,
    /// Whether every evaluation asks for an ExposureEvent.
    pub track: bool,
    /// Whether the flag answers `FLAG_NOT_FOUND`.
    pub archived: bool,
    /// The kill switch.
    pub enabled: bool,
    /// In the order written.
    pub prerequisites: Vec<PrerequisiteState>,
    /// One per subject, sorted by subject.
    pub targets: Vec<TargetState>,
    /// The segments that clauses and holdouts name, sorted; these hold indexes into this list.
    pub segments: Vec<SegmentKey>,
    /// In the order written.
    pub rules: Vec<RuleState>,
    /// Served when nothing else decided.
    pub default: ServeState,
}

impl FlagState {
    /// Returns the experiments, each with the index of its rule.
    pub fn experiments(&self) -> impl Iterator<Item = (usize, &ExperimentState)> {
        let rules = self.rules.iter().enumerate();
        rules.filter_map(|(n, rule)| match &rule.serve {
            ServeState::Experiment(experiment) => Some((n, &**experiment)),
            _ => None,
        })
    }
}

/// A variant: its name and its value as canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantState {
    /// The name.
    pub name: String,
    /// The value as JSON text with sorted names and no space.
    pub value: String,
}

/// A flag that must be enabled and at one of these variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrerequisiteState {
    /// The other flag.
    pub flag: FlagKey,
    /// Names of its variants, sorted. Names, because that flag's indexes change without this one.
    pub variants: Vec<String>,
}

/// A subject with a variant of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetState {
    /// The subject key.
    pub subject: String,
    /// Index of the variant.
    pub variant: u32,
}

/// A rule of a flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// Its id, unique in the flag.
    pub id: String,
    /// All must hold.
    pub when: Vec<ClauseState>,
    /// What is served then.
    pub serve: ServeState,
}

/// What is served. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServeState {
    /// The variant of this index.
    Variant(u32),
    /// A variant by bucket.
    Rollout(RolloutState),
    /// A variant by bucket, for those who take part. Only in a rule.
    Experiment(Box<ExperimentState>),
}

/// A split for those who take part in an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentState {
    /// Its key.
    pub key: ExperimentKey,
    /// The share of subjects it has for itself; everybody when there is none.
    pub layer: Option<LayerState>,
    /// The segment that is kept out, by index into the state's list of segments.
    pub holdout: Option<u32>,
    /// The split; its `bucket_by` also finds the slot in the layer.
    pub rollout: RolloutState,
}

/// A range of a layer's slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// The key of the layer.
    pub key: LayerKey,
    /// What a slot is computed with.
    pub salt: String,
    /// The first slot.
    pub start: u32,
    /// The slot after the last.
    pub end: u32,
}

/// A weighted split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutState {
    /// How a bucket is computed.
    pub algorithm: Algorithm,
    /// The attribute that is bucketed, or `subject_key`.
    pub bucket_by: String,
    /// The salt: the rollout's own or the flag's.
    pub salt: String,
    /// The shares, in the order written; at least one.
    pub weights: Vec<WeightState>,
    /// Their sum, 1 to 2^31 - 1.
    pub total: u32,
}

/// The share of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightState {
    /// Index of the variant.
    pub variant: u32,
    /// Its share of the total.
    pub weight: u32,
}

/// The compiled form of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentState {
    /// Its key. First, because `EncodedState` reads it without decoding the rest.
    pub key: SegmentKey,
    /// The version of the TargetingPolicy it was compiled from.
    pub policy_at: Version,
    /// The version at which this state last changed.
    pub changed_at: Version,
    /// Subject keys that belong to it, sorted.
    pub included: Vec<String>,
    /// Subject keys that do not, sorted.
    pub excluded: Vec<String>,
    /// The segments that clauses name, sorted; clauses hold indexes into this list.
    pub segments: Vec<SegmentKey>,
    /// In the order written.
    pub rules: Vec<SegmentRuleState>,
}

/// A rule of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRuleState {
    /// All must hold.
    pub when: Vec<ClauseState>,
    /// The share taken in; all when there is none.
    pub rollout: Option<ShareState>,
}

/// A share of subjects: those with a bucket below `share`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareState {
    /// How a bucket is computed.
    pub algorithm: Algorithm,
    /// The attribute that is bucketed, or `subject_key`.
    pub bucket_by: String,
    /// The salt: the share's own or the key of the segment.
    pub salt: String,
    /// How many of `of` buckets.
    pub share: u32,
    /// The number of buckets, 1 to 2^31 - 1.
    pub of: u32,
}

/// One condition. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClauseState {
    /// On an attribute of the subject.
    Attribute {
        /// Its name, or `subject_key`.
        name: String,
        /// What it is compared with.
        test: TestState,
        /// Whether the answer for a present attribute is turned round.
        negate: bool,
    },
    /// On membership in any of these segments, by index into the state's list of segments.
    Segments {
        /// Sorted indexes, at least one.
        any_of: Vec<u32>,
        /// Whether the answer is turned round.
        negate: bool,
    },
    /// On an attribute being there.
    Exists {
        /// Its name, or `subject_key`.
        name: String,
        /// Whether the answer is turned round.
        negate: bool,
    },
}

/// What an attribute is compared with: any of the values. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestState {
    /// `in`: the lists are sorted.
    In {
        /// Text values.
        strings: Vec<String>,
        /// Number values.
        numbers: Vec<Number>,
        /// Whether `false` and `true` are among the values.
        booleans: [bool; 2],
    },
    /// `contains`: sorted parts.
    Contains(Vec<String>),
    /// `starts_with`: sorted beginnings.
    StartsWith(Vec<String>),
    /// `ends_with`: sorted endings.
    EndsWith(Vec<String>),
    /// `lt`, `lte`, `gt`, `gte`.
    Number(Comparison, Vec<Number>),
    /// `semver_lt`, `semver_lte`, `semver_gt`, `semver_gte`, `semver_eq`.
    SemVer(Comparison, Vec<SemVer>),
    /// `matches`: sorted regular expressions.
    Matches(Vec<String>),
    /// `before` and `after`: [`Comparison::Lt`] and [`Comparison::Gt`].
    Time(Comparison, Vec<Instant>),
    /// `in_cidr`: sorted networks.
    Networks(Vec<Network>),
}

/// How two ordered things are compared. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// The attribute is less.
    Lt,
    /// The attribute is less or equal.
    Lte,
    /// The attribute is greater.
    Gt,
    /// The attribute is greater or equal.
    Gte,
    /// The attribute is equal.
    Eq,
}

impl Comparison {
    /// Says whether an attribute that compares so with a value passes.
    pub(crate) fn admits(self, order: std::cmp::Ordering) -> bool {
        match self {
            Comparison::Lt => order.is_lt(),
            Comparison::Lte => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::Gte => order.is_ge(),
            Comparison::Eq => order.is_eq(),
        }
    }
}

/// A finite number. Zero has one form only, so that equal numbers have equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Number(f64);

impl Number {
    /// Makes a number; nothing when it is infinite or not a number.
    pub fn new(value: f64) -> Option<Number> {
        // -0.0 + 0.0 is 0.0; every other number stays what it is.
        value.is_finite().then_some(Number(value + 0.0))
    }

    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        let value = f64::deserialize(deserializer)?;
        match Number::new(value) {
            Some(number) if number.0.to_bits() == value.to_bits() => Ok(number),
            _ => Err(serde::de::Error::custom(
                "a number must be finite, and zero positive",
            )),
        }
    }
}
