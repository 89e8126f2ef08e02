//! What can be done to a cluster: each kind has a name, a family, and how long it lasts.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::snapshots;
use crate::failure::{Failure, Result};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $name:literal, $family:ident, $least:literal..=$most:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// Its name, as in histories and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// What it belongs to.
            pub fn family(self) -> Family {
                match self { $(Kind::$kind => Family::$family,)* }
            }

            /// How long it lasts at least and at most, in milliseconds.
            fn range(self) -> (u64, u64) {
                match self { $(Kind::$kind => ($least, $most),)* }
            }
        }
    };
}

kinds! {
    /// One node is killed and comes back.
    KillOne: "kill-one", Kill, 100..=6_000;
    /// The leader is killed.
    KillLeader: "kill-leader", Kill, 100..=6_000;
    /// As many as the cluster can do without are killed together.
    KillMinority: "kill-minority", Kill, 100..=6_000;
    /// One more than that.
    KillMajority: "kill-majority", Kill, 100..=3_000;
    /// All are killed together.
    KillAll: "kill-all", Kill, 50..=1_000;
    /// One is asked to stop.
    StopOne: "stop-one", Kill, 100..=4_000;
    /// One is stopped where it is.
    PauseOne: "pause-one", Pause, 100..=30_000;
    /// The leader is.
    PauseLeader: "pause-leader", Pause, 100..=30_000;
    /// A majority is.
    PauseMajority: "pause-majority", Pause, 100..=4_000;
    /// The leader reaches no other node; clients reach it.
    PartitionLeader: "partition-leader", Partition, 500..=10_000;
    /// The leader keeps a majority; the others are cut off.
    PartitionMinority: "partition-minority", Partition, 500..=10_000;
    /// Two halves that only one node reaches both of.
    PartitionBridge: "partition-bridge", Partition, 500..=8_000;
    /// Each node hears only the one before it.
    PartitionRing: "partition-ring", Partition, 500..=4_000;
    /// One node is not heard, or hears nothing.
    PartitionOneWay: "partition-one-way", Partition, 500..=8_000;
    /// No client reaches a node; its peers do.
    PartitionClients: "partition-clients", Partition, 500..=8_000;
    /// No node reaches any other; clients reach all.
    PartitionPeers: "partition-peers", Partition, 500..=3_000;
    /// Some directions take long.
    LinkSlow: "link-slow", Link, 1_000..=8_000;
    /// Some directions are narrow.
    LinkNarrow: "link-narrow", Link, 1_000..=6_000;
    /// Some directions give a few bytes at a time.
    LinkDrip: "link-drip", Link, 1_000..=4_000;
    /// Connections break in the middle of a message.
    LinkCut: "link-cut", Link, 1_000..=6_000;
    /// All connections break, again and again.
    LinkReset: "link-reset", Link, 500..=4_000;
    /// Some addresses refuse.
    LinkRefuse: "link-refuse", Link, 500..=4_000;
    /// Some readers stop reading.
    LinkStall: "link-stall", Link, 500..=6_000;
    /// A node is away until the others have purged what it lacks.
    Lag: "lag", Snapshot, 2_000..=12_000;
    /// A file of a node that does not run is damaged.
    Damage: "damage", Damage, 500..=2_000;
    /// The disk of a node is full.
    DiskFull: "disk-full", Disk, 1_000..=8_000;
    /// A new node joins, gets a vote, and leaves again.
    AddRemove: "add-remove", Members, 2_000..=8_000;
    /// A node loses its directory and comes back as a new member.
    Replace: "replace", Members, 500..=2_000;
    /// Another node is to lead.
    Transfer: "transfer", Leader, 10..=100;
    /// Other threads want all cores.
    Cpu: "cpu", Resources, 1_000..=6_000;
    /// A node may open no more files.
    Files: "files", Resources, 500..=5_000;
    /// A node kills itself at a write of its choice.
    KillAtWrite: "kill-at-write", Step, 50..=2_000;
    /// At a sync.
    KillAtSync: "kill-at-sync", Step, 50..=2_000;
    /// When a file is made, renamed or removed.
    KillAtName: "kill-at-name", Step, 50..=2_000;
    /// A node loses power: what it had not synced is gone.
    PowerOne: "power-one", Power, 50..=2_000;
    /// All do.
    PowerAll: "power-all", Power, 50..=1_000;
    /// A node's syncs fail.
    SyncError: "sync-error", Errors, 500..=3_000;
    /// Its writes do.
    WriteError: "write-error", Errors, 500..=3_000;
    /// Its disk can be read only.
    ReadOnly: "read-only", Errors, 500..=3_000;
    /// The time of day jumps on some nodes.
    ClockJump: "clock-jump", Clock, 1_000..=8_000;
    /// It runs at another rate, stands, or runs backwards.
    ClockRate: "clock-rate", Clock, 1_000..=8_000;
}

