//! What the integration tests share: known environments, and nodes made by hand.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod net;
pub mod states;
