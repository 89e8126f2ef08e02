//! N8: a file of one node that does not run is damaged. The node then refuses to start, and comes back
//! as a new member; or it has what it needs elsewhere, and goes on.
//!
//! What must hold: one node at a time, so that what it lost is still with a majority. A node that
//! neither refuses nor opens its directory has not dealt with it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::members::rejoin;
use super::{Act, TARGET_MAX};
use crate::chaos::fleet::{Claim, Fleet, LOOK_MAX, State};
use crate::failure::{Failure, Result};
use crate::http1::Call;

/// Longest time for a node to refuse its directory or to open it. Other faults go on meanwhile.
const DECIDED_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Where a node keeps its history, which it makes anew when it cannot be read.
const HISTORY: &str = "state";
const LOG: &str = "log";
/// So many bytes at the end of a file count as written last.
const RECENT: u64 = 8 << 10;
/// Opening a damaged one may panic in sled; the node has a thread for that, and goes on without.
const OPENS_HISTORY: &str = "thread 'history-open'";

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let Ok(_alone) = arena.losing.try_lock() else {
        return Err(Failure::new("another node is losing what it has"));
    };
    let fleet = &arena.fleet;
    let founders = 0..fleet.layout().size;
    let running = act.shuffled(founders);
    let look = || {
        let mut free = fleet.free(State::Up);
        free.retain(|at| running.contains(at));
        fleet.claim(*running.iter().find(|at| free.contains(at))?)
    };
    let claim = act.wait_for(TARGET_MAX, look).await;
    let claim = claim.ok_or_else(|| Failure::new("no node is free"))?;
    act.asked(&[claim.at]);
    fleet.kill(claim.at)?;
    act.rest(act.planned.lasts).await;
    let log_began = fleet.log(claim.at).len();
    let (file, what) = hurt(&fleet.data(claim.at), &mut act.random)?;
    if file.starts_with(HISTORY) {
        fleet.expect_once(claim.at, log_began, OPENS_HISTORY);
    }
    fleet.forget_unsynced(claim.at)?;
    fleet.start(claim.at)?;
    settle(act, fleet, &claim, &what).await
}

/// Waits for what the node makes of it, and has it rejoin if it refuses.
async fn settle(act: &mut Act, fleet: &Fleet, claim: &Claim<'_>, what: &str) -> Result<()> {
    let (at, name) = (claim.at, fleet.name(claim.at));
    let end = Instant::now() + DECIDED_MAX;
    loop {
        if fleet.process_id(at).is_none() {
            let output = fleet.output(at);
            let last = output.lines().last().unwrap_or_default().to_owned();
            act.acted(format!("{what}: {name} refused it: {last}"), 1);
            fleet.set_state(at, State::Down);
            rejoin(act, at).await?;
            return Ok(());
        }
        // It says so once it has opened everything; whether it gets ready is up to the others, too.
        if fleet
            .ask(at, &Call::get("/v1/cluster"), LOOK_MAX)
            .await
            .is_ok()
        {
            act.acted(format!("{what}: {name} goes on"), 1);
            return Ok(());
        }
        if Instant::now() >= end {
            act.complain(format!(
                "{what}: {name} neither refused it nor opened it within {DECIDED_MAX:?}"
            ));
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Damages one file; returns where it is in the directory, and what was done.
fn hurt(data: &Path, random: &mut StdRng) -> Result<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(data, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(format!("{} has no files", data.display())));
    }
    // Half of it hits the log: nowhere else is so much that is nowhere else on this node.
    let is_log = |file: &&PathBuf| file.starts_with(data.join(LOG));
    let logs: Vec<&PathBuf> = files.iter().filter(is_log).collect();
    let file = match logs.is_empty() || random.random_bool(0.5) {
        true => &files[random.random_range(0..files.len())],
        false => logs[random.random_range(0..logs.len())],
    };
    let inside = file.strip_prefix(data).unwrap_or(file);
    let shown = inside.display();
    let length = fs::metadata(file)?.len();
    let written = written(file)?;
    // Half of it hits what was written last, which may be on few other nodes.
    let from = match random.random_bool(0.5) {
        true => 0,
        false => written.saturating_sub(RECENT),
    };
    let place = random.random_range(from..written);
    let what = match random.random_range(0..5) {
        0 => {
            fs::OpenOptions::new()
                .write(true)
                .open(file)?
                .set_len(place)?;
            format!("{shown} was cut from {length} to {place} bytes")
        }
        1 => {
            let count = (length - place).min(4_096);
            let open = fs::OpenOptions::new().write(true).open(file)?;
            open.write_all_at(&vec![0; count as usize], place)?;
            format!("{count} bytes of {shown} at {place} are 0")
        }
        2 => {
            fs::remove_file(file)?;
            format!("{shown} of {length} bytes is gone")
        }
        3 => {
            let other = &files[random.random_range(0..files.len())];
            let bytes = fs::read(other)?;
            fs::write(file, bytes)?;
            let other = other.strip_prefix(data).unwrap_or(other).display();
            format!("{shown} has the bytes of {other}")
        }
        _ => {
            let open = fs::OpenOptions::new().read(true).write(true).open(file)?;
            let mut byte = [0];
            open.read_exact_at(&mut byte, place)?;
            byte[0] ^= 1 << random.random_range(0..8);
            open.write_all_at(&byte, place)?;
            format!("a bit of {shown} at {place} of {length} is flipped")
        }
    };
    Ok((inside.to_owned(), what))
}

/// How much of a file has been written to: what a segment of the log is filled up with is zeros.
fn written(file: &Path) -> Result<u64> {
    let bytes = fs::read(file)?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(bytes.len(), |last| last + 1) as u64)
}

/// Every file that is not empty.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if fs::metadata(&path)?.len() > 0 {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn every_damage_changes_the_directory() {
        for seed in 0..50 {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join(LOG)).unwrap();
            for (name, byte, unused) in [("one", 1, 0), ("log/two", 2, 9_000), ("log/three", 3, 0)]
            {
                let mut bytes = vec![byte; 100 + usize::from(byte)];
                bytes.resize(bytes.len() + unused, 0);
                fs::write(directory.path().join(name), bytes).unwrap();
            }
            let read = || {
                let mut files = Vec::new();
                collect(directory.path(), &mut files).unwrap();
                files.sort();
                let bytes: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
                (files, bytes)
            };
            let before = read();
            let mut random = StdRng::seed_from_u64(seed);
            let (_, what) = hurt(directory.path(), &mut random).unwrap();
            // A file may get its own bytes.
            let same = what.split(" has the bytes of ").collect::<Vec<_>>();
            assert_eq!(
                before == read(),
                same.len() == 2 && same[0] == same[1],
                "{what}"
            );
        }
    }
}
