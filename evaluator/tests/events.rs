//! Server-Sent Events say what frames say, in JSON that any language can check.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, environment, serving, switch, version};
use pennon_evaluator::wire::{Ages, Intent, SharedEvent, StreamMessage};
use pennon_evaluator::{ConfigSnapshot, Digest};
use serde_json::{Value, json};

/// The fields of an event, as a reader of the stream sees them.
fn event(message: &StreamMessage) -> (String, Option<String>, Value) {
    let event = SharedEvent::encode(&environment(), message).unwrap();
    let text = event.head(Ages {
        open_ms: 7,
        fresh_age_ms: 3,
    }) + std::str::from_utf8(event.tail()).unwrap();
    let lines = text
        .strip_suffix("\n\n")
        .expect("an event ends with an empty line");
    let field = |name: &str| {
        let found: Vec<&str> = lines
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .collect();
        assert!(found.len() <= 1, "{name} comes twice in {text}");
        found.first().map(|value| (*value).to_owned())
    };
    let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
    (field("event: ").unwrap(), field("id: "), data)
}

fn world(variant: &str, at: u64) -> ConfigSnapshot {
    let text = json!({"type": "string", "variants": {"a": "line\nbreak \u{2028}", "b": ""}, "off_variant": "b"});
    World::default()
        .with_flag("f", at, switch(), serving(variant))
        .with_flag("text", 1, text, serving("a"))
        .with_segment("s", 2, json!({"included": ["u"]}))
        .snapshot(at)
}

#[test]
fn the_hashes_of_the_states_add_up_to_the_digest() {
    let snapshot = world("on", 3);
    let (name, id, data) = event(&StreamMessage::snapshot(&snapshot));
    assert_eq!((name.as_str(), id.as_deref()), ("snapshot", Some("3")));
    assert_eq!(
        (&data["open_ms"], &data["fresh_age_ms"], &data["version"]),
        (&json!(7), &json!(3), &json!(3))
    );
    let states = data["states"].as_array().unwrap();
    let hash = |state: &Value| u128::from_str_radix(state["hash"].as_str().unwrap(), 16).unwrap();
    let sum = states.iter().map(hash).fold(0, u128::wrapping_add);
    assert_eq!(data["digest"], json!(Digest::new(sum).to_string()));
    assert_eq!(snapshot.to_json().unwrap()["states"], data["states"]);
    assert_eq!(states[1]["variants"]["a"], json!("line\nbreak \u{2028}"));
}

#[test]
fn a_delta_has_its_two_versions_and_what_changed() {
    let (old, new) = (world("on", 3), world("off", 5));
    let mut delta = ConfigSnapshot::diff(&old, &new);
    delta.removals.push(old.states()[1].state_key().clone());
    let (name, id, data) = event(&StreamMessage::delta(&delta));
    assert_eq!((name.as_str(), id.as_deref()), ("delta", Some("5")));
    assert_eq!((&data["from"], &data["to"]), (&json!(3), &json!(5)));
    assert_eq!(data["removals"], json!([{"kind": "flag", "key": "text"}]));
    assert_eq!(data["upserts"][0]["default"], json!({"variant": "off"}));
    assert_eq!(data["digest"], json!(new.digest().to_string()));
}

#[test]
fn only_what_the_reader_then_has_sets_the_id() {
    let hello = StreamMessage::Hello {
        cluster_id: "c".into(),
        environment: environment(),
        intent: Intent::Full,
        version: version(9),
        staleness_bound_ms: 10_000,
        heartbeat_ms: 3_000,
    };
    let (name, id, data) = event(&hello);
    assert_eq!(
        (name.as_str(), id),
        ("hello", None),
        "I8: a hello does not bring its version"
    );
    assert_eq!(
        data,
        json!({
            "open_ms": 7, "fresh_age_ms": 3, "cluster_id": "c", "environment": "production", "intent": "full",
            "version": 9, "staleness_bound_ms": 10_000, "heartbeat_ms": 3_000,
        })
    );
    let (name, id, _) = event(&StreamMessage::Heartbeat {
        version: version(9),
    });
    assert_eq!((name.as_str(), id.as_deref()), ("heartbeat", Some("9")));
    let (name, id, data) = event(&StreamMessage::Goodbye { retry_ms: 250 });
    assert_eq!(
        (name.as_str(), id, &data["retry_ms"]),
        ("goodbye", None, &json!(250))
    );
    let (name, id, data) = event(&StreamMessage::Reset {
        reason: "two\nlines".into(),
    });
    assert_eq!(
        (name.as_str(), id, &data["reason"]),
        ("reset", None, &json!("two\nlines"))
    );
    let (name, id, data) = event(&StreamMessage::Acknowledge {
        version: version(9),
    });
    assert_eq!(
        (name.as_str(), id, &data["version"]),
        ("acknowledge", None, &json!(9))
    );
}

#[test]
fn a_compiled_flag_reads_as_it_was_written() {
    let policy = json!({
        "enabled": true, "prerequisites": [{"flag": "p", "variants": ["on"]}],
        "targets": [{"variant": "on", "subjects": ["zoe", "adam"]}],
        "rules": [{"when": [{"attribute": "v", "op": "semver_gte", "values": ["2.3"], "negate": true},
                            {"attribute": "n", "op": "in", "values": [2, "x", true, 1.5]},
                            {"op": "in_segment", "values": ["s"]}],
                   "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 0}]}}}],
        "default": {"variant": "off"},
    });
    let world = World::default()
        .with_flag("p", 1, switch(), serving("on"))
        .with_flag("f", 4, switch(), policy)
        .with_segment("s", 2, json!({}));
    let state = world.compile_flag("f").unwrap();
    assert_eq!(
        state
            .uses()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["flag/p", "segment/s"]
    );
    assert_eq!(
        state.to_json(),
        json!({
            "kind": "flag", "key": "f", "changed_at": 4, "config_at": 4, "policy_at": 4, "type": "boolean",
            "variants": {"off": false, "on": true}, "off_variant": "off", "salt": "f", "on_stale": "serve",
            "track": false, "archived": false, "enabled": true,
            "prerequisites": [{"flag": "p", "variants": ["on"]}],
            "targets": [{"variant": "on", "subjects": ["adam", "zoe"]}],
            "rules": [{"id": "rule-1",
                       "when": [{"attribute": "v", "op": "semver_gte", "values": ["2.3.0"], "negate": true},
                                {"attribute": "n", "op": "in", "values": ["x", 1.5, 2.0, true]},
                                {"op": "in_segment", "values": ["s"]}],
                       "serve": {"rollout": {"bucket_by": "subject_key", "algorithm": "murmur3-v1", "salt": "f",
                                 "weights": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 0}]}}}],
            "default": {"variant": "off"},
        })
    );
}
