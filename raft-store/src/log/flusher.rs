//! Rounds: take whatever is queued, make it durable, answer in order.
//!
//! While one batch is being synced, the next calls queue up; so the batches grow with the load and no
//! timer is needed for that. The thread waits with a timeout only for the idle seal.
//!
//! What must hold:
//! - answers are given in the order of the calls, outside every lock, each exactly once;
//! - votes of a round are stored before its batches, so the log never holds a term above the vote;
//! - after the first error, or a panic in an answer, every waiting and later call gets an error: the
//!   answers are held by a guard that gives them on drop.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use tokio::runtime::Handle;

use super::files::Files;
use super::index::Index;
use super::writer::Writer;
use super::{Done, LogEntry, LogId, LogOptions, Vote};

/// What a call asks of the disk.
pub(crate) enum Work {
    Append {
        entries: Vec<LogEntry>,
        ticket: u64,
    },
    Truncate(Option<LogId>),
    Purge(LogId),
    Vote(Vote),
    Seal,
    /// Nothing, in its turn.
    Nothing,
}

pub(crate) struct Call {
    pub(crate) work: Work,
    pub(crate) done: Done,
}

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) options: LogOptions,
    pub(crate) files: Arc<Files>,
    core: Mutex<Core>,
    /// Something was queued, or the log is closing.
    queued: Condvar,
    /// A round is over.
    rounds: Condvar,
}

pub(crate) struct Core {
    pub(crate) index: Index,
    pub(crate) committed: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    queue: VecDeque<Call>,
    /// Payload bytes queued or in the round being made.
    waiting_bytes: usize,
    poison: Option<(io::ErrorKind, String)>,
    closing: bool,
    flushing: bool,
    flusher: Option<ThreadId>,
    /// The thread sleeps until it is woken, and looks at nothing by itself before.
    pub(crate) asleep: bool,
    /// A task makes the next round, on a disk that takes its time.
    due: bool,
}

impl Core {
    /// Returns the error that every call gets now, if any.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        match &self.poison {
            Some((kind, why)) => Some(io::Error::new(*kind, format!("the log has stopped: {why}"))),
            None if self.closing => Some(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the log is closed",
            )),
            None => None,
        }
    }

    pub(crate) fn poisoned(&self) -> Option<String> {
        self.poison.as_ref().map(|(_, why)| why.clone())
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(crate) fn queue(&mut self, work: Work, done: Done) {
        self.waiting_bytes += work.bytes();
        self.queue.push_back(Call { work, done });
    }
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Work::Append { entries, .. } => entries.iter().map(|entry| entry.payload.len()).sum(),
            _ => 0,
        }
    }
}

