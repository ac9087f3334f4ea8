//! The id by which a client settles a delivery, at any replica.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::lane::Place;
use crate::model::Incarnation;
use crate::store::Signer;

const VERSION: u8 = 2;
/// Longer is not ours.
const MAX_ID_BYTES: usize = 1024;

/// What an id says, signed for the subscription's name and uid: a version byte, then this as
/// postcard writes it. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AckId {
    pub(super) place: Place,
    /// Which hand-out of the event it speaks of, from 1.
    pub(super) attempt: u32,
}

impl AckId {
    pub(super) fn seal(&self, signer: &Signer, of: &Incarnation) -> String {
        // Plain numbers and texts: postcard writes them always.
        let payload = postcard::to_extend(self, vec![VERSION]).unwrap_or_default();
        signer.seal(&purpose(of), &payload)
    }

    /// Reads an id back; `None` for what this subscription, in this life, never gave out.
    pub(super) fn open(signer: &Signer, of: &Incarnation, id: &str) -> Option<Self> {
        if id.len() > MAX_ID_BYTES {
            return None;
        }
        let payload = signer.open(&purpose(of), id)?;
        let (version, rest) = payload.split_first()?;
        let (id, rest) = postcard::take_from_bytes(rest).ok()?;
        (*version == VERSION && rest.is_empty()).then_some(id)
    }

    /// The id of a dead letter: the same, without a signature, because it proves nothing.
    pub(super) fn plain(&self) -> String {
        BASE64URL_NOPAD.encode(&postcard::to_allocvec(self).unwrap_or_default())
    }

    /// Reads what [`AckId::plain`] wrote.
    pub(super) fn read_plain(id: &str) -> Option<Self> {
        let payload = BASE64URL_NOPAD.decode(id.as_bytes()).ok()?;
        let (id, rest) = postcard::take_from_bytes(&payload).ok()?;
        rest.is_empty().then_some(id)
    }
}

fn purpose(of: &Incarnation) -> String {
    format!("ack {} {}", of.name, of.uid)
}

#[cfg(test)]
mod tests {
    use super::super::lane::{Lane, Part};
    use super::*;
    use crate::model::{Realm, SubscriptionName};

    #[test]
    fn an_id_opens_for_the_life_it_was_made_in_only() {
        let of = |uid: &str| Incarnation {
            name: SubscriptionName::new("people").unwrap(),
            uid: uid.to_owned(),
            generation: 3,
        };
        let signer = Signer::new([1; 32]);
        for part in [Part::Prefill, Part::Live(Realm::new("directory").unwrap())] {
            let place = Place { lane: Lane { generation: 3, part }, sequence: 1 << 40 };
            let id = AckId { place, attempt: 2 };
            let sealed = id.seal(&signer, &of("a"));
            assert_eq!(AckId::open(&signer, &of("a"), &sealed).as_ref(), Some(&id));
            assert_eq!(AckId::open(&signer, &of("b"), &sealed), None);
            assert_eq!(AckId::open(&signer, &of("a"), &sealed[1..]), None);
            assert_eq!(AckId::read_plain(&id.plain()), Some(id));
        }
        assert_eq!(AckId::read_plain("rubbish"), None);
    }
}
