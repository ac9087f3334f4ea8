//! What is particular to `kafka://`: its traps, its limits, a broker that dies.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used)]

use bus::testkit::KafkaBroker;

#[tokio::test]
async fn a_broker_comes_back_on_its_port_after_a_crash() {
    let mut broker = KafkaBroker::start().await.unwrap();
    let url = broker.url();
    broker.kill9();
    broker.restart().await.unwrap();
    assert_eq!(broker.url(), url);
    broker.stop().await.unwrap();
}
