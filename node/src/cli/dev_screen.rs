//! What `pennon dev` prints once the cluster serves: where it is, what is in it, what to try.
//!
//! What must hold: it fits into 80 columns, and every command on it works as it is printed, pasted
//! into another terminal.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::connection::{Asking, URL_DEFAULT};
use super::failure::Failure;
use super::lists::{read_list, state, summary};
use super::terminal::{Cell, Paint, counted, cut, shown};

/// Flags in the table at most; `pennon flag list` shows them all.
const FLAGS_MAX: usize = 20;

/// The screen is no wider than this, in characters.
const WIDTH: usize = 80;

/// The widest key and the widest name of an environment in the table, in characters.
const KEY_CHARS_MAX: usize = 30;
const ENVIRONMENT_CHARS_MAX: usize = 12;

/// Between two columns, and before the first.
const GAP: usize = 2;

/// URLs that fit into one line.
const URLS_PER_LINE: usize = 3;

/// The flag and the environment that the commands to try are about.
const FLAG: &str = "checkout.new-ui";
const ENVIRONMENT: &str = "production";

/// The flag with an experiment.
const EXPERIMENT: &str = "search.similar-items";

/// Makes the screen from what the cluster says.
pub(crate) async fn screen(asking: &Asking, data: &Path, sampled: bool) -> Result<String, Failure> {
    let terminal = &asking.terminal;
    let cluster = asking.read("/v1/cluster").await?;
    let members = cluster["members"].as_array().map_or(0, Vec::len);
    let dim = |text: &str| terminal.paint(text, Paint::Dim);
    let id = shown(cluster["cluster_id"].as_str().unwrap_or("?"));
    let (flags, version) = read_list(asking, "/v1/flags").await?;
    let mut lines = vec![
        String::new(),
        format!(
            "{}  {} in this process",
            terminal.paint("Pennon is ready.", Paint::Good),
            counted(members, "node")
        ),
        String::new(),
    ];
    for (n, urls) in asking.urls.chunks(URLS_PER_LINE).enumerate() {
        lines.push(format!(
            "  {:<7}  {}",
            if n == 0 { "API" } else { "" },
            urls.join(" ")
        ));
    }
    lines.extend([
        format!("  cluster  {id}, version {version}"),
        format!("  data     {}, kept between runs", data.display()),
        String::new(),
    ]);
    let (environments, _) = read_list(asking, "/v1/environments").await?;
    let environments: Vec<&str> = environments
        .iter()
        .filter_map(|environment| environment["key"].as_str())
        .collect();
    if flags.is_empty() {
        lines.push("  No flags yet.".into());
        lines.push(String::new());
        lines.extend(first_steps(asking));
        return Ok(lines.join("\n"));
    }
    if sampled {
        lines.push(dim(
            "  The cluster was new: sample flags of a shop are in it.",
        ));
    }
    lines.push(table(asking, &flags, &environments).await?);
    lines.push(String::new());
    let has = |key: &str| flags.iter().any(|flag| flag["key"] == key);
    let has_sample = environments.contains(&ENVIRONMENT) && has(FLAG) && has(EXPERIMENT);
    lines.extend(if has_sample {
        to_try(asking)
    } else {
        first_steps(asking)
    });
    Ok(lines.join("\n"))
}

