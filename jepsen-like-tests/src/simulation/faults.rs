//! Faults begin and end. Each says whether it took effect, which is counted.

use std::collections::BTreeSet;
use std::task::Waker;

use pennon_raft_store::disk::{Fault as DiskFault, FaultAt};

use super::clients::Clients;
use super::cluster::Cluster;
use super::host::{RIGHT_RATE_PPM, Still};
use super::swarm::{Fault, Planned, Shape, Target};
use super::universe::{Machine, Power};

const EIO: i32 = 5;

/// A fault that is going on.
struct Going {
    end_ms: u64,
    planned: Planned,
    hit: Vec<usize>,
    links: Vec<(Machine, Machine)>,
}

/// The faults of a run.
pub(crate) struct Faults {
    /// Those to come, the next one last.
    plan: Vec<Planned>,
    going: Vec<Going>,
    /// Machines of clients.
    clients: Vec<Machine>,
}

impl Faults {
    pub(crate) fn new(mut plan: Vec<Planned>, clients: Vec<Machine>) -> Faults {
        plan.reverse();
        Faults {
            plan,
            going: Vec::new(),
            clients,
        }
    }

    /// Begins and ends what is due.
    pub(crate) fn tick(&mut self, cluster: &mut Cluster, clients: &mut Clients, now_ms: u64) {
        while let Some(at) = self.going.iter().position(|going| going.end_ms <= now_ms) {
            let going = self.going.remove(at);
            self.finish(cluster, clients, now_ms, going);
        }
        while let Some(planned) = self.plan.pop_if(|planned| planned.at_ms <= now_ms) {
            self.begin(cluster, clients, now_ms, planned);
        }
    }

    /// Ends everything.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster, clients: &mut Clients, now_ms: u64) {
        self.plan.clear();
        for going in std::mem::take(&mut self.going) {
            self.finish(cluster, clients, now_ms, going);
        }
        for member in &mut cluster.members {
            member.host.rate_ppm = RIGHT_RATE_PPM;
            member.heal_disk();
        }
    }

    fn begin(
        &mut self,
        cluster: &mut Cluster,
        clients: &mut Clients,
        now_ms: u64,
        planned: Planned,
    ) {
        let hit = hit(cluster, &planned.target);
        let links = links(cluster, &planned.fault, &hit, &self.clients);
        cluster
            .universe
            .note(format_args!("{planned} hits {hit:?}"));
        let mut acted = 0;
        for at in &hit {
            acted += u64::from(begin_at(cluster, now_ms, &planned.fault, *at));
        }
        if let Fault::Applications { suspended } = planned.fault {
            acted = clients.stand_still(suspended);
        }
        acted += begin_links(cluster, &planned.fault, &links);
        let kind = planned.fault.kind().as_str();
        cluster.universe.count(&format!("fault {kind}"), acted);
        self.going.push(Going {
            end_ms: now_ms + planned.for_ms,
            planned,
            hit,
            links,
        });
    }

    fn finish(&mut self, cluster: &mut Cluster, clients: &mut Clients, now_ms: u64, going: Going) {
        if let Fault::Applications { .. } = going.planned.fault {
            clients.go_on();
        }
        let number = going.planned.number;
        cluster.universe.note(format_args!("fault {number} ends"));
        for at in &going.hit {
            end_at(cluster, now_ms, &going.planned.fault, *at);
        }
        let mut state = cluster.universe.lock();
        let usual = state.net.usual.clone();
        for (from, to) in going.links {
            match going.planned.fault {
                Fault::Partition(_) | Fault::Clients => {
                    let link = state.net.link_mut(from, to);
                    link.cuts = link.cuts.saturating_sub(1);
                    if link.cuts == 0 {
                        state.net.resend(now_ms, from, to);
                    }
                }
                Fault::Quality { .. } => {
                    let link = state.net.link_mut(from, to);
                    (link.delay_ms, link.lost_permille) = (usual.delay_ms, usual.lost_permille);
                }
                _ => {}
            }
        }
    }
}

/// The nodes that a target means now.
fn hit(cluster: &Cluster, target: &Target) -> Vec<usize> {
    let nodes = cluster.members.len();
    match target {
        Target::Leader => cluster.leader().into_iter().collect(),
        Target::Node(at) => vec![at % nodes],
        Target::Some {
            count,
            from,
            leader_first,
        } => {
            let first = cluster.leader().filter(|_| *leader_first).unwrap_or(*from);
            (0..*count).map(|more| (first + more) % nodes).collect()
        }
        Target::All => (0..nodes).collect(),
    }
}

