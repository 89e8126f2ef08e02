//! Bringing a directory back: read, judge, cut, make durable, and only then say what the log holds.
//!
//! Order, and why: the slots first (they say which files count); then the segments, oldest first, judged
//! by `recovery.rs`; then leftovers are deleted, the torn tail is zeroed, the last batch and the
//! slots are written again, and everything kept is synced, because what a killed process left is only in
//! the page cache. Nothing is changed on disk before the verdict is "whole".
//!
//! A first open makes votes, segment 1 and the MANIFEST, in this order; so a MANIFEST that is missing
//! while anything was ever acknowledged is seen, and refused. When the disk is full, the reserve file is
//! given up once and the open tried again.

use std::io;
use std::sync::Arc;

use super::files::{
    Files, HARD_DIR, LOG_DIR, MANIFEST, MANIFEST_ASIDE, RESERVE, VOTES, segment_number,
    segment_path,
};
use super::format::{BATCHES_START, SEGMENT_LEN_MAX};
use super::prepare::{Preparer, keep_reserve};
use super::recovery::{End, Recovered, Refusal, Replay, Why};
use super::slots::{Kind, Loaded, Manifest, SlotPlace, TwoSlots, vote_from_words, vote_to_words};
use super::stream::Stream;
use super::writer::{Active, Parts, begin_segment, drop_purged, manifest_of};
use super::{Flushing, LogId, LogIdentity, LogOptions, OpenError, Vote};
use crate::disk::{Disk, DiskFile, Open, read_fully, read_whole};

const SLOT_DISTANCE: u64 = 4096;
const ZEROS: usize = 1 << 20;
const SEGMENT_BYTES_MIN: u64 = 8 << 10;

/// What was found.
pub(crate) struct Opened {
    pub(crate) parts: Parts,
    pub(crate) entries: std::collections::VecDeque<super::recovery::Found>,
    pub(crate) committed: Option<LogId>,
    pub(crate) vote: Option<Vote>,
}

/// Opens the log of a data directory, creating it when there is none.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    identity: LogIdentity,
) -> Result<Opened, OpenError> {
    let opened = match try_open(disk, options, identity) {
        Err(refusal) if refusal.is_disk_full() && disk.exists(RESERVE).unwrap_or(false) => {
            tracing::warn!(%refusal, "the disk is full: giving up the reserve file");
            disk.remove(RESERVE)
                .and_then(|()| disk.sync_dir(LOG_DIR))
                .map_err(|e| OpenError::io(RESERVE, "cannot give it up", e))?;
            return try_open(disk, options, identity);
        }
        opened => opened?,
    };
    keep_reserve(&**disk, options.reserve_bytes);
    Ok(opened)
}

fn try_open(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    identity: LogIdentity,
) -> Result<Opened, OpenError> {
    let io_error = |file: &str, e| OpenError::io(file, "cannot prepare the directory", e);
    for dir in [LOG_DIR, HARD_DIR] {
        disk.create_dir_all(dir).map_err(|e| io_error(dir, e))?;
    }
    disk.sync_dir("").map_err(|e| io_error("", e))?;
    if !disk.exists(MANIFEST).map_err(|e| io_error(MANIFEST, e))? {
        create(&**disk, segment_bytes(options), identity)?;
    }
    let manifest = load_manifest(&**disk, identity)?;
    let votes = load_votes(&**disk, identity)?;
    let list = Manifest::from_words(manifest.words);
    let whole = read_segments(&**disk, identity, list, &votes)?;
    settle(disk, options, identity, (manifest, votes), whole)
}

fn segment_bytes(options: &LogOptions) -> u64 {
    options
        .segment_bytes
        .clamp(SEGMENT_BYTES_MIN, SEGMENT_LEN_MAX)
}

struct Whole {
    log: Recovered,
    active: Active,
    end: End,
    leftovers: Vec<String>,
}

fn load_manifest(disk: &dyn Disk, identity: LogIdentity) -> Result<Loaded, OpenError> {
    let place = |offset| -> Result<SlotPlace, OpenError> {
        let file = disk
            .open(MANIFEST, Open::Existing)
            .map_err(|e| OpenError::io(MANIFEST, "cannot open", e))?;
        Ok(SlotPlace {
            path: MANIFEST,
            offset,
            file,
        })
    };
    let loaded = TwoSlots::load(Kind::Manifest, identity, [place(0)?, place(SLOT_DISTANCE)?])?;
    let list = Manifest::from_words(loaded.words);
    if list.first == 0 || list.first > list.last {
        let found = format!("it lists segments {} to {}", list.first, list.last);
        return Err(OpenError::corrupt(MANIFEST, 0, found));
    }
    Ok(loaded)
}

fn load_votes(disk: &dyn Disk, identity: LogIdentity) -> Result<Loaded, OpenError> {
    // A vote file that is missing is read as an empty one: a bad slot.
    let place = |path| -> Result<SlotPlace, OpenError> {
        let file = disk
            .open(path, Open::CreateOrOpen)
            .map_err(|e| OpenError::io(path, "cannot open", e))?;
        Ok(SlotPlace {
            path,
            offset: 0,
            file,
        })
    };
    TwoSlots::load(Kind::Vote, identity, [place(VOTES[0])?, place(VOTES[1])?])
}

