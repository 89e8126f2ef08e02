//! Patterns as a nondeterministic automaton: what `dfa.rs` makes deterministic.
//!
//! What must hold: it reads characters, not bytes, and a class is one step, however many ranges
//! Unicode gives it. Only whether there is a match counts: which alternative is preferred, where
//! the match is and what the groups hold are forgotten.
//!
//! Building stops at a number of nodes, so that `x{4294967295}` costs no more than that.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use regex_syntax::hir::{Class, Hir, HirKind, Look, LookSet};

use super::TooLarge;

/// The deepest that alternatives are merged by their first letters; each step costs stack.
const MERGE_DEPTH_MAX: usize = 64;

/// Characters from the first to the last, as numbers.
pub(super) type Range = (u32, u32);

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// Reads one character of a set, then goes on at `next`.
    Read { set: u16, next: u16 },
    /// Goes on at all of them.
    Fork(Vec<u16>),
    /// Goes on at `next` where the assertion holds.
    Look { look: Assertion, next: u16 },
    /// A match.
    Found,
}

/// What must hold at a place, such as `^`; a `Look` that can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assertion(pub(super) Look);

impl Hash for Assertion {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.as_repr().hash(hasher);
    }
}

/// The automaton; a match is a path from `start` to [`Node::Found`], begun anywhere in the text.
#[derive(Debug)]
pub(super) struct Nfa {
    pub(super) nodes: Vec<Node>,
    pub(super) start: u16,
    pub(super) sets: Vec<Vec<Range>>,
    pub(super) looks: LookSet,
}

impl Nfa {
    /// Builds the one that matches where any of the patterns does.
    pub(super) fn new(patterns: &[&Hir], nodes_max: usize) -> Result<Nfa, TooLarge> {
        let mut forest = Forest::default();
        let mut looks = LookSet::empty();
        let mut trees = Vec::with_capacity(patterns.len());
        for hir in patterns {
            looks = looks.union(hir.properties().look_set());
            trees.push(forest.tree(hir)?);
        }
        let mut builder = Builder {
            nodes: Vec::new(),
            nodes_max,
            repeats: forest.repeats.in_order(),
            known: HashMap::new(),
            known_repeats: HashMap::new(),
        };
        let found = builder.add(Node::Found)?;
        let start = builder.emit(&Tree::Any(trees), found)?;
        Ok(Nfa {
            nodes: builder.nodes,
            start,
            sets: forest.sets.in_order(),
            looks,
        })
    }
}

/// A pattern without what does not matter here: greed, groups, and how a set was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tree {
    /// The number of a set.
    Set(u16),
    Look(Assertion),
    Seq(Vec<Tree>),
    Any(Vec<Tree>),
    /// The number of a repetition.
    Repeat(u16),
}

