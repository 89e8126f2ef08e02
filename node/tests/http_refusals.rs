//! Refusals of what is wrong in a request or a value: each is a problem document that names the
//! place. `http_support` holds every answer against `/openapi.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_support::{Api, flag, furnished, serving};
use pennon_node::net::{Connect, MemoryNetwork};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn requests_that_are_wrong_in_themselves() {
    let (node, api) = furnished().await;
    let json_type = [("if-match", "*"), ("content-type", "application/json")];
    let malformed = api
        .raw("PUT", "/v1/flags/a", &json_type, "{\n  \"type\": nope }")
        .await
        .problem(400, "validation");
    assert_eq!(
        (
            malformed.json["line"].as_u64(),
            malformed.json["column"].as_u64()
        ),
        (Some(2), Some(12))
    );
    api.raw("PUT", "/v1/flags/a", &json_type, "")
        .await
        .problem(400, "validation");
    let twice = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off","tags":["x"],"tags":[]}"#;
    let twice = api
        .raw("PUT", "/v1/flags/a", &json_type, twice)
        .await
        .problem(400, "validation");
    assert!(
        twice.text.contains("given twice") && twice.json["line"] == 1,
        "{}",
        twice.text
    );
    api.raw("PUT", "/v1/flags/a", &json_type, &b"\"\xff\""[..])
        .await
        .problem(400, "validation");
    let form = [
        ("if-match", "*"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    api.raw("PUT", "/v1/flags/a", &form, "{}")
        .await
        .problem(415, "unsupported-media-type");

    for path in [
        "/",
        "/v1",
        "/v1/flag",
        "/v1/flags/",
        "/v1/flags/a/",
        "/v1/environments/prod/flags/a",
        "/nope?x=1",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    api.send("POST", "/v1/environments/prod/flags/a:explode", &[], None)
        .await
        .problem(404, "not-found");
    api.send("POST", "/v1/environments/prod/flags/:enable", &[], None)
        .await
        .problem(404, "not-found");
    let wrong = api
        .send("PATCH", "/v1/flags/a", &[], None)
        .await
        .problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "GET, PUT, DELETE, HEAD, OPTIONS");
    let wrong = api
        .get("/v1/environments/prod/flags/a:enable")
        .await
        .problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "POST, OPTIONS");

    let faults = api.get("/v1/flags?limt=3").await.problem(400, "validation");
    let message = faults.json["faults"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("limit, after, consistency, min_version, wait"),
        "{message}"
    );
    for query in [
        "limit=1&limit=2",
        "after=%zz",
        "consistency=sometimes",
        "min_version=-1",
        "wait=5",
        "wait=2h",
    ] {
        api.get(&format!("/v1/flags?{query}"))
            .await
            .problem(400, "validation");
    }
    for path in [
        "/v1/flags/a%20b",
        "/v1/flags/%2",
        "/v1/flags/%ff",
        "/v1/flags/f%C3%BCr",
    ] {
        api.get(path).await.problem(400, "validation");
    }
    let long = "k".repeat(257);
    api.get(&format!("/v1/flags/{long}"))
        .await
        .problem(400, "validation");
    for (name, value) in [
        ("if-match", "7"),
        ("if-match", "W/\"7\""),
        ("if-match", "\"7\", \"8\""),
        ("if-match", "\"x\""),
        ("if-none-match", "\"7\""),
        ("idempotency-key", "a b"),
        ("pennon-actor", ""),
    ] {
        let headers = [(name, value), ("if-match", "*")];
        let headers = if name.starts_with("if-") {
            &headers[..1]
        } else {
            &headers[..]
        };
        let refused = api
            .send("PUT", "/v1/flags/a", headers, Some(flag()))
            .await
            .problem(400, "validation");
        assert!(
            refused.json["faults"][0]["header"].is_string(),
            "{}",
            refused.text
        );
    }
    let both = [("if-match", "\"7\""), ("if-none-match", "*")];
    api.send("PUT", "/v1/flags/a", &both, Some(flag()))
        .await
        .problem(400, "validation");
    let key = "k".repeat(256);
    let headers = [("if-match", "*"), ("idempotency-key", key.as_str())];
    api.send("PUT", "/v1/flags/a", &headers, Some(flag()))
        .await
        .problem(400, "validation");
    for query in ["timeout=0s", "timeout=61s"] {
        let path = format!("/v1/flags/a?{query}");
        api.send("PUT", &path, &[("if-match", "*")], Some(flag()))
            .await
            .problem(400, "validation");
    }
    api.send(
        "POST",
        "/v1/environments/prod/flags/a:enable",
        &[],
        Some(json!({"on": 1})),
    )
    .await
    .problem(400, "validation");
    node.shutdown().await;
}

#[tokio::test]
async fn who_looks_for_an_answer_only_after_sending_everything_gets_it() {
    let network = MemoryNetwork::new();
    let node = http_support::start(&network, http_support::options("n1"), 1).await;
    Api::new(&network, "n1").ready().await;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut io = network.connect("n1:api").await.unwrap();
        let length = 1 << 20;
        let head = format!(
            "PUT /v1/environments/e HTTP/1.1\r\nHost: n1\r\nIf-None-Match: *\r\n{expect}\
             Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        if expect.is_empty() {
            io.write_all(&vec![b'x'; length]).await.unwrap();
        }
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("/problems/too-large"), "{answer}");
    }
    node.shutdown().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let (node, api) = Api::single().await;
    let description = "x".repeat(64 << 10);
    let headers = [("if-none-match", "*")];
    let large = json!({"description": description});
    let refused = api
        .send("PUT", "/v1/environments/e", &headers, Some(large))
        .await
        .problem(413, "too-large");
    assert_eq!(refused.json["limit_bytes"], 64 << 10);
    let fits = json!({"description": "x".repeat(60 << 10)});
    api.send("PUT", "/v1/environments/e", &headers, Some(fits))
        .await
        .ok();
    node.shutdown().await;
}