fn read_segments(
    disk: &dyn Disk,
    identity: LogIdentity,
    list: Manifest,
    votes: &Loaded,
) -> Result<Whole, OpenError> {
    let names = disk
        .list(LOG_DIR)
        .map_err(|e| OpenError::io(LOG_DIR, "cannot list", e))?;
    let leftovers = leftovers(disk, &names, list)?;
    let mut replay = Replay::new(identity, list.floor);
    let mut end = None;
    for number in list.first..=list.last {
        let path = segment_path(number);
        let (file, bytes) = match open_segment(disk, &path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let found = "the segment is missing, and the MANIFEST lists it";
                return Err(OpenError::corrupt(path, 0, found));
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(OpenError::corrupt(path, SEGMENT_LEN_MAX, e.to_string()));
            }
            Err(e) => return Err(OpenError::io(path, "cannot read", e)),
            Ok(found) => found,
        };
        // Durable already unless somebody copied it here; and nothing is open but the active one.
        if number != list.last {
            file.sync_all()
                .map_err(|e| OpenError::io(path, "cannot make the log durable", e))?;
        }
        let found = replay
            .segment(number, &bytes, number == list.last)
            .map_err(refuse)?;
        let active = Active {
            number,
            file,
            length: bytes.len() as u64,
            end: found.offset,
        };
        end = Some((active, found));
    }
    let log = replay.finish().map_err(refuse)?;
    let vote_term = vote_from_words(votes.words).map_or(0, |vote| vote.term);
    if let (Some((path, offset, found)), Some(last)) = (votes.bad, log.stream.last)
        && last.term > vote_term
    {
        let found = format!(
            "{found}; the other vote is of term {vote_term}, and the log holds entries of term {}",
            last.term
        );
        return Err(OpenError::corrupt(path, offset, found));
    }
    match end {
        Some((active, end)) => Ok(Whole {
            log,
            active,
            end,
            leftovers,
        }),
        None => Err(OpenError::corrupt(MANIFEST, 0, "it lists no segment")),
    }
}

fn open_segment(disk: &dyn Disk, path: &str) -> io::Result<(Box<dyn DiskFile>, Vec<u8>)> {
    let file = disk.open(path, Open::Existing)?;
    let bytes = read_whole(&*file, SEGMENT_LEN_MAX)?;
    Ok((file, bytes))
}

/// Returns our own files that nothing lists. A segment behind the last listed one that was written to
/// must have been listed once: then it is the MANIFEST that lost something.
fn leftovers(disk: &dyn Disk, names: &[String], list: Manifest) -> Result<Vec<String>, OpenError> {
    let mut leftovers = Vec::new();
    for name in names {
        let path = format!("{LOG_DIR}/{name}");
        match segment_number(name) {
            Some(number) if (list.first..=list.last).contains(&number) => {}
            Some(number) => {
                if number > list.last && is_written(disk, &path)? {
                    let found = format!(
                        "the segment holds batches, and the MANIFEST ends with segment {}",
                        list.last
                    );
                    return Err(OpenError::corrupt(path, BATCHES_START, found));
                }
                leftovers.push(path);
            }
            None if path == MANIFEST_ASIDE => leftovers.push(path),
            None => {}
        }
    }
    Ok(leftovers)
}

fn is_written(disk: &dyn Disk, path: &str) -> Result<bool, OpenError> {
    let (_, bytes) = open_segment(disk, path).map_err(|e| OpenError::io(path, "cannot read", e))?;
    Ok(bytes.iter().skip(BATCHES_START as usize).any(|b| *b != 0))
}

/// The verdict is "whole": makes durable what is kept, and puts the parts of the log together.
fn settle(
    disk: &Arc<dyn Disk>,
    options: &LogOptions,
    identity: LogIdentity,
    slots: (Loaded, Loaded),
    whole: Whole,
) -> Result<Opened, OpenError> {
    keep(&**disk, &whole)?;
    let Recovered {
        mut stream,
        entries,
        sealed,
    } = whole.log;
    // A hint about what is not there any more is no hint.
    let last_index = stream.last.map(|last| last.index);
    let committed = stream.committed.filter(|id| Some(id.index) <= last_index);
    // Its record may stand in a segment that goes now; then the next batch carries it again.
    let committed_stored = committed == stream.committed && stream.droppable() == 0;
    let (
        Loaded {
            slots: mut manifest,
            ..
        },
        Loaded {
            slots: mut votes,
            words,
            ..
        },
    ) = slots;
    votes
        .save(words)
        .map_err(|e| OpenError::io(HARD_DIR, "cannot store what was found", e))?;
    let files = Arc::new(Files::new(disk.clone()));
    drop_purged(&**disk, &files, &mut manifest, &mut stream)
        .map_err(|e| OpenError::io(MANIFEST, "cannot store what was found", e))?;
    for dir in [LOG_DIR, HARD_DIR] {
        disk.sync_dir(dir)
            .map_err(|e| OpenError::io(dir, "cannot sync", e))?;
    }
    let segment_bytes = segment_bytes(options);
    let threaded = options.flushing == Flushing::Thread;
    let preparer = Preparer::new(disk.clone(), segment_bytes, options.reserve_bytes, threaded)
        .map_err(|e| OpenError::io(LOG_DIR, "cannot start a thread", e))?;
    let parts = Parts {
        disk: disk.clone(),
        files,
        identity,
        segment_bytes,
        manifest,
        votes,
        stream,
        active: whole.active,
        preparer,
        room: Arc::default(),
        sealed,
        committed_stored,
    };
    Ok(Opened {
        parts,
        entries,
        committed,
        vote: vote_from_words(words),
    })
}

