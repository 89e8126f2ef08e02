//! The route table: every path of the surface, once.
//!
//! The router, the OpenAPI document and, later, the check of tokens are made from these rows. A
//! path that is not here does not exist. Keys in paths may hold `/` (as `%2F`) and `:`; an action
//! is what follows the last colon. What rows have in common is in `routes/`.

mod params;
mod rows;

use std::sync::Arc;

use self::params::*;
use self::rows::*;
use super::App;
use super::problem::Slug;
use super::route::{Body, Conditions, Gives, Permission, Route, Verb};
use super::{
    applications, audit, backup, changes, cluster, dispatch, environments, evaluate, flags, health,
    openapi, policies, receipts, segments, settings, snapshots, states, stream,
};

/// Every path and method.
pub(crate) static ROUTES: &[Route] = &[
    list(&FLAG, "/v1/flags", "listFlags", |call| {
        Box::pin(flags::list(call))
    }),
    get(&FLAG, "/v1/flags/{flag}", "getFlag", |call| {
        Box::pin(flags::get(call))
    }),
    put(&FLAG, "/v1/flags/{flag}", "putFlag", |call| {
        Box::pin(flags::put(call))
    }),
    delete(&FLAG, "/v1/flags/{flag}", "deleteFlag", |call| {
        Box::pin(flags::delete(call))
    }),
    history(&FLAG, "/v1/flags/{flag}/history", "flagHistory", |call| {
        Box::pin(flags::history(call))
    }),
    list(
        &ENVIRONMENT,
        "/v1/environments",
        "listEnvironments",
        |call| Box::pin(environments::list(call)),
    ),
    get(
        &ENVIRONMENT,
        "/v1/environments/{environment}",
        "getEnvironment",
        |call| Box::pin(environments::get(call)),
    ),
    put(
        &ENVIRONMENT,
        "/v1/environments/{environment}",
        "putEnvironment",
        |call| Box::pin(environments::put(call)),
    ),
    delete(
        &ENVIRONMENT,
        "/v1/environments/{environment}",
        "deleteEnvironment",
        |call| Box::pin(environments::delete(call)),
    ),
    history(
        &ENVIRONMENT,
        "/v1/environments/{environment}/history",
        "environmentHistory",
        |call| Box::pin(environments::history(call)),
    ),
    list(
        &POLICY,
        "/v1/environments/{environment}/policies",
        "listPolicies",
        |call| Box::pin(policies::list(call)),
    ),
    get(
        &POLICY,
        "/v1/environments/{environment}/policies/{flag}",
        "getPolicy",
        |call| Box::pin(policies::get(call)),
    ),
    put(
        &POLICY,
        "/v1/environments/{environment}/policies/{flag}",
        "putPolicy",
        |call| Box::pin(policies::put(call)),
    ),
    delete(
        &POLICY,
        "/v1/environments/{environment}/policies/{flag}",
        "deletePolicy",
        |call| Box::pin(policies::delete(call)),
    ),
    history(
        &POLICY,
        "/v1/environments/{environment}/policies/{flag}/history",
        "policyHistory",
        |call| Box::pin(policies::history(call)),
    ),
    list(
        &SEGMENT,
        "/v1/environments/{environment}/segments",
        "listSegments",
        |call| Box::pin(segments::list(call)),
    ),
    get(
        &SEGMENT,
        "/v1/environments/{environment}/segments/{segment}",
        "getSegment",
        |call| Box::pin(segments::get(call)),
    ),
    put(
        &SEGMENT,
        "/v1/environments/{environment}/segments/{segment}",
        "putSegment",
        |call| Box::pin(segments::put(call)),
    ),
    delete(
        &SEGMENT,
        "/v1/environments/{environment}/segments/{segment}",
        "deleteSegment",
        |call| Box::pin(segments::delete(call)),
    ),
    history(
        &SEGMENT,
        "/v1/environments/{environment}/segments/{segment}/history",
        "segmentHistory",
        |call| Box::pin(segments::history(call)),
    ),
    list(
        &APPLICATION,
        "/v1/applications",
        "listApplications",
        |call| Box::pin(applications::list(call)),
    ),
    get(
        &APPLICATION,
        "/v1/applications/{application}",
        "getApplication",
        |call| Box::pin(applications::get(call)),
    ),
    put(
        &APPLICATION,
        "/v1/applications/{application}",
        "putApplication",
        |call| Box::pin(applications::put(call)),
    ),
    delete(
        &APPLICATION,
        "/v1/applications/{application}",
        "deleteApplication",
        |call| Box::pin(applications::delete(call)),
    ),
    history(
        &APPLICATION,
        "/v1/applications/{application}/history",
        "applicationHistory",
        |call| Box::pin(applications::history(call)),
    ),
    list(&SETTING, "/v1/settings", "listSettings", |call| {
        Box::pin(settings::list(call))
    }),
    get(&SETTING, "/v1/settings/{setting}", "getSetting", |call| {
        Box::pin(settings::get(call))
    }),
    put(&SETTING, "/v1/settings/{setting}", "putSetting", |call| {
        Box::pin(settings::put(call))
    }),
    delete(
        &SETTING,
        "/v1/settings/{setting}",
        "deleteSetting",
        |call| Box::pin(settings::delete(call)),
    ),
    history(
        &SETTING,
        "/v1/settings/{setting}/history",
        "settingHistory",
        |call| Box::pin(settings::history(call)),
    ),
    Route {
        summary: "What is in force, field by field, stored or not; its default, and how far it goes.",
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: "EffectiveSetting",
            etag: false,
        },
        ..get(
            &SETTING,
            "/v1/settings/{setting}/effective",
            "effectiveSetting",
            |call| Box::pin(settings::effective(call)),
        )
    },
    Route {
        tag: "history",
        query: &[AUDIT, READ],
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: "Audit",
            etag: false,
        },
        errors: &[Slug::NoQuorum, Slug::NotFreshEnough],
        ..derived(
            "/v1/audit",
            "audit",
            "Who changed what, when and why, before and after, from newest, over all objects.",
            |call| Box::pin(audit::list(call)),
        )
    },
    switch(
        "/v1/environments/{environment}/flags/{flag}:enable",
        "enableFlag",
        "Switches the flag on here, making a policy that serves the off variant if there is none. Idempotent.",
        |call| Box::pin(policies::enable(call)),
    ),
    switch(
        "/v1/environments/{environment}/flags/{flag}:disable",
        "disableFlag",
        "The kill switch: the flag serves its off variant here. Idempotent.",
        |call| Box::pin(policies::disable(call)),
    ),
    Route {
        body: Some(Body {
            schema: "ChangeSet",
            max: 16 * MIB,
        }),
        conditions: Conditions::WriteInBody,
        permission: Permission::Write { scoped: false },
        gives: Gives::Json {
            schema: "ChangesWritten",
            etag: false,
        },
        tag: "changes",
        ..switch(
            "/v1/changes",
            "postChanges",
            "Makes several writes that happen together or not at all, across environments.",
            |call| Box::pin(changes::post(call)),
        )
    },
    Route {
        query: &[PAGE, READ],
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: "StateList",
            etag: false,
        },
        ..derived(
            "/v1/environments/{environment}/states",
            "listStates",
            "Lists the compiled states, flags before segments; linearizable unless asked otherwise.",
            |call| Box::pin(states::list(call)),
        )
    },
    Route {
        gives: Gives::Json {
            schema: "EvaluationState",
            etag: true,
        },
        ..derived(
            "/v1/environments/{environment}/states/{flag}",
            "getState",
            "The compiled state of a flag; linearizable unless asked otherwise.",
            |call| Box::pin(states::get(call)),
        )
    },
    Route {
        query: &[SNAPSHOT, READ],
        permission: Permission::Stream,
        gives: Gives::Snapshot {
            schema: "SnapshotAnswer",
            newest: true,
        },
        ..derived(
            "/v1/environments/{environment}/snapshot",
            "getSnapshot",
            "The newest ConfigSnapshot, or what takes the caller there from ?since=V; bounded unless asked otherwise.",
            |call| Box::pin(snapshots::newest(call)),
        )
    },
    Route {
        query: &[&[APP, WAIT]],
        min_version: false,
        permission: Permission::Stream,
        gives: Gives::Snapshot {
            schema: "ConfigSnapshot",
            newest: false,
        },
        ..derived(
            "/v1/environments/{environment}/snapshots/{version}",
            "getSnapshotAt",
            "The ConfigSnapshot at one version; it never changes, so caches may keep it.",
            |call| Box::pin(snapshots::at(call)),
        )
    },
    Route {
        query: &[STREAM],
        min_version: false,
        permission: Permission::Stream,
        conditions: Conditions::Nothing,
        gives: Gives::Stream,
        errors: &[
            Slug::NotFound,
            Slug::NoQuorum,
            Slug::NotFreshEnough,
            Slug::NotAcceptable,
        ],
        ..derived(
            "/v1/environments/{environment}/stream",
            "openStream",
            "Streams hello, then a snapshot or deltas, then deltas and heartbeats, each with its age.",
            |call| Box::pin(stream::open(call)),
        )
    },
    Route {
        method: Verb::Post,
        permission: Permission::Stream,
        body: Some(Body {
            schema: "Receipt",
            max: 4 << 10,
        }),
        query: &[],
        min_version: false,
        gives: Gives::Nothing,
        errors: &[Slug::NotFound],
        ..derived(
            "/v1/environments/{environment}/receipts",
            "postReceipt",
            "An evaluator says which version it has applied; to the node that its stream is from.",
            |call| Box::pin(receipts::post(call)),
        )
    },
    Route {
        query: &[RECEIPTS],
        min_version: false,
        gives: Gives::Json {
            schema: "Receipts",
            etag: false,
        },
        ..derived(
            "/v1/environments/{environment}/receipts",
            "getReceipts",
            "Who has a version: how many evaluators acknowledged it, and by name who has not.",
            |call| Box::pin(receipts::get(call)),
        )
    },
    Route {
        query: &[],
        min_version: false,
        gives: Gives::Json {
            schema: "EnvironmentStatus",
            etag: false,
        },
        ..derived(
            "/v1/environments/{environment}/status",
            "getStatus",
            "How an environment is: what is served, who has it, and who lags behind.",
            |call| Box::pin(receipts::status(call)),
        )
    },
    Route {
        query: &[],
        min_version: false,
        gives: Gives::Json {
            schema: "FlagStatus",
            etag: false,
        },
        ..derived(
            "/v1/environments/{environment}/status/{flag}",
            "getFlagStatus",
            "How a flag is: when it last changed, by whom, who has that, and who lags behind.",
            |call| Box::pin(receipts::flag_status(call)),
        )
    },
    evaluation(
        "/v1/environments/{environment}/evaluate/{flag}",
        "evaluateFlag",
        "EvaluationAnswer",
        |call| Box::pin(evaluate::one(call)),
    ),
    Route {
        permission: Permission::Read,
        summary: "Evaluates by this node as evaluate does, and says how it was decided.",
        ..evaluation(
            "/v1/environments/{environment}/explain/{flag}",
            "explainFlag",
            "Explanation",
            |call| Box::pin(evaluate::explain(call)),
        )
    },
    Route {
        query: &[PAGE, READ],
        ..evaluation(
            "/v1/environments/{environment}/evaluate",
            "evaluateFlags",
            "EvaluationList",
            |call| Box::pin(evaluate::all(call)),
        )
    },
    Route {
        permission: Permission::Read,
        gives: Gives::Json {
            schema: "Cluster",
            etag: false,
        },
        errors: &[Slug::NoQuorum],
        ..node(
            "/v1/cluster",
            "getCluster",
            "Who is in the cluster and how they are.",
            |call| Box::pin(cluster::get(call)),
        )
    },
    Route {
        query: &[TRANSFER, TIMEOUT],
        ..membership(
            Verb::Post,
            "/v1/cluster:transfer-leader",
            "transferLeader",
            "Has another voter lead, without waiting for an election.",
            |call| Box::pin(cluster::transfer_leader(call)),
        )
    },
    membership(
        Verb::Post,
        "/v1/cluster/members/{member}:promote",
        "promoteMember",
        "Gives a learner that has caught up a vote.",
        |call| Box::pin(cluster::promote(call)),
    ),
    membership(
        Verb::Post,
        "/v1/cluster/members/{member}:demote",
        "demoteMember",
        "Takes the vote of a member; it goes on as a learner.",
        |call| Box::pin(cluster::demote(call)),
    ),
    membership(
        Verb::Delete,
        "/v1/cluster/members/{member}",
        "removeMember",
        "Takes a member out of the cluster, by its name or id. It then calls itself stale.",
        |call| Box::pin(cluster::remove(call)),
    ),
    Route {
        permission: Permission::Admin,
        tag: "cluster",
        query: &[READ],
        min_version: true,
        gives: Gives::Bytes(backup::MEDIA_TYPE),
        errors: READ_ERRORS,
        ..node(
            "/v1/backup",
            "backup",
            "Everything with its history, at one version, as a file for `pennon backup verify`, `restore` and `recover`.",
            |call| Box::pin(backup::backup(call)),
        )
    },
    Route {
        method: Verb::Post,
        permission: Permission::Admin,
        tag: "cluster",
        body: Some(Body {
            schema: "RestoreRequest",
            max: RESTORE_LEN_MAX,
        }),
        query: &[RESTORE, WRITE],
        conditions: Conditions::WriteInBody,
        gives: Gives::Json {
            schema: "Restored",
            etag: false,
        },
        errors: RESTORE_ERRORS,
        ..node(
            "/v1/cluster:restore",
            "restore",
            "Makes the ground state exactly this, as one change; what is not in the body is deleted.",
            |call| Box::pin(backup::restore(call)),
        )
    },
    Route {
        gives: Gives::Json {
            schema: "Alive",
            etag: false,
        },
        ..node("/livez", "livez", "Whether the process answers.", |call| {
            Box::pin(health::live(call))
        })
    },
    Route {
        query: &[PURPOSE],
        gives: Gives::Json {
            schema: "Ready",
            etag: false,
        },
        errors: &[Slug::NotReady],
        ..node(
            "/readyz",
            "readyz",
            "Whether the node should get traffic, and if not, why.",
            |call| Box::pin(health::ready(call)),
        )
    },
    Route {
        gives: Gives::Json {
            schema: "OpenApi",
            etag: false,
        },
        ..node("/openapi.json", "openapi", "This document.", |call| {
            Box::pin(openapi::get(call))
        })
    },
    Route {
        errors: &[Slug::NotFound],
        ..node(
            "/problems/{slug}",
            "explainProblem",
            "What an error means and what to do about it.",
            |call| Box::pin(openapi::explain(call)),
        )
    },
];

