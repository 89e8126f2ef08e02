//! Time cut into parts, and what is known of each part.

use crate::history::{Event, History};

use super::PARTS_MAX;

/// A run's time, cut into equal parts.
pub(super) struct Scale {
    end: u64,
    part: u64,
    parts: usize,
}

impl Scale {
    /// From the beginning to the last event that has a time.
    pub(super) fn new(history: &History) -> Scale {
        let times = history.events.iter().filter_map(end_of);
        let end = times.chain(history.ended).max().unwrap_or_default();
        let end = end.max(1_000_000_000);
        // No finer than a tenth of a second, where a plot would be all noise.
        let part = (end / PARTS_MAX as u64 + 1).max(100_000_000);
        let parts = usize::try_from(end / part + 1).unwrap_or(PARTS_MAX + 1);
        Scale { end, part, parts }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The length of a part in nanoseconds.
    pub(super) fn part(&self) -> u64 {
        self.part
    }

    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    /// The part in which a moment is.
    pub(super) fn at(&self, moment: u64) -> usize {
        let at = usize::try_from(moment / self.part).unwrap_or(usize::MAX);
        at.min(self.parts - 1)
    }

    /// Where a moment is drawn, of 1000.
    pub(super) fn x(&self, moment: u64) -> f64 {
        fraction(moment.min(self.end), self.end) * 1000.0
    }

    /// Where the middle of a part is drawn.
    pub(super) fn x_of(&self, part: usize) -> f64 {
        self.x(part as u64 * self.part + self.part / 2)
    }
}

/// When an event was over.
pub(super) fn end_of(event: &Event) -> Option<u64> {
    span_of(event).map(|(_, to)| to)
}

/// From when to when an event was.
pub(super) fn span_of(event: &Event) -> Option<(u64, u64)> {
    Some(match event {
        Event::Operation(request) => (request.operation.invoked, request.operation.completed),
        Event::ChangeSet(set) => (set.invoked, set.completed),
        Event::ReadSet(read) => (read.invoked, read.completed),
        Event::Stream(event) => (event.at, event.at),
        Event::Evaluation(one) => (one.began, one.began),
        Event::Receipt(one) => (one.at, one.at),
        Event::Fault(fault) => (fault.at, fault.at),
        Event::Node(node) => (node.at, node.at),
        Event::Phase(phase) => (phase.at, phase.at),
        Event::Served(served) => (served.at, served.at),
        Event::Digest(digest) => (digest.at, digest.at),
        Event::Subject(_) | Event::Ground(_) | Event::Final(_) => return None,
    })
}

/// A part of a whole, from 0 to 1.
#[allow(
    clippy::cast_precision_loss,
    reason = "it is drawn a thousand dots wide"
)]
pub(super) fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// The value below which so many hundredths of some values are; they are sorted by it.
pub(super) fn quantile(values: &mut [u64], hundredths: usize) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    values.get(last * hundredths / 100).copied()
}
