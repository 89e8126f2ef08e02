//! L1: whole nodes and real clients in one thread, where one number decides everything.
//!
//! ```text
//!  swarm (seed) ──► parameters, plan of faults
//!                          │
//!  universe: true time, wires, trace ◄──── faults begin and end
//!     │  a millisecond at a time
//!     ├─► n0..n4: a runtime each, with clocks and a disk of its own ── the node as it is in production
//!     └─► c0..c2: clients of the workloads ── the same code that runs over sockets; e0..e2: applications
//! ```
//!
//! What must hold: **the same seed gives the same trace**, in every process and on every machine;
//! so one thread, paused clocks, seeded generators (tokio's, openraft's, the node's, the client's),
//! no map whose order is chance. A verdict rests on the checkers of this crate and on what the
//! cluster is seen to be.
//!
//! A simulator of our own instead of `turmoil` 0.7.2: that steps every machine by the same
//! millisecond (`Sim::step`), so it can neither stop nor suspend one nor give it a clock of another
//! rate; and a packet that falls into a cut link is gone and the connection stays open in silence
//! (its issue 185), so that what arrives late after healing is never seen. The idea, a paused runtime
//! for each machine, is the same.
//!
//! Left out: threads (the log's and the history's), which have tests of their own; other releases.

mod cases;
mod clients;
mod cluster;
mod control;
mod disk;
mod faults;
mod host;
mod log;
mod network;
mod operator;
mod run;
mod swarm;
mod trace;
mod universe;

pub use control::Control;
pub use log::log_to;
pub use run::{Judgement, Options, Report, planned, run};
pub use swarm::{Kind, Parameters};
