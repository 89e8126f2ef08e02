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
use pennon_raft_store::disk::MemoryDisk;
use pennon_raft_store::history::{HistoryOptions, MemoryHistory};
use pennon_raft_store::log::{Flushing, LogIdentity, LogOptions, SegmentLog};
use pennon_raft_store::raft::{
    Blocking, BoxFuture, CallError, Member, PeerTransport, Raft, RaftOptions, RaftParts, Rpc,
};
use pennon_raft_store::snapshot_file::SnapshotStore;
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
        history: Arc::new(MemoryHistory::new(HistoryOptions::default())),
        transport: Arc::new(Nobody),
        blocking: Blocking::Inline,
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

/// Messages in the shape that openraft gives them, as far as a tuple can show it.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let envelope = (CLUSTER, 2_u64, NODE);
    let vote = ((3_u64, Some(2_u64)), true);
    let log_id = (2_u64, 7_u64);
    let entries: Vec<((u64, u64), u32, Bytes)> = commands()
        .into_iter()
        .map(|command| (log_id, 1, command))
        .collect();
    let blank = (1_u64, log_id, 0_u32);
    let member = (1_u64, Member::default());
    let members = (1_u64, log_id, 2_u32, vec![vec![1_u64]], vec![member]);
    let wrapped = |kind: u8, message: Bytes| [&[kind, 1][..], &message].concat();
    let append = (envelope, (vote, Some(log_id), &entries, Some(log_id)));
    let heartbeat = (envelope, (vote, Some(log_id), 0_u64, Some(log_id)));
    let blank = (envelope, (vote, Some(log_id), blank, Some(log_id)));
    let members = (envelope, (vote, Some(log_id), members, Some(log_id)));
    let ask = (envelope, (vote, Some(log_id), true));
    let transfer = (envelope, (vote, 1_u64, Some(log_id)));
    let chunk = (envelope, (vote, 9_u64, 0_u64, &commands()[0], true));
    vec![
        wrapped(0, codec::encode(FORMAT, &append).unwrap()),
        wrapped(0, codec::encode(FORMAT, &heartbeat).unwrap()),
        wrapped(0, codec::encode(FORMAT, &blank).unwrap()),
        wrapped(0, codec::encode(FORMAT, &members).unwrap()),
        wrapped(1, codec::encode(FORMAT, &ask).unwrap()),
        wrapped(2, codec::encode(FORMAT, &ask).unwrap()),
        wrapped(3, codec::encode(FORMAT, &transfer).unwrap()),
        wrapped(4, codec::encode(FORMAT, &chunk).unwrap()),
    ]
}
