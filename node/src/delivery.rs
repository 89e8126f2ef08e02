//! How far a version has come (D6): which nodes have applied it, which evaluators.
//!
//! The node that is asked asks every member, itself included, and puts the answers together. It
//! also keeps, for the time when a member does not answer, the names of the evaluators that were
//! connected to it, so that a receipt can name them.
//!
//! What must hold: an evaluator is called current only if it acknowledged the version or a later
//! one; whoever is connected to any node and did not is named; how long an older state may still be
//! acted on as fresh is bounded from above: whatever was proved fresh before this node had the
//! version is past the staleness bound by then (I5).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use pennon_evaluator::{EnvironmentKey, Version};
use pennon_raft_store::raft::Change;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::Core;
use crate::hub::receipts::{Count, Present, Roll};

/// How often members are asked who is connected to them.
const ROLL_CALL: Duration = Duration::from_secs(1);

/// The longest wait for an answer to that.
const ROLL_CALL_MAX: Duration = Duration::from_secs(1);

/// Who was connected to the other members when they last answered.
#[derive(Default)]
pub(crate) struct Rolls {
    by_node: Mutex<BTreeMap<u64, Kept>>,
}

struct Kept {
    newest: Roll,
    /// The last one by an earlier start of the member, and when that was noticed.
    before: Option<(Roll, Duration)>,
}

/// What a member says of a version in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Whether it has applied the version.
    pub(crate) applied: bool,
    pub(crate) count: Count,
}

/// One member's part in a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePart {
    /// Its name.
    pub name: String,
    /// Whether it answered.
    pub answers: bool,
    /// Whether it has applied the version.
    pub applied: bool,
    /// Evaluators connected to it.
    pub connected: usize,
    /// How long somebody who is known by no name may act on an older state that it has from there: it
    /// left, or was there before the node started. 0 for a node that does not answer.
    pub doubt_ms: u64,
}

/// Why an evaluator counts as a laggard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lag {
    /// It is connected and has not acknowledged the version.
    Connected,
    /// It was connected to a node that does not answer.
    NodeUnreachable,
    /// It has no stream, any more or because it polls.
    Disconnected,
}

impl Lag {
    /// The word shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::NodeUnreachable => "node-unreachable",
            Self::Disconnected => "disconnected",
        }
    }
}

/// An evaluator that may still act on an older state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// What it calls itself.
    pub id: String,
    /// The environment.
    pub environment: EnvironmentKey,
    /// The node it is or was connected to.
    pub node: String,
    /// The version that it acknowledged last; 0 when none is known.
    pub version: Version,
    /// How long ago it was last heard of, if that is known.
    pub seen_ms: Option<u64>,
    /// Why it counts.
    pub lag: Lag,
    /// How long it may, at most, act on an older state as if that were fresh.
    pub fresh_ms: u64,
}

/// How far a version has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The members.
    pub nodes: Vec<NodePart>,
    /// Evaluators that are connected, by name.
    pub connected: usize,
    /// Those of them that have acknowledged the version.
    pub acknowledged: usize,
    /// Streams without a name: nothing is known of them.
    pub unnamed: u64,
    /// Who may lag behind, by name.
    pub laggards: Vec<Laggard>,
    /// After so many milliseconds nobody acts on an older state as if it were fresh.
    pub settled_ms: u64,
}

impl Delivery {
    /// Whether every node that answers has the version.
    pub fn is_applied(&self) -> bool {
        self.nodes.iter().all(|node| node.applied || !node.answers)
    }

    /// Whether everybody who is connected has the version.
    pub fn is_delivered(&self) -> bool {
        self.laggards.iter().all(|one| one.lag == Lag::Disconnected)
            && self.nodes.iter().all(|node| node.answers)
    }

    /// Adds what was found out for another environment.
    fn add(&mut self, other: Delivery) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
        } else {
            for (mine, theirs) in self.nodes.iter_mut().zip(other.nodes) {
                mine.answers &= theirs.answers;
                mine.applied &= theirs.applied;
                mine.connected += theirs.connected;
                mine.doubt_ms = mine.doubt_ms.max(theirs.doubt_ms);
            }
        }
        self.connected += other.connected;
        self.acknowledged += other.acknowledged;
        self.unnamed += other.unnamed;
        self.laggards.extend(other.laggards);
        self.settled_ms = self.settled_ms.max(other.settled_ms);
    }
}

/// A member's answer, or what is remembered of it.
struct Heard {
    name: String,
    said: Option<Said>,
    /// Who was connected to it, when it does not answer.
    remembered: Present,
    /// Who was connected to it before it restarted.
    lost: Lost,
}

