//! What follows from writes: which states they change, what those compile to, and who would be
//! left with a reference to nothing.
//!
//! Pure functions of the ground state after the writes.

use std::collections::{BTreeMap, BTreeSet};

use pennon_evaluator::{
    DEPTH_MAX, EnvironmentKey, EvaluationState, Fault, FlagConfig, FlagKey, Limits, References,
    SegmentKey, SegmentPolicy, StateKey, StateKind, TargetingPolicy, Version, compile_flag,
    compile_segment,
};

use crate::command::{CompiledChange, ObjectId, ObjectKind, Write};
use crate::machine::Machine;

/// A compile fault and the object it is in.
pub(super) enum StateFault {
    In(ObjectId, Vec<Fault>),
}

/// The states that these writes can change, each with the write that does.
pub(super) fn affected(
    next: &Machine,
    writes: &[Write],
) -> Vec<(EnvironmentKey, StateKey, ObjectId)> {
    let mut found = BTreeMap::new();
    for write in writes {
        let Some(key) = state_key(&write.object) else {
            continue;
        };
        match write.object.environment() {
            Some(environment) => {
                found.insert((environment.clone(), key), write.object.clone());
            }
            None => {
                for environment in next.environments() {
                    let policy = ObjectId::policy(environment.clone(), write.object.key_arc());
                    if next.object(&policy).is_some() {
                        found
                            .entry((environment.clone(), key.clone()))
                            .or_insert_with(|| write.object.clone());
                    }
                }
            }
        }
    }
    found
        .into_iter()
        .map(|((environment, key), cause)| (environment, key, cause))
        .collect()
}

/// Compiles one state from the ground state of a machine, at the version `changed_at`. `None` when
/// there is nothing to compile. Used by every node to check itself (I4). Whatever the limits are
/// now, what was accepted under others is compiled: no setting goes beyond [`Limits::GREATEST`].
pub fn compile_one(
    machine: &Machine,
    environment: &EnvironmentKey,
    key: &StateKey,
    changed_at: Version,
) -> Result<Option<EvaluationState>, String> {
    compile_state(machine, environment, key, changed_at, &Limits::GREATEST).map_err(
        |StateFault::In(object, faults)| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            format!("{object}: {}", faults.join("; "))
        },
    )
}

pub(super) fn compile_state(
    next: &Machine,
    environment: &EnvironmentKey,
    key: &StateKey,
    changed_at: Version,
    limits: &Limits,
) -> Result<Option<EvaluationState>, StateFault> {
    let references = GroundReferences {
        machine: next,
        environment,
    };
    let Some(policy_id) = object_of(environment, key) else {
        return Ok(None);
    };
    let Some(policy_object) = next.object(&policy_id) else {
        return Ok(None);
    };
    let in_policy = |faults| StateFault::In(policy_id.clone(), faults);
    let state = match (key.as_flag(), key.as_segment()) {
        (Some(flag), _) => {
            let flag_id = ObjectId::flag(flag.shared());
            let Some(config_object) = next.object(&flag_id) else {
                return Ok(None);
            };
            let config = FlagConfig::parse(&flag, &config_object.value)
                .map_err(|faults| StateFault::In(flag_id, faults))?;
            let policy = TargetingPolicy::parse(&policy_object.value).map_err(in_policy)?;
            let (config_at, policy_at) = (config_object.version, policy_object.version);
            compile_flag(
                &config,
                config_at,
                &policy,
                policy_at,
                changed_at,
                &references,
                limits,
            )
        }
        (None, Some(segment)) => {
            let policy = SegmentPolicy::parse(&policy_object.value).map_err(in_policy)?;
            compile_segment(
                &segment,
                &policy,
                policy_object.version,
                changed_at,
                &references,
                limits,
            )
        }
        (None, None) => return Ok(None),
    };
    state.map(Some).map_err(in_policy)
}

/// Answers the compiler's questions from ground state.
struct GroundReferences<'a> {
    machine: &'a Machine,
    environment: &'a EnvironmentKey,
}

impl References for GroundReferences<'_> {
    fn segment_exists(&self, segment: &SegmentKey) -> bool {
        self.machine
            .object(&ObjectId::segment(
                self.environment.clone(),
                segment.shared(),
            ))
            .is_some()
    }

    fn flag_variants(&self, flag: &FlagKey) -> Option<Vec<String>> {
        let object = self.machine.object(&ObjectId::flag(flag.shared()))?;
        let config = FlagConfig::parse(flag, &object.value).ok()?;
        Some(config.variants.into_keys().collect())
    }
}

