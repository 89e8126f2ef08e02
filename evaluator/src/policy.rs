//! TargetingPolicy of a flag and of a segment, as people write them. Ground state.
//!
//! What must hold: parsing collects every fault with its place; what it gives has the right shape
//! and only operators, fields and algorithms that this release knows. Whether names exist, values
//! suit their operator and numbers add up is decided when the policy is compiled (`compile.rs`).
//!
//! Left out: what the parts mean for a subject (`decide.rs`).

use std::fmt;

use serde_json::Value;

use crate::fault::{self, At, Fault, Faults, Fields};
use crate::ids::{ExperimentKey, FlagKey, KeyError, LayerKey, SegmentKey};

/// The attribute name, and value of `bucket_by`, that means the subject key itself.
pub const SUBJECT_KEY: &str = "subject_key";

/// The greatest sum of weights, and the greatest `of`: 2^31 - 1.
pub const WEIGHT_SUM_MAX: u32 = (1 << 31) - 1;

/// The number of slots of a layer.
pub const LAYER_SLOTS: u32 = 10_000;

/// What a flag does in one environment. Ground state.
///
/// ```
/// use pennon_evaluator::TargetingPolicy;
/// let text = r#"{"enabled":true,"rules":[{"id":"eu","when":[{"attribute":"country","op":"in",
///   "values":["DE","FR"]}],"serve":{"variant":"on"}}],"default":{"variant":"off"}}"#;
/// assert!(TargetingPolicy::parse(text).is_ok());
///
/// let faults = TargetingPolicy::parse(&text.replace("\"in\"", "\"inn\"")).unwrap_err();
/// assert_eq!(faults[0].pointer, "/rules/0/when/0/op");
/// assert!(faults[0].message.contains("did you mean \"in\"?"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TargetingPolicy {
    /// The kill switch: a disabled flag serves its off variant.
    pub enabled: bool,
    /// Flags that must be at one of the named variants.
    pub prerequisites: Vec<Prerequisite>,
    /// Subjects with a variant of their own.
    pub targets: Vec<Target>,
    /// Tried in order; the first whose clauses all hold decides.
    pub rules: Vec<Rule>,
    /// Served when nothing else decided.
    pub default: Serve,
}

/// A flag that must be enabled and at one of these variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prerequisite {
    /// The other flag.
    pub flag: FlagKey,
    /// Its variants that will do; at least one.
    pub variants: Vec<String>,
}

/// Subjects that get one variant whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The variant they get.
    pub variant: String,
    /// Their subject keys.
    pub subjects: Vec<String>,
}

/// What to serve to subjects for which every clause holds. Without clauses, to everybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its id; `rule-<n>` by its place, from 1, when left out.
    pub id: Option<String>,
    /// All of these must hold.
    pub when: Vec<Clause>,
    /// What is served then.
    pub serve: Serve,
}

/// One variant, or a share of subjects each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    /// This variant.
    Variant(String),
    /// A variant by bucket.
    Rollout(Rollout),
}

/// A weighted split of subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The attribute that is bucketed; [`SUBJECT_KEY`] when left out.
    pub bucket_by: String,
    /// How a bucket is computed.
    pub algorithm: Algorithm,
    /// The salt; the flag's when left out.
    pub salt: Option<String>,
    /// The shares, in the order that decides who is in which. A variant may come more than once:
    /// so it can grow at the expense of any other without moving anybody else.
    pub weights: Vec<Weight>,
    /// The experiment that the split is for. Only a rule can have one: who takes no part goes on to
    /// the next rule.
    pub experiment: Option<Experiment>,
}

/// An experiment: who takes part, apart from the clauses of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its key: what exposures are counted under.
    pub key: ExperimentKey,
    /// A share of subjects that it has for itself; everybody when left out.
    pub layer: Option<Layer>,
    /// A segment of subjects that are kept out of it.
    pub holdout: Option<SegmentKey>,
}

/// A range of a layer's [`LAYER_SLOTS`] slots. Experiments with disjoint ranges of one layer
/// exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The key of the layer; it exists by being named. Its salt is `layer=` and this key.
    pub key: LayerKey,
    /// The first slot.
    pub start: u32,
    /// The slot after the last.
    pub end: u32,
}

/// The share of one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The variant.
    pub variant: String,
    /// Its share of the sum of all weights, from 0.
    pub weight: u32,
}

