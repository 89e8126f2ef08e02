//! What clients do to a cluster while things happen to it, written down as a history.

pub mod backups;
pub mod evaluations;
pub mod hostile;
pub mod pairs;
pub mod registers;
pub mod streams;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::failure::{Failure, Result};
use crate::history::Recorder;
use crate::http1::Dial;

/// Where clients work.
#[derive(Clone, Debug)]
pub struct Site {
    /// What they write down.
    pub recorder: Recorder,
    /// The environment they work in.
    pub environment: Arc<str>,
    /// For each client, where it reaches each node, in the order of nodes.
    pub ways: Arc<Vec<Vec<String>>>,
    /// How connections are opened.
    pub dial: Dial,
    /// Seeds what they do.
    pub seed: u64,
    /// For caches and other files.
    pub directory: PathBuf,
    /// Set when they are to stop.
    pub stop: Arc<AtomicBool>,
    /// What no history shows and must not be, in words.
    pub complaints: Arc<Mutex<Vec<String>>>,
}

impl Site {
    /// Whether clients are to stop.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What a client draws from.
    pub fn random(&self, client: u32) -> StdRng {
        let seed = self
            .seed
            .wrapping_mul(1_000)
            .wrapping_add(u64::from(client));
        StdRng::seed_from_u64(seed)
    }

    /// Where a client reaches a node, counted around.
    pub fn way(&self, client: u32, node: usize) -> (u32, String) {
        let ways = &self.ways[client as usize];
        let at = node % ways.len();
        (u32::try_from(at).unwrap_or(u32::MAX), ways[at].clone())
    }

    /// Notes what must not be.
    pub fn complain(&self, what: String) {
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaints.push(what);
    }

    /// Waits, in parts, so that nobody waits long for the end.
    pub async fn rest(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while !self.is_over() && tokio::time::Instant::now() < end {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
    }
}

/// Waits for clients that were told to stop.
///
/// # Errors
/// When one of them panicked or could not do its part.
pub async fn ended(mut clients: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended.map_err(Failure::new)??;
    }
    Ok(())
}
