//! Three whole nodes and a client in one process: connections in memory, storage in memory, time
//! that is paused and moves only when everybody waits (D10). The same code as in production runs;
//! only what is handed in differs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

mod away;
mod clocks;
mod ended;
mod full_disk;
mod history;
mod learners;
mod links;
mod members;
mod receipts;
mod recover;
mod releases;
mod stalled;
mod succession;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pennon_evaluator::{EnvironmentKey, Version};
use pennon_node::clock::TokioClock;
use pennon_node::core::Core;
use pennon_node::net::MemoryNetwork;
use pennon_node::server::{Node, NodeOptions, Storage, Surroundings};
use pennon_raft_store::command::{Expected, ObjectId, Origin, Outcome, Refusal, RequestId};
use pennon_raft_store::disk::MemoryDisk;
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest};
use pennon_raft_store::raft::{RaftOptions, Role};

const WITHIN: Duration = Duration::from_secs(20);

struct Cluster {
    network: MemoryNetwork,
    disks: Vec<MemoryDisk>,
    nodes: Vec<Option<Node>>,
    raft: RaftOptions,
    starts: u64,
    /// By how many hours the time of day of each node is off.
    hours: [Arc<AtomicI64>; 5],
}

/// tokio's clock, with a time of day that can be set.
#[derive(Debug)]
struct Clock {
    tokio: TokioClock,
    hours: Arc<AtomicI64>,
}

impl pennon_node::clock::Clock for Clock {
    fn monotonic(&self) -> Duration {
        self.tokio.monotonic()
    }

    fn unix_ms(&self) -> u64 {
        let ms = self.hours.load(Ordering::Relaxed) * 3_600_000;
        self.tokio.unix_ms().saturating_add_signed(ms)
    }
}

impl Cluster {
    async fn start(size: usize) -> Self {
        Self::on(
            (0..size).map(|_| MemoryDisk::new()).collect(),
            RaftOptions::default(),
        )
        .await
    }

    /// Three nodes with the first writes, which of them leads, and the leader's core.
    async fn written() -> (Self, usize, Arc<Core>) {
        let cluster = Self::start(3).await;
        let leader = cluster.leader().await;
        let core = cluster.core(leader).await;
        core.write(first_writes(), WITHIN).await.unwrap();
        (cluster, leader, core)
    }

    /// Starts nodes on disks that may hold something already.
    async fn on(disks: Vec<MemoryDisk>, raft: RaftOptions) -> Self {
        let size = disks.len();
        let mut cluster = Self {
            network: MemoryNetwork::new(),
            disks,
            nodes: Vec::new(),
            raft,
            starts: 0,
            hours: Default::default(),
        };
        for at in 0..size {
            cluster.nodes.push(None);
            cluster.start_node(at).await;
        }
        cluster
    }

    async fn start_node(&mut self, at: usize) {
        let size = self.disks.len();
        let options = NodeOptions {
            join: (0..size).map(peer).collect(),
            expect: size as u32,
            ..NodeOptions::single(format!("n{at}"))
        };
        self.start_with(at, options).await;
    }

    async fn start_with(&mut self, at: usize, options: NodeOptions) {
        self.network.cut(&format!("n{at}"), false);
        self.starts += 1;
        let options = NodeOptions {
            raft: self.raft.clone(),
            ..options
        };
        let surroundings = Surroundings {
            storage: Storage::Memory(Arc::new(self.disks[at].clone())),
            clock: Arc::new(Clock {
                tokio: TokioClock::start(),
                hours: self.hours[at].clone(),
            }),
            connect: Arc::new(self.network.at(&format!("n{at}"))),
            seed: at as u64 * 1000 + self.starts,
            api: Box::new(self.network.listen(&api(at))),
            peer: Box::new(self.network.listen(&peer(at))),
        };
        self.nodes[at] = Some(Node::start(options, surroundings).await.unwrap());
    }

    /// Sets the time of day of a node: so many hours from the true one.
    fn set_clock(&self, at: usize, hours: i64) {
        self.hours[at].store(hours, Ordering::Relaxed);
    }

    async fn core(&self, at: usize) -> Arc<Core> {
        tokio::time::timeout(WITHIN, self.nodes[at].as_ref().unwrap().core())
            .await
            .expect("no core in time")
    }

