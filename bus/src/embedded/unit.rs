//! Units: every stream that takes part is locked, everything is checked, then everything is done.

use std::collections::BTreeMap;

use super::clock::Now;
use super::entered::Entered;
use super::log::message_bytes;
use super::stream::{StreamCell, StreamState};
use super::{Embedded, driver::no_stream};
use crate::driver::{Committed, Guarantee};
use crate::driver::{Settlement, Unit};
use crate::error::{Error, Result};
use crate::message::{Message, Receipt};
use crate::name::{StreamName, Subject};

/// What a unit will have stored in one stream before the output that is being checked.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The sequences that subjects will have, of those the unit writes.
    pub(super) last: BTreeMap<Subject, u64>,
}

impl Planned {
    fn add(&mut self, message: &Message, stream: &StreamState) {
        self.messages += 1;
        self.bytes += message_bytes(message);
        let sequence = stream.log.last_sequence() + self.messages;
        self.last.insert(message.subject.clone(), sequence);
    }
}

impl Embedded {
    /// Does all of the unit or nothing.
    pub(super) fn commit_unit(&self, unit: &Unit) -> Result<Committed> {
        let now = self.connection.enter()?;
        let names = self.names();
        let taking_part = unit.inputs.iter().map(|input| &input.stream);
        // Let go after the streams, so that what happens to them is kept together.
        let _as_one = self.broker.storage.as_ref().map(|storage| storage.as_one());
        let mut locked = BTreeMap::new();
        // In the order of their names, so that two units never wait for each other.
        let mut streams: Vec<_> =
            taking_part.chain(unit.outputs.iter().map(|(stream, _)| stream)).collect();
        streams.sort_unstable();
        streams.dedup();
        for name in streams {
            let cell: &StreamCell = names.streams.get(name).ok_or_else(|| no_stream(name))?;
            locked.insert(name.clone(), cell.enter(now)?);
        }
        check(unit, &mut locked, now)?;
        let receipts = apply(unit, &mut locked, now)?;
        Ok(Committed { receipts, guarantee: Guarantee::Exactly })
    }
}

type Locked<'a> = BTreeMap<StreamName, Entered<'a, StreamState>>;

fn of<'l, 'a>(locked: &'l mut Locked<'a>, name: &StreamName) -> Result<&'l mut StreamState> {
    locked.get_mut(name).map(|state| &mut **state).ok_or_else(|| no_stream(name))
}

fn check(unit: &Unit, locked: &mut Locked<'_>, now: Now) -> Result<()> {
    for input in &unit.inputs {
        let (cursor, _) = of(locked, &input.stream)?.cursor(&input.consumer)?;
        cursor.check(&input.token, &Settlement::Ack, now)?;
    }
    let mut planned: BTreeMap<&StreamName, Planned> = BTreeMap::new();
    for (name, message) in &unit.outputs {
        let (state, planned) = (of(locked, name)?, planned.entry(name).or_default());
        if message.not_before.is_some() {
            return Err(Error::invalid(format!(
                "the message on {} is delayed, and a unit's outputs are stored with it: publish \
                 it apart",
                message.subject
            )));
        }
        if state.check(message, planned, now)?.is_none() {
            planned.add(message, state);
        }
    }
    Ok(())
}

fn apply(unit: &Unit, locked: &mut Locked<'_>, now: Now) -> Result<Vec<Receipt>> {
    let mut receipts = Vec::with_capacity(unit.outputs.len());
    for (name, message) in &unit.outputs {
        receipts.push(of(locked, name)?.publish(message.clone(), now)?);
    }
    for input in &unit.inputs {
        let state = of(locked, &input.stream)?;
        state.settle(&input.consumer, &input.token, &Settlement::Ack, now)?;
    }
    Ok(receipts)
}
