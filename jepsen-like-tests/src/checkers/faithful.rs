//! I4: what a node serves at a version is what the ground state at that version compiles to.
//!
//! The ground state comes from the objects themselves, read as of a version; it is compiled here,
//! with the evaluator's public functions, and every state is given the version of the newest object
//! it came from. The digest (the sum of the hashes of all states' bytes) has to be that which every
//! node, snapshot and delta named for that environment and version. Also without any ground state:
//! all digests that were named for one environment and version are one, and so are the digests of
//! the nodes' own ground state at one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use pennon_evaluator::{
    ConfigSnapshot, Digest, EncodedState, EnvironmentKey, EvaluationState, FlagConfig, FlagKey,
    Limits, References, SegmentKey, SegmentPolicy, TargetingPolicy, Version, compile_flag,
    compile_segment,
};

use super::{Complaints, Place, Verdict};
use crate::history::{Event, GroundAt, GroundObject, NodeDigest, ServedAt, StreamItem};

/// How I4 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The ground state compiles to another digest than was named.
    OtherDigest,
    /// A state was made at another version than the newest object it comes from.
    OtherOrigin,
    /// A state is served and nothing compiles to it, or the other way round.
    OtherStates,
    /// What was written does not compile.
    DoesNotCompile,
    /// Two digests were named for one environment and version.
    TwoDigests,
    /// Two nodes have different ground states at one version.
    NodesDiffer,
}

/// A digest that somebody named.
struct Named {
    digest: Digest,
    by: String,
    place: Place,
}

/// Judges a history. Fewer than `recomputed_min` ground states that somebody also served show too
/// little.
pub fn check(events: &[Event], recomputed_min: usize) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let named = named(events, &mut complaints);
    check_nodes(events, &mut complaints);
    let (mut recomputed, mut states) = (0, 0);
    for ground in events.iter().filter_map(|event| match event {
        Event::Ground(ground) => Some(ground),
        _ => None,
    }) {
        let snapshot = match compile(ground) {
            Ok(snapshot) => snapshot,
            Err(why) => {
                complaints.add(Rule::DoesNotCompile, why);
                continue;
            }
        };
        let at = (ground.environment.clone(), ground.version);
        if let Some(named) = named.get(&at) {
            recomputed += 1;
            states += snapshot.states().len();
            check_digest(ground, &snapshot, named, &mut complaints);
        }
        for served in served(events, ground) {
            check_states(&snapshot, served, &mut complaints);
        }
    }
    let shows = format!(
        "{recomputed} snapshots with {states} states compiled anew, digests of {} versions compared",
        named.len()
    );
    complaints.verdict(|| match recomputed >= recomputed_min && !named.is_empty() {
        true => Verdict::Valid(shows),
        false => Verdict::Unknown(format!("{shows}; {recomputed_min} are needed")),
    })
}

/// Compiles the ground state of an environment.
///
/// # Errors
/// When something in it cannot be compiled, or is no key or version.
pub fn compile(ground: &GroundAt) -> Result<ConfigSnapshot, String> {
    let bad = |why: &dyn std::fmt::Display| {
        let (environment, version) = (&ground.environment, ground.version);
        format!("{environment} at {version}: {why}")
    };
    let environment = EnvironmentKey::try_from(&*ground.environment).map_err(|why| bad(&why))?;
    let version = Version::new(ground.version).ok_or_else(|| bad(&"is no version"))?;
    let objects = Objects::new(ground);
    let mut states = Vec::new();
    for object in &ground.objects {
        let state = match &*object.kind {
            "policy" => objects.flag(object),
            "segment" => objects.segment(object).map(Some),
            _ => Ok(None),
        };
        let state = state.map_err(|why| bad(&format!("{} {}: {why}", object.kind, object.key)))?;
        states.extend(state.map(|state| EncodedState::new(&environment, &state)));
    }
    ConfigSnapshot::new(environment, version, states).map_err(|why| bad(&why))
}

/// The objects of a ground state, by kind and key.
struct Objects<'a>(BTreeMap<(&'a str, &'a str), &'a GroundObject>);

impl References for Objects<'_> {
    fn segment_exists(&self, segment: &SegmentKey) -> bool {
        self.0.contains_key(&("segment", segment.as_str()))
    }

    fn flag_variants(&self, flag: &FlagKey) -> Option<Vec<String>> {
        let object = self.0.get(&("flag", flag.as_str()))?;
        let config = FlagConfig::parse(flag, &object.value).ok()?;
        Some(config.variants.into_keys().collect())
    }
}

