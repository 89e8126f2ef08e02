//! One poll: plain requests over one connection, and their answers read.
//!
//! What must hold: what is asked for begins with what is held, and a node of another cluster is asked
//! for everything, because its versions mean other things; the age that an answer claims is the
//! node's own (`Pennon-Staleness-Ms`), and an answer without one is none; reading JSON does not
//! hold up the runtime.
//!
//! Left out: when to poll (`session/polls.rs`), what becomes of the answer (`session.rs`).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use pennon_evaluator::wire::{FRAME_LEN_MAX_DEFAULT, HEADER_STALENESS_MS, StreamMessage};
use pennon_evaluator::{Environment, EnvironmentKey, Version};
use serde_json::Value;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http1::{self, Connection, Outgoing};
use crate::readable::{self, Answer};
use crate::session::{Meta, Polled};
use crate::transport::{Refusal, refusal};

/// The longest answer about cluster or environment, in bytes.
const META_LEN_MAX: usize = 1 << 20;

/// What to ask for.
pub(crate) struct Poll {
    pub(crate) environment: String,
    pub(crate) application: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) since: Option<Version>,
    /// The cluster of the state held.
    pub(crate) cluster_id: Option<Arc<str>>,
    pub(crate) meta: Option<Meta>,
}

impl Poll {
    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        self,
        mut connection: Connection,
        endpoint: Endpoint,
    ) -> Result<Polled, Refusal> {
        let meta = match &self.meta {
            Some(meta) => meta.clone(),
            None => self.ask_meta(&mut connection, &endpoint).await?,
        };
        let ours = |ours: &Arc<str>| *ours == meta.cluster_id;
        let since = self
            .since
            .filter(|_| self.cluster_id.as_ref().is_some_and(ours));
        let mut path = self.path("/snapshot?consistency=stale");
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(application) = &self.application {
            path.push_str(&format!("&app={}", http1::segment(application)));
        }
        if let Some(since) = since {
            path.push_str(&format!("&since={since}"));
            if let Ok(tag) = HeaderValue::from_str(&format!("\"{since}\"")) {
                headers.insert(IF_NONE_MATCH, tag);
            }
        }
        let response = send(&mut connection, &endpoint, path, headers).await?;
        let at = |error: Error| Refusal::no_answer(error.at(&endpoint));
        let age = response.headers().get(HEADER_STALENESS_MS);
        let age = age.and_then(|age| age.to_str().ok()?.parse().ok()); // I5
        let none = || at(Error::protocol("the answer does not say how old it is"));
        let fresh_age_ms = age.ok_or_else(none)?;
        let message = if response.status() == StatusCode::NOT_MODIFIED {
            let version = http1::version_of(response.headers());
            let none = || at(Error::protocol("the answer does not say its version"));
            StreamMessage::Heartbeat {
                version: version.ok_or_else(none)?,
            }
        } else {
            let len_max = FRAME_LEN_MAX_DEFAULT as usize;
            let text = http1::read_body(response.into_body(), len_max).await;
            read(text.map_err(at)?, &self.environment)
                .await
                .map_err(at)?
        };
        Ok(Polled {
            meta,
            fresh_age_ms,
            message,
        })
    }

    /// Asks which cluster this is, and for the staleness bound of the environment.
    async fn ask_meta(
        &self,
        connection: &mut Connection,
        endpoint: &Endpoint,
    ) -> Result<Meta, Refusal> {
        let paths = ["/v1/cluster".to_owned(), self.path("?consistency=stale")];
        let mut read = [Value::Null, Value::Null];
        for (path, read) in paths.into_iter().zip(&mut read) {
            let response = send(connection, endpoint, path, self.headers.clone()).await?;
            let text = http1::read_body(response.into_body(), META_LEN_MAX).await;
            let text = text.map_err(|e| Refusal::no_answer(e.at(endpoint)))?;
            *read = serde_json::from_slice(&text).unwrap_or_default();
        }
        let [cluster, environment] = read;
        let bound = environment["value"].get("staleness_bound_ms");
        let cluster_id = cluster["cluster_id"].as_str();
        match (
            cluster_id,
            bound.map_or(Some(Environment::STALENESS_BOUND_MS_DEFAULT), Value::as_u64),
        ) {
            (Some(cluster_id), Some(bound_ms)) if environment["value"].is_object() => Ok(Meta {
                cluster_id: cluster_id.into(),
                bound_ms,
            }),
            _ => {
                let why = "the answer does not say which cluster or what environment this is";
                Err(Refusal::no_answer(Error::protocol(why).at(endpoint)))
            }
        }
    }

    fn path(&self, end: &str) -> String {
        let environment = http1::segment(&self.environment);
        format!("/v1/environments/{environment}{end}")
    }
}

async fn send(
    connection: &mut Connection,
    endpoint: &Endpoint,
    path: String,
    headers: HeaderMap,
) -> Result<Response<Incoming>, Refusal> {
    let outgoing = Outgoing {
        method: Method::GET,
        path,
        headers,
        body: Bytes::new(),
    };
    let response = connection.send(&outgoing, endpoint).await;
    let response = response.map_err(|e| Refusal::no_answer(e.into_error()))?;
    match response.status() {
        StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(response),
        _ => Err(refusal(response, &outgoing, endpoint).await),
    }
}

/// Reads the answer as the message that a stream would have brought.
async fn read(text: Bytes, environment: &str) -> Result<StreamMessage, Error> {
    let environment = EnvironmentKey::try_from(environment);
    let environment = environment.map_err(|e| Error::settings(e.to_string()))?;
    let reading = move || readable::answer(&text, &environment);
    let answer = tokio::task::spawn_blocking(reading).await;
    Ok(match answer.map_err(|_| Error::stopped())?? {
        Answer::Full(snapshot) => StreamMessage::snapshot(&snapshot),
        Answer::Changes(delta) => StreamMessage::delta(&delta),
        Answer::Nothing { version } => StreamMessage::Heartbeat { version },
    })
}
