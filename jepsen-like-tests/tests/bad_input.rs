//! What goes wrong by mistake: ports, directories, bytes. Each is told in words that say what to
//! do, the process exits with code 1 or answers with a problem document, and nothing is lost: the
//! cluster goes on, and the directory still starts afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use jepsen_like_tests::cluster::{Cluster, Options, answered};
use jepsen_like_tests::http1::{Answer, Call};
use jepsen_like_tests::places::Place;
use jepsen_like_tests::process::Process;
use jepsen_like_tests::workloads::registers::{flag_config, path_of};
use jepsen_like_tests::{binary, ports, say};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WAIT: Duration = Duration::from_secs(30);

/// One node on a directory of its own, with a flag in it.
struct Single {
    directory: TempDir,
    api: String,
    peer: String,
    version: u64,
    _place: Place,
}

impl Single {
    /// Starts a node named n1 on `data`, writes a flag and stops it again.
    async fn written() -> Single {
        let place = Place::take().await.unwrap();
        let ports = ports::free(2).unwrap();
        let [api, peer] = [0, 1].map(|at| format!("127.0.0.1:{}", ports[at]));
        let directory = tempfile::tempdir().unwrap();
        let mut single = Single {
            directory,
            api,
            peer,
            version: 0,
            _place: place,
        };
        let mut node = single.node("n1", "data");
        node.start().unwrap();
        answered(&Call::get("/readyz"), &single.api, StatusCode::OK, WAIT)
            .await
            .unwrap();
        let write = Call::put(path_of("kept"), &flag_config("a")).if_absent();
        let answer = write.to(&single.api, WAIT).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.shown());
        single.version = answer.json()["version"].as_u64().unwrap();
        node.terminate().unwrap();
        assert_eq!(
            node.ended(WAIT).await.unwrap().code(),
            Some(0),
            "{}",
            node.output()
        );
        single
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn node(&self, name: &str, data: &str) -> Process {
        let data = self.path(data).to_string_lossy().into_owned();
        let arguments = [
            "serve",
            "--name",
            name,
            "--data",
            &data,
            "--listen",
            &self.api,
            "--peer-listen",
            &self.peer,
        ];
        let log = tempfile::Builder::new()
            .suffix(".log")
            .tempfile_in(self.directory.path())
            .unwrap();
        Process::new(
            binary::pennon().unwrap(),
            arguments,
            log.into_temp_path().keep().unwrap(),
        )
    }

    /// Starts a node that must refuse, and returns what it says.
    async fn refused(&self, name: &str, data: &str) -> String {
        refused(self.node(name, data)).await
    }

    /// The directory still starts as what it is, with what was written.
    async fn assert_nothing_lost(&self) {
        let mut node = self.node("n1", "data");
        node.start().unwrap();
        let ready = answered(&Call::get("/readyz"), &self.api, StatusCode::OK, WAIT).await;
        ready.unwrap_or_else(|why| panic!("{why}: {}", node.output()));
        let read = Call::get(path_of("kept"))
            .to(&self.api, WAIT)
            .await
            .unwrap();
        assert_eq!(
            read.json()["version"].as_u64(),
            Some(self.version),
            "{}",
            read.shown()
        );
        assert_eq!(read.json()["value"], flag_config("a"));
        node.terminate().unwrap();
        assert_eq!(
            node.ended(WAIT).await.unwrap().code(),
            Some(0),
            "{}",
            node.output()
        );
    }
}

async fn refused(mut node: Process) -> String {
    node.start().unwrap();
    let ended = node.ended(WAIT).await;
    let output = node.output();
    assert_eq!(
        ended.map(|status| status.code()).ok(),
        Some(Some(1)),
        "exit code 1 was expected: {output}"
    );
    assert!(output.contains("error: "), "{output}");
    assert!(!output.contains("panicked"), "{output}");
    say(format!("refused: {}", output.trim_end()));
    output
}

