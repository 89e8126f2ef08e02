//! A cluster whose nodes are upgraded one after the other. The older release is simulated: it knows no
//! applications, and reads no entry with one.

use pennon_raft_store::command::ObjectKind;
use pennon_raft_store::level::{Features, Part};

use super::*;

const BROUGHT: &[(Part, u32)] = &[(Part::Object(ObjectKind::Application), 2)];
const OLDER: Features = Features::simulated(1, BROUGHT);
const NEWER: Features = Features::simulated(2, BROUGHT);

const VOTERS: usize = 3;
/// A learner.
const EDGE: usize = 3;

async fn start(cluster: &mut Cluster, at: usize, features: Features) {
    while cluster.disks.len() <= at {
        cluster.disks.push(MemoryDisk::new());
        cluster.nodes.push(None);
    }
    let learner = at >= VOTERS;
    let options = NodeOptions {
        join: (0..VOTERS).map(peer).collect(),
        expect: if learner { 1 } else { VOTERS as u32 },
        learner,
        features,
        ..NodeOptions::single(format!("n{at}"))
    };
    cluster.start_with(at, options).await;
}

async fn restart(cluster: &mut Cluster, at: usize, features: Features) {
    cluster.nodes[at].take().unwrap().shutdown().await;
    start(cluster, at, features).await;
}

/// Three voters and a learner of the older release.
async fn older_cluster() -> Cluster {
    let mut cluster = Cluster::on(Vec::new(), RaftOptions::default()).await;
    for at in 0..VOTERS {
        start(&mut cluster, at, OLDER).await;
    }
    cluster.leader().await;
    start(&mut cluster, EDGE, OLDER).await;
    let edge = cluster.core(EDGE).await;
    edge.proved(WITHIN).await.unwrap();
    cluster
}

fn application(key: &str) -> ChangeRequest {
    let value = r#"{"tags":["checkout"]}"#;
    request(vec![put(ObjectId::application(key), value, Expected::Any)])
}

/// Every node that runs comes to the same state.
async fn agree(cluster: &Cluster, version: Version) {
    let mut digests = Vec::new();
    for at in 0..cluster.nodes.len() {
        let view = cluster.core(at).await.at_least(version, WITHIN).await;
        let view = view.unwrap();
        digests.push((view.digest(), view.level()));
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}"); // I4
}

/// Through every node: what all know is written, what is new is refused.
async fn only_what_all_know(cluster: &Cluster, flag: &str) {
    let mut version = Version::ZERO;
    for at in 0..cluster.nodes.len() {
        let core = cluster.core(at).await;
        let outcome = core.write(application("shop"), WITHIN).await.unwrap();
        let Outcome::Refused { refusal, .. } = &outcome else {
            panic!("through n{at}: {outcome:?}")
        };
        assert_eq!(*refusal, Refusal::NotEnabled { needs: 2, level: 1 });
        let known = put(ObjectId::flag(format!("{flag}-{at}")), FLAG, Expected::Any);
        version = version_of(&core.write(request(vec![known]), WITHIN).await.unwrap());
    }
    agree(cluster, version).await;
}

/// Waits until the leader has raised the level.
async fn raised(cluster: &Cluster) {
    let mut views = Vec::new();
    for at in 0..cluster.nodes.len() {
        let core = cluster.core(at).await;
        let mut changed = core.views();
        let raised = changed.wait_for(|view| view.level() == 2);
        let raised = tokio::time::timeout(WITHIN, raised).await;
        views.push(raised.expect("it is raised").unwrap().digest());
    }
    assert_eq!(views.len(), cluster.nodes.len());
}