#[tokio::test]
async fn values_that_cannot_be_accepted() {
    let (node, api) = furnished().await;
    let policy = "/v1/environments/prod/policies/a";
    let refused = |value: Value, pointer: &'static str| {
        let api = &api;
        async move {
            let reply = api.replace(policy, value).await.problem(400, "validation");
            assert!(
                reply.pointers().contains(&pointer),
                "{pointer}: {}",
                reply.text
            );
        }
    };
    refused(json!([]), "").await;
    refused(
        json!({"enabled": true, "default": {"variant": "on"}, "defualt": 1}),
        "/defualt",
    )
    .await;
    refused(
        json!({"enabled": "yes", "default": {"variant": "on"}}),
        "/enabled",
    )
    .await;
    refused(serving("maybe"), "/default/variant").await;
    let weights = json!([{"variant": "on", "weight": 0}, {"variant": "off", "weight": 0}]);
    refused(
        json!({"enabled": true, "default": {"rollout": {"weights": weights}}}),
        "/default/rollout/weights",
    )
    .await;
    let mut unknown = serving("on");
    unknown["prerequisites"] = json!([{"flag": "nobody", "variants": ["on"]}]);
    refused(unknown, "/prerequisites/0/flag").await;
    let mut segment = serving("on");
    segment["rules"] =
        json!([{"when": [{"op": "in_segment", "values": ["nobody"]}], "serve": {"variant": "on"}}]);
    refused(segment, "/rules/0/when/0/values/0").await;

    let mut on_b = serving("on");
    on_b["prerequisites"] = json!([{"flag": "b/x:y", "variants": ["on"]}]);
    api.replace(policy, on_b).await.ok();
    let mut on_a = serving("on");
    on_a["prerequisites"] = json!([{"flag": "a", "variants": ["on"]}]);
    let cycle = api
        .replace("/v1/environments/prod/policies/b%2Fx:y", on_a)
        .await
        .problem(400, "validation");
    assert!(cycle.text.contains("cycle"), "{}", cycle.text);

    let any = [("if-match", "*")];
    let used = api
        .send(
            "DELETE",
            "/v1/environments/prod/policies/b%2Fx:y",
            &any,
            None,
        )
        .await;
    let used = used.problem(409, "reference-in-use");
    assert_eq!(used.json["users"], json!(["policy a in prod"]));
    api.send("DELETE", "/v1/environments/prod", &any, None)
        .await
        .problem(409, "reference-in-use");
    api.send("DELETE", "/v1/flags/a", &any, None)
        .await
        .problem(409, "reference-in-use");

    let mut salted = flag();
    salted["salt"] = "other".into();
    assert_eq!(
        api.replace("/v1/flags/a", salted)
            .await
            .problem(400, "validation")
            .pointers(),
        ["/salt"]
    );
    let create = [("if-none-match", "*")];
    let no_flag = api
        .send(
            "PUT",
            "/v1/environments/prod/policies/none",
            &create,
            Some(serving("on")),
        )
        .await;
    assert_eq!(
        no_flag.problem(404, "not-found").json["missing"]["kind"],
        "flag"
    );
    let nowhere = api
        .send(
            "PUT",
            "/v1/environments/none/policies/a",
            &create,
            Some(serving("on")),
        )
        .await;
    assert_eq!(
        nowhere.problem(404, "not-found").json["missing"]["kind"],
        "environment"
    );
    node.shutdown().await;
}

