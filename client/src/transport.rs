//! The background task of a client: connections, bytes and time around the session.
//!
//! The order, for every event: read the clock, tell the session, do its effects in their order
//! (make the new state readable, then say that it changed), publish the status. The clock is read
//! *before* a request is written, and that instant is what ages are counted from (I5).
//!
//! What must hold: no buffer without a bound (hyper reads ahead `http1::READ_AHEAD_LEN_MAX`, the
//! decoder holds one frame of at most `FRAME_LEN_MAX_DEFAULT`); every wait ends, because the
//! session names a time for each; dropping the task closes the connection, and so does dropping the
//! last client, after which only the disk cache is written for the last time.
//!
//! Left out: every decision. They are the session's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use pennon_evaluator::Version;
use pennon_evaluator::wire::{FrameDecoder, HEADER_NODE, MEDIA_TYPE_FRAMES, PROTOCOL_FRAMES};
use tokio::sync::oneshot;

use crate::alarm::Alarm;
use crate::bare::{Bare, News, Offered, Offers};
use crate::cache::{Cache, Restored};
use crate::endpoint::{Connector, Endpoint};
use crate::error::Error;
use crate::flags::Shared;
use crate::http1::{self, Connection, Outgoing, PROBLEM_LEN_MAX};
use crate::polling::Poll;
use crate::receipts::Receipts;
use crate::session::{Attempt, Effect, Event, Polled, ReceiptId, Session};

/// What the task needs besides the session.
pub(crate) struct Driver {
    pub(crate) session: Session,
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) environment: String,
    pub(crate) application: Option<String>,
    pub(crate) client_id: String,
    pub(crate) token: Option<HeaderValue>,
    pub(crate) link: Link,
    pub(crate) offers: Offers,
    pub(crate) receipts: Receipts,
    pub(crate) cache: Option<Cache>,
    pub(crate) bootstrap: Option<Restored>,
}

impl Driver {
    /// Runs until the last client is gone, or it is dropped.
    pub(crate) async fn run(mut self, mut gone: oneshot::Receiver<()>) {
        self.restore().await;
        let mut now = self.tell(Event::Start);
        let mut alarm = Alarm::new();
        loop {
            alarm.set(self.session.wake_at(now), now);
            let event = tokio::select! {
                biased;
                _ = &mut gone => break,
                () = alarm.ring() => Event::Tick,
                event = self.link.next() => event,
                event = self.receipts.next() => event,
                event = saved(&mut self.cache) => event,
            };
            now = self.tell(event);
        }
        (self.link, self.receipts) = (Link::Closed, Receipts::default());
        if let Some(cache) = self.cache.take() {
            cache.close(self.session.held().cloned()).await;
        }
    }

    /// Looks for a state to begin with.
    async fn restore(&mut self) {
        if let Some(cache) = &mut self.cache {
            let (restored, ours) = (cache.load().await, cache.is_ours());
            if let Some(restored) = restored {
                self.tell(Event::Restored(restored));
            }
            if ours {
                self.tell(Event::Caching);
            }
        }
        if let Some(bootstrap) = self.bootstrap.take() {
            self.tell(Event::Restored(bootstrap));
        }
    }

    /// Tells the session of an event, and returns when that was.
    fn tell(&mut self, event: Event) -> Duration {
        let now = self.shared.clock.now(); // I5: before the request is written
        let requested = matches!(event, Event::Requested { .. });
        // Bytes of a message to come are nothing to report.
        let is_news = !matches!(event, Event::Bytes { .. });
        let failures = self.session.counters().failures;
        let effects = self.session.on_event(event, now);
        if self.session.counters().failures > failures
            && let Some(error) = self.session.last_error()
        {
            tracing::warn!(environment = self.environment, "trying elsewhere: {error}");
        }
        if requested {
            self.link.request();
        }
        for effect in effects {
            match effect {
                Effect::Disconnect => {
                    self.link = Link::Closed;
                    self.receipts = Receipts::default();
                }
                Effect::Connect {
                    attempt,
                    endpoint,
                    since,
                    cluster_id,
                } => {
                    let mut wanted = self.stream_request(since, cluster_id.as_deref());
                    let offered = self.offers.offer(endpoint);
                    if offered.is_some() {
                        let switch = HeaderValue::from_static("upgrade");
                        wanted.headers.insert(CONNECTION, switch);
                        let to = HeaderValue::from_static(PROTOCOL_FRAMES);
                        wanted.headers.insert(UPGRADE, to);
                    }
                    self.connect(attempt, endpoint, Wanted::Stream(wanted, offered));
                }
                Effect::Poll {
                    attempt,
                    endpoint,
                    since,
                    cluster_id,
                } => {
                    self.receipts.rest();
                    let poll = Poll {
                        environment: self.environment.clone(),
                        application: self.application.clone(),
                        client_id: self.client_id.clone(),
                        headers: self.headers(),
                        since,
                        cluster_id,
                    };
                    self.connect(attempt, endpoint, Wanted::Poll(poll));
                }
                Effect::Publish => self.shared.publish(self.session.held()),
                Effect::Acknowledge {
                    receipt,
                    endpoint,
                    version,
                } => self.acknowledge(receipt, endpoint, version),
                Effect::Save => self.save(),
            }
        }
        let cache = self.cache.as_ref().map(Cache::status);
        if is_news {
            self.shared.report(&self.session, cache, now);
        }
        now
    }

