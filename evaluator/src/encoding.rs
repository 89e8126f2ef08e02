//! The bytes of an EvaluationState: a format byte, then bincode (fixed-width integers, positional).
//!
//! What must hold: equal states have equal bytes, and only bytes that `encode` can have made are
//! read back (I4); hostile bytes give an error, never a panic nor an allocation beyond their own
//! size and a constant, nor steps of building regular expressions beyond their bound. After `decode` every index is in range and every list that is searched is
//! sorted, so that evaluation need not check again.
//!
//! ```text
//! format u8 = 1 | tag u32 LE (0 flag, 1 segment) | key length u64 LE | key | the other fields in order
//! ```
//!
//! A state travels and is stored as these very bytes, in an `EncodedState` that knows the kind and
//! key and a hash of the bytes and the environment.

use bincode::Options;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::ids::{EnvironmentKey, KEY_LEN_MAX, StateKey, StateKind};
use crate::limits::Limits;
use crate::pattern::{PATTERN_LEN_MAX, Pattern};
use crate::policy::{LAYER_SLOTS, WEIGHT_SUM_MAX};
use crate::state::{
    ClauseState, Comparison, EvaluationState, ExperimentState, FlagState, LayerState, RolloutState,
    SegmentState, ServeState, ShareState, TestState,
};

/// The format of the encoded form; the first byte of it.
pub const STATE_FORMAT: u8 = 1;

/// The longest encoded state, in bytes. Compiling refuses a longer one.
pub const STATE_LEN_MAX: usize = 64 << 20;

/// The most variants a stored flag has, whatever a cluster's limits; their indexes are 16 bits.
const VARIANTS_MAX: usize = 1 << 15;

/// The most regular expressions that a stored state has: the most that a cluster can allow.
const PATTERNS_MAX: usize = Limits::GREATEST.patterns_max;

/// The most steps that building all of them takes, some 10 ns each: the most that a cluster can
/// allow, and that twice, because a release with other Unicode tables counts others.
const PATTERN_STEPS_MAX: usize = 2 * Limits::GREATEST.pattern_steps_max;

/// Bytes that are not an EvaluationState.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no byte at all.
    #[error("there are no bytes")]
    Empty,
    /// Written in a format that this release does not read.
    #[error("format {found} is not one that this release reads")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// More than [`STATE_LEN_MAX`] bytes.
    #[error("{len} bytes are more than the {STATE_LEN_MAX} allowed")]
    TooLong {
        /// How many there are.
        len: usize,
    },
    /// Not the layout of this format.
    #[error("malformed bytes: {message}")]
    Malformed {
        /// What does not fit.
        message: String,
    },
    /// The right layout, but not something that compiling makes.
    #[error("invalid state: {what}")]
    Invalid {
        /// Which rule is broken.
        what: &'static str,
    },
}

/// The positional encoding used for everything stored or sent.
pub(crate) fn positional(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit)
        .reject_trailing_bytes()
}

/// Says what is wrong with bytes in the positional encoding.
pub(crate) fn malformed(error: &bincode::Error) -> DecodeError {
    DecodeError::Malformed {
        message: error.to_string(),
    }
}

impl EvaluationState {
    /// Encodes the state. Equal states give equal bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![STATE_FORMAT];
        // Writing to memory without a limit cannot fail. If it did, the cut-off bytes would be
        // refused by whoever reads them.
        let written = positional(u64::MAX).serialize_into(&mut bytes, self);
        debug_assert!(written.is_ok(), "a state has no unsized part: {written:?}");
        Bytes::from(bytes)
    }

    /// Decodes and checks a state.
    ///
    /// # Errors
    /// When the bytes are not what [`EvaluationState::encode`] makes in a format of this release.
    pub fn decode(bytes: &[u8]) -> Result<EvaluationState, DecodeError> {
        let (format, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if *format != STATE_FORMAT {
            return Err(DecodeError::Format { found: *format });
        }
        if bytes.len() > STATE_LEN_MAX {
            return Err(DecodeError::TooLong { len: bytes.len() });
        }
        let options = positional(STATE_LEN_MAX as u64);
        let state = options
            .deserialize(body)
            .map_err(|error| malformed(&error))?;
        match &state {
            EvaluationState::Flag(flag) => check_flag(flag)?,
            EvaluationState::Segment(segment) => check_segment(segment)?,
        }
        Ok(state)
    }
}

