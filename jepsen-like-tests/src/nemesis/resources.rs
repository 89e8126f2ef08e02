//! N9 and the rest of N12: a disk that is full, cores that others want, files that may not be opened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Act, Kind, TARGET_MAX};
use crate::chaos::fleet::{Claim, Fleet, LOOK_MAX, State};
use crate::failure::{Failure, Result};
use crate::http1::Call;

/// Longest wait for an answer of a node that may open no file.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Between two looks whether a node has opened its directory.
const LOOK: Duration = Duration::from_millis(50);
/// A new file gets the lowest number that is free, which must be below this: none is.
const FILES_MAX: u64 = 3;
/// Threads that burn, for each core.
const BURNERS: usize = 3;

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    match act.planned.kind {
        Kind::Cpu => cpu(act).await,
        Kind::Files => files(act).await,
        _ => disk(act).await,
    }
}

/// Burns all cores and shows that nodes waited for one.
async fn cpu(act: &mut Act) -> Result<()> {
    act.asked(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let before = waiting(act.fleet());
    let burners: Vec<_> = (0..cores * BURNERS)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || burn(&stop))
        })
        .collect();
    let mut after = before.clone();
    let end = tokio::time::Instant::now() + act.planned.lasts;
    while tokio::time::Instant::now() < end && !act.is_over() {
        act.rest(Duration::from_millis(200)).await;
        // Threads end with their nodes; what was seen of them counts.
        after.extend(waiting(act.fleet()));
    }
    stop.store(true, Ordering::Relaxed);
    let panicked = burners.into_iter().filter_map(|burner| burner.join().err());
    let panicked = panicked.count();
    let waited = after
        .iter()
        .map(|(thread, time)| time - before.get(thread).unwrap_or(&0));
    let waited: u64 = waited.sum();
    let text = format!("nodes waited {} ms for a core", waited / 1_000_000);
    act.acted(text, waited / 1_000_000);
    match panicked {
        0 => Ok(()),
        _ => Err(Failure::new("a busy thread panicked")),
    }
}

fn burn(stop: &AtomicBool) {
    let mut number = 1u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100_000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

/// For each thread of each node: nanoseconds that it was ready to run and did not.
fn waiting(fleet: &Fleet) -> BTreeMap<PathBuf, u64> {
    let ids = (0..fleet.members().len()).filter_map(|at| fleet.process_id(at));
    let threads = ids.flat_map(|id| {
        let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
        tasks.into_iter().flatten()
    });
    let times = threads.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((task.path(), text.split_whitespace().nth(1)?.parse().ok()?))
    });
    times.collect()
}

/// Takes one node that runs and that no other fault has.
async fn one<'a>(act: &mut Act, fleet: &'a Fleet, of: Vec<usize>) -> Result<Claim<'a>> {
    let wanted = act.shuffled(of);
    let look = || {
        let free = fleet.free(State::Up);
        let mut wanted = wanted.iter().filter(|at| free.contains(at));
        wanted.find_map(|at| fleet.claim(*at))
    };
    let claim = act.wait_for(TARGET_MAX, look).await;
    claim.ok_or_else(|| Failure::new("no node is free"))
}

/// Waits until a node has opened what it needs: one that cannot ends, as it should.
async fn opened(act: &Act, fleet: &Fleet, at: usize) -> Result<()> {
    let call = Call::get("/v1/cluster");
    let end = tokio::time::Instant::now() + TARGET_MAX;
    while fleet.ask(at, &call, LOOK_MAX).await.is_err() {
        if tokio::time::Instant::now() >= end || act.is_over() {
            return Err(Failure::new("the node did not open its directory in time"));
        }
        act.rest(LOOK).await;
    }
    Ok(())
}

/// Lets a node open no more files than it has, and shows that it does not answer new connections.
async fn files(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let claim = one(act, &arena.fleet, arena.fleet.alive()).await?;
    let at = claim.at;
    act.asked(&[at]);
    opened(act, &arena.fleet, at).await?;
    let id = arena.fleet.process_id(at).unwrap_or_default();
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new("the node has just ended"))?;
    let open = std::fs::read_dir(format!("/proc/{id}/fd"))?.count();
    let ours = getrlimit(Resource::Nofile);
    let limit = |current| Rlimit {
        current,
        maximum: ours.maximum,
    };
    let before = prlimit(Some(pid), Resource::Nofile, limit(Some(FILES_MAX)))
        .map_err(|why| Failure::during("prlimit", why))?;
    let mut unanswered = 0;
    let end = tokio::time::Instant::now() + act.planned.lasts;
    while tokio::time::Instant::now() < end && !act.is_over() {
        let asked = arena.fleet.ask(at, &Call::get("/livez"), ANSWER_MAX).await;
        unanswered += u64::from(asked.is_err());
        act.rest(Duration::from_millis(200)).await;
    }
    // It may have ended meanwhile.
    let _ = prlimit(Some(pid), Resource::Nofile, before);
    let name = arena.fleet.name(at);
    act.acted(
        format!("{name} has {open} files and may open none; {unanswered} calls had no answer"),
        unanswered,
    );
    if arena.fleet.process_id(at).is_none() {
        act.complain(format!("{name} ended because it could open no file"));
        arena.fleet.set_state(at, State::Down);
        arena.fleet.start(at)?;
    }
    Ok(())
}

/// Fills the small disk of a node and shows that it was full.
async fn disk(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let small: Vec<usize> = arena.disks.keys().copied().collect();
    let claim = one(act, &arena.fleet, small).await?;
    let at = claim.at;
    act.asked(&[at]);
    let Some(disk) = arena.disks.get(&at) else {
        return Err(Failure::new("the node has no small disk"));
    };
    let left = [0, 1 << 20, 8 << 20][act.random.random_range(0..3)];
    let filler = disk.fill("filler", left)?;
    let free = disk.free_bytes()?;
    act.rest(act.planned.lasts).await;
    std::fs::remove_file(filler)?;
    let name = arena.fleet.name(at);
    act.acted(
        format!("{name} had {free} bytes left"),
        u64::from(free <= left),
    );
    if arena.fleet.process_id(at).is_none() {
        act.complain(format!("{name} ended because its disk was full"));
        arena.fleet.set_state(at, State::Down);
        arena.fleet.start(at)?;
    }
    Ok(())
}
