//! Which deliveries were given back for a retry: an ack by the token of one comes too late.

use std::collections::{BTreeSet, VecDeque};

use crate::kafka::token::Slot;

/// So many are remembered; the token of one that is forgotten counts as that of an acked message.
const MOST: usize = 16_384;

/// Where messages were whose copies come again.
#[derive(Debug, Default)]
pub(super) struct Retried {
    slots: BTreeSet<Slot>,
    oldest: VecDeque<Slot>,
}

impl Retried {
    pub(super) fn add(&mut self, slot: Slot) {
        if self.slots.insert(slot) {
            self.oldest.push_back(slot);
        }
        if self.oldest.len() > MOST
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.slots.remove(&oldest);
        }
    }

    pub(super) fn has(&self, slot: Slot) -> bool {
        self.slots.contains(&slot)
    }

    /// Forgets what is not to be kept, because its tokens are over.
    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        self.oldest.retain(|slot| keep(*slot));
        self.slots.retain(|slot| keep(*slot));
    }
}
