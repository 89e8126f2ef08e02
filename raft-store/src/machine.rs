//! The replicated state machine: pure, total, the same on every node.
//!
//! `apply` is the one function that changes ground state. It is given a committed entry and
//! answers with the outcome of every change set in it; it has no clock, no randomness, no IO, and
//! no way to fail. Bytes it cannot read become a refusal that every node gives alike (I11).
//!
//! Ground state: objects (JSON text with version, time and author), the request-id window, the
//! leader's time, `version_base`, the feature level (`level`). Derived, carried in the same entry by the leader and stored as
//! its very bytes (I4): compiled states, their digest, who uses whom, the ring of recent changes.
//! Derived by each machine for itself, and in no digest: the limits in force, which flags have
//! which tag (`derived`).
//!
//! Cloning a `Machine` is cheap (persistent maps): the published [`View`], a snapshot being
//! written and the Writer's draft are all clones.

mod application;
mod derived;
mod records;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use pennon_evaluator::{
    ConfigSnapshot, Delta, Digest, EncodedState, EnvironmentKey, Limits, Retention, StateKey,
    Version,
};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::command::{
    Batch, Change, ClusterId, Command, CompiledChange, Item, ObjectId, ObjectKind, Origin, Outcome,
    Refusal, Verdict, Write, WriteResult,
};
use crate::level::{FIRST_LEVEL, Features};
use crate::log::LogId;
use crate::window::{Known, Window};

pub use self::records::SnapshotRecord;

/// Format of an encoded [`Command`].
pub const COMMAND_FORMAT: u8 = 1;

/// Changes remembered per environment for answering "what happened since"; older resumers get a
/// full snapshot.
pub const RECENT_MAX: usize = 4096;

/// An immutable machine at one version, shared by everybody who reads.
pub type View = Arc<Machine>;

/// One object of ground state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The version of the write that made it.
    pub version: Version,
    /// Leader time of that write, milliseconds since 1970.
    pub updated_ms: u64,
    /// Who wrote it.
    pub updated_by: Arc<str>,
    /// JSON text, as it was written.
    pub value: Arc<str>,
}

/// One compiled state and what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledState {
    /// Key, bytes and hash.
    pub encoded: EncodedState,
    /// What it names: segments, prerequisite flags, layers and experiments.
    pub uses: Arc<[StateKey]>,
}

/// Everything derived for one environment.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    states: OrdMap<StateKey, Arc<CompiledState>>,
    digest: Digest,
    recent: Vector<Recent>,
    /// Changes after this version are all in `recent`.
    floor: Version,
    /// The version of the last change here.
    changed_at: Version,
}

#[derive(Clone, Debug)]
struct Recent {
    version: Version,
    keys: Arc<[StateKey]>,
}

/// What takes a client from the version it has to the newest one.
#[derive(Clone, Debug)]
pub enum Since {
    /// Nothing changed here since.
    Nothing,
    /// These changes.
    Changes(Delta),
    /// The version is older than what is remembered: start over.
    Full,
    /// The client has a version this node has not reached.
    Ahead,
}

/// A committed entry, as the log gives it.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A leader's first entry, or a membership change: raises the version, changes nothing else.
    Blank,
    /// An encoded [`Command`].
    Command(&'a [u8]),
}

/// The answer to a committed entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing was asked.
    Blank,
    /// One outcome per change set.
    Outcomes(Vec<Outcome>),
    /// The batch was decided at another version; nothing was changed, decide again.
    TryAgain,
    /// The bytes could not be read; nothing was changed.
    Unreadable(codec::Unreadable),
    /// The cluster is at this feature level now.
    Level(u32),
}

/// What applying an entry did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The machine's version now.
    pub version: Version,
    /// The answer.
    pub answer: Answer,
    /// What changed, for the history.
    pub changes: Vec<Change>,
}

