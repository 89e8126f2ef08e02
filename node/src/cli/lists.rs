//! Lists of objects, whole or as tables, and the words in which a table sums an object up.
//!
//! What must hold: a list is read to its last page, however long it is.

use std::collections::BTreeMap;

use http::{HeaderMap, Method};
use pennon_client::admin::Collection;
use pennon_evaluator::Setting;
use serde_json::{Value, json};

use super::connection::Asking;
use super::failure::{Exit, Failure};
use super::place::{APPLICATIONS, Place, SETTINGS};
use super::terminal::{Cell, Paint, cut};
use super::write::encoded;

/// The longest description or value shown in a table, in characters.
const TEXT_CHARS_MAX: usize = 60;

/// Pages that a list has at most; then something is wrong with the node.
const PAGES_MAX: usize = 10_000;

/// Reads a whole list, page by page, and the version of its last page.
pub(crate) async fn read_list(asking: &Asking, path: &str) -> Result<(Vec<Value>, Value), Failure> {
    read_pages(asking, path, "after").await
}

/// `cursor` is the parameter that takes the `next` of a page.
async fn read_pages(
    asking: &Asking,
    path: &str,
    cursor: &str,
) -> Result<(Vec<Value>, Value), Failure> {
    let mut items = Vec::new();
    let mut page = path.to_owned();
    for _ in 0..PAGES_MAX {
        let mut body = asking
            .admin
            .request(Method::GET, &page, HeaderMap::new(), None)
            .await?
            .into_body();
        if let Some(found) = body["items"].as_array_mut() {
            items.append(found);
        }
        match body["next"].as_str() {
            Some(next) => page = format!("{path}?{cursor}={}", encoded(next)),
            None => return Ok((items, body["version"].take())),
        }
    }
    Err(Failure::new(
        Exit::Failure,
        format!("{path} has more than {PAGES_MAX} pages"),
    ))
}

/// Prints a list: as the node answered it, all pages together, or as a table.
async fn list(
    asking: &Asking,
    path: &str,
    header: &[&str],
    row: impl Fn(&Value, &str) -> Vec<Cell>,
) -> Result<(), Failure> {
    let (items, version) = read_list(asking, path).await?;
    if !asking.terminal.is_table() {
        return asking
            .terminal
            .value(&json!({"items": items, "version": version}));
    }
    print_rows(
        asking,
        header,
        items
            .iter()
            .map(|item| row(item, item["key"].as_str().unwrap_or_default())),
    )
}

/// Prints a table.
pub(crate) fn print_rows(
    asking: &Asking,
    header: &[&str],
    rows: impl Iterator<Item = Vec<Cell>>,
) -> Result<(), Failure> {
    let rows: Vec<_> = rows.collect();
    match rows.is_empty() {
        true => {
            asking.terminal.note("nothing here yet");
            Ok(())
        }
        false => asking.terminal.line(asking.terminal.table(header, rows)),
    }
}

/// Lists the flags; with an environment also what they do there.
pub(crate) async fn list_flags(asking: &Asking, env: Option<&str>) -> Result<(), Failure> {
    let Some(env) = env else {
        let header = ["FLAG", "TYPE", "VERSION", "DESCRIPTION"];
        return list(asking, &Collection::Flags.path(), &header, |item, key| {
            vec![key.into(), kind(item), number(item), description(item)]
        })
        .await;
    };
    let (flags, version) = read_list(asking, &Collection::Flags.path()).await?;
    let environment = env.to_owned();
    let (policies, _) = read_list(asking, &Collection::Policies { environment }.path()).await?;
    if !asking.terminal.is_table() {
        return asking
            .terminal
            .value(&json!({"items": flags, "version": version}));
    }
    let policies = policies
        .iter()
        .filter_map(|policy| Some((policy["key"].as_str()?, &policy["value"])));
    let policies: BTreeMap<&str, &Value> = policies.collect();
    let rows = flags.iter().map(|item| {
        let key = item["key"].as_str().unwrap_or_default();
        let policy = policies.get(key).copied();
        vec![
            key.into(),
            state(policy),
            kind(item),
            number(item),
            summary(policy).into(),
        ]
    });
    print_rows(
        asking,
        &["FLAG", "STATE", "TYPE", "VERSION", "SERVES"],
        rows,
    )
}

