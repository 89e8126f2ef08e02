//! Order, threads, bounds, callbacks: what a caller notices without any fault of the disk.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pennon_raft_store::disk::{Disk, DiskFile, MemoryDisk, Open, RealDisk};
use pennon_raft_store::log::{
    Flushing, LogEntry, LogOptions, LogStore, PAYLOAD_LEN_MAX, SegmentLog,
};

use super::common::{IDENTITY, answer, entries, entry, id, open, small, told, vote, wait};

/// A disk whose syncs of data wait at a gate, and which counts what passed.
#[derive(Clone)]
struct GatedDisk {
    inner: MemoryDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// How many syncs may still pass; none: any number.
    open: Mutex<Option<usize>>,
    changed: Condvar,
    writes: AtomicUsize,
    syncs: AtomicUsize,
    arrived: AtomicUsize,
}

impl Gate {
    fn allow(&self, syncs: Option<usize>) {
        *self.open.lock().unwrap() = syncs;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        while *open == Some(0) {
            open = self.changed.wait(open).unwrap();
        }
        *open = open.map(|n| n - 1);
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn until(&self, met: impl Fn(&Gate) -> bool) {
        let mut open = self.open.lock().unwrap();
        while !met(self) {
            open = self.changed.wait(open).unwrap();
        }
    }
}

struct GatedFile {
    inner: Box<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for GatedDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.inner.open(path, how)?;
        Ok(Box::new(GatedFile {
            inner,
            gate: self.gate.clone(),
        }))
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.gate.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }
}

/// Opens the gate when a test ends, however it ends: closing the log waits for its syncs.
struct Opener(Arc<Gate>);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.allow(None);
    }
}

/// No seal of its own, no second segment being filled while the gate counts.
fn threaded() -> LogOptions {
    LogOptions {
        flushing: Flushing::Thread,
        idle_seal: Duration::from_secs(3600),
        ..small()
    }
}

/// A log on a gated disk, with the filling of the next segment over and the gate shut.
fn gated(options: &LogOptions) -> (GatedDisk, SegmentLog, Opener) {
    let disk = GatedDisk {
        inner: MemoryDisk::new(),
        gate: Arc::new(Gate::default()),
    };
    open(&disk, options).unwrap().close();
    let before = disk.gate.syncs.load(Ordering::SeqCst);
    let log = open(&disk, options).unwrap();
    // Four slots are stored again, and the next segment is filled in one step.
    disk.gate
        .until(|gate| gate.syncs.load(Ordering::SeqCst) == before + 5);
    disk.gate.allow(Some(0));
    let opener = Opener(disk.gate.clone());
    (disk, log, opener)
}

#[test]
fn entries_are_readable_before_they_are_durable_and_answered_only_after() {
    let (disk, log, _opener) = gated(&threaded());
    let (done, answered) = answer();
    log.append(entries(1, 0..3, 50), done);
    assert_eq!(told(&log).entries, entries(1, 0..3, 50));
    assert_eq!(log.state().last, Some(id(1, 2)));
    let arrived = disk.gate.arrived.load(Ordering::SeqCst);
    disk.gate
        .until(|gate| gate.arrived.load(Ordering::SeqCst) >= arrived.max(1));
    assert!(answered.try_recv().is_err(), "answered before its sync");
    assert_eq!(
        told(&open(&disk.inner.crash_synced(), &small()).unwrap()).entries,
        []
    );
    disk.gate.allow(None);
    answered.recv().unwrap().unwrap();
    assert_eq!(
        told(&open(&disk.inner.crash_synced(), &small()).unwrap()).entries,
        entries(1, 0..3, 50)
    );
}

