//! Noticing that a log is not the one that a subscription's place in it was taken on, also for
//! subscriptions that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Error, ErrorKind};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::model::{History, Incarnation, Mark, Realm, Subscription};
use crate::store::Store;
use crate::work::{Report, send_report};

/// How often the logs are looked at.
const INTERVAL: Duration = Duration::from_secs(15);
/// Places looked up side by side, and at most in one look at a log.
const AT_ONCE: usize = 32;
const PLACES: usize = 1024;

/// The places in the records, and what was found of them: a look costs two requests for each realm
/// and two for each place that is new, however many subscriptions there are.
#[derive(Debug, Default)]
pub(super) struct Histories(BTreeMap<Realm, Places>);

/// The places in one realm's log.
#[derive(Debug, Default)]
struct Places {
    /// The log's newest place as of the last look.
    head: Option<Mark>,
    holders: BTreeMap<Mark, BTreeSet<Incarnation>>,
    /// Places that were not found to be those of this log.
    unseen: BTreeSet<Mark>,
}

impl Histories {
    /// Takes in the places of a record.
    pub(super) fn add(&mut self, subscription: &Subscription) {
        for realm in subscription.fence.keys() {
            let mark = subscription.mark(realm);
            let places = self.0.entry(realm.clone()).or_default();
            let holders = places.holders.entry(mark).or_default();
            if holders.is_empty() {
                places.unseen.insert(mark);
            }
            holders.insert(subscription.incarnation.clone());
        }
    }

    /// Forgets the places of a record.
    pub(super) fn remove(&mut self, subscription: &Subscription) {
        for realm in subscription.fence.keys() {
            let Some(places) = self.0.get_mut(realm) else { continue };
            let mark = subscription.mark(realm);
            if let Some(holders) = places.holders.get_mut(&mark) {
                holders.remove(&subscription.incarnation);
                if holders.is_empty() {
                    places.holders.remove(&mark);
                    places.unseen.remove(&mark);
                }
            }
            if places.holders.is_empty() {
                self.0.remove(realm);
            }
        }
    }

    /// Holds the places in the records against the logs, and reports each that is not what it was.
    /// Returns when to look again. A log that cannot be looked at is left to the next look: while
    /// it is not there nothing is missed.
    pub(super) async fn look(&mut self, store: &Store) -> Instant {
        let mut done = true;
        for (realm, places) in &mut self.0 {
            match places.look(store, realm).await {
                Ok(all) => done &= all,
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::debug!(%realm, %error, "its history is looked at later");
                }
                Err(error) => {
                    tracing::warn!(%realm, %error, "its history is looked at later");
                }
            }
        }
        if done { Instant::now() + INTERVAL } else { Instant::now() }
    }
}

impl Places {
    /// False when there are places left to look at.
    async fn look(&mut self, store: &Store, realm: &Realm) -> Result<bool, Error> {
        // The head is taken before the places are looked at: what changes meanwhile is before it,
        // and so is noticed next time.
        let head = match &self.head {
            Some(head) => {
                let (history, moved) = store.check_and_move(realm, head).await?;
                if history != History::Same {
                    self.unseen = self.holders.keys().copied().collect();
                }
                moved
            }
            None => store.head_mark(realm).await?,
        };
        let all = self.unseen.len() <= PLACES;
        let new: Vec<Mark> = self.unseen.iter().take(PLACES).copied().collect();
        let looks: Vec<_> = new
            .into_iter()
            .map(|mark| async move { (mark, store.check_mark(realm, &mark).await) })
            .collect();
        let mut looked = stream::iter(looks).buffered(AT_ONCE);
        let mut changed = false;
        while let Some((mark, history)) = looked.next().await {
            match history? {
                // What was removed behind a place is for those to tell who stand there still.
                History::Same | History::Purged { .. } => {
                    self.unseen.remove(&mark);
                }
                History::Changed { why } => {
                    changed = true;
                    for of in self.holders.get(&mark).into_iter().flatten() {
                        report(store, of, realm, &why).await?;
                    }
                }
            }
        }
        self.head = Some(head);
        // Those that were reported get another place, and are not looked at again at once.
        Ok(changed || all)
    }
}

async fn report(store: &Store, of: &Incarnation, realm: &Realm, why: &str) -> Result<(), Error> {
    tracing::warn!(incarnation = %of, %realm, why, "the log's history has changed");
    let (of, realm, why) = (of.clone(), realm.clone(), why.to_owned());
    send_report(store, &Report::HistoryChanged { of, realm, why, mark: None }).await
}
