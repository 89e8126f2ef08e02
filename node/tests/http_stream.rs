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
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pennon_evaluator::Version;
use pennon_evaluator::wire::{
    Ages, FrameDecoder, MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES, PROTOCOL_FRAMES, SharedFrame,
    StreamMessage,
};
use pennon_node::net::Connect;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// A stream without HTTP around it.
struct Bare {
    io: TokioIo<Upgraded>,
    decoder: FrameDecoder,
}

impl Bare {
    const ASKED: [(&str, &str); 3] = [
        ("accept", MEDIA_TYPE_FRAMES),
        ("connection", "upgrade"),
        ("upgrade", "Pennon-Frames"),
    ];

    async fn open(api: &Api, path: &str) -> Self {
        let response = api.open("GET", path, &Self::ASKED, Bytes::new()).await;
        assert_eq!(response.status(), 101);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(
            (header("upgrade"), header("pennon-node")),
            (PROTOCOL_FRAMES, "n1")
        );
        Self {
            io: TokioIo::new(hyper::upgrade::on(response).await.unwrap()),
            decoder: FrameDecoder::default(),
        }
    }

    /// The next message that is no heartbeat; none at the end.
    async fn news(&mut self) -> Option<StreamMessage> {
        loop {
            match self.decoder.pull().unwrap() {
                None => {}
                Some((_, StreamMessage::Heartbeat { .. })) => continue,
                Some((_, message)) => return Some(message),
            }
            let read = self.io.read_buf(self.decoder.space());
            let read = tokio::time::timeout(PATIENCE, read).await;
            if read.expect("something in time").unwrap() == 0 {
                return None;
            }
        }
    }

    async fn tell(&mut self, message: &StreamMessage) {
        let frame = SharedFrame::encode(message).unwrap();
        let header = frame.header(Ages::default());
        let bytes = [&header[..], frame.body()].concat();
        self.io.write_all(&bytes).await.unwrap();
    }
}

fn receipt(version: u64) -> StreamMessage {
    let version = Version::new(version).unwrap();
    StreamMessage::Acknowledge { version }
}

/// What the node knows of evaluators: name and version.
async fn known(api: &Api) -> Vec<(String, u64)> {
    let status = api.get("/v1/environments/e/receipts?version=9007199254740991");
    let laggards = status.await.ok().json["laggards"].clone();
    let known = laggards.as_array().unwrap().iter().map(|one| {
        let id = one["id"].as_str().unwrap().to_owned();
        (id, one["version"].as_u64().unwrap())
    });
    known.collect()
}