/// Who still refers to what this write takes away.
pub(super) fn users_left(next: &Machine, write: &Write) -> Vec<String> {
    let object = &write.object;
    let deleted = write.value.is_none();
    match (object.kind(), object.environment()) {
        (ObjectKind::Environment, _) if deleted => {
            let Ok(environment) = EnvironmentKey::try_from(object.key()) else {
                return Vec::new();
            };
            let policies = next.objects(ObjectKind::Policy, Some(&environment), None);
            let segments = next.objects(ObjectKind::Segment, Some(&environment), None);
            policies
                .chain(segments)
                .map(|(id, _)| id.to_string())
                .collect()
        }
        (ObjectKind::Flag, _) => {
            let mut users = Vec::new();
            for environment in next.environments() {
                let policy = ObjectId::policy(environment.clone(), object.key_arc());
                if deleted && next.object(&policy).is_some() {
                    users.push(policy.to_string());
                }
                users.extend(broken_users(next, environment, object, deleted));
            }
            users
        }
        (_, Some(environment)) if deleted => broken_users(next, environment, object, true),
        _ => Vec::new(),
    }
}

/// The states in an environment that use this object and cannot go on doing so.
fn broken_users(
    next: &Machine,
    environment: &EnvironmentKey,
    object: &ObjectId,
    deleted: bool,
) -> Vec<String> {
    let Some(key) = state_key(object) else {
        return Vec::new();
    };
    let users = next.users_of(environment, &key).filter_map(|user| {
        if deleted {
            return Some(name_of(environment, user));
        }
        // The user is not what is written, so no limit that came after it speaks against it.
        match compile_state(next, environment, user, next.version(), &Limits::GREATEST) {
            Ok(_) => None,
            Err(StateFault::In(object, faults)) => {
                let why = faults.first().map(ToString::to_string).unwrap_or_default();
                Some(format!("{object}: {why}"))
            }
        }
    });
    users.collect()
}

fn state_key(object: &ObjectId) -> Option<StateKey> {
    match object.kind() {
        ObjectKind::Environment | ObjectKind::Setting | ObjectKind::Application => None,
        ObjectKind::Flag | ObjectKind::Policy => StateKey::new(StateKind::Flag, object.key()).ok(),
        ObjectKind::Segment => StateKey::new(StateKind::Segment, object.key()).ok(),
    }
}

/// The object that a state is compiled from. Layers and experiments have neither.
pub(super) fn object_of(environment: &EnvironmentKey, key: &StateKey) -> Option<ObjectId> {
    match key.kind() {
        StateKind::Flag => Some(ObjectId::policy(environment.clone(), key.shared())),
        StateKind::Segment => Some(ObjectId::segment(environment.clone(), key.shared())),
        StateKind::Layer | StateKind::Experiment => None,
    }
}

/// What people know a state by.
pub(super) fn name_of(environment: &EnvironmentKey, key: &StateKey) -> String {
    object_of(environment, key).map_or_else(|| key.to_string(), |object| object.to_string())
}

/// The longest chain below a state, in steps. The graph below is known to be acyclic and bounded.
pub(super) fn depth_below(key: &StateKey, uses: &dyn Fn(&StateKey) -> Vec<StateKey>) -> usize {
    let mut level = BTreeSet::from([key.clone()]);
    let mut depth = 0;
    while depth < DEPTH_MAX {
        level = level.iter().flat_map(uses).collect();
        if level.is_empty() {
            break;
        }
        depth += 1;
    }
    depth
}

/// A state more than `steps` above this one, if there is any.
pub(super) fn user_too_far_above(
    next: &Machine,
    change: &CompiledChange,
    steps: usize,
) -> Option<StateKey> {
    let mut level = BTreeSet::from([change.key.clone()]);
    for _ in 0..=steps {
        level = level
            .iter()
            .flat_map(|key| next.users_of(&change.environment, key).cloned())
            .collect();
        if level.is_empty() {
            return None;
        }
    }
    level.pop_first()
}

pub(super) fn parse_flag(key: &str, text: &str) -> Result<FlagConfig, Vec<Fault>> {
    let key = FlagKey::try_from(key).map_err(|why| whole(&why))?;
    FlagConfig::parse(&key, text)
}

pub(super) fn whole(why: &dyn std::fmt::Display) -> Vec<Fault> {
    vec![Fault::new("", why.to_string())]
}
