//! Real sockets on loopback; what each mode does, and that it shows in the counts.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Mode, Net, Slow};
use crate::until;

const SOON: Duration = Duration::from_secs(5);
/// Long enough for what may come to come.
const SILENCE: Duration = Duration::from_millis(100);

struct Pair {
    net: Net,
    door: SocketAddr,
    listener: TcpListener,
}

impl Pair {
    async fn new() -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let net = Net::new(1);
        let target = listener.local_addr().unwrap();
        let door = net.open("a", "b", 0, target).await.unwrap();
        Pair {
            net,
            door,
            listener,
        }
    }

    async fn connect(&self) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(self.door).await.unwrap();
        let (far, _) = self.listener.accept().await.unwrap();
        (near, far)
    }

    fn set(&self, from: &str, to: &str, mode: Mode) {
        self.net.wire(from, to).set(mode);
    }
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let reading = stream.read_exact(&mut bytes);
    tokio::time::timeout(SOON, reading).await.unwrap().unwrap();
    bytes
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SILENCE, stream.read_u8())
        .await
        .is_err()
}

/// How a read ends that has nothing more to read.
async fn end(stream: &mut TcpStream) -> ErrorKind {
    let reading = stream.read_u8();
    let read = tokio::time::timeout(SOON, reading).await.unwrap();
    read.unwrap_err().kind()
}

#[tokio::test]
async fn bytes_and_ends_pass_in_both_directions() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let much: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let sent = much.clone();
    let writing = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    assert!(read(&mut far, much.len()).await == much);
    let mut near = writing.await.unwrap();
    assert_eq!(end(&mut far).await, ErrorKind::UnexpectedEof);
    far.write_all(b"after the end of the other direction")
        .await
        .unwrap();
    drop(far);
    assert_eq!(read(&mut near, 5).await, b"after");
    assert!(!pair.net.counts().acted());
    assert_eq!(pair.net.wire("a", "b").counts().passed, much.len() as u64);
}

#[tokio::test]
async fn what_is_held_arrives_later_and_the_end_behind_it() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    pair.set("a", "b", Mode::Hold);
    near.write_all(b"late").await.unwrap();
    drop(near);
    assert!(is_silent(&mut far).await);
    // The other direction is another wire.
    assert_eq!(pair.net.wire("b", "a").mode(), Mode::Pass);
    // New connections are not opened meanwhile.
    let mut second = TcpStream::connect(pair.door).await.unwrap();
    second.write_all(b"second").await.unwrap();
    let accepted = tokio::time::timeout(SILENCE, pair.listener.accept()).await;
    assert!(accepted.is_err());
    let counts = pair.net.wire("a", "b").counts();
    assert_eq!((counts.held, counts.unopened), (4, 1));
    pair.set("a", "b", Mode::Pass);
    assert_eq!(read(&mut far, 4).await, b"late");
    assert_eq!(end(&mut far).await, ErrorKind::UnexpectedEof);
    let (mut far, _) = pair.listener.accept().await.unwrap();
    assert_eq!(read(&mut far, 6).await, b"second");
}

#[tokio::test]
async fn what_is_swallowed_never_arrives_and_its_connection_is_reset() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let (mut idle, mut idle_far) = pair.connect().await;
    pair.set("a", "b", Mode::Swallow);
    near.write_all(b"lost").await.unwrap();
    far.write_all(b"heard").await.unwrap();
    assert_eq!(read(&mut near, 5).await, b"heard");
    assert!(is_silent(&mut far).await);
    assert_eq!(pair.net.wire("a", "b").counts().swallowed, 4);
    pair.set("a", "b", Mode::Pass);
    assert_eq!(end(&mut far).await, ErrorKind::ConnectionReset);
    assert_eq!(end(&mut near).await, ErrorKind::ConnectionReset);
    // One that lost nothing goes on.
    idle.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut idle_far, 1).await, b"x");
}

