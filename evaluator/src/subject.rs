//! Whom a flag is decided for: a subject key and attributes.
//!
//! What must hold: looking up an attribute allocates nothing. An attribute is a string, a number, a
//! boolean or a list of these; nothing can be nested deeper, and a missing attribute and `null`
//! are the same. Key, names and texts are hashed when they are set, once, because one subject is
//! evaluated for many flags.
//!
//! Left out: what an attribute is compared with (`evaluate.rs`).

use serde_json::Map;

use crate::fault::{At, Fault, Faults, wrong};
use crate::key_table::{is_same, text_hash};
use crate::limits::Limits;
use crate::policy::SUBJECT_KEY;

/// Whom a flag is decided for.
///
/// ```
/// use pennon_evaluator::Subject;
/// let user = Subject::new("user-42").with("country", "DE").with("age", 42).with("tags", ["a", "b"]);
/// assert_eq!(user.key(), "user-42");
///
/// let nested = serde_json::json!({"address": {"city": "Bonn"}});
/// let faults = Subject::from_json("user-42", nested.as_object().unwrap()).unwrap_err();
/// assert_eq!(faults[0].pointer, "/address");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    key: String,
    key_hash: u64,
    /// Hashes of the names, apart from the entries, so that looking for one reads little memory.
    names: Vec<u64>,
    /// Sorted by name, each once.
    entries: Vec<Entry>,
}

/// An attribute under its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    name: String,
    value: Attribute,
    /// The hash of a text; 0 for anything else.
    hash: u64,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// One value.
    One(Scalar),
    /// Several: a clause holds when it does for any of them.
    Many(Vec<Scalar>),
}

/// A single value.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Text.
    String(String),
    /// A number; whole ones are exact to 2^53.
    Number(f64),
    /// `true` or `false`.
    Boolean(bool),
}

/// A text and its hash.
#[derive(Clone, Copy)]
pub(crate) struct TextRef<'a> {
    pub(crate) text: &'a str,
    pub(crate) hash: u64,
}

/// A single value, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum ScalarRef<'a> {
    String(TextRef<'a>),
    Number(f64),
    Boolean(bool),
}

