//! I1 once more, by search: the operations on one register are put into every order that real time
//! allows (Wing and Gong, with Lowe's memory, and just in time).
//!
//! This shares no idea with `registers.rs`, which trusts versions to give the order: here an order
//! is looked for, and the versions are part of what each operation says of the register. So a bug in
//! either shows as a disagreement (a property of the tests).
//!
//! Time is gone through once. What is kept are all the configurations that the register may be in: its
//! state, and which of the operations under way have been applied. When an operation ends, it has to
//! be applied: every configuration in which it is not yet is led on by applying what is under way,
//! in every order, until it is. None left: no order explains the history.
//!
//! A conditional write applies only to the version it expects and sets its own, a refusal only where
//! that is not there, a read sees what is there. What they were decided at never falls, and rises
//! with every write; only a refusal may share the version of the write it lost to, when it came
//! before it. A write of unknown outcome may be applied at any time from its beginning on, or never.
//!
//! What is not judged, and counted: what follows on a register where more than 100 operations are
//! under way at once, or where the configurations become too many; and what follows a complaint.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Complaints, Verdict};
use crate::history::{Action, Operation, Outcome, Seen};

/// Operations under way at once on one register; the bits of a set.
pub const UNDER_WAY_MAX: usize = 100;
/// Configurations that one step may lead to; more are given up.
const SEEN_MAX: usize = 100_000;

/// How I1 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No order of these operations explains their outcomes.
    NoOrder,
}

/// Judges every register. The history shows too little with fewer judged operations than this.
pub fn check(operations: &[Operation], judged_min: usize) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let mut registers: BTreeMap<&Arc<str>, Vec<&Operation>> = BTreeMap::new();
    for operation in operations.iter().filter(|one| says_something(one)) {
        let of = registers.entry(&operation.register).or_default();
        of.push(operation);
    }
    let mut counts = Counts::default();
    for (name, operations) in registers {
        check_register(name, operations, &mut counts, &mut complaints);
    }
    let Counts {
        judged,
        left_out,
        most,
    } = counts;
    let shows = format!(
        "{judged} operations put in order, at most {most} configurations at once, {left_out} left out"
    );
    complaints.verdict(|| match judged >= judged_min.max(1) {
        true => Verdict::Valid(shows),
        false => Verdict::Unknown(format!("{shows}; {judged_min} are needed")),
    })
}

#[derive(Default)]
struct Counts {
    judged: usize,
    left_out: usize,
    most: usize,
}

fn check_register(
    name: &str,
    operations: Vec<&Operation>,
    counts: &mut Counts,
    complaints: &mut Complaints<Rule>,
) {
    let ops = prepared(operations);
    // What begins at a moment is under way together with what ends at it.
    let begins = ops.iter().enumerate().map(|(n, op)| (op.by.invoked, 0, n));
    let ends = ops.iter().enumerate().filter(|(_, op)| !op.is_open());
    let ends = ends.map(|(n, op)| (op.by.completed, 1, n));
    let mut steps: Vec<(u64, u8, usize)> = begins.chain(ends).collect();
    steps.sort_unstable();
    let mut search = Search::default();
    let mut judged = 0;
    for (_, kind, n) in steps {
        let went_on = match kind {
            0 => search.begin(ops[n]),
            _ => search.end(ops[n].by),
        };
        judged += usize::from(kind == 1);
        match went_on {
            Ok(()) => {}
            Err(Stopped::TooFar) => break,
            Err(Stopped::Nowhere) => {
                let what = shown(name, ops[n].by, &search.under_way());
                complaints.add_at(ops[n].by, Rule::NoOrder, what); // I1
                break;
            }
        }
    }
    counts.judged += judged;
    counts.left_out += ops.iter().filter(|op| !op.is_open()).count() - judged;
    counts.most = counts.most.max(search.most);
}

/// Whether an operation says anything about the register.
fn says_something(operation: &Operation) -> bool {
    match operation.outcome {
        Outcome::NotDone => false,
        Outcome::Unknown => operation.action != Action::Read,
        _ => true,
    }
}

/// An operation, and the highest version that any operation on this register had been decided at
/// that was finished before it began.
#[derive(Clone, Copy)]
struct Op<'a> {
    by: &'a Operation,
    above: u64,
}

impl Op<'_> {
    fn is_open(&self) -> bool {
        self.by.outcome == Outcome::Unknown
    }
}

