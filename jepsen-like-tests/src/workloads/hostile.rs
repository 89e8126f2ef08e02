//! W10: bytes that no client sends, at every node, while the others work. What must hold is that
//! nobody else notices: the nodes neither end nor stop answering, and nothing is changed by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Site;
use crate::failure::Result;

/// Longest wait for an answer, or for the end of the connection.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A node that sends more than that has answered.
const ANSWER_LEN_MAX: usize = 64 * 1024;
/// Bytes sent at once.
const BYTES_MAX: usize = 100_000;

/// Starts one such client; `peers` are the addresses where nodes listen for each other. It counts
/// what it sent.
pub fn start(
    site: &Site,
    client: u32,
    peers: Vec<String>,
    sent: Arc<AtomicU64>,
) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    let site = site.clone();
    tasks.spawn(async move {
        let mut random = site.random(client);
        let mut node = 0;
        while !site.is_over() {
            node += 1;
            let address = match random.random_range(0..4) {
                0 => peers[node % peers.len()].clone(),
                _ => site.way(client, node).1,
            };
            let bytes = message(&mut random, &site.environment);
            let ends = random.random_bool(0.5);
            let sending = send(&address, &bytes, ends);
            // A node that is away hears nothing; that is the nemesis's part.
            if tokio::time::timeout(ANSWER_MAX, sending)
                .await
                .is_ok_and(|sent| sent.is_ok())
            {
                sent.fetch_add(1, Ordering::Relaxed);
            }
            site.rest(Duration::from_millis(random.random_range(5..=100)))
                .await;
        }
        Ok(())
    });
    tasks
}

/// Sends bytes, says or does not say that this was all, and reads what comes.
async fn send(address: &str, bytes: &[u8], ends: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    if ends {
        stream.shutdown().await?;
    }
    let mut answer = vec![0; ANSWER_LEN_MAX];
    let reading = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut answer));
    // Silence is an answer to what is no request.
    let _ = reading.await;
    Ok(())
}

fn garbage(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(1..BYTES_MAX);
    (0..length).map(|_| random.random()).collect()
}

/// A request that says that its body has so many bytes.
fn request(head: &str, body: &[u8], says: usize) -> Vec<u8> {
    let head = format!(
        "{head} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {says}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Draws bytes that change nothing, whatever a node makes of them.
fn message(random: &mut StdRng, environment: &str) -> Vec<u8> {
    match random.random_range(0..12) {
        0 => garbage(random),
        1 => {
            let body = garbage(random);
            request("POST /v1/changes", &body, body.len())
        }
        2 => {
            let depth = random.random_range(100..40_000);
            let body = "[".repeat(depth).into_bytes();
            request("POST /v1/changes", &body, body.len())
        }
        3 => {
            let body = br#"[{"op":"put","kind":"flag","key":"x","value":{"type":"nothing"}}]"#;
            request("POST /v1/changes", body, body.len())
        }
        // A body that never comes, or not all of it.
        4 => request("PUT /v1/flags/hostile", b"{", 1_000_000),
        5 => request("PUT /v1/flags/hostile", b"{}", usize::MAX / 2),
        6 => format!(
            "GET /{} HTTP/1.1\r\nhost: x\r\n\r\n",
            "a".repeat(random.random_range(1..60_000))
        )
        .into_bytes(),
        7 => format!(
            "GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n",
            "x: y\r\n".repeat(random.random_range(1..3_000))
        )
        .into_bytes(),
        8 => format!(
            "GET /v1/environments/{environment}/stream?since={} HTTP/1.1\r\nhost: x\r\n\r\n",
            u64::MAX
        )
        .into_bytes(),
        9 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        10 => {
            let calls = [
                "raft/append",
                "raft/vote",
                "raft/snapshot",
                "write",
                "judgement",
                "join",
                "announce",
            ];
            let call = calls[random.random_range(0..calls.len())];
            let body = garbage(random);
            request(&format!("POST /{call}"), &body, body.len())
        }
        _ => {
            let name: String = (0..300)
                .map(|_| char::from(random.random_range(b'!'..=b'~')))
                .collect();
            let name = name.replace(['\r', '\n', ' '], "");
            request(
                &format!("POST /v1/environments/{environment}/evaluate/{name}"),
                b"{\"subject_key\":7}",
                17,
            )
        }
    }
}
