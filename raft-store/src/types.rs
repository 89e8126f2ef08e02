//! openraft's generics, named once. Nothing here is public.
//!
//! Log ids are those of standard Raft, (term, index): one leader a term. A log entry's payload is
//! one byte of kind and then bytes; only a membership is decoded, and only by us.

use std::fmt;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Unreadable};
use crate::log::{LogEntry, LogId};
use crate::machine::Answer;
use crate::raft::Member;
use pennon_evaluator::Version;

/// An encoded `Command`, opaque to consensus.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What `apply` answers to the proposer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) version: Version,
    pub(crate) answer: Answer,
}

openraft::declare_raft_types!(
    /// The one type configuration.
    pub(crate) TypeConfig:
        D = Payload,
        R = Response,
        NodeId = u64,
        Node = Member,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = crate::dice::Runtime,
);

pub(crate) type CommittedLeaderId = <LeaderId<u64, u64> as RaftLeaderId>::Committed;
pub(crate) type RaftLogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeaderId, EntryPayload<Payload, u64, Member>>;
pub(crate) type RaftVote = openraft::Vote<LeaderId<u64, u64>>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Member>;

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
const MEMBERSHIP_FORMAT: u8 = 1;

/// Our log id for openraft's.
pub(crate) fn log_id(id: &RaftLogId) -> LogId {
    LogId {
        term: *id.leader_id,
        index: id.index,
    }
}

/// openraft's log id for ours.
pub(crate) fn raft_log_id(id: LogId) -> RaftLogId {
    RaftLogId {
        leader_id: CommittedLeaderId::new(id.term),
        index: id.index,
    }
}

/// The bytes of an entry's payload as the log keeps them.
pub(crate) fn to_log(entry: &RaftEntry) -> Result<LogEntry, Unreadable> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (KIND_COMMAND, payload.0.clone()),
        EntryPayload::Membership(membership) => (
            KIND_MEMBERSHIP,
            codec::encode(MEMBERSHIP_FORMAT, membership)?,
        ),
    };
    let mut payload = Vec::with_capacity(1 + body.len());
    payload.push(kind);
    payload.extend_from_slice(&body);
    Ok(LogEntry {
        id: log_id(&entry.log_id),
        payload: payload.into(),
    })
}

/// An entry as openraft wants it.
pub(crate) fn from_log(entry: LogEntry) -> Result<RaftEntry, Unreadable> {
    let mut bytes = entry.payload;
    let body = if bytes.is_empty() {
        Bytes::new()
    } else {
        bytes.split_off(1)
    };
    let payload = match bytes.first() {
        Some(&KIND_BLANK) => EntryPayload::Blank,
        Some(&KIND_COMMAND) => EntryPayload::Normal(Payload(body)),
        Some(&KIND_MEMBERSHIP) => {
            EntryPayload::Membership(codec::decode(MEMBERSHIP_FORMAT, &body)?)
        }
        _ => return Err(Unreadable::Body),
    };
    Ok(RaftEntry {
        log_id: raft_log_id(entry.id),
        payload,
    })
}
