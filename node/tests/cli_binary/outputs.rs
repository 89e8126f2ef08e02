//! What is printed: machine-readable forms that parse, no colour where nobody wants it, and a
//! reader that goes away.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Single, run};

#[test]
fn json_parses_yaml_differs_and_neither_has_colours() {
    let node = Single::with_flag();
    for line in [
        "flag list",
        "flag list --env prod",
        "flag get web/new:ui",
        "flag history web/new:ui",
        "policy list --env prod",
        "policy get web/new:ui --env prod",
        "segment list --env prod",
        "env list",
        "env get prod",
        "eval web/new:ui --env prod --subject u",
        "eval --all --env prod --subject u",
        "explain web/new:ui --env prod --subject u",
        "cluster status",
        "flag enable web/new:ui --env prod",
    ] {
        let json = node.run(&format!("{line} -o json")).exits(0).json();
        assert!(json.is_object(), "{line}: {json}");
        let yaml = node.run(&format!("{line} -o yaml")).exits(0).out;
        assert!(
            yaml.contains(": ") && !yaml.starts_with('{'),
            "{line}: {yaml}"
        );
        let table = node.run(line).exits(0);
        assert!(
            !format!("{}{}", table.out, table.err).contains('\u{1b}'),
            "{line}"
        );
    }
}

#[test]
fn a_cluster_of_one_is_healthy() {
    let node = Single::start();
    node.run("cluster status")
        .exits(0)
        .prints("healthy")
        .prints("leader")
        .prints("n1");
    let status = node.run("cluster status -o json").exits(0).json();
    assert_eq!(status["members"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let node = Single::with_flag();
    for line in ["flag list -o json", "cluster status", "watch --env prod"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pennon"))
            .args(line.split_whitespace())
            .env("PENNON_URL", &node.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(
            (ended.status.code(), said.as_str()),
            (Some(0), ""),
            "{line}"
        );
    }
}

#[test]
fn help_names_examples_and_every_command_has_some() {
    let help = run(&["--help"], &[])
        .exits(0)
        .prints("Examples:")
        .prints("Exit codes:");
    for command in [
        "serve", "dev", "flag", "policy", "segment", "env", "change", "eval", "explain", "watch",
        "cluster",
    ] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command}");
        run(&[command, "--help"], &[])
            .exits(0)
            .prints("Usage: pennon");
    }
    run(&[], &[]).exits(2);
    run(&["--version"], &[]).exits(0).prints("pennon ");
}

#[test]
fn a_failure_as_json_is_one_document() {
    let node = Single::start();
    let said = node.run("flag get nothing -o json").exits(3);
    let problem: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(
        (problem["type"].as_str(), said.out.as_str()),
        (Some("/problems/not-found"), "")
    );
}
