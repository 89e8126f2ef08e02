//! What was measured of each node, and whether the last third of the run needs more than the rest.

use std::path::Path;
use std::time::Duration;

/// One look at one node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Bytes on disk: log, snapshots, history.
    parts: [u64; 3],
    resident: u64,
    files: u64,
}

const PARTS: [&str; 3] = ["log", "snapshots", "state"];

impl Sample {
    /// Looks at a process and its data directory. What vanishes meanwhile counts as nothing.
    pub(crate) fn of(id: u32, data: &Path) -> Sample {
        let open = std::fs::read_dir(format!("/proc/{id}/fd"));
        Sample {
            parts: PARTS.map(|part| bytes_in(&data.join(part))),
            resident: resident(id),
            files: open.map_or(0, |files| files.count() as u64),
        }
    }
}

/// What files take of the disk, which for a file written ahead is more than it holds.
fn bytes_in(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

fn resident(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// Everything that was measured.
pub(crate) struct Samples {
    nodes: Vec<Vec<(Duration, Sample)>>,
    /// How many writes were taken up to a moment.
    pub(crate) writes: Vec<(Duration, u64)>,
    pub(crate) restarts: u32,
}

struct Measure {
    name: &'static str,
    of: fn(&Sample) -> u64,
    /// What may be more without being growth.
    slack: u64,
    unit: u64,
}

const MIB: u64 = 1 << 20;
const MEASURES: [Measure; 6] = [
    Measure {
        name: "disk MiB",
        of: |sample| sample.parts.iter().sum(),
        slack: 16 * MIB,
        unit: MIB,
    },
    Measure {
        name: "log MiB",
        of: |sample| sample.parts[0],
        slack: 16 * MIB,
        unit: MIB,
    },
    Measure {
        name: "snapshots MiB",
        of: |sample| sample.parts[1],
        slack: MIB,
        unit: MIB,
    },
    Measure {
        name: "history MiB",
        of: |sample| sample.parts[2],
        slack: 8 * MIB,
        unit: MIB,
    },
    Measure {
        name: "memory MiB",
        of: |sample| sample.resident,
        slack: 8 * MIB,
        unit: MIB,
    },
    Measure {
        name: "open files",
        of: |sample| sample.files,
        slack: 8,
        unit: 1,
    },
];

impl Samples {
    pub(crate) fn new(nodes: usize) -> Samples {
        Samples {
            nodes: vec![Vec::new(); nodes],
            writes: Vec::new(),
            restarts: 0,
        }
    }

    pub(crate) fn add(&mut self, node: usize, at: Duration, sample: Sample) {
        self.nodes[node].push((at, sample));
    }

    /// Median and maximum of one node in each third.
    fn thirds(&self, node: usize, measure: &Measure) -> [(u64, u64); 3] {
        let samples = &self.nodes[node];
        let end = samples.last().map_or(Duration::ZERO, |last| last.0);
        std::array::from_fn(|third| {
            let within = |at: &Duration| {
                let (from, to) = (end * third as u32 / 3, end * (third as u32 + 1) / 3);
                (from..=to).contains(at)
            };
            let mut values: Vec<u64> = samples
                .iter()
                .filter(|(at, _)| within(at))
                .map(|(_, sample)| (measure.of)(sample))
                .collect();
            values.sort_unstable();
            let median = values.get(values.len() / 2).copied().unwrap_or(0);
            (median, values.last().copied().unwrap_or(0))
        })
    }

    /// What grew, in words. It grew when the last third has a higher middle and a higher top than both
    /// thirds before, by more than a tenth and the slack.
    pub(crate) fn growth(&self) -> Vec<String> {
        let mut grown = Vec::new();
        for node in 0..self.nodes.len() {
            for measure in &MEASURES {
                let [first, second, third] = self.thirds(node, measure);
                let bound = |before: u64| before + before / 10 + measure.slack;
                if third.0 > bound(first.0.max(second.0)) && third.1 > bound(first.1.max(second.1))
                {
                    grown.push(format!(
                        "n{}: {} grew: {} in the last third, {} and {} before",
                        node + 1,
                        measure.name,
                        third.0 / measure.unit,
                        first.0 / measure.unit,
                        second.0 / measure.unit
                    ));
                }
            }
        }
        grown
    }

    /// Medians and maxima by thirds, for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<18} {:>16} {:>16} {:>16}   median (most), by thirds of the run\n",
            "", "first", "second", "last"
        );
        for measure in &MEASURES {
            for node in 0..self.nodes.len() {
                text += &format!("{:<18}", format!("n{} {}", node + 1, measure.name));
                for (median, most) in self.thirds(node, measure) {
                    let shown = format!("{} ({})", median / measure.unit, most / measure.unit);
                    text += &format!(" {shown:>16}");
                }
                text += "\n";
            }
        }
        text += &format!("{:<18}", "writes/s");
        let end = self.writes.last().map_or(Duration::ZERO, |last| last.0);
        for third in 0..3u32 {
            let at = |moment: Duration| {
                let before = self.writes.iter().rev().find(|(at, _)| *at <= moment);
                before.map_or(0, |(_, written)| *written)
            };
            let written = at(end * (third + 1) / 3) - at(end * third / 3);
            let seconds = (end / 3).as_secs_f64().max(f64::MIN_POSITIVE);
            text += &format!(" {:>16.0}", written as f64 / seconds);
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u64) -> u64) -> Samples {
        let mut samples = Samples::new(1);
        for second in 0..90 {
            let sample = Sample {
                resident: resident(second) * MIB,
                ..Sample::default()
            };
            samples.add(0, Duration::from_secs(second), sample);
        }
        samples
    }

    #[test]
    fn what_grows_is_found_and_what_goes_up_and_down_is_not() {
        let found = samples(|second| 40 + second).growth();
        assert!(found.len() == 1 && found[0].contains("memory"), "{found:?}");
        assert_eq!(samples(|second| 40 + second % 20 * 5).growth().len(), 0);
        // What fills up at first is no growth.
        assert_eq!(samples(|second| 40 + second.min(30)).growth().len(), 0);
        assert_eq!(samples(|_| 40).growth().len(), 0);
    }

    #[test]
    fn a_process_and_a_directory_have_a_size() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("log")).unwrap();
        std::fs::write(directory.path().join("log/segment"), vec![1; 100_000]).unwrap();
        let sample = Sample::of(std::process::id(), directory.path());
        assert!(sample.parts[0] >= 100_000 && sample.parts[1] == 0);
        assert!(sample.resident > MIB && sample.files > 2);
    }
}
