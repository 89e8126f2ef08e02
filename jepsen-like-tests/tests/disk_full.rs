//! N9 with real processes on real small file systems: a disk runs full and changes are refused before
//! anything is hurt; reads, evaluations and streams go on; no node ends; and when there is space again
//! there is nothing to restart. Needs root for the mounts; otherwise it says that it was skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Answer, Call};
use jepsen_like_tests::mounts::SmallDisk;
use jepsen_like_tests::workloads::registers::flag_config;
use jepsen_like_tests::{say, until};
use serde_json::json;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);
/// Room for two segments, the reserve, a snapshot and the history, and the mark.
const DISK_MIB: u64 = 96;
const MIN_FREE: &str = "24MiB";

/// A cluster with a small disk under each node, and what it acknowledged.
struct World {
    // In this order: the processes end before their disks go.
    cluster: Cluster,
    disks: Vec<SmallDisk>,
    _directory: TempDir,
    acknowledged: BTreeMap<String, u64>,
    names: u64,
}

impl World {
    /// `None` where nothing can be mounted.
    async fn start(size: usize) -> Option<World> {
        let directory = tempfile::Builder::new()
            .prefix("pennon-full-")
            .tempdir()
            .unwrap();
        let mut disks = Vec::new();
        for at in 1..=size {
            let path = directory.path().join(format!("n{at}"));
            disks.push(SmallDisk::mount(path, DISK_MIB).unwrap()?);
        }
        let options = Options {
            arguments: vec!["--min-free".into(), MIN_FREE.into()],
            data: Some(directory.path().to_owned()),
            ..Options::default()
        };
        let cluster = Cluster::start(size, options).await.unwrap();
        let mut world = World {
            cluster,
            disks,
            _directory: directory,
            acknowledged: BTreeMap::new(),
            names: 0,
        };
        let made = Call::put("/v1/environments/e", &json!({})).if_absent();
        assert!(world.ask(0, made).await.status.is_success());
        world.write(0).await;
        Some(world)
    }

    async fn ask(&self, at: usize, call: Call) -> Answer {
        call.to(self.cluster.address(at), WAIT).await.unwrap()
    }

    /// Writes a new flag through a node and notes what was acknowledged.
    async fn try_write(&mut self, at: usize) -> Answer {
        self.names += 1;
        let name = format!("f{}", self.names);
        let call = Call::put(format!("/v1/flags/{name}"), &flag_config("a"));
        let call = call.if_absent().request_id(&name);
        let answer = self.ask(at, call).await;
        if answer.status.is_success() {
            let version = answer.json()["version"].as_u64().unwrap();
            self.acknowledged.insert(name, version);
        }
        answer
    }

    async fn write(&mut self, at: usize) {
        let answer = self.try_write(at).await;
        assert!(answer.status.is_success(), "{}", answer.shown());
    }

    async fn refused(&mut self, at: usize) {
        let answer = self.try_write(at).await;
        assert_eq!(answer.slug(), "quota-exceeded", "{}", answer.shown());
        assert_eq!(answer.json()["quota"], "disk", "{}", answer.shown());
    }

