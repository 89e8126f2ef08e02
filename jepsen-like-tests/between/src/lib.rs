//! What stands between a node and the system (`LD_PRELOAD`): calls that write, sync and name files, and
//! the time of day. What it does to them stands in a control file, which `jepsen-like-tests/src/shim/mod.rs` writes and this maps:
//! - calls fail, with an error of the harness's choice;
//! - the process kills itself before, after or in the middle of the n-th call;
//! - the time of day is another one, or runs at another rate;
//! - what a call replaces is kept in a directory until it is synced, so that after a kill all that was not
//!   synced can be taken back, as a power cut would (`undo.rs` there).
//!
//! What must hold: only files below one directory are touched; without a control file, and while nothing
//! is asked for, every call goes through as it is; each thing done is counted. What is done on the way
//! (links, journals) goes through the same functions, which pass it on: none of it is below that directory,
//! but what is only read; so no lock is taken twice.
//!
//! The one crate with unsafe code: functions of the C library can be taken over in no other way. What is
//! unsafe is at its end, and calls what is not.
//!
//! Left out: calls that go past the C library (fallocate; clocks other than the time of day); making and
//! removing of directories is taken as durable at once. `sync_file_range` makes nothing durable.

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

// The words of the control file; `Word` in src/shim/mod.rs of jepsen-like-tests.
const ARMED: usize = 0;
const SYNC_ERRNO: usize = 1;
const WRITE_ERRNO: usize = 2;
const NAME_ERRNO: usize = 3;
/// How many more calls fail.
const FAILURES: usize = 4;
const KILL_AT: usize = 5;
const KILL_WHAT: usize = 6;
const KILL_WHEN: usize = 7;
/// Nanoseconds; parts of a million more than 1; nanoseconds since 1970.
const CLOCK_OFFSET: usize = 8;
const CLOCK_RATE: usize = 9;
const CLOCK_BASE: usize = 10;
// What was done.
const SYNCS_FAILED: usize = 16;
const WRITES_FAILED: usize = 17;
const NAMES_FAILED: usize = 18;
const CLOCKS_MOVED: usize = 19;
const KILLED: usize = 20;
/// Numbers the files that lost their names.
const SAVED: usize = 21;
/// Something could not be kept.
const UNKEPT: usize = 22;
const WORDS: usize = 32;

const CONTROL_LEN: usize = 4_096;
const PATTERN_AT: u64 = 1_024;
const LAST_AT: u64 = 2_048;
const TEXT_LEN: usize = 1_024;

// KILL_WHEN.
const BEFORE: i64 = 0;
const HALF: i64 = 2;

// Records of journals, as in undo.rs there.
const CONTENT: u64 = 1;
const SYNCED: u64 = 2;
const CREATED: u64 = 3;
const RENAMED: u64 = 4;
const UNLINKED: u64 = 5;
const RECORD_LEN: usize = 32;

const NANOS: i64 = 1_000_000_000;

/// A kind of calls: its bit in KILL_WHAT, the word with its error, the word that counts failures.
type Calls = (i64, usize, usize);
const WRITE: Calls = (1, WRITE_ERRNO, WRITES_FAILED);
const SYNC: Calls = (2, SYNC_ERRNO, SYNCS_FAILED);
const NAME: Calls = (4, NAME_ERRNO, NAMES_FAILED);

/// Set before `main`, if the process has a control file.
static BETWEEN: OnceLock<Between> = OnceLock::new();

struct Between {
    words: &'static [AtomicI64; WORDS],
    control: File,
    data: PathBuf,
    undo: Option<PathBuf>,
    lock: Mutex<()>,
}

/// The files of the node, when one is meant.
fn watching() -> Option<&'static Between> {
    let between = BETWEEN.get()?;
    (between.undo.is_some() || between.word(ARMED) != 0).then_some(between)
}

/// The same with the path of an open file.
fn watched(fd: c_int) -> Option<(&'static Between, PathBuf)> {
    let between = watching()?;
    let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    path.starts_with(&between.data).then_some((between, path))
}

/// The same with a path as it was given.
fn watched_at(path: &Path) -> Option<&'static Between> {
    watching().filter(|between| path.starts_with(&between.data))
}

