//! What to do about it: a function without side effects.

use std::collections::BTreeSet;
use std::time::Duration;

use super::observe::{Observed, Queue};
use crate::model::{Incarnation, Prefill, Realm, Subscription, names};

/// A queue is made before its record; one that is younger than this may still get it.
const GRACE: Duration = Duration::from_secs(60);
/// A pending prefill nobody works at is requested again after this long.
const PATIENCE_MS: u64 = 10_000;

/// One step towards what the records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A realm that the topics include was made after the fence: make the final queue on it and
    /// have it joined.
    Join { subscription: Box<Subscription>, realm: Realm },
    /// The final queue that the record speaks of is not there: look again and report it.
    Lost { of: Incarnation, realm: Realm },
    /// A final queue without a record.
    RemoveFinalQueue { realm: Realm, queue: String },
    /// The consumer of a prefill queue without a record.
    RemovePrefillQueue { queue: String },
    /// A prefill without a record: rows, manifest and cursor.
    RemovePrefill { of: Incarnation },
    /// What is settled of queues without a record.
    RemoveSettled { of: Incarnation },
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
    for (realm, queues) in &observed.queues {
        if !subscription.topics.includes_realm(realm) {
            continue;
        }
        let exists = names::final_queue(of).is_ok_and(|queue| queues.contains_key(queue.as_str()));
        let (realm, joined) = (realm.clone(), subscription.fence.contains_key(realm));
        match (joined, exists) {
            (true, true) => {}
            (true, false) => actions.push(Action::Lost { of: of.clone(), realm }),
            (false, _) => {
                let subscription = Box::new(subscription.clone());
                actions.push(Action::Join { subscription, realm });
            }
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
    let final_queues: BTreeSet<String> =
        current.iter().filter_map(|of| Some(names::final_queue(of).ok()?.to_string())).collect();
    let prefill_queues: BTreeSet<String> =
        current.iter().filter_map(|of| Some(names::prefill_queue(of).ok()?.to_string())).collect();
    let readable: BTreeSet<&str> =
        observed.subscriptions.iter().map(|kept| kept.subscription.name().as_str()).collect();
    let unreadable: Vec<&String> =
        observed.names.iter().filter(|name| !readable.contains(name.as_str())).collect();
    let of_unreadable = |name: &str| unreadable.iter().any(|own| name.contains(own.as_str()));
    let old =
        |queue: &Queue| observed.now.duration_since(queue.created).is_ok_and(|age| age >= GRACE);
    for (realm, queues) in &observed.queues {
        for (name, queue) in queues {
            let ours = name.starts_with(names::FINAL_QUEUE_PREFIX);
            if ours && old(queue) && !final_queues.contains(name) && !of_unreadable(name) {
                let (realm, queue) = (realm.clone(), name.clone());
                actions.push(Action::RemoveFinalQueue { realm, queue });
            }
        }
    }
    for (name, queue) in &observed.prefill_queues {
        if old(queue) && !prefill_queues.contains(name) && !of_unreadable(name) {
            actions.push(Action::RemovePrefillQueue { queue: name.clone() });
        }
    }
    for of in observed.prefills.keys() {
        if !current.contains(of) && !of_unreadable(of.name.as_str()) {
            actions.push(Action::RemovePrefill { of: of.clone() });
        }
    }
    for of in &observed.settled {
        if !current.contains(of) && !of_unreadable(of.name.as_str()) {
            actions.push(Action::RemoveSettled { of: of.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

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

    /// One realm `a` with the named queues, all older than the grace.
    fn observed(subscriptions: &[Subscription], queues: &[&str]) -> Observed {
        let queue = |name: &&str| ((*name).to_owned(), Queue { created: SystemTime::UNIX_EPOCH });
        let keep = |s: &Subscription| Kept { subscription: s.clone(), revision: 1 };
        Observed {
            now: SystemTime::UNIX_EPOCH + GRACE,
            now_ms: 60_000,
            queues: [(Realm::new("a").unwrap(), queues.iter().map(queue).collect())].into(),
            prefill_queues: BTreeMap::new(),
            prefills: BTreeMap::new(),
            settled: BTreeSet::new(),
            subscriptions: subscriptions.iter().map(keep).collect(),
            names: subscriptions.iter().map(|s| s.name().to_string()).collect(),
        }
    }

    #[test]
    fn a_realm_made_later_is_joined_and_a_lost_queue_reported() {
        let (late, lost) = (subscription(&[]), subscription(&[("a", 7)]));
        let of = late.incarnation.clone();
        let realm = Realm::new("a").unwrap();
        let request = Action::RequestPrefill { of: of.clone() };
        let join = Action::Join { subscription: Box::new(late.clone()), realm: realm.clone() };
        assert_eq!(plan(&observed(&[late], &[])), [join, request.clone()]);
        assert_eq!(plan(&observed(&[lost], &[])), [Action::Lost { of, realm }, request]);
    }

    #[test]
    fn a_prefill_that_somebody_works_at_is_left_alone() {
        let one = subscription(&[("a", 7)]);
        let mut seen = observed(std::slice::from_ref(&one), &["sub-people-00ff-1"]);
        assert_eq!(plan(&seen), [Action::RequestPrefill { of: one.incarnation.clone() }]);
        seen.prefills.insert(one.incarnation, true);
        assert_eq!(plan(&seen), []);
    }

    #[test]
    fn settlements_go_with_the_record_of_their_incarnation() {
        let one = subscription(&[("a", 7)]);
        let mut seen = observed(std::slice::from_ref(&one), &["sub-people-00ff-1"]);
        seen.prefills.insert(one.incarnation.clone(), true);
        let old = Incarnation { uid: "0011".into(), ..one.incarnation.clone() };
        seen.settled = [one.incarnation, old.clone()].into();
        assert_eq!(plan(&seen), [Action::RemoveSettled { of: old }]);
        // A record that cannot be read may be of any incarnation of its name.
        seen.subscriptions.clear();
        assert_eq!(plan(&seen), []);
    }

    #[test]
    fn orphans_go_after_the_grace_and_never_for_an_unreadable_record() {
        let orphan = "sub-gone-0011-1";
        let mut seen = observed(&[], &[orphan, "somebody-elses"]);
        let gone =
            Action::RemoveFinalQueue { realm: Realm::new("a").unwrap(), queue: orphan.to_owned() };
        assert_eq!(plan(&seen), [gone]);
        seen.names.insert("gone".to_owned());
        assert_eq!(plan(&seen), []);
        seen.names.clear();
        seen.now = SystemTime::UNIX_EPOCH;
        assert_eq!(plan(&seen), []);
    }
}