    /// Waits until a node takes writes again.
    async fn writes_again(&mut self, at: usize) {
        let end = std::time::Instant::now() + WAIT;
        loop {
            let answer = self.try_write(at).await;
            if answer.status.is_success() {
                return;
            }
            assert!(std::time::Instant::now() < end, "{}", answer.shown());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything but changes goes on, and the node says what is wrong.
    async fn serves(&self, at: usize) {
        let read = self.ask(at, Call::get("/v1/flags/f1")).await;
        assert_eq!(read.status.as_u16(), 200, "{}", read.shown());
        let evaluate = Call::post(
            "/v1/environments/e/evaluate/f1",
            &json!({"subject_key": "s", "attributes": {}}),
        );
        let evaluated = self.ask(at, evaluate).await;
        assert_eq!(evaluated.status.as_u16(), 200, "{}", evaluated.shown());
        let ready = self.ask(at, Call::get("/readyz?for=stream")).await;
        assert_eq!(ready.status.as_u16(), 200, "{}", ready.shown());
    }

    /// The disk of a node fills up to its last byte.
    fn fill(&self, at: usize) -> PathBuf {
        self.disks[at].fill("filler", 0).unwrap()
    }

    fn ids(&mut self) -> Vec<u32> {
        let size = self.cluster.size();
        (0..size)
            .map(|at| {
                self.cluster
                    .process(at)
                    .id()
                    .unwrap_or_else(|| panic!("n{} ended{}", at + 1, self.cluster.outputs()))
            })
            .collect()
    }

    /// I9: all that was acknowledged is there, on every node.
    async fn holds_all(&mut self) {
        self.cluster.converged(WAIT).await.unwrap();
        for at in 0..self.cluster.size() {
            for (name, version) in &self.acknowledged {
                let read = self.ask(at, Call::get(format!("/v1/flags/{name}"))).await;
                let found = read.json()["version"].as_u64();
                assert_eq!(found, Some(*version), "{name}: {}", read.shown());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_meets_a_full_disk_unhurt() {
    let Some(mut world) = World::start(1).await else {
        return;
    };
    let ids = world.ids();
    let filler = world.fill(0);
    world.refused(0).await;
    world.serves(0).await;
    let history = world.ask(0, Call::get("/v1/flags/f1/history")).await;
    assert_eq!(history.status.as_u16(), 200, "{}", history.shown());
    let warned = world.ask(0, Call::get("/readyz")).await;
    let warning = warned.json()["warning"].to_string();
    assert!(warning.contains("disk space"), "{}", warned.shown());
    let red = world.ask(0, Call::get("/readyz?for=write")).await;
    assert_eq!(red.slug(), "not-ready", "{}", red.shown());
    let verdict = world.ask(0, Call::get("/v1/cluster")).await.json()["verdict"].to_string();
    assert!(verdict.contains("nearly full"), "{verdict}");
    // What was decided before is still answered, as it was.
    let again = Call::put("/v1/flags/f1", &flag_config("a"));
    let again = world.ask(0, again.if_absent().request_id("f1")).await;
    assert_eq!(
        again.json()["version"].as_u64(),
        Some(world.acknowledged["f1"]),
        "{}",
        again.shown()
    );

    std::fs::remove_file(&filler).unwrap();
    world.writes_again(0).await;
    assert_eq!(world.ids(), ids, "nothing was restarted");

    // A power cut, or a crash, on a full disk: the node starts, and serves.
    let filler = world.fill(0);
    world.cluster.kill(0).unwrap();
    world.cluster.restart(0).await.unwrap();
    world.refused(0).await;
    world.serves(0).await;
    world.holds_all().await;
    std::fs::remove_file(&filler).unwrap();
    world.writes_again(0).await;
    world.holds_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_go_on_as_long_as_a_majority_has_space() {
    let Some(mut world) = World::start(3).await else {
        return;
    };
    let ids = world.ids();
    let leader = world.cluster.leader(WAIT).await.unwrap();
    let [one, other] = [(leader + 1) % 3, (leader + 2) % 3];
    let term = world.cluster.said().await.unwrap()[leader].term;

    // A follower: the others go on, under the same leader.
    let mut fillers = BTreeMap::from([(one, world.fill(one))]);
    for at in [leader, one, other, leader, one, other] {
        world.write(at).await;
    }
    assert_eq!(world.cluster.said().await.unwrap()[leader].term, term);

    // It keeps its vote: with the third one gone, there is a leader; but nothing more is taken.
    world.cluster.kill(other).unwrap();
    until("changes are refused", WAIT, async || {
        let ready = Call::get("/readyz?for=write");
        let ready = ready.to(world.cluster.address(leader), WAIT).await;
        let answer = ready.map_err(|why| why.to_string())?;
        match answer.slug().as_str() {
            "not-ready" => Ok(()),
            _ => Err(answer.shown()),
        }
    })
    .await
    .unwrap();
    world.refused(leader).await;
    world.serves(leader).await;
    world.cluster.restart(other).await.unwrap();
    world.writes_again(one).await;
    let ids = BTreeMap::from([(leader, ids[leader]), (one, ids[one])]);

    // The leader: it hands over, and writes go on.
    let leader = world.cluster.leader(WAIT).await.unwrap();
    std::fs::remove_file(&fillers[&one]).unwrap();
    fillers.clear();
    world.cluster.converged(WAIT).await.unwrap();
    until("all have space", WAIT, async || {
        let verdict = Call::get("/v1/cluster")
            .to(world.cluster.address(0), WAIT)
            .await;
        let verdict = verdict.map_err(|why| why.to_string())?.json()["verdict"].to_string();
        verdict.contains("healthy").then_some(()).ok_or(verdict)
    })
    .await
    .unwrap();
    fillers.insert(leader, world.fill(leader));
    // What it heard of the other may be a second old.
    world.writes_again(leader).await;
    for at in [leader, one, other, leader] {
        world.write(at).await;
    }
    let next = world.cluster.leader(WAIT).await.unwrap();
    assert_ne!(next, leader, "{}", world.cluster.outputs());

    // All of them: refused everywhere, and everything else goes on.
    for at in (0..3).filter(|at| *at != leader) {
        fillers.insert(at, world.fill(at));
    }
    for at in 0..3 {
        world.refused(at).await;
        world.serves(at).await;
    }
    for filler in fillers.values() {
        std::fs::remove_file(filler).unwrap();
    }
    for at in 0..3 {
        world.writes_again(at).await;
    }
    world.holds_all().await;
    let now = world.ids();
    assert!(
        ids.iter().all(|(at, id)| now[*at] == *id),
        "nothing was restarted"
    );
    say(format!(
        "{} writes acknowledged around full disks",
        world.acknowledged.len()
    ));
}
