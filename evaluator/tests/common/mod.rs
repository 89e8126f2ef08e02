//! What the tests share: a small cluster's worth of ground state as JSON, and its compilation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use pennon_evaluator::{
    ConfigSnapshot, EncodedState, EnvironmentKey, EvaluationState, Fault, FlagConfig, FlagKey,
    Limits, References, SegmentKey, SegmentPolicy, Snapshot, TargetingPolicy, Version,
    compile_flag, compile_segment,
};
use serde_json::{Map, Value, json};

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn environment() -> EnvironmentKey {
    "production".parse().unwrap()
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// A boolean flag with the variants `on` and `off`.
pub(crate) fn switch() -> Value {
    json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"})
}

/// A policy without anything but a default.
pub(crate) fn serving(variant: &str) -> Value {
    json!({"enabled": true, "default": {"variant": variant}})
}

/// Ground state of one environment. Flags and segments with the version they changed at.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) flags: BTreeMap<String, (u64, Value, Value)>,
    pub(crate) segments: BTreeMap<String, (u64, Value)>,
}

impl References for World {
    fn segment_exists(&self, segment: &SegmentKey) -> bool {
        self.segments.contains_key(segment.as_str())
    }

    fn flag_variants(&self, flag: &FlagKey) -> Option<Vec<String>> {
        let (_, config, _) = self.flags.get(flag.as_str())?;
        Some(config["variants"].as_object()?.keys().cloned().collect())
    }
}

impl World {
    pub(crate) fn with_flag(
        mut self,
        key: &str,
        changed_at: u64,
        config: Value,
        policy: Value,
    ) -> World {
        self.flags
            .insert(key.to_owned(), (changed_at, config, policy));
        self
    }

    pub(crate) fn with_segment(mut self, key: &str, changed_at: u64, policy: Value) -> World {
        self.segments.insert(key.to_owned(), (changed_at, policy));
        self
    }

    pub(crate) fn compile_flag(&self, key: &str) -> Result<EvaluationState, Vec<Fault>> {
        let (changed_at, config, policy) = &self.flags[key];
        let at = version(*changed_at);
        let config = FlagConfig::parse(&key.parse().unwrap(), &config.to_string())?;
        let policy = TargetingPolicy::parse(&policy.to_string())?;
        compile_flag(&config, at, &policy, at, at, self, &Limits::default())
    }

    pub(crate) fn compile_segment(&self, key: &str) -> Result<EvaluationState, Vec<Fault>> {
        let (changed_at, policy) = &self.segments[key];
        let policy = SegmentPolicy::parse(&policy.to_string())?;
        let at = version(*changed_at);
        compile_segment(
            &key.parse().unwrap(),
            &policy,
            at,
            at,
            self,
            &Limits::default(),
        )
    }

    pub(crate) fn states(&self) -> Vec<EvaluationState> {
        let flags = self.flags.keys().map(|key| (key, self.compile_flag(key)));
        let segments = self
            .segments
            .keys()
            .map(|key| (key, self.compile_segment(key)));
        let compiled = flags.chain(segments);
        compiled
            .map(|(key, state)| state.unwrap_or_else(|f| panic!("{key}: {f:?}")))
            .collect()
    }

    pub(crate) fn snapshot(&self, at: u64) -> ConfigSnapshot {
        let environment = environment();
        let states = self.states();
        let states = states
            .iter()
            .map(|state| EncodedState::new(&environment, state))
            .collect();
        ConfigSnapshot::new(environment, version(at), states).unwrap()
    }

    pub(crate) fn load(&self) -> Snapshot {
        Snapshot::load(&self.snapshot(1_000)).unwrap()
    }
}
