//! Three real processes, used as people use them, and then killed, paused and stopped.
//!
//! What must hold: I1 and I2 through any node, I3 over two environments, I6 and I8 on streams, I9
//! over the death of a leader and of everybody. Histories are judged by the checkers, and a history
//! that shows too little fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use jepsen_like_tests::checkers::never_back::{self, Evaluated};
use jepsen_like_tests::checkers::registers::{self, Demand};
use jepsen_like_tests::checkers::{Verdict, durable};
use jepsen_like_tests::cluster::{Cluster, Options, answered};
use jepsen_like_tests::history::{Action, Operation, Outcome, Recorder};
use jepsen_like_tests::http1::{Answer, Call, Connection};
use jepsen_like_tests::streams::{Events, Frames};
use jepsen_like_tests::workloads::registers::{Plan, flag_config, path_of, read_all, start};
use jepsen_like_tests::{say, until};
use pennon_client::{Client, Freshness, Subject, Version};
use pennon_evaluator::wire::StreamMessage;
use pennon_evaluator::{ConfigSnapshot, EnvironmentKey};
use serde_json::{Value, json};

const ENVIRONMENT: &str = "production";
/// Longest wait for one answer.
const WAIT: Duration = Duration::from_secs(10);
/// Writes go on this soon after the leader died.
const RESUMED_MAX: Duration = Duration::from_secs(3);
/// The longest that one evaluation may take. Far less than any outage here, so that one which waits
/// for a node shows; more than the system may take the core away on a busy machine.
const EVALUATION_MAX: Duration = Duration::from_millis(250);
/// How long a stopping node waits for open requests.
const DRAIN: Duration = Duration::from_secs(5);

fn policy() -> Value {
    json!({"enabled": true, "default": {"variant": "value"}})
}

fn policy_path(environment: &str, flag: &str) -> String {
    format!("/v1/environments/{environment}/policies/{flag}")
}

async fn ask(address: &str, call: Call) -> Answer {
    call.to(address, WAIT).await.unwrap()
}

/// Sends a request that must succeed and returns the version it gives.
async fn done(address: &str, call: Call) -> u64 {
    let answer = ask(address, call).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.shown());
    answer.json()["version"].as_u64().unwrap()
}

