//! I1, I2, I9: registers with conditional writes are linearizable, judged by their versions.
//!
//! Every answer says which version it was decided at, refusals included; so the order is given and
//! only has to be checked. A history is accepted exactly when all of this holds:
//!
//! - *real time*: an operation that began after another had finished at version m was decided at m
//!   or later, a write later than m. Over all registers at once, because versions are global;
//! - *one write per version* of a register, and one version per write;
//! - *reads see writes*: what was seen at a version is what the write of that version wrote. A
//!   write of unknown outcome whose value was seen did happen, at that version; one whose answer
//!   was a refusal did not;
//! - *the state at a version* is that of the newest write at or below it: what an answer decided at
//!   D says was there, was there at D; and a write at V found, at V - 1, exactly what it expected.
//!   A register found missing after a write needs a deletion: a known one, or one of unknown
//!   outcome that expected just that write.
//!
//! A refusal may share its version with the write of another client: both travelled in one entry,
//! the refusal decided first. It saw the state below that write, unless somebody had already seen
//! that write, or been told of it, when the refusal was asked for.
//!
//! Clients are taken to expect only versions that somebody was told. The cost is that of sorting. What is not judged: which of several unknown writes that nobody saw
//! happened; nothing depends on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::quick::QuickMap;
use super::{Complaints, Verdict};
use crate::history::{Action, Operation, Outcome, Seen};

/// How the promises can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Decided at a lower version than an operation that had finished before.
    WentBack,
    /// Two writes of one register made the same version.
    VersionTwice,
    /// One write made two versions.
    AppliedTwice,
    /// A value was seen that nobody wrote.
    Invented,
    /// A value was seen at another version than its writer was told.
    OtherVersion,
    /// A value was seen before anybody began to write it.
    SeenBeforeWritten,
    /// The value of a refused write was seen.
    RefusedButSeen,
    /// Something was seen at a version above the one the answer was decided at.
    FromTheFuture,
    /// An older write was seen than the newest at that version.
    Stale,
    /// Something was seen after it had been deleted, or before it was created.
    NotThere,
    /// The register was missing although nobody may have deleted it.
    Vanished,
    /// A write happened although what it expected was not there.
    WrongPredecessor,
    /// A write was refused although what it expected was there.
    RefusedWithoutConflict,
}

/// What a history must show for a verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Acknowledged writes.
    pub writes_min: usize,
    /// Reads that were answered.
    pub reads_min: usize,
    /// Refused writes.
    pub conflicts_min: usize,
}

/// Judges a history.
pub fn check(operations: &[Operation], demand: Demand) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let finished = Finished::new(operations);
    for operation in operations {
        check_real_time(operation, &finished, &mut complaints);
    }
    let mut registers: BTreeMap<&Arc<str>, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers
            .entry(&operation.register)
            .or_default()
            .push(operation);
    }
    let (mut resolved, mut untold) = (0, None);
    for (name, operations) in registers {
        match Register::new(name, &operations, &finished, &mut complaints) {
            Ok(register) => resolved += register.check(&operations, &mut complaints),
            Err(why) => untold = Some(why),
        }
    }
    complaints
        .verdict(|| untold.map_or_else(|| enough(operations, demand, resolved), Verdict::Unknown))
}

fn enough(operations: &[Operation], demand: Demand, resolved: usize) -> Verdict<Rule> {
    let count =
        |holds: fn(&Outcome) -> bool| operations.iter().filter(|o| holds(&o.outcome)).count();
    let writes = count(|outcome| matches!(outcome, Outcome::Written { .. }));
    let reads = count(|outcome| matches!(outcome, Outcome::Read { .. }));
    let conflicts = count(|outcome| matches!(outcome, Outcome::Conflict { .. }));
    let unknown = count(|outcome| *outcome == Outcome::Unknown);
    let shows = format!(
        "{writes} writes, {reads} reads, {conflicts} conflicts, {unknown} of unknown outcome ({resolved} seen to have happened)"
    );
    if writes < demand.writes_min || reads < demand.reads_min || conflicts < demand.conflicts_min {
        return Verdict::Unknown(format!("{shows}; {demand:?}"));
    }
    Verdict::Valid(shows)
}

