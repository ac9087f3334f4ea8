//! One round of handing out: chosen for all pulls that wait, loaded, written down, then sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bus::Error;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::ack_id::AckId;
use super::lane::{Lane, Place};
use super::lanes::{Lanes, OpenLane};
use super::pull::{HandedOut, Pull};
use super::selection::Select;
use super::session::side_by_side;
use super::source::Bodies;
use super::table::Body;
use crate::store::journal::{Group, KeyHash, Open, Superseded, Taken};

/// Bodies that are read from the log at once.
const LOADS: usize = 64;

/// What was chosen of one lane for one pull.
struct Part {
    pull: usize,
    max_bytes: usize,
    groups: Vec<Group>,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Round {
    pulls: usize,
    parts: BTreeMap<Lane, Vec<Part>>,
    /// Keys of each lane that are chosen or given up.
    keys: BTreeMap<Lane, Vec<KeyHash>>,
    give_up: Vec<(Lane, u64, Open)>,
    gave_up: bool,
    last: Option<Lane>,
}

/// What one lane is to write.
struct Batch {
    lane: Lane,
    groups: Vec<Group>,
    taken: Taken,
}

type Loaded = BTreeMap<(Lane, u64), Body>;

impl Round {
    /// Chooses for every pull in turn, from the lanes in turn.
    pub(super) fn select(lanes: &mut Lanes, pulls: &VecDeque<Pull>, last: Option<&Lane>) -> Self {
        let mut round = Self { pulls: pulls.len(), last: last.cloned(), ..Self::default() };
        for (at, pull) in pulls.iter().enumerate() {
            let mut left = pull.want;
            for lane in lanes.turns(round.last.as_ref()) {
                if left.max == 0 || left.max_bytes == 0 {
                    break;
                }
                left = round.select_from(lanes, &lane, at, left);
            }
            if left.max == pull.want.max {
                break;
            }
        }
        round
    }

    fn select_from(&mut self, lanes: &mut Lanes, lane: &Lane, pull: usize, want: Select) -> Select {
        let Some(open) = lanes.get_mut(lane) else { return want };
        let selection = open.table.select(want);
        let groups = open.table.groups(&selection);
        self.keys.entry(lane.clone()).or_default().extend(selection.keys());
        let spent = selection.give_up.iter().cloned();
        self.give_up.extend(spent.map(|(sequence, open)| (lane.clone(), sequence, open)));
        if !groups.is_empty() {
            let part = Part { pull, max_bytes: want.max_bytes, groups };
            self.parts.entry(lane.clone()).or_default().push(part);
            self.last = Some(lane.clone());
        }
        Select {
            max: want.max.saturating_sub(selection.count),
            max_bytes: want.max_bytes.saturating_sub(selection.bytes()),
            ..want
        }
    }

    /// True when there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.give_up.is_empty()
    }

    /// True when keys were freed by giving something up: there may be more to choose.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// The lane that was served last.
    pub(super) fn last(&self) -> Option<Lane> {
        self.last.clone()
    }

    /// Gives up what is spent, loads the rest, writes it down, and returns what each pull gets, in
    /// their order. What could not be written down goes to nobody and is chosen again.
    pub(super) async fn run(&mut self, lanes: &mut Lanes) -> Vec<Vec<HandedOut>> {
        self.give_up(lanes).await;
        let mut loaded = self.load(lanes).await;
        self.trim(&loaded);
        let batches = self.batches(lanes);
        let write = |batch: Batch| {
            let journal = lanes.get(&batch.lane).map(|open| open.journal.clone());
            async move {
                let Batch { lane, groups, taken } = batch;
                let Some(journal) = journal else { return (lane, None) };
                let written = journal.write(|journal| journal.hand_out(&groups, &taken)).await;
                (lane, Some(written))
            }
        };
        let written = side_by_side(batches.into_iter().map(write).collect::<Vec<_>>()).await;
        let now = Instant::now();
        let mut went: BTreeMap<Lane, BTreeSet<KeyHash>> = BTreeMap::new();
        for (lane, written) in written {
            let Some(open) = lanes.get_mut(&lane) else { continue };
            match written {
                Some(Ok(written)) => match written.value {
                    Ok(keys) => {
                        open.table.handed_out(written.journal, now);
                        went.insert(lane, keys);
                    }
                    Err(Superseded) => lanes.reopen(&lane),
                },
                Some(Err(error)) => {
                    tracing::debug!(%lane, %error, "a batch could not be written down");
                    // It may have been: only reading it again tells what is out.
                    lanes.reopen(&lane);
                }
                None => {}
            }
        }
        for (lane, keys) in std::mem::take(&mut self.keys) {
            if let Some(open) = lanes.get_mut(&lane) {
                open.table.release(keys, now);
            }
        }
        self.served(lanes, &went, &mut loaded)
    }

    /// Keeps what has failed too often as dead letters and lets their keys go on.
    async fn give_up(&mut self, lanes: &mut Lanes) {
        for (lane, sequence, seen) in std::mem::take(&mut self.give_up) {
            match give_up_one(lanes, &lane, sequence, &seen).await {
                Ok(()) => self.gave_up = true,
                Err(error) => tracing::warn!(%lane, sequence, %error, "not given up yet"),
            }
        }
    }

