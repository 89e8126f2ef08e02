//! The lines to peers: one for each address, opened when it is first needed and again when it has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::line::{CALL_LEN_MAX, Called, Line, PROTOCOL};
use super::{CONNECT_MAX, Http, PeerError, chain};

/// How long a peer that knows no lines is called over HTTP before it is asked again.
const HTTP_FOR: Duration = Duration::from_secs(10);

/// All lines of a node. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<BTreeMap<String, Arc<Slot>>>>);

/// What comes of opening: `None` from a peer that knows no lines.
type Opened = Result<Option<Arc<Line>>, PeerError>;

#[derive(Default)]
struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    line: Option<Arc<Line>>,
    /// Shared by all who wait for it, and on its way whoever goes away: whoever has little time would
    /// never see it done.
    opening: Option<Shared<BoxFuture<'static, Opened>>>,
    http_until: Option<Instant>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, opened: &Opened) {
        let mut state = self.state();
        state.opening = None;
        match opened {
            Ok(Some(line)) => state.line = Some(line.clone()),
            Ok(None) => state.http_until = Some(Instant::now() + HTTP_FOR),
            Err(_) => {}
        }
    }
}

impl Lines {
    /// Calls a peer over its line; `None` if that call has to go over HTTP.
    pub(super) async fn call(
        &self,
        http: &Http,
        address: &str,
        path: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Option<Called> {
        if body.len() > CALL_LEN_MAX {
            return None;
        }
        let line = tokio::time::timeout_at(deadline, self.line(http, address)).await;
        match line {
            Ok(Ok(line)) => Some(line?.call(path, body, deadline).await),
            Ok(Err(why)) => Some(Called::Failed(why)),
            Err(_) => Some(Called::Failed(late())),
        }
    }

    async fn line(&self, http: &Http, address: &str) -> Opened {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(address) {
                Some(slot) => slot.clone(),
                None => slots.entry(address.to_owned()).or_default().clone(),
            }
        };
        let opening = {
            let mut state = slot.state();
            match &state.line {
                Some(line) if line.is_open() => return Ok(Some(line.clone())),
                _ => state.line = None,
            }
            if state.http_until.is_some_and(|until| Instant::now() < until) {
                return Ok(None);
            }
            let opens = || opening(http.clone(), address.to_owned(), slot.clone());
            state.opening.get_or_insert_with(opens).clone()
        };
        opening.await
    }
}

fn late() -> PeerError {
    PeerError::NotSent("no connection in time".into())
}

fn opening(http: Http, address: String, slot: Arc<Slot>) -> Shared<BoxFuture<'static, Opened>> {
    let task = tokio::spawn(async move {
        let opened = timeout(CONNECT_MAX, open(&http, &address)).await;
        let opened = opened.unwrap_or_else(|_| Err(late()));
        slot.note(&opened);
        opened
    });
    async move {
        let stopped = |_| Err(PeerError::NotSent("the node is stopping".into()));
        task.await.unwrap_or_else(stopped)
    }
    .boxed()
    .shared()
}

