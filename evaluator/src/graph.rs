//! Who uses whom among flags and segments: no cycles, not too deep, not too wide.
//!
//! What must hold: the check visits every state and every edge once, on a stack of its own on the
//! heap, and gives up beyond `CLOSURE_MAX` states, so that no graph can make it slow.
//!
//! Left out: finding the users of a state. Whoever writes a state checks it, and every state that
//! uses it, because a chain may grow at either end.

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::StateKey;
use crate::limits::CLOSURE_MAX;

/// What is wrong with the graph below a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphFault {
    /// A state uses itself, directly or not.
    #[error("a cycle: {}", Path(path))]
    Cycle {
        /// From a state to the same state.
        path: Vec<StateKey>,
    },
    /// A chain of uses is too long.
    #[error("deeper than {depth_max}: {}", Path(path))]
    TooDeep {
        /// The longest chain, from the start.
        path: Vec<StateKey>,
        /// How many steps there may be.
        depth_max: usize,
    },
    /// Too many states are used.
    #[error("{start} uses more than {CLOSURE_MAX} flags and segments, directly or not")]
    TooMany {
        /// By this one.
        start: StateKey,
    },
}

struct Path<'a>(&'a [StateKey]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, key) in self.0.iter().enumerate() {
            let arrow = if n == 0 { "" } else { " -> " };
            write!(f, "{arrow}{key}")?;
        }
        Ok(())
    }
}

/// What is known of a state: that it is on the path just walked, or the length of the longest
/// chain below it and where that chain begins.
enum Seen {
    OnPath,
    Done {
        height: usize,
        next: Option<StateKey>,
    },
}

/// A state on the path just walked.
struct Step {
    key: StateKey,
    uses: std::vec::IntoIter<StateKey>,
    height: usize,
    next: Option<StateKey>,
}

impl Step {
    fn new(key: StateKey, uses: &dyn Fn(&StateKey) -> Vec<StateKey>) -> Step {
        let uses = uses(&key).into_iter();
        Step {
            key,
            uses,
            height: 0,
            next: None,
        }
    }

    fn reach(&mut self, child: StateKey, child_height: usize) {
        if child_height + 1 > self.height {
            self.height = child_height + 1;
            self.next = Some(child);
        }
    }
}

/// Checks everything that a state uses, directly or not. `uses` answers with nothing for a state
/// that does not exist.
///
/// # Errors
/// The first [`GraphFault`] found, in the order of `uses`.
///
/// ```
/// use pennon_evaluator::{StateKey, StateKind, check_graph};
/// let key = |name| StateKey::new(StateKind::Segment, name).unwrap();
/// let uses = |k: &StateKey| if k.key() == "a" { vec![key("b")] } else { vec![] };
/// assert!(check_graph(&key("a"), &uses, 20).is_ok());
///
/// let back = |k: &StateKey| if k.key() == "a" { vec![key("b")] } else { vec![key("a")] };
/// let fault = check_graph(&key("a"), &back, 20).unwrap_err();
/// assert_eq!(fault.to_string(), "a cycle: segment/a -> segment/b -> segment/a");
/// ```
pub fn check_graph(
    start: &StateKey,
    uses: &dyn Fn(&StateKey) -> Vec<StateKey>,
    depth_max: usize,
) -> Result<(), GraphFault> {
    let mut seen = BTreeMap::from([(start.clone(), Seen::OnPath)]);
    let mut path = vec![Step::new(start.clone(), uses)];
    while let Some(step) = path.last_mut() {
        let Some(child) = step.uses.next() else {
            leave(&mut path, &mut seen);
            continue;
        };
        match seen.get(&child) {
            Some(Seen::OnPath) => return Err(cycle(&path, child)),
            Some(Seen::Done { height, .. }) => step.reach(child, *height),
            None if seen.len() > CLOSURE_MAX => {
                return Err(GraphFault::TooMany {
                    start: start.clone(),
                });
            }
            None => {
                seen.insert(child.clone(), Seen::OnPath);
                path.push(Step::new(child, uses));
            }
        }
    }
    match seen.get(start) {
        Some(Seen::Done { height, .. }) if *height > depth_max => Err(GraphFault::TooDeep {
            path: chain(start, &seen),
            depth_max,
        }),
        _ => Ok(()),
    }
}

