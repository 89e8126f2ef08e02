//! Whoever changes the members of a simulated cluster over its API, as a person would: takes a node out, and
//! gives a vote to the one that comes in its place.
//!
//! One node at a time: with two away, a majority of those left could be none of those that know what was
//! acknowledged. What was begun is ended, whatever happens meanwhile; what the answers say does not matter,
//! what a leader then shows as no longer changing does. Nothing comes between this machine and the nodes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::host::Host;
use super::network::Wires;
use super::universe::{Power, Universe};
use crate::failure::Result;
use crate::http1::{Call, Dial};

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It leaves the cluster.
    Leaves,
    /// It was wiped and gets a vote under its new id; this was its old one.
    Joins(Option<u64>),
}

/// The operator, who does one thing at a time.
pub(crate) struct Operator {
    host: Host,
    universe: Universe,
    addresses: Vec<String>,
    doing: Option<(usize, Step)>,
    done: Arc<Mutex<Option<Option<u64>>>>,
}

impl Operator {
    /// Somebody who reaches nodes at these addresses.
    pub(crate) fn new(universe: &Universe, addresses: Vec<String>, seed: u64) -> Operator {
        Operator {
            host: Host::new(universe, "operator", seed),
            universe: universe.clone(),
            addresses,
            doing: None,
            done: Arc::default(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.doing.is_none()
    }

    /// Begins a step with a node.
    pub(crate) fn begin(&mut self, at: usize, step: Step) -> Result<()> {
        self.universe.note(format_args!("n{at}: {step:?}"));
        self.doing = Some((at, step));
        let wires = Wires {
            universe: self.universe.clone(),
            machine: self.host.machine,
        };
        let work = Work {
            dial: Dial::by(Arc::new(wires)),
            addresses: self.addresses.clone(),
            name: format!("n{at}"),
        };
        let done = self.done.clone();
        self.host.start(|_| async move {
            let id = work.until_done(step).await;
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        })
    }

    /// A millisecond passes. Returns the step that has ended, with the id that the node had before it
    /// (leaving), or has now.
    pub(crate) fn tick(&mut self) -> Option<(usize, Step, Option<u64>)> {
        self.host.tick();
        let done = self
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let id = done?;
        self.host.end(Power::NoProcess);
        let (at, step) = self.doing.take()?;
        Some((at, step, id))
    }
}

struct Work {
    dial: Dial,
    addresses: Vec<String>,
    name: String,
}

impl Work {
    async fn until_done(&self, step: Step) -> Option<u64> {
        let mut id = None;
        loop {
            if let Some((address, cluster)) = self.leader().await {
                let is_over = cluster["changing"] == false;
                let me = member(&cluster, &self.name);
                match (step, me) {
                    (Step::Leaves, None) if is_over => return id,
                    (Step::Leaves, Some(me)) => {
                        id = me["id"].as_u64();
                        self.ask(&address, &Call::delete(self.path(""))).await;
                    }
                    (Step::Joins(old), Some(me)) if me["id"].as_u64() != old => {
                        if me["voter"] == true && me["changing"] == false {
                            return me["id"].as_u64();
                        }
                        let call = Call::post(self.path(":promote"), &Value::Null).text("");
                        self.ask(&address, &call).await;
                    }
                    (Step::Leaves, None) | (Step::Joins(_), _) => {}
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/cluster/members/{}{what}?timeout=2s", self.name)
    }

    /// Who leads by its own words, and its view of the cluster.
    async fn leader(&self) -> Option<(String, Value)> {
        for (at, address) in self.addresses.iter().enumerate() {
            let call = Call::get("/v1/cluster");
            let Ok(answer) = call.over(&self.dial, address, ANSWER_MAX).await else {
                continue;
            };
            let cluster = answer.json();
            let me = member(&cluster, &format!("n{at}"));
            if me.is_some_and(|me| me["role"] == "leader") {
                return Some((address.clone(), cluster));
            }
        }
        None
    }

    /// Asks for a change; what came of it is looked at.
    async fn ask(&self, address: &str, call: &Call) {
        let _ = call.over(&self.dial, address, ANSWER_MAX).await;
    }
}

fn member<'a>(cluster: &'a Value, name: &str) -> Option<&'a Value> {
    let mut members = cluster["members"].as_array()?.iter();
    members.find(|member| member["name"] == *name)
}
