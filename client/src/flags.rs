//! `Client`: deciding flags, and knowing what the decisions rest on.
//!
//! What must hold: an evaluation reads one state, takes no lock, allocates nothing, does no IO and
//! never fails; trouble is a reason. It is called FRESH only if the held proof says so at the very
//! moment of the evaluation (I5). Readers see states in the order of their versions (I6).
//!
//! Left out: where states come from (`session.rs`, `transport.rs`), what a flag evaluates to
//! (the evaluator).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{Freshness, Subject, Version};
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};

use crate::builder::ClientBuilder;
use crate::cache::CacheStatus;
use crate::changes::Changes;
use crate::clock::Clock;
use crate::current::Current;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::evaluation::{Evaluation, Page, StalePolicy};
use crate::held::Held;
use crate::session::Session;
use crate::status::{Report, Status, StatusWatch};

/// What the background task writes and everybody else reads.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) endpoints: Arc<[Endpoint]>,
    policy: StalePolicy,
    current: Current,
    /// The state as it was when its version or content last changed; none before the first snapshot.
    changed: watch::Sender<Option<Arc<Held>>>,
    reports: watch::Sender<Report>,
}

impl Shared {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        endpoints: Arc<[Endpoint]>,
        policy: StalePolicy,
        first: Report,
    ) -> Shared {
        Shared {
            clock,
            endpoints,
            policy,
            current: Current::default(),
            changed: watch::Sender::new(None),
            reports: watch::Sender::new(first),
        }
    }

    /// Lets evaluations read a state, then tells those who wait for its version.
    pub(crate) fn publish(&self, held: Option<&Arc<Held>>) {
        self.current.replace(held.cloned());
        let mut held = held.cloned();
        self.changed.send_if_modified(|before| {
            let news = match (&*before, &held) {
                (Some(before), Some(held)) => !before.has_content_of(held),
                (before, held) => before.is_some() != held.is_some(),
            };
            if news {
                std::mem::swap(before, &mut held);
            }
            news
        });
        // What was there before is dropped here, where it holds nobody up.
    }

    /// Changes what the status is made of, for who has no session.
    pub(crate) fn show(&self, change: impl FnOnce(&mut Report)) {
        self.reports.send_modify(change);
    }

    /// Publishes where the session is.
    pub(crate) fn report(&self, session: &Session, cache: Option<&CacheStatus>, now: Duration) {
        let Some(endpoint) = self.endpoints.get(session.endpoint()) else {
            return;
        };
        let mut before = None;
        self.reports.send_if_modified(|report| {
            let changed = report.hold(session.held(), now);
            before = changed.before;
            // Not `||`: all of them are to be taken over.
            changed.is_news | report.be_at(endpoint) | report.follow(session) | report.keep(cache)
        });
        drop(before); // Here, where it holds nobody up.
    }
}

/// Decides flags inside the application.
///
/// Cloning is cheap and clones share everything; the stream ends when the last one is dropped.
///
/// ```no_run
/// use pennon_client::{Client, Subject};
/// # async fn example() -> Result<(), pennon_client::Error> {
/// let urls = ["http://127.0.0.1:7400", "http://127.0.0.1:7401"];
/// let flags = Client::builder(urls).environment("production").connect().await?;
/// let user = Subject::new("user-42").with("country", "DE");
/// if flags.is_enabled("checkout.new-ui", &user) {
///     let page = flags.pin(); // one version for one request
///     let color = page.string("checkout.color", &user, "blue");
///     # drop(color);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// The background task ends when this is gone.
    _task: Arc<oneshot::Sender<()>>,
}

