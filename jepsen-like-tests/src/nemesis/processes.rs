//! N1 and N2: processes are killed, asked to stop, or stopped where they are.

use std::time::Duration;

use super::{Act, Kind, TARGET_MAX};
use crate::chaos::fleet::{Claim, Fleet, State};
use crate::failure::{Failure, Result};

/// Longest wait for a node that was asked to stop.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the system to say that a process was stopped.
const STATE_MAX: Duration = Duration::from_secs(2);

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    let arena = std::sync::Arc::clone(&act.arena);
    let claims = choose(act, &arena.fleet).await?;
    let targets: Vec<usize> = claims.iter().map(|claim| claim.at).collect();
    act.asked(&targets);
    match act.planned.kind {
        Kind::StopOne => stop(act, &targets).await,
        Kind::PauseOne | Kind::PauseLeader | Kind::PauseMajority => pause(act, &targets).await,
        _ => kill(act, &targets).await,
    }
}

/// Takes the nodes that are to be hit.
async fn choose<'a>(act: &mut Act, fleet: &'a Fleet) -> Result<Vec<Claim<'a>>> {
    let kind = act.planned.kind;
    if matches!(kind, Kind::KillLeader | Kind::PauseLeader) {
        let look = || fleet.claim(fleet.leader()?.at);
        let claim = act.wait_for(TARGET_MAX, look).await;
        let claim = claim.ok_or_else(|| Failure::new("nobody led whom no other fault had"))?;
        return Ok(vec![claim]);
    }
    let voters = fleet.layout().size;
    let count = match kind {
        Kind::KillMinority => (voters - 1) / 2,
        Kind::KillMajority | Kind::PauseMajority => voters / 2 + 1,
        Kind::KillAll => voters,
        _ => 1,
    };
    let enough = || (fleet.free(State::Up).len() >= count).then_some(());
    act.wait_for(TARGET_MAX, enough).await;
    let free = act.shuffled(fleet.free(State::Up));
    let chosen = if kind == Kind::KillAll {
        free.len()
    } else {
        count
    };
    let claims: Vec<Claim<'a>> = free
        .into_iter()
        .filter_map(|at| fleet.claim(at))
        .take(chosen)
        .collect();
    match claims.len() >= count {
        true => Ok(claims),
        false => Err(Failure::new(format!(
            "{} of {count} nodes could be had; other faults have the others",
            claims.len()
        ))),
    }
}

async fn kill(act: &mut Act, targets: &[usize]) -> Result<()> {
    let mut gone = Vec::new();
    for at in targets {
        gone.push(act.fleet().kill(*at)?);
    }
    let really = gone.iter().filter(|id| state_of(**id).is_none()).count();
    act.acted(format!("processes {gone:?} are gone"), really as u64);
    act.rest(act.planned.lasts).await;
    start_again(act, targets).await
}

async fn stop(act: &mut Act, targets: &[usize]) -> Result<()> {
    for at in targets {
        let id = act.fleet().process_id(*at).unwrap_or_default();
        if let Err(why) = act.fleet().stop(*at, STOP_MAX).await {
            act.complain(format!(
                "{} was asked to stop: {why}",
                act.fleet().name(*at)
            ));
        }
        let gone = u64::from(state_of(id).is_none());
        act.acted(format!("process {id} has ended"), gone);
    }
    act.rest(act.planned.lasts).await;
    start_again(act, targets).await
}

/// Starts nodes, sometimes all at once and sometimes one after the other.
async fn start_again(act: &mut Act, targets: &[usize]) -> Result<()> {
    let together = act.chance(2);
    for at in act.shuffled(targets.iter().copied()) {
        act.fleet().start(at)?;
        if !together {
            act.rest(Duration::from_millis(300)).await;
        }
    }
    Ok(())
}

async fn pause(act: &mut Act, targets: &[usize]) -> Result<()> {
    let mut stopped = 0;
    let mut ids = Vec::new();
    for at in targets {
        act.fleet().pause(*at)?;
    }
    for at in targets {
        let id = act.fleet().process_id(*at).unwrap_or_default();
        ids.push(id);
        let look = || (state_of(id) == Some('T')).then_some(());
        stopped += u64::from(act.wait_for(STATE_MAX, look).await.is_some());
    }
    act.acted(format!("processes {ids:?} are in state T"), stopped);
    act.rest(act.planned.lasts).await;
    for at in targets {
        act.fleet().resume(*at)?;
    }
    Ok(())
}

/// The state of a process as the system says it; `None` when there is none.
pub(super) fn state_of(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Behind the name, which is in brackets and may hold anything.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
