//! The client for people and programs that write: flags, policies, segments, environments,
//! applications, settings.
//!
//! What must hold: every write carries an idempotency key, so that sending it again is safe (I9);
//! an error of which `outcome_unknown()` is true is the only way in which a write that may have
//! happened comes back; an answer takes at most 160 times its length while it is read;
//! nothing here is on the evaluation path.
//!
//! Left out: when a request is tried again (`attempts.rs`), paths and shapes (`objects.rs`), lists in
//! pages (`pages.rs`), what was (`history.rs`, `audit.rs`), what a node decides (`evaluate.rs`), what
//! it would stream (`snapshot.rs`), who is there (`cluster.rs`), who has what (`receipts.rs`), files
//! (`download.rs`).

mod attempts;
mod audit;
mod cluster;
mod download;
mod evaluate;
mod history;
mod objects;
mod pages;
mod receipts;
mod snapshot;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH,
};
use http::{HeaderMap, HeaderValue, Method};
use pennon_evaluator::Version;
use pennon_evaluator::wire::{HEADER_NODE, HEADER_STALENESS_MS};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::attempts::{Limits, Pool, RawAnswer, Repeat};
use crate::endpoint::{Connector, Endpoint};
use crate::error::Error;
use crate::http1::{self, Outgoing};

pub use self::audit::{Audit, AuditFilter, AuditLine, Moment};
pub use self::cluster::{Cluster, Member, MemberChanged, Role};
pub use self::evaluate::{Evaluation, EvaluationList, Explanation, Trace};
pub use self::history::{History, HistoryLine, Op, Replaced};
pub use self::objects::{
    Change, ChangeWritten, ChangesWritten, Collection, Expected, Kind, List, Object, Resource,
    Written,
};
pub use self::pages::{Page, Pages};
pub use self::receipts::{
    Ack, Delivery, EnvironmentStatus, FlagStatus, Laggard, LaggardState, LastChange, NodePart,
    Receipts,
};
pub use self::snapshot::EnvironmentSnapshot;

/// The header under which a write is known when it comes again.
pub const HEADER_IDEMPOTENCY_KEY: &str = "Idempotency-Key";

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// The longest time that can be set; about a year, so that instants do not overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Paths of changes that no node knows again: they are not sent twice, or the second would be refused because
/// the first was done.
const NOT_REMEMBERED: [&str; 2] = ["/v1/cluster/members/", "/v1/cluster:transfer-leader"];
/// Attempts per endpoint, over all rounds.
const ROUNDS_MAX: u32 = 3;

/// Reads and writes ground state through any node.
///
/// It keeps connections open, goes to another node when one cannot be reached, and sends a write
/// again only where that is safe. Cloning is cheap; clones share the connections.
///
/// ```no_run
/// use std::sync::Arc;
/// use pennon_client::TcpConnector;
/// use pennon_client::admin::{Admin, Expected, Resource};
/// use serde_json::json;
/// # async fn example() -> Result<(), pennon_client::Error> {
/// let urls = ["http://127.0.0.1:7400", "http://127.0.0.1:7401"];
/// let admin = Admin::new(urls, None, Arc::new(TcpConnector))?;
/// let flag = json!({"key": "dark", "type": "boolean", "variants": {"on": true, "off": false},
///     "off_variant": "off"});
/// let first = admin.put(&Resource::flag("dark"), &flag, Expected::Absent).await?;
/// // Refused: it exists by now.
/// let refusal = admin.put(&Resource::flag("dark"), &flag, Expected::Absent).await.unwrap_err();
/// assert!(refusal.is_conflict() && !refusal.outcome_unknown());
/// admin.delete(&Resource::flag("dark"), Expected::At(first.version)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Admin {
    pool: Arc<Pool>,
    token: Option<HeaderValue>,
    limits: Limits,
    ack: Option<Ack>,
}

/// An answer that is no refusal.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: HeaderMap,
    version: Option<Version>,
    body: Value,
    endpoint: Option<Endpoint>,
}

impl Answer {
    /// Returns the status, below 400.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the version at which the answer was decided (`Pennon-Version`).
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns how stale the answering node was at most (`Pennon-Staleness-Ms`).
    pub fn staleness(&self) -> Option<Duration> {
        let ms = self.header(HEADER_STALENESS_MS)?.parse().ok()?;
        Some(Duration::from_millis(ms))
    }

    /// Returns the name of the answering node (`Pennon-Node`).
    pub fn node(&self) -> Option<&str> {
        self.header(HEADER_NODE)
    }

    /// Returns the entity tag, with its quotes.
    pub fn etag(&self) -> Option<&str> {
        self.header(ETAG.as_str())
    }

