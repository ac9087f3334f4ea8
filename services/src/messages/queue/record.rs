//! What of a lane is settled for good, in few bytes.

use std::collections::BTreeSet;

use crate::messages::varint::{Reader, Writer};

const VERSION: u8 = 1;
/// When the recent settlements are as many as this, those before them are forgotten. More than
/// one request holds, and far more than a bus acknowledges between two writes of its own.
const RECENT: usize = 2048;

/// The value in bucket `lockgate-journal`. Keep stable.
///
/// Filters leave gaps in the sequences, so only the bus can tell up to where all are settled; what
/// is settled beyond is named one by one. One message that nobody settles holds the floor down
/// for as long as it likes, so of what is beyond only the latest few thousand settlements
/// are kept: it is the latest that a bus may forget.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Record {
    /// Everything at or below is settled.
    floor: u64,
    older: BTreeSet<u64>,
    recent: BTreeSet<u64>,
}

impl Record {
    /// True if the message is known to be settled for good.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        sequence <= self.floor || self.recent.contains(&sequence) || self.older.contains(&sequence)
    }

    /// Takes settlements in, up to [`RECENT`] of which are kept in any case.
    pub(super) fn add(&mut self, sequences: &BTreeSet<u64>) {
        if self.recent.len() + sequences.len() > RECENT {
            self.older = std::mem::take(&mut self.recent);
        }
        let beyond = sequences.iter().filter(|sequence| **sequence > self.floor);
        self.recent.extend(beyond);
    }

    /// Learns from the bus that everything up to `floor` is settled.
    pub(super) fn raise(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.older.retain(|sequence| *sequence > floor);
            self.recent.retain(|sequence| *sequence > floor);
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(VERSION);
        writer.number(self.floor);
        for set in [&self.older, &self.recent] {
            writer.number(set.len() as u64);
            let mut last = self.floor;
            for sequence in set {
                writer.number(sequence - last);
                last = *sequence;
            }
        }
        writer.finish()
    }

    /// Reads a value back; `None` for what [`Record::encode`] did not write.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        if reader.byte()? != VERSION {
            return None;
        }
        let floor = reader.number()?;
        let mut set = || {
            let (mut last, mut set) = (floor, BTreeSet::new());
            for _ in 0..reader.number()? {
                last = last.checked_add(reader.number()?)?;
                set.insert(last);
            }
            Some(set)
        };
        let (older, recent) = (set()?, set()?);
        reader.is_empty().then_some(Self { floor, older, recent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_encoding_is_stable() {
        let mut record = Record::default();
        record.add(&[3, 11, 12, 300].into());
        record.raise(10);
        assert_eq!(record.encode(), [1, 10, 0, 3, 1, 1, 0xa0, 2]);
        assert_eq!(Record::decode(&record.encode()), Some(record));
        assert_eq!(Record::decode(&[2, 10, 0, 0]), None, "another version");
        assert_eq!(Record::decode(&[1, 10, 0, 3, 1]), None, "cut off");
    }

    #[test]
    fn a_message_that_is_never_settled_does_not_make_it_grow() {
        let mut record = Record::default();
        record.raise(4);
        for sequence in 6..100_000 {
            record.add(&[sequence].into());
            assert!(record.contains(sequence) && !record.contains(5));
        }
        assert!((100_000 - RECENT as u64..100_000).all(|sequence| record.contains(sequence)));
        assert!(record.encode().len() < 3 * RECENT, "{}", record.encode().len());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            floor: u64,
            adds in prop::collection::vec(prop::collection::btree_set(any::<u64>(), 0..900), 0..5),
        ) {
            let mut record = Record::default();
            adds.iter().for_each(|add| record.add(add));
            record.raise(floor);
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn rubbish_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Record::decode(&bytes);
        }
    }
}
