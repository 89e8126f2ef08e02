//! Inputs to begin with, made by the crate's own public functions.
//!
//! What must hold: together they hold every shape that a state, snapshot, delta, message or document
//! can have, also such as no leader makes (cycles, chains beyond the depth, diamonds), so that
//! changing them a little reaches every branch. They stay small: inputs are made of them by the
//! thousand.

use std::sync::LazyLock;

use bytes::Bytes;
use pennon_evaluator::wire::{Ages, Intent, SharedFrame, StreamMessage};
use pennon_evaluator::{
    ConfigSnapshot, Delta, EncodedState, EnvironmentKey, EvaluationState, Fault, FlagConfig,
    FlagKey, Limits, References, SegmentKey, SegmentPolicy, Snapshot, StateKey, StateKind, Subject,
    TargetingPolicy, Version, compile_flag, compile_segment,
};
use serde_json::{Value, json};

use super::documents::{config_text, configs, policies, segments, whole_policy};
use super::snapshots::to_positional;
use super::unsound::unsound;

/// Every segment exists, and every flag is a switch.
pub(crate) struct Everything;

impl References for Everything {
    fn segment_exists(&self, _: &SegmentKey) -> bool {
        true
    }

    fn flag_variants(&self, _: &FlagKey) -> Option<Vec<String>> {
        Some(vec!["off".to_owned(), "on".to_owned()])
    }
}

pub(crate) fn environment() -> EnvironmentKey {
    "production".parse().unwrap()
}

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(super) type Compiled = Result<EvaluationState, Vec<Fault>>;

/// Compiles a switch.
pub(crate) fn flag(key: &str, policy: &Value) -> Compiled {
    let at = version(3);
    let config = FlagConfig::parse(&key.parse().unwrap(), config_text())?;
    let policy = TargetingPolicy::parse(&policy.to_string())?;
    compile_flag(
        &config,
        at,
        &policy,
        at,
        at,
        &Everything,
        &Limits::default(),
    )
}

/// Compiles a flag of some other type.
fn valued(key: &str, config: &Value) -> Compiled {
    let at = version(4);
    let config = FlagConfig::parse(&key.parse().unwrap(), &config.to_string())?;
    let policy = json!({"enabled": true, "default": {"variant": config.off_variant}});
    let policy = TargetingPolicy::parse(&policy.to_string())?;
    compile_flag(
        &config,
        at,
        &policy,
        at,
        at,
        &Everything,
        &Limits::default(),
    )
}

pub(super) fn segment(key: &str, policy: &Value) -> Compiled {
    let (key, at) = (key.parse().unwrap(), version(2));
    let policy = SegmentPolicy::parse(&policy.to_string())?;
    compile_segment(&key, &policy, at, at, &Everything, &Limits::default())
}

/// States of every kind, small, with keys of their own.
fn small_states() -> Vec<EvaluationState> {
    let (mut policies, mut segments, configs) = (policies(), segments(), configs());
    // The last ones are to be refused.
    assert!(flag("f", &policies.pop().unwrap()).is_err());
    assert!(segment("s", &segments.pop().unwrap()).is_err());
    let flags = policies.iter().enumerate();
    let flags = flags.map(|(n, policy)| flag(&format!("f{n}"), policy));
    let segments = segments.iter().enumerate();
    let segments = segments.map(|(n, policy)| segment(&format!("s{n}"), policy));
    let configs = configs.into_iter().enumerate().map(|(n, mut config)| {
        config["key"] = Value::Null;
        valued(&format!("c{n}"), &config)
    });
    let all = flags.chain(segments).chain(configs);
    all.map(|state| state.expect("a seed compiles")).collect()
}

fn encode(states: Vec<Compiled>) -> Vec<EncodedState> {
    let states = states
        .into_iter()
        .map(|state| state.expect("a seed compiles"));
    states
        .map(|state| EncodedState::new(&environment(), &state))
        .collect()
}

fn in_segment(keys: &[String]) -> Value {
    json!({"op": "in_segment", "values": keys})
}

/// A flag that everybody takes who is in one of these segments.
fn asking(key: &str, keys: &[String]) -> Compiled {
    let rule = json!({"when": [in_segment(keys)], "serve": {"variant": "on"}});
    flag(
        key,
        &json!({"enabled": true, "rules": [rule], "default": {"variant": "off"}}),
    )
}

