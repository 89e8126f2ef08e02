//! N11 and the leader part of N12: members join and leave, lose their directory and come back as new
//! ones, and hand leadership over.
//!
//! What must hold: what was begun is ended, also when the run is over meanwhile: a cluster with a
//! member that does not exist would not be whole again. Whoever asks is told the truth by the member
//! id, because a name may belong to a new node.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Act, Kind, TARGET_MAX};
use crate::chaos::fleet::{Fleet, LOOK_MAX, State};
use crate::failure::{Failure, Result};
use crate::http1::Call;

/// Longest time for a change of members. While other faults take the majority away nothing changes.
const CHANGE_MAX: Duration = Duration::from_secs(300);
/// Longest time for one once the run is over, and with it every other fault: then it takes seconds.
const CHANGE_AFTER_MAX: Duration = Duration::from_secs(90);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a new leader may take until it is seen.
const LEADS_MAX: Duration = Duration::from_secs(5);

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    match act.planned.kind {
        Kind::AddRemove => add_and_remove(act).await,
        Kind::Replace => replace(act).await,
        _ => transfer(act).await,
    }
}

async fn add_and_remove(act: &mut Act) -> Result<()> {
    let fleet = Arc::clone(&act.arena.fleet);
    let look = || {
        let spare = fleet.free(State::Spare).first().copied()?;
        fleet.claim(spare)
    };
    let claim = act.wait_for(TARGET_MAX, look).await;
    let claim = claim.ok_or_else(|| Failure::new("no spare node is free"))?;
    let (at, name) = (claim.at, fleet.name(claim.at).to_owned());
    act.asked(&[at]);
    fleet.describe(at, true);
    fleet.start(at)?;
    let joined = become_voter(act, &name, None).await;
    if let Ok(id) = &joined {
        act.acted(format!("{name} has a vote as member {id}"), 1);
        act.rest(act.planned.lasts).await;
    }
    let gone = leave(act, &name, &mut Patience::new()).await;
    if let Ok(count) = &gone {
        act.acted(format!("{name} is no member any more"), *count);
    }
    let killed = fleet.kill(at);
    fleet.wipe(at)?;
    fleet.set_state(at, State::Spare);
    joined.map(drop).and(gone.map(drop)).and(killed.map(drop))
}

/// A node loses everything and comes back as a new member under its name.
async fn replace(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let Ok(_alone) = arena.losing.try_lock() else {
        return Err(Failure::new("another node is losing what it has"));
    };
    let fleet = &arena.fleet;
    let running = act.shuffled(fleet.alive());
    let look = || {
        let free = fleet.free(State::Up);
        let mut free = running.iter().filter(|at| free.contains(at));
        free.find_map(|at| fleet.claim(*at))
    };
    let claim = act.wait_for(TARGET_MAX, look).await;
    let claim = claim.ok_or_else(|| Failure::new("no node is free"))?;
    let at = claim.at;
    act.asked(&[at]);
    fleet.kill(at)?;
    act.rest(act.planned.lasts).await;
    let joined = rejoin(act, at).await;
    if joined.is_err() && fleet.process_id(at).is_none() {
        // It is still a member, and has what it had.
        fleet.start(at)?;
    }
    let id = joined?;
    act.acted(format!("{} is back as member {id}", fleet.name(at)), 1);
    Ok(())
}

/// Has a node that does not run leave the cluster, wipes it, and has it join as a new member with a
/// vote; returns its new id.
pub(super) async fn rejoin(act: &Act, at: usize) -> Result<u64> {
    let fleet = act.fleet();
    let name = fleet.name(at).to_owned();
    let old = leave_as(act, &name).await?;
    fleet.wipe(at)?;
    fleet.describe(at, true);
    fleet.start(at)?;
    become_voter(act, &name, old).await
}

/// Takes a member out; returns the id it had.
async fn leave_as(act: &Act, name: &str) -> Result<Option<u64>> {
    let mut patience = Patience::new();
    loop {
        if let Ok(cluster) = view(act.fleet()).await {
            let old = member(&cluster, name).and_then(|member| member["id"].as_u64());
            leave(act, name, &mut patience).await?;
            return Ok(old);
        }
        patience.wait(act, name, "be looked at").await?;
    }
}

