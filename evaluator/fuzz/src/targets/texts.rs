//! What people write, and attributes of subjects: JSON.
//!
//! What must hold: any text is taken or refused with faults that say something, in a list no longer
//! than it may be. A policy that is taken compiles or is refused with faults; compiling twice gives
//! the same bytes, and those decode to the same state, which is answered as any other (I4).

use bytes::Bytes;
use pennon_evaluator::{
    Clause, Environment, EvaluationState, FAULTS_MAX, Fault, FlagConfig, Limits, Op, Scalar,
    SegmentPolicy, StrictJson, Subject, TargetingPolicy, Version, compile_flag, compile_segment,
    parse_json,
};
use serde_json::Value;

use super::documents::config_text;
use super::seeds::{Everything, base, environment as environment_key};
use super::states::{self, flags};
use super::{Memory, READING_JSON, Seen, USING, USING_PATTERNS};

pub(crate) const FLAG_ANSWERS: &[&str] = &[
    "not text", "not JSON", "faults", "parsed", "compiled", "flag",
];
pub(crate) const POLICY_ANSWERS: &[&str] = &[
    "not text",
    "not JSON",
    "faults",
    "parsed",
    "not compiled",
    "compiled",
    "flag",
];
pub(crate) const SEGMENT_ANSWERS: &[&str] = &[
    "not text",
    "not JSON",
    "faults",
    "parsed",
    "not compiled",
    "compiled",
    "segment",
];
pub(crate) const ENVIRONMENT_ANSWERS: &[&str] = &["not text", "not JSON", "faults", "parsed"];
pub(crate) const SUBJECT_ANSWERS: &[&str] =
    &["not text", "not JSON", "not an object", "faults", "subject"];
pub(crate) const JSON_ANSWERS: &[&str] = &["not text", "not JSON", "said twice", "value"];

const AT: Version = Version::MAX;

/// `FlagConfig::parse`.
pub(crate) fn flag(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let key = "f".parse().unwrap();
    let parsed = READING_JSON.bounds_reading(bytes.len(), || FlagConfig::parse(&key, text));
    let Some(config) = taken(parsed, text, seen) else {
        return;
    };
    assert_eq!(config.key, key);
    let policy = serde_json::json!({"enabled": true, "default": {"variant": config.off_variant}});
    let policy = TargetingPolicy::parse(&policy.to_string()).unwrap();
    let compile = || {
        compile_flag(
            &config,
            AT,
            &policy,
            AT,
            AT,
            &Everything,
            &Limits::default(),
        )
    };
    compiled(USING, bytes.len(), compile, seen);
}

/// `TargetingPolicy::parse`.
pub(crate) fn policy(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let parsed = READING_JSON.bounds_reading(bytes.len(), || TargetingPolicy::parse(text));
    let Some(policy) = taken(parsed, text, seen) else {
        return;
    };
    let config = FlagConfig::parse(&"f".parse().unwrap(), config_text()).unwrap();
    let compile = || {
        compile_flag(
            &config,
            AT,
            &policy,
            AT,
            AT,
            &Everything,
            &Limits::default(),
        )
    };
    let clauses = policy.rules.iter().flat_map(|rule| &rule.when);
    compiled(memory(clauses), bytes.len(), compile, seen);
}

/// `SegmentPolicy::parse`.
pub(crate) fn segment(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let parsed = READING_JSON.bounds_reading(bytes.len(), || SegmentPolicy::parse(text));
    let Some(policy) = taken(parsed, text, seen) else {
        return;
    };
    let key = "s".parse().unwrap();
    let compile = || compile_segment(&key, &policy, AT, AT, &Everything, &Limits::default());
    let clauses = policy.rules.iter().flat_map(|rule| &rule.when);
    compiled(memory(clauses), bytes.len(), compile, seen);
}

