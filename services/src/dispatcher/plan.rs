//! What to do about it: a function without side effects.

use std::collections::BTreeSet;

use super::observe::Observed;
use crate::model::{Incarnation, Prefill, Realm, Subscription};

/// A pending prefill nobody works at is requested again after this long.
const PATIENCE_MS: u64 = 10_000;

/// One step towards what the records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A realm that the topics include was made after the fence: have it joined.
    Join { of: Incarnation, realm: Realm },
    /// A prefill without a record: rows, manifest and cursor.
    RemovePrefill { of: Incarnation },
    /// Hand-out journals without a record.
    RemoveJournals { of: Incarnation },
    /// A prefill that waits and that nobody is at.
    RequestPrefill { of: Incarnation },
}

/// The difference between what is there and what the records say.
pub(super) fn plan(observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    for kept in &observed.subscriptions {
        for_subscription(observed, &kept.subscription, &mut actions);
    }
    orphans(observed, &mut actions);
    actions
}

fn for_subscription(observed: &Observed, subscription: &Subscription, actions: &mut Vec<Action>) {
    let of = &subscription.incarnation;
    for realm in &observed.realms {
        if subscription.topics.includes_realm(realm) && !subscription.fence.contains_key(realm) {
            actions.push(Action::Join { of: of.clone(), realm: realm.clone() });
        }
    }
    let waits = subscription.prefill == Prefill::Pending
        && subscription.created_ms.saturating_add(PATIENCE_MS) <= observed.now_ms;
    if waits && observed.prefills.get(of) != Some(&true) {
        actions.push(Action::RequestPrefill { of: of.clone() });
    }
}

fn orphans(observed: &Observed, actions: &mut Vec<Action>) {
    let current: BTreeSet<&Incarnation> =
        observed.subscriptions.iter().map(|kept| &kept.subscription.incarnation).collect();
    let readable: BTreeSet<&str> =
        observed.subscriptions.iter().map(|kept| kept.subscription.name().as_str()).collect();
    let is_orphan = |of: &&Incarnation| {
        let unreadable =
            !readable.contains(of.name.as_str()) && observed.names.contains(of.name.as_str());
        !current.contains(*of) && !unreadable
    };
    let prefills = observed.prefills.keys().filter(is_orphan);
    actions.extend(prefills.map(|of| Action::RemovePrefill { of: of.clone() }));
    let journals = observed.journals.iter().filter(is_orphan);
    actions.extend(journals.map(|of| Action::RemoveJournals { of: of.clone() }));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::{Fence, SubscriptionName, TopicSet};
    use crate::store::Kept;

    fn subscription(fence: &[(&str, u64)]) -> Subscription {
        let realm = |name: &str| Realm::new(name).unwrap();
        Subscription {
            incarnation: Incarnation {
                name: SubscriptionName::new("people").unwrap(),
                uid: "00ff".into(),
                generation: 1,
            },
            topics: TopicSet::parse(&["*.*"]).unwrap(),
            prefill: Prefill::Pending,
            fence: fence.iter().map(|(name, at)| (realm(name), *at)).collect::<Fence>(),
            ack_wait: Duration::from_secs(30),
            created_ms: 0,
            secret_hash: String::new(),
        }
    }

    /// One realm `a`, a minute after everything was registered.
    fn observed(subscriptions: &[Subscription]) -> Observed {
        let keep = |s: &Subscription| Kept { subscription: s.clone(), revision: 1 };
        Observed {
            now_ms: 60_000,
            realms: vec![Realm::new("a").unwrap()],
            prefills: BTreeMap::new(),
            journals: BTreeSet::new(),
            subscriptions: subscriptions.iter().map(keep).collect(),
            names: subscriptions.iter().map(|s| s.name().to_string()).collect(),
        }
    }

    #[test]
    fn a_realm_made_later_is_joined() {
        let late = subscription(&[]);
        let of = late.incarnation.clone();
        let join = Action::Join { of: of.clone(), realm: Realm::new("a").unwrap() };
        assert_eq!(plan(&observed(&[late])), [join, Action::RequestPrefill { of }]);
    }

    #[test]
    fn a_prefill_that_somebody_works_at_is_left_alone() {
        let one = subscription(&[("a", 7)]);
        let mut seen = observed(std::slice::from_ref(&one));
        assert_eq!(plan(&seen), [Action::RequestPrefill { of: one.incarnation.clone() }]);
        seen.prefills.insert(one.incarnation, true);
        assert_eq!(plan(&seen), []);
    }

    #[test]
    fn what_is_kept_goes_with_the_record_and_never_for_an_unreadable_one() {
        let one = subscription(&[("a", 7)]);
        let mut seen = observed(std::slice::from_ref(&one));
        seen.prefills.insert(one.incarnation.clone(), true);
        let old = Incarnation { uid: "0011".into(), ..one.incarnation.clone() };
        seen.prefills.insert(old.clone(), true);
        seen.journals = [one.incarnation, old.clone()].into();
        let gone = [Action::RemovePrefill { of: old.clone() }, Action::RemoveJournals { of: old }];
        assert_eq!(plan(&seen), gone);
        // A record that cannot be read may be of any incarnation of its name.
        seen.subscriptions.clear();
        assert_eq!(plan(&seen), []);
    }
}
