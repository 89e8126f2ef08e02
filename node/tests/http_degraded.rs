//! The surface while the cluster cannot do everything: not formed, cut off from its quorum, stale.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use std::time::Duration;

use http::StatusCode;
use http_support::{Api, PATIENCE, flag, options, serving, start};
use pennon_node::net::MemoryNetwork;
use pennon_node::server::{Node, NodeOptions};
use serde_json::json;

fn member(name: &str) -> NodeOptions {
    let join = ["n1", "n2", "n3"]
        .map(|name| format!("{name}:peer"))
        .to_vec();
    NodeOptions {
        join,
        expect: 3,
        ..options(name)
    }
}

#[tokio::test]
async fn a_node_that_belongs_to_no_cluster_says_what_it_waits_for() {
    let network = MemoryNetwork::new();
    let node = start(&network, member("n1"), 1).await;
    let api = Api::new(&network, "n1");
    for (method, path) in [
        ("GET", "/v1/flags"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/environments/e/stream"),
        ("POST", "/v1/environments/e/flags/a:disable"),
        ("GET", "/v1/environments/e/snapshot"),
    ] {
        let refused = api
            .send(method, path, &[], None)
            .await
            .problem(503, "no-quorum");
        assert_eq!(
            (refused.version(), refused.header("pennon-staleness-ms")),
            (0, "9007199254740991")
        );
        assert_eq!(refused.header("retry-after"), "1");
    }
    for path in ["evaluate/a", "explain/a"] {
        api.post(
            &format!("/v1/environments/e/{path}"),
            json!({"subject_key": "u"}),
        )
        .await
        .problem(503, "no-quorum");
    }
    api.get("/readyz").await.problem(503, "not-ready");
    api.get("/livez").await.ok();
    api.get("/openapi.json").await.ok();
    api.get("/nope").await.problem(404, "not-found");
    node.shutdown().await;
}

/// Waits until a request has this status.
async fn until(api: &Api, path: &str, status: StatusCode) -> http_support::Reply {
    let waiting = async {
        loop {
            let reply = api.get(path).await;
            if reply.status == status {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{path} is {status} in time"))
}

async fn leader_of(nodes: &[(Node, Api)]) -> usize {
    let found = async {
        loop {
            for (n, (node, _)) in nodes.iter().enumerate() {
                let core = node.core().await;
                if core.status().leader == Some(core.node()) {
                    return n;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .expect("a leader in time")
}

#[tokio::test]
async fn a_leader_without_a_quorum_refuses_what_it_cannot_prove() {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for (n, name) in ["n1", "n2", "n3"].into_iter().enumerate() {
        nodes.push((
            start(&network, member(name), n as u64 + 1).await,
            Api::new(&network, name),
        ));
    }
    for (_, api) in &nodes {
        api.ready().await;
    }
    let (_, any) = &nodes[0];
    any.create("/v1/environments/e", json!({"staleness_bound_ms": 1_000}))
        .await;
    any.create("/v1/flags/a", flag()).await;
    let written = any
        .create("/v1/environments/e/policies/a", serving("on"))
        .await;
    for (_, api) in &nodes {
        let read = api.get("/v1/environments/e/policies/a").await.ok();
        assert_eq!(
            (&read.json["version"], read.version() >= written.version()),
            (&written.json["version"], true)
        );
        assert_eq!(
            api.get("/v1/cluster").await.ok().json["failure_tolerance"],
            1
        );
    }

    let leader = leader_of(&nodes).await;
    for name in ["n1", "n2", "n3"] {
        network.cut(&format!("{name}:peer"), true);
    }
    let api = &nodes[leader].1;
    let headers = [("if-none-match", "*"), ("idempotency-key", "once")];
    let put = async |query: &str| {
        api.send(
            "PUT",
            &format!("/v1/flags/b{query}"),
            &headers,
            Some(flag()),
        )
        .await
    };
    put("?timeout=300ms").await.problem(504, "outcome-unknown");
    api.get("/v1/flags/a?wait=100ms")
        .await
        .problem(503, "no-quorum");
    api.get("/v1/flags/a?consistency=stale").await.ok();
    let refused = until(
        api,
        "/v1/environments/e/snapshot",
        StatusCode::SERVICE_UNAVAILABLE,
    )
    .await;
    let refused = refused.problem(503, "not-fresh-enough");
    assert!(
        refused.json["staleness_ms"].as_u64() > Some(1_000),
        "{}",
        refused.text
    );
    for path in ["evaluate/a", "explain/a"] {
        let path = format!("/v1/environments/e/{path}");
        let subject = json!({"subject_key": "u"});
        api.post(&path, subject.clone())
            .await
            .problem(503, "not-fresh-enough");
        let stale = api
            .post(&format!("{path}?consistency=stale"), subject)
            .await;
        let stale = stale.ok();
        assert_eq!(
            (&stale.json["freshness"], &stale.json["value"]),
            (&json!("STALE"), &json!(true)),
            "{path}"
        );
        assert!(stale.header("pennon-staleness-ms").parse::<u64>().unwrap() > 1_000);
    }
    // A node that may be behind does not deny an environment it may not have seen.
    api.get("/v1/environments/new/snapshot?wait=100ms")
        .await
        .problem(503, "no-quorum");
    api.get("/v1/environments/new/stream?wait=100ms")
        .await
        .problem(503, "no-quorum");
    let red = until(api, "/readyz?for=write", StatusCode::SERVICE_UNAVAILABLE).await;
    red.problem(503, "not-ready");

    for name in ["n1", "n2", "n3"] {
        network.cut(&format!("{name}:peer"), false);
    }
    until(api, "/readyz", StatusCode::OK).await;
    let outcome = put("?timeout=20s").await.ok();
    let again = put("").await.ok();
    assert_eq!(again.json, outcome.json);
    for (node, _) in nodes {
        node.shutdown().await;
    }
}