/// An EvaluationState as bytes, with what is needed to file it: kind, key and hash.
///
/// The hash is xxh3-128 over the length of the environment's key (u32 LE), that key, and the
/// bytes. It guards against accidents, not against forgery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EncodedState {
    key: StateKey,
    bytes: Bytes,
    hash: u128,
}

impl EncodedState {
    /// Encodes a state for an environment.
    pub fn new(environment: &EnvironmentKey, state: &EvaluationState) -> EncodedState {
        let bytes = state.encode();
        EncodedState {
            key: state.state_key(),
            hash: hash(environment, &bytes),
            bytes,
        }
    }

    /// Takes encoded bytes; reads no more of them than the kind and the key.
    ///
    /// # Errors
    /// When the bytes do not begin as a state of this release does. What follows the key is only
    /// checked by [`EncodedState::decode`].
    pub fn from_bytes(
        environment: &EnvironmentKey,
        bytes: Bytes,
    ) -> Result<EncodedState, DecodeError> {
        Ok(EncodedState {
            key: peek(&bytes)?,
            hash: hash(environment, &bytes),
            bytes,
        })
    }

    /// Decodes and checks the state.
    ///
    /// # Errors
    /// As [`EvaluationState::decode`].
    pub fn decode(&self) -> Result<EvaluationState, DecodeError> {
        EvaluationState::decode(&self.bytes)
    }

    /// Returns kind and key.
    pub fn state_key(&self) -> &StateKey {
        &self.key
    }

    /// Returns what it is the state of.
    pub fn kind(&self) -> StateKind {
        self.key.kind()
    }

    /// Returns the key of the flag or segment.
    pub fn key(&self) -> &str {
        self.key.key()
    }

    /// Returns the encoded state.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the hash of environment and bytes.
    pub fn hash(&self) -> u128 {
        self.hash
    }
}

impl<'de> Deserialize<'de> for EncodedState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EncodedState, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            key: StateKey,
            bytes: Bytes,
            hash: u128,
        }
        let Parts { key, bytes, hash } = Parts::deserialize(deserializer)?;
        match peek(&bytes) {
            Ok(found) if found == key => Ok(EncodedState { key, bytes, hash }),
            Ok(_) => Err(serde::de::Error::custom("the state is of another key")),
            Err(error) => Err(serde::de::Error::custom(error)),
        }
    }
}

fn hash(environment: &EnvironmentKey, bytes: &[u8]) -> u128 {
    let name = environment.as_str().as_bytes();
    // A key has at most 256 bytes.
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut hasher = Xxh3Default::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(name);
    hasher.update(bytes);
    hasher.digest128()
}

/// Reads kind and key from the head of encoded bytes.
fn peek(bytes: &[u8]) -> Result<StateKey, DecodeError> {
    let (format, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *format != STATE_FORMAT {
        return Err(DecodeError::Format { found: *format });
    }
    let short = || DecodeError::Malformed {
        message: "the bytes end before the key does".into(),
    };
    let (tag, body) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let (len, body) = body.split_first_chunk::<8>().ok_or_else(short)?;
    let kind = match u32::from_le_bytes(*tag) {
        0 => StateKind::Flag,
        1 => StateKind::Segment,
        _ => {
            return Err(DecodeError::Invalid {
                what: "unknown kind of state",
            });
        }
    };
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    if len > KEY_LEN_MAX {
        return Err(DecodeError::Invalid {
            what: "a key is too long",
        });
    }
    let key = std::str::from_utf8(body.get(..len).ok_or_else(short)?).map_err(|_| {
        DecodeError::Invalid {
            what: "a key is not text",
        }
    })?;
    StateKey::new(kind, key).map_err(|error| DecodeError::Malformed {
        message: error.to_string(),
    })
}

type Checked = Result<(), DecodeError>;

fn require(holds: bool, what: &'static str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Invalid { what })
    }
}

