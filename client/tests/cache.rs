//! Starting from the disk cache, against nodes made by hand: without any node, and with nodes that
//! know more or less than the cache.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::net::{Door, Net, Requests, Stream, TokioClock, heartbeat, hello};
use common::states::{delta_message, snapshot, snapshot_message, version};
use pennon_client::{CacheFault, Client, ClientBuilder, Freshness, Source, StalePolicy, Subject};
use pennon_evaluator::wire::Intent;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(3_600);

fn builder(net: &Net, file: &Path) -> ClientBuilder {
    Client::builder(["http://n1:1"])
        .environment("production")
        .connector(net.clone())
        .clock(TokioClock::default())
        .cache_file(file)
        .seed(3)
}

fn content(client: &Client) -> i64 {
    client.integer("at", &Subject::new("user-42"), -1)
}

async fn serve(requests: &mut Requests, at: u64) -> Stream {
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("A", Intent::Full, at));
    stream.send(&snapshot_message(0, at));
    stream
}

/// Waits until this version is in the file.
async fn saved(client: &Client, at: u64) {
    let cache = || client.status().cache.unwrap();
    while cache().saved != Some(version(at)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the task of a client that was dropped let go of the file.
async fn unlocked(file: &Path) {
    let lock = std::fs::File::open(format!("{}.lock", file.display())).unwrap();
    while lock.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A file with the content of version 4, from a client that is gone.
async fn cached(file: &Path) {
    let (net, mut requests) = Net::new();
    let client = builder(&net, file).start().unwrap();
    let _stream = serve(&mut requests, 4).await;
    saved(&client, 4).await;
    drop(client);
    unlocked(file).await;
}

// I5 I6
#[tokio::test(start_paused = true)]
async fn a_client_starts_from_its_cache_when_no_node_answers() {
    for (door, policy) in [
        (Door::Refuses, StalePolicy::ServeLastGood),
        (Door::Hangs, StalePolicy::ReturnDefault),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("flags");
        cached(&file).await;
        let (net, mut requests) = Net::new();
        net.door("n1:1", door);
        let began = Instant::now();
        let starting = builder(&net, &file).stale_policy(policy).connect();
        let client = starting.await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(1));
        let served = policy == StalePolicy::ServeLastGood;
        assert_eq!(content(&client), if served { 4 } else { -1 });
        let subject = Subject::new("user-42");
        let evaluation = client.evaluate("at", &subject);
        assert_eq!(evaluation.freshness(), Freshness::Stale);
        assert_eq!(evaluation.age(), None, "nobody knows");
        assert_eq!(evaluation.snapshot_version(), Some(version(4)));
        let status = client.status();
        assert_eq!((status.source, status.age), (Some(Source::Cache), None));
        let cache = status.cache.unwrap();
        assert_eq!((cache.read, cache.warning), (Some(version(4)), None));
        assert!(cache.read_written_at.unwrap().elapsed().unwrap() < LONG);

        // A node that has nothing newer confirms it.
        net.door("n1:1", Door::Open);
        let request = requests.recv().await.unwrap();
        assert_eq!(request.since(), Some(4));
        assert_eq!(request.query["cluster"], "A");
        let stream = request.stream();
        stream.send(&hello("A", Intent::None, 4));
        client.fresh(LONG).await.unwrap();
        assert_eq!(content(&client), 4);
        assert!(client.evaluate("at", &subject).age().is_some());
        stream.send(&delta_message(0, 4, 5));
        client.wait_for(version(5), LONG).await.unwrap();
        assert_eq!(client.status().source, Some(Source::Node));
    }
}

// I6
#[tokio::test(start_paused = true)]
async fn nothing_older_than_the_cache_is_taken_from_any_node() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    cached(&file).await;
    let (net, mut requests) = Net::new();
    let client = builder(&net, &file).start().unwrap();
    for (cluster, at) in [("A", 3), ("B", 4), ("B", 2)] {
        let stream = requests.recv().await.unwrap().stream();
        stream.send(&hello(cluster, Intent::Full, at));
        stream.send(&snapshot_message(u64::from(cluster == "B"), at));
        stream.closed().await;
        assert_eq!((client.version(), content(&client)), (Some(version(4)), 4));
    }
    let counters = client.status().counters;
    assert_eq!((counters.refused_older, counters.foreign), (1, 2));
    let _stream = serve(&mut requests, 5).await;
    client.wait_for(version(5), LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_is_named_and_the_client_starts_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    cached(&file).await;
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    let (net, mut requests) = Net::new();
    let client = builder(&net, &file).start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!((request.since(), client.version()), (None, None));
    let warning = client.status().cache.unwrap().warning.unwrap();
    assert_eq!(warning.fault(), CacheFault::Damaged);
    let text = warning.to_string();
    assert!(
        text.starts_with("damaged: ") && text.contains("flags"),
        "{text}"
    );
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 5));
    stream.send(&snapshot_message(0, 5));
    saved(&client, 5).await;
    assert_eq!(client.status().cache.unwrap().warning, None);
    drop(client);
    unlocked(&file).await;

    let staging = builder(&net, &file).environment("staging").start().unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.path.contains("staging") && !request.query.contains_key("since"));
    let warning = staging.status().cache.unwrap().warning.unwrap();
    assert_eq!(warning.fault(), CacheFault::OtherEnvironment);
    drop(staging);
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(request);
    net.door("n1:1", Door::Refuses);
    let client = builder(&net, &file).connect().await.unwrap();
    assert_eq!(content(&client), 5, "the other environment's is left alone");
}

