//! Why a data directory is not opened: one error, which names the file, the offset, what was found and
//! what to do. It has questions instead of variants to match on.
//!
//! Three kinds of trouble need three kinds of people: *corruption* (the disk gave back other bytes than
//! were written: this copy must not vote again), *foreign* (a directory of another node, cluster or
//! release: a mix-up at start), *IO* (the system said no: full, read-only, failing, or already in use).

use std::fmt;
use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Corruption,
    Foreign,
    Busy,
    Io,
}

/// A refusal to open a data directory, or a part of it.
#[derive(Debug)]
pub struct OpenError {
    kind: Kind,
    file: String,
    offset: Option<u64>,
    found: String,
    remedy: &'static str,
    source: Option<io::Error>,
}

const REJOIN: &str = "this copy of the data cannot be trusted to vote: this node must rejoin as a new member. Remove it from the \
cluster, move the data directory away, and start it empty";
const MIX_UP: &str = "start the node with the data directory that is its own, or move this one away and let the node join as a new member";
const NEWER: &str = "start the release that wrote it, or a later one";
const IN_USE: &str = "stop the other process first, or give this one a data directory of its own";
const SYSTEM: &str = "make the disk readable and writable again (space, permissions, the limit of open files, hardware), then start the node again";

impl OpenError {
    /// The disk gave back something that was never written there.
    pub(crate) fn corrupt(
        file: impl Into<String>,
        offset: u64,
        found: impl Into<String>,
    ) -> OpenError {
        OpenError::with(
            Kind::Corruption,
            file.into(),
            Some(offset),
            found.into(),
            REJOIN,
        )
    }

    /// The file belongs to another node or cluster.
    pub(crate) fn foreign(file: impl Into<String>, found: impl Into<String>) -> OpenError {
        OpenError::with(Kind::Foreign, file.into(), None, found.into(), MIX_UP)
    }

    /// The file has a format that this release does not know.
    pub(crate) fn newer(file: impl Into<String>, found: impl Into<String>) -> OpenError {
        OpenError::with(Kind::Foreign, file.into(), None, found.into(), NEWER)
    }

    /// Another process uses the directory.
    pub(crate) fn busy(file: impl Into<String>, found: impl Into<String>) -> OpenError {
        OpenError::with(Kind::Busy, file.into(), None, found.into(), IN_USE)
    }

    /// The system refused an operation on the file.
    pub(crate) fn io(file: impl Into<String>, doing: &str, source: io::Error) -> OpenError {
        let mut error = OpenError::with(
            Kind::Io,
            file.into(),
            None,
            format!("{doing}: {source}"),
            SYSTEM,
        );
        error.source = Some(source);
        error
    }

    fn with(
        kind: Kind,
        file: String,
        offset: Option<u64>,
        found: String,
        remedy: &'static str,
    ) -> OpenError {
        OpenError {
            kind,
            file,
            offset,
            found,
            remedy,
            source: None,
        }
    }

    /// Says whether the stored bytes are proven damaged or missing: the node must rejoin as a new one.
    pub fn is_corruption(&self) -> bool {
        self.kind == Kind::Corruption
    }

    /// Says whether the data belongs to another node, cluster or release.
    pub fn is_foreign(&self) -> bool {
        self.kind == Kind::Foreign
    }

    /// Says whether another process has the directory open.
    pub fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    /// Says whether the system refused an operation.
    pub fn is_io(&self) -> bool {
        self.kind == Kind::Io
    }

    /// Says whether the system refused an operation because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.source.as_ref().is_some_and(crate::disk::is_full)
    }

    /// Returns the file, relative to the data directory.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the offset in the file, when one place is to blame.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Returns what to do.
    pub fn remedy(&self) -> &str {
        self.remedy
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        write!(f, ": {}; {}", self.found, self.remedy)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}
