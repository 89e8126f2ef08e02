//! The deterministic automaton: a table with an entry for each state and letter, and the search.
//!
//! What must hold: building takes a bounded number of steps and a bounded table, and both are
//! counted, not measured, so that every machine gives the same verdict. Searching reads each
//! character once and takes one entry for it; it needs no memory and cannot fail.
//!
//! The construction is that of subsets: a state stands for all nodes that a search can be at. What
//! an assertion sees of the character before is part of the state; what it sees of the one after
//! is decided when that character is read, so that one pass forward is enough.

use std::collections::HashMap;
use std::rc::Rc;

use regex_syntax::hir::Look;

use super::alphabet::Alphabet;
use super::nfa::{Nfa, Node, Range};
use super::{Bounds, Steps, TooLarge};

/// A match was found, whatever follows.
const MATCHED: u16 = 0;

/// No match can be found any more.
const DEAD: u16 = 1;

/// The automaton; says whether a text holds a match.
#[derive(Debug)]
pub(super) struct Dfa {
    alphabet: Alphabet,
    /// One row for each state, in it one entry for each letter, then one for the end of the text.
    table: Box<[u16]>,
    start: u16,
}

impl Dfa {
    /// Builds the automaton; also tells how many steps that took.
    pub(super) fn new(nfa: &Nfa, bounds: &Bounds) -> Result<(Dfa, usize), TooLarge> {
        let mut steps = Steps::new(bounds.steps);
        let sides = sides(nfa);
        let mut sets = nfa.sets.clone();
        sets.extend(sides.iter().map(|side| side.set()));
        let (alphabet, lists) = Alphabet::new(&sets, &mut steps)?;
        let mut side_of = vec![Side::Other; alphabet.len()];
        for (side, letters) in sides.iter().zip(&lists[nfa.sets.len()..]) {
            for letter in letters {
                side_of[usize::from(*letter)] = *side;
            }
        }
        let mut construction = Construction {
            nfa,
            lists,
            width: alphabet.len() + 1,
            side_of,
            table_max: bounds.table,
            steps,
            anew: Default::default(),
            table: Vec::new(),
            ids: Default::default(),
            states: Vec::new(),
            marks: vec![0; nfa.nodes.len()],
            mark: 0,
            stack: Vec::new(),
            members: Vec::new(),
        };
        let start = construction.run()?;
        let spent = bounds.steps - construction.steps.left();
        let dfa = Dfa {
            alphabet,
            table: construction.table.into(),
            start,
        };
        Ok((dfa, spent))
    }

    /// Says whether the text holds a match.
    pub(super) fn is_match(&self, text: &str) -> bool {
        let mut state = self.start;
        for c in text.chars() {
            if state <= DEAD {
                break;
            }
            state = self.next(state, self.alphabet.letter(c).into());
        }
        self.next(state, self.alphabet.len()) == MATCHED
    }

    /// Returns how many entries the table has.
    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }

    /// Returns the bytes that it holds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.alphabet.memory() + size_of_val(&*self.table)
    }

    fn next(&self, state: u16, entry: usize) -> u16 {
        let at = usize::from(state) * (self.alphabet.len() + 1) + entry;
        // Every state has a row, and every letter an entry: the default is never taken.
        self.table.get(at).copied().unwrap_or(DEAD)
    }
}

/// What an assertion can see of a neighbouring character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// There is none: the text begins or ends here.
    Edge,
    LineFeed,
    Return,
    /// An ASCII letter or digit, or `_`.
    Word,
    Other,
}

impl Side {
    const ALL: [Side; 5] = [
        Side::Edge,
        Side::LineFeed,
        Side::Return,
        Side::Word,
        Side::Other,
    ];

