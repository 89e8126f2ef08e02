//! What a flag evaluates to: ground state, compiled state, snapshots, evaluation.
//!
//! ```text
//!  what people write                 derived, by pure functions                          the answer
//!  FlagConfig ──────┐
//!  TargetingPolicy ─┴─ compile ─► EvaluationState ─► ConfigSnapshot ─ load ─► Snapshot ─ evaluate ─► Evaluation
//!  SegmentPolicy ───── compile ─►    (bytes)            └── Delta ── apply ──►
//! ```
//!
//! The crate is pure: no clock, no IO, no randomness, no floats in bucketing, and nothing that
//! depends on the order of a hash map. The leader compiles; every node stores and serves the very
//! bytes; every client loads them and decides in its own process.
//!
//! - [`FlagConfig`], [`TargetingPolicy`], [`SegmentPolicy`], [`Environment`]: ground state, parsed with every
//!   [`Fault`] in its place.
//! - [`compile_flag`], [`compile_segment`], [`check_graph`]: to [`EvaluationState`], or refused.
//! - [`EncodedState`], [`ConfigSnapshot`], [`Delta`], [`Digest`]: what is stored and sent.
//! - [`Snapshot`], [`Subject`], [`Evaluation`]: deciding.
//! - [`AgeBound`], [`judge`]: how old an answer can be. [`wire`]: the messages of a stream.
//!
//! ```
//! use pennon_evaluator::*;
//!
//! // What people write.
//! let key: FlagKey = "checkout.new-ui".parse()?;
//! let config = r#"{"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"}"#;
//! let config = FlagConfig::parse(&key, config).unwrap();
//! let policy = r#"{
//!     "enabled": true,
//!     "rules": [{"id": "eu-beta", "when": [{"attribute": "country", "op": "in", "values": ["DE", "FR"]}],
//!                "serve": {"variant": "on"}}],
//!     "default": {"variant": "off"}
//! }"#;
//!
//! // Compiled at version 7, the version of the write.
//! let at = Version::new(7).unwrap();
//! let compile = |policy: &str| {
//!     let policy = TargetingPolicy::parse(policy)?;
//!     compile_flag(&config, at, &policy, at, at, &NoReferences, &Limits::default())
//! };
//! let state = compile(policy).unwrap();
//!
//! // What travels, and what it becomes.
//! let environment: EnvironmentKey = "production".parse()?;
//! let states = vec![EncodedState::new(&environment, &state)];
//! let snapshot = Snapshot::load(&ConfigSnapshot::new(environment, at, states)?)?;
//!
//! // The answer.
//! let user = Subject::new("user-42").with("country", "DE");
//! let found = snapshot.evaluate("checkout.new-ui", &user);
//! assert_eq!(found.value.and_then(|value| value.as_bool()), Some(true));
//! assert_eq!((found.reason, found.rule_id), (Reason::RuleMatch, Some("eu-beta")));
//!
//! // A refusal says where, and what would be right.
//! let faults = compile(&policy.replace(r#""op": "in""#, r#""op": "is""#)).unwrap_err();
//! assert_eq!(faults[0].pointer, "/rules/0/when/0/op");
//! assert_eq!(faults[0].message, r#"there is no op "is"; did you mean "in"?"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