/// Who was connected to a member before it restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lost {
    present: Present,
    /// How long ago that was noticed, in milliseconds.
    noticed_ms: u64,
}

impl Heard {
    /// The greatest staleness bound that anybody may go by who is or was connected to the member.
    fn bound_ms(&self) -> u64 {
        let said = self.said.as_ref();
        let here = said.map_or(self.remembered.bound_ms, |said| said.count.bound_ms);
        here.max(self.lost.present.bound_ms)
    }
}

/// What is left of a bound after a time that was rounded down, in milliseconds. An age of exactly
/// the bound is still fresh, so it is over only after that. (I5)
fn left_of(bound: u64, passed: u64) -> u64 {
    (bound + 1).saturating_sub(passed)
}

/// What the members together say of one evaluator.
struct Known {
    version: Version,
    connected: bool,
    seen_ms: u64,
    node: String,
}

/// What they say of each.
fn evaluators(heard: &[Heard]) -> BTreeMap<String, Known> {
    let mut by_id: BTreeMap<String, Known> = BTreeMap::new();
    for member in heard {
        let said = member.said.iter();
        for said in said.flat_map(|said| &said.count.evaluators) {
            let one = by_id.entry(said.id.clone()).or_insert_with(|| Known {
                version: Version::ZERO,
                connected: false,
                seen_ms: u64::MAX,
                node: member.name.clone(),
            });
            // It went from one node to another: where it is now counts, and the newest receipt.
            if (said.connected, one.seen_ms) > (one.connected, said.seen_ms) {
                one.node.clone_from(&member.name);
            }
            one.version = one.version.max(said.version);
            one.connected |= said.connected;
            one.seen_ms = one.seen_ms.min(said.seen_ms);
        }
    }
    for member in heard {
        for id in &member.lost.present.evaluators {
            by_id.entry(id.clone()).or_insert_with(|| Known {
                version: Version::ZERO,
                connected: false,
                seen_ms: member.lost.noticed_ms,
                node: member.name.clone(),
            });
        }
    }
    by_id
}

/// Puts the answers of all members together. `bound` is the staleness bound and `left` what is left
/// of it since this node had the version, both in milliseconds.
fn merge(
    environment: &EnvironmentKey,
    version: Version,
    heard: Vec<Heard>,
    bound: u64,
    left: u64,
) -> Delivery {
    let mut delivery = Delivery::default();
    let mut by_id = evaluators(&heard);
    for member in &heard {
        let said = member.said.as_ref();
        let doubt_ms = said.and_then(|said| said.count.doubt_ms);
        let of = |said: &Said| {
            said.count
                .evaluators
                .iter()
                .filter(|one| one.connected)
                .count()
        };
        delivery.nodes.push(NodePart {
            name: member.name.clone(),
            answers: said.is_some(),
            applied: said.is_some_and(|said| said.applied),
            connected: said.map_or(0, of),
            doubt_ms: doubt_ms.map_or(0, |passed| left.min(left_of(bound, passed))),
        });
        let Some(said) = said else {
            let lost = unreachable(environment, version, member, &mut by_id, left);
            delivery.laggards.extend(lost);
            continue;
        };
        delivery.unnamed += said.count.unnamed;
    }
    for (id, one) in by_id {
        delivery.connected += usize::from(one.connected);
        if one.version >= version {
            delivery.acknowledged += usize::from(one.connected);
            continue;
        }
        // What was sent to it last was proved before it left. (I5)
        let (lag, fresh_ms) = match one.connected {
            true => (Lag::Connected, left),
            false => (Lag::Disconnected, left.min(left_of(bound, one.seen_ms))),
        };
        if lag == Lag::Disconnected && fresh_ms == 0 {
            continue;
        }
        delivery.laggards.push(Laggard {
            id,
            environment: environment.clone(),
            node: one.node,
            version: one.version,
            seen_ms: Some(one.seen_ms),
            lag,
            fresh_ms,
        });
    }
    // Who comes to a node that has not applied it is served less. (I5)
    let lacks = |node: &NodePart| !node.answers || !node.applied;
    let unknown = match delivery.unnamed > 0 || delivery.nodes.iter().any(lacks) {
        true => left,
        false => 0,
    };
    let laggards = delivery.laggards.iter().map(|one| one.fresh_ms);
    let doubts = delivery.nodes.iter().map(|node| node.doubt_ms);
    delivery.settled_ms = laggards.chain(doubts).max().unwrap_or(0).max(unknown);
    delivery
        .laggards
        .sort_by(|a, b| (a.lag, &a.id).cmp(&(b.lag, &b.id)));
    delivery
}

