//! A web application that decides every request on one version: all flags of a page are of the same
//! moment, also while somebody changes them. Start a cluster with `pennon dev`, then:
//!
//! ```text
//! PENNON_URL=http://127.0.0.1:7400 PENNON_ENV=production cargo run -p pennon-client --example axum
//! curl -i 'http://127.0.0.1:8080/?user=user-42&country=DE'
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use pennon_client::{Client, ClientBuilder, Freshness, Subject};

/// How long the application waits at its start for a state that is fresh.
const FRESH_MAX: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = std::env::temp_dir().join("pennon-axum.cache");
    let flags = ClientBuilder::from_env()?
        .cache_file(cache)
        .connect()
        .await?;
    if flags.fresh(FRESH_MAX).await.is_err() {
        println!("no node confirms the flags yet: they are those of an earlier run");
    }
    let app = Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .with_state(flags);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}/?user=user-42", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// A page that asks for several flags.
async fn page(
    State(flags): State<Client>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> impl IntoResponse {
    let user = asked.get("user").map_or("", String::as_str);
    let mut subject = Subject::new(user);
    if let Some(country) = asked.get("country") {
        subject = subject.with("country", country);
    }
    // From here on nothing changes for this request.
    let pinned = flags.pin();
    let new_ui = pinned.is_enabled("checkout.new-ui", &subject);
    let color = pinned.string("checkout.color", &subject, "blue");
    let version = pinned.version().map_or(0, |version| version.get());
    let body = format!("new checkout: {new_ui}, color: {color}\n");
    ([("x-flags-version", version.to_string())], body)
}

/// For a load balancer: an application that acts on old flags says so, and goes on working.
async fn health(State(flags): State<Client>) -> impl IntoResponse {
    let status = flags.status();
    let fresh = match status.freshness {
        Some(Freshness::Fresh) => "fresh",
        Some(Freshness::Stale) => "stale",
        None => "none yet",
    };
    let connected = if status.is_connected() {
        "connected"
    } else {
        "not connected"
    };
    (StatusCode::OK, format!("flags: {fresh}, {connected}\n"))
}
