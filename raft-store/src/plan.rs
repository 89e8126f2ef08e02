//! The leader's decision about a change set (D2): check it, compile what follows from it, and say
//! in advance what every node will answer.
//!
//! A [`Draft`] is a clone of the machine that the Writer adds change sets to, one after the other;
//! what it makes becomes one entry. Values are parsed, validated and compiled here and nowhere
//! else, so `apply` never depends on what a release can parse. Whatever is refused leaves the
//! draft as it was.
//!
//! Limits are those of the machine after the change set, so one that raises them may use them.
//! They judge what people write in it. What follows from that and was written before (the policy
//! of a flag whose FlagConfig changes, whoever uses it, a policy that is only switched on or off)
//! is judged by [`Limits::GREATEST`], or lowering a limit would take the kill switch away.
//!
//! Left out: when a batch is closed, proposed and answered (the node's Writer).

mod derive;
mod experiments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pennon_evaluator::{
    Application, ApplicationKey, DEPTH_MAX, Digest, EncodedState, Environment, EnvironmentKey,
    EvaluationState, Fault, Limits, SegmentPolicy, Setting, StateKey, TargetingPolicy, Version,
    check_graph, parse_json,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::{
    CompiledChange, Expected, Item, ObjectId, ObjectKind, Origin, Outcome, Refusal, Verdict, Write,
    WriteResult,
};
use crate::machine::{Machine, Object};
use crate::window::Known;

pub use self::derive::compile_one;
use self::derive::{
    StateFault, affected, compile_state, depth_below, name_of, object_of, parse_flag,
    user_too_far_above, users_left, whole,
};

/// Bytes of one batch at most: values as written and compiled states. Half of the longest entry
/// that the log takes, so that what is wrapped around them always fits.
pub const BATCH_BYTES_MAX: usize = crate::log::PAYLOAD_LEN_MAX / 2;

/// Writes in one change set at most.
pub const WRITES_MAX: usize = 10_000;

/// What people ask of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Make it this JSON text.
    Put(Arc<str>),
    /// Remove it.
    Delete,
    /// Of a policy: switch it on or off, making one that serves the off variant if there is none.
    Enable(bool),
}

/// One write as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedWrite {
    /// The object.
    pub object: ObjectId,
    /// What to do with it.
    pub ask: Ask,
    /// The precondition.
    pub expected: Expected,
}

/// One change set as it was asked for: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRequest {
    /// The writes, at most one per object.
    pub writes: Vec<AskedWrite>,
    /// A restore: only onto the ground state that has this digest. It may write any number of
    /// objects, and change salts, as the subjects were where it takes them back to.
    pub onto: Option<Digest>,
    /// Who, which request, why.
    pub origin: Origin,
}

/// What to do about a change set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// It goes into this batch, and this will be the answer.
    Batched(Item, Outcome),
    /// It changes nothing; this is the answer once the version it was decided at is known to be
    /// committed.
    Answered(Outcome),
    /// It writes an object that this batch already writes: next batch.
    Later,
}

/// A machine with the batch so far applied.
pub struct Draft {
    machine: Machine,
    base: Version,
    version: Version,
    touched: BTreeSet<ObjectId>,
    bytes: usize,
    /// How much is in the batch.
    items: usize,
}

impl Draft {
    /// Starts a batch on a machine.
    pub fn on(machine: &Machine) -> Self {
        Self {
            machine: machine.clone(),
            base: machine.version(),
            version: machine.next_version(),
            touched: BTreeSet::new(),
            bytes: 0,
            items: 0,
        }
    }

    /// The version the batch is decided at.
    pub fn base(&self) -> Version {
        self.base
    }

