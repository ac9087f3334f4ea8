//! Layers around a call that can fail: deadline, bulkhead, circuit breaker, retry.
//!
//! They are [`tower`] layers, so that they go around any [`tower::Service`] and mix with tower's
//! own. From the outside in:
//!
//! | Layer | What it bounds | Whose |
//! |---|---|---|
//! | [`Deadline`] | the whole call, waiting and retries included | here: tower's time-out does not count the wait for a place |
//! | [`Bulkhead`] | calls at once, and the wait for a place | here: tower's limit waits without a bound |
//! | [`BreakerLayer`] | calls to a dependency that fails or is slow | here: tower has none |
//! | [`Retry`] | attempts, and retries over all calls ([`RetryBudget`]) | tower's, with a policy from here |
//! | [`tower::timeout::TimeoutLayer`] | one attempt | tower's |
//!
//! A [`Breaker`] is also of use without a service: [`Breaker::acquire`] waits until a call is let
//! through, which is how a consumer stops pulling work that it could not do.
//!
//! ```
//! use std::time::Duration;
//!
//! use lockgate_resilience::{
//!     BoxError, Breaker, BreakerConfig, BreakerLayer, Bulkhead, Deadline, Retry, RetryBudget,
//!     RetryConfig, is_refused,
//! };
//! use tower::{ServiceBuilder, ServiceExt, service_fn, timeout::TimeoutLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let breaker = Breaker::new(BreakerConfig { minimum_calls: 2, window: 2, ..Default::default() });
//! let call = ServiceBuilder::new()
//!     .layer(Deadline::new(Duration::from_secs(5)))
//!     .layer(Bulkhead::new(16, Duration::from_secs(1)))
//!     .layer(BreakerLayer::new(breaker.clone()))
//!     .layer(Retry::layer(RetryConfig::default(), Some(RetryBudget::new(0.1, 2)), |_| true)?)
//!     .layer(TimeoutLayer::new(Duration::from_secs(1)))
//!     .service(service_fn(|_: u32| async { Err::<u32, BoxError>("no route".into()) }));
//!
//! for _ in 0..2 {
//!     assert_eq!(call.clone().oneshot(7).await.unwrap_err().to_string(), "no route");
//! }
//! let refused = call.oneshot(7).await.unwrap_err();
//! assert!(is_refused(&refused), "the breaker is open: nothing was sent");
//! # Ok(())
//! # }
//! ```

mod breaker;
mod bulkhead;
mod deadline;
mod layer;
mod machine;
mod retry;
mod window;

pub use breaker::{Breaker, Permit, Refused, Snapshot, Transition, is_refused};
pub use bulkhead::{Bulkhead, BulkheadFull, BulkheadService};
pub use deadline::{Deadline, DeadlinePassed, DeadlineService};
pub use layer::{BreakerLayer, BreakerService};
pub use machine::{BreakerConfig, State};
pub use retry::{Retry, RetryBudget, RetryConfig};

/// What a layered call fails with: the inner service's own error, or that of the layer that ended
/// the call.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
