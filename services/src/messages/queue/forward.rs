//! Pulls that reach a replica which does not hand out: asked of the owner over the bus.
//!
//! The owner answers with places, not with events: an answer always fits a message, and who asked
//! reads the events itself. An answer that is lost is a batch that comes again when its leases end.

use std::time::Duration;

use bus::{Bus, Error, ErrorKind, Message};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lane::Place;
use super::pull::{HandedOut, Phase, Pulled, Refused};
use super::selection::Select;
use super::sessions::Sessions;
use crate::model::{Incarnation, SubscriptionName};

/// The owner waits at most this long for something to hand out; who asks asks again.
pub(super) const SLICE: Duration = Duration::from_secs(5);
/// The owner's answer may come this much later.
const GRACE: Duration = Duration::from_secs(3);
/// Questions of other replicas that one process works on at once.
const MAX_QUESTIONS: usize = 512;
const AGAIN: Duration = Duration::from_millis(500);

/// A pull at another replica. Keep stable.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    name: SubscriptionName,
    max: usize,
    max_per_key: usize,
    max_bytes: usize,
    wait_ms: u64,
}

/// What came of it. Keep stable.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Pulled { of: Incarnation, phase: Phase, out: Vec<(Place, u32)> },
    Refused(Refused),
}

/// What the owner handed out.
pub(super) struct Forwarded {
    pub(super) of: Incarnation,
    pub(super) phase: Phase,
    pub(super) out: Vec<(Place, u32)>,
}

/// Asks the owner. The outer error: it does not answer, or is no owner any more.
pub(super) async fn ask(
    bus: &Bus,
    owner: &str,
    name: &SubscriptionName,
    want: Select,
    wait: Duration,
) -> Result<Result<Forwarded, Refused>, Error> {
    let wait = wait.min(SLICE);
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let Select { max, max_per_key, max_bytes } = want;
    let question = Question { name: name.clone(), max, max_per_key, max_bytes, wait_ms };
    let message = Message::json(subject(owner), &question)?;
    let answer = bus.request(message, wait + GRACE).await?;
    match read::<Answer>(&answer)? {
        Answer::Refused(Refused::Elsewhere) => {
            Err(Error::new(ErrorKind::Unavailable, "the process does not hand out any more"))
        }
        Answer::Refused(why) => Ok(Err(why)),
        Answer::Pulled { of, phase, out } => Ok(Ok(Forwarded { of, phase, out })),
    }
}

/// Answers the pulls of other replicas until `shutdown`.
pub(super) async fn answer_all(sessions: Sessions, bus: Bus, shutdown: CancellationToken) {
    let mut answering = JoinSet::new();
    while !shutdown.is_cancelled() {
        let ended = tokio::select! { biased;
            () = shutdown.cancelled() => break,
            ended = answer_some(&sessions, &bus, &mut answering) => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "pulls of other replicas are not answered, trying again");
        }
        tokio::select! { biased;
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    while answering.join_next().await.is_some() {}
}

async fn answer_some(
    sessions: &Sessions,
    bus: &Bus,
    answering: &mut JoinSet<()>,
) -> Result<(), Error> {
    let owner = sessions.owner();
    let mut questions = bus.responder(&subject(owner), format!("queue-{owner}")).await?;
    loop {
        let question = questions.next().await?;
        while answering.try_join_next().is_some() {}
        if answering.len() >= MAX_QUESTIONS {
            // Dropped, it runs into its time-out, and is asked again.
            continue;
        }
        let sessions = sessions.clone();
        answering.spawn(async move {
            let answer = match read::<Question>(question.message()) {
                Ok(asked) => answer(&sessions, asked).await,
                Err(error) => Answer::Refused(Refused::Away(error.to_string())),
            };
            let answered = match Message::json("answer", &answer) {
                Ok(message) => question.answer(message).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "a pull of another replica was not answered");
            }
        });
    }
}

async fn answer(sessions: &Sessions, asked: Question) -> Answer {
    let Question { name, max, max_per_key, max_bytes, wait_ms } = asked;
    let want = Select { max, max_per_key, max_bytes };
    let until = Instant::now() + Duration::from_millis(wait_ms).min(SLICE);
    match sessions.pull_here(&name, want, until).await {
        Ok(Pulled { batch, phase, of }) => {
            let place = |out: HandedOut| (out.place, out.attempt);
            Answer::Pulled { of, phase, out: batch.take().into_iter().map(place).collect() }
        }
        Err(refused) => Answer::Refused(refused),
    }
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T, Error> {
    serde_json::from_slice(message.payload.as_deref().unwrap_or_default()).map_err(|source| {
        let what = "a replica of another version forwards or answers pulls: update it";
        Error::with_source(ErrorKind::Invalid, what, source)
    })
}

fn subject(owner: &str) -> String {
    format!("lockgate.queue.{owner}")
}
