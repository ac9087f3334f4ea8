//! Where on disk a thing is: the tables and their keys. **Keep stable.**
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `meta` | `version` | the version of this format, 4 bytes |
//! | | `clock` | the last time that anything was written, nanoseconds since 1970 |
//! | | `s` stream | its declaration, JSON |
//! | | `q` stream | the last sequence that was given |
//! | | `c` stream consumer | a consumer's declaration, JSON |
//! | | `h` consumer | where it stands |
//! | | `f` consumer | the sequences it gets first |
//! | | `b` bucket | its declaration, JSON |
//! | | `r` bucket | the last revision that was given |
//! | | `d` number | a stream or bucket that was deleted, until its rows are |
//! | `outlines` | stream sequence | time, size and subject of a message |
//! | `bodies` | stream sequence | its key, headers and payload |
//! | `ids` | stream place | an id of the de-duplication window |
//! | `delayed` | stream time number | a message that is not due |
//! | `open` | consumer sequence | a delivery that is out or rests |
//! | `values` | bucket key | a value and its revision |
//!
//! Numbers are big-endian, 8 bytes, so that rows stand in their order. A stream, consumer or
//! bucket has a number that no other ever had, so that one which is made anew under the same name
//! has nothing to do with the rows of the old one.

use std::time::SystemTime;

use fjall::Slice;

use super::bytes::{Input, nanos};

/// The version of the format, and of nothing else.
pub(super) const VERSION: u32 = 1;
pub(super) const VERSION_KEY: &[u8] = b"version";
/// Shorter than the key of anything that has a number, as that of the version is.
pub(super) const CLOCK_KEY: &[u8] = b"clock";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Meta,
    Outlines,
    Bodies,
    Ids,
    Delayed,
    Open,
    Values,
}

impl Table {
    pub(super) const ALL: [Self; 7] = [
        Self::Meta,
        Self::Outlines,
        Self::Bodies,
        Self::Ids,
        Self::Delayed,
        Self::Open,
        Self::Values,
    ];

    /// Those whose keys begin with the number of a stream or bucket.
    pub(super) const OWNED: [Self; 5] =
        [Self::Outlines, Self::Bodies, Self::Ids, Self::Delayed, Self::Values];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Outlines => "outlines",
            Self::Bodies => "bodies",
            Self::Ids => "ids",
            Self::Delayed => "delayed",
            Self::Open => "open",
            Self::Values => "values",
        }
    }
}

/// The kinds of rows in `meta` that belong to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    Stream = b's' as isize,
    LastSequence = b'q' as isize,
    Consumer = b'c' as isize,
    Head = b'h' as isize,
    First = b'f' as isize,
    Bucket = b'b' as isize,
    Revision = b'r' as isize,
    Dropped = b'd' as isize,
}

impl Meta {
    pub(super) fn tag(self) -> u8 {
        self as u8
    }

    pub(super) fn key(self, number: u64) -> Slice {
        let mut key = [0; 9];
        key[0] = self.tag();
        key[1..].copy_from_slice(&number.to_be_bytes());
        Slice::from(key)
    }

    /// The number in a key of this kind.
    pub(super) fn number(self, key: &[u8]) -> Option<u64> {
        let mut key = Input::new(key);
        let number = (key.u8()? == self.tag()).then(|| key.u64())??;
        key.end().map(|()| number)
    }
}

pub(super) fn consumer(stream: u64, consumer: u64) -> Slice {
    let mut key = [0; 17];
    key[0] = Meta::Consumer.tag();
    key[1..9].copy_from_slice(&stream.to_be_bytes());
    key[9..].copy_from_slice(&consumer.to_be_bytes());
    Slice::from(key)
}

/// The key of the two numbers in all tables that have such.
pub(super) fn pair(owner: u64, of_it: u64) -> Slice {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&owner.to_be_bytes());
    key[8..].copy_from_slice(&of_it.to_be_bytes());
    Slice::from(key)
}

pub(super) fn delayed(stream: u64, until: SystemTime, number: u64) -> Slice {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&stream.to_be_bytes());
    key[8..16].copy_from_slice(&nanos(until).to_be_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    Slice::from(key)
}

pub(super) fn value(bucket: u64, key: &str) -> Slice {
    Slice::from([&bucket.to_be_bytes(), key.as_bytes()].concat().as_slice())
}
