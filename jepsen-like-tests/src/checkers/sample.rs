//! Small true worlds for tests of checkers: they do what they should, unless told otherwise.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pennon_evaluator::{Digest, Snapshot, Subject};

use super::faithful;
use crate::history::{
    Action, Attempt, ChangeSet, Evaluation, Event, FinalRead, GroundAt, GroundObject, HistoryLine,
    Operation, Outcome, Request, Seen, SetOutcome, StateSeen, StreamEvent, StreamItem, SubjectSeen,
    Write,
};

/// Dice that give the same numbers for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        // No seed may lead to 0, where xorshift stays.
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `below`.
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// One register behind a window of request ids.
pub(crate) struct Server {
    remembers: bool,
    version: u64,
    state: Option<(u64, Arc<str>)>,
    history: Vec<HistoryLine>,
    answers: HashMap<Arc<str>, Outcome>,
}

impl Server {
    /// A server; one that does not remember requests has the bug.
    pub(crate) fn new(remembers: bool) -> Server {
        Server {
            remembers,
            version: 1,
            state: None,
            history: Vec::new(),
            answers: HashMap::new(),
        }
    }

    fn seen(&self) -> Option<Seen> {
        let (version, value) = self.state.clone()?;
        Some(Seen { version, value })
    }

    fn take(&mut self, action: &Action, id: &Arc<str>) -> Outcome {
        if let Some(answer) = self.answers.get(id).filter(|_| self.remembers) {
            return answer.clone();
        }
        let (seen, decided) = (self.seen(), self.version);
        let Action::Write { value, expected } = action else {
            return Outcome::Read { decided, seen };
        };
        let found = seen.as_ref().map(|seen| seen.version);
        let outcome = if found == *expected {
            self.version += 1;
            let version = self.version;
            self.history.push(HistoryLine {
                version,
                previous: found,
                value: value.clone(),
                request: Some(id.clone()),
            });
            self.state = value.clone().map(|value| (version, value));
            Outcome::Written { version }
        } else {
            Outcome::Conflict { decided, seen }
        };
        self.answers.insert(id.clone(), outcome.clone());
        outcome
    }
}

/// Requests one after the other, some answered late or never and sent again, also long after.
pub(crate) fn requests_of(server: &mut Server, count: u64, seed: u64) -> (Vec<Request>, FinalRead) {
    let mut dice = Dice::new(seed);
    let (mut requests, mut waiting) = (Vec::new(), Vec::<usize>::new());
    for n in 0..count {
        let invoked = n * 100;
        let found = server.seen().map(|seen| seen.version);
        let value: Option<Arc<str>> =
            (found.is_none() || !dice.one_in(6)).then(|| format!("v{n}").into());
        let expected = if dice.one_in(4) { Some(n + 500) } else { found };
        let action = match dice.one_in(5) {
            true => Action::Read,
            false => Action::Write { value, expected },
        };
        let id: Arc<str> = format!("r{n}").into();
        let mut attempts = Vec::new();
        let outcome = server.take(&action, &id);
        let lost = action != Action::Read && dice.one_in(3);
        attempts.push(Attempt {
            node: Some(0),
            sent: invoked,
            outcome: if lost {
                Outcome::Unknown
            } else {
                outcome.clone()
            },
        });
        requests.push(Request {
            operation: Operation {
                client: 0,
                register: "r".into(),
                invoked,
                completed: invoked + 50,
                action,
                outcome: if lost { Outcome::Unknown } else { outcome },
            },
            request: Some(id),
            attempts,
        });
        if lost || dice.one_in(8) {
            waiting.push(requests.len() - 1);
        }
        // Somebody tries again.
        if !waiting.is_empty() && dice.one_in(2) {
            let at = waiting.remove(dice.roll(waiting.len() as u64) as usize);
            retry(server, &mut requests[at], invoked + 60);
        }
    }
    for at in waiting {
        if dice.one_in(2) {
            retry(server, &mut requests[at], count * 100);
        }
    }
    let end = FinalRead {
        register: "r".into(),
        seen: server.seen(),
        history: server.history.clone(),
        whole: true,
    };
    (requests, end)
}

fn retry(server: &mut Server, request: &mut Request, sent: u64) {
    let Some(id) = request.request.clone() else {
        return;
    };
    if request.operation.action == Action::Read {
        return;
    }
    let outcome = server.take(&request.operation.action, &id);
    request.attempts.push(Attempt {
        node: Some(1),
        sent,
        outcome: outcome.clone(),
    });
    request.operation.outcome = outcome;
    request.operation.completed = sent + 10;
}

