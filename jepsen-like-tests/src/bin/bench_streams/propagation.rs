//! How long it takes until everybody has it: from just before a write is sent until the last of
//! many readers has applied it; here and with etcd, in turns on the same machine.
//!
//! Ours are whole clients of the client library: a change counts when the library has verified and
//! applied it and has told the application (`Client::changes`). Theirs are bare watches: an event counts when
//! it is decoded. Readers are spread over the three nodes in turn, the leader's last, so that a
//! single one is with a follower. Writes go to a follower and to the leader in turn. All readers
//! and the writer are in this process, so both sides share the cores with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jepsen_like_tests::disk_probe::{self, DiskSpeed};
use jepsen_like_tests::{Failure, Result, say};
use pennon_client::{Client, Version};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::board::{Board, Seat};
use crate::settings::Propagation;
use crate::store::{ANSWER_MAX, ENVIRONMENT, Store, Via};
use crate::watchers::{Watchers, Writers};
use jepsen_like_tests::bench::etcd::Etcd;
use jepsen_like_tests::bench::figures::{Quantiles, median, ms, round, word};
use jepsen_like_tests::bench::machine::{self, Meter, Spent};

/// Flips before those that count.
const WARM_UP: usize = 10;
/// Between a flip that everybody has seen and the next one: what it set off (acknowledgements,
/// answers) is not the next one's.
const PAUSE: Duration = Duration::from_millis(25);
/// Connections that are being opened at a time.
pub(crate) const OPENING_MAX: usize = 64;
const PROBE: Duration = Duration::from_secs(1);
/// A client that hears nothing for so long is not waited for any more.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// One number of readers in one round, on one of the two.
#[derive(Clone, Debug)]
struct Measured {
    all: Quantiles,
    to_follower: Quantiles,
    to_leader: Quantiles,
    /// Until the first reader had it.
    first: Quantiles,
    /// Until the writer was answered.
    answered: Quantiles,
    /// Until the first and the last reader of each node had it; the leader is the last.
    by_node: [(Quantiles, Quantiles); 3],
    flips: usize,
    spent: Spent,
    load: f64,
}

/// One number of readers, over all rounds.
#[derive(Default)]
struct Row {
    ours: Vec<Measured>,
    theirs: Vec<Measured>,
}

pub(crate) async fn run(settings: &Propagation) -> Result<String> {
    let mut store = Store::start(settings.asked.data.clone(), settings.flags).await?;
    let mut environment = machine::environment(store.cluster.directory());
    environment["release"] = store.release().await?;
    environment["flags"] = json!(settings.flags);
    environment["flips"] = json!(settings.flips);
    environment["rounds"] = json!(settings.rounds);
    let directory = store.cluster.directory();
    let mut etcd = Etcd::if_asked(&settings.asked, directory, &mut environment).await?;
    let mut rows: Vec<Row> = settings.streams.iter().map(|_| Row::default()).collect();
    let mut probes = Vec::new();
    for number in 0..settings.rounds {
        let directory = store.cluster.directory().to_owned();
        let probe = tokio::task::spawn_blocking(move || disk_probe::measure(&directory, PROBE));
        probes.push(probe.await.map_err(Failure::new)??);
        for (readers, row) in settings.streams.iter().zip(&mut rows) {
            // Who is first changes, in case it matters.
            for theirs in [number % 2 == 1, number % 2 == 0] {
                match (theirs, &mut etcd) {
                    (false, _) => row
                        .ours
                        .push(ours(&mut store, *readers, settings.flips).await?),
                    (true, Some(etcd)) => row
                        .theirs
                        .push(theirs_of(etcd, *readers, settings.flips).await?),
                    (true, None) => {}
                }
            }
            say(format!("round {} with {readers} is done", number + 1));
        }
    }
    store.check_leader().await?;
    if let Some(etcd) = &mut etcd
        && etcd.find_leader().await? != etcd.leader
    {
        return Err(Failure::new("the leader of etcd changed during the run"));
    }
    Ok(match settings.asked.json {
        true => json_of(&environment, &probes, &settings.streams, &rows).to_string(),
        false => table_of(&environment, &probes, &settings.streams, &rows),
    })
}

