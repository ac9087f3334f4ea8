//! Holding marks against the logs that they are places in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{Error, ErrorKind, Start, StreamInfo};

use super::Store;
use crate::model::{Realm, names};

pub use crate::model::{History, Life, Mark};

/// How long a read waits for what is there.
const WAIT: Duration = Duration::from_secs(1);

impl Store {
    /// The life of a realm's log. [`ErrorKind::Unavailable`] while there is no log.
    pub async fn life(&self, realm: &Realm) -> Result<Life, Error> {
        Ok(Life::of(&self.log_info(realm).await?))
    }

    /// The newest place in a realm's log. [`ErrorKind::Unavailable`] while there is no log.
    pub async fn head_mark(&self, realm: &Realm) -> Result<Mark, Error> {
        let log = self.log_info(realm).await?;
        self.place(realm, &log, log.last_sequence).await
    }

    /// Says whether the history before a mark is the one that was read. Two requests to the bus.
    ///
    /// [`ErrorKind::Unavailable`] while there is no log: then nothing can be missed either, and
    /// one that is put back from a backup may hold what was read.
    pub async fn check_mark(&self, realm: &Realm, mark: &Mark) -> Result<History, Error> {
        let log = self.log_info(realm).await?;
        self.hold_against(realm, &log, mark).await
    }

    /// [`Store::check_mark`] and [`Store::head_mark`] of one look at the log.
    pub(crate) async fn check_and_move(
        &self,
        realm: &Realm,
        mark: &Mark,
    ) -> Result<(History, Mark), Error> {
        let log = self.log_info(realm).await?;
        let history = self.hold_against(realm, &log, mark).await?;
        if history == History::Same && log.last_sequence == mark.sequence {
            return Ok((history, *mark));
        }
        Ok((history, self.place(realm, &log, log.last_sequence).await?))
    }

    /// True when the bus answers and a realm has no log.
    pub(crate) async fn log_is_missing(&self, realm: &Realm) -> Result<bool, Error> {
        match self.bus().driver().stream_info(&names::log_stream(realm)?).await {
            Err(error) if error.is_not_found() => Ok(true),
            looked => looked.map(|_| false),
        }
    }

    /// The place behind everything that a log took before `mark` was read, where the log is not the
    /// one that it was read in: what comes behind it is newer, or of the same millisecond. Where no
    /// time is known of the mark, `or_ms` takes its place; before the first event there is
    /// nothing to leave out.
    ///
    /// [`ErrorKind::Unavailable`] while there is no log.
    pub(crate) async fn resume_mark(
        &self,
        realm: &Realm,
        mark: &Mark,
        or_ms: u64,
    ) -> Result<Mark, Error> {
        let log = self.log_info(realm).await?;
        let since = if mark.time_ms() == 0 { or_ms } else { mark.time_ms() };
        let since = UNIX_EPOCH + Duration::from_millis(since);
        let before_all = log.first_sequence.saturating_sub(1);
        if mark.sequence == 0 || before_all == log.last_sequence {
            return self.place(realm, &log, before_all).await;
        }
        let newest = self.taken(realm, log.last_sequence).await?;
        if newest.is_some_and(|newest| newest < since) {
            return self.place(realm, &log, log.last_sequence).await;
        }
        let log_stream = self.log(realm).await?;
        let mut reader = log_stream.reader(&[], Start::Time(since)).await?;
        let first = reader.next(1, WAIT).await?.into_iter().next();
        let before = first.map_or(log.last_sequence, |first| first.sequence - 1);
        self.place(realm, &log, before).await
    }

    /// The log of a realm as it is now; [`ErrorKind::Unavailable`] while there is none.
    pub(crate) async fn log_info(&self, realm: &Realm) -> Result<StreamInfo, Error> {
        match self.bus().driver().stream_info(&names::log_stream(realm)?).await {
            Err(error) if error.is_not_found() => Err(log_missing(realm, error)),
            info => info,
        }
    }

    async fn hold_against(
        &self,
        realm: &Realm,
        log: &StreamInfo,
        mark: &Mark,
    ) -> Result<History, Error> {
        let held = (log.first_sequence..=log.last_sequence).contains(&mark.sequence);
        let there = if held { self.taken(realm, mark.sequence).await? } else { None };
        Ok(mark.against(log, there))
    }

