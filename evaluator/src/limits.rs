//! How large things may be: the setting `limits` of a cluster, and what holds whatever it says.
//!
//! What must hold: every limit that is exceeded is answered with a fault that names it. Evaluation
//! itself relies only on the two constants: with them its time and stack are bounded whatever a
//! snapshot holds. No setting goes beyond [`Limits::GREATEST`], so whatever was accepted once, under
//! whichever setting, can be decoded, compiled again and checked by every node; how long that takes
//! is bounded by the bytes of a change set.
//!
//! Left out: [`DEPTH_MAX`] cannot be set, because clients follow chains that deep and no deeper.

use serde_json::Value;

use crate::fault::{self, At, Fault, Faults, Fields};

/// The deepest chain of states that evaluation follows: prerequisites and nested segments
/// together, counted in steps from one state to the next.
pub const DEPTH_MAX: usize = 20;

/// The most states that one state may use, directly or not.
pub const CLOSURE_MAX: usize = 4_096;

/// Limits on what people write and ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flags of a cluster. Counted by the leader's Writer.
    pub flags_max: usize,
    /// Environments of a cluster. Counted by the leader's Writer.
    pub environments_max: usize,
    /// Variants of a flag.
    pub variants_max: usize,
    /// Bytes of the value of one variant, as compact JSON.
    pub variant_value_len_max: usize,
    /// Rules of a policy.
    pub rules_max: usize,
    /// Clauses of a rule.
    pub clauses_max: usize,
    /// Values of a clause.
    pub values_max: usize,
    /// Regular expressions of a policy, each value counted.
    pub patterns_max: usize,
    /// Bytes of a regular expression.
    pub pattern_len_max: usize,
    /// Steps that building all regular expressions of a policy may take, some 10 ns each.
    pub pattern_steps_max: usize,
    /// Weights of a rollout.
    pub weights_max: usize,
    /// Subjects named by a policy: all targets of a flag; included or excluded of a segment.
    pub subjects_max: usize,
    /// Attributes of a subject that is evaluated by a node.
    pub attributes_max: usize,
    /// Bytes of such a subject: its key, and the names and values of its attributes.
    pub context_len_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// One limit: its name in the setting, what it bounds, and how far it goes. The least is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name of the field.
    pub name: &'static str,
    /// What is counted, and its unit.
    pub about: &'static str,
    /// What is allowed.
    pub value: usize,
    /// What is allowed when the field is left out.
    pub default: usize,
    /// The greatest value that the field takes.
    pub greatest: usize,
}

/// A field of the setting.
struct Row {
    name: &'static str,
    about: &'static str,
    place: fn(&mut Limits) -> &mut usize,
}

const fn row(name: &'static str, about: &'static str, place: fn(&mut Limits) -> &mut usize) -> Row {
    Row { name, about, place }
}

/// The fields of the setting, once.
static ROWS: [Row; 14] = [
    row("flags", "flags of the cluster", |l| &mut l.flags_max),
    row("environments", "environments of the cluster", |l| {
        &mut l.environments_max
    }),
    row("variants", "variants of a flag", |l| &mut l.variants_max),
    row(
        "variant_value_bytes",
        "bytes of the value of a variant, as compact JSON",
        |l| &mut l.variant_value_len_max,
    ),
    row("rules", "rules of a policy or segment", |l| {
        &mut l.rules_max
    }),
    row("clauses", "clauses of a rule", |l| &mut l.clauses_max),
    row("values", "values of a clause", |l| &mut l.values_max),
    row(
        "patterns",
        "regular expressions of a policy or segment",
        |l| &mut l.patterns_max,
    ),
    row("pattern_bytes", "bytes of a regular expression", |l| {
        &mut l.pattern_len_max
    }),
    row(
        "pattern_steps",
        "steps that building all regular expressions of a policy or segment takes, some 10 ns each",
        |l| &mut l.pattern_steps_max,
    ),
    row("weights", "weights of a rollout", |l| &mut l.weights_max),
    row(
        "subjects",
        "subjects that a flag targets, that a segment includes, or that it excludes",
        |l| &mut l.subjects_max,
    ),
    row(
        "attributes",
        "attributes of a subject that a node evaluates",
        |l| &mut l.attributes_max,
    ),
    row(
        "context_bytes",
        "bytes of such a subject: its key, and the names and values of its attributes",
        |l| &mut l.context_len_max,
    ),
];

