//! Where a stream-mode client stands, which the client itself keeps.

use std::collections::BTreeMap;

use crate::model::{Realm, Subscription};

/// Everything up to here has been sent. Only ever grows within a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The generation it belongs to.
    pub(super) generation: u32,
    /// How far it is in it.
    pub(super) phase: Phase,
}

/// The part of a generation that a client is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been sent, the start of the prefill included.
    Start,
    /// Every row up to this sequence of the prefill stream has been sent.
    Prefill {
        /// 0 before the first row.
        sequence: u64,
    },
    /// The prefill is behind; for each realm the last log sequence that was looked at.
    Live(BTreeMap<Realm, u64>),
}

impl Position {
    /// Before everything the subscription has to say.
    pub(super) fn start(subscription: &Subscription) -> Self {
        if !subscription.wants_prefill() {
            return Self::fence(subscription);
        }
        let generation = subscription.incarnation.generation;
        Self { generation, phase: Phase::Start }
    }

    /// Right after the prefill.
    pub(super) fn fence(subscription: &Subscription) -> Self {
        let generation = subscription.incarnation.generation;
        Self { generation, phase: Phase::Live(subscription.fence.clone()) }
    }

    /// The last sequence of a realm that was looked at; `None` before the live part.
    pub(super) fn of(&self, realm: &Realm) -> Option<u64> {
        match &self.phase {
            Phase::Start | Phase::Prefill { .. } => None,
            Phase::Live(realms) => realms.get(realm).copied(),
        }
    }

    /// Moves on in a realm.
    pub(super) fn advance(&mut self, realm: &Realm, sequence: u64) {
        if let Phase::Live(realms) = &mut self.phase {
            match realms.get_mut(realm) {
                Some(at) => *at = sequence.max(*at),
                None => drop(realms.insert(realm.clone(), sequence)),
            }
        }
    }
}
