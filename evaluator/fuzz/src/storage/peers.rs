//! Messages of peers, to a node that runs.
//!
//! The first byte of an input is the kind of message, the second, when odd, lets length and crc be
//! made right first. The message is always made one for another cluster, because one that is for
//! this node is obeyed: the bodies are read, and then refused.
//!
//! What must hold: there is an answer, a refusal that says something.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use pennon_raft_store::codec::{self, HEADER_LEN};
use pennon_raft_store::command::ClusterId;
use pennon_raft_store::disk::{MemoryDisk, Space};
use pennon_raft_store::history::{HistoryOptions, MemoryHistory};
use pennon_raft_store::level::Features;
use pennon_raft_store::log::{Flushing, LogIdentity, LogOptions, SegmentLog};
use pennon_raft_store::raft::{
    Blocking, BoxFuture, CallError, Member, PeerTransport, Raft, RaftOptions, RaftParts, Rpc,
};
use pennon_raft_store::snapshot_file::SnapshotStore;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::commands::{commands, sealed};
use crate::targets::{DECODING, Memory, Seen};

const CLUSTER: u128 = 0xc1;
const NODE: u64 = 1;
/// Of messages, as peers write them.
const FORMAT: u8 = 1;

/// The node has its own work to do meanwhile.
const SERVING: Memory = Memory {
    fixed: 4 << 20,
    refused: 0,
    ..DECODING
};

/// Nobody can be reached.
struct Nobody;

impl PeerTransport for Nobody {
    fn call(
        &self,
        _: &Member,
        _: Rpc,
        _: Bytes,
        _: std::time::Duration,
    ) -> BoxFuture<Result<Bytes, CallError>> {
        Box::pin(async { Err(CallError::Unreachable("nobody".to_owned())) })
    }
}

fn node() -> (Runtime, Raft) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let disk = Arc::new(MemoryDisk::new());
    let options = LogOptions {
        flushing: Flushing::Inline,
        reserve_bytes: 0,
        segment_bytes: 8 << 10,
        ..LogOptions::default()
    };
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
    };
    let parts = RaftParts {
        node: NODE,
        cluster: ClusterId::new(CLUSTER),
        options: RaftOptions::default(),
        log: Arc::new(SegmentLog::open(disk.clone(), options, identity).unwrap()),
        snapshots: SnapshotStore::open(disk).unwrap(),
        space: Space::unbounded(),
        history: Arc::new(MemoryHistory::new(HistoryOptions::default())),
        transport: Arc::new(Nobody),
        blocking: Blocking::Inline,
        features: Features::THIS,
    };
    let raft = runtime.block_on(Raft::start(parts)).unwrap();
    (runtime, raft)
}

pub(crate) fn peer(input: &[u8], seen: &mut Seen) {
    thread_local! {
        static NODE: OnceCell<(Runtime, Raft)> = const { OnceCell::new() };
    }
    let Some(([kind, mend], bytes)) = input.split_first_chunk() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    let cluster = HEADER_LEN..HEADER_LEN + 16;
    if bytes.get(cluster.clone()) == Some(&CLUSTER.to_le_bytes()) {
        bytes[cluster.start] ^= 1;
    }
    if mend % 2 == 1 {
        sealed(&mut bytes);
    }
    NODE.with(|node| {
        let (runtime, raft) = node.get_or_init(self::node);
        let rpc = Rpc::ALL[usize::from(*kind) % Rpc::ALL.len()];
        let serve = || runtime.block_on(raft.serve(rpc, &bytes));
        let refusal = SERVING.bounds(bytes.len(), serve).unwrap_err();
        let read = refusal.starts_with("this is node ");
        seen.note(if read { "read" } else { "unreadable" });
    });
}

/// What an entry holds, in the shape that openraft gives it.
#[derive(Clone, Serialize)]
enum Payload {
    Blank,
    Normal(Bytes),
    /// The voters of each of its configurations, and where all members are.
    Membership((Vec<Vec<u64>>, Vec<(u64, Member)>)),
}

/// Messages in the shape that openraft gives them, as far as a tuple can show it. Each is read.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let envelope = (CLUSTER, 2_u64, NODE);
    let log_id = |index: u64| Some((2_u64, index));
    let member = |id: u64| (id, Member::default());
    let commands = commands();
    let blank = Payload::Blank;
    let members = Payload::Membership((vec![vec![1]], vec![member(1)]));
    // Two configurations at once, and a learner.
    let joint = vec![vec![1, 2], vec![2, 3]];
    let joint = Payload::Membership((joint, (1..=4).map(member).collect()));
    let normal: Vec<Payload> = commands.iter().cloned().map(Payload::Normal).collect();
    let all = [
        &[blank.clone(), members.clone(), joint.clone()],
        &normal[..],
    ]
    .concat();
    let mut messages = Vec::new();
    let mut add = |kind: u8, message: Result<Bytes, codec::Unreadable>| {
        messages.push([&[kind, 1][..], &message.unwrap()].concat());
    };
    for committed in [true, false] {
        let vote = ((3_u64, Some(2_u64)), committed);
        for entries in [
            vec![],
            vec![blank.clone()],
            vec![members.clone()],
            vec![joint.clone()],
            normal.clone(),
            all.clone(),
        ] {
            let entries: Vec<_> = (7_u64..)
                .map(log_id)
                .map(Option::unwrap)
                .zip(entries)
                .collect();
            let append = (vote, log_id(6), entries, log_id(5));
            add(0, codec::encode(FORMAT, &(envelope, append)));
        }
        let nothing: Option<(u64, u64)> = None;
        let first = (
            vote,
            nothing,
            [((2_u64, 1_u64), blank.clone())].to_vec(),
            nothing,
        );
        add(0, codec::encode(FORMAT, &(envelope, first)));
        for last in [log_id(7), None] {
            add(1, codec::encode(FORMAT, &(envelope, (vote, last, false))));
            add(
                2,
                codec::encode(FORMAT, &(envelope, (vote, last, committed))),
            );
            add(3, codec::encode(FORMAT, &(envelope, (vote, NODE, last))));
        }
        let chunk = (vote, 9_u64, 0_u64, &commands[0], committed);
        add(4, codec::encode(FORMAT, &(envelope, chunk)));
    }
    for message in &messages {
        let mut seen = Seen::default();
        peer(message, &mut seen);
        assert!(
            seen.0.contains_key("read"),
            "a seed of kind {} is not read",
            message[0]
        );
    }
    messages
}
