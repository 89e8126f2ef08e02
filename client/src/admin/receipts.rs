//! Who has a version: what a write waited for, and what nodes say of an environment or a flag.
//!
//! What must hold: an answer that is not complete says so and names who is missing; a word that this
//! release does not know is kept, and counts as missing (I8).
//!
//! Left out: sending receipts, which is what [`crate::Client`] does by itself.

use std::time::Duration;

use http::Method;
use pennon_evaluator::Version;
use serde::Deserialize;

use super::Admin;
use super::objects::milliseconds;
use crate::error::Error;
use crate::http1::segment;

/// The longest time that a node lets a write wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a write waits for, beyond the commit that every write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Every node that answers has applied it.
    Applied,
    /// Every evaluator that is connected has said that it has applied it.
    Delivered,
}

impl Ack {
    /// Returns what tells a node to wait, as part of a query; `timeout` is how long its caller waits.
    ///
    /// ```
    /// use std::time::Duration;
    /// use pennon_client::admin::Ack;
    /// assert_eq!(Ack::Applied.query(Duration::from_secs(10)), "ack=applied&timeout=9000ms");
    /// // Refused by nodes, and therefore not said: more than a minute.
    /// assert_eq!(Ack::Delivered.query(Duration::MAX), "ack=delivered&timeout=60000ms");
    /// ```
    pub fn query(self, timeout: Duration) -> String {
        let word = match self {
            Ack::Applied => "applied",
            Ack::Delivered => "delivered",
        };
        // The answer must be here before it is given up.
        let within = timeout.min(2 * WAIT_MAX).mul_f64(0.9).min(WAIT_MAX);
        format!("ack={word}&timeout={}ms", within.as_millis())
    }
}

/// Who has a version.
///
/// ```
/// use pennon_client::admin::{Delivery, LaggardState};
/// let said = r#"{"complete": false, "connected": 2, "acknowledged": 1, "unnamed": 0,
///     "laggards": [{"id": "cart-7", "environment": "production", "node": "n2", "version": 40,
///         "last_seen_ms": 900, "state": "connected", "fresh_for_ms": 4100}],
///     "laggards_total": 1, "settled_in_ms": 4100,
///     "nodes": [{"name": "n1", "answers": true, "applied": true, "connected": 2}]}"#;
/// let said: Delivery = serde_json::from_str(said)?;
/// assert!(!said.complete);
/// assert_eq!((said.laggards[0].id.as_str(), &said.laggards[0].state), ("cart-7", &LaggardState::Connected));
///
/// // Refused: a laggard without a name.
/// assert!(serde_json::from_str::<Delivery>(r#"{"complete": true, "laggards": [{}]}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Delivery {
    /// Whether every node has applied it and everybody who is connected has said so. Of a write that
    /// waited for [`Ack::Applied`]: whether every node has applied it.
    #[serde(default)]
    pub complete: bool,
    /// How many evaluators with a name are connected.
    #[serde(default)]
    pub connected: u64,
    /// How many of those have acknowledged the version.
    #[serde(default)]
    pub acknowledged: u64,
    /// How many streams have no name; nothing is known of them.
    #[serde(default)]
    pub unnamed: u64,
    /// Who may still act on an older state, those who are connected first; a thousand at most.
    #[serde(default)]
    pub laggards: Vec<Laggard>,
    /// How many there are.
    #[serde(default)]
    pub laggards_total: u64,
    /// The members of the cluster.
    #[serde(default)]
    pub nodes: Vec<NodePart>,
    /// After so long nobody acts on an older state as if it were fresh. `None` when the write waited for
    /// nodes only.
    #[serde(default, rename = "settled_in_ms", deserialize_with = "milliseconds")]
    pub settled_in: Option<Duration>,
}

/// An evaluator that may still act on an older state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Laggard {
    /// What it calls itself.
    pub id: String,
    /// The environment.
    #[serde(default)]
    pub environment: String,
    /// The node that it is, or was last, connected to.
    #[serde(default)]
    pub node: String,
    /// The version that it acknowledged last; 0 when none is known.
    #[serde(default)]
    pub version: Version,
    /// How long ago it was heard of last, if it ever was.
    #[serde(default, rename = "last_seen_ms", deserialize_with = "milliseconds")]
    pub last_seen: Option<Duration>,
    /// Why it counts.
    pub state: LaggardState,
    /// How long it may at most call an older state fresh; `None` when the node does not say.
    #[serde(default, rename = "fresh_for_ms", deserialize_with = "milliseconds")]
    pub fresh_for: Option<Duration>,
}

/// Why an evaluator counts as a laggard.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum LaggardState {
    /// It is connected, and has not acknowledged the version.
    Connected,
    /// It was connected to a node that does not answer.
    NodeUnreachable,
    /// It has no stream, any more or because it polls.
    Disconnected,
    /// A word that this release of the client does not know.
    Other(String),
}

impl From<String> for LaggardState {
    fn from(word: String) -> LaggardState {
        match word.as_str() {
            "connected" => LaggardState::Connected,
            "node-unreachable" => LaggardState::NodeUnreachable,
            "disconnected" => LaggardState::Disconnected,
            _ => LaggardState::Other(word),
        }
    }
}

