//! openraft's state machine traits over the pure [`Machine`], the snapshot files and the history.
//!
//! Order in `apply`: change the machine, queue the history, publish the view, then answer; so
//! whoever hears an answer finds at least that version in the view. A snapshot is taken from a
//! clone, on a blocking thread, and its file is durable before openraft hears of it, so the log is
//! never purged past what is on disk.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bincode::Options;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::codec;
use crate::command::{Change, ClusterId};
use crate::directory::{check_reach, newest_snapshot, not_loaded};
use crate::disk::{Space, is_full, is_out_of_files};
use crate::history::{History, HistoryRecord, Keep};
use crate::level::{Features, TooOld};
use crate::log::LogId;
use crate::machine::{Applied, Entry, Machine, MachineHead, SnapshotRecord, View};
use crate::snapshot_file::{SnapshotEncoder, SnapshotReader, SnapshotStore};
use crate::types::{
    RaftEntry, RaftLogId, Response, SnapshotMeta, StoredMembership, TypeConfig, log_id, raft_log_id,
};

const HEADER_FORMAT: u8 = 1;
const CHANGE_FORMAT: u8 = 1;

/// Between two looks whether there is space for a snapshot.
const SPACE_PAUSE: Duration = Duration::from_secs(1);

/// Bytes copied at once from one snapshot file to another.
const COPY_LEN: usize = 1 << 20;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's blocking threads.
    Threads,
    /// At once, in the caller: for simulations over memory, where a second thread would race time.
    Inline,
}

impl Blocking {
    /// Runs one piece of blocking work.
    ///
    /// # Errors
    /// When the work panics.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Inline => Ok(work()),
            Self::Threads => tokio::task::spawn_blocking(work)
                .await
                .map_err(io::Error::other),
        }
    }
}

/// A snapshot as openraft passes it around: a complete, durable file and where it is.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) store: SnapshotStore,
    pub(crate) version: u64,
}

impl SnapshotFile {
    pub(crate) fn open(&self) -> io::Result<SnapshotReader> {
        self.store
            .open_version(self.version)
            .map_err(io::Error::other)
    }
}

type RaftSnapshot =
    openraft::Snapshot<crate::types::CommittedLeaderId, u64, crate::raft::Member, SnapshotFile>;

#[derive(Serialize, Deserialize)]
struct SnapshotHeader {
    head: MachineHead,
    membership: StoredMembership,
}

/// What the state machine and its snapshot builders share.
pub(crate) struct Shared {
    pub(crate) snapshots: SnapshotStore,
    pub(crate) history: Arc<dyn History>,
    pub(crate) blocking: Blocking,
    pub(crate) space: Space,
    views: watch::Sender<View>,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
}

impl Shared {
    /// Does what needs space, as [`with_space`].
    async fn with_space<T: Send + 'static>(
        &self,
        what: &str,
        work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<T> {
        with_space(self.blocking, &self.space, what, work).await
    }

    fn set_current(&self, meta: SnapshotMeta, file: SnapshotFile) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta, file));
    }
}

