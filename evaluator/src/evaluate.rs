//! What a flag evaluates to: the answer and its words.
//!
//! What must hold: an answer is made of a [`Decision`] and the snapshot it was made on, and of
//! nothing else; making it allocates nothing.
//!
//! Left out: deciding (`decide.rs`); ages and defaults, which are the caller's.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::config::OnStale;
use crate::ids::Version;
use crate::loaded::Snapshot;
use crate::program::Serve;
use crate::table::FoundFlag;
use crate::value::ValueRef;

/// What a flag evaluates to.
///
/// Without a value (`FLAG_NOT_FOUND`) the caller's own default holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation<'a> {
    /// The key of the flag; none when it is unknown.
    pub flag: Option<&'a str>,
    /// Whether the flag is known and its policy enabled. It says nothing of the value served.
    pub enabled: bool,
    /// The name of the variant served.
    pub variant: Option<&'a str>,
    /// The value served.
    pub value: Option<ValueRef<'a>>,
    /// The version at which the flag, or a segment or prerequisite it uses, last changed; 0 when
    /// the flag is unknown.
    pub config_version: Version,
    /// How it was decided.
    pub reason: Reason,
    /// The rule that decided.
    pub rule_id: Option<&'a str>,
    /// The bucket of the subject, when a rollout decided.
    pub bucket: Option<u32>,
    /// What else there is to say.
    pub detail: Option<Detail>,
    /// What to answer when the snapshot is stale.
    pub on_stale: OnStale,
    /// The experiment whose split decided.
    pub experiment: Option<&'a str>,
    /// Whether this evaluation asks for an ExposureEvent: an experiment decided, or the flag says
    /// `track`. None is due for a subject that could not be bucketed.
    pub exposure_due: bool,
}

/// What was decided for a flag and a subject, by number: it borrows nothing, and the snapshot it
/// was made on turns it into an [`Evaluation`] at little cost.
///
/// Two words, so that it is handed on in registers; as a struct of six fields it went through memory
/// at every step, which took longer than most decisions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Slot, and above it the index of the rule or `NONE`.
    place: u64,
    /// The bucket or `NONE`, and above it the variant (18 bits), reason (6) and detail (8).
    outcome: u64,
}

/// A variant of a flag: its index and, if its value is a boolean, that. Most flags are booleans, and
/// so a decision tells their value without another look at the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VariantRef {
    /// The index in 16 bits; above it 2 for `false`, 3 for `true`.
    bits: u32,
}

impl VariantRef {
    /// No variant.
    pub(crate) const NONE: VariantRef = VariantRef::new(u16::MAX, None);

    pub(crate) const fn new(index: u16, boolean: Option<bool>) -> VariantRef {
        let value = match boolean {
            None => 0,
            Some(value) => 2 | value as u32,
        };
        VariantRef {
            bits: index as u32 | value << 16,
        }
    }

    /// The variant whose bits these are; other bits are left out.
    pub(crate) const fn from_bits(bits: u32) -> VariantRef {
        VariantRef {
            bits: bits & 0x3_ffff,
        }
    }

    pub(crate) const fn bits(self) -> u32 {
        self.bits
    }

    pub(crate) const fn index(self) -> u16 {
        self.bits as u16
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        (self.bits & 2 << 16 != 0).then_some(self.bits & 1 << 16 != 0)
    }
}

impl Decision {
    /// Buckets are below 2^31, and there are fewer rules and slots.
    const NONE: u32 = u32::MAX;

    /// There is no such flag.
    pub const NOT_FOUND: Decision = Decision::of(VariantRef::NONE, Reason::FlagNotFound);

    /// Not made yet. No decision is equal to it.
    pub(crate) const PENDING: Decision = Decision {
        place: u64::MAX,
        outcome: u64::MAX,
    };

    /// A variant for a reason, of no flag yet.
    pub(crate) const fn of(variant: VariantRef, reason: Reason) -> Decision {
        Decision {
            place: u64::MAX,
            outcome: Self::NONE as u64 | (variant.bits as u64) << 32 | (reason as u64) << 50,
        }
    }

    pub(crate) const fn of_slot(self, slot: u32) -> Decision {
        let place = self.place >> 32 << 32 | slot as u64;
        Decision { place, ..self }
    }

