//! N3 and N4: partitions, and links that are slow, narrow or break.
//!
//! What must hold: a wire on which several faults are does what the harshest says; a fault takes away
//! only its own part.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::net::TcpStream;

use super::{Act, Kind, TARGET_MAX};
use crate::chaos::fleet::{Fleet, client_host};
use crate::failure::{Failure, Result};
use crate::proxy::{Counts, Mode, Net, Slow};

/// How much longer a fault goes on that nobody has met yet.
const MET_MAX: Duration = Duration::from_secs(5);

/// From one host to another.
type Way = (String, String);

/// Which fault wants what of which wire.
#[derive(Debug, Default)]
pub(super) struct Links {
    wanted: Mutex<BTreeMap<Way, BTreeMap<u64, Mode>>>,
}

impl Links {
    fn set(&self, net: &Net, fault: u64, ways: &BTreeSet<Way>, mode: Mode) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for way in ways {
            let modes = wanted.entry(way.clone()).or_default();
            modes.insert(fault, mode);
            net.wire(&way.0, &way.1).set(harshest(modes));
        }
    }

    pub(super) fn clear(&self, net: &Net, fault: u64) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for (way, modes) in wanted.iter_mut() {
            if modes.remove(&fault).is_some() {
                net.wire(&way.0, &way.1).set(harshest(modes));
            }
        }
    }
}

/// What loses bytes before what keeps them, before what slows them down.
fn harshest(modes: &BTreeMap<u64, Mode>) -> Mode {
    let rank = |mode: &Mode| match mode {
        Mode::Pass => 0,
        Mode::Slow(_) => 1,
        Mode::CutAfter(_) => 2,
        Mode::Stall => 3,
        Mode::Hold => 4,
        Mode::Swallow => 5,
    };
    modes
        .values()
        .copied()
        .max_by_key(rank)
        .unwrap_or(Mode::Pass)
}

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    match act.planned.kind {
        Kind::LinkRefuse => refuse(act).await,
        Kind::LinkReset => reset(act).await,
        kind if kind.family() == super::Family::Link => quality(act).await,
        _ => partition(act).await,
    }
}

async fn partition(act: &mut Act) -> Result<()> {
    let (targets, ways) = lost_ways(act).await?;
    if ways.is_empty() {
        return Err(Failure::new("there are too few nodes for it"));
    }
    act.asked(&targets);
    let mode = act.loss();
    during(act, &ways, mode).await;
    Ok(())
}

/// Sets a mode for the time of the fault and says what the wires did.
async fn during(act: &mut Act, ways: &BTreeSet<Way>, mode: Mode) {
    let before = counts(act.fleet(), ways);
    let number = act.planned.number;
    act.arena.links.set(act.fleet().net(), number, ways, mode);
    act.rest(act.planned.lasts).await;
    // Long enough that somebody met it.
    let look = || (counts(act.fleet(), ways) - before).acted().then_some(());
    act.wait_for(MET_MAX, look).await;
    let did = counts(act.fleet(), ways) - before;
    act.arena.links.clear(act.fleet().net(), number);
    let text = format!("{mode:?} on {} directions: {did:?}", ways.len());
    let count = did.held + did.swallowed + did.slowed + did.stalled + did.reset + did.unopened;
    act.acted(text, count);
}

/// Which directions a partition takes away, and whom it is about.
async fn lost_ways(act: &mut Act) -> Result<(Vec<usize>, BTreeSet<Way>)> {
    let kind = act.planned.kind;
    let least = match kind {
        Kind::PartitionMinority | Kind::PartitionBridge | Kind::PartitionRing => 3,
        _ => 2,
    };
    // Other faults have them; they come back.
    let enough = || (act.fleet().alive().len() >= least).then_some(());
    act.wait_for(TARGET_MAX, enough).await;
    let running = act.fleet().alive();
    let mut all = act.shuffled(running);
    if matches!(kind, Kind::PartitionLeader | Kind::PartitionMinority) {
        let leader = act.leader().await?;
        all.retain(|at| *at != leader);
        all.insert(0, leader);
    }
    let first = all.first().copied();
    let first = first.ok_or_else(|| Failure::new("no node runs"))?;
    if kind == Kind::PartitionClients {
        let ways = client_ways(act.fleet(), first).into_iter().collect();
        return Ok((vec![first], ways));
    }
    let (pairs, hit) = lost(kind, all.len(), act.random.random_bool(0.5));
    let name = |n: usize| act.fleet().name(all[n]).to_owned();
    let ways = pairs.into_iter().map(|(from, to)| (name(from), name(to)));
    Ok((all[hit].to_vec(), ways.collect()))
}

