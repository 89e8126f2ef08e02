//! N6, N7 and the rest of N9: a node ends at a call of our choice, loses what it had not synced, or is
//! told by its disk that something failed.
//!
//! What must hold: after a sync or a write of the log or of a vote that failed, the node ends by itself: it
//! cannot know any more what is on its disk. Other errors it may survive for a while. Whatever happened, it
//! comes back with the directory it has, also when it ends once more while it opens that. (One that ends by
//! itself afterwards is noticed by the fleet.)

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::{Act, Kind, TARGET_MAX};
use crate::chaos::fleet::{Claim, Fleet, LOOK_MAX, State};
use crate::failure::{Failure, Result};
use crate::http1::Call;
use crate::shim::{Calls, Control, Moment};

const EIO: i32 = 5;
const EROFS: i32 = 30;
/// Parts of a data directory, and all of it, where there is most to hit.
const PARTS: [&str; 7] = ["/log/", "/hard/", "/snapshots/", "/state/", "/", "/", "/"];
/// Parts without which a node cannot go on.
const VITAL: [&str; 2] = ["/log/", "/hard/"];
/// Longest wait for a call that is to fail or to be the last.
const CALL_MAX: Duration = Duration::from_secs(4);
/// Longest time for a node to end whose log has failed, while other faults take its time.
const ENDS_MAX: Duration = Duration::from_secs(20);
/// The same for one that may go on.
const MAY_END_MAX: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(20);
/// What a node says that ends for its disk's sake.
const LAST_WORDS: [&str; 2] = ["this node stops", "the storage ended"];

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    match act.planned.kind {
        Kind::PowerAll => cut_all(act).await,
        Kind::PowerOne => cut_one(act).await,
        Kind::SyncError | Kind::WriteError | Kind::ReadOnly => fail(act).await,
        _ => end_at_call(act).await,
    }
}

/// Takes one node that runs.
async fn one<'a>(act: &mut Act, fleet: &'a Fleet) -> Result<(Claim<'a>, &'a Control)> {
    let wanted = act.shuffled(fleet.alive());
    let power = act.planned.kind == Kind::PowerOne;
    let look = || {
        let free = fleet.free(State::Up);
        let mut wanted = wanted.iter().filter(|at| free.contains(at));
        wanted.find_map(|at| {
            let control = fleet.control(*at)?;
            let fits = !power || control.undo().is_some();
            fits.then(|| fleet.claim(*at))?
                .map(|claim| (claim, control))
        })
    };
    let found = act.wait_for(TARGET_MAX, look).await;
    found.ok_or_else(|| Failure::new("no node is free"))
}

/// Orders a node to end at a call, and says which.
fn order(act: &mut Act, control: &Control, calls: Calls, most: f64) -> Result<()> {
    // Early ones as often as late ones, on a scale of factors.
    let nth = most.powf(act.random.random_range(0.0..1.0)) as u64;
    let moments = [Moment::Before, Moment::Half, Moment::After];
    let moment = moments[act.random.random_range(0..moments.len())];
    let part = PARTS[act.random.random_range(0..PARTS.len())];
    control.kill_at(calls, nth, moment, part)
}

