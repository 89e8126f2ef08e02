//! Every file of a node's directory, flipped, cut, zeroed, swapped and deleted. Each image is opened as the
//! node opens it and has one of two ends: everything acknowledged is there and the node goes on, or a
//! refusal that names the file and what to do. Never a loss that nobody is told of, a panic, or a hang.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pennon_raft_store::disk::{Disk, MemoryDisk};

use crate::world::{
    Acknowledged, CLUSTER, Network, flag, flag_json, leads, lost, open, runtime, single, write,
};

const NODE: u64 = 1;
const DIRS: [&str; 4] = ["", "hard", "log", "snapshots"];
/// Among the strangers.
const ANOTHER_NODE: usize = 1;
/// Real time, on a machine that does other things as well.
const HANG: Duration = Duration::from_secs(30);

/// The disk of a node that was stopped properly, and what it acknowledged.
struct Subject {
    disk: MemoryDisk,
    acknowledged: Vec<Acknowledged>,
    files: Vec<String>,
    /// Other directories whose files somebody might copy here: who, and the disk.
    strangers: Vec<(&'static str, MemoryDisk)>,
}

fn made(cluster: u128, node: u64, writes: usize) -> (MemoryDisk, Vec<Acknowledged>) {
    made_keeping(cluster, node, writes, &Network::default())
}

fn made_keeping(
    cluster: u128,
    node: u64,
    writes: usize,
    network: &Network,
) -> (MemoryDisk, Vec<Acknowledged>) {
    let disk = MemoryDisk::new();
    let acknowledged = runtime().block_on(async {
        let (raft, acknowledged) = single(&disk, cluster, node, writes, network).await;
        raft.shutdown().await;
        acknowledged
    });
    (disk.copy(), acknowledged)
}

fn files(disk: &MemoryDisk) -> Vec<String> {
    let paths = DIRS.iter().flat_map(|dir| {
        let names = disk.list(dir).unwrap_or_default();
        let join = move |name: String| match dir.is_empty() {
            true => name,
            false => format!("{dir}/{name}"),
        };
        names.into_iter().map(join)
    });
    paths.filter(|path| disk.contents(path).is_some()).collect()
}

fn subject(writes: usize) -> Subject {
    let (disk, acknowledged) = made(CLUSTER, NODE, writes);
    let earlier = made(CLUSTER, NODE, writes / 2).0;
    let strangers = vec![
        ("another cluster", made(CLUSTER + 1, NODE, writes).0),
        ("another node", made(CLUSTER, NODE + 1, writes).0),
        ("an earlier copy", earlier),
    ];
    let files = files(&disk);
    Subject {
        disk,
        acknowledged,
        files,
        strangers,
    }
}

/// One kind of damage.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        file: String,
        at: usize,
        bits: u8,
    },
    Cut {
        file: String,
        len: usize,
    },
    Longer {
        file: String,
        by: usize,
    },
    Zero {
        file: String,
        from: usize,
        to: usize,
    },
    Copy {
        file: String,
        from: usize,
        name: String,
    },
    Swap {
        file: String,
        other: String,
    },
    Delete {
        files: Vec<String>,
    },
}

impl Damage {
    fn kind(&self) -> &'static str {
        match self {
            Damage::Flip { .. } => "flipped",
            Damage::Cut { .. } | Damage::Longer { .. } => "cut or longer",
            Damage::Zero { .. } => "zeroed",
            Damage::Copy { .. } => "of another directory",
            Damage::Swap { .. } => "swapped",
            Damage::Delete { .. } => "deleted",
        }
    }

    fn apply(&self, subject: &Subject) -> MemoryDisk {
        let disk = subject.disk.copy();
        let bytes = |file: &str| disk.contents(file).unwrap();
        match self {
            Damage::Flip { file, at, bits } => {
                let mut bytes = bytes(file);
                bytes[*at] ^= bits;
                disk.overwrite(file, &bytes);
            }
            Damage::Cut { file, len } => disk.overwrite(file, &bytes(file)[..*len]),
            Damage::Longer { file, by } => {
                let mut bytes = bytes(file);
                bytes.extend((0..*by).map(|n| n as u8));
                disk.overwrite(file, &bytes);
            }
            Damage::Zero { file, from, to } => {
                let mut bytes = bytes(file);
                bytes[*from..*to].fill(0);
                disk.overwrite(file, &bytes);
            }
            Damage::Copy { file, from, name } => {
                let theirs = subject.strangers[*from].1.contents(name).unwrap();
                disk.overwrite(file, &theirs);
            }
            Damage::Swap { file, other } => {
                let (a, b) = (bytes(file), bytes(other));
                disk.overwrite(file, &b);
                disk.overwrite(other, &a);
            }
            Damage::Delete { files } => {
                for file in files {
                    disk.remove(file).unwrap();
                }
            }
        }
        disk
    }
}

