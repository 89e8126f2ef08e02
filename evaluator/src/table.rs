//! The slots of a snapshot: who is where, and what depends on whom.
//!
//! What must hold: every key has a slot, its place in one list. A state names others by slot; a key
//! that is named but has no state has a vacant slot. Slots are handed out and never taken back, so a
//! change to one state leaves the others as they are; when most are vacant everything is loaded
//! anew. Whatever the states hold, evaluation ends: a state is *sound* when what it uses, directly
//! or not, has no cycle, is no deeper than `DEPTH_MAX` and not more than `CLOSURE_MAX` states; states
//! that are not sound are never entered.
//!
//! Slots lie in chunks that tables share (`table/chunks.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::encoding::{DecodeError, EncodedState};
use crate::evaluate::Decision;
use crate::ids::{FlagKey, SegmentKey, StateKey, StateKind, Version};
use crate::key_table::{is_same, text_hash};
use crate::limits::{CLOSURE_MAX, DEPTH_MAX};
use crate::program::{Flag, Segment, Slots, constant};
use crate::state::{ClauseState, EvaluationState, FlagState, SegmentState};

mod chunks;
mod index;

use chunks::Chunks;
use index::Index;

/// All slots, and where each key is.
#[derive(Clone, Default)]
pub(crate) struct Table {
    slots: Chunks<Slot>,
    flags: Index,
    segments: Index,
    /// Slots of the flags that have a state, in the order of their keys.
    order: Arc<Vec<u32>>,
    vacant: usize,
}

/// The place of one key.
///
/// It is as long as a cache line: for a flag that gives everybody the same, nothing else is read. It is
/// not aligned to one. Decisions were not faster for it, and allocators are slow to hand out aligned
/// chunks, which is what a delta needs most.
#[derive(Clone)]
pub(crate) struct Slot {
    key: Arc<str>,
    pub(crate) loaded: Loaded,
    /// What everybody gets of the flag, when that is known beforehand.
    constant: Decision,
    /// The version at which the state, or one that it uses, directly or not, last changed.
    pub(crate) config_version: Version,
    /// How many states name it.
    users: u32,
    /// Whether evaluation may enter it.
    pub(crate) sound: bool,
    /// Whether evaluation might enter states so often that it should remember their outcomes.
    pub(crate) heavy: bool,
}

/// A flag, its slot and the number of that.
#[derive(Clone, Copy)]
pub(crate) struct FoundFlag<'a> {
    pub(crate) number: u32,
    pub(crate) slot: &'a Slot,
    pub(crate) flag: &'a Flag,
}

#[derive(Clone)]
pub(crate) enum Loaded {
    Vacant,
    Flag(Arc<LoadedFlag>),
    Segment(Arc<LoadedSegment>),
}

/// A flag and what it was made from.
pub(crate) struct LoadedFlag {
    pub(crate) flag: Flag,
    pub(crate) encoded: EncodedState,
    links: Box<[Link]>,
}

/// A segment and what it was made from.
pub(crate) struct LoadedSegment {
    pub(crate) segment: Segment,
    pub(crate) encoded: EncodedState,
    links: Box<[Link]>,
}

/// A slot that a state uses, and how often it names it.
#[derive(Clone, Copy)]
struct Link {
    slot: u32,
    times: u64,
}

impl Loaded {
    pub(crate) fn encoded(&self) -> Option<&EncodedState> {
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
            Loaded::Flag(flag) => flag.flag.changed_at,
            Loaded::Segment(segment) => segment.segment.changed_at,
        }
    }

    fn is_vacant(&self) -> bool {
        matches!(self, Loaded::Vacant)
    }
}

impl Slot {
    fn vacant(key: Arc<str>) -> Slot {
        Slot {
            key,
            loaded: Loaded::Vacant,
            constant: Decision::PENDING,
            config_version: Version::ZERO,
            users: 0,
            sound: true,
            heavy: false,
        }
    }

    /// What everybody gets of the flag, when that is known beforehand.
    #[inline]
    pub(crate) fn constant(&self) -> Option<Decision> {
        (self.constant != Decision::PENDING).then_some(self.constant)
    }

    /// The flag that is here; `number` is that of the slot.
    #[inline]
    pub(crate) fn found(&self, number: u32) -> Option<FoundFlag<'_>> {
        match &self.loaded {
            Loaded::Flag(loaded) => Some(FoundFlag {
                number,
                slot: self,
                flag: &loaded.flag,
            }),
            _ => None,
        }
    }

    /// Whether all that its state uses, directly or not, is as it was.
    fn is_as(&self, before: &Slot) -> bool {
        (self.config_version, self.sound) == (before.config_version, before.sound)
    }

    /// The key of what is here.
    #[inline]
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

