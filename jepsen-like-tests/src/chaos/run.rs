//! One run, from the seed to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clients::{Clients, Numbers};
use super::finish;
use super::fleet::{Fleet, Layout, keep_binary, names};
use super::screen::Screen;
use super::settings::{Parameters, Settings};
use crate::checkers::judge::Demand;
use crate::failure::{Failure, Result};
use crate::history::{Header, Phase, Recorder};
use crate::http1::Call;
use crate::mounts::SmallDisk;
use crate::nemesis::{Arena, Family, Kind, Planned, Tally, demanded, schedule};
use crate::shim::Library;
use crate::{binary, say, until};

/// The environment that everything happens in.
pub const ENVIRONMENT: &str = "production";

/// Nodes that may join beside those that form the cluster.
const SPARES: usize = 1;
/// Room for a long run's log, snapshots and history.
const DISK_MIB: u64 = 512;
/// Below that a node takes no changes.
const MIN_FREE: &str = "24MiB";
/// Changes of an object that its history keeps: as many as can be.
const HISTORY_MAX: u64 = 10_000;
/// Longest wait until a new cluster takes requests.
const FORMED_MAX: Duration = Duration::from_secs(60);
/// How long clients go on after everything was mended.
const CALM: Duration = Duration::from_secs(3);
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// What came of a run, beside its history.
#[derive(Debug)]
pub struct Ran {
    /// Where history, logs and data are.
    pub directory: PathBuf,
    /// How many nodes formed the cluster.
    pub nodes: usize,
    /// Promises that were broken and that no history shows: nodes that ended, panicked, or did not
    /// come back.
    pub broken: Vec<String>,
    /// What came of the faults.
    pub tally: Tally,
    /// How long it took until all nodes were back.
    pub back: Option<Duration>,
    /// What to say beside that.
    pub notes: Vec<String>,
}

/// Does everything but judging.
///
/// # Errors
/// When the harness could not do its part; then there is no verdict.
pub async fn run(settings: &Settings, directory: &Path) -> Result<Ran> {
    let mut parameters = Parameters::new(settings);
    // Before the nodes, so that these end first.
    let disks = small_disks(directory, &parameters)?;
    if disks.is_empty() {
        parameters.kinds.retain(|kind| *kind != Kind::DiskFull);
    }
    let library = library(directory, &mut parameters);
    let planned = schedule(settings.seed, settings.seconds, &parameters.kinds);
    let binary = keep_binary(&binary::pennon()?, directory)?;
    let mut header = Header::new(
        settings.seed,
        names(parameters.nodes, SPARES),
        demand(settings, &parameters, &planned),
    );
    header.parameters = parameters.shown(settings);
    header.release = release(&binary)?;
    show_parameters(settings.seed, &header);
    let recorder = Recorder::default().to_file(&directory.join("history.jsonl"), &header)?;
    let layout = Layout {
        binary,
        directory: directory.to_owned(),
        size: parameters.nodes,
        spares: SPARES,
        clients: Numbers::new(parameters.writers).count(),
        snapshot_every: parameters.snapshot_every,
        arguments: vec!["--min-free".to_owned(), MIN_FREE.to_owned()],
        seed: settings.seed,
        library,
        power: powered(&parameters, &disks),
    };
    let fleet = Arc::new(Fleet::new(layout, recorder).await?);
    let mut watchers = JoinSet::new();
    for at in 0..fleet.members().len() {
        let fleet = Arc::clone(&fleet);
        watchers.spawn(async move { fleet.watch(at).await });
    }
    let arena = Arena::new(Arc::clone(&fleet), settings.seed, disks);
    let ran = work(settings, &parameters, planned, &arena).await;
    watchers.shutdown().await;
    arena.close()?;
    let ran = ran?;
    fleet.recorder().close()?;
    Ok(Ran {
        directory: directory.to_owned(),
        ..ran
    })
}

/// Finds what stands between nodes and the system, if a fault takes that; without it there are no such
/// faults.
fn library(directory: &Path, parameters: &mut Parameters) -> Option<Library> {
    if !parameters.kinds.iter().any(|kind| kind.needs_library()) {
        return None;
    }
    let found = Library::find(directory);
    if let Err(why) = &found {
        say(format!(
            "SKIPPED: calls to the system cannot be taken over, clocks not moved, power not cut: {why}"
        ));
        parameters.kinds.retain(|kind| !kind.needs_library());
    }
    found.ok()
}

/// Nodes that can lose power. What a small disk loses cannot be kept beside it.
fn powered(parameters: &Parameters, disks: &BTreeMap<usize, SmallDisk>) -> BTreeSet<usize> {
    let cut = |kind: &Kind| kind.family() == Family::Power;
    match parameters.kinds.iter().any(cut) {
        true => (0..parameters.nodes + SPARES)
            .filter(|at| !disks.contains_key(at))
            .collect(),
        false => BTreeSet::new(),
    }
}