impl Shared {
    pub(crate) fn new(
        options: LogOptions,
        files: Arc<Files>,
        index: Index,
        committed: Option<LogId>,
        vote: Option<Vote>,
    ) -> Shared {
        let core = Core {
            index,
            committed,
            vote,
            queue: VecDeque::new(),
            waiting_bytes: 0,
            poison: None,
            closing: false,
            flushing: false,
            flusher: None,
            asleep: false,
            due: false,
        };
        Shared {
            options,
            files,
            core: Mutex::new(core),
            queued: Condvar::new(),
            rounds: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks when there is room in the queue: at its bound, waits for the round in progress. Not on the
    /// log's own thread, which would wait for itself.
    pub(crate) fn lock_with_room(&self) -> MutexGuard<'_, Core> {
        let mut core = self.lock();
        let own = Some(std::thread::current().id());
        while core.waiting_bytes > self.options.queue_bytes_max
            && core.refusal().is_none()
            && core.flusher != own
        {
            core = self
                .rounds
                .wait(core)
                .unwrap_or_else(PoisonError::into_inner);
        }
        core
    }

    /// Wakes the log's thread.
    pub(crate) fn wake(&self) {
        self.queued.notify_one();
    }

    pub(crate) fn begin_close(&self) {
        self.lock().closing = true;
        self.queued.notify_one();
        self.rounds.notify_all();
    }

    /// Ends the log: the first reason stays. Calls made from now on are refused by `refusal`.
    fn poison(&self, kind: io::ErrorKind, why: &str) {
        let mut core = self.lock();
        if core.poison.is_none() {
            tracing::error!(why, "the log has stopped");
            core.poison = Some((kind, why.to_owned()));
        }
        drop(core);
        self.rounds.notify_all();
    }

    /// Answers whatever is still queued with an error.
    fn refuse_queued(&self) {
        let queue = std::mem::take(&mut self.lock().queue);
        drop(Answers {
            shared: self,
            waiting: queue.into_iter().map(|call| call.done).collect(),
        });
    }

    /// Makes rounds until nothing is queued. Called by whoever queued something, without a thread; a call
    /// made by an answer is left to the loop that gave the answer.
    pub(crate) fn drive(&self, writer: &Mutex<Option<Writer>>) {
        while self.turn(writer) {}
    }

    /// Makes one round, and says whether there was something to do and nobody who does it.
    fn turn(&self, writer: &Mutex<Option<Writer>>) -> bool {
        let mut core = self.lock();
        if core.flushing || core.queue.is_empty() {
            return false;
        }
        core.flushing = true;
        core.flusher = Some(std::thread::current().id());
        drop(core);
        // Nobody else has `flushing`, so nobody waits for this lock.
        if let Some(writer) = &mut *writer.lock().unwrap_or_else(PoisonError::into_inner) {
            self.round(writer);
        }
        let mut core = self.lock();
        core.flushing = false;
        core.flusher = None;
        true
    }

    /// The same where the disk says how long that takes: a task makes each round so much later. What is
    /// queued meanwhile forms the next one; a queue at its bound waits for nothing, nor does anything
    /// outside of a runtime.
    pub(crate) fn drive_later(self: &Arc<Self>, writer: &Arc<Mutex<Option<Writer>>>) {
        let mut core = self.lock();
        let full = core.waiting_bytes > self.options.queue_bytes_max;
        if core.due && !full {
            return;
        }
        let time = self.files.sync_time();
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| !full && !time.is_zero()) else {
            drop(core);
            return self.drive(writer);
        };
        core.due = true;
        let (shared, writer) = (self.clone(), writer.clone());
        runtime.spawn(async move {
            let mut time = time;
            loop {
                tokio::time::sleep(time).await;
                shared.turn(&writer);
                let mut core = shared.lock();
                if core.queue.is_empty() {
                    core.due = false;
                    return;
                }
                time = shared.files.sync_time();
            }
        });
    }

    /// The thread: rounds until the log is closed or poisoned.
    pub(crate) fn run(&self, mut writer: Writer) {
        let _guard = StopGuard { shared: self };
        self.lock().flusher = Some(std::thread::current().id());
        let mut last_write = Instant::now();
        loop {
            let mut core = self.lock();
            if core.poison.is_some() {
                return;
            }
            if !core.queue.is_empty() {
                drop(core);
                self.round(&mut writer);
                last_write = Instant::now();
                continue;
            }
            let seal = !writer.sealed() || !writer.has_committed(core.committed);
            if core.closing || (seal && last_write.elapsed() >= self.options.idle_seal) {
                if core.closing && !seal {
                    return;
                }
                core.queue(Work::Seal, Box::new(|_| {}));
                continue;
            }
            core.asleep = !seal;
            let mut core = if seal {
                let wait = self.options.idle_seal.saturating_sub(last_write.elapsed());
                self.queued
                    .wait_timeout(core, wait)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            } else {
                self.queued
                    .wait(core)
                    .unwrap_or_else(PoisonError::into_inner)
            };
            core.asleep = false;
        }
    }

    /// Makes everything queued durable and answers it.
    fn round(&self, writer: &mut Writer) {
        let mut core = self.lock();
        let queue = std::mem::take(&mut core.queue);
        let bytes = core.waiting_bytes;
        let committed = core.committed;
        drop(core);
        let mut works = Vec::with_capacity(queue.len());
        let mut answers = Answers {
            shared: self,
            waiting: VecDeque::with_capacity(queue.len()),
        };
        for Call { work, done } in queue {
            works.push(work);
            answers.waiting.push_back(done);
        }
        let mut round = Round {
            shared: self,
            writer,
            committed,
            answers,
            finished: 0,
        };
        if let Err(error) = round.make(works) {
            self.poison(error.kind(), &error.to_string());
        }
        drop(round);
        let mut core = self.lock();
        core.waiting_bytes = core.waiting_bytes.saturating_sub(bytes);
        let poisoned = core.poison.is_some();
        drop(core);
        self.rounds.notify_all();
        if poisoned {
            self.refuse_queued();
        }
    }
}

