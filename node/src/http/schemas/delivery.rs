//! How receipts, status and what a write waited for look.

use serde_json::{Map, Value, json};

use super::{list_of, object, to};

/// The schemas, by name.
pub(super) fn all() -> Value {
    let whole = || json!({ "type": "integer", "minimum": 0 });
    let yes_or_no = || json!({ "type": "boolean" });
    let laggard = object(
        "An evaluator that may still act on an older state.",
        json!({
            "id": { "type": "string" },
            "environment": to("Key"),
            "node": { "type": "string", "description": "The node that it is or was connected to." },
            "version": { "$ref": "#/components/schemas/Version", "description": "Acknowledged last; 0 when none is known." },
            "last_seen_ms": { "type": ["integer", "null"] },
            "state": { "enum": ["connected", "node-unreachable", "disconnected"] },
            "fresh_for_ms": { "type": "integer", "description": "How long it may at most call an older state fresh." },
        }),
    );
    let node = object(
        "One member's part.",
        json!({
            "name": { "type": "string" },
            "answers": yes_or_no(),
            "applied": { "type": "boolean", "description": "Whether it has applied the version." },
            "connected": { "type": "integer", "description": "Evaluators connected to it." },
            "doubt_ms?": {
                "type": "integer",
                "description": "How long somebody who is known by no name may call an older state fresh that it has from there: \
                    who left, or was there before the node started.",
            },
        }),
    );
    let fields = |more: Value| {
        let mut fields = json!({
            "connected": whole(),
            "acknowledged": { "type": "integer", "description": "Of those connected." },
            "unnamed": { "type": "integer", "description": "Streams without a name; nothing is known of them." },
            "laggards": list_of(to("Laggard")),
            "laggards_total": whole(),
            "nodes": list_of(to("NodePart")),
            "settled_in_ms": {
                "type": "integer",
                "description": "After so long nobody acts on an older state as if it were fresh.",
            },
        });
        if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
            fields.extend(more);
        }
        fields
    };
    let complete = json!({ "type": "boolean", "description": "Every node has applied it and everybody connected acknowledged it." });
    let mut waited: Map<String, Value> = Map::new();
    if let Value::Object(all) = fields(json!({})) {
        // Who waits for `applied` hears of nodes only.
        waited.extend(all.into_iter().map(|(name, schema)| match name.as_str() {
            "nodes" => (name, schema),
            _ => (format!("{name}?"), schema),
        }));
    }
    waited.insert("for".into(), json!({ "enum": ["applied", "delivered"] }));
    waited.insert("complete".into(), complete.clone());
    json!({
        "Laggard": laggard,
        "NodePart": node,
        "WriteDelivery": object("What came of waiting for more than the commit.", Value::Object(waited)),
        "Receipt": object("What an evaluator has applied.", json!({
            "client": { "type": "string", "minLength": 1, "description": "What it called itself on its stream." },
            "version": to("Version"),
        })),
        "Receipts": object("Who has a version.", fields(json!({
            "environment": to("Key"),
            "version": to("Version"),
            "complete": complete,
        }))),
        "EnvironmentStatus": object("How an environment is.", fields(json!({
            "environment": to("Key"),
            "version": to("Version"),
            "changed_at": { "$ref": "#/components/schemas/Version", "description": "The version that the counts are about." },
            "digest": to("Digest"),
            "staleness_bound_ms": whole(),
            "here": object("What evaluators connected to this node have, from the newest.", json!({
                "node": { "type": "string" },
                "versions": list_of(object("A version.", json!({ "version": to("Version"), "evaluators": whole() }))),
            })),
        }))),
        "FlagStatus": object("How a flag is.", fields(json!({
            "flag": to("Key"),
            "environment": to("Key"),
            "enabled": yes_or_no(),
            "config_version": { "$ref": "#/components/schemas/Version", "description": "The version that the counts are about." },
            "last_change": {
                "description": "Of its policy or config; null when the history has it no more.",
                "type": ["object", "null"],
            },
        }))),
    })
}
