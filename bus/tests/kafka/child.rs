//! Another process that is a member of a group: this test binary again, with one test to run.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bus::{Bus, Consumer};
use tokio::time::Instant;

use super::{PATIENCE, message, shared, stream};

const URL: &str = "BUS_TEST_URL";
const STREAM: &str = "BUS_TEST_STREAM";
const WORK: &str = "BUS_TEST_WORK";
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the other process does as a member of consumer `c`.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Says `acking` and `acked` around the ack of each message with an even sequence, and holds
    /// the others.
    Share,
    /// Fetches so many, says `fetched` of the last, and waits to be told to go on. Then it says
    /// `retrying` and `retried` around a retry of the last, and holds the others.
    Retry(usize),
}

/// The process, killed when this is dropped.
pub(super) struct Other {
    process: Child,
    said: Arc<Mutex<Vec<(String, u64)>>>,
    reading: Option<JoinHandle<()>>,
}

impl Other {
    pub(super) fn start(url: &str, stream: &bus::Stream, work: Work) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "child::a_process_of_its_own_is_a_member_like_any_other";
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        let work = match work {
            Work::Share => "share".to_owned(),
            Work::Retry(count) => format!("retry {count}"),
        };
        command.env(URL, url).env(STREAM, stream.name().as_str()).env(WORK, work);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let said = Arc::<Mutex<Vec<(String, u64)>>>::default();
        let heard = said.clone();
        let reading = std::thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|length| length > 0) {
                // The harness writes its own lines, and in front of the first of ours.
                let whole = line.strip_suffix('\n').and_then(|line| line.split_once('='));
                if let Some((what, number)) = whole.and_then(|(_, said)| said.split_once(' ')) {
                    heard.lock().unwrap().push((what.to_owned(), number.parse().unwrap()));
                }
                line.clear();
            }
        });
        Self { process, said, reading: Some(reading) }
    }

    /// Waits until it has said `what` of a message; returns the sequence.
    pub(super) async fn says(&mut self, what: &str) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(sequence) = self.said_of(what).first() {
                return *sequence;
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "the other process ended: {ended:?}");
            assert!(Instant::now() < deadline, "the other process did not say {what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The messages of which it has said `what`.
    pub(super) fn said_of(&self, what: &str) -> BTreeSet<u64> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|(kind, _)| kind == what).map(|(_, sequence)| *sequence).collect()
    }

    /// Tells it to go on.
    pub(super) fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Kills it with SIGKILL; everything that it said is heard when this returns.
    pub(super) fn kill9(&mut self) {
        // An error means that it has ended already; waiting reaps it either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Whole lines only: the pipe takes each at once.
fn say(what: &str, sequence: u64) {
    let line = format!("={what} {sequence}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Until `count` were fetched, or for ever.
async fn share(consumer: &Consumer, count: usize) -> Vec<bus::Delivery> {
    let (mut held, mut fetched) = (Vec::new(), 0);
    while fetched < count {
        for delivery in consumer.fetch(10, PATIENCE).await.unwrap() {
            fetched += 1;
            let sequence = delivery.message().sequence;
            if sequence % 2 == 1 {
                held.push(delivery);
                continue;
            }
            say("acking", sequence);
            if delivery.ack_confirmed().await.is_ok() {
                say("acked", sequence);
            }
        }
    }
    held
}

async fn retry(consumer: &Consumer, count: usize) {
    let mut held = Vec::new();
    while held.len() < count {
        held.extend(consumer.fetch(count - held.len(), PATIENCE).await.unwrap());
    }
    let last = held.pop().unwrap();
    let sequence = last.message().sequence;
    say("fetched", sequence);
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    told.await.unwrap().unwrap();
    say("retrying", sequence);
    last.retry(Duration::ZERO).await.unwrap();
    say("retried", sequence);
    // It is killed by now, or as soon as the test ends that started it.
    tokio::time::sleep(2 * PATIENCE).await;
}

/// Run by itself it shares a stream of its own with nobody.
#[tokio::test]
async fn a_process_of_its_own_is_a_member_like_any_other() {
    if let Ok(url) = std::env::var(URL) {
        let bus = Bus::connect(&url).await.unwrap();
        let consumer = bus.bind(std::env::var(STREAM).unwrap(), "c").await.unwrap();
        let work = std::env::var(WORK).unwrap();
        match work.strip_prefix("retry ") {
            Some(count) => retry(&consumer, count.parse().unwrap()).await,
            None => drop(share(&consumer, usize::MAX).await),
        }
        return;
    }
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    for n in 1..=4 {
        stream.publish(message(&stream, "a", n)).await.unwrap();
    }
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let held = share(&consumer, 4).await;
    let held: Vec<u64> = held.iter().map(|delivery| delivery.message().sequence).collect();
    assert_eq!(held, [1, 3]);
    assert_eq!(consumer.info().await.unwrap().unsettled, 2);
}
