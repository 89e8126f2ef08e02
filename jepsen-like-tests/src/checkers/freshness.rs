//! I5: an evaluation called FRESH is made on a state that was the newest committed one at some moment
//! within the staleness bound.
//!
//! A write that was acknowledged is committed. So whoever calls an answer FRESH must have every
//! write of its environment that was acknowledged a whole bound before the evaluation began. Times
//! are nanoseconds of one clock that all processes of the machine share and that runs while a process
//! is stopped. The same holds of the age that an evaluator itself gives its state, FRESH or not.

use super::{Complaints, Place, Verdict};

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The version it made.
    pub version: u64,
    /// When its answer was here.
    pub at: u64,
}

/// An evaluation and what it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Which process evaluated.
    pub process: u32,
    /// Before it began.
    pub began: u64,
    /// The version of the state it was made on.
    pub version: u64,
    /// Whether it was called FRESH.
    pub fresh: bool,
    /// How old its state is at most, as the process itself says.
    pub age: Option<u64>,
}

/// How I5 can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Called FRESH without a write that is older than the bound.
    StaleCalledFresh,
    /// Without a write that is older than the age the process gave its state.
    OlderThanItsAge,
}

/// Judges evaluations against the writes of their environment. The history shows too little without
/// so many FRESH evaluations and so many that were not.
pub fn check(
    writes: &[Acknowledged],
    evaluations: &[Judged],
    bound: u64,
    (fresh_min, stale_min): (usize, usize),
) -> Verdict<Rule> {
    let mut writes = writes.to_vec();
    writes.sort_by_key(|write| write.at);
    // The newest version acknowledged up to each write.
    let newest = writes.iter().scan(0, |newest, write| {
        *newest = write.version.max(*newest);
        Some(*newest)
    });
    let newest: Vec<u64> = newest.collect();
    let mut complaints = Complaints::default();
    // What must be there of a state that was the newest `age` ago.
    let missed = |one: &Judged, age: u64| {
        let since = one.began.checked_sub(age)?;
        let old = writes.partition_point(|write| write.at <= since);
        let must_have = old.checked_sub(1).map_or(0, |last| newest[last]);
        (one.version < must_have).then(|| {
            let ago = ms(one.began - writes[old - 1].at);
            format!("but {must_have} was acknowledged {ago} ms before")
        })
    };
    for one in evaluations {
        let at = |name: &str, missed: &str| {
            let (process, began, version) = (one.process, ms(one.began), one.version);
            format!("process {process}, at {began} ms: {name} at version {version}, {missed}")
        };
        let place = Place::at(one.process, one.began);
        // I5
        if let Some(missed) = missed(one, bound).filter(|_| one.fresh) {
            complaints.add_at(place, Rule::StaleCalledFresh, at("FRESH", &missed));
        }
        if let Some((age, missed)) = one.age.and_then(|age| Some((age, missed(one, age)?))) {
            let name = format!("{} ms old", ms(age));
            complaints.add_at(place, Rule::OlderThanItsAge, at(&name, &missed));
        }
    }
    let fresh = evaluations.iter().filter(|one| one.fresh).count();
    let stale = evaluations.len() - fresh;
    complaints.verdict(|| match fresh >= fresh_min && stale >= stale_min {
        true => Verdict::Valid(format!(
            "{fresh} evaluations FRESH and {stale} STALE beside {} writes",
            writes.len()
        )),
        false => Verdict::Unknown(format!(
            "{fresh} evaluations were FRESH and {stale} STALE; {fresh_min} and {stale_min} are needed"
        )),
    })
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: u64 = 1_000;

    fn write(version: u64, at: u64) -> Acknowledged {
        Acknowledged { version, at }
    }

    fn evaluation(began: u64, version: u64, fresh: bool) -> Judged {
        Judged {
            process: 1,
            began,
            version,
            fresh,
            age: None,
        }
    }

    fn judge(evaluations: &[Judged]) -> Verdict<Rule> {
        let writes = [write(5, 100), write(7, 2_000), write(6, 1_500)];
        check(&writes, evaluations, BOUND, (1, 1))
    }

    #[test]
    fn who_lags_within_the_bound_may_call_it_fresh() {
        let within = [
            evaluation(2_999, 6, true),
            evaluation(3_000, 7, true),
            evaluation(9_000, 5, false),
        ];
        assert!(judge(&within).is_valid());
        // Before there was anything to miss.
        assert!(judge(&[evaluation(900, 0, true), evaluation(901, 0, false)]).is_valid());
    }

    #[test]
    fn who_lags_further_may_not() {
        for late in [evaluation(3_000, 6, true), evaluation(2_500, 5, true)] {
            let Verdict::Invalid(complaints) = judge(&[late, evaluation(1, 1, false)]) else {
                panic!("{late:?}")
            };
            assert!(complaints.name(Rule::StaleCalledFresh));
        }
    }

    #[test]
    fn an_age_is_a_promise_too() {
        let aged = |age| Judged {
            age: Some(age),
            ..evaluation(2_900, 6, true)
        };
        let stale = evaluation(900, 0, false);
        assert!(judge(&[aged(901), stale]).is_valid());
        let verdict = judge(&[aged(900), stale]);
        assert!(matches!(verdict, Verdict::Invalid(c) if c.name(Rule::OlderThanItsAge)));
    }

    #[test]
    fn a_history_that_shows_too_little_is_unknown() {
        assert!(judge(&[]).is_unknown());
        assert!(judge(&[evaluation(900, 5, true)]).is_unknown());
        assert!(judge(&[evaluation(900, 5, false)]).is_unknown());
    }
}
