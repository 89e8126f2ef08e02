//! Faults over time: a strip for each kind and node, and the shade that all plots share. Kinds that
//! begin with the same word (`link-cut`, `link-slow`) are a family and share a colour.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::history::{Event, FaultStage, History, NodeStage};

use super::escape;
use super::series::Scale;

/// Spans that are drawn one by one; more are merged.
const SPANS_MAX: usize = 150;

/// From when to when something was so, and what to call it.
struct Span {
    from: u64,
    to: u64,
    name: String,
}

/// Draws the strips.
pub(super) fn draw(page: &mut String, history: &History, scale: &Scale) {
    let kinds = kinds(history, scale);
    let down = down(history, scale);
    if kinds.is_empty() && down.is_empty() {
        return;
    }
    page.push_str("<section><h2>Faults</h2>");
    let families = families(history);
    for (kind, spans) in &kinds {
        strip(page, kind, &colour(&families, kind), spans, scale);
    }
    for (node, spans) in &down {
        let index = usize::try_from(*node).unwrap_or(usize::MAX);
        let name = history.header.nodes.get(index);
        let name = name.map_or_else(|| format!("node {node}"), Clone::clone);
        strip(page, &format!("{name} down"), "fb", spans, scale);
    }
    super::plots::seconds(page, scale, "plot low");
    page.push_str("</section>");
}

/// The shade behind every plot: what was the matter when.
pub(super) fn shade(history: &History, scale: &Scale) -> String {
    let mut svg = String::new();
    let families = families(history);
    for (kind, spans) in kinds(history, scale) {
        let class = format!("shade {}", colour(&families, &kind));
        rects(&mut svg, &class, &spans, scale);
    }
    for event in &history.events {
        if let Event::Node(node) = event
            && matches!(node.stage, NodeStage::Ended { led: true, .. })
        {
            let x = scale.x(node.at);
            let _ = write!(
                svg,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"100\"><title>the leader died</title></line>"
            );
        }
    }
    svg
}

/// The families of faults, in the order of their colours.
pub(super) fn families(history: &History) -> Vec<String> {
    let kinds = history.events.iter().filter_map(|event| match event {
        Event::Fault(fault) => Some(family(&fault.kind).to_owned()),
        _ => None,
    });
    let mut families: Vec<String> = kinds.collect();
    families.sort();
    families.dedup();
    families
}

fn family(kind: &str) -> &str {
    kind.split('-').next().unwrap_or(kind)
}

fn colour(families: &[String], kind: &str) -> String {
    let at = families.iter().position(|one| one == family(kind));
    format!("f{}", at.unwrap_or_default() % 8)
}

fn strip(page: &mut String, name: &str, class: &str, spans: &[Span], scale: &Scale) {
    let mut svg = String::new();
    rects(&mut svg, &format!("bar {class}"), spans, scale);
    let name = escape(name);
    let _ = write!(
        page,
        "<div class=\"plot low\"><div class=\"y\"><span title=\"{name}\">{name}</span></div><svg viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name}\">{svg}</svg></div>"
    );
}

fn rects(svg: &mut String, class: &str, spans: &[Span], scale: &Scale) {
    for span in spans {
        let (from, to) = (scale.x(span.from), scale.x(span.to));
        let width = (to - from).max(1.0);
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"100\"><title>{}</title></rect>",
            escape(&span.name)
        );
    }
}

/// The faults by kind, merged where they are many.
fn kinds(history: &History, scale: &Scale) -> BTreeMap<String, Vec<Span>> {
    let mut kinds: BTreeMap<String, Vec<(u64, Span)>> = BTreeMap::new();
    for event in &history.events {
        let Event::Fault(fault) = event else { continue };
        let spans = kinds.entry(fault.kind.to_string()).or_default();
        let open = spans.iter_mut().rev().find(|(id, _)| *id == fault.fault);
        match (&fault.stage, open) {
            (FaultStage::Ended, Some((_, span))) => span.to = fault.at,
            (FaultStage::Acted { proof, count }, Some((_, span))) => {
                let _ = write!(span.name, "; {proof}: {count}");
            }
            (FaultStage::Asked, _) => {
                let name = format!("{} {}", fault.kind, fault.targets.join(", "));
                let (from, to) = (fault.at, scale.end());
                spans.push((fault.fault, Span { from, to, name }));
            }
            _ => {}
        }
    }
    kinds
        .into_iter()
        .filter(|(_, spans)| !spans.is_empty())
        .map(|(kind, spans)| {
            let spans = spans.into_iter().map(|(_, span)| span).collect();
            let spans = merged(spans, &kind, scale);
            (kind, spans)
        })
        .collect()
}

/// Many spans as the parts of time in which there was one.
fn merged(spans: Vec<Span>, name: &str, scale: &Scale) -> Vec<Span> {
    if spans.len() <= SPANS_MAX {
        return spans;
    }
    let mut covered = vec![false; scale.parts()];
    for span in &spans {
        covered[scale.at(span.from)..=scale.at(span.to)].fill(true);
    }
    let mut merged: Vec<Span> = Vec::new();
    for (part, _) in covered.iter().enumerate().filter(|(_, one)| **one) {
        let (from, to) = (part as u64 * scale.part(), (part as u64 + 1) * scale.part());
        match merged.last_mut().filter(|last| last.to == from) {
            Some(last) => last.to = to,
            None => merged.push(Span {
                from,
                to,
                name: format!("{name}, several"),
            }),
        }
    }
    merged
}

/// When each node was down.
fn down(history: &History, scale: &Scale) -> BTreeMap<u32, Vec<Span>> {
    let mut down: BTreeMap<u32, Vec<Span>> = BTreeMap::new();
    for event in &history.events {
        let Event::Node(node) = event else { continue };
        let spans = down.entry(node.node).or_default();
        let open = spans.last_mut().filter(|span| span.to == scale.end());
        match (&node.stage, open) {
            (NodeStage::Ended { how, led }, None) => {
                let led = if *led { ", it led" } else { "" };
                let (from, to) = (node.at, scale.end());
                let name = format!("{how}{led}");
                spans.push(Span { from, to, name });
            }
            (NodeStage::Ready, Some(span)) => span.to = node.at,
            _ => {}
        }
    }
    down.retain(|_, spans| !spans.is_empty());
    let merged = down
        .into_iter()
        .map(|(node, spans)| (node, merged(spans, "down", scale)));
    merged.collect()
}
