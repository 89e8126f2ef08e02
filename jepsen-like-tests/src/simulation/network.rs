//! Wires between simulated machines, and connections over them that behave as TCP does.
//!
//! A connection is two queues of packets. What is sent arrives in order, after the delay of its
//! directed link; while a link is cut it waits, as TCP would send it again, and arrives some time
//! after the link is back. A packet to a process that is not there any more is answered by a reset;
//! to a machine without power by nothing. Both ends can have [`WINDOW`] bytes on their way or unread.
//!
//! What must hold: nothing is lost, doubled or reordered within a connection, whatever happens to the
//! links; only its end can be early. The machine that is about to lose power sends nothing more.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use pennon_client::{Connecting, Connector, Endpoint};
use pennon_node::net::{BoxFuture, BoxedIo, Connect, Listen};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::trace::hash;
use super::universe::{Machine, Power, State, Universe};

/// Bytes that one side may have sent and the other not read.
const WINDOW: usize = 64 << 10;

/// After a packet was lost, until it is sent again: at least and at most, in milliseconds.
const AGAIN_MS: (u64, u64) = (200, 800);

/// How one machine reaches another.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Cut by so many faults.
    pub(crate) cuts: u32,
    /// Milliseconds: at least and at most.
    pub(crate) delay_ms: (u64, u64),
    /// Of a thousand packets, lost and sent again.
    pub(crate) lost_permille: u32,
}

pub(crate) struct Net {
    random: StdRng,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    listeners: BTreeMap<String, Listening>,
    links: BTreeMap<(Machine, Machine), Link>,
    /// Of links that were never touched.
    pub(crate) usual: Link,
}

struct Listening {
    machine: Machine,
    life: u32,
    waiting: VecDeque<u64>,
    waker: Option<Waker>,
}

/// End 0 opened it, end 1 accepted it; way n is what end n sends.
struct Connection {
    ends: [End; 2],
    ways: [Way; 2],
}

#[derive(Default)]
struct End {
    machine: Machine,
    life: u32,
    /// Somebody holds it.
    open: bool,
    connected: bool,
    /// Reset by the other side, or by a fault.
    broken: bool,
    /// The other side sends nothing more.
    ended: bool,
    inbox: VecDeque<Bytes>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Default)]
struct Way {
    flight: VecDeque<Packet>,
    /// Bytes sent and not read.
    unread: usize,
    finished: bool,
}

struct Packet {
    at_ms: u64,
    what: What,
}

enum What {
    Knock(String),
    Welcome,
    Data(Bytes),
    End,
    Reset,
}

impl End {
    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
        wakers.extend(self.writer.take());
    }
}

impl Net {
    pub(crate) fn new(seed: u64) -> Net {
        Net {
            random: StdRng::seed_from_u64(seed ^ 0x6e65_7477_6f72_6b00),
            connections: BTreeMap::new(),
            next: 1,
            listeners: BTreeMap::new(),
            links: BTreeMap::new(),
            usual: Link {
                cuts: 0,
                delay_ms: (1, 2),
                lost_permille: 0,
            },
        }
    }

    fn link(&self, from: Machine, to: Machine) -> &Link {
        self.links.get(&(from, to)).unwrap_or(&self.usual)
    }

    /// The link from one machine to another, to be changed.
    pub(crate) fn link_mut(&mut self, from: Machine, to: Machine) -> &mut Link {
        let usual = self.usual.clone();
        self.links.entry((from, to)).or_insert(usual)
    }

    /// From now on every link is whole and quick.
    pub(crate) fn all_quick(&mut self) {
        self.links.clear();
        self.usual.delay_ms = (1, 1);
    }

    /// What waited for a link that is back is sent again, some time later.
    pub(crate) fn resend(&mut self, now_ms: u64, from: Machine, to: Machine) {
        let Net {
            connections,
            random,
            ..
        } = self;
        for connection in connections.values_mut() {
            for side in 0..2 {
                if (
                    connection.ends[side].machine,
                    connection.ends[1 - side].machine,
                ) != (from, to)
                {
                    continue;
                }
                if let Some(first) = connection.ways[side].flight.front_mut()
                    && first.at_ms <= now_ms
                {
                    first.at_ms = now_ms + random.random_range(0..AGAIN_MS.1);
                }
            }
        }
    }
}

