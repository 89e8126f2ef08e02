//! A network between processes on one machine: every *direction* between two hosts is a [`Wire`] that
//! can be told at any moment what to do with the bytes on it.
//!
//! Host a reaches host b by a door of its own, a TCP proxy; what a sends b over any connection, also
//! one that b opened, goes over the wire from a to b, so a partition in one direction is one.
//!
//! What must hold: whoever connects meets what he would meet without us (`door.rs`); bytes arrive in
//! order, and all of them or none after the first that is lost (`pump.rs`); each wire counts what it
//! did, because a fault that nobody can show to have happened proves nothing (`wire.rs`).
//!
//! ```
//! use std::time::Duration;
//! use jepsen_like_tests::proxy::{Mode, Net, Slow};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> jepsen_like_tests::Result<()> {
//! let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let net = Net::new(7);
//! let door = net.open("a", "b", 0, echo.local_addr()?).await?;
//! let mut near = tokio::net::TcpStream::connect(door).await?;
//! let (mut far, _) = echo.accept().await?;
//! // What b sends a gets lost, also over the connection that a opened.
//! net.wire("b", "a").set(Mode::Swallow);
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! far.write_all(b"nobody hears this").await?;
//! let silence = tokio::time::timeout(Duration::from_millis(50), near.read_u8()).await;
//! assert!(silence.is_err() && net.wire("b", "a").counts().swallowed == 17);
//! // There is one door from a to b.
//! assert!(net.open("a", "b", 0, echo.local_addr()?).await.is_err());
//! # Ok(())
//! # }
//! ```

mod door;
mod pump;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use wire::{Counts, Mode, Slow, Wire};

use crate::failure::{Failure, Result};
use door::Door;

/// From one host to another.
type Way = (String, String);

/// All wires and doors. They end with it.
#[derive(Debug)]
pub struct Net {
    seed: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    wires: BTreeMap<Way, Arc<Wire>>,
    doors: BTreeMap<Way, Opened>,
}

#[derive(Debug)]
struct Opened {
    address: SocketAddr,
    refuses: watch::Sender<bool>,
    task: AbortHandle,
}

impl Net {
    /// Makes a network without hosts; jitter comes from the seed.
    pub fn new(seed: u64) -> Net {
        Net {
            seed,
            inner: Mutex::default(),
        }
    }

    /// Opens the door by which a host reaches another one, at a port of loopback (0: any), and
    /// returns its address.
    ///
    /// # Errors
    /// When there is one already, or the port is taken.
    pub async fn open(
        &self,
        from: &str,
        to: &str,
        port: u16,
        target: SocketAddr,
    ) -> Result<SocketAddr> {
        let way = way(from, to);
        if self.inner().doors.contains_key(&way) {
            return Err(Failure::new(format!("{from} has a door to {to} already")));
        }
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener =
            bound.map_err(|why| Failure::during(format!("the door from {from} to {to}"), why))?;
        let address = listener.local_addr()?;
        let (there, back) = (self.wire(from, to), self.wire(to, from));
        let (refuses, refused) = watch::channel(false);
        let mut inner = self.inner();
        let door = Door {
            listen: address,
            target,
            there,
            back,
            refuses: refused,
            seed: self.seed.wrapping_add((inner.doors.len() as u64) << 32),
            opened: Arc::default(),
        };
        let task = tokio::spawn(door.run(listener)).abort_handle();
        inner.doors.insert(
            way,
            Opened {
                address,
                refuses,
                task,
            },
        );
        Ok(address)
    }

    /// Where a host reaches another one, if it has a door there.
    pub fn door(&self, from: &str, to: &str) -> Option<SocketAddr> {
        self.inner()
            .doors
            .get(&way(from, to))
            .map(|door| door.address)
    }

    /// Has a door refuse whoever comes, or no longer.
    pub fn refuse(&self, from: &str, to: &str, refuses: bool) {
        if let Some(door) = self.inner().doors.get(&way(from, to)) {
            door.refuses.send_replace(refuses);
        }
    }

    /// The direction from one host to another.
    pub fn wire(&self, from: &str, to: &str) -> Arc<Wire> {
        Arc::clone(self.inner().wires.entry(way(from, to)).or_default())
    }

    /// Lets everything pass again, everywhere.
    pub fn heal(&self) {
        let inner = self.inner();
        for wire in inner.wires.values() {
            wire.set(Mode::Pass);
        }
        for door in inner.doors.values() {
            door.refuses.send_replace(false);
        }
    }

    /// What all wires did so far, together.
    pub fn counts(&self) -> Counts {
        let inner = self.inner();
        let all = inner.wires.values().map(|wire| wire.counts());
        all.fold(Counts::default(), Counts::plus)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for door in self.inner().doors.values() {
            door.task.abort();
        }
    }
}

fn way(from: &str, to: &str) -> Way {
    (from.to_owned(), to.to_owned())
}
