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
use crate::backoff::Backoff;
use crate::driver::Unit;
use crate::error::{Error, Result};
use crate::message::{Message, Receipt};
use crate::name::StreamName;
use crate::unit::{self, Committed, Guarantee};

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// The server takes no larger batch.
const MOST: usize = 1000;
/// A leader is elected within this long.
const ATTEMPTS: u32 = 20;
/// What the server says about batches alone: not allowed, incomplete, too many, an id it knows.
const ABOUT_BATCHES: [u64; 6] = [10174, 10175, 10176, 10177, 10199, 10201];

/// See [`crate::driver::Driver::commit`].
pub(super) async fn commit(nats: &Nats, unit: &Unit) -> Result<Committed> {
    let unit = identified(nats, unit);
    let mut shortest = None;
    for (stream, _) in &unit.outputs {
        let window = nats.publisher.facts().get(&nats.link, stream).await?.duplicate_window;
        shortest = Some(window.min(shortest.unwrap_or(window)));
    }
    let receipts = match as_batch(nats, &unit).await? {
        Some(receipts) => receipts,
        None => one_by_one(nats, &unit).await?,
    };
    unit::ack_inputs(&unit).await?;
    let guarantee = shortest.map_or(Guarantee::Exactly, Guarantee::Effectively);
    Ok(Committed { receipts, guarantee })
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
fn identified(nats: &Nats, unit: &Unit) -> Unit {
    let mut unit = unit.clone();
    let ids: Vec<_> = (0..unit.outputs.len()).map(|at| unit::output_id(&unit, at)).collect();
    for ((_, message), id) in unit.outputs.iter_mut().zip(ids) {
        let given = message.id.take().or(id);
        message.id = Some(given.unwrap_or_else(|| nats.link.unique()));
    }
    unit
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
        match send(nats, unit).await {
            Ok(Ok(receipts)) => return Ok(Some(receipts)),
            Ok(Err(error)) => return Err(error),
            Err(Failure::Api(code, _)) if ABOUT_BATCHES.contains(&code.0) => return Ok(None),
            Err(Failure::NoResponders) => {
                if let Some(error) = nats.link.explain(stream, None).await {
                    return Err(error);
                }
            }
            Err(Failure::Lost) => {}
            Err(transient) if transient.is_transient() => {}
            Err(failure) => return Err(failure.into_error(doing())),
        }
        tokio::time::sleep(backoff.delay(attempt)).await;
    }
    Err(Failure::Lost.into_error(doing()))
}

/// Sends all of them once; only the last one is answered, for all.
async fn send(nats: &Nats, unit: &Unit) -> Result<Result<Vec<Receipt>>, Failure> {
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
