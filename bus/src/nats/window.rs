//! The places of the publish window: what is on its way, found again by its ticket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use super::publisher::Job;
use super::tickets::Tickets;
use crate::arena::Arena;
use crate::error::Result;
use crate::message::Receipt;
use crate::name::StreamName;

/// How many messages may be on their way: more buys latency only (measured). Each has a subject for
/// its answer, and the server keeps the routes of 1024 subjects at hand.
pub(super) const WINDOW: usize = 900;
/// And how many bytes, counted in KiB: each message is kept until it is answered.
pub(super) const WINDOW_KIB: usize = 64 << 10;
/// After a reconnect, how long the answers of what was sent before are still waited for.
const RECONNECT_GRACE: Duration = Duration::from_millis(300);

/// Room for one message, by number and by bytes.
pub(super) struct Place {
    pub(super) _one: OwnedSemaphorePermit,
    pub(super) _bytes: OwnedSemaphorePermit,
}

/// A job in the window, with its place and whoever waits for it.
pub(super) struct Outstanding {
    pub(super) job: Job,
    pub(super) receipt: oneshot::Sender<Result<Receipt>>,
    pub(super) _place: Place,
    /// Numbers the jobs in the order they were submitted; given by the window.
    pub(super) order: u64,
}

impl Outstanding {
    pub(super) fn resolve(self, result: Result<Receipt>) {
        // The caller may have dropped the receipt: then nobody wants to know.
        let _ = self.receipt.send(result);
    }
}

/// What is on its way, by place.
pub(super) struct Window {
    places: Mutex<Places>,
    /// Something that held up what comes after it does not any more.
    freed: Notify,
}

struct Places {
    entries: Vec<Option<Entry>>,
    tickets: Tickets,
    /// Numbers the entries, so that they are found in the order they were sent.
    added: u64,
    /// How many of the entries may be sent again, by the connection that they were sent over.
    by_connection: BTreeMap<u64, usize>,
    /// What is sent again, in order: a task is at work for each stream that is here.
    lanes: BTreeMap<StreamName, BTreeMap<u64, (Outstanding, Failure)>>,
    /// Reply subjects are written here, behind the inbox that they all begin with.
    reply: String,
    inbox_len: usize,
    arena: Arena,
}

struct Entry {
    job: Outstanding,
    connects: u64,
}

