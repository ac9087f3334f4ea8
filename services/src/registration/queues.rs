//! The fence, and what goes with an incarnation.

use bus::Error;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::model::{Fence, Incarnation, Realm, TopicSet};
use crate::store::Store;

/// Logs that are looked at at once.
const AT_ONCE: usize = 16;

/// The last sequence of every realm that the topics include, as it is now. A realm that is made
/// later is not in it: the dispatcher sees it and has it joined at 0.
pub(super) async fn capture_fence(store: &Store, topics: &TopicSet) -> Result<Fence, Error> {
    let realms = match topics.names_every_realm() {
        true => topics.named_realms(),
        false => store.realms().await?,
    };
    let included = realms.into_iter().filter(|realm| topics.includes_realm(realm));
    let looks: Vec<_> = included.map(|realm| look(store, realm)).collect();
    let ends: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(ends.into_iter().flatten().collect())
}

async fn look(store: &Store, realm: Realm) -> Result<Option<(Realm, u64)>, Error> {
    Ok(store.last_sequence(&realm).await?.map(|last| (realm, last)))
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
