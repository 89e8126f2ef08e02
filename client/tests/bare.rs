//! Streams without HTTP around them, against nodes and proxies made by hand.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::net::{Bare, Door, Net, Request, Requests, TokioClock, encode, heartbeat, hello};
use common::states::{delta_message, snapshot_message, version};
use pennon_client::{Client, Connecting, Connector, Endpoint, Io};
use pennon_evaluator::wire::{Ages, Intent, PROTOCOL_FRAMES, StreamMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(3_600);

fn start(net: &Net) -> Client {
    let builder = Client::builder(["http://n1:1"])
        .environment("production")
        .client_id("c/1")
        .connector(net.clone())
        .clock(TokioClock::default());
    builder.seed(3).start().unwrap()
}

/// A client with version 4, by a connection that was switched.
async fn connected(net: &Net, requests: &mut Requests) -> (Client, Bare) {
    let client = start(net);
    let mut node = requests.recv().await.unwrap().switch().await;
    node.send(&[hello("A", Intent::Full, 4), snapshot_message(0, 4)])
        .await;
    client.ready(LONG).await.unwrap();
    (client, node)
}

/// The next request for a stream. A client may poll meanwhile, in vain.
async fn stream_asked(requests: &mut Requests) -> Request {
    loop {
        let request = requests.recv().await.unwrap();
        match request.path.ends_with("/stream") {
            true => return request,
            false => request.problem(503, "no-quorum", "not now"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn frames_come_by_the_connection_itself_and_receipts_go_back_by_it() {
    let (net, mut requests) = Net::new();
    let mut posted = net.receipts();
    let (client, mut node) = connected(&net, &mut requests).await;
    assert_eq!(node.receipt().await, Some(4));
    let ask = |at| StreamMessage::Acknowledge {
        version: version(at),
    };
    node.send(&[ask(5), delta_message(0, 4, 5)]).await;
    assert_eq!(node.receipt().await, Some(5));
    let told = |client: &Client| client.status().acknowledged;
    while told(&client) != Some(version(5)) {
        node.send(&[heartbeat(5)]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let counters = client.status().counters;
    assert_eq!((counters.receipts, counters.receipt_failures), (2, 0));
    assert!(client.status().is_fresh());
    // The next one is told anew: what was sent last by the one before may not have arrived.
    drop(node);
    let request = requests.recv().await.unwrap();
    assert_eq!(request.since(), Some(5));
    let mut node = request.switch().await;
    node.send(&[hello("A", Intent::None, 5)]).await;
    assert_eq!(node.receipt().await, Some(5));
    assert_eq!(net.opened(), 2, "one connection for each stream");
    assert!(posted.try_recv().is_err());
    // Who goes says so by closing.
    drop(client);
    assert_eq!(node.receipt().await, None);
}

#[tokio::test(start_paused = true)]
async fn frames_that_come_in_single_bytes_are_frames() {
    let (net, mut requests) = Net::new();
    let (client, mut node) = connected(&net, &mut requests).await;
    let frame = encode(&delta_message(0, 4, 5), Ages::default());
    for byte in frame.chunks(1) {
        node.bytes(byte).await;
        tokio::task::yield_now().await;
    }
    client.wait_for(version(5), LONG).await.unwrap();
    assert_eq!(client.status().counters.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_know_the_switch_is_asked_for_an_ordinary_answer() {
    let (net, mut requests) = Net::new();
    let client = start(&net);
    let request = requests.recv().await.unwrap();
    assert!(request.offers_switch());
    // As some proxies do; a node would have said that it is one.
    request.json(403, &[("server", "proxy")], "");
    for n in 0..4 {
        let request = stream_asked(&mut requests).await;
        assert!(!request.offers_switch(), "{n}");
        let stream = request.stream();
        stream.send(&hello("A", Intent::Full, 4));
        stream.send(&snapshot_message(0, 4));
        client.ready(LONG).await.unwrap();
        stream.cut();
    }
    assert!(stream_asked(&mut requests).await.offers_switch());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_or_is_not_there_is_offered_the_switch_again() {
    let (net, mut requests) = Net::new();
    net.door("n1:1", Door::Refuses);
    let client = start(&net);
    while client.status().counters.failures == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    net.door("n1:1", Door::Open);
    let request = requests.recv().await.unwrap();
    assert!(request.offers_switch());
    request.json(503, &[("pennon-node", "n1")], "");
    let request = requests.recv().await.unwrap();
    assert!(request.offers_switch());
    // One that grants an ordinary answer, too.
    let stream = request.stream_by_node();
    stream.send(&hello("A", Intent::Full, 4));
    while !client.status().is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.cut();
    assert!(stream_asked(&mut requests).await.offers_switch());
}

#[tokio::test(start_paused = true)]
async fn a_switch_after_which_nothing_comes_is_not_asked_for_again_soon() {
    let (net, mut requests) = Net::new();
    let client = start(&net);
    let silent = requests.recv().await.unwrap().switch().await;
    let request = stream_asked(&mut requests).await;
    assert!(!request.offers_switch());
    drop(silent);
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    assert!(client.status().is_fresh());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    let (net, mut requests) = Net::new();
    let (client, mut node) = connected(&net, &mut requests).await;
    node.bytes(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let request = stream_asked(&mut requests).await;
    assert_eq!((request.since(), request.offers_switch()), (Some(4), true));
    let why = client.status().last_error.unwrap().to_string();
    assert!(why.contains("the stream is damaged"), "{why}");
    let mut node = request.switch().await;
    node.send(&[hello("A", Intent::Changes, 5), delta_message(0, 4, 5)])
        .await;
    client.wait_for(version(5), LONG).await.unwrap();
}

/// Answers each connection with the same bytes, once its request is there, and stays open.
#[derive(Clone)]
struct Scripted(Arc<[u8]>);

impl Connector for Scripted {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
        let (client, mut node) = tokio::io::duplex(64 << 10);
        let answer = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                node.read_buf(&mut request).await.unwrap();
            }
            node.write_all(&answer).await.unwrap();
            std::future::pending::<()>().await;
        });
        Box::pin(async { Ok(Box::new(client) as Box<dyn Io>) })
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_the_answer_is_of_the_stream() {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL_FRAMES}\r\n\r\n"
    );
    let messages = [hello("A", Intent::Full, 4), snapshot_message(0, 4)];
    let frames = messages.map(|message| encode(&message, Ages::default()));
    let answer = [head.into_bytes(), frames.concat()].concat();
    let client = Client::builder(["http://n1:1"])
        .environment("production")
        .connector(Scripted(answer.into()))
        .clock(TokioClock::default());
    let client = client.seed(3).start().unwrap();
    client.ready(LONG).await.unwrap();
    let status = client.status();
    assert_eq!((status.counters.connects, status.counters.failures), (1, 0));
}
