//! Writing: one object, several at once, the kill switch.
//!
//! What must hold: a write names what it expects to find. Unless told otherwise that is what was
//! there a moment ago, so that somebody else's change in between is a conflict and never lost (I2).
//! Every write says the old and the new version.
//!
//! Left out: reading (`objects.rs`).

use std::path::PathBuf;

use clap::Args;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pennon_client::Version;
use pennon_client::admin::{self, Answer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::connection::Asking;
use super::delivery;
use super::failure::{Exit, Failure};
use super::hints;
use super::place::Place;
use super::terminal::{Paint, shown};
use super::values::{InputArgs, read_file};

#[derive(Args, Clone, Debug)]
pub(crate) struct PutCommand {
    /// Key of the object
    pub(crate) key: String,

    #[command(flatten)]
    input: InputArgs,

    #[command(flatten)]
    precondition: PutPrecondition,

    #[command(flatten)]
    why: ReasonArgs,
}

#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
struct PutPrecondition {
    /// Replace exactly this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,

    /// Create; refused when it exists
    #[arg(long)]
    create: bool,

    /// Create or replace whatever is there, somebody else's newest change included
    #[arg(long)]
    force: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DeleteCommand {
    /// Key of the object
    pub(crate) key: String,

    /// Delete exactly this version
    #[arg(long, value_name = "VERSION", conflicts_with = "force")]
    if_version: Option<Version>,

    /// Delete whatever is there, somebody else's newest change included
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    why: ReasonArgs,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ReasonArgs {
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// What to wait for: committed; applied, every node has it; delivered, every connected
    /// application has said so. Exit code 7 when that is not complete in time (--timeout)
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t,
        hide_possible_values = true
    )]
    ack: Ack,
}

/// What a write waits for.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ack {
    #[default]
    Committed,
    Applied,
    Delivered,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The file is a JSON list:
  [{\"op\":\"put\", \"kind\":\"flag\", \"key\":\"a\", \"value\":{…}, \"expected_version\":0},
   {\"op\":\"delete\", \"kind\":\"policy\", \"environment\":\"production\", \"key\":\"b\"}]
Kinds: flag, environment, policy, segment, setting, application. expected_version: 0 when it must
not exist, left out when anything will do. Either all of it happens, at one version, or nothing.")]
pub(crate) struct ChangeCommand {
    /// File that holds the change set as JSON; - for stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    why: ReasonArgs,
}

/// Says who writes.
const ACTOR: HeaderName = HeaderName::from_static("pennon-actor");

/// What must be so for a write to happen.
pub(crate) enum Precondition {
    Absent,
    At(Version),
    Anything,
}

impl PutCommand {
    /// Creates or replaces the object. `retry` is the command as far as the key.
    pub(crate) async fn run(
        &self,
        asking: &Asking,
        place: Place,
        retry: &str,
    ) -> Result<(), Failure> {
        let value = self.input.read()?;
        let precondition = match &self.precondition {
            PutPrecondition { create: true, .. } => Precondition::Absent,
            PutPrecondition { force: true, .. } => Precondition::Anything,
            PutPrecondition {
                if_version: Some(version),
                ..
            } => Precondition::At(*version),
            _ => current(asking, &place).await?,
        };
        put(asking, &place, &value, precondition, &self.why)
            .await
            .map_err(|failure| again(failure, retry, "put"))
    }
}

impl DeleteCommand {
    /// Deletes the object.
    pub(crate) async fn run(
        &self,
        asking: &Asking,
        place: Place,
        retry: &str,
    ) -> Result<(), Failure> {
        let precondition = match (self.force, self.if_version) {
            (true, _) => Precondition::Anything,
            (false, Some(version)) => Precondition::At(version),
            (false, None) => Precondition::At(version_of(asking, &place).await?),
        };
        let path = self.why.onto(asking, place.path.clone());
        let answer = send(asking, Method::DELETE, path, Some(&precondition), None).await;
        let answer = answer.map_err(|failure| again(failure, retry, "delete"))?;
        report(asking, &place.key, &answer, |versions| match versions {
            (Some(previous), new) => format!("deleted, version {previous} -> gone at {new}"),
            (None, new) => format!("was not there, at version {new}"),
        })
    }
}

/// Creates an object that must not exist.
pub(crate) async fn create(
    asking: &Asking,
    place: &Place,
    value: &Value,
    why: &ReasonArgs,
) -> Result<(), Failure> {
    put(asking, place, value, Precondition::Absent, why).await
}

/// Writes an object under a precondition, and prints the old and the new version.
pub(crate) async fn put(
    asking: &Asking,
    place: &Place,
    value: &Value,
    precondition: Precondition,
    why: &ReasonArgs,
) -> Result<(), Failure> {
    let answer = match precondition {
        // A PUT always has a precondition; a change set need not.
        Precondition::Anything => post(asking, &json!([change_of(place, value)]), why).await,
        precondition => {
            send(
                asking,
                Method::PUT,
                why.onto(asking, place.path.clone()),
                Some(&precondition),
                Some(value),
            )
            .await
        }
    }?;
    report(asking, &place.key, &answer, |versions| match versions {
        (Some(previous), new) if previous == new => format!("is so already, version {new}"),
        (Some(previous), new) => format!("version {previous} -> {new}"),
        (None, new) => format!("created at version {new}"),
    })
}

fn change_of(place: &Place, value: &Value) -> Value {
    let mut change = json!({"op": "put", "kind": place.kind, "key": place.key, "value": value});
    if let Some(environment) = &place.environment {
        change["environment"] = json!(environment);
    }
    change
}

/// What a write must find to replace nothing but what is there now.
pub(crate) async fn current(asking: &Asking, place: &Place) -> Result<Precondition, Failure> {
    match version_of(asking, place).await {
        Ok(version) => Ok(Precondition::At(version)),
        Err(failure) if failure.exit() == Exit::NotFound => Ok(Precondition::Absent),
        Err(failure) => Err(failure),
    }
}

async fn version_of(asking: &Asking, place: &Place) -> Result<Version, Failure> {
    let answer = asking
        .admin
        .request(Method::GET, &place.path, HeaderMap::new(), None)
        .await?;
    let version = answer.body()["version"].as_u64().and_then(Version::new);
    version.ok_or_else(|| {
        let message = format!("the answer about {} has no version", place.key);
        Failure::new(Exit::Failure, message)
    })
}

/// Switches a flag on or off in an environment.
pub(crate) async fn switch(
    asking: &Asking,
    environment: &str,
    flag: &str,
    on: bool,
    why: &ReasonArgs,
) -> Result<(), Failure> {
    let (place, word) = (encoded(environment), if on { "enable" } else { "disable" });
    let path = why.onto(
        asking,
        format!("/v1/environments/{place}/flags/{}:{word}", encoded(flag)),
    );
    let answer = match send(asking, Method::POST, path, None, None).await {
        Ok(answer) => answer,
        Err(failure) => {
            let place = Place::policy(environment, flag);
            return Err(hints::with_place(asking, &place, failure).await);
        }
    };
    let state = match on {
        true => asking.terminal.paint("enabled", Paint::Good),
        false => asking.terminal.paint("disabled", Paint::Warn),
    };
    let place = shown(environment);
    report(asking, flag, &answer, |versions| match versions {
        (Some(previous), new) if previous == new => {
            format!("was {state} in {place} already, version {new}")
        }
        (Some(previous), new) => format!("{state} in {place}, version {previous} -> {new}"),
        (None, new) => format!("{state} in {place}, policy created at version {new}"),
    })
}

/// `pennon change`.
pub(crate) async fn change(command: ChangeCommand, asking: Asking) -> Result<(), Failure> {
    let changes = read_file(&command.file)?;
    let answer = post(&asking, &changes, &command.why).await?;
    if !asking.terminal.is_table() {
        asking.terminal.value(answer.body())?;
        return delivery::report(&asking, answer.body());
    }
    let results = answer.body()["results"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for result in results {
        let (previous, version) = versions(result, &answer);
        let what = [result["kind"].as_str(), result["key"].as_str()];
        let what: Vec<String> = what.into_iter().flatten().map(shown).collect();
        let place = result["environment"]
            .as_str()
            .map_or_else(String::new, |e| format!(" in {}", shown(e)));
        let from = previous.map_or_else(|| "new".to_owned(), |version| version.to_string());
        asking
            .terminal
            .line(format!("{}{place}: {from} -> {version}", what.join(" ")))?;
    }
    let version = answer.body()["version"].as_u64().unwrap_or_default();
    asking.terminal.line(format!("all at version {version}"))?;
    delivery::report(&asking, answer.body())
}

/// Makes several changes at once, for a reason.
pub(crate) async fn change_set(
    asking: &Asking,
    changes: &Value,
    reason: &str,
) -> Result<Answer, Failure> {
    post(
        asking,
        changes,
        &ReasonArgs {
            reason: Some(reason.to_owned()),
            ack: Ack::Committed,
        },
    )
    .await
}

async fn post(asking: &Asking, changes: &Value, why: &ReasonArgs) -> Result<Answer, Failure> {
    send(
        asking,
        Method::POST,
        why.onto(asking, "/v1/changes".into()),
        None,
        Some(changes),
    )
    .await
}

/// Prints the outcome of a write to one object.
fn report(
    asking: &Asking,
    key: &str,
    answer: &Answer,
    say: impl Fn((Option<u64>, u64)) -> String,
) -> Result<(), Failure> {
    let body = answer.body();
    if !asking.terminal.is_table() {
        asking.terminal.value(body)?;
        return delivery::report(asking, body);
    }
    // A change set of one is answered as a list of one.
    let versions = versions(body["results"].get(0).unwrap_or(body), answer);
    asking
        .terminal
        .line(format!("{}: {}", shown(key), say(versions)))?;
    delivery::report(asking, body)
}

fn versions(result: &Value, answer: &Answer) -> (Option<u64>, u64) {
    let decided_at = answer.version().map(|version| version.get());
    let version = result["version"]
        .as_u64()
        .or(decided_at)
        .unwrap_or_default();
    (result["previous_version"].as_u64(), version)
}

/// Adds to a conflict how to try again.
fn again(failure: Failure, retry: &str, verb: &str) -> Failure {
    if failure.exit() != Exit::Conflict {
        return failure;
    }
    match failure.problem()["current_version"].as_u64() {
        None | Some(0) if verb == "delete" => failure,
        None | Some(0) => failure.hint(format!("To create it:  {retry} --create …")),
        Some(version) => failure
            .hint(format!("Look at it:    {}", retry.replacen(verb, "get", 1)))
            .hint(format!(
                "Then, to {verb} that version:  {retry} --if-version {version} …"
            )),
    }
}

/// Sends a write in the name of whoever is logged in.
pub(crate) async fn send(
    asking: &Asking,
    method: Method,
    path: String,
    precondition: Option<&Precondition>,
    body: Option<&Value>,
) -> Result<Answer, Failure> {
    let mut headers = HeaderMap::new();
    let condition = precondition.map(|precondition| match precondition {
        Precondition::Absent => (IF_NONE_MATCH, "*".to_owned()),
        Precondition::Anything => (IF_MATCH, "*".to_owned()),
        Precondition::At(version) => (IF_MATCH, format!("\"{version}\"")),
    });
    if let Some((name, value)) = condition {
        let value = HeaderValue::try_from(value).map_err(|why| Failure::usage(why.to_string()))?;
        headers.insert(name, value);
    }
    // Only a hint for the history: a name that does not fit into a header is left out.
    let actor = std::env::var("USER").ok().filter(|name| !name.is_empty());
    if let Some(actor) = actor.and_then(|name| HeaderValue::try_from(name).ok()) {
        headers.insert(ACTOR, actor);
    }
    Ok(asking.admin.request(method, &path, headers, body).await?)
}

impl ReasonArgs {
    /// The same, with a reason when none was given.
    pub(crate) fn or(&self, reason: String) -> Self {
        let mut why = self.clone();
        why.reason.get_or_insert(reason);
        why
    }

    /// Adds what the node is to be told besides the change itself.
    pub(crate) fn onto(&self, asking: &Asking, path: String) -> String {
        let mut query = Vec::new();
        if let Some(reason) = &self.reason {
            query.push(format!("reason={}", encoded(reason)));
        }
        let ack = match self.ack {
            Ack::Committed => None,
            Ack::Applied => Some(admin::Ack::Applied),
            Ack::Delivered => Some(admin::Ack::Delivered),
        };
        query.extend(ack.map(|ack| ack.query(asking.timeout)));
        match query.is_empty() {
            true => path,
            false if path.contains('?') => format!("{path}&{}", query.join("&")),
            false => format!("{path}?{}", query.join("&")),
        }
    }
}

/// Encodes a key as one segment of a path, or a text as one value of a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
