//! The slow path of a publish: what happened, and whether it may be tried again.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::convert::{EXPECTED_LAST, MESSAGE_ID, headers_out};
use super::direct;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use super::publisher::{Job, read_answer};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Expect, Message, Receipt};
use crate::name::StreamName;

/// How long a message is tried, from its submission: a leader election took 6.4 s where measured.
pub(super) const RECOVER_FOR: Duration = Duration::from_secs(20);

/// Longer than the successor of a leader that answered by mistake takes to store a message.
const STALE_LEADER: Duration = Duration::from_millis(20);

/// How long a connection is waited for in between. A server that restarts is back sooner.
const RECONNECT: Duration = Duration::from_secs(5);

/// True for a failure after which [`recover`] sends the message again.
pub(super) fn is_sent_again(job: &Job, failure: &Failure) -> bool {
    failure.is_transient() || matches!(failure, Failure::Lost) && job.may_repeat()
}

/// Brings a message that got `failure` for an answer to its end.
///
/// It is sent again only if that cannot store it twice: it has an id, or it certainly was not
/// stored. The id is the same each time, so that the server answers a repeat as a duplicate.
pub(super) async fn recover(link: &Link, job: &Job, failure: Failure) -> Result<Receipt> {
    let deadline = job.submitted + RECOVER_FOR;
    let backoff = Backoff::exponential(Duration::from_millis(20)).cap(Duration::from_secs(1));
    let (mut failure, mut lost) = (failure, false);
    for attempt in 1.. {
        match &failure {
            Failure::Lost if job.may_repeat() => lost = true,
            Failure::NoResponders if Instant::now() < deadline => {
                if let Some(error) =
                    link.explain(&job.stream, Some(job.message.subject.as_str())).await
                {
                    return Err(error);
                }
            }
            transient if transient.is_transient() => {}
            // The server looks at the condition before it looks at the id. A leader that steps down
            // refuses what the next one may store all the same, so any earlier attempt counts.
            conflict if conflict.is_conflict() && (lost || attempt > 1 || !job.own_id) => {
                return own_success(link, job, failure, lost || attempt > 1).await;
            }
            conflict if may_be_stale(conflict, job) => {
                tokio::time::sleep(STALE_LEADER).await;
                return own_success(link, job, failure, false).await;
            }
            _ => break,
        }
        let again = Instant::now() + backoff.delay(attempt);
        let back_by = deadline.min(Instant::now() + RECONNECT);
        if again >= deadline || !link.wait_connected(back_by).await {
            break;
        }
        tokio::time::sleep_until(again).await;
        match send(link, job).await {
            Ok(result) => return result,
            Err(next) => failure = next,
        }
    }
    let error = failure.into_error(format!("publish to {}", job.message.subject));
    // Whatever the last attempt says, an earlier one may have been stored.
    let unsure = lost && error.kind() == ErrorKind::Unavailable;
    Err(if unsure { Error::new(ErrorKind::Timeout, error.to_string()) } else { error })
}

/// Sends a message once and waits for the answer.
pub(super) async fn send(link: &Link, job: &Job) -> Result<Result<Receipt>, Failure> {
    let message = &job.message;
    let headers = match headers_out(message, message.id.as_deref()) {
        Ok(headers) => headers,
        Err(error) => return Ok(Err(error)),
    };
    let (subject, payload) = (job.subject().to_owned(), message.payload.clone());
    let answer = link.request(subject, headers, payload.unwrap_or_default(), REQUEST_LIMIT).await?;
    read_answer(job, &answer)
}

/// True for a conflict that the stream's log does not prove: for the moment until it hears of its
/// successor, a leader that was cut off refuses, by what it knew, what that one stores; and its
/// answer may be the first to come.
fn may_be_stale(conflict: &Failure, job: &Job) -> bool {
    let Some(Expect::LastSubjectSequence(expected)) = job.message.expect else { return false };
    conflict.is_conflict() && conflict.current().is_none_or(|current| current < expected)
}

/// A conflict may be this message's own earlier success: after a lost answer, or where its id was
/// given by who publishes it again. The first message on the subject after the expected one tells,
/// by its id or by what it expected itself. Where that one is overwritten already nobody can tell,
/// and after an earlier attempt the caller has to know that.
async fn own_success(link: &Link, job: &Job, conflict: Failure, repeated: bool) -> Result<Receipt> {
    let doing = || format!("publish to {}", job.message.subject);
    let Some(Expect::LastSubjectSequence(expected)) = job.message.expect else {
        return Err(conflict.into_error(doing()));
    };
    let next = follows(link, &job.stream, &job.message, expected).await?;
    if let (true, Some(sequence)) = (next.is_own, next.sequence) {
        return Ok(Receipt { sequence, duplicate: !job.own_id });
    }
    if repeated && !next.is_direct {
        return Err(Failure::Lost.into_error(doing()));
    }
    Err(conflict.into_error(doing()))
}

/// The first message on the subject of another one behind the sequence that was expected there.
pub(super) struct Next {
    sequence: Option<u64>,
    /// It is that very message, by its id.
    pub(super) is_own: bool,
    /// Whoever stored it expected the same.
    is_direct: bool,
}

/// Looks at what follows on the sequence that `message` expects.
pub(super) async fn follows(
    link: &Link,
    stream: &StreamName,
    message: &Message,
    expected: u64,
) -> Result<Next> {
    let next = json!({ "seq": expected + 1, "next_by_subj": message.subject.as_str() });
    let found = direct::get(link, stream, &next).await?;
    let header = |name: &str| found.as_ref()?.headers.as_ref()?.get(name).map(|v| v.as_str());
    Ok(Next {
        is_own: header(MESSAGE_ID).is_some_and(|id| Some(id) == message.id.as_deref()),
        is_direct: header(EXPECTED_LAST) == Some(expected.to_string().as_str()),
        sequence: found.as_ref().map(|found| found.sequence),
    })
}