async fn ours(store: &mut Store, readers: usize, flips: usize) -> Result<Measured> {
    let board = Arc::new(Board::default());
    let clients = Clients::open(store, readers, &board).await?;
    let mut writers = store.writers().await?;
    let ids = store.ids();
    let write = async |via, on| writers.flip(via, on).await;
    let measured = measure(&board, readers, flips, ids, write).await?;
    drop(clients);
    for at in 0..store.cluster.size() {
        store.has_streams(at, 0).await?;
    }
    Ok(measured)
}

async fn theirs_of(etcd: &mut Etcd, readers: usize, flips: usize) -> Result<Measured> {
    let board = Arc::new(Board::default());
    let turn = etcd.in_turn();
    let addresses = (0..readers).map(|n| etcd.address(turn[n % 3]).to_owned());
    let mut watchers = Watchers::open(addresses, |n| board.seat(n % 3), OPENING_MAX).await?;
    let mut writers = Writers::open(etcd).await?;
    let ids = etcd.ids();
    let write = async |via, on| {
        watchers.check()?;
        writers.put(via, on).await
    };
    measure(&board, readers, flips, ids, write).await
}

/// Flips, each as soon as everybody has seen the one before and a pause is over.
async fn measure(
    board: &Board,
    readers: usize,
    flips: usize,
    servers: Vec<u32>,
    mut write: impl AsyncFnMut(Via, bool) -> Result<u64>,
) -> Result<Measured> {
    let load = machine::load();
    // There and back, so that the next one begins as this one did.
    let flips = flips.next_multiple_of(2);
    let (mut last, mut first, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_node = [const { (Vec::new(), Vec::new()) }; 3];
    let mut meter = Meter::start(servers.clone());
    for flip in 0..WARM_UP + flips {
        tokio::time::sleep(PAUSE).await;
        if flip == WARM_UP {
            meter = Meter::start(servers.clone());
        }
        let via = Via::of(flip / 2);
        board.begin(readers);
        let sent = Instant::now();
        let version = write(via, flip % 2 == 0).await?;
        let answer = Instant::now();
        let seen = board.complete(ANSWER_MAX).await?;
        if let Some(other) = seen.iter().find(|seen| seen.version < version) {
            return Err(Failure::new(format!(
                "a reader told of version {} while {version} was written",
                other.version
            )));
        }
        let since = |at: Instant| ms(at.saturating_duration_since(sent));
        if let (true, [one, .., other] | [one @ other]) = (flip >= WARM_UP, &seen[..]) {
            first.push(since(one.at));
            last.push((via, since(other.at)));
            answered.push(since(answer));
            for (node, (first, last)) in by_node.iter_mut().enumerate() {
                let mut here = seen.iter().filter(|seen| seen.place == node);
                first.extend(here.clone().next().map(|seen| since(seen.at)));
                last.extend(here.next_back().map(|seen| since(seen.at)));
            }
        }
    }
    let spent = meter.stop();
    let only = |which: Via| last.iter().filter(move |(via, _)| *via == which);
    Ok(Measured {
        all: Quantiles::of(last.iter().map(|(_, time)| *time)),
        to_follower: Quantiles::of(only(Via::Follower).map(|(_, time)| *time)),
        to_leader: Quantiles::of(only(Via::Leader).map(|(_, time)| *time)),
        first: Quantiles::of(first),
        answered: Quantiles::of(answered),
        by_node: by_node.map(|(first, last)| (Quantiles::of(first), Quantiles::of(last))),
        flips,
        spent,
        load,
    })
}

/// Clients of the library, each with a task that reports changes, for as long as this lives.
struct Clients {
    _tasks: JoinSet<()>,
}

impl Clients {
    async fn open(store: &Store, readers: usize, board: &Arc<Board>) -> Result<Clients> {
        let turn = store.in_turn();
        let urls = store.cluster.urls();
        let (mut tasks, mut opening) = (JoinSet::new(), JoinSet::new());
        for n in 0..readers {
            if opening.len() >= OPENING_MAX {
                opened(&mut opening, &mut tasks).await?;
            }
            let builder = Client::builder([urls[turn[n % 3]].clone()])
                .environment(ENVIRONMENT)
                .client_id(format!("reader-{n}"))
                .connect_deadline(ANSWER_MAX);
            let seat = board.seat(n % 3);
            opening.spawn(async move { builder.connect().await.map(|client| (client, seat)) });
        }
        while !opening.is_empty() {
            opened(&mut opening, &mut tasks).await?;
        }
        Ok(Clients { _tasks: tasks })
    }
}

async fn opened(
    opening: &mut JoinSet<Result<(Client, Seat), pennon_client::Error>>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let Some(opened) = opening.join_next().await else {
        return Ok(());
    };
    let (client, mut seat) = opened.map_err(Failure::new)?.map_err(Failure::new)?;
    tasks.spawn(async move {
        // By version: `changes()` also finds out which flags changed, which nobody asks here.
        let next = |at: Option<Version>| at.unwrap_or_default().checked_add(1);
        let mut have = client.version();
        while let Some(next) = next(have) {
            let Ok(version) = client.wait_for(next, SILENCE_MAX).await else {
                return;
            };
            seat.saw(version.get());
            have = Some(version);
        }
    });
    Ok(())
}

fn medians(rounds: &[Measured], of: fn(&Measured) -> &Quantiles) -> Quantiles {
    Quantiles::medians(rounds.iter().map(of))
}

fn median_by(rounds: &[Measured], of: fn(&Measured) -> f64) -> f64 {
    median(rounds.iter().map(of))
}

fn per_flip(time: Duration, measured: &Measured) -> f64 {
    ms(time) / measured.flips.max(1) as f64
}

fn side_json(rounds: &[Measured]) -> Value {
    let mut side = medians(rounds, |one| &one.all).json();
    side["first"] = medians(rounds, |one| &one.first).json();
    side["answered"] = medians(rounds, |one| &one.answered).json();
    let at = |node: usize| {
        let of = |part: fn(&(Quantiles, Quantiles)) -> f64| {
            round(median(rounds.iter().map(|one| part(&one.by_node[node]))))
        };
        json!({"first_p50_ms": of(|(first, _)| first.p50), "last_p50_ms": of(|(_, last)| last.p50)})
    };
    side["by_node"] = json!({"follower": at(0), "other_follower": at(1), "leader": at(2)});
    side["to_follower"] = medians(rounds, |one| &one.to_follower).json();
    side["to_leader"] = medians(rounds, |one| &one.to_leader).json();
    side["cpu_ms_per_flip"] = json!({
        "servers": round(median_by(rounds, |one| per_flip(one.spent.servers, one))),
        "readers": round(median_by(rounds, |one| per_flip(one.spent.clients, one))),
    });
    let rounds = rounds.iter().map(|one| {
        let mut line = one.all.json();
        line["load"] = json!(one.load);
        line["others_share"] = json!(round(one.spent.others_share()));
        line
    });
    side["rounds"] = rounds.collect();
    side
}

fn ratios(row: &Row) -> Option<(f64, f64)> {
    let (ours, theirs) = (
        medians(&row.ours, |one| &one.all),
        medians(&row.theirs, |one| &one.all),
    );
    (theirs.p50 > 0.0).then(|| (ours.p50 / theirs.p50, ours.p99 / theirs.p99))
}

fn probe_of(probes: &[DiskSpeed]) -> (f64, f64) {
    (
        median(probes.iter().map(|probe| ms(probe.p50))),
        median(probes.iter().map(|probe| ms(probe.p99))),
    )
}

fn json_of(environment: &Value, probes: &[DiskSpeed], streams: &[usize], rows: &[Row]) -> Value {
    let rows = streams.iter().zip(rows).map(|(readers, row)| {
        let mut line = json!({"streams": readers, "pennon": side_json(&row.ours)});
        if let Some((p50, p99)) = ratios(row) {
            line["etcd"] = side_json(&row.theirs);
            line["ratio"] = json!({"p50": round(p50), "p99": round(p99)});
        }
        line
    });
    let (p50, p99) = probe_of(probes);
    json!({"bench": "propagation", "environment": environment,
        "disk_probe": {"p50_ms": round(p50), "p99_ms": round(p99)}, "propagation": rows.collect::<Vec<_>>()})
}

fn table_of(environment: &Value, probes: &[DiskSpeed], streams: &[usize], rows: &[Row]) -> String {
    let word = |name: &str| word(environment, name);
    let (p50, p99) = probe_of(probes);
    let mut text = format!(
        "a flag is flipped: from before the write is sent until the last client has applied it, ms\n\
         three nodes, {} flags, real fsync ({p50:.2} / {p99:.2} ms here); {} cores ({}), disk {}, release {} ({} build)\n\
         etcd: {}; {} flips in each of {} interleaved rounds, medians of the rounds; load {} at the start\n\n\
         {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>16} {:>7} {:>7}\n",
        word("flags"),
        word("cores"),
        word("cpu"),
        word("disk"),
        word("release"),
        word("build"),
        word("etcd"),
        word("flips"),
        word("rounds"),
        word("load_at_start"),
        "streams",
        "",
        "p50",
        "p99",
        "first",
        "leader",
        "follower",
        "cpu nodes",
        "cpu readers/flip",
        "others",
        "load",
    );
    for (readers, row) in streams.iter().zip(rows) {
        text += &line(&readers.to_string(), "pennon", &row.ours);
        if let Some((p50, p99)) = ratios(row) {
            text += &line("", "etcd", &row.theirs);
            text += &format!("{:>8} {:>8} {p50:>8.2} {p99:>8.2}\n", "", "ratio");
        }
    }
    text += "\nfirst: p50 until the first client has it; leader, follower: p50 of writes sent there; others: what other\n\
             programs used of the processors meanwhile";
    text
}

fn line(readers: &str, who: &str, rounds: &[Measured]) -> String {
    let all = medians(rounds, |one| &one.all);
    format!(
        "{readers:>8} {who:>8} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9.2} {:>9.2} {:>16.2} {:>6.0}% {:>7.2}\n",
        all.p50,
        all.p99,
        medians(rounds, |one| &one.first).p50,
        medians(rounds, |one| &one.to_leader).p50,
        medians(rounds, |one| &one.to_follower).p50,
        median_by(rounds, |one| per_flip(one.spent.servers, one)),
        median_by(rounds, |one| per_flip(one.spent.clients, one)),
        100.0 * median_by(rounds, |one| one.spent.others_share()),
        median_by(rounds, |one| one.load),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sample_ends_with_the_last_reader_and_a_foreign_version_is_an_error() {
        let board = Arc::new(Board::default());
        let (mut one, mut other) = (board.seat(0), board.seat(2));
        let mut version = 0;
        let write = async |_, _| {
            version += 1;
            one.saw(version);
            tokio::time::sleep(Duration::from_millis(3)).await;
            other.saw(version);
            Ok(version)
        };
        let measured = measure(&board, 2, 4, Vec::new(), write).await.unwrap();
        let [(here, _), _, (there, _)] = measured.by_node;
        assert!(here.p50 < 3.0 && there.p50 >= 3.0, "{measured:?}");
        assert!(measured.all.p50 >= 3.0, "{measured:?}");
        assert!(measured.first.p50 < measured.all.p50 && measured.answered.p50 >= 3.0);
        let mut seat = board.seat(0);
        let early = async |_, _| {
            seat.saw(1);
            Ok(2)
        };
        assert!(measure(&board, 1, 1, Vec::new(), early).await.is_err());
    }

    #[test]
    fn ratios_need_somebody_to_compare_with() {
        let with = |p50: f64| Measured {
            all: Quantiles {
                p50,
                p99: 2.0 * p50,
                max: 9.0,
            },
            to_follower: Quantiles::of([]),
            to_leader: Quantiles::of([]),
            first: Quantiles::of([]),
            answered: Quantiles::of([]),
            by_node: [(Quantiles::of([]), Quantiles::of([])); 3],
            flips: 1,
            spent: Spent::default(),
            load: 0.0,
        };
        let mut row = Row {
            ours: vec![with(1.0), with(3.0), with(2.0)],
            theirs: Vec::new(),
        };
        assert_eq!(ratios(&row), None);
        row.theirs.push(with(4.0));
        assert_eq!(ratios(&row), Some((0.5, 0.5)));
        let environment = json!({"flags": 1});
        let json = json_of(&environment, &[], &[7], &[row]);
        assert_eq!(json["propagation"][0]["ratio"]["p50"], json!(0.5));
    }
}
