//! How long nobody can write after the leader was killed.
//!
//! From just before SIGKILL until the first answer to a write that was sent after it, to any of the two
//! others; a new attempt begins every 10 ms, each on a connection of its own, so that an attempt
//! that waits for a dead leader holds up nobody.

use std::time::{Duration, Instant};

use jepsen_like_tests::bench::etcd::{Caller, Etcd};
use jepsen_like_tests::bench::grpc;
use jepsen_like_tests::cluster::Cluster;
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::{Failure, Result, until};
use serde_json::json;
use tokio::task::JoinSet;

use crate::load::{ANSWER_MAX, Engine};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest that anybody may be without a leader.
const GONE_MAX: Duration = Duration::from_secs(30);

/// Kills our leader and brings it back.
pub(crate) async fn of_pennon(cluster: &mut Cluster) -> Result<Duration> {
    let leader = cluster.leader(ANSWER_MAX).await?;
    let others: Vec<String> = (0..cluster.size())
        .filter(|at| *at != leader)
        .map(|at| cluster.address(at).to_owned())
        .collect();
    let killed = Instant::now();
    cluster.kill(leader)?;
    let took = first_write(Engine::Pennon, &others, killed).await?;
    cluster.restart(leader).await?;
    cluster.converged(ANSWER_MAX).await?;
    Ok(took)
}

/// Kills etcd's leader and brings it back.
pub(crate) async fn of_etcd(etcd: &mut Etcd) -> Result<Duration> {
    etcd.leader = etcd.find_leader().await?;
    let [one, other, leader] = etcd.in_turn();
    let others = [one, other].map(|at| etcd.address(at).to_owned());
    let killed = Instant::now();
    etcd.kill(leader)?;
    let took = first_write(Engine::Etcd, &others, killed).await?;
    etcd.restart(leader)?;
    etcd.leader = etcd.find_leader().await?;
    Ok(took)
}

async fn first_write(engine: Engine, addresses: &[String], killed: Instant) -> Result<Duration> {
    let mut attempts = JoinSet::new();
    let mut ticks = tokio::time::interval(PAUSE);
    let mut next = addresses.iter().cycle();
    let mut last = None;
    while killed.elapsed() < GONE_MAX {
        tokio::select! {
            _ = ticks.tick() => {
                if let Some(address) = next.next() {
                    let address = address.clone();
                    attempts.spawn(async move { attempt(engine, &address).await });
                }
            }
            Some(ended) = attempts.join_next() => match ended.map_err(Failure::new)? {
                Ok(()) => return Ok(killed.elapsed()),
                Err(why) => last = Some(why),
            },
        }
    }
    Err(Failure::during(
        "nobody could write",
        last.map_or_else(String::new, |why| why.to_string()),
    ))
}

async fn attempt(engine: Engine, address: &str) -> Result<()> {
    match engine {
        Engine::Pennon => {
            let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
            let call = Call::put("/v1/flags/failover?timeout=5s", &config).header("if-match", "*");
            let answer = call.to(address, ANSWER_MAX).await?;
            match answer.status.is_success() {
                true => Ok(()),
                false => Err(Failure::new(answer.shown())),
            }
        }
        Engine::Etcd => {
            let mut caller = Caller::open(address).await?;
            let request = grpc::put_request(b"failover", b"value");
            caller.call("KV/Put", request).await.map(drop)
        }
    }
}

/// Makes sure that what is written in the trials is there.
pub(crate) async fn prepare(address: &str) -> Result<()> {
    let config =
        json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
    let call = Call::put("/v1/flags/failover", &config).if_absent();
    let write = || async {
        let answer = call.clone().to(address, ANSWER_MAX).await;
        match answer {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(answer.shown()),
            Err(why) => Err(why.to_string()),
        }
    };
    until("a first write", GONE_MAX, write).await
}
