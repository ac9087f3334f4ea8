//! Spans for publishing and handling, and the trace context that ties them together.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::trace_context::TraceContext;
use super::{AfterPublish, Disposition, Handling, Middleware, Publishing, Work};
use crate::error::Result;
use crate::handler::Outcome;
use crate::message::{Message, Receipt};
use crate::random::SplitMix;

/// Makes a `publish` span for each message that is published and a `process` span for each that
/// is handled, named and filled as OpenTelemetry's semantic conventions for messaging say, and
/// carries the W3C trace context in the headers `traceparent` and `tracestate`.
///
/// A message published inside a handler belongs to the trace of the message that is handled. One
/// published outside of any context begins a new trace, and so does a handled message without a
/// context. A message that carries a `traceparent` already, as a copy does, keeps it.
///
/// The stream is `messaging.destination.name`, the consumer `messaging.consumer.group.name`; what
/// the conventions have no name for is `bus.subject`, `bus.sequence` and `bus.attempt`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::middleware::{TraceContext, Tracing};
/// use bus::{Bus, Message, StreamConfig};
///
/// let bus = Bus::connect("embedded:").await?.with_middleware(Tracing::new());
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
///
/// // What a web framework has read from the request's headers, for example.
/// let request = TraceContext::root(42, 7, true).expect("no id is 0");
/// request.scope(orders.publish(Message::new("orders.created", "42")?)).await?;
///
/// let stored = orders.get(1).await?.expect("just published");
/// let context = TraceContext::from_headers(&stored.headers).expect("written by the middleware");
/// assert_eq!(context.trace_id(), 42, "the message belongs to the request's trace");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tracing {
    ids: Mutex<SplitMix>,
}

impl Tracing {
    /// With ids that start at a random point, another one in each process.
    pub fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(std::process::id()))
    }

    /// With ids that are the same on every run with this seed: for tests and simulations.
    pub fn seeded(seed: u64) -> Self {
        Self { ids: Mutex::new(SplitMix::new(seed)) }
    }

    /// The context of a new span below `parent`, or of a new trace.
    fn begin(&self, parent: Option<&TraceContext>) -> Option<TraceContext> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        // An id of 0 is forbidden, and comes once in 2^64: then there is no context this once.
        let span_id = ids.next();
        match parent {
            Some(parent) => parent.child(span_id),
            None => {
                let trace_id = (u128::from(ids.next()) << 64) | u128::from(ids.next());
                TraceContext::root(trace_id, span_id, true)
            }
        }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self::new()
    }
}

impl Middleware for Tracing {
    fn publish(&self, to: Publishing<'_>, message: &mut Message) -> Option<AfterPublish> {
        let carried = message.headers.values("traceparent").next().is_some();
        let (parent, context) = if carried {
            (None, TraceContext::from_headers(&message.headers))
        } else {
            let parent = TraceContext::current();
            let context = self.begin(parent.as_ref());
            if let Some(context) = &context {
                // Hex and dashes, and a state that was checked: no header rule is broken.
                let _ = context.write_to(&mut message.headers);
            }
            (parent, context)
        };
        let span = tracing::info_span!(
            "publish",
            otel.kind = "producer",
            messaging.system = system(to.backend),
            messaging.operation.name = "publish",
            messaging.operation.type = "send",
            messaging.destination.name = %to.stream,
            messaging.message.id = message.id.as_deref(),
            messaging.message.body.size = message.payload.as_ref().map_or(0, bytes::Bytes::len),
            bus.subject = %message.subject,
            bus.sequence = Empty,
            error.type = Empty,
            trace_id = Empty,
            span_id = Empty,
            parent_span_id = Empty,
        );
        name(&span, context.as_ref(), parent.as_ref());
        Some(Box::new(move |result: &Result<Receipt>| {
            match result {
                Ok(receipt) => span.record("bus.sequence", receipt.sequence),
                Err(error) => span.record("error.type", tracing::field::debug(error.kind())),
            };
        }))
    }

    fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
        let message = &work.received.message;
        let parent = TraceContext::from_headers(&message.headers);
        let context = self.begin(parent.as_ref());
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.system = system(work.backend),
            messaging.operation.name = "process",
            messaging.operation.type = "process",
            messaging.destination.name = %work.stream,
            messaging.consumer.group.name = %work.consumer,
            messaging.message.body.size = message.payload.as_ref().map_or(0, bytes::Bytes::len),
            bus.subject = %message.subject,
            bus.sequence = message.sequence,
            bus.attempt = work.received.attempt,
            bus.outcome = Empty,
            error.type = Empty,
            trace_id = Empty,
            span_id = Empty,
            parent_span_id = Empty,
        );
        name(&span, context.as_ref(), parent.as_ref());
        let recorded = span.clone();
        let handled = async move {
            let outcome = match context {
                Some(context) => context.scope(next).await,
                None => next.await,
            };
            match &outcome {
                Ok(outcome) => recorded.record("bus.outcome", word(outcome)),
                Err(_) => recorded.record("error.type", "handler"),
            };
            outcome
        };
        Box::pin(handled.instrument(span))
    }

    fn settled(&self, work: &Work, how: Disposition) {
        let sequence = work.received.message.sequence;
        tracing::debug!(stream = %work.stream, consumer = %work.consumer, sequence, ?how, "settled");
    }
}

/// The backend as OpenTelemetry writes systems: `nats`, `kafka`, `embedded`.
fn system(backend: &'static str) -> &'static str {
    backend.trim_end_matches(['/', ':'])
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ack | Outcome::AckAnd(_) => "ack",
        Outcome::Retry(_) => "retry",
        Outcome::Reject(_) => "reject",
    }
}

/// Puts the ids on the span, as logs name them.
fn name(span: &Span, context: Option<&TraceContext>, parent: Option<&TraceContext>) {
    // Nobody listens: nothing to write down.
    if span.is_disabled() {
        return;
    }
    if let Some(context) = context {
        span.record("trace_id", format!("{:032x}", context.trace_id()));
        span.record("span_id", format!("{:016x}", context.span_id()));
    }
    if let Some(parent) = parent {
        span.record("parent_span_id", format!("{:016x}", parent.span_id()));
    }
}
