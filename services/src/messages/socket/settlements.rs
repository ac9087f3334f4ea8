//! What a client settles, joined: while one write to the journal is under way, what arrives
//! meanwhile waits for the next.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::super::queue::{Outcome, QueueMode, Wish};
use crate::limits::MAX_SETTLEMENTS;
use crate::store::Kept;

/// See the module's documentation.
pub(super) struct Settlements {
    queue: Arc<QueueMode>,
    waiting: VecDeque<Asked>,
    /// In `waiting`.
    wishes: usize,
    working: Option<BoxFuture<'static, Vec<Answer>>>,
}

/// What one frame asks for.
pub(super) struct Asked {
    pub(super) reference: Option<u64>,
    pub(super) wishes: Vec<(String, Wish)>,
}

/// What became of it.
pub(super) struct Answer {
    pub(super) reference: Option<u64>,
    pub(super) outcomes: Vec<Outcome>,
    /// True when leases were started anew: what is done is not settled.
    pub(super) extends: bool,
}

impl Settlements {
    pub(super) fn new(queue: Arc<QueueMode>) -> Self {
        Self { queue, waiting: VecDeque::new(), wishes: 0, working: None }
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        // One that settles nothing is answered all the same, and takes a place.
        self.wishes += asked.wishes.len().max(1);
        self.waiting.push_back(asked);
    }

    /// True while more may be read from the client.
    pub(super) fn has_room(&self) -> bool {
        self.wishes < MAX_SETTLEMENTS
    }

    /// True when nothing is to be settled.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.working.is_none()
    }

    /// Waits for the next answers; for ever while nothing is asked. May be dropped and called
    /// again.
    pub(super) async fn next(&mut self, kept: &Arc<Kept>) -> Vec<Answer> {
        let working = match &mut self.working {
            Some(working) => working,
            None if self.waiting.is_empty() => return std::future::pending().await,
            none => {
                self.wishes = 0;
                let asked = std::mem::take(&mut self.waiting);
                none.insert(settle(self.queue.clone(), kept.clone(), asked).boxed())
            }
        };
        let answers = working.await;
        self.working = None;
        answers
    }
}

async fn settle(queue: Arc<QueueMode>, kept: Arc<Kept>, asked: VecDeque<Asked>) -> Vec<Answer> {
    let (mut wishes, mut shapes) = (Vec::new(), Vec::new());
    for Asked { reference, wishes: these } in asked {
        let extends = these.first().is_some_and(|(_, wish)| *wish == Wish::Extend);
        shapes.push((reference, these.len(), extends));
        wishes.extend(these);
    }
    let mut outcomes = queue.settle(&kept.subscription, wishes).await.into_iter();
    let answer = |(reference, count, extends)| {
        let outcomes = outcomes.by_ref().take(count).collect();
        Answer { reference, outcomes, extends }
    };
    shapes.into_iter().map(answer).collect()
}
