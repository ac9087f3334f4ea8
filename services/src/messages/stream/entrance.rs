//! The way into a stream: a bus that is away for a moment ends no `EventSource`.
//!
//! By the HTML standard an `EventSource` that meets an error status never connects again. So whoever
//! asks while the bus does not answer is kept: the answer begins, says `event: waiting` and why,
//! and goes on as the stream once there is one. That is bounded in time, as nobody has been asked
//! for a secret yet: at its end the client connects again by itself.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::frame::{self, Frame};
use crate::http::{Problem, ProblemKind};
use crate::messages::queue::QueueStream;
use crate::messages::topics::TopicStream;

/// How long a client is kept waiting. Shorter than a ticket is remembered beyond its own time.
pub(in crate::messages) const LONGEST_WAIT: Duration = Duration::from_secs(50);
/// After an attempt that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// A comment is sent when nothing else was for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One attempt to open the stream.
pub(in crate::messages) type Attempt = BoxFuture<'static, Result<Opened, Problem>>;

/// What an attempt opens.
pub(in crate::messages) enum Opened {
    /// A stream whose position the client keeps.
    Stream(Box<Connection>),
    /// Deliveries of the queue.
    Queue(Box<QueueStream>),
    /// Topics without a subscription.
    Topics(Box<TopicStream>),
}

impl Opened {
    /// The next part of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Stream(connection) => connection.next().await,
            Self::Queue(stream) => stream.next().await,
            Self::Topics(stream) => stream.next().await,
        }
    }
}

/// The body of an answer: the wait for a stream, and then the stream.
pub(in crate::messages) struct Entrance(Stage);

enum Stage {
    Waiting(Box<Waiting>),
    Open(Opened),
    Ended,
}

struct Waiting {
    try_once: Box<dyn Fn() -> Attempt + Send>,
    attempt: Option<Attempt>,
    again_at: Instant,
    reason: String,
    said: String,
    outbox: VecDeque<Frame>,
    sent: Instant,
    ends: Instant,
    shutdown: CancellationToken,
}

impl Entrance {
    /// Before the first attempt. `retry_ms` is what the client is told to wait before it connects
    /// again.
    pub(in crate::messages) fn new(
        try_once: impl Fn() -> Attempt + Send + 'static,
        retry_ms: u64,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self(Stage::Waiting(Box::new(Waiting {
            try_once: Box::new(try_once),
            attempt: None,
            again_at: now,
            reason: String::from("the bus has not answered yet"),
            said: String::new(),
            outbox: VecDeque::from([Frame::retry(retry_ms)]),
            sent: now,
            ends: now + LONGEST_WAIT,
            shutdown,
        })))
    }

    /// Of a stream that is open.
    pub(in crate::messages) fn open(opened: Opened) -> Self {
        Self(Stage::Open(opened))
    }

    /// Gives the first attempt `patience`. An error is a refusal that waiting does not change.
    pub(in crate::messages) async fn enter(&mut self, patience: Duration) -> Result<(), Problem> {
        let Stage::Waiting(waiting) = &mut self.0 else { return Ok(()) };
        match timeout(patience, waiting.attempt()).await {
            Err(_) => {}
            Ok(Ok(opened)) => self.0 = Stage::Open(opened),
            Ok(Err(problem)) if is_passing(&problem) => waiting.failed(&problem),
            Ok(Err(problem)) => return Err(problem),
        }
        Ok(())
    }

    /// The next part of the body; `None` at its end.
    pub(in crate::messages) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let waiting = match &mut self.0 {
                Stage::Open(opened) => return opened.next().await,
                Stage::Ended => return None,
                Stage::Waiting(waiting) => waiting,
            };
            if let Some(chunk) = waiting.chunk() {
                return Some(chunk);
            }
            match waiting.step().await {
                Step::Look => {}
                Step::Open(opened) => self.0 = Stage::Open(opened),
                Step::End(last) => {
                    self.0 = Stage::Ended;
                    return last;
                }
            }
        }
    }
}

enum Step {
    Look,
    Open(Opened),
    End(Option<Bytes>),
}

