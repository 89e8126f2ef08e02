//! Nodes that ended although nobody ended them: what is said of it, and how soon they are started again.
//!
//! What must hold: one that ends again and again, because it refuses what it finds, is one line with a
//! count, and is started ever more rarely, up to a bound that is short beside the time in which nodes have
//! to be back at the end of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// At most so long before a node that ended is started again for the first time.
const PAUSE: Duration = Duration::from_millis(100);
/// And after many ends.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// All of a run.
#[derive(Debug)]
pub(super) struct Casualties {
    found: Vec<Casualty>,
    /// By node: the one of `found` that it is in until it gets ready.
    now: BTreeMap<usize, usize>,
    random: StdRng,
}

#[derive(Debug)]
struct Casualty {
    what: String,
    times: u32,
    last_words: String,
}

impl Casualties {
    /// None so far; pauses follow from the seed.
    pub(super) fn new(seed: u64) -> Casualties {
        Casualties {
            found: Vec::new(),
            now: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Remembers that a node ended, and says how long it has to wait.
    pub(super) fn ended(&mut self, at: usize, name: &str, last_words: String) -> Duration {
        let next = self.found.len();
        let place = *self.now.entry(at).or_insert(next);
        if place == next {
            self.found.push(Casualty {
                what: format!("{name} ended by itself"),
                times: 0,
                last_words,
            });
        }
        let casualty = &mut self.found[place];
        casualty.times += 1;
        let factor = 1 << (casualty.times - 1).min(16);
        let pause = (PAUSE * factor).min(PAUSE_MAX);
        pause.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// Remembers that a node got ready: if it ends once more, that is something new.
    pub(super) fn is_ready(&mut self, at: usize) {
        self.now.remove(&at);
    }

    /// Remembers that the system does not start a node.
    pub(super) fn starts_not(&mut self, name: &str, why: String) {
        self.found.push(Casualty {
            what: format!("{name} does not start again"),
            times: 1,
            last_words: why,
        });
    }

    /// A line for each.
    pub(super) fn lines(&self) -> Vec<String> {
        let shown = |casualty: &Casualty| {
            let (what, said) = (&casualty.what, &casualty.last_words);
            match casualty.times {
                1 => format!("{what}: {said}"),
                times => format!("{what} {times} times before it was ready, first: {said}"),
            }
        };
        self.found.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_until_the_node_is_ready() {
        let mut casualties = Casualties::new(1);
        let end = |casualties: &mut Casualties| casualties.ended(2, "n3", "no".to_owned());
        let first = end(&mut casualties);
        assert!(first <= PAUSE && first >= PAUSE / 2, "{first:?}");
        let pauses: Vec<Duration> = (0..99).map(|_| end(&mut casualties)).collect();
        assert!(pauses[1] > first && pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!(pauses[9..].iter().all(|pause| *pause >= PAUSE_MAX / 2));
        casualties.ended(0, "n1", "out of memory".to_owned());
        casualties.is_ready(2);
        assert!(end(&mut casualties) <= PAUSE);
        casualties.starts_not("n2", "no such file".to_owned());
        assert_eq!(
            casualties.lines(),
            [
                "n3 ended by itself 100 times before it was ready, first: no",
                "n1 ended by itself: out of memory",
                "n3 ended by itself: no",
                "n2 does not start again: no such file",
            ]
        );
    }
}
