//! The state machine and the leader's decisions, together: what is planned is what is applied, on
//! every machine alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

mod applications;
mod applications_property;
mod decisions;
mod experiments;
mod experiments_property;
mod hostile;
mod hostile_property;
mod levels;
mod property;
mod restore;
mod scripts;
mod settings;
mod support;
mod vectors;