/// Lists what the flags do in an environment.
pub(crate) async fn list_policies(asking: &Asking, env: &str) -> Result<(), Failure> {
    let collection = Collection::Policies {
        environment: env.to_owned(),
    };
    list(
        asking,
        &collection.path(),
        &["FLAG", "STATE", "VERSION", "UPDATED", "SERVES"],
        |item, key| {
            let policy = Some(&item["value"]);
            vec![
                key.into(),
                state(policy),
                number(item),
                updated(item),
                summary(policy).into(),
            ]
        },
    )
    .await
}

/// Lists the segments of an environment.
pub(crate) async fn list_segments(asking: &Asking, env: &str) -> Result<(), Failure> {
    let collection = Collection::Segments {
        environment: env.to_owned(),
    };
    let count = |item: &Value, name: &str| {
        item["value"][name]
            .as_array()
            .map_or(0, Vec::len)
            .to_string()
    };
    list(
        asking,
        &collection.path(),
        &[
            "SEGMENT", "INCLUDED", "EXCLUDED", "RULES", "VERSION", "UPDATED",
        ],
        |item, key| {
            let counts = ["included", "excluded", "rules"].map(|name| count(item, name).into());
            let [included, excluded, rules] = counts;
            vec![
                key.into(),
                included,
                excluded,
                rules,
                number(item),
                updated(item),
            ]
        },
    )
    .await
}

/// Lists the environments.
pub(crate) async fn list_environments(asking: &Asking) -> Result<(), Failure> {
    list(
        asking,
        &Collection::Environments.path(),
        &["ENVIRONMENT", "NAME", "PROTECTED", "VERSION", "UPDATED"],
        |item, key| {
            let protected = match item["value"]["protected"].as_bool() {
                Some(true) => Cell::painted("yes", Paint::Warn),
                _ => Cell::painted("no", Paint::Dim),
            };
            let name = item["value"]["name"].as_str().unwrap_or_default();
            vec![
                key.into(),
                name.into(),
                protected,
                number(item),
                updated(item),
            ]
        },
    )
    .await
}

/// Lists the applications.
pub(crate) async fn list_applications(asking: &Asking) -> Result<(), Failure> {
    let header = ["APPLICATION", "TAGS", "VERSION", "UPDATED", "DESCRIPTION"];
    list(asking, APPLICATIONS, &header, |item, key| {
        let tags = item["value"]["tags"].as_array().into_iter().flatten();
        let tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
        vec![
            key.into(),
            cut(&tags.join(", "), TEXT_CHARS_MAX).into(),
            number(item),
            updated(item),
            description(item),
        ]
    })
    .await
}

/// Lists the settings; those that nobody stored too.
pub(crate) async fn list_settings(asking: &Asking) -> Result<(), Failure> {
    let (items, version) = read_list(asking, SETTINGS).await?;
    if !asking.terminal.is_table() {
        return asking
            .terminal
            .value(&json!({"items": items, "version": version}));
    }
    let stored = items.iter().map(|item| {
        let key = item["key"].as_str().unwrap_or_default();
        let value = cut(&item["value"].to_string(), TEXT_CHARS_MAX);
        vec![key.into(), number(item), updated(item), value.into()]
    });
    let unset = Setting::ALL
        .into_iter()
        .filter(|setting| !items.iter().any(|item| item["key"] == setting.as_str()));
    let unset = unset.map(|setting| {
        let dim = |text: &str| Cell::painted(text, Paint::Dim);
        let see = format!("defaults; see pennon setting get {setting}");
        vec![setting.as_str().into(), dim("-"), dim("-"), dim(&see)]
    });
    let header = ["SETTING", "VERSION", "UPDATED", "VALUE"];
    print_rows(asking, &header, stored.chain(unset))
}