impl Limits {
    /// What holds in a cluster that has not set anything else.
    pub const DEFAULT: Limits = Limits {
        flags_max: 100_000,
        environments_max: 100,
        variants_max: 256,
        variant_value_len_max: 64 << 10,
        rules_max: 1_000,
        clauses_max: 100,
        values_max: 100_000,
        patterns_max: 100,
        pattern_len_max: 4 << 10,
        pattern_steps_max: 4_000_000,
        weights_max: 1_000,
        subjects_max: 100_000,
        attributes_max: 256,
        context_len_max: 64 << 10,
    };

    /// The greatest that a cluster may set, and what stored state is read and checked by. Bytes
    /// bound what these multiply to: a change set has at most 32 MiB, a state 64 MiB.
    pub const GREATEST: Limits = Limits {
        // A snapshot of an environment is one message.
        flags_max: 1_000_000,
        // A FlagConfig is compiled for each.
        environments_max: 1_000,
        // Their indexes have 15 bits; decoding refuses more.
        variants_max: 1 << 15,
        variant_value_len_max: 4 << 20,
        // Looked at one after the other.
        rules_max: 10_000,
        clauses_max: 1_000,
        values_max: 1_000_000,
        patterns_max: 1_000,
        // What building one may cost is bounded for sources of this length.
        pattern_len_max: 4 << 10,
        // 0.4 s, on every node that loads it.
        pattern_steps_max: 40_000_000,
        weights_max: 10_000,
        subjects_max: 1_000_000,
        // Looked for one after the other.
        attributes_max: 1_024,
        // The body of a request to evaluate has at most 512 KiB.
        context_len_max: 256 << 10,
    };

    /// Reads the setting `limits`: a JSON object with any of the fields that [`Limits::list`]
    /// names, each a whole number from 1 to its greatest. What is left out has its default.
    ///
    /// # Errors
    /// Every fault found, each with its JSON pointer.
    ///
    /// ```
    /// use pennon_evaluator::Limits;
    /// let limits = Limits::parse(r#"{"flags": 200000, "rules": 2000}"#).unwrap();
    /// assert_eq!((limits.flags_max, limits.rules_max, limits.clauses_max), (200_000, 2_000, 100));
    ///
    /// let faults = Limits::parse(r#"{"flags": 0, "ruls": 5}"#).unwrap_err();
    /// let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    /// assert_eq!(pointers, ["/ruls", "/flags"]);
    /// ```
    pub fn parse(json: &str) -> Result<Limits, Vec<Fault>> {
        let value = fault::parse(json)?;
        let mut faults = Faults::default();
        let limits = Self::read(&value, &mut faults);
        faults.finish(limits)
    }

    fn read(value: &Value, faults: &mut Faults) -> Option<Limits> {
        let root = At::ROOT;
        let fields = Fields::open(value, &root, &ROWS.each_ref().map(|row| row.name), faults)?;
        let (mut limits, greatest) = (Limits::DEFAULT, Limits::GREATEST);
        for row in &ROWS {
            let Some(value) = fields.optional(row.name) else {
                continue;
            };
            let range = (1, row.of(greatest) as u64);
            if let Some(number) = fault::integer(value, &root.key(row.name), range, faults) {
                *(row.place)(&mut limits) = number as usize;
            }
        }
        Some(limits)
    }

