//! What an object was: its changes from the newest, and the object as of a version.
//!
//! What must hold: nothing that is not kept any more is taken for something that was not there. What
//! a change replaced is [`Replaced::NotRetained`] where the node left it out, and a version that the
//! history does not reach is an error of its own.
//!
//! Left out: changes of all objects (`audit.rs`).

use http::{HeaderMap, Method};
use pennon_evaluator::Version;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::objects::text;
use super::pages::{Question, sealed::Sealed};
use super::{Admin, Object, Page, Pages, Resource};
use crate::error::Error;

/// One page of the history of an object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct History {
    /// Its changes, newest first.
    pub items: Vec<HistoryLine>,
    /// The version at which the page was read.
    pub version: Version,
    /// There may be older changes: where they begin, for [`Pages::resume`].
    #[serde(default, deserialize_with = "text")]
    pub next: Option<String>,
}

/// One change of an object.
///
/// ```
/// use pennon_client::admin::{HistoryLine, Op, Replaced};
/// let line = r#"{"version": 12, "op": "put", "updated_at": "2026-11-22T10:00:00Z",
///     "updated_by": "alice", "before": null, "value": {"enabled": true}, "added_later": 1}"#;
/// let line: HistoryLine = serde_json::from_str(line)?;
/// assert_eq!((line.op(), &line.before), (Op::Create, &Replaced::Nothing));
///
/// // Refused: what the object became has to be there, if only as null.
/// let line = r#"{"version": 12, "updated_at": "2026-11-22T10:00:00Z", "updated_by": "alice"}"#;
/// assert!(serde_json::from_str::<HistoryLine>(line).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HistoryLine {
    /// The version of the change, and of the object from then on.
    pub version: Version,
    /// The version that the object had before, if it existed.
    #[serde(default)]
    pub previous_version: Option<Version>,
    /// When, by the clock of the leader of that time, as RFC 3339.
    pub updated_at: String,
    /// Who.
    pub updated_by: String,
    /// Why, if that was said.
    #[serde(default)]
    pub reason: Option<String>,
    /// The idempotency key it was sent under, if there was one.
    #[serde(default)]
    pub request_id: Option<String>,
    /// What it replaced.
    #[serde(default)]
    pub before: Replaced,
    /// What was written; `None` when the object was deleted.
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<Value>,
}

impl HistoryLine {
    /// Returns what the change did.
    pub fn op(&self) -> Op {
        Op::of(self.previous_version, self.value.as_ref())
    }
}

/// What a change replaced.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Replaced {
    /// The object did not exist.
    Nothing,
    /// This value.
    Value(Value),
    /// What it was is not kept any more.
    #[default]
    NotRetained,
}

impl Replaced {
    /// Returns the value that was replaced, if there was one and it is still kept.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Replaced::Value(value) => Some(value),
            Replaced::Nothing | Replaced::NotRetained => None,
        }
    }
}

impl<'de> Deserialize<'de> for Replaced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Replaced, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Null => Replaced::Nothing,
            value => Replaced::Value(value),
        })
    }
}

/// What a change did to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It did not exist before.
    Create,
    /// It existed and does.
    Change,
    /// It does not exist any more.
    Delete,
}

impl Op {
    pub(super) fn of(previous: Option<Version>, value: Option<&Value>) -> Op {
        match (previous, value) {
            (_, None) => Op::Delete,
            (None, Some(_)) => Op::Create,
            (Some(_), Some(_)) => Op::Change,
        }
    }
}

impl Admin {
    /// Reads the changes of one object, newest first: also of one that is deleted by now. How many
    /// are kept is the setting `history`: 100 of each object unless set.
    ///
    /// The first page is the error `is_not_found()` when the object does not exist and nothing is
    /// kept of it.
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::admin::Resource;
    /// let policy = Resource::policy("production", "checkout.new-ui");
    /// for line in admin.history(&policy).items(20).await? {
    ///     println!("{} {:?} by {}", line.version, line.op(), line.updated_by);
    /// }
    /// // Refused: there is no such flag, and there was none.
    /// let refused = admin.history(&Resource::flag("chekout")).next().await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn history(&self, resource: &Resource) -> Pages<History> {
        let question = Question {
            method: Method::GET,
            path: format!("{}/history", resource.path()),
            query: Vec::new(),
            cursor: "before",
            body: None,
        };
        Pages::new(self.clone(), question)
    }

    /// Reads one object as it was at a version. A version that no node has yet is waited for, within
    /// the timeout.
    ///
    /// # Errors
    /// `is_not_found()` when it certainly did not exist then; if it had been deleted,
    /// [`Error::deleted_version`] says at which version, and before that it was there.
    /// `is_not_retained()` when the history does not go back that far: [`Error::oldest_version`] is
    /// the oldest version that can be asked for. `is_not_fresh_enough()` when no node came to have
    /// that version. Or as [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::Version;
    /// use pennon_client::admin::{Expected, Resource};
    /// let (flag, then) = (Resource::flag("checkout.new-ui"), Version::new(1_200).unwrap_or_default());
    /// let now = admin.get(&flag).await?;
    /// match admin.get_at(&flag, then).await {
    ///     // Back to what it was, unless somebody changes it meanwhile.
    ///     Ok(was) => drop(admin.put(&flag, &was.value, Expected::At(now.version)).await?),
    ///     Err(error) if error.is_not_retained() => {
    ///         println!("kept from version {:?} on", error.oldest_version());
    ///     }
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_at(&self, resource: &Resource, version: Version) -> Result<Object, Error> {
        let path = format!("{}/history?at={version}", resource.path());
        self.typed(Method::GET, &path, HeaderMap::new(), None).await
    }
}

impl Sealed for History {}

impl Page for History {
    type Item = HistoryLine;

    fn version(&self) -> Version {
        self.version
    }

    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn into_items(self) -> Vec<HistoryLine> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_and_not_kept_are_two_things() {
        let mut line = json!({"version": 7, "updated_at": "t", "updated_by": "a", "value": null,
            "previous_version": 3, "op": "delete"});
        let read = |line: &Value| HistoryLine::deserialize(line).unwrap();
        assert_eq!(read(&line).before, Replaced::NotRetained);
        assert_eq!((read(&line).op(), read(&line).value), (Op::Delete, None));
        line["before"] = Value::Null;
        assert_eq!(read(&line).before, Replaced::Nothing);
        line["before"] = json!({"tags": []});
        assert_eq!(read(&line).before.value(), Some(&json!({"tags": []})));
        line["value"] = json!({});
        assert_eq!(read(&line).op(), Op::Change);
    }
}
