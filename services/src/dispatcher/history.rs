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

/// What was found to be in order, so that a look costs two requests for each realm and one or two
/// for each place that is new.
#[derive(Default)]
pub(super) struct Histories(BTreeMap<Realm, Seen>);

/// A realm's log as of the last look.
struct Seen {
    head: Mark,
    /// Places before the head that are those of this log.
    good: BTreeSet<Mark>,
}

/// Who holds each place in a realm's log.
type Places<'a> = BTreeMap<Mark, Vec<&'a Incarnation>>;

impl Histories {
    /// Holds the places in the records against the logs, and reports each that is not what it was.
    /// Returns when to look again. A log that cannot be looked at is left to the next look: while
    /// it is not there nothing is missed.
    pub(super) async fn look<'a>(
        &mut self,
        store: &Store,
        records: impl Iterator<Item = &'a Subscription>,
    ) -> Instant {
        let mut by_realm: BTreeMap<&Realm, Places<'_>> = BTreeMap::new();
        for subscription in records {
            for realm in subscription.fence.keys() {
                let places = by_realm.entry(realm).or_default();
                let holders = places.entry(subscription.mark(realm)).or_default();
                holders.push(&subscription.incarnation);
            }
        }
        self.0.retain(|realm, _| by_realm.contains_key(realm));
        let mut done = true;
        for (realm, places) in by_realm {
            match self.look_at(store, realm, &places).await {
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

    /// False when there are places left to look at.
    async fn look_at(
        &mut self,
        store: &Store,
        realm: &Realm,
        places: &Places<'_>,
    ) -> Result<bool, Error> {
        // The head is taken before the places are looked at: what changes meanwhile is before it,
        // and so is noticed next time.
        let (mut good, head) = match self.0.remove(realm) {
            Some(Seen { head, good }) => match store.check_and_move(realm, &head).await? {
                (History::Same, head) => (good, head),
                (_, head) => (BTreeSet::new(), head),
            },
            None => (BTreeSet::new(), store.head_mark(realm).await?),
        };
        good.retain(|mark| places.contains_key(mark));
        let new: Vec<Mark> = places.keys().filter(|mark| !good.contains(mark)).copied().collect();
        let looks: Vec<_> = new
            .iter()
            .take(PLACES)
            .map(|mark| async move { (*mark, store.check_mark(realm, mark).await) })
            .collect();
        let mut looked = stream::iter(looks).buffered(AT_ONCE);
        let mut changed = false;
        while let Some((mark, history)) = looked.next().await {
            match history? {
                // What was removed behind a place is for those to tell who stand there still.
                History::Same | History::Purged { .. } => drop(good.insert(mark)),
                History::Changed { why } => {
                    changed = true;
                    for of in places.get(&mark).into_iter().flatten() {
                        report(store, of, realm, &why).await?;
                    }
                }
            }
        }
        self.0.insert(realm.clone(), Seen { head, good });
        // Those that were reported get another place, and are not looked at again at once.
        Ok(changed || new.len() <= PLACES)
    }
}

async fn report(store: &Store, of: &Incarnation, realm: &Realm, why: &str) -> Result<(), Error> {
    tracing::warn!(incarnation = %of, %realm, why, "the log's history has changed");
    let (of, realm, why) = (of.clone(), realm.clone(), why.to_owned());
    send_report(store, &Report::HistoryChanged { of, realm, why, mark: None }).await
}
