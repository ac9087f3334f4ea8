//! The fence, and what goes with an incarnation.

use bus::Error;

use crate::model::{Fence, Incarnation, TopicSet};
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

/// Removes everything that is kept for one incarnation: its prefill queue with all rows, its
/// cursor and its hand-out journals. What is gone already is no error. What fails is left to the
/// dispatcher, which knows no record for it, and is only reported.
pub(crate) async fn remove_incarnation(store: &Store, of: &Incarnation) {
    report(of, store.remove_prefill(of).await);
    report(of, store.remove_journals(of).await);
}

fn report(of: &Incarnation, done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(incarnation = %of, %error, "not removed, the dispatcher will try again");
    }
}
