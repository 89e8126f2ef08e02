//! The HTTP surface of CONTRACT: one route table (`routes`), one file per resource, one place
//! that chooses a status for an error (`problem`).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::core::Core;

mod answer;
mod applications;
mod audit;
mod backup;
mod bare;
mod call;
mod changes;
mod cluster;
mod dispatch;
mod environments;
mod evaluate;
mod flags;
mod health;
mod history;
mod json;
mod objects;
mod openapi;
mod parse;
mod policies;
mod problem;
mod read;
mod receipts;
mod route;
mod routes;
mod schemas;
mod segments;
pub mod serve;
mod settings;
mod snapshots;
mod states;
mod stream;
mod write;

/// What the HTTP layer serves from. It exists before the node belongs to a cluster, and says what
/// is waited for until then.
pub struct App {
    name: String,
    core: OnceLock<Arc<Core>>,
    waiting: Mutex<String>,
    draining: CancellationToken,
}

impl App {
    /// A node of this name that does not serve yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            core: OnceLock::new(),
            waiting: Mutex::new("this node is starting".into()),
            draining: CancellationToken::new(),
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The services, once the node belongs to a cluster.
    pub fn core(&self) -> Option<Arc<Core>> {
        self.core.get().cloned()
    }

    /// What the node waits for before it serves; one sentence.
    pub fn waits_for(&self) -> String {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Cancelled when the node drains.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Turns readiness red and tells open streams to say goodbye.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    pub(crate) fn set_core(&self, core: Arc<Core>) {
        // Set once: the server starts Raft once.
        let _ = self.core.set(core);
    }

    /// Notes what is waited for; true when it is something new.
    pub(crate) fn waiting_for(&self, what: String) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *waiting != what;
        *waiting = what;
        new
    }
}
