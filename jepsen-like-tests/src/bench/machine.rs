//! What the machine and its processes say of themselves: memory, time on the processor, load.
//!
//! All of it is read from `/proc`; what cannot be read is zero, and a bench that would divide by it
//! says so. Left out: counters of the hardware, which virtual machines do not show.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The unit of times in `/proc`: a hundredth of a second on every Linux, whatever its timer is.
const TICK: Duration = Duration::from_millis(10);

/// Time on the processor over a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// How long the while was.
    pub wall: Duration,
    /// What is measured.
    pub servers: Duration,
    /// This process: whoever reads the streams, and writes.
    pub clients: Duration,
    /// Everybody else on the machine. The figures are worth less the more it is.
    pub others: Duration,
}

impl Spent {
    /// What others used, as a part of all that there was.
    pub fn others_share(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.others.as_secs_f64() / (self.wall.as_secs_f64() * cores as f64).max(f64::MIN_POSITIVE)
    }
}

/// Measures who spends how much time on the processor.
#[derive(Debug)]
pub struct Meter {
    servers: Vec<u32>,
    began: Instant,
    at: Reading,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    all: Duration,
    servers: Duration,
    clients: Duration,
}

impl Meter {
    /// Begins; `servers` are process ids.
    pub fn start(servers: Vec<u32>) -> Meter {
        let at = Reading::take(&servers);
        Meter {
            servers,
            began: Instant::now(),
            at,
        }
    }

    /// Ends.
    pub fn stop(self) -> Spent {
        let now = Reading::take(&self.servers);
        let servers = now.servers.saturating_sub(self.at.servers);
        let clients = now.clients.saturating_sub(self.at.clients);
        let all = now.all.saturating_sub(self.at.all);
        Spent {
            wall: self.began.elapsed(),
            servers,
            clients,
            others: all.saturating_sub(servers + clients),
        }
    }
}

impl Reading {
    fn take(servers: &[u32]) -> Reading {
        let stat = read("/proc/stat");
        Reading {
            all: busy(stat.lines().next().unwrap_or_default()),
            servers: servers.iter().map(|id| cpu_of(*id)).sum(),
            clients: cpu_of(std::process::id()),
        }
    }
}

/// Time on the processor that a process has used.
pub fn cpu_of(id: u32) -> Duration {
    cpu_in(&read(&format!("/proc/{id}/stat")))
}

/// Memory of a process that is in RAM, in bytes.
pub fn resident(id: u32) -> u64 {
    kib_in(&read(&format!("/proc/{id}/status")), "VmRSS:") * 1_024
}

/// Memory that could be had, in bytes.
pub fn available() -> u64 {
    kib_in(&read("/proc/meminfo"), "MemAvailable:") * 1_024
}

/// The load average over a minute.
pub fn load() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split(' ').next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Lets this process, and those that it starts, have as many open files as it may.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused the old limit stands, and is what is returned.
    let _ = setrlimit(Resource::Nofile, limit);
    let limit = getrlimit(Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

/// What figures are worth nothing without.
pub fn environment(directory: &Path) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "cores": cores,
        "cpu": processor(&read("/proc/cpuinfo")),
        "disk": disk_of(&read("/proc/mounts"), directory),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "load_at_start": load(),
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Times of user and system code, from behind the name, which may hold anything but ends in `)`.
fn cpu_in(stat: &str) -> Duration {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = fields.split_whitespace().skip(11).take(2);
    ticks(fields)
}

/// All time but idle and waiting for disks; steal counts, because it was not ours.
fn busy(line: &str) -> Duration {
    let fields = line.split_whitespace().skip(1).take(8);
    let fields = fields.enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    ticks(fields.map(|(_, field)| field))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    let ticks = fields.filter_map(|field| field.parse::<u32>().ok());
    ticks.map(|ticks| TICK * ticks).sum()
}

fn kib_in(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

fn processor(cpuinfo: &str) -> String {
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Device and file system that a directory is on.
fn disk_of(mounts: &str, directory: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        directory
            .starts_with(at)
            .then(|| (at.len(), format!("{device} {kind}")))
    });
    mounts
        .max()
        .map_or_else(|| "unknown".to_owned(), |(_, disk)| disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "42 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 75 9 9 20 0 1 0 5 6 7";
        assert_eq!(cpu_in(stat), Duration::from_millis(3_250));
        assert_eq!(cpu_in(""), Duration::ZERO);
        let line = "cpu  100 10 50 9999 888 1 2 3 77 66";
        assert_eq!(busy(line), Duration::from_millis(1_660));
        let status = "Name:\tx\nVmHWM:\t  90 kB\nVmRSS:\t   70 kB\n";
        assert_eq!(kib_in(status, "VmRSS:"), 70);
        let mounts = "/dev/a / ext4 rw\n/dev/b /tmp xfs rw\n/dev/c /tmpfs tmpfs rw";
        assert_eq!(disk_of(mounts, Path::new("/tmp/x")), "/dev/b xfs");
        assert_eq!(processor("model name\t: Some CPU\n"), "Some CPU");
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let meter = Meter::start(vec![std::process::id()]);
        while cpu_of(std::process::id()) == meter.at.clients {
            std::hint::black_box(read("/proc/self/stat"));
        }
        let spent = meter.stop();
        assert!(spent.clients >= TICK && spent.servers >= TICK, "{spent:?}");
        assert!(resident(std::process::id()) > 1 << 20 && available() > 0);
        assert!(raise_open_files() > 100);
    }
}
