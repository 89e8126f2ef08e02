//! A case for each control: sizes, times and faults written down, in which breaking the promise shows
//! within seconds. Nothing in a case is drawn, so it stays what it is when seeds come to mean something
//! else.
//!
//! What must hold: a case without its control is valid (`tests/controls.rs`), so it is the control that
//! is seen; each does more than once what the control breaks, so that no single moment matters.

use std::collections::BTreeSet;
use std::time::Duration;

use pennon_raft_store::raft::RaftOptions;

use super::control::Control;
use super::swarm::{Fault, Parameters, Planned, Shape, Target};

/// The number that decides what a case does not.
const SEED: u64 = 1;

impl Control {
    /// The case that shows this control; nothing is broken in it yet.
    pub fn case(self) -> Parameters {
        match self {
            Control::Fsync => all_lose_power(),
            Control::RequestWindow => answers_are_lost(),
            Control::LocalReads | Control::NewerOnly => one_lags_and_all_roam(),
            Control::FreshOnReceipt => one_is_cut_off(),
        }
    }
}

/// Three nodes close to each other, a few clients, and nothing that goes wrong.
fn calm() -> Parameters {
    Parameters {
        seed: SEED,
        seconds: 8,
        nodes: 3,
        raft: RaftOptions {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            snapshot_every: 20_000,
            keep_behind_snapshot: 20_000,
        },
        segment_bytes: 1 << 20,
        min_free: 256 << 10,
        sync_ms: (0, 0),
        delay_ms: (1, 2),
        clients: 4,
        lasting: 2,
        passing: 1,
        pause: Duration::from_millis(40),
        crowded: false,
        evaluators: 1,
        bound_ms: 5_000,
        wild: false,
        kinds: BTreeSet::new(),
        gap_ms: (0, 0),
        lasts_ms: (0, 0),
        written: Some(Vec::new()),
        control: None,
    }
}

/// Numbers the faults of a case.
fn written(faults: impl IntoIterator<Item = (u64, u64, Target, Fault)>) -> Option<Vec<Planned>> {
    let numbered = faults.into_iter().enumerate();
    let planned = numbered.map(|(number, (at_ms, for_ms, target, fault))| Planned {
        number,
        at_ms,
        for_ms,
        target,
        fault,
    });
    Some(planned.collect())
}

/// All nodes lose power in the same moment, in the middle of nothing. What was acknowledged is on no
/// disk but theirs.
fn all_lose_power() -> Parameters {
    let power = || Fault::Power { operations: 0 };
    Parameters {
        seconds: 5,
        written: written([(3_000, 500, Target::All, power())]),
        ..calm()
    }
}

/// Connections break all the time, so that clients send again what was done.
fn answers_are_lost() -> Parameters {
    let resets = (2_000..6_000).step_by(150);
    Parameters {
        seconds: 6,
        delay_ms: (5, 20),
        clients: 6,
        written: written(resets.map(|at_ms| (at_ms, 1, Target::All, Fault::Reset))),
        ..calm()
    }
}

/// One node hears nothing from the others while clients and applications go from node to node.
fn one_lags_and_all_roam() -> Parameters {
    let cut = Fault::Partition(Shape::Apart);
    let roams = (3_000..6_000).step_by(250);
    let roams = roams.map(|at_ms| (at_ms, 1, Target::All, Fault::Reset));
    Parameters {
        seconds: 6,
        clients: 6,
        evaluators: 3,
        bound_ms: 10_000,
        written: written(
            [(2_500, 3_500, Target::Node(0), cut)]
                .into_iter()
                .chain(roams),
        ),
        ..calm()
    }
}

/// Each node in turn is cut off from the others for longer than the bound, and goes on talking to its
/// applications.
fn one_is_cut_off() -> Parameters {
    let cut = |node: u64| {
        let at_ms = 2_000 + node * 3_000;
        let apart = Fault::Partition(Shape::Apart);
        (at_ms, 2_500, Target::Node(node as usize), apart)
    };
    Parameters {
        seconds: 11,
        evaluators: 3,
        bound_ms: 1_000,
        written: written((0..3).map(cut)),
        ..calm()
    }
}
