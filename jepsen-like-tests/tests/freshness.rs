//! I5 with real processes: nodes and applications are stopped and go on, and nobody calls an answer
//! FRESH that is older than the bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jepsen_like_tests::checkers::freshness::{self, Acknowledged, Judged};
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::process::Process;
use jepsen_like_tests::workloads::registers::flag_config;
use jepsen_like_tests::{say, until};
use pennon_client::{BootClock, Clock};
use serde_json::json;

const BOUND: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(10);
/// Far beyond the bound, and beyond an election.
const STOPPED: Duration = Duration::from_secs(4);

fn now() -> u64 {
    u64::try_from(BootClock.now().as_nanos()).unwrap()
}

/// Writes one flag again and again, through whoever takes it.
async fn write_on(addresses: Vec<String>, stop: Arc<AtomicBool>) -> Vec<Acknowledged> {
    let mut written = Vec::new();
    let mut on = false;
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        on = !on;
        let word = if on { "enable" } else { "disable" };
        let path = format!("/v1/environments/e/flags/f:{word}?timeout=500ms");
        let call = Call::new(http::Method::POST, path);
        let answer = call.to(&addresses[at % addresses.len()], BOUND).await;
        match answer.ok().filter(|answer| answer.status.is_success()) {
            Some(answer) => written.push(Acknowledged {
                version: answer.json()["version"].as_u64().unwrap(),
                at: now(),
            }),
            None => at += 1,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    written
}

/// Reads what an evaluator wrote down; the line that it was writing when it ended is left out.
fn judged(process: u32, log: &Path) -> Vec<Judged> {
    let text = std::fs::read_to_string(log).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let read = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("{line:?}"));
        Judged {
            process,
            began: word().parse().unwrap_or_else(|_| panic!("{line:?}")),
            version: word().parse().unwrap(),
            fresh: word() == "FRESH",
            age: None,
        }
    };
    whole.lines().map(read).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_calls_an_answer_fresh_that_is_older_than_the_bound() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let leader = cluster.leader(WAIT).await.unwrap();
    let set = json!([
        {"op": "put", "kind": "environment", "key": "e", "value": {"staleness_bound_ms": BOUND.as_millis() as u64}},
        {"op": "put", "kind": "flag", "key": "f", "value": flag_config("a")},
    ]);
    let making = Call::post("/v1/changes", &set);
    let made = making.to(cluster.address(leader), WAIT).await.unwrap();
    assert!(made.status.is_success(), "{}", made.shown());

    // An application at each node, and one that is stopped itself.
    let places = [leader, (leader + 1) % 3, (leader + 2) % 3, (leader + 1) % 3];
    let mut evaluators = Vec::new();
    for (n, at) in places.into_iter().enumerate() {
        let log = cluster.directory().join(format!("evaluator-{n}.log"));
        let url = format!("http://{}", cluster.address(at));
        let name = format!("evaluator-{n}");
        let arguments = [url.as_str(), "e", "f", &name];
        let mut process = Process::new(env!("CARGO_BIN_EXE_evaluator"), arguments, &log);
        process.start().unwrap();
        evaluators.push((process, log));
    }
    for (_, log) in &evaluators {
        until("every evaluator is FRESH", WAIT, async || {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let fresh = text.contains("FRESH");
            fresh.then_some(()).ok_or(text)
        })
        .await
        .unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_on(cluster.addresses(), stop.clone()));

    // The leader, which goes on leading for a moment when it is let go; a follower; an application.
    for at in [leader, (leader + 1) % 3] {
        cluster.process(at).pause().unwrap();
        tokio::time::sleep(STOPPED).await;
        cluster.process(at).resume().unwrap();
        tokio::time::sleep(STOPPED).await;
    }
    evaluators[3].0.pause().unwrap();
    tokio::time::sleep(STOPPED).await;
    evaluators[3].0.resume().unwrap();
    tokio::time::sleep(BOUND).await;

    stop.store(true, Ordering::Relaxed);
    let writes = writing.await.unwrap();
    let mut evaluations = Vec::new();
    for (n, (process, log)) in evaluators.iter_mut().enumerate() {
        process.kill().unwrap();
        let of = judged(u32::try_from(n).unwrap(), log);
        let fresh = of.iter().filter(|one| one.fresh).count();
        say(format!("evaluator {n}: {fresh} of {} FRESH", of.len()));
        // The node of the third is never stopped: it lags only until there is another leader. The
        // others find back soon after they, or their node, go on.
        let tenths_min = if n == 2 { 8 } else { 4 };
        assert!(
            fresh * 10 > of.len() * tenths_min,
            "{fresh} of {}",
            of.len()
        );
        evaluations.extend(of);
    }
    let bound = u64::try_from(BOUND.as_nanos()).unwrap();
    let verdict = freshness::check(&writes, &evaluations, bound, (1_000, 100));
    say(format!("freshness {verdict}"));
    assert!(verdict.is_valid(), "{verdict}"); // I5
    assert!(writes.len() > 100, "{} writes", writes.len());
    cluster.converged(WAIT).await.unwrap();
}
