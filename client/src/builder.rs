//! Describing and starting a client.
//!
//! What must hold: what is wrong with the description is said before anything is sent; what is not
//! said has one default, written here.
//!
//! Left out: everything after the start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use pennon_evaluator::{Environment, EnvironmentKey, FlagKey, Snapshot};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::bare::Offers;
use crate::broken::Broken;
use crate::cache::{self, Cache, Identity, Restored};
use crate::clock::{BootClock, Clock};
use crate::endpoint::{Connector, Endpoint, TcpConnector};
use crate::error::Error;
use crate::evaluation::StalePolicy;
use crate::flags::{Client, Shared};
use crate::held::Source;
use crate::http1;
use crate::readable;
use crate::receipts::Receipts;
use crate::session::{Polling, Session, Settings};
use crate::status::{Counters, Report};
use crate::transport::{Driver, Link};

/// How long [`ClientBuilder::connect`] waits for the first snapshot unless told otherwise.
pub const CONNECT_DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// How long a client that has a state already waits for a node.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest client id, in bytes.
const CLIENT_ID_LEN_MAX: usize = 256;

/// Describes a client. See [`Client::builder`].
#[must_use]
pub struct ClientBuilder {
    urls: Vec<String>,
    environment: Option<String>,
    application: Option<String>,
    token: Option<String>,
    staleness_max: Option<Duration>,
    policy: StalePolicy,
    connect_deadline: Duration,
    connector: Arc<dyn Connector>,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    client_id: Option<String>,
    cache_file: Option<PathBuf>,
    bootstrap: Option<Vec<u8>>,
    polling: Polling,
    broken: Option<Broken>,
    #[cfg(feature = "tls")]
    root_certificates: Vec<Vec<u8>>,
}

