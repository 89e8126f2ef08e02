//! The feature level of the cluster follows the releases of its members.
//!
//! What must hold: the level is raised only after every member, with a vote or without, has said that
//! its release knows the new one; by a committed entry, so that it is the same everywhere. A member
//! that does not answer holds it where it is, and everything but what is new goes on.
//!
//! Left out: members that come back with an older release, or come anew while the level is being raised.
//! They are refused when they join (`membership`), or stop when they find the level (`state_machine`).

use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::codec;
use pennon_raft_store::command::Command;
use pennon_raft_store::machine::COMMAND_FORMAT;
use pennon_raft_store::raft::Role;
use tokio::time::{Instant, sleep, timeout_at};

use crate::core::Core;

/// Between two looks at the releases of the members, while one of them is behind.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for the members' answers, and then for the entry.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Raises the level whenever this node leads and every member knows a higher one. Ends when the
/// cluster is at the highest level that this release knows.
pub(crate) async fn watch(core: Weak<Core>) {
    loop {
        let Some(here) = core.upgrade() else { return };
        let view = here.view();
        if view.level() >= view.features().level() {
            return;
        }
        drop(view);
        let mut statuses = here.statuses();
        let leads = statuses.wait_for(|status| status.role == Role::Leader);
        if leads.await.is_err() {
            return;
        }
        raise(&here).await;
        drop(here);
        sleep(PAUSE).await;
    }
}

async fn raise(core: &Core) {
    let Some(level) = known_to_all(core, Instant::now() + ANSWER_MAX).await else {
        return;
    };
    let before = core.view().level();
    if level <= before {
        return;
    }
    let Ok(command) = codec::encode(COMMAND_FORMAT, &Command::Raise(level)) else {
        return; // A number always fits.
    };
    match timeout_at(Instant::now() + ANSWER_MAX, core.raft.propose(command)).await {
        Ok(Ok(_)) => tracing::info!(before, level, "every member knows this feature level now"),
        Ok(Err(why)) => tracing::info!(%why, level, "the feature level was not raised yet"),
        Err(_) => tracing::info!(level, "the feature level may have been raised"),
    }
}

/// The highest level that every member knows; `None` when one of them does not answer.
async fn known_to_all(core: &Core, deadline: Instant) -> Option<u32> {
    let status = core.status();
    let asked = status.members.iter().map(|member| async move {
        match member.id == core.node() {
            true => Some(core.view().features().level()),
            false => {
                let said = core.peers.status(&member.member, deadline).await;
                said.map(|said| said.feature_level)
            }
        }
    });
    let known: Option<Vec<u32>> = join_all(asked).await.into_iter().collect();
    known?.into_iter().min()
}
