//! Where a stream-mode client stands, which the client itself keeps.

use crate::model::{Mark, Marks, Realm, Subscription};

/// Everything up to here has been sent. Only ever grows within a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::messages) struct Position {
    /// The generation it belongs to.
    pub(in crate::messages) generation: u32,
    /// How far it is in it.
    pub(in crate::messages) phase: Phase,
}

/// The part of a generation that a client is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::messages) enum Phase {
    /// Nothing has been sent, the start of the prefill included.
    Start,
    /// Every row up to this sequence of the prefill stream has been sent.
    Prefill {
        /// 0 before the first row.
        sequence: u64,
    },
    /// The prefill is behind; for each realm the last place in its log that was looked at.
    Live(Marks),
}

impl Position {
    /// Before everything the subscription has to say.
    pub(in crate::messages) fn start(subscription: &Subscription) -> Self {
        if !subscription.wants_prefill() {
            return Self::fence(subscription);
        }
        let generation = subscription.incarnation.generation;
        Self { generation, phase: Phase::Start }
    }

    /// Right after the prefill.
    pub(in crate::messages) fn fence(subscription: &Subscription) -> Self {
        let generation = subscription.incarnation.generation;
        Self { generation, phase: Phase::Live(subscription.fence_marks()) }
    }

    /// The last place of a realm that was looked at; `None` before the live part.
    pub(in crate::messages) fn of(&self, realm: &Realm) -> Option<Mark> {
        match &self.phase {
            Phase::Start | Phase::Prefill { .. } => None,
            Phase::Live(realms) => realms.get(realm).copied(),
        }
    }

    /// Moves on in a realm.
    pub(in crate::messages) fn advance(&mut self, realm: &Realm, to: Mark) {
        if let Phase::Live(realms) = &mut self.phase {
            match realms.get_mut(realm) {
                Some(at) if at.sequence >= to.sequence => {}
                Some(at) => *at = to,
                None => drop(realms.insert(realm.clone(), to)),
            }
        }
    }

    /// Takes in the realms that joined the subscription.
    pub(in crate::messages) fn join(&mut self, subscription: &Subscription) {
        if let Phase::Live(realms) = &mut self.phase {
            for realm in subscription.fence.keys() {
                if !realms.contains_key(realm) {
                    realms.insert(realm.clone(), subscription.mark(realm));
                }
            }
        }
    }

    /// Stands at another place of a realm, whose log is another too.
    pub(in crate::messages) fn replace(&mut self, realm: &Realm, to: Mark) {
        if let Phase::Live(realms) = &mut self.phase {
            realms.insert(realm.clone(), to);
        }
    }
}
