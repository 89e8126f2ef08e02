//! What rows of the table have in common: query parameters, and the errors of reads and writes.

use super::super::call::LIMIT_MAX;
use super::super::problem::Slug;
use super::super::route::{Param, ParamKind, TIMEOUT_MAX, WAIT_MAX};
use super::super::{audit, health, receipts, stream, write};

const fn param(name: &'static str, kind: ParamKind, about: &'static str) -> Param {
    Param { name, kind, about }
}

const WAIT_KIND: ParamKind = ParamKind::Duration { max: WAIT_MAX };
const TIMEOUT_KIND: ParamKind = ParamKind::Duration { max: TIMEOUT_MAX };

pub(super) const WAIT: Param = param(
    "wait",
    WAIT_KIND,
    "How long to wait for freshness; 5s unless given, 60s at most.",
);

const CONSISTENCY_ABOUT: &str = "linearizable: everything committed before the request; bounded: this node alone, if \
    within the staleness bound, else 503; stale: whatever this node has.";
const CONSISTENCY: ParamKind = ParamKind::Word(&["linearizable", "bounded", "stale"]);

pub(super) const READ: &[Param] = &[
    param("consistency", CONSISTENCY, CONSISTENCY_ABOUT),
    param(
        "min_version",
        ParamKind::Version,
        "Answer at this version or a later one; as the header Pennon-Min-Version.",
    ),
    WAIT,
];

pub(super) const PAGE: &[Param] = &[
    param(
        "limit",
        ParamKind::Integer {
            min: 1,
            max: LIMIT_MAX as u64,
        },
        "Items in a page; 1000 unless given.",
    ),
    param(
        "after",
        ParamKind::Text { max: 300 },
        "Begin after this key: the `next` of the page before.",
    ),
];

pub(super) const HISTORY: &[Param] = &[
    param(
        "limit",
        ParamKind::Integer {
            min: 1,
            max: LIMIT_MAX as u64,
        },
        "Changes in a page; 1000 unless given.",
    ),
    param(
        "before",
        ParamKind::Version,
        "Only changes before this version: the `next` of the page before.",
    ),
    param(
        "at",
        ParamKind::Version,
        "Read the object as of this version instead of listing its changes.",
    ),
];

pub(super) const AUDIT: &[Param] = &[
    param(
        "limit",
        ParamKind::Integer {
            min: 1,
            max: LIMIT_MAX as u64,
        },
        "Changes in a page; 1000 unless given. A page has whole versions, and may be longer by the rest of the last one.",
    ),
    param(
        "before",
        ParamKind::Version,
        "Only changes before this version: the `next` of the page before.",
    ),
    param(
        "since_version",
        ParamKind::Version,
        "Only changes after this version.",
    ),
    param(
        "from",
        ParamKind::Text { max: 64 },
        "Only changes from this moment on, by the leader's clock: RFC 3339, or milliseconds since 1970.",
    ),
    param(
        "to",
        ParamKind::Text { max: 64 },
        "Only changes before this moment.",
    ),
    param(
        "actor",
        ParamKind::Text {
            max: write::ACTOR_LEN_MAX,
        },
        "Only changes by exactly this one.",
    ),
    param(
        "kind",
        ParamKind::Word(&audit::KINDS),
        "Only objects of this kind.",
    ),
    param(
        "environment",
        ParamKind::Text { max: 256 },
        "Only policies and segments of this environment, and the environment itself.",
    ),
    param(
        "key",
        ParamKind::Text { max: 256 },
        "Only objects of this key: a flag's also names its policies.",
    ),
];

pub(super) const HISTORY_ERRORS: &[Slug] = &[
    Slug::NotFound,
    Slug::NoQuorum,
    Slug::NotFreshEnough,
    Slug::NotRetained,
];

