//! Unleash: `unleash-yggdrasil`, the engine that its server SDKs share.
//!
//! Called as those SDKs call it: `is_enabled` and `get_variant` of an `EngineState`, without the
//! counting of metrics that comes after. A rule is a strategy with constraints, a split is made of
//! the strategy's variants, a segment is inlined when the state is compiled, a prerequisite is a
//! dependency. Its attributes are text, so numbers are parsed when they are compared.
//!
//! Nothing is left out: it can express all of it. Its bucketing has 100 steps (1,000 in a split).

use std::collections::HashMap;

use serde_json::{Value, json};
use unleash_yggdrasil::{ClientFeatures, Context, EngineState};

use crate::Result;
use crate::lane::{Contestant, first_letter};
use crate::store::{Clause, FlagSpec, Kind, RULES, SPLIT, Store, SubjectSpec, WRONG};

/// The engine with a store.
pub struct Yggdrasil {
    engine: EngineState,
    /// No results of custom strategies.
    external: Option<HashMap<String, bool>>,
}

impl Yggdrasil {
    /// Gives the engine a store.
    ///
    /// # Errors
    /// When the engine does not understand it, even in part.
    pub fn new(store: &Store) -> Result<Yggdrasil> {
        let features: Value = store
            .flags
            .iter()
            .map(|flag| feature(store, flag))
            .collect();
        let segments = store.segments.iter().enumerate().map(|(n, segment)| {
            let members =
                json!({"contextName": "userId", "operator": "IN", "values": segment.members});
            json!({"id": n, "constraints": [members]})
        });
        let segments: Value = segments.collect();
        let features = json!({"version": 2, "features": features, "segments": segments});
        let features: ClientFeatures = serde_json::from_value(features)?;
        let engine = EngineState::default();
        match engine.apply_client_features(features) {
            None => Ok(Yggdrasil {
                engine,
                external: None,
            }),
            Some(warnings) => Err(format!("yggdrasil: {warnings:?}").into()),
        }
    }
}

fn feature(store: &Store, flag: &FlagSpec) -> Value {
    let everybody = || json!([{"name": "default"}]);
    let (strategies, dependencies) = match flag.kind {
        Kind::On | Kind::Off => (everybody(), json!([])),
        Kind::Rollout => {
            let parameters = json!({"rollout": "50", "stickiness": "userId", "groupId": flag.key});
            (
                json!([{"name": "flexibleRollout", "parameters": parameters}]),
                json!([]),
            )
        }
        Kind::Rules => (strategies(&flag.key), json!([])),
        Kind::Segment(n) => (json!([{"name": "default", "segments": [n]}]), json!([])),
        Kind::Prerequisites(two) => {
            let needed = two
                .iter()
                .map(|n| json!({"feature": store.flags[*n].key, "enabled": true}));
            (everybody(), needed.collect())
        }
    };
    json!({"name": flag.key, "type": "release", "enabled": flag.kind != Kind::Off, "project": "default",
        "strategies": strategies, "variants": [], "dependencies": dependencies})
}

fn strategies(key: &str) -> Value {
    let strategies = RULES.iter().enumerate().map(|(n, clauses)| {
        let constraints: Value = clauses.iter().map(constraint).collect();
        let variant = |name: &str, weight: u32| {
            json!({"name": name, "weight": weight, "stickiness": "userId",
                "payload": {"type": "string", "value": name}})
        };
        let variants: Value = match n + 1 == RULES.len() {
            true => SPLIT
                .iter()
                .map(|(name, weight)| variant(name, weight / 100))
                .collect(),
            false => json!([variant(WRONG, 1_000)]),
        };
        json!({"name": "default", "constraints": constraints, "variants": variants,
            "parameters": {"stickiness": "userId", "groupId": key}})
    });
    strategies.collect()
}

fn constraint(clause: &Clause) -> Value {
    match clause {
        Clause::Is(attribute, value) => {
            json!({"contextName": attribute, "operator": "IN", "values": [value]})
        }
        Clause::In(attribute, values) => {
            json!({"contextName": attribute, "operator": "IN", "values": values})
        }
        Clause::Above(attribute, value) => {
            json!({"contextName": attribute, "operator": "NUM_GT", "value": value.to_string()})
        }
    }
}

impl Contestant for Yggdrasil {
    type Subject = Context;

    fn name(&self) -> &'static str {
        "yggdrasil"
    }

    fn can(&self, _: Kind) -> bool {
        true
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Context> {
        let properties = [
            ("country", spec.country.to_owned()),
            ("plan", spec.plan.to_owned()),
            ("platform", spec.platform.to_owned()),
            ("build", spec.build.to_string()),
            ("seats", spec.seats.to_string()),
            ("beta", spec.beta.to_string()),
        ];
        let properties = properties.map(|(name, value)| (name.to_owned(), value));
        Ok(Context {
            user_id: Some(spec.key.clone()),
            properties: Some(HashMap::from(properties)),
            ..Context::default()
        })
    }

    fn is_on(&self, flag: &str, subject: &Context) -> bool {
        self.engine.is_enabled(flag, subject, &self.external)
    }

    fn variant(&self, flag: &str, subject: &Context) -> u8 {
        first_letter(&self.engine.get_variant(flag, subject, &self.external).name)
    }
}
