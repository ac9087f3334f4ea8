//! Topics without a subscription: their state, and their stream. The client holds the position,
//! as in stream mode, and nothing is kept here.
//!
//! Read in this order: what is asked for ([`interest`]), where a reader stands ([`place`]), the
//! state at a fence ([`state`]), and the stream that follows on it ([`stream`]).

mod interest;
mod place;
mod realms;
mod state;
mod stream;

pub(super) use interest::Interest;
pub(super) use place::{Place, Resumed, Rows};
pub(super) use realms::Realms;
pub(super) use state::{State, fence};
pub(super) use stream::{Opening, TopicStream, changed};
