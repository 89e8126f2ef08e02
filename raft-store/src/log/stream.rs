//! Where the stream of batches stands: what the next batch must carry, and which segments still matter.
//!
//! PURE. Recovery feeds it what it reads, the writer what it has made durable; so both hold the same
//! state, and the one that is told by the disk is the proof of the one that told the disk.
//!
//! What must hold: live entries stand in the stream in index order, so the segments without a live
//! entry that may go are always the oldest ones.

use std::collections::VecDeque;

use super::LogId;

/// A segment and the index behind the last entry that it holds for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lives {
    pub(crate) number: u64,
    pub(crate) end_index: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The sequence of the last batch; 0 before the first.
    pub(crate) sequence: u64,
    /// The header crc of the last batch; 0 before the first.
    pub(crate) chain: u32,
    /// The last entry, or what stands for it behind a purge. None: the log may begin anywhere.
    pub(crate) last: Option<LogId>,
    /// Everything up to here is gone.
    pub(crate) floor: Option<LogId>,
    /// How far the log was known to be committed.
    pub(crate) committed: Option<LogId>,
    /// The listed segments, oldest first; the last one is active.
    pub(crate) segments: VecDeque<Lives>,
}

impl Stream {
    /// Begins a segment.
    pub(crate) fn segment(&mut self, number: u64) {
        self.segments.push_back(Lives {
            number,
            end_index: 0,
        });
    }

    /// Adds an entry; says what is wrong when it does not follow the last one.
    pub(crate) fn entry(&mut self, id: LogId) -> Result<(), String> {
        if let Some(last) = self.last
            && last.index.checked_add(1) != Some(id.index)
        {
            return Err(format!("entry {id} follows {last}"));
        }
        self.last = Some(id);
        if let Some(active) = self.segments.back_mut() {
            active.end_index = id.index.saturating_add(1);
        }
        Ok(())
    }

    /// Removes the entries after `kept`.
    pub(crate) fn truncate(&mut self, kept: Option<LogId>) {
        let end = kept.map_or(0, |id| id.index.saturating_add(1));
        for segment in &mut self.segments {
            segment.end_index = segment.end_index.min(end);
        }
        self.last = kept;
    }

    /// Removes the entries up to `upto`, past the end if need be.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.floor.is_none_or(|floor| floor.index < upto.index) {
            self.floor = Some(upto);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    /// Returns how many of the oldest segments hold nothing above the floor. Never the active one.
    pub(crate) fn droppable(&self) -> usize {
        let Some(floor) = self.floor else { return 0 };
        let sealed = self.segments.len().saturating_sub(1);
        let dead = |lives: &&Lives| lives.end_index <= floor.index.saturating_add(1);
        self.segments.iter().take(sealed).take_while(dead).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 1, index }
    }

    /// Segments 1, 2, 3 with ten entries each.
    fn stream() -> Stream {
        let mut stream = Stream::default();
        for number in 1..=3 {
            stream.segment(number);
            for index in 10 * (number - 1)..10 * number {
                stream.entry(id(index)).unwrap();
            }
        }
        stream
    }

    #[test]
    fn a_segment_may_go_when_its_last_entry_is_purged_and_the_active_one_never() {
        let mut stream = stream();
        assert_eq!(stream.droppable(), 0);
        for (upto, droppable) in [(8, 0), (9, 1), (18, 1), (19, 2), (29, 2), (99, 2)] {
            stream.purge(id(upto));
            assert_eq!(stream.droppable(), droppable, "purged up to {upto}");
        }
        assert_eq!((stream.floor, stream.last), (Some(id(99)), Some(id(99))));
    }

    #[test]
    fn a_truncate_frees_the_segments_behind_it_and_new_entries_hold_theirs() {
        let mut stream = stream();
        stream.truncate(Some(id(4)));
        stream.segment(4);
        stream.entry(id(5)).unwrap();
        stream.purge(id(3));
        assert_eq!(stream.droppable(), 0, "entry 4 is alive in segment 1");
        stream.purge(id(4));
        assert_eq!(stream.droppable(), 3);
    }

    #[test]
    fn an_entry_follows_the_last_one_and_a_purge_never_goes_back() {
        let mut stream = stream();
        assert!(stream.entry(id(31)).is_err());
        assert!(stream.entry(id(29)).is_err());
        stream.purge(id(50));
        stream.purge(id(20));
        assert_eq!(stream.floor, Some(id(50)));
        stream.entry(id(51)).unwrap();
    }
}
