//! The default connector over loopback, without any stand-in: sockets, the system's clock, a real
//! runtime.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{Net, hello};
use common::states::{snapshot_message, version};
use pennon_client::{Client, Freshness, Subject};
use pennon_evaluator::wire::Intent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_connects_over_tcp_and_reads_its_environment() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (net, mut requests) = Net::new();
    let node = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        net.serve("n1", socket);
        let stream = requests.recv().await.unwrap().stream();
        stream.send(&hello("A", Intent::Full, 5));
        stream.send(&snapshot_message(0, 5));
        stream.closed().await;
    });

    // Port 1 refuses; whichever is tried first, the client ends up at the node.
    let urls = [url.as_str(), "http://127.0.0.1:1"];
    let client = Client::builder(urls)
        .environment("production")
        .connect()
        .await
        .unwrap();
    let subject = Subject::new("user-42");
    let evaluation = client.evaluate("dark", &subject);
    assert_eq!(evaluation.variant(), Some("on"));
    assert_eq!(evaluation.freshness(), Freshness::Fresh);
    assert!(evaluation.age() < Some(Duration::from_secs(10)));
    assert_eq!(client.version(), Some(version(5)));
    drop(client);
    node.await.unwrap();
}
