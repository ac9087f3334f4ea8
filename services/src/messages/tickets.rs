//! Tickets: how a browser's `EventSource`, which cannot send headers, is let in.
//!
//! A page that has the secret (or whose server has it) gets a ticket and opens
//! `.../events?ticket=...` with it. A ticket opens one stream, once, within [`TTL`].
//!
//! `EventSource` reconnects by itself, to the same URL, with the last id it received. That id is a
//! resume token, which only an authorised read of this subscription was ever given, so ticket and
//! token together are let in again until [`RECONNECT`] after the ticket was issued. Then the
//! page gets an error and fetches a new ticket, so that a revoked secret ends its streams.

use std::time::Duration;

use bus::Error;
use data_encoding::HEXLOWER;

use super::varint::{Reader, Writer};
use crate::model::{Incarnation, Subscription};
use crate::store::Store;

/// How long an unused ticket is good.
pub(super) const TTL: Duration = Duration::from_secs(60);
/// How long a used one lets its stream reconnect.
const RECONNECT: Duration = Duration::from_secs(3600);
const VERSION: u8 = 1;

/// Issues and redeems tickets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tickets {
    store: Store,
}

struct Ticket {
    nonce: [u8; 16],
    issued_ms: u64,
}

impl Tickets {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// A new ticket for whoever has proved to know the secret.
    pub(super) fn issue(&self, subscription: &Subscription) -> Result<String, Error> {
        let platform = &self.store.platform;
        let mut payload = Writer::default();
        payload.byte(VERSION);
        payload.raw(&platform.entropy.bytes::<16>()?);
        payload.number(platform.clock.now_ms());
        let purpose = purpose(&subscription.incarnation);
        Ok(self.store.signer.seal(&purpose, &payload.finish()))
    }

    /// True when the ticket lets its bearer in. `resumes`: a resume token of this subscription
    /// came with it.
    pub(super) async fn redeem(
        &self,
        subscription: &Subscription,
        ticket: &str,
        resumes: bool,
    ) -> Result<bool, Error> {
        let opened = self.store.signer.open(&purpose(&subscription.incarnation), ticket);
        let Some(ticket) = opened.as_deref().and_then(read) else { return Ok(false) };
        let age = Duration::from_millis(
            self.store.platform.clock.now_ms().saturating_sub(ticket.issued_ms),
        );
        if age < TTL {
            match self.store.tickets.create(HEXLOWER.encode(&ticket.nonce), "").await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(resumes && age < RECONNECT)
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

fn purpose(of: &Incarnation) -> String {
    format!("ticket {} {}", of.name, of.uid)
}
