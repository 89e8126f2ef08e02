//! Snapshot plus deltas equals snapshot; a refused delta changes nothing; nothing goes back (I3,
//! I4, I6, I8).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, environment, serving, switch, version};
use pennon_evaluator::{
    ConfigSnapshot, Delta, DeltaRefused, Digest, EncodedState, EnvironmentKey, Snapshot,
    SnapshotRefused, StateKey, StateKind, Subject,
};
use proptest::prelude::*;
use serde_json::json;

const KEYS: u64 = 6;

/// A world in which flag or segment `n` is as `contents[n]` says: absent (0) or in one of two forms.
fn world(contents: &[u8]) -> World {
    let mut world = World::default().with_segment("base", 1, json!({"included": ["u"]}));
    for (n, content) in contents
        .iter()
        .enumerate()
        .filter(|(_, content)| **content > 0)
    {
        let variant = if *content == 1 { "on" } else { "off" };
        if n % 2 == 0 {
            let rule = json!({"when": [{"op": "in_segment", "values": ["base"]}], "serve": {"variant": variant}});
            let policy = json!({"enabled": true, "rules": [rule], "default": {"variant": "off"}});
            world = world.with_flag(&format!("f{n}"), u64::from(*content), switch(), policy);
        } else {
            world = world.with_segment(
                &format!("s{n}"),
                u64::from(*content),
                json!({"included": [variant]}),
            );
        }
    }
    world
}

/// Everything that can be asked of a loaded snapshot.
fn answers(snapshot: &Snapshot) -> Vec<String> {
    let keys = (0..KEYS).map(|n| format!("f{n}"));
    let mut answers: Vec<String> = keys
        .map(|key| format!("{:?}", snapshot.evaluate(&key, &Subject::new("u"))))
        .collect();
    answers.extend(snapshot.flags().map(|key| key.to_string()));
    answers.push(format!("{snapshot:?}"));
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn snapshot_and_deltas_equal_snapshot(
        contents in prop::collection::vec(prop::collection::vec(0_u8..3, KEYS as usize), 2..6),
    ) {
        let snapshots: Vec<ConfigSnapshot> =
            contents.iter().enumerate().map(|(n, c)| world(c).snapshot(10 + n as u64)).collect();
        let mut config = snapshots[0].clone();
        let mut loaded = Snapshot::load(&config).unwrap();
        for wanted in &snapshots[1..] {
            let delta = ConfigSnapshot::diff(&config, wanted);
            let bytes = bincode::serialize(&delta).unwrap();
            let delta: Delta = bincode::deserialize(&bytes).unwrap();
            config = config.apply(&delta).unwrap();
            prop_assert_eq!(&config, wanted);
            loaded = loaded.apply(&delta).unwrap();
            prop_assert_eq!(&loaded.to_config_snapshot(), wanted);
            prop_assert_eq!(answers(&loaded), answers(&Snapshot::load(wanted).unwrap()));
        }
    }

    #[test]
    fn the_digest_does_not_depend_on_order(
        hashes in prop::collection::vec(any::<u128>(), 0..20), split in any::<prop::sample::Index>(),
    ) {
        let sum = |list: &[u128]| {
            let mut digest = Digest::EMPTY;
            list.iter().for_each(|hash| digest.add(*hash));
            digest
        };
        let mut turned = hashes.clone();
        turned.rotate_left(split.index(hashes.len() + 1).min(hashes.len()));
        prop_assert_eq!(sum(&turned), sum(&hashes));
        let mut emptied = sum(&hashes);
        turned.iter().for_each(|hash| emptied.remove(*hash));
        prop_assert_eq!(emptied, Digest::EMPTY);
    }
}

fn refused(wanted: impl Fn(&DeltaRefused) -> bool, change: impl Fn(&mut Delta)) {
    let (old, new) = (
        world(&[1, 1, 1]).snapshot(10),
        world(&[2, 0, 1, 1]).snapshot(12),
    );
    let mut delta = ConfigSnapshot::diff(&old, &new);
    assert!(old.apply(&delta).is_ok());
    change(&mut delta);
    let loaded = Snapshot::load(&old).unwrap();
    let before = (old.clone(), answers(&loaded));
    let refusal = old.apply(&delta);
    assert!(refusal.as_ref().is_err_and(&wanted), "{refusal:?}");
    let refusal = loaded.apply(&delta).map(|_| ());
    assert!(refusal.as_ref().is_err_and(&wanted), "{refusal:?}");
    assert_eq!((old, answers(&loaded)), before);
}

#[test]
fn a_refused_delta_changes_nothing() {
    use DeltaRefused as No;
    refused(
        |no| matches!(no, No::WrongBase { .. }),
        |delta| delta.from = version(9),
    );
    refused(
        |no| matches!(no, No::WrongBase { .. }),
        |delta| delta.from = version(11),
    );
    refused(
        |no| matches!(no, No::NotNewer { .. }),
        |delta| delta.to = version(10),
    );
    refused(
        |no| matches!(no, No::NotNewer { .. }),
        |delta| delta.to = version(9),
    );
    refused(
        |no| matches!(no, No::DigestMismatch { .. }),
        |delta| delta.digest.add(1),
    );
    refused(
        |no| matches!(no, No::DigestMismatch { .. }),
        |delta| drop(delta.upserts.pop()),
    );
    refused(
        |no| matches!(no, No::DigestMismatch { .. }),
        |delta| delta.removals.clear(),
    );
    let other: EnvironmentKey = "staging".parse().unwrap();
    refused(
        |no| matches!(no, No::WrongEnvironment { .. }),
        |delta| delta.environment = other.clone(),
    );
    refused(
        |no| matches!(no, No::Twice { .. }),
        |delta| delta.upserts.push(delta.upserts[0].clone()),
    );
    let of = |state: &EncodedState| state.state_key().clone();
    refused(
        |no| matches!(no, No::Twice { .. }),
        |delta| delta.removals.push(of(&delta.upserts[0])),
    );
}

