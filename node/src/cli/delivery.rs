//! Who has a version: what a write with `--ack` came to, and `pennon status`.
//!
//! What must hold: whoever is missing is named, with why and with the time after which it can no
//! longer call what it has fresh; exit code 0 means that nobody is missing.

use clap::Args;
use http::{HeaderMap, Method};
use serde_json::Value;

use super::connection::Asking;
use super::failure::{Exit, Failure};
use super::hints;
use super::place::Place;
use super::terminal::{Cell, Paint, counted, shown};
use super::write::encoded;

/// Laggards shown in a table at most.
const SHOWN_MAX: usize = 50;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon status --env production                    how the environment is, and who has it
  pennon status checkout.new-ui --env production    who has the last change of a flag

Exit code 7 when somebody who is connected does not have it.")]
pub(crate) struct StatusCommand {
    /// Key of a flag; the whole environment unless given
    flag: Option<String>,

    /// Environment
    #[arg(short, long, env = "PENNON_ENV", value_name = "ENV")]
    env: String,
}

/// `pennon status`.
pub(crate) async fn status(command: StatusCommand, asking: Asking) -> Result<(), Failure> {
    let place = encoded(&command.env);
    let path = match &command.flag {
        Some(flag) => format!("/v1/environments/{place}/status/{}", encoded(flag)),
        None => format!("/v1/environments/{place}/status"),
    };
    let asked = asking
        .admin
        .request(Method::GET, &path, HeaderMap::new(), None);
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            let failure = error.into();
            return Err(match &command.flag {
                Some(flag) => {
                    let place = Place::policy(&command.env, flag);
                    hints::with_place(&asking, &place, failure).await
                }
                None => hints::with_environment(&asking, &command.env, failure).await,
            });
        }
    };
    let body = answer.body();
    if !asking.terminal.is_table() {
        asking.terminal.value(body)?;
    } else {
        asking.terminal.line(headline(&command, body))?;
        people(&asking, body)?;
    }
    let behind = of(body, "laggards").any(|one| one["state"] != "disconnected");
    match behind {
        true => Err(Failure::silent(Exit::CheckFailed)),
        false => Ok(()),
    }
}

fn headline(command: &StatusCommand, body: &Value) -> String {
    let environment = shown(&command.env);
    let Some(flag) = &command.flag else {
        return format!(
            "{environment}: last changed at version {}, now at {}",
            body["changed_at"], body["version"]
        );
    };
    let on = if body["enabled"] == true {
        "enabled"
    } else {
        "disabled"
    };
    let change = &body["last_change"];
    let word = |name: &str| change[name].as_str().map(shown);
    let by = match (word("updated_by"), word("updated_at"), word("reason")) {
        (Some(who), Some(when), Some(why)) => format!(" by {who} at {when}: {why}"),
        (Some(who), Some(when), None) => format!(" by {who} at {when}"),
        _ => String::new(),
    };
    let version = &body["config_version"];
    format!(
        "{}: {on} in {environment}, since version {version}{by}",
        shown(flag)
    )
}

/// Says what came of waiting for more than the commit, if that was asked for.
pub(crate) fn report(asking: &Asking, body: &Value) -> Result<(), Failure> {
    let delivery = &body["delivery"];
    if delivery.is_null() {
        return Ok(());
    }
    if asking.terminal.is_table() {
        match delivery["for"].as_str() {
            Some("applied") => asking.terminal.line(nodes(delivery))?,
            _ => people(asking, delivery)?,
        }
    }
    match delivery["complete"] == true {
        true => Ok(()),
        // What was written stands; everything is said.
        false => Err(Failure::silent(Exit::CheckFailed)),
    }
}

/// Which nodes have it.
fn nodes(delivery: &Value) -> String {
    let names = |wanted: fn(&Value) -> bool| {
        let of = of(delivery, "nodes").filter(|node| wanted(node));
        let names = of.filter_map(|node| node["name"].as_str()).map(shown);
        names.collect::<Vec<_>>().join(", ")
    };
    let applied = names(|node| node["applied"] == true);
    let behind = names(|node| node["answers"] == true && node["applied"] != true);
    let silent = names(|node| node["answers"] != true);
    let mut text = format!(
        "applied on {}",
        if applied.is_empty() {
            "no node"
        } else {
            &applied
        }
    );
    for (what, which) in [("not yet on", behind), ("no answer from", silent)] {
        if !which.is_empty() {
            text += &format!("; {what} {which}");
        }
    }
    text
}

