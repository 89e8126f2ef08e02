//! Small true worlds for tests of checkers: they do what they should, unless told otherwise.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use pennon_evaluator::{Digest, Snapshot, Subject};

use super::faithful;
use super::judge::Demand;
use crate::history::{
    Action, Attempt, ChangeSet, Evaluation, Event, Fault, FaultStage, FinalRead, GroundAt,
    GroundObject, Header, History, HistoryLine, NodeEvent, NodeStage, ObjectSeen, Operation,
    Outcome, Phase, PhaseEvent, ReadSet, ReceiptSeen, Request, Seen, ServedAt, SetOutcome,
    StateSeen, StreamEvent, StreamItem, SubjectSeen, Write,
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

/// One of the clients of a store.
struct Watcher {
    number: u32,
    connection: u32,
    version: Option<u64>,
    open: bool,
}

impl Watcher {
    /// What it sees of a store at one moment.
    fn look(&mut self, store: &Store, dice: &mut Dice, seen: &mut Vec<StreamItem>) {
        if !self.open {
            self.connection += 1;
            self.open = true;
            let (node, since) = (0, self.version);
            seen.push(StreamItem::Asked { node, since });
            seen.push(StreamItem::Hello {
                cluster: "c".into(),
                intent: "changes".into(),
                version: store.version,
                bound_ms: 1_000,
            });
        }
        if dice.one_in(3) {
            return; // It is slow, and gets several changes as one.
        }
        let beat = StreamItem::Heartbeat {
            version: store.version,
            open_ms: 5,
            fresh_age_ms: 3,
        };
        seen.push(match self.version {
            Some(have) if !dice.one_in(9) => store.delta(have).unwrap_or(beat.clone()),
            _ => store.snapshot(),
        });
        self.version = Some(store.version);
        if dice.one_in(2) {
            seen.push(beat);
        }
        if dice.one_in(7) {
            seen.push(match dice.one_in(2) {
                true => StreamItem::Goodbye,
                false => StreamItem::Cut,
            });
            self.open = false;
            // It forgets, or resumes.
            if dice.one_in(4) {
                self.version = None;
            }
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
    let mut watchers: Vec<Watcher> = (0..5)
        .map(|number| Watcher {
            number,
            connection: 0,
            version: None,
            open: false,
        })
        .collect();
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
        for watcher in &mut watchers {
            let mut seen = Vec::new();
            watcher.look(&store, &mut dice, &mut seen);
            events.extend(seen.into_iter().map(|item| {
                Event::Stream(StreamEvent {
                    at: n * 100 + 30 + u64::from(watcher.number),
                    client: watcher.number,
                    connection: watcher.connection,
                    scope: "e".into(),
                    item,
                })
            }));
        }
    }
    events
}

const MS: u64 = 1_000_000;

/// A whole run of some seconds with all kinds of events, of which everything is valid: registers,
/// streams, pairs, evaluations, a pause of one node and the death of a leader.
pub(crate) fn run(seed: u64) -> History {
    let demand = Demand {
        writes_min: 50,
        reads_min: 20,
        conflicts_min: 5,
        retries_min: 5,
        change_sets_min: 2,
        read_sets_min: 2,
        recomputed_min: 2,
        stream_items_min: 100,
        resumes_min: 2,
        rises_min: 2,
        fresh_min: 10,
        stale_min: 1,
        receipts_min: 3,
        shared_evaluations_min: 2,
        bound_ms: 1_000,
        clocks_off_ms: 0,
        liveness: true,
        finals_min: 1,
        faults: BTreeSet::from(["pause".to_owned(), "kill".to_owned()]),
    };
    let nodes = vec!["n1".into(), "n2".into(), "n3".into()];
    let mut header = Header::new(seed, nodes, demand);
    header.release = "a store that does what it should".to_owned();
    let mut events = requests(seed);
    events.extend(streamed(seed, 120).into_iter().filter_map(|event| {
        let Event::Stream(mut event) = event else {
            return None;
        };
        event.at = event.at * 10_000_000 / 12; // 120 writes are ten seconds.
        event.scope = "streamed".into();
        Some(Event::Stream(event))
    }));
    events.extend(evaluated());
    events.extend(faults());
    events.sort_by_key(when);
    History {
        header,
        events,
        ended: Some(14_000 * MS),
        complaint: None,
    }
}

fn when(event: &Event) -> u64 {
    match event {
        Event::Operation(request) => request.operation.completed,
        Event::ChangeSet(set) => set.completed,
        Event::ReadSet(read) => read.completed,
        Event::Stream(event) => event.at,
        Event::Evaluation(one) => one.began,
        Event::Receipt(one) => one.at,
        Event::Fault(fault) => fault.at,
        Event::Node(node) => node.at,
        Event::Phase(phase) => phase.at,
        _ => u64::MAX,
    }
}

/// Ten seconds of requests on one register, except while there is no leader.
fn requests(seed: u64) -> Vec<Event> {
    let (mut requests, end) = requests_of(&mut Server::new(true), 400, seed);
    let stretch = |at: u64| {
        let at = at * MS / 4;
        // Nothing is answered from 5 s to 6 s.
        if at > 5_000 * MS { at + 1_000 * MS } else { at }
    };
    for request in &mut requests {
        let operation = &mut request.operation;
        operation.invoked = stretch(operation.invoked);
        operation.completed = stretch(operation.completed);
        for attempt in &mut request.attempts {
            attempt.sent = stretch(attempt.sent);
        }
    }
    let mut events: Vec<Event> = requests.into_iter().map(Event::Operation).collect();
    events.push(Event::Final(end));
    events
}

/// Three clients evaluate while the policy changes twice; the node of the last one stands still.
fn evaluated() -> Vec<Event> {
    let grounds = [ground(9, "on"), ground(12, "off"), ground(15, "on")];
    let began = [0, 3_000 * MS, 8_000 * MS];
    let mut events = vec![
        Event::Subject(subject("ada")),
        Event::Subject(subject("bob")),
    ];
    for (at, ground) in began.iter().zip(&grounds) {
        let value: Arc<str> = ground.version.to_string().into();
        let write = |object: &str| Write {
            object: object.into(),
            value: Some(value.clone()),
        };
        events.push(Event::ChangeSet(ChangeSet {
            client: 8,
            request: None,
            invoked: *at,
            completed: at + 5 * MS,
            writes: vec![write("policy/e/f"), write("segment/e/x")],
            outcome: SetOutcome::Committed {
                version: ground.version,
            },
        }));
        // The last client stands still while the second change comes.
        let complete = *at != 3_000 * MS;
        let laggards = if complete {
            vec![]
        } else {
            vec!["client-2".into()]
        };
        events.push(Event::Receipt(ReceiptSeen {
            at: at + 30 * MS,
            client: 8,
            environment: "e".into(),
            version: ground.version,
            complete,
            laggards,
            settled_in_ms: if complete { 0 } else { 1_000 },
        }));
        let seen = |object: &str| ObjectSeen {
            object: object.into(),
            seen: Some(Seen {
                version: ground.version,
                value: value.clone(),
            }),
        };
        events.push(Event::ReadSet(ReadSet {
            client: 8,
            invoked: at + 6 * MS,
            completed: at + 7 * MS,
            source: "list".into(),
            linearizable: true,
            version: ground.version,
            objects: vec![seen("policy/e/f"), seen("segment/e/x")],
        }));
        events.push(Event::Ground(ground.clone()));
        events.push(Event::Served(ServedAt {
            at: at + 8 * MS,
            node: 1,
            environment: "e".into(),
            version: ground.version,
            digest: faithful::compile(ground).unwrap().digest(),
            states: Vec::new(),
        }));
    }
    for tick in 1..1_100 {
        let now = tick * 10 * MS;
        let newest = began.iter().rposition(|at| *at < now).unwrap();
        for client in 0..3 {
            // The last one stands still from 2.5 s to 5.5 s, and notices.
            let behind = client == 2 && (2_500 * MS..5_500 * MS).contains(&now);
            let had = if behind {
                began.iter().rposition(|at| *at < 2_500 * MS)
            } else {
                None
            };
            let mut one = evaluation(&grounds[had.unwrap_or(newest)], client, "ada");
            one.began = now;
            let age = if behind { now - 2_500 * MS } else { 0 } + 20 * MS;
            (one.fresh, one.age) = (age <= 1_000 * MS, Some(age));
            events.push(Event::Evaluation(one));
        }
    }
    events
}

fn faults() -> Vec<Event> {
    let fault = |fault, kind: &str, at: u64, stage| {
        Event::Fault(Fault {
            at: at * MS,
            fault,
            kind: kind.into(),
            targets: vec!["n3".into()],
            stage,
        })
    };
    let acted = || FaultStage::Acted {
        proof: "seen in /proc".into(),
        count: 1,
    };
    let node = |at: u64, node, stage| {
        let at = at * MS;
        Event::Node(NodeEvent { at, node, stage })
    };
    let phase = |at: u64, phase| {
        let at = at * MS;
        Event::Phase(PhaseEvent { at, phase })
    };
    vec![
        phase(0, Phase::Working),
        node(1, 0, NodeStage::Leads { term: 1 }),
        fault(1, "pause", 2_500, FaultStage::Asked),
        fault(1, "pause", 2_510, acted()),
        fault(1, "pause", 4_700, FaultStage::Ended),
        fault(2, "kill", 4_990, FaultStage::Asked),
        node(
            5_000,
            0,
            NodeStage::Ended {
                how: "killed".into(),
                led: true,
            },
        ),
        fault(2, "kill", 5_001, acted()),
        node(5_900, 1, NodeStage::Leads { term: 2 }),
        fault(2, "kill", 7_500, FaultStage::Ended),
        node(7_600, 0, NodeStage::Ready),
        phase(8_000, Phase::Healed),
        phase(9_500, Phase::Converged),
        phase(12_000, Phase::Stopped),
    ]
}