    pub(crate) const fn by_rule(self, rule: u32) -> Decision {
        let place = self.place & Self::NONE as u64 | (rule as u64) << 32;
        Decision { place, ..self }
    }

    pub(crate) const fn in_bucket(self, bucket: u32) -> Decision {
        let outcome = self.outcome >> 32 << 32 | bucket as u64;
        Decision { outcome, ..self }
    }

    pub(crate) const fn with(self, detail: Detail) -> Decision {
        let outcome = self.outcome | (detail as u64) << 56;
        Decision { outcome, ..self }
    }

    pub(crate) const fn slot(self) -> u32 {
        self.place as u32
    }

    pub(crate) const fn variant(self) -> VariantRef {
        VariantRef::from_bits((self.outcome >> 32) as u32)
    }

    /// The index of the rule that decided.
    pub(crate) fn rule(self) -> Option<u32> {
        let rule = (self.place >> 32) as u32;
        (rule != Self::NONE).then_some(rule)
    }

    /// Returns how it was decided.
    #[inline]
    pub fn reason(self) -> Reason {
        // Three bits, eight reasons.
        Reason::ALL[(self.outcome >> 50 & 7) as usize]
    }

    /// Returns the bucket of the subject, when a rollout decided.
    pub fn bucket(self) -> Option<u32> {
        let bucket = self.outcome as u32;
        (bucket != Self::NONE).then_some(bucket)
    }

    /// Returns what else there is to say.
    pub fn detail(self) -> Option<Detail> {
        let code = self.outcome >> 56;
        Detail::ALL
            .into_iter()
            .find(|detail| *detail as u64 == code)
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("slot", &self.slot())
            .field("variant", &self.variant())
            .field("reason", &self.reason())
            .field("rule", &self.rule())
            .field("bucket", &self.bucket())
            .field("detail", &self.detail())
            .finish()
    }
}

/// How an evaluation was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The flag is unknown or archived.
    FlagNotFound,
    /// The policy is not enabled: the off variant.
    Disabled,
    /// A prerequisite is not at one of its variants, disabled or missing: the off variant.
    PrerequisiteFailed,
    /// The subject has a variant of its own.
    TargetMatch,
    /// A rule's clauses all hold.
    RuleMatch,
    /// A rollout: that of a rule (then there is a rule id) or the default.
    Split,
    /// Nothing else decided.
    Default,
    /// The flag has no rule, target or rollout.
    Static,
}

impl Reason {
    /// By number.
    const ALL: [Reason; 8] = [
        Reason::FlagNotFound,
        Reason::Disabled,
        Reason::PrerequisiteFailed,
        Reason::TargetMatch,
        Reason::RuleMatch,
        Reason::Split,
        Reason::Default,
        Reason::Static,
    ];

    /// Returns the word shown: `FLAG_NOT_FOUND`, `DISABLED`, `PREREQUISITE_FAILED`,
    /// `TARGET_MATCH`, `RULE_MATCH`, `SPLIT`, `DEFAULT` or `STATIC`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::FlagNotFound => "FLAG_NOT_FOUND",
            Reason::Disabled => "DISABLED",
            Reason::PrerequisiteFailed => "PREREQUISITE_FAILED",
            Reason::TargetMatch => "TARGET_MATCH",
            Reason::RuleMatch => "RULE_MATCH",
            Reason::Split => "SPLIT",
            Reason::Default => "DEFAULT",
            Reason::Static => "STATIC",
        }
    }

    /// Returns the reason of a word that [`Reason::as_str`] gives.
    ///
    /// ```
    /// use pennon_evaluator::Reason;
    /// assert_eq!(Reason::named("SPLIT"), Some(Reason::Split));
    /// assert_eq!(Reason::named("split"), None);
    /// ```
    pub fn named(word: &str) -> Option<Reason> {
        Reason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What else there is to say about an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The subject lacks what the rollout buckets by, so the last variant is served.
    BucketingKeyMissing = 1,
    /// The flag exists but is archived.
    Archived,
    /// What the flag uses has a cycle or is too deep or too much, so it cannot be decided.
    GraphUnsound,
}

impl Detail {
    const ALL: [Detail; 3] = [
        Detail::BucketingKeyMissing,
        Detail::Archived,
        Detail::GraphUnsound,
    ];

