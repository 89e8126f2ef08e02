//! Many short texts in one allocation.

use std::fmt;

/// Texts behind each other. Immutable.
pub(crate) struct Texts(Box<str>);

/// Where a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// The span without its first and last byte.
    pub(super) fn within_quotes(self) -> Span {
        Span {
            at: self.at + 1,
            len: self.len.saturating_sub(2),
        }
    }
}

/// Texts while they are collected.
#[derive(Default)]
pub(super) struct TextsBuilder(String);

impl Texts {
    /// Returns the text of a span that was made for these texts.
    #[inline]
    pub(crate) fn get(&self, span: Span) -> &str {
        slice(&self.0, span)
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl TextsBuilder {
    pub(super) fn add(&mut self, text: &str) -> Span {
        // An encoded state, and so the sum of its texts, is far below 4 GiB.
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (at, len) = (number(self.0.len()), number(text.len()));
        self.0.push_str(text);
        Span { at, len }
    }

    pub(super) fn get(&self, span: Span) -> &str {
        slice(&self.0, span)
    }

    pub(super) fn finish(self) -> Texts {
        Texts(self.0.into())
    }
}

fn slice(texts: &str, span: Span) -> &str {
    let (at, len) = (span.at as usize, span.len as usize);
    texts.get(at..at + len).unwrap_or_default()
}
