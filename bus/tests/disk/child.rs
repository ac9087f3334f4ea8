//! The other process: this test binary again, with one test to run and a folder to run it on.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use bus::{
    BucketConfig, BucketName, Bus, Consumer, Delivery, KeyValue, Start, Stream, StreamConfig,
};
use futures_util::future::join_all;

use super::{message, url};

const FOLDER: &str = "BUS_TEST_FOLDER";
const POLICY: &str = "BUS_TEST_POLICY";
/// So long a delivery is leased, and so long a retry or a delayed message waits.
pub(crate) const WAIT: Duration = Duration::from_millis(150);
/// What one process does at most; it is killed long before.
const STEPS: u64 = 1_000_000;
const WINDOW: u64 = 16;

/// Starts the process; it works until it is killed.
pub(crate) fn start(folder: &Path, policy: &str) -> Child {
    command("child::what_is_killed_works_on_its_own", folder, policy).spawn().unwrap()
}

/// A run of one test of this binary on `folder`.
pub(crate) fn command(test: &str, folder: &Path, policy: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(POLICY, policy);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The folder that this process was started for.
pub(crate) fn given() -> Option<String> {
    let folder = std::env::var(FOLDER).ok()?;
    let policy = std::env::var(POLICY).unwrap();
    Some(url(Path::new(&folder), &policy))
}

pub(crate) fn millis(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

/// What the work goes on in.
pub(crate) struct Bench {
    pub(crate) log: Stream,
    pub(crate) later: Stream,
    pub(crate) input: Stream,
    pub(crate) output: Stream,
    pub(crate) kv: KeyValue,
    pub(crate) consumer: Consumer,
    pub(crate) mover: Consumer,
}

impl Bench {
    pub(crate) async fn open(bus: &Bus) -> Self {
        let stream = async |name: &str| {
            let mut config = StreamConfig::parse(name, &[&format!("{name}.>")]).unwrap();
            config.delayed = name == "later";
            bus.ensure_stream(&config).await.unwrap()
        };
        let bucket = BucketConfig::new(BucketName::new("kv").unwrap());
        let (log, later) = (stream("log").await, stream("later").await);
        let (input, output) = (stream("input").await, stream("output").await);
        let consumer = bus.consumer("log", "c").ack_wait(WAIT).max_unsettled(64);
        let mover = bus.consumer("input", "m").ack_wait(WAIT);
        Self {
            log,
            later,
            input,
            output,
            kv: bus.ensure_kv(&bucket).await.unwrap(),
            consumer: consumer.open().await.unwrap(),
            mover: mover.open().await.unwrap(),
        }
    }

    /// Does everything at once, and says what it is sure of.
    async fn work(&self, bus: &Bus, steps: u64) {
        let first = self.log.info().await.unwrap().last_sequence;
        tokio::join!(
            self.publish(first, steps),
            self.consume(steps),
            self.read(first, steps),
            self.write(steps),
            self.delay(steps),
            self.move_on(bus, steps),
        );
    }

    async fn publish(&self, first: u64, steps: u64) {
        for round in 0..steps.div_ceil(WINDOW) {
            let from = first + round * WINDOW;
            join_all((from..from + WINDOW).map(|n| async move {
                // The process before this one may have stored more than it said.
                let n = format!("{}-{n}", std::process::id());
                let sent = message("log.a", &n).id(&n);
                let receipt = self.log.publish(sent).await.unwrap();
                say(format_args!("published {n} {}", receipt.sequence));
            }))
            .await;
        }
    }

    async fn consume(&self, steps: u64) {
        let mut count = 0;
        while count < steps {
            let taken = self.consumer.fetch(32, WAIT).await.unwrap();
            count += taken.len() as u64;
            for delivery in taken {
                settle(delivery).await;
            }
        }
    }

    async fn read(&self, after: u64, steps: u64) {
        let mut reader = self.log.reader(&[], Start::Sequence(after + 1)).await.unwrap();
        let mut count = 0;
        while count < steps {
            for read in reader.next(64, WAIT).await.unwrap() {
                let body = String::from_utf8(read.payload.unwrap().to_vec()).unwrap();
                say(format_args!("read {body} {}", read.sequence));
                count += 1;
            }
        }
    }

    async fn write(&self, steps: u64) {
        let entry = self.kv.get("count").await.unwrap();
        let mut revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let mut count: u64 =
            entry.map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse().unwrap());
        for _ in 0..steps {
            count += 1;
            revision = self.kv.update("count", count.to_string(), revision).await.unwrap();
            say(format_args!("wrote {count} {revision}"));
        }
    }

    async fn delay(&self, steps: u64) {
        for n in 0..steps {
            let due = SystemTime::now() + WAIT;
            let n = format!("{}-{n}", std::process::id());
            self.later.publish(message("later.a", &n).not_before(due)).await.unwrap();
            say(format_args!("delayed {n} {}", millis(due)));
        }
    }

    async fn move_on(&self, bus: &Bus, steps: u64) {
        for n in 0..steps {
            let n = format!("{}-{n}", std::process::id());
            self.input.publish(message("input.a", &n)).await.unwrap();
            for delivery in self.mover.fetch(8, WAIT).await.unwrap() {
                let body = delivery.message().payload.clone().unwrap();
                let moved = bus::Message::new("output.a", body).unwrap();
                let unit = bus.unit().settle(delivery).publish(&self.output, moved);
                if let Ok(done) = unit.commit().await {
                    say(format_args!("moved {n} {}", done.receipts[0].sequence));
                }
            }
        }
    }
}

async fn settle(delivery: Delivery) {
    let (sequence, attempt) = (delivery.message().sequence, delivery.attempt());
    say(format_args!("delivered {sequence} {attempt}"));
    let not_before = millis(SystemTime::now() + WAIT);
    let done = match sequence % 4 {
        0 => delivery
            .retry(WAIT)
            .await
            .map(|()| say(format_args!("retried {sequence} {not_before}"))),
        1 => return,
        _ => {
            say(format_args!("acking {sequence} 0"));
            delivery.ack_confirmed().await.map(|()| say(format_args!("acked {sequence} 0")))
        }
    };
    // On a slow machine the lease may be over.
    let stale = |error: bus::SettleError| assert_eq!(error.error.kind(), bus::ErrorKind::Stale);
    done.unwrap_or_else(stale);
}

/// Whole lines only: the pipe takes each at once.
fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("={line}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Run by itself it does a little of everything on a folder of its own.
#[tokio::test]
async fn what_is_killed_works_on_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (url, steps) = match given() {
        Some(url) => (url, STEPS),
        None => (url(folder.path(), ""), 4 * WINDOW),
    };
    let bus = Bus::connect(&url).await.unwrap();
    let bench = Bench::open(&bus).await;
    let parts = bench.work(&bus, steps);
    tokio::time::timeout(Duration::from_secs(120), parts).await.expect("the work ends");
    assert_eq!(bench.log.info().await.unwrap().last_sequence, 4 * WINDOW);
    assert_eq!(bench.output.info().await.unwrap().messages, 4 * WINDOW);
}