/// A policy with one rule.
fn with_rule(when: Value, serve: Value) -> Value {
    let mut policy = serving("off");
    policy["rules"] = json!([{ "when": when, "serve": serve }]);
    policy
}

#[tokio::test]
async fn values_that_an_operator_cannot_compare() {
    let (node, api) = furnished().await;
    let on = json!({"variant": "on"});
    for (op, value, says) in [
        ("matches", json!("("), "unclosed"),
        ("matches", json!("\\bword\\b"), "(?-u:"),
        ("matches", json!("(?:a|b)*a(?:a|b){40}"), "large"),
        ("matches", json!("x".repeat(4_097)), "4096"),
        ("matches", json!(7), "string"),
        ("before", json!("2026-13-01T00:00:00Z"), "RFC 3339"),
        ("before", json!("2026-11-22"), "RFC 3339"),
        ("after", json!(1e300), "2^53"),
        ("after", json!(true), "RFC 3339"),
        ("in_cidr", json!("10.0.0.0/33"), "10.0.0.0/8"),
        ("in_cidr", json!("example.com"), "10.0.0.0/8"),
        ("in_cidr", json!(10), "10.0.0.0/8"),
    ] {
        // The good value before it moves the place, and only the place.
        let good = match op {
            "matches" => json!("^a"),
            "in_cidr" => json!("::1"),
            _ => json!("2026-11-22T16:00:00.5+01:00"),
        };
        let when = json!([{"attribute": "x", "op": op, "values": [good, value]}]);
        let policy = with_rule(when.clone(), on.clone());
        let path = "/v1/environments/prod/policies/a";
        let refused = api.replace(path, policy).await.problem(400, "validation");
        assert_eq!(
            refused.pointers(),
            ["/rules/0/when/0/values/1"],
            "{op} {value}"
        );
        let message = refused.json["faults"][0]["message"].as_str().unwrap();
        assert!(message.contains(says), "{says:?} is not in {message}");

        let segment = json!({"rules": [{ "when": when }]});
        let path = "/v1/environments/prod/segments/beta";
        let refused = api.replace(path, segment).await.problem(400, "validation");
        assert_eq!(
            refused.pointers(),
            ["/rules/0/when/0/values/1"],
            "{op} {value}"
        );
    }
    node.shutdown().await;
}

/// Serves both variants in an experiment.
fn test_of(experiment: &Value) -> Value {
    let weights = json!([{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}]);
    json!({"rollout": {"weights": weights, "experiment": experiment}})
}

#[tokio::test]
async fn experiments_that_cannot_be() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/policies/a";
    let at = "/rules/0/serve/rollout/experiment";
    let layer = |range: Value| json!({"key": "e", "layer": {"key": "l", "range": range}});
    for (experiment, pointer) in [
        (json!("e"), String::new()),
        (json!({}), "/key".into()),
        (json!({"key": "a b"}), "/key".into()),
        (json!({"key": "e", "lair": {}}), "/lair".into()),
        (
            json!({"key": "e", "layer": {"key": "l"}}),
            "/layer/range".into(),
        ),
        (
            json!({"key": "e", "layer": {"range": [0, 1]}}),
            "/layer/key".into(),
        ),
        (layer(json!([5_000, 5_000])), "/layer/range".into()),
        (layer(json!([6_000, 5_000])), "/layer/range".into()),
        (layer(json!([0])), "/layer/range".into()),
        (layer(json!([0, 10_001])), "/layer/range/1".into()),
        (layer(json!([-1, 5])), "/layer/range/0".into()),
        (json!({"key": "e", "holdout": "nobody"}), "/holdout".into()),
    ] {
        let policy = with_rule(json!([]), test_of(&experiment));
        let refused = api.replace(path, policy).await.problem(400, "validation");
        let pointer = format!("{at}{pointer}");
        assert!(
            refused.pointers().contains(&pointer.as_str()),
            "{experiment}: {}",
            refused.text
        );
    }
    // Nobody could pass over the default.
    let mut policy = serving("off");
    policy["default"] = test_of(&json!({"key": "e"}));
    let refused = api.replace(path, policy).await.problem(400, "validation");
    assert_eq!(refused.pointers(), ["/default/rollout/experiment"]);

    // A holdout is in use like any other segment.
    let held = json!({"key": "e", "holdout": "beta"});
    api.replace(path, with_rule(json!([]), test_of(&held)))
        .await
        .ok();
    let any = [("if-match", "*")];
    let path = "/v1/environments/prod/segments/beta";
    let used = api.send("DELETE", path, &any, None).await;
    assert_eq!(
        used.problem(409, "reference-in-use").json["users"],
        json!(["policy a in prod"])
    );
    node.shutdown().await;
}