#[test]
fn a_delta_with_an_unreadable_state_is_refused_when_loaded() {
    let old = world(&[1]).snapshot(10);
    let mut bytes = world(&[2]).compile_flag("f0").unwrap().encode().to_vec();
    bytes.pop();
    let broken = EncodedState::from_bytes(&environment(), bytes.into()).unwrap();
    let mut digest = old.digest();
    let key = StateKey::new(StateKind::Flag, "f0").unwrap();
    digest.remove(old.state(&key).unwrap().hash());
    digest.add(broken.hash());
    let (from, to) = (version(10), version(11));
    let upserts = vec![broken];
    let delta = Delta {
        environment: environment(),
        from,
        to,
        upserts,
        removals: vec![],
        digest,
    };
    let loaded = Snapshot::load(&old).unwrap();
    let before = answers(&loaded);
    assert!(
        matches!(loaded.apply(&delta), Err(DeltaRefused::Undecodable { key: k, .. }) if k == key)
    );
    assert_eq!(answers(&loaded), before);
}

#[test]
fn heartbeats_only_go_forward() {
    let loaded = world(&[1]).load();
    let config = world(&[1]).snapshot(1_000);
    assert_eq!(
        loaded.with_version(version(1_001)).unwrap().version(),
        version(1_001)
    );
    assert_eq!(
        loaded.with_version(version(1_000)).unwrap().version(),
        version(1_000)
    );
    let (have, to) = (version(1_000), version(999));
    let refusal = Some(DeltaRefused::NotNewer { have, to });
    assert_eq!(loaded.with_version(to).err(), refusal); // I6
    assert_eq!(config.clone().with_version(to).err(), refusal);
    assert_eq!(
        config.with_version(version(1_002)).unwrap().version(),
        version(1_002)
    );
}

#[test]
fn a_snapshot_must_add_up() {
    let snapshot = world(&[1, 2]).snapshot(7);
    let bytes = || {
        snapshot
            .states()
            .iter()
            .rev()
            .map(|state| state.bytes().clone())
            .collect::<Vec<_>>()
    };
    let make =
        |states, digest| ConfigSnapshot::from_bytes(environment(), version(7), states, digest);
    assert_eq!(make(bytes(), snapshot.digest()), Ok(snapshot.clone()));
    let missing = bytes().split_off(1);
    assert!(matches!(
        make(missing, snapshot.digest()),
        Err(SnapshotRefused::DigestMismatch { .. })
    ));
    let twice = [bytes(), bytes()].concat();
    assert!(matches!(
        make(twice, snapshot.digest()),
        Err(SnapshotRefused::Twice { .. })
    ));
    let elsewhere: EnvironmentKey = "prodUction".parse().unwrap();
    let moved = ConfigSnapshot::from_bytes(elsewhere, version(7), bytes(), snapshot.digest());
    assert!(matches!(moved, Err(SnapshotRefused::DigestMismatch { .. })));
    let stored = bincode::serialize(&snapshot).unwrap();
    assert_eq!(
        bincode::deserialize::<ConfigSnapshot>(&stored).unwrap(),
        snapshot
    );
}

#[test]
fn digests_are_32_digits() {
    let digest = Digest::new(0xab);
    assert_eq!(digest.to_string(), "000000000000000000000000000000ab");
    assert_eq!(
        serde_json::to_value(digest).unwrap(),
        json!("000000000000000000000000000000ab")
    );
    assert_eq!("000000000000000000000000000000ab".parse(), Ok(digest));
    for wrong in [
        "ab",
        "000000000000000000000000000000AB",
        "+00000000000000000000000000000ab",
        "",
    ] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}

/// The version of an answer rises when anything it uses changes, with a delta of that state alone.
#[test]
fn a_changed_segment_raises_the_version_of_its_users_only() {
    let nested = json!({"rules": [{"when": [{"op": "in_segment", "values": ["inner"]}]}]});
    let rule =
        json!({"when": [{"op": "in_segment", "values": ["outer"]}], "serve": {"variant": "on"}});
    let policy = json!({"enabled": true, "rules": [rule], "default": {"variant": "off"}});
    let dependent = json!({"enabled": true, "prerequisites": [{"flag": "user", "variants": ["on"]}],
                           "default": {"variant": "on"}});
    let old = World::default()
        .with_segment("inner", 1, json!({}))
        .with_segment("outer", 2, nested)
        .with_flag("user", 3, switch(), policy)
        .with_flag("dependent", 4, switch(), dependent)
        .with_flag("other", 5, switch(), serving("on"));
    let new = old
        .clone()
        .with_segment("inner", 9, json!({"included": ["u"]}));
    let (before, after) = (old.snapshot(5), new.snapshot(9));
    let delta = ConfigSnapshot::diff(&before, &after);
    assert_eq!(delta.upserts.len(), 1);
    let before = Snapshot::load(&before).unwrap();
    let after = before.apply(&delta).unwrap();
    let seen = |snapshot: &Snapshot, flag| {
        let found = snapshot.evaluate(flag, &Subject::new("u"));
        (
            found.variant.unwrap_or_default().to_owned(),
            found.config_version.get(),
        )
    };
    assert_eq!(seen(&before, "user"), ("off".to_owned(), 3));
    assert_eq!(seen(&before, "dependent"), ("off".to_owned(), 4));
    assert_eq!(seen(&after, "user"), ("on".to_owned(), 9));
    assert_eq!(seen(&after, "dependent"), ("on".to_owned(), 9));
    assert_eq!(seen(&after, "other"), ("on".to_owned(), 5));
}
