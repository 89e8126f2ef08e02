//! Makes the frozen data directories of `tests/fixtures`, without `state/`, as a node of this release
//! leaves them behind.
//!
//! `cargo run -p pennon-raft-store --example make_fixtures -- NEW-DIRECTORY`
//!
//! What is in `tests/fixtures` stays as it is: later releases have to read it. This is run again only
//! when a release writes something that no fixture holds; what it makes is then added under another
//! name, with what the test says of it after somebody has read that.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pennon_evaluator::EnvironmentKey;
use pennon_raft_store::codec;
use pennon_raft_store::command::{
    Batch, ClusterId, Command, Expected, ObjectId, Origin, Outcome, Refusal, RequestId,
};
use pennon_raft_store::directory;
use pennon_raft_store::disk::{Disk, RealDisk, Space};
use pennon_raft_store::history::{HistoryOptions, MemoryHistory};
use pennon_raft_store::level::Features;
use pennon_raft_store::log::{Flushing, LogOptions};
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};
use pennon_raft_store::raft::{
    Blocking, BoxFuture, CallError, Member, PeerTransport, Raft, RaftOptions, RaftParts, Role, Rpc,
};

const CLUSTER: u128 = 0xc1;
const NODE: u64 = 1;
/// Entries between two snapshots: few enough for a log that is purged, or too many.
const OFTEN: u64 = 8;
const NEVER: u64 = 1_000;
const TIME_MS: u64 = 1_700_000_000_000;
const FLAG: &str = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off","tags":["checkout"]}"#;
const POLICY: &str = r#"{"enabled":true,"default":{"variant":"off"},"rules":[
    {"id":"beta","when":[{"op":"in_segment","values":["testers"]}],"serve":{"variant":"on"}},
    {"id":"test","when":[{"attribute":"country","op":"in","values":["fr","it"]}],"serve":{"rollout":{
        "weights":[{"variant":"on","weight":1},{"variant":"off","weight":3}],
        "experiment":{"key":"blue","layer":{"key":"buttons","range":[0,5000]}}}}}]}"#;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let to = std::env::args().nth(1).ok_or("name a new directory")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let to = Path::new(&to);
        log_only(&to.join("log")).await?;
        with_snapshots(&to.join("snapshots")).await?;
        raised(&to.join("newer-log"), false).await?;
        raised(&to.join("newer-snapshot"), true).await
    })
}

/// Everything that a write can be, and nothing but the log.
async fn log_only(to: &Path) -> Result<()> {
    let raft = start(to, NEVER, Features::THIS).await?;
    everything(&raft).await?;
    raft.shutdown().await;
    Ok(())
}

/// Two snapshots, a log that was purged, a member that moved, entries after the last snapshot.
async fn with_snapshots(to: &Path) -> Result<()> {
    let raft = start(to, OFTEN, Features::THIS).await?;
    everything(&raft).await?;
    snapshot(&raft).await?;
    let moved = Member {
        api: "moved:1".into(),
        ..member()
    };
    raft.set_member(&raft.turn().await, NODE, moved).await?;
    for n in 0..6 {
        write(
            &raft,
            vec![put(ObjectId::flag(format!("more-{n}")), FLAG)],
            None,
        )
        .await?;
    }
    snapshot(&raft).await?;
    write(
        &raft,
        vec![ask(ObjectId::flag("more-0"), Ask::Delete)],
        None,
    )
    .await?;
    raft.shutdown().await;
    Ok(())
}

/// What a later release leaves behind, when its cluster has gone one level further.
async fn raised(to: &Path, in_snapshot: bool) -> Result<()> {
    let raft = start(to, NEVER, Features::simulated(2, &[])).await?;
    write(&raft, vec![put(ObjectId::flag("f"), FLAG)], None).await?;
    let raise = codec::encode(COMMAND_FORMAT, &Command::Raise(2))?;
    raft.propose(raise).await?;
    if in_snapshot {
        snapshot(&raft).await?;
    }
    write(&raft, vec![put(ObjectId::flag("g"), FLAG)], None).await?;
    raft.shutdown().await;
    Ok(())
}

