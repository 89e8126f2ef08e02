//! The Writer (D2): on the leader, group commit of change sets, one entry in flight.
//!
//! Order: drain what waits; plan each change set against the applied state plus the batch so far;
//! propose one entry; wait until it is applied; then answer everybody. A batch without changes is
//! proved by a ReadIndex round instead. No answer leaves before the state it was decided against
//! is known to be committed (I1, I9). While disk space is short, what would change something is refused
//! before it is proposed, but for kill switches as long as the log has room; what was decided before, and
//! refusals, are still answered. A new leader's Writer begins only when an entry of its own term is applied.
//!
//! `submit` is the way in on every node: to the local Writer, or once to the leader's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pennon_raft_store::codec;
use pennon_raft_store::command::{Batch, Command, Item, Outcome};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT, View};
use pennon_raft_store::plan::{Ask, ChangeRequest, Draft, Planned};
use pennon_raft_store::raft::{ProposeError, Raft, Role};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::peer::{PeerClient, PeerError};
use crate::space::{Shortage, SpaceWatch};

/// Change sets waiting for the Writer at most; more are refused with `Busy`.
pub const QUEUE_LEN_MAX: usize = 4096;

/// Change sets in one batch at most.
const BATCH_LEN_MAX: usize = 1024;

/// JSON bytes in one batch at most, after its first change set.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The longest that a write waits for a leader without space to hand over.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// Pause before asking again who leads.
const LEADER_PAUSE: Duration = Duration::from_millis(25);

/// Why a write has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No leader with a quorum took it in time. Nothing happened.
    #[error("no leader with a quorum took the write in time; nothing was changed")]
    NoQuorum,
    /// Too many writes wait. Nothing happened.
    #[error("the leader has too many writes waiting; nothing was changed")]
    Busy,
    /// Too little disk space is left to take changes. Nothing happened.
    #[error("{0}; nothing was changed")]
    Full(Shortage),
    /// It was handed over and no answer came: it may have happened.
    #[error("the write was handed over and its outcome is not known; it may have happened")]
    Unknown,
}

/// What the local Writer answers.
#[derive(Clone, Debug)]
pub enum Written {
    /// Decided.
    Outcome(Outcome),
    /// This node does not lead, or no longer; nothing happened.
    NotLeader,
    /// The queue is full; nothing happened.
    Busy,
    /// There is no disk space for it; nothing happened.
    Full(Shortage),
    /// It may have happened.
    Unknown,
}

struct Waiting {
    request: Arc<ChangeRequest>,
    deadline: Instant,
    taken: Arc<AtomicU8>,
    answer: oneshot::Sender<Written>,
}

/// In the queue: whoever changes this first decides whether it is proposed or given up.
const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

