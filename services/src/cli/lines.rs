//! Lines of a file or a pipe, none longer than an event may be.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::failure::Failure;

/// More than the largest event that a server takes.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;

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

    /// The next line without its end.
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
        String::from_utf8(line).map(Some).map_err(|_| self.wrong("is not UTF-8"))
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
}
