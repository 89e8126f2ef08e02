//! One node from start to stop: directory, formation, Raft, Writer, listeners, drain.
//!
//! Order at start: lock and identify the directory; listen (so that a port in use is found before
//! anything is written); form or rejoin the cluster; open the log, the snapshots and the history;
//! start Raft, the proofs of freshness and the Writer; serve. The API answers from the first
//! moment on, and says what it waits for. Order at stop: another voter leads; readiness goes red, streams say goodbye,
//! requests finish within the grace, then Raft, then the log. A node whose Raft ends by itself
//! stops, loudly; it never lingers half-dead.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use pennon_raft_store::command::ClusterId;
use pennon_raft_store::directory;
use pennon_raft_store::disk::{Disk, Space};
use pennon_raft_store::history::{History, HistoryOptions, LateHistory, MemoryHistory};
use pennon_raft_store::identity::{DirectoryLock, Identity};
use pennon_raft_store::level::Features;
use pennon_raft_store::log::{Flushing, LogOptions, SegmentLog};
use pennon_raft_store::raft::{Blocking, Member, Raft, RaftOptions, RaftParts};
use pennon_raft_store::snapshot_file::SnapshotStore;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broken::Broken;
use crate::clock::Clock;
use crate::confirm::Confirm;
use crate::core::Core;
use crate::delivery::{Rolls, call_rolls};
use crate::formation::{Decision, Hello, Invitation, decide};
use crate::http::App;
use crate::hub::Hub;
use crate::net::{BoxFuture, Connect, Listen};
use crate::peer::{Answering, Greeter, PeerClient};
use crate::space::SpaceWatch;
use crate::succession::Succession;
use crate::writer::Writer;

/// Node ids are below this, so that JSON can carry them.
pub(crate) const NODE_ID_MAX: u64 = 1 << 53;

/// Between two looks at who is there while the cluster forms.
const FORMATION_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks at whether the cluster knows where this node is.
const INTRODUCTION_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for one answer while the cluster forms.
const FORMATION_MAX: Duration = Duration::from_secs(2);

/// Longest wait for another voter to lead when a leader stops.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How a node is started. The same on every node but for name, directory and addresses.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The name people give it; unique in the cluster.
    pub name: String,
    /// Where clients reach its API, if not where it listens.
    pub advertise_api: Option<String>,
    /// Where peers reach it, if not where it listens.
    pub advertise_peer: Option<String>,
    /// The peer addresses of everybody who forms the cluster.
    pub join: Vec<String>,
    /// How many of them there are.
    pub expect: u32,
    /// Whether it joins a cluster without a vote.
    pub learner: bool,
    /// Times and sizes of consensus.
    pub raft: RaftOptions,
    /// Between two proofs of freshness.
    pub confirm_interval: Duration,
    /// How long a stopping node waits for open requests.
    pub drain: Duration,
    /// Bytes of the disk below which no changes are taken; 0 for no such mark.
    pub min_free: u64,
    /// The length of a file of the log, in bytes.
    pub segment_bytes: u64,
    /// What this release knows: [`Features::THIS`], but for tests of mixed releases.
    pub features: Features,
    /// What it breaks on purpose; a release build breaks nothing.
    #[doc(hidden)]
    pub broken: Option<Broken>,
}

impl NodeOptions {
    /// A single node of this name.
    pub fn single(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            advertise_api: None,
            advertise_peer: None,
            join: Vec::new(),
            expect: 1,
            learner: false,
            raft: RaftOptions::default(),
            confirm_interval: Duration::from_millis(500),
            drain: Duration::from_secs(5),
            min_free: crate::settings::MIN_FREE_DEFAULT,
            segment_bytes: LogOptions::default().segment_bytes,
            features: Features::THIS,
            broken: None,
        }
    }

    /// What consensus is told that this release knows.
    fn features_of_raft(&self) -> Features {
        #[cfg(debug_assertions)]
        if Broken::RequestWindow.is(self.broken) {
            return self.features.forgetful();
        }
        self.features
    }
}

