//! What the commands say, and how: text, tables, JSON, YAML; colour only on a terminal.
//!
//! What must hold: results go to stdout and everything else to stderr; what comes from a cluster
//! is shown without control characters, so that nobody steers a terminal by naming a flag; the
//! format does not depend on whether the output is a pipe, only colour and line width do.
//!
//! Left out: which columns a table has (each command knows its own).

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};
use serde_json::Value;

use super::failure::Failure;

/// Between two columns of a table.
const GAP: u16 = 2;

/// The least room for the last column before the others are cut as well.
const LAST_COLUMN_MIN: usize = 8;

/// The format of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: the answer of the node, indented.
    Json,
    /// The same as YAML.
    Yaml,
}

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it should be; switched on.
    Good,
    /// Needs somebody.
    Bad,
    /// Worth a look; switched off.
    Warn,
    /// Less important than the rest.
    Dim,
    /// More important than the rest.
    Bold,
}

impl Paint {
    const ALL: [Paint; 5] = [
        Paint::Good,
        Paint::Bad,
        Paint::Warn,
        Paint::Dim,
        Paint::Bold,
    ];
    const RESET: &'static str = "\u{1b}[0m";
    /// Ends a painted part of a cell.
    const END: char = '\u{2060}';

    fn code(self) -> &'static str {
        match self {
            Paint::Good => "\u{1b}[32m",
            Paint::Bad => "\u{1b}[1;31m",
            Paint::Warn => "\u{1b}[33m",
            Paint::Dim => "\u{1b}[2m",
            Paint::Bold => "\u{1b}[1m",
        }
    }

    /// Stands for the colour while a table is laid out. It has no width, and [`shown`] takes it
    /// out of everything that comes from elsewhere.
    fn mark(self) -> char {
        match self {
            Paint::Good => '\u{2061}',
            Paint::Bad => '\u{2062}',
            Paint::Warn => '\u{2063}',
            Paint::Dim => '\u{2064}',
            Paint::Bold => '\u{206a}',
        }
    }
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    paint: Option<Paint>,
}

impl Cell {
    /// A cell with a colour.
    pub(crate) fn painted(text: impl AsRef<str>, paint: Paint) -> Cell {
        Cell {
            paint: Some(paint),
            ..Cell::from(text.as_ref())
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell {
            text: shown(text),
            paint: None,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::from(text.as_str())
    }
}

/// Where a command writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    format: Format,
    colour: bool,
    width: Option<u16>,
}

impl Terminal {
    /// Tables without colours, of any width.
    #[cfg(test)]
    pub(crate) const PLAIN: Terminal = Terminal {
        format: Format::Table,
        colour: false,
        width: None,
    };

    /// Looks at stdout and the environment.
    pub(crate) fn new(format: Format) -> Terminal {
        let is_terminal = io::stdout().is_terminal();
        let width = rustix::termios::tcgetwinsize(io::stdout())
            .ok()
            .map(|size| size.ws_col);
        let width = width.filter(|columns| is_terminal && *columns > 0);
        Terminal {
            format,
            colour: is_terminal && may_colour(),
            width,
        }
    }

    /// Leaves room at the side of tables.
    pub(crate) fn narrower(&self, columns: usize) -> Terminal {
        let columns = u16::try_from(columns).unwrap_or(u16::MAX);
        Terminal {
            width: self.width.map(|width| width.saturating_sub(columns)),
            ..*self
        }
    }

    /// Returns the format that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Says whether people read this.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Says whether stdout is a terminal that takes colours.
    pub(crate) fn is_colourful(&self) -> bool {
        self.colour
    }

    /// Prints text and a line end.
    ///
    /// # Errors
    /// When stdout cannot be written; silent when its reader went away.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Says something beside the result, on stderr. Nobody is hurt when it cannot be said.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let mut err = io::stderr().lock();
        let _ = err
            .write_all(text.as_ref().as_bytes())
            .and_then(|()| err.write_all(b"\n"));
    }

    /// Prints a value as JSON or YAML; as JSON when tables were asked for.
    ///
    /// # Errors
    /// As [`Terminal::line`].
    pub(crate) fn value(&self, value: &Value) -> Result<(), Failure> {
        self.line(self.rendered(value).trim_end())
    }

