//! The one error of this crate: a sentence for the person who reads a failed run; and waiting for
//! a condition, which is where most of those sentences come from.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Why the harness could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

/// What most of this crate returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with one sentence.
    pub fn new(why: impl Display) -> Failure {
        Failure(why.to_string())
    }

    /// Says before what happened what it was that failed.
    pub fn during(what: impl Display, why: impl Display) -> Failure {
        Failure(format!("{what}: {why}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(why: std::io::Error) -> Failure {
        Failure::new(why)
    }
}

/// Waits until a condition gives something, looking again every 20 ms, at most `within`.
///
/// # Errors
/// With what was waited for and what the last look said, when time is up.
pub async fn until<T, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + within;
    loop {
        let last = match look().await {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "{what} did not come within {within:?}: {last}"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}
