//! What a flag decision costs in process: Pennon's client beside other engines and a floor.
//!
//! ```text
//!  store.rs    1,000 flags, 256 subjects: neutral descriptions, and what every answer must be
//!  lane.rs     one contestant: the trait, the timed loop, the check before anything is timed
//!  pennon.rs   node.rs   yggdrasil.rs   launchdarkly.rs   eppo.rs   floor.rs   the contestants
//!  rounds.rs   interleaved rounds and their medians
//!  loading.rs  threads.rs   snapshots and deltas; readers that share a client
//!  report.rs   the table, the JSON object, the goals
//! ```
//!
//! What must hold:
//! - everything timed runs in one process, interleaved round by round, and medians are shown;
//! - Pennon goes through the public API of a client that got its snapshot over its ordinary
//!   connection, by the real clock, with heartbeats coming in; its answers carry a version and are
//!   FRESH, or the run is aborted;
//! - an engine is called as its own SDK calls it, with the nearest equal configuration; where
//!   there are two ways, the cheaper one; what it cannot express is "n/a";
//! - every contestant is checked against the same expected decisions before it is timed, and the
//!   sum of what it answered in a timed pass against an untimed one: nothing wrong is timed;
//! - contexts are built beforehand, and what building one costs is shown beside;
//! - allocations are counted in a process of its own (`count_allocations`), because counting would
//!   make the engines that allocate slower than they are.
//!
//! Built with cargo's release profile and line tables, without LTO: what a user of the client gets.
//!
//! Left out: throughput of nodes and propagation (other benches), memory of the engines.

pub mod eppo;
pub mod floor;
pub mod lane;
pub mod launchdarkly;
pub mod loading;
pub mod node;
pub mod pennon;
pub mod report;
pub mod rounds;
pub mod store;
pub mod threads;
pub mod yggdrasil;

use pennon_client::Client;

/// Makes every contestant ready, the two of Pennon first and the floor last, and checks each.
///
/// # Errors
/// When one of them decides anything else than expected.
pub fn contestants(store: &store::Store, client: &Client) -> Result<Vec<Box<dyn lane::Lane>>> {
    let version = pennon::version_of(pennon::WRITTEN_AT)?;
    let wanted = pennon::Wanted {
        client: client.clone(),
        version,
    };
    let lanes = vec![
        lane::prepare(pennon::Read(wanted.clone()))?,
        lane::prepare(pennon::Evaluate(wanted))?,
        lane::prepare(yggdrasil::Yggdrasil::new(store)?)?,
        lane::prepare(launchdarkly::LaunchDarkly::new(store)?)?,
        lane::prepare(eppo::Eppo::new(store)?)?,
        lane::prepare(floor::Floor::new(store)?)?,
    ];
    lanes.iter().try_for_each(|lane| lane.check(store))?;
    pennon::consistent(client, store)?;
    Ok(lanes)
}

/// What stopped the bench, as a sentence.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// A result with such a sentence.
pub type Result<T> = std::result::Result<T, Failure>;
