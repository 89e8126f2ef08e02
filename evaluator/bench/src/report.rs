//! The figures beside the goals: a table for people, one JSON object for programs.
//!
//! What must hold: a goal is a ratio to the best peer of the same run, so it says the same on
//! every machine; the ratio that counts is that of `pennon read`, which includes version and
//! freshness; every ratio can be computed again from the figures shown.

use serde_json::{Map, Value, json};

use crate::loading::Loaded;
use crate::rounds::{Cell, Effort, median};
use crate::store::Workload;
use crate::threads::{Taken, Threads};

/// The contestant whose ratios have goals.
const OURS: &str = "pennon read";
const OURS_KEPT: &str = "pennon evaluate";
const FLOOR: &str = "floor";
/// At most this part of what the best peer takes.
const GOALS: [(Workload, f64); 6] = [
    (Workload::On, 0.7),
    (Workload::Rollout, 0.4),
    (Workload::Rules, 0.25),
    (Workload::Segment, 0.7),
    (Workload::Prerequisites, 0.45),
    (Workload::Mix, 0.25),
];
/// A segment of 10,000 keys at most this many times one of 100.
const SEGMENT_GOAL: f64 = 1.5;
/// Milliseconds for 1,000 flags and as many times more for more.
const LOAD_GOAL_MS: f64 = 3.0;
const DELTA_GOAL_MS: f64 = 1.0;
const HEAP_GOAL: f64 = 1_536.0;

/// Everything that was measured.
pub struct Report {
    /// Machine, build and releases.
    pub environment: Value,
    /// How much was measured.
    pub effort: Effort,
    /// The contestants, in the order of the cells.
    pub contestants: Vec<&'static str>,
    /// Decisions, by workload and contestant.
    pub cells: Vec<Vec<Cell>>,
    /// Contexts, by contestant.
    pub contexts: Vec<Cell>,
    /// Snapshots and deltas.
    pub loaded: Vec<Loaded>,
    /// Readers that share a client.
    pub threads: Threads,
    /// What `count_allocations` printed.
    pub counted: Value,
}

impl Report {
    fn at(&self, workload: Workload, contestant: &str) -> Option<f64> {
        let row = Workload::ALL.iter().position(|one| *one == workload)?;
        let column = self.contestants.iter().position(|one| *one == contestant)?;
        self.cells[row][column]
            .as_ref()
            .map(|rounds| median(rounds))
    }

    fn peers(&self) -> impl Iterator<Item = &'static str> + '_ {
        let ours = [OURS, OURS_KEPT, FLOOR];
        self.contestants
            .iter()
            .copied()
            .filter(move |name| !ours.contains(name))
    }

