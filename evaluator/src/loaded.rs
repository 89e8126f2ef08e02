//! Snapshot: a ConfigSnapshot made ready for evaluation.
//!
//! What must hold: loading is a pure function of the bytes; moving on by a delta gives what loading
//! the new ConfigSnapshot would give, at the cost of the states that changed (every other one is
//! shared), and a refused delta changes nothing (I3, I6, I8). Whatever the states hold, evaluation
//! ends: a state is *sound* when what it uses, directly or not, has no cycle, is no deeper than
//! `DEPTH_MAX` and not more than `CLOSURE_MAX` states; states that are not sound are never entered.
//!
//! Every key has a slot, its place in one list. A state names others by slot; a key that is named
//! but has no state has a vacant slot. Slots are handed out and never taken back, so a change to
//! one state leaves the others as they are. When most are vacant everything is loaded anew.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::encoding::{DecodeError, EncodedState};
use crate::ids::{EnvironmentKey, FlagKey, StateKey, StateKind, Version};
use crate::limits::{CLOSURE_MAX, DEPTH_MAX};
use crate::snapshot::{ConfigSnapshot, Delta, DeltaRefused, Digest};
use crate::state::{ClauseState, EvaluationState, FlagState, SegmentState, ServeState};
use crate::value::Value;

/// All flags and segments of an environment at one version, ready for evaluation. Immutable;
/// cloning costs two counters.
#[derive(Clone)]
pub struct Snapshot {
    environment: EnvironmentKey,
    version: Version,
    digest: Digest,
    pub(crate) table: Arc<Table>,
}

/// A state cannot be read, so the snapshot cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} cannot be read: {error}")]
pub struct LoadError {
    /// Which state.
    pub key: StateKey,
    /// Why.
    pub error: DecodeError,
}

impl Snapshot {
    /// Loads a ConfigSnapshot.
    ///
    /// # Errors
    /// When a state cannot be read.
    pub fn load(config: &ConfigSnapshot) -> Result<Snapshot, LoadError> {
        let mut table = Table::default();
        for encoded in config.states() {
            table.put(encoded)?;
        }
        table.settle();
        Ok(Snapshot {
            environment: config.environment().clone(),
            version: config.version(),
            digest: config.digest(),
            table: Arc::new(table),
        })
    }

    /// Applies a delta. A refused one changes nothing.
    ///
    /// # Errors
    /// Any [`DeltaRefused`].
    pub fn apply(&self, delta: &Delta) -> Result<Snapshot, DeltaRefused> {
        delta.check_base(&self.environment, self.version)?;
        delta.sorted()?;
        let digest = self.digest_after(delta);
        delta.check_digest(digest)?;
        let mut next = self.with_table(delta.to, digest, Arc::clone(&self.table));
        if delta.is_empty() {
            return Ok(next);
        }
        let mut table = Table::clone(&self.table);
        for encoded in &delta.upserts {
            table
                .put(encoded)
                .map_err(|LoadError { key, error }| DeltaRefused::Undecodable { key, error })?;
        }
        delta.removals.iter().for_each(|key| table.remove(key));
        table.settle();
        if table.mostly_vacant() {
            table = table.compacted();
        }
        next.table = Arc::new(table);
        Ok(next) // I3: all of the delta or, on every way out above, none of it
    }

    /// Moves on to a later version at which nothing has changed here (a heartbeat). The same
    /// version again changes nothing.
    ///
    /// # Errors
    /// [`DeltaRefused::NotNewer`] when the version is an earlier one.
    pub fn with_version(&self, version: Version) -> Result<Snapshot, DeltaRefused> {
        if version < self.version {
            return Err(DeltaRefused::NotNewer {
                have: self.version,
                to: version,
            }); // I6
        }
        Ok(self.with_table(version, self.digest, Arc::clone(&self.table)))
    }

    /// Returns the version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the environment.
    pub fn environment(&self) -> &EnvironmentKey {
        &self.environment
    }

