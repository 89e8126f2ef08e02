//! Data directories as earlier releases left them behind, in `fixtures/`: each is opened as a node
//! opens it, and what is in it is held against the text beside it, which somebody has read.
//!
//! A directory and its text never change. `examples/make_fixtures.rs` made them, without `state/`, which
//! is rebuilt. Where a text is missing, the test says what it would be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pennon_raft_store::backup::Backup;
use pennon_raft_store::codec;
use pennon_raft_store::command::{ClusterId, Command, Item, Verdict};
use pennon_raft_store::directory;
use pennon_raft_store::disk::{Disk, RealDisk, Space};
use pennon_raft_store::history::{HistoryOptions, MemoryHistory};
use pennon_raft_store::level::Features;
use pennon_raft_store::log::{Flushing, LogOptions, LogStore, SegmentLog};
use pennon_raft_store::machine::{COMMAND_FORMAT, Machine};
use pennon_raft_store::raft::{
    Blocking, BoxFuture, CallError, Member, PeerTransport, Raft, RaftOptions, RaftParts, Role, Rpc,
};
use pennon_raft_store::snapshot_file::SnapshotStore;

const WITHIN: Duration = Duration::from_secs(30);

/// A copy of a fixture, which may be written to.
struct Fixture {
    name: &'static str,
    copy: tempfile::TempDir,
}

impl Fixture {
    fn open(name: &'static str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&fixtures().join(name), copy.path());
        Self { name, copy }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::new(self.copy.path()).unwrap())
    }

    fn parts(&self, features: Features) -> (Arc<SegmentLog>, SnapshotStore, RaftParts) {
        let disk = self.disk();
        // It is taken for what it is: no new identity.
        let mut identity = directory::identify(&*disk, "n1", 99).unwrap();
        let space = Space::new(disk.clone(), 0);
        let options = LogOptions {
            flushing: Flushing::Inline,
            reserve_bytes: 0,
            ..LogOptions::default()
        };
        let opened = directory::open(&disk, &mut identity, options, space.clone());
        let (log, snapshots) = opened.unwrap();
        let log = Arc::new(log);
        let parts = RaftParts {
            node: identity.node,
            cluster: ClusterId::new(identity.cluster.unwrap()),
            options: RaftOptions::default(),
            log: log.clone(),
            snapshots: snapshots.clone(),
            history: Arc::new(MemoryHistory::new(HistoryOptions::default())),
            transport: Arc::new(Nobody),
            blocking: Blocking::Inline,
            space,
            features,
        };
        (log, snapshots, parts)
    }

    /// What is in it, as text.
    async fn describe(&self) -> String {
        let mut out = String::new();
        let disk = self.disk();
        let identity = directory::identify(&*disk, "n1", 99).unwrap();
        let cluster = ClusterId::new(identity.cluster.unwrap());
        let (node, name, format) = (identity.node, &identity.name, identity.log_format);
        let begun = identity.log_begun;
        say(
            &mut out,
            format!("node {node} {name} of {cluster}, log format {format}, begun {begun}"),
        );
        let (log, snapshots, parts) = self.parts(Features::THIS);
        let state = log.state();
        let (vote, purged, last) = (state.vote.unwrap(), state.purged, state.last.unwrap());
        let (term, to, sure) = (vote.term, vote.voted_for, vote.committed);
        say(
            &mut out,
            format!("vote in {term} for {to:?}, committed {sure}; purged {purged:?}"),
        );
        let from = purged.map_or(0, |id| id.index + 1);
        for entry in log.read(from, last.index + 1, usize::MAX).unwrap() {
            say(
                &mut out,
                format!("entry {}: {}", entry.id, entry_text(&entry.payload)),
            );
        }
        for version in snapshots.list().unwrap() {
            let path = format!("snapshots/{version:020}.snap");
            let backup = Backup::open(&*disk, &path).unwrap();
            let lines = backup.history_len().unwrap();
            say(
                &mut out,
                format!("snapshot {version}: {lines} lines of history"),
            );
            machine_text(backup.machine(), &mut out);
        }
        let raft = Raft::start(parts).await.unwrap();
        leads(&raft).await;
        say(&mut out, "started".into());
        let view = raft.view();
        machine_text(&view, &mut out);
        for (id, _) in view.all_objects() {
            let history = raft.changes().of(id, None, 100).unwrap();
            let versions = history.iter().map(|change| change.version.get());
            say(
                &mut out,
                format!("  history of {id}: {:?}", versions.collect::<Vec<_>>()),
            );
        }
        let members = raft.status().members;
        say(
            &mut out,
            format!(
                "members {:?}",
                members.iter().map(|one| &one.member).collect::<Vec<_>>()
            ),
        );
        raft.shutdown().await;
        out
    }

    async fn is_as_described(&self) {
        let path = fixtures().join(format!("{}.txt", self.name));
        let found = self.describe().await;
        let said = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(found, said, "in {}:\n{found}", self.name);
    }

    /// Starts it; what a node says when it stops.
    async fn stops(&self, features: Features) -> Option<String> {
        let (_, _, parts) = self.parts(features);
        let raft = match Raft::start(parts).await {
            Ok(raft) => raft,
            Err(why) => return Some(why.to_string()),
        };
        let stopped = tokio::time::timeout(WITHIN, raft.stopped()).await.ok();
        raft.shutdown().await;
        stopped
    }
}

