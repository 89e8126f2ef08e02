//! What nodes send to clients, and its binary framing. The JSON framing is in `sse.rs`.
//!
//! What must hold: a message is encoded once and shared by all connections, while the two ages in
//! front of it are each connection's own (D5); a frame that was damaged, cut or forged gives an
//! error, never a panic; a decoder holds no more than it was given (and never a longer frame than
//! allowed).
//!
//! ```text
//! length u32 LE | crc32 u32 LE | kind u8 | format u8 | open_ms u64 LE | fresh_age_ms u64 LE | body
//! ```
//! `length` counts everything after the crc field and the crc covers the same. `body` is the
//! message in the positional encoding; its own tag agrees with `kind`.
//!
//! Left out: connections, and what a client does about a message.

use std::time::Duration;

use bincode::Options;
use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::encoding::{DecodeError, EncodedState, positional};
use crate::freshness::AgeBound;
use crate::ids::{EnvironmentKey, StateKey, Version};
use crate::snapshot::{ConfigSnapshot, Delta, Digest, SnapshotRefused};

pub use crate::sse::SharedEvent;

/// Media type of a stream of frames.
pub const MEDIA_TYPE_FRAMES: &str = "application/vnd.pennon.frames";
/// What a client asks a connection to be switched to, to have frames without HTTP around them: then
/// what the node sends are frames and nothing else, and what the client sends are frames with
/// [`StreamMessage::Acknowledge`], which are receipts.
pub const PROTOCOL_FRAMES: &str = "pennon-frames";
/// Media type of a stream of Server-Sent Events.
pub const MEDIA_TYPE_EVENTS: &str = "text/event-stream";
/// Header: the version an answer was decided at.
pub const HEADER_VERSION: &str = "Pennon-Version";
/// Header: the age in milliseconds of the answering node's proof of freshness.
pub const HEADER_STALENESS_MS: &str = "Pennon-Staleness-Ms";
/// Header: the node that answered.
pub const HEADER_NODE: &str = "Pennon-Node";
/// Header of a snapshot: the cluster that its version is of.
pub const HEADER_CLUSTER: &str = "Pennon-Cluster";
/// Header of a snapshot: the staleness bound of its environment in milliseconds.
pub const HEADER_STALENESS_BOUND_MS: &str = "Pennon-Staleness-Bound-Ms";
/// Header of a request: answer at this version or a later one.
pub const HEADER_MIN_VERSION: &str = "Pennon-Min-Version";

/// The format of frames.
pub const FRAME_FORMAT: u8 = 1;
/// Bytes in front of the body.
pub const FRAME_HEADER_LEN: usize = 26;
/// The longest frame that a decoder takes unless told otherwise, counted as `length` is.
pub const FRAME_LEN_MAX_DEFAULT: u32 = 256 << 20;

/// Where `length` begins to count, and the crc to cover.
const COVERED_FROM: usize = 8;
const COVERED_HEADER_LEN: usize = FRAME_HEADER_LEN - COVERED_FROM;

/// One message of a stream. Stored by position: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamMessage {
    /// The first message: what the stream is and what follows. Comes again when the staleness bound
    /// has changed.
    Hello {
        /// The cluster. A client that knows another one must not mix their versions.
        cluster_id: String,
        /// The environment.
        environment: EnvironmentKey,
        /// What follows at once.
        intent: Intent,
        /// The version that the node has.
        version: Version,
        /// The staleness bound of the environment, in milliseconds.
        staleness_bound_ms: u64,
        /// The longest time between two messages, in milliseconds.
        heartbeat_ms: u64,
    },
    /// Everything, at one version.
    Snapshot {
        /// That version.
        version: Version,
        /// The encoded states.
        states: Vec<Bytes>,
        /// Their digest.
        digest: Digest,
    },
    /// What changed from one version to a later one.
    Delta {
        /// The version it applies to, exactly.
        from: Version,
        /// The version it leads to.
        to: Version,
        /// Encoded states that are new or changed.
        upserts: Vec<Bytes>,
        /// States that are gone.
        removals: Vec<StateKey>,
        /// The digest afterwards.
        digest: Digest,
    },
    /// Nothing changed up to this version.
    Heartbeat {
        /// The version.
        version: Version,
    },
    /// The node is going; come back, to any node, after this time.
    Goodbye {
        /// In milliseconds.
        retry_ms: u64,
    },
    /// The stream cannot go on from where the client is; a snapshot follows.
    Reset {
        /// Why.
        reason: String,
    },
    /// From a node: somebody waits for receipts; say at once that this version, or a later one, is
    /// applied. From a client: it is.
    Acknowledge {
        /// The version.
        version: Version,
    },
}