/// Where a node keeps its data.
#[derive(Clone)]
pub enum Storage {
    /// A directory of its own.
    Directory(PathBuf),
    /// A disk in memory, shared with whoever simulates; nothing runs on another thread.
    Memory(Arc<dyn Disk>),
}

/// Everything a node gets from outside.
pub struct Surroundings {
    /// Where the data is.
    pub storage: Storage,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Opens connections.
    pub connect: Arc<dyn Connect>,
    /// Seeds what is random: node ids, cluster ids.
    pub seed: u64,
    /// Accepts clients.
    pub api: Box<dyn Listen>,
    /// Accepts peers.
    pub peer: Box<dyn Listen>,
}

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

impl NodeError {
    fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    serving: Vec<tokio::task::JoinHandle<()>>,
    forming: tokio::task::JoinHandle<()>,
    failed: watch::Receiver<Option<String>>,
}

impl Node {
    /// Starts a node and returns as soon as it listens; forming or rejoining the cluster goes on
    /// in the background.
    ///
    /// # Errors
    /// When the directory belongs to somebody else, is in use, or cannot be read.
    pub async fn start(
        options: NodeOptions,
        surroundings: Surroundings,
    ) -> Result<Self, NodeError> {
        let Surroundings {
            storage,
            clock,
            connect,
            seed,
            api,
            peer,
        } = surroundings;
        let store = Store::open(storage).await?;
        let member = Member {
            name: options.name.clone(),
            api: options
                .advertise_api
                .clone()
                .unwrap_or_else(|| api.address()),
            peer: options
                .advertise_peer
                .clone()
                .unwrap_or_else(|| peer.address()),
        };
        let mut random = StdRng::seed_from_u64(seed);
        let identity = identify(&store, &options.name, &mut random).await?;
        let (failed_tx, failed) = watch::channel(None);
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            app: Arc::new(App::new(options.name.clone())),
            greeter: Greeter::new(connect.clone()),
            identity: Mutex::new(identity),
            raft: OnceLock::new(),
            starting: tokio::sync::Mutex::new(()),
            core_ready: watch::channel(false).0,
            drain: options.drain,
            options,
            member,
            store,
            clock,
            connect,
            stop: stop.clone(),
            stop_serving: CancellationToken::new(),
            failed: failed_tx,
            unusable: watch::channel(None).0,
        });
        let serving = vec![
            tokio::spawn(crate::http::serve::serve_api(
                api,
                shared.app.clone(),
                shared.stop_serving.clone(),
            )),
            tokio::spawn(crate::http::serve::serve_peers(
                peer,
                shared.clone(),
                shared.stop_serving.clone(),
            )),
        ];
        let forming = tokio::spawn(shared.clone().form_and_watch(random));
        Ok(Self {
            shared,
            serving,
            forming,
            failed,
        })
    }

    /// The services, once the node belongs to a cluster.
    pub async fn core(&self) -> Arc<Core> {
        let mut ready = self.shared.core_ready.subscribe();
        loop {
            if let Some(core) = self.shared.app.core() {
                return core;
            }
            if ready.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the API serves from: the services once they exist, and what is waited for before.
    pub fn app(&self) -> &Arc<App> {
        &self.shared.app
    }

    /// Waits until the node fails by itself and says why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the node is gone".into(),
        }
    }

    /// Stops: another voter leads, readiness red, goodbye to streams, open requests finish within the grace, then
    /// consensus and the log.
    pub async fn shutdown(self) {
        let Self {
            shared,
            serving,
            forming,
            ..
        } = self;
        if let Some(core) = shared.app.core() {
            core.step_down(HAND_OVER_MAX).await;
        }
        shared.app.drain();
        shared.stop_serving.cancel();
        let all = futures_util::future::join_all(serving);
        if tokio::time::timeout(shared.drain, all).await.is_err() {
            tracing::warn!("some requests did not finish within the grace and were cut");
        }
        shared.stop.cancel();
        if let Err(why) = forming.await
            && why.is_panic()
        {
            tracing::error!(%why, "the node's task panicked");
        }
        if let Some(raft) = shared.raft.get() {
            raft.shutdown().await;
        }
    }
}

