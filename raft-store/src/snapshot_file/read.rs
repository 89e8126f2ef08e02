//! Reading a snapshot file: nothing is believed before its crc has passed.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    BLOCK_HEAD_LEN, BLOCK_TAG, END_MAGIC, END_TAG, FOOTER_LEN, FORMAT, HEAD_LEN, HEADER_LEN_MAX,
    MAGIC, RECORD_LEN_MAX, SnapshotError, SnapshotInfo,
};
use crate::disk::{Disk, DiskFile, Open, read_fully};

/// A file that was whole when it was opened. It stays readable when its name goes to another file.
#[derive(Clone)]
pub struct SnapshotReader {
    file: Arc<dyn DiskFile>,
    path: Arc<str>,
    pub(super) version: u64,
    header: Bytes,
    bytes: u64,
    crc: u32,
    pub(super) complaints: Arc<[SnapshotError]>,
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SnapshotReader {
    /// Opens a file, wherever it is, and checks all of it.
    ///
    /// # Errors
    /// `Damaged`, or `Io` (`NotFound` among them).
    pub fn open(disk: &dyn Disk, path: impl Into<String>) -> Result<SnapshotReader, SnapshotError> {
        let path = path.into();
        let opened = disk
            .open(&path, Open::Existing)
            .and_then(|file| Ok((file.len()?, file)));
        let (bytes, file) = match opened {
            Ok((bytes, file)) => (bytes, Arc::from(file)),
            Err(source) => return Err(SnapshotError::Io { file: path, source }),
        };
        let empty = Arc::from(Vec::new());
        let path = Arc::from(path);
        let mut reader = SnapshotReader {
            file,
            path,
            version: 0,
            header: Bytes::new(),
            bytes,
            crc: 0,
            complaints: empty,
        };
        let mut walk = Walk {
            reader: reader.clone(),
            offset: 0,
            blocks: 0,
            records: 0,
            crc: Some(Default::default()),
        };
        (reader.version, reader.header) = walk.head()?;
        while walk.block()?.is_some() {}
        reader.crc = walk.crc.map_or(0, crc32fast::Hasher::finalize);
        Ok(reader)
    }

    /// The version the snapshot was made at.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The header, as it was given to [`super::SnapshotStore::create`].
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The length of the file, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// The crc of all bytes before the footer.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Version, length and crc together.
    pub fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            version: self.version,
            bytes: self.bytes,
            crc: self.crc,
        }
    }

    /// What is wrong with newer files, newest first; see [`super::SnapshotStore::newest`].
    pub fn complaints(&self) -> &[SnapshotError] {
        &self.complaints
    }

    /// The records in the order in which they were pushed, a block in memory at a time (a record
    /// shares the memory of its block). Every crc is checked again. Ends after an error.
    pub fn records(&self) -> SnapshotRecords {
        let offset = (HEAD_LEN + self.header.len() + 4) as u64;
        let walk = Walk {
            reader: self.clone(),
            offset,
            blocks: 0,
            records: 0,
            crc: None,
        };
        SnapshotRecords {
            walk: Some(walk),
            block: Bytes::new(),
        }
    }

    /// Reads bytes of the file, to send it to a peer: fills `buf` unless the file ends first, and
    /// returns how many bytes were read.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_raw(&self, offset: u64, buf: &mut [u8]) -> Result<usize, SnapshotError> {
        read_fully(self.file.as_ref(), buf, offset).map_err(|source| SnapshotError::Io {
            file: self.path.to_string(),
            source,
        })
    }

    pub(super) fn damaged(&self, offset: u64, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged {
            file: self.path.to_string(),
            offset,
            what,
        }
    }
}

/// Goes through a file from the front and believes nothing.
struct Walk {
    reader: SnapshotReader,
    offset: u64,
    blocks: u64,
    records: u64,
    /// Of everything passed, when the file is checked whole.
    crc: Option<crc32fast::Hasher>,
}

impl Walk {
    fn head(&mut self) -> Result<(u64, Bytes), SnapshotError> {
        let head: [u8; HEAD_LEN] = self.take_array("the file ends in its head")?;
        if !head.starts_with(MAGIC) {
            return Err(self.reader.damaged(0, "not a snapshot file"));
        }
        if !is_sealed(&head) {
            return Err(self.reader.damaged(0, "crc of the head"));
        }
        if head[8] != FORMAT {
            return Err(self
                .reader
                .damaged(8, "a format that this release does not know"));
        }
        let length = u32_at(&head, 17) as usize;
        if length > HEADER_LEN_MAX {
            return Err(self
                .reader
                .damaged(17, "the header is longer than a header may be"));
        }
        let header = self.take(length, "the file ends in the header")?;
        let crc: [u8; 4] = self.take_array("the file ends in the header's crc")?;
        if crc != crc32fast::hash(&header).to_le_bytes() {
            return Err(self.reader.damaged(HEAD_LEN as u64, "crc of the header"));
        }
        Ok((u64_at(&head, 9), header))
    }