/// What the system answered.
fn system(done: c_long) -> io::Result<c_long> {
    match done {
        ..0 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

impl Between {
    fn word(&self, word: usize) -> i64 {
        self.words[word].load(Ordering::SeqCst)
    }

    fn count(&self, word: usize) -> i64 {
        self.words[word].fetch_add(1, Ordering::SeqCst)
    }

    /// A path as the harness says it: below the data directory, with a leading '/'.
    fn short(&self, path: &Path) -> Vec<u8> {
        let data = self.data.as_os_str().len();
        path.as_os_str().as_bytes()[data..].to_vec()
    }

    fn is_wanted(&self, path: &Path) -> bool {
        let mut text = [0; TEXT_LEN];
        if self.word(ARMED) == 0 || self.control.read_exact_at(&mut text, PATTERN_AT).is_err() {
            return false;
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        let short = self.short(path);
        end == 0 || short.windows(end).any(|part| part == &text[..end])
    }

    fn tell(&self, path: &Path) {
        let mut text = self.short(path);
        text.resize(TEXT_LEN, 0);
        // Only for people.
        let _ = self.control.write_all_at(&text, LAST_AT);
    }

    /// Whether this call is the last one; an error when it is to fail.
    fn before(&self, calls: Calls, path: &Path) -> io::Result<bool> {
        let (bit, errno, failed) = calls;
        let (dies, error) = (self.word(KILL_WHAT) & bit != 0, self.word(errno));
        if !(dies || error != 0) || !self.is_wanted(path) {
            return Ok(false);
        }
        let last = dies && self.words[KILL_AT].fetch_sub(1, Ordering::SeqCst) == 1;
        let when = self.word(KILL_WHEN);
        // Only a write has a middle.
        if last && (when == BEFORE || when == HALF && calls != WRITE) {
            self.die(path);
        }
        if error != 0 && self.words[FAILURES].fetch_sub(1, Ordering::SeqCst) > 0 {
            self.tell(path);
            self.count(failed);
            let error = c_int::try_from(error).unwrap_or(libc::EIO);
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(last)
    }

    fn die(&self, path: &Path) -> ! {
        self.tell(path);
        self.count(KILLED);
        kill_self()
    }

    fn after(&self, last: bool, path: &Path) {
        if last {
            self.die(path);
        }
    }

    /// Makes a call after what it replaces was kept, if that is asked for; nobody else's in between.
    fn keeping<T>(
        &self,
        keep: impl FnOnce(&Path) -> io::Result<()>,
        call: impl FnOnce() -> T,
    ) -> T {
        let Some(undo) = &self.undo else {
            return call();
        };
        let _alone = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(keep(undo));
        call()
    }

    /// Notes when something could not be kept: no file could be opened, say. From then on journals say too
    /// little, or call what is durable not synced; the harness makes no use of them.
    fn note(&self, kept: io::Result<()>) {
        if kept.is_err() {
            self.words[UNKEPT].store(1, Ordering::SeqCst);
        }
    }

    fn write(
        &self,
        fd: c_int,
        path: &Path,
        count: usize,
        at: u64,
        call: impl FnOnce(usize) -> c_long,
    ) -> io::Result<c_long> {
        let last = self.before(WRITE, path)?;
        let half = last && self.word(KILL_WHEN) == HALF;
        let some = if half { count / 2 } else { count };
        let keep = |undo: &Path| keep_content(undo, fd, at, at + some as u64);
        let done = self.keeping(keep, || system(call(some)));
        self.after(last, path);
        done
    }

    fn truncate(
        &self,
        fd: c_int,
        path: &Path,
        len: u64,
        call: impl FnOnce() -> c_long,
    ) -> io::Result<c_long> {
        let last = self.before(WRITE, path)?;
        let keep = |undo: &Path| keep_content(undo, fd, len, u64::MAX);
        let done = self.keeping(keep, || system(call()));
        self.after(last, path);
        done
    }

    fn sync(&self, path: &Path, call: impl FnOnce() -> c_long) -> io::Result<c_long> {
        let last = self.before(SYNC, path)?;
        let journal = self.undo.as_ref().and_then(|undo| {
            let found = fs::metadata(path).ok()?;
            let kind = if found.is_dir() { 'd' } else { 'f' };
            Some((undo, undo.join(format!("{kind}{}", found.ino()))))
        });
        let alone = || self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let before = journal.as_ref().map_or(0, |(_, journal)| {
            let _alone = alone();
            fs::metadata(journal).map_or(0, |found| found.len())
        });
        // Others may write meanwhile; theirs is not durable by this.
        let done = system(call());
        if let (Some((undo, journal)), true, true) = (&journal, done.is_ok(), before > 0) {
            let _alone = alone();
            let quiet = fs::metadata(journal).is_ok_and(|found| found.len() == before);
            self.note(match quiet {
                true => drop_journal(undo, journal),
                false => append(journal, SYNCED, before, 0, &[]),
            });
        }
        self.after(last, path);
        done
    }

    fn open(&self, path: &Path, flags: c_int, call: impl Fn() -> c_long) -> io::Result<c_long> {
        if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
            let writes = flags & (libc::O_WRONLY | libc::O_RDWR) != 0;
            // It makes nothing: it is refused where a disk can only be read, and never the last.
            if writes && self.word(NAME_ERRNO) != 0 {
                self.before(NAME, path)?;
            }
            return system(call());
        }
        let last = self.before(NAME, path)?;
        let was_there = path.exists();
        let cuts = |undo: &Path| match was_there && flags & libc::O_TRUNC != 0 {
            true => keep_content(undo, File::open(path)?.as_raw_fd(), 0, u64::MAX),
            false => Ok(()),
        };
        let made = || {
            let done = system(call());
            if let (Some(undo), false, true, Ok(found)) =
                (&self.undo, was_there, done.is_ok(), fs::metadata(path))
            {
                // The number may have been another file's.
                self.note(drop_journal(undo, &undo.join(format!("f{}", found.ino()))));
                self.note(keep_name(undo, CREATED, 0, path, Path::new("")));
            }
            done
        };
        let done = self.keeping(cuts, made);
        self.after(last, path);
        done
    }

    fn rename(&self, from: &Path, to: &Path, call: impl FnOnce() -> c_long) -> io::Result<c_long> {
        self.take_name(RENAMED, to, from, call)
    }

    fn remove(&self, path: &Path, call: impl FnOnce() -> c_long) -> io::Result<c_long> {
        self.take_name(UNLINKED, path, Path::new(""), call)
    }

    /// A name stands for another file from now on, or for none. The one that it stood for is kept.
    fn take_name(
        &self,
        kind: u64,
        path: &Path,
        from: &Path,
        call: impl FnOnce() -> c_long,
    ) -> io::Result<c_long> {
        let last = self.before(NAME, path)?;
        let made = || {
            let undo = self.undo.as_ref();
            let saved = undo.map(|undo| (undo, self.keep_file(undo, path)));
            let done = system(call());
            if let (Some((undo, saved)), true) = (saved, done.is_ok())
                && (kind == RENAMED || saved > 0)
            {
                self.note(keep_name(undo, kind, saved, path, from));
            }
            done
        };
        let done = self.keeping(|_| Ok(()), made);
        self.after(last, path);
        done
    }

    /// Makes or removes a directory: with an old one all that was in it is gone for good, and the number of
    /// a new one may have been another's.
    fn directory(&self, path: &Path, call: impl FnOnce() -> c_long) -> io::Result<c_long> {
        let last = self.before(NAME, path)?;
        let forget = |undo: &Path| match fs::metadata(path) {
            Ok(found) => drop_journal(undo, &undo.join(format!("d{}", found.ino()))),
            Err(_) => Ok(()),
        };
        let done = self.keeping(forget, || {
            let done = system(call());
            self.undo.iter().for_each(|undo| self.note(forget(undo)));
            done
        });
        self.after(last, path);
        done
    }

    /// Keeps a file that is about to lose its name; 0 when there is none.
    fn keep_file(&self, undo: &Path, path: &Path) -> u64 {
        let number = self.count(SAVED).unsigned_abs() + 1;
        match fs::hard_link(path, undo.join(format!("s{number}"))) {
            Ok(()) => number,
            Err(_) => 0,
        }
    }

    /// What a clock that is moved shows, from what it is.
    fn moved(&self, real: i64) -> Option<i64> {
        let (offset, rate) = (self.word(CLOCK_OFFSET), self.word(CLOCK_RATE));
        if offset == 0 && rate == 0 {
            return None;
        }
        self.count(CLOCKS_MOVED);
        let since = i128::from(real - self.word(CLOCK_BASE));
        let more = since * i128::from(rate) / 1_000_000;
        let shown = i128::from(real) + i128::from(offset) + more;
        Some(i64::try_from(shown.max(0)).unwrap_or(i64::MAX))
    }
}

/// Keeps the bytes of a file from `at` to `end`, which are about to be replaced.
fn keep_content(undo: &Path, fd: c_int, at: u64, end: u64) -> io::Result<()> {
    // It may be open for writing only.
    let reader = File::open(format!("/proc/self/fd/{fd}"))?;
    let found = reader.metadata()?;
    if !found.is_file() {
        return Ok(());
    }
    let len = end.min(found.len()).saturating_sub(at);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    reader.read_exact_at(&mut bytes, at)?;
    let journal = undo.join(format!("f{}", found.ino()));
    append(&journal, CONTENT, at, found.len(), &bytes)
}

fn keep_name(undo: &Path, kind: u64, saved: u64, path: &Path, other: &Path) -> io::Result<()> {
    let found = fs::metadata(path.parent().unwrap_or(path))?;
    let mut payload = path.as_os_str().as_bytes().to_vec();
    payload.push(0);
    payload.extend(other.as_os_str().as_bytes());
    let journal = undo.join(format!("d{}", found.ino()));
    append(&journal, kind, saved, 0, &payload)
}

fn append(journal: &Path, kind: u64, at: u64, len_before: u64, payload: &[u8]) -> io::Result<()> {
    let mut record = Vec::with_capacity(RECORD_LEN + payload.len());
    for word in [kind, at, len_before, payload.len() as u64] {
        record.extend(word.to_ne_bytes());
    }
    record.extend(payload);
    let mut file = OpenOptions::new().create(true).append(true).open(journal)?;
    file.write_all(&record)
}

/// What a journal holds is durable; files kept for it go.
fn drop_journal(undo: &Path, journal: &Path) -> io::Result<()> {
    let bytes = match fs::read(journal) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let mut rest = &bytes[..];
    while let Some((head, tail)) = rest.split_first_chunk::<RECORD_LEN>() {
        let word = |n: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[8 * n..8 * n + 8]);
            u64::from_ne_bytes(word)
        };
        if matches!(word(0), RENAMED | UNLINKED) {
            // There may have been none.
            let _ = fs::remove_file(undo.join(format!("s{}", word(1))));
        }
        let len = usize::try_from(word(3)).unwrap_or(usize::MAX);
        rest = tail.get(len..).unwrap_or_default();
    }
    fs::remove_file(journal)
}

// ---- From here on: the C library's side ----

/// Run by the loader, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    let text = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(control), Some(data)) = (text("FAULT_CONTROL"), text("FAULT_DATA")) else {
        return;
    };
    let opened = OpenOptions::new().read(true).write(true).open(control);
    let Ok(control) = opened else { return };
    let (read, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let none = std::ptr::null_mut();
    // SAFETY: a new mapping at a place of the system's choice.
    let map = unsafe { libc::mmap(none, CONTROL_LEN, read, shared, control.as_raw_fd(), 0) };
    if map == libc::MAP_FAILED {
        return;
    }
    // SAFETY: the mapping is a page, longer than the words, aligned, and stays for ever; whoever else has
    // it (the harness) changes whole words.
    let words = unsafe { &*map.cast::<[AtomicI64; WORDS]>() };
    let between = Between {
        words,
        control,
        data,
        undo: text("FAULT_UNDO"),
        lock: Mutex::new(()),
    };
    // This is called once.
    let _ = BETWEEN.set(between);
}

