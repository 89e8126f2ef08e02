//! The harness of runs under faults, looked at by itself: everything between nodes goes through the
//! proxies, and a node that ends although nobody ended it is remembered and started again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use jepsen_like_tests::chaos::fleet::{Fleet, Layout, client_host};
use jepsen_like_tests::history::Recorder;
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::places::Place;
use jepsen_like_tests::proxy::Mode;
use jepsen_like_tests::workloads::registers::{flag_config, path_of};
use jepsen_like_tests::{binary, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

const WAIT: Duration = Duration::from_secs(30);
const SIZE: usize = 3;

struct World {
    fleet: Arc<Fleet>,
    _watchers: JoinSet<()>,
    _directory: tempfile::TempDir,
    _place: Place,
}

impl World {
    async fn start() -> World {
        let place = Place::take().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::plain(binary::pennon().unwrap(), directory.path().into(), SIZE);
        let fleet = Arc::new(Fleet::new(layout, Recorder::default()).await.unwrap());
        let mut watchers = JoinSet::new();
        for at in 0..SIZE {
            fleet.start(at).unwrap();
            let fleet = Arc::clone(&fleet);
            watchers.spawn(async move { fleet.watch(at).await });
        }
        let world = World {
            fleet,
            _watchers: watchers,
            _directory: directory,
            _place: place,
        };
        world.is_whole().await;
        world
    }

    /// Waits until every node is ready.
    async fn is_whole(&self) {
        for at in 0..SIZE {
            until("a node that is ready", WAIT, async || {
                let ready = self.fleet.is_ready(at).await;
                ready.then_some(()).ok_or_else(|| self.fleet.output(at))
            })
            .await
            .unwrap();
        }
    }

    fn between_nodes(&self, mode: Mode) {
        for from in self.fleet.members() {
            let others = self.fleet.members().iter();
            for to in others.filter(|to| to.name != from.name) {
                self.fleet.net().wire(&from.name, &to.name).set(mode);
            }
        }
    }

    /// Writes a flag over the client's own link to a node.
    async fn write(&self, at: usize, flag: &str) -> u16 {
        let call = Call::put(format!("{}?timeout=1s", path_of(flag)), &flag_config("a"));
        let call = call.if_absent();
        let way = &self.fleet.ways(0)[at];
        call.to(way, WAIT).await.unwrap().status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_reach_each_other_and_are_reached_through_the_proxies_alone() {
    let world = World::start().await;
    assert_eq!(world.write(0, "before").await, 200);
    world.between_nodes(Mode::Hold);
    // Whoever leads has nobody to agree with; the others find no leader.
    for at in 0..SIZE {
        let status = world.write(at, &format!("during-{at}")).await;
        assert!([503, 504].contains(&status), "{status}");
    }
    world.between_nodes(Mode::Pass);
    world.is_whole().await;
    assert_eq!(world.write(1, "after").await, 200);
    for from in world.fleet.members() {
        let others = world.fleet.members().iter();
        for to in others.filter(|to| to.name != from.name) {
            let counts = world.fleet.net().wire(&from.name, &to.name).counts();
            assert!(counts.passed > 0 && counts.acted(), "{counts:?}");
        }
        let client = world.fleet.net().wire(&client_host(0), &from.name);
        assert!(client.counts().passed > 0);
    }
    // A client's link is one like the others.
    let client = client_host(0);
    world.fleet.net().refuse(&client, "n2", true);
    until("a door that refuses", WAIT, async || {
        let way = world.fleet.ways(0)[1].clone();
        let knocked = tokio::net::TcpStream::connect(way).await;
        knocked.is_err().then_some(()).ok_or(String::new())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_by_itself_is_remembered_and_started_again() {
    let world = World::start().await;
    let id = world.fleet.process_id(2).unwrap();
    let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    // Past the fleet, as if it had ended.
    kill_process(pid, Signal::KILL).unwrap();
    until("another process", WAIT, async || {
        let now = world.fleet.process_id(2);
        now.filter(|now| *now != id)
            .map(drop)
            .ok_or(format!("{now:?}"))
    })
    .await
    .unwrap();
    let casualties = world.fleet.casualties();
    assert_eq!(casualties.len(), 1, "{casualties:?}");
    assert!(
        casualties[0].starts_with("n3 ended by itself"),
        "{casualties:?}"
    );
    world.is_whole().await;
    assert_eq!(world.write(2, "after").await, 200);
    // One that the fleet ends is none.
    world.fleet.kill(1).unwrap();
    world.fleet.start(1).unwrap();
    world.is_whole().await;
    assert_eq!(world.fleet.casualties().len(), 1);
}