/// The directions that are lost between so many nodes, the first of which leads if it matters; and
/// whom that is about. One that is not heard either hears nothing (`deaf`) or is not heard.
fn lost(kind: Kind, count: usize, deaf: bool) -> (Vec<(usize, usize)>, Range<usize>) {
    let minority = count.saturating_sub(1) / 2;
    let is_lost = |from: usize, to: usize| match kind {
        Kind::PartitionLeader => from == 0 || to == 0,
        // The last ones.
        Kind::PartitionMinority => (from >= count - minority) != (to >= count - minority),
        // The first is the bridge between the others, which are two halves.
        Kind::PartitionBridge => from != 0 && to != 0 && from % 2 != to % 2,
        Kind::PartitionRing => to != (from + 1) % count,
        Kind::PartitionOneWay if deaf => to == 0,
        Kind::PartitionOneWay => from == 0,
        _ => true,
    };
    let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from != to && is_lost(*from, *to));
    let hit = match kind {
        Kind::PartitionMinority => count - minority..count,
        Kind::PartitionRing | Kind::PartitionPeers => 0..count,
        _ => 0..count.min(1),
    };
    (pairs.collect(), hit)
}

/// Both directions between a node and every client.
fn client_ways(fleet: &Fleet, at: usize) -> Vec<Way> {
    let node = fleet.name(at).to_owned();
    let clients = (0..fleet.layout().clients).map(client_host);
    let both = clients.flat_map(|client| [(client.clone(), node.clone()), (node.clone(), client)]);
    both.collect()
}

/// Some directions by chance: between nodes, to clients, or both.
fn some_ways(act: &mut Act) -> BTreeSet<Way> {
    let names: Vec<String> = act
        .fleet()
        .members()
        .iter()
        .map(|one| one.name.clone())
        .collect();
    let mut all: Vec<Way> = Vec::new();
    for from in &names {
        let others = names.iter().filter(|to| *to != from);
        all.extend(others.map(|to| (from.clone(), to.clone())));
    }
    for at in 0..names.len() {
        all.extend(client_ways(act.fleet(), at));
    }
    let share = act.random.random_range(0.1..=0.6);
    let mut ways: BTreeSet<Way> = all
        .into_iter()
        .filter(|_| act.random.random_bool(share))
        .collect();
    // One that is certainly used.
    if let Some(leader) = act.fleet().leader() {
        let other = act.fleet().alive().into_iter().find(|at| *at != leader.at);
        let name = |at: usize| act.fleet().name(at).to_owned();
        ways.extend(other.map(|other| (name(leader.at), name(other))));
    }
    ways
}

async fn quality(act: &mut Act) -> Result<()> {
    let ways = some_ways(act);
    act.asked(&[]);
    let millis = Duration::from_millis;
    let random = &mut act.random;
    let mode = match act.planned.kind {
        Kind::LinkSlow => {
            let delay = millis(random.random_range(2..=200));
            Mode::Slow(Slow::delayed(delay, delay * random.random_range(0..=3)))
        }
        Kind::LinkNarrow => Mode::Slow(Slow::limited(random.random_range(2_000..=100_000))),
        Kind::LinkDrip => {
            let chunk = random.random_range(1..=100);
            Mode::Slow(Slow::dripping(chunk, millis(random.random_range(1..=20))))
        }
        Kind::LinkCut => Mode::CutAfter(random.random_range(1..=30_000)),
        _ => Mode::Stall,
    };
    during(act, &ways, mode).await;
    Ok(())
}

