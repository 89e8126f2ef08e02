//! LaunchDarkly: `launchdarkly-server-sdk-evaluation`, the engine inside its Rust SDK.
//!
//! Called as that SDK calls it: `evaluate` with a flag from a store over hash maps, which returns
//! value, variation and reason. The SDK's store hands out a copy of the flag for each evaluation;
//! here the flag that is asked for is lent, which is cheaper. The engine itself takes prerequisites
//! and segments from the store as copies, by its trait: a segment of 10,000 keys is copied for
//! each evaluation and then searched from its beginning. That is what its users have.
//!
//! Nothing is left out: it can express all of it.

use std::collections::HashMap;

use launchdarkly_server_sdk_evaluation::{
    Context, ContextBuilder, Flag, FlagValue, Segment, Store as FlagStore, evaluate,
};
use serde_json::{Value, json};

use crate::Result;
use crate::lane::{Contestant, first_letter};
use crate::store::{Clause, FlagSpec, Kind, NONE, RULES, SPLIT, Store, SubjectSpec, WRONG};

/// The engine with a store.
pub struct LaunchDarkly {
    data: Data,
}

struct Data {
    flags: HashMap<String, Flag>,
    segments: HashMap<String, Segment>,
}

impl FlagStore for Data {
    fn flag(&self, flag_key: &str) -> Option<Flag> {
        self.flags.get(flag_key).cloned()
    }

    fn segment(&self, segment_key: &str) -> Option<Segment> {
        self.segments.get(segment_key).cloned()
    }
}

impl LaunchDarkly {
    /// Gives the engine a store.
    ///
    /// # Errors
    /// When the engine does not understand it.
    pub fn new(store: &Store) -> Result<LaunchDarkly> {
        let mut data = Data {
            flags: HashMap::new(),
            segments: HashMap::new(),
        };
        for flag in &store.flags {
            let parsed = serde_json::from_value(flag_of(store, flag))?;
            data.flags.insert(flag.key.clone(), parsed);
        }
        for segment in &store.segments {
            let parsed = json!({"key": segment.key, "version": 1, "included": segment.members, "excluded": [],
                "rules": [], "salt": segment.key});
            data.segments
                .insert(segment.key.clone(), serde_json::from_value(parsed)?);
        }
        Ok(LaunchDarkly { data })
    }
}

fn flag_of(store: &Store, flag: &FlagSpec) -> Value {
    let on = |variation: usize| json!({"variation": variation});
    let (fallthrough, rules) = match flag.kind {
        Kind::On | Kind::Off | Kind::Prerequisites(_) => (on(0), json!([])),
        Kind::Rollout => (rollout(&[50_000, 50_000]), json!([])),
        Kind::Rules => (on(SPLIT.len() + 1), rules()),
        Kind::Segment(n) => {
            let clause = json!({"contextKind": "user", "attribute": "", "op": "segmentMatch",
                "values": [store.segments[n].key]});
            let rule =
                json!({"id": "members", "clauses": [clause], "variation": 0, "trackEvents": false});
            (on(1), json!([rule]))
        }
    };
    let prerequisites = match flag.kind {
        Kind::Prerequisites(two) => two
            .iter()
            .map(|n| json!({"key": store.flags[*n].key, "variation": 0}))
            .collect(),
        _ => json!([]),
    };
    let variations = match flag.kind {
        Kind::Rules => SPLIT
            .iter()
            .map(|(name, _)| json!(name))
            .chain([json!(WRONG), json!(NONE)])
            .collect(),
        _ => json!([true, false]),
    };
    json!({"key": flag.key, "version": 1, "on": flag.kind != Kind::Off, "targets": [], "contextTargets": [],
        "rules": rules, "prerequisites": prerequisites, "fallthrough": fallthrough, "offVariation": 1,
        "variations": variations, "salt": flag.key,
        "clientSideAvailability": {"usingMobileKey": false, "usingEnvironmentId": false}})
}

fn rollout(weights: &[u32]) -> Value {
    let weights = weights.iter().enumerate();
    let variations: Value = weights
        .map(|(variation, weight)| json!({"variation": variation, "weight": weight}))
        .collect();
    json!({"rollout": {"contextKind": "user", "variations": variations}})
}

fn rules() -> Value {
    let rules = RULES.iter().enumerate().map(|(n, clauses)| {
        let mut rule = match n + 1 == RULES.len() {
            true => rollout(&SPLIT.map(|(_, weight)| weight)),
            false => json!({"variation": SPLIT.len()}),
        };
        rule["id"] = json!(format!("rule-{}", n + 1));
        rule["clauses"] = clauses.iter().map(clause).collect();
        rule["trackEvents"] = json!(false);
        rule
    });
    rules.collect()
}

fn clause(clause: &Clause) -> Value {
    let (attribute, op, values) = match clause {
        Clause::Is(attribute, value) => (attribute, "in", json!([value])),
        Clause::In(attribute, values) => (attribute, "in", json!(values)),
        Clause::Above(attribute, value) => (attribute, "greaterThan", json!([value])),
    };
    json!({"contextKind": "user", "attribute": attribute, "op": op, "values": values, "negate": false})
}

impl Contestant for LaunchDarkly {
    type Subject = Context;

    fn name(&self) -> &'static str {
        "launchdarkly"
    }

    fn can(&self, _: Kind) -> bool {
        true
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Context> {
        let mut builder = ContextBuilder::new(&*spec.key);
        builder
            .set_string("country", spec.country)
            .set_string("plan", spec.plan)
            .set_string("platform", spec.platform)
            .set_float("build", f64::from(spec.build))
            .set_float("seats", f64::from(spec.seats))
            .set_bool("beta", spec.beta);
        Ok(builder.build()?)
    }

    fn is_on(&self, flag: &str, subject: &Context) -> bool {
        let Some(flag) = self.data.flags.get(flag) else {
            return false;
        };
        let detail = evaluate(&self.data, flag, subject, None);
        detail.value.and_then(FlagValue::as_bool) == Some(true)
    }

    fn variant(&self, flag: &str, subject: &Context) -> u8 {
        let Some(flag) = self.data.flags.get(flag) else {
            return 0;
        };
        match evaluate(&self.data, flag, subject, None).value {
            Some(FlagValue::Str(name)) => first_letter(name),
            _ => 0,
        }
    }
}
