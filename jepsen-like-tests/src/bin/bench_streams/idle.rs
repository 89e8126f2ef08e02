//! What streams cost the node that holds them while nothing happens, and one change for all of them.
//!
//! Readers are bare sockets to one follower: they ask for the switch to frames as the Rust client does,
//! look for them (`sniffer.rs`) and keep nothing. A figure is taken when every reader has its snapshot and the memory of the
//! node has been calm for a while. Of etcd the same with one watch on each of as many connections,
//! where the machine has the memory for it. Left out: what the kernel keeps for sockets, which is
//! in nobody's resident memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jepsen_like_tests::{Failure, Result, say};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::board::{Board, Seat, Seen};
use crate::propagation::OPENING_MAX;
use crate::settings::Streams;
use crate::sniffer::Sniffer;
use crate::store::{ANSWER_MAX, ENVIRONMENT, Store, Via};
use crate::watchers::{Watchers, Writers};
use jepsen_like_tests::bench::etcd::Etcd;
use jepsen_like_tests::bench::figures::{Quantiles, kib, ms, round, word};
use jepsen_like_tests::bench::machine::{self, Meter, Spent};

const FLAGS_DEFAULT: usize = 1_000;
/// How long idle streams are looked at.
const IDLE: Duration = Duration::from_secs(10);
/// Changes to all, one after the other; there and back.
const CHANGES: usize = 6;
/// Memory is calm when it has stayed within a part of itself for so many looks.
const CALM_LOOKS: usize = 6;
const CALM_LOOK: Duration = Duration::from_millis(500);
const CALM_WITHIN: f64 = 0.002;
/// Longest wait for calm.
const CALM_MAX: Duration = Duration::from_secs(120);
/// What a connection to etcd takes on both sides, with room.
const ETCD_BYTES_EACH: u64 = 256 << 10;
const READ_LEN: usize = 16 << 10;

/// What holding streams costs one server.
#[derive(Clone, Debug)]
struct Cost {
    before: u64,
    after: u64,
    streams: usize,
    /// Time on the processor while idle, of the one server, before and with the streams.
    empty: Spent,
    idle: Spent,
    /// Until the last stream had each change, and until the first had.
    last: Vec<f64>,
    first: Vec<f64>,
    load: f64,
}

impl Cost {
    fn bytes_each(&self) -> f64 {
        (self.after as f64 - self.before as f64) / self.streams.max(1) as f64
    }

    fn json(&self) -> Value {
        let percent = |spent: &Spent| {
            round(100.0 * spent.servers.as_secs_f64() / spent.wall.as_secs_f64().max(1e-9))
        };
        json!({
            "kib_per_stream": round(kib(self.bytes_each())),
            "resident_mib_before": round(kib(kib(self.before as f64))),
            "resident_mib_after": round(kib(kib(self.after as f64))),
            "cpu_percent_without_streams": percent(&self.empty),
            "cpu_percent_idle": percent(&self.idle),
            "change_to_last": Quantiles::of(self.last.iter().copied()).json(),
            "change_to_first": Quantiles::of(self.first.iter().copied()).json(),
            "others_share": round(self.idle.others_share()),
            "load": self.load,
        })
    }
}

/// What readers count together.
#[derive(Debug, Default)]
struct Counted {
    snapshots: AtomicUsize,
    deltas: AtomicUsize,
    delta_bytes: AtomicU64,
}

/// Ours, and what it is compared with where that can be.
pub(crate) struct Idle {
    environment: Value,
    ours: Cost,
    delta_bytes: f64,
    snapshot_bytes: u64,
    theirs: Option<Cost>,
}

pub(crate) async fn run(settings: &Streams, streams: usize) -> Result<Idle> {
    let flags = settings.flags.unwrap_or(FLAGS_DEFAULT);
    let mut store = Store::start(settings.asked.data.clone(), flags).await?;
    let mut environment = machine::environment(store.cluster.directory());
    environment["release"] = store.release().await?;
    environment["flags"] = json!(flags);
    environment["streams"] = json!(streams);
    let directory = store.cluster.directory().to_owned();
    let (ours, delta_bytes, snapshot_bytes) = ours(&mut store, streams).await?;
    let needed = streams as u64 * ETCD_BYTES_EACH;
    let etcd = match settings.asked.without_etcd || machine::available() > needed {
        true => Etcd::if_asked(&settings.asked, &directory, &mut environment).await?,
        false => {
            let mib = needed >> 20;
            say(format!(
                "{streams} watches of etcd would need {mib} MiB, more than there is"
            ));
            None
        }
    };
    let theirs = match etcd {
        Some(mut etcd) => Some(theirs_of(&mut etcd, streams).await?),
        None => None,
    };
    Ok(Idle {
        environment,
        ours,
        delta_bytes,
        snapshot_bytes,
        theirs,
    })
}

