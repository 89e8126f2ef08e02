//! Change sets: several writes that happen together or not at all, across environments (I3).
//!
//! What must hold: the body is read completely before anything is sent, and every fault in it is
//! named with its place in the list; the answer has one result per write, in the order of the
//! request.

use std::collections::BTreeMap;
use std::sync::Arc;

use pennon_evaluator::{EnvironmentKey, Fault, Version};
use pennon_raft_store::command::{Expected, ObjectId, ObjectKind, WriteResult};
use pennon_raft_store::plan::{Ask, AskedWrite};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::json;
use super::objects;
use super::problem::{Problem, named};
use super::write;
use pennon_evaluator::json_kind;

/// Faults named in one answer at most.
const FAULTS_MAX: usize = 100;

const FIELDS: [&str; 6] = [
    "op",
    "kind",
    "environment",
    "key",
    "value",
    "expected_version",
];

const NAMED_FIELDS: [&str; 4] = ["kind", "environment", "key", "value"];

/// Makes the changes in the body.
pub(crate) async fn post(call: Call) -> Result<Answer, Problem> {
    if call.expected()?.is_some() {
        let message = "a change set has its preconditions in its items: expected_version";
        return Err(Problem::in_header("If-Match", message));
    }
    let writes = writes(json::parse(&call.body)?).map_err(|faults| Problem::faults(&faults))?;
    let asked: Vec<ObjectId> = writes.iter().map(|write| write.object.clone()).collect();
    let deleted: Vec<bool> = writes
        .iter()
        .map(|write| write.ask == Ask::Delete)
        .collect();
    let done = write::submit(&call, writes, None, true).await?;
    let by_object: BTreeMap<_, _> = done
        .results
        .iter()
        .map(|result| (&result.object, result))
        .collect();
    let results: Vec<Value> = asked
        .iter()
        .zip(deleted)
        .filter_map(|(object, deleted)| by_object.get(object).map(|result| shown(result, deleted)))
        .collect();
    let mut body = json!({ "version": done.decided.version, "results": results });
    if let Some(delivery) = done.delivery {
        body["delivery"] = delivery;
    }
    Ok(Answer::json(done.decided, body.to_string()))
}

fn shown(result: &WriteResult, deleted: bool) -> Value {
    let mut shown = named(&result.object);
    shown["op"] = if deleted { "delete" } else { "put" }.into();
    shown["version"] = json!(result.version);
    if let Some(previous) = result.previous {
        shown["previous_version"] = json!(previous);
    }
    shown
}

