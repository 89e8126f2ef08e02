//! The admin client against nodes made by hand: what is sent again, where, and under which key.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::net::{Door, Net, Request, Requests};
use common::states::version;
use http::{HeaderMap, Method};
use pennon_client::Error;
use pennon_client::admin::{Admin, Change, Collection, Expected, Resource};
use serde_json::{Value, json};

const WRITTEN: &str = r#"{"key":"dark","version":12,"previous_version":9}"#;

fn admin(net: &Net, nodes: &[&str]) -> Admin {
    let urls = nodes.iter().map(|node| format!("http://{node}"));
    let admin = Admin::new(urls, Some("pn_admin_1_x"), Arc::new(net.clone())).unwrap();
    admin.with_seed(5)
}

async fn next(requests: &mut Requests) -> Request {
    requests.recv().await.unwrap()
}

fn key_of(request: &Request) -> String {
    request.headers["idempotency-key"]
        .to_str()
        .unwrap()
        .to_owned()
}

/// Runs a request and answers what it sends.
async fn during<T>(asking: impl Future<Output = T>, answering: impl AsyncFnOnce()) -> T {
    tokio::join!(asking, answering()).0
}

#[tokio::test(start_paused = true)]
async fn typed_requests_have_the_paths_and_preconditions_of_the_contract() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]);
    let policy = Resource::policy("prod", "web/new:ui");
    let value = json!({"enabled": true});

    let wanted = [
        (Expected::Absent, "if-none-match", "*"),
        (Expected::Exists, "if-match", "*"),
        (Expected::At(version(9)), "if-match", "\"9\""),
    ];
    for (expected, header, text) in wanted {
        let written = during(admin.put(&policy, &value, expected), async || {
            let request = next(&mut requests).await;
            assert_eq!(request.method, Method::PUT);
            assert_eq!(
                request.path,
                "/v1/environments/prod/policies/web%2Fnew%3Aui"
            );
            assert_eq!(request.headers[header], text);
            assert_eq!(request.headers["authorization"], "Bearer pn_admin_1_x");
            assert_eq!(request.headers["host"], "n1:1");
            assert_eq!(
                serde_json::from_slice::<Value>(&request.body).unwrap(),
                value
            );
            assert_eq!(key_of(&request).len(), 32);
            request.json(200, &[], WRITTEN);
        });
        let written = written.await.unwrap();
        assert_eq!(
            (written.version, written.previous_version),
            (version(12), Some(version(9)))
        );
    }

    let disabled = during(admin.disable("prod", "a:b"), async || {
        let request = next(&mut requests).await;
        assert_eq!(request.path, "/v1/environments/prod/flags/a%3Ab:disable");
        assert!(!request.headers.contains_key("if-match"));
        request.json(200, &[], WRITTEN);
    });
    disabled.await.unwrap();

    let changes = [Change::delete(Resource::flag("f")).expecting(version(3))];
    let changed = during(admin.changes(&changes), async || {
        let request = next(&mut requests).await;
        let expected = json!([{"op": "delete", "kind": "flag", "key": "f", "expected_version": 3}]);
        assert_eq!(
            serde_json::from_slice::<Value>(&request.body).unwrap(),
            expected
        );
        let headers = [
            ("pennon-version", "12"),
            ("pennon-node", "n1"),
            ("etag", "\"12\""),
        ];
        request.json(200, &headers, r#"{"version":12}"#);
    });
    let answer = changed.await.unwrap();
    assert_eq!(
        (answer.version(), answer.node()),
        (Some(version(12)), Some("n1"))
    );
    assert_eq!(
        (answer.etag(), answer.body()["version"].as_u64()),
        (Some("\"12\""), Some(12))
    );

    let listed = during(admin.list(&Collection::Flags), async || {
        let request = next(&mut requests).await;
        assert_eq!(
            (request.method.clone(), request.path.as_str()),
            (Method::GET, "/v1/flags")
        );
        assert!(!request.headers.contains_key("idempotency-key"));
        request.json(
            200,
            &[],
            r#"{"items":[{"key":"f","version":3,"value":{}}],"version":9}"#,
        );
    });
    assert_eq!(listed.await.unwrap().items[0].key, "f");

    for (resource, path, all) in [
        (Resource::application("a/b"), "a%2Fb", "/v1/applications"),
        (Resource::setting("limits"), "limits", "/v1/settings"),
    ] {
        let path = format!("{all}/{path}");
        let written = during(admin.put(&resource, &value, Expected::Exists), async || {
            let request = next(&mut requests).await;
            assert_eq!((&request.method, &request.path), (&Method::PUT, &path));
            request.json(200, &[], WRITTEN);
        });
        written.await.unwrap();
        let collection = resource.collection();
        let listed = during(admin.list(&collection), async || {
            let request = next(&mut requests).await;
            assert_eq!(request.path, all);
            request.json(200, &[], r#"{"items":[],"version":9}"#);
        });
        assert!(listed.await.unwrap().items.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_that_keeps_its_fields() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]);
    let dark = Resource::flag("dark");
    let error = during(admin.delete(&dark, Expected::At(version(8))), async || {
        let body = r#"{"type":"/problems/version-conflict","detail":"it is at 9",
            "current_version":9}"#;
        next(&mut requests)
            .await
            .json(412, &[("pennon-version", "11")], body);
    });
    let error = error.await.unwrap_err();
    assert!(error.is_conflict() && !error.outcome_unknown() && !error.is_retryable());
    assert_eq!(error.version(), Some(version(11)));
    assert_eq!(
        error.problem().unwrap().field("current_version"),
        Some(&json!(9))
    );
    assert_eq!(error.idempotency_key().unwrap().len(), 32);
}

