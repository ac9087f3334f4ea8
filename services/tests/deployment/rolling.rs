//! A rolling restart, as an upgrade does it: of each role a new process is ready before the old one is
//! told to go. Nothing is lost, nothing comes twice, and how late the latest event was is measured.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lockgate::client::{Client, StreamItem};
use lockgate::model::SubscriptionName;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use super::servers::{LIMIT, Servers};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";
const ROLES: [&str; 5] = ["registration", "events", "messages", "dispatcher", "prefill"];
const PAUSE: Duration = Duration::from_millis(25);
/// So many events are published between one restart and the next.
const BETWEEN: usize = 40;
/// On an idle machine the latest event is some seconds late, by the wait that the server asks
/// consumers for before they connect again. On a busy one nothing is decided by time.
const LATEST: Duration = Duration::from_secs(30);

/// When each event was first sent.
type Sent = Mutex<BTreeMap<u64, Instant>>;

/// Publishes numbered events until `stop`; returns how many.
async fn publish(fleet: &Fleet, sent: &Sent, stop: &CancellationToken) -> u64 {
    let mut number = 0;
    while !stop.is_cancelled() {
        sent.lock().expect("sent").insert(number, Instant::now());
        let event = json!({
            "specversion": "1.0", "id": number.to_string(), "source": "/test",
            "type": "directory.user", "subject": format!("k{}", number % 7), "data": number,
        });
        let started = Instant::now();
        while !(200..300).contains(&fleet.publish(&event).await) {
            assert!(started.elapsed() < LIMIT, "{}", fleet.logs());
            tokio::time::sleep(PAUSE).await;
        }
        number += 1;
        tokio::time::sleep(PAUSE).await;
    }
    number
}

/// Reads the stream as a client does, at whichever process serves now, until it has been told the
/// whole of what was published. Returns the numbers in their order, and the greatest delay.
async fn read(fleet: &Fleet, sent: &Sent, end: &Mutex<Option<u64>>) -> (Vec<u64>, Duration) {
    let name = SubscriptionName::new("people").expect("a name");
    let (mut seen, mut latest, mut resume) = (Vec::new(), Duration::ZERO, None);
    let started = Instant::now();
    loop {
        let client = Client::new(&fleet.url("messages"), None).expect("a client");
        let mut stream = client.subscriber(name.clone(), SECRET.to_owned()).events(resume.clone());
        loop {
            let done = |seen: &Vec<u64>| *end.lock().expect("end") == Some(seen.len() as u64);
            if done(&seen) {
                return (seen, latest);
            }
            assert!(started.elapsed() < 3 * LIMIT, "{} came\n{}", seen.len(), fleet.logs());
            let next = tokio::time::timeout(Duration::from_secs(1), stream.next()).await;
            match next {
                Err(_) => {}
                Ok(Ok(Some(StreamItem::Event(event)))) if event.event == "message" => {
                    let told: Value = serde_json::from_str(&event.data).expect("JSON");
                    let number = told["data"].as_u64().expect("a number");
                    let delay = sent.lock().expect("sent")[&number].elapsed();
                    latest = latest.max(delay);
                    seen.push(number);
                }
                Ok(Ok(Some(StreamItem::Event(_)))) => {}
                Ok(Ok(Some(StreamItem::Reconnecting { delay, .. }))) => {
                    resume = stream.resume().map(str::to_owned);
                    tokio::time::sleep(delay).await;
                    break;
                }
                Ok(ended) => panic!("the stream ended: {ended:?}\n{}", fleet.logs()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing_and_repeats_nothing() {
    let servers = Servers::start(&["single-tls.conf"]).await;
    let roles = ROLES.map(|role| (role, role));
    let fleet = Fleet::start(&servers, "1", &roles).await;
    let body = json!({"name": "people", "topics": ["directory.*"], "secret": SECRET});
    // The realm is there before the subscription, so that all of it is one live stream.
    let first = json!({
        "specversion": "1.0", "id": "first", "source": "/test", "type": "directory.user",
        "subject": "k", "data": 0,
    });
    let started = Instant::now();
    while !(200..300).contains(&fleet.publish(&first).await) {
        assert!(started.elapsed() < LIMIT, "{}", fleet.logs());
    }
    let (status, made) = fleet.post("registration", "/v1/subscriptions", "", &body).await;
    assert_eq!(status, 201, "{made}\n{}", fleet.logs());

    let (sent, end, stop) = (Sent::default(), Mutex::new(None), CancellationToken::new());
    let restarting = async {
        for role in ROLES {
            let old = fleet.replace(&servers, "1", role).await;
            let ended = tokio::time::timeout(LIMIT, old).await.expect("it drains in time");
            assert!(ended.success(), "{role} ended with {ended}\n{}", fleet.logs());
            // The next one goes when this one has been at work for a while.
            let count = || sent.lock().expect("sent").len();
            let (before, started) = (count(), Instant::now());
            while count() < before + BETWEEN {
                assert!(started.elapsed() < LIMIT, "{}", fleet.logs());
                tokio::time::sleep(PAUSE).await;
            }
        }
        stop.cancel();
    };
    let publishing = async {
        let count = publish(&fleet, &sent, &stop).await;
        *end.lock().expect("end") = Some(count);
        count
    };
    let ((), count, (seen, latest)) =
        tokio::join!(restarting, publishing, read(&fleet, &sent, &end));
    assert_eq!(seen, (0..count).collect::<Vec<_>>(), "each event once, in order");
    println!("{count} events while five roles were restarted, the latest {latest:?} late");
    assert!(latest < LATEST, "an event came {latest:?} after it was sent");
}
