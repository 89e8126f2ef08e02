//! The shapes of rows: what reading, writing, listing have in common whatever they are about, and the
//! kinds of ground state that they are about.

use super::super::problem::Slug;
use super::super::route::{Body, Conditions, Gives, Handler, Permission, Route, Verb};
use super::params::*;

pub(super) const MIB: usize = 1 << 20;

/// What the rows of one kind of ground state have in common.
pub(super) struct Kind {
    tag: &'static str,
    value: &'static str,
    object: &'static str,
    list: &'static str,
    write: Permission,
    value_len_max: usize,
}

pub(super) const FLAG: Kind = Kind {
    tag: "flags",
    value: "FlagConfig",
    object: "FlagObject",
    list: "FlagList",
    write: Permission::Write { scoped: false },
    value_len_max: 16 * MIB,
};
pub(super) const ENVIRONMENT: Kind = Kind {
    tag: "environments",
    value: "Environment",
    object: "EnvironmentObject",
    list: "EnvironmentList",
    write: Permission::Write { scoped: false },
    value_len_max: 64 << 10,
};
pub(super) const POLICY: Kind = Kind {
    tag: "policies",
    value: "TargetingPolicy",
    object: "PolicyObject",
    list: "PolicyList",
    write: Permission::Write { scoped: true },
    value_len_max: 16 * MIB,
};
pub(super) const SEGMENT: Kind = Kind {
    tag: "segments",
    value: "SegmentPolicy",
    object: "SegmentObject",
    list: "SegmentList",
    write: Permission::Write { scoped: true },
    value_len_max: 16 * MIB,
};

pub(super) const APPLICATION: Kind = Kind {
    tag: "applications",
    value: "Application",
    object: "ApplicationObject",
    list: "ApplicationList",
    write: Permission::Write { scoped: false },
    value_len_max: 256 << 10,
};
pub(super) const SETTING: Kind = Kind {
    tag: "settings",
    value: "Setting",
    object: "SettingObject",
    list: "SettingList",
    write: Permission::Write { scoped: false },
    value_len_max: 64 << 10,
};

pub(super) const fn list(
    kind: &Kind,
    path: &'static str,
    operation: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Get,
        path,
        permission: Permission::Read,
        operation,
        tag: kind.tag,
        summary: "Lists them by key, one page.",
        body: None,
        query: &[PAGE, READ],
        min_version: true,
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: kind.list,
            etag: false,
        },
        errors: READ_ERRORS,
        handler,
    }
}

pub(super) const fn get(
    kind: &Kind,
    path: &'static str,
    operation: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Get,
        path,
        permission: Permission::Read,
        operation,
        tag: kind.tag,
        summary: "Reads one.",
        body: None,
        query: &[READ],
        min_version: true,
        conditions: Conditions::Read,
        gives: Gives::Json {
            schema: kind.object,
            etag: true,
        },
        errors: READ_ERRORS,
        handler,
    }
}

pub(super) const fn put(
    kind: &Kind,
    path: &'static str,
    operation: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Put,
        path,
        permission: kind.write,
        operation,
        tag: kind.tag,
        summary: "Creates or replaces one.",
        body: Some(Body {
            schema: kind.value,
            max: kind.value_len_max,
        }),
        query: &[WRITE],
        min_version: false,
        conditions: Conditions::WriteRequired,
        gives: Gives::Json {
            schema: "Written",
            etag: true,
        },
        errors: WRITE_ERRORS,
        handler,
    }
}

pub(super) const fn delete(
    kind: &Kind,
    path: &'static str,
    operation: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Delete,
        path,
        permission: kind.write,
        operation,
        tag: kind.tag,
        summary: "Deletes one that nothing refers to any more. The version answered is that of the deletion.",
        body: None,
        query: &[WRITE],
        min_version: false,
        conditions: Conditions::WriteRequired,
        gives: Gives::Json {
            schema: "Written",
            etag: false,
        },
        errors: WRITE_ERRORS,
        handler,
    }
}

pub(super) const fn history(
    kind: &Kind,
    path: &'static str,
    operation: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Get,
        path,
        permission: Permission::Read,
        operation,
        tag: kind.tag,
        summary: "Who changed it, when and why, from newest; with ?at=V the object as of that version.",
        body: None,
        query: &[HISTORY, READ],
        min_version: true,
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: "History",
            etag: false,
        },
        errors: HISTORY_ERRORS,
        handler,
    }
}

pub(super) const fn switch(
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Post,
        path,
        permission: Permission::Write { scoped: true },
        operation,
        tag: "policies",
        summary,
        body: None,
        query: &[WRITE],
        min_version: false,
        conditions: Conditions::WriteOptional,
        gives: Gives::Json {
            schema: "Written",
            etag: true,
        },
        errors: WRITE_ERRORS,
        handler,
    }
}

/// A change of the membership.
pub(super) const fn membership(
    method: Verb,
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method,
        path,
        permission: Permission::Admin,
        operation,
        tag: "cluster",
        summary,
        body: None,
        query: &[TIMEOUT],
        min_version: false,
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema: "MemberChanged",
            etag: false,
        },
        errors: &[
            Slug::NotFound,
            Slug::MembershipRefused,
            Slug::NoQuorum,
            Slug::OutcomeUnknown,
        ],
        handler,
    }
}

/// A GET of something derived, in an environment.
pub(super) const fn derived(
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Get,
        path,
        permission: Permission::Read,
        operation,
        tag: "evaluation",
        summary,
        body: None,
        query: &[READ],
        min_version: true,
        conditions: Conditions::Read,
        gives: Gives::Text,
        errors: READ_ERRORS,
        handler,
    }
}

pub(super) const fn evaluation(
    path: &'static str,
    operation: &'static str,
    schema: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Post,
        permission: Permission::Evaluate,
        body: Some(Body {
            schema: "EvaluationRequest",
            max: 512 << 10,
        }),
        conditions: Conditions::Nothing,
        gives: Gives::Json {
            schema,
            etag: false,
        },
        ..derived(
            path,
            operation,
            "Evaluates by this node, bounded unless asked otherwise.",
            handler,
        )
    }
}

pub(super) const fn node(
    path: &'static str,
    operation: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method: Verb::Get,
        path,
        permission: Permission::Public,
        operation,
        tag: "node",
        summary,
        body: None,
        query: &[],
        min_version: false,
        conditions: Conditions::Nothing,
        gives: Gives::Text,
        errors: &[],
        handler,
    }
}
