//! Carries one direction of one connection, as its [`Wire`] says at any moment.
//!
//! What must hold: bytes arrive in order, all of them or none after the first one that is lost; the
//! end of a connection travels like a byte, behind all others; nothing here waits for a reader, so a
//! change of mode is met at once; at most [`KEPT_MAX`] bytes are kept, then nothing more is taken.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::wire::{CHUNK_LEN, Mode, Wire, add};

/// Bytes kept for one direction of one connection.
const KEPT_MAX: usize = 4 << 20;

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The sender had said everything, and the receiver knows.
    Finished,
    /// Both sides are to see a reset now.
    Reset,
    /// The receiver takes nothing more; the other direction will bring the news.
    Unheard,
}

pub(super) struct Pump {
    wire: Arc<Wire>,
    modes: watch::Receiver<Mode>,
    mode: Mode,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    kept: VecDeque<(Instant, Bytes)>,
    kept_len: usize,
    /// How the sender ended: in good order, or not.
    ended: Option<End>,
    /// When the next chunk may leave.
    next: Instant,
    /// Something was lost, so nothing may follow.
    lost: bool,
    /// Bytes before the cut.
    left: Option<u64>,
    /// Being stalled was counted since the mode changed.
    stall_counted: bool,
    random: StdRng,
}

impl Pump {
    pub(super) fn new(
        wire: Arc<Wire>,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        random: StdRng,
    ) -> Pump {
        let modes = wire.modes();
        let mut pump = Pump {
            wire,
            modes,
            mode: Mode::Pass,
            from,
            to,
            kept: VecDeque::new(),
            kept_len: 0,
            ended: None,
            next: Instant::now(),
            lost: false,
            left: None,
            stall_counted: false,
            random,
        };
        pump.take_mode();
        pump
    }

    /// Carries until this direction ends.
    pub(super) async fn run(&mut self) -> End {
        loop {
            if self.modes.has_changed().unwrap_or(false) {
                self.take_mode();
            }
            if self.lost && !self.mode.blocks() {
                add(&self.wire.counters.reset, 1);
                return End::Reset;
            }
            if self.kept.is_empty()
                && !self.mode.blocks()
                && let Some(end) = self.ended
            {
                if end == End::Finished && self.to.shutdown().await.is_err() {
                    return End::Unheard;
                }
                return end;
            }
            if let Some(end) = self.step().await {
                return end;
            }
        }
    }

    fn take_mode(&mut self) {
        self.mode = *self.modes.borrow_and_update();
        self.stall_counted = false;
        self.left = match self.mode {
            Mode::CutAfter(bytes) => Some(bytes),
            _ => None,
        };
    }

    /// Waits for whatever may happen next, and does it.
    async fn step(&mut self) -> Option<End> {
        let reads = self.ended.is_none()
            && match self.mode {
                Mode::Stall => !self.stall_counted,
                Mode::Swallow => true,
                _ => self.kept_len < KEPT_MAX,
            };
        let due = match self.kept.front() {
            Some((due, _)) if !self.mode.blocks() => Some(*due),
            _ => None,
        };
        let due = due.map(|due| match self.mode {
            Mode::Slow(_) => due,
            _ => Instant::now(),
        });
        let waits = due.filter(|due| *due > Instant::now());
        tokio::select! {
            biased;
            changed = self.modes.changed() => {
                if changed.is_err() {
                    return Some(End::Reset);
                }
                self.take_mode();
                None
            }
            () = sleep_until(waits.unwrap_or(self.next)), if waits.is_some() => None,
            writable = self.to.writable(), if due.is_some() && waits.is_none() => match writable {
                Ok(()) => self.write(),
                Err(_) => Some(End::Unheard),
            },
            readable = self.from.readable(), if reads => {
                match readable {
                    Ok(()) => self.read(),
                    Err(_) => self.ended = Some(End::Reset),
                }
                None
            }
        }
    }

    fn read(&mut self) {
        if self.mode == Mode::Stall {
            // Readable and not read.
            add(&self.wire.counters.stalled, 1);
            self.stall_counted = true;
            return;
        }
        let mut buffer = [0; CHUNK_LEN];
        let len = match self.mode {
            Mode::Slow(slow) => slow.chunk_len,
            _ => CHUNK_LEN,
        };
        match self.from.try_read(&mut buffer[..len]) {
            Ok(0) => self.ended = Some(End::Finished),
            Ok(count) => self.keep(&buffer[..count]),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = Some(End::Reset),
        }
        if self.ended.is_some() && self.mode == Mode::Swallow {
            self.lost = true;
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let counters = &self.wire.counters;
        let now = Instant::now();
        let mut due = now;
        match self.mode {
            Mode::Swallow => {
                add(&counters.swallowed, bytes.len());
                self.lost = true;
                return;
            }
            Mode::Hold => add(&counters.held, bytes.len()),
            Mode::Slow(slow) => {
                let jitter = slow.jitter.mul_f64(self.random.random_range(0.0..=1.0));
                due = self.next.max(now + slow.delay + jitter);
                self.next = due + slow.gap;
                add(&counters.slowed, 1);
            }
            Mode::Pass | Mode::Stall | Mode::CutAfter(_) => {}
        }
        self.kept_len += bytes.len();
        self.kept.push_back((due, Bytes::copy_from_slice(bytes)));
    }

    /// Writes what the receiver takes of the first chunk.
    fn write(&mut self) -> Option<End> {
        let (_, bytes) = self.kept.front_mut()?;
        let len = match self.left {
            Some(left) => bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => bytes.len(),
        };
        if len > 0 {
            match self.to.try_write(&bytes[..len]) {
                Ok(count) => {
                    add(&self.wire.counters.passed, count);
                    bytes.advance(count);
                    self.kept_len -= count;
                    if let Some(left) = &mut self.left {
                        *left -= count as u64;
                    }
                    if bytes.is_empty() {
                        self.kept.pop_front();
                    }
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Some(End::Unheard),
            }
        }
        if self.left == Some(0) {
            add(&self.wire.counters.reset, 1);
            return Some(End::Reset);
        }
        None
    }

    /// Ends both sockets of this direction with a reset, once the other direction does the same.
    pub(super) fn abort(self) {
        for stream in [self.from.as_ref(), self.to.as_ref()] {
            // A socket that is gone needs no reset.
            let _ = stream.set_zero_linger();
        }
        // Dropped, it would say an ordinary end first.
        self.to.forget();
    }
}
