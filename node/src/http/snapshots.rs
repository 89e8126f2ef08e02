//! ConfigSnapshots over plain HTTP: for clients that poll, and for caches in front of a node.
//!
//! What must hold: what a caller already has is never answered with something older (I6): the node
//! waits for that version, or refuses so that the caller asks another node. A snapshot under its
//! version never changes, so caches may keep it for ever.

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use pennon_evaluator::{ConfigSnapshot, Version};
use pennon_raft_store::machine::Since;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::parse::Tags;
use super::problem::{Problem, Slug};
use super::read::{self, Consistency, EnvironmentRead};

/// The newest snapshot; with `?since=V` what takes the caller from there to it.
pub(crate) async fn newest(call: Call) -> Result<Answer, Problem> {
    let (since, tags) = (call.version("since")?, call.tags()?);
    let have = match &tags {
        Tags::Of(versions) => since.max(versions.iter().max().copied()),
        Tags::Any => since,
    };
    let read = read::environment(&call, Consistency::Bounded, have).await?; // I6
    let (decided, version) = (read.decided, read.decided.version);
    if unchanged(&read, &tags) {
        return Ok(Answer::empty(StatusCode::NOT_MODIFIED)
            .decided(decided)
            .etag(version));
    }
    let text = call
        .core()?
        .compute(move || body(&read, since))
        .await
        .flatten();
    Ok(Answer::json(decided, text.map_err(|why| Problem::internal(&why))?).etag(version))
}

/// Whether nothing has changed in the environment since a version that the caller has.
fn unchanged(read: &EnvironmentRead, tags: &Tags) -> bool {
    match tags {
        Tags::Any => true,
        Tags::Of(versions) => versions
            .iter()
            .any(|have| matches!(read.view.since(&read.key, *have), Since::Nothing)),
    }
}

fn body(read: &EnvironmentRead, since: Option<Version>) -> Result<String, String> {
    let whole = || {
        let whole: Option<ConfigSnapshot> = read.view.config_snapshot(&read.key);
        let whole = whole.ok_or("the environment has no snapshot")?;
        whole.to_json().map_err(|why| why.to_string())
    };
    let Some(since) = since else {
        return Ok(whole()?.to_string());
    };
    let with_intent = |intent: &str, rest: Value| {
        let mut body =
            json!({ "intent": intent, "environment": read.key, "version": read.view.version() });
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        body.to_string()
    };
    Ok(match read.view.since(&read.key, since) {
        Since::Nothing => {
            let digest = read
                .view
                .compiled(&read.key)
                .map(|compiled| compiled.digest())
                .unwrap_or_default();
            with_intent("none", json!({ "digest": digest }))
        }
        Since::Changes(delta) => {
            with_intent("changes", delta.to_json().map_err(|why| why.to_string())?)
        }
        Since::Full | Since::Ahead => with_intent("full", whole()?),
    })
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
    let oldest = read
        .view
        .compiled(&read.key)
        .map_or(read.decided.version, |compiled| compiled.changed_at());
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
    if call.tags()?.include(wanted) {
        return Ok(immutable(
            Answer::empty(StatusCode::NOT_MODIFIED).decided(decided),
            wanted,
        ));
    }
    let render = move || {
        let states = read
            .view
            .config_snapshot(&read.key)
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
    Ok(immutable(Answer::json(decided, text), wanted))
}

fn immutable(answer: Answer, version: Version) -> Answer {
    let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
    answer.header(CACHE_CONTROL, keep).etag(version)
}
