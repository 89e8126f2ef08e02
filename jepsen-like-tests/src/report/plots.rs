//! The plots: throughput, latency, versions and staleness over time, with the faults behind them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::checkers::judge::writes_of;
use crate::history::{Action, Event, History, Outcome, SetOutcome, StreamItem};

use super::series::{Scale, fraction, quantile};
use super::{escape, faults};

/// Clients that get a line of their own.
const CLIENTS_MAX: usize = 12;

/// A line of a plot: its class, its name, and a value for each part of the run.
struct Series {
    class: String,
    name: String,
    values: Vec<Option<u64>>,
}

impl Series {
    fn new(class: &str, name: impl Into<String>, values: Vec<Option<u64>>) -> Series {
        let (class, name) = (class.to_owned(), name.into());
        Series {
            class,
            name,
            values,
        }
    }
}

/// How values are drawn.
struct Axis {
    from: u64,
    to: u64,
    /// By powers of ten.
    powers: bool,
    shown: fn(u64) -> String,
}

impl Axis {
    /// How high a value is, from 0 at the bottom to 1.
    fn height(&self, value: u64) -> f64 {
        let value = value.clamp(self.from, self.to);
        if !self.powers {
            return fraction(value - self.from, self.to - self.from);
        }
        let log = |value: u64| fraction(value.max(1), 1).log10();
        let span = log(self.to) - log(self.from);
        (log(value) - log(self.from)) / span.max(f64::EPSILON)
    }

    /// The values named beside the plot.
    fn marks(&self) -> Vec<u64> {
        if !self.powers {
            return vec![self.from, self.from + (self.to - self.from) / 2, self.to];
        }
        let powers = std::iter::successors(Some(self.from.max(1)), |mark| mark.checked_mul(10));
        powers.take_while(|mark| *mark <= self.to).collect()
    }
}

/// Draws all plots of which the history has something.
pub(super) fn draw(page: &mut String, history: &History, scale: &Scale) {
    let back = faults::shade(history, scale);
    throughput(page, history, scale, &back);
    latency(page, history, scale, &back);
    versions(page, history, scale, &back);
    staleness(page, history, scale, &back);
}

/// What a request came to, for counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Write,
    Read,
    Refused,
    Unknown,
}

/// Every request: what it came to, when it was over, and how long it took.
fn requests(history: &History) -> impl Iterator<Item = (Kind, u64, u64)> {
    history.events.iter().filter_map(|event| match event {
        Event::Operation(request) => {
            let one = &request.operation;
            let kind = match (&one.outcome, &one.action) {
                (Outcome::Read { .. }, _) => Kind::Read,
                (Outcome::Written { .. }, _) => Kind::Write,
                (Outcome::Conflict { .. }, _) => Kind::Refused,
                (Outcome::NotDone | Outcome::Unknown, Action::Read) => return None,
                (Outcome::NotDone | Outcome::Unknown, Action::Write { .. }) => Kind::Unknown,
            };
            Some((
                kind,
                one.completed,
                one.completed.saturating_sub(one.invoked),
            ))
        }
        Event::ChangeSet(set) => {
            let kind = match set.outcome {
                SetOutcome::Committed { .. } => Kind::Write,
                SetOutcome::Refused => Kind::Refused,
                SetOutcome::Unknown => Kind::Unknown,
            };
            Some((
                kind,
                set.completed,
                set.completed.saturating_sub(set.invoked),
            ))
        }
        Event::ReadSet(read) => {
            let took = read.completed.saturating_sub(read.invoked);
            Some((Kind::Read, read.completed, took))
        }
        _ => None,
    })
}

fn throughput(page: &mut String, history: &History, scale: &Scale, back: &str) {
    let mut counts: BTreeMap<Kind, Vec<u64>> = BTreeMap::new();
    for (kind, at, _) in requests(history) {
        let of = counts.entry(kind).or_insert_with(|| vec![0; scale.parts()]);
        of[scale.at(at)] += 1;
    }
    let series = counts.into_iter().map(|(kind, counts)| {
        let (class, name) = match kind {
            Kind::Write => ("s0", "writes acknowledged"),
            Kind::Read => ("s1", "reads"),
            Kind::Refused => ("s4", "refused for a conflict"),
            Kind::Unknown => ("s2", "without an outcome"),
        };
        let rate = |count: u64| count.saturating_mul(1_000_000_000) / scale.part();
        let values = counts.into_iter().map(|count| Some(rate(count)));
        Series::new(class, name, values.collect())
    });
    let series: Vec<Series> = series.collect();
    let top = top(&series);
    let axis = Axis {
        from: 0,
        to: top,
        powers: false,
        shown: |value| format!("{value}/s"),
    };
    plot(
        page,
        ("Throughput", scale, back, history),
        &axis,
        &series,
        &[],
    );
}

