//! The log on disk, judged from outside: through its public API and through what a disk may do to it.
//!
//! `model` compares it with a plain vector; `damage` flips, cuts, zeroes and swaps bytes; `crash` cuts
//! the power after every operation and makes operations fail; `kill` kills a real writing process; `space` lets the disk run full;
//! `behaviour` holds what is left: order, threads, bounds, callbacks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this whole crate is tests"
)]

mod behaviour;
mod common;
mod crash;
mod damage;
mod kill;
mod model;
mod space;
