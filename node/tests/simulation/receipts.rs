//! The kill switch under partition: who has the new state, and by name who may not have it.

use pennon_client::{Client, Subject};
use pennon_node::delivery::{Delivery, Lag};
use pennon_raft_store::raft::MemberChange;

use super::*;

/// The staleness bound of an environment that says nothing of it.
pub(crate) const BOUND_MS: u64 = 10_000;

/// A client on a host of its own that knows one node.
pub(crate) async fn client(cluster: &Cluster, id: &str, at: usize, seed: u64) -> Client {
    pennon_client::Client::builder([format!("http://{}", api(at))])
        .environment("production")
        .client_id(id)
        .connector(ClientNetwork(cluster.network.at(id)))
        .clock(ClientClock(TokioClock::start()))
        .seed(seed)
        .connect()
        .await
        .unwrap()
}

/// Switches the flag and waits for everybody.
pub(crate) async fn switch(core: &Core, n: u32, within: Duration) -> (Version, Delivery) {
    let version = version_of(&core.write(flag_on(n), WITHIN).await.unwrap());
    let delivery = core.delivery(&[environment()], version, within).await;
    (version, delivery)
}

pub(crate) fn laggards(delivery: &Delivery) -> Vec<(&str, Lag)> {
    let all = delivery.laggards.iter();
    all.map(|one| (one.id.as_str(), one.lag)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_kill_switch_names_exactly_those_who_were_cut_off() {
    let (cluster, leader, core) = Cluster::written().await;
    let nodes = [leader, (leader + 1) % 3, (leader + 2) % 3];
    let names = ["web-1", "web-2", "web-3"];
    let mut clients = Vec::new();
    for (n, (id, at)) in names.into_iter().zip(nodes).enumerate() {
        clients.push(client(&cluster, id, at, n as u64).await);
    }
    let alice = Subject::new("alice");
    let second = Duration::from_secs(1);

    let (version, all) = switch(&core, 1, WITHIN).await;
    assert!(all.is_delivered() && all.is_applied(), "{all:?}");
    assert_eq!((all.connected, all.acknowledged, all.unnamed), (3, 3, 0));
    assert_eq!(all.settled_ms, 0);
    for client in &clients {
        assert!(
            client.version() >= Some(version),
            "acknowledged means applied"
        );
        assert!(!client.is_enabled("checkout", &alice));
    }

    // One application cannot be reached any more; its node sees that its connection ended.
    cluster.network.cut("web-2", true);
    let (_, cut) = switch(&core, 2, second).await;
    assert_eq!(laggards(&cut), [("web-2", Lag::Disconnected)]);
    assert_eq!((cut.connected, cut.acknowledged), (2, 2));
    assert!(cut.is_delivered(), "everybody who is connected has it");
    assert!(
        cut.settled_ms > 0 && cut.settled_ms <= BOUND_MS + 1,
        "{cut:?}"
    );
    // After the time that was named it does not call its old answer fresh. (I5)
    tokio::time::sleep(Duration::from_millis(cut.settled_ms)).await;
    let old = clients[1].evaluate("checkout", &alice);
    assert_eq!(old.freshness(), pennon_client::Freshness::Stale);
    cluster.network.cut("web-2", false);

    // A whole node with its applications: nobody can ask it, but who was there is known.
    let (version, healed) = switch(&core, 3, WITHIN).await;
    let back = clients[1].wait_for(version, WITHIN).await;
    back.expect("healed, it converges");
    assert!(!clients[1].is_enabled("checkout", &alice));
    assert!(healed.is_delivered(), "{healed:?}");
    tokio::time::sleep(2 * second).await; // until the roll was called again
    cluster.network.cut(&format!("n{}", nodes[2]), true);
    let (_, silent) = switch(&core, 4, second).await;
    assert_eq!(laggards(&silent), [("web-3", Lag::NodeUnreachable)]);
    assert!(!silent.is_delivered());
    assert!(silent.settled_ms <= BOUND_MS + 1, "{silent:?}");
    cluster.network.cut(&format!("n{}", nodes[2]), false);

    let (version, _) = switch(&core, 5, WITHIN).await;
    for client in &clients {
        client
            .wait_for(version, WITHIN)
            .await
            .expect("all converge");
    }
    let everybody = core.delivery(&[environment()], version, WITHIN).await;
    assert!(everybody.is_delivered(), "{everybody:?}");
    assert_eq!((everybody.connected, everybody.acknowledged), (3, 3));
    drop(clients);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_asked_for_when_somebody_waits() {
    let (cluster, leader, core) = Cluster::written().await;
    let client = client(&cluster, "web", (leader + 1) % 3, 1).await;
    // A client that has just acknowledged something takes its time with the next, unless asked.
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let began = tokio::time::Instant::now();
        let (_, delivery) = switch(&core, n, WITHIN).await;
        assert!(delivery.is_delivered(), "{delivery:?}");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop(client);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_polls_is_named_until_it_has_polled_and_acknowledges_then() {
    let (cluster, leader, core) = Cluster::written().await;
    let at = (leader + 1) % 3;
    let client = pennon_client::Client::builder([format!("http://{}", api(at))])
        .environment("production")
        .client_id("polls")
        .polling(pennon_client::Polling::Only)
        .connector(ClientNetwork(cluster.network.at("polls")))
        .clock(ClientClock(TokioClock::start()))
        .seed(1)
        .connect()
        .await
        .unwrap();
    let alice = Subject::new("alice");
    for n in 0..6 {
        let (version, delivery) = switch(&core, n, Duration::ZERO).await;
        assert_eq!(laggards(&delivery), [("polls", Lag::Disconnected)], "{n}");
        assert!(delivery.settled_ms > 0, "{delivery:?}"); // I5
        client.wait_for(version, WITHIN).await.unwrap();
        assert_eq!(client.is_enabled("checkout", &alice), n.is_multiple_of(2));
        // Its receipt comes at once, not with its next poll.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let delivery = core.delivery(&[environment()], version, WITHIN).await;
        assert_eq!((laggards(&delivery), delivery.settled_ms), (vec![], 0));
    }
    // Cut off, it is named for as long as it can call what it has fresh, which is no longer than said.
    cluster.network.hole(&format!("n{at}"), "polls", true);
    let (_, delivery) = switch(&core, 6, Duration::from_secs(1)).await;
    assert_eq!(laggards(&delivery), [("polls", Lag::Disconnected)]);
    tokio::time::sleep(Duration::from_millis(delivery.settled_ms)).await;
    assert!(!client.status().is_fresh()); // I5
    drop(client);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_a_node_that_then_restarted_is_named_as_long_as_it_can_be_fresh() {
    let (mut cluster, leader, core) = Cluster::written().await;
    let at = (leader + 1) % 3;
    let client = client(&cluster, "web", at, 1).await;
    let (_, all) = switch(&core, 1, WITHIN).await;
    assert_eq!((laggards(&all), all.settled_ms), (vec![], 0));
    tokio::time::sleep(Duration::from_secs(2)).await; // until the roll was called again

    // It cannot be reached, and its node has forgotten that it ever was there.
    cluster.network.cut("web", true);
    cluster.nodes[at].take().unwrap().shutdown().await;
    cluster.start_node(at).await;
    let back = cluster.core(at).await;
    back.proved(WITHIN).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await; // and the roll was called once more
    let (_, lost) = switch(&core, 2, Duration::from_secs(1)).await;
    assert!(lost.nodes.iter().all(|node| node.applied), "{lost:?}");
    assert!(client.status().is_fresh());
    assert_eq!(laggards(&lost), [("web", Lag::Disconnected)]);
    assert!(lost.settled_ms > 0 && lost.settled_ms <= BOUND_MS + 1);
    // Who was there at no time that this node remembers is not named; the time holds without. (I5)
    let (_, unnamed) = switch(&back, 3, Duration::from_secs(1)).await;
    assert!(unnamed.settled_ms > 0, "{unnamed:?}");
    tokio::time::sleep(Duration::from_millis(lost.settled_ms)).await;
    assert!(!client.status().is_fresh()); // I5
    let (_, over) = switch(&back, 4, WITHIN).await;
    assert_eq!((laggards(&over), over.settled_ms), (vec![], 0));
    drop((client, core, back));
    cluster.stop().await;
}

/// A client of a node that was removed, with or without a vote. Its node has all there is as long as nobody
/// writes, but nobody would tell it of more.
async fn client_of_a_removed_node(votes: bool, written: bool) {
    let (cluster, _, core, edge) = learners::with_learner().await;
    if votes {
        let promoted = core.change_member(edge.node(), MemberChange::Promote, WITHIN);
        promoted.await.unwrap();
    }
    let client = client(&cluster, "web", 3, 1).await;
    let (_, all) = switch(&core, 1, WITHIN).await;
    assert!(all.is_delivered() && all.connected == 1, "{all:?}");

    let removed = core.change_member(edge.node(), MemberChange::Remove, WITHIN);
    removed.await.unwrap();
    assert!(client.status().is_fresh());
    let mut settled_ms = BOUND_MS + 1;
    if written {
        let (_, gone) = switch(&core, 2, WITHIN).await;
        assert_eq!((gone.connected, laggards(&gone)), (0, vec![]));
        assert!(gone.settled_ms > 0 && gone.settled_ms <= settled_ms);
        settled_ms = gone.settled_ms;
    }
    tokio::time::sleep(Duration::from_millis(settled_ms)).await;
    assert!(!client.status().is_fresh()); // I5
    tokio::time::sleep(Duration::from_secs(1)).await; // by which the node has noticed that one was removed
    let (_, over) = switch(&core, 3, WITHIN).await;
    assert_eq!((laggards(&over), over.settled_ms), (vec![], 0));
    drop((client, edge));
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_served_by_a_node_that_was_removed_is_not_fresh_for_long() {
    for (votes, written) in [(false, true), (false, false), (true, true), (true, false)] {
        client_of_a_removed_node(votes, written).await;
    }
}