/// What the tasks of one node share.
struct Shared {
    app: Arc<App>,
    options: NodeOptions,
    member: Member,
    store: Store,
    identity: Mutex<Identity>,
    greeter: Greeter,
    raft: OnceLock<Raft>,
    /// Held while Raft is being started, which an invitation and the node itself may both want.
    starting: tokio::sync::Mutex<()>,
    core_ready: watch::Sender<bool>,
    clock: Arc<dyn Clock>,
    connect: Arc<dyn Connect>,
    drain: Duration,
    stop: CancellationToken,
    stop_serving: CancellationToken,
    failed: watch::Sender<Option<String>>,
    /// Why the history, which is opened in the background, cannot be.
    unusable: watch::Sender<Option<String>>,
}

impl Shared {
    fn identity(&self) -> Identity {
        self.identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn form_and_watch(self: Arc<Self>, mut random: StdRng) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            why = self.run(&mut random) => {
                tracing::error!(%why, "this node stops");
                self.failed.send_replace(Some(why));
            }
        }
    }

    /// Forms or rejoins, then waits for Raft to end by itself. Returns why the node cannot go on.
    async fn run(&self, random: &mut StdRng) -> String {
        if let Some(cluster) = self.identity().cluster
            && let Err(why) = self.start_raft(ClusterId::new(cluster)).await
        {
            return why;
        }
        if let Err(why) = self.check_neighbours().await {
            return why;
        }
        loop {
            match self.formation_step(random).await {
                Ok(true) => break,
                Ok(false) => tokio::time::sleep(FORMATION_PAUSE).await,
                Err(why) => return why,
            }
        }
        let Some(core) = self.app.core() else {
            return "consensus was never started".into();
        };
        tokio::select! {
            why = core.raft.stopped() => format!("consensus ended: {why}"),
            why = self.unusable() => why,
            never = self.introduce(&core) => match never {},
        }
    }

    /// Waits until the history turns out to be unusable, and says why.
    async fn unusable(&self) -> String {
        let mut unusable = self.unusable.subscribe();
        let told = unusable.wait_for(Option::is_some).await;
        // The sender is this node's own.
        told.map_or_else(|_| None, |why| why.clone())
            .unwrap_or_default()
    }

    /// Addresses may change between two starts. Peers are looked for at the addresses of `--join`
    /// too, and the leader is told where this node is now.
    async fn introduce(&self, core: &Core) -> Infallible {
        loop {
            let status = core.raft.status();
            let entry = status.members.iter().find(|member| member.id == core.node);
            let known = entry.is_none_or(|entry| entry.member == self.member);
            if status.leader.is_none() {
                for address in &self.options.join {
                    if let Ok(hello) = self.greeter.hello(address, FORMATION_MAX).await {
                        core.peers.learn(&status.members, &hello.member);
                    }
                }
            } else if !known && core.store_member(self.member.clone(), FORMATION_MAX).await {
                tracing::info!(api = %self.member.api, peer = %self.member.peer, "told the cluster where this node is now");
            }
            tokio::time::sleep(INTRODUCTION_PAUSE).await;
        }
    }

    /// A directory of one cluster among nodes of another is a mistake that only a person can mend.
    async fn check_neighbours(&self) -> Result<(), String> {
        let Some(ours) = self.identity().cluster.map(ClusterId::new) else {
            return Ok(());
        };
        for address in self
            .options
            .join
            .iter()
            .filter(|address| **address != self.member.peer)
        {
            let Ok(hello) = self.greeter.hello(address, FORMATION_MAX).await else {
                continue;
            };
            if hello.cluster == Some(ours) {
                self.check_level(&hello)?;
            }
            if let Some(theirs) = hello
                .cluster
                .filter(|theirs| *theirs != ours && hello.formed)
            {
                return Err(format!(
                    "this data directory belongs to cluster {ours}, but {} at {address} belongs to cluster {theirs}: \
                     start this node with the directory it had there, or with an empty one and have it added",
                    hello.member.name
                ));
            }
        }
        Ok(())
    }

    /// A cluster that has gone beyond this release has no place for this node until it is upgraded.
    fn check_level(&self, hello: &Hello) -> Result<(), String> {
        let Some(level) = hello.cluster_level else {
            return Ok(());
        };
        let known = self.options.features.check(level);
        known.map_err(|why| format!("{why}; {} answered for the cluster", hello.member.name))
    }

    /// One step towards belonging to a cluster; true when this node does.
    async fn formation_step(&self, random: &mut StdRng) -> Result<bool, String> {
        if let Some(raft) = self.raft.get()
            && raft.is_initialized().await?
            && (!self.identity().asking || self.is_taken_in(raft).await?)
        {
            self.app.waiting_for("a leader".into());
            return Ok(true);
        }
        if self.options.learner || self.identity().asking {
            return self.ask_in().await;
        }
        let me = self.hello_now().await;
        let (mut others, mut silent) = (Vec::new(), Vec::new());
        for address in self
            .options
            .join
            .iter()
            .filter(|address| **address != self.member.peer)
        {
            match self.greeter.hello(address, FORMATION_MAX).await {
                Ok(hello) => others.push(hello),
                Err(_) => silent.push(address.clone()),
            }
        }
        match decide(&me, &others, &silent) {
            Decision::Wait(why) => {
                if self.app.waiting_for(why.clone()) {
                    tracing::info!("{why}");
                }
                Ok(false)
            }
            Decision::Form { cluster, members } => {
                let cluster = cluster.unwrap_or_else(|| ClusterId::new(random.random()));
                self.form(cluster, members).await
            }
        }
    }

    /// Whether it is committed that this node is a member. What a leader sent that was gone before that was
    /// the case says nothing: the next one may not know of this node.
    async fn is_taken_in(&self, raft: &Raft) -> Result<bool, String> {
        let taken = raft.status().is_member;
        if taken {
            let asking = false;
            self.store_identity(Identity {
                asking,
                ..self.identity()
            })
            .await?;
        }
        Ok(taken)
    }

    /// Asks a member of the cluster to be taken in as a learner; never true: what the leader then
    /// sends makes this node a member.
    async fn ask_in(&self) -> Result<bool, String> {
        let mut why = "no node of a cluster answers at any address of --join".to_owned();
        for address in &self.options.join {
            let Ok(hello) = self.greeter.hello(address, FORMATION_MAX).await else {
                continue;
            };
            let Some(cluster) = hello.cluster.filter(|_| hello.formed) else {
                why = format!("{} belongs to no cluster yet", hello.member.name);
                continue;
            };
            self.check_level(&hello)?;
            self.remember(cluster).await?;
            // It must listen to the leader before the leader speaks to it.
            self.start_raft(cluster).await?;
            let me = (self.identity().node, &self.member);
            why = match self
                .greeter
                .ask_in(address, cluster, me, FORMATION_MAX)
                .await
            {
                Ok(()) => format!(
                    "{} took this node in; waiting for the leader",
                    hello.member.name
                ),
                Err(refused) => format!("not taken in yet: {refused}"),
            };
            break;
        }
        if self.app.waiting_for(why.clone()) {
            tracing::info!("{why}");
        }
        Ok(false)
    }

    async fn form(
        &self,
        cluster: ClusterId,
        members: BTreeMap<u64, Member>,
    ) -> Result<bool, String> {
        self.remember(cluster).await?;
        let invitation = Invitation { cluster, members };
        for (id, member) in &invitation.members {
            if *id != self.identity().node
                && let Err(why) = self
                    .greeter
                    .invite(&member.peer, &invitation, FORMATION_MAX)
                    .await
            {
                let why = format!("{} did not join: {why}", member.name);
                if self.app.waiting_for(why.clone()) {
                    tracing::warn!("{why}");
                }
                return Ok(false);
            }
        }
        self.start_raft(cluster).await?;
        let Some(raft) = self.raft.get() else {
            return Ok(false);
        };
        raft.initialize(invitation.members).await?;
        tracing::info!(%cluster, "formed the cluster");
        Ok(true)
    }

    /// Stores the cluster id, durably and once for all.
    async fn remember(&self, cluster: ClusterId) -> Result<(), String> {
        let mut identity = self.identity();
        match identity.cluster {
            Some(have) if have == cluster.get() => return Ok(()),
            Some(have) => {
                return Err(format!(
                    "this directory belongs to cluster {}",
                    ClusterId::new(have)
                ));
            }
            None => {
                identity.cluster = Some(cluster.get());
                identity.asking = self.options.learner;
            }
        }
        self.store_identity(identity).await
    }

    async fn store_identity(&self, identity: Identity) -> Result<(), String> {
        let disk = self.store.disk.clone();
        let saved = identity.clone();
        let stored = self
            .store
            .blocking
            .run(move || saved.save(disk.as_ref()))
            .await;
        stored
            .map_err(|why| why.to_string())?
            .map_err(|why| why.to_string())?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }

    async fn start_raft(&self, cluster: ClusterId) -> Result<(), String> {
        let _one_at_a_time = self.starting.lock().await;
        if self.raft.get().is_some() {
            return Ok(());
        }
        let identity = self.identity();
        let (node, first) = (identity.node, !identity.log_begun);
        let space = Space::new(self.store.disk.clone(), self.options.min_free);
        let log = LogOptions {
            segment_bytes: self.options.segment_bytes,
            ..LogOptions::default()
        };
        let opened = self
            .store
            .open_log(identity, log, space.clone(), self.unusable.clone())
            .await?;
        let (log, snapshots, history, identity) = opened;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        let peers = PeerClient::new(self.connect.clone(), cluster);
        let parts = RaftParts {
            node,
            cluster,
            options: self.options.raft.clone(),
            log: Arc::new(log),
            snapshots,
            history,
            transport: Arc::new(peers.clone()),
            blocking: self.store.blocking,
            space,
            features: self.options.features_of_raft(),
        };
        let raft = Raft::start(parts).await.map_err(|why| why.to_string())?;
        let interval = self.options.confirm_interval;
        let confirm = Confirm::start(
            raft.clone(),
            peers.clone(),
            self.clock.clone(),
            interval,
            self.stop.clone(),
        );
        let space = SpaceWatch::start(raft.clone(), peers.clone(), self.stop.clone());
        let core = Core {
            name: self.options.name.clone(),
            node,
            raft: raft.clone(),
            hub: Hub::start(
                raft.clone(),
                confirm.clone(),
                self.clock.clone(),
                first,
                self.stop.clone(),
            ),
            confirm: confirm.clone(),
            rolls: Rolls::default(),
            succession: Succession::new(self.connect.clone(), self.options.raft.heartbeat),
            complaint: crate::verify::start(
                raft.clone(),
                confirm.clone(),
                self.store.blocking,
                self.stop.clone(),
            ),
            writer: Writer::start(
                raft.clone(),
                self.clock.clone(),
                space.clone(),
                self.stop.clone(),
            ),
            space,
            clock: self.clock.clone(),
            peers,
            draining: self.app.draining().clone(),
            loaded: Mutex::default(),
            blocking: self.store.blocking,
            broken: self.options.broken,
        };
        self.raft
            .set(raft)
            .map_err(|_| "consensus was started twice".to_owned())?;
        let core = Arc::new(core);
        let rolls = call_rolls(Arc::downgrade(&core));
        let succession = crate::succession::watch(Arc::downgrade(&core));
        let upgrade = crate::upgrade::watch(Arc::downgrade(&core));
        let membership = crate::membership::watch(Arc::downgrade(&core));
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = async { tokio::join!(rolls, succession, upgrade, membership) } => {}
                () = stop.cancelled() => {}
            }
        });
        self.app.set_core(core);
        self.core_ready.send_replace(true);
        Ok(())
    }

    async fn hello_now(&self) -> Hello {
        let mut hello = self.hello();
        if let Some(raft) = self.raft.get() {
            hello.formed = raft.is_initialized().await.unwrap_or(false);
        }
        hello
    }
}

