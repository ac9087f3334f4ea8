//! How long a client may take to take what it is sent.
//!
//! The body of an answer is asked for its next part only when the connection has room for it, so a
//! body cannot notice by itself that its client has stopped reading, nor that its own time is up.
//! The connection can.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// A connection whose client must take something now and then: a write that waits for room for
/// longer than `limit` fails with [`io::ErrorKind::TimedOut`].
pub(crate) struct Patient<S> {
    stream: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None }
    }

    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        let what = format!("the client took nothing for {limit:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// When a connection is closed although its answer is not at its end. It stands among the
/// extensions of each request of the connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Deadline(Arc<watch::Sender<Option<Instant>>>);

/// Lifts the deadline when it is dropped, which belongs to the end of the answer.
#[derive(Debug)]
pub(crate) struct Due(Deadline);

impl Deadline {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Has the connection closed at `at`, unless what this returns is dropped before.
    pub(crate) fn set(&self, at: Instant) -> Due {
        self.0.send_replace(Some(at));
        Due(self.clone())
    }

    /// Waits until a deadline has passed.
    pub(super) async fn passed(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let at = *changes.borrow_and_update();
            let due = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { biased;
                // The sender is held by this.
                _ = changes.changed() => {}
                () = due => return,
            }
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (ours, mut theirs) = duplex(10);
        let mut patient = Patient::new(ours, LIMIT);
        let writing = tokio::spawn(async move {
            for _ in 0..5 {
                patient.write_all(&[0; 10]).await?;
            }
            let started = Instant::now();
            let ended = patient.write_all(&[0; 10]).await;
            assert_eq!(started.elapsed(), LIMIT);
            ended
        });
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            theirs.read_exact(&mut [0; 10]).await.unwrap();
        }
        let ended = writing.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_holds_until_it_is_lifted() {
        let deadline = Deadline::none();
        let second = Duration::from_secs(1);
        drop(deadline.set(Instant::now() + second));
        let lifted = tokio::time::timeout(10 * second, deadline.passed()).await;
        assert!(lifted.is_err(), "it was lifted");
        let passed = tokio::spawn({
            let deadline = deadline.clone();
            async move { deadline.passed().await }
        });
        let _due = deadline.set(Instant::now() + second);
        passed.await.unwrap();
    }
}
