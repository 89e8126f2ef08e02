//! I3: a change set is visible as a whole or not at all.
//!
//! Every change set writes values of its own to two or more objects, so a value tells the set. What
//! must hold of every answer that shows several objects at one version V:
//!
//! - *whole*: an object at the version of a set means that every other object that the set wrote is
//!   there at the same version, or at a later one;
//! - *as written*: what is there at a version is what one set wrote, and a set has one version;
//! - *newest*: nothing older is shown than the newest set known to be at or below V;
//! - *no future*: nothing is shown that is newer than V.
//!
//! A set of unknown outcome that was seen did happen, at the version at which it was seen. A missing
//! object is as if deleted: then some set that may have deleted it has to be there.

use std::collections::{BTreeMap, HashMap};

use super::{Complaints, Place, Verdict};
use crate::history::{ChangeSet, ReadSet, Seen, SetOutcome};

/// How I3 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One part of a change set is there and another is not.
    Torn,
    /// A value that no change set wrote to that object.
    Invented,
    /// The value of a refused change set.
    RefusedButSeen,
    /// A set at another version than it was told, or at two versions.
    OtherVersion,
    /// An object newer than the version of the answer.
    FromTheFuture,
    /// An object older than a set that is known to be at or below that version.
    Stale,
    /// A linearizable read that misses a set acknowledged before it began.
    WentBack,
    /// Seen by somebody who had finished before the set was sent.
    SeenBeforeWritten,
}

/// What a history must show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Committed change sets.
    pub sets_min: usize,
    /// Reads of several objects.
    pub reads_min: usize,
}

/// Judges reads of several objects against the change sets that wrote them.
pub fn check(sets: &[&ChangeSet], reads: &[&ReadSet], demand: Demand) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let world = match World::new(sets, reads, &mut complaints) {
        Ok(world) => world,
        Err(why) => return Verdict::Unknown(why),
    };
    for read in reads {
        world.check(read, &mut complaints);
    }
    let committed = sets.iter().filter(|set| committed(set).is_some()).count();
    let shows = format!(
        "{committed} change sets, {} reads of several objects",
        reads.len()
    );
    complaints.verdict(
        || match committed >= demand.sets_min && reads.len() >= demand.reads_min {
            true => Verdict::Valid(shows),
            false => Verdict::Unknown(format!("{shows}; {demand:?}")),
        },
    )
}

fn committed(set: &ChangeSet) -> Option<u64> {
    match set.outcome {
        SetOutcome::Committed { version } => Some(version),
        SetOutcome::Refused | SetOutcome::Unknown => None,
    }
}

/// All sets, and at which version each is.
struct World<'a> {
    sets: &'a [&'a ChangeSet],
    versions: Vec<Option<u64>>,
    /// Who wrote a value to an object.
    writers: HashMap<(&'a str, &'a str), usize>,
    /// The sets known to have happened to an object, by version.
    changes: BTreeMap<&'a str, BTreeMap<u64, usize>>,
    /// The objects that some set of unknown outcome may have deleted.
    maybe_deleted: BTreeMap<&'a str, Vec<usize>>,
    /// (completed, the highest version committed until then), by time.
    finished: Vec<(u64, u64)>,
}

