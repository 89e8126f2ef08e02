//! The admin client of the Rust library against a whole node: what it reads as types is what the node
//! says, field by field; pages skip nothing; refusals say what can be asked instead.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use std::sync::Arc;
use std::time::Duration;

use http_support::{Api, PATIENCE, flag, furnished, options, serving, start};
use pennon_client::admin::{
    Ack, Admin, AuditFilter, AuditLine, Change, Cluster, Collection, Delivery, Evaluation,
    Expected, HistoryLine, Kind, Laggard, LaggardState, Member, NodePart, Op, Replaced, Resource,
    Role,
};
use pennon_client::{
    Client, Connecting, Connector, DecidedReason, Endpoint, Freshness, Io, Source, Subject, Version,
};
use pennon_node::net::{Connect, MemoryNetwork};
use pennon_node::server::NodeOptions;
use serde_json::{Value, json};

/// Connections of the client: `http://n1` is what listens at `n1:api`.
struct Wires(MemoryNetwork);

impl Connector for Wires {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let io = self.0.connect(&format!("{}:api", endpoint.host())).await?;
            Ok(Box::new(io) as Box<dyn Io>)
        })
    }
}

fn admin(network: &MemoryNetwork, nodes: &[&str]) -> Admin {
    let urls = nodes.iter().map(|node| format!("http://{node}"));
    let wires = Arc::new(Wires(network.clone()));
    Admin::new(urls, None, wires)
        .unwrap()
        .with_timeout(PATIENCE)
}

fn admin_of(api: &Api) -> Admin {
    admin(api.network(), &["n1"])
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn before(version: Version) -> Version {
    self::version(version.get() - 1)
}

fn segment() -> Resource {
    Resource::segment("prod", "beta")
}

/// What a change replaced, as JSON has it.
fn shown(before: &Replaced) -> Option<Value> {
    match before {
        Replaced::NotRetained => None,
        Replaced::Nothing => Some(Value::Null),
        Replaced::Value(value) => Some(value.clone()),
    }
}

/// Compares a line with what the node says; `raw` has nothing that the line does not.
#[track_caller]
fn same_history(line: &HistoryLine, raw: &Value) {
    let mut said = json!({
        "version": line.version, "updated_at": line.updated_at, "updated_by": line.updated_by,
        "value": line.value, "op": if line.op() == Op::Delete { "delete" } else { "put" },
    });
    optional(
        &mut said,
        line.previous_version,
        &line.reason,
        &line.request_id,
        &line.before,
    );
    assert_eq!(&said, raw);
}

#[track_caller]
fn same_audit(line: &AuditLine, raw: &Value) {
    let op = match line.op() {
        Op::Create => "create",
        Op::Change => "change",
        Op::Delete => "delete",
    };
    let mut said = json!({
        "kind": line.kind, "key": line.key, "version": line.version, "updated_at": line.updated_at,
        "updated_by": line.updated_by, "after": line.after, "op": op,
    });
    if let Some(environment) = &line.environment {
        said["environment"] = json!(environment);
    }
    optional(
        &mut said,
        line.previous_version,
        &line.reason,
        &line.request_id,
        &line.before,
    );
    assert_eq!(&said, raw);
}

fn optional(
    said: &mut Value,
    previous: Option<Version>,
    reason: &Option<String>,
    request_id: &Option<String>,
    before: &Replaced,
) {
    let given = [
        ("previous_version", previous.map(|it| json!(it))),
        ("reason", reason.as_ref().map(|it| json!(it))),
        ("request_id", request_id.as_ref().map(|it| json!(it))),
        ("before", shown(before)),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            said[name] = value;
        }
    }
}

/// Writes with a name and a reason.
async fn write_as(api: &Api, actor: &str, path: &str, value: Value) {
    let headers = [
        ("if-match", "*"),
        ("pennon-actor", actor),
        ("pennon-reason", "because"),
    ];
    api.send("PUT", path, &headers, Some(value)).await.ok();
}

