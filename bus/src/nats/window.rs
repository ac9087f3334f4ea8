//! The places of the publish window: what is on its way, found again by its ticket.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::link::{Link, REQUEST_LIMIT};
use super::publisher::Job;
use crate::error::Result;
use crate::message::Receipt;

/// How many messages may be on their way: more buys latency only (measured).
pub(super) const WINDOW: usize = 1000;
/// After a reconnect, how long the answers of what was sent before are still waited for.
const RECONNECT_GRACE: Duration = Duration::from_millis(300);

/// A job in the window, with its place and whoever waits for it.
pub(super) struct Outstanding {
    pub(super) job: Job,
    pub(super) receipt: oneshot::Sender<Result<Receipt>>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Outstanding {
    pub(super) fn resolve(self, result: Result<Receipt>) {
        // The caller may have dropped the receipt: then nobody wants to know.
        let _ = self.receipt.send(result);
    }
}

/// What is on its way, by place. A ticket is a place and how often it was used before.
pub(super) struct Window(Mutex<Places>);

struct Places {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Numbers the entries, so that a sweep finds them in the order they were sent.
    added: u64,
}

#[derive(Default)]
struct Place {
    used: u32,
    entry: Option<Entry>,
}

struct Entry {
    job: Outstanding,
    order: u64,
    connects: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        let free = (0..WINDOW).rev().filter_map(|place| u32::try_from(place).ok()).collect();
        let places = std::iter::repeat_with(Place::default).take(WINDOW).collect();
        Self(Mutex::new(Places { places, free, added: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, job: Outstanding, link: &Link) -> u64 {
        let connects = link.connect_count();
        let mut all = self.lock();
        all.added += 1;
        let order = all.added;
        // The job holds one of as many permits as there are places: one is free.
        let place = all.free.pop().unwrap_or_default();
        let Some(slot) = all.places.get_mut(place as usize) else { return u64::MAX };
        slot.entry = Some(Entry { job, order, connects });
        u64::from(slot.used) << 32 | u64::from(place)
    }

    pub(super) fn take(&self, ticket: u64) -> Option<Outstanding> {
        let (used, place) = ((ticket >> 32) as u32, ticket as u32);
        let mut all = self.lock();
        let slot = all.places.get_mut(place as usize).filter(|slot| slot.used == used)?;
        let entry = slot.entry.take()?;
        slot.used = slot.used.wrapping_add(1);
        all.free.push(place);
        Some(entry.job)
    }

    /// Takes out what waited too long, or was sent over a connection that is gone.
    pub(super) fn overdue(&self, link: &Link) -> Vec<Outstanding> {
        let (now, connects, since) = (Instant::now(), link.connect_count(), link.connected_since());
        let settled = since.is_some_and(|since| now >= since + RECONNECT_GRACE);
        let late = |entry: &Entry| {
            let cut_off = settled && entry.connects != connects && entry.job.job.may_repeat();
            cut_off || now >= entry.job.job.submitted + REQUEST_LIMIT
        };
        let mut tickets = Vec::new();
        for (place, slot) in self.lock().places.iter().enumerate() {
            if let Some(entry) = slot.entry.as_ref().filter(|entry| late(entry)) {
                tickets.push((entry.order, u64::from(slot.used) << 32 | place as u64));
            }
        }
        tickets.sort_unstable();
        tickets.into_iter().filter_map(|(_, ticket)| self.take(ticket)).collect()
    }
}

/// A place that is given back if the message was not handed to the client after all.
pub(super) struct Reserved<'a> {
    pub(super) window: &'a Window,
    pub(super) ticket: Option<u64>,
}

impl Reserved<'_> {
    pub(super) fn reply(&self, prefix: &str) -> String {
        use std::fmt::Write;
        let mut reply = String::with_capacity(prefix.len() + 20);
        reply.push_str(prefix);
        // Writing to a string cannot fail.
        let _ = write!(reply, "{}", self.ticket.unwrap_or(u64::MAX));
        reply
    }

    pub(super) fn keep(mut self) {
        self.ticket = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.window.take(ticket);
        }
    }
}