    /// Returns the digest of all states.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the compiled flags, archived ones too, in the order of their keys.
    pub fn flags(&self) -> impl Iterator<Item = &FlagState> {
        self.table.loaded_flags().map(|flag| &flag.state)
    }

    /// Returns one compiled flag.
    pub fn flag(&self, key: &FlagKey) -> Option<&FlagState> {
        let slot = self.table.slot(StateKind::Flag, key.as_str())?;
        self.table.flag_at(slot).map(|flag| &flag.state)
    }

    /// Returns the ConfigSnapshot that this is the loaded form of; its bytes are shared.
    pub fn to_config_snapshot(&self) -> ConfigSnapshot {
        let states = self.table.encoded();
        let (environment, version) = (self.environment.clone(), self.version);
        // A key has one slot, so none comes twice.
        ConfigSnapshot::new(environment.clone(), version, states)
            .unwrap_or_else(|_| ConfigSnapshot::empty(environment, version))
    }

    fn with_table(&self, version: Version, digest: Digest, table: Arc<Table>) -> Snapshot {
        Snapshot {
            environment: self.environment.clone(),
            version,
            digest,
            table,
        }
    }

    fn digest_after(&self, delta: &Delta) -> Digest {
        let mut digest = self.digest;
        let changed = delta.upserts.iter().map(EncodedState::state_key);
        for key in changed.chain(&delta.removals) {
            if let Some(old) = self.table.state(key) {
                digest.remove(old.hash());
            }
        }
        delta.upserts.iter().for_each(|new| digest.add(new.hash()));
        digest
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("environment", &self.environment)
            .field("version", &self.version)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// All slots, and where each key is. The maps are looked up, never iterated.
#[derive(Clone, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    flags: Arc<Index>,
    segments: Arc<Index>,
    /// Slots of the flags that have a state, in the order of their keys.
    order: Arc<Vec<u32>>,
    vacant: usize,
}

type Index = HashMap<Arc<str>, u32, BuildHasherDefault<KeyHasher>>;

/// The place of one key.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) loaded: Loaded,
    /// The version at which the state, or one that it uses, directly or not, last changed.
    pub(crate) config_version: Version,
    /// Whether evaluation may enter it.
    pub(crate) sound: bool,
    /// Whether evaluation might enter states so often that it should remember their outcomes.
    pub(crate) heavy: bool,
}

#[derive(Clone)]
pub(crate) enum Loaded {
    Vacant,
    Flag(Arc<LoadedFlag>),
    Segment(Arc<LoadedSegment>),
}

/// A flag with everything resolved.
pub(crate) struct LoadedFlag {
    encoded: EncodedState,
    pub(crate) state: FlagState,
    /// The parsed values, by variant.
    pub(crate) values: Box<[Value]>,
    /// Slots of the prerequisites, in their order.
    pub(crate) prerequisites: Box<[u32]>,
    /// Slots of the segments that clauses name by index.
    pub(crate) segments: Box<[u32]>,
    /// Whether there is no rule, target or rollout.
    pub(crate) is_static: bool,
    links: Box<[Link]>,
}

/// A segment with everything resolved.
pub(crate) struct LoadedSegment {
    encoded: EncodedState,
    pub(crate) state: SegmentState,
    /// Slots of the segments that clauses name by index.
    pub(crate) segments: Box<[u32]>,
    links: Box<[Link]>,
}

/// A slot that a state uses, and how often it names it.
#[derive(Clone, Copy)]
struct Link {
    slot: u32,
    times: u64,
}

impl Loaded {
    fn encoded(&self) -> Option<&EncodedState> {
        match self {
            Loaded::Vacant => None,
            Loaded::Flag(flag) => Some(&flag.encoded),
            Loaded::Segment(segment) => Some(&segment.encoded),
        }
    }

    fn links(&self) -> &[Link] {
        match self {
            Loaded::Vacant => &[],
            Loaded::Flag(flag) => &flag.links,
            Loaded::Segment(segment) => &segment.links,
        }
    }