    fn set(self) -> Vec<Range> {
        match self {
            Side::LineFeed => vec![(0x0A, 0x0A)],
            Side::Return => vec![(0x0D, 0x0D)],
            Side::Word => vec![(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
            Side::Edge | Side::Other => Vec::new(),
        }
    }
}

/// The sides that the assertions tell apart; all other characters are `Other`.
fn sides(nfa: &Nfa) -> Vec<Side> {
    let looks = nfa.looks;
    let needed = [
        (Side::LineFeed, looks.contains_anchor_line()),
        (Side::Return, looks.contains_anchor_crlf()),
        (Side::Word, looks.contains_word_ascii()),
    ];
    let needed = needed.into_iter().filter(|(_, needed)| *needed);
    needed.map(|(side, _)| side).collect()
}

/// Decides an assertion between two neighbours; nothing while the one after must be known first.
fn holds(look: Look, before: Side, after: Option<Side>) -> Option<bool> {
    use Side::{Edge, LineFeed, Return, Word};
    match look {
        Look::Start => return Some(before == Edge),
        Look::StartLF => return Some(matches!(before, Edge | LineFeed)),
        Look::WordStartHalfAscii => return Some(before != Word),
        _ => {}
    }
    let after = after?;
    Some(match look {
        Look::End => after == Edge,
        Look::EndLF => matches!(after, Edge | LineFeed),
        Look::StartCRLF => {
            matches!(before, Edge | LineFeed) || (before == Return && after != LineFeed)
        }
        Look::EndCRLF => matches!(after, Edge | Return) || (after == LineFeed && before != Return),
        Look::WordAscii => (before == Word) != (after == Word),
        Look::WordAsciiNegate => (before == Word) == (after == Word),
        Look::WordStartAscii => before != Word && after == Word,
        Look::WordEndAscii => before == Word && after != Word,
        Look::WordEndHalfAscii => after != Word,
        // Those of Unicode words: such patterns are refused before.
        _ => false,
    })
}

/// What begins anew at every position that has a certain side before it.
#[derive(Debug, Default)]
struct Anew {
    members: Vec<u16>,
    spread: Spread,
    /// A match, before anything is read.
    found: bool,
    /// The row of a state that is at nothing else.
    row: Vec<u16>,
}

/// Where a set of nodes goes on.
#[derive(Clone, Debug, Default)]
struct Spread {
    /// A letter and a node after it, sorted.
    reads: Vec<(u16, u16)>,
    /// By the side after: a match ends here.
    found: [bool; Side::ALL.len()],
}

impl Spread {
    fn after(&self, letter: u16) -> impl Iterator<Item = u16> + '_ {
        let from = self.reads.partition_point(|(l, _)| *l < letter);
        let reads = self.reads[from..].iter();
        reads
            .take_while(move |(l, _)| *l == letter)
            .map(|(_, n)| *n)
    }
}

/// The construction at work.
///
/// A state is the side before it and the nodes that it is at: those that read, and assertions that
/// still wait for the character after. Nodes that begin anew at every position are left out of it
/// and added when it goes on; else hundreds of alternatives would be in every state.
struct Construction<'n> {
    nfa: &'n Nfa,
    /// The letters of each set.
    lists: Vec<Vec<u16>>,
    width: usize,
    /// The side that each letter is.
    side_of: Vec<Side>,
    table_max: usize,
    steps: Steps,
    /// By the side before.
    anew: [Anew; Side::ALL.len()],
    table: Vec<u16>,
    /// By the side before.
    ids: [HashMap<Rc<[u16]>, u16>; Side::ALL.len()],
    /// In the order of their rows, which begin after those of `MATCHED` and `DEAD`.
    states: Vec<(Side, Rc<[u16]>)>,
    /// The nodes seen by this call of `close` have this mark.
    marks: Vec<usize>,
    mark: usize,
    /// What `close` begins with.
    stack: Vec<u16>,
    /// What `close` came to, sorted.
    members: Vec<u16>,
}