    async fn leader(&self) -> usize {
        let found = async {
            loop {
                for (at, node) in self.nodes.iter().enumerate() {
                    let Some(core) = node.as_ref().and_then(|node| node.app().core()) else {
                        continue;
                    };
                    if core.status().role == Role::Leader
                        && core.confirmed(Duration::from_secs(1)).await.is_ok()
                    {
                        return at;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(WITHIN, found)
            .await
            .expect("no leader in time")
    }

    async fn stop(mut self) {
        for node in &mut self.nodes {
            if let Some(node) = node.take() {
                node.shutdown().await;
            }
        }
    }
}

fn api(at: usize) -> String {
    format!("n{at}:7400")
}

fn peer(at: usize) -> String {
    format!("n{at}:7500")
}

fn environment() -> EnvironmentKey {
    "production".parse().unwrap()
}

fn put(object: ObjectId, json: &str, expected: Expected) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Put(json.into()),
        expected,
    }
}

fn request(writes: Vec<AskedWrite>) -> ChangeRequest {
    ChangeRequest {
        onto: None,
        writes,
        origin: Origin {
            actor: "sim".into(),
            request: None,
            reason: None,
        },
    }
}

const FLAG: &str = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
const POLICY: &str = r#"{"enabled":true,"default":{"variant":"on"}}"#;

fn first_writes() -> ChangeRequest {
    request(vec![
        put(
            ObjectId::environment_object("production"),
            "{}",
            Expected::Absent,
        ),
        put(ObjectId::flag("checkout"), FLAG, Expected::Absent),
        put(
            ObjectId::policy(environment(), "checkout"),
            POLICY,
            Expected::Absent,
        ),
    ])
}

fn version_of(outcome: &Outcome) -> Version {
    match outcome {
        Outcome::Written { version, .. } => *version,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn three_nodes_form_elect_write_and_agree() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    // Through a follower: forwarded once to the leader.
    let follower = cluster.core((leader + 1) % 3).await;
    let outcome = follower.write(first_writes(), WITHIN).await.unwrap();
    let version = version_of(&outcome);
    let conflict = follower.write(first_writes(), WITHIN).await.unwrap();
    assert!(matches!(
        conflict,
        Outcome::Refused {
            refusal: Refusal::Conflict { found: Some(_), .. },
            ..
        }
    ));
    let mut digests = Vec::new();
    for at in 0..3 {
        let core = cluster.core(at).await;
        let view = core.confirmed(WITHIN).await.unwrap();
        assert!(
            view.version() >= version,
            "a confirmed read holds the write"
        );
        digests.push((view.version(), view.digest()));
        let snapshot = core.snapshot(&view, &environment()).unwrap();
        let subject = pennon_evaluator::Subject::new("alice");
        assert_eq!(snapshot.evaluate("checkout", &subject).variant, Some("on"));
    }
    digests.dedup();
    assert_eq!(
        digests.len(),
        1,
        "every node has the same state: {digests:?}"
    ); // I4
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_leader_is_replaced_and_its_writes_are_refused_or_unknown_never_lost() {
    let (mut cluster, old, _) = Cluster::written().await;
    cluster.network.cut(&format!("n{old}"), true);
    let node = cluster.nodes[old].take().unwrap();
    node.shutdown().await;
    let new = cluster.leader().await;
    assert_ne!(new, old);
    let key = RequestId {
        key: "retry-me".into(),
        fingerprint: 7,
    };
    let mut change = request(vec![put(ObjectId::flag("second"), FLAG, Expected::Absent)]);
    change.origin.request = Some(key);
    let first = cluster
        .core(new)
        .await
        .write(change.clone(), WITHIN)
        .await
        .unwrap();
    let other = (0..3).find(|at| *at != old && *at != new).unwrap();
    // The same request through another node gets the first answer, not a conflict. (I9)
    let again = cluster
        .core(other)
        .await
        .write(change, WITHIN)
        .await
        .unwrap();
    assert_eq!(first, again);
    cluster.start_node(old).await;
    let back = cluster.core(old).await;
    let view = back.at_least(version_of(&first), WITHIN).await.unwrap();
    assert!(view.object(&ObjectId::flag("second")).is_some());
    assert!(
        view.object(&ObjectId::flag("checkout")).is_some(),
        "what was there before the restart is there"
    );
    cluster.stop().await;
}

/// Small figures, so that a few writes are enough for snapshots and purges.
fn often() -> RaftOptions {
    RaftOptions {
        snapshot_every: 20,
        keep_behind_snapshot: 5,
        ..RaftOptions::default()
    }
}

async fn write_flags(core: &Core, keys: std::ops::Range<u32>) -> Vec<(ObjectId, Version)> {
    let mut acknowledged = Vec::new();
    for n in keys {
        let object = ObjectId::flag(format!("flag-{n}"));
        let outcome = core
            .write(
                request(vec![put(object.clone(), FLAG, Expected::Absent)]),
                WITHIN,
            )
            .await
            .unwrap();
        acknowledged.push((object, version_of(&outcome)));
    }
    acknowledged
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_too_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::on((0..3).map(|_| MemoryDisk::new()).collect(), often()).await;
    let leader = cluster.leader().await;
    cluster
        .core(leader)
        .await
        .write(first_writes(), WITHIN)
        .await
        .unwrap();
    let away = (leader + 1) % 3;
    cluster.nodes[away].take().unwrap().shutdown().await;
    let core = cluster.core(leader).await;
    // Enough for a snapshot of several pieces.
    let text = "x".repeat(600 << 10);
    for n in 0..4 {
        let wide = FLAG.replacen('{', &format!(r#"{{"description":"{text}","#), 1);
        let object = ObjectId::flag(format!("wide-{n}"));
        let outcome = core
            .write(request(vec![put(object, &wide, Expected::Absent)]), WITHIN)
            .await;
        version_of(&outcome.unwrap());
    }
    let acknowledged = write_flags(&core, 0..120).await;
    // Who leads next has to send a snapshot.
    let next = (leader + 2) % 3;
    let follower = cluster.core(next).await;
    let mut statuses = follower.statuses();
    let purged = statuses.wait_for(|status| status.purged.is_some_and(|purged| purged > 60));
    assert!(
        tokio::time::timeout(WITHIN, purged).await.is_ok(),
        "{:?}",
        follower.status()
    );
    cluster.nodes[leader].take().unwrap().shutdown().await;
    cluster.start_node(away).await;
    assert_eq!(cluster.leader().await, next);
    let last = acknowledged.last().unwrap().1;
    let view = cluster
        .core(away)
        .await
        .at_least(last, WITHIN)
        .await
        .unwrap();
    for (object, version) in &acknowledged {
        assert_eq!(
            view.object(object).map(|object| object.version),
            Some(*version)
        );
    }
    let here = cluster
        .core(next)
        .await
        .at_least(view.version(), WITHIN)
        .await
        .unwrap();
    assert_eq!(
        (here.version(), here.digest()),
        (view.version(), view.digest())
    ); // I4
    let history = cluster
        .core(away)
        .await
        .history(&ObjectId::flag("flag-7"), None, 10)
        .await
        .unwrap();
    assert_eq!(history.len(), 1, "the history came with the snapshot");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_acknowledged_write_survives_the_loss_of_power_on_all_nodes() {
    // Also in the middle of snapshots and purges. What was not synced is gone. (I9)
    let cluster = Cluster::on((0..3).map(|_| MemoryDisk::new()).collect(), often()).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        acknowledged.extend(write_flags(&core, round * 30..(round + 1) * 30).await);
        let disks = cluster.disks.iter().map(MemoryDisk::crash_synced).collect();
        let revived = Cluster::on(disks, often()).await;
        let leader = revived.leader().await;
        let view = revived.core(leader).await.confirmed(WITHIN).await.unwrap();
        for (object, version) in &acknowledged {
            assert_eq!(
                view.object(object).map(|object| object.version),
                Some(*version),
                "{object} in round {round}"
            );
        }
        revived.stop().await;
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nodes_whose_addresses_all_changed_find_each_other_again() {
    let (cluster, _, _) = Cluster::written().await;
    let disks = cluster.disks.clone();
    cluster.stop().await;
    let network = MemoryNetwork::new();
    let moved = |at: usize| format!("moved{at}:7500");
    let mut nodes = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        let options = NodeOptions {
            join: (0..3).map(moved).collect(),
            expect: 3,
            ..NodeOptions::single(format!("n{at}"))
        };
        let surroundings = Surroundings {
            storage: Storage::Memory(Arc::new(disk.clone())),
            clock: Arc::new(TokioClock::start()),
            connect: Arc::new(network.clone()),
            seed: 77 + at as u64,
            api: Box::new(network.listen(&format!("moved{at}:7400"))),
            peer: Box::new(network.listen(&moved(at))),
        };
        nodes.push(Node::start(options, surroundings).await.unwrap());
    }
    let core = tokio::time::timeout(WITHIN, nodes[0].core()).await.unwrap();
    let view = core
        .confirmed(WITHIN)
        .await
        .expect("a leader is found at the new addresses");
    assert!(view.object(&ObjectId::flag("checkout")).is_some());
    let mut statuses = core.statuses();
    let all_moved = statuses.wait_for(|status| {
        status
            .members
            .iter()
            .all(|member| member.member.peer.starts_with("moved"))
    });
    assert!(
        tokio::time::timeout(WITHIN, all_moved).await.is_ok(),
        "the membership holds the new addresses"
    );
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_node_stops_calling_itself_fresh_and_says_so() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let alone = cluster.core((leader + 1) % 3).await;
    alone.proved(WITHIN).await.unwrap();
    assert!(alone.staleness().unwrap() < Duration::from_secs(2));
    // Cutting the leader's and the third node's peer address leaves this one unable to prove anything.
    for at in 0..3 {
        cluster.network.cut(&format!("n{at}"), true);
    }
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(
        alone.confirmed(Duration::from_secs(3)).await.is_err(),
        "nothing can be proved"
    ); // I1
    assert!(
        alone.staleness().unwrap() >= Duration::from_secs(30),
        "the age keeps growing"
    ); // I5
    for at in 0..3 {
        cluster.network.cut(&format!("n{at}"), false);
    }
    alone.confirmed(WITHIN).await.expect("healed");
    assert!(alone.staleness().unwrap() < Duration::from_secs(5));
    cluster.stop().await;
}

/// The client's connections, through the network in memory.
struct ClientNetwork(MemoryNetwork);

impl pennon_client::Connector for ClientNetwork {
    fn connect<'a>(
        &'a self,
        endpoint: &'a pennon_client::Endpoint,
    ) -> pennon_client::Connecting<'a> {
        Box::pin(async move {
            let io = pennon_node::net::Connect::connect(&self.0, endpoint.authority()).await?;
            Ok(Box::new(io) as Box<dyn pennon_client::Io>)
        })
    }
}

#[derive(Debug)]
struct ClientClock(TokioClock);

impl pennon_client::Clock for ClientClock {
    fn now(&self) -> Duration {
        pennon_node::clock::Clock::monotonic(&self.0)
    }
}

fn flag_on(n: u32) -> ChangeRequest {
    let json = format!(
        r#"{{"enabled":{},"default":{{"variant":"on"}}}}"#,
        n.is_multiple_of(2)
    );
    request(vec![put(
        ObjectId::policy(environment(), "checkout"),
        &json,
        Expected::Any,
    )])
}

#[tokio::test(start_paused = true)]
async fn a_client_streams_follows_every_write_and_survives_the_leader() {
    let (mut cluster, old, _) = Cluster::written().await;
    let urls: Vec<String> = (0..3)
        .map(|at| format!("http://{}", api((old + at) % 3)))
        .collect();
    let client = pennon_client::Client::builder(urls)
        .environment("production")
        .connector(ClientNetwork(cluster.network.clone()))
        .clock(ClientClock(TokioClock::start()))
        .seed(5)
        .connect()
        .await
        .expect("the first node is the leader");
    let alice = pennon_client::Subject::new("alice");
    assert!(client.is_enabled("checkout", &alice));
    let mut newest = Version::ZERO;
    for n in 0..10 {
        newest = version_of(
            &cluster
                .core((old + 1) % 3)
                .await
                .write(flag_on(n), WITHIN)
                .await
                .unwrap(),
        );
        client
            .wait_for(newest, WITHIN)
            .await
            .expect("the write arrives");
        assert_eq!(client.is_enabled("checkout", &alice), n.is_multiple_of(2));
        assert!(client.status().is_fresh());
    }
    // The node that the client streams from, the leader, is gone without a word.
    cluster.network.cut(&format!("n{old}"), true);
    let before = client.version().unwrap();
    let elected = async {
        loop {
            assert_eq!(
                client.evaluate("checkout", &alice).variant(),
                Some("off"),
                "the last good state"
            ); // I6
            let found = [(old + 1) % 3, (old + 2) % 3].into_iter().find(|at| {
                let core = cluster.nodes[*at]
                    .as_ref()
                    .and_then(|node| node.app().core());
                core.is_some_and(|core| core.status().role == Role::Leader)
            });
            match found {
                Some(at) => return at,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let new = tokio::time::timeout(WITHIN, elected)
        .await
        .expect("another leader in time");
    let after = version_of(
        &cluster
            .core(new)
            .await
            .write(flag_on(4), WITHIN)
            .await
            .unwrap(),
    );
    assert!(after > newest, "versions only rise"); // I2
    client
        .wait_for(after, WITHIN)
        .await
        .expect("another node serves the stream");
    assert!(client.is_enabled("checkout", &alice));
    assert!(client.version().unwrap() > before);
    assert!(client.status().is_fresh());
    drop(client);
    cluster.nodes[old].take().unwrap().shutdown().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_cut_off_with_its_node_marks_its_answers_stale_and_recovers() {
    let (cluster, leader, _) = Cluster::written().await;
    let follower = (leader + 1) % 3;
    let client = pennon_client::Client::builder([format!("http://{}", api(follower))])
        .environment("production")
        .connector(ClientNetwork(cluster.network.clone()))
        .clock(ClientClock(TokioClock::start()))
        .seed(6)
        .connect()
        .await
        .unwrap();
    let alice = pennon_client::Subject::new("alice");
    assert_eq!(
        client.evaluate("checkout", &alice).freshness(),
        pennon_client::Freshness::Fresh
    );
    // The follower still serves its stream, but can prove nothing any more.
    for at in [leader, (leader + 2) % 3] {
        cluster.network.cut(&format!("n{at}"), true);
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    let stale = client.evaluate("checkout", &alice);
    assert_eq!(
        stale.freshness(),
        pennon_client::Freshness::Stale,
        "beyond the bound of 10 s"
    ); // I5
    assert_eq!(stale.variant(), Some("on"), "the last good answer, marked");
    for at in [leader, (leader + 2) % 3] {
        cluster.network.cut(&format!("n{at}"), false);
    }
    let mut watch = client.status_watch();
    while !client.status().is_fresh() {
        tokio::time::timeout(WITHIN, watch.next())
            .await
            .expect("fresh again after healing")
            .unwrap();
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_write_with_a_request_id_outlives_the_leader_it_was_sent_to() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let first = version_of(
        &cluster
            .core(leader)
            .await
            .write(first_writes(), WITHIN)
            .await
            .unwrap(),
    );
    // The leader is heard but cannot reach anybody: it takes the write and cannot commit it.
    for at in [follower, third] {
        cluster.network.cut(&peer(at), true);
    }
    let mut change = request(vec![put(ObjectId::flag("kept"), FLAG, Expected::Absent)]);
    change.origin.request = Some(RequestId {
        key: "outlives".into(),
        fingerprint: 1,
    });
    let core = cluster.core(follower).await;
    let sent = tokio::spawn({
        let (core, change) = (core.clone(), change.clone());
        async move { core.write(change, Duration::from_secs(60)).await }
    });
    let mut old = cluster.core(leader).await.statuses();
    let taken = old.wait_for(|status| status.last_log.is_some_and(|index| index > first.get()));
    assert!(
        tokio::time::timeout(WITHIN, taken).await.is_ok(),
        "the old leader has it in its log"
    );
    cluster.network.cut(&format!("n{leader}"), true);
    for at in [follower, third] {
        cluster.network.cut(&peer(at), false);
    }
    let outcome = tokio::time::timeout(WITHIN, sent)
        .await
        .expect("not at the deadline but soon")
        .unwrap();
    let version = version_of(&outcome.expect("the next leader took it"));
    cluster.network.cut(&format!("n{leader}"), false);
    // Whoever repeats it, anywhere, gets the same answer; it was applied once. (I9)
    for at in 0..3 {
        let again = cluster
            .core(at)
            .await
            .write(change.clone(), WITHIN)
            .await
            .unwrap();
        assert_eq!(version_of(&again), version);
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_while_the_membership_changes_under_them() {
    // A membership entry raises the version between a batch's decision and its entry: the batch
    // is refused by every node and decided again, and nobody who asked hears of it.
    let (cluster, leader, core) = Cluster::written().await;
    let changing = tokio::spawn({
        let core = core.clone();
        async move {
            let before = core.view().version();
            let mut changed = 0;
            while core.view().version().get() < before.get() + 200 {
                let mut member = core.status().leader_member().unwrap().member.clone();
                member.api = format!("n{leader}:{}", 8000 + changed);
                changed += u64::from(core.store_member(member, WITHIN).await);
                tokio::time::sleep(Duration::from_millis(changed % 4)).await;
            }
            changed
        }
    });
    let mut acknowledged = 0;
    while !changing.is_finished() {
        let object = ObjectId::flag(format!("f{acknowledged}"));
        let outcome = core
            .write(request(vec![put(object, FLAG, Expected::Absent)]), WITHIN)
            .await;
        version_of(&outcome.expect("no write fails because of a membership change"));
        acknowledged += 1;
    }
    let changed = changing.await.unwrap();
    assert!(
        changed > 20 && acknowledged > 20,
        "{changed} changes beside {acknowledged} writes"
    );
    cluster.stop().await;
}
