//! The events of a history, one line each.
//!
//! What must hold: an event says what was seen, never what is thought to be true; every time is in
//! nanoseconds since the recorder began; a node is its place in the header's list of nodes, from 0.
//! Fields may be added with a default; a changed meaning needs another number in the header.

use std::sync::Arc;

use pennon_evaluator::{DecodeError, Digest, EncodedState};
use serde::{Deserialize, Serialize};

use super::register::{Operation, Outcome, Seen};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A read or write of one register, with all its attempts.
    Operation(Request),
    /// A change set over several objects.
    ChangeSet(ChangeSet),
    /// Several objects read as of one version.
    ReadSet(ReadSet),
    /// Something on a stream of changes, as its client saw it.
    Stream(StreamEvent),
    /// An evaluation, as the application saw it.
    Evaluation(Evaluation),
    /// What a node said of who has a version.
    Receipt(ReceiptSeen),
    /// The attributes of a subject that is evaluated.
    Subject(SubjectSeen),
    /// A step in the life of a fault.
    Fault(Fault),
    /// A node started, ended, or began to lead.
    Node(NodeEvent),
    /// The run entered another phase.
    Phase(PhaseEvent),
    /// The ground state of an environment at one version.
    Ground(GroundAt),
    /// What a node served for an environment at one version.
    Served(ServedAt),
    /// A register and its history after everything was healed.
    Final(FinalRead),
    /// The digest of a node's ground state.
    Digest(NodeDigest),
}

/// An operation on a register and how it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What was asked and what came of it, over all attempts.
    pub operation: Operation,
    /// The request id that all attempts carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<str>>,
    /// Each sending of it; empty when they were not written down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

/// One sending of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// To which node; `None` when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// When.
    pub sent: u64,
    /// What was answered.
    pub outcome: Outcome,
}

/// A change set: all of it happens at one version, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// Who.
    pub client: u32,
    /// The request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<str>>,
    /// When it began.
    pub invoked: u64,
    /// When its answer was there, or it was given up.
    pub completed: u64,
    /// What it writes; every value is written by nobody else.
    pub writes: Vec<Write>,
    /// What came of it.
    pub outcome: SetOutcome,
}

/// One write of a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Which object, as `flag/KEY`, `policy/ENVIRONMENT/KEY`, `segment/ENVIRONMENT/KEY`.
    pub object: Arc<str>,
    /// The new value, `None` to delete.
    pub value: Option<Arc<str>>,
}

/// What a change set came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetOutcome {
    /// It happened at this version.
    Committed {
        /// Which.
        version: u64,
    },
    /// It was refused, so it never happens.
    Refused,
    /// It may have happened, or may still happen.
    Unknown,
}

/// Several objects as one answer showed them, all as of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSet {
    /// Who.
    pub client: u32,
    /// When it began.
    pub invoked: u64,
    /// When the answer was there.
    pub completed: u64,
    /// Where it came from, for people: `list`, `snapshot`, `history`, `stream`.
    pub source: Arc<str>,
    /// Whether it was promised to be linearizable; others may be old, but are never torn.
    pub linearizable: bool,
    /// The version the answer was decided at.
    pub version: u64,
    /// What was there.
    pub objects: Vec<ObjectSeen>,
}

/// An object as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSeen {
    /// Which, as in [`Write::object`].
    pub object: Arc<str>,
    /// Its version and value, `None` when it was missing.
    pub seen: Option<Seen>,
}

/// Something on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEvent {
    /// When the client had it.
    pub at: u64,
    /// Whose stream.
    pub client: u32,
    /// Which connection of this client, counted up.
    pub connection: u32,
    /// What is streamed: an environment, or `ENVIRONMENT/APPLICATION`.
    pub scope: Arc<str>,
    /// What it was.
    pub item: StreamItem,
}

/// What a client saw of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamItem {
    /// It asked for a stream, having this version.
    Asked {
        /// The node it asked.
        node: u32,
        /// The version it has and resumes from, `None` to begin anew.
        since: Option<u64>,
    },
    /// The first message.
    Hello {
        /// The cluster.
        cluster: Arc<str>,
        /// `none`, `changes` or `full`.
        intent: Arc<str>,
        /// The version that the node has.
        version: u64,
        /// The staleness bound in milliseconds.
        bound_ms: u64,
    },
    /// Everything, at one version.
    Snapshot {
        /// Which.
        version: u64,
        /// The states.
        states: Vec<StateSeen>,
        /// What the node says they add up to.
        digest: Digest,
        /// How old the node's proof is, in milliseconds.
        fresh_age_ms: u64,
    },
    /// What changed.
    Delta {
        /// From which version.
        from: u64,
        /// To which.
        to: u64,
        /// New and changed states.
        upserts: Vec<StateSeen>,
        /// States that are gone, as `flag/KEY`.
        removals: Vec<Arc<str>>,
        /// What the node says the states add up to then.
        digest: Digest,
        /// How old the node's proof is, in milliseconds.
        fresh_age_ms: u64,
    },
    /// Nothing changed up to this version.
    Heartbeat {
        /// Which.
        version: u64,
        /// How long the stream has been open, in milliseconds.
        open_ms: u64,
        /// How old the node's proof is, in milliseconds.
        fresh_age_ms: u64,
    },
    /// A snapshot will follow.
    Reset,
    /// The node goes.
    Goodbye,
    /// The connection ended; the client keeps what it has.
    Cut,
}

/// A state on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSeen {
    /// Its key, as `flag/KEY` or `segment/KEY`.
    pub key: Arc<str>,
    /// The version of the write that made it.
    pub changed_at: u64,
    /// The hash of its bytes, as it goes into a digest.
    pub hash: Digest,
}

