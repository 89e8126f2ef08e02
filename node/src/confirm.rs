//! Proof of freshness (D4, I1, I5): one ReadIndex round at a time, shared by everybody who waits.
//!
//! A round asks the leader, which confirms with a quorum that it still leads, for the log index
//! that everything committed so far is at or below; then waits until this node has applied it. A
//! reader is served by a round that *began after* the reader came; the next round serves all who
//! came during this one. `fresh_at` is the start of the last successful round, on this node's own
//! monotonic clock: its state holds everything that was committed before that moment.

use std::sync::Arc;
use std::time::Duration;

use pennon_raft_store::machine::View;
use pennon_raft_store::raft::{Raft, Role};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::core::ReadError;
use crate::peer::PeerClient;

/// Longest a single round may take before it is given up and begun anew.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Pause after a failed round while somebody waits, so that an unreachable leader is not hammered.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The result of the newest successful round.
#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    /// Number of the round, from 1.
    round: u64,
    /// When it began, on the node's monotonic clock.
    began: Duration,
}

/// Handle to the task that runs the rounds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// The number of the newest round that has begun.
    begun: watch::Receiver<u64>,
    proofs: watch::Receiver<Proof>,
    wanted: Arc<watch::Sender<u64>>,
    raft_views: watch::Receiver<View>,
}

impl Confirm {
    /// Starts the rounds: one every `interval`, and at once when a reader waits.
    pub fn start(
        raft: Raft,
        peers: PeerClient,
        clock: Arc<dyn Clock>,
        interval: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (begun_tx, begun) = watch::channel(0);
        let (proofs_tx, proofs) = watch::channel(Proof::default());
        let (wanted, wanted_rx) = watch::channel(0);
        let raft_views = raft.views();
        let rounds = Rounds {
            raft,
            peers,
            clock,
            begun: begun_tx,
            proofs: proofs_tx,
            wanted: wanted_rx,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = rounds.run(interval) => {}
                () = stop.cancelled() => {}
            }
        });
        Self {
            begun,
            proofs,
            wanted: Arc::new(wanted),
            raft_views,
        }
    }

    /// The start of the last successful round; `None` before the first.
    pub fn fresh_at(&self) -> Option<Duration> {
        let proof = *self.proofs.borrow();
        (proof.round > 0).then_some(proof.began)
    }

    /// Waits for a round that begins after this call.
    ///
    /// # Errors
    /// `NoQuorum` when none succeeds within the time.
    pub async fn confirmed(&self, within: Duration) -> Result<View, ReadError> {
        // The round that is running may have asked the leader before this call: take the next. (I1)
        let next = *self.begun.borrow() + 1;
        self.wanted.send_if_modified(|wanted| {
            let more = *wanted < next;
            *wanted = (*wanted).max(next);
            more
        });
        let mut proofs = self.proofs.clone();
        let proved = proofs.wait_for(|proof| proof.round >= next);
        match tokio::time::timeout(within, proved).await {
            Ok(Ok(_)) => Ok(self.raft_views.borrow().clone()),
            _ => Err(ReadError::NoQuorum),
        }
    }

    /// Waits until this node has been proved fresh at least once since it started.
    pub async fn first_proof(&self) {
        let mut proofs = self.proofs.clone();
        // The sender lives as long as the node; without it nobody waits any more.
        let _ = proofs.wait_for(|proof| proof.round > 0).await;
    }
}

struct Rounds {
    raft: Raft,
    peers: PeerClient,
    clock: Arc<dyn Clock>,
    begun: watch::Sender<u64>,
    proofs: watch::Sender<Proof>,
    wanted: watch::Receiver<u64>,
}

impl Rounds {
    async fn run(mut self, interval: Duration) {
        let mut round = 0;
        loop {
            round += 1;
            self.begun.send_replace(round);
            let began = self.clock.monotonic();
            let started = Instant::now();
            let proved = tokio::time::timeout(ROUND_MAX, self.round())
                .await
                .unwrap_or(false);
            if proved {
                self.proofs.send_replace(Proof { round, began }); // I5
            }
            if !proved {
                // Only here: even a sleep of no time lasts until the timer's next millisecond.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            let due = started + interval;
            tokio::select! {
                waiting = self.wanted.wait_for(|wanted| *wanted > round) => {
                    if waiting.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// One round; true when this node now holds everything committed before it began.
    async fn round(&self) -> bool {
        let status = self.raft.status();
        let index = match status.role {
            Role::Leader => self.raft.read_index().await.map(|id| id.index).ok(),
            _ => match status.leader_member() {
                Some(leader) => self.peers.read_index(leader, ROUND_MAX).await.ok(),
                None => None,
            },
        };
        match index {
            Some(index) => self.raft.applied(index).await.is_ok(),
            None => false,
        }
    }
}
