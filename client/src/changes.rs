//! Which flags changed: what [`Client::changes`](crate::Client::changes) gives.
//!
//! What must hold: a flag is named when its own state changed or that of anything it uses, directly or
//! not, and no flag is missed, whatever came in between: what is compared is the state that the
//! reader was told of last with the newest one. So there is no queue that could run over; a slow
//! reader gets fewer and larger changes.
//!
//! Left out: how states arrive. Whether by delta or whole makes no difference here.

use std::collections::BTreeSet;
use std::sync::Arc;

use pennon_evaluator::{EncodedState, FlagKey, Snapshot, StateKey, StateKind, Subject, Version};
use tokio::sync::watch;

use crate::held::Held;

/// Flags that changed, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    version: Version,
    flags: Vec<FlagKey>,
}

impl Change {
    /// Returns the version at which all of these changes are there.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the keys of the flags, sorted: those that are new, gone, or changed, and those that use
    /// a flag or segment that did.
    pub fn flags(&self) -> &[FlagKey] {
        &self.flags
    }

    /// Says whether a flag is among them.
    pub fn affects(&self, flag: &str) -> bool {
        let found = self.flags.binary_search_by(|key| key.as_str().cmp(flag));
        found.is_ok()
    }
}

/// Waits for flags to change.
///
/// ```no_run
/// # async fn example(flags: pennon_client::Client) {
/// let mut changes = flags.changes();
/// while let Some(change) = changes.next().await {
///     if change.affects("checkout.new-ui") {
///         println!("looked at again, as of version {}", change.version());
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Changes {
    held: watch::Receiver<Option<Arc<Held>>>,
    /// What the reader knows of.
    seen: Option<Arc<Held>>,
}

impl Changes {
    pub(crate) fn new(mut held: watch::Receiver<Option<Arc<Held>>>) -> Changes {
        let seen = held.borrow_and_update().clone();
        Changes { held, seen }
    }

    /// Waits for the next change: all flags at first, if there was no state when this began. Changes
    /// that came in between are one; what was changed and changed back is none. `None` once the
    /// client is gone.
    ///
    /// It compares what changed with what was there. Only when a flag or segment is gone, or the state
    /// came whole, all states of the environment are compared: some milliseconds for ten thousand.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            self.held.changed().await.ok()?;
            let Some(now) = self.held.borrow_and_update().clone() else {
                continue;
            };
            let before = self.seen.replace(Arc::clone(&now));
            let before = before.as_ref().map(|held| &held.snapshot);
            let flags = differing(before, &now.snapshot);
            if !flags.is_empty() {
                let version = now.snapshot.version();
                return Some(Change { version, flags });
            }
        }
    }
}

/// Returns the flags that one snapshot may decide otherwise than another, sorted.
fn differing(before: Option<&Snapshot>, after: &Snapshot) -> Vec<FlagKey> {
    let Some(before) = before else {
        return after.flags().cloned().collect();
    };
    if let Some(moved) = after.flags_moved_since(before) {
        return moved;
    }
    let (old, new) = (before.to_config_snapshot(), after.to_config_snapshot());
    let is_gone = |state: &&EncodedState| new.state(state.state_key()).is_none();
    let gone = old.states().iter().filter(is_gone);
    let gone: BTreeSet<StateKey> = gone.map(|state| state.state_key().clone()).collect();
    // A key that is gone takes nothing with it, so its users do not show by their versions.
    let mut touched = users_of(gone, old.states());
    for state in new.states() {
        let was = old.state(state.state_key());
        let is_flag = state.kind() == StateKind::Flag;
        if is_flag && (was != Some(state) || moved(state.key(), before, after)) {
            touched.insert(state.state_key().clone());
        }
    }
    let flags = touched.iter().filter(|key| key.kind() == StateKind::Flag);
    flags.filter_map(|key| key.key().parse().ok()).collect()
}

/// Whether anything that a flag uses changed: the version of its configuration covers all of it.
fn moved(flag: &str, before: &Snapshot, after: &Snapshot) -> bool {
    let nobody = Subject::new("");
    let at = |snapshot: &Snapshot| {
        let decision = snapshot.decide(flag, &nobody);
        snapshot.answer(decision).config_version
    };
    at(before) != at(after)
}

