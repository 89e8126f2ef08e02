//! Evaluation by a node, for callers without a client library: one flag, or all of an environment.
//!
//! Bounded by default: this node decides by itself while its proof of freshness is within the
//! environment's staleness bound, and refuses beyond (I5). With `?consistency=stale` it answers
//! all the same and says `STALE`.
//!
//! A flag that is unknown is no error: the answer is `FLAG_NOT_FOUND`, so that a caller falls back
//! to its own default; `detail` says what is missing.

use pennon_evaluator::{Fault, Freshness, Snapshot, Subject, judge};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::View;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::json;
use super::problem::Problem;
use super::read::{self, Consistency, EnvironmentRead, bound_of};
use pennon_evaluator::json_kind;

/// Evaluates one flag.
pub(crate) async fn one(call: Call) -> Result<Answer, Problem> {
    let flag = call.flag()?;
    let (subject, read) = asked(&call).await?;
    let decided = read.decided;
    let freshness = freshness(&call, &read)?;
    let core = call.core()?.clone();
    let decide = move || {
        let snapshot = core
            .snapshot(&read.view, &read.key)
            .ok_or("the environment could not be loaded")?;
        let mut answer = snapshot
            .evaluate(flag.as_str(), &subject)
            .to_json(flag.as_str());
        if snapshot.flag(&flag).is_none() {
            answer["detail"] = json!(why_not_found(&read.view, &read, flag.as_str()));
        }
        answer["snapshot_version"] = json!(snapshot.version());
        answer["freshness"] = json!(freshness.as_str());
        Ok::<_, String>((answer.to_string(), snapshot.version()))
    };
    let done = call.core()?.compute(decide).await.flatten();
    let (text, version) = done.map_err(|why| Problem::internal(&why))?;
    Ok(Answer::json(
        super::answer::Decided { version, ..decided },
        text,
    ))
}

/// Evaluates every flag that is not archived, by key.
pub(crate) async fn all(call: Call) -> Result<Answer, Problem> {
    let (limit, after) = (call.limit()?, call.param("after").map(str::to_owned));
    let (subject, read) = asked(&call).await?;
    let decided = read.decided;
    let freshness = freshness(&call, &read)?;
    let core = call.core()?.clone();
    let decide = move || {
        let snapshot = core
            .snapshot(&read.view, &read.key)
            .ok_or("the environment could not be loaded")?;
        let body = page(&snapshot, &subject, after.as_deref(), limit, freshness);
        Ok::<_, String>((body.to_string(), snapshot.version()))
    };
    let done = call.core()?.compute(decide).await.flatten();
    let (text, version) = done.map_err(|why| Problem::internal(&why))?;
    Ok(Answer::json(
        super::answer::Decided { version, ..decided },
        text,
    ))
}

fn page(
    snapshot: &Snapshot,
    subject: &Subject,
    after: Option<&str>,
    limit: usize,
    freshness: Freshness,
) -> Value {
    let flags = snapshot
        .flags()
        .filter(|flag| !flag.archived)
        .map(|flag| flag.key.as_str());
    let mut rest = flags.skip_while(|key| after.is_some_and(|after| *key <= after));
    let items: Vec<Value> = rest
        .by_ref()
        .take(limit)
        .map(|key| snapshot.evaluate(key, subject).to_json(key))
        .collect();
    let last = items.last().map(|item| item["flag"].clone());
    let mut body =
        json!({ "items": items, "version": snapshot.version(), "freshness": freshness.as_str() });
    if let Some(last) = last.filter(|_| rest.next().is_some()) {
        body["next"] = last;
    }
    body
}

async fn asked(call: &Call) -> Result<(Subject, EnvironmentRead), Problem> {
    let subject = subject(json::parse(&call.body)?).map_err(|faults| Problem::faults(&faults))?;
    let read = read::environment(call, Consistency::Bounded, None).await?;
    Ok((subject, read))
}

fn freshness(call: &Call, read: &EnvironmentRead) -> Result<Freshness, Problem> {
    let now = call.core()?.now();
    let age = read.decided.fresh_at.map(|at| now.saturating_sub(at));
    Ok(age.map_or(Freshness::Stale, |age| {
        judge(age, bound_of(&read.environment))
    })) // I5
}

/// Reads `{subject_key, attributes?}`.
fn subject(body: Value) -> Result<Subject, Vec<Fault>> {
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
    match Subject::from_json(key, &attributes) {
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

fn why_not_found(view: &View, read: &EnvironmentRead, flag: &str) -> String {
    match view.object(&ObjectId::flag(flag)) {
        None => format!("there is no flag {flag}"),
        Some(_) => format!(
            "the flag {flag} has no policy in {}; put one, or switch it on with :enable",
            read.key
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
