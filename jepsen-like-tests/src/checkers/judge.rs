//! All verdicts on one history.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a run has to show for its verdict; less is unknown. A promise of which nothing is demanded
/// and nothing was seen is not judged; where something was seen, it is judged all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demand {
    /// Acknowledged writes of registers.
    pub writes_min: usize,
    /// Answered reads of registers.
    pub reads_min: usize,
    /// Refused writes of registers.
    pub conflicts_min: usize,
    /// Requests that were sent more than once.
    pub retries_min: usize,
    /// Committed change sets.
    pub change_sets_min: usize,
    /// Reads of what change sets wrote.
    pub read_sets_min: usize,
    /// States compiled anew and compared with what a node served.
    pub recomputed_min: usize,
    /// Snapshots, deltas and heartbeats on streams.
    pub stream_items_min: usize,
    /// Streams that went on from a version.
    pub resumes_min: usize,
    /// Rises of the version between two evaluations of one client.
    pub rises_min: usize,
    /// Evaluations called FRESH.
    pub fresh_min: usize,
    /// Evaluations that were not.
    pub stale_min: usize,
    /// Evaluations of one (flag, subject, version) by more than one client.
    pub shared_evaluations_min: usize,
    /// The staleness bound in milliseconds; 0 is not known, and then freshness is unknown.
    pub bound_ms: u64,
    /// Whether writes must have resumed after every death of a leader, and the cluster converged
    /// after everything was healed.
    pub liveness: bool,
    /// Registers whose end is compared with what was acknowledged.
    pub finals_min: usize,
    /// Kinds of faults that must each have acted.
    pub faults: BTreeSet<String>,
}
