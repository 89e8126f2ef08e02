//! What is fed with hostile bytes, and what must hold of whatever comes out of it.
//!
//! One place for two users: `tests/fuzz_targets.rs` runs every target over mutated inputs in each
//! run of the tests, and `scripts/fuzz` runs the same functions under libFuzzer for as long as one
//! likes. A target is a plain function; what does not hold is a panic.
//!
//! What must hold of every decoder: any bytes give a value or an error; it never holds, nor
//! allocates in sum, more than a multiple of the input and a constant ([`Memory`]). What must hold
//! of every value is said where it is checked.
//!
//! Left out: the decoders of other crates (`storage.rs` and `client.rs`, under libFuzzer only).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target fails by panicking"
)]
#![allow(dead_code, reason = "each user needs a part of it")]

use std::collections::BTreeMap;

use pennon_evaluator::{DecodeError, KeyError};

mod documents;
pub(crate) mod frames;
mod keys;
pub(crate) mod mutate;
pub(crate) mod seeds;
pub(crate) mod snapshots;
mod states;
mod texts;
pub(crate) mod unsound;

/// A decoder, or several that read the same bytes.
pub(crate) struct Target {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// How inputs are best changed.
    pub(crate) form: Form,
    /// Feeds it, and panics when something does not hold.
    pub(crate) run: fn(&[u8], &mut Seen),
    /// Makes inputs that are accepted, or nearly.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Every kind of answer that it can give; a test must have seen them all.
    pub(crate) answers: &'static [&'static str],
    /// Inputs in a run of the tests.
    pub(crate) cases: usize,
}

/// What inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Bytes in the positional encoding, behind so many bytes that steer the target.
    Bytes(usize),
    /// JSON.
    Json,
}

/// The decoders of the evaluator.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "state",
        form: Form::Bytes(0),
        run: states::state,
        seeds: seeds::states,
        answers: states::ANSWERS,
        cases: 10_000,
    },
    Target {
        name: "encoded",
        form: Form::Bytes(0),
        run: states::encoded,
        seeds: seeds::encoded,
        answers: states::ENCODED_ANSWERS,
        cases: 10_000,
    },
    Target {
        name: "snapshot",
        form: Form::Bytes(0),
        run: snapshots::snapshot,
        seeds: seeds::snapshots,
        answers: snapshots::ANSWERS,
        cases: 8_000,
    },
    Target {
        name: "delta",
        form: Form::Bytes(0),
        run: snapshots::delta,
        seeds: seeds::deltas,
        answers: snapshots::DELTA_ANSWERS,
        cases: 8_000,
    },
    Target {
        name: "frames",
        form: Form::Bytes(2),
        run: frames::frames,
        seeds: seeds::streams,
        answers: frames::ANSWERS,
        cases: 3_000,
    },
    Target {
        name: "flag",
        form: Form::Json,
        run: texts::flag,
        seeds: documents::flag_texts,
        answers: texts::FLAG_ANSWERS,
        cases: 8_000,
    },
    Target {
        name: "policy",
        form: Form::Json,
        run: texts::policy,
        seeds: documents::policy_texts,
        answers: texts::POLICY_ANSWERS,
        cases: 6_000,
    },
    Target {
        name: "segment",
        form: Form::Json,
        run: texts::segment,
        seeds: documents::segment_texts,
        answers: texts::SEGMENT_ANSWERS,
        cases: 8_000,
    },
    Target {
        name: "environment",
        form: Form::Json,
        run: texts::environment,
        seeds: documents::environment_texts,
        answers: texts::ENVIRONMENT_ANSWERS,
        cases: 10_000,
    },
    Target {
        name: "subject",
        form: Form::Json,
        run: texts::subject,
        seeds: documents::subject_texts,
        answers: texts::SUBJECT_ANSWERS,
        cases: 8_000,
    },
    Target {
        name: "json",
        form: Form::Json,
        run: texts::json,
        seeds: documents::json_texts,
        answers: texts::JSON_ANSWERS,
        cases: 10_000,
    },
    Target {
        name: "keys",
        form: Form::Bytes(1),
        run: keys::keys,
        seeds: seeds::key_texts,
        answers: keys::ANSWERS,
        cases: 10_000,
    },
];

/// How often each kind of answer was given.
#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) BTreeMap<&'static str, u64>);

