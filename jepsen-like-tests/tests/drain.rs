//! A node that is asked to stop while a thousand streams are open, and readers that never read.
//!
//! What must hold: SIGTERM ends a node within its drain and a second, with exit code 0, whatever its
//! clients do; everybody who reads is told goodbye, with a time over which clients of a node with so
//! many spread their return; nothing is left behind, so the same command line starts it again. Who
//! does not read costs the node nothing that grows, and holds up nobody else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::time::{Duration, Instant};

use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::Call;
use jepsen_like_tests::streams::Frames;
use jepsen_like_tests::workloads::registers::{flag_config, path_of};
use jepsen_like_tests::{say, until};
use pennon_evaluator::wire::{MEDIA_TYPE_FRAMES, StreamMessage};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

const WAIT: Duration = Duration::from_secs(10);
/// How long a stopping node waits for open requests at most.
const DRAIN: Duration = Duration::from_secs(5);
/// What its end may take on top of that.
const END: Duration = Duration::from_secs(1);
const STREAMS: usize = 1_200;
/// Opened at the same time.
const TOGETHER: usize = 50;

/// Makes the environment `e` with the flag `f`; returns the version.
async fn furnish(cluster: &Cluster, at: usize) -> u64 {
    let policy = json!({"enabled": true, "default": {"variant": "value"}});
    let set = json!([
        {"op": "put", "kind": "environment", "key": "e", "value": {}},
        {"op": "put", "kind": "flag", "key": "f", "value": flag_config("0")},
        {"op": "put", "kind": "policy", "environment": "e", "key": "f", "value": policy},
    ]);
    let made = Call::post("/v1/changes", &set);
    let made = made.to(cluster.address(at), WAIT).await.unwrap();
    assert!(made.status.is_success(), "{}", made.shown());
    made.json()["version"].as_u64().unwrap()
}

/// What a node says of itself.
async fn member(cluster: &Cluster, at: usize) -> Value {
    let answer = Call::get("/v1/cluster").to(cluster.address(at), WAIT).await;
    let body = answer.unwrap().json();
    let name = format!("n{}", at + 1);
    let members = body["members"].as_array().unwrap();
    let me = members.iter().find(|member| member["name"] == *name);
    me.unwrap().clone()
}

/// Opens streams and reads each up to its snapshot.
async fn open_streams(address: &str, count: usize) -> Vec<Frames> {
    let mut open = Vec::new();
    while open.len() < count {
        let opening = (0..TOGETHER.min(count - open.len())).map(|n| {
            let path = format!("/v1/environments/e/stream?client=c{}", open.len() + n);
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut frames = Frames::open(&address, &path).await.unwrap();
                loop {
                    let (_, message) = frames.next(WAIT).await.unwrap().unwrap();
                    if matches!(message, StreamMessage::Snapshot { .. }) {
                        return frames;
                    }
                }
            })
        });
        for one in opening.collect::<Vec<_>>() {
            open.push(one.await.unwrap());
        }
    }
    open
}

