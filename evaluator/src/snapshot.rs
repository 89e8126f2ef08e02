//! ConfigSnapshot and delta: all EvaluationStates of an environment at one version, as bytes, and
//! how they move on. Derived.
//!
//! What must hold: a snapshot only ever moves to a later version (I6); a delta applies to exactly
//! the version it starts from and leaves the digest it promises, or changes nothing at all (I3,
//! I8); the digest is the sum of the states' hashes modulo 2^128, so it does not depend on order
//! and costs one addition per change (I4).
//!
//! Left out: the form that is ready for evaluation (`loaded.rs`), and how these travel (`wire.rs`).

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use crate::encoding::{DecodeError, EncodedState};
use crate::ids::{EnvironmentKey, StateKey, Version};

/// The sum of the hashes of a set of states, modulo 2^128. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// The digest of no state at all.
    pub const EMPTY: Digest = Digest(0);

    /// Makes a digest from its number.
    pub const fn new(sum: u128) -> Digest {
        Digest(sum)
    }

    /// Returns the number.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// Sums up states.
    pub fn of<'a>(states: impl IntoIterator<Item = &'a EncodedState>) -> Digest {
        let mut digest = Digest::EMPTY;
        states
            .into_iter()
            .for_each(|state| digest.add(state.hash()));
        digest
    }

    /// Takes a state's hash in.
    pub fn add(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash); // I4
    }

    /// Takes a state's hash out.
    pub fn remove(&mut self, hash: u128) {
        self.0 = self.0.wrapping_sub(hash); // I4
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Text that should be a digest is not 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 digits of 0-9 and a-f")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(sum) if digits && text.len() == 32 => Ok(Digest(sum)),
            _ => Err(DigestError),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => serializer.serialize_u128(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom),
            false => u128::deserialize(deserializer).map(Digest),
        }
    }
}

/// All EvaluationStates of one environment at one version.
///
/// In the positional encoding the states are their bytes alone; reading one back computes the
/// hashes anew and refuses a digest that they do not add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSnapshot {
    environment: EnvironmentKey,
    version: Version,
    states: Vec<EncodedState>,
    digest: Digest,
}

/// Why states do not make a ConfigSnapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefused {
    /// Two states have the same kind and key.
    #[error("{key} comes twice")]
    Twice {
        /// Which.
        key: StateKey,
    },
    /// The states do not add up to the digest.
    #[error("the digest should be {expected} but the states give {computed}")]
    DigestMismatch {
        /// What was said.
        expected: Digest,
        /// What the states give.
        computed: Digest,
    },
    /// A state cannot be read.
    #[error("a state cannot be read: {0}")]
    Undecodable(#[from] DecodeError),
}

/// What takes a ConfigSnapshot from one version to a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The environment.
    pub environment: EnvironmentKey,
    /// The version it applies to, exactly.
    pub from: Version,
    /// The version it leads to; later than `from`.
    pub to: Version,
    /// States that are new or have changed, each key once.
    pub upserts: Vec<EncodedState>,
    /// States that are gone, each key once and none that is also in `upserts`.
    pub removals: Vec<StateKey>,
    /// The digest afterwards.
    pub digest: Digest,
}

/// Why a delta was not applied. What it was to be applied to is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaRefused {
    /// It is for another environment.
    #[error("the delta is for environment {found}, not {have}")]
    WrongEnvironment {
        /// The environment of the snapshot.
        have: EnvironmentKey,
        /// That of the delta.
        found: EnvironmentKey,
    },
    /// It starts from another version.
    #[error("the delta starts from version {from}, not {have}")]
    WrongBase {
        /// The version of the snapshot.
        have: Version,
        /// Where the delta starts.
        from: Version,
    },
    /// It does not lead to a later version.
    #[error("version {to} is not later than {have}")]
    NotNewer {
        /// The version of the snapshot.
        have: Version,
        /// Where the delta leads.
        to: Version,
    },
    /// It names a state twice.
    #[error("{key} comes twice in the delta")]
    Twice {
        /// Which.
        key: StateKey,
    },
    /// The outcome would not have the promised digest.
    #[error("the digest should be {expected} but the states give {computed}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What the states give.
        computed: Digest,
    },
    /// A state cannot be read.
    #[error("{key} cannot be read: {error}")]
    Undecodable {
        /// Which.
        key: StateKey,
        /// Why.
        error: DecodeError,
    },
}