/// Shows the history of one object, from the newest.
pub(crate) async fn history(asking: &Asking, place: &Place) -> Result<(), Failure> {
    let (items, version) = read_pages(asking, &format!("{}/history", place.path), "before").await?;
    if !asking.terminal.is_table() {
        return asking
            .terminal
            .value(&json!({"items": items, "version": version}));
    }
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    print_rows(
        asking,
        &["VERSION", "BEFORE", "WHEN", "WHO", "WHY", "VALUE"],
        items.iter().map(|item| {
            let value = match &item["value"] {
                Value::Null => Cell::painted("deleted", Paint::Warn),
                value => cut(&value.to_string(), TEXT_CHARS_MAX).into(),
            };
            let before = item["previous_version"]
                .as_u64()
                .map_or_else(|| "-".to_owned(), |v| v.to_string());
            let (who, why) = (text(item, "updated_by"), text(item, "reason"));
            vec![
                number(item),
                before.into(),
                updated(item),
                who.into(),
                why.into(),
                value,
            ]
        }),
    )
}

fn kind(item: &Value) -> Cell {
    item["value"]["type"].as_str().unwrap_or("?").into()
}

fn number(item: &Value) -> Cell {
    item["version"].to_string().into()
}

fn description(item: &Value) -> Cell {
    cut(
        item["value"]["description"].as_str().unwrap_or_default(),
        TEXT_CHARS_MAX,
    )
    .into()
}

fn updated(item: &Value) -> Cell {
    Cell::painted(
        moment(item["updated_at"].as_str().unwrap_or_default()),
        Paint::Dim,
    )
}

/// Shows a time to the minute.
pub(crate) fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%MZ").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// Whether a flag is on where this is its policy.
pub(crate) fn state(policy: Option<&Value>) -> Cell {
    match policy.map(|policy| policy["enabled"].as_bool()) {
        Some(Some(true)) => Cell::painted("on", Paint::Good),
        Some(_) => Cell::painted("off", Paint::Warn),
        None => Cell::painted("-", Paint::Dim),
    }
}

/// What a policy serves, in a few words.
pub(crate) fn summary(policy: Option<&Value>) -> String {
    let Some(policy) = policy else {
        return String::new();
    };
    let mut parts = Vec::new();
    for (name, one, many) in [
        ("prerequisites", "prerequisite", "prerequisites"),
        ("targets", "target", "targets"),
        ("rules", "rule", "rules"),
    ] {
        match policy[name].as_array().map_or(0, Vec::len) {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    parts.push(serve(&policy["default"]));
    parts.join(", ")
}

fn serve(serve: &Value) -> String {
    if let Some(variant) = serve["variant"].as_str() {
        return variant.to_owned();
    }
    let weights = serve["rollout"]["weights"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let total: u64 = weights
        .iter()
        .filter_map(|weight| weight["weight"].as_u64())
        .sum();
    let share = |weight: u64| (weight as f64 * 1000.0 / total.max(1) as f64).round() / 10.0;
    let shares = weights.iter().filter_map(|weight| {
        let of = weight["weight"].as_u64().filter(|of| *of > 0)?;
        Some(format!("{}% {}", share(of), weight["variant"].as_str()?))
    });
    shares.collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_summed_up_in_a_few_words() {
        let policy = json!({"rules": [{}, {}], "targets": [{}], "default": {"rollout": {"weights": [
            {"variant": "on", "weight": 1}, {"variant": "off", "weight": 7}, {"variant": "x", "weight": 0}]}}});
        assert_eq!(
            summary(Some(&policy)),
            "1 target, 2 rules, 12.5% on / 87.5% off"
        );
        assert_eq!(
            summary(Some(&json!({"default": {"variant": "off"}}))),
            "off"
        );
        assert_eq!(summary(None), "");
    }
}