/// Reads a stream to its end: what was said last, and when.
async fn last_words(mut frames: Frames) -> (Option<StreamMessage>, Instant) {
    let mut last = None;
    while let Some((_, message)) = frames.next(WAIT).await.unwrap() {
        last = Some(message);
    }
    (last, Instant::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_are_told_goodbye_and_the_node_ends() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let leader = cluster.leader(WAIT).await.unwrap();
    furnish(&cluster, leader).await;
    let at = (leader + 1) % 3;
    let address = cluster.address(at).to_owned();
    let open = open_streams(&address, STREAMS).await;
    until("every stream counts", WAIT, async || {
        let here = member(&cluster, at).await;
        let all = here["streams"] == json!(STREAMS);
        all.then_some(()).ok_or(here.to_string())
    })
    .await
    .unwrap();

    let reading: Vec<_> = open
        .into_iter()
        .map(|one| tokio::spawn(last_words(one)))
        .collect();
    let asked = Instant::now();
    cluster.process(at).terminate().unwrap();
    let mut told = Vec::new();
    let mut slowest = Duration::ZERO;
    for one in reading {
        let (last, when) = one.await.unwrap();
        let Some(StreamMessage::Goodbye { retry_ms }) = last else {
            panic!("no goodbye but {last:?}")
        };
        told.push(retry_ms);
        slowest = slowest.max(when - asked);
    }
    let status = cluster.process(at).ended(DRAIN + END).await.unwrap();
    let ended = asked.elapsed();
    say(format!(
        "{STREAMS} streams: the last goodbye after {slowest:?}, the process ended after {ended:?}"
    ));
    let output = cluster.process(at).output();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(ended < DRAIN, "nobody had to be waited for: {output}");
    assert!(
        !output.contains("were cut") && !output.contains("panicked"),
        "{output}"
    );
    // A millisecond for each stream that was open, the last one told included.
    let shortest = told.iter().min().unwrap();
    assert!(
        *shortest >= STREAMS as u64,
        "clients come back within {shortest} to {} ms",
        told.iter().max().unwrap()
    );

    // The others go on, and nothing stands in the way of the same command line.
    cluster.restart(at).await.unwrap();
    cluster.converged(WAIT).await.unwrap();
    assert_eq!(member(&cluster, at).await["streams"], json!(0));
}

/// Readers that never read.
const STALLED: usize = 50;
const WIDE_FLAGS: usize = 16;
const CHANGES: usize = 40;
/// What the node's memory may grow by while they are passed over. Were each change kept for each of
/// them, it would be nearly a gigabyte.
const GROWTH_MAX: u64 = 300 << 20;

/// A flag of half a megabyte.
fn wide(round: usize) -> Value {
    let text = |n: usize| format!("{n}-{round}-{}", "x".repeat(60 << 10));
    let variants = (0..8).map(|n| (format!("v{n}"), json!(text(n))));
    let variants: serde_json::Map<_, _> = variants.collect();
    json!({"type": "string", "variants": variants, "off_variant": "v0"})
}

/// Sends a request for a stream and never reads a byte of the answer.
async fn stalled(address: &str, n: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /v1/environments/e/stream?client=stalled-{n} HTTP/1.1\r\nhost: a\r\naccept: {MEDIA_TYPE_FRAMES}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Memory of a process in bytes, as the system counts it.
fn resident(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap();
    kib.trim().parse::<u64>().unwrap() << 10
}

/// Reads on until a version has come.
async fn reaches(frames: &mut Frames, version: u64) {
    loop {
        let (_, message) = frames
            .next(WAIT)
            .await
            .unwrap()
            .expect("the stream goes on");
        let at = match message {
            StreamMessage::Snapshot { version, .. } | StreamMessage::Heartbeat { version } => {
                version
            }
            StreamMessage::Delta { to, .. } => to,
            _ => continue,
        };
        if at.get() >= version {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_cost_nothing_that_grows_and_do_not_hold_up_the_end() {
    let mut cluster = Cluster::start(1, Options::default()).await.unwrap();
    let address = cluster.address(0).to_owned();
    furnish(&cluster, 0).await;
    let policy = json!({"enabled": true, "default": {"variant": "v0"}});
    for n in 0..WIDE_FLAGS {
        let path = format!("wide-{n}");
        let writes = [
            Call::put(path_of(&path), &wide(0)).if_absent(),
            Call::put(format!("/v1/environments/e/policies/{path}"), &policy).if_absent(),
        ];
        for write in writes {
            let made = write.to(&address, WAIT).await.unwrap();
            assert!(made.status.is_success(), "{}", made.shown());
        }
    }
    let mut sockets = Vec::new();
    for n in 0..STALLED {
        sockets.push(stalled(&address, n).await);
    }
    until("they are streams", WAIT, async || {
        let here = member(&cluster, 0).await;
        let all = here["streams"] == json!(STALLED);
        all.then_some(()).ok_or(here.to_string())
    })
    .await
    .unwrap();
    let mut reader = Frames::open(&address, "/v1/environments/e/stream")
        .await
        .unwrap();
    let id = cluster.process(0).id().unwrap();
    let mut before = None;
    for round in 1..=CHANGES {
        let write = Call::put(path_of("wide-0"), &wide(round)).header("if-match", "*");
        let answer = write.to(&address, WAIT).await.unwrap();
        assert!(answer.status.is_success(), "{}", answer.shown());
        // Who reads gets each at once.
        reaches(&mut reader, answer.json()["version"].as_u64().unwrap()).await;
        before.get_or_insert_with(|| resident(id));
    }
    let (before, after) = (before.unwrap(), resident(id));
    say(format!(
        "{STALLED} stalled readers, {CHANGES} changes of half a megabyte: from {} to {} MiB",
        before >> 20,
        after >> 20
    ));
    assert!(
        after < before + GROWTH_MAX,
        "from {before} to {after} bytes"
    );

    let asked = Instant::now();
    cluster.process(0).terminate().unwrap();
    let status = cluster.process(0).ended(DRAIN + END).await.unwrap();
    let output = cluster.process(0).output();
    say(format!(
        "with stalled readers it ended after {:?}",
        asked.elapsed()
    ));
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("were cut"), "{output}");
    drop(sockets);
    cluster.restart(0).await.unwrap();
}
