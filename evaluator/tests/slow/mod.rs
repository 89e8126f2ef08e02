//! The slow evaluator: the paragraphs of the specification, one after the other, on the JSON that
//! people write. It shares no code with the crate; it may be slow and must be obvious.
//!
//! What it notes in `seen` is what came up, by name; a test can then ask for everything to have come
//! up. Clauses are in `clauses.rs`, what texts and numbers mean in `values.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

mod clauses;
mod values;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::common::World;
pub(crate) use values::murmur3;

/// What came up, and how often.
pub(crate) type Seen = RefCell<BTreeMap<String, u64>>;

/// The slow evaluator of one world.
pub(crate) struct Slow<'a> {
    world: &'a World,
    seen: &'a Seen,
    /// What there is to know of each flag without a subject.
    facts: BTreeMap<&'a str, Facts>,
}

struct Facts {
    config_version: u64,
    sound: bool,
}

/// The answer in the shape of the contract, and whether an exposure is due.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) json: Value,
    pub(crate) exposure_due: bool,
}

/// What was decided, by names.
#[derive(Default)]
struct Decision {
    variant: String,
    reason: &'static str,
    rule_id: Option<String>,
    bucket: Option<u64>,
    detail: Option<&'static str>,
    experiment: Option<String>,
}

/// A flag or a segment.
type Node = (&'static str, String);

impl<'a> Slow<'a> {
    pub(crate) fn new(world: &'a World, seen: &'a Seen) -> Slow<'a> {
        let facts = world.flags.keys();
        let facts = facts.map(|flag| (flag.as_str(), facts_of(world, flag, seen)));
        Slow {
            world,
            seen,
            facts: facts.collect(),
        }
    }

    pub(crate) fn evaluate(
        &self,
        flag: &str,
        key: &str,
        attributes: &Map<String, Value>,
    ) -> Answer {
        let subject = Subject {
            slow: self,
            key,
            attributes,
            entered: RefCell::new(0),
        };
        let decision = subject.decide(flag, 0);
        if *subject.entered.borrow() > 64 {
            self.saw("more than 64 states entered");
        }
        self.saw(decision.reason);
        self.saw(decision.detail.unwrap_or("no detail"));
        let exposure_due = self.exposure_due(flag, &decision);
        Answer {
            json: self.show(flag, decision),
            exposure_due,
        }
    }

    fn saw(&self, what: impl AsRef<str>) {
        saw(self.seen, what);
    }

    /// "An evaluation of an experiment asks for an ExposureEvent; others do not unless the flag
    /// says `track`." Without a bucketing value "no exposure is due".
    fn exposure_due(&self, flag: &str, decision: &Decision) -> bool {
        if decision.reason == "FLAG_NOT_FOUND" {
            return false;
        }
        let (_, config, _) = &self.world.flags[flag];
        let tracked = config["track"] == json!(true);
        let experiment = decision.experiment.is_some();
        let missing = decision.detail == Some("BUCKETING_KEY_MISSING");
        let word = |yes, word| if yes { word } else { "" };
        self.saw(format!(
            "exposure:{}{}{}",
            word(tracked, " tracked"),
            word(experiment, " experiment"),
            word(missing, " no bucket"),
        ));
        (tracked || experiment) && !missing
    }

    /// `{flag, enabled, variant, value, config_version, reason, rule_id?, bucket?, detail?,
    /// experiment?}`
    fn show(&self, flag: &str, decision: Decision) -> Value {
        let version = self.facts.get(flag).map_or(0, |facts| facts.config_version);
        let mut json = json!({
            "flag": flag, "enabled": false, "variant": null, "value": null,
            "config_version": version, "reason": decision.reason,
        });
        if decision.reason != "FLAG_NOT_FOUND" {
            let (_, config, policy) = &self.world.flags[flag];
            json["enabled"] = policy["enabled"].clone();
            json["variant"] = json!(decision.variant);
            json["value"] = sorted(&config["variants"][&decision.variant]);
        }
        let optional = [
            ("rule_id", decision.rule_id.map(Value::from)),
            ("bucket", decision.bucket.map(Value::from)),
            ("detail", decision.detail.map(Value::from)),
            ("experiment", decision.experiment.map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                json[name] = value;
            }
        }
        json
    }
}

