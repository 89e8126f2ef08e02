//! The client against nodes made by hand: frames cut, flipped, dripped and withheld, nodes that
//! refuse, hang and go. Time is tokio's and paused: it moves only when nothing else can.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::net::{
    Door, HandClock, Net, Request, Requests, Stream, TokioClock, encode, heartbeat, hello,
};
use common::states::{delta_message, snapshot_message, version};
use http::StatusCode;
use pennon_client::{
    Client, ClientBuilder, DecidedReason, Freshness, Reason, StalePolicy, Subject,
};
use pennon_evaluator::wire::{Ages, Intent, StreamMessage};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(3_600);
/// Longer than the first pause after a failure, shorter than any deadline.
const SOON: Duration = Duration::from_millis(500);

fn builder(net: &Net, nodes: &[&str]) -> ClientBuilder {
    Client::builder(nodes.iter().map(|node| format!("http://{node}")))
        .environment("production")
        .connector(net.clone())
        .clock(TokioClock::default())
        .seed(3)
}

fn user() -> Subject {
    Subject::new("user-42")
}

/// What the flag `at` serves: the version of the last change.
fn content(client: &Client) -> i64 {
    client.integer("at", &user(), -1)
}

async fn next(requests: &mut Requests) -> Request {
    requests.recv().await.unwrap()
}

/// Grants the next stream and sends everything at a version.
async fn serve(requests: &mut Requests, at: u64) -> Stream {
    let stream = next(requests).await.stream();
    stream.send(&hello("A", Intent::Full, at));
    stream.send(&snapshot_message(0, at));
    stream
}

/// A client of one node that holds version 4, and the node's end of the stream.
async fn connected(net: &Net, requests: &mut Requests) -> (Client, Stream) {
    let client = builder(net, &["n1:1"]).start().unwrap();
    let stream = serve(requests, 4).await;
    client.ready(LONG).await.unwrap();
    (client, stream)
}

