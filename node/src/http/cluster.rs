//! The cluster as this node sees it: who is in it and how they are. Asked of every member at the
//! time of the request; a member that does not answer has `null` where it would say something.

use std::time::Duration;

use pennon_evaluator::{Digest, Version};
use serde_json::{Value, json};

use super::answer::{Answer, Decided};
use super::call::Call;
use super::problem::Problem;
use crate::core::MemberView;

/// Longest wait for a member's answer.
const MEMBERS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Who is in the cluster.
pub(crate) async fn get(call: Call) -> Result<Answer, Problem> {
    let core = call.core()?;
    let fresh_at = core.fresh_at();
    let cluster = core.cluster_view(MEMBERS_WAIT_MAX).await;
    let said = cluster
        .members
        .iter()
        .filter_map(|member| member.said.as_ref());
    let newest = said
        .map(|said| said.version)
        .max()
        .unwrap_or(cluster.version);
    let members: Vec<Value> = cluster
        .members
        .iter()
        .map(|member| shown(member, newest))
        .collect();
    let body = json!({
        "cluster_id": cluster.cluster.to_string(),
        "leader": cluster.leader,
        "term": cluster.term,
        "version": cluster.version,
        "failure_tolerance": cluster.failure_tolerance,
        "verdict": cluster.verdict,
        "members": members,
    });
    Ok(Answer::json(
        Decided {
            version: cluster.version,
            fresh_at,
        },
        body.to_string(),
    ))
}

fn shown(member: &MemberView, newest: Version) -> Value {
    let said = member.said.as_ref();
    json!({
        "id": member.id,
        "name": member.name,
        "api": member.api,
        "peer": member.peer,
        "role": member.role.as_str(),
        "voter": member.voter,
        "answers": said.is_some(),
        "applied": said.map(|said| said.version),
        "lag": said.map(|said| newest.get().saturating_sub(said.version.get())),
        "staleness_ms": said.and_then(|said| said.staleness_ms),
        "digest": said.map(|said| Digest::new(said.digest)),
        "streams": said.map(|said| said.streams),
        "release": said.map(|said| said.release.clone()),
    })
}