impl<'a> Objects<'a> {
    fn new(ground: &'a GroundAt) -> Objects<'a> {
        let all = ground.objects.iter();
        Objects(all.map(|one| ((&*one.kind, &*one.key), one)).collect())
    }

    fn flag(&self, policy: &GroundObject) -> Result<Option<EvaluationState>, String> {
        let Some(config) = self.0.get(&("flag", &*policy.key)) else {
            return Err("there is no such flag".to_owned());
        };
        let key = FlagKey::try_from(&*policy.key).map_err(|why| why.to_string())?;
        let (config_at, policy_at) = (version(config.version)?, version(policy.version)?);
        let config = FlagConfig::parse(&key, &config.value).map_err(|why| list(&why))?;
        let policy = TargetingPolicy::parse(&policy.value).map_err(|why| list(&why))?;
        let changed_at = config_at.max(policy_at);
        let limits = &Limits::GREATEST;
        let state = compile_flag(
            &config, config_at, &policy, policy_at, changed_at, self, limits,
        );
        state.map(Some).map_err(|why| list(&why))
    }

    fn segment(&self, policy: &GroundObject) -> Result<EvaluationState, String> {
        let key = SegmentKey::try_from(&*policy.key).map_err(|why| why.to_string())?;
        let at = version(policy.version)?;
        let policy = SegmentPolicy::parse(&policy.value).map_err(|why| list(&why))?;
        compile_segment(&key, &policy, at, at, self, &Limits::GREATEST).map_err(|why| list(&why))
    }
}

fn version(number: u64) -> Result<Version, String> {
    Version::new(number).ok_or_else(|| format!("{number} is no version"))
}

fn list(faults: &[pennon_evaluator::Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}

/// Every digest that was named for a whole environment at a version, once for each that differs.
fn named(events: &[Event], complaints: &mut Complaints<Rule>) -> BTreeMap<(Arc<str>, u64), Named> {
    let mut named: BTreeMap<(Arc<str>, u64), Named> = BTreeMap::new();
    for event in events {
        let Some((environment, version, one)) = naming(event) else {
            continue;
        };
        let entry = named.entry((environment.clone(), version));
        let first = entry.or_insert_with(|| Named {
            digest: one.digest,
            by: one.by.clone(),
            place: one.place,
        });
        // I4
        if first.digest != one.digest {
            let what = format!(
                "{environment} at {version}: {} by {}, {} by {}",
                first.digest, first.by, one.digest, one.by
            );
            complaints.add_at(one.place, Rule::TwoDigests, what);
        }
    }
    named
}

fn naming(event: &Event) -> Option<(&Arc<str>, u64, Named)> {
    match event {
        Event::Served(served) => {
            let named = Named {
                digest: served.digest,
                by: format!("node {}", served.node),
                place: Place::at(served.node, served.at),
            };
            Some((&served.environment, served.version, named))
        }
        // A part of an environment, for one application, has a digest of its own.
        Event::Stream(event) if !event.scope.contains('/') => {
            let (version, digest) = match &event.item {
                StreamItem::Snapshot {
                    version, digest, ..
                } => (*version, *digest),
                StreamItem::Delta { to, digest, .. } => (*to, *digest),
                _ => return None,
            };
            let named = Named {
                digest,
                by: format!("the stream of client {}", event.client),
                place: Place::at(event.client, event.at),
            };
            Some((&event.scope, version, named))
        }
        _ => None,
    }
}

fn check_digest(
    ground: &GroundAt,
    snapshot: &ConfigSnapshot,
    named: &Named,
    complaints: &mut Complaints<Rule>,
) {
    // I4
    if snapshot.digest() != named.digest {
        let what = format!(
            "{} at {}: {} states compile to {}, {} named {}",
            ground.environment,
            ground.version,
            snapshot.states().len(),
            snapshot.digest(),
            named.by,
            named.digest
        );
        complaints.add_at(named.place, Rule::OtherDigest, what);
    }
}

fn served<'a>(events: &'a [Event], ground: &'a GroundAt) -> impl Iterator<Item = &'a ServedAt> {
    events.iter().filter_map(|event| match event {
        Event::Served(served)
            if served.version == ground.version
                && served.environment == ground.environment
                && !served.states.is_empty() =>
        {
            Some(served)
        }
        _ => None,
    })
}

/// Says which states are off, where a node gave more than the digest.
fn check_states(snapshot: &ConfigSnapshot, served: &ServedAt, complaints: &mut Complaints<Rule>) {
    let place = Place::at(served.node, served.at);
    let at = || {
        format!(
            "node {}, {} at {}",
            served.node, served.environment, served.version
        )
    };
    let mut compiled: BTreeMap<String, &EncodedState> = BTreeMap::new();
    for state in snapshot.states() {
        compiled.insert(state.state_key().to_string(), state);
    }
    for state in &served.states {
        let Some(here) = compiled.remove(&*state.key) else {
            let what = format!("{}: nothing compiles to {}", at(), state.key);
            complaints.add_at(place, Rule::OtherStates, what);
            continue;
        };
        let changed_at = here.decode().map_or(0, |here| here.changed_at().get());
        if changed_at != state.changed_at {
            let (key, found) = (&state.key, state.changed_at);
            let what = format!("{}: {key} was made at {changed_at}, not {found}", at());
            complaints.add_at(place, Rule::OtherOrigin, what);
        }
        if state.hash.is_some_and(|hash| hash.get() != here.hash()) {
            let what = format!("{}: {} compiles to other bytes", at(), state.key);
            complaints.add_at(place, Rule::OtherStates, what);
        }
    }
    for key in compiled.keys() {
        let what = format!("{}: {key} is not served", at());
        complaints.add_at(place, Rule::OtherStates, what);
    }
}

fn check_nodes(events: &[Event], complaints: &mut Complaints<Rule>) {
    let mut first: BTreeMap<u64, &NodeDigest> = BTreeMap::new();
    for event in events {
        let Event::Digest(found) = event else {
            continue;
        };
        let before = first.entry(found.version).or_insert(found);
        // I4, I11
        if before.digest != found.digest {
            let what = format!(
                "at {}: node {} has {}, node {} has {}",
                found.version, before.node, before.digest, found.node, found.digest
            );
            complaints.add_at(Place::at(found.node, found.at), Rule::NodesDiffer, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sample;
    use crate::history::{ServedState, StreamEvent};

    fn judge(events: &[Event]) -> Verdict<Rule> {
        check(events, 1)
    }

    fn served(ground: &GroundAt, node: u32) -> ServedAt {
        let snapshot = compile(ground).unwrap();
        let states = snapshot.states().iter().map(|state| ServedState {
            key: state.state_key().to_string().into(),
            changed_at: state.decode().unwrap().changed_at().get(),
            hash: Some(Digest::new(state.hash())),
        });
        ServedAt {
            at: 1,
            node,
            environment: ground.environment.clone(),
            version: ground.version,
            digest: snapshot.digest(),
            states: states.collect(),
        }
    }

    fn broken(ground: &GroundAt, change: impl FnOnce(&mut ServedAt)) -> Vec<Rule> {
        let mut bad = served(ground, 1);
        change(&mut bad);
        match judge(&[Event::Ground(ground.clone()), Event::Served(bad)]) {
            Verdict::Invalid(complaints) => complaints.first.iter().map(|one| one.0).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_compiles_to_what_was_served_is_valid() {
        let ground = sample::ground(9, "on");
        let events = [
            Event::Ground(ground.clone()),
            Event::Served(served(&ground, 0)),
            Event::Served(served(&ground, 1)),
        ];
        let verdict = judge(&events);
        assert!(verdict.is_valid(), "{verdict}");
        assert!(check(&events, 2).is_unknown());
        assert!(judge(&events[..1]).is_unknown());
        assert!(check(&[], 0).is_unknown());
    }

    #[test]
    fn each_corruption_is_rejected_for_its_reason() {
        let ground = sample::ground(9, "on");
        let digest = broken(&ground, |bad| bad.digest.add(1));
        assert_eq!(digest, [Rule::OtherDigest]);
        let origin = broken(&ground, |bad| bad.states[0].changed_at += 1);
        assert_eq!(origin, [Rule::OtherOrigin]);
        let missing = broken(&ground, |bad| drop(bad.states.pop()));
        assert_eq!(missing, [Rule::OtherStates]);
        let bytes = broken(&ground, |bad| bad.states[0].hash = Some(Digest::EMPTY));
        assert_eq!(bytes, [Rule::OtherStates]);
        let mut none = ground.clone();
        none.objects.retain(|object| &*object.kind != "flag");
        let verdict = judge(&[Event::Ground(none)]);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::DoesNotCompile)));
    }

    /// The planted bug: a node goes on serving what it compiled before the last write.
    #[test]
    fn a_node_that_serves_what_it_had_before_is_caught() {
        let (before, after) = (sample::ground(9, "on"), sample::ground(12, "off"));
        let stale = ServedAt {
            version: 12,
            ..served(&before, 1)
        };
        let events = [Event::Ground(after.clone()), Event::Served(stale.clone())];
        let verdict = judge(&events);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::OtherDigest)));
        // Also without the ground state, because another node served the right one.
        let events = [Event::Served(served(&after, 0)), Event::Served(stale)];
        let verdict = judge(&events);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::TwoDigests)));
    }

    #[test]
    fn nodes_that_differ_and_streams_that_differ_are_rejected() {
        let digest = |node, digest: &str| {
            let (at, version, digest) = (1, 5, digest.into());
            Event::Digest(NodeDigest {
                at,
                node,
                version,
                digest,
            })
        };
        let verdict = judge(&[digest(0, "a"), digest(1, "a"), digest(2, "b")]);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::NodesDiffer)));
        let ground = sample::ground(9, "on");
        let stream = |scope: &str| {
            Event::Stream(StreamEvent {
                at: 1,
                client: 4,
                connection: 1,
                scope: scope.into(),
                item: StreamItem::Snapshot {
                    version: 9,
                    states: Vec::new(),
                    digest: Digest::EMPTY,
                    fresh_age_ms: 0,
                },
            })
        };
        let verdict = judge(&[Event::Served(served(&ground, 0)), stream("e")]);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::TwoDigests)));
        let whole = [
            Event::Ground(ground.clone()),
            Event::Served(served(&ground, 0)),
        ];
        let part = [&whole[..], &[stream("e/app")]].concat();
        assert!(judge(&part).is_valid());
    }
}
