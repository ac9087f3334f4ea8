//! Stream mode: the client holds the position, any replica can serve it.

mod catch_up;
mod connection;
mod feed;
mod frame;
mod live;
mod ring;

pub(super) use connection::{Connection, Opening};
pub(super) use catch_up::{CatchUp, Page};
pub(super) use feed::{Feed, Feeds, PAGE};
pub(super) use ring::{Entry, Found};
pub use ring::RingSize;