/// Operations by when they began, without the writes of unknown outcome that nothing depends on:
/// nobody saw their value, and every version that is expected is known from somebody else. If one of
/// them happened, it was the last of all.
fn prepared(mut operations: Vec<&Operation>) -> Vec<Op<'_>> {
    operations.sort_by_key(|one| one.invoked);
    let (mut known, mut seen) = (HashSet::new(), HashSet::new());
    for operation in &operations {
        match &operation.outcome {
            Outcome::Written { version } => drop(known.insert(*version)),
            Outcome::Read {
                seen: Some(one), ..
            }
            | Outcome::Conflict {
                seen: Some(one), ..
            } => {
                known.insert(one.version);
                seen.insert(one.value.clone());
            }
            _ => {}
        }
    }
    // Whether an unseen write of unknown outcome may matter: somebody followed a version that nobody
    // was told.
    let expects_known = |one: &Operation| match &one.action {
        Action::Write {
            expected: Some(expected),
            ..
        } => known.contains(expected),
        _ => true,
    };
    let was_seen = |one: &Operation| match &one.action {
        Action::Write { value, .. } => value.as_ref().is_some_and(|value| seen.contains(value)),
        Action::Read => false,
    };
    let all_known = operations.iter().all(|one| match one.outcome {
        Outcome::Written { .. } => expects_known(one),
        Outcome::Unknown => !was_seen(one) || expects_known(one),
        _ => true,
    });
    let mut finished: Vec<(u64, u64)> = operations
        .iter()
        .filter_map(|one| Some((one.completed, one.decided()?)))
        .collect();
    finished.sort_unstable();
    let (mut above, mut until) = (0, 0);
    let ops = operations.into_iter().map(|by| {
        while let Some((_, decided)) = finished.get(until).filter(|(at, _)| *at < by.invoked) {
            above = above.max(*decided);
            until += 1;
        }
        Op { by, above }
    });
    ops.filter(|op| {
        let deletes = matches!(
            op.by.action,
            Action::Write {
                value: None,
                expected: Some(_)
            }
        );
        let matters = was_seen(op.by) || (deletes && expects_known(op.by));
        !op.is_open() || !all_known || matters
    })
    .collect()
}

/// What the register is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Missing,
    /// A value, at a version unless its writer was never told one and nobody saw it yet.
    There(Option<u64>, Arc<str>),
}

/// What the register may have come to: what it is, and how far versions have come (twice the version,
/// and one more if nothing may share it).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    state: State,
    floor: u64,
}

/// Why a search ended.
enum Stopped {
    /// No order explains what happened.
    Nowhere,
    /// It would take too long.
    TooFar,
}

/// Everything that a register may have come to by now.
struct Search<'a> {
    /// The operations under way; a free place is `None`.
    places: Vec<Option<Op<'a>>>,
    /// Each with the places of those that have been applied.
    now: HashSet<(u128, Configuration)>,
    most: usize,
}

impl Default for Search<'_> {
    fn default() -> Self {
        let begin = Configuration {
            state: State::Missing,
            floor: 0,
        };
        Search {
            places: Vec::new(),
            now: HashSet::from([(0, begin)]),
            most: 1,
        }
    }
}

impl<'a> Search<'a> {
    fn begin(&mut self, op: Op<'a>) -> Result<(), Stopped> {
        let free = self.places.iter().position(Option::is_none);
        match free {
            Some(free) => self.places[free] = Some(op),
            None if self.places.len() < UNDER_WAY_MAX => self.places.push(Some(op)),
            None => {
                self.forget_the_impossible();
                let free = self.places.iter().position(Option::is_none);
                self.places[free.ok_or(Stopped::TooFar)?] = Some(op);
            }
        }
        Ok(())
    }

    /// Leads every configuration on until this operation has been applied.
    fn end(&mut self, operation: &Operation) -> Result<(), Stopped> {
        let is = |op: &Option<Op<'_>>| op.is_some_and(|op| std::ptr::eq(op.by, operation));
        let Some(place) = self.places.iter().position(is) else {
            return Ok(());
        };
        let mut seen: HashSet<(u128, Configuration)> = HashSet::new();
        let mut waiting: Vec<(u128, Configuration)> = self.now.iter().cloned().collect();
        let mut done = HashSet::new();
        while let Some((applied, at)) = waiting.pop() {
            if applied & (1 << place) != 0 {
                done.insert((applied & !(1 << place), at));
                continue;
            }
            for (n, op) in self.places.iter().enumerate() {
                let Some(op) = op.filter(|_| applied & (1 << n) == 0) else {
                    continue;
                };
                if let Some(next) = apply(op, &at) {
                    let next = (applied | 1 << n, next);
                    if seen.insert(next.clone()) {
                        waiting.push(next);
                    }
                }
            }
            if seen.len() > SEEN_MAX {
                return Err(Stopped::TooFar);
            }
        }
        if done.is_empty() {
            return Err(Stopped::Nowhere);
        }
        self.places[place] = None;
        self.most = self.most.max(done.len());
        self.now = done;
        if self.now.len() > 8 || self.places.len() > UNDER_WAY_MAX / 2 {
            self.forget_the_impossible();
        }
        Ok(())
    }

    /// Frees the places of writes of unknown outcome that have been applied everywhere, or can
    /// nowhere be any more.
    fn forget_the_impossible(&mut self) {
        for place in 0..self.places.len() {
            let Some(op) = self.places[place].filter(Op::is_open) else {
                continue;
            };
            let bit = 1_u128 << place;
            let mut now = self.now.iter();
            if now.all(|(applied, at)| applied & bit != 0 || !may_happen(op.by, at)) {
                self.places[place] = None;
                let now = self.now.drain().collect::<Vec<_>>();
                self.now = now
                    .into_iter()
                    .map(|(applied, at)| (applied & !bit, at))
                    .collect();
            }
        }
    }

