//! An application's part of an environment: named in every request that brings state, and a part of
//! what a cache is of.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{Net, TokioClock, hello};
use common::states::{snapshot, snapshot_message};
use pennon_client::{CacheFault, Client, ClientBuilder, Polling};
use pennon_evaluator::wire::Intent;

const LONG: Duration = Duration::from_secs(3_600);

fn builder(net: &Net) -> ClientBuilder {
    Client::builder(["http://n1:1"])
        .environment("production")
        .connector(net.clone())
        .clock(TokioClock::default())
        .seed(3)
}

#[tokio::test(start_paused = true)]
async fn streams_and_polls_name_the_application() {
    let (net, mut requests) = Net::new();
    let client = builder(&net).application("shop/web").start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.query["app"], "shop%2Fweb");
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    stream.cut();
    let request = requests.recv().await.unwrap();
    assert_eq!(
        (request.since(), request.query["app"].as_str()),
        (Some(4), "shop%2Fweb")
    );

    let (net, mut requests) = Net::new();
    let polling = builder(&net).polling(Polling::Only).application("shop");
    let client = polling.start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.query["app"], "shop");
    let headers = [
        ("pennon-version", "4"),
        ("pennon-staleness-ms", "0"),
        ("pennon-cluster", "A"),
        ("pennon-staleness-bound-ms", "10000"),
    ];
    let body = snapshot(0, 4).to_json().unwrap();
    request.json(200, &headers, &body.to_string());
    client.ready(LONG).await.unwrap();

    let (net, mut requests) = Net::new();
    let _client = builder(&net).start().unwrap();
    let request = requests.recv().await.unwrap();
    assert!(!request.query.contains_key("app"), "the whole environment");
}

#[tokio::test(start_paused = true)]
async fn a_cache_of_another_application_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags");
    let (net, mut requests) = Net::new();
    let shop = builder(&net)
        .application("shop")
        .cache_file(&file)
        .start()
        .unwrap();
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    while shop.status().cache.unwrap().saved.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (application, since) in [(Some("shop"), Some(4)), (Some("bank"), None), (None, None)] {
        let mut starting = builder(&net).cache_file(&file);
        if let Some(application) = application {
            starting = starting.application(application);
        }
        let client = starting.start().unwrap();
        let request = requests.recv().await.unwrap();
        assert_eq!(
            (request.since(), client.is_ready()),
            (since, since.is_some())
        );
        let warning = client.status().cache.unwrap().warning.unwrap();
        let expected = match since {
            Some(_) => CacheFault::InUse,
            None => CacheFault::OtherApplication,
        };
        assert_eq!(warning.fault(), expected);
    }
}
