//! The fence: where in the logs a subscription begins, and what else goes with its incarnation.

use bus::Error;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::model::{Fence, History, Incarnation, Mark, Marks, Realm, Subscription, TopicSet};
use crate::store::Store;

/// Logs that are looked at at once.
const AT_ONCE: usize = 16;

/// The newest place in the log of every realm that the topics include, as it is now. A realm that
/// is made later, or whose log is gone, is not in it: the dispatcher sees it and has it joined
/// at 0.
pub(super) async fn capture_marks(store: &Store, topics: &TopicSet) -> Result<Marks, Error> {
    let realms = match topics.names_every_realm() {
        true => topics.named_realms(),
        false => store.realms().await?,
    };
    let included = realms.into_iter().filter(|realm| topics.includes_realm(realm));
    let looks: Vec<_> = included.map(|realm| look(store, realm)).collect();
    let ends: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(ends.into_iter().flatten().collect())
}

async fn look(store: &Store, realm: Realm) -> Result<Option<(Realm, Mark)>, Error> {
    match store.head_mark(&realm).await {
        Err(_) if store.log_is_missing(&realm).await? => Ok(None),
        head => head.map(|mark| Some((realm, mark))),
    }
}

/// The places at which a subscription without prefill goes on after a log was changed under it.
/// Nothing can rebuild what it would miss, so it rather gets events again: the logs that are what
/// they were it reads on from the fence, the others behind everything that they took before it.
/// Where it is known up to where one realm was `read`, that counts in the fence's place.
pub(super) async fn resume_marks(
    store: &Store,
    old: &Subscription,
    realm: &Realm,
    read: Option<&Mark>,
) -> Result<Marks, Error> {
    let mut marks = old.fence_marks();
    if let (Some(fence), Some(read)) = (marks.get_mut(realm), read)
        && let History::Changed { .. } = store.check_mark(realm, read).await?
    {
        *fence = *read;
    }
    for (realm, mark) in &mut marks {
        match store.check_mark(realm, mark).await? {
            History::Same => {}
            History::Changed { .. } => {
                *mark = store.resume_mark(realm, mark, old.created_ms).await?;
            }
            History::Purged { first_sequence } => {
                *mark = Mark::bare(first_sequence - 1).in_life(store.life(realm).await?);
            }
        }
    }
    Ok(marks)
}

/// The sequences of places.
pub(super) fn fence_of(marks: &Marks) -> Fence {
    marks.iter().map(|(realm, mark)| (realm.clone(), mark.sequence)).collect()
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