    /// Decides one change set.
    pub fn plan(&mut self, request: &ChangeRequest) -> Planned {
        if request
            .writes
            .iter()
            .any(|write| self.touched.contains(&write.object))
        {
            return Planned::Later;
        }
        if let Some(id) = &request.origin.request {
            match self.machine.window().look_up(id) {
                Known::New => {}
                Known::Repeat(seen) => return Planned::Answered(seen.outcome.clone()), // I9
                Known::Mismatch => {
                    return self.refused(Refusal::IdempotencyMismatch {
                        key: id.key.clone(),
                    });
                }
            }
        }
        if request
            .onto
            .is_some_and(|onto| onto != self.machine.digest())
        {
            return self.refused(Refusal::Moved);
        }
        if let Err(refusal) = self.check_level(self.machine.features().of_request(request)) {
            return self.refused(refusal);
        }
        let remember = request.origin.request.is_some();
        let verdict = match self.decide(request) {
            Ok(decided) if decided.writes.is_empty() && !remember => {
                let results = decided.unchanged;
                let version = self.decided_at();
                return Planned::Answered(Outcome::Written { version, results });
            }
            Ok(decided) if self.bytes > 0 && self.bytes + decided.bytes() > BATCH_BYTES_MAX => {
                return Planned::Later;
            }
            Ok(decided) => Verdict::Commit {
                writes: decided.writes,
                compiled: decided.compiled,
                unchanged: decided.unchanged,
            },
            Err(refused) if !remember || matches!(refused.refusal, Refusal::NotEnabled { .. }) => {
                self.touch_refused(request, &refused);
                return self.refused(refused.refusal);
            }
            Err(refused) => {
                self.items += 1;
                self.touch_refused(request, &refused);
                Verdict::Refuse(refused.refusal)
            }
        };
        let item = Item {
            origin: request.origin.clone(),
            verdict,
        };
        let outcome = self
            .machine
            .apply_item(self.version, item.clone(), &mut Vec::new());
        if matches!(item.verdict, Verdict::Commit { .. }) {
            self.items += 1;
            self.bytes += item_bytes(&item);
            self.touched
                .extend(request.writes.iter().map(|write| write.object.clone()));
        }
        Planned::Batched(item, outcome)
    }

    /// Nothing is proposed that a member cannot read (I4).
    fn check_level(&self, needs: u32) -> Result<(), Refusal> {
        let level = self.machine.level();
        match needs <= level {
            true => Ok(()),
            false => Err(Refusal::NotEnabled { needs, level }),
        }
    }

    fn refused(&self, refusal: Refusal) -> Planned {
        let version = self.decided_at();
        Planned::Answered(Outcome::Refused { version, refusal })
    }

    /// The version of the state that decisions are made against now: the base, or that of the
    /// batch as soon as there is something in it (I2).
    fn decided_at(&self) -> Version {
        if self.items == 0 {
            self.base
        } else {
            self.version
        }
    }

    /// A refusal that is stamped with the version of the batch must still be true when the batch
    /// is complete: what it speaks of is not written by this batch any more.
    fn touch_refused(&mut self, request: &ChangeRequest, refused: &Refused) {
        if self.items == 0 {
            return;
        }
        let asked = request.writes.iter().map(|write| &write.object);
        self.touched.extend(asked.chain(&refused.about).cloned());
        match &refused.refusal {
            Refusal::Conflict { object, .. }
            | Refusal::NotFound { object }
            | Refusal::InUse { object, .. } => {
                self.touched.insert(object.clone());
            }
            // Other limits might allow it.
            Refusal::Invalid { .. } | Refusal::Quota { .. } => {
                let limits = Setting::Limits.as_str();
                self.touched.insert(ObjectId::setting(limits));
            }
            Refusal::IdempotencyMismatch { .. } | Refusal::Moved | Refusal::NotEnabled { .. } => {}
        }
    }

    fn decide(&self, request: &ChangeRequest) -> Result<Decided, Refused> {
        let mut decided = Decided::default();
        check_shape(request)?;
        for (at, asked) in request.writes.iter().enumerate() {
            self.resolve(at as u32, asked, &mut decided)?;
        }
        let mut next = self.machine.clone();
        for write in &decided.writes {
            next.put_object(self.version, &request.origin, write);
        }
        let limits = *next.limits();
        for write in &decided.writes {
            self.check_alone(&next, &decided, write, &limits)?;
            if request.onto.is_none() {
                self.check_salt(&decided, write)?;
            }
        }
        self.check_quotas(&next, &limits)?;
        decided.compiled = self.compile(&next, &decided, &limits)?;
        let features = self.machine.features();
        self.check_level(features.of_writes(&decided.writes, &decided.compiled))?;
        next.put_compiled(self.version, &decided.compiled);
        self.check_references(&next, &decided, request.onto.is_some())?;
        experiments::check(&self.machine, &next, &decided)?;
        if decided.bytes() > BATCH_BYTES_MAX {
            let what = "bytes of values and compiled states in one change set";
            let (what, max) = (what.into(), BATCH_BYTES_MAX as u64);
            return Err(Refusal::Quota { what, max }.into());
        }
        Ok(decided)
    }

