//! A unit: outputs stored under ids that a repetition repeats, then the inputs acked.
//!
//! Outputs that all go to one stream are published as one atomic batch (NATS ADR-50), so that no
//! reader ever sees a part of the unit. The server refuses a batch with an id that it remembers
//! (10201), also where it stored that very batch before: then the outputs are published one by
//! one, and the ids tell which are there.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use serde::Deserialize;

use super::Nats;
use super::convert::headers_out;
use super::failure::Failure;
use super::link::{REQUEST_LIMIT, limited};
use super::recover;
use crate::backoff::Backoff;
use crate::driver::life::Life;
use crate::driver::unit::{self, Committed, Guarantee};
use crate::driver::{Unit, UnitInput};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Expect, Message, Receipt};
use crate::name::StreamName;

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// The server takes no larger batch.
const MOST: usize = 1000;
/// A leader is elected within this long.
const ATTEMPTS: u32 = 20;
/// What the server says about batches alone: not allowed, incomplete, too many, an id it knows.
const ABOUT_BATCHES: [u64; 6] = [10174, 10175, 10176, 10177, 10199, 10201];

/// A batch of which the server got the end and not all before it.
const INCOMPLETE: u64 = 10176;

/// See [`crate::driver::Driver::commit`].
pub(super) async fn commit(nats: &Nats, unit: &Unit) -> Result<Committed> {
    if unit.atomic {
        let receipts = atomic(nats, unit).await?;
        return Ok(Committed { receipts, guarantee: Guarantee::Exactly });
    }
    let mut shortest = None;
    for (stream, _) in &unit.outputs {
        let window = nats.publisher.facts().get(&nats.link, stream).await?.duplicate_window;
        shortest = Some(window.min(shortest.unwrap_or(window)));
    }
    let receipts = publish(nats, unit).await?;
    unit::ack_inputs(unit).await?;
    let guarantee = shortest.map_or(Guarantee::Exactly, Guarantee::Effectively);
    Ok(Committed { receipts, guarantee })
}

/// Publishes the outputs. What the server knows already is of this unit, or of one like it in a life
/// of the consumer that is over: which of them it is takes a look.
async fn publish(nats: &Nats, unit: &Unit) -> Result<Vec<Receipt>> {
    let mut life = life(nats, unit, false).await?;
    loop {
        let named = identified(nats, unit, life);
        let receipts = match as_batch(nats, &named).await? {
            Some(receipts) => receipts,
            None => one_by_one(nats, &named).await?,
        };
        let known = |((_, output), receipt): (&(StreamName, Message), &Receipt)| {
            output.id.is_none() && receipt.duplicate
        };
        if life.is_none() || !unit.outputs.iter().zip(&receipts).any(known) {
            return Ok(receipts);
        }
        let now = self::life(nats, unit, true).await?;
        if now == life {
            return Ok(receipts);
        }
        life = now;
    }
}

/// The life of the first input's consumer, where outputs are named after it; as this process knows
/// it, or as it is now.
async fn life(nats: &Nats, unit: &Unit, now: bool) -> Result<Option<Life>> {
    let Some(UnitInput { stream, consumer, .. }) = unit.inputs.first() else { return Ok(None) };
    if unit.outputs.iter().all(|(_, message)| message.id.is_some()) {
        return Ok(None);
    }
    let gate = nats.link.gates.gate(stream, consumer);
    if !now && let Some(known) = gate.life() {
        return Ok(Some(known));
    }
    let asked = Life::ask(nats, stream, consumer).await?;
    gate.set_life(Some(asked));
    Ok(Some(asked))
}

async fn one_by_one(nats: &Nats, unit: &Unit) -> Result<Vec<Receipt>> {
    let mut pending = Vec::with_capacity(unit.outputs.len());
    for (stream, message) in &unit.outputs {
        pending.push(nats.publisher.submit(stream, message.clone()).await?);
    }
    let mut receipts = Vec::with_capacity(pending.len());
    for receipt in pending {
        receipts.push(receipt.await?);
    }
    Ok(receipts)
}

