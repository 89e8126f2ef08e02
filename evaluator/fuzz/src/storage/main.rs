//! Fuzzes the decoders of `pennon-raft-store`: what is in its log entries, snapshot records and
//! history, its files, and what peers send.
//!
//! Left out, because they have no public entry: the answers of peers, and the bodies that nodes
//! exchange beside consensus.

#![no_main]

#[macro_use]
#[path = "../main_loop.rs"]
mod main_loop;
#[path = "../targets/mod.rs"]
mod targets;

mod commands;
mod files;
mod log;
mod peers;

use targets::{Form, Target};

const TARGETS: &[Target] = &[
    Target {
        name: "entry",
        form: Form::Bytes(1),
        run: commands::entry,
        seeds: commands::entries,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "record",
        form: Form::Bytes(0),
        run: commands::record,
        seeds: commands::records,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "change",
        form: Form::Bytes(1),
        run: commands::change,
        seeds: commands::changes,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "snapshot_file",
        form: Form::Bytes(2),
        run: files::snapshot_file,
        seeds: files::snapshot_files,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "identity",
        form: Form::Bytes(1),
        run: files::identity,
        seeds: files::identities,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "log",
        form: Form::Bytes(2),
        run: log::log,
        seeds: log::logs,
        answers: &[],
        cases: 0,
    },
    Target {
        name: "peer",
        form: Form::Bytes(2),
        run: peers::peer,
        seeds: peers::messages,
        answers: &[],
        cases: 0,
    },
];

fuzz!(TARGETS);
