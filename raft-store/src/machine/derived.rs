//! What a machine derives from the text of objects, for the leader's plan and for reading.
//!
//! What must hold: nothing here decides what is applied, and nothing here is in a digest: two
//! releases may read a text differently and still hold the same state (I11). Derived again whenever
//! the object changes, and when a snapshot is loaded.

use pennon_evaluator::{Limits, Setting};

use super::Machine;
use crate::command::{ObjectId, ObjectKind};

impl Machine {
    /// The limits in force: the defaults until the setting `limits` says something else.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes note of the new value of an object; `None` when it was deleted.
    pub(super) fn derive(&mut self, id: &ObjectId, value: Option<&str>) {
        if id.kind() == ObjectKind::Setting && id.key() == Setting::Limits.as_str() {
            self.limits = value.map_or(Limits::DEFAULT, Limits::stored);
        }
    }
}