impl ConfigSnapshot {
    /// Makes a snapshot of states in any order.
    ///
    /// # Errors
    /// [`SnapshotRefused::Twice`].
    pub fn new(
        environment: EnvironmentKey,
        version: Version,
        mut states: Vec<EncodedState>,
    ) -> Result<ConfigSnapshot, SnapshotRefused> {
        states.sort_by(|a, b| a.state_key().cmp(b.state_key()));
        if let Some(pair) = states
            .windows(2)
            .find(|p| p[0].state_key() == p[1].state_key())
        {
            return Err(SnapshotRefused::Twice {
                key: pair[0].state_key().clone(),
            });
        }
        let digest = Digest::of(&states);
        Ok(ConfigSnapshot {
            environment,
            version,
            states,
            digest,
        })
    }

    /// Makes a snapshot of received bytes, and checks that they add up to the digest.
    ///
    /// # Errors
    /// Any [`SnapshotRefused`].
    pub fn from_bytes(
        environment: EnvironmentKey,
        version: Version,
        states: Vec<Bytes>,
        digest: Digest,
    ) -> Result<ConfigSnapshot, SnapshotRefused> {
        let states = encoded(&environment, states)?;
        let snapshot = ConfigSnapshot::new(environment, version, states)?;
        match snapshot.digest == digest {
            true => Ok(snapshot),
            false => {
                let computed = snapshot.digest;
                Err(SnapshotRefused::DigestMismatch {
                    expected: digest,
                    computed,
                }) // I4
            }
        }
    }

    /// Makes the snapshot of an environment that has nothing in it.
    pub fn empty(environment: EnvironmentKey, version: Version) -> ConfigSnapshot {
        ConfigSnapshot {
            environment,
            version,
            states: Vec::new(),
            digest: Digest::EMPTY,
        }
    }

    /// Returns the environment.
    pub fn environment(&self) -> &EnvironmentKey {
        &self.environment
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the states, sorted by kind and key.
    pub fn states(&self) -> &[EncodedState] {
        &self.states
    }

    /// Returns one state.
    pub fn state(&self, key: &StateKey) -> Option<&EncodedState> {
        let found = self
            .states
            .binary_search_by(|state| state.state_key().cmp(key));
        found.ok().map(|n| &self.states[n])
    }

    /// Returns the digest of all states.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the delta that leads from one snapshot to another of the same environment. It is
    /// applicable only when `new` is later than `old`.
    pub fn diff(old: &ConfigSnapshot, new: &ConfigSnapshot) -> Delta {
        let mut upserts = Vec::new();
        let mut removals = Vec::new();
        let mut before = old.states.iter().peekable();
        for state in &new.states {
            while let Some(gone) = before.next_if(|old| old.state_key() < state.state_key()) {
                removals.push(gone.state_key().clone());
            }
            match before.next_if(|old| old.state_key() == state.state_key()) {
                Some(same) if same.bytes() == state.bytes() => {}
                _ => upserts.push(state.clone()),
            }
        }
        removals.extend(before.map(|gone| gone.state_key().clone()));
        Delta {
            environment: new.environment.clone(),
            from: old.version,
            to: new.version,
            upserts,
            removals,
            digest: new.digest,
        }
    }

    /// Applies a delta. A refused one changes nothing.
    ///
    /// # Errors
    /// Any [`DeltaRefused`] but `Undecodable`: states are not decoded here.
    pub fn apply(&self, delta: &Delta) -> Result<ConfigSnapshot, DeltaRefused> {
        delta.check_base(&self.environment, self.version)?;
        let (upserts, touched) = delta.sorted()?;
        let mut upserts = upserts.into_iter().peekable();
        let mut states = Vec::with_capacity(self.states.len() + delta.upserts.len());
        for state in &self.states {
            let key = state.state_key();
            while let Some(new) = upserts.next_if(|new| new.state_key() < key) {
                states.push(new.clone());
            }
            if touched.binary_search(&key).is_err() {
                states.push(state.clone());
            }
        }
        states.extend(upserts.cloned());
        let computed = Digest::of(&states);
        delta.check_digest(computed)?; // I3: nothing was changed before this
        let environment = self.environment.clone();
        Ok(ConfigSnapshot {
            environment,
            version: delta.to,
            states,
            digest: computed,
        })
    }

    /// Moves on to a later version at which nothing has changed here (a heartbeat). The same
    /// version again changes nothing.
    ///
    /// # Errors
    /// [`DeltaRefused::NotNewer`] when the version is an earlier one.
    pub fn with_version(self, version: Version) -> Result<ConfigSnapshot, DeltaRefused> {
        if version < self.version {
            return Err(DeltaRefused::NotNewer {
                have: self.version,
                to: version,
            }); // I6
        }
        Ok(ConfigSnapshot { version, ..self })
    }

    /// Shows the snapshot as `{environment, version, digest, states}`.
    ///
    /// # Errors
    /// When a state cannot be read.
    pub fn to_json(&self) -> Result<serde_json::Value, DecodeError> {
        let states: Result<Vec<_>, _> = self.states.iter().map(EncodedState::to_json).collect();
        Ok(json!({
            "environment": self.environment,
            "version": self.version,
            "digest": self.digest,
            "states": states?,
        }))
    }
}

impl Delta {
    /// Makes a delta of received bytes.
    ///
    /// # Errors
    /// When a state cannot be read. Whether the delta fits is found out by applying it.
    pub fn from_bytes(
        environment: EnvironmentKey,
        (from, to): (Version, Version),
        upserts: Vec<Bytes>,
        removals: Vec<StateKey>,
        digest: Digest,
    ) -> Result<Delta, DecodeError> {
        let upserts = encoded(&environment, upserts)?;
        Ok(Delta {
            environment,
            from,
            to,
            upserts,
            removals,
            digest,
        })
    }

