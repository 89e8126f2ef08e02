//! What happened: the audit list with its filters and pages, what a change replaced, and objects
//! as of a version.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use http_support::{Api, Reply, flag, furnished, serving, undocumented};
use serde_json::{Value, json};

fn items(reply: &Reply) -> &Vec<Value> {
    reply.json["items"].as_array().unwrap()
}

/// `op kind key` of each line.
fn told(reply: &Reply) -> Vec<String> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let lines = items(reply).iter();
    lines
        .map(|line| ["op", "kind", "key"].map(|name| text(line, name)).join(" "))
        .collect()
}

/// Writes with a name and a reason; returns the version.
async fn write_as(api: &Api, actor: &str, method: &str, path: &str, value: Option<Value>) -> u64 {
    let headers = [("if-match", "*"), ("pennon-actor", actor)];
    let written = api.send(method, path, &headers, value).await.ok();
    written.json["version"].as_u64().unwrap()
}

#[tokio::test]
async fn the_audit_list_has_every_change_with_what_it_replaced() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/policies/a";
    let before = api.get(path).await.ok().json;
    let version = write_as(&api, "alice", "PUT", path, Some(serving("off"))).await;
    let gone = write_as(&api, "bob", "DELETE", path, None).await;
    let list = api.get("/v1/audit").await.ok();
    let document = api.document();
    let schema = json!({ "$ref": "#/components/schemas/Audit" });
    assert_eq!(undocumented(&document, &schema, &list.json, ""), [""; 0]);
    assert_eq!(
        told(&list),
        [
            "delete policy a",
            "change policy a",
            "create segment beta",
            "create policy b/x:y",
            "create flag b/x:y",
            "create policy a",
            "create flag a",
            "create environment prod",
        ]
    );
    let (deleted, changed, created) = (&items(&list)[0], &items(&list)[1], &items(&list)[5]);
    assert_eq!(changed["version"], version);
    assert_eq!(changed["previous_version"], before["version"]);
    assert_eq!(changed["before"], before["value"]);
    assert_eq!(changed["after"], serving("off"));
    assert_eq!(
        (&changed["environment"], &changed["updated_by"]),
        (&json!("prod"), &json!("alice"))
    );
    assert_eq!(
        (&deleted["before"], &deleted["after"]),
        (&serving("off"), &Value::Null)
    );
    assert_eq!(deleted["version"], gone);
    assert_eq!(
        (&created["before"], &created["after"]),
        (&Value::Null, &before["value"])
    );
    assert!(created.get("previous_version").is_none() && list.json.get("next").is_none());
    assert_eq!(list.json["scanned"], 8);
    node.shutdown().await;
}