/// The value of an attribute, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum AttributeRef<'a> {
    One(ScalarRef<'a>),
    Many(&'a [Scalar]),
}

impl Subject {
    /// Makes a subject without attributes. With an empty key it is in no rollout by subject key.
    pub fn new(key: impl Into<String>) -> Subject {
        let key = key.into();
        Subject {
            key_hash: text_hash(&key),
            key,
            names: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Sets an attribute. The name `subject_key` always means the key, so setting it has no effect.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Attribute>) -> Subject {
        self.set(name.into(), value.into());
        self
    }

    /// Returns the subject key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns an attribute that was set.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        let found = self.place_of(name);
        found.ok().map(|n| &self.entries[n].value)
    }

    /// Returns every attribute that was set, by name.
    ///
    /// ```
    /// use pennon_evaluator::Subject;
    /// let user = Subject::new("user-42").with("country", "DE").with("age", 42);
    /// let names: Vec<&str> = user.attributes().map(|(name, _)| name).collect();
    /// assert_eq!(names, ["age", "country"]);
    /// ```
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &Attribute)> {
        self.entries
            .iter()
            .map(|entry| (entry.name.as_str(), &entry.value))
    }

    /// Makes a subject from a JSON object of attributes, within the default [`Limits`].
    ///
    /// # Errors
    /// As [`Subject::from_json_within`].
    pub fn from_json(
        key: impl Into<String>,
        attributes: &Map<String, serde_json::Value>,
    ) -> Result<Subject, Vec<Fault>> {
        Subject::from_json_within(key, attributes, &Limits::default())
    }

    /// Makes a subject from a JSON object of attributes. `null` is the same as leaving out.
    ///
    /// # Errors
    /// Every fault found: nested objects and lists, an attribute named `subject_key`, too many
    /// attributes, too many bytes. Pointers are into the object of attributes.
    pub fn from_json_within(
        key: impl Into<String>,
        attributes: &Map<String, serde_json::Value>,
        limits: &Limits,
    ) -> Result<Subject, Vec<Fault>> {
        let mut faults = Faults::default();
        let mut subject = Subject::new(key);
        let mut len = subject.key.len();
        if attributes.len() > limits.attributes_max {
            let (found, max) = (attributes.len(), limits.attributes_max);
            faults.push(
                &At::ROOT,
                format!("a subject has at most {max} attributes, not {found}"),
            );
            return faults.finish(None);
        }
        for (name, value) in attributes {
            let root = At::ROOT;
            let at = root.key(name);
            if name == SUBJECT_KEY {
                faults.push(
                    &at,
                    "the subject key is given beside the attributes, not among them",
                );
            } else if let Some(attribute) = read_attribute(value, &at, &mut faults) {
                len += name.len() + attribute.len();
                subject.set(name.clone(), attribute);
            }
        }
        if len > limits.context_len_max {
            let max = limits.context_len_max;
            faults.push(
                &At::ROOT,
                format!("a subject has at most {max} bytes, not {len}"),
            );
        }
        faults.finish(Some(subject))
    }

    /// Returns the key and its hash.
    #[inline]
    pub(crate) fn key_ref(&self) -> TextRef<'_> {
        TextRef {
            text: &self.key,
            hash: self.key_hash,
        }
    }

    /// Returns the place of an attribute by its name, whose hash is `hash`.
    #[inline]
    pub(crate) fn find(&self, name: &str, hash: u64) -> Option<usize> {
        let mut places = self.names.iter().zip(&self.entries);
        places.position(|(have, entry)| {
            *have == hash && is_same(entry.name.as_bytes(), name.as_bytes())
        })
    }

    /// Returns the attribute at a place.
    #[inline]
    pub(crate) fn entry(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    fn place_of(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|have| have.name.as_str().cmp(name))
    }

    fn set(&mut self, name: String, value: Attribute) {
        let hash = match &value {
            Attribute::One(Scalar::String(text)) => text_hash(text),
            _ => 0,
        };
        match self.place_of(&name) {
            Ok(n) => self.entries[n] = Entry { name, value, hash },
            Err(n) => {
                self.names.insert(n, text_hash(&name));
                self.entries.insert(n, Entry { name, value, hash });
            }
        }
    }
}

impl Default for Subject {
    fn default() -> Subject {
        Subject::new("")
    }
}

impl Entry {
    #[inline]
    pub(crate) fn borrow(&self) -> AttributeRef<'_> {
        match &self.value {
            Attribute::One(Scalar::String(text)) => AttributeRef::One(ScalarRef::String(TextRef {
                text,
                hash: self.hash,
            })),
            Attribute::One(Scalar::Number(number)) => AttributeRef::One(ScalarRef::Number(*number)),
            Attribute::One(Scalar::Boolean(value)) => AttributeRef::One(ScalarRef::Boolean(*value)),
            Attribute::Many(values) => AttributeRef::Many(values),
        }
    }
}

impl Attribute {
    /// Its size in bytes, numbers and booleans counted as eight.
    fn len(&self) -> usize {
        match self {
            Attribute::One(value) => value.len(),
            Attribute::Many(values) => values.iter().map(Scalar::len).sum(),
        }
    }
}

impl Scalar {
    fn len(&self) -> usize {
        match self {
            Scalar::String(text) => text.len(),
            Scalar::Number(_) | Scalar::Boolean(_) => 8,
        }
    }

    pub(crate) fn borrow(&self) -> ScalarRef<'_> {
        match self {
            Scalar::String(text) => ScalarRef::String(TextRef {
                text,
                hash: text_hash(text),
            }),
            Scalar::Number(number) => ScalarRef::Number(*number),
            Scalar::Boolean(value) => ScalarRef::Boolean(*value),
        }
    }
}

