//! A contestant: what it must be able to do, how it is timed, and the check that comes first.
//!
//! What must hold: what is checked is what is timed, the same two functions; the loop around them
//! is the same for all; a contestant that decides anything else than expected is not timed.

use std::hint::black_box;
use std::time::Duration;

use crate::Result;
use crate::rounds::thread_time;
use crate::store::{
    self, Ask, Kind, NONE, POPULATION, Plan, SPLIT, SUBJECTS, Store, SubjectSpec, WRONG, Workload,
};

/// Subjects that each flag of the store is checked with; distributions take all of them.
const CHECKED_EACH: usize = 24;
/// How far, in percent, a share of the population may be from what was asked for. With 4,096
/// subjects four standard deviations of a half are 3.1.
const SHARE_OFF_MAX: f64 = 3.2;

/// Something that decides flags.
pub trait Contestant {
    /// What it calls a subject or context.
    type Subject;

    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// Says whether it can express flags of a kind.
    fn can(&self, kind: Kind) -> bool;

    /// Builds its own form of a subject.
    ///
    /// # Errors
    /// When the contestant refuses it.
    fn subject(&self, spec: &SubjectSpec) -> Result<Self::Subject>;

    /// Says whether a boolean flag is on.
    fn is_on(&self, flag: &str, subject: &Self::Subject) -> bool;

    /// Returns the first letter of the variant of a text flag; 0 when there is none.
    fn variant(&self, flag: &str, subject: &Self::Subject) -> u8;
}

/// A contestant with its subjects, all contestants alike.
pub trait Lane {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// Says whether it can run a workload.
    fn can(&self, workload: Workload) -> bool;

    /// Decides everything in a plan, so many times, and sums up the answers.
    fn run(&self, plan: &Plan, laps: usize) -> u64;

    /// Builds so many contexts, drops them, and says how long it took.
    fn contexts(&self, count: usize) -> Duration;

    /// Checks that it decides what is expected.
    ///
    /// # Errors
    /// With the first thing that is not.
    fn check(&self, store: &Store) -> Result<()>;
}

struct Prepared<C: Contestant> {
    contestant: C,
    specs: Vec<SubjectSpec>,
    subjects: Vec<C::Subject>,
}

/// Gives a contestant its subjects.
///
/// # Errors
/// When it refuses one of them.
pub fn prepare<'a, C: Contestant + 'a>(contestant: C) -> Result<Box<dyn Lane + 'a>> {
    let specs: Vec<SubjectSpec> = (0..SUBJECTS).map(store::subject).collect();
    let subjects: Result<_> = specs.iter().map(|spec| contestant.subject(spec)).collect();
    Ok(Box::new(Prepared {
        contestant,
        specs,
        subjects: subjects?,
    }))
}

impl<C: Contestant> Lane for Prepared<C> {
    fn name(&self) -> &'static str {
        self.contestant.name()
    }

    fn can(&self, workload: Workload) -> bool {
        let can = |kind| self.contestant.can(kind);
        match workload {
            Workload::On => can(Kind::On),
            Workload::Rollout => can(Kind::Rollout),
            Workload::Rules => can(Kind::Rules),
            Workload::Segment | Workload::SmallSegment => can(Kind::Segment(0)),
            Workload::Prerequisites => can(Kind::Prerequisites([0, 0])),
            Workload::Mix => can(Kind::Segment(0)) && can(Kind::Prerequisites([0, 0])),
        }
    }

    fn run(&self, plan: &Plan, laps: usize) -> u64 {
        let mut sum = 0_u64;
        for lap in 0..laps {
            let shift = if plan.moves { lap } else { 0 };
            for step in &plan.steps {
                let subject = &self.subjects[(step.subject + shift) % SUBJECTS];
                let (flag, subject) = (black_box(&*step.flag), black_box(subject));
                sum += match step.ask {
                    Ask::Boolean => u64::from(self.contestant.is_on(flag, subject)),
                    Ask::Variant => u64::from(self.contestant.variant(flag, subject)),
                };
            }
        }
        black_box(sum)
    }

    fn contexts(&self, count: usize) -> Duration {
        let begin = thread_time();
        for n in 0..count {
            let spec = black_box(&self.specs[n % SUBJECTS]);
            // None was refused when the lane was prepared.
            drop(black_box(self.contestant.subject(spec)));
        }
        thread_time().saturating_sub(begin)
    }

    fn check(&self, store: &Store) -> Result<()> {
        let checked = Check {
            contestant: &self.contestant,
            store,
        };
        let name = self.name();
        checked
            .all()
            .map_err(|why| format!("{name} is not configured as it should be: {why}").into())
    }
}

struct Check<'a, C: Contestant> {
    contestant: &'a C,
    store: &'a Store,
}

