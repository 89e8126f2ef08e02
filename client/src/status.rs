//! What the client knows about itself: where it is connected, what it holds, how old that is.
//!
//! What must hold: a status is derived, read only by people and monitors, and never decides
//! anything. Watchers hear of what they could act on, not of every heartbeat.
//!
//! Left out: exporting it anywhere.

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{Freshness, Version};
use tokio::sync::watch;

use crate::cache::CacheStatus;
use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::held::{Held, Source};
use crate::session::Session;

/// How often things happened since the client started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections begun.
    pub connects: u64,
    /// Connections given up after something went wrong.
    pub failures: u64,
    /// Messages received.
    pub messages: u64,
    /// Snapshots received, refused ones included.
    pub snapshots: u64,
    /// Deltas received, refused ones included.
    pub deltas: u64,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Snapshots refused because they were older than what is held.
    pub refused_older: u64,
    /// Deltas refused because they did not start from what is held.
    pub gaps: u64,
    /// Snapshots and deltas refused because they were damaged or their digest did not match.
    pub digest_failures: u64,
    /// Times that a node of another cluster was turned away.
    pub foreign: u64,
    /// Times that another cluster's state was taken over, because its versions are higher.
    pub clusters: u64,
    /// Streams that fell silent.
    pub silences: u64,
    /// Streams opened anew because of their age.
    pub renewals: u64,
    /// Nodes that said goodbye.
    pub goodbyes: u64,
    /// Streams that started over.
    pub resets: u64,
    /// Polls that were answered.
    pub polls: u64,
    /// Receipts that a node took.
    pub receipts: u64,
    /// Receipts that did not arrive or were refused. Nothing depends on them but who waits for them.
    pub receipt_failures: u64,
}

/// The client at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The node that the client talks to, or will try next.
    pub endpoint: Endpoint,
    /// For how long that node's stream has brought messages; none while there is no stream.
    pub connected_for: Option<Duration>,
    /// The version of the state held; none until the first snapshot.
    pub version: Option<Version>,
    /// The cluster that the state comes from.
    pub cluster_id: Option<Arc<str>>,
    /// Where the state was read from.
    pub source: Option<Source>,
    /// How old the state can at most be; none when nothing is known about that.
    pub age: Option<Duration>,
    /// Whether that is within the staleness bound.
    pub freshness: Option<Freshness>,
    /// The staleness bound in force.
    pub staleness_max: Option<Duration>,
    /// Whether polls stand in for a stream that does not get through.
    pub polling: bool,
    /// The newest version that a node was told is applied here.
    pub acknowledged: Option<Version>,
    /// What went wrong last; it may be long over.
    pub last_error: Option<Error>,
    /// The disk cache, if there is one.
    pub cache: Option<CacheStatus>,
    /// How often things happened.
    pub counters: Counters,
}

impl Status {
    /// Says whether there is a state to evaluate.
    pub fn is_ready(&self) -> bool {
        self.version.is_some()
    }

    /// Says whether the state is known to be within the staleness bound.
    pub fn is_fresh(&self) -> bool {
        self.freshness == Some(Freshness::Fresh)
    }

    /// Says whether a node's stream brings messages.
    pub fn is_connected(&self) -> bool {
        self.connected_for.is_some()
    }
}

/// What the background task tells; a [`Status`] is this at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) endpoint: Endpoint,
    pub(crate) connected_since: Option<Duration>,
    pub(crate) held: Option<Arc<Held>>,
    /// As of the last event; only to notice when it changes.
    pub(crate) freshness: Option<Freshness>,
    pub(crate) polling: bool,
    pub(crate) acknowledged: Option<Version>,
    pub(crate) last_error: Option<Error>,
    pub(crate) cache: Option<CacheStatus>,
    pub(crate) counters: Counters,
}

impl Report {
    pub(crate) fn at(&self, now: Duration) -> Status {
        let held = self.held.as_deref();
        let freshness = held.map(|held| held.freshness(now));
        Status {
            endpoint: self.endpoint.clone(),
            connected_for: self.connected_since.map(|since| now.saturating_sub(since)),
            version: held.map(|held| held.snapshot.version()),
            cluster_id: held.and_then(|held| held.cluster_id.clone()),
            source: held.map(|held| held.source),
            age: held.and_then(|held| held.age_max(now)),
            freshness: freshness.map(|(_, freshness)| freshness),
            staleness_max: held.map(|held| held.bound()),
            polling: self.polling,
            acknowledged: self.acknowledged,
            last_error: self.last_error.clone(),
            cache: self.cache.clone(),
            counters: self.counters,
        }
    }

    // The report is brought up to date after every event, so what is as it was is not copied. Each of
    // these takes a part over and says whether a watcher should hear of it.

    /// Takes over what is held. What was held before is handed back, to be dropped elsewhere.
    pub(crate) fn hold(&mut self, held: Option<&Arc<Held>>, now: Duration) -> Replaced {
        let freshness = held.map(|held| held.freshness(now).1);
        // What was fresh at the last event may have been seen stale since.
        let seen = self.held.as_ref().map(|held| held.freshness(now).1);
        let mut is_news = self.freshness != freshness || seen != freshness;
        self.freshness = freshness;
        if self.held.as_ref().map(Arc::as_ptr) == held.map(Arc::as_ptr) {
            let before = None;
            return Replaced { is_news, before };
        }
        let seen = |held: &Arc<Held>| (held.snapshot.version(), held.bound());
        is_news |= self.held.as_ref().map(seen) != held.map(seen);
        let before = std::mem::replace(&mut self.held, held.cloned());
        Replaced { is_news, before }
    }

    /// Takes over which node is talked to.
    pub(crate) fn be_at(&mut self, endpoint: &Endpoint) -> bool {
        let moved = self.endpoint != *endpoint;
        if moved {
            self.endpoint = endpoint.clone();
        }
        moved
    }

    /// Takes over how the session is.
    pub(crate) fn follow(&mut self, session: &Session) -> bool {
        let failed = self.counters.failures != session.counters().failures;
        if failed {
            // Every error is counted as a failure.
            self.last_error = session.last_error().cloned();
        }
        let seen = |report: &Report| (report.connected_since, report.polling);
        let before = seen(self);
        self.connected_since = session.connected_since();
        self.polling = session.is_polling();
        self.acknowledged = session.acknowledged();
        self.counters = *session.counters();
        failed || seen(self) != before
    }

    /// Takes over how the disk cache is.
    pub(crate) fn keep(&mut self, cache: Option<&CacheStatus>) -> bool {
        if self.cache.as_ref() == cache {
            return false;
        }
        let warning = |cache: Option<&CacheStatus>| cache.and_then(|cache| cache.warning.clone());
        let is_news = warning(self.cache.as_ref()) != warning(cache);
        self.cache = cache.cloned();
        is_news
    }
}

/// What a report held before, and whether a watcher should hear of the change.
pub(crate) struct Replaced {
    pub(crate) is_news: bool,
    pub(crate) before: Option<Arc<Held>>,
}

/// Waits for the status to change.
#[derive(Clone, Debug)]
pub struct StatusWatch {
    pub(crate) reports: watch::Receiver<Report>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl StatusWatch {
    /// Waits until connection, version, freshness, the last error or what is wrong with the disk cache
    /// change, and returns the newest
    /// status; changes in between are skipped. `None` once the client is gone.
    pub async fn next(&mut self) -> Option<Status> {
        self.reports.changed().await.ok()?;
        let report = self.reports.borrow_and_update().clone();
        Some(report.at(self.clock.now()))
    }
}
