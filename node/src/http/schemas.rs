//! The component schemas of the OpenAPI document: every body that is taken or given.
//!
//! What must hold: a field is listed as `required` exactly when every answer has it; tests hold
//! real answers against that.

use pennon_evaluator::{
    Application, KEY_LEN_MAX, LAYER_SLOTS, Limits, Op, Retention, WEIGHT_SUM_MAX,
};
use pennon_raft_store::command::ObjectKind;
use serde_json::{Map, Value, json};

use super::problem::Slug;

mod delivery;
mod explanation;

/// All of them, by name.
pub(crate) fn all() -> Value {
    let mut all = Map::new();
    for part in [
        basics(),
        ground_state(),
        settings(),
        clauses(),
        objects(),
        writes(),
        delivery::all(),
        derived(),
        evaluations(),
        node(),
        problems(),
    ] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

fn to(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn list_of(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// An object whose required fields are those not marked with a `?` at the end.
fn object(about: &str, fields: Value) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if let Value::Object(fields) = fields {
        for (name, schema) in fields {
            match name.strip_suffix('?') {
                Some(optional) => properties.insert(optional.to_owned(), schema),
                None => {
                    required.push(name.clone());
                    properties.insert(name, schema)
                }
            };
        }
    }
    json!({ "type": "object", "description": about, "properties": properties, "required": required })
}

fn basics() -> Value {
    json!({
        "Version": {
            "type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_991_u64,
            "description": "Rises with every write, over the whole cluster; 0 is before every write.",
        },
        "Key": { "type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,256}$" },
        "Digest": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
    })
}

fn ground_state() -> Value {
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean" });
    json!({
        "FlagConfig": object("What a flag is, in all environments.", json!({
            "key?": to("Key"),
            "type": { "enum": ["boolean", "string", "number", "object"] },
            "variants": { "type": "object", "minProperties": 1, "description": "Values by name, all of the flag's type." },
            "off_variant": text,
            "description?": text,
            "tags?": list_of(text.clone()),
            "salt?": { "type": "string", "description": "Fixed at creation; the key unless given." },
            "on_stale?": { "enum": ["serve", "default"] },
            "archived?": flag,
            "track?": flag,
        })),
        "Environment": object("What an environment is.", json!({
            "key?": to("Key"),
            "name?": text,
            "description?": text,
            "protected?": flag,
            "staleness_bound_ms?": { "type": "integer", "minimum": 1_000, "maximum": 600_000, "default": 10_000 },
        })),
        "Application": object("What one application needs: the flags with any of these tags, and whatever those use.", json!({
            "key?": to("Key"),
            "tags": {
                "type": "array", "minItems": 1, "maxItems": Application::TAGS_MAX, "uniqueItems": true,
                "items": { "type": "string", "minLength": 1, "maxLength": KEY_LEN_MAX },
            },
            "description?": text,
        })),
        "TargetingPolicy": object("What a flag does in one environment.", json!({
            "enabled": flag,
            "prerequisites?": list_of(object("Another flag that must be at one of these variants.", json!({
                "flag": to("Key"), "variants": list_of(text.clone()),
            }))),
            "targets?": list_of(object("Subjects with a variant of their own.", json!({
                "variant": text, "subjects": list_of(text.clone()),
            }))),
            "rules?": list_of(object("Served when all clauses hold.", json!({
                "id?": text, "when": list_of(to("Clause")), "serve": to("RuleServe"),
            }))),
            "default": to("Serve"),
        })),
        "SegmentPolicy": object("Who is in a segment.", json!({
            "included?": list_of(text.clone()),
            "excluded?": list_of(text.clone()),
            "rules?": list_of(object("Takes in whom all clauses hold for, or a share of them.", json!({
                "when": list_of(to("Clause")), "rollout?": to("Share"),
            }))),
        })),
    })
}

fn settings() -> Value {
    let (mut limits, mut all_limits) = (Map::new(), Map::new());
    for limit in Limits::default().list() {
        let about = format!("At most so many {}.", limit.about);
        let bounds = json!({
            "type": "integer", "minimum": 1, "maximum": limit.greatest, "default": limit.default, "description": about,
        });
        limits.insert(format!("{}?", limit.name), bounds);
        all_limits.insert(limit.name.to_owned(), json!({ "type": "integer" }));
    }
    let limits = object(
        "The setting limits: how large things may be. What is left out has its default. A limit holds for what is written \
            from then on; what is stored stays and is served.",
        Value::Object(limits),
    );
    let all_limits = object("Every limit.", Value::Object(all_limits));
    let (mut kept, mut all_kept) = (Map::new(), Map::new());
    for field in Retention::DEFAULT.list() {
        let bounds = json!({
            "type": "integer", "minimum": 1, "maximum": field.greatest, "default": field.default,
            "description": format!("So many {}.", field.about),
        });
        kept.insert(format!("{}?", field.name), bounds);
        all_kept.insert(field.name.to_owned(), json!({ "type": "integer" }));
    }
    let kept = object(
        "The setting history: how much of the history is kept. What is left out has its default. Every node trims the same, \
            when something is written. What was trimmed does not come back.",
        Value::Object(kept),
    );
    let all_kept = object("Every field.", Value::Object(all_kept));
    let all = json!([to("AllLimits"), to("AllRetention")]);
    json!({
        "Setting": { "description": "The value of a setting, by its name.", "anyOf": [to("Limits"), to("Retention")] },
        "Limits": limits,
        "AllLimits": all_limits,
        "Retention": kept,
        "AllRetention": all_kept,
        "EffectiveSetting": object("What a setting comes to.", json!({
            "key": to("Key"),
            "version": to("Version"),
            "effective": { "anyOf": all },
            "default": { "anyOf": all, "description": "Without the setting." },
            "greatest": { "anyOf": all, "description": "How far it goes; the least is 1." },
            "stored?": to("SettingObject"),
        })),
    })
}

fn clauses() -> Value {
    let text = json!({ "type": "string" });
    let values = json!({ "anyOf": [text, { "type": "number" }, { "type": "boolean" }] });
    let weight = json!({ "type": "integer", "minimum": 0, "maximum": WEIGHT_SUM_MAX });
    let share = json!({
        "bucket_by?": text,
        "algorithm?": { "enum": ["murmur3-v1"] },
        "salt?": { "type": ["string", "null"], "description": "The key of the segment unless given." },
        "share": weight,
        "of": { "type": "integer", "minimum": 1, "maximum": WEIGHT_SUM_MAX },
    });
    json!({
        "Clause": object("One condition on the subject.", json!({
            "attribute?": { "type": "string", "description": "What to look at: \"subject_key\" or the name of an attribute. \
                Not for in_segment." },
            "op": { "enum": Op::ALL.map(Op::as_str), "description": OPERATORS },
            "values?": { "type": "array", "items": values, "description": "Any of these will do. Not for exists." },
            "negate?": { "type": "boolean", "description": "Turns the outcome round. A missing attribute never matches, \
                negated or not." },
        })),
        "Serve": serve("One variant, or a rollout over weights.", false),
        "RuleServe": serve("One variant, or a rollout over weights, which may be that of an experiment.", true),
        "Share": object("A share of subjects: those with a bucket below `share`.", share),
        "Experiment": experiment(),
    })
}

/// What the operators compare.
const OPERATORS: &str = "in: equal, within one JSON type. contains, starts_with, ends_with: parts of a text. matches: a \
    regular expression that is searched for in a text (the syntax of the Rust crate regex, at most 4,096 bytes). lt, lte, gt, \
    gte: numbers. semver_*: semantic versions as text. before, after: times, as RFC 3339 text or a number of milliseconds \
    since 1970. in_cidr: an address as text, in networks such as 10.0.0.0/8 or 2001:db8::/32. in_segment: the subject is in \
    one of these segments. exists: the attribute is there.";

fn serve(about: &str, in_rule: bool) -> Value {
    let text = json!({ "type": "string" });
    let mut rollout = json!({
        "bucket_by?": text,
        "algorithm?": { "enum": ["murmur3-v1"] },
        "salt?": { "type": ["string", "null"], "description": "That of the flag unless given." },
        "weights": list_of(object("A share.", json!({
            "variant": text, "weight": { "type": "integer", "minimum": 0, "maximum": WEIGHT_SUM_MAX },
        }))),
    });
    if in_rule {
        rollout["experiment?"] = to("Experiment");
    }
    json!({
        "description": about,
        "oneOf": [
            object("One variant.", json!({ "variant": text })),
            object("A weighted split of subjects.", json!({ "rollout": object("A weighted split.", rollout) })),
        ],
    })
}

fn experiment() -> Value {
    let bound = json!({ "type": "integer", "minimum": 0, "maximum": LAYER_SLOTS });
    object(
        "An experiment: who takes no part in it goes on to the next rule.",
        json!({
            "key": to("Key"),
            "layer?": object(
                "A range of the slots of a layer. In one layer, experiments have disjoint ranges and bucket by one attribute.",
                json!({
                    "key": to("Key"),
                    "range": {
                        "type": "array", "items": bound, "minItems": 2, "maxItems": 2,
                        "description": "The first slot, and the one after the last.",
                    },
                }),
            ),
            "holdout?": { "$ref": "#/components/schemas/Key", "description": "A segment that takes no part." },
        }),
    )
}

fn objects() -> Value {
    let mut all = Map::new();
    for (prefix, value) in [
        ("Flag", "FlagConfig"),
        ("Environment", "Environment"),
        ("Policy", "TargetingPolicy"),
        ("Segment", "SegmentPolicy"),
        ("Application", "Application"),
        ("Setting", "Setting"),
    ] {
        let one = object(
            "An object with its value as it was written.",
            json!({
                "key": to("Key"),
                "version": to("Version"),
                "value": to(value),
                "updated_at": { "type": "string", "format": "date-time" },
                "updated_by": { "type": "string" },
            }),
        );
        let list = object(
            "One page, by key, at one version.",
            json!({
                "items": list_of(to(&format!("{prefix}Object"))),
                "version": to("Version"),
                "next?": { "type": "string", "description": "There is more: the `after` of the next page." },
            }),
        );
        all.insert(format!("{prefix}Object"), one);
        all.insert(format!("{prefix}List"), list);
    }
    let before = json!({
        "description": "What it replaced; null when there was nothing. Absent when that is not kept any more.",
    });
    let kind = json!({ "enum": ObjectKind::ALL.map(ObjectKind::as_str) });
    let audited = object(
        "One change.",
        json!({
            "kind": kind,
            "environment?": to("Key"),
            "key": to("Key"),
            "version": to("Version"),
            "previous_version?": { "$ref": "#/components/schemas/Version", "description": "Absent when it did not exist." },
            "op": { "enum": ["create", "change", "delete"] },
            "updated_at": { "type": "string", "format": "date-time", "description": "By the leader's clock." },
            "updated_by": { "type": "string" },
            "reason?": { "type": "string" },
            "request_id?": { "type": "string" },
            "before?": before,
            "after": { "description": "The value from then on; null after a deletion." },
        }),
    );
    all.insert("AuditLine".into(), audited);
    all.insert("Audit".into(), object(
        "Changes of all objects, newest version first, a whole version together.",
        json!({
            "items": list_of(to("AuditLine")),
            "version": to("Version"),
            "scanned": {
                "type": "integer", "minimum": 0,
                "description": "Changes looked at. Past a bound a page ends, with few items or none, and with `next`.",
            },
            "next?": { "type": "string", "description": "There are older changes: the `before` of the next page." },
        }),
    ));
    let change = object(
        "One change of an object.",
        json!({
            "version": to("Version"),
            "previous_version?": to("Version"),
            "op": { "enum": ["put", "delete"] },
            "updated_at": { "type": "string", "format": "date-time" },
            "updated_by": { "type": "string" },
            "reason?": { "type": "string" },
            "request_id?": { "type": "string" },
            "before?": before,
            "value": { "description": "The value from then on; null after a deletion." },
        }),
    );
    all.insert("HistoryLine".into(), change);
    all.insert("History".into(), object("Changes from newest; with ?at=V an object as of that version instead.", json!({
        "items?": list_of(to("HistoryLine")),
        "version": to("Version"),
        "next?": { "type": "string", "description": "There is more: the `before` of the next page." },
    })));
    Value::Object(all)
}

fn writes() -> Value {
    let kind = json!({ "enum": ObjectKind::ALL.map(ObjectKind::as_str) });
    json!({
        "Written": object("What a write did to one object.", json!({
            "key": to("Key"),
            "version": to("Version"),
            "previous_version?": { "$ref": "#/components/schemas/Version", "description": "Absent when it did not exist." },
            "delivery?": to("WriteDelivery"),
        })),
        "ChangeSet": { "type": "array", "minItems": 1, "items": object("One write.", json!({
            "op": { "enum": ["put", "delete"] },
            "kind": kind,
            "environment?": to("Key"),
            "key": to("Key"),
            "value?": { "type": "object", "description": "To put." },
            "expected_version?": { "$ref": "#/components/schemas/Version", "description": "0: must not exist; absent: any." },
        })) },
        "ChangesWritten": object("What a change set did.", json!({
            "version": to("Version"),
            "results": list_of(object("In the order of the request.", json!({
                "op": { "enum": ["put", "delete"] },
                "kind": kind,
                "environment?": to("Key"),
                "key": to("Key"),
                "version": to("Version"),
                "previous_version?": to("Version"),
            }))),
            "delivery?": to("WriteDelivery"),
        })),
    })
}

fn derived() -> Value {
    let snapshot = json!({
        "environment": to("Key"),
        "version": to("Version"),
        "digest": to("Digest"),
        "states": list_of(to("EvaluationState")),
    });
    json!({
        "EvaluationState": object("The compiled form of a flag or segment.", json!({
            "kind": { "enum": ["flag", "segment"] },
            "key": to("Key"),
            "changed_at": to("Version"),
            "config_at?": to("Version"),
            "policy_at": to("Version"),
            "hash": to("Digest"),
        })),
        "StateList": object("One page of states.", json!({
            "items": list_of(to("EvaluationState")),
            "version": to("Version"),
            "digest": to("Digest"),
            "next?": { "type": "string" },
        })),
        "ConfigSnapshot": object("All states of an environment at one version; the digest is the sum of their hashes.", snapshot),
        "Delta": object("What changed from one version to a later one. It applies to exactly `from`.", json!({
            "environment": to("Key"),
            "from": to("Version"),
            "to": to("Version"),
            "upserts": list_of(to("EvaluationState")),
            "removals": list_of(json!({ "type": "object" })),
            "digest": to("Digest"),
        })),
        "SnapshotAnswer": {
            "description": "A ConfigSnapshot. With ?since= there is an `intent`: none (nothing else follows), changes (a Delta), \
                full (a ConfigSnapshot).",
            "type": "object",
            "properties": { "intent": { "enum": ["none", "changes", "full"] } },
            "required": ["environment", "version", "digest"],
            "anyOf": [to("ConfigSnapshot"), to("Delta"), { "properties": { "intent": { "const": "none" } } }],
        },
    })
}

fn evaluations() -> Value {
    let evaluation = json!({
        "flag": to("Key"),
        "enabled": { "type": "boolean" },
        "variant": { "type": ["string", "null"] },
        "value": { "description": "null: the caller's default." },
        "config_version": to("Version"),
        "reason": { "enum": [
            "FLAG_NOT_FOUND", "DISABLED", "PREREQUISITE_FAILED", "TARGET_MATCH", "RULE_MATCH", "SPLIT", "DEFAULT", "STATIC",
        ] },
        "rule_id?": { "type": "string" },
        "bucket?": { "type": "integer" },
        "detail?": { "type": "string" },
        "experiment?": { "$ref": "#/components/schemas/Key", "description": "The experiment whose split decided." },
    });
    let freshness = json!({ "enum": ["FRESH", "STALE"] });
    let mut answer = evaluation.clone();
    answer["snapshot_version"] = to("Version");
    answer["freshness"] = freshness.clone();
    let mut all = explanation::all(answer.clone());
    let more = json!({
        "EvaluationRequest": object("Whom to decide for.", json!({
            "subject_key": { "type": "string" },
            "attributes?": {
                "type": "object", "maxProperties": Limits::GREATEST.attributes_max,
                "description": "Strings, numbers, booleans, or lists of these. How many there can be and how many bytes \
                    they have is in the setting limits.",
            },
        })),
        "Evaluation": object("What a flag evaluates to.", evaluation),
        "EvaluationAnswer": object("What a flag evaluates to, from which snapshot, and whether that is fresh.", answer),
        "EvaluationList": object("Every flag that is not archived, by key.", json!({
            "items": list_of(to("Evaluation")),
            "version": to("Version"),
            "freshness": freshness,
            "next?": to("Key"),
        })),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

fn node() -> Value {
    let number = json!({ "type": ["integer", "null"] });
    let text = json!({ "type": "string" });
    json!({
        "MemberChanged": object("What became of a member.", json!({
            "id": { "type": "integer" },
            "name": { "type": "string" },
            "role": { "enum": ["voter", "learner", "removed", "leader"] },
        })),
        "RestoreRequest": object("A whole ground state.", json!({
            "objects": list_of(object("One object of all that there shall be.", json!({
                "kind": { "enum": ObjectKind::ALL.map(ObjectKind::as_str) },
                "environment?": to("Key"),
                "key": text,
                "value": {},
            }))),
        })),
        "Restored": object("What a restore changed, or would change.", json!({
            "version": to("Version"),
            "onto": { "type": "string", "description": "The digest of the ground state that it was compared with." },
            "created": { "type": "integer" },
            "changed": { "type": "integer" },
            "deleted": { "type": "integer" },
            "unchanged": { "type": "integer" },
            "objects": list_of(object("One difference.", json!({
                "op": { "enum": ["create", "change", "delete"] },
                "kind": text,
                "environment?": to("Key"),
                "key": text,
                "version?": { "$ref": "#/components/schemas/Version", "description": "The version that it had." },
            }))),
            "delivery?": to("WriteDelivery"),
        })),
        "Cluster": object("The cluster as this node sees it.", json!({
            "cluster_id": text,
            "leader": number,
            "term": { "type": "integer" },
            "version": to("Version"),
            "feature_level": { "type": "integer", "description": "What may be used: what every member's release knows." },
            "failure_tolerance": { "type": "integer", "description": "How many more voters may fail before writes stop." },
            "verdict": text,
            "changing": { "type": "boolean", "description": "A change of members is not over yet; a leader that dies meanwhile \
                leaves it to the next one." },
            "members": list_of(to("Member")),
        })),
        "Member": object("One node; null where it did not answer.", json!({
            "id": { "type": "integer" },
            "name": text,
            "api": text,
            "peer": text,
            "role": { "enum": ["leader", "follower", "learner"] },
            "voter": { "type": "boolean", "description": "While its vote is changing: whether it had one before." },
            "changing": { "type": "boolean", "description": "Its vote is being given or taken." },
            "answers": { "type": "boolean" },
            "applied": number,
            "lag": { "type": ["integer", "null"], "description": "Versions behind the newest member." },
            "staleness_ms": number,
            "digest": { "type": ["string", "null"] },
            "streams": number,
            "release": { "type": ["string", "null"] },
            "feature_level": { "type": ["integer", "null"], "description": "The highest that its release knows." },
        })),
        "Alive": object("The process answers.", json!({ "status": { "const": "alive" }, "node": text, "release": text })),
        "Ready": object("The node should get traffic.", json!({
            "status": { "const": "ready" }, "for": text, "node": text, "version": to("Version"),
            "warning?": text,
        })),
        "OpenApi": { "type": "object", "required": ["openapi", "info", "paths", "components"] },
    })
}

fn problems() -> Value {
    let base = |about: &str, more: Value| {
        let slugs: Vec<_> = Slug::all()
            .map(|slug| format!("/problems/{}", slug.as_str()))
            .collect();
        let mut fields = json!({
            "type": { "enum": slugs },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What happened and what to do next." },
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        object(about, fields)
    };
    let number = json!({ "type": "integer" });
    let named = object(
        "The object.",
        json!({ "kind": { "type": "string" }, "environment?": to("Key"), "key": to("Key") }),
    );
    json!({
        "Problem": base("An error (RFC 9457). GET its type for an explanation.", json!({ "missing?": named })),
        "ValidationProblem": base("What is wrong with the request, and where.", json!({
            "faults": list_of(object("One fault.", json!({
                "pointer": { "type": "string", "description": "JSON pointer into the body; empty for the whole of it." },
                "message": { "type": "string" },
                "parameter?": { "type": "string" },
                "header?": { "type": "string" },
            }))),
            "line?": number,
            "column?": number,
        })),
        "VersionConflictProblem": base("A conditional write lost.", json!({
            "current_version": { "$ref": "#/components/schemas/Version", "description": "0: it did not exist." },
            "current": { "description": "The object at that version; null when it did not exist or is no longer known." },
            "object": named,
        })),
        "ReferenceInUseProblem": base("Others still refer to it.", json!({
            "users": list_of(json!({ "type": "string" })), "object": named,
        })),
        "NotFreshEnoughProblem": base("The node is not fresh enough.", json!({
            "wanted_version?": to("Version"), "have_version?": to("Version"), "staleness_ms?": number, "bound_ms?": number,
        })),
        "TooLargeProblem": base("The body is too long.", json!({ "limit_bytes": number })),
        "QuotaExceededProblem": base("A bound of the cluster.", json!({ "quota": { "type": "string" }, "max": number,
            "nodes?": list_of(json!({ "type": "string" })), "free_bytes?": number, "min_free_bytes?": number,
        })),
        "NotRetainedProblem": base("The history does not go back that far.", json!({
            "at": to("Version"), "oldest_version?": to("Version"), "object": named,
        })),
        "FeatureNotEnabledProblem": base("An older release is a member.", json!({
            "needs_level": number, "feature_level": number,
        })),
        "NotReadyProblem": base("The node should get no traffic.", json!({
            "for": { "type": "string" }, "reasons": list_of(json!({ "type": "string" })),
        })),
    })
}
