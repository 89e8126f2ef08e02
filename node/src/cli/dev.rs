//! `pennon dev`: a whole cluster in one process, for a laptop.
//!
//! The nodes are real: each has its own ports and directory, and they speak TCP with each other.
//! What must hold: everything is kept between two runs; the sample flags are written once, when
//! the cluster is new, through the same API that everybody uses; a cluster is only ever started
//! again with the number of nodes and the ports it was made with, because its members know each
//! other by them (`DIR/dev.toml`).
//!
//! Left out: what is printed (`dev_screen.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::{join_all, select_all};
use pennon_client::TcpConnector;
use pennon_client::admin::Admin;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;

use super::connection::Asking;
use super::dev_screen;
use super::failure::{Exit, Failure};
use super::serve;
use super::signals::Signals;
use super::terminal::{Terminal, counted};
use crate::net::TcpConnect;
use crate::server::{Node, NodeOptions};

/// Nodes of a dev cluster at most.
const NODES_MAX: u16 = 9;

/// What is in the sample, as one change set.
const SAMPLE: &str = include_str!("sample.json");

/// Longest wait for a leader.
const READY_MAX: Duration = Duration::from_secs(30);

/// The file that says how the cluster was made.
const MADE: &str = "dev.toml";

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon dev                                     three nodes, http://127.0.0.1:7400 to 7402
  pennon dev --nodes 1 --no-sample --data /tmp/p one empty node
  rm -r ./pennon-dev                             forget everything")]
pub(crate) struct DevCommand {
    /// How many nodes [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=NODES_MAX as i64))]
    nodes: Option<u16>,

    /// Directory for everything; kept between runs
    #[arg(long, value_name = "DIR", default_value = "./pennon-dev")]
    data: PathBuf,

    /// API port of the first node, the others follow [default: 7400]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Peer port of the first node, the others follow [default: 7500]
    #[arg(long, value_name = "PORT")]
    peer_port: Option<u16>,

    /// Start with no flags at all
    #[arg(long)]
    no_sample: bool,

    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(
        long,
        env = "PENNON_LOG",
        value_name = "LEVEL",
        default_value = "error"
    )]
    log: String,
}

/// How a dev cluster was made; it stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Made {
    nodes: u16,
    port: u16,
    peer_port: u16,
}

impl Made {
    fn read(data: &Path) -> Result<Option<Made>, Failure> {
        let file = data.join(MADE);
        let unusable = |why: String| {
            Failure::new(Exit::Failure, format!("{} cannot be used: {why}", file.display()))
                .hint("It says how many nodes this cluster has and their ports. Give --data another directory.")
        };
        match std::fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text)
                .map(Some)
                .map_err(|why| unusable(why.to_string())),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(unusable(why.to_string())),
        }
    }

    fn write(self, data: &Path) -> Result<(), Failure> {
        let text = format!(
            "# How this cluster was made by `pennon dev`. Its members know each other by these ports.\n\
             nodes = {}\nport = {}\npeer-port = {}\n",
            self.nodes, self.port, self.peer_port
        );
        let written =
            std::fs::create_dir_all(data).and_then(|()| std::fs::write(data.join(MADE), text));
        written.map_err(|why| {
            Failure::new(
                Exit::Failure,
                format!("cannot use the data directory {}: {why}", data.display()),
            )
            .hint("Give --data a directory that this user may write to.")
        })
    }

    /// What is asked for now, unless it differs from how the cluster was made.
    fn decide(command: &DevCommand, made: Option<Made>) -> Result<Made, Failure> {
        let base = made.unwrap_or(Made {
            nodes: 3,
            port: 7400,
            peer_port: 7500,
        });
        let asked = Made {
            nodes: command.nodes.unwrap_or(base.nodes),
            port: command.port.unwrap_or(base.port),
            peer_port: command.peer_port.unwrap_or(base.peer_port),
        };
        if let Some(made) = made.filter(|made| *made != asked) {
            return Err(Failure::new(
                Exit::Failure,
                format!(
                    "the cluster in {} was made with --nodes {} --port {} --peer-port {}, and its members know each other so",
                    command.data.display(),
                    made.nodes,
                    made.port,
                    made.peer_port
                ),
            )
            .hint("Leave these options out to start it again, or give --data another directory for another cluster."));
        }
        let (first, second) = (
            asked.port.min(asked.peer_port),
            asked.port.max(asked.peer_port),
        );
        let fits = first > 0 && second.checked_add(asked.nodes).is_some();
        if !fits || second - first < asked.nodes {
            return Err(Failure::usage(format!(
                "--port {} and --peer-port {} leave no room for {} ports each",
                asked.port, asked.peer_port, asked.nodes
            )));
        }
        Ok(asked)
    }
}

