//! Evaluation by a node, for callers without a client library: one flag, or all of an environment;
//! and one flag with the way to its answer, for people.
//!
//! Bounded by default: this node decides by itself while its proof of freshness is within the
//! environment's staleness bound, and refuses beyond (I5). With `?consistency=stale` it answers
//! all the same and says `STALE`. Explaining is under the same rules and gives the same decision;
//! unlike an evaluation it shows rules, so it needs the permission to read them.
//!
//! How large a subject may be is a limit of the cluster; the node's own view of it counts.
//!
//! A flag that is unknown is no error: the answer is `FLAG_NOT_FOUND`, so that a caller falls back
//! to its own default; `detail` says what is missing.

use pennon_evaluator::{
    Fault, FlagKey, Freshness, Limits, Reason, Snapshot, Subject, json_kind, judge,
};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::View;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Decided};
use super::call::Call;
use super::json;
use super::problem::Problem;
use super::read::{self, Consistency, EnvironmentRead};

/// Evaluates one flag.
pub(crate) async fn one(call: Call) -> Result<Answer, Problem> {
    about_one(call, |snapshot, flag, subject| {
        snapshot.evaluate(flag, subject).to_json(flag)
    })
    .await
}

/// Evaluates one flag and says how that came about.
pub(crate) async fn explain(call: Call) -> Result<Answer, Problem> {
    about_one(call, |snapshot, flag, subject| {
        snapshot.explain(flag, subject).to_json(flag) // I7: the same functions decide
    })
    .await
}

/// Evaluates every flag that is not archived, by key.
pub(crate) async fn all(call: Call) -> Result<Answer, Problem> {
    let (limit, after) = (call.limit()?, call.param("after").map(str::to_owned));
    decided(call, move |asked| page(asked, after.as_deref(), limit)).await
}

async fn about_one(
    call: Call,
    show: fn(&Snapshot, &str, &Subject) -> Value,
) -> Result<Answer, Problem> {
    let flag = call.flag()?;
    decided(call, move |asked| {
        let snapshot = asked.snapshot;
        let mut answer = show(snapshot, flag.as_str(), asked.subject);
        if !snapshot.has_flag(flag.as_str()) {
            answer["detail"] = json!(why_not_found(asked.view, snapshot, &flag));
        }
        answer["snapshot_version"] = json!(snapshot.version());
        answer["freshness"] = json!(asked.freshness.as_str());
        answer
    })
    .await
}

/// What a decision rests on.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    /// What the snapshot was made of.
    view: &'a View,
    subject: &'a Subject,
    freshness: Freshness,
}