    /// Returns the word shown: `BUCKETING_KEY_MISSING`, `ARCHIVED` or `GRAPH_UNSOUND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Detail::BucketingKeyMissing => "BUCKETING_KEY_MISSING",
            Detail::Archived => "ARCHIVED",
            Detail::GraphUnsound => "GRAPH_UNSOUND",
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Snapshot {
    /// Turns a decision into an answer. It must have been made on this very snapshot; on another
    /// one, names and values are those of other flags or missing.
    pub fn answer(&self, decision: Decision) -> Evaluation<'_> {
        match self.table.found(decision.slot()) {
            Some(found) => answer(&found, decision),
            None => Evaluation::NOT_FOUND,
        }
    }

    /// Returns the name of the variant decided: that of [`Snapshot::answer`] without the rest.
    #[inline]
    pub fn variant_of(&self, decision: Decision) -> Option<&str> {
        self.table
            .found(decision.slot())?
            .flag
            .variant_name(decision.variant().index())
    }

    /// Returns the value decided: that of [`Snapshot::answer`] without the rest.
    #[inline]
    pub fn value_of(&self, decision: Decision) -> Option<ValueRef<'_>> {
        let variant = decision.variant();
        match variant.boolean() {
            Some(value) => Some(ValueRef::boolean(value)),
            None => self
                .table
                .found(decision.slot())?
                .flag
                .value(variant.index()),
        }
    }
}

/// Turns a decision on a flag into an answer.
fn answer<'a>(found: &FoundFlag<'a>, decision: Decision) -> Evaluation<'a> {
    let FoundFlag { slot, flag, .. } = *found;
    let (key, config_version) = (Some(flag.key.as_str()), slot.config_version);
    if decision.reason() == Reason::FlagNotFound {
        return Evaluation {
            flag: key,
            config_version,
            detail: decision.detail(),
            ..Evaluation::NOT_FOUND
        };
    }
    let rule = decision
        .rule()
        .and_then(|rule| flag.rules.get(rule as usize));
    let experiment = match rule.map(|rule| &rule.serve) {
        Some(Serve::Experiment(experiment)) => Some(flag.texts.get(experiment.key)),
        _ => None,
    };
    let bucketed = decision.detail() != Some(Detail::BucketingKeyMissing);
    Evaluation {
        flag: key,
        enabled: flag.enabled,
        variant: flag.variant_name(decision.variant().index()),
        value: flag.value(decision.variant().index()),
        config_version,
        reason: decision.reason(),
        rule_id: rule.map(|rule| flag.texts.get(rule.id)),
        bucket: decision.bucket(),
        detail: decision.detail(),
        on_stale: flag.on_stale,
        experiment,
        exposure_due: bucketed && (flag.track || experiment.is_some()),
    }
}

impl Evaluation<'_> {
    pub(crate) const NOT_FOUND: Evaluation<'static> = Evaluation {
        flag: None,
        enabled: false,
        variant: None,
        value: None,
        config_version: Version::ZERO,
        reason: Reason::FlagNotFound,
        rule_id: None,
        bucket: None,
        detail: None,
        on_stale: OnStale::Serve,
        experiment: None,
        exposure_due: false,
    };

    /// Says whether there is such a flag, archived or not.
    pub fn flag_known(&self) -> bool {
        self.flag.is_some()
    }

    /// Shows the evaluation as `{flag, enabled, variant, value, config_version, reason}` and, where
    /// there is one, `rule_id`, `bucket`, `detail` and `experiment`. `flag` is the key that was asked for.
    pub fn to_json(&self, flag: &str) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("flag", json!(flag));
        put("enabled", json!(self.enabled));
        put("variant", json!(self.variant));
        put("value", self.value.map_or(Value::Null, ValueRef::to_json));
        put("config_version", json!(self.config_version));
        put("reason", json!(self.reason.as_str()));
        if let Some(rule_id) = self.rule_id {
            put("rule_id", json!(rule_id));
        }
        if let Some(bucket) = self.bucket {
            put("bucket", json!(bucket));
        }
        if let Some(detail) = self.detail {
            put("detail", json!(detail.as_str()));
        }
        if let Some(experiment) = self.experiment {
            put("experiment", json!(experiment));
        }
        Value::Object(fields)
    }
}