/// `Environment::parse`.
pub(crate) fn environment(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let parse = || Environment::parse(&environment_key(), text);
    let parsed = READING_JSON.bounds_reading(bytes.len(), parse);
    if let Some(environment) = taken(parsed, text, seen) {
        assert!((1_000..=600_000).contains(&environment.staleness_bound_ms));
    }
}

/// `Subject::from_json`, and deciding flags for whoever it is.
pub(crate) fn subject(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let Ok(json) = parse_json(text) else {
        return seen.note("not JSON");
    };
    let Value::Object(attributes) = json else {
        return seen.note("not an object");
    };
    let read = || Subject::from_json("user-42", &attributes);
    match READING_JSON.bounds_reading(bytes.len(), read) {
        Ok(subject) => {
            seen.note("subject");
            let (config, snapshot) = base();
            for flag in flags(config) {
                let found = snapshot.evaluate(flag, &subject);
                assert!(found.value.is_some(), "{flag}");
            }
            let one = Scalar::from("DE");
            let built = subject.clone().with("another", one);
            assert_eq!(built.key(), subject.key());
        }
        Err(faults) => {
            seen.note("faults");
            sensible(&faults);
        }
    }
}

/// `parse_json`.
pub(crate) fn json(bytes: &[u8], seen: &mut Seen) {
    let Some(text) = text(bytes, seen) else {
        return;
    };
    let loose = serde_json::from_str::<Value>(text);
    match (
        READING_JSON.bounds_reading(bytes.len(), || parse_json(text)),
        loose,
    ) {
        (Ok(value), loose) => {
            seen.note("value");
            assert_eq!(loose.ok().as_ref(), Some(&value));
            let again = value.to_string();
            assert_eq!(parse_json(&again).as_ref(), Ok(&value));
            let from_bytes = serde_json::from_slice::<StrictJson>(bytes).unwrap();
            assert_eq!(from_bytes.0, value);
        }
        (Err(faults), Err(_)) => {
            seen.note("not JSON");
            sensible(&faults);
        }
        (Err(faults), Ok(_)) => {
            seen.note("said twice");
            sensible(&faults);
            let message = &faults[0].message;
            assert!(message.contains("is given twice"), "{message}");
        }
    }
}

fn text<'a>(bytes: &'a [u8], seen: &mut Seen) -> Option<&'a str> {
    let text = std::str::from_utf8(bytes).ok();
    if text.is_none() {
        seen.note("not text");
    }
    text
}

/// Notes how parsing went.
fn taken<T: PartialEq>(parsed: Result<T, Vec<Fault>>, text: &str, seen: &mut Seen) -> Option<T> {
    match parsed {
        Ok(parsed) => {
            assert!(parse_json(text).is_ok());
            seen.note("parsed");
            Some(parsed)
        }
        Err(faults) => {
            let json = parse_json(text).is_ok();
            seen.note(if json { "faults" } else { "not JSON" });
            sensible(&faults);
            None
        }
    }
}

fn sensible(faults: &[Fault]) {
    assert!((1..=FAULTS_MAX + 1).contains(&faults.len()));
    for fault in faults {
        let pointer = &fault.pointer;
        assert!(!fault.message.is_empty(), "{pointer}");
        assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
    }
}

fn memory<'a>(mut clauses: impl Iterator<Item = &'a Clause>) -> Memory {
    match clauses.any(|clause| clause.op == Op::Matches) {
        true => USING_PATTERNS,
        false => USING,
    }
}

fn compiled(
    memory: Memory,
    len: usize,
    compile: impl Fn() -> Result<EvaluationState, Vec<Fault>>,
    seen: &mut Seen,
) {
    match memory.bounds(len, &compile) {
        Ok(state) => {
            seen.note("compiled");
            let bytes: Bytes = state.encode();
            assert_eq!(
                compile().map(|state| state.encode()),
                Ok(bytes.clone()),
                "I4"
            );
            assert_eq!(EvaluationState::decode(&bytes), Ok(state), "I4");
            states::state(&bytes, seen);
        }
        Err(faults) => {
            seen.note("not compiled");
            sensible(&faults);
        }
    }
}
