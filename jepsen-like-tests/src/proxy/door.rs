//! Where one host reaches another: a listener whose connections are carried to the target, each
//! direction as its wire says.
//!
//! What must hold: whoever connects meets what he would meet without us. A target that nobody
//! listens at refuses (the listener is closed while that is so, because a node tells a dead process
//! from a partition by that); between hosts that cannot hear each other nothing is refused and
//! nothing answers; an end and a reset of one side reach the other.
//!
//! Left out: a connection is accepted here before the target accepts it, so one that cannot be opened
//! looks like one that nobody answers on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pump::{End, Pump};
use super::wire::{Mode, Wire, add};

/// Between two looks whether a target is back, or a port is free again.
const LOOK: Duration = Duration::from_millis(20);

/// Where one host reaches another.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) listen: SocketAddr,
    pub(super) target: SocketAddr,
    /// To the target.
    pub(super) there: Arc<Wire>,
    /// From the target.
    pub(super) back: Arc<Wire>,
    /// Whether every connection is refused.
    pub(super) refuses: watch::Receiver<bool>,
    /// Seeds what is left to chance; each connection adds its number.
    pub(super) seed: u64,
    pub(super) opened: Arc<AtomicU64>,
}

impl Door {
    /// Listens until it is dropped; connections end with it.
    pub(super) async fn run(mut self, first: TcpListener) {
        let mut listener = Some(first);
        let mut connections = JoinSet::new();
        let (mut there, mut back) = (self.there.modes(), self.back.modes());
        let (down, mut downs) = watch::channel(false);
        let down = Arc::new(down);
        loop {
            let blocked = there.borrow_and_update().blocks() || back.borrow_and_update().blocks();
            let is_down = *downs.borrow_and_update();
            let closed = *self.refuses.borrow_and_update() || (is_down && !blocked);
            if closed {
                listener = None;
            } else if listener.is_none() {
                // Somebody's connection may still have the port.
                listener = TcpListener::bind(self.listen).await.ok();
            }
            let looks = is_down || (listener.is_none() && !closed);
            tokio::select! {
                accepted = accept(listener.as_ref()), if listener.is_some() => {
                    if let Ok(stream) = accepted {
                        connections.spawn(self.clone().carry(stream, Arc::clone(&down)));
                    }
                }
                Some(_) = connections.join_next() => {}
                changed = there.changed() => if changed.is_err() { return },
                changed = back.changed() => if changed.is_err() { return },
                changed = self.refuses.changed() => if changed.is_err() { return },
                _ = downs.changed() => {}
                () = tokio::time::sleep(LOOK), if looks => {
                    if is_down && TcpStream::connect(self.target).await.is_ok() {
                        down.send_replace(false);
                    }
                }
            }
        }
    }

    /// Carries one connection until it ends.
    async fn carry(self, near: TcpStream, down: Arc<watch::Sender<bool>>) {
        let mut resets = (self.there.resets(), self.back.resets());
        let far = tokio::select! {
            biased;
            far = self.reach(&near) => far,
            _ = resets.0.changed() => None,
            _ = resets.1.changed() => None,
        };
        let Some(far) = far else {
            add(&self.there.counters.reset, 1);
            let _ = near.set_zero_linger();
            return;
        };
        let far = match far {
            Ok(far) => far,
            Err(why) => {
                if why.kind() == io::ErrorKind::ConnectionRefused {
                    down.send_replace(true);
                }
                let _ = near.set_zero_linger();
                return;
            }
        };
        // Both are on loopback; a failure would only make them slower.
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let number = self
            .opened
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let random = |side: u64| {
            StdRng::seed_from_u64(
                self.seed
                    .wrapping_add(number.wrapping_mul(2))
                    .wrapping_add(side),
            )
        };
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let mut there = Pump::new(Arc::clone(&self.there), near_read, far_write, random(0));
        let mut back = Pump::new(Arc::clone(&self.back), far_read, near_write, random(1));
        let reset = tokio::select! {
            reset = both(&mut there, &mut back) => reset,
            _ = resets.0.changed() => {
                add(&self.there.counters.reset, 1);
                true
            }
            _ = resets.1.changed() => {
                add(&self.back.counters.reset, 1);
                true
            }
        };
        if reset {
            there.abort();
            back.abort();
        }
    }

    /// Connects to the target once both directions let that through; `None` when that connection
    /// was lost before.
    async fn reach(&self, near: &TcpStream) -> Option<io::Result<TcpStream>> {
        let (mut there, mut back) = (self.there.modes(), self.back.modes());
        let mut counted = false;
        loop {
            let modes = [*there.borrow_and_update(), *back.borrow_and_update()];
            if !modes.iter().any(|mode| mode.blocks()) {
                return Some(TcpStream::connect(self.target).await);
            }
            if !counted {
                let blocking = if modes[0].blocks() {
                    &self.there
                } else {
                    &self.back
                };
                add(&blocking.counters.unopened, 1);
                counted = true;
            }
            tokio::select! {
                changed = there.changed() => if changed.is_err() { return None },
                changed = back.changed() => if changed.is_err() { return None },
                () = gone(near) => return None,
            }
            let swallowed = modes.contains(&Mode::Swallow);
            let blocks = there.borrow().blocks() || back.borrow().blocks();
            if swallowed && !blocks {
                return None;
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Waits until whoever connected has given up.
async fn gone(near: &TcpStream) {
    let mut byte = [0];
    // What it sent in the meantime is left where it is; then nothing is learned before it is taken.
    match near.peek(&mut byte).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Runs both directions; true when the connection is to end with a reset.
async fn both(there: &mut Pump, back: &mut Pump) -> bool {
    let (mut first, mut second) = (None, None);
    while first.is_none() || second.is_none() {
        tokio::select! {
            end = there.run(), if first.is_none() => first = Some(end),
            end = back.run(), if second.is_none() => second = Some(end),
        }
        if [first, second].contains(&Some(End::Reset)) {
            return true;
        }
    }
    [first, second].contains(&Some(End::Unheard))
}