impl Construction<'_> {
    fn run(&mut self) -> Result<u16, TooLarge> {
        self.table = vec![MATCHED; self.width];
        self.table.resize(2 * self.width, DEAD);
        for before in Side::ALL {
            self.stack.push(self.nfa.start);
            let found = self.close(before, None)?;
            let members = self.members.clone();
            let spread = self.spread(&members, before)?;
            self.anew[before as usize] = Anew {
                members,
                spread,
                found,
                row: Vec::new(),
            };
        }
        self.members.clear();
        let start = self.state(Side::Edge)?;
        for before in Side::ALL {
            let mut row = vec![DEAD; self.width];
            let spread = self.anew[before as usize].spread.clone();
            for (letter, entry) in (0..).zip(&mut row[..self.width - 1]) {
                self.stack.extend(spread.after(letter));
                *entry = self.target(letter)?;
            }
            self.add_found(&mut row, &spread);
            self.anew[before as usize].row = row;
        }
        let mut done = 0;
        while let Some((before, members)) = self.states.get(done).cloned() {
            let row = self.row(before, &members)?;
            let at = (done + 2) * self.width;
            self.table[at..at + self.width].copy_from_slice(&row);
            done += 1;
        }
        Ok(start)
    }

    fn row(&mut self, before: Side, members: &[u16]) -> Result<Vec<u16>, TooLarge> {
        let mut row = self.anew[before as usize].row.clone();
        let own = self.spread(members, before)?;
        for reads in own.reads.chunk_by(|a, b| a.0 == b.0) {
            let letter = reads[0].0;
            let entry = &mut row[usize::from(letter)];
            if *entry != MATCHED {
                self.stack.extend(reads.iter().map(|(_, node)| *node));
                self.stack
                    .extend(self.anew[before as usize].spread.after(letter));
                *entry = self.target(letter)?;
            }
        }
        self.add_found(&mut row, &own);
        Ok(row)
    }

    fn add_found(&self, row: &mut [u16], spread: &Spread) {
        let sides = self.side_of.iter().chain([&Side::Edge]);
        for (entry, after) in row.iter_mut().zip(sides) {
            if spread.found[*after as usize] {
                *entry = MATCHED;
            }
        }
    }

    /// Finds the letters that nodes go on with, and before which sides a match ends.
    fn spread(&mut self, members: &[u16], before: Side) -> Result<Spread, TooLarge> {
        let mut spread = Spread::default();
        self.read(members, None, &mut spread.reads)?;
        let waits = |node: &u16| matches!(self.nfa.nodes[usize::from(*node)], Node::Look { .. });
        let waiting: Vec<u16> = members.iter().copied().filter(waits).collect();
        if !waiting.is_empty() {
            for after in Side::ALL {
                self.stack.extend(&waiting);
                spread.found[after as usize] = self.close(before, Some(after))?;
                let members = std::mem::take(&mut self.members);
                self.read(&members, Some(after), &mut spread.reads)?;
            }
        }
        spread.reads.sort_unstable();
        spread.reads.dedup();
        Ok(spread)
    }

    /// Lists what nodes read; only letters of one side, if given.
    fn read(
        &mut self,
        members: &[u16],
        only: Option<Side>,
        reads: &mut Vec<(u16, u16)>,
    ) -> Result<(), TooLarge> {
        for node in members {
            if let Node::Read { set, next } = self.nfa.nodes[usize::from(*node)] {
                let letters = &self.lists[usize::from(set)];
                self.steps.spend(1 + letters.len())?;
                let wanted = |letter: &u16| {
                    only.is_none_or(|side| self.side_of[usize::from(*letter)] == side)
                };
                let letters = letters.iter().copied().filter(wanted);
                reads.extend(letters.map(|letter| (letter, next)));
            }
        }
        Ok(())
    }

    /// Returns the state after a letter; the nodes that follow it are on the stack.
    fn target(&mut self, letter: u16) -> Result<u16, TooLarge> {
        let side = self.side_of[usize::from(letter)];
        if self.close(side, None)? {
            return Ok(MATCHED);
        }
        let anew = &self.anew[side as usize].members;
        self.members
            .retain(|node| anew.binary_search(node).is_err());
        self.state(side)
    }

    /// Returns the state with this side before it that is at `members`.
    fn state(&mut self, before: Side) -> Result<u16, TooLarge> {
        // What it costs to find it, in steps of following a node.
        self.steps.spend(8 + self.members.len())?;
        if self.anew[before as usize].found {
            return Ok(MATCHED);
        }
        let nothing = |anew: &Anew| anew.members.is_empty() && !anew.found;
        if self.members.is_empty() && before != Side::Edge && self.anew[1..].iter().all(nothing) {
            return Ok(DEAD);
        }
        let ids = &mut self.ids[before as usize];
        if let Some(id) = ids.get(self.members.as_slice()) {
            return Ok(*id);
        }
        let len = self.table.len() + self.width;
        if len > self.table_max {
            return Err(TooLarge);
        }
        self.steps.spend(self.width / 8)?;
        let id = u16::try_from(self.states.len() + 2).map_err(|_| TooLarge)?;
        let members: Rc<[u16]> = self.members.as_slice().into();
        self.table.resize(len, DEAD);
        self.states.push((before, Rc::clone(&members)));
        ids.insert(members, id);
        Ok(id)
    }

    /// Follows all that reads nothing, from the nodes on the stack; says whether a match is there.
    fn close(&mut self, before: Side, after: Option<Side>) -> Result<bool, TooLarge> {
        self.mark += 1;
        self.members.clear();
        let mut found = false;
        while let Some(node) = self.stack.pop() {
            self.steps.spend(1)?;
            let mark = &mut self.marks[usize::from(node)];
            if std::mem::replace(mark, self.mark) == self.mark {
                continue;
            }
            match &self.nfa.nodes[usize::from(node)] {
                Node::Read { .. } => self.members.push(node),
                Node::Fork(all) => self.stack.extend(all),
                Node::Found => found = true,
                Node::Look { look, next } => match holds(look.0, before, after) {
                    Some(true) => self.stack.push(*next),
                    Some(false) => {}
                    None => self.members.push(node),
                },
            }
        }
        self.members.sort_unstable();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_every_table_leads_to_a_row() {
        let patterns = [
            "",
            "a|b*c",
            "^a$",
            r"(?m)^\w+$",
            r"(?Rm)^é$",
            r"(?-u:\b)x",
            r"[\s--\s]",
        ];
        for pattern in patterns {
            let hir = regex_syntax::parse(pattern).unwrap();
            let nfa = Nfa::new(&[&hir], 1_000).unwrap();
            let (dfa, _) = Dfa::new(&nfa, &Bounds::new(1)).unwrap();
            let width = dfa.alphabet.len() + 1;
            assert_eq!(dfa.table.len() % width, 0);
            let rows = dfa.table.len() / width;
            let in_range = |state: &u16| usize::from(*state) < rows;
            assert!(dfa.table.iter().all(in_range), "{pattern}");
            assert!(in_range(&dfa.start), "{pattern}");
            let some = (0..=0x10_FFFF).step_by(13).filter_map(char::from_u32);
            for c in some {
                assert!(usize::from(dfa.alphabet.letter(c)) < width - 1);
            }
        }
    }
}
