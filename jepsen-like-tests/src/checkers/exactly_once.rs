//! I9: a write under a request id happens at most once, however often it is sent, and every answer
//! to it is the same.
//!
//! Two witnesses: the answers to all attempts of a request, and the history that the cluster kept,
//! which names the request id of each change. What must hold: attempts that were answered agree; a
//! request stands in the history at most once, at the version it was told, and not at all when it
//! was refused; every line under one of our ids is what that request wrote, and no line comes from
//! nowhere.
//!
//! A request that was only ever answered "not done" may not stand in the history either. Where the
//! oldest lines of a history are not kept any more, what is older than its first line is not judged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{Complaints, Verdict};
use crate::history::{Action, FinalRead, HistoryLine, Outcome, Request};

/// How the promise can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Two attempts of one request were answered differently.
    AnswersDiffer,
    /// One request stands in the history at two versions.
    AppliedTwice,
    /// It was acknowledged, and the history has no such line.
    AcknowledgedMissing,
    /// It stands in the history at another version than it was told, or with another value.
    OtherWrite,
    /// It was refused and stands in the history.
    RefusedButDone,
    /// A line of the history that nobody asked for.
    Invented,
}

/// What a history must show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Requests sent more than once.
    pub retries_min: usize,
    /// Registers whose history was read.
    pub registers_min: usize,
}

/// Judges requests against their answers and the histories of their registers.
pub fn check(requests: &[&Request], finals: &[&FinalRead], demand: Demand) -> Verdict<Rule> {
    let mut complaints = Complaints::default();
    let mut by_id: HashMap<&Arc<str>, &Request> = HashMap::new();
    for request in requests.iter().copied() {
        check_answers(request, &mut complaints);
        if let Some(id) = &request.request
            && by_id.insert(id, request).is_some()
        {
            return Verdict::Unknown(format!("the request id {id} was used by two requests"));
        }
    }
    let mut registers: BTreeMap<&Arc<str>, Vec<&Request>> = BTreeMap::new();
    for request in requests.iter().copied() {
        let register = &request.operation.register;
        registers.entry(register).or_default().push(request);
    }
    let (mut read, mut lines) = (0, 0);
    for end in finals
        .iter()
        .filter(|end| end.whole || !end.history.is_empty())
    {
        read += 1;
        lines += end.history.len();
        let of = registers.get(&end.register).map_or(&[][..], Vec::as_slice);
        check_history(end, of, &by_id, &mut complaints);
    }
    let (retried, answered) = retries(requests);
    let shows = format!(
        "{} requests, {retried} of them retried, {answered} answered more than once; {lines} lines in {read} histories",
        by_id.len()
    );
    complaints.verdict(
        || match retried >= demand.retries_min && read >= demand.registers_min {
            true => Verdict::Valid(shows),
            false => Verdict::Unknown(format!("{shows}; {demand:?}")),
        },
    )
}

/// How many requests were sent more than once, and how many had more than one answer.
fn retries(requests: &[&Request]) -> (usize, usize) {
    let sent = requests.iter().filter(|one| one.attempts.len() > 1);
    let answered = requests.iter().filter(|one| {
        let decided = one.attempts.iter().filter(|try_| decides(&try_.outcome));
        decided.count() > 1
    });
    (sent.count(), answered.count())
}

fn decides(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Written { .. } | Outcome::Conflict { .. })
}

/// I9: every answer to one request is the first one.
fn check_answers(request: &Request, complaints: &mut Complaints<Rule>) {
    let operation = &request.operation;
    if operation.action == Action::Read {
        return;
    }
    let answers = request.attempts.iter().map(|attempt| &attempt.outcome);
    let mut answers = answers
        .chain([&operation.outcome])
        .filter(|one| decides(one));
    let Some(first) = answers.next() else { return };
    if let Some(other) = answers.find(|other| !agree(first, other)) {
        let id = request.request.as_deref().unwrap_or("without an id");
        let what = format!("request {id}: {first:?}, then {other:?}");
        complaints.add_at(operation, Rule::AnswersDiffer, what);
    }
}

fn agree(one: &Outcome, other: &Outcome) -> bool {
    one == other
}

fn check_history(
    end: &FinalRead,
    requests: &[&Request],
    by_id: &HashMap<&Arc<str>, &Request>,
    complaints: &mut Complaints<Rule>,
) {
    let register = &end.register;
    let mut seen: HashSet<&Arc<str>> = HashSet::new();
    for line in &end.history {
        let version = line.version;
        let Some((id, request)) = line
            .request
            .as_ref()
            .and_then(|id| Some((id, *by_id.get(id)?)))
        else {
            // Made by the harness before the run, or under no id: it has to be somebody's write.
            let written = line.request.is_none() && requests.iter().any(|one| wrote(one, line));
            if !written {
                let what = format!("{register} at {version}: nobody asked for {line:?}");
                complaints.add(Rule::Invented, what);
            }
            continue;
        };
        let operation = &request.operation;
        if !seen.insert(id) {
            let what = format!("{register} at {version}: request {id} once more");
            complaints.add_at(operation, Rule::AppliedTwice, what); // I9
            continue;
        }
        let what = || format!("{register}: request {id} came to {operation:?}, and to {line:?}");
        match &operation.outcome {
            _ if !wrote(request, line) || operation.register != *register => {
                complaints.add_at(operation, Rule::OtherWrite, what());
            }
            Outcome::Written { version } if *version != line.version => {
                complaints.add_at(operation, Rule::OtherWrite, what());
            }
            Outcome::Conflict { .. } | Outcome::NotDone => {
                complaints.add_at(operation, Rule::RefusedButDone, what());
            }
            _ => {}
        }
    }
    let versions: HashSet<u64> = end.history.iter().map(|line| line.version).collect();
    let kept_from = match end.whole {
        true => 0,
        false => versions.iter().min().copied().unwrap_or(u64::MAX),
    };
    for request in requests {
        if let Outcome::Written { version } = &request.operation.outcome
            && *version >= kept_from
            && !versions.contains(version)
        {
            let what = format!("{register}: {version} was acknowledged");
            complaints.add_at(&request.operation, Rule::AcknowledgedMissing, what);
        }
    }
}

/// Whether a line of the history is what a request asked for.
fn wrote(request: &Request, line: &HistoryLine) -> bool {
    match &request.operation.action {
        Action::Write { value, expected } => *value == line.value && *expected == line.previous,
        Action::Read => false,
    }
}

#[cfg(test)]
#[path = "exactly_once_tests.rs"]
mod tests;
