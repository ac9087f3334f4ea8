//! The resume token: a [`Position`] that the client carries, and cannot forge or mix up.
//!
//! The payload is signed for the subscription's name and holds, each as a varint unless said
//! otherwise: a version byte, eight bytes of the hash of the subscription's uid, the generation, a
//! phase byte, and then nothing (at the start), the sequence in the prefill stream or, for each
//! realm that is beyond the fence, four bytes of the hash of its name, its distance from the fence
//! and when its log took the event there (milliseconds since 1970, 0 where that is not known). Who
//! reads from before the fence has another phase byte and, in place of distances, sequences.
//! Keep stable. Version 1, which had no times, is read too: of its places no more can be told
//! than that the log ends before them.
//!
//! Realms are named by hash because a realm that joins later would move an index, and names are
//! long. If two realms of a subscription ever share a hash (one chance in 2^32 a pair) the token
//! cannot be read and the client is told to start over: never a wrong position. With 20 realms,
//! all of them moving, a token stays under 448 characters.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::position::{Phase, Position};
use super::varint::{Reader, Writer};
use crate::model::{Mark, Marks, Realm, Subscription, SubscriptionName};
use crate::store::Signer;

const VERSION: u8 = 2;
const WITHOUT_TIMES: u8 = 1;
const START: u8 = 0;
const PREFILL: u8 = 1;
const LIVE: u8 = 2;
/// Live, and of some realm before the fence: sequences are written as they are.
const FROM: u8 = 3;
/// Longer is not ours: room for as many realms as there can be.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a token says to the subscription as it is now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::messages) enum Resumed {
    /// Go on from here.
    At(Position),
    /// It was good once: start over, for this reason.
    Expired(String),
    /// It was never ours.
    Invalid,
}

/// The token of the start: what proves to later requests that an earlier one was let in.
pub(in crate::messages) fn seal_start(signer: &Signer, subscription: &Subscription) -> String {
    seal(signer, subscription, &Position::start(subscription))
}

/// Writes a position of this subscription as a token.
pub(in crate::messages) fn seal(
    signer: &Signer,
    subscription: &Subscription,
    position: &Position,
) -> String {
    let mut payload = Writer::default();
    payload.byte(VERSION);
    payload.raw(&uid_hash(subscription));
    payload.number(u64::from(position.generation));
    match &position.phase {
        Phase::Start => payload.byte(START),
        Phase::Prefill { sequence } => {
            payload.byte(PREFILL);
            payload.number(*sequence);
        }
        Phase::Live(realms) => write_realms(subscription, realms, &mut payload),
    }
    signer.seal(&purpose(subscription.name()), &payload.finish())
}

fn write_realms(subscription: &Subscription, realms: &Marks, payload: &mut Writer) {
    let fence = |realm| subscription.fence.get(realm).copied().unwrap_or(0);
    let from = realms.iter().any(|(realm, mark)| mark.sequence < fence(realm));
    payload.byte(if from { FROM } else { LIVE });
    for (realm, mark) in realms {
        let fence = fence(realm);
        if mark.sequence != fence {
            payload.raw(&hash::<4>(realm.as_str()));
            payload.number(if from { mark.sequence } else { mark.sequence - fence });
            payload.number(mark.time_ms());
        }
    }
}

/// Reads a token that was brought to this subscription.
pub(in crate::messages) fn open(
    signer: &Signer,
    subscription: &Subscription,
    token: &str,
) -> Resumed {
    if token.len() > MAX_TOKEN_BYTES {
        return Resumed::Invalid;
    }
    match signer.open(&purpose(subscription.name()), token) {
        Some(payload) => read(subscription, &payload).unwrap_or(Resumed::Invalid),
        None => Resumed::Invalid,
    }
}

fn read(subscription: &Subscription, payload: &[u8]) -> Option<Resumed> {
    let mut payload = Reader::new(payload);
    let version = payload.byte()?;
    if !matches!(version, VERSION | WITHOUT_TIMES) {
        return Some(Resumed::Expired("the token is of another version of Lockgate".to_owned()));
    }
    if payload.raw()? != uid_hash(subscription) {
        let reason = "the subscription was prefilled or registered again since";
        return Some(Resumed::Expired(reason.to_owned()));
    }
    let generation = u32::try_from(payload.number()?).ok()?;
    let current = subscription.incarnation.generation;
    if generation != current {
        let reason = format!("the token is of generation {generation}, now it is {current}");
        return Some(Resumed::Expired(reason));
    }
    let phase = match payload.byte()? {
        START => Phase::Start,
        PREFILL => Phase::Prefill { sequence: payload.number()? },
        phase @ (LIVE | FROM) => {
            match read_realms(subscription, &mut payload, version == VERSION, phase == FROM)? {
                Some(realms) => Phase::Live(realms),
                None => {
                    return Some(Resumed::Expired(
                        "the token names a realm that is gone".to_owned(),
                    ));
                }
            }
        }
        _ => return None,
    };
    payload.is_empty().then_some(Resumed::At(Position { generation, phase }))
}

