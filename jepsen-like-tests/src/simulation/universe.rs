//! What all simulated machines share: the time, the wires, who is there, and the trace of everything.
//!
//! True time is counted in milliseconds and moves only in [`Universe::tick`]. What machines believe
//! about time is their own business (`host.rs`).
//!
//! What must hold: a waker is called only when the lock is free, because waking may drop what was
//! waiting, and that may hold a connection.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::network::Net;
use super::trace::Trace;

/// A machine, by its place in the list.
pub(crate) type Machine = usize;

/// Whether somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// The process runs, or is frozen.
    Running,
    /// The machine answers, and nobody listens: connections are refused.
    NoProcess,
    /// Nothing comes back at all.
    Off,
}

/// One machine as the network sees it.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) name: String,
    pub(crate) power: Power,
    /// Counted up with each start.
    pub(crate) life: u32,
    /// Nothing that it sends leaves it any more: it is about to lose power.
    pub(crate) mute: bool,
}

pub(crate) struct State {
    pub(crate) now_ms: u64,
    pub(crate) trace: Trace,
    pub(crate) net: Net,
    pub(crate) machines: Vec<Presence>,
    /// Machines that lose power at the end of this step.
    pub(crate) doomed: Vec<Machine>,
    /// How often what happened.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl State {
    pub(crate) fn count(&mut self, what: &str, by: u64) {
        *self.counts.entry(what.to_owned()).or_default() += by;
    }

    pub(crate) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.now_ms, line);
    }
}

/// The handle. Clones share everything.
#[derive(Clone)]
pub(crate) struct Universe(Arc<Mutex<State>>);

impl std::fmt::Debug for Universe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Universe")
    }
}

impl Universe {
    pub(crate) fn new(seed: u64, trace: Trace) -> Universe {
        Universe(Arc::new(Mutex::new(State {
            now_ms: 0,
            trace,
            net: Net::new(seed),
            machines: Vec::new(),
            doomed: Vec::new(),
            counts: BTreeMap::new(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a machine that is switched off.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        let mut state = self.lock();
        state.machines.push(Presence {
            name: name.to_owned(),
            power: Power::Off,
            life: 0,
            mute: false,
        });
        state.machines.len() - 1
    }

    /// True time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.lock().now_ms)
    }

    pub(crate) fn note(&self, line: std::fmt::Arguments<'_>) {
        self.lock().note(line);
    }

    pub(crate) fn count(&self, what: &str, by: u64) {
        self.lock().count(what, by);
    }

    /// A millisecond passes; what is due arrives.
    pub(crate) fn tick(&self) {
        let wakers = {
            let mut state = self.lock();
            state.now_ms += 1;
            super::log::NOW_MS.store(state.now_ms, Ordering::Relaxed);
            super::network::deliver(&mut state)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The machine loses power at the end of this step, and nothing leaves it until then.
    pub(crate) fn doom(&self, machine: Machine) {
        let mut state = self.lock();
        state.machines[machine].mute = true;
        state.doomed.push(machine);
    }
}
