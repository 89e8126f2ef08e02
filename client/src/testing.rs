//! A client for tests of applications: flags are set from code, and nothing is connected to.
//!
//! What must hold: it is the real [`Client`], with real states, so that what a test sees is what
//! production does: types, defaults, staleness, changes, `wait_for`.
//!
//! Left out: targeting. A test says what a subject gets; how rules decide is tested at a node.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pennon_evaluator::{
    AgeBound, ConfigSnapshot, EncodedState, EnvironmentKey, FlagConfig, FlagKey, Limits,
    NoReferences, Snapshot, TargetingPolicy, Version, compile_flag,
};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::evaluation::StalePolicy;
use crate::flags::{Client, Shared};
use crate::held::{Held, Source};
use crate::status::{Counters, Report};

/// The staleness bound, and an age beyond it.
const BOUND: Duration = Duration::from_secs(10);
const AGE_STALE: Duration = Duration::from_secs(3_600);

/// A [`Client`] whose flags are set from code. It dereferences to one, and clones share everything.
///
/// ```
/// use pennon_client::testing::TestClient;
/// use pennon_client::{Client, Freshness, Subject};
///
/// fn greeting(flags: &Client, user: &Subject) -> String {
///     flags.string("greeting", user, "Hello")
/// }
///
/// let flags = TestClient::new().set("greeting", "Hi").set_for("anna", "greeting", "Moin");
/// let (anna, ben) = (Subject::new("anna"), Subject::new("ben"));
/// assert_eq!(greeting(&flags, &anna), "Moin");
/// assert_eq!(greeting(&flags, &ben), "Hi");
///
/// flags.remove("greeting");
/// assert_eq!(greeting(&flags, &anna), "Hello"); // the default of the code under test
/// flags.set("greeting", "Hi").set_stale(true);
/// assert_eq!(flags.evaluate("greeting", &ben).freshness(), Freshness::Stale);
/// ```
///
/// What no flag can be is refused where it is set:
///
/// ```should_panic
/// # use pennon_client::testing::TestClient;
/// TestClient::new().set("two words", true); // no key of a flag
/// ```
#[derive(Clone)]
pub struct TestClient {
    client: Client,
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    flags: BTreeMap<FlagKey, Flag>,
    version: u64,
    stale: bool,
}

#[derive(Default)]
struct Flag {
    value: Option<Value>,
    by_subject: BTreeMap<String, Value>,
    changed_at: u64,
}

/// Time stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl Default for TestClient {
    fn default() -> TestClient {
        TestClient::new()
    }
}

impl TestClient {
    /// Makes a client without any flag, ready and fresh.
    pub fn new() -> TestClient {
        TestClient::with_policy(StalePolicy::default())
    }

    /// The same with what to answer beyond the staleness bound.
    pub fn with_policy(policy: StalePolicy) -> TestClient {
        let first = Report {
            endpoint: Endpoint::nowhere(),
            connected_since: Some(Duration::ZERO),
            held: None,
            freshness: None,
            polling: false,
            acknowledged: None,
            last_error: None,
            cache: None,
            counters: Counters::default(),
        };
        let endpoints = Arc::new([Endpoint::nowhere()]);
        let shared = Arc::new(Shared::new(Arc::new(Still), endpoints, policy, first));
        // Nobody listens: there is no background task that could end.
        let (alive, _) = oneshot::channel();
        let test = TestClient {
            client: Client::new(Arc::clone(&shared), alive),
            shared,
            state: Arc::default(),
        };
        test.change(|_, _| ());
        test
    }

    /// Sets what a flag gives everybody who was not given something else. A boolean, a number, a text
    /// or a JSON object.
    ///
    /// # Panics
    /// When the key is none that a flag can have, the value is of another type, or not of the type
    /// that the flag has for a subject.
    pub fn set(&self, flag: &str, value: impl Into<Value>) -> TestClient {
        let (flag, value) = (key(flag), value.into());
        self.change(move |state, at| {
            let flag = state.flags.entry(flag).or_default();
            (flag.value, flag.changed_at) = (Some(value), at);
        })
    }

    /// Sets what a flag gives one subject, by its key. If the flag was not set, everybody else gets
    /// `false`, 0, the empty text or the empty object.
    ///
    /// # Panics
    /// As [`TestClient::set`].
    pub fn set_for(&self, subject: &str, flag: &str, value: impl Into<Value>) -> TestClient {
        let (flag, value) = (key(flag), value.into());
        self.change(move |state, at| {
            let flag = state.flags.entry(flag).or_default();
            flag.by_subject.insert(subject.to_owned(), value);
            flag.changed_at = at;
        })
    }

