//! All verdicts on one history.
//!
//! What must hold: the whole is valid only if every promise that was asked about is; one that is
//! INVALID makes it so, whether it was asked about or not; a history that does not get to its end is
//! unknown at best. What nobody asked about and nothing was seen of is said to be not asked.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::freshness::{Acknowledged, Judged};
use super::never_back::Evaluated;
use super::{
    Place, Verdict, atomic, coverage, durable, exactly_once, faithful, freshness, liveness,
    never_back, one_variant, receipts, registers, search, streams,
};
use crate::history::{
    ChangeSet, Event, FinalRead, History, Operation, Outcome, ReadSet, Request, SetOutcome,
};

/// What a run has to show for its verdict; less is unknown. A promise of which nothing is demanded
/// and nothing was seen is not judged; where something was seen, it is judged all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demand {
    /// Acknowledged writes of registers.
    pub writes_min: usize,
    /// Answered reads of registers.
    pub reads_min: usize,
    /// Refused writes of registers.
    pub conflicts_min: usize,
    /// Requests that were sent more than once.
    pub retries_min: usize,
    /// Committed change sets.
    pub change_sets_min: usize,
    /// Reads of what change sets wrote.
    pub read_sets_min: usize,
    /// Snapshots compiled anew and compared with what a node served.
    pub recomputed_min: usize,
    /// Snapshots, deltas and heartbeats on streams.
    pub stream_items_min: usize,
    /// Streams that went on from a version.
    pub resumes_min: usize,
    /// Rises of the version between two evaluations of one client.
    pub rises_min: usize,
    /// Evaluations called FRESH.
    pub fresh_min: usize,
    /// Evaluations that were not.
    pub stale_min: usize,
    /// Receipts of which the time was over while somebody evaluated.
    pub receipts_min: usize,
    /// Evaluations of one (flag, subject, version) by more than one client.
    pub shared_evaluations_min: usize,
    /// The staleness bound in milliseconds; 0 is not known, and then freshness is unknown.
    pub bound_ms: u64,
    /// By how much an evaluator's own age may be too small because clocks were made to go wrong; what
    /// `bound_ms` says has it in it already.
    pub clocks_off_ms: u64,
    /// Whether writes must have resumed after every death of a leader, and the cluster converged
    /// after everything was healed.
    pub liveness: bool,
    /// Registers whose end is compared with what was acknowledged.
    pub finals_min: usize,
    /// Kinds of faults that must each have acted.
    pub faults: BTreeSet<String>,
}

/// What is said of one promise, or of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// Nobody asked, and there was nothing to see.
    NotAsked,
    /// Kept.
    Valid,
    /// It cannot be said.
    Unknown,
    /// Broken.
    Invalid,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Judgement::NotAsked => "not asked",
            Judgement::Valid => "valid",
            Judgement::Unknown => "unknown",
            Judgement::Invalid => "INVALID",
        })
    }
}

/// What one checker says.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name of the checker.
    pub checker: &'static str,
    /// The promises it judges.
    pub promises: &'static str,
    /// Its verdict.
    pub judgement: Judgement,
    /// What that rests on, in one line.
    pub shows: String,
    /// The first things that are wrong: the rule, what was seen, and where.
    pub complaints: Vec<(String, String, Option<Place>)>,
}

/// What all checkers say.
#[derive(Clone, Debug)]
pub struct Report {
    /// Over all of them.
    pub overall: Judgement,
    /// Each of them.
    pub lines: Vec<Line>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            let (judgement, checker) = (line.judgement, line.checker);
            writeln!(f, "{judgement:9}  {checker:12}  {}", line.shows)?;
            for (rule, what, _) in &line.complaints {
                writeln!(f, "           {rule}: {what}")?;
            }
        }
        write!(f, "{}", self.overall)
    }
}

