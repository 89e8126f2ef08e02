//! Everything that a seed decides, decided at once: sizes, times, which faults there are and when.
//!
//! Not every seed has every kind of fault, or bugs that one kind hides from another are never seen
//! (swarm testing). A plan of faults is a list that does not depend on what happens, so a run can be
//! repeated without some of them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use pennon_raft_store::raft::RaftOptions;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::control::Control;

/// A kind of fault, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process is killed; what it wrote stays.
    Kill,
    /// A machine loses power, now or in the middle of a write.
    Power,
    /// A node is told to stop.
    Stop,
    /// A process is stopped and goes on (SIGSTOP).
    Freeze,
    /// A machine is suspended: its timers stand still, the clock of ages does not.
    Suspend,
    /// Links between nodes are cut, in some shape.
    Partition,
    /// Links between clients and nodes are cut.
    Clients,
    /// Applications stand still: stopped or suspended.
    Applications,
    /// Connections are reset.
    Reset,
    /// Links are slow or lose packets.
    Quality,
    /// The time of day jumps.
    Day,
    /// A clock runs too fast or too slow.
    Rate,
    /// A disk is full.
    Full,
    /// A write or a sync fails.
    Disk,
    /// A node leaves the cluster, loses everything, and comes back as a new member.
    Members,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 15] = [
        Kind::Kill,
        Kind::Power,
        Kind::Stop,
        Kind::Freeze,
        Kind::Suspend,
        Kind::Partition,
        Kind::Clients,
        Kind::Applications,
        Kind::Reset,
        Kind::Quality,
        Kind::Day,
        Kind::Rate,
        Kind::Full,
        Kind::Disk,
        Kind::Members,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Power => "power",
            Kind::Stop => "stop",
            Kind::Freeze => "freeze",
            Kind::Suspend => "suspend",
            Kind::Partition => "partition",
            Kind::Clients => "clients",
            Kind::Applications => "applications",
            Kind::Reset => "reset",
            Kind::Quality => "quality",
            Kind::Day => "day",
            Kind::Rate => "rate",
            Kind::Full => "full",
            Kind::Disk => "disk",
            Kind::Members => "members",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Whom a fault hits. Who leads is looked up when it begins.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Leader,
    /// Any node, by this number modulo their count.
    Node(usize),
    /// So many nodes, the leader first if the flag says so.
    Some {
        count: usize,
        from: usize,
        leader_first: bool,
    },
    All,
}

/// How links between nodes are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// The targets from the rest, both ways.
    Apart,
    /// What the targets send to the rest.
    Sending,
    /// What the rest sends to the targets.
    Hearing,
    /// Two halves that only the first target still reaches.
    Bridge,
    /// Each node reaches its two neighbours only.
    Ring,
}

/// A fault.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Kill,
    /// Before so many disk operations from then, 0 for at once.
    Power {
        operations: u64,
    },
    Stop,
    Freeze,
    Suspend,
    Partition(Shape),
    Clients,
    Applications {
        suspended: bool,
    },
    Reset,
    Quality {
        delay_ms: (u64, u64),
        lost_permille: u32,
    },
    Day {
        jump_ms: i64,
    },
    Rate {
        ppm: u64,
    },
    Full {
        left: u64,
    },
    Disk {
        sync: bool,
        nth: u64,
    },
    /// One at a time; others that it hits are passed over.
    Replace {
        /// It still runs when it is taken out.
        alive: bool,
    },
}

impl Fault {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Fault::Kill => Kind::Kill,
            Fault::Power { .. } => Kind::Power,
            Fault::Stop => Kind::Stop,
            Fault::Freeze => Kind::Freeze,
            Fault::Suspend => Kind::Suspend,
            Fault::Partition(_) => Kind::Partition,
            Fault::Clients => Kind::Clients,
            Fault::Applications { .. } => Kind::Applications,
            Fault::Reset => Kind::Reset,
            Fault::Quality { .. } => Kind::Quality,
            Fault::Day { .. } => Kind::Day,
            Fault::Rate { .. } => Kind::Rate,
            Fault::Full { .. } => Kind::Full,
            Fault::Disk { .. } => Kind::Disk,
            Fault::Replace { .. } => Kind::Members,
        }
    }
}

