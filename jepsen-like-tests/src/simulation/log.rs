//! What the nodes log, with the time of the simulation and the name of the machine; and a word when
//! that time stands still.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// True time of the world that runs in this process.
pub(crate) static NOW_MS: AtomicU64 = AtomicU64::new(0);

/// A task that never waits keeps the time of the simulation from moving; then the process ends.
const STANDS_STILL: Duration = Duration::from_secs(30);

/// Ends this process when the time of the simulation stands still.
pub(crate) fn watch_over() {
    std::thread::spawn(|| {
        let mut last = NOW_MS.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(STANDS_STILL);
            let now = NOW_MS.load(Ordering::Relaxed);
            if now == last {
                crate::say(format!("time stands still at {now} ms: a task never waits"));
                std::process::abort();
            }
            last = now;
        }
    });
}

struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:>7}", NOW_MS.load(Ordering::Relaxed))
    }
}

/// Prints what nodes and clients log to standard error, as far as a filter lets it through.
pub fn log_to(filter: &str) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(Simulated)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .finish();
    // A second call changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
