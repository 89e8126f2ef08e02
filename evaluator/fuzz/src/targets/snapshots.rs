//! ConfigSnapshot and Delta in the positional encoding.
//!
//! What must hold of a snapshot: whichever way its parts are read the answer is the same; its
//! encoding is read back as the same value, and is the input if that was in order (I4); it loads
//! exactly when all its states decode. Of a delta: encoding it gives the input (I4); applied to
//! bytes and to loaded states it has the same outcome, and that is what loading the new bytes
//! gives (I3, I6, I8).
//!
//! A changed input hardly ever keeps its digest, so after the input as it came the same parts are
//! tried once more with the digest, and for a delta with the base, that they need.

use std::collections::BTreeMap;

use bincode::Options;
use bytes::Bytes;
use pennon_evaluator::{
    ConfigSnapshot, Delta, DeltaRefused, Digest, EncodedState, EnvironmentKey, Snapshot,
    SnapshotRefused, StateKey, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::seeds::{base, subjects};
use super::states::{asked, flags, memory};
use super::{DECODING, Seen};

pub(crate) const ANSWERS: &[&str] = &[
    "snapshot",
    "as it came",
    "no snapshot",
    "twice",
    "digest",
    "malformed",
    "unknown kind of state",
    "loaded",
    "not loaded",
];

pub(crate) const DELTA_ANSWERS: &[&str] = &[
    "delta",
    "no delta",
    "applied",
    "another environment",
    "another base",
    "not newer",
    "twice",
    "digest",
    "state unreadable",
    "malformed",
];

type SnapshotParts = (EnvironmentKey, Version, Vec<Bytes>, Digest);
type DeltaParts = (
    (EnvironmentKey, Version, Version),
    Vec<Bytes>,
    Vec<StateKey>,
    Digest,
);

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(limit)
        .reject_trailing_bytes()
}

/// Reads a value as everything stored or sent is read.
pub(crate) fn positional<T: DeserializeOwned>(bytes: &[u8]) -> bincode::Result<T> {
    options(bytes.len() as u64).deserialize(bytes)
}

/// Writes a value as everything stored or sent is written.
pub(crate) fn to_positional(value: &impl Serialize) -> Vec<u8> {
    options(u64::MAX).serialize(value).unwrap()
}

/// A whole ConfigSnapshot.
pub(crate) fn snapshot(bytes: &[u8], seen: &mut Seen) {
    let len = bytes.len();
    let read = DECODING.bounds_reading(len, || positional::<ConfigSnapshot>(bytes));
    let Ok((environment, version, states, digest)) = positional::<SnapshotParts>(bytes) else {
        assert!(read.is_err());
        return seen.note("no snapshot");
    };
    let made = |digest| {
        let (environment, states) = (environment.clone(), states.clone());
        DECODING.bounds_reading(len, || {
            ConfigSnapshot::from_bytes(environment, version, states, digest)
        })
    };
    let (came, mut mended) = (made(digest), made(digest));
    assert_eq!(came.as_ref().ok(), read.as_ref().ok());
    if let Err(SnapshotRefused::DigestMismatch { computed, expected }) = came {
        assert_eq!(expected, digest);
        seen.note("digest");
        mended = made(computed);
    }
    match mended {
        Ok(config) => {
            seen.note("snapshot");
            assert_eq!(config.version(), version);
            let again = to_positional(&config);
            assert_eq!(positional::<ConfigSnapshot>(&again).unwrap(), config);
            if again == bytes {
                seen.note("as it came");
            } else {
                let sorted = config.states().iter().map(EncodedState::bytes).eq(&states);
                assert!(read.is_err() || !sorted, "I4: two forms of one snapshot");
            }
            let memory = memory(config.states().iter().map(|state| &state.bytes()[..]));
            memory.bounds(len, || loaded(&config, seen));
        }
        Err(SnapshotRefused::Twice { key }) => {
            assert!(states.len() > 1, "{key}");
            seen.note("twice");
        }
        Err(SnapshotRefused::Undecodable(error)) => seen.undecodable(&error),
        Err(SnapshotRefused::DigestMismatch { .. }) => panic!("the computed digest was refused"),
    }
}

