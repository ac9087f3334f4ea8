//! What a session has fetched and not seen settled, and what of it may be handed out now.
//!
//! This is where order per key is kept (I3). Of the unsettled messages of a key only the one with
//! the lowest sequence is ever with a client; the later ones are held. A message leaves when it is
//! settled, and only then the next of its key becomes ready. A message whose lease was lost or
//! given back to the bus stays, as [`State::Away`], and blocks its key until it comes again.
//!
//! The ledger is plain data without a clock: it is told everything, and never waits.

use std::collections::{BTreeMap, BTreeSet};

use bus::LeaseToken;
use bytes::Bytes;
use tokio::time::Instant;

use super::lane::{Lane, Place};
use crate::model::{Key, Topic};

/// A delivery as it was fetched.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) place: Place,
    /// What order is kept by.
    pub(super) key: (Topic, Key),
    pub(super) lease: Lease,
    pub(super) body: Body,
}

/// One delivery's hold on a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lease {
    pub(super) attempt: u32,
    pub(super) expires: Instant,
    pub(super) token: LeaseToken,
}

/// What the client gets to see.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Body {
    /// The sequence in the realm's log.
    pub(super) sequence: u64,
    /// The event as JSON, encoded once.
    pub(super) event: Bytes,
}

/// A delivery on its way to a client.
#[derive(Debug, PartialEq)]
pub(super) struct HandedOut {
    pub(super) place: Place,
    pub(super) lease: Lease,
    pub(super) body: Body,
}

/// What the ledger knows of the delivery that a client speaks of.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// With a client, until then.
    Out(Instant),
    /// A later delivery of the message has taken its place, or it is on its way back.
    Superseded,
    /// The ledger has not seen the message, or has seen it settled.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// Here; ready to be handed out where a turn is given, else blocked.
    Held { body: Body, turn: Option<u64> },
    /// With a client.
    Out,
    /// On the bus, to come again.
    Away,
}

#[derive(Debug)]
struct Flight {
    key: OrderKey,
    lease: Lease,
    state: State,
}

type OrderKey = (Lane, (Topic, Key));

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    flights: BTreeMap<Place, Flight>,
    /// The unsettled sequences of each key, lowest first.
    keys: BTreeMap<OrderKey, BTreeSet<u64>>,
    /// What may be handed out, in the order in which it became ready.
    ready: BTreeMap<u64, Place>,
    turns: u64,
    /// Lanes of which nothing is handed out; see [`Ledger::withhold`].
    withheld: BTreeSet<Lane>,
}