struct Round<'a> {
    shared: &'a Shared,
    writer: &'a mut Writer,
    committed: Option<LogId>,
    answers: Answers<'a>,
    /// Calls whose records are in the batch being built (or need none), not answered yet.
    finished: usize,
}

impl Round<'_> {
    fn make(&mut self, works: Vec<Work>) -> io::Result<()> {
        let vote = works.iter().rev().find_map(|work| match work {
            Work::Vote(vote) => Some(*vote),
            _ => None,
        });
        if let Some(vote) = vote {
            self.writer.save_vote(vote)?;
        }
        for work in works {
            self.add(work)?;
            self.finished += 1;
            if self.writer.body_len() >= self.shared.options.batch_bytes_max {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn add(&mut self, work: Work) -> io::Result<()> {
        match work {
            Work::Append { entries, ticket } => {
                for (entry, ticket) in entries.iter().zip(ticket..) {
                    let len = self.writer.body_len_with(entry.payload.len());
                    if self.writer.body_len() > 0 && len > self.shared.options.batch_bytes_max {
                        self.flush()?;
                    }
                    self.writer.entry(ticket, entry.id, &entry.payload);
                }
            }
            Work::Truncate(kept) => self.writer.truncate(kept),
            Work::Purge(upto) => {
                self.writer.purge(upto, self.committed);
                self.flush()?;
                self.writer.drop_purged()?;
            }
            Work::Seal => {
                self.flush()?;
                if !self.writer.sealed() || !self.writer.has_committed(self.committed) {
                    self.writer.seal(self.committed)?;
                }
            }
            Work::Vote(_) | Work::Nothing => {}
        }
        Ok(())
    }

    fn add_committed(&mut self) {
        if !self.writer.has_committed(self.committed) {
            self.writer.record_committed(self.committed);
        }
    }

    /// Writes the batch built so far, if any, and answers the calls that it completes.
    fn flush(&mut self) -> io::Result<()> {
        if self.writer.body_len() > 0 {
            self.add_committed();
            let placed = self.writer.write(false)?;
            self.shared.lock().index.settle(&placed);
        }
        self.answers.ok(std::mem::take(&mut self.finished)) // I9
    }
}

/// Answers that are owed. What is still owed on drop is answered with an error, and the log has stopped.
struct Answers<'a> {
    shared: &'a Shared,
    waiting: VecDeque<Done>,
}

impl Answers<'_> {
    fn ok(&mut self, count: usize) -> io::Result<()> {
        // One at a time: those behind a panic must still be here to be answered.
        for _ in 0..count {
            if let Some(done) = self.waiting.pop_front() {
                answer(done, Ok(()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.shared.poison(
            io::ErrorKind::Other,
            "it was interrupted before a batch was durable",
        );
        for done in self.waiting.drain(..) {
            let error = self
                .shared
                .lock()
                .refusal()
                .unwrap_or_else(|| io::Error::other("the log has stopped"));
            // A second panic changes nothing: the log has stopped.
            let _ = answer(done, Err(error));
        }
    }
}

/// Gives one answer; a panic in it becomes an error.
fn answer(done: Done, result: io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(|| done(result))).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or(panic.downcast_ref::<String>().map(String::as_str));
        io::Error::other(format!(
            "a callback panicked: {}",
            text.unwrap_or("without a message")
        ))
    })
}

/// Ends the log with its thread, whatever ends the thread.
struct StopGuard<'a> {
    shared: &'a Shared,
}

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared
                .poison(io::ErrorKind::Other, "its thread panicked");
        }
        self.shared.lock().closing = true;
        self.shared.refuse_queued();
        self.shared.rounds.notify_all();
    }
}
