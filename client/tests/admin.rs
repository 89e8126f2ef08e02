//! The admin client against nodes made by hand: what is sent again, where, and under which key.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::net::{Door, Net, Request, Requests};
use common::states::{environment, snapshot, version};
use http::{HeaderMap, Method};
use pennon_client::admin::{Admin, AuditFilter, Change, Collection, Expected, Resource};
use pennon_client::{Error, Freshness, Subject};
use serde_json::{Value, json};

const CLUSTER: &str = r#"{"cluster_id":"c","leader":1,"term":1,"version":9,"failure_tolerance":0,
    "verdict":"healthy","members":[]}"#;
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
        let results =
            r#"[{"op":"delete","kind":"flag","key":"f","version":12,"previous_version":3}]"#;
        let body = format!(r#"{{"version":12,"results":{results}}}"#);
        request.json(200, &[], &body);
    });
    let written = changed.await.unwrap();
    let result = &written.results[0];
    assert_eq!(
        (written.version, result.version, result.previous_version),
        (version(12), version(12), Some(version(3)))
    );
    assert_eq!(result.resource(), Some(Resource::flag("f")));

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
        (408, "request-timeout"),
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

/// What a node says whose disk is too full for the write to get into the log, and what one says that
/// looked at the write.
const DISK_FULL: &str = r#"{"type":"/problems/quota-exceeded","quota":"disk","max":0}"#;
const FLAGS_FULL: &str = r#"{"type":"/problems/quota-exceeded","quota":"flags","max":9}"#;

// I9
#[tokio::test(start_paused = true)]
async fn a_disk_without_space_says_nothing_about_an_earlier_attempt() {
    for (body, lost, unknown) in [
        (DISK_FULL, true, true),
        (DISK_FULL, false, false),
        (FLAGS_FULL, true, false),
    ] {
        let (net, mut requests) = Net::new();
        let admin = admin(&net, &["n1:1", "n2:2"]);
        let error = during(admin.enable("prod", "dark"), async || {
            if lost {
                next(&mut requests).await.cut();
            }
            next(&mut requests).await.json(422, &[], body);
        });
        let error = error.await.unwrap_err();
        assert_eq!(error.outcome_unknown(), unknown, "{body} {lost}: {error}");
        assert_eq!(error.slug(), "quota-exceeded");
    }
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
        let headers = [
            ("pennon-version", "12"),
            ("pennon-node", "n3"),
            ("pennon-staleness-ms", "40"),
            ("etag", "\"12\""),
        ];
        third.json(200, &headers, r#"{"any": 1}"#);
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.endpoint().unwrap().authority(), "n3:3");
    assert_eq!(
        (answer.version(), answer.node(), answer.etag()),
        (Some(version(12)), Some("n3"), Some("\"12\""))
    );
    assert_eq!(
        (answer.staleness(), &answer.body()["any"]),
        (Some(Duration::from_millis(40)), &json!(1))
    );
    // The node that answered is asked first from now on.
    let again = during(admin.cluster(), async || {
        let request = next(&mut requests).await;
        assert_eq!(
            (request.node.as_str(), request.path.as_str()),
            ("n3:3", "/v1/cluster")
        );
        request.json(200, &[], CLUSTER);
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
            next(&mut requests).await.json(200, headers, CLUSTER);
        });
        answer.await.unwrap();
        assert_eq!(net.opened(), opened);
    }
}

#[tokio::test(start_paused = true)]
async fn an_evaluation_over_http_is_a_read() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1", "n2:2"]);
    let subject = Subject::new("user-42").with("country", "DE");
    let asking = admin.evaluate("prod", "web/dark", &subject);
    let answer = during(asking, async || {
        let first = next(&mut requests).await;
        assert!(!first.headers.contains_key("idempotency-key"));
        first.cut();
        let second = next(&mut requests).await;
        assert_eq!(second.path, "/v1/environments/prod/evaluate/web%2Fdark");
        let body: Value = serde_json::from_slice(&second.body).unwrap();
        assert_eq!(
            body,
            json!({"subject_key": "user-42", "attributes": {"country": "DE"}})
        );
        let answer = r#"{"flag":"web/dark","enabled":true,"variant":"on","value":true,
            "config_version":7,"reason":"STATIC","snapshot_version":9,"freshness":"FRESH"}"#;
        second.json(200, &[], answer);
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.variant.as_deref(), answer.freshness),
        (Some("on"), Freshness::Fresh)
    );
    // Whatever becomes of it, nothing was written.
    let asking = admin.evaluate("prod", "dark", &subject);
    let error = during(asking, async || {
        next(&mut requests).await.json(200, &[], "<html>");
    });
    let error = error.await.unwrap_err();
    assert!(!error.outcome_unknown(), "{error}");
    assert_eq!(error.idempotency_key(), None);
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

fn page(keys: &[&str], at: u64, next: Option<&str>) -> String {
    let items = keys
        .iter()
        .map(|key| json!({"key": key, "version": 3, "value": {}}));
    let mut page = json!({"items": items.collect::<Vec<_>>(), "version": at});
    if let Some(next) = next {
        page["next"] = json!(next);
    }
    page.to_string()
}