/// Takes a member out and waits until it is.
async fn leave(act: &Act, name: &str, patience: &mut Patience) -> Result<u64> {
    let path = format!("/v1/cluster/members/{name}?timeout=2s");
    loop {
        if let Ok(cluster) = view(act.fleet()).await
            && member(&cluster, name).is_none()
            && cluster["changing"] == false
        {
            return Ok(1);
        }
        change(act.fleet(), &Call::delete(&path)).await;
        patience.wait(act, name, "leave").await?;
    }
}

/// Waits until a node is a member other than `old`, and gives it a vote; returns its id.
async fn become_voter(act: &Act, name: &str, old: Option<u64>) -> Result<u64> {
    let mut patience = Patience::new();
    let path = format!("/v1/cluster/members/{name}:promote?timeout=2s");
    loop {
        if let Ok(cluster) = view(act.fleet()).await
            && let Some(member) = member(&cluster, name)
            && let Some(id) = member["id"].as_u64().filter(|id| Some(*id) != old)
        {
            if member["voter"] == true && member["changing"] == false {
                return Ok(id);
            }
            change(act.fleet(), &Call::post(&path, &Value::Null).text("")).await;
        }
        patience.wait(act, name, "get a vote").await?;
    }
}

/// How long a change is waited for.
struct Patience {
    ends: Instant,
    is_over: bool,
}

impl Patience {
    fn new() -> Patience {
        Patience {
            ends: Instant::now() + CHANGE_MAX,
            is_over: false,
        }
    }

    /// Waits before another try.
    async fn wait(&mut self, act: &Act, name: &str, what: &str) -> Result<()> {
        if !self.is_over && act.is_over() {
            self.is_over = true;
            self.ends = self.ends.min(Instant::now() + CHANGE_AFTER_MAX);
        }
        if Instant::now() >= self.ends {
            return Err(Failure::new(format!(
                "{name} could not {what} within {CHANGE_MAX:?}, or {CHANGE_AFTER_MAX:?} after the run"
            )));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// The cluster as its leader sees it.
async fn view(fleet: &Fleet) -> Result<Value> {
    let leader = fleet.leader().ok_or_else(|| Failure::new("nobody leads"))?;
    let call = Call::get("/v1/cluster");
    let cluster = fleet.ask(leader.at, &call, LOOK_MAX).await?;
    let me = member(&cluster, fleet.name(leader.at));
    // One that leads no more may not know who is a member.
    match me.is_some_and(|me| me["role"] == "leader") {
        true => Ok(cluster),
        false => Err(Failure::new("it leads no more")),
    }
}

fn member<'a>(cluster: &'a Value, name: &str) -> Option<&'a Value> {
    let members = cluster["members"].as_array()?;
    members.iter().find(|member| member["name"] == *name)
}

/// Asks for a change through whoever leads. Whatever the answer: what came of it is looked at.
async fn change(fleet: &Fleet, call: &Call) {
    if let Some(leader) = fleet.leader() {
        let _ = fleet.ask(leader.at, call, LOOK_MAX).await;
    }
}

/// Has another voter lead.
async fn transfer(act: &mut Act) -> Result<()> {
    let fleet = Arc::clone(&act.arena.fleet);
    act.asked(&[]);
    for _ in 0..5 {
        let before = act.leader().await?;
        let others = fleet.free(State::Up);
        let others = act.shuffled(others.into_iter().filter(|at| *at != before));
        let Some(to) = others.first().copied() else {
            act.rest(PAUSE).await;
            continue;
        };
        let through = *others.last().unwrap_or(&to);
        let name = fleet.name(to);
        let path = format!("/v1/cluster:transfer-leader?to={name}&timeout=3s");
        let call = Call::post(path, &Value::Null).text("");
        // What came of it is looked at.
        let _ = fleet.ask(through, &call, LOOK_MAX).await;
        let leads = || (fleet.leader()?.at == to).then_some(());
        if act.wait_for(LEADS_MAX, leads).await.is_some() {
            act.acted(format!("{name} leads"), 1);
            return Ok(());
        }
        if act.is_over() {
            break;
        }
    }
    Err(Failure::new("nobody took over"))
}
