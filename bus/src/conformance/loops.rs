//! The consume loop: order per key, dead letters and their redrive, drains, traces, units.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Target;
use super::bench::{Case, PATIENCE, SHORT_LEASE, ack_all, collect, eventually, read, unique};
use crate::backoff::Backoff;
use crate::capability::{Capability, Support};
use crate::config::{Start, StreamConfig};
use crate::consumer::ConsumerBuilder;
use crate::dead_letter::{DeadLetter, DeadLetters, Origin, REDRIVE_TO};
use crate::error::{ErrorKind, Result};
use crate::handler::{HandlerError, Outcome, Received};
use crate::message::{Message, StoredMessage};
use crate::middleware::prometheus_client::encoding::text::encode;
use crate::middleware::prometheus_client::registry::Registry;
use crate::middleware::{Metrics, TraceContext, Tracing};
use crate::name::StreamName;

const SOON: Duration = Duration::from_millis(20);

/// A loop at work, and what its handler was given.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
    seen: UnboundedReceiver<Received>,
}

impl Running {
    /// Runs a handler that decides at once.
    fn start(
        builder: ConsumerBuilder,
        decide: impl Fn(&Received) -> Result<Outcome, HandlerError> + Send + Sync + 'static,
    ) -> Self {
        let (stop, (told, seen)) = (CancellationToken::new(), mpsc::unbounded_channel());
        let run = builder.run(stop.clone(), move |received: Received| {
            let decided = decide(&received);
            let told = told.send(received);
            async move {
                told?;
                decided
            }
        });
        Self { stop, task: tokio::spawn(run), seen }
    }

    async fn next(&mut self) -> Received {
        timeout(PATIENCE, self.seen.recv()).await.expect("handled in time").expect("at work")
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("the drain ends").unwrap().unwrap();
    }
}

/// A stream for dead letters, changed as wanted.
async fn dead_letters(case: &Case, change: impl FnOnce(&mut StreamConfig)) -> DeadLetters {
    let mut config = StreamConfig::dead_letters(StreamName::new(unique("dead")).unwrap());
    change(&mut config);
    case.bus.ensure_stream(&config).await.unwrap();
    case.bus.dead_letters(&config.name).await.unwrap()
}

/// Waits for this many letters, and for a moment in which no more come.
async fn letters(dead: &DeadLetters, count: usize) -> Vec<DeadLetter> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = eventually("list", || dead.list(None, 1000)).await;
        if found.len() >= count {
            assert_eq!(found.len(), count, "more dead letters than messages were given up");
            return found;
        }
        assert!(Instant::now() < deadline, "{} of {count} dead letters", found.len());
        sleep(Duration::from_millis(50)).await;
    }
}

/// A message of one key at a time and in order, while handlers fail, a process dies and another
/// one waits to take over; every message is done in the end.
pub async fn per_key_order_under_faults(target: &dyn Target) {
    const KEYS: usize = 4;
    const EACH: usize = 8;
    let case = Case::new(target).await;
    if refuses_key_order(&case).await {
        return;
    }
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    for n in 0..KEYS * EACH {
        let key = format!("k{}", n % KEYS);
        let message = case.message("a", n.to_string()).key(&key);
        let sequence = case.stream.publish(message).await.unwrap().sequence;
        expected.entry(key).or_default().push(sequence);
    }
    let journal = Arc::new(Journal::default());
    let mut processes = Vec::new();
    for _ in 0..3 {
        let bus = target.bus().await.unwrap();
        let builder = bus.consumer(&case.name, "c").ack_wait(SHORT_LEASE).max_unsettled(20);
        let builder = builder.ordered_by_key().retry(Backoff::fixed(SOON)).max_in_flight(3);
        let (stop, journal) = (CancellationToken::new(), journal.clone());
        let run = builder.run(stop.clone(), move |received: Received| {
            let journal = journal.clone();
            async move { journal.handle(received).await }
        });
        processes.push((stop, tokio::spawn(run)));
        // The first two die, at different points of their work.
        if let Some(died) = processes.len().checked_sub(2) {
            journal_reaches(&processes[died].1, &case, (died + 1) * KEYS * EACH / 3).await;
        }
    }
    let deadline = Instant::now() + 2 * PATIENCE;
    while journal.done().values().flatten().collect::<BTreeSet<_>>().len() < KEYS * EACH {
        assert!(Instant::now() < deadline, "not all are done: {:?}", journal.done());
        sleep(SOON).await;
    }
    for (stop, _) in &processes {
        stop.cancel();
    }
    for (_, process) in processes {
        match timeout(PATIENCE, process).await.expect("the drain ends") {
            Ok(ended) => ended.unwrap(),
            Err(error) => assert!(error.is_cancelled(), "{error}"),
        }
    }
    assert_eq!(*journal.broken.lock().unwrap(), Vec::<String>::new());
    for (key, mut done) in journal.done() {
        // A death after the work and before the ack repeats it, and changes no order.
        assert!(done.is_sorted(), "{key}: {done:?}");
        done.dedup();
        assert_eq!(done, expected[&key]);
    }
    case.wait_unsettled("c", 0).await;
}

