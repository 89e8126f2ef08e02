//! Snapshot: a ConfigSnapshot made ready for evaluation.
//!
//! What must hold: loading is a pure function of the bytes; moving on by a delta gives what loading
//! the new ConfigSnapshot would give, at the cost of the states that changed (every other one is
//! shared), and a refused delta changes nothing (I3, I6, I8).
//!
//! Left out: what a state becomes (`program.rs`), where it is (`table.rs`), deciding (`decide.rs`).

use std::sync::Arc;

use crate::encoding::{DecodeError, EncodedState};
use crate::ids::{EnvironmentKey, FlagKey, StateKey, Version};
use crate::snapshot::{ConfigSnapshot, Delta, DeltaRefused, Digest};
use crate::table::Table;

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
        let table = Table::load(config.states());
        let table = table.map_err(|(key, error)| LoadError { key, error })?;
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
        let table = self.table.change(&delta.upserts, &delta.removals);
        let table = table.map_err(|(key, error)| DeltaRefused::Undecodable { key, error })?;
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

    /// Returns the keys of all flags, archived ones too, sorted.
    pub fn flags(&self) -> impl Iterator<Item = &FlagKey> {
        self.table.all_flags().map(|flag| &flag.key)
    }

    /// Returns the flags that may be decided otherwise than at an earlier snapshot, sorted: those that
    /// are new or changed, and those that use, directly or not, a flag or segment that did.
    ///
    /// The cost is that of what changed, and far less than a nanosecond for each other flag. `None` says
    /// nothing about flags: a state is gone since, or one of the two snapshots did not come from the
    /// other by deltas. Then all states have to be compared.
    ///
    /// ```
    /// use pennon_evaluator::{ConfigSnapshot, Delta, Snapshot, Version};
    /// let at = |version| ConfigSnapshot::empty("production".parse().unwrap(), Version::new(version).unwrap());
    /// let earlier = Snapshot::load(&at(1)).unwrap();
    /// let delta: Delta = ConfigSnapshot::diff(&at(1), &at(2));
    /// assert_eq!(earlier.apply(&delta).unwrap().flags_moved_since(&earlier), Some(vec![]));
    /// ```
    pub fn flags_moved_since(&self, earlier: &Snapshot) -> Option<Vec<FlagKey>> {
        if Arc::ptr_eq(&self.table, &earlier.table) {
            return Some(Vec::new());
        }
        let mut moved = self.table.moved_since(&earlier.table)?;
        moved.sort_unstable();
        Some(moved.into_iter().cloned().collect())
    }

    /// Says whether there is such a flag, archived or not.
    pub fn has_flag(&self, key: &str) -> bool {
        self.table.find_flag(key).is_some()
    }

    /// Returns one state as it was received.
    pub fn state(&self, key: &StateKey) -> Option<&EncodedState> {
        self.table.state(key)
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

    #[test]
    fn what_moved_is_seen_unless_something_is_gone_or_all_was_loaded_anew() {
        let environment: EnvironmentKey = "production".parse().unwrap();
        let config = |at: u64, flags: &[(usize, u64)]| {
            let flags = flags.iter();
            let states = flags
                .map(|(n, at)| flag(&environment, &format!("f{n}"), Version::new(*at).unwrap()));
            ConfigSnapshot::new(
                environment.clone(),
                Version::new(at).unwrap(),
                states.collect(),
            )
            .unwrap()
        };
        let all: Vec<(usize, u64)> = (0..100).map(|n| (n, 1)).collect();
        let first = config(1, &all);
        let loaded = Snapshot::load(&first).unwrap();
        let mut changed = all.clone();
        changed[70].1 = 2;
        changed.push((100, 2));
        let second = config(2, &changed);
        let later = loaded
            .apply(&ConfigSnapshot::diff(&first, &second))
            .unwrap();
        let moved = later.flags_moved_since(&loaded).unwrap();
        let moved: Vec<&str> = moved.iter().map(FlagKey::as_str).collect();
        assert_eq!(moved, ["f100", "f70"]);
        assert_eq!(
            later
                .with_version(Version::new(9).unwrap())
                .unwrap()
                .flags_moved_since(&later),
            Some(vec![])
        );
        // There is less in it, so something is gone.
        assert_eq!(loaded.flags_moved_since(&later), None);
        let third = config(3, &changed[1..]);
        let last = later.apply(&ConfigSnapshot::diff(&second, &third)).unwrap();
        assert_eq!(last.flags_moved_since(&later), None);
        let anew = Snapshot::load(&third).unwrap();
        assert_eq!(anew.flags_moved_since(&later), None);
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
            slots_max = slots_max.max(loaded.table.len());
            before = after;
        }
        assert!((1_000..1_100).contains(&slots_max), "{slots_max}");
        assert_eq!(loaded.to_config_snapshot(), before);
        let keys: Vec<&str> = loaded.flags().map(|key| key.as_str()).collect();
        assert_eq!(keys, ["f3999", "kept"]);
    }
}
