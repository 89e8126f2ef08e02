//! The experiments of one environment across its flags: what a change set would make of them.
//!
//! What must hold: after every accepted change set no two flags of an environment clash as
//! `experiment_clashes` says. What is judged is the outcome of the change set: two flags that swap
//! their ranges do not clash, two that are written together are compared with each other, and a
//! policy that goes away has freed its range.
//!
//! Looked at are the flags whose policy is written and claims something new. What the others claim
//! was judged when it was written, so no FlagConfig, kill switch or change of weights is ever
//! refused for the sake of an experiment, and none pays for it. Whom to compare a flag with, the
//! machine's index of users says: whoever names the same layer or the same experiment.
//!
//! Bounds: for one change set at most [`FLAGS_MAX`] flags are read besides those that it writes, each
//! once, and at most [`COMPARISONS_MAX`] comparisons made. Beyond that it is refused beforehand.
//!
//! Left out: two rules of one flag (compiling it compares them), who takes part (evaluation).

use std::collections::BTreeMap;

use pennon_evaluator::state::{FlagState, LayerState};
use pennon_evaluator::{
    DecodeError, EnvironmentKey, EvaluationState, ExperimentKey, FAULTS_MAX, Fault, StateKey,
    StateKind, experiment_clashes,
};

use super::{Decided, Refused};
use crate::command::{ObjectId, Refusal};
use crate::machine::Machine;

/// Flags that are read to judge one change set, besides those that it writes, at most.
const FLAGS_MAX: usize = 1_000;

/// Comparisons of two experiments to judge one change set, at most: a fraction of a second.
const COMPARISONS_MAX: usize = 250_000;

/// By environment.
type Written = BTreeMap<EnvironmentKey, BTreeMap<StateKey, FlagState>>;

/// Refuses a change set after which two flags would clash, on a policy that it writes.
pub(super) fn check(before: &Machine, next: &Machine, decided: &Decided) -> Result<(), Refused> {
    let mut spent = Spent::default();
    for (environment, written) in newly_claimed(before, next, decided) {
        let here = Here {
            next,
            decided,
            environment,
            written,
        };
        let unwritten = here.read_others(&mut spent)?;
        here.compare(&unwritten)?;
    }
    Ok(())
}

/// The flags whose policy is written and claims what it did not claim before.
fn newly_claimed(before: &Machine, next: &Machine, decided: &Decided) -> Written {
    let mut found = Written::new();
    for change in &decided.compiled {
        let (environment, key) = (&change.environment, &change.key);
        let has_claims = change.uses.iter().any(|used| !used.kind().has_state());
        if !has_claims || !decided.index.contains_key(&policy_of(environment, key)) {
            continue;
        }
        // These bytes were made a moment ago; they can be read.
        let Ok(Some(now)) = read(next, environment, key) else {
            continue;
        };
        match read(before, environment, key) {
            Ok(Some(was)) if claims_of(&was).eq(claims_of(&now)) => {}
            _ => {
                let here = found.entry(environment.clone()).or_default();
                here.insert(key.clone(), now);
            }
        }
    }
    found
}

/// What another flag can clash with: the key, layer and attribute of each experiment.
fn claims_of(
    flag: &FlagState,
) -> impl Iterator<Item = (&ExperimentKey, Option<&LayerState>, &str)> {
    flag.experiments().map(|(_, experiment)| {
        let bucket_by = experiment.rollout.bucket_by.as_str();
        (&experiment.key, experiment.layer.as_ref(), bucket_by)
    })
}

/// What one change set has cost so far, over all environments.
#[derive(Default)]
struct Spent {
    flags: usize,
    comparisons: usize,
}

/// What is written in one environment.
struct Here<'a> {
    next: &'a Machine,
    decided: &'a Decided,
    environment: EnvironmentKey,
    written: BTreeMap<StateKey, FlagState>,
}

