//! Small pieces of memory that one thread makes and another drops, message by message: an
//! allocator, whose lists the two would share, costs more than all the rest of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

const BLOCK: usize = 16 << 10;
/// What is larger stands alone.
const LARGE: usize = BLOCK / 8;
/// How many blocks are looked at again, in case nothing in them is used any more.
const BLOCKS: usize = 64;

/// Cuts copies out of blocks. One that is kept keeps its block; a block without copies is used
/// again.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// The last one is cut.
    blocks: VecDeque<BytesMut>,
}

impl Arena {
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > LARGE {
            return Bytes::copy_from_slice(bytes);
        }
        if self.blocks.back().is_none_or(|block| block.capacity() < bytes.len()) {
            self.next_block();
        }
        let Some(block) = self.blocks.back_mut() else { return Bytes::copy_from_slice(bytes) };
        block.extend_from_slice(bytes);
        block.split().freeze()
    }

    fn next_block(&mut self) {
        let free = self.blocks.front_mut().is_some_and(|oldest| oldest.try_reclaim(BLOCK));
        // The oldest one is the last: to be cut, or to be looked at after all the others.
        self.blocks.rotate_left(usize::from(!self.blocks.is_empty()));
        if !free {
            self.blocks.push_back(BytesMut::with_capacity(BLOCK));
        }
        if self.blocks.len() > BLOCKS {
            self.blocks.pop_front();
        }
    }
}

/// Blocks are not shared.
impl Clone for Arena {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_what_they_were_made_of() {
        let (mut arena, mut kept) = (Arena::default(), VecDeque::new());
        for round in 0..20 {
            for length in (0..3 * LARGE).step_by(7) {
                let bytes = vec![((length + round) % 251) as u8; length];
                kept.push_back((arena.copy(&bytes), bytes));
            }
            assert!(kept.iter().all(|(copy, bytes)| copy == bytes));
            // Most are dropped, and some stay for a while.
            kept.retain(|(copy, _)| copy.len() % (9 + round) == 0);
        }
    }

    #[test]
    fn a_block_without_copies_is_used_again() {
        let (mut arena, bytes) = (Arena::default(), [7; LARGE]);
        let first = arena.copy(&bytes);
        let at = first.as_ptr();
        drop(first);
        let mut again = (0..3 * BLOCK / LARGE).map(|_| arena.copy(&bytes).as_ptr());
        assert!(again.any(|copy| copy == at));
        assert_eq!(arena.blocks.len(), 1);
    }

    #[test]
    fn copies_that_are_kept_do_not_keep_more_and_more_blocks_here() {
        let (mut arena, bytes) = (Arena::default(), [7; LARGE]);
        let kept: Vec<Bytes> =
            (0..10 * BLOCKS * BLOCK / LARGE).map(|_| arena.copy(&bytes)).collect();
        assert!(arena.blocks.len() <= BLOCKS && kept.iter().all(|copy| *copy == bytes[..]));
    }
}
