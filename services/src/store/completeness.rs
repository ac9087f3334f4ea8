//! The record of a realm, and what an admin said of its history.

use bus::{Entry, Error, ErrorKind, StreamInfo};
use serde::{Deserialize, Serialize};

use super::Store;
use crate::model::{Life, Realm};

/// How often a change of the record is tried while others change it.
const ATTEMPTS: u32 = 5;

/// What the `lockgate-realms` bucket holds for a realm. Keep stable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RealmRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
}

/// An admin's word that the log is the whole state although its beginning was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    /// The log that it was said of.
    life: Life,
    /// Where that log began. One that loses more is incomplete again.
    first_sequence: u64,
}

/// Whether the state of every key can be read from a realm's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completeness {
    /// Nothing was removed from its beginning.
    Whole,
    /// Something was, and an admin said that what is there is the state.
    Accepted,
    /// Something was: keys whose last event is among it are not known.
    Incomplete,
}

impl RealmRecord {
    fn read(entry: &Entry) -> Result<Self, Error> {
        serde_json::from_slice(&entry.value).map_err(|source| {
            let what = format!("the record of realm {} cannot be read", entry.key);
            let then = "write {} in its place";
            Error::with_source(ErrorKind::Corrupt, format!("{what}: {then}"), source)
        })
    }

    fn completeness(&self, log: &StreamInfo) -> Completeness {
        let covers = |accepted: &Accepted| {
            accepted.life == Life::of(log) && log.first_sequence <= accepted.first_sequence
        };
        match log.first_sequence {
            0 | 1 => Completeness::Whole,
            _ if self.accepted.as_ref().is_some_and(covers) => Completeness::Accepted,
            _ => Completeness::Incomplete,
        }
    }
}

impl Store {
    /// Whether the state of every key can be read from a log as it was looked at. A request only
    /// where its beginning is gone.
    pub(crate) async fn completeness(
        &self,
        realm: &Realm,
        log: &StreamInfo,
    ) -> Result<Completeness, Error> {
        if log.first_sequence <= 1 {
            return Ok(Completeness::Whole);
        }
        let entry = self.realms.get(realm.as_str()).await?;
        let record = entry.as_ref().map(RealmRecord::read).transpose()?;
        Ok(record.unwrap_or_default().completeness(log))
    }

    /// Takes what a realm's log holds now for the whole state, so that prefills read it although
    /// its beginning was removed. What is removed later is not covered. Returns the log as it was
    /// looked at. [`ErrorKind::NotFound`] when the realm was never made.
    pub(crate) async fn accept_history(&self, realm: &Realm) -> Result<StreamInfo, Error> {
        for _ in 0..ATTEMPTS {
            let entry = self.realms.get(realm.as_str()).await?;
            let Some(entry) = entry else { return Err(no_realm(realm)) };
            let log = self.log_info(realm).await?;
            let (life, first_sequence) = (Life::of(&log), log.first_sequence);
            let accepted = Some(Accepted { life, first_sequence });
            let record = RealmRecord { accepted };
            let value = serde_json::to_vec(&record).map_err(|source| {
                let what = "the realm's record cannot be written as JSON";
                Error::with_source(ErrorKind::Invalid, what, source)
            })?;
            match self.realms.update(realm.as_str(), value, entry.revision).await {
                Err(error) if error.is_conflict() => {}
                written => return written.map(|_| log),
            }
        }
        let what = format!("the record of realm {realm} is changed by others at this moment");
        Err(Error::new(ErrorKind::Unavailable, format!("{what}: try again")))
    }
}

fn no_realm(realm: &Realm) -> Error {
    let what = format!("there is no realm {realm}");
    Error::not_found(format!("{what}: lockgate realms lists those there are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_form_is_stable() {
        let read = |text| serde_json::from_str::<RealmRecord>(text).unwrap();
        assert_eq!(read("{}"), RealmRecord::default(), "as earlier versions wrote it");
        let text = r#"{"accepted":{"life":5,"first_sequence":7}}"#;
        assert_eq!(serde_json::to_string(&read(text)).unwrap(), text);
    }
}
