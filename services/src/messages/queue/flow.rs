//! Queue mode for readers that are sent what comes instead of asking for it.
//!
//! A flow pulls again and again, as far as its reader has room, and says in between how the
//! subscription stands: `progress`, `prefill-start`, `prefill-end`, `up-to-date`, `prefill-failed`,
//! `expired` (another generation began), `waiting` (the bus or the process that hands out is away)
//! and `deleted`. It says them for the subscription, which other readers may share: live begins,
//! and `prefill-end` is said, when every row is settled, whoever settled it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::pull::{Phase, Refused};
use super::selection::Select;
use super::{Deliveries, Delivery, Handed, QueueMode};
use crate::limits::{MAX_PULL_MESSAGES, MAX_PULL_WAIT, STREAM_PAGE_BYTES};
use crate::messages::directory::Followed;
use crate::messages::progress::Progress;
use crate::model::{Manifest, Prefill};

/// How long a pull waits until the reader knows that nothing is there.
const SHORT: Duration = Duration::from_secs(1);
/// Before a pull that was refused is repeated.
const AGAIN: Duration = Duration::from_secs(1);

/// What a flow gives.
pub(in crate::messages) enum Item {
    /// An event that is to be settled.
    Delivery(Delivery),
    /// How the subscription stands.
    Control { name: &'static str, data: Value },
}

/// How much a reader can take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::messages) struct Room {
    pub(in crate::messages) messages: usize,
    pub(in crate::messages) bytes: usize,
}

/// See the module's documentation.
pub(in crate::messages) struct Flow {
    queue: Arc<QueueMode>,
    followed: Followed,
    max_per_key: usize,
    pulling: Option<BoxFuture<'static, Pulled>>,
    again_at: Option<Instant>,
    deliveries: Option<Held>,
    controls: VecDeque<Item>,
    generation: u32,
    told: Told,
    shown: Option<Progress>,
    is_away: bool,
    is_over: bool,
}

/// Deliveries that the reader had no room for yet. Half of their lease is left to the reader: after
/// that they go back, and count as never handed out.
struct Held {
    deliveries: Deliveries,
    until: Instant,
}

/// What came of a pull, and how far a prefill is that it met.
type Pulled = Result<(Handed, Option<Progress>), Refused>;

/// What the reader was told last of where the subscription stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Nothing,
    Pending,
    Prefill,
    Live { is_up_to_date: bool },
    Failed(String),
}

impl Room {
    /// What a reader that is sent no more than one page at once can take.
    pub(in crate::messages) const PAGE: Self =
        Self { messages: MAX_PULL_MESSAGES, bytes: STREAM_PAGE_BYTES };

    fn is_none(self) -> bool {
        self.messages == 0 || self.bytes == 0
    }
}

impl Flow {
    pub(in crate::messages) fn new(
        queue: Arc<QueueMode>,
        followed: Followed,
        max_per_key: usize,
    ) -> Self {
        let generation = followed.kept().subscription.incarnation.generation;
        Self {
            queue,
            followed,
            max_per_key,
            pulling: None,
            again_at: None,
            deliveries: None,
            controls: VecDeque::new(),
            generation,
            told: Told::Nothing,
            shown: None,
            is_away: false,
            is_over: false,
        }
    }

    /// Waits until there is something to take; for ever once `deleted` was given. A pull that is
    /// under way when the future is dropped goes on with the next call, so nothing that was handed
    /// out is given back because something else happened meanwhile.
    pub(in crate::messages) async fn ready(&mut self, room: Room) {
        loop {
            if self.has_ready() {
                return;
            }
            if self.is_over || (self.pulling.is_none() && room.is_none()) {
                std::future::pending::<()>().await;
            }
            if let Some(at) = self.again_at {
                sleep_until(at).await;
                self.again_at = None;
            }
            let pull = match self.pulling.take() {
                Some(pull) => pull,
                None => self.pull(room),
            };
            let pulled = self.pulling.insert(pull).await;
            self.pulling = None;
            self.arrived(pulled);
        }
    }

    /// True when the next thing to take is a delivery.
    pub(in crate::messages) fn is_delivery_next(&self) -> bool {
        self.controls.is_empty() && self.has_ready()
    }

    /// Waits while the reader has no room for the next delivery, until that is too late for it.
    pub(in crate::messages) async fn hold(&mut self) {
        let Some(held) = &self.deliveries else { return };
        sleep_until(held.until).await;
        self.deliveries = None;
    }

