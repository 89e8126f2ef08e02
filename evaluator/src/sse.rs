//! The messages of `wire.rs` as Server-Sent Events with JSON, for curl, browsers and other
//! languages.
//!
//! What must hold: an event carries the same message as the frame, field for field, with every
//! state in its readable form beside its `hash`, so that any language can sum the digest. Only
//! messages after which the receiver *has* a version set the event id, because a reconnecting
//! receiver resumes from the last id it saw (I8). The text has no line break inside `data`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::encoding::{DecodeError, EncodedState};
use crate::ids::EnvironmentKey;
use crate::wire::{Ages, StreamMessage};

/// A message encoded once for all connections: each sends its own head, then the shared tail.
///
/// ```
/// use pennon_evaluator::Version;
/// use pennon_evaluator::wire::{Ages, SharedEvent, StreamMessage};
/// let message = StreamMessage::Heartbeat { version: Version::MAX };
/// let event = SharedEvent::encode(&"production".parse().unwrap(), &message)?;
/// let text = event.head(Ages { open_ms: 15, fresh_age_ms: 2 }) + std::str::from_utf8(event.tail()).unwrap();
/// assert_eq!(text, "event: heartbeat\nid: 9007199254740991\n\
///     data: {\"open_ms\":15,\"fresh_age_ms\":2,\"version\":9007199254740991}\n\n");
/// # Ok::<(), pennon_evaluator::DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedEvent {
    before_ages: String,
    tail: Bytes,
}

impl SharedEvent {
    /// Encodes a message about an environment.
    ///
    /// # Errors
    /// When a state in it cannot be read.
    pub fn encode(
        environment: &EnvironmentKey,
        message: &StreamMessage,
    ) -> Result<SharedEvent, DecodeError> {
        let name = message.name();
        let before_ages = match resumable_from(message) {
            Some(version) => format!("event: {name}\nid: {version}\ndata: {{"),
            None => format!("event: {name}\ndata: {{"),
        };
        // An object with at least one field: without its first brace it continues the head.
        let object = body(environment, message)?.to_string();
        let tail = format!("{}\n\n", object.strip_prefix('{').unwrap_or(&object));
        Ok(SharedEvent {
            before_ages,
            tail: Bytes::from(tail),
        })
    }

    /// Makes the head of one connection. The tail is not read again.
    pub fn head(&self, ages: Ages) -> String {
        let Ages {
            open_ms,
            fresh_age_ms,
        } = ages;
        let before = &self.before_ages;
        format!("{before}\"open_ms\":{open_ms},\"fresh_age_ms\":{fresh_age_ms},")
    }

    /// Returns the shared rest of the event, to its empty line.
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }
}

/// The version that whoever has read this message has.
fn resumable_from(message: &StreamMessage) -> Option<crate::Version> {
    match message {
        StreamMessage::Snapshot { version, .. } | StreamMessage::Heartbeat { version } => {
            Some(*version)
        }
        StreamMessage::Delta { to, .. } => Some(*to),
        StreamMessage::Hello { .. }
        | StreamMessage::Goodbye { .. }
        | StreamMessage::Reset { .. }
        | StreamMessage::Acknowledge { .. } => None,
    }
}

fn body(environment: &EnvironmentKey, message: &StreamMessage) -> Result<Value, DecodeError> {
    let readable = |states: &[Bytes]| -> Result<Vec<Value>, DecodeError> {
        let read = |bytes: &Bytes| EncodedState::from_bytes(environment, bytes.clone())?.to_json();
        states.iter().map(read).collect()
    };
    Ok(match message {
        StreamMessage::Hello {
            cluster_id,
            environment,
            intent,
            version,
            staleness_bound_ms,
            heartbeat_ms,
        } => json!({
            "cluster_id": cluster_id, "environment": environment, "intent": intent,
            "version": version, "staleness_bound_ms": staleness_bound_ms,
            "heartbeat_ms": heartbeat_ms,
        }),
        StreamMessage::Snapshot {
            version,
            states,
            digest,
        } => {
            json!({ "version": version, "states": readable(states)?, "digest": digest })
        }
        StreamMessage::Delta {
            from,
            to,
            upserts,
            removals,
            digest,
        } => json!({
            "from": from, "to": to, "upserts": readable(upserts)?, "removals": removals,
            "digest": digest,
        }),
        StreamMessage::Heartbeat { version } => json!({ "version": version }),
        StreamMessage::Goodbye { retry_ms } => json!({ "retry_ms": retry_ms }),
        StreamMessage::Reset { reason } => json!({ "reason": reason }),
        StreamMessage::Acknowledge { version } => json!({ "version": version }),
    })
}
