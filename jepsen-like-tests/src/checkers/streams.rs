//! I8, I3, I6: a stream of changes is ordered, unique, gapless or a full snapshot, whole per version,
//! resumable, and says nothing that is not so.
//!
//! Each client is followed over its connections: what it holds after each message, by key. What must
//! hold:
//!
//! - *form*: a connection begins with `hello` (or `reset`), and nothing follows a `goodbye`;
//! - *gapless, unique, ordered*: a delta starts from exactly the version that the client has, and
//!   leads to a later one; a snapshot or heartbeat is never of an earlier one;
//! - *fold*: what the client holds after a delta or snapshot adds up to the digest in it;
//! - *whole*: a delta over versions a..b has every state that is known to have changed in them, so
//!   all of a change set or nothing of it. Known are the states that anybody saw and the change sets
//!   that were acknowledged;
//! - *heartbeats are not ahead*: nothing is known to have changed between what the client has and
//!   the version of the heartbeat;
//! - *one truth*: at one version all clients hold the same; a state of one key and version has one
//!   content, and is of a version that its object's history holds, where that was read.
//!
//! Which is why no claim of a node is believed that another node's claim contradicts. What one
//! application gets is a part of its environment and compared with itself only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pennon_evaluator::Digest;

use super::{Complaints, Place, Verdict};
use crate::history::{Event, SetOutcome, StateSeen, StreamEvent, StreamItem};

mod follow;

use follow::{Follower, Held};

/// How the promise can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A message before hello, or after a goodbye.
    Form,
    /// Of another cluster than the messages before.
    OtherCluster,
    /// A delta that does not start from what the client has.
    Gap,
    /// A message of an earlier version than the client has, or a delta that leads nowhere.
    WentBack,
    /// What the client holds does not add up to the digest.
    DigestMismatch,
    /// Something changed in the versions of a delta and is not in it.
    NotWhole,
    /// A heartbeat of a version before which something changed that the client has not got.
    HeartbeatAhead,
    /// A state that did not change in the versions of its delta.
    OutOfRange,
    /// Two contents of one key and version.
    TwoContents,
    /// At one version clients hold different states.
    ClientsDiffer,
    /// A state of a version that is not in the history of its object.
    Uncommitted,
}

/// What a history must show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Snapshots, deltas and heartbeats.
    pub items_min: usize,
    /// Connections that went on from a version with deltas.
    pub resumes_min: usize,
}

/// What is counted for the verdict.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    snapshots: usize,
    deltas: usize,
    heartbeats: usize,
    resumes: usize,
}

impl From<&StreamEvent> for Place {
    fn from(event: &StreamEvent) -> Place {
        Place::at(event.client, event.at)
    }
}

/// Judges the streams of a history.
pub fn check(events: &[Event], demand: Demand) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let streams = events.iter().filter_map(|event| match event {
        Event::Stream(event) => Some(event),
        _ => None,
    });
    let streams: Vec<&StreamEvent> = streams.collect();
    let truth = Truth::new(events, &streams, &mut complaints);
    let mut followers: BTreeMap<(u32, &str), Follower<'_>> = BTreeMap::new();
    let mut counts = Counts::default();
    for event in streams.iter().copied() {
        let follower = followers.entry((event.client, &event.scope)).or_default();
        follower.take(event, &truth, &mut counts, &mut complaints);
    }
    let mut held: BTreeMap<&str, Vec<Held>> = BTreeMap::new();
    for ((_, scope), follower) in followers {
        held.entry(scope).or_default().extend(follower.into_held());
    }
    for (scope, held) in held {
        compare(scope, held, &mut complaints);
    }
    let Counts {
        snapshots,
        deltas,
        heartbeats,
        resumes,
    } = counts;
    let shows = format!(
        "{snapshots} snapshots, {deltas} deltas, {heartbeats} heartbeats, {resumes} streams resumed"
    );
    let items = snapshots + deltas + heartbeats;
    complaints.verdict(
        || match items >= demand.items_min.max(1) && resumes >= demand.resumes_min {
            true => Verdict::Valid(shows),
            false => Verdict::Unknown(format!("{shows}; {demand:?}")),
        },
    )
}

/// What is known to have changed, by scope.
#[derive(Default)]
struct Truth<'a> {
    scopes: HashMap<&'a str, Changes<'a>>,
}

#[derive(Default)]
struct Changes<'a> {
    /// Every key that anybody saw.
    keys: BTreeSet<&'a str>,
    /// What changed at a version.
    at: BTreeMap<u64, BTreeSet<&'a str>>,
    /// Where a key was seen to go, as the versions of the delta, `from` excluded.
    removals: HashMap<&'a str, Vec<(u64, u64)>>,
}