#[tokio::test]
async fn the_history_of_every_kind_is_read_as_the_node_says_it() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let paths = [
        (Resource::flag("b/x:y"), flag()),
        (Resource::environment("prod"), json!({"name": "p"})),
        (Resource::policy("prod", "b/x:y"), serving("off")),
        (segment(), json!({"included": ["bob"]})),
    ];
    for (resource, value) in &paths {
        let first = admin.get(resource).await.unwrap();
        write_as(&api, "alice", &resource.path(), value.clone()).await;
        let raw = api.get(&format!("{}/history", resource.path())).await.ok();
        let raw = raw.json["items"].as_array().unwrap();
        let lines = admin.history(resource).items(10).await.unwrap();
        assert_eq!((lines.len(), raw.len()), (2, 2), "{resource:?}");
        lines
            .iter()
            .zip(raw)
            .for_each(|(line, raw)| same_history(line, raw));
        assert_eq!((lines[0].op(), lines[1].op()), (Op::Change, Op::Create));
        assert_eq!(lines[0].reason.as_deref(), Some("because"));
        assert_eq!(lines[0].before.value(), Some(&first.value));
        // As of any version in between it was what it was.
        let then = before(lines[0].version);
        assert_eq!(admin.get_at(resource, then).await.unwrap(), first);
        let now = admin.get_at(resource, lines[0].version).await.unwrap();
        assert_eq!(
            (now.updated_by.as_deref(), &now.value),
            (Some("alice"), value)
        );
    }
    let never = admin.history(&Resource::flag("never")).next().await;
    let never = never.unwrap_err();
    assert!(never.is_not_found() && !never.is_not_retained(), "{never}");
    node.shutdown().await;
}

#[tokio::test]
async fn an_object_as_of_a_version_or_what_can_be_asked_instead() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let first = admin.get(&segment()).await.unwrap();
    let gone = admin.delete(&segment(), Expected::At(first.version)).await;
    let gone = gone.unwrap().version;
    let lines = admin.history(&segment()).items(10).await.unwrap();
    assert_eq!((lines[0].op(), &lines[0].value), (Op::Delete, &None));
    assert!(lines[0].request_id.is_some(), "writes carry a key");

    let deleted = admin.get_at(&segment(), gone).await.unwrap_err();
    assert!(deleted.is_not_found() && !deleted.is_retryable());
    assert_eq!(
        (deleted.deleted_version(), deleted.status()),
        (Some(gone), Some(404))
    );
    let asked = before(deleted.deleted_version().unwrap());
    assert_eq!(admin.get_at(&segment(), asked).await.unwrap(), first);
    let never = admin.get_at(&segment(), before(first.version)).await;
    let never = never.unwrap_err();
    assert!(never.is_not_found() && never.deleted_version().is_none());

    // A version that nobody has yet.
    let hasty = admin
        .clone()
        .with_attempts_max(1)
        .with_timeout(Duration::from_millis(200));
    let future = hasty.get_at(&segment(), version(9_000_000)).await;
    assert!(future.unwrap_err().is_retryable());

    // Two changes are kept of what had four.
    let key = Resource::flag("a");
    for _ in 0..3 {
        admin.put(&key, &flag(), Expected::Exists).await.unwrap();
    }
    let all = admin.history(&key).items(10).await.unwrap();
    let setting = Resource::setting("history");
    let kept = json!({"per_object": 2});
    admin.put(&setting, &kept, Expected::Absent).await.unwrap();
    let lines = admin.history(&key).items(10).await.unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1].before, Replaced::NotRetained);
    assert_eq!(
        lines[1].op(),
        Op::Change,
        "what it replaced is not kept, but was there"
    );
    let lost = admin.get_at(&key, all[3].version).await.unwrap_err();
    assert!(lost.is_not_retained() && !lost.is_not_found() && !lost.is_retryable());
    assert_eq!(lost.oldest_version(), Some(all[1].version));
    let oldest = admin.get_at(&key, lost.oldest_version().unwrap()).await;
    assert_eq!(oldest.unwrap().version, all[1].version);
    node.shutdown().await;
}

