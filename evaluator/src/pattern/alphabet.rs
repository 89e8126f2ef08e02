//! The letters of a pattern: its sets cut all characters into classes that no set tells apart.
//!
//! What must hold: every character has exactly one letter, and every set is exactly the characters
//! of some letters. A table over letters is then as good as one over characters, and as small as
//! the pattern is simple: `\w` has two letters, though Unicode gives it some 800 ranges.

use super::nfa::Range;
use super::{Steps, TooLarge};

/// One past the last character.
const CHARS_END: u32 = 0x11_0000;

/// Maps characters to letters, without allocation.
#[derive(Debug)]
pub(super) struct Alphabet {
    ascii: [u16; 128],
    /// Where runs of one letter begin, rising; the first is 0.
    starts: Box<[u32]>,
    /// The letter of each run.
    letters: Box<[u16]>,
    len: usize,
}

impl Alphabet {
    /// Finds the letters that the sets need, and gives each set as a sorted list of letters.
    pub(super) fn new(
        sets: &[Vec<Range>],
        steps: &mut Steps,
    ) -> Result<(Alphabet, Vec<Vec<u16>>), TooLarge> {
        let mut starts = vec![0];
        for (first, last) in sets.iter().flatten() {
            starts.extend([*first, last + 1]);
        }
        starts.sort_unstable();
        starts.dedup();
        starts.retain(|start| *start < CHARS_END);
        steps.spend(starts.len())?;
        let mut letters = vec![0; starts.len()];
        // How many runs each letter has.
        let mut sizes = vec![starts.len()];
        for set in sets {
            refine(set, &starts, &mut letters, &mut sizes, steps)?;
        }
        let mut lists = Vec::with_capacity(sets.len());
        for set in sets {
            let mut list: Vec<u16> = runs(set, &starts).map(|run| letters[run]).collect();
            steps.spend(list.len())?;
            list.sort_unstable();
            list.dedup();
            lists.push(list);
        }
        Ok((Alphabet::of_runs(&starts, &letters, sizes.len()), lists))
    }

    fn of_runs(starts: &[u32], letters: &[u16], len: usize) -> Alphabet {
        let mut runs: Vec<(u32, u16)> = starts
            .iter()
            .copied()
            .zip(letters.iter().copied())
            .collect();
        runs.dedup_by_key(|(_, letter)| *letter);
        let mut alphabet = Alphabet {
            ascii: [0; 128],
            starts: runs.iter().map(|(start, _)| *start).collect(),
            letters: runs.iter().map(|(_, letter)| *letter).collect(),
            len,
        };
        for c in 0..128u8 {
            alphabet.ascii[usize::from(c)] = alphabet.search(c.into());
        }
        alphabet
    }

    /// Returns the letter of a character.
    pub(super) fn letter(&self, c: char) -> u16 {
        let c = u32::from(c);
        match self.ascii.get(c as usize) {
            Some(letter) => *letter,
            None => self.search(c),
        }
    }

    /// Returns how many letters there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes that it holds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        size_of::<Alphabet>() + size_of_val(&*self.starts) + size_of_val(&*self.letters)
    }

    fn search(&self, c: u32) -> u16 {
        let run = self.starts.partition_point(|start| *start <= c);
        // The first run begins at 0: there always is one.
        self.letters.get(run.wrapping_sub(1)).copied().unwrap_or(0)
    }
}

/// The runs that a set covers; its bounds are among `starts`.
fn runs<'a>(set: &'a [Range], starts: &'a [u32]) -> impl Iterator<Item = usize> + 'a {
    set.iter().flat_map(|(first, last)| {
        let from = starts.partition_point(|start| start < first);
        let until = starts.partition_point(|start| start <= last);
        from..until
    })
}

/// Splits every letter that the set covers in part.
fn refine(
    set: &[Range],
    starts: &[u32],
    letters: &mut [u16],
    sizes: &mut Vec<usize>,
    steps: &mut Steps,
) -> Result<(), TooLarge> {
    let mut covered = vec![0; sizes.len()];
    let mut count = 0;
    for run in runs(set, starts) {
        covered[usize::from(letters[run])] += 1;
        count += 1;
    }
    steps.spend(2 * count + covered.len())?;
    let mut renamed = vec![None; covered.len()];
    for (letter, covered) in covered.into_iter().enumerate() {
        if covered > 0 && covered < sizes[letter] {
            renamed[letter] = Some(u16::try_from(sizes.len()).map_err(|_| TooLarge)?);
            sizes[letter] -= covered;
            sizes.push(covered);
        }
    }
    for run in runs(set, starts) {
        if let Some(new) = renamed[usize::from(letters[run])] {
            letters[run] = new;
        }
    }
    Ok(())
}
