//! Writes to three real nodes for a long time and looks whether anything grows.
//!
//! Settings make everything happen often: a snapshot and a purge every hundred entries, two threads
//! that keep two cores busy beside the nodes, a node killed or stopped every so often and started
//! again. Once a second disk, memory and open files of each node are read. The run fails when the last
//! third of it needs more than the thirds before, when a node panicked or ended by itself, when nobody
//! could write for long, or when the nodes are not the same at the end (I4).
//!
//! Left out: faults between nodes, and clients that stream.

mod samples;
mod settings;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use jepsen_like_tests::checkers::judge::Judgement;
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result, tool};
use serde_json::json;
use tokio::task::JoinSet;

use crate::samples::{Sample, Samples};
use crate::settings::Settings;

const NODES: usize = 3;
const ANSWER_MAX: Duration = Duration::from_secs(10);
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a node that was ended stays away.
const AWAY: Duration = Duration::from_secs(3);
/// How long a node may take until it is ready, on cores that are busy.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long nobody may be able to write.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What a node says that must never end by itself.
const FATAL: [&str; 4] = [
    "panicked at",
    "this node stops",
    "the storage ended",
    "is not what its ground state compiles to",
];

fn main() -> ExitCode {
    tool::judge(run)
}

/// What writers and the one who watches them share.
struct Work {
    addresses: Vec<String>,
    flags: usize,
    stop: AtomicBool,
    written: AtomicU64,
    /// Why the last write that was not taken was not.
    refusal: Mutex<String>,
}

async fn run(settings: Settings) -> Result<Judgement> {
    let options = Options {
        data: settings.data.clone(),
        arguments: vec![
            "--snapshot-every".into(),
            settings.snapshot_every.to_string(),
        ],
        ..Options::default()
    };
    let mut cluster = Cluster::start(NODES, options).await?;
    let work = Arc::new(Work {
        addresses: cluster.addresses(),
        flags: settings.flags,
        stop: AtomicBool::new(false),
        written: AtomicU64::new(0),
        refusal: Mutex::default(),
    });
    let mut burners = Vec::new();
    for _ in 0..settings.burners {
        let work = Arc::clone(&work);
        burners.push(std::thread::spawn(move || burn(&work.stop)));
    }
    let mut writers = JoinSet::new();
    for writer in 0..settings.writers {
        writers.spawn(write_until_stopped(
            Arc::clone(&work),
            writer,
            settings.writers,
        ));
    }
    let watched = watch(&settings, &mut cluster, &work).await;
    work.stop.store(true, Ordering::Relaxed);
    while writers.join_next().await.is_some() {}
    for burner in burners {
        burner
            .join()
            .map_err(|_| Failure::new("a busy thread panicked"))?;
    }
    let (samples, mut faults) = watched?;
    let end = match cluster.restart_all().await {
        Ok(()) => cluster.converged(READY_MAX).await,
        Err(why) => Err(why),
    };
    faults.extend(said_by_nodes(&cluster));
    let end = match end {
        Ok((version, digest)) => format!("all nodes have digest {digest} at version {version}"),
        Err(why) => {
            faults.push(format!("not the same at the end: {why}"));
            String::new()
        }
    };
    faults.extend(samples.growth());
    tool::print(report(&settings, &samples, &faults, &end))?;
    if faults.is_empty() {
        return Ok(Judgement::Valid);
    }
    cluster.keep_data();
    Ok(Judgement::Invalid)
}

