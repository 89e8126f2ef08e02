//! N12: a node that may open no more files goes on with those it has, waits with its snapshots, and
//! needs nobody's help once it may open files again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::until;
use jepsen_like_tests::workloads::registers::{flag_config, path_of};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const WAIT: Duration = Duration::from_secs(20);
/// What a node says that waits.
const WAITS: &str = "waiting until the disk has space and files can be opened";

fn limit_files(node: u32, most: Option<u64>) -> Option<u64> {
    let node = Pid::from_raw(i32::try_from(node).unwrap()).unwrap();
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum,
    };
    prlimit(Some(node), Resource::Nofile, limit)
        .unwrap()
        .current
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_files_waits_with_its_snapshots_and_then_goes_on() {
    let options = Options {
        arguments: vec!["--snapshot-every".into(), "10".into()],
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await.unwrap();
    let leader = cluster.leader(WAIT).await.unwrap();
    let follower = (leader + 1) % 3;
    let id = cluster.process(follower).id().unwrap();
    let address = cluster.address(leader).to_owned();
    let log = cluster.directory().join(format!("n{}.log", follower + 1));
    let count = AtomicU32::new(0);
    let write = async || {
        let flag = format!("f{}", count.fetch_add(1, Ordering::Relaxed));
        let made = Call::put(path_of(&flag), &flag_config("a")).if_absent();
        let answer = made
            .to(&address, WAIT)
            .await
            .map_err(|why| why.to_string())?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(answer.shown()),
        }
    };
    write().await.unwrap();
    // Three are open for ever, and a new one gets the lowest number that is free.
    let before = limit_files(id, Some(3));
    until("a node that waits", WAIT, async || {
        write().await?;
        let output = std::fs::read_to_string(&log).map_err(|why| why.to_string())?;
        output.contains(WAITS).then_some(()).ok_or(output)
    })
    .await
    .unwrap();
    assert_eq!(cluster.process(follower).id(), Some(id));
    limit_files(id, before);
    cluster.converged(WAIT).await.unwrap();
    // A snapshot after that one, too.
    for _ in 0..30 {
        write().await.unwrap();
    }
    cluster.converged(WAIT).await.unwrap();
    assert_eq!(cluster.process(follower).id(), Some(id));
    cluster.kill(follower).unwrap();
    cluster.restart(follower).await.unwrap();
    cluster.converged(WAIT).await.unwrap();
}
