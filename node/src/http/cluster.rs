//! The cluster as this node sees it: who is in it and how they are. Asked of every member at the
//! time of the request; a member that does not answer has `null` where it would say something.

use std::time::Duration;

use pennon_evaluator::{Digest, Version};
use serde_json::{Value, json};

use pennon_raft_store::raft::{MemberChange, MemberStatus};

use super::answer::{Answer, Decided};
use super::call::Call;
use super::problem::{Problem, Slug};
use super::route::{TIMEOUT_DEFAULT, TIMEOUT_MAX};
use crate::core::Core;
use crate::membership::MembershipError;
use crate::overview::MemberView;

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
        "feature_level": cluster.level,
        "failure_tolerance": cluster.failure_tolerance,
        "verdict": cluster.verdict,
        "changing": cluster.is_changing,
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

/// Gives a learner a vote.
pub(crate) async fn promote(call: Call) -> Result<Answer, Problem> {
    change(&call, MemberChange::Promote).await
}

/// Takes the vote of a member; it stays as a learner.
pub(crate) async fn demote(call: Call) -> Result<Answer, Problem> {
    change(&call, MemberChange::Demote).await
}

/// Takes a member out of the cluster.
pub(crate) async fn remove(call: Call) -> Result<Answer, Problem> {
    change(&call, MemberChange::Remove).await
}

/// Has another voter lead.
pub(crate) async fn transfer_leader(call: Call) -> Result<Answer, Problem> {
    let within = call.duration("timeout", TIMEOUT_DEFAULT, TIMEOUT_MAX)?;
    let core = call.core()?;
    let to = call.param("to").map(|to| member_of(core, to)).transpose()?;
    let leader = core.transfer_leader(to, within).await;
    let leader = leader.map_err(|why| refused(&why))?;
    let body = json!({ "id": leader.id, "name": leader.member.name, "role": "leader" });
    let decided = Decided {
        version: core.view().version(),
        fresh_at: core.fresh_at(),
    };
    Ok(Answer::json(decided, body.to_string()))
}

async fn change(call: &Call, change: MemberChange) -> Result<Answer, Problem> {
    let within = call.duration("timeout", TIMEOUT_DEFAULT, TIMEOUT_MAX)?;
    let core = call.core()?;
    let member = member_of(core, call.segment("member").unwrap_or_default())?;
    let changed = core.change_member(member.id, change.clone(), within).await;
    changed.map_err(|why| refused(&why))?;
    let role = match change {
        MemberChange::Promote | MemberChange::Lead => "voter",
        MemberChange::Demote | MemberChange::AddLearner(_) => "learner",
        MemberChange::Remove => "removed",
    };
    let body = json!({ "id": member.id, "name": member.member.name, "role": role });
    let decided = Decided {
        version: core.view().version(),
        fresh_at: core.fresh_at(),
    };
    Ok(Answer::json(decided, body.to_string()))
}

/// The member of a name or id.
fn member_of(core: &Core, text: &str) -> Result<MemberStatus, Problem> {
    let members = core.status().members;
    let by_name = members.iter().find(|member| member.member.name == text);
    let id = text.parse().ok();
    let by_id = members.iter().find(|member| Some(member.id) == id);
    by_name.or(by_id).cloned().ok_or_else(|| {
        let names = members.iter().map(|one| one.member.name.as_str());
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        let detail = format!(
            "no member is called {text:?}; there are {}",
            names.join(", ")
        );
        Problem::new(Slug::NotFound, detail)
    })
}

fn refused(why: &MembershipError) -> Problem {
    let slug = match why {
        MembershipError::Refused(_) => Slug::MembershipRefused,
        MembershipError::NoLeader => Slug::NoQuorum,
        MembershipError::Unknown(_) => Slug::OutcomeUnknown,
    };
    Problem::new(slug, why.to_string())
}

fn shown(member: &MemberView, newest: Version) -> Value {
    let said = member.said.as_ref();
    json!({
        "id": member.id,
        "name": member.name,
        "api": member.api,
        "peer": member.peer,
        "role": member.role.as_str(),
        "voter": member.vote.is_held(),
        "changing": member.vote.is_changing(),
        "answers": said.is_some(),
        "applied": said.map(|said| said.version),
        "lag": said.map(|said| newest.get().saturating_sub(said.version.get())),
        "staleness_ms": said.and_then(|said| said.staleness_ms),
        "digest": said.map(|said| Digest::new(said.digest)),
        "streams": said.map(|said| said.streams),
        "release": said.map(|said| said.release.clone()),
        "feature_level": said.map(|said| said.feature_level),
    })
}
