//! What happened around something that is wrong: the events of the same kind before and after it, as
//! bars over time and as a list.

use std::fmt::Write as _;

use crate::checkers::Place;
use crate::history::{
    Action, Event, FaultStage, History, NodeStage, Outcome, Seen, StateSeen, StreamItem,
};

use super::series::{fraction, span_of};
use super::{cut, escape};

/// Events shown before it, and after it.
const AROUND: usize = 12;

/// Draws the surroundings of a place in a history.
pub(super) fn draw(page: &mut String, history: &History, place: Place) {
    let hit = history.events.iter().position(|event| is(event, place));
    let mut near: Vec<(usize, &Event, (u64, u64))> = history
        .events
        .iter()
        .enumerate()
        .filter(|(n, event)| match hit {
            Some(hit) => *n == hit || alike(&history.events[hit], event),
            None => true,
        })
        .filter_map(|(n, event)| Some((n, event, span_of(event)?)))
        .collect();
    near.sort_by_key(|(.., (from, _))| *from);
    let at = match hit {
        Some(hit) => near.iter().position(|(n, ..)| *n == hit).unwrap_or(0),
        None => near.partition_point(|(.., (from, _))| *from < place.from),
    };
    let from = at.saturating_sub(AROUND);
    let to = near.len().min(at + AROUND + 1);
    let near = &near[from..to];
    bars(page, near, hit);
    page.push_str("<table class=\"near\"><tbody>");
    for (n, event, (from, to)) in near {
        let class = if Some(*n) == hit {
            " class=\"hit\""
        } else {
            ""
        };
        let ms = |ns: u64| fraction(ns, 1_000_000);
        let (who, what) = said(event);
        let (who, what) = (escape(&who), escape(&cut(&what, 260)));
        let _ = write!(page, "<tr{class}><td>{:.3}", ms(*from));
        if to > from {
            let _ = write!(page, "–{:.3}", ms(*to));
        }
        let _ = write!(page, " ms</td><td>{who}</td><td>{what}</td></tr>");
    }
    page.push_str("</tbody></table>");
}

/// A bar for each event, one below the other.
fn bars(page: &mut String, near: &[(usize, &Event, (u64, u64))], hit: Option<usize>) {
    let from = near.iter().map(|(.., (from, _))| *from).min();
    let to = near.iter().map(|(.., (_, to))| *to).max();
    let (Some(from), Some(to)) = (from, to) else {
        return;
    };
    let whole = (to - from).max(1);
    let height = near.len() * 7;
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 1000 {height}\" preserveAspectRatio=\"none\" style=\"display:block;width:100%;height:{height}px;margin-top:8px;background:var(--soft)\" role=\"img\" aria-label=\"what happened around it\">"
    );
    for (row, (n, event, (begin, end))) in near.iter().enumerate() {
        let x = fraction(begin - from, whole) * 1000.0;
        let width = (fraction(end - begin, whole) * 1000.0).max(3.0);
        let class = if Some(*n) == hit { "bar fb" } else { "bar f7" };
        let y = row * 7 + 1;
        let (who, what) = said(event);
        let title = escape(&cut(&format!("{who}: {what}"), 260));
        let _ = write!(
            page,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"5\"><title>{title}</title></rect>"
        );
    }
    page.push_str("</svg>");
}

/// Whether an event is the one at a place.
fn is(event: &Event, place: Place) -> bool {
    let client = match event {
        Event::Operation(request) => request.operation.client,
        Event::ChangeSet(set) => set.client,
        Event::ReadSet(read) => read.client,
        Event::Stream(event) => event.client,
        Event::Evaluation(one) => one.client,
        Event::Receipt(one) => one.client,
        Event::Served(served) => served.node,
        Event::Digest(digest) => digest.node,
        Event::Node(node) => node.node,
        Event::Phase(_) | Event::Fault(_) => 0,
        Event::Subject(_) | Event::Ground(_) | Event::Final(_) => return false,
    };
    client == place.client && span_of(event) == Some((place.from, place.to))
}

/// Whether an event helps to understand another one.
fn alike(hit: &Event, other: &Event) -> bool {
    match (hit, other) {
        (Event::Operation(hit), Event::Operation(other)) => {
            hit.operation.register == other.operation.register
        }
        (Event::ReadSet(_) | Event::ChangeSet(_), Event::ChangeSet(_) | Event::ReadSet(_)) => true,
        (Event::Stream(hit), Event::Stream(other)) => {
            hit.scope == other.scope && hit.client == other.client
        }
        (Event::Stream(_) | Event::Evaluation(_), Event::ChangeSet(_) | Event::Receipt(_)) => true,
        (Event::Evaluation(hit), Event::Evaluation(other)) => {
            hit.client == other.client && hit.flag == other.flag
        }
        (Event::Node(_) | Event::Phase(_), Event::Node(_) | Event::Phase(_) | Event::Fault(_)) => {
            true
        }
        (Event::Served(hit), Event::Served(other)) => hit.environment == other.environment,
        _ => false,
    }
}