fn assert_says(output: &str, words: &[&str]) {
    for word in words {
        assert!(output.contains(word), "{word:?} is missing in: {output}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_is_touched() {
    let single = Single::written().await;
    for (address, option) in [(&single.api, "--listen"), (&single.peer, "--peer-listen")] {
        let holder = TcpListener::bind(address).unwrap();
        let output = single.refused("n1", "fresh").await;
        assert_says(&output, &[address, "in use", option]);
        assert!(
            !single.path("fresh").exists(),
            "the directory was made although the node cannot run"
        );
        let output = single.refused("n1", "data").await;
        assert_says(&output, &[address, "in use", option]);
        drop(holder);
    }
    single.assert_nothing_lost().await;
}

#[tokio::test]
async fn the_directory_of_another_node_is_refused_and_so_is_one_in_use() {
    let single = Single::written().await;
    assert_says(&single.refused("n2", "data").await, &["n1", "n2", "data"]);
    let mut node = single.node("n1", "data");
    node.start().unwrap();
    answered(&Call::get("/readyz"), &single.api, StatusCode::OK, WAIT)
        .await
        .unwrap();
    // On other ports, so that the directory is what stands in the way.
    let free = ports::free(2).unwrap();
    let [api, peer] = [0, 1].map(|at| format!("127.0.0.1:{}", free[at]));
    let data = single.path("data").to_string_lossy().into_owned();
    let arguments = [
        "serve",
        "--name",
        "n1",
        "--data",
        &data,
        "--listen",
        &api,
        "--peer-listen",
        &peer,
    ];
    let second = Process::new(
        binary::pennon().unwrap(),
        arguments,
        single.path("second.log"),
    );
    let id = node.id().unwrap().to_string();
    assert_says(&refused(second).await, &["in use", &id]);
    node.kill().unwrap();
    single.assert_nothing_lost().await;
}

#[tokio::test]
async fn a_file_in_place_of_the_directory_is_refused() {
    let single = Single::written().await;
    std::fs::write(single.path("file"), "mine").unwrap();
    assert_says(&single.refused("n1", "file").await, &["file", "--data"]);
    assert_says(
        &single.refused("n1", "file/below").await,
        &["file/below", "--data"],
    );
    assert_eq!(
        std::fs::read_to_string(single.path("file")).unwrap(),
        "mine"
    );
    single.assert_nothing_lost().await;
}

#[tokio::test]
async fn garbage_in_the_identity_is_refused_and_not_written_over() {
    let single = Single::written().await;
    let identity = single.path("data").join("identity");
    let good = std::fs::read(&identity).unwrap();
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let garbage: [&[u8]; 5] = [
        b"",
        b"garbage",
        &[0xff; 4096],
        &flipped,
        &good[..good.len() - 1],
    ];
    for bytes in garbage {
        std::fs::write(&identity, bytes).unwrap();
        let output = single.refused("n1", "data").await;
        assert_says(&output, &["identity"]);
        assert_eq!(
            std::fs::read(&identity).unwrap(),
            bytes,
            "the evidence was written over"
        );
    }
    std::fs::write(&identity, &good).unwrap();
    single.assert_nothing_lost().await;
}

#[tokio::test]
async fn the_directory_of_another_cluster_is_refused_and_both_go_on() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let before = put(cluster.address(0), "ours").await;
    // A node of the same name in a cluster of its own.
    let foreign = tempfile::tempdir().unwrap();
    let free = ports::free(2).unwrap();
    let [api, peer] = [0, 1].map(|at| format!("127.0.0.1:{}", free[at]));
    let data = foreign.path().join("data").to_string_lossy().into_owned();
    let arguments = [
        "serve",
        "--name",
        "n3",
        "--data",
        &data,
        "--listen",
        &api,
        "--peer-listen",
        &peer,
    ];
    let mut other = Process::new(
        binary::pennon().unwrap(),
        arguments,
        foreign.path().join("log"),
    );
    other.start().unwrap();
    answered(&Call::get("/readyz"), &api, StatusCode::OK, WAIT)
        .await
        .unwrap();
    let theirs = put(&api, "theirs").await;
    other.terminate().unwrap();
    other.ended(WAIT).await.unwrap();

    cluster.kill(2).unwrap();
    let (here, aside) = (cluster.data(2), cluster.directory().join("aside"));
    std::fs::rename(&here, &aside).unwrap();
    std::fs::rename(&data, &here).unwrap();
    let node = cluster.process(2);
    node.start().unwrap();
    let ended = node.ended(WAIT).await;
    let output = node.output();
    assert_eq!(
        ended.map(|status| status.code()).ok(),
        Some(Some(1)),
        "exit code 1 was expected: {output}"
    );
    assert_says(&output, &["belongs to cluster", "empty"]);
    put(cluster.address(0), "meanwhile").await;

    std::fs::rename(&here, &data).unwrap();
    std::fs::rename(&aside, &here).unwrap();
    cluster.restart(2).await.unwrap();
    cluster.converged(WAIT).await.unwrap();
    assert_eq!(version(cluster.address(2), "ours").await, Some(before));
    assert_eq!(version(cluster.address(2), "theirs").await, None);
    other.start().unwrap();
    answered(&Call::get("/readyz"), &api, StatusCode::OK, WAIT)
        .await
        .unwrap();
    assert_eq!(version(&api, "theirs").await, Some(theirs));
}

async fn put(address: &str, flag: &str) -> u64 {
    let write = Call::put(path_of(flag), &flag_config(flag)).if_absent();
    let answer = write.to(address, WAIT).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.shown());
    answer.json()["version"].as_u64().unwrap()
}