fn using(key: &str, keys: &[String]) -> Compiled {
    segment(key, &json!({"rules": [{"when": [in_segment(keys)]}]}))
}

/// Segments that use each other in a circle, and a flag that is its own prerequisite's.
fn cycle() -> Vec<EncodedState> {
    let names = |n: usize| vec![format!("s{}", (n + 1) % 3)];
    let mut states: Vec<_> = (0..3).map(|n| using(&format!("s{n}"), &names(n))).collect();
    let requiring = |flag: &str| {
        json!({"enabled": true, "prerequisites": [{"flag": flag, "variants": ["on"]}],
               "default": {"variant": "on"}})
    };
    states.extend([flag("a", &requiring("b")), flag("b", &requiring("a"))]);
    states.push(asking("f", &["s0".to_owned()]));
    encode(states)
}

/// A chain deeper than evaluation follows.
fn chain() -> Vec<EncodedState> {
    let names = |n: usize| vec![format!("s{}", n + 1)];
    let mut states: Vec<_> = (0..24)
        .map(|n| using(&format!("s{n}"), &names(n)))
        .collect();
    states.extend([
        asking("deep", &["s0".to_owned()]),
        asking("near", &["s12".to_owned()]),
    ]);
    encode(states)
}

/// Layers of three segments that each use all three below: without a memory, 3^19 visits.
fn diamonds() -> Vec<EncodedState> {
    let layer = |n: usize| (0..3).map(|m| format!("l{n}-{m}")).collect::<Vec<_>>();
    let mut states: Vec<_> = layer(0)
        .iter()
        .map(|key| segment(key, &json!({"included": ["nobody"]})))
        .collect();
    for n in 1..19 {
        states.extend(layer(n).iter().map(|key| using(key, &layer(n - 1))));
    }
    states.push(asking("heavy", &layer(18)));
    encode(states)
}

/// States that others are loaded beside: what the seeds refer to.
pub(crate) fn neighbours() -> &'static [EncodedState] {
    static NEIGHBOURS: LazyLock<Vec<EncodedState>> = LazyLock::new(|| {
        let states = [
            flag(
                "base",
                &json!({"enabled": true, "default": {"variant": "on"}}),
            ),
            segment("s", &json!({"included": ["user-42"]})),
            using("t", &["s".to_owned()]),
        ];
        encode(states.to_vec())
    });
    &NEIGHBOURS
}

/// A snapshot that deltas are applied to, as bytes and loaded.
pub(crate) fn base() -> &'static (ConfigSnapshot, Snapshot) {
    static BASE: LazyLock<(ConfigSnapshot, Snapshot)> = LazyLock::new(|| {
        let mut states = neighbours().to_vec();
        let policies = [&policies()[9], &policies()[0]];
        states.extend(encode(vec![
            flag("f", &whole_policy()),
            flag("g", policies[0]),
            flag("h", policies[1]),
        ]));
        let config = ConfigSnapshot::new(environment(), version(7), states).unwrap();
        let snapshot = Snapshot::load(&config).unwrap();
        (config, snapshot)
    });
    &BASE
}

/// Whom flags are decided for.
pub(crate) fn subjects() -> &'static [Subject] {
    static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(|| {
        vec![
            Subject::new(""),
            Subject::new("user-42")
                .with("a", "DE")
                .with("b", f64::MAX)
                .with("id", true),
            Subject::new("b")
                .with(
                    "a",
                    vec!["2.3.0-rc.1", "10.1.2.3", "2026-11-22T10:00:00Z", "axxz"],
                )
                .with("b", f64::NAN),
        ]
    });
    &SUBJECTS
}

pub(crate) fn states() -> Vec<Vec<u8>> {
    let unsound = unsound().into_iter().map(|(_, state)| state);
    let states = small_states().into_iter().chain(unsound);
    let mut inputs: Vec<Vec<u8>> = states.map(|state| state.encode().to_vec()).collect();
    // Numbers that no clause holds, where one of the seeds has a 7.
    let seven = 7_f64.to_le_bytes();
    let with_seven = |bytes: &&Vec<u8>| bytes.windows(8).any(|at| at == seven);
    let input = inputs.iter().find(with_seven).expect("a clause holds a 7");
    let at = input.windows(8).position(|at| at == seven).unwrap_or(0);
    let odd = [-0.0, f64::NAN, f64::INFINITY].map(|number| {
        let mut odd = input.clone();
        odd[at..at + 8].copy_from_slice(&f64::to_le_bytes(number));
        odd
    });
    inputs.extend(odd);
    inputs
}