/// A fault, when and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) number: usize,
    pub(crate) at_ms: u64,
    pub(crate) for_ms: u64,
    pub(crate) target: Target,
    pub(crate) fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fault {} at {} ms for {} ms: {:?} of {:?}",
            self.number, self.at_ms, self.for_ms, self.fault, self.target
        )
    }
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds with faults.
    pub seconds: u64,
    /// Nodes.
    pub nodes: usize,
    /// Times and sizes of consensus.
    pub raft: RaftOptions,
    /// Bytes of a file of the log.
    pub segment_bytes: u64,
    /// Bytes below which a disk is nearly full.
    pub min_free: u64,
    /// Milliseconds that a sync of the log takes, at least and at most.
    pub sync_ms: (u64, u64),
    /// The usual delay of a packet in milliseconds.
    pub delay_ms: (u64, u64),
    /// Clients that read and write registers.
    pub clients: u32,
    /// Registers that are never deleted.
    pub lasting: usize,
    /// Registers that are.
    pub passing: usize,
    /// Between two operations of a client.
    pub pause: Duration,
    /// Whether all clients begin at one node.
    pub crowded: bool,
    /// Applications with the client library.
    pub evaluators: usize,
    /// The staleness bound of their environment in milliseconds.
    pub bound_ms: u64,
    /// Whether clocks that are off are far off: then nothing follows from ages.
    pub wild: bool,
    /// Which faults there are.
    pub kinds: BTreeSet<Kind>,
    /// Milliseconds between two faults, at least and at most.
    pub gap_ms: (u64, u64),
    /// Milliseconds that a fault lasts, at least and at most.
    pub lasts_ms: (u64, u64),
    /// Faults written down, instead of those that the seed plans; in order of time.
    pub(crate) written: Option<Vec<Planned>>,
    /// What is broken on purpose; no seed decides that.
    pub(crate) control: Option<Control>,
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        let faults = match &self.written {
            Some(written) => format!("{} faults written down", written.len()),
            None => format!(
                "a fault every {:?} ms for {:?} ms: {}",
                self.gap_ms,
                self.lasts_ms,
                kinds.join(" ")
            ),
        };
        let raft = &self.raft;
        write!(
            f,
            "seed {}, {} s, {} nodes, heartbeat {:?}, elections {:?} to {:?}, a snapshot every {} keeping {}, segments of {} KiB, \
             syncs {:?} ms, delay {:?} ms, {} clients on {}+{} registers every {:?}{}, {} applications with a bound of {} ms, {}",
            self.seed,
            self.seconds,
            self.nodes,
            raft.heartbeat,
            raft.election_min,
            raft.election_max,
            raft.snapshot_every,
            raft.keep_behind_snapshot,
            self.segment_bytes >> 10,
            self.sync_ms,
            self.delay_ms,
            self.clients,
            self.lasting,
            self.passing,
            self.pause,
            if self.crowded { " at one node" } else { "" },
            self.evaluators,
            self.bound_ms,
            faults
        )
    }
}

fn ms(random: &mut StdRng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T], otherwise: T) -> T {
    from.choose(random).copied().unwrap_or(otherwise)
}

impl Parameters {
    /// Derives everything from a seed; `kinds` are those that may be chosen.
    pub fn new(seed: u64, seconds: u64, kinds: &BTreeSet<Kind>) -> Parameters {
        let random = &mut StdRng::seed_from_u64(seed ^ 0x7377_6172_6d00_0000);
        let nodes = pick(random, &[3, 3, 3, 5, 5], 3);
        let heartbeat = ms(random, 50..200);
        let election_min = heartbeat * 2 + ms(random, 50..300);
        let raft = RaftOptions {
            heartbeat,
            election_min,
            election_max: election_min + ms(random, 100..500),
            snapshot_every: pick(random, &[10, 50, 200, 1000, 20_000], 50),
            keep_behind_snapshot: pick(random, &[0, 1, 10, 100], 10),
        };
        let chosen: BTreeSet<Kind> = Kind::ALL
            .into_iter()
            .filter(|_| random.random_range(0..5) < 2)
            .filter(|kind| kinds.contains(kind))
            .collect();
        let least = pick(random, &[1, 1, 2, 20], 1);
        let gap = pick(random, &[300, 1_000, 3_000, 8_000], 1_000);
        let lasts = pick(random, &[500, 2_000, 6_000, 15_000], 2_000);
        Parameters {
            seed,
            seconds,
            nodes,
            raft,
            segment_bytes: pick(random, &[16 << 10, 64 << 10, 1 << 20], 64 << 10),
            min_free: 256 << 10,
            delay_ms: (least, least + pick(random, &[1, 5, 30], 1)),
            clients: random.random_range(2..12),
            lasting: random.random_range(1..6),
            passing: random.random_range(1..4),
            pause: ms(random, 10..150),
            crowded: random.random_range(0..4) == 0,
            evaluators: random.random_range(1..4),
            bound_ms: pick(random, &[2_000, 5_000, 10_000], 5_000),
            wild: random.random_range(0..2) == 0,
            kinds: match chosen.is_empty() {
                true => kinds.clone(),
                false => chosen,
            },
            gap_ms: (gap / 3, gap * 2),
            lasts_ms: (lasts / 10, lasts),
            sync_ms: pick(random, &[(0, 0), (0, 0), (1, 3), (1, 20), (0, 60)], (0, 0)),
            written: None,
            control: None,
        }
    }

    /// The same of a system that breaks a promise, or keeps all of them.
    #[must_use]
    pub fn with_control(self, control: Option<Control>) -> Parameters {
        Parameters { control, ..self }
    }

    /// How old an answer called FRESH can be by true time, in milliseconds: the bound, a step of the
    /// world or two, and what clocks are off.
    pub(crate) fn bound_at_most_ms(&self) -> u64 {
        self.bound_ms + 20 + self.clocks_off_ms()
    }

