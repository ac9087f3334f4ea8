//! A map from sequences to what is held there, made for logs: dense where most is held, and small
//! where little is left.
//!
//! Sequences are kept in blocks of 64, each with a bit for every sequence that is held and with
//! what is held in a row. A block goes with the last of it, so that memory follows what is held and
//! not how far the sequences reach.

use std::collections::BTreeMap;

/// How many sequences share a block, as many as a word has bits.
const BLOCK: u64 = 64;

/// What is held, by sequence.
#[derive(Debug)]
pub(super) struct Slots<T> {
    blocks: BTreeMap<u64, Block<T>>,
    held: u64,
}

#[derive(Debug)]
struct Block<T> {
    /// A bit for each sequence of the block that is held.
    mask: u64,
    /// What is held, in the order of the sequences.
    held: Vec<T>,
}

impl<T> Block<T> {
    /// Where in `held` the one at `bit` is, or would be.
    fn place(&self, bit: u64) -> usize {
        (self.mask & ((1 << bit) - 1)).count_ones() as usize
    }

    fn has(&self, bit: u64) -> bool {
        self.mask & (1 << bit) != 0
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), held: 0 }
    }
}

impl<T> Slots<T> {
    /// How much is held.
    pub(super) fn len(&self) -> u64 {
        self.held
    }

    /// How many blocks there are.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Holds `what` at a sequence above all that are held.
    pub(super) fn push(&mut self, sequence: u64, what: T) {
        let (number, bit) = (sequence / BLOCK, sequence % BLOCK);
        let block =
            self.blocks.entry(number).or_insert_with(|| Block { mask: 0, held: Vec::new() });
        block.mask |= 1 << bit;
        block.held.push(what);
        self.held += 1;
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&T> {
        let (block, bit) = (self.blocks.get(&(sequence / BLOCK))?, sequence % BLOCK);
        block.has(bit).then(|| block.held.get(block.place(bit)))?
    }

    pub(super) fn get_mut(&mut self, sequence: u64) -> Option<&mut T> {
        let (block, bit) = (self.blocks.get_mut(&(sequence / BLOCK))?, sequence % BLOCK);
        let place = block.place(bit);
        block.has(bit).then(|| block.held.get_mut(place))?
    }

    /// Takes out what is held at `sequence`.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<T> {
        let (number, bit) = (sequence / BLOCK, sequence % BLOCK);
        let block = self.blocks.get_mut(&number).filter(|block| block.has(bit))?;
        let removed = block.held.remove(block.place(bit));
        block.mask &= !(1 << bit);
        if block.mask == 0 {
            self.blocks.remove(&number);
        } else if block.held.capacity() > 4 * block.held.len() {
            block.held.shrink_to(2 * block.held.len());
        }
        self.held -= 1;
        Some(removed)
    }

    /// The lowest sequence at or above `from` that is held, and what is held there.
    pub(super) fn first_from(&self, from: u64) -> Option<(u64, &T)> {
        let from_bit = from % BLOCK;
        self.blocks.range(from / BLOCK..).find_map(|(number, block)| {
            let of_block = if *number == from / BLOCK { u64::MAX << from_bit } else { u64::MAX };
            let left = block.mask & of_block;
            let bit = u64::from(left.trailing_zeros());
            let held = (left != 0).then(|| block.held.get(block.place(bit)))??;
            Some((number * BLOCK + bit, held))
        })
    }

    /// All that is held, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.blocks.iter().flat_map(|(number, block)| {
            let bits = (0..BLOCK).filter(|bit| block.has(*bit));
            bits.map(move |bit| number * BLOCK + bit).zip(&block.held)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_gone_takes_no_memory_however_far_apart_the_rest_is() {
        let mut slots = Slots::default();
        (1..=100_000_u64).for_each(|sequence| slots.push(sequence, sequence));
        (1..=100_000).filter(|sequence| sequence % 10_000 != 1).for_each(|sequence| {
            assert_eq!(slots.remove(sequence), Some(sequence));
        });
        assert_eq!((slots.len(), slots.blocks.len()), (10, 10));
        assert!(slots.blocks.values().all(|block| block.held.capacity() <= 4));
        for sequence in 1..=100_000 {
            slots.remove(sequence);
        }
        assert!(slots.blocks.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            gaps in prop::collection::vec(prop_oneof![Just(1_u64), 1_u64..300], 1..300),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..400),
        ) {
            let (mut slots, mut model, mut at) = (Slots::default(), BTreeMap::new(), 0);
            for gap in gaps {
                at += gap;
                slots.push(at, at.to_string());
                model.insert(at, at.to_string());
            }
            for index in removed {
                let sequence = index.index(at as usize + 2) as u64;
                let next = model.range(sequence..).next().map(|(next, held)| (*next, held));
                prop_assert_eq!(slots.first_from(sequence), next);
                prop_assert_eq!(slots.get(sequence), model.get(&sequence));
                prop_assert_eq!(slots.get_mut(sequence), model.get_mut(&sequence));
                prop_assert_eq!(slots.remove(sequence), model.remove(&sequence));
                prop_assert_eq!(slots.len(), model.len() as u64);
            }
            let all: Vec<_> = slots.iter().map(|(sequence, held)| (sequence, held.clone())).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
