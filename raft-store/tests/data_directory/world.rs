//! Whole Rafts over disks in memory, in one thread and paused time: what they acknowledge is noted with the
//! moment, so that a later image of the disk can be held to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pennon_raft_store::codec;
use pennon_raft_store::command::{Batch, ClusterId, Command, Expected, ObjectId, Origin, Outcome};
use pennon_raft_store::directory;
use pennon_raft_store::disk::{Disk, MemoryDisk, Space};
use pennon_raft_store::history::{History, HistoryOptions, MemoryHistory};
use pennon_raft_store::level::Features;
use pennon_raft_store::log::{Flushing, LogOptions};
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};
use pennon_raft_store::raft::{
    Blocking, BoxFuture, CallError, Member, PeerTransport, Raft, RaftOptions, RaftParts, Role, Rpc,
};
use pennon_raft_store::snapshot_file::SnapshotStore;

pub(crate) const CLUSTER: u128 = 0xc1;
/// In simulated time.
const WITHIN: Duration = Duration::from_secs(30);

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) object: ObjectId,
    pub(crate) version: u64,
    /// Operations on each disk when it was.
    pub(crate) operations: BTreeMap<u64, usize>,
}

/// Nodes that reach each other at once.
#[derive(Clone, Default)]
pub(crate) struct Network {
    /// Entries kept behind a snapshot, when not as few as usual here.
    pub(crate) keep: Option<u64>,
    pub(crate) nodes: Arc<Mutex<BTreeMap<String, Raft>>>,
}

impl PeerTransport for Network {
    fn call(
        &self,
        to: &Member,
        rpc: Rpc,
        body: Bytes,
        _: Duration,
    ) -> BoxFuture<Result<Bytes, CallError>> {
        let found = self.lock().get(&to.peer).cloned();
        Box::pin(async move {
            let node = found.ok_or_else(|| CallError::Unreachable("it is down".into()))?;
            node.serve(rpc, &body).await.map_err(CallError::Refused)
        })
    }
}

impl Network {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Raft>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, node: u64, raft: &Raft) {
        self.lock().insert(member(node).peer, raft.clone());
    }
}

pub(crate) fn member(node: u64) -> Member {
    Member {
        name: format!("n{node}"),
        api: format!("n{node}:1"),
        peer: format!("n{node}:2"),
    }
}

/// Small figures, so that a few writes are enough for snapshots, purges and new segments.
fn raft_options(keep: u64) -> RaftOptions {
    RaftOptions {
        snapshot_every: 8,
        keep_behind_snapshot: keep,
        ..RaftOptions::default()
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        flushing: Flushing::Inline,
        segment_bytes: 8 << 10,
        reserve_bytes: 4 << 10,
        ..LogOptions::default()
    }
}

/// Opens a data directory as a node does and starts its Raft. `Err` is what a node says when it stops.
pub(crate) async fn open(
    disk: &MemoryDisk,
    cluster: u128,
    node: u64,
    network: &Network,
) -> Result<Raft, String> {
    // As if `state/` had been deleted: it is filled from the rest.
    let history = Arc::new(MemoryHistory::new(HistoryOptions::default()));
    open_with(disk, cluster, node, network, history).await
}

/// The same with a history of the caller's.
pub(crate) async fn open_with(
    disk: &MemoryDisk,
    cluster: u128,
    node: u64,
    network: &Network,
    history: Arc<dyn History>,
) -> Result<Raft, String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let name = member(node).name;
    let mut identity = directory::identify(&*shared, &name, node).map_err(|e| e.to_string())?;
    if identity.cluster.is_none() {
        identity.cluster = Some(cluster);
        identity.save(&*shared).map_err(|e| e.to_string())?;
    }
    let space = Space::new(shared.clone(), 0);
    let (log, snapshots): (_, SnapshotStore) =
        directory::open(&shared, &mut identity, log_options(), space.clone())
            .map_err(|e| e.to_string())?;
    let parts = RaftParts {
        node: identity.node,
        cluster: ClusterId::new(cluster),
        options: raft_options(network.keep.unwrap_or(3)),
        log: Arc::new(log),
        snapshots,
        history,
        transport: Arc::new(network.clone()),
        blocking: Blocking::Inline,
        space,
        features: Features::THIS,
    };
    let raft = Raft::start(parts).await.map_err(|e| e.to_string())?;
    network.add(node, &raft);
    Ok(raft)
}