#[tokio::test]
async fn experiments_of_one_layer_do_not_overlap() {
    let (node, api) = furnished().await;
    let policy = |key: &str, range: Value| {
        let experiment = json!({"key": key, "layer": {"key": "l", "range": range}});
        with_rule(json!([]), test_of(&experiment))
    };
    let (a, b) = (
        "/v1/environments/prod/policies/a",
        "/v1/environments/prod/policies/b%2Fx:y",
    );
    api.replace(a, policy("first", json!([0, 5_000])))
        .await
        .ok();
    let late = policy("second", json!([4_999, 10_000]));
    let refused = api
        .replace(b, late.clone())
        .await
        .problem(400, "validation");
    assert_eq!(
        refused.pointers(),
        ["/rules/0/serve/rollout/experiment/layer/range"]
    );
    let message = refused.json["faults"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("\"first\"") && message.contains("\"a\""),
        "{message}"
    );
    api.replace(b, policy("second", json!([5_000, 10_000])))
        .await
        .ok();

    // Two writes of one change set are held against each other, and so is what was there before.
    let put = |key: &str, value: &Value| json!({"op": "put", "kind": "policy", "environment": "prod", "key": key, "value": value});
    let moved = policy("first", json!([0, 4_000]));
    let set = json!([
        put("b/x:y", &late),
        put("a", &policy("first", json!([0, 6_000])))
    ]);
    let refused = api
        .post("/v1/changes", set)
        .await
        .problem(400, "validation");
    let pointers = refused.pointers();
    assert!(
        pointers
            .iter()
            .all(|pointer| pointer.ends_with("/value/rules/0/serve/rollout/experiment/layer/range")),
        "{pointers:?}"
    );
    let set = json!([put("b/x:y", &late), put("a", &moved)]);
    api.post("/v1/changes", set).await.ok();
    // Another environment has layers of its own.
    api.create("/v1/environments/test", json!({})).await;
    api.create("/v1/environments/test/policies/a", late).await;
    node.shutdown().await;
}

/// A value that no parameter of such a schema may have.
fn wrong_values(schema: &Value) -> Vec<String> {
    let mut wrong = vec![String::new()];
    if schema.get("enum").is_some() {
        wrong.extend(["perhaps", "TRUE", "Stale"].map(str::to_owned));
    } else if schema["type"] == "integer" {
        let max = schema["maximum"].as_u64().unwrap();
        wrong.extend(["0", "-1", "+1", "1.5", "x"].map(str::to_owned));
        wrong.push((max + 1).to_string());
    } else if let Some(max) = schema["maxLength"].as_u64() {
        wrong.push("k".repeat(max as usize + 1));
    } else if schema.get("pattern").is_some() {
        wrong.extend(["5", "-1s", "1.5s", "soon", "2h"].map(str::to_owned));
    } else {
        // A version.
        wrong.extend(["-1", "+1", "x", "9007199254740992"].map(str::to_owned));
    }
    wrong
}

#[tokio::test]
async fn every_query_parameter_is_held_to_the_document() {
    let (node, api) = furnished().await;
    let document = api.document();
    let mut accepted = Vec::new();
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path: Vec<&str> = template.split(['{', '}']).collect();
        let path: String = (0..path.len())
            .map(|at| if at % 2 == 0 { path[at] } else { "a" })
            .collect();
        for (method, operation) in methods.as_object().unwrap() {
            let parameters = operation["parameters"].as_array();
            let query = parameters.into_iter().flatten();
            for parameter in query.filter(|parameter| parameter["in"] == "query") {
                let name = parameter["name"].as_str().unwrap();
                for value in wrong_values(&parameter["schema"]) {
                    let asked = format!("{path}?{name}={}", value.replace('+', "%2B"));
                    let shown: String = format!("{method} {asked}").chars().take(120).collect();
                    let headers = [("content-type", "application/json")];
                    let method = method.to_uppercase();
                    let body = Bytes::from_static(b"{}");
                    let reply = api.open(&method, &asked, &headers, body).await;
                    if reply.status() != 400 {
                        accepted.push(format!("{shown}: {}", reply.status()));
                        continue;
                    }
                    let body = reply.into_body().collect().await.unwrap().to_bytes();
                    let problem: Value = serde_json::from_slice(&body).unwrap();
                    if problem["faults"][0]["parameter"] != name {
                        accepted.push(format!("{shown}: {problem}"));
                    }
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    node.shutdown().await;
}
