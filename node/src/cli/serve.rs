//! `pennon serve`: one node of a cluster, from the command line to the last request.
//!
//! Order: settings; both listeners, so that a port in use is found before the directory is touched;
//! the node; then one line when it serves, and until then a line about what it waits for. A signal
//! drains; a node that fails by itself says why and the process exits 1.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pennon_raft_store::raft::RaftOptions;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::terminal::may_colour;
use crate::broken::{Broken, VARIABLE};
use crate::clock::SystemClock;
use crate::net::{self, TcpConnect};
use crate::server::{Node, NodeOptions, Storage, Surroundings};
use crate::settings::{Given, Settings, SettingsError};

/// Between two lines about what is still waited for.
const STILL_WAITING: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon serve                                   a single node on this machine
  pennon serve --name n1 --data /var/lib/pennon --insecure \\
      --listen 10.0.0.1:7400 --peer-listen 10.0.0.1:7500 \\
      --join 10.0.0.1:7500,10.0.0.2:7500,10.0.0.3:7500 --expect 3
                                                 one of three; start all with the same --join
  pennon serve --config /etc/pennon.toml         every option by its name: peer-listen = \"…\"

Flags win over the environment, the environment over the file. The first SIGINT or SIGTERM lets
open requests finish, a second one does not.")]
pub(crate) struct ServeCommand {
    /// File with settings (TOML), by the names of the options below
    #[arg(long, env = "PENNON_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    given: Given,
}

/// Runs a node until a signal ends it.
pub(crate) async fn run(command: ServeCommand) -> Result<(), Failure> {
    let file = command.config.as_deref().map(Given::read).transpose()?;
    let settings = command.given.or(file.unwrap_or_default()).resolve()?;
    let broken = broken()?;
    start_logging(&settings.log)?;
    if let Some(broken) = broken {
        tracing::warn!("{VARIABLE}={broken}: this node breaks a promise on purpose");
    }
    let mut signals = Signals::take()?;
    let api = listen("--listen", &settings.listen, settings.insecure).await?;
    let peer = listen("--peer-listen", &settings.peer_listen, settings.insecure).await?;
    let urls = format!("API http://{}, peers {}", address(&api), address(&peer));
    let options = NodeOptions {
        advertise_api: settings.advertise.clone(),
        advertise_peer: settings.peer_advertise.clone(),
        join: settings.join.clone(),
        expect: settings.expect,
        learner: settings.learner,
        min_free: settings.min_free,
        raft: RaftOptions {
            snapshot_every: settings.snapshot_every,
            keep_behind_snapshot: settings.snapshot_every,
            ..RaftOptions::default()
        },
        broken,
        ..NodeOptions::single(&settings.name)
    };
    let connect = TcpConnect::via(settings.peer_via.clone());
    let node = start(options, settings.data.clone(), connect, api, peer).await?;
    tracing::info!(
        "{} listens: {urls}; data in {}",
        settings.name,
        settings.data.display()
    );
    tokio::select! {
        name = signals.next() => {
            tracing::info!("{name}: finishing open requests; once more to stop at once");
            signals.unless_impatient(node.shutdown()).await?;
            tracing::info!("{} stopped", settings.name);
            Ok(())
        }
        why = lead(&node, &settings, &urls) => {
            // A second signal may cut the end short; the reason stays the same.
            let _ = signals.unless_impatient(node.shutdown()).await;
            Err(Failure::new(Exit::Failure, format!("node {} stopped: {why}", settings.name)))
        }
    }
}

/// What the environment asks to be broken; a release build refuses (I1, I9).
fn broken() -> Result<Option<Broken>, Failure> {
    let asked = std::env::var_os(VARIABLE).map(|asked| asked.to_string_lossy().into_owned());
    Broken::read(asked.as_deref(), cfg!(debug_assertions))
        .map_err(|why| Failure::usage(why).hint(format!("Start it without {VARIABLE}.")))
}

/// Says what is waited for, then that the node serves; returns why when it fails.
async fn lead(node: &Node, settings: &Settings, urls: &str) -> String {
    tokio::select! {
        why = node.failed() => return why,
        () = announce(node, &settings.name, urls) => {}
    }
    node.failed().await
}