#[tokio::test]
async fn the_audit_list_is_filtered_and_read_in_pages_of_any_length() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let both = ["p/1", "p/2"].map(|key| Change::put(Resource::flag(key), flag()));
    let together = admin.changes(&both).await.unwrap().version;
    let switched = admin.disable("prod", "a").await.unwrap().version;
    write_as(&api, "alice b&c", "/v1/environments/prod", json!({})).await;
    let raw = api.get("/v1/audit").await.ok();
    let raw = raw.json["items"].as_array().unwrap();
    assert_eq!(raw.len(), 10);
    for len in [1, 2, 3, 9, 10, 1_000] {
        let mut pages = admin.audit(&AuditFilter::new()).page_len(len);
        let mut lines = Vec::new();
        while let Some(page) = pages.next().await.unwrap() {
            assert!(
                page.items.len() <= len as usize + 1,
                "the rest of a change set at most"
            );
            assert!(page.scanned >= page.items.len() as u64);
            lines.extend(page.items);
        }
        assert_eq!(lines.len(), raw.len(), "pages of {len}");
        lines
            .iter()
            .zip(raw)
            .for_each(|(line, raw)| same_audit(line, raw));
        assert_eq!(lines[2].resource(), Some(Resource::flag("p/2")));
        assert_eq!((lines[2].version, lines[3].version), (together, together));
    }

    let told = async |filter: AuditFilter| {
        let lines = admin.audit(&filter).items(100).await.unwrap();
        let told = lines
            .iter()
            .map(|line| format!("{:?} {} {}", line.op(), line.kind, line.key));
        told.collect::<Vec<_>>().join(", ")
    };
    let all = AuditFilter::new;
    let of_environment = "Change environment prod";
    assert_eq!(told(all().by("alice b&c")).await, of_environment);
    assert_eq!(told(all().after(switched)).await, of_environment);
    let policy = Resource::policy("prod", "a");
    let of_policy = "Change policy a, Create policy a";
    assert_eq!(told(all().of(&policy)).await, of_policy);
    let of_key = format!("{of_policy}, Create flag a");
    assert_eq!(told(all().of_key("a")).await, of_key);
    assert_eq!(told(all().of(&Resource::flag("a"))).await, "Create flag a");
    let of_kind = all().of_kind(Kind::Segment).in_environment("prod");
    assert_eq!(told(of_kind.clone()).await, "Create segment beta");
    assert_eq!(told(of_kind.before(version(1))).await, "");
    assert_eq!(told(all().in_environment("staging")).await, "");
    // By time: from the moment of a line on it is there, before it it is not.
    let lines = admin.audit(&all().of(&policy)).items(1).await.unwrap();
    let moment = lines[0].updated_at.as_str();
    let of_policy_from = all().of(&policy).from_time(moment);
    assert!(told(of_policy_from).await.starts_with("Change policy a"));
    let until = told(all().of(&policy).to_time(moment)).await;
    assert!(!until.contains("Change"), "{until}");
    let in_1970 = all().to_time(std::time::UNIX_EPOCH + Duration::from_secs(1));
    assert_eq!(told(in_1970).await, "");

    let refused = admin.audit(&all().from_time("yesterday")).next().await;
    let refused = refused.unwrap_err();
    let parameter = refused.problem().unwrap().field("faults").unwrap();
    assert!(refused.is_invalid(), "{refused}");
    assert_eq!(parameter[0]["parameter"], "from");
    let refused = admin.audit(&all()).page_len(0).next().await;
    assert!(refused.unwrap_err().is_invalid());
    node.shutdown().await;
}