/// Says whether a list rises strictly: sorted, and nothing twice.
fn rises<T, K: Ord + ?Sized>(list: &[T], key: impl Fn(&T) -> &K) -> bool {
    list.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}

fn sorted<T: Ord>(list: &[T]) -> Checked {
    require(rises(list, |item| item), "a list is not sorted")
}

fn check_flag(flag: &FlagState) -> Checked {
    let variants = flag.variants.len();
    let known = |index: u32| (index as usize) < variants;
    require(variants > 0, "a flag without a variant")?;
    require(variants <= VARIANTS_MAX, "too many variants")?;
    require(
        rises(&flag.variants, |v| v.name.as_str()),
        "variants are not sorted",
    )?;
    for variant in &flag.variants {
        let value = crate::value::Parsed::read(flag.value_type, &variant.value);
        require(value.is_some(), "a value is not of the flag's type")?;
    }
    require(known(flag.off_variant), "the off variant is out of range")?;
    for prerequisite in &flag.prerequisites {
        require(
            !prerequisite.variants.is_empty(),
            "a prerequisite without a variant",
        )?;
        sorted(&prerequisite.variants)?;
    }
    require(
        rises(&flag.targets, |t| t.subject.as_str()),
        "targets are not sorted",
    )?;
    require(
        flag.targets.iter().all(|t| known(t.variant)),
        "a target is out of range",
    )?;
    sorted(&flag.segments)?;
    for rule in &flag.rules {
        rule.when
            .iter()
            .try_for_each(|clause| check_clause(clause, flag.segments.len()))?;
        check_serve(&rule.serve, &known)?;
    }
    for (_, experiment) in flag.experiments() {
        check_experiment(experiment, flag.segments.len())?;
    }
    let plain = !matches!(flag.default, ServeState::Experiment(_));
    require(plain, "an experiment outside a rule")?;
    check_serve(&flag.default, &known)?;
    let clauses = flag.rules.iter().flat_map(|rule| &rule.when);
    check_patterns(&patterns(clauses), PATTERN_STEPS_MAX)
}

fn check_experiment(experiment: &ExperimentState, segments: usize) -> Checked {
    let known = |index: u32| (index as usize) < segments;
    require(
        experiment.holdout.is_none_or(known),
        "a holdout is out of range",
    )?;
    let sound = |layer: &LayerState| layer.start < layer.end && layer.end <= LAYER_SLOTS;
    require(
        experiment.layer.as_ref().is_none_or(sound),
        "a range of slots is out of bounds",
    )
}

fn check_segment(segment: &SegmentState) -> Checked {
    sorted(&segment.included)?;
    sorted(&segment.excluded)?;
    sorted(&segment.segments)?;
    for rule in &segment.rules {
        rule.when
            .iter()
            .try_for_each(|clause| check_clause(clause, segment.segments.len()))?;
        rule.rollout.as_ref().map_or(Ok(()), check_share)?;
    }
    let clauses = segment.rules.iter().flat_map(|rule| &rule.when);
    check_patterns(&patterns(clauses), PATTERN_STEPS_MAX)
}

/// Lists the regular expressions of clauses.
fn patterns<'a>(clauses: impl Iterator<Item = &'a ClauseState>) -> Vec<&'a str> {
    let mut sources = Vec::new();
    for clause in clauses {
        if let ClauseState::Attribute { test, .. } = clause
            && let TestState::Matches(list) = test
        {
            sources.extend(list.iter().map(String::as_str));
        }
    }
    sources
}

/// Checks that regular expressions can be built in bounded time: many are tried, one by one. One
/// that cannot be built is not refused; nothing matches it.
fn check_patterns(sources: &[&str], steps_max: usize) -> Checked {
    let count = sources.len();
    require(count <= PATTERNS_MAX, "too many regular expressions")?;
    let short = sources.iter().all(|source| source.len() <= PATTERN_LEN_MAX);
    require(short, "a regular expression is too long")?;
    if count * Pattern::STEPS_MAX <= steps_max {
        return Ok(());
    }
    let mut left = Some(steps_max);
    for source in sources {
        left = left.and_then(|left| left.checked_sub(Pattern::steps(source)));
        require(left.is_some(), "regular expressions take too long to build")?;
    }
    Ok(())
}

