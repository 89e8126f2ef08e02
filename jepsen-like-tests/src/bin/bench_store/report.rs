//! What was measured, as a table or as JSON.

use std::time::Duration;

use jepsen_like_tests::bench::figures::{median, ms, round, word};
use jepsen_like_tests::disk_probe::{DiskSpeed, WRITE_LEN};
use serde_json::{Value, json};

use crate::load::{Engine, Measured};
use crate::settings::{Load, Settings, To};

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) probes: Vec<DiskSpeed>,
    /// By whom, with how many workers.
    pub(crate) loads: Vec<(Engine, usize, Measured)>,
    pub(crate) failovers: Vec<(Engine, Duration)>,
}

impl Report {
    /// The medians of the rounds; `None` for what was not measured.
    fn load(&self, engine: Engine, workers: usize) -> Option<Measured> {
        let here = |one: &&(Engine, usize, Measured)| (one.0, one.1) == (engine, workers);
        let rounds: Vec<Measured> = self.loads.iter().filter(here).map(|one| one.2).collect();
        let of = |field: fn(&Measured) -> f64| median(rounds.iter().map(field));
        (!rounds.is_empty()).then(|| Measured {
            per_second: of(|one| one.per_second),
            p50_ms: of(|one| one.p50_ms),
            p99_ms: of(|one| one.p99_ms),
        })
    }

    fn probe(&self) -> Measured {
        Measured {
            per_second: median(self.probes.iter().map(|probe| probe.per_second)),
            p50_ms: median(self.probes.iter().map(|probe| ms(probe.p50))),
            p99_ms: median(self.probes.iter().map(|probe| ms(probe.p99))),
        }
    }

    /// Times in milliseconds, the shortest first.
    fn failovers(&self, engine: Engine) -> Vec<f64> {
        let here = self.failovers.iter().filter(|one| one.0 == engine);
        let mut times: Vec<f64> = here.map(|one| ms(one.1)).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    pub(crate) fn json(&self, settings: &Settings, environment: &Value) -> Value {
        let shown = |one: Measured| json!({ "per_second": one.per_second.round(), "p50_ms": round(one.p50_ms), "p99_ms": round(one.p99_ms) });
        let loads = |workers: &usize| {
            let ours = self.load(Engine::Pennon, *workers)?;
            let theirs = self.load(Engine::Etcd, *workers);
            let ratio = theirs.map(|theirs| round(ours.per_second / theirs.per_second));
            Some(json!({
                "workers": workers, "pennon": shown(ours), "etcd": theirs.map(shown), "ratio": ratio,
            }))
        };
        let times = |engine| {
            let times = self.failovers(engine);
            let median = round(median(times.iter().copied()));
            let all: Vec<f64> = times.into_iter().map(round).collect();
            json!({ "median_ms": median, "all_ms": all })
        };
        let mut json = json!({ "bench": settings.word(), "environment": environment });
        match settings {
            Settings::Writes(load) | Settings::Reads(load) => {
                json["rounds"] = load.rounds.into();
                json["seconds"] = load.seconds.as_secs().into();
                json["to"] = if load.to == To::Leader {
                    "leader"
                } else {
                    "any"
                }
                .into();
                json["disk_probe"] = shown(self.probe());
                json["loads"] = load.workers.iter().filter_map(loads).collect();
            }
            Settings::Failover(asked) => {
                json["rounds"] = asked.rounds.into();
                json["pennon"] = times(Engine::Pennon);
                json["etcd"] = times(Engine::Etcd);
            }
        }
        json
    }

    pub(crate) fn text(&self, settings: &Settings, environment: &Value) -> String {
        let word = |name| word(environment, name);
        let head = format!(
            "{}: three nodes, real fsync; {} cores ({}), disk {}, {} build, load {} at the start, etcd {}\n",
            settings.word(),
            word("cores"),
            word("cpu"),
            word("disk"),
            word("build"),
            word("load_at_start"),
            word("etcd"),
        );
        let body = match settings {
            Settings::Writes(load) | Settings::Reads(load) => self.loads_text(load),
            Settings::Failover(_) => self.failovers_text(),
        };
        format!("{head}{body}\nour nodes agree: {}", word("converged"))
    }

    fn loads_text(&self, load: &Load) -> String {
        let mut text = format!(
            "workers ask {}, {} s each, medians of {} interleaved rounds\n\n{:>8} {:>10} {:>9} {:>9} | {:>10} {:>9} {:>9} | {:>6} {:>9}\n",
            match load.to {
                To::Leader => "the leader",
                To::Any => "all nodes",
            },
            load.seconds.as_secs(),
            load.rounds,
            "workers",
            "Pennon/s",
            "p50 ms",
            "p99 ms",
            "etcd/s",
            "p50 ms",
            "p99 ms",
            "ratio",
            "p99 ratio",
        );
        for workers in &load.workers {
            let Some(ours) = self.load(Engine::Pennon, *workers) else {
                continue;
            };
            text += &format!(
                "{workers:>8} {:>10.0} {:>9.2} {:>9.2} |",
                ours.per_second, ours.p50_ms, ours.p99_ms
            );
            text += &match self.load(Engine::Etcd, *workers) {
                Some(theirs) => format!(
                    " {:>10.0} {:>9.2} {:>9.2} | {:>6.2} {:>9.2}\n",
                    theirs.per_second,
                    theirs.p50_ms,
                    theirs.p99_ms,
                    ours.per_second / theirs.per_second,
                    ours.p99_ms / theirs.p99_ms
                ),
                None => " not compared\n".to_owned(),
            };
        }
        let probe = self.probe();
        text + &format!(
            "{:>8} {:>10.0} {:>9.2} {:>9.2}   write + fdatasync of {WRITE_LEN} B, same directory, same run\n",
            "disk", probe.per_second, probe.p50_ms, probe.p99_ms
        )
    }

    fn failovers_text(&self) -> String {
        let line = |name: &str, engine| {
            let times = self.failovers(engine);
            let (Some(first), Some(last)) = (times.first(), times.last()) else {
                return format!("{name:>8} not compared\n");
            };
            format!(
                "{name:>8} {:>9.0} {first:>9.0} {last:>9.0}   {} leaders killed\n",
                median(times.iter().copied()),
                times.len()
            )
        };
        format!(
            "from SIGKILL until a write that began after it was answered, ms\n\n{:>8} {:>9} {:>9} {:>9}\n{}{}",
            "",
            "median",
            "shortest",
            "longest",
            line("Pennon", Engine::Pennon),
            line("etcd", Engine::Etcd)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_one_engine_and_one_number_of_workers() {
        let one = |per_second| Measured {
            per_second,
            p50_ms: 1.0,
            p99_ms: 2.0,
        };
        let mut report = Report::default();
        for (engine, workers, per_second) in [
            (Engine::Pennon, 1, 10.0),
            (Engine::Etcd, 1, 5.0),
            (Engine::Pennon, 1, 30.0),
            (Engine::Pennon, 64, 99.0),
            (Engine::Pennon, 1, 20.0),
        ] {
            report.loads.push((engine, workers, one(per_second)));
        }
        let of = |engine, workers| report.load(engine, workers).map(|one| one.per_second);
        assert_eq!(of(Engine::Pennon, 1), Some(20.0));
        assert_eq!(of(Engine::Etcd, 1), Some(5.0));
        assert_eq!(of(Engine::Etcd, 64), None);
    }
}