#[tokio::test]
async fn a_change_set_says_what_became_of_each_and_all_objects_are_listed() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let first = admin.get(&segment()).await.unwrap();
    let changes = [
        Change::delete(segment()).expecting(first.version),
        Change::put(Resource::flag("c"), flag()).expecting(Version::ZERO),
        Change::put(Resource::policy("prod", "c"), serving("on")),
    ];
    let written = admin.changes(&changes).await.unwrap();
    let results = written.results.iter();
    let results: Vec<_> = results
        .map(|it| (it.resource().unwrap(), it.version, it.previous_version))
        .collect();
    let at = written.version;
    let expected = [
        (segment(), at, Some(first.version)),
        (Resource::flag("c"), at, None),
        (Resource::policy("prod", "c"), at, None),
    ];
    assert_eq!(results, expected);
    let again = admin.changes(&changes[1..]).await.unwrap_err();
    assert!(again.is_conflict() && !again.outcome_unknown(), "{again}");
    let missing = admin.changes(&changes[..1]).await.unwrap_err();
    assert!(missing.is_conflict() || missing.is_not_found(), "{missing}");
    assert!(admin.changes(&[]).await.unwrap_err().is_invalid());

    let mut flags = admin.pages(&Collection::Flags).page_len(2);
    let some = flags.items(1).await.unwrap();
    assert_eq!((some.len(), flags.is_done()), (2, false));
    let rest = flags.items(100).await.unwrap();
    assert_eq!((rest[0].key.as_str(), flags.is_done()), ("c", true));
    let resumed = admin.pages(&Collection::Flags).resume(&some[0].key);
    let resumed = { resumed }.items(100).await.unwrap();
    assert_eq!(resumed, [&some[1..], &rest[..]].concat());
    node.shutdown().await;
}

/// An evaluation of a list, as the node says it.
fn evaluated(one: &Evaluation) -> Value {
    let mut said = json!({
        "flag": one.flag, "enabled": one.enabled, "variant": one.variant, "value": one.value,
        "config_version": one.config_version, "reason": one.reason,
    });
    let given = [
        ("rule_id", one.rule_id.as_ref().map(|it| json!(it))),
        ("bucket", one.bucket.map(|it| json!(it))),
        ("detail", one.detail.as_ref().map(|it| json!(it))),
        ("experiment", one.experiment.as_ref().map(|it| json!(it))),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            said[name] = value;
        }
    }
    said
}