impl Tree {
    fn parts(&self) -> &[Tree] {
        match self {
            Tree::Seq(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Repeat {
    body: Tree,
    min: u32,
    max: Option<u32>,
}

/// Gives equal things the same number.
struct Numbers<T>(HashMap<T, u16>);

impl<T> Default for Numbers<T> {
    fn default() -> Numbers<T> {
        Numbers(HashMap::new())
    }
}

impl<T: Eq + Hash> Numbers<T> {
    fn number(&mut self, thing: T) -> Result<u16, TooLarge> {
        let new = u16::try_from(self.0.len()).map_err(|_| TooLarge)?;
        Ok(*self.0.entry(thing).or_insert(new))
    }

    fn in_order(self) -> Vec<T> {
        let mut things: Vec<(T, u16)> = self.0.into_iter().collect();
        things.sort_unstable_by_key(|(_, number)| *number);
        things.into_iter().map(|(thing, _)| thing).collect()
    }
}

/// What patterns are made of, each part once.
#[derive(Default)]
struct Forest {
    sets: Numbers<Vec<Range>>,
    repeats: Numbers<Rc<Repeat>>,
}

impl Forest {
    fn tree(&mut self, hir: &Hir) -> Result<Tree, TooLarge> {
        Ok(match hir.kind() {
            HirKind::Empty => Tree::Seq(Vec::new()),
            HirKind::Literal(literal) => {
                // Patterns that could match other than UTF-8 were refused: this never fails.
                let text = std::str::from_utf8(&literal.0).map_err(|_| TooLarge)?;
                let one = |c: char| self.sets.number(vec![(c.into(), c.into())]);
                let sets = text.chars().map(one).map(|set| set.map(Tree::Set));
                Tree::Seq(sets.collect::<Result<_, _>>()?)
            }
            HirKind::Class(class) => Tree::Set(self.sets.number(ranges(class))?),
            HirKind::Look(look) => Tree::Look(Assertion(*look)),
            HirKind::Capture(capture) => self.tree(&capture.sub)?,
            HirKind::Repetition(repetition) => {
                let repeat = Repeat {
                    body: self.tree(&repetition.sub)?,
                    min: repetition.min,
                    max: repetition.max,
                };
                Tree::Repeat(self.repeats.number(Rc::new(repeat))?)
            }
            HirKind::Concat(parts) => {
                let mut seq = Vec::with_capacity(parts.len());
                for part in parts {
                    match self.tree(part)? {
                        Tree::Seq(inner) => seq.extend(inner),
                        other => seq.push(other),
                    }
                }
                Tree::Seq(seq)
            }
            HirKind::Alternation(parts) => {
                let trees = parts.iter().map(|part| self.tree(part));
                Tree::Any(trees.collect::<Result<_, _>>()?)
            }
        })
    }
}

fn ranges(class: &Class) -> Vec<Range> {
    match class {
        Class::Unicode(class) => {
            let ranges = class.iter();
            ranges.map(|r| (r.start().into(), r.end().into())).collect()
        }
        Class::Bytes(class) => {
            let ranges = class.iter();
            ranges.map(|r| (r.start().into(), r.end().into())).collect()
        }
    }
}

/// Builds backwards: every part is told where to go on, and answers where it begins. Parts that are
/// equal and go on at the same place are one, so that alternatives share their ends.
struct Builder {
    nodes: Vec<Node>,
    nodes_max: usize,
    repeats: Vec<Rc<Repeat>>,
    known: HashMap<Node, u16>,
    /// By the number of the repetition and where it goes on.
    known_repeats: HashMap<(u16, u16), u16>,
}

impl Builder {
    fn add(&mut self, node: Node) -> Result<u16, TooLarge> {
        if let Some(id) = self.known.get(&node) {
            return Ok(*id);
        }
        let id = self.push(node.clone())?;
        self.known.insert(node, id);
        Ok(id)
    }

    fn push(&mut self, node: Node) -> Result<u16, TooLarge> {
        if self.nodes.len() >= self.nodes_max {
            return Err(TooLarge);
        }
        let id = u16::try_from(self.nodes.len()).map_err(|_| TooLarge)?;
        self.nodes.push(node);
        Ok(id)
    }

    fn emit(&mut self, tree: &Tree, next: u16) -> Result<u16, TooLarge> {
        match tree {
            Tree::Set(set) => self.add(Node::Read { set: *set, next }),
            Tree::Look(look) => self.add(Node::Look { look: *look, next }),
            Tree::Seq(parts) => self.emit_seq(parts, next),
            Tree::Any(parts) => {
                let branches = parts.iter().map(Tree::parts).collect();
                self.emit_any(branches, next, 0)
            }
            Tree::Repeat(number) => {
                if let Some(entry) = self.known_repeats.get(&(*number, next)) {
                    return Ok(*entry);
                }
                let repeat = Rc::clone(&self.repeats[usize::from(*number)]);
                let entry = self.emit_repeat(&repeat, next)?;
                self.known_repeats.insert((*number, next), entry);
                Ok(entry)
            }
        }
    }

    fn emit_seq(&mut self, parts: &[Tree], next: u16) -> Result<u16, TooLarge> {
        parts
            .iter()
            .rev()
            .try_fold(next, |next, part| self.emit(part, next))
    }

    /// Emits alternatives, merged by what they begin with: hundreds of words become one tree, and
    /// the automaton follows one node of it, not hundreds.
    fn emit_any(
        &mut self,
        branches: Vec<&[Tree]>,
        next: u16,
        depth: usize,
    ) -> Result<u16, TooLarge> {
        let mut entries = Vec::new();
        let mut groups: BTreeMap<u16, Vec<&[Tree]>> = BTreeMap::new();
        for branch in branches {
            match branch.first() {
                Some(Tree::Set(set)) if depth < MERGE_DEPTH_MAX => {
                    groups.entry(*set).or_default().push(branch);
                }
                _ => entries.push(self.emit_seq(branch, next)?),
            }
        }
        for group in groups.into_values() {
            if let [only] = group[..] {
                entries.push(self.emit_seq(only, next)?);
                continue;
            }
            let (head, _) = group[0].split_at(shared_sets(&group));
            let rests = group.iter().map(|branch| &branch[head.len()..]);
            let rest = self.emit_any(rests.collect(), next, depth + 1)?;
            entries.push(self.emit_seq(head, rest)?);
        }
        self.fork(entries)
    }

    fn fork(&mut self, mut entries: Vec<u16>) -> Result<u16, TooLarge> {
        entries.sort_unstable();
        entries.dedup();
        match entries[..] {
            [only] => Ok(only),
            _ => self.add(Node::Fork(entries)),
        }
    }

    fn emit_repeat(&mut self, repeat: &Repeat, next: u16) -> Result<u16, TooLarge> {
        let Repeat { body, min, max } = repeat;
        let (mut entry, mut copies) = (next, *min);
        match max {
            None => {
                let fork = self.push(Node::Found)?;
                let inside = self.emit(body, fork)?;
                self.nodes[usize::from(fork)] = Node::Fork(vec![inside, next]);
                // The loop is one copy already.
                entry = if copies == 0 { fork } else { inside };
                copies = copies.saturating_sub(1);
            }
            Some(max) => {
                for _ in *min..*max {
                    let inside = self.emit(body, entry)?;
                    if inside == entry {
                        break;
                    }
                    entry = self.fork(vec![inside, next])?;
                }
            }
        }
        for _ in 0..copies {
            let after = entry;
            entry = self.emit(body, after)?;
            // One more copy adds nothing, and so does any number. (`regex-syntax` leaves no such
            // body, but the number can be 4294967295.)
            if entry == after {
                break;
            }
        }
        Ok(entry)
    }
}

/// Counts the sets that all branches begin with.
fn shared_sets(branches: &[&[Tree]]) -> usize {
    let set_at = |branch: &[Tree], at: usize| match branch.get(at) {
        Some(Tree::Set(set)) => Some(*set),
        _ => None,
    };
    let Some((first, others)) = branches.split_first() else {
        return 0;
    };
    (0..first.len())
        .take_while(|&at| {
            let set = set_at(first, at);
            set.is_some() && others.iter().all(|branch| set_at(branch, at) == set)
        })
        .count()
}