#[test]
fn what_queues_up_during_a_sync_is_one_batch_written_after_it_and_answered_in_order() {
    let (disk, log, _opener) = gated(&threaded());
    let gate = &disk.gate;
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |n: u64| -> pennon_raft_store::log::Done {
        let order = order.clone();
        Box::new(move |result| {
            result.unwrap();
            order.lock().unwrap().push(n);
        })
    };
    let (syncs, arrived) = (
        gate.syncs.load(Ordering::SeqCst),
        gate.arrived.load(Ordering::SeqCst),
    );
    log.append(entries(1, 0..1, 50), note(0));
    gate.until(|gate| gate.arrived.load(Ordering::SeqCst) == arrived + 1);
    let writes = gate.writes.load(Ordering::SeqCst);
    for n in 1..20 {
        match n {
            7 => log.truncate_after(Some(id(1, 500)), note(n)),
            9 => log.truncate_after(Some(id(1, 6)), note(n)),
            _ => {
                let next = log.state().last.unwrap().index + 1;
                log.append(
                    entries(if n > 9 { 2 } else { 1 }, next..next + 1, 50),
                    note(n),
                );
            }
        }
    }
    assert_eq!(
        gate.writes.load(Ordering::SeqCst),
        writes,
        "batch 2 was written before batch 1 was durable"
    );
    let expected = told(&log);
    gate.allow(None);
    wait(|done| log.truncate_after(None.or(expected.state.last), done)).unwrap();
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(
        gate.syncs.load(Ordering::SeqCst) - syncs,
        2,
        "nineteen calls in one batch"
    );
    drop(log);
    assert_eq!(told(&open(&disk.inner, &small()).unwrap()), expected);
}

#[test]
fn append_waits_when_the_queue_is_full_and_goes_on() {
    let (disk, log, _opener) = gated(&LogOptions {
        queue_bytes_max: 1000,
        ..threaded()
    });
    log.append(entries(1, 0..1, 5000), Box::new(|_| {}));
    let started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            started.store(true, Ordering::SeqCst);
            log.append(entries(1, 1..2, 10), Box::new(|_| {}));
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // Time enough for a call that does not wait. Other calls are not held up.
        for _ in 0..20_000 {
            assert_eq!(log.state().last, Some(id(1, 0)), "did not wait");
            std::thread::yield_now();
        }
        disk.gate.allow(None);
        waiting.join().unwrap();
    });
    assert_eq!(log.state().last, Some(id(1, 1)));
}

#[test]
fn a_panic_in_a_callback_poisons_the_log_and_everybody_is_answered() {
    for flushing in [Flushing::Thread, Flushing::Inline] {
        let disk = MemoryDisk::new();
        let log = open(
            &disk,
            &LogOptions {
                flushing,
                ..threaded()
            },
        )
        .unwrap();
        let (done, told_before) = answer();
        log.append(entries(1, 0..1, 10), done);
        told_before.recv().unwrap().unwrap();
        log.append(entries(1, 1..2, 10), Box::new(|_| panic!("planted")));
        let answers: Vec<_> = (2..5)
            .map(|index| {
                let (done, told) = answer();
                log.append(entries(1, index..index + 1, 10), done);
                told
            })
            .collect();
        // Those that came before the panic was noticed may have been refused by it, or not made it.
        for told in answers {
            told.recv().unwrap().unwrap_err();
        }
        assert!(log.poisoned().unwrap().contains("planted"));
        log.close();
        assert!(told(&open(&disk, &small()).unwrap()).entries.len() >= 2);
    }
}

