//! The machine as the records of a snapshot, and back.

use std::sync::Arc;

use bytes::Bytes;
use pennon_evaluator::{EnvironmentKey, StateKey, Version};
use serde::{Deserialize, Serialize};

use super::{Compiled, Machine, MachineHead, Object, object_hash};
use crate::command::{ClusterId, CompiledChange, ObjectId, ObjectKind};
use crate::level::FIRST_LEVEL;
use crate::log::LogId;

/// One record of a snapshot, in the order it must be loaded: environments come before what lives
/// in them because objects are written in their order. Grows at the end only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotRecord {
    /// An object of ground state.
    Object(ObjectId, Object),
    /// A compiled state: environment, key, bytes, what it uses.
    State(EnvironmentKey, StateKey, Bytes, Vec<StateKey>),
    /// When an environment last changed.
    ChangedAt(EnvironmentKey, Version),
    /// A remembered request.
    Request(crate::window::Remembered),
    /// One line of history, not part of the machine: `(object key, version, body)`.
    History(Vec<u8>, u64, Bytes),
    /// The feature level, when it was ever raised. Comes first, so that a release that knows less
    /// finds it before anything that it cannot read.
    Level(u32),
}

/// Snapshots: the machine as records, and back.
impl Machine {
    /// The scalars.
    pub fn head(&self) -> MachineHead {
        MachineHead {
            cluster: self.cluster,
            version_base: self.version_base,
            applied: self.applied.map(|id| (id.term, id.index)),
            time_ms: self.time_ms,
            digest: self.digest.get(),
        }
    }

    /// Everything else, in loading order.
    pub fn records(&self) -> impl Iterator<Item = SnapshotRecord> {
        let level = (self.level > FIRST_LEVEL).then_some(SnapshotRecord::Level(self.level));
        let objects = self
            .objects
            .iter()
            .map(|(id, object)| SnapshotRecord::Object(id.clone(), (**object).clone()));
        let states = self.environments.iter().flat_map(|(environment, here)| {
            let changed = SnapshotRecord::ChangedAt(environment.clone(), here.changed_at);
            let states = here.states.iter().map(|(key, state)| {
                let uses = state.uses.to_vec();
                SnapshotRecord::State(
                    environment.clone(),
                    key.clone(),
                    state.encoded.bytes().clone(),
                    uses,
                )
            });
            states.chain(std::iter::once(changed))
        });
        let requests = self
            .window
            .iter()
            .map(|seen| SnapshotRecord::Request((**seen).clone()));
        let level = level.into_iter();
        level.chain(objects).chain(states).chain(requests)
    }

    /// Starts a machine from a snapshot's scalars; feed it every record, then call [`Self::loaded`].
    pub fn from_head(head: &MachineHead) -> Self {
        Self {
            version_base: head.version_base,
            applied: head.applied_id(),
            time_ms: head.time_ms,
            ..Self::new(head.cluster)
        }
    }

    /// Loads one record. History records are not the machine's and are ignored.
    pub fn load(&mut self, record: SnapshotRecord) {
        match record {
            SnapshotRecord::Object(id, object) => {
                self.digest.add(object_hash(&id, &object));
                if id.kind() == ObjectKind::Environment
                    && let Ok(environment) = EnvironmentKey::try_from(id.key())
                {
                    self.environments.insert(environment, Compiled::default());
                }
                self.flags += usize::from(id.kind() == ObjectKind::Flag);
                self.derive(&id, None, Some(&object.value));
                self.objects.insert(id, Arc::new(object));
            }
            SnapshotRecord::State(environment, key, bytes, uses) => {
                self.put_state(&CompiledChange {
                    environment,
                    key,
                    state: Some(bytes),
                    uses,
                });
            }
            SnapshotRecord::ChangedAt(environment, version) => {
                if let Some(here) = self.environments.get_mut(&environment) {
                    // What happened before the snapshot is not in the ring.
                    (here.changed_at, here.floor) = (version, version);
                }
            }
            SnapshotRecord::Request(seen) => self.window.restore(seen),
            SnapshotRecord::History(..) => {}
            SnapshotRecord::Level(level) => self.raise(level),
        }
    }

    /// The same state as the first of a new cluster, with versions that begin `skipped` after its
    /// last one; `None` when there are not so many (D1). Whoever has an earlier version starts over.
    pub(crate) fn into_new_cluster(mut self, cluster: ClusterId, skipped: u64) -> Option<Self> {
        const FIRST: LogId = LogId { term: 1, index: 1 };
        let first = self.version().get().checked_add(skipped)?;
        let version = Version::new(first)?;
        self.cluster = cluster;
        self.version_base = first - FIRST.index;
        self.applied = Some(FIRST);
        let environments: Vec<EnvironmentKey> = self.environments.keys().cloned().collect();
        for environment in environments {
            if let Some(here) = self.environments.get_mut(&environment) {
                here.recent.clear();
                (here.changed_at, here.floor) = (version, version); // I6, I8
            }
        }
        Some(self)
    }

    /// Checks that what was loaded is what was stored.
    ///
    /// # Errors
    /// Names both digests when they differ.
    pub fn loaded(self, head: &MachineHead) -> Result<Self, String> {
        if self.digest.get() == head.digest {
            return Ok(self);
        }
        Err(format!(
            "digest after loading is {}, the snapshot says {:032x}",
            self.digest, head.digest
        ))
    }
}
