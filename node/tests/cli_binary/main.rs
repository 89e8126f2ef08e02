//! The real binary, as a person uses it: real processes, directories and ports of their own.
//!
//! `backups` saves, restores and recovers, `commands` talks to one node with every client command, `explain` with that one, `history` with those
//! about the past, `outputs` looks
//! at what is printed, `nodes` starts and stops nodes and clusters.
//! Everything waits for conditions with a deadline, and every process is killed by its own id when
//! its test ends, however that ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

mod backups;
mod commands;
mod explain;
mod history;
mod members;
mod nodes;
mod outputs;
mod support;