/// Lets the process work until this many messages are settled, then kills it.
async fn journal_reaches(process: &JoinHandle<Result<()>>, case: &Case, settled: usize) {
    let deadline = Instant::now() + 2 * PATIENCE;
    let total = case.stream.info().await.unwrap().messages;
    loop {
        let info = case.bus.consumer_info(&case.name, "c").await;
        // Made by the process itself, when it gets there.
        let open = info.map_or(total, |info| info.pending + info.unsettled);
        if total.saturating_sub(open) >= settled as u64 {
            process.abort();
            return;
        }
        assert!(Instant::now() < deadline, "{open} of {total} are open still");
        sleep(SOON).await;
    }
}

#[derive(Default)]
struct Journal {
    done: Mutex<BTreeMap<String, Vec<u64>>>,
    at_work: Mutex<BTreeSet<String>>,
    broken: Mutex<Vec<String>>,
    handled: AtomicUsize,
}

impl Journal {
    fn done(&self) -> BTreeMap<String, Vec<u64>> {
        self.done.lock().unwrap().clone()
    }

    /// Fails every fifth time; takes a while, so that keys do overlap.
    async fn handle(self: Arc<Self>, received: Received) -> Result<Outcome, HandlerError> {
        let key = String::from_utf8_lossy(received.message.order_key()).into_owned();
        let sequence = received.message.sequence;
        let begun = AtWork { journal: self.clone(), key };
        if !self.at_work.lock().unwrap().insert(begun.key.clone()) {
            let what = format!("{sequence} began while {} was at work", begun.key);
            self.broken.lock().unwrap().push(what);
        }
        sleep(5 * SOON).await;
        if self.handled.fetch_add(1, Ordering::Relaxed) % 5 == 4 {
            return Err("on purpose".into());
        }
        self.done.lock().unwrap().entry(begun.key.clone()).or_default().push(sequence);
        Ok(Outcome::Ack)
    }
}

/// Ends with its handler, however that ends.
struct AtWork {
    journal: Arc<Journal>,
    key: String,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.journal.at_work.lock().unwrap().remove(&self.key);
    }
}

/// True where a consumer cannot be run by key, after asserting that it says so at once.
async fn refuses_key_order(case: &Case) -> bool {
    let can = |capability| case.bus.support(capability) != Support::Unsupported;
    let lease = can(Capability::LeaseExtension);
    if lease && (can(Capability::KeyAffinity) || can(Capability::KvCompareAndSet)) {
        return false;
    }
    let builder = case.consumer("c").ordered_by_key();
    let run = builder.run(CancellationToken::new(), |_: Received| async { Ok(Outcome::Ack) });
    let refused = timeout(PATIENCE, run).await.expect("refused at once").unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    true
}

