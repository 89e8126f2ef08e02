//! ConfigSnapshots over plain HTTP: for clients that poll, and for caches in front of a node.
//!
//! What must hold: what a caller already has is never answered with something older (I6): the node
//! waits for that version, or refuses so that the caller asks another node. A snapshot under its
//! version never changes, so caches may keep it for ever. Every answer names its cluster, because a
//! version alone means nothing beside another cluster's; and who polls is known to receipts, because
//! it may act on what it got for as long as a stream's client (I5).

use std::collections::BTreeSet;

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use pennon_evaluator::wire::{HEADER_CLUSTER, HEADER_STALENESS_BOUND_MS};
use pennon_evaluator::{ConfigSnapshot, StateKey, Version};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::Since;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::parse::Tags;
use super::problem::{Problem, Slug};
use super::read::{self, Consistency, EnvironmentRead};
use super::stream;

/// The newest snapshot; with `?since=V` what takes the caller from there to it.
pub(crate) async fn newest(call: Call) -> Result<Answer, Problem> {
    stream::check_client(&call)?;
    let core = call.core()?;
    let (since, tags) = match (call.version("since")?, call.tags()?) {
        _ if stream::is_foreign(&call, core) => (None, Tags::Of(Vec::new())),
        have => have,
    };
    let have = match &tags {
        Tags::Of(versions) => since.max(versions.iter().max().copied()),
        Tags::Any => since,
    };
    let (receipts, client) = (core.hub().receipts(), call.param("client"));
    let mut read = read::environment(&call, Consistency::Bounded, have).await?; // I6
    loop {
        let bound = read.environment.staleness_bound();
        let least = receipts.polled(&read.key, client, since, bound, core.now()); // I5
        if read.decided.version >= least {
            break;
        }
        // What was read has been said of meanwhile.
        read = read::environment(&call, Consistency::Bounded, have.max(Some(least))).await?;
    }
    let (decided, version) = (read.decided, read.decided.version);
    let part = Part::of(&call, &read).await?;
    let bound = read.environment.staleness_bound().as_millis();
    let finished = |answer: Answer| {
        let answer = answer.etag(version).named(HEADER_CLUSTER, core.cluster());
        answer.named(HEADER_STALENESS_BOUND_MS, bound)
    };
    if part.unchanged(&read, &tags) {
        return Ok(finished(
            Answer::empty(StatusCode::NOT_MODIFIED).decided(decided),
        ));
    }
    let text = core.compute(move || part.body(&read, since)).await;
    let text = text.flatten().map_err(|why| Problem::internal(&why))?;
    Ok(finished(Answer::json(decided, text)))
}

/// What is asked for of an environment.
enum Part {
    Whole,
    /// What an application needs, and the version of the application itself.
    Application(BTreeSet<StateKey>, Version),
}

impl Part {
    /// Reads `?app=`.
    async fn of(call: &Call, read: &EnvironmentRead) -> Result<Self, Problem> {
        let Some(application) = call.param("app") else {
            return Ok(Self::Whole);
        };
        read::application(call.core()?, application, call.wait()?).await?;
        let object = ObjectId::application(application);
        let found = read.view.object(&object).map(|object| object.version);
        let members = read.view.members(&read.key, application);
        match found.zip(members) {
            Some((version, members)) => Ok(Self::Application(members, version)),
            None => Err(Problem::missing(&object).decided(read.decided)),
        }
    }

    /// The version at which something of it may have changed last.
    fn changed_at(&self, read: &EnvironmentRead) -> Version {
        let compiled = read.view.compiled(&read.key);
        let here = compiled.map_or(read.decided.version, |compiled| compiled.changed_at());
        match self {
            Self::Whole => here,
            Self::Application(_, version) => here.max(*version),
        }
    }

    /// Whether nothing has changed since a version that the caller has.
    fn unchanged(&self, read: &EnvironmentRead, tags: &Tags) -> bool {
        match tags {
            Tags::Any => true,
            Tags::Of(versions) => versions.iter().any(|have| *have >= self.changed_at(read)),
        }
    }

