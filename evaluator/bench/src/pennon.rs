//! Pennon: compiling the store as the leader does, and a client that decides from what it receives.
//!
//! What must hold: the client is used through its public API alone and got its state over its own
//! connection. It is measured twice: `read` borrows the state for a closure, `evaluate` gives an answer
//! that can be kept. Both read what is asked for, and version and freshness as well: an answer counts
//! only if it is FRESH and of the expected version or a later one.

use std::time::Duration;

use pennon_client::{Client, Evaluation, Freshness, Subject};
use pennon_evaluator::{
    ConfigSnapshot, EncodedState, EnvironmentKey, EvaluationState, FlagConfig, FlagKey, Limits,
    References, SegmentKey, SegmentPolicy, TargetingPolicy, Version, compile_flag, compile_segment,
};
use serde_json::{Value, json};

use crate::Result;
use crate::lane::{Contestant, first_letter};
use crate::node::Node;
use crate::store::{
    self, Clause, FlagSpec, Kind, NONE, RULES, SPLIT, SUBJECTS, SegmentSpec, Store, SubjectSpec,
    WRONG,
};

/// The version at which everything in a store was written.
pub const WRITTEN_AT: u64 = 1_000;
/// The longest wait for the first snapshot.
const READY_MAX: Duration = Duration::from_secs(30);

/// Returns the environment that is measured.
///
/// # Errors
/// Never, unless the rules for keys change.
pub fn environment() -> Result<EnvironmentKey> {
    Ok(EnvironmentKey::try_from("production")?)
}

/// Returns a version by its number.
///
/// # Errors
/// When the number is too great for one.
pub fn version_of(number: u64) -> Result<Version> {
    Version::new(number).ok_or_else(|| format!("{number} is no version").into())
}

/// Compiles a store to what a client receives, at version [`WRITTEN_AT`].
///
/// # Errors
/// When the evaluator refuses any of it.
pub fn compile(store: &Store) -> Result<ConfigSnapshot> {
    let (environment, at) = (environment()?, version_of(WRITTEN_AT)?);
    let mut states = Vec::with_capacity(store.flags.len() + store.segments.len());
    for segment in &store.segments {
        states.push(EncodedState::new(
            &environment,
            &compile_one_segment(segment, at)?,
        ));
    }
    for flag in &store.flags {
        states.push(flag_state(store, flag, at, false)?);
    }
    Ok(ConfigSnapshot::new(environment, at, states)?)
}

/// Compiles one flag as of a version. With `touched` it has one more rule, which holds for nobody:
/// another state that decides the same.
///
/// # Errors
/// When the evaluator refuses it.
pub fn flag_state(
    store: &Store,
    flag: &FlagSpec,
    at: Version,
    touched: bool,
) -> Result<EncodedState> {
    let key: FlagKey = flag.key.parse()?;
    let (config, mut policy) = (config_of(flag.kind), policy_of(store, flag.kind));
    if touched {
        let nobody = json!({"id": "nobody", "when": [{"attribute": "country", "op": "in", "values": ["ZZ"]}],
            "serve": {"variant": "off"}});
        policy["rules"] = json!([nobody]);
    }
    let refused = |faults| format!("{key}: {faults:?}");
    let config = FlagConfig::parse(&key, &config.to_string()).map_err(refused)?;
    let policy = TargetingPolicy::parse(&policy.to_string()).map_err(refused)?;
    let state = compile_flag(
        &config,
        at,
        &policy,
        at,
        at,
        &Everything,
        &Limits::default(),
    )
    .map_err(refused)?;
    Ok(EncodedState::new(&environment()?, &state))
}

fn compile_one_segment(segment: &SegmentSpec, at: Version) -> Result<EvaluationState> {
    let key: SegmentKey = segment.key.parse()?;
    let refused = |faults| format!("{key}: {faults:?}");
    let policy = json!({"included": segment.members}).to_string();
    let policy = SegmentPolicy::parse(&policy).map_err(refused)?;
    Ok(compile_segment(&key, &policy, at, at, &Everything, &Limits::default()).map_err(refused)?)
}

/// Whatever the store names is there.
struct Everything;

impl References for Everything {
    fn segment_exists(&self, _: &SegmentKey) -> bool {
        true
    }

    fn flag_variants(&self, _: &FlagKey) -> Option<Vec<String>> {
        Some(vec!["on".to_owned(), "off".to_owned()])
    }
}

fn config_of(kind: Kind) -> Value {
    if kind != Kind::Rules {
        return json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
    }
    let names = SPLIT.iter().map(|(name, _)| *name).chain([WRONG, NONE]);
    let variants: serde_json::Map<String, Value> =
        names.map(|name| (name.to_owned(), json!(name))).collect();
    json!({"type": "string", "variants": variants, "off_variant": NONE})
}

fn policy_of(store: &Store, kind: Kind) -> Value {
    let plain =
        |enabled: bool, default: &str| json!({"enabled": enabled, "default": {"variant": default}});
    match kind {
        Kind::On => plain(true, "on"),
        Kind::Off => plain(false, "on"),
        Kind::Rollout => {
            let half = |variant: &str| json!({"variant": variant, "weight": 50_000});
            json!({"enabled": true, "default": {"rollout": {"weights": [half("on"), half("off")]}}})
        }
        Kind::Rules => {
            let mut policy = plain(true, NONE);
            policy["rules"] = rules();
            policy
        }
        Kind::Segment(n) => {
            let mut policy = plain(true, "off");
            let when = json!([{"op": "in_segment", "values": [store.segments[n].key]}]);
            policy["rules"] = json!([{"id": "members", "when": when, "serve": {"variant": "on"}}]);
            policy
        }
        Kind::Prerequisites(two) => {
            let mut policy = plain(true, "on");
            let needed = |n: &usize| json!({"flag": store.flags[*n].key, "variants": ["on"]});
            policy["prerequisites"] = two.iter().map(needed).collect();
            policy
        }
    }
}