impl Table {
    /// Loads states from nothing.
    pub(crate) fn load(states: &[EncodedState]) -> Result<Table, (StateKey, DecodeError)> {
        let mut table = Table::default();
        let mut touched = Vec::with_capacity(states.len());
        for encoded in states {
            touched.push(table.put(encoded)?);
        }
        let mut order = touched.clone();
        order.retain(|slot| matches!(table.at(*slot).map(|s| &s.loaded), Some(Loaded::Flag(_))));
        order.sort_by(|a, b| table.key_at(*a).cmp(table.key_at(*b)));
        table.order = Arc::new(order);
        table.settle(&touched);
        Ok(table)
    }

    /// Takes new states in and others out. The cost is that of the states named, a counter for each
    /// chunk, and what `settle` says.
    pub(crate) fn change(
        &self,
        upserts: &[EncodedState],
        removals: &[StateKey],
    ) -> Result<Table, (StateKey, DecodeError)> {
        let mut table = Table::clone(self);
        let mut touched = Vec::with_capacity(upserts.len() + removals.len());
        for encoded in upserts {
            let is_flag = encoded.kind() == StateKind::Flag;
            let is_new = is_flag && table.find_flag(encoded.key()).is_none();
            let slot = table.put(encoded)?;
            if is_new && let Err(n) = table.order_of(encoded.key()) {
                Arc::make_mut(&mut table.order).insert(n, slot);
            }
            touched.push(slot);
        }
        for key in removals {
            if let (StateKind::Flag, Ok(n)) = (key.kind(), table.order_of(key.key())) {
                Arc::make_mut(&mut table.order).remove(n);
            }
            touched.extend(table.remove(key));
        }
        table.settle(&touched);
        match table.mostly_vacant() {
            true => Table::load(&table.encoded()),
            false => Ok(table),
        }
    }

