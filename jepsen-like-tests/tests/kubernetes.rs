//! Real input, checked whole: 80 feature gates of Kubernetes as flags, evaluated at every release
//! from 1.0 to 1.33 by a client of a running cluster, and compared with what the table says; before
//! the leader is killed, after, and after more writes through the new leader. // I4 I6 I9

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::say;
use pennon_client::admin::{Admin, Change, Expected, Resource};
use pennon_client::{Client, Freshness, Subject, TcpConnector, Version};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../testdata/kubernetes-feature-gates.json");
const ENVIRONMENT: &str = "kubernetes";
/// The releases are 1.0 to 1.33.
const RELEASE_LAST: u32 = 33;
/// Gates of one change set.
const GATES_MAX: usize = 20;

/// One gate: its name and its defaults, oldest first, each with the minor release it holds from.
struct Gate {
    name: String,
    defaults: Vec<(u32, bool)>,
}

impl Gate {
    /// What the table says.
    fn at(&self, release: u32) -> bool {
        let holds = self
            .defaults
            .iter()
            .rev()
            .find(|(since, _)| *since <= release);
        holds.is_some_and(|(_, on)| *on)
    }
}

fn gates() -> Vec<Gate> {
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let gates = table["gates"].as_array().unwrap().iter().map(|gate| {
        let defaults = gate["defaults"].as_array().unwrap().iter().map(|default| {
            let since = default["since"]
                .as_str()
                .unwrap()
                .strip_prefix("1.")
                .unwrap();
            (since.parse().unwrap(), default["on"].as_bool().unwrap())
        });
        Gate {
            name: gate["name"].as_str().unwrap().to_owned(),
            defaults: defaults.collect(),
        }
    });
    gates.collect()
}

fn flag(gate: &Gate) -> Change {
    let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "tags": ["kubernetes"]});
    Change::put(Resource::flag(&gate.name), config).expecting(Version::ZERO)
}

/// Rules newest first; off before the first of them.
fn policy(gate: &Gate) -> Change {
    let rules = gate.defaults.iter().rev().map(|(since, on)| {
        let when = json!([{"attribute": "k8s_version", "op": "semver_gte", "values": [format!("1.{since}")]}]);
        json!({"id": format!("since-1.{since}"), "when": when, "serve": {"variant": if *on { "on" } else { "off" }}})
    });
    let rules: Vec<Value> = rules.collect();
    let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "off"}});
    Change::put(Resource::policy(ENVIRONMENT, &gate.name), policy).expecting(Version::ZERO)
}

/// Every gate at every release by the client; returns how many answers agree with the table.
fn compare(client: &Client, gates: &[Gate]) -> usize {
    let page = client.pin();
    let mut agree = 0;
    for release in 0..=RELEASE_LAST {
        let subject = Subject::new("cluster").with("k8s_version", format!("1.{release}"));
        for gate in gates {
            let evaluation = page.evaluate(&gate.name, &subject);
            let found = evaluation.value().and_then(|value| value.as_bool());
            let expected = gate.at(release);
            assert_eq!(
                found,
                Some(expected),
                "{} at 1.{release}: {:?}",
                gate.name,
                evaluation.reason()
            );
            let from_rule = gate
                .defaults
                .first()
                .is_some_and(|(since, _)| *since <= release);
            assert_eq!(
                evaluation.rule_id().is_some(),
                from_rule,
                "{} at 1.{release}",
                gate.name
            );
            agree += 1;
        }
    }
    agree
}

#[test]
fn the_table_is_read_as_it_is_meant() {
    let gates = gates();
    assert_eq!(gates.len(), 80);
    let gate = gates
        .iter()
        .find(|gate| gate.name == "AnyVolumeDataSource")
        .unwrap();
    assert_eq!(
        [17, 18, 23, 24, 33].map(|release| gate.at(release)),
        [false, false, false, true, true]
    );
    let gate = gates
        .iter()
        .find(|gate| gate.name == "AllowDNSOnlyNodeCSR")
        .unwrap();
    assert_eq!(
        [0, 30, 31].map(|release| gate.at(release)),
        [true, true, false]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eighty_real_gates_hold_at_every_release_also_after_the_leader_is_killed() {
    let gates = gates();
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let admin = Admin::new(cluster.urls(), None, Arc::new(TcpConnector)).unwrap();
    let environment = json!({"name": "Kubernetes"});
    admin
        .put(
            &Resource::environment(ENVIRONMENT),
            &environment,
            Expected::Absent,
        )
        .await
        .unwrap();
    let mut version = Version::ZERO;
    for some in gates.chunks(GATES_MAX) {
        let changes: Vec<Change> = some
            .iter()
            .flat_map(|gate| [flag(gate), policy(gate)])
            .collect();
        version = admin.changes(&changes).await.unwrap().version;
    }
    let client = Client::builder(cluster.urls())
        .environment(ENVIRONMENT)
        .connect()
        .await
        .unwrap();
    client
        .wait_for(version, Duration::from_secs(10))
        .await
        .unwrap();
    let agree = compare(&client, &gates);
    assert_eq!(agree, 80 * 34);
    let subject = Subject::new("cluster").with("k8s_version", "1.20");
    assert_eq!(
        client.evaluate(&gates[0].name, &subject).freshness(),
        Freshness::Fresh
    );

    let leader = cluster.leader(Duration::from_secs(10)).await.unwrap();
    cluster.kill(leader).unwrap();
    assert_eq!(compare(&client, &gates), agree);

    // More writes through the new leader: one gate gets another default in a release of its own.
    let changed = &gates[7];
    let resource = Resource::policy(ENVIRONMENT, &changed.name);
    let current = admin.get(&resource).await.unwrap();
    let mut value = current.value.clone();
    let when = json!([{"attribute": "k8s_version", "op": "semver_gte", "values": ["1.34"]}]);
    let newest = changed.at(RELEASE_LAST);
    let serve = json!({"variant": if newest { "off" } else { "on" }});
    value["rules"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"id": "since-1.34", "when": when, "serve": serve}));
    let written = admin
        .put(&resource, &value, Expected::At(current.version))
        .await
        .unwrap();
    client
        .wait_for(written.version, Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!(compare(&client, &gates), agree);
    let next = Subject::new("cluster").with("k8s_version", "1.34");
    assert_eq!(client.bool(&changed.name, &next, newest), !newest);

    cluster.restart(leader).await.unwrap();
    let (version, digest) = cluster.converged(Duration::from_secs(20)).await.unwrap();
    assert_eq!(compare(&client, &gates), agree);
    say(format!(
        "kubernetes: {agree} answers agree with the table, four times; digest {digest} at {version}"
    ));
}
