//! Backup and restore over HTTP: everything at one version, and back as one change, onto nothing but
//! what was looked at. `http_support` holds every answer against `/openapi.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use http_support::{Api, Reply, flag, furnished, serving};
use pennon_raft_store::backup::Backup;
use pennon_raft_store::disk::{Disk, MemoryDisk, Open};
use serde_json::{Value, json};

const RESTORE: &str = "/v1/cluster:restore";

/// The backup in an answer, checked as a file.
fn backup_of(bytes: &[u8]) -> Backup {
    let disk = MemoryDisk::new();
    let file = disk.open("a.backup", Open::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    Backup::open(&disk, "a.backup").unwrap()
}

/// The body that brings a backup back.
fn body_of(backup: &Backup) -> Value {
    let objects = backup.machine().all_objects().map(|(id, object)| {
        let value: Value = serde_json::from_str(&object.value).unwrap();
        let mut one = json!({"kind": id.kind().as_str(), "key": id.key(), "value": value});
        if let Some(environment) = id.environment() {
            one["environment"] = environment.as_str().into();
        }
        one
    });
    json!({ "objects": objects.collect::<Vec<_>>() })
}

fn counts(reply: &Reply) -> [u64; 4] {
    ["created", "changed", "deleted", "unchanged"].map(|name| reply.json[name].as_u64().unwrap())
}

async fn value(api: &Api, path: &str) -> Value {
    api.get(path).await.ok().json["value"].clone()
}

#[tokio::test]
async fn what_was_backed_up_comes_back_as_one_change() {
    let (node, api) = furnished().await;
    let taken = api.get("/v1/backup").await.ok();
    assert_eq!(
        taken.header("content-type"),
        "application/vnd.pennon.backup"
    );
    let version = taken.version();
    let name = format!("attachment; filename=\"pennon-{version}.backup\"");
    assert_eq!(taken.header("content-disposition"), name);
    let backup = backup_of(&taken.bytes);
    assert_eq!(backup.machine().version().get(), version);
    assert_eq!(backup.history_len().unwrap(), 6);
    let body = body_of(&backup);
    let same = api.post(RESTORE, body.clone()).await.ok();
    assert_eq!((counts(&same), same.version()), ([0, 0, 0, 6], version));

    api.replace("/v1/environments/prod/policies/a", serving("off"))
        .await
        .ok();
    api.create("/v1/flags/new", flag()).await;
    let any = [("if-match", "*")];
    for path in [
        "/v1/environments/prod/policies/b%2Fx:y",
        "/v1/flags/b%2Fx:y",
    ] {
        api.send("DELETE", path, &any, None).await.ok();
    }
    let look = api
        .post(&format!("{RESTORE}?dry_run=true"), body.clone())
        .await
        .ok();
    assert_eq!(counts(&look), [2, 1, 1, 3]);
    let ops = look.json["objects"].as_array().unwrap().iter();
    let ops: Vec<_> = ops
        .map(|one| (one["op"].as_str().unwrap(), one["key"].as_str().unwrap()))
        .collect();
    assert_eq!(
        ops,
        [
            ("create", "b/x:y"),
            ("delete", "new"),
            ("change", "a"),
            ("create", "b/x:y")
        ]
    );
    api.get("/v1/flags/new").await.ok();

    let onto = look.json["onto"].as_str().unwrap();
    let path = format!("{RESTORE}?onto={onto}&reason=back&ack=applied");
    let done = api.post(&path, body.clone()).await.ok();
    assert_eq!(counts(&done), counts(&look));
    assert_eq!(done.json["delivery"]["complete"], true);
    api.get("/v1/flags/new").await.problem(404, "not-found");
    assert_eq!(
        value(&api, "/v1/environments/prod/policies/a").await,
        serving("on")
    );
    // One version for all of it (I3), and the history goes on (I2).
    let restored = done.json["version"].as_u64().unwrap();
    for path in ["/v1/flags/b%2Fx:y", "/v1/environments/prod/policies/a"] {
        let history = api.get(&format!("{path}/history")).await.ok().json;
        assert_eq!(history["items"][0]["version"], restored);
        assert_eq!(history["items"][0]["reason"], "back");
    }
    assert_eq!(counts(&api.post(RESTORE, body).await.ok()), [0, 0, 0, 6]);
    node.shutdown().await;
}

#[tokio::test]
async fn nothing_written_meanwhile_is_overwritten_unseen() {
    let (node, api) = furnished().await;
    let body = body_of(&backup_of(&api.get("/v1/backup").await.ok().bytes));
    api.create("/v1/flags/new", flag()).await;
    let look = api
        .post(&format!("{RESTORE}?dry_run=true"), body.clone())
        .await
        .ok();
    let onto = look.json["onto"].as_str().unwrap().to_owned();
    let later = api.create("/v1/flags/newer", flag()).await.version();
    let path = format!("{RESTORE}?onto={onto}");
    let refused = api
        .post(&path, body.clone())
        .await
        .problem(412, "state-moved");
    assert_eq!(refused.version(), later, "I2");
    for key in ["new", "newer"] {
        api.get(&format!("/v1/flags/{key}")).await.ok();
    }
    // Repeated with its key, a restore is applied once (I9).
    let key = [
        ("idempotency-key", "k"),
        ("content-type", "application/json"),
    ];
    let first = api.raw("POST", RESTORE, &key, body.to_string()).await.ok();
    let again = api.raw("POST", RESTORE, &key, body.to_string()).await.ok();
    assert_eq!(counts(&first), [0, 0, 2, 6]);
    assert_eq!(counts(&again), [0, 0, 0, 6]);
    assert_eq!(
        api.get("/v1/flags").await.version(),
        first.json["version"].as_u64().unwrap()
    );
    node.shutdown().await;
}

#[tokio::test]
async fn restores_that_cannot_be() {
    let (node, api) = furnished().await;
    let refused = |path: &str, body: Value| {
        let path = format!("{RESTORE}{path}");
        let api = &api;
        async move { api.post(&path, body).await }
    };
    let whole = json!({"objects": [{"kind": "flag", "key": "a", "value": flag()}]});
    refused("", json!({"objects": []}))
        .await
        .problem(400, "validation");
    refused("?onto=7", whole.clone())
        .await
        .problem(400, "validation");
    refused("?dry_run=perhaps", whole.clone())
        .await
        .problem(400, "validation");
    refused("?dry=true", whole).await.problem(400, "validation");
    refused("", json!([])).await.problem(400, "validation");
    // A policy without its flag, a flag that is none: the place is in the body.
    let policy =
        json!({"kind": "policy", "environment": "prod", "key": "gone", "value": serving("on")});
    let environment = json!({"kind": "environment", "key": "prod", "value": {}});
    let missing = refused("", json!({"objects": [environment, policy]})).await;
    missing.problem(404, "not-found");
    let odd = json!({"kind": "flag", "key": "odd", "value": {"type": "boolean"}});
    let invalid = refused("", json!({"objects": [odd]}))
        .await
        .problem(400, "validation");
    assert!(
        invalid.pointers()[0].ends_with("/value/variants"),
        "{:?}",
        invalid.pointers()
    );
    assert_eq!(
        api.get("/v1/flags").await.ok().json["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    node.shutdown().await;
}