/// Kinds that are chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// N1.
    Kill,
    /// N2.
    Pause,
    /// N3.
    Partition,
    /// N4.
    Link,
    /// N5.
    Snapshot,
    /// N8.
    Damage,
    /// N9.
    Disk,
    /// N11.
    Members,
    /// N12, as far as it is about the leader.
    Leader,
    /// N12, as far as it is about cores and files.
    Resources,
    /// N6.
    Step,
    /// N7.
    Power,
    /// N9, but for a full disk.
    Errors,
    /// N10.
    Clock,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 14] = [
        Family::Kill,
        Family::Pause,
        Family::Partition,
        Family::Link,
        Family::Snapshot,
        Family::Damage,
        Family::Disk,
        Family::Members,
        Family::Leader,
        Family::Resources,
        Family::Step,
        Family::Power,
        Family::Errors,
        Family::Clock,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Family::Kill => "kill",
            Family::Pause => "pause",
            Family::Partition => "partition",
            Family::Link => "link",
            Family::Snapshot => "snapshot",
            Family::Damage => "damage",
            Family::Disk => "disk",
            Family::Members => "members",
            Family::Leader => "leader",
            Family::Resources => "resources",
            Family::Step => "step",
            Family::Power => "power",
            Family::Errors => "errors",
            Family::Clock => "clock",
        }
    }
}

impl Kind {
    /// Whether it takes what stands between a node and the system ([`crate::shim`]).
    pub fn needs_library(self) -> bool {
        matches!(
            self.family(),
            Family::Step | Family::Power | Family::Errors | Family::Clock
        )
    }

    /// How long one that lasts so long takes at most, from its beginning until it is seen that it acted: the
    /// end of the run would cut it short. (What is seen at once, or goes on beyond the end, needs no more than
    /// it lasts.)
    pub(super) fn needs_max(self, lasts: Duration) -> Duration {
        match self.family() {
            Family::Snapshot => snapshots::NEEDS_MAX,
            _ => lasts,
        }
    }

    /// Draws how long one lasts; shorter in short runs.
    pub fn lasts(self, run: Duration, random: &mut StdRng) -> Duration {
        let (least, most) = self.range();
        let run = u64::try_from(run.as_millis()).unwrap_or(u64::MAX);
        let most = most.min(run / 5).max(least);
        // Short ones as often as long ones, on a scale of factors.
        let share = random.random_range(0.0..=1.0);
        let factor = (most as f64 / least as f64).powf(share);
        Duration::from_millis((least as f64 * factor) as u64)
    }
}

/// Reads names of kinds and families, and `all`.
///
/// # Errors
/// When there is no such name; with those there are.
pub fn parse(names: &str) -> Result<Vec<Kind>> {
    let mut found = Vec::new();
    for name in names.split(',').map(str::trim) {
        let fits =
            |kind: &Kind| name == "all" || kind.name() == name || kind.family().name() == name;
        let these: Vec<Kind> = Kind::ALL.iter().copied().filter(fits).collect();
        if these.is_empty() {
            let families: Vec<&str> = Family::ALL.map(Family::name).into();
            let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            return Err(Failure::new(format!(
                "there is no nemesis {name:?}; there are all, {}; and {}",
                families.join(", "),
                kinds.join(", ")
            )));
        }
        found.extend(these);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn names_and_families_are_read() {
        assert_eq!(parse("all").unwrap(), Kind::ALL);
        assert_eq!(
            parse("transfer,leader, kill-all").unwrap(),
            [Kind::KillAll, Kind::Transfer]
        );
        assert!(parse("kil").unwrap_err().to_string().contains("kill-one"));
    }

    #[test]
    fn how_long_it_lasts_is_within_bounds() {
        let mut random = StdRng::seed_from_u64(1);
        for run in [10, 60, 600] {
            for kind in Kind::ALL {
                let (least, most) = kind.range();
                let lasts = kind
                    .lasts(Duration::from_secs(run), &mut random)
                    .as_millis();
                assert!((u128::from(least)..=u128::from(most)).contains(&lasts));
            }
        }
    }
}
