//! One node of a Pennon cluster: consensus, the Writer, streams, the HTTP surface.
//!
//! ```text
//!  http/ ──► Core ──► Writer (leader) ──► Raft ──► View ──► Hub ──► streams
//!    │         └────► Confirm (ReadIndex) ──────────┘
//!  peer  ◄──────────── other nodes: Raft messages, forwarded writes, read-index, formation
//! ```
//!
//! Every source of IO, time and randomness is handed in (`net`, `clock`, `Surroundings`), so that
//! the whole node runs in a simulation.

#[doc(hidden)]
pub mod broken;
pub mod cli;
pub mod clock;
pub mod confirm;
pub mod core;
pub mod delivery;
pub mod formation;
pub mod http;
pub mod hub;
pub mod membership;
pub mod net;
pub mod overview;
pub mod peer;
pub mod server;
pub mod settings;
pub mod space;
mod succession;
mod upgrade;
mod verify;
pub mod writer;
