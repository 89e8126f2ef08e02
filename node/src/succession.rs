//! A leader whose process is gone is followed at once, instead of after the election timeout.
//!
//! Every voter keeps a connection to the leader's peer address. When that closes and the address then
//! *refuses* connections, nobody runs there any more: a partition or a stopped process looks different
//! (nothing is refused, nothing answers), and for those the timeout stays the judge. Such a voter asks
//! the others whether they find the same. If a majority does, the one with the longest log stands for
//! election as if the leader had handed over.
//!
//! What must hold: nobody is elected against a live leader. One that lives sends a heartbeat in every
//! interval, so a voter agrees only after it has heard none for longer than that; and a leader that a
//! majority neither hears nor reaches cannot decide anything. Safety does not rest on any of this: it is
//! an ordinary election (I1), only earlier.
//!
//! Left out: a leader that comes back before anybody noticed; then the timeout decides.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::log::LogId;
use pennon_raft_store::raft::{MemberStatus, Status};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::net::{BoxedIo, Connect};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Before a connection that was closed is opened again: a process that ends closes what it has one after
/// the other.
const REOPEN_PAUSE: Duration = Duration::from_millis(10);

/// How voters find out that their leader is gone.
pub(crate) struct Succession {
    connect: Arc<dyn Connect>,
    /// Longer than the interval of heartbeats.
    quiet: Duration,
}

/// The leadership that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reign {
    pub(crate) leader: u64,
    pub(crate) term: u64,
}

/// What another voter says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judgement {
    /// Whether it finds the leader gone, too.
    pub(crate) gone: bool,
    /// The last entry in its log: term and index.
    pub(crate) last: Option<(u64, u64)>,
}

impl Succession {
    pub(crate) fn new(connect: Arc<dyn Connect>, heartbeat: Duration) -> Self {
        Self {
            connect,
            quiet: heartbeat * 5 / 4,
        }
    }

    /// Waits until the connection to an address is lost and the address refuses another: true. False
    /// when it cannot be reached for any other reason.
    async fn lost(&self, address: &str) -> bool {
        loop {
            match self.reach(address).await {
                Ok(mut io) => {
                    // Nobody writes there.
                    let _ = io.read(&mut [0]).await;
                    drop(io);
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                Err(why) => return is_refusal(&why),
            }
        }
    }

    async fn reach(&self, address: &str) -> io::Result<BoxedIo> {
        let reached = timeout(CONNECT_MAX, self.connect.connect(address));
        reached
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn is_refusal(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::ConnectionRefused
}

/// The leader that this node follows, if it has a vote and another one leads.
fn followed(status: &Status) -> Option<(Reign, MemberStatus)> {
    let leader = status.leader_member().filter(|one| one.id != status.node)?;
    let votes = |one: &MemberStatus| one.id == status.node && one.vote.counts();
    let reign = Reign {
        leader: leader.id,
        term: status.term,
    };
    (status.members.iter().any(votes) && leader.vote.counts()).then(|| (reign, leader.clone()))
}

/// Watches whoever leads, until the node stops.
pub(crate) async fn watch(core: Weak<Core>) {
    loop {
        let Some(here) = core.upgrade() else { return };
        let mut statuses = here.statuses();
        let following = statuses.wait_for(|status| followed(status).is_some()).await;
        let Ok(status) = following.map(|status| status.clone()) else {
            return;
        };
        let Some((reign, leader)) = followed(&status) else {
            continue;
        };
        let over = |status: &Status| followed(status).is_none_or(|(now, _)| now != reign);
        let address = here.peers.address(&leader.member);
        let lost = tokio::select! {
            lost = here.succession.lost(&address) => lost,
            over = statuses.wait_for(over) => match over {
                Ok(_) => continue,
                // Consensus has ended, and with it whatever it last said.
                Err(_) => return,
            },
        };
        if lost {
            succeed(&here, &status, reign).await;
        }
        let quiet = here.succession.quiet;
        drop(here);
        // Whatever comes of it comes soon; or the timeout decides.
        let _ = timeout(quiet, statuses.wait_for(over)).await;
    }
}

/// Finds out whether the others find the leader gone, too, and who follows it; stands for election if
/// that is this node.
async fn succeed(core: &Core, status: &Status, reign: Reign) {
    let voters = || status.members.iter().filter(|member| member.vote.counts());
    let others = voters().filter(|member| member.id != core.node() && member.id != reign.leader);
    let deadline = Instant::now() + core.succession.quiet * 4;
    let asked = others.map(|member| async move {
        let said = core.peers.judgement(&member.member, reign, deadline).await;
        (member.id, said)
    });
    let (mine, said) = tokio::join!(core.judge(reign), join_all(asked));
    let agreeing = said.into_iter().filter_map(|(id, said)| Some((id, said?)));
    let agreeing: Vec<(u64, Judgement)> = agreeing
        .chain([(core.node(), mine)])
        .filter(|(_, said)| said.gone)
        .collect();
    // The longest log; of equals, the smallest id.
    let next = agreeing
        .iter()
        .max_by_key(|(id, said)| (said.last, std::cmp::Reverse(*id)));
    let majority = voters().count() / 2 + 1;
    if mine.gone && agreeing.len() >= majority && next.is_some_and(|(id, _)| *id == core.node()) {
        tracing::info!(
            leader = reign.leader,
            "the leader's process is gone: standing for election"
        );
        if let Err(why) = core.raft.succeed(reign.leader, reign.term).await {
            tracing::info!(%why, "not now: the election timeout decides");
        }
    }
}

impl Core {
    /// Says whether the leader's process is gone, after it has been quiet for long enough.
    pub(crate) async fn judge(&self, reign: Reign) -> Judgement {
        let quiet = self.succession.quiet;
        let status = self.status();
        let leader = followed(&status).filter(|(now, _)| *now == reign);
        let gone = match leader {
            None => false,
            Some((_, leader)) => {
                let address = self.peers.address(&leader.member);
                let reached = self.succession.reach(&address).await;
                reached.is_err_and(|why| is_refusal(&why)) && self.is_quiet(quiet).await
            }
        };
        let still = followed(&self.status()).is_some_and(|(now, _)| now == reign);
        Judgement {
            gone: gone && still,
            last: self
                .raft
                .last_log()
                .map(|LogId { term, index }| (term, index)),
        }
    }

    /// Waits until nothing was heard for so long; false when something is heard meanwhile.
    async fn is_quiet(&self, quiet: Duration) -> bool {
        let heard = self.raft.heard();
        if let Some(heard) = heard {
            tokio::time::sleep_until(heard + quiet).await;
        }
        self.raft.heard() == heard
    }
}