/// One member's part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodePart {
    /// Its name.
    pub name: String,
    /// Whether it answered.
    #[serde(default)]
    pub answers: bool,
    /// Whether it has applied the version.
    #[serde(default)]
    pub applied: bool,
    /// How many evaluators are connected to it.
    #[serde(default)]
    pub connected: u64,
    /// How long somebody who is known by no name may act on an older state, as if it were fresh, that it
    /// has from there: who left, or was there before the node started. `None` when the node does not say.
    #[serde(default, rename = "doubt_ms", deserialize_with = "milliseconds")]
    pub doubt: Option<Duration>,
}

/// Who has a version of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Receipts {
    /// The environment.
    pub environment: String,
    /// The version that was asked about.
    pub version: Version,
    /// Who has it.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// How an environment is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EnvironmentStatus {
    /// The environment.
    pub environment: String,
    /// The version of the node that answers.
    pub version: Version,
    /// The version at which the environment last changed; the counts are about that.
    pub changed_at: Version,
    /// The digest of what is served.
    pub digest: String,
    /// How stale an answer may be that is called fresh.
    #[serde(rename = "staleness_bound_ms", deserialize_with = "milliseconds")]
    pub staleness_bound: Option<Duration>,
    /// Who has it; `complete` says nothing here.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// How a flag is in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FlagStatus {
    /// The flag.
    pub flag: String,
    /// The environment.
    pub environment: String,
    /// Whether it is switched on.
    pub enabled: bool,
    /// The version at which it last changed there; the counts are about that.
    pub config_version: Version,
    /// Who changed it last; `None` when the history has that no more.
    #[serde(default)]
    pub last_change: Option<LastChange>,
    /// Who has it; `complete` says nothing here.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// The newest change of a flag's policy or config.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LastChange {
    /// What was changed, `policy` or `flag`.
    pub kind: String,
    /// The version of the change.
    pub version: Version,
    /// When, as RFC 3339.
    pub updated_at: String,
    /// By whom.
    pub updated_by: String,
    /// Why, if that was said.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Delivery {
    /// Returns the names of those who are connected, or may be, and do not have it. Who is disconnected is not
    /// among them: nobody can tell it anything, and `fresh_for` says how long it may not know that.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let counts = |one: &&Laggard| one.state != LaggardState::Disconnected;
        self.laggards
            .iter()
            .filter(counts)
            .map(|one| one.id.as_str())
    }
}

impl Admin {
    /// Asks who has a version of an environment, the newest if none is named; waits for everybody at most for
    /// `wait`, which is a minute at most.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such environment, or as [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use std::time::Duration;
    /// let written = admin.disable("production", "checkout.new-ui").await?;
    /// let wait = Duration::from_secs(5);
    /// let receipts = admin.receipts("production", Some(written.version), wait).await?;
    /// for missing in receipts.delivery.missing() {
    ///     println!("{missing} does not have it yet");
    /// }
    /// // Refused: there is no such environment.
    /// let refused = admin.receipts("prodction", None, Duration::ZERO).await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn receipts(
        &self,
        environment: &str,
        version: Option<Version>,
        wait: Duration,
    ) -> Result<Receipts, Error> {
        let environment = segment(environment);
        let wait = wait.as_millis();
        let version = version.map(|version| format!("&version={version}"));
        let version = version.unwrap_or_default();
        let path = format!("/v1/environments/{environment}/receipts?wait={wait}ms{version}");
        self.ask(Method::GET, &path, None).await
    }

    /// Asks how an environment is and who has its last change.
    ///
    /// # Errors
    /// `is_not_found()`, or as [`Admin::request`].
    pub async fn environment_status(&self, environment: &str) -> Result<EnvironmentStatus, Error> {
        let path = format!("/v1/environments/{}/status", segment(environment));
        self.ask(Method::GET, &path, None).await
    }

    /// Asks how a flag is in an environment, who changed it last, and who has that.
    ///
    /// # Errors
    /// `is_not_found()`, or as [`Admin::request`].
    pub async fn flag_status(&self, environment: &str, flag: &str) -> Result<FlagStatus, Error> {
        let (environment, flag) = (segment(environment), segment(flag));
        let path = format!("/v1/environments/{environment}/status/{flag}");
        self.ask(Method::GET, &path, None).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_missing_is_named_but_not_who_cannot_be_told() {
        let laggard = |id: &str, state: &str| json!({"id": id, "state": state});
        let said = json!({"complete": false, "laggards": [laggard("a", "connected"),
            laggard("b", "disconnected"), laggard("c", "node-unreachable"), laggard("d", "asleep")]});
        let said = Delivery::deserialize(said).unwrap();
        assert_eq!(said.missing().collect::<Vec<_>>(), ["a", "c", "d"]);
        assert_eq!(said.laggards[3].state, LaggardState::Other("asleep".into()));
        assert_eq!((said.settled_in, said.laggards[0].fresh_for), (None, None));
        // Nothing said is nothing complete.
        assert!(!Delivery::deserialize(json!({})).unwrap().complete);
    }
}
