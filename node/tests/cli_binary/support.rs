//! Starting the binary, waiting for conditions, and never leaving a process behind.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// The longest wait for anything: far more than it takes, on a busy machine too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until a condition holds and returns what it gave.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pennon process, its output in files. Dropping it kills it and waits for it.
pub(crate) struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    _files: TempDir,
}

impl Process {
    pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Process {
        Process::start_in(Path::new("."), args, variables)
    }

    pub(crate) fn start_in(directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> Process {
        let files = TempDir::new().unwrap();
        let (out, err) = (files.path().join("out"), files.path().join("err"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_pennon"));
        command
            .args(args)
            .current_dir(directory)
            .stdin(Stdio::null());
        command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap());
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("PENNON_") || name == "NO_COLOR")
        {
            command.env_remove(name);
        }
        command
            .env("USER", "tester")
            .envs(variables.iter().copied());
        Process {
            child: command.spawn().unwrap(),
            out,
            err,
            _files: files,
        }
    }

    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Waits until the process has printed this on stdout or stderr.
    pub(crate) fn says(&mut self, text: &str) {
        let what = format!("{text:?} from the process");
        eventually(&what, || {
            if self.out().contains(text) || self.err().contains(text) {
                return Some(());
            }
            let ended = self.child.try_wait().unwrap();
            let (out, err) = (self.out(), self.err());
            assert!(
                ended.is_none() || out.contains(text) || err.contains(text),
                "{ended:?} without {text:?}: {out}{err}"
            );
            None
        });
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end and returns the exit code; none after a signal.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        eventually("the end of the process", || self.child.try_wait().unwrap()).code()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command that has ended said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Said {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.out,
            self.err
        );
        self
    }

    /// Checks that stdout has this.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Said {
        assert!(
            self.out.contains(text),
            "{text:?} is not in: {}{}",
            self.out,
            self.err
        );
        self
    }

    /// Checks that stderr has this.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Said {
        assert!(self.err.contains(text), "{text:?} is not in: {}", self.err);
        self
    }

    /// Reads stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|why| panic!("{why}: {}{}", self.out, self.err))
    }
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut process = Process::start(args, variables);
    let code = process.ended();
    Said {
        code,
        out: process.out(),
        err: process.err(),
    }
}

/// One node on ports that the system chose, and where its API is.
pub(crate) struct Single {
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) data: TempDir,
}

impl Single {
    pub(crate) fn start() -> Single {
        let data = TempDir::new().unwrap();
        let process = serve(data.path(), "127.0.0.1:0");
        Single::ready(process, data)
    }

    fn ready(mut process: Process, data: TempDir) -> Single {
        process.says("is ready");
        let log = process.err();
        let url = log
            .split("API ")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .unwrap()
            .to_owned();
        Single { process, url, data }
    }

    /// Ends the node with SIGTERM and starts it again at the same address.
    pub(crate) fn restart(mut self) -> Single {
        self.process.signal("TERM");
        assert_eq!(self.process.ended(), Some(0), "{}", self.process.err());
        let address = self.url.trim_start_matches("http://").to_owned();
        let process = serve(self.data.path(), &address);
        Single::ready(process, self.data)
    }

    /// Runs a command against this node; words are separated by spaces.
    pub(crate) fn run(&self, line: &str) -> Said {
        self.run_with(line, &[])
    }

    /// The same with arguments that have spaces in them, at the end.
    pub(crate) fn run_with(&self, line: &str, more: &[&str]) -> Said {
        let args: Vec<&str> = line
            .split_whitespace()
            .chain(more.iter().copied())
            .collect();
        run(&args, &[("PENNON_URL", &self.url)])
    }

    /// A node with an environment and a boolean flag that is on in it.
    pub(crate) fn with_flag() -> Single {
        let node = Single::start();
        node.run_with("env put prod --value", &["{}"]).exits(0);
        node.run("flag create web/new:ui --type boolean").exits(0);
        let policy = r#"{"enabled":true,"rules":[{"id":"eu","when":[{"attribute":"country","op":"in","values":["DE"]}],
            "serve":{"variant":"on"}}],"default":{"variant":"off"}}"#;
        node.run_with("policy put web/new:ui --env prod --value", &[policy])
            .exits(0);
        node
    }
}

fn serve(data: &Path, listen: &str) -> Process {
    let data = data.join("n1");
    let data = data.to_str().unwrap();
    Process::start(
        &[
            "serve",
            "--data",
            data,
            "--listen",
            listen,
            "--peer-listen",
            "127.0.0.1:0",
        ],
        &[],
    )
}

/// An address of loopback that is nobody else's while this lives. Nobody answers there, unless a
/// server listens as servers do (with `SO_REUSEADDR`). A listener that was dropped would not do: a
/// process that another test starts at that moment keeps a copy of it until it has become its program.
pub(crate) struct Held {
    _socket: TcpSocket,
    pub(crate) address: SocketAddr,
}

impl Held {
    pub(crate) fn any() -> Held {
        Held::at(0).unwrap()
    }

    fn at(port: u16) -> std::io::Result<Held> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        // Only now: with it, a port would look free that another one holds.
        socket.set_reuseaddr(true)?;
        let address = socket.local_addr()?;
        Ok(Held {
            _socket: socket,
            address,
        })
    }
}

/// Ports in a row, below those that the system gives to connections.
pub(crate) struct Row {
    pub(crate) first: u16,
    _held: Vec<Held>,
}

impl Row {
    pub(crate) fn of(count: u16) -> Row {
        let held = |first: u16| {
            let held = (0..count).map(|n| Held::at(first + n));
            let held = held.collect::<std::io::Result<_>>().ok()?;
            Some(Row { first, _held: held })
        };
        let start = u16::try_from(std::process::id() % 9_000).unwrap();
        (0..500)
            .find_map(|attempt| held(20_000 + (start + attempt * 17) % 9_000))
            .expect("ports that are free")
    }
}