/// Who was connected to a member that does not answer, and is not known to have the version or to be
/// connected elsewhere. They are taken out of `by_id`.
fn unreachable(
    environment: &EnvironmentKey,
    version: Version,
    member: &Heard,
    by_id: &mut BTreeMap<String, Known>,
    left: u64,
) -> Vec<Laggard> {
    let mut lost = Vec::new();
    for id in &member.remembered.evaluators {
        let has_it = |one: &Known| one.connected || one.version >= version;
        if by_id.get(id).is_some_and(has_it) {
            continue;
        }
        let known = by_id.remove(id);
        lost.push(Laggard {
            id: id.clone(),
            environment: environment.clone(),
            node: member.name.clone(),
            version: known.as_ref().map_or(Version::ZERO, |one| one.version),
            seen_ms: known.map(|one| one.seen_ms),
            lag: Lag::NodeUnreachable,
            fresh_ms: left,
        });
    }
    lost
}

impl Core {
    /// Waits until every member that answers has applied a version, at most for `within`; says
    /// which have.
    pub async fn applied_everywhere(&self, version: Version, within: Duration) -> Vec<NodePart> {
        let deadline = Instant::now() + within;
        let status = self.status();
        let parts = status.members.iter().map(|member| async {
            let applied = match member.id == self.node() {
                true => Some(self.at_least(version, within).await.is_ok()),
                false => self.peers.applied(&member.member, version, deadline).await,
            };
            NodePart {
                name: member.member.name.clone(),
                answers: applied.is_some(),
                applied: applied == Some(true),
                connected: 0,
                doubt_ms: 0,
            }
        });
        let mut parts = join_all(parts).await;
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        parts
    }

    /// Finds out how far a version has come in some environments. Waits at most for `within` until
    /// everybody who is connected has it; receipts are asked for if there is something to wait for.
    pub async fn delivery(
        &self,
        environments: &[EnvironmentKey],
        version: Version,
        within: Duration,
    ) -> Delivery {
        let found = environments
            .iter()
            .map(|environment| self.delivery_in(environment, version, within));
        let mut all = Delivery::default();
        for found in join_all(found).await {
            all.add(found);
        }
        if environments.is_empty() {
            all.nodes = self.applied_everywhere(version, within).await;
        }
        all
    }

    async fn delivery_in(
        &self,
        environment: &EnvironmentKey,
        version: Version,
        within: Duration,
    ) -> Delivery {
        let deadline = Instant::now() + within;
        let status = self.status();
        let heard = status.members.iter().map(|member| async {
            let said = match member.id == self.node() {
                true => Some(self.say(environment, version, deadline).await),
                false => {
                    let to = &member.member;
                    self.peers
                        .receipts(to, environment, version, deadline)
                        .await
                }
            };
            Heard {
                name: member.member.name.clone(),
                remembered: match said {
                    Some(_) => Present::default(),
                    None => self.rolls.of(member.id, environment),
                },
                lost: self.rolls.lost(member.id, environment, self.now()),
                said,
            }
        });
        let mut heard = join_all(heard).await;
        heard.sort_by(|a, b| a.name.cmp(&b.name));
        let view = self.view();
        let bound = Core::environment(&view, environment).unwrap_or_default();
        // Who was cut off before it was lowered does not know. (I5)
        let told = heard.iter().map(Heard::bound_ms).max().unwrap_or(0);
        let bound = bound.staleness_bound_ms.max(told);
        let since = self.now().saturating_sub(self.hub.reached(version));
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        merge(environment, version, heard, bound, left_of(bound, since))
    }

    fn note_members(&self) {
        let status = self.status();
        let members = status.members.iter().map(|member| member.id).collect();
        let settled = status.change == Change::Settled;
        self.hub.receipts().members(members, settled, self.now());
    }

    /// What this node says of a version, after waiting for it and for its evaluators until the
    /// deadline.
    pub(crate) async fn say(
        &self,
        environment: &EnvironmentKey,
        version: Version,
        deadline: Instant,
    ) -> Said {
        let left = deadline.saturating_duration_since(Instant::now());
        let applied = self.at_least(version, left).await.is_ok();
        let receipts = self.hub.receipts();
        if applied {
            receipts.say(environment, version); // I5
        }
        if applied && deadline > Instant::now() {
            self.hub.want(environment, version);
            // When the time is over, who is missing is in the count.
            let delivered = receipts.delivered(environment, version);
            let _ = tokio::time::timeout_at(deadline, delivered).await;
        }
        self.note_members();
        Said {
            applied,
            count: receipts.count(environment, self.now()),
        }
    }
}

