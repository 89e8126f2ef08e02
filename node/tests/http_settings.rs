//! Settings over HTTP: written like any object, in force at once, and refused with the place of what
//! is wrong. `http_support` holds every answer against `/openapi.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use http_support::{flag, furnished, serving};
use serde_json::json;

const LIMITS: &str = "/v1/settings/limits";

#[tokio::test]
async fn a_setting_is_an_object_and_what_is_in_force_can_be_seen() {
    let (node, api) = furnished().await;
    api.get(LIMITS).await.problem(404, "not-found");
    assert_eq!(api.get("/v1/settings").await.ok().json["items"], json!([]));
    let effective = "/v1/settings/limits/effective";
    let unset = api.get(effective).await.ok().json;
    assert_eq!(unset["effective"], unset["default"]);
    assert_eq!(unset["effective"]["rules"], 1_000);
    assert_eq!(unset["greatest"]["rules"], 10_000);
    assert!(unset.get("stored").is_none());

    api.send("PUT", LIMITS, &[], Some(json!({"rules": 2})))
        .await
        .problem(428, "precondition-required");
    let first = api.create(LIMITS, json!({"rules": 2})).await.version();
    let lost = [("if-match", "\"1\"")];
    api.send("PUT", LIMITS, &lost, Some(json!({"rules": 3})))
        .await
        .problem(412, "version-conflict");
    let got = api.get(LIMITS).await.ok();
    assert_eq!(got.header("etag"), format!("\"{first}\""));
    assert_eq!(got.json["value"], json!({"rules": 2}));
    let set = api.get(effective).await.ok().json;
    assert_eq!(
        (&set["effective"]["rules"], &set["effective"]["flags"]),
        (&json!(2), &json!(100_000))
    );
    assert_eq!(set["stored"], got.json);
    let listed = api.get("/v1/settings").await.ok().json;
    assert_eq!(listed["items"], json!([got.json]));
    api.replace(LIMITS, json!({"clauses": 9})).await.ok();
    let history = api.get("/v1/settings/limits/history").await.ok().json;
    assert_eq!(history["items"][0]["value"], json!({"clauses": 9}));
    assert_eq!(history["items"][1]["version"], first);
    let any = [("if-match", "*")];
    api.send("DELETE", LIMITS, &any, None).await.ok();
    assert_eq!(
        api.get(effective).await.ok().json["effective"],
        unset["effective"]
    );
    node.shutdown().await;
}

#[tokio::test]
async fn settings_that_cannot_be() {
    let (node, api) = furnished().await;
    let any = [("if-match", "*")];
    let create = [("if-none-match", "*")];
    let unknown = api
        .send("PUT", "/v1/settings/limit", &create, Some(json!({})))
        .await
        .problem(404, "not-found");
    let detail = unknown.json["detail"].as_str().unwrap();
    assert_eq!(
        detail,
        "there is no setting \"limit\"; there is: limits, history"
    );
    for path in [
        "/v1/settings/x",
        "/v1/settings/x/history",
        "/v1/settings/x/effective",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    api.send("DELETE", "/v1/settings/x", &any, None)
        .await
        .problem(404, "not-found");
    api.send("DELETE", LIMITS, &any, None)
        .await
        .problem(412, "version-conflict");
    let value = json!({"rulez": 5, "rules": 0, "values": "many", "context_bytes": 1_000_000});
    let refused = api
        .send("PUT", LIMITS, &create, Some(value))
        .await
        .problem(400, "validation");
    assert_eq!(
        refused.pointers(),
        ["/rulez", "/rules", "/values", "/context_bytes"]
    );
    assert!(
        refused.text.contains(r#"did you mean \"rules\"?"#),
        "{}",
        refused.text
    );
    let changes = json!([
        {"op": "put", "kind": "setting", "key": "colours", "value": {}},
        {"op": "put", "kind": "setting", "environment": "prod", "key": "limits", "value": {}},
    ]);
    let refused = api
        .post("/v1/changes", changes)
        .await
        .problem(400, "validation");
    assert_eq!(refused.pointers(), ["/0/key", "/1/environment"]);
    let changes =
        json!([{"op": "put", "kind": "setting", "key": "limits", "value": {"flags": -1}}]);
    let refused = api
        .post("/v1/changes", changes)
        .await
        .problem(400, "validation");
    assert_eq!(refused.pointers(), ["/0/value/flags"]);
    node.shutdown().await;
}

#[tokio::test]
async fn limits_refuse_what_is_written_and_what_is_asked() {
    let (node, api) = furnished().await;
    let limits = json!({"rules": 1, "flags": 3, "attributes": 2, "context_bytes": 20});
    let put = |value: &serde_json::Value| json!({"op": "put", "kind": "setting", "key": "limits", "value": value});
    // Together with the flag that the limit still lets in.
    let changes = json!([{"op": "put", "kind": "flag", "key": "c", "value": flag()}, put(&limits)]);
    api.post("/v1/changes", changes).await.ok();
    let quota = api
        .send(
            "PUT",
            "/v1/flags/d",
            &[("if-none-match", "*")],
            Some(flag()),
        )
        .await
        .problem(422, "quota-exceeded");
    assert_eq!(
        (&quota.json["quota"], &quota.json["max"]),
        (&json!("flags"), &json!(3))
    );
    let mut policy = serving("on");
    let rule = json!({"when": [], "serve": {"variant": "on"}});
    policy["rules"] = json!([rule, rule]);
    let refused = api
        .replace("/v1/environments/prod/policies/a", policy)
        .await
        .problem(400, "validation");
    assert_eq!(refused.pointers(), ["/rules"]);

    let evaluate = |attributes: serde_json::Value| {
        let body = json!({"subject_key": "u", "attributes": attributes});
        api.post("/v1/environments/prod/evaluate/a", body)
    };
    evaluate(json!({"a": 1, "b": 2})).await.ok();
    let refused = evaluate(json!({"a": 1, "b": 2, "c": 3}))
        .await
        .problem(400, "validation");
    assert!(
        refused.text.contains("at most 2 attributes"),
        "{}",
        refused.text
    );
    let refused = evaluate(json!({"a": "a text that is too long"}))
        .await
        .problem(400, "validation");
    assert!(
        refused.text.contains("at most 20 bytes"),
        "{}",
        refused.text
    );
    node.shutdown().await;
}
