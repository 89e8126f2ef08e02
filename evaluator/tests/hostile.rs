//! Hostile bytes into every decoder: an answer or an error, never a panic, and no more memory than
//! the bytes and a constant.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, environment, serving, switch, version};
use pennon_evaluator::wire::{
    Ages, FrameDecoder, FrameError, SharedEvent, SharedFrame, StreamMessage,
};
use pennon_evaluator::{
    ConfigSnapshot, Delta, EncodedState, Environment, EvaluationState, FlagConfig, SegmentPolicy,
    Snapshot, Subject, TargetingPolicy,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What a decoder may take beyond its input: `Vec`s are reserved for at most this by serde.
const MEMORY_MAX: u64 = 16 << 20;

fn world() -> World {
    let policy = json!({
        "enabled": true, "prerequisites": [{"flag": "base", "variants": ["on"]}],
        "targets": [{"variant": "off", "subjects": ["a", "b", "c"]}],
        "rules": [{"when": [{"attribute": "a", "op": "in", "values": ["x", 1, 2, true]},
                            {"attribute": "v", "op": "semver_lt", "values": ["2-rc.1", "3"]},
                            {"attribute": "n", "op": "lt", "values": [1, 2]},
                            {"op": "in_segment", "values": ["s", "t"]}], "serve": {"variant": "on"}}],
        "default": {"rollout": {"weights": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 2}]}},
    });
    World::default()
        .with_flag("base", 1, switch(), serving("on"))
        .with_flag("f", 2, switch(), policy)
        .with_segment("s", 1, json!({"included": ["a", "b"], "rules": [{"when": [], "rollout": {"share": 1, "of": 2}}]}))
        .with_segment("t", 1, json!({"excluded": ["a"]}))
}

/// Decodes bytes every way there is, and uses what comes out.
fn decode(bytes: &[u8]) -> bool {
    let mut decoded = false;
    let memory = allocation_counter::measure(|| {
        let _ = EncodedState::from_bytes(&environment(), bytes.to_vec().into());
        let _ = bincode::deserialize::<EncodedState>(bytes).map(|_| ());
        let _ = bincode::deserialize::<ConfigSnapshot>(bytes).map(|_| ());
        let _ = bincode::deserialize::<Delta>(bytes).map(|_| ());
        if let Ok(state) = EvaluationState::decode(bytes) {
            decoded = true;
            assert_eq!(state.encode(), bytes, "I4: two forms of one state");
            evaluate(&state);
        }
    });
    assert!(memory.bytes_max < MEMORY_MAX, "{memory:?}");
    decoded
}

/// Loads a state beside the others and asks it.
fn evaluate(state: &EvaluationState) {
    let mut states: Vec<EvaluationState> = world().states();
    states.retain(|other| other.state_key() != state.state_key());
    states.push(state.clone());
    let states = states
        .iter()
        .map(|state| EncodedState::new(&environment(), state))
        .collect();
    let snapshot =
        Snapshot::load(&ConfigSnapshot::new(environment(), version(9), states).unwrap()).unwrap();
    let subject = Subject::new("a").with("a", "x").with("v", "1").with("n", 1);
    let keys: Vec<String> = snapshot.flags().map(|flag| flag.key.to_string()).collect();
    keys.iter()
        .for_each(|key| drop(snapshot.evaluate(key, &subject).to_json(key)));
    drop(state.to_json());
}

#[test]
fn every_byte_of_a_state_can_be_wrong() {
    let mut survivors = 0;
    for state in world().states() {
        let bytes = state.encode();
        assert!(decode(&bytes));
        for n in 0..bytes.len() {
            assert!(!decode(&bytes[..n]), "cut at {n}");
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut broken = bytes.to_vec();
                broken[n] = value;
                survivors += usize::from(decode(&broken));
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(!decode(&longer), "trailing bytes");
    }
    assert!(
        survivors > 100,
        "changed names and numbers can be read: {survivors}"
    );
}

#[test]
fn indexes_and_orders_are_checked_after_decoding() {
    let EvaluationState::Flag(sound) = world().compile_flag("f").unwrap() else {
        panic!()
    };
    type Change = fn(&mut pennon_evaluator::state::FlagState);
    let changes: [(&str, Change); 8] = [
        ("off variant", |flag| flag.off_variant = 2),
        ("target", |flag| flag.targets[0].variant = 2),
        ("targets are not sorted", |flag| flag.targets.reverse()),
        ("variants are not sorted", |flag| flag.variants.reverse()),
        ("not sorted", |flag| flag.segments.reverse()),
        ("segment is out of range", |flag| flag.segments.truncate(1)),
        ("not of the flag's type", |flag| {
            flag.variants[0].value = "1".into()
        }),
        ("without a variant", |flag| flag.variants.clear()),
    ];
    for (message, change) in changes {
        let mut flag = sound.clone();
        change(&mut flag);
        let refusal = EvaluationState::decode(&EvaluationState::Flag(flag).encode()).unwrap_err();
        assert!(
            refusal.to_string().contains(message),
            "{refusal} is not about {message}"
        );
    }
}

fn message() -> StreamMessage {
    StreamMessage::snapshot(&world().snapshot(7))
}

fn frame(message: &StreamMessage) -> Vec<u8> {
    let frame = SharedFrame::encode(message).unwrap();
    [
        &frame.header(Ages {
            open_ms: 5,
            fresh_age_ms: 6,
        })[..],
        frame.body(),
    ]
    .concat()
}

#[test]
fn every_byte_of_a_frame_is_guarded() {
    let bytes = frame(&message());
    for n in 0..bytes.len() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes[..n]);
        assert_eq!(decoder.pull(), Ok(None), "cut at {n}");
        let mut broken = bytes.clone();
        broken[n] ^= 0x10;
        let mut decoder = FrameDecoder::default();
        decoder.push(&broken);
        assert!(!matches!(decoder.pull(), Ok(Some(_))), "byte {n}");
    }
}