impl Kept {
    fn of(roll: &Roll, environment: &EnvironmentKey) -> Present {
        let mut here = roll.environments.iter();
        let here = here.find(|(key, _)| key == environment);
        here.map(|(_, here)| here.clone()).unwrap_or_default()
    }
}

impl Rolls {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Kept>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, node: u64, environment: &EnvironmentKey) -> Present {
        let kept = self.lock();
        let kept = kept.get(&node);
        kept.map(|kept| Kept::of(&kept.newest, environment))
            .unwrap_or_default()
    }

    fn lost(&self, node: u64, environment: &EnvironmentKey, now: Duration) -> Lost {
        let kept = self.lock();
        let before = kept.get(&node).and_then(|kept| kept.before.as_ref());
        before.map_or_else(Lost::default, |(roll, noticed)| {
            let passed = now.saturating_sub(*noticed).as_millis();
            Lost {
                present: Kept::of(roll, environment),
                noticed_ms: u64::try_from(passed).unwrap_or(u64::MAX),
            }
        })
    }

    fn generation(&self, node: u64) -> Option<u64> {
        self.lock().get(&node).map(|kept| kept.newest.generation)
    }

    fn keep(&self, node: u64, newest: Roll, now: Duration) {
        let mut by_node = self.lock();
        let before = by_node.remove(&node).and_then(|kept| {
            let follows = newest.follows(&kept.newest);
            match follows {
                true => kept.before,
                false => Some((kept.newest, now)),
            }
        });
        by_node.insert(node, Kept { newest, before });
    }
}