fn rules() -> Value {
    let weights = SPLIT.map(|(variant, weight)| json!({"variant": variant, "weight": weight}));
    let rules = RULES.iter().enumerate().map(|(n, clauses)| {
        let when: Value = clauses.iter().map(clause).collect();
        let serve = match n + 1 == RULES.len() {
            true => json!({"rollout": {"weights": weights}}),
            false => json!({"variant": WRONG}),
        };
        json!({"id": format!("rule-{}", n + 1), "when": when, "serve": serve})
    });
    rules.collect()
}

fn clause(clause: &Clause) -> Value {
    match clause {
        Clause::Is(attribute, value) => {
            json!({"attribute": attribute, "op": "in", "values": [value]})
        }
        Clause::In(attribute, values) => {
            json!({"attribute": attribute, "op": "in", "values": values})
        }
        Clause::Above(attribute, value) => {
            json!({"attribute": attribute, "op": "gt", "values": [value]})
        }
    }
}

/// Connects a client to a node and waits until it is ready.
///
/// # Errors
/// When no snapshot comes.
pub async fn connect(node: Node) -> Result<Client> {
    let builder = Client::builder(["http://node-1:7400"]).environment("production");
    Ok(builder
        .connector(node)
        .connect_deadline(READY_MAX)
        .connect()
        .await?)
}

/// Checks that a client's answers count: its state is FRESH, and it was never given up.
///
/// # Errors
/// When it is STALE or something went wrong.
pub fn healthy(client: &Client) -> Result<()> {
    let status = client.status();
    match status.is_fresh() && status.is_connected() && status.last_error.is_none() {
        true => Ok(()),
        false => Err(format!("Pennon's client is not what it should be: {status:?}").into()),
    }
}

/// Checks what the lanes do not look at: that value and variant of an answer belong together, and
/// that flags with rules are decided by their fifth rule.
///
/// # Errors
/// With the first answer that is otherwise.
pub fn consistent(client: &Client, store: &Store) -> Result<()> {
    for (n, flag) in store.flags.iter().enumerate() {
        let subject = subject_of(&store::subject(n % SUBJECTS));
        let evaluation = client.evaluate(&flag.key, &subject);
        let (value, variant) = (evaluation.value(), evaluation.variant());
        let (agree, by_rule) = match flag.kind {
            Kind::Rules => (
                value.and_then(|value| value.as_str()) == variant,
                evaluation.rule_id() == Some("rule-5") && evaluation.bucket().is_some(),
            ),
            _ => (
                value.and_then(|value| value.as_bool()) == variant.map(|name| name == "on"),
                true,
            ),
        };
        if !agree || !by_rule || evaluation.snapshot_version() != client.version() {
            return Err(format!("{} is answered with {evaluation:?}", flag.key).into());
        }
    }
    Ok(())
}

fn subject_of(spec: &SubjectSpec) -> Subject {
    Subject::new(&*spec.key)
        .with("country", spec.country)
        .with("plan", spec.plan)
        .with("platform", spec.platform)
        .with("build", spec.build)
        .with("seats", spec.seats)
        .with("beta", spec.beta)
}

/// Answers on an earlier state do not count, nor do STALE ones.
#[derive(Clone)]
pub struct Wanted {
    /// The client asked.
    pub client: Client,
    /// The least version.
    pub version: Version,
}

impl Wanted {
    fn counts(&self, evaluation: &Evaluation<'_>) -> bool {
        evaluation.freshness() == Freshness::Fresh
            && evaluation.snapshot_version() >= Some(self.version)
    }

    fn on(&self, evaluation: &Evaluation<'_>) -> bool {
        let on = evaluation.value().and_then(|value| value.as_bool()) == Some(true);
        on & self.counts(evaluation)
    }

    fn letter(&self, evaluation: &Evaluation<'_>) -> u8 {
        match self.counts(evaluation) {
            true => first_letter(evaluation.variant().unwrap_or_default()),
            false => 0,
        }
    }
}

/// Within `Client::read`: the answer borrows the state.
pub struct Read(pub Wanted);

impl Contestant for Read {
    type Subject = Subject;

    fn name(&self) -> &'static str {
        "pennon read"
    }

    fn can(&self, _: Kind) -> bool {
        true
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Subject> {
        Ok(subject_of(spec))
    }

    fn is_on(&self, flag: &str, subject: &Subject) -> bool {
        let Read(wanted) = self;
        let client = &wanted.client;
        client.read(|page| wanted.on(&page.evaluate(flag, subject)))
    }

    fn variant(&self, flag: &str, subject: &Subject) -> u8 {
        let Read(wanted) = self;
        let client = &wanted.client;
        client.read(|page| wanted.letter(&page.evaluate(flag, subject)))
    }
}

/// By `Client::evaluate`: the answer keeps the state alive and can go anywhere.
pub struct Evaluate(pub Wanted);

impl Contestant for Evaluate {
    type Subject = Subject;

    fn name(&self) -> &'static str {
        "pennon evaluate"
    }

    fn can(&self, _: Kind) -> bool {
        true
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Subject> {
        Ok(subject_of(spec))
    }

    fn is_on(&self, flag: &str, subject: &Subject) -> bool {
        let Evaluate(wanted) = self;
        wanted.on(&wanted.client.evaluate(flag, subject))
    }

    fn variant(&self, flag: &str, subject: &Subject) -> u8 {
        let Evaluate(wanted) = self;
        wanted.letter(&wanted.client.evaluate(flag, subject))
    }
}
