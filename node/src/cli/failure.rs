//! Why a command did not do what it was asked: one exit code, and what to say about it.
//!
//! What must hold: the exit codes are those of CONTRACT and are chosen here alone; a write that may
//! have happened is never called failed (I9); what a node said is shown whole: its faults with
//! their places, who uses a thing, the version that is current.
//!
//! Left out: writing it to the terminal (`terminal.rs`).

use std::fmt::Write as _;
use std::io;

use pennon_client::Error;
use serde_json::{Map, Value, json};

use super::terminal::shown;

/// How a command ended, as a number that scripts look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something else went wrong.
    Failure = 1,
    /// The command as it was given cannot be carried out; nothing was sent.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The object is at another version than the write was meant for.
    Conflict = 4,
    /// No node could be reached, or none has a leader.
    Unreachable = 5,
    /// The token does not allow it.
    Denied = 6,
    /// What was checked is not as it should be.
    CheckFailed = 7,
    /// The answer would be staler than asked for.
    Stale = 8,
    /// The write may have happened.
    OutcomeUnknown = 9,
    /// It took too long; nothing was changed.
    Timeout = 124,
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hints: Vec<String>,
    problem: Option<Box<Map<String, Value>>>,
    /// Everything is said already.
    silent: bool,
    /// Nobody reads the output any more: `pennon … | head` is no failure.
    reader_left: bool,
}

impl Failure {
    /// A failure with one sentence.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        let (message, hints) = (message.into(), Vec::new());
        Failure {
            exit,
            message,
            hints,
            problem: None,
            silent: false,
            reader_left: false,
        }
    }

    /// The command line cannot be carried out.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Everything is said already; only the exit code is left.
    pub(crate) fn silent(exit: Exit) -> Failure {
        Failure {
            silent: true,
            ..Failure::new(exit, "")
        }
    }

    /// Adds a line about what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Returns the exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the exit code for the shell.
    pub(crate) fn code(&self) -> u8 {
        if self.reader_left { 0 } else { self.exit as u8 }
    }

    /// Says whether there is nothing left to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent || self.reader_left
    }

    /// Returns the text for people, several lines.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}", shown(&self.message));
        for line in self.problem.iter().flat_map(|problem| details(problem)) {
            let _ = write!(text, "\n  {line}");
        }
        for hint in &self.hints {
            let _ = write!(text, "\n  {}", shown(hint));
        }
        text
    }

    /// Returns the problem document: the node's own when it sent one.
    pub(crate) fn problem(&self) -> Value {
        match &self.problem {
            Some(problem) => Value::Object(Map::clone(problem)),
            None => {
                let detail = std::iter::once(&self.message).chain(&self.hints);
                let detail: Vec<&str> = detail.map(String::as_str).collect();
                json!({"type": "about:blank", "title": self.exit.title(),
                    "detail": detail.join("; "), "exit_code": self.exit as u8})
            }
        }
    }
}

impl Exit {
    fn title(self) -> &'static str {
        match self {
            Exit::Failure => "failure",
            Exit::Usage => "wrong usage",
            Exit::NotFound => "not found",
            Exit::Conflict => "version conflict",
            Exit::Unreachable => "no leader or unreachable",
            Exit::Denied => "denied",
            Exit::CheckFailed => "check failed",
            Exit::Stale => "staler than asked for",
            Exit::OutcomeUnknown => "outcome unknown",
            Exit::Timeout => "timeout",
        }
    }

    fn of(error: &Error) -> Exit {
        // The order matters: the first that holds says most.
        let questions = [
            (error.outcome_unknown(), Exit::OutcomeUnknown), // I9
            (error.slug() == "outcome-unknown", Exit::OutcomeUnknown),
            (error.is_settings(), Exit::Usage),
            (error.is_conflict(), Exit::Conflict),
            (error.is_not_found(), Exit::NotFound),
            (error.status() == Some(410), Exit::NotFound),
            (error.is_denied(), Exit::Denied),
            (error.is_not_fresh_enough(), Exit::Stale),
            (error.is_unreachable(), Exit::Unreachable),
            (
                error.is_timeout() || error.status() == Some(408),
                Exit::Timeout,
            ),
            (error.status() == Some(503), Exit::Unreachable),
        ];
        questions
            .into_iter()
            .find(|(holds, _)| *holds)
            .map_or(Exit::Failure, |(_, exit)| exit)
    }
}

