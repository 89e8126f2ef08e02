//! Saving everything, bringing it back, and beginning anew from it.

use std::path::Path;

use serde_json::Value;

use crate::support::{Process, Single, eventually, run};

fn flip_a_byte(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_backup_is_taken_checked_and_restored() {
    let node = Single::with_flag();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags.backup");
    let name = file.to_str().unwrap();
    let taken = node.run_with("backup", &[name]).exits(0);
    for part in [
        "saved: version",
        "1 environment, 1 flag, 1 policy",
        "a history of 3 changes",
    ] {
        assert!(taken.out.contains(part), "{part:?} is not in {}", taken.out);
    }
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing but the file is left");
    node.run_with("backup", &[name])
        .exits(2)
        .complains("--force");
    node.run_with("backup --force", &[name]).exits(0);
    // Checking asks no node.
    let json = run(&["backup", "verify", name, "-o", "json"], &[])
        .exits(0)
        .json();
    assert_eq!(
        (&json["objects"]["flag"], &json["history"]),
        (&Value::from(1), &Value::from(3))
    );

    node.run("flag create other --type boolean").exits(0);
    node.run("flag disable web/new:ui --env prod").exits(0);
    let look = node.run_with("restore --dry-run", &[name]).exits(0);
    assert!(
        look.out
            .contains("would create 0, change 1, delete 1; 2 stay"),
        "{}",
        look.out
    );
    node.run("flag get other").exits(0);
    // Nobody is there to be asked.
    node.run_with("restore", &[name])
        .exits(2)
        .complains("--yes");
    node.run("flag get other").exits(0);
    let done = node
        .run_with("restore --yes --ack delivered --reason", &["oops", name])
        .exits(0);
    assert!(done.out.contains("restored as version"), "{}", done.out);
    node.run("flag get other").exits(3);
    let again = node.run_with("restore --yes", &[name]).exits(0);
    assert!(again.out.contains("nothing differs"), "{}", again.out);

    flip_a_byte(&file);
    for command in ["backup verify", "restore --dry-run"] {
        let said = node
            .run_with(command, &[name])
            .exits(7)
            .complains("damaged at offset");
        assert!(said.err.contains("flags.backup"), "{}", said.err);
    }
    let nothing = directory.path().join("gone");
    node.run_with("restore --yes", &[nothing.to_str().unwrap()])
        .exits(3)
        .complains("there is no file");
    std::fs::write(&file, "hello").unwrap();
    node.run_with("backup verify", &[name])
        .exits(7)
        .complains("is no backup");
}

#[test]
fn a_backup_that_broke_off_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flags.backup");
    let url = [("PENNON_URL", "http://127.0.0.1:1")];
    run(&["backup", file.to_str().unwrap()], &url).exits(5);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_lost_cluster_begins_anew_from_a_backup_or_from_a_survivor() {
    let mut node = Single::with_flag();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    node.run_with("backup", &[&path("b")]).exits(0);
    let old = node.data.path().join("n1");
    let survivor = ["recover", "--survivor", old.to_str().unwrap(), "--data"];
    // A node that runs is no survivor.
    run(&[&survivor[..], &[&path("x")]].concat(), &[])
        .exits(1)
        .complains("in use");
    node.process.signal("TERM");
    assert_eq!(node.process.ended(), Some(0));
    let backup = ["recover", "--backup", &path("b"), "--data"];
    for (from, data) in [(&survivor[..], path("s")), (&backup[..], path("n"))] {
        let line = [from, &[&data, "-o", "json"]].concat();
        let made = run(&line, &[]).exits(0).json();
        assert_ne!(made["cluster_id"], made["old_cluster_id"]);
        assert!(
            made["version"].as_u64() > made["old_version"].as_u64().map(|old| old + 999_999_999)
        );
        run(&line, &[]).exits(1).complains("not empty");
        let listen = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "127.0.0.1:0",
            "--data",
            &data,
        ];
        let mut process = Process::start(&listen, &[]);
        process.says("is ready");
        let log = process.err();
        let url = log
            .split("API ")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .unwrap();
        let run = |line: &[&str]| run(line, &[("PENNON_URL", url)]);
        eventually("the cluster knows where the node is now", || {
            let status = run(&["cluster", "status", "-o", "json"]).exits(0).json();
            assert_eq!(status["cluster_id"], made["cluster_id"]);
            let api = status["members"][0]["api"].as_str().unwrap();
            url.ends_with(api).then_some(())
        });
        let eval = [
            "eval",
            "web/new:ui",
            "--env",
            "prod",
            "--subject",
            "u",
            "--attr",
            "country=DE",
            "-o",
            "json",
        ];
        assert_eq!(run(&eval).exits(0).json()["value"], true);
        let written = run(&[
            "flag",
            "disable",
            "web/new:ui",
            "--env",
            "prod",
            "-o",
            "json",
        ])
        .exits(0)
        .json();
        assert!(written["version"].as_u64() > made["version"].as_u64(), "I2");
        process.signal("TERM");
        assert_eq!(process.ended(), Some(0));
    }
}
