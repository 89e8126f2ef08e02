//! Located complaints, and reading JSON so that every complaint can be located.
//!
//! What must hold: one pass over a document collects every fault it can find, each with the JSON
//! pointer of the place to mend; a document that gave a fault is never used. Fields that are not
//! known are faults, so that a misspelt one cannot be silently ignored, and so is a name given
//! twice in one object, which JSON parsers otherwise read in different ways.
//!
//! Left out: what the documents mean (`config.rs`, `policy.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{StrictJson, json_kind};

/// A document with more faults than this names only the first ones; enough to mend a document by,
/// and a hostile one cannot make an answer larger than itself.
pub const FAULTS_MAX: usize = 100;

/// One thing that is wrong with what was written, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The place, as a JSON pointer (RFC 6901) into the document; empty for the whole of it.
    pub pointer: String,
    /// What is wrong and what would be right, as a sentence.
    pub message: String,
}

impl Fault {
    /// Makes a fault at a JSON pointer.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "{pointer}: {}", self.message),
        }
    }
}

/// A place in a document; written out only when a fault is found there.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The whole document.
    pub(crate) const ROOT: At<'static> = At {
        parent: None,
        step: Step::Index(0),
    };

    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    pub(crate) fn pointer(&self) -> String {
        let Some(parent) = self.parent else {
            return String::new();
        };
        let mut text = parent.pointer();
        text.push('/');
        match self.step {
            Step::Key(key) => text.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => text.push_str(&index.to_string()),
        }
        text
    }
}

/// The faults found so far.
#[derive(Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    unlisted: usize,
}

impl Faults {
    pub(crate) fn push(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.push_with(at, || message.into());
    }

    /// Adds a fault that is complete.
    pub(crate) fn add(&mut self, fault: Fault) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        } else {
            self.unlisted += 1;
        }
    }

    /// Adds a fault whose message costs something to make: it is made only if it is listed.
    pub(crate) fn push_with(&mut self, at: &At<'_>, message: impl FnOnce() -> String) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(Fault::new(at.pointer(), message()));
        } else {
            self.unlisted += 1;
        }
    }

    /// Returns `value` when nothing was found, else the faults. A missing value without a fault
    /// cannot be, and is refused all the same.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<Fault>> {
        if self.unlisted > 0 {
            self.list
                .push(Fault::new("", format!("and {} more faults", self.unlisted)));
        }
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ if self.list.is_empty() => Err(vec![Fault::new("", "the document is incomplete")]),
            _ => Err(self.list),
        }
    }
}

/// Reads JSON text as every document here is read: a name given twice in one object is refused,
/// because parsers otherwise differ in which of the two they take.
///
/// # Errors
/// One fault for the whole text.
///
/// ```
/// assert!(pennon_evaluator::parse_json(r#"{"a":1,"b":[2]}"#).is_ok());
/// let faults = pennon_evaluator::parse_json(r#"{"a":1,"a":2}"#).unwrap_err();
/// assert!(faults[0].message.contains("\"a\""), "{}", faults[0]);
/// ```
pub fn parse(text: &str) -> Result<Value, Vec<Fault>> {
    serde_json::from_str::<StrictJson>(text)
        .map(|strict| strict.0)
        .map_err(|error| vec![Fault::new("", format!("this is not JSON: {error}"))])
}

/// Writes JSON with sorted names and no space: equal values give equal text.
pub(crate) fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            Value::Object(map) => {
                let mut fields: Vec<(&String, &Value)> = map.iter().collect();
                fields.sort_by_key(|(name, _)| name.as_str());
                Value::Object(
                    fields
                        .into_iter()
                        .map(|(k, v)| (k.clone(), sorted(v)))
                        .collect(),
                )
            }
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

/// An object whose field names were checked.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    pub(crate) at: &'a At<'a>,
}

impl<'a> Fields<'a> {
    /// Opens an object and complains about every field that is not in `known`.
    pub(crate) fn open(
        value: &'a Value,
        at: &'a At<'a>,
        known: &[&str],
        faults: &mut Faults,
    ) -> Option<Fields<'a>> {
        let Some(map) = value.as_object() else {
            faults.push(at, format!("must be an object, not {}", json_kind(value)));
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = || format!("there is no field {name:?}; {}", offer(name, known));
            faults.push_with(&at.key(name), message);
        }
        Some(Fields { map, at })
    }

    /// Returns a field that may be left out; `null` is the same as leaving it out.
    pub(crate) fn optional(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Returns a field that must be there.
    pub(crate) fn required(&self, name: &str, faults: &mut Faults) -> Option<&'a Value> {
        let found = self.optional(name);
        if found.is_none() {
            faults.push(
                &self.at.key(name),
                format!("the field {name:?} is required"),
            );
        }
        found
    }

    pub(crate) fn boolean_or(&self, name: &str, default: bool, faults: &mut Faults) -> bool {
        let Some(value) = self.optional(name) else {
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            faults.push(&self.at.key(name), wrong("true or false", value));
            default
        })
    }

    pub(crate) fn string(&self, name: &str, faults: &mut Faults) -> Option<String> {
        string(self.optional(name)?, &self.at.key(name), faults)
    }

    pub(crate) fn required_string(&self, name: &str, faults: &mut Faults) -> Option<String> {
        string(self.required(name, faults)?, &self.at.key(name), faults)
    }

    pub(crate) fn strings(&self, name: &str, faults: &mut Faults) -> Vec<String> {
        self.list(name, faults, string)
    }

    /// Reads a list field, item by item; a missing one is empty.
    pub(crate) fn list<T>(
        &self,
        name: &str,
        faults: &mut Faults,
        mut item: impl FnMut(&Value, &At<'_>, &mut Faults) -> Option<T>,
    ) -> Vec<T> {
        let at = self.at.key(name);
        let Some(value) = self.optional(name) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            faults.push(&at, wrong("a list", value));
            return Vec::new();
        };
        let read = |(n, value)| item(value, &at.index(n), faults);
        items.iter().enumerate().filter_map(read).collect()
    }
}

