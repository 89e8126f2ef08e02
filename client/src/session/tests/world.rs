//! A property over the session: whatever happens, in whatever order, among nodes of two clusters.
//!
//! The world keeps the truth (when each version was committed, where), honest nodes that lag as
//! they like, messages that are late, connections that were given up and still deliver, and nodes
//! that do what none may do. They do not lie about what no client can check: what their state was
//! at a version, and how old it is.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A cluster as it truly is: when each version was committed.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// Version `n + 1` was committed at this time.
    commits: Vec<u64>,
}

impl Truth {
    fn version(&self) -> u64 {
        self.commits.len() as u64
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    cluster: usize,
    applied: u64,
    fresh_at: u64,
}

/// One connection as its node sees it.
#[derive(Clone, Debug)]
struct Line {
    node: usize,
    cluster: usize,
    opened: u64,
    /// The version that the messages sent so far lead to.
    at: u64,
    sent: VecDeque<(Ages, StreamMessage)>,
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Commit(usize),
    Sync(usize),
    Open { delay: u64 },
    Send,
    Deliver { line: usize },
    Hostile(u8, u64),
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1_u64..4_000).prop_map(Step::Pass),
        4 => (0_usize..5).prop_map(|n| Step::Commit(n.saturating_sub(3))),
        4 => (0_usize..4).prop_map(Step::Sync),
        4 => (0_u64..300).prop_map(|delay| Step::Open { delay }),
        6 => Just(Step::Send),
        8 => (0_usize..3).prop_map(|line| Step::Deliver { line }),
        2 => (0_u8..7, 1_u64..6).prop_map(|(kind, by)| Step::Hostile(kind, by)),
        1 => Just(Step::Fail),
    ]
}

/// A session among nodes of two clusters.
struct World {
    script: Script,
    truth: [Truth; 2],
    nodes: [Node; 4],
    lines: BTreeMap<u64, Line>,
}

impl World {
    fn new() -> World {
        let mut nodes = [Node::default(); 4];
        nodes[3].cluster = 1;
        let truth = [Truth { commits: vec![0] }, Truth::default()];
        World {
            script: Script::new(4),
            truth,
            nodes,
            lines: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass(time) => self.script.pass(time),
            Step::Commit(cluster) => {
                self.script.now += 1;
                self.truth[cluster].commits.push(self.script.now);
            }
            Step::Sync(n) => {
                let node = &mut self.nodes[n];
                node.applied = self.truth[node.cluster].version();
                node.fresh_at = self.script.now;
            }
            Step::Open { delay } => self.open(delay),
            Step::Send => self.send(),
            Step::Deliver { line } => self.deliver(line),
            Step::Hostile(kind, by) => self.hostile(kind, by),
            Step::Fail => {
                if self.script.connect.is_some() {
                    self.script.fail();
                }
            }
        }
    }

    fn open(&mut self, delay: u64) {
        let Some((attempt, node, since)) = self.script.connect else {
            return;
        };
        if self.lines.contains_key(&attempt.0) {
            return;
        }
        self.script.open();
        let opened = self.script.now + delay;
        self.script.now = opened;
        let cluster = self.nodes[node].cluster;
        let at = since
            .filter(|_| !self.session_is_foreign(cluster))
            .unwrap_or(0);
        let mut line = Line {
            node,
            cluster,
            opened,
            at,
            sent: VecDeque::new(),
        };
        // A node that is behind the client waits.
        let Node { applied, .. } = self.nodes[node];
        if at <= applied {
            let intent = if at == 0 {
                Intent::Full
            } else {
                Intent::Changes
            };
            let id = ["A", "B"][cluster];
            line.sent
                .push_back((self.ages(&line), hello_of(id, intent, applied)));
            if at == 0 {
                line.at = applied;
                let message = snapshot_message(cluster as u64, applied);
                line.sent.push_back((self.ages(&line), message));
            }
        }
        self.lines.insert(attempt.0, line);
    }

    fn session_is_foreign(&self, cluster: usize) -> bool {
        let id = ["A", "B"][cluster];
        self.script
            .session
            .held()
            .is_some_and(|held| held.cluster_id.as_deref() != Some(id))
    }

    fn ages(&self, line: &Line) -> Ages {
        let now = self.script.now;
        Ages {
            open_ms: now - line.opened,
            fresh_age_ms: now - self.nodes[line.node].fresh_at,
        }
    }

    fn send(&mut self) {
        let Some((attempt, ..)) = self.script.connect else {
            return;
        };
        let Some(mut line) = self.lines.remove(&attempt.0) else {
            return;
        };
        let applied = self.nodes[line.node].applied;
        if applied >= line.at && line.cluster == self.nodes[line.node].cluster {
            let cluster = line.cluster as u64;
            let same = states::changed_at(line.at) == states::changed_at(applied);
            let message = match same {
                true => heartbeat(applied),
                false => delta_message(cluster, line.at, applied),
            };
            line.sent.push_back((self.ages(&line), message));
            line.at = applied;
        }
        self.lines.insert(attempt.0, line);
    }

