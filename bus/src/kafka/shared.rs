//! What a member, its threads and its tasks share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rdkafka::consumer::BaseConsumer;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bell::Bell;
use super::catalog::Catalog;
use super::desk::{Desk, Part};
use super::entry::{ConsumerEntry, StreamEntry};
use super::group::Group;
use super::inbox::{Batch, Inbox};
use super::lease::after;
use super::link::Link;
use super::publisher::Publisher;
use super::trouble::Troubles;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

/// What the member, its thread and its tasks share.
pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) of: Names,
    pub(super) stop: CancellationToken,
    /// Rung when the thread may have something to do.
    pub(super) bell: Arc<Bell>,
    /// Told when a fetch that found nothing may find something.
    pub(super) arrived: Arc<Notify>,
    /// Rung when someone waits for a commit.
    pub(super) save_bell: Bell,
    /// Whose turn it is to commit.
    pub(super) commits: Mutex<()>,
    /// What was polled and is not at the desk yet.
    pub(super) inbox: Inbox,
    pub(super) state: Mutex<State>,
}

/// Whose member it is.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) stream: StreamName,
    pub(super) consumer: ConsumerName,
    /// The stream's topic, and the topic of the consumer's retries.
    pub(super) topics: [String; 2],
    /// The stream as it was declared when the consumer was bound.
    pub(super) declared: Arc<StreamEntry>,
}

impl Names {
    pub(super) fn topic(&self, part: Part) -> &str {
        &self.topics[usize::from(part.0)]
    }

    /// Which of the two topics' partitions this is.
    pub(super) fn part(&self, topic: &str, partition: i32) -> Part {
        (topic != self.topics[0], partition)
    }
}

pub(super) struct State {
    pub(super) desk: Desk,
    /// Who waits for a commit that was not sent yet.
    pub(super) confirms: Vec<Confirm>,
    /// Where each partition of the retry topic stands on the broker, since it was trimmed.
    pub(super) saved: BTreeMap<i32, i64>,
    /// The group is to be joined anew, from what is committed.
    pub(super) rejoin: bool,
    /// The partitions of the stream of which the group has lost its positions.
    pub(super) lost: Vec<i32>,
    /// What stands in the way of records.
    pub(super) troubles: Troubles,
    /// Why the member has ended.
    pub(super) over: Option<(ErrorKind, String)>,
    /// The client that is in the group.
    pub(super) client: Option<Arc<BaseConsumer<Group>>>,
}

/// Someone who waits until a settlement is committed.
pub(super) struct Confirm {
    pub(super) part: Part,
    pub(super) generation: u64,
    pub(super) done: oneshot::Sender<Result<()>>,
}

impl State {
    /// How many offsets of the retry topic the group has passed beyond those that were removed.
    pub(super) fn settled_since(&self, removed: &BTreeMap<i32, i64>) -> i64 {
        let before = |partition| removed.get(partition).copied().unwrap_or(0);
        self.saved.iter().map(|(partition, offset)| offset - before(partition)).sum()
    }
}

impl Shared {
    /// The state; an error once the member has ended.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if let Some((kind, why)) = &state.over {
            return Err(Error::new(*kind, why.clone()));
        }
        self.link.check_open()?;
        Ok(state)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings to the desk what is in the inbox. True when there may be something to deliver.
    pub(super) fn bring_in(&self, state: &mut State, now: Instant) -> bool {
        let mut news = false;
        for Batch { part, assignment, mut run, rest, run_bytes, .. } in self.inbox.take() {
            if state.desk.is_assigned(part, assignment) {
                news |= state.desk.accept_run(part, &mut run, run_bytes, now);
                news |= state.desk.accept(rest, now);
            }
            run.clear();
            self.inbox.give_back(run);
        }
        news
    }

    /// The stream as the catalog has it now, or as it was when the consumer was bound.
    pub(super) fn declared(&self) -> Arc<StreamEntry> {
        self.catalog.stream(&self.of.stream).unwrap_or_else(|| self.of.declared.clone())
    }

    /// The consumer as the catalog has it now.
    pub(super) fn entry(&self) -> Result<Arc<ConsumerEntry>> {
        let Names { stream, consumer, .. } = &self.of;
        self.catalog.consumer(stream, consumer).ok_or_else(|| {
            Error::not_found(format!("there is no consumer {consumer} on stream {stream}"))
        })
    }

    /// Does what the catalog says: limits, a pause, an end.
    pub(super) fn apply(&self, state: &mut State) -> Result<()> {
        let entry = self.entry()?;
        state.desk.set_limits((&entry.config).into());
        let left =
            entry.paused_until.and_then(|until| until.duration_since(SystemTime::now()).ok());
        let was_paused = state.desk.paused_until.is_some();
        state.desk.paused_until = left.map(|left| after(Instant::now(), left));
        if was_paused && left.is_none() {
            self.arrived.notify_waiters();
        }
        Ok(())
    }

    /// Tells those who wait for it that something was settled.
    pub(super) fn made_room(&self, state: &mut State, was_full: bool) {
        if was_full {
            self.arrived.notify_waiters();
        }
        self.feed(state);
    }

    /// Wakes the thread where it waits for room and there is some.
    pub(super) fn feed(&self, state: &mut State) {
        if state.desk.is_worth_waking() {
            self.bell.ring();
        }
    }

    /// Resolves when what is settled of the partition by now is committed.
    pub(super) fn confirm(
        &self,
        state: &mut State,
        part: Part,
        generation: u64,
    ) -> oneshot::Receiver<Result<()>> {
        let (done, waiting) = oneshot::channel();
        state.confirms.push(Confirm { part, generation, done });
        self.save_bell.ring();
        waiting
    }

    /// Ends the member: every call fails with this from now on.
    pub(super) fn end(&self, error: &Error) {
        let mut state = self.state();
        state.over = Some((error.kind(), error.to_string()));
        let parts = state.desk.parts();
        state.desk.revoke(&parts);
        state.confirms.clear();
        drop(state);
        self.arrived.notify_waiters();
    }
}