fn asked(action: &Action) -> String {
    let Action::Write { value, expected } = action else {
        return "read".to_owned();
    };
    let what = value
        .as_ref()
        .map_or("delete".to_owned(), |value| format!("write {value}"));
    match expected {
        Some(version) => format!("{what} if at {version}"),
        None => format!("{what} if missing"),
    }
}

fn told(outcome: &Outcome) -> String {
    let found = |seen: &Option<Seen>| match seen {
        Some(seen) => format!("{} at {}", seen.value, seen.version),
        None => "missing".to_owned(),
    };
    match outcome {
        Outcome::Read { decided, seen } => format!("{}, decided at {decided}", found(seen)),
        Outcome::Conflict { decided, seen } => {
            format!("refused: {}, decided at {decided}", found(seen))
        }
        Outcome::Written { version } => format!("done at {version}"),
        Outcome::NotDone => "not done".to_owned(),
        Outcome::Unknown => "unknown".to_owned(),
    }
}

/// A message of a stream, by its versions and the states in it.
fn streamed(item: &StreamItem) -> String {
    let keys = |states: &[StateSeen]| {
        let keys = states
            .iter()
            .take(6)
            .map(|state| format!("{} of {}", state.key, state.changed_at));
        let keys: Vec<String> = keys.collect();
        let more = if states.len() > 6 { ", …" } else { "" };
        format!("{} states ({}{more})", states.len(), keys.join(", "))
    };
    match item {
        StreamItem::Snapshot {
            version,
            states,
            digest,
            ..
        } => {
            format!("snapshot {version}: {}, digest {digest}", keys(states))
        }
        StreamItem::Delta {
            from,
            to,
            upserts,
            removals,
            digest,
            ..
        } => {
            let gone = removals.join(", ");
            format!(
                "delta {from} to {to}: {}, gone: [{gone}], digest {digest}",
                keys(upserts)
            )
        }
        StreamItem::Heartbeat {
            version,
            open_ms,
            fresh_age_ms,
        } => {
            format!("heartbeat {version}, open {open_ms} ms, proof {fresh_age_ms} ms old")
        }
        other => format!("{other:?}"),
    }
}

/// Who it was, and what it was.
fn said(event: &Event) -> (String, String) {
    match event {
        Event::Operation(request) => {
            let one = &request.operation;
            let what = format!(
                "{} {} → {}",
                one.register,
                asked(&one.action),
                told(&one.outcome)
            );
            (format!("client {}", one.client), what)
        }
        Event::ChangeSet(set) => {
            let objects: Vec<&str> = set.writes.iter().map(|write| &*write.object).collect();
            let what = format!("writes {} → {:?}", objects.join(", "), set.outcome);
            (format!("client {}", set.client), what)
        }
        Event::ReadSet(read) => {
            let seen = read.objects.iter().map(|one| match &one.seen {
                Some(seen) => format!("{} at {}", one.object, seen.version),
                None => format!("{} missing", one.object),
            });
            let seen: Vec<String> = seen.collect();
            let what = format!("{} at {}: {}", read.source, read.version, seen.join(", "));
            (format!("client {}", read.client), what)
        }
        Event::Stream(event) => {
            let who = format!("stream {}.{}", event.client, event.connection);
            (who, streamed(&event.item))
        }
        Event::Evaluation(one) => {
            let fresh = if one.fresh { "FRESH" } else { "STALE" };
            let age = one
                .age
                .map_or("?".to_owned(), |age| format!("{} ms", age / 1_000_000));
            let what = format!(
                "{} for {} at {} (changed at {}): {:?} {} {fresh}, age {age}",
                one.flag,
                one.subject,
                one.snapshot_version,
                one.config_version,
                one.variant,
                one.reason
            );
            (format!("evaluator {}", one.client), what)
        }
        Event::Receipt(one) => {
            let what = format!(
                "receipt for {}: complete: {}, settled in {} ms, without it: {}",
                one.version,
                one.complete,
                one.settled_in_ms,
                one.laggards.join(", ")
            );
            (format!("client {}", one.client), what)
        }
        Event::Fault(fault) => {
            let stage = match &fault.stage {
                FaultStage::Asked => "asked for".to_owned(),
                FaultStage::Acted { proof, count } => format!("acted, {proof}: {count}"),
                FaultStage::Ended => "ended".to_owned(),
            };
            let what = format!("{} {} {stage}", fault.kind, fault.targets.join(", "));
            (format!("fault {}", fault.fault), what)
        }
        Event::Node(node) => {
            let what = match &node.stage {
                NodeStage::Started => "started".to_owned(),
                NodeStage::Ready => "ready".to_owned(),
                NodeStage::Ended { how, led } => format!("ended, {how}, led: {led}"),
                NodeStage::Leads { term } => format!("leads in term {term}"),
            };
            (format!("node {}", node.node), what)
        }
        Event::Phase(phase) => ("run".to_owned(), format!("{:?}", phase.phase)),
        other => (String::new(), format!("{other:?}")),
    }
}
