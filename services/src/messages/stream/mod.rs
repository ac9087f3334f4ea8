//! Stream mode: the client holds the position, any replica can serve it.

mod begin;
mod catch_up;
mod changed;
mod connection;
mod entrance;
mod feed;
pub(super) mod frame;
mod live;
mod ring;

use futures_util::future::BoxFuture;

pub(super) use begin::{From, begin, capture};
pub(super) use catch_up::{CatchUp, Page};
pub(super) use connection::{Connection, Opening};
pub(super) use entrance::{Entrance, LONGEST_WAIT, Opened};
pub(super) use feed::{Feed, Feeds, PAGE};
pub(super) use frame::Frame;
pub(super) use live::{Live, Step};
pub use ring::RingSize;
pub(super) use ring::{Entry, Found};

/// A stream as frames, for transports that have their own form of them.
pub(super) trait Frames: Send {
    /// Waits until a frame is ready; `None` when no more will come. To be waited for to its end: a
    /// read that is dropped may have taken messages with it.
    fn fill(&mut self) -> BoxFuture<'_, Option<()>>;

    /// The next frame that is ready, left where it is.
    fn peek(&self) -> Option<&Frame>;

    /// The next frame that is ready.
    fn take(&mut self) -> Option<Frame>;
}