/// All kinds of damage to all files; every `stride`-th byte of them.
fn all_damage(subject: &Subject, stride: usize) -> Vec<Damage> {
    let mut all = Vec::new();
    for file in &subject.files {
        let len = subject.disk.contents(file).unwrap().len();
        let file = file.clone();
        // The beginning of a file, where its header is, byte by byte in any case.
        let places = (0..len).filter(|at| at % stride == 0 || *at < 96);
        all.extend(places.map(|at| Damage::Flip {
            file: file.clone(),
            at,
            bits: 1 << (at % 8),
        }));
        for from in (0..len).step_by(4096) {
            let (file, to) = (file.clone(), len.min(from + 4096));
            all.push(Damage::Zero { file, from, to });
        }
        let step = if stride == 1 { 64 } else { 512 };
        let ends = (0..len).step_by(step).chain([1, len.saturating_sub(1)]);
        for at in ends {
            let file = file.clone();
            all.push(Damage::Cut {
                file: file.clone(),
                len: at,
            });
            let to = len.min(at + step);
            all.push(Damage::Zero { file, from: at, to });
        }
        for by in [1, 512] {
            let file = file.clone();
            all.push(Damage::Longer { file, by });
        }
        all.push(Damage::Zero {
            file: file.clone(),
            from: 0,
            to: len,
        });
        all.push(Damage::Delete {
            files: vec![file.clone()],
        });
        let dir = |path: &str| path.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
        for other in &subject.files {
            if *other > file {
                all.push(Damage::Swap {
                    file: file.clone(),
                    other: other.clone(),
                });
                all.push(Damage::Delete {
                    files: vec![file.clone(), other.clone()],
                });
            }
        }
        for (from, (_, disk)) in subject.strangers.iter().enumerate() {
            let theirs = files(disk).into_iter();
            let theirs = theirs.filter(|name| dir(name) == dir(&file));
            // A snapshot is the cluster's: it is as good from another of its nodes. (This one has other
            // members, as no two nodes of one cluster have.)
            let theirs = theirs.filter(|name| from != ANOTHER_NODE || dir(name) != "snapshots");
            all.extend(theirs.map(|name| Damage::Copy {
                file: file.clone(),
                from,
                name,
            }));
        }
    }
    // Whole directories.
    for dirs in [
        &["log/"][..],
        &["hard/"],
        &["snapshots/"],
        &["log/", "hard/"],
        &["log/", "snapshots/"],
        &["log/", "hard/", "snapshots/"],
        &["identity", "hard/"],
        &["identity", "log/", "hard/"],
    ] {
        let gone = subject.files.iter();
        let gone = gone.filter(|file| dirs.iter().any(|dir| file.starts_with(dir)));
        all.push(Damage::Delete {
            files: gone.cloned().collect(),
        });
    }
    all
}

/// What became of an image.
enum End {
    Whole,
    Refused(String),
}

fn judge(image: &MemoryDisk, acknowledged: &[Acknowledged]) -> Result<End, String> {
    let began = Instant::now();
    let opened = catch_unwind(AssertUnwindSafe(|| {
        runtime().block_on(async {
            let raft = match open(image, CLUSTER, NODE, &Network::default()).await {
                Ok(raft) => raft,
                Err(refusal) => return Ok(End::Refused(refusal)),
            };
            if !leads(&raft).await {
                return Err("it opened and does not lead".to_owned());
            }
            if let Some(lost) = lost(&raft, acknowledged) {
                return Err(format!("lost without a word: {lost}")); // I9
            }
            let after = write(&raft, &flag(99), &flag_json(0)).await;
            after.map_err(|why| format!("it opened and takes no writes: {why}"))?;
            raft.shutdown().await;
            Ok(End::Whole)
        })
    }));
    let end = opened.map_err(|_| "it panicked".to_owned())??;
    match began.elapsed() {
        took if took < HANG => Ok(end),
        took => Err(format!("it took {took:?}")),
    }
}

/// A refusal is for a person: it names a file, and says what to do.
fn is_clear(refusal: &str) -> bool {
    let names = ["identity", "log/", "hard/", "snapshots"];
    let remedies = [
        "rejoin as a new member",
        "move this one away",
        "start the release",
    ];
    names.iter().any(|name| refusal.contains(name))
        && remedies.iter().any(|remedy| refusal.contains(remedy))
}

