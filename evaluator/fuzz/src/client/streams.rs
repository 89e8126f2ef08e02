//! Streams to a client: the head of the answer, then frames, as a session takes them.
//!
//! The first byte of an input says how long the pieces are, and the second whether it is the whole
//! answer (0) or the frames of a proper one, with crcs made right first when odd.
//!
//! What must hold: the client goes elsewhere when the stream ends, whatever came; the version that
//! it holds is that of a snapshot that came, and it answers from it for any subject.

use pennon_client::Client;
use pennon_evaluator::wire::MEDIA_TYPE_FRAMES;

use super::network::{Jumping, Node, URL, runtime};
use crate::targets::seeds::subjects;
use crate::targets::{Seen, USING_PATTERNS, frames, seeds};

pub(crate) fn stream(input: &[u8], seen: &mut Seen) {
    let Some(([piece, mode], bytes)) = input.split_first_chunk() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if *mode != 0 {
        if mode % 2 == 1 {
            frames::sealed(&mut bytes);
        }
        bytes = [head().as_bytes(), &bytes].concat();
    }
    let len = bytes.len();
    let node = Node::new(bytes, 1 + usize::from(*piece) * 4);
    USING_PATTERNS.bounds(len, || runtime().block_on(follow(node, seen)));
}

async fn follow(node: Node, seen: &mut Seen) {
    let client = Client::builder([URL])
        .environment("production")
        .connector(node.clone())
        .clock(Jumping::start())
        .seed(1)
        .start()
        .unwrap();
    node.left().await;
    let status = client.status();
    assert_eq!(status.version, client.version());
    seen.note(if client.is_ready() {
        "held"
    } else {
        "nothing held"
    });
    let counters = status.counters;
    for (count, what) in [
        (counters.snapshots, "snapshot"),
        (counters.deltas, "delta"),
        (counters.goodbyes, "goodbye"),
        (counters.receipts, "receipt"),
        (counters.renewals, "renewal"),
    ] {
        if count > 0 {
            seen.note(what);
        }
    }
    assert!(!client.is_ready() || counters.snapshots > 0);
    assert!(counters.failures + counters.goodbyes + counters.renewals > 0);
    for subject in subjects() {
        for flag in ["f", "base", "f0", "heavy"] {
            let found = client.evaluate(flag, subject);
            drop(format!("{found:?}"));
            let _ = client.json(flag, subject, serde_json::Value::Null);
        }
    }
}

fn head() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE_FRAMES}\r\n\r\n")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let streams = seeds::stream();
    let mut inputs: Vec<Vec<u8>> = streams
        .iter()
        .step_by(2)
        .map(|stream| [&[63, 1][..], stream].concat())
        .collect();
    let whole = streams.iter().step_by(7);
    inputs.extend(whole.map(|stream| [&[5, 0], head().as_bytes(), stream].concat()));
    let refused =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}";
    inputs.push([&[255, 0][..], refused.as_bytes()].concat());
    inputs
}