/// Returns these keys and all that use one of them, directly or not.
fn users_of(mut keys: BTreeSet<StateKey>, states: &[EncodedState]) -> BTreeSet<StateKey> {
    if keys.is_empty() {
        return keys;
    }
    let uses =
        |state: &EncodedState| Some((state.state_key().clone(), state.decode().ok()?.uses()));
    let uses: Vec<(StateKey, Vec<StateKey>)> = states.iter().filter_map(uses).collect();
    // A path of users is as long as a path of uses, which is bounded.
    loop {
        let known = keys.len();
        for (key, uses) in &uses {
            if uses.iter().any(|used| keys.contains(used)) {
                keys.insert(key.clone());
            }
        }
        if keys.len() == known {
            return keys;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pennon_evaluator::{
        ConfigSnapshot, FlagConfig, Limits, References, SegmentKey, SegmentPolicy, TargetingPolicy,
        compile_flag, compile_segment,
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::states::{environment, version};

    struct Everything;

    impl References for Everything {
        fn segment_exists(&self, _: &SegmentKey) -> bool {
            true
        }

        fn flag_variants(&self, _: &FlagKey) -> Option<Vec<String>> {
            Some(vec!["on".to_owned(), "off".to_owned()])
        }
    }

    /// Four flags that need the one before, each using a segment; four segments that use the next.
    fn state(flag: bool, n: usize, at: u64) -> EncodedState {
        let (at, limits) = (version(at), Limits::default());
        let segments = |n: usize| json!([{"op": "in_segment", "values": [format!("s{n}")]}]);
        let state = if flag {
            let key: FlagKey = format!("f{n}").parse().unwrap();
            let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
            let mut policy = json!({"enabled": true, "default": {"variant": "on"},
                "rules": [{"when": segments(n), "serve": {"variant": "off"}}]});
            if n > 0 {
                let needed = json!([{"flag": format!("f{}", n - 1), "variants": ["on"]}]);
                policy["prerequisites"] = needed;
            }
            let config = FlagConfig::parse(&key, &config.to_string()).unwrap();
            let policy = TargetingPolicy::parse(&policy.to_string()).unwrap();
            compile_flag(&config, at, &policy, at, at, &Everything, &limits)
        } else {
            let key: SegmentKey = format!("s{n}").parse().unwrap();
            let policy = match n {
                3 => json!({"included": ["u"]}),
                _ => json!({"rules": [{"when": segments(n + 1)}]}),
            };
            let policy = SegmentPolicy::parse(&policy.to_string()).unwrap();
            compile_segment(&key, &policy, at, at, &Everything, &limits)
        };
        EncodedState::new(&environment(), &state.unwrap())
    }

    /// The versions of the states that are there.
    type World = BTreeMap<(bool, usize), u64>;

    fn load(world: &World, at: u64) -> Snapshot {
        let states = world.iter().map(|((flag, n), at)| state(*flag, *n, *at));
        let config = ConfigSnapshot::new(environment(), version(at), states.collect());
        Snapshot::load(&config.unwrap()).unwrap()
    }

    /// All that a flag uses, with the version of each: slow and obvious.
    fn seen_by(n: usize, world: &World) -> Option<BTreeMap<(bool, usize), Option<u64>>> {
        world.get(&(true, n))?;
        let mut seen = BTreeMap::new();
        let mut open = vec![(true, n)];
        while let Some((flag, n)) = open.pop() {
            let found = world.get(&(flag, n)).copied();
            if seen.insert((flag, n), found).is_some() || found.is_none() {
                continue;
            }
            match (flag, n) {
                (true, 0) => open.push((false, 0)),
                (true, n) => open.extend([(true, n - 1), (false, n)]),
                (false, 3) => {}
                (false, n) => open.push((false, n + 1)),
            }
        }
        Some(seen)
    }

    proptest! {
        #[test]
        fn a_flag_is_named_if_and_only_if_anything_it_uses_changed(
            steps in prop::collection::vec((any::<bool>(), 0_usize..4, 0_u8..3), 1..12),
            told in 0_usize..12,
        ) {
            let all = (0..4).flat_map(|n| [(true, n), (false, n)]);
            let mut world: World = all.map(|key| (key, 1)).collect();
            let mut before = world.clone();
            // One that goes on by deltas, and one that is loaded anew each time.
            let mut streamed = load(&world, 1);
            let mut seen = streamed.clone();
            for (step, (flag, n, kind)) in steps.into_iter().enumerate() {
                if step == told {
                    (before, seen) = (world.clone(), streamed.clone());
                }
                match kind {
                    0 => drop(world.remove(&(flag, n))),
                    _ => drop(world.insert((flag, n), step as u64 + 2)),
                }
                let now = load(&world, step as u64 + 2).to_config_snapshot();
                let delta = ConfigSnapshot::diff(&streamed.to_config_snapshot(), &now);
                streamed = streamed.apply(&delta).unwrap();
            }
            let expected: Vec<String> = (0..4)
                .filter(|n| seen_by(*n, &before) != seen_by(*n, &world))
                .map(|n| format!("f{n}"))
                .collect();
            for (before, after) in [(load(&before, 50), load(&world, 60)), (seen, streamed)] {
                let found = differing(Some(&before), &after);
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                prop_assert_eq!(found, &*expected);
            }
        }
    }

    #[test]
    fn without_a_state_before_all_flags_are_new() {
        let world: World = [((true, 0), 1), ((false, 0), 1), ((true, 2), 1)].into();
        let flags = differing(None, &load(&world, 2));
        let change = Change {
            version: version(2),
            flags,
        };
        assert!(change.affects("f0") && change.affects("f2"));
        assert!(!change.affects("f1") && !change.affects("s0"));
        assert_eq!(differing(Some(&load(&world, 2)), &load(&world, 9)), []);
    }
}
