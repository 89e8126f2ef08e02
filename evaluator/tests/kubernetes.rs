//! Real input, checked whole: 80 feature gates of Kubernetes at every release from 1.0 to 1.33.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, switch};
use pennon_evaluator::{Reason, Subject};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Table {
    gates: Vec<Gate>,
}

#[derive(Deserialize)]
struct Gate {
    name: String,
    /// Oldest first.
    defaults: Vec<Default>,
}

#[derive(Deserialize)]
struct Default {
    since: String,
    on: bool,
}

impl Default {
    fn minor(&self) -> u32 {
        self.since.strip_prefix("1.").unwrap().parse().unwrap()
    }
}

/// Rules newest first; before the oldest release of the table a gate is off.
fn flag(gate: &Gate) -> serde_json::Value {
    let rules = gate.defaults.iter().rev().map(|default| {
        let when = json!([{"attribute": "k8s_version", "op": "semver_gte", "values": [default.since]}]);
        let variant = if default.on { "on" } else { "off" };
        json!({"id": format!("since-{}", default.since), "when": when, "serve": {"variant": variant}})
    });
    let rules: Vec<serde_json::Value> = rules.collect();
    json!({"enabled": true, "rules": rules, "default": {"variant": "off"}})
}

#[test]
fn every_gate_is_what_the_table_says_at_every_release() {
    let table: Table =
        serde_json::from_str(include_str!("../testdata/kubernetes-feature-gates.json")).unwrap();
    assert_eq!(table.gates.len(), 80);
    let world = table.gates.iter().fold(World::default(), |world, gate| {
        world.with_flag(&gate.name, 1, switch(), flag(gate))
    });
    let snapshot = world.load();
    let mut on = 0;
    for minor in 0..=33 {
        for release in [
            format!("1.{minor}"),
            format!("1.{minor}.7"),
            format!("v1.{minor}.0+k3s1"),
        ] {
            let subject = Subject::new("node-1").with("k8s_version", release.as_str());
            for gate in &table.gates {
                let current = gate
                    .defaults
                    .iter()
                    .rev()
                    .find(|default| default.minor() <= minor);
                let wanted = current.is_some_and(|default| default.on);
                let found = snapshot.evaluate(&gate.name, &subject);
                let value = found.value.and_then(|value| value.as_bool());
                assert_eq!(value, Some(wanted), "{} at {release}", gate.name);
                let rule = current.map(|default| format!("since-{}", default.since));
                assert_eq!(found.rule_id, rule.as_deref());
                let reason = if rule.is_some() {
                    Reason::RuleMatch
                } else {
                    Reason::Default
                };
                assert_eq!(found.reason, reason);
                on += usize::from(wanted);
            }
        }
    }
    assert!(on > 1_000, "the table says on in {on} places only");
}
