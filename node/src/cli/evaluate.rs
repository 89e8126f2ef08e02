//! `pennon eval`: what one subject gets, decided by a node.
//!
//! What must hold: an unknown flag is exit code 3, whether the node refuses or answers with the
//! reason `FLAG_NOT_FOUND`.

use clap::Args;
use serde_json::{Value, json};

use super::connection::Asking;
use super::failure::{Exit, Failure};
use super::hints;
use super::objects::EnvArgs;
use super::terminal::{Cell, Paint, brief, cut, shown};
use super::values::AttributeArgs;
use super::write::encoded;

/// The longest value shown in the table of all flags, in characters.
const VALUE_CHARS_MAX: usize = 20;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon eval checkout.new-ui --env production --subject user-42 --attr country=DE
  pennon eval --all --env production --subject user-42 --attr-str app_version=2.4
  pennon eval search.ranking-v2 --env staging --subject u1 --attr-json 'groups=[\"a\",\"b\"]' -o json")]
pub(crate) struct EvalCommand {
    /// Key of the flag
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    flag: Option<String>,

    /// Evaluate every flag of the environment
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    scope: EnvArgs,

    /// Subject key: who is asking
    #[arg(short, long, value_name = "KEY")]
    subject: String,

    #[command(flatten)]
    attributes: AttributeArgs,
}

/// Evaluates one flag or all.
pub(crate) async fn run(command: EvalCommand, asking: Asking) -> Result<(), Failure> {
    let attributes = command.attributes.read()?;
    let flag = command.flag.as_deref();
    let env = &command.scope.env;
    let subject = json!({"subject_key": command.subject, "attributes": attributes});
    let mut path = format!("/v1/environments/{}/evaluate", encoded(env));
    if let Some(flag) = flag {
        path.push_str(&format!("/{}", encoded(flag)));
    }
    let answer = asking.question(&path, &subject).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(hints::with_environment(&asking, env, failure).await),
    };
    match flag {
        Some(flag) => one(&asking, flag, env, answer.body()).await,
        None => {
            let body = with_other_pages(&asking, env, answer.into_body(), &subject).await?;
            match asking.terminal.is_table() {
                true => all(&asking, body["items"].as_array().map_or(&[], Vec::as_slice)),
                false => asking.terminal.value(&body),
            }
        }
    }
}

/// Adds what did not fit into the first answer.
async fn with_other_pages(
    asking: &Asking,
    env: &str,
    mut body: Value,
    subject: &Value,
) -> Result<Value, Failure> {
    while let Some(next) = body["next"].as_str() {
        let path = format!(
            "/v1/environments/{}/evaluate?after={}",
            encoded(env),
            encoded(next)
        );
        let mut page = asking.question(&path, subject).await?.into_body();
        if let (Some(items), Some(more)) =
            (body["items"].as_array_mut(), page["items"].as_array_mut())
        {
            items.append(more);
        }
        match page["next"].take() {
            Value::Null => body.as_object_mut().and_then(|body| body.remove("next")),
            next => body
                .as_object_mut()
                .and_then(|body| body.insert("next".to_owned(), next)),
        };
    }
    Ok(body)
}

async fn one(asking: &Asking, flag: &str, env: &str, body: &Value) -> Result<(), Failure> {
    let unknown = body["reason"] == "FLAG_NOT_FOUND";
    if unknown && asking.terminal.is_table() {
        return Err(not_found(asking, flag, env, body).await);
    }
    if !asking.terminal.is_table() {
        asking.terminal.value(body)?;
        return if unknown {
            Err(Failure::silent(Exit::NotFound))
        } else {
            Ok(())
        };
    }
    let value = asking
        .terminal
        .paint(shown(&brief(&body["value"])), Paint::Bold);
    asking.terminal.line(format!("{} = {value}", shown(flag)))?;
    let variant = body["variant"].as_str().unwrap_or("-");
    let bucket = body["bucket"]
        .as_u64()
        .map_or_else(String::new, |bucket| format!(", bucket {bucket}"));
    asking
        .terminal
        .line(format!("  variant  {}", shown(variant)))?;
    asking.terminal.line(format!(
        "  reason   {}{bucket}{}",
        reason(body),
        experiment(body)
    ))?;
    asking.terminal.line(format!(
        "  version  {} (when the flag last changed)",
        body["config_version"]
    ))
}

fn all(asking: &Asking, evaluations: &[Value]) -> Result<(), Failure> {
    if evaluations.is_empty() {
        asking.terminal.note("no flags decide anything here yet");
        return Ok(());
    }
    let rows = evaluations.iter().map(|evaluation| {
        let value = cut(&brief(&evaluation["value"]), VALUE_CHARS_MAX);
        let value = match &evaluation["value"] {
            Value::Bool(true) => Cell::painted(value, Paint::Good),
            Value::Bool(false) => Cell::painted(value, Paint::Warn),
            _ => value.into(),
        };
        vec![
            evaluation["flag"].as_str().unwrap_or_default().into(),
            value,
            evaluation["variant"].as_str().unwrap_or("-").into(),
            format!("{}{}", reason(evaluation), experiment(evaluation)).into(),
        ]
    });
    asking.terminal.line(
        asking
            .terminal
            .table(&["FLAG", "VALUE", "VARIANT", "REASON"], rows),
    )
}

/// Why there is no answer: the answer was `FLAG_NOT_FOUND`.
pub(crate) async fn not_found(asking: &Asking, flag: &str, env: &str, body: &Value) -> Failure {
    let (key, place) = (shown(flag), shown(env));
    let detail = match body["detail"].as_str() {
        Some("ARCHIVED") => {
            format!("the flag {key} is archived: applications get their own default")
        }
        Some(detail) => shown(detail),
        None => format!("no flag {key} decides anything in {place}"),
    };
    hints::with_flag(asking, flag, Failure::new(Exit::NotFound, detail)).await
}

/// The reason and the rule.
pub(crate) fn reason(evaluation: &Value) -> String {
    let reason = shown(evaluation["reason"].as_str().unwrap_or("?"));
    match evaluation["rule_id"].as_str() {
        Some(rule) => format!("{reason} {}", shown(rule)),
        None => reason,
    }
}

/// The experiment, to stand behind the reason.
pub(crate) fn experiment(evaluation: &Value) -> String {
    let key = evaluation["experiment"].as_str();
    key.map_or_else(String::new, |key| format!(", experiment {}", shown(key)))
}
