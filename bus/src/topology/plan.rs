//! What stands between a topology and the backend.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Action, Change, Topology};
use crate::bus::Bus;
use crate::config::{BucketConfig, ConsumerConfig, StreamConfig};
use crate::difference::{self as diff, Difference};
use crate::error::Result;
use crate::name::StreamName;

/// So many are looked at at once.
const AT_ONCE: usize = 32;

/// Every change, in the order in which it is made.
pub(super) async fn changes(bus: &Bus, topology: &Topology) -> Result<Vec<Change>> {
    let streams: Vec<_> = topology.streams.iter().map(|wants| of_stream(bus, wants)).collect();
    let consumers = topology.consumers.iter().map(|(of, wants)| of_consumer(bus, of, wants));
    let consumers: Vec<_> = consumers.collect();
    let buckets: Vec<_> = topology.buckets.iter().map(|wants| of_bucket(bus, wants)).collect();
    let mut changes = in_order(streams).await?;
    changes.extend(in_order(consumers).await?);
    changes.extend(in_order(buckets).await?);
    Ok(changes)
}

async fn in_order<F>(looks: Vec<F>) -> Result<Vec<Change>>
where
    F: Future<Output = Result<Option<Change>>>,
{
    let looked = stream::iter(looks).buffered(AT_ONCE);
    looked.try_filter_map(|change| async move { Ok(change) }).try_collect().await
}

async fn of_stream(bus: &Bus, wants: &StreamConfig) -> Result<Option<Change>> {
    let has = existing(bus.driver().stream_info(&wants.name).await)?;
    let differences = has.map(|has| diff::stream(&has.config, wants, bus.splits()));
    Ok(change(format!("stream {}", wants.name), differences))
}

async fn of_consumer(bus: &Bus, of: &StreamName, wants: &ConsumerConfig) -> Result<Option<Change>> {
    let has = existing(bus.consumer_info(of, &wants.name).await)?;
    let differences = has.map(|has| diff::consumer(&has.config, wants));
    Ok(change(format!("consumer {} of {of}", wants.name), differences))
}

async fn of_bucket(bus: &Bus, wants: &BucketConfig) -> Result<Option<Change>> {
    let has = existing(bus.bucket_info(&wants.name).await)?;
    let differences = has.map(|has| diff::bucket(&has, wants));
    Ok(change(format!("bucket {}", wants.name), differences))
}

fn existing<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn change(what: String, differences: Option<Vec<Difference>>) -> Option<Change> {
    let Some(differences) = differences else {
        return Some(Change { what, action: Action::Create, differences: Vec::new() });
    };
    let fixed = differences.iter().any(|difference| difference.fixed);
    let action = if fixed { Action::Refuse } else { Action::Update };
    (!differences.is_empty()).then_some(Change { what, action, differences })
}
