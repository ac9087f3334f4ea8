//! Whether topics still have the partitions that their streams count with.
//!
//! A sequence is made of an offset, a partition and the number of partitions (see
//! [`super::sequence`]). Whoever adds partitions to a topic, which its administrator can at any
//! time, makes sequences name other messages than before, and some of them two. So everything that
//! has to do with sequences is refused from then on, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::StreamEntry;
use super::link::Link;
use super::topics;
use crate::error::{Error, ErrorKind, Result};
use crate::name::StreamName;

/// A topic is looked at this often while it is used.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// One that does not fit is looked at again before each refusal, and not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// More streams than a program uses; beyond that the one that was looked at first is forgotten.
const MOST: usize = 10_000;

/// What topics looked like.
#[derive(Default)]
pub(super) struct Shapes(Mutex<BTreeMap<StreamName, Seen>>);

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    partitions: u32,
    /// Of a topic that others made, what this process has counted with from the first.
    counted: u32,
    /// Somebody has seen something else since.
    doubted: bool,
}

impl Shapes {
    /// Fails with [`ErrorKind::Mismatch`] where the topic has other partitions than `entry` counts
    /// with. A topic that cannot be looked at is taken for what it was.
    pub(super) async fn check(&self, link: &Arc<Link>, entry: &StreamEntry) -> Result<()> {
        if self.is_known(entry) { Ok(()) } else { self.look(link, entry).await }
    }

    /// True when it fits, and was looked at not long ago.
    pub(super) fn is_known(&self, entry: &StreamEntry) -> bool {
        self.known(entry) == Some(true)
    }

    /// Whether it fits, as far as that was looked at not long ago.
    fn known(&self, entry: &StreamEntry) -> Option<bool> {
        let seen = *self.seen().get(&entry.config.name)?;
        (!seen.doubted && seen.at.elapsed() < LOOK_EVERY).then(|| fits(entry, seen))
    }

    async fn look(&self, link: &Arc<Link>, entry: &StreamEntry) -> Result<()> {
        let name = &entry.config.name;
        let before = self.seen().get(name).copied();
        let recent = before.filter(|seen| !seen.doubted && seen.at.elapsed() < LOOK_AGAIN);
        let found = match recent {
            Some(seen) => Some(seen.partitions),
            None => match topics::look(link, name.as_str()).await {
                Ok(shape) => shape.map(|shape| shape.partitions),
                Err(error) if error.is_retryable() => None,
                Err(error) => return Err(error),
            },
        };
        let Some(partitions) = found else { return Ok(()) };
        let counted = before.map_or(entry.config.partitions, |seen| seen.counted);
        let at = recent.map_or_else(Instant::now, |seen| seen.at);
        let seen = Seen { at, partitions, counted, doubted: false };
        self.keep(name, seen);
        if fits(entry, seen) {
            return Ok(());
        }
        Err(refusal(name, counts_with(entry, seen), partitions))
    }

    fn keep(&self, name: &StreamName, seen: Seen) {
        let mut all = self.seen();
        if all.len() >= MOST && !all.contains_key(name) {
            let oldest = all.iter().min_by_key(|(_, seen)| seen.at).map(|(name, _)| name.clone());
            if let Some(name) = oldest {
                all.remove(&name);
            }
        }
        all.insert(name.clone(), seen);
    }

    /// Has the topic looked at before it is used again: it does not seem to be what it was.
    pub(super) fn doubt(&self, name: &StreamName) {
        if let Some(seen) = self.seen().get_mut(name) {
            seen.doubted = true;
        }
    }

    /// The stream is removed or made anew.
    pub(super) fn forget(&self, name: &StreamName) {
        self.seen().remove(name);
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<StreamName, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many partitions sequences of the stream are counted with. Nobody has written down how many a
/// topic of others had: it is what this process has seen first.
fn counts_with(entry: &StreamEntry, seen: Seen) -> u32 {
    if entry.generation == 0 { seen.counted } else { entry.config.partitions }
}

fn fits(entry: &StreamEntry, seen: Seen) -> bool {
    seen.partitions == counts_with(entry, seen)
}

/// The refusal of a stream whose topic has other partitions than it counts with.
pub(super) fn refusal(name: &StreamName, counted: u32, found: u32) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        format!(
            "topic {name} has {found} partitions by now, and stream {name} counts its sequences \
             with {counted}, so that they would name other messages: make another stream with \
             {found} partitions and copy there what is needed"
        ),
    )
}
