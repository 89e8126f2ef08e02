//! A digest over everything that happened, in order; and, if wanted, all of it as text.
//!
//! Two runs of one seed are the same exactly when their digests are. Where they differ is found in
//! the texts.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Collects lines.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    digest: u64,
    lines: u64,
    line: String,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// A trace that is also written to a file.
    pub(crate) fn to_file(path: &Path) -> std::io::Result<Trace> {
        let file = Some(BufWriter::new(File::create(path)?));
        Ok(Trace {
            file,
            ..Trace::default()
        })
    }

    pub(crate) fn note(&mut self, now_ms: u64, line: std::fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a String does not fail.
        let _ = writeln!(self.line, "{now_ms} {line}");
        self.digest = xxh3_64_with_seed(self.line.as_bytes(), self.digest);
        self.lines += 1;
        if let Some(file) = &mut self.file {
            // A file that cannot be written shows when it is compared.
            let _ = file.write_all(self.line.as_bytes());
        }
    }

    /// The digest, and how many lines it is over.
    pub(crate) fn digest(&mut self) -> (u64, u64) {
        if let Some(file) = &mut self.file {
            let _ = file.flush();
        }
        (self.digest, self.lines)
    }
}

/// Hashes what was sent. The time of day that hyper puts into answers is the real one; it is left
/// out, as nobody decides by it.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    const DATE: &[u8] = b"\r\ndate: ";
    const DATE_LEN: usize = 29;
    /// A head that is longer has no date behind this.
    const HEAD_LEN: usize = 1024;
    let found = bytes[..bytes.len().min(HEAD_LEN)]
        .windows(DATE.len())
        .position(|window| window.eq_ignore_ascii_case(DATE));
    match found {
        None => xxh3_64(bytes),
        Some(at) => {
            let rest = bytes.get(at + DATE.len() + DATE_LEN..).unwrap_or_default();
            xxh3_64(&bytes[..at]) ^ xxh3_64(rest).rotate_left(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_does_not_count_and_everything_else_does() {
        let answer = |date: &str, body: &str| {
            hash(format!("HTTP/1.1 200 OK\r\ndate: {date}\r\n\r\n{body}").as_bytes())
        };
        let (one, other) = (
            "Mon, 23 Nov 2026 01:37:18 GMT",
            "Tue, 24 Nov 2026 01:37:18 GMT",
        );
        assert_eq!(answer(one, "a"), answer(other, "a"));
        assert_ne!(answer(one, "a"), answer(one, "b"));
    }
}
