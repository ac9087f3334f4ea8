//! The breaker around a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt};

use crate::BoxError;
use crate::breaker::Breaker;

type Counts = Arc<dyn Fn(&BoxError) -> bool + Send + Sync>;

/// Puts a [`Breaker`] around a service. A refused call fails with [`crate::Refused`] at once; who
/// would rather wait calls [`Breaker::ready`] first.
#[derive(Clone)]
pub struct BreakerLayer {
    breaker: Breaker,
    counts: Counts,
}

impl BreakerLayer {
    /// Every error counts as a failure.
    pub fn new(breaker: Breaker) -> Self {
        Self::counting(breaker, |_| true)
    }

    /// Only errors for which `counts` is true are failures of the dependency; the others are
    /// answers, and count as calls that went well.
    pub fn counting(
        breaker: Breaker,
        counts: impl Fn(&BoxError) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { breaker, counts: Arc::new(counts) }
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        BreakerService { inner, layer: self.clone() }
    }
}

/// A service behind a breaker: see [`BreakerLayer`].
#[derive(Clone)]
pub struct BreakerService<S> {
    inner: S,
    layer: BreakerLayer,
}

impl<S, Request> Service<Request> for BreakerService<S>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
    S::Response: Send,
    Request: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    /// Always: whether the call is let through is decided when it is made.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (inner, BreakerLayer { breaker, counts }) = (self.inner.clone(), self.layer.clone());
        async move {
            let permit = breaker.try_acquire()?;
            let answer = inner.oneshot(request).await.map_err(Into::into);
            match &answer {
                Err(error) if counts(error) => permit.failed(),
                _ => permit.succeeded(),
            }
            answer
        }
        .boxed()
    }
}
