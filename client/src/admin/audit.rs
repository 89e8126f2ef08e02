//! The audit list: who changed what, over all objects, newest first.
//!
//! What must hold: a filter is encoded into the query here and nowhere else; a line of an object of
//! a kind that this release does not know is still a line.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use pennon_evaluator::Version;
use serde::Deserialize;
use serde_json::Value;

use super::history::{Op, Replaced};
use super::objects::{Kind, text};
use super::pages::{Question, sealed::Sealed};
use super::{Admin, Page, Pages, Resource};
use crate::http1::segment;

/// Which changes are wanted: those that everything said here holds for.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use pennon_client::admin::{AuditFilter, Kind, Resource};
/// let by_alice = AuditFilter::new().by("alice").in_environment("production");
/// let of_one = AuditFilter::new().of(&Resource::policy("production", "checkout.new-ui"));
/// let of_one_anywhere = AuditFilter::new().of_kind(Kind::Policy).of_key("checkout.new-ui");
/// let lately = AuditFilter::new().from_time("2026-11-22T10:00:00Z");
/// # let _ = (by_alice, of_one, of_one_anywhere, lately);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    actor: Option<String>,
    kind: Option<Kind>,
    environment: Option<String>,
    key: Option<String>,
    after: Option<Version>,
    before: Option<Version>,
    from: Option<Moment>,
    to: Option<Moment>,
}

impl AuditFilter {
    /// Makes a filter that takes every change.
    pub fn new() -> AuditFilter {
        AuditFilter::default()
    }

    /// Takes only changes by exactly this one.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> AuditFilter {
        self.actor = Some(actor.into());
        self
    }

    /// Takes only changes of this object. The node then looks at nothing else, which is faster than
    /// any other filter.
    #[must_use]
    pub fn of(mut self, resource: &Resource) -> AuditFilter {
        self.kind = Some(resource.kind());
        self.key = Some(resource.key().to_owned());
        self.environment = resource.scope().map(str::to_owned);
        self
    }

    /// Takes only changes of objects of this kind.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> AuditFilter {
        self.kind = Some(kind);
        self
    }

    /// Takes only changes of objects of this key: a flag's also names its policies.
    #[must_use]
    pub fn of_key(mut self, key: impl Into<String>) -> AuditFilter {
        self.key = Some(key.into());
        self
    }

    /// Takes only changes of policies and segments of this environment, and of the environment itself.
    #[must_use]
    pub fn in_environment(mut self, environment: impl Into<String>) -> AuditFilter {
        self.environment = Some(environment.into());
        self
    }

    /// Takes only changes after this version.
    #[must_use]
    pub fn after(mut self, version: Version) -> AuditFilter {
        self.after = Some(version);
        self
    }

    /// Takes only changes before this version.
    #[must_use]
    pub fn before(mut self, version: Version) -> AuditFilter {
        self.before = Some(version);
        self
    }

    /// Takes only changes from this moment on, by the clock of the leader of that time.
    #[must_use]
    pub fn from_time(mut self, moment: impl Into<Moment>) -> AuditFilter {
        self.from = Some(moment.into());
        self
    }

    /// Takes only changes before this moment, by the clock of the leader of that time.
    #[must_use]
    pub fn to_time(mut self, moment: impl Into<Moment>) -> AuditFilter {
        self.to = Some(moment.into());
        self
    }

    /// Returns the query, but for the place where it begins.
    fn query(&self) -> Vec<String> {
        let after = self.after.map(|version| version.to_string());
        let moment = |moment: &Option<Moment>| moment.as_ref().map(|Moment(text)| text.clone());
        let given = [
            ("actor", self.actor.clone()),
            ("kind", self.kind.map(|kind| kind.to_string())),
            ("environment", self.environment.clone()),
            ("key", self.key.clone()),
            ("since_version", after),
            ("from", moment(&self.from)),
            ("to", moment(&self.to)),
        ];
        let given = given.into_iter();
        given
            .filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?))))
            .collect()
    }
}

/// A moment as a node takes it: RFC 3339 text, or whole milliseconds since 1970. What is earlier
/// than 1970 is 1970; a text that is no time is refused by the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Moment {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment(since.as_millis().to_string())
    }
}

impl From<&str> for Moment {
    fn from(text: &str) -> Moment {
        Moment(text.to_owned())
    }
}

