//! Which messages of a log that is kept elsewhere too are in memory as well.

use std::collections::VecDeque;

/// So many bytes of the newest messages of a log stay in memory for those who read at its end.
const RECENT_BYTES: u64 = 1 << 20;

/// The sequences that are in memory, oldest first, and what they count.
#[derive(Debug, Default)]
pub(super) struct Recent {
    sequences: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Recent {
    pub(super) fn push(&mut self, sequence: u64, bytes: u64) {
        self.sequences.push_back((sequence, bytes));
        self.bytes += bytes;
    }

    /// The oldest where there are too many, if it is not above what `readable` says: one that
    /// cannot be read back yet has to stay.
    pub(super) fn pop(&mut self, readable: impl FnOnce() -> u64) -> Option<u64> {
        let &(sequence, bytes) = self.sequences.front()?;
        if self.bytes <= RECENT_BYTES || sequence > readable() {
            return None;
        }
        self.sequences.pop_front();
        self.bytes -= bytes;
        Some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_none_before_it_can_be_read_back() {
        let mut recent = Recent::default();
        (1..=4).for_each(|sequence| recent.push(sequence, RECENT_BYTES / 2));
        assert_eq!(recent.pop(|| 0), None);
        assert_eq!(recent.pop(|| 1), Some(1));
        assert_eq!(recent.pop(|| 9), Some(2));
        assert_eq!(recent.pop(|| 9), None, "the rest fits");
    }
}
