//! A bound on calls at once.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

use crate::BoxError;

/// Lets at most so many calls be at work at once, over all clones of the service, so that one slow
/// dependency cannot hold everything its caller has. A call waits for a place, in the order of
/// arrival, and not for ever.
#[derive(Debug, Clone)]
pub struct Bulkhead {
    places: Arc<Semaphore>,
    wait: Duration,
}

impl Bulkhead {
    /// `calls` places, each waited for at most `wait`; with [`Duration::ZERO`] a call that finds
    /// none fails at once.
    pub fn new(calls: usize, wait: Duration) -> Self {
        let calls = calls.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(calls)), wait }
    }
}

/// There was no place in time: nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("too many calls are at work and nothing was sent: try again in a moment")]
pub struct BulkheadFull;

impl<S> Layer<S> for Bulkhead {
    type Service = BulkheadService<S>;

    fn layer(&self, inner: S) -> BulkheadService<S> {
        BulkheadService { inner, bulkhead: self.clone() }
    }
}

/// A service with a bound on its calls: see [`Bulkhead`].
#[derive(Debug, Clone)]
pub struct BulkheadService<S> {
    inner: S,
    bulkhead: Bulkhead,
}

impl<S, Request> Service<Request> for BulkheadService<S>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    Request: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (inner, Bulkhead { places, wait }) = (self.inner.clone(), self.bulkhead.clone());
        async move {
            let place = match places.clone().try_acquire_owned() {
                Ok(place) => place,
                Err(_) if wait.is_zero() => return Err(BulkheadFull.into()),
                Err(_) => match tokio::time::timeout(wait, places.acquire_owned()).await {
                    Ok(Ok(place)) => place,
                    _ => return Err(BulkheadFull.into()),
                },
            };
            let answer = inner.oneshot(request).await.map_err(Into::into);
            drop(place);
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tower::service_fn;

    use super::*;

    async fn run(calls: usize, wait: Duration) -> (usize, usize) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (at_work, peak) = (now.clone(), most.clone());
        let work = service_fn(move |()| {
            let (at_work, peak) = (at_work.clone(), peak.clone());
            async move {
                peak.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), BoxError>(())
            }
        });
        let service = Bulkhead::new(3, wait).layer(work);
        let ended = join_all((0..calls).map(|_| service.clone().oneshot(()))).await;
        (most.load(Ordering::SeqCst), ended.iter().filter(|ended| ended.is_ok()).count())
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_its_places_are_at_work_and_who_waits_too_long_is_told() {
        assert_eq!(run(10, Duration::from_secs(60)).await, (3, 10));
        assert_eq!(run(10, Duration::from_millis(1500)).await, (3, 6));
        assert_eq!(run(10, Duration::ZERO).await, (3, 3));
    }
}