//!
//! # What the language means, where it could mean several things
//! - **Missing, null, wrong type.** A clause on an attribute that is missing or null does not hold,
//!   negated or not, except `exists`. A value that the operator cannot compare (a number for
//!   `contains`, text that is no version, date or address) is a non-match, which `negate` turns
//!   round. An array matches if any element does, so negated if none does; an empty one is there.
//! - **`in`** is equality within one JSON type. Text is compared by bytes.
//! - **`matches`** searches; `^` and `$` bind it to the beginning and very end of the text. The syntax
//!   is that of the crate `regex`, with Unicode classes and without Unicode `\b`. At most 4,096 bytes,
//!   100 a policy, and an automaton of bounded size.
//! - **`before`, `after`** are strict, and read RFC 3339 (with seconds and offset) or milliseconds since
//!   1970, whose fractions are cut off. Second 60 is read as 59.
//! - **`in_cidr`** takes networks, whose host bits are ignored, and single addresses. IPv4 written as
//!   IPv6 (`::ffff:1.2.3.4`) is IPv4, so `::/0` has no IPv4 address in it. A port or zone makes text no
//!   address.
//! - **`semver_*`**: partial versions are padded, one leading `v` and build metadata are ignored.
//! - **Rules** without clauses hold for everybody. A rule without id is `rule-<n>`, from 1.
//! - **Rollouts** of a subject without a usable value (missing, empty, boolean, array, number with a
//!   fraction) give the last variant with the detail `BUCKETING_KEY_MISSING`, and no exposure is due.
//! - **Experiments** belong to rules. A subject takes part unless the holdout, a segment, has it, or
//!   its slot (of 10,000, by the layer's key) is outside the range; it then goes on to the next rule.
//!   Without a usable value it has no slot, so with a layer it takes no part.
//! - **Exposures** are due for experiments, and for every answer of a flag that says `track`; never for
//!   a flag that is not found.
//! - **Archived** flags answer `FLAG_NOT_FOUND`, with the detail `ARCHIVED`, and fail whom they are a
//!   prerequisite of; so does a disabled flag, whatever its off variant.
//! - **Growing a share** loses nobody: those who move come from later shares. Between neighbours only
//!   these two are touched.

mod bucket;
mod compile;
mod config;
mod decide;
mod encoding;
mod evaluate;
mod experiments;
mod explain;
mod fault;
mod freshness;
mod graph;
mod ids;
mod instant;
mod json;
mod key_table;
mod limits;
mod loaded;
mod network;
mod pattern;
mod policy;
mod program;
mod readable;
mod retention;
mod semver;
mod snapshot;
mod sse;
pub mod state;
mod subject;
mod table;
mod value;
pub mod wire;

pub use bucket::bucket;
pub use compile::{NoReferences, References, compile_flag, compile_segment};
pub use config::{
    Application, Environment, FlagConfig, OnStale, Setting, UnknownSetting, ValueType,
};
pub use encoding::{DecodeError, EncodedState, STATE_FORMAT, STATE_LEN_MAX};
pub use evaluate::{Decision, Detail, Evaluation, Reason};
pub use experiments::clashes as experiment_clashes;
pub use explain::{
    BucketStep, ClauseStep, ExperimentStep, Explanation, HoldoutStep, LayerStep, Outcome, RuleStep,
    STEPS_MAX, SegmentBy, SegmentStep, ShareStep, Step, VALUES_SHOWN_MAX,
};
pub use fault::{FAULTS_MAX, Fault, parse as parse_json};
pub use freshness::{AgeBound, Freshness, age_max, judge};
pub use graph::{GraphFault, check_graph};
pub use ids::{
    ApplicationKey, EnvironmentKey, ExperimentKey, FlagKey, KEY_LEN_MAX, KeyError, LayerKey,
    SegmentKey, StateKey, StateKind, Version, VersionError,
};
pub use json::{StrictJson, json_kind};
pub use limits::{CLOSURE_MAX, DEPTH_MAX, Limit, Limits};
pub use loaded::{LoadError, Snapshot};
pub use policy::{
    Algorithm, Clause, Experiment, LAYER_SLOTS, Layer, Op, Prerequisite, Rollout, Rule,
    SUBJECT_KEY, SegmentPolicy, SegmentRule, Serve, Share, Target, TargetingPolicy, WEIGHT_SUM_MAX,
    Weight,
};
pub use retention::Retention;
pub use snapshot::{ConfigSnapshot, Delta, DeltaRefused, Digest, DigestError, SnapshotRefused};
pub use state::EvaluationState;
pub use subject::{Attribute, Scalar, Subject};
pub use value::ValueRef;
