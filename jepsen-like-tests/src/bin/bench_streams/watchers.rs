//! Watchers and writers of etcd. A watcher is one connection with one watch, in one task: nothing
//! stands between the bytes and the moment at which an event is decoded.

use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use jepsen_like_tests::bench::etcd::{Caller, Etcd, beside, check_status, connect, request, take};
use jepsen_like_tests::bench::grpc::{self, Unframer};
use jepsen_like_tests::{Failure, Result};
use tokio::sync::oneshot;

use crate::board::Seat;
use crate::store::{ANSWER_MAX, Via};

/// What is watched and put.
pub(crate) const KEY: &[u8] = b"flags/bench/flag-0";

/// A connection to each kind of member.
pub(crate) struct Writers {
    follower: Caller,
    leader: Caller,
}

impl Writers {
    pub(crate) async fn open(etcd: &Etcd) -> Result<Writers> {
        let [follower, _, leader] = etcd.in_turn();
        Ok(Writers {
            follower: Caller::open(etcd.address(follower)).await?,
            leader: Caller::open(etcd.address(leader)).await?,
        })
    }

    /// Puts a value as long as a small policy; returns its revision.
    pub(crate) async fn put(&mut self, via: Via, on: bool) -> Result<u64> {
        let value = format!(r#"{{"enabled":{on},"default":{{"variant":"on"}}}}"#);
        let caller = match via {
            Via::Follower => &mut self.follower,
            Via::Leader => &mut self.leader,
        };
        let request = grpc::put_request(KEY, value.as_bytes());
        let answer = caller.call("KV/Put", request).await?;
        Ok(grpc::read_put_answer(&answer)?.revision)
    }
}

/// Watches the key and reports each event's revision; ends with the reason why it cannot go on.
/// Says when the watch stands.
pub(crate) async fn watch(address: String, mut seat: Seat, ready: oneshot::Sender<()>) -> Failure {
    let mut ready = Some(ready);
    match watch_on(&address, &mut seat, &mut ready).await {
        Ok(()) => Failure::new("the watch ended"),
        Err(why) => why,
    }
}

async fn watch_on(
    address: &str,
    seat: &mut Seat,
    ready: &mut Option<oneshot::Sender<()>>,
) -> Result<()> {
    let (mut sender, connection) = connect(address).await?;
    tokio::pin!(connection);
    let (response, mut request_body): (_, SendStream<Bytes>) = sender
        .send_request(request(address, "Watch/Watch")?, false)
        .map_err(Failure::new)?;
    request_body
        .send_data(grpc::watch_request(KEY), false)
        .map_err(Failure::new)?;
    let response = beside(connection.as_mut(), response).await?;
    let (head, mut body) = response.map_err(Failure::new)?.into_parts();
    check_status(&head.headers)?;
    let mut unframer = Unframer::default();
    while let Some(data) = beside(connection.as_mut(), body.data()).await? {
        take(&mut body, &mut unframer, data)?;
        while let Some(message) = unframer.pull()? {
            let answer = grpc::read_watch_answer(&message)?;
            if answer.canceled {
                return Err(Failure::new("the member canceled the watch"));
            }
            if let Some(revision) = answer.events.last() {
                seat.saw(*revision);
            }
            if let (true, Some(ready)) = (answer.created, ready.take()) {
                // Who opened it may have given up.
                let _ = ready.send(());
            }
        }
    }
    Ok(())
}

/// Watchers with one connection each, for as long as this lives.
pub(crate) struct Watchers {
    tasks: tokio::task::JoinSet<Failure>,
}

impl Watchers {
    /// Opens a watcher for each address, some at a time, and waits until all watches stand.
    pub(crate) async fn open(
        addresses: impl IntoIterator<Item = String>,
        seat: impl Fn(usize) -> Seat,
        at_a_time: usize,
    ) -> Result<Watchers> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut opening = std::collections::VecDeque::new();
        let end = Instant::now() + ANSWER_MAX;
        for (n, address) in addresses.into_iter().enumerate() {
            let (ready, standing) = oneshot::channel();
            tasks.spawn(watch(address, seat(n), ready));
            opening.push_back(standing);
            if opening.len() >= at_a_time
                && let Some(standing) = opening.pop_front()
            {
                stands(&mut tasks, standing, end).await?;
            }
        }
        for standing in opening {
            stands(&mut tasks, standing, end).await?;
        }
        Ok(Watchers { tasks })
    }

    /// Fails with the reason of the first watcher that ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(ended.map_err(Failure::new)?),
        }
    }
}

async fn stands(
    tasks: &mut tokio::task::JoinSet<Failure>,
    standing: oneshot::Receiver<()>,
    end: Instant,
) -> Result<()> {
    let within = end.saturating_duration_since(Instant::now());
    match tokio::time::timeout(within, standing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => match tasks.join_next().await {
            Some(ended) => Err(ended.map_err(Failure::new)?),
            None => Err(Failure::new("a watcher is gone")),
        },
        Err(_) => Err(Failure::new("opening watches takes too long")),
    }
}