fn kill_self() -> ! {
    // SAFETY: a signal to this process, which does not survive it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}

/// Hands a result on as C functions do.
fn give(result: io::Result<c_long>) -> c_long {
    result.unwrap_or_else(|error| {
        // SAFETY: the place of this thread's own error.
        unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
        -1
    })
}

/// # Safety
/// `text` ends with a zero byte, as the C library's caller promised.
unsafe fn path_from(text: *const c_char) -> PathBuf {
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text) };
    PathBuf::from(OsStr::from_bytes(text.to_bytes()))
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the caller's arguments, or fewer bytes.
    let call = |count: usize| unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, at) };
    let done = match watched(fd) {
        Some((between, path)) => between.write(fd, &path, count, at.unsigned_abs(), call),
        None => system(call(count)),
    };
    give(done) as isize
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the same function where offsets have 64 bits.
    unsafe { pwrite64(fd, bytes, count, at) }
}

/// # Safety
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: the caller's arguments, or fewer bytes.
    let call = |count: usize| unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) };
    let done = match watched(fd) {
        Some((between, path)) => {
            // SAFETY: these only look at an open file.
            let (flags, at) = unsafe {
                (
                    libc::fcntl(fd, libc::F_GETFL),
                    libc::lseek(fd, 0, libc::SEEK_CUR),
                )
            };
            let end = || fs::metadata(&path).map_or(0, |found| found.len());
            let appends = flags & libc::O_APPEND != 0;
            let at = if appends { end() } else { at.unsigned_abs() };
            between.write(fd, &path, count, at, call)
        }
        None => system(call(count)),
    };
    give(done) as isize
}