/// The highest version that any operation had finished at, over time.
struct Finished {
    /// (completed, highest so far), by time.
    steps: Vec<(u64, u64)>,
}

impl Finished {
    fn new(operations: &[Operation]) -> Finished {
        let finished = operations
            .iter()
            .filter_map(|operation| Some((operation.completed, operation.decided()?)));
        let mut steps: Vec<(u64, u64)> = finished.collect();
        steps.sort_unstable();
        let mut highest = 0;
        for (_, version) in &mut steps {
            highest = highest.max(*version);
            *version = highest;
        }
        Finished { steps }
    }

    /// The highest version finished before this moment.
    fn before(&self, moment: u64) -> u64 {
        let count = self
            .steps
            .partition_point(|(completed, _)| *completed < moment);
        count.checked_sub(1).map_or(0, |last| self.steps[last].1)
    }
}

fn check_real_time(operation: &Operation, finished: &Finished, complaints: &mut Complaints<Rule>) {
    let Some(decided) = operation.decided() else {
        return;
    };
    let before = finished.before(operation.invoked);
    // I1, I2
    if decided < before || (operation.is_acknowledged() && decided == before) {
        let what = format!(
            "{}, although {before} had been finished at when it began",
            shown(operation)
        );
        complaints.add_at(operation, Rule::WentBack, what);
    }
}

/// One write that happened, at its version.
#[derive(Clone, Copy)]
struct Change<'a> {
    version: u64,
    deletes: bool,
    by: &'a Operation,
}

/// What an operation says of the state at one version.
#[derive(Clone, Copy)]
struct Claim<'a> {
    at: u64,
    /// The version of the register, `None` if it was missing.
    found: Option<u64>,
    /// It may be the state just below that version: a refusal in the entry of another write.
    below: bool,
    by: &'a Operation,
}

/// One register: its changes in order of version, and the deletions that may have happened.
struct Register<'a> {
    name: &'a str,
    changes: Vec<Change<'a>>,
    /// Deletions of unknown outcome, by what they expected, with the version they must be above.
    deletions: HashMap<u64, Vec<(&'a Operation, u64)>>,
    resolved: usize,
}

impl<'a> Register<'a> {
    fn new(
        name: &'a str,
        operations: &[&'a Operation],
        finished: &Finished,
        complaints: &mut Complaints<Rule>,
    ) -> Result<Register<'a>, String> {
        let seen = resolve(name, operations, complaints)?;
        let (mut changes, mut deletions, mut resolved) = (Vec::new(), HashMap::new(), 0);
        let mut unseen = Vec::new();
        for operation in operations {
            let Action::Write { value, expected } = &operation.action else {
                continue;
            };
            let deletes = value.is_none();
            match (&operation.outcome, value) {
                (Outcome::Written { version }, _) => changes.push(Change {
                    version: *version,
                    deletes,
                    by: operation,
                }),
                (Outcome::Unknown, Some(value)) => {
                    let Some(version) = seen.get(value).copied() else {
                        unseen.push(*operation);
                        continue;
                    };
                    resolved += 1;
                    let before = finished.before(operation.invoked);
                    if version <= before {
                        let what = format!(
                            "{} happened at {version}, {before} had been finished at",
                            shown(operation)
                        );
                        complaints.add_at(*operation, Rule::SeenBeforeWritten, what);
                    }
                    changes.push(Change {
                        version,
                        deletes,
                        by: operation,
                    });
                }
                (Outcome::Unknown, None) => {
                    let Some(expected) = expected else { continue };
                    let above = finished.before(operation.invoked);
                    deletions
                        .entry(*expected)
                        .or_insert_with(Vec::new)
                        .push((*operation, above));
                }
                _ => {}
            }
        }
        changes.sort_by_key(|change| change.version);
        resolved += add_followed(name, &mut changes, unseen, finished, !deletions.is_empty())?;
        for pair in changes
            .windows(2)
            .filter(|pair| pair[0].version == pair[1].version)
        {
            let what = format!("{} and {}", shown(pair[0].by), shown(pair[1].by));
            complaints.add_at(pair[1].by, Rule::VersionTwice, what); // I2
        }
        Ok(Register {
            name,
            changes,
            deletions,
            resolved,
        })
    }

