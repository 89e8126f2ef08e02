//! The history as changes: what [`crate::history`] keeps as bytes, read back.
//!
//! What must hold: reading changes nothing, and a line that cannot be read is an error, never left
//! out.
//!
//! Left out: at which version a reader may look (the caller has a view), and filters.

use std::io;
use std::sync::Arc;

use pennon_evaluator::Version;

use crate::command::{Change, ObjectId};
use crate::history::{Extent, History, HistoryRecord};
use crate::state_machine::parse_change;

/// Reads the history of a node. All calls may block.
#[derive(Clone)]
pub struct Changes(Arc<dyn History>);

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

impl Changes {
    pub(crate) fn new(history: Arc<dyn History>) -> Self {
        Self(history)
    }

    /// The newest changes of one object with a version below `before`, newest first, at most
    /// `limit`.
    ///
    /// # Errors
    /// When `state/` cannot be read.
    pub fn of(
        &self,
        object: &ObjectId,
        before: Option<Version>,
        limit: usize,
    ) -> io::Result<Vec<Change>> {
        let lines = self
            .0
            .of_object(&object.history_key(), before.map(Version::get), limit)?;
        lines.iter().map(read).collect()
    }

    /// The newest changes of all objects with a version below `before`, newest first; some `limit`
    /// of them, and all of the last version among them.
    ///
    /// # Errors
    /// When `state/` cannot be read.
    pub fn latest(&self, before: Option<Version>, limit: usize) -> io::Result<Vec<Change>> {
        let lines = self.0.latest(before.map(Version::get), limit)?;
        lines.iter().map(read).collect()
    }

    /// What a change replaced: the change that made the previous version of its object, if it made
    /// anything and is still kept.
    ///
    /// # Errors
    /// When `state/` cannot be read.
    pub fn replaced_by(&self, change: &Change) -> io::Result<Option<Change>> {
        let Some(previous) = change.previous else {
            return Ok(None);
        };
        let found = self.of(&change.object, Some(change.version), 1)?;
        Ok(found.into_iter().find(|found| found.version == previous))
    }

    /// How much is kept, of one object and of all.
    ///
    /// # Errors
    /// When `state/` cannot be read.
    pub fn extent(&self, object: &ObjectId) -> io::Result<Extent> {
        self.0.extent(&object.history_key())
    }
}

fn read(line: &HistoryRecord) -> io::Result<Change> {
    parse_change(&line.body).map_err(io::Error::other)
}