/// A message whose attempts are used up, and one that is rejected, become one dead letter each,
/// with everything they had and where they come from. Without a copy nothing is settled.
pub async fn max_attempts_dead_letters(target: &dyn Target) {
    let case = Case::new(target).await;
    let dead = dead_letters(&case, |_| {}).await;
    let failing = case.message("a", "fails").key("k").header("h", "1").unwrap();
    let failing = case.stream.publish(failing.header("h", "2").unwrap()).await.unwrap().sequence;
    let rejected = Message::tombstone(case.subject("b")).unwrap();
    let rejected = case.stream.publish(rejected).await.unwrap().sequence;
    let builder = case.consumer("c").max_attempts(3).retry(Backoff::fixed(SOON));
    let mut running = Running::start(builder.dead_letters(dead.name()), |received| match received
        .message
        .is_tombstone()
    {
        true => Ok(Outcome::Reject(String::from(" on\r\npurpose "))),
        false => Err(format!("attempt {}", received.attempt).into()),
    });
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let received = running.next().await;
        attempts.push((received.message.sequence, received.attempt));
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(failing, 1), (failing, 2), (failing, 3), (rejected, 1)]);
    let letters = letters(&dead, 2).await;
    case.wait_unsettled("c", 0).await;
    let origin = Origin::new(&case.name, "c").unwrap();
    let letter = letters.iter().find(|letter| letter.sequence == failing).unwrap();
    assert_eq!((&letter.origin, letter.attempts), (&origin, 3));
    assert!(letter.reason.ends_with("attempt 3"), "{}", letter.reason);
    assert_eq!(letter.subject.as_str(), case.subject("a"));
    let values: Vec<_> = letter.copy.headers.values("h").map(|value| &value[..]).collect();
    assert_eq!(values, [b"1", b"2"]);
    assert_eq!(letter.copy.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(letter.copy.payload.as_deref(), Some(&b"fails"[..]));
    let letter = letters.iter().find(|letter| letter.sequence == rejected).unwrap();
    assert_eq!((&letter.origin, letter.attempts), (&origin, 1));
    assert_eq!(letter.reason.split_whitespace().collect::<Vec<_>>(), ["on", "purpose"]);
    assert!(letter.copy.is_tombstone() && letter.copy.key.is_none());
    assert_eq!(eventually("count", || dead.count()).await, BTreeMap::from([(origin, 2)]));
    running.stop().await;
    without_a_copy_nothing_is_settled(&case).await;
}

async fn without_a_copy_nothing_is_settled(case: &Case) {
    let mut narrow = None;
    let dead = dead_letters(case, |config| {
        config.max_message_bytes = 4096;
        narrow = Some(config.clone());
    });
    let dead = dead.await;
    let large = case.message("large", vec![b'x'; 16_384]);
    let sequence = case.stream.publish(large).await.unwrap().sequence;
    let builder = case.consumer("large").filter(&case.subject("large"));
    let builder = builder.dead_letters(dead.name()).retry(Backoff::fixed(SOON));
    let mut running = Running::start(builder, |_| Ok(Outcome::Reject(String::from("on purpose"))));
    running.next().await;
    running.next().await;
    assert_eq!(case.info("large").await.unsettled, 1, "settled without a copy");
    assert_eq!(eventually("list", || dead.list(None, 10)).await, []);
    let wide = StreamConfig { max_message_bytes: 1 << 20, ..narrow.unwrap() };
    eventually("widen the stream", || case.bus.ensure_stream(&wide)).await;
    assert_eq!(letters(&dead, 1).await[0].sequence, sequence);
    case.wait_unsettled("large", 0).await;
    running.stop().await;
}

