//! The time of day jumps by hours on nodes, back and forth, and nothing that has to be right notices:
//! freshness and remembered requests rest on other things.

use pennon_client::{Client, Freshness, Subject};
use tokio::time::Instant;

use super::receipts::client;
use super::*;

const BOUND: Duration = Duration::from_secs(10);

/// What was committed, and when.
type Commits = Vec<(Instant, Version)>;

/// Writes a few times a second for a while, and looks at what every client says after each write.
/// Returns how many answers of each client were FRESH.
async fn watch(
    cluster: &Cluster,
    writer: &Core,
    clients: &[Client],
    commits: &mut Commits,
    time: Duration,
) -> Vec<u32> {
    let alice = Subject::new("alice");
    let mut fresh = vec![0; clients.len()];
    let end = Instant::now() + time;
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        // Each node to another time, from a month ago to a month ahead.
        for at in 0..3 {
            let hours = [-720, 5, 720, -1, 0][(round + at) % 5];
            cluster.set_clock(at, hours);
        }
        let version = version_of(&writer.write(flag_on(round as u32), WITHIN).await.unwrap());
        commits.push((Instant::now(), version));
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (client, fresh) in clients.iter().zip(&mut fresh) {
            // Before the evaluation: what it says has to hold then.
            let before = Instant::now() - BOUND;
            let answer = client.evaluate("checkout", &alice);
            if answer.freshness() != Freshness::Fresh {
                continue;
            }
            *fresh += 1;
            let past = commits.iter().rev().find(|(when, _)| *when < before);
            let held = answer.snapshot_version().unwrap();
            assert!(
                past.is_none_or(|(_, version)| held >= *version),
                "FRESH at {held}, {past:?} was committed {BOUND:?} ago"
            ); // I5
        }
    }
    fresh
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_fresh_beyond_the_bound_whatever_the_time_of_day() {
    let (cluster, leader, core) = Cluster::written().await;
    let alone = (leader + 1) % 3;
    let mut clients = Vec::new();
    for (n, at) in [leader, alone, (leader + 2) % 3].into_iter().enumerate() {
        clients.push(client(&cluster, &format!("web-{n}"), at, n as u64).await);
    }
    let mut commits = Vec::new();
    let time = Duration::from_secs(15);
    let fresh = watch(&cluster, &core, &clients, &mut commits, time).await;
    let all = commits.len() as u32;
    assert!(
        fresh.iter().all(|fresh| *fresh == all),
        "{fresh:?} of {all}"
    );

    // A node that can prove nothing any more and goes on streaming to its client.
    for other in (0..3).filter(|other| *other != alone) {
        let host = format!("n{other}");
        cluster.network.hole(&host, &format!("n{alone}"), true);
    }
    let before = commits.len();
    let time = Duration::from_secs(30);
    let fresh = watch(&cluster, &core, &clients, &mut commits, time).await;
    let all = (commits.len() - before) as u32;
    assert_eq!((fresh[0], fresh[2]), (all, all), "{fresh:?} of {all}");
    assert!(fresh[1] > 0 && fresh[1] < all / 2, "{fresh:?} of {all}");
    drop(clients);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_known_again_although_the_time_of_day_has_jumped() {
    let (cluster, leader, core) = Cluster::written().await;
    let ask = |key: &str, n: u32| {
        let mut change = flag_on(n);
        change.origin.request = Some(RequestId {
            key: key.into(),
            fingerprint: n.into(),
        });
        change
    };
    let first = core.write(ask("retried", 1), WITHIN).await.unwrap();
    for hours in [-720, 720, 1] {
        cluster.set_clock(leader, hours);
        let other = format!("other-{hours}");
        core.write(ask(&other, 2), WITHIN).await.unwrap();
        // The answer was lost, so it is sent again, seconds after the first time.
        let again = core.write(ask("retried", 1), WITHIN).await.unwrap();
        assert_eq!(again, first, "applied twice"); // I9
    }
    cluster.stop().await;
}
