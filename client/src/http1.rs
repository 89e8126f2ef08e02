//! One HTTP/1.1 connection over an injected `Connector`, used by the stream and by `Admin`.
//!
//! What must hold: every failure says whether the request can have reached the node, because a
//! write that has must not be called failed (I9); nothing is buffered without a bound.
//!
//! Left out: deadlines (callers drop the future), retries (`admin/attempts.rs`), the stream
//! (`transport.rs`).

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Context;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pennon_evaluator::Version;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::AbortHandle;

use crate::endpoint::{self, Connector, Endpoint};
use crate::error::Error;

/// The most that a connection reads ahead of its reader, in bytes; then the sender has to wait.
const READ_AHEAD_LEN_MAX: usize = 256 << 10;
/// The longest problem document that is read; a longer one is cut out of the error.
pub(crate) const PROBLEM_LEN_MAX: usize = 64 << 10;

const AGENT: &str = concat!("pennon-client/", env!("CARGO_PKG_VERSION"));

/// What stays as it is in a path segment: a key may hold `/` and `:`, which mean something else
/// there.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Encodes a key for use as one segment of a path or one value of a query.
pub(crate) fn segment(key: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(key, SEGMENT)
}

/// A connection that is free for a request. Dropping it closes it.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driving: Driving,
}

type Io = TokioIo<Box<dyn endpoint::Io>>;

/// Who moves the bytes.
enum Driving {
    /// A task of its own.
    Apart { _task: AbortOnDrop },
    /// Whoever waits for something, through [`Connection::drive`]. So what comes wakes one task.
    Here {
        driver: Box<http1::Connection<Io, Full<Bytes>>>,
        /// There are no more bytes for HTTP to move.
        ended: bool,
    },
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The request certainly did not reach the node.
    NotSent(Error),
    /// The node may have acted on it.
    Lost(Error),
}

impl NoAnswer {
    pub(crate) fn into_error(self) -> Error {
        match self {
            NoAnswer::NotSent(error) | NoAnswer::Lost(error) => error,
        }
    }
}

/// What is sent, to whichever endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Path and query, beginning with a slash.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Outgoing {
    fn build(&self, endpoint: &Endpoint) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let uri = format!("{}{}", endpoint.prefix(), self.path);
        *request.uri_mut() = uri
            .parse()
            .map_err(|e| Error::settings(format!("{uri:?} is no path: {e}")))?;
        let host = HeaderValue::from_str(endpoint.authority())
            .map_err(|e| Error::settings(format!("{endpoint}: {e}")))?;
        request.headers_mut().insert(HOST, host);
        let agent = HeaderValue::from_static(AGENT);
        request.headers_mut().insert(USER_AGENT, agent);
        Ok(request)
    }
}

impl Connection {
    /// Opens a connection that lives while somebody waits for something from it: what is awaited goes
    /// through [`Connection::drive`].
    pub(crate) async fn open_here(
        connector: &dyn Connector,
        endpoint: &Endpoint,
    ) -> Result<Connection, Error> {
        let unreachable = |why: &dyn fmt::Display| {
            Error::unreachable(format!("cannot connect: {why}")).at(endpoint)
        };
        let io = connector
            .connect(endpoint)
            .await
            .map_err(|e| unreachable(&e))?;
        let io = match endpoint.tls() {
            Some(tls) => tls.wrap(io, endpoint).await.map_err(|e| unreachable(&e))?,
            None => io,
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(READ_AHEAD_LEN_MAX)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| unreachable(&e))?;
        let driving = Driving::Here {
            driver: Box::new(driver),
            ended: false,
        };
        Ok(Connection { sender, driving })
    }

    /// Opens a connection that lives by itself, also while nobody waits for anything from it.
    pub(crate) async fn open(
        connector: &dyn Connector,
        endpoint: &Endpoint,
    ) -> Result<Connection, Error> {
        let mut connection = Connection::open_here(connector, endpoint).await?;
        if let Driving::Here { driver, .. } = connection.driving {
            let task = tokio::spawn(async move {
                // Its end, good or bad, reaches whoever waits for an answer or a body.
                let _ = driver.await;
            });
            let _task = AbortOnDrop(task.abort_handle());
            connection.driving = Driving::Apart { _task };
        }
        Ok(connection)
    }

    /// Waits for something that comes by this connection, and moves the bytes meanwhile if nobody
    /// else does. Dropping the future loses nothing that dropping `work` does not.
    pub(crate) fn drive<T>(&mut self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.driving.during(work)
    }

    /// Takes the connection itself, which the other side has switched to another protocol, and what came
    /// behind its answer. `None` when HTTP goes on, or when it lives by itself.
    pub(crate) async fn into_switched(self) -> Option<(Box<dyn endpoint::Io>, Bytes)> {
        let Driving::Here { mut driver, ended } = self.driving else {
            return None;
        };
        if !ended {
            poll_fn(|context| driver.poll_without_shutdown(context))
                .await
                .ok()?;
        }
        let parts = driver.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }

    /// Says whether the other side still has the connection open, as far as is known.
    pub(crate) fn is_usable(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        &mut self,
        outgoing: &Outgoing,
        endpoint: &Endpoint,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let request = outgoing.build(endpoint).map_err(NoAnswer::NotSent)?;
        let lost = |e: &hyper::Error| {
            Error::unreachable(format!("the connection failed: {}", causes(e))).at(endpoint)
        };
        let Connection { sender, driving } = self;
        if let Err(error) = driving.during(sender.ready()).await {
            return Err(NoAnswer::NotSent(lost(&error)));
        }
        match driving.during(sender.try_send_request(request)).await {
            Ok(response) => Ok(response),
            Err(mut error) => {
                // hyper hands the request back only when none of it was written.
                let not_sent = error.take_message().is_some(); // I9
                let error = lost(error.error());
                Err(match not_sent {
                    true => NoAnswer::NotSent(error),
                    false => NoAnswer::Lost(error),
                })
            }
        }
    }
}

impl Driving {
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.poll(context);
            work.as_mut().poll(context)
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        if let Driving::Here { driver, ended } = self
            && !*ended
        {
            // Its end, good or bad, reaches whoever waits for an answer or a body. It is not shut down
            // then: it may have been switched to something else.
            *ended = driver.poll_without_shutdown(context).is_ready();
        }
    }
}

/// Reads a whole body, up to a length. Holds at most three times what came
/// of it: it grows by doubling, and what it grows out of is there meanwhile.
pub(crate) async fn read_body(mut body: Incoming, len_max: usize) -> Result<Bytes, Error> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::unreachable(format!("the answer was cut off: {}", causes(&error)))
        })?;
        let Some(piece) = frame.data_ref() else {
            continue;
        };
        if piece.len() > len_max.saturating_sub(whole.len()) {
            return Err(Error::protocol(format!(
                "the answer is longer than {len_max} bytes"
            )));
        }
        // Copied, not collected: a piece keeps the buffer of kilobytes that it was read into.
        whole.extend_from_slice(piece);
    }
    Ok(whole.into())
}

/// Reads the version that an answer was decided at.
pub(crate) fn version_of(headers: &HeaderMap) -> Option<Version> {
    let text = headers.get(pennon_evaluator::wire::HEADER_VERSION)?;
    text.to_str().ok()?.parse().ok()
}

/// Makes the value of an `Authorization` header.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Error::settings("the token has a character that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Shows an error with what caused it; hyper's own text stops at the first.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::endpoint::{Connecting, Io};

    #[test]
    fn a_key_is_one_segment_whatever_it_holds() {
        assert_eq!(segment("a/b:c.d-e_f").to_string(), "a%2Fb%3Ac.d-e_f");
    }

    #[test]
    fn a_token_never_shows() {
        let value = bearer("pn_admin_1_secret").unwrap();
        assert!(!format!("{value:?}").contains("secret"));
        assert!(bearer("a\nb").unwrap_err().is_settings());
    }

    /// A node that sends an answer byte by byte, as slowly as a peer can.
    struct Drip(Arc<[u8]>);

    impl Connector for Drip {
        fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
            let (client, mut server) = tokio::io::duplex(1 << 10);
            let answer = Arc::clone(&self.0);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    server.read_buf(&mut request).await.unwrap();
                }
                for byte in answer.chunks(1) {
                    server.write_all(byte).await.unwrap();
                    // Until it was read: otherwise the next ones would come with it.
                    tokio::task::yield_now().await;
                }
                std::future::pending::<()>().await;
            });
            Box::pin(async { Ok(Box::new(client) as Box<dyn Io>) })
        }
    }

    /// Reads an answer that comes byte by byte; returns it, and what was held at once meanwhile.
    fn read_drip(answer: &[u8], len_max: usize, here: bool) -> (Result<Bytes, Error>, u64) {
        let node = Drip(answer.into());
        let endpoint = Endpoint::parse("http://n1:1").unwrap();
        let outgoing = Outgoing {
            method: Method::GET,
            path: "/v1/x".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let mut body = Ok(Bytes::new());
        let memory = allocation_counter::measure(|| {
            body = runtime.block_on(async {
                let mut connection = match here {
                    true => Connection::open_here(&node, &endpoint).await?,
                    false => Connection::open(&node, &endpoint).await?,
                };
                let tasks = tokio::runtime::Handle::current().metrics();
                // The node's is one.
                assert_eq!(tasks.num_alive_tasks(), if here { 1 } else { 2 });
                let response = connection.send(&outgoing, &endpoint).await;
                let response = response.map_err(NoAnswer::into_error)?;
                let body = read_body(response.into_body(), len_max);
                connection.drive(body).await
            });
        });
        (body, memory.bytes_max)
    }

    #[test]
    fn an_answer_in_single_bytes_is_held_without_the_buffers_it_came_in() {
        const LEN: usize = 64 << 10;
        let content = vec![b'x'; LEN];
        let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        let answers = [
            [whole.into_bytes(), content.clone()].concat(),
            [
                chunked.into_bytes(),
                b"1\r\nx\r\n".repeat(LEN),
                b"0\r\n\r\n".to_vec(),
            ]
            .concat(),
        ];
        let answers = answers.iter();
        for (answer, here) in answers.flat_map(|answer| [(answer, true), (answer, false)]) {
            let (body, held) = read_drip(answer, LEN, here);
            assert!(body.unwrap() == content);
            let held_max = (3 * LEN + (32 << 10)) as u64;
            assert!(held <= held_max, "{held} bytes, not {held_max}");
            let (refused, held) = read_drip(answer, LEN / 4 - 1, here);
            let refused = refused.unwrap_err().to_string();
            assert_eq!(refused, "the answer is longer than 16383 bytes");
            assert!(held <= held_max / 4 + (32 << 10), "{held} bytes");
        }
    }
}