    /// Turns what was asked into a concrete write, or into the answer that nothing needs doing.
    fn resolve(&self, at: u32, asked: &AskedWrite, decided: &mut Decided) -> Result<(), Refusal> {
        let object = &asked.object;
        let found = self.machine.object(object);
        let version = found.map(|object| object.version);
        let conflict = |expected| Refusal::Conflict {
            object: object.clone(),
            expected,
            found: version,
        };
        if !asked.expected.holds(version) {
            return Err(conflict(asked.expected)); // I2
        }
        let value = match &asked.ask {
            Ask::Put(text) => {
                Some(compact(text).map_err(|faults| Refusal::Invalid { write: at, faults })?)
            }
            Ask::Delete if found.is_none() => {
                return Err(Refusal::NotFound {
                    object: object.clone(),
                });
            }
            Ask::Delete => None,
            Ask::Enable(on) => match self.switched(object, found, *on)? {
                Some(text) => {
                    decided.switched.insert(object.clone());
                    Some(text)
                }
                None => {
                    let version = version.unwrap_or(self.base);
                    let unchanged = WriteResult {
                        object: object.clone(),
                        version,
                        previous: Some(version),
                    };
                    decided.unchanged.push(unchanged);
                    return Ok(());
                }
            },
        };
        decided.index.insert(object.clone(), at);
        decided.writes.push(Write {
            object: object.clone(),
            value,
            expected: asked.expected,
        });
        Ok(())
    }

    /// The policy switched on or off; `None` when it already is.
    fn switched(
        &self,
        object: &ObjectId,
        found: Option<&Arc<Object>>,
        on: bool,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let mut policy = match found {
            Some(found) => serde_json::from_str::<Value>(&found.value).unwrap_or_default(),
            None => {
                let flag = ObjectId::flag(object.key_arc());
                let Some(config) = self.machine.object(&flag) else {
                    return Err(Refusal::NotFound { object: flag });
                };
                let config: Value = serde_json::from_str(&config.value).unwrap_or_default();
                json!({ "enabled": !on, "default": { "variant": config["off_variant"] } })
            }
        };
        let now = policy.get("enabled").and_then(Value::as_bool);
        if found.is_some() && now == Some(on) {
            return Ok(None);
        }
        if let Some(fields) = policy.as_object_mut() {
            fields.insert("enabled".into(), Value::Bool(on));
        }
        Ok(Some(policy.to_string().into()))
    }

    /// Compiles every state that the writes can change, against the ground state after them.
    fn compile(
        &self,
        next: &Machine,
        decided: &Decided,
        limits: &Limits,
    ) -> Result<Vec<CompiledChange>, Refusal> {
        let mut changes = Vec::new();
        for (environment, key, cause) in affected(next, &decided.writes) {
            let before = self
                .machine
                .compiled(&environment)
                .and_then(|here| here.state(&key));
            let limits = decided.limits_of(&environment, &key, limits);
            let state = compile_state(next, &environment, &key, self.version, &limits)
                .map_err(|fault| self.located(decided, &cause, fault))?;
            if state.is_none() && before.is_none() {
                continue;
            }
            let uses = state.as_ref().map_or_else(Vec::new, EvaluationState::uses);
            let state = state.map(|state| EncodedState::new(&environment, &state).bytes().clone());
            changes.push(CompiledChange {
                environment,
                key,
                state,
                uses,
            });
        }
        Ok(changes)
    }