    /// The next block's body, its records checked to fill it exactly; none after the footer.
    fn block(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let start = self.offset;
        let before = self.crc.clone();
        let tag: [u8; 1] = self.take_array("the file ends without a footer")?;
        if tag[0] == END_TAG {
            return self.footer(start, before).map(|()| None);
        }
        let rest: [u8; BLOCK_HEAD_LEN - 1] = self.take_array("the file ends in a block's head")?;
        let mut head = [tag[0]; BLOCK_HEAD_LEN];
        head[1..].copy_from_slice(&rest);
        if !is_sealed(&head) || tag[0] != BLOCK_TAG {
            return Err(self.reader.damaged(start, "crc of a block's head"));
        }
        if u64_at(&head, 1) != self.blocks {
            return Err(self
                .reader
                .damaged(start + 1, "a block is not in its place"));
        }
        let (length, count) = (u32_at(&head, 9) as usize, u32_at(&head, 13));
        if length > RECORD_LEN_MAX + 4 {
            return Err(self
                .reader
                .damaged(start + 9, "a block is longer than a block may be"));
        }
        let body = self.take(length, "the file ends in a block")?;
        if crc32fast::hash(&body) != u32_at(&head, 17) {
            return Err(self.reader.damaged(start, "crc of a block"));
        }
        if count == 0 || records_in(&body) != Some(count) {
            return Err(self
                .reader
                .damaged(start + 13, "a block's records are not as many as it says"));
        }
        self.blocks += 1;
        self.records += u64::from(count);
        Ok(Some(body))
    }

    fn footer(
        &mut self,
        start: u64,
        before: Option<crc32fast::Hasher>,
    ) -> Result<(), SnapshotError> {
        let rest: [u8; FOOTER_LEN - 1] = self.take_array("the file ends in its footer")?;
        let mut footer = [END_TAG; FOOTER_LEN];
        footer[1..].copy_from_slice(&rest);
        if !is_sealed(&footer) || footer[1..9] != *END_MAGIC {
            return Err(self.reader.damaged(start, "crc of the footer"));
        }
        if u64_at(&footer, 9) != self.blocks || u64_at(&footer, 17) != self.records {
            return Err(self
                .reader
                .damaged(start + 9, "blocks or records are missing"));
        }
        if u64_at(&footer, 25) != self.offset || self.offset != self.reader.bytes {
            return Err(self
                .reader
                .damaged(self.offset, "the file is not as long as its footer says"));
        }
        if before
            .as_ref()
            .is_some_and(|crc| crc.clone().finalize() != u32_at(&footer, 33))
        {
            return Err(self.reader.damaged(start + 33, "crc of the whole file"));
        }
        self.crc = before;
        Ok(())
    }

    fn take(&mut self, length: usize, cut: &'static str) -> Result<Bytes, SnapshotError> {
        if self.offset + length as u64 > self.reader.bytes {
            return Err(self.reader.damaged(self.reader.bytes, cut));
        }
        let mut bytes = vec![0; length];
        if self.reader.read_raw(self.offset, &mut bytes)? != length {
            return Err(self.reader.damaged(self.offset, cut));
        }
        if let Some(crc) = &mut self.crc {
            crc.update(&bytes);
        }
        self.offset += length as u64;
        Ok(Bytes::from(bytes))
    }

    fn take_array<const N: usize>(&mut self, cut: &'static str) -> Result<[u8; N], SnapshotError> {
        let bytes = self.take(N, cut)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }
}

/// The records of a file; see [`SnapshotReader::records`].
pub struct SnapshotRecords {
    walk: Option<Walk>,
    /// What is left of the present block, checked.
    block: Bytes,
}

impl fmt::Debug for SnapshotRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotRecords").finish_non_exhaustive()
    }
}

impl Iterator for SnapshotRecords {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.block.is_empty() {
            match self.walk.as_mut()?.block() {
                Ok(Some(block)) => self.block = block,
                Ok(None) => self.walk = None,
                Err(error) => {
                    self.walk = None;
                    return Some(Err(error));
                }
            }
        }
        let length = next_length(&self.block)?;
        let record = self.block.split_to(4 + length).slice(4..);
        Some(Ok(record))
    }
}

/// The length of the first record, when it is there in full.
fn next_length(body: &[u8]) -> Option<usize> {
    let (length, rest) = body.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    (length <= rest.len()).then_some(length)
}

fn records_in(mut body: &[u8]) -> Option<u32> {
    let mut count = 0u32;
    while !body.is_empty() {
        body = &body[4 + next_length(body)?..];
        count += 1;
    }
    Some(count)
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(rest, crc)| *crc == crc32fast::hash(rest).to_le_bytes())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|eight| eight.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