/// How a bucket is computed from salt and value; never changed under an existing rollout. Stored
/// by position: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Algorithm {
    /// `murmur3-v1`: see `bucket.rs`.
    #[serde(rename = "murmur3-v1")]
    Murmur3V1,
}

impl Algorithm {
    /// Returns the name that is written: `murmur3-v1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Murmur3V1 => "murmur3-v1",
        }
    }
}

/// One condition on the subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// The attribute to look at; none for [`Op::InSegment`].
    pub attribute: Option<String>,
    /// The comparison.
    pub op: Op,
    /// What to compare with: any of these.
    pub values: Vec<Value>,
    /// Whether the answer is turned round. A missing attribute stays a non-match.
    pub negate: bool,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Equal, within one JSON type.
    In,
    /// The text has this part.
    Contains,
    /// The text begins so.
    StartsWith,
    /// The text ends so.
    EndsWith,
    /// The text has a match of the regular expression.
    Matches,
    /// The number is less.
    Lt,
    /// The number is less or equal.
    Lte,
    /// The number is greater.
    Gt,
    /// The number is greater or equal.
    Gte,
    /// The same semantic version.
    SemverEq,
    /// An earlier semantic version.
    SemverLt,
    /// An earlier or the same semantic version.
    SemverLte,
    /// A later semantic version.
    SemverGt,
    /// A later or the same semantic version.
    SemverGte,
    /// The time is before.
    Before,
    /// The time is after.
    After,
    /// The address is in the network.
    InCidr,
    /// The subject is in the segment.
    InSegment,
    /// The attribute is there.
    Exists,
}

impl Op {
    /// Every operator, in the order they are documented.
    pub const ALL: [Op; 19] = [
        Op::In,
        Op::Contains,
        Op::StartsWith,
        Op::EndsWith,
        Op::Matches,
        Op::Lt,
        Op::Lte,
        Op::Gt,
        Op::Gte,
        Op::SemverEq,
        Op::SemverLt,
        Op::SemverLte,
        Op::SemverGt,
        Op::SemverGte,
        Op::Before,
        Op::After,
        Op::InCidr,
        Op::InSegment,
        Op::Exists,
    ];

    /// Returns the word that is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::In => "in",
            Op::Contains => "contains",
            Op::StartsWith => "starts_with",
            Op::EndsWith => "ends_with",
            Op::Matches => "matches",
            Op::Lt => "lt",
            Op::Lte => "lte",
            Op::Gt => "gt",
            Op::Gte => "gte",
            Op::SemverEq => "semver_eq",
            Op::SemverLt => "semver_lt",
            Op::SemverLte => "semver_lte",
            Op::SemverGt => "semver_gt",
            Op::SemverGte => "semver_gte",
            Op::Before => "before",
            Op::After => "after",
            Op::InCidr => "in_cidr",
            Op::InSegment => "in_segment",
            Op::Exists => "exists",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who belongs to a segment in one environment. Ground state. Excluded beats included beats rules.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentPolicy {
    /// Subject keys that belong to it.
    pub included: Vec<String>,
    /// Subject keys that do not.
    pub excluded: Vec<String>,
    /// A subject belongs to it when any of these takes it in.
    pub rules: Vec<SegmentRule>,
}

/// Takes in the subjects for which every clause holds, or a share of them.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentRule {
    /// All of these must hold.
    pub when: Vec<Clause>,
    /// The share taken in; all when left out.
    pub rollout: Option<Share>,
}

/// A share of subjects: those with a bucket below `share`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The attribute that is bucketed; [`SUBJECT_KEY`] when left out.
    pub bucket_by: String,
    /// How a bucket is computed.
    pub algorithm: Algorithm,
    /// The salt; the segment's key when left out.
    pub salt: Option<String>,
    /// How many of `of`, from 0 to `of`.
    pub share: u32,
    /// The number of buckets, from 1 to [`WEIGHT_SUM_MAX`].
    pub of: u32,
}

impl TargetingPolicy {
    const FIELDS: [&'static str; 5] = ["enabled", "prerequisites", "targets", "rules", "default"];

    /// Reads the TargetingPolicy of a flag from JSON. `enabled` and `default` are required.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn parse(json: &str) -> Result<TargetingPolicy, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let policy = Self::read(&value, &mut faults);
        faults.finish(policy)
    }

