//! Small facts that must survive whatever happens: two slots, each of which says everything.
//!
//! ```text
//! slot (128 bytes)  0 "PnSl" | 4 format u8 | 5 kind u8 | 8 sequence u64 | 16 cluster u128 | 32 node u64
//!                   40 eight words u64 | 104 zeros | 124 crc32 of bytes 0..124
//! MANIFEST  words   flags (1: has a floor) | floor term | floor index | first segment | last segment
//! vote      words   flags (1: has a vote, 2: voted for somebody, 4: committed) | term | voted for
//! ```
//!
//! A save writes and syncs one slot, then the other. So at every moment one slot is whole, and after a
//! save both say the same: a single damaged slot never brings an older fact back. The slot that was bad
//! or older at open is written first, so that a power cut during the repair leaves the good one.
//!
//! Segment numbers are consecutive, so the MANIFEST's list of segments is its first and its last.

use std::io;

use super::format::{Flaw, LOG_FORMAT, put, u32_at, u64_at, u128_at};
use super::{LogId, LogIdentity, OpenError, Vote};
use crate::disk::{DiskFile, read_fully};

pub(crate) const SLOT_LEN: usize = 128;
pub(crate) type Words = [u64; 8];

/// What the slots are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest = b'M' as isize,
    Vote = b'V' as isize,
}

/// A place for a slot; the file may be missing when it is damage that brought us here.
pub(crate) struct SlotPlace {
    pub(crate) path: &'static str,
    pub(crate) offset: u64,
    pub(crate) file: Box<dyn DiskFile>,
}

pub(crate) struct TwoSlots {
    kind: Kind,
    identity: LogIdentity,
    places: [SlotPlace; 2],
    sequence: u64,
    /// The place to write first.
    first: usize,
}

/// What the slots said.
pub(crate) struct Loaded {
    pub(crate) slots: TwoSlots,
    pub(crate) words: Words,
    /// The slot that could not be read: its file, offset, and what is wrong with it.
    pub(crate) bad: Option<(&'static str, u64, &'static str)>,
}

impl TwoSlots {
    /// Slots that hold nothing yet; the first `save` fills both.
    pub(crate) fn new(kind: Kind, identity: LogIdentity, places: [SlotPlace; 2]) -> TwoSlots {
        TwoSlots {
            kind,
            identity,
            places,
            sequence: 0,
            first: 0,
        }
    }

    /// Reads both slots; the newer whole one counts.
    pub(crate) fn load(
        kind: Kind,
        identity: LogIdentity,
        places: [SlotPlace; 2],
    ) -> Result<Loaded, OpenError> {
        let read = [
            read_slot(kind, identity, &places[0])?,
            read_slot(kind, identity, &places[1])?,
        ];
        let place = |i: usize| (places[i].path, places[i].offset);
        let (first, sequence, words, bad) = match &read {
            [Ok((a, words)), Ok((b, _))] if a >= b => (1, *a, *words, None),
            [Ok(_), Ok((b, words))] => (0, *b, *words, None),
            [Ok((a, words)), Err(found)] => (1, *a, *words, Some((place(1).0, place(1).1, *found))),
            [Err(found), Ok((b, words))] => (0, *b, *words, Some((place(0).0, place(0).1, *found))),
            [Err(found), Err(other)] => {
                let text = format!(
                    "{found}; and the other copy, {} at {}: {other}",
                    place(1).0,
                    place(1).1
                );
                return Err(OpenError::corrupt(place(0).0, place(0).1, text));
            }
        };
        Ok(Loaded {
            slots: TwoSlots {
                kind,
                identity,
                places,
                sequence,
                first,
            },
            words,
            bad,
        })
    }

    /// Stores `words` in both slots; durable when this returns Ok.
    pub(crate) fn save(&mut self, words: Words) -> io::Result<()> {
        self.sequence += 1;
        let bytes = encode(self.kind, self.identity, self.sequence, words);
        for i in [self.first, 1 - self.first] {
            let place = &self.places[i];
            place.file.write_at(&bytes, place.offset)?;
            place.file.sync_data()?;
        }
        Ok(())
    }

    /// Makes durable what was found.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.places
            .iter()
            .try_for_each(|place| place.file.sync_all())
    }
}

type Slot = Result<(u64, Words), &'static str>;

fn read_slot(kind: Kind, identity: LogIdentity, place: &SlotPlace) -> Result<Slot, OpenError> {
    let mut bytes = [0; SLOT_LEN];
    let filled = read_fully(&*place.file, &mut bytes, place.offset)
        .map_err(|e| OpenError::io(place.path, "cannot read", e))?;
    match decode(kind, &bytes[..filled]) {
        Ok((found, sequence, words)) if found == identity => Ok(Ok((sequence, words))),
        Ok((LogIdentity { cluster, node }, ..)) => {
            let found = format!(
                "it belongs to node {node} of cluster {cluster:032x}, and this is node {} of {:032x}",
                identity.node, identity.cluster
            );
            Err(OpenError::foreign(place.path, found))
        }
        Err(Flaw::Newer(format)) => {
            let found = format!("log format {format}, and this release knows {LOG_FORMAT}");
            Err(OpenError::newer(place.path, found))
        }
        Err(Flaw::Unreadable(found)) => Ok(Err(found)),
        Err(Flaw::Inconsistent(_)) => Ok(Err("it is about something else")),
    }
}

