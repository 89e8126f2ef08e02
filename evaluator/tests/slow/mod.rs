//! The slow evaluator: the paragraphs of the specification, one after the other, on JSON. It
//! shares no code with the crate; it may be slow and must be obvious.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::common::World;

pub(crate) struct Slow<'a> {
    pub(crate) world: &'a World,
    pub(crate) key: &'a str,
    pub(crate) attributes: &'a Map<String, Value>,
    pub(crate) seen: &'a RefCell<BTreeSet<String>>,
}

/// What a rollout or variant serves: its name, and the bucket.
enum Served {
    Variant(String),
    Split(String, u64),
    KeyMissing(String),
}

impl Slow<'_> {
    fn saw(&self, what: impl Into<String>) {
        self.seen.borrow_mut().insert(what.into());
    }

    /// The answer in the shape of the contract.
    pub(crate) fn evaluate(&self, flag: &str) -> Value {
        let answer = self.decide(flag, 0);
        self.saw(answer["reason"].as_str().unwrap());
        answer
    }

    fn decide(&self, flag: &str, depth: usize) -> Value {
        let Some((_, config, policy)) = self.world.flags.get(flag) else {
            return not_found(flag, 0);
        };
        // 1. archived or unknown flag
        if config["archived"] == json!(true) {
            return not_found(flag, self.newest_of_flag(flag));
        }
        let off = config["off_variant"].as_str().unwrap();
        // 2. enabled: false
        if policy["enabled"] == json!(false) {
            return self.answer(flag, off, "DISABLED");
        }
        // 3. prerequisites
        for prerequisite in list(&policy["prerequisites"]) {
            if depth > 0 {
                self.saw("prerequisite of prerequisite");
            }
            let other = self.decide(prerequisite["flag"].as_str().unwrap(), depth + 1);
            let usable =
                other["enabled"] == json!(true) && other["reason"] != json!("FLAG_NOT_FOUND");
            if !usable || !list(&prerequisite["variants"]).contains(&other["variant"]) {
                return self.answer(flag, off, "PREREQUISITE_FAILED");
            }
        }
        // 4. individual target
        for target in list(&policy["targets"]) {
            if list(&target["subjects"]).contains(&json!(self.key)) {
                return self.answer(flag, target["variant"].as_str().unwrap(), "TARGET_MATCH");
            }
        }
        // 5. the first rule whose clauses all hold
        for (n, rule) in list(&policy["rules"]).iter().enumerate() {
            if self.all_hold(&rule["when"], 0) {
                let id = json!(format!("rule-{}", n + 1));
                let mut answer = self.served(flag, &rule["serve"], "RULE_MATCH");
                answer
                    .as_object_mut()
                    .unwrap()
                    .shift_insert(6, "rule_id".to_owned(), id);
                return answer;
            }
        }
        // 6. default
        let plain = list(&policy["rules"]).is_empty()
            && list(&policy["targets"]).is_empty()
            && policy["default"]["variant"].is_string();
        self.served(
            flag,
            &policy["default"],
            if plain { "STATIC" } else { "DEFAULT" },
        )
    }

    fn served(&self, flag: &str, serve: &Value, reason: &str) -> Value {
        match self.pick(flag, serve) {
            Served::Variant(variant) => self.answer(flag, &variant, reason),
            Served::Split(variant, bucket) => {
                let mut answer = self.answer(flag, &variant, "SPLIT");
                answer["bucket"] = json!(bucket);
                answer
            }
            Served::KeyMissing(variant) => {
                self.saw("BUCKETING_KEY_MISSING");
                let mut answer = self.answer(flag, &variant, "SPLIT");
                answer["detail"] = json!("BUCKETING_KEY_MISSING");
                answer
            }
        }
    }

    fn pick(&self, flag: &str, serve: &Value) -> Served {
        if let Some(variant) = serve["variant"].as_str() {
            return Served::Variant(variant.to_owned());
        }
        let rollout = &serve["rollout"];
        let weights = list(&rollout["weights"]);
        let weights: Vec<(&str, u64)> = weights
            .iter()
            .map(|w| {
                (
                    w["variant"].as_str().unwrap(),
                    w["weight"].as_u64().unwrap(),
                )
            })
            .collect();
        let total = weights.iter().map(|(_, weight)| weight).sum();
        let salt = rollout["salt"].as_str().unwrap_or(flag);
        let Some(bucket) = self.bucket(rollout, salt, total) else {
            return Served::KeyMissing(weights.last().unwrap().0.to_owned());
        };
        let mut cumulative = 0;
        for (variant, weight) in weights {
            cumulative += weight;
            if cumulative > bucket {
                return Served::Split(variant.to_owned(), bucket);
            }
        }
        unreachable!("a bucket is below the total");
    }

    fn bucket(&self, rollout: &Value, salt: &str, total: u64) -> Option<u64> {
        let value = match self.attribute(rollout["bucket_by"].as_str().unwrap())? {
            Value::String(text) if !text.is_empty() => text,
            Value::Number(number) => {
                self.saw("bucket by number");
                let number = number.as_f64().unwrap();
                if number.trunc() != number || number.abs() > 2_f64.powi(53) {
                    return None;
                }
                format!("{}", number as i64)
            }
            _ => return None,
        };
        Some((u64::from(murmur3([salt, &value].concat().as_bytes())) * total) >> 32)
    }

    /// The value of an attribute; a null one is missing.
    fn attribute(&self, name: &str) -> Option<Value> {
        match name {
            "subject_key" => Some(json!(self.key)),
            _ => self
                .attributes
                .get(name)
                .filter(|value| !value.is_null())
                .cloned(),
        }
    }

    fn all_hold(&self, when: &Value, depth: usize) -> bool {
        list(when).iter().all(|clause| self.holds(clause, depth))
    }

    fn holds(&self, clause: &Value, depth: usize) -> bool {
        let op = clause["op"].as_str().unwrap();
        let negate = clause["negate"] == json!(true);
        let wanted = list(&clause["values"]);
        let outcome = match op {
            "in_segment" => {
                if depth > 0 {
                    self.saw("segment in segment");
                }
                let within = |key: &Value| self.within(key.as_str().unwrap(), depth + 1);
                if wanted.iter().any(within) {
                    "match"
                } else {
                    "no match"
                }
            }
            "exists" => match self.attribute(clause["attribute"].as_str().unwrap()) {
                Some(_) => "match",
                None => "missing",
            },
            _ => match self.attribute(clause["attribute"].as_str().unwrap()) {
                None => "missing",
                Some(Value::Array(items)) => {
                    self.saw("list");
                    let outcomes = items.iter().map(|item| compare(op, item, &wanted));
                    outcomes.max().unwrap_or("no match").trim_start()
                }
                Some(value) => compare(op, &value, &wanted).trim_start(),
            },
        };
        self.saw(format!("{op} {outcome} {negate}"));
        match outcome {
            "missing" if op == "exists" => negate,
            "missing" => false,
            "match" => !negate,
            _ => negate,
        }
    }

    fn within(&self, segment: &str, depth: usize) -> bool {
        let (_, policy) = &self.world.segments[segment];
        if list(&policy["excluded"]).contains(&json!(self.key)) {
            self.saw("segment excluded");
            return false;
        }
        if list(&policy["included"]).contains(&json!(self.key)) {
            self.saw("segment included");
            return true;
        }
        for rule in list(&policy["rules"]) {
            if !self.all_hold(&rule["when"], depth) {
                continue;
            }
            let rollout = &rule["rollout"];
            if rollout.is_null() {
                return true;
            }
            let salt = rollout["salt"].as_str().unwrap_or(segment);
            let bucket = self.bucket(rollout, salt, rollout["of"].as_u64().unwrap());
            if bucket.is_some_and(|bucket| bucket < rollout["share"].as_u64().unwrap()) {
                return true;
            }
            self.saw("segment share out");
        }
        false
    }

    fn answer(&self, flag: &str, variant: &str, reason: &str) -> Value {
        let (_, config, policy) = &self.world.flags[flag];
        json!({
            "flag": flag, "enabled": policy["enabled"], "variant": variant,
            "value": config["variants"][variant], "config_version": self.newest_of_flag(flag),
            "reason": reason,
        })
    }

    /// The version at which the flag or anything it uses last changed.
    fn newest_of_flag(&self, flag: &str) -> u64 {
        let (changed_at, _, policy) = &self.world.flags[flag];
        let prerequisites = list(&policy["prerequisites"]);
        let flags = prerequisites
            .iter()
            .map(|p| self.newest_of_flag(p["flag"].as_str().unwrap()));
        flags
            .max()
            .unwrap_or(0)
            .max(*changed_at)
            .max(self.newest_of_rules(&policy["rules"]))
    }

    fn newest_of_rules(&self, rules: &Value) -> u64 {
        let rules = list(rules);
        let clauses = rules.iter().flat_map(|rule| list(&rule["when"]));
        let named = clauses.filter(|clause| clause["op"] == json!("in_segment"));
        let named = named.flat_map(|clause| list(&clause["values"]));
        let newest = named.map(|key| {
            let (changed_at, policy) = &self.world.segments[key.as_str().unwrap()];
            (*changed_at).max(self.newest_of_rules(&policy["rules"]))
        });
        newest.max().unwrap_or(0)
    }
}