    /// Finds a flag that has a state, by its key.
    #[inline]
    pub(crate) fn find_flag(&self, key: &str) -> Option<FoundFlag<'_>> {
        let (number, slot) = self.flag_slot(key)?;
        slot.found(number)
    }

    /// Returns the flag in a slot.
    #[inline]
    pub(crate) fn found(&self, number: u32) -> Option<FoundFlag<'_>> {
        self.at(number)?.found(number)
    }

    /// Finds the slot of a flag by its key.
    #[inline]
    pub(crate) fn flag_slot(&self, key: &str) -> Option<(u32, &Slot)> {
        self.find(&self.flags, key)
    }

    fn slot(&self, kind: StateKind, key: &str) -> Option<u32> {
        let found = match kind {
            StateKind::Flag => self.flag_slot(key),
            StateKind::Segment => self.find(&self.segments, key),
            StateKind::Layer | StateKind::Experiment => None,
        };
        found.map(|(number, _)| number)
    }

    #[inline]
    fn find(&self, index: &Index, key: &str) -> Option<(u32, &Slot)> {
        index.find(text_hash(key), |number| {
            let slot = self.at(number)?;
            is_same(slot.key.as_bytes(), key.as_bytes()).then_some((number, slot))
        })
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot)
    }

    #[inline]
    fn key_at(&self, slot: u32) -> &str {
        self.at(slot).map_or("", Slot::key)
    }

    /// A slot that is to be changed; its chunk is copied if another table has it too.
    fn at_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot)
    }

    /// The flags, archived ones too, in the order of their keys.
    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &Flag> {
        let found = self.order.iter().filter_map(|slot| self.found(*slot));
        found.map(|found| found.flag)
    }

    /// The flags that may be decided otherwise than in an earlier table. None when that is not to be
    /// seen slot by slot: a state is gone, or one of the tables was not made from the other.
    pub(crate) fn moved_since(&self, earlier: &Table) -> Option<Vec<&FlagKey>> {
        let mut moved = Vec::new();
        for (number, slot) in self.slots.unshared(&earlier.slots) {
            let before = earlier.at(number).filter(|_| number < earlier.slots.len());
            if before.is_some_and(|before| before.key() != slot.key()) {
                return None;
            }
            match (before.map(|before| &before.loaded), &slot.loaded) {
                (None | Some(Loaded::Vacant), Loaded::Flag(flag)) => moved.push(&flag.flag.key),
                (Some(Loaded::Flag(was)), Loaded::Flag(flag)) => {
                    if was.encoded != flag.encoded || before.is_some_and(|b| !slot.is_as(b)) {
                        moved.push(&flag.flag.key);
                    }
                }
                // Who uses it shows by the version of its configuration.
                (None | Some(Loaded::Vacant), _)
                | (Some(Loaded::Segment(_)), Loaded::Segment(_)) => {}
                (Some(_), _) => return None,
            }
        }
        (earlier.slots.len() <= self.slots.len()).then_some(moved)
    }

    pub(crate) fn state(&self, key: &StateKey) -> Option<&EncodedState> {
        self.at(self.slot(key.kind(), key.key())?)?.loaded.encoded()
    }

    pub(crate) fn encoded(&self) -> Vec<EncodedState> {
        let slots = self.slots.iter();
        slots
            .filter_map(|(_, slot)| slot.loaded.encoded().cloned())
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() as usize
    }

    /// Returns the slot of a key, a new vacant one if it has none.
    fn slot_for(&mut self, kind: StateKind, key: &Arc<str>) -> u32 {
        if let Some(slot) = self.slot(kind, key) {
            return slot;
        }
        let slot = self.slots.push(Slot::vacant(Arc::clone(key)));
        let slots = &self.slots;
        let hash_at = |slot| slots.get(slot).map_or(0, |slot| text_hash(&slot.key));
        match kind {
            StateKind::Flag => self.flags.insert(slot, hash_at),
            _ => self.segments.insert(slot, hash_at),
        }
        self.vacant += 1;
        slot
    }

    fn put(&mut self, encoded: &EncodedState) -> Result<u32, (StateKey, DecodeError)> {
        let state = encoded
            .decode()
            .map_err(|error| (encoded.state_key().clone(), error))?;
        let slot = self.slot_for(encoded.kind(), &encoded.state_key().shared());
        let constant = match &state {
            EvaluationState::Flag(state) => constant(state).map(|decision| decision.of_slot(slot)),
            EvaluationState::Segment(_) => None,
        };
        let loaded = match state {
            EvaluationState::Flag(state) => Loaded::Flag(Arc::new(LoadedFlag {
                flag: {
                    // The key of an encoded flag is that of its state.
                    let key = encoded.state_key().as_flag();
                    let key = key.unwrap_or_else(|| state.key.clone());
                    Flag::new(key, &state, self)
                },
                links: self.flag_links(&state),
                encoded: encoded.clone(),
            })),
            EvaluationState::Segment(state) => Loaded::Segment(Arc::new(LoadedSegment {
                segment: Segment::new(&state, self),
                links: self.segment_links(&state),
                encoded: encoded.clone(),
            })),
        };
        self.replace(slot, loaded, constant);
        Ok(slot)
    }

    fn remove(&mut self, key: &StateKey) -> Option<u32> {
        let slot = self.slot(key.kind(), key.key())?;
        self.replace(slot, Loaded::Vacant, None);
        Some(slot)
    }

    /// Puts something into a slot and counts the users of what it names.
    fn replace(&mut self, slot: u32, loaded: Loaded, constant: Option<Decision>) {
        let Some(place) = self.at_mut(slot) else {
            return;
        };
        let fills = usize::from(!loaded.is_vacant());
        let old = std::mem::replace(&mut place.loaded, loaded.clone());
        place.constant = constant.unwrap_or(Decision::PENDING);
        let filled = usize::from(!old.is_vacant());
        self.vacant = self.vacant + filled - fills;
        for link in loaded.links() {
            if let Some(used) = self.at_mut(link.slot) {
                used.users += 1;
            }
        }
        for link in old.links() {
            if let Some(used) = self.at_mut(link.slot) {
                used.users -= 1;
            }
        }
    }

    /// Finds a flag's place in the order of keys, or where it would be.
    fn order_of(&self, key: &str) -> Result<usize, usize> {
        self.order
            .binary_search_by(|slot| self.key_at(*slot).cmp(key))
    }

    fn flag_links(&mut self, state: &FlagState) -> Box<[Link]> {
        let prerequisites = state.prerequisites.iter();
        let mut named: Vec<u32> = prerequisites.map(|one| self.flag(&one.flag)).collect();
        let holdouts = state.experiments().filter_map(|(_, one)| one.holdout);
        let clauses = state.rules.iter().flat_map(|rule| &rule.when);
        self.add_segments(&mut named, &state.segments, clauses, holdouts);
        links(named)
    }

    fn segment_links(&mut self, state: &SegmentState) -> Box<[Link]> {
        let mut named = Vec::new();
        let clauses = state.rules.iter().flat_map(|rule| &rule.when);
        self.add_segments(&mut named, &state.segments, clauses, std::iter::empty());
        links(named)
    }

    fn add_segments<'a>(
        &mut self,
        named: &mut Vec<u32>,
        segments: &[SegmentKey],
        clauses: impl Iterator<Item = &'a ClauseState>,
        holdouts: impl Iterator<Item = u32>,
    ) {
        if segments.is_empty() {
            return;
        }
        let slots: Vec<u32> = segments.iter().map(|key| self.segment(key)).collect();
        let of_clauses = clauses.flat_map(|clause| match clause {
            ClauseState::Segments { any_of, .. } => any_of.as_slice(),
            _ => &[],
        });
        let indexes = of_clauses.copied().chain(holdouts);
        named.extend(indexes.filter_map(|index| slots.get(index as usize)));
    }

    fn mostly_vacant(&self) -> bool {
        const VACANT_MIN: usize = 1_024;
        self.vacant > VACANT_MIN && self.vacant > self.slots.len() as usize / 2
    }

    /// Works out what depends on the slots that a slot uses, for those that were touched and all
    /// that use them. As long as nobody uses what was touched, the others are not looked at.
    fn settle(&mut self, touched: &[u32]) {
        let used = |slot: &u32| self.at(*slot).is_some_and(|slot| slot.users > 0);
        let mut starts = touched.to_vec();
        if touched.iter().any(used) {
            let linked = self
                .slots
                .iter()
                .filter(|(_, slot)| !slot.loaded.links().is_empty());
            starts.extend(linked.map(|(n, _)| n));
        }
        let mut known = HashMap::new();
        for start in starts {
            let reach = self.explore(start, &mut known);
            let Some(slot) = self.at(start) else {
                continue;
            };
            let (sound, visits, newest) = match reach {
                Reach::Known { visits, newest, .. } => (true, visits, newest),
                Reach::OnPath | Reach::Endless => (false, 0, slot.loaded.changed_at()),
            };
            let few = visits <= CLOSURE_MAX as u64 || self.closure_is_small(start);
            let news = (newest, sound && few, visits > HEAVY_VISITS_MIN);
            // Writing would copy the chunk.
            if news != (slot.config_version, slot.sound, slot.heavy)
                && let Some(slot) = self.at_mut(start)
            {
                (slot.config_version, slot.sound, slot.heavy) = news;
            }
        }
    }

    fn links_of(&self, slot: u32) -> &[Link] {
        self.at(slot).map_or(&[], |slot| slot.loaded.links())
    }

    /// Walks everything below a slot, depth first, on a stack of its own. `known` has the slots with
    /// links that were walked before.
    fn explore(&self, start: u32, known: &mut HashMap<u32, Reach>) -> Reach {
        if let Some(reach) = self.reach(start, known) {
            return reach;
        }
        let mut path = vec![(start, 0)];
        known.insert(start, Reach::OnPath);
        while let Some((slot, next)) = path.last_mut() {
            let Some(link) = self.links_of(*slot).get(*next) else {
                let reach = self.sum_up(*slot, known);
                known.insert(*slot, reach);
                path.pop();
                continue;
            };
            *next += 1;
            if self.reach(link.slot, known).is_none() {
                known.insert(link.slot, Reach::OnPath);
                path.push((link.slot, 0));
            }
        }
        known.get(&start).copied().unwrap_or(Reach::Endless)
    }

    /// What is known of a slot. One without links needs no walk.
    fn reach(&self, slot: u32, known: &HashMap<u32, Reach>) -> Option<Reach> {
        match self.links_of(slot) {
            [] => Some(Reach::Known {
                depth: 0,
                visits: 1,
                newest: self
                    .at(slot)
                    .map_or(Version::ZERO, |slot| slot.loaded.changed_at()),
            }),
            _ => known.get(&slot).copied(),
        }
    }

    /// Works a slot out from the slots it uses. One that is still on the path closes a cycle.
    fn sum_up(&self, slot: u32, known: &HashMap<u32, Reach>) -> Reach {
        let own = self.at(slot).map(|slot| slot.loaded.changed_at());
        let mut sum = (0, 1_u64, own.unwrap_or_default());
        for link in self.links_of(slot) {
            let Some(Reach::Known {
                depth,
                visits,
                newest,
            }) = self.reach(link.slot, known)
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

    /// Counts the states that one uses, directly or not, until there are too many.
    fn closure_is_small(&self, start: u32) -> bool {
        let mut seen = std::collections::BTreeSet::new();
        let mut waiting = vec![start];
        while let Some(slot) = waiting.pop() {
            for link in self.links_of(slot) {
                if seen.insert(link.slot) {
                    waiting.push(link.slot);
                }
            }
            if seen.len() > CLOSURE_MAX {
                return false;
            }
        }
        true
    }
}

impl Slots for Table {
    fn flag(&mut self, key: &FlagKey) -> u32 {
        self.slot_for(StateKind::Flag, &key.shared())
    }

    fn segment(&mut self, key: &SegmentKey) -> u32 {
        self.slot_for(StateKind::Segment, &key.shared())
    }
}

/// With more visits than this it pays to remember outcomes.
const HEAVY_VISITS_MIN: u64 = 64;

/// What is known of the states below a slot.
#[derive(Clone, Copy)]
enum Reach {
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

/// Counts how often each slot is named.
fn links(mut named: Vec<u32>) -> Box<[Link]> {
    named.sort_unstable();
    let times = |group: &[u32]| Link {
        slot: group[0],
        times: group.len() as u64,
    };
    named.chunk_by(|a, b| a == b).map(times).collect()
}
