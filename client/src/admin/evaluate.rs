//! Evaluation by a node, for checking: what somebody gets, of one flag or of all, and why.
//!
//! What must hold: only what a node calls fresh is fresh (I5); a question is never of unknown outcome,
//! although it is a POST; a subject is asked about as it would be decided here.
//!
//! Left out: deciding. Applications use [`crate::Client`], which asks nobody.

use http::Method;
use pennon_evaluator::{Attribute, Freshness, Reason as DecidedReason, Scalar, Subject, Version};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::objects::text;
use super::pages::{Question, sealed::Sealed};
use super::{Admin, Page, Pages};
use crate::error::Error;
use crate::http1::segment;

/// An attribute that would mean the subject key; nobody can set it.
const SUBJECT_KEY: &str = "subject_key";

/// What a flag is for a subject, as a node decided it.
///
/// ```
/// use pennon_client::Freshness;
/// use pennon_client::admin::Evaluation;
/// let answer = r#"{"flag": "checkout.new-ui", "enabled": true, "variant": "on", "value": true,
///     "config_version": 12, "reason": "SPLIT", "bucket": 4711, "snapshot_version": 30,
///     "freshness": "FRESH", "added_later": []}"#;
/// let answer: Evaluation = serde_json::from_str(answer)?;
/// assert_eq!((answer.bucket, answer.freshness), (Some(4_711), Freshness::Fresh));
///
/// // Refused: an answer without a reason is none.
/// let answer = r#"{"flag": "f", "enabled": false, "config_version": 0}"#;
/// assert!(serde_json::from_str::<Evaluation>(answer).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Evaluation {
    /// The key of the flag.
    pub flag: String,
    /// Whether the flag is switched on in the environment.
    pub enabled: bool,
    /// The variant; `None` where the caller's default is served.
    #[serde(default)]
    pub variant: Option<String>,
    /// Its value; `None` where the caller's default is served.
    #[serde(default)]
    pub value: Option<Value>,
    /// The version at which the flag last changed in the environment; 0 for an unknown one.
    pub config_version: Version,
    /// How it was decided, as the node says it; see [`Evaluation::decided_by`].
    pub reason: String,
    /// The rule that decided, if one did.
    #[serde(default)]
    pub rule_id: Option<String>,
    /// The bucket of the subject, where a rollout decided.
    #[serde(default)]
    pub bucket: Option<u32>,
    /// What else there is to say: `BUCKETING_KEY_MISSING`, `ARCHIVED`, `GRAPH_UNSOUND`, or in words
    /// what is missing.
    #[serde(default, deserialize_with = "text")]
    pub detail: Option<String>,
    /// The experiment whose split decided.
    #[serde(default)]
    pub experiment: Option<String>,
    /// The version of the snapshot it was decided on; 0 when the node does not say.
    #[serde(default)]
    pub snapshot_version: Version,
    /// Whether that snapshot was within the staleness bound; STALE when the node does not say.
    #[serde(default = "stale", deserialize_with = "freshness")]
    pub freshness: Freshness,
}

impl Evaluation {
    /// Whether the flag is unknown in the environment, or archived.
    pub fn is_not_found(&self) -> bool {
        self.decided_by() == Some(DecidedReason::FlagNotFound)
    }

    /// Returns the reason; `None` for one that this release of the client does not know.
    pub fn decided_by(&self) -> Option<DecidedReason> {
        DecidedReason::named(&self.reason)
    }
}

/// An evaluation and the way to it, as a node shows it.
///
/// ```
/// use pennon_client::admin::Explanation;
/// let answer = r#"{"flag": "checkout.new-ui", "enabled": true, "variant": "on", "value": true,
///     "config_version": 12, "reason": "TARGET_MATCH", "snapshot_version": 30, "freshness": "FRESH",
///     "trace": {"steps": [{"step": "target", "variant": "on"}], "truncated": false}}"#;
/// let answer: Explanation = serde_json::from_str(answer)?;
/// assert_eq!(answer.evaluation.variant.as_deref(), Some("on"));
/// assert_eq!(answer.trace.steps[0]["step"], "target");
///
/// // Refused: an evaluation alone explains nothing.
/// let answer = r#"{"flag": "f", "enabled": false, "config_version": 0, "reason": "DISABLED"}"#;
/// assert!(serde_json::from_str::<Explanation>(answer).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Explanation {
    /// What [`Admin::evaluate`] gives.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// What was looked at.
    pub trace: Trace,
}

