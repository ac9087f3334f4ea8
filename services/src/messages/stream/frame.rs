//! Server-sent events on the wire.
//!
//! The format is the WHATWG HTML standard's, section 9.2: fields by line, an empty line ends an
//! event, a line that begins with a colon is a comment.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// Frames in one chunk of the body.
pub(in crate::messages) const CHUNK_FRAMES: usize = 64;
/// A chunk that has as many bytes takes no further frame.
pub(in crate::messages) const CHUNK_BYTES: usize = 64 * 1024;

/// One event of a stream, whatever transport carries it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::messages) enum Frame {
    /// A message; `json` is on one line, the event as all share who read it, and `id` the resume
    /// token of this one.
    Message { json: Bytes, id: Option<String> },
    /// A control event; `data` is JSON on one line. With an `id` the client resumes behind it.
    Control { name: &'static str, data: String, id: Option<String> },
    /// No event: it sets how long a client waits before it connects again, and where it resumes if
    /// it loses the connection before the first event.
    Opening { retry_ms: u64, id: Option<String> },
    /// A comment that keeps proxies from closing a quiet connection.
    Heartbeat,
}

impl Frame {
    /// A message.
    pub(in crate::messages) fn message(json: Bytes, id: String) -> Self {
        Self::Message { json, id: Some(id) }
    }

    /// A control event.
    pub(in crate::messages) fn control(
        name: &'static str,
        id: Option<String>,
        data: &impl Serialize,
    ) -> Self {
        // The data are our own structs of texts and numbers, which serde_json always writes.
        let data = serde_json::to_string(data).unwrap_or_else(|_| String::from("{}"));
        Self::Control { name, data, id }
    }

    /// The first frame.
    pub(in crate::messages) fn opening(retry_ms: u64, id: String) -> Self {
        Self::Opening { retry_ms, id: Some(id) }
    }

    /// No event: it sets how long a client waits before it connects again.
    pub(in crate::messages) fn retry(retry_ms: u64) -> Self {
        Self::Opening { retry_ms, id: None }
    }

    /// A comment.
    pub(in crate::messages) fn heartbeat() -> Self {
        Self::Heartbeat
    }

    /// How many bytes it takes at most.
    pub(in crate::messages) fn len(&self) -> usize {
        match self {
            Self::Message { json, id } => json.len() + id.as_ref().map_or(0, String::len) + 32,
            Self::Control { name, data, id } => {
                name.len() + data.len() + id.as_ref().map_or(0, String::len) + 32
            }
            Self::Opening { id, .. } => id.as_ref().map_or(0, String::len) + 64,
            Self::Heartbeat => 3,
        }
    }

    fn write(&self, chunk: &mut BytesMut) {
        let id = match self {
            Self::Message { json, id } => {
                write_event(chunk, "message", json);
                id.as_ref()
            }
            Self::Control { name, data, id } => {
                write_event(chunk, name, data.as_bytes());
                id.as_ref()
            }
            Self::Opening { retry_ms, id } => {
                chunk.put_slice(b"retry: ");
                chunk.put_slice(retry_ms.to_string().as_bytes());
                chunk.put_u8(b'\n');
                id.as_ref()
            }
            Self::Heartbeat => {
                chunk.put_slice(b":\n");
                None
            }
        };
        if let Some(id) = id {
            chunk.put_slice(b"id: ");
            chunk.put_slice(id.as_bytes());
            chunk.put_u8(b'\n');
        }
        chunk.put_u8(b'\n');
    }
}

fn write_event(chunk: &mut BytesMut, name: &str, data: &[u8]) {
    chunk.put_slice(b"event: ");
    chunk.put_slice(name.as_bytes());
    chunk.put_slice(b"\ndata: ");
    chunk.put_slice(data);
    chunk.put_u8(b'\n');
}

/// Joins the first of `frames` into one chunk and takes them out.
pub(in crate::messages) fn chunk(frames: &mut std::collections::VecDeque<Frame>) -> Option<Bytes> {
    let first = frames.front().map_or(0, Frame::len);
    let mut chunk = BytesMut::with_capacity(first.max(256));
    for _ in 0..CHUNK_FRAMES {
        let Some(frame) = frames.pop_front() else { break };
        frame.write(&mut chunk);
        if chunk.len() >= CHUNK_BYTES {
            break;
        }
    }
    (!chunk.is_empty()).then(|| chunk.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_the_standard_says_and_joined_up_to_a_bound() {
        let mut frames = std::collections::VecDeque::from([
            Frame::opening(1500, "a".into()),
            Frame::message(Bytes::from_static(b"{\"x\":1}"), "b".into()),
            Frame::control("deleted", None, &serde_json::json!({})),
            Frame::heartbeat(),
        ]);
        let text = "retry: 1500\nid: a\n\nevent: message\ndata: {\"x\":1}\nid: b\n\n\
                    event: deleted\ndata: {}\n\n:\n\n";
        assert_eq!(chunk(&mut frames).unwrap(), text);
        assert_eq!(chunk(&mut frames), None);

        frames.extend((0..100).map(|_| Frame::heartbeat()));
        let bytes = chunk(&mut frames).unwrap().len();
        assert_eq!((bytes, frames.len()), (64 * 3, 36));
        let large = Bytes::from(vec![b'x'; 40_000]);
        let mut frames: std::collections::VecDeque<Frame> =
            (0..3).map(|_| Frame::message(large.clone(), "a".into())).collect();
        chunk(&mut frames).unwrap();
        assert_eq!(frames.len(), 1);
    }
}
