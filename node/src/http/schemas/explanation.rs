//! The schemas of an explanation: the evaluation, and the steps that led to it.
//!
//! What must hold: what is here is what `pennon_evaluator::Explanation::to_json` gives; the tests of
//! the surface hold real answers against it, also for fields that are not here.

use pennon_evaluator::{LAYER_SLOTS, STEPS_MAX, VALUES_SHOWN_MAX};
use serde_json::{Value, json};

use super::{list_of, object, to};

/// All of them, by name. `answer` are the fields of what evaluate answers.
pub(super) fn all(mut answer: Value) -> Value {
    answer["trace"] = object(
        "The way to it. Only what was looked at: the first clause that does not hold ends a rule, the first rule that \
         serves ends the list. Nothing when the flag is unknown, archived or disabled.",
        json!({
            "steps": list_of(to("Step")),
            "truncated": {
                "type": "boolean", "description": format!("Whether there were more than {STEPS_MAX} steps."),
            },
        }),
    );
    json!({
        "Explanation": object("What a flag evaluates to, and how that was decided.", answer),
        "Step": {
            "description": "One step of deciding a flag.",
            "oneOf": [prerequisite(), target(), rule(), default()],
        },
        "SegmentRuleStep": rule_of("A rule of a segment.", json!({})),
        "ClauseStep": clause(),
        "SegmentStep": segment(),
        "ExperimentStep": experiment(),
        "BucketStep": bucket(),
    })
}

fn name(about: &str) -> Value {
    json!({ "type": ["string", "null"], "description": about })
}

fn prerequisite() -> Value {
    object(
        "A flag that has to be at one of some variants.",
        json!({
            "step": { "const": "prerequisite" },
            "flag": to("Key"),
            "accepts": list_of(json!({ "type": "string" })),
            "found": name("null: it is unknown, archived, disabled or cannot be decided."),
            "holds": { "type": "boolean" },
            "steps": { "type": "array", "items": to("Step"), "description": "How that flag was decided; empty when it was decided further up." },
        }),
    )
}

fn target() -> Value {
    object(
        "Whether the subject has a variant of its own.",
        json!({ "step": { "const": "target" }, "variant": name("null: it has none.") }),
    )
}

fn default() -> Value {
    object(
        "What is served when nothing else decided.",
        json!({ "step": { "const": "default" }, "rollout?": to("BucketStep") }),
    )
}

fn rule() -> Value {
    rule_of(
        "A rule of a flag.",
        json!({
            "step": { "const": "rule" },
            "rule_id": { "type": "string" },
            "experiment?": to("ExperimentStep"),
        }),
    )
}

fn rule_of(about: &str, more: Value) -> Value {
    let mut fields = json!({
        "place": { "type": "integer", "minimum": 0, "description": "From 0." },
        "clauses": { "type": "array", "items": to("ClauseStep"), "description": "As far as they were looked at." },
        "rollout?": to("BucketStep"),
        "holds": { "type": "boolean", "description": "Whether it decided." },
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    object(about, fields)
}

fn clause() -> Value {
    let values =
        format!("With at most {VALUES_SHOWN_MAX} values, in the order of the compiled state.");
    object(
        "A clause.",
        json!({
            "clause": { "$ref": "#/components/schemas/Clause", "description": values },
            "values_more?": { "type": "integer", "minimum": 1, "description": "How many values there are beyond those shown." },
            "found?": { "description": "What the subject has there." },
            "outcome": {
                "enum": ["match", "no_match", "wrong_type", "missing", "undecided"],
                "description": "Before `negate`. missing: the subject lacks the attribute; undecided: a segment cannot be \
                    decided. Then the clause does not hold, negated or not.",
            },
            "holds": { "type": "boolean" },
            "segments?": list_of(to("SegmentStep")),
        }),
    )
}

fn segment() -> Value {
    object(
        "Whether the subject is in a segment.",
        json!({
            "segment": to("Key"),
            "within": { "type": ["boolean", "null"], "description": "null: it cannot be decided." },
            "by": { "enum": ["excluded", "included", "rule", "nothing", "seen_before", "undecidable"] },
            "rules?": list_of(to("SegmentRuleStep")),
        }),
    )
}

fn experiment() -> Value {
    let slot = json!({ "type": "integer", "minimum": 0, "maximum": LAYER_SLOTS });
    object(
        "Whether the subject takes part in an experiment. If not, the rule is passed over.",
        json!({
            "key": to("Key"),
            "holdout?": object("Whether it is held out.", json!({
                "held_out": { "type": "boolean" },
                "segment": { "anyOf": [to("SegmentStep"), { "type": "null" }] },
            })),
            "layer?": object("Where it is in the layer.", json!({
                "layer": to("Key"),
                "slot": to("BucketStep"),
                "range": {
                    "type": "array", "items": slot, "minItems": 2, "maxItems": 2,
                    "description": "The first slot of the experiment, and the one after the last.",
                },
                "within": { "type": "boolean" },
            })),
            "takes_part": { "type": "boolean" },
        }),
    )
}

fn bucket() -> Value {
    let number = json!({ "type": "integer", "minimum": 0 });
    object(
        "How a bucket came about: that of `input`, hashed and scaled to `total`.",
        json!({
            "algorithm": { "enum": ["murmur3-v1"] },
            "bucket_by": { "type": "string" },
            "input": name("Salt and value. null: the subject has nothing there that can be bucketed."),
            "total": number,
            "bucket": { "type": ["integer", "null"] },
            "shares?": list_of(object("A range of buckets; without a variant: being taken into a segment.", json!({
                "variant?": { "type": "string" },
                "from": number,
                "to": { "type": "integer", "minimum": 0, "description": "The bucket after the last." },
            }))),
        }),
    )
}
