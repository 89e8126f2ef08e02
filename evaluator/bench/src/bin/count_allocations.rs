//! Counts what the contestants allocate for a decision and for a context, and what a loaded
//! snapshot keeps. `pennon-bench-evaluator` runs this and puts the figures into its report.
//!
//! What must hold: only the thread that decides is counted, after a lap that is not, so that what a
//! library sets up once does not count. It is a process of its own because whoever links the
//! counter gets its allocator, which would slow down those that allocate.
//!
//! Prints one JSON object: `allocations` by workload and contestant, `contexts` by contestant, both
//! for one operation, and `heap_per_flag` in bytes by number of flags.

use std::io::Write as _;
use std::process::ExitCode;

use allocation_counter::measure;
use pennon_bench_evaluator::node::Node;
use pennon_bench_evaluator::store::{FLAGS, Plan, SEGMENTS, SUBJECTS, Store, Workload};
use pennon_bench_evaluator::{Result, contestants, loading, pennon};
use serde_json::{Map, Value, json};

/// Numbers of flags in the snapshots whose memory is counted.
const LOADED: [usize; 2] = [1_000, 10_000];

fn main() -> ExitCode {
    let mut output = std::io::stdout();
    let shown = match counted() {
        Ok(counted) => writeln!(output, "{counted}"),
        Err(why) => {
            writeln!(std::io::stderr(), "error: {why}").and(Err(std::io::ErrorKind::Other.into()))
        }
    };
    if shown.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn counted() -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let store = Store::new(FLAGS, &SEGMENTS);
    let node = Node::new(pennon::compile(&store)?);
    let client = runtime.block_on(pennon::connect(node))?;
    let lanes = contestants(&store, &client)?;
    let mut allocations = Map::new();
    for workload in Workload::ALL {
        let plan = Plan::new(&store, workload);
        let able = lanes.iter().filter(|lane| lane.can(workload));
        let counts = able.map(|lane| {
            lane.run(&plan, 1);
            let counted = measure(|| {
                lane.run(&plan, 1);
            });
            (
                lane.name().to_owned(),
                per(counted.count_total, plan.steps.len()),
            )
        });
        allocations.insert(workload.name().to_owned(), Value::Object(counts.collect()));
    }
    let contexts = lanes.iter().map(|lane| {
        let counted = measure(|| {
            lane.contexts(SUBJECTS);
        });
        (lane.name().to_owned(), per(counted.count_total, SUBJECTS))
    });
    let contexts: Map<String, Value> = contexts.collect();
    let mut heap = Map::new();
    for flags in LOADED {
        heap.insert(flags.to_string(), per(live_bytes(flags)?, flags));
    }
    pennon::healthy(&client)?;
    Ok(json!({"allocations": allocations, "contexts": contexts, "heap_per_flag": heap}))
}

/// What a snapshot with so many flags keeps allocated once it is ready, segments included.
fn live_bytes(flags: usize) -> Result<u64> {
    let frame = loading::frame(flags)?;
    let mut kept = None;
    let counted = measure(|| kept = Some(loading::received(&frame)));
    kept.transpose()?;
    Ok(u64::try_from(counted.bytes_current)?)
}

fn per(count: u64, of: usize) -> Value {
    json!((count as f64 / of as f64 * 1_000.0).round() / 1_000.0)
}
