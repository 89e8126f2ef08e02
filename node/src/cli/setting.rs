//! `pennon setting`: what is set once for the whole cluster.
//!
//! What must hold: a setting that nobody stored has its defaults, and those are shown; so `get` asks
//! for what is in force, and its `-o json` is that answer.

use clap::Subcommand;
use http::{HeaderMap, Method};
use pennon_evaluator::{Limit, Limits, Retention, Setting};
use serde_json::Value;

use super::connection::Asking;
use super::failure::Failure;
use super::lists::{history, list_settings, print_rows};
use super::objects::{KeyArgs, heading, retry};
use super::past::{DiffCommand, RevertCommand};
use super::place::Place;
use super::terminal::{Cell, Paint};
use super::write::{DeleteCommand, PutCommand};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  pennon setting get limits
  pennon setting put limits --value '{\"flags\": 200000, \"rules\": 2000}'
  pennon setting put history --value '{\"per_object\": 500, \"days\": 90}'

What a value leaves out has its default. A limit holds for what is written from then on.")]
pub(crate) enum SettingCommand {
    /// List all settings
    List,
    /// Show what is in force, what the defaults are and how far each goes
    Get(KeyArgs),
    /// Create or replace a setting, as a whole
    Put(PutCommand),
    /// Delete a setting: its defaults hold again
    Delete(DeleteCommand),
    /// Show who changed a setting, when and why
    History(KeyArgs),
    /// Show what a change did to a setting, or what differs between two versions
    Diff(DiffCommand),
    /// Make a setting what it was as of a version, also one that was deleted
    Revert(RevertCommand),
}

/// `pennon setting`.
pub(crate) async fn run(command: SettingCommand, asking: Asking) -> Result<(), Failure> {
    let of = |key: &str| Place::setting(key);
    match command {
        SettingCommand::List => list_settings(&asking).await,
        SettingCommand::Get(args) => get(&asking, &of(&args.key)).await,
        SettingCommand::Put(command) => {
            let retry = retry("setting put", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
        SettingCommand::Delete(command) => {
            let retry = retry("setting delete", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
        SettingCommand::History(args) => history(&asking, &of(&args.key)).await,
        SettingCommand::Diff(command) => command.run(&asking, of(&command.key)).await,
        SettingCommand::Revert(command) => {
            let retry = retry("setting revert", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
    }
}

async fn get(asking: &Asking, place: &Place) -> Result<(), Failure> {
    let path = format!("{}/effective", place.path);
    let answer = asking
        .admin
        .request(Method::GET, &path, HeaderMap::new(), None)
        .await?;
    let body = answer.body();
    if !asking.terminal.is_table() {
        return asking.terminal.value(body);
    }
    match &body["stored"] {
        Value::Null => {
            let name = asking.terminal.paint(&place.key, Paint::Bold);
            asking
                .terminal
                .line(format!("{name}  not set: the defaults hold"))?;
        }
        stored => heading(asking, stored)?,
    }
    let meaning = |name: &str| match place.key == Setting::Limits.as_str() {
        true => about(Limits::DEFAULT.list(), name),
        false => about(Retention::DEFAULT.list(), name),
    };
    let fields = body["effective"].as_object().into_iter().flatten();
    print_rows(
        asking,
        &["NAME", "IN FORCE", "DEFAULT", "GREATEST", "AT MOST SO MANY"],
        fields.map(|(name, value)| {
            let default = &body["default"][name];
            let in_force = match value == default {
                true => Cell::from(value.to_string()),
                false => Cell::painted(value.to_string(), Paint::Good),
            };
            vec![
                name.as_str().into(),
                in_force,
                default.to_string().into(),
                body["greatest"][name].to_string().into(),
                meaning(name).into(),
            ]
        }),
    )
}

fn about(mut fields: impl Iterator<Item = Limit>, name: &str) -> &'static str {
    let found = fields.find(|field| field.name == name);
    found.map_or("", |field| field.about)
}