impl ClientBuilder {
    pub(crate) fn new<I>(urls: I) -> ClientBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        ClientBuilder {
            urls: urls.into_iter().map(Into::into).collect(),
            environment: None,
            application: None,
            token: None,
            staleness_max: None,
            policy: StalePolicy::default(),
            connect_deadline: CONNECT_DEADLINE_DEFAULT,
            connector: Arc::new(TcpConnector),
            clock: Arc::new(BootClock),
            seed: None,
            client_id: None,
            cache_file: None,
            bootstrap: None,
            polling: Polling::default(),
            broken: None,
            #[cfg(feature = "tls")]
            root_certificates: Vec::new(),
        }
    }

    /// Reads the description from environment variables; see [`Client::from_env`].
    ///
    /// # Errors
    /// When `PENNON_URL` or `PENNON_ENV` is missing, or `PENNON_TOKEN_FILE` cannot be read.
    pub fn from_env() -> Result<ClientBuilder, Error> {
        ClientBuilder::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<ClientBuilder, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let needed =
            |name: &str| set(name).ok_or_else(|| Error::settings(format!("{name} is not set")));
        let urls = needed("PENNON_URL")?;
        let environment = needed("PENNON_ENV")?;
        let token = match (set("PENNON_TOKEN"), set("PENNON_TOKEN_FILE")) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => Some(std::fs::read_to_string(&path).map_err(|e| {
                Error::settings(format!("PENNON_TOKEN_FILE {path:?} cannot be read: {e}"))
            })?),
            (None, None) => None,
        };
        let builder = ClientBuilder::new(urls.split(',').map(str::trim));
        let builder = builder.environment(environment.trim());
        Ok(match token {
            Some(token) => builder.token(token.trim().to_owned()),
            None => builder,
        })
    }

    /// Sets the environment. There is no default.
    pub fn environment(mut self, environment: impl Into<String>) -> ClientBuilder {
        self.environment = Some(environment.into());
        self
    }

    /// Sets the application: only the flags that carry one of its tags are held, with what they use.
    /// Unless set it is the whole environment. A flag outside of it evaluates as one that is not
    /// there, and a cache file of another application is not read.
    pub fn application(mut self, application: impl Into<String>) -> ClientBuilder {
        self.application = Some(application.into());
        self
    }

    /// Sets the token, if the cluster wants one.
    pub fn token(mut self, token: impl Into<Option<String>>) -> ClientBuilder {
        self.token = token.into();
        self
    }

    /// Sets a staleness bound stricter than that of the environment. A looser one has no effect.
    pub fn staleness_max(mut self, staleness_max: Duration) -> ClientBuilder {
        self.staleness_max = Some(staleness_max);
        self
    }

    /// Sets what to answer beyond the staleness bound; [`StalePolicy::ServeLastGood`] unless set.
    pub fn stale_policy(mut self, policy: StalePolicy) -> ClientBuilder {
        self.policy = policy;
        self
    }

    /// Sets how long [`ClientBuilder::connect`] waits for the first snapshot; 10 s unless set.
    pub fn connect_deadline(mut self, deadline: Duration) -> ClientBuilder {
        self.connect_deadline = deadline;
        self
    }

    /// Sets how connections are opened; over TCP unless set.
    pub fn connector(mut self, connector: impl Connector) -> ClientBuilder {
        self.connector = Arc::new(connector);
        self
    }

    /// Trusts the certificates in this PEM text, and those of other calls, for `https://` endpoints,
    /// in the place of those that the operating system trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> ClientBuilder {
        self.root_certificates.push(pem.into());
        self
    }

    /// Sets the clock that ages are computed by; [`BootClock`] unless set.
    pub fn clock(mut self, clock: impl Clock) -> ClientBuilder {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes pauses, the choice of endpoints and the client id repeatable, for simulations.
    pub fn seed(mut self, seed: u64) -> ClientBuilder {
        self.seed = Some(seed);
        self
    }

    /// Has the client break a promise, for runs that show that their checkers see it. There is none
    /// in a release build.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn broken(mut self, broken: Broken) -> ClientBuilder {
        self.broken = Some(broken);
        self
    }

    /// Sets the name by which nodes know this client and list it among those who have applied a
    /// version, or have not: 1 to 256 bytes. Unless set it is made of the host's name, the process id
    /// and some random digits. Two clients must not share one.
    pub fn client_id(mut self, client_id: impl Into<String>) -> ClientBuilder {
        self.client_id = Some(client_id.into());
        self
    }

    /// Keeps the state in a file, so that the client can start while no node can be reached. No file
    /// unless set.
    ///
    /// What is read from it is STALE until a node confirms or replaces it, whatever the time is, and
    /// nothing older than it is taken from any node. A change is written within about a second, off
    /// the evaluation path, and when the client is dropped while its runtime goes on. The file is
    /// replaced whole; beside it lie `<file>.lock` and, for a moment, `<file>.new`. It belongs to one
    /// client at a time; a second one reads it and does not write. A file that is damaged, or of
    /// another environment, is as good as none: [`Status::cache`](crate::Status) says so.
    pub fn cache_file(mut self, path: impl Into<PathBuf>) -> ClientBuilder {
        self.cache_file = Some(path.into());
        self
    }

    /// Sets whether to poll when streams do not get through, for example behind a proxy that holds
    /// them back; [`Polling::Auto`] unless set. Polls come at a third of the staleness bound, so a
    /// change takes that long to arrive. It sends receipts, but nodes cannot ask it for one.
    pub fn polling(mut self, polling: Polling) -> ClientBuilder {
        self.polling = polling;
        self
    }

    /// Gives a state to begin with, for the first start where no node can be reached: the body of
    /// `GET /v1/environments/{env}/snapshot`, or the content of a cache file, shipped with the
    /// application. It is read on the calling thread.
    ///
    /// It is used unless the disk cache has a newer version, and is STALE until a node replaces it.
    /// Its version counts as applied: nothing older is taken from any node.
    ///
    /// ```
    /// # use pennon_client::Client;
    /// let shipped = r#"{"environment":"staging","version":7,"digest":"00000000000000000000000000000000","states":[]}"#;
    /// let builder = Client::builder(["http://127.0.0.1:1"]).environment("production");
    /// let refusal = builder.bootstrap(shipped).start().unwrap_err();
    /// assert!(refusal.is_settings());
    /// assert!(refusal.to_string().contains("it is of environment staging, not of production"));
    /// ```
    pub fn bootstrap(mut self, bytes: impl Into<Vec<u8>>) -> ClientBuilder {
        self.bootstrap = Some(bytes.into());
        self
    }

    /// Starts the client and waits for the first snapshot, be it from the disk cache: in that case
    /// only for a moment longer (at most a second) for a node. [`Client::fresh`] waits for a node.
    ///
    /// # Errors
    /// As [`ClientBuilder::start`]; or with what went wrong last, when no snapshot came in time.
    pub async fn connect(self) -> Result<Client, Error> {
        let deadline = self.connect_deadline;
        let client = self.start()?;
        client.ready(deadline).await?;
        if client.status().source != Some(Source::Node) {
            client.settled(SETTLE_TIME_MAX.min(deadline)).await;
        }
        Ok(client)
    }

    /// Starts the client and returns at once. Until the first snapshot every evaluation gives the
    /// caller's default with the reason `NOT_READY`.
    ///
    /// # Errors
    /// `is_settings()` when the description is wrong, or when there is no tokio runtime.
    pub fn start(self) -> Result<Client, Error> {
        let endpoints = self.endpoints()?;
        let environment = self.environment.as_deref();
        let environment = environment.ok_or_else(|| Error::settings("no environment is given"))?;
        let environment = EnvironmentKey::try_from(environment)
            .map_err(|e| Error::settings(format!("environment {environment:?}: {e}")))?;
        let application = self.application.clone();
        if let Some(application) = &application {
            // Applications are named as flags are.
            FlagKey::try_from(application.as_str())
                .map_err(|e| Error::settings(format!("application {application:?}: {e}")))?;
        }
        let token = self.token.as_deref().map(http1::bearer).transpose()?;
        let seed = self
            .seed
            .unwrap_or_else(|| rand::make_rng::<StdRng>().random());
        let client_id = self
            .client_id
            .clone()
            .unwrap_or_else(|| default_id(self.seed.is_none(), seed));
        if client_id.is_empty() || client_id.len() > CLIENT_ID_LEN_MAX {
            let why = format!("a client id has 1 to {CLIENT_ID_LEN_MAX} bytes");
            return Err(Error::settings(why));
        }
        let identity = Identity {
            environment: environment.clone(),
            application,
        };
        let bootstrap = self.bootstrap.as_deref();
        let bootstrap = bootstrap.map(|bytes| bootstrap_of(bytes, &identity));
        let bootstrap = bootstrap.transpose()?;
        let runtime = Handle::try_current()
            .map_err(|_| Error::settings("a client is started inside a tokio runtime"))?;
        let mut driver = self.driver(endpoints, identity, token, client_id, seed);
        driver.bootstrap = bootstrap;
        let shared = Arc::clone(&driver.shared);
        let (alive, gone) = oneshot::channel();
        runtime.spawn(driver.run(gone));
        Ok(Client::new(shared, alive))
    }

    fn endpoints(&self) -> Result<Arc<[Endpoint]>, Error> {
        let endpoints = Endpoint::parse_all(&self.urls)?;
        #[cfg(feature = "tls")]
        if !self.root_certificates.is_empty() {
            let tls = crate::tls::Tls::trusting(&self.root_certificates)?;
            let trusting = endpoints.iter().map(|at| at.clone().trusting(&tls));
            return Ok(trusting.collect());
        }
        Ok(endpoints)
    }

    fn driver(
        self,
        endpoints: Arc<[Endpoint]>,
        identity: Identity,
        token: Option<HeaderValue>,
        client_id: String,
        seed: u64,
    ) -> Driver {
        let environment = identity.environment.clone();
        let name = environment.to_string();
        let application = identity.application.clone();
        let cache = self.cache_file.map(|path| Cache::new(path, identity));
        let session = Session::new(Settings {
            environment,
            endpoints: Arc::clone(&endpoints),
            staleness_max: self.staleness_max,
            polling: self.polling,
            broken: self.broken,
            seed,
        });
        let first = Report {
            // The list is not empty, and the session chose from it.
            endpoint: endpoints[session.endpoint()].clone(),
            connected_since: None,
            held: None,
            freshness: None,
            polling: session.is_polling(),
            acknowledged: None,
            last_error: None,
            cache: cache.as_ref().map(|cache| cache.status().clone()),
            counters: Counters::default(),
        };
        let offers = Offers::new(endpoints.len());
        let shared = Shared::new(self.clock, endpoints, self.policy, first);
        Driver {
            session,
            shared: Arc::new(shared),
            connector: self.connector,
            environment: name,
            application,
            client_id,
            token,
            link: Link::Closed,
            offers,
            receipts: Receipts::default(),
            cache,
            bootstrap: None,
        }
    }
}

