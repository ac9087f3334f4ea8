//! The fence and the final queues behind it.

use bus::{ConsumerConfig, Error, ErrorKind, Start};

use crate::limits::MAX_UNSETTLED;
use crate::model::{Fence, Incarnation, Realm, Subscription, TopicSet, names};
use crate::store::Store;

/// The last sequence of every realm that the topics include, as it is now. A realm that is made
/// later is not in it: the dispatcher sees it and has it joined at 0.
pub(super) async fn capture_fence(store: &Store, topics: &TopicSet) -> Result<Fence, Error> {
    let mut fence = Fence::new();
    for realm in store.realms().await? {
        if topics.includes_realm(&realm) {
            let last = store.log(&realm).await?.info().await?.last_sequence;
            fence.insert(realm, last);
        }
    }
    Ok(fence)
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
    for realm in realms {
        report(of, remove_final_queue(store, of, realm).await);
    }
    report(of, remove_prefill(store, of).await);
    report(of, remove_settled(store, of).await);
}

/// Forgets what is settled of all queues of one incarnation; they must be gone.
pub(crate) async fn remove_settled(store: &Store, of: &Incarnation) -> Result<(), Error> {
    for key in store.settled.keys(&names::settled_filter(of)).await? {
        store.settled.delete(&key, None).await?;
    }
    Ok(())
}

async fn remove_final_queue(store: &Store, of: &Incarnation, realm: &Realm) -> Result<(), Error> {
    let (log, queue) = (names::log_stream(realm)?, names::final_queue(of)?);
    missing_is_fine(store.bus().delete_consumer(log, queue).await)
}

/// Removes the prefill queue of one incarnation and what of it is settled; the cursor goes last, because as long as it is
/// there the dispatcher tries again.
pub(crate) async fn remove_prefill(store: &Store, of: &Incarnation) -> Result<(), Error> {
    let queue = names::prefill_queue(of)?;
    missing_is_fine(store.bus().delete_consumer(names::PREFILL_STREAM, queue).await)?;
    store.prefill.purge(&names::prefill_filter(of)?).await?;
    store.settled.delete(names::settled_prefill_key(of), None).await?;
    store.cursors.delete(names::cursor_key(of), None).await
}

fn missing_is_fine(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn report(of: &Incarnation, done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(incarnation = %of, %error, "not removed, the dispatcher will try again");
    }
}