impl StateSeen {
    /// Makes it from received bytes.
    ///
    /// # Errors
    /// When they are no state.
    pub fn new(state: &EncodedState) -> Result<StateSeen, DecodeError> {
        Ok(StateSeen {
            key: state.state_key().to_string().into(),
            changed_at: state.decode()?.changed_at().get(),
            hash: Digest::new(state.hash()),
        })
    }
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Just before it began.
    pub began: u64,
    /// Which process or client library evaluated; the same number after a restart that kept the
    /// disk cache.
    pub client: u32,
    /// The environment.
    pub environment: Arc<str>,
    /// The flag.
    pub flag: Arc<str>,
    /// The key of the subject; it always has the same attributes.
    pub subject: Arc<str>,
    /// The version of the snapshot it was decided from, 0 without one.
    pub snapshot_version: u64,
    /// The version at which the flag, or what it uses, last changed.
    pub config_version: u64,
    /// The variant served.
    pub variant: Option<Arc<str>>,
    /// Its value, as JSON text.
    pub value: Option<Arc<str>>,
    /// Why, as in answers over HTTP.
    pub reason: Arc<str>,
    /// Whether it was called FRESH.
    pub fresh: bool,
    /// How old the client says its state is at most, in nanoseconds; `None` if it cannot say.
    pub age: Option<u64>,
}

/// A receipt, as whoever asked for it got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptSeen {
    /// When it was here.
    pub at: u64,
    /// Who asked.
    pub client: u32,
    /// The environment.
    pub environment: Arc<str>,
    /// The version it is about.
    pub version: u64,
    /// Whether every node and everybody who is connected has it, as it says.
    pub complete: bool,
    /// Who has not, as it says.
    pub laggards: Vec<Arc<str>>,
    /// After how long nobody acts on an older state as if it were fresh, as it says; in milliseconds.
    pub settled_in_ms: u64,
}

/// A subject, with the attributes that it has in every evaluation of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectSeen {
    /// Its key.
    pub key: Arc<str>,
    /// Its attributes, as the evaluator takes them.
    #[serde(default)]
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// A step of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub at: u64,
    /// Which fault of this run, counted up; its steps share the number.
    pub fault: u64,
    /// What is done, as a demand names it: `kill`, `pause`, `partition`.
    pub kind: Arc<str>,
    /// To whom, for people.
    pub targets: Vec<Arc<str>>,
    /// Which step.
    pub stage: FaultStage,
}

/// A step of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultStage {
    /// The harness asked for it.
    Asked,
    /// It took effect: a counter or an observation says so, not the call that asked.
    Acted {
        /// What was counted or seen, for people.
        proof: Arc<str>,
        /// How often: dropped bytes, refused connections, lost writes. 0 proves nothing.
        count: u64,
    },
    /// The harness took it back, and it is over.
    Ended,
}

/// A step in the life of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When.
    pub at: u64,
    /// Which node.
    pub node: u32,
    /// What happened.
    pub stage: NodeStage,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStage {
    /// Its process began.
    Started,
    /// It answered that it is ready.
    Ready,
    /// Its process ended.
    Ended {
        /// How: `killed`, `exit 0`, `power lost`.
        how: Arc<str>,
        /// Whether it led at that moment, as far as the harness knew.
        led: bool,
    },
    /// It was seen to lead.
    Leads {
        /// The term.
        term: u64,
    },
}

/// The run entered a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseEvent {
    /// When.
    pub at: u64,
    /// Which.
    pub phase: Phase,
}

/// A phase of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Clients work and faults begin.
    Working,
    /// Every fault was taken back.
    Healed,
    /// All nodes were seen to be members, at one version, with one digest.
    Converged,
    /// Clients have stopped; what follows are last reads.
    Stopped,
}

/// What people wrote in an environment, at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroundAt {
    /// The environment.
    pub environment: Arc<str>,
    /// The version.
    pub version: u64,
    /// Every FlagConfig, and every policy of a flag or segment in the environment, as they were
    /// at that version.
    pub objects: Vec<GroundObject>,
}

/// One object of ground state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroundObject {
    /// `flag`, `policy` or `segment`.
    pub kind: Arc<str>,
    /// Its key.
    pub key: Arc<str>,
    /// The version of the write that made it.
    pub version: u64,
    /// The JSON text of its value.
    pub value: Arc<str>,
}

/// What a node served for an environment at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedAt {
    /// When the answer was there.
    pub at: u64,
    /// Which node.
    pub node: u32,
    /// The environment.
    pub environment: Arc<str>,
    /// The version.
    pub version: u64,
    /// The digest it gave.
    pub digest: Digest,
    /// The states it gave; empty when only the digest was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<ServedState>,
}

/// A state that a node served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedState {
    /// Its key, as `flag/KEY` or `segment/KEY`.
    pub key: Arc<str>,
    /// The version of the write that made it.
    pub changed_at: u64,
    /// The hash of its bytes, when the bytes were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Digest>,
}

/// A register after everything was healed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRead {
    /// Which.
    pub register: Arc<str>,
    /// What a linearizable read gives.
    pub seen: Option<Seen>,
    /// Its history, in any order; empty when it was not read.
    pub history: Vec<HistoryLine>,
    /// Whether that is all of its history, from its first version.
    pub whole: bool,
}

/// One change in the history that the cluster kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The version it made.
    pub version: u64,
    /// The version it replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// The value, `None` for a deletion.
    pub value: Option<Arc<str>>,
    /// The request id it came under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<str>>,
}

/// The digest of everything that a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDigest {
    /// When the answer was there.
    pub at: u64,
    /// Which node.
    pub node: u32,
    /// At which version.
    pub version: u64,
    /// The digest as the node writes it.
    pub digest: Arc<str>,
}
