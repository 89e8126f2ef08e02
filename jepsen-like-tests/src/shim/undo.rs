//! What a power cut takes: everything that was not synced, taken back after a process was killed.
//!
//! The library keeps what each call replaced, in a journal for each file and one for the names in each
//! directory, until a sync made the calls before it durable. Of what is left in a journal a power cut
//! takes the newest part: how much of it is drawn for each file and each directory, so that later writes to
//! one file survive earlier ones to another; the oldest write that is taken may be torn between two blocks.
//!
//! What must hold: what was synced is not touched; the process is gone.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::failure::{Failure, Result};

/// What a disk writes at once.
const BLOCK: u64 = 512;
const RECORD_LEN: usize = 32;
// As in the library.
const CONTENT: u64 = 1;
const SYNCED: u64 = 2;
const CREATED: u64 = 3;
const RENAMED: u64 = 4;
const UNLINKED: u64 = 5;

/// One call that was not synced.
#[derive(Clone, Debug)]
struct Record {
    kind: u64,
    /// Where in the file; of names, the number of the file that lost its name, or 0.
    at: u64,
    len_before: u64,
    payload: Vec<u8>,
}

/// What was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes and changes of length.
    pub writes: u64,
    /// Files made, renamed and removed.
    pub names: u64,
}

/// Takes back what was not synced below `data`, from what `undo` holds, which is empty then.
///
/// # Errors
/// When the system does not let us.
pub fn cut_power(data: &Path, undo: &Path, random: &mut StdRng) -> Result<Lost> {
    let mut lost = Lost::default();
    let (mut contents, mut names) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(undo)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name.split_at_checked(1) {
            Some(("f", inode)) => contents.push((inode.parse().unwrap_or(0), read(&path)?)),
            Some(("d", _)) => names.push((name.into_owned(), read(&path)?)),
            _ => {}
        }
    }
    // The order of a directory is not ours.
    contents.sort_by_key(|(inode, _)| *inode);
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut files = BTreeMap::new();
    find(data, &mut files)?;
    find(undo, &mut files)?;
    for (inode, records) in contents {
        // One that has no name any more is gone with the process.
        if let Some(path) = files.get(&inode) {
            lost.writes += take_writes(path, &records, random)?;
        }
    }
    for (_, records) in names {
        lost.names += take_names(undo, &records, random)?;
    }
    forget(undo)?;
    Ok(lost)
}

/// Forgets what was not synced: the files were changed by somebody else, or removed.
///
/// # Errors
/// When the system does not let us.
pub fn forget(undo: &Path) -> Result<()> {
    for entry in fs::read_dir(undo)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// The calls of a journal that were not synced, oldest first.
fn read(journal: &Path) -> Result<Vec<Record>> {
    let bytes = fs::read(journal)?;
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..at + RECORD_LEN) {
        let word = |n: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[8 * n..8 * n + 8]);
            u64::from_ne_bytes(word)
        };
        let len = usize::try_from(word(3)).unwrap_or(usize::MAX);
        let end = (at + RECORD_LEN).saturating_add(len);
        // The process may have been killed while it wrote the last one, before the call itself.
        let Some(payload) = bytes.get(at + RECORD_LEN..end) else {
            break;
        };
        match word(0) {
            // All that began before this place is durable.
            SYNCED => records.retain(|(began, _)| *began >= word(1)),
            kind => records.push((
                at as u64,
                Record {
                    kind,
                    at: word(1),
                    len_before: word(2),
                    payload: payload.to_vec(),
                },
            )),
        }
        at = end;
    }
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// Every file below a directory, by inode.
fn find(directory: &Path, files: &mut BTreeMap<u64, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        match found.is_dir() {
            true => find(&path, files)?,
            false => drop(files.insert(found.ino(), path)),
        }
    }
    Ok(())
}

/// How many of the oldest survive: often none, sometimes some.
fn survivors(of: usize, random: &mut StdRng) -> usize {
    match random.random_bool(0.5) {
        true => 0,
        false => random.random_range(0..=of),
    }
}

fn take_writes(path: &Path, records: &[Record], random: &mut StdRng) -> Result<u64> {
    let kept = survivors(records.len(), random);
    let file = OpenOptions::new().write(true).open(path)?;
    for (number, record) in records.iter().enumerate().skip(kept).rev() {
        if record.kind != CONTENT {
            return Err(Failure::new(format!("{record:?} in the journal of a file")));
        }
        let end = record.at + record.payload.len() as u64;
        let mut from = record.at;
        if number == kept && random.random_bool(0.5) {
            // Some blocks of this one reached the disk.
            let first = record.at.next_multiple_of(BLOCK).min(end);
            from = first + BLOCK * random.random_range(0..=(end - first) / BLOCK);
        }
        file.set_len(record.len_before)?;
        let skipped = usize::try_from(from - record.at).unwrap_or(0);
        file.write_all_at(&record.payload[skipped..], from)?;
    }
    Ok((records.len() - kept) as u64)
}

fn take_names(undo: &Path, records: &[Record], random: &mut StdRng) -> Result<u64> {
    let kept = survivors(records.len(), random);
    for record in records[kept..].iter().rev() {
        let mut parts = record.payload.split(|byte| *byte == 0);
        let mut part = || PathBuf::from(std::ffi::OsStr::from_bytes(parts.next().unwrap_or(b"")));
        let (path, other) = (part(), part());
        match record.kind {
            CREATED => there(fs::remove_file(&path))?,
            RENAMED => there(fs::rename(&path, &other))?,
            UNLINKED => {}
            _ => return Err(Failure::new(format!("{record:?} in the journal of names"))),
        }
        let saved = undo.join(format!("s{}", record.at));
        if record.kind != CREATED && record.at != 0 {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            there(fs::rename(saved, &path))?;
        }
    }
    Ok((records.len() - kept) as u64)
}

/// What is not there needs no undoing: somebody else removed it.
fn there(done: std::io::Result<()>) -> Result<()> {
    match done {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        done => Ok(done?),
    }
}
