//! Every route of the surface, writes and their outcomes, on a real node in memory.
//!
//! `http_support` holds each answer of every test against `/openapi.json`: its status, its media
//! type, its required fields, the three headers, and the shape of problem documents.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use http::StatusCode;
use http_support::{Api, flag, furnished, serving};
use serde_json::{Value, json};

#[tokio::test]
async fn every_route_answers_as_documented() {
    let (node, api) = furnished().await;
    api.create("/v1/settings/limits", json!({"rules": 5})).await;
    let shop = json!({"tags": ["checkout"], "description": "the shop"});
    api.create("/v1/applications/shop%2Fweb", shop).await;
    for path in [
        "/v1/applications",
        "/v1/applications/shop%2Fweb",
        "/v1/applications/shop%2Fweb/history",
        "/v1/settings",
        "/v1/settings/limits",
        "/v1/settings/limits/history",
        "/v1/settings/limits/effective",
        "/v1/flags",
        "/v1/flags/a",
        "/v1/flags/a/history",
        "/v1/environments",
        "/v1/environments/prod",
        "/v1/environments/prod/history",
        "/v1/audit",
        "/v1/environments/prod/policies",
        "/v1/environments/prod/policies/a",
        "/v1/environments/prod/policies/a/history",
        "/v1/environments/prod/segments",
        "/v1/environments/prod/segments/beta",
        "/v1/environments/prod/segments/beta/history",
        "/v1/environments/prod/states",
        "/v1/environments/prod/states/a",
        "/v1/environments/prod/snapshot",
        "/v1/environments/prod/receipts",
        "/v1/environments/prod/status",
        "/v1/environments/prod/status/a",
        "/v1/cluster",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/problems/validation",
    ] {
        api.get(path).await.ok();
    }
    let version = api.get("/v1/environments/prod/snapshot").await.json["version"].clone();
    api.get(&format!("/v1/environments/prod/snapshots/{version}"))
        .await
        .ok();
    let subject = json!({"subject_key": "u"});
    api.post("/v1/environments/prod/evaluate", subject.clone())
        .await
        .ok();
    for path in ["evaluate/a", "explain/a"] {
        api.post(&format!("/v1/environments/prod/{path}"), subject.clone())
            .await
            .ok();
    }
    let receipt = json!({"client": "web", "version": version});
    let taken = api.post("/v1/environments/prod/receipts", receipt).await;
    assert_eq!(taken.status, StatusCode::NO_CONTENT);
    for action in ["disable", "enable"] {
        api.send(
            "POST",
            &format!("/v1/environments/prod/flags/a:{action}"),
            &[],
            None,
        )
        .await
        .ok();
    }
    api.post(
        "/v1/changes",
        json!([{"op": "put", "kind": "flag", "key": "c", "value": flag()}]),
    )
    .await
    .ok();
    api.get("/v1/backup").await.ok();
    let whole = json!({"objects": [{"kind": "flag", "key": "a", "value": flag()}]});
    api.post("/v1/cluster:restore?dry_run=true", whole)
        .await
        .ok();
    let any: &[(&str, &str)] = &[("if-match", "*")];
    for path in [
        "prod/policies/a",
        "prod/policies/b%2Fx%3Ay",
        "prod/segments/beta",
        "prod",
    ] {
        api.send("DELETE", &format!("/v1/environments/{path}"), any, None)
            .await
            .ok();
    }
    for path in [
        "/v1/flags/a",
        "/v1/settings/limits",
        "/v1/applications/shop%2Fweb",
    ] {
        api.send("DELETE", path, any, None).await.ok();
    }

    let alone = api
        .send("POST", "/v1/cluster:transfer-leader", &[], None)
        .await;
    alone.problem(409, "membership-refused");
    let nobody = "/v1/cluster:transfer-leader?to=n9";
    let missing = api.send("POST", nobody, &[], None).await;
    missing.problem(404, "not-found");
    for (method, path) in [
        ("POST", "/v1/cluster/members/n1:promote"),
        ("POST", "/v1/cluster/members/n1:demote"),
        ("DELETE", "/v1/cluster/members/n1"),
    ] {
        let refused = api.send(method, path, &[], None).await;
        refused.problem(409, "membership-refused");
        let nobody = path.replace("n1", "n9");
        let missing = api.send(method, &nobody, &[], None).await;
        assert!(
            missing
                .problem(404, "not-found")
                .text
                .contains("there are n1")
        );
    }

    let document = api.document();
    let mut documented: Vec<String> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        documented.extend(
            operations
                .as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    // A stream never ends; `http_stream.rs` has it.
    documented.retain(|operation| !operation.ends_with("/stream"));
    // A cluster of one has no member to spare; `simulation/learners.rs` has three.
    documented.retain(|operation| !operation.contains("/cluster/members/"));
    documented.retain(|operation| !operation.ends_with(":transfer-leader"));
    documented.sort();
    let exercised: Vec<String> = api.exercised().into_iter().collect();
    let missing: Vec<_> = documented
        .iter()
        .filter(|operation| !exercised.contains(operation))
        .collect();
    assert!(
        missing.is_empty(),
        "documented and not exercised: {missing:?}"
    );
    assert_eq!(exercised.len(), documented.len());
    node.shutdown().await;
}

#[tokio::test]
async fn objects_are_written_read_and_deleted_under_preconditions() {
    let (node, api) = Api::single().await;
    let path = "/v1/flags/web%2Fnew:ui";
    api.send("PUT", path, &[], Some(flag()))
        .await
        .problem(428, "precondition-required");
    api.send("DELETE", path, &[], None)
        .await
        .problem(428, "precondition-required");
    let first = api.create(path, flag()).await;
    assert_eq!(first.json["key"], "web/new:ui");
    assert!(first.json.get("previous_version").is_none());
    let version = first.json["version"].as_u64().unwrap();
    assert_eq!(first.header("etag"), format!("\"{version}\""));
    assert_eq!(first.version(), version);

    let read = api.get("/v1/flags/web%2Fnew%3Aui").await.ok();
    assert_eq!(read.json["value"], flag());
    assert_eq!(read.json["updated_by"], "anonymous");
    assert_eq!(read.header("etag"), format!("\"{version}\""));
    let same = api
        .send(
            "GET",
            path,
            &[("if-none-match", &format!("W/\"{version}\""))],
            None,
        )
        .await;
    assert_eq!(
        (same.status, same.text.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );

    let lost = api
        .send("PUT", path, &[("if-none-match", "*")], Some(flag()))
        .await
        .problem(412, "version-conflict");
    assert_eq!(lost.json["current_version"], version);
    assert_eq!(lost.json["current"]["value"], flag());
    let stale = [("if-match", "\"1\"")];
    let lost = api
        .send("DELETE", path, &stale, None)
        .await
        .problem(412, "version-conflict");
    assert_eq!(lost.json["current"], read.json);
    let absent = api
        .replace("/v1/flags/none", flag())
        .await
        .problem(412, "version-conflict");
    assert_eq!(
        (&absent.json["current_version"], &absent.json["current"]),
        (&json!(0), &Value::Null)
    );

    let mut changed = flag();
    changed["description"] = "mind the order".into();
    let exact = format!("\"{version}\"");
    let second = api
        .send(
            "PUT",
            path,
            &[
                ("if-match", &exact),
                ("pennon-actor", "carol"),
                ("pennon-reason", "because"),
            ],
            Some(changed),
        )
        .await
        .ok();
    assert_eq!(second.json["previous_version"], version);
    assert!(second.version() > version);
    let gone = api
        .send(
            "DELETE",
            &format!("{path}?reason=too+old"),
            &[("if-match", "*")],
            None,
        )
        .await
        .ok();
    assert_eq!(gone.json["previous_version"], second.json["version"]);
    assert!(gone.header("etag").is_empty());
    let missing = api.get(path).await.problem(404, "not-found");
    assert_eq!(
        missing.json["missing"],
        json!({"kind": "flag", "key": "web/new:ui"})
    );
    assert!(missing.version() >= gone.version());

    let history = api.get(&format!("{path}/history")).await.ok();
    let lines = history.json["items"].as_array().unwrap();
    let of = |n: usize, name: &str| lines[n][name].clone();
    assert_eq!(
        [of(0, "op"), of(1, "op"), of(2, "op")],
        ["delete", "put", "put"]
    );
    assert_eq!(
        [of(0, "reason"), of(1, "reason"), of(1, "updated_by")],
        ["too old", "because", "carol"]
    );
    let page = api.get(&format!("{path}/history?limit=1")).await.ok();
    let next = page.json["next"].as_str().unwrap().to_owned();
    let rest = api.get(&format!("{path}/history?before={next}")).await.ok();
    assert_eq!(rest.json["items"].as_array().unwrap().len(), 2);
    assert!(rest.json.get("next").is_none());
    let then = api.get(&format!("{path}/history?at={version}")).await.ok();
    assert_eq!(then.json, read.json);
    api.get(&format!("{path}/history?at={}", gone.version()))
        .await
        .problem(404, "not-found");
    api.get("/v1/flags/never/history")
        .await
        .problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn lists_are_paged_in_key_order() {
    let (node, api) = Api::single().await;
    for key in ["c", "a", "b"] {
        api.create(&format!("/v1/flags/{key}"), flag()).await;
    }
    let keys = |reply: &http_support::Reply| {
        let items = reply.json["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = api.get("/v1/flags?limit=2").await.ok();
    assert_eq!(
        (keys(&first), first.json["next"].as_str()),
        (vec!["a".to_owned(), "b".to_owned()], Some("b"))
    );
    assert_eq!(first.json["version"], first.version());
    let rest = api.get("/v1/flags?limit=2&after=b").await.ok();
    assert_eq!(
        (keys(&rest), rest.json.get("next")),
        (vec!["c".to_owned()], None)
    );
    for limit in ["0", "10001", "+1", "x", ""] {
        api.get(&format!("/v1/flags?limit={limit}"))
            .await
            .problem(400, "validation");
    }
    api.get("/v1/environments/none/policies")
        .await
        .problem(404, "not-found");
    api.create("/v1/environments/e", json!({})).await;
    for key in ["c", "a", "b"] {
        api.create(&format!("/v1/environments/e/policies/{key}"), serving("on"))
            .await;
    }
    api.create("/v1/environments/e/segments/s", json!({})).await;
    let states = api.get("/v1/environments/e/states?limit=3").await.ok();
    assert_eq!(
        (keys(&states), states.json["next"].as_str()),
        (keys(&api.get("/v1/flags").await), Some("flag/c"))
    );
    let rest = api.get("/v1/environments/e/states?after=flag/c").await.ok();
    assert_eq!(
        (keys(&rest), rest.json.get("next")),
        (vec!["s".to_owned()], None)
    );
    api.get("/v1/environments/e/states?after=c")
        .await
        .problem(400, "validation");
    node.shutdown().await;
}

#[tokio::test]
async fn change_sets_are_all_or_nothing_across_environments() {
    let (node, api) = furnished().await;
    let put = |kind: &str, environment: Option<&str>, key: &str, value: Value| {
        let mut item = json!({"op": "put", "kind": kind, "key": key, "value": value});
        if let Some(environment) = environment {
            item["environment"] = environment.into();
        }
        item
    };
    let set = json!([
        put("policy", Some("test"), "new", serving("on")),
        put("environment", None, "test", json!({})),
        put("flag", None, "new", flag()),
        put("policy", Some("prod"), "new", serving("off")),
    ]);
    let done = api.post("/v1/changes", set).await.ok();
    let version = done.json["version"].as_u64().unwrap();
    let results = done.json["results"].as_array().unwrap();
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["policy", "environment", "flag", "policy"]);
    assert!(results.iter().all(|result| result["version"] == version));
    assert_eq!(results[0]["environment"], "test");
    for path in [
        "/v1/environments/test",
        "/v1/flags/new",
        "/v1/environments/prod/policies/new",
    ] {
        assert_eq!(api.get(path).await.ok().json["version"], version);
    }

    let mut lost = put("flag", None, "new", flag());
    lost["expected_version"] = json!(version - 1);
    let both = json!([put("flag", None, "other", flag()), lost]);
    let conflict = api
        .post("/v1/changes", both)
        .await
        .problem(412, "version-conflict");
    assert_eq!(
        conflict.json["object"],
        json!({"kind": "flag", "key": "new"})
    );
    assert_eq!(conflict.json["current_version"], version);
    api.get("/v1/flags/other").await.problem(404, "not-found");

    let mut fresh = put("flag", None, "new", flag());
    fresh["expected_version"] = 0.into();
    api.post("/v1/changes", json!([fresh]))
        .await
        .problem(412, "version-conflict");
    let bad = json!([
        put("flag", None, "fine", flag()),
        put("policy", Some("prod"), "fine", serving("maybe"))
    ]);
    assert_eq!(
        api.post("/v1/changes", bad)
            .await
            .problem(400, "validation")
            .pointers(),
        ["/1/value/default/variant"]
    );
    let absent = json!([{"op": "delete", "kind": "flag", "key": "absent"}]);
    api.post("/v1/changes", absent)
        .await
        .problem(404, "not-found");
    let shapes =
        json!([{"op": "put", "kind": "flag", "key": "x"}, 7, put("policy", None, "x", json!({}))]);
    let refused = api
        .post("/v1/changes", shapes)
        .await
        .problem(400, "validation");
    assert_eq!(refused.pointers(), ["/0/value", "/1", "/2/environment"]);
    let headers = [("if-match", "*")];
    api.send("POST", "/v1/changes", &headers, Some(json!([])))
        .await
        .problem(400, "validation");

    // Together a flag and what refers to it can go.
    let gone = json!([
        {"op": "delete", "kind": "flag", "key": "new"},
        {"op": "delete", "kind": "policy", "environment": "test", "key": "new", "expected_version": version},
        {"op": "delete", "kind": "policy", "environment": "prod", "key": "new"},
    ]);
    let done = api.post("/v1/changes", gone).await.ok();
    assert_eq!(
        (
            &done.json["results"][1]["op"],
            &done.json["results"][1]["previous_version"]
        ),
        (&json!("delete"), &json!(version))
    );
    let too_many: Vec<Value> = (0..10_001)
        .map(|n| json!({"op": "delete", "kind": "flag", "key": n.to_string()}))
        .collect();
    let quota = api
        .post("/v1/changes", too_many.into())
        .await
        .problem(422, "quota-exceeded");
    assert_eq!(quota.json["max"], 10_000);
    node.shutdown().await;
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_another_request_is_a_mismatch() {
    let (node, api) = Api::single().await;
    let headers = [("if-none-match", "*"), ("idempotency-key", "one")];
    let first = api
        .send("PUT", "/v1/flags/a", &headers, Some(flag()))
        .await
        .ok();
    let again = api
        .send("PUT", "/v1/flags/a", &headers, Some(flag()))
        .await
        .ok();
    assert_eq!(
        (&again.json, again.version(), again.header("etag")),
        (&first.json, first.version(), first.header("etag"))
    );
    let mut other = flag();
    other["description"] = "another".into();
    api.send("PUT", "/v1/flags/a", &headers, Some(other))
        .await
        .problem(422, "idempotency-mismatch");
    api.send("PUT", "/v1/flags/b", &headers, Some(flag()))
        .await
        .problem(422, "idempotency-mismatch");
    let changed = [("if-match", "*"), ("idempotency-key", "one")];
    api.send("PUT", "/v1/flags/a", &changed, Some(flag()))
        .await
        .problem(422, "idempotency-mismatch");
    api.send("DELETE", "/v1/flags/a", &changed, None)
        .await
        .problem(422, "idempotency-mismatch");

    // A refusal is an outcome too: it is given again although by now the write would succeed, with
    // the object as it was then.
    let lost = [("if-none-match", "*"), ("idempotency-key", "two")];
    let refused = api
        .send("PUT", "/v1/flags/a", &lost, Some(flag()))
        .await
        .problem(412, "version-conflict");
    api.replace("/v1/flags/a", flag()).await.ok();
    let again = api
        .send("PUT", "/v1/flags/a", &lost, Some(flag()))
        .await
        .problem(412, "version-conflict");
    assert_eq!(again.json, refused.json);
    api.send("DELETE", "/v1/flags/a", &[("if-match", "*")], None)
        .await
        .ok();
    let again = api
        .send("PUT", "/v1/flags/a", &lost, Some(flag()))
        .await
        .problem(412, "version-conflict");
    assert_eq!(again.json, refused.json);
    node.shutdown().await;
}

#[tokio::test]
async fn the_kill_switch_is_idempotent_and_makes_a_policy_that_serves_off() {
    let (node, api) = Api::single().await;
    api.create("/v1/environments/e", json!({})).await;
    let path = "/v1/environments/e/flags/a:b";
    api.send("POST", &format!("{path}:enable"), &[], None)
        .await
        .problem(404, "not-found");
    api.create("/v1/flags/a:b", flag()).await;
    let on = api
        .send("POST", &format!("{path}:enable"), &[], None)
        .await
        .ok();
    assert_eq!(on.json["key"], "a:b");
    let policy = api.get("/v1/environments/e/policies/a:b").await.ok();
    assert_eq!(
        policy.json["value"],
        json!({"enabled": true, "default": {"variant": "off"}})
    );
    let again = api
        .send("POST", &format!("{path}:enable"), &[], Some(json!({})))
        .await
        .ok();
    assert_eq!(again.json["version"], on.json["version"]);
    let stale = [("if-match", "\"1\"")];
    api.send("POST", &format!("{path}:disable"), &stale, None)
        .await
        .problem(412, "version-conflict");
    let off = api
        .send("POST", &format!("{path}:disable"), &[], None)
        .await
        .ok();
    assert_eq!(off.json["previous_version"], on.json["version"]);
    let evaluated = api
        .post(
            "/v1/environments/e/evaluate/a:b",
            json!({"subject_key": "u"}),
        )
        .await
        .ok();
    assert_eq!(
        (&evaluated.json["reason"], &evaluated.json["value"]),
        (&json!("DISABLED"), &json!(false))
    );
    let cross = [("sec-fetch-site", "cross-site")];
    api.send("POST", &format!("{path}:enable"), &cross, None)
        .await
        .problem(403, "forbidden");
    node.shutdown().await;
}

#[tokio::test]
async fn head_and_options_behave() {
    let (node, api) = furnished().await;
    let get = api.get("/v1/flags/a").await.ok();
    let head = api.send("HEAD", "/v1/flags/a", &[], None).await;
    assert_eq!(
        (head.status, head.text.as_str(), head.header("etag")),
        (StatusCode::OK, "", get.header("etag"))
    );
    assert_eq!(head.header("content-length"), get.text.len().to_string());
    assert_eq!(
        api.send("HEAD", "/v1/flags/none", &[], None).await.status,
        StatusCode::NOT_FOUND
    );
    let head = api
        .send("HEAD", "/v1/environments/prod/stream", &[], None)
        .await;
    assert_eq!(
        (head.status, head.header("content-type")),
        (StatusCode::OK, "text/event-stream")
    );
    let options = api.send("OPTIONS", "/v1/flags/a", &[], None).await;
    assert_eq!(
        (options.status, options.header("allow")),
        (StatusCode::NO_CONTENT, "GET, PUT, DELETE, HEAD, OPTIONS")
    );
    assert_eq!(
        api.send("OPTIONS", "/nope", &[], None).await.status,
        StatusCode::NOT_FOUND
    );
    node.shutdown().await;
}

#[tokio::test]
async fn every_problem_is_explained() {
    let (node, api) = Api::single().await;
    let document = api.document();
    let slugs = document
        .pointer("/components/schemas/Problem/properties/type/enum")
        .unwrap()
        .as_array()
        .unwrap();
    for slug in [
        "version-conflict",
        "precondition-required",
        "validation",
        "reference-in-use",
        "not-found",
        "not-leader",
        "no-quorum",
        "not-fresh-enough",
        "outcome-unknown",
        "idempotency-mismatch",
        "too-large",
        "rate-limited",
        "unauthenticated",
        "forbidden",
        "quota-exceeded",
    ] {
        assert!(
            slugs.contains(&json!(format!("/problems/{slug}"))),
            "{slug}"
        );
    }
    for slug in slugs {
        let explained = api.get(slug.as_str().unwrap()).await.ok();
        assert!(explained.text.len() > 60, "{}", explained.text);
    }
    api.get("/problems/none").await.problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn a_draining_node_is_alive_and_not_ready() {
    let (node, api) = Api::single().await;
    for purpose in ["write", "evaluate", "stream"] {
        api.get(&format!("/readyz?for={purpose}")).await.ok();
    }
    api.get("/readyz?for=fun").await.problem(400, "validation");
    node.app().drain();
    let red = api
        .get("/readyz?for=stream")
        .await
        .problem(503, "not-ready");
    assert_eq!(red.json["reasons"], json!(["the node is draining"]));
    api.get("/livez").await.ok();
    api.get("/v1/flags").await.ok();
    node.shutdown().await;
}
