//! `pennon watch`: the changes in an environment, a line each, as they arrive.
//!
//! The stream is that of `pennon-client`, so what is seen here is what an application sees: the
//! version it holds, how old that can be, and every reconnect. What changed at a version is asked
//! of the nodes as a delta from the version shown last ([`Seen`], pure); changes that came in one
//! step are shown in the order of their versions.
//!
//! What must hold: no change is left out or shown twice, also across reconnects (I8).

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, Method};
use jiff::Zoned;
use pennon_client::{Client, Status, Version};
use serde_json::{Value, json};

use super::connection::Asking;
use super::failure::Failure;
use super::objects::EnvArgs;
use super::signals::Signals;
use super::terminal::{Format, Paint, counted, shown};
use super::write::encoded;

/// Pause before the nodes are asked again what has changed.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon watch --env production
  pennon watch --env production -o json | jq -c 'select(.what == \"disabled\")'

With -o json every line is one object: {\"event\":\"change\", \"version\", \"kind\", \"key\", \"what\", …}
or {\"event\":\"connected\" | \"disconnected\" | \"stale\" | \"fresh\", …}.")]
pub(crate) struct WatchCommand {
    #[command(flatten)]
    scope: EnvArgs,
}

/// Follows an environment until a signal, or until the reader of the output goes away.
pub(crate) async fn run(command: WatchCommand, asking: Asking) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    tokio::select! {
        _ = signals.next() => Ok(()),
        result = follow(&command.scope.env, &asking) => result,
    }
}

