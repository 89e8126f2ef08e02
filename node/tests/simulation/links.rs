//! One-way faults: somebody can send and hears nothing, or hears everything and cannot answer.

use pennon_client::{Freshness, Subject};

use super::receipts::{BOUND_MS, client, laggards, switch};
use super::*;
use pennon_node::delivery::Lag;

/// What is lost between a host and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaf {
    /// It hears nothing, and is heard.
    Hears,
    /// It is not heard, and hears everything.
    Speaks,
}

/// Makes one direction between node `at` and the other two a hole, or ends that.
fn hole(cluster: &Cluster, at: usize, lost: Deaf, hole: bool) {
    for other in (0..3).filter(|other| *other != at) {
        let (here, there) = (format!("n{at}"), format!("n{other}"));
        match lost {
            Deaf::Hears => cluster.network.hole(&there, &here, hole),
            Deaf::Speaks => cluster.network.hole(&here, &there, hole),
        }
    }
}

/// A node that loses one direction to all others proves nothing, its applications know that their
/// answers are old, and the others go on.
async fn half_a_link(lost: Deaf, of_leader: bool) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let victim = if of_leader { leader } else { (leader + 1) % 3 };
    let other = (leader + 2) % 3;
    let core = cluster.core(other).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let alone = cluster.core(victim).await;
    let at_alone = client(&cluster, "at-alone", victim, 1).await;
    let alice = Subject::new("alice");
    assert!(at_alone.status().is_fresh());

    hole(&cluster, victim, lost, true);
    let began = tokio::time::Instant::now();
    // A request id, so that it goes on when the answer of the old leader is lost.
    let mut change = flag_on(1);
    change.origin.request = Some(RequestId {
        key: "goes-on".into(),
        fingerprint: 1,
    });
    let written = core.write(change, Duration::from_secs(60)).await;
    let version = version_of(&written.unwrap());
    let waited = began.elapsed();
    let refused = alone.confirmed(Duration::from_secs(3)).await;
    assert!(refused.is_err(), "nothing can be proved"); // I1
    tokio::time::sleep_until(began + Duration::from_secs(13)).await;
    let age = alone.staleness().unwrap();
    assert!(age >= Duration::from_secs(10), "{age:?}"); // I5
    let answer = at_alone.evaluate("checkout", &alice);
    assert_eq!(answer.freshness(), Freshness::Stale); // I5
    let third = (0..3).find(|at| *at != victim && *at != other).unwrap();
    let third = cluster.core(third).await;
    third.confirmed(WITHIN).await.expect("the others go on");
    assert!(third.view().version() >= version);

    hole(&cluster, victim, lost, false);
    alone.confirmed(WITHIN).await.expect("it takes part again");
    alone.at_least(version, WITHIN).await.unwrap();
    let mut watch = at_alone.status_watch();
    while !at_alone.status().is_fresh() {
        let news = tokio::time::timeout(WITHIN, watch.next()).await;
        news.expect("fresh again").unwrap();
    }
    assert!(at_alone.version() >= Some(version));
    assert!(!at_alone.is_enabled("checkout", &alice));
    let limit = Duration::from_secs(5);
    assert!(waited < limit, "writes stood still for {waited:?}");
    // Nothing that came of it disturbs the others for long.
    core.write(flag_on(2), limit).await.expect("all is well");
    let mut digests = Vec::new();
    for at in 0..3 {
        let core = cluster.core(at).await;
        let view = core.confirmed(WITHIN).await.unwrap();
        digests.push((view.version(), view.digest()));
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}"); // I4
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_can_send_and_not_receive_proves_nothing() {
    half_a_link(Deaf::Hears, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_can_receive_and_not_send_proves_nothing() {
    half_a_link(Deaf::Speaks, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_can_send_and_not_receive_is_replaced() {
    half_a_link(Deaf::Hears, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_can_receive_and_not_send_is_replaced() {
    half_a_link(Deaf::Speaks, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_switch_names_who_cannot_answer_and_who_cannot_hear() {
    let (cluster, leader, core) = Cluster::written().await;
    let places = [leader, (leader + 1) % 3, (leader + 1) % 3, (leader + 2) % 3];
    let names = ["web-1", "web-2", "web-3", "web-4"];
    let mut clients = Vec::new();
    for (n, (id, at)) in names.into_iter().zip(places).enumerate() {
        clients.push(client(&cluster, id, at, n as u64).await);
    }
    let [alice, second] = [Subject::new("alice"), Subject::new("second")];
    let (_, all) = switch(&core, 1, WITHIN).await;
    assert!(all.is_delivered() && all.acknowledged == 4, "{all:?}");
    assert!(!clients[0].is_enabled("checkout", &second));

    let node = format!("n{}", places[1]);
    let heartbeat = Duration::from_secs(2); // with the bound of 10 s
    for (round, cut) in [(2, 1), (3, 30)] {
        cluster.network.hole("web-2", &node, true);
        cluster.network.hole(&node, "web-3", true);
        let (version, some) = switch(&core, round, Duration::from_secs(1)).await;
        let expected = [("web-2", Lag::Connected), ("web-3", Lag::Connected)];
        assert_eq!(laggards(&some), expected, "{some:?}");
        assert_eq!((some.connected, some.acknowledged), (4, 2));
        assert!(!some.is_delivered());
        assert!(some.settled_ms > 0 && some.settled_ms <= BOUND_MS + 1);
        let have = |at: usize| clients[at].version() >= Some(version);
        assert_eq!([0, 1, 2, 3].map(have), [true, true, false, true]);
        if cut > 1 {
            tokio::time::sleep(Duration::from_millis(some.settled_ms)).await;
            let old = clients[2].evaluate("checkout", &alice);
            assert_eq!(old.freshness(), Freshness::Stale); // I5
            tokio::time::sleep(Duration::from_secs(cut)).await;
        }
        cluster.network.hole("web-2", &node, false);
        cluster.network.hole(&node, "web-3", false);
        let healed = tokio::time::Instant::now();
        for client in &clients {
            client
                .wait_for(version, WITHIN)
                .await
                .expect("all converge");
        }
        let everybody = core.delivery(&[environment()], version, WITHIN).await;
        assert!(everybody.is_delivered(), "{everybody:?}");
        assert_eq!((everybody.connected, everybody.acknowledged), (4, 4));
        if cut == 1 {
            assert!(healed.elapsed() <= heartbeat, "{:?}", healed.elapsed());
        }
    }
    drop(clients);
    cluster.stop().await;
}