    /// By how much the difference of two readings of a clock can be wrong. A clock that goes at twice or
    /// half its rate says nothing about ages, in a node as in an application.
    pub(crate) fn clocks_off_ms(&self) -> u64 {
        // Everything, healing and the last reads included.
        let all_ms = (self.seconds + 60) * 1000;
        match self.kinds.contains(&Kind::Rate) {
            false => 0,
            true if self.wild => all_ms,
            true => all_ms / 50,
        }
    }

    /// Whether evaluators must outlive what a receipt says of them. In a short run they may not, and where
    /// clocks go at any rate a time that a node names says nothing.
    pub(crate) fn settles(&self) -> bool {
        let is_wild = self.wild && self.kinds.contains(&Kind::Rate);
        !is_wild && self.seconds * 1000 > 4 * self.bound_ms
    }

    /// The faults, in order of time.
    pub(crate) fn plan(&self) -> Vec<Planned> {
        if let Some(written) = &self.written {
            return written.clone();
        }
        let random = &mut StdRng::seed_from_u64(self.seed ^ 0x706c_616e_0000_0000);
        let kinds: Vec<Kind> = self.kinds.iter().copied().collect();
        let mut plan = Vec::new();
        // The cluster forms first.
        let mut at_ms = 5_000;
        while let Some(kind) = kinds.choose(random).copied() {
            at_ms += random.random_range(self.gap_ms.0..=self.gap_ms.1);
            if at_ms >= self.seconds * 1000 {
                break;
            }
            let for_ms = random.random_range(self.lasts_ms.0..=self.lasts_ms.1);
            let (target, fault) = (self.target(random), self.fault(random, kind));
            plan.push(Planned {
                number: plan.len(),
                at_ms,
                for_ms,
                target,
                fault,
            });
        }
        plan
    }

    fn target(&self, random: &mut StdRng) -> Target {
        let minority = (self.nodes - 1) / 2;
        let some = |count, random: &mut StdRng| Target::Some {
            count,
            from: random.random_range(0..self.nodes),
            leader_first: random.random_range(0..2) == 0,
        };
        match random.random_range(0..10) {
            0..=2 => Target::Leader,
            3..=5 => Target::Node(random.random_range(0..self.nodes)),
            6 | 7 => some(minority, random),
            8 => some(minority + 1, random),
            _ => Target::All,
        }
    }

    fn fault(&self, random: &mut StdRng, kind: Kind) -> Fault {
        match kind {
            Kind::Kill => Fault::Kill,
            Kind::Power => Fault::Power {
                operations: pick(random, &[0, 1, 2, 3, 5, 8, 13, 30], 1),
            },
            Kind::Stop => Fault::Stop,
            Kind::Freeze => Fault::Freeze,
            Kind::Suspend => Fault::Suspend,
            Kind::Partition => Fault::Partition(pick(
                random,
                &[
                    Shape::Apart,
                    Shape::Apart,
                    Shape::Sending,
                    Shape::Hearing,
                    Shape::Bridge,
                    Shape::Ring,
                ],
                Shape::Apart,
            )),
            Kind::Clients => Fault::Clients,
            Kind::Applications => Fault::Applications {
                suspended: random.random_range(0..2) == 0,
            },
            Kind::Reset => Fault::Reset,
            Kind::Quality => {
                let least = pick(random, &[1, 10, 100], 1);
                Fault::Quality {
                    delay_ms: (least, least * pick(random, &[1, 3, 10], 1)),
                    lost_permille: pick(random, &[0, 5, 50, 200], 5),
                }
            }
            Kind::Day => Fault::Day {
                jump_ms: random.random_range(-40 * 86_400_000..40 * 86_400_000),
            },
            Kind::Rate => Fault::Rate {
                ppm: match self.wild {
                    true => pick(random, &[500_000, 900_000, 1_100_000, 2_000_000], 900_000),
                    false => pick(random, &[990_000, 999_900, 1_000_100, 1_010_000], 990_000),
                },
            },
            Kind::Full => Fault::Full {
                left: pick(random, &[0, 10 << 10, 100 << 10, 200 << 10], 0),
            },
            Kind::Disk => Fault::Disk {
                sync: random.random_range(0..2) == 0,
                nth: random.random_range(1..20),
            },
            Kind::Members => Fault::Replace {
                alive: random.random_range(0..2) == 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_seeds_differ() {
        let all = Kind::ALL.into_iter().collect();
        let shown = |seed| {
            let parameters = Parameters::new(seed, 100, &all);
            let plan: Vec<String> = parameters.plan().iter().map(Planned::to_string).collect();
            format!("{parameters}\n{}", plan.join("\n"))
        };
        assert_eq!(shown(1), shown(1));
        assert_ne!(shown(1), shown(2));
        let kinds: BTreeSet<Kind> = (0..100)
            .flat_map(|seed| Parameters::new(seed, 100, &all).kinds)
            .collect();
        assert_eq!(kinds, all, "each kind comes up");
        assert_eq!(Kind::named("power"), Some(Kind::Power));
        assert_eq!(Kind::named("coffee"), None);
    }
}
