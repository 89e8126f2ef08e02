//! Connections, handed in: TCP for real, memory for a simulation.
//!
//! Everything above is generic over what a [`Listen`] accepts and a [`Connect`] opens (D10).
//! [`Stalling`] cuts a connection whose other side stops reading for too long: hyper has no limit
//! of its own there, and a reader that stalls for ever must not keep a stream for ever.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

/// A future that can be stored.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One connection, whatever it runs over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A connection that can be stored.
pub type BoxedIo = Box<dyn Io>;

/// Accepts connections.
pub trait Listen: Send + 'static {
    /// Waits for the next connection and says where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>>;

    /// Where others reach this, `host:port`.
    fn address(&self) -> String;
}

/// Opens connections.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `host:port`. The caller sets the deadline.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedIo>>;
}

/// Connects by TCP, without delay of small packets.
#[derive(Clone, Debug, Default)]
pub struct TcpConnect {
    via: BTreeMap<String, String>,
}

impl TcpConnect {
    /// Connects to an address that is a key of `via` at the address it names instead.
    pub fn via(via: BTreeMap<String, String>) -> TcpConnect {
        TcpConnect { via }
    }
}

impl Connect for TcpConnect {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedIo>> {
        let address = self
            .via
            .get(address)
            .map_or(address, String::as_str)
            .to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}

/// Connections that wait to be accepted at most. When a node dies its clients come to the others within a
/// moment, thousands of them, and one that finds no room asks again only after a second. The kernel
/// has a bound of its own (`net.core.somaxconn`).
const BACKLOG_LEN: u32 = 16_384;

/// Listens at the first of these addresses that can be had.
///
/// # Errors
/// Why the last one cannot.
pub fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut refused = io::Error::new(io::ErrorKind::InvalidInput, "there is no address");
    for address in addresses {
        match listen_at(*address) {
            Ok(listener) => return Ok(listener),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A node that is started again need not wait for connections of before to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_LEN)
}

impl Listen for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        Box::pin(async move {
            let (stream, from) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxedIo, from.to_string()))
        })
    }

    fn address(&self) -> String {
        self.local_addr()
            .map_or_else(|_| String::new(), |address| address.to_string())
    }
}

/// Bytes in flight in one direction of a connection in memory.
const MEMORY_BUFFER_LEN: usize = 64 * 1024;

/// Connections waiting to be accepted in memory.
const MEMORY_BACKLOG_LEN: usize = 256;

/// A network in memory. Addresses are `host:port`, hosts are names. A host that is cut reaches
/// nobody and is reached by nobody; an address that is cut is not reached. Their connections end.
///
/// One direction between two hosts can also be a [hole](MemoryNetwork::hole): what is sent there
/// gets no answer and no error, as when a firewall begins to drop packets. Connections stay, and
/// what was sent over them arrives once it ends, as TCP would send it again; new ones are opened
/// only when both directions are free.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    wires: Arc<Mutex<Wires>>,
    /// The host that connects; none is outside of all cuts.
    origin: Option<String>,
}

/// Where a listener in memory takes its connections from.
type Accepting = mpsc::Sender<(BoxedIo, String)>;

#[derive(Default)]
struct Wires {
    listeners: BTreeMap<String, Accepting>,
    cuts: BTreeMap<String, watch::Sender<bool>>,
    /// From one host to another.
    holes: BTreeMap<(String, String), watch::Sender<bool>>,
}

/// What there is between a host and an address.
struct Way {
    accepting: Accepting,
    cuts: Vec<watch::Receiver<bool>>,
    there: watch::Receiver<bool>,
    back: watch::Receiver<bool>,
}

impl Wires {
    fn hole(&mut self, from: &str, to: &str) -> &watch::Sender<bool> {
        self.holes
            .entry((from.to_owned(), to.to_owned()))
            .or_insert_with(|| watch::channel(false).0)
    }

    fn cut(&mut self, host: &str) -> &watch::Sender<bool> {
        self.cuts
            .entry(host.to_owned())
            .or_insert_with(|| watch::channel(false).0)
    }
}

impl MemoryNetwork {
    /// Makes an empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same network as seen from a host.
    pub fn at(&self, host: &str) -> Self {
        Self {
            wires: self.wires.clone(),
            origin: Some(host.to_owned()),
        }
    }