pub(super) const WRITE: &[Param] = &[
    param(
        "timeout",
        TIMEOUT_KIND,
        "How long to wait for the outcome, and for what `ack` asks for; 10s unless given, 60s at most.",
    ),
    param(
        "ack",
        ParamKind::Word(&receipts::ACKS),
        "What to wait for after the commit: applied, every node has it; delivered, every evaluator that is \
         connected has acknowledged it. The write stands whatever comes of it; `delivery` in the answer says what did.",
    ),
    param(
        "reason",
        ParamKind::Text {
            max: write::REASON_LEN_MAX,
        },
        "Why, for the history; as the header Pennon-Reason.",
    ),
];

pub(super) const APP: Param = param(
    "app",
    ParamKind::Text { max: 256 },
    "Only what this application needs: the flags with any of its tags, and what those use.",
);

const CLUSTER: Param = param(
    "cluster",
    ParamKind::Text { max: 64 },
    "The cluster that `since` is of. Another one than this node's: `since` is not heard.",
);

const CLIENT: Param = param(
    "client",
    ParamKind::Text {
        max: stream::CLIENT_LEN_MAX,
    },
    "Names the evaluator, for receipts; two that run at once have two names.",
);

pub(super) const SNAPSHOT: &[Param] = &[
    param(
        "since",
        ParamKind::Version,
        "The version the caller has: the answer says with `intent` whether nothing, changes or everything follows.",
    ),
    CLUSTER,
    CLIENT,
    APP,
];

pub(super) const STREAM: &[Param] = &[
    param(
        "since",
        ParamKind::Version,
        "Resume from this version; as the header Last-Event-ID.",
    ),
    CLUSTER,
    CLIENT,
    APP,
    WAIT,
];

pub(super) const TIMEOUT: &[Param] = &[param(
    "timeout",
    TIMEOUT_KIND,
    "How long to wait for the outcome; 10s unless given, 60s at most.",
)];

pub(super) const RECEIPTS: &[Param] = &[
    param(
        "version",
        ParamKind::Version,
        "The version asked about; the one at which the environment last changed unless given.",
    ),
    param(
        "wait",
        WAIT_KIND,
        "How long to wait until everybody has it, asking them for receipts; 0s unless given, 60s at most.",
    ),
];

pub(super) const PURPOSE: &[Param] = &[param(
    "for",
    ParamKind::Word(&health::PURPOSES),
    "What the node is to be ready for; everything unless given.",
)];

pub(super) const READ_ERRORS: &[Slug] = &[Slug::NotFound, Slug::NoQuorum, Slug::NotFreshEnough];

pub(super) const WRITE_ERRORS: &[Slug] = &[
    Slug::NotFound,
    Slug::VersionConflict,
    Slug::ReferenceInUse,
    Slug::IdempotencyMismatch,
    Slug::QuotaExceeded,
    Slug::FeatureNotEnabled,
    Slug::NoQuorum,
    Slug::RateLimited,
    Slug::OutcomeUnknown,
    Slug::Forbidden,
];

/// The longest body of a restore, in bytes.
pub(super) const RESTORE_LEN_MAX: usize = 256 << 20;

pub(super) const RESTORE: &[Param] = &[
    param(
        "dry_run",
        ParamKind::Word(&["true", "false"]),
        "true: only say what would change.",
    ),
    param(
        "onto",
        ParamKind::Text { max: 32 },
        "Only onto the ground state of this digest: the `onto` of a dry run.",
    ),
];

pub(super) const RESTORE_ERRORS: &[Slug] = &[
    Slug::NotFound,
    Slug::StateMoved,
    Slug::VersionConflict,
    Slug::ReferenceInUse,
    Slug::IdempotencyMismatch,
    Slug::QuotaExceeded,
    Slug::FeatureNotEnabled,
    Slug::NoQuorum,
    Slug::NotFreshEnough,
    Slug::RateLimited,
    Slug::OutcomeUnknown,
    Slug::Forbidden,
];

pub(super) const TRANSFER: &[Param] = &[param(
    "to",
    ParamKind::Text { max: 255 },
    "Name or id of the voter; the node chooses one unless given.",
)];