/// What was looked at to decide a flag.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Trace {
    /// In this order, each with its kind under `step`: `prerequisite`, `target`, `rule` or `default`. Only
    /// what was looked at is there: nothing when the flag is unknown, archived or disabled; the first
    /// clause that does not hold ends a rule, the first rule that serves ends the list. Shown as the
    /// node says them; later releases may say more.
    pub steps: Vec<Value>,
    /// Whether there were more steps than nodes write down.
    #[serde(default)]
    pub truncated: bool,
}

/// One page of what all flags of an environment are for a subject.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawList")]
pub struct EvaluationList {
    /// One for each flag that is not archived, by key.
    pub items: Vec<Evaluation>,
    /// The version of the snapshot they were decided on.
    pub version: Version,
    /// Whether that snapshot was within the staleness bound.
    pub freshness: Freshness,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// The same as it comes: what holds for all items is said once.
#[derive(Deserialize)]
struct RawList {
    items: Vec<Evaluation>,
    version: Version,
    #[serde(default = "stale", deserialize_with = "freshness")]
    freshness: Freshness,
    #[serde(default, deserialize_with = "text")]
    next: Option<String>,
}

impl From<RawList> for EvaluationList {
    fn from(raw: RawList) -> EvaluationList {
        let mut items = raw.items;
        for item in &mut items {
            (item.snapshot_version, item.freshness) = (raw.version, raw.freshness);
        }
        EvaluationList {
            items,
            version: raw.version,
            freshness: raw.freshness,
            next: raw.next,
        }
    }
}

fn stale() -> Freshness {
    Freshness::Stale
}

fn freshness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Freshness, D::Error> {
    let word = text(deserializer)?;
    Ok(match word.as_deref() {
        Some("FRESH") => Freshness::Fresh, // I5
        _ => Freshness::Stale,
    })
}

impl Admin {
    /// Asks a node what a flag is for a subject. For checking; applications use [`crate::Client`].
    ///
    /// A flag that is unknown is no error: see [`Evaluation::is_not_found`].
    ///
    /// # Errors
    /// `is_not_found()` when there is no such environment, `is_not_fresh_enough()` when no node is
    /// within the staleness bound, `is_invalid()` when the subject is larger than the limits,
    /// `is_settings()` when an attribute is no finite number, or as [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::Subject;
    /// let user = Subject::new("user-42").with("country", "DE");
    /// let answer = admin.evaluate("production", "checkout.new-ui", &user).await?;
    /// println!("{:?} by {} at {}", answer.value, answer.reason, answer.snapshot_version);
    /// // Refused: there is no such environment.
    /// let refused = admin.evaluate("prodution", "checkout.new-ui", &user).await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn evaluate(
        &self,
        environment: &str,
        flag: &str,
        subject: &Subject,
    ) -> Result<Evaluation, Error> {
        let (environment, flag) = (segment(environment), segment(flag));
        let path = format!("/v1/environments/{environment}/evaluate/{flag}");
        let body = asked(subject)?;
        self.ask(Method::POST, &path, Some(&body)).await
    }