    fn save(&mut self) {
        if let (Some(cache), Some(held)) = (&mut self.cache, self.session.held()) {
            cache.save(Arc::clone(held));
        }
    }

    fn connect(&mut self, attempt: Attempt, endpoint: usize, wanted: Wanted) {
        let Some(endpoint) = self.shared.endpoints.get(endpoint).cloned() else {
            return;
        };
        let connector = Arc::clone(&self.connector);
        let at = endpoint.clone();
        let lone = matches!(wanted, Wanted::Stream(..));
        let opening = Box::pin(async move {
            match lone {
                true => Connection::open_here(&*connector, &at).await,
                false => Connection::open(&*connector, &at).await,
            }
        });
        self.link = Link::Dialing {
            attempt,
            endpoint,
            wanted,
            opening,
        };
    }

    fn acknowledge(&mut self, receipt: ReceiptId, endpoint: usize, version: Version) {
        if let Link::Streaming {
            source: Source::Bare(bare),
            ..
        } = &mut self.link
        {
            return bare.tell(receipt, version);
        }
        let Some(endpoint) = self.shared.endpoints.get(endpoint).cloned() else {
            return;
        };
        let environment = http1::segment(&self.environment);
        let body = serde_json::json!({ "client": self.client_id, "version": version });
        let mut headers = self.headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let outgoing = Outgoing {
            method: Method::POST,
            path: format!("/v1/environments/{environment}/receipts"),
            headers,
            body: Bytes::from(body.to_string()),
        };
        let connector = Arc::clone(&self.connector);
        self.receipts.send(receipt, connector, endpoint, outgoing);
    }

    /// The headers of every request.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        headers
    }

    fn stream_request(&self, since: Option<Version>, cluster_id: Option<&str>) -> Outgoing {
        let environment = http1::segment(&self.environment);
        let client = http1::segment(&self.client_id);
        let mut path = format!("/v1/environments/{environment}/stream?client={client}");
        if let Some(application) = &self.application {
            path.push_str(&format!("&app={}", http1::segment(application)));
        }
        if let Some(since) = since {
            path.push_str(&format!("&since={since}"));
        }
        if let Some(cluster_id) = cluster_id {
            path.push_str(&format!("&cluster={}", http1::segment(cluster_id)));
        }
        let mut headers = self.headers();
        headers.insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPE_FRAMES));
        Outgoing {
            method: Method::GET,
            path,
            headers,
            body: Bytes::new(),
        }
    }
}

