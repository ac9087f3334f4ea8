//! What the watches have told, and what of it is to be looked at: functions without side effects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::KvChange;
use tokio::time::Instant;

use super::agenda::Agenda;
use super::history::Histories;
use crate::model::{Incarnation, Prefill, Realm, Subscription, SubscriptionName};
use crate::store::Kept;

/// A pending prefill is first looked after this long after it was seen: by then its task is known
/// to a worker, unless whoever registered it did not get to asking for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Each look that changes nothing doubles the wait for the next one, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// What an incarnation leaves behind is looked for this long after its end: whoever ended it
/// removes that too, and whoever served it has noticed by then.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Something that may differ from what the records say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A subscription that is there.
    Subscription(SubscriptionName),
    /// A life of a subscription that is over.
    Gone(Incarnation),
}

/// The records and realms, as far as they were told.
#[derive(Debug)]
pub(super) struct Known {
    records: BTreeMap<SubscriptionName, Record>,
    /// Keys whose record cannot be read: nothing of theirs is removed.
    unreadable: BTreeSet<String>,
    realms: BTreeSet<Realm>,
    agenda: Agenda<Key>,
    /// The places of the records in the logs.
    pub(super) histories: Histories,
}

/// A record, and what was done about it.
#[derive(Debug)]
struct Record {
    subscription: Subscription,
    /// How long after the last look the next one is.
    wait: Duration,
    /// The revision of the prefill's cursor at the last look.
    cursor: Option<u64>,
}

