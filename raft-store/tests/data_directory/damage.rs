//! Every file of a node's directory, flipped, cut, zeroed, swapped and deleted. Each image is opened as the
//! node opens it and has one of two ends: everything acknowledged is there and the node goes on, or a
//! refusal that names the file and what to do. Never a loss that nobody is told of, a panic, or a hang.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pennon_raft_store::disk::{Disk, MemoryDisk};
use pennon_raft_store::raft::Raft;

use crate::world::{
    Acknowledged, CLUSTER, Network, flag, flag_json, leads, lost, open, runtime, single, write,
};

const NODE: u64 = 1;
const DIRS: [&str; 4] = ["", "hard", "log", "snapshots"];
/// Among the strangers.
const ANOTHER_NODE: usize = 1;
/// Real time, on a machine that does other things as well.
const HANG: Duration = Duration::from_secs(30);

/// Files that are damaged.
pub(crate) struct Subject {
    pub(crate) disk: MemoryDisk,
    pub(crate) files: Vec<String>,
    /// Other directories whose files somebody might copy here: who, and the disk.
    pub(crate) strangers: Vec<(&'static str, MemoryDisk)>,
}

/// How close together the places are that are damaged, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Density {
    pub(crate) flips: usize,
    pub(crate) cuts: usize,
    pub(crate) pages: usize,
}

impl Density {
    /// Every byte in the long profile.
    fn usual() -> Density {
        match long() {
            true => Density {
                flips: 1,
                cuts: 64,
                pages: 4096,
            },
            false => Density {
                flips: 61,
                cuts: 512,
                pages: 4096,
            },
        }
    }
}