/// Reads the bytes given to begin with, of either form.
fn bootstrap_of(bytes: &[u8], identity: &Identity) -> Result<Restored, Error> {
    let refused =
        |why: &dyn std::fmt::Display| Error::settings(format!("the bootstrap bytes: {why}"));
    if cache::is_cache(bytes) {
        let read = cache::decode(bytes, identity).map_err(|e| refused(&e))?;
        let source = Source::Bootstrap;
        return Ok(Restored { source, ..read });
    }
    let answer = readable::answer(bytes, &identity.environment).map_err(|e| refused(&e))?;
    let config = match answer {
        readable::Answer::Full(config) => config,
        readable::Answer::Changes(delta) => {
            let why = format!(
                "they hold what changed after {}, not everything",
                delta.from
            );
            return Err(refused(&why));
        }
        readable::Answer::Nothing { version } => {
            return Err(refused(&format!(
                "they say that nothing changed up to {version}"
            )));
        }
    };
    Ok(Restored {
        snapshot: Snapshot::load(&config).map_err(|e| refused(&e))?,
        // Nothing in it says so; until a node has replaced it, nothing is added to it.
        cluster_id: None,
        bound: Duration::from_millis(Environment::STALENESS_BOUND_MS_DEFAULT),
        source: Source::Bootstrap,
        written: None,
    })
}