impl<C: Contestant> Check<'_, C> {
    fn all(&self) -> Result<()> {
        let specs: Vec<SubjectSpec> = (0..POPULATION).map(store::subject).collect();
        let subjects: Result<Vec<C::Subject>> = specs
            .iter()
            .map(|spec| self.contestant.subject(spec))
            .collect();
        let subjects = subjects?;
        let mut on_by_rollout = 0;
        let mut checked_by_rollout = 0;
        for (n, flag) in self
            .store
            .flags
            .iter()
            .enumerate()
            .filter(|(_, flag)| self.contestant.can(flag.kind))
        {
            for place in (0..CHECKED_EACH).map(|k| (n * 31 + k * 11) % SUBJECTS) {
                let subject = &subjects[place];
                if flag.kind == Kind::Rollout {
                    checked_by_rollout += 1;
                    on_by_rollout += usize::from(self.contestant.is_on(&flag.key, subject));
                } else {
                    self.one(flag, &specs[place], subject)?;
                }
            }
        }
        share(
            "flags with rollouts",
            on_by_rollout,
            checked_by_rollout,
            50.0,
        )?;
        self.timed_segments(&specs, &subjects)?;
        self.one_rollout(&subjects)?;
        self.split(&subjects)?;
        self.witnesses()
    }

    /// One decision that is the same for every contestant.
    fn one(&self, flag: &store::FlagSpec, spec: &SubjectSpec, subject: &C::Subject) -> Result<()> {
        let expected = match flag.kind {
            Kind::On => true,
            Kind::Off => false,
            Kind::Segment(n) => self.store.segments[n].members.contains(&spec.key),
            Kind::Prerequisites(two) => two.iter().all(|n| self.store.flags[*n].kind == Kind::On),
            Kind::Rollout => return Ok(()),
            Kind::Rules => {
                let found = self.contestant.variant(&flag.key, subject);
                return match SPLIT.iter().any(|(name, _)| first_letter(name) == found) {
                    true => Ok(()),
                    false => Err(format!(
                        "{} gives {} the variant {:?}",
                        flag.key,
                        spec.key,
                        char::from(found)
                    )
                    .into()),
                };
            }
        };
        let found = self.contestant.is_on(&flag.key, subject);
        match found == expected {
            true => Ok(()),
            false => {
                Err(format!("{} ({:?}) is {found} for {}", flag.key, flag.kind, spec.key).into())
            }
        }
    }

    /// The two segments that are timed, with every subject.
    fn timed_segments(&self, specs: &[SubjectSpec], subjects: &[C::Subject]) -> Result<()> {
        if !self.contestant.can(Kind::Segment(0)) {
            return Ok(());
        }
        for wanted in [Kind::Segment(0), Kind::Segment(1)] {
            let Some(flag) = self.store.first(|kind| kind == wanted) else {
                return Err(format!("the store has no flag on {wanted:?}").into());
            };
            for place in 0..SUBJECTS {
                self.one(&self.store.flags[flag], &specs[place], &subjects[place])?;
            }
        }
        Ok(())
    }

    fn one_rollout(&self, subjects: &[C::Subject]) -> Result<()> {
        let flag = self.store.first(|kind| kind == Kind::Rollout);
        let flag = &self.store.flags[flag.unwrap_or_default()];
        let on = subjects
            .iter()
            .filter(|subject| self.contestant.is_on(&flag.key, subject));
        share(&flag.key, on.count(), subjects.len(), 50.0)
    }

    fn split(&self, subjects: &[C::Subject]) -> Result<()> {
        let flag = self.store.first(|kind| kind == Kind::Rules);
        let flag = &self.store.flags[flag.unwrap_or_default()];
        let variants: Vec<u8> = subjects
            .iter()
            .map(|subject| self.contestant.variant(&flag.key, subject))
            .collect();
        for (name, weight) in SPLIT {
            let have = variants
                .iter()
                .filter(|found| **found == first_letter(name))
                .count();
            share(name, have, subjects.len(), f64::from(weight) / 1_000.0)?;
        }
        Ok(())
    }

    /// Every rule holds for somebody, so the first four rules of the others were looked at.
    fn witnesses(&self) -> Result<()> {
        let flag = self.store.first(|kind| kind == Kind::Rules);
        let flag = &self.store.flags[flag.unwrap_or_default()];
        for (n, (spec, by_rule)) in store::witnesses().iter().enumerate() {
            let found = self
                .contestant
                .variant(&flag.key, &self.contestant.subject(spec)?);
            let split = SPLIT.iter().any(|(name, _)| first_letter(name) == found);
            let wrong = found == first_letter(WRONG);
            if wrong != *by_rule || (!by_rule && split) {
                let expected = if *by_rule { WRONG } else { NONE };
                let found = char::from(found);
                return Err(format!("witness {n} gets {found:?} instead of {expected:?}").into());
            }
        }
        Ok(())
    }
}

fn share(what: &str, have: usize, of: usize, percent: f64) -> Result<()> {
    let found = have as f64 * 100.0 / of.max(1) as f64;
    match (found - percent).abs() <= SHARE_OFF_MAX {
        true => Ok(()),
        false => Err(format!("{what}: {found:.1} % instead of {percent:.1} %").into()),
    }
}

/// What [`Contestant::variant`] returns for a name.
pub fn first_letter(name: &str) -> u8 {
    name.bytes().next().unwrap_or_default()
}
