//! openraft's log traits over our [`LogStore`]. Translation only: no decision is made here.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use tokio::sync::oneshot;

use crate::log::{Done, LogStore};
use crate::types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, from_log, log_id, raft_log_id, to_log,
};
use crate::vote::Vote;

/// Most bytes handed to openraft in one read, so that a follower far behind is fed in pieces.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log as openraft sees it.
#[derive(Clone)]
pub(crate) struct LogAdapter {
    store: Arc<dyn LogStore>,
}

impl LogAdapter {
    pub(crate) fn new(store: Arc<dyn LogStore>) -> Self {
        Self { store }
    }

    /// Runs one log operation and waits until it is durable.
    async fn durable(&self, start: impl FnOnce(&dyn LogStore, Done)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        start(
            self.store.as_ref(),
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        );
        rx.await
            .unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let entries = self.store.read(from, to, bytes_max)?;
        entries
            .into_iter()
            .map(|entry| from_log(entry).map_err(io::Error::other))
            .collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&index) => index,
        Bound::Excluded(&index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&index) => index.saturating_add(1),
        Bound::Excluded(&index) => index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogAdapter {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.store.state().vote.and_then(|vote| {
            let leader = vote.voted_for?;
            Some(match vote.committed {
                true => RaftVote::new_committed(vote.term, leader),
                false => RaftVote::new(vote.term, leader),
            })
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogAdapter {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.store.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(raft_log_id),
            last_log_id: state.last.map(raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let vote = Vote {
            term: vote.leader_id.term,
            voted_for: Some(vote.leader_id.voted_for),
            committed: vote.committed,
        };
        self.durable(|store, done| store.save_vote(vote, done))
            .await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.store.save_committed(committed.as_ref().map(log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        let state = self.store.state();
        // The record of what is committed may be newer than a tail that was cut.
        Ok(state.committed.min(state.last).map(raft_log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Result<Vec<_>, _> = entries.into_iter().map(|entry| to_log(&entry)).collect();
        // I9: openraft counts this node towards the quorum only after the callback says Ok.
        self.store.append(
            entries.map_err(io::Error::other)?,
            Box::new(move |result| callback.io_completed(result)),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let last = last_log_id.as_ref().map(log_id);
        self.durable(|store, done| store.truncate_after(last, done))
            .await
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.durable(|store, done| store.purge(log_id(&upto), done))
            .await
    }
}

#[cfg(test)]
mod tests {
    //! openraft's own storage suite, over the real log, snapshot files and history.

    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};
    use tempfile::TempDir;

    use super::*;
    use crate::command::ClusterId;
    use crate::disk::{Disk, MemoryDisk, RealDisk};
    use crate::history::{HistoryOptions, MemoryHistory};
    use crate::log::{Flushing, LogIdentity, LogOptions, SegmentLog};
    use crate::snapshot_file::SnapshotStore;
    use crate::state_machine::{Blocking, StateMachine};

    fn build(disk: Arc<dyn Disk>, flushing: Flushing) -> (LogAdapter, StateMachine) {
        let options = LogOptions {
            flushing,
            segment_bytes: 64 << 10,
            ..LogOptions::default()
        };
        let log = SegmentLog::open(
            disk.clone(),
            options,
            LogIdentity {
                cluster: 7,
                node: 0,
            },
        )
        .unwrap();
        let snapshots = SnapshotStore::open(disk).unwrap();
        let history = Arc::new(MemoryHistory::new(HistoryOptions::default()));
        let (machine, _) = StateMachine::open(
            ClusterId::new(7),
            None,
            snapshots,
            history,
            Blocking::Inline,
            crate::disk::Space::unbounded(),
            crate::level::Features::THIS,
        )
        .unwrap();
        (LogAdapter::new(Arc::new(log)), machine)
    }

    struct OnDisk;

    impl StoreBuilder<TypeConfig, LogAdapter, StateMachine, TempDir> for OnDisk {
        async fn build(
            &self,
        ) -> Result<(TempDir, LogAdapter, StateMachine), StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let (log, machine) = build(
                Arc::new(RealDisk::new(dir.path()).unwrap()),
                Flushing::Thread,
            );
            Ok((dir, log, machine))
        }
    }

    struct InMemory;

    impl StoreBuilder<TypeConfig, LogAdapter, StateMachine, ()> for InMemory {
        async fn build(&self) -> Result<((), LogAdapter, StateMachine), StorageError<TypeConfig>> {
            let (log, machine) = build(Arc::new(MemoryDisk::new()), Flushing::Inline);
            Ok(((), log, machine))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn openrafts_storage_suite_passes_on_disk() {
        Suite::test_all(OnDisk).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn openrafts_storage_suite_passes_in_memory() {
        Suite::test_all(InMemory).await.unwrap();
    }
}
