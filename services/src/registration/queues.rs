//! The fence and the final queues behind it.

use bus::{ConsumerConfig, Error, Start};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::limits::{BUS_WINDOW, MAX_UNSETTLED};
use crate::model::{Fence, Incarnation, Realm, Subscription, TopicSet, names};
use crate::store::Store;

/// The last sequence of every realm that the topics include, as it is now. A realm that is made
/// later is not in it: the dispatcher sees it and has it joined at 0.
pub(super) async fn capture_fence(store: &Store, topics: &TopicSet) -> Result<Fence, Error> {
    let mut realms = store.realms().await?;
    realms.retain(|realm| topics.includes_realm(realm));
    let captured = stream::iter(realms).map(|realm| async move {
        let last = store.log_info(&realm).await?.last_sequence;
        Ok::<_, Error>((realm, last))
    });
    captured.buffer_unordered(BUS_WINDOW).try_collect().await
}

/// How the final queue of a subscription on a realm's log is declared: a filtered durable
/// consumer that starts right after the fence.
pub(crate) fn final_queue(
    subscription: &Subscription,
    realm: &Realm,
    fence: u64,
) -> Result<ConsumerConfig, Error> {
    let name = names::final_queue(&subscription.incarnation)?;
    Ok(ConsumerConfig {
        filters: subscription.topics.filters(realm),
        start: Start::Sequence(fence + 1),
        ack_wait: subscription.ack_wait,
        max_unsettled: MAX_UNSETTLED,
        metadata: [(String::from("subscription"), subscription.name().to_string())].into(),
        ..ConsumerConfig::new(name)
    })
}

/// Creates the final queue on every realm of the fence.
pub(super) async fn create_final_queues(
    store: &Store,
    subscription: &Subscription,
) -> Result<(), Error> {
    for (realm, fence) in &subscription.fence {
        let config = final_queue(subscription, realm, *fence)?;
        store.bus().ensure_consumer(names::log_stream(realm)?, &config).await?;
    }
    Ok(())
}

/// Removes everything that is kept for one incarnation: its final queues, its prefill queue with
/// all rows, its cursor, and what of them is settled. What is gone already is no error. What fails is left to the dispatcher,
/// which knows no record for it, and is only reported.
pub(crate) async fn remove_incarnation<'a>(
    store: &Store,
    of: &Incarnation,
    realms: impl Iterator<Item = &'a Realm>,
) {
    let remove = |realm| async move { report(of, store.remove_final_queue(of, realm).await) };
    stream::iter(realms).for_each_concurrent(BUS_WINDOW, remove).await;
    report(of, store.remove_prefill(of).await);
    report(of, store.remove_settled(of).await);
}

fn report(of: &Incarnation, done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(incarnation = %of, %error, "not removed, the dispatcher will try again");
    }
}