pub(crate) fn encode(
    kind: Kind,
    identity: LogIdentity,
    sequence: u64,
    words: Words,
) -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    out[..4].copy_from_slice(b"PnSl");
    out[4] = LOG_FORMAT;
    out[5] = kind as u8;
    put(&mut out, 8, &sequence.to_le_bytes());
    put(&mut out, 16, &identity.cluster.to_le_bytes());
    put(&mut out, 32, &identity.node.to_le_bytes());
    for (i, word) in words.iter().enumerate() {
        put(&mut out, 40 + 8 * i, &word.to_le_bytes());
    }
    let crc = crc32fast::hash(&out[..124]);
    put(&mut out, 124, &crc.to_le_bytes());
    out
}

fn decode(kind: Kind, bytes: &[u8]) -> Result<(LogIdentity, u64, Words), Flaw> {
    let Some(bytes) = bytes.first_chunk::<SLOT_LEN>() else {
        return Err(Flaw::Unreadable("it is missing or cut short"));
    };
    if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) || bytes[..4] != *b"PnSl" {
        return Err(Flaw::Unreadable("it does not fit its checksum"));
    }
    if bytes[4] != LOG_FORMAT {
        return Err(Flaw::Newer(bytes[4]));
    }
    if bytes[5] != kind as u8 {
        return Err(Flaw::Inconsistent(String::new()));
    }
    let identity = LogIdentity {
        cluster: u128_at(bytes, 16),
        node: u64_at(bytes, 32),
    };
    let mut words = Words::default();
    for (i, word) in words.iter_mut().enumerate() {
        *word = u64_at(bytes, 40 + 8 * i);
    }
    let sequence = u64_at(bytes, 8);
    // Nobody saves so often; what says so was not written here, and could not be followed.
    if sequence == u64::MAX {
        return Err(Flaw::Unreadable("its sequence number cannot be"));
    }
    Ok((identity, sequence, words))
}

/// What the MANIFEST says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) floor: Option<LogId>,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Manifest {
    pub(crate) fn to_words(self) -> Words {
        let floor = self.floor.unwrap_or_default();
        let flags = u64::from(self.floor.is_some());
        [
            flags,
            floor.term,
            floor.index,
            self.first,
            self.last,
            0,
            0,
            0,
        ]
    }

    pub(crate) fn from_words(words: Words) -> Manifest {
        let [flags, term, index, first, last, ..] = words;
        Manifest {
            floor: (flags & 1 != 0).then_some(LogId { term, index }),
            first,
            last,
        }
    }
}

pub(crate) fn vote_to_words(vote: Option<Vote>) -> Words {
    let Some(vote) = vote else {
        return Words::default();
    };
    let flags = 1 | (u64::from(vote.voted_for.is_some()) << 1) | (u64::from(vote.committed) << 2);
    [flags, vote.term, vote.voted_for.unwrap_or(0), 0, 0, 0, 0, 0]
}

