//! How far a route is in a partition: kept in the log, beside the events.

use bus::{Error, ErrorKind, Message, Stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::config::Route;
use crate::names;

/// A position as it is kept. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The offset of the first record that is not in the log.
    pub(super) next: i64,
    /// The topic that it is an offset of; `-` where a broker gives no ids.
    pub(super) topic_id: String,
}

/// A position, and what fences whoever stands on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) kept: Kept,
    /// The sequence of the message that keeps it; 0 where there is none yet.
    pub(super) sequence: u64,
}

/// Where a route began. Keep stable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    /// The offsets to begin with; partitions that are not here begin at the oldest record.
    pub(super) offsets: BTreeMap<i32, i64>,
}

/// The position of a partition; `None` where the route never stored any.
pub(super) async fn read(
    log: &Stream,
    route: &Route,
    partition: i32,
) -> Result<Option<Position>, Error> {
    let subject = names::position(&route.realm, &route.name, partition)?;
    let Some(message) = log.last_at(&[subject], u64::MAX).await?.pop() else { return Ok(None) };
    Ok(Some(Position { kept: message.json()?, sequence: message.sequence }))
}

/// The message that keeps a position in place of the one on `after`.
pub(super) fn message(
    route: &Route,
    partition: i32,
    kept: &Kept,
    after: u64,
) -> Result<Message, Error> {
    let subject = names::position(&route.realm, &route.name, partition)?;
    let body = serde_json::to_vec(kept).map_err(|source| {
        Error::with_source(ErrorKind::Invalid, "the position cannot be written as JSON", source)
    })?;
    Ok(Message::new(subject.as_str(), body)?.rollup().expect_last(after))
}

/// Where the route began, as it is kept.
pub(super) async fn begin(log: &Stream, route: &Route) -> Result<Option<Begin>, Error> {
    let subject = names::begin(&route.realm, &route.name)?;
    let kept = log.last_at(&[subject], u64::MAX).await?.pop();
    kept.map(|message| message.json()).transpose()
}

/// Keeps where the route begins, and returns what is kept: of several processes one decides.
pub(super) async fn keep_begin(log: &Stream, route: &Route, wanted: Begin) -> Result<Begin, Error> {
    let subject = names::begin(&route.realm, &route.name)?;
    let message = Message::json(subject.as_str(), &wanted)?.expect_last(0);
    match log.publish(message).await {
        Ok(_) => Ok(wanted),
        Err(error) if error.is_conflict() || error.kind() == ErrorKind::Timeout => {
            begin(log, route).await?.ok_or(error)
        }
        Err(error) => Err(error),
    }
}
