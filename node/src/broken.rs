//! Promises that a node of a debug build breaks when it is told to, so that runs under faults can show
//! that their checkers see it.
//!
//! What must hold: a release build has none of it. There `Broken::is` is false at compile time, and
//! `pennon serve` does not start where something is asked for.
//!
//! Left out: fsync, which whoever simulates a disk leaves out there; what a client breaks.

use std::fmt;

/// The environment variable that names what `pennon serve` breaks.
pub(crate) const VARIABLE: &str = "PENNON_BREAK";

/// What a node breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Linearizable reads are answered from what this node has (I1).
    LocalReads,
    /// A retry has a second effect (I9).
    RequestWindow,
}

impl Broken {
    /// All of it.
    pub const ALL: [Broken; 2] = [Broken::LocalReads, Broken::RequestWindow];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Broken::LocalReads => "local-reads",
            Broken::RequestWindow => "request-window",
        }
    }

    /// Whether this is what was asked for; never in a release build.
    pub(crate) fn is(self, asked: Option<Broken>) -> bool {
        cfg!(debug_assertions) && asked == Some(self)
    }

    /// Reads what is asked for. `debug` says whether this build can break anything.
    pub(crate) fn read(asked: Option<&str>, debug: bool) -> Result<Option<Broken>, String> {
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
            return Ok(None);
        };
        if !debug {
            return Err(format!(
                "{VARIABLE} is set to {asked:?}, which asks for a node that breaks a promise on purpose; only debug builds do that"
            ));
        }
        let named = Broken::ALL.into_iter().find(|one| one.as_str() == asked);
        let known = Broken::ALL.map(Broken::as_str).join(", ");
        named
            .map(Some)
            .ok_or_else(|| format!("{VARIABLE} is set to {asked:?}; a node can break {known}"))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_build_refuses_whatever_is_asked_for() {
        for asked in ["local-reads", "request-window", "anything"] {
            let why = Broken::read(Some(asked), false).unwrap_err();
            assert!(why.contains(VARIABLE) && why.contains(asked), "{why}");
            assert!(why.contains("only debug builds"), "{why}");
        }
        assert_eq!(Broken::read(None, false), Ok(None));
        assert_eq!(Broken::read(Some(""), false), Ok(None));
    }

    #[test]
    fn a_debug_build_breaks_what_it_knows() {
        for broken in Broken::ALL {
            let read = Broken::read(Some(broken.as_str()), true);
            assert_eq!(read, Ok(Some(broken)));
        }
        let why = Broken::read(Some("coffee"), true).unwrap_err();
        assert!(why.contains("local-reads, request-window"), "{why}");
        assert_eq!(
            Broken::LocalReads.is(Some(Broken::LocalReads)),
            cfg!(debug_assertions)
        );
        assert!(!Broken::LocalReads.is(Some(Broken::RequestWindow)));
        assert!(!Broken::LocalReads.is(None));
    }
}
