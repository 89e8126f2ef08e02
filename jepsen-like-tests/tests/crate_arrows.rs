//! Who may depend on whom, and what lies at the top of the repository.
//!
//! What must hold: crates depend on each other only along the arrows of ARCHITECTURE.md; openraft
//! and sled are named by raft-store alone, axum by node, and an example of the client; what applications link stays small
//! and free of all three; the evaluator is pure. Nothing at the top level but what belongs there,
//! and no file sends anybody to a package registry of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates in the client's tree at most, itself included.
const CLIENT_TREE_MAX: usize = 75;

/// Each crate of the workspace with those it may depend on.
const ARROWS: [(&str, &[&str]); 6] = [
    ("pennon-evaluator", &[]),
    ("pennon-raft-store", &["pennon-evaluator"]),
    ("pennon-client", &["pennon-evaluator"]),
    (
        "pennon-node",
        &["pennon-raft-store", "pennon-evaluator", "pennon-client"],
    ),
    (
        "jepsen-like-tests",
        &[
            "pennon-client",
            "pennon-evaluator",
            "pennon-raft-store",
            "pennon-node",
        ],
    ),
    ("pennon-between", &[]),
];

/// Libraries that these crates alone may name. The client has an example with axum; that it does not
/// link it is a test of its own.
const OWNED: [(&str, &[&str]); 3] = [
    ("openraft", &["pennon-raft-store"]),
    ("sled", &["pennon-raft-store"]),
    ("axum", &["pennon-node", "pennon-client"]),
];

/// Where the time of day is read, each with what for. It jumps, so nothing that has to be right may
/// rest on it; above all not how old a state is (I5).
const TIME_OF_DAY: [(&str, &str); 5] = [
    ("node/src/clock.rs", "hands it in"),
    ("node/src/writer.rs", "stamps entries, for people"),
    (
        "node/src/hub.rs",
        "a number that differs from one start to the next",
    ),
    ("node/src/cli/watch.rs", "shows it"),
    (
        "client/src/cache/file.rs",
        "says when a file was written, for people",
    ),
];

const TOP_LEVEL: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "node",
    "raft-store",
    "evaluator",
    "client",
    "jepsen-like-tests",
    "scripts",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "target",
];
/// Settings of tools that look for them at the top level.
const TOP_LEVEL_SETTINGS: [&str; 2] = ["deny.toml", "clippy.toml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    let run = command
        .args(arguments)
        .arg("--offline")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8(run.stdout).unwrap()
}

/// What each crate of the workspace names in its manifest, of every kind and for every platform.
fn named() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let names = package["dependencies"].as_array().unwrap().iter();
            let names = names.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (
                package["name"].as_str().unwrap().to_owned(),
                names.collect(),
            )
        });
    packages.collect()
}

/// Arrows that are not allowed, as sentences.
fn wrong_arrows(named: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, names) in named {
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| crate_name == name) else {
            wrong.push(format!(
                "{name} is no crate of this workspace that anybody knows"
            ));
            continue;
        };
        let ours = ARROWS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| names.contains(*name));
        // Unit tests of a crate may name it under another feature set; nobody needs that here.
        wrong.extend(
            ours.filter(|ours| !allowed.contains(ours))
                .map(|ours| format!("{name} -> {ours}")),
        );
        let owned = OWNED.iter().filter(|(library, owners)| {
            names.contains(*library) && !owners.contains(&name.as_str())
        });
        wrong.extend(owned.map(|(library, _)| format!("{name} -> {library}")));
    }
    wrong
}

/// The crates that are linked with a crate, by `cargo tree`.
fn tree(package: &str) -> BTreeSet<String> {
    let text = cargo(&[
        "tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}",
    ]);
    let names = text.lines().filter(|line| !line.is_empty());
    names
        .map(|line| line.split(" (").next().unwrap().to_owned())
        .collect()
}

fn has(tree: &BTreeSet<String>, library: &str) -> bool {
    tree.iter()
        .any(|line| line.split(' ').next() == Some(library))
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let named = named();
    assert_eq!(named.len(), ARROWS.len(), "{:?}", named.keys());
    assert_eq!(wrong_arrows(&named), Vec::<String>::new());
    // A wrong arrow is seen.
    let mut planted = named.clone();
    planted
        .get_mut("pennon-client")
        .unwrap()
        .insert("pennon-raft-store".into());
    planted
        .get_mut("pennon-node")
        .unwrap()
        .insert("jepsen-like-tests".into());
    planted
        .get_mut("pennon-evaluator")
        .unwrap()
        .insert("sled".into());
    let expected = [
        "pennon-client -> pennon-raft-store",
        "pennon-evaluator -> sled",
        "pennon-node -> jepsen-like-tests",
    ];
    assert_eq!(wrong_arrows(&planted), expected);
}

