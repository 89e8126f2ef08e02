//! Frozen vectors: buckets and stored bytes. A line that changes is a new algorithm or format.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, environment, object, serving, switch, version};
use pennon_evaluator::wire::{Ages, FrameDecoder, Intent, SharedFrame, StreamMessage};
use pennon_evaluator::{
    Detail, EncodedState, EvaluationState, Snapshot, StateKey, StateKind, Subject, bucket,
};
use serde_json::{Value, json};

#[test]
fn buckets_are_those_of_the_independent_implementation() {
    let files = [
        (include_str!("../testdata/bucket-murmur3-v1.jsonl"), 693),
        (
            include_str!("../testdata/bucket-murmur3-v1-random.jsonl"),
            10_000,
        ),
        (
            include_str!("../testdata/bucket-murmur3-v1-texts.jsonl"),
            1_572,
        ),
    ];
    for (file, count) in files {
        assert_eq!(file.lines().count(), count);
        for line in file.lines() {
            let (salt, value, total, wanted): (String, String, u32, u32) =
                serde_json::from_str(line).unwrap();
            assert_eq!(bucket(&salt, &value, total), wanted, "{line}"); // I7
        }
    }
}

/// A flag `f` that serves everybody by this rollout, and `a` to those it passes over.
fn splitting(rollout: &Value) -> Snapshot {
    let variants = json!({"a": 1, "b": 2, "c": 3, "d": 4});
    let config = json!({"type": "number", "variants": variants, "off_variant": "a"});
    let rules = json!([{"when": [], "serve": {"rollout": rollout}}]);
    let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "a"}});
    World::default().with_flag("f", 1, config, policy).load()
}

#[test]
fn numbers_are_bucketed_by_their_decimal_form() {
    let file = include_str!("../testdata/bucket-murmur3-v1-numbers.jsonl");
    assert_eq!(file.lines().count(), 290);
    for line in file.lines() {
        let (salt, number, total, wanted): (String, Value, u32, Option<u32>) =
            serde_json::from_str(line).unwrap();
        let weights = json!([{"variant": "a", "weight": total}]);
        let snapshot = splitting(&json!({"bucket_by": "n", "salt": salt, "weights": weights}));
        let subject = Subject::from_json("u", &object(json!({"n": number}))).unwrap();
        let found = snapshot.evaluate("f", &subject);
        assert_eq!(found.bucket, wanted, "{line}"); // I7
        let missing = (
            found.detail == Some(Detail::BucketingKeyMissing),
            wanted.is_none(),
        );
        assert_eq!(missing.0, missing.1, "{line}");
    }
}

/// From what people write to the answer, with borders of shares on either side of the bucket.
#[test]
fn shares_are_those_of_the_independent_implementation() {
    let file = include_str!("../testdata/bucket-murmur3-v1-splits.jsonl");
    assert_eq!(file.lines().count(), 2_000);
    let (mut firsts, mut lasts) = (0, 0);
    for line in file.lines() {
        let (salt, key, shares, bucket, place): (_, _, Vec<(String, u32)>, u32, usize) =
            serde_json::from_str::<(String, String, _, _, _)>(line).unwrap();
        let weights = shares.iter();
        let weights =
            weights.map(|(variant, weight)| json!({"variant": variant, "weight": weight}));
        let weights: Vec<Value> = weights.collect();
        let snapshot = splitting(&json!({"salt": salt, "weights": weights}));
        let subject = Subject::new(key);
        let found = snapshot.evaluate("f", &subject);
        assert_eq!(found.bucket, Some(bucket), "{line}"); // I7
        assert_eq!(found.variant, Some(shares[place].0.as_str()), "{line}"); // I7
        let start: u32 = shares[..place].iter().map(|(_, weight)| weight).sum();
        firsts += u32::from(bucket == start);
        lasts += u32::from(bucket + 1 == start + shares[place].1);
    }
    assert!(firsts > 500 && lasts > 500, "{firsts} {lasts}");
}