    fn changed_at(&self) -> Version {
        match self {
            Loaded::Vacant => Version::ZERO,
            Loaded::Flag(flag) => flag.state.changed_at,
            Loaded::Segment(segment) => segment.state.changed_at,
        }
    }
}

impl Table {
    pub(crate) fn slot(&self, kind: StateKind, key: &str) -> Option<u32> {
        self.index(kind).get(key).copied()
    }

    pub(crate) fn at(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    fn index(&self, kind: StateKind) -> &Arc<Index> {
        match kind {
            StateKind::Flag => &self.flags,
            StateKind::Segment => &self.segments,
        }
    }

    fn flag_at(&self, slot: u32) -> Option<&LoadedFlag> {
        match &self.at(slot)?.loaded {
            Loaded::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    fn loaded_flags(&self) -> impl Iterator<Item = &LoadedFlag> {
        self.order.iter().filter_map(|slot| self.flag_at(*slot))
    }

    fn state(&self, key: &StateKey) -> Option<&EncodedState> {
        self.at(self.slot(key.kind(), key.key())?)?.loaded.encoded()
    }

    fn encoded(&self) -> Vec<EncodedState> {
        self.slots
            .iter()
            .filter_map(|slot| slot.loaded.encoded().cloned())
            .collect()
    }

    /// Returns the slot of a key, a new vacant one if it has none.
    fn slot_for(&mut self, kind: StateKind, key: &Arc<str>) -> u32 {
        if let Some(slot) = self.slot(kind, key) {
            return slot;
        }
        // Each slot costs far more than a byte, so memory ends before the numbers do.
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let index = match kind {
            StateKind::Flag => &mut self.flags,
            StateKind::Segment => &mut self.segments,
        };
        Arc::make_mut(index).insert(Arc::clone(key), slot);
        self.slots.push(Slot {
            loaded: Loaded::Vacant,
            config_version: Version::ZERO,
            sound: true,
            heavy: false,
        });
        self.vacant += 1;
        slot
    }

    fn put(&mut self, encoded: &EncodedState) -> Result<(), LoadError> {
        let unreadable = |error| LoadError {
            key: encoded.state_key().clone(),
            error,
        };
        let state = encoded.decode().map_err(unreadable)?;
        let slot = self.slot_for(encoded.kind(), &encoded.state_key().shared());
        let loaded = match state {
            EvaluationState::Flag(state) => {
                Loaded::Flag(Arc::new(self.link_flag(encoded.clone(), state)))
            }
            EvaluationState::Segment(state) => {
                Loaded::Segment(Arc::new(self.link_segment(encoded.clone(), state)))
            }
        };
        if matches!(self.slots[slot as usize].loaded, Loaded::Vacant) {
            self.vacant -= 1;
            if let (StateKind::Flag, Err(n)) = (encoded.kind(), self.order_of(encoded.key())) {
                Arc::make_mut(&mut self.order).insert(n, slot);
            }
        }
        self.slots[slot as usize].loaded = loaded;
        Ok(())
    }

    fn remove(&mut self, key: &StateKey) {
        let Some(slot) = self.slot(key.kind(), key.key()) else {
            return;
        };
        if matches!(self.slots[slot as usize].loaded, Loaded::Vacant) {
            return;
        }
        if let (StateKind::Flag, Ok(n)) = (key.kind(), self.order_of(key.key())) {
            Arc::make_mut(&mut self.order).remove(n);
        }
        self.slots[slot as usize].loaded = Loaded::Vacant;
        self.vacant += 1;
    }

    /// Finds a flag's place in the order of keys, or where it would be.
    fn order_of(&self, key: &str) -> Result<usize, usize> {
        self.order.binary_search_by(|slot| {
            self.flag_at(*slot)
                .map_or("", |flag| flag.state.key.as_str())
                .cmp(key)
        })
    }

    fn link_flag(&mut self, encoded: EncodedState, state: FlagState) -> LoadedFlag {
        let prerequisites: Box<[u32]> = state
            .prerequisites
            .iter()
            .map(|one| self.slot_for(StateKind::Flag, &one.flag.shared()))
            .collect();
        let segments = self.segment_slots(state.segments.iter().map(|key| key.shared()));
        let clauses = state.rules.iter().flat_map(|rule| &rule.when);
        let links = links(&prerequisites, &segments, clauses);
        // Decoding has seen that every value can be read.
        let values = state.variants.iter();
        let values = values
            .filter_map(|v| Value::read(state.value_type, &v.value))
            .collect();
        let is_static = state.rules.is_empty()
            && state.targets.is_empty()
            && matches!(state.default, ServeState::Variant(_));
        LoadedFlag {
            encoded,
            values,
            prerequisites,
            segments,
            is_static,
            links,
            state,
        }
    }

    fn link_segment(&mut self, encoded: EncodedState, state: SegmentState) -> LoadedSegment {
        let segments = self.segment_slots(state.segments.iter().map(|key| key.shared()));
        let clauses = state.rules.iter().flat_map(|rule| &rule.when);
        let links = links(&[], &segments, clauses);
        LoadedSegment {
            encoded,
            segments,
            links,
            state,
        }
    }

    fn segment_slots(&mut self, keys: impl Iterator<Item = Arc<str>>) -> Box<[u32]> {
        keys.map(|key| self.slot_for(StateKind::Segment, &key))
            .collect()
    }

    fn mostly_vacant(&self) -> bool {
        const VACANT_MIN: usize = 1_024;
        self.vacant > VACANT_MIN && self.vacant > self.slots.len() / 2
    }

    /// Loads everything anew, without the vacant slots that nobody names.
    fn compacted(self) -> Table {
        let mut table = Table::default();
        for encoded in self.encoded() {
            // It was read before.
            if table.put(&encoded).is_err() {
                return self;
            }
        }
        table.settle();
        table
    }

    /// Works out for every slot what depends on the slots it uses.
    fn settle(&mut self) {
        let mut reach = vec![Reach::Unknown; self.slots.len()];
        for slot in (0..).take(self.slots.len()) {
            self.explore(slot, &mut reach);
        }
        for (n, found) in reach.iter().enumerate() {
            let (sound, visits, newest) = match *found {
                Reach::Known { visits, newest, .. } => (true, visits, newest),
                _ => (false, 0, self.slots[n].loaded.changed_at()),
            };
            let few = visits <= CLOSURE_MAX as u64 || self.closure_is_small(n);
            let slot = &mut self.slots[n];
            slot.sound = sound && few;
            slot.heavy = visits > HEAVY_VISITS_MIN;
            slot.config_version = newest;
        }
    }

    /// Walks everything below a slot, depth first, on a stack of its own.
    fn explore(&self, start: u32, reach: &mut [Reach]) {
        if !matches!(reach[start as usize], Reach::Unknown) {
            return;
        }
        let mut path = vec![(start, 0)];
        reach[start as usize] = Reach::OnPath;
        while let Some((slot, next)) = path.last_mut() {
            let loaded = &self.slots[*slot as usize].loaded;
            let Some(link) = loaded.links().get(*next) else {
                reach[*slot as usize] = sum_up(loaded, reach);
                path.pop();
                continue;
            };
            *next += 1;
            if matches!(reach[link.slot as usize], Reach::Unknown) {
                reach[link.slot as usize] = Reach::OnPath;
                path.push((link.slot, 0));
            }
        }
    }

    /// Counts the states that one uses, directly or not, until there are too many.
    fn closure_is_small(&self, start: usize) -> bool {
        let mut seen = vec![false; self.slots.len()];
        let mut waiting = vec![start];
        let mut count = 0;
        while let Some(slot) = waiting.pop() {
            for link in self.slots[slot].loaded.links() {
                let used = link.slot as usize;
                if !std::mem::replace(&mut seen[used], true) {
                    count += 1;
                    waiting.push(used);
                }
            }
            if count > CLOSURE_MAX {
                return false;
            }
        }
        true
    }
}

/// With more visits than this it pays to remember outcomes.
const HEAVY_VISITS_MIN: u64 = 64;

/// What is known of the states below a slot.
#[derive(Clone, Copy)]
enum Reach {
    Unknown,
    OnPath,
    /// It reaches a cycle, or is too deep.
    Endless,
    Known {
        /// Steps of the longest chain.
        depth: usize,
        /// States entered by an evaluation that remembers nothing, counted as often as entered.
        visits: u64,
        /// When it or anything it uses last changed.
        newest: Version,
    },
}

/// Works a slot out from the slots it uses. One that is still on the path closes a cycle.
fn sum_up(loaded: &Loaded, reach: &[Reach]) -> Reach {
    let mut sum = (0, 1_u64, loaded.changed_at());
    for link in loaded.links() {
        let Reach::Known {
            depth,
            visits,
            newest,
        } = reach[link.slot as usize]
        else {
            return Reach::Endless;
        };
        sum.0 = sum.0.max(depth + 1);
        sum.1 = sum.1.saturating_add(visits.saturating_mul(link.times));
        sum.2 = sum.2.max(newest);
    }
    match sum {
        (depth, ..) if depth > DEPTH_MAX => Reach::Endless,
        (depth, visits, newest) => Reach::Known {
            depth,
            visits,
            newest,
        },
    }
}

fn links<'a>(
    prerequisites: &[u32],
    segments: &[u32],
    clauses: impl Iterator<Item = &'a ClauseState>,
) -> Box<[Link]> {
    let mut named: Vec<u32> = prerequisites.to_vec();
    for clause in clauses {
        if let ClauseState::Segments { any_of, .. } = clause {
            named.extend(
                any_of
                    .iter()
                    .filter_map(|index| segments.get(*index as usize)),
            );
        }
    }
    named.sort_unstable();
    let times = |group: &[u32]| Link {
        slot: group[0],
        times: group.len() as u64,
    };
    named.chunk_by(|a, b| a == b).map(times).collect()
}

/// Hashes keys with xxh3: fast on short text. Keys come from whoever may write flags, so there is
/// no need to withstand collisions made on purpose.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u8(&mut self, _: u8) {
        // The end mark of a string; there is one string only.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{NoReferences, compile_flag};
    use crate::config::FlagConfig;
    use crate::limits::Limits;
    use crate::policy::TargetingPolicy;

    fn flag(environment: &EnvironmentKey, key: &str, at: Version) -> EncodedState {
        let config = r#"{"type":"boolean","variants":{"on":true},"off_variant":"on"}"#;
        let config = FlagConfig::parse(&key.parse().unwrap(), config).unwrap();
        let policy = r#"{"enabled":true,"default":{"variant":"on"}}"#;
        let policy = TargetingPolicy::parse(policy).unwrap();
        let limits = Limits::default();
        let state = compile_flag(&config, at, &policy, at, at, &NoReferences, &limits).unwrap();
        EncodedState::new(environment, &state)
    }

    /// Flags that come and go for ever leave nothing behind.
    #[test]
    fn slots_of_removed_flags_are_taken_back_in_the_end() {
        let environment: EnvironmentKey = "production".parse().unwrap();
        let config = |n: u64| {
            let at = Version::new(n).unwrap();
            let (kept, new) = (flag(&environment, "kept", Version::ZERO), format!("f{n}"));
            let states = vec![kept, flag(&environment, &new, at)];
            ConfigSnapshot::new(environment.clone(), at, states).unwrap()
        };
        let mut before = config(1);
        let mut loaded = Snapshot::load(&before).unwrap();
        let mut slots_max = 0;
        for n in 2..4_000 {
            let after = config(n);
            loaded = loaded
                .apply(&ConfigSnapshot::diff(&before, &after))
                .unwrap();
            slots_max = slots_max.max(loaded.table.slots.len());
            before = after;
        }
        assert!((1_000..1_100).contains(&slots_max), "{slots_max}");
        assert_eq!(loaded.to_config_snapshot(), before);
        let keys: Vec<&str> = loaded.flags().map(|flag| flag.key.as_str()).collect();
        assert_eq!(keys, ["f3999", "kept"]);
    }
}
