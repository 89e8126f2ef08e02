//! Names, versions and digests from text.
//!
//! The first byte of an input says which. What must hold: text, JSON and the positional encoding
//! take and refuse the same; what is taken is shown as it was written (a version without its leading
//! zeros), and nothing that is taken holds a character that a name does not have.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use pennon_evaluator::{
    Digest, EnvironmentKey, ExperimentKey, FlagKey, KeyError, LayerKey, SegmentKey, StateKey,
    StateKind, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Seen;
use super::snapshots::{positional, to_positional};

pub(crate) const ANSWERS: &[&str] = &[
    "flag",
    "segment",
    "environment",
    "experiment",
    "layer",
    "state key",
    "version",
    "digest",
    "key: empty",
    "key: too long",
    "key: character",
    "no version",
    "no digest",
    "positional state key",
    "no positional state key",
    "not text",
];

/// Reads the text as one of them.
pub(crate) fn keys(bytes: &[u8], seen: &mut Seen) {
    let Some((which, bytes)) = bytes.split_first() else {
        return seen.note("not text");
    };
    if which % 9 == 8 {
        return state_key(bytes, seen);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return seen.note("not text");
    };
    match which % 9 {
        0 => key::<FlagKey>(text, "flag", seen),
        1 => key::<SegmentKey>(text, "segment", seen),
        2 => key::<EnvironmentKey>(text, "environment", seen),
        3 => named(text, seen),
        4 => version(text, seen),
        5 => digest(text, seen),
        6 => key::<ExperimentKey>(text, "experiment", seen),
        _ => key::<LayerKey>(text, "layer", seen),
    }
}

trait Key:
    FromStr<Err = KeyError> + Display + Debug + PartialEq + Serialize + DeserializeOwned
{
}
impl<T> Key for T where
    T: FromStr<Err = KeyError> + Display + Debug + PartialEq + Serialize + DeserializeOwned
{
}

fn key<T: Key>(text: &str, name: &'static str, seen: &mut Seen) {
    let read = text.parse::<T>();
    let json = serde_json::to_string(text).unwrap();
    let from_json = serde_json::from_str::<T>(&json);
    let from_bytes = positional::<T>(&to_positional(&text));
    assert_eq!(from_json.is_ok(), read.is_ok());
    assert_eq!(from_bytes.is_ok(), read.is_ok());
    match read {
        Ok(key) => {
            seen.note(name);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
            assert!(text.bytes().all(plain) && (1..=256).contains(&text.len()));
            assert_eq!(key.to_string(), text);
            assert_eq!(from_json.unwrap(), key);
            assert_eq!(from_bytes.unwrap(), key);
        }
        Err(error) => seen.no_key(&error),
    }
}

fn named(text: &str, seen: &mut Seen) {
    let kinds = [
        StateKind::Flag,
        StateKind::Segment,
        StateKind::Layer,
        StateKind::Experiment,
    ];
    for kind in kinds {
        match StateKey::new(kind, text) {
            Ok(key) => {
                seen.note("state key");
                assert_eq!((key.kind(), key.key()), (kind, text));
                assert_eq!(key.as_flag().is_some(), kind == StateKind::Flag);
                let json = serde_json::to_string(&key).unwrap();
                assert_eq!(serde_json::from_str::<StateKey>(&json).unwrap(), key);
            }
            Err(error) => seen.no_key(&error),
        }
    }
    let _ = serde_json::from_str::<StateKey>(text);
}

fn version(text: &str, seen: &mut Seen) {
    match text.parse::<Version>() {
        Ok(version) => {
            seen.note("version");
            assert!(version <= Version::MAX);
            let digits = text.trim_start_matches('0');
            assert_eq!(version.to_string().trim_start_matches('0'), digits);
            let json = serde_json::from_str::<Version>(&version.to_string());
            assert_eq!(json.unwrap(), version);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            seen.note("no version");
        }
    }
    if let Ok(version) = serde_json::from_str::<Version>(text) {
        assert_eq!(text.trim().parse::<Version>(), Ok(version));
    }
}

fn digest(text: &str, seen: &mut Seen) {
    let json = serde_json::from_str::<Digest>(&serde_json::to_string(text).unwrap());
    match text.parse::<Digest>() {
        Ok(digest) => {
            seen.note("digest");
            assert_eq!(digest.to_string(), text);
            assert_eq!(json.unwrap(), digest);
            let bytes = to_positional(&digest);
            assert_eq!(positional::<Digest>(&bytes).unwrap(), digest);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && json.is_err());
            seen.note("no digest");
        }
    }
}

fn state_key(bytes: &[u8], seen: &mut Seen) {
    match positional::<StateKey>(bytes) {
        Ok(key) => {
            seen.note("positional state key");
            assert_eq!(to_positional(&key), bytes, "I4: two forms of one key");
            assert!(StateKey::new(key.kind(), key.key()).is_ok());
        }
        Err(_) => seen.note("no positional state key"),
    }
}