    /// The next thing that is ready.
    pub(in crate::messages) fn take(&mut self) -> Option<Item> {
        if let Some(control) = self.controls.pop_front() {
            return Some(control);
        }
        let held = self.deliveries.as_mut()?;
        // A reader that was busy for so long would get it late, and perhaps after another had it.
        let delivery = if held.until <= Instant::now() { None } else { held.deliveries.next() };
        if delivery.is_none() {
            self.deliveries = None;
        }
        delivery.map(Item::Delivery)
    }

    fn has_ready(&self) -> bool {
        let has_more = |held: &Held| !held.deliveries.is_empty();
        !self.controls.is_empty() || self.deliveries.as_ref().is_some_and(has_more)
    }

    fn pull(&self, room: Room) -> BoxFuture<'static, Pulled> {
        let max = room.messages.min(MAX_PULL_MESSAGES);
        let max_bytes = room.bytes.min(STREAM_PAGE_BYTES);
        let want = Select { max, max_per_key: self.max_per_key, max_bytes };
        let wait = match self.told {
            Told::Live { is_up_to_date: true } => MAX_PULL_WAIT,
            _ => SHORT,
        };
        let (queue, followed) = (self.queue.clone(), self.followed.clone());
        let pull = async move {
            let handed = queue.hand_over(&followed, want, wait).await?;
            let progress = match handed.phase {
                Phase::Pending => {
                    let kept = followed.current().unwrap_or_else(|| followed.kept().clone());
                    let of = &kept.subscription.incarnation;
                    // Without it the reader is told less, and nothing wrong.
                    Progress::read(&queue.store, of).await.ok().flatten()
                }
                _ => None,
            };
            Ok((handed, progress))
        };
        pull.boxed()
    }

    fn arrived(&mut self, pulled: Pulled) {
        match pulled {
            Ok((handed, progress)) => {
                self.is_away = false;
                self.tell(&handed, progress);
                let ack_wait = self.followed.kept().subscription.ack_wait;
                let until = Instant::now() + ack_wait / 2;
                self.deliveries = Some(Held { deliveries: handed.deliveries, until });
            }
            Err(Refused::Gone) => {
                self.control("deleted", json!({}));
                self.is_over = true;
            }
            Err(refused) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    self.control("waiting", json!({ "reason": refused.to_string() }));
                }
                self.again_at = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Says what has changed since the last pull.
    fn tell(&mut self, handed: &Handed, progress: Option<Progress>) {
        let Handed { deliveries, phase, generation } = handed;
        if self.generation != *generation {
            self.generation = *generation;
            let reason = format!("prefilled again: this is generation {generation} now");
            self.control("expired", json!({ "reason": reason }));
            (self.told, self.shown) = (Told::Nothing, None);
        }
        match phase {
            Phase::Pending => {
                if let Some(progress) = progress.filter(|now| self.shown != Some(*now)) {
                    self.shown = Some(progress);
                    self.control("progress", json!(progress));
                }
                if !matches!(self.told, Told::Prefill | Told::Live { .. }) {
                    self.told = Told::Pending;
                }
            }
            Phase::Failed(reason) => self.failed(reason.clone()),
            Phase::Cancelled => self.failed(String::from("the prefill was cancelled")),
            Phase::Prefill => self.prefill_begins(),
            Phase::Live => self.is_live(deliveries.is_empty()),
        }
    }

    fn failed(&mut self, reason: String) {
        let told = Told::Failed(reason.clone());
        if self.told != told {
            self.told = told;
            self.control("prefill-failed", json!({ "reason": reason }));
        }
    }

    fn prefill_begins(&mut self) {
        if self.told == Told::Prefill {
            return;
        }
        self.told = Told::Prefill;
        if let Some(Manifest { generation, fence, rows, .. }) = self.manifest() {
            let data = json!({ "generation": generation, "fence": fence, "rows": rows });
            self.control("prefill-start", data);
        }
    }

    fn is_live(&mut self, is_empty: bool) {
        // A prefill without rows is over before a pull meets it.
        if self.told == Told::Pending && self.manifest().is_some() {
            self.prefill_begins();
        }
        if self.told == Told::Prefill
            && let Some(manifest) = self.manifest()
        {
            self.control("prefill-end", json!(manifest));
        }
        let was_up_to_date = self.told == Told::Live { is_up_to_date: true };
        if is_empty && !was_up_to_date {
            self.control("up-to-date", json!({}));
        }
        self.told = Told::Live { is_up_to_date: is_empty };
    }

    /// Proof of the complete prefill of the generation that is served.
    fn manifest(&self) -> Option<Manifest> {
        let kept = self.followed.current()?;
        match &kept.subscription.prefill {
            Prefill::Done { manifest } if manifest.generation == self.generation => {
                Some(manifest.clone())
            }
            _ => None,
        }
    }

    fn control(&mut self, name: &'static str, data: Value) {
        self.controls.push_back(Item::Control { name, data });
    }
}