impl State {
    /// Puts a packet on its way.
    fn send(&mut self, id: u64, side: usize, what: What) {
        let Some(connection) = self.net.connections.get(&id) else {
            return;
        };
        let (from, to) = (
            connection.ends[side].machine,
            connection.ends[1 - side].machine,
        );
        if self.machines[from].mute {
            return;
        }
        let link = self.net.link(from, to).clone();
        let (least, most) = link.delay_ms;
        let mut delay = self.net.random.random_range(least.max(1)..=most.max(1));
        if link.lost_permille > 0 && self.net.random.random_range(0..1000) < link.lost_permille {
            delay += self.net.random.random_range(AGAIN_MS.0..=AGAIN_MS.1);
            self.count("packets lost", 1);
        }
        let now_ms = self.now_ms;
        let (kind, len, hashed) = match &what {
            What::Knock(_) => ('k', 0, 0),
            What::Welcome => ('w', 0, 0),
            What::Data(bytes) => ('d', bytes.len(), hash(bytes)),
            What::End => ('e', 0, 0),
            What::Reset => ('r', 0, 0),
        };
        self.note(format_args!(
            "net {id}.{side} {from}>{to} {kind} {len} {hashed:016x}"
        ));
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let way = &mut connection.ways[side];
        let after = way.flight.back().map_or(0, |last| last.at_ms);
        way.flight.push_back(Packet {
            at_ms: after.max(now_ms + delay),
            what,
        });
    }

    fn close(&mut self, id: u64, side: usize) {
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let end = &mut connection.ends[side];
        if !end.open {
            return;
        }
        end.open = false;
        let rude = !end.inbox.is_empty();
        end.inbox.clear();
        let told = end.broken || (connection.ways[side].finished && !rude);
        if !told {
            self.send(id, side, if rude { What::Reset } else { What::End });
        }
        self.forget(id);
    }

    /// Lets go of a connection that nobody holds.
    fn forget(&mut self, id: u64) {
        let gone = self.net.connections.get(&id).is_some_and(|connection| {
            let knocking = connection.ways[0]
                .flight
                .iter()
                .any(|packet| matches!(packet.what, What::Knock(_)));
            !connection.ends[0].open && !connection.ends[1].open && !knocking
        });
        if gone {
            self.net.connections.remove(&id);
        }
    }

