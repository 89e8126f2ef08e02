//! Nodes and clusters: how they start, refuse to start, wait, stop, and come back.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Process, Row, Single, eventually, run};

/// The command line of a single node on ports that the system chooses.
fn serve<'a>(data: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["serve", "--data", data.to_str().unwrap()];
    for (name, address) in [
        ("--listen", "127.0.0.1:0"),
        ("--peer-listen", "127.0.0.1:0"),
    ] {
        if !more.contains(&name) {
            args.extend([name, address]);
        }
    }
    args.extend(more);
    args
}

#[test]
fn a_port_in_use_is_said_before_the_directory_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("n1");
    for option in ["--listen", "--peer-listen"] {
        let said = run(&serve(&data, &[option, &address]), &[]).exits(1);
        for part in [address.as_str(), "in use", "ss -ltnp", option] {
            assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
        }
    }
    assert!(!data.exists(), "the directory was touched");
}

#[test]
fn a_directory_that_is_not_this_nodes_is_refused_with_the_way_out() {
    let node = Single::start();
    let data = node.data.path().join("n1");
    let used = run(&serve(&data, &[]), &[])
        .exits(1)
        .complains("in use")
        .complains("stop the other process");
    assert_eq!(
        used.err
            .lines()
            .filter(|line| line.starts_with("error:"))
            .count(),
        1,
        "{}",
        used.err
    );
    let Single {
        mut process,
        data: directory,
        ..
    } = node;
    process.signal("TERM");
    assert_eq!(process.ended(), Some(0), "{}", process.err());
    let other = run(&serve(&data, &["--name", "n2"]), &[]).exits(1);
    assert!(
        other.err.contains("'n1'") && other.err.contains("'n2'"),
        "{}",
        other.err
    );
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    run(&serve(&file, &[]), &[]).exits(1).complains("--data");
    run(&serve(&file.join("below"), &[]), &[])
        .exits(1)
        .complains("--data");
}

#[test]
fn listening_for_everybody_is_refused_unless_it_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("n1");
    for option in ["--listen", "--peer-listen"] {
        run(&serve(&data, &[option, "0.0.0.0:0"]), &[])
            .exits(2)
            .complains("--insecure");
    }
    assert!(!data.exists());
    let mut meant = Process::start(&serve(&data, &["--listen", "0.0.0.0:0", "--insecure"]), &[]);
    meant.says("is ready");
}

/// A debug build says that it breaks a promise; a release build does not start.
#[test]
fn breaking_a_promise_on_purpose_is_for_debug_builds() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("n1");
    let unknown = run(&serve(&data, &[]), &[("PENNON_BREAK", "coffee")]).exits(2);
    unknown.complains("PENNON_BREAK is set to \"coffee\"");
    assert!(!data.exists());
    let asked = [("PENNON_BREAK", "local-reads")];
    if cfg!(debug_assertions) {
        let mut broken = Process::start(&serve(&data, &["--log", "warn"]), &asked);
        broken.says("PENNON_BREAK=local-reads: this node breaks a promise on purpose");
    } else {
        run(&serve(&data, &[]), &asked)
            .exits(2)
            .complains("only debug builds do that");
        assert!(!data.exists());
    }
}

#[test]
fn settings_come_from_flags_then_environment_then_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pennon.toml");
    std::fs::write(&file, "name = \"of-file\"\nlog = \"info\"\nlisten = \"127.0.0.1:0\"\npeer-listen = \"127.0.0.1:0\"").unwrap();
    let file = file.to_str().unwrap();
    let data = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (a, b, c) = (data("a"), data("b"), data("c"));
    let mut of_file = Process::start(&["serve", "--config", file, "--data", &a], &[]);
    of_file.says("of-file is ready");
    let mut of_environment = Process::start(
        &["serve", "--config", file, "--data", &b],
        &[("PENNON_NAME", "of-env")],
    );
    of_environment.says("of-env is ready");
    let args = ["serve", "--config", file, "--data", &c, "--name", "of-flag"];
    let mut of_flag = Process::start(&args, &[("PENNON_NAME", "of-env")]);
    of_flag.says("of-flag is ready");
    std::fs::write(file, "nmae = \"x\"").unwrap();
    run(&["serve", "--config", file], &[])
        .exits(2)
        .complains("nmae");
}

