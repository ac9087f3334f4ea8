//! What clients bring back: resume tokens and single-use tickets, signed.

pub(super) mod position;
pub(super) mod tickets;
pub(super) mod token;
mod varint;
