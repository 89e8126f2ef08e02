//! Free ports on loopback.
//!
//! They are taken from below the range that the system gives to outgoing connections: a port from
//! within it could be taken by somebody's connection while its node is down, and the node could not
//! come back.
//!
//! A port is held until this process ends, by a socket that is bound to it and never listens. Whoever
//! looks for ports in this way finds it taken, also in another process; whoever listens as servers do
//! (with `SO_REUSEADDR`) is let in beside it; and a connection to it is refused while no server is
//! there. A look by listening would be seen by nobody, and for longer than it lasts: a process that
//! another thread starts at that moment keeps a copy of the socket until it has become its program.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use rand::seq::SliceRandom;
use tokio::net::TcpSocket;

use crate::failure::{Failure, Result};

const LOWEST: u16 = 12_000;
/// The end of the search where the system does not say where its own range begins.
const HIGHEST_DEFAULT: u16 = 32_000;

static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());

/// Finds this many different ports that nobody has. None is given twice.
///
/// # Errors
/// When there are not enough.
pub fn free(count: usize) -> Result<Vec<u16>> {
    // In an order of its own: others look at the same time.
    let mut random = rand::make_rng::<rand::rngs::StdRng>();
    let mut ports: Vec<u16> = (LOWEST..highest()).collect();
    ports.shuffle(&mut random);
    let holds = ports
        .into_iter()
        .filter_map(|port| Some((port, hold(port)?)));
    let (found, sockets): (Vec<u16>, Vec<TcpSocket>) = holds.take(count).unzip();
    if found.len() < count {
        return Err(Failure::new("all ports are taken"));
    }
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.extend(sockets);
    Ok(found)
}

/// Takes a port, if nobody has it.
fn hold(port: u16) -> Option<TcpSocket> {
    let socket = TcpSocket::new_v4().ok()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(address).ok()?;
    // Only now: with it, the look would find free what another one holds.
    socket.set_reuseaddr(true).ok()?;
    Some(socket)
}

fn highest() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    first
        .filter(|first| *first > LOWEST + 1_000)
        .unwrap_or(HIGHEST_DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_port_is_one_holder_s_and_a_server_is_let_in() {
        let ports = free(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        for port in ports {
            let address = (Ipv4Addr::LOCALHOST, port);
            assert!(hold(port).is_none());
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let server = TcpListener::bind(address).unwrap();
            assert!(hold(port).is_none());
            let near = TcpStream::connect(address).unwrap();
            // The server ends first, so that the port is left with a connection that waits.
            drop((server.accept().unwrap(), server));
            drop(near);
            assert!(hold(port).is_none());
        }
    }

    #[test]
    fn a_port_is_free_at_once_while_others_start_processes() {
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let taken = (0..200).find_map(|_| {
                let ports = free(10).unwrap();
                let servers = ports
                    .into_iter()
                    .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
                servers.collect::<std::io::Result<Vec<_>>>().err()
            });
            end.store(true, Ordering::Relaxed);
            assert!(taken.is_none(), "{taken:?}");
        });
    }
}
