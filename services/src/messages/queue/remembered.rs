//! What was settled lately, so that a settlement taken twice succeeds twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::ack_id::AckId;
use super::lane::Place;
use crate::model::Incarnation;

/// How many settlements a process remembers.
const REMEMBERED: usize = 65_536;

/// How a delivery was settled for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Ack,
    Nack,
}

/// The settlements of this process, the oldest forgotten first. A client that repeats itself
/// after a lost answer does so within seconds; whoever is later is told `stale`.
#[derive(Default)]
pub(super) struct Remembered(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    settled: BTreeMap<Delivery, Settled>,
    order: VecDeque<Delivery>,
}

/// Uid, place, attempt.
type Delivery = (String, Place, u32);

impl Remembered {
    pub(super) fn get(&self, of: &Incarnation, id: &AckId) -> Option<Settled> {
        self.lock().settled.get(&delivery(of, id)).copied()
    }

    pub(super) fn add(&self, of: &Incarnation, id: &AckId, how: Settled) {
        let delivery = delivery(of, id);
        let mut memory = self.lock();
        if memory.settled.insert(delivery.clone(), how).is_none() {
            memory.order.push_back(delivery);
        }
        if memory.order.len() > REMEMBERED
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.settled.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delivery(of: &Incarnation, id: &AckId) -> Delivery {
    (of.uid.clone(), id.place.clone(), id.attempt)
}