#[tokio::test]
async fn a_stalled_reader_takes_nothing() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    pair.set("a", "b", Mode::Stall);
    let chunk = vec![7; 1 << 20];
    let writing = async {
        loop {
            near.write_all(&chunk).await.unwrap();
        }
    };
    let full: Result<(), _> = tokio::time::timeout(4 * SILENCE, writing).await;
    assert!(full.is_err());
    assert_eq!(pair.net.wire("a", "b").counts().stalled, 1);
    assert!(is_silent(&mut far).await);
    pair.set("a", "b", Mode::Pass);
    assert_eq!(read(&mut far, 1000).await, vec![7; 1000]);
}

#[tokio::test]
async fn delays_and_drips_take_their_time() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let delay = Duration::from_millis(80);
    pair.set("a", "b", Mode::Slow(Slow::delayed(delay, delay)));
    let begin = Instant::now();
    near.write_all(b"far").await.unwrap();
    read(&mut far, 3).await;
    assert!(begin.elapsed() >= delay);
    let slow = Slow::dripping(2, Duration::from_millis(20));
    pair.set("a", "b", Mode::Slow(slow));
    let begin = Instant::now();
    near.write_all(b"0123456789").await.unwrap();
    assert_eq!(read(&mut far, 10).await, b"0123456789");
    assert!(begin.elapsed() >= Duration::from_millis(80));
    pair.set("a", "b", Mode::Slow(Slow::limited(10_000)));
    let begin = Instant::now();
    near.write_all(&[1; 3_000]).await.unwrap();
    read(&mut far, 3_000).await;
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert!(pair.net.wire("a", "b").counts().slowed >= 12);
}

#[tokio::test]
async fn a_cut_comes_in_the_middle() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    pair.set("a", "b", Mode::CutAfter(3));
    near.write_all(b"message").await.unwrap();
    let mut all = Vec::new();
    let ended = tokio::time::timeout(SOON, far.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(b"mes".starts_with(&all));
    assert_eq!(end(&mut near).await, ErrorKind::ConnectionReset);
    let counts = pair.net.wire("a", "b").counts();
    assert_eq!((counts.passed, counts.reset), (3, 1));
}

#[tokio::test]
async fn a_reset_ends_what_is_open_and_nothing_else() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    pair.net.wire("b", "a").reset();
    assert_eq!(end(&mut near).await, ErrorKind::ConnectionReset);
    assert_eq!(end(&mut far).await, ErrorKind::ConnectionReset);
    assert_eq!(pair.net.wire("b", "a").counts().reset, 1);
    let (mut near, mut far) = pair.connect().await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut far, 1).await, b"x");
}

/// Waits until a door refuses, or no longer.
async fn refuses(door: SocketAddr, refuses: bool) {
    until("a door that refuses, or no longer", SOON, async || {
        let refused = match TcpStream::connect(door).await {
            Ok(mut stream) => end(&mut stream).await == ErrorKind::ConnectionRefused,
            Err(why) => why.kind() == ErrorKind::ConnectionRefused,
        };
        (refused == refuses).then_some(()).ok_or(String::new())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_door_refuses_when_told_and_while_nobody_listens_behind_it() {
    let Pair {
        net,
        door,
        listener,
    } = Pair::new().await;
    net.refuse("a", "b", true);
    refuses(door, true).await;
    net.refuse("a", "b", false);
    let target = listener.local_addr().unwrap();
    drop(listener);
    refuses(door, true).await;
    // In a partition nobody refuses.
    net.wire("b", "a").set(Mode::Hold);
    until("a connection", SOON, async || {
        TcpStream::connect(door)
            .await
            .map(drop)
            .map_err(|why| why.to_string())
    })
    .await
    .unwrap();
    net.heal();
    refuses(door, true).await;
    let listener = TcpListener::bind(target).await.unwrap();
    until("a connection", SOON, async || {
        TcpStream::connect(door)
            .await
            .map(drop)
            .map_err(|why| why.to_string())
    })
    .await
    .unwrap();
    drop(listener);
}

#[tokio::test]
async fn a_reset_of_one_side_reaches_the_other() {
    let pair = Pair::new().await;
    for near_ends in [true, false] {
        let (near, far) = pair.connect().await;
        let (gone, mut left) = if near_ends { (near, far) } else { (far, near) };
        gone.set_zero_linger().unwrap();
        drop(gone);
        assert_eq!(end(&mut left).await, ErrorKind::ConnectionReset);
    }
}