#[test]
fn a_signal_ends_a_node_within_the_drain_although_a_stream_is_open() {
    let mut node = Single::with_flag();
    let address = node.url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let request = format!(
        "GET /v1/environments/prod/stream HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains("event: snapshot")
        && !String::from_utf8_lossy(&got).contains("event:snapshot")
    {
        let count = stream.read(&mut buffer).unwrap();
        assert!(
            count > 0,
            "the stream ended: {}",
            String::from_utf8_lossy(&got)
        );
        got.extend_from_slice(&buffer[..count]);
    }
    let asked = Instant::now();
    node.process.signal("TERM");
    assert_eq!(node.process.ended(), Some(0), "{}", node.process.err());
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it took {:?}: {}",
        asked.elapsed(),
        node.process.err()
    );
    stream.read_to_end(&mut got).unwrap();
    assert!(
        String::from_utf8_lossy(&got).contains("goodbye"),
        "no goodbye"
    );
    assert!(node.process.err().contains("stopped"));
}

/// Three nodes with the same command line.
struct Three {
    directory: tempfile::TempDir,
    ports: Row,
}

impl Three {
    fn start(&self, n: u16) -> Process {
        let peer = |n: u16| format!("127.0.0.1:{}", self.ports.first + 3 + n);
        let join = [peer(0), peer(1), peer(2)].join(",");
        let name = format!("n{}", n + 1);
        let (data, listen) = (
            self.directory.path().join(&name),
            format!("127.0.0.1:{}", self.ports.first + n),
        );
        let args = [
            "--name",
            &name,
            "--listen",
            &listen,
            "--peer-listen",
            &peer(n),
            "--join",
            &join,
            "--expect",
            "3",
        ];
        Process::start(&serve(&data, &args), &[])
    }

    fn url(&self, n: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.first + n)
    }
}

#[test]
fn three_nodes_say_what_they_wait_for_form_a_cluster_and_a_dead_one_shows() {
    let three = Three {
        directory: tempfile::tempdir().unwrap(),
        ports: Row::of(6),
    };
    let mut first = three.start(0);
    first.says("1 of 3 nodes are here");
    first.says("still waiting");
    let (mut second, mut third) = (three.start(1), three.start(2));
    for node in [&mut first, &mut second, &mut third] {
        node.says("is ready");
    }
    let status = |n: u16| run(&["cluster", "status", "--url", &three.url(n)], &[]);
    eventually("a healthy cluster", || {
        (status(0).code == Some(0)).then_some(())
    });
    status(1)
        .exits(0)
        .prints("healthy")
        .prints("one node may fail")
        .prints("n3");
    third.signal("KILL");
    assert_eq!(third.ended(), None);
    // If it led, another is elected first.
    let degraded = eventually("a verdict about n3", || {
        Some(status(0)).filter(|said| said.out.contains("0 more may fail"))
    });
    degraded.exits(7).prints("n3").prints("silent");
    let watch = Process::start(
        &[
            "cluster",
            "status",
            "--watch",
            "--interval",
            "100ms",
            "--url",
            &three.url(0),
        ],
        &[],
    );
    let mut third = three.start(2);
    third.says("is ready");
    eventually("a healthy cluster again", || {
        watch
            .out()
            .ends_with("\n")
            .then(|| watch.out().rfind("healthy"))?
    });
    run(
        &["env", "put", "e", "--value", "{}", "--url", &three.url(2)],
        &[],
    )
    .exits(0)
    .prints("created");
}