fn claim(state: &AtomicU8, claim: u8) -> bool {
    state
        .compare_exchange(QUEUED, claim, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

/// Handle to the node's Writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: mpsc::Sender<Waiting>,
}

impl Writer {
    /// Starts the Writer; it idles while this node does not lead.
    pub fn start(
        raft: Raft,
        clock: Arc<dyn Clock>,
        space: Arc<SpaceWatch>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, incoming) = mpsc::channel(QUEUE_LEN_MAX);
        let task = Task {
            raft,
            space,
            clock,
            incoming,
            backlog: VecDeque::new(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Self { queue }
    }

    /// Hands a change set to the local Writer and waits for its answer.
    pub async fn write(&self, request: Arc<ChangeRequest>, deadline: Instant) -> Written {
        let (answer, answered) = oneshot::channel();
        let taken = Arc::new(AtomicU8::new(QUEUED));
        match self.queue.try_send(Waiting {
            request,
            deadline,
            taken: taken.clone(),
            answer,
        }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Written::Busy,
            Err(mpsc::error::TrySendError::Closed(_)) => return Written::NotLeader,
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) if claim(&taken, GIVEN_UP) => Written::NotLeader,
            // The Writer has it, or had it when it stopped: it may have been proposed.
            Ok(Err(_)) | Err(_) => Written::Unknown,
        }
    }
}

/// Writes through the leader, wherever it is, until the deadline.
///
/// # Errors
/// See [`WriteError`].
pub async fn submit(
    writer: &Writer,
    raft: &Raft,
    peers: &PeerClient,
    request: ChangeRequest,
    deadline: Instant,
) -> Result<Outcome, WriteError> {
    let request = Arc::new(request);
    let repeatable = request.origin.request.is_some();
    let mut handed_over = false;
    let moved = Instant::now() + HAND_OVER_MAX;
    while Instant::now() < deadline {
        let status = raft.status();
        let written = match status.leader_member() {
            _ if status.role == Role::Leader => writer.write(request.clone(), deadline).await,
            Some(leader) => {
                let replaced = replaced(raft, leader.id);
                let answered = tokio::select! {
                    answered = peers.write(leader, request.clone(), deadline) => answered,
                    // A leader that was replaced may never answer, and need not: the next one knows.
                    () = replaced, if repeatable => Err(PeerError::Unanswered("it was replaced".into())),
                };
                match answered {
                    Ok(written) => written,
                    Err(PeerError::NotSent(_) | PeerError::NoSuchCall) => Written::NotLeader,
                    Err(PeerError::Unanswered(_)) => Written::Unknown,
                }
            }
            None => Written::NotLeader,
        };
        match written {
            Written::Outcome(outcome) => return Ok(outcome),
            Written::Busy if !handed_over => return Err(WriteError::Busy),
            // Another node with space is about to lead.
            Written::Full(shortage) if shortage.passes && Instant::now() < moved => {}
            Written::Full(shortage) if !handed_over => return Err(WriteError::Full(shortage)),
            Written::NotLeader | Written::Busy | Written::Full(_) => {}
            // Only a request that is applied once whatever happens may be sent again (I9).
            Written::Unknown if repeatable => handed_over = true,
            Written::Unknown => return Err(WriteError::Unknown),
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
    Err(if handed_over {
        WriteError::Unknown
    } else {
        WriteError::NoQuorum
    })
}

/// Waits until somebody else leads than this node thought.
async fn replaced(raft: &Raft, leader: u64) {
    let mut statuses = raft.statuses();
    let other = statuses.wait_for(|status| status.leader.is_some_and(|now| now != leader));
    if other.await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Task {
    raft: Raft,
    space: Arc<SpaceWatch>,
    clock: Arc<dyn Clock>,
    incoming: mpsc::Receiver<Waiting>,
    /// What could not go into the last batch, in order.
    backlog: VecDeque<Waiting>,
}

impl Task {
    async fn run(mut self) {
        while self.fill().await {
            let Some(view) = self.leading().await else {
                self.turn_away();
                continue;
            };
            self.batch(view).await;
        }
    }

    /// Waits until there is something to write, then takes all that is there.
    async fn fill(&mut self) -> bool {
        if self.backlog.is_empty() {
            match self.incoming.recv().await {
                Some(first) => self.backlog.push_back(first),
                None => return false,
            }
        }
        self.drain();
        // Who was answered just now is often back at once, and an entry costs much more than a write in
        // it: with 256 writers this is a tenth. One that is alone does not wait.
        let mut before = 1;
        while self.backlog.len() > before && self.backlog.len() < BATCH_LEN_MAX {
            before = self.backlog.len();
            tokio::task::yield_now().await;
            self.drain();
        }
        true
    }

    fn drain(&mut self) {
        while self.backlog.len() < BATCH_LEN_MAX {
            match self.incoming.try_recv() {
                Ok(next) => self.backlog.push_back(next),
                Err(_) => break,
            }
        }
    }

    /// The state to decide against, once an entry of this leader's own term is applied; `None`
    /// when this node does not lead.
    async fn leading(&self) -> Option<View> {
        let mut statuses = self.raft.statuses();
        let mut views = self.raft.views();
        loop {
            let (leads, term, last) = {
                let status = statuses.borrow_and_update();
                (status.role == Role::Leader, status.term, status.last_log)
            };
            if !leads {
                return None;
            }
            let view = views.borrow_and_update().clone();
            // Nothing may be on its way either: it would raise the version under the batch.
            let settled = |id: LogId| id.term == term && last.is_none_or(|last| last <= id.index);
            if view.applied().is_some_and(settled) {
                return Some(view);
            }
            tokio::select! {
                changed = statuses.changed() => changed.ok()?,
                changed = views.changed() => changed.ok()?,
            }
        }
    }

    fn turn_away(&mut self) {
        for waiting in self.backlog.drain(..) {
            // The caller may have gone away.
            let _ = waiting.answer.send(Written::NotLeader);
        }
    }

    /// Whether it is a kill switch for which the log has room: that goes on while space is short.
    fn has_room_for(&self, view: &View, request: &ChangeRequest) -> bool {
        let switches = |ask: &Ask| matches!(ask, Ask::Enable(_));
        if !request.writes.iter().all(|write| switches(&write.ask)) {
            return false;
        }
        match Draft::on(view).plan(request) {
            Planned::Batched(item, _) => codec::encode(COMMAND_FORMAT, &item)
                .is_ok_and(|bytes| self.raft.has_room(bytes.len() as u64)),
            Planned::Answered(_) | Planned::Later => false,
        }
    }

    async fn batch(&mut self, view: View) {
        let shortage = self.space.shortage();
        let mut draft = Draft::on(&view);
        let mut items: Vec<Item> = Vec::new();
        let mut decided: Vec<(Waiting, Outcome)> = Vec::new();
        let mut bytes = 0;
        let mut later = VecDeque::new();
        while let Some(waiting) = self.backlog.pop_front() {
            let size = request_bytes(&waiting.request);
            if !items.is_empty() && bytes + size > BATCH_BYTES_MAX {
                later.push_back(waiting);
                break;
            }
            if !claim(&waiting.taken, TAKEN) {
                continue; // Given up by its caller.
            }
            if let Some(shortage) = &shortage
                && !self.has_room_for(&view, &waiting.request)
            {
                match Draft::on(&view).plan(&waiting.request) {
                    Planned::Answered(outcome) => decided.push((waiting, outcome)),
                    Planned::Batched(..) | Planned::Later => {
                        let _ = waiting.answer.send(Written::Full(shortage.clone()));
                    }
                }
                continue;
            }
            match draft.plan(&waiting.request) {
                Planned::Batched(item, outcome) => {
                    bytes += size;
                    items.push(item);
                    decided.push((waiting, outcome));
                }
                Planned::Answered(outcome) => decided.push((waiting, outcome)),
                Planned::Later => {
                    waiting.taken.store(QUEUED, Ordering::Release);
                    later.push_back(waiting);
                }
            }
        }
        // What has to wait keeps its place before what came after it.
        later.append(&mut self.backlog);
        self.backlog = later;
        if items.is_empty() {
            self.prove(&view, decided).await;
        } else {
            let time_ms = view.time_ms().max(self.clock.unix_ms());
            self.commit(
                Batch {
                    base: draft.base(),
                    time_ms,
                    items,
                },
                decided,
            )
            .await;
        }
    }

    /// Answers decisions that change nothing, once this node is proved to lead still, and nothing
    /// to be committed beyond what they were decided against (I1): leadership may have been lost
    /// and won again in between.
    async fn prove(&mut self, view: &View, decided: Vec<(Waiting, Outcome)>) {
        let Some(deadline) = latest(&decided) else {
            return;
        };
        match tokio::time::timeout_at(deadline, self.raft.read_index()).await {
            Ok(Ok(newest)) if view.applied().is_some_and(|id| newest.index <= id.index) => {
                for (waiting, outcome) in decided {
                    let _ = waiting.answer.send(Written::Outcome(outcome));
                }
            }
            Ok(Ok(_)) => self.again(decided),
            Ok(Err(_)) | Err(_) => answer_all(decided, &Written::NotLeader),
        }
    }

    async fn commit(&mut self, batch: Batch, decided: Vec<(Waiting, Outcome)>) {
        let Some(deadline) = latest(&decided) else {
            return;
        };
        let Ok(command) = codec::encode(COMMAND_FORMAT, &Command::Batch(batch)) else {
            // Bounded requests make bounded batches; nothing was proposed.
            return answer_all(decided, &Written::Busy);
        };
        let proposed = tokio::time::timeout_at(deadline, self.raft.propose(command)).await;
        match proposed {
            Ok(Ok(done)) => match done.answer {
                Answer::Outcomes(_) => {
                    for (waiting, outcome) in decided {
                        let _ = waiting.answer.send(Written::Outcome(outcome));
                    }
                }
                Answer::TryAgain => self.again(decided),
                Answer::Unreadable(why) => {
                    tracing::error!(%why, "our own batch could not be read back; it was refused by every node");
                    answer_all(decided, &Written::Busy);
                }
                Answer::Blank | Answer::Level(_) => answer_all(decided, &Written::Unknown),
            },
            Ok(Err(ProposeError::NotLeader { .. })) => answer_all(decided, &Written::NotLeader),
            Ok(Err(ProposeError::Unknown | ProposeError::Stopped(_))) | Err(_) => {
                answer_all(decided, &Written::Unknown);
            }
        }
    }

    /// The machine moved on between the decision and the entry: decide again, in the same order,
    /// as long as the callers wait.
    fn again(&mut self, decided: Vec<(Waiting, Outcome)>) {
        for (waiting, _) in decided.into_iter().rev() {
            waiting.taken.store(QUEUED, Ordering::Release);
            self.backlog.push_front(waiting);
        }
    }
}

fn answer_all(decided: Vec<(Waiting, Outcome)>, written: &Written) {
    for (waiting, _) in decided {
        let _ = waiting.answer.send(written.clone());
    }
}

fn latest(decided: &[(Waiting, Outcome)]) -> Option<Instant> {
    decided.iter().map(|(waiting, _)| waiting.deadline).max()
}

fn request_bytes(request: &ChangeRequest) -> usize {
    let value = |ask: &Ask| match ask {
        Ask::Put(text) => text.len(),
        Ask::Delete | Ask::Enable(_) => 0,
    };
    request
        .writes
        .iter()
        .map(|write| value(&write.ask) + 256)
        .sum()
}
