//! A node at the other end of a client's stream: HTTP over an in-memory pipe, frames as a real node
//! sends them.
//!
//! What must hold: a connection gets a hello, the whole snapshot, then deltas as the content moves
//! on and heartbeats in between, each with how long the stream has been open. The content is always
//! the newest there is, so its own proof of freshness is of the very moment (age zero).
//!
//! Left out: everything else that a node does.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use pennon_client::{Connecting, Connector, Endpoint, Io};
use pennon_evaluator::ConfigSnapshot;
use pennon_evaluator::wire::{Ages, Intent, MEDIA_TYPE_FRAMES, SharedFrame, StreamMessage};
use tokio::sync::{mpsc, watch};

/// What the hello says; the defaults of a real environment.
const STALENESS_BOUND_MS: u64 = 10_000;
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes on their way through the pipe.
const PIPE_LEN: usize = 64 << 10;
/// Frames on their way out.
const QUEUE_LEN: usize = 16;

/// A node of one environment.
#[derive(Clone, Debug)]
pub struct Node {
    content: Arc<watch::Sender<ConfigSnapshot>>,
}

impl Node {
    /// Makes a node that has this content.
    pub fn new(content: ConfigSnapshot) -> Node {
        Node {
            content: Arc::new(watch::Sender::new(content)),
        }
    }

    /// Moves on to a later content. Streams get the delta.
    pub fn publish(&self, content: ConfigSnapshot) {
        self.content.send_replace(content);
    }

    async fn open(self) -> io::Result<Box<dyn Io>> {
        let (client, server) = tokio::io::duplex(PIPE_LEN);
        let service = hyper::service::service_fn(move |_: http::Request<Incoming>| {
            let answer = self.stream();
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // It ends when the client goes.
            let _ = connection
                .serve_connection(TokioIo::new(server), service)
                .await;
        });
        Ok(Box::new(client))
    }

    fn stream(&self) -> Response<Frames> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let content = self.content.subscribe();
        // Ends with the connection: sending fails then.
        tokio::spawn(async move {
            let _ = serve(content, sender).await;
        });
        let mut answer = Response::new(Frames(receiver));
        let media_type = http::HeaderValue::from_static(MEDIA_TYPE_FRAMES);
        answer
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, media_type);
        answer
    }
}

impl Connector for Node {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
        Box::pin(self.clone().open())
    }
}

/// Sends until the other end is gone.
async fn serve(
    mut content: watch::Receiver<ConfigSnapshot>,
    sender: mpsc::Sender<Bytes>,
) -> crate::Result<()> {
    let opened = Instant::now();
    let mut have = content.borrow_and_update().clone();
    let hello = StreamMessage::Hello {
        cluster_id: "bench".to_owned(),
        environment: have.environment().clone(),
        intent: Intent::Full,
        version: have.version(),
        staleness_bound_ms: STALENESS_BOUND_MS,
        heartbeat_ms: HEARTBEAT.as_millis() as u64,
    };
    sender.send(encode(&hello, opened)?).await?;
    sender
        .send(encode(&StreamMessage::snapshot(&have), opened)?)
        .await?;
    loop {
        let message = match tokio::time::timeout(HEARTBEAT, content.changed()).await {
            Ok(changed) => {
                changed?;
                let next = content.borrow_and_update().clone();
                let delta = ConfigSnapshot::diff(&have, &next);
                have = next;
                StreamMessage::delta(&delta)
            }
            Err(_) => StreamMessage::Heartbeat {
                version: have.version(),
            },
        };
        sender.send(encode(&message, opened)?).await?;
    }
}

fn encode(message: &StreamMessage, opened: Instant) -> crate::Result<Bytes> {
    let ages = Ages::new(opened.elapsed(), Duration::ZERO);
    Ok(frame(message, ages)?.into())
}

/// Makes the bytes of a frame.
///
/// # Errors
/// When the message is too long for a frame.
pub fn frame(message: &StreamMessage, ages: Ages) -> crate::Result<Vec<u8>> {
    let frame = SharedFrame::encode(message)?;
    let mut bytes = frame.header(ages).to_vec();
    bytes.extend_from_slice(frame.body());
    Ok(bytes)
}

/// The body of the answer.
struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        self.get_mut()
            .0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
