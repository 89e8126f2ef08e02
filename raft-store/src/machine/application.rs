//! What one application needs of an environment.
//!
//! What must hold: what it gets evaluates by itself. Every state that a member uses, directly or
//! not, is a member, so a flag is decided there as it is in the whole environment.
//!
//! Cost: a few look-ups for each member, none for other flags; 10,000 members take milliseconds.
//!
//! Left out: what of this changed between two versions. A change of a tag, an application, a policy
//! or of what a member uses may each change the members.

use std::collections::BTreeSet;

use pennon_evaluator::{ConfigSnapshot, EnvironmentKey, StateKey};

use super::Machine;
use super::derived::tags;
use crate::command::ObjectId;

impl Machine {
    /// The states in an environment that an application needs: of the flags with any of its tags,
    /// and of what those use, directly or not. `None` when there is no such environment or
    /// application. A flag or segment without a state there is not among them.
    pub fn members(
        &self,
        environment: &EnvironmentKey,
        application: &str,
    ) -> Option<BTreeSet<StateKey>> {
        let here = self.environments.get(environment)?;
        let application = self.object(&ObjectId::application(application))?;
        let mut found = BTreeSet::new();
        let tagged = tags(Some(&application.value))
            .into_iter()
            .filter_map(|tag| self.tagged.get(tag.as_str()));
        let mut next: Vec<&StateKey> = tagged.flatten().collect();
        // Each state is looked into once, so a circle that a hostile entry made ends too (I11).
        while let Some(key) = next.pop() {
            if found.contains(key) {
                continue;
            }
            if let Some(state) = here.states.get(key) {
                found.insert(key.clone());
                next.extend(state.uses.iter());
            }
        }
        Some(found)
    }

    /// The ConfigSnapshot of these states of an environment at this version, with a digest of its
    /// own; keys without a state are left out. `None` when there is no such environment.
    pub fn snapshot_of(
        &self,
        environment: &EnvironmentKey,
        keys: &BTreeSet<StateKey>,
    ) -> Option<ConfigSnapshot> {
        let here = self.environments.get(environment)?;
        let states = keys.iter().filter_map(|key| here.states.get(key));
        let states = states.map(|state| state.encoded.clone()).collect();
        // The keys are a set: none is in it twice.
        ConfigSnapshot::new(environment.clone(), self.version(), states).ok()
    }
}