impl From<String> for Moment {
    fn from(text: String) -> Moment {
        Moment(text)
    }
}

/// One page of the audit list. It ends with a whole version.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Audit {
    /// The changes, newest version first.
    pub items: Vec<AuditLine>,
    /// The version at which the page was read.
    pub version: Version,
    /// How many changes the node looked at. Past 10,000 a page ends, however little it has.
    #[serde(default)]
    pub scanned: u64,
    /// There may be older changes: where they begin, for [`Pages::resume`].
    #[serde(default, deserialize_with = "text")]
    pub next: Option<String>,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AuditLine {
    /// The kind of the object, as the node says it; see [`AuditLine::resource`].
    pub kind: String,
    /// The environment it is in, if its kind lives in one.
    #[serde(default)]
    pub environment: Option<String>,
    /// Its key.
    pub key: String,
    /// The version of the change; changes that were made together have the same.
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
    pub after: Option<Value>,
}

impl AuditLine {
    /// Returns what the change did.
    pub fn op(&self) -> Op {
        Op::of(self.previous_version, self.after.as_ref())
    }

    /// Returns the object; `None` for a kind that this release of the client does not know.
    pub fn resource(&self) -> Option<Resource> {
        Resource::named(&self.kind, self.environment.as_deref(), &self.key)
    }
}

impl Admin {
    /// Reads who changed what, newest first, page after page. How much is kept is the setting
    /// `history`: of each object its newest 100 changes, of all the newest million, unless set.
    ///
    /// A page may be short or empty although others follow: a node looks at 10,000 changes for one.
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::admin::AuditFilter;
    /// let mut audit = admin.audit(&AuditFilter::new().by("alice").in_environment("production"));
    /// for line in audit.items(50).await? {
    ///     let why = line.reason.as_deref().unwrap_or("-");
    ///     println!("{} {:?} {} {}: {why}", line.updated_at, line.op(), line.kind, line.key);
    /// }
    /// // Refused: that is no time.
    /// let refused = admin.audit(&AuditFilter::new().from_time("yesterday")).next().await;
    /// assert!(refused.is_err_and(|error| error.is_invalid()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn audit(&self, filter: &AuditFilter) -> Pages<Audit> {
        let question = Question {
            method: Method::GET,
            path: "/v1/audit".to_owned(),
            query: filter.query(),
            cursor: "before",
            body: None,
        };
        let pages = Pages::new(self.clone(), question);
        match filter.before {
            Some(before) => pages.resume(before),
            None => pages,
        }
    }
}

impl Sealed for Audit {}

impl Page for Audit {
    type Item = AuditLine;

    fn version(&self) -> Version {
        self.version
    }

    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn into_items(self) -> Vec<AuditLine> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_part_of_a_filter_is_in_the_query() {
        assert!(AuditFilter::new().query().is_empty());
        let version = |n| Version::new(n).unwrap();
        let late = UNIX_EPOCH + Duration::from_micros(1_234_567);
        let filter = AuditFilter::new().by("a b&c").of_kind(Kind::Application);
        let filter = filter
            .of_key("k/1")
            .in_environment("prod")
            .after(version(3));
        let filter = filter.from_time("2026-11-22T10:00:00+01:00").to_time(late);
        let expected = [
            "actor=a%20b%26c",
            "kind=application",
            "environment=prod",
            "key=k%2F1",
            "since_version=3",
            "from=2026-11-22T10%3A00%3A00%2B01%3A00",
            "to=1234",
        ];
        assert_eq!(filter.query(), expected);
        let of = filter.of(&Resource::flag("f"));
        assert_eq!(of.query()[1..3], ["kind=flag", "key=f"]);
        let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Moment::from(before_1970), Moment::from("0"));
    }

    #[test]
    fn a_line_of_a_kind_that_nobody_knows_is_a_line() {
        let line = json!({"kind": "token", "key": "k", "version": 9, "op": "create", "after": {},
            "before": null, "updated_at": "t", "updated_by": "a"});
        let mut line = AuditLine::deserialize(line).unwrap();
        assert_eq!((line.resource(), line.op()), (None, Op::Create));
        line.kind = "policy".to_owned();
        assert_eq!(line.resource(), None, "it has no environment");
        line.environment = Some("prod".to_owned());
        assert_eq!(line.resource(), Some(Resource::policy("prod", "k")));
    }
}