async fn everything(raft: &Raft) -> Result<()> {
    let e: EnvironmentKey = "production".parse()?;
    let first = vec![
        put(
            ObjectId::environment_object("production"),
            r#"{"name":"Production"}"#,
        ),
        put(ObjectId::flag("checkout"), FLAG),
        put(
            ObjectId::segment(e.clone(), "testers"),
            r#"{"included":["ana","bob"]}"#,
        ),
        put(ObjectId::policy(e.clone(), "checkout"), POLICY),
    ];
    write(raft, first, Some("first")).await?;
    let limits = put(ObjectId::setting("limits"), r#"{"flags":200000}"#);
    write(raft, vec![limits], None).await?;
    let shop = put(ObjectId::application("shop"), r#"{"tags":["checkout"]}"#);
    write(raft, vec![shop], None).await?;
    let off = ask(ObjectId::policy(e.clone(), "checkout"), Ask::Enable(false));
    write(raft, vec![off], Some("switched off")).await?;
    // Refused, and remembered.
    let gone = ask(ObjectId::flag("gone"), Ask::Delete);
    write(raft, vec![gone], Some("not there")).await?;
    write(raft, vec![put(ObjectId::flag("short-lived"), FLAG)], None).await?;
    write(
        raft,
        vec![ask(ObjectId::flag("short-lived"), Ask::Delete)],
        None,
    )
    .await?;
    // What no release can read, and every release answers alike.
    raft.propose(Bytes::from_static(b"\x09no command")).await?;
    Ok(())
}

async fn write(raft: &Raft, writes: Vec<AskedWrite>, key: Option<&str>) -> Result<()> {
    let mut draft = Draft::on(&raft.view());
    let request = ChangeRequest {
        writes,
        onto: None,
        origin: Origin {
            actor: "ana".into(),
            request: key.map(|key| RequestId {
                key: key.into(),
                fingerprint: 5,
            }),
            reason: key.map(Into::into),
        },
    };
    let Planned::Batched(item, _) = draft.plan(&request) else {
        return Err("it does not come to an entry".into());
    };
    let batch = Command::Batch(Batch {
        base: draft.base(),
        time_ms: TIME_MS,
        items: vec![item],
    });
    let done = raft.propose(codec::encode(COMMAND_FORMAT, &batch)?).await?;
    match done.answer {
        Answer::Outcomes(outcomes) if wanted(&outcomes) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// Nothing is refused but what is meant to be.
fn wanted(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| match outcome {
        Outcome::Written { .. } => true,
        Outcome::Refused { refusal, .. } => matches!(refusal, Refusal::NotFound { .. }),
    })
}

async fn snapshot(raft: &Raft) -> Result<()> {
    raft.take_snapshot().await?;
    let last = raft.status().last_log;
    let mut statuses = raft.statuses();
    let taken = statuses.wait_for(|status| status.snapshot >= last);
    tokio::time::timeout(Duration::from_secs(60), taken).await??;
    Ok(())
}

fn put(object: ObjectId, json: &str) -> AskedWrite {
    ask(object, Ask::Put(json.into()))
}

fn ask(object: ObjectId, ask: Ask) -> AskedWrite {
    AskedWrite {
        object,
        ask,
        expected: Expected::Any,
    }
}

fn member() -> Member {
    Member {
        name: "n1".into(),
        api: "n1:1".into(),
        peer: "n1:2".into(),
    }
}

/// A node of a cluster of its own, which leads.
async fn start(to: &Path, snapshot_every: u64, features: Features) -> Result<Raft> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(to)?);
    let mut identity = directory::identify(&*disk, "n1", NODE)?;
    identity.cluster = Some(CLUSTER);
    identity.save(&*disk)?;
    let space = Space::new(disk.clone(), 0);
    let options = LogOptions {
        flushing: Flushing::Inline,
        segment_bytes: 8 << 10,
        reserve_bytes: 0,
        ..LogOptions::default()
    };
    let (log, snapshots) = directory::open(&disk, &mut identity, options, space.clone())?;
    let parts = RaftParts {
        node: NODE,
        cluster: ClusterId::new(CLUSTER),
        options: RaftOptions {
            snapshot_every,
            keep_behind_snapshot: 3,
            ..RaftOptions::default()
        },
        log: Arc::new(log),
        snapshots,
        history: Arc::new(MemoryHistory::new(HistoryOptions::default())),
        transport: Arc::new(Nobody),
        blocking: Blocking::Inline,
        space,
        features,
    };
    let raft = Raft::start(parts).await?;
    raft.initialize(BTreeMap::from([(NODE, member())])).await?;
    let mut statuses = raft.statuses();
    statuses
        .wait_for(|status| status.role == Role::Leader)
        .await?;
    let index = raft.read_index().await?;
    raft.applied(index.index).await?;
    Ok(raft)
}

/// There is no other node.
struct Nobody;

impl PeerTransport for Nobody {
    fn call(
        &self,
        _: &Member,
        _: Rpc,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<std::result::Result<Bytes, CallError>> {
        Box::pin(async { Err(CallError::Unreachable("nobody is there".into())) })
    }
}
