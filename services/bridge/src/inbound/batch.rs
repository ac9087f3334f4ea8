//! What a batch of the log is made of: events, what is parked, and the position behind them.

use bus::{Error, Message};

use super::position::{Kept, Position, message};
use crate::config::Route;
use crate::mapping::{Place, Record, ToLog, Unfit, to_event};
use crate::names;
use crate::parked::ParkedRecord;

/// A record on its way.
pub(super) struct Item {
    pub(super) record: Record,
    pub(super) offset: i64,
    /// Room of the process that it takes while it is here.
    pub(super) _room: tokio::sync::OwnedSemaphorePermit,
}

/// What a batch is of.
pub(super) struct Batch<'a> {
    pub(super) route: &'a Route,
    pub(super) ends: &'a ToLog,
    pub(super) partition: i32,
    pub(super) items: &'a [Item],
    /// What the log takes at most of one message.
    pub(super) limit: usize,
}

/// A batch as messages, and what became of its records.
pub(super) struct Made {
    pub(super) messages: Vec<Message>,
    pub(super) next: Kept,
    pub(super) parked: u64,
    pub(super) looped: u64,
}

impl Batch<'_> {
    /// The messages, behind `position`. A record that cannot be an event is parked, with `refused`
    /// as the reason where the log refused this very one.
    pub(super) fn make(&self, position: &Position, refused: Option<&str>) -> Result<Made, Error> {
        let Self { route, ends, partition, items, limit } = *self;
        let (mut messages, mut parked, mut looped) = (Vec::with_capacity(items.len() + 1), 0, 0);
        let mut next = position.kept.clone();
        for item in items {
            let (record, place) = (&item.record, self.place(position, item));
            let event = match refused {
                Some(reason) => Err(Unfit(reason.to_owned())),
                None => to_event(route, ends, record, &place).and_then(|event| fits(event, limit)),
            };
            match event {
                Ok(Some(event)) => messages.push(event),
                Ok(None) => looped += 1,
                Err(Unfit(reason)) => {
                    messages.push(parked_message(route, &place, record, reason, limit)?);
                    parked += 1;
                }
            }
            next.next = item.offset + 1;
        }
        messages.push(message(route, partition, &next, position.sequence)?);
        Ok(Made { messages, next, parked, looped })
    }

    /// The offset of the first of the records that cannot be an event, and why.
    pub(super) fn first_unfit(&self, position: &Position) -> Option<(i64, String)> {
        self.items.iter().find_map(|item| {
            let event = to_event(self.route, self.ends, &item.record, &self.place(position, item));
            let unfit = event.and_then(|event| fits(event, self.limit)).err()?;
            Some((item.offset, unfit.0))
        })
    }

    fn place(&self, position: &Position, item: &Item) -> Place {
        Place {
            topic: self.route.kafka_topic.clone(),
            topic_id: position.kept.topic_id.clone(),
            partition: self.partition,
            offset: item.offset,
        }
    }
}

/// What a server counts beside the content, at most: names of a batch, and a line for each header.
fn overhead(message: &Message) -> usize {
    let key = message.key.as_ref().map_or(0, |key| 3 * key.len());
    256 + key + 8 * message.headers.len()
}

fn size(message: &Message) -> usize {
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    message.payload.as_ref().map_or(0, bytes::Bytes::len)
        + headers.sum::<usize>()
        + overhead(message)
}

fn fits(event: Option<Message>, limit: usize) -> Result<Option<Message>, Unfit> {
    match event.as_ref().map(size) {
        Some(bytes) if bytes > limit => {
            Err(Unfit(format!("it has {bytes} bytes as an event: the log takes {limit}")))
        }
        _ => Ok(event),
    }
}

/// The message that keeps a record that cannot be an event: whole, or where to find it if it is too
/// large for the log.
fn parked_message(
    route: &Route,
    place: &Place,
    record: &Record,
    reason: String,
    limit: usize,
) -> Result<Message, Error> {
    let at = u64::try_from(place.offset).unwrap_or(0);
    let part = format!("{}.{}", place.topic_id, place.partition);
    let subject = names::parked(&route.realm, &route.name, &part, at)?;
    let whole = ParkedRecord::new(place, Some(record), &reason);
    let message = Message::json(subject.as_str(), &whole)?;
    if size(&message) <= limit {
        return Ok(message);
    }
    let bare = ParkedRecord::new(place, None, &reason);
    Message::json(subject.as_str(), &bare)
}