impl Answering for Shared {
    fn core(&self) -> Option<Arc<Core>> {
        self.app.core()
    }

    fn hello(&self) -> Hello {
        let identity = self.identity();
        Hello {
            node: identity.node,
            member: self.member.clone(),
            cluster: identity.cluster.map(ClusterId::new),
            formed: self
                .raft
                .get()
                .is_some_and(|raft| !raft.status().members.is_empty()),
            expect: self.options.expect,
            learner: self.options.learner,
            feature_level: self.options.features.level(),
            cluster_level: self.raft.get().map(|raft| raft.view().level()),
        }
    }

    fn join(&self, invitation: Invitation) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let node = self.identity().node;
            if invitation.members.get(&node) != Some(&self.member) {
                return Err(format!(
                    "{} is not among the invited as it is",
                    self.member.name
                ));
            }
            self.remember(invitation.cluster).await?;
            self.start_raft(invitation.cluster).await
        })
    }
}

/// The data directory, opened.
struct Store {
    disk: Arc<dyn Disk>,
    directory: Option<PathBuf>,
    blocking: Blocking,
    #[expect(dead_code, reason = "held for its Drop")]
    lock: Option<DirectoryLock>,
}

impl Store {
    async fn open(storage: Storage) -> Result<Self, NodeError> {
        match storage {
            Storage::Memory(disk) => Ok(Self {
                disk,
                directory: None,
                blocking: Blocking::Inline,
                lock: None,
            }),
            Storage::Directory(directory) => {
                let opened = tokio::task::spawn_blocking(move || {
                    let unwritable = |why: std::io::Error| {
                        NodeError(format!(
                            "cannot use the data directory {}: {why}; give --data a directory this user may write to",
                            directory.display()
                        ))
                    };
                    std::fs::create_dir_all(&directory).map_err(unwritable)?;
                    let lock = DirectoryLock::acquire(&directory).map_err(NodeError::new)?;
                    let disk =
                        pennon_raft_store::disk::RealDisk::new(&directory).map_err(unwritable)?;
                    let disk: Arc<dyn Disk> = Arc::new(disk);
                    let blocking = Blocking::Threads;
                    Ok(Self {
                        disk,
                        directory: Some(directory),
                        blocking,
                        lock: Some(lock),
                    })
                });
                opened.await.map_err(NodeError::new)?
            }
        }
    }

