//! What a flow is: a name, and roles.

use std::net::IpAddr;

use bus::Bus;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// What a role may fail with: it is printed for a person, with everything that caused it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A small system on the bus.
#[derive(Debug)]
pub struct Flow {
    /// As it is typed: `medicine`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its parts, in the order in which they are started.
    pub roles: &'static [Role],
    /// Makes the streams and buckets that its roles stand on, where they are missing. It alters
    /// nothing that exists, so every process calls it first.
    pub prepare: fn(Context) -> BoxFuture<'static, Result<(), Failure>>,
}

/// A part of a flow that can run in a process of its own.
#[derive(Debug)]
pub struct Role {
    /// As it is typed: `patient`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Runs until [`Context::shutdown`] is cancelled, and returns when its own work is settled. A
    /// one-shot returns when it is done.
    pub run: fn(Context) -> BoxFuture<'static, Result<(), Failure>>,
}

/// What a role is given. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    /// Where the flow's messages are.
    pub bus: Bus,
    /// Whose key-value buckets keep the flow's state: the bus itself where it has compare-and-set.
    pub state: Bus,
    /// The address that roles with an HTTP side listen on, each at its own port.
    pub listen: IpAddr,
    /// Cancelled when the role has to end.
    pub shutdown: CancellationToken,
}
