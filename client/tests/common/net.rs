//! Nodes made by hand: real HTTP over in-memory pipes, and the test decides every answer.
//!
//! What must hold: nothing here waits for time. Each request that a client makes is handed to the
//! test, which answers when it likes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pennon_client::{Clock, Connecting, Connector, Endpoint, Io};
use pennon_evaluator::wire::{
    Ages, FrameDecoder, Intent, MEDIA_TYPE_FRAMES, PROTOCOL_FRAMES, SharedFrame, StreamMessage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::states::{environment, version};

/// The clock of tokio, which tests can pause and move.
#[derive(Clone, Debug)]
pub struct TokioClock(Instant);

impl Default for TokioClock {
    fn default() -> TokioClock {
        TokioClock(Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that moves only by hand, as if the machine were suspended meanwhile.
#[derive(Clone, Debug, Default)]
pub struct HandClock(Arc<Mutex<Duration>>);

impl HandClock {
    pub fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// How the next connections to a node go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    #[default]
    Open,
    Refuses,
    /// Connecting never ends.
    Hangs,
    /// The connection opens, and everything sent is lost.
    Swallows,
}

/// The network: nodes by their `host:port`.
#[derive(Clone)]
pub struct Net {
    doors: Arc<Mutex<BTreeMap<String, Door>>>,
    opened: Arc<AtomicUsize>,
    requests: mpsc::UnboundedSender<Request>,
    /// Where receipts go, if the test wants to see them.
    receipts: Arc<Mutex<Option<mpsc::UnboundedSender<Request>>>>,
}

/// A request, as the node got it.
pub struct Request {
    pub node: String,
    pub method: Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    upgrade: OnUpgrade,
    answer: oneshot::Sender<Response<Sent>>,
}

/// The requests of all nodes, in the order they came.
pub type Requests = mpsc::UnboundedReceiver<Request>;

impl Net {
    pub fn new() -> (Net, Requests) {
        let (requests, received) = mpsc::unbounded_channel();
        let (doors, opened) = (Arc::default(), Arc::default());
        let net = Net {
            doors,
            opened,
            requests,
            receipts: Arc::default(),
        };
        (net, received)
    }

    /// Receipts come here from now on. Until then every one is taken and forgotten.
    pub fn receipts(&self) -> Requests {
        let (receipts, received) = mpsc::unbounded_channel();
        *self.receipts.lock().unwrap() = Some(receipts);
        received
    }

    /// How many connections were opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    pub fn door(&self, node: &str, door: Door) {
        self.doors.lock().unwrap().insert(node.to_owned(), door);
    }

    async fn open(self, node: String) -> io::Result<Box<dyn Io>> {
        let door = self.doors.lock().unwrap().get(&node).copied();
        match door.unwrap_or_default() {
            Door::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
            Door::Hangs => std::future::pending().await,
            Door::Swallows => {
                let (client, server) = tokio::io::duplex(64 << 10);
                tokio::spawn(async move {
                    let _kept = server;
                    std::future::pending::<()>().await;
                });
                return Ok(Box::new(client));
            }
            Door::Open => {}
        }
        let (client, server) = tokio::io::duplex(64 << 10);
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.serve(&node, server);
        Ok(Box::new(client))
    }

    /// Lets a node answer what comes over a connection.
    pub fn serve(&self, node: &str, io: impl Io) {
        let (net, node) = (self.clone(), node.to_owned());
        let service = hyper::service::service_fn(move |request| {
            let (net, node) = (net.clone(), node.clone());
            async move { Ok::<_, Infallible>(net.hand_over(node, request).await) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let serving = connection.serve_connection(TokioIo::new(io), service);
            let _ = serving.with_upgrades().await;
        });
    }
}

impl Connector for Net {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(self.clone().open(endpoint.authority().to_owned()))
    }
}

impl Net {
    async fn hand_over(
        &self,
        node: String,
        mut request: http::Request<Incoming>,
    ) -> Response<Sent> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let query = head
            .uri
            .query()
            .unwrap_or("")
            .split('&')
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            });
        let (answer, answered) = oneshot::channel();
        let request = Request {
            node,
            method: head.method,
            path: head.uri.path().to_owned(),
            query: query.collect(),
            headers: head.headers,
            body,
            upgrade,
            answer,
        };
        let is_receipt = request.path.ends_with("/receipts");
        let receipts = self.receipts.lock().unwrap().clone();
        match (is_receipt, receipts) {
            (true, Some(receipts)) => drop(receipts.send(request)),
            (true, None) => request.json(204, &[], ""),
            (false, _) => drop(self.requests.send(request)),
        }
        match answered.await {
            Ok(answer) => answer,
            // A request that the test dropped is never answered and its connection is cut.
            Err(_) => Response::new(Sent::Cut),
        }
    }
}

impl Request {
    /// Answers with JSON.
    pub fn json(self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let answer = answer
            .body(Sent::Whole(Full::from(body.to_owned())))
            .unwrap();
        let _ = self.answer.send(answer);
    }

