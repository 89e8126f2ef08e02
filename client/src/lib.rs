//! Decides feature flags inside the application, from a streamed and verified snapshot.
//!
//! ```text
//!   Pennon nodes            background task                           your threads
//!  ┌──────┐  hello, snapshot,  ┌───────────┐  swap   ┌──────────┐  load   ┌─────────────────────┐
//!  │ n1   ├──delta, heartbeat─►│  session  ├────────►│  state   │◄────────┤ is_enabled(flag, &s) │
//!  │ n2   │  (one of them)     │ (decides) │         │ + proof  │         │ evaluate, pin, …     │
//!  │ n3   │◄───────────────────┤           │         └──────────┘         └─────────────────────┘
//!  └──────┘  since=V, cluster  └───────────┘
//! ```
//!
//! The state held only ever moves to a later version, whichever node it comes from, and every
//! snapshot and delta is checked against its digest. Each message also proves up to when the state
//! was the newest one; an evaluation is FRESH only if that proof is within the staleness bound at
//! the moment of the evaluation, by a monotonic clock that runs during suspend. When no node can be
//! reached the last good state goes on answering, marked STALE, or gives way to the caller's
//! default; [`StalePolicy`] and the flag's own `on_stale` say which.
//!
//! ```
//! use pennon_client::{Client, Reason, Subject};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! // Nobody listens on port 1, so this client stays without a state.
//! let flags = Client::builder(["http://127.0.0.1:1"]).environment("production").start()?;
//! let user = Subject::new("user-42").with("country", "DE").with("app_version", "2.4.1");
//! assert_eq!(flags.bool("checkout.new-ui", &user, true), true); // the default given here
//! assert_eq!(flags.evaluate("checkout.new-ui", &user).reason(), Reason::NotReady);
//!
//! // A description that cannot work is refused before anything is sent.
//! let refusal = Client::builder(["ftp://127.0.0.1"]).environment("production").start();
//! assert!(refusal.unwrap_err().is_settings());
//! # Ok::<(), pennon_client::Error>(()) }).unwrap();
//! ```
//!
//! Where things are: `session.rs` decides everything about streams and knows no socket or clock;
//! `transport.rs` is the shell around it; `flags.rs` and `evaluation.rs` are what applications
//! call; [`testing`] is for their tests, [`admin`] for those who write.

pub mod admin;
mod alarm;
mod bare;
#[doc(hidden)]
pub mod broken;
mod builder;
mod cache;
mod changes;
mod clock;
mod current;
mod endpoint;
mod error;
mod evaluation;
mod flags;
mod held;
mod http1;
mod polling;
mod readable;
mod receipts;
mod session;
#[cfg(test)]
#[path = "../tests/common/states.rs"]
mod states;
mod status;
pub mod testing;
mod tls;
mod transport;

pub use builder::{CONNECT_DEADLINE_DEFAULT, ClientBuilder};
pub use cache::{CacheFault, CacheStatus, CacheWarning};
pub use changes::{Change, Changes};
pub use clock::{BootClock, CLOCK_ERROR_MAX, Clock};
pub use endpoint::{Connecting, Connector, ENDPOINTS_MAX, Endpoint, Io, TcpConnector};
pub use error::{Error, Problem};
pub use evaluation::{Evaluation, Page, Reason, StalePolicy};
pub use flags::{Client, Pinned};
pub use held::Source;
pub use pennon_evaluator::{
    Attribute, Detail, FlagKey, Freshness, Reason as DecidedReason, Scalar, Subject, ValueRef,
    ValueType, Version,
};
pub use session::Polling;
pub use status::{Counters, Status, StatusWatch};
