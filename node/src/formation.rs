//! How nodes that were given the same command line become one cluster.
//!
//! Every node asks every address of `--join` who is there. When as many as expected are there,
//! all of them empty and all expecting the same number, the one with the smallest node id forms
//! the cluster: it stores the new cluster id, has every other node store it durably and start its
//! Raft, and only then gives the membership to its own Raft. A node stores at most one cluster id
//! in its life, so two clusters can never be formed out of one set of directories. Interrupted
//! anywhere, the same node goes on with the same cluster id.
//!
//! [`decide`] is pure; the server does what it says.

use std::collections::BTreeMap;

use pennon_raft_store::command::ClusterId;
use pennon_raft_store::raft::Member;
use serde::{Deserialize, Serialize};

/// What a node says of itself before there is a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its node id.
    pub node: u64,
    /// Name and addresses.
    pub member: Member,
    /// The cluster id stored in its directory.
    pub cluster: Option<ClusterId>,
    /// Whether its Raft holds a membership.
    pub formed: bool,
    /// How many nodes it waits for.
    pub expect: u32,
    /// Whether it wants no vote: it forms no cluster and joins one that is there.
    pub learner: bool,
    /// The highest feature level that its release knows.
    pub feature_level: u32,
    /// The feature level of its cluster, as far as it has applied it.
    pub cluster_level: Option<u32>,
}

/// Asks a node to belong to a cluster that is being formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who will be in it.
    pub members: BTreeMap<u64, Member>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet; the sentence says what is missing and what to do about it.
    Wait(String),
    /// Form the cluster with these members, as this cluster if one was begun.
    Form {
        /// The cluster id stored by an interrupted attempt of this node.
        cluster: Option<ClusterId>,
        /// Everybody.
        members: BTreeMap<u64, Member>,
    },
}

/// Decides from what this node is and what the others said. `silent` are addresses that gave no
/// answer.
pub fn decide(me: &Hello, others: &[Hello], silent: &[String]) -> Decision {
    let mut everybody: BTreeMap<u64, &Hello> = others
        .iter()
        .filter(|hello| !hello.learner)
        .map(|hello| (hello.node, hello))
        .collect();
    everybody.insert(me.node, me);
    if let Some(wait) = obstacle(me, &everybody) {
        return Decision::Wait(wait);
    }
    let expect = me.expect as usize;
    if everybody.len() < expect {
        let silent = if silent.is_empty() {
            String::new()
        } else {
            format!("; no answer from {}", silent.join(", "))
        };
        return Decision::Wait(format!(
            "{} of {expect} nodes are here{silent}",
            everybody.len()
        ));
    }
    if everybody.len() > expect {
        let names: Vec<_> = everybody
            .values()
            .map(|hello| hello.member.name.as_str())
            .collect();
        return Decision::Wait(format!(
            "{} nodes answer ({}) but --expect is {expect}: start every node with the same --join and --expect",
            everybody.len(),
            names.join(", ")
        ));
    }
    match everybody.first_key_value() {
        Some((&first, _)) if first == me.node => {
            let members = everybody
                .iter()
                .map(|(&id, hello)| (id, hello.member.clone()))
                .collect();
            Decision::Form {
                cluster: me.cluster,
                members,
            }
        }
        Some((_, first)) => Decision::Wait(format!("{} forms the cluster", first.member.name)),
        None => Decision::Wait("nobody is here".into()),
    }
}

/// What stands in the way, whoever is missing.
fn obstacle(me: &Hello, everybody: &BTreeMap<u64, &Hello>) -> Option<String> {
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    for (&id, hello) in everybody {
        let name = hello.member.name.as_str();
        if names.insert(name, id).is_some() {
            return Some(format!(
                "two nodes are named {name}: give every node its own --name"
            ));
        }
        if hello.formed && id != me.node && hello.cluster == me.cluster {
            return Some(format!(
                "{name} is in the cluster; waiting for its leader to take this node in"
            ));
        }
        if hello.formed && id != me.node {
            let cluster = hello
                .cluster
                .map_or_else(String::new, |cluster| cluster.to_string());
            return Some(format!(
                "{name} already belongs to cluster {cluster}: if this node is a new one, have it added there; \
                 if its data directory was lost, that is the same"
            ));
        }
        if hello.expect != me.expect {
            return Some(format!(
                "{name} was started with --expect {}, this node with --expect {}: use the same everywhere",
                hello.expect, me.expect
            ));
        }
    }
    let first = everybody.first_key_value().map(|(&id, _)| id);
    let promised = everybody
        .iter()
        .find(|&(&id, hello)| hello.cluster.is_some() && Some(id) != first);
    let first_cluster = everybody
        .first_key_value()
        .and_then(|(_, hello)| hello.cluster);
    promised.filter(|(_, hello)| hello.cluster != first_cluster).map(|(_, hello)| {
        let cluster = hello.cluster.map_or_else(String::new, |cluster| cluster.to_string());
        format!(
            "{} was promised to cluster {cluster}, which was never formed: stop it and remove its data directory \
             (it holds nothing)",
            hello.member.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u64) -> Hello {
        let member = Member {
            name: format!("n{node}"),
            api: format!("a{node}"),
            peer: format!("p{node}"),
        };
        Hello {
            node,
            member,
            cluster: None,
            formed: false,
            expect: 3,
            learner: false,
            feature_level: 1,
            cluster_level: None,
        }
    }

    fn waits(decision: Decision, for_what: &str) {
        match decision {
            Decision::Wait(why) => assert!(why.contains(for_what), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_learner_is_not_waited_for_and_not_counted() {
        let learner = Hello {
            learner: true,
            ..hello(0)
        };
        let all = [hello(1), hello(2), hello(3), learner];
        let Decision::Form { members, .. } = decide(&all[0], &all, &[]) else {
            panic!()
        };
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn only_the_smallest_forms_and_only_with_everybody() {
        let all = [hello(1), hello(2), hello(3)];
        let Decision::Form {
            cluster: None,
            members,
        } = decide(&all[0], &all, &[])
        else {
            panic!()
        };
        assert_eq!(members.len(), 3);
        waits(decide(&all[1], &all, &[]), "n1 forms");
        waits(
            decide(&all[0], &all[..2], &["p3".into()]),
            "2 of 3 nodes are here; no answer from p3",
        );
        waits(
            decide(&all[0], &[all[1].clone(), all[2].clone(), hello(4)], &[]),
            "--expect is 3",
        );
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_its_remedy() {
        let (me, mut other) = (hello(1), hello(2));
        other.member.name = "n1".into();
        waits(decide(&me, &[other.clone()], &[]), "two nodes are named n1");
        other = hello(2);
        other.expect = 5;
        waits(decide(&me, &[other.clone()], &[]), "--expect 5");
        other = hello(2);
        (other.formed, other.cluster) = (true, Some(ClusterId::new(7)));
        waits(
            decide(&me, &[other.clone(), hello(3)], &[]),
            "already belongs to cluster",
        );
        other.formed = false;
        waits(
            decide(&me, &[other, hello(3)], &[]),
            "remove its data directory",
        );
    }

    #[test]
    fn an_interrupted_attempt_goes_on_with_the_same_cluster() {
        let mut all = [hello(1), hello(2), hello(3)];
        all[0].cluster = Some(ClusterId::new(9));
        all[2].cluster = Some(ClusterId::new(9));
        let Decision::Form { cluster, .. } = decide(&all[0], &all, &[]) else {
            panic!()
        };
        assert_eq!(cluster, Some(ClusterId::new(9)));
    }
}