async fn ours(store: &mut Store, streams: usize) -> Result<(Cost, f64, u64)> {
    let [at, ..] = store.in_turn();
    let address = store.cluster.address(at).to_owned();
    let node = id_of(store.cluster.process(at).id())?;
    let board = Arc::new(Board::default());
    // One first: what is made once for all is not counted as a stream's.
    let counted = Arc::new(Counted::default());
    drop(Readers::open(&address, 1, &board, &counted).await?);
    store.has_streams(at, 0).await?;
    let load = machine::load();
    let before = calm(node).await?;
    let empty = idle(node).await;

    let counted = Arc::new(Counted::default());
    let mut readers = Readers::open(&address, streams, &board, &counted).await?;
    store.has_streams(at, streams).await?;
    let after = calm(node).await?;
    say(format!("{streams} streams are open"));
    let idle = idle(node).await;
    let mut writers = store.writers().await?;
    let (last, first) = changes(&board, streams, async |on| {
        readers.check()?;
        writers.flip(Via::Leader, on).await.map(drop)
    })
    .await?;
    let snapshots = counted.snapshots.load(Ordering::Relaxed);
    let deltas = counted.deltas.load(Ordering::Relaxed);
    if snapshots != streams || deltas != streams * CHANGES {
        return Err(Failure::new(format!(
            "{streams} streams got {snapshots} snapshots, and {deltas} deltas for {CHANGES} changes"
        )));
    }
    let delta_bytes = counted.delta_bytes.load(Ordering::Relaxed) as f64 / deltas as f64;
    let cost = Cost {
        before,
        after,
        streams,
        empty,
        idle,
        last,
        first,
        load,
    };
    Ok((cost, delta_bytes, readers.snapshot_bytes))
}

async fn theirs_of(etcd: &mut Etcd, streams: usize) -> Result<Cost> {
    let [at, ..] = etcd.in_turn();
    let address = etcd.address(at).to_owned();
    let member = id_of(etcd.id(at))?;
    let board = Arc::new(Board::default());
    let open = async |watchers| {
        let addresses = std::iter::repeat_n(address.clone(), watchers);
        Watchers::open(addresses, |_| board.seat(0), OPENING_MAX).await
    };
    drop(open(1).await?);
    let load = machine::load();
    let before = calm(member).await?;
    let empty = idle(member).await;
    let mut watchers = open(streams).await?;
    let after = calm(member).await?;
    say(format!("{streams} watches of etcd are open"));
    let idle = idle(member).await;
    let mut writers = Writers::open(etcd).await?;
    let (last, first) = changes(&board, streams, async |on| {
        watchers.check()?;
        writers.put(Via::Leader, on).await.map(drop)
    })
    .await?;
    Ok(Cost {
        before,
        after,
        streams,
        empty,
        idle,
        last,
        first,
        load,
    })
}

/// Times, in milliseconds, until the last and until the first reader had each change.
async fn changes(
    board: &Board,
    readers: usize,
    mut write: impl AsyncFnMut(bool) -> Result<()>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut last, mut first) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        board.begin(readers);
        let sent = Instant::now();
        write(change % 2 == 0).await?;
        let seen = board.complete(ANSWER_MAX).await?;
        let since =
            |seen: Option<&Seen>| seen.map(|seen| ms(seen.at.saturating_duration_since(sent)));
        first.extend(since(seen.first()));
        last.extend(since(seen.last()));
    }
    Ok((last, first))
}

async fn idle(id: u32) -> Spent {
    let meter = Meter::start(vec![id]);
    tokio::time::sleep(IDLE).await;
    meter.stop()
}

fn id_of(id: Option<u32>) -> Result<u32> {
    id.ok_or_else(|| Failure::new("the process does not run"))
}

/// Waits until the memory of a process stays where it is, and returns it.
async fn calm(id: u32) -> Result<u64> {
    let end = Instant::now() + CALM_MAX;
    let mut looks = Vec::new();
    loop {
        looks.push(machine::resident(id));
        if let Some(calm) = calm_at(&looks) {
            return Ok(calm);
        }
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "memory is not calm within {CALM_MAX:?}"
            )));
        }
        tokio::time::sleep(CALM_LOOK).await;
    }
}

fn calm_at(looks: &[u64]) -> Option<u64> {
    let lately = looks.last_chunk::<CALM_LOOKS>()?;
    let (least, most) = (lately.iter().min()?, lately.iter().max()?);
    ((most - least) as f64 <= *most as f64 * CALM_WITHIN).then_some(*most)
}

/// Open streams, for as long as this lives.
struct Readers {
    tasks: JoinSet<Failure>,
    snapshot_bytes: u64,
}

impl Readers {
    /// Opens streams, some at a time, and waits until each has its snapshot.
    async fn open(
        address: &str,
        streams: usize,
        board: &Arc<Board>,
        counted: &Arc<Counted>,
    ) -> Result<Readers> {
        board.begin(streams);
        let mut tasks = JoinSet::new();
        let places = Arc::new(tokio::sync::Semaphore::new(OPENING_MAX));
        for n in 0..streams {
            let place = places.clone().acquire_owned().await;
            let place = place.map_err(Failure::new)?;
            let (address, seat, counted) = (address.to_owned(), board.seat(0), counted.clone());
            tasks.spawn(async move {
                let mut place = Some(place);
                let begun = || drop(place.take());
                match read(&address, n, seat, &counted, begun).await {
                    Ok(()) => Failure::new("a node ended a stream"),
                    Err(why) => why,
                }
            });
        }
        let mut readers = Readers {
            tasks,
            snapshot_bytes: 0,
        };
        let seen = tokio::select! {
            seen = board.complete(ANSWER_MAX) => seen?,
            Some(ended) = readers.tasks.join_next() => return Err(ended.map_err(Failure::new)?),
        };
        readers.snapshot_bytes = seen.iter().map(|seen| seen.version).max().unwrap_or(0);
        Ok(readers)
    }

    fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(ended.map_err(Failure::new)?),
        }
    }
}

/// One stream: tells the board of its snapshot and of each delta, with their lengths as versions.
async fn read(
    address: &str,
    n: usize,
    mut seat: Seat,
    counted: &Counted,
    begun: impl FnOnce(),
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /v1/environments/{ENVIRONMENT}/stream?client=idle-{n} HTTP/1.1\r\nhost: {address}\r\n\
         accept: application/vnd.pennon.frames\r\nconnection: upgrade\r\nupgrade: pennon-frames\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    drop(request);
    let mut begun = Some(begun);
    let mut sniffer = Sniffer::default();
    loop {
        stream.readable().await?;
        // Not kept while waiting: ten thousand buffers would be most of this process.
        let mut buffer = [0; READ_LEN];
        let len = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(why) => return Err(why.into()),
        };
        let told = sniffer.push(&buffer[..len], |frame| {
            if frame.is_delta() {
                // Before the board, which may be complete by that.
                counted.deltas.fetch_add(1, Ordering::Relaxed);
                counted.delta_bytes.fetch_add(frame.len, Ordering::Relaxed);
                seat.saw(frame.len);
            } else if frame.is_snapshot() {
                counted.snapshots.fetch_add(1, Ordering::Relaxed);
                seat.saw(frame.len);
                begun.take().into_iter().for_each(|begun| begun());
            }
        });
        told.map_err(Failure::new)?;
    }
}

impl Idle {
    pub(crate) fn json(&self) -> Value {
        let mut ours = self.ours.json();
        ours["delta_bytes"] = json!(self.delta_bytes);
        ours["snapshot_bytes"] = json!(self.snapshot_bytes);
        let mut value = json!({"environment": self.environment, "pennon": ours});
        if let Some(theirs) = &self.theirs {
            value["etcd"] = theirs.json();
        }
        value
    }

    pub(crate) fn table(&self) -> String {
        let word = |name: &str| word(&self.environment, name);
        let mut text = format!(
            "{} idle streams on one of three nodes, {} flags; {} cores ({}), release {} ({} build), etcd {}\n\n\
             {:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12} {:>7} {:>6}\n",
            word("streams"),
            word("flags"),
            word("cores"),
            word("cpu"),
            word("release"),
            word("build"),
            word("etcd"),
            "",
            "KiB each",
            "MiB before",
            "MiB after",
            "cpu empty",
            "cpu idle",
            "change: p50",
            "max ms",
            "others",
            "load",
        );
        for (who, cost) in [("pennon", Some(&self.ours)), ("etcd", self.theirs.as_ref())] {
            let Some(cost) = cost else { continue };
            let last = Quantiles::of(cost.last.iter().copied());
            let percent =
                |spent: &Spent| 100.0 * spent.servers.as_secs_f64() / spent.wall.as_secs_f64();
            text += &format!(
                "{who:>8} {:>10.1} {:>10.1} {:>10.1} {:>9.1}% {:>9.1}% {:>12.1} {:>12.1} {:>6.0}% {:>6.2}\n",
                kib(cost.bytes_each()),
                kib(kib(cost.before as f64)),
                kib(kib(cost.after as f64)),
                percent(&cost.empty),
                percent(&cost.idle),
                last.p50,
                last.max,
                100.0 * cost.idle.others_share(),
                cost.load,
            );
        }
        text += &format!(
            "\na change is a delta of {:.0} bytes to each stream, never the snapshot of {} bytes; change: from before the\n\
             write is sent until the last stream has it",
            self.delta_bytes, self.snapshot_bytes
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_calm_when_it_stays() {
        assert_eq!(calm_at(&[100; CALM_LOOKS - 1]), None);
        assert_eq!(calm_at(&[100; CALM_LOOKS]), Some(100));
        let rising: Vec<u64> = (0..10).map(|n| 1_000 + 10 * n).collect();
        assert_eq!(calm_at(&rising), None);
        let settled = [&rising[..], &[1_091, 1_090, 1_090, 1_090, 1_090]].concat();
        assert_eq!(calm_at(&settled), Some(1_091));
    }

    #[test]
    fn a_stream_costs_what_came_with_it() {
        let cost = Cost {
            before: 50 << 20,
            after: 60 << 20,
            streams: 1_024,
            empty: Spent::default(),
            idle: Spent::default(),
            last: vec![2.0, 1.0],
            first: vec![1.0],
            load: 0.5,
        };
        assert_eq!(kib(cost.bytes_each()), 10.0);
        assert_eq!(cost.json()["change_to_last"]["max_ms"], json!(2.0));
    }
}