fn show_parameters(seed: u64, header: &Header) {
    say(format!("seed {seed}, {}", header.release));
    for (name, value) in &header.parameters {
        match value.as_array() {
            Some(all) => {
                let all: Vec<String> = all.iter().map(shown).collect();
                let separator = if name == "left_out" { "\n    " } else { ", " };
                let begin = if name == "left_out" { separator } else { " " };
                say(format!("  {name}:{begin}{}", all.join(separator)));
            }
            None => say(format!("  {name}: {}", shown(value))),
        }
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Gives a minority of the nodes a small disk each, if one is to be filled; none where nothing can be
/// mounted.
fn small_disks(directory: &Path, parameters: &Parameters) -> Result<BTreeMap<usize, SmallDisk>> {
    let mut disks = BTreeMap::new();
    if !parameters.kinds.contains(&Kind::DiskFull) {
        return Ok(disks);
    }
    let names = names(parameters.nodes, 0);
    for (at, name) in names.iter().enumerate().take((parameters.nodes - 1) / 2) {
        if let Some(disk) = SmallDisk::mount(directory.join(name), DISK_MIB)? {
            disks.insert(at, disk);
        }
    }
    Ok(disks)
}

/// What the run has to show.
fn demand(settings: &Settings, parameters: &Parameters, planned: &[Planned]) -> Demand {
    let seconds = settings.seconds.as_secs() as usize;
    let does = |name: &str| settings.workloads.iter().any(|one| one == name);
    let if_does = |name: &str, count: usize| if does(name) { count } else { 0 };
    let changes = does("pairs") || does("streams") || does("evaluations");
    let if_changes = |count: usize| if changes { count } else { 0 };
    let registers = (parameters.lasting + parameters.passing) as usize;
    Demand {
        writes_min: if_does("registers", 5 * seconds),
        reads_min: if_does("registers", 5 * seconds),
        conflicts_min: if_does("registers", seconds),
        change_sets_min: if_changes(seconds),
        read_sets_min: if_changes(seconds),
        recomputed_min: if_changes(3),
        stream_items_min: if_does("streams", 10 * seconds),
        resumes_min: if_does("streams", seconds / 5),
        rises_min: if_does("evaluations", seconds),
        fresh_min: if_does("evaluations", 10 * seconds),
        receipts_min: match does("evaluations") {
            true => seconds / 5,
            false => 0,
        },
        shared_evaluations_min: if_does("evaluations", seconds),
        bound_ms: parameters.bound.as_millis() as u64,
        liveness: true,
        finals_min: if_does("registers", registers),
        faults: demanded(planned),
        ..Demand::default()
    }
}

fn release(binary: &Path) -> Result<String> {
    let output = std::process::Command::new(binary)
        .arg("--version")
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn work(
    settings: &Settings,
    parameters: &Parameters,
    planned: Vec<Planned>,
    arena: &Arc<Arena>,
) -> Result<Ran> {
    let fleet = arena.fleet();
    form(fleet, parameters).await?;
    finish::phase(fleet, Phase::Working);
    let mut clients = Clients::start(settings, parameters, fleet)?;
    let acting = tokio::spawn(Arc::clone(arena).run(planned));
    show(settings, fleet, arena).await;
    arena.stop();
    acting.await.map_err(Failure::new)??;

    let mut broken = Vec::new();
    finish::mend(fleet)?;
    let back = match finish::converge(fleet).await {
        Ok(back) => Some(back),
        Err(why) => {
            broken.push(why.to_string());
            None
        }
    };
    tokio::time::sleep(CALM).await;
    clients.stop().await?;
    finish::phase(fleet, Phase::Stopped);
    let mut notes = Vec::new();
    if back.is_some() {
        match finish::agree(fleet).await {
            Ok((version, digest)) => notes.push(format!(
                "all nodes have digest {digest} at version {version}"
            )),
            Err(why) => broken.push(why.to_string()),
        }
        if let Err(why) = clients.read_end(fleet).await {
            broken.push(format!("what is there at the end cannot be read: {why}"));
        }
    }
    broken.extend(finish::said_by_nodes(fleet));
    let tally = arena.tally();
    broken.extend(tally.complaints.clone());
    broken.extend(clients.complaints());
    if clients.hostile() > 0 {
        notes.push(format!("{} hostile messages were sent", clients.hostile()));
    }
    Ok(Ran {
        directory: PathBuf::new(),
        nodes: parameters.nodes,
        broken,
        tally,
        back,
        notes,
    })
}

/// Starts the nodes that form the cluster and makes what clients work on.
async fn form(fleet: &Fleet, parameters: &Parameters) -> Result<()> {
    for at in 0..fleet.layout().size {
        fleet.start(at)?;
    }
    for at in 0..fleet.layout().size {
        until("a node that is ready", FORMED_MAX, async || {
            match fleet.ask(at, &Call::get("/readyz"), FORMED_MAX).await {
                Ok(_) => Ok(()),
                Err(why) => Err(format!("{why}\n{}", fleet.output(at))),
            }
        })
        .await?;
    }
    let address = fleet.members()[0].api.to_string();
    let bound = parameters.bound.as_millis() as u64;
    for (path, value) in [
        (
            format!("/v1/environments/{ENVIRONMENT}"),
            json!({"staleness_bound_ms": bound}),
        ),
        // So that whole histories can be read at the end.
        (
            "/v1/settings/history".to_owned(),
            json!({"per_object": HISTORY_MAX}),
        ),
    ] {
        let made = Call::put(&path, &value).if_absent().request_id(&path);
        let answer = made.to(&address, FORMED_MAX).await?;
        if !answer.status.is_success() {
            return Err(Failure::during(path, answer.shown()));
        }
    }
    Ok(())
}

/// Shows how far the run is until its time is over.
async fn show(settings: &Settings, fleet: &Fleet, arena: &Arena) {
    let end = Instant::now() + settings.seconds;
    let mut screen = Screen::new(settings.seconds);
    while Instant::now() < end {
        screen.show(fleet.recorder().count(|_| true), &arena.tally());
        tokio::time::sleep(SHOW_EVERY).await;
    }
    screen.clear();
}
