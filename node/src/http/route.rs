//! What a row of the route table says. Types and words only; the rows are in `routes`.
//!
//! What must hold: whoever needs to know something about a path (the router, the OpenAPI document,
//! later the check of tokens) reads it from the row; nothing is said twice.

use std::time::Duration;

use super::answer::Answer;
use super::call::Call;
use super::problem::{Problem, Slug};
use crate::net::BoxFuture;

/// How long a read waits for freshness unless asked otherwise.
pub(crate) const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest such wait.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a write waits for its outcome unless asked otherwise.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The longest such wait.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What a caller must be allowed to do. Carried and shown; without tokens everybody is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Anybody.
    Public,
    /// Read ground state and what is derived from it, rules included.
    Read,
    /// Evaluate flags of one environment; never see rules.
    Evaluate,
    /// Receive snapshots and streams of one environment.
    Stream,
    /// Change ground state; `scoped`: of the environment in the path alone.
    Write {
        /// Whether the environment in the path bounds what is changed.
        scoped: bool,
    },
    /// Everything.
    Admin,
}

impl Permission {
    /// The word in documents.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Read => "read",
            Self::Evaluate => "evaluate",
            Self::Stream => "stream",
            Self::Write { scoped: true } => "write-environment",
            Self::Write { scoped: false } => "write",
            Self::Admin => "admin",
        }
    }
}

/// The methods that rows have. HEAD and OPTIONS follow from them. Apart from `http::Method`
/// because rows are made at compile time, which must have nothing to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    /// The method as it stands in a request.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What runs a request.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Answer, Problem>>;

/// What a query parameter holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ParamKind {
    Text { max: usize },
    Version,
    Integer { min: u64, max: u64 },
    Duration { max: Duration },
    Word(&'static [&'static str]),
}

/// One query parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: ParamKind,
    pub(crate) about: &'static str,
}

/// Which headers of preconditions and repetition a request may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// None.
    Nothing,
    /// If-None-Match, answered by 304.
    Read,
    /// A write that must carry one of the preconditions.
    WriteRequired,
    /// A write that may carry one.
    WriteOptional,
    /// A write whose preconditions are in its body.
    WriteInBody,
}

impl Conditions {
    /// Whether the request changes ground state.
    pub(crate) fn is_write(self) -> bool {
        matches!(
            self,
            Self::WriteRequired | Self::WriteOptional | Self::WriteInBody
        )
    }
}

/// What a request body is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body {
    /// Its component schema.
    pub(crate) schema: &'static str,
    /// Its length at most, in bytes.
    pub(crate) max: usize,
}

/// What a successful answer is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gives {
    /// JSON of a component schema; `etag`: with an entity tag.
    Json { schema: &'static str, etag: bool },
    /// JSON of a ConfigSnapshot with an entity tag, and which cluster its version is of; `newest`: with
    /// the staleness bound.
    Snapshot { schema: &'static str, newest: bool },
    /// A stream of messages.
    Stream,
    /// A file of this media type.
    Bytes(&'static str),
    /// Text for people.
    Text,
    /// No body.
    Nothing,
}

/// One row.
pub(crate) struct Route {
    pub(crate) method: Verb,
    pub(crate) path: &'static str,
    pub(crate) permission: Permission,
    pub(crate) operation: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) body: Option<Body>,
    pub(crate) query: &'static [&'static [Param]],
    /// Whether `Pennon-Min-Version` is heard.
    pub(crate) min_version: bool,
    pub(crate) conditions: Conditions,
    pub(crate) gives: Gives,
    pub(crate) errors: &'static [Slug],
    pub(crate) handler: Handler,
}

impl Route {
    /// Whether the request changes anything: ground state, the membership, what is known of an
    /// evaluator.
    pub(crate) fn is_change(&self) -> bool {
        let receipt = matches!(self.gives, Gives::Nothing);
        let admin = self.permission == Permission::Admin && self.method != Verb::Get;
        self.conditions.is_write() || admin || receipt
    }

    /// The query parameters.
    pub(crate) fn params(&self) -> impl Iterator<Item = &'static Param> {
        self.query.iter().flat_map(|group| group.iter())
    }

    /// Splits `…/{flag}:enable` into the template without its action, and the action.
    pub(crate) fn action(&self) -> (&'static str, Option<&'static str>) {
        match self.path.rsplit_once("}:") {
            Some((stem, action)) => (&self.path[..=stem.len()], Some(action)),
            None => (self.path, None),
        }
    }
}

/// The names in a template, in order.
pub(crate) fn template_names(template: &str) -> impl Iterator<Item = &str> {
    template.split('/').filter_map(|part| {
        part.strip_prefix('{')?
            .split_once('}')
            .map(|(name, _)| name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_an_action() {
        let names: Vec<_> =
            template_names("/v1/environments/{environment}/flags/{flag}:enable").collect();
        assert_eq!(names, ["environment", "flag"]);
        assert_eq!(template_names("/livez").count(), 0);
    }
}
