//! Ports for servers that are stopped and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Below the range that systems hand out by themselves, from 32,768: a connection that somebody
/// opens could otherwise sit on the port of a server that is down.
const FIRST: u32 = 18_000;
const PORTS: u32 = 14_000;
/// How far apart processes begin, so that test programs at the same time rarely meet.
const APART: u32 = 97;

/// A port of 127.0.0.1 that nobody listens on at this moment, which this process has not handed out
/// before and the system hands out to nobody: a server that is down finds it again.
///
/// [`ErrorKind::Unavailable`] when there is none.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::testkit::free_port;
///
/// assert_ne!(free_port()?, free_port()?, "none is handed out twice");
/// # Ok(())
/// # }
/// ```
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(APART);
    for _ in 0..PORTS {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(FIRST + step).unwrap_or(u16::MAX);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let what = format!("no port of 127.0.0.1 from {FIRST} to {} is free", FIRST + PORTS - 1);
    Err(Error::new(ErrorKind::Unavailable, what))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_handed_out_twice() {
        let ports: BTreeSet<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| (18_000..32_000).contains(port)));
    }
}