/// # Safety
/// As `writev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    if watched(fd).is_none() {
        // SAFETY: the caller's arguments.
        return give(system(unsafe {
            libc::syscall(libc::SYS_writev, fd, parts, count)
        })) as isize;
    }
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller has so many parts.
        let part = unsafe { &*parts.add(at) };
        if part.iov_len > 0 {
            // Fewer bytes than asked for may be written at a time.
            // SAFETY: the caller's part.
            return unsafe { write(fd, part.iov_base, part.iov_len) };
        }
    }
    0
}

/// # Safety
/// As `ftruncate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, len: i64) -> c_int {
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) };
    let done = match watched(fd) {
        Some((between, path)) => between.truncate(fd, &path, len.unsigned_abs(), call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `ftruncate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, len: i64) -> c_int {
    // SAFETY: the same function where offsets have 64 bits.
    unsafe { ftruncate64(fd, len) }
}

fn sync_by(number: c_long, fd: c_int) -> c_int {
    // SAFETY: a number that is no open file is refused.
    let call = || unsafe { libc::syscall(number, fd) };
    let done = match watched(fd) {
        Some((between, path)) => between.sync(&path, call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync_by(libc::SYS_fsync, fd)
}

/// # Safety
/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync_by(libc::SYS_fdatasync, fd)
}

/// # Safety
/// As `sync_file_range(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(fd: c_int, at: i64, len: i64, flags: c_uint) -> c_int {
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(libc::SYS_sync_file_range, fd, at, len, flags) };
    let refused = watched(fd).and_then(|(between, path)| between.before(SYNC, &path).err());
    give(refused.map_or_else(|| system(call()), Err)) as c_int
}

/// In C its third argument may be missing; it is passed as any other and then not looked at.
///
/// # Safety
/// As `open(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    // SAFETY: the caller's path.
    let text = unsafe { path_from(path) };
    let done = match watched_at(&text) {
        Some(between) => between.open(&text, flags, call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `open(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the same function.
    unsafe { open64(path, flags, mode) }
}

/// # Safety
/// As `rename(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let (here, number) = (libc::AT_FDCWD, libc::SYS_renameat2);
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(number, here, from, here, to, 0) };
    // SAFETY: the caller's paths.
    let (from, to) = unsafe { (path_from(from), path_from(to)) };
    let done = match watched_at(&to) {
        Some(between) => between.rename(&from, &to, call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `unlink(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's path.
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

/// # Safety
/// As `unlinkat(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, name: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(libc::SYS_unlinkat, at, name, flags) };
    // SAFETY: the caller's name.
    let name = unsafe { path_from(name) };
    // A whole path stays what it is.
    let path = match watched(at) {
        Some((_, directory)) => directory.join(name),
        None => name,
    };
    let done = match watched_at(&path) {
        Some(between) if flags & libc::AT_REMOVEDIR != 0 => between.directory(&path, call),
        Some(between) => between.remove(&path, call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `rmdir(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's path.
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

/// # Safety
/// As `mkdir(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the caller's arguments.
    let call = || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    // SAFETY: the caller's path.
    let path = unsafe { path_from(path) };
    let done = match watched_at(&path) {
        Some(between) => between.directory(&path, call),
        None => system(call()),
    };
    give(done) as c_int
}

/// # Safety
/// As `clock_gettime(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, now: *mut libc::timespec) -> c_int {
    // SAFETY: the caller's arguments.
    let done = system(unsafe { libc::syscall(libc::SYS_clock_gettime, clock, now) });
    if let (libc::CLOCK_REALTIME, Ok(_), Some(between)) = (clock, &done, BETWEEN.get()) {
        // SAFETY: the system has just filled it.
        let now = unsafe { &mut *now };
        if let Some(shown) = between.moved(now.tv_sec * NANOS + now.tv_nsec) {
            (now.tv_sec, now.tv_nsec) = (shown / NANOS, shown % NANOS);
        }
    }
    give(done) as c_int
}