impl<'a> World<'a> {
    fn new(
        sets: &'a [&'a ChangeSet],
        reads: &[&ReadSet],
        complaints: &mut Complaints<Rule>,
    ) -> Result<World<'a>, String> {
        let mut finished: Vec<(u64, u64)> = sets
            .iter()
            .filter_map(|set| Some((set.completed, committed(set)?)))
            .collect();
        finished.sort_unstable();
        let mut highest = 0;
        for (_, version) in &mut finished {
            highest = highest.max(*version);
            *version = highest;
        }
        let mut world = World {
            sets,
            finished,
            versions: sets.iter().map(|set| committed(set)).collect(),
            writers: HashMap::new(),
            changes: BTreeMap::new(),
            maybe_deleted: BTreeMap::new(),
        };
        for (at, set) in sets.iter().enumerate() {
            for write in &set.writes {
                let Some(value) = &write.value else { continue };
                if world.writers.insert((&write.object, value), at).is_some() {
                    let object = &write.object;
                    return Err(format!(
                        "{value:?} is written to {object} by two change sets"
                    ));
                }
            }
        }
        // What was seen decides what was of unknown outcome.
        for read in reads {
            for one in &read.objects {
                if let Some(seen) = &one.seen {
                    world.resolve(read, &one.object, seen, complaints);
                }
            }
        }
        for (at, set) in sets.iter().enumerate() {
            for write in &set.writes {
                if let Some(version) = world.versions[at] {
                    let of = world.changes.entry(&write.object).or_default();
                    of.insert(version, at);
                } else if set.outcome == SetOutcome::Unknown && write.value.is_none() {
                    let of = world.maybe_deleted.entry(&write.object).or_default();
                    of.push(at);
                }
            }
        }
        Ok(world)
    }

    fn resolve(
        &mut self,
        read: &ReadSet,
        object: &str,
        seen: &Seen,
        complaints: &mut Complaints<Rule>,
    ) {
        let Some(at) = self.writers.get(&(object, &*seen.value)).copied() else {
            complaints.add_at(read, Rule::Invented, shown(read, object, Some(seen)));
            return;
        };
        let set = self.sets[at];
        let what = || format!("{}, written by {set:?}", shown(read, object, Some(seen)));
        if set.outcome == SetOutcome::Refused {
            complaints.add_at(read, Rule::RefusedButSeen, what());
        }
        if read.completed < set.invoked {
            complaints.add_at(read, Rule::SeenBeforeWritten, what());
        }
        match self.versions[at] {
            Some(version) if version != seen.version => {
                complaints.add_at(read, Rule::OtherVersion, what());
            }
            Some(_) => {}
            None => self.versions[at] = Some(seen.version),
        }
    }

    fn check(&self, read: &ReadSet, complaints: &mut Complaints<Rule>) {
        let found: BTreeMap<&str, Option<&Seen>> = read
            .objects
            .iter()
            .map(|one| (&*one.object, one.seen.as_ref()))
            .collect();
        let before = self.finished_before(read.invoked);
        // I1
        if read.linearizable && read.version < before {
            let objects = read.objects.first().map_or("nothing", |one| &*one.object);
            let what = format!("{}, after a set at {before}", shown(read, objects, None));
            complaints.add_at(read, Rule::WentBack, what);
        }
        for (object, seen) in &found {
            if let Some(seen) = seen {
                self.check_whole(read, object, seen, &found, complaints);
            }
            self.check_newest(read, object, *seen, complaints);
        }
    }

    /// I3: the other parts of the set that wrote this are there too.
    fn check_whole(
        &self,
        read: &ReadSet,
        object: &str,
        seen: &Seen,
        found: &BTreeMap<&str, Option<&Seen>>,
        complaints: &mut Complaints<Rule>,
    ) {
        if seen.version > read.version {
            complaints.add_at(read, Rule::FromTheFuture, shown(read, object, Some(seen)));
            return;
        }
        let Some(at) = self.writers.get(&(object, &*seen.value)) else {
            return;
        };
        for write in &self.sets[*at].writes {
            let Some(other) = found.get(&*write.object) else {
                continue; // It was not looked at.
            };
            let torn = match other {
                Some(other) => other.version < seen.version,
                None => {
                    write.value.is_some() && !self.may_be_gone(&write.object, read, seen.version)
                }
            };
            // A set that deletes leaves nothing at its version.
            let torn =
                torn || (write.value.is_none() && other.is_some_and(|o| o.version <= seen.version));
            if torn {
                let what = format!(
                    "{}, but {} is {}; both were written by {:?}",
                    shown(read, object, Some(seen)),
                    write.object,
                    state(*other),
                    self.sets[*at]
                );
                complaints.add_at(read, Rule::Torn, what);
            }
        }
    }

    /// What is there is not older than what is known to have happened.
    fn check_newest(
        &self,
        read: &ReadSet,
        object: &str,
        seen: Option<&Seen>,
        complaints: &mut Complaints<Rule>,
    ) {
        let Some(changes) = self.changes.get(object) else {
            return;
        };
        let Some((version, at)) = changes.range(..=read.version).next_back() else {
            return;
        };
        let deletes = self.deletes(*at, object);
        let missed = match seen {
            Some(seen) => seen.version < *version,
            None => !deletes && !self.may_be_gone(object, read, *version),
        };
        if missed {
            let what = format!(
                "{}, but {:?} was there at {version}",
                shown(read, object, seen),
                self.sets[*at]
            );
            complaints.add_at(read, Rule::Stale, what);
        }
    }

    /// The highest version that was acknowledged before this moment.
    fn finished_before(&self, moment: u64) -> u64 {
        let count = self.finished.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map_or(0, |at| self.finished[at].1)
    }

    fn deletes(&self, at: usize, object: &str) -> bool {
        let mut writes = self.sets[at].writes.iter();
        writes.any(|write| *write.object == *object && write.value.is_none())
    }

    /// Whether something may have deleted the object after `since`, until the read.
    fn may_be_gone(&self, object: &str, read: &ReadSet, since: u64) -> bool {
        let unknown = self.maybe_deleted.get(object).into_iter().flatten();
        let mut unknown = unknown.filter(|at| self.sets[**at].invoked < read.completed);
        let known = self.changes.get(object).is_some_and(|changes| {
            let mut later = changes.range(since..).skip_while(|(at, _)| **at == since);
            later.any(|(at, set)| *at <= read.version && self.deletes(*set, object))
        });
        known || unknown.next().is_some()
    }
}

impl From<&ReadSet> for Place {
    fn from(read: &ReadSet) -> Place {
        Place {
            client: read.client,
            from: read.invoked,
            to: read.completed,
        }
    }
}

fn state(seen: Option<&Seen>) -> String {
    seen.map_or("missing".to_owned(), |seen| {
        format!("at {} ({})", seen.version, seen.value)
    })
}

fn shown(read: &ReadSet, object: &str, seen: Option<&Seen>) -> String {
    let (from, to) = (read.invoked / 1_000, read.completed / 1_000);
    let (client, source, version) = (read.client, &read.source, read.version);
    format!(
        "[client {client} {from}..{to} µs {source} at {version}: {object} {}]",
        state(seen)
    )
}

#[cfg(test)]
#[path = "atomic_tests.rs"]
mod tests;
