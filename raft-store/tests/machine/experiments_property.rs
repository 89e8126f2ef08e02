//! Whatever is written about experiments, in whatever change sets and batches: it is accepted if
//! and only if a slow reading of the policies as they would be finds nothing wrong with it.
//!
//! The slow reading knows nothing of compiled states, of an index, or of what changed: it takes
//! the JSON of all policies and writes into every slot of every layer whose it is.

use std::collections::{BTreeMap, BTreeSet};

use pennon_evaluator::{LAYER_SLOTS, StateKey, StateKind};
use pennon_raft_store::command::{Batch, ClusterId, Command, ObjectKind, Outcome, Refusal};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, Entry, Machine};
use pennon_raft_store::plan::{AskedWrite, ChangeRequest, Draft, Planned};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::*;

const FLAGS: u8 = 5;
const LAYERS: [&str; 2] = ["l0", "l1"];
const HOLDOUTS: [&str; 2] = ["h0", "h1"];

/// Where ranges begin and end: at either end of a layer, side by side, and in its middle.
const BORDERS: [u32; 8] = [0, 1, 2, 5_000, 5_001, 9_998, 9_999, LAYER_SLOTS];

#[derive(Clone, Debug)]
struct Experiment {
    key: u8,
    layer: Option<(usize, usize, usize)>,
    by_org: bool,
    holdout: Option<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Policy(u8, Vec<Experiment>),
    DeletePolicy(u8),
    /// Two flags take each other's rules.
    Swap(u8, u8),
    /// One flag takes the rules of another, which has none from then on.
    Hand(u8, u8),
    Switch(u8, bool),
    /// All experiments of a flag bucket by the other attribute from now on.
    Attribute(u8),
    Config(u8),
    Segment(usize),
    DeleteSegment(usize),
}

fn experiment() -> impl Strategy<Value = Experiment> {
    let layer = (0..LAYERS.len(), 0..BORDERS.len() - 1, 1..3usize);
    let layer = prop::option::weighted(0.8, layer);
    let (by_org, holdout) = (
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, 0..HOLDOUTS.len()),
    );
    (0..8u8, layer, by_org, holdout).prop_map(|(key, layer, by_org, holdout)| Experiment {
        key,
        layer,
        by_org,
        holdout,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = || 0..FLAGS;
    prop_oneof![
        8 => (flags(), prop::collection::vec(experiment(), 0..3)).prop_map(|(f, x)| Step::Policy(f, x)),
        2 => flags().prop_map(Step::DeletePolicy),
        2 => (flags(), flags()).prop_map(|(f, g)| Step::Swap(f, g)),
        2 => (flags(), flags()).prop_map(|(f, g)| Step::Hand(f, g)),
        1 => (flags(), any::<bool>()).prop_map(|(f, on)| Step::Switch(f, on)),
        2 => flags().prop_map(Step::Attribute),
        1 => flags().prop_map(Step::Config),
        1 => (0..HOLDOUTS.len()).prop_map(Step::Segment),
        1 => (0..HOLDOUTS.len()).prop_map(Step::DeleteSegment),
    ]
}

/// The ground state as the slow reading sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ground {
    policies: BTreeMap<String, Value>,
    segments: BTreeSet<String>,
}

impl Ground {
    fn of(machine: &Machine) -> Ground {
        let environment = e();
        let policies = machine.objects(ObjectKind::Policy, Some(&environment), None);
        let read = |text: &str| serde_json::from_str(text).unwrap();
        let segments = machine.objects(ObjectKind::Segment, Some(&environment), None);
        Ground {
            policies: policies
                .map(|(id, object)| (id.key().to_owned(), read(&object.value)))
                .collect(),
            segments: segments.map(|(id, _)| id.key().to_owned()).collect(),
        }
    }

    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<String> {
        clash(self.policies.values()).or_else(|| {
            let rollouts = self.policies.values().flat_map(rollouts);
            let mut holdouts = rollouts.filter_map(|r| r["experiment"]["holdout"].as_str());
            let missing = holdouts.find(|held| !self.segments.contains(*held))?;
            Some(format!("there is no {missing}"))
        })
    }
}