pub(crate) fn vote_from_words(words: Words) -> Option<Vote> {
    let [flags, term, voted_for, ..] = words;
    let vote = Vote {
        term,
        voted_for: (flags & 2 != 0).then_some(voted_for),
        committed: flags & 4 != 0,
    };
    (flags & 1 != 0).then_some(vote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Fault, FaultAt, MemoryDisk, Open};

    const IDENTITY: LogIdentity = LogIdentity {
        cluster: 0x0102_0304,
        node: 5,
    };

    fn places(disk: &MemoryDisk) -> [SlotPlace; 2] {
        ["a", "b"].map(|path| SlotPlace {
            path,
            offset: 0,
            file: disk.open(path, Open::CreateOrOpen).unwrap(),
        })
    }

    fn vote(term: u64) -> Option<Vote> {
        Some(Vote {
            term,
            voted_for: Some(2),
            committed: true,
        })
    }

    fn found(disk: &MemoryDisk) -> Result<Option<Vote>, OpenError> {
        TwoSlots::load(Kind::Vote, IDENTITY, places(disk))
            .map(|loaded| vote_from_words(loaded.words))
    }

    #[test]
    fn slots_are_frozen() {
        let hex =
            |bytes: [u8; SLOT_LEN]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(encode(Kind::Vote, IDENTITY, 3, vote_to_words(vote(9)))),
            FROZEN_VOTE
        );
        let manifest = Manifest {
            floor: Some(LogId { term: 4, index: 6 }),
            first: 2,
            last: 3,
        };
        assert_eq!(
            hex(encode(Kind::Manifest, IDENTITY, 3, manifest.to_words())),
            FROZEN_MANIFEST
        );
        assert_eq!(Manifest::from_words(manifest.to_words()), manifest);
    }

    const FROZEN_VOTE: &str = "506e536c015600000300000000000000040302010000000000000000000000000500000000000000\
        07000000000000000900000000000000020000000000000000000000000000000000000000000000\
        00000000000000000000000000000000000000000000000000000000000000000000000000000000\
        000000009b7da453";
    const FROZEN_MANIFEST: &str = "506e536c014d00000300000000000000040302010000000000000000000000000500000000000000\
        01000000000000000400000000000000060000000000000002000000000000000300000000000000\
        00000000000000000000000000000000000000000000000000000000000000000000000000000000\
        000000000f1cd6df";

    #[test]
    fn a_last_sequence_number_is_not_one_to_go_on_from() {
        let identity = LogIdentity {
            cluster: 1,
            node: 2,
        };
        let decoded = |sequence| {
            let bytes = encode(Kind::Vote, identity, sequence, Words::default());
            decode(Kind::Vote, &bytes).map(|(_, sequence, _)| sequence)
        };
        assert!(matches!(decoded(u64::MAX - 1), Ok(found) if found == u64::MAX - 1));
        assert!(matches!(decoded(u64::MAX), Err(Flaw::Unreadable(_))));
    }

    #[test]
    fn every_vote_survives_the_words() {
        for voted_for in [None, Some(0), Some(u64::MAX)] {
            for committed in [false, true] {
                let vote = Some(Vote {
                    term: 0,
                    voted_for,
                    committed,
                });
                assert_eq!(vote_from_words(vote_to_words(vote)), vote);
            }
        }
        assert_eq!(vote_from_words(vote_to_words(None)), None);
    }

    /// A power cut after any operation, in any save after any damage: the newest acknowledged vote, or
    /// the one that was being saved.
    #[test]
    fn an_acknowledged_vote_survives_one_bad_slot_and_any_cut() {
        for bad in ["a", "b"] {
            let disk = MemoryDisk::new();
            let mut slots = TwoSlots::new(Kind::Vote, IDENTITY, places(&disk));
            disk.sync_dir("").unwrap();
            slots.save(vote_to_words(vote(1))).unwrap();
            slots.save(vote_to_words(vote(2))).unwrap();
            let mut bytes = disk.contents(bad).unwrap();
            bytes[50] ^= 1;
            disk.overwrite(bad, &bytes);
            assert_eq!(found(&disk).unwrap(), vote(2), "slot {bad} rotten");
            let loaded = TwoSlots::load(Kind::Vote, IDENTITY, places(&disk)).unwrap();
            assert_eq!(loaded.bad.map(|(path, ..)| path), Some(bad));
            let mut slots = loaded.slots;
            for cut in 1..=4 {
                let image = disk.copy();
                let mut slots_of_image = TwoSlots::load(Kind::Vote, IDENTITY, places(&image))
                    .unwrap()
                    .slots;
                image.fail(Fault {
                    at: FaultAt::Any,
                    nth: cut,
                    errno: 5,
                    sticky: true,
                });
                slots_of_image.save(vote_to_words(vote(3))).unwrap_err();
                let (synced, written) = (
                    found(&image.crash_synced()).unwrap(),
                    found(&image.copy()).unwrap(),
                );
                if cut > 1 {
                    assert_eq!(
                        written,
                        vote(3),
                        "slot {bad}, cut {cut}: the newer slot counts"
                    );
                }
                for survived in [synced, written] {
                    assert!(
                        survived == vote(2) || survived == vote(3),
                        "slot {bad}, cut {cut}: {survived:?}"
                    );
                }
            }
            slots.save(vote_to_words(vote(3))).unwrap();
            assert_eq!(found(&disk.crash_synced()).unwrap(), vote(3));
        }
    }

    #[test]
    fn two_bad_slots_and_a_stranger_are_refused() {
        let disk = MemoryDisk::new();
        TwoSlots::new(Kind::Vote, IDENTITY, places(&disk))
            .save(vote_to_words(vote(1)))
            .unwrap();
        let stranger = LogIdentity {
            node: 6,
            ..IDENTITY
        };
        assert!(
            TwoSlots::load(Kind::Vote, stranger, places(&disk))
                .err()
                .unwrap()
                .is_foreign()
        );
        disk.overwrite("a", &[]);
        disk.overwrite("b", &[1; SLOT_LEN]);
        let refusal = found(&disk).unwrap_err();
        assert!(
            refusal.is_corruption() && refusal.to_string().contains("rejoin as a new member"),
            "{refusal}"
        );
    }
}
