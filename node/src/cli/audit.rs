//! `pennon audit`: who changed what, over all objects.
//!
//! What must hold: what is printed with `-o json` has the lines as the node gave them, and says with
//! `next` when there is more.

use clap::Args;
use http::{HeaderMap, Method};
use pennon_client::Version;
use serde_json::{Value, json};

use super::connection::Asking;
use super::failure::Failure;
use super::lists::{moment, print_rows};
use super::terminal::{Cell, Paint};
use super::write::encoded;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon audit --env production --actor alice
  pennon audit --kind flag --key checkout.new-ui --since 1200
  pennon audit --from 2026-11-22T10:00:00Z --to 2026-11-22T11:00:00Z -o json

What a change did to one object:  pennon flag diff KEY --to VERSION")]
pub(crate) struct AuditCommand {
    /// Only changes by exactly this one
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,

    /// Only objects of this kind: flag, environment, policy, segment, setting or application
    #[arg(long, value_name = "KIND", hide_possible_values = true,
        value_parser = ["flag", "environment", "policy", "segment", "setting", "application"])]
    kind: Option<String>,

    /// Only policies and segments of this environment, and the environment itself
    #[arg(short, long, value_name = "ENV")]
    env: Option<String>,

    /// Only objects of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Only changes after this version
    #[arg(long, value_name = "VERSION")]
    since: Option<Version>,

    /// Only changes before this version
    #[arg(long, value_name = "VERSION")]
    before: Option<Version>,

    /// Only changes from this moment on, as RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Only changes before this moment, as RFC 3339
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// Show about so many changes; the last version is always whole
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl AuditCommand {
    /// Lists the changes, from the newest.
    pub(crate) async fn run(&self, asking: Asking) -> Result<(), Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut before = self.before.map(|version| version.to_string());
        // A page may be short or empty, and have a next: the node looks at so many changes a time.
        let version = loop {
            let left = self.limit as usize - items.len();
            let path = self.path(left, before.as_deref());
            let answer = asking
                .admin
                .request(Method::GET, &path, HeaderMap::new(), None);
            let mut body = answer.await?.into_body();
            if let Some(found) = body["items"].as_array_mut() {
                items.append(found);
            }
            before = body["next"].as_str().map(str::to_owned);
            if before.is_none() || items.len() >= self.limit as usize {
                break body["version"].take();
            }
        };
        if !asking.terminal.is_table() {
            let mut body = json!({"items": items, "version": version});
            if let Some(next) = before {
                body["next"] = json!(next);
            }
            return asking.terminal.value(&body);
        }
        let header = ["VERSION", "WHEN", "WHO", "WHAT", "OBJECT", "WHY"];
        print_rows(&asking, &header, items.iter().map(row))?;
        if let Some(next) = before {
            asking
                .terminal
                .note(format!("There is more: --before {next}"));
        }
        Ok(())
    }

    fn path(&self, limit: usize, before: Option<&str>) -> String {
        let since = self.since.map(|version| version.to_string());
        let given = [
            ("actor", self.actor.as_deref()),
            ("kind", self.kind.as_deref()),
            ("environment", self.env.as_deref()),
            ("key", self.key.as_deref()),
            ("since_version", since.as_deref()),
            ("from", self.from.as_deref()),
            ("to", self.to.as_deref()),
            ("before", before),
        ];
        let mut path = format!("/v1/audit?limit={limit}");
        for (name, value) in given {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        path
    }
}

fn row(item: &Value) -> Vec<Cell> {
    let text = |name: &str| item[name].as_str().unwrap_or_default();
    let op = text("op");
    let paint = match op {
        "create" => Paint::Good,
        "delete" => Paint::Warn,
        _ => Paint::Dim,
    };
    let place = match text("environment") {
        "" => String::new(),
        environment => format!(" in {environment}"),
    };
    vec![
        item["version"].to_string().into(),
        Cell::painted(moment(text("updated_at")), Paint::Dim),
        text("updated_by").into(),
        Cell::painted(op, paint),
        format!("{} {}{place}", text("kind"), text("key")).into(),
        text("reason").into(),
    ]
}