/// Runs the cluster until a signal ends it.
pub(crate) async fn run(command: DevCommand, terminal: Terminal) -> Result<(), Failure> {
    let made = Made::decide(&command, Made::read(&command.data)?)?;
    serve::start_logging(&command.log)?;
    let mut signals = Signals::take()?;
    let listeners = listen(made).await?;
    made.write(&command.data)?;
    let urls: Vec<String> = listeners
        .iter()
        .map(|(api, _)| format!("http://{}", serve::address(api)))
        .collect();
    let nodes = start(&command.data, listeners).await?;
    terminal.note(format!("starting {} …", counted(nodes.len(), "node")));
    let life = async {
        tokio::select! {
            why = failed(&nodes) => Failure::new(Exit::Failure, why),
            // A cluster that is ready lives until a signal or a failure.
            shown = show(&command, &nodes, &urls, terminal) => match shown {
                Ok(()) => Failure::new(Exit::Failure, failed(&nodes).await),
                Err(failure) => failure,
            },
        }
    };
    let failure = tokio::select! {
        _ = signals.next() => None,
        failure = life => Some(failure),
    };
    terminal.note(format!(
        "stopping; everything stays in {} …",
        command.data.display()
    ));
    let end = async {
        join_all(nodes.into_iter().map(Node::shutdown)).await;
    };
    signals.unless_impatient(end).await?;
    failure.map_or(Ok(()), Err)
}

/// Opens all ports, or none.
async fn listen(made: Made) -> Result<Vec<(TcpListener, TcpListener)>, Failure> {
    let mut listeners = Vec::new();
    for n in 0..made.nodes {
        let api = serve::listen("--port", &format!("127.0.0.1:{}", made.port + n), false).await?;
        let peer = serve::listen(
            "--peer-port",
            &format!("127.0.0.1:{}", made.peer_port + n),
            false,
        )
        .await?;
        listeners.push((api, peer));
    }
    Ok(listeners)
}

async fn start(
    data: &Path,
    listeners: Vec<(TcpListener, TcpListener)>,
) -> Result<Vec<Node>, Failure> {
    let join: Vec<String> = listeners
        .iter()
        .map(|(_, peer)| serve::address(peer))
        .collect();
    let mut nodes = Vec::new();
    for (n, (api, peer)) in listeners.into_iter().enumerate() {
        let name = format!("n{}", n + 1);
        let expect = u32::try_from(join.len()).unwrap_or(u32::MAX);
        let options = NodeOptions {
            join: join.clone(),
            expect,
            ..NodeOptions::single(&name)
        };
        match serve::start(options, data.join(&name), TcpConnect::default(), api, peer).await {
            Ok(node) => nodes.push(node),
            Err(failure) => {
                join_all(nodes.into_iter().map(Node::shutdown)).await;
                return Err(failure);
            }
        }
    }
    Ok(nodes)
}

/// Waits until a node fails by itself and says which.
async fn failed(nodes: &[Node]) -> String {
    let each = nodes
        .iter()
        .enumerate()
        .map(|(n, node)| Box::pin(async move { (n, node.failed().await) }));
    let ((n, why), _, _) = select_all(each).await;
    format!("node n{} stopped: {why}", n + 1)
}

