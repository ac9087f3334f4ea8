//! When something arrived that was waited for, which may be long before who waits gets to it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::time::Instant;

/// Notes when it was woken first, and passes it on.
struct Noting {
    woken: Mutex<Option<Instant>>,
    inner: Waker,
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.get_or_insert_with(Instant::now);
        drop(woken);
        self.inner.wake_by_ref();
    }
}

/// What `wanted` gives, and a time not after its arrival: `since` where it was here already, and
/// otherwise the moment at which it woke who waits.
pub(super) async fn noted<T>(wanted: impl Future<Output = T>, since: Instant) -> (T, Instant) {
    let mut wanted = pin!(wanted);
    let mut waited: Option<Arc<Noting>> = None;
    poll_fn(|cx| {
        let noting = Arc::new(Noting { woken: Mutex::default(), inner: cx.waker().clone() });
        let waker = Waker::from(noting.clone());
        match wanted.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                waited = Some(noting);
                Poll::Pending
            }
            Poll::Ready(given) => {
                let woken = waited.take().map(|waited| {
                    let woken = *waited.woken.lock().unwrap_or_else(PoisonError::into_inner);
                    woken.unwrap_or_else(Instant::now)
                });
                Poll::Ready((given, woken.unwrap_or(since)))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_arrival_is_when_it_came_and_not_when_it_was_looked_at() {
        let (start, later) = (Instant::now(), Duration::from_secs(3));
        let (send, receive) = oneshot::channel();
        let mut waiting = pin!(noted(receive, start));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        tokio::time::advance(later).await;
        send.send(7).unwrap();
        tokio::time::advance(later).await;
        assert_eq!(waiting.await, (Ok(7), start + later));

        let (send, receive) = oneshot::channel();
        send.send(8).unwrap();
        tokio::time::advance(later).await;
        assert_eq!(noted(receive, start).await, (Ok(8), start), "it was here");
    }
}
