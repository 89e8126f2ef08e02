//! A network of one node, which answers every first request with given bytes and then hangs up.
//! Nobody waits for real time: the clock of the runtime jumps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pennon_client::{Clock, Connecting, Connector, Endpoint, Io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

/// Hands out one connection that works.
#[derive(Clone)]
pub(crate) struct Node {
    bytes: Arc<Vec<u8>>,
    piece: usize,
    connections: Arc<AtomicUsize>,
    /// Told when somebody comes for a second connection: the first one is over.
    again: Arc<Notify>,
}

impl Node {
    /// A node that sends these bytes in pieces of some length.
    pub(crate) fn new(bytes: Vec<u8>, piece: usize) -> Node {
        Node {
            bytes: Arc::new(bytes),
            piece: piece.max(1),
            connections: Arc::default(),
            again: Arc::default(),
        }
    }

    /// Waits until the first connection is over and another one is asked for.
    pub(crate) async fn left(&self) {
        self.again.notified().await;
    }

    async fn open(self) -> io::Result<Box<dyn Io>> {
        if self.connections.fetch_add(1, Ordering::Relaxed) > 0 {
            self.again.notify_one();
            return std::future::pending().await;
        }
        let (client, mut server) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if server.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            for piece in self.bytes.chunks(self.piece) {
                server.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
            server.shutdown().await?;
            // What is still written is read, until the other side hangs up too.
            while server.read_buf(&mut request).await? > 0 {}
            Ok::<(), io::Error>(())
        });
        Ok(Box::new(client))
    }
}

impl Connector for Node {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
        Box::pin(self.clone().open())
    }
}