/// Waits for the outcome of a write to the disk cache. Dropping the future loses nothing.
async fn saved(cache: &mut Option<Cache>) -> Event {
    match cache {
        Some(cache) => cache.next().await,
        None => std::future::pending().await,
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send>>;
type Polling = Pin<Box<dyn Future<Output = Result<Polled, Refusal>> + Send>>;
type Asking = Pin<Box<dyn Future<Output = Result<(Source, FrameDecoder), Refusal>> + Send>>;

/// What a connection is opened for.
pub(crate) enum Wanted {
    /// Perhaps over the connection itself.
    Stream(Outgoing, Option<Offered>),
    Poll(Poll),
}

/// Where the bytes of a stream come from.
pub(crate) enum Source {
    /// The body of an answer.
    Body(Connection, Incoming),
    /// The connection itself.
    Bare(Bare),
}

/// A stream that was not granted.
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn no_answer(error: Error) -> Refusal {
        Refusal {
            error,
            retry_after: None,
        }
    }

    fn of(self, attempt: Attempt) -> Event {
        Event::Failed {
            attempt,
            error: self.error,
            retry_after: self.retry_after,
        }
    }
}

/// The one connection of a client, wherever it stands. Replacing it closes it.
pub(crate) enum Link {
    Closed,
    Dialing {
        attempt: Attempt,
        endpoint: Endpoint,
        wanted: Wanted,
        opening: Opening,
    },
    /// Open, the request is not written yet.
    Dialed {
        attempt: Attempt,
        endpoint: Endpoint,
        wanted: Wanted,
        connection: Connection,
    },
    Asking {
        attempt: Attempt,
        endpoint: Endpoint,
        asking: Asking,
    },
    Polling {
        attempt: Attempt,
        polling: Polling,
    },
    Streaming {
        attempt: Attempt,
        endpoint: Endpoint,
        source: Source,
        decoder: FrameDecoder,
    },
}

impl Link {
    /// Waits for the next thing to tell the session. Dropping the future loses nothing.
    async fn next(&mut self) -> Event {
        loop {
            match self {
                Link::Closed | Link::Dialed { .. } => std::future::pending().await,
                Link::Dialing { opening, .. } => {
                    let opened = opening.await;
                    return self.dialed(opened);
                }
                Link::Asking { asking, .. } => {
                    let answer = asking.await;
                    if let Some(failed) = self.answered(answer) {
                        return failed;
                    }
                }
                Link::Polling { attempt, polling } => {
                    let (attempt, polled) = (*attempt, polling.await);
                    *self = Link::Closed;
                    return match polled {
                        Ok(polled) => Event::Polled { attempt, polled },
                        Err(refusal) => refusal.of(attempt),
                    };
                }
                Link::Streaming {
                    attempt,
                    endpoint,
                    source,
                    decoder,
                } => {
                    let event = match (pull(*attempt, endpoint, decoder), &mut *source) {
                        (Some(event), _) => event,
                        (None, Source::Body(connection, body)) => {
                            let frame = connection.drive(body.frame()).await;
                            read(*attempt, endpoint, frame, decoder)
                        }
                        (None, Source::Bare(bare)) => {
                            let news = bare.next(decoder).await;
                            read_bare(*attempt, endpoint, news, decoder)
                        }
                    };
                    if let (Event::Message { .. }, Source::Bare(bare)) = (&event, source) {
                        bare.works();
                    }
                    return event;
                }
            }
        }
    }

    fn dialed(&mut self, opened: Result<Connection, Error>) -> Event {
        match (std::mem::replace(self, Link::Closed), opened) {
            (
                Link::Dialing {
                    attempt,
                    endpoint,
                    wanted,
                    ..
                },
                Ok(connection),
            ) => {
                *self = Link::Dialed {
                    attempt,
                    endpoint,
                    wanted,
                    connection,
                };
                Event::Requested { attempt }
            }
            (Link::Dialing { attempt, .. }, Err(error)) => failed(attempt, error),
            _ => Event::Tick,
        }
    }

    /// Writes the request, if the connection is open and waits for that.
    fn request(&mut self) {
        match std::mem::replace(self, Link::Closed) {
            Link::Dialed {
                attempt,
                endpoint,
                wanted: Wanted::Poll(poll),
                connection,
            } => {
                let polling = Box::pin(poll.ask(connection, endpoint));
                *self = Link::Polling { attempt, polling };
            }
            Link::Dialed {
                attempt,
                endpoint,
                wanted: Wanted::Stream(outgoing, offered),
                connection,
            } => {
                let asking = Box::pin(ask(connection, outgoing, offered, endpoint.clone()));
                *self = Link::Asking {
                    attempt,
                    endpoint,
                    asking,
                };
            }
            other => *self = other,
        }
    }

    fn answered(&mut self, answer: Result<(Source, FrameDecoder), Refusal>) -> Option<Event> {
        let Link::Asking {
            attempt, endpoint, ..
        } = std::mem::replace(self, Link::Closed)
        else {
            return None;
        };
        match answer {
            Ok((source, decoder)) => {
                *self = Link::Streaming {
                    attempt,
                    endpoint,
                    source,
                    decoder,
                };
                None
            }
            Err(refusal) => Some(refusal.of(attempt)),
        }
    }
}

/// Takes the next whole message out of what came; nothing when there is none yet.
fn pull(attempt: Attempt, endpoint: &Endpoint, decoder: &mut FrameDecoder) -> Option<Event> {
    match decoder.pull() {
        Ok(Some((ages, message))) => Some(Event::Message {
            attempt,
            ages,
            message,
        }),
        Ok(None) => None,
        Err(error) => {
            let error = Error::protocol(format!("the stream is damaged: {error}"));
            Some(failed(attempt, error.at(endpoint)))
        }
    }
}

/// Takes in what came next: bytes, or the end of the stream.
fn read(
    attempt: Attempt,
    endpoint: &Endpoint,
    frame: Option<hyper::Result<Frame<Bytes>>>,
    decoder: &mut FrameDecoder,
) -> Event {
    match frame {
        Some(Ok(frame)) => {
            if let Some(bytes) = frame.data_ref() {
                decoder.push(bytes);
            }
            // Most messages come in one piece: then that they came is no event of its own.
            pull(attempt, endpoint, decoder).unwrap_or(Event::Bytes { attempt })
        }
        Some(Err(error)) => {
            let error = Error::unreachable(format!("the stream was cut off: {error}"));
            failed(attempt, error.at(endpoint))
        }
        None => ended(attempt, endpoint),
    }
}

/// The same of a connection that is a stream itself.
fn read_bare(
    attempt: Attempt,
    endpoint: &Endpoint,
    news: io::Result<News>,
    decoder: &mut FrameDecoder,
) -> Event {
    match news {
        Ok(News::Bytes) => pull(attempt, endpoint, decoder).unwrap_or(Event::Bytes { attempt }),
        Ok(News::Sent(receipt)) => Event::ReceiptSent { receipt },
        Ok(News::End) => ended(attempt, endpoint),
        Err(error) => {
            let error = Error::unreachable(format!("the stream was cut off: {error}"));
            failed(attempt, error.at(endpoint))
        }
    }
}

fn ended(attempt: Attempt, endpoint: &Endpoint) -> Event {
    let error = Error::unreachable("the node ended the stream without a goodbye");
    failed(attempt, error.at(endpoint))
}

fn failed(attempt: Attempt, error: Error) -> Event {
    Event::Failed {
        attempt,
        error,
        retry_after: None,
    }
}

/// Asks for the stream.
async fn ask(
    mut connection: Connection,
    outgoing: Outgoing,
    mut offered: Option<Offered>,
    endpoint: Endpoint,
) -> Result<(Source, FrameDecoder), Refusal> {
    let no_answer = Refusal::no_answer;
    if let Some(offered) = &mut offered {
        offered.make();
    }
    let response = connection.send(&outgoing, &endpoint).await;
    let response = response.map_err(|e| no_answer(e.into_error()))?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response
            .headers()
            .get(UPGRADE)
            .is_some_and(|to| to == PROTOCOL_FRAMES);
    match offered {
        Some(offered) if switched => {
            let Some((io, behind)) = connection.into_switched().await else {
                let why = "the connection ended when it was switched to frames";
                return Err(no_answer(Error::unreachable(why).at(&endpoint)));
            };
            let mut decoder = FrameDecoder::default();
            decoder.push(&behind);
            return Ok((Source::Bare(Bare::new(io, offered)), decoder));
        }
        // A node understood it, whatever it says; whoever else answers is not asked for it again soon.
        Some(offered) if response.headers().contains_key(HEADER_NODE) => offered.keep(),
        _ => {}
    }
    if response.status() != StatusCode::OK {
        let refusal = refusal(response, &outgoing, &endpoint);
        return Err(connection.drive(refusal).await);
    }
    let media_type = response.headers().get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    if media_type.is_none_or(|found| !found.starts_with(MEDIA_TYPE_FRAMES)) {
        let found = media_type.unwrap_or("nothing");
        let why = format!("the answer is {found:?}, not a stream of frames");
        return Err(no_answer(Error::protocol(why).at(&endpoint)));
    }
    let source = Source::Body(connection, response.into_body());
    Ok((source, FrameDecoder::default()))
}

pub(crate) async fn refusal(
    response: Response<Incoming>,
    outgoing: &Outgoing,
    endpoint: &Endpoint,
) -> Refusal {
    let (head, body) = response.into_parts();
    let retry_after = head.headers.get(RETRY_AFTER);
    let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    // Without its document a refusal still has its status.
    let body = http1::read_body(body, PROBLEM_LEN_MAX).await;
    let version = http1::version_of(&head.headers);
    let error = Error::refused(head.status, version, &body.unwrap_or_default());
    let path = outgoing.path.split('?').next().unwrap_or_default();
    Refusal {
        error: error.during(path).at(endpoint),
        retry_after: seconds.map(Duration::from_secs),
    }
}
