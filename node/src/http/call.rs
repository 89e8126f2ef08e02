//! One request, read: what handlers ask instead of touching headers and queries themselves.
//!
//! What must hold: parameters that the route does not know are refused before a handler runs, so
//! that a misspelt one cannot be silently ignored; each value is refused with the name of the
//! parameter or header it stands in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AsHeaderName, IF_MATCH, IF_NONE_MATCH};
use pennon_evaluator::{EnvironmentKey, FlagKey, KeyError, SegmentKey, Version};
use pennon_raft_store::command::Expected;

use super::bare::Switch;
use super::parse::{self, Tags};
use super::problem::Problem;
use super::route::{ParamKind, Route, template_names};
use super::{App, route};
use crate::core::Core;

/// Objects in one page of a list unless asked otherwise, and at most.
pub(crate) const LIMIT_DEFAULT: usize = 1_000;
/// Objects in one page of a list at most.
pub(crate) const LIMIT_MAX: usize = 10_000;

/// One request.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) route: &'static Route,
    core: Option<Arc<Core>>,
    /// Decoded, in the order of the template.
    path: Vec<String>,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How to make the connection a stream, if that was asked for.
    pub(super) switch: Option<Switch>,
    started: Duration,
}

impl Call {
    /// Reads path and query of a request that fits `route`. `segments` are what stands in place of
    /// the template's names, still encoded.
    pub(crate) fn read(
        app: Arc<App>,
        route: &'static Route,
        segments: &[&str],
        query: &str,
        headers: HeaderMap,
    ) -> Result<Self, Problem> {
        let mut path = Vec::with_capacity(segments.len());
        for (name, segment) in template_names(route.path).zip(segments) {
            path.push(
                parse::percent_decoded(segment).map_err(|why| Problem::parameter(name, why))?,
            );
        }
        let mut known = BTreeMap::new();
        for (name, value) in
            parse::query_pairs(query).map_err(|why| Problem::parameter("query", why))?
        {
            let param = route.params().find(|param| param.name == name);
            let param = param.ok_or_else(|| unknown_parameter(route, &name))?;
            check(param.kind, &value).map_err(|why| Problem::parameter(&name, why))?;
            if known.insert(name.clone(), value).is_some() {
                return Err(Problem::parameter(&name, "is given twice; give it once"));
            }
        }
        let core = app.core();
        let started = core.as_ref().map_or(Duration::ZERO, |core| core.now());
        Ok(Self {
            app,
            route,
            core,
            path,
            query: known,
            headers,
            body: Bytes::new(),
            switch: None,
            started,
        })
    }

    /// The node's services; a node that does not belong to a cluster yet has none.
    pub(crate) fn core(&self) -> Result<&Arc<Core>, Problem> {
        self.core
            .as_ref()
            .ok_or_else(|| Problem::not_formed(&self.app.waits_for()))
    }

    /// When the request began, on the node's monotonic clock.
    pub(crate) fn started(&self) -> Duration {
        self.started
    }

    /// What stands in the path under a name of the template.
    pub(crate) fn segment(&self, name: &str) -> Option<&str> {
        let at = template_names(self.route.path).position(|have| have == name)?;
        self.path.get(at).map(String::as_str)
    }

    /// The decoded parts of the path that stand for names.
    pub(crate) fn path_values(&self) -> impl Iterator<Item = &str> {
        self.path.iter().map(String::as_str)
    }

    /// The environment in the path.
    pub(crate) fn environment(&self) -> Result<EnvironmentKey, Problem> {
        self.key("environment")
    }

    /// The flag in the path.
    pub(crate) fn flag(&self) -> Result<FlagKey, Problem> {
        self.key("flag")
    }

    /// The segment in the path.
    pub(crate) fn segment_key(&self) -> Result<SegmentKey, Problem> {
        self.key("segment")
    }

    fn key<'a, K: TryFrom<&'a str, Error = KeyError>>(&'a self, name: &str) -> Result<K, Problem> {
        let text = self.segment(name).unwrap_or_default();
        K::try_from(text).map_err(|why| Problem::parameter(name, why.to_string()))
    }