async fn make_environment(address: &str, environment: &str) -> u64 {
    done(
        address,
        Call::put(format!("/v1/environments/{environment}"), &json!({})).if_absent(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_change_sets_retries_and_streams_through_any_node() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let leader = cluster.leader(WAIT).await.unwrap();
    let [one, other] = [(leader + 1) % 3, (leader + 2) % 3];
    let (leader, one, other) = (
        cluster.address(leader),
        cluster.address(one),
        cluster.address(other),
    );
    for environment in [ENVIRONMENT, "staging"] {
        make_environment(leader, environment).await;
    }
    conditional_writes(one, other).await;
    change_sets(one, other).await;
    retries(leader, one, other).await;
    streams(leader, one, other).await;
    cluster.converged(WAIT).await.unwrap();
}

/// I1, I2: a write through one node is seen through another, and the loser of two is told.
async fn conditional_writes(one: &str, other: &str) {
    let path = path_of("checkout");
    let bare = ask(one, Call::put(&path, &flag_config("a"))).await;
    assert_eq!(
        (bare.status.as_u16(), bare.slug().as_str()),
        (428, "precondition-required")
    );
    let first = done(one, Call::put(&path, &flag_config("a")).if_absent()).await;
    let read = ask(other, Call::get(&path)).await;
    assert_eq!(
        (read.json()["version"].as_u64(), &read.json()["value"]),
        (Some(first), &flag_config("a"))
    );
    assert_eq!(read.header("etag"), Some(format!("\"{first}\"").as_str()));
    assert!(read.decided().unwrap() >= first);
    let second = done(other, Call::put(&path, &flag_config("b")).if_at(first)).await;
    assert!(second > first);
    for late in [
        Call::put(&path, &flag_config("c")).if_at(first),
        Call::put(&path, &flag_config("c")).if_absent(),
    ] {
        let lost = ask(one, late).await;
        let said = lost.json();
        assert_eq!(
            (lost.status.as_u16(), lost.slug().as_str()),
            (412, "version-conflict"),
            "{}",
            lost.shown()
        );
        assert_eq!(said["current_version"].as_u64(), Some(second));
        assert_eq!(
            (&said["current"]["value"], &said["current"]["version"]),
            (&flag_config("b"), &json!(second))
        );
        assert!(lost.decided().unwrap() >= second);
    }
    assert_eq!(done(one, Call::get(&path)).await, second);
}

/// I3: over two environments both or none.
async fn change_sets(one: &str, other: &str) {
    let put = |environment: &str, expected: u64| {
        json!({"op": "put", "kind": "policy", "environment": environment, "key": "both", "value": policy(),
            "expected_version": expected})
    };
    let flag = json!({"op": "put", "kind": "flag", "key": "both", "value": flag_config("a"), "expected_version": 0});
    let torn = json!([flag, put(ENVIRONMENT, 0), put("staging", 7)]);
    let lost = ask(one, Call::post("/v1/changes", &torn)).await;
    assert_eq!(
        lost.status,
        StatusCode::PRECONDITION_FAILED,
        "{}",
        lost.shown()
    );
    let paths = [
        path_of("both"),
        policy_path(ENVIRONMENT, "both"),
        policy_path("staging", "both"),
    ];
    for path in &paths {
        assert_eq!(
            ask(other, Call::get(path)).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let whole = json!([flag, put(ENVIRONMENT, 0), put("staging", 0)]);
    let version = done(other, Call::post("/v1/changes", &whole)).await;
    for path in &paths {
        assert_eq!(done(one, Call::get(path)).await, version, "{path}");
    }
    for environment in [ENVIRONMENT, "staging"] {
        let path = format!("/v1/environments/{environment}/states/both");
        let state = ask(
            one,
            Call::get(path).header("pennon-min-version", &version.to_string()),
        )
        .await;
        assert_eq!(state.status, StatusCode::OK, "{}", state.shown());
    }
}

/// I9: the same request id gets the first answer again, through any node.
async fn retries(leader: &str, one: &str, other: &str) {
    let path = path_of("retried");
    let create = Call::put(&path, &flag_config("a"))
        .if_absent()
        .request_id("create-1");
    let first = ask(one, create.clone()).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.shown());
    let version = first.json()["version"].as_u64().unwrap();
    let update = Call::put(&path, &flag_config("b"))
        .if_at(version)
        .request_id("update-1");
    let updated = done(other, update.clone()).await;
    for node in [leader, one, other] {
        let again = ask(node, create.clone()).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
        assert_eq!(again.decided(), first.decided());
        assert_eq!(done(node, update.clone()).await, updated);
    }
    let history = ask(one, Call::get(format!("{path}/history"))).await.json();
    assert_eq!(
        history["items"].as_array().map(Vec::len),
        Some(2),
        "{history}"
    );
    let other_request = ask(
        other,
        Call::put(&path, &flag_config("c"))
            .if_at(updated)
            .request_id("create-1"),
    )
    .await;
    assert_eq!(
        (other_request.status.as_u16(), other_request.slug().as_str()),
        (422, "idempotency-mismatch")
    );
    // A refusal is remembered as well: it does not turn into a success later.
    let too_early = Call::put(path_of("early"), &flag_config("a"))
        .if_at(3)
        .request_id("early-1");
    assert_eq!(
        ask(one, too_early.clone()).await.status,
        StatusCode::PRECONDITION_FAILED
    );
    let version = done(
        one,
        Call::put(path_of("early"), &flag_config("x")).if_absent(),
    )
    .await;
    assert!(version > 3);
    assert_eq!(
        ask(other, too_early).await.json()["current_version"],
        json!(0)
    );
}

/// I8: followers stream what the leader commits, in both encodings, and both fold to one digest.
async fn streams(leader: &str, one: &str, other: &str) {
    let path = format!("/v1/environments/{ENVIRONMENT}/stream");
    let environment: EnvironmentKey = ENVIRONMENT.parse().unwrap();
    let mut events = Events::open(one, &path).await.unwrap();
    let mut frames = Frames::open(other, &path).await.unwrap();
    let hello = events.next(WAIT).await.unwrap().unwrap();
    assert_eq!(
        (hello.name.as_str(), &hello.data["intent"]),
        ("hello", &json!("full"))
    );
    let snapshot = events.next_named("snapshot", WAIT).await.unwrap();
    assert_eq!(snapshot.id, snapshot.data["version"].as_u64());
    let Some((_, StreamMessage::Hello { .. })) = frames.next(WAIT).await.unwrap() else {
        panic!("no hello")
    };
    let (_, message) = frames.next(WAIT).await.unwrap().unwrap();
    let mut held: ConfigSnapshot = message.into_snapshot(&environment).unwrap().unwrap();

    done(
        leader,
        Call::put(path_of("streamed"), &flag_config("a")).if_absent(),
    )
    .await;
    let version = done(
        leader,
        Call::put(policy_path(ENVIRONMENT, "streamed"), &policy()).if_absent(),
    )
    .await;
    let mut from = snapshot.id.unwrap();
    let digest = loop {
        let event = events.next(WAIT).await.unwrap().unwrap();
        if event.name == "delta" {
            assert_eq!(event.data["from"].as_u64(), Some(from), "a gap");
            let keys: Vec<&str> = event.data["upserts"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|s| s["key"].as_str())
                .collect();
            if keys.contains(&"streamed") {
                assert_eq!(event.data["to"].as_u64(), Some(version));
                break event.data["digest"].as_str().unwrap().to_owned();
            }
        }
        from = event.id.unwrap_or(from);
    };
    while held.version() < Version::new(version).unwrap() {
        let (_, message) = frames.next(WAIT).await.unwrap().unwrap();
        match message {
            StreamMessage::Heartbeat { version } => held = held.with_version(version).unwrap(),
            message => {
                held = held
                    .apply(&message.into_delta(&environment).unwrap().unwrap())
                    .unwrap()
            }
        }
    }
    assert_eq!(held.digest().to_string(), digest);
    let snapshot = ask(
        leader,
        Call::get(format!("/v1/environments/{ENVIRONMENT}/snapshot")),
    )
    .await
    .json();
    assert_eq!(snapshot["digest"].as_str(), Some(digest.as_str()));
}

/// Registers, their policies, and a plan for the writers.
async fn prepare(cluster: &Cluster, recorder: &Recorder, clients: u32, seed: u64) -> Plan {
    let names = |prefix: &str, count: usize| {
        (0..count)
            .map(|n| Arc::from(format!("{prefix}-{n}")))
            .collect()
    };
    let plan = Plan {
        addresses: cluster.addresses(),
        own: Vec::new(),
        lasting: names("hot", 4),
        passing: names("passing", 2),
        clients,
        retries_max: 2,
        pause: Duration::from_millis(2),
        seed,
        dial: Default::default(),
    };
    make_environment(cluster.address(0), ENVIRONMENT).await;
    for register in &plan.lasting {
        let value: Arc<str> = format!("{register}.first").into();
        let invoked = recorder.now();
        let version = done(
            cluster.address(0),
            Call::put(path_of(register), &flag_config(&value)).if_absent(),
        )
        .await;
        let action = Action::Write {
            value: Some(value),
            expected: None,
        };
        let (outcome, completed) = (Outcome::Written { version }, recorder.now());
        recorder.add(Operation {
            client: clients,
            register: register.clone(),
            invoked,
            completed,
            action,
            outcome,
        });
        done(
            cluster.address(0),
            Call::put(policy_path(ENVIRONMENT, register), &policy()).if_absent(),
        )
        .await;
    }
    say(format!(
        "writers: seed {seed}, {clients} clients, {} + {} registers",
        plan.lasting.len(),
        plan.passing.len()
    ));
    plan
}

/// What the evaluating thread saw.
#[derive(Default)]
struct Watched {
    /// Only those that differ from the one before; nothing else can show a fall.
    evaluations: Vec<Evaluated>,
    /// Flag, version of its state, value.
    values: BTreeSet<(Arc<str>, u64, String)>,
    count: u64,
    stale: u64,
    failed: Vec<String>,
    longest: Duration,
}

/// Evaluates every flag again and again on a thread of its own.
fn evaluate_until(
    stop: Arc<AtomicBool>,
    client: Client,
    flags: Vec<Arc<str>>,
) -> std::thread::JoinHandle<Watched> {
    std::thread::spawn(move || {
        let (mut watched, mut last) = (Watched::default(), BTreeMap::new());
        let subject = Subject::new("user-1").with("country", "DE");
        while !stop.load(Ordering::Relaxed) {
            for flag in &flags {
                let begin = Instant::now();
                let evaluation = client.evaluate(flag, &subject);
                watched.longest = watched.longest.max(begin.elapsed());
                watched.count += 1;
                watched.stale += u64::from(evaluation.freshness() == Freshness::Stale);
                let value = evaluation.value().and_then(|value| value.as_str());
                let (Some(value), Some(snapshot)) = (value, evaluation.snapshot_version()) else {
                    watched
                        .failed
                        .push(format!("{flag}: {}", evaluation.reason()));
                    continue;
                };
                let seen = (snapshot.get(), evaluation.config_version().get());
                if last.insert(flag.clone(), seen) != Some(seen) {
                    let (snapshot_version, config_version) = seen;
                    watched.evaluations.push(Evaluated {
                        client: 0,
                        flag: flag.clone(),
                        snapshot_version,
                        config_version,
                    });
                    watched
                        .values
                        .insert((flag.clone(), config_version, value.to_owned()));
                }
            }
            // Gives the core away now and then: the nodes need it as well.
            std::thread::sleep(Duration::from_micros(200));
        }
        watched
    })
}

/// What the client saw was written, and at that version: nothing uncommitted, nothing invented.
fn assert_written(watched: &Watched, operations: &[Operation]) {
    let mut writers: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in operations {
        if let Action::Write {
            value: Some(value), ..
        } = &operation.action
        {
            writers.insert(value, operation);
        }
    }
    for (flag, config_version, value) in &watched.values {
        let writer = writers
            .get(value.as_str())
            .unwrap_or_else(|| panic!("nobody wrote {value} to {flag}"));
        match &writer.outcome {
            // The policy came after the first value.
            Outcome::Written { version } if value.ends_with(".first") => {
                assert!(config_version > version)
            }
            Outcome::Written { version } => assert_eq!(config_version, version, "{value}"),
            Outcome::Unknown => {}
            other => {
                panic!("{flag} was {value} at {config_version}, whose write came to {other:?}")
            }
        }
    }
}

/// Waits for `count` writes that began after `since`. The next one must come `within` this time, so
/// that a slow machine takes longer and a cluster that stands still fails.
async fn acknowledged(recorder: &Recorder, since: u64, count: usize, within: Duration) -> Duration {
    let is_meant = |operation: &Operation| operation.is_acknowledged() && operation.invoked > since;
    let mut have = 0;
    while have < count {
        let more = || async {
            let found = recorder.count(is_meant);
            let none = || format!("{found} of {count} writes");
            (found > have).then_some(found).ok_or_else(none)
        };
        have = until("another write", within, more).await.unwrap();
    }
    let operations = recorder.operations();
    let after = operations
        .iter()
        .filter(|operation| operation.is_acknowledged() && operation.invoked > since);
    Duration::from_nanos(after.map(|operation| operation.completed).min().unwrap() - since)
}

fn assert_valid<R: std::fmt::Debug>(what: &str, verdict: &Verdict<R>) {
    say(format!("{what}: {verdict}"));
    assert!(verdict.is_valid(), "{what}: {verdict}");
}

/// A client of all nodes that streams from this one: which it takes first is drawn by its seed.
async fn client_of(cluster: &Cluster, node: usize) -> Client {
    let wanted = cluster.address(node).to_string();
    for seed in 0..50 {
        let client = Client::builder(cluster.urls())
            .environment(ENVIRONMENT)
            .seed(seed)
            .connect()
            .await
            .unwrap();
        if client.status().endpoint.authority() == wanted {
            return client;
        }
    }
    panic!("no seed of 50 takes {wanted} first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_while_clients_write_and_evaluate() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let recorder = Recorder::default();
    let plan = prepare(&cluster, &recorder, 8, 1).await;
    let writers = start(&plan, &recorder);
    acknowledged(&recorder, 0, 100, WAIT).await;
    // The client streams from the leader, so that it loses its node and not only its leader.
    let leader = cluster.leader(WAIT).await.unwrap();
    let client = client_of(&cluster, leader).await;
    let ready = done(
        cluster.address(leader),
        Call::get(policy_path(ENVIRONMENT, "hot-3")),
    )
    .await;
    client
        .wait_for(Version::new(ready).unwrap(), WAIT)
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let watching = evaluate_until(stop.clone(), client.clone(), plan.lasting.clone());
    acknowledged(&recorder, recorder.now(), 100, WAIT).await;

    let killed = recorder.now();
    cluster.kill(leader).unwrap();
    let resumed = acknowledged(&recorder, killed, 1, WAIT).await;
    say(format!(
        "writes went on {resumed:?} after the leader was killed"
    ));
    acknowledged(&recorder, recorder.now(), 100, WAIT).await;
    cluster.restart(leader).await.unwrap();
    acknowledged(&recorder, recorder.now(), 100, WAIT).await;
    writers.stop().await.unwrap();

    let (version, digest) = cluster.converged(WAIT).await.unwrap();
    client
        .wait_for(Version::new(version).unwrap(), WAIT)
        .await
        .unwrap();
    stop.store(true, Ordering::Relaxed);
    let watched = watching.join().unwrap();
    let end = read_all(&plan, &recorder).await.unwrap();
    let operations = recorder.operations();
    say(format!(
        "digest {digest} at {version} on all three; {} evaluations, {} stale, longest {:?}; {:?}",
        watched.count,
        watched.stale,
        watched.longest,
        client.status().counters
    ));
    let connects = client.status().counters.connects;
    assert!(connects > 1, "the client did not lose its node");
    assert_eq!(watched.failed, Vec::<String>::new());
    assert!(
        watched.longest < EVALUATION_MAX,
        "an evaluation took {:?}",
        watched.longest
    );
    assert_written(&watched, &operations);
    let demand = Demand {
        writes_min: 400,
        reads_min: 50,
        conflicts_min: 20,
    };
    assert_valid("I1 I2 I9 registers", &registers::check(&operations, demand));
    assert_valid("I9 durable", &durable::check(&operations, &end, 400));
    assert_valid(
        "I6 never back",
        &never_back::check(&watched.evaluations, 100),
    );
    assert!(
        resumed <= RESUMED_MAX,
        "writes went on only after {resumed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_cluster_is_killed_and_every_acknowledged_write_is_there() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let recorder = Recorder::default();
    let plan = prepare(&cluster, &recorder, 8, 2).await;
    let writers = start(&plan, &recorder);
    for round in 0..2 {
        acknowledged(&recorder, recorder.now(), 150, WAIT).await;
        cluster.kill_all();
        let killed = recorder.now();
        cluster.restart_all().await.unwrap();
        let resumed = acknowledged(&recorder, killed, 1, Duration::from_secs(20)).await;
        say(format!(
            "round {round}: writes went on {resumed:?} after all nodes were killed, restarts included"
        ));
    }
    acknowledged(&recorder, recorder.now(), 50, WAIT).await;
    writers.stop().await.unwrap();
    let (version, digest) = cluster.converged(WAIT).await.unwrap();
    let end = read_all(&plan, &recorder).await.unwrap();
    let operations = recorder.operations();
    say(format!("digest {digest} at {version} on all three"));
    let demand = Demand {
        writes_min: 300,
        reads_min: 50,
        conflicts_min: 20,
    };
    assert_valid("I1 I2 I9 registers", &registers::check(&operations, demand));
    assert_valid("I9 durable", &durable::check(&operations, &end, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_follower_catches_up_and_a_stopping_node_says_goodbye() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let leader = cluster.leader(WAIT).await.unwrap();
    make_environment(cluster.address(leader), ENVIRONMENT).await;
    done(
        cluster.address(leader),
        Call::put(path_of("f"), &flag_config("0")).if_absent(),
    )
    .await;
    let mut version = done(
        cluster.address(leader),
        Call::put(policy_path(ENVIRONMENT, "f"), &policy()).if_absent(),
    )
    .await;
    // The follower that is going to be paused is the one the client is connected to.
    let (client, follower) = client_at_a_follower(&cluster, leader).await;
    client
        .wait_for(Version::new(version).unwrap(), WAIT)
        .await
        .unwrap();

    cluster.process(follower).pause().unwrap();
    let mut config = done(cluster.address(leader), Call::get(path_of("f"))).await;
    for n in 1..=20 {
        let write = Call::put(path_of("f"), &flag_config(&n.to_string())).if_at(config);
        config = done(cluster.address(leader), write).await;
    }
    version = config;
    let begin = Instant::now();
    client
        .wait_for(Version::new(version).unwrap(), Duration::from_secs(20))
        .await
        .unwrap();
    say(format!(
        "the client left the paused node and was at the newest version after {:?}",
        begin.elapsed()
    ));
    assert_eq!(client.string("f", &Subject::new("u"), ""), "20");
    cluster.process(follower).resume().unwrap();
    let (converged, _) = cluster.converged(WAIT).await.unwrap();
    assert!(converged >= version);
    let read = ask(cluster.address(follower), Call::get(path_of("f"))).await;
    assert_eq!(read.json()["version"].as_u64(), Some(version)); // I1: through the node that was away

    stop_with_open_streams(&mut cluster, follower, version).await;
    cluster.restart(follower).await.unwrap();
    cluster.converged(WAIT).await.unwrap();
}

/// A client whose stream comes from a follower, and which one that is.
async fn client_at_a_follower(cluster: &Cluster, leader: usize) -> (Client, usize) {
    for seed in 0..64 {
        let builder = Client::builder(cluster.urls()).environment(ENVIRONMENT);
        let client = builder.seed(seed).connect().await.unwrap();
        let at = client.status().endpoint.authority().to_owned();
        let at = cluster
            .addresses()
            .iter()
            .position(|address| *address == at);
        if let Some(at) = at.filter(|at| *at != leader) {
            return (client, at);
        }
    }
    panic!("every client went to the leader");
}

/// SIGTERM: readiness goes red, streams say goodbye, the process ends well within the drain.
async fn stop_with_open_streams(cluster: &mut Cluster, at: usize, version: u64) {
    let address = cluster.address(at).to_owned();
    let path = format!("/v1/environments/{ENVIRONMENT}/stream");
    let mut events = Events::open(&address, &format!("{path}?since={version}"))
        .await
        .unwrap();
    let mut frames = Frames::open(&address, &path).await.unwrap();
    let mut idle = Connection::open(&address).await.unwrap();
    idle.send(&Call::get("/livez"), WAIT).await.unwrap();
    assert_eq!(
        events.next(WAIT).await.unwrap().unwrap().data["intent"],
        json!("none")
    );
    let begin = Instant::now();
    cluster.process(at).terminate().unwrap();
    let goodbye = events.next_named("goodbye", WAIT).await.unwrap();
    assert!(goodbye.data["retry_ms"].as_u64().is_some(), "{goodbye:?}");
    assert_eq!(events.next(WAIT).await.unwrap(), None);
    let mut last = None;
    while let Some((_, message)) = frames.next(WAIT).await.unwrap() {
        last = Some(message);
    }
    assert!(
        matches!(last, Some(StreamMessage::Goodbye { .. })),
        "{last:?}"
    );
    let status = cluster.process(at).ended(DRAIN).await.unwrap();
    say(format!(
        "a node with open streams stopped {:?} after SIGTERM",
        begin.elapsed()
    ));
    assert_eq!(status.code(), Some(0), "{}", cluster.process(at).output());
    let other = cluster.address((at + 1) % cluster.size());
    answered(&Call::get("/readyz"), other, StatusCode::OK, WAIT)
        .await
        .unwrap();
}