    /// Checks a value that needs nothing else to be judged.
    fn check_alone(
        &self,
        next: &Machine,
        decided: &Decided,
        write: &Write,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let object = &write.object;
        if let (Some(environment), Some(_)) = (object.environment(), &write.value) {
            let environment = ObjectId::environment_object(environment.shared());
            if next.object(&environment).is_none() {
                return Err(Refusal::NotFound {
                    object: environment,
                });
            }
        }
        let Some(value) = &write.value else {
            return Ok(());
        };
        let invalid = |faults| Refusal::Invalid {
            write: decided.at(object),
            faults,
        };
        match object.kind() {
            ObjectKind::Environment => {
                let key =
                    EnvironmentKey::try_from(object.key()).map_err(|why| invalid(whole(&why)))?;
                Environment::parse(&key, value).map(drop).map_err(invalid)
            }
            ObjectKind::Flag => {
                let config = parse_flag(object.key(), value).map_err(invalid)?;
                config.check_within(limits).map_err(invalid)
            }
            ObjectKind::Segment => SegmentPolicy::parse(value).map(drop).map_err(invalid),
            ObjectKind::Policy => {
                let flag = ObjectId::flag(object.key_arc());
                match next.object(&flag) {
                    None => Err(Refusal::NotFound { object: flag }),
                    Some(_) => TargetingPolicy::parse(value).map(drop).map_err(invalid),
                }
            }
            ObjectKind::Setting => {
                let setting: Setting =
                    (object.key().parse()).map_err(|why| invalid(whole(&why)))?;
                setting.check(value).map_err(invalid)
            }
            ObjectKind::Application => {
                let key =
                    ApplicationKey::try_from(object.key()).map_err(|why| invalid(whole(&why)))?;
                Application::parse(&key, value).map(drop).map_err(invalid)
            }
        }
    }

    /// The salt of a flag stays what it was: it decides who gets what. (I7)
    fn check_salt(&self, decided: &Decided, write: &Write) -> Result<(), Refusal> {
        let object = &write.object;
        let (ObjectKind::Flag, Some(value)) = (object.kind(), &write.value) else {
            return Ok(());
        };
        let was = self.machine.object(object);
        let salt = |text: &str| salt_of(object.key(), text);
        match (was.and_then(|was| salt(&was.value)), salt(value)) {
            (Some(was), Some(now)) if was != now => Err(Refusal::Invalid {
                write: decided.at(object),
                faults: vec![salt_fault(&was)],
            }),
            _ => Ok(()),
        }
    }

    /// A compile fault belongs to the write that caused it; when that write is the flag's config
    /// and the fault is in a policy that was not touched, the policy is a user of what went away.
    fn located(&self, decided: &Decided, cause: &ObjectId, fault: StateFault) -> Refusal {
        match fault {
            StateFault::In(object, faults) if decided.index.contains_key(&object) => {
                Refusal::Invalid {
                    write: decided.at(&object),
                    faults,
                }
            }
            StateFault::In(object, faults) => {
                let users = faults
                    .iter()
                    .map(|fault| format!("{object}: {fault}"))
                    .collect();
                Refusal::InUse {
                    object: cause.clone(),
                    users,
                }
            }
        }
    }

    /// Nobody adds what would be too many; what is there already may change.
    fn check_quotas(&self, next: &Machine, limits: &Limits) -> Result<(), Refusal> {
        for (kind, what, max) in [
            (ObjectKind::Flag, "flags", limits.flags_max),
            (
                ObjectKind::Environment,
                "environments",
                limits.environments_max,
            ),
        ] {
            let count = next.count(kind);
            if count > max && count > self.machine.count(kind) {
                let (what, max) = (what.into(), max as u64);
                return Err(Refusal::Quota { what, max });
            }
        }
        Ok(())
    }

    /// Nothing may be left dangling and nothing may be cyclic, also between two change sets of one
    /// batch: the draft holds them all.
    fn check_references(
        &self,
        next: &Machine,
        decided: &Decided,
        restores: bool,
    ) -> Result<(), Refusal> {
        for write in &decided.writes {
            // A flag can be a prerequisite before it has a policy: a restore goes back to that.
            if restores && write.object.kind() == ObjectKind::Policy {
                continue;
            }
            let users = users_left(next, write);
            if !users.is_empty() {
                return Err(Refusal::InUse {
                    object: write.object.clone(),
                    users,
                });
            }
        }
        for change in &decided.compiled {
            let Some(here) = next.compiled(&change.environment) else {
                continue;
            };
            // A layer or an experiment is named, but is no step of a chain.
            let uses = |key: &StateKey| {
                let uses = here.state(key).map(|state| state.uses.iter());
                let uses = uses.into_iter().flatten();
                let steps = uses.filter(|used| used.kind().has_state());
                steps.cloned().collect::<Vec<_>>()
            };
            if uses(&change.key).is_empty() {
                continue;
            }
            let invalid = |message: String| {
                let object = object_of(&change.environment, &change.key);
                let write = object.map_or(0, |object| decided.at(&object));
                let faults = vec![Fault::new("", message)];
                Refusal::Invalid { write, faults }
            };
            check_graph(&change.key, &uses, DEPTH_MAX)
                .map_err(|fault| invalid(fault.to_string()))?;
            let below = depth_below(&change.key, &uses);
            if let Some(user) = user_too_far_above(next, change, DEPTH_MAX - below) {
                let user = name_of(&change.environment, &user);
                return Err(invalid(format!(
                    "with this, what {user} uses would be deeper than {DEPTH_MAX}"
                )));
            }
        }
        Ok(())
    }
}

