//! Streams over HTTP: what is said, in which encoding, from where a client resumes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_support::{Api, PATIENCE, flag, serving};
use hyper::body::Incoming;
use pennon_evaluator::wire::{FrameDecoder, MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES, StreamMessage};
use serde_json::{Value, json};

const PATH: &str = "/v1/environments/e/stream";

/// Events of an open stream.
struct Events {
    body: Incoming,
    text: String,
}

/// One event: its name, its id, its data.
#[derive(Debug)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

impl Events {
    async fn open(api: &Api, path: &str, headers: &[(&str, &str)]) -> Self {
        let response = api.open("GET", path, headers, Bytes::new()).await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), MEDIA_TYPE_EVENTS);
        assert_eq!(
            (header("cache-control"), header("x-accel-buffering")),
            ("no-store", "no")
        );
        assert!(header("pennon-version").parse::<u64>().is_ok());
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                let data: Value = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                assert!(
                    data["open_ms"].is_u64() && data["fresh_age_ms"].is_u64(),
                    "{data}"
                );
                let id = field("id: ").map(|id| id.parse().unwrap());
                let event = Event {
                    name: field("event: ").unwrap(),
                    id,
                    data,
                };
                self.text = rest.to_owned();
                return event;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time");
            let data = frame
                .expect("the stream goes on")
                .unwrap()
                .into_data()
                .unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next event that is no heartbeat.
    async fn news(&mut self) -> Event {
        loop {
            let event = self.next().await;
            if event.name != "heartbeat" {
                return event;
            }
        }
    }
}

async fn furnished() -> (pennon_node::server::Node, Api) {
    let (node, api) = Api::single().await;
    api.create("/v1/environments/e", json!({"staleness_bound_ms": 1_000}))
        .await;
    api.create("/v1/flags/a", flag()).await;
    api.create("/v1/environments/e/policies/a", serving("on"))
        .await;
    (node, api)
}