/// Dead letters go back to the one consumer that gave them up, in their order and as they were;
/// what it gives up again is a dead letter again.
pub async fn dead_letters_redrive_in_order(target: &dyn Target) {
    let case = Case::new(target).await;
    let dead = dead_letters(&case, |_| {}).await;
    let other = case.consumer("other").open().await.unwrap();
    let mut sequences = Vec::new();
    for n in 0..6 {
        let message = case.message("a", n.to_string()).key("k").header("n", n.to_string());
        sequences.push(case.stream.publish(message.unwrap()).await.unwrap().sequence);
    }
    ack_all(collect(&other, 6).await).await;
    let mended = Arc::new(AtomicBool::new(false));
    let ok = mended.clone();
    let builder = case.consumer("c").max_in_flight(1).dead_letters(dead.name());
    let mut running = Running::start(builder, move |received| {
        let stays_bad = received.message.payload.as_deref() == Some(b"3");
        match ok.load(Ordering::SeqCst) && !stays_bad {
            true => Ok(Outcome::Ack),
            false => Ok(Outcome::Reject(String::from("not mended"))),
        }
    });
    let given_up = letters(&dead, 6).await;
    assert!(given_up.iter().map(|letter| letter.sequence).eq(sequences));
    for _ in 0..6 {
        running.next().await;
    }
    mended.store(true, Ordering::SeqCst);
    let elsewhere = Origin::new(&case.name, "other").unwrap();
    assert!(eventually("redrive", || dead.redrive(Some(&elsewhere))).await.is_empty());
    let done = dead.redrive(None).await.unwrap().remove(0);
    assert_eq!(done.origin, Origin::new(&case.name, "c").unwrap());
    assert_eq!((done.redriven, done.unreadable), (6, 0));
    assert!(done.failed.is_none(), "{:?}", done.failed);
    for n in 0..6 {
        let Received { message, attempt } = running.next().await;
        assert_eq!((message.headers.get("n"), attempt), (Some(n.to_string().as_str()), 1));
        assert_eq!(message.payload.as_deref(), Some(n.to_string().as_bytes()));
        assert_eq!(message.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(message.subject.as_str(), case.subject("a"));
        assert_eq!((message.headers.get(REDRIVE_TO), message.headers.len()), (Some("c"), 2));
    }
    let again = letters(&dead, 1).await.remove(0);
    assert_eq!(again.copy.payload.as_deref(), Some(&b"3"[..]));
    case.assert_nothing_before_a_new_message(&other).await;
    let done = dead.redrive(None).await.unwrap().remove(0);
    assert_eq!(done.redriven, 1, "only what is outstanding");
    letters(&dead, 1).await;
    running.stop().await;
}

/// On shutdown handlers have until the deadline; then they are aborted, the loop returns, and
/// their messages come again.
pub async fn drain_has_a_deadline(target: &dyn Target) {
    let case = Case::new(target).await;
    let sequence = case.publish("a").await;
    let (stop, (begun, mut began)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let builder = case.consumer("c").ack_wait(SHORT_LEASE).drain_within(Duration::from_secs(1));
    let run = builder.run(stop.clone(), move |_: Received| {
        let begun: UnboundedSender<()> = begun.clone();
        async move {
            begun.send(())?;
            std::future::pending().await
        }
    });
    let running = tokio::spawn(run);
    timeout(PATIENCE, began.recv()).await.expect("the handler begins");
    let stopped = Instant::now();
    stop.cancel();
    timeout(PATIENCE, running).await.expect("the drain ends").unwrap().unwrap();
    assert!(stopped.elapsed() >= Duration::from_secs(1), "aborted before the deadline");
    assert!(began.recv().await.is_none(), "a handler is left behind");
    let consumer = case.bus.bind(&case.name, "c").await.unwrap();
    let again = collect(&consumer, 1).await.remove(0);
    assert_eq!(again.message().sequence, sequence);
    // Where attempts are counted by the process, the loop's end may be the end of the count.
    let counted = case.bus.support(Capability::AttemptCount) == Support::Native;
    assert!(!counted || again.attempt() == 2, "attempt {}", again.attempt());
    again.ack_confirmed().await.unwrap();
}

/// Messages that always fail or panic do not keep a loop from doing the others, and are counted.
pub async fn poison_spares_the_others(target: &dyn Target) {
    let case = Case::new(target).await;
    case.publish_many("a", 20).await;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let builder = case.consumer("c").max_in_flight(2).retry(Backoff::fixed(SOON));
    let mut running = Running::start(builder.layer(metrics), |received| {
        match received.message.payload.as_deref() {
            Some(b"3") => Err("on purpose".into()),
            Some(b"4") => panic!("on purpose"),
            _ => Ok(Outcome::Ack),
        }
    });
    let (mut done, mut failed) = (BTreeSet::new(), 0);
    while done.len() < 18 || failed < 3 {
        let message = running.next().await.message;
        match message.payload.as_deref() {
            Some(b"3") => failed += 1,
            _ => assert!(done.insert(message.sequence), "done twice"),
        }
    }
    running.stop().await;
    let mut page = String::new();
    encode(&mut page, &registry).expect("a page");
    let sum = |series: &str| -> u64 {
        let lines = page.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    let settled = |how: &str| {
        let how = format!("how=\"{how}\"");
        let line = page.lines().find(|line| line.starts_with("bus_settled") && line.contains(&how));
        line.map_or(0, |line| line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
    };
    assert_eq!((settled("acked"), settled("dead_lettered"), sum("bus_in_flight{")), (18, 0, 0));
    assert!(settled("retried") >= 4 && sum("bus_redelivered_total") >= 2, "{page}");
    assert_eq!(sum("bus_handler_duration_seconds_count"), sum("bus_delivered_total"));
}

/// What a handler publishes belongs to the trace of what it handles, and a copy keeps its own.
pub async fn trace_context_travels(target: &dyn Target) {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut case = Case::new(target).await;
    case.bus = case.bus.with_middleware(Tracing::seeded(7));
    case.stream = case.bus.stream(&case.name).await.unwrap();
    let message = case.message("in", "x").header("traceparent", PARENT).unwrap();
    case.stream.publish(message.header("tracestate", "a=1").unwrap()).await.unwrap();
    case.publish("in").await;
    let (stop, (told, mut published)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let (stream, subject) = (case.stream.clone(), case.subject("out"));
    let builder = case.consumer("c").filter(&case.subject("in")).max_in_flight(1);
    let run = builder.run(stop.clone(), move |message: StoredMessage| {
        let (told, stream, subject) = (told.clone(), stream.clone(), subject.clone());
        async move {
            let current = TraceContext::current().expect("within a handler");
            let receipt = stream.publish(Message::new(subject, "y")?).await?;
            told.send((message, current, receipt.sequence))?;
            Ok(Outcome::Ack)
        }
    });
    let running = tokio::spawn(run);
    for carried in [Some(PARENT), None] {
        let next = timeout(PATIENCE, published.recv()).await.expect("handled in time");
        let (incoming, current, sequence) = next.expect("at work");
        let before = TraceContext::from_headers(&incoming.headers).expect("published in a trace");
        assert!(carried.is_none_or(|carried| before.to_string() == carried));
        let out = eventually("get", || case.stream.get(sequence)).await.expect("stored");
        let after = TraceContext::from_headers(&out.headers).expect("published in a trace");
        assert_eq!(before.trace_id(), after.trace_id());
        assert_eq!(before.trace_id(), current.trace_id());
        assert_eq!(before.state(), after.state());
        let spans = BTreeSet::from([before.span_id(), current.span_id(), after.span_id()]);
        assert_eq!(spans.len(), 3, "each has a span of its own");
    }
    stop.cancel();
    timeout(PATIENCE, running).await.expect("the drain ends").unwrap().unwrap();
}

/// A handler's outputs are published with its ack.
pub async fn unit_from_handler(target: &dyn Target) {
    let (case, results) = (Case::new(target).await, Case::new(target).await);
    case.publish_many("a", 5).await;
    let (out, subject) = (results.stream.clone(), results.subject("b"));
    let running = Running::start(case.consumer("c"), move |received| {
        let body = received.message.payload.clone().unwrap_or_default();
        let first = Message::new(&subject, body.clone())?.key("first");
        Ok(Outcome::ack_and(&out, first).and(&out, Message::new(&subject, body)?))
    });
    // Read, not counted: a backend's transactions may take places in the stream of their own.
    let mut reader = results.stream.reader(&[], Start::Beginning).await.unwrap();
    read(&mut reader, 10).await;
    case.wait_unsettled("c", 0).await;
    running.stop().await;
    assert!(reader.next(1, SOON).await.unwrap().is_empty(), "a unit was done twice");
}

/// A loop whose consumer is deleted makes it anew and goes on.
pub async fn deleted_consumer_heals(target: &dyn Target) {
    let case = Case::new(target).await;
    case.publish("a").await;
    let mut running = Running::start(case.consumer("c"), |_| Ok(Outcome::Ack));
    running.next().await;
    case.wait_unsettled("c", 0).await;
    eventually("delete", || case.bus.delete_consumer(&case.name, "c")).await;
    let sequence = case.publish("b").await;
    while running.next().await.message.sequence != sequence {}
    running.stop().await;
}