// I9
#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_goes_on_under_its_first_key() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]);
    let (dark, value) = (Resource::flag("dark"), json!({}));
    let writing = admin.put(&dark, &value, Expected::Absent);
    let written = during(writing, async || {
        let first = next(&mut requests).await;
        let (key, node) = (key_of(&first), first.node.clone());
        first.cut();
        let second = next(&mut requests).await;
        assert_ne!(second.node, node);
        assert_eq!(key_of(&second), key);
        second.json(504, &[], r#"{"type":"/problems/outcome-unknown"}"#);
        let third = next(&mut requests).await;
        assert_eq!((key_of(&third), third.node.clone()), (key, node));
        third.json(200, &[], WRITTEN);
    });
    assert_eq!(written.await.unwrap().version, version(12));
}

async fn outcome_of_lost_write_then(status: u16, slug: &'static str) -> Error {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]).with_attempts_max(2);
    let writing = admin.enable("prod", "dark");
    let error = during(writing, async || {
        next(&mut requests).await.cut();
        next(&mut requests).await.problem(status, slug, "no");
    });
    error.await.unwrap_err()
}

// I9
#[tokio::test(start_paused = true)]
async fn what_is_refused_on_the_way_leaves_an_earlier_attempt_in_doubt() {
    for (status, slug) in [
        (503, "no-quorum"),
        (504, "outcome-unknown"),
        (429, "rate-limited"),
        (401, "unauthenticated"),
    ] {
        let error = outcome_of_lost_write_then(status, slug).await;
        assert!(error.outcome_unknown(), "{status}: {error}");
        assert!(error.idempotency_key().is_some());
        assert_eq!(error.status(), Some(status));
    }
    let error = outcome_of_lost_write_then(412, "version-conflict").await;
    assert!(
        error.is_conflict() && !error.outcome_unknown(),
        "decided by the log"
    );
}

// I9
#[tokio::test(start_paused = true)]
async fn doubt_lasts_however_many_refusals_follow() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]).with_attempts_max(4);
    let error = during(admin.enable("prod", "dark"), async || {
        next(&mut requests).await.cut();
        for _ in 0..3 {
            next(&mut requests)
                .await
                .problem(503, "no-quorum", "no leader");
        }
    });
    let error = error.await.unwrap_err();
    assert!(
        error.outcome_unknown() && error.slug() == "no-quorum",
        "{error}"
    );
}

// I9
#[tokio::test(start_paused = true)]
async fn a_write_that_never_left_is_simply_not_done() {
    let (net, _requests) = Net::new();
    for door in [Door::Refuses, Door::Hangs] {
        net.door("n1:1", door);
        net.door("n2:2", door);
        let error = admin(&net, &["n1:1", "n2:2"])
            .disable("prod", "dark")
            .await
            .unwrap_err();
        assert!(
            !error.outcome_unknown() && error.is_retryable(),
            "{door:?}: {error}"
        );
    }
}

