//! `pennon explain`: what one subject gets and why, for people who have to know at once.
//!
//! The answer comes first, on two lines, then everything that was looked at on the way to it
//! (`trace.rs`). With `-o json` or `-o yaml` it is the answer of the node.
//!
//! What must hold: the answer is that of `pennon eval`, and so are its refusals: an unknown flag is
//! exit code 3.

use clap::Args;
use serde_json::{Value, json};

use super::connection::Asking;
use super::evaluate::{experiment, not_found, reason};
use super::failure::{Exit, Failure};
use super::hints;
use super::objects::EnvArgs;
use super::terminal::{Paint, brief, cut, shown};
use super::trace::tree;
use super::values::AttributeArgs;
use super::write::encoded;

/// The longest value shown, in characters; `-o json` shows all of it.
const VALUE_CHARS_MAX: usize = 200;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon explain checkout.new-ui --env production --subject user-42 --attr country=DE
  pennon explain payments.apple-pay -e production -s u1 -a country=DE --attr-str app_version=2.4
  pennon explain search.ranking-v2 --env staging --subject u1 --attr-json 'groups=[\"a\",\"b\"]' -o json

✓ holds, ✗ does not. Only what was looked at is shown: the first clause that does not hold ends a
rule, the first rule that serves ends the list. A range [0, 50) holds 0 and does not hold 50.")]
pub(crate) struct ExplainCommand {
    /// Key of the flag
    flag: String,

    #[command(flatten)]
    scope: EnvArgs,

    /// Subject key: who is asking
    #[arg(short, long, value_name = "KEY")]
    subject: String,

    #[command(flatten)]
    attributes: AttributeArgs,
}

/// Explains one flag.
pub(crate) async fn run(command: ExplainCommand, asking: Asking) -> Result<(), Failure> {
    let (flag, env) = (&command.flag, &command.scope.env);
    let subject = json!({"subject_key": command.subject, "attributes": command.attributes.read()?});
    let path = format!(
        "/v1/environments/{}/explain/{}",
        encoded(env),
        encoded(flag)
    );
    let body = match asking.question(&path, &subject).await {
        Ok(answer) => answer.into_body(),
        Err(failure) => return Err(hints::with_environment(&asking, env, failure).await),
    };
    let unknown = body["reason"] == "FLAG_NOT_FOUND";
    if !asking.terminal.is_table() {
        asking.terminal.value(&body)?;
        return match unknown {
            true => Err(Failure::silent(Exit::NotFound)),
            false => Ok(()),
        };
    }
    if unknown {
        return Err(not_found(&asking, flag, env, &body).await);
    }
    show(&asking, flag, env, &body)
}

fn show(asking: &Asking, flag: &str, env: &str, body: &Value) -> Result<(), Failure> {
    let terminal = &asking.terminal;
    let value = cut(&shown(&brief(&body["value"])), VALUE_CHARS_MAX);
    let value = terminal.paint(value, Paint::Bold);
    let variant = shown(body["variant"].as_str().unwrap_or("-"));
    terminal.line(format!("{} = {value}  (variant {variant})", shown(flag)))?;
    let detail = body["detail"]
        .as_str()
        .map_or_else(String::new, |detail| format!(", {}", shown(detail)));
    terminal.line(format!(
        "  {}{}{detail}; last changed at version {}, decided at version {}, {}",
        reason(body),
        experiment(body),
        body["config_version"],
        body["snapshot_version"],
        shown(body["freshness"].as_str().unwrap_or("?"))
    ))?;
    terminal.line("")?;
    let tree = tree(terminal, body);
    for line in tree.lines() {
        terminal.line(format!("  {line}"))?;
    }
    if tree.lines().is_empty() {
        terminal.line(format!("  {}", without_steps(flag, env, body)))?;
    }
    for (attribute, value) in tree.not_text() {
        terminal.note(format!(
            "note: {} was compared with text but is none; as text: --attr-str {}={}",
            shown(attribute),
            shown(attribute),
            value
        ));
    }
    Ok(())
}

/// Why nothing was looked at.
fn without_steps(flag: &str, env: &str, body: &Value) -> String {
    let (flag, env) = (shown(flag), shown(env));
    match (body["reason"].as_str(), body["detail"].as_str()) {
        (Some("DISABLED"), _) => format!(
            "It is switched off in {env}, so everybody gets its off variant.\n  \
             To switch it on: pennon flag enable {flag} --env {env}"
        ),
        (_, Some("GRAPH_UNSOUND")) => {
            "It cannot be decided: what it uses has a cycle, is too deep or too much.".to_owned()
        }
        _ => "Nothing had to be looked at.".to_owned(),
    }
}