    async fn open_log(
        &self,
        mut identity: Identity,
        log: LogOptions,
        space: Space,
        unusable: watch::Sender<Option<String>>,
    ) -> Result<(SegmentLog, SnapshotStore, Arc<dyn History>, Identity), String> {
        let (disk, in_files, blocking) = (self.disk.clone(), self.directory.clone(), self.blocking);
        let opened = blocking.run(move || {
            let flushing = match blocking {
                Blocking::Threads => Flushing::Thread,
                Blocking::Inline => Flushing::Inline,
            };
            let options = LogOptions { flushing, ..log };
            let (log, snapshots) = directory::open(&disk, &mut identity, options, space.clone())
                .map_err(|why| why.to_string())?;
            let options = HistoryOptions {
                cluster: identity.cluster.map(ClusterId::new),
                space,
                ..HistoryOptions::default()
            };
            let history = open_history(disk, in_files, options, unusable)?;
            Ok::<_, String>((log, snapshots, history, identity))
        });
        opened.await.map_err(|why| why.to_string())?
    }
}

/// The history in `state/` is opened in the background; `unusable` hears why it cannot be.
fn open_history(
    disk: Arc<dyn Disk>,
    directory: Option<PathBuf>,
    options: HistoryOptions,
    unusable: watch::Sender<Option<String>>,
) -> Result<Arc<dyn History>, String> {
    let Some(directory) = directory else {
        return Ok(Arc::new(MemoryHistory::new(options)));
    };
    let tell = move |why| drop(unusable.send_replace(Some(why)));
    let late = LateHistory::of_directory(disk, directory.join("state"), options, tell);
    Ok(Arc::new(late.map_err(|why| why.to_string())?))
}

/// Reads who this directory belongs to, or makes it this node's.
async fn identify(store: &Store, name: &str, random: &mut StdRng) -> Result<Identity, NodeError> {
    let (disk, name) = (store.disk.clone(), name.to_owned());
    let fresh = random.random_range(1..NODE_ID_MAX);
    let found = store
        .blocking
        .run(move || directory::identify(disk.as_ref(), &name, fresh));
    found.await.map_err(NodeError::new)?.map_err(NodeError::new)
}