/// Reads a string.
pub(crate) fn string(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<String> {
    if value.as_str().is_none() {
        faults.push(at, wrong("a string", value));
    }
    value.as_str().map(str::to_owned)
}

/// Reads a whole number within bounds.
pub(crate) fn integer(
    value: &Value,
    at: &At<'_>,
    (min, max): (u64, u64),
    faults: &mut Faults,
) -> Option<u64> {
    let found = value.as_u64().filter(|n| (min..=max).contains(n));
    if found.is_none() {
        let found = if value.is_number() {
            value.to_string()
        } else {
            json_kind(value).to_owned()
        };
        faults.push(
            at,
            format!("must be a whole number from {min} to {max}, not {found}"),
        );
    }
    found
}

/// Complains when there are more than a limit allows.
pub(crate) fn check_count(found: usize, max: usize, what: &str, at: &At<'_>, faults: &mut Faults) {
    if found > max {
        faults.push(at, format!("at most {max} {what} are allowed, not {found}"));
    }
}

/// Says that something of another type is wanted.
pub(crate) fn wrong(wanted: &str, found: &Value) -> String {
    format!("must be {wanted}, not {}", json_kind(found))
}

/// So many words are named at most.
const OFFERED_MAX: usize = 20;

/// Says which of the allowed words was probably meant, else all of them.
pub(crate) fn offer(found: &str, allowed: &[&str]) -> String {
    let near = allowed
        .iter()
        .map(|word| (distance(found, word), word))
        .min();
    match near {
        Some((steps, word)) if steps <= 2 && steps < word.len() => {
            format!("did you mean {word:?}?")
        }
        _ => {
            let list: Vec<String> = allowed
                .iter()
                .take(OFFERED_MAX)
                .map(|word| format!("{word:?}"))
                .collect();
            let more = if allowed.len() > OFFERED_MAX {
                ", …"
            } else {
                ""
            };
            format!("allowed: {}{more}", list.join(", "))
        }
    }
}

/// Counts the letters to insert, drop or replace to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    // Nothing allowed is longer than this; a long `from` must not cost its square.
    const LEN_MAX: usize = 64;
    if from.len() > LEN_MAX {
        return from.len();
    }
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (n, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_escape_what_rfc_6901_asks_for() {
        let root = At::ROOT;
        let (a, b);
        a = root.key("a/b~c");
        b = a.index(7);
        assert_eq!(b.pointer(), "/a~1b~0c/7");
        assert_eq!(root.pointer(), "");
    }

    #[test]
    fn a_name_given_twice_is_refused_at_any_depth() {
        assert!(parse(r#"{"a":1,"b":{"c":1}}"#).is_ok());
        let faults = parse(r#"{"a":[{"c":1,"c":2}]}"#).unwrap_err();
        assert!(
            faults[0].message.contains("\"c\" is given twice"),
            "{faults:?}"
        );
        assert!(parse("{").is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn equal_values_have_equal_text() {
        let a = parse(r#"{"b":[1,{"y":1,"x":2.50}],"a":null}"#).unwrap();
        let b = parse(r#"{ "a": null, "b": [1, {"x":2.5, "y":1}] }"#).unwrap();
        assert_eq!(canonical(&a), canonical(&b));
        assert_eq!(canonical(&a), r#"{"a":null,"b":[1,{"x":2.5,"y":1}]}"#);
    }

    #[test]
    fn misspelt_words_get_an_offer() {
        assert_eq!(
            offer("varients", &["variants", "salt"]),
            "did you mean \"variants\"?"
        );
        assert_eq!(offer("zzz", &["in", "lt"]), "allowed: \"in\", \"lt\"");
    }

    #[test]
    fn a_flood_of_faults_is_counted_not_listed() {
        let mut faults = Faults::default();
        for n in 0..1_000 {
            faults.push(&At::ROOT.index(n), "bad");
        }
        let list = faults.finish(Some(())).unwrap_err();
        assert_eq!(list.len(), FAULTS_MAX + 1);
        assert_eq!(list[FAULTS_MAX].message, "and 900 more faults");
    }
}