fn links(
    cluster: &Cluster,
    fault: &Fault,
    hit: &[usize],
    clients: &[Machine],
) -> Vec<(Machine, Machine)> {
    let nodes = cluster.members.len();
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    match fault {
        Fault::Partition(shape) => pairs
            .filter(|(from, to)| cuts(*shape, nodes, hit, *from, *to))
            .collect(),
        Fault::Clients | Fault::Reset => {
            let with = |client: &Machine, node: &usize| [(*client, *node), (*node, *client)];
            let all = clients
                .iter()
                .flat_map(|client| hit.iter().flat_map(move |node| with(client, node)));
            let all: Vec<_> = all.collect();
            match fault {
                // Between nodes as well.
                Fault::Reset => all
                    .into_iter()
                    .chain(pairs.filter(|(from, _)| hit.contains(from)))
                    .collect(),
                _ => all,
            }
        }
        Fault::Quality { .. } => {
            let hits = |machine: &Machine| hit.contains(machine);
            let clients = clients.iter().flat_map(|client| {
                hit.iter()
                    .flat_map(move |node| [(*client, *node), (*node, *client)])
            });
            let between = pairs.filter(|(from, to)| hits(from) || hits(to));
            let both: BTreeSet<_> = between.chain(clients).collect();
            both.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a shape cuts one direction between two nodes.
fn cuts(shape: Shape, nodes: usize, hit: &[usize], from: usize, to: usize) -> bool {
    let (of, there) = (hit.contains(&from), hit.contains(&to));
    let first = hit.first().copied().unwrap_or(0);
    match shape {
        Shape::Apart => of != there,
        Shape::Sending => of && !there,
        Shape::Hearing => !of && there,
        Shape::Bridge => {
            let half = |node: usize| (node + nodes - first) % nodes > nodes / 2;
            from != first && to != first && half(from) != half(to)
        }
        Shape::Ring => {
            let apart = (from + nodes - to) % nodes;
            // Of three, everybody is everybody's neighbour: one pair is cut then.
            match nodes {
                3 => from != first && to != first,
                _ => apart != 1 && apart != nodes - 1,
            }
        }
    }
}

fn begin_links(cluster: &Cluster, fault: &Fault, links: &[(Machine, Machine)]) -> u64 {
    let mut wakers = Vec::new();
    let mut state = cluster.universe.lock();
    let mut acted = 0;
    for (from, to) in links.iter().copied() {
        match fault {
            Fault::Partition(_) | Fault::Clients => {
                state.net.link_mut(from, to).cuts += 1;
                acted += 1;
            }
            Fault::Quality {
                delay_ms,
                lost_permille,
            } => {
                let link = state.net.link_mut(from, to);
                (link.delay_ms, link.lost_permille) = (*delay_ms, *lost_permille);
                acted += 1;
            }
            Fault::Reset => acted += state.reset(from, to, &mut wakers),
            _ => {}
        }
    }
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
    // A fault of links is one, however many links it has.
    acted.min(1)
}

/// Begins a fault at one node; false when there was nothing to hit.
fn begin_at(cluster: &mut Cluster, now_ms: u64, fault: &Fault, at: usize) -> bool {
    let up = cluster.members[at].host.is_up();
    let still = cluster.members[at].host.is_still();
    match fault {
        Fault::Kill => {
            cluster.members[at].held += 1;
            cluster.end(at, Power::NoProcess, now_ms);
            up
        }
        Fault::Power { operations } => {
            cluster.members[at].held += 1;
            match (&cluster.members[at].disk, *operations) {
                // Counted when the power goes.
                (Some(disk), 1..) if !still => disk.cut_power_in(*operations),
                _ => {
                    cluster.end(at, Power::Off, now_ms);
                    return true;
                }
            }
            false
        }
        Fault::Stop => {
            cluster.members[at].held += 1;
            cluster.tell_to_stop(at) && !still
        }
        Fault::Freeze => stand_still(cluster, at, Still::Stopped),
        Fault::Suspend => stand_still(cluster, at, Still::Suspended),
        Fault::Day { jump_ms } => {
            let beliefs = &cluster.members[at].host.beliefs;
            let ordering = std::sync::atomic::Ordering::Relaxed;
            beliefs.day_off_ms.store(*jump_ms, ordering);
            up
        }
        Fault::Rate { ppm } => {
            cluster.members[at].host.rate_ppm = *ppm;
            up
        }
        Fault::Full { left } => {
            let member = &mut cluster.members[at];
            member.excused = true;
            if let Some(disk) = &member.disk {
                let used = disk.memory().used_bytes();
                disk.memory().set_capacity(Some(used + left));
            }
            up
        }
        Fault::Disk { sync, nth } => {
            let member = &mut cluster.members[at];
            member.excused = true;
            if let Some(disk) = &member.disk {
                disk.memory().fail(DiskFault {
                    at: if *sync { FaultAt::Sync } else { FaultAt::Write },
                    nth: *nth,
                    errno: EIO,
                    sticky: false,
                });
            }
            up
        }
        Fault::Partition(_)
        | Fault::Clients
        | Fault::Applications { .. }
        | Fault::Reset
        | Fault::Quality { .. } => false,
        // Counted when it is a member again.
        Fault::Replace { alive } => {
            cluster.replace(at, *alive, now_ms);
            false
        }
    }
}

fn stand_still(cluster: &mut Cluster, at: usize, still: Still) -> bool {
    let host = &mut cluster.members[at].host;
    let acts = host.is_up() && !host.is_still();
    host.stand_still(still);
    acts
}

fn end_at(cluster: &mut Cluster, now_ms: u64, fault: &Fault, at: usize) {
    match fault {
        Fault::Kill | Fault::Power { .. } | Fault::Stop => {
            if let Some(disk) = &cluster.members[at].disk {
                disk.keep_power();
            }
            cluster.let_go(at, now_ms);
        }
        Fault::Freeze | Fault::Suspend => cluster.members[at].host.go_on(),
        Fault::Day { .. } => {
            let beliefs = &cluster.members[at].host.beliefs;
            let ordering = std::sync::atomic::Ordering::Relaxed;
            beliefs.day_off_ms.store(0, ordering);
        }
        Fault::Rate { .. } => cluster.members[at].host.rate_ppm = RIGHT_RATE_PPM,
        Fault::Full { .. } | Fault::Disk { .. } => cluster.members[at].heal_disk(),
        Fault::Partition(_)
        | Fault::Clients
        | Fault::Applications { .. }
        | Fault::Reset
        // Goes on until it is done.
        | Fault::Replace { .. }
        | Fault::Quality { .. } => {}
    }
}
