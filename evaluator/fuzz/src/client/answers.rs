//! Answers to requests of `Admin`: head, body, problem document.
//!
//! The first byte of an input says what was asked.
//!
//! What must hold: there is an answer of a status below 400, or an error that says something; an
//! error about a write that was sent says that the outcome is unknown unless the node refused it
//! (I9); memory is bounded by the bytes that came.

use std::sync::Arc;

use http::{HeaderMap, Method};
use pennon_client::Error;
use pennon_client::admin::{Admin, Answer, Collection, Expected, Resource};
use serde_json::{Value, json};

use super::network::{Node, URL, runtime};
use crate::targets::{Memory, Seen};

/// 160 times the answer is what `Admin` says that it takes, besides the bytes themselves and the
/// head. hyper reads ahead 256 KiB at most, and the pipe and the runtime have buffers. A piece of one
/// byte may be read into a new buffer of 8 KiB.
const ANSWERING: Memory = Memory {
    fixed: 512 << 10,
    refused: 0,
    held_per_byte: 162,
    sum_per_byte: 10 << 10,
};

/// A copy of a tree of JSON, besides the tree.
const COPYING: Memory = Memory {
    fixed: 4 << 10,
    refused: 0,
    held_per_byte: 160,
    sum_per_byte: 320,
};

/// Of what is asked, the one that writes.
const WRITE: u8 = 1;

pub(crate) fn answer(input: &[u8], seen: &mut Seen) {
    let Some((which, bytes)) = input.split_first() else {
        return;
    };
    let (which, piece) = (which % 4, usize::from(which / 4) * 4 + 1);
    let node = Node::new(bytes.to_vec(), piece);
    let asked = ANSWERING.bounds(bytes.len(), || {
        let runtime = runtime();
        runtime.block_on(ask(node, which))
    });
    match asked {
        Ok(None) => seen.note("answer"),
        Ok(Some(answer)) => {
            seen.note("answer");
            assert!(answer.status() < 400);
            let _ = (
                answer.version(),
                answer.staleness(),
                answer.node(),
                answer.etag(),
            );
            COPYING.bounds(bytes.len(), || drop(answer.json::<Value>()));
        }
        Err(error) => {
            seen.note("error");
            assert!(!error.to_string().is_empty());
            assert!(!error.is_settings());
            if let Some(problem) = error.problem() {
                let _ = (problem.slug(), problem.title(), problem.detail());
            }
            // The node read the request: unless it refused, the write may have happened.
            if which == WRITE && error.status().is_none() {
                assert!(error.outcome_unknown(), "I9: {error}");
            }
        }
    }
}

async fn ask(node: Node, which: u8) -> Result<Option<Answer>, Error> {
    let admin = Admin::new([URL], Some("token"), Arc::new(node))?
        .with_attempts_max(1)
        .with_seed(1);
    let flag = Resource::flag("f");
    match which {
        0 => admin.get(&flag).await.map(|_| None),
        WRITE => {
            let value = json!({"type": "boolean"});
            let put = admin.put(&flag, &value, Expected::Absent);
            put.await.map(|_| None)
        }
        2 => admin.list(&Collection::Flags).await.map(|_| None),
        _ => {
            let answer = admin.request(Method::GET, "/v1/x", HeaderMap::new(), None);
            answer.await.map(Some)
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let object = r#"{"key":"f","version":7,"value":{"type":"boolean"}}"#;
    let list = r#"{"items":[{"key":"f","version":7,"value":{}}],"next":null,"version":7}"#;
    let problem =
        r#"{"type":"/problems/conflict","title":"t","status":412,"detail":"d","version":9}"#;
    let head = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nPennon-Version: 7\r\n\
             Pennon-Staleness-Ms: 12\r\nPennon-Node: n1\r\nETag: \"7\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n";
    let answers = [
        head("200 OK", object),
        head("201 Created", object),
        head("200 OK", list),
        head("412 Precondition Failed", problem),
        head("503 Service Unavailable", problem),
        head("204 No Content", ""),
        head("307 Temporary Redirect", ""),
        chunked.to_owned(),
        "HTTP/1.0 200 OK\r\n\r\nuntil the end".to_owned(),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned() + chunked,
    ];
    // Much for its length, whole and in single bytes.
    let swollen = format!(
        r#"{{"value":[{}]}}"#,
        vec!["[".repeat(99) + &"]".repeat(99); 60].join(",")
    );
    let swollen = head("200 OK", &swollen);
    let asked = (0..4_u8).flat_map(|which| {
        let answers = answers.iter();
        answers.map(move |answer| [&[which + 252 / 4 * 4][..], answer.as_bytes()].concat())
    });
    let pieces = [0, 3, 252, 255].map(|steer| [&[steer][..], swollen.as_bytes()].concat());
    asked.chain(pieces).collect()
}
