//! Reading request bodies, so that everything wrong with them can be located.
//!
//! What must hold: a name given twice in one object is refused (parsers elsewhere disagree about
//! which one counts), and a syntax error names its line and column. Key order is kept, because a
//! value is stored as it was written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::Problem;

/// Parses a body.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Problem> {
    match serde_json::from_slice::<Strict>(body) {
        Ok(Strict(value)) => Ok(value),
        Err(why) => Err(Problem::malformed(
            &why.to_string(),
            why.line(),
            why.column(),
        )),
    }
}

/// Names the JSON type of a value.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A JSON value in which no object names a field twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format!(
                    "the field {name:?} is given twice"
                )));
            }
            let Strict(value) = fields.next_value()?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_numbers_are_kept() {
        let text = r#"{"b":[1,-2,2.5],"a":null}"#;
        assert_eq!(
            parse(text.as_bytes())
                .map(|value| value.to_string())
                .ok()
                .as_deref(),
            Some(text)
        );
    }

    #[test]
    fn faults_have_a_place() {
        let at = |text: &str| {
            let fields = parse(text.as_bytes()).unwrap_err().fields().clone();
            (
                fields["line"].as_u64().unwrap(),
                fields["column"].as_u64().unwrap(),
            )
        };
        assert_eq!(at("{\n  \"a\": tru }"), (2, 11));
        assert_eq!(at(""), (1, 0));
        assert_eq!(at("{\"a\":1,\"a\":2}").0, 1);
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"\"\xff\"").is_err());
    }
}
