//! How far queue mode is with the log of each realm.

use std::collections::BTreeMap;

use bus::{Error, SubjectFilter};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::model::{Realm, Subscription, names};
use crate::store::Store;
use crate::store::journal::{Journal, Stamp};

/// The figures of one realm.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Queue {
    pub(super) realm: Realm,
    /// Events that match and that were not handed out yet.
    pub(super) pending: u64,
    /// Events that were handed out and are not settled.
    pub(super) unsettled: u64,
    /// The highest sequence that was handed out.
    delivered_sequence: u64,
    /// Nothing before this sequence is still to be settled.
    #[serde(skip)]
    pub(super) first_unsettled: u64,
}

/// A realm, filters on its log, and the sequence after which is counted.
type Asked = (Realm, Vec<SubjectFilter>, u64);

/// Reads and counts, for any number of subscriptions at once.
pub(super) struct Figures<'a> {
    store: &'a Store,
    counted: Mutex<BTreeMap<Asked, Option<u64>>>,
}

impl<'a> Figures<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, counted: Mutex::default() }
    }

    /// The figures of a subscription, realm by realm. One whose log is being removed is left out.
    pub(super) async fn of(&self, subscription: &Subscription) -> Result<Vec<Queue>, Error> {
        let mut queues = Vec::with_capacity(subscription.fence.len());
        for (realm, fence) in &subscription.fence {
            let journal = self.store.live_journal(&subscription.incarnation, realm).await?;
            let journal = journal.unwrap_or_else(|| Journal::starting_at(*fence, Stamp::default()));
            let (head, unsettled) = (journal.head, journal.open.len() as u64);
            let filters = subscription.topics.filters(realm);
            if let Some(behind) = self.count(realm, filters, head).await? {
                queues.push(Queue {
                    realm: realm.clone(),
                    pending: behind + journal.passed_over(),
                    unsettled,
                    delivered_sequence: head,
                    first_unsettled: journal.first_unsettled(),
                });
            }
        }
        Ok(queues)
    }

    /// The same, if the subscription was ever read as a queue: its prefill counts.
    pub(super) async fn of_used(
        &self,
        subscription: &Subscription,
    ) -> Result<Option<Vec<Queue>>, Error> {
        let journals = names::journal_filter(&subscription.incarnation);
        match self.store.journal.keys(&journals).await?.is_empty() {
            true => Ok(None),
            false => self.of(subscription).await.map(Some),
        }
    }

    async fn count(
        &self,
        realm: &Realm,
        filters: Vec<SubjectFilter>,
        after: u64,
    ) -> Result<Option<u64>, Error> {
        let key = (realm.clone(), filters, after);
        // Held while counting, so that what is asked for twice at once is counted once.
        let mut counted = self.counted.lock().await;
        if let Some(known) = counted.get(&key) {
            return Ok(*known);
        }
        let count = async { self.store.log(realm).await?.count(&key.1, after).await };
        let count = match count.await {
            Ok(count) => Some(count),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        counted.insert(key, count);
        Ok(count)
    }
}