impl Here<'_> {
    /// The other flags that name a layer or an experiment that this one names, sorted. Two that
    /// are written together are compared once, from the later.
    fn others_of(&self, key: &StateKey) -> Vec<&StateKey> {
        let here = self.next.compiled(&self.environment);
        let state = here.and_then(|here| here.state(key));
        let uses = state.into_iter().flat_map(|state| state.uses.iter());
        let named = uses.filter(|used| !used.kind().has_state());
        let users = named.flat_map(|named| self.next.users_of(&self.environment, named));
        let flags = users.filter(|user| *user != key && user.kind() == StateKind::Flag);
        let mut others: Vec<&StateKey> = flags
            .filter(|other| *other < key || !self.written.contains_key(*other))
            .collect();
        others.sort();
        others.dedup();
        others
    }

    /// Reads the flags that those written are compared with, unless that would be too much.
    fn read_others(&self, spent: &mut Spent) -> Result<BTreeMap<StateKey, FlagState>, Refused> {
        let mut unwritten = BTreeMap::new();
        for (key, flag) in &self.written {
            let mut theirs = 0;
            for other in self.others_of(key) {
                if !self.written.contains_key(other) && !unwritten.contains_key(other) {
                    spent.flags += 1;
                    if spent.flags > FLAGS_MAX {
                        let what = "other flags whose experiments one change set is compared with";
                        return Err(too_much(what, FLAGS_MAX));
                    }
                    let state = read(self.next, &self.environment, other);
                    let state = state.map_err(|why| self.unreadable(key, other, &why))?;
                    unwritten.extend(state.map(|state| (other.clone(), state)));
                }
                let state = self.written.get(other).or_else(|| unwritten.get(other));
                theirs += state.map_or(0, |state| state.experiments().count());
            }
            spent.comparisons += flag.experiments().count() * theirs;
            if spent.comparisons > COMPARISONS_MAX {
                let what = "comparisons of experiments with those of other flags in one change set";
                return Err(too_much(what, COMPARISONS_MAX));
            }
        }
        Ok(unwritten)
    }

    fn compare(&self, unwritten: &BTreeMap<StateKey, FlagState>) -> Result<(), Refused> {
        for (key, flag) in &self.written {
            let (mut faults, mut about) = (Vec::new(), Vec::new());
            for other in self.others_of(key) {
                let state = self.written.get(other).or_else(|| unwritten.get(other));
                let found = state.map(|state| experiment_clashes(flag, Some(state)));
                let found = found.unwrap_or_default();
                if !found.is_empty() {
                    about.push(policy_of(&self.environment, other));
                    faults.extend(found);
                }
                if faults.len() >= FAULTS_MAX {
                    break;
                }
            }
            if !faults.is_empty() {
                faults.truncate(FAULTS_MAX);
                return Err(self.refused(key, faults, about));
            }
        }
        Ok(())
    }

    fn unreadable(&self, key: &StateKey, other: &StateKey, why: &DecodeError) -> Refused {
        let message = format!("{other} cannot be read to compare experiments with it: {why}");
        let about = vec![policy_of(&self.environment, other)];
        self.refused(key, vec![Fault::new("", message)], about)
    }

    fn refused(&self, key: &StateKey, faults: Vec<Fault>, about: Vec<ObjectId>) -> Refused {
        let write = self.decided.at(&policy_of(&self.environment, key));
        let refusal = Refusal::Invalid { write, faults };
        Refused { refusal, about }
    }
}

/// Reads a flag, and keeps of it what is compared.
fn read(
    machine: &Machine,
    environment: &EnvironmentKey,
    key: &StateKey,
) -> Result<Option<FlagState>, DecodeError> {
    let here = machine.compiled(environment);
    let Some(state) = here.and_then(|here| here.state(key)) else {
        return Ok(None);
    };
    Ok(match state.encoded.decode()? {
        EvaluationState::Segment(_) => None,
        EvaluationState::Flag(mut flag) => {
            (flag.targets, flag.variants) = (Vec::new(), Vec::new());
            flag.rules
                .iter_mut()
                .for_each(|rule| rule.when = Vec::new());
            Some(flag)
        }
    })
}

fn policy_of(environment: &EnvironmentKey, key: &StateKey) -> ObjectId {
    ObjectId::policy(environment.clone(), key.shared())
}

fn too_much(what: &str, max: usize) -> Refused {
    let (what, max) = (what.into(), max as u64);
    Refusal::Quota { what, max }.into()
}
