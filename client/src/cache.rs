//! The bytes of the disk cache: the last good state, with what it is a state of. Derived.
//!
//! What must hold: nothing is read back but what was written whole, for this environment and this
//! application; anything else is a named fault, never a panic, and never other flags than were
//! held (I6). A cached state proves nothing about now, so it is STALE until a node says otherwise
//! (I5); when it was written is kept for people only.
//!
//! ```text
//! magic 8 | format u32 LE | crc32 u32 LE | body:
//!   written_ms u64 LE | application length u32 LE (all ones: none) | application | hello | snapshot
//! ```
//! The crc covers everything but itself. Magic, format and crc keep their places in every format, so
//! that a newer file can be told from a damaged one. `hello` and `snapshot` are frames of the
//! stream protocol: what a node would have sent.
//!
//! Left out: files (`cache/file.rs`), when to write (`session/saves.rs`).

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pennon_evaluator::wire::{
    Ages, FRAME_LEN_MAX_DEFAULT, FrameDecoder, Intent, SharedFrame, StreamMessage,
};
use pennon_evaluator::{EnvironmentKey, Snapshot};

use crate::held::{Held, Source};

pub(crate) use self::file::Cache;
pub use self::file::CacheStatus;

const MAGIC: [u8; 8] = *b"PNCACHE\n";
/// The format that this release writes, and the only one it reads.
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 16;
/// The longest cache that is read, in bytes.
pub(crate) const CACHE_LEN_MAX: u64 = FRAME_LEN_MAX_DEFAULT as u64 + (1 << 20);
/// The length that says that there is no application.
const NO_APPLICATION: u32 = u32::MAX;

/// What a cache has to be of, to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) environment: EnvironmentKey,
    pub(crate) application: Option<String>,
}

/// A state that comes from somewhere else than a node.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub(crate) snapshot: Snapshot,
    /// None when that is not known.
    pub(crate) cluster_id: Option<Arc<str>>,
    pub(crate) bound: Duration,
    pub(crate) source: Source,
    /// For people: no clock of the wall decides anything here.
    pub(crate) written: Option<SystemTime>,
}

/// What is wrong with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheFault {
    /// It is not what was written: cut, changed, or no cache at all. It is replaced.
    Damaged,
    /// A newer release wrote it. It is left alone, and nothing is cached.
    NewerFormat,
    /// It is of another environment. It is left alone, and nothing is cached.
    OtherEnvironment,
    /// It is of another application. It is left alone, and nothing is cached.
    OtherApplication,
    /// It cannot be read. It is left alone, and nothing is cached.
    Unreadable,
    /// Another client keeps its state in it. It is read, and not written.
    InUse,
    /// The state could not be written; it is tried again.
    NotWritten,
}

impl CacheFault {
    /// Returns the name of the fault, for example `other-environment`.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheFault::Damaged => "damaged",
            CacheFault::NewerFormat => "newer-format",
            CacheFault::OtherEnvironment => "other-environment",
            CacheFault::OtherApplication => "other-application",
            CacheFault::Unreadable => "unreadable",
            CacheFault::InUse => "in-use",
            CacheFault::NotWritten => "not-written",
        }
    }

    /// Whether a file with this fault may be replaced.
    fn is_replaced(self) -> bool {
        matches!(self, CacheFault::Damaged | CacheFault::NotWritten)
    }
}

/// Why the disk cache is not used as it should be. The client works without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheWarning {
    fault: CacheFault,
    message: String,
}

impl CacheWarning {
    fn new(fault: CacheFault, message: impl fmt::Display) -> CacheWarning {
        CacheWarning {
            fault,
            message: message.to_string(),
        }
    }

    /// Returns what is wrong.
    pub fn fault(&self) -> CacheFault {
        self.fault
    }
}

impl fmt::Display for CacheWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault.as_str(), self.message)
    }
}

