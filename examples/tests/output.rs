//! Runs every example on each bus and holds what it prints against what it should.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bus::testkit::{KafkaBroker, NatsServer};
use tokio::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(60);

const PUBLISH_AND_CONSUME: (&str, &str) = (
    env!("CARGO_BIN_EXE_1_publish_and_consume"),
    "\
order 41 is published
order 42 is published
order 42 is there already
order 43 is published
order 41 fails at its first attempt
order 42 is billed: 4200 cents, attempt 1
order 43 is billed: 4300 cents, attempt 1
order 41 is billed: 4100 cents, attempt 2
",
);

const KV_WATCH: (&str, &str) = (
    env!("CARGO_BIN_EXE_2_kv_watch"),
    "\
patient.7 = Anna, Berlin
patient.8 = Ben, Oslo
in step
someone was faster: nothing was written
patient.7 = Anna, Paris
patient.8 is deleted
",
);

const SUBSCRIBE: (&str, &str) = (
    env!("CARGO_BIN_EXE_3_subscribe"),
    "\
the state:
  anna {\"city\":\"Paris\"}
from here on, every change:
  cleo {\"city\":\"Rome\"}
  anna {\"city\":\"Vienna\"}
  cleo is deleted
",
);

const UNIT: (&str, &str) = (
    env!("CARGO_BIN_EXE_4_unit"),
    "\
2 bills for 1 order
0 orders are unsettled
",
);

const DELAY: (&str, &str) = (
    env!("CARGO_BIN_EXE_5_delay"),
    "\
good morning
two seconds later: take the pill
",
);

const PAUSE_AND_SEEK: (&str, &str) = (
    env!("CARGO_BIN_EXE_6_pause_and_seek"),
    "\
paused: 0 readings
resumed: 36.6 37.1 38.4
from the second: 37.1 38.4
",
);

const REQUEST_REPLY: (&str, &str) = (
    env!("CARGO_BIN_EXE_7_request_reply"),
    "\
nobody answers yet
aspirin: 7 packs
ibuprofen: out of stock
",
);

const TOPOLOGY: (&str, &str) = (
    env!("CARGO_BIN_EXE_8_topology"),
    "\
+ stream example-orders-log
+ consumer billing of example-orders-log
a second time: 0 changes
~ stream example-orders-log
    max-age: 7days -> 8days
refused: ! consumer billing of example-orders-log
    filters: [example.log.created] -> [example.log.paid] (fixed at creation)
",
);

const ORDER_PER_KEY: (&str, &str) = (
    env!("CARGO_BIN_EXE_9_order_per_key"),
    "\
anna: 1 2 3 4
ben: 1 2 3 4
cleo: 1 2 3 4
",
);

const DEAD_LETTERS: (&str, &str) = (
    env!("CARGO_BIN_EXE_10_dead_letters"),
    "\
today:
700 cents are paid
900 cents are paid
dead: number 2 after 1 attempts
dead: number 3 after 2 attempts
tomorrow, with refunds:
2 are handed out again
-1 cents are paid
",
);

const OBSERVE: (&str, &str) = (
    env!("CARGO_BIN_EXE_11_observe"),
    "\
the bill has the trace of its order: true
bus_published_total{stream=\"example-seen-in\"} 1
bus_published_total{stream=\"example-seen-out\"} 1
bus_settled_total{stream=\"example-seen-in\",consumer=\"billing\",how=\"acked\"} 1
",
);

const ON_DISK: (&str, &str) = (
    env!("CARGO_BIN_EXE_12_on_disk"),
    "\
wrote 2, read 1
went on with two
",
);

const MEDICINE: (&str, &str) = (
    env!("CARGO_BIN_EXE_13_medicine"),
    "\
2 orders are made, 33 tabs delivered
parked: 31 tabs: an order is of 1 to 30
",
);

const PROFILE: (&str, &str) = (
    env!("CARGO_BIN_EXE_14_profile"),
    "\
John is pregnant: true
since 2006-01-02T05:00:00.500000000Z
parked: UpdatedAt: \"three o'clock\" is no time such as 2023-08-14T01:11:45.105211+10:00
",
);

const ORDERS: (&str, &str) = (
    env!("CARGO_BIN_EXE_15_orders"),
    "\
900 cents to pay; repeated, it is the same: true
the URL is payment's: true
the payment is \"made\"
the journey:
  orderCreated
  paymentCreated
  paymentMade
  readyToShip
  shipping
  shipped
  delivered
texted and mailed at each of the 7 stages
",
);

/// The broker that the tests running now share, because it takes half a gigabyte; it ends with the
/// last of them.
static BROKER: Mutex<Weak<KafkaBroker>> = Mutex::const_new(Weak::new());

/// Members of a group learn of each other twice a second; the default is every five seconds.
const QUICK_GROUPS: &str = "group.consumer.min.heartbeat.interval.ms=500\n\
                            group.consumer.heartbeat.interval.ms=500";

async fn broker() -> Arc<KafkaBroker> {
    let mut shared = BROKER.lock().await;
    if let Some(broker) = shared.upgrade() {
        return broker;
    }
    let broker = Arc::new(KafkaBroker::start_with(QUICK_GROUPS).await.unwrap());
    *shared = Arc::downgrade(&broker);
    broker
}

async fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(Command::new(program));
    let output = command.args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(LIMIT, output).await.expect("it ends").unwrap()
}

async fn prints((program, expected): (&str, &str), arguments: &[&str]) {
    let output = run(program, arguments).await;
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}\n{stdout}");
    assert_eq!(stdout, expected, "{program} {arguments:?}: {stderr}");
}

/// Twice, because a server remembers the first run.
async fn prints_on_nats(example: (&str, &str)) {
    let server = NatsServer::start().await.unwrap();
    for _ in 0..2 {
        prints(example, &["--bus", &server.url()]).await;
    }
}

async fn prints_on_kafka(example: (&str, &str)) {
    let broker = broker().await;
    for _ in 0..2 {
        prints(example, &["--bus", &broker.url()]).await;
    }
}

/// An example that needs what Kafka does not have ends there, and names it.
async fn is_refused_by_kafka((program, _): (&str, &str), lacks: &str) {
    let broker = broker().await;
    let output = run(program, &["--bus", &broker.url()]).await;
    assert!(!output.status.success(), "{program}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&format!("{lacks}, which kafka:// cannot give")), "{stderr}");
}

/// A test of each example on each bus; one that names what Kafka lacks is refused there.
macro_rules! examples {
    ($($name:ident: $example:ident $(, kafka lacks $lacks:literal)?;)+) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::prints(super::$example, &[]).await;
            })+
        }
        mod nats {
            $(#[tokio::test]
            async fn $name() {
                super::prints_on_nats(super::$example).await;
            })+
        }
        mod kafka {
            $(#[tokio::test]
            async fn $name() {
                examples!(@on_kafka super::$example $(, $lacks)?).await;
            })+
        }
    };
    (@on_kafka $example:expr) => { super::prints_on_kafka($example) };
    (@on_kafka $example:expr, $lacks:literal) => { super::is_refused_by_kafka($example, $lacks) };
}

examples! {
    publish_and_consume: PUBLISH_AND_CONSUME, kafka lacks "de-duplication by id";
    kv_watch: KV_WATCH, kafka lacks "compare-and-set on keys";
    subscribe: SUBSCRIBE, kafka lacks "compare-and-set on keys";
    unit: UNIT;
    delay: DELAY;
    pause_and_seek: PAUSE_AND_SEEK;
    request_reply: REQUEST_REPLY, kafka lacks "request and reply";
    topology: TOPOLOGY;
    order_per_key: ORDER_PER_KEY;
    dead_letters: DEAD_LETTERS;
    observe: OBSERVE;
    medicine: MEDICINE;
    profile: PROFILE;
    orders: ORDERS;
}

#[tokio::test]
async fn on_disk() {
    prints(ON_DISK, &[]).await;
}

#[tokio::test]
async fn a_wrong_argument_is_answered_with_the_usage() {
    let output = Command::new(KV_WATCH.0).arg("nats://127.0.0.1:4222").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: [--bus"));
}
