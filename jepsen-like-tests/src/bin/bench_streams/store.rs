//! The nodes under measurement: a cluster with flags, one of which is flipped.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result, until};
use serde_json::{Value, json};

pub(crate) const ENVIRONMENT: &str = "bench";
/// The flag that is flipped.
pub(crate) const FLIPPED: &str = "flag-0";
/// Longest wait for one answer, or for everybody to have what was written.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Flags written in one change set.
const FLAGS_PER_WRITE: usize = 100;

/// To which node a write is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Follower,
    Leader,
}

impl Via {
    /// Follower and leader in turn.
    pub(crate) fn of(flip: usize) -> Via {
        match flip % 2 {
            0 => Via::Follower,
            _ => Via::Leader,
        }
    }
}

/// Three nodes.
pub(crate) struct Store {
    pub(crate) cluster: Cluster,
    pub(crate) leader: usize,
}

impl Store {
    /// Starts three nodes and writes this many flags.
    pub(crate) async fn start(data: Option<PathBuf>, flags: usize) -> Result<Store> {
        let options = Options {
            data,
            ..Options::default()
        };
        let mut cluster = Cluster::start(3, options).await?;
        let leader = cluster.leader(ANSWER_MAX).await?;
        let mut store = Store { cluster, leader };
        store.write_flags(flags).await?;
        store.cluster.converged(ANSWER_MAX).await?;
        Ok(store)
    }

    async fn write_flags(&self, flags: usize) -> Result<()> {
        let mut connection = Connection::open(self.cluster.address(self.leader)).await?;
        let environment = Call::put(format!("/v1/environments/{ENVIRONMENT}"), &json!({}));
        write(&mut connection, &environment.if_absent()).await?;
        for first in (0..flags).step_by(FLAGS_PER_WRITE) {
            let some = first..flags.min(first + FLAGS_PER_WRITE);
            let changes: Vec<Value> = some.flat_map(changes_of).collect();
            let changes = Call::post("/v1/changes", &Value::Array(changes));
            write(&mut connection, &changes).await?;
        }
        Ok(())
    }

    /// Nodes that do not lead, then the one that does: where readers go in turn.
    pub(crate) fn in_turn(&self) -> [usize; 3] {
        [
            (self.leader + 1) % 3,
            (self.leader + 2) % 3,
            self.leader % 3,
        ]
    }

    /// The process ids of the nodes that run.
    pub(crate) fn ids(&mut self) -> Vec<u32> {
        (0..self.cluster.size())
            .filter_map(|at| self.cluster.process(at).id())
            .collect()
    }

    pub(crate) async fn writers(&self) -> Result<Writers> {
        let [follower, _, leader] = self.in_turn();
        Ok(Writers {
            follower: Connection::open(self.cluster.address(follower)).await?,
            leader: Connection::open(self.cluster.address(leader)).await?,
        })
    }

    /// Fails when another node leads by now: writes to "the leader" were something else.
    pub(crate) async fn check_leader(&mut self) -> Result<()> {
        match self.cluster.leader(ANSWER_MAX).await? == self.leader {
            true => Ok(()),
            false => Err(Failure::new(
                "the leader changed during the run: the figures say nothing",
            )),
        }
    }

    /// Waits until a node has exactly this many open streams.
    pub(crate) async fn has_streams(&self, at: usize, streams: usize) -> Result<()> {
        let address = self.cluster.address(at);
        let look = || async move {
            let answer = Call::get("/v1/cluster").to(address, ANSWER_MAX).await;
            let answer = answer.map_err(|why| why.to_string())?.json();
            match streams_at(&answer, address) {
                Some(found) if found == streams as u64 => Ok(()),
                found => Err(format!("{found:?} at {address}")),
            }
        };
        until(&format!("{streams} open streams"), ANSWER_MAX, look).await
    }

    pub(crate) async fn release(&self) -> Result<Value> {
        let call = Call::get("/v1/cluster");
        let answer = call.to(self.cluster.address(0), ANSWER_MAX).await?;
        Ok(answer.json()["members"][0]["release"].clone())
    }
}

fn streams_at(cluster: &Value, address: &str) -> Option<u64> {
    let members = cluster["members"].as_array()?;
    let here = members
        .iter()
        .find(|member| member["api"].as_str() == Some(address));
    here?["streams"].as_u64()
}

/// A connection to each kind of node.
pub(crate) struct Writers {
    follower: Connection,
    leader: Connection,
}

impl Writers {
    /// Switches the flag to what it was not before; returns the version that this made.
    pub(crate) async fn flip(&mut self, via: Via, on: bool) -> Result<u64> {
        let switch = if on { "enable" } else { "disable" };
        let path = format!("/v1/environments/{ENVIRONMENT}/flags/{FLIPPED}:{switch}");
        let connection = match via {
            Via::Follower => &mut self.follower,
            Via::Leader => &mut self.leader,
        };
        write(connection, &Call::new(Method::POST, path)).await
    }
}

/// One write that must succeed; returns the version it made.
async fn write(connection: &mut Connection, call: &Call) -> Result<u64> {
    let answer = connection.send(call, ANSWER_MAX).await;
    let answer = answer.map_err(Failure::new)?;
    let version = answer
        .status
        .is_success()
        .then(|| answer.decided())
        .flatten();
    version.ok_or_else(|| Failure::during("a write was not taken", answer.shown()))
}

/// A flag as people have them: one rule for some, a share for the others. The flipped one is off.
fn changes_of(n: usize) -> [Value; 2] {
    let key = format!("flag-{n}");
    let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "description": "written by scripts/bench", "tags": ["bench"]});
    let policy = json!({"enabled": key != FLIPPED,
        "rules": [{"id": "some-countries", "when": [{"attribute": "country", "op": "in", "values": ["DE", "FR", "PL"]}],
            "serve": {"variant": "on"}}],
        "default": {"rollout": {"weights": [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]}}});
    [
        json!({"op": "put", "kind": "flag", "key": key, "value": config, "expected_version": 0}),
        json!({"op": "put", "kind": "policy", "environment": ENVIRONMENT, "key": key, "value": policy,
            "expected_version": 0}),
    ]
}