fn not_found(flag: &str, config_version: u64) -> Value {
    json!({
        "flag": flag, "enabled": false, "variant": null, "value": null,
        "config_version": config_version, "reason": "FLAG_NOT_FOUND",
    })
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Compares one value with any of those wanted. The words sort by how much they say: a match beats
/// the rest (" no match" < " wrong type" < "match").
fn compare(op: &str, value: &Value, wanted: &[Value]) -> &'static str {
    let any = |test: &dyn Fn(&Value) -> bool| {
        if wanted.iter().any(test) {
            "match"
        } else {
            " no match"
        }
    };
    match op {
        "in" => any(&|wanted| match (value.as_f64(), wanted.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => value == wanted,
        }),
        "contains" | "starts_with" | "ends_with" => {
            let Some(text) = value.as_str() else {
                return " wrong type";
            };
            any(&|wanted| {
                let wanted = wanted.as_str().unwrap();
                match op {
                    "contains" => text.contains(wanted),
                    "starts_with" => text.starts_with(wanted),
                    _ => text.ends_with(wanted),
                }
            })
        }
        "lt" | "lte" | "gt" | "gte" => {
            let Some(number) = value.as_f64() else {
                return " wrong type";
            };
            any(&|wanted| {
                let wanted = wanted.as_f64().unwrap();
                match op {
                    "lt" => number < wanted,
                    "lte" => number <= wanted,
                    "gt" => number > wanted,
                    _ => number >= wanted,
                }
            })
        }
        _ => {
            let Some(version) = value.as_str().and_then(semver) else {
                return " wrong type";
            };
            any(&|wanted| {
                let order = version.cmp_precedence(&semver(wanted.as_str().unwrap()).unwrap());
                match op {
                    "semver_eq" => order.is_eq(),
                    "semver_lt" => order.is_lt(),
                    "semver_lte" => order.is_le(),
                    "semver_gt" => order.is_gt(),
                    _ => order.is_ge(),
                }
            })
        }
    }
}

/// Pads a partial version and lets the crate `semver` read it.
fn semver(text: &str) -> Option<semver::Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core_len = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(core_len);
    let padding = ".0".repeat(2_usize.saturating_sub(core.matches('.').count()));
    semver::Version::parse(&format!("{core}{padding}{rest}")).ok()
}

/// murmur3_x86_32 with seed 0, from its description.
fn murmur3(bytes: &[u8]) -> u32 {
    let mut h = 0_u32;
    for chunk in bytes.chunks(4) {
        let mut block = [0; 4];
        block[..chunk.len()].copy_from_slice(chunk);
        let k = u32::from_le_bytes(block).wrapping_mul(0xcc9e2d51);
        h ^= k.rotate_left(15).wrapping_mul(0x1b873593);
        if chunk.len() == 4 {
            h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe6546b64);
        }
    }
    h ^= bytes.len() as u32;
    h = (h ^ (h >> 16)).wrapping_mul(0x85ebca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2ae35);
    h ^ (h >> 16)
}
