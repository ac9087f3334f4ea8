//! Following a topic in a group.

use std::future::Future;
use std::time::Duration;

use bus::{Backoff, HandlerError, Jitter, Outcome};
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::topic::Topic;
use super::topology::DEAD_LETTERS;
use crate::flow::{Context, Failure};

/// Messages of one topic at work at once.
const AT_WORK: usize = 32;

/// Gives every event of the topic to `handler` until `shutdown`, shared with all who follow it in
/// the same group. An event that fails comes again after a pause, for as long as it takes; one
/// that can never be handled is parked with its reason. What is handled counts for the group.
pub(super) async fn follow<H, F>(
    context: Context,
    (topic, group): (Topic, &'static str),
    ack_wait: Duration,
    shutdown: CancellationToken,
    handler: H,
) -> Result<(), Failure>
where
    H: Fn(Event) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Outcome, HandlerError>> + Send + 'static,
{
    let pauses = Backoff::exponential(Duration::from_millis(200)).cap(Duration::from_secs(30));
    let (handler, handled) = (std::sync::Arc::new(handler), context.counter(group));
    context
        .bus
        .consumer(topic.name(), group)
        .ack_wait(ack_wait)
        .max_in_flight(AT_WORK)
        .retry(pauses.jitter(Jitter::Equal))
        .dead_letters(DEAD_LETTERS)
        .run(shutdown, move |event: Event| {
            let (handler, handled) = (handler.clone(), handled.clone());
            async move {
                if event.topic != topic {
                    let kind = event.topic.name();
                    return Ok(Outcome::Reject(format!(
                        "it is an event of {kind}, not of this topic"
                    )));
                }
                let outcome = handler(event).await?;
                handled.add(1);
                Ok(outcome)
            }
        })
        .await?;
    Ok(())
}
