//! Fuzzes what `pennon-client` reads: answers to requests, and streams.
//!
//! Everything goes through the public client and a connector that hands out bytes, so HTTP is read
//! by hyper, within the client's bounds, as it is in an application.

#![no_main]

#[macro_use]
#[path = "../main_loop.rs"]
mod main_loop;
#[path = "../targets/mod.rs"]
mod targets;

mod answers;
mod network;
mod streams;

use targets::{Form, Target};

const TARGETS: &[Target] = &[
    Target {
        name: "answer",
        form: Form::Bytes(1),
        run: answers::answer,
        seeds: answers::seeds,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "stream",
        form: Form::Bytes(2),
        run: streams::stream,
        seeds: streams::seeds,
        answers: &[],
        cases: 0,
    },
];

fuzz!(TARGETS);