fn latency(page: &mut String, history: &History, scale: &Scale, back: &str) {
    let mut parts: Vec<Vec<u64>> = vec![Vec::new(); scale.parts()];
    for (kind, at, took) in requests(history) {
        if kind != Kind::Unknown {
            parts[scale.at(at)].push(took / 1_000);
        }
    }
    let mut of = |hundredths| {
        let values = parts.iter_mut().map(|part| quantile(part, hundredths));
        values.collect::<Vec<_>>()
    };
    let series = vec![
        Series::new("s0", "median", of(50)),
        Series::new("s3", "99 of 100", of(99)),
        Series::new("s2", "longest", of(100)),
    ];
    // The few that are far below the rest would squeeze it.
    let mut medians: Vec<u64> = series[0].values.iter().flatten().copied().collect();
    let least = quantile(&mut medians, 5);
    let axis = Axis {
        from: least.map_or(1, |least| 10_u64.pow(least.max(1).ilog10())),
        to: 10_u64.saturating_pow(top(&series).ilog10() + 1),
        powers: true,
        shown: |micros| match micros {
            0..1_000 => format!("{micros} µs"),
            1_000..1_000_000 => format!("{} ms", micros / 1_000),
            _ => format!("{} s", micros / 1_000_000),
        },
    };
    plot(
        page,
        ("Latency of what was answered", scale, back, history),
        &axis,
        &series,
        &[],
    );
}

/// The version that each client had, by when.
fn versions(page: &mut String, history: &History, scale: &Scale, back: &str) {
    let mut clients: BTreeMap<(&str, u32), Vec<Option<u64>>> = BTreeMap::new();
    let mut newest: Vec<Option<u64>> = vec![None; scale.parts()];
    for event in &history.events {
        let (who, at, version) = match event {
            Event::Evaluation(one) if one.snapshot_version > 0 => {
                (("evaluator", one.client), one.began, one.snapshot_version)
            }
            Event::Stream(event) => match &event.item {
                StreamItem::Snapshot { version, .. } | StreamItem::Heartbeat { version, .. } => {
                    (("stream", event.client), event.at, *version)
                }
                StreamItem::Delta { to, .. } => (("stream", event.client), event.at, *to),
                _ => continue,
            },
            Event::Operation(request) => {
                if let Outcome::Written { version } = request.operation.outcome {
                    raise(&mut newest[scale.at(request.operation.completed)], version);
                }
                continue;
            }
            Event::ChangeSet(set) => {
                if let SetOutcome::Committed { version } = set.outcome {
                    raise(&mut newest[scale.at(set.completed)], version);
                }
                continue;
            }
            _ => continue,
        };
        let of = clients
            .entry(who)
            .or_insert_with(|| vec![None; scale.parts()]);
        of[scale.at(at)] = Some(version);
    }
    let (count, mut series) = (clients.len(), Vec::new());
    for (n, ((kind, client), values)) in clients.into_iter().take(CLIENTS_MAX).enumerate() {
        let name = format!("{kind} {client}");
        series.push(Series::new(&format!("s{}", n % 8), name, values));
    }
    if series.is_empty() {
        return;
    }
    series.push(Series::new("newest", "newest acknowledged", newest));
    let all = series.iter().flat_map(|one| one.values.iter().flatten());
    let axis = Axis {
        from: all.min().copied().unwrap_or_default(),
        to: top(&series).max(1),
        powers: false,
        shown: |version| version.to_string(),
    };
    let mut title = "Version of each client".to_owned();
    if count > CLIENTS_MAX {
        let _ = write!(title, " (the first {CLIENTS_MAX} of {count})");
    }
    plot(page, (&title, scale, back, history), &axis, &series, &[]);
}

fn raise(highest: &mut Option<u64>, version: u64) {
    *highest = (*highest).max(Some(version));
}

/// How long ago the oldest write was acknowledged that an evaluation did not see, and what the
/// evaluators said of it, against the bound.
fn staleness(page: &mut String, history: &History, scale: &Scale, back: &str) {
    let mut missed: BTreeMap<&Arc<str>, Missed> = BTreeMap::new();
    let parts = scale.parts();
    let (mut fresh, mut stale) = (vec![None; parts], vec![None; parts]);
    let mut said: Vec<Option<u64>> = vec![None; parts];
    for event in &history.events {
        let Event::Evaluation(one) = event else {
            continue;
        };
        let of = missed
            .entry(&one.environment)
            .or_insert_with(|| Missed::new(history, &one.environment));
        let part = scale.at(one.began);
        let lag = of.lag(one.snapshot_version, one.began) / 1_000_000;
        let worst = if one.fresh { &mut fresh } else { &mut stale };
        raise(&mut worst[part], lag);
        if one.fresh {
            raise(&mut said[part], one.age.unwrap_or_default() / 1_000_000);
        }
    }
    if missed.is_empty() {
        return;
    }
    let series = vec![
        Series::new("s1", "lag of answers called FRESH, the worst", fresh),
        Series::new("s7", "lag of other answers, cut off above", stale),
        Series::new("s0", "age that FRESH answers gave", said),
    ];
    let bound = history.header.demand.bound_ms;
    // What is not called FRESH may be as old as it likes, and is cut off.
    let promised = top([&series[0], &series[2]]);
    let axis = Axis {
        from: 0,
        to: promised.max(bound.saturating_mul(3)),
        powers: false,
        shown: |ms| format!("{ms} ms"),
    };
    plot(
        page,
        ("Staleness against the bound", scale, back, history),
        &axis,
        &series,
        &[bound],
    );
}