// I9
#[tokio::test(start_paused = true)]
async fn a_write_swallowed_by_the_network_is_of_unknown_outcome() {
    let (net, _requests) = Net::new();
    net.door("n1:1", Door::Swallows);
    let started = tokio::time::Instant::now();
    let timeout = Duration::from_secs(4);
    let admin = admin(&net, &["n1:1"]).with_timeout(timeout);
    let error = admin.disable("prod", "dark").await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(started.elapsed() <= timeout + Duration::from_millis(10));
    let read = admin.get(&Resource::flag("dark")).await.unwrap_err();
    assert!(
        read.is_timeout() && read.is_retryable() && !read.outcome_unknown(),
        "{read}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_to_the_next_node_when_one_is_away_or_has_no_leader() {
    let (net, mut requests) = Net::new();
    net.door("n1:1", Door::Swallows);
    let admin = admin(&net, &["n1:1", "n2:2", "n3:3"]);
    let reading = admin.request(Method::GET, "/v1/cluster", HeaderMap::new(), None);
    let answer = during(reading, async || {
        let second = next(&mut requests).await;
        assert_eq!(second.node, "n2:2");
        second.problem(503, "no-quorum", "no leader");
        let third = next(&mut requests).await;
        assert_eq!(third.node, "n3:3");
        third.json(200, &[], "{}");
    });
    assert_eq!(
        answer.await.unwrap().endpoint().unwrap().authority(),
        "n3:3"
    );
    // The node that answered is asked first from now on.
    let again = during(admin.cluster(), async || {
        let request = next(&mut requests).await;
        assert_eq!(request.node, "n3:3");
        request.json(200, &[], "{}");
    });
    again.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_while_the_node_keeps_them() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"])
        .with_timeout(Duration::MAX)
        .with_attempts_max(1);
    for (headers, opened) in [
        (&[][..], 1),
        (&[("connection", "close")][..], 1),
        (&[][..], 2),
    ] {
        let answer = during(admin.cluster(), async || {
            next(&mut requests).await.json(200, headers, "{}");
        });
        answer.await.unwrap();
        assert_eq!(net.opened(), opened);
    }
}

#[tokio::test(start_paused = true)]
async fn an_evaluation_over_http_is_a_read() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]);
    let attributes = json!({"country": "DE"});
    let asking = admin.evaluate("prod", Some("dark"), "user-42", &attributes);
    let answer = during(asking, async || {
        let first = next(&mut requests).await;
        assert!(!first.headers.contains_key("idempotency-key"));
        first.cut();
        let second = next(&mut requests).await;
        assert_eq!(second.path, "/v1/environments/prod/evaluate/dark");
        let body: Value = serde_json::from_slice(&second.body).unwrap();
        assert_eq!(
            body,
            json!({"subject_key": "user-42", "attributes": {"country": "DE"}})
        );
        second.json(200, &[], r#"{"variant":"on"}"#);
    });
    assert_eq!(answer.await.unwrap().body()["variant"], "on");
}

#[tokio::test(start_paused = true)]
async fn a_caller_can_bring_a_key_of_its_own() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]).with_attempts_max(1);
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("idempotency-key"),
        http::HeaderValue::from_static("mine"),
    )]);
    let path = Resource::flag("dark").path();
    let error = during(
        admin.request(Method::DELETE, &path, headers, None),
        async || {
            let request = next(&mut requests).await;
            assert_eq!(key_of(&request), "mine");
            request.cut();
        },
    );
    let error = error.await.unwrap_err();
    assert!(error.outcome_unknown());
    assert_eq!(error.idempotency_key(), Some("mine"));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_success_cannot_be_read_may_have_happened() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]);
    let dark = Resource::flag("dark");
    for (status, body) in [(200, "<html>"), (200, "{}"), (204, ""), (307, "")] {
        let answer = async |requests: &mut Requests| {
            let request = next(requests).await;
            let key = request.headers.get("idempotency-key").cloned();
            request.json(status, &[], body);
            key.map(|key| key.to_str().unwrap().to_owned())
        };
        let mut key = None;
        let deleted = during(admin.delete(&dark, Expected::Exists), async || {
            key = answer(&mut requests).await;
        });
        let error = deleted.await.unwrap_err();
        assert!(
            error.outcome_unknown() && !error.is_retryable(),
            "{status} {body}: {error}"
        );
        assert!(key.is_some() && error.idempotency_key() == key.as_deref());
        assert_eq!(error.endpoint(), Some("http://n1:1"));

        let read = during(admin.get(&dark), async || {
            answer(&mut requests).await;
        });
        let error = read.await.unwrap_err();
        let text = error.to_string();
        assert!(!error.outcome_unknown(), "{text}");
        assert!(
            text.starts_with("the answer has an unexpected shape: "),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_nobody_knows_is_no_success() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]);
    let dark = Resource::flag("dark");
    for status in [600, 777, 999] {
        let deleted = during(admin.delete(&dark, Expected::Exists), async || {
            next(&mut requests).await.json(status, &[], WRITTEN);
        });
        let error = deleted.await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(error.status(), Some(status));

        let read = during(admin.cluster(), async || {
            next(&mut requests).await.json(status, &[], "{}");
        });
        let error = read.await.unwrap_err();
        assert!(!error.outcome_unknown(), "{error}");
        assert_eq!(error.status(), Some(status));
    }
}