pub(crate) fn long() -> bool {
    std::env::var("PENNON_DAMAGE").is_ok_and(|profile| profile == "long")
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

pub(crate) fn files(disk: &MemoryDisk, dirs: &[&str]) -> Vec<String> {
    let paths = dirs.iter().flat_map(|dir| {
        let names = disk.list(dir).unwrap_or_default();
        let join = move |name: String| match dir.is_empty() {
            true => name,
            false => format!("{dir}/{name}"),
        };
        names.into_iter().map(join)
    });
    paths.filter(|path| disk.contents(path).is_some()).collect()
}

fn subject(writes: usize) -> (Subject, Vec<Acknowledged>) {
    let (disk, acknowledged) = made(CLUSTER, NODE, writes);
    let earlier = made(CLUSTER, NODE, writes / 2).0;
    let strangers = vec![
        ("another cluster", made(CLUSTER + 1, NODE, writes).0),
        ("another node", made(CLUSTER, NODE + 1, writes).0),
        ("an earlier copy", earlier),
    ];
    let files = files(&disk, &DIRS);
    let subject = Subject {
        disk,
        files,
        strangers,
    };
    (subject, acknowledged)
}

/// One kind of damage.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
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

/// All kinds of damage to each file, and to each two of them.
pub(crate) fn all_damage(subject: &Subject, density: Density) -> Vec<Damage> {
    let mut all = Vec::new();
    for file in &subject.files {
        all.extend(damage_to(subject, file, density));
        let later = subject.files.iter().filter(|other| *other > file);
        all.extend(later.flat_map(|other| {
            let (file, other) = (file.clone(), other.clone());
            let files = vec![file.clone(), other.clone()];
            [Damage::Swap { file, other }, Damage::Delete { files }]
        }));
        for (from, (_, theirs)) in subject.strangers.iter().enumerate() {
            let dir = directory_of(file);
            // A snapshot is the cluster's: it is as good from another of its nodes. (This one has other
            // members, as no two nodes of one cluster have.)
            if from == ANOTHER_NODE && dir == "snapshots" {
                continue;
            }
            all.extend(files(theirs, &[dir]).into_iter().map(|name| Damage::Copy {
                file: file.clone(),
                from,
                name,
            }));
        }
    }
    all
}

fn directory_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// What can happen to one file.
fn damage_to(subject: &Subject, file: &str, density: Density) -> Vec<Damage> {
    let len = subject.disk.contents(file).unwrap().len();
    let name = || file.to_owned();
    let zero = |from: usize, to: usize| Damage::Zero {
        file: name(),
        from,
        to: len.min(to),
    };
    // The beginning of a file, where its header is, byte by byte in any case.
    let places = (0..len).filter(|at| at % density.flips == 0 || *at < 96);
    let flips = places.map(|at| Damage::Flip {
        file: name(),
        at,
        bits: 1 << (at % 8),
    });
    let mut all: Vec<Damage> = flips.collect();
    let pages = (0..len).step_by(density.pages);
    all.extend(pages.map(|from| zero(from, from + density.pages)));
    let ends = (0..len).step_by(density.cuts);
    for at in ends.chain([1.min(len), len.saturating_sub(1)]) {
        let file = name();
        all.push(Damage::Cut { file, len: at });
        all.push(zero(at, at + density.cuts));
    }
    all.extend([1, 512].map(|by| Damage::Longer { file: name(), by }));
    all.push(zero(0, len));
    all.push(Damage::Delete {
        files: vec![name()],
    });
    all
}

/// Each of these groups of directories and files is gone.
pub(crate) fn gone(subject: &Subject, groups: &[&[&str]]) -> Vec<Damage> {
    let of = |group: &[&str]| {
        let files = subject.files.iter();
        let files = files.filter(|file| group.iter().any(|dir| file.starts_with(dir)));
        Damage::Delete {
            files: files.cloned().collect(),
        }
    };
    groups.iter().map(|group| of(group)).collect()
}

/// What became of an image.
pub(crate) enum End {
    /// Everything is there.
    Whole,
    /// Everything is there again, filled from the rest.
    Filled,
    Refused(String),
}

fn judge(image: &MemoryDisk, acknowledged: &[Acknowledged]) -> Result<End, String> {
    in_time(|| {
        runtime().block_on(async {
            let raft = match open(image, CLUSTER, NODE, &Network::default()).await {
                Ok(raft) => raft,
                Err(refusal) => return Ok(End::Refused(refusal)),
            };
            works(&raft, acknowledged).await?;
            raft.shutdown().await;
            Ok(End::Whole)
        })
    })
}

/// A node that was opened leads, has everything that was acknowledged, and goes on.
pub(crate) async fn works(raft: &Raft, acknowledged: &[Acknowledged]) -> Result<(), String> {
    if !leads(raft).await {
        return Err("it opened and does not lead".to_owned());
    }
    if let Some(lost) = lost(raft, acknowledged) {
        return Err(format!("lost without a word: {lost}")); // I9
    }
    let after = write(raft, &flag(99), &flag_json(0)).await;
    after.map_err(|why| format!("it opened and takes no writes: {why}"))?;
    Ok(())
}

/// Turns a panic and a hang into what is wrong.
pub(crate) fn in_time(open: impl FnOnce() -> Result<End, String>) -> Result<End, String> {
    let began = Instant::now();
    let opened = catch_unwind(AssertUnwindSafe(open));
    let end = opened.map_err(|_| "it panicked".to_owned())??;
    match began.elapsed() {
        took if took < HANG => Ok(end),
        took => Err(format!("it took {took:?}")),
    }
}

/// A refusal is for a person: it names a file, and says what to do.
pub(crate) fn is_clear(refusal: &str) -> bool {
    let names = ["identity", "log/", "hard/", "snapshots", "state"];
    let remedies = [
        "rejoin as a new member",
        "move this one away",
        "start the release",
    ];
    names.iter().any(|name| refusal.contains(name))
        && remedies.iter().any(|remedy| refusal.contains(remedy))
}

/// What became of how many, by kind of damage and directory.
type Counts = BTreeMap<(&'static str, String), [usize; 3]>;

/// Opens an image of each damage; `judge` says what became of it.
pub(crate) fn sweep(
    subject: &Subject,
    all: &[Damage],
    judge: impl Fn(&MemoryDisk) -> Result<End, String> + Sync,
) -> Counts {
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
            let count = counts.entry((damage.kind(), place)).or_default();
            match judge(&damage.apply(subject)) {
                Ok(End::Whole) => count[0] += 1,
                Ok(End::Filled) => count[1] += 1,
                Ok(End::Refused(refusal)) if is_clear(&refusal) => count[2] += 1,
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
            for (key, more) in some {
                let count = counts.entry(key).or_default();
                *count = std::array::from_fn(|end| count[end] + more[end]);
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

pub(crate) fn report(what: &str, counts: &Counts) {
    println!("{what}: images that opened with everything | filled again | refused");
    for ((kind, place), [whole, filled, refused]) in counts {
        println!("  {place:<18} {kind:<22} {whole:>7} | {filled:>7} | {refused:>7}");
    }
    let [whole, filled, refused] = together(counts);
    println!(
        "  {:<41} {whole:>7} | {filled:>7} | {refused:>7}",
        "together"
    );
}

pub(crate) fn together(counts: &Counts) -> [usize; 3] {
    let sum =
        |sum: [usize; 3], count: &[usize; 3]| std::array::from_fn(|end| sum[end] + count[end]);
    counts.values().fold([0; 3], sum)
}

#[test]
fn no_damage_to_any_file_loses_anything_without_a_word() {
    // Purged, with two snapshots.
    let (subject, acknowledged) = subject(40);
    let snapshots = subject.files.iter().filter(|file| file.ends_with(".snap"));
    assert_eq!(snapshots.count(), 2);
    let mut all = all_damage(&subject, Density::usual());
    all.extend(gone(
        &subject,
        &[
            &["log/"],
            &["hard/"],
            &["snapshots/"],
            &["log/", "hard/"],
            &["log/", "snapshots/"],
            &["log/", "hard/", "snapshots/"],
            &["identity", "hard/"],
            &["identity", "log/", "hard/"],
        ],
    ));
    let counts = sweep(&subject, &all, |image| judge(image, &acknowledged));
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
        files: files(&disk, &DIRS),
        disk,
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
            let end = judge(&damage.apply(&subject), &acknowledged);
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
        files: files(&disk, &DIRS),
        disk,
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
        let end = judge(&damage.apply(&subject), &acknowledged);
        assert!(matches!(end, Ok(End::Whole)), "{damage:?}: {:?}", end.err());
    }
}