/// A refusal on its way to an answer, and the objects that it speaks of besides those asked for.
struct Refused {
    refusal: Refusal,
    about: Vec<ObjectId>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let about = Vec::new();
        Self { refusal, about }
    }
}

/// A change set on its way to an item.
#[derive(Default)]
struct Decided {
    writes: Vec<Write>,
    compiled: Vec<CompiledChange>,
    unchanged: Vec<WriteResult>,
    index: BTreeMap<ObjectId, u32>,
    /// Policies that nobody wrote: they are only switched on or off.
    switched: BTreeSet<ObjectId>,
}

impl Decided {
    /// The limits for compiling a state: they bound its policy when that is written here. A
    /// FlagConfig that is written was held against them before (`check_alone`).
    fn limits_of(&self, environment: &EnvironmentKey, key: &StateKey, limits: &Limits) -> Limits {
        let written = object_of(environment, key).is_some_and(|policy| {
            self.index.contains_key(&policy) && !self.switched.contains(&policy)
        });
        match written {
            true => Limits {
                variants_max: Limits::GREATEST.variants_max,
                variant_value_len_max: Limits::GREATEST.variant_value_len_max,
                ..*limits
            },
            false => Limits::GREATEST,
        }
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.writes, &self.compiled)
    }

    fn at(&self, object: &ObjectId) -> u32 {
        self.index.get(object).copied().unwrap_or(0)
    }
}

fn bytes_of(writes: &[Write], compiled: &[CompiledChange]) -> usize {
    let values = writes
        .iter()
        .map(|write| write.value.as_ref().map_or(0, |value| value.len()));
    let states = compiled
        .iter()
        .map(|change| change.state.as_ref().map_or(0, |state| state.len()));
    values.chain(states).sum()
}

fn item_bytes(item: &Item) -> usize {
    match &item.verdict {
        Verdict::Commit {
            writes, compiled, ..
        } => bytes_of(writes, compiled),
        Verdict::Refuse(_) => 0,
    }
}

fn check_shape(request: &ChangeRequest) -> Result<(), Refusal> {
    if request.onto.is_none() && request.writes.len() > WRITES_MAX {
        return Err(Refusal::Quota {
            what: "writes in one change set".into(),
            max: WRITES_MAX as u64,
        });
    }
    let mut seen = BTreeSet::new();
    for (at, write) in request.writes.iter().enumerate() {
        if !seen.insert(&write.object) {
            let fault = Fault::new(
                "",
                format!("{} is written twice in one change set", write.object),
            );
            return Err(Refusal::Invalid {
                write: at as u32,
                faults: vec![fault],
            });
        }
    }
    Ok(())
}

/// The salt in a FlagConfig, of which nothing else is read.
fn salt_of(flag: &str, text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Salted {
        salt: Option<String>,
    }
    let salted: Salted = serde_json::from_str(text).ok()?;
    Some(salted.salt.unwrap_or_else(|| flag.to_owned()))
}

fn salt_fault(salt: &str) -> Fault {
    let message = format!(
        "the salt is fixed at creation ({salt:?}); another one would move every subject. Leave it out or repeat it"
    );
    Fault::new("/salt", message)
}

/// The same JSON without spaces, key order kept. A name given twice in one object is a fault.
fn compact(text: &str) -> Result<Arc<str>, Vec<Fault>> {
    Ok(parse_json(text)?.to_string().into())
}