    /// Prints one of many values, as they come: JSON on one line, or a YAML document.
    ///
    /// # Errors
    /// As [`Terminal::line`].
    pub(crate) fn item(&self, value: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.line(format!("---\n{}", self.rendered(value).trim_end())),
            Format::Json | Format::Table => self.line(value.to_string()),
        }
    }

    fn rendered(&self, value: &Value) -> String {
        match self.format {
            Format::Yaml => serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string()),
            Format::Json | Format::Table => pretty(value),
        }
    }

    /// Says why the command failed, on stderr: for people, or the problem document.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        match self.format {
            Format::Table => {
                let is_terminal = io::stderr().is_terminal();
                let width =
                    rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
                let text = match is_terminal && width > 0 {
                    true => wrapped(&failure.text(), usize::from(width)),
                    false => failure.text(),
                };
                let colour = is_terminal && may_colour();
                self.note(match text.strip_prefix("error:") {
                    Some(rest) if colour => {
                        format!("{}error:{}{rest}", Paint::Bad.code(), Paint::RESET)
                    }
                    _ => text,
                });
            }
            Format::Json | Format::Yaml => self.note(self.rendered(&failure.problem()).trim_end()),
        }
    }

    /// Colours a text if colours are wanted.
    pub(crate) fn paint(&self, text: impl AsRef<str>, paint: Paint) -> String {
        let text = text.as_ref();
        match self.colour {
            true => format!("{}{text}{}", paint.code(), Paint::RESET),
            false => text.to_owned(),
        }
    }

    /// Lays out a table without lines around it. On a terminal every row is one line: the last
    /// column gets what is left of the width and is cut there.
    pub(crate) fn table(
        &self,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> String {
        let rows: Vec<Vec<Cell>> = rows.into_iter().collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        for row in &rows {
            let marked: Vec<String> = row.iter().map(|cell| self.marked(cell)).collect();
            let mut row = Row::from(marked);
            if self.width.is_some() {
                row.max_height(1);
            }
            table.add_row(row);
        }
        let only_last_is_cut = self
            .width
            .is_some_and(|width| fits(header, &rows, width.into()));
        for (n, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, GAP));
            if only_last_is_cut && n + 1 < header.len() {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        if let Some(width) = self.width {
            // The gap behind the last column is cut off below.
            let width = width.saturating_add(GAP);
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
        }
        let laid_out = table.to_string();
        let lines = laid_out.lines().enumerate().map(|(n, line)| match n {
            0 => self.paint(line.trim_end(), Paint::Dim),
            _ => unmarked(line.trim_end()),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn marked(&self, cell: &Cell) -> String {
        match cell.paint.filter(|_| self.colour) {
            Some(paint) => format!("{}{}{}", paint.mark(), cell.text, Paint::END),
            None => cell.text.clone(),
        }
    }
}

/// Says whether all columns but the last fit as they are, with a little room for the last.
fn fits(header: &[&str], rows: &[Vec<Cell>], width: usize) -> bool {
    let before_last = header
        .iter()
        .enumerate()
        .take(header.len().saturating_sub(1));
    let taken: usize = before_last
        .map(|(n, name)| {
            let cells = rows
                .iter()
                .filter_map(|row| Some(row.get(n)?.text.chars().count()));
            cells.chain([name.chars().count()]).max().unwrap_or(0) + usize::from(GAP)
        })
        .sum();
    taken + LAST_COLUMN_MIN <= width
}

/// Replaces marks by colours. A cell that was wrapped ends its colour with the line.
fn unmarked(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut open = false;
    for c in line.chars() {
        if let Some(paint) = Paint::ALL.into_iter().find(|paint| paint.mark() == c) {
            out.push_str(paint.code());
            open = true;
        } else if c == Paint::END {
            out.push_str(if open { Paint::RESET } else { "" });
            open = false;
        } else {
            out.push(c);
        }
    }
    if open {
        out.push_str(Paint::RESET);
    }
    out
}

/// Makes text from elsewhere safe to show: line ends stay, other control characters and characters
/// that turn the direction of text become visible.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push('\n'),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Breaks lines that are too long, at spaces; what follows keeps the indent.
fn wrapped(text: &str, width: usize) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.chars().count() <= width {
            out.push(line.to_owned());
            continue;
        }
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let mut current = String::new();
        for word in line.split_whitespace() {
            let long = current.chars().count() + 1 + word.chars().count() > width;
            if long && !current.trim().is_empty() {
                out.push(std::mem::take(&mut current));
            }
            current.push_str(if current.is_empty() { &indent } else { " " });
            current.push_str(word);
        }
        out.push(current);
    }
    out.join("\n")
}

/// Counts in words: `1 node`, `3 nodes`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Shows a JSON value on one line, a string without its quotes.
pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Cuts a text to a number of characters.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// JSON, indented.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// Says whether the environment allows colours (<https://no-color.org>).
pub(crate) fn may_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Terminal = Terminal::PLAIN;

    #[test]
    fn colours_do_not_move_columns() {
        let rows = || {
            [
                vec![Cell::painted("on", Paint::Good), "x".into()],
                vec!["long".into(), "y".into()],
            ]
        };
        let plain = PLAIN.table(&["A", "B"], rows());
        let colourful = Terminal {
            colour: true,
            ..PLAIN
        }
        .table(&["A", "B"], rows());
        assert_eq!(plain, "A     B\non    x\nlong  y");
        let mut stripped = colourful.clone();
        for code in Paint::ALL
            .map(Paint::code)
            .into_iter()
            .chain([Paint::RESET])
        {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain);
        assert!(colourful.contains("\u{1b}[32mon\u{1b}[0m"), "{colourful:?}");
    }

    #[test]
    fn on_a_terminal_a_row_is_one_line_and_only_the_last_column_is_cut() {
        let narrow = Terminal {
            width: Some(20),
            ..PLAIN
        };
        let rows = [vec!["one two".into(), "three four five six".into()]];
        assert_eq!(
            narrow.table(&["A", "B"], rows),
            "A        B\none two  three four…"
        );
    }

    #[test]
    fn long_lines_break_at_spaces_and_keep_their_indent() {
        assert_eq!(wrapped("  aa bb cc dd", 7), "  aa bb\n  cc dd");
        assert_eq!(wrapped("a\n\nverylongword b", 5), "a\n\nverylongword\nb");
        assert_eq!(wrapped("  one  two   ", 80), "  one  two   ");
    }

    #[test]
    fn what_comes_from_elsewhere_is_made_visible() {
        assert_eq!(
            shown("a\u{1b}[31m\tb\u{202e}\u{2061}c"),
            "a\\u{1b}[31m\\tb\\u{202e}\\u{2061}c"
        );
    }

    #[test]
    fn yaml_keeps_strings_strings() {
        let yaml = Terminal {
            format: Format::Yaml,
            ..PLAIN
        };
        let text =
            yaml.rendered(&json!({"a": "true", "b": "007", "c": true, "d": ["x: y", "no", ""]}));
        for bare in ["a: true", "b: 007", "- no\n", "- x: y"] {
            assert!(!text.contains(bare), "{bare} in {text}");
        }
        assert!(text.contains("c: true"), "{text}");
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