    /// Removes a flag: it is evaluated as one that is not there.
    pub fn remove(&self, flag: &str) -> TestClient {
        self.change(|state, _| {
            let kept = |key: &FlagKey| key.as_str() != flag;
            state.flags.retain(|key, _| kept(key));
        })
    }

    /// Makes all answers STALE, or fresh again.
    pub fn set_stale(&self, stale: bool) -> TestClient {
        self.change(|state, _| state.stale = stale)
    }

    /// Returns the client, for code that wants one of its own.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Changes the flags at the next version and lets evaluations see it.
    fn change(&self, change: impl FnOnce(&mut State, u64)) -> TestClient {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.version += 1;
        let at = state.version;
        change(&mut state, at);
        let held = match state.load() {
            Ok(snapshot) => Arc::new(state.hold(snapshot)),
            Err(why) => panic!("a flag cannot be set: {why}"),
        };
        self.shared.publish(Some(&held));
        self.shared.show(|report| {
            report.freshness = Some(held.freshness(Duration::ZERO).1);
            report.held = Some(held);
        });
        drop(state);
        self.clone()
    }
}

impl Deref for TestClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::fmt::Debug for TestClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TestClient").field(&self.client).finish()
    }
}

impl State {
    fn load(&self) -> Result<Snapshot, String> {
        let environment = EnvironmentKey::try_from("test").map_err(|e| e.to_string())?;
        let flags = self.flags.iter();
        let states: Result<Vec<EncodedState>, String> = flags
            .map(|(key, flag)| flag.state(key, &environment))
            .collect();
        let version = Version::new(self.version).unwrap_or(Version::MAX);
        let config = ConfigSnapshot::new(environment, version, states?);
        Snapshot::load(&config.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    fn hold(&self, snapshot: Snapshot) -> Held {
        let age = if self.stale {
            AGE_STALE
        } else {
            Duration::ZERO
        };
        let proof = AgeBound::new(Duration::ZERO, Duration::ZERO, age);
        let mut held = Held::new(snapshot, "test".into(), proof, BOUND, None);
        held.source = Source::Code;
        held
    }
}

impl Flag {
    /// Compiles the flag: a variant for everybody, and one for each subject.
    fn state(&self, key: &FlagKey, environment: &EnvironmentKey) -> Result<EncodedState, String> {
        let first = self.value.as_ref().or(self.by_subject.values().next());
        let (value_type, neutral) = match first {
            Some(Value::Bool(_)) => ("boolean", json!(false)),
            Some(Value::Number(_)) => ("number", json!(0)),
            Some(Value::String(_)) => ("string", json!("")),
            Some(Value::Object(_)) => ("object", json!({})),
            other => return Err(format!("{key}: no flag has the value {other:?}")),
        };
        let mut variants = Map::new();
        variants.insert("value".to_owned(), self.value.clone().unwrap_or(neutral));
        let mut targets = Vec::new();
        for (n, (subject, value)) in self.by_subject.iter().enumerate() {
            let variant = format!("value-{n}");
            targets.push(json!({"variant": variant, "subjects": [subject]}));
            variants.insert(variant, value.clone());
        }
        let config = json!({"type": value_type, "variants": variants, "off_variant": "value"});
        let default = json!({"variant": "value"});
        let policy = json!({"enabled": true, "targets": targets, "default": default});
        let faults = |faults: Vec<pennon_evaluator::Fault>| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            format!("{key}: {}", faults.join("; "))
        };
        let config = FlagConfig::parse(key, &config.to_string()).map_err(faults)?;
        let policy = TargetingPolicy::parse(&policy.to_string()).map_err(faults)?;
        let at = Version::new(self.changed_at).unwrap_or(Version::MAX);
        let limits = Limits {
            variants_max: usize::MAX,
            ..Limits::default()
        };
        let state = compile_flag(&config, at, &policy, at, at, &NoReferences, &limits);
        Ok(EncodedState::new(environment, &state.map_err(faults)?))
    }
}

fn key(flag: &str) -> FlagKey {
    match FlagKey::try_from(flag) {
        Ok(key) => key,
        Err(why) => panic!("{flag:?} is no key of a flag: {why}"),
    }
}
