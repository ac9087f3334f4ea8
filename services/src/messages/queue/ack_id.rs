//! The id by which a client settles a delivery, at any replica.

use bus::LeaseToken;

use super::lane::{Lane, Part, Place};
use super::ledger::HandedOut;
use crate::messages::varint::{Reader, Writer};
use crate::model::{Incarnation, Realm};
use crate::store::Signer;

const VERSION: u8 = 1;
const PREFILL: u8 = 0;
const LIVE: u8 = 1;
/// Longer is not ours.
const MAX_ID_BYTES: usize = 1024;

/// What an id says, signed for the subscription's name and uid. Keep stable.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AckId {
    pub(super) place: Place,
    pub(super) attempt: u32,
    /// When the lease ends unless it is extended, milliseconds since 1970.
    pub(super) deadline_ms: u64,
    pub(super) token: LeaseToken,
}

impl AckId {
    pub(super) fn new(out: &HandedOut, deadline_ms: u64) -> Self {
        let (attempt, token) = (out.lease.attempt, out.lease.token.clone());
        Self { place: out.place.clone(), attempt, deadline_ms, token }
    }

    pub(super) fn seal(&self, signer: &Signer, of: &Incarnation) -> String {
        let mut payload = Writer::default();
        payload.byte(VERSION);
        payload.number(u64::from(self.place.lane.generation));
        match &self.place.lane.part {
            Part::Prefill => payload.byte(PREFILL),
            Part::Live(realm) => {
                payload.byte(LIVE);
                payload.text(realm.as_str());
            }
        }
        payload.number(self.place.sequence);
        payload.number(u64::from(self.attempt));
        payload.number(self.deadline_ms);
        payload.text(self.token.as_str());
        signer.seal(&purpose(of), &payload.finish())
    }

    /// Reads an id back; `None` for what this subscription, in this life, never gave out.
    pub(super) fn open(signer: &Signer, of: &Incarnation, id: &str) -> Option<Self> {
        if id.len() > MAX_ID_BYTES {
            return None;
        }
        let payload = signer.open(&purpose(of), id)?;
        let mut payload = Reader::new(&payload);
        if payload.byte()? != VERSION {
            return None;
        }
        let generation = u32::try_from(payload.number()?).ok()?;
        let part = match payload.byte()? {
            PREFILL => Part::Prefill,
            LIVE => Part::Live(Realm::new(payload.text()?).ok()?),
            _ => return None,
        };
        let lane = Lane { generation, part };
        let place = Place { lane, sequence: payload.number()? };
        let attempt = u32::try_from(payload.number()?).ok()?;
        let deadline_ms = payload.number()?;
        let token = LeaseToken::from(payload.text()?);
        payload.is_empty().then_some(Self { place, attempt, deadline_ms, token })
    }
}

fn purpose(of: &Incarnation) -> String {
    format!("ack {} {}", of.name, of.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SubscriptionName;

    #[test]
    fn an_id_opens_for_the_life_it_was_made_in_only() {
        let of = |uid: &str| Incarnation {
            name: SubscriptionName::new("people").unwrap(),
            uid: uid.to_owned(),
            generation: 3,
        };
        let signer = Signer::new([1; 32]);
        for part in [Part::Prefill, Part::Live(Realm::new("directory").unwrap())] {
            let id = AckId {
                place: Place { lane: Lane { generation: 3, part }, sequence: 1 << 40 },
                attempt: 2,
                deadline_ms: 1_700_000_000_000,
                token: LeaseToken::from("$JS.ACK.events-directory.sub.1.2.3.4.5"),
            };
            let sealed = id.seal(&signer, &of("a"));
            assert_eq!(AckId::open(&signer, &of("a"), &sealed), Some(id));
            assert_eq!(AckId::open(&signer, &of("b"), &sealed), None);
            assert_eq!(AckId::open(&signer, &of("a"), &sealed[1..]), None);
        }
    }
}
