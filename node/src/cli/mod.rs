//! The command line: one binary for the node, for a cluster on a laptop, and for people who look
//! at flags and change them.
//!
//! Here is the table of commands and nothing else. `serve` and `dev` run nodes; every other command
//! is a client of the HTTP surface, through `pennon-client`, and could be written by anybody. A
//! command returns a `Failure` instead of printing it, so that exit codes are chosen in one place.

mod audit;
mod backup;
mod cluster;
mod connection;
mod delivery;
mod dev;
mod dev_screen;
mod differ;
mod evaluate;
mod explain;
mod failure;
mod hints;
mod lists;
mod objects;
mod past;
mod place;
mod serve;
mod setting;
mod signals;
mod terminal;
mod trace;
mod values;
mod watch;
mod write;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::connection::ConnectionArgs;
use self::failure::{Exit, Failure};

/// How long threads that still work may take once everything else has ended.
const THREADS_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
#[command(
    name = "pennon",
    version,
    about = "Feature flags and A/B tests, replicated by their own store",
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Examples:
  pennon dev                                     a cluster of three with sample flags
  pennon flag list --env production              every flag, and whether it is on
  pennon flag disable checkout.new-ui --env production --ack delivered
  pennon eval checkout.new-ui --env production --subject user-42 --attr country=DE
  pennon explain checkout.new-ui --env production --subject user-42
  pennon cluster status
  pennon backup flags.backup                     everything, at one version

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 version conflict, 5 no leader or unreachable,
6 denied, 7 check failed, 8 staler than asked for, 9 outcome unknown, 124 timeout."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster
    Serve(serve::ServeCommand),
    /// Run a whole cluster in this process, with sample flags
    Dev(dev::DevCommand),
    /// Flags: what they are, and switching them on and off
    #[command(subcommand)]
    Flag(objects::FlagCommand),
    /// Targeting policies: what a flag does in one environment
    #[command(subcommand)]
    Policy(objects::PolicyCommand),
    /// Segments: named groups of subjects in one environment
    #[command(subcommand)]
    Segment(objects::SegmentCommand),
    /// Environments
    #[command(subcommand)]
    Env(objects::EnvCommand),
    /// Applications: which flags a program needs, by their tags
    #[command(subcommand)]
    App(objects::AppCommand),
    /// Settings of the cluster, such as its limits
    #[command(subcommand)]
    Setting(setting::SettingCommand),
    /// Make several changes at once, all or nothing
    Change(write::ChangeCommand),
    /// Show who changed what, when and why, over all objects
    Audit(audit::AuditCommand),
    /// Evaluate a flag for a subject
    Eval(evaluate::EvalCommand),
    /// Evaluate a flag for a subject and show how that was decided
    Explain(explain::ExplainCommand),
    /// Show how an environment or a flag is: who has its last change, and who lags behind
    Status(delivery::StatusCommand),
    /// Follow the changes in an environment
    Watch(watch::WatchCommand),
    /// The cluster itself
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Save everything, with its history, to a file; or check such a file
    Backup(backup::BackupCommand),
    /// Bring the flags of a backup back into a running cluster, as one change
    Restore(backup::RestoreCommand),
    /// Begin a new cluster from a backup, or from what one node of a lost cluster has left
    Recover(backup::RecoverCommand),
}

/// The table of commands, without the options of a connection in the help of those that have none.
fn command() -> clap::Command {
    let command = Cli::command();
    let global = command
        .get_arguments()
        .filter(|argument| argument.is_global_set());
    let hidden: Vec<Arg> = global.map(|argument| argument.clone().hide(true)).collect();
    let without = |command: clap::Command| command.args(hidden.clone());
    command
        .mut_subcommand("serve", without)
        .mut_subcommand("dev", without)
        .mut_subcommand("recover", |command| {
            command.args(
                hidden
                    .iter()
                    .filter(|argument| argument.get_id() != "output")
                    .cloned(),
            )
        })
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when this cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let terminal = cli.connection.terminal();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let is_node = matches!(cli.command, Command::Serve(_) | Command::Dev(_));
    let mut runtime = match is_node {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    if is_node {
        runtime.worker_threads(workers());
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|why| Failure::new(Exit::Failure, format!("the runtime does not start: {why}")))?;
    let result = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(THREADS_GRACE);
    result
}

/// Half of the cores. The log and the history have threads of their own, and what travels between two
/// workers costs a wake-up each time: with two workers on two cores a linearizable read took half as
/// long again as with one.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let connection = &cli.connection;
    match cli.command {
        Command::Serve(command) => serve::run(command).await,
        Command::Dev(command) => dev::run(command, connection.terminal()).await,
        Command::Flag(command) => objects::flag(command, connection.asking()?).await,
        Command::Policy(command) => objects::policy(command, connection.asking()?).await,
        Command::Segment(command) => objects::segment(command, connection.asking()?).await,
        Command::Env(command) => objects::environment(command, connection.asking()?).await,
        Command::App(command) => objects::application(command, connection.asking()?).await,
        Command::Setting(command) => setting::run(command, connection.asking()?).await,
        Command::Change(command) => write::change(command, connection.asking()?).await,
        Command::Audit(command) => command.run(connection.asking()?).await,
        Command::Eval(command) => evaluate::run(command, connection.asking()?).await,
        Command::Explain(command) => explain::run(command, connection.asking()?).await,
        Command::Status(command) => delivery::status(command, connection.asking()?).await,
        Command::Watch(command) => watch::run(command, connection.asking()?).await,
        Command::Cluster(command) => cluster::run(command, connection.asking()?).await,
        Command::Backup(command) => backup::backup(command, connection.asking()?).await,
        Command::Restore(command) => backup::restore(command, connection.asking()?).await,
        Command::Recover(command) => backup::recover(command, &connection.terminal()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_commands_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_node_shows_no_options_of_a_connection_and_a_client_does() {
        let help = |name: &str| {
            let refused = command()
                .try_get_matches_from(["pennon", name, "--help"])
                .unwrap_err();
            refused.to_string()
        };
        assert!(!help("serve").contains("--token") && !help("dev").contains("--url"));
        assert!(help("eval").contains("--url") && help("serve").contains("--peer-listen"));
    }

    #[test]
    fn options_of_the_connection_may_stand_anywhere() {
        for line in [
            "pennon --url a:1,b:2 flag get x -o json",
            "pennon flag get x --url a:1,b:2 -o json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(
                cli.connection.asking().unwrap().urls,
                ["http://a:1", "http://b:2"]
            );
        }
    }
}
