//! Reads of what is derived, and freshness: snapshots, evaluations, consistency, waiting for a
//! version. `http_support` holds every answer against `/openapi.json`.

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
async fn snapshots_are_cached_resumed_and_kept_under_their_version() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/snapshot";
    let whole = api.get(path).await.ok();
    let version = whole.json["version"].as_u64().unwrap();
    assert_eq!(whole.json["states"].as_array().unwrap().len(), 3);
    assert_eq!(
        (whole.version(), whole.header("etag")),
        (version, format!("\"{version}\"").as_str())
    );
    let sum = whole.json["states"]
        .as_array()
        .unwrap()
        .iter()
        .fold(0_u128, |sum, state| {
            sum.wrapping_add(u128::from_str_radix(state["hash"].as_str().unwrap(), 16).unwrap())
        });
    assert_eq!(whole.json["digest"], format!("{sum:032x}"));
    let have = format!("\"{version}\"");
    let same = api
        .send("GET", path, &[("if-none-match", &have)], None)
        .await;
    assert_eq!(
        (same.status, same.text.as_str()),
        (StatusCode::NOT_MODIFIED, "")
    );
    let none = api.get(&format!("{path}?since={version}")).await.ok();
    assert_eq!(
        (&none.json["intent"], &none.json["digest"]),
        (&json!("none"), &whole.json["digest"])
    );

    // A change elsewhere changes nothing here, and the old version stays available under its name.
    api.create("/v1/flags/elsewhere", flag()).await;
    let same = api
        .send("GET", path, &[("if-none-match", &have)], None)
        .await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    let kept = api
        .get(&format!("/v1/environments/prod/snapshots/{version}"))
        .await
        .ok();
    assert_eq!(kept.json, whole.json);
    assert!(kept.header("cache-control").contains("immutable"));
    assert_eq!(kept.version(), version);

    let written = api
        .replace("/v1/environments/prod/policies/a", serving("off"))
        .await
        .ok();
    let delta = api
        .get(&format!(
            "{path}?since={version}&min_version={}",
            written.version()
        ))
        .await
        .ok();
    assert_eq!(
        (&delta.json["intent"], &delta.json["from"]),
        (&json!("changes"), &json!(version))
    );
    assert_eq!(delta.json["upserts"][0]["key"], "a");
    let full = api.get(&format!("{path}?since=0")).await.ok();
    assert_eq!(
        (
            &full.json["intent"],
            full.json["states"].as_array().unwrap().len()
        ),
        (&json!("full"), 3)
    );
    let gone = api
        .get(&format!("/v1/environments/prod/snapshots/{version}"))
        .await
        .problem(404, "not-found");
    assert_eq!(gone.json["available"]["from"], written.version());
    assert_eq!(
        api.send("GET", path, &[("if-none-match", &have)], None)
            .await
            .status,
        StatusCode::OK
    );

    for path in [
        "snapshot?since=9999&wait=20ms",
        "snapshots/9999?wait=20ms",
        "snapshot?min_version=9999&wait=20ms",
    ] {
        let ahead = api
            .get(&format!("/v1/environments/prod/{path}"))
            .await
            .problem(503, "not-fresh-enough");
        assert_eq!(ahead.json["wanted_version"], 9999);
        assert_eq!(ahead.header("retry-after"), "1");
    }
    api.get("/v1/environments/prod/snapshots/x")
        .await
        .problem(400, "validation");
    api.get("/v1/environments/none/snapshot")
        .await
        .problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn evaluations_say_what_they_rest_on() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/evaluate";
    let written = api
        .replace("/v1/environments/prod/policies/a", serving("off"))
        .await
        .ok();
    let min = written.version().to_string();
    let headers = [("pennon-min-version", min.as_str())];
    let subject = json!({"subject_key": "u", "attributes": {"country": "DE"}});
    let one = api
        .send(
            "POST",
            &format!("{path}/a"),
            &headers,
            Some(subject.clone()),
        )
        .await
        .ok();
    assert_eq!(
        (
            &one.json["variant"],
            &one.json["value"],
            &one.json["reason"]
        ),
        (&json!("off"), &json!(false), &json!("STATIC"))
    );
    assert_eq!(
        (&one.json["freshness"], &one.json["config_version"]),
        (&json!("FRESH"), &json!(written.version()))
    );
    assert_eq!(one.json["snapshot_version"], one.version());
    let all = api.post(path, subject.clone()).await.ok();
    let flags: Vec<_> = all.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["flag"].clone())
        .collect();
    assert_eq!(flags, ["a", "b/x:y"]);
    let page = api
        .post(&format!("{path}?limit=1"), subject.clone())
        .await
        .ok();
    assert_eq!(page.json["next"], "a");
    let rest = api
        .post(&format!("{path}?after=a"), subject.clone())
        .await
        .ok();
    assert_eq!(rest.json["items"].as_array().unwrap().len(), 1);

    let unknown = api
        .post(&format!("{path}/nobody"), subject.clone())
        .await
        .ok();
    assert_eq!(
        (&unknown.json["reason"], &unknown.json["value"]),
        (&json!("FLAG_NOT_FOUND"), &Value::Null)
    );
    assert_eq!(unknown.json["detail"], "there is no flag nobody");
    api.create("/v1/flags/bare", flag()).await;
    let bare = api.post(&format!("{path}/bare"), subject).await.ok();
    assert!(
        bare.json["detail"]
            .as_str()
            .unwrap()
            .contains("no policy in prod"),
        "{}",
        bare.text
    );
    let refused = api
        .post(path, json!({"attributes": {"o": {}}, "who": 1}))
        .await
        .problem(400, "validation");
    assert_eq!(
        refused.pointers(),
        ["/subject_key", "/who", "/attributes/o"]
    );
    let nowhere = "/v1/environments/none/evaluate/a";
    api.post(nowhere, json!({"subject_key": "u"}))
        .await
        .problem(404, "not-found");
    api.post(
        &format!("{nowhere}?consistency=stale"),
        json!({"subject_key": "u"}),
    )
    .await
    .problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn pages_of_evaluations_leave_archived_flags_out() {
    let (node, api) = Api::single().await;
    api.create("/v1/environments/e", json!({})).await;
    for key in ["a", "b", "c", "d", "e"] {
        let mut flag = flag();
        flag["archived"] = ["b", "c", "e"].contains(&key).into();
        api.create(&format!("/v1/flags/{key}"), flag).await;
        api.create(&format!("/v1/environments/e/policies/{key}"), serving("on"))
            .await;
    }
    let page = async |query: &str| {
        let path = format!("/v1/environments/e/evaluate{query}");
        let page = api.post(&path, json!({"subject_key": "u"})).await.ok().json;
        let keys = page["items"].as_array().unwrap().iter();
        let keys: Vec<String> = keys
            .map(|item| item["flag"].as_str().unwrap().to_owned())
            .collect();
        (keys.join(" "), page["next"].clone())
    };
    assert_eq!(page("").await, ("a d".into(), Value::Null));
    assert_eq!(page("?limit=1").await, ("a".into(), json!("a")));
    assert_eq!(page("?limit=1&after=a").await, ("d".into(), Value::Null));
    assert_eq!(page("?limit=1&after=b").await, ("d".into(), Value::Null));
    assert_eq!(page("?after=d").await, (String::new(), Value::Null));
    let one = api
        .post("/v1/environments/e/evaluate/b", json!({"subject_key": "u"}))
        .await
        .ok();
    assert_eq!(
        (&one.json["reason"], &one.json["detail"]),
        (&json!("FLAG_NOT_FOUND"), &json!("ARCHIVED"))
    );
    node.shutdown().await;
}