#[tokio::test]
async fn a_node_evaluates_one_flag_or_all() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let split = json!({"enabled": true, "default": {"variant": "off"}, "rules": [{"id": "grown-up",
        "when": [{"attribute": "age", "op": "gte", "values": [18]},
            {"attribute": "groups", "op": "in", "values": ["beta"]}],
        "serve": {"rollout": {"experiment": {"key": "exp"}, "weights": [
            {"variant": "on", "weight": 50_000}, {"variant": "off", "weight": 50_000}]}}}]});
    let policy = Resource::policy("prod", "a");
    let written = admin.put(&policy, &split, Expected::Exists).await.unwrap();
    let user = Subject::new("user-42")
        .with("age", 42)
        .with("groups", ["x", "beta"]);
    let body =
        json!({"subject_key": "user-42", "attributes": {"age": 42, "groups": ["x", "beta"]}});

    let mut raw = api
        .post("/v1/environments/prod/evaluate/a", body.clone())
        .await
        .ok()
        .json;
    let one = admin.evaluate("prod", "a", &user).await.unwrap();
    assert_eq!(one.decided_by(), Some(DecidedReason::Split));
    assert_eq!(
        (one.rule_id.as_deref(), one.experiment.as_deref()),
        (Some("grown-up"), Some("exp"))
    );
    assert!(one.bucket.is_some());
    assert_eq!(
        (one.config_version, one.freshness),
        (written.version, Freshness::Fresh)
    );
    assert_eq!(json!(one.snapshot_version), raw["snapshot_version"]);
    assert_eq!(raw["freshness"], "FRESH");
    for name in ["snapshot_version", "freshness"] {
        raw.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(evaluated(&one), raw);

    let raw = api
        .post("/v1/environments/prod/evaluate", body)
        .await
        .ok()
        .json;
    let mut pages = admin.evaluate_all("prod", &user).unwrap().page_len(1);
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!(
        (json!(first.version), first.freshness),
        (raw["version"].clone(), Freshness::Fresh)
    );
    assert_eq!(first.items[0].snapshot_version, first.version);
    let all = [first.items, pages.items(100).await.unwrap()].concat();
    assert_eq!(
        Value::Array(all.iter().map(evaluated).collect()),
        raw["items"]
    );
    assert_eq!((all[0].flag.as_str(), all[1].flag.as_str()), ("a", "b/x:y"));
    assert_eq!(all[0], one);

    let unknown = admin.evaluate("prod", "nope", &user).await.unwrap();
    assert!(unknown.is_not_found() && unknown.value.is_none() && unknown.detail.is_some());
    let nowhere = admin.evaluate("nowhere", "a", &user).await.unwrap_err();
    assert!(nowhere.is_not_found() && !nowhere.outcome_unknown());
    let huge = Subject::new("u").with("text", "x".repeat(1 << 20));
    assert!(
        admin
            .evaluate("prod", "a", &huge)
            .await
            .unwrap_err()
            .is_invalid()
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_says_why_a_flag_is_what_it_is() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let policy = json!({"enabled": true, "default": {"variant": "off"}, "rules": [{"id": "grown-up",
        "when": [{"attribute": "age", "op": "gte", "values": [18]}], "serve": {"variant": "on"}}]});
    let resource = Resource::policy("prod", "a");
    admin
        .put(&resource, &policy, Expected::Exists)
        .await
        .unwrap();
    for (age, steps) in [(42, 1), (17, 2)] {
        let user = Subject::new("user-42").with("age", age);
        let body = json!({"subject_key": "user-42", "attributes": {"age": age}});
        let raw = api.post("/v1/environments/prod/explain/a", body).await.ok();
        let why = admin.explain("prod", "a", &user).await.unwrap();
        let decided = admin.evaluate("prod", "a", &user).await.unwrap();
        assert_eq!(why.evaluation, decided);
        let trace = json!({"steps": why.trace.steps, "truncated": why.trace.truncated});
        assert_eq!(trace, raw.json["trace"]);
        assert_eq!(why.trace.steps.len(), steps, "{trace}");
        assert_eq!(why.trace.steps[0]["rule_id"], "grown-up");
        assert_eq!(why.trace.steps[0]["clauses"][0]["found"], f64::from(age));
    }
    let unknown = admin.explain("prod", "nope", &Subject::new("u")).await;
    let unknown = unknown.unwrap();
    assert!(unknown.evaluation.is_not_found() && unknown.trace.steps.is_empty());
    let nowhere = admin.explain("nowhere", "a", &Subject::new("u")).await;
    assert!(nowhere.unwrap_err().is_not_found());
    node.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_is_whole_and_a_client_begins_with_it() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let tagged = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "tags": ["shop"]});
    let key = Resource::flag("a");
    admin.put(&key, &tagged, Expected::Exists).await.unwrap();
    let shop = Resource::application("shop");
    let tags = json!({"tags": ["shop"]});
    let last = admin.put(&shop, &tags, Expected::Absent).await.unwrap();

    let raw = api.get("/v1/environments/prod/snapshot").await.ok().json;
    let all = admin.snapshot("prod", None).await.unwrap();
    assert_eq!(
        (json!(all.version()), json!(all.digest())),
        (raw["version"].clone(), raw["digest"].clone())
    );
    assert_eq!(
        serde_json::from_slice::<Value>(all.as_bytes()).unwrap(),
        raw
    );
    assert_eq!((all.len(), all.is_empty()), (3, false));
    let part = admin.snapshot("prod", Some("shop")).await.unwrap();
    assert_eq!((part.len(), part.version()), (1, all.version()));
    assert_ne!(part.digest(), all.digest());

    // What it says goes on being there under its version.
    let then = admin
        .snapshot_at("prod", None, all.version())
        .await
        .unwrap();
    assert_eq!(
        (then.version(), then.digest()),
        (all.version(), all.digest())
    );
    admin.disable("prod", "a").await.unwrap();
    let gone = admin
        .snapshot_at("prod", None, all.version())
        .await
        .unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    for (environment, application) in [("nowhere", None), ("prod", Some("nothing"))] {
        let refused = admin.snapshot(environment, application).await.unwrap_err();
        assert!(refused.is_not_found(), "{refused}");
    }
    let refused = admin.snapshot("no environment", None).await.unwrap_err();
    assert!(refused.is_settings(), "{refused}");
    assert!(last.version <= all.version());

    // Where no node can be reached, a client begins with it.
    let silent = Arc::new(Wires(MemoryNetwork::new()));
    let flags = Client::builder(["http://n9"])
        .connector(silent)
        .environment("prod");
    let flags = flags.bootstrap(all.into_bytes()).start().unwrap();
    flags.ready(PATIENCE).await.unwrap();
    let user = Subject::new("user-42");
    assert!(flags.bool("a", &user, false));
    assert_eq!(flags.status().source, Some(Source::Bootstrap));
    node.shutdown().await;
}

