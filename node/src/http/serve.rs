//! The accept loops: hyper over whatever a listener accepts.
//!
//! Every connection has a limit for its request head (hyper needs a timer for that), a limit for a
//! reader that stops reading, and a place in a bounded number of connections. On shutdown the
//! listener closes first, open connections finish their request, and streams end themselves
//! because their source says goodbye.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::{HttpService, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::bare::{self, Switch};
use crate::http::App;
use crate::hub::Streaming;
use crate::net::{BoxedIo, Listen, Stalling};
use crate::peer::{self, Answering, BODY_LEN_MAX, line};

/// Open connections to the API at most; more wait to be accepted.
const API_CONNECTIONS_MAX: usize = 20_000;

/// Open connections from peers at most.
const PEER_CONNECTIONS_MAX: usize = 1_000;

/// Longest wait for a request's head.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Longest time the other side may take nothing while there is something to send.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept (too many files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the API until `stop`, then until every open connection is done.
pub(crate) async fn serve_api(listener: Box<dyn Listen>, app: Arc<App>, stop: CancellationToken) {
    let router = super::routes::router(app);
    accept(listener, API_CONNECTIONS_MAX, stop, move |io, stop| {
        serve_client(Stalling::new(io, STALL_MAX), router.clone(), stop)
    })
    .await;
}

/// Serves one connection of a client: requests, until one of them makes it a stream.
async fn serve_client(io: Stalling<BoxedIo>, router: axum::Router, stop: CancellationToken) {
    // In a place of its own, which is given back before a stream goes on for hours.
    let switched = Box::pin(serve_requests(io, router, stop)).await;
    let ended = match switched {
        Ok(Some((upgrade, streaming))) => bare::serve(upgrade, streaming).await,
        Ok(None) => Ok(()),
        Err(why) => Err(why),
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "a connection ended");
    }
}

async fn serve_requests(
    io: Stalling<BoxedIo>,
    router: axum::Router,
    stop: CancellationToken,
) -> io::Result<Option<(OnUpgrade, Streaming)>> {
    let (switch, upgrade) = (Switch::default(), Upgrade::default());
    let (to, asked) = (switch.clone(), upgrade.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        if bare::is_asked_for(&request) {
            asked.of(&mut request);
            request.extensions_mut().insert(to.clone());
        }
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    graceful(connection, stop).await?;
    Ok(upgrade.take().zip(switch.take()))
}

/// What a connection is to be once its request is answered, as far as hyper knows.
#[derive(Clone, Default)]
struct Upgrade(Arc<Mutex<Option<OnUpgrade>>>);

impl Upgrade {
    fn of(&self, request: &mut Request<Incoming>) {
        let upgrade = hyper::upgrade::on(request);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }

    fn take(&self) -> Option<OnUpgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves the peers until `stop`, then until every open connection is done.
pub(crate) async fn serve_peers(
    listener: Box<dyn Listen>,
    node: Arc<dyn Answering>,
    stop: CancellationToken,
) {
    accept(listener, PEER_CONNECTIONS_MAX, stop, move |io, stop| {
        serve_peer(Stalling::new(io, STALL_MAX), node.clone(), stop)
    })
    .await;
}

/// Serves one connection of a peer: requests, until one of them asks for a line.
async fn serve_peer(io: Stalling<BoxedIo>, node: Arc<dyn Answering>, stop: CancellationToken) {
    let upgrade = Upgrade::default();
    let asked = upgrade.clone();
    let answering = node.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let response = asks_for_line(&request).then(|| {
            asked.of(&mut request);
            switching()
        });
        let node = answering.clone();
        async move {
            match response {
                Some(response) => Ok(response),
                None => answer_peer(node, request).await,
            }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let served = graceful(connection, stop.clone()).await;
    let ended = match (served, upgrade.take()) {
        (Ok(()), Some(upgrade)) => serve_line(upgrade, node, stop).await,
        (served, _) => served,
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "a connection of a peer ended");
    }
}

async fn serve_line(
    upgrade: OnUpgrade,
    node: Arc<dyn Answering>,
    stop: CancellationToken,
) -> io::Result<()> {
    let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    let answer = async |path: String, body: Bytes| peer::answer(&*node, &path, &body).await;
    line::serve(io, stop, answer).await
}

fn asks_for_line(request: &Request<Incoming>) -> bool {
    request.uri().path() == "/peer/line"
        && request
            .headers()
            .get(UPGRADE)
            .is_some_and(|protocol| protocol == line::PROTOCOL)
}

fn switching() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(line::PROTOCOL));
    response
}

async fn accept<F>(
    mut listener: Box<dyn Listen>,
    connections_max: usize,
    stop: CancellationToken,
    serve: impl Fn(BoxedIo, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept_one(&mut listener, &places) => accepted,
        };
        match accepted {
            Ok((io, place)) => {
                let connection = serve(io, stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(why) => {
                tracing::warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn accept_one(
    listener: &mut Box<dyn Listen>,
    places: &Arc<Semaphore>,
) -> io::Result<(BoxedIo, tokio::sync::OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (io, _from) = listener.accept().await?;
    Ok((io, place))
}

/// Runs a connection; on `stop` it finishes the request it is at and closes.
async fn graceful<I, S, B>(
    connection: UpgradeableConnection<I, S>,
    stop: CancellationToken,
) -> io::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    served.map_err(io::Error::other)
}

async fn answer_peer(
    node: Arc<dyn Answering>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request
        .uri()
        .path()
        .strip_prefix("/peer/")
        .unwrap_or_default()
        .to_owned();
    let answered = match Limited::new(request.into_body(), BODY_LEN_MAX)
        .collect()
        .await
    {
        Ok(body) => peer::answer(node.as_ref(), &path, &body.to_bytes()).await,
        Err(why) => Err((StatusCode::PAYLOAD_TOO_LARGE, why.to_string())),
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err((status, why)) => (status, Bytes::from(why)),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}
