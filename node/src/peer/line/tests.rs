use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A node that answers "echo" at once with what it was sent, "slow" when it is let, and knows no other path.
struct Node {
    lets: Arc<Semaphore>,
    stop: CancellationToken,
    serving: JoinHandle<io::Result<()>>,
}

fn node() -> (Line, Node) {
    let (near, far) = duplex(64 * 1024);
    let (lets, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
    let (theirs, stops) = (lets.clone(), stop.clone());
    let serving = tokio::spawn(async move {
        let answer = |path: String, body: Bytes| {
            let lets = theirs.clone();
            async move {
                match path.as_str() {
                    "echo" => Ok(body),
                    "slow" => {
                        lets.acquire().await.unwrap().forget();
                        Ok(Bytes::from_static(b"at last"))
                    }
                    "long" => Ok(Bytes::from(vec![1; ANSWER_LEN_MAX + 1])),
                    _ => Err((StatusCode::NOT_FOUND, "no such call".to_owned())),
                }
            }
        };
        serve(far, stops, answer).await
    });
    let node = Node {
        lets,
        stop,
        serving,
    };
    (Line::new(near), node)
}

fn within(time: Duration) -> Instant {
    Instant::now() + time
}

fn answered(called: Called) -> (u16, Bytes) {
    match called {
        Called::Answered(status, body) => (status.as_u16(), body),
        Called::Late => panic!("it is late"),
        Called::Failed(why) => panic!("{why}"),
    }
}

#[track_caller]
fn assert_failed(called: &Called, sent: bool) {
    match called {
        Called::Failed(PeerError::NotSent(_)) => assert!(!sent, "it may have been sent"),
        Called::Failed(PeerError::Unanswered(_)) => assert!(sent, "it was not sent"),
        Called::Failed(PeerError::NoSuchCall) | Called::Answered(..) => panic!("an answer"),
        Called::Late => panic!("it is late"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_for_another_and_gets_its_own_answer() {
    let (line, node) = node();
    let slow = line.call("slow", b"", within(LONG));
    let others = async {
        let calls: Vec<_> = (0..300u32).map(|n| (n, n.to_le_bytes())).collect();
        let calls = calls
            .iter()
            .map(|(n, body)| async { (*n, line.call("echo", body, within(LONG)).await) });
        for (n, called) in join_all(calls).await {
            assert_eq!(
                answered(called),
                (200, Bytes::from(n.to_le_bytes().to_vec()))
            );
        }
        let unknown = line.call("unknown", b"", within(LONG)).await;
        assert_eq!(answered(unknown), (404, "no such call".into()));
        let long = line.call("long", b"", within(LONG)).await;
        assert_eq!(answered(long).0, 500);
        let largest = vec![7; CALL_LEN_MAX];
        let largest = line.call("echo", &largest, within(LONG)).await;
        assert_eq!(answered(largest).1.len(), CALL_LEN_MAX);
        node.lets.add_permits(1);
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert_eq!(answered(slow), (200, "at last".into()));
}

#[tokio::test(start_paused = true)]
async fn on_stop_what_came_before_is_answered_and_nothing_more_is_taken() {
    let (line, node) = node();
    let slow = line.call("slow", b"", within(LONG));
    let stopping = async {
        assert_eq!(answered(line.call("echo", b"", within(LONG)).await).0, 200);
        node.stop.cancel();
        let late = line.call("echo", b"", within(LONG));
        let (late, ()) = tokio::join!(late, async { node.lets.add_permits(1) });
        assert_failed(&late, true);
    };
    let (slow, ()) = tokio::join!(slow, stopping);
    assert_eq!(answered(slow).0, 200);
    node.serving.await.unwrap().unwrap();
    assert!(!line.is_open());
    assert_failed(&line.call("echo", b"", within(LONG)).await, false);
}

#[tokio::test]
async fn answers_that_cannot_be_read_end_it() {
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\x05\0\0\0\0\0\0\0\0",
        b"\x09\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x0a\0\0\0\0\0\0\0\0\0\0\0\x01\0",
        b"\x0a\0\0\0\0\0",
        b"",
    ] {
        let (near, mut far) = duplex(1024);
        let line = Line::new(near);
        let called = line.call("echo", b"", within(LONG));
        let answers = async {
            far.write_all(bytes).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (called, ()) = tokio::join!(called, answers);
        assert_failed(&called, true);
        assert!(!line.is_open(), "{bytes:?}");
        assert_failed(&line.call("echo", b"", within(LONG)).await, false);
    }
}

// I9
#[tokio::test]
async fn whoever_stops_while_he_sends_ends_it_and_who_stops_later_does_not() {
    let (near, _far) = duplex(16);
    let line = Line::new(near);
    let mut called = Box::pin(line.call("echo", &[0; 100], within(LONG)));
    assert!(called.as_mut().now_or_never().is_none());
    // This one waits for its turn; nothing of it is sent.
    let mut next = Box::pin(line.call("echo", b"", within(LONG)));
    assert!(next.as_mut().now_or_never().is_none());
    drop(called);
    assert!(!line.is_open());
    assert_failed(&next.await, false);

    let (line, node) = node();
    let mut slow = Box::pin(line.call("slow", b"", within(LONG)));
    assert!(slow.as_mut().now_or_never().is_none());
    drop(slow);
    node.lets.add_permits(1);
    assert_eq!(answered(line.call("echo", b"a", within(LONG)).await).1, "a");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_silent_is_given_up_and_one_that_is_only_slow_is_not() {
    let (line, _node) = node();
    let slow = line.call("slow", b"", within(3 * SILENCE_MAX));
    let others = async {
        for _ in 0..10 {
            sleep(SILENCE_MAX / 3).await;
            assert_eq!(answered(line.call("echo", b"", within(LONG)).await).0, 200);
        }
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert!(matches!(slow, Called::Late));
    assert!(line.is_open());

    let (near, _far) = duplex(1024);
    let line = Line::new(near);
    let short = line.call("echo", b"", within(SILENCE_MAX / 2)).await;
    assert!(matches!(short, Called::Late) && line.is_open());
    let short = line.call("echo", b"", within(SILENCE_MAX)).await;
    assert!(matches!(short, Called::Late) && !line.is_open());
}

/// Reads one end of a connection until it closes.
async fn sink(mut far: DuplexStream) {
    tokio::io::copy(&mut far, &mut tokio::io::sink())
        .await
        .unwrap();
}

#[tokio::test]
async fn calls_under_way_are_bounded() {
    let (near, far) = duplex(1 << 20);
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let answer = move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    };
    let serving = tokio::spawn(serve(far, CancellationToken::new(), answer));
    let line = Line::new(near);
    let calls = (0..2 * UNDER_WAY_MAX).map(|_| line.call("a", b"", within(LONG)));
    let calls = join_all(calls);
    tokio::select! {
        _ = calls => panic!("there are no answers"),
        () = async { while begun.load(Ordering::Relaxed) < UNDER_WAY_MAX { tokio::task::yield_now().await } } => {}
    }
    // Whoever waits has gone, what was sent is still there to be read.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begun.load(Ordering::Relaxed), UNDER_WAY_MAX);
    serving.abort();
}

proptest! {
    #[test]
    fn no_bytes_of_a_caller_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), frame: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = duplex(1024);
            let answer = async |_: String, _: Bytes| Ok(Bytes::new());
            let serving = serve(far, CancellationToken::new(), answer);
            let calls = async move {
                if frame {
                    near.write_u32_le(bytes.len() as u32).await.unwrap();
                }
                // It may have hung up.
                let _ = near.write_all(&bytes).await;
                let _ = near.shutdown().await;
                sink(near).await;
            };
            // It ends, well or not.
            let (_, ()) = tokio::join!(serving, calls);
        });
    }
}
