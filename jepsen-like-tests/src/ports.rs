//! Free ports on loopback.
//!
//! They are taken from below the range that the system gives to outgoing connections: a port from
//! within it could be taken by somebody's connection while its node is down, and the node could not
//! come back. For the same reason a process takes them from blocks that it holds until it ends (a lock of
//! the system on a file, as [`crate::places`]): two runs side by side would take each other's. Another
//! program may still take a port between the look and the use; whoever starts a process copes with that.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::failure::{Failure, Result};

const LOWEST: u16 = 12_000;
/// The end of the search where the system does not say where its own range begins.
const HIGHEST_DEFAULT: u16 = 32_000;
/// Ports of a block: a run with five nodes and all its proxies needs some two hundred.
const BLOCK: u16 = 300;

/// What this process holds: the locks, and ports of theirs that nobody was given yet.
struct Held {
    locks: Vec<File>,
    ports: Vec<u16>,
}

static HELD: Mutex<Held> = Mutex::new(Held {
    locks: Vec::new(),
    ports: Vec::new(),
});

/// Finds this many different ports that nobody listens on. No port is given twice by one process.
///
/// # Errors
/// When there are not enough.
pub fn free(count: usize) -> Result<Vec<u16>> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    while found.len() < count {
        let Some(port) = held.ports.pop() else {
            let (lock, ports) = take_block()?;
            held.locks.push(lock);
            held.ports = ports;
            continue;
        };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.push(port);
        }
    }
    Ok(found)
}

/// Takes a block that no process has, in an order of its own: others look at the same time.
fn take_block() -> Result<(File, Vec<u16>)> {
    let mut random = rand::make_rng::<rand::rngs::StdRng>();
    let mut blocks: Vec<u16> = (LOWEST..highest() - BLOCK)
        .step_by(usize::from(BLOCK))
        .collect();
    blocks.shuffle(&mut random);
    let user = rustix::process::getuid().as_raw();
    for first in blocks {
        let name = format!("pennon-test-ports-{user}-{first}.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(std::env::temp_dir().join(name))?;
        match file.try_lock() {
            Ok(()) => {
                let mut ports: Vec<u16> = (first..first + BLOCK).collect();
                ports.shuffle(&mut random);
                return Ok((file, ports));
            }
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(why)) => return Err(why.into()),
        }
    }
    Err(Failure::new("all ports are taken by other runs"))
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

    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_bound() {
        let ports = free(20).unwrap();
        let held: Vec<_> = ports
            .iter()
            .map(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, *p)).unwrap())
            .collect();
        assert_eq!(held.len(), 20);
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        // Nobody listens on them any more, and still no other run in this process gets them.
        drop(held);
        let others = free(usize::from(BLOCK)).unwrap();
        assert!(!others.iter().any(|port| ports.contains(port)));
    }

    #[test]
    fn a_block_that_is_held_is_nobody_elses() {
        let blocks: Vec<_> = (0..10).map(|_| take_block().unwrap()).collect();
        let ports: BTreeSet<u16> = blocks.iter().flat_map(|(_, ports)| ports.clone()).collect();
        assert_eq!(ports.len(), 10 * usize::from(BLOCK));
    }
}