fn rollouts(policy: &Value) -> impl Iterator<Item = &Value> {
    let rules = policy["rules"].as_array().into_iter().flatten();
    rules.map(|rule| &rule["serve"]["rollout"])
}

/// Two experiments in one slot, one in two forms, or a layer of two attributes.
fn clash<'a>(policies: impl Iterator<Item = &'a Value>) -> Option<String> {
    let mut slots: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut forms: BTreeMap<&str, (&Value, &str)> = BTreeMap::new();
    let mut attributes: BTreeMap<&str, &str> = BTreeMap::new();
    for rollout in policies.flat_map(rollouts) {
        let experiment = &rollout["experiment"];
        let (key, layer) = (experiment["key"].as_str().unwrap(), &experiment["layer"]);
        let bucket_by = rollout["bucket_by"].as_str().unwrap_or("subject_key");
        if *forms.entry(key).or_insert((layer, bucket_by)) != (layer, bucket_by) {
            return Some(format!("{key} has two forms"));
        }
        let Some(name) = layer["key"].as_str() else {
            continue;
        };
        if *attributes.entry(name).or_insert(bucket_by) != bucket_by {
            return Some(format!("{name} is bucketed by two attributes"));
        }
        let owners = slots
            .entry(name)
            .or_insert_with(|| vec![""; LAYER_SLOTS as usize]);
        let bound = |n: usize| layer["range"][n].as_u64().unwrap() as usize;
        for owner in &mut owners[bound(0)..bound(1)] {
            if !["", key].contains(owner) {
                return Some(format!("{owner} and {key} in one slot of {name}"));
            }
            *owner = key;
        }
    }
    None
}

fn name(flag: u8) -> String {
    format!("f{flag}")
}

fn document(experiments: &[Experiment]) -> Value {
    let rule = |experiment: &Experiment| {
        let mut named = json!({ "key": format!("x{}", experiment.key) });
        if let Some((layer, border, steps)) = experiment.layer {
            let end = BORDERS[(border + steps).min(BORDERS.len() - 1)];
            named["layer"] = json!({ "key": LAYERS[layer], "range": [BORDERS[border], end] });
        }
        if let Some(holdout) = experiment.holdout {
            named["holdout"] = json!(HOLDOUTS[holdout]);
        }
        let weights = [
            json!({ "variant": "on", "weight": 1 }),
            json!({ "variant": "off", "weight": 1 }),
        ];
        let mut rollout = json!({ "experiment": named, "weights": weights });
        if experiment.by_org {
            rollout["bucket_by"] = json!("org");
        }
        json!({ "when": [], "serve": { "rollout": rollout } })
    };
    let rules: Vec<Value> = experiments.iter().map(rule).collect();
    json!({ "enabled": true, "rules": rules, "default": { "variant": "off" } })
}

/// A change set on its way: what is asked, what it should lead to, and whether it asks for
/// something that is not there.
struct Asked<'a> {
    now: &'a Ground,
    next: Ground,
    writes: Vec<AskedWrite>,
    missing: bool,
}