/// The unit with an id for each output, so that any part of it may be repeated.
fn identified(nats: &Nats, unit: &Unit, life: Option<Life>) -> Unit {
    let mut unit = unit.clone();
    let id = |at| unit::output_id(&unit, life?, at);
    let ids: Vec<_> = (0..unit.outputs.len()).map(id).collect();
    for ((_, message), id) in unit.outputs.iter_mut().zip(ids) {
        let given = message.id.take().or(id);
        message.id = Some(given.unwrap_or_else(|| nats.link.unique()));
    }
    unit
}

/// Stores all of the outputs in one step, or none.
async fn atomic(nats: &Nats, unit: &Unit) -> Result<Vec<Receipt>> {
    let Some((stream, _)) = unit.outputs.first() else { return Ok(Vec::new()) };
    let count = unit.outputs.len();
    let later = unit.outputs.iter().any(|(_, message)| message.not_before.is_some());
    let elsewhere = unit.outputs.iter().any(|(to, _)| to != stream);
    if count > MOST || later || elsewhere || !unit.inputs.is_empty() {
        return Err(Error::invalid(format!(
            "{count} messages cannot be one atomic batch: publish at most {MOST} to one stream, \
             none of them delayed"
        )));
    }
    let doing = || format!("publish {count} messages to stream {stream} in one step");
    let facts = nats.publisher.facts().get(&nats.link, stream).await?;
    if !facts.atomic {
        let what = "it takes no atomic batches: declare it on nats-server 2.12 or newer";
        return Err(Error::new(ErrorKind::Mismatch, format!("{}: {what}", doing())));
    }
    let backoff = Backoff::exponential(Duration::from_millis(50)).cap(Duration::from_secs(1));
    for attempt in 1..=ATTEMPTS {
        match send(nats, unit, facts.max_message).await {
            Ok(stored) => return stored,
            Err(Failure::NoResponders) => {
                if let Some(error) = nats.link.explain(stream, None).await {
                    return Err(error);
                }
            }
            // A part of it was lost on its way, so that nothing is stored.
            Err(Failure::Api(code, _)) if code.0 == INCOMPLETE => {}
            Err(transient) if transient.is_transient() => {}
            Err(failure) => return Err(failure.into_error(doing())),
        }
        tokio::time::sleep(backoff.delay(attempt)).await;
    }
    Err(Failure::NoResponders.into_error(doing()))
}

/// Publishes the outputs as one; `None` where they have to go one by one.
async fn as_batch(nats: &Nats, unit: &Unit) -> Result<Option<Vec<Receipt>>> {
    let [(stream, _), _, ..] = unit.outputs.as_slice() else { return Ok(None) };
    let together =
        |(to, message): &(StreamName, Message)| to == stream && message.not_before.is_none();
    let fits = unit.outputs.len() <= MOST && unit.outputs.iter().all(together);
    if !fits || !nats.publisher.facts().get(&nats.link, stream).await?.atomic {
        return Ok(None);
    }
    let backoff = Backoff::exponential(Duration::from_millis(50)).cap(Duration::from_secs(1));
    let doing = || format!("publish {} messages to stream {stream}", unit.outputs.len());
    for attempt in 1..=ATTEMPTS {
        match send(nats, unit, None).await {
            Ok(Ok(receipts)) => return Ok(Some(receipts)),
            Ok(Err(error)) => return Err(error),
            Err(Failure::Api(code, _)) if ABOUT_BATCHES.contains(&code.0) => return Ok(None),
            Err(Failure::NoResponders) => {
                if let Some(error) = nats.link.explain(stream, None).await {
                    return Err(error);
                }
            }
            // It may be of this very unit: stored before an answer was lost, or by who committed it
            // before a crash. The server looks at conditions before it looks at ids.
            Err(conflict) if conflict.is_conflict() => {
                return match is_stored(nats, unit).await? {
                    true => Ok(None),
                    false => Err(conflict.into_error(doing())),
                };
            }
            Err(Failure::Lost) => {}
            Err(transient) if transient.is_transient() => {}
            Err(failure) => return Err(failure.into_error(doing())),
        }
        tokio::time::sleep(backoff.delay(attempt)).await;
    }
    Err(Failure::Lost.into_error(doing()))
}