#[test]
fn a_callback_may_call_the_log() {
    for flushing in [Flushing::Thread, Flushing::Inline] {
        let log = Arc::new(
            open(
                &MemoryDisk::new(),
                &LogOptions {
                    flushing,
                    ..threaded()
                },
            )
            .unwrap(),
        );
        let (done, told_last) = answer();
        let inner = log.clone();
        let again = move |result: io::Result<()>| {
            result.unwrap();
            inner.append(entries(1, 1..2, 10), done);
            assert_eq!(inner.read(0, 9, 1000).unwrap().len(), 2);
        };
        log.append(entries(1, 0..1, 10), Box::new(again));
        told_last.recv().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_its_time_has_nothing_until_it_says_so() {
    let disk = MemoryDisk::new();
    let log = open(&disk, &small()).unwrap();
    let left = || open(&disk.crash_synced(), &small()).unwrap().state();
    disk.set_sync_time(Duration::from_millis(10));
    let (done, entry_told) = answer();
    log.append(entries(1, 0..1, 10), done);
    let (done, vote_told) = answer();
    log.save_vote(vote(3), done);
    assert_eq!(log.read(0, 9, 1000).unwrap().len(), 1, "readable at once");
    tokio::time::sleep(Duration::from_millis(9)).await;
    assert!(entry_told.try_recv().is_err() && vote_told.try_recv().is_err());
    assert_eq!((left().last, left().vote), (None, None)); // I9
    tokio::time::sleep(Duration::from_millis(2)).await;
    entry_told.try_recv().unwrap().unwrap();
    vote_told.try_recv().unwrap().unwrap();
    assert_eq!((left().last, left().vote), (Some(id(1, 0)), Some(vote(3))));
    // Closing waits for nothing.
    let (done, told) = answer();
    log.append(entries(1, 1..2, 10), done);
    log.close();
    told.try_recv().unwrap().unwrap();
    assert_eq!(left().last, Some(id(1, 1)));
}

#[test]
fn the_last_owner_may_be_a_callback() {
    let disk = MemoryDisk::new();
    let log = Arc::new(open(&disk, &threaded()).unwrap());
    let (done, told) = answer();
    let owner = log.clone();
    let (release, released) = std::sync::mpsc::channel::<()>();
    log.append(
        entries(1, 0..1, 10),
        Box::new(move |result| {
            released.recv().unwrap();
            drop(owner);
            done(result);
        }),
    );
    drop(log);
    release.send(()).unwrap();
    told.recv().unwrap().unwrap();
}

#[test]
fn calls_that_break_a_rule_change_nothing_and_do_not_stop_the_log() {
    let log = open(&MemoryDisk::new(), &small()).unwrap();
    wait(|done| log.append(entries(1, 5..9, 10), done)).unwrap();
    wait(|done| log.purge(id(1, 6), done)).unwrap();
    let before = told(&log);
    let invalid = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput)
    };
    invalid(wait(|done| log.append(entries(1, 10..11, 10), done)));
    invalid(wait(|done| log.append(entries(1, 8..9, 10), done)));
    invalid(wait(|done| {
        log.append(vec![entry(1, 9, 1), entry(1, 11, 1)], done)
    }));
    let huge = LogEntry {
        id: id(1, 9),
        payload: Bytes::from(vec![0; PAYLOAD_LEN_MAX + 1]),
    };
    invalid(wait(|done| log.append(vec![huge], done)));
    invalid(wait(|done| log.truncate_after(Some(id(1, 5)), done)));
    invalid(wait(|done| log.truncate_after(None, done)));
    wait(|done| log.truncate_after(Some(id(1, 8)), done)).unwrap();
    wait(|done| log.purge(id(1, 3), done)).unwrap();
    wait(|done| log.append(vec![], done)).unwrap();
    assert_eq!((told(&log), log.poisoned()), (before, None));
}

#[test]
fn the_largest_entry_gets_a_segment_of_its_own_and_many_make_several_batches() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path()).unwrap();
    let options = LogOptions {
        flushing: Flushing::Thread,
        batch_bytes_max: 64 << 10,
        ..small()
    };
    let log = open(&disk, &options).unwrap();
    let large = LogEntry {
        id: id(1, 1),
        payload: Bytes::from(vec![7; PAYLOAD_LEN_MAX]),
    };
    let first = entry(1, 0, 10);
    wait(|done| log.append(vec![first.clone(), large.clone()], done)).unwrap();
    wait(|done| log.append(entries(1, 2..500, 1000), done)).unwrap();
    log.close();
    let log = open(&disk, &options).unwrap();
    assert!(
        log.read(0, 2, usize::MAX).unwrap() == [first, large],
        "the largest entry came back different"
    );
    assert_eq!(
        log.read(2, 500, usize::MAX).unwrap(),
        entries(1, 2..500, 1000)
    );
    assert_eq!(log.read(1, 500, 10).unwrap().len(), 1);
}

