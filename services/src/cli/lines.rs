//! Lines of a file or a pipe, whichever system wrote it, none longer than a request may be.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::failure::Failure;
use crate::limits::MAX_BODY_BYTES;

/// No server takes more at once.
pub(super) const MAX_LINE_BYTES: usize = MAX_BODY_BYTES;

/// What some systems put in front of UTF-8.
const BYTE_ORDER_MARK: char = '\u{FEFF}';

/// Text without the byte order mark that some systems begin it with.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, &'static str> {
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            if text.starts_with(BYTE_ORDER_MARK) {
                text.remove(0);
            }
            Ok(text)
        }
        Err(error) if error.as_bytes().starts_with(&[0xFF, 0xFE]) => Err("UTF-16, not UTF-8"),
        Err(error) if error.as_bytes().starts_with(&[0xFE, 0xFF]) => Err("UTF-16, not UTF-8"),
        Err(_) => Err("not UTF-8"),
    }
}

/// Reads line by line and counts.
pub(super) struct Lines<R> {
    from: BufReader<R>,
    number: u64,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Before the first line.
    pub(super) fn new(from: R) -> Self {
        Self { from: BufReader::new(from), number: 0, bytes: 0 }
    }

    /// The number of the line last returned, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line without its end, and the first without a byte order mark.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.from).take(MAX_LINE_BYTES as u64 + 1);
        let read = bounded.read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        if read > MAX_LINE_BYTES {
            return Err(self.wrong(&format!("has more than {MAX_LINE_BYTES} bytes")));
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        match (self.number, text(line)) {
            (_, Ok(line)) => Ok(Some(line)),
            (1, Err(what)) => Err(self.wrong(&format!("is {what}: save the file as UTF-8"))),
            (_, Err(what)) => Err(self.wrong(&format!("is {what}"))),
        }
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::new(format!("line {} {what}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_counted_and_bounded() {
        let mut lines = Lines::new(&b"a\r\n\nlast"[..]);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        assert_eq!(read, ["a", "", "last"]);
        assert_eq!((lines.number(), lines.bytes()), (3, 8));

        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert!(Lines::new(&long[..]).next().await.is_err());
        assert!(Lines::new(&long[1..]).next().await.unwrap().is_some());
        assert!(Lines::new(&b"\xff\n"[..]).next().await.is_err());
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_no_content_and_another_encoding_is_said() {
        let mut lines = Lines::new("\u{FEFF}{}\r\n".as_bytes());
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("{}"));
        assert_eq!(lines.next().await.unwrap(), None);
        let wrong = Lines::new(&b"\xff\xfe{\0}\0\r\0\n\0"[..]).next().await.unwrap_err();
        assert!(format!("{wrong:?}").contains("line 1 is UTF-16, not UTF-8"), "{wrong:?}");
        assert_eq!(text("\u{FEFF}\u{FEFF}x".into()), Ok("\u{FEFF}x".to_owned()));
    }
}