    fn under_way(&self) -> Vec<&'a Operation> {
        self.places.iter().flatten().map(|op| op.by).collect()
    }
}

/// Whether a write of unknown outcome can still apply, now or later: what it expects is there or
/// can still come.
fn may_happen(operation: &Operation, at: &Configuration) -> bool {
    let Action::Write {
        expected: Some(expected),
        ..
    } = operation.action
    else {
        return true;
    };
    match &at.state {
        State::There(Some(version), _) => expected >= *version,
        State::Missing | State::There(None, _) => expected * 2 + 1 >= at.floor,
    }
}

/// Applies an operation; `None` if its outcome could not be that.
fn apply(op: Op<'_>, at: &Configuration) -> Option<Configuration> {
    match (&op.by.action, &op.by.outcome) {
        (_, Outcome::Read { decided, seen }) => {
            let state = found(&at.state, seen.as_ref(), at.floor)?;
            let floor = decided * 2 + 1;
            (floor >= at.floor && not_above(&state, *decided))
                .then_some(Configuration { state, floor })
        }
        (Action::Write { expected, .. }, Outcome::Conflict { decided, seen }) => {
            if seen.as_ref().map(|seen| seen.version) == *expected {
                return None;
            }
            let state = found(&at.state, seen.as_ref(), at.floor)?;
            let fits = decided * 2 + 1 >= at.floor && not_above(&state, *decided);
            let floor = at.floor.max(decided * 2);
            fits.then_some(Configuration { state, floor })
        }
        (Action::Write { value, expected }, Outcome::Written { version }) => {
            expects(&at.state, *expected, at.floor, Some(*version))?;
            // I2: later than all that had finished before it began, refusals included.
            if *version <= op.above && op.above > 0 {
                return None;
            }
            let floor = version * 2 + 1;
            let state = match value {
                Some(value) => State::There(Some(*version), value.clone()),
                None => State::Missing,
            };
            (floor > at.floor).then_some(Configuration { state, floor })
        }
        (Action::Write { value, expected }, Outcome::Unknown) => {
            let resolved = expects(&at.state, *expected, at.floor, None)?;
            let state = match value {
                Some(value) => State::There(None, value.clone()),
                None => State::Missing,
            };
            // It made a version of its own, which only a refusal may share.
            let least = at.floor.max(resolved).max(op.above * 2 + 1);
            let floor = least + 1 + least % 2;
            Some(Configuration { state, floor })
        }
        _ => None,
    }
}

/// What the register is, if somebody saw this.
fn found(state: &State, seen: Option<&Seen>, floor: u64) -> Option<State> {
    let seen_state = || {
        seen.map_or(State::Missing, |seen| {
            State::There(Some(seen.version), seen.value.clone())
        })
    };
    match (state, seen) {
        (State::Missing, None) => Some(State::Missing),
        (State::There(version, value), Some(seen)) if *value == seen.value => {
            let fits = match version {
                Some(version) => *version == seen.version,
                None => seen.version * 2 + 1 >= floor,
            };
            fits.then(seen_state)
        }
        _ => None,
    }
}

/// Whether a conditional write applies; then how far versions have come with what it expects.
fn expects(state: &State, expected: Option<u64>, floor: u64, made: Option<u64>) -> Option<u64> {
    if expected.is_some_and(|expected| made.is_some_and(|made| made <= expected)) {
        return None;
    }
    let applies = match (state, expected) {
        (State::Missing, None) => true,
        (State::There(Some(version), _), Some(expected)) => *version == expected,
        (State::There(None, _), Some(expected)) => expected * 2 + 1 >= floor,
        _ => false,
    };
    applies.then(|| expected.map_or(0, |expected| expected * 2 + 1))
}

fn not_above(state: &State, decided: u64) -> bool {
    match state {
        State::There(Some(version), _) => *version <= decided,
        _ => true,
    }
}

fn shown(register: &str, operation: &Operation, under_way: &[&Operation]) -> String {
    let line = |one: &Operation| {
        let (client, action, outcome) = (one.client, &one.action, &one.outcome);
        let (from, to) = (one.invoked / 1_000, one.completed / 1_000);
        format!("[client {client} {from}..{to} µs {action:?} -> {outcome:?}]")
    };
    let mut others: Vec<&&Operation> = under_way.iter().collect();
    others.retain(|one| **one != operation);
    others.sort_by_key(|one| one.invoked);
    // The latest few are those that people will want to see.
    let others = others.into_iter();
    let others: Vec<String> = others.rev().take(6).map(|one| line(one)).collect();
    format!(
        "{register}: nothing that it may have come to allows {}, with {} under way",
        line(operation),
        others.join(", ")
    )
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
