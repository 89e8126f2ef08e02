//! Answers: what a handler gives back, and what every answer carries.
//!
//! What must hold: every answer, errors included, says which version it was decided at, how old
//! the proof behind it is at most, and which node gave it (I2, I5). A node that has no proof says
//! that its answer may be arbitrarily old, with the greatest number that JSON carries exactly.

use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use pennon_evaluator::Version;
use pennon_evaluator::wire::{HEADER_NODE, HEADER_STALENESS_MS, HEADER_VERSION};

use super::App;

/// `Pennon-Staleness-Ms` of a node that cannot bound its lag: 2^53 - 1.
pub(crate) const STALENESS_UNKNOWN_MS: u64 = Version::MAX.get();

/// What an answer was decided against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    /// The version.
    pub(crate) version: Version,
    /// A moment of the node's monotonic clock before which everything committed is included.
    pub(crate) fresh_at: Option<Duration>,
}

/// An answer that is still to be stamped.
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    decided: Option<Decided>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: Body) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            body,
            decided: None,
        }
    }

    pub(crate) fn text(status: StatusCode, content_type: &'static str, text: String) -> Self {
        Self::new(status, content_type, Body::from(text))
    }

    /// 200 with JSON text.
    pub(crate) fn json(decided: Decided, text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "application/json", Body::from(text.into())).decided(decided)
    }

    /// A status alone.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Body::empty(),
            decided: None,
        }
    }

    pub(crate) fn decided(mut self, decided: Decided) -> Self {
        self.decided = Some(decided);
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// A header of our own.
    pub(crate) fn named(self, name: &str, value: impl Display) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes());
        match name.ok().zip(HeaderValue::try_from(value.to_string()).ok()) {
            Some((name, value)) => self.header(name, value),
            None => self,
        }
    }

    /// The entity tag of a version.
    pub(crate) fn etag(self, version: Version) -> Self {
        self.named(ETAG.as_str(), format_args!("\"{version}\""))
    }

    /// Stamps the answer. What was not decided at a version of its own was decided at the node's
    /// newest one.
    pub(crate) fn into_response(self, app: &App) -> Response {
        let core = app.core();
        // The proof before the view, so that it covers it. (I5)
        let fresh_at = core.as_ref().and_then(|core| core.fresh_at());
        let now = || Decided {
            version: core
                .as_ref()
                .map_or(Version::ZERO, |core| core.view().version()),
            fresh_at,
        };
        let decided = self.decided.unwrap_or_else(now);
        let age = decided
            .fresh_at
            .zip(core.as_ref())
            .map(|(at, core)| core.now().saturating_sub(at));
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers.insert(
            HeaderName::from_static(VERSION),
            HeaderValue::from(decided.version.get()),
        ); // I2
        headers.insert(
            HeaderName::from_static(STALENESS),
            HeaderValue::from(millis_up(age)),
        ); // I5
        if let Ok(name) = HeaderValue::from_str(app.name()) {
            headers.insert(HeaderName::from_static(NODE), name);
        }
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache"));
        response
    }
}

const VERSION: &str = "pennon-version";
const STALENESS: &str = "pennon-staleness-ms";
const NODE: &str = "pennon-node";

/// Milliseconds, rounded up so that a bound stays a bound.
pub(crate) fn millis_up(age: Option<Duration>) -> u64 {
    let Some(age) = age else {
        return STALENESS_UNKNOWN_MS;
    };
    let ms = age.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms)
        .unwrap_or(STALENESS_UNKNOWN_MS)
        .min(STALENESS_UNKNOWN_MS) // I5
}

/// The names of the three headers, as documents show them.
pub(crate) const STAMPS: [(&str, &str); 3] = [
    (
        HEADER_VERSION,
        "The version this answer was decided at; 0 before the node belongs to a cluster.",
    ),
    (
        HEADER_STALENESS_MS,
        "How far this answer may lag behind the cluster at most, in milliseconds, rounded up; 9007199254740991 when \
         the node has no proof yet.",
    ),
    (HEADER_NODE, "The name of the node that answered."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_those_of_the_wire() {
        let lower: Vec<_> = STAMPS
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        assert_eq!(lower, [VERSION, STALENESS, NODE]);
    }

    #[test]
    fn ages_are_rounded_up() {
        assert_eq!(millis_up(Some(Duration::from_nanos(1))), 1);
        assert_eq!(millis_up(Some(Duration::from_millis(7))), 7);
        assert_eq!(millis_up(Some(Duration::MAX)), STALENESS_UNKNOWN_MS);
        assert_eq!(millis_up(None), STALENESS_UNKNOWN_MS);
    }
}