/// The writes of an environment by version, with the first time that any from there on was
/// acknowledged.
struct Missed(Vec<(u64, u64)>);

impl Missed {
    fn new(history: &History, environment: &str) -> Missed {
        let writes = writes_of(&history.events, environment);
        let mut writes: Vec<(u64, u64)> = writes.iter().map(|one| (one.version, one.at)).collect();
        writes.sort_unstable();
        let mut first = u64::MAX;
        for (_, at) in writes.iter_mut().rev() {
            first = first.min(*at);
            *at = first;
        }
        Missed(writes)
    }

    fn lag(&self, version: u64, now: u64) -> u64 {
        let after = self.0.partition_point(|(have, _)| *have <= version);
        let oldest = self.0.get(after).map_or(now, |(_, at)| *at);
        now.saturating_sub(oldest)
    }
}

fn top<'a>(series: impl IntoIterator<Item = &'a Series>) -> u64 {
    let values = series
        .into_iter()
        .flat_map(|one| one.values.iter().flatten());
    values.max().copied().unwrap_or_default().max(1)
}

fn plot(
    page: &mut String,
    (title, scale, back, history): (&str, &Scale, &str, &History),
    axis: &Axis,
    series: &[Series],
    limits: &[u64],
) {
    let empty = series
        .iter()
        .all(|one| one.values.iter().all(Option::is_none));
    if empty {
        return;
    }
    let mut svg = back.to_owned();
    let y = |value: u64| 100.0 - axis.height(value) * 100.0;
    let mut marks = String::new();
    for mark in axis.marks() {
        let (at, shown) = (y(mark), (axis.shown)(mark));
        let _ = write!(
            svg,
            "<line x1=\"0\" x2=\"1000\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        let _ = write!(marks, "<span style=\"top:{at:.1}%\">{shown}</span>");
    }
    for limit in limits {
        let at = y(*limit);
        let _ = write!(
            svg,
            "<line class=\"limit\" x1=\"0\" x2=\"1000\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
    }
    for one in series {
        let path = path(&one.values, scale, y);
        let _ = write!(svg, "<path class=\"{}\" d=\"{path}\"/>", one.class);
    }
    let title = escape(title);
    let _ = write!(
        page,
        "<section><h2>{title}</h2><div class=\"plot\"><div class=\"y\">{marks}</div><svg viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">{svg}</svg></div>"
    );
    seconds(page, scale, "plot");
    legend(page, series, limits, history);
    page.push_str("</section>");
}

/// A line through the parts that have a value, broken where one has none for long.
fn path(values: &[Option<u64>], scale: &Scale, y: impl Fn(u64) -> f64) -> String {
    let (mut path, mut last) = (String::new(), None);
    for (part, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        let near = last.is_some_and(|last| part - last <= 8);
        let step = if near { 'L' } else { 'M' };
        let (x, y) = (scale.x_of(part), y(*value));
        let _ = write!(path, "{step}{x:.1} {y:.1}");
        if !near {
            // A point alone shows as a dot.
            let _ = write!(path, "h1");
        }
        last = Some(part);
    }
    path
}

/// The words below a plot.
pub(super) fn seconds(page: &mut String, scale: &Scale, class: &str) {
    let _ = write!(page, "<div class=\"{class}\"><div class=\"x\">");
    for quarter in 0..5 {
        let at = fraction(scale.end() / 4 * quarter, 1_000_000_000);
        let unit = if quarter == 4 { " s" } else { "" };
        let _ = match scale.end() > 40_000_000_000 {
            true => write!(page, "<span>{at:.0}{unit}</span>"),
            false => write!(page, "<span>{at:.1}{unit}</span>"),
        };
    }
    page.push_str("</div></div>");
}

fn legend(page: &mut String, series: &[Series], limits: &[u64], history: &History) {
    page.push_str("<div class=\"legend\">");
    for one in series {
        let class = match one.class.as_str() {
            "newest" => "fn".to_owned(),
            class => class.replace('s', "f"),
        };
        let _ = write!(
            page,
            "<span><i class=\"{class}\"></i>{}</span>",
            escape(&one.name)
        );
    }
    for limit in limits {
        let _ = write!(page, "<span><i class=\"fl\"></i>bound {limit} ms</span>");
    }
    for (n, name) in faults::families(history).iter().enumerate() {
        let class = format!("f{}", n % 8);
        let name = escape(name);
        let _ = write!(
            page,
            "<span><i class=\"{class}\" style=\"height:10px;opacity:.35\"></i>{name}</span>"
        );
    }
    page.push_str("</div>");
}
