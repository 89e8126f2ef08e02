//! `pennon flag`, `policy`, `segment`, `env` and `app`: looking at objects of ground state.
//!
//! What must hold: what is printed with `-o json` is what the node answered, so that a script sees
//! the documented shapes; a table is for people and may change.
//!
//! Left out: lists (`lists.rs`), how an object is written (`write.rs`), and settings (`setting.rs`).

use clap::{Args, Subcommand};
use http::{HeaderMap, Method};
use pennon_client::ValueType;
use serde_json::{Map, Value, json};

use super::connection::Asking;
use super::failure::Failure;
use super::hints;
use super::lists::{
    history, list_applications, list_environments, list_flags, list_policies, list_segments,
};
use super::past::{DiffCommand, RevertCommand};
use super::place::Place;
use super::terminal::{Paint, pretty, shown};
use super::values::split;
use super::write::{self, DeleteCommand, PutCommand, ReasonArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum FlagCommand {
    /// List all flags; with --env also whether they are on there
    List {
        /// Environment to show
        #[arg(short, long, env = "PENNON_ENV", value_name = "ENV")]
        env: Option<String>,
    },
    /// Show one flag
    Get(KeyArgs),
    /// Create or replace a flag
    Put(PutCommand),
    /// Create a flag from options
    Create(CreateCommand),
    /// Delete a flag
    Delete(DeleteCommand),
    /// Switch a flag on in an environment
    Enable(SwitchCommand),
    /// Switch a flag off in an environment: everybody gets its off variant
    Disable(SwitchCommand),
    /// Show who changed a flag, when and why
    History(KeyArgs),
    /// Show what a change did to a flag, or what differs between two versions
    Diff(DiffCommand),
    /// Make a flag what it was as of a version, also one that was deleted
    Revert(RevertCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List what all flags do in an environment
    List(EnvArgs),
    /// Show what one flag does
    Get(ScopedKeyArgs),
    /// Create or replace the policy of a flag
    Put(Scoped<PutCommand>),
    /// Delete the policy of a flag
    Delete(Scoped<DeleteCommand>),
    /// Show who changed a policy, when and why
    History(ScopedKeyArgs),
    /// Show what a change did to a policy, or what differs between two versions
    Diff(Scoped<DiffCommand>),
    /// Make a policy what it was as of a version, also one that was deleted
    Revert(Scoped<RevertCommand>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SegmentCommand {
    /// List the segments of an environment
    List(EnvArgs),
    /// Show one segment
    Get(ScopedKeyArgs),
    /// Create or replace a segment
    Put(Scoped<PutCommand>),
    /// Delete a segment
    Delete(Scoped<DeleteCommand>),
    /// Show who changed a segment, when and why
    History(ScopedKeyArgs),
    /// Show what a change did to a segment, or what differs between two versions
    Diff(Scoped<DiffCommand>),
    /// Make a segment what it was as of a version, also one that was deleted
    Revert(Scoped<RevertCommand>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvCommand {
    /// List all environments
    List,
    /// Show one environment
    Get(KeyArgs),
    /// Create or replace an environment
    Put(PutCommand),
    /// Delete an environment
    Delete(DeleteCommand),
    /// Show who changed an environment, when and why
    History(KeyArgs),
    /// Show what a change did to an environment, or what differs between two versions
    Diff(DiffCommand),
    /// Make an environment what it was as of a version, also one that was deleted
    Revert(RevertCommand),
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Example:
  pennon app put shop --value '{\"tags\": [\"checkout\", \"search\"]}'

An application is the flags with any of its tags, and the segments and prerequisites that they use.")]
pub(crate) enum AppCommand {
    /// List all applications
    List,
    /// Show one application
    Get(KeyArgs),
    /// Create or replace an application
    Put(PutCommand),
    /// Delete an application
    Delete(DeleteCommand),
    /// Show who changed an application, when and why
    History(KeyArgs),
    /// Show what a change did to an application, or what differs between two versions
    Diff(DiffCommand),
    /// Make an application what it was as of a version, also one that was deleted
    Revert(RevertCommand),
}

#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    /// Key of the object
    pub(crate) key: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct EnvArgs {
    /// Environment
    #[arg(short, long, env = "PENNON_ENV", value_name = "ENV")]
    pub(crate) env: String,
}

#[derive(Args, Debug)]
pub(crate) struct ScopedKeyArgs {
    /// Key of the flag or segment
    key: String,

    #[command(flatten)]
    scope: EnvArgs,
}

/// A command about an object in an environment.
#[derive(Args, Debug)]
pub(crate) struct Scoped<T: Args> {
    #[command(flatten)]
    scope: EnvArgs,

    #[command(flatten)]
    command: T,
}

#[derive(Args, Debug)]
pub(crate) struct SwitchCommand {
    /// Key of the flag
    flag: String,

    #[command(flatten)]
    scope: EnvArgs,

    #[command(flatten)]
    why: ReasonArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon flag create checkout.new-ui --type boolean --tag checkout
  pennon flag create search.ranking --type string --variant control=bm25 --variant new=hybrid

A new flag does nothing anywhere until it has a policy: pennon flag enable KEY --env ENV, or
pennon policy put KEY --env ENV.")]
pub(crate) struct CreateCommand {
    /// Key of the flag
    key: String,

    /// Type of all its values: boolean, string, number or object
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    value_type: ValueType,

    /// Variant and its value; a boolean flag has on=true and off=false unless told otherwise
    #[arg(long = "variant", value_name = "NAME=VALUE")]
    variants: Vec<String>,

    /// Variant served while the flag is off [default: off if there is one, else the first]
    #[arg(long, value_name = "NAME")]
    off_variant: Option<String>,

    /// What the flag is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,

    #[command(flatten)]
    why: ReasonArgs,
}

/// `pennon flag`.
pub(crate) async fn flag(command: FlagCommand, asking: Asking) -> Result<(), Failure> {
    let of = |key: &str| Place::flag(key);
    match command {
        FlagCommand::List { env } => list_flags(&asking, env.as_deref()).await,
        FlagCommand::Get(args) => get(&asking, &of(&args.key)).await,
        FlagCommand::Put(command) => {
            command
                .run(
                    &asking,
                    of(&command.key),
                    &retry("flag put", &command.key, None),
                )
                .await
        }
        FlagCommand::Create(command) => {
            let value = command.value()?;
            write::create(&asking, &of(&command.key), &value, &command.why).await
        }
        FlagCommand::Delete(command) => {
            command
                .run(
                    &asking,
                    of(&command.key),
                    &retry("flag delete", &command.key, None),
                )
                .await
        }
        FlagCommand::Enable(args) => {
            write::switch(&asking, &args.scope.env, &args.flag, true, &args.why).await
        }
        FlagCommand::Disable(args) => {
            write::switch(&asking, &args.scope.env, &args.flag, false, &args.why).await
        }
        FlagCommand::History(args) => history(&asking, &of(&args.key)).await,
        FlagCommand::Diff(command) => command.run(&asking, of(&command.key)).await,
        FlagCommand::Revert(command) => {
            let retry = retry("flag revert", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
    }
}

/// `pennon policy`.
pub(crate) async fn policy(command: PolicyCommand, asking: Asking) -> Result<(), Failure> {
    let of = |env: &str, key: &str| Place::policy(env, key);
    match command {
        PolicyCommand::List(args) => list_policies(&asking, &args.env).await,
        PolicyCommand::Get(args) => get(&asking, &of(&args.scope.env, &args.key)).await,
        PolicyCommand::Put(Scoped { scope, command }) => {
            let retry = retry("policy put", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
        PolicyCommand::Delete(Scoped { scope, command }) => {
            let retry = retry("policy delete", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
        PolicyCommand::History(args) => history(&asking, &of(&args.scope.env, &args.key)).await,
        PolicyCommand::Diff(Scoped { scope, command }) => {
            command.run(&asking, of(&scope.env, &command.key)).await
        }
        PolicyCommand::Revert(Scoped { scope, command }) => {
            let retry = retry("policy revert", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
    }
}

/// `pennon segment`.
pub(crate) async fn segment(command: SegmentCommand, asking: Asking) -> Result<(), Failure> {
    let of = |env: &str, key: &str| Place::segment(env, key);
    match command {
        SegmentCommand::List(args) => list_segments(&asking, &args.env).await,
        SegmentCommand::Get(args) => get(&asking, &of(&args.scope.env, &args.key)).await,
        SegmentCommand::Put(Scoped { scope, command }) => {
            let retry = retry("segment put", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
        SegmentCommand::Delete(Scoped { scope, command }) => {
            let retry = retry("segment delete", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
        SegmentCommand::History(args) => history(&asking, &of(&args.scope.env, &args.key)).await,
        SegmentCommand::Diff(Scoped { scope, command }) => {
            command.run(&asking, of(&scope.env, &command.key)).await
        }
        SegmentCommand::Revert(Scoped { scope, command }) => {
            let retry = retry("segment revert", &command.key, Some(&scope.env));
            command
                .run(&asking, of(&scope.env, &command.key), &retry)
                .await
        }
    }
}

/// `pennon env`.
pub(crate) async fn environment(command: EnvCommand, asking: Asking) -> Result<(), Failure> {
    let of = |key: &str| Place::environment(key);
    match command {
        EnvCommand::List => list_environments(&asking).await,
        EnvCommand::Get(args) => get(&asking, &of(&args.key)).await,
        EnvCommand::Put(command) => {
            command
                .run(
                    &asking,
                    of(&command.key),
                    &retry("env put", &command.key, None),
                )
                .await
        }
        EnvCommand::Delete(command) => {
            command
                .run(
                    &asking,
                    of(&command.key),
                    &retry("env delete", &command.key, None),
                )
                .await
        }
        EnvCommand::History(args) => history(&asking, &of(&args.key)).await,
        EnvCommand::Diff(command) => command.run(&asking, of(&command.key)).await,
        EnvCommand::Revert(command) => {
            let retry = retry("env revert", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
    }
}

/// `pennon app`.
pub(crate) async fn application(command: AppCommand, asking: Asking) -> Result<(), Failure> {
    let of = |key: &str| Place::application(key);
    match command {
        AppCommand::List => list_applications(&asking).await,
        AppCommand::Get(args) => get(&asking, &of(&args.key)).await,
        AppCommand::Put(command) => {
            let retry = retry("app put", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
        AppCommand::Delete(command) => {
            let retry = retry("app delete", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
        AppCommand::History(args) => history(&asking, &of(&args.key)).await,
        AppCommand::Diff(command) => command.run(&asking, of(&command.key)).await,
        AppCommand::Revert(command) => {
            let retry = retry("app revert", &command.key, None);
            command.run(&asking, of(&command.key), &retry).await
        }
    }
}

/// The command that is offered after a conflict, as far as the key.
pub(crate) fn retry(command: &str, key: &str, env: Option<&str>) -> String {
    let env = env.map_or_else(String::new, |env| format!(" --env {env}"));
    format!("pennon {command} {key}{env}")
}

fn parse_type(word: &str) -> Result<ValueType, String> {
    let types = [
        ValueType::Boolean,
        ValueType::String,
        ValueType::Number,
        ValueType::Object,
    ];
    let found = types.into_iter().find(|known| known.as_str() == word);
    found.ok_or_else(|| {
        format!("there is no type {word:?}; there are boolean, string, number and object")
    })
}

impl CreateCommand {
    /// Makes the FlagConfig that the options describe.
    fn value(&self) -> Result<Value, Failure> {
        let mut variants = Map::new();
        for pair in &self.variants {
            let (name, text) = split("--variant", pair)?;
            let value = match self.value_type {
                ValueType::String => text.into(),
                _ => serde_json::from_str(text).map_err(|why| {
                    Failure::usage(format!("--variant {pair:?}: the value is not JSON: {why}"))
                })?,
            };
            variants.insert(name.to_owned(), value);
        }
        if variants.is_empty() && self.value_type == ValueType::Boolean {
            variants = Map::from_iter([
                ("on".to_owned(), true.into()),
                ("off".to_owned(), false.into()),
            ]);
        }
        let first = if variants.contains_key("off") {
            Some("off")
        } else {
            variants.keys().next().map(String::as_str)
        };
        let Some(first) = first else {
            return Err(Failure::usage(format!(
                "a {} flag needs its values: --variant NAME=VALUE, at least one",
                self.value_type
            )));
        };
        let off = self.off_variant.as_deref().unwrap_or(first).to_owned();
        let mut value = json!({"key": self.key, "type": self.value_type.as_str(), "variants": variants,
            "off_variant": off});
        if let Some(description) = &self.description {
            value["description"] = json!(description);
        }
        if !self.tags.is_empty() {
            value["tags"] = json!(self.tags);
        }
        Ok(value)
    }
}

/// Shows one object.
async fn get(asking: &Asking, place: &Place) -> Result<(), Failure> {
    let asked = asking
        .admin
        .request(Method::GET, &place.path, HeaderMap::new(), None);
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => return Err(hints::with_place(asking, place, error.into()).await),
    };
    let object = answer.body();
    if !asking.terminal.is_table() {
        return asking.terminal.value(object);
    }
    heading(asking, object)?;
    asking.terminal.line(shown(&pretty(&object["value"])))
}

/// Prints which version of an object this is, and whose.
pub(crate) fn heading(asking: &Asking, object: &Value) -> Result<(), Failure> {
    let text = |name: &str| object[name].as_str().map(shown).unwrap_or_default();
    let head = format!(
        "{}  version {}",
        asking.terminal.paint(text("key"), Paint::Bold),
        object["version"]
    );
    let since = match (text("updated_at").as_str(), text("updated_by").as_str()) {
        ("", _) => String::new(),
        (at, "") => format!("  {at}"),
        (at, by) => format!("  {at} by {by}"),
    };
    asking.terminal.line(format!(
        "{head}{}",
        asking.terminal.paint(since, Paint::Dim)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_from_options_is_a_flag_config() {
        let create = |value_type, variants: &[&str]| CreateCommand {
            key: "f".into(),
            value_type,
            variants: variants.iter().map(|pair| (*pair).to_owned()).collect(),
            off_variant: None,
            description: None,
            tags: vec!["t".into()],
            why: ReasonArgs::default(),
        };
        let key = "f".parse().unwrap();
        for (value_type, variants, off) in [
            (ValueType::Boolean, &[][..], "off"),
            (ValueType::String, &["a=1", "b=x=y"], "a"),
            (ValueType::Number, &["a=1", "off=2.5"], "off"),
            (ValueType::Object, &["a={}"], "a"),
        ] {
            let value = create(value_type, variants).value().unwrap();
            let config = pennon_evaluator::FlagConfig::parse(&key, &value.to_string()).unwrap();
            assert_eq!(config.off_variant, off);
        }
        assert_eq!(
            create(ValueType::Number, &[]).value().unwrap_err().code(),
            2
        );
        assert_eq!(
            create(ValueType::Number, &["a=x"])
                .value()
                .unwrap_err()
                .code(),
            2
        );
    }
}