/// Asks the other members now and then who is connected to them, until the node stops.
pub(crate) async fn call_rolls(core: std::sync::Weak<Core>) {
    loop {
        let due = Instant::now() + ROLL_CALL;
        {
            let Some(core) = core.upgrade() else { return };
            core.note_members();
            let status = core.status();
            let others = status
                .members
                .iter()
                .filter(|member| member.id != core.node());
            let calls = others.map(|member| async {
                let known = core.rolls.generation(member.id);
                let deadline = Instant::now() + ROLL_CALL_MAX;
                if let Some(Some(roll)) = core.peers.roll(&member.member, known, deadline).await {
                    core.rolls.keep(member.id, roll, core.now());
                }
            });
            join_all(calls).await;
        }
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::receipts::Known;

    fn e() -> EnvironmentKey {
        "e".parse().unwrap()
    }

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn known(id: &str, version: u64, connected: bool, seen_ms: u64) -> Known {
        Known {
            id: id.into(),
            version: v(version),
            connected,
            seen_ms,
        }
    }

    fn heard(name: &str, evaluators: Vec<Known>) -> Heard {
        Heard {
            name: name.into(),
            said: Some(Said {
                applied: true,
                count: Count {
                    evaluators,
                    ..Count::default()
                },
            }),
            remembered: Present::default(),
            lost: Lost::default(),
        }
    }

    fn laggards(delivery: &Delivery) -> Vec<(&str, &str, u64, &str, u64)> {
        let all = delivery.laggards.iter();
        all.map(|one| {
            let (version, lag) = (one.version.get(), one.lag.as_str());
            (&*one.id, &*one.node, version, lag, one.fresh_ms)
        })
        .collect()
    }

    #[test]
    fn who_has_acknowledged_is_counted_and_who_has_not_is_named() {
        let heard = vec![
            heard("n1", vec![known("a", 7, true, 10), known("b", 6, true, 20)]),
            heard("n2", vec![known("c", 9, true, 10)]),
        ];
        let found = merge(&e(), v(7), heard, 10_000, 9_000);
        assert_eq!((found.connected, found.acknowledged), (3, 2));
        assert_eq!(laggards(&found), [("b", "n1", 6, "connected", 9_000)]);
        assert!(!found.is_delivered() && found.is_applied());
        assert_eq!(found.settled_ms, 9_000);
    }

    #[test]
    fn who_moved_is_counted_once_and_where_it_is() {
        let heard = vec![
            heard(
                "n1",
                vec![known("a", 6, false, 5_000), known("b", 7, false, 100)],
            ),
            heard("n2", vec![known("a", 7, true, 10), known("b", 0, true, 10)]),
        ];
        let found = merge(&e(), v(7), heard, 10_000, 9_000);
        assert_eq!((found.connected, found.acknowledged), (2, 2));
        assert!(found.is_delivered() && found.settled_ms == 0);
    }

    #[test]
    fn it_does_not_matter_which_node_answers_first() {
        let (here, gone) = (known("a", 6, true, 10), known("a", 5, false, 5_000));
        for nodes in [
            [("n1", &here), ("n2", &gone)],
            [("n2", &gone), ("n1", &here)],
        ] {
            let heard = nodes.map(|(name, known)| heard(name, vec![known.clone()]));
            let found = merge(&e(), v(7), heard.into(), 10_000, 9_000);
            assert_eq!(laggards(&found), [("a", "n1", 6, "connected", 9_000)]);
        }
    }

    #[test]
    fn who_left_is_named_as_long_as_it_can_act_on_what_it_has() {
        let evaluators = vec![
            known("acked", 7, false, 100),
            known("long-ago", 6, false, 10_001),
            known("lately", 6, false, 4_000),
        ];
        let found = merge(&e(), v(7), vec![heard("n1", evaluators)], 10_000, 9_000);
        assert_eq!(
            laggards(&found),
            [("lately", "n1", 6, "disconnected", 6_001)]
        );
        assert!(found.is_delivered());
        assert_eq!((found.connected, found.settled_ms), (0, 6_001));
    }

    #[test]
    fn a_poll_without_a_name_leaves_a_doubt_as_long_as_it_can_be_acted_on() {
        let polled = |doubt_ms, left| {
            let mut heard = heard("n1", Vec::new());
            if let Some(said) = &mut heard.said {
                said.count.doubt_ms = doubt_ms;
            }
            merge(&e(), v(7), vec![heard], 10_000, left).settled_ms
        };
        assert_eq!(polled(None, 9_000), 0);
        assert_eq!(polled(Some(4_000), 9_000), 6_001);
        assert_eq!(polled(Some(100), 9_000), 9_000);
        assert_eq!(polled(Some(10_001), 9_000), 0);
    }

    #[test]
    fn who_was_there_before_a_restart_is_named_unless_it_is_somewhere() {
        let mut restarted = heard("n2", vec![known("late", 6, true, 10)]);
        if let Some(said) = &mut restarted.said {
            said.count.doubt_ms = Some(3_000);
        }
        restarted.lost = Lost {
            present: Present {
                evaluators: ["cut", "late", "moved"].map(str::to_owned).into(),
                bound_ms: 10_000,
            },
            noticed_ms: 2_500,
        };
        let other = heard("n1", vec![known("moved", 7, false, 10)]);
        let found = merge(&e(), v(7), vec![other, restarted], 10_000, 9_000);
        let expected = [
            ("late", "n2", 6, "connected", 9_000),
            ("cut", "n2", 0, "disconnected", 7_501),
        ];
        assert_eq!(laggards(&found), expected);
        assert_eq!(found.nodes[1].doubt_ms, 7_001);
    }

    #[test]
    fn a_node_that_lacks_the_version_may_serve_less() {
        let mut behind = heard("n2", Vec::new());
        if let Some(said) = &mut behind.said {
            said.applied = false;
        }
        let found = merge(
            &e(),
            v(7),
            vec![heard("n1", Vec::new()), behind],
            10_000,
            9_000,
        );
        assert_eq!(found.settled_ms, 9_000);
    }

    #[test]
    fn those_of_a_silent_node_are_named_unless_they_are_elsewhere() {
        let silent = Heard {
            name: "n3".into(),
            said: None,
            remembered: Present {
                evaluators: ["cut", "moved", "left"].map(str::to_owned).into(),
                bound_ms: 10_000,
            },
            lost: Lost::default(),
        };
        let elsewhere = vec![known("moved", 6, true, 10), known("left", 5, false, 10)];
        let found = merge(
            &e(),
            v(7),
            vec![heard("n1", elsewhere), silent],
            10_000,
            9_000,
        );
        let expected = [
            ("moved", "n1", 6, "connected", 9_000),
            ("cut", "n3", 0, "node-unreachable", 9_000),
            ("left", "n3", 5, "node-unreachable", 9_000),
        ];
        assert_eq!(laggards(&found), expected);
        assert!(!found.is_delivered());
        assert!(found.is_applied(), "as far as nodes answer");
    }

    #[test]
    fn a_silent_node_without_evaluators_still_leaves_a_doubt() {
        let silent = Heard {
            name: "n3".into(),
            said: None,
            remembered: Present::default(),
            lost: Lost::default(),
        };
        let found = merge(&e(), v(7), vec![silent], 10_000, 9_000);
        assert!(!found.is_delivered());
        assert_eq!(found.settled_ms, 9_000);
    }
}
