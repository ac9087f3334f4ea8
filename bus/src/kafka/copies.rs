//! Copies of what a record holds: the client lends it only while the record is there.

use bytes::{Bytes, BytesMut};

/// Small copies share blocks of this size, so that most need no allocation. One that is kept keeps
/// its block.
const BLOCK: usize = 8 << 10;
/// What is larger stands alone.
const LARGE: usize = BLOCK / 8;

/// Where copies are made.
#[derive(Debug, Default)]
pub(super) struct Copies {
    block: BytesMut,
}

impl Copies {
    pub(super) fn of(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > LARGE {
            return Bytes::copy_from_slice(bytes);
        }
        if self.block.capacity() < bytes.len() {
            self.block = BytesMut::with_capacity(BLOCK);
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }
}

// Blocks are not shared between decoders.
impl Clone for Copies {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_what_they_were_made_of() {
        let (mut copies, mut kept) = (Copies::default(), Vec::new());
        for length in (0..3 * LARGE).step_by(7) {
            let bytes = vec![(length % 251) as u8; length];
            kept.push((copies.of(&bytes), bytes));
        }
        assert!(kept.iter().all(|(copy, bytes)| copy == bytes));
    }
}
