//! Whether readers that share a client get in each other's way: one thread, two threads, and two
//! threads while new snapshots come in.
//!
//! What must hold: all decide the mix on one client at the same time, with version and freshness,
//! and every lap adds up to the same sum; the snapshots that come in are deltas over the client's
//! connection, each changing one flag but no decision, and they did come in. A third thread is busy
//! with them, so on a machine of two cores some of what they cost is time and not contention.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pennon_client::Client;
use pennon_evaluator::ConfigSnapshot;

use crate::Result;
use crate::lane::prepare;
use crate::node::Node;
use crate::pennon::{self, Read, WRITTEN_AT, Wanted, version_of};
use crate::rounds::{median, thread_time};
use crate::store::{Kind, Plan, Store};

/// Time between two snapshots.
const SWAP_EVERY: Duration = Duration::from_millis(10);

/// Nanoseconds that a thread takes for one decision.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// On the wall.
    pub wall: f64,
    /// On a core. What is more on the wall, it waited: for a lock, or for a core.
    pub core: f64,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// With one thread.
    pub one: Taken,
    /// With two.
    pub two: Taken,
    /// With two, while snapshots come in.
    pub two_swapping: Taken,
    /// How many of them came in a second.
    pub swaps_per_second: f64,
}

/// Measures so many rounds; each of the three takes about `time` in each.
///
/// # Errors
/// When an answer is wrong or the snapshots do not come in.
pub fn measure(
    store: &Store,
    plan: &Plan,
    client: &Client,
    node: &Node,
    rounds: usize,
    time: Duration,
) -> Result<Threads> {
    let (mut one, mut two, mut swapping, mut swaps) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut content = Content::new(store)?;
    for _ in 0..rounds {
        one.push(hammer(client, plan, 1, time)?);
        two.push(hammer(client, plan, 2, time)?);
        let (before, begin) = (deltas(client), Instant::now());
        swapping.push(content.while_swapping(node, || hammer(client, plan, 2, time))?);
        swaps.push((deltas(client) - before) as f64 / begin.elapsed().as_secs_f64());
        content.arrived(client)?;
    }
    pennon::healthy(client)?;
    Ok(Threads {
        one: median_of(&one),
        two: median_of(&two),
        two_swapping: median_of(&swapping),
        swaps_per_second: median(&swaps),
    })
}

/// How many deltas the client has taken.
fn deltas(client: &Client) -> u64 {
    client.status().counters.deltas
}

fn median_of(rounds: &[Taken]) -> Taken {
    let of = |field: fn(&Taken) -> f64| median(&rounds.iter().map(field).collect::<Vec<f64>>());
    Taken {
        wall: of(|taken| taken.wall),
        core: of(|taken| taken.core),
    }
}

/// Lets threads decide for a while; what each took on average.
fn hammer(client: &Client, plan: &Plan, threads: usize, time: Duration) -> Result<Taken> {
    let barrier = Barrier::new(threads);
    let laps: Result<Vec<Taken>> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| laps(client, plan, &barrier, time));
        let handles: Vec<_> = (0..threads).map(|_| one()).collect();
        let ended = handles.into_iter().map(|handle| handle.join());
        ended
            .map(|lap| lap.unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    });
    let laps = laps?;
    let mean = |field: fn(&Taken) -> f64| laps.iter().map(field).sum::<f64>() / threads as f64;
    Ok(Taken {
        wall: mean(|taken| taken.wall),
        core: mean(|taken| taken.core),
    })
}

fn laps(client: &Client, plan: &Plan, barrier: &Barrier, time: Duration) -> Result<Taken> {
    let version = version_of(WRITTEN_AT)?;
    let lane = prepare(Read(Wanted {
        client: client.clone(),
        version,
    }))?;
    let sum = lane.run(plan, 1);
    barrier.wait();
    let (begin, begin_core, mut laps) = (Instant::now(), thread_time(), 0_usize);
    while begin.elapsed() < time {
        if lane.run(plan, 1) != sum {
            return Err("a decision was another one while threads shared the client".into());
        }
        laps += 1;
    }
    let each = |time: Duration| time.as_nanos() as f64 / (laps * plan.steps.len()) as f64;
    let core = thread_time().saturating_sub(begin_core);
    Ok(Taken {
        wall: each(begin.elapsed()),
        core: each(core),
    })
}

/// The store with one flag that is touched and not, in turns.
struct Content {
    plain: ConfigSnapshot,
    touched: ConfigSnapshot,
    at: u64,
}

impl Content {
    fn new(store: &Store) -> Result<Content> {
        let plain = pennon::compile(store)?;
        let flag = store
            .first(|kind| kind == Kind::On)
            .ok_or("no flag to change")?;
        let state = pennon::flag_state(store, &store.flags[flag], plain.version(), true)?;
        let mut states = plain.states().to_vec();
        for old in states
            .iter_mut()
            .filter(|old| old.state_key() == state.state_key())
        {
            *old = state.clone();
        }
        let touched = ConfigSnapshot::new(plain.environment().clone(), plain.version(), states)?;
        Ok(Content {
            plain,
            touched,
            at: WRITTEN_AT,
        })
    }

    fn next(&mut self) -> Result<ConfigSnapshot> {
        self.at += 1;
        let content = if self.at.is_multiple_of(2) {
            &self.plain
        } else {
            &self.touched
        };
        Ok(content.clone().with_version(version_of(self.at)?)?)
    }

    /// Publishes a new content again and again until `work` is done.
    fn while_swapping<T>(&mut self, node: &Node, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let begin = Instant::now();
                for n in 1.. {
                    node.publish(self.next()?);
                    let due = SWAP_EVERY.saturating_mul(n);
                    // The pace of the writes, not a wait for something to happen.
                    std::thread::park_timeout(due.saturating_sub(begin.elapsed()));
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Result::Ok(())
            });
            let worked = work();
            done.store(true, Ordering::Relaxed);
            swapper
                .join()
                .unwrap_or_else(|_| Err("the writer panicked".into()))?;
            worked
        })
    }

    /// Waits until the client has the last one.
    fn arrived(&self, client: &Client) -> Result<()> {
        let (begin, last) = (Instant::now(), version_of(self.at)?);
        while client.version() < Some(last) {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(
                    format!("version {last} did not arrive, only {:?}", client.version()).into(),
                );
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}
