//! One EvaluationState: its bytes, and what it decides.
//!
//! What must hold of bytes that decode: encoding the state gives them again (I4); kind and key are
//! those that their head says; the state loads, beside others or alone, and deciding its flag for
//! any subject allocates nothing and ends; everything about it can be shown.

use bytes::Bytes;
use pennon_evaluator::state::{ClauseState, TestState};
use pennon_evaluator::{
    ConfigSnapshot, EncodedState, EvaluationState, Snapshot, StateKind, Subject, Version,
};

use super::seeds::{environment, neighbours, subjects};
use super::snapshots::{positional, to_positional};
use super::{DECODING, Memory, Seen, TRYING_PATTERNS, USING, USING_PATTERNS};

pub(crate) const ANSWERS: &[&str] = &[
    "flag",
    "segment",
    "empty",
    "format",
    "malformed",
    "a flag without a variant",
    "variants are not sorted",
    "a value is not of the flag's type",
    "the off variant is out of range",
    "a prerequisite without a variant",
    "a list is not sorted",
    "targets are not sorted",
    "a target is out of range",
    "a variant is out of range",
    "a share is out of range",
    "a rollout without a share",
    "the total is not the sum of the weights",
    "the total is out of bounds",
    "the number of buckets is out of bounds",
    "a share is greater than the whole",
    "a clause without a value",
    "a segment is out of range",
    "a comparison of times is neither before nor after",
    "too many regular expressions",
    "a regular expression is too long",
    "regular expressions take too long to build",
    "a holdout is out of range",
    "a range of slots is out of bounds",
    "an experiment outside a rule",
];

pub(crate) const ENCODED_ANSWERS: &[&str] = &[
    "encoded",
    "no encoded state",
    "flag",
    "segment",
    "empty",
    "format",
    "malformed",
    "unknown kind of state",
    "a key is too long",
    "a key is not text",
];

/// Explaining writes down up to 10,000 steps, so it is asked for in small snapshots only.
const EXPLAINED_BELOW: usize = 20;

/// `EvaluationState::decode`.
pub(crate) fn state(bytes: &[u8], seen: &mut Seen) {
    let decoded = decoding(bytes).bounds_reading(bytes.len(), || EvaluationState::decode(bytes));
    match decoded {
        Ok(state) => {
            seen.note(kind(&state));
            memory([bytes]).bounds(bytes.len(), || used(bytes, &state));
        }
        Err(error) => seen.undecodable(&error),
    }
}

/// `EncodedState::from_bytes`, its decoding, and its own positional encoding.
pub(crate) fn encoded(bytes: &[u8], seen: &mut Seen) {
    match DECODING.bounds_reading(bytes.len(), || positional::<EncodedState>(bytes)) {
        Ok(encoded) => {
            seen.note("encoded");
            assert_eq!(to_positional(&encoded), bytes, "I4: two forms of one value");
            let state = encoded.bytes();
            let again = EncodedState::from_bytes(&environment(), state.clone()).unwrap();
            assert_eq!(again.state_key(), encoded.state_key());
        }
        Err(_) => seen.note("no encoded state"),
    }
    let owned = Bytes::copy_from_slice(bytes);
    match EncodedState::from_bytes(&environment(), owned) {
        Ok(encoded) => {
            let state = decoding(bytes).bounds_reading(bytes.len(), || encoded.decode());
            assert_eq!(state, EvaluationState::decode(bytes));
            match state {
                Ok(state) => {
                    seen.note(kind(&state));
                    assert_eq!(*encoded.state_key(), state.state_key());
                    assert_eq!(encoded, EncodedState::new(&environment(), &state));
                }
                Err(error) => seen.undecodable(&error),
            }
        }
        Err(error) => {
            // A head that cannot be read belongs to no state.
            assert!(EvaluationState::decode(bytes).is_err());
            seen.undecodable(&error);
        }
    }
}

