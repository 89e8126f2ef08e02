//! A run as a page: one HTML file that needs nothing else, for people who want to see what happened.
//!
//! What must hold: the page is bounded, however long the run: time is cut into at most 240 parts and
//! each series has one point a part (a sum, a quantile, or the worst of it), at most 12 clients get a
//! line of their own, faults that are many are merged per part, and of complaints the first 10 of
//! each checker are shown, with 12 events before and after. Nothing is left out of the verdicts,
//! which come from the whole history. Plots stretch to the width of the window and their words do
//! not, so a phone can read them; colours follow the light or dark of the reader's system.
//!
//! Left out: scripts, fonts and anything from a network.

mod context;
mod faults;
mod plots;
mod series;

use std::fmt::Write as _;

use crate::checkers::judge::{Judgement, Line, Report};
use crate::history::History;

/// The parts that a run is cut into.
const PARTS_MAX: usize = 240;
/// Complaints shown of each checker.
const COMPLAINTS_SHOWN_MAX: usize = 10;

/// Makes the page of a history and what was said of it.
///
/// # Examples
/// ```
/// use jepsen_like_tests::checkers::judge::judge;
/// use jepsen_like_tests::history::{Header, Recorder};
/// use jepsen_like_tests::report::html;
///
/// let history = Recorder::default().history(Header::default());
/// let page = html(&history, &judge(&history));
/// assert!(page.contains("unknown"));
/// assert!(!page.contains("http://") && !page.contains("https://"));
/// ```
pub fn html(history: &History, report: &Report) -> String {
    let scale = series::Scale::new(history);
    let mut page = String::new();
    page.push_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    let title = format!("{}: seed {}", report.overall, history.header.seed);
    let _ = write!(page, "<title>{}</title>", escape(&title));
    let _ = write!(page, "<style>{STYLE}</style></head><body><main>");
    head(&mut page, history, report);
    verdicts(&mut page, report);
    for line in &report.lines {
        complaints(&mut page, history, line);
    }
    faults::draw(&mut page, history, &scale);
    plots::draw(&mut page, history, &scale);
    foot(&mut page, history, &scale);
    page.push_str("</main></body></html>\n");
    page
}

fn head(page: &mut String, history: &History, report: &Report) {
    let header = &history.header;
    let class = class_of(report.overall);
    let _ = write!(
        page,
        "<header><h1><span class=\"badge {class}\">{}</span> Pennon under faults</h1><p>seed <b>{}</b> · {} nodes · {} events · {} s",
        report.overall,
        header.seed,
        header.nodes.len(),
        history.events.len(),
        history.ended.unwrap_or_default() / 1_000_000_000
    );
    if !header.release.is_empty() {
        let _ = write!(page, " · {}", escape(&header.release));
    }
    page.push_str("</p></header>");
}

fn verdicts(page: &mut String, report: &Report) {
    page.push_str("<section><h2>Verdicts</h2><table class=\"verdicts\"><thead><tr><th>verdict</th><th>checker</th><th>what it rests on</th></tr></thead><tbody>");
    for line in &report.lines {
        let _ = write!(
            page,
            "<tr><td><span class=\"badge {}\">{}</span></td><td><b>{}</b> <small>{}</small></td><td>{}</td></tr>",
            class_of(line.judgement),
            line.judgement,
            line.checker,
            line.promises,
            escape(&line.shows)
        );
    }
    page.push_str("</tbody></table></section>");
}

fn complaints(page: &mut String, history: &History, line: &Line) {
    if line.complaints.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<section class=\"wrong\"><h2>What is wrong: {}</h2>",
        line.checker
    );
    let shown = line.complaints.iter().take(COMPLAINTS_SHOWN_MAX);
    for (n, (rule, what, place)) in shown.enumerate() {
        let open = if n == 0 { " open" } else { "" };
        let _ = write!(
            page,
            "<details{open}><summary><b>{}</b> {}</summary>",
            escape(rule),
            escape(&cut(what, 600))
        );
        if let Some(place) = place {
            context::draw(page, history, *place);
        }
        page.push_str("</details>");
    }
    page.push_str("</section>");
}

fn foot(page: &mut String, history: &History, scale: &series::Scale) {
    page.push_str("<section><h2>What ran</h2><table class=\"parameters\"><tbody>");
    let demand = serde_json::to_value(&history.header.demand).unwrap_or_default();
    let demand = demand.as_object().cloned().unwrap_or_default();
    for (kind, values) in [("", &history.header.parameters), ("at least: ", &demand)] {
        for (name, value) in values {
            let (name, value) = (escape(name), escape(&cut(&value.to_string(), 300)));
            let _ = write!(page, "<tr><td>{kind}{name}</td><td>{value}</td></tr>");
        }
    }
    let _ = write!(
        page,
        "</tbody></table><p><small>Each point of a plot is {} ms. Verdicts come from every event, plots from a summary: sums, quantiles and the worst of each part of the run.</small></p></section>",
        scale.part() / 1_000_000
    );
}

fn class_of(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::NotAsked => "none",
        Judgement::Valid => "good",
        Judgement::Unknown => "open",
        Judgement::Invalid => "bad",
    }
}

/// Makes text safe between tags and in attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// The first so many characters.
fn cut(text: &str, len_max: usize) -> String {
    match text.char_indices().nth(len_max) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.to_owned(),
    }
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