/// The state machine at one version.
#[derive(Clone, Debug)]
pub struct Machine {
    cluster: ClusterId,
    /// What the release that runs here knows; not replicated.
    features: Features,
    level: u32,
    version_base: u64,
    applied: Option<LogId>,
    time_ms: u64,
    objects: OrdMap<ObjectId, Arc<Object>>,
    environments: OrdMap<EnvironmentKey, Compiled>,
    users: OrdMap<(EnvironmentKey, StateKey), OrdSet<StateKey>>,
    window: Window,
    digest: Digest,
    flags: usize,
    limits: Limits,
    retention: Retention,
    /// Flags by tag.
    tagged: OrdMap<Arc<str>, OrdSet<StateKey>>,
}

/// The replicated scalars of a machine, as a snapshot stores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineHead {
    /// The cluster.
    pub cluster: ClusterId,
    /// D1.
    pub version_base: u64,
    /// The last applied log id, (term, index).
    pub applied: Option<(u64, u64)>,
    /// The leader's time.
    pub time_ms: u64,
    /// The digest over everything, checked after loading.
    pub digest: u128,
}

impl MachineHead {
    /// The last applied log id.
    pub fn applied_id(&self) -> Option<LogId> {
        self.applied.map(|(term, index)| LogId { term, index })
    }
}