/// Names a client that was not given a name. A seeded one gets the same name on every host.
fn default_id(real: bool, seed: u64) -> String {
    if !real {
        return format!("rust-{seed:016x}");
    }
    let host = rustix::system::uname();
    // A name of 256 bytes or more is none that a system has; it would make the id too long.
    let host: String = host.nodename().to_string_lossy().chars().take(48).collect();
    format!("{host}-{}-{:08x}", std::process::id(), seed >> 32)
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("urls", &self.urls)
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<ClientBuilder, Error> {
        ClientBuilder::from_variables(|name| {
            let found = variables.iter().find(|(have, _)| *have == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_variables_make_a_description() {
        let all = [
            ("PENNON_URL", "http://a:1, http://b:2"),
            ("PENNON_ENV", "prod"),
            ("PENNON_TOKEN", "t\n"),
        ];
        let builder = from(&all).unwrap();
        assert_eq!(builder.urls, ["http://a:1", "http://b:2"]);
        assert_eq!(builder.environment.as_deref(), Some("prod"));
        assert_eq!(builder.token.as_deref(), Some("t"));
        assert!(
            from(&all[1..])
                .unwrap_err()
                .to_string()
                .contains("PENNON_URL")
        );
        let blank = [("PENNON_URL", "http://a:1"), ("PENNON_ENV", " ")];
        assert!(from(&blank).unwrap_err().to_string().contains("PENNON_ENV"));
    }

    #[test]
    fn a_token_can_be_in_a_file_and_a_missing_file_is_said() {
        let with = |path: &str| {
            from(&[
                ("PENNON_URL", "http://a:1"),
                ("PENNON_ENV", "prod"),
                ("PENNON_TOKEN_FILE", path),
            ])
        };
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(with(here).unwrap().token.unwrap().contains("pennon-client"));
        assert!(
            with("/nonexistent")
                .unwrap_err()
                .to_string()
                .contains("/nonexistent")
        );
    }

    #[tokio::test]
    async fn a_wrong_description_is_refused_before_anything_is_sent() {
        let refusal = |builder: ClientBuilder| builder.start().unwrap_err();
        let good = || Client::builder(["http://127.0.0.1:1"]).environment("prod");
        for builder in [
            Client::builder(["http://127.0.0.1:1"]),
            Client::builder(Vec::<String>::new()).environment("prod"),
            good().environment("a b"),
            good().application("a b"),
            good().application(""),
            good().token("a\nb".to_owned()),
            good().client_id(""),
            good().client_id("x".repeat(257)),
        ] {
            assert!(refusal(builder).is_settings());
        }
        assert!(good().start().is_ok());
    }

    #[test]
    fn clients_without_a_name_get_one_that_people_can_place() {
        let (one, other) = (default_id(true, 1 << 40), default_id(true, 2 << 40));
        assert!(one != other && one.contains(&format!("-{}-", std::process::id())));
        assert!((1..=CLIENT_ID_LEN_MAX).contains(&one.len()), "{one}");
        assert_eq!(default_id(false, 7), default_id(false, 7));
    }

    #[test]
    fn a_client_outside_a_runtime_is_refused() {
        let builder = Client::builder(["http://127.0.0.1:1"]).environment("prod");
        assert!(
            builder
                .start()
                .unwrap_err()
                .to_string()
                .contains("tokio runtime")
        );
    }
}
