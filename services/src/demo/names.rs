//! The names of one run, which nothing else on the bus has.

use std::fmt;

use bus::{Error, ErrorKind};

use crate::model::{Realm, SubscriptionName};
use crate::platform::Entropy;
use crate::registration::{Registration, RegistrationError};
use crate::store::Store;

/// What one run of the demo makes on the bus.
#[derive(Debug, Clone)]
pub(crate) struct DemoNames {
    /// In every event's id, so that no two runs share one.
    pub(super) run: String,
    pub(super) realm: Realm,
    pub(super) subscription: SubscriptionName,
}

impl DemoNames {
    /// Names that no run had before.
    pub(crate) fn fresh() -> Result<Self, Error> {
        let run = Entropy::system().uid()?;
        let wrong = |what: &dyn fmt::Display| Error::new(ErrorKind::Invalid, what.to_string());
        let realm = Realm::of_demo(&run).map_err(|invalid| wrong(&invalid))?;
        let name = SubscriptionName::new(realm.as_str()).map_err(|invalid| wrong(&invalid))?;
        Ok(Self { run, realm, subscription: name })
    }

    /// Removes the subscription and the realm with everything in them; what is gone already is no
    /// error. No role may be at work on them any more.
    pub(crate) async fn remove(&self, store: &Store) -> Result<(), Error> {
        let registration = Registration::new(store.clone());
        match registration.delete(&self.subscription, None).await {
            Ok(()) | Err(RegistrationError::Unknown(_)) => {}
            Err(RegistrationError::Bus(error)) => return Err(error),
            Err(error) => return Err(Error::new(ErrorKind::Backend, error.to_string())),
        }
        store.remove_realm(&self.realm).await
    }
}

impl fmt::Display for DemoNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "realm {} and subscription {}", self.realm, self.subscription)
    }
}

#[cfg(test)]
mod tests {
    use bus::Bus;

    use super::*;
    use crate::model::{TopicSet, names};
    use crate::platform::Platform;
    use crate::store::StoreOptions;

    #[tokio::test]
    async fn a_run_leaves_nothing_and_takes_nothing_of_others() {
        let bus = Bus::connect("embedded:").await.unwrap();
        let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        let (ours, theirs) = (DemoNames::fresh().unwrap(), DemoNames::fresh().unwrap());
        assert_ne!(ours.realm, theirs.realm);
        for names in [&ours, &theirs] {
            store.ensure_realm(&names.realm).await.unwrap();
        }
        ours.remove(&store).await.unwrap();
        ours.remove(&store).await.unwrap();
        assert_eq!(store.realms().await.unwrap(), std::slice::from_ref(&theirs.realm));
        let log = names::log_stream(&ours.realm).unwrap();
        assert!(bus.stream(&log).await.err().unwrap().is_not_found());
        assert!(!TopicSet::parse(&["*.*"]).unwrap().includes_realm(&theirs.realm));
    }
}
