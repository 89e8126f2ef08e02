//! Readers that stop: skipped ahead when they go on in time, cut when they do not.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pennon_evaluator::wire::{FrameDecoder, MEDIA_TYPE_FRAMES, StreamMessage};
use pennon_evaluator::{ConfigSnapshot, Snapshot};
use pennon_node::net::Connect;

use super::*;

const CHANGES: usize = 100;

/// Opens a stream of frames at node 0 and reads nothing of it.
async fn stream(network: &MemoryNetwork) -> Incoming {
    let io = network.at("reader").connect(&api(0)).await.unwrap();
    let opened = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = opened.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/v1/environments/production/stream?client=reader")
        .header("host", "n0")
        .header("accept", MEDIA_TYPE_FRAMES)
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert!(response.status().is_success());
    response.into_body()
}

/// Changes a flag of 60 KB again and again; returns the last version.
async fn change(core: &Core) -> Version {
    let mut version = Version::ZERO;
    for n in 0..CHANGES {
        let text = format!("{n}-{}", "x".repeat(60 << 10));
        let json =
            serde_json::json!({"type": "string", "variants": {"on": text}, "off_variant": "on"});
        let object = ObjectId::flag("wide");
        let write = request(vec![put(object, &json.to_string(), Expected::Any)]);
        version = version_of(&core.write(write, WITHIN).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    version
}

async fn furnished() -> (Cluster, Arc<Core>) {
    let cluster = Cluster::start(1).await;
    let core = cluster.core(0).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let json = r#"{"type":"string","variants":{"on":""},"off_variant":"on"}"#;
    let wide = vec![
        put(ObjectId::flag("wide"), json, Expected::Absent),
        put(
            ObjectId::policy(environment(), "wide"),
            POLICY,
            Expected::Absent,
        ),
    ];
    core.write(request(wide), WITHIN).await.unwrap();
    (cluster, core)
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_on_in_time_is_skipped_ahead() {
    let (cluster, core) = furnished().await;
    let mut body = stream(&cluster.network).await;
    let version = change(&core).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(core.hub().streams(), 1, "not yet");
    let (mut decoder, mut held) = (FrameDecoder::default(), None::<Snapshot>);
    let (mut deltas, mut bytes) = (0, 0);
    while held.as_ref().is_none_or(|held| held.version() < version) {
        let frame = tokio::time::timeout(WITHIN, body.frame()).await;
        let data = frame.expect("it goes on").unwrap().unwrap().into_data();
        let data = data.unwrap();
        bytes += data.len();
        decoder.push(&data);
        while let Some((_, message)) = decoder.pull().unwrap() {
            let (environment, message) = (environment(), message);
            match message {
                StreamMessage::Snapshot { .. } => {
                    let whole: ConfigSnapshot =
                        message.into_snapshot(&environment).unwrap().unwrap();
                    held = Some(Snapshot::load(&whole).unwrap());
                }
                StreamMessage::Delta { .. } => {
                    deltas += 1;
                    let delta = message.into_delta(&environment).unwrap().unwrap();
                    held = Some(held.unwrap().apply(&delta).expect("gapless")); // I8
                }
                _ => {}
            }
        }
    }
    let all = CHANGES * (60 << 10);
    assert!(
        deltas < CHANGES / 2 && bytes < all / 2,
        "{deltas} deltas, {bytes} bytes"
    );
    let newest = core.view().config_snapshot(&environment()).unwrap();
    assert_eq!(held.unwrap().digest(), newest.digest());
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_is_cut() {
    let (cluster, core) = furnished().await;
    let _body = stream(&cluster.network).await;
    change(&core).await;
    assert_eq!(core.hub().streams(), 1);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(core.hub().streams(), 0);
    let known = core
        .hub()
        .receipts()
        .count(&environment(), core.now())
        .evaluators;
    assert!(known.iter().all(|one| !one.connected), "{known:?}");
    cluster.stop().await;
}