impl Asked<'_> {
    fn policy(&mut self, flag: u8, document: Option<Value>) {
        let (name, object) = (name(flag), policy(&name(flag)));
        if self.writes.iter().any(|write| write.object == object) {
            return;
        }
        match document {
            Some(document) => {
                self.writes.push(put(object, &document.to_string()));
                self.next.policies.insert(name, document);
            }
            None => {
                self.writes.push(delete(object));
                self.missing |= self.next.policies.remove(&name).is_none();
            }
        }
    }

    fn step(&mut self, step: &Step, n: usize) {
        let has = |flag: &u8| self.now.policies.get(&name(*flag)).cloned();
        match step {
            Step::Policy(flag, experiments) => self.policy(*flag, Some(document(experiments))),
            Step::DeletePolicy(flag) => self.policy(*flag, None),
            Step::Swap(one, other) => {
                let (theirs, ours) = (has(other), has(one));
                self.policy(*one, theirs);
                self.policy(*other, ours);
            }
            Step::Hand(from, to) => {
                let given = has(from);
                self.policy(*from, Some(document(&[])));
                self.policy(*to, given);
            }
            Step::Switch(flag, on) => self.switch(*flag, *on),
            Step::Attribute(flag) => {
                let document = has(flag).map(|mut document| {
                    let rules = document["rules"].as_array_mut().into_iter().flatten();
                    for rollout in rules.map(|rule| &mut rule["serve"]["rollout"]) {
                        let other = match rollout["bucket_by"].as_str() {
                            Some("org") => "subject_key",
                            _ => "org",
                        };
                        rollout["bucket_by"] = json!(other);
                    }
                    document
                });
                self.policy(*flag, document);
            }
            Step::Config(flag_n) => {
                let text = FLAG.replace("{\"type", &format!("{{\"description\":\"{n}\",\"type"));
                let write = put(flag(&name(*flag_n)), &text);
                if self.writes.iter().all(|has| has.object != write.object) {
                    self.writes.push(write);
                }
            }
            Step::Segment(n) => self.segment(HOLDOUTS[*n], true),
            Step::DeleteSegment(n) => self.segment(HOLDOUTS[*n], false),
        }
    }

    fn switch(&mut self, flag: u8, on: bool) {
        let write = switch(&name(flag), on);
        if self.writes.iter().any(|has| has.object == write.object) {
            return;
        }
        self.writes.push(write);
        let off = || json!({ "default": { "variant": "off" } });
        let document = self.next.policies.entry(name(flag)).or_insert_with(off);
        document["enabled"] = json!(on);
    }

    fn segment(&mut self, key: &str, there: bool) {
        let object = segment(key);
        if self.writes.iter().any(|write| write.object == object) {
            return;
        }
        if there {
            self.next.segments.insert(key.into());
            self.writes.push(put(object, "{}"));
        } else {
            self.missing |= !self.next.segments.remove(key);
            self.writes.push(delete(object));
        }
    }
}

/// Every complaint about another flag, or another rule, is true of these two alone.
fn check_complaints(refusal: &Refusal, request: &ChangeRequest, next: &Ground) {
    let Refusal::Invalid { write, faults } = refusal else {
        panic!("{refusal:?}")
    };
    let object = &request.writes[*write as usize].object;
    assert_eq!(object.kind(), ObjectKind::Policy);
    let ours = &next.policies[object.key()];
    for fault in faults {
        let rule = fault.pointer.split('/').nth(2).unwrap();
        let experiment = ours.pointer(&format!("/rules/{rule}/serve/rollout/experiment"));
        assert!(experiment.is_some(), "{fault}");
        let named = fault.message.rsplit_once("flag \"");
        let other = named.and_then(|(_, rest)| rest.split('"').next());
        let both = [Some(ours), other.map(|other| &next.policies[other])];
        let found = clash(both.into_iter().flatten());
        assert!(found.is_some(), "{fault} is not true of {object}");
        assert_ne!(other, Some(object.key()), "{fault}");
    }
}

fn check_machines(one: &Machine, other: &Machine) {
    assert_eq!(one.digest(), other.digest()); // I4
    assert_eq!(one.version(), other.version());
    let keys: Vec<String> = (0..8).map(|n| format!("x{n}")).collect();
    let experiments = keys.iter().map(|key| (StateKind::Experiment, key.as_str()));
    let layers = LAYERS.map(|key| (StateKind::Layer, key));
    let (environment, ground) = (e(), Ground::of(one).policies);
    for (kind, key) in experiments.chain(layers) {
        let key = StateKey::new(kind, key).unwrap();
        let users = |machine: &Machine| {
            let users = machine.users_of(&environment, &key);
            users.map(|user| user.key().to_owned()).collect::<Vec<_>>()
        };
        let of_kind = |rollout: &Value| match kind {
            StateKind::Layer => rollout["experiment"]["layer"]["key"] == key.key(),
            _ => rollout["experiment"]["key"] == key.key(),
        };
        let named = ground
            .iter()
            .filter(|(_, policy)| rollouts(policy).any(of_kind))
            .map(|(flag, _)| flag.clone());
        assert_eq!(users(one), named.collect::<Vec<_>>(), "{key}");
        assert_eq!(users(one), users(other), "{key}");
    }
}