/// What became of how many, by kind of damage and directory.
type Counts = BTreeMap<(&'static str, String), [usize; 2]>;

fn sweep(subject: &Subject, all: &[Damage]) -> Counts {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut counts, mut wrong) = (Counts::new(), Vec::new());
        while let Some(damage) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = match damage {
                Damage::Flip { file, .. }
                | Damage::Cut { file, .. }
                | Damage::Longer { file, .. }
                | Damage::Zero { file, .. }
                | Damage::Copy { file, .. }
                | Damage::Swap { file, .. } => file.as_str(),
                Damage::Delete { files } => files.first().map_or("", String::as_str),
            };
            let place = place.split('/').next().unwrap_or_default().to_owned();
            let count = counts.entry((damage.kind(), place)).or_insert([0, 0]);
            match judge(&damage.apply(subject), &subject.acknowledged) {
                Ok(End::Whole) => count[0] += 1,
                Ok(End::Refused(refusal)) if is_clear(&refusal) => count[1] += 1,
                Ok(End::Refused(refusal)) => {
                    wrong.push(format!(
                        "{damage:?}: a refusal that helps nobody: {refusal}"
                    ));
                }
                Err(why) => wrong.push(format!("{damage:?}: {why}")),
            }
        }
        (counts, wrong)
    };
    let mut counts = Counts::new();
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (some, errors) = worker.join().unwrap();
            for (key, [whole, refused]) in some {
                let count = counts.entry(key).or_insert([0, 0]);
                count[0] += whole;
                count[1] += refused;
            }
            wrong.extend(errors);
        }
    });
    assert!(
        wrong.is_empty(),
        "{} of {} images went wrong:\n{}",
        wrong.len(),
        all.len(),
        wrong
            .iter()
            .take(40)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
    counts
}

fn report(what: &str, counts: &Counts) {
    println!(
        "{what}: images that opened with everything | that were refused, file and remedy named"
    );
    for ((kind, place), [whole, refused]) in counts {
        println!("  {place:<10} {kind:<22} {whole:>7} | {refused:>7}");
    }
    let total: [usize; 2] = counts
        .values()
        .fold([0, 0], |sum, count| [sum[0] + count[0], sum[1] + count[1]]);
    println!("  {:<33} {:>7} | {:>7}", "together", total[0], total[1]);
}

#[test]
fn no_damage_to_any_file_loses_anything_without_a_word() {
    let long = std::env::var("PENNON_DAMAGE").is_ok_and(|profile| profile == "long");
    let stride = if long { 1 } else { 61 };
    // Purged, with two snapshots.
    let subject = subject(40);

    assert!(
        subject
            .files
            .iter()
            .filter(|file| file.ends_with(".snap"))
            .count()
            == 2
    );
    let counts = sweep(&subject, &all_damage(&subject, stride));
    report("a node whose log was purged", &counts);
}

/// As a node keeps them: the log goes back to the older one.
#[test]
fn one_damaged_snapshot_of_two_costs_nothing() {
    let keeps = Network {
        keep: Some(8),
        ..Network::default()
    };
    let (disk, acknowledged) = made_keeping(CLUSTER, NODE, 40, &keeps);
    let subject = Subject {
        files: files(&disk),
        disk,
        acknowledged,
        strangers: Vec::new(),
    };
    let snapshots = subject.files.iter().filter(|file| file.ends_with(".snap"));
    let mut images = 0;
    for file in snapshots {
        let len = subject.disk.contents(file).unwrap().len();
        for at in (0..len).step_by(97) {
            let damage = Damage::Flip {
                file: file.clone(),
                at,
                bits: 4,
            };
            let end = judge(&damage.apply(&subject), &subject.acknowledged);
            assert!(matches!(end, Ok(End::Whole)), "{damage:?}: {:?}", end.err());
            images += 1;
        }
    }
    assert!(images > 50, "{images}");
}

#[test]
fn a_node_that_never_purged_needs_no_snapshot() {
    let keeps = Network {
        keep: Some(1000),
        ..Network::default()
    };
    let (disk, acknowledged) = made_keeping(CLUSTER, NODE, 20, &keeps);
    let subject = Subject {
        files: files(&disk),
        disk,
        acknowledged,
        strangers: Vec::new(),
    };
    let snapshots: Vec<_> = subject
        .files
        .iter()
        .filter(|file| file.ends_with(".snap"))
        .cloned()
        .collect();
    let all = Damage::Delete {
        files: snapshots.clone(),
    };
    let images = snapshots.iter().flat_map(|file| {
        let flip = Damage::Flip {
            file: file.clone(),
            at: 60,
            bits: 1,
        };
        let delete = Damage::Delete {
            files: vec![file.clone()],
        };
        [flip, delete]
    });
    for damage in images.chain([all]) {
        let end = judge(&damage.apply(&subject), &subject.acknowledged);
        assert!(matches!(end, Ok(End::Whole)), "{damage:?}: {:?}", end.err());
    }
}