#[tokio::test]
async fn an_application_streams_what_it_needs() {
    let (node, api) = furnished().await;
    let tagged = |tag: &str| {
        let mut config = flag();
        config["tags"] = json!([tag]);
        config
    };
    for (key, tag) in [("shop.a", "shop"), ("other.b", "other")] {
        api.create(&format!("/v1/flags/{key}"), tagged(tag)).await;
        let policy = format!("/v1/environments/e/policies/{key}");
        api.create(&policy, serving("on")).await;
    }
    let open = format!("{PATH}?app=shop");
    let accept = [("accept", MEDIA_TYPE_EVENTS)];
    let missing = api.send("GET", &open, &accept, None).await;
    missing.problem(404, "not-found");
    let snapshot = "/v1/environments/e/snapshot?app=shop";
    api.get(snapshot).await.problem(404, "not-found");
    let shop = json!({"tags": ["shop"]});
    api.create("/v1/applications/shop", shop).await;

    let states = |data: &Value| -> Vec<String> {
        let all = data["states"].as_array().unwrap().iter();
        all.map(|state| state["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let pulled = api.get(snapshot).await.ok();
    assert_eq!(states(&pulled.json), ["shop.a"]);
    let mut events = Events::open(&api, &open, &accept).await;
    assert_eq!(events.next().await.name, "hello");
    let first = events.news().await;
    assert_eq!(states(&first.data), ["shop.a"]);
    assert_eq!(first.data["digest"], pulled.json["digest"]);
    // What is none of its business is not told; the next thing that is comes after it.
    let policy = |key: &str| format!("/v1/environments/e/policies/{key}");
    api.replace(&policy("other.b"), serving("off")).await.ok();
    let version = api
        .replace(&policy("shop.a"), serving("off"))
        .await
        .version();
    let delta = events.news().await;
    assert_eq!(
        (delta.name.as_str(), &delta.data["to"]),
        ("delta", &json!(version))
    );
    assert_eq!(delta.data["upserts"].as_array().unwrap().len(), 1);
    // Somebody else's flag is tagged for it.
    let path = "/v1/flags/other.b";
    api.replace(path, tagged("shop")).await.ok();
    let delta = events.news().await;
    assert_eq!(delta.data["upserts"][0]["key"], "other.b");

    let at = delta.data["to"].as_u64().unwrap();
    let nothing = api.get(&format!("{snapshot}&since={at}")).await.ok().json;
    assert_eq!(
        (&nothing["intent"], &nothing["digest"]),
        (&json!("none"), &delta.data["digest"])
    );
    let whole = api
        .get(&format!("{snapshot}&since={version}"))
        .await
        .ok()
        .json;
    assert_eq!(
        (&whole["intent"], states(&whole).len()),
        (&json!("full"), 2)
    );
    let immutable = format!("/v1/environments/e/snapshots/{at}?app=shop");
    assert_eq!(states(&api.get(&immutable).await.ok().json).len(), 2);
    let earlier = format!("/v1/environments/e/snapshots/{version}?app=shop");
    api.get(&earlier).await.problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn a_stream_is_told_when_its_staleness_bound_changes() {
    let (node, api) = furnished().await;
    let accept = [("accept", MEDIA_TYPE_EVENTS)];
    let mut events = Events::open(&api, PATH, &accept).await;
    assert_eq!(events.next().await.data["staleness_bound_ms"], 1_000);
    assert_eq!(events.news().await.name, "snapshot");
    // Whatever else is said of the environment is no news.
    let path = "/v1/environments/e";
    let described = json!({"staleness_bound_ms": 1_000, "description": "the shop"});
    api.replace(path, described).await.ok();
    // Whoever goes on with a greater bound calls answers FRESH that are not. (I5)
    for bound_ms in [4_000, 2_000] {
        let other = json!({"staleness_bound_ms": bound_ms});
        let version = api.replace(path, other).await.ok().json["version"].clone();
        let hello = events.news().await;
        let told = ["intent", "version", "staleness_bound_ms", "heartbeat_ms"]
            .map(|name| &hello.data[name]);
        let expected = [json!("none"), version, json!(bound_ms), json!(bound_ms / 4)];
        assert_eq!((hello.name.as_str(), told), ("hello", expected.each_ref()));
    }
    api.replace("/v1/environments/e/policies/a", serving("off"))
        .await
        .ok();
    assert_eq!(events.news().await.name, "delta");
    node.shutdown().await;
}

#[tokio::test]
async fn events_are_hello_snapshot_delta_heartbeat_goodbye() {
    let (node, api) = furnished().await;
    let mut events = Events::open(&api, &format!("{PATH}?client=test"), &[("accept", "*/*")]).await;
    let hello = events.next().await;
    assert_eq!(
        (hello.name.as_str(), &hello.data["intent"], hello.id),
        ("hello", &json!("full"), None)
    );
    assert_eq!(
        hello.data["cluster_id"],
        api.get("/v1/cluster").await.json["cluster_id"]
    );
    let snapshot = events.next().await;
    assert_eq!(
        (
            snapshot.name.as_str(),
            snapshot.data["states"][0]["key"].as_str()
        ),
        ("snapshot", Some("a"))
    );
    assert_eq!(snapshot.id, snapshot.data["version"].as_u64());

    let written = api
        .replace("/v1/environments/e/policies/a", serving("off"))
        .await
        .ok();
    let delta = events.news().await;
    assert_eq!(
        (delta.name.as_str(), &delta.data["to"]),
        ("delta", &json!(written.version()))
    );
    assert_eq!(
        delta.data["upserts"][0]["default"],
        json!({"variant": "off"})
    );
    let newest = api.get("/v1/environments/e/snapshot").await.ok();
    assert_eq!(delta.data["digest"], newest.json["digest"]);

    let before = tokio::time::Instant::now();
    let heartbeat = events.next().await;
    assert_eq!(
        (heartbeat.name.as_str(), heartbeat.id),
        ("heartbeat", heartbeat.data["version"].as_u64())
    );
    assert!(before.elapsed() <= Duration::from_millis(1_000) / 3 + Duration::from_millis(500));
    node.app().drain();
    assert_eq!(events.news().await.name, "goodbye");
    assert!(events.body.frame().await.is_none());
    node.shutdown().await;
}

#[tokio::test]
async fn a_stream_resumes_from_the_version_the_client_has() {
    let (node, api) = furnished().await;
    let version = api.get("/v1/environments/e/snapshot").await.version();
    let cluster = api.get("/v1/cluster").await.json["cluster_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let hello = async |path: String, headers: &[(&str, &str)]| {
        let hello = Events::open(&api, &path, headers).await.next().await;
        hello.data["intent"].as_str().unwrap().to_owned()
    };
    assert_eq!(hello(format!("{PATH}?since={version}"), &[]).await, "none");
    assert_eq!(
        hello(format!("{PATH}?since={version}&cluster={cluster}"), &[]).await,
        "none"
    );
    assert_eq!(
        hello(format!("{PATH}?since={version}&cluster=0"), &[]).await,
        "full"
    );
    api.replace("/v1/environments/e/policies/a", serving("off"))
        .await
        .ok();
    assert_eq!(
        hello(format!("{PATH}?since={version}"), &[]).await,
        "changes"
    );
    let newest = api
        .get("/v1/environments/e/snapshot")
        .await
        .version()
        .to_string();
    let reconnect = [("last-event-id", newest.as_str())];
    assert_eq!(
        hello(format!("{PATH}?since={version}"), &reconnect).await,
        "none"
    );
    assert_eq!(hello(format!("{PATH}?since=0"), &[]).await, "full");
    node.shutdown().await;
}

#[tokio::test]
async fn a_last_event_id_that_is_none_of_ours_is_refused_or_answered_with_everything() {
    let (node, api) = furnished().await;
    let newest = api.get("/v1/environments/e/snapshot").await.version();
    for bad in [
        "",
        " ",
        "x",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x10",
        "1,2",
        "\"3\"",
        "9007199254740992",
        "18446744073709551616",
        "99999999999999999999999999",
        "null",
        "3 4",
    ] {
        let refused = api.send("GET", PATH, &[("last-event-id", bad)], None).await;
        let refused = refused.problem(400, "validation");
        assert!(
            refused.text.contains("Last-Event-ID"),
            "{bad:?}: {}",
            refused.text
        );
    }
    let twice = [("last-event-id", "1"), ("last-event-id", "2")];
    let twice = api.send("GET", PATH, &twice, None).await;
    twice.problem(400, "validation");
    // Of the future: this node waits for it, then says that it is behind; never an older state.
    let future = (newest + 1_000).to_string();
    let future = [("last-event-id", future.as_str())];
    let waiting = format!("{PATH}?wait=20ms");
    let ahead = api.send("GET", &waiting, &future, None).await;
    ahead.problem(503, "not-fresh-enough");
    // Of another cluster: it means nothing here, however great it is.
    let foreign = format!("{PATH}?wait=20ms&cluster=00000000000000000000000000000000");
    let mut events = Events::open(&api, &foreign, &future).await;
    assert_eq!(events.next().await.data["intent"], "full");
    let snapshot = events.news().await;
    assert_eq!(
        (snapshot.name.as_str(), snapshot.id),
        ("snapshot", Some(newest))
    );
    // Of a past that nobody remembers: everything.
    let mut events = Events::open(&api, PATH, &[("last-event-id", "0")]).await;
    assert_eq!(events.next().await.data["intent"], "full");
    assert_eq!(events.news().await.name, "snapshot");
    node.shutdown().await;
}

#[tokio::test]
async fn frames_carry_the_same_messages() {
    let (node, api) = furnished().await;
    let response = api
        .open("GET", PATH, &[("accept", MEDIA_TYPE_FRAMES)], Bytes::new())
        .await;
    assert_eq!(response.headers()["content-type"], MEDIA_TYPE_FRAMES);
    let mut body = response.into_body();
    let (mut decoder, mut messages) = (FrameDecoder::default(), Vec::new());
    while messages.len() < 2 {
        let frame = tokio::time::timeout(PATIENCE, body.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        decoder.push(&frame.into_data().unwrap());
        while let Some((_, message)) = decoder.pull().unwrap() {
            messages.push(message);
        }
    }
    assert!(
        matches!(&messages[0], StreamMessage::Hello { environment, .. } if environment.as_str() == "e")
    );
    let snapshot = messages
        .swap_remove(1)
        .into_snapshot(&"e".parse().unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(snapshot.states().len(), 1);
    drop(body);
    node.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_before_the_first_byte() {
    let (node, api) = furnished().await;
    let json_only = [("accept", "application/json")];
    api.send("GET", PATH, &json_only, None)
        .await
        .problem(406, "not-acceptable");
    api.get("/v1/environments/none/stream")
        .await
        .problem(404, "not-found");
    api.get(&format!("{PATH}?since=9999&wait=20ms"))
        .await
        .problem(503, "not-fresh-enough");
    api.get(&format!("{PATH}?since=x"))
        .await
        .problem(400, "validation");
    api.get(&format!("{PATH}?client="))
        .await
        .problem(400, "validation");
    api.get(&format!("{PATH}?client={}", "c".repeat(257)))
        .await
        .problem(400, "validation");
    api.send("GET", PATH, &[("last-event-id", "x")], None)
        .await
        .problem(400, "validation");
    node.shutdown().await;
}