impl Line {
    /// A verdict as a line; `seen` says whether the history has anything on it, `asked` whether
    /// anything was demanded.
    fn new<R: Copy + PartialEq + fmt::Debug>(
        (checker, promises): (&'static str, &'static str),
        (asked, seen): (bool, bool),
        verdict: Verdict<R>,
    ) -> Line {
        let mut line = Line {
            checker,
            promises,
            judgement: Judgement::NotAsked,
            shows: "nothing of it is in the history".to_owned(),
            complaints: Vec::new(),
        };
        (line.judgement, line.shows) = match verdict {
            Verdict::Invalid(complaints) => {
                let first = complaints.first().iter();
                let first = first.map(|(rule, what, at)| (format!("{rule:?}"), what.clone(), *at));
                line.complaints = first.collect();
                let shown = match complaints.count() - line.complaints.len() {
                    0 => String::new(),
                    _ => format!(", the first {} are shown", line.complaints.len()),
                };
                let count = complaints.count();
                let word = if count == 1 {
                    "complaint"
                } else {
                    "complaints"
                };
                (Judgement::Invalid, format!("{count} {word}{shown}"))
            }
            _ if !asked && !seen => return line,
            Verdict::Valid(shows) => (Judgement::Valid, shows),
            Verdict::Unknown(why) => (Judgement::Unknown, why),
        };
        line
    }
}

/// Judges a history by the demand in its header.
///
/// # Examples
/// ```
/// use jepsen_like_tests::checkers::judge::{Demand, Judgement, judge};
/// use jepsen_like_tests::history::{Header, Recorder};
///
/// let demand = Demand { writes_min: 100, ..Demand::default() };
/// let history = Recorder::default().history(Header::new(7, vec!["n1".into()], demand));
/// let report = judge(&history);
/// // Nothing was done, so nothing is shown: that does not pass for valid.
/// assert_eq!(report.overall, Judgement::Unknown);
/// ```
pub fn judge(history: &History) -> Report {
    let demand = &history.header.demand;
    let parts = Parts::new(history);
    let mut lines = parts.of_registers(demand);
    lines.extend(parts.of_states(demand));
    lines.extend(parts.of_evaluations(demand));
    lines.extend(parts.of_run(demand));
    if let Some(complaint) = &history.complaint {
        lines.push(Line {
            checker: "whole",
            promises: "",
            judgement: Judgement::Unknown,
            shows: complaint.clone(),
            complaints: Vec::new(),
        });
    }
    let overall = lines.iter().map(|line| line.judgement).max();
    let overall = match overall {
        // Nothing at all was judged.
        None | Some(Judgement::NotAsked) => Judgement::Unknown,
        Some(overall) => overall,
    };
    Report { overall, lines }
}

/// A history by kinds of events.
struct Parts<'a> {
    events: &'a [Event],
    nodes: usize,
    requests: Vec<&'a Request>,
    operations: Vec<Operation>,
    sets: Vec<&'a ChangeSet>,
    reads: Vec<&'a ReadSet>,
    finals: Vec<&'a FinalRead>,
}

