//! How much of the history a cluster keeps: its setting `history`.
//!
//! What must hold: as with limits, no setting goes beyond [`Retention::GREATEST`], and one that was
//! accepted once is read without a refusal.
//!
//! Left out: what is trimmed when; the state machine's history does that, by replicated time.

use serde_json::Value;

use crate::fault::{self, At, Fault, Faults, Fields};
use crate::limits::Limit;

/// How much of the history is kept. A change is trimmed when any of the three says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest changes of each object.
    pub per_object: usize,
    /// The newest changes of all objects.
    pub total: usize,
    /// Changes of the last so many days, by the leader's clock.
    pub days: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The name of each field, and what it counts.
const FIELDS: [(&str, &str); 3] = [
    ("per_object", "newest changes of an object that are kept"),
    ("total", "newest changes of all objects that are kept"),
    ("days", "days that a change is kept, by the leader's clock"),
];

impl Retention {
    /// What holds in a cluster that has not set anything else. A hundred years are for ever.
    pub const DEFAULT: Self = Self {
        per_object: 100,
        total: 1_000_000,
        days: 36_500,
    };

    /// The greatest that a cluster may set.
    pub const GREATEST: Self = Self {
        // One read of the history gives so many.
        per_object: 10_000,
        // Every snapshot holds all of them.
        total: 10_000_000,
        days: 36_500,
    };

    /// Reads the setting `history`: a JSON object with any of the fields that [`Retention::list`]
    /// names, each a whole number from 1 to its greatest. What is left out has its default.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    ///
    /// ```
    /// use pennon_evaluator::Retention;
    /// let kept = Retention::parse(r#"{"per_object": 500, "days": 90}"#).unwrap();
    /// assert_eq!((kept.per_object, kept.total, kept.days), (500, 1_000_000, 90));
    ///
    /// let faults = Retention::parse(r#"{"days": 0}"#).unwrap_err();
    /// assert_eq!(faults[0].pointer, "/days");
    /// ```
    pub fn parse(json: &str) -> Result<Self, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let read = Self::read(&value, &mut faults);
        faults.finish(read)
    }

    fn read(value: &Value, faults: &mut Faults) -> Option<Self> {
        let root = At::ROOT;
        let fields = Fields::open(value, &root, &FIELDS.map(|(name, _)| name), faults)?;
        let mut numbers = Self::DEFAULT.numbers();
        for (at, (name, _)) in FIELDS.into_iter().enumerate() {
            let Some(value) = fields.optional(name) else {
                continue;
            };
            let range = (1, Self::GREATEST.numbers()[at] as u64);
            if let Some(number) = fault::integer(value, &root.key(name), range, faults) {
                numbers[at] = number as usize;
            }
        }
        Some(Self::of(numbers))
    }

    /// Reads a setting that was accepted once, perhaps by another release: a number that goes too
    /// far counts as the greatest, and what cannot be read is passed over.
    pub fn stored(json: &str) -> Self {
        let mut numbers = Self::DEFAULT.numbers();
        let Ok(value) = fault::parse(json) else {
            return Self::DEFAULT;
        };
        for (at, (name, _)) in FIELDS.into_iter().enumerate() {
            if let Some(number) = value.get(name).and_then(Value::as_u64) {
                numbers[at] = number.clamp(1, Self::GREATEST.numbers()[at] as u64) as usize;
            }
        }
        Self::of(numbers)
    }

    /// Lists every field: its name, its meaning, and what is kept.
    pub fn list(&self) -> impl Iterator<Item = Limit> {
        let numbers = self.numbers();
        FIELDS
            .into_iter()
            .enumerate()
            .map(move |(at, (name, about))| Limit {
                name,
                about,
                value: numbers[at],
                default: Self::DEFAULT.numbers()[at],
                greatest: Self::GREATEST.numbers()[at],
            })
    }

    fn numbers(self) -> [usize; 3] {
        [self.per_object, self.total, self.days]
    }

    fn of([per_object, total, days]: [usize; 3]) -> Self {
        Self {
            per_object,
            total,
            days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_set_on_its_own_and_bounded() {
        for limit in Retention::DEFAULT.list() {
            for value in [1, limit.greatest] {
                let text = format!(r#"{{"{}": {value}}}"#, limit.name);
                let read = Retention::parse(&text).unwrap();
                for other in read.list() {
                    let wanted = match other.name == limit.name {
                        true => value,
                        false => other.default,
                    };
                    assert_eq!(other.value, wanted, "{} in {text}", other.name);
                }
                assert_eq!(Retention::stored(&text), read);
            }
            for value in ["0", "-1", "1.5", "\"7\"", "99999999999"] {
                let text = format!(r#"{{"{}": {value}}}"#, limit.name);
                let faults = Retention::parse(&text).unwrap_err();
                assert_eq!(faults[0].pointer, format!("/{}", limit.name));
            }
        }
        assert!(Retention::parse(r#"{"day": 1}"#).is_err());
    }

    #[test]
    fn what_was_accepted_once_is_read_without_a_refusal() {
        let text = r#"{"per_object":0,"total":99999999999,"days":"x","new":1}"#;
        let wanted = Retention {
            per_object: 1,
            total: Retention::GREATEST.total,
            ..Retention::DEFAULT
        };
        assert_eq!(Retention::stored(text), wanted);
        assert_eq!(Retention::stored("nonsense"), Retention::DEFAULT);
    }
}