/// The subject of one evaluation.
struct Subject<'a> {
    slow: &'a Slow<'a>,
    key: &'a str,
    attributes: &'a Map<String, Value>,
    /// How many flags and segments were entered.
    entered: RefCell<usize>,
}

impl Subject<'_> {
    fn saw(&self, what: impl AsRef<str>) {
        self.slow.saw(what);
    }

    /// The order of decision.
    fn decide(&self, flag: &str, depth: usize) -> Decision {
        *self.entered.borrow_mut() += 1;
        // 1. archived or unknown flag
        let Some((_, config, policy)) = self.slow.world.flags.get(flag) else {
            return decision("", "FLAG_NOT_FOUND");
        };
        if config["archived"] == json!(true) {
            return Decision {
                detail: Some("ARCHIVED"),
                ..decision("", "FLAG_NOT_FOUND")
            };
        }
        let off = config["off_variant"].as_str().unwrap();
        // 2. enabled: false
        if policy["enabled"] == json!(false) {
            return decision(off, "DISABLED");
        }
        // 3. prerequisites; none can be asked when what they use runs in circles
        if !self.slow.facts[flag].sound {
            return Decision {
                detail: Some("GRAPH_UNSOUND"),
                ..decision(off, "PREREQUISITE_FAILED")
            };
        }
        for prerequisite in list(&policy["prerequisites"]) {
            if !self.prerequisite_holds(prerequisite, depth) {
                return decision(off, "PREREQUISITE_FAILED");
            }
        }
        // 4. individual target
        for target in list(&policy["targets"]) {
            if has(&target["subjects"], self.key) {
                return decision(target["variant"].as_str().unwrap(), "TARGET_MATCH");
            }
        }
        // 5. the first rule whose clauses all hold, and in whose experiment the subject takes part
        for (n, rule) in list(&policy["rules"]).iter().enumerate() {
            if !self.all_hold(&rule["when"], 0) || !self.takes_part(&rule["serve"]["rollout"]) {
                continue;
            }
            let place = format!("rule-{}", n + 1);
            return Decision {
                rule_id: Some(rule["id"].as_str().map_or(place, str::to_owned)),
                ..self.served(flag, &rule["serve"], "RULE_MATCH")
            };
        }
        // 6. default
        let plain = list(&policy["rules"]).is_empty() && list(&policy["targets"]).is_empty();
        let reason = if plain { "STATIC" } else { "DEFAULT" };
        self.served(flag, &policy["default"], reason)
    }

    /// "a prerequisite not at one of its variants (or disabled, or missing)"
    fn prerequisite_holds(&self, prerequisite: &Value, depth: usize) -> bool {
        let flag = prerequisite["flag"].as_str().unwrap();
        let other = self.decide(flag, depth + 1);
        let outcome = match other.reason {
            "FLAG_NOT_FOUND" => other.detail.unwrap_or("missing"),
            "DISABLED" => "disabled",
            _ if has(&prerequisite["variants"], &other.variant) => "met",
            _ => "not met",
        };
        self.saw(format!("prerequisite {outcome}"));
        if depth > 0 {
            self.saw("prerequisite of a prerequisite");
        }
        outcome == "met"
    }

    /// Whether the subject takes part in the experiment of a rollout, if it has one: "iff it is not
    /// in the holdout and its slot is in the range".
    fn takes_part(&self, rollout: &Value) -> bool {
        let experiment = &rollout["experiment"];
        if experiment.is_null() {
            return true;
        }
        let outcome = self.part_in(experiment, rollout);
        self.saw(format!("experiment: {outcome}"));
        outcome.starts_with("takes part")
    }

    fn part_in(&self, experiment: &Value, rollout: &Value) -> &'static str {
        if let Some(holdout) = experiment["holdout"].as_str() {
            match self.within(holdout, 1) {
                Some(true) => return "held out",
                Some(false) => {}
                None => return "held out because the holdout cannot be decided",
            }
        }
        let Some(layer) = experiment["layer"]["key"].as_str() else {
            return "takes part, without a layer";
        };
        let Some(slot) = self.bucket(rollout, &format!("layer={layer}"), 10_000) else {
            return "without a slot";
        };
        let range = |n: usize| experiment["layer"]["range"][n].as_u64().unwrap();
        match slot {
            _ if slot < range(0) => "before its range",
            _ if slot >= range(1) => "after its range",
            _ if slot == range(0) => "takes part, at the first slot",
            _ if slot + 1 == range(1) => "takes part, at the last slot",
            _ => "takes part",
        }
    }

    fn served(&self, flag: &str, serve: &Value, reason: &'static str) -> Decision {
        if let Some(variant) = serve["variant"].as_str() {
            return decision(variant, reason);
        }
        let rollout = &serve["rollout"];
        let experiment = rollout["experiment"]["key"].as_str().map(str::to_owned);
        Decision {
            experiment,
            ..self.split(flag, rollout)
        }
    }

    /// "the variant is the first whose cumulative weight exceeds `b`. `salt` is the rollout's own, or
    /// the flag's."
    fn split(&self, flag: &str, rollout: &Value) -> Decision {
        let (_, config, _) = &self.slow.world.flags[flag];
        let weights = list(&rollout["weights"]);
        let total = weights.iter().map(|w| w["weight"].as_u64().unwrap()).sum();
        let salt = rollout["salt"].as_str().or(config["salt"].as_str());
        let Some(bucket) = self.bucket(rollout, salt.unwrap_or(flag), total) else {
            return Decision {
                detail: Some("BUCKETING_KEY_MISSING"),
                ..decision(
                    weights.last().unwrap()["variant"].as_str().unwrap(),
                    "SPLIT",
                )
            };
        };
        let mut cumulative = 0;
        for weight in weights {
            cumulative += weight["weight"].as_u64().unwrap();
            if cumulative > bucket {
                return Decision {
                    bucket: Some(bucket),
                    ..decision(weight["variant"].as_str().unwrap(), "SPLIT")
                };
            }
        }
        unreachable!("a bucket is below the total");
    }

    /// "`h = murmur3_x86_32(seed 0, UTF-8 of salt ‖ value)`; `b = (h as u64 * total) >> 32`"
    fn bucket(&self, rollout: &Value, salt: &str, total: u64) -> Option<u64> {
        let by = rollout["bucket_by"].as_str().unwrap_or("subject_key");
        let (kind, value) = match self.attribute(by) {
            None => ("nothing", None),
            Some(Value::String(text)) if text.is_empty() => ("an empty text", None),
            Some(Value::String(text)) => ("a text", Some(text)),
            Some(Value::Bool(_)) => ("a boolean", None),
            Some(Value::Array(_)) => ("a list", None),
            Some(Value::Number(number)) => match number.as_f64().unwrap() {
                number if number.trunc() != number => ("a fraction", None),
                number if number.abs() > 2_f64.powi(53) => ("too large a number", None),
                number => ("a whole number", Some(format!("{}", number as i64))),
            },
            Some(Value::Null | Value::Object(_)) => unreachable!("no such attribute"),
        };
        self.saw(format!("bucket by {kind}"));
        Some((u64::from(murmur3([salt, &value?].concat().as_bytes())) * total) >> 32)
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
}