/// Cuts the torn tail, makes the active segment durable, and deletes leftovers.
fn keep(disk: &dyn Disk, whole: &Whole) -> Result<(), OpenError> {
    let Whole {
        active,
        end,
        leftovers,
        ..
    } = whole;
    let path = segment_path(active.number);
    let io_error = |e| OpenError::io(path.as_str(), "cannot make the log durable", e);
    if let Some(found) = end.torn {
        tracing::warn!(file = %path, offset = active.end, found, "cutting a batch that was never acknowledged");
        zero(&*active.file, active.end, active.length).map_err(io_error)?;
    }
    rewrite(active, end.last_batch).map_err(io_error)?;
    active.file.sync_all().map_err(io_error)?;
    for path in leftovers {
        disk.remove(path)
            .map_err(|e| OpenError::io(path, "cannot delete a leftover", e))?;
    }
    Ok(())
}

/// Writes the last batch again as it was found. When its sync failed in the process before, the system
/// may call its pages clean although they never reached the disk; then a sync alone would do nothing.
/// All earlier batches were durable before this one was written.
fn rewrite(active: &Active, last_batch: u64) -> io::Result<()> {
    let mut bytes = vec![0; (active.end - last_batch) as usize];
    let filled = read_fully(&*active.file, &mut bytes, last_batch)?;
    active.file.write_at(&bytes[..filled], last_batch)
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min((to - from) as usize)];
    let mut at = from;
    while at < to {
        let step = (to - at).min(zeros.len() as u64);
        file.write_at(&zeros[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

/// Makes the first files. May be interrupted anywhere and done again.
fn create(disk: &dyn Disk, segment_bytes: u64, identity: LogIdentity) -> Result<(), OpenError> {
    let names = disk
        .list(LOG_DIR)
        .map_err(|e| OpenError::io(LOG_DIR, "cannot list", e))?;
    let lost = |found: &str| OpenError::corrupt(MANIFEST, 0, format!("it is missing, and {found}"));
    for name in names.iter().filter(|name| segment_number(name).is_some()) {
        let path = format!("{LOG_DIR}/{name}");
        if is_written(disk, &path)? {
            return Err(lost(&format!("{path} holds batches")));
        }
        disk.remove(&path)
            .map_err(|e| OpenError::io(&path, "cannot delete a leftover", e))?;
    }
    match load_votes(disk, identity) {
        Ok(votes) if vote_from_words(votes.words).is_some() => {
            return Err(lost("this node has voted"));
        }
        // Neither whole: a first open that was interrupted.
        Err(refusal) if !refusal.is_corruption() => return Err(refusal),
        _ => {}
    }
    create_files(disk, segment_bytes, identity)
        .map_err(|e| OpenError::io(LOG_DIR, "cannot create the log", e))
}

fn create_files(disk: &dyn Disk, segment_bytes: u64, identity: LogIdentity) -> io::Result<()> {
    let place = |path, offset, file| SlotPlace { path, offset, file };
    let vote = |path| Ok::<_, io::Error>(place(path, 0, disk.open(path, Open::CreateOrOpen)?));
    TwoSlots::new(Kind::Vote, identity, [vote(VOTES[0])?, vote(VOTES[1])?])
        .save(vote_to_words(None))?;
    disk.sync_dir(HARD_DIR)?;
    let mut stream = Stream::default();
    let file = disk.open(&segment_path(1), Open::CreateNew)?;
    zero(&*file, 0, segment_bytes)?;
    begin_segment(disk, &*file, identity, 1, segment_bytes, &stream)?;
    stream.segment(1);
    let aside = |offset| {
        Ok::<_, io::Error>(place(
            MANIFEST,
            offset,
            disk.open(MANIFEST_ASIDE, Open::CreateOrOpen)?,
        ))
    };
    let mut slots = TwoSlots::new(Kind::Manifest, identity, [aside(0)?, aside(SLOT_DISTANCE)?]);
    slots.save(manifest_of(&stream).to_words())?;
    slots.sync()?;
    disk.rename(MANIFEST_ASIDE, MANIFEST)?;
    disk.sync_dir(LOG_DIR)
}

fn refuse(refusal: Refusal) -> OpenError {
    let path = segment_path(refusal.segment);
    match refusal.why {
        Why::Corrupt(found) => OpenError::corrupt(path, refusal.offset, found),
        Why::Foreign(found) => OpenError::foreign(path, found),
        Why::Newer(found) => OpenError::newer(path, found),
    }
}
