//! Collects events of all clients, in memory and, if wanted, in a file while the run goes on.
//!
//! What must hold: an event that was added is with the kernel when `add` returns (one `write` a
//! line, nothing waits in this process), so a panic or a kill loses none; a file that could not be
//! written is an error at the end, never a shorter history.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pennon_client::{BootClock, Clock};
use tokio::time::Instant;

use super::event::{Event, Request};
use super::file::{End, Header, History, Last};
use super::register::Operation;

/// Collects what happened. Clones share everything.
#[derive(Clone)]
pub struct Recorder {
    times: Times,
    /// The same moment on the clock that other processes share.
    boot: Duration,
    kept: Arc<Mutex<Kept>>,
}

/// Where times come from.
#[derive(Clone)]
enum Times {
    /// tokio's clock, from here.
    Since(Instant),
    /// What the caller says.
    Given(Arc<dyn Fn() -> Duration + Send + Sync>),
}

#[derive(Default)]
struct Kept {
    operations: Vec<Operation>,
    /// Everything, unless it goes to a file.
    events: Vec<Event>,
    count: u64,
    file: Option<File>,
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder of {} events", self.kept().count)
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new(Times::Since(Instant::now()))
    }
}

impl Recorder {
    fn new(times: Times) -> Recorder {
        Recorder {
            times,
            boot: BootClock.now(),
            kept: Arc::default(),
        }
    }

    /// Makes a recorder in memory whose times are what a function says: for simulations in which
    /// each machine has a clock of its own.
    pub fn with_times(times: impl Fn() -> Duration + Send + Sync + 'static) -> Recorder {
        Recorder::new(Times::Given(Arc::new(times)))
    }

    /// From now on writes every event to a file, behind this header, instead of keeping it;
    /// operations on registers are kept as well. Call it before anything is added.
    ///
    /// # Errors
    /// When the file exists already or cannot be made.
    pub fn to_file(self, path: &Path, header: &Header) -> io::Result<Recorder> {
        let mut file = File::create_new(path)?;
        file.write_all(&line(header)?)?;
        self.kept().file = Some(file);
        Ok(self)
    }

    /// Now, in nanoseconds since this recorder was made.
    pub fn now(&self) -> u64 {
        let now = match &self.times {
            Times::Since(begin) => begin.elapsed(),
            Times::Given(times) => times(),
        };
        nanos(now)
    }

    /// When something was that another process of this machine dated with [`BootClock`]; 0 if it
    /// was before this recorder was made. Not for recorders under a paused clock.
    pub fn at(&self, boot: Duration) -> u64 {
        nanos(boot.saturating_sub(self.boot))
    }

    /// Adds an operation of which only the outcome is known.
    pub fn add(&self, operation: Operation) {
        self.add_request(Request {
            operation,
            request: None,
            attempts: Vec::new(),
        });
    }

    /// Adds an operation with its request id and attempts.
    pub fn add_request(&self, request: Request) {
        self.add_event(Event::Operation(request));
    }

    /// Adds any event.
    pub fn add_event(&self, event: Event) {
        let mut kept = self.kept();
        kept.count += 1;
        if kept.file.is_some() {
            let written = line(&event).and_then(|line| kept.write(&line));
            kept.note(written);
            if let Event::Operation(request) = event {
                kept.operations.push(request.operation);
            }
            return;
        }
        if let Event::Operation(request) = &event {
            kept.operations.push(request.operation.clone());
        }
        kept.events.push(event);
    }

    /// Every operation so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.kept().operations.clone()
    }

    /// How many operations there are so far for which something holds.
    pub fn count(&self, holds: impl Fn(&Operation) -> bool) -> usize {
        let kept = self.kept();
        kept.operations.iter().filter(|one| holds(one)).count()
    }

    /// Ends the file: its last line says that the run got to its end, and everything is synced. What
    /// is added later has no place. Does nothing in memory.
    ///
    /// # Errors
    /// When this or any event before could not be written.
    pub fn close(&self) -> io::Result<()> {
        let at = self.now();
        let mut kept = self.kept();
        if let Some(why) = &kept.failed {
            return Err(io::Error::new(why.kind(), why.to_string()));
        }
        if kept.file.is_none() {
            return Ok(());
        }
        let end = End {
            at,
            events: kept.count,
        };
        let line = line(&Last { end })?;
        kept.write(&line)?;
        kept.file.take().map_or(Ok(()), |file| file.sync_all())
    }

    /// What was collected in memory, as a history that is whole.
    pub fn history(&self, header: Header) -> History {
        History {
            header,
            events: self.kept().events.clone(),
            ended: Some(self.now()),
            complaint: None,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(line),
            None => Ok(()),
        }
    }

    /// Remembers the first failure. A file with a hole in it is worse than one that ends.
    fn note(&mut self, written: io::Result<()>) {
        if let Err(why) = written {
            crate::say(format!("the history cannot be written on: {why}"));
            self.failed.get_or_insert(why);
            self.file = None;
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn line(what: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}