/// Writes a state down; `None` when it is not known which cluster it is of, or it is too large.
pub(crate) fn encode(held: &Held, identity: &Identity, written: SystemTime) -> Option<Vec<u8>> {
    let snapshot = held.snapshot.to_config_snapshot();
    let hello = StreamMessage::Hello {
        cluster_id: held.cluster_id.as_deref()?.to_owned(),
        environment: identity.environment.clone(),
        intent: Intent::Full,
        version: snapshot.version(),
        staleness_bound_ms: ms(held.environment_bound()),
        heartbeat_ms: 0,
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend([0; 4]);
    let since_1970 = written.duration_since(SystemTime::UNIX_EPOCH);
    bytes.extend(ms(since_1970.unwrap_or_default()).to_le_bytes());
    let application = identity.application.as_deref();
    let len = application.map_or(Some(NO_APPLICATION), |name| name.len().try_into().ok());
    bytes.extend(len?.to_le_bytes());
    bytes.extend(application.unwrap_or_default().as_bytes());
    for message in [hello, StreamMessage::snapshot(&snapshot)] {
        let frame = SharedFrame::encode(&message).ok()?;
        // Nothing is proved by a state that was written down. (I5)
        let ages = Ages {
            open_ms: 0,
            fresh_age_ms: u64::MAX,
        };
        bytes.extend(frame.header(ages));
        bytes.extend_from_slice(frame.body());
    }
    if bytes.len() as u64 > CACHE_LEN_MAX {
        return None;
    }
    let crc = crc(&bytes).to_le_bytes();
    bytes[12..16].copy_from_slice(&crc);
    Some(bytes)
}

/// Whether bytes claim to be a cache, damaged or not.
pub(crate) fn is_cache(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Reads a state back.
///
/// # Errors
/// When the bytes are not what [`encode`] made for this identity.
pub(crate) fn decode(bytes: &[u8], identity: &Identity) -> Result<Restored, CacheWarning> {
    let damaged = |why: &dyn fmt::Display| CacheWarning::new(CacheFault::Damaged, why);
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(damaged(&"it is cut short"));
    };
    if !is_cache(header) {
        return Err(damaged(&"it does not begin as a cache does"));
    }
    let field = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    if crc(bytes) != field(12) {
        return Err(damaged(&"its checksum is not that of its content"));
    }
    match field(8) {
        FORMAT => read(body, identity).map_err(|why| match why {
            Unfit::Damaged(why) => damaged(&why),
            Unfit::Other(warning) => warning,
        }),
        0 => Err(damaged(&"it has no format")),
        newer => {
            let why = format!("it has format {newer}, this release reads up to {FORMAT}");
            Err(CacheWarning::new(CacheFault::NewerFormat, why))
        }
    }
}

/// Why a body with a good checksum is not taken.
enum Unfit {
    Damaged(String),
    Other(CacheWarning),
}

fn read(body: &[u8], identity: &Identity) -> Result<Restored, Unfit> {
    let cut = || Unfit::Damaged("it ends too early".to_owned());
    let (written, rest) = body.split_first_chunk::<8>().ok_or_else(cut)?;
    let (len, mut rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let len = u32::from_le_bytes(*len);
    let mut application = None;
    if len != NO_APPLICATION {
        let (name, frames) = rest.split_at_checked(len as usize).ok_or_else(cut)?;
        application = Some(String::from_utf8_lossy(name).into_owned());
        rest = frames;
    }
    let second = rest.get(frame_len(rest)..).ok_or_else(cut)?;
    if frame_len(second) != second.len() {
        return Err(Unfit::Damaged("its length is not right".to_owned()));
    }
    let mut frames = FrameDecoder::default();
    frames.push(rest);
    let mut next = || match frames.pull() {
        Ok(Some((_, message))) => Ok(message),
        Ok(None) => Err(cut()),
        Err(error) => Err(Unfit::Damaged(error.to_string())),
    };
    let (hello, message) = (next()?, next()?);
    let StreamMessage::Hello {
        cluster_id,
        environment,
        staleness_bound_ms,
        ..
    } = hello
    else {
        return Err(Unfit::Damaged("it does not say what it is of".to_owned()));
    };
    let other = |fault, found: &str, wanted: &str| {
        let why = format!("it is of {found}, not of {wanted}");
        Err(Unfit::Other(CacheWarning::new(fault, why)))
    };
    if environment != identity.environment {
        let (found, wanted) = (environment.as_str(), identity.environment.as_str());
        return other(CacheFault::OtherEnvironment, found, wanted);
    }
    if application != identity.application {
        let (found, wanted) = (name(&application), name(&identity.application));
        return other(CacheFault::OtherApplication, &found, &wanted);
    }
    let wrong = |error: &dyn fmt::Display| Unfit::Damaged(error.to_string());
    let config = message.into_snapshot(&environment).map_err(|e| wrong(&e))?;
    let config = config.ok_or_else(|| Unfit::Damaged("it holds no snapshot".to_owned()))?;
    Ok(Restored {
        snapshot: Snapshot::load(&config).map_err(|e| wrong(&e))?,
        cluster_id: Some(cluster_id.into()),
        bound: Duration::from_millis(staleness_bound_ms),
        source: Source::Cache,
        written: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(u64::from_le_bytes(*written))),
    })
}

/// The length of the frame that bytes begin with, if they do.
fn frame_len(bytes: &[u8]) -> usize {
    let len = bytes
        .first_chunk()
        .map_or(0, |len| u32::from_le_bytes(*len));
    (len as usize).saturating_add(8)
}

fn name(application: &Option<String>) -> String {
    match application {
        Some(name) => format!("application {name:?}"),
        None => "the whole environment".to_owned(),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[HEADER_LEN..]);
    hasher.finalize()
}