#[test]
fn what_applications_link_stays_small() {
    let client = tree("pennon-client");
    assert!(
        client.len() <= CLIENT_TREE_MAX,
        "{} crates: {client:#?}",
        client.len()
    );
    for library in [
        "openraft",
        "sled",
        "axum",
        "pennon-raft-store",
        "pennon-node",
    ] {
        assert!(!has(&client, library), "the client links {library}");
    }
    let evaluator = tree("pennon-evaluator");
    assert!(!has(&evaluator, "tokio"), "the evaluator links tokio");
    // The same look finds what is there.
    assert!(has(&client, "tokio") && has(&tree("pennon-node"), "openraft"));
}

#[test]
fn nothing_lies_at_the_top_level_but_what_belongs_there() {
    let entries = std::fs::read_dir(root()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known = |name: &str| {
        name.starts_with('.') || TOP_LEVEL.contains(&name) || TOP_LEVEL_SETTINGS.contains(&name)
    };
    // What the commands of the README leave behind is ignored by name, and so here.
    let ignored = std::fs::read_to_string(root().join(".gitignore")).unwrap();
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let strangers: Vec<String> = names
        .filter(|name| !known(name) && !ignored.contains(&name.as_str()))
        .collect();
    assert_eq!(strangers, Vec::<String>::new());
}

/// Why a file sends somebody to a package registry; in a lock file the well-known index is the name
/// of a source, and the only one allowed.
fn registry_in(name: &str, text: &str) -> Option<String> {
    // Put together here, so that this file does not name them.
    let hosts = [
        ["static", "crates", "io"].join("."),
        ["index", "crates", "io"].join("."),
        ["registry", "npmjs", "org"].join("."),
        ["pypi", "org"].join("."),
        ["files", "pythonhosted", "org"].join("."),
        ["proxy", "golang", "org"].join("."),
    ];
    let index = format!(
        "registry+https://github.com/rust-lang/{}-index",
        ["crates", "io"].join(".")
    );
    for line in text.lines() {
        if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
            return Some(format!("{name} names {host}"));
        }
        let source = line
            .strip_prefix("source = ")
            .map(|source| source.trim_matches('"'));
        if name.ends_with("Cargo.lock") && source.is_some_and(|source| source != index) {
            return Some(format!("{name}: {line}"));
        }
        let settings = name.contains(".cargo/")
            && (line.starts_with("[registries") || line.starts_with("[source"));
        if settings {
            return Some(format!("{name}: {line}"));
        }
    }
    None
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let data = name == "pennon-dev" || name == "pennon-data";
        if path.is_symlink() || name == ".git" || name == "target" || data {
            continue;
        }
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn the_time_of_day_is_read_in_few_places_and_never_for_ages() {
    let readings = [
        "SystemTime::now",
        "Zoned::now",
        "Timestamp::now",
        ".unix_ms()",
    ];
    let mut read_in = BTreeSet::new();
    for crate_ in ["evaluator", "raft-store", "client", "node"] {
        let mut found = Vec::new();
        files(&root().join(crate_).join("src"), &mut found);
        for file in found {
            let text = std::fs::read_to_string(&file).unwrap();
            if readings.iter().any(|reading| text.contains(reading)) {
                let name = file.strip_prefix(root()).unwrap().to_string_lossy();
                read_in.insert(name.into_owned());
            }
        }
    }
    let allowed = TIME_OF_DAY.map(|(file, _)| file.to_owned());
    assert_eq!(read_in, BTreeSet::from(allowed));
}

#[test]
fn no_file_names_a_package_registry() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    assert!(all.len() > 50, "only {} files were found", all.len());
    let named = all.iter().filter_map(|path| {
        let text = std::fs::read(path).ok()?;
        registry_in(
            &path.strip_prefix(root()).unwrap().to_string_lossy(),
            &String::from_utf8_lossy(&text),
        )
    });
    assert_eq!(named.collect::<Vec<_>>(), Vec::<String>::new());
    // What is not allowed is seen.
    let mirror = "source = \"registry+https://mirror.example/index\"";
    assert!(registry_in("Cargo.lock", mirror).is_some());
    assert!(registry_in(".cargo/config.toml", "[registries.mirror]").is_some());
    assert!(
        registry_in(
            "scripts/x",
            &format!("curl https://{}/", ["pypi", "org"].join("."))
        )
        .is_some()
    );
}