/// Waits until a node has ended by itself; whether it did.
async fn ends(fleet: &Fleet, at: usize, how: &str, within: Duration) -> bool {
    let end = Instant::now() + within;
    while !fleet.has_ended(at, how) {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// N6.
async fn end_at_call(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let fleet = &arena.fleet;
    let (claim, control) = one(act, fleet).await?;
    let at = claim.at;
    act.asked(&[at]);
    let (calls, most, what) = match act.planned.kind {
        Kind::KillAtWrite => (Calls::Write, 300.0, "a write of"),
        Kind::KillAtSync => (Calls::Sync, 100.0, "a sync of"),
        _ => (Calls::Name, 6.0, "a new, renamed or removed"),
    };
    let before = control.counts()?.kills;
    order(act, control, calls, most)?;
    let ended = ends(fleet, at, "killed at a call", CALL_MAX).await;
    let again = act.chance(3);
    match ended && again {
        true => order(act, control, calls, 20.0)?,
        false => control.disarm()?,
    }
    // It may have ended just now.
    if !ended && !fleet.has_ended(at, "killed at a call") {
        return Ok(());
    }
    let count = control.counts()?.kills - before;
    let name = fleet.name(at);
    act.acted(format!("{name} ended at {what} {}", control.last()), count);
    act.rest(act.planned.lasts).await;
    fleet.start(at)?;
    if again {
        // Once more while it opens its directory.
        let twice = ends(fleet, at, "killed at a call while it opened", CALL_MAX).await;
        control.disarm()?;
        if twice || fleet.has_ended(at, "killed at a call") {
            fleet.start(at)?;
        }
    }
    Ok(())
}

/// N7, one node; at a sync of its log if that is drawn, so that something is lost for sure.
async fn cut_one(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let fleet = &arena.fleet;
    let (claim, control) = one(act, fleet).await?;
    let at = claim.at;
    act.asked(&[at]);
    let calls = [Calls::Write, Calls::Sync, Calls::Name];
    let calls = calls[act.random.random_range(0..calls.len())];
    order(act, control, calls, 50.0)?;
    let ended = ends(fleet, at, "power cut", Duration::from_secs(1)).await;
    control.disarm()?;
    if !ended && !fleet.has_ended(at, "power cut") {
        fleet.kill(at)?;
    }
    let lost = fleet.cut_power(at, &mut act.random)?;
    let name = fleet.name(at);
    act.acted(
        format!(
            "{name} lost {} writes and {} names",
            lost.writes, lost.names
        ),
        lost.writes + lost.names,
    );
    act.rest(act.planned.lasts).await;
    fleet.start(at)?;
    opens(act, fleet, at).await;
    Ok(())
}

/// N7, all nodes.
async fn cut_all(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let fleet = &arena.fleet;
    let most = fleet.layout().size / 2 + 1;
    let enough = || (fleet.free(State::Up).len() >= most).then_some(());
    act.wait_for(TARGET_MAX, enough).await;
    let free = act.shuffled(fleet.free(State::Up));
    let claims: Vec<Claim<'_>> = free.iter().filter_map(|at| fleet.claim(*at)).collect();
    if claims.len() < most {
        return Err(Failure::new("other faults have too many nodes"));
    }
    let targets: Vec<usize> = claims.iter().map(|claim| claim.at).collect();
    act.asked(&targets);
    for at in &targets {
        fleet.kill(*at)?;
    }
    let (mut writes, mut names) = (0, 0);
    for at in &targets {
        if fleet.control(*at).and_then(Control::undo).is_some() {
            let lost = fleet.cut_power(*at, &mut act.random)?;
            writes += lost.writes;
            names += lost.names;
        }
    }
    let text = format!(
        "{} nodes lost {writes} writes and {names} names",
        targets.len()
    );
    act.acted(text, writes + names);
    act.rest(act.planned.lasts).await;
    for at in &targets {
        fleet.start(*at)?;
    }
    for at in targets {
        opens(act, fleet, at).await;
    }
    Ok(())
}

/// Complains of a node that does not open its directory. While others are down it need not get ready.
async fn opens(act: &mut Act, fleet: &Fleet, at: usize) {
    let end = Instant::now() + ENDS_MAX;
    loop {
        let call = Call::get("/v1/cluster");
        if fleet.ask(at, &call, LOOK_MAX).await.is_ok() {
            return;
        }
        let gone = fleet.process_id(at).is_none();
        if gone || Instant::now() >= end {
            let output = fleet.output(at);
            let last = output.lines().last().unwrap_or_default();
            let name = fleet.name(at);
            act.complain(format!(
                "{name} does not open what a power cut left: {last}"
            ));
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// N9.
async fn fail(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let fleet = &arena.fleet;
    let (claim, control) = one(act, fleet).await?;
    let at = claim.at;
    act.asked(&[at]);
    let part = PARTS[act.random.random_range(0..PARTS.len())];
    // One that fails and then no more is worse: whoever tries again is told that all is well.
    let times = if act.chance(2) { 1 } else { u64::MAX };
    let (calls, errno, times, part): (&[Calls], _, _, _) = match act.planned.kind {
        Kind::SyncError => (&[Calls::Sync], EIO, times, part),
        Kind::WriteError => (&[Calls::Write], EIO, times, part),
        _ => (&[Calls::Write, Calls::Name], EROFS, u64::MAX, "/"),
    };
    let (log_began, before) = (fleet.log(at).len(), control.counts()?.failed());
    control.fail(calls, errno, times, part)?;
    let failed = || control.counts().ok().filter(|now| now.failed() > before);
    let hit = act.wait_for(CALL_MAX, failed).await;
    if hit.is_none() {
        return control.disarm();
    }
    let first = control.last();
    let vital = is_vital(&fleet.data(at), &first);
    let wait = if vital { ENDS_MAX } else { MAY_END_MAX };
    let ended = ends(fleet, at, "its disk failed", wait).await;
    let name = fleet.name(at);
    if vital && !ended {
        act.complain(format!("{name} goes on after an error at {first}"));
    }
    if ended && act.planned.kind == Kind::ReadOnly {
        begins_not(act, fleet, at).await?;
    }
    control.disarm()?;
    if !ended && !fleet.has_ended(at, "its disk failed") {
        // What it does without comes back with a start.
        fleet.kill(at)?;
    }
    let said = fleet.excuse(at, log_began, &LAST_WORDS);
    let said = said.last().map_or("", |line| line.as_str());
    let count = control.counts()?.failed() - before;
    let does = if ended { "ended" } else { "went on" };
    act.acted(
        format!(
            "{name} {does} after {count} errors, the last at {}: {said}",
            control.last()
        ),
        count,
    );
    act.rest(act.planned.lasts).await;
    fleet.start(at)
}

/// Whether a node cannot go on that was told of an error at this file. A segment of the log that is being
/// filled for later has no head yet: what failed there ends the log when it takes the segment.
fn is_vital(data: &Path, file: &str) -> bool {
    // The directory itself is one of its own.
    let inside = format!("{file}/");
    if !VITAL.iter().any(|part| inside.starts_with(part)) {
        return false;
    }
    let mut head = [0; 16];
    let open = File::open(data.join(file.trim_start_matches('/')));
    let read = open.and_then(|mut open| open.read_exact(&mut head));
    !(file.ends_with(".seg") && read.is_ok() && head == [0; 16])
}

/// A node on a disk that can only be read does not start, and says so.
async fn begins_not(act: &mut Act, fleet: &Fleet, at: usize) -> Result<()> {
    fleet.start(at)?;
    if !ends(fleet, at, "its disk can only be read", ENDS_MAX).await {
        let name = fleet.name(at);
        act.complain(format!("{name} runs on a disk that can only be read"));
        fleet.kill(at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_is_being_filled_is_not_vital() {
        let data = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(data.path().join(name), bytes);
        std::fs::create_dir(data.path().join("log")).unwrap();
        write("log/1.seg", b"a head, then records").unwrap();
        write("log/2.seg", &[0; 4096]).unwrap();
        write("log/MANIFEST", &[0; 4096]).unwrap();
        let vital = |file: &str| is_vital(data.path(), file);
        assert!(vital("/log/1.seg") && vital("/log/MANIFEST") && vital("/log"));
        assert!(vital("/hard/a") && vital("/log/3.seg"), "not there");
        assert!(!vital("/log/2.seg") && !vital("/state/g1/db"));
    }
}