fn kind(state: &EvaluationState) -> &'static str {
    match state {
        EvaluationState::Flag(_) => "flag",
        EvaluationState::Segment(_) => "segment",
    }
}

/// What the states may take when they are used. Those that cannot be decoded are not used.
pub(crate) fn memory<'a>(states: impl IntoIterator<Item = &'a [u8]>) -> Memory {
    let mut states = states.into_iter().map(EvaluationState::decode);
    let patterns = states.any(|state| state.is_ok_and(|one| patterns(&one) > 0));
    if patterns { USING_PATTERNS } else { USING }
}

/// What decoding a state may take: patterns are tried one by one when there are many.
fn decoding(bytes: &[u8]) -> Memory {
    const MANY: usize = 10;
    let body = bytes.get(1..).unwrap_or_default();
    let many = positional(body).is_ok_and(|state| patterns(&state) > MANY);
    if many { TRYING_PATTERNS } else { DECODING }
}

/// How many patterns a state has.
fn patterns(state: &EvaluationState) -> usize {
    let clauses: Vec<&ClauseState> = match state {
        EvaluationState::Flag(flag) => flag.rules.iter().flat_map(|rule| &rule.when).collect(),
        EvaluationState::Segment(one) => one.rules.iter().flat_map(|rule| &rule.when).collect(),
    };
    let sources = clauses.into_iter().map(|clause| match clause {
        ClauseState::Attribute {
            test: TestState::Matches(sources),
            ..
        } => sources.len(),
        _ => 0,
    });
    sources.sum()
}

fn used(bytes: &[u8], state: &EvaluationState) {
    assert_eq!(state.encode(), bytes, "I4: two forms of one state");
    let encoded = EncodedState::new(&environment(), state);
    assert_eq!(*encoded.state_key(), state.state_key());
    assert!(encoded.to_json().is_ok());
    assert!(state.uses().windows(2).all(|pair| pair[0] < pair[1]));
    let mut states: Vec<EncodedState> = neighbours()
        .iter()
        .filter(|other| other.state_key() != encoded.state_key())
        .cloned()
        .collect();
    states.push(encoded);
    asked(&ConfigSnapshot::new(environment(), Version::MAX, states).unwrap());
}

/// Loads states that can all be decoded, and decides every flag for some subjects.
pub(crate) fn asked(config: &ConfigSnapshot) {
    let snapshot = Snapshot::load(config).expect("what decodes can be loaded");
    for flag in flags(config) {
        for subject in subjects() {
            decided(&snapshot, flag, subject);
            if config.states().len() < EXPLAINED_BELOW {
                explained(&snapshot, flag, subject);
            }
        }
    }
}

/// The keys of the flags.
pub(crate) fn flags(config: &ConfigSnapshot) -> impl Iterator<Item = &str> {
    let flags = config.states().iter();
    flags
        .filter(|state| state.kind() == StateKind::Flag)
        .map(EncodedState::key)
}

fn decided(snapshot: &Snapshot, flag: &str, subject: &Subject) {
    let mut found = None;
    let taken = allocation_counter::measure(|| found = Some(snapshot.evaluate(flag, subject)));
    assert_eq!(taken.count_total, 0, "deciding {flag} allocates");
    let found = found.expect("it was decided");
    assert!(found.flag_known(), "{flag} was loaded");
    assert_eq!(found.variant.is_some(), found.value.is_some());
    if let Some(value) = found.value {
        let json = serde_json::from_str::<serde_json::Value>(value.as_json());
        assert_eq!(json.ok(), Some(value.to_json()), "{flag} has no JSON value");
    }
    drop(found.to_json(flag));
}

fn explained(snapshot: &Snapshot, flag: &str, subject: &Subject) {
    let why = snapshot.explain(flag, subject);
    assert_eq!(
        why.evaluation,
        snapshot.evaluate(flag, subject),
        "{flag}: I7"
    );
    assert!(!why.truncated);
    drop(why.to_json(flag));
}
