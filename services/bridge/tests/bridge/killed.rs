//! Processes that are killed, stopped and woken while servers restart: afterwards everything is where
//! it belongs, once and in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bus::testkit::{KafkaBroker, NatsServer};
use bus::{Bus, SubjectFilter};
use lockgate_bridge::{Bridge, Bridges, Declared, Logs as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::foreign::{Sent, make_topic, read, send};
use super::world::{World, assert_once_in_order, brokers, route, text, unique};

const FILE: &str = "BRIDGE_TEST_FILE";
const BUS: &str = "BRIDGE_TEST_BUS";
const INSTANCE: &str = "BRIDGE_TEST_INSTANCE";
/// Rounds of faults; `LOCKGATE_BRIDGE_ROUNDS` for more, with the dice of `LOCKGATE_BRIDGE_SEED`.
const ROUNDS: u64 = 12;
/// Records of each round.
const EACH: u64 = 300;

/// A bridge in a process of its own: this test binary again, with one test to run.
struct Process(Child);

impl Process {
    fn start(bus: &str, file: &PathBuf) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "killed::a_bridge_in_a_process_of_its_own";
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(BUS, bus).env(FILE, file).env(INSTANCE, unique("child"));
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill9(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// `STOP` or `CONT`.
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// What the other process does; run by itself it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_in_a_process_of_its_own() {
    let Ok(url) = std::env::var(BUS) else { return };
    let bridges = Bridges::read(std::env::var(FILE).unwrap().as_ref()).unwrap();
    let bus = loop {
        match Bus::connect(&url).await {
            Ok(bus) => break bus,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let bridge = Bridge::new(bridges, Arc::new(Declared(bus)), std::env::var(INSTANCE).unwrap());
    lockgate_bridge::run(bridge, CancellationToken::new()).await.unwrap();
}

/// Steele, Lea and Flood's SplitMix64: the same faults for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// What happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A process is killed.
    Kill,
    /// A process is stopped until past its leases, and goes on as if nothing had been.
    Sleep,
    /// The NATS server is killed and started again.
    Nats,
    /// The broker is.
    Kafka,
    /// The broker answers nothing for a while.
    Freeze,
}

impl Fault {
    /// Each kind at its turn.
    fn of_round(round: u64) -> Self {
        match round % 12 {
            1 | 7 => Self::Sleep,
            2 | 8 => Self::Nats,
            5 => Self::Kafka,
            10 => Self::Freeze,
            _ => Self::Kill,
        }
    }

    fn random(dice: &mut Dice) -> Self {
        Self::of_round(dice.below(12))
    }
}

/// Servers of its own, and bridges on them that die.
struct Storm {
    kafka: KafkaBroker,
    nats: NatsServer,
    file: PathBuf,
    processes: Vec<Process>,
    sleeping: Vec<Process>,
    /// How often each happened.
    happened: BTreeMap<Fault, u32>,
}

impl Storm {
    async fn start() -> Self {
        let kafka = KafkaBroker::start().await.unwrap();
        let nats = NatsServer::start().await.unwrap();
        let file = nats.store().with_file_name(format!("{}.toml", unique("bridges")));
        let (processes, sleeping) = (Vec::new(), Vec::new());
        Self { kafka, nats, file, processes, sleeping, happened: BTreeMap::new() }
    }

    fn keep_two(&mut self) {
        while self.processes.len() < 2 {
            self.processes.push(Process::start(&self.nats.url(), &self.file));
        }
        while self.processes.len() > 3 {
            self.processes.swap_remove(0).kill9();
        }
    }

    fn wake(&mut self) {
        for process in self.sleeping.drain(..) {
            process.signal("CONT");
            self.processes.push(process);
        }
    }

    async fn fault(&mut self, fault: Fault, dice: &mut Dice) {
        *self.happened.entry(fault).or_default() += 1;
        let victim = dice.below(self.processes.len() as u64) as usize;
        match fault {
            Fault::Kill => self.processes.swap_remove(victim).kill9(),
            Fault::Sleep => {
                let process = self.processes.swap_remove(victim);
                process.signal("STOP");
                self.sleeping.push(process);
            }
            Fault::Nats => self.nats.restart().await.unwrap(),
            Fault::Kafka => self.kafka.restart().await.unwrap(),
            Fault::Freeze => {
                self.kafka.freeze().unwrap();
                tokio::time::sleep(Duration::from_millis(dice.below(8000))).await;
                self.kafka.thaw().unwrap();
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// Kafka to the log and on to another topic, by two processes at a time, one of which always dies,
/// sleeps past its leases or loses a server: in some rounds, or for `LOCKGATE_BRIDGE_MINUTES` of
/// whatever the dice say.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_each_record_is_there_once_and_in_order() {
    let minutes = number("LOCKGATE_BRIDGE_MINUTES").map(|m| Duration::from_secs(60 * m));
    let rounds = number("LOCKGATE_BRIDGE_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("LOCKGATE_BRIDGE_SEED").unwrap_or(7);
    println!("seed {seed}, {rounds} rounds, or {minutes:?}");
    let (mut dice, mut storm) = (Dice(seed), Storm::start().await);
    let (brokers, url) = (brokers(&storm.kafka), storm.nats.url());
    let (topic, copy, realm) = (unique("orders"), unique("copy"), unique("r"));
    make_topic(&brokers, &topic, 3).await;
    make_topic(&brokers, &copy, 2).await;
    let routes = [
        route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), ""),
        route("out", &format!("{realm}.orders"), &format!("kafka:{copy}"), ""),
    ];
    std::fs::write(&storm.file, format!("[kafka]\nbrokers = \"{brokers}\"\n{}", routes.concat()))
        .unwrap();
    storm.keep_two();

    let (begun, mut sent) = (Instant::now(), 0);
    let goes_on = |round| match minutes {
        Some(minutes) => begun.elapsed() < minutes,
        None => round < rounds,
    };
    for round in (0..).take_while(|round| goes_on(*round)) {
        let records: Vec<Sent> =
            (sent..sent + EACH).map(|n| Sent::new(&format!("k{}", n % 17), n)).collect();
        sent += EACH;
        let (to, of) = (topic.clone(), brokers.clone());
        let sending = tokio::task::spawn_blocking(move || send(&of, &to, &records));
        tokio::time::sleep(Duration::from_millis(dice.below(3000))).await;
        // Whoever slept past everything wakes up and goes on as if nothing had been.
        storm.wake();
        let fault = match minutes {
            Some(_) => Fault::random(&mut dice),
            None => Fault::of_round(round),
        };
        storm.fault(fault, &mut dice).await;
        storm.keep_two();
        sending.await.unwrap();
    }
    storm.wake();
    println!("{sent} records; {:?}", storm.happened);
    let Storm { kafka, processes, nats, .. } = storm;
    assert_all_is_there(kafka, &brokers, &url, [&realm, &copy], sent).await;
    drop(processes);
    drop(nats);
}

/// Everything once and in order per key in the log and in the topic behind it, and a position for
/// each partition.
async fn assert_all_is_there(
    kafka: KafkaBroker,
    brokers: &str,
    url: &str,
    [realm, copy]: [&str; 2],
    sent: u64,
) {
    let world = World {
        _kafka: Arc::new(kafka),
        brokers: brokers.to_owned(),
        nats: None,
        logs: Arc::new(Declared(Bus::connect(url).await.unwrap())),
    };
    let events = world.events(realm, sent as usize).await;
    let parsed = |event: &bus::StoredMessage| {
        (event.key.clone().unwrap_or_default().to_vec(), text(event).parse().unwrap())
    };
    assert_once_in_order(events.iter().map(parsed), sent);
    let deadline = Instant::now() + super::world::PATIENCE;
    let records = loop {
        let (of, from) = (world.brokers.clone(), copy.to_owned());
        let read = tokio::task::spawn_blocking(move || read(&of, &from, 0)).await.unwrap();
        if read.len() as u64 >= sent {
            break read;
        }
        assert!(Instant::now() < deadline, "{} of {sent} records in {copy}", read.len());
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let parsed =
        |sent: &Sent| (sent.key.clone().unwrap_or_default().to_vec(), sent.text().parse().unwrap());
    assert_once_in_order(records.iter().map(parsed), sent);
    // One position for each partition, and where it began.
    let reserved = SubjectFilter::new(format!("bridge.{realm}.>")).unwrap();
    let kept = world.logs.log(realm).await.unwrap().subjects(&reserved).await.unwrap();
    assert_eq!(kept.len(), 4, "{kept:?}");
}