/// Answers the next request with a page, and returns what its query was, sorted.
async fn page_of(requests: &mut Requests, body: &str) -> String {
    let request = next(requests).await;
    let query = request.query.iter();
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    request.json(200, &[], body);
    query.join("&")
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_and_a_failed_one_comes_again() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]).with_attempts_max(1);
    let mut flags = admin.pages(&Collection::Flags).page_len(2);
    assert!(!flags.is_done() && flags.place().is_none());
    let first = during(flags.next(), async || {
        let query = page_of(&mut requests, &page(&["a", "b/1"], 9, Some("b/1"))).await;
        assert_eq!(query, "limit=2");
    });
    assert_eq!(first.await.unwrap().unwrap().items.len(), 2);
    assert_eq!(flags.place(), Some("b/1"));

    let failed = during(flags.next(), async || next(&mut requests).await.cut());
    assert!(failed.await.unwrap_err().is_retryable());
    assert_eq!(flags.place(), Some("b/1"));

    let second = during(flags.next(), async || {
        let query = page_of(&mut requests, &page(&["c"], 12, None)).await;
        // Not older than the first, whichever node answers.
        assert_eq!(query, "after=b%2F1&limit=2&min_version=9");
    });
    assert_eq!(second.await.unwrap().unwrap().version, version(12));
    assert!(flags.is_done() && flags.place().is_none());
    // Nothing is asked any more.
    assert!(flags.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn items_of_a_call_that_failed_come_again_and_none_is_lost() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]).with_attempts_max(1);
    let mut flags = admin.pages(&Collection::Flags);
    let failed = during(flags.items(100), async || {
        page_of(&mut requests, &page(&["a"], 9, Some("a"))).await;
        next(&mut requests).await.cut();
    });
    assert!(failed.await.is_err());
    let some = during(flags.items(2), async || {
        assert_eq!(
            page_of(&mut requests, &page(&["a"], 9, Some("a"))).await,
            ""
        );
        page_of(&mut requests, &page(&[], 9, Some("aa"))).await;
        page_of(&mut requests, &page(&["b", "c"], 9, Some("c"))).await;
    });
    let keys = |items: &[pennon_client::admin::Object]| {
        let keys = items.iter().map(|item| item.key.as_str());
        keys.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&some.await.unwrap()), "a b c");
    // Enough is there without a request.
    assert!(flags.items(0).await.unwrap().is_empty());
    let rest = during(flags.items(100), async || {
        let query = page_of(&mut requests, &page(&["d"], 9, None)).await;
        assert_eq!(query, "after=c&min_version=9");
    });
    assert_eq!(keys(&rest.await.unwrap()), "d");
    assert!(flags.items(100).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_would_have_us_turn_in_a_circle_is_an_error() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]);
    let filter = AuditFilter::new().by("a b").before(version(7));
    let mut audit = admin.audit(&filter);
    let circle = during(audit.items(100), async || {
        let query = page_of(&mut requests, &page(&[], 9, Some("7"))).await;
        assert_eq!(query, "actor=a%20b&before=7");
    });
    let error = circle.await.unwrap_err();
    assert!(error.to_string().contains("the one just read"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_does_not_add_up_is_not_handed_out() {
    let (net, mut requests) = Net::new();
    let admin = admin(&net, &["n1:1"]);
    let name = environment().to_string();
    let whole = snapshot(0, 9).to_json().unwrap();
    let mut answered = async |changed: Value, at: Option<u64>| {
        let mut body = whole.clone();
        let fields = body.as_object_mut().unwrap();
        fields.extend(changed.as_object().unwrap().clone());
        let asking = async {
            match at {
                Some(at) => admin.snapshot_at(&name, None, version(at)).await,
                None => admin.snapshot(&name, Some("shop")).await,
            }
        };
        let answering = async || {
            let request = next(&mut requests).await;
            let (which, application) = match at {
                Some(at) => (format!("s/{at}"), None),
                None => (String::new(), Some("shop")),
            };
            let path = format!("/v1/environments/{name}/snapshot{which}");
            assert_eq!(request.path, path);
            assert_eq!(request.query.get("app").map(String::as_str), application);
            request.json(200, &[], &body.to_string());
        };
        during(asking, answering).await
    };
    let good = answered(json!({}), None).await.unwrap();
    assert_eq!(
        (good.version(), good.digest()),
        (version(9), snapshot(0, 9).digest().to_string())
    );
    let then = answered(json!({}), Some(9)).await.unwrap();
    assert_eq!(then.into_bytes(), good.as_bytes());
    let wrong = [
        (
            json!({"digest": "0123456789abcdef0123456789abcdef"}),
            None,
            "digest",
        ),
        (json!({"states": []}), None, "digest"),
        (json!({"environment": "elsewhere"}), None, "elsewhere"),
        (json!({"intent": "none"}), None, "not a whole snapshot"),
        (
            json!({"version": 10}),
            Some(9),
            "version 10 where 9 was asked for",
        ),
    ];
    for (changed, at, why) in wrong {
        let refused = answered(changed, at).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}