/// Plans change sets as one batch and holds every decision against the slow reading.
fn batch(cluster: &mut Cluster, steps: &[Vec<Step>], n: &mut usize) -> (usize, usize) {
    let mut now = Ground::of(&cluster.machine);
    let mut draft = Draft::on(&cluster.machine);
    let (mut items, mut predicted, mut clashes) = (Vec::new(), Vec::new(), 0);
    for steps in steps {
        *n += 1;
        let mut asked = Asked {
            now: &now,
            next: now.clone(),
            writes: Vec::new(),
            missing: false,
        };
        steps.iter().for_each(|step| asked.step(step, *n));
        let (next, missing) = (asked.next, asked.missing);
        let request = request(asked.writes);
        let outcome = match draft.plan(&request) {
            Planned::Later => {
                assert!(!items.is_empty(), "nothing to wait for");
                continue;
            }
            Planned::Answered(outcome) => outcome,
            Planned::Batched(item, outcome) => {
                items.push(item);
                predicted.push(outcome.clone());
                outcome
            }
        };
        let wrong = next.fault();
        match &outcome {
            Outcome::Written { .. } => {
                assert!(!missing, "{request:?}");
                assert_eq!(wrong, None, "{request:?} was accepted on {now:?}");
                now = next;
            }
            Outcome::Refused { refusal, .. } => {
                assert!(
                    missing || wrong.is_some(),
                    "{refusal:?} of {request:?} on {now:?}"
                );
                if !missing && clash(next.policies.values()).is_some() {
                    let whole = next.policies.values().flat_map(rollouts);
                    let mut holdouts = whole.filter_map(|r| r["experiment"]["holdout"].as_str());
                    if holdouts.all(|held| next.segments.contains(held)) {
                        check_complaints(refusal, &request, &next);
                        clashes += 1;
                    }
                }
            }
        }
    }
    let written = items.len();
    if written > 0 {
        let base = draft.base();
        let answer = cluster.apply(Command::Batch(Batch {
            base,
            time_ms: 1,
            items,
        }));
        assert_eq!(answer, Answer::Outcomes(predicted));
    }
    assert_eq!(Ground::of(&cluster.machine), now);
    assert_eq!(now.fault(), None);
    (written, clashes)
}

fn start() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.written(vec![put(env("e"), "{}"), put(segment("h0"), "{}")]);
    for n in 0..FLAGS {
        cluster.written(vec![put(flag(&name(n)), FLAG)]);
    }
    cluster
}

#[test]
fn what_is_accepted_is_what_a_slow_reading_finds_nothing_wrong_with() {
    let change_set = prop::collection::vec(step(), 1..4);
    let batches = prop::collection::vec(prop::collection::vec(change_set, 1..4), 1..40);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(64)
    });
    let (written, clashes) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let outcome = runner.run(&(batches, any::<u8>()), |(batches, dice)| {
        let mut cluster = start();
        let mut other = Machine::new(ClusterId::new(7));
        let (mut applied, mut n) = (0, 0);
        for steps in &batches {
            let (accepted, refused) = batch(&mut cluster, steps, &mut n);
            written.set(written.get() + accepted);
            clashes.set(clashes.get() + refused);
            for bytes in &cluster.log[applied..] {
                applied += 1;
                let id = LogId {
                    term: 1,
                    index: applied as u64,
                };
                other.apply(id, Entry::Command(bytes));
                if (usize::from(dice) + applied).is_multiple_of(5) {
                    other = reload(&other);
                }
            }
            check_machines(&cluster.machine, &other);
        }
        Ok(())
    });
    if let Err(why) = outcome {
        panic!("{why}");
    }
    let (written, clashes) = (written.get(), clashes.get());
    assert!(written > 300 && clashes > 60, "{written} and {clashes}");
}