    /// Reads the bodies that are not in memory.
    async fn load(&mut self, lanes: &mut Lanes) -> Loaded {
        let mut loaded = Loaded::new();
        let mut missing: Vec<(Lane, u64, Bodies)> = Vec::new();
        for (lane, parts) in &self.parts {
            let Some(open) = lanes.get(lane) else { continue };
            for sequence in parts.iter().flat_map(|part| &part.groups).flat_map(sequences) {
                match open.table.body(sequence) {
                    Some(body) => drop(loaded.insert((lane.clone(), sequence), body.clone())),
                    None => missing.push((lane.clone(), sequence, open.bodies.clone())),
                }
            }
        }
        let load = |(lane, sequence, bodies): (Lane, u64, Bodies)| async move {
            (lane, sequence, bodies.get(sequence).await)
        };
        let read: Vec<_> = stream::iter(missing).map(load).buffer_unordered(LOADS).collect().await;
        for (lane, sequence, body) in read {
            match body {
                Ok(Some(body)) => drop(loaded.insert((lane, sequence), body)),
                Ok(None) => {
                    let why = format!("event {sequence} is not held any more");
                    lanes.lost(&lane, &why).await;
                }
                Err(error) => tracing::debug!(%lane, sequence, %error, "not read"),
            }
        }
        loaded
    }

    /// Cuts each run at what could not be loaded, and each answer at its bytes.
    fn trim(&mut self, loaded: &Loaded) {
        let mut room: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
        for (lane, parts) in &mut self.parts {
            for part in parts {
                let (left, is_first) = room.entry(part.pull).or_insert((part.max_bytes, true));
                for group in &mut part.groups {
                    let mut fits = |sequence: u64| {
                        let Some(body) = loaded.get(&(lane.clone(), sequence)) else {
                            return false;
                        };
                        let len = body.event.len();
                        let fits = *is_first || len <= *left;
                        *left = left.saturating_sub(len);
                        *is_first = false;
                        fits
                    };
                    let count = sequences(group).take_while(|sequence| fits(*sequence)).count();
                    cut(group, count);
                }
                part.groups.retain(|group| sequences(group).next().is_some());
            }
        }
    }

    fn batches(&self, lanes: &mut Lanes) -> Vec<Batch> {
        let mut batch = |(lane, parts): (&Lane, &Vec<Part>)| {
            let groups: Vec<Group> = parts.iter().flat_map(|part| &part.groups).cloned().collect();
            if groups.is_empty() {
                return None;
            }
            let chosen = groups.iter().map(|g| (g.key, sequences(g).collect())).collect();
            let taken = lanes.get_mut(lane)?.table.taken(&chosen);
            Some(Batch { lane: lane.clone(), groups, taken })
        };
        self.parts.iter().filter_map(&mut batch).collect()
    }

    fn served(
        &mut self,
        lanes: &Lanes,
        went: &BTreeMap<Lane, BTreeSet<KeyHash>>,
        loaded: &mut Loaded,
    ) -> Vec<Vec<HandedOut>> {
        let mut served: Vec<Vec<HandedOut>> = (0..self.pulls).map(|_| Vec::new()).collect();
        for (lane, parts) in std::mem::take(&mut self.parts) {
            let (Some(went), Some(open)) = (went.get(&lane), lanes.get(&lane)) else { continue };
            for part in parts {
                let gone = part.groups.iter().filter(|group| went.contains(&group.key));
                let mut out: Vec<HandedOut> = gone
                    .flat_map(sequences)
                    .filter_map(|sequence| handed_out(&lane, open, sequence, loaded))
                    .collect();
                out.sort_by_key(|out| out.place.sequence);
                if let Some(served) = served.get_mut(part.pull) {
                    served.append(&mut out);
                }
            }
        }
        served
    }
}

fn handed_out(
    lane: &Lane,
    open: &OpenLane,
    sequence: u64,
    loaded: &mut Loaded,
) -> Option<HandedOut> {
    let attempt = open.table.open(sequence)?.attempt;
    let body = loaded.remove(&(lane.clone(), sequence))?;
    Some(HandedOut { place: Place { lane: lane.clone(), sequence }, attempt, body })
}

async fn give_up_one(
    lanes: &mut Lanes,
    lane: &Lane,
    sequence: u64,
    seen: &Open,
) -> Result<(), Error> {
    let of = lanes.subscription().incarnation.clone();
    let keeps = lanes.subscription().keeps_dead_letters();
    let Some((journal, bodies)) =
        lanes.get(lane).map(|open| (open.journal.clone(), open.bodies.clone()))
    else {
        return Ok(());
    };
    let dead_letters = lanes.dead_letters.clone();
    let place = Place { lane: lane.clone(), sequence };
    let id = AckId { place, attempt: seen.attempt };
    let reason = format!("attempts-exhausted: handed out {} times, never acked", seen.attempt);
    let letter = match keeps {
        true => dead_letters.keep(&of, &id, &bodies, &reason).await?,
        false => None,
    };
    let written = journal.write(|journal| journal.give_up(sequence, seen)).await?;
    if let (false, Some(letter)) = (written.value, &letter) {
        dead_letters.retract(letter).await?;
    }
    tracing::warn!(%lane, sequence, reason, "given up");
    if let Some(open) = lanes.get_mut(lane)
        && !open.table.sync(written.journal, Instant::now())
    {
        lanes.reopen(lane);
    }
    Ok(())
}

/// What of a group goes, in order.
fn sequences(group: &Group) -> impl Iterator<Item = u64> {
    group.again.iter().map(|(sequence, _)| *sequence).chain(group.fresh.iter().copied())
}

/// Leaves the first `count` of a group.
fn cut(group: &mut Group, count: usize) {
    if count < group.again.len() {
        let mut rest = group.again.split_off(count);
        rest.append(&mut group.rest);
        group.rest = rest;
        group.fresh.clear();
    } else {
        group.fresh.truncate(count - group.again.len());
    }
}