/// The router of the API.
pub(crate) fn router(app: Arc<App>) -> axum::Router {
    dispatch::router(ROUTES, app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_method_of_a_path_is_in_the_table_once() {
        let mut seen = BTreeSet::new();
        let mut operations = BTreeSet::new();
        for route in ROUTES {
            assert!(
                seen.insert((route.method.as_str(), route.path)),
                "{} {}",
                route.method.as_str(),
                route.path
            );
            assert!(operations.insert(route.operation), "{}", route.operation);
        }
    }

    #[test]
    fn writes_take_what_a_write_takes() {
        for route in ROUTES {
            let writes = matches!(route.permission, Permission::Write { .. });
            let admin = route.permission == Permission::Admin;
            assert!(!writes || route.conditions.is_write(), "{}", route.path);
            assert!(
                writes || admin || !route.conditions.is_write(),
                "{}",
                route.path
            );
            let waits = writes || (admin && route.method != Verb::Get);
            let timeout = route.params().any(|param| param.name == "timeout");
            assert_eq!(waits, timeout, "{}", route.path);
            assert!(!waits || route.is_change(), "{}", route.path);
            let scoped = route.permission == Permission::Write { scoped: true };
            assert!(
                !scoped || route.path.contains("{environment}"),
                "{}",
                route.path
            );
        }
    }
}