#[test]
fn the_idle_seal_comes_by_itself_and_carries_the_commit_index() {
    let disk = GatedDisk {
        inner: MemoryDisk::new(),
        gate: Arc::new(Gate::default()),
    };
    let options = LogOptions {
        idle_seal: Duration::from_millis(1),
        ..threaded()
    };
    let log = open(&disk, &options).unwrap();
    wait(|done| log.append(entries(1, 0..2, 10), done)).unwrap();
    log.save_committed(Some(id(1, 1)));
    let syncs = disk.gate.syncs.load(Ordering::SeqCst);
    let image = loop {
        disk.gate
            .until(|gate| gate.syncs.load(Ordering::SeqCst) >= syncs);
        let image = disk.inner.crash_synced();
        if open(&image.copy(), &small())
            .unwrap()
            .state()
            .committed
            .is_some()
        {
            break image;
        }
        std::thread::yield_now();
    };
    // Now the entries' own batch is protected: rot in it is not taken for a torn tail.
    let path = "log/0000000000000001.seg";
    let mut bytes = image.contents(path).unwrap();
    bytes[4096 + 48 + 30] ^= 1;
    image.overwrite(path, &bytes);
    assert!(open(&image, &small()).unwrap_err().is_corruption());
    assert_eq!(log.state().committed, Some(id(1, 1)));
}

#[test]
fn close_makes_everything_durable_and_ends_the_log() {
    let disk = MemoryDisk::new();
    let log = open(&disk, &threaded()).unwrap();
    let answers: Vec<_> = (0..50)
        .map(|index| {
            let (done, told) = answer();
            log.append(entries(1, index..index + 1, 300), done);
            told
        })
        .collect();
    log.save_vote(vote(4), Box::new(|result| result.unwrap()));
    log.save_committed(Some(id(1, 7)));
    log.close();
    log.close();
    for told in answers {
        told.try_recv().unwrap().unwrap();
    }
    wait(|done| log.append(entries(1, 50..51, 1), done)).unwrap_err();
    assert_eq!(log.poisoned(), None, "closed is not poisoned");
    let image = disk.crash_synced();
    let again = open(&image, &small()).unwrap();
    assert_eq!(told(&again).entries, entries(1, 0..50, 300));
    assert_eq!(
        (again.state().vote, again.state().committed),
        (Some(vote(4)), Some(id(1, 7)))
    );
}

#[test]
fn many_threads_read_what_they_appended_while_purges_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        flushing: Flushing::Thread,
        segment_bytes: 16 << 10,
        cache_bytes_max: 0,
        ..small()
    };
    let disk = RealDisk::new(dir.path()).unwrap();
    let log = SegmentLog::open(Arc::new(disk.clone()), options.clone(), IDENTITY).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, log) = (&stop, &log);
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let from = log.state().purged.map_or(0, |purged| purged.index + 1);
                    for found in log.read(from, from + 30, usize::MAX).unwrap() {
                        assert_eq!(found, entry(1, found.id.index, 200));
                    }
                }
            });
        }
        for index in 0..1500 {
            log.append(
                entries(1, index..index + 1, 200),
                Box::new(|result| result.unwrap()),
            );
            if index % 100 == 99 {
                wait(|done| log.purge(id(1, index - 60), done)).unwrap();
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    log.close();
    assert_eq!(
        told(&open(&disk, &options).unwrap()).entries,
        entries(1, 1440..1500, 200)
    );
}
