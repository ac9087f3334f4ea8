//! Reading and writing subscription records.

use bus::{Entry, Error, ErrorKind, Subject};

use super::Store;
use crate::model::{Subscription, SubscriptionName};

/// A record and the revision it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The record.
    pub subscription: Subscription,
    /// For compare-and-set, and as ETag.
    pub revision: u64,
}

impl Kept {
    /// Reads an entry; one that is not a subscription is [`ErrorKind::Corrupt`].
    pub(crate) fn read(entry: &Entry) -> Result<Self, Error> {
        let subscription: Subscription =
            serde_json::from_slice(&entry.value).map_err(|source| {
                let what = format!("the record of subscription {} cannot be read", entry.key);
                Error::with_source(
                    ErrorKind::Corrupt,
                    format!("{what}: delete and register it"),
                    source,
                )
            })?;
        Ok(Self { subscription, revision: entry.revision })
    }
}

impl Store {
    /// The record of a subscription, if there is one.
    pub async fn subscription(&self, name: &SubscriptionName) -> Result<Option<Kept>, Error> {
        let entry = self.subscriptions.get(name.as_str()).await?;
        entry.as_ref().map(Kept::read).transpose()
    }

    /// The records of the first `size` names behind `after`, sorted by name, and the last name that
    /// was looked at if there are more. One that cannot be read is reported in the log and left
    /// out: it must not hide the others.
    pub(crate) async fn subscriptions_page(
        &self,
        after: Option<&Subject>,
        size: usize,
    ) -> Result<(Vec<Kept>, Option<Subject>), Error> {
        let mut entries = self.subscriptions.page(after, size + 1).await?;
        let more = entries.len() > size;
        entries.truncate(size);
        let last = entries.last().filter(|_| more).map(|entry| entry.key.clone());
        Ok((entries.iter().filter_map(readable).collect(), last))
    }

    /// Writes a record: a first one with `revision` 0, a changed one with the revision it was read
    /// at. [`ErrorKind::Conflict`] if someone was faster.
    pub(crate) async fn keep_subscription(
        &self,
        subscription: &Subscription,
        revision: u64,
    ) -> Result<u64, Error> {
        let value = serde_json::to_vec(subscription).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the record cannot be written as JSON", source)
        })?;
        self.subscriptions.update(subscription.name().as_str(), value, revision).await
    }
}

fn readable(entry: &Entry) -> Option<Kept> {
    match Kept::read(entry) {
        Ok(kept) => Some(kept),
        Err(error) => {
            tracing::error!(key = %entry.key, %error, "a record is left out");
            None
        }
    }
}
