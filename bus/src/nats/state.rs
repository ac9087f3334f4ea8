//! The state at a sequence: per subject the last message at or before it, exactly.
//!
//! The server finds the last message of a subject by its index. Behind a sequence it looks at the
//! index of each block of the log in turn, which is quick too, with one exception: where a subject
//! was written again in the block that holds the sequence, it reads back through that block, under
//! the stream's lock (5 ms for each such subject where measured). A few subjects are asked for in
//! that way. For many, the end of the log before the sequence is read once, about a block of it:
//! it tells the last message of all that were written there, and for the others the question moves
//! to before it, where the index answers. How long that end is decides on speed alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::stream::{Info, RetentionPolicy};
use async_nats::{Message, StatusCode};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::direct::{Raw, get, get_from_leader, refused};
use super::failure::Failure;
use super::feed::Feed;
use super::link::Link;
use super::streams;
use crate::config::Start;
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::name::{StreamName, Subject};

/// A request of this many bytes of subjects stays well below the smallest `max_payload` in use.
const SUBJECT_BYTES: usize = 200_000;
/// The server answers for at most 1024 subjects.
const PAGE: usize = 1000;
/// What is looked for behind a sequence may hold the stream's lock for milliseconds per subject.
const COSTLY_PAGE: usize = 100;
/// Up to here the costly way costs less than reading the end of the log.
const FEW: usize = 32;
/// The largest block the server makes, and some more.
const BLOCK_BYTES: u64 = 10 << 20;
const LOOKUPS_AT_ONCE: usize = 64;
/// A copy that is up and current is behind by milliseconds.
const LAG_ATTEMPTS: u32 = 100;
const LAG_PAUSE: Duration = Duration::from_millis(20);
/// Between two messages of an answer; the costly search comes before the first.
const STATE_LIMIT: Duration = Duration::from_secs(15);

/// The end that was read last, because a state is asked for in pages.
#[derive(Default)]
pub(super) struct LastEnd(Mutex<Option<(Version, Arc<End>)>>);

/// What a stream held up to a sequence. It changes by removals only, which are counted.
#[derive(PartialEq)]
struct Version {
    stream: StreamName,
    created: DateTime,
    up_to: u64,
    removed: u64,
}

/// The end of a log before a sequence, from `from` on: the last message there of each subject.
struct End {
    from: u64,
    last: HashMap<Subject, u64>,
}

/// See [`crate::driver::Driver::last_at`].
pub(super) async fn last_at(
    link: &Arc<Link>,
    last_end: &LastEnd,
    stream: &StreamName,
    subjects: &[Subject],
    up_to: u64,
) -> Result<Vec<StoredMessage>> {
    if up_to == 0 {
        return Ok(Vec::new());
    }
    let asked: HashSet<&Subject> = subjects.iter().collect();
    let mut found = newest(link, stream, subjects, up_to).await?;
    let written_since = found.split_off(&up_to.saturating_add(1)).into_values();
    let written_since: Vec<Subject> =
        written_since.map(|m| m.subject).filter(|s| asked.contains(s)).collect();
    if written_since.len() <= FEW {
        few_behind(link, stream, written_since, up_to, &mut found).await?;
    } else {
        many_behind(link, last_end, stream, written_since, up_to, &mut found).await?;
    }
    // A subject of others may read as a pattern, which finds more than was asked for.
    Ok(found.into_values().filter(|message| asked.contains(&message.subject)).collect())
}

/// The last message of each subject now, from servers that have everything up to `up_to`.
///
/// Any server with a copy answers and says how far it is; one that is behind is asked again, and
/// another may answer. A server that finds nothing does not say: so the subject of the stream's
/// last message is asked for too.
async fn newest(
    link: &Link,
    stream: &StreamName,
    subjects: &[Subject],
    up_to: u64,
) -> Result<BTreeMap<u64, StoredMessage>> {
    let mut probe: Option<Subject> = None;
    for _ in 0..LAG_ATTEMPTS {
        let (mut found, mut reached) = (BTreeMap::new(), u64::MAX);
        for page in portions(subjects, PAGE) {
            let page: Vec<Subject> = page.iter().chain(&probe).cloned().collect();
            reached = reached.min(last_page(link, stream, &page, None, &mut found).await?);
        }
        if reached >= up_to {
            return Ok(found);
        }
        let info = streams::raw_info(link, stream).await?;
        let last = info.state.last_sequence;
        if info.config.num_replicas <= 1 || reached >= last.min(up_to) {
            return Ok(found);
        }
        let end = get_from_leader(link, stream, &json!({ "seq": last })).await?;
        // Without its last message nothing tells how far a server is.
        let Some(end) = end else { return Ok(found) };
        probe = Some(Subject::received(&end.subject));
        tokio::time::sleep(LAG_PAUSE).await;
    }
    let what = format!("the copies of stream {stream} are behind its leader: try again");
    Err(Error::new(ErrorKind::Unavailable, what))
}