    /// Brings the next message of one of the newest connections, given up or not.
    fn deliver(&mut self, nth: usize) {
        let found = self.lines.iter_mut().rev().nth(nth);
        let Some((attempt, line)) = found else {
            return;
        };
        if let Some((ages, message)) = line.sent.pop_front() {
            self.script.tell(Event::Message {
                attempt: Attempt(*attempt),
                ages,
                message,
            });
        }
    }

    /// A node that does what none may do, but does not lie about what cannot be checked.
    fn hostile(&mut self, kind: u8, by: u64) {
        let Some(have) = self.script.held() else {
            return;
        };
        let Some((attempt, ..)) = self.script.connect else {
            return;
        };
        let cluster =
            u64::from(self.script.session.held().unwrap().cluster_id.as_deref() == Some("B"));
        let message = match kind {
            0 => snapshot_message(cluster, have.saturating_sub(by)),
            1 => delta_message(cluster, have + by, have + by + 2),
            2 => delta_message(cluster, have.saturating_sub(by), have + 1),
            3 => tampered(delta_message(cluster, have, have + by)),
            4 => heartbeat(have.saturating_sub(by)),
            5 => StreamMessage::Reset {
                reason: "why not".to_owned(),
            },
            _ => hello_of("C", Intent::Full, have.saturating_sub(by)),
        };
        // Such a message claims no freshness, so that nothing it proves could be true.
        let ages = Ages {
            open_ms: 0,
            fresh_age_ms: u64::MAX,
        };
        self.script.tell(Event::Message {
            attempt,
            ages,
            message,
        });
        if let Some(line) = self.lines.get_mut(&attempt.0)
            && kind == 5
        {
            // It keeps its word: a snapshot follows.
            let node = self.nodes[line.node];
            let now = self.script.now;
            let ages = Ages {
                open_ms: now - line.opened,
                fresh_age_ms: now - node.fresh_at,
            };
            line.at = node.applied;
            line.sent
                .push_back((ages, snapshot_message(line.cluster as u64, node.applied)));
        }
    }

    /// What must be true after every step.
    fn check(&self, before: Option<u64>) -> Result<(), TestCaseError> {
        let Some(held) = self.script.session.held() else {
            prop_assert_eq!(before, None);
            return Ok(());
        };
        let at = held.snapshot.version().get();
        prop_assert!(Some(at) >= before, "I6: back from {before:?} to {at}");
        let cluster = usize::from(held.cluster_id.as_deref() == Some("B"));
        let content = snapshot(cluster as u64, at).digest();
        prop_assert_eq!(
            held.snapshot.digest(),
            content,
            "I3 I8: not the content of {}",
            at
        );
        // I5: everything committed before now - age is included.
        let moment = self.script.now.saturating_sub(self.script.age());
        let missed = self.truth[cluster].commits.get(at as usize);
        if let Some(missed) = missed {
            prop_assert!(
                moment <= *missed,
                "I5: newest until {missed}, claimed for {moment}"
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    // I3 I5 I6 I8
    #[test]
    fn whatever_happens_in_whatever_order(steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::new();
        let mut before = None;
        for step in steps {
            world.step(step);
            world.check(before)?;
            before = world.script.held();
            prop_assert!(world.script.session.wake_at(ms(world.script.now)).is_some());
        }
    }
}

/// The property would hold for a session that does nothing; this one shows that it does much.
#[test]
fn the_world_of_the_property_gets_to_interesting_places() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 150..160);
    let mut sum = Counters::default();
    let mut highest = 0;
    for _ in 0..300 {
        let mut world = World::new();
        for step in steps.new_tree(&mut runner).unwrap().current() {
            world.step(step);
        }
        let counters = world.script.session.counters();
        highest = highest.max(world.script.held().unwrap_or(0));
        sum.gaps += counters.gaps;
        sum.deltas += counters.deltas;
        sum.heartbeats += counters.heartbeats;
        sum.refused_older += counters.refused_older;
        sum.digest_failures += counters.digest_failures;
        sum.foreign += counters.foreign;
        sum.clusters += counters.clusters;
        sum.resets += counters.resets;
        sum.silences += counters.silences;
    }
    assert!(highest > 10, "{highest}");
    let all = [
        sum.gaps,
        sum.deltas,
        sum.heartbeats,
        sum.refused_older,
        sum.digest_failures,
        sum.foreign,
        sum.clusters,
        sum.resets,
        sum.silences,
    ];
    assert!(all.iter().all(|n| *n >= 10), "{sum:?}");
}
