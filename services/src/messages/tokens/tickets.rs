//! Tickets: how a browser's `EventSource`, which cannot send headers, is let in.
//!
//! A page that has the secret (or whose server has it) gets a ticket and opens
//! `.../events?ticket=...` with it. A ticket opens one stream, once, within [`TTL`].
//!
//! `EventSource` reconnects by itself, to the same URL, with the last id it received. That id is a
//! resume token, which only an authorised read of this subscription was ever given, so ticket and
//! token together are let in again until [`RECONNECT`] after the ticket was issued. Then the
//! page gets an error and fetches a new ticket, so that a revoked secret ends its streams.
//!
//! A request that is refused for another reason, and one that only looks (HEAD), use no ticket up.

use std::time::Duration;

use bus::Error;
use data_encoding::HEXLOWER;

use super::varint::{Reader, Writer};
use crate::model::Subscription;
use crate::store::Store;

/// How long an unused ticket is good.
pub(in crate::messages) const TTL: Duration = Duration::from_secs(60);
/// How long a used one lets its stream reconnect.
const RECONNECT: Duration = Duration::from_secs(3600);
const VERSION: u8 = 1;

/// Issues and redeems tickets. Cheap to clone.
#[derive(Clone)]
pub(in crate::messages) struct Tickets {
    store: Store,
}

struct Ticket {
    nonce: [u8; 16],
    issued_ms: u64,
}

impl Tickets {
    pub(in crate::messages) fn new(store: Store) -> Self {
        Self { store }
    }

    /// A new ticket for whoever has proved to know the secret.
    pub(in crate::messages) fn issue(&self, subscription: &Subscription) -> Result<String, Error> {
        let platform = &self.store.platform;
        let mut payload = Writer::default();
        payload.byte(VERSION);
        payload.raw(&platform.entropy.bytes::<16>()?);
        payload.number(platform.clock.now_ms());
        let purpose = purpose(subscription);
        Ok(self.store.signer.seal(&purpose, &payload.finish()))
    }

    /// Lets a request in, or says why not. `resumes`: a resume token of this subscription came
    /// with it. `request` names the request: one that is repeated, because the bus did not answer
    /// the first time, finds its own mark and not that of another.
    pub(in crate::messages) async fn redeem(
        &self,
        subscription: &Subscription,
        brought: &Brought<'_>,
        resumes: bool,
    ) -> Result<Verdict, Error> {
        let (nonce, age) = match self.read(subscription, brought) {
            Some(read) => read,
            None => return Ok(Verdict::Refused("is not one of this subscription")),
        };
        if age < TTL {
            match self.store.tickets.create(&nonce, brought.request.to_owned()).await {
                Ok(_) => return Ok(Verdict::LetIn),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
            let mark = self.store.tickets.get(&nonce).await?;
            if mark.is_some_and(|mark| mark.value == brought.request.as_bytes()) {
                return Ok(Verdict::LetIn);
            }
        }
        Ok(judge(age, resumes))
    }

    /// What [`Tickets::redeem`] would say now, without using the ticket.
    pub(in crate::messages) async fn look(
        &self,
        subscription: &Subscription,
        brought: &Brought<'_>,
        resumes: bool,
    ) -> Result<Verdict, Error> {
        let (nonce, age) = match self.read(subscription, brought) {
            Some(read) => read,
            None => return Ok(Verdict::Refused("is not one of this subscription")),
        };
        if age < TTL && self.store.tickets.get(&nonce).await?.is_none() {
            return Ok(Verdict::LetIn);
        }
        Ok(judge(age, resumes))
    }

    /// Its nonce, and how old it was when the request came.
    fn read(
        &self,
        subscription: &Subscription,
        brought: &Brought<'_>,
    ) -> Option<(String, Duration)> {
        let purpose = purpose(subscription);
        let ticket = read(&self.store.signer.open(&purpose, brought.ticket)?)?;
        let age = Duration::from_millis(brought.came_ms.saturating_sub(ticket.issued_ms));
        Some((HEXLOWER.encode(&ticket.nonce), age))
    }
}

/// A ticket that a request brought.
pub(in crate::messages) struct Brought<'a> {
    pub(in crate::messages) ticket: &'a str,
    /// Names the request.
    pub(in crate::messages) request: &'a str,
    /// When it came, in milliseconds since 1970: waiting for the bus makes no ticket too old.
    pub(in crate::messages) came_ms: u64,
}

/// What becomes of a request with a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::messages) enum Verdict {
    LetIn,
    /// "The ticket ..."
    Refused(&'static str),
}

/// A ticket that cannot be used, or was.
fn judge(age: Duration, resumes: bool) -> Verdict {
    match (resumes, age < RECONNECT, age < TTL) {
        (true, true, _) => Verdict::LetIn,
        (true, false, _) => Verdict::Refused("has expired: it lets a stream reconnect for an hour"),
        (false, _, true) => Verdict::Refused("was used already: it opens one stream, once"),
        (false, _, false) => Verdict::Refused("has expired: it is good for a minute"),
    }
}

fn read(payload: &[u8]) -> Option<Ticket> {
    let mut payload = Reader::new(payload);
    if payload.byte()? != VERSION {
        return None;
    }
    let ticket = Ticket { nonce: payload.raw()?, issued_ms: payload.number()? };
    payload.is_empty().then_some(ticket)
}

/// A ticket stands for the secret: it lets in to what the secret would, through another prefill
/// too, and not to a subscription that has taken over the name.
fn purpose(of: &Subscription) -> String {
    format!("ticket {} {}", of.name(), of.secret_hash)
}

#[cfg(test)]
mod tests {
    use bus::Bus;

    use super::*;
    use crate::platform::Platform;
    use crate::store::StoreOptions;

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_answer_was_lost_finds_its_own_mark() {
        let bus = Bus::connect("embedded:").await.unwrap();
        let store = Store::open(Platform::new(bus), StoreOptions::default()).await.unwrap();
        let subscription: Subscription = serde_json::from_value(serde_json::json!({
            "name": "people", "uid": "a", "generation": 1, "topics": ["*.*"],
            "prefill": {"status": "pending"}, "fence": {}, "ack_wait_ms": 1000, "created_ms": 1,
            "secret_hash": "",
        }))
        .unwrap();
        let tickets = Tickets::new(store.clone());
        let ticket = tickets.issue(&subscription).unwrap();
        let came_ms = store.platform.clock.now_ms();
        let redeem = async |request: &str| {
            let brought = Brought { ticket: &ticket, request, came_ms };
            tickets.redeem(&subscription, &brought, false).await.unwrap()
        };
        assert_eq!(redeem("one").await, Verdict::LetIn);
        assert_eq!(redeem("one").await, Verdict::LetIn);
        assert!(matches!(redeem("another").await, Verdict::Refused(why) if why.contains("used")));
        // A request that came in time is not too late because the bus was.
        tokio::time::sleep(TTL).await;
        assert_eq!(redeem("one").await, Verdict::LetIn);
    }
}
