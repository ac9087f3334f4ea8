//! An end to a call, whatever it waits for.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt};

use crate::BoxError;

/// Gives a call this long, the wait until the inner service is ready included. tower's own time-out
/// begins only then. A call whose time is over is dropped: it may have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
}

impl Deadline {
    /// A deadline of `limit` for each call.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

/// The time of the call was over: it may have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {limit:?}, and the call may have happened: repeat it with the same id")]
pub struct DeadlinePassed {
    /// How long it was given.
    pub limit: Duration,
}

impl<S> Layer<S> for Deadline {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner, limit: self.limit }
    }
}

/// A service whose calls end in time: see [`Deadline`].
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
    limit: Duration,
}

impl<S, Request> Service<Request> for DeadlineService<S>
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
        let (inner, limit) = (self.inner.clone(), self.limit);
        async move {
            match tokio::time::timeout(limit, inner.oneshot(request)).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(DeadlinePassed { limit }.into()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, service_fn};

    use super::*;
    use crate::Bulkhead;

    #[tokio::test(start_paused = true)]
    async fn it_counts_the_wait_for_a_place_too() {
        let limit = Duration::from_secs(2);
        let call = ServiceBuilder::new()
            .layer(Deadline::new(limit))
            .layer(Bulkhead::new(1, Duration::from_secs(60)))
            .service(service_fn(|()| std::future::pending::<Result<(), BoxError>>()));
        let begin = tokio::time::Instant::now();
        let (first, second) = tokio::join!(call.clone().oneshot(()), call.oneshot(()));
        for ended in [first, second] {
            let error = ended.unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&DeadlinePassed { limit }));
        }
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}
