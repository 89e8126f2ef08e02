//! Interleaved rounds: every contestant's turn at every workload, again and again, and the medians.
//!
//! What must hold: a slow minute of the machine hits all contestants; how much a cell does is fixed
//! before its first round; each turn begins with laps that do not count, so that nobody pays for
//! the caches that another left behind; a turn whose answers add up to something else than those of
//! the first, untimed one aborts the run.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::lane::Lane;
use crate::store::{Plan, SUBJECTS};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; medians are taken over them.
    pub rounds: usize,
    /// How long one turn takes, about.
    pub turn: Duration,
}

/// The nanoseconds of one operation in each round; none where a contestant cannot run a workload.
pub type Cell = Option<Vec<f64>>;

/// Measures all workloads. The cells are by workload, then by contestant.
///
/// # Errors
/// When an answer is wrong, or `healthy` says so between two rounds.
pub fn decisions(
    lanes: &[Box<dyn Lane>],
    plans: &[Plan],
    effort: Effort,
    healthy: impl Fn() -> Result<()>,
) -> Result<Vec<Vec<Cell>>> {
    let turns: Vec<Vec<Option<Turn<'_>>>> = plans
        .iter()
        .map(|plan| {
            lanes
                .iter()
                .map(|lane| Turn::new(&**lane, plan, effort.turn))
                .collect()
        })
        .collect();
    let empty = |turn: &Option<Turn<'_>>| turn.as_ref().map(|_| Vec::new());
    let mut cells: Vec<Vec<Cell>> = turns
        .iter()
        .map(|row| row.iter().map(empty).collect())
        .collect();
    for _ in 0..effort.rounds {
        healthy()?;
        for (row, measured) in turns.iter().zip(&mut cells) {
            for (turn, cell) in row.iter().zip(measured) {
                if let (Some(turn), Some(cell)) = (turn, cell) {
                    cell.push(turn.take()?);
                }
            }
        }
    }
    healthy()?;
    Ok(cells)
}

/// Measures how long each contestant takes to build a context, in nanoseconds.
pub fn contexts(lanes: &[Box<dyn Lane>], effort: Effort) -> Vec<Cell> {
    let mut cells: Vec<Cell> = lanes.iter().map(|_| Some(Vec::new())).collect();
    let count = SUBJECTS * (effort.turn.as_micros() as usize / SUBJECTS).max(1);
    for _ in 0..effort.rounds {
        for (lane, cell) in lanes.iter().zip(&mut cells) {
            let took = lane.contexts(count);
            cell.get_or_insert_default()
                .push(took.as_nanos() as f64 / count as f64);
        }
    }
    cells
}

/// One contestant at one workload.
struct Turn<'a> {
    lane: &'a dyn Lane,
    plan: &'a Plan,
    laps: usize,
    sum: u64,
}

impl<'a> Turn<'a> {
    fn new(lane: &'a dyn Lane, plan: &'a Plan, time: Duration) -> Option<Turn<'a>> {
        if !lane.can(plan.workload) {
            return None;
        }
        let mut laps = 1;
        loop {
            let begin = thread_time();
            lane.run(plan, laps);
            let took = thread_time().saturating_sub(begin);
            if took * 4 >= time {
                let fitting = time.as_secs_f64() / took.as_secs_f64() * laps as f64;
                laps = (fitting.round() as usize).max(1);
                break;
            }
            laps *= 2;
        }
        let sum = lane.run(plan, laps);
        Some(Turn {
            lane,
            plan,
            laps,
            sum,
        })
    }

    fn take(&self) -> Result<f64> {
        self.lane.run(self.plan, 1 + self.laps / 4);
        let begin = thread_time();
        let sum = self.lane.run(self.plan, self.laps);
        let took = thread_time().saturating_sub(begin);
        if sum != self.sum {
            let (name, workload) = (self.lane.name(), self.plan.workload.name());
            return Err(format!(
                "{name}: the answers of {workload} were not the same in every round"
            )
            .into());
        }
        Ok(took.as_nanos() as f64 / (self.laps * self.plan.steps.len()) as f64)
    }
}

/// Returns how long this thread has been running on a core.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel keeps both parts non-negative and the second below 10^9.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns the median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
