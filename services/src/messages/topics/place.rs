//! Where a reader of topics stands, which it carries itself as a signed token.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::interest::Interest;
use crate::model::{Mark, Marks, Realm, RowsDigest};
use crate::store::Signer;

const VERSION: u8 = 1;
/// Longer is not ours: room for as many realms as there can be.
const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::messages) enum Place {
    /// In the state at a fence.
    Rows(Rows),
    /// Behind these places of the logs.
    Live(Marks),
}

/// How far the state at a fence was read.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::messages) struct Rows {
    pub(in crate::messages) fence: Marks,
    /// True when the client was told that the state begins.
    pub(super) begun: bool,
    /// The realm and sequence of the last row; `None` before the first.
    pub(super) read: Option<(Realm, u64)>,
    /// How many rows that were.
    pub(super) rows: u64,
    /// Over them.
    pub(super) digest: RowsDigest,
}

/// What a token says.
#[derive(Debug, PartialEq)]
pub(in crate::messages) enum Resumed {
    At(Place),
    /// It was good once: start over, for this reason.
    Expired(String),
    /// It was never ours, or of other topics.
    Invalid,
}

/// The payload of a token, as postcard writes it behind a version byte. Keep stable. Realms are
/// named by the beginning of the hash of their name, because names are long.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Hash, sequence, milliseconds since 1970.
    realms: Vec<([u8; 4], u64, u64)>,
    rows: Option<KeptRows>,
}

#[derive(Serialize, Deserialize)]
struct KeptRows {
    begun: bool,
    read: Option<([u8; 4], u64)>,
    rows: u64,
    digest: [u8; 32],
}

impl Rows {
    /// Before the first row of the state at a fence.
    pub(in crate::messages) fn at(fence: Marks) -> Self {
        Self { fence, begun: false, read: None, rows: 0, digest: RowsDigest::default() }
    }
}

impl Place {
    /// As a token for the same interest.
    pub(in crate::messages) fn seal(&self, signer: &Signer, interest: &Interest) -> String {
        let (marks, rows) = match self {
            Self::Live(marks) => (marks, None),
            Self::Rows(Rows { fence, begun, read, rows, digest }) => {
                let read = read.as_ref().map(|(realm, sequence)| (hash(realm), *sequence));
                let digest = bytes_of(digest);
                (fence, Some(KeptRows { begun: *begun, read, rows: *rows, digest }))
            }
        };
        let realm = |(realm, mark): (&Realm, &Mark)| (hash(realm), mark.sequence, mark.time_ms());
        let kept = Kept { realms: marks.iter().map(realm).collect(), rows };
        // Plain numbers and texts: postcard writes them always.
        let payload = postcard::to_extend(&kept, vec![VERSION]).unwrap_or_default();
        signer.seal(&interest.purpose(), &payload)
    }

    /// Reads a token. `known` are the realms that there are.
    pub(in crate::messages) fn open(
        signer: &Signer,
        interest: &Interest,
        known: &[Realm],
        token: &str,
    ) -> Resumed {
        if token.len() > MAX_TOKEN_BYTES {
            return Resumed::Invalid;
        }
        let Some(payload) = signer.open(&interest.purpose(), token) else {
            return Resumed::Invalid;
        };
        match payload.split_first() {
            Some((&VERSION, payload)) => match postcard::from_bytes(payload) {
                Ok(kept) => resolve(&kept, interest, known),
                Err(_) => Resumed::Invalid,
            },
            _ => Resumed::Expired(String::from("the token is of another version of Lockgate")),
        }
    }
}

fn resolve(kept: &Kept, interest: &Interest, known: &[Realm]) -> Resumed {
    let gone = || Resumed::Expired(String::from("the token names a realm that is gone"));
    let mut by_hash: BTreeMap<[u8; 4], Vec<Realm>> = BTreeMap::new();
    let named = interest.topics.named_realms();
    for realm in known.iter().chain(&named).filter(|realm| interest.topics.includes_realm(realm)) {
        let realms = by_hash.entry(hash(realm)).or_default();
        if !realms.contains(realm) {
            realms.push(realm.clone());
        }
    }
    // Two of one hash: never a wrong position.
    let realm = |hash: &[u8; 4]| match by_hash.get(hash).map(Vec::as_slice) {
        Some([realm]) => Some(realm.clone()),
        _ => None,
    };
    let place = |(hash, sequence, time_ms): &([u8; 4], u64, u64)| {
        Some((realm(hash)?, Mark::bare(*sequence).at_ms(*time_ms)))
    };
    let Some(marks) = kept.realms.iter().map(place).collect::<Option<Marks>>() else {
        return gone();
    };
    let Some(rows) = &kept.rows else { return Resumed::At(Place::Live(marks)) };
    let read = match &rows.read {
        None => None,
        Some((hash, sequence)) => match realm(hash) {
            Some(realm) => Some((realm, *sequence)),
            None => return gone(),
        },
    };
    let KeptRows { begun, rows, digest, .. } = *rows;
    let Some(digest) = RowsDigest::from_hex(&HEXLOWER.encode(&digest)) else {
        return Resumed::Invalid;
    };
    Resumed::At(Place::Rows(Rows { fence: marks, begun, read, rows, digest }))
}

/// Half as long as its digits.
fn bytes_of(digest: &RowsDigest) -> [u8; 32] {
    let bytes = HEXLOWER.decode(digest.to_hex().as_bytes()).unwrap_or_default();
    bytes.try_into().unwrap_or_default()
}

fn hash(realm: &Realm) -> [u8; 4] {
    let full: [u8; 32] = Sha256::digest(realm.as_str()).into();
    std::array::from_fn(|at| full.get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TopicSet;

    #[test]
    fn a_place_survives_the_round_trip_and_fits_no_other_topics() {
        let signer = Signer::new([7; 32]);
        let realm = |name: &str| Realm::new(name).unwrap();
        let interest =
            |topics: &str| Interest { topics: TopicSet::parse(&[topics]).unwrap(), key: None };
        let all = interest("*.*");
        let known = [realm("a"), realm("b"), realm("c")];
        let marks = Marks::from([
            (realm("a"), Mark::bare(7).at_ms(1_700_000_000_000)),
            (realm("c"), Mark::bare(0)),
        ]);
        let mut digest = RowsDigest::default();
        digest.add(&realm("a"), 5);
        let rows = Rows {
            fence: marks.clone(),
            begun: true,
            read: Some((realm("a"), 5)),
            rows: 1,
            digest,
        };
        for place in [Place::Live(marks.clone()), Place::Rows(Rows::at(marks)), Place::Rows(rows)] {
            let token = place.seal(&signer, &all);
            assert!(token.len() < 256, "{}", token.len());
            let open = |interest: &Interest, known: &[Realm], token: &str| {
                Place::open(&signer, interest, known, token)
            };
            assert_eq!(open(&all, &known, &token), Resumed::At(place));
            assert_eq!(open(&interest("a.*"), &known, &token), Resumed::Invalid);
            assert_eq!(open(&all, &known, &token[1..]), Resumed::Invalid);
            assert!(matches!(open(&all, &known[..2], &token), Resumed::Expired(_)));
        }
    }
}
