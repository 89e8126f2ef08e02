//! I6: an evaluator never goes back. Per client the versions it decides at never fall, and neither
//! does the version of any one flag's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Complaints, Verdict};

/// One evaluation, as the application saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluated {
    /// Which client.
    pub client: u32,
    /// The flag.
    pub flag: Arc<str>,
    /// The version of the snapshot it was decided from.
    pub snapshot_version: u64,
    /// The version at which the flag's state last changed.
    pub config_version: u64,
}

/// How I6 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A later evaluation was decided from an older snapshot.
    SnapshotFell,
    /// A later evaluation used an older state of the same flag.
    StateFell,
    /// A state is newer than the snapshot it is in.
    StateAheadOfSnapshot,
}

/// Judges evaluations in the order in which each client made them. Fewer than `changes_min`
/// different snapshots show too little.
pub fn check(evaluations: &[Evaluated], changes_min: usize) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let mut snapshots: BTreeMap<u32, u64> = BTreeMap::new();
    let mut states: BTreeMap<(u32, &str), u64> = BTreeMap::new();
    let mut changes = 0;
    for (at, one) in evaluations.iter().enumerate() {
        let (client, version) = (one.client, one.snapshot_version);
        let before = snapshots.insert(client, version);
        changes += usize::from(before.is_some_and(|before| version > before));
        // I6
        if let Some(before) = before.filter(|before| version < *before) {
            complaints.add(
                Rule::SnapshotFell,
                format!("client {client}, evaluation {at}: {before}, then {version}"),
            );
        }
        let config = one.config_version;
        let before = states.insert((client, &one.flag), config);
        if let Some(before) = before.filter(|before| config < *before) {
            let what = format!(
                "client {client}, evaluation {at} of {}: {before}, then {config}",
                one.flag
            );
            complaints.add(Rule::StateFell, what);
        }
        if config > version {
            let what = format!(
                "client {client}, {}: state {config} in snapshot {version}",
                one.flag
            );
            complaints.add(Rule::StateAheadOfSnapshot, what);
        }
    }
    complaints.verdict(|| match changes >= changes_min {
        true => Verdict::Valid(format!(
            "{} evaluations, {changes} rises",
            evaluations.len()
        )),
        false => Verdict::Unknown(format!(
            "{changes} rises of the version, {changes_min} are needed"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(client: u32, snapshot_version: u64, config_version: u64) -> Evaluated {
        Evaluated {
            client,
            flag: "f".into(),
            snapshot_version,
            config_version,
        }
    }

    fn complaint(evaluations: &[Evaluated]) -> Rule {
        match check(evaluations, 0) {
            Verdict::Invalid(complaints) => complaints.first[0].0,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn rising_versions_are_valid_and_clients_are_apart() {
        let rising = [
            evaluated(1, 5, 3),
            evaluated(1, 5, 3),
            evaluated(2, 4, 3),
            evaluated(1, 9, 8),
            evaluated(2, 9, 8),
        ];
        assert!(check(&rising, 2).is_valid());
        assert!(check(&rising, 3).is_unknown());
    }

    #[test]
    fn falling_versions_are_invalid_each_for_its_reason() {
        assert_eq!(
            complaint(&[evaluated(1, 5, 3), evaluated(1, 4, 3)]),
            Rule::SnapshotFell
        );
        assert_eq!(
            complaint(&[evaluated(1, 5, 3), evaluated(1, 6, 2)]),
            Rule::StateFell
        );
        assert_eq!(complaint(&[evaluated(1, 5, 6)]), Rule::StateAheadOfSnapshot);
    }
}
