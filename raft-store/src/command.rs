//! What goes into the Raft log: objects, writes, change sets, batches, and their outcomes.
//!
//! Everything here is stored for ever by somebody, so enums only grow at the end, fields only with
//! a new format tag (see `codec`), and a value that a person wrote stays the JSON text it was.
//! Applying never depends on what is inside that text: what one release can parse must not decide
//! what another one applies (I11).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use pennon_evaluator::{EnvironmentKey, Fault, StateKey, Version};
use serde::{Deserialize, Serialize};

/// Names one cluster for as long as its data lives. Shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(u128);

impl ClusterId {
    /// Wraps the number; the caller makes it from its own source of randomness.
    pub fn new(id: u128) -> Self {
        Self(id)
    }

    /// The number.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// The kinds of ground state. Stored by position: grows at the end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// An environment: name, protection, staleness bound.
    Environment,
    /// A FlagConfig.
    Flag,
    /// The TargetingPolicy of a segment in one environment.
    Segment,
    /// The TargetingPolicy of a flag in one environment.
    Policy,
    /// Something that is set once for the whole cluster, such as its limits.
    Setting,
    /// What one application needs.
    Application,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Environment,
        Self::Flag,
        Self::Segment,
        Self::Policy,
        Self::Setting,
        Self::Application,
    ];

    /// The word used in paths, answers and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Flag => "flag",
            Self::Segment => "segment",
            Self::Policy => "policy",
            Self::Setting => "setting",
            Self::Application => "application",
        }
    }

    /// True for the kinds that live inside an environment.
    pub fn is_scoped(self) -> bool {
        matches!(self, Self::Segment | Self::Policy)
    }
}

impl FromStr for ObjectKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(())
    }
}

/// Names one object of ground state. Ordered by kind, environment, key, so that a list is a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    kind: ObjectKind,
    environment: Option<EnvironmentKey>,
    key: Arc<str>,
}

impl ObjectId {
    /// Names a FlagConfig.
    pub fn flag(key: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Flag,
            environment: None,
            key: key.into(),
        }
    }

    /// Names an environment.
    pub fn environment_object(key: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Environment,
            environment: None,
            key: key.into(),
        }
    }

    /// Names the policy of a flag in an environment.
    pub fn policy(environment: EnvironmentKey, flag: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Policy,
            environment: Some(environment),
            key: flag.into(),
        }
    }

    /// Names a segment in an environment.
    pub fn segment(environment: EnvironmentKey, key: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Segment,
            environment: Some(environment),
            key: key.into(),
        }
    }

    /// Names a setting of the cluster.
    pub fn setting(name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Setting,
            environment: None,
            key: name.into(),
        }
    }

    /// Names an application.
    pub fn application(key: impl Into<Arc<str>>) -> Self {
        Self {
            kind: ObjectKind::Application,
            environment: None,
            key: key.into(),
        }
    }

    /// The kind.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// The environment, for policies and segments.
    pub fn environment(&self) -> Option<&EnvironmentKey> {
        self.environment.as_ref()
    }

    /// The key within its kind and environment.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key, shared.
    pub fn key_arc(&self) -> Arc<str> {
        self.key.clone()
    }

    /// The ordered bytes under which this object's history is kept; no object's bytes are a
    /// prefix of another's.
    pub fn history_key(&self) -> Vec<u8> {
        let environment = self.environment.as_ref().map_or("", |e| e.as_str());
        let mut out = Vec::with_capacity(5 + environment.len() + self.key.len());
        out.push(match self.kind {
            ObjectKind::Environment => 0,
            ObjectKind::Flag => 1,
            ObjectKind::Segment => 2,
            ObjectKind::Policy => 3,
            ObjectKind::Setting => 4,
            ObjectKind::Application => 5,
        });
        for part in [environment, &*self.key] {
            out.extend_from_slice(&(part.len() as u16).to_be_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.environment {
            Some(environment) => write!(f, "{} {} in {environment}", self.kind.as_str(), self.key),
            None => write!(f, "{} {}", self.kind.as_str(), self.key),
        }
    }
}

/// What must hold of an object for a write to succeed (I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Nothing is asked.
    Any,
    /// The object must not exist.
    Absent,
    /// The object must exist, at whatever version.
    Present,
    /// The object must exist at exactly this version.
    At(Version),
}

impl Expected {
    /// Whether an object found at `found` satisfies this.
    pub fn holds(self, found: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::At(version) => found == Some(version),
        }
    }
}

/// One write as it is applied: the whole new value, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// What is written.
    pub object: ObjectId,
    /// The new value as JSON text; `None` deletes.
    pub value: Option<Arc<str>>,
    /// The precondition.
    pub expected: Expected,
}

