//! Reading single messages without a consumer: direct get (NATS ADR-31).

use std::collections::BTreeMap;
use std::time::SystemTime;

use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, Message, StatusCode, datetime};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::convert::stored;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::name::{StreamName, Subject};

/// A request of this many bytes of subjects stays well below the smallest `max_payload` in use.
const SUBJECT_BYTES: usize = 200_000;

/// A message as direct get returns it, not yet this crate's.
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) timestamp: SystemTime,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
}

impl Raw {
    fn from_direct(message: Message) -> Result<Self, Failure> {
        let header = |name: &str| message.headers.as_ref()?.get_last(name).map(|v| v.as_str());
        let parts = || {
            let subject = header("Nats-Subject")?.to_owned();
            let sequence = header("Nats-Sequence")?.parse().ok()?;
            let timestamp = datetime::parse_rfc3339(header("Nats-Time-Stamp")?).ok()?.into();
            Some((subject, sequence, timestamp))
        };
        let (subject, sequence, timestamp) = parts()
            .ok_or_else(|| Failure::Malformed("a direct get lacks its headers".to_owned()))?;
        let Message { headers, payload, .. } = message;
        Ok(Self { subject, sequence, timestamp, headers, payload })
    }

    pub(super) fn into_stored(self) -> Result<StoredMessage> {
        let Self { subject, sequence, timestamp, headers, payload } = self;
        stored(&subject, sequence, timestamp, headers.as_ref(), payload)
    }
}

/// The message that `query` names (`seq`, `last_by_subj`, `seq` + `next_by_subj`), if held.
pub(super) async fn get(
    link: &Link,
    stream: &StreamName,
    query: &impl Serialize,
) -> Result<Option<Raw>> {
    let doing = || format!("read from stream {stream}");
    let body = serde_json::to_vec(query)
        .map_err(|e| Failure::Malformed(e.to_string()).into_error(doing()))?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    match link.request(subject, None, body.into(), REQUEST_LIMIT).await {
        Ok(message) => match message.status {
            None => Ok(Some(Raw::from_direct(message).map_err(|f| f.into_error(doing()))?)),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(refused(stream, status, &message)),
        },
        // Not everybody's streams allow direct gets; the leader is asked in another way.
        Err(Failure::NoResponders) => get_from_leader(link, stream, query).await,
        Err(failure) => Err(failure.into_error(doing())),
    }
}

/// The same from the stream's leader, which has everything that was acknowledged.
pub(super) async fn get_from_leader(
    link: &Link,
    stream: &StreamName,
    query: &impl Serialize,
) -> Result<Option<Raw>> {
    #[derive(Deserialize)]
    struct Answer {
        message: RawMessage,
    }
    const NO_MESSAGE: u64 = 10037;
    let doing = || format!("read from stream {stream}");
    let operation = format!("STREAM.MSG.GET.{stream}");
    let answer: Answer = match link.api_repeated(&operation, query).await {
        Ok(answer) => answer,
        Err(Failure::Api(code, _)) if code.0 == NO_MESSAGE => return Ok(None),
        Err(failure) => return Err(failure.into_error(doing())),
    };
    let message = async_nats::jetstream::message::StreamMessage::try_from(answer.message)
        .map_err(|e| Failure::Malformed(e.to_string()).into_error(doing()))?;
    Ok(Some(Raw {
        subject: message.subject.to_string(),
        sequence: message.sequence,
        timestamp: message.time.into(),
        headers: Some(message.headers),
        payload: message.payload,
    }))
}

/// See [`crate::driver::Driver::last_at`].
pub(super) async fn last_at(
    link: &Link,
    stream: &StreamName,
    subjects: &[Subject],
    up_to: u64,
) -> Result<Vec<StoredMessage>> {
    let mut found = BTreeMap::new();
    if up_to == 0 {
        return Ok(Vec::new());
    }
    // Halved when the server cuts an answer short at its limit of bytes, so it ends.
    let mut todo: Vec<&[Subject]> = Vec::from([subjects]);
    while let Some(page) = todo.pop() {
        if page.is_empty() {
            continue;
        }
        let bytes: usize = page.iter().map(|subject| subject.as_str().len() + 3).sum();
        let complete = bytes <= SUBJECT_BYTES || page.len() == 1;
        if complete && last_page(link, stream, page, up_to, &mut found).await? {
            continue;
        }
        if page.len() == 1 {
            let what = format!("the state of {} is larger than the server answers", page[0]);
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let (left, right) = page.split_at(page.len() / 2);
        todo.extend([right, left]);
    }
    Ok(found.into_values().collect())
}

/// Adds what one request finds; false when the server says that it holds more than it sent.
async fn last_page(
    link: &Link,
    stream: &StreamName,
    page: &[Subject],
    up_to: u64,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<bool> {
    let doing = || format!("read the state of stream {stream} at {up_to}");
    let fail = |failure: Failure| failure.into_error(doing());
    if link.is_closed() {
        return Err(fail(Failure::Closed));
    }
    let names: Vec<&str> = page.iter().map(Subject::as_str).collect();
    let body = json!({ "multi_last": names, "up_to_seq": up_to }).to_string();
    let inbox = link.client.new_inbox();
    let mut answers =
        link.client.subscribe(inbox.clone()).await.map_err(|_| fail(Failure::Closed))?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let sent = link.client.publish_with_reply(subject, inbox, body.into());
    let mut deadline = Instant::now() + REQUEST_LIMIT;
    match tokio::time::timeout_at(deadline, sent).await {
        Ok(sent) => sent.map_err(|e| fail(e.into()))?,
        Err(_) => return Err(fail(Failure::Lost)),
    }
    loop {
        // Without the end marker the answer is not complete, and an incomplete one is an error.
        let Ok(Some(message)) = tokio::time::timeout_at(deadline, answers.next()).await else {
            return Err(fail(Failure::Lost));
        };
        deadline = Instant::now() + REQUEST_LIMIT;
        match message.status {
            None => {
                let message = Raw::from_direct(message).map_err(fail)?.into_stored()?;
                found.insert(message.sequence, message);
            }
            Some(status) if status.as_u16() == 204 => return Ok(none_pending(&message)),
            Some(StatusCode::NOT_FOUND) => return Ok(true),
            Some(StatusCode::NO_RESPONDERS) => {
                let error = link.explain(stream, None).await;
                return Err(error.unwrap_or_else(|| fail(Failure::NoResponders)));
            }
            Some(status) => return Err(refused(stream, status, &message)),
        }
    }
}

fn none_pending(end: &Message) -> bool {
    let pending = end.headers.as_ref().and_then(|headers| headers.get("Nats-Num-Pending"));
    pending.is_none_or(|pending| pending.as_str() == "0")
}

fn refused(stream: &StreamName, status: StatusCode, message: &Message) -> Error {
    let text = message.description.as_deref().unwrap_or("no reason given");
    let what = format!("read from stream {stream}: the server answers {status} {text}");
    Error::new(ErrorKind::Backend, what)
}
