//! One `pennon` process: its command line, its output in a file, its signals.
//!
//! What must hold: a process that was started is killed and waited for when this is dropped, also
//! while a test panics; a signal goes to a process that is still ours (not yet waited for), never to
//! a number that somebody else may have by now.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Failure, Result};

const LOOK: Duration = Duration::from_millis(10);

/// A process of the binary under test, running or not.
#[derive(Debug)]
pub struct Process {
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, PathBuf)>,
    log: PathBuf,
    child: Option<Child>,
    paused: bool,
}

impl Process {
    /// Describes a process; nothing is started. Its output is added to the file `log`.
    pub fn new<A: Into<OsString>>(
        binary: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
        log: impl Into<PathBuf>,
    ) -> Process {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Process {
            binary: binary.into(),
            arguments,
            environment: Vec::new(),
            log: log.into(),
            child: None,
            paused: false,
        }
    }

    /// Adds to what it finds in its environment.
    #[must_use]
    pub fn with_environment(mut self, more: Vec<(&'static str, PathBuf)>) -> Process {
        self.environment.extend(more);
        self
    }

    /// Changes what is started from now on; what runs goes on.
    pub fn run_with(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it already runs, or the system does not start it.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Err(Failure::new("the process already runs"));
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        // Settings of whoever runs the tests must not reach the process.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PENNON_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let started = command.spawn();
        self.child = Some(started.map_err(|why| Failure::during(self.binary.display(), why))?);
        self.paused = false;
        Ok(())
    }

    /// Whether it runs; a paused process does.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Whether it runs and is not paused.
    pub fn is_answering(&mut self) -> bool {
        self.is_running() && !self.paused
    }

    /// Its process id while it runs.
    pub fn id(&mut self) -> Option<u32> {
        self.is_running()
            .then(|| self.child.as_ref().map(Child::id))
            .flatten()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.reap();
        Ok(())
    }

    /// Stops it where it is (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    /// Lets it go on after [`Process::pause`] (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.paused = false;
        Ok(())
    }

    /// Asks it to stop (SIGTERM); does not wait.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it still runs after that long, or was never started.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + within;
        let Some(child) = self.child.as_mut() else {
            return Err(Failure::new("the process was not started"));
        };
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(Failure::new(format!(
                    "the process still runs after {within:?}"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What it has written so far, over all its starts; the last 64 KiB.
    pub fn output(&self) -> String {
        tail(&self.log, 64 * 1024)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let id = self
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(id) = id else {
            return Err(Failure::new("the process does not run"));
        };
        kill_process(id, signal).map_err(Failure::new)
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It was killed; all that is left is to collect it.
            let _ = child.wait();
        }
        self.paused = false;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.signal(Signal::KILL);
            self.reap();
        }
    }
}

/// The last bytes of a file as text; what cannot be read is empty.
pub fn tail(path: &Path, bytes_max: usize) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    let from = text.len().saturating_sub(bytes_max);
    match read {
        Ok(_) => String::from_utf8_lossy(&text[from..]).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Process {
        Process::new("sleep", ["60"], directory.join("log"))
    }

    fn state_of(id: u32) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        text.rsplit_once(')')?.1.trim().chars().next()
    }

    #[tokio::test]
    async fn signals_reach_the_process_and_its_end_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sleeper(directory.path());
        assert!(process.kill().is_err());
        process.start().unwrap();
        let id = process.id().unwrap();
        process.pause().unwrap();
        assert!(process.is_running() && !process.is_answering());
        let stopped = || async {
            (state_of(id) == Some('T'))
                .then_some(())
                .ok_or(String::new())
        };
        crate::until("SIGSTOP", Duration::from_secs(5), stopped)
            .await
            .unwrap();
        process.resume().unwrap();
        process.terminate().unwrap();
        let status = process.ended(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.code(), None);
        assert!(process.terminate().is_err());
    }

    #[test]
    fn a_dropped_process_is_gone_also_after_a_panic_and_while_paused() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sleeper(directory.path());
        process.start().unwrap();
        process.pause().unwrap();
        let id = process.id().unwrap();
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = process;
            panic!("planted");
        }));
        assert!(unwound.is_err());
        assert_eq!(state_of(id), None);
    }

    #[tokio::test]
    async fn output_of_all_starts_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::new(
            "sh",
            ["-c", "echo out; echo err >&2; exit 3"],
            directory.path().join("log"),
        );
        for _ in 0..2 {
            process.start().unwrap();
            assert_eq!(
                process.ended(Duration::from_secs(5)).await.unwrap().code(),
                Some(3)
            );
        }
        assert_eq!(process.output().matches("out\nerr\n").count(), 2);
    }
}