/// Keeps a core busy, as a neighbour would.
fn burn(stop: &AtomicBool) {
    let mut number = 1u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

/// One writer: the same few flags again and again, so that what is live stays as large as it is.
async fn write_until_stopped(work: Arc<Work>, writer: usize, writers: usize) {
    let mut versions: HashMap<usize, u64> = HashMap::new();
    let (mut at, mut flag) = (writer, writer);
    while !work.stop.load(Ordering::Relaxed) {
        let address = &work.addresses[at % work.addresses.len()];
        at += 1;
        let Ok(mut connection) = Connection::open(address).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // A node that refuses or does not answer: another one may know better.
        while !work.stop.load(Ordering::Relaxed) {
            flag = if flag + writers < work.flags {
                flag + writers
            } else {
                writer
            };
            let known = versions.remove(&flag);
            match write_one(&work, &mut connection, flag, known).await {
                Ok(version) => {
                    work.written.fetch_add(1, Ordering::Relaxed);
                    versions.insert(flag, version);
                }
                Err(why) => {
                    *work.refusal.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    break;
                }
            }
        }
    }
}

/// Writes a flag, which is looked at first when nobody knows its version; returns the new version.
async fn write_one(
    work: &Work,
    connection: &mut Connection,
    flag: usize,
    known: Option<u64>,
) -> Result<u64> {
    let path = format!("/v1/flags/soak-{flag}");
    let number = work.written.load(Ordering::Relaxed);
    let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "description": format!("written by scripts/soak, {number} before it"), "tags": ["soak"]});
    let call = Call::put(&path, &config);
    let call = match known {
        Some(version) => call.if_at(version),
        None => {
            let looked = connection.send(&Call::get(&path), ANSWER_MAX).await;
            let found = looked.map_err(Failure::new)?;
            match found.json()["version"].as_u64() {
                Some(version) => call.if_at(version),
                None if found.status == StatusCode::NOT_FOUND => call.if_absent(),
                None => return Err(Failure::during("a flag cannot be read", found.shown())),
            }
        }
    };
    let answer = connection
        .send(&call, ANSWER_MAX)
        .await
        .map_err(Failure::new)?;
    let version = answer
        .status
        .is_success()
        .then(|| answer.decided())
        .flatten();
    version.ok_or_else(|| Failure::during("a write was not taken", answer.shown()))
}

/// Samples, and ends nodes and starts them again, until the time is over. Returns what went wrong.
async fn watch(
    settings: &Settings,
    cluster: &mut Cluster,
    work: &Work,
) -> Result<(Samples, Vec<String>)> {
    let begin = Instant::now();
    let mut samples = Samples::new(NODES);
    let mut faults = Vec::new();
    let mut away: Option<(usize, Instant)> = None;
    let (mut restarts, mut last_write) = (0u32, (0, Instant::now()));
    while begin.elapsed() < settings.seconds {
        tokio::time::sleep(SAMPLE_PAUSE).await;
        for at in 0..NODES {
            let expected = away.is_none_or(|(node, _)| node != at);
            match cluster.process(at).id() {
                Some(id) => samples.add(at, begin.elapsed(), Sample::of(id, &cluster.data(at))),
                None if expected => {
                    faults.push(format!("n{} ended by itself", at + 1));
                    return Ok((samples, faults));
                }
                None => {}
            }
        }
        let written = work.written.load(Ordering::Relaxed);
        samples.writes.push((begin.elapsed(), written));
        if written != last_write.0 {
            last_write = (written, Instant::now());
        } else if last_write.1.elapsed() > SILENCE_MAX {
            let refusal = work.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            faults.push(format!("nobody could write for {SILENCE_MAX:?}: {refusal}"));
            return Ok((samples, faults));
        }
        match away {
            Some((at, since)) if since.elapsed() >= AWAY => {
                cluster.process(at).start()?;
                away = None;
            }
            None if begin.elapsed() > settings.restart_every * (restarts + 1) => {
                let at = restarts as usize % NODES;
                end(cluster, at, restarts % 2 == 0).await?;
                restarts += 1;
                away = Some((at, Instant::now()));
            }
            _ => {}
        }
    }
    samples.restarts = restarts;
    Ok((samples, faults))
}

/// Ends a node at once, or asks it to stop.
async fn end(cluster: &mut Cluster, at: usize, at_once: bool) -> Result<()> {
    if at_once {
        return cluster.kill(at);
    }
    cluster.process(at).terminate()?;
    cluster.process(at).ended(READY_MAX).await.map(drop)
}

/// Lines of the nodes that must not be there.
fn said_by_nodes(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for at in 0..NODES {
        let name = format!("n{}", at + 1);
        let log = cluster.directory().join(format!("{name}.log"));
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let bad = text
            .lines()
            .filter(|line| FATAL.iter().any(|fatal| line.contains(fatal)));
        found.extend(bad.map(|line| format!("{name} said: {line}")));
    }
    found
}

fn report(settings: &Settings, samples: &Samples, faults: &[String], end: &str) -> String {
    let mut text = format!(
        "{} s, {} writers on {} flags, a snapshot every {} entries, {} busy threads beside three nodes, \
         {} ends and starts\n\n{}\n{end}\n",
        settings.seconds.as_secs(),
        settings.writers,
        settings.flags,
        settings.snapshot_every,
        settings.burners,
        samples.restarts,
        samples.table(),
    );
    match faults {
        [] => text += "verdict: flat",
        _ => text += &format!("verdict: FAILED\n  {}", faults.join("\n  ")),
    }
    text
}
