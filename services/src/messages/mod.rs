//! The messages role.
mod directory;
mod position;
mod progress;
mod queue;
mod stream;
mod token;
mod varint;