    pub(super) async fn place(
        &self,
        realm: &Realm,
        log: &StreamInfo,
        sequence: u64,
    ) -> Result<Mark, Error> {
        let life = Life::of(log);
        Ok(match self.taken(realm, sequence).await? {
            Some(taken) => Mark::of(life, sequence, taken),
            None => Mark::bare(sequence).in_life(life),
        })
    }

    /// When the log took the message at a sequence; `None` where it holds none.
    pub(super) async fn taken(
        &self,
        realm: &Realm,
        sequence: u64,
    ) -> Result<Option<SystemTime>, Error> {
        if sequence == 0 {
            return Ok(None);
        }
        match self.bus().driver().get(&names::log_stream(realm)?, sequence).await {
            Err(error) if error.is_not_found() => Err(log_missing(realm, error)),
            held => Ok(held?.map(|message| message.timestamp)),
        }
    }
}

fn log_missing(realm: &Realm, source: Error) -> Error {
    let what = format!("the log of realm {realm} is not there");
    let then = "put it back, or publish to the realm to begin another";
    Error::with_source(ErrorKind::Unavailable, format!("{what}: {then}"), source)
}

#[cfg(test)]
mod tests {
    use bus::{Bus, Message, SubjectFilter};

    use super::*;
    use crate::platform::Platform;
    use crate::store::StoreOptions;

    async fn store() -> Store {
        let bus = Bus::connect("embedded:").await.unwrap();
        Store::open(Platform::new(bus), StoreOptions::default()).await.unwrap()
    }

    fn realm() -> Realm {
        Realm::new("r").unwrap()
    }

    async fn publish(store: &Store, events: u64) {
        let log = store.ensure_realm(&realm()).await.unwrap();
        for _ in 0..events {
            tokio::time::sleep(Duration::from_millis(5)).await;
            log.publish(Message::new("events.r.t.k", "1").unwrap()).await.unwrap();
        }
    }

    async fn check(store: &Store, mark: &Mark) -> &'static str {
        match store.check_mark(&realm(), mark).await.unwrap() {
            History::Same => "same",
            History::Changed { .. } => "changed",
            History::Purged { .. } => "purged",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_goes_on_is_the_same_and_one_made_again_is_not() {
        let store = store().await;
        publish(&store, 0).await;
        let start = store.head_mark(&realm()).await.unwrap();
        assert_eq!(start, Mark::start(store.life(&realm()).await.unwrap()));
        publish(&store, 3).await;
        let mark = store.head_mark(&realm()).await.unwrap();
        publish(&store, 3).await;
        for mark in [start, mark, Mark::bare(3)] {
            assert_eq!(check(&store, &mark).await, "same", "{mark:?}");
        }

        store.bus().delete_stream("events-r").await.unwrap();
        let gone = store.check_mark(&realm(), &mark).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Unavailable);
        publish(&store, 2).await;
        assert_eq!(check(&store, &start).await, "changed");
        assert_eq!(check(&store, &mark).await, "changed");
        assert_eq!(check(&store, &Mark::bare(3)).await, "changed");
        publish(&store, 2).await;
        assert_eq!(check(&store, &mark).await, "changed", "its sequence is used again");
        assert_eq!(check(&store, &Mark::bare(3)).await, "same", "as far as it can be told");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_purged_behind_a_mark_is_told_from_what_was_read() {
        let store = store().await;
        publish(&store, 3).await;
        let mark = store.head_mark(&realm()).await.unwrap();
        let log = store.log(&realm()).await.unwrap();
        log.purge(&SubjectFilter::all()).await.unwrap();
        assert_eq!(check(&store, &mark).await, "same");
        let head = store.head_mark(&realm()).await.unwrap();
        assert_eq!((head.sequence, head.time_ms()), (3, 0));
        publish(&store, 2).await;
        assert_eq!(check(&store, &head).await, "same");
        assert_eq!(check(&store, &Mark::bare(1).in_life(mark.life())).await, "purged");
        let first_sequence = 4;
        let start = Mark::start(store.life(&realm()).await.unwrap());
        let purged = store.check_mark(&realm(), &start).await.unwrap();
        assert_eq!(purged, History::Purged { first_sequence });
    }
}