    fn read(value: &Value, faults: &mut Faults) -> Option<TargetingPolicy> {
        let fields = Fields::open(value, &At::ROOT, &Self::FIELDS, faults)?;
        fields.required("enabled", faults);
        let enabled = fields.boolean_or("enabled", false, faults);
        let prerequisites = fields.list("prerequisites", faults, read_prerequisite);
        let targets = fields.list("targets", faults, read_target);
        let rules = fields.list("rules", faults, read_rule);
        let default = fields.required("default", faults);
        let default = read_serve(default?, &At::ROOT.key("default"), faults);
        Some(TargetingPolicy {
            enabled,
            prerequisites,
            targets,
            rules,
            default: default?,
        })
    }
}

impl SegmentPolicy {
    const FIELDS: [&'static str; 3] = ["included", "excluded", "rules"];

    /// Reads the TargetingPolicy of a segment from JSON. Everything may be left out.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    pub fn parse(json: &str) -> Result<SegmentPolicy, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let fields = Fields::open(&value, &At::ROOT, &Self::FIELDS, &mut faults);
        let policy = fields.map(|fields| SegmentPolicy {
            included: fields.strings("included", &mut faults),
            excluded: fields.strings("excluded", &mut faults),
            rules: fields.list("rules", &mut faults, read_segment_rule),
        });
        faults.finish(policy)
    }
}