impl Seen {
    pub(crate) fn note(&mut self, answer: &'static str) {
        *self.0.entry(answer).or_default() += 1;
    }

    /// Notes what is wrong with a state; a broken rule by its own words.
    fn undecodable(&mut self, error: &DecodeError) {
        assert!(!error.to_string().is_empty());
        self.note(match error {
            DecodeError::Empty => "empty",
            DecodeError::Format { .. } => "format",
            DecodeError::TooLong { .. } => "too long",
            DecodeError::Malformed { .. } => "malformed",
            DecodeError::Invalid { what } => what,
        });
    }

    fn no_key(&mut self, error: &KeyError) {
        assert!(!error.to_string().is_empty());
        self.note(match error {
            KeyError::Empty => "key: empty",
            KeyError::TooLong { .. } => "key: too long",
            KeyError::Character { .. } => "key: character",
        });
    }
}

/// What a decoder may take for an input.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Bytes held at once, whatever the input; eight times as many in sum.
    pub(crate) fixed: u64,
    /// So many more when the input is refused: a length may have lied until it was found out.
    pub(crate) refused: u64,
    /// Bytes held at once per byte of input.
    pub(crate) held_per_byte: u64,
    /// Bytes allocated in sum per byte of input: a second look at time, too.
    pub(crate) sum_per_byte: u64,
}

/// serde reserves at most 1 MiB for a list because of what its length says. Lists within lists are
/// at most three deep, and a list that lied ends the reading.
pub(crate) const DECODING: Memory = Memory {
    fixed: 4 << 10,
    refused: 3 << 20,
    held_per_byte: 32,
    sum_per_byte: 64,
};

/// The same for a state of many patterns. They are built one after the other, which takes memory
/// for a moment each and at most so many steps in all.
pub(crate) const TRYING_PATTERNS: Memory = Memory {
    fixed: 48 << 20,
    refused: 0,
    held_per_byte: 32,
    sum_per_byte: 1 << 20,
};

/// JSON is read into a tree first, in which `{"a":1}` takes 400 bytes; a fault quotes what it is
/// about.
pub(crate) const READING_JSON: Memory = Memory {
    fixed: 4 << 10,
    refused: 64 << 10,
    held_per_byte: 128,
    sum_per_byte: 256,
};

/// Everything that is made of a decoded value: its load, its decisions, its JSON. States within a
/// snapshot are decoded several times here, and each time one may lie.
pub(crate) const USING: Memory = Memory {
    fixed: 4 << 20,
    refused: 0,
    held_per_byte: 256,
    sum_per_byte: 1_024,
};

/// The same where there are regular expressions. Building one takes up to 48 MiB for a moment, as
/// its bounds say, and keeps up to 1 MiB, for 16 bytes of source or so.
pub(crate) const USING_PATTERNS: Memory = Memory {
    fixed: 48 << 20,
    refused: 0,
    held_per_byte: 64 << 10,
    sum_per_byte: 64 << 20,
};

impl Memory {
    /// Does something for an input of so many bytes, and panics when it took more than it may.
    #[track_caller]
    pub(crate) fn bounds<T>(self, len: usize, work: impl FnOnce() -> T) -> T {
        self.bounds_if(|_| true, len, work)
    }

    /// The same for what can be refused.
    #[track_caller]
    pub(crate) fn bounds_reading<T, E>(
        self,
        len: usize,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.bounds_if(Result::is_ok, len, work)
    }

    #[track_caller]
    pub(crate) fn bounds_if<T>(
        self,
        taken: fn(&T) -> bool,
        len: usize,
        work: impl FnOnce() -> T,
    ) -> T {
        let mut done = None;
        let memory = allocation_counter::measure(|| done = Some(work()));
        let done = done.expect("the work was done");
        let fixed = self.fixed + if taken(&done) { 0 } else { self.refused };
        let (held, sum, len) = (memory.bytes_max, memory.bytes_total, len as u64);
        let held_max = fixed + self.held_per_byte * len;
        let sum_max = 8 * fixed + self.sum_per_byte * len;
        assert!(
            held <= held_max,
            "{held} bytes at once for {len}, not {held_max}"
        );
        assert!(
            sum <= sum_max,
            "{sum} bytes in sum for {len}, not {sum_max}"
        );
        done
    }
}
