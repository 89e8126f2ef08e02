//! A log in a vector, entries whose payload tells where they belong, and ways to wait for answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use pennon_raft_store::disk::Disk;
use pennon_raft_store::log::{
    Done, Flushing, LogEntry, LogId, LogIdentity, LogOptions, LogState, LogStore, OpenError,
    SegmentLog, Vote,
};

pub(crate) const IDENTITY: LogIdentity = LogIdentity {
    cluster: 0xc1,
    node: 1,
};

/// Segments as small as they can be, no reserve, no thread.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        flushing: Flushing::Inline,
        segment_bytes: 8 << 10,
        cache_bytes_max: 2 << 10,
        reserve_bytes: 0,
        ..LogOptions::default()
    }
}

pub(crate) fn open(
    disk: &(impl Disk + Clone),
    options: &LogOptions,
) -> Result<SegmentLog, OpenError> {
    SegmentLog::open(Arc::new(disk.clone()), options.clone(), IDENTITY)
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

/// An entry whose payload follows from its id and length.
pub(crate) fn entry(term: u64, index: u64, len: usize) -> LogEntry {
    let payload: Vec<u8> = (0..len as u64)
        .map(|n| (n * 7 + term * 31 + index * 13) as u8)
        .collect();
    LogEntry {
        id: id(term, index),
        payload: Bytes::from(payload),
    }
}

pub(crate) fn entries(term: u64, indexes: std::ops::Range<u64>, len: usize) -> Vec<LogEntry> {
    indexes.map(|index| entry(term, index, len)).collect()
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote {
        term,
        voted_for: Some(term % 5),
        committed: term.is_multiple_of(2),
    }
}

/// A callback, and where its answer arrives.
pub(crate) fn answer() -> (Done, Receiver<io::Result<()>>) {
    let (tell, told) = channel();
    let done = Box::new(move |result| {
        let _ = tell.send(result);
    });
    (done, told)
}

/// Makes one call and waits for its answer.
pub(crate) fn wait(call: impl FnOnce(Done)) -> io::Result<()> {
    let (done, told) = answer();
    call(done);
    told.recv().expect("every call is answered")
}

/// Everything a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) state: LogState,
    pub(crate) entries: Vec<LogEntry>,
}

pub(crate) fn told(log: &SegmentLog) -> Told {
    Told {
        state: log.state(),
        entries: log.read(0, u64::MAX, usize::MAX).unwrap(),
    }
}

/// A call, to be made on the log.
pub(crate) type ToLog = Box<dyn FnOnce(&SegmentLog, Done)>;

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    /// Entries of these lengths behind the last one, of the current term.
    Append(Vec<usize>),
    /// Cut so many entries off the end; the next ones are of a higher term.
    Truncate(u64),
    /// Purge up to so far behind the floor; may be past the end.
    Purge(u64),
    Vote,
    Committed(u64),
}

/// The log as a plain map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    term: u64,
    entries: BTreeMap<u64, LogEntry>,
    state: LogState,
}

impl Model {
    pub(crate) fn told(&self) -> Told {
        Told {
            state: self.state,
            entries: self.entries.values().cloned().collect(),
        }
    }

    fn next(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index + 1)
    }

    /// Does the call here, and returns what to do to the log.
    pub(crate) fn call(&mut self, call: &Call) -> ToLog {
        let floor_end = self.state.purged.map_or(0, |floor| floor.index + 1);
        match call {
            Call::Append(lens) => {
                let next = self.next();
                let new: Vec<_> = lens
                    .iter()
                    .zip(next..)
                    .map(|(len, index)| entry(self.term, index, *len))
                    .collect();
                self.entries
                    .extend(new.iter().map(|entry| (entry.id.index, entry.clone())));
                self.settle();
                Box::new(move |log, done| log.append(new, done))
            }
            Call::Truncate(back) => {
                let end = self.next().saturating_sub(*back).max(floor_end);
                self.entries.split_off(&end);
                self.term += 1;
                self.settle();
                let kept = self.state.last;
                Box::new(move |log, done| log.truncate_after(kept, done))
            }
            Call::Purge(ahead) => {
                let index = floor_end + ahead;
                let upto = self
                    .entries
                    .get(&index)
                    .map_or(id(self.term, index), |entry| entry.id);
                // A log that never held anything may still be purged: a snapshot came first.
                self.entries = self.entries.split_off(&(index + 1));
                self.state.purged = Some(upto);
                self.settle();
                Box::new(move |log, done| log.purge(upto, done))
            }
            Call::Vote => {
                self.term += 1;
                let vote = vote(self.term);
                self.state.vote = Some(vote);
                Box::new(move |log, done| log.save_vote(vote, done))
            }
            Call::Committed(back) => {
                let index = self
                    .next()
                    .checked_sub(back + 1)
                    .filter(|index| *index >= floor_end);
                let committed = index
                    .and_then(|index| self.entries.get(&index))
                    .map(|entry| entry.id);
                self.state.committed = committed;
                Box::new(move |log, done| {
                    log.save_committed(committed);
                    done(Ok(()));
                })
            }
        }
    }

    fn settle(&mut self) {
        self.state.last = self
            .entries
            .values()
            .next_back()
            .map(|entry| entry.id)
            .or(self.state.purged);
        // A truncate may cut off what this model called committed; consensus never does that.
        let last = self.state.last;
        if self
            .state
            .committed
            .is_some_and(|id| last.is_none_or(|last| id.index > last.index))
        {
            self.state.committed = None;
        }
    }
}