impl Machine {
    /// An empty machine.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            features: Features::THIS,
            level: FIRST_LEVEL,
            version_base: 0,
            applied: None,
            time_ms: 0,
            objects: OrdMap::new(),
            environments: OrdMap::new(),
            users: OrdMap::new(),
            window: Window::default(),
            digest: Digest::default(),
            flags: 0,
            limits: Limits::DEFAULT,
            retention: Retention::DEFAULT,
            tagged: OrdMap::new(),
        }
    }

    /// The same machine in a release that knows this much.
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        let window = self.window.of(features);
        Self {
            features,
            window,
            ..self
        }
    }

    /// Applies one committed entry. `id` must be the one after the last applied.
    pub fn apply(&mut self, id: LogId, entry: Entry<'_>) -> Applied {
        let before = self.version();
        self.applied = Some(id);
        let version = self.version();
        let mut changes = Vec::new();
        let answer = match entry {
            Entry::Blank => Answer::Blank,
            Entry::Command(bytes) => match codec::decode::<Command>(COMMAND_FORMAT, bytes) {
                Err(why) => Answer::Unreadable(why), // I11
                // D2: a batch is good only at the version it was decided at.
                Ok(Command::Batch(batch)) if batch.base != before => Answer::TryAgain,
                // I11: who cannot read it and who could answer the same, and change nothing.
                Ok(Command::Batch(batch)) if self.is_beyond(&batch) => {
                    Answer::Unreadable(codec::Unreadable::Body)
                }
                Ok(Command::Batch(batch)) => {
                    Answer::Outcomes(self.apply_batch(version, batch, &mut changes))
                }
                Ok(Command::Raise(level)) => {
                    self.raise(level);
                    Answer::Level(self.level)
                }
            },
        };
        Applied {
            version,
            answer,
            changes,
        }
    }

    /// Whether something in a batch needs a higher level than the cluster has, or this release.
    fn is_beyond(&self, batch: &Batch) -> bool {
        let level = self.level.min(self.features.level());
        let mut items = batch.items.iter();
        items.any(|item| self.features.of_item(item) > level)
    }

    /// The level never falls. It counts in the digest from the second on, so that states from
    /// before there were levels have the digest that they had.
    fn raise(&mut self, level: u32) {
        if level <= self.level {
            return;
        }
        if self.level > FIRST_LEVEL {
            self.digest.remove(level_hash(self.level));
        }
        self.digest.add(level_hash(level));
        self.level = level;
    }

    fn apply_batch(
        &mut self,
        version: Version,
        batch: Batch,
        changes: &mut Vec<Change>,
    ) -> Vec<Outcome> {
        self.time_ms = self.time_ms.max(batch.time_ms);
        batch
            .items
            .into_iter()
            .map(|item| self.apply_item(version, item, changes))
            .collect()
    }

    /// Applies one change set as a whole or not at all (I3). The Writer's draft uses the same
    /// function, so what the leader predicts is what every node does.
    pub(crate) fn apply_item(
        &mut self,
        version: Version,
        item: Item,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        if let Some(request) = &item.origin.request {
            match self.window.look_up(request) {
                Known::New => {}
                Known::Repeat(seen) => return seen.outcome.clone(), // I9
                Known::Mismatch => {
                    let refusal = Refusal::IdempotencyMismatch {
                        key: request.key.clone(),
                    };
                    return Outcome::Refused { version, refusal };
                }
            }
        }
        let outcome = match item.verdict {
            Verdict::Refuse(refusal) => Outcome::Refused { version, refusal },
            Verdict::Commit {
                writes,
                compiled,
                unchanged,
            } => match self.first_conflict(&writes) {
                Some(refusal) => Outcome::Refused { version, refusal },
                None => self.commit(version, &item.origin, writes, compiled, unchanged, changes),
            },
        };
        if let Some(request) = item.origin.request {
            self.window.remember(request, self.time_ms, outcome.clone());
        }
        outcome
    }

    fn first_conflict(&self, writes: &[Write]) -> Option<Refusal> {
        writes.iter().find_map(|write| {
            let found = self.object(&write.object).map(|object| object.version);
            // I1, I2: only against the exact current version.
            (!write.expected.holds(found)).then(|| Refusal::Conflict {
                object: write.object.clone(),
                expected: write.expected,
                found,
            })
        })
    }

    fn commit(
        &mut self,
        version: Version,
        origin: &Origin,
        writes: Vec<Write>,
        compiled: Vec<CompiledChange>,
        unchanged: Vec<WriteResult>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let mut results = unchanged;
        for write in writes {
            let previous = self.put_object(version, origin, &write);
            changes.push(Change {
                object: write.object.clone(),
                version,
                previous,
                time_ms: self.time_ms,
                origin: origin.clone(),
                value: write.value,
            });
            results.push(WriteResult {
                object: write.object,
                version,
                previous,
            });
        }
        self.put_compiled(version, &compiled);
        Outcome::Written { version, results }
    }

    /// Writes one object and returns the version it had.
    pub(crate) fn put_object(
        &mut self,
        version: Version,
        origin: &Origin,
        write: &Write,
    ) -> Option<Version> {
        let id = &write.object;
        let old = match &write.value {
            Some(value) => {
                let object = Object {
                    version,
                    updated_ms: self.time_ms,
                    updated_by: origin.actor.clone(),
                    value: value.clone(),
                };
                self.digest.add(object_hash(id, &object));
                self.objects.insert(id.clone(), Arc::new(object))
            }
            None => self.objects.remove(id),
        };
        if let Some(old) = &old {
            self.digest.remove(object_hash(id, old));
        }
        let before = old.as_ref().map(|object| &*object.value);
        self.derive(id, before, write.value.as_deref());
        if id.kind() == ObjectKind::Flag {
            self.flags =
                self.flags + usize::from(write.value.is_some()) - usize::from(old.is_some());
        }
        if id.kind() == ObjectKind::Environment
            && let Ok(environment) = EnvironmentKey::try_from(id.key())
        {
            if write.value.is_none() {
                self.drop_environment(&environment);
            } else if !self.environments.contains_key(&environment) {
                let compiled = Compiled {
                    floor: version,
                    changed_at: version,
                    ..Compiled::default()
                };
                self.environments.insert(environment, compiled);
            }
        }
        old.map(|object| object.version)
    }

    /// Forgets an environment with whatever is still in it. The leader refuses to delete one that
    /// is not empty; a hostile entry must not leave a digest that no snapshot can reproduce (I11).
    fn drop_environment(&mut self, environment: &EnvironmentKey) {
        let Some(gone) = self.environments.remove(environment) else {
            return;
        };
        for (key, state) in &gone.states {
            self.digest.remove(state.encoded.hash());
            self.set_user(environment, key, &state.uses, &[]);
        }
    }

    fn set_user(
        &mut self,
        environment: &EnvironmentKey,
        user: &StateKey,
        before: &[StateKey],
        now: &[StateKey],
    ) {
        for used in before {
            let entry = (environment.clone(), used.clone());
            if let Some(users) = self.users.get_mut(&entry) {
                users.remove(user);
                if users.is_empty() {
                    self.users.remove(&entry);
                }
            }
        }
        for used in now {
            self.users
                .entry((environment.clone(), used.clone()))
                .or_default()
                .insert(user.clone());
        }
    }

    /// Replaces compiled states with the leader's bytes. All of one environment's changes become
    /// visible at one version (I3, I4).
    pub(crate) fn put_compiled(&mut self, version: Version, compiled: &[CompiledChange]) {
        let mut touched: OrdMap<&EnvironmentKey, Vec<StateKey>> = OrdMap::new();
        for change in compiled {
            if self.put_state(change) {
                touched
                    .entry(&change.environment)
                    .or_default()
                    .push(change.key.clone());
            }
        }
        for (environment, keys) in touched {
            let Some(here) = self.environments.get_mut(environment) else {
                continue;
            };
            here.changed_at = version;
            here.recent.push_back(Recent {
                version,
                keys: keys.into(),
            });
            while here.recent.len() > RECENT_MAX {
                if let Some(gone) = here.recent.pop_front() {
                    here.floor = gone.version;
                }
            }
        }
    }

    fn put_state(&mut self, change: &CompiledChange) -> bool {
        if !change.key.kind().has_state() {
            return false; // No leader makes one (I11).
        }
        let environment = &change.environment;
        let Some(here) = self.environments.get_mut(environment) else {
            return false;
        };
        let new = match &change.state {
            None => None,
            Some(bytes) => match EncodedState::from_bytes(environment, bytes.clone()) {
                // The bytes carry their own key; a state that does not name itself is not served.
                Ok(encoded) if *encoded.state_key() == change.key => {
                    Some(Arc::new(CompiledState {
                        encoded,
                        uses: change.uses.clone().into(),
                    }))
                }
                _ => return false,
            },
        };
        let old = match &new {
            Some(new) => {
                here.digest.add(new.encoded.hash());
                self.digest.add(new.encoded.hash());
                here.states.insert(change.key.clone(), new.clone())
            }
            None => here.states.remove(&change.key),
        };
        if let Some(old) = &old {
            here.digest.remove(old.encoded.hash());
            self.digest.remove(old.encoded.hash());
        }
        let uses = |state: &Option<Arc<CompiledState>>| {
            state.as_ref().map_or(Arc::from([]), |s| s.uses.clone())
        };
        self.set_user(environment, &change.key, &uses(&old), &uses(&new));
        true
    }
}