/// True when one of the outputs with a condition is what fulfilled it: then the unit was stored, as
/// a batch is whole or not at all, and by their ids the others are found to be there too.
async fn is_stored(nats: &Nats, unit: &Unit) -> Result<bool> {
    for (stream, message) in &unit.outputs {
        if let Some(Expect::LastSubjectSequence(expected)) = message.expect
            && recover::follows(&nats.link, stream, message, expected).await?.is_own
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends all of them once; only the last one is answered, for all. One that is larger than `most` is
/// refused here: the server passes it over without a word, and the batch is incomplete.
async fn send(
    nats: &Nats,
    unit: &Unit,
    most: Option<usize>,
) -> Result<Result<Vec<Receipt>>, Failure> {
    nats.link.connected().await?;
    let batch = nats.link.unique();
    let mut last = None;
    for (at, (stream, message)) in unit.outputs.iter().enumerate() {
        let headers = match headers_out(message, message.id.as_deref()) {
            Ok(headers) => headers.unwrap_or_default(),
            Err(error) => return Ok(Err(error)),
        };
        let headers = in_batch(headers, &batch, at);
        let (subject, payload) = (message.subject.to_string(), message.payload.clone());
        let payload = payload.unwrap_or_default();
        let bytes = payload.len() + wire_size(&headers);
        if let Some(most) = most.filter(|most| bytes > *most) {
            let what = format!("the message on {subject} has {bytes} bytes with its headers");
            let what = format!("{what}, stream {stream} takes {most}");
            return Ok(Err(Error::new(ErrorKind::TooLarge, what)));
        }
        if at + 1 < unit.outputs.len() {
            limited(nats.link.client.publish_with_headers(subject, headers, payload)).await?;
        } else {
            last = Some((stream, subject, headers, payload));
        }
    }
    let Some((stream, subject, mut headers, payload)) = last else { return Ok(Ok(Vec::new())) };
    headers.insert(BATCH_COMMIT, HeaderValue::from(1));
    let answer = nats.link.request(subject.clone(), Some(headers), payload, REQUEST_LIMIT).await?;
    read(stream, &subject, &answer.payload)
}

/// What headers take on the wire: a first line, `name: value` each, and an empty line.
fn wire_size(headers: &HeaderMap) -> usize {
    let line = |name: &str, value: &HeaderValue| name.len() + value.as_str().len() + 4;
    let named = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| line(name, value))
    });
    14 + named.sum::<usize>()
}

fn in_batch(mut headers: HeaderMap, batch: &str, at: usize) -> HeaderMap {
    headers.insert(BATCH_ID, batch);
    headers.insert(BATCH_SEQUENCE, HeaderValue::from(at as u64 + 1));
    headers
}

/// What the server answers for a batch: the last sequence, and how many there are up to it.
fn read(
    stream: &StreamName,
    subject: &str,
    answer: &[u8],
) -> Result<Result<Vec<Receipt>>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        stream: String,
        #[serde(default)]
        seq: u64,
        #[serde(default)]
        count: u64,
        error: Option<async_nats::jetstream::Error>,
    }
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|e| Failure::Malformed(format!("the answer to a batch is odd: {e}")))?;
    if let Some(error) = answer.error {
        return Err(error.into());
    }
    if answer.stream != stream.as_str() {
        return Ok(Err(Error::invalid(format!(
            "subject {subject} belongs to stream {}, not to {stream}: it was stored there",
            answer.stream
        ))));
    }
    let first = (answer.seq + 1).saturating_sub(answer.count);
    let receipt = |sequence| Receipt { sequence, duplicate: false };
    Ok(Ok((first..=answer.seq).map(receipt).collect()))
}
