//! Processes that are killed, stopped and woken while servers restart: afterwards everything is where
//! it belongs, once and in order.

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
/// Rounds of faults; `LOCKGATE_BRIDGE_ROUNDS` for more.
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

/// Kafka to the log and on to another topic, by two processes at a time, one of which always dies,
/// sleeps past its leases or loses a server.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_each_record_is_there_once_and_in_order() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = number("LOCKGATE_BRIDGE_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("LOCKGATE_BRIDGE_SEED").unwrap_or(7);
    println!("seed {seed}, {rounds} rounds");
    let mut dice = Dice(seed);
    // Servers of its own: they are restarted.
    let mut kafka = KafkaBroker::start().await.unwrap();
    let mut nats = NatsServer::start().await.unwrap();
    let (brokers, url) = (brokers(&kafka), nats.url());
    let (topic, copy, realm) = (unique("orders"), unique("copy"), unique("r"));
    make_topic(&brokers, &topic, 3).await;
    make_topic(&brokers, &copy, 2).await;
    let file = nats.store().with_file_name(format!("{}.toml", unique("bridges")));
    let routes = [
        route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), ""),
        route("out", &format!("{realm}.orders"), &format!("kafka:{copy}"), ""),
    ];
    std::fs::write(&file, format!("[kafka]\nbrokers = \"{brokers}\"\n{}", routes.concat()))
        .unwrap();

    let mut processes = vec![Process::start(&url, &file), Process::start(&url, &file)];
    let mut sleeping: Vec<Process> = Vec::new();
    let mut sent = 0;
    for round in 0..rounds {
        let records: Vec<Sent> =
            (sent..sent + EACH).map(|n| Sent::new(&format!("k{}", n % 17), n)).collect();
        sent += EACH;
        let (to, of) = (topic.clone(), brokers.clone());
        let sending = tokio::task::spawn_blocking(move || send(&of, &to, &records));
        tokio::time::sleep(Duration::from_millis(dice.below(3000))).await;
        // Whoever slept past everything wakes up and goes on as if nothing had been.
        sleeping.drain(..).for_each(|process| {
            process.signal("CONT");
            processes.push(process);
        });
        let victim = dice.below(processes.len() as u64) as usize;
        match round % 6 {
            2 => nats.restart().await.unwrap(),
            5 if round % 12 == 5 => kafka.restart().await.unwrap(),
            1 => {
                let process = processes.swap_remove(victim);
                process.signal("STOP");
                sleeping.push(process);
            }
            _ => processes.swap_remove(victim).kill9(),
        }
        while processes.len() < 2 {
            processes.push(Process::start(&url, &file));
        }
        while processes.len() > 3 {
            processes.swap_remove(0).kill9();
        }
        sending.await.unwrap();
    }
    sleeping.iter().for_each(|process| process.signal("CONT"));

    let world = World {
        _kafka: Arc::new(kafka),
        brokers,
        nats: None,
        logs: Arc::new(Declared(Bus::connect(&url).await.unwrap())),
    };
    let events = world.events(&realm, sent as usize).await;
    let parsed = |event: &bus::StoredMessage| {
        (event.key.clone().unwrap_or_default().to_vec(), text(event).parse().unwrap())
    };
    assert_once_in_order(events.iter().map(parsed), sent);
    let deadline = Instant::now() + super::world::PATIENCE;
    let records = loop {
        let (of, from) = (world.brokers.clone(), copy.clone());
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
    let kept = world.logs.log(&realm).await.unwrap().subjects(&reserved).await.unwrap();
    assert_eq!(kept.len(), 4, "{kept:?}");
    drop(processes);
    drop(nats);
}
