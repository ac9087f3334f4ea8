//! Finding a place in a realm's log by what people know of it: a time, or a sequence.

use std::time::{Duration, SystemTime};

use bus::{Error, Start};

use super::{Mark, Store};
use crate::model::Realm;

/// How long a read waits for what is there.
const WAIT: Duration = Duration::from_secs(1);

impl Store {
    /// The place before the first event that a log holds. [`bus::ErrorKind::Unavailable`] while
    /// there is no log, here and below.
    pub(crate) async fn first_place(&self, realm: &Realm) -> Result<Mark, Error> {
        let log = self.log_info(realm).await?;
        self.place(realm, &log, log.first_sequence.saturating_sub(1)).await
    }

    /// The place of a sequence. What is before the log's beginning is its beginning, and what is
    /// beyond its end is its end.
    pub(crate) async fn place_of(&self, realm: &Realm, sequence: u64) -> Result<Mark, Error> {
        let log = self.log_info(realm).await?;
        let before_all = log.first_sequence.saturating_sub(1);
        let sequence = sequence.clamp(before_all, log.last_sequence.max(before_all));
        self.place(realm, &log, sequence).await
    }

    /// The place before the first event that a log took at a time or later.
    pub(crate) async fn place_before(
        &self,
        realm: &Realm,
        time: SystemTime,
    ) -> Result<Mark, Error> {
        let log = self.log_info(realm).await?;
        let newest = self.taken(realm, log.last_sequence).await?;
        if newest.is_none_or(|newest| newest < time) {
            return self.place(realm, &log, log.last_sequence).await;
        }
        let mut reader = self.log(realm).await?.reader(&[], Start::Time(time)).await?;
        let first = reader.next(1, WAIT).await?.into_iter().next();
        match first {
            Some(first) => self.place(realm, &log, first.sequence - 1).await,
            // What was read was removed meanwhile, or the bus is slow: asked again, it is known.
            None => Err(Error::new(
                bus::ErrorKind::Unavailable,
                format!("the log of {realm} was not searched in time: try again"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::{Bus, Message, SubjectFilter};

    use super::*;
    use crate::platform::Platform;
    use crate::store::StoreOptions;

    #[tokio::test]
    async fn places_are_found_by_time_and_sequence() {
        let bus = Bus::connect("embedded:").await.unwrap();
        let store = Store::open(Platform::new(bus), StoreOptions::default()).await.unwrap();
        let realm = Realm::new("r").unwrap();
        let log = store.ensure_realm(&realm).await.unwrap();
        let (before, later) = (SystemTime::UNIX_EPOCH, SystemTime::now() + 2 * WAIT * 3600);
        for time in [before, later] {
            assert_eq!(store.place_before(&realm, time).await.unwrap().sequence, 0);
        }
        for _ in 0..5 {
            log.publish(Message::new("events.r.t.k", "1").unwrap()).await.unwrap();
        }
        let third = log.get(3).await.unwrap().unwrap().timestamp;
        let found = store.place_before(&realm, third).await.unwrap().sequence;
        let taken = log.get(found + 1).await.unwrap().unwrap().timestamp;
        assert!(found <= 2 && taken >= third, "{found}");
        assert_eq!(store.place_before(&realm, before).await.unwrap().sequence, 0);
        assert_eq!(store.place_before(&realm, later).await.unwrap().sequence, 5);
        let of = async |sequence| store.place_of(&realm, sequence).await.unwrap();
        assert_eq!((of(0).await.sequence, of(2).await.sequence, of(99).await.sequence), (0, 2, 5));
        assert_eq!(of(5).await, store.head_mark(&realm).await.unwrap());

        log.purge(&SubjectFilter::all()).await.unwrap();
        log.publish(Message::new("events.r.t.k", "1").unwrap()).await.unwrap();
        assert_eq!(store.first_place(&realm).await.unwrap().sequence, 5);
        assert_eq!((of(2).await.sequence, of(6).await.sequence), (5, 6));
    }
}
