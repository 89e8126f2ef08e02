//! Frozen bytes of what nodes say to each other about consensus, of entries in the log, and of the
//! header of a snapshot: a node of the release before this one has to read them. A vector never
//! changes; another layout is another format number or another message.
//!
//! `PENNON_FREEZE=1` writes vectors that are not there yet, for a new message.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use openraft::Membership;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use pennon_evaluator::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::log::LogId;
use crate::machine::Machine;
use crate::state_machine::{any_header_of, header_of};
use crate::types::{Payload, RaftEntry, StoredMembership, from_log, raft_log_id, to_log};

/// The bytes in the file; made from `now` where there is none and new ones are to be frozen.
fn vector(name: &str, now: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors");
    let path = path.join(format!("{name}.hex"));
    if !path.exists() && std::env::var_os("PENNON_FREEZE").is_some() {
        let lines = now.chunks(40).map(|line| hex(line) + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let pairs = text
        .split_whitespace()
        .flat_map(|line| line.as_bytes().chunks(2));
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a message are those in the file, and the file gives the message back.
fn frozen<T: Serialize + DeserializeOwned + Debug>(name: &str, message: &T) {
    let now = encode(message).unwrap();
    let then = vector(name, &now);
    assert_eq!(hex(&now), hex(&then), "{name} is frozen");
    let read: T = decode(&then).unwrap();
    assert_eq!(format!("{read:?}"), format!("{message:?}"), "{name}");
}

fn envelope() -> Envelope {
    Envelope {
        cluster: ClusterId::new(0xc1),
        from: 1,
        to: 2,
    }
}

fn id(term: u64, index: u64) -> crate::types::RaftLogId {
    raft_log_id(LogId { term, index })
}

fn member(n: u64) -> Member {
    Member {
        name: format!("n{n}"),
        api: format!("a{n}:1"),
        peer: format!("p{n}:2"),
    }
}

/// Two voters and a learner, in the middle of a change.
fn membership() -> Membership<u64, Member> {
    let members: BTreeMap<u64, Member> = (1..=3).map(|n| (n, member(n))).collect();
    let voters = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
    Membership::new(voters, members).unwrap()
}

fn entries() -> Vec<RaftEntry> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Payload(Bytes::from_static(&[1, 2, 3]))),
        EntryPayload::Membership(membership()),
    ];
    let entries = payloads.into_iter().zip(5..);
    let entries = entries.map(|(payload, index)| RaftEntry {
        log_id: id(3, index),
        payload,
    });
    entries.collect()
}

#[test]
fn requests_are_frozen() {
    let vote = RaftVote::new_committed(3, 1);
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(id(2, 4)),
        entries: entries(),
        leader_commit: Some(id(2, 4)),
    };
    frozen("rpc-append-request-1", &(envelope(), append));
    let ask = |leadership_transfer| VoteRequest::<TypeConfig> {
        vote: RaftVote::new(4, 2),
        last_log_id: Some(id(3, 7)),
        leadership_transfer,
    };
    frozen("rpc-vote-request-1", &(envelope(), ask(false)));
    frozen("rpc-vote-request-of-successor-1", &(envelope(), ask(true)));
    let transfer = TransferLeaderRequest::<TypeConfig>::new(vote, 2, Some(id(3, 7)));
    frozen("rpc-transfer-leader-request-1", &(envelope(), transfer));
    let chunk = SnapshotChunk {
        vote,
        version: 7,
        offset: 1 << 20,
        bytes: Bytes::from_static(b"piece"),
        last: true,
    };
    frozen("rpc-snapshot-request-1", &(envelope(), chunk));
}

#[test]
fn answers_are_frozen() {
    type Append = Result<AppendEntriesResponse<TypeConfig>, String>;
    let higher = RaftVote::new(9, 2);
    for (name, answer) in [
        ("success", AppendEntriesResponse::Success),
        (
            "partial",
            AppendEntriesResponse::PartialSuccess(Some(id(3, 5))),
        ),
        ("conflict", AppendEntriesResponse::Conflict),
        ("higher-vote", AppendEntriesResponse::HigherVote(higher)),
    ] {
        frozen(&format!("rpc-append-answer-{name}-1"), &Append::Ok(answer));
    }
    frozen("rpc-refused-1", &Append::Err("why".into()));
    let vote = VoteResponse::<TypeConfig>::new(higher, Some(id(3, 7)), true);
    frozen("rpc-vote-answer-1", &Ok::<_, String>(vote));
    type Transfer = Result<TransferLeaderResponse<TypeConfig>, String>;
    frozen("rpc-transfer-leader-answer-1", &Transfer::Ok(Ok(())));
    let changed = openraft::raft::TransferLeaderError::VoteChanged {
        expected: RaftVote::new_committed(3, 1),
        actual: higher,
    };
    frozen("rpc-transfer-leader-refused-1", &Transfer::Ok(Err(changed)));
    frozen("rpc-snapshot-more-1", &Ok::<_, String>(SnapshotReply::More));
    let at = SnapshotReply::At(3 << 20);
    frozen("rpc-snapshot-at-1", &Ok::<_, String>(at));
    let done = SnapshotReply::Done(SnapshotResponse::new(higher));
    frozen("rpc-snapshot-done-1", &Ok::<_, String>(done));
}

#[test]
fn entries_in_the_log_are_frozen() {
    for (name, entry) in ["blank", "command", "membership"]
        .into_iter()
        .zip(entries())
    {
        let name = format!("log-entry-{name}-1");
        let mut stored = to_log(&entry).unwrap();
        let then = vector(&name, &stored.payload);
        assert_eq!(hex(&stored.payload), hex(&then), "{name} is frozen");
        stored.payload = then.into();
        let read = from_log(stored).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entry:?}"), "{name}");
    }
}

#[test]
fn the_header_of_a_snapshot_is_frozen() {
    let mut machine = Machine::new(ClusterId::new(0xc1));
    let at = LogId { term: 3, index: 7 };
    machine.apply(at, crate::machine::Entry::Blank);
    let membership = StoredMembership::new(Some(id(3, 6)), membership());
    let now = header_of(&machine, &membership).unwrap();
    let then = vector("snapshot-header-1", &now);
    assert_eq!(hex(&now), hex(&then), "the header is frozen");
    let (head, members) = any_header_of(&then).unwrap();
    assert_eq!((head, members), (machine.head(), membership));
    assert_eq!(machine.version(), Version::new(7).unwrap());
}
