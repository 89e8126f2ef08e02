//! What was probably meant, when a flag or an environment does not exist.
//!
//! What must hold: a hint is extra. Whatever goes wrong while looking for one, the failure stays what
//! it was.

use std::collections::VecDeque;

use http::{HeaderMap, Method};
use serde_json::Value;

use super::connection::Asking;
use super::failure::{Exit, Failure};
use super::place::Place;
use super::terminal::shown;

/// So many flags are compared with what was typed; in a larger cluster only the first ones.
const FLAGS_MAX: usize = 10_000;

/// So many environments are named.
const ENVIRONMENTS_MAX: usize = 10;

/// A name is meant when at most one in so many of its letters has to change.
const LETTERS_PER_SLIP: usize = 4;

/// The longest name that is compared, in characters: keys may be longer, slips are not.
const CHARS_MAX: usize = 256;

/// Adds the flag that was probably meant.
pub(crate) async fn with_flag(asking: &Asking, flag: &str, failure: Failure) -> Failure {
    let keys = keys(asking, &format!("/v1/flags?limit={FLAGS_MAX}")).await;
    match nearest(flag, &keys) {
        Some(meant) => failure.hint(format!("Did you mean {}?", shown(meant))),
        None => failure,
    }
}

/// Adds, to a failure because something does not exist, the environment that was probably meant.
pub(crate) async fn with_environment(asking: &Asking, env: &str, failure: Failure) -> Failure {
    if failure.exit() != Exit::NotFound {
        return failure;
    }
    let keys = keys(asking, "/v1/environments").await;
    if keys.is_empty() || keys.iter().any(|key| key == env) {
        return failure;
    }
    if let Some(meant) = nearest(env, &keys) {
        return failure.hint(format!("Did you mean --env {}?", shown(meant)));
    }
    let more = match keys.len() > ENVIRONMENTS_MAX {
        true => ", …",
        false => "",
    };
    let first: Vec<String> = keys
        .iter()
        .take(ENVIRONMENTS_MAX)
        .map(|key| shown(key))
        .collect();
    failure.hint(format!("Environments here: {}{more}", first.join(", ")))
}

/// Adds, to a failure because an object does not exist, the environment and the flag that were probably meant.
pub(crate) async fn with_place(asking: &Asking, place: &Place, failure: Failure) -> Failure {
    let missing = failure.exit() == Exit::NotFound;
    let failure = match &place.environment {
        Some(env) => with_environment(asking, env, failure).await,
        None => failure,
    };
    match place.kind {
        "flag" | "policy" if missing => with_flag(asking, &place.key, failure).await,
        _ => failure,
    }
}

/// The keys of the first page of a list; none when it cannot be read.
async fn keys(asking: &Asking, path: &str) -> Vec<String> {
    let answer = asking
        .admin
        .request(Method::GET, path, HeaderMap::new(), None);
    let Ok(answer) = answer.await else {
        return Vec::new();
    };
    let items = answer.body()["items"].as_array();
    let keys = items.into_iter().flatten().map(|item| &item["key"]);
    keys.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The name that is a slip or two away, if it is no other than what was typed.
fn nearest<'a>(typed: &str, names: &'a [String]) -> Option<&'a str> {
    if typed.chars().count() > CHARS_MAX || names.iter().any(|name| name == typed) {
        return None;
    }
    let steps = names.iter().map(|name| (distance(typed, name), name));
    let (steps, name) = steps.min()?;
    let most = (typed.chars().count() / LETTERS_PER_SLIP).max(1);
    (steps <= most).then_some(name.as_str())
}

/// Counts the letters to insert, drop, replace or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(CHARS_MAX).collect();
    // The rows of this letter and of the two before it; two letters before the first are none.
    let mut rows: VecDeque<Vec<usize>> = VecDeque::from([Vec::new(), (0..=to.len()).collect()]);
    let mut before = None;
    for (n, letter) in from.chars().enumerate() {
        let mut row = vec![n + 1];
        for (m, other) in to.iter().enumerate() {
            let replaced = rows[1][m] + usize::from(letter != *other);
            let mut steps = replaced.min(rows[1][m + 1] + 1).min(row[m] + 1);
            if m > 0 && before == Some(*other) && to[m - 1] == letter {
                steps = steps.min(rows[0][m - 1] + 1);
            }
            row.push(steps);
        }
        rows.pop_front();
        rows.push_back(row);
        before = Some(letter);
    }
    rows[1][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_costs_one_step() {
        for (from, to, steps) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("prdo", "prod", 1),
            ("checkout.newui", "checkout.new-ui", 1),
            ("serach", "search", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("äöü", "aöü", 1),
        ] {
            assert_eq!(distance(from, to), steps, "{from} {to}");
            assert_eq!(distance(to, from), steps, "{to} {from}");
        }
    }

    #[test]
    fn only_what_is_near_is_meant() {
        let names = ["checkout.new-ui", "search.ranking-v2", "a"].map(str::to_owned);
        assert_eq!(nearest("chekcout.new_ui", &names), Some("checkout.new-ui"));
        assert_eq!(nearest("checkout.new-ui", &names), None);
        assert_eq!(nearest("payments", &names), None);
        assert_eq!(nearest(&"a".repeat(CHARS_MAX + 1), &names), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
