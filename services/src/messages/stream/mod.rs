//! Stream mode: the client holds the position, any replica can serve it.

mod catch_up;
mod connection;
mod feed;
mod frame;
mod live;
mod ring;

pub(super) use connection::{Connection, Opening};
pub(super) use feed::Feeds;
pub use ring::RingSize;