impl Client {
    /// Begins to describe a client of these nodes. Any of them will do; several let the client go
    /// elsewhere when one fails.
    pub fn builder<I>(urls: I) -> ClientBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ClientBuilder::new(urls)
    }

    /// Connects as the environment variables say: `PENNON_URL` (URLs with commas between them),
    /// `PENNON_ENV`, and `PENNON_TOKEN` or `PENNON_TOKEN_FILE`.
    ///
    /// # Errors
    /// When `PENNON_URL` or `PENNON_ENV` is missing, or as [`ClientBuilder::connect`].
    pub async fn from_env() -> Result<Client, Error> {
        ClientBuilder::from_env()?.connect().await
    }

    pub(crate) fn new(shared: Arc<Shared>, task: oneshot::Sender<()>) -> Client {
        Client {
            shared,
            _task: Arc::new(task),
        }
    }

    /// Decides a flag for a subject.
    ///
    /// Takes no lock and allocates nothing, except that the first evaluation on a thread makes the
    /// thread known.
    pub fn evaluate(&self, flag: &str, subject: &Subject) -> Evaluation<'static> {
        let shared = &self.shared;
        let held = shared.current.guard();
        Evaluation::guarded(held, &*shared.clock, shared.policy, flag, subject)
    }

    /// Says whether a boolean flag is at a variant of value `true`; `false` when there is no such
    /// flag, when it has another type, and when the answer is the default for being stale.
    pub fn is_enabled(&self, flag: &str, subject: &Subject) -> bool {
        self.bool(flag, subject, false)
    }

    /// Returns the value of a boolean flag, or the default when there is none.
    pub fn bool(&self, flag: &str, subject: &Subject, default: bool) -> bool {
        self.read(|page| page.bool(flag, subject, default))
    }

    /// Returns the value of a number flag, or the default when there is none.
    pub fn number(&self, flag: &str, subject: &Subject, default: f64) -> f64 {
        self.read(|page| page.number(flag, subject, default))
    }

    /// Returns the value of a number flag that is whole, or the default when there is none.
    pub fn integer(&self, flag: &str, subject: &Subject, default: i64) -> i64 {
        self.read(|page| page.integer(flag, subject, default))
    }

    /// Returns the value of a string flag, or the default when there is none. Allocates the
    /// result; [`Client::evaluate`] and [`Page::str`] lend it.
    pub fn string(&self, flag: &str, subject: &Subject, default: &str) -> String {
        self.read(|page| page.str(flag, subject, default).to_owned())
    }

    /// Returns the value of a flag of any type as JSON, or the default when there is none.
    pub fn json(
        &self,
        flag: &str,
        subject: &Subject,
        default: serde_json::Value,
    ) -> serde_json::Value {
        self.value(flag, subject, default)
    }

    /// Returns the value of a flag of any type, read as `T`, or the default when there is none or
    /// it has another shape.
    pub fn value<T: DeserializeOwned>(&self, flag: &str, subject: &Subject, default: T) -> T {
        self.read(|page| page.value(flag, subject, default))
    }

    /// Reads flags from the state of this moment: several see one version, and nothing is counted or
    /// locked, so this is the fastest way to decide.
    ///
    /// ```no_run
    /// # use pennon_client::{Client, Subject};
    /// # fn example(flags: &Client, user: &Subject) {
    /// let (new_ui, dark) = flags.read(|page| {
    ///     (page.is_enabled("checkout.new-ui", user), page.str("checkout.color", user, "blue") == "dark")
    /// });
    /// # drop((new_ui, dark));
    /// # }
    /// ```
    ///
    /// A page cannot leave the closure; [`Client::pin`] gives one that can be kept.
    #[inline]
    pub fn read<T>(&self, f: impl FnOnce(Page<'_>) -> T) -> T {
        let shared = &*self.shared;
        shared
            .current
            .with(|held| f(Page::new(held, &*shared.clock, shared.policy)))
    }

    /// Holds on to the state of this moment, so that one request sees one version.
    pub fn pin(&self) -> Pinned {
        Pinned {
            held: self.shared.current.get(),
            clock: Arc::clone(&self.shared.clock),
            policy: self.shared.policy,
        }
    }

    /// Returns the version held; none before the first snapshot.
    pub fn version(&self) -> Option<Version> {
        let held = self.shared.current.guard();
        held.as_ref().map(|held| held.snapshot.version())
    }

    /// Says whether there is a state to evaluate.
    pub fn is_ready(&self) -> bool {
        self.version().is_some()
    }

    /// Waits for the first snapshot.
    ///
    /// # Errors
    /// With what went wrong last, when it takes longer than that.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Error> {
        let ready = self.wait_until(timeout, |have| have.is_some()).await;
        ready.map(|_| ()).map_err(|late| {
            let what = format!("no snapshot after {timeout:?}");
            let last = self.shared.reports.borrow().last_error.clone();
            match late.is_timeout() {
                true => last.unwrap_or(late).during(&what),
                false => late,
            }
        })
    }

    /// Waits until the state is known to be within the staleness bound. After a start from the disk
    /// cache, or from bootstrap bytes, that is when a node has confirmed or replaced it.
    ///
    /// # Errors
    /// With what went wrong last, when it takes longer than that.
    pub async fn fresh(&self, timeout: Duration) -> Result<(), Error> {
        let mut reports = self.shared.reports.subscribe();
        let fresh = |report: &Report| report.at(self.shared.clock.now()).is_fresh();
        let what = format!("no fresh state after {timeout:?}");
        match tokio::time::timeout(timeout, reports.wait_for(fresh)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::stopped()),
            Err(_) => {
                let last = self.shared.reports.borrow().last_error.clone();
                Err(last.map_or_else(|| Error::timed_out(&what), |last| last.during(&what)))
            }
        }
    }

    /// Waits for a moment for a node, when the state held did not come from one: until the state is
    /// fresh, an attempt failed, or the time is over.
    pub(crate) async fn settled(&self, timeout: Duration) {
        let mut reports = self.shared.reports.subscribe();
        let settled = reports.wait_for(|report| {
            report.freshness == Some(Freshness::Fresh) || report.counters.failures > 0
        });
        // Which of these it was is in the status.
        let _ = tokio::time::timeout(timeout, settled).await;
    }

    /// Waits until this version, or a later one, is held: how to read one's own write.
    ///
    /// # Errors
    /// `is_timeout()` when it takes longer than that.
    pub async fn wait_for(&self, version: Version, timeout: Duration) -> Result<Version, Error> {
        let late = self.wait_until(timeout, |have| have >= Some(version)).await;
        match late {
            Ok(version) => Ok(version.unwrap_or_default()),
            Err(late) => Err(match (late.is_timeout(), self.version()) {
                (true, Some(have)) => Error::timed_out(format!(
                    "version {version} did not arrive within {timeout:?}; {have} is held"
                )),
                (true, None) => late.during(&format!("version {version} did not arrive")),
                (false, _) => late,
            }),
        }
    }

    async fn wait_until(
        &self,
        timeout: Duration,
        enough: impl Fn(Option<Version>) -> bool,
    ) -> Result<Option<Version>, Error> {
        let version = |held: &Option<Arc<Held>>| held.as_ref().map(|held| held.snapshot.version());
        let mut changed = self.shared.changed.subscribe();
        let waiting = changed.wait_for(|held| enough(version(held)));
        match tokio::time::timeout(timeout, waiting).await {
            Ok(Ok(held)) => Ok(version(&held)),
            Ok(Err(_)) => Err(Error::stopped()),
            Err(_) => Err(Error::timed_out(format!("nothing came within {timeout:?}"))),
        }
    }

    /// Returns where the client is connected, what it holds and how old that is.
    pub fn status(&self) -> Status {
        let now = self.shared.clock.now();
        self.shared.reports.borrow().at(now)
    }

    /// Watches the status.
    pub fn status_watch(&self) -> StatusWatch {
        StatusWatch {
            reports: self.shared.reports.subscribe(),
            clock: Arc::clone(&self.shared.clock),
        }
    }

    /// Watches for changes of flags, from what is held now on. Versions at which nothing changed in
    /// the environment are not reported.
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.changed.subscribe())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// One state, held on to. Its age is that of the moment it is asked: a page pinned for longer than
/// the staleness bound gives STALE answers.
#[derive(Clone)]
pub struct Pinned {
    held: Option<Arc<Held>>,
    clock: Arc<dyn Clock>,
    policy: StalePolicy,
}