#[test]
fn a_dev_cluster_has_flags_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let row = Row::of(6);
    let base = row.first;
    let (port, peer_port) = (base.to_string(), (base + 3).to_string());
    let ports = ["--port", &port, "--peer-port", &peer_port];
    let dev = |more: &[&str]| Process::start_in(directory.path(), &[&["dev"], more].concat(), &[]);
    let url = format!("http://127.0.0.1:{}", base + 1);
    let ask = |args: &[&str]| run(args, &[("PENNON_URL", &url), ("PENNON_ENV", "production")]);
    let mut cluster = dev(&ports);
    cluster.says("Ctrl-C stops it");
    let screen = cluster.out();
    for part in [
        "checkout.new-ui",
        "25% on / 75% off",
        "pennon watch --env production",
        "curl -N",
        "is_enabled",
        &port,
    ] {
        assert!(screen.contains(part), "{part:?} is not in {screen}");
    }
    assert!(
        screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    let flags = ask(&["flag", "list", "-o", "json"]).exits(0).json()["items"]
        .as_array()
        .map(Vec::len);
    assert!(flags >= Some(8), "{flags:?}");
    ask(&["flag", "disable", "checkout.new-ui"]).exits(0);
    let eval = [
        "eval",
        "checkout.express-lane",
        "--subject",
        "alice",
        "--attr",
        "orders=5",
        "-o",
        "json",
    ];
    assert_eq!(ask(&eval).exits(0).json()["reason"], "PREREQUISITE_FAILED");
    // What the screen says to try about an experiment is about one.
    let explain = screen.lines().find(|line| line.contains("pennon explain"));
    let explain: Vec<&str> = explain.unwrap().split_whitespace().skip(1).collect();
    ask(&explain).exits(0).prints("✓ experiment similar-items");
    let id = |said: &Value| said["cluster_id"].as_str().unwrap().to_owned();
    let before = id(&ask(&["cluster", "status", "-o", "json"]).exits(0).json());
    let long = r#"{"enabled":true,"rules":[{"when":[],"serve":{"variant":"bm25"}},{"when":[],"serve":{"variant":"bm25"}}],
        "default":{"rollout":{"weights":[{"variant":"bm25","weight":1},{"variant":"hybrid","weight":1},
            {"variant":"neural","weight":1}]}}}"#;
    ask(&["policy", "put", "search.ranking-v2", "--value", long]).exits(0);
    ask(&["flag", "delete", "ops.read-only"]).exits(1);
    cluster.signal("INT");
    assert_eq!(cluster.ended(), Some(0), "{}", cluster.err());

    let refused = &mut dev(&["--nodes", "5"]);
    assert_eq!(refused.ended(), Some(1));
    assert!(refused.err().contains("--nodes 3"), "{}", refused.err());

    let mut again = dev(&[]);
    again.says("Ctrl-C stops it");
    assert!(
        !again.out().contains("The cluster was new"),
        "{}",
        again.out()
    );
    assert_eq!(
        id(&ask(&["cluster", "status", "-o", "json"]).exits(0).json()),
        before
    );
    let screen = again.out();
    assert!(
        screen.contains("33.3% bm25") && screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    let policy = ask(&["policy", "get", "checkout.new-ui", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(policy["value"]["enabled"], false);
    let mut second = dev(&[]);
    assert_eq!(second.ended(), Some(1));
    assert!(second.err().contains("in use"), "{}", second.err());
    assert!(again.is_running());
}

#[test]
fn a_dev_cluster_may_be_empty_and_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let row = Row::of(2);
    let (port, peer_port) = (row.first.to_string(), (row.first + 1).to_string());
    let args = [
        "dev",
        "--nodes",
        "1",
        "--no-sample",
        "--port",
        &port,
        "--peer-port",
        &peer_port,
    ];
    let mut cluster = Process::start_in(directory.path(), &args, &[]);
    cluster.says("Ctrl-C stops it");
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(
        run(&["flag", "list", "-o", "json", "--url", &url], &[]).json()["items"],
        serde_json::json!([])
    );
    // What the screen says to try works as it is printed.
    for line in cluster
        .out()
        .lines()
        .filter(|line| line.starts_with("  pennon "))
    {
        let args: Vec<String> = line
            .split_whitespace()
            .skip(1)
            .map(|word| word.replace('\'', ""))
            .collect();
        run(
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            &[("PENNON_URL", &url)],
        )
        .exits(0);
    }
    assert!(cluster.out().contains("pennon flag enable"));
}
