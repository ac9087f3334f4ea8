//! Realms: a log each, and a record that it exists.

use bus::Stream;

use super::Store;
use crate::model::{Realm, RealmList, names};

impl Store {
    /// The log of a realm; [`bus::ErrorKind::NotFound`] when the realm was never made.
    pub async fn log(&self, realm: &Realm) -> Result<Stream, bus::Error> {
        self.bus().stream(names::log_stream(realm)?).await
    }

    /// The last sequence that the log of a realm has given; `None` when the realm was never made.
    pub(crate) async fn last_sequence(&self, realm: &Realm) -> Result<Option<u64>, bus::Error> {
        match self.bus().driver().stream_info(&names::log_stream(realm)?).await {
            Ok(info) => Ok(Some(info.last_sequence)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a realm if it is missing and returns its log. The log comes before the record, so
    /// that whoever sees the record finds the log; doing it twice changes nothing, and a log that
    /// is there stays as it was declared. It need not have room for a bridge: only bridges do.
    pub async fn ensure_realm(&self, realm: &Realm) -> Result<Stream, bus::Error> {
        let mut config = self.options.log(realm)?;
        if self.last_sequence(realm).await?.is_some() {
            config.subjects = vec![names::log_filter(realm)?];
        }
        let log = self.bus().create_stream_if_missing(&config).await?.handle;
        match self.realms.create(realm.as_str(), "{}").await {
            Ok(_) => tracing::info!(%realm, "realm made"),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(log)
    }

    /// Every realm, sorted: complete, or an error.
    pub async fn realms(&self) -> Result<Vec<Realm>, bus::Error> {
        let keys = self.realms.keys(">").await?;
        Ok(keys.iter().filter_map(|key| Realm::new(key.as_str()).ok()).collect())
    }

    /// True when the realm was made, by an event or by whoever declared its log.
    pub(crate) async fn realm_exists(&self, realm: &Realm) -> Result<bool, bus::Error> {
        if self.realms.get(realm.as_str()).await?.is_some() {
            return Ok(true);
        }
        Ok(self.last_sequence(realm).await?.is_some())
    }

    /// Which realms events may make.
    pub(crate) fn realm_list(&self) -> &RealmList {
        &self.options.realms
    }

    /// Removes a realm with all its events. The record goes first, so that nobody looks for a log
    /// that is not there. Nobody may publish to it any more: the next event would make it anew.
    pub(crate) async fn remove_realm(&self, realm: &Realm) -> Result<(), bus::Error> {
        self.realms.delete(realm.as_str(), None).await?;
        match self.bus().delete_stream(names::log_stream(realm)?).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }
}
