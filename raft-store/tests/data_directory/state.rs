//! `state/`, where sled has the history, flipped, cut, zeroed, swapped, deleted, and of another directory. Each
//! image is opened as the node opens it, beside an undamaged rest. It is derived, so there is no end but
//! one: the whole history is there, line by line what it was, filled again from snapshot and log where it
//! could not be used; nothing acknowledged is lost, and the node goes on.
//!
//! What no new store would mend (here: a file where a directory should be) is refused, and says what to do.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use pennon_raft_store::command::{Change, ClusterId};
use pennon_raft_store::disk::{Disk, MemoryDisk, Open};
use pennon_raft_store::history::{HistoryOptions, LateHistory};
use pennon_raft_store::raft::Raft;

use crate::damage::{
    Density, End, Subject, all_damage, files, gone, in_time, is_clear, long, report, sweep,
    together, works,
};
use crate::world::{Acknowledged, CLUSTER, Network, begin, leads, open_with, runtime};

const NODE: u64 = 1;
/// Lines of the history; more than are written here.
const MANY: usize = 10_000;
const GENERATION: &str = "g0000000000000001";

/// A node that was stopped properly: its disk without `state/`, what is in that, and what must be there.
struct World {
    disk: MemoryDisk,
    state: tempfile::TempDir,
    acknowledged: Vec<Acknowledged>,
    history: Vec<Change>,
}

impl World {
    fn new(cluster: u128, node: u64, writes: usize) -> World {
        let (disk, state) = (MemoryDisk::new(), tempfile::tempdir().unwrap());
        let acknowledged = runtime().block_on(async {
            let raft = start(&disk, state.path(), cluster, node).await.unwrap();
            let acknowledged = begin(&raft, &disk, node, writes).await;
            raft.shutdown().await;
            acknowledged
        });
        // Opened again, so that sled has files of every kind.
        let history = runtime().block_on(async {
            let raft = start(&disk, state.path(), cluster, node).await.unwrap();
            assert!(leads(&raft).await);
            let history = raft.changes().latest(None, MANY).unwrap();
            raft.shutdown().await;
            history
        });
        World {
            disk: disk.copy(),
            state,
            acknowledged,
            history,
        }
    }

    /// Opens the node with another `state/`.
    fn judge(&self, state: &Path) -> Result<End, String> {
        in_time(|| {
            runtime().block_on(async {
                let raft = match start(&self.disk.copy(), state, CLUSTER, NODE).await {
                    Ok(raft) => raft,
                    Err(refusal) => return Ok(End::Refused(refusal)),
                };
                if !leads(&raft).await {
                    return Err("it does not lead".to_owned());
                }
                let lines = raft.changes().latest(None, MANY);
                let lines = lines.map_err(|why| format!("no history: {why}"))?;
                if lines != self.history {
                    return Err(format!(
                        "{} lines of history became {}, or others",
                        self.history.len(),
                        lines.len()
                    ));
                }
                works(&raft, &self.acknowledged).await?;
                raft.shutdown().await;
                Ok(match state.join(GENERATION).exists() {
                    true => End::Whole,
                    false => End::Filled,
                })
            })
        })
    }
}