    fn snapshot(&self, read: &EnvironmentRead) -> Option<ConfigSnapshot> {
        match self {
            Self::Whole => read.view.config_snapshot(&read.key),
            Self::Application(keys, _) => read.view.snapshot_of(&read.key, keys),
        }
    }

    /// How the caller stands to it. What an application had earlier is not known here: it is given
    /// as a whole when something changed.
    fn since(&self, read: &EnvironmentRead, have: Version) -> Since {
        match self {
            Self::Whole => read.view.since(&read.key, have),
            _ if have > read.view.version() => Since::Ahead,
            _ if have >= self.changed_at(read) => Since::Nothing,
            _ => Since::Full,
        }
    }

    fn body(&self, read: &EnvironmentRead, since: Option<Version>) -> Result<String, String> {
        let whole = || {
            let whole = self.snapshot(read);
            let whole = whole.ok_or("the environment has no snapshot")?;
            whole.to_json().map_err(|why| why.to_string())
        };
        let Some(since) = since else {
            return Ok(whole()?.to_string());
        };
        let with_intent = |intent: &str, rest: Value| {
            let mut body = json!({ "intent": intent, "environment": read.key, "version": read.view.version() });
            if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
                body.extend(rest);
            }
            body.to_string()
        };
        Ok(match self.since(read, since) {
            Since::Nothing => {
                let digest = self.snapshot(read).map(|whole| whole.digest());
                let digest = digest.unwrap_or_default();
                with_intent("none", json!({ "digest": digest }))
            }
            Since::Changes(delta) => {
                with_intent("changes", delta.to_json().map_err(|why| why.to_string())?)
            }
            Since::Full | Since::Ahead => with_intent("full", whole()?),
        })
    }
}

/// The snapshot at one version, as long as this node can give it: from the environment's last
/// change on.
pub(crate) async fn at(call: Call) -> Result<Answer, Problem> {
    let text = call.segment("version").unwrap_or_default();
    let wanted: Version = text
        .parse()
        .map_err(|why| Problem::parameter("version", format!("{text:?}: {why}")))?;
    // Only the version counts here, not how new it is.
    let read = read::environment(&call, Consistency::Stale, Some(wanted)).await?;
    let part = Part::of(&call, &read).await?;
    let oldest = part.changed_at(&read);
    if wanted < oldest {
        let newest = read.decided.version;
        let detail = format!(
            "this node can give this environment at the versions {oldest} to {newest}, not at {wanted}; take the newest \
             (…/snapshot), or what changed since then (…/snapshot?since={wanted})"
        );
        let available = json!({ "from": oldest, "to": newest });
        return Err(Problem::new(Slug::NotFound, detail)
            .with("available", available)
            .decided(read.decided));
    }
    let decided = super::answer::Decided {
        version: wanted,
        ..read.decided
    };
    let cluster = call.core()?.cluster();
    let finished = |answer: Answer| immutable(answer.named(HEADER_CLUSTER, cluster), wanted);
    if call.tags()?.include(wanted) {
        return Ok(finished(
            Answer::empty(StatusCode::NOT_MODIFIED).decided(decided),
        ));
    }
    let render = move || {
        let states = part
            .snapshot(&read)
            .map(|whole| whole.states().to_vec())
            .unwrap_or_default();
        // Nothing has changed here since `wanted`, so these are its states.
        let at =
            ConfigSnapshot::new(read.key.clone(), wanted, states).map_err(|why| why.to_string())?;
        Ok::<_, String>(at.to_json().map_err(|why| why.to_string())?.to_string())
    };
    let text = call
        .core()?
        .compute(render)
        .await
        .flatten()
        .map_err(|why| Problem::internal(&why))?;
    Ok(finished(Answer::json(decided, text)))
}

fn immutable(answer: Answer, version: Version) -> Answer {
    let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
    answer.header(CACHE_CONTROL, keep).etag(version)
}