/// What follows a hello, relative to the version that the client said it has. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Nothing: the client is up to date.
    None,
    /// Deltas from there.
    Changes,
    /// A full snapshot.
    Full,
}

impl StreamMessage {
    /// Makes the message for a snapshot.
    pub fn snapshot(snapshot: &ConfigSnapshot) -> StreamMessage {
        StreamMessage::Snapshot {
            version: snapshot.version(),
            states: snapshot
                .states()
                .iter()
                .map(|state| state.bytes().clone())
                .collect(),
            digest: snapshot.digest(),
        }
    }

    /// Makes the message for a delta.
    pub fn delta(delta: &Delta) -> StreamMessage {
        StreamMessage::Delta {
            from: delta.from,
            to: delta.to,
            upserts: delta
                .upserts
                .iter()
                .map(|state: &EncodedState| state.bytes().clone())
                .collect(),
            removals: delta.removals.clone(),
            digest: delta.digest,
        }
    }

    /// Takes the snapshot out of a message and checks it; `None` when it is another message.
    ///
    /// # Errors
    /// As [`ConfigSnapshot::from_bytes`].
    pub fn into_snapshot(
        self,
        environment: &EnvironmentKey,
    ) -> Result<Option<ConfigSnapshot>, SnapshotRefused> {
        let StreamMessage::Snapshot {
            version,
            states,
            digest,
        } = self
        else {
            return Ok(None);
        };
        ConfigSnapshot::from_bytes(environment.clone(), version, states, digest).map(Some)
    }

    /// Takes the delta out of a message; `None` when it is another message.
    ///
    /// # Errors
    /// As [`Delta::from_bytes`].
    pub fn into_delta(self, environment: &EnvironmentKey) -> Result<Option<Delta>, DecodeError> {
        let StreamMessage::Delta {
            from,
            to,
            upserts,
            removals,
            digest,
        } = self
        else {
            return Ok(None);
        };
        Delta::from_bytes(environment.clone(), (from, to), upserts, removals, digest).map(Some)
    }

    /// Returns the name of the message: that of the Server-Sent Event.
    pub fn name(&self) -> &'static str {
        match self {
            StreamMessage::Hello { .. } => "hello",
            StreamMessage::Snapshot { .. } => "snapshot",
            StreamMessage::Delta { .. } => "delta",
            StreamMessage::Heartbeat { .. } => "heartbeat",
            StreamMessage::Goodbye { .. } => "goodbye",
            StreamMessage::Reset { .. } => "reset",
            StreamMessage::Acknowledge { .. } => "acknowledge",
        }
    }

    fn kind(&self) -> u8 {
        match self {
            StreamMessage::Hello { .. } => 0,
            StreamMessage::Snapshot { .. } => 1,
            StreamMessage::Delta { .. } => 2,
            StreamMessage::Heartbeat { .. } => 3,
            StreamMessage::Goodbye { .. } => 4,
            StreamMessage::Reset { .. } => 5,
            StreamMessage::Acknowledge { .. } => 6,
        }
    }
}

/// The two ages that go in front of every message, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages {
    /// How long the stream has been open, rounded down.
    pub open_ms: u64,
    /// How long ago the state was proved to be the newest, rounded up.
    pub fresh_age_ms: u64,
}

impl Ages {
    /// Rounds two durations so that the age a client computes stays an upper bound.
    pub fn new(open: Duration, fresh_age: Duration) -> Ages {
        let ms = |nanos: u128| u64::try_from(nanos / 1_000_000).unwrap_or(u64::MAX);
        let open_ms = ms(open.as_nanos()); // I5: rounded down
        let fresh_age_ms = ms(fresh_age.as_nanos().saturating_add(999_999)); // I5: rounded up
        Ages {
            open_ms,
            fresh_age_ms,
        }
    }