    /// Listens at an address; replaces an earlier listener there.
    pub fn listen(&self, address: &str) -> MemoryListener {
        let (accepting, incoming) = mpsc::channel(MEMORY_BACKLOG_LEN);
        self.wires().listeners.insert(address.to_owned(), accepting);
        MemoryListener {
            address: address.to_owned(),
            incoming,
        }
    }

    /// Cuts a host or a single address off, or joins it again.
    pub fn cut(&self, host_or_address: &str, cut: bool) {
        self.wires().cut(host_or_address).send_replace(cut);
    }

    /// Swallows what one host sends another, or lets it through again.
    ///
    /// # Example
    /// ```
    /// use pennon_node::net::{Connect, MemoryNetwork};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let network = MemoryNetwork::new();
    /// let _listener = network.listen("b:1");
    /// network.hole("b", "a", true);
    /// let connecting = network.at("a").connect("b:1");
    /// let within = std::time::Duration::from_secs(60);
    /// // Not refused: nothing at all comes back.
    /// assert!(tokio::time::timeout(within, connecting).await.is_err());
    /// # }
    /// ```
    pub fn hole(&self, from: &str, to: &str, hole: bool) {
        self.wires().hole(from, to).send_replace(hole);
    }

    fn wires(&self) -> std::sync::MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, address: &str) -> io::Result<Way> {
        let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        let target = address.split(':').next().unwrap_or_default();
        let mut wires = self.wires();
        let ends = self.origin.as_deref().into_iter().chain([target, address]);
        let cuts: Vec<_> = ends.map(|host| wires.cut(host).subscribe()).collect();
        if cuts.iter().any(|cut| *cut.borrow()) {
            return Err(refused(format!("{address} is cut off")));
        }
        let origin = self.origin.as_deref().unwrap_or_default();
        let there = wires.hole(origin, target).subscribe();
        let back = wires.hole(target, origin).subscribe();
        let accepting = wires.listeners.get(address).cloned();
        let accepting = accepting.ok_or_else(|| refused(format!("nobody listens at {address}")))?;
        Ok(Way {
            accepting,
            cuts,
            there,
            back,
        })
    }
}

impl Connect for MemoryNetwork {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedIo>> {
        let (network, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let mut way = network.way(&address)?;
            for hole in [&mut way.there, &mut way.back] {
                // Also when the network is gone for good.
                let _ = hole.wait_for(|hole| !*hole).await;
            }
            let (here, there) = tokio::io::duplex(MEMORY_BUFFER_LEN);
            let there = Cuttable::new(there, way.cuts.clone(), way.there);
            way.accepting
                .send((Box::new(there), "memory".into()))
                .await
                .map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::ConnectionRefused,
                        format!("{address} stopped"),
                    )
                })?;
            Ok(Box::new(Cuttable::new(here, way.cuts, way.back)) as BoxedIo)
        })
    }
}

/// Accepts connections in memory.
pub struct MemoryListener {
    address: String,
    incoming: mpsc::Receiver<(BoxedIo, String)>,
}

impl Listen for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        Box::pin(async move {
            self.incoming
                .recv()
                .await
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "listener replaced"))
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

/// One side of a connection in memory. It ends when either of its hosts is cut, and hears nothing of
/// the other side while what that sends falls into a hole.
struct Cuttable {
    inner: DuplexStream,
    cut: BoxFuture<'static, ()>,
    ended: bool,
    hole: watch::Receiver<bool>,
    /// Waits for the end of the hole.
    hearing: Option<BoxFuture<'static, ()>>,
}

impl Cuttable {
    fn new(
        inner: DuplexStream,
        cuts: Vec<watch::Receiver<bool>>,
        hole: watch::Receiver<bool>,
    ) -> Self {
        let cut = Box::pin(async move {
            let each = cuts.into_iter().map(|mut cut| {
                Box::pin(async move {
                    // Also when the network is gone for good.
                    let _ = cut.wait_for(|cut| *cut).await;
                })
            });
            futures_util::future::select_all(each).await;
        });
        Self {
            inner,
            cut,
            ended: false,
            hole,
            hearing: None,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended || self.cut.as_mut().poll(context).is_ready() {
            self.ended = true;
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut"));
        }
        Ok(())
    }

    /// Waits until the other side can be heard.
    fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !*self.hole.borrow() {
            self.hearing = None;
            return Poll::Ready(());
        }
        let mut hole = self.hole.clone();
        let hearing = self.hearing.get_or_insert_with(|| {
            Box::pin(async move {
                let _ = hole.wait_for(|hole| !*hole).await;
            })
        });
        ready!(hearing.as_mut().poll(context));
        self.hearing = None;
        Poll::Ready(())
    }