    /// Asks a node what a flag is for a subject, and why: every clause that was looked at. It needs the
    /// permission to read rules.
    ///
    /// # Errors
    /// `is_denied()` when the token may not read rules, and as [`Admin::evaluate`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use pennon_client::Subject;
    /// let user = Subject::new("user-42").with("country", "DE");
    /// let why = admin.explain("production", "checkout.new-ui", &user).await?;
    /// for step in &why.trace.steps {
    ///     println!("{step}");
    /// }
    /// // Refused: there is no such environment.
    /// let refused = admin.explain("prodution", "checkout.new-ui", &user).await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain(
        &self,
        environment: &str,
        flag: &str,
        subject: &Subject,
    ) -> Result<Explanation, Error> {
        let (environment, flag) = (segment(environment), segment(flag));
        let path = format!("/v1/environments/{environment}/explain/{flag}");
        let body = asked(subject)?;
        self.ask(Method::POST, &path, Some(&body)).await
    }

    /// Asks a node what every flag of an environment is for a subject, by key, page after page. Pages
    /// may be of different snapshots: `version` says of which.
    ///
    /// # Errors
    /// `is_settings()` when an attribute is no finite number. The pages as [`Admin::evaluate`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use pennon_client::{Subject, TcpConnector, admin::Admin};
    /// let admin = Admin::new(["http://127.0.0.1:7400"], None, Arc::new(TcpConnector))?;
    /// let user = Subject::new("user-42").with("age", 42);
    /// let all = admin.evaluate_all("production", &user)?.page_len(100); // nothing is sent yet
    /// assert!(!all.is_done());
    /// // Refused: JSON has no such number.
    /// let nobody = Subject::new("user-42").with("age", f64::NAN);
    /// assert!(admin.evaluate_all("production", &nobody).is_err_and(|error| error.is_settings()));
    /// # Ok::<(), pennon_client::Error>(())
    /// ```
    pub fn evaluate_all(
        &self,
        environment: &str,
        subject: &Subject,
    ) -> Result<Pages<EvaluationList>, Error> {
        let question = Question {
            method: Method::POST,
            path: format!("/v1/environments/{}/evaluate", segment(environment)),
            query: Vec::new(),
            cursor: "after",
            body: Some(asked(subject)?),
        };
        Ok(Pages::new(self.clone(), question))
    }
}

/// Makes the body that asks about a subject.
fn asked(subject: &Subject) -> Result<Value, Error> {
    let mut attributes = Map::new();
    for (name, attribute) in subject.attributes() {
        // Setting it has no effect.
        if name == SUBJECT_KEY {
            continue;
        }
        let value = match attribute {
            Attribute::One(value) => scalar(name, value)?,
            Attribute::Many(values) => {
                let values = values.iter().map(|value| scalar(name, value));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
        };
        attributes.insert(name.to_owned(), value);
    }
    Ok(json!({"subject_key": subject.key(), "attributes": attributes}))
}

fn scalar(name: &str, value: &Scalar) -> Result<Value, Error> {
    Ok(match value {
        Scalar::String(text) => json!(text),
        Scalar::Boolean(value) => json!(value),
        Scalar::Number(number) if number.is_finite() => json!(number),
        Scalar::Number(number) => {
            let message = format!("the attribute {name:?} is {number}, which JSON cannot say");
            return Err(Error::settings(message));
        }
    })
}

impl Sealed for EvaluationList {}

impl Page for EvaluationList {
    type Item = Evaluation;

    fn version(&self) -> Version {
        self.version
    }

    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn into_items(self) -> Vec<Evaluation> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_asked_about_as_it_is() {
        let subject = Subject::new("u").with("age", 42).with("tags", ["a", "b"]);
        let subject = subject.with("beta", true).with("subject_key", "no effect");
        let body = asked(&subject).unwrap();
        let expected = json!({"subject_key": "u",
            "attributes": {"age": 42.0, "beta": true, "tags": ["a", "b"]}});
        assert_eq!(body, expected);
        for number in [f64::NAN, f64::INFINITY] {
            let refused = asked(&Subject::new("u").with("n", number)).unwrap_err();
            assert!(refused.is_settings(), "{refused}");
        }
    }

    #[test]
    fn only_what_is_called_fresh_is_fresh() {
        let list = |freshness: Value| {
            let list = json!({"items": [{"flag": "f", "enabled": true, "variant": null, "value": null,
                "config_version": 3, "reason": "LATER"}], "version": 9, "freshness": freshness});
            EvaluationList::deserialize(list).unwrap()
        };
        let fresh = list(json!("FRESH"));
        let one = &fresh.items[0];
        assert_eq!(
            (one.freshness, one.snapshot_version.get()),
            (Freshness::Fresh, 9)
        );
        assert_eq!((one.decided_by(), one.value.as_ref()), (None, None));
        for other in [json!("STALE"), json!("fresh"), json!(1), Value::Null] {
            let stale = list(other);
            assert_eq!(stale.items[0].freshness, Freshness::Stale); // I5
        }
    }
}