/// Reads the list of writes.
fn writes(body: Value) -> Result<Vec<AskedWrite>, Vec<Fault>> {
    let items = match body {
        Value::Array(items) if items.is_empty() => {
            return Err(vec![Fault::new("", "a change set has at least one write")]);
        }
        Value::Array(items) => items,
        other => {
            return Err(vec![Fault::new(
                "",
                format!("must be a list of writes, not {}", json_kind(&other)),
            )]);
        }
    };
    let (mut writes, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
    let mut first: BTreeMap<ObjectId, usize> = BTreeMap::new();
    for (at, item) in items.into_iter().enumerate() {
        match Item::read(at, item) {
            Ok(write) => {
                if let Some(first) = first.insert(write.object.clone(), at) {
                    let message = format!(
                        "{} is written twice in one change set, first by item {first}",
                        write.object
                    );
                    faults.push(Fault::new(format!("/{at}"), message));
                }
                writes.push(write);
            }
            Err(of_item) => faults.extend(of_item),
        }
        if faults.len() >= FAULTS_MAX {
            break;
        }
    }
    if faults.is_empty() {
        Ok(writes)
    } else {
        Err(faults)
    }
}

/// Reads a list of objects with their values. `at`: the pointer to the list.
pub(crate) fn named_values(
    at: &str,
    items: Vec<Value>,
) -> Result<BTreeMap<ObjectId, Arc<str>>, Vec<Fault>> {
    let (mut objects, mut faults) = (BTreeMap::new(), Vec::new());
    for (n, item) in items.into_iter().enumerate() {
        let pointer = format!("{at}/{n}");
        match Item::open(&pointer, item, &NAMED_FIELDS).and_then(Item::named_value) {
            Ok((object, _)) if objects.contains_key(&object) => {
                let message = format!("{object} is in the list twice");
                faults.push(Fault::new(pointer, message));
            }
            Ok((object, value)) => {
                objects.insert(object, value);
            }
            Err(of_item) => faults.extend(of_item),
        }
        if faults.len() >= FAULTS_MAX {
            break;
        }
    }
    match faults.is_empty() {
        true => Ok(objects),
        false => Err(faults),
    }
}

/// One item of a list while it is read.
struct Item {
    at: String,
    fields: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Item {
    fn open(at: &str, item: Value, known: &[&str]) -> Result<Self, Vec<Fault>> {
        let fields = match item {
            Value::Object(fields) => fields,
            other => {
                let message = format!(
                    "must be {{{}}}, not {}",
                    known.join(", "),
                    json_kind(&other)
                );
                return Err(vec![Fault::new(at, message)]);
            }
        };
        let mut item = Self {
            at: at.to_owned(),
            fields,
            faults: Vec::new(),
        };
        let unknown: Vec<_> = item
            .fields
            .keys()
            .filter(|name| !known.contains(&name.as_str()))
            .cloned()
            .collect();
        for name in unknown {
            item.fault(
                &name,
                format!("there is no field {name:?}; known are {}", known.join(", ")),
            );
        }
        Ok(item)
    }

    fn named_value(mut self) -> Result<(ObjectId, Arc<str>), Vec<Fault>> {
        let object = self.object();
        let value = self.fields.remove("value");
        if value.is_none() {
            self.fault("value", "the field \"value\" is required");
        }
        match (object, value) {
            (Some(object), Some(value)) if self.faults.is_empty() => {
                Ok((object, value.to_string().into()))
            }
            _ => Err(self.faults),
        }
    }

    fn read(at: usize, item: Value) -> Result<AskedWrite, Vec<Fault>> {
        let mut item = Self::open(&format!("/{at}"), item, &FIELDS)?;
        let object = item.object();
        let ask = item.ask();
        let expected = item.expected();
        match (object, ask) {
            (Some(object), Some(ask)) if item.faults.is_empty() => Ok(AskedWrite {
                object,
                ask,
                expected,
            }),
            _ => Err(item.faults),
        }
    }

    fn fault(&mut self, field: &str, message: impl Into<String>) {
        let field = field.replace('~', "~0").replace('/', "~1");
        self.faults
            .push(Fault::new(format!("{}/{field}", self.at), message));
    }

    /// A field that must be a string.
    fn string(&mut self, name: &str) -> Option<String> {
        match self.fields.get(name) {
            Some(Value::String(text)) => return Some(text.clone()),
            Some(other) => {
                let message = format!("must be a string, not {}", json_kind(other));
                self.fault(name, message);
            }
            None => self.fault(name, format!("the field {name:?} is required")),
        }
        None
    }

    fn object(&mut self) -> Option<ObjectId> {
        let kind = self.string("kind").and_then(|word| {
            let kind = word.parse::<ObjectKind>().ok();
            if kind.is_none() {
                let known = ObjectKind::ALL.map(ObjectKind::as_str).join(", ");
                self.fault(
                    "kind",
                    format!("there is no kind {word:?}; allowed are {known}"),
                );
            }
            kind
        });
        let key = self.string("key");
        let kind = kind?;
        let environment = match (kind.is_scoped(), self.fields.contains_key("environment")) {
            (true, _) => Some(self.string("environment").and_then(|text| {
                EnvironmentKey::try_from(text)
                    .map_err(|why| self.fault("environment", why.to_string()))
                    .ok()
            })?),
            (false, true) => {
                self.fault(
                    "environment",
                    format!("a {} is in no environment; leave it out", kind.as_str()),
                );
                None
            }
            (false, false) => None,
        };
        let key = key?;
        let object = objects::id_of(kind, environment, key)?;
        object.map_err(|why| self.fault("key", why)).ok()
    }

    fn ask(&mut self) -> Option<Ask> {
        let op = self.string("op")?;
        match (op.as_str(), self.fields.remove("value")) {
            ("put", Some(value)) => Some(Ask::Put(value.to_string().into())),
            ("put", None) => {
                self.fault("value", "the field \"value\" is required to put");
                None
            }
            ("delete", None | Some(Value::Null)) => Some(Ask::Delete),
            ("delete", Some(_)) => {
                self.fault("value", "a deletion has no value; leave it out");
                None
            }
            (other, _) => {
                self.fault(
                    "op",
                    format!("there is no op {other:?}; allowed are put and delete"),
                );
                None
            }
        }
    }

    fn expected(&mut self) -> Expected {
        let found = match self.fields.get("expected_version") {
            None | Some(Value::Null) => return Expected::Any,
            Some(value) => value.as_u64().and_then(Version::new),
        };
        match found {
            Some(Version::ZERO) => Expected::Absent,
            Some(version) => Expected::At(version),
            None => {
                self.fault(
                    "expected_version",
                    "must be a version: a whole number, 0 for an object that must not exist",
                );
                Expected::Any
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(body: Value) -> Vec<String> {
        writes(body)
            .unwrap_err()
            .into_iter()
            .map(|fault| fault.pointer)
            .collect()
    }

    #[test]
    fn a_list_of_writes_is_read() {
        let body = json!([
            {"op": "put", "kind": "flag", "key": "a/b", "value": {"z": 1, "a": 2}, "expected_version": 0},
            {"op": "delete", "kind": "policy", "environment": "e", "key": "f", "expected_version": 7},
            {"op": "delete", "kind": "environment", "key": "e"},
        ]);
        let read = writes(body).unwrap();
        assert_eq!(read[0].object, ObjectId::flag("a/b"));
        assert_eq!(read[0].ask, Ask::Put(r#"{"z":1,"a":2}"#.into()));
        let expected: Vec<_> = read.iter().map(|write| write.expected).collect();
        assert_eq!(
            expected,
            [
                Expected::Absent,
                Expected::At(Version::new(7).unwrap()),
                Expected::Any
            ]
        );
    }

    #[test]
    fn every_fault_has_its_place() {
        assert_eq!(pointers(json!({})), [""]);
        assert_eq!(pointers(json!([])), [""]);
        let body = json!([
            1,
            {"op": "patch", "kind": "flag", "key": "a b"},
            {"op": "put", "kind": "policy", "key": "f", "exp/ected": 1, "expected_version": "7"},
            {"op": "delete", "kind": "flag", "environment": "e", "key": "f", "value": 1},
            {"op": "delete", "kind": "flag", "key": "g"},
            {"op": "delete", "kind": "flag", "key": "g"},
        ]);
        let expected = [
            "/0",
            "/1/key",
            "/1/op",
            "/2/exp~1ected",
            "/2/environment",
            "/2/value",
            "/2/expected_version",
            "/3/environment",
            "/3/value",
            "/5",
        ];
        assert_eq!(pointers(body), expected);
    }
}
