//! Clauses and segments of the slow evaluator.

use serde_json::{Value, json};

use super::values::{Address, Network, instant, is_match, semver};
use super::{Subject, has, list};

/// The words for what came of one value. Of a list the best counts, and they sort by that.
const WORDS: [&str; 3] = ["wrong type", "no match", "match"];
const WRONG_TYPE: usize = 0;
const NO_MATCH: usize = 1;
const MATCH: usize = 2;

impl Subject<'_> {
    pub(super) fn all_hold(&self, when: &Value, depth: usize) -> bool {
        list(when).iter().all(|clause| self.holds(clause, depth))
    }

    /// "Missing or null attribute never matches, negated or not (except `exists`, and its
    /// negation). A present value of the wrong type is a non-match, which `negate` turns into a
    /// match."
    fn holds(&self, clause: &Value, depth: usize) -> bool {
        let op = clause["op"].as_str().unwrap();
        let negate = clause["negate"] == json!(true);
        let outcome = match op {
            "in_segment" => self.in_any_segment(list(&clause["values"]), depth),
            _ => self.outcome(op, clause),
        };
        let negated = if negate { ", negated" } else { "" };
        self.saw(format!("{op}: {outcome}{negated}"));
        match outcome.as_str() {
            "undecided" => false,
            "missing" | "null" => op == "exists" && negate,
            "match" | "match in a list" => !negate,
            _ => negate,
        }
    }

    fn outcome(&self, op: &str, clause: &Value) -> String {
        let name = clause["attribute"].as_str().unwrap();
        let wanted = list(&clause["values"]);
        let null = self.attributes.get(name).is_some_and(Value::is_null);
        match self.attribute(name) {
            None => (if null { "null" } else { "missing" }).to_owned(),
            Some(_) if op == "exists" => "match".to_owned(),
            Some(Value::Array(items)) => {
                // "Null elements are dropped."
                let items = items.iter().filter(|item| !item.is_null());
                let best = items.map(|item| self.compare(op, item, wanted)).max();
                let word = best.map_or("nothing", |best| WORDS[best]);
                format!("{word} in a list")
            }
            Some(value) => WORDS[self.compare(op, &value, wanted)].to_owned(),
        }
    }

    fn in_any_segment(&self, keys: &[Value], depth: usize) -> String {
        if depth > 0 {
            self.saw("segment in a segment");
        }
        let found = keys
            .iter()
            .map(|key| self.within(key.as_str().unwrap(), depth + 1));
        let found: Vec<Option<bool>> = found.collect();
        let outcome = match () {
            () if found.contains(&Some(true)) => "match",
            () if found.contains(&None) => "undecided",
            () => "no match",
        };
        outcome.to_owned()
    }

    /// "Segment: excluded beats included beats rules." Nothing when there is no such segment.
    pub(super) fn within(&self, segment: &str, depth: usize) -> Option<bool> {
        *self.entered.borrow_mut() += 1;
        let (_, policy) = self.slow.world.segments.get(segment)?;
        if has(&policy["excluded"], self.key) {
            self.saw("segment: excluded");
            return Some(false);
        }
        if has(&policy["included"], self.key) {
            self.saw("segment: included");
            return Some(true);
        }
        for rule in list(&policy["rules"]) {
            if !self.all_hold(&rule["when"], depth) {
                continue;
            }
            let rollout = &rule["rollout"];
            if rollout.is_null() {
                self.saw("segment: rule");
                return Some(true);
            }
            let salt = rollout["salt"].as_str().unwrap_or(segment);
            let bucket = self.bucket(rollout, salt, rollout["of"].as_u64().unwrap());
            let outcome = match (bucket, rollout["share"].as_u64().unwrap()) {
                (None, _) => "share without a value",
                (Some(bucket), share) if bucket < share => "share in",
                _ => "share out",
            };
            self.saw(format!("segment: {outcome}"));
            if outcome == "share in" {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Compares one value with any of those wanted.
    fn compare(&self, op: &str, value: &Value, wanted: &[Value]) -> usize {
        let outcome = match op {
            "in" => self.equals(value, wanted),
            "contains" | "starts_with" | "ends_with" => part(op, value, wanted),
            "matches" => self.matches(value, wanted),
            "lt" | "lte" | "gt" | "gte" => number(op, value, wanted),
            "before" | "after" => self.time(op, value, wanted),
            "in_cidr" => self.in_cidr(value, wanted),
            _ => version(op, value, wanted),
        };
        match outcome {
            None => {
                self.saw(format!("{op}: wrong {}", kind(value)));
                WRONG_TYPE
            }
            Some(found) => {
                if wanted.len() > 8 {
                    self.saw(format!("{op}: long list, {found}"));
                }
                if found { MATCH } else { NO_MATCH }
            }
        }
    }

    /// "`in` is equality within one JSON type (true is not 1, "1" is not 1)."
    fn equals(&self, value: &Value, wanted: &[Value]) -> Option<bool> {
        for wanted in wanted {
            self.saw(format!("in: {} against {}", kind(value), kind(wanted)));
        }
        Some(
            wanted
                .iter()
                .any(|wanted| match (value.as_f64(), wanted.as_f64()) {
                    (Some(a), Some(b)) => a == b,
                    _ => value == wanted,
                }),
        )
    }

    fn matches(&self, value: &Value, wanted: &[Value]) -> Option<bool> {
        let text = value.as_str()?;
        Some(wanted.iter().any(|pattern| {
            let found = is_match(pattern.as_str().unwrap(), text);
            let beyond = !text.is_ascii() || !pattern.as_str().unwrap().is_ascii();
            if beyond {
                self.saw(format!("matches: beyond ASCII, {found}"));
            }
            found
        }))
    }

    fn time(&self, op: &str, value: &Value, wanted: &[Value]) -> Option<bool> {
        let time = instant(value)?;
        Some(wanted.iter().any(|wanted| {
            let bound = instant(wanted).unwrap();
            if time == bound && value != wanted {
                let kinds = (value.is_number(), wanted.is_number());
                self.saw(match kinds {
                    (true, true) => format!("{op}: equal, both milliseconds"),
                    (false, false) => format!("{op}: equal, written differently"),
                    _ => format!("{op}: equal, text and milliseconds"),
                });
            }
            if op == "before" {
                time < bound
            } else {
                time > bound
            }
        }))
    }

    fn in_cidr(&self, value: &Value, wanted: &[Value]) -> Option<bool> {
        let address = Address::read(value.as_str()?)?;
        Some(wanted.iter().any(|wanted| {
            let network = Network::read(wanted.as_str().unwrap()).unwrap();
            let holds = network.holds(address);
            self.saw(format!("in_cidr: {address} in {network}, {holds}"));
            holds
        }))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        _ => unreachable!("no scalar: {value}"),
    }
}

/// "Strings compare by bytes, case-sensitive."
fn part(op: &str, value: &Value, wanted: &[Value]) -> Option<bool> {
    let text = value.as_str()?;
    Some(wanted.iter().any(|wanted| {
        let wanted = wanted.as_str().unwrap();
        match op {
            "contains" => text.contains(wanted),
            "starts_with" => text.starts_with(wanted),
            _ => text.ends_with(wanted),
        }
    }))
}

fn number(op: &str, value: &Value, wanted: &[Value]) -> Option<bool> {
    let number = value.as_f64()?;
    Some(wanted.iter().any(|wanted| {
        let wanted = wanted.as_f64().unwrap();
        match op {
            "lt" => number < wanted,
            "lte" => number <= wanted,
            "gt" => number > wanted,
            _ => number >= wanted,
        }
    }))
}

fn version(op: &str, value: &Value, wanted: &[Value]) -> Option<bool> {
    let version = semver(value.as_str()?)?;
    Some(wanted.iter().any(|wanted| {
        let order = version.cmp_precedence(&semver(wanted.as_str().unwrap()).unwrap());
        match op {
            "semver_eq" => order.is_eq(),
            "semver_lt" => order.is_lt(),
            "semver_lte" => order.is_le(),
            "semver_gt" => order.is_gt(),
            "semver_gte" => order.is_ge(),
            _ => unreachable!("no such operator: {op}"),
        }
    }))
}