impl Ledger {
    /// Takes in a delivery. A redelivery replaces the lease it follows; a copy of one that is
    /// here already changes nothing.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { place, key, lease, body } = fetched;
        if let Some(before) = self.flights.get(&place) {
            if before.lease.attempt >= lease.attempt {
                return;
            }
            self.unready(&place);
        }
        let key = (place.lane.clone(), key);
        self.keys.entry(key.clone()).or_default().insert(place.sequence);
        let state = State::Held { body, turn: None };
        self.flights.insert(place, Flight { key: key.clone(), lease, state });
        self.promote(&key);
    }

    /// Up to `max` deliveries, marked as out. One whose lease has ended meanwhile is not handed
    /// out: it comes again.
    pub(super) fn hand_out(&mut self, max: usize, now: Instant) -> Vec<HandedOut> {
        let mut out = Vec::new();
        while out.len() < max
            && let Some((_, place)) = self.ready.pop_first()
        {
            let Some(flight) = self.flights.get_mut(&place) else { continue };
            if flight.lease.expires <= now {
                flight.state = State::Away;
            } else if let State::Held { body, .. } =
                std::mem::replace(&mut flight.state, State::Out)
            {
                out.push(HandedOut { place, lease: flight.lease.clone(), body });
            }
        }
        out
    }

    /// Takes back what did not reach a client.
    pub(super) fn give_back(&mut self, back: HandedOut) {
        if let Some(flight) = self.flights.get_mut(&back.place)
            && flight.state == State::Out
            && flight.lease.attempt == back.lease.attempt
        {
            flight.state = State::Held { body: back.body, turn: None };
            let key = flight.key.clone();
            self.promote(&key);
        }
    }

    /// The message is settled for good: the next of its key may go.
    pub(super) fn settled(&mut self, place: &Place) {
        self.unready(place);
        let Some(flight) = self.flights.remove(place) else { return };
        if let Some(sequences) = self.keys.get_mut(&flight.key) {
            sequences.remove(&place.sequence);
            if sequences.is_empty() {
                self.keys.remove(&flight.key);
            }
        }
        self.promote(&flight.key);
    }

    /// This delivery was given back to the bus or has lost its lease.
    pub(super) fn away(&mut self, place: &Place, attempt: u32) {
        if self.flights.get(place).is_some_and(|flight| flight.lease.attempt == attempt) {
            self.unready(place);
            if let Some(flight) = self.flights.get_mut(place) {
                flight.state = State::Away;
            }
        }
    }

    /// This delivery's lease was renewed.
    pub(super) fn extended(&mut self, place: &Place, attempt: u32, expires: Instant) {
        if let Some(flight) = self.flights.get_mut(place)
            && flight.lease.attempt == attempt
        {
            flight.lease.expires = expires.max(flight.lease.expires);
        }
    }

    /// How a client's word on a delivery is to be judged.
    pub(super) fn judge(&self, place: &Place, attempt: u32) -> Verdict {
        match self.flights.get(place) {
            None => Verdict::Unknown,
            Some(flight) if flight.lease.attempt == attempt && flight.state == State::Out => {
                Verdict::Out(flight.lease.expires)
            }
            Some(_) => Verdict::Superseded,
        }
    }

    /// Hands out nothing of the lane until [`Ledger::release`]: an older message may be leased to
    /// someone who is not here any more, and must come first.
    pub(super) fn withhold(&mut self, lane: &Lane) {
        self.withheld.insert(lane.clone());
        let of_lane: Vec<Place> =
            self.ready.values().filter(|place| place.lane == *lane).cloned().collect();
        of_lane.iter().for_each(|place| self.unready(place));
    }

    /// Ends [`Ledger::withhold`]: what is held becomes ready in stream order under the key rule.
    pub(super) fn release(&mut self, lane: &Lane) {
        self.withheld.remove(lane);
        let keys: Vec<OrderKey> = self.of_lane(lane).map(|(_, f)| f.key.clone()).collect();
        keys.iter().for_each(|key| self.promote(key));
    }

    pub(super) fn is_withheld(&self, lane: &Lane) -> bool {
        self.withheld.contains(lane)
    }

    /// Drops what other replicas settled meanwhile. How many deliveries the bus calls unsettled
    /// proves nothing: a bus that was killed may have forgotten some.
    pub(super) fn observe(&mut self, lane: &Lane, settled: impl Fn(u64) -> bool) {
        let done: Vec<Place> = self
            .of_lane(lane)
            .filter(|(place, _)| settled(place.sequence))
            .map(|(place, _)| place.clone())
            .collect();
        done.iter().for_each(|place| self.settled(place));
    }

    /// Every delivery that is here, with the lease to extend.
    pub(super) fn held(&self) -> Vec<(Place, Lease)> {
        let held = |(place, flight): (&Place, &Flight)| {
            let is_held = matches!(flight.state, State::Held { .. });
            is_held.then(|| (place.clone(), flight.lease.clone()))
        };
        self.flights.iter().filter_map(held).collect()
    }

    /// How many of the lane are here.
    pub(super) fn held_in(&self, lane: &Lane) -> usize {
        self.of_lane(lane).filter(|(_, f)| matches!(f.state, State::Held { .. })).count()
    }

    /// How many of the lane are unsettled, as far as the ledger knows.
    pub(super) fn count(&self, lane: &Lane) -> usize {
        self.of_lane(lane).count()
    }

    /// How many may be handed out now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// True when a client has something whose lease runs.
    pub(super) fn any_out(&self, now: Instant) -> bool {
        self.flights.values().any(|f| f.state == State::Out && f.lease.expires > now)
    }

    /// True when something is here that another message blocks.
    pub(super) fn any_blocked(&self) -> bool {
        self.flights.values().any(|f| matches!(f.state, State::Held { turn: None, .. }))
    }

    /// Forgets a lane: its queue is gone, and with it every lease.
    pub(super) fn forget(&mut self, lane: &Lane) {
        self.withheld.remove(lane);
        self.ready.retain(|_, place| place.lane != *lane);
        self.flights.retain(|place, _| place.lane != *lane);
        self.keys.retain(|(of, _), _| of != lane);
    }

    fn of_lane<'a>(&'a self, lane: &Lane) -> impl Iterator<Item = (&'a Place, &'a Flight)> {
        let place = |sequence| Place { lane: lane.clone(), sequence };
        self.flights.range(place(0)..=place(u64::MAX))
    }

    /// Gives the first message of a key its turn, if it is here and not withheld.
    fn promote(&mut self, key: &OrderKey) {
        if self.withheld.contains(&key.0) {
            return;
        }
        let place = |sequence: &u64| Place { lane: key.0.clone(), sequence: *sequence };
        let Some(sequences) = self.keys.get(key) else { return };
        let (first, second) = (sequences.first().map(place), sequences.iter().nth(1).map(place));
        // The second was the first until an older message of the key came back.
        if let Some(second) = second {
            self.unready(&second);
        }
        let Some(first) = first else { return };
        if let Some(flight) = self.flights.get_mut(&first)
            && let State::Held { turn: turn @ None, .. } = &mut flight.state
        {
            self.turns += 1;
            *turn = Some(self.turns);
            self.ready.insert(self.turns, first);
        }
    }

    fn unready(&mut self, place: &Place) {
        if let Some(Flight { state: State::Held { turn, .. }, .. }) = self.flights.get_mut(place)
            && let Some(turn) = turn.take()
        {
            self.ready.remove(&turn);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
