//! Reading single messages without a consumer: direct get (NATS ADR-31).

use std::time::SystemTime;

use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, Message, StatusCode, datetime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::convert::stored;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::name::StreamName;
use crate::name::Subject;

/// A message as direct get returns it, not yet this crate's.
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) timestamp: SystemTime,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
}

impl Raw {
    pub(super) fn from_direct(message: Message) -> Result<Self, Failure> {
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

    pub(super) fn into_stored(self) -> StoredMessage {
        let Self { subject, sequence, timestamp, headers, payload } = self;
        stored(Subject::received(&subject), sequence, timestamp, headers.as_ref(), payload)
    }
}

/// The message that `query` names (`seq`, or `seq` + `next_by_subj`), if held.
///
/// Any server with a copy answers, and one may be a moment behind: what it does not have the
/// leader is asked for.
pub(super) async fn get(
    link: &Link,
    stream: &StreamName,
    query: &impl Serialize,
) -> Result<Option<Raw>> {
    match get_from_any(link, stream, query).await? {
        Some(found) => Ok(Some(found)),
        None => get_from_leader(link, stream, query).await,
    }
}

/// The same from any server that has a copy, as far as that one knows.
pub(super) async fn get_from_any(
    link: &Link,
    stream: &StreamName,
    query: &impl Serialize,
) -> Result<Option<Raw>> {
    let doing = || format!("read from stream {stream}");
    let body = serde_json::to_vec(query)
        .map_err(|e| Failure::Malformed(e.to_string()).into_error(doing()))?;
    let subject = link.api_subject(&format!("DIRECT.GET.{stream}"));
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

pub(super) fn refused(stream: &StreamName, status: StatusCode, message: &Message) -> Error {
    let text = message.description.as_deref().unwrap_or("no reason given");
    let what = format!("read from stream {stream}: the server answers {status} {text}");
    Error::new(ErrorKind::Backend, what)
}
