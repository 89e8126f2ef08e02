//! A network of one node, which answers the first request with given bytes and then hangs up, and
//! takes receipts.
//! Nobody waits for real time: the clock of the runtime jumps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pennon_client::{Clock, Connecting, Connector, Endpoint, Io};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) const URL: &str = "http://node:7400";

/// Runs futures on this thread, so that what they allocate is counted.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// The time of the runtime, which jumps.
#[derive(Debug)]
pub(crate) struct Jumping(Instant);

impl Jumping {
    /// Starts now; within the runtime.
    pub(crate) fn start() -> Jumping {
        Jumping(Instant::now())
    }
}

impl Clock for Jumping {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

const RECEIVED: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// Answers one request, and receipts.
#[derive(Clone)]
pub(crate) struct Node {
    bytes: Arc<Vec<u8>>,
    piece: usize,
    /// Requests that were no receipts.
    asked: Arc<AtomicUsize>,
    /// Told when there is a second one: the first answer is over.
    again: Arc<Notify>,
}

impl Node {
    /// A node that sends these bytes in pieces of some length.
    pub(crate) fn new(bytes: Vec<u8>, piece: usize) -> Node {
        Node {
            bytes: Arc::new(bytes),
            piece: piece.max(1),
            asked: Arc::default(),
            again: Arc::default(),
        }
    }

    /// Waits until the first answer is over and another one is asked for.
    pub(crate) async fn left(&self) {
        self.again.notified().await;
    }

    async fn open(self) -> io::Result<Box<dyn Io>> {
        let (client, server) = tokio::io::duplex(64 << 10);
        tokio::spawn(self.serve(server));
        Ok(Box::new(client))
    }

    async fn serve(self, mut server: DuplexStream) -> io::Result<()> {
        let mut request = Vec::new();
        while !holds(&request, b"\r\n\r\n") {
            if server.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        // The client says what it has applied, whenever it likes.
        if holds(&request, b"/receipts HTTP/1.1\r\n") {
            server.write_all(RECEIVED).await?;
        } else if self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            self.again.notify_one();
            return std::future::pending().await;
        } else {
            for piece in self.bytes.chunks(self.piece) {
                server.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
        }
        server.shutdown().await?;
        // What is still written is read, until the other side hangs up too.
        while server.read_buf(&mut request).await? > 0 {}
        Ok(())
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|at| at == part)
}

impl Connector for Node {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
        Box::pin(self.clone().open())
    }
}