/// What a subscription lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) of: Incarnation,
    /// Realms that its topics include and that were made after its fence.
    pub(super) realms: Vec<Realm>,
    /// It waits for its prefill, and has for a while. With the revision that the prefill's cursor
    /// had at the last look: one that has moved since is somebody's work.
    pub(super) prefill: Option<Option<u64>>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            realms: BTreeSet::new(),
            agenda: Agenda::new(),
            histories: Histories::default(),
        }
    }

    /// Takes in a change of the subscriptions; true when it was the mark that all are known.
    pub(super) fn subscription(&mut self, change: KvChange, now: Instant) -> bool {
        match change {
            KvChange::Put(entry) => match Kept::read(&entry) {
                Ok(kept) => {
                    self.unreadable.remove(entry.key.as_str());
                    self.put(kept.subscription, now);
                }
                Err(error) => {
                    tracing::error!(key = %entry.key, %error, "a record is left out");
                    if let Ok(name) = SubscriptionName::new(entry.key.as_str()) {
                        self.forget(&name);
                    }
                    self.unreadable.insert(entry.key.as_str().to_owned());
                }
            },
            KvChange::Delete { key, .. } => {
                self.unreadable.remove(key.as_str());
                let name = SubscriptionName::new(key.as_str());
                if let Some(gone) = name.ok().and_then(|name| self.forget(&name)) {
                    self.agenda.put(Key::Gone(gone.incarnation), now + GRACE);
                }
            }
            KvChange::Synced => return true,
        }
        false
    }

    /// Takes in a change of the realms; true when it was the mark that all are known.
    pub(super) fn realm(&mut self, change: KvChange, now: Instant) -> bool {
        match change {
            KvChange::Put(entry) => {
                if let Ok(realm) = Realm::new(entry.key.as_str())
                    && self.realms.insert(realm.clone())
                {
                    self.realm_made(&realm, now);
                }
            }
            KvChange::Delete { key, .. } => {
                self.realms.retain(|realm| realm.as_str() != key.as_str());
            }
            KvChange::Synced => return true,
        }
        false
    }

    /// Has everything looked at that is kept for one of `lives` and that no record speaks of.
    pub(super) fn sweep(&mut self, lives: BTreeSet<Incarnation>, now: Instant) {
        for of in lives {
            let record = self.records.get(&of.name).map(|record| &record.subscription.incarnation);
            if record != Some(&of) && !self.unreadable.contains(of.name.as_str()) {
                self.agenda.put(Key::Gone(of), now);
            }
        }
    }

    /// When something is to be looked at next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.agenda.next_at()
    }

    /// Takes out up to `max` keys that are to be looked at now.
    pub(super) fn due(&mut self, now: Instant, max: usize) -> Vec<Key> {
        self.agenda.due(now, max)
    }

    /// Has the key looked at again.
    pub(super) fn again(&mut self, key: Key, at: Instant) {
        let known = match &key {
            Key::Subscription(name) => self.records.contains_key(name),
            Key::Gone(_) => true,
        };
        if known {
            self.agenda.put(key, at);
        }
    }

    /// What the subscription lacks; `None` when there is nothing to do about it.
    pub(super) fn lack(&self, name: &SubscriptionName) -> Option<Lack> {
        let record = self.records.get(name)?;
        let waits = record.subscription.prefill == Prefill::Pending && record.wait >= PATIENCE;
        let realms = missing(&record.subscription, &self.realms);
        (waits || !realms.is_empty()).then(|| Lack {
            of: record.subscription.incarnation.clone(),
            realms,
            prefill: waits.then_some(record.cursor),
        })
    }

    /// Takes note that what `name` lacks was done something about. It is looked at again, unless a
    /// change of the record says before that all is well.
    pub(super) fn tended(&mut self, name: &SubscriptionName, cursor: Option<u64>, now: Instant) {
        if let Some(record) = self.records.get_mut(name) {
            record.cursor = cursor.or(record.cursor);
            record.wait = (record.wait * 2).clamp(PATIENCE, LONGEST_WAIT);
            self.agenda.put(Key::Subscription(name.clone()), now + record.wait);
        }
    }

    fn forget(&mut self, name: &SubscriptionName) -> Option<Subscription> {
        let Record { subscription, .. } = self.records.remove(name)?;
        self.agenda.remove(&Key::Subscription(name.clone()));
        self.histories.remove(&subscription);
        Some(subscription)
    }

    fn put(&mut self, subscription: Subscription, now: Instant) {
        let name = subscription.name().clone();
        let before = self.records.get(&name).map(|before| &before.subscription);
        if before.is_none_or(|before| !has_same_places(before, &subscription)) {
            before.into_iter().for_each(|before| self.histories.remove(before));
            self.histories.add(&subscription);
        }
        let cursor = match self.records.get(&name) {
            Some(before) if before.subscription.incarnation == subscription.incarnation => {
                before.cursor
            }
            Some(before) => {
                let over = before.subscription.incarnation.clone();
                self.agenda.put(Key::Gone(over), now + GRACE);
                None
            }
            None => None,
        };
        let (lacks_realms, pending) = (
            !missing(&subscription, &self.realms).is_empty(),
            subscription.prefill == Prefill::Pending,
        );
        let wait = if lacks_realms { Duration::ZERO } else { PATIENCE };
        self.records.insert(name.clone(), Record { subscription, wait, cursor });
        match lacks_realms || pending {
            true => self.agenda.put(Key::Subscription(name), now + wait),
            false => self.agenda.remove(&Key::Subscription(name)),
        }
    }

    fn realm_made(&mut self, realm: &Realm, now: Instant) {
        for (name, Record { subscription, wait, .. }) in &mut self.records {
            let joined = subscription.fence.contains_key(realm);
            if !joined && subscription.topics.includes_realm(realm) {
                *wait = Duration::ZERO;
                self.agenda.put(Key::Subscription(name.clone()), now);
            }
        }
    }
}

fn has_same_places(one: &Subscription, other: &Subscription) -> bool {
    one.incarnation == other.incarnation && one.fence_marks() == other.fence_marks()
}