impl<'a> Truth<'a> {
    fn new(
        events: &'a [Event],
        streams: &[&'a StreamEvent],
        complaints: &mut Complaints<Rule>,
    ) -> Truth<'a> {
        let mut truth = Truth::default();
        let committed = committed(events);
        let mut contents: HashMap<(&str, &str, u64), Digest> = HashMap::new();
        for event in streams.iter().copied() {
            let (states, range) = match &event.item {
                StreamItem::Snapshot { states, .. } => (states, None),
                StreamItem::Delta {
                    from, to, upserts, ..
                } => (upserts, Some((*from, *to))),
                _ => continue,
            };
            let scope = &*event.scope;
            let changes = truth.scopes.entry(scope).or_default();
            for state in states {
                let key = (scope, &*state.key, state.changed_at);
                let first = contents.entry(key).or_insert(state.hash);
                // I4
                if *first != state.hash {
                    let what = format!("{} at {} in {scope}", state.key, state.changed_at);
                    complaints.add_at(event, Rule::TwoContents, what);
                }
                check_committed(event, state, &committed, complaints);
                let at = changes.at.entry(state.changed_at).or_default();
                at.insert(&state.key);
                changes.keys.insert(&state.key);
            }
            if let (StreamItem::Delta { removals, .. }, Some(range)) = (&event.item, range) {
                for key in removals {
                    changes.removals.entry(key).or_default().push(range);
                }
            }
        }
        truth.add_sets(events);
        truth
    }

    /// Adds what acknowledged change sets wrote: a policy or segment is a state of its environment.
    fn add_sets(&mut self, events: &'a [Event]) {
        for event in events {
            let Event::ChangeSet(set) = event else {
                continue;
            };
            let SetOutcome::Committed { version } = set.outcome else {
                continue;
            };
            for write in &set.writes {
                let Some((kind, environment, key)) = parts(&write.object) else {
                    continue;
                };
                let Some(changes) = self.scopes.get_mut(environment) else {
                    continue;
                };
                // Known by the name under which a client saw it, if anybody ever did.
                let name = format!("{kind}/{key}");
                let Some(known) = changes.keys.get(name.as_str()).copied() else {
                    continue;
                };
                match write.value {
                    Some(_) => drop(changes.at.entry(version).or_default().insert(known)),
                    None => {
                        let of = changes.removals.entry(known).or_default();
                        of.push((version.saturating_sub(1), version));
                    }
                }
            }
        }
    }

    /// What changed after one version up to another and is not among `found`.
    fn missed(
        &self,
        scope: &str,
        (from, to): (u64, u64),
        found: &BTreeSet<&str>,
    ) -> Option<String> {
        let changes = self.scopes.get(scope)?;
        if from >= to {
            return None;
        }
        for (version, keys) in changes.at.range(from + 1..=to) {
            let missed = keys.iter().find(|key| {
                // Somebody saw it go after that, so it need not be there.
                let gone = changes.removals.get(**key).into_iter().flatten();
                let gone = gone.filter(|(after, until)| until > version && *after < to);
                !found.contains(**key) && gone.count() == 0
            });
            if let Some(key) = missed {
                return Some(format!("{key} changed at {version}"));
            }
        }
        None
    }
}

/// The environment and the state that an object is compiled to: of a policy its flag's.
fn parts(object: &str) -> Option<(&'static str, &str, &str)> {
    let (kind, rest) = object.split_once('/')?;
    let kind = match kind {
        "policy" => "flag",
        "segment" => "segment",
        _ => return None,
    };
    let (environment, key) = rest.split_once('/')?;
    Some((kind, environment, key))
}

/// The versions of each object whose whole history was read.
fn committed(events: &[Event]) -> HashMap<&str, BTreeSet<u64>> {
    let finals = events.iter().filter_map(|event| match event {
        Event::Final(end) if end.whole => Some(end),
        _ => None,
    });
    let versions = finals.map(|end| {
        let versions = end.history.iter().map(|line| line.version);
        (&*end.register, versions.collect())
    });
    versions.collect()
}

/// I8: nothing that was never committed.
fn check_committed(
    event: &StreamEvent,
    state: &StateSeen,
    committed: &HashMap<&str, BTreeSet<u64>>,
    complaints: &mut Complaints<Rule>,
) {
    let environment = event.scope.split('/').next().unwrap_or_default();
    let Some((kind, key)) = state.key.split_once('/') else {
        return;
    };
    let objects = match kind {
        "flag" => vec![format!("policy/{environment}/{key}"), format!("flag/{key}")],
        _ => vec![format!("{kind}/{environment}/{key}")],
    };
    let histories: Option<Vec<_>> = objects
        .iter()
        .map(|object| committed.get(object.as_str()))
        .collect();
    let Some(histories) = histories else { return };
    if !histories.iter().any(|of| of.contains(&state.changed_at)) {
        let what = format!("{} at {}", state.key, state.changed_at);
        complaints.add_at(event, Rule::Uncommitted, what);
    }
}

/// I8: where the versions at which two clients held something overlap, it was the same.
fn compare(scope: &str, mut held: Vec<Held>, complaints: &mut Complaints<Rule>) {
    held.sort_by_key(|one| one.from);
    let mut held = held.into_iter();
    let Some(mut newest) = held.next() else {
        return;
    };
    for one in held {
        if one.digest == newest.digest {
            newest.to = newest.to.max(one.to);
            continue;
        }
        if one.from <= newest.to {
            let what = format!(
                "{scope} at {}: client {} holds {}, client {} holds {} from {} to {}",
                one.from,
                one.place.client,
                one.digest,
                newest.place.client,
                newest.digest,
                newest.from,
                newest.to
            );
            complaints.add_at(one.place, Rule::ClientsDiffer, what);
        }
        if one.to >= newest.to {
            newest = one;
        }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
