//! Judges a history again: `check FILE [--html OUT]`.
//!
//! Prints a line for each checker and the whole verdict. The exit code is 0 for valid, 1 for INVALID,
//! and 2 for unknown, a file that is no history, or a wrong call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jepsen_like_tests::checkers::judge::{Judgement, judge};
use jepsen_like_tests::history::History;
use jepsen_like_tests::{report, say};

const USAGE: &str = "usage: check FILE [--html OUT]
Judges a history that a run wrote (history.jsonl), by what the run was to show.
Exit code: 0 valid, 1 INVALID, 2 unknown or unusable.";

/// What the command line asks for.
struct Asked {
    file: PathBuf,
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|one| one == "--help" || one == "-h") {
        return match print(USAGE) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        };
    }
    let outcome = asked(&arguments).and_then(|asked| run(&asked));
    match outcome {
        Ok(Judgement::Valid) => ExitCode::SUCCESS,
        Ok(Judgement::Invalid) => ExitCode::FAILURE,
        Ok(Judgement::Unknown | Judgement::NotAsked) => ExitCode::from(2),
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::from(2)
        }
    }
}

fn asked(arguments: &[String]) -> Result<Asked, String> {
    let (mut file, mut html) = (None, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--html" => {
                let out = rest.next().ok_or("--html needs the file to write")?;
                html = Some(PathBuf::from(out));
            }
            other if other.starts_with('-') => {
                return Err(format!("there is no option {other}\n{USAGE}"));
            }
            other if file.is_none() => file = Some(PathBuf::from(other)),
            other => {
                return Err(format!(
                    "one history at a time, not {other} as well\n{USAGE}"
                ));
            }
        }
    }
    let file = file.ok_or_else(|| format!("which history?\n{USAGE}"))?;
    Ok(Asked { file, html })
}

fn run(asked: &Asked) -> Result<Judgement, String> {
    let named = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let history = History::read(&asked.file).map_err(|why| named(&asked.file, &why))?;
    let found = judge(&history);
    let header = &history.header;
    let (seed, nodes, events) = (header.seed, header.nodes.len(), history.events.len());
    print(&format!(
        "seed {seed}, {nodes} nodes, {events} events\n{found}"
    ))
    .map_err(|why| why.to_string())?;
    if let Some(html) = &asked.html {
        let page = report::html(&history, &found);
        std::fs::write(html, page).map_err(|why| named(html, &why))?;
    }
    Ok(found.overall)
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
}
