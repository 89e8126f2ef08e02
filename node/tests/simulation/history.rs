//! The history is replicated: every node says the same of what happened, whatever became of it
//! meanwhile.

use http::{HeaderMap, Method};
use pennon_client::admin::Admin;
use serde_json::Value;

use super::*;

/// What a node answers once it has a version.
pub(crate) async fn ask(cluster: &Cluster, at: usize, path: &str, version: Version) -> Value {
    let network = ClientNetwork(cluster.network.at("auditor"));
    let admin = Admin::new(&[format!("http://{}", api(at))], None, Arc::new(network)).unwrap();
    let mark = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{mark}consistency=stale&min_version={version}");
    let answer = admin.request(Method::GET, &path, HeaderMap::new(), None);
    answer.await.unwrap().into_body()
}

/// Asks every node the same and compares; returns the answer.
pub(crate) async fn all_say(cluster: &Cluster, path: &str, version: Version) -> Value {
    let mut answers = Vec::new();
    for at in 0..cluster.nodes.len() {
        answers.push(ask(cluster, at, path, version).await);
    }
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &answers[0], "{path} of node {at} and of node 0");
    }
    answers.swap_remove(0)
}

#[tokio::test(start_paused = true)]
async fn every_node_tells_the_same_story_also_one_that_was_away() {
    let disks = (0..3).map(|_| MemoryDisk::new()).collect();
    let mut cluster = Cluster::on(disks, often()).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    write_flags(&core, 0..5).await;
    cluster.nodes[away].take().unwrap().shutdown().await;
    // Meanwhile so much happens that it comes back by a snapshot.
    write_flags(&core, 5..60).await;
    for n in 0..10 {
        core.write(flag_on(n), WITHIN).await.unwrap();
    }
    let gone = AskedWrite {
        object: ObjectId::flag("flag-3"),
        ask: Ask::Delete,
        expected: Expected::Present,
    };
    let last = version_of(&core.write(request(vec![gone]), WITHIN).await.unwrap());
    cluster.start_node(away).await;
    cluster.core(away).await;
    let all = all_say(&cluster, "/v1/audit", last).await;
    let items = all["items"].as_array().unwrap();
    assert_eq!(items.len(), 3 + 60 + 10 + 1);
    assert_eq!(
        (&items[0]["op"], &items[0]["key"]),
        (&"delete".into(), &"flag-3".into())
    );
    assert!(items.iter().all(|line| line.get("before").is_some()));
    for path in [
        "/v1/audit?limit=7",
        "/v1/audit?kind=policy&limit=3",
        "/v1/audit?key=flag-3",
        "/v1/flags/flag-3/history",
        "/v1/environments/production/policies/checkout/history?limit=4",
    ] {
        all_say(&cluster, path, last).await;
    }
    cluster.stop().await;
}

fn keeping(value: &str) -> ChangeRequest {
    request(vec![put(
        ObjectId::setting("history"),
        value,
        Expected::Any,
    )])
}

#[tokio::test(start_paused = true)]
async fn every_node_forgets_the_same_by_the_leaders_time() {
    let disks = (0..3).map(|_| MemoryDisk::new()).collect();
    let mut cluster = Cluster::on(disks, often()).await;
    let leader = cluster.leader().await;
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // The other nodes' own clocks have no say.
    cluster.set_clock(away, -1_000);
    cluster.set_clock(other, 1_000);
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    core.write(keeping(r#"{"days": 2}"#), WITHIN).await.unwrap();
    write_flags(&core, 0..5).await;
    cluster.set_clock(leader, 24);
    write_flags(&core, 5..8).await;
    let last = write_flags(&core, 8..9).await[0].1;
    let count = async |cluster: &Cluster, version| {
        let all = all_say(cluster, "/v1/audit", version).await;
        all["items"].as_array().unwrap().len()
    };
    assert_eq!(count(&cluster, last).await, 3 + 1 + 9);
    cluster.set_clock(leader, 49);
    let last = write_flags(&core, 9..10).await[0].1;
    assert_eq!(
        count(&cluster, last).await,
        4 + 1,
        "what is a day old, and the new one"
    );

    // A node that was away while more and less was kept comes back by a snapshot.
    cluster.nodes[away].take().unwrap().shutdown().await;
    core.write(keeping(r#"{"per_object": 4}"#), WITHIN)
        .await
        .unwrap();
    for n in 0..40 {
        core.write(flag_on(n), WITHIN).await.unwrap();
    }
    core.write(keeping(r#"{"per_object": 3, "total": 6}"#), WITHIN)
        .await
        .unwrap();
    cluster.start_node(away).await;
    cluster.core(away).await;
    let last = write_flags(&core, 10..11).await[0].1;
    assert_eq!(count(&cluster, last).await, 6);
    let checkout = "/v1/environments/production/policies/checkout/history";
    let checkout = all_say(&cluster, checkout, last).await;
    assert_eq!(checkout["items"].as_array().unwrap().len(), 3);
    // A restart forgets nothing more.
    cluster.nodes[other].take().unwrap().shutdown().await;
    cluster.start_node(other).await;
    cluster.core(other).await;
    assert_eq!(count(&cluster, last).await, 6);
    cluster.stop().await;
}
