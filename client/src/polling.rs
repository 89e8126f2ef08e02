//! One poll: a plain request over a connection of its own, and its answer read.
//!
//! What must hold: what is asked for begins with what is held, and names its cluster, because a node of
//! another one has other versions and gives everything; an answer that does not name its cluster, its
//! staleness bound and its age (`Pennon-Staleness-Ms`, the node's own) is none; reading JSON does not
//! hold up the runtime.
//!
//! Left out: when to poll (`session/polls.rs`), what becomes of the answer (`session.rs`), receipts
//! (`receipts.rs`).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use pennon_evaluator::wire::{
    FRAME_LEN_MAX_DEFAULT, HEADER_CLUSTER, HEADER_STALENESS_BOUND_MS, HEADER_STALENESS_MS,
    StreamMessage,
};
use pennon_evaluator::{EnvironmentKey, Version};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http1::{self, Connection, Outgoing};
use crate::readable::{self, Answer};
use crate::session::{Meta, Polled};
use crate::transport::{Refusal, refusal};

/// What to ask for.
pub(crate) struct Poll {
    pub(crate) environment: String,
    pub(crate) application: Option<String>,
    pub(crate) client_id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) since: Option<Version>,
    /// The cluster of the state held.
    pub(crate) cluster_id: Option<Arc<str>>,
}

impl Poll {
    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        self,
        mut connection: Connection,
        endpoint: Endpoint,
    ) -> Result<Polled, Refusal> {
        let (path, headers) = self.request();
        let response = send(&mut connection, &endpoint, path, headers).await?;
        let at = |error: Error| Refusal::no_answer(error.at(&endpoint));
        let (meta, fresh_age_ms) = said(response.headers()).map_err(at)?;
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

    fn request(&self) -> (String, HeaderMap) {
        let environment = http1::segment(&self.environment);
        let client = http1::segment(&self.client_id);
        let mut path =
            format!("/v1/environments/{environment}/snapshot?consistency=stale&client={client}");
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(application) = &self.application {
            path.push_str(&format!("&app={}", http1::segment(application)));
        }
        // A version means something only beside its cluster.
        if let Some((since, cluster_id)) = self.since.zip(self.cluster_id.as_deref()) {
            let cluster_id = http1::segment(cluster_id);
            path.push_str(&format!("&since={since}&cluster={cluster_id}"));
            if let Ok(tag) = HeaderValue::from_str(&format!("\"{since}\"")) {
                headers.insert(IF_NONE_MATCH, tag);
            }
        }
        (path, headers)
    }
}

/// What an answer says of itself: its cluster, the staleness bound, its age in milliseconds.
fn said(headers: &HeaderMap) -> Result<(Meta, u64), Error> {
    let said = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name| said(name).and_then(|text| text.parse().ok());
    let none = |what| Error::protocol(format!("the answer does not say {what}"));
    let age_ms = number(HEADER_STALENESS_MS).ok_or_else(|| none("how old it is"))?; // I5
    let cluster_id = said(HEADER_CLUSTER).ok_or_else(|| none("which cluster it is of"))?; // I6
    let bound_ms = number(HEADER_STALENESS_BOUND_MS);
    let meta = Meta {
        cluster_id: cluster_id.into(),
        bound_ms: bound_ms.ok_or_else(|| none("its staleness bound"))?,
    };
    Ok((meta, age_ms))
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
