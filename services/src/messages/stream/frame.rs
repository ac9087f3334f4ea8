//! Server-sent events on the wire.
//!
//! The format is the WHATWG HTML standard's, section 9.2: fields by line, an empty line ends an
//! event, a line that begins with a colon is a comment.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// Frames in one chunk of the body.
const CHUNK_FRAMES: usize = 64;
/// A chunk that has as many bytes takes no further frame.
const CHUNK_BYTES: usize = 64 * 1024;

/// One event: what all readers share, and the resume token of this one.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// What stands before `shared`, and after it.
    around: (&'static str, &'static str),
    shared: Bytes,
    id: Option<String>,
}

/// The lines of a message around its event.
const MESSAGE: (&str, &str) = ("event: message\ndata: ", "\n");
const WHOLE: (&str, &str) = ("", "");

impl Frame {
    /// A message; `json` is the event on one line.
    pub(super) fn message(json: Bytes, id: String) -> Self {
        Self { around: MESSAGE, shared: json, id: Some(id) }
    }

    /// A control event. With an `id` the client resumes behind it.
    pub(super) fn control(event: &str, id: Option<String>, data: &impl Serialize) -> Self {
        // The data are our own structs of texts and numbers, which serde_json always writes.
        let json = serde_json::to_string(data).unwrap_or_else(|_| String::from("{}"));
        Self { around: WHOLE, shared: Bytes::from(format!("event: {event}\ndata: {json}\n")), id }
    }

    /// The first frame: no event, but it sets how long a client waits before it connects again,
    /// and where it resumes if it loses the connection before the first event.
    pub(super) fn opening(retry_ms: u64, id: String) -> Self {
        Self { around: WHOLE, shared: Bytes::from(format!("retry: {retry_ms}\n")), id: Some(id) }
    }

    /// No event: it sets how long a client waits before it connects again.
    pub(super) fn retry(retry_ms: u64) -> Self {
        Self { around: WHOLE, shared: Bytes::from(format!("retry: {retry_ms}\n")), id: None }
    }

    /// A comment that keeps proxies from closing a quiet connection.
    pub(super) fn heartbeat() -> Self {
        Self { around: WHOLE, shared: Bytes::from_static(b":\n"), id: None }
    }

    fn len(&self) -> usize {
        let (before, after) = self.around;
        let around = before.len() + after.len();
        around + self.shared.len() + self.id.as_ref().map_or(0, |id| id.len() + 5) + 1
    }

    fn write(&self, chunk: &mut BytesMut) {
        let (before, after) = self.around;
        chunk.put_slice(before.as_bytes());
        chunk.put_slice(&self.shared);
        chunk.put_slice(after.as_bytes());
        if let Some(id) = &self.id {
            chunk.put_slice(b"id: ");
            chunk.put_slice(id.as_bytes());
            chunk.put_u8(b'\n');
        }
        chunk.put_u8(b'\n');
    }
}

/// Joins the first of `frames` into one chunk and takes them out.
pub(super) fn chunk(frames: &mut std::collections::VecDeque<Frame>) -> Option<Bytes> {
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