/// Reading.
impl Machine {
    /// The version of the last applied entry (D1).
    pub fn version(&self) -> Version {
        let index = self.applied.map_or(0, |id| id.index);
        Version::new(self.version_base.saturating_add(index)).unwrap_or(Version::MAX)
    }

    /// The version an entry at this log index makes.
    pub fn version_at(&self, index: u64) -> Version {
        Version::new(self.version_base.saturating_add(index)).unwrap_or(Version::MAX)
    }

    /// The version the next entry will make.
    pub fn next_version(&self) -> Version {
        let index = self.applied.map_or(0, |id| id.index);
        self.version_at(index.saturating_add(1))
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The last applied log id.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The leader's time of the newest batch, milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The digest over all ground state and all compiled states.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The request-id window.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The feature level of the cluster: what needs a higher one is refused.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// What the release that runs here knows.
    pub fn features(&self) -> Features {
        self.features
    }

    /// One object.
    pub fn object(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)
    }

    /// The objects of one kind (in one environment, for scoped kinds), in key order, from the key
    /// after `after` on.
    pub fn objects<'a>(
        &'a self,
        kind: ObjectKind,
        environment: Option<&'a EnvironmentKey>,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a ObjectId, &'a Arc<Object>)> {
        let start = first_id(kind, environment, after.unwrap_or(""));
        let skip = after.is_some();
        let begin = start.clone();
        self.objects
            .range(start..)
            .take_while(move |(id, _)| id.kind() == kind && id.environment() == environment)
            .filter(move |(id, _)| !(skip && **id == begin))
    }

    /// How many objects of a kind there are, in all environments.
    pub fn count(&self, kind: ObjectKind) -> usize {
        match kind {
            ObjectKind::Environment => self.environments.len(),
            ObjectKind::Flag => self.flags,
            kind => self.objects.keys().filter(|id| id.kind() == kind).count(),
        }
    }

    /// Every object, in order.
    pub fn all_objects(&self) -> impl Iterator<Item = (&ObjectId, &Arc<Object>)> {
        self.objects.iter()
    }

    /// The environments.
    pub fn environments(&self) -> impl Iterator<Item = &EnvironmentKey> {
        self.environments.keys()
    }

    /// What is compiled for an environment.
    pub fn compiled(&self, environment: &EnvironmentKey) -> Option<&Compiled> {
        self.environments.get(environment)
    }

    /// The states in an environment that name this segment, prerequisite flag, layer or experiment.
    pub fn users_of(
        &self,
        environment: &EnvironmentKey,
        used: &StateKey,
    ) -> impl Iterator<Item = &StateKey> {
        self.users
            .get(&(environment.clone(), used.clone()))
            .into_iter()
            .flatten()
    }

    /// The ConfigSnapshot of an environment at this version.
    pub fn config_snapshot(&self, environment: &EnvironmentKey) -> Option<ConfigSnapshot> {
        let here = self.environments.get(environment)?;
        let states = here
            .states
            .values()
            .map(|state| state.encoded.clone())
            .collect();
        // The states come from a map: no key is in it twice.
        ConfigSnapshot::new(environment.clone(), self.version(), states).ok()
    }

    /// What takes a client from `have` to this version (I8: gapless, or an explicit full).
    pub fn since(&self, environment: &EnvironmentKey, have: Version) -> Since {
        let Some(here) = self.environments.get(environment) else {
            return Since::Full;
        };
        let version = self.version();
        if have > version {
            return Since::Ahead;
        }
        if have < here.floor {
            return Since::Full;
        }
        if have >= here.changed_at {
            return Since::Nothing;
        }
        let keys: BTreeSet<&StateKey> = here
            .recent
            .iter()
            .rev()
            .take_while(|recent| recent.version > have)
            .flat_map(|recent| recent.keys.iter())
            .collect();
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for key in keys {
            match here.states.get(key) {
                Some(state) => upserts.push(state.encoded.clone()),
                None => removals.push(key.clone()),
            }
        }
        Since::Changes(Delta {
            environment: environment.clone(),
            from: have,
            to: version,
            upserts,
            removals,
            digest: here.digest,
        })
    }
}

