//! Receipts against nodes made by hand: where they go, and that nothing depends on them.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{Net, TokioClock, heartbeat, hello};
use common::states::{delta_message, snapshot_message, version};
use pennon_client::Client;
use pennon_evaluator::wire::{Intent, StreamMessage};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(3_600);

fn start(net: &Net) -> Client {
    let builder = Client::builder(["http://n1:1", "http://n2:2"])
        .environment("production")
        .token("pn_x".to_owned())
        .client_id("c/1")
        .connector(net.clone())
        .clock(TokioClock::default());
    builder.seed(3).start().unwrap()
}

#[tokio::test(start_paused = true)]
async fn receipts_go_to_the_node_of_the_stream_over_one_connection() {
    let (net, mut requests) = Net::new();
    let mut receipts = net.receipts();
    let client = start(&net);
    let request = requests.recv().await.unwrap();
    let node = request.node.clone();
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    let receipt = receipts.recv().await.unwrap();
    assert_eq!(receipt.node, node);
    assert_eq!(receipt.receipt(), ("c/1".to_owned(), 4));
    assert_eq!(receipt.headers["authorization"], "Bearer pn_x");
    receipt.json(204, &[], "");
    stream.send(&StreamMessage::Acknowledge {
        version: version(5),
    });
    let asked = Instant::now();
    stream.send(&delta_message(0, 4, 5));
    let receipt = receipts.recv().await.unwrap();
    assert_eq!(receipt.receipt().1, 5);
    assert!(asked.elapsed() < Duration::from_millis(100));
    assert_eq!(net.opened(), 2, "the stream and one for all receipts");
    receipt.json(204, &[], "");
    stream.send(&delta_message(0, 5, 7));
    let receipt = receipts.recv().await.unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(1));
    receipt.json(204, &[], "");
    let status = loop {
        stream.send(&heartbeat(7));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let status = client.status();
        if status.acknowledged == Some(version(7)) {
            break status;
        }
    };
    assert_eq!(
        (status.counters.receipts, status.counters.receipt_failures),
        (3, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_no_receipts_goes_on_being_streamed_from() {
    let (net, mut requests) = Net::new();
    let mut receipts = net.receipts();
    let client = start(&net);
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    let refused = receipts.recv().await.unwrap();
    refused.problem(404, "not-found", "no such path");
    stream.send(&delta_message(0, 4, 5));
    client.wait_for(version(5), LONG).await.unwrap();
    // This one is read and never answered; the next is cut.
    let unanswered = loop {
        tokio::select! {
            receipt = receipts.recv() => break receipt.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(1)) => stream.send(&heartbeat(5)),
        }
    };
    assert_eq!(unanswered.receipt().1, 5);
    let cut = loop {
        tokio::select! {
            receipt = receipts.recv() => break receipt.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(1)) => stream.send(&heartbeat(5)),
        }
    };
    cut.cut();
    stream.send(&delta_message(0, 5, 7));
    client.wait_for(version(7), LONG).await.unwrap();
    let status = client.status();
    assert_eq!(status.acknowledged, None);
    assert!(status.counters.receipt_failures >= 2, "{status:?}");
    assert_eq!((status.counters.connects, status.counters.failures), (1, 0));
    assert!(status.is_connected() && status.is_fresh() && status.last_error.is_none());
}