/// The caller's name for a request, so that a retry is recognised (I9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestId {
    /// The Idempotency-Key, 1 to 255 bytes.
    pub key: Arc<str>,
    /// Hash of what was asked: the same key with another hash is a mistake of the caller.
    pub fingerprint: u128,
}

/// Who asked for a change, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who, as the node knows them.
    pub actor: Arc<str>,
    /// The caller's name for the request.
    pub request: Option<RequestId>,
    /// Why, in the caller's words.
    pub reason: Option<Arc<str>>,
}

/// One compiled state that a change set replaces or removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledChange {
    /// Where.
    pub environment: EnvironmentKey,
    /// Which flag or segment.
    pub key: StateKey,
    /// The encoded EvaluationState; `None` removes it.
    pub state: Option<Bytes>,
    /// What it names: segments, prerequisite flags, layers and experiments.
    pub uses: Vec<StateKey>,
}

/// What the leader decided about a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Apply the writes and, in the same step, the compiled states (I3, I4).
    Commit {
        /// The writes, at most one per object.
        writes: Vec<Write>,
        /// What follows from them.
        compiled: Vec<CompiledChange>,
        /// Answers for objects that already were as asked.
        unchanged: Vec<WriteResult>,
    },
    /// Change nothing, but remember the refusal under the request id.
    Refuse(Refusal),
}

/// One change set with its decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Who and why.
    pub origin: Origin,
    /// The decision.
    pub verdict: Verdict,
}

/// One Raft entry: change sets decided together against one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The machine's version when this was decided. Applied only if it still is (D2).
    pub base: Version,
    /// The leader's time, milliseconds since 1970. The machine never lets it run backwards.
    pub time_ms: u64,
    /// The change sets, in order.
    pub items: Vec<Item>,
}

/// What a committed entry asks for. Grows at the end only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Change ground state.
    Batch(Batch),
    /// Every member knows this feature level: what needs it is allowed from here on. A lower one
    /// than the cluster's changes nothing.
    Raise(u32),
}

/// What a write did to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResult {
    /// The object.
    pub object: ObjectId,
    /// Its version now; for a deletion, the version of the deletion.
    pub version: Version,
    /// Its version before, if it existed.
    pub previous: Option<Version>,
}

/// The replicated answer to a change set: every replica says the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It happened, at this version.
    Written {
        /// The version of the change set.
        version: Version,
        /// One result per object asked for.
        results: Vec<WriteResult>,
    },
    /// It did not happen, decided at this version.
    Refused {
        /// The version it was decided at.
        version: Version,
        /// Why.
        refusal: Refusal,
    },
}

impl Outcome {
    /// The version this was decided at (I2: refusals say it too).
    pub fn version(&self) -> Version {
        match self {
            Self::Written { version, .. } | Self::Refused { version, .. } => *version,
        }
    }
}

/// Why a change set was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A precondition did not hold.
    Conflict {
        /// The object.
        object: ObjectId,
        /// What was asked.
        expected: Expected,
        /// What was there.
        found: Option<Version>,
    },
    /// Something it needs does not exist.
    NotFound {
        /// What is missing.
        object: ObjectId,
    },
    /// A value cannot be accepted; every fault is located.
    Invalid {
        /// Index of the write in the change set.
        write: u32,
        /// The complaints, JSON pointers relative to the value.
        faults: Vec<Fault>,
    },
    /// Others still refer to what would go away.
    InUse {
        /// The object.
        object: ObjectId,
        /// Who uses it, and how.
        users: Vec<String>,
    },
    /// The request id was used before for something else.
    IdempotencyMismatch {
        /// The request id.
        key: Arc<str>,
    },
    /// A cluster-wide bound would be passed.
    Quota {
        /// What is bounded.
        what: String,
        /// The bound.
        max: u64,
    },
    /// The ground state is not the one that the change set is for. Answered at once, never stored.
    Moved,
    /// A member runs a release that could not read the change set. Answered at once, never stored:
    /// the same request succeeds when every member knows that much.
    NotEnabled {
        /// The feature level that it needs.
        needs: u32,
        /// The feature level of the cluster.
        level: u32,
    },
}

/// One line of an object's history, kept in `state/` and shown by the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The object.
    pub object: ObjectId,
    /// The version of this change.
    pub version: Version,
    /// The version before, if the object existed.
    pub previous: Option<Version>,
    /// The leader's time, milliseconds since 1970.
    pub time_ms: u64,
    /// Who, under which request id, and why.
    pub origin: Origin,
    /// The value from then on; `None` means deleted.
    pub value: Option<Arc<str>>,
}
