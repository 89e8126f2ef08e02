//! Fuzzes the decoders of `pennon-evaluator`; see `targets/mod.rs`.

#![no_main]

#[macro_use]
mod main_loop;
mod targets;

fuzz!(targets::TARGETS);
