//! A history as a file: its header, and reading it back.
//!
//! What must hold: a file is read to its end or refused with the line that cannot be read; the one
//! exception is a last line that was cut off, which is what a killed run leaves behind. Such a
//! history is marked, and a judge calls it unknown unless something in it is already wrong.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::register::Operation;
use crate::checkers::judge::Demand;

/// The number of the layout of histories.
pub const FORMAT: u32 = 1;

/// The first line of a history: what ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`FORMAT`].
    pub pennon_history: u32,
    /// What all choices of the run follow from.
    pub seed: u64,
    /// Everything that was derived from the seed or given by hand.
    #[serde(default)]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// What the binary under test says of itself.
    #[serde(default)]
    pub release: String,
    /// The names of the nodes.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// What the run has to show.
    #[serde(default)]
    pub demand: Demand,
}

impl Header {
    /// Makes a header of a run.
    pub fn new(seed: u64, nodes: Vec<String>, demand: Demand) -> Header {
        Header {
            pennon_history: FORMAT,
            seed,
            nodes,
            demand,
            ..Header::default()
        }
    }
}

/// The last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) end: End,
}

/// What the last line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) at: u64,
    pub(super) events: u64,
}

/// A whole history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What ran.
    pub header: Header,
    /// What happened, in the order in which it was written down.
    pub events: Vec<Event>,
    /// When the run ended; `None` if it did not get there.
    pub ended: Option<u64>,
    /// What is wrong with the file, though it can be judged.
    pub complaint: Option<String>,
}

/// Why a file is not a history.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It has no line.
    #[error("the file is empty; a history begins with a header")]
    Empty,
    /// The first line is no header.
    #[error("line 1 is not the header of a history: {0}")]
    NoHeader(serde_json::Error),
    /// It is of another layout.
    #[error("the history has format {found}; this program reads format {FORMAT}")]
    Format {
        /// Its number.
        found: u32,
    },
    /// A line in the middle is no event.
    #[error("line {line} is not an event: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What does not fit.
        why: serde_json::Error,
    },
    /// There is something behind the last line.
    #[error("line {line} comes after the line that says that the history ends")]
    AfterEnd {
        /// Counted from 1.
        line: usize,
    },
}

impl History {
    /// Reads a file.
    ///
    /// # Errors
    /// Any [`Damaged`].
    pub fn read(path: &Path) -> Result<History, Damaged> {
        History::read_from(BufReader::with_capacity(1 << 20, File::open(path)?))
    }

    fn read_from(mut from: impl io::BufRead) -> Result<History, Damaged> {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Err(Damaged::Empty);
        }
        let header: Header = serde_json::from_slice(&line).map_err(Damaged::NoHeader)?;
        if header.pennon_history != FORMAT {
            let found = header.pennon_history;
            return Err(Damaged::Format { found });
        }
        let mut history = History {
            header,
            ..History::default()
        };
        for number in 2.. {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if history.ended.is_some() {
                return Err(Damaged::AfterEnd { line: number });
            }
            history.take(&line, number)?;
        }
        if history.ended.is_none() && history.complaint.is_none() {
            history.complaint = Some("the run did not get to its end".to_owned());
        }
        Ok(history)
    }

    fn take(&mut self, line: &[u8], number: usize) -> Result<(), Damaged> {
        let why = match serde_json::from_slice::<Event>(line) {
            Ok(event) => {
                self.events.push(event);
                return Ok(());
            }
            Err(why) => why,
        };
        if let Ok(Last { end }) = serde_json::from_slice(line) {
            let found = self.events.len() as u64;
            if end.events != found {
                let wanted = end.events;
                self.complaint = Some(format!("{found} events are here, {wanted} were written"));
            }
            self.ended = Some(end.at);
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            return Err(Damaged::Line { line: number, why });
        }
        self.complaint = Some(format!("line {number} was cut off: the run was killed"));
        Ok(())
    }

    /// The operations on registers.
    pub fn operations(&self) -> Vec<Operation> {
        let found = self.events.iter().filter_map(|event| match event {
            Event::Operation(request) => Some(request.operation.clone()),
            _ => None,
        });
        found.collect()
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
