//! Receipts over HTTP: what is taken, what a write can wait for, what is said of an environment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_support::{Api, PATIENCE, flag, furnished};
use serde_json::{Value, json};

const STREAM: &str = "/v1/environments/prod/stream";
const RECEIPTS: &str = "/v1/environments/prod/receipts";

async fn acknowledge(api: &Api, client: &str, version: u64) {
    let body = json!({"client": client, "version": version});
    let taken = api.post(RECEIPTS, body).await;
    assert_eq!(taken.status, StatusCode::NO_CONTENT, "{}", taken.text);
}

async fn open(api: &Api, query: &str) -> http::Response<hyper::body::Incoming> {
    let accept = [("accept", "text/event-stream")];
    let path = format!("{STREAM}?since=0{query}");
    let stream = api.open("GET", &path, &accept, Bytes::new()).await;
    assert_eq!(stream.status(), StatusCode::OK);
    stream
}

fn ids(body: &Value) -> Vec<(&str, &str)> {
    let all = body["laggards"].as_array().unwrap().iter();
    all.map(|one| (one["id"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn who_is_connected_and_has_not_acknowledged_is_named() {
    let (node, api) = furnished().await;
    let nobody = api.get(RECEIPTS).await.ok().json;
    assert_eq!(
        (&nobody["connected"], &nobody["complete"]),
        (&json!(0), &json!(true))
    );
    let (a, _b) = (open(&api, "&client=a").await, open(&api, "&client=b").await);
    let _unnamed = open(&api, "").await;
    let at = api.get("/v1/environments/prod/status").await.ok().json;
    let changed_at = at["changed_at"].as_u64().unwrap();
    acknowledge(&api, "a", changed_at).await;
    let some = api.get(RECEIPTS).await.ok().json;
    assert_eq!(
        some["version"], changed_at,
        "the last change unless said otherwise"
    );
    assert_eq!(
        (&some["connected"], &some["acknowledged"], &some["unnamed"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!(ids(&some), [("b", "connected")]);
    assert_eq!(some["complete"], false);
    let earlier = format!("{RECEIPTS}?version=0");
    assert_eq!(api.get(&earlier).await.ok().json["complete"], true);

    // A version that nobody can have yet is not taken from anybody.
    acknowledge(&api, "b", 1 << 50).await;
    let disabled = "/v1/environments/prod/flags/a:disable";
    let done = api
        .send(
            "POST",
            &format!("{disabled}?ack=delivered&timeout=300ms"),
            &[],
            None,
        )
        .await
        .ok();
    assert_eq!(done.json["delivery"]["complete"], false);
    assert_eq!(
        ids(&done.json["delivery"]),
        [("a", "connected"), ("b", "connected")]
    );
    let version = done.json["version"].as_u64().unwrap();
    let flag = api.get("/v1/environments/prod/status/a").await.ok().json;
    assert_eq!(
        (&flag["config_version"], &flag["enabled"]),
        (&json!(version), &json!(false))
    );
    assert_eq!(flag["last_change"]["version"], version);
    assert_eq!(flag["laggards_total"], 2);

    // The wait ends with the last receipt.
    let wait = format!("{RECEIPTS}?wait=20s");
    let acknowledging = async {
        acknowledge(&api, "a", version).await;
        acknowledge(&api, "b", version).await;
    };
    let (waited, ()) = tokio::join!(api.get(&wait), acknowledging);
    assert_eq!(waited.ok().json["complete"], true);

    drop(a);
    let one_is_left = async {
        loop {
            let status = api.get("/v1/environments/prod/status").await.ok().json;
            if status["connected"] == 1 {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, one_is_left).await.unwrap();
    assert!(ids(&status).is_empty(), "it had the newest version");
    node.shutdown().await;
}

#[tokio::test]
async fn a_write_waits_for_nodes_and_evaluators_and_stands_either_way() {
    let (node, api) = furnished().await;
    let enabled = "/v1/environments/prod/flags/a:enable?ack=applied";
    let done = api.send("POST", enabled, &[], None).await.ok().json;
    assert_eq!(
        (&done["delivery"]["for"], &done["delivery"]["complete"]),
        (&json!("applied"), &json!(true))
    );
    assert_eq!(done["delivery"]["nodes"][0]["name"], "n1");
    let set = json!([{"op": "put", "kind": "flag", "key": "c", "value": flag()}]);
    let done = api.post("/v1/changes?ack=delivered", set).await.ok().json;
    assert_eq!(
        (&done["delivery"]["for"], &done["delivery"]["complete"]),
        (&json!("delivered"), &json!(true))
    );
    let plain = api
        .send("POST", "/v1/environments/prod/flags/a:disable", &[], None)
        .await
        .ok();
    assert!(plain.json.get("delivery").is_none());
    node.shutdown().await;
}

#[tokio::test]
async fn who_polls_is_named_for_as_long_as_it_can_act_on_what_it_got() {
    let (node, api) = furnished().await;
    let snapshot = "/v1/environments/prod/snapshot";
    let got = api.get(&format!("{snapshot}?client=p")).await.ok();
    let cluster = api.get("/v1/cluster").await.json["cluster_id"].clone();
    let cluster = cluster.as_str().unwrap();
    let before = got.version();
    assert_eq!(got.header("pennon-cluster"), cluster);
    assert_eq!(got.header("pennon-staleness-bound-ms"), "5000");

    let done = "/v1/environments/prod/flags/a:disable?ack=delivered&timeout=100ms";
    let done = api.send("POST", done, &[], None).await.ok().json;
    assert_eq!(ids(&done["delivery"]), [("p", "disconnected")]);
    let settled = done["delivery"]["settled_in_ms"].as_u64().unwrap();
    assert!(settled > 0 && settled <= 5_001, "{settled}"); // I5
    let version = done["version"].as_u64().unwrap();

    // What it asks to go on from, it has; but only if that is a version of this cluster.
    let ask =
        |since: u64, cluster: &str| format!("{snapshot}?client=p&since={since}&cluster={cluster}");
    let foreign = api.get(&ask(version + 1_000, "0")).await.ok();
    assert!(foreign.json.get("intent").is_none(), "everything");
    let tag = format!("\"{}\"", version + 1_000);
    let tags = [("if-none-match", tag.as_str())];
    let foreign = api.send("GET", &ask(version, "0"), &tags, None).await.ok();
    assert_eq!(foreign.version(), version);
    assert_eq!(
        ids(&api.get(RECEIPTS).await.ok().json),
        [("p", "disconnected")]
    );
    let changes = api.get(&ask(before, cluster)).await.ok();
    assert_eq!(changes.json["intent"], "changes");
    let tag = format!("\"{version}\"");
    let tags = [("if-none-match", tag.as_str())];
    let same = api.send("GET", &ask(version, cluster), &tags, None).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    assert_eq!(same.header("pennon-cluster"), cluster);
    assert_eq!(same.header("pennon-staleness-bound-ms"), "5000");
    let all = api.get(RECEIPTS).await.ok().json;
    assert_eq!((ids(&all), &all["settled_in_ms"]), (vec![], &json!(0)));

    // Nothing is known of who polls without a name, but that somebody did.
    api.get(snapshot).await.ok();
    let done = "/v1/environments/prod/flags/a:enable?ack=delivered&timeout=100ms";
    let done = api.send("POST", done, &[], None).await.ok().json;
    acknowledge(&api, "p", done["version"].as_u64().unwrap()).await;
    let all = api.get(RECEIPTS).await.ok().json;
    assert!(
        ids(&all).is_empty() && all["settled_in_ms"].as_u64() > Some(0),
        "{all}"
    ); // I5

    let newest = api.get(snapshot).await.version();
    let old = api.get(&format!("{snapshot}s/{newest}")).await;
    assert_eq!(old.header("pennon-cluster"), cluster);
    let nameless = api.get(&format!("{snapshot}?client=")).await;
    nameless.problem(400, "validation");
    node.shutdown().await;
}

#[tokio::test]
async fn what_is_no_receipt_is_refused() {
    let (node, api) = furnished().await;
    for body in [
        json!([]),
        json!({"client": "a"}),
        json!({"client": "", "version": 1}),
        json!({"client": "a", "version": -1}),
    ] {
        api.post(RECEIPTS, body).await.problem(400, "validation");
    }
    let receipt = json!({"client": "a", "version": 1});
    let path = "/v1/environments/none/receipts";
    api.post(path, receipt.clone())
        .await
        .problem(404, "not-found");
    api.get(path).await.problem(404, "not-found");
    api.get("/v1/environments/none/status")
        .await
        .problem(404, "not-found");
    api.get("/v1/environments/prod/status/none")
        .await
        .problem(404, "not-found");
    api.get(&format!("{RECEIPTS}?version=x"))
        .await
        .problem(400, "validation");
    api.get(&format!("{RECEIPTS}?wait=2h"))
        .await
        .problem(400, "validation");
    let disable = "/v1/environments/prod/flags/a:disable?ack=everybody";
    let refused = api
        .send("POST", disable, &[], None)
        .await
        .problem(400, "validation");
    assert!(
        refused.text.contains("committed, applied, delivered"),
        "{}",
        refused.text
    );
    let long = "x".repeat(5_000);
    let receipt = json!({"client": long, "version": 1});
    api.post(RECEIPTS, receipt).await.problem(413, "too-large");
    node.shutdown().await;
}