    /// Says what these ages prove to a client whose request started at an instant of its clock.
    pub fn bound(self, request_started: Duration) -> AgeBound {
        let open = Duration::from_millis(self.open_ms);
        AgeBound::new(
            request_started,
            open,
            Duration::from_millis(self.fresh_age_ms),
        )
    }
}

/// A message encoded once for all connections: each sends its own header, then the shared body.
///
/// ```
/// use pennon_evaluator::Version;
/// use pennon_evaluator::wire::{Ages, FrameDecoder, SharedFrame, StreamMessage};
/// let message = StreamMessage::Heartbeat { version: Version::ZERO };
/// let frame = SharedFrame::encode(&message)?;
/// let ages = Ages { open_ms: 1_500, fresh_age_ms: 20 };
///
/// let mut decoder = FrameDecoder::default();
/// decoder.push(&frame.header(ages));
/// assert_eq!(decoder.pull()?, None);
/// decoder.push(frame.body());
/// assert_eq!(decoder.pull()?, Some((ages, message)));
///
/// decoder.push(b"HTTP/1.1 400 Bad Request\r\n");
/// assert!(decoder.pull().is_err());
/// # Ok::<(), pennon_evaluator::wire::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedFrame {
    kind: u8,
    body: Bytes,
    body_crc: crc32fast::Hasher,
    covered_len: u32,
}

impl SharedFrame {
    /// Encodes a message.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when its length does not fit into the length field.
    pub fn encode(message: &StreamMessage) -> Result<SharedFrame, FrameError> {
        let body = positional(u64::MAX)
            .serialize(message)
            .map_err(|e| FrameError::body(&e))?;
        let len = body.len() + COVERED_HEADER_LEN;
        let too_long = FrameError::TooLong {
            len: len as u64,
            len_max: u32::MAX,
        };
        let covered_len = u32::try_from(len).map_err(|_| too_long)?;
        let mut body_crc = crc32fast::Hasher::new();
        body_crc.update(&body);
        Ok(SharedFrame {
            kind: message.kind(),
            body: Bytes::from(body),
            body_crc,
            covered_len,
        })
    }

    /// Makes the header of one connection. The body is not read again.
    pub fn header(&self, ages: Ages) -> [u8; FRAME_HEADER_LEN] {
        let mut header = [0; FRAME_HEADER_LEN];
        header[0..4].copy_from_slice(&self.covered_len.to_le_bytes());
        header[8] = self.kind;
        header[9] = FRAME_FORMAT;
        header[10..18].copy_from_slice(&ages.open_ms.to_le_bytes());
        header[18..26].copy_from_slice(&ages.fresh_age_ms.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[COVERED_FROM..]);
        crc.combine(&self.body_crc);
        header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        header
    }

    /// Returns the shared body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the length of header and body in bytes.
    pub fn len(&self) -> usize {
        FRAME_HEADER_LEN + self.body.len()
    }

    /// A frame is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Bytes that are not a stream of frames. The stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is less than that of a header.
    #[error("a frame of {len} bytes is too short")]
    TooShort {
        /// The length field.
        len: u32,
    },
    /// The length is greater than allowed.
    #[error("a frame of {len} bytes is longer than the {len_max} allowed")]
    TooLong {
        /// The length.
        len: u64,
        /// What is allowed.
        len_max: u32,
    },
    /// The bytes were damaged on their way.
    #[error("the crc of the frame should be {expected:08x} but is {computed:08x}")]
    Crc {
        /// The crc field.
        expected: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Written in a format that this release does not read.
    #[error("frame format {found} is not one that this release reads")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// The kind in the header is not that of the body.
    #[error("the frame says it is of kind {header} but holds kind {body}")]
    Kind {
        /// The kind byte.
        header: u8,
        /// What the body is.
        body: u8,
    },
    /// The body is not a message.
    #[error("the body of the frame is malformed: {message}")]
    Body {
        /// What does not fit.
        message: String,
    },
}

impl FrameError {
    fn body(error: &bincode::Error) -> FrameError {
        FrameError::Body {
            message: error.to_string(),
        }
    }
}

/// The least, and the most, that a decoder has space for beyond the bytes that came.
const SPACE_MIN: usize = 4 << 10;
const SPACE_MAX: usize = 256 << 10;

/// Reads frames from bytes that come in any portions.
///
/// Memory grows only with bytes that were pushed, and space for one portion. Pull until nothing comes
/// before pushing on, and no more than one frame and one portion is ever held. After an error there is
/// nothing but that error: where the next frame begins is not known.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    frame_len_max: u32,
    failed: Option<FrameError>,
}