#[tokio::test]
async fn reads_take_every_consistency_and_wait_for_a_version() {
    let (node, api) = furnished().await;
    for consistency in ["linearizable", "bounded", "stale"] {
        api.get(&format!("/v1/flags/a?consistency={consistency}"))
            .await
            .ok();
        api.get(&format!(
            "/v1/environments/prod/snapshot?consistency={consistency}"
        ))
        .await
        .ok();
        // Within the wait a linearizable read is confirmed first.
        let wait = match consistency {
            "linearizable" => "500ms",
            _ => "10ms",
        };
        api.get(&format!(
            "/v1/flags?consistency={consistency}&min_version=9999&wait={wait}"
        ))
        .await
        .problem(503, "not-fresh-enough");
    }
    let next = api.get("/v1/flags/a").await.version() + 1;
    let path = format!("/v1/flags/a?min_version={next}&wait=20s");
    let (read, written) = tokio::join!(api.get(&path), api.create("/v1/flags/later", flag()));
    assert!(read.ok().version() >= written.version());
    let headers = [("pennon-min-version", "9999")];
    api.send("GET", "/v1/flags/a?wait=0s", &headers, None)
        .await
        .problem(503, "not-fresh-enough");
    let headers = [("pennon-min-version", "soon")];
    api.send("GET", "/v1/flags/a", &headers, None)
        .await
        .problem(400, "validation");
    node.shutdown().await;
}
