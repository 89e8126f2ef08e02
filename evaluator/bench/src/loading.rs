//! How long a snapshot takes from the bytes of its frame until it can decide, what a delta of one
//! flag takes, and what a snapshot keeps in memory.
//!
//! What must hold: it is the very path of the client: decode the frame, check the digest, load. The
//! flags are of the plain mix (40 % on, 25 % rollouts, 15 % rules, 10 % segments, 10 %
//! prerequisites) with ten segments of 100 keys. Freeing the state before is not counted; time is
//! that of the thread.
//!
//! Left out: the way through a socket.

use std::hint::black_box;

use pennon_evaluator::wire::{Ages, FrameDecoder, StreamMessage};
use pennon_evaluator::{ConfigSnapshot, Delta, Snapshot};

use crate::Result;
use crate::node;
use crate::pennon::{self, WRITTEN_AT, version_of};
use crate::rounds::{median, thread_time};
use crate::store::{FlagSpec, Kind, Store};

/// Keys in the segments.
const SEGMENTS: [usize; 10] = [100; 10];

/// What was measured with one number of flags.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// How many flags.
    pub flags: usize,
    /// Bytes of the frame.
    pub frame_len: usize,
    /// From the frame to a state that can decide, in milliseconds.
    pub load_ms: f64,
    /// A delta of one flag, in milliseconds.
    pub delta_ms: f64,
}

/// Measures so many rounds with so many flags.
///
/// # Errors
/// When something is refused or decides otherwise than expected.
pub fn measure(flags: usize, rounds: usize) -> Result<Loaded> {
    let store = Store::new(flags, &SEGMENTS);
    let config = pennon::compile(&store)?;
    let frame = frame_of(&config)?;
    let (delta, touched) = one_flag(&store, &config)?;
    let (mut loads, mut deltas) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begin = thread_time();
        let snapshot = received(black_box(&frame))?;
        loads.push(thread_time().saturating_sub(begin).as_secs_f64() * 1_000.0);
        let begin = thread_time();
        let next = snapshot.apply(black_box(&delta))?;
        deltas.push(thread_time().saturating_sub(begin).as_secs_f64() * 1_000.0);
        decides(&snapshot, &next, touched)?;
    }
    Ok(Loaded {
        flags,
        frame_len: frame.len(),
        load_ms: median(&loads),
        delta_ms: median(&deltas),
    })
}

/// Makes the frame of a snapshot with so many flags.
///
/// # Errors
/// When the evaluator refuses it.
pub fn frame(flags: usize) -> Result<Vec<u8>> {
    frame_of(&pennon::compile(&Store::new(flags, &SEGMENTS))?)
}

fn frame_of(config: &ConfigSnapshot) -> Result<Vec<u8>> {
    node::frame(&StreamMessage::snapshot(config), Ages::default())
}

/// Takes a frame apart and makes its snapshot ready, as the client does.
///
/// # Errors
/// When it holds no snapshot or a damaged one.
pub fn received(frame: &[u8]) -> Result<Snapshot> {
    let mut decoder = FrameDecoder::default();
    decoder.push(frame);
    let (_, message) = decoder.pull()?.ok_or("the frame is not complete")?;
    let config = message.into_snapshot(&pennon::environment()?)?;
    Ok(Snapshot::load(
        &config.ok_or("the frame holds no snapshot")?,
    )?)
}

/// A delta that changes one flag and no decision.
fn one_flag<'a>(store: &'a Store, config: &ConfigSnapshot) -> Result<(Delta, &'a FlagSpec)> {
    let flag = store.first(|kind| kind == Kind::On);
    let flag = &store.flags[flag.ok_or("no flag to change")?];
    let at = version_of(WRITTEN_AT + 1)?;
    let state = pennon::flag_state(store, flag, at, true)?;
    let mut states = config.states().to_vec();
    for old in states
        .iter_mut()
        .filter(|old| old.state_key() == state.state_key())
    {
        *old = state.clone();
    }
    let next = ConfigSnapshot::new(config.environment().clone(), at, states)?;
    Ok((ConfigSnapshot::diff(config, &next), flag))
}

/// Checks that only the changed flag says that it changed.
fn decides(before: &Snapshot, after: &Snapshot, touched: &FlagSpec) -> Result<()> {
    let subject = pennon_evaluator::Subject::new("user-1");
    let changed_at = |snapshot: &Snapshot| {
        let found = snapshot.evaluate(&touched.key, &subject);
        (found.variant.map(str::to_owned), found.config_version.get())
    };
    let on = |at| (Some("on".to_owned()), at);
    match (changed_at(before), changed_at(after)) == (on(WRITTEN_AT), on(WRITTEN_AT + 1)) {
        true => Ok(()),
        false => Err(format!("{} decides wrongly after a delta", touched.key).into()),
    }
}