    /// A machine's process ends: its connections close, or, without power, are simply gone.
    pub(crate) fn silence(&mut self, machine: Machine, power: Power) {
        self.machines[machine].power = power;
        let life = self.machines[machine].life;
        self.net
            .listeners
            .retain(|_, listening| (listening.machine, listening.life) != (machine, life));
        let ids: Vec<u64> = self.net.connections.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let held = self.net.connections.get(&id).is_some_and(|connection| {
                    let end = &connection.ends[side];
                    end.machine == machine && end.open
                });
                if held {
                    self.close(id, side);
                }
            }
        }
    }

    /// Resets every connection between two machines.
    pub(crate) fn reset(&mut self, one: Machine, other: Machine, wakers: &mut Vec<Waker>) -> u64 {
        let mut count = 0;
        for connection in self.net.connections.values_mut() {
            let machines = (connection.ends[0].machine, connection.ends[1].machine);
            if machines == (one, other) || machines == (other, one) {
                count += 1;
                for end in &mut connection.ends {
                    end.broken = true;
                    end.wake(wakers);
                }
            }
        }
        count
    }

    /// Takes the next packet of one direction that arrives now.
    fn next_due(&mut self, id: u64, side: usize) -> Option<What> {
        let connection = self.net.connections.get(&id)?;
        let (from, to) = (
            connection.ends[side].machine,
            connection.ends[1 - side].machine,
        );
        if self.net.link(from, to).cuts > 0 {
            self.count("packets kept back for a millisecond", 1);
            return None;
        }
        if self.machines[to].power == Power::Off {
            return None;
        }
        let now_ms = self.now_ms;
        let connection = self.net.connections.get_mut(&id)?;
        let flight = &mut connection.ways[side].flight;
        Some(flight.pop_front_if(|packet| packet.at_ms <= now_ms)?.what)
    }

    fn arrive(&mut self, id: u64, side: usize, what: What, wakers: &mut Vec<Waker>) {
        let Some(connection) = self.net.connections.get_mut(&id) else {
            return;
        };
        let end = &mut connection.ends[side];
        if let What::Knock(address) = what {
            let machine = end.machine;
            let presence = &self.machines[machine];
            let listening = self.net.listeners.get_mut(&address).filter(|listening| {
                (listening.machine, listening.life) == (machine, presence.life)
                    && presence.power == Power::Running
            });
            match listening {
                Some(listening) if connection.ends[0].open => {
                    let end = &mut connection.ends[1];
                    (end.life, end.open, end.connected) = (presence.life, true, true);
                    listening.waiting.push_back(id);
                    wakers.extend(listening.waker.take());
                    self.send(id, side, What::Welcome);
                }
                _ => self.send(id, side, What::Reset),
            }
            return self.forget(id);
        }
        let presence = &self.machines[end.machine];
        if !end.open || end.life != presence.life {
            if !matches!(what, What::Reset) {
                self.send(id, side, What::Reset);
            }
            return;
        }
        match what {
            What::Knock(_) => {}
            What::Welcome => end.connected = true,
            What::Data(bytes) => end.inbox.push_back(bytes),
            What::End => end.ended = true,
            What::Reset => {
                end.broken = true;
                end.inbox.clear();
            }
        }
        end.wake(wakers);
    }
}

/// Lets everything arrive that is due; returns whom to wake.
pub(crate) fn deliver(state: &mut State) -> Vec<Waker> {
    let mut wakers = Vec::new();
    let now_ms = state.now_ms;
    let mut due = Vec::new();
    for (id, connection) in &state.net.connections {
        for side in 0..2 {
            let first = connection.ways[side].flight.front();
            if first.is_some_and(|packet| packet.at_ms <= now_ms) {
                due.push((*id, side));
            }
        }
    }
    for (id, side) in due {
        while let Some(what) = state.next_due(id, side) {
            state.arrive(id, 1 - side, what, &mut wakers);
        }
    }
    wakers
}

/// One side of a connection.
pub(crate) struct SimIo {
    universe: Universe,
    id: u64,
    side: usize,
}

impl Drop for SimIo {
    fn drop(&mut self) {
        self.universe.lock().close(self.id, self.side);
    }
}

fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

impl AsyncRead for SimIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.universe.lock();
        let Some(connection) = state.net.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset()));
        };
        let [end, other] = sides(&mut connection.ends, self.side);
        if end.broken {
            return Poll::Ready(Err(reset()));
        }
        let before = buffer.remaining();
        while buffer.remaining() > 0
            && let Some(first) = end.inbox.front_mut()
        {
            let taken = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..taken]);
            first.advance(taken);
            if first.is_empty() {
                end.inbox.pop_front();
            }
        }
        let taken = before - buffer.remaining();
        if taken > 0 {
            connection.ways[1 - self.side].unread -= taken;
            let waker = other.writer.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
        if end.ended {
            return Poll::Ready(Ok(()));
        }
        end.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

fn sides(ends: &mut [End; 2], side: usize) -> [&mut End; 2] {
    let [first, second] = ends;
    match side {
        0 => [first, second],
        _ => [second, first],
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.universe.lock();
        let Some(connection) = state.net.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset()));
        };
        let (end, way) = (
            &mut connection.ends[self.side],
            &mut connection.ways[self.side],
        );
        if end.broken {
            return Poll::Ready(Err(reset()));
        }
        let fits = WINDOW.saturating_sub(way.unread).min(bytes.len());
        if fits == 0 && !bytes.is_empty() {
            end.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        way.unread += fits;
        state.send(
            self.id,
            self.side,
            What::Data(Bytes::copy_from_slice(&bytes[..fits])),
        );
        Poll::Ready(Ok(fits))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.universe.lock();
        if let Some(connection) = state.net.connections.get_mut(&self.id)
            && !connection.ways[self.side].finished
        {
            connection.ways[self.side].finished = true;
            state.send(self.id, self.side, What::End);
        }
        Poll::Ready(Ok(()))
    }
}

