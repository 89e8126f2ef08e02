//! `check` as people call it: exit codes, and messages for what is no history.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use jepsen_like_tests::checkers::judge::Demand;
use jepsen_like_tests::history::{Action, Header, Operation, Outcome, Recorder, Seen};

/// The exit code, and everything that was printed.
fn check(arguments: &[&str]) -> (i32, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_check"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A history of one write and one read of it.
fn history(directory: &Path, name: &str, read_version: u64, writes_min: usize) -> PathBuf {
    let path = directory.join(name);
    let demand = Demand {
        writes_min,
        ..Demand::default()
    };
    let header = Header::new(7, vec!["n1".into()], demand);
    let recorder = Recorder::default().to_file(&path, &header).unwrap();
    let operation = |invoked, action, outcome| Operation {
        client: 0,
        register: "r".into(),
        invoked,
        completed: invoked + 5,
        action,
        outcome,
    };
    let write = Action::Write {
        value: Some("a".into()),
        expected: None,
    };
    recorder.add(operation(10, write, Outcome::Written { version: 3 }));
    let seen = Seen {
        version: read_version,
        value: "a".into(),
    };
    let read = Outcome::Read {
        decided: 4,
        seen: Some(seen),
    };
    recorder.add(operation(20, Action::Read, read));
    recorder.close().unwrap();
    path
}

#[test]
fn the_exit_code_is_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    for (name, read_version, writes_min, code, word) in [
        ("valid", 3, 1, 0, "valid"),
        ("invalid", 2, 1, 1, "INVALID"),
        ("little", 3, 2, 2, "unknown"),
    ] {
        let file = history(directory.path(), name, read_version, writes_min);
        let page = directory.path().join(format!("{name}.html"));
        let (found, text) = check(&[file.to_str().unwrap(), "--html", page.to_str().unwrap()]);
        assert_eq!(found, code, "{text}");
        assert_eq!(text.lines().last(), Some(word), "{text}");
        assert!(text.starts_with("seed 7, 1 nodes, 2 events"), "{text}");
        assert!(std::fs::read_to_string(page).unwrap().contains(word));
    }
}

#[test]
fn what_cannot_be_judged_is_said_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("text"), "hello\n").unwrap();
    std::fs::write(path("empty"), "").unwrap();
    let whole = history(directory.path(), "whole", 3, 1);
    let text = std::fs::read_to_string(whole).unwrap();
    std::fs::write(path("cut"), &text[..text.len() - 60]).unwrap();
    for (arguments, said) in [
        (vec![path("none")], "No such file"),
        (vec![path("text")], "line 1 is not the header of a history"),
        (vec![path("empty")], "the file is empty"),
        (vec![path("cut")], "was cut off"),
        (vec![path("whole"), path("cut")], "unexpected argument"),
        (vec![path("whole"), "--html".into()], "a value is required"),
        (vec!["--hmtl".into()], "unexpected argument '--hmtl'"),
        (vec![], "<FILE>"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, text) = check(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let (code, text) = check(&["--help"]);
    assert!(code == 0 && text.contains("Exits with 0"), "{text}");
}
