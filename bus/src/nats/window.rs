//! The places of the publish window: what is on its way, found again by its ticket.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::link::{Link, REQUEST_LIMIT};
use super::publisher::Job;
use super::tickets::Tickets;
use crate::arena::Arena;
use crate::error::Result;
use crate::message::Receipt;

/// How many messages may be on their way: more buys latency only (measured). Each has a subject for
/// its answer, and the server keeps the routes of 1024 subjects at hand.
pub(super) const WINDOW: usize = 900;
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

/// What is on its way, by place.
pub(super) struct Window(Mutex<Places>);

struct Places {
    entries: Vec<Option<Entry>>,
    tickets: Tickets,
    /// Numbers the entries, so that a sweep finds them in the order they were sent.
    added: u64,
    /// Reply subjects are written here, behind the inbox that they all begin with.
    reply: String,
    inbox_len: usize,
    arena: Arena,
}

struct Entry {
    job: Outstanding,
    order: u64,
    connects: u64,
}

impl Window {
    /// `inbox` is what the answers' subjects begin with.
    pub(super) fn new(inbox: String) -> Self {
        let entries = std::iter::repeat_with(|| None).take(WINDOW).collect();
        let inbox_len = inbox.len();
        Self(Mutex::new(Places {
            entries,
            tickets: Tickets::new(WINDOW),
            added: 0,
            reply: inbox,
            inbox_len,
            arena: Arena::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job a place: with it go the message's own subject, and the one for the answer.
    pub(super) fn add(&self, job: Outstanding, link: &Link) -> (Reserved<'_>, Subject, Subject) {
        let connects = link.connect_count();
        let mut all = self.lock();
        let subject = all.arena.subject(job.job.subject());
        all.added += 1;
        let order = all.added;
        // The job holds one of as many permits as there are places: one is free.
        let (place, ticket) = all.tickets.enter().unwrap_or((WINDOW, u64::MAX));
        if let Some(entry) = all.entries.get_mut(place) {
            *entry = Some(Entry { job, order, connects });
        }
        let Places { reply, inbox_len, arena, .. } = &mut *all;
        reply.truncate(*inbox_len);
        // Writing to a string cannot fail.
        let _ = write!(reply, "{ticket}");
        (Reserved { window: self, ticket: Some(ticket) }, subject, arena.subject(reply))
    }

    /// Takes out a job, whose place is free then; `answered` says that nothing more comes for it.
    pub(super) fn take(&self, ticket: u64, answered: bool) -> Option<Outstanding> {
        let mut all = self.lock();
        let place = all.tickets.place(ticket)?;
        let entry = all.entries.get_mut(place)?.take()?;
        all.tickets.leave(place, answered);
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
        let mut found = Vec::new();
        let all = self.lock();
        for (place, entry) in all.entries.iter().enumerate() {
            let entry = entry.as_ref().filter(|entry| late(entry));
            found.extend(entry.and_then(|entry| Some((entry.order, all.tickets.of(place)?))));
        }
        drop(all);
        found.sort_unstable();
        found.into_iter().filter_map(|(_, ticket)| self.take(ticket, false)).collect()
    }
}

/// A place that is given back if the message was not handed to the client after all.
pub(super) struct Reserved<'a> {
    window: &'a Window,
    ticket: Option<u64>,
}

impl Reserved<'_> {
    pub(super) fn keep(mut self) {
        self.ticket = None;
    }

    /// The job that was not handed over; its place is free again.
    pub(super) fn take_back(mut self) -> Option<Job> {
        let ticket = self.ticket.take()?;
        self.window.take(ticket, false).map(|outstanding| outstanding.job)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.window.take(ticket, false);
        }
    }
}