/// Asks until the cluster is as it should be.
async fn until(admin: &Admin, wanted: impl Fn(&Cluster) -> bool) -> Cluster {
    let waiting = async {
        loop {
            match admin.cluster().await {
                Ok(cluster) if wanted(&cluster) => return cluster,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.expect("the cluster is as it should be in time")
}

#[tokio::test]
async fn a_cluster_says_how_its_members_are_and_who_is_silent() {
    let network = MemoryNetwork::new();
    let names = ["n1", "n2", "n3"];
    let mut nodes = Vec::new();
    for (name, seed) in names.into_iter().zip(1..) {
        let join = names.map(|name| format!("{name}:peer")).to_vec();
        let options = NodeOptions {
            join,
            expect: 3,
            ..options(name)
        };
        nodes.push(start(&network, options, seed).await);
    }
    let admin = admin(&network, &names);
    let settled = |cluster: &Cluster| {
        let here = |one: &Member| one.applied == Some(cluster.version) && one.staleness.is_some();
        cluster.is_healthy() && cluster.members.iter().all(here)
    };
    write_when_led(&admin).await;
    let cluster = until(&admin, settled).await;
    assert_eq!((cluster.members.len(), cluster.failure_tolerance), (3, 1));
    let leader = cluster.leader.expect("somebody leads").to_string();
    let leader = cluster.member(&leader).expect("a member by its id");
    assert_eq!(leader.role, Role::Leader);
    for member in &cluster.members {
        assert!(member.answers && member.voter, "{member:?}");
        assert_eq!((member.lag, &member.digest), (Some(0), &leader.digest));
        assert!(member.staleness.is_some() && member.release.is_some() && member.digest.is_some());
        assert_eq!(
            (member.streams, member.feature_level),
            (Some(0), leader.feature_level)
        );
        assert_eq!(member.peer, format!("{}:peer", member.name));
        assert_eq!(
            member.role == Role::Leader,
            Some(member.id) == cluster.leader
        );
    }
    let gone = names.iter().position(|name| *name != leader.name).unwrap();
    nodes.remove(gone).shutdown().await;
    let silent = |cluster: &Cluster| cluster.member(names[gone]).is_some_and(|one| !one.answers);
    let cluster = until(&admin, silent).await;
    let member = cluster.member(names[gone]).unwrap();
    assert_eq!(
        (member.applied, member.lag, member.staleness),
        (None, None, None)
    );
    assert!(member.voter && !cluster.is_healthy(), "{cluster:?}");
    for node in nodes {
        node.shutdown().await;
    }
}

/// Writes something as soon as somebody leads.
async fn write_when_led(admin: &Admin) {
    let (key, value) = (Resource::flag("f"), flag());
    let writing = async {
        loop {
            let put = admin.put(&key, &value, Expected::Absent);
            match put.await {
                Err(error) if error.is_retryable() => {}
                done => return done.unwrap(),
            }
        }
    };
    let written = tokio::time::timeout(PATIENCE, writing).await;
    written.expect("a leader in time");
}

/// What a delivery says, as the node says it.
fn said(delivery: &Delivery) -> Value {
    let laggard = |one: &Laggard| {
        json!({
            "id": one.id, "environment": one.environment, "node": one.node, "version": one.version,
            "state": match &one.state {
                LaggardState::Connected => "connected",
                LaggardState::NodeUnreachable => "node-unreachable",
                LaggardState::Disconnected => "disconnected",
                LaggardState::Other(word) => word,
            },
        })
    };
    let node = |one: &NodePart| {
        json!({"name": one.name, "answers": one.answers, "applied": one.applied, "connected": one.connected,
        "doubt_ms": one.doubt.map(|time| time.as_millis() as u64)})
    };
    json!({
        "connected": delivery.connected, "acknowledged": delivery.acknowledged, "unnamed": delivery.unnamed,
        "laggards": delivery.laggards.iter().map(laggard).collect::<Vec<_>>(),
        "laggards_total": delivery.laggards_total,
        "nodes": delivery.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

/// The same of the node's own words, without what time changes.
fn without_times(raw: &Value) -> Value {
    let names = [
        "connected",
        "acknowledged",
        "unnamed",
        "laggards",
        "laggards_total",
        "nodes",
    ];
    let mut raw: Value = names
        .iter()
        .map(|name| ((*name).to_owned(), raw[*name].clone()))
        .collect();
    for laggard in raw["laggards"].as_array_mut().unwrap() {
        let laggard = laggard.as_object_mut().unwrap();
        assert!(
            laggard.remove("last_seen_ms").is_some() && laggard.remove("fresh_for_ms").is_some()
        );
    }
    raw
}

#[tokio::test]
async fn receipts_and_status_are_what_the_node_says() {
    let (node, api) = furnished().await;
    let admin = admin_of(&api);
    let stream = "/v1/environments/prod/stream?since=0&client=cart-7";
    let accept = [("accept", "text/event-stream")];
    let stream = api.open("GET", stream, &accept, Default::default()).await;
    let reason = "/v1/environments/prod/flags/a:disable?reason=it%20hurts";
    let disabled = api.send("POST", reason, &[], None).await.ok();

    let raw = api.get("/v1/environments/prod/receipts").await.ok().json;
    let receipts = admin.receipts("prod", None, Duration::ZERO).await.unwrap();
    assert_eq!(
        (json!(receipts.version), &*receipts.environment),
        (raw["version"].clone(), "prod")
    );
    assert_eq!(said(&receipts.delivery), without_times(&raw));
    assert_eq!(receipts.delivery.missing().collect::<Vec<_>>(), ["cart-7"]);
    assert!(!receipts.delivery.complete && receipts.delivery.settled_in.is_some());
    let laggard = &receipts.delivery.laggards[0];
    assert!(laggard.last_seen.is_some() && laggard.fresh_for.is_some_and(|time| !time.is_zero()));
    let first = Some(Version::ZERO);
    let first = admin.receipts("prod", first, Duration::ZERO).await.unwrap();
    assert!(first.delivery.complete, "{first:?}");

    let raw = api.get("/v1/environments/prod/status").await.ok().json;
    let status = admin.environment_status("prod").await.unwrap();
    assert_eq!(
        json!([
            status.environment,
            status.version,
            status.changed_at,
            status.digest
        ]),
        json!([
            raw["environment"],
            raw["version"],
            raw["changed_at"],
            raw["digest"]
        ])
    );
    let bound = Duration::from_millis(raw["staleness_bound_ms"].as_u64().unwrap());
    assert_eq!(status.staleness_bound, Some(bound));
    assert_eq!(said(&status.delivery), without_times(&raw));

    let raw = api.get("/v1/environments/prod/status/a").await.ok().json;
    let status = admin.flag_status("prod", "a").await.unwrap();
    assert_eq!(
        (status.enabled, status.config_version.get()),
        (false, disabled.version())
    );
    assert_eq!(said(&status.delivery), without_times(&raw));
    let change = status.last_change.unwrap();
    assert_eq!(
        (change.version.get(), change.kind.as_str()),
        (disabled.version(), "policy")
    );
    assert_eq!(
        json!([change.updated_at, change.updated_by, change.reason]),
        json!([
            raw["last_change"]["updated_at"],
            raw["last_change"]["updated_by"],
            "it hurts"
        ])
    );

    // Writes that wait stand, whoever is missing.
    let waiting = admin
        .clone()
        .with_timeout(Duration::from_secs(1))
        .with_ack(Ack::Delivered);
    let written = waiting.enable("prod", "a").await.unwrap();
    let delivery = written.delivery.unwrap();
    assert!(!delivery.complete);
    assert_eq!(delivery.missing().collect::<Vec<_>>(), ["cart-7"]);
    let applied = admin.clone().with_ack(Ack::Applied);
    let set = [Change::put(Resource::flag("c"), flag())];
    let delivery = applied.changes(&set).await.unwrap().delivery.unwrap();
    assert!(delivery.complete && delivery.nodes[0].applied && delivery.settled_in.is_none());
    let (key, value) = (Resource::flag("d"), flag());
    let put = applied.put(&key, &value, Expected::Absent).await.unwrap();
    assert!(put.delivery.is_some_and(|one| one.complete));
    let deleted = admin
        .delete(&Resource::flag("d"), Expected::Exists)
        .await
        .unwrap();
    assert!(deleted.delivery.is_none());

    for refused in [
        admin
            .receipts("nowhere", None, Duration::ZERO)
            .await
            .map(drop),
        admin.environment_status("nowhere").await.map(drop),
        admin.flag_status("prod", "nope").await.map(drop),
        waiting.enable("prod", "nope").await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(
            refused.is_not_found() && !refused.outcome_unknown(),
            "{refused:?}"
        );
    }
    drop(stream);
    node.shutdown().await;
}

#[tokio::test]
async fn members_get_votes_lose_them_and_leave_through_any_node() {
    let network = MemoryNetwork::new();
    let names = ["n1", "n2", "n3"];
    let mut nodes = Vec::new();
    for (name, seed) in names.into_iter().chain(["n4"]).zip(1..) {
        let join = names.map(|name| format!("{name}:peer")).to_vec();
        let learner = name == "n4";
        let expect = if learner { 0 } else { 3 };
        let options = NodeOptions {
            join,
            expect,
            learner,
            ..options(name)
        };
        nodes.push(start(&network, options, seed).await);
    }
    let admin = admin(&network, &names);
    write_when_led(&admin).await;
    let joined = |cluster: &Cluster| cluster.member("n4").is_some_and(|one| one.lag == Some(0));
    let cluster = until(&admin, joined).await;
    let id = cluster.member("n4").unwrap().id;
    let votes = |cluster: Cluster| {
        assert!(
            !cluster.changing && cluster.members.iter().all(|one| !one.changing),
            "{cluster:?}"
        );
        cluster.member("n4").map(|one| one.voter)
    };

    let refused = admin.demote("n4").await.unwrap_err();
    assert!(
        refused.is_membership_refused() && !refused.outcome_unknown(),
        "{refused:?}"
    );
    let changed = admin.promote("n4").await.unwrap();
    assert_eq!(
        (changed.id, &*changed.name, &*changed.role),
        (id, "n4", "voter")
    );
    assert!(
        admin
            .promote("n4")
            .await
            .unwrap_err()
            .is_membership_refused()
    );
    // Whoever answers sees it at the latest with the next heartbeat.
    let settled =
        |cluster: &Cluster| !cluster.changing && cluster.member("n4").is_some_and(|one| one.voter);
    assert_eq!(votes(until(&admin, settled).await), Some(true));
    let led = admin.transfer_leader(Some("n4")).await.unwrap();
    assert_eq!((led.id, &*led.role), (id, "leader"));
    assert_ne!(admin.transfer_leader(None).await.unwrap().id, id);
    assert_eq!(admin.demote(&id.to_string()).await.unwrap().role, "learner");
    assert_eq!(admin.remove_member("n4").await.unwrap().role, "removed");
    let gone = |cluster: &Cluster| !cluster.changing && cluster.member("n4").is_none();
    assert_eq!(votes(until(&admin, gone).await), None);
    assert!(admin.remove_member("n4").await.unwrap_err().is_not_found());
    for node in nodes {
        node.shutdown().await;
    }
}
