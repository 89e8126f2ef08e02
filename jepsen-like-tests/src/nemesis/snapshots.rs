//! N5: a node is away until the others have purged what it lacks, so that it needs a snapshot. That
//! snapshots are made all the time is a setting of the run.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Act, TARGET_MAX};
use crate::chaos::fleet::{Fleet, LOOK_MAX, State};
use crate::failure::{Failure, Result};
use crate::http1::{Call, Connection};
use crate::workloads::registers::flag_config;

/// Entries beyond those that are certainly kept.
const MORE: u64 = 200;
/// The longest that a node is away.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// How long a snapshot may take to arrive, while other faults go on.
const ARRIVES_MAX: Duration = Duration::from_secs(20);
/// All of it, until it is seen whether it acted.
pub(super) const NEEDS_MAX: Duration = TARGET_MAX
    .saturating_add(AWAY_MAX)
    .saturating_add(ARRIVES_MAX);
/// Writes between two looks.
const FILL: usize = 20;
/// Longest wait for the answer to one of them.
const FILL_MAX: Duration = Duration::from_secs(1);
/// What a leader says when somebody has a snapshot.
const TAKEN: &str = "a snapshot was taken";

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    let fleet = Arc::clone(&act.arena.fleet);
    let running = act.shuffled(fleet.alive());
    let look = || {
        let leader = fleet.leader()?;
        let others = running.iter().filter(|at| **at != leader.at);
        let free = fleet.free(State::Up);
        others
            .filter(|at| free.contains(at))
            .find_map(|at| fleet.claim(*at))
    };
    let claim = act.wait_for(TARGET_MAX, look).await;
    let claim = claim.ok_or_else(|| Failure::new("no follower is free"))?;
    let at = claim.at;
    act.asked(&[at]);
    let before = taken(&fleet, at);
    let from = newest(&fleet).await.unwrap_or_default();
    fleet.kill(at)?;
    // So many are kept behind the newest snapshot, which is being written while others come.
    let away = 4 * every(&fleet) + MORE;
    let end = tokio::time::Instant::now() + AWAY_MAX;
    while tokio::time::Instant::now() < end && !act.is_over() {
        fill(&fleet).await;
        if newest(&fleet)
            .await
            .is_some_and(|version| version >= from + away)
        {
            break;
        }
    }
    let missed = newest(&fleet).await.unwrap_or(from).saturating_sub(from);
    fleet.start(at)?;
    drop(claim);
    let look = || (taken(&fleet, at) > before).then_some(());
    let arrived = act.wait_for(ARRIVES_MAX, look).await;
    let name = fleet.name(at);
    match arrived {
        Some(()) => act.acted(
            format!("{name} missed {missed} entries and took a snapshot"),
            1,
        ),
        None => act.acted(
            format!("{name} missed {missed} entries and took no snapshot"),
            0,
        ),
    }
    Ok(())
}

fn every(fleet: &Fleet) -> u64 {
    fleet.layout().snapshot_every
}

/// Writes a flag that nobody looks at, some times, so that the log grows also when clients are slow.
async fn fill(fleet: &Fleet) {
    let Some(leader) = fleet.leader() else {
        tokio::time::sleep(Duration::from_millis(50)).await;
        return;
    };
    let address = fleet.members()[leader.at].api.to_string();
    let Ok(mut connection) = Connection::open(&address).await else {
        return;
    };
    for number in 0..FILL {
        let value = flag_config(&number.to_string());
        let item = json!([{"op": "put", "kind": "flag", "key": "filler", "value": value}]);
        let call = Call::post("/v1/changes", &item);
        // Whether it was taken shows in the version.
        if connection.send(&call, FILL_MAX).await.is_err() {
            return;
        }
    }
}

/// How many snapshots were taken by a node, as those say who sent them.
fn taken(fleet: &Fleet, at: usize) -> usize {
    let to = format!("to=\"{}\"", fleet.name(at));
    let bare = format!("to={}", fleet.name(at));
    let logs = (0..fleet.members().len()).map(|other| fleet.log(other));
    logs.map(|log| {
        let lines = log.lines().filter(|line| line.contains(TAKEN));
        lines
            .filter(|line| line.contains(&to) || line.contains(&bare))
            .count()
    })
    .sum()
}

/// The newest version that anybody has.
async fn newest(fleet: &Fleet) -> Option<u64> {
    let at = fleet.leader()?.at;
    let cluster = fleet.ask(at, &Call::get("/v1/cluster"), LOOK_MAX).await;
    cluster.ok()?["version"].as_u64()
}