async fn table(asking: &Asking, flags: &[Value], environments: &[&str]) -> Result<String, Failure> {
    // More columns than these would not fit.
    let shown_environments: Vec<&str> = match environments.contains(&ENVIRONMENT) {
        true => std::iter::once(ENVIRONMENT)
            .chain(
                environments
                    .iter()
                    .copied()
                    .filter(|name| *name != ENVIRONMENT),
            )
            .take(2)
            .collect(),
        false => environments.iter().copied().take(2).collect(),
    };
    let mut policies = Vec::new();
    for environment in &shown_environments {
        let path = format!(
            "/v1/environments/{}/policies",
            super::write::encoded(environment)
        );
        let (items, _) = read_list(asking, &path).await?;
        let of_flag = items
            .into_iter()
            .filter_map(|mut item| Some((item["key"].as_str()?.to_owned(), item["value"].take())));
        policies.push(of_flag.collect::<BTreeMap<String, Value>>());
    }
    let keys: Vec<&str> = flags
        .iter()
        .take(FLAGS_MAX)
        .filter_map(|flag| flag["key"].as_str())
        .collect();
    let key_width = keys
        .iter()
        .map(|key| key.chars().count().min(KEY_CHARS_MAX))
        .max()
        .unwrap_or(0);
    let names: Vec<String> = shown_environments
        .iter()
        .map(|name| cut(&name.to_uppercase(), ENVIRONMENT_CHARS_MAX))
        .collect();
    let taken: usize = names.iter().map(|name| name.chars().count() + GAP).sum();
    let serves_width = WIDTH.saturating_sub(GAP + key_width + GAP + taken);
    let serves = names.first().map(|first| format!("SERVES IN {first}"));
    let header: Vec<&str> = std::iter::once("FLAG")
        .chain(names.iter().map(String::as_str))
        .chain(serves.as_deref())
        .collect();
    let rows = keys.iter().map(|key| {
        let mut row: Vec<Cell> = vec![cut(key, KEY_CHARS_MAX).into()];
        row.extend(policies.iter().map(|policies| state(policies.get(*key))));
        row.extend(
            policies
                .first()
                .map(|first| Cell::from(cut(&summary(first.get(*key)), serves_width))),
        );
        row
    });
    let mut table = indented(&asking.terminal.narrower(GAP).table(&header, rows));
    if flags.len() > FLAGS_MAX {
        table.push_str(&format!(
            "\n  … and {} more: pennon flag list",
            flags.len() - FLAGS_MAX
        ));
    }
    Ok(table)
}

fn to_try(asking: &Asking) -> Vec<String> {
    let url = asking.urls.first().map_or(URL_DEFAULT, String::as_str);
    let commands = [
        format!("pennon watch --env {ENVIRONMENT}"),
        format!("pennon flag disable {FLAG} --env {ENVIRONMENT}"),
        format!("pennon eval --all --env {ENVIRONMENT} --subject user-42 --attr country=DE"),
        format!("pennon explain {EXPERIMENT} --env {ENVIRONMENT} --subject user-42"),
        "pennon cluster status".to_owned(),
        format!("curl -N '{url}/v1/environments/{ENVIRONMENT}/stream'"),
    ];
    let mut lines = heading(asking, "Try, in another terminal:");
    lines.extend(commands.iter().map(|command| format!("  {command}")));
    lines.push(String::new());
    lines.extend(heading(asking, "In a Rust program (crate pennon-client):"));
    lines.extend([
        format!("  let flags = Client::builder([\"{url}\"])"),
        format!("      .environment(\"{ENVIRONMENT}\").connect().await?;"),
        "  let user = Subject::new(\"user-42\").with(\"country\", \"DE\");".to_owned(),
        format!("  if flags.is_enabled(\"{FLAG}\", &user) {{ /* … */ }}"),
    ]);
    lines.extend(last(asking));
    lines
}

fn first_steps(asking: &Asking) -> Vec<String> {
    let mut lines = heading(asking, "Try, in another terminal:");
    lines.extend([
        format!("  pennon env put {ENVIRONMENT} --value '{{}}'"),
        format!("  pennon flag create {FLAG} --type boolean"),
        format!("  pennon flag enable {FLAG} --env {ENVIRONMENT}"),
    ]);
    lines.extend(last(asking));
    lines
}

fn heading(asking: &Asking, text: &str) -> Vec<String> {
    let mut lines = vec![asking.terminal.paint(text, Paint::Bold)];
    let url = asking.urls.first().map_or(URL_DEFAULT, String::as_str);
    if text.starts_with("Try") && url != URL_DEFAULT {
        lines.push(format!("  export PENNON_URL={url}"));
    }
    lines
}

fn last(asking: &Asking) -> Vec<String> {
    vec![
        String::new(),
        asking.terminal.paint("Ctrl-C stops it.", Paint::Dim),
    ]
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