    /// A parameter of the query.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// A duration in the query.
    pub(crate) fn duration(
        &self,
        name: &str,
        default: Duration,
        max: Duration,
    ) -> Result<Duration, Problem> {
        let Some(text) = self.param(name) else {
            return Ok(default);
        };
        parse::duration(text, max).map_err(|why| Problem::parameter(name, why))
    }

    /// A version in the query.
    pub(crate) fn version(&self, name: &str) -> Result<Option<Version>, Problem> {
        let read = |text: &str| version(text).map_err(|why| Problem::parameter(name, why));
        self.param(name).map(read).transpose()
    }

    /// How many items a page has.
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.param("limit") else {
            return Ok(LIMIT_DEFAULT);
        };
        whole_number(text, 1, LIMIT_MAX as u64)
            .map(|limit| limit as usize)
            .map_err(|why| Problem::parameter("limit", why))
    }

    /// How long the request may wait for freshness.
    pub(crate) fn wait(&self) -> Result<Duration, Problem> {
        self.duration("wait", route::WAIT_DEFAULT, route::WAIT_MAX)
    }

    /// The version the answer must have reached, from the query or the header; the greater one.
    pub(crate) fn min_version(&self) -> Result<Version, Problem> {
        let query = self.version("min_version")?;
        Ok(query
            .max(self.version_header("Pennon-Min-Version")?)
            .unwrap_or(Version::ZERO))
    }

    /// A version in a header.
    pub(crate) fn version_header(&self, name: &str) -> Result<Option<Version>, Problem> {
        let read = |text: &str| version(text).map_err(|why| Problem::in_header(name, why));
        self.header(name)?.map(read).transpose()
    }

    /// A header that must be text and come once.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.header_values(name)?.as_slice() {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(Problem::in_header(
                name,
                "is given more than once; give it once",
            )),
        }
    }

    fn header_values(
        &self,
        name: impl AsHeaderName + Copy + std::fmt::Display,
    ) -> Result<Vec<&str>, Problem> {
        let values = self.headers.get_all(name).iter();
        let read = values.map(|value| std::str::from_utf8(value.as_bytes()).map(str::trim));
        read.collect::<Result<_, _>>()
            .map_err(|_| Problem::in_header(&name.to_string(), "is not UTF-8 text"))
    }

    /// The precondition of a write; `None` when there is none.
    pub(crate) fn expected(&self) -> Result<Option<Expected>, Problem> {
        let (if_match, if_none) = (
            self.header_values(IF_MATCH.as_str())?,
            self.header_values(IF_NONE_MATCH.as_str())?,
        );
        let header = if if_match.is_empty() {
            "If-None-Match"
        } else {
            "If-Match"
        };
        parse::expected(&if_match, &if_none).map_err(|why| Problem::in_header(header, why))
    }

    /// What the caller of a read has already.
    pub(crate) fn tags(&self) -> Result<Tags, Problem> {
        Ok(parse::tags(&self.header_values(IF_NONE_MATCH.as_str())?))
    }
}

/// Says what is wrong with a value of a parameter; what a text must be beyond its length is the
/// handler's to say.
fn check(kind: ParamKind, text: &str) -> Result<(), String> {
    match kind {
        ParamKind::Word(words) if words.contains(&text) => Ok(()),
        ParamKind::Word(words) => Err(format!("{text:?} is not one of {}", words.join(", "))),
        ParamKind::Text { .. } if text.is_empty() => Err("is empty; leave it out".to_owned()),
        ParamKind::Text { max } if text.len() > max => {
            Err(format!("is longer than the {max} bytes allowed"))
        }
        ParamKind::Text { .. } => Ok(()),
        ParamKind::Version => version(text).map(drop),
        ParamKind::Integer { min, max } => whole_number(text, min, max).map(drop),
        ParamKind::Duration { max } => parse::duration(text, max).map(drop),
    }
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|why| format!("{text:?}: {why}"))
}

fn whole_number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok();
    let number = number.filter(|number| digits && (min..=max).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a whole number from {min} to {max}"))
}

fn unknown_parameter(route: &Route, name: &str) -> Problem {
    let known: Vec<_> = route.params().map(|param| param.name).collect();
    let known = match known.is_empty() {
        true => "this path takes none".to_owned(),
        false => format!("known are {}", known.join(", ")),
    };
    Problem::parameter(name, format!("there is no such query parameter; {known}"))
}
