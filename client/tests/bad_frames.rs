//! Frames that a node would never send: out of order, twice, left out, too long, too short, of
//! another kind. Whatever comes, what is held is the content of some version, never an older one
//! than before, and the client asks again from there.
//!
//! Left out, because no client can see it: a node that lies about what is in a version, as with a
//! heartbeat that runs ahead of its data. The tests of the hub are about that.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{Net, Request, Requests, TokioClock, encode, heartbeat, hello};
use common::states::{delta_message, snapshot, snapshot_message, version};
use pennon_client::{Client, Subject};
use pennon_evaluator::wire::{Ages, Intent, StreamMessage};

const LONG: Duration = Duration::from_secs(3_600);

fn start(net: &Net) -> Client {
    Client::builder(["http://n1:1"])
        .environment("production")
        .connector(net.clone())
        .clock(TokioClock::default())
        .seed(3)
        .start()
        .unwrap()
}

fn content(client: &Client) -> i64 {
    client.integer("at", &Subject::new("user-42"), -1)
}

/// A client that holds version 4, with its stream.
async fn holding(net: &Net, requests: &mut Requests) -> (Client, common::net::Stream) {
    let client = start(net);
    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    (client, stream)
}

/// Grants what is asked for, as an honest node at version 11 does.
fn serve(request: Request) -> common::net::Stream {
    let since = request.since();
    let stream = request.stream();
    match since {
        None => {
            stream.send(&hello("A", Intent::Full, 11));
            stream.send(&snapshot_message(0, 11));
        }
        Some(since) => {
            stream.send(&hello("A", Intent::Changes, 11));
            stream.send(&delta_message(0, since, 11));
        }
    }
    stream
}

/// Checks that what is held is what its version was, and returns the version.
fn checked(client: &Client, before: u64) -> u64 {
    let Some(at) = client.version() else {
        assert_eq!(before, 0, "it had {before}");
        return 0;
    };
    let at = at.get();
    assert!(at >= before, "I6: {at} after {before}");
    let changed = common::states::changed_at(at);
    assert_eq!(content(client), changed as i64, "I3 I8: at {at}");
    at
}

/// All orders of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let shorter = orders(last);
    let all = shorter.iter().flat_map(|order| {
        (0..=order.len()).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    });
    all.collect()
}

#[tokio::test(start_paused = true)]
async fn frames_in_any_order_twice_or_left_out_end_in_the_right_state() {
    let frames = [
        hello("A", Intent::Full, 4),
        snapshot_message(0, 4),
        heartbeat(4),
        delta_message(0, 4, 5),
        delta_message(0, 5, 7),
    ];
    let mut cases = orders(frames.len());
    for at in 0..frames.len() {
        let whole: Vec<usize> = (0..frames.len()).collect();
        cases.push(whole.iter().copied().filter(|n| *n != at).collect());
        let twice = |n: usize| if n == at { vec![n, n] } else { vec![n] };
        cases.push(whole.iter().copied().flat_map(twice).collect());
    }
    let mut resynced = 0;
    for case in cases {
        let (net, mut requests) = Net::new();
        let client = start(&net);
        let stream = requests.recv().await.unwrap().stream();
        let mut before = 0;
        for n in &case {
            stream.send(&frames[*n]);
            tokio::time::sleep(Duration::from_millis(1)).await;
            before = checked(&client, before);
        }
        if case.is_sorted() && case.len() == 5 {
            assert_eq!(before, 7, "in order");
            continue;
        }
        resynced += 1;
        let stream = match requests.try_recv() {
            Ok(request) => serve(request),
            // It did not matter, or it is not seen yet.
            Err(_) => {
                stream.cut();
                serve(requests.recv().await.unwrap())
            }
        };
        client.wait_for(version(11), LONG).await.unwrap();
        assert_eq!(checked(&client, before), 11, "{case:?}");
        drop(stream);
    }
    assert_eq!(resynced, 129);
}

/// Frames whose checksum is right and that are wrong otherwise.
fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&frame[8..]).to_le_bytes();
    frame[4..8].copy_from_slice(&crc);
    frame
}

#[tokio::test(start_paused = true)]
async fn frames_of_a_wrong_length_kind_or_format_are_refused_whatever_their_checksum_says() {
    let delta = encode(&delta_message(0, 4, 5), Ages::default());
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = delta.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let length = |len: u32| with(0, &len.to_le_bytes());
    let true_len = u32::from_le_bytes(delta[..4].try_into().unwrap());
    let mut longer = length(true_len + 1);
    longer.push(0);
    let cases = [
        ("no length", length(0)),
        ("shorter than a header", length(17)),
        ("longer than any frame", length(u32::MAX)),
        (
            "a byte short",
            sealed(length(true_len - 1)[..delta.len() - 1].to_vec()),
        ),
        ("a byte more", sealed(longer)),
        ("wrong checksum", with(4, &[0; 4])),
        ("another kind", sealed(with(8, &[1]))),
        ("a kind that nobody knows", sealed(with(8, &[200]))),
        ("a newer format", sealed(with(9, &[9]))),
        ("no body", sealed(length(18)[..26].to_vec())),
        (
            "text",
            b"HTTP/1.1 500 Internal Server Error\r\n\r\n".to_vec(),
        ),
    ];
    for (what, frame) in cases {
        let (net, mut requests) = Net::new();
        let (client, stream) = holding(&net, &mut requests).await;
        stream.bytes(frame);
        let within = Duration::from_secs(5);
        let request = tokio::time::timeout(within, requests.recv()).await;
        let request = request.unwrap_or_else(|_| panic!("{what}: not noticed"));
        assert_eq!(content(&client), 4, "{what}");
        let error = client.status().last_error.unwrap().to_string();
        assert!(error.contains("damaged"), "{what}: {error}");
        let stream = serve(request.unwrap());
        client.wait_for(version(11), LONG).await.unwrap();
        assert_eq!(checked(&client, 4), 11, "{what}");
        drop(stream);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_begun_at_another_version_is_never_joined_on() {
    let older = StreamMessage::snapshot(&snapshot(0, 2));
    for (what, message) in [
        ("a later base", delta_message(0, 5, 7)),
        ("an earlier base", delta_message(0, 2, 5)),
        ("an older snapshot", older),
    ] {
        let (net, mut requests) = Net::new();
        let (client, stream) = holding(&net, &mut requests).await;
        stream.send(&message);
        let request = requests.recv().await.unwrap();
        assert_eq!(checked(&client, 4), 4, "{what}");
        let stream = serve(request);
        client.wait_for(version(11), LONG).await.unwrap();
        assert_eq!(checked(&client, 4), 11, "{what}");
        drop(stream);
    }
}
