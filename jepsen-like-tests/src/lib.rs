//! Real processes and simulated ones, faults, and the checkers that judge what happened.
//!
//! ```text
//!  workloads ──► HTTP ──► three `pennon serve` processes ◄── signals ── cluster
//!      │                                                                (kill, pause, restart)
//!      └──► history ──► checkers ──► Verdict: valid | invalid | unknown ──► report
//! ```
//!
//! What must hold: the binary under test is the one people run, never linked in; unknown never
//! passes for valid; whatever was started is stopped, also when a test panics, and what a failed
//! run wrote is kept and its place printed.
//!
//! Left out for now: exposures, because no node takes any yet.

pub mod bench;
pub mod binary;
pub mod chaos;
pub mod checkers;
pub mod cluster;
pub mod disk_probe;
mod failure;
pub mod history;
pub mod http1;
pub mod mounts;
pub mod nemesis;
pub mod places;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod report;
pub mod shim;
pub mod simulation;
pub mod streams;
pub mod tool;
pub mod workloads;

pub use failure::{Failure, Result, until};

/// Writes a line for whoever runs the tests, to standard error and past any capture of output.
pub fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    // Nobody reads it: nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}
