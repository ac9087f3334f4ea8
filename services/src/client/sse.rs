//! The event stream format, read as the HTML standard says
//! (WHATWG, "Server-sent events", section 9.2.6).

use std::time::Duration;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field; `message` when the server gave none.
    pub event: String,
    /// The `data` lines, joined by line feeds.
    pub data: String,
    /// The last `id` seen up to and with this event; empty before the first.
    pub id: String,
}

/// A line or an event's data is longer than the reader allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event stream has a line or an event of more than {limit} bytes")]
pub struct TooLong {
    /// The bound.
    pub limit: usize,
}

/// Turns chunks of bytes, cut anywhere, into events. Holds at most one line and one event, both
/// bounded.
#[derive(Debug)]
pub struct SseParser {
    limit: usize,
    line: Vec<u8>,
    after_cr: bool,
    at_start: bool,
    event: String,
    data: String,
    last_id: String,
    retry: Option<Duration>,
}

impl SseParser {
    /// A parser that takes lines and event data of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            event: String::new(),
            data: String::new(),
            last_id: String::new(),
            retry: None,
        }
    }

    /// Takes the next chunk and returns the events that it completes. An event that the stream's
    /// end cuts short is never returned: drop the parser with the connection.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let (mut events, mut rest) = (Vec::new(), chunk);
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.keep(rest)?;
                break;
            };
            self.keep(&rest[..end])?;
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            events.extend(self.end_of_line()?);
        }
        Ok(events)
    }

    /// How long the server asked to wait before reconnecting (`retry`), once.
    pub fn take_retry(&mut self) -> Option<Duration> {
        self.retry.take()
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + part.len() > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_of_line(&mut self) -> Result<Option<SseEvent>, TooLong> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let mut line = line.as_ref();
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix('\u{FEFF}').unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value))?;
        Ok(None)
    }

    /// A field that is not one of the four, and so a comment (an empty name), is ignored.
    fn field(&mut self, field: &str, value: &str) -> Result<(), TooLong> {
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" if self.data.len() + value.len() >= self.limit => {
                return Err(TooLong { limit: self.limit });
            }
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let (mut event, mut data) =
            (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
        data.pop()?;
        if event.is_empty() {
            event.push_str("message");
        }
        Some(SseEvent { event, data, id: self.last_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(event: &str, data: &str, id: &str) -> SseEvent {
        SseEvent { event: event.into(), data: data.into(), id: id.into() }
    }

    fn parse(text: &str) -> Vec<SseEvent> {
        SseParser::new(1000).push(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(
            parse("data: YHOO\ndata: +2\ndata: 10\n\n"),
            [event("message", "YHOO\n+2\n10", "")]
        );
        let text = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            parse(text),
            [
                event("message", "first event", "1"),
                event("message", "second event", ""),
                event("message", " third event", ""),
            ]
        );
        assert_eq!(
            parse("data\n\ndata\ndata\n\ndata:"),
            [event("message", "", ""), event("message", "\n", "")]
        );
        assert_eq!(parse("data:test\n\ndata: test\n\n").len(), 2);
    }

    #[test]
    fn ids_stay_and_names_do_not() {
        let text = "id: 7\nevent: progress\ndata: {}\n\ndata: x\n\n";
        assert_eq!(parse(text), [event("progress", "{}", "7"), event("message", "x", "7")]);
        assert_eq!(parse("event: lost\n\ndata: x\n\n"), [event("message", "x", "")]);
        assert_eq!(parse("id: 1\nid: a\0b\ndata: x\n\n"), [event("message", "x", "1")]);
    }

    #[test]
    fn an_unfinished_event_and_a_byte_order_mark_are_left_out() {
        assert_eq!(parse("\u{FEFF}data: x\n\ndata: cut"), [event("message", "x", "")]);
        assert_eq!(parse("data: x\r\n\r\n"), [event("message", "x", "")]);
    }

    #[test]
    fn retry_is_milliseconds_in_digits_only() {
        let mut parser = SseParser::new(100);
        parser.push(b"retry: 1500\n").unwrap();
        assert_eq!(parser.take_retry(), Some(Duration::from_millis(1500)));
        parser.push(b"retry: 1.5\nretry:\nretry: -1\n").unwrap();
        assert_eq!(parser.take_retry(), None);
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let mut parser = SseParser::new(10);
        assert_eq!(parser.push(&[b'x'; 11]), Err(TooLong { limit: 10 }));
        let mut parser = SseParser::new(10);
        assert!(parser.push(b"data:1234\n").unwrap().is_empty());
        assert_eq!(parser.push(b"data:56789\n"), Err(TooLong { limit: 10 }));
    }

    proptest! {
        #[test]
        fn where_the_chunks_are_cut_and_how_lines_end_does_not_matter(
            cuts in prop::collection::vec(1usize..9, 1..40),
            ending in prop::sample::select(vec!["\n", "\r", "\r\n"]),
        ) {
            let lines = ["id: 1", "event: e", "data: ä", "data: b", "", ": heartbeat", "",
                "data: c", "id: 2", ""];
            let text: String = lines.iter().flat_map(|line| [*line, ending]).collect();
            let (mut parser, mut events) = (SseParser::new(100), Vec::new());
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, left) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                events.extend(parser.push(chunk).unwrap());
                rest = left;
            }
            prop_assert_eq!(events, [event("e", "ä\nb", "1"), event("message", "c", "2")]);
        }
    }
}