fn read_attribute(
    value: &serde_json::Value,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Attribute> {
    let serde_json::Value::Array(items) = value else {
        if value.is_object() {
            faults.push(
                at,
                wrong("a string, number, boolean or list of these", value),
            );
        }
        return read_scalar(value).map(Attribute::One);
    };
    let mut values = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        match read_scalar(item) {
            Some(value) => values.push(value),
            None if item.is_null() => {}
            None => faults.push(&at.index(n), wrong("a string, number or boolean", item)),
        }
    }
    Some(Attribute::Many(values))
}

fn read_scalar(value: &serde_json::Value) -> Option<Scalar> {
    match value {
        serde_json::Value::String(text) => Some(Scalar::String(text.clone())),
        serde_json::Value::Number(number) => number.as_f64().map(Scalar::Number),
        serde_json::Value::Bool(value) => Some(Scalar::Boolean(*value)),
        _ => None,
    }
}

macro_rules! scalar_from {
    ($($from:ty => |$value:ident| $scalar:expr),* $(,)?) => { $(
        impl From<$from> for Scalar {
            fn from($value: $from) -> Scalar {
                $scalar
            }
        }

        impl From<$from> for Attribute {
            fn from(value: $from) -> Attribute {
                Attribute::One(value.into())
            }
        }
    )* };
}

scalar_from! {
    &str => |text| Scalar::String(text.to_owned()),
    String => |text| Scalar::String(text),
    &String => |text| Scalar::String(text.clone()),
    bool => |value| Scalar::Boolean(value),
    f64 => |number| Scalar::Number(number),
    f32 => |number| Scalar::Number(f64::from(number)),
    u8 => |number| Scalar::Number(f64::from(number)),
    i32 => |number| Scalar::Number(f64::from(number)),
    u32 => |number| Scalar::Number(f64::from(number)),
    // Exact to 2^53, the nearest number beyond.
    i64 => |number| Scalar::Number(number as f64),
    u64 => |number| Scalar::Number(number as f64),
    usize => |number| Scalar::Number(number as f64),
}

impl From<Scalar> for Attribute {
    fn from(value: Scalar) -> Attribute {
        Attribute::One(value)
    }
}

impl<T: Into<Scalar>> From<Vec<T>> for Attribute {
    fn from(values: Vec<T>) -> Attribute {
        Attribute::Many(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Scalar>, const N: usize> From<[T; N]> for Attribute {
    fn from(values: [T; N]) -> Attribute {
        Attribute::Many(values.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(attributes: serde_json::Value) -> Result<Subject, Vec<Fault>> {
        Subject::from_json("u", attributes.as_object().unwrap())
    }

    #[test]
    fn json_and_builder_give_the_same_subject() {
        let json =
            json!({"z": "DE", "a": 42, "b": true, "list": ["x", 1.5, false, null], "n": null});
        let list = vec![Scalar::from("x"), Scalar::from(1.5), Scalar::from(false)];
        let built = Subject::new("u")
            .with("a", 42)
            .with("z", "FR")
            .with("list", list);
        assert_eq!(read(json).unwrap(), built.with("b", true).with("z", "DE"));
    }

    #[test]
    fn what_cannot_be_an_attribute_is_refused_with_its_place() {
        let faults =
            read(json!({"o": {}, "l": [1, [2], {"x": 1}], "subject_key": "v"})).unwrap_err();
        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/o", "/l/1", "/l/2", "/subject_key"]);
    }

    #[test]
    fn count_and_size_are_limited() {
        let many: Map<String, serde_json::Value> =
            (0..257).map(|n| (format!("a{n}"), json!(1))).collect();
        assert!(
            Subject::from_json("u", &many).unwrap_err()[0]
                .message
                .contains("256 attributes")
        );
        assert!(read(json!({"a": "x".repeat((64 << 10) - 2)})).is_ok());
        let faults = read(json!({"a": "x".repeat((64 << 10) - 1)})).unwrap_err();
        assert!(faults[0].message.contains("65536 bytes"), "{faults:?}");
    }
}
