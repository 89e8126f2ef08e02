//! Opening a stream: what has to be so before the first byte (D5, I6, I8).
//!
//! A client that asks to have the connection switched to frames gets them without HTTP around them
//! (`bare.rs`); proxies that do not know that leave it an ordinary answer without end.
//!
//! Order: choose the encoding; wait until this node was proved fresh once; find the environment,
//! and do not deny one that this node may only not have seen yet; wait until this node has what
//! the client already has, or refuse so that the client tries another node. Everything after the
//! first byte is the hub's.
//!
//! A node beyond the staleness bound still opens streams: every message says how old it may be,
//! and a client that knows nothing yet is served better by something marked stale than by nothing.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONNECTION, HeaderName, HeaderValue, UPGRADE};
use pennon_evaluator::Version;
use pennon_evaluator::wire::{MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES, PROTOCOL_FRAMES};
use tokio::time::Instant;

use super::answer::{Answer, Decided};
use super::call::Call;
use super::parse;
use super::problem::{Problem, Slug};
use super::read;
use crate::core::Core;
use crate::hub::{Encoding, Hub, Scope, Subscription};
use pennon_raft_store::command::ObjectId;

/// The longest id of a client, in bytes.
pub(crate) const CLIENT_LEN_MAX: usize = 256;

/// Opens a stream.
pub(crate) async fn open(call: Call) -> Result<Answer, Problem> {
    let environment = call.environment()?;
    let Some(encoding) = parse::stream_encoding(call.header("Accept")?) else {
        let detail = format!(
            "a stream is {MEDIA_TYPE_EVENTS} or {MEDIA_TYPE_FRAMES}; name one of them in Accept"
        );
        return Err(Problem::new(Slug::NotAcceptable, detail));
    };
    check_client(&call)?;
    let core = call.core()?;
    let since = since(&call, core)?;
    let deadline = Instant::now() + call.wait()?;
    let left = || deadline.saturating_duration_since(Instant::now());
    core.proved(left()).await.map_err(|_| Problem::unproved())?;
    let object = ObjectId::environment_object(environment.shared());
    if core.view().object(&object).is_none() {
        let view = core
            .confirmed(left())
            .await
            .map_err(|why| Problem::read(&why))?;
        if view.object(&object).is_none() {
            let decided = Decided {
                version: view.version(),
                fresh_at: core.fresh_at(),
            };
            return Err(Problem::missing(&object).decided(decided));
        }
    }
    let application = call.param("app").map(str::to_owned);
    if let Some(application) = &application {
        read::application(core, application, left()).await?;
    }
    if let Some(since) = since {
        core.at_least(since, left())
            .await
            .map_err(|why| Problem::read(&why))?; // I6
    }
    let fresh_at = core.fresh_at();
    let decided = Decided {
        version: core.view().version(),
        fresh_at,
    };
    let subscription = Subscription {
        scope: Scope {
            environment,
            application: application.map(Arc::from),
        },
        client: call.param("client").map(str::to_owned),
        since,
        encoding,
    };
    let streaming = Hub::open(core, subscription, call.started());
    if let (Some(switch), Encoding::Frames) = (&call.switch, encoding) {
        switch.to(streaming);
        let switching = Answer::empty(StatusCode::SWITCHING_PROTOCOLS).decided(decided);
        return Ok(switching
            .header(CONNECTION, HeaderValue::from_static("upgrade"))
            .header(UPGRADE, HeaderValue::from_static(PROTOCOL_FRAMES)));
    }
    let messages = streaming.into_stream().map(Ok::<_, Infallible>);
    let content_type = match encoding {
        Encoding::Frames => MEDIA_TYPE_FRAMES,
        Encoding::Events => MEDIA_TYPE_EVENTS,
    };
    Ok(
        Answer::new(StatusCode::OK, content_type, Body::from_stream(messages))
            .decided(decided)
            .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .header(
                HeaderName::from_static("x-accel-buffering"),
                HeaderValue::from_static("no"),
            ),
    )
}

/// The version the client has of this cluster. A reconnecting EventSource repeats the query it
/// began with and adds the id it saw last, which is the newer one.
fn since(call: &Call, core: &Core) -> Result<Option<Version>, Problem> {
    let since = call
        .version("since")?
        .max(call.version_header("Last-Event-ID")?);
    // Versions of another cluster say nothing here: the client gets everything, and decides.
    Ok(since.filter(|_| !is_foreign(call, core)))
}

/// Whether the caller speaks of versions of another cluster.
pub(super) fn is_foreign(call: &Call, core: &Core) -> bool {
    let cluster = call.param("cluster");
    cluster.is_some_and(|cluster| cluster != core.cluster().to_string())
}

/// Checks what the evaluator calls itself.
pub(super) fn check_client(call: &Call) -> Result<(), Problem> {
    match call.param("client") {
        Some(client) if client.is_empty() || client.len() > CLIENT_LEN_MAX => Err(
            Problem::parameter("client", format!("must have 1 to {CLIENT_LEN_MAX} bytes")),
        ),
        _ => Ok(()),
    }
}
