//! The replicated half of Pennon: what is written, how it is decided, and where it is kept.
//!
//! ```text
//!  ChangeRequest ──plan──► Item ──Batch──► Raft log ──► Machine::apply ──► View (ground state,
//!   (what people ask)      (decided and     (log/,       (pure, total,      compiled states,
//!                           compiled)        vote)        same everywhere)   digest, one version)
//! ```
//!
//! - [`command`]: the shapes that go into the log. [`plan`]: the leader's decision about a change
//!   set. [`machine`]: the pure state machine. [`codec`]: format tag, length, crc, body.
//! - [`level`]: what a release may ask of a cluster that is being upgraded.
//! - [`backup`]: the whole state as one file, and clusters made anew.
//! - [`log`], [`vote`], [`identity`], [`snapshot_file`], [`history`], [`disk`]: what is on disk.
//! - [`changes`]: the history, read back.
//! - [`directory`]: what the parts of a data directory must be to each other.
//! - [`raft`]: the one facade over openraft. No openraft type is visible outside this crate.

mod adapter;
pub mod backup;
pub mod changes;
pub mod codec;
pub mod command;
pub mod dice;
pub mod directory;
pub mod disk;
pub mod history;
pub mod identity;
pub mod level;
pub mod log;
pub mod machine;
pub mod plan;
pub mod raft;
mod rpc;
pub mod snapshot_file;
mod state_machine;
mod types;
pub mod vote;
pub mod window;
