//! Finds few faults with which a seed still fails, by leaving out halves, quarters and so on of what
//! is left, down to single faults (delta debugging).

use std::process::ExitCode;

use jepsen_like_tests::say;
use jepsen_like_tests::simulation::planned;

use crate::many::child;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings) -> ExitCode {
    let seed = settings.one();
    let plan = planned(&settings.parameters(seed));
    let fails = |kept: &[usize]| {
        let without: Vec<usize> = (0..plan.len()).filter(|at| !kept.contains(at)).collect();
        match child(settings, seed, &without) {
            Ok(outcome) => outcome.is_invalid(),
            Err(why) => {
                say(format!("error: {why}"));
                false
            }
        }
    };
    let all: Vec<usize> = (0..plan.len())
        .filter(|at| !settings.without.contains(at))
        .collect();
    if !fails(&all) {
        say(format!("seed {seed} does not fail"));
        return ExitCode::FAILURE;
    }
    let kept = smallest(all, fails);
    say(format!("seed {seed} still fails with these faults:"));
    kept.iter().for_each(|at| say(&plan[*at]));
    let without: Vec<usize> = (0..plan.len()).filter(|at| !kept.contains(at)).collect();
    let again = settings.arguments(seed, &without).join(" ");
    say(format!("again: scripts/sim {again}"));
    ExitCode::SUCCESS
}

/// Leaves out pieces of what is kept as long as it fails without them.
fn smallest(mut kept: Vec<usize>, fails: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    let mut piece = kept.len().div_ceil(2);
    while piece > 0 && !kept.is_empty() {
        let mut at = 0;
        while at < kept.len() {
            let end = (at + piece).min(kept.len());
            let rest: Vec<usize> = kept[..at].iter().chain(&kept[end..]).copied().collect();
            if fails(&rest) {
                kept = rest;
                say(format!("{} faults are enough", kept.len()));
            } else {
                at = end;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let needs = |kept: &[usize]| kept.contains(&3) && kept.contains(&17);
        assert_eq!(smallest((0..40).collect(), needs), [3, 17]);
        assert_eq!(smallest((0..40).collect(), |_| true), Vec::<usize>::new());
    }
}