impl Failure {
    /// The failure of a request that cannot have changed anything. The client takes every POST for
    /// a write; here an outcome that nobody heard of is only a missing answer.
    pub(crate) fn of_question(error: Error, late: bool) -> Failure {
        if !error.outcome_unknown() {
            return Failure::from(error);
        }
        let exit = match (error.status(), late) {
            (Some(408 | 504), _) | (None, true) => Exit::Timeout,
            (None, false) => Exit::Unreachable,
            (Some(_), _) => Exit::Failure,
        };
        let at = error.endpoint().unwrap_or("the node");
        let unheard = match exit {
            Exit::Timeout => format!("{at} did not answer in time"),
            Exit::Unreachable => format!("{at} broke off before it answered"),
            _ => format!("{at} answered with status {}", error.status().unwrap_or(0)),
        };
        Failure::of(&error, exit, unheard)
    }

    fn of(error: &Error, exit: Exit, without_problem: String) -> Failure {
        let problem = error.problem();
        let message = match problem {
            Some(problem) => match (problem.title(), problem.detail()) {
                ("", "") => without_problem,
                ("", only) | (only, "") => only.to_owned(),
                (title, detail) => format!("{title}\n  {detail}"),
            },
            None => without_problem,
        };
        let mut failure = Failure::new(exit, message);
        failure.problem = problem.map(|problem| Box::new(problem.fields().clone()));
        match (exit, problem) {
            (Exit::OutcomeUnknown, _) => failure.hint(
                "It may have happened: look at what is there before you ask again.",
            ),
            (Exit::Unreachable, None) => failure
                .hint("Is a node running there? Name others with --url or PENNON_URL; start one with: pennon dev"),
            (Exit::Denied, _) => failure.hint("Give a token with --token-file, --token or PENNON_TOKEN."),
            (Exit::Timeout, _) => failure.hint("Give it longer with --timeout, or ask another node with --url."),
            _ => failure,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(&error, Exit::of(&error), error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure {
                reader_left: true,
                ..Failure::new(Exit::Failure, "")
            },
            _ => Failure::new(Exit::Failure, format!("cannot write the output: {error}")),
        }
    }
}

/// How many faults, and users of an object, the detail of a problem names by itself.
const FAULTS_NAMED: usize = 1;
const USERS_NAMED: usize = 3;

/// The fields of a problem that say more than its detail, a line each.
fn details(problem: &Map<String, Value>) -> Vec<String> {
    let list = |name: &str| {
        problem
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let faults = list("faults").iter().skip(FAULTS_NAMED).map(|fault| {
        let text = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
        let place = if text("pointer").is_empty() {
            "(the whole value)"
        } else {
            text("pointer")
        };
        format!("{}: {}", shown(place), shown(text("message")))
    });
    let users = list("users").iter().skip(USERS_NAMED).map(|user| {
        let user = user
            .as_str()
            .map_or_else(|| user.to_string(), str::to_owned);
        format!("used by {}", shown(&user))
    });
    faults.chain(users).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_problem(problem: Value) -> String {
        let mut failure = Failure::new(Exit::Failure, "invalid");
        failure.problem = problem.as_object().cloned().map(Box::new);
        failure.text()
    }

    #[test]
    fn what_a_node_said_is_shown_whole() {
        let text = with_problem(json!({
            "faults": [{"pointer": "/a", "message": "in the detail"}, {"pointer": "/rules/0", "message": "no"}, {"pointer": "", "message": "bad"}],
            "users": ["a", "b", "c", "policy d in production"]}));
        for part in [
            "/rules/0: no",
            "(the whole value): bad",
            "used by policy d in production",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn text_from_a_node_cannot_steer_the_terminal() {
        let text = with_problem(json!({"users": ["\u{1b}[2Jgone", "", "", ""]}));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn only_a_reader_that_went_away_is_no_failure() {
        let gone = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.code(), gone.is_silent()), (0, true));
        assert_eq!(Failure::from(io::Error::other("disk full")).code(), 1);
        assert_eq!(Failure::silent(Exit::CheckFailed).code(), 7);
    }
}