/// Adds the state behind `up_to` in the costly way, for those that existed.
async fn few_behind(
    link: &Link,
    stream: &StreamName,
    subjects: Vec<Subject>,
    up_to: u64,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<()> {
    let existed: Vec<Option<Subject>> = futures_util::stream::iter(subjects)
        .map(|subject| existed_at(link, stream, subject, up_to))
        .buffered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    let existed: Vec<Subject> = existed.into_iter().flatten().collect();
    for page in portions(&existed, COSTLY_PAGE) {
        last_page(link, stream, page, Some(up_to), found).await?;
    }
    Ok(())
}

/// Adds the state behind `up_to` by way of the end of the log.
async fn many_behind(
    link: &Arc<Link>,
    last_end: &LastEnd,
    stream: &StreamName,
    subjects: Vec<Subject>,
    up_to: u64,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<()> {
    let Some(end) = last_end.get(link, stream, up_to).await? else {
        return few_behind(link, stream, subjects, up_to, found).await;
    };
    let (in_end, before): (Vec<Subject>, Vec<Subject>) =
        subjects.into_iter().partition(|subject| end.last.contains_key(subject));
    if end.from > 1 {
        for page in portions(&before, PAGE) {
            last_page(link, stream, page, Some(end.from - 1), found).await?;
        }
    }
    let read = |subject: Subject| {
        let sequence = end.last.get(&subject).copied().unwrap_or_default();
        async move {
            let raw = get(link, stream, &json!({ "seq": sequence })).await?;
            let raw = raw.filter(|raw| raw.sequence == sequence);
            Ok::<_, Error>(raw.map(Raw::into_stored).ok_or(subject))
        }
    };
    let read: Vec<Result<StoredMessage, Subject>> = futures_util::stream::iter(in_end)
        .map(read)
        .buffered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    let mut removed = Vec::new();
    for message in read {
        match message {
            Ok(message) => drop(found.insert(message.sequence, message)),
            Err(subject) => removed.push(subject),
        }
    }
    // Removed in this very moment: the message before it counts.
    few_behind(link, stream, removed, up_to, found).await
}

impl LastEnd {
    /// The end of the stream's log before `up_to`; nothing where a log cannot be read.
    async fn get(
        &self,
        link: &Arc<Link>,
        stream: &StreamName,
        up_to: u64,
    ) -> Result<Option<Arc<End>>> {
        // Held while reading, so that pages asked for at once read it once.
        let mut kept = self.0.lock().await;
        let info = streams::raw_info(link, stream).await?;
        if info.config.retention == RetentionPolicy::WorkQueue {
            return Ok(None);
        }
        let removed = info.state.last_sequence.saturating_sub(info.state.messages);
        let version = Version { stream: stream.clone(), created: info.created, up_to, removed };
        if let Some((_, end)) = kept.as_ref().filter(|(of, _)| *of == version) {
            return Ok(Some(end.clone()));
        }
        let end = Arc::new(End::read(link, stream, &info, up_to).await?);
        *kept = Some((version, end.clone()));
        Ok(Some(end))
    }
}

impl End {
    async fn read(link: &Arc<Link>, stream: &StreamName, info: &Info, up_to: u64) -> Result<Self> {
        let span = info.state.last_sequence.saturating_sub(info.state.first_sequence) + 1;
        let block = BLOCK_BYTES.saturating_mul(span) / info.state.bytes.max(1);
        let from = up_to.saturating_sub(block).max(1);
        let mut feed = Feed::open(link.clone(), stream, &[], Start::Sequence(from)).await?;
        let mut last = HashMap::new();
        // Something was written behind `up_to`, so it was all there when the feed was opened.
        while feed.may_lag() || !feed.in_step() {
            let Some(item) = feed.next(Instant::now() + STATE_LIMIT).await? else {
                return Err(Failure::Lost.into_error(format!("read the end of stream {stream}")));
            };
            if item.sequence <= up_to {
                last.insert(Subject::received(&item.message.subject), item.sequence);
            }
            if item.sequence >= up_to {
                break;
            }
        }
        Ok(Self { from, last })
    }
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

/// Adds the last message of each subject, at or before `up_to` if given; how far the servers that
/// answered are, 0 where one found nothing.
async fn last_page(
    link: &Link,
    stream: &StreamName,
    page: &[Subject],
    up_to: Option<u64>,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<u64> {
    let mut reached = u64::MAX;
    // Halved when the server cuts an answer short at its limit of bytes, so it ends.
    let mut todo = Vec::from([page]);
    while let Some(page) = todo.pop() {
        let end = last_request(link, stream, page, up_to, found).await?;
        reached = reached.min(end.reached);
        if end.complete {
            continue;
        }
        if page.len() <= 1 {
            let what = format!("the state of {page:?} is larger than the server answers");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let (left, right) = page.split_at(page.len() / 2);
        todo.extend([right, left]);
    }
    Ok(reached)
}

/// How an answer ended.
struct Answered {
    /// False when the server says that it holds more than it sent.
    complete: bool,
    /// The sequence up to which the server looked.
    reached: u64,
}

/// Adds what one request finds.
async fn last_request(
    link: &Link,
    stream: &StreamName,
    page: &[Subject],
    up_to: Option<u64>,
    found: &mut BTreeMap<u64, StoredMessage>,
) -> Result<Answered> {
    let fail = |failure: Failure| failure.into_error(format!("read the state of stream {stream}"));
    let names: Vec<&str> = page.iter().map(Subject::as_str).collect();
    let mut body = json!({ "multi_last": names });
    if let Some(up_to) = up_to {
        body["up_to_seq"] = up_to.into();
    }
    let subject = link.api_subject(&format!("DIRECT.GET.{stream}"));
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
            Some(status) if status.as_u16() == 204 => return Ok(answered(&message)),
            Some(StatusCode::NOT_FOUND) => {
                return Ok(Answered { complete: true, reached: 0 });
            }
            Some(StatusCode::NO_RESPONDERS) => {
                let error = link.explain(stream, None).await;
                return Err(error.unwrap_or_else(|| fail(Failure::NoResponders)));
            }
            Some(status) => return Err(refused(stream, status, &message)),
        }
    }
}

fn answered(end: &Message) -> Answered {
    let number = |name: &str| end.headers.as_ref()?.get(name)?.as_str().parse::<u64>().ok();
    Answered {
        complete: number("Nats-Num-Pending").unwrap_or(0) == 0,
        reached: number("Nats-UpTo-Sequence").unwrap_or(0),
    }
}