/// Waits for a leader, writes the sample if the cluster is new, and prints what there is.
async fn show(
    command: &DevCommand,
    nodes: &[Node],
    urls: &[String],
    terminal: Terminal,
) -> Result<(), Failure> {
    let all = join_all(nodes.iter().map(|node| async {
        let core = node.core().await;
        core.proved(READY_MAX).await.is_ok()
    }));
    let ready = tokio::time::timeout(READY_MAX, all)
        .await
        .unwrap_or_default();
    if ready.is_empty() || ready.contains(&false) {
        let waits = nodes
            .first()
            .map(|node| node.app().waits_for())
            .unwrap_or_default();
        return Err(Failure::new(
            Exit::Failure,
            format!("the cluster has no leader after {READY_MAX:?}: {waits}"),
        )
        .hint("Run it again with --log info to see why."));
    }
    let admin = Admin::new(urls, None, Arc::new(TcpConnector))?.with_timeout(READY_MAX);
    let asking = Asking {
        admin,
        terminal,
        urls: urls.to_vec(),
        token: None,
        timeout: READY_MAX,
    };
    let is_new = super::lists::read_list(&asking, "/v1/environments")
        .await?
        .0
        .is_empty()
        && super::lists::read_list(&asking, "/v1/flags")
            .await?
            .0
            .is_empty();
    let sampled = is_new && !command.no_sample;
    if sampled {
        let sample: Value = serde_json::from_str(SAMPLE)
            .map_err(|why| Failure::new(Exit::Failure, format!("the sample is not JSON: {why}")))?;
        super::write::change_set(&asking, &sample, "sample of pennon dev").await?;
    }
    let screen = dev_screen::screen(&asking, &command.data, sampled).await?;
    terminal.line(screen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(nodes: Option<u16>, port: Option<u16>) -> DevCommand {
        DevCommand {
            nodes,
            data: "d".into(),
            port,
            peer_port: None,
            no_sample: false,
            log: "off".into(),
        }
    }

    #[test]
    fn a_cluster_stays_as_it_was_made() {
        let made = Made {
            nodes: 5,
            port: 8000,
            peer_port: 8100,
        };
        assert_eq!(
            Made::decide(&command(None, None), Some(made)).unwrap(),
            made
        );
        assert_eq!(
            Made::decide(&command(Some(5), Some(8000)), Some(made)).unwrap(),
            made
        );
        let refusal = Made::decide(&command(Some(3), None), Some(made)).unwrap_err();
        assert!(refusal.text().contains("--nodes 5"), "{}", refusal.text());
        assert_eq!(
            Made::decide(&command(None, None), None).unwrap(),
            Made {
                nodes: 3,
                port: 7400,
                peer_port: 7500
            }
        );
    }

    #[test]
    fn ports_that_overlap_are_refused() {
        for port in [7498, 7500, 7502, 65535, 0] {
            assert_eq!(
                Made::decide(&command(Some(3), Some(port)), None)
                    .unwrap_err()
                    .code(),
                2,
                "{port}"
            );
        }
        assert!(Made::decide(&command(Some(3), Some(7497)), None).is_ok());
    }

    #[test]
    fn the_sample_is_sound() {
        let sample: Vec<Value> = serde_json::from_str(SAMPLE).unwrap();
        let of = |kind: &'static str| sample.iter().filter(move |change| change["kind"] == kind);
        assert!(of("flag").count() >= 8);
        assert_eq!(of("policy").count(), 2 * of("flag").count());
        for flag in of("flag") {
            let key = flag["key"].as_str().unwrap().parse().unwrap();
            let config = pennon_evaluator::FlagConfig::parse(&key, &flag["value"].to_string());
            assert!(config.is_ok(), "{key}: {config:?}");
        }
        for policy in of("policy") {
            let parsed = pennon_evaluator::TargetingPolicy::parse(&policy["value"].to_string());
            assert!(parsed.is_ok(), "{}: {parsed:?}", policy["key"]);
        }
        // A newcomer finds an experiment in a layer with a holdout, and a comparison of dates.
        let has = |pointer: &str| of("policy").any(|policy| policy.pointer(pointer).is_some());
        let experiment = "/value/rules/0/serve/rollout/experiment";
        assert!(has(&format!("{experiment}/layer/range")) && has(&format!("{experiment}/holdout")));
        assert!(SAMPLE.contains("\"op\":\"before\""));
    }
}