async fn follow(env: &str, asking: &Asking) -> Result<(), Failure> {
    // What is read beside the stream is read by the same name, and leaves no doubt who has what.
    let id = format!("watch-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let path = format!("/v1/environments/{}/snapshot?client={id}", encoded(env));
    // A wrong environment or token is refused here, before a stream is tried again and again.
    let first = asking
        .admin
        .request(Method::GET, &path, HeaderMap::new(), None)
        .await?;
    let mut seen = Seen::default();
    seen.take(first.body());
    let client = Client::builder(asking.urls.clone())
        .environment(env)
        .client_id(id)
        .token(asking.token.clone());
    let client = client.connect_deadline(asking.timeout).connect().await?;
    let (mut statuses, mut before) = (client.status_watch(), client.status());
    say(
        asking,
        "connected",
        &before,
        &format!("{}, {}", shown(env), counted(seen.flags(), "flag")),
    )?;
    loop {
        if before.version.is_some_and(|version| version > seen.version) {
            show_changes(asking, &path, &mut seen, &client).await?;
        }
        let Some(now) = statuses.next().await else {
            return Ok(());
        };
        show_status(asking, &before, &now)?;
        before = now;
    }
}

/// Asks what is different since the version shown last, and shows it.
async fn show_changes(
    asking: &Asking,
    path: &str,
    seen: &mut Seen,
    client: &Client,
) -> Result<(), Failure> {
    let Some(version) = client.version() else {
        return Ok(());
    };
    let path = format!("{path}&since={}&min_version={version}", seen.version);
    let body = loop {
        match asking
            .admin
            .request(Method::GET, &path, HeaderMap::new(), None)
            .await
        {
            Ok(answer) => break answer.into_body(),
            Err(error) if error.is_denied() || error.is_not_found() || error.is_settings() => {
                return Err(error.into());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    for change in seen.take(&body) {
        change.show(asking, client.status().age)?;
    }
    Ok(())
}

/// What a status says that the one before did not.
fn show_status(asking: &Asking, before: &Status, now: &Status) -> Result<(), Failure> {
    if before.is_connected() && !now.is_connected() {
        let why = now.last_error.as_ref().map_or_else(
            || "the node closed the stream".to_owned(),
            ToString::to_string,
        );
        say(
            asking,
            "disconnected",
            now,
            &format!("{}; trying again", shown(&why)),
        )?;
    }
    if !before.is_connected() && now.is_connected() {
        say(asking, "connected", now, "again")?;
    }
    match (before.is_fresh(), now.is_fresh()) {
        (true, false) => say(
            asking,
            "stale",
            now,
            "nobody confirms that nothing newer exists",
        ),
        (false, true) => say(asking, "fresh", now, "again"),
        _ => Ok(()),
    }
}

fn say(asking: &Asking, event: &str, status: &Status, text: &str) -> Result<(), Failure> {
    let version = status.version.unwrap_or_default();
    let age_ms = status
        .age
        .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    if asking.terminal.format() != Format::Table {
        return asking.terminal.item(&json!({"event": event, "time": now().timestamp().to_string(),
            "version": version, "age_ms": age_ms, "node": status.endpoint.to_string(), "text": text}));
    }
    let age = age_ms.map_or_else(String::new, |ms| format!(", at most {ms} ms old"));
    let line = format!(
        "{event}: {text} ({}, version {version}{age})",
        status.endpoint
    );
    let paint = match event {
        "disconnected" | "stale" => Paint::Warn,
        _ => Paint::Dim,
    };
    asking.terminal.line(format!(
        "{}  {}",
        clock(),
        asking.terminal.paint(line, paint)
    ))
}

fn now() -> Zoned {
    Zoned::now()
}

fn clock() -> String {
    now().strftime("%H:%M:%S").to_string()
}

/// One flag or segment that is different.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    version: Version,
    kind: String,
    key: String,
    what: &'static str,
}

impl Change {
    fn show(&self, asking: &Asking, age: Option<Duration>) -> Result<(), Failure> {
        let age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        if asking.terminal.format() != Format::Table {
            return asking.terminal.item(&json!({"event": "change", "time": now().timestamp().to_string(),
                "version": self.version, "kind": self.kind, "key": self.key, "what": self.what, "age_ms": age_ms}));
        }
        let paint = match self.what {
            "enabled" | "added" => Paint::Good,
            "disabled" | "removed" => Paint::Warn,
            _ => Paint::Bold,
        };
        let what = asking.terminal.paint(self.what, paint);
        let kind = if self.kind == "flag" {
            String::new()
        } else {
            format!("{} ", self.kind)
        };
        asking.terminal.line(format!(
            "{}  version {:<6} {kind}{} {what}",
            clock(),
            self.version.to_string(),
            shown(&self.key)
        ))
    }
}

/// The states as they were last shown.
#[derive(Debug, Default)]
struct Seen {
    version: Version,
    states: BTreeMap<(String, String), State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    enabled: bool,
    hash: String,
    changed_at: Version,
}

impl Seen {
    fn flags(&self) -> usize {
        self.states
            .keys()
            .filter(|(kind, _)| kind == "flag")
            .count()
    }

    /// Takes over a whole snapshot or a delta, and returns what is different, by version.
    fn take(&mut self, body: &Value) -> Vec<Change> {
        let version = ["to", "version"]
            .iter()
            .find_map(|name| version(&body[*name]))
            .unwrap_or(self.version);
        let whole = body["states"].as_array();
        let list = |name: &str| body[name].as_array().map_or(&[][..], Vec::as_slice);
        let mut changes = Vec::new();
        let mut named = Vec::new();
        for state in whole.map_or_else(|| list("upserts"), Vec::as_slice) {
            let Some((key, state)) = read_state(state) else {
                continue;
            };
            let what = match self.states.get(&key) {
                Some(have) if have.hash == state.hash => None,
                Some(have) if have.enabled != state.enabled => {
                    Some(if state.enabled { "enabled" } else { "disabled" })
                }
                Some(_) => Some("changed"),
                None => Some("added"),
            };
            changes.extend(what.map(|what| change(&key, state.changed_at, what)));
            named.push(key.clone());
            self.states.insert(key, state);
        }
        let gone: Vec<(String, String)> = match whole {
            Some(_) => {
                let named: std::collections::BTreeSet<_> = named.into_iter().collect();
                self.states
                    .keys()
                    .filter(|key| !named.contains(*key))
                    .cloned()
                    .collect()
            }
            None => list("removals").iter().filter_map(read_key).collect(),
        };
        for key in gone {
            if self.states.remove(&key).is_some() {
                changes.push(change(&key, version, "removed"));
            }
        }
        self.version = self.version.max(version); // I6
        changes.sort();
        changes
    }
}

fn change((kind, key): &(String, String), version: Version, what: &'static str) -> Change {
    Change {
        version,
        kind: kind.clone(),
        key: key.clone(),
        what,
    }
}

fn version(value: &Value) -> Option<Version> {
    value.as_u64().and_then(Version::new)
}

fn read_key(value: &Value) -> Option<(String, String)> {
    Some((
        value["kind"].as_str()?.to_owned(),
        value["key"].as_str()?.to_owned(),
    ))
}

fn read_state(value: &Value) -> Option<((String, String), State)> {
    let state = State {
        enabled: value["enabled"].as_bool().unwrap_or(true),
        hash: value["hash"].as_str()?.to_owned(),
        changed_at: version(&value["changed_at"])?,
    };
    Some((read_key(value)?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(key: &str, enabled: bool, changed_at: u64) -> Value {
        json!({"kind": "flag", "key": key, "enabled": enabled, "changed_at": changed_at, "hash": format!("{enabled}{changed_at}")})
    }

    fn whats(changes: &[Change]) -> Vec<(u64, &str, &str)> {
        changes
            .iter()
            .map(|change| (change.version.get(), change.key.as_str(), change.what))
            .collect()
    }

    #[test]
    fn a_delta_says_what_became_of_each_flag() {
        let mut seen = Seen::default();
        seen.take(&json!({"version": 5, "states": [flag("a", true, 1), flag("b", true, 2), flag("c", true, 3)]}));
        let changes = seen.take(
            &json!({"intent": "changes", "version": 9, "from": 5, "to": 9,
            "upserts": [flag("b", true, 8), flag("a", false, 7), flag("d", true, 9)],
            "removals": [{"kind": "flag", "key": "c"}, {"kind": "flag", "key": "never"}]}),
        );
        assert_eq!(
            whats(&changes),
            [
                (7, "a", "disabled"),
                (8, "b", "changed"),
                (9, "c", "removed"),
                (9, "d", "added")
            ]
        );
        assert_eq!((seen.version.get(), seen.flags()), (9, 3));
        assert_eq!(seen.take(&json!({"intent": "none", "version": 11})), []);
        assert_eq!(seen.version.get(), 11);
    }

    #[test]
    fn a_whole_snapshot_shows_only_what_is_different() {
        let mut seen = Seen::default();
        seen.take(&json!({"version": 5, "states": [flag("a", true, 1), flag("b", true, 2)]}));
        let changes =
            seen.take(&json!({"intent": "full", "version": 7, "states": [flag("a", true, 1)]}));
        assert_eq!(whats(&changes), [(7, "b", "removed")]);
    }
}