/// The network as one life of a machine sees it.
#[derive(Clone, Debug)]
pub(crate) struct Wires {
    pub(crate) universe: Universe,
    pub(crate) machine: Machine,
}

impl Wires {
    fn open(&self, address: &str) -> io::Result<SimIo> {
        let mut state = self.universe.lock();
        let name = address.split(':').next().unwrap_or_default();
        let target = state
            .machines
            .iter()
            .position(|machine| machine.name == name);
        let target = target.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let id = state.net.next;
        state.net.next += 1;
        let here = End {
            machine: self.machine,
            life: state.machines[self.machine].life,
            open: true,
            ..End::default()
        };
        let there = End {
            machine: target,
            ..End::default()
        };
        state.net.connections.insert(
            id,
            Connection {
                ends: [here, there],
                ways: Default::default(),
            },
        );
        state.send(id, 0, What::Knock(address.to_owned()));
        Ok(SimIo {
            universe: self.universe.clone(),
            id,
            side: 0,
        })
    }

    async fn connected(self, address: String) -> io::Result<SimIo> {
        let io = self.open(&address)?;
        poll_fn(|context| {
            let mut state = io.universe.lock();
            let end = state.net.connections.get_mut(&io.id);
            let Some(end) = end.map(|connection| &mut connection.ends[0]) else {
                return Poll::Ready(Err(reset()));
            };
            if end.broken {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
            }
            if end.connected {
                return Poll::Ready(Ok(()));
            }
            end.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await?;
        Ok(io)
    }

    /// Listens on a port of this machine.
    pub(crate) fn listen(&self, port: u16) -> SimListener {
        let mut state = self.universe.lock();
        let address = format!("{}:{port}", state.machines[self.machine].name);
        let life = state.machines[self.machine].life;
        state.net.listeners.insert(
            address.clone(),
            Listening {
                machine: self.machine,
                life,
                waiting: VecDeque::new(),
                waker: None,
            },
        );
        SimListener {
            universe: self.universe.clone(),
            address,
            life,
        }
    }
}

impl Connect for Wires {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedIo>> {
        let connecting = self.clone().connected(address.to_owned());
        Box::pin(async move { Ok(Box::new(connecting.await?) as BoxedIo) })
    }
}

impl Connector for Wires {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        let connecting = self.clone().connected(endpoint.authority().to_owned());
        Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn pennon_client::Io>) })
    }
}

/// Accepts connections.
pub(crate) struct SimListener {
    universe: Universe,
    address: String,
    life: u32,
}

impl Listen for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        Box::pin(poll_fn(|context| {
            let mut state = self.universe.lock();
            let listening = state.net.listeners.get_mut(&self.address);
            let Some(listening) = listening.filter(|listening| listening.life == self.life) else {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
            };
            let Some(id) = listening.waiting.pop_front() else {
                listening.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            let io = SimIo {
                universe: self.universe.clone(),
                id,
                side: 1,
            };
            Poll::Ready(Ok((Box::new(io) as BoxedIo, "simulated".to_owned())))
        }))
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.universe.lock();
        let ours = state.net.listeners.get(&self.address);
        if ours.is_some_and(|listening| listening.life == self.life)
            && let Some(listening) = state.net.listeners.remove(&self.address)
        {
            for id in listening.waiting {
                state.close(id, 1);
            }
        }
    }
}
