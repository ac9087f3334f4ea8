//! What a connection in queue mode was sent and has not settled, in the order in which it came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// As many as a lane has open at most. Beyond it the oldest are forgotten: their ids still settle
/// them, and `up_to` does not.
const MAX_SENT: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sent {
    last: u64,
    ids: BTreeMap<u64, Arc<str>>,
    positions: HashMap<Arc<str>, u64>,
}

impl Sent {
    /// Notes a delivery and returns its position: 1, 2, 3 and so on.
    pub(super) fn add(&mut self, id: &str) -> u64 {
        if self.ids.len() >= MAX_SENT
            && let Some((_, oldest)) = self.ids.pop_first()
        {
            self.positions.remove(&oldest);
        }
        self.last += 1;
        let id: Arc<str> = Arc::from(id);
        self.ids.insert(self.last, id.clone());
        self.positions.insert(id, self.last);
        self.last
    }

    /// The position of the last one.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The ids of what is not settled up to a position, in order.
    pub(super) fn up_to(&self, position: u64) -> Vec<String> {
        self.ids.range(..=position).map(|(_, id)| id.as_ref().to_owned()).collect()
    }

    /// Forgets one that is settled, or over.
    pub(super) fn remove(&mut self, id: &str) {
        if let Some(position) = self.positions.remove(id) {
            self.ids.remove(&position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_leaves_out_what_is_settled() {
        let mut sent = Sent::default();
        assert_eq!((sent.add("a"), sent.add("b"), sent.add("c")), (1, 2, 3));
        sent.remove("b");
        sent.remove("never sent");
        assert_eq!(sent.up_to(2), ["a"]);
        assert_eq!(sent.up_to(u64::MAX), ["a", "c"]);
        assert_eq!((sent.add("d"), sent.last()), (4, 4));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut sent = Sent::default();
        for at in 0..MAX_SENT + 2 {
            sent.add(&at.to_string());
        }
        assert_eq!((sent.ids.len(), sent.positions.len()), (MAX_SENT, MAX_SENT));
        assert_eq!(sent.up_to(3), ["2"]);
    }
}