    /// What came of sending; that the other side is gone is news from there.
    fn sent<T>(
        &mut self,
        context: &mut Context<'_>,
        sent: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if matches!(sent, Poll::Ready(Err(_))) {
            ready!(self.poll_heard(context));
        }
        sent
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        ready!(self.poll_heard(context));
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let sent = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.sent(context, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        let sent = Pin::new(&mut self.inner).poll_flush(context);
        self.sent(context, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Ends a connection whose other side takes nothing for `max` while there is something to send.
pub struct Stalling<T> {
    inner: T,
    max: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> Stalling<T> {
    /// Wraps a connection.
    pub fn new(inner: T, max: Duration) -> Self {
        Self {
            inner,
            max,
            waiting: None,
        }
    }

    fn stalled<R>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let max = self.max;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(max)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other side stopped reading",
        )))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.stalled(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.stalled(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(context);
        self.stalled(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn an_address_is_reached_by_the_other_one_that_was_given() {
        let (there, tunnel) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let (there, via) = (Listen::address(&there), Listen::address(&tunnel));
        let connect = TcpConnect::via(BTreeMap::from([(there.clone(), via)]));
        let (connected, accepted) = tokio::join!(connect.connect(&there), tunnel.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert!(TcpConnect::default().connect("127.0.0.1:1").await.is_err());
    }

    #[tokio::test]
    async fn thousands_may_come_at_once() {
        let bound = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let many = bound.trim().parse::<usize>().unwrap().min(2_000);
        let listener = listen(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for n in 0..many {
            let connecting = TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_secs(20), connecting).await;
            waiting.push(connected.expect("room").unwrap());
            assert_eq!(waiting.len(), n + 1);
        }
        let in_use = listen(&[address]).unwrap_err();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        assert!(listen(&[]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_host_refuses_and_its_connections_end() {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("a:1");
        let mut out = network.connect("a:1").await.unwrap();
        let (mut inside, _) = listener.accept().await.unwrap();
        out.write_all(b"x").await.unwrap();
        assert_eq!(inside.read_u8().await.unwrap(), b'x');
        network.cut("a", true);
        assert_eq!(
            inside.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert!(network.connect("a:1").await.is_err());
        network.cut("a", false);
        assert!(network.connect("a:1").await.is_ok());
        network.cut("b", true);
        assert!(
            network.at("b").connect("a:1").await.is_err(),
            "a cut host reaches nobody"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_falls_into_a_hole_gets_no_answer_and_no_error_until_it_ends() {
        const LONG: Duration = Duration::from_secs(3_600);
        let network = MemoryNetwork::new();
        let mut listener = network.listen("b:1");
        let mut a = network.at("a").connect("b:1").await.unwrap();
        let (mut b, _) = listener.accept().await.unwrap();
        network.hole("a", "b", true);
        a.write_all(b"x").await.unwrap();
        let silence = tokio::time::timeout(LONG, b.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
        b.write_all(b"y").await.unwrap();
        assert_eq!(a.read_u8().await.unwrap(), b'y', "the other direction");
        let knocking = network.at("a").connect("b:1");
        assert!(tokio::time::timeout(LONG, knocking).await.is_err());
        let other = network.at("c").connect("b:1").await;
        assert!(other.is_ok(), "only between these two");
        network.hole("a", "b", false);
        assert_eq!(b.read_u8().await.unwrap(), b'x', "it is sent again");

        // That somebody has gone is not heard either, by who reads and by who writes.
        network.hole("b", "a", true);
        drop(b);
        assert!(tokio::time::timeout(LONG, a.read_u8()).await.is_err());
        assert!(tokio::time::timeout(LONG, a.write_all(b"z")).await.is_err());
        network.hole("b", "a", false);
        assert!(a.read_u8().await.is_err() && a.write_all(b"z").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_cut_and_a_slow_one_is_not() {
        let (here, mut there) = tokio::io::duplex(4);
        let mut here = Stalling::new(here, Duration::from_secs(30));
        let reader = tokio::spawn(async move {
            let mut got = [0; 8];
            for byte in &mut got {
                tokio::time::sleep(Duration::from_secs(20)).await;
                *byte = there.read_u8().await.unwrap();
            }
            (got, there)
        });
        here.write_all(b"12345678").await.unwrap();
        let (got, _there) = reader.await.unwrap();
        assert_eq!(&got, b"12345678");
        let stalled = here.write_all(b"12345678").await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }
}
