//! A stream of frames, in pieces.
//!
//! The first byte of an input says how long the pieces are, the second, when odd, that lengths and
//! crcs are made right first: a change behind a crc is otherwise never seen.
//!
//! What must hold: the pieces do not matter; every message that comes out was encoded in exactly
//! the bytes that it came from (I4); after an error there is only that error; a snapshot or delta
//! in it is answered as anywhere else; an event is made of it exactly when its states decode, and
//! is what a reader of Server-Sent Events expects.

use bytes::Bytes;
use pennon_evaluator::EncodedState;
use pennon_evaluator::wire::{
    Ages, FRAME_HEADER_LEN, FrameDecoder, FrameError, SharedEvent, SharedFrame, StreamMessage,
};

use super::seeds::environment;
use super::snapshots::{applied, loaded};
use super::states::memory;
use super::{DECODING, Seen};

pub(crate) const ANSWERS: &[&str] = &[
    "hello",
    "snapshot",
    "delta",
    "heartbeat",
    "acknowledge",
    "goodbye",
    "reset",
    "incomplete",
    "too short",
    "too long",
    "crc",
    "format",
    "kind",
    "body",
    "loaded",
    "applied",
    "event",
    "no event",
];

/// The longest frame taken here: short enough that a changed length is beyond it.
const FRAME_LEN_MAX: u32 = 64 << 10;

type Answer = (Vec<(Ages, StreamMessage)>, Option<FrameError>);

/// Feeds a decoder.
pub(crate) fn frames(bytes: &[u8], seen: &mut Seen) {
    let Some(([piece, mend], stream)) = bytes.split_first_chunk() else {
        return seen.note("incomplete");
    };
    let mut stream = stream.to_vec();
    if mend % 2 == 1 {
        sealed(&mut stream);
    }
    let len = stream.len();
    let whole = |answer: &Answer| answer.1.is_none();
    let at_once = DECODING.bounds_if(whole, len, || read(&stream, len.max(1)));
    let piece = usize::from(*piece) + 1;
    let in_pieces = DECODING.bounds_if(whole, len, || read(&stream, piece));
    assert_eq!(at_once, in_pieces, "pieces matter");
    let (messages, error) = at_once;
    note(error, seen);
    let mut rest = &stream[..];
    for (ages, message) in messages {
        let frame = SharedFrame::encode(&message).unwrap();
        assert_eq!(frame.len(), FRAME_HEADER_LEN + frame.body().len());
        let again = [&frame.header(ages)[..], frame.body()].concat();
        assert!(rest.starts_with(&again), "I4: two forms of one frame");
        rest = &rest[again.len()..];
        let memory = memory(states(&message).iter().map(|bytes| &bytes[..]));
        memory.bounds(len, || used(message, ages, seen));
    }
}

fn read(stream: &[u8], piece: usize) -> Answer {
    let mut decoder = FrameDecoder::new(FRAME_LEN_MAX);
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.pull() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(stream);
                    assert_eq!(decoder.pull(), Err(error.clone()), "an error is the end");
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

fn note(error: Option<FrameError>, seen: &mut Seen) {
    seen.note(match error {
        None => "incomplete",
        Some(FrameError::TooShort { .. }) => "too short",
        Some(FrameError::TooLong { .. }) => "too long",
        Some(FrameError::Crc { .. }) => "crc",
        Some(FrameError::Format { .. }) => "format",
        Some(FrameError::Kind { .. }) => "kind",
        Some(FrameError::Body { .. }) => "body",
    });
}

/// The encoded states of a message.
fn states(message: &StreamMessage) -> &[Bytes] {
    match message {
        StreamMessage::Snapshot { states, .. } => states,
        StreamMessage::Delta { upserts, .. } => upserts,
        _ => &[],
    }
}

fn used(message: StreamMessage, ages: Ages, seen: &mut Seen) {
    seen.note(message.name());
    let _ = ages.bound(std::time::Duration::MAX);
    let readable = states(&message).iter().all(|bytes| {
        let encoded = EncodedState::from_bytes(&environment(), bytes.clone());
        encoded.is_ok_and(|state| state.decode().is_ok())
    });
    match SharedEvent::encode(&environment(), &message) {
        Ok(event) => {
            assert!(readable);
            seen.note("event");
            shown(&event, ages, &message);
        }
        Err(_) => {
            assert!(!readable);
            seen.note("no event");
        }
    }
    if let Ok(Some(config)) = message.clone().into_snapshot(&environment()) {
        loaded(&config, seen);
    }
    if let Ok(Some(delta)) = message.into_delta(&environment()) {
        applied(&delta, seen);
    }
}

/// One event: its lines, an empty one, and JSON as data.
fn shown(event: &SharedEvent, ages: Ages, message: &StreamMessage) {
    let text = event.head(ages) + std::str::from_utf8(event.tail()).unwrap();
    let lines = text.strip_suffix("\n\n").expect("an empty line ends it");
    assert!(!lines.contains("\n\n") && !lines.contains('\r'));
    let name = format!("event: {}", message.name());
    assert_eq!(lines.lines().next(), Some(name.as_str()));
    let data = lines.lines().last().unwrap();
    let data: serde_json::Value =
        serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(data["open_ms"], ages.open_ms);
}

/// Makes lengths and crcs right, frame by frame, as far as there are headers.
pub(crate) fn sealed(mut stream: &mut [u8]) {
    while stream.len() >= FRAME_HEADER_LEN {
        let mut field = [0; 4];
        field.copy_from_slice(&stream[..4]);
        let len = u32::from_le_bytes(field) as usize;
        // The field stays if there is so much; what is too short or too long stays so.
        let covered = len.min(stream.len() - 8);
        if !(18..=FRAME_LEN_MAX as usize).contains(&len) {
            return;
        }
        stream[..4].copy_from_slice(&(covered as u32).to_le_bytes());
        let crc = crc32fast::hash(&stream[8..8 + covered]);
        stream[4..8].copy_from_slice(&crc.to_le_bytes());
        stream = &mut stream[8 + covered..];
    }
}