#[tokio::test]
async fn a_connection_is_switched_to_frames_and_takes_receipts() {
    let (node, api) = furnished().await;
    let mut bare = Bare::open(&api, &format!("{PATH}?client=shop")).await;
    let hello = bare.news().await.unwrap();
    assert!(matches!(hello, StreamMessage::Hello { .. }), "{hello:?}");
    let Some(StreamMessage::Snapshot { version, .. }) = bare.news().await else {
        panic!("no snapshot");
    };
    assert_eq!(known(&api).await, [("shop".to_owned(), 0)]);
    bare.tell(&receipt(version.get())).await;
    // Nobody has what this node does not have.
    bare.tell(&receipt(version.get() + 1_000)).await;
    let waited = tokio::time::timeout(PATIENCE, async {
        while known(&api).await != [("shop".to_owned(), version.get())] {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the receipt arrives");
    // A write that waits for receipts is told by the stream, and hears by it.
    let path = "/v1/environments/e/flags/a:disable?ack=delivered&timeout=15s";
    let written = async { api.send("POST", path, &[], None).await.ok() };
    let applied = async {
        loop {
            match bare.news().await.unwrap() {
                StreamMessage::Delta { to, .. } => bare.tell(&receipt(to.get())).await,
                StreamMessage::Acknowledge { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let written = tokio::select! {
        written = written => written,
        () = applied => unreachable!(),
    };
    assert_eq!(
        written.json["delivery"]["complete"], true,
        "{}",
        written.text
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_receipt_that_comes_with_the_request_is_taken() {
    let (node, api) = furnished().await;
    let mut io = api.network().connect("n1:api").await.unwrap();
    let request = format!(
        "GET {PATH}?client=shop HTTP/1.1\r\nhost: n1\r\naccept: {MEDIA_TYPE_FRAMES}\r\n\
         connection: upgrade\r\nupgrade: {PROTOCOL_FRAMES}\r\n\r\n"
    );
    let frame = SharedFrame::encode(&receipt(1)).unwrap();
    let header = frame.header(Ages::default());
    let bytes = [request.as_bytes(), &header, frame.body()].concat();
    io.write_all(&bytes).await.unwrap();
    let waited = tokio::time::timeout(PATIENCE, async {
        while known(&api).await != [("shop".to_owned(), 1)] {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the receipt arrives");
    drop(io);
    node.shutdown().await;
}

#[tokio::test]
async fn what_a_client_sends_ends_its_own_stream_at_worst() {
    let (node, api) = furnished().await;
    let mut other = Bare::open(&api, &format!("{PATH}?client=other")).await;
    for _ in 0..2 {
        other.news().await.unwrap();
    }
    let nonsense = StreamMessage::Reset {
        reason: "x".repeat(20),
    };
    let long = [&200_u32.to_le_bytes()[..], &[0; 300]].concat();
    for bad in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &long] {
        let mut bare = Bare::open(&api, PATH).await;
        bare.io.write_all(bad).await.unwrap();
        while bare.news().await.is_some() {}
    }
    let mut bare = Bare::open(&api, PATH).await;
    bare.tell(&nonsense).await;
    while bare.news().await.is_some() {}
    // A receipt without a name is nobody's, one in pieces is one.
    let mut unnamed = Bare::open(&api, PATH).await;
    unnamed.tell(&receipt(1)).await;
    assert!(unnamed.news().await.is_some());
    api.create("/v1/environments/e/segments/s", json!({"rules": []}))
        .await;
    let delta = other.news().await.unwrap();
    assert!(matches!(delta, StreamMessage::Delta { .. }), "{delta:?}");
    assert_eq!(known(&api).await, [("other".to_owned(), 0)]);
    drop(unnamed);
    node.shutdown().await;
}

#[tokio::test]
async fn only_frames_that_are_granted_switch_a_connection() {
    let (node, api) = furnished().await;
    let asked = |accept| [("accept", accept), Bare::ASKED[1], Bare::ASKED[2]];
    let mut events = Events::open(&api, PATH, &asked(MEDIA_TYPE_EVENTS)).await;
    assert_eq!(events.next().await.name, "hello");
    let missing = "/v1/environments/none/stream";
    let missing = api.send("GET", missing, &Bare::ASKED, None).await;
    missing.problem(404, "not-found");
    let behind = format!("{PATH}?since=9999&wait=20ms");
    let behind = api.send("GET", &behind, &Bare::ASKED, None).await;
    behind.problem(503, "not-fresh-enough");
    let head = api.open("HEAD", PATH, &Bare::ASKED, Bytes::new()).await;
    assert_eq!(head.status(), 200);
    let elsewhere = api
        .send("GET", "/v1/environments/e", &Bare::ASKED, None)
        .await;
    elsewhere.ok();
    // Without the word in Connection it is nothing to a proxy, and nothing here.
    let response = api
        .open("GET", PATH, &[Bare::ASKED[0], Bare::ASKED[2]], Bytes::new())
        .await;
    assert_eq!(response.status(), 200);
    drop((events, response));
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_that_goes_says_goodbye_by_the_connection_and_ends_it() {
    let (node, api) = furnished().await;
    let mut bare = Bare::open(&api, PATH).await;
    for _ in 0..2 {
        bare.news().await.unwrap();
    }
    // Not read by then, and no reason to take the goodbye back.
    bare.tell(&receipt(1)).await;
    let began = std::time::Instant::now();
    let (heard, ()) = tokio::join!(
        async {
            let heard = bare.news().await;
            let end = bare.news().await;
            drop(bare);
            (heard, end)
        },
        node.shutdown()
    );
    assert!(
        matches!(heard, (Some(StreamMessage::Goodbye { .. }), None)),
        "{heard:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "not cut by the grace"
    );
}
