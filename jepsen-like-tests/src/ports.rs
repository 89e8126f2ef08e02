//! Free ports on loopback.
//!
//! They are taken from below the range that the system gives to outgoing connections: a port from
//! within it could be taken by somebody's connection while its node is down, and the node could not
//! come back. Between the look and the use another program may take a port; whoever starts a
//! process copes with that.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

use crate::failure::{Failure, Result};

const LOWEST: u16 = 12_000;
/// The end of the search where the system does not say where its own range begins.
const HIGHEST_DEFAULT: u16 = 32_000;
const TRIES_MAX: usize = 10_000;

/// Finds this many different ports that nobody listens on.
///
/// # Errors
/// When there are not enough.
pub fn free(count: usize) -> Result<Vec<u16>> {
    let highest = highest();
    let mut random = rand::make_rng::<rand::rngs::StdRng>();
    let mut found = BTreeSet::new();
    for _ in 0..TRIES_MAX {
        if found.len() == count {
            break;
        }
        let port = random.random_range(LOWEST..highest);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.insert(port);
        }
    }
    if found.len() < count {
        return Err(Failure::new(format!(
            "found {} of {count} free ports",
            found.len()
        )));
    }
    Ok(found.into_iter().collect())
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
    }
}