/// Waits until a node leads and its machine holds everything committed; false when it does not.
pub(crate) async fn leads(raft: &Raft) -> bool {
    let mut statuses = raft.statuses();
    let leading = statuses.wait_for(|status| status.role == Role::Leader);
    if !matches!(tokio::time::timeout(WITHIN, leading).await, Ok(Ok(_))) {
        return false;
    }
    let Ok(Ok(index)) = tokio::time::timeout(WITHIN, raft.read_index()).await else {
        return false;
    };
    matches!(
        tokio::time::timeout(WITHIN, raft.applied(index.index)).await,
        Ok(Ok(_))
    )
}

/// Writes an object through a leader; the version it got.
pub(crate) async fn write(raft: &Raft, object: &ObjectId, json: &str) -> Result<u64, String> {
    let mut draft = Draft::on(&raft.view());
    let request = ChangeRequest {
        writes: vec![AskedWrite {
            object: object.clone(),
            ask: Ask::Put(json.into()),
            expected: Expected::Any,
        }],
        origin: Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        },
        onto: None,
    };
    let Planned::Batched(item, _) = draft.plan(&request) else {
        return Err("refused".into());
    };
    let batch = Batch {
        base: draft.base(),
        time_ms: 1000,
        items: vec![item],
    };
    let command = codec::encode(COMMAND_FORMAT, &Command::Batch(batch)).unwrap();
    let done = tokio::time::timeout(WITHIN, raft.propose(command)).await;
    let done = done
        .map_err(|_| "no answer".to_owned())?
        .map_err(|e| e.to_string())?;
    match done.answer {
        Answer::Outcomes(outcomes) if matches!(outcomes[..], [Outcome::Written { .. }]) => {
            Ok(done.version.get())
        }
        other => Err(format!("{other:?}")),
    }
}

pub(crate) fn flag(n: usize) -> ObjectId {
    ObjectId::flag(format!("flag-{n}"))
}

/// A flag that takes some space.
pub(crate) fn flag_json(n: usize) -> String {
    let description = "d".repeat(80 + 37 * (n % 7));
    format!(
        r#"{{"description":"{description}","type":"boolean","variants":{{"on":true,"off":false}},"off_variant":"off"}}"#
    )
}

/// The first thing that was acknowledged and is not there, in the machine or in the history.
pub(crate) fn lost<'a>(
    raft: &Raft,
    acknowledged: impl IntoIterator<Item = &'a Acknowledged>,
) -> Option<String> {
    let view = raft.view();
    // A later write of the same object replaces it.
    let mut newest = BTreeMap::new();
    for one in acknowledged {
        newest.insert(&one.object, one.version);
        let history = raft.changes().of(&one.object, None, 100);
        let lines = history.unwrap();
        if !lines.iter().any(|line| line.version.get() == one.version) {
            return Some(format!("{} at {}: no history", one.object, one.version));
        }
    }
    newest.into_iter().find_map(|(object, version)| {
        let found = view.object(object).map(|found| found.version.get());
        (found < Some(version)).then(|| format!("{object} at {version}: {found:?}"))
    })
}

/// Says whether a node that cannot lead alone has an entry: in its machine, or in its log. Versions are
/// log indexes here, as in every new cluster.
pub(crate) async fn holds(raft: &Raft, last: &Acknowledged) -> Result<(), String> {
    let mut statuses = raft.statuses();
    let has = |index: Option<u64>| index.is_some_and(|index| index >= last.version);
    // The first status comes before what was found on disk.
    let held = statuses.wait_for(|status| has(status.last_log));
    match tokio::time::timeout(WITHIN, held).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(format!("lost: {last:?}; {:?}", raft.status())), // I9
    }
}

/// A cluster of one, on a disk of its own.
pub(crate) async fn single(
    disk: &MemoryDisk,
    cluster: u128,
    node: u64,
    writes: usize,
    network: &Network,
) -> (Raft, Vec<Acknowledged>) {
    let raft = open(disk, cluster, node, network).await.unwrap();
    let acknowledged = begin(&raft, disk, node, writes).await;
    (raft, acknowledged)
}

/// Makes a node that was opened a cluster of one, and writes.
pub(crate) async fn begin(
    raft: &Raft,
    disk: &MemoryDisk,
    node: u64,
    writes: usize,
) -> Vec<Acknowledged> {
    let members = BTreeMap::from([(node, member(node))]);
    raft.initialize(members).await.unwrap();
    assert!(leads(raft).await);
    let mut acknowledged = Vec::new();
    for n in 0..writes {
        let object = flag(n % 20);
        let version = write(raft, &object, &flag_json(n)).await.unwrap();
        acknowledged.push(Acknowledged {
            object,
            version,
            operations: BTreeMap::from([(node, disk.journal_len())]),
        });
    }
    acknowledged
}

/// A runtime whose time is simulated.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}
