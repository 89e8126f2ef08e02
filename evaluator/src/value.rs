//! The value of a variant, parsed once when its state is loaded, read without cost afterwards.
//!
//! What must hold: the JSON text is handed out exactly as it was compiled; the parsed form is only
//! a faster reading of it.

use std::borrow::Cow;
use std::fmt;

use crate::config::ValueType;

/// A parsed value. Objects stay text: who wants one parses it into a type of their own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    Boolean(bool),
    String(Cow<'a, str>),
    Number(f64),
    Object,
}

impl<'a> Parsed<'a> {
    /// Parses canonical JSON text as a value of a type; nothing when it is not one.
    pub(crate) fn read(value_type: ValueType, json: &'a str) -> Option<Parsed<'a>> {
        match value_type {
            ValueType::Boolean => match json {
                "true" => Some(Parsed::Boolean(true)),
                "false" => Some(Parsed::Boolean(false)),
                _ => None,
            },
            ValueType::String => read_string(json).map(Parsed::String),
            ValueType::Number => {
                let number: f64 = serde_json::from_str(json).ok()?;
                number.is_finite().then_some(Parsed::Number(number))
            }
            ValueType::Object => {
                let object = json.starts_with('{');
                let parsed = serde_json::from_str::<serde::de::IgnoredAny>(json);
                (object && parsed.is_ok()).then_some(Parsed::Object)
            }
        }
    }
}

fn read_string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let special = |byte: u8| byte == b'\\' || byte == b'"' || byte < 0x20;
    match inner {
        Some(plain) if !plain.bytes().any(special) => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// The value that an evaluation serves. Reading it allocates nothing.
///
/// The readings answer only for values of their own type: a boolean has no `as_str`.
#[derive(Clone, Copy, PartialEq)]
pub struct ValueRef<'a> {
    pub(crate) read: Reading<'a>,
    pub(crate) json: &'a str,
}

/// A parsed value, borrowed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Reading<'a> {
    Boolean(bool),
    String(&'a str),
    Number(f64),
    Object,
}

impl<'a> ValueRef<'a> {
    #[inline]
    pub(crate) fn boolean(value: bool) -> ValueRef<'static> {
        ValueRef {
            read: Reading::Boolean(value),
            // Not by a branch: which of both comes is often a matter of chance.
            json: ["false", "true"][usize::from(value)],
        }
    }

    /// Returns the value of a boolean flag.
    #[inline]
    pub fn as_bool(self) -> Option<bool> {
        match self.read {
            Reading::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a string flag.
    pub fn as_str(self) -> Option<&'a str> {
        match self.read {
            Reading::String(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a number flag.
    pub fn as_f64(self) -> Option<f64> {
        match self.read {
            Reading::Number(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a number flag that is a whole number of at most 2^53 either way.
    pub fn as_i64(self) -> Option<i64> {
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        let value = self.as_f64()?;
        // In range and whole, so the conversion is exact.
        (value.fract() == 0.0 && value.abs() <= EXACT_MAX).then_some(value as i64)
    }

    /// Returns the value as JSON text, with sorted names and no space, whatever its type.
    pub fn as_json(self) -> &'a str {
        self.json
    }

    /// Parses the value.
    pub fn to_json(self) -> serde_json::Value {
        // The text was parsed when the state was loaded.
        serde_json::from_str(self.json).unwrap_or_default()
    }

    /// Returns the type of the value.
    pub fn value_type(self) -> ValueType {
        match self.read {
            Reading::Boolean(_) => ValueType::Boolean,
            Reading::String(_) => ValueType::String,
            Reading::Number(_) => ValueType::Number,
            Reading::Object => ValueType::Object,
        }
    }
}

impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json)
    }
}

impl fmt::Display for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json)
    }
}