fn read_prerequisite(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Prerequisite> {
    let fields = Fields::open(value, at, &["flag", "variants"], faults)?;
    fields.required("variants", faults);
    let variants = fields.strings("variants", faults);
    let flag: FlagKey = read_key(&fields, "flag", faults)?;
    Some(Prerequisite { flag, variants })
}

fn read_target(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Target> {
    let fields = Fields::open(value, at, &["variant", "subjects"], faults)?;
    fields.required("subjects", faults);
    let subjects = fields.strings("subjects", faults);
    let variant = fields.required_string("variant", faults)?;
    Some(Target { variant, subjects })
}

fn read_rule(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Rule> {
    let fields = Fields::open(value, at, &["id", "when", "serve"], faults)?;
    let id = fields.string("id", faults);
    fields.required("when", faults);
    let when = fields.list("when", faults, read_clause);
    let serve = read_serve(fields.required("serve", faults)?, &at.key("serve"), faults)?;
    Some(Rule { id, when, serve })
}

fn read_segment_rule(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<SegmentRule> {
    let fields = Fields::open(value, at, &["when", "rollout"], faults)?;
    fields.required("when", faults);
    let when = fields.list("when", faults, read_clause);
    let rollout = match fields.optional("rollout") {
        Some(value) => Some(read_share(value, &at.key("rollout"), faults)?),
        None => None,
    };
    Some(SegmentRule { when, rollout })
}

fn read_serve(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Serve> {
    let fields = Fields::open(value, at, &["variant", "rollout"], faults)?;
    match (fields.optional("variant"), fields.optional("rollout")) {
        (Some(value), None) => fault::string(value, &at.key("variant"), faults).map(Serve::Variant),
        (None, Some(value)) => read_rollout(value, &at.key("rollout"), faults).map(Serve::Rollout),
        (Some(_), Some(_)) => {
            faults.push(at, "give either \"variant\" or \"rollout\", not both");
            None
        }
        (None, None) => {
            faults.push(at, "give either \"variant\" or \"rollout\"");
            None
        }
    }
}

fn read_rollout(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Rollout> {
    let known = ["bucket_by", "algorithm", "salt", "weights", "experiment"];
    let fields = Fields::open(value, at, &known, faults)?;
    let experiment = match fields.optional("experiment") {
        Some(value) => Some(read_experiment(value, &at.key("experiment"), faults)?),
        None => None,
    };
    fields.required("weights", faults);
    let weights = fields.list("weights", faults, read_weight);
    let salt = fields.string("salt", faults);
    let bucket_by = read_bucket_by(&fields, faults);
    let algorithm = read_algorithm(&fields, faults)?;
    Some(Rollout {
        bucket_by,
        algorithm,
        salt,
        weights,
        experiment,
    })
}

fn read_experiment(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Experiment> {
    let fields = Fields::open(value, at, &["key", "layer", "holdout"], faults)?;
    let layer = match fields.optional("layer") {
        Some(value) => Some(read_layer(value, &at.key("layer"), faults)?),
        None => None,
    };
    let holdout = match fields.optional("holdout") {
        Some(_) => Some(read_key(&fields, "holdout", faults)?),
        None => None,
    };
    Some(Experiment {
        key: read_key(&fields, "key", faults)?,
        layer,
        holdout,
    })
}

fn read_layer(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Layer> {
    let fields = Fields::open(value, at, &["key", "range"], faults)?;
    let key = read_key(&fields, "key", faults);
    fields.required("range", faults);
    let bounds = fields.list("range", faults, |value, at, faults| {
        fault::integer(value, at, (0, u64::from(LAYER_SLOTS)), faults)
    });
    let at = at.key("range");
    match bounds.as_slice() {
        [start, end] if start < end => Some(Layer {
            key: key?,
            start: u32::try_from(*start).ok()?,
            end: u32::try_from(*end).ok()?,
        }),
        _ => {
            let message = format!(
                "must be the first slot and the slot after the last, such as [0, 5000], \
                 within 0 and {LAYER_SLOTS}"
            );
            faults.push(&at, message);
            None
        }
    }
}

fn read_key<K>(fields: &Fields<'_>, name: &str, faults: &mut Faults) -> Option<K>
where
    K: TryFrom<String, Error = KeyError>,
{
    let text = fields.required_string(name, faults)?;
    let key = K::try_from(text);
    key.map_err(|error| faults.push(&fields.at.key(name), error.to_string()))
        .ok()
}

fn read_weight(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Weight> {
    let fields = Fields::open(value, at, &["variant", "weight"], faults)?;
    let variant = fields.required_string("variant", faults);
    let weight = read_u32(&fields, "weight", 0, faults)?;
    Some(Weight {
        variant: variant?,
        weight,
    })
}

fn read_share(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Share> {
    let known = ["bucket_by", "algorithm", "salt", "share", "of"];
    let fields = Fields::open(value, at, &known, faults)?;
    let salt = fields.string("salt", faults);
    let bucket_by = read_bucket_by(&fields, faults);
    let algorithm = read_algorithm(&fields, faults);
    let share = read_u32(&fields, "share", 0, faults);
    let of = read_u32(&fields, "of", 1, faults);
    Some(Share {
        bucket_by,
        algorithm: algorithm?,
        salt,
        share: share?,
        of: of?,
    })
}

fn read_u32(fields: &Fields<'_>, name: &str, min: u64, faults: &mut Faults) -> Option<u32> {
    let value = fields.required(name, faults)?;
    let range = (min, u64::from(WEIGHT_SUM_MAX));
    let number = fault::integer(value, &fields.at.key(name), range, faults)?;
    u32::try_from(number).ok()
}

fn read_bucket_by(fields: &Fields<'_>, faults: &mut Faults) -> String {
    fields
        .string("bucket_by", faults)
        .unwrap_or_else(|| SUBJECT_KEY.to_owned())
}

fn read_algorithm(fields: &Fields<'_>, faults: &mut Faults) -> Option<Algorithm> {
    match fields.string("algorithm", faults).as_deref() {
        None | Some("murmur3-v1") => Some(Algorithm::Murmur3V1),
        Some(word) => {
            let message = format!("there is no algorithm {word:?}; allowed: \"murmur3-v1\"");
            faults.push(&fields.at.key("algorithm"), message);
            None
        }
    }
}

fn read_clause(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Clause> {
    let fields = Fields::open(value, at, &["attribute", "op", "values", "negate"], faults)?;
    let attribute = fields.string("attribute", faults);
    let negate = fields.boolean_or("negate", false, faults);
    let values = fields.list("values", faults, |value, at, faults| {
        let scalar = value.is_string() || value.is_number() || value.is_boolean();
        if !scalar {
            faults.push(at, fault::wrong("a string, number or boolean", value));
        }
        scalar.then(|| value.clone())
    });
    let op = read_op(&fields, faults)?;
    Some(Clause {
        attribute,
        op,
        values,
        negate,
    })
}

fn read_op(fields: &Fields<'_>, faults: &mut Faults) -> Option<Op> {
    let word = fields.required_string("op", faults)?;
    let found = Op::ALL.into_iter().find(|op| op.as_str() == word);
    if found.is_none() {
        faults.push_with(&fields.at.key("op"), || {
            let known = Op::ALL.map(Op::as_str);
            format!("there is no op {word:?}; {}", fault::offer(&word, &known))
        });
    }
    found
}