    /// Returns any header, by name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the endpoint that answered.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// Returns the body; `null` when there is none. A body that is not JSON is a string.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Returns the body without copying it.
    pub fn into_body(self) -> Value {
        self.body
    }

    /// Reads the body as a type.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(&self.body).map_err(|e| unexpected(&e))
    }
}

impl Admin {
    /// Makes a client for these nodes. Nothing is sent yet.
    ///
    /// # Errors
    /// When a URL or the token is malformed; see [`Endpoint::parse`].
    pub fn new<I>(
        urls: I,
        token: Option<&str>,
        connector: Arc<dyn Connector>,
    ) -> Result<Admin, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let endpoints = Endpoint::parse_all(urls)?;
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let limits = Limits {
            timeout: TIMEOUT_DEFAULT,
            connect: CONNECT_TIMEOUT,
            attempts_max: count.saturating_mul(ROUNDS_MAX),
        };
        let token = token.map(http1::bearer).transpose()?;
        let pool = Arc::new(Pool::new(endpoints, connector));
        Ok(Admin {
            pool,
            token,
            limits,
            ack: None,
        })
    }

    /// Has every write wait, within the timeout and a minute, until nodes or evaluators have it. What came of
    /// that is in the answer (`delivery`); the write stands in any case.
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::admin::Ack;
    /// let waiting = admin.with_ack(Ack::Delivered);
    /// let written = waiting.disable("production", "checkout.new-ui").await?;
    /// match written.delivery {
    ///     Some(delivery) if delivery.complete => println!("everybody has version {}", written.version),
    ///     Some(delivery) => println!("missing: {:?}", delivery.missing().collect::<Vec<_>>()),
    ///     None => println!("the node did not say"),
    /// }
    /// // Refused as it would be without: there is no such flag.
    /// assert!(waiting.disable("production", "chekout").await.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_ack(mut self, ack: Ack) -> Admin {
        self.ack = Some(ack);
        self
    }

    /// Sets how long a request may take, all attempts together; 15 s unless set. A request that
    /// waits on the node (`?timeout=`, `?wait=`) needs more than it waits.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Admin {
        self.limits.timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// Sets how many attempts a request gets, on all endpoints together; three per endpoint
    /// unless set, never less than one.
    #[must_use]
    pub fn with_attempts_max(mut self, attempts_max: u32) -> Admin {
        self.limits.attempts_max = attempts_max.max(1);
        self
    }

    /// Makes idempotency keys and pauses repeatable, for simulations. Two clients with one seed
    /// would use the same keys.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Admin {
        self.pool.reseed(seed);
        self
    }

    /// Sends any request. `path` begins with a slash and may have a query; keys in it are encoded
    /// by the caller ([`Resource::path`] does). A write without an `Idempotency-Key` gets one. A change of
    /// members, which nodes do not know again, is sent once.
    ///
    /// # Errors
    /// Every answer of 400 and above, and no answer at all. See [`Error::outcome_unknown`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        self.exchange(method, path, headers, body, |raw| Ok(self.answer(raw)))
            .await
    }

    /// The same, with an answer that is read as a type.
    async fn typed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        self.exchange(method, path, headers, body, |raw| self.read(raw))
            .await
    }

    /// Asks something that changes nothing, whatever the method.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let outgoing = self.outgoing(method, path, HeaderMap::new(), body)?;
        let answer = self.pool.send(&outgoing, Repeat::Safe, self.limits);
        self.read(self.accepted(answer.await?)?)
    }

    async fn exchange<T>(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<&Value>,
        read: impl FnOnce(RawAnswer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut outgoing = self.outgoing(method, path, headers, body)?;
        let remembered = !NOT_REMEMBERED.iter().any(|begin| path.starts_with(begin));
        let keyed = outgoing.headers.contains_key(HEADER_IDEMPOTENCY_KEY);
        if !outgoing.method.is_safe() && remembered && !keyed {
            let key = self.pool.random_key();
            let key = HeaderValue::from_str(&key).map_err(|e| Error::settings(e.to_string()))?;
            let name = HeaderName::from_static("idempotency-key");
            outgoing.headers.insert(name, key); // I9: one key for all attempts
        }
        let key = outgoing.headers.get(HEADER_IDEMPOTENCY_KEY);
        let key = key.and_then(|key| key.to_str().ok());
        let repeat = Repeat::of(&outgoing.method, key.is_some() && remembered);
        let result = self.pool.send(&outgoing, repeat, self.limits).await;
        let result = result.and_then(|raw| self.accepted(raw)).and_then(|raw| {
            read(raw).map_err(|error| match repeat {
                Repeat::Safe => error,
                // I9: something was answered that is no refusal.
                Repeat::Keyed | Repeat::Never => error.into_outcome_unknown(),
            })
        });
        result.map_err(|error| match key {
            Some(key) => error.for_write(key),
            None => error,
        })
    }

    fn outgoing(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Option<&Value>,
    ) -> Result<Outgoing, Error> {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let body = match body {
            Some(body) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let body = serde_json::to_vec(body);
                Bytes::from(body.map_err(|e| Error::settings(e.to_string()))?)
            }
            None => Bytes::new(),
        };
        let path = path.to_owned();
        Ok(Outgoing {
            method,
            path,
            headers,
            body,
        })
    }

    /// Turns a refusal into the error that it is.
    fn accepted(&self, raw: RawAnswer) -> Result<RawAnswer, Error> {
        // Also what is beyond 599, of which nobody knows what it means.
        if raw.status.as_u16() < 400 {
            return Ok(raw);
        }
        let version = http1::version_of(&raw.headers);
        let error = Error::refused(raw.status, version, &raw.body);
        Err(self.at(&raw, error))
    }

    fn at(&self, raw: &RawAnswer, error: Error) -> Error {
        match self.pool.endpoint(raw.endpoint) {
            Some(endpoint) => error.at(endpoint),
            None => error,
        }
    }

    /// Reads a body as a type, without a tree of all of it in between.
    fn read<T: DeserializeOwned>(&self, raw: RawAnswer) -> Result<T, Error> {
        serde_json::from_slice(&raw.body).map_err(|e| self.at(&raw, unexpected(&e)))
    }

    fn answer(&self, raw: RawAnswer) -> Answer {
        let text = || Value::String(String::from_utf8_lossy(&raw.body).into_owned());
        let body = match raw.body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&raw.body).unwrap_or_else(|_| text()),
        };
        Answer {
            status: raw.status.as_u16(),
            version: http1::version_of(&raw.headers),
            headers: raw.headers,
            body,
            endpoint: self.pool.endpoint(raw.endpoint).cloned(),
        }
    }
}