pub(crate) fn encoded() -> Vec<Vec<u8>> {
    let small = small_states();
    let wrapped = small.iter().step_by(3);
    let wrapped = wrapped.map(|state| to_positional(&EncodedState::new(&environment(), state)));
    states()
        .into_iter()
        .chain(wrapped)
        .chain(headless())
        .collect()
}

/// Bytes whose head is no head of a state: another kind, a long key, a key that is no text.
fn headless() -> [Vec<u8>; 3] {
    let changed = |at: usize, to: u8| {
        let mut bytes = neighbours()[0].bytes().to_vec();
        bytes[at] = to;
        bytes
    };
    [changed(1, 9), changed(6, 0xff), changed(13, 0xff)]
}

/// Snapshots that hold what the states do, a few states each, and graphs.
fn configs_of_states() -> Vec<ConfigSnapshot> {
    let small: Vec<EncodedState> = small_states()
        .iter()
        .map(|state| EncodedState::new(&environment(), state))
        .collect();
    let mut lists: Vec<Vec<EncodedState>> = small.chunks(3).map(<[_]>::to_vec).collect();
    lists.extend([
        Vec::new(),
        cycle(),
        chain(),
        diamonds(),
        neighbours().to_vec(),
    ]);
    let configs = lists.into_iter();
    configs
        .map(|states| ConfigSnapshot::new(environment(), version(9), states).unwrap())
        .collect()
}

pub(crate) fn snapshots() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = configs_of_states().iter().map(to_positional).collect();
    let parts = |states: Vec<Bytes>| to_positional(&(environment(), version(9), states, 1_u128));
    let state = neighbours()[0].bytes();
    inputs.push(parts(vec![state.clone(), state.clone()]));
    inputs.extend(headless().map(|state| parts(vec![state.into()])));
    inputs.push(parts(vec![Bytes::from_static(b"\x01nothing")]));
    let unsound = unsound().into_iter();
    inputs.extend(unsound.map(|(_, state)| parts(vec![state.encode()])));
    inputs
}

fn all_deltas() -> Vec<Delta> {
    let (base, _) = base();
    let mut deltas: Vec<Delta> = configs_of_states()
        .iter()
        .map(|config| ConfigSnapshot::diff(base, config))
        .collect();
    let changed = configs_of_states().into_iter().take(12);
    deltas.extend(changed.map(|config| {
        let states = base.states().iter().chain(config.states()).cloned();
        let states = states.collect();
        let next = ConfigSnapshot::new(environment(), version(8), states).unwrap();
        ConfigSnapshot::diff(base, &next)
    }));
    deltas.extend(deltas_of_what_is_used());
    let gone = StateKey::new(StateKind::Flag, "f").unwrap();
    let twice = Delta {
        removals: vec![gone.clone(), gone],
        ..deltas[0].clone()
    };
    let elsewhere = Delta {
        environment: "staging".parse().unwrap(),
        ..deltas[0].clone()
    };
    let late = Delta {
        from: version(8),
        ..deltas[0].clone()
    };
    let nowhere = Delta {
        to: base.version(),
        ..deltas[0].clone()
    };
    deltas.extend([twice, elsewhere, late, nowhere]);
    let first = deltas[0].clone();
    deltas.extend(unsound().iter().map(|(_, state)| Delta {
        upserts: vec![EncodedState::new(&environment(), state)],
        ..first.clone()
    }));
    deltas
}

/// A segment that others use changes, closes a circle, goes.
fn deltas_of_what_is_used() -> Vec<Delta> {
    let (base, _) = base();
    let used = StateKey::new(StateKind::Segment, "s").unwrap();
    let with = |state: Option<Compiled>| {
        let others = base.states().iter();
        let others = others.filter(|state| *state.state_key() != used);
        let states = encode(state.into_iter().collect());
        let states = others.cloned().chain(states).collect();
        ConfigSnapshot::new(environment(), version(8), states).unwrap()
    };
    let changed = segment("s", &json!({"excluded": ["user-42"]}));
    let circle = using("s", &["t".to_owned()]);
    let next = [Some(changed), Some(circle), None].map(with);
    next.map(|next| ConfigSnapshot::diff(base, &next)).to_vec()
}

