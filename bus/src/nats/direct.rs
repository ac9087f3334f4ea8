//! Reading single messages without a consumer: direct get (NATS ADR-31).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, Message, StatusCode, datetime};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::convert::stored;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::name::{StreamName, Subject};

/// A request of this many bytes of subjects stays well below the smallest `max_payload` in use.
const SUBJECT_BYTES: usize = 200_000;
/// The server answers for at most 1024 subjects.
const PAGE: usize = 1000;
/// What is looked for behind a sequence holds the stream's lock for milliseconds per subject.
const COSTLY_PAGE: usize = 100;
const LOOKUPS_AT_ONCE: usize = 64;
/// Between two messages of an answer; the costly search comes before the first.
const STATE_LIMIT: Duration = Duration::from_secs(15);

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

    pub(super) fn into_stored(self) -> StoredMessage {
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
///
/// The server finds the last message of a subject by its index, but the last one before a
/// sequence by reading through the block that holds this sequence, once for each subject that is
/// in there behind it (5 ms each where measured, under the stream's lock). So everything is asked
/// for its last message first, and only what was written since is asked for in the costly way,
/// in small portions, and only if it existed before.
pub(super) async fn last_at(
    link: &Link,
    stream: &StreamName,
    subjects: &[Subject],
    up_to: u64,
) -> Result<Vec<StoredMessage>> {
    if up_to == 0 {
        return Ok(Vec::new());
    }
    let mut found = BTreeMap::new();
    for page in portions(subjects, PAGE) {
        last_page(link, stream, page, None, &mut found).await?;
    }
    let written_since = found.split_off(&up_to.saturating_add(1));
    let existed: Vec<Result<Option<Subject>>> =
        futures_util::stream::iter(written_since.into_values().map(|message| message.subject))
            .map(|subject| existed_at(link, stream, subject, up_to))
            .buffered(LOOKUPS_AT_ONCE)
            .collect()
            .await;
    let existed = existed.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
    for page in portions(&existed, COSTLY_PAGE) {
        last_page(link, stream, page, Some(up_to), &mut found).await?;
    }
    Ok(found.into_values().collect())
}

/// The subject, if its first message is at or before the sequence.
async fn existed_at(
    link: &Link,
    stream: &StreamName,
    subject: Subject,
    up_to: u64,
) -> Result<Option<Subject>> {
    let first = json!({ "seq": 1, "next_by_subj": subject.as_str() });
    let first = get(link, stream, &first).await?;
    Ok(first.filter(|first| first.sequence <= up_to).map(|_| subject))
}

/// Cuts a list of subjects into requests of at most `most` that stay small in bytes too.
fn portions(mut subjects: &[Subject], most: usize) -> Vec<&[Subject]> {
    let mut portions = Vec::new();
    while !subjects.is_empty() {
        let mut bytes = 0;
        let fits = |subject: &&Subject| {
            bytes += subject.as_str().len() + 3;
            bytes <= SUBJECT_BYTES
        };
        let length = subjects.iter().take(most).take_while(fits).count().max(1);
        let (portion, rest) = subjects.split_at(length);
        portions.push(portion);
        subjects = rest;
    }
    portions
}

/// Adds the last message of each subject, at or before `up_to` if given.
async fn last_page(
    link: &Link,
    stream: &StreamName,
    page: &[Subject],
    up_to: Option<u64>,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<()> {
    // Halved when the server cuts an answer short at its limit of bytes, so it ends.
    let mut todo = Vec::from([page]);
    while let Some(page) = todo.pop() {
        if last_request(link, stream, page, up_to, found).await? {
            continue;
        }
        if page.len() <= 1 {
            let what = format!("the state of {page:?} is larger than the server answers");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let (left, right) = page.split_at(page.len() / 2);
        todo.extend([right, left]);
    }
    Ok(())
}

/// Adds what one request finds; false when the server says that it holds more than it sent.
async fn last_request(
    link: &Link,
    stream: &StreamName,
    page: &[Subject],
    up_to: Option<u64>,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<bool> {
    let fail = |failure: Failure| failure.into_error(format!("read the state of stream {stream}"));
    let names: Vec<&str> = page.iter().map(Subject::as_str).collect();
    let mut body = json!({ "multi_last": names });
    if let Some(up_to) = up_to {
        body["up_to_seq"] = up_to.into();
    }
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let mut answers = link.ask(subject, body.to_string().into()).await.map_err(fail)?;
    loop {
        // Without the end marker the answer is not complete, and an incomplete one is an error.
        let answer = tokio::time::timeout(STATE_LIMIT, answers.next()).await;
        let Ok(Some(message)) = answer else { return Err(fail(Failure::Lost)) };
        match message.status {
            None => {
                let message = Raw::from_direct(message).map_err(fail)?.into_stored();
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