impl Waiting {
    /// What is to be said now.
    fn chunk(&mut self) -> Option<Bytes> {
        if self.said != self.reason {
            self.said.clone_from(&self.reason);
            let data = json!({ "reason": self.reason });
            self.outbox.push_back(Frame::control("waiting", None, &data));
        }
        if self.outbox.is_empty() && self.sent + HEARTBEAT <= Instant::now() {
            self.outbox.push_back(Frame::heartbeat());
        }
        let chunk = frame::chunk(&mut self.outbox)?;
        self.sent = Instant::now();
        Some(chunk)
    }

    async fn step(&mut self) -> Step {
        let (shutdown, ends) = (self.shutdown.clone(), self.ends);
        let heartbeat = self.sent + HEARTBEAT;
        let tried = tokio::select! { biased;
            () = shutdown.cancelled() => return Step::End(None),
            () = sleep_until(ends) => return Step::End(None),
            () = sleep_until(heartbeat) => return Step::Look,
            tried = self.attempt() => tried,
        };
        match tried {
            Ok(opened) => Step::Open(opened),
            Err(problem) if is_passing(&problem) => {
                self.failed(&problem);
                Step::Look
            }
            Err(problem) => {
                // The status has been sent; connecting again, the client gets the right one.
                self.outbox.push_back(Frame::control("refused", None, &problem.to_json()));
                Step::End(frame::chunk(&mut self.outbox))
            }
        }
    }

    /// Goes on with the attempt that is under way, or begins one when it is time. May be dropped
    /// and called again.
    async fn attempt(&mut self) -> Result<Opened, Problem> {
        let attempt = match &mut self.attempt {
            Some(attempt) => attempt,
            none => {
                sleep_until(self.again_at).await;
                none.insert((self.try_once)())
            }
        };
        let tried = attempt.await;
        self.attempt = None;
        tried
    }

    fn failed(&mut self, problem: &Problem) {
        self.again_at = Instant::now() + AGAIN;
        // What the bus said names what is within; a reader of the stream can act on none of it.
        self.reason = problem.kind().title().to_owned();
    }
}

/// True for what may be over in a moment, a fault on our side included: the client is not at fault.
fn is_passing(problem: &Problem) -> bool {
    problem.kind().status().is_server_error() && problem.kind() != ProblemKind::Full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(kinds: Vec<ProblemKind>) -> Entrance {
        let kinds = std::sync::Mutex::new(VecDeque::from(kinds));
        let try_once = move || -> Attempt {
            let kind = kinds.lock().unwrap().pop_front();
            Box::pin(async move {
                match kind {
                    Some(kind) => Err(Problem::new(kind, "within")),
                    None => std::future::pending().await,
                }
            })
        };
        Entrance::new(try_once, 1500, CancellationToken::new())
    }

    async fn text(entrance: &mut Entrance) -> Option<String> {
        let chunk = entrance.next().await?;
        Some(String::from_utf8(chunk.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_a_refusal_is_said() {
        use ProblemKind::{Timeout, Unauthorized, Unavailable};
        let second = Duration::from_secs(1);
        let mut entrance = refusals(vec![Unauthorized]);
        assert_eq!(entrance.enter(second).await.unwrap_err().kind(), Unauthorized);

        let mut entrance = refusals(vec![Unavailable, Unavailable, Timeout, Unauthorized]);
        entrance.enter(second).await.unwrap();
        let waits = |reason: &str| format!("event: waiting\ndata: {{\"reason\":\"{reason}\"}}\n\n");
        let first = format!("retry: 1500\n\n{}", waits("the bus is away"));
        assert_eq!(text(&mut entrance).await.unwrap(), first);
        assert_eq!(text(&mut entrance).await.unwrap(), waits("no answer in time"));
        let last = text(&mut entrance).await.unwrap();
        assert!(last.starts_with("event: refused\ndata: {") && last.contains("401"), "{last}");
        assert_eq!(text(&mut entrance).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_bus_is_waited_for_within_a_bound() {
        let mut entrance = refusals(vec![]);
        let started = Instant::now();
        entrance.enter(Duration::from_secs(2)).await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(2), "the answer begins");
        assert!(text(&mut entrance).await.unwrap().contains("has not answered yet"));
        let mut heartbeats = 0;
        while let Some(text) = text(&mut entrance).await {
            assert_eq!(text, ":\n\n");
            heartbeats += 1;
        }
        assert_eq!((heartbeats, started.elapsed()), (3, LONGEST_WAIT));
    }
}