#[tokio::test]
async fn filters_leave_out_what_was_not_asked_for() {
    let (node, api) = furnished().await;
    let switched = write_as(
        &api,
        "alice",
        "PUT",
        "/v1/environments/prod/policies/a",
        Some(serving("off")),
    )
    .await;
    write_as(
        &api,
        "alice",
        "PUT",
        "/v1/environments/prod",
        Some(json!({})),
    )
    .await;
    let get = async |query: &str| api.get(&format!("/v1/audit?{query}")).await.ok();
    assert_eq!(
        told(&get("actor=alice").await),
        ["change environment prod", "change policy a"]
    );
    assert_eq!(
        told(&get("kind=flag").await),
        ["create flag b/x:y", "create flag a"]
    );
    assert_eq!(told(&get("kind=flag&key=a").await), ["create flag a"]);
    let of_key = ["change policy a", "create policy a", "create flag a"];
    assert_eq!(told(&get("key=a").await), of_key);
    let of_object = get("kind=policy&environment=prod&key=a").await;
    assert_eq!(told(&of_object), of_key[..2]);
    assert_eq!(
        of_object.json["scanned"], 2,
        "only its own changes are looked at"
    );
    assert_eq!(
        get("environment=prod").await.json["items"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert!(told(&get("environment=staging").await).is_empty());
    let since = get(&format!("since_version={}", switched - 1)).await;
    assert_eq!(told(&since), ["change environment prod", "change policy a"]);
    assert_eq!(since.json["scanned"], 2, "what is older is not looked at");
    let before = get(&format!("before={switched}&limit=1")).await;
    assert_eq!(told(&before), ["create segment beta"]);

    let at = items(&get("actor=alice").await)[1]["updated_at"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(told(&get(&format!("from={at}&actor=alice")).await).len(), 2);
    assert!(!told(&get(&format!("to={at}")).await).contains(&"change policy a".to_owned()));
    assert!(told(&get("from=2999-01-01T00:00:00Z").await).is_empty());
    assert_eq!(told(&get("from=0&to=32472144000000").await).len(), 8);
    for (query, name) in [
        ("from=yesterday", "from"),
        ("to=2026-01-01", "to"),
        ("kind=flags", "kind"),
        ("environment=a%20b", "environment"),
        ("kind=flag&key=a%20b", "key"),
        ("before=x", "before"),
        ("since=4", "since"),
        ("limit=0", "limit"),
    ] {
        let refused = api.get(&format!("/v1/audit?{query}")).await;
        let refused = refused.problem(400, "validation");
        assert_eq!(refused.json["faults"][0]["parameter"], name, "{query}");
    }
    node.shutdown().await;
}

#[tokio::test]
async fn pages_have_whole_versions_and_skip_nothing() {
    let (node, api) = Api::single().await;
    for n in 0..7 {
        let keys = (0..=n % 3).map(|m| format!("f{n}.{m}"));
        let puts =
            keys.map(|key| json!({"op": "put", "kind": "flag", "key": key, "value": flag()}));
        api.post("/v1/changes", json!(puts.collect::<Vec<_>>()))
            .await
            .ok();
    }
    let whole = api.get("/v1/audit").await.ok();
    assert_eq!(items(&whole).len(), 13);
    for limit in [1, 2, 3, 5, 12, 13] {
        let (mut seen, mut before) = (Vec::new(), String::new());
        loop {
            let page = api
                .get(&format!("/v1/audit?limit={limit}{before}"))
                .await
                .ok();
            assert!(
                items(&page).len() <= limit + 2,
                "the rest of one change set at most"
            );
            seen.extend(items(&page).clone());
            match page.json["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        assert_eq!(&seen, items(&whole), "limit {limit}");
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_filter_that_finds_nothing_looks_at_so_many_changes_and_says_where_to_go_on() {
    let (node, api) = Api::single().await;
    api.create("/v1/flags/needle", flag()).await;
    for round in 0..11 {
        let puts = (0..1_000).map(|n| {
            json!({"op": "put", "kind": "application", "key": format!("{round}.{n}"), "value": {"tags": ["t"]}})
        });
        api.post("/v1/changes", json!(puts.collect::<Vec<_>>()))
            .await
            .ok();
    }
    let first = api.get("/v1/audit?kind=flag").await.ok();
    assert_eq!(
        (items(&first).len(), &first.json["scanned"]),
        (0, &json!(10_000))
    );
    let next = first.json["next"].as_str().unwrap();
    let second = api
        .get(&format!("/v1/audit?kind=flag&before={next}"))
        .await
        .ok();
    assert_eq!(told(&second), ["create flag needle"]);
    assert!(second.json.get("next").is_none());
    assert_eq!(second.json["scanned"], 1_001);
    node.shutdown().await;
}

#[tokio::test]
async fn a_history_says_what_each_change_replaced() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/segments/beta";
    let changed = json!({"included": ["bob"]});
    write_as(&api, "alice", "PUT", path, Some(changed.clone())).await;
    write_as(&api, "alice", "DELETE", path, None).await;
    let history = api.get(&format!("{path}/history")).await.ok();
    let sides: Vec<_> = items(&history)
        .iter()
        .map(|line| (&line["before"], &line["value"]))
        .collect();
    let first = json!({"included": ["alice"]});
    let null = Value::Null;
    assert_eq!(
        sides,
        [(&changed, &null), (&first, &changed), (&null, &first)]
    );
    assert!(
        items(&history)[2].get("before").is_some(),
        "null, not left out"
    );
    // At the end of a page too.
    let page = api.get(&format!("{path}/history?limit=1")).await.ok();
    assert_eq!(items(&page), &items(&history)[..1]);
    node.shutdown().await;
}

#[tokio::test]
async fn an_object_is_read_as_of_a_version_or_said_not_to_have_been_there() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/segments/beta";
    let first = api.get(path).await.ok().json;
    let created = first["version"].as_u64().unwrap();
    let gone = write_as(&api, "bob", "DELETE", path, None).await;
    let again = api.create(path, json!({"included": ["carol"]})).await.json["version"]
        .as_u64()
        .unwrap();
    let at = async |version: u64| {
        let path = format!("{path}/history?at={version}");
        api.get(&path).await
    };
    for version in [created, gone - 1] {
        assert_eq!(at(version).await.ok().json, first);
    }
    let deleted = at(gone).await.problem(404, "not-found");
    assert_eq!(
        (
            &deleted.json["deleted_version"],
            &deleted.json["deleted_by"],
            &deleted.json["at"]
        ),
        (&json!(gone), &json!("bob"), &json!(gone))
    );
    assert!(deleted.text.contains("bob deleted it"), "{}", deleted.text);
    assert_eq!(
        at(again).await.ok().json["value"]["included"],
        json!(["carol"])
    );
    let never = at(created - 1).await.problem(404, "not-found");
    assert!(never.text.contains("did not exist"), "{}", never.text);
    assert!(never.json.get("deleted_version").is_none());
    let future = api
        .get(&format!("{path}/history?at={}&wait=20ms", again + 1_000))
        .await;
    let future = future.problem(503, "not-fresh-enough");
    assert_eq!(future.json["wanted_version"], again + 1_000);
    api.get("/v1/flags/never/history?at=1")
        .await
        .problem(404, "not-found");
    node.shutdown().await;
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_no_wrong_answer() {
    let (node, api) = Api::single().await;
    let path = "/v1/applications/shop";
    let mut versions = vec![api.create(path, json!({"tags": ["t0"]})).await.version()];
    for n in 1..=100 {
        let value = json!({"tags": [format!("t{n}")]});
        versions.push(write_as(&api, "alice", "PUT", path, Some(value)).await);
    }
    // One more than are kept: the oldest is gone.
    let lost = api.get(&format!("{path}/history?at={}", versions[0])).await;
    let lost = lost.problem(410, "not-retained");
    assert_eq!(lost.json["oldest_version"], versions[1]);
    let before_it = api.get(&format!("{path}/history?at=1")).await;
    before_it.problem(410, "not-retained");
    let kept = api.get(&format!("{path}/history?at={}", versions[1])).await;
    assert_eq!(kept.ok().json["value"], json!({"tags": ["t1"]}));
    let history = api.get(&format!("{path}/history")).await.ok();
    let oldest = &items(&history)[99];
    assert_eq!(oldest["previous_version"], versions[0]);
    assert!(oldest.get("before").is_none(), "{oldest}");
    let audit = api.get("/v1/audit?kind=application").await.ok();
    assert!(items(&audit)[99].get("before").is_none());
    assert_eq!(items(&audit)[98]["before"], json!({"tags": ["t1"]}));
    node.shutdown().await;
}

#[tokio::test]
async fn how_much_is_kept_is_a_setting() {
    let (node, api) = Api::single().await;
    let (path, setting) = ("/v1/applications/shop", "/v1/settings/history");
    let first = api.create(path, json!({"tags": ["t0"]})).await.version();
    let old = api
        .create("/v1/applications/old", json!({"tags": ["t"]}))
        .await;
    for n in 1..=4 {
        let value = json!({"tags": [format!("t{n}")]});
        write_as(&api, "alice", "PUT", path, Some(value)).await;
    }
    let refused = api.send(
        "PUT",
        setting,
        &[("if-none-match", "*")],
        Some(json!({"days": 0, "total": "x", "y": 1})),
    );
    let refused = refused.await.problem(400, "validation");
    assert_eq!(refused.pointers(), ["/y", "/total", "/days"]);
    let effective = api.get(&format!("{setting}/effective")).await.ok().json;
    assert_eq!(
        (&effective["effective"], &effective["default"]),
        (
            &json!({"per_object": 100, "total": 1_000_000, "days": 36_500}),
            &effective["effective"]
        )
    );

    // Objects that nobody touches are trimmed too, and what was trimmed does not come back.
    let lines = async |path: &str| {
        let history = api.get(&format!("{path}/history")).await.ok();
        items(&history).len()
    };
    assert_eq!(lines(path).await, 5);
    api.create(setting, json!({"per_object": 2})).await;
    assert_eq!(lines(path).await, 2);
    let effective = api.get(&format!("{setting}/effective")).await.ok().json;
    assert_eq!(
        (
            &effective["effective"]["per_object"],
            &effective["effective"]["days"]
        ),
        (&json!(2), &json!(36_500))
    );
    api.replace(setting, json!({"per_object": 50})).await.ok();
    assert_eq!(lines(path).await, 2);
    write_as(&api, "alice", "DELETE", path, None).await;
    assert_eq!(lines(path).await, 3);
    api.get(&format!("{path}/history?at={first}"))
        .await
        .problem(410, "not-retained");
    // That it was not there is not certain either, since less was kept once.
    api.get(&format!("{path}/history?at={}", first - 1))
        .await
        .problem(410, "not-retained");

    // It was there, and its oldest change that is left made it anew.
    let twice = "/v1/applications/twice";
    let tags = json!({"tags": ["t"]});
    let was = api.create(twice, tags.clone()).await.version();
    write_as(&api, "alice", "DELETE", twice, None).await;
    api.create(twice, tags).await;
    api.replace(setting, json!({"per_object": 1})).await.ok();
    api.replace(setting, json!({"per_object": 50})).await.ok();
    assert_eq!(lines(twice).await, 1);
    let then = api.get(&format!("{twice}/history?at={was}")).await;
    then.problem(410, "not-retained");

    // Of all: the object whose only change is trimmed is still there, unchanged since.
    let audit = api.get("/v1/audit").await.ok();
    let total = json!({"total": items(&audit).len() - 1});
    api.replace(setting, total).await.ok();
    let version = old.version();
    assert_eq!(lines("/v1/applications/old").await, 0);
    let then = api
        .get(&format!("/v1/applications/old/history?at={version}"))
        .await
        .ok();
    assert_eq!(then.json, api.get("/v1/applications/old").await.ok().json);
    let before = api
        .get(&format!("/v1/applications/old/history?at={}", version - 1))
        .await;
    let before = before.problem(410, "not-retained");
    assert!(before.json.get("oldest_version").is_none());
    api.send("DELETE", setting, &[("if-match", "*")], None)
        .await
        .ok();
    let effective = api.get(&format!("{setting}/effective")).await.ok().json;
    assert_eq!(effective["effective"], effective["default"]);
    node.shutdown().await;
}
