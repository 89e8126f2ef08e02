//! The pools that clauses and attributes draw from: small, so that they meet, and with something
//! on either side of every border. What is `bad` has the right JSON type, or nearly, and is of no
//! use to the operators.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Every operator.
pub(crate) const OPS: [&str; 19] = [
    "in",
    "contains",
    "starts_with",
    "ends_with",
    "matches",
    "lt",
    "lte",
    "gt",
    "gte",
    "semver_eq",
    "semver_lt",
    "semver_lte",
    "semver_gt",
    "semver_gte",
    "before",
    "after",
    "in_cidr",
    "in_segment",
    "exists",
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pool {
    Text,
    Number,
    Version,
    Time,
    Address,
    Mixed,
}

/// The attributes of a subject, and what they mostly hold.
pub(super) const ATTRIBUTES: [(&str, Pool); 6] = [
    ("text", Pool::Text),
    ("number", Pool::Number),
    ("version", Pool::Version),
    ("time", Pool::Time),
    ("address", Pool::Address),
    ("mixed", Pool::Mixed),
];

pub(super) const KEYS: [&str; 11] = [
    "u1",
    "u2",
    "x",
    "1",
    "1.2.3",
    "2024-02-29T12:00:00Z",
    "10.1.2.3",
    "straße",
    "👩‍🚀",
    "-7",
    "",
];

/// The keys that targets and segments can name: not the empty one.
pub(super) fn known_keys() -> Vec<&'static str> {
    KEYS[..6].to_vec()
}

pub(super) const TEXTS: [&str; 17] = [
    "",
    "x",
    "xy",
    "yx",
    "xyx",
    "yxy",
    "yx\n",
    "DE",
    "de",
    "1",
    "true",
    "u1",
    "Straße",
    "STRASSE",
    "e\u{301}",
    "日本\n語",
    "٣",
];

/// Some need classes of Unicode; those are few, because their automata are large.
const PATTERNS: [&str; 18] = [
    "",
    "^x",
    "x$",
    "^x$",
    "y|D",
    "(?i)de",
    "^.$",
    "^[^a-z]*$",
    "(?i)STRASS?E",
    "ß",
    "(?-u:\\b)1",
    "y(?-u:\\b)",
    "x$|(?m:^q)",
    "^[0-9]{1,2}$",
    "(?m)^語",
    "\\p{M}",
    "^\\d$",
    "本.",
];

/// Parts of texts: most are parts of others, at the beginning or the end or within.
pub(super) const PARTS: [&str; 8] = ["x", "y", "xy", "yx", "xx", "xyx", "yxy", "yxyx"];

/// What patterns are made of.
pub(super) const PATTERN_PARTS: [&str; 20] = [
    "x",
    "y",
    "D",
    "e",
    "S",
    "ß",
    "1",
    "u",
    "本",
    "\u{301}",
    ".",
    "^",
    "$",
    "[^x]",
    "[a-z]",
    "[D-e]",
    "\\n",
    "\\s",
    "(?-u:\\b)",
    "\\p{Lu}",
];

pub(super) const NUMBERS: [f64; 10] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    2.5,
    1e300,
    -7.0,
    9_007_199_254_740_992.0,
    5e-324,
];

const VERSIONS: [&str; 11] = [
    "1",
    "1.2.3",
    "v1.10",
    "2",
    "V2.0",
    "2.0.0-rc.1",
    "2-rc.2+b",
    "2.0.0+b.01",
    "2-rc.10",
    "3.1",
    "2.0.0-99999999999999999999",
];

const NO_VERSIONS: [&str; 8] = [
    "", "1.2.3.4", "01.2", "1.2.3-01", "vv1", "1.x", " 1", "2.0.0-",
];

const TIMES: [&str; 18] = [
    "2024-02-29T12:00:00Z",
    "2024-02-29T13:30:00+01:30",
    "2024-02-29t06:30:00.000-05:30",
    "2024-02-29 12:00:00z",
    "2024-02-29T12:00:00.0000000009-00:00",
    "2024-02-29T12:00:00.000000001Z",
    "2024-02-29T11:59:59.999999999Z",
    "2024-02-28T12:01:00-23:59",
    "2024-03-01T11:59:00+23:59",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:59Z",
    "2016-12-31T23:59:60.5Z",
    "2016-12-31T23:59:59.50Z",
    "1969-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00Z",
    "0000-01-01T00:00:00+23:59",
    "0000-02-29T00:00:00Z",
    "9999-12-31T23:59:59.999999999-23:59",
];

/// The first three are 2024-02-29T12:00:00Z, or the millisecond before.
const MILLISECONDS: [f64; 10] = [
    1_709_208_000_000.0,
    1_709_208_000_000.5,
    1_709_207_999_999.5,
    0.0,
    -0.25,
    -1.0,
    1.0,
    9_007_199_254_740_992.0,
    -9_007_199_254_740_992.0,
    1_483_228_799_500.0,
];

const NO_TIMES: [&str; 22] = [
    "",
    "2024-02-29",
    "2024-02-29T12:00:00",
    "2024-02-29T12:00Z",
    "2023-02-29T12:00:00Z",
    "2024-13-01T12:00:00Z",
    "2024-00-01T12:00:00Z",
    "2024-04-31T12:00:00Z",
    "2024-02-29T24:00:00Z",
    "2024-02-29T12:60:00Z",
    "2024-02-29T12:00:61Z",
    "2024-02-29T12:00:00.Z",
    "2024-02-29T12:00:00,5Z",
    "2024-02-29T12:00:00+24:00",
    "2024-02-29T12:00:00+01:60",
    "2024-02-29T12:00:00+0100",
    "2024-02-29T12:00:00+01",
    "2024-02-29_12:00:00Z",
    "+2024-02-29T12:00:00Z",
    "2024-02-29T12:00:00Z[UTC]",
    "2024-02-29T12:00:00Z\n",
    "1709208000000",
];

