//! The snapshot of an environment, for shipping with an application and for keeping.
//!
//! What must hold: what is handed out is byte for byte what the cluster compiled, or it is refused
//! (I4); so is what is of another environment or version than was asked for.
//!
//! Left out: streams, which bring the same to a running client (`session.rs`).

use http::{HeaderMap, Method};
use pennon_evaluator::{ConfigSnapshot, EnvironmentKey, Version};

use super::Admin;
use super::attempts::Repeat;
use crate::error::Error;
use crate::http1::segment;
use crate::readable;

/// All states of an environment, or of what an application needs of it, at one version.
#[derive(Clone, Debug)]
pub struct EnvironmentSnapshot {
    config: ConfigSnapshot,
    text: Vec<u8>,
}

impl EnvironmentSnapshot {
    /// Returns the version.
    pub fn version(&self) -> Version {
        self.config.version()
    }

    /// Returns the digest of all states, as it is written.
    pub fn digest(&self) -> String {
        self.config.digest().to_string()
    }

    /// Returns how many flags and segments there are.
    pub fn len(&self) -> usize {
        self.config.states().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.config.states().is_empty()
    }

    /// Returns the JSON that the node gave: what
    /// [`ClientBuilder::bootstrap`](crate::ClientBuilder::bootstrap) takes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The same, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.text
    }
}

impl Admin {
    /// Reads the newest snapshot of an environment; of an application only the flags it needs, with what
    /// they use. It is checked as a client checks it.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such environment or application, `is_not_fresh_enough()` when no
    /// node is within the staleness bound, `is_settings()` when there cannot be such an environment; one
    /// that is none of these when it does not add up or is of a release that compiles otherwise; or as
    /// [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), Box<dyn std::error::Error>> {
    /// use pennon_client::Client;
    /// let shipped = admin.snapshot("production", None).await?;
    /// std::fs::write("flags.json", shipped.as_bytes())?;
    /// // Later, where no node can be reached:
    /// let flags = Client::builder(["http://127.0.0.1:7400"])
    ///     .environment("production")
    ///     .bootstrap(shipped.into_bytes())
    ///     .start()?;
    /// // Refused: there is no such environment.
    /// let refused = admin.snapshot("prodution", None).await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # drop(flags);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot(
        &self,
        environment: &str,
        application: Option<&str>,
    ) -> Result<EnvironmentSnapshot, Error> {
        self.snapshot_of(environment, "", application).await
    }

    /// Reads the snapshot at one version: the same bytes whenever and from whichever node, or none. Nodes
    /// give those from the last change of the environment on.
    ///
    /// # Errors
    /// `is_not_found()` when no node gives that version any more, and as [`Admin::snapshot`].
    pub async fn snapshot_at(
        &self,
        environment: &str,
        application: Option<&str>,
        version: Version,
    ) -> Result<EnvironmentSnapshot, Error> {
        let which = format!("s/{version}");
        let snapshot = self.snapshot_of(environment, &which, application);
        let snapshot = snapshot.await?;
        match snapshot.version() == version {
            true => Ok(snapshot),
            false => Err(Error::protocol(format!(
                "the node gave version {} where {version} was asked for",
                snapshot.version()
            ))),
        }
    }

    async fn snapshot_of(
        &self,
        environment: &str,
        which: &str,
        application: Option<&str>,
    ) -> Result<EnvironmentSnapshot, Error> {
        let key = EnvironmentKey::try_from(environment);
        let key = key.map_err(|why| Error::settings(format!("{environment:?}: {why}")))?;
        let mut path = format!("/v1/environments/{}/snapshot{which}", segment(environment));
        if let Some(application) = application {
            path.push_str(&format!("?app={}", segment(application)));
        }
        let outgoing = self.outgoing(Method::GET, &path, HeaderMap::new(), None)?;
        let answer = self.pool.send(&outgoing, Repeat::Safe, self.limits).await?;
        let raw = self.accepted(answer)?;
        let text = raw.body.clone();
        // Compiling all of it takes a while.
        let reading = tokio::task::spawn_blocking(move || readable::answer(&text, &key)); // I4
        let read = reading.await.map_err(|_| Error::stopped())?;
        match read.map_err(|error| self.at(&raw, error))? {
            readable::Answer::Full(config) => Ok(EnvironmentSnapshot {
                config,
                text: raw.body.into(),
            }),
            _ => Err(self.at(&raw, Error::protocol("the answer is not a whole snapshot"))),
        }
    }
}