/// The outer `None`: malformed. The inner one: a hash that names no realm, or several.
fn read_realms(
    subscription: &Subscription,
    payload: &mut Reader<'_>,
    with_times: bool,
    from: bool,
) -> Option<Option<Marks>> {
    let mut by_hash: BTreeMap<[u8; 4], Vec<&Realm>> = BTreeMap::new();
    for realm in subscription.fence.keys() {
        by_hash.entry(hash(realm.as_str())).or_default().push(realm);
    }
    let mut realms = subscription.fence_marks();
    while !payload.is_empty() {
        let (hash, distance) = (payload.raw::<4>()?, payload.number()?);
        let time_ms = if with_times { payload.number()? } else { 0 };
        let Some([realm]) = by_hash.get(&hash).map(Vec::as_slice) else { return Some(None) };
        let mark = realms.get_mut(*realm)?;
        let base = if from { 0 } else { mark.sequence };
        let sequence = base.checked_add(distance)?;
        // A log with another life has another fence, and the subscription another generation.
        *mark = Mark::bare(sequence).in_life(mark.life()).at_ms(time_ms);
    }
    Some(Some(realms))
}

fn purpose(name: &SubscriptionName) -> String {
    format!("resume {name}")
}

fn uid_hash(subscription: &Subscription) -> [u8; 8] {
    hash(&subscription.incarnation.uid)
}

fn hash<const N: usize>(text: &str) -> [u8; N] {
    let full: [u8; 32] = Sha256::digest(text).into();
    std::array::from_fn(|at| full.get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(uid: &str, generation: u32, realms: &[(&str, u64)]) -> Subscription {
        let fence: BTreeMap<&str, u64> = realms.iter().copied().collect();
        serde_json::from_value(serde_json::json!({
            "name": "people", "uid": uid, "generation": generation, "topics": ["*.*"],
            "prefill": {"status": "pending"}, "fence": fence, "ack_wait_ms": 1000,
            "created_ms": 1, "secret_hash": "",
        }))
        .unwrap()
    }

    fn realm(name: &str) -> Realm {
        Realm::new(name).unwrap()
    }

    #[test]
    fn a_position_survives_the_round_trip_and_a_realm_that_joins() {
        let signer = Signer::new([7; 32]);
        let before = subscription("a", 1, &[("m", 10), ("x", 0)]);
        let mut position = Position::fence(&before);
        position.advance(&realm("x"), Mark::bare(7).at_ms(1_700_000_000_123));
        let token = seal(&signer, &before, &position);
        assert_eq!(open(&signer, &before, &token), Resumed::At(position.clone()));

        let after = subscription("a", 1, &[("b", 0), ("m", 10), ("x", 0)]);
        position.advance(&realm("b"), Mark::bare(0));
        assert_eq!(open(&signer, &after, &token), Resumed::At(position));

        let mut early = Position::fence(&before);
        early.replace(&realm("m"), Mark::bare(3).at_ms(5));
        early.replace(&realm("x"), Mark::bare(9).at_ms(6));
        let token = seal(&signer, &before, &early);
        assert_eq!(open(&signer, &before, &token), Resumed::At(early), "before the fence");

        let start = Position::start(&before);
        assert_eq!(start.phase, Phase::Start);
        let row = Position { phase: Phase::Prefill { sequence: 300 }, ..start.clone() };
        for position in [start, row] {
            let token = seal(&signer, &before, &position);
            assert_eq!(open(&signer, &before, &token), Resumed::At(position));
        }
    }

    #[test]
    fn a_token_of_version_1_is_read_and_has_no_times() {
        let (signer, now) = (Signer::new([7; 32]), subscription("a", 1, &[("m", 10)]));
        let mut payload = Writer::default();
        payload.byte(WITHOUT_TIMES);
        payload.raw(&uid_hash(&now));
        payload.number(1);
        payload.byte(LIVE);
        payload.raw(&hash::<4>("m"));
        payload.number(5);
        let token = signer.seal(&purpose(now.name()), &payload.finish());
        let mut position = Position::fence(&now);
        position.advance(&realm("m"), Mark::bare(15));
        assert_eq!(open(&signer, &now, &token), Resumed::At(position));
    }

    #[test]
    fn an_earlier_life_has_expired_and_a_forgery_is_invalid() {
        let signer = Signer::new([7; 32]);
        let now = subscription("a", 2, &[("m", 10)]);
        let token = seal(&signer, &now, &Position::fence(&now));
        let expired =
            |other: &Subscription| matches!(open(&signer, other, &token), Resumed::Expired(_));
        assert!(expired(&subscription("b", 2, &[("m", 10)])));
        assert!(expired(&subscription("a", 3, &[("m", 10)])));
        for bad in ["", "x", &token[1..], &"x".repeat(20_000)] {
            assert_eq!(open(&signer, &now, bad), Resumed::Invalid);
        }
        assert_eq!(open(&Signer::new([8; 32]), &now, &token), Resumed::Invalid);
    }

    #[test]
    fn twenty_moving_realms_fit_448_characters() {
        let names: Vec<String> = (0..20).map(|n| format!("{n:064}")).collect();
        let realms: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1 << 40)).collect();
        let wide = subscription("0123456789abcdef", u32::MAX, &realms);
        let mut position = Position::fence(&wide);
        for name in &names {
            let mark = Mark::bare((1 << 40) + (1 << 24)).at_ms(1 << 41);
            position.advance(&realm(name), mark);
        }
        let token = seal(&Signer::new([7; 32]), &wide, &position);
        assert!(token.len() < 448, "{}", token.len());
        assert_eq!(open(&Signer::new([7; 32]), &wide, &token), Resumed::At(position));
    }
}
