//! How the tools of this crate run: the command line is read, the work is done on a runtime, and what
//! came of it is the exit code. (Simulations have runtimes of their own.)
//!
//! What must hold: the answer goes to standard output, everything else to standard error. Help exits
//! with 0 and a wrong command line with 2, which is clap's doing. A tool that is told to end (Ctrl-C,
//! SIGTERM) takes what it started and mounted with it.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use tokio::signal::unix::{SignalKind, signal};

use crate::checkers::judge::Judgement;
use crate::failure::{Failure, Result};
use crate::say;

/// Does the work that the command line asks for; exits with 0, or with 1 when it cannot be done.
pub fn run<C, F>(work: impl FnOnce(C) -> F) -> ExitCode
where
    C: Parser,
    F: Future<Output = Result<()>>,
{
    match block_on(work(C::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Does the work that the command line asks for, without a runtime, and says how it exits; with 2 when
/// it cannot be done.
pub fn run_here<C: Parser>(work: impl FnOnce(C) -> Result<ExitCode>) -> ExitCode {
    work(C::parse()).unwrap_or_else(|why| {
        say(format!("error: {why}"));
        ExitCode::from(2)
    })
}

/// Does the work that the command line asks for; exits with 0 when what was seen is valid, with 1 when
/// a promise was broken, and with 2 when it cannot be said, also because the work cannot be done.
pub fn judge<C, F>(work: impl FnOnce(C) -> F) -> ExitCode
where
    C: Parser,
    F: Future<Output = Result<Judgement>>,
{
    let judgement = block_on(work(C::parse())).unwrap_or_else(|why| {
        say(format!("error: {why}\nverdict: unknown"));
        Judgement::Unknown
    });
    ExitCode::from(match judgement {
        Judgement::Valid => 0,
        Judgement::Invalid => 1,
        Judgement::Unknown | Judgement::NotAsked => 2,
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    // What tasks hold ends with the runtime, at the end of this.
    runtime.map_err(Failure::new)?.block_on(async {
        tokio::select! {
            done = work => done,
            told = told_to_end() => Err(Failure::new(told?)),
        }
    })
}

/// Waits until somebody wants this process to end; returns how it was said.
async fn told_to_end() -> Result<&'static str> {
    let mut asked = signal(SignalKind::interrupt())?;
    let mut told = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = asked.recv() => "interrupted",
        _ = told.recv() => "told to end",
    })
}

/// Writes the answer, and a line break, to standard output.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: impl std::fmt::Display) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
}

/// Reads an option that is a number within bounds.
pub fn number<T>(bounds: RangeInclusive<u64>) -> RangedU64ValueParser<T>
where
    T: TryFrom<u64> + Clone + Send + Sync,
{
    RangedU64ValueParser::new().range(bounds)
}

/// Reads an option that is a number of seconds within bounds.
pub fn seconds(bounds: RangeInclusive<u64>) -> impl TypedValueParser<Value = Duration> {
    number::<u64>(bounds).map(Duration::from_secs)
}
