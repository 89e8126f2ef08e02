//! What a person sees while a run goes on: a bar on a terminal, a line every ten seconds elsewhere.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use crate::nemesis::Tally;
use crate::say;

const BAR_LEN: usize = 30;
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far a run is.
pub(super) struct Screen {
    bar: bool,
    begin: Instant,
    length: Duration,
    last: Option<Instant>,
}

impl Screen {
    pub(super) fn new(length: Duration) -> Screen {
        Screen {
            bar: std::io::stderr().is_terminal(),
            begin: Instant::now(),
            length,
            last: None,
        }
    }

    pub(super) fn show(&mut self, operations: usize, tally: &Tally) {
        let at = self.begin.elapsed().min(self.length);
        let now: Vec<&str> = tally.now.values().copied().collect();
        let acted: u64 = tally.kinds.values().map(|(_, acted)| acted).sum();
        let text = format!(
            "{:>3}/{} s  {operations} operations  {acted} faults acted  now: {}",
            at.as_secs(),
            self.length.as_secs(),
            if now.is_empty() {
                "nothing".to_owned()
            } else {
                now.join(", ")
            },
        );
        if self.bar {
            let share = at.as_secs_f64() / self.length.as_secs_f64().max(1.0);
            let full = ((share * BAR_LEN as f64) as usize).min(BAR_LEN);
            let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR_LEN - full));
            let line: String = format!("{bar} {text}").chars().take(150).collect();
            // Nobody looks: nothing is lost.
            let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        } else if self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last = Some(Instant::now());
            say(text);
        }
    }

    /// Makes room for ordinary lines.
    pub(super) fn clear(&self) {
        if self.bar {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}
