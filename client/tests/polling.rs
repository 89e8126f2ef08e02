//! Polling against nodes made by hand, behind proxies that hold streams back.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{Net, Request, Requests, TokioClock, hello};
use common::states::{delta_message, snapshot, snapshot_message, version};
use pennon_client::{Client, ClientBuilder, Polling, Source, Subject};
use pennon_evaluator::ConfigSnapshot;
use pennon_evaluator::wire::Intent;
use serde_json::json;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(3_600);

fn builder(net: &Net) -> ClientBuilder {
    Client::builder(["http://n1:1"])
        .environment("production")
        .token("pn_x".to_owned())
        .client_id("c/1")
        .connector(net.clone())
        .clock(TokioClock::default())
        .seed(3)
}

fn content(client: &Client) -> i64 {
    client.integer("at", &Subject::new("user-42"), -1)
}

/// A node of cluster A at a version; streams are handed back to the test.
async fn node(requests: &mut Requests, at: u64) -> Option<Request> {
    let request = requests.recv().await.unwrap();
    assert_eq!(request.headers["authorization"], "Bearer pn_x");
    let number = at.to_string();
    let headers = [
        ("pennon-version", &*number),
        ("pennon-staleness-ms", "30"),
        ("pennon-cluster", "A"),
        ("pennon-staleness-bound-ms", "6000"),
    ];
    match request.path.as_str() {
        "/v1/environments/production/snapshot" => {
            let since: Option<u64> = request.query.get("since").map(|v| v.parse().unwrap());
            // A version is named only beside its cluster, and another one's is not heard.
            let cluster = request.query.get("cluster");
            assert_eq!(since.is_some(), cluster.is_some());
            let since = since.filter(|_| cluster.is_some_and(|cluster| cluster == "A"));
            assert_eq!(request.query["consistency"], "stale");
            assert_eq!(request.query["client"], "c%2F1");
            let new = snapshot(0, at);
            let body = match since {
                None => new.to_json().unwrap(),
                Some(since) => {
                    assert_eq!(request.headers["if-none-match"], format!("\"{since}\""));
                    let old = snapshot(0, since);
                    if old.digest() == new.digest() {
                        request.json(304, &headers, "");
                        return None;
                    }
                    let mut body = ConfigSnapshot::diff(&old, &new).to_json().unwrap();
                    body["intent"] = json!("changes");
                    body
                }
            };
            request.json(200, &headers, &body.to_string());
        }
        _ => return Some(request),
    }
    None
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_that_holds_streams_back_the_client_polls_and_is_fresh() {
    let (net, mut requests) = Net::new();
    let client = builder(&net).start().unwrap();
    let began = Instant::now();
    let mut held_back = Vec::new();
    while client.version() != Some(version(4)) {
        tokio::select! {
            stream = node(&mut requests, 4) => held_back.extend(stream),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "in time for connect()"
    );
    assert_eq!(held_back.len(), 1);
    let status = client.status();
    assert!(status.is_fresh() && !status.is_connected());
    assert_eq!(status.staleness_max, Some(Duration::from_secs(6)));
    assert_eq!(status.source, Some(Source::Node));
    for at in [5, 6, 8] {
        while client.version() != Some(version(at)) {
            tokio::select! {
                stream = node(&mut requests, at) => held_back.extend(stream),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        assert_eq!(content(&client), [5, 5, 8][at as usize / 2 - 2]);
    }
    let status = client.status();
    assert!(status.polling && status.is_fresh(), "{status:?}");
    // The proxy is gone: the next stream gets through, and is what counts from then on.
    held_back.clear();
    let stream = loop {
        if let Some(stream) = node(&mut requests, 8).await {
            break stream.stream();
        }
        assert!(client.status().is_fresh());
    };
    stream.send(&hello("A", Intent::None, 8));
    stream.send(&delta_message(0, 8, 10));
    client.wait_for(version(10), LONG).await.unwrap();
    let status = client.status();
    assert!(!status.polling && status.is_connected());
}

#[tokio::test(start_paused = true)]
async fn polling_only_never_asks_for_a_stream() {
    let (net, mut requests) = Net::new();
    let client = builder(&net).polling(Polling::Only).start().unwrap();
    let began = Instant::now();
    while client.status().counters.polls < 10 {
        let asked = tokio::time::timeout(Duration::from_secs(5), node(&mut requests, 4)).await;
        assert!(asked.unwrap().is_none(), "a stream");
    }
    let seconds = began.elapsed().as_secs();
    assert!(
        (13..=18).contains(&seconds),
        "a third of 6 s each: {seconds}"
    );
    assert!(client.status().is_fresh() && content(&client) == 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_trusted_is_none() {
    let body = snapshot(0, 4).to_json().unwrap();
    let mut wrong = body.clone();
    wrong["states"][0]["enabled"] = json!(false);
    let age = ("pennon-staleness-ms", "1");
    let cluster = ("pennon-cluster", "A");
    let bound = ("pennon-staleness-bound-ms", "6000");
    for (headers, body, why) in [
        (&[cluster, bound][..], &body, "does not say how old it is"),
        (&[age, bound][..], &body, "which cluster it is of"),
        (&[age, cluster][..], &body, "its staleness bound"),
        (
            &[age, cluster, bound][..],
            &wrong,
            "as the cluster compiled it",
        ),
        (&[age, cluster, bound][..], &json!([]), "no JSON object"),
    ] {
        let (net, mut requests) = Net::new();
        let client = builder(&net).polling(Polling::Only).start().unwrap();
        while client.status().counters.failures == 0 {
            let request = requests.recv().await.unwrap();
            request.json(200, headers, &body.to_string());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = client.status().last_error.unwrap().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(client.version(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_asked_for_everything() {
    let (net, mut requests) = Net::new();
    let client = builder(&net).start().unwrap();
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("Z", Intent::Full, 2));
    stream.send(&snapshot_message(1, 2));
    client.ready(LONG).await.unwrap();
    stream.cut();
    let mut held_back = Vec::new();
    while client.version() == Some(version(2)) {
        tokio::select! {
            stream = node(&mut requests, 7) => held_back.extend(stream),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    let status = client.status();
    assert_eq!(
        (status.version, status.cluster_id.as_deref()),
        (Some(version(7)), Some("A"))
    );
    assert_eq!((content(&client), status.counters.clusters), (7, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_poll_brings_is_acknowledged_and_what_it_does_not_is_not() {
    let (net, mut requests) = Net::new();
    let mut receipts = net.receipts();
    let client = builder(&net).polling(Polling::Only).start().unwrap();
    let mut told = Vec::new();
    for at in [4, 4, 4, 5, 5, 8, 9] {
        assert!(node(&mut requests, at).await.is_none());
        loop {
            tokio::select! {
                biased;
                receipt = receipts.recv() => {
                    let receipt = receipt.unwrap();
                    let (id, version) = receipt.receipt();
                    assert_eq!((&*id, Some(version)), ("c/1", client.version().map(|at| at.get())));
                    told.push(version);
                    receipt.json(204, &[], "");
                }
                () = tokio::time::sleep(Duration::from_millis(500)) => break,
            }
        }
    }
    // 9 changes nothing in the environment.
    assert_eq!(told, [4, 5, 8]);
    let status = client.status();
    assert_eq!(status.acknowledged, Some(version(8)));
    assert_eq!((status.counters.receipts, status.counters.polls), (3, 7));
}