/// A flag with a rule, a segment and a rollout, in the environment `e`; the default is `variant`.
pub(crate) fn ground(version: u64, variant: &str) -> GroundAt {
    let object = |kind: &str, key: &str, version, value: String| GroundObject {
        kind: kind.into(),
        key: key.into(),
        version,
        value: value.into(),
    };
    let config = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
    let policy = format!(
        r#"{{"enabled":true,"rules":[{{"when":[{{"op":"in_segment","values":["s"]}}],"serve":{{"variant":"on"}}}}],"default":{{"variant":"{variant}"}}}}"#
    );
    GroundAt {
        environment: "e".into(),
        version,
        objects: vec![
            object("flag", "f", 3, config.to_owned()),
            object("policy", "f", version, policy),
            object("segment", "s", 4, r#"{"included":["ada"]}"#.to_owned()),
        ],
    }
}

/// A subject without attributes.
pub(crate) fn subject(key: &str) -> SubjectSeen {
    SubjectSeen {
        key: key.into(),
        attributes: serde_json::Map::new(),
    }
}

/// What a client evaluates at the version of a ground state.
pub(crate) fn evaluation(ground: &GroundAt, client: u32, subject: &str) -> Evaluation {
    let snapshot = Snapshot::load(&faithful::compile(ground).unwrap()).unwrap();
    let found = snapshot.evaluate("f", &Subject::new(subject));
    Evaluation {
        began: ground.version * 100 + u64::from(client),
        client,
        environment: ground.environment.clone(),
        flag: "f".into(),
        subject: subject.into(),
        snapshot_version: ground.version,
        config_version: found.config_version.get(),
        variant: found.variant.map(Into::into),
        value: found.value.map(|value| value.as_json().into()),
        reason: found.reason.as_str().into(),
        fresh: true,
        age: Some(10),
    }
}

/// A store of a few states, whose change sets touch one to three of them.
struct Store {
    version: u64,
    states: BTreeMap<&'static str, StateSeen>,
    /// All of it, at each version.
    past: BTreeMap<u64, BTreeMap<&'static str, StateSeen>>,
}

const KEYS: [&str; 4] = ["flag/a", "flag/b", "segment/s", "segment/t"];

impl Store {
    fn write(&mut self, dice: &mut Dice) -> Vec<Write> {
        self.version += 1 + dice.roll(2);
        let mut writes = Vec::new();
        for key in KEYS {
            if !dice.one_in(2) {
                continue;
            }
            let deletes = dice.one_in(5) && self.states.contains_key(key);
            let (kind, name) = key.split_once('/').unwrap();
            let kind = if kind == "flag" { "policy" } else { kind };
            let value = (!deletes).then(|| format!("{key}@{}", self.version).into());
            writes.push(Write {
                object: format!("{kind}/e/{name}").into(),
                value,
            });
            if deletes {
                self.states.remove(key);
                continue;
            }
            let state = StateSeen {
                key: key.into(),
                changed_at: self.version,
                hash: Digest::new(u128::from(self.version) << 64 | u128::from(dice.roll(1 << 40))),
            };
            self.states.insert(key, state);
        }
        self.past.insert(self.version, self.states.clone());
        writes
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::EMPTY;
        self.states
            .values()
            .for_each(|state| digest.add(state.hash.get()));
        digest
    }

    /// The delta from one version to now; `None` when nothing changed.
    fn delta(&self, from: u64) -> Option<StreamItem> {
        let touched: BTreeSet<&str> = self
            .past
            .range(from + 1..)
            .flat_map(|(version, states)| {
                let before = self.past.range(..version).next_back();
                let before = before.map(|(_, states)| states);
                KEYS.into_iter()
                    .filter(move |key| before.and_then(|before| before.get(key)) != states.get(key))
            })
            .collect();
        if touched.is_empty() {
            return None;
        }
        let here = touched.iter().filter_map(|key| self.states.get(key));
        let gone = touched
            .iter()
            .filter(|key| !self.states.contains_key(**key));
        Some(StreamItem::Delta {
            from,
            to: self.version,
            upserts: here.cloned().collect(),
            removals: gone.map(|key| (*key).into()).collect(),
            digest: self.digest(),
            fresh_age_ms: 3,
        })
    }

    fn snapshot(&self) -> StreamItem {
        StreamItem::Snapshot {
            version: self.version,
            states: self.states.values().cloned().collect(),
            digest: self.digest(),
            fresh_age_ms: 3,
        }
    }
}

/// What five clients of a store see while it is written to, with the writes.
pub(crate) fn streamed(seed: u64, writes: u64) -> Vec<Event> {
    let mut dice = Dice::new(seed);
    let mut store = Store {
        version: 1,
        states: BTreeMap::new(),
        past: BTreeMap::new(),
    };
    let mut events = Vec::new();
    // (connection, version held)
    let mut clients: [(u32, Option<u64>, bool); 5] = [(0, None, false); 5];
    for n in 0..writes {
        let set = store.write(&mut dice);
        events.push(Event::ChangeSet(ChangeSet {
            client: 9,
            request: None,
            invoked: n * 100,
            completed: n * 100 + 20,
            writes: set,
            outcome: match dice.one_in(5) {
                true => SetOutcome::Unknown,
                false => SetOutcome::Committed {
                    version: store.version,
                },
            },
        }));
        for (client, (connection, version, open)) in clients.iter_mut().enumerate() {
            let mut see = |connection, item| {
                events.push(Event::Stream(StreamEvent {
                    at: n * 100 + 30 + client as u64,
                    client: client as u32,
                    connection,
                    scope: "e".into(),
                    item,
                }));
            };
            if !*open {
                *connection += 1;
                *open = true;
                let (node, since) = (0, *version);
                see(*connection, StreamItem::Asked { node, since });
                see(
                    *connection,
                    StreamItem::Hello {
                        cluster: "c".into(),
                        intent: "changes".into(),
                        version: store.version,
                        bound_ms: 1_000,
                    },
                );
            }
            if dice.one_in(3) {
                continue; // It is slow, and gets several changes as one.
            }
            let item = match *version {
                Some(have) if !dice.one_in(9) => store.delta(have).unwrap_or({
                    StreamItem::Heartbeat {
                        version: store.version,
                        open_ms: n,
                        fresh_age_ms: 3,
                    }
                }),
                _ => store.snapshot(),
            };
            see(*connection, item);
            *version = Some(store.version);
            if dice.one_in(2) {
                let beat = StreamItem::Heartbeat {
                    version: store.version,
                    open_ms: n,
                    fresh_age_ms: 3,
                };
                see(*connection, beat);
            }
            if dice.one_in(7) {
                let item = if dice.one_in(2) {
                    StreamItem::Goodbye
                } else {
                    StreamItem::Cut
                };
                see(*connection, item);
                *open = false;
                // It forgets, or resumes.
                if dice.one_in(4) {
                    *version = None;
                }
            }
        }
    }
    events
}
