//! The worker against sources and logs of every kind, on paused time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, Message, Outcome, Start};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fill::FillError;
use super::log_source::{LogSource, Logs};
use super::source::{Open, PAGE_BYTES, Page, Source, SourceError};
use super::worker::{MAX_ATTEMPTS, Worker};
use crate::model::{
    CloudEvent, Incarnation, LogEvent, Manifest, Prefill, Realm, Row, RowsDigest, Subscription,
    SubscriptionName, TopicSet, names,
};
use crate::platform::{Entropy, Platform};
use crate::registration::{Registration, Request};
use crate::store::prefill::{Cursor, Position, Why, let_rows_go, rows_are_settled, rows_gone};
use crate::store::{Store, StoreOptions};
use crate::work::Report;

async fn store() -> Store {
    let bus = Bus::connect("embedded:").await.unwrap();
    let platform = Platform { entropy: Entropy::seeded(1), ..Platform::new(bus) };
    Store::open(platform, StoreOptions::default()).await.unwrap()
}

fn realm() -> Realm {
    Realm::new("dir").unwrap()
}

/// Writes an event as a foreign publisher may: `token` as it is. `None` deletes the key.
async fn write(store: &Store, token: &str, data: Option<String>) -> u64 {
    let log = store.ensure_realm(&realm()).await.unwrap();
    let subject = format!("events.dir.users.{token}");
    let message = match data {
        Some(data) => Message::new(subject, data).unwrap(),
        None => Message::tombstone(bus::Subject::new(subject).unwrap()).unwrap(),
    };
    log.publish(message).await.unwrap().sequence
}

async fn register(store: &Store) -> Subscription {
    let request = Request {
        name: SubscriptionName::new("people").unwrap(),
        topics: TopicSet::parse(&["dir.*"]).unwrap(),
        prefill: true,
        secret: None,
        ack_wait: Duration::from_secs(30),
        max_attempts: None,
        dead_letters: None,
    };
    let registered = Registration::new(store.clone()).register(request).await.unwrap();
    registered.kept.subscription
}

/// What the last report says.
async fn reported(store: &Store) -> Option<Report> {
    let mut reader = store.tasks.reader(&[], Start::Beginning).await.unwrap();
    let all = reader.next(1000, Duration::ZERO).await.unwrap();
    let reports = all.iter().filter(|message| message.subject.as_str() == names::REPORT_SUBJECT);
    reports.last().map(|message| message.json().unwrap())
}

async fn manifest(store: &Store) -> Manifest {
    match reported(store).await {
        Some(Report::PrefillDone { manifest, .. }) => manifest,
        other => panic!("not done: {other:?}"),
    }
}

/// The rows of the prefill queue: key to log sequence and data, in the order of the queue.
async fn rows(store: &Store, of: &Incarnation) -> Vec<(String, u64, String)> {
    let filter = names::prefill_filter(of).unwrap();
    let mut reader = store.prefill.reader(&[filter], Start::Beginning).await.unwrap();
    let mut rows = Vec::new();
    loop {
        let page = reader.next(1000, Duration::ZERO).await.unwrap();
        if page.is_empty() {
            return rows;
        }
        for row in page.iter().filter_map(Row::read) {
            let event: serde_json::Value = serde_json::from_slice(&row.json).unwrap();
            let data =
                event["data"].as_str().map_or_else(|| event["data"].to_string(), str::to_owned);
            rows.push((row.key.as_str().to_owned(), row.sequence, data));
        }
    }
}

fn worker(store: &Store, source: impl Open + 'static, stop: &CancellationToken) -> Worker {
    Worker { store: store.clone(), source: Box::new(source), stop: stop.clone() }
}

/// A source of `pages` pages of two rows, each of which takes a while, and `fails` at the first.
#[derive(Clone)]
struct Scripted {
    pages: u64,
    pause: Duration,
    fails: bool,
    read: Arc<AtomicU64>,
}

impl Scripted {
    fn of(pages: u64) -> Self {
        Self { pages, pause: Duration::ZERO, fails: false, read: Arc::default() }
    }

    fn event(sequence: u64) -> LogEvent {
        let json = format!(
            r#"{{"specversion":"1.0","id":"{sequence}","source":"/t","type":"dir.users","subject":"k{sequence}","data":{sequence}}}"#
        );
        let message = CloudEvent::from_json(json.as_bytes()).unwrap().to_message().unwrap();
        let stored = bus::StoredMessage {
            sequence,
            timestamp: std::time::UNIX_EPOCH,
            subject: message.subject,
            key: message.key,
            headers: message.headers,
            payload: message.payload,
        };
        LogEvent::from_log(&stored).unwrap()
    }
}