impl Compiled {
    /// The states, in key order.
    pub fn states(&self) -> impl Iterator<Item = (&StateKey, &Arc<CompiledState>)> {
        self.states.iter()
    }

    /// One state.
    pub fn state(&self, key: &StateKey) -> Option<&Arc<CompiledState>> {
        self.states.get(key)
    }

    /// How many states there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The order-independent digest of the states.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The version of the last change here.
    pub fn changed_at(&self) -> Version {
        self.changed_at
    }

    /// Changes after this version are known; who has an earlier one starts over.
    pub fn floor(&self) -> Version {
        self.floor
    }
}

fn first_id(kind: ObjectKind, environment: Option<&EnvironmentKey>, key: &str) -> ObjectId {
    match (kind, environment) {
        (ObjectKind::Policy, Some(environment)) => ObjectId::policy(environment.clone(), key),
        (ObjectKind::Segment, Some(environment)) => ObjectId::segment(environment.clone(), key),
        (ObjectKind::Environment, _) => ObjectId::environment_object(key),
        (ObjectKind::Setting, _) => ObjectId::setting(key),
        (ObjectKind::Application, _) => ObjectId::application(key),
        (ObjectKind::Flag | ObjectKind::Policy | ObjectKind::Segment, _) => ObjectId::flag(key),
    }
}

fn level_hash(level: u32) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(b"feature-level");
    hasher.update(&level.to_le_bytes());
    hasher.digest128()
}

/// Hash of one object with everything replicated about it.
fn object_hash(id: &ObjectId, object: &Object) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let key = id.history_key();
    for part in [
        &(key.len() as u64).to_le_bytes()[..],
        &key,
        &object.version.get().to_le_bytes(),
        &object.updated_ms.to_le_bytes(),
        &(object.updated_by.len() as u64).to_le_bytes(),
        object.updated_by.as_bytes(),
        object.value.as_bytes(),
    ] {
        hasher.update(part);
    }
    hasher.digest128()
}
