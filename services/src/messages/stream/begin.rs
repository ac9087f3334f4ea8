//! Where a reader of the logs begins that does not resume.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bus::Error;
use futures_util::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::limits::{BUS_WINDOW, MAX_REALMS};
use crate::model::{Invalid, Mark, Marks, Realm, TopicSet};
use crate::store::Store;

/// What a request says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::messages) enum From {
    /// With the first event that the logs still hold.
    Beginning,
    /// With the next event.
    Now,
    /// With the first event that a log took then or later.
    Time(SystemTime),
    /// For each realm with the event of a sequence of its log; for others with the next event.
    Sequences(BTreeMap<Realm, u64>),
}

impl From {
    /// Reads `beginning`, `now`, a time as RFC 3339 has it, or `realm:sequence[,realm:sequence]`.
    pub(in crate::messages) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "beginning" => return Ok(Self::Beginning),
            "now" => return Ok(Self::Now),
            _ => {}
        }
        // In a query a plus that is not escaped is a space.
        if let Ok(time) = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339) {
            return Ok(Self::Time(time.into()));
        }
        let places: Option<BTreeMap<Realm, u64>> = text.split(',').map(place).collect();
        let places = places.filter(|places| places.len() <= MAX_REALMS);
        places.map(Self::Sequences).ok_or_else(|| {
            Invalid::new(format!(
                "from is {text:?}: write beginning, now, a time such as 2026-11-29T12:00:00Z, or \
                 realm:sequence, for example orders:17"
            ))
        })
    }
}

impl From {
    /// Reads what a state is asked for at: a time, then it is that of everything the logs took
    /// before, or `realm:sequence`, then it is that behind those events.
    pub(in crate::messages) fn parse_at(text: &str) -> Result<Self, Invalid> {
        match Self::parse(text) {
            Ok(Self::Sequences(places)) => {
                let behind = |(realm, sequence): (Realm, u64)| (realm, sequence.saturating_add(1));
                Ok(Self::Sequences(places.into_iter().map(behind).collect()))
            }
            Ok(Self::Beginning) | Err(_) => Err(Invalid::new(format!(
                "at is {text:?}: write a time such as 2026-11-29T12:00:00Z, or realm:sequence, \
                 for example orders:17"
            ))),
            read => read,
        }
    }
}

fn place(text: &str) -> Option<(Realm, u64)> {
    let (realm, sequence) = text.split_once(':')?;
    Some((Realm::new(realm).ok()?, sequence.parse().ok()?))
}

/// The place in a realm's log behind which a reader begins; `None` while the realm has no log,
/// all of which is still to come then.
pub(in crate::messages) async fn begin(
    store: &Store,
    realm: &Realm,
    from: &From,
) -> Result<Option<Mark>, Error> {
    let found = match from {
        From::Beginning => store.first_place(realm).await,
        From::Now => store.head_mark(realm).await,
        From::Time(time) => store.place_before(realm, *time).await,
        From::Sequences(places) => match places.get(realm) {
            Some(sequence) => store.place_of(realm, sequence.saturating_sub(1)).await,
            None => store.head_mark(realm).await,
        },
    };
    match found {
        Err(_) if store.log_is_missing(realm).await? => Ok(None),
        found => found.map(Some),
    }
}

/// The places of every realm that the topics include, as it is now. A realm that is named and has
/// no log yet stands before its first event; one that is made later joins there.
pub(in crate::messages) async fn capture(
    store: &Store,
    topics: &TopicSet,
    from: &From,
) -> Result<Marks, Error> {
    let mut realms = topics.named_realms();
    if !topics.names_every_realm() {
        realms.extend(store.realms().await?);
    }
    realms.retain(|realm| topics.includes_realm(realm));
    let look = async |realm: Realm| {
        let place = begin(store, &realm, from).await?;
        Ok::<_, Error>((realm, place.unwrap_or_else(|| Mark::bare(0))))
    };
    let looks: Vec<_> = realms.into_iter().map(look).collect();
    stream::iter(looks).buffer_unordered(BUS_WINDOW).try_collect().await
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn each_form_is_read_and_others_are_named() {
        assert_eq!(From::parse("beginning").unwrap(), From::Beginning);
        assert_eq!(From::parse("now").unwrap(), From::Now);
        let time = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(From::parse("1970-01-01T00:00:01.5Z").unwrap(), From::Time(time));
        assert_eq!(From::parse("1970-01-01T01:00:01.5 01:00").unwrap(), From::Time(time));
        let places =
            BTreeMap::from([(Realm::new("a").unwrap(), 17), (Realm::new("b").unwrap(), 0)]);
        assert_eq!(From::parse("a:17,b:0").unwrap(), From::Sequences(places));
        for bad in ["", "then", "a:", "a:x", ":1", "A:1", "1970-01-01", "a:1,,b:2"] {
            assert!(From::parse(bad).unwrap_err().to_string().contains("realm:sequence"), "{bad}");
        }
    }
}