    /// Reads a setting that was accepted once, perhaps by another release. It cannot be refused any
    /// more: a number that goes too far counts as the greatest, and what is not a number or has a
    /// name that this release does not know is passed over.
    ///
    /// ```
    /// use pennon_evaluator::Limits;
    /// let limits = Limits::stored(r#"{"rules": 2000, "of_next_year": 1, "environments": 99999999}"#);
    /// assert_eq!((limits.rules_max, limits.environments_max), (2_000, 1_000));
    /// assert_eq!(Limits::stored("nonsense"), Limits::default());
    /// ```
    pub fn stored(json: &str) -> Limits {
        let (mut limits, greatest) = (Limits::DEFAULT, Limits::GREATEST);
        let Ok(value) = fault::parse(json) else {
            return limits;
        };
        for row in &ROWS {
            if let Some(number) = value.get(row.name).and_then(Value::as_u64) {
                let number = number.clamp(1, row.of(greatest) as u64);
                *(row.place)(&mut limits) = number as usize;
            }
        }
        limits
    }

    /// Lists every limit: its name, its meaning, and what is allowed.
    ///
    /// ```
    /// use pennon_evaluator::Limits;
    /// let rules = Limits::default().list().find(|limit| limit.name == "rules").unwrap();
    /// assert_eq!((rules.value, rules.greatest), (1_000, 10_000));
    /// ```
    pub fn list(&self) -> impl Iterator<Item = Limit> {
        let limits = *self;
        ROWS.iter().map(move |row| Limit {
            name: row.name,
            about: row.about,
            value: row.of(limits),
            default: row.of(Limits::DEFAULT),
            greatest: row.of(Limits::GREATEST),
        })
    }
}

impl Row {
    fn of(&self, mut limits: Limits) -> usize {
        *(self.place)(&mut limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(value: &Value) -> Vec<String> {
        let faults = Limits::parse(&value.to_string()).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_field_is_set_on_its_own() {
        for limit in Limits::default().list() {
            assert!(limit.default <= limit.greatest, "{}", limit.name);
            for value in [1, limit.default, limit.greatest] {
                let parsed = Limits::parse(&json!({ limit.name: value }).to_string()).unwrap();
                for other in parsed.list() {
                    let wanted = match other.name == limit.name {
                        true => value,
                        false => other.default,
                    };
                    assert_eq!(other.value, wanted, "{} in {}", other.name, limit.name);
                }
            }
            for value in [json!(0), json!(limit.greatest + 1), json!(-1), json!(1.5)] {
                let message = format!(
                    "/{}: must be a whole number from 1 to {}, not {value}",
                    limit.name, limit.greatest
                );
                assert_eq!(refused(&json!({ limit.name: value })), [message]);
            }
        }
    }

    #[test]
    fn a_field_that_is_null_or_left_out_has_its_default() {
        for text in ["{}", r#"{"rules":null}"#] {
            assert_eq!(Limits::parse(text), Ok(Limits::default()));
        }
    }

    #[test]
    fn what_is_no_setting_is_refused_in_its_place() {
        let unknown = refused(&json!({ "clauzes": 5, "x": 1, "values": "7" }));
        assert_eq!(
            unknown[0],
            "/clauzes: there is no field \"clauzes\"; did you mean \"clauses\"?"
        );
        assert!(unknown[1].starts_with("/x: there is no field \"x\"; allowed: \"flags\""));
        assert_eq!(
            unknown[2],
            "/values: must be a whole number from 1 to 1000000, not a string"
        );
        assert_eq!(refused(&json!([])), ["must be an object, not a list"]);
        assert!(Limits::parse(r#"{"rules":1,"rules":2}"#).is_err());
        assert!(Limits::parse("").is_err());
    }

    #[test]
    fn what_was_accepted_once_is_read_without_a_refusal() {
        let text = r#"{"flags":7,"rules":0,"values":18446744073709551615,"clauses":"x","new":1}"#;
        let wanted = Limits {
            flags_max: 7,
            rules_max: 1,
            values_max: Limits::GREATEST.values_max,
            ..Limits::DEFAULT
        };
        assert_eq!(Limits::stored(text), wanted);
    }
}