fn check_serve(serve: &ServeState, known: &impl Fn(u32) -> bool) -> Checked {
    match serve {
        ServeState::Variant(index) => require(known(*index), "a variant is out of range"),
        ServeState::Rollout(rollout) => check_rollout(rollout, known),
        ServeState::Experiment(experiment) => check_rollout(&experiment.rollout, known),
    }
}

fn check_rollout(rollout: &RolloutState, known: &impl Fn(u32) -> bool) -> Checked {
    let mut sum = 0_u64;
    for share in &rollout.weights {
        require(known(share.variant), "a share is out of range")?;
        sum = sum.saturating_add(u64::from(share.weight));
    }
    require(!rollout.weights.is_empty(), "a rollout without a share")?;
    require(
        sum == u64::from(rollout.total),
        "the total is not the sum of the weights",
    )?;
    require(
        (1..=WEIGHT_SUM_MAX).contains(&rollout.total),
        "the total is out of bounds",
    )
}

fn check_share(share: &ShareState) -> Checked {
    require(
        (1..=WEIGHT_SUM_MAX).contains(&share.of),
        "the number of buckets is out of bounds",
    )?;
    require(share.share <= share.of, "a share is greater than the whole")
}

fn check_clause(clause: &ClauseState, segments: usize) -> Checked {
    match clause {
        ClauseState::Exists { .. } => Ok(()),
        ClauseState::Segments { any_of, .. } => {
            require(!any_of.is_empty(), "a clause without a value")?;
            let known = any_of.iter().all(|index| (*index as usize) < segments);
            require(known, "a segment is out of range")?;
            sorted(any_of)
        }
        ClauseState::Attribute { test, .. } => check_test(test),
    }
}

fn check_test(test: &TestState) -> Checked {
    let count = match test {
        TestState::In {
            strings,
            numbers,
            booleans,
        } => {
            sorted(strings)?;
            sorted(numbers)?;
            strings.len() + numbers.len() + booleans.iter().filter(|given| **given).count()
        }
        TestState::Contains(texts) | TestState::StartsWith(texts) | TestState::EndsWith(texts) => {
            sorted(texts)?;
            texts.len()
        }
        TestState::Number(_, numbers) => {
            sorted(numbers)?;
            numbers.len()
        }
        TestState::SemVer(_, versions) => {
            sorted(versions)?;
            versions.len()
        }
        TestState::Matches(sources) => {
            sorted(sources)?;
            sources.len()
        }
        TestState::Time(comparison, times) => {
            let known = matches!(comparison, Comparison::Lt | Comparison::Gt);
            require(known, "a comparison of times is neither before nor after")?;
            sorted(times)?;
            times.len()
        }
        TestState::Networks(networks) => {
            sorted(networks)?;
            networks.len()
        }
    };
    require(count > 0, "a clause without a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_may_take_so_many_steps_and_not_one_more() {
        let sources: Vec<String> = (0..20).map(|n| format!("[{n}a-z]{{9}}")).collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let steps: usize = sources.iter().map(|source| Pattern::steps(source)).sum();
        assert!(steps > 1_000, "{steps}");
        assert_eq!(check_patterns(&sources, steps), Ok(()));
        let what = "regular expressions take too long to build";
        let refusal = Err(DecodeError::Invalid { what });
        assert_eq!(check_patterns(&sources, steps - 1), refusal);
    }

    /// So few patterns are never built to find out.
    #[test]
    fn few_patterns_are_accepted_whatever_they_are() {
        let few = PATTERN_STEPS_MAX / Pattern::STEPS_MAX;
        assert!(few >= 10, "{few}");
        let sources = vec!["(".to_owned(); few + 1];
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        assert_eq!(check_patterns(&sources[1..], PATTERN_STEPS_MAX), Ok(()));
        assert!(check_patterns(&sources, PATTERN_STEPS_MAX).is_err());
    }
}
