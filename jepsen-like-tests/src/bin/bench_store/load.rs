//! Workers that write or read as fast as they are answered, and how long each answer took.
//!
//! A worker has one request in flight, and for writes a key of its own: each write is conditional on the
//! version that the one before made. Against us that is a PUT with `If-Match` over HTTP/1.1, against etcd a
//! transaction that compares `mod_revision`, over HTTP/2. It has a connection to each node and asks them in
//! turn, so that every worker meets the leader as often as every other: one that stays with its node is
//! a sixth faster or slower with whoever happens to lead.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use jepsen_like_tests::bench::etcd::Caller;
use jepsen_like_tests::bench::grpc;
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result};
use serde_json::{Value, json};

/// Longest wait for one answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// At the start of each measurement, not counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest time that is told apart: a minute.
const MICROS_MAX: u64 = 60_000_000;

/// What workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Conditional writes.
    Write,
    /// Linearizable reads of what was written before.
    Read,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Pennon,
    Etcd,
}

/// One number of workers in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A worker's connections, and what it knows of its key.
enum Worker {
    Pennon {
        connections: Turns<Connection>,
        path: String,
        config: Value,
        version: u64,
    },
    Etcd {
        callers: Turns<Caller>,
        key: Vec<u8>,
        value: Vec<u8>,
        revision: u64,
    },
}

/// Some of a kind, one after the other, again and again.
struct Turns<T> {
    all: Vec<T>,
    next: usize,
}

impl<T> Turns<T> {
    fn next(&mut self) -> &mut T {
        let at = self.next % self.all.len();
        self.next = at + 1;
        &mut self.all[at]
    }
}

impl Worker {
    /// Connects to every address, the first call goes to one of them, and makes sure that the key is there.
    async fn open(engine: Engine, addresses: &[String], first: usize, key: &str) -> Result<Worker> {
        let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
            "description": "written by scripts/bench", "tags": ["bench"]});
        let (mut connections, mut callers) = (Vec::new(), Vec::new());
        for address in addresses {
            match engine {
                Engine::Pennon => connections.push(Connection::open(address).await?),
                Engine::Etcd => callers.push(Caller::open(address).await?),
            }
        }
        let mut worker = match engine {
            Engine::Pennon => Worker::Pennon {
                connections: Turns {
                    all: connections,
                    next: first,
                },
                path: format!("/v1/flags/{key}"),
                config,
                version: 0,
            },
            Engine::Etcd => Worker::Etcd {
                callers: Turns {
                    all: callers,
                    next: first,
                },
                key: format!("flags/{key}").into_bytes(),
                value: config.to_string().into_bytes(),
                revision: 0,
            },
        };
        worker.write().await?;
        Ok(worker)
    }

    async fn work(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Write => self.write().await,
            Work::Read => self.read().await,
        }
    }

    async fn write(&mut self) -> Result<()> {
        match self {
            Worker::Pennon {
                connections,
                path,
                config,
                version,
            } => {
                let call = Call::put(path.as_str(), config);
                let call = match *version {
                    0 => call.if_absent(),
                    version => call.if_at(version),
                };
                *version = answered(connections.next(), &call).await?;
            }
            Worker::Etcd {
                callers,
                key,
                value,
                revision,
            } => {
                let request = grpc::put_if_request(key, value, *revision);
                let answer = callers.next().call("KV/Txn", request).await?;
                *revision = grpc::read_put_if_answer(&answer)?;
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        match self {
            Worker::Pennon {
                connections, path, ..
            } => answered(connections.next(), &Call::get(path.as_str()))
                .await
                .map(drop),
            Worker::Etcd { callers, key, .. } => {
                let answer = callers
                    .next()
                    .call("KV/Range", grpc::get_request(key))
                    .await?;
                match grpc::read_get_answer(&answer)? {
                    1 => Ok(()),
                    found => Err(Failure::new(format!("{found} values under one key"))),
                }
            }
        }
    }
}

/// One request that must succeed; returns the version it was decided at.
async fn answered(connection: &mut Connection, call: &Call) -> Result<u64> {
    let answer = connection
        .send(call, ANSWER_MAX)
        .await
        .map_err(Failure::new)?;
    let version = answer.status.is_success().then(|| answer.decided());
    let version = version.flatten();
    version.ok_or_else(|| Failure::during("a request was refused", answer.shown()))
}

/// Lets this many workers work for a while.
pub(crate) async fn measure(
    engine: Engine,
    work: Work,
    addresses: &[String],
    name: &str,
    workers: usize,
    how_long: Duration,
) -> Result<Measured> {
    let mut opened = Vec::with_capacity(workers);
    for worker in 0..workers {
        let key = format!("{name}-{worker}");
        opened.push(Worker::open(engine, addresses, worker, &key).await?);
    }
    let begin = Instant::now() + WARM_UP;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in opened {
        tasks.spawn(work_until(worker, work, begin, begin + how_long));
    }
    let mut all: Histogram<u64> = histogram()?;
    while let Some(ended) = tasks.join_next().await {
        all.add(ended.map_err(Failure::new)??)
            .map_err(Failure::new)?;
    }
    let ms = |quantile| all.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Measured {
        per_second: all.len() as f64 / how_long.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
    })
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, MICROS_MAX, 3).map_err(Failure::new)
}

/// One worker. Returns the times, in microseconds, of what was answered between two moments.
async fn work_until(
    mut worker: Worker,
    work: Work,
    begin: Instant,
    end: Instant,
) -> Result<Histogram<u64>> {
    let mut times = histogram()?;
    while Instant::now() < end {
        let one = Instant::now();
        worker.work(work).await?;
        let done = Instant::now();
        if done >= begin && done < end {
            times.saturating_record(u64::try_from((done - one).as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(times)
}