/// A range of exactly the slot takes the subject in, one that ends before it or begins after it does not.
#[test]
fn slots_of_layers_are_those_of_the_independent_implementation() {
    let file = include_str!("../testdata/bucket-murmur3-v1-layers.jsonl");
    assert_eq!(file.lines().count(), 500);
    for line in file.lines() {
        let (layer, key, slot): (String, String, u32) = serde_json::from_str(line).unwrap();
        let subject = Subject::new(key);
        let takes_part = |range: [u32; 2]| {
            let layer = json!({"key": layer, "range": range});
            let weights = json!([{"variant": "b", "weight": 1}]);
            let snapshot =
                splitting(&json!({"weights": weights, "experiment": {"key": "e", "layer": layer}}));
            snapshot.evaluate("f", &subject).variant == Some("b")
        };
        assert!(takes_part([slot, slot + 1]), "{line}"); // I7
        assert!(slot == 0 || !takes_part([0, slot]), "{line}");
        assert!(slot == 9_999 || !takes_part([slot + 1, 10_000]), "{line}");
    }
}

#[test]
fn a_bucket_is_below_the_total() {
    let totals = [0, 1, 2, 7, i32::MAX as u32, u32::MAX];
    for total in totals {
        for n in 0..1_000 {
            let place = bucket("salt", &n.to_string(), total);
            assert!(place < total.max(1), "{place} of {total}");
        }
    }
}

/// Something of everything that a state can hold.
fn world() -> World {
    let everything = json!([
        {"attribute": "country", "op": "in", "values": ["FR", "DE", 7, -1.5, true]},
        {"attribute": "mail", "op": "contains", "values": ["@"]},
        {"attribute": "mail", "op": "starts_with", "values": ["a"], "negate": true},
        {"attribute": "mail", "op": "ends_with", "values": [".org", ".de"]},
        {"attribute": "age", "op": "lt", "values": [90]},
        {"attribute": "age", "op": "lte", "values": [90]},
        {"attribute": "age", "op": "gt", "values": [17.5]},
        {"attribute": "age", "op": "gte", "values": [18]},
        {"attribute": "app", "op": "semver_eq", "values": ["2"]},
        {"attribute": "app", "op": "semver_lt", "values": ["3-rc.1"]},
        {"attribute": "app", "op": "semver_lte", "values": ["3"]},
        {"attribute": "app", "op": "semver_gt", "values": ["v1.2"]},
        {"attribute": "app", "op": "semver_gte", "values": ["1.2.3+build"]},
        {"op": "in_segment", "values": ["staff", "beta"]},
        {"attribute": "subject_key", "op": "exists", "negate": true},
    ]);
    let policy = json!({
        "enabled": true,
        "prerequisites": [{"flag": "base", "variants": ["on"]}],
        "targets": [{"variant": "b", "subjects": ["zoe", "adam"]}, {"variant": "a", "subjects": ["bob"]}],
        "rules": [{"id": "all", "when": everything, "serve": {"variant": "a"}},
                  {"when": [], "serve": {"rollout": {"bucket_by": "org", "salt": "pepper", "weights":
                      [{"variant": "b", "weight": 1}, {"variant": "a", "weight": 99_999}]}}}],
        "default": {"rollout": {"weights": [{"variant": "b", "weight": 5}]}},
    });
    let config = json!({
        "type": "object", "variants": {"b": {"y": [1, null], "x": "ü"}, "a": {}}, "off_variant": "a",
        "description": "left out", "tags": ["left out"], "on_stale": "default", "track": true,
    });
    let share = json!({"rules": [{"when": [], "rollout": {"share": 5_000, "of": 100_000}}]});
    World::default()
        .with_flag("base", 3, switch(), serving("on"))
        .with_flag("everything", 258, config, policy)
        .with_segment("beta", 5, share)
        .with_segment(
            "staff",
            6,
            json!({"included": ["zoe", "adam"], "excluded": ["bob"]}),
        )
}