/// Has a voter lead.
async fn lead(cluster: &Cluster, at: usize) {
    let core = cluster.core(at).await;
    let members = core.status().members;
    let here = members.into_iter().find(|one| one.id == core.node());
    core.transfer_leader(here, WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_new_waits_for_the_last_member() {
    let mut cluster = older_cluster().await;
    only_what_all_know(&cluster, "before").await;
    for at in 0..VOTERS {
        restart(&mut cluster, at, NEWER).await;
        cluster.leader().await;
        only_what_all_know(&cluster, &format!("with-{at}")).await;
        // A newer leader, and older followers as long as there are some.
        lead(&cluster, at).await;
        only_what_all_know(&cluster, &format!("led-by-{at}")).await;
    }
    let core = cluster.core(0).await;
    let shown = core.cluster_view(WITHIN).await;
    let said = shown
        .members
        .iter()
        .filter_map(|member| member.said.as_ref());
    let mut known: Vec<u32> = said.map(|said| said.feature_level).collect();
    known.sort_unstable();
    assert_eq!((shown.level, known), (1, vec![1, 2, 2, 2]));

    // The last one has no vote, and is away: nobody knows which release it comes back with.
    cluster.nodes[EDGE].take().unwrap().shutdown().await;
    let mut views = core.views();
    let raised_without = views.wait_for(|view| view.level() > 1);
    let long = Duration::from_secs(10);
    assert!(tokio::time::timeout(long, raised_without).await.is_err());
    start(&mut cluster, EDGE, NEWER).await;
    raised(&cluster).await;
    let core = cluster.core(EDGE).await;
    let outcome = core.write(application("shop"), WITHIN).await.unwrap();
    agree(&cluster, version_of(&outcome)).await;
    cluster.stop().await;
}

/// Waits until a node stops by itself; what it says.
async fn stops(cluster: &mut Cluster, at: usize) -> String {
    let node = cluster.nodes[at].take().unwrap();
    let why = tokio::time::timeout(WITHIN, node.failed()).await;
    let why = why.expect("it stops");
    node.shutdown().await;
    why
}

#[tokio::test(start_paused = true)]
async fn an_older_release_does_not_come_back_and_does_not_join() {
    let mut cluster = older_cluster().await;
    for at in 0..=EDGE {
        restart(&mut cluster, at, NEWER).await;
        cluster.leader().await;
    }
    raised(&cluster).await;
    // A voter and the learner, with what they have on their disks; and a node that is new.
    for at in [2, EDGE, EDGE + 1] {
        if let Some(Some(node)) = cluster.nodes.get_mut(at).map(Option::take) {
            node.shutdown().await;
        }
        start(&mut cluster, at, OLDER).await;
        let why = stops(&mut cluster, at).await;
        assert!(
            why.contains("feature level 2") && why.contains("the other members run"),
            "{why}"
        );
    }
    // The rest goes on, and who is upgraded again is welcome.
    let core = cluster.core(0).await;
    let outcome = core.write(application("shop"), WITHIN).await.unwrap();
    cluster.nodes.pop();
    cluster.disks.pop();
    start(&mut cluster, 2, NEWER).await;
    start(&mut cluster, EDGE, NEWER).await;
    agree(&cluster, version_of(&outcome)).await;
    cluster.stop().await;
}

/// The level is raised while a member is away; it comes back with the older release, and nobody who
/// knows more can be asked: what it then hears from the leader stops it.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_downgraded_stops_where_the_level_is_raised() {
    let mut cluster = Cluster::on(Vec::new(), RaftOptions::default()).await;
    for at in 0..VOTERS {
        start(&mut cluster, at, NEWER).await;
    }
    cluster.leader().await;
    raised(&cluster).await;
    cluster
        .core(0)
        .await
        .write(first_writes(), WITHIN)
        .await
        .unwrap();
    // Without --join it asks nobody.
    cluster.nodes[2].take().unwrap().shutdown().await;
    let options = NodeOptions {
        features: OLDER,
        ..NodeOptions::single("n2")
    };
    cluster.start_with(2, options).await;
    let why = stops(&mut cluster, 2).await;
    assert!(why.contains("the other members run"), "{why}");
    let outcome = cluster
        .core(0)
        .await
        .write(application("shop"), WITHIN)
        .await;
    version_of(&outcome.unwrap());
    cluster.stop().await;
}