    /// Checks every claim about the state against the changes. Returns how many unknown writes
    /// were seen to have happened.
    fn check(&self, operations: &[&'a Operation], complaints: &mut Complaints<Rule>) -> usize {
        let mut claims = self.claims(operations, complaints);
        // Claims that it was there first: a deletion in between comes after them.
        claims.sort_by_key(|claim| (claim.at, claim.found.is_none()));
        let mut deleted = Deleted::default();
        for claim in claims {
            if let Some((rule, why)) = self.judge(claim, &mut deleted) {
                let rule = if claim.by.is_acknowledged() || claim.by.decided().is_none() {
                    Rule::WrongPredecessor
                } else {
                    rule
                };
                let found = claim
                    .found
                    .map_or("missing".to_owned(), |version| format!("at {version}"));
                let what = format!(
                    "{}: it was {found} at {}, but {why}",
                    shown(claim.by),
                    claim.at
                );
                complaints.add_at(claim.by, rule, what);
            }
        }
        self.resolved + deleted.count
    }

    fn claims(
        &self,
        operations: &[&'a Operation],
        complaints: &mut Complaints<Rule>,
    ) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        let known = Known::new(operations);
        for operation in operations.iter().copied() {
            let (decided, seen, refused) = match &operation.outcome {
                Outcome::Read { decided, seen } => (*decided, seen, false),
                Outcome::Conflict { decided, seen } => (*decided, seen, true),
                _ => continue,
            };
            let found = seen.as_ref().map(|seen| seen.version);
            let mut at = decided;
            let known_before = refused && known.before(operation, decided, found);
            if let Action::Write { expected, .. } = &operation.action
                && *expected == found
            {
                complaints.add_at(operation, Rule::RefusedWithoutConflict, shown(operation));
            }
            if refused
                && !known_before
                && self
                    .change_at(decided)
                    .is_some_and(|change| found != change.found())
            {
                at = decided.saturating_sub(1); // Decided in the same entry, before that write.
            }
            claims.push(Claim {
                at,
                found,
                below: refused && !known_before && at == decided,
                by: operation,
            });
        }
        for change in &self.changes {
            if let Action::Write { expected, .. } = &change.by.action {
                // I2: a conditional write follows exactly what it expected.
                claims.push(Claim {
                    at: change.version.saturating_sub(1),
                    found: *expected,
                    below: false,
                    by: change.by,
                });
            }
        }
        claims
    }

    fn change_at(&self, version: u64) -> Option<&Change<'a>> {
        let at = self
            .changes
            .binary_search_by_key(&version, |change| change.version)
            .ok()?;
        self.changes.get(at)
    }

    /// Says what is wrong with a claim, if anything.
    fn judge(&self, claim: Claim<'_>, deleted: &mut Deleted) -> Option<(Rule, String)> {
        let after = self
            .changes
            .partition_point(|change| change.version <= claim.at);
        let newest = after.checked_sub(1).map(|at| self.changes[at]);
        let state = newest.filter(|change| !change.deletes && !deleted.is(change.version));
        match (claim.found, state) {
            (None, None) => None,
            (Some(found), Some(state)) if found == state.version => {
                let at = claim.at - u64::from(claim.below && found < claim.at);
                let before = deleted.seen.filter(|(version, _)| *version == found);
                deleted.seen = Some((found, before.map_or(at, |(_, before)| at.max(before))));
                None
            }
            (Some(found), _) if found > claim.at => Some((
                Rule::FromTheFuture,
                "that is later than the answer was decided".to_owned(),
            )),
            (Some(found), Some(state)) if found < state.version => {
                Some((Rule::Stale, format!("{} had been written", shown(state.by))))
            }
            (Some(_), Some(state)) => Some((
                Rule::NotThere,
                format!("the newest write was {}", shown(state.by)),
            )),
            (Some(_), None) => Some((Rule::NotThere, format!("{} did not exist", self.name))),
            (None, Some(state)) => self.explain_missing(claim, state, deleted),
        }
    }