/// Resets everything on some wires, again and again.
async fn reset(act: &mut Act) -> Result<()> {
    let ways = some_ways(act);
    act.asked(&[]);
    let before = counts(act.fleet(), &ways);
    let mut left = act.planned.lasts;
    while !left.is_zero() && !act.is_over() {
        for (from, to) in &ways {
            act.fleet().net().wire(from, to).reset();
        }
        let pause = Duration::from_millis(act.random.random_range(20..=500)).min(left);
        act.rest(pause).await;
        left -= pause;
    }
    let did = counts(act.fleet(), &ways) - before;
    act.acted(format!("{} connections were reset", did.reset), did.reset);
    Ok(())
}

/// Has the doors of some ways refuse; that they do is seen by knocking.
async fn refuse(act: &mut Act) -> Result<()> {
    let ways = some_ways(act);
    act.asked(&[]);
    let net = act.fleet().net();
    for (from, to) in &ways {
        net.refuse(from, to, true);
    }
    let doors: Vec<_> = ways
        .iter()
        .filter_map(|(from, to)| net.door(from, to))
        .collect();
    act.rest(act.planned.lasts).await;
    let mut refused = 0;
    for door in doors {
        let knocked = TcpStream::connect(door).await;
        let is_refused = |why: std::io::Error| why.kind() == ErrorKind::ConnectionRefused;
        refused += u64::from(knocked.is_err_and(is_refused));
    }
    for (from, to) in &ways {
        act.fleet().net().refuse(from, to, false);
    }
    act.acted(format!("{refused} doors refused"), refused);
    Ok(())
}

fn counts(fleet: &Fleet, ways: &BTreeSet<Way>) -> Counts {
    let all = ways
        .iter()
        .map(|(from, to)| fleet.net().wire(from, to).counts());
    all.fold(Counts::default(), Counts::plus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_does_what_the_harshest_says_until_that_is_over() {
        let (net, links) = (Net::new(1), Links::default());
        let way = ("a".to_owned(), "b".to_owned());
        let ways = BTreeSet::from([way]);
        let slow = Mode::Slow(Slow::limited(100));
        links.set(&net, 1, &ways, Mode::Hold);
        links.set(&net, 2, &ways, slow);
        assert_eq!(net.wire("a", "b").mode(), Mode::Hold);
        links.clear(&net, 1);
        assert_eq!(net.wire("a", "b").mode(), slow);
        links.clear(&net, 2);
        assert_eq!(net.wire("a", "b").mode(), Mode::Pass);
    }

    #[test]
    fn partitions_take_the_directions_that_their_names_say() {
        let pairs = |kind, count, deaf| lost(kind, count, deaf).0;
        let leader = pairs(Kind::PartitionLeader, 3, false);
        assert_eq!(leader, [(0, 1), (0, 2), (1, 0), (2, 0)]);
        let (few, hit) = lost(Kind::PartitionMinority, 5, false);
        assert_eq!((few.len(), hit), (12, 3..5));
        assert!(!few.contains(&(3, 4)) && few.contains(&(0, 3)));
        assert_eq!(pairs(Kind::PartitionBridge, 3, false), [(1, 2), (2, 1)]);
        assert_eq!(
            pairs(Kind::PartitionRing, 3, false),
            [(0, 2), (1, 0), (2, 1)]
        );
        assert_eq!(pairs(Kind::PartitionOneWay, 3, true), [(1, 0), (2, 0)]);
        assert_eq!(pairs(Kind::PartitionOneWay, 3, false), [(0, 1), (0, 2)]);
        assert_eq!(pairs(Kind::PartitionPeers, 4, false).len(), 12);
        // Of two nodes, too.
        assert_eq!(pairs(Kind::PartitionMinority, 2, false), []);
    }
}
