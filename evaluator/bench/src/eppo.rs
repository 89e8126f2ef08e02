//! Eppo: `eppo_core`, the core of its SDKs.
//!
//! Called as those SDKs call it: `Evaluator::get_assignment` on a `ConfigurationStore`. A rule is an
//! allocation, a split is made of shards. Logging of assignments is off for every allocation, so
//! that no event is built, and the faster of the crate's two hash maps is chosen.
//!
//! Left out: segments and prerequisites. Its configuration has neither, so those workloads and the
//! mix are "n/a". Its bucketing has 10,000 steps here.

use std::sync::Arc;

use eppo_core::configuration_store::ConfigurationStore;
use eppo_core::eval::{Evaluator, EvaluatorConfig};
use eppo_core::ufc::{Assignment, UniversalFlagConfig, VariationType};
use eppo_core::{AttributeValue, Attributes, Configuration, SdkMetadata, Str};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::lane::{Contestant, first_letter};
use crate::store::{Clause, FlagSpec, Kind, RULES, SPLIT, Store, SubjectSpec, WRONG};

const SHARDS: u32 = 10_000;
const METADATA: SdkMetadata = SdkMetadata {
    name: "bench",
    version: "1.0.0",
};

/// The engine with what it can express of a store.
pub struct Eppo {
    evaluator: Evaluator,
}

impl Eppo {
    /// Gives the engine a store.
    ///
    /// # Errors
    /// When the engine does not understand it.
    pub fn new(store: &Store) -> Result<Eppo> {
        let flags = store.flags.iter().filter(|flag| expressible(flag.kind));
        let flags: Map<String, Value> = flags
            .map(|flag| (flag.key.clone(), flag_of(flag)))
            .collect();
        let config = json!({"createdAt": "2026-01-01T00:00:00Z", "format": "SERVER",
            "environment": {"name": "production"}, "flags": flags, "bandits": {}});
        let config = UniversalFlagConfig::from_json(METADATA, serde_json::to_vec(&config)?)?;
        let configuration_store = Arc::new(ConfigurationStore::new());
        configuration_store
            .set_configuration(Arc::new(Configuration::from_server_response(config, None)));
        let evaluator = Evaluator::new(EvaluatorConfig {
            configuration_store,
            sdk_metadata: METADATA,
        });
        Ok(Eppo { evaluator })
    }

    fn assignment(
        &self,
        flag: &str,
        subject: &(Str, Arc<Attributes>),
        of: VariationType,
    ) -> Option<Assignment> {
        let (key, attributes) = subject;
        self.evaluator
            .get_assignment(flag, key, attributes, Some(of))
            .ok()?
    }
}

fn expressible(kind: Kind) -> bool {
    !matches!(kind, Kind::Segment(_) | Kind::Prerequisites(_))
}

fn flag_of(flag: &FlagSpec) -> Value {
    let variation =
        |name: &str, value: Value| (name.to_owned(), json!({"key": name, "value": value}));
    let variations: Map<String, Value> = match flag.kind {
        Kind::Rules => {
            let names = SPLIT.iter().map(|(name, _)| *name).chain([WRONG]);
            names.map(|name| variation(name, json!(name))).collect()
        }
        _ => [variation("on", json!(true)), variation("off", json!(false))]
            .into_iter()
            .collect(),
    };
    let allocations = match flag.kind {
        Kind::Rollout => json!([allocation(
            "half",
            &[],
            split(&flag.key, &[("on", 50_000), ("off", 50_000)])
        )]),
        Kind::Rules => allocations(&flag.key),
        _ => json!([allocation("everybody", &[], everybody("on"))]),
    };
    json!({"key": flag.key, "enabled": flag.kind != Kind::Off, "totalShards": SHARDS,
        "variationType": if flag.kind == Kind::Rules { "STRING" } else { "BOOLEAN" },
        "variations": variations, "allocations": allocations})
}

fn allocations(key: &str) -> Value {
    let allocations = RULES.iter().enumerate().map(|(n, clauses)| {
        let splits = match n + 1 == RULES.len() {
            true => split(key, &SPLIT),
            false => everybody(WRONG),
        };
        allocation(&format!("rule-{}", n + 1), clauses, splits)
    });
    allocations.collect()
}

fn allocation(key: &str, clauses: &[Clause], splits: Value) -> Value {
    let conditions: Vec<Value> = clauses.iter().map(condition).collect();
    let rules = if conditions.is_empty() {
        json!([])
    } else {
        json!([{"conditions": conditions}])
    };
    json!({"key": key, "rules": rules, "splits": splits, "doLog": false})
}

fn everybody(variation: &str) -> Value {
    json!([{"variationKey": variation, "shards": []}])
}

/// Neighbouring ranges of shards; weights are of 100,000.
fn split(key: &str, weights: &[(&str, u32)]) -> Value {
    let mut end = 0;
    let splits = weights.iter().map(|(variation, weight)| {
        let start = end;
        end = (start + weight.div_ceil(100_000 / SHARDS)).min(SHARDS);
        json!({"variationKey": variation, "shards": [{"salt": key, "ranges": [{"start": start, "end": end}]}]})
    });
    splits.collect()
}

fn condition(clause: &Clause) -> Value {
    match clause {
        Clause::Is(attribute, value) => {
            json!({"attribute": attribute, "operator": "ONE_OF", "value": [value]})
        }
        Clause::In(attribute, values) => {
            json!({"attribute": attribute, "operator": "ONE_OF", "value": values})
        }
        Clause::Above(attribute, value) => {
            json!({"attribute": attribute, "operator": "GT", "value": value})
        }
    }
}

impl Contestant for Eppo {
    type Subject = (Str, Arc<Attributes>);

    fn name(&self) -> &'static str {
        "eppo"
    }

    fn can(&self, kind: Kind) -> bool {
        expressible(kind)
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Self::Subject> {
        let attributes: [(Str, AttributeValue); 6] = [
            ("country".into(), spec.country.into()),
            ("plan".into(), spec.plan.into()),
            ("platform".into(), spec.platform.into()),
            ("build".into(), f64::from(spec.build).into()),
            ("seats".into(), f64::from(spec.seats).into()),
            ("beta".into(), spec.beta.into()),
        ];
        Ok((
            spec.key.as_str().into(),
            Arc::new(attributes.into_iter().collect()),
        ))
    }

    fn is_on(&self, flag: &str, subject: &Self::Subject) -> bool {
        let assignment = self.assignment(flag, subject, VariationType::Boolean);
        assignment.and_then(|assignment| assignment.value.as_boolean()) == Some(true)
    }

    fn variant(&self, flag: &str, subject: &Self::Subject) -> u8 {
        let assignment = self.assignment(flag, subject, VariationType::String);
        assignment.map_or(0, |assignment| {
            first_letter(assignment.value.as_str().unwrap_or_default())
        })
    }
}
