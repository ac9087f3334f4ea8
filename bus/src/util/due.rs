//! What is due when: the ends of leases, and of rests.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Keys by the moment at which they are due.
///
/// What is handed out together is due together, so that a moment has many keys: adding one appends
/// to a list, and taking one out counts it off. Its key stays in the list until the moment passes
/// or has nothing left, which is why [`DueQueue::pop`] also returns keys that were taken out.
#[derive(Debug)]
pub(crate) struct DueQueue<K> {
    moments: BTreeMap<Instant, Moment<K>>,
}

#[derive(Debug)]
struct Moment<K> {
    keys: Vec<K>,
    /// How many of the keys were not taken out.
    left: usize,
}

impl<K> Default for DueQueue<K> {
    fn default() -> Self {
        Self { moments: BTreeMap::new() }
    }
}

impl<K: Copy> DueQueue<K> {
    pub(crate) fn add(&mut self, due: Instant, key: K) {
        let moment =
            self.moments.entry(due).or_insert_with(|| Moment { keys: Vec::new(), left: 0 });
        moment.keys.push(key);
        moment.left += 1;
    }

    /// Takes out one key of this moment; which one, its owner knows.
    pub(crate) fn take_out(&mut self, due: Instant) {
        let Some(moment) = self.moments.get_mut(&due) else { return };
        moment.left -= 1;
        if moment.left == 0 {
            self.moments.remove(&due);
        }
    }

    /// The first moment at which something is due.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.moments.first_key_value().map(|(due, _)| *due)
    }

    /// The first moment up to `now` with its keys, which it forgets. Some of them may have been
    /// taken out, and some may be there twice: their owner knows by what it holds of them.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Vec<K>)> {
        let first = self.moments.first_entry().filter(|first| *first.key() <= now)?;
        let (due, moment) = first.remove_entry();
        Some((due, moment.keys))
    }

    pub(crate) fn clear(&mut self) {
        self.moments.clear();
    }

    /// The keys with the latest moments first, as [`DueQueue::pop`] would return them.
    #[cfg(feature = "kafka")]
    pub(crate) fn latest(&self) -> impl Iterator<Item = (Instant, K)> {
        let moments = self.moments.iter().rev();
        moments.flat_map(|(due, moment)| moment.keys.iter().rev().map(|key| (*due, *key)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_gone_with_its_last_key() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut due = DueQueue::default();
        due.add(start, 'a');
        due.add(start + second, 'b');
        due.add(start, 'c');
        due.take_out(start);
        assert_eq!(due.first(), Some(start), "one of two is left");
        due.take_out(start);
        assert_eq!(due.first(), Some(start + second));
        assert!(due.pop(start).is_none());
        assert_eq!(due.pop(start + second), Some((start + second, vec!['b'])));
        assert!(due.first().is_none() && due.pop(start + second).is_none());
    }
}
