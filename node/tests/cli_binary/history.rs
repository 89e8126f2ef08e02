//! What was: `audit`, `diff` and `revert`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Single, run};

/// The version of an object.
fn version(node: &Single, get: &str) -> u64 {
    let got = node.run(&format!("{get} -o json")).exits(0).json();
    got["version"].as_u64().unwrap()
}

/// A segment that was written twice, and both versions.
fn with_segment() -> (Single, u64, u64) {
    let node = Single::with_flag();
    let put = |value: &str| {
        node.run_with("segment put beta --env prod --value", &[value])
            .exits(0);
        version(&node, "segment get beta --env prod")
    };
    let first = put(r#"{"included":["alice"],"excluded":["eve"]}"#);
    let second = put(r#"{"excluded":["eve"],"included":["alice","bob"]}"#);
    (node, first, second)
}

#[test]
fn a_diff_shows_what_a_change_did() {
    let (node, first, second) = with_segment();
    let newest = node.run("segment diff beta --env prod").exits(0);
    let wanted = format!(
        "beta  version {first} -> version {second}\n  …\n      \"eve\"\n    ],\n    \
         \"included\": [\n-     \"alice\"\n+     \"alice\",\n+     \"bob\"\n    ]\n  }}\n"
    );
    assert_eq!(newest.out, wanted);
    let json = node
        .run("segment diff beta --env prod -o json")
        .exits(0)
        .json();
    assert_eq!(
        json,
        json!({"key": "beta", "environment": "prod", "from": first, "to": second,
            "changes": [{"pointer": "/included/1", "after": "bob"}]})
    );
    // From nothing, the other way round, and the same.
    let created = node
        .run(&format!(
            "segment diff beta --env prod --to {first} -o json"
        ))
        .exits(0)
        .json();
    assert_eq!(
        (&created["from"], &created["changes"][0]["pointer"]),
        (&Value::Null, &json!(""))
    );
    let back = node.run(&format!(
        "segment diff beta --env prod --from {second} --to {first} -o json"
    ));
    assert_eq!(
        back.exits(0).json()["changes"],
        json!([{"pointer": "/included/1", "before": "bob"}])
    );
    node.run(&format!("segment diff beta --env prod --from {second}"))
        .exits(0)
        .prints("nothing differs");
    // A deletion.
    node.run("segment delete beta --env prod").exits(0);
    node.run("segment diff beta --env prod")
        .exits(0)
        .prints(&format!("version {second} -> not there"))
        .prints("-     \"bob\"");
    for line in [
        "segment diff nothing --env prod".to_owned(),
        "flag diff nothing --to 2".to_owned(),
        "flag diff web/new:ui --from 1 --to 1".to_owned(),
    ] {
        node.run(&line).exits(3).complains("error:");
    }
    for line in [
        "env diff prod",
        "flag diff web/new:ui",
        "policy diff web/new:ui --env prod",
    ] {
        node.run(line).exits(0).prints("not there -> version");
    }
    node.run("env history prod").exits(0).prints("tester");
}

#[test]
fn a_revert_writes_what_was_there_as_a_new_version() {
    let (node, first, second) = with_segment();
    let reverted = node
        .run(&format!("segment revert beta --env prod --to {first}"))
        .exits(0);
    let now = version(&node, "segment get beta --env prod");
    assert_eq!(reverted.out, format!("beta: version {second} -> {now}\n"));
    let history = node
        .run("segment history beta --env prod -o json")
        .exits(0)
        .json();
    let line = &history["items"][0];
    assert_eq!(line["value"]["included"], json!(["alice"]));
    assert_eq!(line["before"]["included"], json!(["alice", "bob"]));
    assert_eq!(line["reason"], format!("revert to version {first}"));

    // Against exactly what was looked at: somebody else's change is not lost.
    let lost = format!("segment revert beta --env prod --to {second} --if-version {second}");
    node.run(&lost)
        .exits(4)
        .complains("nothing was written")
        .complains(&format!("--to {second} --if-version {now}"));
    assert_eq!(version(&node, "segment get beta --env prod"), now);

    // What was deleted comes back, created; as of the deletion there is nothing to go back to.
    node.run("segment delete beta --env prod").exits(0);
    let deleted = node
        .run("audit --kind segment -o json --limit 1")
        .exits(0)
        .json();
    let deleted = deleted["items"][0]["version"].as_u64().unwrap();
    node.run(&format!("segment revert beta --env prod --to {deleted}"))
        .exits(3)
        .complains("did not exist at version")
        .complains("pennon segment delete beta --env prod");
    node.run_with(
        &format!("segment revert beta --env prod --to {second} --reason"),
        &["it was fine"],
    )
    .exits(0)
    .prints("created at version");
    let line = &node.run("segment history beta --env prod -o json").json()["items"][0];
    assert_eq!(
        (&line["reason"], &line["value"]["included"][1]),
        (&json!("it was fine"), &json!("bob"))
    );
}

#[test]
fn what_is_not_kept_is_not_reverted_to() {
    let node = Single::start();
    let mut versions = Vec::new();
    node.run_with("setting put history --value", &[r#"{"per_object": 3}"#])
        .exits(0);
    node.run("setting get history")
        .exits(0)
        .prints("per_object")
        .prints("newest changes of an object");
    for n in 0..4 {
        let value = format!(r#"{{"tags":["t{n}"]}}"#);
        node.run_with("app put shop --value", &[&value]).exits(0);
        versions.push(version(&node, "app get shop"));
    }
    let first = versions[0];
    for line in [
        format!("app revert shop --to {first}"),
        format!("app diff shop --from {first}"),
    ] {
        node.run(&line).exits(3).complains("not kept any more");
    }
    assert_eq!(version(&node, "app get shop"), versions[3]);
}

#[test]
fn the_audit_list_is_filtered_and_goes_on() {
    let (node, first, second) = with_segment();
    node.run("audit")
        .exits(0)
        .prints("segment beta in prod")
        .prints("environment prod")
        .prints("tester");
    let some = node
        .run("audit --env prod --kind segment -o json")
        .exits(0)
        .json();
    let items = some["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["version"]), (2, &json!(second)));
    let page = node
        .run("audit --limit 1")
        .exits(0)
        .complains(&format!("--before {second}"));
    assert!(page.out.contains("change"), "{}", page.out);
    let rest = node
        .run(&format!("audit --limit 1 --before {second} -o json"))
        .exits(0)
        .json();
    assert_eq!(
        (&rest["items"][0]["version"], &rest["next"]),
        (&json!(first), &json!(first.to_string()))
    );
    let since = node
        .run(&format!("audit --since {first} -o json"))
        .exits(0)
        .json();
    assert_eq!(since["items"].as_array().unwrap().len(), 1);
    assert!(since.get("next").is_none());
    node.run("audit --actor nobody -o json")
        .exits(0)
        .prints("[]");
    node.run("audit --kind flags").exits(2);
    node.run("audit --from yesterday")
        .exits(1)
        .complains("from");
}

/// Answers requests one after the other and returns what was asked: each its head.
fn scripted(listener: TcpListener, answers: Vec<(&str, Value)>) -> Vec<String> {
    let mut asked = Vec::new();
    for (status, body) in answers {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        stream
            .read_exact(&mut vec![0; length.unwrap_or(0)])
            .unwrap();
        asked.push(head);
        let body = body.to_string();
        let kind = match status.starts_with('2') {
            true => "application/json",
            false => "application/problem+json",
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    }
    asked
}

#[test]
fn a_change_between_look_and_revert_is_a_conflict() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let object = |version: u64| json!({"key": "a", "version": version, "value": {"tags": []}});
    let lost = json!({"type": "/problems/version-conflict", "title": "t", "status": 412, "detail": "d",
        "current_version": 8, "current": object(8)});
    let answers = vec![
        ("200 OK", object(3)),
        ("200 OK", object(7)),
        ("412 Precondition Failed", lost),
    ];
    let node = std::thread::spawn(move || scripted(listener, answers));
    run(
        &["app", "revert", "a", "--to", "3"],
        &[("PENNON_URL", &url)],
    )
    .exits(4)
    .complains("--to 3 --if-version 8");
    let asked = node.join().unwrap();
    assert!(
        asked[0].starts_with("get /v1/applications/a/history?at=3 "),
        "{asked:?}"
    );
    assert!(
        asked[2].starts_with("put ") && asked[2].contains("if-match: \"7\""),
        "{asked:?}"
    );
}