impl Pinned {
    /// Returns the page: how flags are read.
    pub fn page(&self) -> Page<'_> {
        Page::new(self.held.as_deref(), &*self.clock, self.policy)
    }

    /// Decides a flag for a subject, as [`Client::evaluate`].
    pub fn evaluate(&self, flag: &str, subject: &Subject) -> Evaluation<'_> {
        self.page().evaluate(flag, subject)
    }

    /// As [`Client::is_enabled`].
    pub fn is_enabled(&self, flag: &str, subject: &Subject) -> bool {
        self.page().is_enabled(flag, subject)
    }

    /// As [`Client::bool`].
    pub fn bool(&self, flag: &str, subject: &Subject, default: bool) -> bool {
        self.page().bool(flag, subject, default)
    }

    /// As [`Client::number`].
    pub fn number(&self, flag: &str, subject: &Subject, default: f64) -> f64 {
        self.page().number(flag, subject, default)
    }

    /// As [`Client::integer`].
    pub fn integer(&self, flag: &str, subject: &Subject, default: i64) -> i64 {
        self.page().integer(flag, subject, default)
    }

    /// As [`Client::string`].
    pub fn string(&self, flag: &str, subject: &Subject, default: &str) -> String {
        self.page().str(flag, subject, default).to_owned()
    }

    /// As [`Client::json`].
    pub fn json(
        &self,
        flag: &str,
        subject: &Subject,
        default: serde_json::Value,
    ) -> serde_json::Value {
        self.value(flag, subject, default)
    }

    /// As [`Client::value`].
    pub fn value<T: DeserializeOwned>(&self, flag: &str, subject: &Subject, default: T) -> T {
        self.page().value(flag, subject, default)
    }

    /// Returns the version; none when it was pinned before the first snapshot.
    pub fn version(&self) -> Option<Version> {
        self.page().version()
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
