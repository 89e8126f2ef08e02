//! HTTP/1.1 over one kept connection, with nothing in between: no retry, no failover, no pool. Over
//! TCP, or over whatever a simulation hands in ([`Dial`]).
//!
//! What must hold: a request that was sent and not answered is told apart from one that was
//! certainly not sent, because the history needs to know.
//!
//! Left out: what the paths mean. `pennon_client::admin` is for programs; it decides by itself when
//! to try again, which a history of single attempts must not, and it costs more per request than a
//! load generator on the same two cores may.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pennon_node::net::{Connect, TcpConnect};
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::failure::{Failure, Result};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The request certainly did not reach a node.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have.
    #[error("no answer: {0}")]
    Lost(String),
}

/// How connections are opened; by TCP unless told otherwise.
#[derive(Clone)]
pub struct Dial(Arc<dyn Connect>);

impl Default for Dial {
    fn default() -> Dial {
        Dial(Arc::new(TcpConnect::default()))
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

impl Dial {
    /// Opens them by something else.
    pub fn by(connect: Arc<dyn Connect>) -> Dial {
        Dial(connect)
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Pennon-Version`: what the answer was decided at.
    pub fn decided(&self) -> Option<u64> {
        self.header("pennon-version")?.parse().ok()
    }

    /// The slug of a problem document; empty when the answer is none.
    pub fn slug(&self) -> String {
        let json = self.json();
        let slug = json["type"]
            .as_str()
            .and_then(|text| text.strip_prefix("/problems/"));
        slug.unwrap_or_default().to_owned()
    }

    /// Status and body in one line.
    pub fn shown(&self) -> String {
        format!(
            "{} {}",
            self.status.as_u16(),
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to `host:port` by TCP.
    ///
    /// # Errors
    /// As [`Connection::dial`].
    pub async fn open(address: &str) -> Result<Connection> {
        Connection::dial(&Dial::default(), address).await
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody accepts within two seconds.
    pub async fn dial(dial: &Dial, address: &str) -> Result<Connection> {
        let connecting = async {
            let io = dial.0.connect(address).await?;
            handshake(TokioIo::new(io))
                .await
                .map_err(std::io::Error::other)
        };
        let (sender, driver) = match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(connected) => connected.map_err(|why| Failure::during(address, why))?,
            Err(_) => return Err(Failure::during(address, "connecting took too long")),
        };
        let host = HeaderValue::from_str(address).map_err(Failure::new)?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ = driver.await;
        });
        Ok(Connection {
            sender,
            host,
            driver: driver.abort_handle(),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`NoAnswer`]; the connection is then of no more use.
    pub async fn send(&mut self, call: &Call, within: Duration) -> Result<Answer, NoAnswer> {
        let exchange = async {
            let response = self.begin(call).await?;
            let (head, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|why| NoAnswer::Lost(why.to_string()))?;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(NoAnswer::Lost(format!("nothing within {within:?}"))),
        }
    }

    /// Sends a request and returns as soon as the head of the answer is there.
    ///
    /// # Errors
    /// [`NoAnswer`]; the connection is then of no more use.
    pub async fn begin(&mut self, call: &Call) -> Result<http::Response<Incoming>, NoAnswer> {
        self.sender
            .ready()
            .await
            .map_err(|why| NoAnswer::NotSent(why.to_string()))?;
        let request = call
            .request(&self.host)
            .map_err(|why| NoAnswer::NotSent(why.to_string()))?;
        self.sender
            .send_request(request)
            .await
            .map_err(|why| match why.is_canceled() {
                true => NoAnswer::NotSent(why.to_string()),
                false => NoAnswer::Lost(why.to_string()),
            })
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Call {
        Call {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// `GET`.
    pub fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path)
    }

    /// `PUT` of a JSON value.
    pub fn put(path: impl Into<String>, value: &Value) -> Call {
        Call::new(Method::PUT, path).json(value)
    }

    /// `POST` of a JSON value.
    pub fn post(path: impl Into<String>, value: &Value) -> Call {
        Call::new(Method::POST, path).json(value)
    }

    /// `DELETE`.
    pub fn delete(path: impl Into<String>) -> Call {
        Call::new(Method::DELETE, path)
    }

    /// Sets the body.
    #[must_use]
    pub fn json(mut self, value: &Value) -> Call {
        self.body = Bytes::from(value.to_string());
        self.header("content-type", "application/json")
    }

    /// Sets the body to any text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Call {
        self.body = Bytes::from(text.into());
        self
    }

    /// Adds a header; one that cannot be sent is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Call {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            self.headers.append(name, value);
        }
        self
    }

    /// The object must not exist.
    #[must_use]
    pub fn if_absent(self) -> Call {
        self.header("if-none-match", "*")
    }

    /// The object must be at exactly this version.
    #[must_use]
    pub fn if_at(self, version: u64) -> Call {
        self.header("if-match", &format!("\"{version}\""))
    }

    /// Names the request, so that a retry is recognised.
    #[must_use]
    pub fn request_id(self, id: &str) -> Call {
        self.header("idempotency-key", id)
    }

    fn request(&self, host: &HeaderValue) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path);
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
            headers.insert(http::header::HOST, host.clone());
        }
        request
            .body(Full::new(self.body.clone()))
            .map_err(Failure::new)
    }

    /// Sends it over a TCP connection of its own.
    ///
    /// # Errors
    /// When there is no answer within the time.
    pub async fn to(&self, address: &str, within: Duration) -> Result<Answer> {
        self.over(&Dial::default(), address, within).await
    }

    /// Sends it over a connection of its own that is opened this way.
    ///
    /// # Errors
    /// When there is no answer within the time.
    pub async fn over(&self, dial: &Dial, address: &str, within: Duration) -> Result<Answer> {
        let mut connection = Connection::dial(dial, address).await?;
        let sent = connection.send(self, within).await;
        sent.map_err(|why| {
            Failure::during(format!("{} {} at {address}", self.method, self.path), why)
        })
    }
}