#[test]
fn a_long_frame_is_refused_before_it_is_received() {
    let mut decoder = FrameDecoder::new(1_000);
    decoder.push(&1_001_u32.to_le_bytes());
    let error = FrameError::TooLong {
        len: 1_001,
        len_max: 1_000,
    };
    assert_eq!(decoder.pull(), Err(error.clone()));
    decoder.push(&frame(&message()));
    assert_eq!(
        decoder.pull(),
        Err(error),
        "there is no way back into the stream"
    );
    let mut decoder = FrameDecoder::default();
    decoder.push(&17_u32.to_le_bytes());
    assert_eq!(decoder.pull(), Err(FrameError::TooShort { len: 17 }));
    let promised = allocation_counter::measure(|| {
        let mut decoder = FrameDecoder::default();
        decoder.push(&(256_u32 << 20).to_le_bytes());
        assert_eq!(decoder.pull(), Ok(None));
    });
    assert!(
        promised.bytes_max < 1_000,
        "memory for what was only promised: {promised:?}"
    );
}

#[test]
fn kind_and_format_are_checked_behind_the_crc() {
    let with = |n: usize, value: u8| {
        let mut bytes = frame(&StreamMessage::Heartbeat {
            version: version(1),
        });
        bytes[n] = value;
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        decoder.pull()
    };
    assert_eq!(with(8, 4), Err(FrameError::Kind { header: 4, body: 3 }));
    assert_eq!(with(9, 2), Err(FrameError::Format { found: 2 }));
    assert!(matches!(with(26, 9), Err(FrameError::Body { .. })));
}

#[test]
fn states_that_cannot_be_read_do_not_become_events() {
    let mut bytes = world().compile_segment("t").unwrap().encode().to_vec();
    bytes.pop();
    let states = vec![bytes.into()];
    let message = StreamMessage::Snapshot {
        version: version(1),
        states,
        digest: Default::default(),
    };
    assert!(SharedEvent::encode(&environment(), &message).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0_u8..3) {
        decode(&bytes);
        decode(&[&[1, tag, 0, 0, 0][..], &bytes].concat());
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        prop_assert!(!matches!(decoder.pull(), Ok(Some(_))));
    }

    #[test]
    fn portions_do_not_matter(cuts in prop::collection::vec(1_usize..60, 1..40)) {
        let messages = [message(), StreamMessage::Goodbye { retry_ms: 1 }, message()];
        let bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
        let mut decoder = FrameDecoder::default();
        let (mut rest, mut cuts, mut found) = (&bytes[..], cuts.into_iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (portion, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            decoder.push(portion);
            while let Some((ages, message)) = decoder.pull().unwrap() {
                prop_assert_eq!(ages, Ages { open_ms: 5, fresh_age_ms: 6 });
                found.push(message);
            }
            rest = later;
        }
        prop_assert_eq!(found, messages);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[\\PC\\[\\]{}\":,]{0,80}") {
        let _ = FlagConfig::parse(&"f".parse().unwrap(), &text);
        let _ = TargetingPolicy::parse(&text);
        let _ = SegmentPolicy::parse(&text);
        let _ = Environment::parse(&"e".parse().unwrap(), &text);
    }

    /// Any JSON in any place of a policy.
    #[test]
    fn any_json_in_any_place_is_parsed_or_refused(place in 0_usize..14, n in 0_usize..12) {
        let odd = [json!(null), json!(0), json!(-1), json!(1e300), json!(u64::MAX), json!(""), json!("x"),
                   json!([]), json!([[]]), json!({}), json!({"variant": {}}), json!(true)];
        let places = ["/enabled", "/prerequisites", "/prerequisites/0", "/targets", "/targets/0/subjects", "/rules",
                      "/rules/0", "/rules/0/when", "/rules/0/when/0", "/rules/0/when/0/values", "/rules/0/serve",
                      "/rules/0/serve/rollout", "/rules/0/serve/rollout/weights", "/default"];
        let mut policy: Value = json!({
            "enabled": true, "prerequisites": [{"flag": "base", "variants": ["on"]}],
            "targets": [{"variant": "on", "subjects": ["a"]}],
            "rules": [{"when": [{"attribute": "a", "op": "in", "values": [1]}],
                       "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}]}}}],
            "default": {"variant": "on"},
        });
        *policy.pointer_mut(places[place]).unwrap() = odd[n].clone();
        let world = World::default().with_flag("base", 1, switch(), serving("on")).with_flag("f", 1, switch(), policy);
        if let Err(faults) = world.compile_flag("f") {
            prop_assert!(faults.iter().all(|fault| !fault.message.is_empty()));
        }
    }
}