/// The same, and a flag with what states could not hold at first.
fn grown_world() -> World {
    let when = json!([
        {"attribute": "mail", "op": "matches", "values": ["@example\\.(com|org)$", "(?i)^ada"], "negate": true},
        {"attribute": "since", "op": "before", "values": ["2026-11-22T16:00:00.5+01:00", -1]},
        {"attribute": "since", "op": "after", "values": ["0000-01-01T00:00:00+23:59", 1e3]},
        {"attribute": "ip", "op": "in_cidr", "values": ["10.1.2.3/8", "2001:db8::/32", "::ffff:192.0.2.1", "::/0"]},
    ]);
    let weights = json!([{"variant": "on", "weight": 1}, {"variant": "off", "weight": 2}]);
    let layer = json!({"key": "checkout", "range": [2_500, 10_000]});
    let policy = json!({
        "enabled": true,
        "rules": [
            {"id": "layered", "when": when, "serve": {"rollout": {"bucket_by": "org", "weights": weights,
                "experiment": {"key": "ckt-42", "layer": layer, "holdout": "beta"}}}},
            {"when": [], "serve": {"rollout": {"weights": weights, "experiment": {"key": "ckt-43"}}}},
        ],
        "default": {"variant": "off"},
    });
    world().with_flag("experimental", 259, switch(), policy)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn states_have_the_frozen_bytes() {
    let mut found = String::new();
    for state in grown_world().states() {
        let encoded = EncodedState::new(&environment(), &state);
        let (key, bytes) = (encoded.state_key(), hex(encoded.bytes()));
        found += &format!("{key} {:032x} {bytes}\n", encoded.hash());
    }
    let frozen = include_str!("../testdata/state-format-1.txt");
    assert_eq!(found, frozen, "I4: stored bytes changed; found:\n{found}");
    for line in frozen.lines() {
        let bytes = unhex(line.rsplit(' ').next().unwrap());
        let state = EvaluationState::decode(&bytes).unwrap();
        assert_eq!(hex(&state.encode()), hex(&bytes));
    }
}

/// The layout, written down by hand once.
#[test]
fn the_layout_is_the_documented_one() {
    let mut bytes = vec![1_u8];
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(1_u32.to_le_bytes()); // a segment
    text(&mut bytes, "staff");
    bytes.extend(6_u64.to_le_bytes()); // policy_at
    bytes.extend(6_u64.to_le_bytes()); // changed_at
    bytes.extend(2_u64.to_le_bytes()); // included
    text(&mut bytes, "adam");
    text(&mut bytes, "zoe");
    bytes.extend(1_u64.to_le_bytes()); // excluded
    text(&mut bytes, "bob");
    bytes.extend(0_u64.to_le_bytes()); // segments
    bytes.extend(0_u64.to_le_bytes()); // rules
    assert_eq!(
        hex(&world().compile_segment("staff").unwrap().encode()),
        hex(&bytes)
    );
}

#[test]
fn frames_have_the_frozen_bytes() {
    let segment = world().compile_segment("beta").unwrap().encode();
    let snapshot = world().snapshot(9);
    let gone = StateKey::new(StateKind::Flag, "gone").unwrap();
    let messages = [
        StreamMessage::Hello {
            cluster_id: "c-1".into(),
            environment: environment(),
            intent: Intent::Changes,
            version: version(9),
            staleness_bound_ms: 10_000,
            heartbeat_ms: 3_000,
        },
        StreamMessage::Snapshot {
            version: version(9),
            states: vec![segment.clone()],
            digest: snapshot.digest(),
        },
        StreamMessage::Delta {
            from: version(9),
            to: version(11),
            upserts: vec![segment],
            removals: vec![gone],
            digest: snapshot.digest(),
        },
        StreamMessage::Heartbeat {
            version: version(11),
        },
        StreamMessage::Goodbye { retry_ms: 250 },
        StreamMessage::Reset {
            reason: "too far behind".into(),
        },
        StreamMessage::Acknowledge {
            version: version(11),
        },
    ];
    let mut found = String::new();
    let mut decoder = FrameDecoder::default();
    for (n, message) in messages.iter().enumerate() {
        let frame = SharedFrame::encode(message).unwrap();
        let ages = Ages {
            open_ms: 1_000 * n as u64,
            fresh_age_ms: n as u64,
        };
        let bytes = [&frame.header(ages)[..], frame.body()].concat();
        assert_eq!(bytes.len(), frame.len());
        found += &format!("{} {}\n", message.name(), hex(&bytes));
        decoder.push(&bytes);
        assert_eq!(decoder.pull().unwrap(), Some((ages, message.clone())));
    }
    let frozen = include_str!("../testdata/frame-format-1.txt");
    assert_eq!(found, frozen, "the frames changed; found:\n{found}");
}
