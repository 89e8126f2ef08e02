//! `diff` and `revert`: what an object was, and making it that again.
//!
//! What must hold: a revert is a conditional write of the value at a version, against exactly the
//! version that was current a moment ago, so that somebody else's change in between is a conflict
//! and never lost (I2); what is not kept any more, or was not there, is refused and nothing is
//! written.
//!
//! Left out: how two values are compared (`differ.rs`), and deleting.

use clap::Args;
use pennon_client::Version;
use serde_json::{Value, json};

use super::connection::Asking;
use super::differ::{self, Fate};
use super::failure::{Exit, Failure};
use super::place::Place;
use super::terminal::{Paint, shown};
use super::write::{self, Precondition, ReasonArgs};

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Without --from: against what the change at --to replaced. Without --to: up to now.
Without both: the newest change.")]
pub(crate) struct DiffCommand {
    /// Key of the object
    pub(crate) key: String,

    /// Compare from the object as of this version
    #[arg(long, value_name = "VERSION")]
    from: Option<Version>,

    /// Compare to the object as of this version
    #[arg(long, value_name = "VERSION")]
    to: Option<Version>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RevertCommand {
    /// Key of the object
    pub(crate) key: String,

    /// Make it what it was as of this version
    #[arg(long, value_name = "VERSION")]
    to: Version,

    /// Replace exactly this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,

    #[command(flatten)]
    why: ReasonArgs,
}

/// One side of a comparison; both are missing where the object was not there.
#[derive(Debug, Default)]
struct Side {
    version: Option<u64>,
    value: Option<Value>,
}

impl Side {
    fn of(object: &Value) -> Side {
        Side {
            version: object["version"].as_u64(),
            value: Some(object["value"].clone()),
        }
    }

    /// A side that was not there is none at all when the other was not there either.
    fn or_missing(found: Result<Side, Failure>) -> Result<(Side, Option<Failure>), Failure> {
        match found {
            Ok(side) => Ok((side, None)),
            Err(failure) if is_missing(&failure) => Ok((Side::default(), Some(failure))),
            Err(failure) => Err(failure),
        }
    }
}

impl DiffCommand {
    /// Shows what differs.
    pub(crate) async fn run(&self, asking: &Asking, place: Place) -> Result<(), Failure> {
        let after = match self.to {
            Some(version) => as_of(asking, &place, version).await,
            None => now(asking, &place).await,
        };
        let (after, missing) = Side::or_missing(after)?;
        let before = match self.from {
            Some(version) => Side::or_missing(as_of(asking, &place, version).await)?.0,
            None => match replaced(asking, &place, self.to).await {
                Err(failure) if missing.is_some() && failure.exit() == Exit::NotFound => {
                    Side::default()
                }
                found => found?,
            },
        };
        match missing {
            Some(failure) if before.value.is_none() => Err(failure),
            _ => print(asking, &place, &before, &after),
        }
    }
}

impl RevertCommand {
    /// Writes the object as it was. `retry` is the command as far as the key.
    pub(crate) async fn run(
        &self,
        asking: &Asking,
        place: Place,
        retry: &str,
    ) -> Result<(), Failure> {
        let then = as_of(asking, &place, self.to).await;
        let then = then.map_err(|failure| match is_missing(&failure) {
            true => failure.hint(format!(
                "There is nothing to go back to. To delete it:  {}",
                retry.replacen("revert", "delete", 1)
            )),
            false => failure,
        })?;
        let precondition = match self.if_version {
            Some(version) => Precondition::At(version),
            None => write::current(asking, &place).await?,
        };
        let value = then.value.unwrap_or_default();
        let why = self.why.or(format!("revert to version {}", self.to));
        let retry = format!("{retry} --to {}", self.to);
        write::put(asking, &place, &value, precondition, &why)
            .await
            .map_err(|failure| match failure.exit() {
                Exit::Conflict => conflict(failure, &retry),
                _ => failure,
            })
    }
}

fn conflict(failure: Failure, retry: &str) -> Failure {
    let failure = failure.hint("Somebody changed it meanwhile; nothing was written.");
    match failure.problem()["current_version"].as_u64() {
        None | Some(0) => failure,
        Some(version) => failure.hint(format!(
            "To replace that change:  {retry} --if-version {version}"
        )),
    }
}

/// Whether the node said that the object is not, or was not, there.
fn is_missing(failure: &Failure) -> bool {
    failure.problem()["type"] == "/problems/not-found"
}

async fn now(asking: &Asking, place: &Place) -> Result<Side, Failure> {
    Ok(Side::of(&asking.read(&place.path).await?))
}

async fn as_of(asking: &Asking, place: &Place, version: Version) -> Result<Side, Failure> {
    let path = format!("{}/history?at={version}", place.path);
    Ok(Side::of(&asking.read(&path).await?))
}

/// What the newest change up to a version replaced.
async fn replaced(asking: &Asking, place: &Place, to: Option<Version>) -> Result<Side, Failure> {
    let before = to.and_then(|to| to.checked_add(1));
    let before = before.map_or_else(String::new, |before| format!("&before={before}"));
    let path = format!("{}/history?limit=1{before}", place.path);
    let body = asking.read(&path).await?;
    let line = &body["items"][0];
    let version = line["previous_version"].as_u64();
    match (line.get("before"), version) {
        (Some(_), None) => Ok(Side::default()),
        (Some(value), version) => Ok(Side {
            version,
            value: Some(value.clone()),
        }),
        (None, _) => {
            let message = format!(
                "what the newest change of {} replaced is not kept any more; say with --from what to compare with",
                place.key
            );
            Err(Failure::new(Exit::NotFound, message))
        }
    }
}

fn print(asking: &Asking, place: &Place, before: &Side, after: &Side) -> Result<(), Failure> {
    let (old, new) = (before.value.as_ref(), after.value.as_ref());
    let terminal = &asking.terminal;
    if !terminal.is_table() {
        let mut body = json!({
            "key": place.key, "from": before.version, "to": after.version,
            "changes": differ::pointers(old, new),
        });
        if let Some(environment) = &place.environment {
            body["environment"] = json!(environment);
        }
        return terminal.value(&body);
    }
    let version = |side: &Side| match side.version {
        Some(version) => format!("version {version}"),
        None => "not there".to_owned(),
    };
    terminal.line(format!(
        "{}  {} -> {}",
        terminal.paint(shown(&place.key), Paint::Bold),
        version(before),
        version(after)
    ))?;
    let lines = differ::lines(old, new);
    if lines.is_empty() {
        return terminal.line("nothing differs");
    }
    for (fate, line) in lines {
        let (mark, paint) = match fate {
            Fate::Kept => (' ', None),
            Fate::Removed => ('-', Some(Paint::Bad)),
            Fate::Added => ('+', Some(Paint::Good)),
            Fate::Skipped => (' ', Some(Paint::Dim)),
        };
        let line = format!("{mark} {}", shown(&line));
        terminal.line(match paint {
            Some(paint) => terminal.paint(line, paint),
            None => line,
        })?;
    }
    Ok(())
}