const ADDRESSES: [&str; 16] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.2.0.0",
    "192.168.0.1",
    "255.255.255.255",
    "0.0.0.0",
    "127.0.0.1",
    "128.0.0.0",
    "::ffff:10.1.2.3",
    "::FFFF:0a01:0204",
    "0:0:0:0:0:ffff:c0a8:1",
    "2001:db8::1",
    "2001:DB8:8000::",
    "::",
    "::1",
    "::10.1.2.3",
];

const NO_ADDRESSES: [&str; 12] = [
    "",
    "10.1.2",
    "10.1.2.03",
    "10.1.2.256",
    "10.1.2.3/32",
    "10.1.2.3:80",
    " 10.1.2.3",
    "[::1]",
    "fe80::1%eth0",
    "2001:db8::1/128",
    "1:2:3:4:5:6:7:8:9",
    "localhost",
];

const NETWORKS: [&str; 24] = [
    "::1",
    "2001:db8:8000::",
    "::ffff:192.168.0.1",
    "::ffff:10.1.2.4/128",
    "10.1.2.3",
    "10.1.2.3/31",
    "10.1.2.3/32",
    "10.99.0.0/8",
    "10.1.255.255/15",
    "0.0.0.0/0",
    "128.0.0.0/1",
    "192.168.0.0/16",
    "::ffff:10.1.0.0/112",
    "::ffff:10.1.2.3",
    "::ffff:10.1.2.3/127",
    "::ffff:0:0/96",
    "::ffff:0:0/95",
    "::/0",
    "::/96",
    "2001:db8::/32",
    "2001:db8::1",
    "2001:db8:1::/33",
    "8000::/1",
    "::1/127",
];

impl Pool {
    /// The pool of an operator that compares with values like those of attributes.
    pub(super) fn of(op: &str) -> Pool {
        match op {
            "lt" | "lte" | "gt" | "gte" => Pool::Number,
            "before" | "after" => Pool::Time,
            _ if op.starts_with("semver_") => Pool::Version,
            _ => unreachable!("no pool for {op}"),
        }
    }

    /// What the operators of this pool can use.
    pub(super) fn good(self) -> Vec<Value> {
        let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<Value>>();
        let numbers = |list: &[f64]| list.iter().map(|number| number_value(*number)).collect();
        match self {
            Pool::Text => texts(&TEXTS),
            Pool::Number => numbers(&NUMBERS),
            Pool::Version => texts(&VERSIONS),
            Pool::Time => [texts(&TIMES), numbers(&MILLISECONDS)].concat(),
            Pool::Address => texts(&ADDRESSES),
            Pool::Mixed => [
                texts(&TEXTS[..6]),
                numbers(&NUMBERS),
                vec![json!(true), json!(false)],
            ]
            .concat(),
        }
    }

    /// What they cannot use.
    pub(super) fn bad(self) -> Vec<Value> {
        let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<Value>>();
        match self {
            Pool::Text => vec![json!(1), json!(true)],
            Pool::Number => vec![json!("1"), json!("2.5"), json!(true), json!("")],
            Pool::Version => {
                [texts(&NO_VERSIONS), vec![json!(1), json!(2.0), json!(true)]].concat()
            }
            // The number is the next after 2^53.
            Pool::Time => [
                texts(&NO_TIMES),
                vec![json!(9_007_199_254_740_994.0), json!(false)],
            ]
            .concat(),
            Pool::Address => [texts(&NO_ADDRESSES), vec![json!(167_838_211), json!(true)]].concat(),
            Pool::Mixed => texts(&["", "1"]),
        }
    }
}

/// A whole number as JSON has it, without a point; half of the readers of a number look there first.
fn number_value(number: f64) -> Value {
    if number.trunc() == number && number.abs() < 1e15 && number.to_bits() != (-0.0_f64).to_bits() {
        json!(number as i64)
    } else {
        json!(number)
    }
}

/// A value of a clause that hardly anything matches.
pub(super) fn filler(op: &'static str) -> impl Strategy<Value = Value> {
    (0..24_u32).prop_map(move |n| match op {
        "lt" | "lte" => json!(-1e10 - f64::from(n)),
        "gt" | "gte" => json!(1e301 + f64::from(n) * 1e299),
        "semver_lt" | "semver_lte" => json!(format!("0.0.0-{n}")),
        _ if op.starts_with("semver_") => json!(format!("7.{n}")),
        "before" => json!(-9_007_199_254_740_000_i64 - i64::from(n)),
        "after" => json!(9_007_199_254_740_000_i64 + i64::from(n)),
        // Small alone and huge together, so that they are searched for in several portions.
        "matches" => {
            let letter = char::from_u32('α' as u32 + n).unwrap();
            json!(format!("{letter}.*{letter}"))
        }
        "in_cidr" if n % 2 == 0 => json!(format!("203.0.{n}.0/{}", n + 8)),
        "in_cidr" => json!(format!("2001:db9::{n}:0:0/{}", n + 100)),
        // Some begin with others, some end with others.
        _ if n % 2 == 0 => json!("q".repeat(n as usize / 4 + 1) + &n.to_string()),
        _ => json!(format!("{n}") + &"q".repeat(n as usize / 8 + 1)),
    })
}

pub(super) fn patterns() -> Vec<Value> {
    PATTERNS.map(Value::from).to_vec()
}

pub(super) fn networks() -> Vec<Value> {
    NETWORKS.map(Value::from).to_vec()
}