    fn best_peer(&self, workload: Workload) -> Option<(&'static str, f64)> {
        let peers = self
            .peers()
            .filter_map(|peer| Some((peer, self.at(workload, peer)?)));
        peers.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn ratio(&self, workload: Workload, ours: &str, other: &str) -> Option<f64> {
        Some(self.at(workload, ours)? / self.at(workload, other)?)
    }

    fn segment_ratio(&self) -> f64 {
        let at = |workload| self.at(workload, OURS).unwrap_or_default();
        at(Workload::Segment) / at(Workload::SmallSegment)
    }

    fn allocations(&self, workload: Workload, contestant: &str) -> Option<f64> {
        self.counted["allocations"][workload.name()][contestant].as_f64()
    }

    fn heap_per_flag(&self, flags: usize) -> Option<f64> {
        self.counted["heap_per_flag"][flags.to_string()].as_f64()
    }

    /// Returns the workloads in which Pennon allocated, which it never should.
    pub fn allocating(&self) -> Vec<String> {
        let mut found = Vec::new();
        for workload in Workload::ALL {
            for name in [OURS, OURS_KEPT] {
                let count = self.allocations(workload, name);
                if count.is_none_or(|count| count > 0.0) {
                    let count = count.map_or("not counted".to_owned(), |count| count.to_string());
                    found.push(format!("{name} in {}: {count} a decision", workload.name()));
                }
            }
        }
        found
    }

    /// Makes the table.
    pub fn table(&self) -> String {
        [
            self.head(),
            self.decisions(),
            self.ratios(),
            self.allocation_table(),
            self.loading_table(),
            self.threads_table(),
        ]
        .join("\n")
    }

    fn head(&self) -> String {
        let word = |name: &str| match &self.environment[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!(
            "flag decisions in process: 1,000 flags, 256 subjects of 6 attributes; {} cores ({}), load {}, {} build\n\
             {}\n\
             medians of {} interleaved rounds of {} ms a cell; Pennon's answers come from its client and are FRESH\n",
            word("cores"),
            word("cpu"),
            word("load"),
            word("build"),
            word("releases"),
            self.effort.rounds,
            self.effort.turn.as_millis(),
        )
    }

    fn row(&self, title: &str, cells: impl Iterator<Item = String>) -> String {
        let cells: String = cells.map(|cell| format!(" {cell:>15}")).collect();
        format!("{title:<31}{cells}\n")
    }

    fn decisions(&self) -> String {
        let names = self.contestants.iter().map(|name| (*name).to_owned());
        let mut text = self.row("ns a decision", names);
        for workload in Workload::ALL {
            let cells = self
                .contestants
                .iter()
                .map(|name| shown(self.at(workload, name), 1));
            text += &self.row(&titled(workload), cells);
        }
        let contexts = self
            .contexts
            .iter()
            .map(|cell| shown(cell.as_ref().map(|rounds| median(rounds)), 1));
        text += &self.row("building a context", contexts);
        text
    }

    fn ratios(&self) -> String {
        let peers: Vec<&str> = self.peers().collect();
        let heads = ["best peer", "goal", "evaluate / best"]
            .map(str::to_owned)
            .into_iter();
        let heads = heads
            .chain(peers.iter().map(|peer| format!("/ {peer}")))
            .chain(["/ floor".to_owned()]);
        let mut text = self.row("pennon read / …", heads);
        for workload in Workload::ALL {
            let best = self.best_peer(workload).map_or("", |(peer, _)| peer);
            let goal = GOALS
                .iter()
                .find(|(goal, _)| *goal == workload)
                .map(|(_, goal)| *goal);
            let ratio = self.ratio(workload, OURS, best);
            let goal = match (goal, ratio) {
                (Some(goal), Some(ratio)) => format!("<= {goal} {}", verdict(ratio <= goal)),
                _ => "-".to_owned(),
            };
            let first = [
                shown(ratio, 2),
                goal,
                shown(self.ratio(workload, OURS_KEPT, best), 2),
            ]
            .into_iter();
            let others = peers.iter().copied().chain([FLOOR]);
            let others = others.map(|other| shown(self.ratio(workload, OURS, other), 2));
            text += &self.row(&titled(workload), first.chain(others));
        }
        let ratio = self.segment_ratio();
        let goal = format!("<= {SEGMENT_GOAL} {}", verdict(ratio <= SEGMENT_GOAL));
        text += &self.row(
            "W4 10,000 / 100 keys",
            [shown(Some(ratio), 2), goal].into_iter(),
        );
        text
    }

    fn allocation_table(&self) -> String {
        let names = self.contestants.iter().map(|name| (*name).to_owned());
        let mut text = self.row("allocations a decision", names);
        for workload in Workload::ALL {
            let cells = self
                .contestants
                .iter()
                .map(|name| shown(self.allocations(workload, name), 2));
            text += &self.row(&titled(workload), cells);
        }
        let contexts = self
            .contestants
            .iter()
            .map(|name| shown(self.counted["contexts"][name].as_f64(), 2));
        text += &self.row("building a context", contexts);
        text += "goal: Pennon 0\n";
        text
    }

    fn loading_table(&self) -> String {
        let heads = [
            "frame KB",
            "load ms",
            "goal",
            "delta ms",
            "goal",
            "heap B/flag",
            "goal",
        ];
        let mut text = self.row("loading, plain mix", heads.map(str::to_owned).into_iter());
        for one in &self.loaded {
            let load_goal = load_goal_ms(one.flags);
            let heap = self.heap_per_flag(one.flags);
            let heap_goal = heap.map_or("-".to_owned(), |heap| {
                format!("<= {HEAP_GOAL} {}", verdict(heap <= HEAP_GOAL))
            });
            let cells = [
                (one.frame_len / 1_024).to_string(),
                shown(Some(one.load_ms), 2),
                format!("<= {load_goal} {}", verdict(one.load_ms <= load_goal)),
                shown(Some(one.delta_ms), 3),
                format!(
                    "<= {DELTA_GOAL_MS} {}",
                    verdict(one.delta_ms <= DELTA_GOAL_MS)
                ),
                shown(heap, 0),
                heap_goal,
            ];
            text += &self.row(&format!("{} flags", one.flags), cells.into_iter());
        }
        text
    }

    fn threads_table(&self) -> String {
        let threads = &self.threads;
        let heads = ["ns on the wall", "ns on a core"].map(str::to_owned);
        let mut text = self.row("threads, mix, evaluate", heads.into_iter());
        let mut line = |title: &str, taken: Taken| {
            let cells = [shown(Some(taken.wall), 1), shown(Some(taken.core), 1)];
            text += &self.row(title, cells.into_iter());
        };
        line("1 thread", threads.one);
        line("2 threads, same client", threads.two);
        let swapping = format!("2 threads, {:.0} snapshots/s", threads.swaps_per_second);
        line(&swapping, threads.two_swapping);
        text
    }

    /// Makes the JSON object.
    pub fn json(&self) -> Value {
        let workloads: Vec<Value> = Workload::ALL
            .into_iter()
            .map(|workload| self.workload_json(workload))
            .collect();
        let contexts = self
            .contestants
            .iter()
            .zip(&self.contexts)
            .map(|(name, cell)| {
                let ns = cell.as_ref().map(|rounds| rounded(median(rounds)));
                (
                    (*name).to_owned(),
                    json!({"ns": ns, "allocations": self.counted["contexts"][name]}),
                )
            });
        let contexts: Map<String, Value> = contexts.collect();
        let loading = self.loaded.iter().map(|one| {
            json!({"flags": one.flags, "frame_len": one.frame_len,
                "load_ms": rounded(one.load_ms), "load_goal_ms": load_goal_ms(one.flags),
                "delta_ms": rounded(one.delta_ms), "delta_goal_ms": DELTA_GOAL_MS,
                "heap_per_flag": self.heap_per_flag(one.flags), "heap_goal": HEAP_GOAL})
        });
        let loading: Vec<Value> = loading.collect();
        let taken =
            |taken: Taken| json!({"wall_ns": rounded(taken.wall), "core_ns": rounded(taken.core)});
        let threads = json!({"one": taken(self.threads.one), "two": taken(self.threads.two),
            "two_swapping": taken(self.threads.two_swapping),
            "swaps_per_second": rounded(self.threads.swaps_per_second)});
        json!({"bench": "evaluator", "environment": self.environment, "rounds": self.effort.rounds,
            "turn_ms": self.effort.turn.as_millis() as u64, "workloads": workloads, "contexts": contexts,
            "segment_10000_to_100": rounded(self.segment_ratio()), "segment_goal": SEGMENT_GOAL,
            "loading": loading, "threads": threads})
    }

    fn workload_json(&self, workload: Workload) -> Value {
        let row = Workload::ALL
            .iter()
            .position(|one| *one == workload)
            .unwrap_or_default();
        let cells = self
            .contestants
            .iter()
            .zip(&self.cells[row])
            .map(|(name, cell)| {
                let shown = cell.as_ref().map(|rounds| {
                    let all: Vec<f64> = rounds.iter().map(|ns| rounded(*ns)).collect();
                    json!({"ns": rounded(median(rounds)), "rounds": all,
                    "allocations": self.allocations(workload, name)})
                });
                ((*name).to_owned(), json!(shown))
            });
        let cells: Map<String, Value> = cells.collect();
        let best = self.best_peer(workload).map_or("", |(peer, _)| peer);
        let to = |other| self.ratio(workload, OURS, other).map(rounded);
        let to_each: Map<String, Value> = self
            .peers()
            .chain([FLOOR])
            .map(|other| (other.to_owned(), json!(to(other))))
            .collect();
        let goal = GOALS
            .iter()
            .find(|(goal, _)| *goal == workload)
            .map(|(_, goal)| *goal);
        json!({"workload": workload.name(), "title": workload.title(), "contestants": cells, "best_peer": best,
            "read_to_best": to(best), "evaluate_to_best": self.ratio(workload, OURS_KEPT, best).map(rounded),
            "goal": goal, "read_to": to_each})
    }
}

fn load_goal_ms(flags: usize) -> f64 {
    LOAD_GOAL_MS * flags as f64 / 1_000.0
}

fn titled(workload: Workload) -> String {
    format!("{:<7} {}", workload.name(), workload.title())
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or("n/a".to_owned(), |value| format!("{value:.digits$}"))
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
