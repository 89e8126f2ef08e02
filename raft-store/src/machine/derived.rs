//! What a machine derives from the text of objects, for the leader's plan and for reading.
//!
//! What must hold: nothing here decides what is applied, and nothing here is in a digest: two
//! releases may read a text differently and still hold the same state (I11). Derived again whenever
//! the object changes, and when a snapshot is loaded, so that nobody who asks has to read a text.

use std::collections::BTreeSet;

use pennon_evaluator::{KEY_LEN_MAX, Limits, Retention, Setting, StateKey, StateKind};
use serde::Deserialize;

use super::Machine;
use crate::command::{ObjectId, ObjectKind};

impl Machine {
    /// The limits in force: the defaults until the setting `limits` says something else.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How much of the history is kept: the defaults until the setting `history` says something else.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Takes note of what an object was and is; `None` where it does not exist.
    pub(super) fn derive(&mut self, id: &ObjectId, before: Option<&str>, now: Option<&str>) {
        match id.kind() {
            ObjectKind::Setting if id.key() == Setting::Limits.as_str() => {
                self.limits = now.map_or(Limits::DEFAULT, Limits::stored);
            }
            ObjectKind::Setting if id.key() == Setting::History.as_str() => {
                self.retention = now.map_or(Retention::DEFAULT, Retention::stored);
            }
            ObjectKind::Flag => self.tag(id.key(), before, now),
            ObjectKind::Environment
            | ObjectKind::Segment
            | ObjectKind::Policy
            | ObjectKind::Setting
            | ObjectKind::Application => {}
        }
    }

    fn tag(&mut self, flag: &str, before: Option<&str>, now: Option<&str>) {
        let (before, now) = (tags(before), tags(now));
        // What is no key has no state either.
        let Ok(flag) = StateKey::new(StateKind::Flag, flag) else {
            return;
        };
        for gone in before.difference(&now) {
            if let Some(flags) = self.tagged.get_mut(gone.as_str()) {
                flags.remove(&flag);
                if flags.is_empty() {
                    self.tagged.remove(gone.as_str());
                }
            }
        }
        for new in now.difference(&before) {
            let flags = self.tagged.entry(new.as_str().into()).or_default();
            flags.insert(flag.clone());
        }
    }
}

/// The tags in a FlagConfig or an application, as far as they can be read and asked for.
pub(super) fn tags(value: Option<&str>) -> BTreeSet<String> {
    /// No more of it than is needed; the rest may be of another release.
    #[derive(Default, Deserialize)]
    struct Tagged {
        tags: Option<Vec<String>>,
    }
    let tagged: Tagged = value
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let tags = tagged.tags.into_iter().flatten();
    tags.filter(|tag| (1..=KEY_LEN_MAX).contains(&tag.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::tags;

    #[test]
    fn tags_are_found_however_they_are_written() {
        let found = |text| Vec::from_iter(tags(Some(text)));
        assert_eq!(found(r#"{"tags":["a","b"]}"#), ["a", "b"]);
        assert_eq!(found(r#"{"x":1, "tags" : ["a"]}"#), ["a"]);
        assert_eq!(found(r#"{"t\u0061gs":["a"]}"#), ["a"]);
        assert_eq!(found(r#"{"tags":["\u0061"]}"#), ["a"]);
        assert!(found(r#"{"x":"tags"}"#).is_empty());
        assert!(found(r#"{"x":{"tags":["a"]}}"#).is_empty());
        assert!(found(r#"{"tags":["a"]"#).is_empty());
        assert!(tags(None).is_empty());
    }
}
