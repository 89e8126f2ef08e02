//! Hostile bytes where it is known beforehand what must come of them: every byte of a state and of a
//! frame, every rule of a decoded state, every bound. What chance finds is in `fuzz_targets.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use bytes::Bytes;
use pennon_evaluator::state::{ClauseState, TestState};
use pennon_evaluator::wire::{FrameDecoder, FrameError, SharedEvent, StreamMessage};
use pennon_evaluator::{
    ConfigSnapshot, DecodeError, EncodedState, EvaluationState, Limits, STATE_FORMAT,
    STATE_LEN_MAX, Snapshot,
};
use serde_json::json;
use targets::seeds::{base, environment, flag, frame, neighbours, version};
use targets::unsound::unsound;
use targets::{Seen, TARGETS};

/// Runs the fuzz target over one state, and says whether it was decoded.
fn decodes(bytes: &[u8]) -> bool {
    let mut seen = Seen::default();
    let target = TARGETS.iter().find(|target| target.name == "state");
    (target.unwrap().run)(bytes, &mut seen);
    seen.0.contains_key("flag") || seen.0.contains_key("segment")
}

#[test]
fn every_byte_of_a_state_can_be_wrong() {
    let mut survivors = 0;
    for state in base().0.states() {
        let bytes = state.bytes();
        assert!(decodes(bytes));
        for n in 0..bytes.len() {
            assert!(!decodes(&bytes[..n]), "cut at {n}");
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut broken = bytes.to_vec();
                broken[n] = value;
                survivors += usize::from(decodes(&broken));
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(!decodes(&longer), "trailing bytes");
    }
    assert!(
        survivors > 100,
        "changed names and numbers can be read: {survivors}"
    );
}

#[test]
fn indexes_orders_and_sums_are_checked_after_decoding() {
    for (rule, state) in unsound() {
        let refusal = EvaluationState::decode(&state.encode()).unwrap_err();
        assert_eq!(refusal, DecodeError::Invalid { what: rule });
        // Its head is sound, so it travels; whoever uses it finds out.
        let encoded = EncodedState::new(&environment(), &state);
        let again = EncodedState::from_bytes(&environment(), encoded.bytes().clone());
        assert_eq!(again.as_ref(), Ok(&encoded));
        assert_eq!(encoded.decode(), Err(refusal));
    }
}

/// A flag whose one clause has these patterns.
fn with_patterns(mut sources: Vec<String>) -> EvaluationState {
    let policy = json!({"enabled": true, "default": {"variant": "on"}, "rules": [
        {"when": [{"attribute": "a", "op": "matches", "values": ["x"]}], "serve": {"variant": "on"}}]});
    let Ok(EvaluationState::Flag(mut flag)) = flag("f", &policy) else {
        panic!("a seed compiles");
    };
    sources.sort();
    let (name, negate) = ("a".to_owned(), false);
    let test = TestState::Matches(sources);
    flag.rules[0].when = vec![ClauseState::Attribute { name, test, negate }];
    EvaluationState::Flag(flag)
}

fn loads(state: &EvaluationState) -> Result<(), DecodeError> {
    let states = vec![EncodedState::new(&environment(), state)];
    let config = ConfigSnapshot::new(environment(), version(9), states).unwrap();
    let loaded = Snapshot::load(&config).map(drop);
    let loaded = loaded.map_err(|refusal| refusal.error);
    assert_eq!(EvaluationState::decode(&state.encode()).map(drop), loaded);
    loaded
}

#[test]
fn patterns_are_bounded_in_number_length_and_steps() {
    let refused = |what| Err(DecodeError::Invalid { what });
    let plain = |count: usize| (0..count).map(|n| format!("^{n}$")).collect();
    assert_eq!(loads(&with_patterns(plain(1_000))), Ok(()));
    let too_many = refused("too many regular expressions");
    assert_eq!(loads(&with_patterns(plain(1_001))), too_many);

    let long =
        |len: usize| with_patterns(vec!["a".repeat(2_000) + &"(?i)".repeat((len - 2_000) / 4)]);
    assert_eq!(loads(&long(4_096)), Ok(()));
    let too_long = refused("a regular expression is too long");
    assert_eq!(loads(&long(4_100)), too_long);

    // What cannot be built counts as what takes longest; alone it matches nothing.
    let broken = |count: usize| with_patterns((0..count).map(|n| format!("({n}")).collect());
    let too_slow = refused("regular expressions take too long to build");
    assert_eq!(loads(&broken(100)), too_slow);
    assert_eq!(loads(&broken(1)), Ok(()));
}

/// As many and as costly as the leader lets pass.
#[test]
fn patterns_within_the_limits_of_writing_load() {
    let limits = Limits::default();
    let policy = |sources: &[String]| {
        json!({"enabled": true, "default": {"variant": "on"}, "rules": [
            {"when": [{"attribute": "a", "op": "matches", "values": sources}], "serve": {"variant": "on"}}]})
    };
    let mut sources: Vec<String> = (0..limits.patterns_max)
        .map(|n| format!(r"(?i)^\w+{n}-\d{{3}}$"))
        .collect();
    let most = flag("f", &policy(&sources)).unwrap();
    assert_eq!(loads(&most), Ok(()));
    // Up to the limit of steps, then one more.
    let mut heavy = None;
    for n in 5..30 {
        sources.truncate(1);
        sources.extend((0..9).map(|at| format!("x{at}[ab]*a[ab]{{{n}}}")));
        match flag("f", &policy(&sources)) {
            Ok(state) => heavy = Some(state),
            Err(_) => break,
        }
    }
    assert_eq!(loads(&heavy.unwrap()), Ok(()));
}

#[test]
fn a_state_that_is_too_long_is_not_read() {
    let mut bytes = vec![0; STATE_LEN_MAX + 1];
    bytes[0] = STATE_FORMAT;
    let len = bytes.len();
    assert_eq!(
        EvaluationState::decode(&bytes),
        Err(DecodeError::TooLong { len })
    );
    bytes.pop();
    assert!(matches!(
        EvaluationState::decode(&bytes),
        Err(DecodeError::Malformed { .. })
    ));
}

fn message() -> StreamMessage {
    StreamMessage::snapshot(&base().0)
}

fn pulled(bytes: &[u8]) -> Result<bool, FrameError> {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    decoder.pull().map(|message| message.is_some())
}

#[test]
fn every_byte_of_a_frame_is_guarded() {
    let bytes = frame(&message());
    assert_eq!(pulled(&bytes), Ok(true));
    for n in 0..bytes.len() {
        assert_eq!(pulled(&bytes[..n]), Ok(false), "cut at {n}");
        let mut broken = bytes.clone();
        broken[n] ^= 0x10;
        assert_ne!(pulled(&broken), Ok(true), "byte {n}");
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
    let short = FrameError::TooShort { len: 17 };
    assert_eq!(pulled(&17_u32.to_le_bytes()), Err(short));
    let promised = allocation_counter::measure(|| {
        assert_eq!(pulled(&(256_u32 << 20).to_le_bytes()), Ok(false));
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
        pulled(&bytes)
    };
    assert_eq!(with(8, 4), Err(FrameError::Kind { header: 4, body: 3 }));
    assert_eq!(with(9, 2), Err(FrameError::Format { found: 2 }));
    assert!(matches!(with(26, 9), Err(FrameError::Body { .. })));
}

#[test]
fn states_that_cannot_be_read_do_not_become_events() {
    let mut bytes = neighbours()[0].bytes().to_vec();
    bytes.pop();
    let states = vec![Bytes::from(bytes)];
    let message = StreamMessage::Snapshot {
        version: version(1),
        states,
        digest: Default::default(),
    };
    assert!(SharedEvent::encode(&environment(), &message).is_err());
}
