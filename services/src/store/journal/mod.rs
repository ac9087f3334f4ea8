//! The hand-out journal: what of one queue of a subscription is out, by record.
//!
//! One value in the `lockgate-journal` bucket for each lane (the prefill rows, and the log of each
//! realm). It is written by compare-and-set **before** a batch leaves and with every settlement,
//! so the write itself is the fence: who hands out by an outdated journal cannot write it, and so
//! hands out nothing. No clock of one process is ever compared with another's.
//!
//! What is settled is not listed. An event is settled if its sequence is at or below
//! [`Journal::head`], it is not [open](Journal::open), and it does not belong to what its key
//! still has [behind](Journal::behind). Nothing is forgotten and nothing has to be remembered.
//!
//! ```text
//!  above the head ──────── batch ────────► Out ──── ack ───────────────► settled
//!        │                                 ▲ │ └─── reject ──► a dead letter, then settled
//!        │ its key is busy, and            │ │
//!        │ others are served               │ │ nack, end of the lease: with it all after it
//!        ▼                                 │ ▼ of its key
//!  behind (by key: first, count) ─ batch ──┤ Back, or Delayed(ms)
//!                                          │ │
//!                                          └─┘ batch, attempt + 1
//!                                              (or, if attempts are used up, a dead letter)
//!
//!  who moves them: the session of the queue hands out and ends leases; any replica settles.
//!  Each arrow is one write of the journal, by compare-and-set.
//! ```

mod handout;
mod settle;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Store;
use crate::model::{Incarnation, Key, Realm, Topic, names};

pub(crate) use handout::{Group, Superseded, Taken};
pub(crate) use settle::{Answer, Wish};

/// At most this many events of a lane are open. A journal with as many is about 100 KB.
pub(crate) const MAX_OPEN: usize = 4096;
/// At most this many keys of a lane may have something behind.
pub(crate) const MAX_BEHIND: usize = 8192;

const VERSION: u8 = 1;

/// What order is kept by, as a number: topic and key. Two keys that share one are kept in order
/// with each other too, which harms nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct KeyHash([u8; 8]);

impl KeyHash {
    /// FNV-1a over both, a byte that is in neither between them. Keep stable.
    pub(crate) fn of(topic: &Topic, key: &Key) -> Self {
        let bytes = topic.name.as_str().bytes().chain([0xff]).chain(key.as_str().bytes());
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, fold).to_le_bytes())
    }
}

/// See the module's documentation. Keep stable: replicas of two versions read each other's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Tells the writes of a lane apart, so that who got no answer finds out whether it wrote.
    pub(crate) write: u64,
    /// Tells the last batch that was handed out. Who knows of another one must read everything
    /// anew: what it has read may have been handed out by another meanwhile.
    pub(crate) batch: u64,
    /// The highest sequence that was ever handed out, or passed over.
    pub(crate) head: u64,
    /// What is known of the event at `head`, to recognise the history that it belongs to.
    pub(crate) stamp: Stamp,
    /// The lane has ended and everything of it is settled.
    pub(crate) complete: bool,
    /// What was handed out and is not settled, by sequence.
    pub(crate) open: BTreeMap<u64, Open>,
    /// The keys that have something at or below `head` that was never handed out.
    pub(crate) behind: BTreeMap<KeyHash, Behind>,
}

/// What tells an event from another one at the same sequence: when the log took it, in
/// milliseconds since 1970; 0 where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) time_ms: u64,
}

/// An event that was handed out and is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) key: KeyHash,
    /// How often it was handed out.
    pub(crate) attempt: u32,
    /// How often it was given back, or its lease ended while it was the first of its key.
    pub(crate) failures: u32,
    /// How often the present lease was renewed.
    pub(crate) renewed: u32,
    pub(crate) state: State,
}

/// Where an open event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// With a client.
    Out,
    /// To be handed out again when its turn comes.
    Back,
    /// Given back, and to be handed out again after this many milliseconds.
    Delayed(u64),
}

/// What a key has left at or below the head: everything of it from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Behind {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Open {
    /// True while a client has it.
    pub(crate) fn is_out(&self) -> bool {
        self.state == State::Out
    }
}

impl Journal {
    /// A journal of a lane of which nothing after `head` was handed out.
    pub(crate) fn starting_at(head: u64, stamp: Stamp) -> Self {
        Self { head, stamp, ..Self::default() }
    }

    /// As the bucket keeps it.
    pub(crate) fn encode(&self) -> Result<Bytes, bus::Error> {
        let written = postcard::to_extend(self, vec![VERSION]).map_err(|source| {
            let what = "a hand-out journal cannot be written";
            bus::Error::with_source(bus::ErrorKind::Invalid, what, source)
        })?;
        Ok(Bytes::from(written))
    }

    /// Reads it back; `None` for what this version does not know.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first()?;
        if *version != VERSION {
            return None;
        }
        postcard::from_bytes(rest).ok()
    }

    /// True when nothing is left to settle of what was ever passed.
    pub(crate) fn is_drained(&self) -> bool {
        self.open.is_empty() && self.behind.is_empty()
    }

    /// Nothing before this sequence is still to be settled.
    pub(crate) fn first_unsettled(&self) -> u64 {
        let open = self.open.keys().next().copied();
        let behind = self.behind.values().map(|behind| behind.first).min();
        open.into_iter().chain(behind).min().unwrap_or(self.head + 1)
    }

    /// How many events at or below the head were never handed out.
    pub(crate) fn passed_over(&self) -> u64 {
        self.behind.values().map(|behind| behind.count).sum()
    }

    /// The open sequences of each key, lowest first.
    fn by_key(&self) -> BTreeMap<KeyHash, BTreeSet<u64>> {
        let mut keys: BTreeMap<KeyHash, BTreeSet<u64>> = BTreeMap::new();
        for (sequence, open) in &self.open {
            keys.entry(open.key).or_default().insert(*sequence);
        }
        keys
    }
}

impl Store {
    /// The journal of what a subscription was handed out of a realm's log; `None` when that is
    /// nothing yet, or it is of a version that this one does not know.
    pub(crate) async fn live_journal(
        &self,
        of: &Incarnation,
        realm: &Realm,
    ) -> Result<Option<Journal>, bus::Error> {
        let entry = self.journal.get(names::journal_live_key(of, realm)).await?;
        Ok(entry.and_then(|entry| Journal::decode(&entry.value)))
    }
}

#[cfg(test)]
mod tests;