impl<'a> Parts<'a> {
    fn new(history: &'a History) -> Parts<'a> {
        let mut parts = Parts {
            events: &history.events,
            nodes: history.header.nodes.len(),
            requests: Vec::new(),
            operations: history.operations(),
            sets: Vec::new(),
            reads: Vec::new(),
            finals: Vec::new(),
        };
        for event in &history.events {
            match event {
                Event::Operation(request) => parts.requests.push(request),
                Event::ChangeSet(set) => parts.sets.push(set),
                Event::ReadSet(read) => parts.reads.push(read),
                Event::Final(end) => parts.finals.push(end),
                _ => {}
            }
        }
        parts
    }

    fn any(&self, holds: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(holds)
    }

    fn of_registers(&self, demand: &Demand) -> Vec<Line> {
        let of = registers::Demand {
            writes_min: demand.writes_min,
            reads_min: demand.reads_min,
            conflicts_min: demand.conflicts_min,
        };
        let (asked, seen) = (demand.writes_min > 0, !self.operations.is_empty());
        let by_version = registers::check(&self.operations, of);
        let judged_min = (demand.writes_min + demand.reads_min) / 2;
        let by_search = search::check(&self.operations, judged_min);
        let once = exactly_once::Demand {
            retries_min: demand.retries_min,
            registers_min: demand.finals_min,
        };
        let once = exactly_once::check(&self.requests, &self.finals, once);
        let retried = self.requests.iter().any(|one| one.attempts.len() > 1);
        let ends = self.finals.iter().map(|end| {
            let versions = match end.whole {
                true => end.history.iter().map(|line| line.version).collect(),
                false => BTreeSet::new(),
            };
            let seen = end.seen.clone();
            (end.register.clone(), durable::Final { seen, versions })
        });
        let writes_min = demand.writes_min.min(demand.finals_min);
        let durable = durable::check(&self.operations, &ends.collect(), writes_min);
        let finals = (demand.finals_min > 0, !self.finals.is_empty());
        vec![
            Line::new(("registers", "I1 I2 I9"), (asked, seen), by_version),
            Line::new(("search", "I1"), (asked, seen), by_search),
            Line::new(
                ("exactly-once", "I9"),
                (demand.retries_min > 0, retried),
                once,
            ),
            Line::new(("durable", "I9"), finals, durable),
        ]
    }

    fn of_states(&self, demand: &Demand) -> Vec<Line> {
        let of = atomic::Demand {
            sets_min: demand.change_sets_min,
            reads_min: demand.read_sets_min,
        };
        let atomic = atomic::check(&self.sets, &self.reads, of);
        let asked = demand.change_sets_min > 0 || demand.read_sets_min > 0;
        let pairs = Line::new(("atomic", "I3"), (asked, !self.reads.is_empty()), atomic);
        let faithful = faithful::check(self.events, demand.recomputed_min);
        let seen = self.any(|event| matches!(event, Event::Ground(_) | Event::Served(_)));
        let asked = demand.recomputed_min > 0;
        let faithful = Line::new(("faithful", "I4"), (asked, seen), faithful);
        let of = streams::Demand {
            items_min: demand.stream_items_min,
            resumes_min: demand.resumes_min,
        };
        let asked = demand.stream_items_min > 0 || demand.resumes_min > 0;
        let seen = self.any(|event| matches!(event, Event::Stream(_)));
        let streams = streams::check(self.events, of);
        let streams = Line::new(("streams", "I8 I3 I6"), (asked, seen), streams);
        vec![pairs, faithful, streams]
    }

    fn of_evaluations(&self, demand: &Demand) -> Vec<Line> {
        let seen = self.any(|event| matches!(event, Event::Evaluation(_)));
        let never_back = never_back::check(&self.evaluated(), demand.rises_min);
        let of = one_variant::Demand {
            shared_min: demand.shared_evaluations_min,
            recomputed_min: 0,
        };
        let one_variant = one_variant::check(self.events, of);
        let freshness = self.freshness(demand);
        let (outlived, receipts) = self.receipts(demand);
        let asked_fresh = demand.fresh_min > 0 || demand.stale_min > 0;
        let asked_one = demand.shared_evaluations_min > 0;
        vec![
            Line::new(
                ("never-back", "I6"),
                (demand.rises_min > 0, seen),
                never_back,
            ),
            Line::new(("one-variant", "I7"), (asked_one, seen), one_variant),
            Line::new(("freshness", "I5"), (asked_fresh, seen), freshness),
            Line::new(
                ("receipts", "I5"),
                (demand.receipts_min > 0, outlived > 0),
                receipts,
            ),
        ]
    }

    fn of_run(&self, demand: &Demand) -> Vec<Line> {
        let seen = self.any(|event| matches!(event, Event::Phase(_)));
        let liveness = liveness::check(self.events, self.nodes);
        let faults = self.any(|event| matches!(event, Event::Fault(_)));
        let asked = !demand.faults.is_empty();
        let coverage = coverage::check(self.events, &demand.faults);
        vec![
            Line::new(("liveness", ""), (demand.liveness, seen), liveness),
            Line::new(("coverage", ""), (asked, faults), coverage),
        ]
    }

    fn evaluated(&self) -> Vec<Evaluated> {
        let decided = self.events.iter().filter_map(|event| match event {
            Event::Evaluation(one) if one_variant::is_decided(one) => Some(Evaluated {
                client: one.client,
                flag: one.flag.clone(),
                snapshot_version: one.snapshot_version,
                config_version: one.config_version,
            }),
            _ => None,
        });
        decided.collect()
    }

    /// I5, for each environment on its own, and how many receipts there is something to judge by. What a
    /// node says of a time is by its clock.
    fn receipts(&self, demand: &Demand) -> (usize, Verdict<receipts::Rule>) {
        let all = self.events.iter().filter_map(|event| match event {
            Event::Receipt(one) => Some(one),
            _ => None,
        });
        let all: Vec<_> = all.collect();
        let environments: BTreeSet<&Arc<str>> = all.iter().map(|one| &one.environment).collect();
        let (mut shows, mut settled) = (Vec::new(), 0);
        for environment in environments {
            let of = all.iter().filter(|one| one.environment == *environment);
            let said: Vec<receipts::Received> = of
                .map(|one| receipts::Received {
                    version: one.version,
                    at: one.at,
                    settled_in: match one.settled_in_ms {
                        0 => 0,
                        ms => ms
                            .saturating_add(demand.clocks_off_ms)
                            .saturating_mul(1_000_000),
                    },
                })
                .collect();
            let fresh = self.events.iter().filter_map(|event| match event {
                Event::Evaluation(one) if one.fresh && one.environment == *environment => {
                    Some(receipts::Fresh {
                        process: one.client,
                        began: one.began,
                        version: one.snapshot_version,
                    })
                }
                _ => None,
            });
            let fresh: Vec<_> = fresh.collect();
            settled += receipts::outlived(&said, &fresh);
            match receipts::check(&said, &fresh, 0) {
                Verdict::Valid(what) => shows.push(format!("{environment}: {what}")),
                Verdict::Unknown(_) => {} // what it lacks is counted
                invalid => return (settled, invalid),
            }
        }
        let verdict = match settled >= demand.receipts_min.max(1) {
            true => Verdict::Valid(shows.join("; ")),
            false => Verdict::Unknown(format!(
                "{settled} receipts were outlived; {} are needed",
                demand.receipts_min.max(1)
            )),
        };
        (settled, verdict)
    }

    /// I5, for each environment on its own: what counts is a write that its snapshots show.
    fn freshness(&self, demand: &Demand) -> Verdict<freshness::Rule> {
        if demand.bound_ms == 0 {
            return Verdict::Unknown("the staleness bound is not in the header".to_owned());
        }
        let evaluations = self.events.iter().filter_map(|event| match event {
            Event::Evaluation(one) if one.snapshot_version > 0 || one.fresh => Some(one),
            _ => None,
        });
        let evaluations: Vec<_> = evaluations.collect();
        let environments: BTreeSet<&Arc<str>> =
            evaluations.iter().map(|one| &one.environment).collect();
        let bound = demand.bound_ms.saturating_mul(1_000_000);
        let off = demand.clocks_off_ms.saturating_mul(1_000_000);
        let mut shows = Vec::new();
        // What is demanded is demanded of all of them together.
        let (mut fresh, mut stale) = (0, 0);
        for environment in environments {
            let of = evaluations
                .iter()
                .filter(|one| one.environment == *environment);
            let judged: Vec<Judged> = of
                .map(|one| Judged {
                    process: one.client,
                    began: one.began,
                    version: one.snapshot_version,
                    fresh: one.fresh,
                    age: one.age.map(|age| age.saturating_add(off)),
                })
                .collect();
            fresh += judged.iter().filter(|one| one.fresh).count();
            stale += judged.iter().filter(|one| !one.fresh).count();
            match freshness::check(&writes_of(self.events, environment), &judged, bound, (0, 0)) {
                Verdict::Valid(said) => shows.push(format!("{environment}: {said}")),
                other => return other,
            }
        }
        let shows = shows.join("; ");
        match fresh >= demand.fresh_min.max(1) && stale >= demand.stale_min {
            true => Verdict::Valid(shows),
            false => Verdict::Unknown(format!(
                "{fresh} evaluations were FRESH and {stale} STALE; {} and {} are needed",
                demand.fresh_min.max(1),
                demand.stale_min
            )),
        }
    }
}

/// The acknowledged writes that every snapshot of an environment shows.
pub(crate) fn writes_of(events: &[Event], environment: &str) -> Vec<Acknowledged> {
    let ours = |object: &str| {
        let rest = object.strip_prefix("policy/");
        let rest = rest.or_else(|| object.strip_prefix("segment/"));
        rest.and_then(|rest| rest.strip_prefix(environment))
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let acknowledged = events.iter().filter_map(|event| match event {
        Event::ChangeSet(set) => match set.outcome {
            SetOutcome::Committed { version } if set.writes.iter().any(|one| ours(&one.object)) => {
                Some((version, set.completed))
            }
            _ => None,
        },
        Event::Operation(request) => match request.operation.outcome {
            Outcome::Written { version } if ours(&request.operation.register) => {
                Some((version, request.operation.completed))
            }
            _ => None,
        },
        _ => None,
    });
    acknowledged
        .map(|(version, at)| Acknowledged { version, at })
        .collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