fn decision(variant: &str, reason: &'static str) -> Decision {
    Decision {
        variant: variant.to_owned(),
        reason,
        ..Decision::default()
    }
}

/// Works out the config version ("at which this flag's EvaluationState last changed (its own config
/// or policy, or that of a segment or prerequisite it uses)") and whether "prerequisite and segment
/// graphs are acyclic" and not deeper than 20 steps.
fn facts_of(world: &World, flag: &str, seen: &Seen) -> Facts {
    let start: Node = ("flag", flag.to_owned());
    let own = changed_at(world, &start);
    let mut reached = BTreeSet::from([start.clone()]);
    let mut steps = vec![reached.clone()];
    for _ in 0..21 {
        let nodes = steps.last().unwrap().iter();
        let next: BTreeSet<Node> = nodes.flat_map(|node| uses(world, node, true)).collect();
        reached.extend(next.clone());
        steps.push(next);
    }
    // Somebody is still there after 21 steps: too deep, or in a circle.
    let sound = steps.last().unwrap().is_empty();
    if !steps[20].is_empty() && sound {
        saw(seen, "a chain of 20 steps");
    }
    let newest = |nodes: &BTreeSet<Node>| nodes.iter().map(|node| changed_at(world, node)).max();
    let config_version = match sound {
        true => newest(&reached).unwrap(),
        false => own,
    };
    if config_version > own {
        let direct = uses(world, &start, false);
        let holdouts = uses(world, &start, true)
            .into_iter()
            .filter(|node| !direct.contains(node));
        let holdouts: BTreeSet<Node> = holdouts.collect();
        let by = match newest(&steps[1]) == Some(config_version) {
            true if newest(&holdouts) == Some(config_version) => "a holdout",
            true => "what it uses",
            false => "what it uses indirectly",
        };
        saw(seen, format!("config version of {by}"));
    }
    Facts {
        config_version,
        sound,
    }
}