async fn version(address: &str, flag: &str) -> Option<u64> {
    Call::get(path_of(flag))
        .to(address, WAIT)
        .await
        .unwrap()
        .json()["version"]
        .as_u64()
}

/// Sends bytes as they are and reads until the other side closes or has answered.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may have heard enough before everything is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WAIT, stream.read_to_end(&mut answer))
        .await
        .expect("the node neither answers nor closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Answers of 400 and above, as they must be.
fn assert_problem(what: &str, answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.shown());
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{what}"
    );
    assert!(!answer.slug().is_empty(), "{what}: {}", answer.shown());
    assert!(
        answer.json()["detail"]
            .as_str()
            .is_some_and(|text| text.len() > 10),
        "{what}: {}",
        answer.shown()
    );
    assert!(
        answer.decided().is_some() && answer.header("pennon-node").is_some(),
        "{what}"
    );
}

/// Requests that are HTTP and cannot be accepted, with the status of the refusal.
fn hopeless() -> Vec<(&'static str, Call, u16)> {
    // A flag that does not exist, so that the body is what is wrong.
    let path = path_of("never-made");
    let text = |body: &'static str| Call::put(&path, &json!(null)).if_absent().text(body);
    let deep: &'static str = "[".repeat(200_000).leak();
    vec![
        ("unknown path", Call::get("/v1/nothing"), 404),
        ("unknown path outside", Call::get("/../../etc/passwd"), 404),
        ("wrong method", Call::new(http::Method::PATCH, &path), 405),
        ("no JSON", text("{\"type\": tru"), 400),
        ("empty body", text(""), 400),
        ("deep JSON", text(deep), 400),
        (
            "a field twice",
            text(r#"{"type":"boolean","type":"string"}"#),
            400,
        ),
        ("wrong type", text(r#"["boolean"]"#), 400),
        (
            "no JSON by its header",
            Call::new(http::Method::PUT, &path)
                .if_absent()
                .text("x=1")
                .header("content-type", "text/plain"),
            415,
        ),
        ("broken escape", Call::get("/v1/flags/%zz"), 400),
        ("key of no UTF-8", Call::get("/v1/flags/%ff"), 400),
        (
            "key with a space",
            Call::put("/v1/flags/a%20b", &flag_config("a")).if_absent(),
            400,
        ),
        (
            "garbled precondition",
            Call::put(&path, &flag_config("a")).header("if-match", "seven"),
            400,
        ),
        (
            "version beyond 2^53",
            Call::get(format!("{path}?min_version=9007199254740992")),
            400,
        ),
        (
            "request id too long",
            Call::put(&path, &flag_config("a"))
                .if_absent()
                .request_id(&"x".repeat(256)),
            400,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_over_http_is_answered_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(3, Options::default()).await.unwrap();
    let kept = put(cluster.address(0), "kept").await;
    for at in 0..3 {
        let address = cluster.address(at).to_owned();
        for (what, call, status) in hopeless() {
            let answer = call
                .to(&address, WAIT)
                .await
                .unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_problem(what, &answer, status);
        }
        bytes_that_are_no_requests(&address).await;
    }
    half_requests_do_not_hold_up_others(cluster.address(0)).await;
    for at in 0..3 {
        assert!(cluster.process(at).is_running(), "{}", cluster.outputs());
        assert!(
            !cluster.process(at).output().contains("panicked"),
            "{}",
            cluster.outputs()
        );
        assert_eq!(version(cluster.address(at), "kept").await, Some(kept));
        put(cluster.address(at), &format!("after-{at}")).await;
    }
    let (version, digest) = cluster.converged(WAIT).await.unwrap();
    say(format!(
        "after garbage over HTTP: digest {digest} at {version} on all three"
    ));
}

async fn bytes_that_are_no_requests(address: &str) {
    let head = |rest: &str| {
        format!(
            "PUT {} HTTP/1.1\r\nhost: a\r\nif-match: *\r\ncontent-type: application/json\r\n{rest}",
            path_of("kept")
        )
    };
    let body = flag_config("never").to_string();
    let huge = format!(
        "GET /livez HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(2 << 20)
    );
    let many = format!(
        "GET /livez HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(5_000)
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("random bytes", (0..=255).cycle().take(8_192).collect()),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("a peer's bytes", vec![0; 1 << 16]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("huge header", huge.into_bytes()),
        ("many headers", many.into_bytes()),
        (
            "no number",
            head(&format!("content-length: many\r\n\r\n{body}")).into_bytes(),
        ),
        (
            "negative length",
            head(&format!("content-length: -1\r\n\r\n{body}")).into_bytes(),
        ),
        (
            "two lengths",
            head(&format!(
                "content-length: 5\r\ncontent-length: 6\r\n\r\n{body}"
            ))
            .into_bytes(),
        ),
        (
            "length too great",
            head(&format!("content-length: {}\r\n\r\n{body}", body.len() + 9)).into_bytes(),
        ),
        (
            "length beyond everything",
            head("content-length: 18446744073709551615\r\n\r\n{}").into_bytes(),
        ),
        (
            "length too small",
            head(&format!(
                "content-length: 9\r\nconnection: close\r\n\r\n{body}"
            ))
            .into_bytes(),
        ),
        (
            "broken chunks",
            head(&format!(
                "transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"
            ))
            .into_bytes(),
        ),
        (
            "both lengths",
            head("content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
                .into_bytes(),
        ),
    ];
    for (what, bytes) in cases {
        let answer = raw(address, &bytes).await;
        // Closed without a word, or refused; never accepted.
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {answer}");
    }
}

/// Connections with half a request stay open while others are served.
async fn half_requests_do_not_hold_up_others(address: &str) {
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let half: &[u8] = match n % 2 {
            0 => b"PUT /v1/flags/kept HTTP/1.1\r\nhost: a\r\nif-ma",
            _ => b"PUT /v1/flags/kept HTTP/1.1\r\nhost: a\r\nif-match: *\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        };
        stream.write_all(half).await.unwrap();
        held.push(stream);
    }
    put(address, "beside-half-requests").await;
    drop(held);
}
