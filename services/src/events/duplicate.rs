//! A duplicate is one only where the log still holds the event.

use bus::{Error, ErrorKind, Message, Receipt, StoredMessage, Stream};

use crate::model::CloudEvent;

/// How often an event is stored anew whose earlier copy is gone.
const ATTEMPTS: u32 = 8;

/// Stores an event unless the log holds it. A log remembers ids for longer than it may hold what
/// had them: where an admin removed the event, it is stored again, under an id that repeats of
/// the request arrive at too.
pub(super) async fn store_once(log: &Stream, event: &CloudEvent) -> Result<Receipt, Error> {
    let mut message = event.to_message()?;
    for _ in 0..ATTEMPTS {
        let receipt = log.publish(message.clone()).await?;
        if !receipt.duplicate || holds(log, receipt.sequence, &message).await? {
            return Ok(receipt);
        }
        let gone = format!(" again-after-{}", receipt.sequence);
        message.id = message.id.map(|id| id + &gone);
    }
    let what = format!("event {} is removed as often as it is stored", event.id());
    Err(Error::new(ErrorKind::Unavailable, format!("{what}: repeat it when that has ended")))
}

/// True when the log holds the event of `message` at a sequence. What somebody else stored under
/// the same id without saying which event it is counts as the event, as it does for the log.
async fn holds(log: &Stream, sequence: u64, message: &Message) -> Result<bool, Error> {
    let Some(held) = log.get(sequence).await? else { return Ok(false) };
    let same = |held: &StoredMessage, name: &str| {
        held.headers.get(name).is_none_or(|value| Some(value) == message.headers.get(name))
    };
    Ok(["ce-source", "ce-id"].into_iter().all(|name| same(&held, name)))
}