    /// Refuses with a problem document.
    pub fn problem(self, status: u16, slug: &str, detail: &str) {
        let body = format!(r#"{{"type":"/problems/{slug}","detail":"{detail}"}}"#);
        self.json(
            status,
            &[("content-type", "application/problem+json")],
            &body,
        );
    }

    /// The receipt: who says so, and which version.
    pub fn receipt(&self) -> (String, u64) {
        assert_eq!(self.method, Method::POST);
        assert_eq!(self.path, "/v1/environments/production/receipts");
        assert_eq!(self.headers["content-type"], "application/json");
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let client = body["client"].as_str().unwrap().to_owned();
        (client, body["version"].as_u64().unwrap())
    }

    /// Cuts the connection after the request was read.
    pub fn cut(self) {
        let _ = self.answer.send(Response::new(Sent::Cut));
    }

    /// Grants the stream.
    pub fn stream(self) -> Stream {
        self.stream_as(StatusCode::OK, MEDIA_TYPE_FRAMES)
    }

    pub fn stream_as(self, status: StatusCode, media_type: &str) -> Stream {
        self.stream_with(status, &[("content-type", media_type)])
    }

    /// Grants the stream, by an answer that says that it is a node's.
    pub fn stream_by_node(self) -> Stream {
        let headers = [("content-type", MEDIA_TYPE_FRAMES), ("pennon-node", "n")];
        self.stream_with(StatusCode::OK, &headers)
    }

    fn stream_with(self, status: StatusCode, headers: &[(&str, &str)]) -> Stream {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let answer = answer.body(Sent::Stream(receiver)).unwrap();
        let _ = self.answer.send(answer);
        Stream {
            opened: Instant::now(),
            sender,
        }
    }

    /// Whether it asks for the connection to be switched to frames.
    pub fn offers_switch(&self) -> bool {
        let header = |name: &str| self.headers.get(name).map(|value| value.to_str().unwrap());
        let offered = header("upgrade");
        assert_eq!(offered.is_some(), header("connection") == Some("upgrade"));
        assert!(offered.is_none_or(|offered| offered == PROTOCOL_FRAMES));
        offered.is_some()
    }

    /// Switches the connection to frames.
    pub async fn switch(self) -> Bare {
        assert!(self.offers_switch());
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", PROTOCOL_FRAMES)
            .header("pennon-node", "n");
        let answer = answer.body(Sent::Whole(Full::default())).unwrap();
        let _ = self.answer.send(answer);
        Bare {
            io: TokioIo::new(self.upgrade.await.unwrap()),
            decoder: FrameDecoder::default(),
        }
    }

    /// Checks that it asks for the stream, and resumes from this version.
    pub fn since(&self) -> Option<u64> {
        assert_eq!(self.path, "/v1/environments/production/stream");
        assert_eq!(self.headers["accept"], MEDIA_TYPE_FRAMES);
        self.query.get("since").map(|since| since.parse().unwrap())
    }
}

/// The sending end of a stream. Dropping it ends the stream properly.
pub struct Stream {
    opened: Instant,
    sender: mpsc::UnboundedSender<Option<Bytes>>,
}

impl Stream {
    /// Sends a message of a node that is fresh this moment.
    pub fn send(&self, message: &StreamMessage) {
        let ages = Ages::new(self.opened.elapsed(), Duration::ZERO);
        self.send_aged(message, ages);
    }

    pub fn send_aged(&self, message: &StreamMessage, ages: Ages) {
        self.bytes(encode(message, ages));
    }

    pub fn bytes(&self, bytes: impl Into<Bytes>) {
        let _ = self.sender.send(Some(bytes.into()));
    }

    /// Breaks the connection.
    pub fn cut(self) {
        let _ = self.sender.send(None);
    }

    /// Waits until the client has gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// A connection that was switched to frames. Dropping it closes it.
pub struct Bare {
    io: TokioIo<Upgraded>,
    decoder: FrameDecoder,
}

impl Bare {
    pub async fn send(&mut self, messages: &[StreamMessage]) {
        for message in messages {
            self.bytes(&encode(message, Ages::default())).await;
        }
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The version of the next receipt; none when the client has gone.
    pub async fn receipt(&mut self) -> Option<u64> {
        loop {
            match self.decoder.pull().unwrap() {
                Some((_, StreamMessage::Acknowledge { version })) => return Some(version.get()),
                Some((_, other)) => panic!("the client sent a {}", other.name()),
                None => {}
            }
            let mut piece = [0; 7];
            match self.io.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.decoder.push(&piece[..len]),
            }
        }
    }
}

/// Makes the bytes of a frame.
pub fn encode(message: &StreamMessage, ages: Ages) -> Vec<u8> {
    let frame = SharedFrame::encode(message).unwrap();
    let mut bytes = frame.header(ages).to_vec();
    bytes.extend_from_slice(frame.body());
    bytes
}

pub fn hello(cluster: &str, intent: Intent, at: u64) -> StreamMessage {
    StreamMessage::Hello {
        cluster_id: cluster.to_owned(),
        environment: environment(),
        intent,
        version: version(at),
        staleness_bound_ms: 10_000,
        heartbeat_ms: 1_000,
    }
}

pub fn heartbeat(at: u64) -> StreamMessage {
    StreamMessage::Heartbeat {
        version: version(at),
    }
}

/// The body of an answer.
pub enum Sent {
    Whole(Full<Bytes>),
    Stream(mpsc::UnboundedReceiver<Option<Bytes>>),
    /// Nothing: an error that makes the server break the connection.
    Cut,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let cut = || Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        match self.get_mut() {
            Sent::Whole(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Sent::Stream(receiver) => match receiver.poll_recv(cx) {
                Poll::Ready(Some(Some(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Poll::Ready(Some(None)) => cut(),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Sent::Cut => cut(),
        }
    }
}
