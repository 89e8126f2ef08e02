//! The disk of a simulated node: memory, with power that can be cut in the middle of anything.
//!
//! Operations are done at once. What takes time is a round of the log ([`Disk::sync_time`]): until it is
//! over nothing of it is on the disk, and whoever waits for it waits. Snapshots and the identity take
//! none. So between two steps of the world everything that was written is synced, and the cut that hurts
//! is counted in operations: before the n-th from now the disk is taken as a power cut leaves it, every
//! later operation fails, and the machine is doomed.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pennon_raft_store::disk::{Disk, DiskFile, Kept, MemoryDisk, Open, Operation};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64;

use super::universe::{Machine, Universe};

/// A disk of one life. Clones share it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    memory: MemoryDisk,
    machine: Machine,
    universe: Universe,
    plug: Arc<Mutex<Plug>>,
    /// It says that the log is synced, and leaves that to the next sync of anything else, as a file
    /// system with a journal may: the control of what fsync is for.
    lies: bool,
    /// Milliseconds that a sync of the log takes, at least and at most.
    sync_ms: (u64, u64),
}

struct Plug {
    random: StdRng,
    /// Operations until the power goes.
    left: Option<u64>,
    /// What the power cut left.
    image: Option<MemoryDisk>,
    /// Files of the log that were not synced when that was asked for.
    behind: BTreeSet<String>,
}

impl SimDisk {
    pub(crate) fn new(memory: MemoryDisk, machine: Machine, universe: Universe, seed: u64) -> Self {
        let plug = Plug {
            random: StdRng::seed_from_u64(seed),
            left: None,
            image: None,
            behind: BTreeSet::new(),
        };
        SimDisk {
            memory,
            machine,
            universe,
            plug: Arc::new(Mutex::new(plug)),
            lies: false,
            sync_ms: (0, 0),
        }
    }

    /// The same disk, whose syncs of the log take so many milliseconds.
    pub(crate) fn that_takes(self, sync_ms: (u64, u64)) -> Self {
        SimDisk { sync_ms, ..self }
    }

    /// The same disk, which does not sync the log when told to; a power cut takes what was not.
    pub(crate) fn that_lies(self) -> Self {
        SimDisk { lies: true, ..self }
    }

    pub(crate) fn memory(&self) -> &MemoryDisk {
        &self.memory
    }

    /// Cuts the power before the n-th operation from now, 1 being the next.
    pub(crate) fn cut_power_in(&self, operations: u64) {
        self.plug().left = Some(operations.max(1));
    }

    /// The power stays on after all.
    pub(crate) fn keep_power(&self) {
        self.plug().left = None;
    }

    /// The disk as the next life finds it, after the power was cut, now or before.
    pub(crate) fn without_power(&self) -> MemoryDisk {
        let mut plug = self.plug();
        match plug.image.take() {
            Some(image) => image,
            None => self.crash(&mut plug.random),
        }
    }

    fn crash(&self, random: &mut StdRng) -> MemoryDisk {
        let mut lost = 0;
        let image = self.memory.crash(|operation| {
            let kept = match self.lies {
                true => Kept::Nothing,
                false => kept(random, operation),
            };
            lost += u64::from(kept != Kept::All);
            kept
        });
        let mut state = self.universe.lock();
        state.count("unsynced operations lost", lost);
        state.note(format_args!("disk {} lost {lost}", self.machine));
        image
    }

    fn plug(&self) -> MutexGuard<'_, Plug> {
        self.plug.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an operation through that changes something.
    fn gate(&self) -> io::Result<()> {
        let mut plug = self.plug();
        if plug.image.is_some() {
            return Err(io::Error::from_raw_os_error(5));
        }
        let Some(left) = &mut plug.left else {
            return Ok(());
        };
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        plug.left = None;
        let image = self.crash(&mut plug.random);
        plug.image = Some(image);
        drop(plug);
        self.universe.doom(self.machine);
        Err(io::Error::from_raw_os_error(5))
    }

    /// Syncs what it only said it had synced.
    fn write_back(&self) -> io::Result<()> {
        let behind = std::mem::take(&mut self.plug().behind);
        for path in behind {
            if self.memory.exists(&path)? {
                self.memory.open(&path, Open::Existing)?.sync_data()?;
            }
        }
        Ok(())
    }

    fn note(&self, what: &str, path: &str) {
        let machine = self.machine;
        self.universe
            .note(format_args!("disk {machine} {what} {path}"));
    }
}

/// What a power cut leaves of an operation: mostly all or nothing, sometimes a part.
fn kept(random: &mut StdRng, operation: &Operation) -> Kept {
    match (random.random_range(0..6), operation) {
        (0 | 1, _) => Kept::Nothing,
        (2 | 3, _) => Kept::All,
        (4, Operation::Write { bytes, .. }) => Kept::Prefix(random.random_range(0..=bytes.len())),
        _ => Kept::Sectors(random.random()),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        if how != Open::Existing {
            self.gate()?;
        }
        let file = self.memory.open(path, how)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            path: path.to_owned(),
        }))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.memory.exists(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.gate()?;
        self.note("remove", path);
        self.memory.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.gate()?;
        self.note("rename", to);
        self.memory.rename(from, to)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.gate()?;
        self.memory.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.gate()?;
        self.write_back()?;
        self.memory.sync_dir(dir)
    }

    fn sync_time(&self) -> Duration {
        match self.sync_ms {
            (0, 0) => Duration::ZERO,
            (least, most) => Duration::from_millis(self.plug().random.random_range(least..=most)),
        }
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.memory.free_bytes()
    }
}

struct SimFile {
    disk: SimDisk,
    file: Box<dyn DiskFile>,
    path: String,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.gate()?;
        let (machine, hash) = (self.disk.machine, xxh3_64(bytes));
        self.disk.universe.note(format_args!(
            "disk {machine} write {} {offset} {} {hash:016x}",
            self.path,
            bytes.len()
        ));
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.gate()?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.gate()?;
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.gate()?;
        if self.disk.lies && self.path.ends_with(".seg") {
            self.disk.plug().behind.insert(self.path.clone());
            return Ok(());
        }
        self.disk.write_back()?;
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.gate()?;
        self.disk.write_back()?;
        self.file.sync_all()
    }
}
