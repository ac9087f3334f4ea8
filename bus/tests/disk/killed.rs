//! A process is killed with SIGKILL at any point, again and again: whatever it was told stands.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bus::{Bus, Start};

use super::child::{self, Bench, WAIT, millis};
use super::{connect, message, url};

const ROUNDS: u64 = 12;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a process said before it was killed: kind, a text, a number.
type Said = Vec<(String, String, u64)>;

/// What stands over all rounds.
#[derive(Default)]
struct Ledger {
    /// What each sequence of the log holds, as far as anyone was told.
    log: BTreeMap<u64, String>,
    acked: BTreeSet<u64>,
    /// The ack was sent, and perhaps not answered.
    maybe_acked: BTreeSet<u64>,
    /// The highest attempt that anyone saw.
    attempts: BTreeMap<u64, u64>,
    /// When a retry may come again, in milliseconds since 1970.
    resting: BTreeMap<u64, u64>,
    delayed: BTreeMap<String, u64>,
    moved: BTreeMap<u64, ()>,
    count: u64,
    revision: u64,
}

impl Ledger {
    fn take_in(&mut self, said: Said) {
        for (kind, text, number) in said {
            let sequence = || text.parse::<u64>().unwrap();
            match kind.as_str() {
                "published" | "read" => {
                    let before = self.log.insert(number, text.clone());
                    assert!(before.is_none_or(|before| before == text), "{number} twice");
                }
                "delivered" => {
                    let seen = self.attempts.insert(sequence(), number).unwrap_or(0);
                    assert!(seen < number, "attempt {number} of {text} after {seen}");
                    assert!(!self.acked.contains(&sequence()), "{text} came again");
                }
                "retried" => drop(self.resting.insert(sequence(), number)),
                "acking" => drop(self.maybe_acked.insert(sequence())),
                "acked" => drop(self.acked.insert(sequence())),
                "wrote" => (self.count, self.revision) = (sequence(), number),
                "delayed" => drop(self.delayed.insert(text, number)),
                "moved" => drop(self.moved.insert(number, ())),
                other => panic!("{other} is unknown"),
            }
        }
    }

    async fn check(&mut self, bus: &Bus) {
        let bench = Bench::open(bus).await;
        self.check_log(&bench).await;
        self.check_values(&bench).await;
        self.check_consumer(&bench).await;
        self.check_delayed(&bench).await;
        check_moved(&bench, self.moved.len()).await;
    }

    async fn check_log(&self, bench: &Bench) {
        let mut reader = bench.log.reader(&[], Start::Beginning).await.unwrap();
        let (mut held, last) = (BTreeMap::new(), bench.log.info().await.unwrap().last_sequence);
        while held.len() < last as usize {
            for read in reader.next(1000, PATIENCE).await.unwrap() {
                let body = String::from_utf8(read.payload.unwrap().to_vec()).unwrap();
                held.insert(read.sequence, body);
            }
        }
        for (sequence, body) in &self.log {
            assert_eq!(held.get(sequence), Some(body), "at sequence {sequence}");
        }
        for (sequence, id) in self.log.iter().rev().take(20) {
            let again = bench.log.publish(message("log.a", id).id(id)).await.unwrap();
            assert!(again.duplicate && again.sequence == *sequence, "{again:?} for {id}");
        }
    }

    async fn check_values(&mut self, bench: &Bench) {
        let Some(entry) = bench.kv.get("count").await.unwrap() else {
            assert_eq!(self.count, 0, "the value is gone");
            return;
        };
        // The last write may have happened without an answer.
        let ahead = entry.revision - self.revision;
        assert!(ahead <= 1, "revision {} after {}", entry.revision, self.revision);
        assert_eq!(entry.value, (self.count + ahead).to_string());
        // The next process may die without an answer too.
        (self.count, self.revision) = (self.count + ahead, entry.revision);
        let late = bench.kv.update("count", "late", entry.revision - 1).await;
        assert!(late.unwrap_err().is_conflict());
    }