    /// A register is missing although a write is the newest change: a deletion of unknown outcome
    /// that expected that write may have happened between the last sight of it and now.
    fn explain_missing(
        &self,
        claim: Claim<'_>,
        state: Change<'_>,
        deleted: &mut Deleted,
    ) -> Option<(Rule, String)> {
        let last_seen = deleted
            .seen
            .filter(|(version, _)| *version == state.version)
            .map_or(state.version, |(_, at)| at);
        let possible = self
            .deletions
            .get(&state.version)
            .into_iter()
            .flatten()
            .any(|(deletion, above)| {
                deletion.invoked <= claim.by.completed && *above < claim.at && last_seen < claim.at
            });
        if possible {
            deleted.mark(state.version);
            return None;
        }
        Some((
            Rule::Vanished,
            format!(
                "{} was there and nobody may have deleted it",
                shown(state.by)
            ),
        ))
    }
}

/// Who had finished at which version, and when.
struct Known {
    /// (version, completed) of those who were behind the write of that version, sorted.
    after: Vec<(u64, u64)>,
    /// (version, completed, found) of refusals, which were before it or behind it, sorted.
    refused: Vec<(u64, u64, Option<u64>)>,
}

impl Known {
    fn new(operations: &[&Operation]) -> Known {
        let (mut after, mut refused) = (Vec::new(), Vec::new());
        for operation in operations {
            let completed = operation.completed;
            match &operation.outcome {
                Outcome::Read { decided, .. } => after.push((*decided, completed)),
                Outcome::Written { version } => after.push((*version, completed)),
                Outcome::Conflict { decided, seen } => {
                    let found = seen.as_ref().map(|seen| seen.version);
                    refused.push((*decided, completed, found));
                    // Who sees the write of a version is behind it.
                    after.extend(found.map(|found| (found, completed)));
                }
                Outcome::NotDone | Outcome::Unknown => {}
            }
        }
        after.sort_unstable();
        refused.sort_unstable();
        Known { after, refused }
    }

    /// Whether a refusal began when somebody had finished who was behind the write of that version;
    /// a refusal that found something else was before it, so this one is behind it.
    fn before(&self, refusal: &Operation, decided: u64, found: Option<u64>) -> bool {
        let at = self.after.partition_point(|one| one.0 < decided);
        let first = self.after.get(at).filter(|one| one.0 == decided);
        if first.is_some_and(|(_, completed)| *completed < refusal.invoked) {
            return true;
        }
        let at = self.refused.partition_point(|one| one.0 < decided);
        let others = self.refused[at..].iter();
        let mut others = others.take_while(|one| one.0 == decided && one.1 < refusal.invoked);
        others.any(|(.., other)| *other != found)
    }
}

/// Adds the writes of unknown outcome that nobody saw, but that another write followed: it says at
/// which version. Returns how many.
fn add_followed<'a>(
    name: &str,
    changes: &mut Vec<Change<'a>>,
    mut unseen: Vec<&'a Operation>,
    finished: &Finished,
    may_be_deleted: bool,
) -> Result<usize, String> {
    let known: Vec<u64> = changes.iter().map(|change| change.version).collect();
    let followed = changes.iter().filter_map(|change| match change.by.action {
        Action::Write { expected, .. } => expected,
        Action::Read => None,
    });
    let mut followed: Vec<u64> = followed.collect();
    followed.sort_unstable();
    followed.dedup();
    unseen.sort_by_key(|operation| operation.invoked);
    let mut added = 0;
    for version in followed {
        let at = changes.partition_point(|change| change.version < version);
        if unseen.is_empty()
            || changes
                .get(at)
                .is_some_and(|change| change.version == version)
        {
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| changes[at].found());
        let fits = |operation: &&Operation| {
            matches!(operation.action, Action::Write { expected, .. } if expected == before)
                && finished.before(operation.invoked) < version
        };
        let Some(found) = unseen.iter().position(fits) else {
            // It may have come after another one that nobody saw: that is not looked into.
            let may_fit = |operation: &Operation| match operation.action {
                Action::Write {
                    expected: Some(expected),
                    ..
                } => expected < version && known.binary_search(&expected).is_err(),
                _ => may_be_deleted,
            };
            if unseen.iter().any(|operation| may_fit(operation)) {
                return Err(format!(
                    "{name}: a write followed {version}, and which one that was cannot be told"
                ));
            }
            continue;
        };
        changes.insert(
            at,
            Change {
                version,
                deletes: false,
                by: unseen.remove(found),
            },
        );
        added += 1;
    }
    Ok(added)
}

