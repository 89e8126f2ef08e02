//! The data directory of a whole node, opened as the node opens it (`directory`, then `Raft::start`), after
//! damage to any of its files and after a power cut at any moment.
//!
//! `world` runs real Rafts over disks in memory; `damage` sweeps over every file of a node; `power_cut`
//! cuts the power after each operation; `state` sweeps over the files of sled, which are rebuilt from the
//! rest. (`history_damage.rs` has what kill -9, a second process and a damaged open store do to those.)
//!
//! The short profile runs with the tests. `scripts/damage` runs the long one (`PENNON_DAMAGE=long`) and
//! prints what became of how many images.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "this whole crate is tests, and counts are what they are run for"
)]

mod damage;
mod power_cut;
mod state;
mod world;
