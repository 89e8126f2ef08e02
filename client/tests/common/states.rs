//! Environments whose content is known at every version, for tests.
//!
//! What must hold: the content at a version is a function of cluster and version alone, and two
//! clusters never have the same content. Every third version changes nothing in the environment.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use pennon_evaluator::wire::StreamMessage;
use pennon_evaluator::{
    ConfigSnapshot, EncodedState, EnvironmentKey, FlagConfig, FlagKey, Limits, NoReferences,
    TargetingPolicy, Version, compile_flag,
};

/// The environment that all tests use.
pub const ENVIRONMENT: &str = "production";

pub fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub fn environment() -> EnvironmentKey {
    EnvironmentKey::try_from(ENVIRONMENT).unwrap()
}

/// Compiles a flag from the JSON that people write.
pub fn state(key: &str, config: &str, policy: &str, at: u64) -> EncodedState {
    let key = FlagKey::try_from(key).unwrap();
    let config = FlagConfig::parse(&key, config).unwrap();
    let policy = TargetingPolicy::parse(policy).unwrap();
    let (at, limits) = (version(at), Limits::default());
    let state = compile_flag(&config, at, &policy, at, at, &NoReferences, &limits).unwrap();
    EncodedState::new(&environment(), &state)
}

/// The last version, up to this one, that changed something.
pub fn changed_at(at: u64) -> u64 {
    at - u64::from(at > 0 && at.is_multiple_of(3))
}

/// The content of the environment: `at` serves the version of the last change, `dark` is a
/// boolean flag that is on at odd changes, and `odd` is there only then.
pub fn snapshot(cluster: u64, at: u64) -> ConfigSnapshot {
    thread_local! {
        static MADE: RefCell<BTreeMap<(u64, u64), ConfigSnapshot>> = RefCell::default();
    }
    MADE.with_borrow_mut(|made| {
        let made = made.entry((cluster, at));
        made.or_insert_with(|| make_snapshot(cluster, at)).clone()
    })
}

fn make_snapshot(cluster: u64, at: u64) -> ConfigSnapshot {
    let changed = changed_at(at);
    let number = changed + cluster * 1_000_000;
    let config = format!(r#"{{"type":"number","variants":{{"at":{number}}},"off_variant":"at"}}"#);
    let plain = r#"{"enabled":true,"default":{"variant":"at"}}"#;
    let mut states = vec![state("at", &config, plain, changed)];
    let boolean = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
    let enabled = changed % 2 == 1;
    let policy = format!(r#"{{"enabled":{enabled},"default":{{"variant":"on"}}}}"#);
    states.push(state("dark", boolean, &policy, changed));
    if enabled {
        let off = r#""off_variant":"off""#;
        let careful = boolean.replace(off, &format!(r#"{off},"on_stale":"default""#));
        states.push(state(
            "odd",
            &careful,
            r#"{"enabled":true,"default":{"variant":"on"}}"#,
            changed,
        ));
    }
    ConfigSnapshot::new(environment(), version(at), states).unwrap()
}

pub fn snapshot_message(cluster: u64, at: u64) -> StreamMessage {
    StreamMessage::snapshot(&snapshot(cluster, at))
}

pub fn delta_message(cluster: u64, from: u64, to: u64) -> StreamMessage {
    let (old, new) = (snapshot(cluster, from), snapshot(cluster, to));
    StreamMessage::delta(&ConfigSnapshot::diff(&old, &new))
}