pub(crate) fn deltas() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = all_deltas().iter().map(to_positional).collect();
    let head = (environment(), version(7), version(8));
    let none: [StateKey; 0] = [];
    let nothing = [Bytes::from_static(b"\x01nothing")];
    inputs.push(to_positional(&(head, nothing, none, 1_u128)));
    inputs
}

fn messages() -> Vec<StreamMessage> {
    let mut messages = vec![
        StreamMessage::Hello {
            cluster_id: "c1".to_owned(),
            environment: environment(),
            intent: Intent::Full,
            version: version(7),
            staleness_bound_ms: 10_000,
            heartbeat_ms: 1_000,
        },
        StreamMessage::Heartbeat {
            version: version(9),
        },
        StreamMessage::Acknowledge {
            version: version(7),
        },
        StreamMessage::Goodbye { retry_ms: 250 },
        StreamMessage::Reset {
            reason: "too far behind\r\n".to_owned(),
        },
    ];
    let unreadable = StreamMessage::Snapshot {
        version: version(1),
        states: vec![Bytes::from_static(b"\x01nothing")],
        digest: Default::default(),
    };
    messages.push(unreadable);
    messages.extend(configs_of_states().iter().map(StreamMessage::snapshot));
    messages.extend(all_deltas().iter().map(StreamMessage::delta));
    messages
}

/// One frame.
pub(crate) fn frame(message: &StreamMessage) -> Vec<u8> {
    let frame = SharedFrame::encode(message).unwrap();
    let ages = Ages {
        open_ms: 5,
        fresh_age_ms: 6,
    };
    [&frame.header(ages)[..], frame.body()].concat()
}

/// A hello and what a stream brings then: unless that is a snapshot, first what it is about.
pub(crate) fn stream() -> Vec<Vec<u8>> {
    let messages = messages();
    let (hello, rest) = messages.split_first().unwrap();
    let base = StreamMessage::snapshot(&base().0);
    let follows = |message: &StreamMessage| {
        let before = match message {
            StreamMessage::Snapshot { .. } => frame(hello),
            _ => [frame(hello), frame(&base)].concat(),
        };
        [before, frame(message)].concat()
    };
    let mut streams: Vec<Vec<u8>> = rest.iter().map(follows).collect();
    // One after the other, in one stream.
    let all: Vec<Vec<u8>> = messages.iter().map(frame).collect();
    let starts_over = [&all[3..5], &all[..1], &[frame(&base)], &all[1..4]].concat();
    streams.push(
        [&all[..1], &[frame(&base)], &all[1..3], &starts_over]
            .concat()
            .concat(),
    );
    streams.retain(|stream| stream.len() < 4_096);
    streams
}

pub(crate) fn streams() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for (n, stream) in stream().into_iter().enumerate() {
        let steer = [[40, 0], [7, 1], [255, 1]][n % 3];
        inputs.push([&steer[..], &stream].concat());
    }
    inputs.push([&[255, 1][..], &frame(&StreamMessage::snapshot(&base().0))].concat());
    // Kind, format and tag behind a crc that fits; then crc, and lengths out of bounds.
    let heartbeat = frame(&messages()[1]);
    for (mend, at, to) in [
        (1, 8, 4),
        (1, 9, 2),
        (1, 26, 9),
        (0, 4, 0),
        (0, 0, 17),
        (0, 3, 1),
    ] {
        let mut changed = [&[40, mend][..], &heartbeat].concat();
        changed[2 + at] = to;
        inputs.push(changed);
    }
    inputs
}

pub(crate) fn key_texts() -> Vec<Vec<u8>> {
    let long = "k".repeat(257);
    let texts = [
        "checkout.new-ui",
        "A-z.0_9:/",
        "",
        "für",
        "9007199254740991",
        "9007199254740992",
        "+1",
        "007",
        "0123456789abcdef0123456789abcdef",
        r#"{"kind":"flag","key":"x"}"#,
        &long[1..],
        &long,
    ];
    let mut inputs = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let which = [n % 8, 3, 4, 5].map(|which| which as u8);
        inputs.extend(which.map(|which| [&[which][..], text.as_bytes()].concat()));
    }
    let key = StateKey::new(StateKind::Segment, "x").unwrap();
    inputs.push([&[8][..], &to_positional(&key)].concat());
    inputs.extend([vec![8, 9], vec![0, 0xff]]);
    inputs
}