/// Loads a snapshot whose states may not be readable, and asks it.
pub(crate) fn loaded(config: &ConfigSnapshot, seen: &mut Seen) {
    let mut unreadable = config.states().iter().filter(|s| s.decode().is_err());
    match unreadable.next() {
        None => {
            seen.note("loaded");
            asked(config);
            assert!(config.to_json().is_ok());
        }
        Some(state) => {
            seen.note("not loaded");
            let refusal = Snapshot::load(config).unwrap_err();
            assert_eq!(refusal.key, *state.state_key());
            assert_eq!(Err(refusal.error), state.decode());
            assert!(config.to_json().is_err());
        }
    }
}

/// A Delta, alone and on top of a snapshot.
pub(crate) fn delta(bytes: &[u8], seen: &mut Seen) {
    let len = bytes.len();
    let read = DECODING.bounds_reading(len, || positional::<Delta>(bytes));
    let Ok((head, upserts, removals, digest)) = positional::<DeltaParts>(bytes) else {
        assert!(read.is_err());
        return seen.note("no delta");
    };
    let (environment, from, to) = head;
    let made = Delta::from_bytes(environment, (from, to), upserts, removals, digest);
    assert_eq!(made.as_ref().ok(), read.as_ref().ok());
    match made {
        Ok(delta) => {
            seen.note("delta");
            assert_eq!(to_positional(&delta), bytes, "I4: two forms of one delta");
            let memory = memory(delta.upserts.iter().map(|state| &state.bytes()[..]));
            memory.bounds(len, || {
                applied(&delta, seen);
                applied(&mended(delta), seen);
            });
        }
        Err(error) => seen.undecodable(&error),
    }
}

/// Applies a delta to a snapshot, to its bytes and to its loaded form.
pub(crate) fn applied(delta: &Delta, seen: &mut Seen) {
    let (config, snapshot) = base();
    match (config.apply(delta), snapshot.apply(delta)) {
        (Ok(config), Ok(snapshot)) => {
            seen.note("applied");
            assert!(delta.to > delta.from, "I6");
            assert_eq!(snapshot.version(), delta.to);
            assert_eq!(
                (config.version(), config.digest()),
                (delta.to, delta.digest)
            );
            let anew = Snapshot::load(&config).expect("the delta could be applied");
            for flag in flags(&config) {
                for subject in subjects() {
                    let found = snapshot.evaluate(flag, subject);
                    assert_eq!(anew.evaluate(flag, subject), found, "{flag}: I3");
                }
            }
        }
        (Ok(_), Err(DeltaRefused::Undecodable { key, error })) => {
            seen.note("state unreadable");
            let mut upserts = delta.upserts.iter();
            let state = upserts.find(|state| *state.state_key() == key).unwrap();
            assert_eq!(state.decode(), Err(error));
        }
        (Err(config), Err(snapshot)) => {
            assert_eq!(config, snapshot);
            seen.note(match config {
                DeltaRefused::WrongEnvironment { .. } => "another environment",
                DeltaRefused::WrongBase { .. } => "another base",
                DeltaRefused::NotNewer { .. } => "not newer",
                DeltaRefused::Twice { .. } => "twice",
                DeltaRefused::DigestMismatch { .. } => "digest",
                DeltaRefused::Undecodable { .. } => panic!("bytes are not decoded: {config}"),
            });
        }
        (config, snapshot) => panic!("{:?} but {:?}", config.err(), snapshot.err()),
    }
}

/// The same changes, on the base that there is, with the digest that they give.
fn mended(delta: Delta) -> Delta {
    let (config, _) = base();
    let states = config.states().iter();
    let mut states: BTreeMap<&StateKey, u128> = states
        .map(|state| (state.state_key(), state.hash()))
        .collect();
    for key in &delta.removals {
        states.remove(key);
    }
    for state in &delta.upserts {
        states.insert(state.state_key(), state.hash());
    }
    let mut digest = Digest::EMPTY;
    states.values().for_each(|hash| digest.add(*hash));
    let from = config.version();
    Delta {
        environment: config.environment().clone(),
        from,
        to: delta.to.max(from.checked_add(1).unwrap()),
        digest,
        ..delta
    }
}