async fn announce(node: &Node, name: &str, urls: &str) {
    let ready = async {
        let core = node.core().await;
        while core.proved(Duration::from_secs(3600)).await.is_err() {}
        core
    };
    tokio::pin!(ready);
    // The node logs by itself what is new; what goes on for long is said again.
    let core = loop {
        match tokio::time::timeout(STILL_WAITING, &mut ready).await {
            Ok(core) => break core,
            Err(_) => tracing::info!("still waiting: {}", node.app().waits_for()),
        }
    };
    let (cluster, role) = (core.cluster(), core.status().role);
    tracing::info!(
        "{name} is ready: {} of cluster {cluster}, version {}; {urls}",
        role.as_str(),
        core.view().version()
    );
}

/// Starts a node on a directory, over TCP, with randomness of the system.
pub(crate) async fn start(
    options: NodeOptions,
    data: PathBuf,
    connect: TcpConnect,
    api: TcpListener,
    peer: TcpListener,
) -> Result<Node, Failure> {
    let mut random: StdRng = rand::make_rng();
    let surroundings = Surroundings {
        storage: Storage::Directory(data),
        clock: Arc::new(SystemClock),
        connect: Arc::new(connect),
        seed: random.random(),
        api: Box::new(api),
        peer: Box::new(peer),
    };
    let name = options.name.clone();
    let started = Node::start(options, surroundings).await;
    started.map_err(|why| Failure::new(Exit::Failure, format!("node {name} does not start: {why}")))
}

/// Opens a listener, or says in one sentence why not.
pub(crate) async fn listen(
    option: &str,
    address: &str,
    insecure: bool,
) -> Result<TcpListener, Failure> {
    let resolved: Vec<SocketAddr> = match tokio::net::lookup_host(address).await {
        Ok(resolved) => resolved.collect(),
        Err(why) => return Err(Failure::usage(format!("{option} {address}: {why}"))),
    };
    if !insecure
        && let Some(open) = resolved
            .iter()
            .find(|resolved| !resolved.ip().is_loopback())
    {
        return Err(Failure::usage(format!(
            "{option} {address} can be reached from other machines ({}), and this release has no tokens yet: \
             whoever reaches it may read and change every flag",
            open.ip()
        ))
        .hint("Listen on 127.0.0.1, or say --insecure if the network itself keeps strangers out."));
    }
    net::listen(&resolved).map_err(|why| cannot_listen(option, address, &why))
}

fn cannot_listen(option: &str, address: &str, why: &io::Error) -> Failure {
    let port = address.rsplit(':').next().unwrap_or_default();
    match why.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            Exit::Failure,
            format!("{address} is in use by another process; nothing was changed"),
        )
        .hint(format!(
            "See which one with: ss -ltnp 'sport = :{port}'   (or: lsof -i :{port})"
        ))
        .hint(format!("Choose another address with {option}.")),
        io::ErrorKind::AddrNotAvailable => Failure::new(
            Exit::Failure,
            format!("this machine does not have the address of {address}"),
        )
        .hint(format!(
            "Choose one it has with {option}; ip addr lists them."
        )),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Failure,
            format!("this user may not listen on {address}: {why}"),
        )
        .hint(format!("Choose a port from 1024 on with {option}.")),
        _ => Failure::new(
            Exit::Failure,
            format!("cannot listen on {address} ({option}): {why}"),
        ),
    }
}

/// Where a listener really is; differs from what was asked for with port 0.
pub(crate) fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|_| "?".to_owned(), |address| address.to_string())
}

/// Sends log lines to stderr. A bare level is about Pennon's own; libraries then only warn.
pub(crate) fn start_logging(log: &str) -> Result<(), Failure> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let filter = match levels.contains(&log.to_ascii_lowercase().as_str()) {
        true => format!("error,pennon={log}"),
        false => log.to_owned(),
    };
    let filter = EnvFilter::builder().parse(&filter).map_err(|why| {
        Failure::usage(format!(
            "--log {log:?} is neither one of {} nor a filter: {why}",
            levels.join(", ")
        ))
    })?;
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && may_colour();
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let set = logging.with_ansi(colour).with_target(false).try_init();
    set.map_err(|why| Failure::new(Exit::Failure, format!("logging does not start: {why}")))
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        Failure::usage(error.to_string())
    }
}