/// Reads whom the request is about and decides for them on a snapshot that is fresh enough.
async fn decided(
    call: Call,
    decide: impl FnOnce(Asked<'_>) -> Value + Send + 'static,
) -> Result<Answer, Problem> {
    let limits = *call.core()?.view().limits();
    let subject =
        subject(json::parse(&call.body)?, &limits).map_err(|faults| Problem::faults(&faults))?;
    let read = read::environment(&call, Consistency::Bounded, None).await?;
    let (decided, freshness) = (read.decided, freshness(&call, &read)?);
    let core = call.core()?.clone();
    let work = move || {
        let snapshot = core
            .snapshot(&read.view, &read.key)
            .ok_or("the environment could not be loaded")?;
        let answer = decide(Asked {
            snapshot: &snapshot,
            view: &read.view,
            subject: &subject,
            freshness,
        });
        Ok::<_, String>((answer.to_string(), snapshot.version()))
    };
    let done = call.core()?.compute(work).await.flatten();
    let (text, version) = done.map_err(|why| Problem::internal(&why))?;
    Ok(Answer::json(Decided { version, ..decided }, text))
}

fn page(asked: Asked<'_>, after: Option<&str>, limit: usize) -> Value {
    let Asked {
        snapshot,
        subject,
        freshness,
        ..
    } = asked;
    let keys = snapshot.flags().map(FlagKey::as_str);
    let keys = keys.skip_while(|key| after.is_some_and(|after| *key <= after));
    let decided = keys.map(|key| (key, snapshot.evaluate(key, subject)));
    // Of the flags that are there, only archived ones are not found.
    let mut rest = decided.filter(|(_, evaluation)| evaluation.reason != Reason::FlagNotFound);
    let items: Vec<Value> = rest
        .by_ref()
        .take(limit)
        .map(|(key, evaluation)| evaluation.to_json(key))
        .collect();
    let last = items.last().map(|item| item["flag"].clone());
    let mut body =
        json!({ "items": items, "version": snapshot.version(), "freshness": freshness.as_str() });
    if let Some(last) = last.filter(|_| rest.next().is_some()) {
        body["next"] = last;
    }
    body
}

fn freshness(call: &Call, read: &EnvironmentRead) -> Result<Freshness, Problem> {
    let now = call.core()?.now();
    let age = read.decided.fresh_at.map(|at| now.saturating_sub(at));
    Ok(age.map_or(Freshness::Stale, |age| {
        judge(age, read.environment.staleness_bound())
    })) // I5
}

/// Reads `{subject_key, attributes?}`.
fn subject(body: Value, limits: &Limits) -> Result<Subject, Vec<Fault>> {
    let Value::Object(mut fields) = body else {
        return Err(vec![Fault::new(
            "",
            format!(
                "must be an object {{subject_key, attributes}}, not {}",
                json_kind(&body)
            ),
        )]);
    };
    let mut faults = Vec::new();
    let key = match fields.remove("subject_key") {
        Some(Value::String(key)) => key,
        Some(other) => {
            faults.push(Fault::new(
                "/subject_key",
                format!("must be a string, not {}", json_kind(&other)),
            ));
            String::new()
        }
        None => {
            faults.push(Fault::new(
                "/subject_key",
                "the field \"subject_key\" is required",
            ));
            String::new()
        }
    };
    let attributes = match fields.remove("attributes") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(attributes)) => attributes,
        Some(other) => {
            faults.push(Fault::new(
                "/attributes",
                format!("must be an object, not {}", json_kind(&other)),
            ));
            Map::new()
        }
    };
    for name in fields.keys() {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        faults.push(Fault::new(
            pointer,
            format!("there is no field {name:?}; known are subject_key and attributes"),
        ));
    }
    match Subject::from_json_within(key, &attributes, limits) {
        Ok(subject) if faults.is_empty() => Ok(subject),
        Ok(_) => Err(faults),
        Err(of_attributes) => {
            let located = of_attributes.into_iter();
            faults.extend(
                located.map(|fault| {
                    Fault::new(format!("/attributes{}", fault.pointer), fault.message)
                }),
            );
            Err(faults)
        }
    }
}

fn why_not_found(view: &View, snapshot: &Snapshot, flag: &FlagKey) -> String {
    match view.object(&ObjectId::flag(flag.as_str())) {
        None => format!("there is no flag {flag}"),
        Some(_) => format!(
            "the flag {flag} has no policy in {}; put one, or switch it on with :enable",
            snapshot.environment()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(body: Value) -> Result<Subject, Vec<Fault>> {
        super::subject(body, &Limits::default())
    }

    #[test]
    fn a_subject_is_read_or_refused_with_every_fault() {
        let good = subject(json!({"subject_key": "u", "attributes": {"country": "DE", "n": null}}))
            .unwrap();
        assert_eq!(good, Subject::new("u").with("country", "DE"));
        assert!(subject(json!({"subject_key": "u"})).is_ok());
        let pointers = |body| {
            subject(body)
                .unwrap_err()
                .into_iter()
                .map(|fault| fault.pointer)
                .collect::<Vec<_>>()
        };
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(
            pointers(json!({"subject": "u"})),
            ["/subject_key", "/subject"]
        );
        assert_eq!(
            pointers(json!({"subject_key": 1, "attributes": {"o": {}}})),
            ["/subject_key", "/attributes/o"]
        );
    }
}