fn unexpected(error: &serde_json::Error) -> Error {
    Error::protocol(format!("the answer has an unexpected shape: {error}"))
}

/// The requests that people make most.
impl Admin {
    /// Reads one object, linearizably.
    ///
    /// # Errors
    /// `is_not_found()`, or as [`Admin::request`].
    pub async fn get(&self, resource: &Resource) -> Result<Object, Error> {
        let path = resource.path();
        self.typed(Method::GET, &path, HeaderMap::new(), None).await
    }

    /// Lists objects by key: the first thousand. [`Admin::pages`] goes on from there.
    ///
    /// # Errors
    /// As [`Admin::request`].
    pub async fn list(&self, collection: &Collection) -> Result<List, Error> {
        let path = collection.path();
        self.typed(Method::GET, &path, HeaderMap::new(), None).await
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// `is_conflict()` when the expectation does not hold, `is_invalid()` when the value does not,
    /// or as [`Admin::request`].
    pub async fn put(
        &self,
        resource: &Resource,
        value: &Value,
        expected: Expected,
    ) -> Result<Written, Error> {
        let path = self.waiting(resource.path());
        let headers = precondition(expected)?;
        self.typed(Method::PUT, &path, headers, Some(value)).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// `is_conflict()` when the expectation does not hold, `is_invalid()` when it is still in use,
    /// or as [`Admin::request`].
    pub async fn delete(&self, resource: &Resource, expected: Expected) -> Result<Written, Error> {
        let path = self.waiting(resource.path());
        let headers = precondition(expected)?;
        self.typed(Method::DELETE, &path, headers, None).await
    }

    /// Switches a flag on in an environment.
    ///
    /// # Errors
    /// `is_not_found()`, or as [`Admin::request`].
    pub async fn enable(&self, environment: &str, flag: &str) -> Result<Written, Error> {
        self.switch(environment, flag, "enable").await
    }

    /// Switches a flag off in an environment: the kill switch.
    ///
    /// # Errors
    /// `is_not_found()`, or as [`Admin::request`].
    pub async fn disable(&self, environment: &str, flag: &str) -> Result<Written, Error> {
        self.switch(environment, flag, "disable").await
    }

    async fn switch(&self, environment: &str, flag: &str, to: &str) -> Result<Written, Error> {
        let (environment, flag) = (http1::segment(environment), http1::segment(flag));
        let path = self.waiting(format!("/v1/environments/{environment}/flags/{flag}:{to}"));
        self.typed(Method::POST, &path, HeaderMap::new(), None)
            .await
    }

    /// Makes changes that happen together or not at all, in several environments if need be.
    ///
    /// # Errors
    /// `is_conflict()` when one of the expectations does not hold, `is_not_found()` when something is
    /// to be deleted that is not there, `is_invalid()` when a value is not valid or the list is empty,
    /// or as [`Admin::request`]. Nothing of it happened then.
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::Version;
    /// use pennon_client::admin::{Change, Resource};
    /// let on = serde_json::json!({"enabled": true, "default": {"variant": "on"}});
    /// let put = |environment: &str| Change::put(Resource::policy(environment, "dark"), on.clone());
    /// let written = admin.changes(&[put("staging"), put("production")]).await?;
    /// println!("both at version {}", written.version);
    /// // Refused, both: one of them exists by now.
    /// let again = [put("staging"), put("production").expecting(Version::ZERO)];
    /// assert!(admin.changes(&again).await.is_err_and(|error| error.is_conflict()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn changes(&self, changes: &[Change]) -> Result<ChangesWritten, Error> {
        let body = Value::Array(changes.iter().map(Change::to_json).collect());
        let headers = HeaderMap::new();
        let path = self.waiting("/v1/changes".into());
        self.typed(Method::POST, &path, headers, Some(&body)).await
    }

    /// Adds what a write is to wait for.
    fn waiting(&self, path: String) -> String {
        match self.ack {
            Some(ack) => format!("{path}?{}", ack.query(self.limits.timeout)),
            None => path,
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn precondition(expected: Expected) -> Result<HeaderMap, Error> {
    let (name, value) = match expected {
        Expected::Absent => (IF_NONE_MATCH, "*".to_owned()),
        Expected::Exists => (IF_MATCH, "*".to_owned()),
        Expected::At(version) => (IF_MATCH, format!("\"{version}\"")),
    };
    let value = HeaderValue::from_str(&value).map_err(|e| Error::settings(e.to_string()))?;
    Ok(HeaderMap::from_iter([(name, value)]))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    /// Bodies that take the most memory for their length.
    fn swollen() -> Vec<String> {
        const LEN: usize = 64 << 10;
        let nested = |open: &str, close: &str| open.repeat(120) + "0" + &close.repeat(120);
        let parts = [
            "0".to_owned(),
            "[0]".to_owned(),
            r#"{"":0}"#.to_owned(),
            nested("[", "]"),
            nested(r#"{"":"#, "}"),
        ];
        let list = |part: String| vec![part.as_str(); LEN / (part.len() + 1)].join(",");
        parts.map(|part| format!("[{}]", list(part))).into()
    }

    /// Reads an answer, which takes no more than the head of this file says.
    #[track_caller]
    fn bounded(raw: &RawAnswer, read: impl FnOnce(RawAnswer)) {
        let (answer, len) = (raw.clone(), raw.body.len() as u64);
        let held = allocation_counter::measure(|| read(answer)).bytes_max;
        let held_max = 160 * len + (8 << 10);
        let head = String::from_utf8_lossy(&raw.body[..64]);
        assert!(held <= held_max, "{held} bytes, not {held_max}: {head}");
    }

    #[test]
    fn a_read_answer_takes_a_multiple_of_its_length() {
        let admin = Admin::new(["http://n1:1"], None, Arc::new(crate::TcpConnector)).unwrap();
        let decided = r#""updated_at":"t","updated_by":"a""#;
        for value in swollen() {
            let object = format!(r#"{{"key":"f","version":7,"value":{value}}}"#);
            let line = format!(
                r#"{{"kind":"flag","key":"f","version":7,{decided},"before":{value},"value":{value},
                    "after":{value}}}"#
            );
            let evaluation = format!(
                r#"{{"flag":"f","enabled":true,"value":{value},"config_version":7,"reason":"SPLIT",
                    "detail":{value}}}"#
            );
            let list = |item: &str| format!(r#"{{"items":[{item}],"version":7}}"#);
            let problem = format!(r#"{{"detail":"d","current":{value}}}"#);
            bounded_as::<Object>(&admin, 200, &object);
            bounded_as::<List>(&admin, 200, &list(&object));
            bounded_as::<History>(&admin, 200, &list(&line));
            bounded_as::<Audit>(&admin, 200, &list(&line));
            bounded_as::<Evaluation>(&admin, 200, &evaluation);
            bounded_as::<EvaluationList>(&admin, 200, &list(&evaluation));
            bounded_as::<Object>(&admin, 409, &problem);
        }
    }

    /// Reads an answer as JSON and as a type.
    #[track_caller]
    fn bounded_as<T: DeserializeOwned>(admin: &Admin, status: u16, body: &str) {
        let raw = RawAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
            endpoint: 0,
        };
        bounded(&raw, |raw| {
            drop(admin.accepted(raw).map(|raw| admin.answer(raw)))
        });
        bounded(&raw, |raw| {
            let read = admin.accepted(raw).and_then(|raw| admin.read::<T>(raw));
            assert_eq!(read.is_ok(), status < 400, "{:?}", read.err());
        });
    }
}