#[tokio::test(start_paused = true)]
async fn flags_are_decided_on_what_the_stream_brings() {
    let (net, mut requests) = Net::new();
    let starting = builder(&net, &["n1:1"])
        .token("pn_x".to_owned())
        .client_id("c/1");
    let client = starting.start().unwrap();
    assert!(!client.is_ready());
    assert_eq!(client.evaluate("dark", &user()).reason(), Reason::NotReady);
    assert_eq!(client.number("at", &user(), 1.5), 1.5);

    let request = next(&mut requests).await;
    assert_eq!(
        (request.since(), request.query.get("cluster")),
        (None, None)
    );
    assert_eq!(request.query["client"], "c%2F1");
    assert_eq!(request.headers["authorization"], "Bearer pn_x");
    let mut changes = client.changes();
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    let change = changes.next().await.unwrap();
    assert_eq!(change.version(), version(4));
    assert!(change.affects("at") && change.affects("dark") && !change.affects("odd"));
    assert_eq!(
        (content(&client), client.is_enabled("dark", &user())),
        (4, false)
    );

    let page = client.pin();
    stream.send(&delta_message(0, 4, 5));
    assert_eq!(client.wait_for(version(5), LONG).await.unwrap(), version(5));
    assert_eq!(
        (content(&client), client.is_enabled("dark", &user())),
        (5, true)
    );
    assert_eq!(
        (page.integer("at", &user(), -1), page.version()),
        (4, Some(version(4)))
    );

    let (flag, subject) = ("dark".to_owned(), user());
    let evaluation = client.evaluate(&flag, &subject);
    assert_eq!(evaluation.variant(), Some("on"));
    assert_eq!(
        evaluation.value().and_then(|value| value.as_bool()),
        Some(true)
    );
    assert_eq!(evaluation.reason(), Reason::Decided(DecidedReason::Static));
    assert_eq!(evaluation.config_version(), version(5));
    assert_eq!(evaluation.snapshot_version(), Some(version(5)));
    assert_eq!(evaluation.freshness(), Freshness::Fresh);
    let missing = client.evaluate("nobody", &subject);
    assert_eq!(missing.reason().as_str(), "FLAG_NOT_FOUND");
    assert_eq!(client.string("dark", &subject, "other type"), "other type");
    assert_eq!(
        client.json("at", &subject, serde_json::Value::Null),
        serde_json::json!(5)
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_ends_waiting_and_is_no_change() {
    let (net, mut requests) = Net::new();
    let (client, stream) = connected(&net, &mut requests).await;
    let mut changes = client.changes();
    stream.send(&heartbeat(9));
    client.wait_for(version(8), LONG).await.unwrap();
    assert_eq!(client.version(), Some(version(9)));
    stream.send(&delta_message(0, 9, 10));
    let change = changes.next().await.unwrap();
    assert_eq!(change.version(), version(10), "9 was none");

    let late = client
        .wait_for(version(99), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(
        late.is_timeout() && late.to_string().contains("10 is held"),
        "{late}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_reads_changes_late_gets_them_as_one_and_misses_none() {
    let (net, mut requests) = Net::new();
    let client = builder(&net, &["n1:1"]).start().unwrap();
    let mut early = client.changes();
    let stream = serve(&mut requests, 4).await;
    client.ready(LONG).await.unwrap();
    let mut changes = client.changes();
    for (from, to) in [(4, 5), (5, 7), (7, 8)] {
        stream.send(&delta_message(0, from, to));
    }
    client.wait_for(version(8), LONG).await.unwrap();
    let change = changes.next().await.unwrap();
    assert_eq!(change.version(), version(8));
    let flags: Vec<&str> = change.flags().iter().map(|flag| flag.as_str()).collect();
    assert_eq!(flags, ["at", "dark"], "odd came and went");
    assert_eq!(early.next().await.unwrap().version(), version(8));
    // From another node and whole, but the same content: nothing changed.
    stream.cut();
    let stream = serve(&mut requests, 9).await;
    client.wait_for(version(9), LONG).await.unwrap();
    stream.send(&delta_message(0, 9, 11));
    let change = changes.next().await.unwrap();
    assert_eq!(change.version(), version(11));
    assert!(change.affects("odd"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_cut_at_any_byte_is_resumed_and_ends_at_the_same_state() {
    let messages = [
        hello("A", Intent::Full, 4),
        snapshot_message(0, 4),
        delta_message(0, 4, 5),
    ];
    let frames = messages.map(|message| encode(&message, Ages::default()));
    let bytes = frames.concat();
    let whole: [usize; 2] = [frames[0].len() + frames[1].len(), bytes.len()];
    for (end, breaks) in (0..=bytes.len()).flat_map(|end| [(end, true), (end, false)]) {
        let (net, mut requests) = Net::new();
        let client = builder(&net, &["n1:1"]).start().unwrap();
        let stream = next(&mut requests).await.stream();
        stream.bytes(bytes[..end].to_vec());
        if breaks {
            stream.cut();
        } else {
            drop(stream);
        }

        let ended = Instant::now();
        let request = next(&mut requests).await;
        assert!(ended.elapsed() < SOON, "cut at {end}: noticed too late");
        let since = request.since();
        let held = whole.iter().filter(|len| end >= **len).count();
        let arrived = [None, Some(4), Some(5)][held];
        // What was on its way when the connection broke may be lost.
        assert!(
            since == arrived || breaks && since < arrived,
            "cut at {end}: {since:?}"
        );
        assert_eq!(client.version().map(|v| v.get()), since);
        let stream = request.stream();
        match since {
            None => {
                stream.send(&hello("A", Intent::Full, 7));
                stream.send(&snapshot_message(0, 7));
            }
            Some(since) => {
                stream.send(&hello("A", Intent::Changes, 7));
                stream.send(&delta_message(0, since, 7));
            }
        }
        client.wait_for(version(7), LONG).await.unwrap();
        assert_eq!(content(&client), 7, "cut at {end}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_anywhere_is_never_believed() {
    let delta = encode(&delta_message(0, 4, 5), Ages::default());
    for position in 0..delta.len() {
        let (net, mut requests) = Net::new();
        let (client, stream) = connected(&net, &mut requests).await;
        let mut flipped = delta.clone();
        flipped[position] ^= 1 << (position % 8);
        let sent = Instant::now();
        stream.bytes(flipped);
        let request = next(&mut requests).await;
        assert_eq!(request.since(), Some(4), "bit flipped in byte {position}");
        assert_eq!(content(&client), 4);
        // A flipped length may promise more than ever comes; everything else is seen at once.
        if position >= 4 {
            assert!(sent.elapsed() < SOON, "bit flipped in byte {position}");
            let error = client.status().last_error.unwrap().to_string();
            assert!(error.contains("the stream is damaged"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_read_to_its_end() {
    let (net, mut requests) = Net::new();
    let client = builder(&net, &["n1:1"]).start().unwrap();
    let stream = next(&mut requests).await.stream();
    stream.send(&hello("A", Intent::Full, 5));
    let bytes = encode(&snapshot_message(0, 5), Ages::default());
    for byte in bytes.chunks(1) {
        stream.bytes(byte.to_vec());
        tokio::time::advance(Duration::from_millis(50)).await;
        tokio::task::yield_now().await;
    }
    client.ready(Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        (content(&client), client.status().counters.connects),
        (5, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_drip_without_end_is_left() {
    let (net, mut requests) = Net::new();
    let (client, stream) = connected(&net, &mut requests).await;
    let never = encode(&snapshot_message(0, 5), Ages::default());
    let dripping = async {
        for byte in never.chunks(1) {
            stream.bytes(byte.to_vec());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = dripping => panic!("the whole message went through"),
        request = next(&mut requests) => assert_eq!(request.since(), Some(4)),
    }
    let error = client.status().last_error.unwrap().to_string();
    assert!(error.contains("a message took too long"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_at_any_step_is_left_for_another() {
    for door in [Door::Refuses, Door::Hangs, Door::Swallows] {
        let (net, mut requests) = Net::new();
        net.door("n1:1", door);
        net.door("n2:2", door);
        let client = builder(&net, &["n1:1", "n2:2", "n3:3"]).start().unwrap();
        let request = next(&mut requests).await;
        assert_eq!(request.node, "n3:3", "{door:?}");
        // This one takes every request and says nothing: the others get their turn again.
        net.door("n1:1", Door::Open);
        let mut unanswered = Vec::new();
        let again = loop {
            let again = next(&mut requests).await;
            match again.node.as_str() {
                "n1:1" => break again,
                _ => unanswered.push(again),
            }
        };
        assert!(unanswered.len() <= 3, "{door:?}");
        let stream = again.stream();
        stream.send(&hello("A", Intent::Full, 4));
        stream.send(&snapshot_message(0, 4));
        client.ready(LONG).await.unwrap();
        assert_eq!(client.status().endpoint.authority(), "n1:1");
        drop(request);
    }
}

#[tokio::test(start_paused = true)]
async fn failover_keeps_the_state_and_goes_on_from_it() {
    let (net, mut requests) = Net::new();
    let client = builder(&net, &["n1:1", "n2:2"]).start().unwrap();
    let first = next(&mut requests).await;
    let node = first.node.clone();
    let stream = first.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    net.door(&node, Door::Refuses);
    stream.cut();

    let second = next(&mut requests).await;
    assert_ne!(second.node, node);
    assert_eq!(
        (second.since(), second.query["cluster"].as_str()),
        (Some(4), "A")
    );
    assert_eq!(content(&client), 4, "the last good state answers meanwhile");
    let stream = second.stream();
    stream.send(&hello("A", Intent::Changes, 8));
    stream.send(&delta_message(0, 4, 8));
    client.wait_for(version(8), LONG).await.unwrap();
    assert_eq!(content(&client), 8);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_environment_is_said_and_tried_again() {
    let (net, mut requests) = Net::new();
    let deadline = Duration::from_secs(2);
    let connecting = builder(&net, &["n1:1"])
        .connect_deadline(deadline)
        .connect();
    let refusing = async {
        loop {
            next(&mut requests)
                .await
                .problem(404, "not-found", "no environment production");
        }
    };
    let error = tokio::select! {
        result = connecting => result.unwrap_err(),
        () = refusing => unreachable!(),
    };
    assert!(
        error.is_not_found() && error.slug() == "not-found",
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("no snapshot after 2s"), "{text}");
    assert!(text.contains("no environment production (404)"), "{text}");
    assert!(text.ends_with("[http://n1:1]"), "{text}");

    let client = builder(&net, &["n1:1"]).start().unwrap();
    let mut watch = client.status_watch();
    next(&mut requests)
        .await
        .problem(404, "not-found", "no environment production");
    let status = watch.next().await.unwrap();
    assert!(status.last_error.is_some_and(|error| error.is_not_found()));
    let _stream = serve(&mut requests, 5).await;
    client.ready(LONG).await.unwrap();
    assert_eq!(content(&client), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_stream_of_frames_is_refused() {
    let (net, mut requests) = Net::new();
    let client = builder(&net, &["n1:1"]).start().unwrap();
    let page = next(&mut requests)
        .await
        .stream_as(StatusCode::OK, "text/html");
    page.bytes("<html>");
    let _stream = serve(&mut requests, 4).await;
    client.ready(LONG).await.unwrap();
    let error = client.status().last_error.unwrap().to_string();
    assert!(
        error.contains("\"text/html\", not a stream of frames"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept() {
    let (net, mut requests) = Net::new();
    let _client = builder(&net, &["n1:1"]).start().unwrap();
    let asked = Instant::now();
    next(&mut requests)
        .await
        .json(429, &[("retry-after", "7")], "{}");
    next(&mut requests).await;
    assert!(asked.elapsed() >= Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_takes_the_stream_with_it() {
    let (net, mut requests) = Net::new();
    let (client, stream) = connected(&net, &mut requests).await;
    let (mut changes, page) = (client.changes(), client.pin());
    let clone = client.clone();
    drop(client);
    stream.send(&delta_message(0, 4, 5));
    assert_eq!(changes.next().await.unwrap().version(), version(5));
    drop(clone);
    stream.closed().await;
    assert_eq!(changes.next().await, None);
    assert_eq!(page.version(), Some(version(4)));
}

// I5
#[tokio::test(start_paused = true)]
async fn a_state_turns_stale_when_the_clock_says_so_even_if_nothing_else_happens() {
    for policy in [StalePolicy::ServeLastGood, StalePolicy::ReturnDefault] {
        let (net, mut requests) = Net::new();
        let clock = HandClock::default();
        let starting = builder(&net, &["n1:1"])
            .clock(clock.clone())
            .stale_policy(policy);
        let client = starting.start().unwrap();
        let stream = serve(&mut requests, 5).await;
        client.ready(LONG).await.unwrap();
        let (at, odd, subject) = ("at", "odd", user());

        clock.pass(Duration::from_secs(10));
        let evaluation = client.evaluate(at, &subject);
        assert_eq!(
            evaluation.freshness(),
            Freshness::Fresh,
            "the bound itself is fresh"
        );
        assert_eq!(evaluation.age(), Some(Duration::from_secs(10)));
        assert!(client.is_enabled(odd, &subject));

        clock.pass(Duration::from_nanos(1));
        let evaluation = client.evaluate(at, &subject);
        assert_eq!(evaluation.freshness(), Freshness::Stale);
        let served = policy == StalePolicy::ServeLastGood;
        assert_eq!(evaluation.value().is_some(), served);
        assert_eq!(evaluation.reason() == Reason::Stale, !served);
        assert_eq!(
            client.integer(at, &subject, -7),
            if served { 5 } else { -7 }
        );
        // This flag says "on_stale": "default".
        assert!(!client.is_enabled(odd, &subject));
        assert!(client.bool(odd, &subject, true));
        assert_eq!(client.evaluate(odd, &subject).reason(), Reason::Stale);
        let page = client.pin();
        assert_eq!(page.evaluate(odd, &subject).variant(), None);
        assert!(!client.status().is_fresh());

        // A heartbeat that was sent long ago, delivered now, changes nothing about that.
        let old = Ages {
            open_ms: 0,
            fresh_age_ms: 0,
        };
        stream.send_aged(&heartbeat(7), old);
        client.wait_for(version(7), LONG).await.unwrap();
        assert_eq!(client.evaluate(at, &subject).freshness(), Freshness::Stale);
        let now = Ages {
            open_ms: 10_000,
            fresh_age_ms: 20,
        };
        stream.send_aged(&heartbeat(8), now);
        client.wait_for(version(8), LONG).await.unwrap();
        let evaluation = client.evaluate(at, &subject);
        assert_eq!(evaluation.freshness(), Freshness::Fresh);
        assert!(evaluation.age() >= Some(Duration::from_millis(20)));
        assert!(client.is_enabled(odd, &subject));
    }
}

// I5
#[tokio::test(start_paused = true)]
async fn the_time_a_request_waits_for_its_answer_counts_as_age() {
    let (net, mut requests) = Net::new();
    let client = builder(&net, &["n1:1"]).start().unwrap();
    let request = next(&mut requests).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.ready(LONG).await.unwrap();
    let subject = user();
    let age = client.evaluate("at", &subject).age().unwrap();
    assert!(age >= Duration::from_secs(3), "{age:?}");
}

// I6
#[tokio::test(start_paused = true)]
async fn watchers_see_versions_rise_only() {
    let (net, mut requests) = Net::new();
    let (client, stream) = connected(&net, &mut requests).await;
    let mut watch = client.status_watch();
    stream.send(&snapshot_message(0, 2));
    let status = watch.next().await.unwrap();
    assert_eq!(
        (status.version, status.is_connected()),
        (Some(version(4)), false)
    );
    assert_eq!(status.counters.refused_older, 1);
    let stream = serve(&mut requests, 3).await;
    stream.closed().await;
    assert_eq!((client.version(), content(&client)), (Some(version(4)), 4));
    let last = serve(&mut requests, 8).await;
    client.wait_for(version(8), LONG).await.unwrap();
    assert_eq!(content(&client), 8);
    last.send(&StreamMessage::Goodbye { retry_ms: 10 });
    last.closed().await;
    assert_eq!(next(&mut requests).await.since(), Some(8));
}

// I5
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_fresh_state_hears_of_it_also_when_nobody_else_saw_it_stale() {
    let (net, mut requests) = Net::new();
    let clock = HandClock::default();
    let client = builder(&net, &["n1:1"]).clock(clock.clone());
    let client = client.start().unwrap();
    let stream = serve(&mut requests, 4).await;
    client.fresh(LONG).await.unwrap();
    // The clock runs on while nothing else does, as in a suspend; then the next heartbeat comes.
    clock.pass(Duration::from_secs(20));
    assert!(!client.status().is_fresh());
    let mut watch = client.status_watch();
    let confirming = async {
        let open = Ages::new(Duration::from_secs(20), Duration::ZERO);
        stream.send_aged(&heartbeat(4), open);
    };
    let news = tokio::time::timeout(SOON, watch.next());
    let (fresh, news, ()) = tokio::join!(client.fresh(SOON), news, confirming);
    fresh.unwrap();
    assert!(news.unwrap().unwrap().is_fresh());
}
