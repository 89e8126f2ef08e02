//! The names of things: versions, and the keys of flags, segments and environments.
//!
//! What must hold: a value of one of these types is always well formed, whatever it was made from.
//! The fields are private, every constructor checks, and deserialisation goes through the same
//! check, so that no other code needs to ask again. Keys are shared (`Arc<str>`): cloning one
//! costs a counter.
//!
//! Left out: what a key refers to, and whether it exists.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 256;

/// The log-index version of the write that made something; always below 2^53, so that JSON
/// numbers carry it exactly.
///
/// ```
/// use pennon_evaluator::Version;
/// assert_eq!(Version::new(12).map(|v| v.to_string()).as_deref(), Some("12"));
/// assert_eq!(Version::new(1 << 53), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// Before every write: no object has this version.
    pub const ZERO: Version = Version(0);
    /// The highest version there can be, 2^53 - 1.
    pub const MAX: Version = Version((1 << 53) - 1);

    /// Makes a version from its number, or nothing when it is above [`Version::MAX`].
    pub const fn new(number: u64) -> Option<Version> {
        if number <= Self::MAX.0 {
            Some(Version(number))
        } else {
            None
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the version `steps` later, or nothing when that is above [`Version::MAX`].
    pub const fn checked_add(self, steps: u64) -> Option<Version> {
        match self.0.checked_add(steps) {
            Some(number) => Version::new(number),
            None => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Version, VersionError> {
        // `u64::from_str` also takes "+1"; a version is digits only.
        let number = match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        };
        number.and_then(Version::new).ok_or(VersionError)
    }
}

impl TryFrom<u64> for Version {
    type Error = VersionError;

    fn try_from(number: u64) -> Result<Version, VersionError> {
        Version::new(number).ok_or(VersionError)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Version::new(number).ok_or_else(|| serde::de::Error::custom(VersionError))
    }
}

/// Something that should be a version is not a whole number from 0 to 2^53 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is a whole number from 0 to 9007199254740991")]
pub struct VersionError;

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key has no character at all.
    #[error("a key must not be empty")]
    Empty,
    /// The key has more than [`KEY_LEN_MAX`] bytes.
    #[error("a key has at most {KEY_LEN_MAX} bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The key has a character that keys do not have.
    #[error(
        "a key is made of A-Z a-z 0-9 . _ : / and -, this one has {found:?} at byte {position}"
    )]
    Character {
        /// The first such character.
        found: char,
        /// Where it is, in bytes from 0.
        position: usize,
    },
}

fn check_key(text: &str) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    if text.len() > KEY_LEN_MAX {
        return Err(KeyError::TooLong { len: text.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '-');
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((position, found)) => Err(KeyError::Character { found, position }),
        None => Ok(()),
    }
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the shared text of the key.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = KeyError;

            fn try_from(text: &str) -> Result<$name, KeyError> {
                check_key(text)?;
                Ok($name(Arc::from(text)))
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;

            fn try_from(text: String) -> Result<$name, KeyError> {
                check_key(&text)?;
                Ok($name(Arc::from(text)))
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<$name, KeyError> {
                $name::try_from(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = Arc::<str>::deserialize(deserializer)?;
                check_key(&text).map_err(serde::de::Error::custom)?;
                Ok($name(text))
            }
        }
    };
}

key_type! {
    /// The key of a flag: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    ///
    /// ```
    /// use pennon_evaluator::FlagKey;
    /// assert_eq!("checkout.new-ui".parse::<FlagKey>().map(|k| k.to_string()), Ok("checkout.new-ui".into()));
    /// let refusal = "new ui".parse::<FlagKey>().unwrap_err();
    /// assert!(refusal.to_string().contains("' ' at byte 3"));
    /// ```
    FlagKey
}
key_type! {
    /// The key of a segment: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    SegmentKey
}
key_type! {
    /// The key of an environment: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    EnvironmentKey
}

key_type! {
    /// The key of an application: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    ApplicationKey
}

key_type! {
    /// The key of an experiment: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    ExperimentKey
}
key_type! {
    /// The key of a layer of experiments: 1 to 256 bytes of `[A-Za-z0-9._:/-]`.
    LayerKey
}

/// What a state is of, or what else a state can name. Only flags and segments have states.
/// Stored by position: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// A flag in one environment.
    Flag,
    /// A segment in one environment.
    Segment,
    /// A layer: it exists by being named, and what names it must not overlap in it.
    Layer,
    /// An experiment: it exists by being named, and is the same wherever it is.
    Experiment,
}

impl StateKind {
    /// Returns `flag`, `segment`, `layer` or `experiment`.
    pub fn as_str(self) -> &'static str {
        match self {
            StateKind::Flag => "flag",
            StateKind::Segment => "segment",
            StateKind::Layer => "layer",
            StateKind::Experiment => "experiment",
        }
    }
}