/// Takes the last state off the path and tells the one before how deep it is.
fn leave(path: &mut Vec<Step>, seen: &mut BTreeMap<StateKey, Seen>) {
    let Some(Step {
        key, height, next, ..
    }) = path.pop()
    else {
        return;
    };
    if let Some(parent) = path.last_mut() {
        parent.reach(key.clone(), height);
    }
    seen.insert(key, Seen::Done { height, next });
}

fn cycle(path: &[Step], back_to: StateKey) -> GraphFault {
    let from = path
        .iter()
        .position(|step| step.key == back_to)
        .unwrap_or(0);
    let mut path: Vec<StateKey> = path[from..].iter().map(|step| step.key.clone()).collect();
    path.push(back_to);
    GraphFault::Cycle { path }
}

fn chain(start: &StateKey, seen: &BTreeMap<StateKey, Seen>) -> Vec<StateKey> {
    let mut path = vec![start.clone()];
    while let Some(Seen::Done {
        next: Some(next), ..
    }) = path.last().and_then(|key| seen.get(key))
    {
        path.push(next.clone());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StateKind;
    use std::cell::Cell;

    fn node(n: usize) -> StateKey {
        StateKey::new(StateKind::Flag, &n.to_string()).unwrap()
    }

    fn number(key: &StateKey) -> usize {
        key.key().parse().unwrap()
    }

    #[test]
    fn twenty_steps_are_allowed_and_one_more_is_not() {
        let chain_of = |len: usize| {
            move |key: &StateKey| match number(key) {
                n if n < len => vec![node(n + 1)],
                _ => Vec::new(),
            }
        };
        assert_eq!(check_graph(&node(0), &chain_of(20), 20), Ok(()));
        let Err(GraphFault::TooDeep { path, .. }) = check_graph(&node(0), &chain_of(21), 20) else {
            panic!("not refused");
        };
        assert_eq!(path, (0..=21).map(node).collect::<Vec<_>>());
    }

    #[test]
    fn a_cycle_is_named_without_the_way_to_it() {
        let uses = |key: &StateKey| match number(key) {
            0 => vec![node(9), node(1)],
            1 => vec![node(2)],
            2 => vec![node(3)],
            3 => vec![node(1)],
            _ => Vec::new(),
        };
        let fault = check_graph(&node(0), &uses, 20).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "a cycle: flag/1 -> flag/2 -> flag/3 -> flag/1"
        );
        let itself = check_graph(&node(7), &|key| vec![key.clone()], 20).unwrap_err();
        assert_eq!(itself.to_string(), "a cycle: flag/7 -> flag/7");
    }

    #[test]
    fn diamonds_are_walked_once_and_wide_graphs_given_up() {
        let asked = Cell::new(0);
        let diamonds = |key: &StateKey| {
            asked.set(asked.get() + 1);
            let layer = number(key) / 2;
            if layer < 20 {
                vec![node(2 * layer + 2), node(2 * layer + 3)]
            } else {
                Vec::new()
            }
        };
        assert_eq!(check_graph(&node(0), &diamonds, 20), Ok(()));
        assert_eq!(asked.get(), 41);
        let wide = |key: &StateKey| match number(key) {
            n if n < 100_000 => (1..=3).map(|m| node(3 * n + m)).collect(),
            _ => Vec::new(),
        };
        assert_eq!(
            check_graph(&node(0), &wide, 20),
            Err(GraphFault::TooMany { start: node(0) })
        );
        let endless = |key: &StateKey| vec![node(number(key) + 1)];
        assert!(matches!(
            check_graph(&node(0), &endless, 20),
            Err(GraphFault::TooMany { .. })
        ));
    }
}