#[tokio::test(start_paused = true)]
async fn it_is_written_once_a_second_at_most_and_for_the_last_time_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    let (net, mut requests) = Net::new();
    let client = builder(&net, &file).start().unwrap();
    let stream = serve(&mut requests, 1).await;
    saved(&client, 1).await;
    let began = Instant::now();
    for at in (2..60).filter(|at| at % 3 != 0) {
        stream.send(&delta_message(0, client.version().unwrap().get(), at));
        client.wait_for(version(at), LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    saved(&client, 59).await;
    let seconds = began.elapsed().as_secs_f64();
    let saves = client.status().cache.unwrap().saves;
    assert!(
        saves >= 3 && (saves as f64) <= seconds + 2.0,
        "{saves} in {seconds} s"
    );
    stream.send(&heartbeat(60));
    stream.send(&delta_message(0, 60, 61));
    client.wait_for(version(61), LONG).await.unwrap();
    assert_eq!(client.status().cache.unwrap().saved, Some(version(59)));
    drop(client);
    unlocked(&file).await;
    net.door("n1:1", Door::Refuses);
    let client = builder(&net, &file).connect().await.unwrap();
    assert_eq!(content(&client), 61);
}

#[tokio::test(start_paused = true)]
async fn two_clients_with_one_file_do_not_put_each_others_versions_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    let (net, mut requests) = Net::new();
    let first = builder(&net, &file).start().unwrap();
    let _stream = serve(&mut requests, 8).await;
    saved(&first, 8).await;
    let second = builder(&net, &file).start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.since(), Some(8), "it may read");
    let warning = second.status().cache.unwrap().warning.unwrap();
    assert_eq!(warning.fault(), CacheFault::InUse);
    let stream = request.stream();
    stream.send(&hello("A", Intent::Changes, 10));
    stream.send(&delta_message(0, 8, 10));
    second.wait_for(version(10), LONG).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(second.status().cache.unwrap().saved, None);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_said_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    let (net, mut requests) = Net::new();
    let client = builder(&net, &file).start().unwrap();
    let request = requests.recv().await.unwrap();
    // A directory where the temporary file belongs.
    let aside = directory.path().join("flags.new");
    std::fs::create_dir(&aside).unwrap();
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    let mut statuses = client.status_watch();
    let warning = loop {
        let status = statuses.next().await.unwrap();
        if let Some(warning) = status.cache.unwrap().warning {
            break warning;
        }
    };
    assert_eq!(warning.fault(), CacheFault::NotWritten);
    assert_eq!((content(&client), client.status().is_fresh()), (4, true));
    std::fs::remove_dir(&aside).unwrap();
    saved(&client, 4).await;
    assert_eq!(client.status().cache.unwrap().warning, None);
}

/// The body of `GET …/snapshot`.
fn shown(cluster: u64, at: u64) -> Vec<u8> {
    let shown = snapshot(cluster, at).to_json().unwrap();
    shown.to_string().into_bytes()
}

// I5 I6
#[tokio::test(start_paused = true)]
async fn bootstrap_bytes_are_stale_and_used_only_when_the_cache_has_nothing_newer() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    cached(&file).await;
    let (net, _requests) = Net::new();
    net.door("n1:1", Door::Refuses);
    let cache_bytes = std::fs::read(&file).unwrap();
    let none = directory.path().join("none");
    for (file, bytes, expected, source) in [
        (&file, shown(0, 2), 4, Source::Cache),
        (&file, shown(0, 4), 4, Source::Cache),
        (&file, shown(0, 5), 5, Source::Bootstrap),
        (&none, shown(0, 2), 2, Source::Bootstrap),
        (&none, cache_bytes.clone(), 4, Source::Bootstrap),
    ] {
        let client = builder(&net, file)
            .bootstrap(bytes)
            .connect()
            .await
            .unwrap();
        assert_eq!(content(&client), expected);
        let status = client.status();
        assert_eq!((status.source, status.age), (Some(source), None));
        assert!(!status.is_fresh());
        drop(client);
        unlocked(file).await;
    }
    let mut damaged = cache_bytes;
    damaged[20] ^= 1;
    for (bytes, why) in [
        (damaged, "damaged: its checksum"),
        (b"{}".to_vec(), "its field \"environment\""),
        (Vec::new(), "no JSON object"),
    ] {
        let refusal = builder(&net, &none).bootstrap(bytes).start().unwrap_err();
        assert!(
            refusal.is_settings() && refusal.to_string().contains(why),
            "{refusal}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bootstrap_bytes_give_way_to_the_first_snapshot_of_any_cluster_but_not_an_older_one() {
    let directory = tempfile::tempdir().unwrap();
    let (net, mut requests) = Net::new();
    let starting = builder(&net, &directory.path().join("none")).bootstrap(shown(0, 5));
    let client = starting.start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(
        (request.since(), request.query.get("cluster")),
        (None, None)
    );
    assert_eq!(content(&client), 5);
    let stream = request.stream();
    stream.send(&hello("B", Intent::Full, 4));
    stream.send(&snapshot_message(1, 4));
    stream.closed().await;
    assert_eq!((client.version(), content(&client)), (Some(version(5)), 5));
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("B", Intent::Full, 7));
    stream.send(&snapshot_message(1, 7));
    client.fresh(LONG).await.unwrap();
    assert_eq!(
        (content(&client), client.status().source),
        (1_000_007, Some(Source::Node))
    );
}
