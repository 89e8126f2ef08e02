//! Deciding a flag allocates nothing.
//!
//! What must hold: from the second evaluation on a thread on, no path of an evaluation allocates:
//! decided, not found, stale, by default, owned or pinned. (The first one makes the thread known to
//! the cell that holds the state.)

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{HandClock, Net, hello};
use common::states::snapshot_message;
use pennon_client::{Client, StalePolicy, Subject};
use pennon_evaluator::wire::Intent;

fn read_everything(client: &Client, subject: &Subject) -> usize {
    let mut seen = 0;
    for flag in ["at", "dark", "odd", "nobody"] {
        seen += usize::from(client.is_enabled(flag, subject));
        seen += usize::from(client.bool(flag, subject, true));
        seen += usize::from(client.number(flag, subject, 0.0) > 0.0);
        seen += usize::from(client.integer(flag, subject, 0) > 0);
        let evaluation = client.evaluate(flag, subject);
        seen += evaluation.variant().map_or(0, str::len);
        seen += evaluation.rule_id().map_or(0, str::len);
        seen += evaluation.value().map_or(0, |value| value.as_json().len());
        seen += evaluation.reason().as_str().len();
        seen += usize::from(evaluation.age().is_some());
        let page = client.pin();
        seen += page.evaluate(flag, subject).variant().map_or(0, str::len);
    }
    seen + usize::from(client.version().is_some())
}

#[tokio::test]
async fn an_evaluation_allocates_nothing() {
    let (net, mut requests) = Net::new();
    let clock = HandClock::default();
    let client = Client::builder(["http://n1:1"])
        .environment("production")
        .connector(net)
        .clock(clock.clone())
        .stale_policy(StalePolicy::ServeLastGood)
        .start()
        .unwrap();
    let subject = Subject::new("user-42").with("country", "DE");
    let count = |client: &Client| {
        allocation_counter::measure(|| {
            std::hint::black_box(read_everything(client, &subject));
        })
    };
    read_everything(&client, &subject);
    assert_eq!(count(&client).count_total, 0, "not ready");

    let stream = requests.recv().await.unwrap().stream();
    stream.send(&hello("A", Intent::Full, 5));
    stream.send(&snapshot_message(0, 5));
    client.ready(Duration::from_secs(30)).await.unwrap();
    let fresh = read_everything(&client, &subject);
    assert!(fresh > 50, "{fresh}");
    assert_eq!(count(&client).count_total, 0, "fresh");

    clock.pass(Duration::from_secs(60));
    assert!(read_everything(&client, &subject) < fresh);
    assert_eq!(count(&client).count_total, 0, "stale");
    // The counter does count.
    let string = allocation_counter::measure(|| {
        std::hint::black_box(client.json("at", &subject, serde_json::json!({"a": 1})));
    });
    assert!(string.count_total > 0);
}