    /// Says whether the delta changes no state, only the version.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// Shows the delta as `{environment, from, to, upserts, removals, digest}`.
    ///
    /// # Errors
    /// When a state cannot be read.
    pub fn to_json(&self) -> Result<serde_json::Value, DecodeError> {
        let upserts: Result<Vec<_>, _> = self.upserts.iter().map(EncodedState::to_json).collect();
        Ok(json!({
            "environment": self.environment,
            "from": self.from,
            "to": self.to,
            "upserts": upserts?,
            "removals": self.removals,
            "digest": self.digest,
        }))
    }

    /// The one guard in front of every application of a delta.
    pub(crate) fn check_base(
        &self,
        environment: &EnvironmentKey,
        have: Version,
    ) -> Result<(), DeltaRefused> {
        if self.environment != *environment {
            let (have, found) = (environment.clone(), self.environment.clone());
            return Err(DeltaRefused::WrongEnvironment { have, found });
        }
        if self.from != have {
            return Err(DeltaRefused::WrongBase {
                have,
                from: self.from,
            }); // I8
        }
        if self.to <= have {
            return Err(DeltaRefused::NotNewer { have, to: self.to }); // I6
        }
        Ok(())
    }

    /// The one check behind every application of a delta.
    pub(crate) fn check_digest(&self, computed: Digest) -> Result<(), DeltaRefused> {
        match computed == self.digest {
            true => Ok(()),
            false => Err(DeltaRefused::DigestMismatch {
                expected: self.digest,
                computed,
            }), // I4
        }
    }

    /// Sorts the upserts, and all keys that the delta names; refuses a key named twice.
    pub(crate) fn sorted(&self) -> Result<(Vec<&EncodedState>, Vec<&StateKey>), DeltaRefused> {
        let mut upserts: Vec<&EncodedState> = self.upserts.iter().collect();
        upserts.sort_by(|a, b| a.state_key().cmp(b.state_key()));
        let named = self.upserts.iter().map(EncodedState::state_key);
        let mut keys: Vec<&StateKey> = named.chain(&self.removals).collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(DeltaRefused::Twice {
                key: pair[0].clone(),
            }),
            None => Ok((upserts, keys)),
        }
    }
}

fn encoded(
    environment: &EnvironmentKey,
    states: Vec<Bytes>,
) -> Result<Vec<EncodedState>, DecodeError> {
    states
        .into_iter()
        .map(|bytes| EncodedState::from_bytes(environment, bytes))
        .collect()
}

impl Serialize for ConfigSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let states: Vec<&Bytes> = self.states.iter().map(EncodedState::bytes).collect();
        (&self.environment, self.version, states, self.digest).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConfigSnapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConfigSnapshot, D::Error> {
        let (environment, version, states, digest) = Deserialize::deserialize(deserializer)?;
        ConfigSnapshot::from_bytes(environment, version, states, digest)
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for Delta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let upserts: Vec<&Bytes> = self.upserts.iter().map(EncodedState::bytes).collect();
        let head = (&self.environment, self.from, self.to);
        (head, upserts, &self.removals, self.digest).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Delta, D::Error> {
        let (head, upserts, removals, digest) = Deserialize::deserialize(deserializer)?;
        let (environment, from, to): (EnvironmentKey, Version, Version) = head;
        Delta::from_bytes(environment, (from, to), upserts, removals, digest)
            .map_err(serde::de::Error::custom)
    }
}
