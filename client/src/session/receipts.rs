//! When to tell the node which version is applied (D6). Pure.
//!
//! What must hold: a receipt names a version that evaluations can already read; one is on its way at a
//! time, and what is sent next is the newest version there is by then; receipts that nobody asked
//! for keep a heartbeat's distance, however often the state changes; a node that does not take them
//! is asked less and less often, and nothing else ever depends on them.
//!
//! A receipt is sent when the state changed (a snapshot or a delta), or when the node asked for one
//! (`acknowledge`). That nothing changed up to a version needs none: the node knows what it sent. Who
//! polls sends them in the same way between polls, and is never asked.
//!
//! Left out: sending (`transport.rs`), what nodes make of receipts.

use std::time::Duration;

use pennon_evaluator::Version;

/// The longest time a receipt may take.
const SEND_TIME_MAX: Duration = Duration::from_secs(5);
/// Bounds on what is taken for the heartbeat interval, whatever a node says.
const GAP_MIN: Duration = Duration::from_millis(50);
const GAP_MAX: Duration = Duration::from_secs(300);
/// The gap after failures is doubled this often at most.
const DOUBLINGS_MAX: u32 = 6;

/// Names one receipt, so that the late outcome of an earlier one is known for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceiptId(u64);

/// What is known about receipts, across streams.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    ids: u64,
    /// The heartbeat interval of the stream; none while no stream has said hello.
    gap: Option<Duration>,
    /// Whether the state changed since the last receipt that arrived was sent.
    due: bool,
    /// The version that the node asked for, until a receipt for it has arrived.
    asked: Option<Version>,
    /// When one was sent last.
    sent: Option<Duration>,
    flying: Option<Flying>,
    /// Whether one was sent by the stream: if that ends, it may not have arrived.
    unproved: bool,
    /// Failures since one arrived.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Flying {
    id: ReceiptId,
    version: Version,
    until: Duration,
}

impl Receipts {
    /// Whether there is a node that may be told.
    pub(super) fn are_open(&self) -> bool {
        self.gap.is_some()
    }

    /// A stream said hello, or a poll was answered.
    pub(super) fn open(&mut self, heartbeat_ms: u64) {
        let gap = Duration::from_millis(heartbeat_ms).clamp(GAP_MIN, GAP_MAX);
        self.gap = Some(gap);
    }

    /// The stream is gone, and what was on its way with it. The next node asks for itself.
    pub(super) fn close(&mut self) {
        self.gap = None;
        self.asked = None;
        self.due |= self.flying.take().is_some() | std::mem::take(&mut self.unproved);
    }

    /// One was sent by the stream.
    pub(super) fn sent_by_stream(&mut self) {
        self.unproved = true;
    }

    /// A snapshot or a delta was applied.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }

    /// The node wants to know when this version is applied.
    pub(super) fn ask(&mut self, version: Version) {
        self.asked = self.asked.max(Some(version));
    }

    /// Says how a receipt went; `None` when it is not the one on its way.
    pub(super) fn landed(&mut self, id: ReceiptId, arrived: bool) -> Option<Version> {
        let flying = self.flying.filter(|flying| flying.id == id)?;
        self.flying = None;
        if arrived {
            self.failures = 0;
            self.asked = self.asked.filter(|asked| *asked > flying.version);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.due = true;
        }
        Some(flying.version)
    }

    /// Gives a receipt up that takes too long; says whether there was one.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let late = self.flying.filter(|flying| now >= flying.until);
        late.is_some_and(|flying| self.landed(flying.id, false).is_some())
    }

    /// Returns what to send now, if anything, to a node of which `have` is the version applied.
    pub(super) fn next(&mut self, have: Version, now: Duration) -> Option<(ReceiptId, Version)> {
        if self.flying.is_some() || self.not_before(have)? > now {
            return None;
        }
        self.ids += 1;
        let id = ReceiptId(self.ids);
        let until = now.saturating_add(SEND_TIME_MAX);
        self.flying = Some(Flying {
            id,
            version: have,
            until,
        });
        (self.due, self.sent) = (false, Some(now));
        Some((id, have))
    }

    /// Returns when something is to be done, if nothing happens until then.
    pub(super) fn wake_at(&self, have: Version) -> Option<Duration> {
        match &self.flying {
            Some(flying) => Some(flying.until),
            None => self.not_before(have),
        }
    }

    /// The earliest moment for the next receipt; none when there is nothing to say.
    fn not_before(&self, have: Version) -> Option<Duration> {
        let gap = self.gap?;
        let asked = self.asked.is_some_and(|asked| asked <= have);
        if !asked && !self.due {
            return None;
        }
        let gap = match (self.failures, asked) {
            (0, true) => return Some(Duration::ZERO),
            (failures, _) => gap.saturating_mul(1 << failures.min(DOUBLINGS_MAX)),
        };
        let after = |sent: Duration| sent.saturating_add(gap.min(GAP_MAX));
        Some(self.sent.map_or(Duration::ZERO, after))
    }
}