impl Default for FrameDecoder {
    fn default() -> FrameDecoder {
        FrameDecoder::new(FRAME_LEN_MAX_DEFAULT)
    }
}

impl FrameDecoder {
    /// Makes a decoder that refuses a frame with a greater `length` as soon as it reads of it.
    pub fn new(frame_len_max: u32) -> FrameDecoder {
        FrameDecoder {
            buffer: BytesMut::new(),
            frame_len_max,
            failed: None,
        }
    }

    /// Takes received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Returns where the next bytes go, for who reads them there instead of pushing them: behind what
    /// is there already, and there is space for a portion. Forgotten after an error.
    pub fn space(&mut self) -> &mut BytesMut {
        let missing = self
            .whole_len()
            .map_or(0, |len| len.saturating_sub(self.buffer.len()));
        self.buffer.reserve(missing.clamp(SPACE_MIN, SPACE_MAX));
        &mut self.buffer
    }

    /// The length of the frame that has begun, as it says.
    fn whole_len(&self) -> Option<usize> {
        let len = self.buffer.first_chunk::<4>()?;
        Some(COVERED_FROM.saturating_add(u32::from_le_bytes(*len) as usize))
    }

    /// Returns the next message that is complete, or nothing until more bytes are pushed.
    ///
    /// # Errors
    /// Any [`FrameError`], and the same one ever after.
    pub fn pull(&mut self) -> Result<Option<(Ages, StreamMessage)>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let pulled = self.try_pull();
        if let Err(error) = &pulled {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        pulled
    }

    fn try_pull(&mut self) -> Result<Option<(Ages, StreamMessage)>, FrameError> {
        let Some(len) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len);
        if (len as usize) < COVERED_HEADER_LEN {
            return Err(FrameError::TooShort { len });
        }
        if len > self.frame_len_max {
            let len_max = self.frame_len_max;
            return Err(FrameError::TooLong {
                len: u64::from(len),
                len_max,
            });
        }
        let whole = COVERED_FROM.saturating_add(len as usize);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let mut frame = &self.buffer[4..whole];
        let expected = frame.get_u32_le();
        let computed = crc32fast::hash(frame);
        if expected != computed {
            return Err(FrameError::Crc { expected, computed });
        }
        let decoded = decode_covered(frame)?;
        match self.buffer.len() == whole && self.buffer.capacity() > SPACE_MAX {
            true => self.buffer = BytesMut::new(), // A long frame leaves nothing behind.
            false => self.buffer.advance(whole),
        }
        Ok(Some(decoded))
    }
}

/// Reads what the crc covers; the caller has seen that a whole header is there.
fn decode_covered(mut frame: &[u8]) -> Result<(Ages, StreamMessage), FrameError> {
    let (kind, format) = (frame.get_u8(), frame.get_u8());
    if format != FRAME_FORMAT {
        return Err(FrameError::Format { found: format });
    }
    let ages = Ages {
        open_ms: frame.get_u64_le(),
        fresh_age_ms: frame.get_u64_le(),
    };
    let options = positional(frame.len() as u64);
    let message: StreamMessage = options
        .deserialize(frame)
        .map_err(|error| FrameError::body(&error))?;
    match message.kind() == kind {
        true => Ok((ages, message)),
        false => Err(FrameError::Kind {
            header: kind,
            body: message.kind(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // I5: rounding never makes an age look smaller.
    #[test]
    fn ages_are_rounded_so_that_they_stay_bounds() {
        let micros = Duration::from_micros;
        let ages = |open, fresh_age| {
            let Ages {
                open_ms,
                fresh_age_ms,
            } = Ages::new(open, fresh_age);
            (open_ms, fresh_age_ms)
        };
        assert_eq!(ages(micros(1_999), micros(1_001)), (1, 2));
        assert_eq!(ages(micros(2_000), micros(2_000)), (2, 2));
        assert_eq!(ages(Duration::ZERO, Duration::from_nanos(1)), (0, 1));
        assert_eq!(ages(Duration::MAX, Duration::MAX), (u64::MAX, u64::MAX));
    }
}
