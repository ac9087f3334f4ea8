//! What stands between a topology and the backend.

use super::diff::{self, Difference};
use super::{Action, Change, Topology};
use crate::bus::Bus;
use crate::capability::{Capability, Support};
use crate::error::Result;

/// Every change, in the order in which it is made.
pub(super) async fn changes(bus: &Bus, topology: &Topology) -> Result<Vec<Change>> {
    // Who keeps the messages of a key together does it by splitting streams.
    let splits = bus.support(Capability::KeyAffinity) != Support::Unsupported;
    let mut changes = Vec::new();
    for wants in &topology.streams {
        let has = existing(bus.driver().stream_info(&wants.name).await)?;
        let differences = has.map(|has| diff::stream(&has.config, wants, splits));
        changes.extend(change(format!("stream {}", wants.name), differences));
    }
    for (stream, wants) in &topology.consumers {
        let has = existing(bus.consumer_info(stream, &wants.name).await)?;
        let differences = has.map(|has| diff::consumer(&has.config, wants));
        changes.extend(change(format!("consumer {} of {stream}", wants.name), differences));
    }
    for wants in &topology.buckets {
        let has = existing(bus.bucket_info(&wants.name).await)?;
        let differences = has.map(|has| diff::bucket(&has, wants));
        changes.extend(change(format!("bucket {}", wants.name), differences));
    }
    Ok(changes)
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