fn say(out: &mut String, line: String) {
    writeln!(out, "{line}").unwrap();
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn entry_text(payload: &[u8]) -> String {
    let Some((kind, body)) = payload.split_first() else {
        return "empty".into();
    };
    match kind {
        0 => "blank".into(),
        1 => match codec::decode(COMMAND_FORMAT, body) {
            Ok(Command::Raise(level)) => format!("raise {level}"),
            Ok(Command::Batch(batch)) => {
                let items: Vec<String> = batch.items.iter().map(item_text).collect();
                let (base, time, items) = (batch.base, batch.time_ms, items.join("; "));
                format!("batch on {base} at {time}: {items}")
            }
            Err(why) => format!("command, {why}"),
        },
        2 => format!("membership, {} bytes", body.len()),
        other => format!("of kind {other}"),
    }
}

fn item_text(item: &Item) -> String {
    let origin = &item.origin;
    let request = origin.request.as_ref();
    let request = request.map(|id| format!(" as {:?}/{}", id.key, id.fingerprint));
    let decided = match &item.verdict {
        Verdict::Refuse(refusal) => format!("refuse {refusal:?}"),
        Verdict::Commit {
            writes,
            compiled,
            unchanged,
        } => {
            let writes = writes.iter().map(|write| {
                let (object, expected) = (&write.object, write.expected);
                match &write.value {
                    Some(value) => format!("put {object} ({expected:?}) {value}"),
                    None => format!("delete {object} ({expected:?})"),
                }
            });
            let compiled = compiled.iter().map(|change| {
                let uses: Vec<String> = change.uses.iter().map(ToString::to_string).collect();
                let bytes = change.state.as_ref().map(Bytes::len);
                format!("compiled {} {bytes:?} uses {uses:?}", change.key)
            });
            let parts: Vec<String> = writes.chain(compiled).collect();
            format!("{}, {} unchanged", parts.join(", "), unchanged.len())
        }
    };
    let (actor, reason) = (&origin.actor, &origin.reason);
    format!(
        "{actor}{} because {reason:?}: {decided}",
        request.unwrap_or_default()
    )
}

fn machine_text(machine: &Machine, out: &mut String) {
    let (digest, level, time) = (machine.digest(), machine.level(), machine.time_ms());
    say(
        out,
        format!("  digest {digest}, level {level}, time {time}"),
    );
    for (id, object) in machine.all_objects() {
        let (version, by, ms) = (object.version, &object.updated_by, object.updated_ms);
        say(
            out,
            format!("  {id} at {version} by {by} in {ms}: {}", object.value),
        );
    }
    for environment in machine.environments() {
        let here = machine.compiled(environment).unwrap();
        for (key, state) in here.states() {
            // It can be evaluated, not only stored.
            let changed_at = state.encoded.decode().unwrap().changed_at();
            let hash = state.encoded.hash();
            say(
                out,
                format!("  state {key} in {environment} at {changed_at}: {hash:032x}"),
            );
        }
    }
    for seen in machine.window().iter() {
        let (key, outcome) = (&seen.request.key, &seen.outcome);
        say(
            out,
            format!("  request {key:?} in {}: {outcome:?}", seen.time_ms),
        );
    }
}

async fn leads(raft: &Raft) {
    let mut statuses = raft.statuses();
    let leads = statuses.wait_for(|status| status.role == Role::Leader);
    tokio::time::timeout(WITHIN, leads).await.unwrap().unwrap();
    let index = raft.read_index().await.unwrap();
    let applied = tokio::time::timeout(WITHIN, raft.applied(index.index)).await;
    applied.unwrap().unwrap();
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
    ) -> BoxFuture<Result<Bytes, CallError>> {
        Box::pin(async { Err(CallError::Unreachable("nobody is there".into())) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_without_a_snapshot_is_read() {
    Fixture::open("level-1-log").is_as_described().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_and_a_purged_log_are_read() {
    Fixture::open("level-1-snapshots").is_as_described().await;
}

/// What a release of level 2 left behind, as far as there can be one now: this one does not go on with
/// it, says what to do, and leaves it as it is for the one that can.
#[tokio::test(start_paused = true)]
async fn the_directory_of_a_later_release_is_left_to_it() {
    for name in ["level-2-log", "level-2-snapshot"] {
        let fixture = Fixture::open(name);
        for start in 0..2 {
            let why = fixture.stops(Features::simulated(1, &[])).await;
            let why = why.unwrap_or_else(|| panic!("{name}, start {start}: it goes on"));
            assert!(
                why.contains("feature level 2") && why.contains("the other members run"),
                "{name}, start {start}: {why}"
            );
        }
        let (_, _, parts) = fixture.parts(Features::simulated(2, &[]));
        let raft = Raft::start(parts).await.unwrap();
        leads(&raft).await;
        assert_eq!(
            (raft.view().level(), raft.view().all_objects().count()),
            (2, 2)
        );
        raft.shutdown().await;
    }
}