impl Window {
    /// `inbox` is what the answers' subjects begin with.
    pub(super) fn new(inbox: String) -> Self {
        let entries = std::iter::repeat_with(|| None).take(WINDOW).collect();
        let inbox_len = inbox.len();
        let places = Mutex::new(Places {
            entries,
            tickets: Tickets::new(WINDOW),
            added: 0,
            by_connection: BTreeMap::new(),
            lanes: BTreeMap::new(),
            reply: inbox,
            inbox_len,
            arena: Arena::default(),
        });
        Self { places, freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job a place: with it go the message's own subject, and the one for the answer.
    pub(super) fn add(
        &self,
        mut job: Outstanding,
        link: &Link,
    ) -> (Reserved<'_>, Subject, Subject) {
        let connects = link.connect_count();
        let mut all = self.lock();
        let subject = all.arena.subject(job.job.subject());
        all.added += 1;
        job.order = all.added;
        if job.job.may_repeat() {
            *all.by_connection.entry(connects).or_default() += 1;
        }
        // The job holds one of as many permits as there are places: one is free.
        let (place, ticket) = all.tickets.enter().unwrap_or((WINDOW, u64::MAX));
        if let Some(entry) = all.entries.get_mut(place) {
            *entry = Some(Entry { job, connects });
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
        let (job, freed) = all.take(ticket, answered)?;
        drop(all);
        if freed {
            self.freed.notify_waiters();
        }
        Some(job)
    }

    /// Lines up a job to be sent again, in the order of submission among those of its stream; true
    /// when nobody is at work on them yet.
    pub(super) fn line_up(&self, job: Outstanding, failure: Failure) -> bool {
        self.lock().line_up(job, failure)
    }

    /// The next job of the stream that is to be sent again; with the last one whoever is at work on
    /// them ends, and others may be sent.
    pub(super) fn next_in_line(&self, stream: &StreamName) -> Option<(Outstanding, Failure)> {
        let mut all = self.lock();
        let next = all.lanes.get_mut(stream)?.pop_first();
        if next.is_none() {
            all.lanes.remove(stream);
            self.freed.notify_waiters();
        }
        next.map(|(_, job)| job)
    }

    /// True while something on its way to the stream is sent again, or may have to be because its
    /// connection is gone: what is submitted now would pass it.
    fn is_held_up(&self, stream: &StreamName, connects: u64) -> bool {
        let all = self.lock();
        let earlier = all.by_connection.first_key_value().is_some_and(|(sent, _)| *sent < connects);
        earlier || !all.lanes.is_empty() && all.lanes.contains_key(stream)
    }

    /// True when what is submitted to the stream now passes nothing that was submitted before.
    pub(super) fn is_clear(&self, stream: &StreamName, link: &Link) -> bool {
        !self.is_held_up(stream, link.connect_count())
    }

    /// Waits until nothing would be passed; false when that is not so by `until`.
    pub(super) async fn clear(&self, stream: &StreamName, link: &Link, until: Instant) -> bool {
        loop {
            let freed = self.freed.notified();
            if self.is_clear(stream, link) {
                return true;
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return false;
            }
        }
    }

    /// Looks for what waited too long, or was sent over a connection that is gone: lines up what may
    /// be sent again, so that nothing passes it from one moment to the next, and takes out the rest.
    pub(super) fn overdue(&self, link: &Link) -> Overdue {
        let (now, connects, since) = (Instant::now(), link.connect_count(), link.connected_since());
        let settled = since.is_some_and(|since| now >= since + RECONNECT_GRACE);
        let late = |entry: &Entry| {
            let cut_off = settled && entry.connects != connects && entry.job.job.may_repeat();
            cut_off || now >= entry.job.job.submitted + REQUEST_LIMIT
        };
        let (mut found, mut overdue) = (Vec::new(), Overdue::default());
        let mut all = self.lock();
        for (place, entry) in all.entries.iter().enumerate() {
            let entry = entry.as_ref().filter(|entry| late(entry));
            found.extend(entry.and_then(|entry| Some((entry.job.order, all.tickets.of(place)?))));
        }
        for (_, ticket) in found {
            let Some((job, _)) = all.take(ticket, false) else { continue };
            if !job.job.may_repeat() {
                overdue.lost.push(job);
                continue;
            }
            let stream = job.job.stream.clone();
            if all.line_up(job, Failure::Lost) {
                overdue.lanes.push(stream);
            }
        }
        drop(all);
        self.freed.notify_waiters();
        overdue
    }
}

/// What has to be seen to.
#[derive(Default)]
pub(super) struct Overdue {
    /// Nobody knows whether these are stored, and sending them again might store them twice.
    pub(super) lost: Vec<Outstanding>,
    /// The streams of those that are to be sent again where nobody is at work on them yet.
    pub(super) lanes: Vec<StreamName>,
}

impl Places {
    /// Takes out a job; true with it where it was the last of its connection.
    fn take(&mut self, ticket: u64, answered: bool) -> Option<(Outstanding, bool)> {
        let place = self.tickets.place(ticket)?;
        let Entry { job, connects } = self.entries.get_mut(place)?.take()?;
        self.tickets.leave(place, answered);
        let sent_over = self.by_connection.get_mut(&connects).filter(|_| job.job.may_repeat());
        let mut last = false;
        if let Some(entries) = sent_over {
            *entries -= 1;
            last = *entries == 0;
        }
        if last {
            self.by_connection.remove(&connects);
        }
        Some((job, last))
    }

    fn line_up(&mut self, job: Outstanding, failure: Failure) -> bool {
        let nobody = !self.lanes.contains_key(&job.job.stream);
        let lane = self.lanes.entry(job.job.stream.clone()).or_default();
        lane.insert(job.order, (job, failure));
        nobody
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