/// Does what needs space and files, again and again while there are none: openraft would take the
/// failure for the end of the storage. The log goes on in space of its own meanwhile.
async fn with_space<T: Send + 'static>(
    blocking: Blocking,
    space: &Space,
    what: &str,
    work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
) -> io::Result<T> {
    let mut told = false;
    loop {
        match blocking.run(work.clone()).await? {
            Err(error) if (is_full(&error) || is_out_of_files(&error)) && !space.has_ended() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, what, "waiting until the disk has space and files can be opened");
                }
                tokio::time::sleep(SPACE_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// The state machine as openraft sees it.
pub(crate) struct StateMachine {
    machine: Machine,
    membership: StoredMembership,
    shared: Arc<Shared>,
}

impl StateMachine {
    /// Loads the newest whole snapshot, or starts empty when the log was never purged, and brings the
    /// history in line with it.
    pub(crate) fn open(
        cluster: ClusterId,
        purged: Option<LogId>,
        snapshots: SnapshotStore,
        history: Arc<dyn History>,
        blocking: Blocking,
        space: Space,
        features: Features,
    ) -> io::Result<(Self, watch::Receiver<View>)> {
        let newest = newest_snapshot(&snapshots, purged).map_err(io::Error::other)?;
        let (machine, membership, current) = match &newest {
            None => {
                let machine = Machine::new(cluster).with_features(features);
                (machine, StoredMembership::default(), None)
            }
            Some(reader) => {
                let (machine, membership) = load(cluster, reader, features)
                    .map_err(|e| io::Error::other(not_loaded(reader, &e)))?;
                let file = SnapshotFile {
                    store: snapshots.clone(),
                    version: reader.version(),
                };
                let meta = meta_of(&machine, &membership);
                (machine, membership, Some((meta, file)))
            }
        };
        check_reach(machine.applied(), purged).map_err(io::Error::other)?;
        let applied = machine.applied().map_or(0, |id| id.index);
        let keep = Keep::by(&machine);
        history.begin(
            applied,
            Box::new(move |history| match &newest {
                Some(reader) => {
                    history.keep(keep);
                    refill(history, applied, reader)
                }
                None => Ok(()),
            }),
        )?;
        let (views, receiver) = watch::channel(Arc::new(machine.clone()));
        let shared = Arc::new(Shared {
            snapshots,
            history,
            blocking,
            space,
            views,
            current: Mutex::new(current),
        });
        Ok((
            Self {
                machine,
                membership,
                shared,
            },
            receiver,
        ))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    fn apply_entry(&mut self, entry: &RaftEntry) -> io::Result<Response> {
        let response = apply_to(&mut self.machine, self.shared.history.as_ref(), entry)?;
        if let Some(membership) = entry.payload.get_membership() {
            self.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        Ok(response)
    }

    fn publish(&self) {
        // One view is one version: whole change sets, never a part (I3).
        self.shared
            .views
            .send_replace(Arc::new(self.machine.clone()));
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        Ok((
            self.machine.applied().map(raft_log_id),
            self.membership.clone(),
        ))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if self.shared.history.is_full() {
                let history = self.shared.history.clone();
                let blocking = self.shared.blocking;
                blocking.run(move || history.wait_for_room()).await?;
            }
            let response = self.apply_entry(&entry)?;
            self.publish();
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            machine: self.machine.clone(),
            membership: self.membership.clone(),
            shared: self.shared.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let shared = self.shared.clone();
        let (cluster, features) = (self.machine.cluster(), self.machine.features());
        let install = {
            let (shared, file) = (shared.clone(), file.clone());
            move || {
                let reader = file.open()?;
                adopt(&shared.snapshots, &reader)?;
                let loaded = load(cluster, &reader, features)?;
                let applied = loaded.0.applied().map_or(0, |id| id.index);
                shared.space.check_floor()?;
                shared.history.keep(Keep::by(&loaded.0));
                refill(shared.history.as_ref(), applied, &reader)?;
                io::Result::Ok(loaded)
            }
        };
        let (machine, membership) = shared.with_space("installing a snapshot", install).await?;
        (self.machine, self.membership) = (machine, membership);
        let file = SnapshotFile {
            store: shared.snapshots.clone(),
            ..file
        };
        shared.set_current(meta.clone(), file);
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        let current = self
            .shared
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Ok(current.map(|(meta, snapshot)| RaftSnapshot { meta, snapshot }))
    }
}

/// Writes one snapshot from a clone.
pub(crate) struct Builder {
    machine: Machine,
    membership: StoredMembership,
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let meta = meta_of(&self.machine, &self.membership);
        let (machine, membership) = (self.machine.clone(), self.membership.clone());
        let shared = self.shared.clone();
        let file = self
            .shared
            .with_space("taking a snapshot", move || {
                write(&machine, &membership, &shared)
            })
            .await?;
        self.shared.set_current(meta.clone(), file.clone());
        Ok(RaftSnapshot {
            meta,
            snapshot: file,
        })
    }
}

/// Applies an entry to a machine and hands what it changed to the history.
///
/// # Errors
/// The entry raised the feature level beyond what this release knows: what comes after it may be
/// unreadable here, so nothing more is applied.
pub(crate) fn apply_to(
    machine: &mut Machine,
    history: &dyn History,
    entry: &RaftEntry,
) -> io::Result<Response> {
    let id = log_id(&entry.log_id);
    let Applied {
        version,
        answer,
        changes,
    } = match &entry.payload {
        EntryPayload::Normal(payload) => machine.apply(id, Entry::Command(&payload.0)),
        EntryPayload::Blank | EntryPayload::Membership(_) => machine.apply(id, Entry::Blank),
    };
    check_level(machine)?; // I4
    history.keep(Keep::by(machine));
    if id.index > history.applied() {
        let records = changes.iter().filter_map(history_record).collect();
        history.record(id.index, records);
    }
    Ok(Response { version, answer })
}

/// Checks that this release knows the level that the cluster is at.
fn check_level(machine: &Machine) -> io::Result<()> {
    let known = machine.features().check(machine.level());
    known.map_err(|why: TooOld| io::Error::new(io::ErrorKind::Unsupported, why))
}

fn meta_of(machine: &Machine, membership: &StoredMembership) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: machine.applied().map(raft_log_id),
        last_membership: membership.clone(),
    }
}

/// The meta of a complete snapshot file.
pub(crate) fn read_meta(cluster: ClusterId, reader: &SnapshotReader) -> io::Result<SnapshotMeta> {
    let header = read_header(cluster, reader)?;
    Ok(SnapshotMeta {
        last_log_id: header.head.applied_id().map(raft_log_id),
        last_membership: header.membership,
    })
}

fn read_header(cluster: ClusterId, reader: &SnapshotReader) -> io::Result<SnapshotHeader> {
    let header = any_header(reader)?;
    if header.head.cluster != cluster {
        let found = header.head.cluster;
        let text = format!("the snapshot belongs to cluster {found}, this node to {cluster}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(header)
}

fn write(
    machine: &Machine,
    membership: &StoredMembership,
    shared: &Shared,
) -> io::Result<SnapshotFile> {
    let version = machine.version().get();
    let header = header_of(machine, membership)?;
    let mut writer = shared.snapshots.create(version, &header)?;
    write_records(machine, shared.history.as_ref(), writer.encoder())?;
    writer.finish()?;
    Ok(SnapshotFile {
        store: shared.snapshots.clone(),
        version,
    })
}

/// The header of a snapshot.
pub(crate) fn header_of(machine: &Machine, membership: &StoredMembership) -> io::Result<Bytes> {
    let header = SnapshotHeader {
        head: machine.head(),
        membership: membership.clone(),
    };
    codec::encode(HEADER_FORMAT, &header).map_err(io::Error::other)
}

/// The machine, then the history up to its version.
pub(crate) fn write_records<W: io::Write>(
    machine: &Machine,
    history: &dyn History,
    out: &mut SnapshotEncoder<W>,
) -> io::Result<()> {
    for record in machine.records() {
        out.push(&record_bytes(&record)?)?;
    }
    history.drain()?;
    history.for_each_up_to(machine.version().get(), &mut |line: HistoryRecord| {
        let line = SnapshotRecord::History(line.object, line.version, line.body);
        out.push(&record_bytes(&line)?)
    })
}

/// Copies a snapshot into this node's own store, unless it was received there.
fn adopt(own: &SnapshotStore, reader: &SnapshotReader) -> io::Result<()> {
    if own.list()?.contains(&reader.version()) {
        return Ok(());
    }
    let mut copy = own.receive()?;
    let mut offset = 0;
    let mut piece = vec![0; COPY_LEN];
    loop {
        let read = reader.read_raw(offset, &mut piece)?;
        if read == 0 {
            return copy.finish().map(drop).map_err(io::Error::other);
        }
        copy.push(&piece[..read])?;
        offset += read as u64;
    }
}

fn any_header(reader: &SnapshotReader) -> io::Result<SnapshotHeader> {
    parse_header(reader.header())
}

fn parse_header(bytes: &[u8]) -> io::Result<SnapshotHeader> {
    codec::decode(HEADER_FORMAT, bytes).map_err(io::Error::other)
}

/// What a header holds.
#[cfg(test)]
pub(crate) fn any_header_of(bytes: &[u8]) -> io::Result<(MachineHead, StoredMembership)> {
    let header = parse_header(bytes)?;
    Ok((header.head, header.membership))
}

fn load(
    cluster: ClusterId,
    reader: &SnapshotReader,
    features: Features,
) -> io::Result<(Machine, StoredMembership)> {
    let header = read_header(cluster, reader)?;
    let machine = load_machine(&header.head, reader, features)?;
    Ok((machine, header.membership))
}

/// The scalars of a snapshot, of whichever cluster.
pub(crate) fn head_of(reader: &SnapshotReader) -> io::Result<MachineHead> {
    Ok(any_header(reader)?.head)
}

/// The machine of a snapshot, of whichever cluster.
pub(crate) fn load_machine(
    head: &MachineHead,
    reader: &SnapshotReader,
    features: Features,
) -> io::Result<Machine> {
    let mut machine = Machine::from_head(head).with_features(features);
    for record in reader.records() {
        match parse_record(&record.map_err(io::Error::other)?)? {
            SnapshotRecord::History(..) => break, // The machine's records come first.
            record => machine.load(record),
        }
        check_level(&machine)?; // Before what a release of that level may have put behind it.
    }
    machine.loaded(head).map_err(io::Error::other)
}

pub(crate) fn refill(
    history: &dyn History,
    applied: u64,
    reader: &SnapshotReader,
) -> io::Result<()> {
    let mut lines = reader.records().filter_map(|record| {
        let record = record
            .map_err(io::Error::other)
            .and_then(|bytes| parse_record(&bytes));
        match record {
            Ok(SnapshotRecord::History(object, version, body)) => Some(Ok(HistoryRecord {
                object,
                version,
                body,
            })),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    });
    history.replace_all(applied, &mut lines)
}

fn record_bytes(record: &SnapshotRecord) -> io::Result<Vec<u8>> {
    codec::bincode_options(codec::BODY_LEN_MAX)
        .serialize(record)
        .map_err(io::Error::other)
}

fn parse_record(bytes: &Bytes) -> io::Result<SnapshotRecord> {
    codec::bincode_options(bytes.len())
        .deserialize(bytes)
        .map_err(io::Error::other)
}

fn history_record(change: &Change) -> Option<HistoryRecord> {
    // Encoding fails only above a length that no accepted write reaches.
    let body = codec::encode(CHANGE_FORMAT, change).ok()?;
    Some(HistoryRecord {
        object: change.object.history_key(),
        version: change.version.get(),
        body,
    })
}

/// Reads one line of history back.
pub(crate) fn parse_change(body: &[u8]) -> Result<Change, codec::Unreadable> {
    codec::decode(CHANGE_FORMAT, body)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::io::Errno;

    use super::*;
    use crate::disk::MemoryDisk;
    use crate::snapshot_file::SnapshotError;

    /// As a file of a snapshot that cannot be opened.
    fn wrapped(errno: Errno) -> io::Error {
        let (file, source) = ("a.snap".to_owned(), errno.into());
        io::Error::other(SnapshotError::Io { file, source })
    }

    #[tokio::test(start_paused = true)]
    async fn what_lacks_space_or_files_is_done_when_they_are_there() {
        let space = Space::new(Arc::new(MemoryDisk::new()), 0);
        for (errno, waits) in [
            (Errno::NOSPC, true),
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::IO, false),
        ] {
            let tries = Arc::new(AtomicU32::new(0));
            let counted = tries.clone();
            let work = move || match counted.fetch_add(1, Ordering::Relaxed) {
                0 => Err(io::Error::from(errno)),
                1 => Err(wrapped(errno)),
                _ => Ok(()),
            };
            let done = with_space(Blocking::Inline, &space, "a test", work).await;
            assert_eq!(done.is_ok(), waits, "{errno}");
            assert_eq!(tries.load(Ordering::Relaxed), if waits { 3 } else { 1 });
        }
    }
}