    /// Takes everything that is left: what was acked never comes, and all else does.
    async fn check_consumer(&mut self, bench: &Bench) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "the consumer does not drain");
            for delivery in bench.consumer.fetch(500, WAIT).await.unwrap() {
                let sequence = delivery.message().sequence;
                assert!(!self.acked.contains(&sequence), "{sequence} came again");
                let seen = self.attempts.insert(sequence, delivery.attempt().into()).unwrap_or(0);
                assert!(seen < delivery.attempt().into(), "{sequence} forgot {seen} attempts");
                let due = self.resting.remove(&sequence).unwrap_or(0);
                assert!(millis(SystemTime::now()) >= due.into(), "{sequence} came too soon");
                if delivery.ack_confirmed().await.is_ok() {
                    self.acked.insert(sequence);
                }
            }
            let info = bench.consumer.info().await.unwrap();
            if (info.pending, info.unsettled) == (0, 0) {
                break;
            }
        }
        let last = bench.log.info().await.unwrap().last_sequence;
        let done = self.acked.union(&self.maybe_acked).copied();
        assert!(done.collect::<BTreeSet<_>>() == (1..=last).collect(), "a message never came");
    }

    async fn check_delayed(&self, bench: &Bench) {
        let due = self.delayed.values().copied().max().unwrap_or(0);
        while millis(SystemTime::now()) <= u128::from(due) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let info = bench.later.info().await.unwrap();
        let mut reader = bench.later.reader(&[], Start::Beginning).await.unwrap();
        let mut came = BTreeMap::new();
        while came.len() < info.messages as usize {
            for read in reader.next(1000, PATIENCE).await.unwrap() {
                let body = String::from_utf8(read.payload.unwrap().to_vec()).unwrap();
                assert!(came.insert(body, millis(read.timestamp)).is_none(), "came twice");
            }
        }
        for (n, due) in &self.delayed {
            let came = came.get(n).unwrap_or_else(|| panic!("{n} never came"));
            assert!(*came >= u128::from(*due), "{n} came at {came}, was due at {due}");
        }
    }
}

/// What a unit moved is in the output once and not in the input any more.
async fn check_moved(bench: &Bench, moved: usize) {
    let bodies = async |stream: &bus::Stream| {
        let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
        let held = stream.info().await.unwrap().messages as usize;
        let mut bodies = Vec::new();
        while bodies.len() < held {
            let read = reader.next(1000, PATIENCE).await.unwrap();
            bodies.extend(read.into_iter().map(|message| message.payload.unwrap()));
        }
        bodies
    };
    let (input, output) = (bodies(&bench.input).await, bodies(&bench.output).await);
    let unique: BTreeSet<_> = output.iter().collect();
    assert_eq!(unique.len(), output.len(), "a unit was done twice");
    assert!(output.len() >= moved, "{moved} units were told, {} are there", output.len());
    let info = bench.mover.info().await.unwrap();
    let open = (info.pending + info.unsettled) as usize;
    assert_eq!(output.len() + open, input.len(), "a unit was done by half");
}

/// Starts a process, kills it after `delay`, and returns what it said.
fn run_and_kill(folder: &Path, policy: &str, delay: Duration) -> Said {
    let mut process = child::start(folder, policy);
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        let (mut said, mut line) = (Said::new(), String::new());
        while output.read_line(&mut line).unwrap() > 0 {
            // The first line of the test harness stands in front of the first of ours.
            let whole = line.strip_suffix('\n').and_then(|line| line.split_once('='));
            if let Some((_, whole)) = whole {
                let parts: Vec<_> = whole.split(' ').collect();
                said.push((parts[0].into(), parts[1].into(), parts[2].parse().unwrap()));
            }
            line.clear();
        }
        said
    });
    std::thread::sleep(delay);
    // SIGKILL on Unix.
    process.kill().unwrap();
    process.wait().unwrap();
    reading.join().unwrap()
}

async fn kill_again_and_again(policy: &str, mut seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, mut said) = (Ledger::default(), 0);
    for round in 0..ROUNDS {
        // A linear congruential generator: the same points on every run, as far as time allows.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let delay = Duration::from_millis(40 + (seed >> 33) % 400);
        let heard = run_and_kill(folder.path(), policy, delay);
        println!("round {round}: killed after {delay:?}, {} answers", heard.len());
        said += heard.len();
        ledger.take_in(heard);
        let bus = Bus::connect(&url(folder.path(), policy)).await.unwrap();
        ledger.check(&bus).await;
        bus.close().await.unwrap();
    }
    assert!(said > 100, "only {said} answers in all: nothing was tried");
    assert!(!ledger.acked.is_empty() && !ledger.delayed.is_empty() && !ledger.moved.is_empty());
}

#[tokio::test]
async fn what_a_killed_process_was_told_stands_synced_each_time() {
    kill_again_and_again("", 1).await;
}

#[tokio::test]
async fn what_a_killed_process_was_told_stands_synced_in_intervals() {
    kill_again_and_again("?sync=interval", 2).await;
}

#[tokio::test]
async fn a_folder_that_a_killed_process_made_and_barely_used_opens() {
    let folder = tempfile::tempdir().unwrap();
    for delay in [1, 3, 5, 8, 12, 16, 20, 25, 30, 40] {
        run_and_kill(folder.path(), "", Duration::from_millis(delay));
    }
    let bus = connect(folder.path()).await;
    Bench::open(&bus).await;
}