/// Asks for a line. Nothing of a call was sent when this fails.
async fn open(http: &Http, address: &str) -> Opened {
    let not_sent = |why: &dyn std::error::Error| PeerError::NotSent(chain(why));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/peer/line"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Full::<Bytes>::default())
        .map_err(|why| not_sent(&why))?;
    let response = http.request(request).await.map_err(|why| not_sent(&why))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let upgraded = hyper::upgrade::on(response).await;
    let io = upgraded.map_err(|why| not_sent(&why))?;
    Ok(Some(Arc::new(Line::new(TokioIo::new(io)))))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use hyper::service::service_fn;
    use pennon_raft_store::raft::Member;
    use tokio_util::sync::CancellationToken;

    use super::super::{Answering, http_client};
    use super::*;
    use crate::core::Core;
    use crate::formation::{Hello, Invitation};
    use crate::http::serve::serve_peers;
    use crate::net::{self, BoxedIo, Connect, Listen, MemoryListener, MemoryNetwork};

    /// A node that says hello.
    struct Alone;

    impl Answering for Alone {
        fn core(&self) -> Option<Arc<Core>> {
            None
        }

        fn hello(&self) -> Hello {
            let text = String::from;
            Hello {
                node: 7,
                member: Member {
                    name: text("n"),
                    api: text("a:1"),
                    peer: text("peer:1"),
                },
                cluster: None,
                formed: false,
                expect: 3,
                learner: false,
                feature_level: 1,
                cluster_level: None,
            }
        }

        fn join(&self, _: Invitation) -> net::BoxFuture<'_, Result<(), String>> {
            Box::pin(std::future::ready(Err("no".into())))
        }
    }

    /// Counts what it accepts.
    struct Counting(MemoryListener, Arc<AtomicUsize>);

    impl Listen for Counting {
        fn accept(&mut self) -> net::BoxFuture<'_, io::Result<(BoxedIo, String)>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.accept()
        }

        fn address(&self) -> String {
            self.0.address()
        }
    }

    /// A network with a node at `peer:1`, and how often it waited for a connection.
    fn served() -> (MemoryNetwork, Arc<AtomicUsize>) {
        let network = MemoryNetwork::new();
        let accepts = Arc::new(AtomicUsize::new(0));
        let listener = Counting(network.listen("peer:1"), accepts.clone());
        let (listener, node) = (Box::new(listener), Arc::new(Alone));
        tokio::spawn(serve_peers(listener, node, CancellationToken::new()));
        (network, accepts)
    }

    struct Caller {
        http: Http,
        lines: Lines,
    }

    impl Caller {
        fn new(connect: impl Connect) -> Caller {
            Caller {
                http: http_client(Arc::new(connect)),
                lines: Lines::default(),
            }
        }

        async fn hello(&self, within: Duration) -> Option<Called> {
            let deadline = Instant::now() + within;
            let lines = &self.lines;
            lines
                .call(&self.http, "peer:1", "hello", b"", deadline)
                .await
        }

        #[track_caller]
        fn is_answered(called: Option<Called>) -> bool {
            match called {
                Some(Called::Answered(status, body)) => {
                    assert_eq!((status, body.is_empty()), (StatusCode::OK, false));
                    true
                }
                _ => false,
            }
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn one_line_carries_everything_and_is_opened_again_when_it_has_ended() {
        let (network, accepts) = served();
        let caller = Caller::new(network.at("here"));
        let calls = (0..100).map(|_| caller.hello(LONG));
        for called in futures_util::future::join_all(calls).await {
            assert!(Caller::is_answered(called));
        }
        assert_eq!(accepts.load(Ordering::Relaxed), 2, "it waits for a second");
        network.cut("peer:1", true);
        for _ in 0..2 {
            let called = caller.hello(LONG).await;
            assert!(matches!(called, Some(Called::Failed(_))));
        }
        network.cut("peer:1", false);
        assert!(Caller::is_answered(caller.hello(LONG).await));
        assert_eq!(accepts.load(Ordering::Relaxed), 3);
    }

    /// Takes longer to connect than anybody here waits.
    struct Slow(MemoryNetwork);

    const CONNECTING: Duration = Duration::from_millis(500);

    impl Connect for Slow {
        fn connect(&self, address: &str) -> net::BoxFuture<'static, io::Result<BoxedIo>> {
            let connecting = self.0.connect(address);
            Box::pin(async move {
                tokio::time::sleep(CONNECTING).await;
                connecting.await
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_opened_also_if_nobody_has_the_time_to_wait_for_it() {
        let (network, _) = served();
        let caller = Caller::new(Slow(network.at("here")));
        for _ in 0..4 {
            let called = caller.hello(CONNECTING / 4).await;
            assert!(matches!(
                called,
                Some(Called::Failed(PeerError::NotSent(_)))
            ));
        }
        assert!(Caller::is_answered(caller.hello(CONNECTING / 4).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_knows_no_lines_is_asked_for_one_now_and_then() {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("peer:1");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let serving = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let count = count.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    assert_eq!(request.uri().path(), "/peer/line");
                    count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        request.into_body().collect().await?;
                        let mut response = http::Response::new(Full::<Bytes>::default());
                        *response.status_mut() = StatusCode::NOT_FOUND;
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .header_read_timeout(None)
                    .serve_connection(TokioIo::new(io), service);
                tokio::spawn(connection);
            }
        });
        let caller = Caller::new(network.at("here"));
        for times in 1..3 {
            for _ in 0..3 {
                assert!(caller.hello(LONG).await.is_none(), "it goes over HTTP");
                assert_eq!(asked.load(Ordering::Relaxed), times);
            }
            tokio::time::sleep(HTTP_FOR).await;
        }
        let long = vec![0; CALL_LEN_MAX + 1];
        let lines = &caller.lines;
        let deadline = Instant::now() + LONG;
        let called = lines.call(&caller.http, "peer:1", "hello", &long, deadline);
        assert!(called.await.is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        serving.abort();
    }
}
