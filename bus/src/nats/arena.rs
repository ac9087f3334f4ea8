//! Where subjects are made: those of outgoing messages, and those that tokens hold.

use async_nats::Subject;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

const CHUNK: usize = 16 << 10;

/// Cuts subjects out of chunks of memory.
///
/// Each is made by the thread that sends and freed by the one that writes to the socket, which
/// costs an allocator more than all the rest of a send. A chunk is freed with its last subject.
#[derive(Default)]
pub(super) struct Arena(BytesMut);

impl Arena {
    pub(super) fn subject(&mut self, text: &str) -> Subject {
        Subject::from_utf8(self.copy(text)).unwrap_or_else(|_| Subject::from(text))
    }

    pub(super) fn text(&mut self, text: &str) -> ByteString {
        ByteString::try_from(self.copy(text)).unwrap_or_else(|_| ByteString::from(text))
    }

    fn copy(&mut self, text: &str) -> Bytes {
        if self.0.capacity() < text.len() {
            self.0.reserve(text.len().max(CHUNK));
        }
        self.0.extend_from_slice(text.as_bytes());
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_outlive_their_chunk_and_may_be_longer() {
        let mut arena = Arena::default();
        let texts: Vec<String> = (0..1000).map(|n| format!("a.{n}.{}", "x".repeat(n))).collect();
        let mut subjects: Vec<Subject> = texts.iter().map(|text| arena.subject(text)).collect();
        let long = "y".repeat(2 * CHUNK);
        subjects.push(arena.subject(&long));
        drop(arena);
        assert!(subjects.iter().map(Subject::as_str).eq(texts.iter().chain([&long])));
    }
}
