//! Stream mode: the client holds the position, any replica can serve it.

mod catch_up;
mod changed;
mod connection;
mod entrance;
mod feed;
mod frame;
mod live;
mod ring;

pub(super) use catch_up::{CatchUp, Page};
pub(super) use connection::{Connection, Opening};
pub(super) use entrance::{Entrance, LONGEST_WAIT};
pub(super) use feed::{Feed, Feeds, PAGE};
pub use ring::RingSize;
pub(super) use ring::{Entry, Found};