fn missing(subscription: &Subscription, realms: &BTreeSet<Realm>) -> Vec<Realm> {
    let lacks = |realm: &&Realm| {
        subscription.topics.includes_realm(realm) && !subscription.fence.contains_key(*realm)
    };
    realms.iter().filter(lacks).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bus::{Entry, Subject};

    use super::*;
    use crate::model::{Fence, TopicSet};

    fn subscription(fence: &[(&str, u64)], prefill: Prefill) -> Subscription {
        let realm = |name: &str| Realm::new(name).unwrap();
        Subscription {
            incarnation: Incarnation {
                name: SubscriptionName::new("people").unwrap(),
                uid: "00ff".into(),
                generation: 1,
            },
            topics: TopicSet::parse(&["*.*"]).unwrap(),
            prefill,
            fence: fence.iter().map(|(name, at)| (realm(name), *at)).collect::<Fence>(),
            marks: BTreeMap::new(),
            ack_wait: Duration::from_secs(30),
            max_attempts: None,
            dead_letters: None,
            created_ms: 0,
            secret_hash: String::new(),
        }
    }

    fn put(key: &str, value: Vec<u8>) -> KvChange {
        let key = Subject::new(key).unwrap();
        let created = SystemTime::UNIX_EPOCH;
        KvChange::Put(Entry { key, value: value.into(), revision: 1, created })
    }

    fn told(known: &mut Known, subscription: &Subscription) {
        let value = serde_json::to_vec(subscription).unwrap();
        known.subscription(put(subscription.name().as_str(), value), Instant::now());
    }

    fn due(known: &mut Known) -> Vec<Key> {
        known.due(Instant::now(), 10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_realm_made_later_is_missed_at_once_and_until_it_is_joined() {
        let (mut known, one) = (Known::new(), subscription(&[], Prefill::None));
        told(&mut known, &one);
        assert_eq!((known.next_at(), due(&mut known)), (None, vec![]), "nothing to do");
        known.realm(put("a", b"{}".to_vec()), Instant::now());
        let key = Key::Subscription(one.name().clone());
        assert_eq!(due(&mut known), std::slice::from_ref(&key));
        let lack = known.lack(one.name()).unwrap();
        assert_eq!((lack.realms, lack.prefill), (vec![Realm::new("a").unwrap()], None));
        known.tended(one.name(), None, Instant::now());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(due(&mut known), [key], "the report may be lost");
        known.tended(one.name(), None, Instant::now());
        told(&mut known, &subscription(&[("a", 0)], Prefill::None));
        assert_eq!(known.next_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pending_prefill_is_looked_after_less_and_less_often() {
        let (mut known, one) = (Known::new(), subscription(&[], Prefill::Pending));
        told(&mut known, &one);
        let mut waited = Vec::new();
        for cursor in [None, Some(3), None, None, None, None] {
            let before = Instant::now();
            tokio::time::sleep_until(known.next_at().unwrap()).await;
            waited.push(before.elapsed().as_secs());
            assert_eq!(due(&mut known).len(), 1);
            let lack = known.lack(one.name()).unwrap();
            assert_eq!(lack.prefill, Some((waited.len() > 2).then_some(3)));
            known.tended(one.name(), cursor, Instant::now());
        }
        assert_eq!(waited, [10, 20, 40, 80, 160, 300]);
        told(&mut known, &subscription(&[], Prefill::Failed { reason: "x".into() }));
        assert_eq!(known.next_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_life_left_is_looked_for_and_never_of_an_unreadable_record() {
        let (mut known, one) = (Known::new(), subscription(&[], Prefill::None));
        told(&mut known, &one);
        let again = Incarnation { uid: "0011".into(), ..one.incarnation.clone() };
        told(&mut known, &Subscription { incarnation: again.clone(), ..one.clone() });
        assert_eq!(due(&mut known), []);
        tokio::time::advance(GRACE).await;
        assert_eq!(due(&mut known), [Key::Gone(one.incarnation.clone())]);
        let lives: BTreeSet<_> = [one.incarnation.clone(), again.clone()].into();
        known.sweep(lives.clone(), Instant::now());
        assert_eq!(due(&mut known), [Key::Gone(one.incarnation.clone())]);
        known.subscription(put("people", b"not json".to_vec()), Instant::now());
        known.sweep(lives.clone(), Instant::now());
        assert_eq!(due(&mut known), [], "it may be of any life");
        let key = Subject::new("people").unwrap();
        known.subscription(KvChange::Delete { key, revision: 9 }, Instant::now());
        known.sweep(lives, Instant::now());
        assert_eq!(due(&mut known).len(), 2);
    }
}
