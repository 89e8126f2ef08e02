//! Applications over HTTP: written like any object, and refused with the place of what is wrong.
//! `http_support` holds every answer against `/openapi.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use http_support::furnished;
use serde_json::json;

const SHOP: &str = "/v1/applications/shop";

#[tokio::test]
async fn an_application_is_an_object_like_any_other() {
    let (node, api) = furnished().await;
    api.get(SHOP).await.problem(404, "not-found");
    let tags = json!({"tags": ["search", "checkout"]});
    api.send("PUT", SHOP, &[], Some(tags.clone()))
        .await
        .problem(428, "precondition-required");
    let first = api.create(SHOP, tags.clone()).await.version();
    let got = api.get(SHOP).await.ok();
    assert_eq!(got.header("etag"), format!("\"{first}\""));
    assert_eq!(got.json["value"], tags);
    let set = json!([
        {"op": "put", "kind": "application", "key": "shop", "value": {"tags": ["a"]}, "expected_version": first},
        {"op": "put", "kind": "application", "key": "admin", "value": {"tags": ["b"]}, "expected_version": 0},
    ]);
    let done = api.post("/v1/changes", set).await.ok().json;
    assert_eq!(done["results"][0]["previous_version"], first);
    let listed = api.get("/v1/applications").await.ok().json;
    let keys = listed["items"].as_array().unwrap().iter();
    let keys: Vec<_> = keys.map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["admin", "shop"]);
    let history = api.get(&format!("{SHOP}/history")).await.ok().json;
    assert_eq!(history["items"][0]["value"], json!({"tags": ["a"]}));
    assert_eq!(history["items"][1]["value"], tags);
    let any = [("if-match", "*")];
    api.send("DELETE", SHOP, &any, None).await.ok();
    api.get(SHOP).await.problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn applications_that_cannot_be() {
    let (node, api) = furnished().await;
    let create = [("if-none-match", "*")];
    for (value, pointers) in [
        (json!([]), vec![""]),
        (json!({}), vec!["/tags"]),
        (json!({"tags": []}), vec!["/tags"]),
        (
            json!({"tags": ["a", "", "a", 1], "tgas": 1}),
            vec!["/tgas", "/tags/1", "/tags/2", "/tags/3"],
        ),
        (json!({"tags": ["a"], "key": "other"}), vec!["/key"]),
    ] {
        let refused = api.send("PUT", SHOP, &create, Some(value)).await;
        let refused = refused.problem(400, "validation");
        assert_eq!(refused.pointers(), pointers, "{}", refused.text);
    }
    api.get("/v1/applications/a%20b")
        .await
        .problem(400, "validation");
    let changes = json!([
        {"op": "put", "kind": "application", "key": "a b", "value": {"tags": ["a"]}},
        {"op": "put", "kind": "app", "key": "shop", "value": {"tags": ["a"]}},
    ]);
    let refused = api.post("/v1/changes", changes).await;
    let refused = refused.problem(400, "validation");
    assert_eq!(refused.pointers(), ["/0/key", "/1/kind"]);
    assert!(
        refused.text.contains("setting, application"),
        "{}",
        refused.text
    );
    node.shutdown().await;
}
