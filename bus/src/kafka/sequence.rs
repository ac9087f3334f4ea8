//! One number for a place in a stream of several partitions.
//!
//! `sequence = offset * partitions + partition + 1`: unique over the stream, growing within each
//! partition, and with one partition it is the offset + 1, so that it grows over the stream. The
//! number of partitions of a stream never changes: see [`super::shape`] for topics whose does.

/// A place in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Place {
    /// Where a sequence is; `None` for 0, which is before all of them.
    pub(super) fn of(sequence: u64, partitions: u32) -> Option<Self> {
        let at = sequence.checked_sub(1)?;
        let partition = i32::try_from(at % u64::from(partitions)).ok()?;
        let offset = i64::try_from(at / u64::from(partitions)).ok()?;
        Some(Self { partition, offset })
    }

    pub(super) fn sequence(self, partitions: u32) -> u64 {
        // Neither is negative for a record that a broker stored.
        let (offset, partition) = (self.offset.max(0) as u64, self.partition.max(0) as u64);
        offset.saturating_mul(u64::from(partitions)).saturating_add(partition + 1)
    }
}

/// The first offset of `partition` whose sequence is at least `sequence`.
pub(super) fn first_offset(sequence: u64, partition: i32, partitions: u32) -> i64 {
    // The partition's own first sequence is `partition + 1`.
    let beyond = sequence.saturating_sub(partition.max(0) as u64 + 1);
    i64::try_from(beyond.div_ceil(u64::from(partitions))).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_partition_counts_from_one() {
        let place = Place { partition: 0, offset: 0 };
        assert_eq!((place.sequence(1), Place::of(1, 1)), (1, Some(place)));
        assert_eq!(Place::of(0, 1), None);
    }

    #[test]
    fn several_partitions_share_the_numbers() {
        let mut seen = std::collections::BTreeSet::new();
        for partition in 0..4 {
            for offset in 0..50 {
                let place = Place { partition, offset };
                let sequence = place.sequence(4);
                assert!(seen.insert(sequence));
                assert_eq!(Place::of(sequence, 4), Some(place));
                assert_eq!(first_offset(sequence, partition, 4), offset);
                assert_eq!(first_offset(sequence + 1, partition, 4), offset + 1);
            }
        }
        assert_eq!((seen.first(), seen.last(), seen.len()), (Some(&1), Some(&200), 200));
        assert_eq!(first_offset(0, 3, 4), 0);
    }
}