/// Which evaluators have it, and who is missing.
fn people(asking: &Asking, delivery: &Value) -> Result<(), Failure> {
    let terminal = &asking.terminal;
    terminal.line(summary(delivery))?;
    let all: Vec<&Value> = of(delivery, "laggards").collect();
    if !all.is_empty() {
        let rows = all.iter().take(SHOWN_MAX).map(|one| row(one));
        let header = [
            "LAGGARD",
            "STATE",
            "NODE",
            "VERSION",
            "SEEN",
            "MAY CALL IT FRESH",
        ];
        terminal.line(terminal.table(&header, rows))?;
    }
    let total = delivery["laggards_total"].as_u64().unwrap_or_default();
    let more = total.saturating_sub(SHOWN_MAX as u64);
    if more > 0 {
        terminal.line(format!("… and {more} more"))?;
    }
    if let Some(doubt) = doubt(delivery) {
        terminal.line(doubt)?;
    }
    match delivery["settled_in_ms"].as_u64() {
        Some(0) | None => Ok(()),
        Some(ms) => terminal.line(format!(
            "in {} nobody acts on an older state as if it were fresh",
            seconds(ms)
        )),
    }
}

fn summary(delivery: &Value) -> String {
    let number = |name: &str| delivery[name].as_u64().unwrap_or_default();
    let connected = usize::try_from(number("connected")).unwrap_or(usize::MAX);
    let who = counted(connected, "application");
    let mut text = match (connected, number("acknowledged")) {
        (0, _) => "no application is connected".to_owned(),
        (all, have) if have == all as u64 => format!("delivered to all: {who}"),
        (_, have) => format!("delivered to {have} of {who}"),
    };
    if number("unnamed") > 0 {
        text += &format!(
            "; {} without a name, of which nothing is known",
            number("unnamed")
        );
    }
    format!("{text}; {}", nodes(delivery))
}

/// Why there may be somebody whom nobody can name, and for how long.
fn doubt(delivery: &Value) -> Option<String> {
    let of = of(delivery, "nodes").filter_map(|node| {
        let ms = node["doubt_ms"].as_u64().filter(|ms| *ms > 0)?;
        Some((shown(node["name"].as_str().unwrap_or("-")), ms))
    });
    let (names, times): (Vec<_>, Vec<_>) = of.unzip();
    let longest = times.into_iter().max()?;
    Some(format!(
        "{} cannot name everybody: who left without a name, was there before a restart, or was served by \
         a node that was removed, may call an older state fresh for {}",
        names.join(", "),
        seconds(longest)
    ))
}

fn row(laggard: &Value) -> Vec<Cell> {
    let text = |name: &str| shown(laggard[name].as_str().unwrap_or("-"));
    let time = |name: &str| {
        laggard[name]
            .as_u64()
            .map_or_else(|| "-".to_owned(), seconds)
    };
    let state = match laggard["state"].as_str() {
        Some("disconnected") => Cell::painted(text("state"), Paint::Warn),
        _ => Cell::painted(text("state"), Paint::Bad),
    };
    vec![
        text("id").into(),
        state,
        text("node").into(),
        laggard["version"].to_string().into(),
        format!("{} ago", time("last_seen_ms")).into(),
        time("fresh_for_ms").into(),
    ]
}

fn of<'a>(delivery: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    delivery[list].as_array().into_iter().flatten()
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_told_apart() {
        let node = |name: &str, answers: bool, applied: bool| json!({"name": name, "answers": answers, "applied": applied});
        let all = json!({"nodes": [node("n1", true, true), node("n2", true, false), node("n3", false, false)]});
        assert_eq!(
            nodes(&all),
            "applied on n1; not yet on n2; no answer from n3"
        );
        assert_eq!(nodes(&json!({"nodes": []})), "applied on no node");
    }

    #[test]
    fn a_node_that_cannot_name_everybody_says_so() {
        let said = |nodes: Value| doubt(&json!({ "nodes": nodes }));
        let node = |name: &str, ms: u64| json!({"name": name, "doubt_ms": ms});
        let one = said(json!([node("n1", 0), node("n2", 4_260)])).unwrap();
        assert!(one.starts_with("n2 cannot name everybody") && one.ends_with("for 4.2 s"));
        let two = said(json!([node("n1", 900), node("n2", 4_260), node("n3", 10)])).unwrap();
        assert!(two.starts_with("n1, n2, n3 cannot name") && two.ends_with("for 4.2 s"));
        assert_eq!(said(json!([node("n2", 0)])), None);
        assert_eq!(said(json!([{"name": "n2"}])), None, "an earlier release");
    }

    #[test]
    fn a_summary_counts_those_who_have_it() {
        let of = |connected: u64, acknowledged: u64, unnamed: u64| {
            let nodes = json!([{"name": "n1", "answers": true, "applied": true}]);
            let body = json!({"connected": connected, "acknowledged": acknowledged, "unnamed": unnamed, "nodes": nodes});
            summary(&body)
        };
        assert_eq!(of(0, 0, 0), "no application is connected; applied on n1");
        assert!(of(3, 3, 0).starts_with("delivered to all: 3 applications; "));
        assert!(of(3, 2, 1).starts_with("delivered to 2 of 3 applications; 1 without a name"));
        assert_eq!(seconds(4_260), "4.2 s");
    }
}
