//! How a command reaches the cluster: where its nodes are, the token, how long it may take.
//!
//! What must hold: flags win over the environment, the environment over defaults; a token is never
//! shown.
//!
//! Left out: what is asked. A command gets an [`Asking`] and knows nothing of addresses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, Method};
use jiff::SignedDuration;
use pennon_client::TcpConnector;
use pennon_client::admin::{Admin, Answer};
use serde_json::Value;
use tokio::time::Instant;

use super::failure::Failure;
use super::terminal::{Format, Terminal};

/// The URL of a node that was started without a word about it.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:7400";

const TOKEN: &str = "PENNON_TOKEN";
const TOKEN_FILE: &str = "PENNON_TOKEN_FILE";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of all commands that talk to a cluster")]
pub(crate) struct ConnectionArgs {
    /// Nodes to talk to, separated by commas; the next is tried when one does not answer
    #[arg(long, global = true, env = "PENNON_URL", value_name = "URLS", value_delimiter = ',',
        default_value = URL_DEFAULT)]
    url: Vec<String>,

    /// Token; others on this machine can see it in the process list [env: PENNON_TOKEN]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    token: Option<String>,

    /// File that holds the token [env: PENNON_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Longest time for the whole request, for example 500ms, 10s or 2m
    #[arg(long, global = true, env = "PENNON_TIMEOUT", value_name = "TIME", default_value = "15s",
        value_parser = parse_duration)]
    timeout: Duration,

    /// Format of what is printed: table for people, json or yaml for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        hide_possible_values = true
    )]
    output: Format,
}

/// What every command that talks to a cluster needs.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    /// Reads and writes.
    pub(crate) admin: Admin,
    /// Prints.
    pub(crate) terminal: Terminal,
    /// Where the nodes are.
    pub(crate) urls: Vec<String>,
    /// The token, if one was given.
    pub(crate) token: Option<String>,
    /// Longest time for a request.
    pub(crate) timeout: Duration,
}

impl Asking {
    /// Reads what is at a path, as the node says it: for what is printed as it came.
    ///
    /// # Errors
    /// Every answer of 400 and above, and no answer at all.
    pub(crate) async fn read(&self, path: &str) -> Result<Value, Failure> {
        let answer = self
            .admin
            .request(Method::GET, path, HeaderMap::new(), None);
        Ok(answer.await?.into_body())
    }

    /// Sends a POST that only asks: whatever becomes of it, nothing was changed.
    ///
    /// # Errors
    /// Every answer of 400 and above, and no answer at all; never an unknown outcome.
    pub(crate) async fn question(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let began = Instant::now();
        let sent = self
            .admin
            .request(Method::POST, path, HeaderMap::new(), Some(body));
        sent.await
            .map_err(|error| Failure::of_question(error, began.elapsed() >= self.timeout))
    }
}

impl ConnectionArgs {
    /// Returns where to print.
    pub(crate) fn terminal(&self) -> Terminal {
        Terminal::new(self.output)
    }

    /// Makes the client. Nothing is sent yet.
    pub(crate) fn asking(&self) -> Result<Asking, Failure> {
        let token = self.token()?;
        let urls: Vec<String> = self.url.iter().map(|url| with_scheme(url)).collect();
        let admin = Admin::new(&urls, token.as_deref(), Arc::new(TcpConnector))?;
        let admin = admin.with_timeout(self.timeout);
        Ok(Asking {
            admin,
            terminal: self.terminal(),
            urls,
            token,
            timeout: self.timeout,
        })
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let of_environment = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(token) = &self.token {
            return Ok(Some(token.clone()));
        }
        if let Some(file) = &self.token_file {
            return read_token(file).map(Some);
        }
        if let Some(token) = of_environment(TOKEN) {
            let token = token.into_string();
            return token
                .map(Some)
                .map_err(|_| Failure::usage(format!("{TOKEN} is not text")));
        }
        of_environment(TOKEN_FILE)
            .map(|file| read_token(Path::new(&file)))
            .transpose()
    }
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|why| {
        Failure::usage(format!(
            "the token file {} cannot be read: {why}",
            file.display()
        ))
    })?;
    match text.trim() {
        "" => Err(Failure::usage(format!(
            "the token file {} is empty",
            file.display()
        ))),
        token => Ok(token.to_owned()),
    }
}

/// Takes `host:port` for the URL that is meant.
fn with_scheme(url: &str) -> String {
    let url = url.trim();
    match url.contains("://") || url.is_empty() {
        true => url.to_owned(),
        false => format!("http://{url}"),
    }
}

/// Reads a duration as people write it: `500ms`, `10s`, `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let example = "is no time; write for example 500ms, 10s or 2m";
    let duration: SignedDuration = text.parse().map_err(|_| format!("{text:?} {example}"))?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{text:?} {example}, more than nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_do() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["5", "", "0s", "-3s", "soon"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bare_address_is_a_url() {
        assert_eq!(with_scheme(" n1:7400"), "http://n1:7400");
        assert_eq!(with_scheme("https://n1"), "https://n1");
    }
}