/// Starts a node as a node does; `Err` is what it says when it stops.
async fn start(disk: &MemoryDisk, state: &Path, cluster: u128, node: u64) -> Result<Raft, String> {
    let unusable = Arc::new(OnceLock::new());
    let heard = unusable.clone();
    let options = HistoryOptions {
        cluster: Some(ClusterId::new(cluster)),
        cache_bytes: 1 << 20,
        ..HistoryOptions::default()
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let history = LateHistory::of_directory(shared, state.to_owned(), options, move |why| {
        heard.set(why).unwrap();
    });
    let history = Arc::new(history.unwrap());
    let raft = open_with(disk, cluster, node, &Network::default(), history).await?;
    // Reading waits until it is open, or cannot be.
    let read = raft.changes().latest(None, 1);
    match unusable.get() {
        Some(why) => Err(why.clone()),
        None => read.map(|_| raft).map_err(|why| why.to_string()),
    }
}

/// The files of a directory, to be damaged.
fn load(directory: &Path) -> MemoryDisk {
    fn add(disk: &MemoryDisk, directory: &Path, name: &str) {
        for entry in fs::read_dir(directory.join(name)).unwrap() {
            let entry = entry.unwrap();
            let inner = entry.file_name().into_string().unwrap();
            let path = if name.is_empty() {
                inner
            } else {
                format!("{name}/{inner}")
            };
            if entry.file_type().unwrap().is_dir() {
                disk.create_dir_all(&path).unwrap();
                add(disk, directory, &path);
            } else {
                disk.open(&path, Open::CreateNew).unwrap();
                disk.overwrite(&path, &fs::read(entry.path()).unwrap());
            }
        }
    }
    let disk = MemoryDisk::new();
    add(&disk, directory, "");
    disk
}

fn dirs() -> Vec<String> {
    vec![
        String::new(),
        GENERATION.to_owned(),
        format!("{GENERATION}/blobs"),
    ]
}

fn all_files(disk: &MemoryDisk) -> Vec<String> {
    let dirs = dirs();
    files(disk, &dirs.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Writes an image to a directory of its own.
fn store(image: &MemoryDisk) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for dir in dirs() {
        fs::create_dir_all(directory.path().join(dir)).unwrap();
    }
    for file in all_files(image) {
        fs::write(directory.path().join(&file), image.contents(&file).unwrap()).unwrap();
    }
    directory
}

#[test]
fn damage_to_the_history_is_mended_from_the_rest() {
    let world = World::new(CLUSTER, NODE, 40);
    let stranger = |cluster, node, writes| load(World::new(cluster, node, writes).state.path());
    let disk = load(world.state.path());
    let subject = Subject {
        files: all_files(&disk),
        disk,
        strangers: vec![
            ("another cluster", stranger(CLUSTER + 1, NODE, 60)),
            ("another node", stranger(CLUSTER, NODE + 1, 40)),
            ("an earlier copy", stranger(CLUSTER, NODE, 20)),
        ],
    };
    assert!(subject.files.len() > 2, "{:?}", subject.files);
    let density = match long() {
        true => Density {
            flips: 61,
            cuts: 1_024,
            pages: 4_096,
        },
        false => Density {
            flips: 16_381,
            cuts: 32_768,
            pages: 32_768,
        },
    };
    let mut all = all_damage(&subject, density);
    all.extend(gone(&subject, &[&[GENERATION]]));
    let judge = |image: &MemoryDisk| world.judge(store(image).path());
    let counts = sweep(&subject, &all, judge);
    report("the history in state/", &counts);
    let [whole, filled, refused] = together(&counts);
    assert!(whole > 0 && filled > 0 && refused == 0, "{counts:?}");
}

/// Sound in itself, and somebody else's.
#[test]
fn the_history_of_another_directory_is_not_taken_for_this_nodes() {
    let world = World::new(CLUSTER, NODE, 40);
    for (what, cluster, node, writes, taken) in [
        ("another cluster's, longer", CLUSTER + 1, NODE, 60, false),
        ("another cluster's, as long", CLUSTER + 1, NODE, 40, false),
        (
            "another node's of this cluster",
            CLUSTER,
            NODE + 1,
            40,
            true,
        ),
        ("an earlier copy", CLUSTER, NODE, 20, false),
    ] {
        let other = World::new(cluster, node, writes);
        match world.judge(other.state.path()) {
            Ok(End::Whole) if taken => {}
            Ok(End::Filled) if !taken => {}
            Ok(End::Refused(why)) | Err(why) => panic!("{what}: {why}"),
            Ok(_) => panic!("{what}: taken for this node's: {}", !taken),
        }
    }
}

/// What a new store would not be any better with.
#[test]
fn a_file_in_place_of_the_directory_is_refused_with_a_remedy() {
    let world = World::new(CLUSTER, NODE, 10);
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::write(&state, "x").unwrap();
    let Ok(End::Refused(why)) = world.judge(&state) else {
        panic!("a file was taken for a directory");
    };
    assert!(is_clear(&why), "{why}");
    fs::remove_file(&state).unwrap();
    fs::create_dir_all(state.join("lock")).unwrap();
    let Ok(End::Refused(why)) = world.judge(&state) else {
        panic!("a directory was taken for the lock");
    };
    assert!(is_clear(&why) && why.contains("state/lock"), "{why}");
    fs::remove_dir_all(&state).unwrap();
    let filled = world.judge(&state).unwrap();
    assert!(matches!(filled, End::Filled), "a new store was not filled");
}
