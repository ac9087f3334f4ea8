//! Where a consumer stands, as far as it can be told: from what its group has committed, and
//! better for partitions that this connection's member has.
//!
//! `pending` counts offsets from there to the end of the log: records that no filter wants, and
//! those that compaction or a transaction took out, as long as nobody has passed them.
//! `unsettled` and what rests are this connection's; a retry that rests with another member or in
//! the topic of retries does not show.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::desk::{Part, Standing};
use super::entry::{ConsumerEntry, StreamEntry};
use super::group::positions_lost;
use super::link::Link;
use super::member::Member;
use super::sequence::Place;
use super::{groups, retry, streams};
use crate::config::ConsumerInfo;
use crate::error::Result;

/// See [`crate::driver::Driver::consumer_info`]. Fails where the group has lost its positions, unless
/// `lost` are taken for where the consumer began.
pub(super) async fn info(
    link: &Arc<Link>,
    stream: &StreamEntry,
    entry: &ConsumerEntry,
    member: Option<&Member>,
    lost: bool,
) -> Result<ConsumerInfo> {
    let ours = member.map(Member::standing).unwrap_or_default();
    let marks = streams::marks(link, &stream.config).await?;
    let committed = match ours.parts.len() == marks.len() {
        true => BTreeMap::new(),
        false => committed(link, stream, entry).await?,
    };
    let missing = |partition: &i32| {
        let part = (false, *partition);
        !ours.parts.contains_key(&part) && !committed.contains_key(&part)
    };
    let missing: Vec<i32> = (0..).take(marks.len()).filter(missing).collect();
    if entry.placed && !lost && !missing.is_empty() {
        let (stream, consumer) = (&stream.config.name, &entry.config.name);
        return Err(positions_lost(stream, consumer, &entry.group, &missing));
    }
    let (mut pending, mut floor, mut ends) = (0, u64::MAX, 0);
    for (partition, (low, high)) in (0..).zip(marks) {
        let at = |offset| Place { partition, offset }.sequence(stream.config.partitions);
        let origin = usize::try_from(partition).ok().and_then(|at| entry.origins.get(at));
        let (settled, taken, waiting) = match ours.parts.get(&(false, partition)) {
            Some(standing) => (standing.settled, standing.next, standing.waiting),
            None => {
                let settled = committed.get(&(false, partition)).copied();
                let settled = settled.or(origin.map(|origin| origin.offset)).unwrap_or(low);
                (settled, settled, 0)
            }
        };
        let ahead = high - taken.max(low);
        pending += waiting + u64::try_from(ahead).unwrap_or(0);
        // A partition of which all is settled holds nothing back.
        if settled < high {
            floor = floor.min(at(settled.max(low)) - 1);
        }
        ends = if high > 0 { ends.max(at(high - 1)) } else { ends };
    }
    let floor = if floor == u64::MAX { ends } else { floor };
    let settled_sequence = ours.lowest.map_or(floor, |lowest| floor.min(lowest - 1));
    Ok(ConsumerInfo {
        config: entry.config.clone(),
        created: entry.created,
        moves: entry.moves,
        pending,
        unsettled: ours.unsettled,
        delivered_sequence: if ours.delivered > 0 { ours.delivered } else { settled_sequence },
        settled_sequence,
        paused_until: entry.paused_until.filter(|until| *until > std::time::SystemTime::now()),
    })
}

/// What a member knows of its partitions.
#[derive(Default)]
pub(super) struct Ours {
    pub(super) parts: BTreeMap<Part, Standing>,
    pub(super) unsettled: u64,
    /// The lowest sequence that was delivered and is not settled.
    pub(super) lowest: Option<u64>,
    /// The highest sequence that was delivered.
    pub(super) delivered: u64,
}

async fn committed(
    link: &Arc<Link>,
    stream: &StreamEntry,
    entry: &ConsumerEntry,
) -> Result<BTreeMap<Part, i64>> {
    let name = stream.config.name.as_str();
    let topics = [name.to_owned(), retry::topic(name, entry.config.name.as_str())];
    let partitions = stream.config.partitions;
    let committed = groups::committed(link, &entry.group, &topics, partitions).await?;
    Ok(committed.into_iter().map(|(part, watermark)| (part, watermark.committed())).collect())
}