impl StateKind {
    /// Says whether things of this kind have a state of their own: flags and segments do.
    pub fn has_state(self) -> bool {
        matches!(self, StateKind::Flag | StateKind::Segment)
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one EvaluationState of an environment; shown as `flag/x` or `segment/y`. Flags sort
/// before segments, then by the bytes of the key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StateKey {
    kind: StateKind,
    key: Arc<str>,
}

impl StateKey {
    /// Names the state of a flag.
    pub fn flag(key: &FlagKey) -> StateKey {
        StateKey {
            kind: StateKind::Flag,
            key: key.shared(),
        }
    }

    /// Names the state of a segment.
    pub fn segment(key: &SegmentKey) -> StateKey {
        StateKey {
            kind: StateKind::Segment,
            key: key.shared(),
        }
    }

    /// Names a layer, which has no state.
    pub fn layer(key: &LayerKey) -> StateKey {
        StateKey {
            kind: StateKind::Layer,
            key: key.shared(),
        }
    }

    /// Names an experiment, which has no state.
    pub fn experiment(key: &ExperimentKey) -> StateKey {
        StateKey {
            kind: StateKind::Experiment,
            key: key.shared(),
        }
    }

    /// Names a state by kind and key text.
    ///
    /// # Errors
    /// When the text is not a well-formed key.
    pub fn new(kind: StateKind, key: &str) -> Result<StateKey, KeyError> {
        check_key(key)?;
        Ok(StateKey {
            kind,
            key: Arc::from(key),
        })
    }

    /// Returns what the state is of.
    pub fn kind(&self) -> StateKind {
        self.kind
    }

    /// Returns the key of what is named.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the shared text of the key.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.key)
    }

    /// Returns the flag this names, or nothing when it names something else.
    pub fn as_flag(&self) -> Option<FlagKey> {
        (self.kind == StateKind::Flag).then(|| FlagKey(self.shared()))
    }

    /// Returns the segment this names, or nothing when it names something else.
    pub fn as_segment(&self) -> Option<SegmentKey> {
        (self.kind == StateKind::Segment).then(|| SegmentKey(self.shared()))
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.key)
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKey({self})")
    }
}

impl<'de> Deserialize<'de> for StateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StateKey, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parts {
            kind: StateKind,
            key: Arc<str>,
        }
        let Parts { kind, key } = Parts::deserialize(deserializer)?;
        check_key(&key).map_err(serde::de::Error::custom)?;
        Ok(StateKey { kind, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_however_they_are_made() {
        assert_eq!(FlagKey::try_from(""), Err(KeyError::Empty));
        let long = "k".repeat(KEY_LEN_MAX + 1);
        assert_eq!(
            FlagKey::try_from(long.as_str()),
            Err(KeyError::TooLong { len: 257 })
        );
        assert!(FlagKey::try_from(&long[1..]).is_ok());
        let umlaut = KeyError::Character {
            found: 'ü',
            position: 1,
        };
        assert_eq!("für".parse::<SegmentKey>(), Err(umlaut));
        assert!(serde_json::from_str::<EnvironmentKey>("\"a b\"").is_err());
        assert!(serde_json::from_str::<EnvironmentKey>("\"A-z.0_9:/\"").is_ok());
        assert!(serde_json::from_str::<StateKey>(r#"{"kind":"flag","key":""}"#).is_err());
        assert!(bincode::deserialize::<FlagKey>(b"\x01\0\0\0\0\0\0\0 ").is_err());
    }

    #[test]
    fn versions_stop_below_two_to_the_53() {
        assert_eq!(Version::new(Version::MAX.get() + 1), None);
        assert_eq!(Version::MAX.checked_add(1), None);
        assert_eq!(Version::ZERO.checked_add(u64::MAX), None);
        assert!(serde_json::from_str::<Version>("9007199254740992").is_err());
        assert_eq!("+1".parse::<Version>(), Err(VersionError));
        assert_eq!("".parse::<Version>(), Err(VersionError));
        assert_eq!("9007199254740991".parse::<Version>(), Ok(Version::MAX));
    }

    #[test]
    fn state_keys_sort_flags_first_and_name_themselves() {
        let flag = StateKey::new(StateKind::Flag, "z").unwrap();
        let segment = StateKey::new(StateKind::Segment, "a").unwrap();
        assert!(flag < segment);
        assert_eq!(format!("{flag} {segment}"), "flag/z segment/a");
        assert_eq!(flag.as_flag().unwrap().as_str(), "z");
        assert!(flag.as_segment().is_none());
        let json = serde_json::to_string(&segment).unwrap();
        assert_eq!(json, r#"{"kind":"segment","key":"a"}"#);
        assert_eq!(serde_json::from_str::<StateKey>(&json).unwrap(), segment);
    }
}