fn changed_at(world: &World, (kind, key): &Node) -> u64 {
    match *kind {
        "flag" => world
            .flags
            .get(key)
            .map_or(0, |(changed_at, ..)| *changed_at),
        _ => world
            .segments
            .get(key)
            .map_or(0, |(changed_at, _)| *changed_at),
    }
}

/// Names what a flag or segment uses: its prerequisites, the segments of its clauses, its holdouts.
fn uses(world: &World, (kind, key): &Node, with_holdouts: bool) -> BTreeSet<Node> {
    let nothing = Value::Null;
    let policy = match *kind {
        "flag" => world
            .flags
            .get(key)
            .map_or(&nothing, |(_, _, policy)| policy),
        _ => world
            .segments
            .get(key)
            .map_or(&nothing, |(_, policy)| policy),
    };
    let node = |kind, key: &Value| -> Node { (kind, key.as_str().unwrap().to_owned()) };
    let prerequisites = list(&policy["prerequisites"]);
    let mut uses: BTreeSet<Node> = prerequisites
        .iter()
        .map(|prerequisite| node("flag", &prerequisite["flag"]))
        .collect();
    for rule in list(&policy["rules"]) {
        for clause in list(&rule["when"]) {
            if clause["op"] == json!("in_segment") {
                uses.extend(
                    list(&clause["values"])
                        .iter()
                        .map(|key| node("segment", key)),
                );
            }
        }
        let holdout = &rule["serve"]["rollout"]["experiment"]["holdout"];
        if with_holdouts && holdout.is_string() {
            uses.insert(node("segment", holdout));
        }
    }
    uses
}

fn saw(seen: &Seen, what: impl AsRef<str>) {
    let mut seen = seen.borrow_mut();
    match seen.get_mut(what.as_ref()) {
        Some(count) => *count += 1,
        None => _ = seen.insert(what.as_ref().to_owned(), 1),
    }
}

/// Whether a list of texts has this one.
fn has(list: &Value, text: &str) -> bool {
    self::list(list).iter().any(|one| one == text)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The value with the names of its objects sorted, as values are shown.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields: BTreeMap<&String, Value> = map
                .iter()
                .map(|(name, value)| (name, sorted(value)))
                .collect();
            fields
                .into_iter()
                .map(|(name, value)| (name.clone(), value))
                .collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