#[async_trait]
impl Open for Scripted {
    async fn open(&self, _: &Store, _: &Subscription) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Source for Scripted {
    async fn page(&mut self, position: Option<&Position>) -> Result<Page, SourceError> {
        sleep(self.pause).await;
        self.read.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            let away = bus::Error::new(bus::ErrorKind::Unavailable, "the source is away");
            return Err(away.into());
        }
        let at = position.map_or(0, |position| position.sequence);
        let rows = vec![Self::event(2 * at + 1), Self::event(2 * at + 2)];
        // As an HTTP pager: the last page says that nothing follows.
        let next = (at + 1 < self.pages).then(|| Position { realm: realm(), sequence: at + 1 });
        Ok(Page {
            rows: rows.into_iter().map(Row::from).collect(),
            scanned: 2,
            total: 2 * self.pages,
            next,
        })
    }
}

fn digest_of(rows: &[(String, u64, String)]) -> String {
    let mut digest = RowsDigest::default();
    rows.iter().for_each(|(_, sequence, _)| digest.add(&realm(), *sequence));
    digest.to_hex()
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_the_last_page_are_counted() {
    for pages in [1, 3] {
        let store = store().await;
        write(&store, "any", Some(String::from("1"))).await;
        let of = register(&store).await.incarnation;
        let worker = worker(&store, Scripted::of(pages), &CancellationToken::new());
        assert!(matches!(worker.handle(of.clone()).await, Ok(Outcome::Ack)));
        let (manifest, rows) = (manifest(&store).await, rows(&store, &of).await);
        assert_eq!((manifest.rows, rows.len() as u64), (2 * pages, 2 * pages));
        assert_eq!(manifest.digest, digest_of(&rows));
        let cursor = Cursor::read(&store, &of).await.unwrap().unwrap();
        assert_eq!((cursor.scanned, cursor.total), (2 * pages, 2 * pages));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_may_take_longer_than_a_dead_worker_is_waited_for() {
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    let slow = Scripted { pause: Duration::from_secs(45), ..Scripted::of(4) };
    let first = Arc::new(worker(&store, slow.clone(), &CancellationToken::new()));
    let second = worker(&store, slow.clone(), &CancellationToken::new());
    let filling = tokio::spawn({
        let (first, of) = (first.clone(), of.clone());
        async move { first.handle(of).await }
    });
    sleep(Duration::from_secs(1)).await;
    while !filling.is_finished() {
        // Asked again and again, as the dispatcher and a redelivered task would.
        let asked = second.handle(of.clone()).await;
        assert!(matches!(asked, Ok(Outcome::Retry(_) | Outcome::Ack)), "{asked:?}");
        sleep(Duration::from_secs(5)).await;
    }
    assert!(matches!(filling.await.unwrap(), Ok(Outcome::Ack)));
    assert_eq!(slow.read.load(Ordering::Relaxed), 4, "each page was read once");
    assert_eq!(manifest(&store).await.rows, 8);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_died_is_followed_and_its_restarts_are_no_attempts() {
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    let pages = u64::from(4 * MAX_ATTEMPTS);
    let slow = Scripted { pause: Duration::from_secs(1), ..Scripted::of(pages) };
    let mut tries = 0;
    let outcome = loop {
        let worker = worker(&store, slow.clone(), &CancellationToken::new());
        // Killed after a page or two; the next one waits for its lease.
        let cut = Duration::from_millis(10_500 + 2500);
        tries += 1;
        if let Ok(outcome) = timeout(cut, worker.handle(of.clone())).await {
            break outcome;
        }
    };
    assert!(matches!(outcome, Ok(Outcome::Ack)), "{outcome:?}");
    assert!(tries > MAX_ATTEMPTS, "{tries}");
    let (manifest, rows) = (manifest(&store).await, rows(&store, &of).await);
    assert_eq!((manifest.rows, rows.len() as u64), (2 * pages, 2 * pages));
    assert_eq!(manifest.digest, digest_of(&rows));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_told_to_stop_hands_over_at_once() {
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    let source = Scripted::of(u64::from(3 * MAX_ATTEMPTS));
    let (began, mut tries) = (tokio::time::Instant::now(), 0);
    loop {
        let stop = CancellationToken::new();
        stop.cancel();
        tries += 1;
        match worker(&store, source.clone(), &stop).handle(of.clone()).await {
            Ok(Outcome::Retry(pause)) if pause.is_zero() => {}
            Ok(Outcome::Ack) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tries, 3 * MAX_ATTEMPTS);
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waited for a lease");
    assert_eq!(manifest(&store).await.rows, u64::from(6 * MAX_ATTEMPTS));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_ends_in_a_reason() {
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    let worker =
        worker(&store, Scripted { fails: true, ..Scripted::of(1) }, &CancellationToken::new());
    for _ in 1..MAX_ATTEMPTS {
        assert!(matches!(worker.handle(of.clone()).await, Err(FillError::Source(_))));
    }
    assert!(matches!(worker.handle(of.clone()).await, Ok(Outcome::Ack)));
    match reported(&store).await {
        Some(Report::PrefillFailed { reason, .. }) => {
            assert!(
                reason.contains("attempts-exhausted") && reason.contains("is away"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_back_ends_in_a_reason() {
    struct Stuck;
    #[async_trait]
    impl Source for Stuck {
        async fn page(&mut self, _: Option<&Position>) -> Result<Page, SourceError> {
            let next = Some(Position { realm: realm(), sequence: 1 });
            Ok(Page { rows: Vec::new(), scanned: 0, total: 0, next })
        }
    }
    #[async_trait]
    impl Open for Stuck {
        async fn open(&self, _: &Store, _: &Subscription) -> Result<Box<dyn Source>, SourceError> {
            Ok(Box::new(Stuck))
        }
    }
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    let worker = worker(&store, Stuck, &CancellationToken::new());
    assert!(matches!(worker.handle(of).await, Ok(Outcome::Ack)));
    assert!(matches!(
        reported(&store).await,
        Some(Report::PrefillFailed { reason, .. }) if reason.contains("source-stuck")
    ));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_settles_the_task() {
    let store = store().await;
    let of = register(&store).await.incarnation;
    store.subscriptions.put("people", "not a record").await.unwrap();
    let worker = worker(&store, Logs, &CancellationToken::new());
    assert!(matches!(worker.handle(of).await, Ok(Outcome::Reject(_))));
}

/// Many keys, most written once more before the fence, many after it, some deleted, some that a
/// foreign publisher wrote in two ways.
async fn eventful(store: &Store) -> (Subscription, BTreeMap<String, (u64, String)>) {
    let mut state = BTreeMap::new();
    for round in 0..2 {
        for n in 0..700_u64 {
            let key = format!("k{n}");
            if round == 1 && n % 7 == 3 {
                write(store, &key, None).await;
                state.remove(&key);
            } else if round == 0 || n % 3 > 0 {
                let data = format!("{round}");
                let sequence = write(store, &key, Some(data.clone())).await;
                state.insert(key, (sequence, data));
            }
        }
    }
    // a@b is one key, whoever writes it: the last of both counts, and so does its end.
    for (ours_first, key, ends) in
        [(true, "a@b", false), (false, "c@d", false), (false, "e@f", true)]
    {
        let ours = key.replace('@', "=40");
        let order = if ours_first { [key.to_owned(), ours] } else { [ours, key.to_owned()] };
        write(store, &order[0], Some(String::from("old"))).await;
        let sequence = write(store, &order[1], (!ends).then(|| String::from("new"))).await;
        if !ends {
            state.insert(key.to_owned(), (sequence, String::from("new")));
        }
    }
    let subscription = register(store).await;
    for n in (0..700_u64).step_by(2) {
        write(store, &format!("k{n}"), (n % 4 == 0).then(|| String::from("later"))).await;
        write(store, &format!("late{n}"), Some(String::from("later"))).await;
    }
    (subscription, state)
}

#[tokio::test(start_paused = true)]
async fn the_state_at_the_fence_is_exact_also_when_a_worker_resumes() {
    for cut in [None, Some(1), Some(300), Some(699)] {
        let store = store().await;
        let (subscription, state) = eventful(&store).await;
        let of = &subscription.incarnation;
        if let Some(cut) = cut {
            // As if a worker had died with this much written and nothing counted.
            let mut source = LogSource::open(&store, &subscription).await.unwrap();
            let page = source.page(None).await.unwrap();
            for row in page.rows.iter().take(cut) {
                store.prefill.publish(row.of_prefill(of).unwrap()).await.unwrap();
            }
        }
        let worker = worker(&store, Logs, &CancellationToken::new());
        assert!(matches!(worker.handle(of.clone()).await, Ok(Outcome::Ack)));
        let (manifest, rows) = (manifest(&store).await, rows(&store, of).await);
        let found: BTreeMap<_, _> =
            rows.iter().map(|(key, at, data)| (key.clone(), (*at, data.clone()))).collect();
        assert!(found == state, "the state is that at the fence");
        assert_eq!((manifest.rows, rows.len()), (state.len() as u64, state.len()));
        assert_eq!(manifest.digest, digest_of(&rows));
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_bounded_by_bytes_and_the_same_from_any_position() {
    let store = store().await;
    for n in 0..40 {
        write(&store, &format!("k{n}"), Some("x".repeat(300_000))).await;
    }
    let subscription = register(&store).await;
    for n in 0..20 {
        write(&store, &format!("k{}", 2 * n), Some(String::from("later"))).await;
    }
    let mut source = LogSource::open(&store, &subscription).await.unwrap();
    let (mut position, mut pages) = (None, Vec::new());
    loop {
        let page = source.page(position.as_ref()).await.unwrap();
        let bytes: usize = page.rows.iter().map(|row| row.json.len()).sum();
        assert!(bytes < PAGE_BYTES + 310_000, "{bytes}");
        let mut fresh = LogSource::open(&store, &subscription).await.unwrap();
        let again = fresh.page(position.as_ref()).await.unwrap();
        assert_eq!((again.rows == page.rows, &again.next), (true, &page.next));
        assert_eq!((page.scanned, page.total), (page.rows.len() as u64, 40));
        pages.push(page.rows.len());
        position = page.next;
        if position.is_none() {
            break;
        }
    }
    assert_eq!(pages.iter().sum::<usize>(), 40);
    assert!(pages.len() > 4, "{pages:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_let_go_are_marked_first_and_gone_for_good() {
    let store = store().await;
    write(&store, "any", Some(String::from("1"))).await;
    let of = register(&store).await.incarnation;
    // Nothing happens to a prefill that is not complete.
    let_rows_go(&store, &of, Why::Settled).await.unwrap();
    assert_eq!(rows_gone(&store, &of).await.unwrap(), None);
    let worker = worker(&store, Scripted::of(2), &CancellationToken::new());
    assert!(matches!(worker.handle(of.clone()).await, Ok(Outcome::Ack)));
    rows_are_settled(&store, &of).await.unwrap();
    assert_eq!(rows(&store, &of).await.len(), 4, "marked first");
    assert!(rows_gone(&store, &of).await.unwrap().unwrap().contains("settled"));
    for why in [Why::Settled, Why::Age] {
        let_rows_go(&store, &of, why).await.unwrap();
        assert!(rows_gone(&store, &of).await.unwrap().unwrap().contains("settled"));
        assert_eq!(store.prefill.info().await.unwrap().messages, 0);
    }
    let cursor = Cursor::read(&store, &of).await.unwrap().unwrap();
    assert!(cursor.gone.unwrap().removed);
}

#[tokio::test(start_paused = true)]
async fn old_rows_go_and_who_begins_anew_gets_another_generation() {
    let store = store().await;
    write(&store, "anna", Some(String::from("1"))).await;
    let before = register(&store).await;
    let stop = CancellationToken::new();
    let mut roles = tokio::task::JoinSet::new();
    let registration = Registration::new(store.clone());
    roles.spawn(crate::registration::run(registration, stop.clone()));
    roles.spawn(super::run(store.clone(), stop.clone()));
    roles.spawn(crate::dispatcher::run(store.clone(), stop.clone()));
    let done = |s: &Subscription| matches!(s.prefill, Prefill::Done { .. });
    let when = async |wanted: &dyn Fn(&Subscription) -> bool| loop {
        let kept = store.subscription(before.name()).await.unwrap().unwrap();
        if wanted(&kept.subscription) {
            break kept.subscription;
        }
        sleep(Duration::from_millis(100)).await;
    };
    when(&done).await;
    sleep(StoreOptions::default().prefill_max_age / 2).await;
    assert_eq!(rows(&store, &before.incarnation).await.len(), 1, "not old yet");
    sleep(StoreOptions::default().prefill_max_age).await;
    assert_eq!(rows(&store, &before.incarnation).await, []);
    assert_eq!(when(&done).await.incarnation, before.incarnation, "nobody asked");
    for _ in 0..3 {
        crate::work::rows_are_missed(&store, &before.incarnation).await.unwrap();
    }
    let after = when(&|s| done(s) && s.incarnation != before.incarnation).await;
    assert_eq!(after.incarnation.generation, 2);
    assert_eq!(rows(&store, &after.incarnation).await.len(), 1);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(when(&done).await.incarnation.generation, 2, "asking twice is asking once");
    stop.cancel();
    while let Some(ended) = roles.join_next().await {
        ended.unwrap().unwrap();
    }
}
