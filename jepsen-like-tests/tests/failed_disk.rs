//! N7 and N9 with real nodes: one whose log cannot be synced ends itself, and comes back when its disk is
//! mended; what was acknowledged is there after all nodes lost power together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use jepsen_like_tests::chaos::fleet::{Fleet, Layout};
use jepsen_like_tests::history::Recorder;
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::places::Place;
use jepsen_like_tests::shim::{Calls, Library};
use jepsen_like_tests::workloads::registers::{flag_config, path_of};
use jepsen_like_tests::{binary, until};
use rand::SeedableRng;
use rand::rngs::StdRng;

const WAIT: Duration = Duration::from_secs(30);
const SIZE: usize = 3;
const EIO: i32 = 5;

struct World {
    fleet: Arc<Fleet>,
    _directory: tempfile::TempDir,
    _place: Place,
}

impl World {
    async fn start() -> World {
        let place = Place::take().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout {
            snapshot_every: 20,
            library: Some(Library::find(directory.path()).unwrap()),
            power: (0..SIZE).collect(),
            ..Layout::plain(binary::pennon().unwrap(), directory.path().into(), SIZE)
        };
        let fleet = Arc::new(Fleet::new(layout, Recorder::default()).await.unwrap());
        let world = World {
            fleet,
            _directory: directory,
            _place: place,
        };
        world.start_all();
        world.is_whole().await;
        world
    }

    fn start_all(&self) {
        (0..SIZE).for_each(|at| self.fleet.start(at).unwrap());
    }

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

    async fn write(&self, at: usize, flag: &str) {
        let call = Call::put(path_of(flag), &flag_config("a")).if_absent();
        // It may be the leader that fails: whoever has a request id is asked for again.
        let call = call.request_id(flag);
        let answer = call.to(&self.fleet.ways(0)[at], WAIT).await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.shown());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_cannot_be_synced_ends_itself() {
    let world = World::start().await;
    world.write(0, "before").await;
    let control = world.fleet.control(1).unwrap();
    // Once: whoever tried again would be told that all is well.
    control.fail(&[Calls::Sync], EIO, 1, "/log/").unwrap();
    world.write(0, "during").await;
    until("a node that ends itself", WAIT, async || {
        let ended = world.fleet.has_ended(1, "a failed sync");
        ended.then_some(()).ok_or_else(|| world.fleet.output(1))
    })
    .await
    .unwrap();
    assert_eq!(control.counts().unwrap().syncs, 1);
    let output = world.fleet.output(1);
    assert!(output.contains("the log has stopped"), "{output}");
    world.write(2, "after").await;
    world.fleet.start(1).unwrap();
    world.is_whole().await;
    for flag in ["before", "during", "after"] {
        let call = Call::get(path_of(flag));
        world.fleet.ask(1, &call, WAIT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_history_cannot_be_synced_ends_in_order() {
    let world = World::start().await;
    world.write(0, "before").await;
    // What is written is on disk from here on: what fails is the last sync, of nothing.
    for _ in 0..2 {
        world.fleet.stop(1, WAIT).await.unwrap();
        world.fleet.start(1).unwrap();
        world.is_whole().await;
    }
    let control = world.fleet.control(1).unwrap();
    control
        .fail(&[Calls::Sync], EIO, u64::MAX, "/state/")
        .unwrap();
    world.fleet.stop(1, WAIT).await.unwrap();
    let output = world.fleet.output(1);
    assert!(output.contains("not made durable at close"), "{output}");
    for bad in ["panicked at", "closing the storage failed"] {
        assert!(!output.contains(bad), "{output}");
    }
    control.disarm().unwrap();
    world.fleet.start(1).unwrap();
    world.is_whole().await;
    let call = Call::get(path_of("before"));
    world.fleet.ask(1, &call, WAIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_all_lost_power() {
    let world = World::start().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut lost = 0;
    for round in 0..4 {
        for number in 0..30 {
            let flag = format!("f{round}-{number}");
            world.write(number % SIZE, &flag).await;
        }
        for at in 0..SIZE {
            world.fleet.kill(at).unwrap();
        }
        for at in 0..SIZE {
            let taken = world.fleet.cut_power(at, &mut random).unwrap();
            lost += taken.writes + taken.names;
        }
        world.start_all();
        world.is_whole().await;
    }
    assert!(lost > 0);
    for round in 0..4 {
        for number in 0..30 {
            let call = Call::get(path_of(&format!("f{round}-{number}")));
            world.fleet.ask(number % SIZE, &call, WAIT).await.unwrap();
        }
    }
}