impl Change<'_> {
    fn found(&self) -> Option<u64> {
        (!self.deletes).then_some(self.version)
    }
}

/// What is known of deletions of unknown outcome while claims are looked at in order.
#[derive(Default)]
struct Deleted {
    /// The write that was deleted last by one of them.
    version: Option<u64>,
    /// The write seen last, and the highest version at which it was.
    seen: Option<(u64, u64)>,
    count: usize,
}

impl Deleted {
    fn is(&self, version: u64) -> bool {
        self.version == Some(version)
    }

    fn mark(&mut self, version: u64) {
        self.version = Some(version);
        self.count += 1;
    }
}

/// Finds for each value that was seen who wrote it, and at which version it was seen.
fn resolve<'a>(
    name: &str,
    operations: &[&'a Operation],
    complaints: &mut Complaints<Rule>,
) -> Result<QuickMap<&'a Arc<str>, u64>, String> {
    let mut writers: QuickMap<&Arc<str>, &Operation> = QuickMap::default();
    for operation in operations {
        if let Action::Write {
            value: Some(value), ..
        } = &operation.action
            && writers.insert(value, operation).is_some()
        {
            return Err(format!(
                "{name}: {value:?} is written by two operations, so nobody can tell them apart"
            ));
        }
    }
    let mut at: QuickMap<&Arc<str>, u64> = QuickMap::default();
    for operation in operations.iter().copied() {
        let (Outcome::Read {
            seen: Some(seen), ..
        }
        | Outcome::Conflict {
            seen: Some(seen), ..
        }) = &operation.outcome
        else {
            continue;
        };
        let Seen { version, value } = seen;
        let Some(writer) = writers.get(value).copied() else {
            complaints.add_at(operation, Rule::Invented, shown(operation));
            continue;
        };
        if let Some(rule) = unfit(writer, operation, *version) {
            complaints.add_at(
                operation,
                rule,
                format!("{}, written by {}", shown(operation), shown(writer)),
            );
        }
        match at.insert(value, *version) {
            Some(before) if before != *version => {
                let what = format!("{} was seen at {before} and at {version}", shown(writer));
                complaints.add_at(operation, Rule::AppliedTwice, what); // I9
            }
            _ => {}
        }
    }
    Ok(at)
}

/// Why an operation cannot have seen what this writer wrote at this version.
fn unfit(writer: &Operation, reader: &Operation, version: u64) -> Option<Rule> {
    match &writer.outcome {
        _ if reader.completed < writer.invoked => Some(Rule::SeenBeforeWritten),
        Outcome::Written { version: told } => (*told != version).then_some(Rule::OtherVersion),
        Outcome::Conflict { .. } | Outcome::NotDone => Some(Rule::RefusedButSeen),
        Outcome::Unknown | Outcome::Read { .. } => None,
    }
}

fn shown(operation: &Operation) -> String {
    let Operation {
        client,
        register,
        invoked,
        completed,
        action,
        outcome,
    } = operation;
    let (from, to) = (invoked / 1_000, completed / 1_000);
    format!("[client {client} {from}..{to} µs {register} {action:?} -> {outcome:?}]")
}

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
