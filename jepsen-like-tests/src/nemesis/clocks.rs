//! N10: the time of day jumps, or runs at another rate, on some nodes. Nothing that is promised goes by
//! it; times that people read are wrong meanwhile.
//!
//! Left out: the clocks that promises go by; in the simulation they run at other rates, too.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::{Act, Kind};
use crate::failure::{Failure, Result};

/// Between two jumps.
const STAYS: Duration = Duration::from_millis(700);
/// Ten years, in powers of ten of seconds.
const FAR: f64 = 8.5;
/// Backwards, standing, and up to a year in nine hours.
const RATES: [f64; 6] = [-1.0, 0.0, 0.5, 2.0, 10.0, 1_000.0];

pub(super) async fn perform(act: &mut Act) -> Result<()> {
    let arena = Arc::clone(&act.arena);
    let Ok(_alone) = arena.clocks.try_lock() else {
        return Err(Failure::new("another fault has the clocks"));
    };
    let fleet = &arena.fleet;
    let mut targets = act.shuffled(fleet.alive());
    targets.truncate(act.random.random_range(1..=targets.len().max(1)));
    act.asked(&targets);
    let before = moved(act, &targets)?;
    let end = Instant::now() + act.planned.lasts;
    let mut farthest = 0;
    while Instant::now() < end && !act.is_over() {
        for at in &targets {
            let (seconds, rate) = draw(act);
            farthest = farthest.max(seconds.abs());
            control(act, *at)?.move_clock(seconds, rate)?;
        }
        act.rest(STAYS).await;
    }
    for at in &targets {
        control(act, *at)?.move_clock(0, 1.0)?;
    }
    let count = moved(act, &targets)? - before;
    let how = match act.planned.kind {
        Kind::ClockRate => "ran at another rate".to_owned(),
        _ => format!("was up to {farthest} s wrong"),
    };
    act.acted(
        format!("the time of day {how}, {count} readings of it"),
        count,
    );
    Ok(())
}

/// Seconds by which a clock is wrong, and how fast it runs.
fn draw(act: &mut Act) -> (i64, f64) {
    if act.planned.kind == Kind::ClockRate {
        return (0, RATES[act.random.random_range(0..RATES.len())]);
    }
    let seconds = 10f64.powf(act.random.random_range(0.0..FAR)) as i64;
    (if act.chance(2) { seconds } else { -seconds }, 1.0)
}

fn control(act: &Act, at: usize) -> Result<&crate::shim::Control> {
    let control = act.fleet().control(at);
    control.ok_or_else(|| Failure::new("nothing stands between the node and the system"))
}

fn moved(act: &Act, targets: &[usize]) -> Result<u64> {
    let counts = targets
        .iter()
        .map(|at| Ok(control(act, *at)?.counts()?.clocks));
    counts.sum()
}
